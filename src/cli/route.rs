//! `remora route`: prints which node a client belongs to, why, and which nodes come next.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use serde::{Serialize, Serializer};

use remora::base::log::Escaped;
use remora::cluster::Decision;
use remora::config::Config;
use remora::path::affinity::{Affinity, Key, Rule, Spread};

use super::{columns, ring, rule_text};

/// The answers, in the order of the ids.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Answers<'a> {
    answers: Vec<Answer<'a>>,
    #[serde(skip)]
    rule: &'a Rule,
}

/// The route of one client.
#[derive(Serialize)]
struct Answer<'a> {
    #[serde(serialize_with = "as_text")]
    id: &'a OsStr,
    /// `None` if the client has no home.
    node: Option<&'a str>,
    #[serde(serialize_with = "by_name")]
    why: Decision,
    /// The other nodes, in the order in which they would be tried.
    next: Vec<&'a str>,
    /// What it shares with others of its group, where that is not all of its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
}

/// An id that is not an affinity key in this configuration.
#[derive(Debug)]
pub(super) enum NotAKey {
    /// Clients are routed by address, and this is not an address.
    NotAnAddress(OsString),
    /// Clients are routed by user name. Those without one are routed by client id, which is not given here.
    NoUsername,
    /// Clients are routed by common name. Those without a certificate are routed by client id, which is not given here.
    NoCommonName,
}

/// The routes of the clients with these ids.
pub(super) fn answers<'a>(config: &'a Config, ids: &'a [OsString]) -> Result<Answers<'a>, NotAKey> {
    let ring = ring(config);
    let rule = &config.affinity.rule;
    let answer = |id: &'a OsString| {
        let affinity = affinity(rule, id)?;
        if affinity.is_anonymous() {
            return Ok(Answer {
                id,
                node: None,
                why: Decision::Anonymous,
                next: Vec::new(),
                group: None,
            });
        }
        let mut nodes = ring
            .choices(ring.hash(affinity.key()))
            .map(|choice| &*config.nodes[choice].name);
        Ok(Answer {
            id,
            node: nodes.next(),
            why: Decision::Home,
            next: nodes.collect(),
            group: (rule.key != Key::ClientAddress && affinity.key() != id.as_bytes())
                .then(|| Escaped(affinity.key()).to_string()),
        })
    };
    let answers = ids.iter().map(answer).collect::<Result<_, _>>()?;
    Ok(Answers { answers, rule })
}

impl Answers<'_> {
    pub(super) fn json(&self) -> String {
        // Strings and lists of strings always serialize.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    pub(super) fn text(&self) -> String {
        let rows: Vec<_> = self.answers.iter().map(|answer| self.row(answer)).collect();
        columns("", &rows)
    }

    fn row(&self, answer: &Answer<'_>) -> Vec<String> {
        /// At most three nodes are tried for a client, its home included.
        const NEXT_MAX: usize = 2;
        let Answer {
            id,
            node,
            why,
            next,
            group,
        } = answer;
        let Rule {
            anonymous,
            clean_sessions,
            ..
        } = self.rule;
        let why = match node {
            Some(_) => {
                let group = group.as_ref().map_or(String::new(), |group| format!(": {group}"));
                let clean = match clean_sessions {
                    Spread::Ring => "",
                    Spread::Least => "; with a clean session, the less loaded of two",
                };
                format!("{} on the ring by {}{group}{clean}", why.name(), rule_text(self.rule))
            }
            None if *anonymous == Spread::Ring => format!("{}: on the ring by its address", why.name()),
            None => format!("{}: the less loaded of two drawn by weight", why.name()),
        };
        let next = match &next[..next.len().min(NEXT_MAX)] {
            [] => String::new(),
            next => format!("next {}", next.join(", ")),
        };
        let id = match id.as_bytes() {
            [] => "\"\"".to_owned(),
            id => Escaped(id).to_string(),
        };
        vec![id, node.unwrap_or("any").to_owned(), why, next]
    }
}

impl fmt::Display for NotAKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnAddress(id) => write!(
                f,
                "\"{}\" is not an IP address; this configuration routes clients by address",
                Escaped(id.as_bytes())
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

/// The affinity of a client with this id, by this rule.
fn affinity<'a>(rule: &Rule, id: &'a OsStr) -> Result<Affinity<'a>, NotAKey> {
    match rule.key {
        Key::Username if id.is_empty() => Err(NotAKey::NoUsername),
        Key::CertificateCn if id.is_empty() => Err(NotAKey::NoCommonName),
        Key::ClientId | Key::Username | Key::CertificateCn => Ok(rule.of_name(id.as_bytes())),
        Key::ClientAddress => {
            let address = id.to_str().and_then(|id| id.parse().ok());
            let address = address.ok_or_else(|| NotAKey::NotAnAddress(id.to_owned()))?;
            Ok(Affinity::of_address(address))
        }
    }
}

/// An id as it is if it is UTF-8, otherwise with invalid bytes escaped.
fn as_text<S: Serializer>(id: &OsStr, serializer: S) -> Result<S::Ok, S::Error> {
    match id.to_str() {
        Some(id) => serializer.serialize_str(id),
        None => serializer.collect_str(&id.as_bytes().escape_ascii()),
    }
}

fn by_name<S: Serializer>(why: &Decision, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(why.name())
}
