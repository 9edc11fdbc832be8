//! The client of the control API on a unix socket: `remora ctl`.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

/// How long an answer may take. A reload reads files and binds addresses.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The most bytes of an answer that are read: a list of many thousand clients.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection to the admin socket of a balancer.
#[derive(Debug)]
pub struct Client(http1::SendRequest<Full<Bytes>>);

/// An answer, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status: 200 and above are fine, from 400 on the body says what was refused.
    pub status: u16,
    /// The body, as JSON.
    pub body: Vec<u8>,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// No process listens there, or it may not be used by this user.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(path).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        // This task ends with the connection, when the sender is dropped.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends a request with a body of JSON, or without one, and waits for the whole answer.
    ///
    /// # Errors
    /// The connection failed, no answer arrived in time, or it was too large.
    pub async fn request(&mut self, is_change: bool, target: &str, body: Option<String>) -> io::Result<Answer> {
        let asked = async {
            let response = self.send(is_change, target, body).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
            let body = body.collect().await.map_err(io::Error::other)?;
            Ok(Answer {
                status,
                body: body.to_bytes().to_vec(),
            })
        };
        tokio::time::timeout(ANSWER_MAX, asked)
            .await
            .unwrap_or_else(|elapsed| Err(elapsed.into()))
    }

    async fn send(&mut self, is_change: bool, target: &str, body: Option<String>) -> io::Result<Response<Incoming>> {
        let method = if is_change { Method::POST } else { Method::GET };
        let request = Request::builder().method(method).uri(target).header(HOST, "localhost");
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())));
        let request = request.map_err(io::Error::other)?;
        self.0.send_request(request).await.map_err(io::Error::other)
    }
}
