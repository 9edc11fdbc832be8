//! Where clients are, lists of them, and how they are closed and brought home.

use std::fmt::Display;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use ipnet::IpNet;
use serde::Deserialize;

use super::answers::{
    AskClient, Client, Clients, Closed, Connection, End, Loop, Rebalance, Reconnecting, SetRebalance,
};
use super::call::{Call, Refusal, Reply};
use super::route::{SchemaOf, of};
use crate::admin::percent::unescaped;
use crate::base::log::Escaped;
use crate::process::clients::{ClientEnd, ClientFilter, ClientPage, ClientStatus};
use crate::process::rebalance::RebalanceStatus;

/// Clients in one part of a list, if the query does not say.
const LIMIT_DEFAULT: usize = 100;

/// Connections closed in a second by a rebalance, if the body does not say.
const RATE_DEFAULT: u32 = 50;

/// Ends within a minute from which on a client is one that reconnects in a loop, if the query does not say.
const LOOP_DEFAULT: usize = 5;

/// What stands for a session that lives for ever (MQTT 5, 3.1.2.11.2).
const FOR_EVER: u64 = u32::MAX as u64;

/// The keys of the query of a list.
pub(super) const LIST_QUERY: &[(&str, SchemaOf, &str)] = &[
    ("node", of::<String>(), "On this node."),
    ("listener", of::<String>(), "Accepted on a listener of this name."),
    (
        "network",
        of::<String>(),
        "With an address of this network, such as `10.0.0.0/8`.",
    ),
    ("off_home", of::<bool>(), "On another node than their home."),
    ("prefix", of::<String>(), "With an id that begins with this."),
    (
        "quiet",
        of::<u64>(),
        "That have sent something within so many seconds, while their nodes have sent them nothing but answers to pings.",
    ),
    (
        "cursor",
        of::<String>(),
        "Where the list goes on: `next` of the part before.",
    ),
    ("limit", of::<u16>(), "How many at most: 1 to 1000, 100 without it."),
];

/// The keys of the query for clients that reconnect in a loop.
pub(super) const LOOPS_QUERY: &[(&str, SchemaOf, &str)] = &[(
    "at_least",
    of::<usize>(),
    "With at least so many ends in the last minute; 5 without it.",
)];

/// The query of a list, percent-encoded.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ClientsQuery {
    node: Option<String>,
    listener: Option<String>,
    network: Option<String>,
    off_home: Option<String>,
    prefix: Option<String>,
    quiet: Option<String>,
    cursor: Option<String>,
    limit: Option<String>,
}

/// Which clients a query is about, percent-encoded.
#[derive(Debug, Default)]
pub(super) struct FilterQuery {
    pub(super) node: Option<String>,
    pub(super) listener: Option<String>,
    pub(super) network: Option<String>,
    pub(super) off_home: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) quiet: Option<String>,
}

impl FilterQuery {
    pub(super) fn parse(self) -> Result<ClientFilter, Refusal> {
        let Self {
            node,
            listener,
            network,
            off_home,
            prefix,
            quiet,
        } = self;
        let off_home = match off_home.as_deref() {
            None | Some("false") => false,
            Some("true" | "") => true,
            Some(_) => return Err(refused("off_home is true or false")),
        };
        let quiet = quiet.map(|quiet| number("quiet", &quiet)).transpose()?;
        Ok(ClientFilter {
            node: node.map(|node| text("node", &node)).transpose()?,
            listener: listener.map(|listener| text("listener", &listener)).transpose()?,
            network: network
                .map(|network| parse_network(&text("network", &network)?))
                .transpose()?,
            off_home,
            id_prefix: prefix.map_or_else(Vec::new, |prefix| unescaped(&prefix).into_vec()),
            quiet_for: quiet.map(Duration::from_secs),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LoopsQuery {
    at_least: Option<String>,
}

pub(super) async fn list(call: Call) -> Result<Reply, Refusal> {
    let ClientsQuery {
        node,
        listener,
        network,
        off_home,
        prefix,
        quiet,
        cursor,
        limit,
    } = call.fields()?;
    let filter = FilterQuery {
        node,
        listener,
        network,
        off_home,
        prefix,
        quiet,
    };
    let filter = filter.parse()?;
    let cursor = cursor.map(|cursor| number("cursor", &cursor)).transpose()?;
    let limit = limit.map_or(Ok(LIMIT_DEFAULT), |limit| number("limit", &limit))?;
    let ClientPage { clients, next } = call.handle.clients(&filter, cursor, limit).await?;
    Reply::json(&Clients {
        clients: clients.into_iter().map(connection).collect(),
        next: next.map(|next| next.to_string()),
    })
}

pub(super) async fn show(call: Call) -> Result<Reply, Refusal> {
    look_up(&call, &call.id()).await
}

pub(super) async fn show_asked(call: Call) -> Result<Reply, Refusal> {
    look_up(&call, &asked(&call)?).await
}

/// The id in the body.
fn asked(call: &Call) -> Result<Vec<u8>, Refusal> {
    let AskClient { id } = call.body()?;
    match unescaped(&id).into_vec() {
        id if id.is_empty() => Err(refused("id is empty: a client without an id has none to be found by")),
        id => Ok(id),
    }
}

async fn look_up(call: &Call, id: &[u8]) -> Result<Reply, Refusal> {
    let found = call.handle.client(id).await?;
    Reply::json(&Client {
        client_id: Escaped(id).to_string(),
        connections: found.connections.into_iter().map(connection).collect(),
        home: found.home.map(owned),
        placement: found.placement.map(owned),
        last_end: found.last_end.map(end),
    })
}

pub(super) async fn close(call: Call) -> Result<Reply, Refusal> {
    close_all(&call, &call.id()).await
}

pub(super) async fn close_asked(call: Call) -> Result<Reply, Refusal> {
    close_all(&call, &asked(&call)?).await
}

/// Closes the connections of the client with this id.
async fn close_all(call: &Call, id: &[u8]) -> Result<Reply, Refusal> {
    let closed = call.handle.close_client(id).await?;
    if closed == 0 {
        let error = format!("there is no client {} now", Escaped(id));
        return Err(Refusal::new(StatusCode::NOT_FOUND, error));
    }
    call.log_change("close", None);
    Reply::json(&Closed { closed })
}

pub(super) async fn connected_twice(call: Call) -> Result<Reply, Refusal> {
    let twice = call.handle.connected_twice().await?;
    Reply::json(&Clients {
        clients: twice.into_iter().map(connection).collect(),
        next: None,
    })
}

pub(super) async fn reconnecting(call: Call) -> Result<Reply, Refusal> {
    let LoopsQuery { at_least } = call.fields()?;
    let at_least = at_least.map_or(Ok(LOOP_DEFAULT), |at_least| number("at_least", &at_least))?;
    let loops = call.handle.reconnecting(at_least).await?;
    let loops = loops.into_iter().map(|found| Loop {
        count: found.count,
        last_end: end(found.last),
    });
    Reply::json(&Reconnecting {
        reconnecting: loops.collect(),
    })
}

pub(super) async fn rebalance(call: Call) -> Result<Reply, Refusal> {
    start(&call, None).await
}

pub(super) async fn rebalance_node(call: Call) -> Result<Reply, Refusal> {
    start(&call, Some(call.name())).await
}

async fn start(call: &Call, node: Option<&str>) -> Result<Reply, Refusal> {
    let SetRebalance { rate } = call.body_or_default()?;
    let rate = rate.unwrap_or(RATE_DEFAULT);
    if rate == 0 {
        return Err(refused("rate is a number of connections a second, 1 or more"));
    }
    let status = call.handle.start_rebalance(node, rate).await?;
    call.log_change("rebalance", node);
    Reply::json(&rebalance_of(status))
}

pub(super) async fn show_rebalance(call: Call) -> Result<Reply, Refusal> {
    // Before the first one, all of it is nothing.
    let status = call.handle.rebalance_status();
    Reply::json(&status.map(rebalance_of).unwrap_or_default())
}

pub(super) async fn stop_rebalance(call: Call) -> Result<Reply, Refusal> {
    call.handle.stop_rebalance().await?;
    call.log_change("stop rebalance", None);
    show_rebalance(call).await
}

pub(super) fn rebalance_of(status: RebalanceStatus) -> Rebalance {
    let RebalanceStatus {
        node,
        rate,
        selected,
        closed,
        is_running,
    } = status;
    Rebalance {
        node,
        rate,
        selected,
        closed,
        is_running,
    }
}

pub(super) fn refused(error: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, error)
}

/// A text of the query.
fn text(name: &str, encoded: &str) -> Result<String, Refusal> {
    let text = unescaped(encoded).into_string();
    text.map_err(|_| refused(format!("{name} is not UTF-8")))
}

/// A number of the query, or a cursor.
pub(super) fn number<T: FromStr<Err: Display>>(name: &str, encoded: &str) -> Result<T, Refusal> {
    let text = text(name, encoded)?;
    text.parse().map_err(|error| refused(format!("{name}: {error}")))
}

/// A network, or one address.
fn parse_network(text: &str) -> Result<IpNet, Refusal> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    let network = address.or_else(|_| text.parse::<IpNet>());
    network.map_err(|_| {
        refused(format!(
            "network: {} is no address and no network",
            Escaped(text.as_bytes())
        ))
    })
}

fn owned(name: Arc<str>) -> String {
    name.to_string()
}

pub(super) fn connection(status: ClientStatus) -> Connection {
    let shown = |text: Box<str>| Escaped(text.as_bytes()).to_string();
    Connection {
        connection: status.number.to_string(),
        client_id: status.client_id.to_string(),
        node: owned(status.node),
        route: status.route.map(|route| route.name().to_owned()),
        home: status.home.map(owned),
        listener: status.listener,
        transport: status.transport.name().to_owned(),
        client: status.client.to_string(),
        version: status.version.map(str::to_owned),
        seconds: status.connected.as_secs(),
        client_silence_seconds: status.client_silence.as_secs(),
        node_silence_seconds: status.node_silence.as_secs(),
        message_silence_seconds: status.message_silence.as_secs(),
        from_client: status.from_client,
        from_node: status.from_node,
        keep_alive: status.keep_alive,
        clean_start: status.clean_start,
        session_expiry_seconds: status.session_expiry.map(|expiry| expiry.as_secs().min(FOR_EVER)),
        server_name: status.server_name.map(shown),
        certificate_cn: status.certificate_cn.map(shown),
    }
}

fn end(end: ClientEnd) -> End {
    End {
        client_id: end.client_id.to_string(),
        cause: end.cause.name().to_owned(),
        ago_seconds: end.ago.as_secs(),
        seconds: end.connected.as_secs(),
        client: end.client.to_string(),
        node: end.node.map(owned),
        route: end.route.map(|route| route.name().to_owned()),
    }
}
