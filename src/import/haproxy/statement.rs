//! Statements of proxies that are neither rules nor addresses.

use crate::import::haproxy::bind::set;
use crate::import::haproxy::check::OPTIONS;
use crate::import::haproxy::context::Context;
use crate::import::haproxy::server;
use crate::import::haproxy::syntax::Line;
use crate::import::text::{printable, quoted};
use crate::import::units::haproxy_time;

/// Which side of a proxy a section has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Front,
    Back,
    Both,
}

const SECOND: u64 = 1000;

/// What a statement says that has one value in a section, of which the last one counts.
pub(super) fn single(line: &Line) -> Option<(&str, &str)> {
    match line.word(0) {
        "timeout" => Some(("timeout", line.word(1))),
        word @ ("maxconn"
        | "hash-balance-factor"
        | "hash-type"
        | "source"
        | "retries"
        | "fullconn"
        | "log-format"
        | "error-log-format"
        | "clitcpka-idle"
        | "clitcpka-intvl"
        | "clitcpka-cnt"
        | "srvtcpka-idle"
        | "srvtcpka-intvl"
        | "srvtcpka-cnt") => Some((word, "")),
        _ => None,
    }
}

/// Reads a statement; `tunnels`: `timeout tunnel` is set.
pub(super) fn read(line: &Line, side: Side, tunnels: bool, context: &mut Context) {
    let place = line.place();
    let (is_front, is_back) = (side != Side::Back, side != Side::Front);
    let unneeded = |context: &mut Context, why: &str| {
        context
            .report
            .unneeded(place, &format!("{} {}", line.word(0), line.word(1)), why)
    };
    match (line.word(0), line.word(1)) {
        ("timeout", what) => timeout(line, what, is_front, is_back, tunnels, context),
        // Of the frontend as a whole.
        ("maxconn", _) => {}
        ("rate-limit", _) => context.report.lost(
            place,
            "the rate of new connections of a listener is not limited",
            "pacing.connects_per_second limits CONNECTs to each node, and makes clients wait",
        ),
        ("clitcpka-idle" | "srvtcpka-idle", _) => keepalive("idle", line, context),
        ("clitcpka-intvl" | "srvtcpka-intvl", _) => keepalive("interval", line, context),
        ("clitcpka-cnt" | "srvtcpka-cnt", text) => match text.parse::<u8>() {
            Ok(count @ 1..=127) => set(context, "keepalive", "count", count.to_string(), place),
            _ => context.unreadable(place, text, "a number of probes from 1 to 127"),
        },
        ("hash-balance-factor", text) => match text.parse::<u32>() {
            Ok(0) => {}
            Ok(percent @ 101..=10_000) => set(context, "affinity", "load_max", percent.to_string(), place),
            _ => context.unreadable(place, text, "a percentage from 101 to 10000"),
        },
        ("stick-table", _) => unneeded(context, "clients off their home are remembered by themselves, whole ids and all: placements_max and placement_age_max bound it"),
        ("stick", "store-response") => unneeded(context, "an id that a node assigns (MQTT 5) is remembered"),
        ("stick", _) => {}
        ("hash-type" | "hash-key" | "hash-preserve-affinity", _) => unneeded(context, "Remora's ring is always consistent, and does not depend on the order of nodes"),
        ("log", _) => context.report.differs(place, "lines go to standard output, for the journal or a pipe, and not to syslog", "see docs/logs.md"),
        ("log-format" | "log-format-sd" | "error-log-format", _) => log_format(line, context),
        ("no", "log") => unneeded(context, "lines go to standard output; connections = \"none\" in [log] writes none"),
        ("no", "option") => option(line, line.word(2), true, context),
        ("option", name) => option(line, name, false, context),
        ("retries" | "retry-on" | "fullconn" | "max-keep-alive-queue" | "max-session-srv-conns", _) => unneeded(context, "other nodes are tried until timeouts.greet_total"),
        ("stats", _) => context.report.differs(place, "HAProxy's statistics are not shown", "`remora ctl` and /metrics show Remora's own: see docs/metrics.md"),
        ("source", _) => match line.word(2) {
            "" => server::source(line.word(1), place, context),
            "interface" => context.report.lost(place, "sockets are not bound to an interface", "write an address of that interface to sources of [dial]"),
            _ => context.report.lost(place, "nodes see Remora's own address, not the client's", "write proxy_protocol = \"v2\" to the nodes, and the same to EMQX's listeners"),
        },
        ("tcp-check" | "http-check" | "external-check" | "load-server-state-from-file" | "server-state-file-name", _) => {
            unneeded(context, "Remora checks nodes in its own way: with a CONNECT, or by `api` of a node");
        }
        ("description" | "id" | "guid" | "disabled" | "enabled" | "bind-process" | "backlog" | "errorfile" | "errorfiles" | "errorloc" | "errorloc302" | "errorloc303"
        | "http-error" | "unique-id-format" | "unique-id-header" | "log-tag" | "log-steps" | "declare" | "email-alert" | "filter" | "monitor" | "ignore-persist" | "force-persist"
        | "http-reuse" | "cookie" | "appsession" | "compression" | "persist" | "dynamic-cookie-key" | "max-keep-alive" | "quic-initial", _) => {
            other(line, context);
        }
        ("monitor-uri" | "monitor-net", _) => context.report.lost(
            place,
            format!("{} is not answered here", line.word(0)),
            "on a listener for WebSocket, / is answered with 200 or 503; /readyz at admin.address says whether a node takes clients",
        ),
        ("redirect" | "use-fcgi-app" | "use-server" | "transparent" | "dispatch" | "capture" | "http-send-name-header", _) => {
            context.report.lost(place, format!("{}: Remora passes MQTT on, and decides on nothing else", printable(line.word(0))), "keep HAProxy for it, on another port");
        }
        (word, _) => context.report.lost(place, format!("{} is unknown", printable(word)), "look up what it does in HAProxy's manual, and in docs/from-haproxy.md"),
    }
}

fn other(line: &Line, context: &mut Context) {
    let place = line.place();
    match line.word(0) {
        "disabled" => context.report.lost(
            place,
            "this proxy is disabled, and Remora has no switch for a listener",
            "take its [[listeners]] out",
        ),
        "filter" | "compression" | "email-alert" | "cookie"
            if line.word(0) == "filter" || line.word(0) == "email-alert" =>
        {
            context.report.lost(
                place,
                format!("{} is not there", line.word(0)),
                "alert on the metrics: see docs/metrics.md",
            );
        }
        word => context
            .report
            .unneeded(place, word, "it is about HTTP, or about HAProxy's own processes"),
    }
}

fn timeout(line: &Line, what: &str, is_front: bool, is_back: bool, tunnels: bool, context: &mut Context) {
    let place = line.place();
    match what {
        "connect" if is_back => {
            context.time("timeouts", "dial", line, 2, 1);
        }
        // Where it is set, it holds instead of the others once bytes flow both ways.
        "tunnel" => idle(line, context),
        "client" if is_front && !tunnels => idle(line, context),
        "server" if is_back && !tunnels => idle(line, context),
        "client-fin" if is_front => {
            context.time("timeouts", "linger", line, 2, 1);
        }
        "server-fin" if is_back => {
            context.time("timeouts", "linger", line, 2, 1);
        }
        "http-request" if is_front => {
            context.report.unneeded(
                place,
                "timeout http-request",
                "timeouts.connect runs from accept until the CONNECT",
            );
        }
        "client-hs" => context.report.unneeded(
            place,
            "timeout client-hs",
            "timeouts.connect runs from accept until the CONNECT, over TLS as well",
        ),
        "client" | "server" if tunnels => {
            context.report.unneeded(
                place,
                "timeout",
                "timeout tunnel holds instead, once bytes flow both ways",
            );
        }
        "queue" => {
            let why = "clients wait for no place at a node: they go to their next choice";
            context.report.unneeded(place, "timeout queue", why);
        }
        "http-request" | "http-keep-alive" | "tarpit" => {
            context
                .report
                .unneeded(place, "timeout", "it is about HTTP requests, and WebSocket has one");
        }
        // Of the other side of this proxy.
        "connect" | "client" | "server" | "client-fin" | "server-fin" => {}
        "check" => context.report.unneeded(
            place,
            "timeout check",
            "a probe has the time of a client: timeouts.dial and timeouts.greet",
        ),
        _ => context.report.lost(
            place,
            format!("timeout {} is unknown", printable(what)),
            "look up what it does in HAProxy's manual",
        ),
    }
}

fn idle(line: &Line, context: &mut Context) {
    if !context.time("timeouts", "idle_max", line, 2, 1) {
        return;
    }
    context.report.differs(
        line.place(),
        "idle_max is how long a client may be silent; what its node sends does not count",
        "leave it out: by default, a client is closed after one and a half times its own Keep Alive",
    );
}

fn keepalive(key: &'static str, line: &Line, context: &mut Context) {
    let place = line.place();
    match haproxy_time(line.word(1), SECOND) {
        Some(ms) if (SECOND..=32_767 * SECOND).contains(&ms) => {
            let seconds = quoted(&crate::import::units::duration(ms / SECOND * SECOND));
            set(context, "keepalive", key, seconds, place);
        }
        _ => context.unreadable(place, line.word(1), "a number of seconds up to 32767"),
    }
}

fn option(line: &Line, name: &str, is_off: bool, context: &mut Context) {
    let place = line.place();
    let what = format!("option {name}");
    let report = &mut context.report;
    match name {
        "clitcpka" | "srvtcpka" | "tcpka" if is_off => report.differs(
            place,
            "TCP keepalive is always on",
            "a client with a long Keep Alive is probed late; see [keepalive]",
        ),
        "clitcpka" | "srvtcpka" | "tcpka" => report.unneeded(place, &what, "TCP keepalive is always on"),
        "splice-auto" | "splice-request" | "splice-response" => {
            report.unneeded(place, &what, "bulk data goes through splice by itself (relay.splice)")
        }
        "forwardfor" => report.differs(
            place,
            "X-Forwarded-For has the client's address alone: what the client has sent in it is dropped",
            "EMQX believes the first address in it",
        ),
        "redispatch" | "persist" | "allbackups" => report.unneeded(
            place,
            &what,
            "a client whose node cannot be reached is taken to another one",
        ),
        "dontlognull"
        | "tcplog"
        | "httplog"
        | "httpslog"
        | "logasap"
        | "dontlog-normal"
        | "log-separate-errors"
        | "log-health-checks"
        | "socket-stats"
        | "contstats" => {
            report.unneeded(
                place,
                &what,
                "one line for each connection, at its end, has all of it; see docs/logs.md",
            );
        }
        name if OPTIONS.contains(&name) => {
            if name != "httpchk" {
                report.unneeded(place, &what, "nodes are probed with a CONNECT, as clients meet them");
            }
        }
        "tcp-smart-accept"
        | "tcp-smart-connect"
        | "nolinger"
        | "abortonclose"
        | "transparent"
        | "independent-streams"
        | "idle-close-on-response"
        | "checkcache"
        | "originalto"
        | "disable-h2-upgrade"
        | "h1-case-adjust-bogus-client"
        | "h1-case-adjust-bogus-server"
        | "prefer-last-server"
        | "srvtcpka-cnt"
        | "use-small-buffers" => match name {
            "transparent" | "originalto" => {
                report.lost(place, format!("option {name}"), "nodes are those in [[nodes]]")
            }
            _ => report.unneeded(place, &what, "Remora sets sockets up by itself"),
        },
        name if name.starts_with("http")
            || name.starts_with("accept-invalid")
            || name.starts_with("accept-unsafe")
            || name == "forceclose" =>
        {
            report.unneeded(place, &what, "it is about HTTP requests, and WebSocket has one");
        }
        _ => report.lost(
            place,
            format!("option {} is unknown", printable(name)),
            "look up what it does in HAProxy's manual",
        ),
    }
}

/// Which of a format's parts have fields here.
fn log_format(line: &Line, context: &mut Context) {
    const FIELDS: [(&str, &str); 15] = [
        ("%ci", "client"),
        ("%cp", "client"),
        ("%f", "listener"),
        ("%ft", "listener"),
        ("%b", "node"),
        ("%s", "node"),
        ("%ts", "cause"),
        ("%Tc", "dial_us"),
        ("%Tw", "pace_us"),
        ("%Tt", "seconds"),
        ("%U", "from_client"),
        ("%B", "from_node"),
        ("%rc", "retries"),
        ("%t", "timestamp"),
        ("%tr", "timestamp"),
    ];
    let text: Vec<&str> = line.rest(1).iter().map(|word| &*word.text).collect();
    let text = text.join(" ");
    let mut found = Vec::new();
    for part in text.split('%').skip(1) {
        let end = part.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(part.len());
        let name = format!("%{}", &part[..end]);
        if let Some((known, field)) = FIELDS.iter().find(|(known, _)| *known == name) {
            let text = format!("{known} is {field}");
            if !found.contains(&text) {
                found.push(text);
            }
        }
    }
    let variables = if text.contains("%[") || text.contains("[var") {
        "; the client id is client_id"
    } else {
        ""
    };
    context.report.differs(
        line.place(),
        format!(
            "lines have fields with names of their own: {}{variables}",
            found.join(", ")
        ),
        "docs/logs.md has all of them; format = \"json\" in [log] writes them as JSON",
    );
}
