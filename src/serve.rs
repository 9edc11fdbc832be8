//! Puts the parts together: workers, listeners, control; what a program or a test starts.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::accept::{self, Population};
use crate::clock::Clock;
use crate::cluster::Reports;
use crate::config::Config;
use crate::connection::Path;
use crate::control::Control;
use crate::dial::Dialer;
use crate::ended::Ended;
use crate::greet::Greeter;
use crate::held::Held;
use crate::mqtt::Need;
use crate::peek::Peek;
use crate::relay::Table;
use crate::route::{Key, Placements};
use crate::worker::{Order, Which, Worker};

/// A balancer that runs, until it is stopped or dropped.
#[derive(Debug)]
pub struct Running {
    addresses: Vec<SocketAddr>,
    workers: Vec<Worker>,
    control: Option<JoinHandle<()>>,
}

/// Starts a balancer: binds every listener, starts control and the workers, and returns.
///
/// Host names of nodes are looked up before the listeners open; one that cannot be resolved is a warning.
///
/// # Errors
/// The first thing that the system refuses: an address in use, a thread that cannot start.
pub fn start(config: Config) -> io::Result<Running> {
    let Config {
        workers,
        listeners,
        nodes,
        affinity,
        peek,
        dial,
        greet,
        relay,
        control,
        log,
    } = config;
    raise_descriptor_limit();
    let count = match workers {
        Some(count) => count,
        None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    }
    .get();

    let mut addresses = Vec::with_capacity(listeners.len());
    let mut doors: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    for listener in &listeners {
        let (address, sockets) = accept::bind(listener.address, count, &dial).map_err(|e| {
            io::Error::new(
                e.kind(),
                format!("listener {}: {}: {e}", listener.name, listener.address),
            )
        })?;
        addresses.push(address);
        for (doors, socket) in doors.iter_mut().zip(sockets) {
            doors.push(socket);
        }
    }

    let (reports, to_control) = Reports::new();
    let patience = dial.timeout + greet.timeout;
    let control = Control::new(control, &nodes, affinity.seed, to_control, patience);
    let clusters = control.clusters();
    let listeners: Vec<_> = listeners
        .into_iter()
        .map(|listener| (listener, Arc::new(Population::default())))
        .collect();
    let held = Held::new(peek.held_bytes_max);
    let placements = Arc::new(Placements::new(
        affinity.placements_max,
        affinity.placement_age_max,
    ));
    let control = start_control(control, Arc::clone(&placements))?;
    let need = match affinity.key {
        Key::ClientId | Key::ClientAddress => Need::ClientId,
        Key::Username => Need::Username,
    };
    let mut running = Running {
        addresses,
        workers: Vec::with_capacity(count),
        control: Some(control),
    };
    for (doors, number) in doors.into_iter().zip(0..) {
        let (listeners, clusters) = (listeners.clone(), Arc::clone(&clusters));
        let placements = Arc::clone(&placements);
        let peek = Peek::new(need, &peek, Arc::clone(&held));
        let greeter = (greet.clone(), dial.clone(), reports.clone());
        let (relay, key, log) = (relay.clone(), affinity.key, log.connections);
        let path = move || {
            let (greet, dial, reports) = greeter;
            Path {
                listeners,
                peek,
                clusters,
                key,
                placements,
                greeter: Greeter::new(greet, Dialer::new(dial.clone()), reports, count),
                dialing: dial,
                table: RefCell::new(Table::new(&relay)),
                relaying: relay,
                clock: Clock::default(),
                log,
            }
        };
        running.workers.push(Worker::start(number, doors, path)?);
    }
    Ok(running)
}

impl Running {
    /// The bound addresses, in the order of the configuration's listeners.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Ends these connections, as `closed`.
    ///
    /// # Errors
    /// A worker has ended.
    pub fn close(&self, which: Which) -> io::Result<()> {
        self.workers
            .iter()
            .try_for_each(|worker| worker.order(Order::Close(which, Ended::Closed)))
    }

    /// Moves all relays of one worker to another one, without losing a byte; says how many.
    ///
    /// # Errors
    /// There is no such worker, or one has ended.
    pub fn move_connections(&self, from: usize, to: usize) -> io::Result<usize> {
        let worker = |number: usize| {
            self.workers
                .get(number)
                .ok_or_else(|| io::Error::other("no such worker"))
        };
        let (from, to) = (worker(from)?, worker(to)?);
        let relayed = from.detach(Which::All)?;
        let moved = relayed.len();
        to.order(Order::Adopt(relayed))?;
        Ok(moved)
    }

    /// Closes the listeners and every connection, and returns when all threads have ended.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.workers.iter().for_each(Worker::stop);
        self.workers.iter_mut().for_each(Worker::join);
        // With the workers go the last senders of reports, and control ends.
        if let Some(control) = self.control.take()
            && control.join().is_err()
        {
            tracing::error!("control panicked");
        }
    }
}

/// Runs control on a thread of its own; returns once host names were looked up.
fn start_control(mut control: Control, placements: Arc<Placements>) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (resolved, is_resolved) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("remora-control".into())
        .spawn(move || {
            runtime.block_on(async {
                control.resolve_at_start().await;
                // The starter has gone: then the reports' channel is closed as well.
                let _ = resolved.send(());
                tokio::select! {
                    () = control.run() => {}
                    () = tidy(placements) => {}
                }
            });
            // A look-up that hangs in the system's resolver must not hold the process.
            runtime.shutdown_background();
        })?;
    if is_resolved.recv().is_err() {
        return Err(io::Error::other("control died while it started"));
    }
    Ok(thread)
}

/// Keeps the placements within their bounds, for ever.
async fn tidy(placements: Arc<Placements>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        let now = seconds.tick().await;
        placements.tidy(now);
    }
}

/// Takes as many descriptors as the system allows: each connection needs two.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}
