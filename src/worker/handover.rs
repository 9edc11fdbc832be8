//! A worker's part in a handover. In the process that gives: offers relays, freezes them, and then forgets or thaws them. In the
//! process that takes over: parks relays, adopts their states, and runs them.

#![allow(dead_code, reason = "used by the process's part of a handover, which follows")]

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::handover::messages;
use crate::path::handover::Names;
use crate::path::relay::Stays;

/// Which relays to offer: up to so many, from this place of the table on.
#[derive(Debug)]
pub(crate) struct Offer {
    /// What nodes and listeners are called.
    pub names: Arc<Names>,
    /// The place to go on from.
    pub place: u32,
    /// How many at most.
    pub most: usize,
}

/// A relay with duplicates of its sockets, on its way to another process.
#[derive(Debug)]
pub(crate) struct Offered {
    /// What does not change of it.
    pub relay: messages::Relay,
    /// The client's socket.
    pub client: OwnedFd,
    /// The node's.
    pub node: OwnedFd,
}

/// Part of a worker's relays.
#[derive(Debug, Default)]
pub(crate) struct OfferedPage {
    /// Those that could move now.
    pub offered: Vec<Offered>,
    /// The place to go on from; `None` at the end.
    pub next: Option<u32>,
}

/// What to freeze: every relay that can move.
#[derive(Debug)]
pub(crate) struct Freeze {
    /// What nodes and listeners are called.
    pub names: Arc<Names>,
    /// The numbers of the relays that were offered before and sent; the others are offered now.
    pub known: Arc<HashSet<u64>>,
}

/// A worker's relays, frozen.
#[derive(Debug, Default)]
pub(crate) struct Frozen {
    /// The states of all that move.
    pub states: Vec<messages::State>,
    /// Those of them that were not known.
    pub offered: Vec<Offered>,
    /// How many stay, by reason.
    pub left: Vec<(Stays, usize)>,
    /// The number of the last connection that was accepted.
    pub last_number: u64,
}

/// Relays to hold until their states come.
#[derive(Debug)]
pub(crate) struct Park {
    /// What nodes and listeners are called.
    pub names: Arc<Names>,
    /// The relays.
    pub relays: Vec<Offered>,
}

/// What a worker is to know of the time before it started.
#[derive(Debug, Default)]
pub(crate) struct Learn {
    /// What nodes and listeners are called.
    pub names: Arc<Names>,
    /// Connections are numbered from here on, unless they are further already.
    pub last_number: Option<u64>,
    /// To be added to what the worker has counted.
    pub counters: Vec<messages::Counter>,
    /// How connections ended, the newest last.
    pub ends: Vec<messages::End>,
}
