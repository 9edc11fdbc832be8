//! One request of the API on its way to a handler, and what the handler returns.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::body::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answers;
use super::asked::Asked;
use super::reader::Reader;
use crate::admin::body::Body;
use crate::admin::peer::By;
use crate::admin::percent::unescaped;
use crate::process::handle::Handle;

/// A request.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) handle: Handle,
    /// The values of the route's parameters, such as `{name}`, in order.
    pub(super) parameters: Vec<String>,
    /// What follows the `?`, as it was sent.
    pub(super) query: String,
    pub(super) body: Bytes,
    /// Who asks.
    pub(super) by: By,
    /// Whether it may change something.
    pub(super) may_change: bool,
    /// What the peers have answered.
    pub(super) asked: Arc<Asked>,
}

/// What a handler returns.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Reply, Refusal>> + Send>>;

/// An answer with status 200.
#[derive(Debug)]
pub(super) enum Reply {
    /// A body of JSON.
    Json(Vec<u8>),
    /// Events as they come, for this reader.
    Events(Body, Arc<Reader>),
    /// The steps of something, as events, until it is over.
    Steps(Body),
}

/// An answer that says what was refused, and what would do.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) answer: Box<answers::Refused>,
    /// The methods that the path takes.
    pub(super) allow: Option<&'static str>,
}

impl Call {
    /// The value of the route's first parameter.
    pub(super) fn name(&self) -> &str {
        self.parameters.first().map_or("", String::as_str)
    }

    /// The client id of a route with `{id}`: any bytes.
    pub(super) fn id(&self) -> Vec<u8> {
        unescaped(self.name()).into_vec()
    }

    /// The fields of the query: texts, still percent-encoded.
    pub(super) fn fields<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty());
        let fields = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), Value::from(value))
        });
        serde_json::from_value(Value::Object(fields.collect())).map_err(|error| {
            let error = format!("the query is not what this path takes: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, error)
        })
    }

    /// The body as JSON.
    pub(super) fn body<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let error = format!("the body is not the JSON that this path takes: {error}");
            Refusal::new(StatusCode::BAD_REQUEST, error)
        })
    }

    /// The body as JSON; without one, the default.
    pub(super) fn body_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Refusal> {
        match self.body.iter().all(u8::is_ascii_whitespace) {
            true => Ok(T::default()),
            false => self.body(),
        }
    }

    /// The value of a key of the query, if it is there; `expected` says what it should be.
    pub(super) fn query<T: FromStr>(&self, key: &str, expected: &str) -> Result<Option<T>, Refusal> {
        let mut pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let Some((_, value)) = pairs.rfind(|(name, _)| *name == key) else {
            return Ok(None);
        };
        value.parse().map(Some).map_err(|_| {
            let error = format!("{key} in the query is {expected}");
            Refusal::new(StatusCode::BAD_REQUEST, error)
        })
    }

    /// Logs a change that was made: what, of which node, and by whom.
    pub(super) fn log_change(&self, change: &str, node: Option<&str>) {
        tracing::info!(change, node, by = %self.by, "changed by the control API");
    }
}

impl Reply {
    pub(super) fn json(answer: &impl Serialize) -> Result<Self, Refusal> {
        serde_json::to_vec(answer)
            .map(Self::Json)
            .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let answer = answers::Refused {
            error: error.into(),
            problems: Vec::new(),
            report: None,
        };
        Self::with(status, answer)
    }

    pub(super) fn with(status: StatusCode, answer: answers::Refused) -> Self {
        Self {
            status,
            answer: Box::new(answer),
            allow: None,
        }
    }

    pub(super) fn allow(self, methods: &'static str) -> Self {
        Self {
            allow: Some(methods),
            ..self
        }
    }

    pub(super) fn body(&self) -> Vec<u8> {
        // Strings and lists of strings always serialize.
        serde_json::to_vec(&self.answer).unwrap_or_default()
    }
}

/// What a handle could not do: a name that is not there, a value out of range, or the process is ending.
impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let status = match error.kind() {
            io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
            io::ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
            io::ErrorKind::Unsupported => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, error.to_string())
    }
}
