//! Puts the parts together: workers, listeners, control, admin; what a program or a test starts, reloads and drains.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use rustix::process::{Resource, getrlimit};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::accept::{self, Listener, Population, Tls};
use crate::admin::{self, Facts, ListenerFacts, Reloads};
use crate::cluster::{Member, Reports};
use crate::config::Config;
use crate::connection::{Listening, Path, Settings, Shared};
use crate::control::{self, Control};
use crate::descriptors;
use crate::drain::{self, Pace};
use crate::ended::Ended;
use crate::held::Held;
use crate::metrics::ListenerTally;
use crate::record::ListenerId;
use crate::relay;
use crate::route::{self, Placements};
use crate::tls;
use crate::vital::{Task, Vitals};
use crate::worker::{Order, Which, Worker};

/// Descriptors that are not for connections: logs, epolls, the admin listener and its callers, a reload.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Descriptors of each worker that are not for connections, besides those of its pipes: its listeners and their reserves.
const DESCRIPTORS_RESERVED_PER_WORKER: u64 = 8;

/// One in so many of all descriptors may be a pipe's, where that is more than [`relay::PIPES_MIN`]: bulk to slow receivers holds
/// a pipe for each, and without one is copied.
const DESCRIPTORS_PER_PIPE_DESCRIPTOR: u64 = 32;

/// Pipes of each worker at most. The kernel gives a user without privileges some 1,000 of full size.
const PIPES_MAX: usize = 256;

/// Between two rounds of closing.
const DRAIN_ROUND: Duration = Duration::from_millis(50);

/// A balancer that runs, until it is stopped or dropped.
#[derive(Debug)]
pub struct Running {
    config: Config,
    listeners: BTreeMap<ListenerId, Bound>,
    next_listener: u16,
    workers: Vec<Worker>,
    shared: Shared,
    facts: Arc<Facts>,
    orders: mpsc::Sender<control::Order>,
    admin: Option<SocketAddr>,
    control: Option<JoinHandle<()>>,
    vitals: Vitals,
}

/// A listener that is open.
#[derive(Debug)]
struct Bound {
    listener: Listener,
    /// Where it is bound: the port is known here even if it was left to the kernel.
    address: SocketAddr,
}

impl Bound {
    /// Whether `listener` is this one, perhaps with other settings. Only their names tell free ports apart.
    fn is(&self, listener: &Listener) -> bool {
        self.listener.address == listener.address
            && (listener.address.port() != 0 || self.listener.name == listener.name)
    }
}

/// Starts a balancer: binds every listener, starts control and the workers, and returns.
///
/// Host names of nodes are looked up before the listeners open; one that cannot be resolved is a warning. Not for a thread
/// of a runtime.
///
/// # Errors
/// The first thing that the system refuses: an address in use, a thread that cannot start.
pub fn start(config: Config) -> io::Result<Running> {
    descriptors::raise_limit();
    let count = match config.workers {
        Some(count) => count,
        None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    }
    .get();
    let admin_listener = admin::bind(&config.admin)?;
    let mut bound = Vec::with_capacity(config.listeners.len());
    for listener in &config.listeners {
        bound.push(bind(listener, count, &config)?);
    }

    let (reports, to_control) = Reports::new();
    let (control, orders) = Control::new(
        config.control.clone(),
        &config.nodes,
        config.affinity.seed,
        to_control,
        patience(&config),
    );
    let shared = Shared {
        census: Arc::default(),
        handshakes: Arc::default(),
        held: Held::new(config.peek.held_bytes_max),
        clusters: control.clusters(),
        reports,
        key: config.affinity.key,
        placements: Arc::new(Placements::new(
            config.affinity.placements_max,
            config.affinity.placement_age_max,
        )),
        workers: count,
    };
    let facts = Arc::new(Facts {
        tallies: (0..count).map(|_| Arc::default()).collect(),
        listeners: Mutex::default(),
        clusters: Arc::clone(&shared.clusters),
        census: Arc::clone(&shared.census),
        handshakes: Arc::clone(&shared.handshakes),
        held: Arc::clone(&shared.held),
        placements: Arc::clone(&shared.placements),
        draining: AtomicBool::new(false),
        reloads: Reloads::default(),
    });
    let admin = match &admin_listener {
        Some(listener) => Some(listener.local_addr()?),
        None => None,
    };
    let vitals = Vitals::default();
    let control = start_control(control, Arc::clone(&facts), admin_listener, vitals.clone())?;
    let mut running = Running {
        listeners: BTreeMap::new(),
        next_listener: 0,
        workers: Vec::with_capacity(count),
        shared,
        facts,
        orders,
        admin,
        control: Some(control),
        vitals,
        config,
    };
    let settings = running.settings(&running.config);
    for (number, tally) in (0..).zip(running.facts.tallies.clone()) {
        let (shared, settings) = (running.shared.clone(), settings.clone());
        let vitals = running.vitals.clone();
        let worker = Worker::start(number, vitals, move || Path::new(shared, settings, tally))?;
        running.workers.push(worker);
    }
    // All are ready to accept before the first client is let in.
    for (listener, (address, sockets)) in running.config.listeners.clone().into_iter().zip(bound) {
        running.open_blocking(listener, address, sockets)?;
    }
    running.facts.reloads.in_force();
    warn_of_unverified(&running.config.nodes);
    Ok(running)
}

/// What came of a reload.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose new values take a restart; the old ones hold until then.
    pub restart: Vec<&'static str>,
}

impl Running {
    /// The bound addresses, in the order in which the listeners were opened: that of the configuration, at first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.values().map(|bound| bound.address).collect()
    }

    /// Where the admin listener is, if there is one.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Waits until a task has panicked that this balancer cannot live without; which one. The log has said so, and what it
    /// says. What goes on is half a balancer, and stopping it may take for ever: the process should end at once.
    pub fn lost(&self) -> impl Future<Output = Task> + use<> {
        self.vitals.lost()
    }

    /// Connections now, those being set up included.
    pub fn connections(&self) -> usize {
        self.shared.census.connections()
    }

    /// Goes on with another configuration, whole or not at all. No connection is touched: those of a removed node live on
    /// under its name, those of a removed listener too, and a limit below their number refuses only new ones.
    ///
    /// # Errors
    /// The first thing that the system refuses; then nothing has changed.
    pub async fn reload(&mut self, config: Config) -> io::Result<Reloaded> {
        match self.try_reload(config).await {
            Ok(reloaded) => {
                self.facts.reloads.succeeded();
                Ok(reloaded)
            }
            Err(error) => {
                self.facts.reloads.failed();
                Err(error)
            }
        }
    }

    /// Notes a reload that failed before it came here, such as one with a file that cannot be read.
    pub fn reload_failed(&self) {
        self.facts.reloads.failed();
    }

    async fn try_reload(&mut self, new: Config) -> io::Result<Reloaded> {
        let (new, restart) = self.without_restart(new);
        if self.shared.clusters.current().all_known().len() + new.nodes.len()
            > usize::from(u16::MAX)
        {
            return Err(io::Error::other(
                "this process has known too many different nodes: restart it",
            ));
        }
        // What can fail comes first.
        self.open_added(&new).await?;

        let (reply, removed) = oneshot::channel();
        let order = control::Order::Reload {
            settings: new.control.clone(),
            members: new.nodes.clone(),
            patience: patience(&new),
            reply,
        };
        let gone = |_| io::Error::other("control has ended");
        self.orders.send(order).await.map_err(|_| gone(()))?;
        for node in removed.await.map_err(|_| gone(()))? {
            self.shared.placements.forget_node(node);
        }
        self.shared.held.set_bytes_max(new.peek.held_bytes_max);
        let settings = self.settings(&new);
        for worker in &self.workers {
            let settings = Box::new(settings.clone());
            worker.tell(Order::Reconfigure(settings)).await?;
        }
        self.relisten(&new.listeners).await?;
        warn_of_unverified(&new.nodes);
        self.config = new;
        Ok(Reloaded { restart })
    }

    /// `new` with the values of now where a change takes a restart, and the names of the keys where that differs.
    fn without_restart(&self, mut new: Config) -> (Config, Vec<&'static str>) {
        let mut restart = Vec::new();
        let old = &self.config;
        let mut keep = |key: &'static str, differs: bool| {
            if differs {
                restart.push(key);
            }
        };
        keep("workers", new.workers != old.workers);
        let route::Affinity {
            key,
            seed,
            placements_max,
            placement_age_max,
        } = &old.affinity;
        keep("affinity.key", new.affinity.key != *key);
        keep("affinity.seed", new.affinity.seed != *seed);
        keep(
            "affinity.placements_max",
            new.affinity.placements_max != *placements_max,
        );
        keep(
            "affinity.placement_age_max",
            new.affinity.placement_age_max != *placement_age_max,
        );
        keep("admin", new.admin != old.admin);
        keep("log.level", new.log.level != old.log.level);
        keep("log.format", new.log.format != old.log.format);
        new.workers = old.workers;
        new.affinity = old.affinity.clone();
        new.admin = old.admin.clone();
        new.log.level = old.log.level;
        new.log.format = old.log.format;
        (new, restart)
    }

    /// Opens the listeners that are not open yet, all or none.
    async fn open_added(&mut self, new: &Config) -> io::Result<()> {
        let is_open = |listener: &Listener| self.listeners.values().any(|b| b.is(listener));
        let added: Vec<&Listener> = new.listeners.iter().filter(|l| !is_open(l)).collect();
        if usize::from(self.next_listener) + added.len() > usize::from(u16::MAX) {
            return Err(io::Error::other(
                "this process has had too many different listeners: restart it",
            ));
        }
        let mut bound = Vec::with_capacity(added.len());
        for listener in added {
            let (address, sockets) = bind(listener, self.workers.len(), new)?;
            bound.push((listener.clone(), address, sockets));
        }
        let first = ListenerId(self.next_listener);
        for (listener, address, sockets) in bound {
            if let Err(error) = self.open(listener, address, sockets).await {
                let opened: Vec<ListenerId> = self.listeners.range(first..).map(|l| *l.0).collect();
                self.close_listeners(&opened).await?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Changes the listeners that stay, and closes those that are not in `listeners` once nobody waits there.
    async fn relisten(&mut self, listeners: &[Listener]) -> io::Result<()> {
        let mut closing = Vec::new();
        for (id, bound) in &mut self.listeners {
            let staying = listeners.iter().find(|listener| bound.is(listener));
            match staying {
                Some(listener) if *listener == bound.listener => {}
                Some(listener) => {
                    let mut listener = listener.clone();
                    if let (Some(Tls::End(new)), Some(Tls::End(old))) =
                        (&mut listener.tls, &bound.listener.tls)
                    {
                        *new = Arc::new(tls::Door::clone(new).after(old));
                    }
                    bound.listener = listener.clone();
                    if let Some(facts) = self.facts.listeners().get_mut(usize::from(id.0)) {
                        facts.name.clone_from(&listener.name);
                        facts.certificate_expires = certificate_expires(&listener);
                    }
                    let listener = Arc::new(listener);
                    for worker in &self.workers {
                        let order = Order::Relisten(*id, Arc::clone(&listener));
                        worker.tell(order).await?;
                    }
                }
                None => closing.push(*id),
            }
        }
        self.close_listeners(&closing).await
    }

    /// Closes these listeners on all workers, once those who wait there were accepted.
    async fn close_listeners(&mut self, ids: &[ListenerId]) -> io::Result<()> {
        let mut closing = Vec::new();
        for id in ids {
            for worker in &self.workers {
                let (reply, closed) = oneshot::channel();
                worker.tell(Order::Unlisten(*id, reply)).await?;
                closing.push(closed);
            }
        }
        for closed in closing {
            // A worker that has ended has closed them as well.
            let _ = closed.await;
        }
        for id in ids {
            let removed = self.listeners.remove(id);
            if let Some(facts) = self.facts.listeners().get_mut(usize::from(id.0)) {
                facts.removed = true;
            }
            if let Some(bound) = removed {
                tracing::info!(listener = bound.listener.name, address = %bound.address, "listener closed");
            }
        }
        Ok(())
    }

    async fn open(
        &mut self,
        listener: Listener,
        address: SocketAddr,
        sockets: Sockets,
    ) -> io::Result<()> {
        let name = listener.name.clone();
        let (id, listening) = self.announce(listener, address);
        for ((worker, socket), listening) in self.workers.iter().zip(sockets).zip(listening) {
            worker
                .ask(|reply| Order::Listen(id, listening, socket, reply))
                .await??;
        }
        tracing::info!(listener = name, %address, "listener opened");
        Ok(())
    }

    fn open_blocking(
        &mut self,
        listener: Listener,
        address: SocketAddr,
        sockets: Sockets,
    ) -> io::Result<()> {
        let (id, listening) = self.announce(listener, address);
        for ((worker, socket), listening) in self.workers.iter().zip(sockets).zip(listening) {
            worker.ask_blocking(|reply| Order::Listen(id, listening, socket, reply))??;
        }
        Ok(())
    }

    /// Gives a listener its id, and each worker what it must know of it.
    fn announce(
        &mut self,
        listener: Listener,
        address: SocketAddr,
    ) -> (ListenerId, Vec<Listening>) {
        let id = ListenerId(self.next_listener);
        self.next_listener += 1;
        let population: Arc<Population> = Arc::default();
        let tallies: Vec<Arc<ListenerTally>> =
            self.workers.iter().map(|_| Arc::default()).collect();
        self.facts.listeners().push(ListenerFacts {
            name: listener.name.clone(),
            kind: listener.kind(),
            population: Arc::clone(&population),
            tallies: tallies.clone(),
            certificate_expires: certificate_expires(&listener),
            removed: false,
        });
        let shared = Arc::new(listener.clone());
        let listening = tallies.into_iter().map(|tally| Listening {
            listener: Arc::clone(&shared),
            population: Arc::clone(&population),
            tally,
        });
        let listening = listening.collect();
        self.listeners.insert(id, Bound { listener, address });
        (id, listening)
    }

    /// What `config` says to the workers.
    fn settings(&self, config: &Config) -> Settings {
        let most = connections_max(self.shared.workers);
        let mut limits = config.limits.clone();
        if let Some(wished) = limits.connections_max.filter(|wished| *wished > most) {
            // Else nothing would be left to answer an operator with, or to read a file.
            tracing::warn!(
                wished,
                most,
                "limits.connections is more than the limit of open files allows: that many it is"
            );
        }
        limits.connections_max = Some(limits.connections_max.unwrap_or(most).min(most));
        Settings {
            limits,
            peek: config.peek.clone(),
            dial: config.dial.clone(),
            greet: config.greet.clone(),
            relay: relay::Settings {
                pipes_max: pipes_max(descriptors_max(), self.shared.workers),
                ..config.relay.clone()
            },
            log: config.log.connections,
        }
    }

    /// Lets go of all clients in order: says so on `/readyz`, goes on accepting for a while, closes the listeners once
    /// nobody waits there, then closes connections at a pace. Returns when none is left, or when the time for it is over.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn drain(&mut self) -> io::Result<()> {
        let drain::Settings { delay, rate, grace } = self.config.drain.clone();
        self.facts.draining.store(true, Ordering::Relaxed);
        tokio::time::sleep(delay).await;
        let ids: Vec<ListenerId> = self.listeners.keys().copied().collect();
        self.close_listeners(&ids).await?;
        let began = Instant::now();
        let mut pace = Pace::new(rate);
        while self.connections() > 0 && began.elapsed() < grace {
            tokio::time::sleep(DRAIN_ROUND).await;
            for at_rest in [true, false] {
                for worker in &self.workers {
                    let most = pace.due(began.elapsed());
                    if most > 0 {
                        let order = |reply| Order::CloseSome {
                            most,
                            at_rest,
                            cause: Ended::Shutdown,
                            reply,
                        };
                        pace.closed(worker.ask(order).await?);
                    }
                }
            }
        }
        Ok(())
    }

    /// Ends these connections, as `closed`. Not for a thread of a runtime.
    ///
    /// # Errors
    /// A worker has ended.
    pub fn close(&self, which: Which) -> io::Result<()> {
        self.workers
            .iter()
            .try_for_each(|worker| worker.order(Order::Close(which, Ended::Closed)))
    }

    /// Moves all relays of one worker to another one, without losing a byte; says how many. Not for a thread of a runtime.
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

    /// Closes the listeners and every connection, and returns when all threads have ended: the task that panicked, if one has by
    /// then.
    pub fn stop(self) -> Option<Task> {
        let vitals = self.vitals.clone();
        drop(self);
        vitals.lost_now()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.workers.iter_mut().for_each(Worker::stop);
        self.workers.iter_mut().for_each(Worker::join);
        // Control ends when nobody is left who could give it an order.
        let (closed, _) = mpsc::channel(1);
        self.orders = closed;
        if let Some(control) = self.control.take()
            && control.join().is_err()
        {
            tracing::error!("control panicked");
            self.vitals.lose(Task::Control);
        }
    }
}

/// A listener's sockets, one for each worker.
type Sockets = Vec<std::os::fd::OwnedFd>;

fn bind(listener: &Listener, workers: usize, config: &Config) -> io::Result<(SocketAddr, Sockets)> {
    accept::bind(listener.address, workers, &config.dial).map_err(|e| {
        io::Error::new(
            e.kind(),
            format!("listener {}: {}: {e}", listener.name, listener.address),
        )
    })
}

/// When the first certificate of a listener expires, where its TLS ends here.
fn certificate_expires(listener: &Listener) -> Option<SystemTime> {
    match &listener.tls {
        Some(Tls::End(door)) => door.expires(),
        Some(Tls::Pass) | None => None,
    }
}

/// How long dialling and greeting one node takes at most: at two addresses, as a host name has that is known in both families, and
/// with an upgrade before the greeting. At more addresses, a trial may be offered to a second client.
fn patience(config: &Config) -> Duration {
    (config.dial.timeout + config.greet.timeout) * 2
}

/// The limit of open files.
fn descriptors_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// As many connections as the limit of open files allows: each takes two.
pub fn connections_max(workers: usize) -> usize {
    let files = descriptors_max();
    let pipes = 2 * pipes_max(files, workers) as u64;
    let reserved =
        DESCRIPTORS_RESERVED + (DESCRIPTORS_RESERVED_PER_WORKER + pipes) * workers as u64;
    usize::try_from(files.saturating_sub(reserved) / 2)
        .unwrap_or(usize::MAX)
        .max(1)
}

/// As many pipes as each worker may have, which are reserved for it: each takes two of so many descriptors.
fn pipes_max(files: u64, workers: usize) -> usize {
    let share = files / DESCRIPTORS_PER_PIPE_DESCRIPTOR / 2 / workers.max(1) as u64;
    usize::try_from(share)
        .unwrap_or(PIPES_MAX)
        .clamp(relay::PIPES_MIN, PIPES_MAX)
}

/// Runs control and the admin listener on a thread of their own; returns once host names were looked up.
fn start_control(
    mut control: Control,
    facts: Arc<Facts>,
    admin_listener: Option<TcpListener>,
    vitals: Vitals,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (resolved, is_resolved) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("remora-control".into())
        .spawn(move || {
            let placements = Arc::clone(&facts.placements);
            runtime.block_on(async {
                if let Some(listener) = admin_listener {
                    let admin = admin::serve(listener, facts);
                    tokio::spawn(vitals.clone().guard(Task::Admin, admin));
                }
                control.resolve_at_start().await;
                // The starter has gone: then the orders' channel is closed as well.
                let _ = resolved.send(());
                tokio::select! {
                    () = vitals.clone().guard(Task::Control, control.run()) => {}
                    () = vitals.guard(Task::Placements, tidy(placements)) => {}
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

/// Tells the operator where whoever sits between is believed.
fn warn_of_unverified(nodes: &[Member]) {
    let unverified: Vec<&str> = nodes
        .iter()
        .filter(|node| node.is_unverified())
        .map(|node| &*node.name)
        .collect();
    if !unverified.is_empty() {
        tracing::warn!(
            nodes = ?unverified,
            "nodes_tls.insecure_skip_verify: every certificate is believed, whoever shows it"
        );
    }
}

/// Keeps the placements within their bounds, for ever.
async fn tidy(placements: Arc<Placements>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        let now = seconds.tick().await;
        placements.tidy(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_few_where_descriptors_are() {
        let cases = [
            (128, 2, 8),
            (1_024, 2, 8),
            (1_024, 1, 16),
            (16_384, 2, 128),
            (1_048_576, 2, 256),
            (1_048_576, 256, 64),
            (u64::MAX, 1, 256),
        ];
        for (files, workers, pipes) in cases {
            assert_eq!(pipes_max(files, workers), pipes, "{files} for {workers}");
        }
    }
}
