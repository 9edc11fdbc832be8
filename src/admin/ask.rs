//! Queries a running balancer's `/readyz`: `remora health`, for containers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::identity::Identity;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// A balancer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether it should get clients.
    pub ready: bool,
    /// The text of the answer: `ready`, or why not.
    pub text: String,
    /// Which process answers; `None` if it does not say, and so is no Remora.
    pub identity: Option<Identity>,
}

/// Queries the balancer whose admin listener is at `address`.
///
/// # Errors
/// The connection failed, no answer arrived in time, or it was not HTTP.
pub async fn health(address: SocketAddr) -> io::Result<Health> {
    tokio::time::timeout(ANSWER_MAX, ask(address))
        .await
        .unwrap_or_else(|elapsed| Err(elapsed.into()))
}

async fn ask(address: SocketAddr) -> io::Result<Health> {
    let socket = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
    // This task ends with the answer or at the timeout, when `sender` is dropped.
    tokio::spawn(connection);
    let request = Request::get("/readyz")
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let ready = response.status() == StatusCode::OK;
    let identity = Identity::read(response.headers());
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(io::Error::other)?;
    let text = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
    Ok(Health { ready, text, identity })
}
