//! Asks a running balancer whether it is ready: `remora health`, for containers.

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

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What is read of an answer at most.
const ANSWER_BYTES_MAX: usize = 4 * 1024;

/// What a balancer said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// It should get clients.
    pub ready: bool,
    /// Why, or why not.
    pub says: String,
}

/// Asks the balancer whose admin listener is at `address`.
///
/// # Errors
/// Nobody is there, or nobody who speaks HTTP.
pub async fn health(address: SocketAddr) -> io::Result<Health> {
    tokio::time::timeout(ANSWER_MAX, ask(address))
        .await
        .unwrap_or_else(|elapsed| Err(elapsed.into()))
}

async fn ask(address: SocketAddr) -> io::Result<Health> {
    let socket = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .map_err(io::Error::other)?;
    // It ends with the answer, or with the time for it.
    tokio::spawn(connection);
    let request = Request::get("/readyz")
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender
        .send_request(request)
        .await
        .map_err(io::Error::other)?;
    let ready = response.status() == StatusCode::OK;
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(io::Error::other)?;
    let says = String::from_utf8_lossy(&body.to_bytes()).trim().to_owned();
    Ok(Health { ready, says })
}
