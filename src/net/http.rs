//! One GET over HTTP/1.1 to a peer's API, on a connection of its own. Head, body and time are bounded; what the answer means is up to
//! the caller.

use std::fmt;
use std::pin::pin;
use std::time::SystemTime;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, DATE, HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::dial::Dialer;
use super::node::NodeError;
use crate::cluster::Endpoint;

/// The most bytes of an answer's head, with what arrives together with it.
const HEAD_MAX: usize = 16 * 1024;

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct Get<'a> {
    /// The field Host.
    pub host: &'a str,
    /// The path, with its query.
    pub path: &'a str,
    /// The field Authorization.
    pub authorization: Option<&'a str>,
    /// The most bytes of the body.
    pub body_max: usize,
    /// When the whole answer must have been read.
    pub due: Instant,
}

/// An answer, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The time by the peer's clock, if it says so.
    pub date: Option<SystemTime>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum HttpError {
    /// No connection, or no TLS.
    Connect(NodeError),
    /// The request cannot be written.
    Request(hyper::http::Error),
    /// The answer is not HTTP, or ends too early.
    Protocol(hyper::Error),
    /// The body could not be read.
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The body is longer than so many bytes.
    TooLong(usize),
    /// It took too long.
    TimedOut,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => error.fmt(f),
            Self::Request(error) => write!(f, "invalid request: {error}"),
            Self::Protocol(error) => write!(f, "invalid HTTP: {error}"),
            Self::Body(error) => write!(f, "invalid body: {error}"),
            Self::TooLong(most) => write!(f, "the answer is longer than {most} bytes"),
            Self::TimedOut => f.write_str("no answer in time"),
        }
    }
}

impl std::error::Error for HttpError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Connect(error) => Some(error),
            Self::Request(error) => Some(error),
            Self::Protocol(error) => Some(error),
            Self::Body(error) => Some(&**error),
            Self::TooLong(_) | Self::TimedOut => None,
        }
    }
}

/// Asks the first address of `endpoint` that can be reached, with TLS if it has it. Redirects are answers like all others.
///
/// # Errors
/// There was no connection, or no whole answer in time.
pub async fn get(dialer: &Dialer, endpoint: &Endpoint, get: &Get<'_>) -> Result<Response, HttpError> {
    let answer = tokio::time::timeout_at(get.due, ask(dialer, endpoint, get)).await;
    answer.unwrap_or(Err(HttpError::TimedOut))
}

async fn ask(dialer: &Dialer, endpoint: &Endpoint, get: &Get<'_>) -> Result<Response, HttpError> {
    let dialed = dialer.dial(endpoint, &[], &[], Some(get.due)).await;
    let dialed = dialed.map_err(|error| HttpError::Connect(error.into()))?;
    let mut request = Request::get(get.path)
        .header(HOST, get.host)
        .header(ACCEPT, "application/json, */*")
        .header(USER_AGENT, "remora")
        .header(CONNECTION, "close");
    if let Some(authorization) = get.authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(HttpError::Request)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .handshake(TokioIo::new(dialed.socket))
        .await
        .map_err(HttpError::Protocol)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(HttpError::Protocol)?;
        let status = response.status().as_u16();
        let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        let body = Limited::new(response.into_body(), get.body_max).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => HttpError::TooLong(get.body_max),
            false => HttpError::Body(error),
        })?;
        Ok(Response {
            status,
            date,
            body: body.to_bytes().into(),
        })
    };
    // The connection runs while the answer is awaited, and ends with it.
    let (mut answer, mut connection) = (pin!(answer), pin!(connection));
    tokio::select! {
        answer = &mut answer => answer,
        // What it has read goes to the answer.
        _ = &mut connection => answer.await,
    }
}
