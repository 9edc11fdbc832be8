//! The keys whose value is one of a few words, and the words of other programs for the same.

use super::meant::Scheme;
use super::reader::Choice;
use super::words;
use crate::base::log;
use crate::control::{Check, OnDown, ProbeDepth, ProbeProxy};
use crate::path::affinity;
use crate::path::greet;
use crate::proxy_protocol::Version;

/// The protocol below MQTT, as a word; the other settings of a transport have keys of their own.
#[derive(Clone, Copy, Debug)]
pub(super) enum TransportWord {
    Tcp,
    Ws,
}

impl Choice for TransportWord {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[("tcp", Self::Tcp), ("ws", Self::Ws)];

    fn meant(word: &str) -> Option<String> {
        let scheme = Scheme::of(word)?;
        let transport = if scheme.is_ws { "\"ws\"" } else { "\"tcp\"" };
        let tls = if scheme.has_tls { ", and add tls = \"end\"" } else { "" };
        Some(format!("{transport}{tls}"))
    }
}

/// How far a probe of a node goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeWord;

impl Choice for ProbeWord {
    type Meaning = ProbeDepth;
    const WORDS: &'static [(&'static str, ProbeDepth)] =
        &[("mqtt", ProbeDepth::Mqtt), ("connect", ProbeDepth::Connect)];

    fn meant(word: &str) -> Option<String> {
        match word {
            "tcp" | "off" | "none" | "false" => Some("\"connect\"".to_owned()),
            "true" | "on" => Some("\"mqtt\"".to_owned()),
            _ => None,
        }
    }
}

impl Choice for OnDown {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[("close", Self::Close), ("keep", Self::Keep)];

    fn meant(word: &str) -> Option<String> {
        match word {
            // HAProxy's word, beside those of a switch.
            "shutdown-sessions" | "true" | "on" => Some("\"close\"".to_owned()),
            "none" | "false" | "off" => Some("\"keep\"".to_owned()),
            _ => None,
        }
    }
}

/// Whom the PROXY header of a probe names.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProbeProxyWord;

impl Choice for ProbeProxyWord {
    type Meaning = ProbeProxy;
    const WORDS: &'static [(&'static str, ProbeProxy)] = &[("proxy", ProbeProxy::Proxy), ("local", ProbeProxy::Local)];
}

/// Who is asked for further nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SourceWord {
    Off,
    Emqx,
    Dns,
    File,
}

impl Choice for SourceWord {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("emqx", Self::Emqx),
        ("dns", Self::Dns),
        ("file", Self::File),
    ];
}

/// What the API of a node is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckWord;

impl Choice for CheckWord {
    type Meaning = Check;
    const WORDS: &'static [(&'static str, Check)] = &[("availability", Check::Availability), ("status", Check::Status)];

    fn meant(word: &str) -> Option<String> {
        match word {
            "availability_check" | "true" | "on" => Some("\"availability\"".to_owned()),
            "/status" | "/api/v5/status" => Some("\"status\"".to_owned()),
            _ => None,
        }
    }
}

/// The PROXY header that a listener of a node expects.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProxyWord;

impl Choice for ProxyWord {
    type Meaning = Option<Version>;
    const WORDS: &'static [(&'static str, Option<Version>)] = &[
        (Version::V1.name(), Some(Version::V1)),
        (Version::V2.name(), Some(Version::V2)),
        ("off", None),
    ];

    fn meant(word: &str) -> Option<String> {
        match word {
            // EMQX takes both versions; this one carries what is known of the client's TLS as well.
            "true" | "on" | "yes" | "2" | "send-proxy-v2" => Some("\"v2\"".to_owned()),
            "1" | "send-proxy" => Some("\"v1\"".to_owned()),
            "false" | "no" | "none" | "0" => Some("\"off\"".to_owned()),
            _ => None,
        }
    }
}

impl Choice for affinity::Key {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[
        ("client_id", Self::ClientId),
        ("username", Self::Username),
        ("client_address", Self::ClientAddress),
        ("certificate_cn", Self::CertificateCn),
    ];

    fn meant(word: &str) -> Option<String> {
        words::affinity(word).map(|key| format!("\"{key}\""))
    }
}

impl Choice for affinity::Spread {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] =
        &[(Self::Ring.name(), Self::Ring), (Self::Least.name(), Self::Least)];

    fn meant(word: &str) -> Option<String> {
        match word {
            "leastconn" | "least_conn" | "random" | "load" => Some("\"least\"".to_owned()),
            "hash" | "source" => Some("\"ring\"".to_owned()),
            _ => None,
        }
    }
}

impl Choice for greet::Refuse {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[("close", Self::Close), ("connack", Self::Connack)];
}

impl Choice for log::Level {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
    ];

    fn meant(word: &str) -> Option<String> {
        words::level(word).map(|level| format!("\"{level}\""))
    }
}

impl Choice for log::Format {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];

    fn meant(word: &str) -> Option<String> {
        match word {
            "plain" | "logfmt" | "console" => Some("\"text\"".to_owned()),
            _ => None,
        }
    }
}

impl Choice for log::Output {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[("stdout", Self::Stdout), ("journald", Self::Journald)];
}

impl Choice for log::Connections {
    type Meaning = Self;
    const WORDS: &'static [(&'static str, Self)] = &[("end", Self::End), ("both", Self::Both), ("none", Self::None)];

    fn meant(word: &str) -> Option<String> {
        match word {
            "true" | "on" | "yes" => Some("\"end\"".to_owned()),
            "false" | "off" | "no" => Some("\"none\"".to_owned()),
            "all" => Some("\"both\"".to_owned()),
            _ => None,
        }
    }
}
