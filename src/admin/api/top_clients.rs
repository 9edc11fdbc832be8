//! The clients that come first in an order.

use std::time::Duration;

use serde::Deserialize;

use super::answers::{TopClient, TopClients};
use super::call::{Call, Refusal, Reply};
use super::clients::{FilterQuery, connection, number, refused};
use super::route::{SchemaOf, of};
use crate::process::clients::RankedBy;

/// Clients in an answer, if the query does not say.
const LIMIT_DEFAULT: usize = 20;

/// The longest time, in seconds, over which rates are measured. The request takes as long.
const OVER_MAX: u64 = 10;

/// The keys of the query.
pub(super) const QUERY: &[(&str, SchemaOf, &str)] = &[
    (
        "by",
        of::<String>(),
        "The order: `rate` (bytes within `over`, the default), `bytes` (since it was accepted), `silent` (the client has sent nothing), \
         `quiet` (the node has sent nothing but answers to pings), `oldest` or `newest`.",
    ),
    (
        "over",
        of::<u16>(),
        "For `rate`: how many seconds are measured, 1 to 10, 1 without it. The answer takes as long.",
    ),
    ("node", of::<String>(), "On this node."),
    ("listener", of::<String>(), "Accepted on a listener of this name."),
    (
        "network",
        of::<String>(),
        "With an address of this network, such as `10.0.0.0/8`.",
    ),
    ("off_home", of::<bool>(), "On another node than their home."),
    ("prefix", of::<String>(), "With an id that begins with this."),
    ("limit", of::<u16>(), "How many at most: 1 to 100, 20 without it."),
];

/// The query, percent-encoded.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TopQuery {
    by: Option<String>,
    over: Option<String>,
    node: Option<String>,
    listener: Option<String>,
    network: Option<String>,
    off_home: Option<String>,
    prefix: Option<String>,
    limit: Option<String>,
}

pub(super) async fn list(call: Call) -> Result<Reply, Refusal> {
    let TopQuery {
        by,
        over,
        node,
        listener,
        network,
        off_home,
        prefix,
        limit,
    } = call.fields()?;
    let filter = FilterQuery {
        node,
        listener,
        network,
        off_home,
        prefix,
        quiet: None,
    };
    let filter = filter.parse()?;
    let limit = limit.map_or(Ok(LIMIT_DEFAULT), |limit| number("limit", &limit))?;
    let name = by.as_deref().unwrap_or("rate");
    let is_rate = name == "rate";
    let over: Option<u64> = over.map(|over| number("over", &over)).transpose()?;
    if over.is_some_and(|over| !is_rate || !(1..=OVER_MAX).contains(&over)) {
        return Err(refused(format!(
            "over is a number of seconds from 1 to {OVER_MAX}, for by=rate"
        )));
    }
    let over = over.unwrap_or(1);
    let by = match name {
        "rate" => RankedBy::Rate(Duration::from_secs(over)),
        "bytes" => RankedBy::Bytes,
        "silent" => RankedBy::ClientSilence,
        "quiet" => RankedBy::MessageSilence,
        "oldest" => RankedBy::Oldest,
        "newest" => RankedBy::Newest,
        _ => return Err(refused("by is rate, bytes, silent, quiet, oldest or newest")),
    };
    let ranked = call.handle.ranked_clients(&filter, by, limit).await?;
    let clients = ranked.into_iter().map(|ranked| TopClient {
        moved_from_client: ranked.moved.from_client,
        moved_from_node: ranked.moved.from_node,
        connection: connection(ranked.client),
    });
    Reply::json(&TopClients {
        by: name.to_owned(),
        over_seconds: is_rate.then_some(over),
        clients: clients.collect(),
    })
}
