//! The process: starts workers, control and the admin listener, and owns their threads. Orders go through a [`Handle`].

mod bind_error;
pub(crate) mod certificates;
mod client_check;
pub(crate) mod clients;
mod closing_gate;
mod closings;
mod cluster_check;
mod control_thread;
pub(crate) mod counts;
mod doctor;
pub mod drain;
mod examiner;
mod examiner_handle;
mod expiry;
pub(crate) mod handle;
pub(crate) mod handover;
mod inherited;
mod limits;
mod listeners;
mod on_down;
mod owner;
pub(crate) mod rebalance;
mod reload;
mod requests;
mod start;
mod storm;
mod usage;
mod watchdog;

use std::io;
use std::ops::Deref;

use crate::base::supervise::Task;
use crate::config::Config;
use crate::worker::Worker;

use control_thread::ControlThread;
use start::{Before, Starting};
use watchdog::Watchdog;

pub use bind_error::{BindError, probe};
pub use certificates::CertificateStatus;
pub use clients::{
    ClientEnd, ClientFilter, ClientLookup, ClientPage, ClientStatus, Cursor, PAGE_MAX, RANKED_MAX, RankedClient,
    Reconnecting,
};
pub use counts::{Counts, NodeCounts};
pub use doctor::{Fronts, examine};
pub use handle::{Handle, ListenerStatus, NodeStatus, NodeWish, Totals};
pub use handover::take_over;
pub use inherited::Inherited;
pub use rebalance::RebalanceStatus;
pub use requests::{NotReloaded, Program, Reloaded, Request, Upgrade};

/// A running balancer: owns its threads, and stops them when dropped. Everything else is done through its [`Handle`],
/// to which it derefs.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    workers: Vec<Worker>,
    /// Ends before the workers, which beat no more once they end.
    watchdog: Option<Watchdog>,
    /// Ends after the workers, which report to it.
    control: ControlThread,
}

/// Starts a balancer: binds every listener, starts control and the workers, and returns.
///
/// Host names of nodes are looked up before the listeners open; one that cannot be resolved is a warning. Must not be
/// called on a thread of a runtime.
///
/// # Errors
/// The first thing that the system refuses: an address in use, a thread that cannot start.
pub fn start(config: Config) -> io::Result<Running> {
    start_with(config, Inherited::default(), async |_| {})
}

/// Starts a balancer like [`start`], with sockets that are open already. `prepare` is run before the first client can be accepted: for
/// what must be in force by then, such as a node that is draining.
///
/// # Errors
/// As of [`start`].
pub fn start_with(config: Config, inherited: Inherited, prepare: impl AsyncFnOnce(&Handle)) -> io::Result<Running> {
    let starting = Starting::new(config, inherited, Before::NOTHING)?;
    starting.runtime().block_on(async {
        prepare(starting.handle()).await;
        starting.open().await
    })
}

impl Running {
    /// A handle. It does not keep the balancer running.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Closes the listeners and every connection, and waits until all threads have ended. Returns the critical task
    /// that has panicked, if any.
    pub fn stop(self) -> Option<Task> {
        let supervisor = self.handle.0.supervisor.clone();
        drop(self);
        supervisor.panicked_now()
    }
}

impl Deref for Running {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        self.watchdog = None;
        self.workers.iter_mut().for_each(Worker::join);
    }
}
