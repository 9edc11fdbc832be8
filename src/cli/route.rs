//! What `remora route` answers: which node a client belongs to, why, and which ones come next.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;

use serde::{Serialize, Serializer};

use remora::cluster::Decision;
use remora::config::Config;
use remora::log::Shown;
use remora::route::Key;

use super::{columns, key_text, ring};

/// The answers, in the order of the ids.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Answers<'a> {
    answers: Vec<Answer<'a>>,
    #[serde(skip)]
    key: Key,
}

/// Where one client goes.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(serialize_with = "as_text")]
    id: &'a OsStr,
    /// None where no node is the client's own.
    node: Option<&'a str>,
    #[serde(serialize_with = "by_name")]
    why: Decision,
    /// The other nodes, in the order in which the client would be taken there.
    next: Vec<&'a str>,
}

/// An id that this configuration does not route by.
#[derive(Debug)]
pub(super) enum NotAKey {
    /// Clients are routed by address, and this is none.
    NotAnAddress(OsString),
    /// Clients are routed by user name; those without one are routed by client id.
    NoUsername,
    /// Without a certificate, a client is routed by its client id, which is not asked for here.
    NoCommonName,
}

/// Where the clients with these ids go.
pub(super) fn answers<'a>(config: &'a Config, ids: &'a [OsString]) -> Result<Answers<'a>, NotAKey> {
    let ring = ring(config);
    let key = config.affinity.key;
    let answer = |id: &'a OsString| {
        let bytes = key_bytes(key, id)?;
        if bytes.is_empty() {
            return Ok(Answer {
                id,
                node: None,
                why: Decision::Anonymous,
                next: Vec::new(),
            });
        }
        let mut nodes = ring
            .choices(ring.hash(&bytes))
            .map(|choice| &*config.nodes[choice].name);
        Ok(Answer {
            id,
            node: nodes.next(),
            why: Decision::Home,
            next: nodes.collect(),
        })
    };
    let answers = ids.iter().map(answer).collect::<Result<_, _>>()?;
    Ok(Answers { answers, key })
}

impl Answers<'_> {
    pub(super) fn json(&self) -> String {
        // Strings and lists of strings: nothing that could fail to be JSON.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    pub(super) fn text(&self) -> String {
        let rows: Vec<_> = self.answers.iter().map(|answer| self.row(answer)).collect();
        columns("", &rows)
    }

    fn row(&self, answer: &Answer<'_>) -> Vec<String> {
        /// A client is taken to three nodes at most, its own included.
        const NEXT_MAX: usize = 2;
        let Answer {
            id,
            node,
            why,
            next,
        } = answer;
        let why = match node {
            Some(_) => format!("{} on the ring by {}", why.name(), key_text(self.key)),
            None => format!("{}: the less loaded of two drawn by weight", why.name()),
        };
        let next = match &next[..next.len().min(NEXT_MAX)] {
            [] => String::new(),
            next => format!("next {}", next.join(", ")),
        };
        let id = match id.as_bytes() {
            [] => "\"\"".to_owned(),
            id => Shown(id).to_string(),
        };
        vec![id, node.unwrap_or("any").to_owned(), why, next]
    }
}

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnAddress(id) => write!(
                f,
                "\"{}\" is not an IP address, and clients are routed by client address here",
                Shown(id.as_bytes())
            ),
            Self::NoCommonName => write!(
                f,
                "clients are routed by their certificate's common name here, and those without one by their client id"
            ),
            Self::NoUsername => write!(
                f,
                "clients are routed by user name here, and those without one by their client id"
            ),
        }
    }
}

impl Error for NotAKey {}

/// What the ring hashes; empty for an anonymous client.
fn key_bytes(key: Key, id: &OsStr) -> Result<Vec<u8>, NotAKey> {
    let not_an_address = || NotAKey::NotAnAddress(id.to_owned());
    match key {
        Key::Username if id.is_empty() => Err(NotAKey::NoUsername),
        Key::CertificateCn if id.is_empty() => Err(NotAKey::NoCommonName),
        Key::ClientId | Key::Username | Key::CertificateCn => Ok(id.as_bytes().to_vec()),
        Key::ClientAddress => {
            let address = id.to_str().and_then(|id| id.parse().ok());
            match address.ok_or_else(not_an_address)? {
                IpAddr::V4(address) => Ok(address.octets().to_vec()),
                IpAddr::V6(address) => Ok(address.octets().to_vec()),
            }
        }
    }
}

/// An id as it is where it is UTF-8, else with its odd bytes escaped.
fn as_text<S: Serializer>(id: &OsStr, serializer: S) -> Result<S::Ok, S::Error> {
    match id.to_str() {
        Some(id) => serializer.serialize_str(id),
        None => serializer.collect_str(&id.as_bytes().escape_ascii()),
    }
}

fn by_name<S: Serializer>(why: &Decision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(why.name())
}
