//! Takes over from another process: starts everything, holds what that process has, and serves once it lets go.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::time::Instant;

use super::examination;
use super::known::{self, socket_address};
use crate::admin::Serving;
use crate::base::build;
use crate::base::clock;
use crate::base::events::Change;
use crate::cluster::{EndpointKind, NodeId};
use crate::config::Config;
use crate::control::Learned;
use crate::handover::messages::{
    Closing, Complete, Counter, Endpoint, Hello, Invalid, Knowledge, ListenSocket, Manifest, Placement, Prepared, State,
};
use crate::handover::{self, Deadlines, Offered, Step};
use crate::net::descriptors;
use crate::path::accept::Listener;
use crate::path::handover::{Names, placement_of};
use crate::path::listeners::ListenerEntry;
use crate::path::record::ListenerId;
use crate::process::Running;
use crate::process::handle::{Handle, NodeWish};
use crate::process::inherited::{Inherited, InheritedSocket};
use crate::process::start::{Before, Starting};
use crate::worker::handover::{Learn, Park};
use crate::worker::{Asked, Order, WORKER_SHIFT, WorkerHandle};

/// Starts a balancer that takes over from the process at the other end of `socket`: its listeners, its connections, its placements, the
/// operator's wishes and what it has counted. Returns once it serves; connections that were being set up follow in the background. Must
/// not be called on a thread of a runtime.
///
/// # Errors
/// Why not. The other process goes on as if nothing had happened, and this one must exit at once without closing anything gracefully.
pub fn take_over(config: Config, socket: UnixStream) -> io::Result<Running> {
    // The other process asks for the limit.
    descriptors::raise_limit();
    let (reply, runs) = sync_channel(1);
    std::thread::Builder::new()
        .name("remora-handover".into())
        .spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(reply.send(Err(error))),
            };
            runtime.block_on(take(config, socket, reply));
        })?;
    runs.recv()
        .unwrap_or_else(|_| Err(io::Error::other("the handover panicked")))
}

async fn take(config: Config, socket: UnixStream, reply: SyncSender<io::Result<Running>>) {
    let mut process = Process {
        config: Some(config),
        manifest: Manifest::default(),
        inherited: Inherited::default(),
        starting: None,
        handle: None,
        names: Arc::default(),
        adopting: Vec::new(),
        closings: Vec::new(),
        is_first: true,
        reply,
    };
    let taken = async {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        handover::take(socket, &mut process, Deadlines::default()).await
    };
    match taken.await {
        Ok(taken) => {
            if let Some(handle) = &process.handle {
                // After all that has come is counted.
                handle.0.is_taking.store(false, Ordering::Release);
            }
            let (version, moved) = (&process.manifest.program, taken.relays);
            if let Some(handle) = &process.handle {
                handle.events().push(Change::Handover {
                    result: "took".to_owned(),
                    moved,
                    left: 0,
                    error: None,
                });
            }
            tracing::info!(
                event = Change::HANDOVER,
                version,
                moved,
                rounds = taken.rounds,
                "took over"
            );
            if let Some(why) = taken.cut_short {
                tracing::warn!(error = %why, "the other process was gone before all that could move had moved");
            }
        }
        Err(failure) => {
            let reply = process.reply.clone();
            // Nothing of it may be closed gracefully: the other process goes on with all of it.
            std::mem::forget(process);
            // The main thread waits for it, and exits.
            let _ = reply.send(Err(io::Error::other(failure)));
        }
    }
}

/// This process, as the one that takes.
struct Process {
    /// Until it starts.
    config: Option<Config>,
    manifest: Manifest,
    /// The sockets that have come, until it starts.
    inherited: Inherited,
    /// Once everything runs, until it serves.
    starting: Option<Starting>,
    /// Once everything runs.
    handle: Option<Handle>,
    names: Arc<Names>,
    /// Whether the workers have adopted what they were sent.
    adopting: Vec<Asked<Result<usize, Invalid>>>,
    /// What an operator has ordered, until this process relays.
    closings: Vec<Closing>,
    /// Nothing has moved yet.
    is_first: bool,
    /// To the main thread, which waits.
    reply: SyncSender<io::Result<Running>>,
}

impl Process {
    /// Starts everything that does not serve, once all sockets have come.
    async fn start(&mut self) -> Result<Handle, String> {
        if let Some(handle) = &self.handle {
            return Ok(handle.clone());
        }
        let config = self.config.take().ok_or("the start has failed")?;
        let inherited = std::mem::take(&mut self.inherited);
        inherited.warn_of_other_networks();
        let before = Before {
            learned: Learned {
                known: self.manifest.nodes.clone(),
                down: endpoints(&self.manifest.down),
                answered: endpoints(&self.manifest.answered),
                drained_by_api: self.manifest.drained_by_api.clone(),
                found: known::read(&self.manifest)?,
            },
            usual_connects: self.manifest.usual_connects,
            admin_serves: Serving::NotYet,
        };
        // It waits for threads and for host names.
        let starting = tokio::task::spawn_blocking(|| Starting::new(config, inherited, before)).await;
        let starting = starting.map_err(|error| error.to_string())?;
        let starting = starting.map_err(|error| error.to_string())?;
        let handle = starting.handle().clone();
        handle.0.is_taking.store(true, Ordering::Relaxed);
        if let Some(last) = self.manifest.examined.as_ref().and_then(examination::read) {
            handle.0.state.examined.replace(Arc::new(last));
        }
        self.starting = Some(starting);
        for wish in &self.manifest.wishes {
            let wish = NodeWish {
                node: wish.node.clone(),
                weight: wish.weight.map(|weight| u16::try_from(weight).unwrap_or(u16::MAX)),
                is_draining: wish.is_draining,
            };
            if let Err(error) = handle.restore(&wish).await {
                tracing::warn!(node = wish.node, %error, "wishes for the node cannot be restored");
            }
        }
        self.names = Arc::new(names(&self.manifest, &handle)?);
        self.handle = Some(handle.clone());
        Ok(handle)
    }

    /// What a worker is told of the other process: nothing but its names yet.
    fn learn(&self) -> Learn {
        Learn {
            names: Arc::clone(&self.names),
            ..Learn::default()
        }
    }

    fn started(&self) -> Result<&Handle, String> {
        self.handle.as_ref().ok_or_else(|| "not prepared".to_owned())
    }
}

impl handover::Taker for Process {
    fn hello(&self) -> Hello {
        Hello {
            program: build::VERSION.to_owned(),
            pid: std::process::id(),
            descriptors_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            ..Hello::default()
        }
    }

    async fn begin(&mut self, manifest: Manifest) -> Result<(), String> {
        // Relays count their silence in seconds of this clock. One that runs already does no harm: silences are short then.
        let _ = clock::begin_ago(Duration::from_millis(manifest.age_ms));
        self.manifest = manifest;
        Ok(())
    }

    async fn sockets(&mut self, sockets: Vec<(ListenSocket, OwnedFd)>) -> Result<(), String> {
        for (entry, socket) in sockets {
            match (entry.listener, &*entry.other) {
                (Some(place), _) => {
                    let listener = usize::try_from(place)
                        .ok()
                        .and_then(|place| self.manifest.listeners.get(place));
                    let listener = listener.ok_or("a socket of no listener")?;
                    self.inherited.listeners.push(InheritedSocket {
                        name: listener.name.clone(),
                        configured: socket_address(&listener.configured)?,
                        socket,
                    });
                }
                (None, "admin") => self.inherited.admin.tcp.push(socket),
                (None, "admin-socket") => self.inherited.admin.unix = Some((PathBuf::from(entry.bound), socket)),
                (None, "handover") => self.inherited.handover = Some((PathBuf::from(entry.bound), socket)),
                // Of a kind that this program does not know.
                _ => {}
            }
        }
        Ok(())
    }

    async fn relays(&mut self, relays: Vec<Offered>) -> Result<(), String> {
        let handle = self.start().await?;
        let workers = &handle.0.workers;
        let mut of_workers: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
        for offered in relays {
            let place = place(offered.relay.number, workers);
            of_workers[place].push(offered);
        }
        let mut asked = Vec::new();
        for (worker, relays) in workers.iter().zip(of_workers) {
            if !relays.is_empty() {
                let names = Arc::clone(&self.names);
                let park = Park { names, relays };
                asked.push(worker.ask(|reply| Order::Park(park, reply)).await.map_err(text)?);
            }
        }
        for asked in asked {
            asked.answer().await.map_err(text)?.map_err(text)?;
        }
        Ok(())
    }

    async fn placements(&mut self, placements: Vec<Placement>) -> Result<(), String> {
        let handle = self.start().await?;
        let now = Instant::now();
        for message in &placements {
            // That of a node which only the other process knows is of no use here.
            let exported = placement_of(message, &self.names).map_err(text)?;
            handle.0.shared.placements.import(exported, self.is_first, now);
        }
        Ok(())
    }

    async fn prepare(&mut self) -> Result<Prepared, String> {
        let handle = self.start().await?;
        let listeners = handle.0.shared.listeners.current();
        let is_open = |id| listeners.iter().any(|entry| entry.id == id && !entry.removed);
        let closing = (0..).zip(&self.manifest.listeners).filter(|(place, listener)| {
            let here = self.names.listener(*place);
            !listener.is_removed && !here.is_ok_and(is_open)
        });
        Ok(Prepared {
            closing: closing.map(|(place, _)| place).collect(),
        })
    }

    async fn states(&mut self, states: Vec<State>) -> Result<(), String> {
        let workers = &self.started()?.0.workers;
        let mut of_workers: Vec<Vec<_>> = workers.iter().map(|_| Vec::new()).collect();
        for state in states {
            let place = place(state.number, workers);
            of_workers[place].push(state);
        }
        let mut asked = Vec::new();
        for (worker, states) in workers.iter().zip(of_workers) {
            if !states.is_empty() {
                asked.push(
                    worker
                        .ask(|reply| Order::AdoptStates(states, reply))
                        .await
                        .map_err(text)?,
                );
            }
        }
        // While they adopt, the next ones come.
        self.adopting.extend(asked);
        Ok(())
    }

    async fn knowledge(&mut self, knowledge: Knowledge) -> Result<(), String> {
        let Knowledge { counters, ends, left } = knowledge;
        let handle = self.started()?;
        for left in left {
            let ends_within = Duration::from_millis(left.ends_within_ms);
            handle.0.left_behind.add(left.connections, ends_within, Instant::now());
        }
        let handovers = &handle.0.state.handovers;
        let is_other = |counter: &Counter| !handovers.learn(&counter.name, &counter.label, counter.count);
        let counters: Vec<Counter> = counters.into_iter().filter(is_other).collect();
        let workers = &handle.0.workers;
        // Each worker remembers its share of the ends. Any of them may have counted.
        let mut of_workers: Vec<Learn> = workers.iter().map(|_| self.learn()).collect();
        for (end, place) in ends.into_iter().zip((0..workers.len()).cycle()) {
            of_workers[place].ends.push(end);
        }
        if let Some(first) = of_workers.first_mut() {
            first.counters = counters;
        }
        for (worker, learn) in workers.iter().zip(of_workers) {
            let learnt = worker.request(|reply| Order::Learn(learn, reply)).await;
            learnt.map_err(text)?.map_err(text)?;
        }
        Ok(())
    }

    async fn adopt(&mut self, complete: Complete) -> Result<Vec<u64>, String> {
        for adopting in std::mem::take(&mut self.adopting) {
            adopting.answer().await.map_err(text)?.map_err(text)?;
        }
        let handle = self.started()?;
        let mut numbers = complete.numbers.into_iter();
        for (worker, number) in handle.0.workers.iter().zip(numbers.by_ref()) {
            let learn = Learn {
                last_number: Some(number),
                ..self.learn()
            };
            let learnt = worker.request(|reply| Order::Learn(learn, reply)).await;
            learnt.map_err(text)?.map_err(text)?;
        }
        // The same in each round.
        let _ = handle.0.numbers_before.set(numbers.collect());
        self.closings = complete.closings;
        Ok(Vec::new())
    }

    async fn run(&mut self) {
        if let Some(handle) = &self.handle {
            for worker in &handle.0.workers {
                // A worker that has ended has been reported.
                let _ = worker.request(Order::Run).await;
            }
            handle.go_on_with(std::mem::take(&mut self.closings));
        }
        self.is_first = false;
        if let Some(starting) = self.starting.take() {
            // The main thread is gone only if the process ends.
            let _ = self.reply.send(starting.open().await);
        }
    }

    async fn discard(&mut self) {
        if self.is_first {
            // The process exits, and that is all there is to do.
            return;
        }
        // What has moved in earlier rounds is relayed here.
        self.adopting.clear();
        if let Some(handle) = &self.handle {
            for worker in &handle.0.workers {
                // A worker that has ended has been reported.
                let _ = worker.request(Order::Discard).await;
            }
        }
    }

    fn progress(&mut self, step: Step) {
        let step = step.name();
        tracing::debug!(step, "handover");
    }
}

/// The worker that has a connection of this number.
fn place(number: u64, workers: &[WorkerHandle]) -> usize {
    (number >> WORKER_SHIFT) as usize % workers.len()
}

/// What the other process's nodes and listeners are here. A listener that is not configured any more has no socket.
fn names(manifest: &Manifest, handle: &Handle) -> Result<Names, String> {
    let known = handle.0.shared.clusters.current();
    let known = known.all_known();
    let nodes = manifest.nodes.iter().map(|name| {
        let place = known.iter().position(|known| *known.name == **name);
        place.and_then(|place| u16::try_from(place).ok()).map(NodeId)
    });
    let nodes = nodes
        .collect::<Option<Vec<NodeId>>>()
        .ok_or("a node that is not known here")?;
    let mut listeners = Vec::new();
    for listener in &manifest.listeners {
        let configured = socket_address(&listener.configured)?;
        let as_configured = Listener {
            name: listener.name.clone(),
            ..Listener::new(configured)
        };
        let entries = handle.0.shared.listeners.current();
        let found = entries
            .iter()
            .find(|entry| !listener.is_removed && entry.is(&as_configured));
        listeners.push(match found {
            Some(entry) => entry.id,
            None => {
                let id = ListenerId(u16::try_from(entries.len()).map_err(text)?);
                let mut entry = ListenerEntry::new(
                    id,
                    as_configured,
                    socket_address(&listener.bound)?,
                    handle.0.workers.len(),
                );
                entry.removed = true;
                handle.0.shared.listeners.add(entry);
                id
            }
        });
    }
    Ok(Names::new(nodes, listeners))
}

/// The endpoints, without those of a kind that this program does not know.
fn endpoints(messages: &[Endpoint]) -> Vec<(String, EndpointKind)> {
    let known = messages.iter().filter_map(|message| {
        let mut kinds = EndpointKind::ALL.iter();
        let kind = kinds.find(|kind| kind.name() == message.endpoint)?;
        Some((message.node.clone(), *kind))
    });
    known.collect()
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
