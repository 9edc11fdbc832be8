//! `check` of servers, `option httpchk` and `http-check`: how nodes are checked.

use crate::import::address::{Port, join};
use crate::import::draft::Prefer;
use crate::import::haproxy::bind::set;
use crate::import::haproxy::context::Context;
use crate::import::haproxy::syntax::Line;
use crate::import::model::Server;
use crate::import::text::{Place, quoted};

/// The options of which the last one says how HAProxy checks.
pub(super) const OPTIONS: [&str; 10] = [
    "tcp-check",
    "httpchk",
    "ssl-hello-chk",
    "mysql-check",
    "redis-check",
    "ldap-check",
    "smtpchk",
    "pgsql-check",
    "spop-check",
    "external-check",
];

/// How nodes are checked.
pub(super) fn check(
    lines: &[&Line],
    servers: &mut [Server],
    (checked, interval, port): (Option<Place>, Option<(u64, Place)>, Option<Port>),
    context: &mut Context,
) {
    let Some(checked) = checked else {
        return;
    };
    let options = || {
        let lines = lines.iter().copied();
        lines.filter(|line| line.word(0) == "option" && OPTIONS.contains(&line.word(1)))
    };
    let last = options().next_back();
    let is_http = |line: &&Line| line.word(1) == "httpchk";
    let http = last.filter(is_http);
    for line in options().filter(is_http) {
        if last.is_some_and(|last| last.place() != line.place()) {
            let why = "another option behind it says how nodes are checked";
            context.report.unneeded(line.place(), "option httpchk", why);
        }
    }
    let uri = lines
        .iter()
        .filter(|line| line.word(0) == "http-check" && line.word(1) == "send")
        .find_map(|line| {
            let at = line.words.iter().position(|word| word.text == "uri")?;
            Some(line.word(at + 1).to_owned())
        });
    let uri = uri.or_else(|| {
        http.map(|line| {
            if line.word(3).is_empty() {
                line.word(2)
            } else {
                line.word(3)
            }
            .to_owned()
        })
    });
    let of_api = match uri.as_deref().map(|uri| uri.split('?').next().unwrap_or_default()) {
        Some("/api/v5/load_rebalance/availability_check") => Some("availability"),
        Some("/status" | "/api/v5/status") => Some("status"),
        _ => None,
    };
    match (http, of_api, port) {
        (Some(line), Some(word), Some(port)) => {
            for server in servers.iter_mut() {
                match server.port {
                    Port::InHost => context.unreadable(server.place, &server.host, "a host alone, whose API is asked"),
                    _ => server.api = Some((format!("http://{}", join(&server.host, &port)), line.place())),
                }
            }
            set(context, "nodes_api", "check", quoted(word), line.place());
            if let Some((ms, place)) = interval {
                context
                    .draft
                    .set_time("nodes_api", "interval", ms, place, &mut context.report);
            }
            context.report.differs(
                line.place(),
                "one answer counts: a node with 503 keeps its clients and gets no new ones; one that does not answer is probed as a client would",
                "",
            );
        }
        (http, _, _) => {
            if let Some(line) = http {
                context.report.differs(
                    line.place(),
                    "nodes are probed with a CONNECT, as clients meet them, and not by this request",
                    "`api` of a node asks EMQX's availability check, or its status",
                );
            }
            match interval {
                Some((ms, place)) => {
                    context
                        .draft
                        .set_time("health", "interval", ms, place, &mut context.report);
                }
                // What HAProxy does without a word.
                None => context.draft.set(
                    "health",
                    "interval",
                    quoted("2s"),
                    checked,
                    Prefer::Other,
                    &mut context.report,
                ),
            }
        }
    }
}
