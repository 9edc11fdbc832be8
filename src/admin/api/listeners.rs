//! The listeners.

use super::answers::{Listener, Listeners};
use super::call::{Call, Refusal, Reply};

pub(super) async fn list(call: Call) -> Result<Reply, Refusal> {
    let listeners = call.handle.listeners().into_iter().map(|status| Listener {
        listener: status.name,
        address: status.address.to_string(),
        kind: status.kind.name().to_owned(),
        connections: status.connections,
        accepted: status.accepted,
        is_removed: status.removed,
    });
    Reply::json(&Listeners {
        listeners: listeners.collect(),
    })
}
