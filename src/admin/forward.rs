//! The status page and the API of an admin socket on a port of this machine, for a browser: `remora ctl page`.
//!
//! The socket lets its user do everything, and every user of this machine reaches a port of loopback. So nothing but the empty page is
//! served without a secret that is made here and only printed: it is in the fragment of the page's URL, which browsers do not send.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1 as client;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;

use super::api::BODY_MAX;
use super::host::Hosts;
use super::tokens::Secret;

/// The most connections at a time. Those beyond wait to be accepted.
const CONNECTIONS_MAX: usize = 64;

/// How long a peer may take to send a request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// How long the balancer may take to begin its answer. A reload reads files and binds addresses.
const ANSWER_MAX: Duration = Duration::from_secs(30);

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// The page of an admin socket on a port.
#[derive(Debug)]
pub struct Forward {
    listener: TcpListener,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: PathBuf,
    hosts: Hosts,
    secret: Secret,
    /// The same, to be printed once.
    shown: String,
}

impl Forward {
    /// Binds this port of 127.0.0.1, or a free one if it is 0, for the admin socket at `socket`.
    ///
    /// # Errors
    /// The port cannot be bound, or the system has no random bytes.
    pub async fn bind(port: u16, socket: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let mut bytes = [0; 16];
        getrandom(&mut bytes, GetRandomFlags::empty())?;
        let shown = format!("{:032x}", u128::from_ne_bytes(bytes));
        let secret = Secret::of_file(shown.as_bytes()).map_err(|_| io::Error::other("no random bytes"))?;
        Ok(Self {
            listener,
            inner: Arc::new(Inner {
                socket: socket.to_owned(),
                hosts: Hosts::new(Vec::new()),
                secret,
                shown,
            }),
        })
    }

    /// The address of the page, with the secret in it.
    ///
    /// # Errors
    /// The system does not say where the port is.
    pub fn url(&self) -> io::Result<String> {
        let address: SocketAddr = self.listener.local_addr()?;
        Ok(format!("http://{address}/#token={}", self.inner.shown))
    }

    /// Serves for ever.
    pub async fn run(self) {
        /// Until a descriptor is free again.
        const PAUSE: Duration = Duration::from_millis(50);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // It is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let inner = Arc::clone(&self.inner);
            tokio::spawn(async move {
                serve(stream, &inner).await;
                drop(place);
            });
        }
    }
}

async fn serve(stream: TcpStream, inner: &Inner) {
    let answer = service_fn(|request| async move { Ok::<_, Infallible>(inner.answer(request).await) });
    let connection = server::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .max_buf_size(16 * 1024)
        // As at the admin listener.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), answer);
    // How the connection ended does not matter.
    let _ = connection.await;
}

impl Inner {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if !self.hosts.allow(&request) {
            return refused(
                StatusCode::MISDIRECTED_REQUEST,
                "unknown Host: use localhost or 127.0.0.1",
            );
        }
        let has_secret = shown(request.headers()).is_some_and(|shown| self.secret.is(shown));
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let target = match request.uri().path() {
            // The page without anything in it, which asks for the secret.
            "/" if is_read && !has_secret => "/?closed".to_owned(),
            _ if !has_secret => {
                let error =
                    "send the token of the URL that `remora ctl page` has printed, as `Authorization: Bearer TOKEN`";
                return refused(StatusCode::UNAUTHORIZED, error);
            }
            path => request
                .uri()
                .path_and_query()
                .map_or(path.to_owned(), |target| target.as_str().to_owned()),
        };
        match tokio::time::timeout(ANSWER_MAX, self.ask(request, &target)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let error = format!("{} does not answer: {error}", self.socket.display());
                refused(StatusCode::BAD_GATEWAY, &error)
            }
            Err(_) => refused(StatusCode::GATEWAY_TIMEOUT, "no answer in time"),
        }
    }

    /// Passes a request on, without anything that was only for this port, and returns the answer as it comes.
    async fn ask(&self, request: Request<Incoming>, target: &str) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await.map_err(io::Error::other)?;
        let mut passed = Request::builder()
            .method(head.method)
            .uri(target)
            .header(HOST, "localhost");
        for name in [ACCEPT, CONTENT_TYPE] {
            if let Some(value) = head.headers.get(&name) {
                passed = passed.header(name, value);
            }
        }
        let passed = passed.body(Full::new(body.to_bytes())).map_err(io::Error::other)?;
        let socket = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = client::handshake(TokioIo::new(socket))
            .await
            .map_err(io::Error::other)?;
        // Ends with the answer's body, when that is dropped.
        tokio::spawn(connection);
        let mut response = sender.send_request(passed).await.map_err(io::Error::other)?;
        for name in [CONNECTION, TRANSFER_ENCODING] {
            response.headers_mut().remove(name);
        }
        Ok(response.map(BodyExt::boxed_unsync))
    }
}

/// The token that a request shows.
fn shown(headers: &HeaderMap) -> Option<&[u8]> {
    let field = headers.get(AUTHORIZATION)?.as_bytes();
    field.strip_prefix(b"Bearer ")
}

/// An answer in the form of the API's.
fn refused(status: StatusCode, error: &str) -> Response<Body> {
    let body = serde_json::json!({ "error": error }).to_string();
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
