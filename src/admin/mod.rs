//! The HTTP listener for operators: whether the process is alive, whether it is ready for clients, and its metrics.
//!
//! Read-only. Runs on control's thread, never on a worker's.

mod ask;
mod exposition;
mod host;
mod identity;
mod node_series;
mod page;
mod process;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{self, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;
use rustix::io::{DupFlags, dup3};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::net::descriptors::{self, Reserve};
use exposition::Unready;

pub use ask::{Health, health};
pub(crate) use exposition::ProcessState;
pub use exposition::{AdminState, Reloads};
use host::Hosts;
pub use identity::Identity;

/// The address of the admin listener if the configuration names none.
pub const ADDRESS_DEFAULT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9883));

/// The most connections at a time. One more closes the oldest: an answer takes milliseconds, so the oldest peer does not read or
/// sends no request, and must not block health checks.
const CONNECTIONS_MAX: usize = 16;

/// How long a peer may take to send a request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// How long a connection may last. A scrape takes milliseconds; a peer that does not read must be closed.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// How long a connection may last that uses the reserved descriptor. All other peers wait for it, and a health check with a timeout
/// of a second must still be answered if a few peers before it send nothing.
const LAST_CONNECTION_MAX: Duration = Duration::from_millis(200);

/// How long the listener pauses if no descriptor is left for a connection.
const PAUSE: Duration = Duration::from_millis(50);

/// How long `/readyz` waits for the nodes' answers to probes: those who ask often give up after a second.
const PROBES_MAX: Duration = Duration::from_millis(800);

/// What is said to a request for another host.
const UNKNOWN_HOST: &str =
    "unknown Host: use an IP address of this machine or localhost, or add the name to hosts in [admin]\n";

/// The admin listener, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where it is.
    pub address: Address,
    /// Host names that requests may call it by, besides IP addresses and `localhost`.
    pub hosts: Vec<String>,
    /// The file of this configuration, by an absolute path: what `remora health` knows its process by. `None` without a file.
    pub configuration: Option<PathBuf>,
}

/// The address of the admin listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Address {
    /// [`ADDRESS_DEFAULT`]; if that is taken, there is no admin listener.
    #[default]
    Default,
    /// This address; if it cannot be bound, the process does not start.
    At(SocketAddr),
    /// No admin listener.
    Off,
}

/// The bound admin listener.
#[derive(Debug)]
pub struct Listener {
    socket: net::TcpListener,
    hosts: Hosts,
    identity: Identity,
}

impl Listener {
    /// Where it is bound.
    ///
    /// # Errors
    /// The system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// Binds the admin listener.
///
/// # Errors
/// The configured address cannot be bound. If the default one cannot be bound, that is only a warning.
pub fn bind(settings: &Settings) -> io::Result<Option<Listener>> {
    let socket = match &settings.address {
        Address::Off => return Ok(None),
        Address::At(address) => net::TcpListener::bind(address)?,
        Address::Default => match net::TcpListener::bind(ADDRESS_DEFAULT) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, address = %ADDRESS_DEFAULT, "no admin listener; set admin.address to have one");
                return Ok(None);
            }
        },
    };
    socket.set_nonblocking(true)?;
    Ok(Some(Listener {
        socket,
        hosts: Hosts::new(settings.hosts.clone()),
        identity: Identity::of_this_process(settings.configuration.clone()),
    }))
}

/// Serves requests for ever.
pub async fn serve(listener: Listener, facts: Arc<AdminState>) {
    let Listener {
        socket,
        hosts,
        identity,
    } = listener;
    let made = TcpListener::from_std(socket).and_then(|made| Ok((made, Reserve::new()?)));
    let (listener, mut reserve) = match made {
        Ok(made) => made,
        Err(error) => {
            tracing::error!(%error, "no admin listener");
            return std::future::pending().await;
        }
    };
    let pages = Arc::new(Pages::new(facts, hosts, identity));
    let mut answering: VecDeque<JoinHandle<()>> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        let accepted = listener.accept().await.ok().map(|(socket, _)| socket);
        let socket = match accepted {
            Some(socket) if !descriptors::is_reserve_lacking() => socket,
            // No descriptor is left, or a listener's reserve needs the one that was accepted.
            accepted => {
                if accepted.is_none() {
                    // Idle connections hold descriptors that others need.
                    answering.drain(..).for_each(|connection| connection.abort());
                }
                reserve = answer_with(reserve, accepted, &listener, &pages).await;
                continue;
            }
        };
        answering.retain(|connection| !connection.is_finished());
        if answering.len() == CONNECTIONS_MAX
            && let Some(oldest) = answering.pop_front()
        {
            oldest.abort();
        }
        let pages = Arc::clone(&pages);
        answering.push_back(tokio::spawn(async move {
            answer(socket, &pages, true, CONNECTION_MAX).await;
        }));
    }
}

/// Answers one peer, `accepted` or the next one in the backlog, with the descriptor of `reserve`. Returns the reserve once it has
/// its descriptor again.
///
/// If the reserve were lent for as long as the request takes, no client could be accepted meanwhile. So its descriptor is given
/// away, and the new reserve is made from the peer's descriptor itself, which no other thread can get in between.
async fn answer_with(reserve: Reserve, accepted: Option<TcpStream>, listener: &TcpListener, pages: &Pages) -> Reserve {
    let waiting = || match listener.poll_accept(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok((socket, _))) => Some(socket),
        _ => None,
    };
    let mut reserve = match reserve.give(|| accepted.or_else(waiting)) {
        Ok(mut socket) => {
            answer(&mut socket, pages, false, LAST_CONNECTION_MAX).await;
            close(socket, listener).unwrap_or_else(|_| Reserve::lacking())
        }
        // No peer is waiting, or another thread took the descriptor.
        Err(reserve) => {
            tokio::time::sleep(PAUSE).await;
            reserve
        }
    };
    // At once, not only at the next call: until then no client is accepted.
    while !reserve.take_back() {
        tokio::time::sleep(PAUSE).await;
    }
    reserve
}

/// Closes `socket` and in the same step (dup3) lets its descriptor refer to `listener`, which is open in any case.
fn close(socket: TcpStream, listener: &TcpListener) -> io::Result<Reserve> {
    let mut descriptor = OwnedFd::from(socket.into_std()?);
    dup3(listener, &mut descriptor, DupFlags::CLOEXEC)?;
    Ok(descriptor.into())
}

/// Serves one connection, for `most` at most.
async fn answer(socket: impl AsyncRead + AsyncWrite + Unpin, pages: &Pages, keep_alive: bool, most: Duration) {
    let answer = service_fn(|request| async move { Ok::<_, Infallible>(pages.answer(request).await) });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .keep_alive(keep_alive)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(socket), answer);
    // How the connection ended does not matter.
    let _ = tokio::time::timeout(most, connection).await;
}

/// The pages that are served.
struct Pages {
    hosts: Hosts,
    identity: Identity,
    facts: Arc<AdminState>,
    registry: Registry,
}

impl Pages {
    fn new(facts: Arc<AdminState>, hosts: Hosts, identity: Identity) -> Self {
        let mut registry = Registry::default();
        registry
            .sub_registry_with_prefix("remora")
            .register_collector(Box::new(Arc::clone(&facts)));
        registry.register_collector(Box::new(ProcessState));
        Self {
            hosts,
            identity,
            facts,
            registry,
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut response = match request.uri().path() {
            _ if !self.hosts.allow(&request) => plain(StatusCode::MISDIRECTED_REQUEST, UNKNOWN_HOST),
            "/livez" | "/readyz" | "/metrics" if !is_read => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
            "/livez" => match self.facts.stuck() {
                None => plain(StatusCode::OK, "alive\n"),
                Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/readyz" => {
                let mut response = match self.unready().await {
                    None => plain(StatusCode::OK, "ready\n"),
                    Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
                };
                self.identity.write(response.headers_mut());
                response
            }
            "/metrics" => self.metrics(&request),
            _ => plain(
                StatusCode::NOT_FOUND,
                "not found; there are /livez, /readyz and /metrics\n",
            ),
        };
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// Why this balancer should get no new clients. Waits for the nodes' answers to probes if no node has ever answered.
    async fn unready(&self) -> Option<Unready> {
        let due = Instant::now() + PROBES_MAX;
        loop {
            let unready = self.facts.unready();
            if unready != Some(Unready::NoAnswer) {
                return unready;
            }
            let asked = tokio::time::timeout_at(due, self.facts.control.ask_unknown()).await;
            if !matches!(asked, Ok(Ok(true))) {
                return self.facts.unready();
            }
        }
    }

    fn metrics(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let open_metrics = request
            .headers()
            .get_all(ACCEPT)
            .iter()
            .filter_map(|accept| accept.to_str().ok())
            .any(|accept| accept.contains("application/openmetrics-text"));
        let mut page = String::new();
        let (written, content_type) = if open_metrics {
            (
                text::encode(&mut page, &self.registry),
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )
        } else {
            (
                prometheus_text::encode(&mut page, &self.registry),
                "text/plain; version=0.0.4; charset=utf-8",
            )
        };
        if written.is_err() {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded\n");
        }
        let mut response = Response::new(page.into());
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
