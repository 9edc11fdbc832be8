//! How connections ended lately, as messages and back.

use std::time::Duration;

use tokio::time::Instant;

use super::Names;
use super::facts::{before, client_id, connected_of, decision_of, key, micros};
use crate::handover::messages::{self, Invalid, NO_NODE, milliseconds};
use crate::path::ended::Ended;
use crate::path::last_ends::LastEnd;
use crate::path::record::Connected;

/// The end as a message.
pub(crate) fn end(end: &LastEnd, now: Instant, names: &Names) -> messages::End {
    let (id, long_id) = client_id(&end.client_id);
    let age = |at: Instant| now.saturating_duration_since(at);
    messages::End {
        relay: Some(messages::Relay {
            // A node without a name is none: the end is shown all the same.
            node: end.node.and_then(|node| names.place_of_node(node)).unwrap_or(NO_NODE),
            client: end.client.to_string(),
            age_us: micros(age(end.accepted)),
            connect: Some(messages::Connected {
                client_id: id,
                long_id,
                placement: key(end.placement),
                ring_hash: end.ring_hash,
                ..messages::Connected::default()
            }),
            decision: end.decision.map(|decision| decision.name().to_owned()),
            ..messages::Relay::default()
        }),
        cause: end.cause.name().to_owned(),
        ago_ms: milliseconds(age(end.at)),
    }
}

/// The end that a message tells of; `None` if its cause is unknown here.
///
/// # Errors
/// No connection can have ended like that.
pub(crate) fn end_of(message: &messages::End, now: Instant, names: &Names) -> Result<Option<LastEnd>, Invalid> {
    let Some(cause) = Ended::ALL.iter().copied().find(|cause| cause.name() == message.cause) else {
        return Ok(None);
    };
    let relay = message.relay.as_ref().ok_or(Invalid("end"))?;
    let connect = relay.connect.as_ref().ok_or(Invalid("CONNECT of an end"))?;
    let Connected {
        client_id,
        placement,
        ring_hash,
        ..
    } = connected_of(connect)?;
    Ok(Some(LastEnd {
        client_id,
        cause,
        at: before(now, Duration::from_millis(message.ago_ms)),
        accepted: before(now, Duration::from_micros(relay.age_us)),
        client: relay.client.parse().map_err(|_| Invalid("address of a client"))?,
        node: names.node_or_none(relay.node)?,
        decision: decision_of(relay.decision.as_deref()),
        placement,
        ring_hash,
    }))
}
