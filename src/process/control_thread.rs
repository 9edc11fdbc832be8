//! The thread of control: the cluster, the placements, the doctor and the admin listener.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::certificates::{self, Certificates};
use super::examiner::Examiner;
use super::expiry::ExpiredLists;
use super::storm::{Sample, Storm};
use super::usage::Usage;
use crate::admin::history;
use crate::admin::{self, AdminState, Api, Serving};
use crate::base::heartbeat::{self, Heartbeat};
use crate::base::supervise::{Supervisor, Task};
use crate::control::Control;
use crate::path::route::Placements;

/// How many seconds the usual number of connects is of.
const USUAL_SCALE: f64 = 1_000.0;

/// The thread of control and the admin listener.
#[derive(Debug)]
pub(super) struct ControlThread {
    pub(super) runtime: tokio::runtime::Handle,
    /// Dropped to end the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    supervisor: Supervisor,
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
    pub(super) fn start(
        (mut control, examiner): (Control, Examiner),
        state: Arc<AdminState>,
        (admin_listener, serving, api): (Arc<admin::Listener>, watch::Receiver<Serving>, Arc<Api>),
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
                    tokio::spawn(once_a_second(heartbeat, Arc::clone(&state), serving.clone()));
                    tokio::spawn(take_samples(Arc::clone(&state), serving.clone()));
                    let admin = admin::serve(admin_listener, serving, state, api);
                    tokio::spawn(supervisor.clone().guard(Task::Admin, admin));
                    let is_resolved = control.resolve_at_start().await;
                    let has_failed = is_resolved.is_err();
                    // If the caller is gone, so is the other end of `stopped`.
                    let _ = resolved.send(is_resolved);
                    if has_failed {
                        return;
                    }
                    tokio::select! {
                        () = supervisor.clone().guard(Task::Control, control.run()) => {}
                        () = supervisor.guard(Task::Placements, tidy(placements)) => {}
                        _ = stopped => {}
                    }
                });
                // A look-up that hangs in the system's resolver must not delay the exit.
                runtime.shutdown_background();
            })?;
        let has_ended = |_| Err(io::Error::other("control ended while it started"));
        is_resolved.recv().unwrap_or_else(has_ended)?;
        Ok(Self {
            runtime: handle,
            stop: Some(stop),
            thread: Some(thread),
            supervisor: guard,
        })
    }
}

/// Looks for what an operator should know of, and shows that control's thread runs, forever.
async fn once_a_second(heartbeat: Arc<Heartbeat>, state: Arc<AdminState>, serving: watch::Receiver<Serving>) {
    let (mut lists, mut usage) = (ExpiredLists::default(), Usage::default());
    let (mut certificates, mut storm) = (Certificates::default(), None);
    let events = &state.events;
    let mut intervals = tokio::time::interval(heartbeat::INTERVAL);
    loop {
        intervals.tick().await;
        let now = SystemTime::now();
        lists.check(&state.listeners, events, now);
        certificates.check(certificates::in_use(&state.listeners, &state.nodes_tls), events, now);
        usage.check(&state, events);
        // Before it serves, what another process has counted is added to its counters, and would look like a storm.
        if *serving.borrow() != Serving::NotYet {
            check_storm(storm.get_or_insert_with(|| begin_storm(&state)), &state);
        }
        heartbeat.beat();
    }
}

/// What is usual here is what the process before has found to be.
fn begin_storm(state: &AdminState) -> Storm {
    Storm::of_usual(state.usual_connects.load(Ordering::Relaxed) as f64 / USUAL_SCALE)
}

fn check_storm(storm: &mut Storm, state: &AdminState) {
    let sample = Sample {
        connects: state.connects(),
        waiting: state.connects_waiting(),
    };
    storm.check(sample, &state.events);
    state.storm.store(storm.is_going(), Ordering::Relaxed);
    let usual = (storm.usual() * USUAL_SCALE) as u64;
    state.usual_connects.store(usual, Ordering::Relaxed);
}

/// Takes samples of the counters, forever, once this process serves.
async fn take_samples(state: Arc<AdminState>, mut serving: watch::Receiver<Serving>) {
    if serving.wait_for(|serving| *serving != Serving::NotYet).await.is_err() {
        return;
    }
    state.begin_samples();
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
