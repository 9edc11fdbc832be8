//! Configurations of nginx and HAProxy, as far as they mean something to a balancer of MQTT: text in, TOML and a report out.
//!
//! Each language has a grammar that keeps positions, and a reader that turns directives into listeners, nodes and keys. Every directive
//! ends up in the result or in the report. Files are read by the caller.

mod address;
mod cluster;
mod draft;
mod environment;
mod files;
mod haproxy;
mod listeners;
mod model;
mod nginx;
mod report;
mod text;
mod tls;
mod units;
mod whole;
mod writer;

pub use files::Files;
pub use haproxy::haproxy;
pub use nginx::nginx;
pub use report::{Failure, Report};

/// What became of a configuration.
#[derive(Debug)]
pub struct Imported {
    /// The same as far as Remora can do it, as TOML; `None` if there is nothing that it could serve.
    pub toml: Option<String>,
    /// What became of everything else.
    pub report: Report,
}
