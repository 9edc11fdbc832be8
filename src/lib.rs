//! Remora: a sticky-session, MQTT-aware load balancer for TCP and WebSocket, in front of EMQX clusters.
//!
//! A connection passes through these steps: accepted, opened, peeked, routed, dialed, greeted, relayed, ended.
//! [`path::connection`] calls them in this order; each step has a module of its own, and the steps do not import each other.
//!
//! Invariants:
//!
//! 1. After a relay begins, nothing is added, dropped or reordered. The only MQTT that the balancer sends to a client is a refusal.
//! 2. Nothing waits for a peer inside an accept loop.
//! 3. The path never waits for control.
//! 4. Placement has no per-process randomness: same nodes, same client id, same first choice, in any instance, in any
//!    order of nodes.
//! 5. The loss of a node moves only that node's clients.
//! 6. A client is never refused for the sake of stickiness while another node could accept it.
//! 7. No wait without a deadline, no queue without a bound, no buffer without a cap.
//! 8. No input from the network causes a panic.
//! 9. Client ids are escaped and cut wherever they are shown, and are never a metric's label. No user name, password or
//!    payload is ever shown.
//! 10. The balancer is never stricter about MQTT than EMQX: what it does not need, it does not read.

pub mod config;

// Not for users of the library, and may change at any time: for the program, the tests, the benches and the fuzz targets.
#[doc(hidden)]
pub mod admin;
#[doc(hidden)]
pub mod base;
#[doc(hidden)]
pub mod cluster;
#[doc(hidden)]
pub mod control;
#[doc(hidden)]
pub mod doctor;
#[doc(hidden)]
pub mod handover;
#[doc(hidden)]
pub mod identity;
#[doc(hidden)]
pub mod import;
#[doc(hidden)]
pub mod mqtt;
#[doc(hidden)]
pub mod net;
#[doc(hidden)]
pub mod path;
#[doc(hidden)]
pub mod proxy_protocol;
#[doc(hidden)]
pub mod worker;

mod process;

pub use config::Config;

/// The library's API: starts a balancer and controls it through a handle.
pub mod serve {
    pub use crate::process::drain;
    pub use crate::process::{
        BindError, CertificateStatus, ClientEnd, ClientFilter, ClientLookup, ClientPage, ClientStatus, Counts, Cursor,
        Fronts, Handle, Inherited, ListenerStatus, NodeCounts, NodeStatus, NodeWish, NotReloaded, PAGE_MAX, Program,
        RANKED_MAX, RankedClient, RebalanceStatus, Reconnecting, Reloaded, Request, Running, Totals, Upgrade, examine,
        probe, start, start_with, take_over,
    };
    pub use crate::worker::{Moved, RankedBy, Selector};
}

/// Runs the example of library use in the documentation.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
struct Library;
