//! `remora ctl clients`, `client`, `close` and `rebalance`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::Args;
use remora::admin::api::answers::{
    AskClient, Client, Clients, Closed, Connection as Row, End, Loop, Rebalance, Reconnecting, SetRebalance,
};
use remora::base::words::counted;

use super::connection::{Connection, Failed, encoded};
use super::{body, nodes};
use crate::cli::columns;

/// Clients in one answer: the most that the API gives.
const PAGE: usize = 1_000;

/// How often `rebalance --wait` looks how far it is.
const LOOK: Duration = Duration::from_millis(200);

/// Which clients are listed.
#[derive(Args)]
pub(super) struct Filters {
    /// Only those on this node.
    #[arg(long, value_name = "NODE")]
    node: Option<OsString>,
    /// Only those of listeners with this name.
    #[arg(long, value_name = "LISTENER")]
    listener: Option<OsString>,
    /// Only those with an address of this network.
    #[arg(long, value_name = "ADDRESS|NETWORK")]
    network: Option<OsString>,
    /// Only those on another node than their home.
    #[arg(long)]
    off_home: bool,
    /// Only those whose id begins with this.
    #[arg(long, value_name = "START")]
    prefix: Option<OsString>,
    /// Only those that send pings and have received nothing but answers to them for this time, such as 90s, 10m or 1h.
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    quiet: Option<u64>,
    /// No more than so many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Instead: the connections of ids that have more than one.
    #[arg(long, conflicts_with_all = ["node", "listener", "network", "off_home", "prefix", "quiet", "limit", "reconnecting"])]
    twice: bool,
    /// Instead: the clients with at least so many connections that ended within the last minute.
    #[arg(long, value_name = "N", conflicts_with_all = ["node", "listener", "network", "off_home", "prefix", "quiet", "limit"])]
    reconnecting: Option<usize>,
}

/// Seconds, written as a number and one letter.
fn seconds(text: &str) -> Result<u64, String> {
    let units = [("s", 1), ("m", 60), ("h", 3_600)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    parsed.ok_or_else(|| "write a time such as 90s, 10m or 1h".to_owned())
}

/// The longest id, in bytes of its encoding, that is asked for by its path: the head of a request may have 16 KiB.
const ID_IN_PATH_MAX: usize = 8 * 1024;

/// The path of a client, or of an `action` on it.
fn path(id: &OsStr, action: &str) -> String {
    format!("/api/v1/clients/{}{action}", encoded(id.as_bytes()))
}

pub(super) async fn list(connection: &mut Connection, filters: Filters) -> Result<String, Failed> {
    let Filters {
        node,
        listener,
        network,
        off_home,
        prefix,
        quiet,
        limit,
        twice,
        reconnecting,
    } = filters;
    if twice {
        return connection.get("/api/v1/connected-twice", table).await;
    }
    if let Some(at_least) = reconnecting {
        let target = format!("/api/v1/reconnecting?at_least={at_least}");
        return connection.get(&target, loops).await;
    }
    let texts = [
        ("node", node),
        ("listener", listener),
        ("network", network),
        ("prefix", prefix),
    ];
    let texts = texts.into_iter().filter_map(|(name, value)| {
        let value = value?;
        Some(format!("&{name}={}", encoded(value.as_bytes())))
    });
    let mut query: String = texts.collect();
    if off_home {
        query += "&off_home=true";
    }
    if let Some(quiet) = quiet {
        query += &format!("&quiet={quiet}");
    }
    let most = limit.map_or(usize::MAX, |limit| limit as usize);
    let mut all = Clients::default();
    loop {
        let limit = PAGE.min(most - all.clients.len());
        let cursor = all.next.take().map_or(String::new(), |next| format!("&cursor={next}"));
        let target = format!("/api/v1/clients?limit={limit}{query}{cursor}");
        let Clients { clients, next } = connection.ask(false, &target, None).await?;
        all.clients.extend(clients);
        all.next = next;
        if all.next.is_none() || all.clients.len() >= most {
            return Ok(connection.shown(&all, table));
        }
    }
}

pub(super) async fn show(connection: &mut Connection, id: &OsStr) -> Result<String, Failed> {
    match in_body(id) {
        None => connection.get(&path(id, ""), one).await,
        body => connection.post("/api/v1/client", body, one).await,
    }
}

/// An id that is too long for a path, in a body.
fn in_body(id: &OsStr) -> Option<String> {
    let id = encoded(id.as_bytes());
    (id.len() > ID_IN_PATH_MAX).then(|| body(&AskClient { id })).flatten()
}

pub(super) async fn close(connection: &mut Connection, id: &OsStr) -> Result<String, Failed> {
    let text = |closed: &Closed| format!("connections closed: {}", closed.closed);
    match in_body(id) {
        None => connection.post(&path(id, "/close"), None, text).await,
        body => connection.post("/api/v1/client/close", body, text).await,
    }
}

pub(super) async fn rebalance(
    connection: &mut Connection,
    node: Option<&str>,
    rate: Option<u32>,
    wait: bool,
) -> Result<String, Failed> {
    let target = node.map_or("/api/v1/rebalance".to_owned(), |node| nodes::path(node, "rebalance"));
    let mut status: Rebalance = connection.ask(true, &target, body(&SetRebalance { rate })).await?;
    while wait && status.is_running {
        tokio::time::sleep(LOOK).await;
        status = connection.ask(false, "/api/v1/rebalance", None).await?;
    }
    Ok(connection.shown(&status, progress))
}

pub(super) async fn stop_rebalance(connection: &mut Connection) -> Result<String, Failed> {
    connection.post("/api/v1/rebalance/stop", None, progress).await
}

fn progress(status: &Rebalance) -> String {
    let Rebalance {
        node: _,
        rate,
        selected,
        closed,
        is_running,
    } = status;
    match is_running {
        true => format!(
            "{} to close at {rate}/s; {closed} closed",
            counted(*selected, "connection")
        ),
        false => format!("closed {closed} of {}", counted(*selected, "connection")),
    }
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn table(clients: &Clients) -> String {
    let head = cells([
        "CLIENT",
        "NODE",
        "WHY",
        "HOME",
        "LISTENER",
        "ADDRESS",
        "CONNECTED",
        "SENT",
        "RECEIVED",
        "MESSAGE",
    ]);
    let row = |row: &Row| {
        vec![
            named(&row.client_id).to_owned(),
            row.node.clone(),
            row.route.clone().unwrap_or_else(|| "-".to_owned()),
            row.home.clone().unwrap_or_else(|| "-".to_owned()),
            row.listener.clone(),
            row.client.clone(),
            time(row.seconds),
            time(row.client_silence_seconds),
            time(row.node_silence_seconds),
            time(row.message_silence_seconds),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(clients.clients.iter().map(row)).collect();
    columns("", &rows)
}

fn loops(found: &Reconnecting) -> String {
    let head = cells(["CLIENT", "ENDS", "LAST CAUSE", "NODE", "ADDRESS", "AGO"]);
    let row = |found: &Loop| {
        let Loop { count, last_end } = found;
        vec![
            last_end.client_id.clone(),
            count.to_string(),
            last_end.cause.clone(),
            last_end.node.clone().unwrap_or_else(|| "-".to_owned()),
            last_end.client.clone(),
            time(last_end.ago_seconds),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(found.reconnecting.iter().map(row))
        .collect();
    columns("", &rows)
}

fn one(client: &Client) -> String {
    let Client {
        client_id,
        connections,
        home,
        placement,
        last_end,
    } = client;
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let mut rows = vec![
        ("client", client_id.clone()),
        (
            "home",
            home.clone().unwrap_or_else(|| "depends on more than its id".to_owned()),
        ),
        ("placement", or_none(placement)),
    ];
    if connections.is_empty() {
        rows.push(("connected", "no".to_owned()));
    }
    for row in connections {
        rows.extend(of_connection(row));
    }
    if let Some(end) = last_end {
        rows.push(("last end", last(end)));
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, value)| vec![name.to_owned(), value])
        .collect();
    columns("", &rows)
}

fn of_connection(row: &Row) -> Vec<(&'static str, String)> {
    let route = row.route.as_deref().unwrap_or("-");
    let mut rows = vec![
        (
            "connected",
            format!("for {}, as connection {}", time(row.seconds), row.connection),
        ),
        ("  node", format!("{} ({route})", row.node)),
        (
            "  address",
            format!("{}, listener {} ({})", row.client, row.listener, row.transport),
        ),
        (
            "  from client",
            format!(
                "{} bytes, last {} ago",
                row.from_client,
                time(row.client_silence_seconds)
            ),
        ),
        (
            "  from node",
            format!("{} bytes, last {} ago", row.from_node, time(row.node_silence_seconds)),
        ),
        ("  last message", format!("{} ago", time(row.message_silence_seconds))),
    ];
    if let (Some(version), Some(keep_alive), Some(clean_start)) = (&row.version, row.keep_alive, row.clean_start) {
        let expiry = match row.session_expiry_seconds {
            None => "with the connection".to_owned(),
            Some(seconds) if seconds == u64::from(u32::MAX) => "never".to_owned(),
            Some(seconds) => format!("after {}", time(seconds)),
        };
        let session = format!("clean start {clean_start}, expires {expiry}");
        rows.push((
            "  MQTT",
            format!("{version}, keep alive {keep_alive} s, session: {session}"),
        ));
    }
    if let Some(name) = &row.server_name {
        rows.push(("  server name", name.clone()));
    }
    if let Some(name) = &row.certificate_cn {
        rows.push(("  certificate", name.clone()));
    }
    rows
}

fn last(end: &End) -> String {
    let node = end.node.as_deref().unwrap_or("no node");
    let (ago, lasted) = (time(end.ago_seconds), time(end.seconds));
    format!("{} {ago} ago, after {lasted}, {node}, from {}", end.cause, end.client)
}

pub(in crate::cli) fn named(client_id: &str) -> &str {
    match client_id {
        "" => "-",
        client_id => client_id,
    }
}

/// Seconds in the two largest units.
pub(in crate::cli) fn time(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes}m"),
        (days, hours, ..) => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_one_segment_of_a_path() {
        let id = OsStr::from_bytes(b"a/b ?#%&\xff<\"");
        assert_eq!(
            path(id, "/close"),
            "/api/v1/clients/a%2Fb%20%3F%23%25%26%FF%3C%22/close"
        );
    }

    #[test]
    fn times_are_read_and_shown_with_units() {
        assert_eq!(["90s", "10m", "1h"].map(seconds), [Ok(90), Ok(600), Ok(3_600)]);
        assert!(
            [
                "",
                "10",
                "m",
                "-1s",
                "1d",
                "99999999999999999999s",
                "9999999999999999999h"
            ]
            .map(seconds)
            .iter()
            .all(Result::is_err)
        );
        assert_eq!([5, 65, 3_665, 90_061].map(time), ["5s", "1m5s", "1h1m", "1d1h"]);
    }
}
