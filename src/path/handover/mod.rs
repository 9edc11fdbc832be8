//! What a connection is in the messages of a handover: facts become messages and messages facts again, without I/O.

#![allow(
    dead_code,
    unused_imports,
    reason = "used by the process's part of a handover, which follows"
)]

mod counts;
mod ends;
mod facts;
mod names;
mod placements;

pub(crate) use counts::Counts;
pub(crate) use ends::{end, end_of};
pub(crate) use facts::{Facts, facts, relay};
pub(crate) use names::Names;
pub(crate) use placements::{placement, placement_of};
