//! The file as written: every table with its keys and the types of their values. `resolve` gives them meaning; the modules that
//! use a setting define its default.

use toml::de::{DeTable, DeValue};

use super::address::{
    AdminAddresses, DnsName, HostName, ListenerAddress, LogPath, Name, NameServer, Network, Origin, SocketPath,
    SourceAddress, TopicPrefix, WsPath,
};
use super::choices::{CheckWord, ProbeProxyWord, ProbeWord, ProxyWord, SourceWord, TransportWord};
use super::foreign;
use super::node_address::{NodeApiUrl, NodeMqtt, NodePass, NodeWs, PeerUrl};
use super::problem::{Place, Problem};
use super::reader::{Entries, Field, Leaf, List, Mismatch, Named, Reader, Shape, Value, quoted, table};
use super::texts::Texts;
use super::tls::{CertificateFiles, CertificateName, ClientsWord, ExpiredWord, FilePath, NodesTls, TlsWord};
use super::tokens::Token;
use super::units::{GIB, HOUR, KIB, MIB, SECOND, Seconds, Size, Time, Weight, Whole};
use crate::base::log;
use crate::control::OnDown;
use crate::net::tls::Version as TlsVersion;
use crate::path::affinity;
use crate::path::greet;

/// A deadline or an interval. The kernel stores some of them as milliseconds in an `int`, which holds at most 596 hours.
type Timeout = Time<1, { 500 * HOUR }>;

/// A duration that may be zero.
type Slack = Time<0, { 500 * HOUR }>;

/// Something in a second.
type Rate = Whole<u32, 1, 1_000_000>;

/// The time between two route checks: each takes some seconds where messages are lost.
type Interval = Time<{ 10 * SECOND }, { 24 * HOUR }>;

/// How long a message may take, without end for an operator who waits.
type MessageTimeout = Time<100, { 60 * SECOND }>;

/// When a thread is stuck. Threads show once a second that they run.
type StuckAfter = Time<{ 2 * SECOND }, HOUR>;

/// The head of an HTTP request.
type HeadSize = Size<{ 4 * KIB }, MIB>;

/// The range that the kernel accepts for TCP_KEEPIDLE and TCP_KEEPINTVL.
type KeepaliveSeconds = Seconds<1, 32_767>;

/// What SO_SNDBUF and SO_RCVBUF may be; the kernel doubles it, and has its own upper bound.
type BufferSize = Size<{ 16 * KIB }, { 64 * MIB }>;

table! {
    /// The whole file.
    File {
        include: List<FilePath>,
        workers: Whole<usize, 1, 1024>,
        listeners: List<Listener>,
        nodes: List<Node>,
        nodes_tls: NodesTls,
        nodes_api: NodesApi,
        discovery: Discovery,
        affinity: Affinity,
        limits: Limits,
        timeouts: Timeouts,
        keepalive: Keepalive,
        dial: Dial,
        greet: Greet,
        pacing: Pacing,
        relay: Relay,
        buffers: Buffers,
        health: Health,
        drain: Drain,
        handover: Handover,
        doctor: Doctor,
        watchdog: Watchdog,
        admin: Admin,
        log: Log,
    }
}

table! {
    /// `[[listeners]]`
    Listener {
        name: Name,
        address: ListenerAddress,
        freebind: bool,
        transport: TransportWord,
        tls: TlsWord,
        certificates: List<CertificateFiles>,
        tls_min: TlsVersion,
        tls_record_max: Size<512, { 16 * KIB }>,
        client_certificates: ClientsWord,
        client_ca: Named<FilePath>,
        client_crl: Named<FilePath>,
        client_crl_expired: ExpiredWord,
        paths: List<WsPath>,
        origins: List<Origin>,
        head_max: HeadSize,
        allow: List<Network>,
        deny: List<Network>,
        proxy_protocol_from: List<Network>,
        connections_max: Whole<usize, 1, 100_000_000>,
        connect_timeout: Timeout,
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
        pass: NodePass,
        pass_proxy_protocol: ProxyWord,
        api: NodeApiUrl,
        weight: Weight,
        connects_per_second: Rate,
        connections_max: Whole<usize, 1, 100_000_000>,
    }
}

table! {
    /// `[nodes_api]`
    NodesApi {
        check: CheckWord,
        credentials: Named<FilePath>,
        interval: Timeout,
        timeout: Timeout,
    }
}

table! {
    /// `[discovery]`
    Discovery {
        source: SourceWord,
        seeds: List<NodeApiUrl>,
        name: DnsName,
        name_servers: List<NameServer>,
        file: Named<FilePath>,
        interval: Timeout,
        grace: Slack,
    }
}

table! {
    /// The file in which nodes are listed.
    NodesFile {
        nodes: List<Node>,
    }
}

table! {
    /// `[affinity]`
    Affinity {
        key: affinity::Key,
        group: GroupExpression,
        anonymous: affinity::Spread,
        clean_sessions: affinity::Spread,
        seed: Whole<u64, 0, { u64::MAX }>,
        load_max: Whole<u32, 101, 10_000>,
        placements_max: Whole<usize, 0, 100_000_000>,
        placement_age_max: Timeout,
    }
}

table! {
    /// `[limits]`
    Limits {
        connections: Whole<usize, 1, 100_000_000>,
        connections_per_source: Whole<usize, 1, 100_000_000>,
        connects_per_source_per_second: Whole<u32, 1, 10_000>,
        undecided: Whole<usize, 1, 100_000_000>,
        handshakes: Whole<usize, 1, 100_000_000>,
        held_bytes: Size<MIB, { 1024 * GIB }>,
        source_share: Whole<u8, 1, 100>,
        waiting_bytes: Size<MIB, { 1024 * GIB }>,
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
    /// `[pacing]`
    Pacing {
        connects_per_second: Rate,
        slow_start: Slack,
        connects_per_id_per_minute: Whole<u32, 1, 10_000>,
    }
}

table! {
    /// `[relay]`
    Relay {
        splice: bool,
        rate_min: Size<0, MIB>,
    }
}

table! {
    /// `[buffers]`
    Buffers {
        client: BufferSize,
        node: BufferSize,
    }
}

table! {
    /// `[health]`
    Health {
        failures_max: Whole<u32, 1, 1_000_000>,
        fall: Whole<u32, 1, 1_000_000>,
        rise: Whole<u32, 1, 1_000_000>,
        probe: ProbeWord,
        probe_proxy: ProbeProxyWord,
        interval: Timeout,
        down_share: Whole<u8, 1, 100>,
        down_min: Timeout,
        down_max: Timeout,
        on_down: OnDown,
        on_down_rate: Whole<u32, 1, 10_000_000>,
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
    /// `[handover]`
    Handover {
        socket: Named<SocketPath>,
        grace: Slack,
    }
}

table! {
    /// `[doctor]`
    Doctor {
        interval: Interval,
        topic: TopicPrefix,
        credentials: Named<FilePath>,
        slow_after: Timeout,
        timeout: MessageTimeout,
    }
}

table! {
    /// `[watchdog]`
    Watchdog {
        stuck_after: StuckAfter,
    }
}

table! {
    /// `[admin]`
    Admin {
        enabled: bool,
        address: AdminAddresses,
        socket: Named<SocketPath>,
        tokens: List<Token>,
        hosts: List<HostName>,
        peers: List<PeerUrl>,
        peers_token: Named<FilePath>,
    }
}

table! {
    /// `[log]`
    Log {
        level: log::Level,
        format: log::Format,
        output: log::Output,
        file: Named<LogPath>,
        file_size_max: Size<0, { 1024 * GIB }>,
        file_count: Whole<u32, 0, 1000>,
        connections: log::Connections,
        unrouted_rate: Whole<u32, 0, 1_000_000>,
    }
}

/// Reads the files of a configuration, or one of another type `T`, and collects all problems in it.
pub(super) fn read<T: Value>(tree: DeTable<'_>, texts: &Texts) -> (T::Output, Vec<Problem>)
where
    T::Output: Default,
{
    let place = Place {
        path: String::new(),
        span: 0..texts.main().text.len(),
    };
    let mut reader = Reader::new::<T>(texts, foreign::meant);
    let file = T::read(&DeValue::Table(tree), &place, &mut reader);
    (file.unwrap_or_default(), reader.problems)
}

/// A regular expression with one capture group.
#[derive(Clone, Copy, Debug)]
pub(super) struct GroupExpression;

impl Leaf for GroupExpression {
    type Output = affinity::Group;

    fn parse(value: &DeValue<'_>) -> Result<Self::Output, Mismatch> {
        const EXAMPLE: &str = "'^([^/]+)/'";
        let Some(written) = value.as_str() else {
            return Err(Mismatch::of_type(value, "a regular expression", EXAMPLE));
        };
        affinity::Group::new(written).map_err(|error| match error {
            affinity::NotAGroup::Invalid(why) => Mismatch::new(
                format!("{} is not a regular expression: {why}", quoted(written)),
                format!("write {EXAMPLE} for all up to the first slash: the syntax is that of the crate regex-lite"),
            ),
            affinity::NotAGroup::Captures(count) => Mismatch::new(
                format!("{} has {count} capture groups, and needs one", quoted(written)),
                format!(
                    "write parentheses around what the clients of a group share, as in {EXAMPLE}, and (?: ) for others"
                ),
            ),
        })
    }
}
