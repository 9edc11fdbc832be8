//! The process: starts workers, control and the admin listener, and owns their threads. Orders go through a [`Handle`].

mod bind_error;
pub(crate) mod certificates;
mod client_check;
pub(crate) mod clients;
mod closings;
mod cluster_check;
pub(crate) mod counts;
mod doctor;
pub mod drain;
mod examiner;
mod examiner_handle;
mod expiry;
pub(crate) mod handle;
mod limits;
mod listeners;
mod on_down;
mod owner;
pub(crate) mod rebalance;
mod reload;
mod requests;
mod storm;
mod usage;
mod watchdog;

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::admin::history;
use crate::admin::{self, AdminState, Api, BindFailed, Reloads};
use crate::base::heartbeat::{self, Heartbeat, Heartbeats};
use crate::base::supervise::{Supervisor, Task};
use crate::config::Config;
use crate::control::Control;
use crate::net::descriptors;
use crate::net::held::HeldBytes;
use crate::net::reports::Reports;
use crate::net::tls::NodesTls;
use crate::path::connection::{self, Shared};
use crate::path::route::Placements;
use crate::worker::Worker;

use certificates::Certificates;
use closings::Closings;
use examiner::{Examined, Examiner};
use expiry::ExpiredLists;
use handle::Inner;
use listeners::Bound;
use rebalance::Background;
use storm::{Sample, Storm};
use usage::Usage;
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
pub use rebalance::RebalanceStatus;
pub use requests::{NotReloaded, Reloaded, Request};

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

/// The thread of control and the admin listener.
#[derive(Debug)]
struct ControlThread {
    runtime: tokio::runtime::Handle,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    supervisor: Supervisor,
}

/// Starts a balancer: binds every listener, starts control and the workers, and returns.
///
/// Host names of nodes are looked up before the listeners open; one that cannot be resolved is a warning. Must not be
/// called on a thread of a runtime.
///
/// # Errors
/// The first thing that the system refuses: an address in use, a thread that cannot start.
pub fn start(config: Config) -> io::Result<Running> {
    start_with(config, async |_| {})
}

/// Starts a balancer like [`start`]. `prepare` is run before the first client can be accepted: for what must be in force by then,
/// such as a node that is draining.
///
/// # Errors
/// As of [`start`].
pub fn start_with(config: Config, prepare: impl AsyncFnOnce(&Handle)) -> io::Result<Running> {
    descriptors::raise_limit();
    let count = match config.workers {
        Some(count) => count,
        None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    }
    .get();
    let admin_listener = bind_admin(&config.admin)?;
    let bound = config.listeners.iter().map(|l| listeners::bind(l, count, &config));
    let bound: Vec<Bound> = bound.collect::<io::Result<_>>()?;

    let (reports, to_control) = Reports::new();
    let nodes_tls = Arc::<NodesTls>::default();
    nodes_tls.replace(config.nodes_tls.clone());
    let instance = fastrand::u32(..);
    let (control, control_handle) = Control::new(
        config.control.clone(),
        &config.nodes,
        config.affinity.seed,
        to_control,
        reload::prober(&config, &nodes_tls, instance),
    );
    let published = control.published();
    let events = control.events();
    let shared = Shared {
        admission: Arc::default(),
        held: HeldBytes::new(config.held.clone()),
        waiting: Arc::default(),
        listeners: Arc::default(),
        clusters: control.clusters(),
        nodes_tls,
        reports,
        affinity: config.affinity.rule.clone(),
        connects: Arc::default(),
        load_max: config.affinity.load_max,
        placements: Arc::new(Placements::new(
            config.affinity.placements_max,
            config.affinity.placement_age_max,
        )),
        workers: count,
        draining: Arc::default(),
    };
    let state = Arc::new(AdminState {
        counters: (0..count).map(|_| Arc::default()).collect(),
        listeners: Arc::clone(&shared.listeners),
        clusters: Arc::clone(&shared.clusters),
        admission: Arc::clone(&shared.admission),
        held: Arc::clone(&shared.held),
        waiting: Arc::clone(&shared.waiting),
        placements: Arc::clone(&shared.placements),
        control: control_handle.clone(),
        draining: Arc::clone(&shared.draining),
        source_ports: AtomicUsize::new(config.dial.source_ports()),
        connections_max: AtomicUsize::new(limits::connections_max(&config, count)),
        reloads: Reloads::default(),
        events: Arc::clone(&events),
        nodes_tls: Arc::clone(&shared.nodes_tls),
        storm: AtomicBool::new(false),
        heartbeats: Arc::new(Heartbeats::new(thread_names(count), config.watchdog.stuck_after)),
        history: history::History::default(),
        examined: Arc::default(),
    });
    let config = Arc::new(config);
    let examined = Arc::<Examined>::default();
    let (examiner, to_examiner) = Examiner::new(
        Arc::clone(&config),
        (Arc::clone(&shared.clusters), Arc::clone(&shared.nodes_tls), instance),
        (Arc::clone(&state.examined), Arc::clone(&examined)),
        Arc::clone(&events),
    );
    let heartbeats = Arc::clone(&state.heartbeats);
    let of_thread = |number: usize| Arc::clone(&heartbeats.threads()[number]);
    let admin = admin_listener.addresses()?;
    let socket = admin_listener.socket().map(Path::to_owned);
    let api = Arc::<Api>::default();
    let supervisor = Supervisor::default();
    let control = ControlThread::start(
        (control, examiner),
        Arc::clone(&state),
        (admin_listener, Arc::clone(&api)),
        supervisor.clone(),
        of_thread(count),
    )?;
    let (stop, stopped) = watch::channel(false);
    let settings = limits::path_settings(&config, count);
    let mut workers = Vec::with_capacity(count);
    for (number, counters) in (0..).zip(state.counters.clone()) {
        let (shared, settings) = (shared.clone(), settings.clone());
        let path = move || connection::Path::new(number, shared, settings, counters);
        let heartbeat = of_thread(usize::from(number));
        workers.push(Worker::start(
            number,
            supervisor.clone(),
            stopped.clone(),
            heartbeat,
            path,
        )?);
    }
    let to_workers: Vec<_> = workers.iter().map(Worker::handle).collect();
    let on_down = on_down::run(to_workers.into(), Arc::clone(&shared.clusters), published);
    control.runtime.spawn(supervisor.clone().guard(Task::OnDown, on_down));
    reload::warn_of_unverified(&config.nodes);
    reload::log_warnings(&config);
    let handle = Handle(Arc::new(Inner {
        workers: workers.iter().map(Worker::handle).collect(),
        control: control_handle,
        shared,
        state,
        instance,
        admin,
        socket,
        supervisor,
        runtime: control.runtime.clone(),
        turn: Mutex::new(()),
        config: ArcSwap::new(config),
        examiner: to_examiner,
        rebalance: Background::default(),
        events,
        closings: Closings::default(),
        requests: ArcSwapOption::empty(),
        stop,
    }));
    let watchdog = Watchdog::start(heartbeats, handle.events())?;
    let running = Running {
        handle,
        workers,
        watchdog: Some(watchdog),
        control,
    };
    // All workers are ready before the first client is accepted.
    running.control.runtime.block_on(async {
        prepare(&running.handle).await;
        for bound in bound {
            running.handle.0.open(bound).await?;
        }
        Ok::<_, io::Error>(())
    })?;
    running.handle.0.state.reloads.in_force();
    api.open(running.handle());
    examined.open(running.handle());
    Ok(running)
}

fn bind_admin(settings: &admin::Settings) -> io::Result<admin::Listener> {
    admin::bind(settings).map_err(|failed| match failed {
        BindFailed::Address(address, source) => BindError {
            listener: None,
            address,
            source,
        }
        .into(),
        BindFailed::Socket(error) => error,
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

impl Drop for ControlThread {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("control panicked");
            self.supervisor.report_panic(Task::Control);
        }
    }
}

impl ControlThread {
    /// Runs control and the admin listener on a thread of their own; returns once host names were looked up.
    fn start(
        (mut control, examiner): (Control, Examiner),
        state: Arc<AdminState>,
        (admin_listener, api): (admin::Listener, Arc<Api>),
        supervisor: Supervisor,
        heartbeat: Arc<Heartbeat>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (handle, guard) = (runtime.handle().clone(), supervisor.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let (resolved, is_resolved) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("remora-control".into())
            .spawn(move || {
                let placements = Arc::clone(&state.placements);
                // Sockets of probes stay on this thread.
                LocalSet::new().block_on(&runtime, async {
                    // Its panic, if it should have one, ends only itself: nothing depends on it.
                    tokio::task::spawn_local(examiner.run());
                    tokio::spawn(once_a_second(heartbeat, Arc::clone(&state)));
                    tokio::spawn(take_samples(Arc::clone(&state)));
                    let admin = admin::serve(admin_listener, state, api);
                    tokio::spawn(supervisor.clone().guard(Task::Admin, admin));
                    control.resolve_at_start().await;
                    // If the caller is gone, so is the other end of `stopped`.
                    let _ = resolved.send(());
                    tokio::select! {
                        () = supervisor.clone().guard(Task::Control, control.run()) => {}
                        () = supervisor.guard(Task::Placements, tidy(placements)) => {}
                        _ = stopped => {}
                    }
                });
                // A look-up that hangs in the system's resolver must not delay the exit.
                runtime.shutdown_background();
            })?;
        if is_resolved.recv().is_err() {
            return Err(io::Error::other("control ended while it started"));
        }
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
            supervisor: guard,
        })
    }
}

/// The names of the threads that are watched: those of the workers, then control's.
fn thread_names(workers: usize) -> impl Iterator<Item = String> {
    let workers = (0..workers).map(|number| format!("remora-{number}"));
    workers.chain(["remora-control".to_owned()])
}

/// Looks for what an operator should know of, and shows that control's thread runs, forever.
async fn once_a_second(heartbeat: Arc<Heartbeat>, state: Arc<AdminState>) {
    let (mut lists, mut usage) = (ExpiredLists::default(), Usage::default());
    let (mut certificates, mut storm) = (Certificates::default(), Storm::default());
    let events = &state.events;
    let mut intervals = tokio::time::interval(heartbeat::INTERVAL);
    loop {
        intervals.tick().await;
        let now = SystemTime::now();
        lists.check(&state.listeners, events, now);
        certificates.check(certificates::in_use(&state.listeners, &state.nodes_tls), events, now);
        usage.check(&state, events);
        let sample = Sample {
            connects: state.connects(),
            waiting: state.connects_waiting(),
        };
        storm.check(sample, events);
        state.storm.store(storm.is_going(), Ordering::Relaxed);
        heartbeat.beat();
    }
}

/// Takes samples of the counters, forever.
async fn take_samples(state: Arc<AdminState>) {
    let first = Instant::now() + history::INTERVAL;
    let mut intervals = tokio::time::interval_at(first, history::INTERVAL);
    loop {
        intervals.tick().await;
        state.sample();
    }
}

/// Tidies the placements periodically, forever.
async fn tidy(placements: Arc<Placements>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        let now = seconds.tick().await;
        placements.tidy(now);
    }
}
