//! Turns the file as written into the settings as used: fills in the defaults, which the modules define, and finds contradictions.
//! Tables and settings are destructured completely, so that no key can be forgotten.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::choices::TransportWord;
use super::nodes::{self, AllNodes};
use super::notes::{at_least_one, given, note_repeats, required};
use super::problem::{Place, Problem};
use super::reader::{Field, Spanned, quoted};
use super::units::duration_text;
use super::{Config, bundles, credentials, discovery, file, files, overlap, tls, tokens};
use crate::admin::settings as admin;
use crate::base::heartbeat;
use crate::base::log;
use crate::control;
use crate::doctor;
use crate::handover::settings as handover;
use crate::net::dial;
use crate::net::held;
use crate::net::websocket;
use crate::path::accept;
use crate::path::affinity;
use crate::path::greet;
use crate::path::peek;
use crate::path::relay;
use crate::process::drain;

/// The time from accept to CONNECT where TLS ends here: an RSA signature alone takes a small processor some seconds.
const SECURE_CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The settings in `file`. Meaningful only if `problems` stays empty.
pub(super) fn config(file: file::File, problems: &mut Vec<Problem>) -> Config {
    let file::File {
        include,
        workers,
        mut listeners,
        nodes,
        nodes_tls,
        nodes_api,
        discovery,
        affinity,
        limits,
        timeouts,
        keepalive,
        dial,
        greet,
        pacing,
        relay,
        buffers,
        health,
        drain,
        handover,
        doctor,
        watchdog,
        admin,
        log,
    } = file;
    debug_assert!(include.as_set().is_none(), "the files are merged before");
    bundles::list(&mut listeners, problems);
    let files = files::named(&listeners, &nodes_tls, &nodes_api, &discovery, &doctor, &admin);
    let limits = limits.or_default();
    let timeouts = timeouts.or_default();
    let health = health.or_default();
    note_contradictions(&timeouts, &listeners, &health, problems);
    overlap::note(&listeners, &admin, problems);
    note_loops(&listeners, &nodes, problems);
    nodes::note_passing(&listeners, &nodes, problems);

    let file::Timeouts {
        connect,
        dial: dial_timeout,
        greet: greet_timeout,
        greet_total,
        linger,
        idle_slack,
        idle_max,
        user_timeout,
    } = timeouts;
    let secure = match (&connect, &greet_total) {
        // A time that the file gives for all listeners is meant for these as well.
        (Field::Set(_), _) => None,
        (_, Field::Set(total)) => Some(SECURE_CONNECT_TIMEOUT.min(total.value)),
        _ => Some(SECURE_CONNECT_TIMEOUT),
    };
    let listeners = all_listeners(listeners, secure, problems);
    let pacing = pacing.or_default();
    let connects_per_id = pacing.connects_per_id_per_minute.as_set().map(|given| given.value);
    let pacing = pacing_settings(pacing, &nodes, problems);
    let discovery = discovery.or_default();
    let AllNodes {
        members: nodes,
        secured: nodes_tls,
        template,
    } = nodes::all(nodes, nodes_tls, &discovery, problems);
    let discovery = discovery::resolve(discovery, template, nodes_tls.as_ref(), problems);
    let peek = peek::Limits {
        deadline: connect.or(peek::Limits::default().deadline),
    };
    let file::Buffers { client, node } = buffers.or_default();
    let user_timeout_place = user_timeout.as_set().map(|given| given.place.clone());
    let dial = dial::Settings {
        timeout: dial_timeout.or(dial::Settings::default().timeout),
        sources: all_sources(dial.or_default(), problems),
        keepalive: keepalive_settings(keepalive.or_default()),
        user_timeout: user_timeout.value(),
        client_buffer: client.or(dial::Settings::default().client_buffer),
        node_buffer: node.or(dial::Settings::default().node_buffer),
    };
    note_user_timeout(user_timeout_place, &dial, problems);
    let waiting_bytes = limits.waiting_bytes.as_set().map(|given| given.value);
    Config {
        workers: workers.value().and_then(NonZeroUsize::new),
        listeners,
        nodes,
        nodes_tls,
        affinity: affinity_settings(affinity.or_default()),
        limits: connection_limits(&limits),
        held: held_limits(&limits, &peek),
        peek,
        greet: greet_settings(greet_timeout, greet_total, connects_per_id, greet.or_default()),
        relay: relay_settings(linger, idle_slack, idle_max, waiting_bytes, relay.or_default()),
        dial,
        control: control::Settings {
            api: api_settings(nodes_api.or_default(), problems),
            discovery,
            ..control_settings(health, pacing)
        },
        drain: drain_settings(drain.or_default()),
        handover: handover_settings(handover.or_default()),
        doctor: doctor_settings(doctor.or_default(), problems),
        watchdog: watchdog_settings(watchdog.or_default()),
        admin: admin_settings(admin.or_default(), problems),
        log: log_settings(log.or_default(), problems),
        files,
        warnings: Vec::new(),
    }
}

/// All listeners; `secure` is the deadline of those whose TLS ends here, if they have none of their own.
fn all_listeners(
    written: Field<Vec<Spanned<file::Listener>>>,
    secure: Option<Duration>,
    problems: &mut Vec<Problem>,
) -> Vec<accept::Listener> {
    let listeners = at_least_one(written, "listeners", "address = \"0.0.0.0:1883\"", problems);
    note_repeats(
        given(&listeners, |l| &l.name),
        |name| format!("two listeners are called {}", quoted(name)),
        "give each listener its own name, or leave the name out",
        problems,
    );
    listeners
        .into_iter()
        .filter_map(|Spanned { value, place }| {
            let file::Listener {
                name,
                address,
                freebind,
                transport,
                tls,
                certificates,
                tls_min,
                tls_record_max,
                client_certificates,
                client_ca,
                client_crl,
                client_crl_expired,
                paths,
                origins,
                head_max,
                allow,
                deny,
                proxy_protocol_from,
                connections_max,
                connect_timeout,
            } = value;
            let address = required(address, &place, "address = \"0.0.0.0:1883\"", problems)?;
            let transport = transport_of(transport, paths, origins, head_max, problems);
            let protocol = match transport {
                accept::Transport::Tcp => "mqtt",
                accept::Transport::Ws(_) => "http/1.1",
            };
            let tls = tls::Listener {
                tls,
                certificates,
                tls_min,
                client_certificates,
                client_ca,
                client_crl,
                client_crl_expired,
                tls_record_max,
                place,
            };
            let connect_timeout = match (&connect_timeout, &tls.tls) {
                (Field::Set(given), _) => Some(given.value),
                (_, Field::Set(word)) if word.value == tls::TlsWord::End => secure,
                _ => None,
            };
            Some(accept::Listener {
                name: name.value().unwrap_or_else(|| address.to_string()),
                address,
                freebind: freebind.or(false),
                transport,
                tls: tls.resolve(protocol, problems),
                allow: values(allow),
                deny: values(deny),
                proxy_protocol_from: values(proxy_protocol_from),
                connections_max: connections_max.value(),
                connect_timeout,
            })
        })
        .collect()
}

fn transport_of(
    transport: Field<TransportWord>,
    paths: Field<Vec<Spanned<String>>>,
    origins: Field<Vec<Spanned<String>>>,
    head_max: Field<usize>,
    problems: &mut Vec<Problem>,
) -> accept::Transport {
    match transport.or(TransportWord::Tcp) {
        TransportWord::Ws => {
            let default = websocket::AcceptPolicy::default();
            if let Some(empty) = paths.as_set().filter(|paths| paths.value.is_empty()) {
                let problem = empty.place.problem("at least one path is required");
                problems.push(problem.hint("name one, or leave the key out for \"/mqtt\""));
            }
            accept::Transport::Ws(websocket::AcceptPolicy {
                paths: match paths.as_set() {
                    Some(_) => values(paths),
                    None => default.paths,
                },
                origins: values(origins),
                head_bytes_max: head_max.or(default.head_bytes_max),
            })
        }
        TransportWord::Tcp => {
            let default = websocket::AcceptPolicy::default();
            for (written, default) in [(&paths, default.paths), (&origins, default.origins)] {
                let Some(only_ws) = written.as_set() else {
                    continue;
                };
                // A value that is the default anyway is no problem.
                if !only_ws.value.iter().map(|given| &given.value).eq(&default) {
                    problems.push(only_with_ws(&only_ws.place));
                }
            }
            let head_max = head_max.as_set();
            if let Some(only_ws) = head_max.filter(|head| head.value != default.head_bytes_max) {
                problems.push(only_with_ws(&only_ws.place));
            }
            accept::Transport::Tcp
        }
    }
}

fn only_with_ws(place: &Place) -> Problem {
    let problem = place.problem("has no effect without transport = \"ws\"");
    problem.hint("add transport = \"ws\", or leave the key out")
}

fn affinity_settings(written: file::Affinity) -> affinity::Settings {
    let file::Affinity {
        key,
        group,
        anonymous,
        clean_sessions,
        seed,
        load_max,
        placements_max,
        placement_age_max,
    } = written;
    let default = affinity::Settings::default();
    affinity::Settings {
        rule: affinity::Rule {
            key: key.or(default.rule.key),
            group: group.value(),
            anonymous: anonymous.or(default.rule.anonymous),
            clean_sessions: clean_sessions.or(default.rule.clean_sessions),
        },
        seed: seed.or(default.seed),
        load_max: load_max.value(),
        placements_max: placements_max.or(default.placements_max),
        placement_age_max: placement_age_max.or(default.placement_age_max),
    }
}

fn connection_limits(written: &file::Limits) -> accept::Limits {
    let file::Limits {
        connections,
        connections_per_source,
        connects_per_source_per_second,
        undecided: _,
        handshakes: _,
        held_bytes: _,
        source_share: _,
        waiting_bytes: _,
    } = written;
    let given = |written: &Field<usize>| written.as_set().map(|given| given.value);
    let default = accept::Limits::default();
    accept::Limits {
        connections_max: given(connections).or(default.connections_max),
        connections_per_source_max: given(connections_per_source).or(default.connections_per_source_max),
        connects_per_source_per_second: connects_per_source_per_second.as_set().map(|given| given.value),
    }
}

fn held_limits(written: &file::Limits, peek: &peek::Limits) -> held::Limits {
    let file::Limits {
        connections: _,
        connections_per_source: _,
        connects_per_source_per_second: _,
        undecided,
        handshakes,
        held_bytes,
        source_share,
        waiting_bytes: _,
    } = written;
    let given = |written: &Field<usize>| written.as_set().map(|given| given.value);
    let default = held::Limits::default();
    held::Limits {
        bytes_max: given(held_bytes).unwrap_or(default.bytes_max),
        undecided_max: given(undecided).unwrap_or(default.undecided_max),
        handshakes_max: given(handshakes).unwrap_or(default.handshakes_max),
        source_share: source_share.as_set().map_or(default.source_share, |given| given.value),
        // Half of its time is a connection's own.
        grace: peek.deadline / 2,
    }
}

fn all_sources(written: file::Dial, problems: &mut Vec<Problem>) -> Vec<IpAddr> {
    let file::Dial { sources } = written;
    let sources = sources.or_default();
    note_repeats(
        sources.iter().map(|source| (source.value, &source.place)),
        |source| format!("{source} is listed twice"),
        "name each address once",
        problems,
    );
    sources.into_iter().map(|source| source.value).collect()
}

fn keepalive_settings(written: file::Keepalive) -> dial::Keepalive {
    let file::Keepalive { idle, interval, count } = written;
    let default = dial::Settings::default().keepalive;
    dial::Keepalive {
        idle: idle.value().or(default.idle),
        interval: interval.or(default.interval),
        count: count.or(default.count),
    }
}

fn greet_settings(
    timeout: Field<Duration>,
    total: Field<Duration>,
    connects_per_id_per_minute: Option<u32>,
    written: file::Greet,
) -> greet::Settings {
    let file::Greet { refuse } = written;
    let default = greet::Settings::default();
    greet::Settings {
        timeout: timeout.or(default.timeout),
        deadline: total.or(default.deadline),
        refuse: refuse.or(default.refuse),
        connects_per_id_per_minute,
    }
}

fn relay_settings(
    linger: Field<Duration>,
    idle_slack: Field<Duration>,
    idle_max: Field<Duration>,
    waiting_bytes: Option<usize>,
    written: file::Relay,
) -> relay::Settings {
    let file::Relay { splice, rate_min } = written;
    let default = relay::Settings::default();
    relay::Settings {
        linger: linger.or(default.linger),
        idle_slack: idle_slack.or(default.idle_slack),
        idle_max: idle_max.value().or(default.idle_max),
        splice: splice.or(default.splice),
        pipes_max: default.pipes_max,
        rate_min: rate_min.as_set().map_or(default.rate_min, |given| given.value as u64),
        waiting_bytes_max: waiting_bytes.unwrap_or(default.waiting_bytes_max),
        ports_max: default.ports_max,
    }
}

/// A slow start is of a rate: without one, it has no effect.
fn pacing_settings(
    written: file::Pacing,
    nodes: &Field<Vec<Spanned<file::Node>>>,
    problems: &mut Vec<Problem>,
) -> control::Pacing {
    let file::Pacing {
        connects_per_second,
        slow_start,
        // Of clients, not of nodes.
        connects_per_id_per_minute: _,
    } = written;
    let default = control::Pacing::default();
    let nodes = nodes.as_set().map_or(&[][..], |nodes| &nodes.value);
    let has_rate = |node: &Spanned<file::Node>| !matches!(node.value.connects_per_second, Field::Absent);
    if matches!(connects_per_second, Field::Absent)
        && !nodes.iter().any(has_rate)
        && let Some(written) = slow_start
            .as_set()
            .filter(|written| written.value != default.slow_start)
    {
        let problem = written.place.problem("has no effect without connects_per_second");
        problems.push(problem.hint("add connects_per_second = 500, or leave the key out"));
    }
    control::Pacing {
        connects_per_second: connects_per_second.value(),
        slow_start: slow_start.or(default.slow_start),
    }
}

fn api_settings(written: file::NodesApi, problems: &mut Vec<Problem>) -> control::ApiSettings {
    let file::NodesApi {
        check,
        credentials,
        interval,
        timeout,
    } = written;
    let default = control::ApiSettings::default();
    control::ApiSettings {
        check: check.or(default.check),
        credentials: credentials::read(credentials, problems),
        interval: interval.or(default.interval),
        timeout: timeout.or(default.timeout),
    }
}

fn control_settings(written: file::Health, pacing: control::Pacing) -> control::Settings {
    let file::Health {
        failures_max,
        fall,
        rise,
        probe,
        probe_proxy,
        interval,
        down_share,
        down_min,
        down_max,
        on_down,
        on_down_rate,
        resolve_interval,
    } = written;
    let default = control::Settings::default();
    control::Settings {
        failures_max: failures_max.or(default.failures_max),
        fall: fall.or(default.fall),
        rise: rise.or(default.rise),
        probe: probe.or(default.probe),
        probe_proxy: probe_proxy.or(default.probe_proxy),
        interval: interval.value().or(default.interval),
        down_share: down_share.or(default.down_share),
        down_min: down_min.or(default.down_min),
        down_max: down_max.or(default.down_max),
        on_down: on_down.or(default.on_down),
        on_down_rate: on_down_rate.or(default.on_down_rate),
        resolve_interval: resolve_interval.or(default.resolve_interval),
        pacing,
        api: default.api,
        discovery: default.discovery,
    }
}

fn drain_settings(written: file::Drain) -> drain::Settings {
    let file::Drain { delay, rate, grace } = written;
    let default = drain::Settings::default();
    drain::Settings {
        delay: delay.or(default.delay),
        rate: rate.or(default.rate),
        grace: grace.or(default.grace),
    }
}

fn handover_settings(written: file::Handover) -> handover::Settings {
    let file::Handover { socket, grace } = written;
    handover::Settings {
        socket: socket.value().map(|file| file.path),
        grace: grace.or(handover::Settings::default().grace),
    }
}

fn doctor_settings(written: file::Doctor, problems: &mut Vec<Problem>) -> doctor::Settings {
    let file::Doctor {
        interval,
        topic,
        credentials,
        slow_after,
        timeout,
    } = written;
    let default = doctor::Settings::default();
    note_order(
        [Side::new("doctor.slow_after", &slow_after, default.slow_after)],
        Side::new("doctor.timeout", &timeout, default.timeout),
        "a message that takes longer than timeout is lost, and one that takes longer than slow_after is late",
        problems,
    );
    doctor::Settings {
        interval: interval.value(),
        topic: topic.or(default.topic),
        login: credentials::read_login(credentials, problems),
        timeout: timeout.or(default.timeout),
        slow_after: slow_after.or(default.slow_after),
    }
}

fn watchdog_settings(written: file::Watchdog) -> heartbeat::Settings {
    let file::Watchdog { stuck_after } = written;
    let default = heartbeat::Settings::default();
    heartbeat::Settings {
        stuck_after: stuck_after.or(default.stuck_after),
    }
}

fn admin_settings(written: file::Admin, problems: &mut Vec<Problem>) -> admin::Settings {
    let file::Admin {
        enabled,
        address,
        socket,
        tokens,
        hosts,
        peers,
        peers_token,
    } = written;
    let peers = tokens::peers(peers, problems);
    let socket = match socket.value() {
        Some(file) => admin::Socket::At(file.path),
        None => admin::Socket::Default,
    };
    let address = match (enabled.or(true), address.value()) {
        (false, _) => admin::Address::Off,
        (true, Some(addresses)) => admin::Address::At(addresses),
        (true, None) => admin::Address::Default,
    };
    admin::Settings {
        address,
        socket,
        tokens: tokens::resolve(tokens, problems),
        hosts: values(hosts),
        peers,
        peers_token: tokens::read(peers_token, problems).map(|(_, secret)| secret),
        // Known only to the caller that opened the file.
        configuration: None,
    }
}

fn log_settings(written: file::Log, problems: &mut Vec<Problem>) -> log::Settings {
    let file::Log {
        level,
        format,
        output,
        file,
        file_size_max,
        file_count,
        connections,
        unrouted_rate,
    } = written;
    if let Some(Spanned { value, place }) = file.as_set()
        && let Some(folder) = (value.path)
            .parent()
            .filter(|folder| !folder.is_dir() && folder.parent().is_some())
    {
        let message = format!("its folder {} is not there", quoted(&folder.display().to_string()));
        let hint = "make it, and let the user of this process write there: without it, `run` fails";
        problems.push(place.problem(message).hint(hint).warning());
    }
    let default = log::Settings::default();
    log::Settings {
        file: file.value().map(|file| file.path),
        file_size_max: match file_size_max.value() {
            None => default.file_size_max,
            Some(bytes) => (bytes > 0).then_some(bytes as u64),
        },
        file_count: file_count.or(default.file_count),
        level: level.or(default.level),
        format: format.or(default.format),
        output: output.value(),
        connections: connections.or(default.connections),
        unrouted_rate: unrouted_rate.or(default.unrouted_rate),
    }
}

fn values<T>(written: Field<Vec<Spanned<T>>>) -> Vec<T> {
    let items = written.or_default();
    items.into_iter().map(|item| item.value).collect()
}

/// Notes nodes that are our own listeners.
fn note_loops(
    listeners: &Field<Vec<Spanned<file::Listener>>>,
    nodes: &Field<Vec<Spanned<file::Node>>>,
    problems: &mut Vec<Problem>,
) {
    let (Some(listeners), Some(nodes)) = (listeners.as_set(), nodes.as_set()) else {
        return;
    };
    let listeners = given(&listeners.value, |l| &l.address).map(|(address, place)| (*address, Some(place)));
    nodes::note_loops(&listeners.collect::<Vec<_>>(), &nodes.value, problems);
}

/// Notes durations that contradict each other.
fn note_contradictions(
    timeouts: &file::Timeouts,
    listeners: &Field<Vec<Spanned<file::Listener>>>,
    health: &file::Health,
    problems: &mut Vec<Problem>,
) {
    let peek = peek::Limits::default();
    let dial = dial::Settings::default();
    let greet = greet::Settings::default();
    let control = control::Settings::default();
    note_order(
        [
            Side::new("timeouts.connect", &timeouts.connect, peek.deadline),
            Side::new("timeouts.dial", &timeouts.dial, dial.timeout),
            Side::new("timeouts.greet", &timeouts.greet, greet.timeout),
        ],
        Side::new("timeouts.greet_total", &timeouts.greet_total, greet.deadline),
        "greet_total runs from accept to the accepted CONNACK, over all the others",
        problems,
    );
    for listener in listeners.as_set().into_iter().flat_map(|listeners| &listeners.value) {
        let own = &listener.value.connect_timeout;
        if own.as_set().is_some() {
            note_order(
                [Side::new("connect_timeout", own, peek.deadline)],
                Side::new("timeouts.greet_total", &timeouts.greet_total, greet.deadline),
                "greet_total runs from accept to the accepted CONNACK, over connect_timeout and the others",
                problems,
            );
        }
    }
    note_order(
        [Side::new("health.down_min", &health.down_min, control.down_min)],
        Side::new("health.down_max", &health.down_max, control.down_max),
        "the time between two probes of a node that is down doubles from down_min to down_max",
        problems,
    );
}

/// Notes a `user_timeout` that would end connections before as many probes are lost as `keepalive.count` says.
fn note_user_timeout(place: Option<Place>, dial: &dial::Settings, problems: &mut Vec<Problem>) {
    let (Some(place), Some(written)) = (place, dial.user_timeout) else {
        return;
    };
    let used = dial.watch_times(None).user_timeout;
    if used > written {
        let used = duration_text(used);
        let message = format!(
            "{} is less than keepalive takes; {used} is used",
            duration_text(written)
        );
        let hint = format!("leave it out, or lower the keys of [keepalive]: idle + interval * count is {used}");
        problems.push(place.problem(message).hint(hint).warning());
    }
}

/// One side of a comparison of two durations.
struct Side<'a> {
    path: &'static str,
    value: Duration,
    /// Its place in the file; `None` for a default.
    place: Option<&'a Place>,
}

impl<'a> Side<'a> {
    /// `None` if the written value is invalid.
    fn new(path: &'static str, written: &'a Field<Duration>, default: Duration) -> Option<Self> {
        let (value, place) = match written {
            Field::Absent => (default, None),
            Field::Invalid => return None,
            Field::Set(given) => (given.value, Some(&given.place)),
        };
        Some(Self { path, value, place })
    }
}

impl fmt::Display for Side<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_default = if self.place.is_none() { " by default" } else { "" };
        write!(f, "{}, which is {}{by_default}", self.path, duration_text(self.value))
    }
}

/// Notes each of `shorts` that is longer than `long`. If only `long` is written, it is reported, once.
fn note_order<'a>(
    shorts: impl IntoIterator<Item = Option<Side<'a>>>,
    long: Option<Side<'a>>,
    why: &str,
    problems: &mut Vec<Problem>,
) {
    let Some(long) = long else {
        return;
    };
    let mut long_is_noted = false;
    for short in shorts.into_iter().flatten().filter(|short| short.value > long.value) {
        let longer = |place: &Place| {
            let message = format!("{} is longer than {long}", duration_text(short.value));
            place.problem(message).hint(why)
        };
        match (short.place, long.place) {
            (Some(place), Some(other)) => problems.push(longer(place).other(other, "the shorter duration")),
            (Some(place), None) => problems.push(longer(place)),
            (None, Some(_)) if long_is_noted => {}
            (None, Some(place)) => {
                long_is_noted = true;
                let message = format!("{} is shorter than {short}", duration_text(long.value));
                problems.push(place.problem(message).hint(why));
            }
            (None, None) => debug_assert!(false, "the defaults contradict: {short}; {long}"),
        }
    }
}
