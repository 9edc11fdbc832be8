//! The bytes of a connection, from accept to its end. [`connection`] puts the stations in order; no station imports another.

pub mod accept;
pub(crate) mod accounts;
pub mod affinity;
pub mod connection;
pub mod counters;
pub mod ended;
pub mod greet;
pub(crate) mod handover;
pub(crate) mod home;
pub mod last_ends;
mod line_rate;
pub mod listeners;
pub mod opening;
pub mod peek;
pub mod record;
pub mod relay;
pub mod report;
pub mod route;
pub(crate) mod set_up;
pub mod sides;
pub(crate) mod stations;
pub mod worker_listener;
