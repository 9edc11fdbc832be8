//! The file as written: every table, its keys and the kinds of their values. What the keys mean, and what holds where one
//! is left out, is said in `meant` and by the parts themselves.

use toml::de::{DeTable, DeValue};

use super::address::{
    ListenerAddress, Name, Network, NodeAddress, NodeMqtt, NodeWs, Origin, SourceAddress, WsPath,
};
use super::problem::{Place, Problem};
use super::reader::{Entries, Leaf, List, Mismatch, Reader, Shape, Value, Written, table, word};
use super::tls::{CertificateName, ClientsWord, FilePath, TlsWord};
use super::units::{GIB, HOUR, MIB, Seconds, Size, Time, Whole};
use crate::proxy_protocol::Version;
use crate::tls::Version as TlsVersion;
use crate::{greet, log, route};

/// A deadline or an interval. The kernel keeps some of them in milliseconds in an `int`, which is 596 hours.
type Timeout = Time<1, { 500 * HOUR }>;

/// A span of time that may be nothing at all.
type Slack = Time<0, { 500 * HOUR }>;

/// What the kernel takes for TCP_KEEPIDLE and TCP_KEEPINTVL.
type KeepaliveSeconds = Seconds<1, 32_767>;

table! {
    /// The whole file.
    File {
        workers: Whole<usize, 1, 1024>,
        listeners: List<Listener>,
        nodes: List<Node>,
        nodes_tls: NodesTls,
        affinity: Affinity,
        limits: Limits,
        timeouts: Timeouts,
        keepalive: Keepalive,
        dial: Dial,
        greet: Greet,
        relay: Relay,
        health: Health,
        drain: Drain,
        admin: Admin,
        log: Log,
    }
}

table! {
    /// `[[listeners]]`
    Listener {
        name: Name,
        address: ListenerAddress,
        transport: TransportWord,
        tls: TlsWord,
        certificates: List<Certificate>,
        tls_min: TlsVersion,
        client_certificates: ClientsWord,
        client_ca: FilePath,
        client_crl: FilePath,
        paths: List<WsPath>,
        origins: List<Origin>,
        allow: List<Network>,
        deny: List<Network>,
        proxy_protocol_from: List<Network>,
        connections_max: Whole<usize, 1, 100_000_000>,
    }
}

table! {
    /// One of a listener's `certificates`, and the one that is shown to nodes.
    Certificate {
        chain: FilePath,
        key: FilePath,
    }
}

table! {
    /// `[nodes_tls]`
    NodesTls {
        ca: FilePath,
        certificate: Certificate,
        insecure_skip_verify: bool,
    }
}

table! {
    /// `[[nodes]]`
    Node {
        name: Name,
        address: NodeMqtt,
        server_name: CertificateName,
        proxy_protocol: ProxyWord,
        ws: NodeWs,
        ws_proxy_protocol: ProxyWord,
        pass: NodeAddress,
        pass_proxy_protocol: ProxyWord,
        weight: Whole<u16, 1, 1000>,
    }
}

table! {
    /// `[affinity]`
    Affinity {
        key: route::Key,
        seed: Whole<u64, 0, { u64::MAX }>,
        placements_max: Whole<usize, 0, 100_000_000>,
        placement_age_max: Timeout,
    }
}

table! {
    /// `[limits]`
    Limits {
        connections: Whole<usize, 1, 100_000_000>,
        connections_per_source: Whole<usize, 1, 100_000_000>,
        undecided: Whole<usize, 1, 100_000_000>,
        handshakes: Whole<usize, 1, 100_000_000>,
        held_bytes: Size<MIB, { 1024 * GIB }>,
    }
}

table! {
    /// `[timeouts]`
    Timeouts {
        connect: Timeout,
        dial: Timeout,
        greet: Timeout,
        greet_total: Timeout,
        linger: Slack,
        idle_slack: Slack,
        idle_max: Timeout,
        user_timeout: Timeout,
    }
}

table! {
    /// `[keepalive]`
    Keepalive {
        idle: KeepaliveSeconds,
        interval: KeepaliveSeconds,
        count: Whole<u32, 1, 127>,
    }
}

table! {
    /// `[dial]`
    Dial {
        sources: List<SourceAddress>,
    }
}

table! {
    /// `[greet]`
    Greet {
        refuse: greet::Refuse,
    }
}

table! {
    /// `[relay]`
    Relay {
        splice: bool,
    }
}

table! {
    /// `[health]`
    Health {
        failures_max: Whole<u32, 1, 1_000_000>,
        down_min: Timeout,
        down_max: Timeout,
        resolve_interval: Timeout,
    }
}

table! {
    /// `[drain]`
    Drain {
        delay: Slack,
        rate: Whole<u32, 1, 10_000_000>,
        grace: Slack,
    }
}

table! {
    /// `[admin]`
    Admin {
        enabled: bool,
        address: ListenerAddress,
    }
}

table! {
    /// `[log]`
    Log {
        level: log::Level,
        format: log::Format,
        connections: log::Connections,
    }
}

impl File {
    /// Reads a file, with every problem in it but those of its grammar, of which only the first can be told.
    pub(super) fn read(text: &str) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let tree = DeTable::parse(text).map_err(|error| {
            let mut problem = Problem::of_file(format!("not TOML: {}", error.message()));
            problem.span = error.span();
            if error.message() == "duplicate key" {
                problem = problem.hint("write a key once; several tables of one name have two brackets, as in [[nodes]]");
            }
            vec![problem]
        })?;
        let place = Place {
            path: String::new(),
            span: tree.span(),
        };
        let mut reader = Reader::new::<Self>();
        let file = <Self as Value>::read(&DeValue::Table(tree.into_inner()), &place, &mut reader);
        Ok((file.unwrap_or_default(), reader.problems))
    }
}

/// What clients speak below MQTT, as a word; the rest of a transport stands in keys of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum TransportWord {
    Tcp,
    Ws,
}

impl Leaf for TransportWord {
    type Meaning = Self;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        word(value, &[("tcp", Self::Tcp), ("ws", Self::Ws)])
    }
}

/// The PROXY header that a listener of a node expects.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProxyWord;

impl Leaf for ProxyWord {
    type Meaning = Option<Version>;

    fn parse(value: &DeValue<'_>) -> Result<Self::Meaning, Mismatch> {
        let version = |version: Version| (version.name(), Some(version));
        word(
            value,
            &[version(Version::V1), version(Version::V2), ("off", None)],
        )
    }
}

impl Leaf for route::Key {
    type Meaning = Self;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        word(
            value,
            &[
                ("client_id", Self::ClientId),
                ("username", Self::Username),
                ("client_address", Self::ClientAddress),
                ("certificate_cn", Self::CertificateCn),
            ],
        )
    }
}

impl Leaf for greet::Refuse {
    type Meaning = Self;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        word(value, &[("close", Self::Close), ("connack", Self::Connack)])
    }
}

impl Leaf for log::Level {
    type Meaning = Self;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        word(
            value,
            &[
                ("error", Self::Error),
                ("warn", Self::Warn),
                ("info", Self::Info),
                ("debug", Self::Debug),
            ],
        )
    }
}

impl Leaf for log::Format {
    type Meaning = Self;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        word(value, &[("text", Self::Text), ("json", Self::Json)])
    }
}

impl Leaf for log::Connections {
    type Meaning = Self;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        word(
            value,
            &[
                ("end", Self::End),
                ("both", Self::Both),
                ("none", Self::None),
            ],
        )
    }
}
