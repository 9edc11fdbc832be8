//! What a connection is in the messages of a handover: facts become messages and messages facts again, without I/O.

#![allow(dead_code, reason = "used by the process's part of a handover, which follows")]

mod ends;
mod facts;
mod names;

pub(crate) use ends::{end, end_of};
pub(crate) use facts::{Facts, facts, relay};
pub(crate) use names::Names;
