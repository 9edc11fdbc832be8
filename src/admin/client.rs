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

    /// Asks for a stream of server-sent events, and passes the data of each to `take` until it returns false or the stream ends.
    ///
    /// # Errors
    /// The connection failed, or the answer is another one, which is the text.
    pub async fn events(&mut self, target: &str, mut take: impl FnMut(&str) -> bool) -> io::Result<Result<(), Answer>> {
        /// More than any event has.
        const EVENT_BYTES_MAX: usize = 1 << 20;
        let response = self.send(false, target, None).await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut text = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(io::Error::other)?;
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while status < 400
                && let Some(end) = text.iter().position(|byte| *byte == b'\n')
            {
                let line: Vec<u8> = text.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some(data) = line.trim_end().strip_prefix("data: ")
                    && !take(data)
                {
                    return Ok(Ok(()));
                }
            }
            if text.len() > EVENT_BYTES_MAX {
                return Err(io::Error::other("an event is too large"));
            }
        }
        match status < 400 {
            true => Ok(Ok(())),
            false => Ok(Err(Answer { status, body: text })),
        }
    }

    async fn send(&mut self, is_change: bool, target: &str, body: Option<String>) -> io::Result<Response<Incoming>> {
        let method = if is_change { Method::POST } else { Method::GET };
        let request = Request::builder().method(method).uri(target).header(HOST, "localhost");
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())));
        let request = request.map_err(io::Error::other)?;
        self.0.send_request(request).await.map_err(io::Error::other)
    }
}
