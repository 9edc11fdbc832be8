//! Utilities for all modules: the clock, scratch buffers, logging, memory, heartbeats, supervision of critical tasks. Knows nothing of MQTT or
//! of nodes.

#[cfg(test)]
pub mod allocated;
pub mod build;
pub mod clock;
pub mod events;
pub mod failpoint;
pub mod heartbeat;
pub mod log;
pub mod memory;
pub mod pace;
pub mod rate_table;
pub(crate) mod scratch;
pub mod supervise;
pub mod sync;
pub mod task;
pub(crate) mod turn;
pub mod words;
