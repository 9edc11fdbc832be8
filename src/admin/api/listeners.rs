//! The listeners.

use super::answers::{Listener, Listeners};
use super::call::{Call, Refusal, Reply};
use crate::process::handle::Handle;

pub(super) async fn list(call: Call) -> Result<Reply, Refusal> {
    Reply::json(&Listeners {
        listeners: listeners(&call.handle),
    })
}

pub(super) fn listeners(handle: &Handle) -> Vec<Listener> {
    let listeners = handle.listeners().into_iter().map(|status| Listener {
        listener: status.name,
        address: status.address.to_string(),
        kind: status.kind.name().to_owned(),
        connections: status.connections,
        accepted: status.accepted,
        is_removed: status.removed,
    });
    listeners.collect()
}
