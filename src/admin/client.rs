//! The client of the control API, on a unix socket and on TCP: for `remora ctl` and `remora top`.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// How long an answer may take. A reload reads files and binds addresses.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The most bytes of an answer that are read: a list of many thousand clients.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long connecting over TCP may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A connection to the admin listener of a balancer.
#[derive(Debug)]
pub struct Client {
    sender: http1::SendRequest<Full<Bytes>>,
    /// What names the listener in requests.
    host: String,
    /// The token, as the header has it.
    authorization: Option<HeaderValue>,
}

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
        Self::over(UnixStream::connect(path).await?, "localhost".to_owned(), None).await
    }

    /// Connects over TCP to `address`, a host or an IP address with a port. Every request carries `token`, if there is one.
    ///
    /// # Errors
    /// Nothing listens there, or the token cannot be in a header.
    pub async fn connect_tcp(address: &str, token: Option<&str>) -> io::Result<Self> {
        let bearer = token.map(|token| HeaderValue::try_from(format!("Bearer {token}")));
        let mut authorization = bearer.transpose().map_err(io::Error::other)?;
        if let Some(secret) = &mut authorization {
            secret.set_sensitive(true);
        }
        let socket = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await??;
        Self::over(socket, address.to_owned(), authorization).await
    }

    async fn over(
        socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        host: String,
        authorization: Option<HeaderValue>,
    ) -> io::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(io::Error::other)?;
        // This task ends with the connection, when the sender is dropped.
        tokio::spawn(connection);
        Ok(Self {
            sender,
            host,
            authorization,
        })
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
    pub async fn events(&mut self, target: &str, take: impl FnMut(&str) -> bool) -> io::Result<Result<(), Answer>> {
        let response = self.send(false, target, None).await?;
        Self::read_events(response, take).await
    }

    /// Asks for a change whose steps are server-sent events, and passes the data of each to `take` in the same way.
    ///
    /// # Errors
    /// The connection failed, or the answer is another one, which is the text.
    pub async fn steps(
        &mut self,
        target: &str,
        body: Option<String>,
        take: impl FnMut(&str) -> bool,
    ) -> io::Result<Result<(), Answer>> {
        let response = self.send(true, target, body).await?;
        Self::read_events(response, take).await
    }

    async fn read_events(
        response: Response<Incoming>,
        mut take: impl FnMut(&str) -> bool,
    ) -> io::Result<Result<(), Answer>> {
        /// More than any event has.
        const EVENT_BYTES_MAX: usize = 1 << 20;
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
        let mut request = Request::builder().method(method).uri(target).header(HOST, &self.host);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())));
        let request = request.map_err(io::Error::other)?;
        self.sender.send_request(request).await.map_err(io::Error::other)
    }
}
