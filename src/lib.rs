//! Remora: a sticky-session, MQTT-aware load balancer for TCP and WebSocket, in front of EMQX clusters.
//!
//! One connection is a sentence: accepted, opened, peeked, routed, dialed, greeted, relayed, ended.
//! [`connection`] says it in that order; each station has a module of its own, and stations do not import each other.
//!
//! What is never true here:
//!
//! 1. After a relay begins, nothing is added, dropped or reordered. The balancer speaks MQTT only to refuse.
//! 2. Nothing waits for a peer inside an accept loop.
//! 3. The path never waits for control.
//! 4. Placement has no per-process randomness: same nodes, same client id, same first choice, in any instance, in any
//!    order of nodes.
//! 5. Losing a node moves only that node's clients.
//! 6. Stickiness never refuses a client that another node could take.
//! 7. No wait without a deadline, no queue without a bound, no buffer without a cap.
//! 8. Nothing from the network panics.
//! 9. Client ids are escaped and cut wherever they are shown, and never a metric's label; no user name, password or
//!    payload anywhere.
//! 10. The balancer is never stricter about MQTT than EMQX: what it does not need, it does not read.

pub mod accept;
pub mod admin;
#[cfg(test)]
mod allocated;
pub mod bench;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod control;
pub mod descriptors;
pub mod dial;
pub mod drain;
pub mod ended;
pub mod failpoint;
pub mod greet;
pub mod held;
pub mod identity;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod mqtt;
pub mod opening;
pub mod peek;
pub mod proxy_protocol;
pub mod record;
pub mod relay;
pub mod route;
pub mod sandbox;
pub mod scratch;
pub mod serve;
pub mod socket;
pub mod sync;
pub mod tls;
pub mod vital;
pub mod websocket;
pub mod worker;

/// Runs the README's example of library use.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
