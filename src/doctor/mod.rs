//! Finds out why messages do not arrive: sends some itself, between all nodes, and judges what became of them.
//!
//! `finding`, `matrix`, `verdict`, `fault` and `clock` decide without I/O; `access`, `peer` and `route_check` do the I/O and decide nothing.

pub mod access;
pub mod clients;
pub mod clock;
pub mod emqx;
pub mod examination;
pub mod fault;
pub mod finding;
pub mod front;
pub mod matrix;
mod peer;
pub mod report;
pub mod route_check;
pub mod settings;
pub mod verdict;

pub use settings::{Login, Settings};
