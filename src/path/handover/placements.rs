//! Placements as messages and back.

use std::time::Duration;

use super::Names;
use super::facts::hash_of;
use crate::handover::messages::{self, Invalid, NO_NODE, milliseconds};
use crate::path::route::{Exported, Kept};

/// The placement as a message; `None` if its node has no name in this handover.
pub(crate) fn placement(exported: &Exported, names: &Names) -> Option<messages::Placement> {
    let key = exported.key.to_be_bytes().to_vec();
    let Some(kept) = exported.kept else {
        return Some(messages::Placement {
            key,
            node: NO_NODE,
            expires_ms: Some(0),
            ..messages::Placement::default()
        });
    };
    // Rounded up, since 0 means that it was forgotten.
    let ms = |expires: Duration| milliseconds(expires).saturating_add(1);
    Some(messages::Placement {
        key,
        node: names.place_of_node(kept.node)?,
        owner: kept.owner,
        expires_ms: kept.expires.map(ms),
        is_assigned: kept.is_assigned,
        source: kept.source,
    })
}

/// The placement that a message tells of.
///
/// # Errors
/// None can be like that.
pub(crate) fn placement_of(message: &messages::Placement, names: &Names) -> Result<Exported, Invalid> {
    let kept = match message.expires_ms {
        Some(0) => None,
        expires => Some(Kept {
            node: names.node(message.node)?,
            owner: message.owner,
            expires: expires.map(Duration::from_millis),
            is_assigned: message.is_assigned,
            source: message.source,
        }),
    };
    Ok(Exported {
        key: hash_of(&message.key)?,
        kept,
    })
}
