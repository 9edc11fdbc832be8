//! What the API requests of the owner of the process: to read the configuration again, to drain and end. The owner does it in the same
//! way as for a signal.

use tokio::sync::oneshot;

use crate::config::Problems;

/// A request to the owner of the process.
#[derive(Debug)]
pub enum Request {
    /// To read the configuration again.
    Reload(oneshot::Sender<Result<Reloaded, NotReloaded>>),
    /// To drain, then end.
    Drain,
}

/// Why a configuration was not taken. Nothing has changed.
#[derive(Debug)]
pub struct NotReloaded {
    /// In a line.
    pub why: String,
    /// The problems of the file, if it has any.
    pub problems: Option<Problems>,
}

/// The result of a reload.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose change needs a restart; the old values stay in force.
    pub restart: Vec<&'static str>,
}
