//! Starts everything that a balancer consists of, and opens it in a second step: a process that takes over from another one is ready
//! before that one lets go.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock, Weak};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Mutex, watch};

use super::bind_error::BindError;
use super::closing_gate::ClosingGate;
use super::closings::Closings;
use super::control_thread::ControlThread;
use super::examiner::{Examined, Examiner};
use super::handle::{Handle, Inner};
use super::handover::{self, HandoverSocket, LeftBehind};
use super::inherited::Inherited;
use super::listeners::{self, Bound};
use super::rebalance::Background;
use super::watchdog::Watchdog;
use super::{Running, limits, on_down, reload};
use crate::admin::history;
use crate::admin::{self, AdminState, Api, BindFailed, Handovers, Reloads, Serving};
use crate::base::heartbeat::Heartbeats;
use crate::base::supervise::{Supervisor, Task};
use crate::config::Config;
use crate::control::{Control, Learned};
use crate::net::descriptors;
use crate::net::held::HeldBytes;
use crate::net::reports::Reports;
use crate::net::tls::NodesTls;
use crate::path::connection::{self, Shared};
use crate::path::record::ListenerId;
use crate::path::route::Placements;
use crate::worker::Worker;

/// What was before this process.
#[derive(Debug)]
pub(super) struct Before {
    /// What another process has learned of the nodes.
    pub(super) learned: Learned,
    /// How many clients connect in a thousand seconds usually.
    pub(super) usual_connects: u64,
    /// Whether the admin listener is this process's from the start.
    pub(super) admin_serves: Serving,
}

impl Before {
    /// No other process.
    pub(super) const NOTHING: Self = Self {
        learned: Learned::NOTHING,
        usual_connects: 0,
        admin_serves: Serving::Now,
    };
}

/// A balancer whose threads run, and that serves nobody yet.
#[derive(Debug)]
pub(super) struct Starting {
    running: Running,
    /// Published, and not open.
    bound: Vec<(ListenerId, Bound)>,
    handover_socket: Option<Arc<HandoverSocket>>,
    api: Arc<Api>,
    examined: Arc<Examined>,
}

impl Starting {
    /// Binds everything, or takes what was inherited, and starts all threads. Host names of nodes are looked up. The admin listener may
    /// say meanwhile that the process starts.
    ///
    /// # Errors
    /// The first thing that the system refuses.
    pub(super) fn new(config: Config, mut inherited: Inherited, before: Before) -> io::Result<Self> {
        let Before {
            learned,
            usual_connects,
            admin_serves,
        } = before;
        descriptors::raise_limit();
        let count = match config.workers {
            Some(count) => count,
            None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
        .get();
        let admin_listener = bind_admin(&config.admin, std::mem::take(&mut inherited.admin))?;
        let handover_socket = HandoverSocket::bind(&config.handover, inherited.handover.take())?.map(Arc::new);
        let bound = (config.listeners.iter())
            .map(|listener| listeners::bind_or_inherit(listener, &mut inherited, count, &config));
        let bound: Vec<Bound> = bound.collect::<io::Result<_>>()?;

        let (reports, to_control) = Reports::new();
        let nodes_tls = Arc::<NodesTls>::default();
        nodes_tls.replace(config.nodes_tls.clone());
        let instance = fastrand::u32(..);
        let (mut control, control_handle) = Control::new(
            config.control.clone(),
            &config.nodes,
            config.affinity.seed,
            to_control,
            reload::prober(&config, &nodes_tls, instance),
        );
        control.begin_from(learned)?;
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
            handed_over: AtomicBool::new(false),
            source_ports: AtomicUsize::new(config.dial.source_ports()),
            connections_max: AtomicUsize::new(limits::connections_max(&config, count)),
            reloads: Reloads::default(),
            handovers: Handovers::default(),
            events: Arc::clone(&events),
            nodes_tls: Arc::clone(&shared.nodes_tls),
            storm: AtomicBool::new(false),
            usual_connects: AtomicU64::new(usual_connects),
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
        let mut admin = admin_listener.addresses()?;
        // The same in two networks.
        admin.dedup();
        let socket = admin_listener.socket().map(Path::to_owned);
        let admin_listener = Arc::new(admin_listener);
        let (serving, is_serving) = watch::channel(admin_serves);
        let api = Arc::<Api>::default();
        let supervisor = Supervisor::default();
        let control = ControlThread::start(
            (control, examiner),
            Arc::clone(&state),
            (Arc::clone(&admin_listener), is_serving, Arc::clone(&api)),
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
        let gate = ClosingGate::default();
        let on_down = on_down::run(to_workers.into(), gate.clone(), Arc::clone(&shared.clusters), published);
        let mut may_close = serving.subscribe();
        let on_down = async move {
            // Until then another process has the connections. Who can change it lasts as long as what is served.
            let _ = may_close.wait_for(|serving| *serving != Serving::NotYet).await;
            on_down.await;
        };
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
            admin_listener: Arc::downgrade(&admin_listener),
            handover_socket: handover_socket.as_ref().map_or_else(Weak::new, Arc::downgrade),
            gave: watch::Sender::default(),
            is_giving: AtomicBool::default(),
            is_taking: Arc::default(),
            left_behind: LeftBehind::default(),
            serving,
            supervisor,
            runtime: control.runtime.clone(),
            turn: Mutex::new(()),
            config: ArcSwap::new(config),
            examiner: to_examiner,
            rebalance: Background::default(),
            events,
            closings: Closings::default(),
            gate,
            numbers_before: OnceLock::new(),
            requests: ArcSwapOption::empty(),
            program: ArcSwapOption::empty(),
            stop,
        }));
        let watchdog = Watchdog::start(heartbeats, handle.events())?;
        let running = Running {
            handle,
            workers,
            watchdog: Some(watchdog),
            control,
        };
        let inner = &running.handle.0;
        let bound = bound.into_iter().map(|bound| (inner.publish(&bound), bound)).collect();
        Ok(Self {
            running,
            bound,
            handover_socket,
            api,
            examined,
        })
    }

    /// Control's runtime.
    pub(super) fn runtime(&self) -> tokio::runtime::Handle {
        self.running.control.runtime.clone()
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.running.handle
    }

    /// Opens the listeners, the admin listener and the API.
    ///
    /// # Errors
    /// A worker cannot listen.
    pub(super) async fn open(self) -> io::Result<Running> {
        let Self {
            running,
            bound,
            handover_socket,
            api,
            examined,
        } = self;
        let inner = &running.handle.0;
        for (id, bound) in bound {
            inner.listen(id, bound).await?;
        }
        inner.state.reloads.in_force();
        if let Some(admin) = inner.admin_listener.upgrade() {
            admin.own_file();
        }
        if let Some(socket) = &handover_socket {
            socket.own_file();
        }
        // Before anybody can ask.
        api.open(running.handle());
        examined.open(running.handle());
        inner.serving.send_replace(Serving::Now);
        if let Some(socket) = handover_socket {
            let serve = handover::serve(socket, running.handle(), inner.serving.subscribe());
            inner.runtime.spawn(serve);
        }
        Ok(running)
    }
}

/// The names of the threads that are watched: those of the workers, then control's.
fn thread_names(workers: usize) -> impl Iterator<Item = String> {
    let workers = (0..workers).map(|number| format!("remora-{number}"));
    workers.chain(["remora-control".to_owned()])
}

fn bind_admin(settings: &admin::Settings, inherited: admin::Inherited) -> io::Result<admin::Listener> {
    admin::bind(settings, inherited).map_err(|failed| match failed {
        BindFailed::Address(address, source) => BindError {
            listener: None,
            address,
            source,
        }
        .into(),
        BindFailed::Socket(error) => error,
    })
}
