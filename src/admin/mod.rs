//! What operators and their tools ask the process: is it alive, should it get clients, and its numbers.
//!
//! Reads only, changes nothing. Runs on control's thread, never on a worker's.

mod ask;
mod exposition;
mod process;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{self, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
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

use crate::descriptors::{self, Reserve};

pub use ask::{Health, health};
pub use exposition::{Facts, ListenerFacts, ProcessFacts, Reloads};

/// Where the process can be asked when the configuration does not say.
pub const ADDRESS_DEFAULT: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9883));

/// Who asks at once at most. One more ends the oldest: an answer takes milliseconds, so that is somebody who does not read
/// or has nothing to ask, and must not keep others from asking whether this process lives.
const CONNECTIONS_MAX: usize = 16;

/// How long a request's head may take.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// How long one connection may last: a scrape takes milliseconds, and a peer that does not read must go.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// How long one connection may last that has the last descriptor: whoever else asks waits meanwhile, and a probe has a second or
/// so for some who say nothing.
const LAST_CONNECTION_MAX: Duration = Duration::from_millis(200);

/// How long the listener pauses when the system has no descriptor for one more connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the process can be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Settings {
    /// At [`ADDRESS_DEFAULT`], or nowhere when that is taken.
    #[default]
    Default,
    /// Here, or the process does not start.
    At(SocketAddr),
    /// Nowhere.
    Off,
}

/// Binds the admin listener.
///
/// # Errors
/// The configured address cannot be had. That the default one is taken is only a warning.
pub fn bind(settings: &Settings) -> io::Result<Option<net::TcpListener>> {
    let bound = match settings {
        Settings::Off => return Ok(None),
        Settings::At(address) => net::TcpListener::bind(address)
            .map_err(|e| io::Error::new(e.kind(), format!("admin.address: {address}: {e}")))?,
        Settings::Default => match net::TcpListener::bind(ADDRESS_DEFAULT) {
            Ok(bound) => bound,
            Err(error) => {
                tracing::warn!(%error, address = %ADDRESS_DEFAULT, "no admin listener: set admin.address to have one");
                return Ok(None);
            }
        },
    };
    bound.set_nonblocking(true)?;
    Ok(Some(bound))
}

/// Answers for ever.
pub async fn serve(listener: net::TcpListener, facts: Arc<Facts>) {
    let made = TcpListener::from_std(listener).and_then(|made| Ok((made, Reserve::new()?)));
    let (listener, mut reserve) = match made {
        Ok(made) => made,
        Err(error) => {
            tracing::error!(%error, "no admin listener");
            return std::future::pending().await;
        }
    };
    let pages = Arc::new(Pages::new(facts));
    let mut answering: VecDeque<JoinHandle<()>> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        let accepted = listener.accept().await.ok().map(|(socket, _)| socket);
        let socket = match accepted {
            Some(socket) if !descriptors::is_reserve_lacking() => socket,
            // No descriptor is left, or the one that came with this caller is that which a door lacks.
            accepted => {
                if accepted.is_none() {
                    // Whoever stays and asks nothing keeps what others lack.
                    answering
                        .drain(..)
                        .for_each(|connection| connection.abort());
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

/// Answers one caller, `accepted` or who waits, with the descriptor of `reserve`; returns the reserve once it is whole again.
///
/// A reserve that was lent for as long as somebody asks would keep all clients out meanwhile. So it is given away, and made anew
/// of the very descriptor that the caller had, which nobody else can get in between.
async fn answer_with(
    reserve: Reserve,
    accepted: Option<TcpStream>,
    listener: &TcpListener,
    pages: &Pages,
) -> Reserve {
    let waiting = || match listener.poll_accept(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok((socket, _))) => Some(socket),
        _ => None,
    };
    let mut reserve = match reserve.give(|| accepted.or_else(waiting)) {
        Ok(mut socket) => {
            answer(&mut socket, pages, false, LAST_CONNECTION_MAX).await;
            close(socket, listener).unwrap_or_else(|_| Reserve::lacking())
        }
        // Nobody waits, or another thread was faster.
        Err(reserve) => {
            tokio::time::sleep(PAUSE).await;
            reserve
        }
    };
    // Not only at the next call: no client comes in before.
    while !reserve.take_back() {
        tokio::time::sleep(PAUSE).await;
    }
    reserve
}

/// Closes `socket`, and has something else by its descriptor at the same moment: `listener`, which is open in any case.
fn close(socket: TcpStream, listener: &TcpListener) -> io::Result<Reserve> {
    let mut descriptor = OwnedFd::from(socket.into_std()?);
    dup3(listener, &mut descriptor, DupFlags::CLOEXEC)?;
    Ok(descriptor.into())
}

/// Answers one caller.
async fn answer(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    pages: &Pages,
    keep_alive: bool,
    most: Duration,
) {
    let answer = service_fn(|request| {
        let response = pages.answer(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .keep_alive(keep_alive)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(socket), answer);
    // How somebody who asked hung up is nobody's business.
    let _ = tokio::time::timeout(most, connection).await;
}

/// What can be asked for.
struct Pages {
    facts: Arc<Facts>,
    registry: Registry,
}

impl Pages {
    fn new(facts: Arc<Facts>) -> Self {
        let mut registry = Registry::default();
        registry
            .sub_registry_with_prefix("remora")
            .register_collector(Box::new(Arc::clone(&facts)));
        registry.register_collector(Box::new(ProcessFacts));
        Self { facts, registry }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut response = match request.uri().path() {
            "/livez" | "/readyz" | "/metrics" if !is_read => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
            "/livez" => plain(StatusCode::OK, "alive\n"),
            "/readyz" => match self.facts.unready() {
                None => plain(StatusCode::OK, "ready\n"),
                Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/metrics" => self.metrics(request),
            _ => plain(
                StatusCode::NOT_FOUND,
                "there are /livez, /readyz and /metrics\n",
            ),
        };
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
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
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "cannot be written\n");
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
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
