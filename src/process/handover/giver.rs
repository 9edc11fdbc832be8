//! Hands over: offers what there is while it goes on, freezes it for a moment, and forgets what the other process has.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{MutexGuard, oneshot};
use tokio::time::Instant;

use super::gave::Gave;
use super::{examination, known};
use crate::admin::Serving;
use crate::admin::api::answers::Upgraded;
use crate::base::build;
use crate::base::clock;
use crate::base::events::Change;
use crate::base::log;
use crate::base::supervise::Task;
use crate::cluster::{self, Cluster, Finding, FindingSource, NodeId, Verdict};
use crate::config::Config;
use crate::handover::messages::{
    Endpoint, Hello, Knowledge, Left, ListenSocket, Listener, Manifest, Placement, Prepared, RELAYS_MAX, milliseconds,
};
use crate::handover::{self, Deadlines, Failure, Frozen, Given, Offered, Step};
use crate::path::handover::{Counts, Names, placement};
use crate::path::record::ListenerId;
use crate::path::relay::Stays;
use crate::path::route::Exported;
use crate::process::closing_gate::Shut;
use crate::process::handle::{HANDED_OVER, Handle, Inner, NodeWish};
use crate::worker::handover::{Forget, Freeze, Offer};
use crate::worker::{Order, Selector};

/// How often it is looked whether connections that were being set up can move.
const ROUND: Duration = Duration::from_millis(100);

/// As many placements are sent at once.
const PLACEMENTS_AT_ONCE: usize = 4_096;

impl Handle {
    /// Hands over to the process at the other end of `socket`, and says at each step how far it is. Returns once all that can move has
    /// moved; [`Handle::handed_over`] returns once the other process accepts clients.
    ///
    /// # Errors
    /// Why not. Nothing has changed then.
    pub async fn hand_over(
        &self,
        socket: UnixStream,
        steps: impl FnMut(Step) + Send + 'static,
    ) -> Result<Upgraded, Failure> {
        let (reply, over) = oneshot::channel();
        let handle = self.clone();
        // On a thread of its own: control's may be late, and each millisecond counts while connections are frozen.
        let spawned = std::thread::Builder::new()
            .name("remora-handover".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                match runtime {
                    Ok(runtime) => {
                        let supervisor = handle.0.supervisor.clone();
                        let give = async {
                            // Who waits for it may be gone.
                            let _ = reply.send(give(&handle, socket, steps).await);
                        };
                        // It is orders to all workers, and after a panic nobody knows which were carried out.
                        runtime.block_on(supervisor.guard(Task::Orders, give));
                    }
                    Err(error) => drop(reply.send(Err(error.into()))),
                }
            });
        spawned?;
        over.await
            .unwrap_or_else(|_| Err(Failure::Refusal("this process is broken, and ends".to_owned())))
    }

    /// Waits until another process has taken over the listeners.
    pub async fn handed_over(&self) {
        self.0
            .gave
            .subscribe()
            .wait_for(|gave| *gave != Gave::Nothing)
            .await
            .ok();
    }

    /// Whether another process has taken over the listeners.
    pub fn has_handed_over(&self) -> bool {
        self.0.state.handed_over.load(Ordering::Relaxed)
    }

    /// Waits, after a handover, until the last connection has ended. Those that are left after `handover.grace` are closed at
    /// `drain.rate`.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn end_after_handover(&self) -> io::Result<()> {
        let _ = self.0.gave.subscribe().wait_for(|gave| *gave == Gave::All).await;
        let config = self.0.config.load_full();
        if tokio::time::timeout(config.handover.grace, self.empty()).await.is_err() {
            let connections = self.connections();
            tracing::info!(connections, "closing the connections that could not move");
            self.close_all_within(config.drain.rate, Duration::MAX).await?;
        }
        Ok(())
    }
}

async fn give(
    handle: &Handle,
    socket: UnixStream,
    steps: impl FnMut(Step) + Send + 'static,
) -> Result<Upgraded, Failure> {
    let mut process = Process {
        handle,
        turn: None,
        taker: Hello::default(),
        names: Arc::default(),
        wishes: Vec::new(),
        sockets: Vec::new(),
        sent: HashSet::new(),
        next: Some((0, 0)),
        closing: Arc::default(),
        closed: Vec::new(),
        counted: Counts::default(),
        placements: None,
        left: BTreeMap::new(),
        moved: 0,
        shut: None,
        frozen: None,
        pause: Duration::ZERO,
        is_counted: false,
        steps: Box::new(steps),
    };
    let given = async {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        handover::give(socket, &mut process, Deadlines::default()).await
    };
    let given = given.await;
    if process.turn.is_some() {
        handle.0.is_giving.store(false, Ordering::Relaxed);
    }
    // Not if it was refused: another handover may go on, and follows.
    if process.placements.is_some() {
        handle.0.shared.placements.follow(false);
    }
    match given {
        Ok(given) => {
            process.until_closed().await;
            // Before this process may end.
            let upgraded = process.over(given);
            handle.0.gave.send_replace(Gave::All);
            Ok(upgraded)
        }
        Err(failure) => {
            process.failed(&failure);
            Err(failure)
        }
    }
}

/// This process, as the one that gives.
struct Process<'a> {
    handle: &'a Handle,
    /// No reload and no drain begins meanwhile.
    turn: Option<MutexGuard<'a, ()>>,
    taker: Hello,
    names: Arc<Names>,
    /// What the operator wished of nodes when the taker was told.
    wishes: Vec<NodeWish>,
    /// Every socket that listens, until it is sent.
    sockets: Vec<(ListenSocket, OwnedFd)>,
    /// The numbers of the relays that the taker has the sockets of.
    sent: HashSet<u64>,
    /// The worker whose relays are offered next, and from which place on.
    next: Option<(usize, u32)>,
    /// Listeners that the taker does not have.
    closing: Arc<HashSet<ListenerId>>,
    /// Whether each worker has accepted the clients that waited there.
    closed: Vec<oneshot::Receiver<()>>,
    /// What the taker knows that was counted.
    counted: Counts,
    /// The placements that are still to be sent; `None` before the first.
    placements: Option<Vec<Exported>>,
    /// How many connections stay, by reason; since the last round.
    left: BTreeMap<Stays, u64>,
    /// How many have moved.
    moved: u64,
    /// While connections change hands.
    shut: Option<Shut>,
    /// Since when what moves is frozen.
    frozen: Option<Instant>,
    /// The longest time for which something was.
    pause: Duration,
    /// It is in the counters.
    is_counted: bool,
    steps: Box<dyn FnMut(Step) + Send>,
}

impl Process<'_> {
    fn inner(&self) -> &Inner {
        &self.handle.0
    }

    fn over(&mut self, given: Given) -> Upgraded {
        let Given {
            peer,
            relays,
            pause,
            rounds,
            cut_short,
        } = given;
        self.count();
        // Of a pair of sockets, the kernel names the process that has made it: this one. And one in another container has the number
        // that it knows itself by.
        let peer = peer.filter(|pid| *pid != std::process::id());
        let pid = peer.unwrap_or(self.taker.pid);
        let left: u64 = self.left.values().sum();
        self.inner().events.push(Change::Handover {
            result: Change::GAVE.to_owned(),
            moved: relays,
            left,
            error: None,
        });
        tracing::info!(
            event = Change::HANDOVER,
            pid,
            version = self.taker.program,
            moved = relays,
            left,
            pause_ms = pause.as_secs_f64() * 1_000.0,
            rounds,
            "handed over"
        );
        if let Some(why) = cut_short {
            tracing::warn!(error = %why, "the other process is gone: what has not moved stays here");
        }
        Upgraded {
            pid: peer,
            version: self.taker.program.clone(),
            moved: relays,
            left: self.left_by_name(),
            pause_seconds: pause.as_secs_f64(),
        }
    }

    fn failed(&self, failure: &Failure) {
        let error = failure.to_string();
        let inner = self.inner();
        inner.state.handovers.failed();
        inner.events.push(Change::Handover {
            result: "failed".to_owned(),
            moved: 0,
            left: 0,
            error: Some(error.clone()),
        });
        tracing::warn!(
            event = Change::HANDOVER,
            pid = self.taker.pid,
            error,
            "handover failed, nothing changed"
        );
    }

    /// Counts the handover, once.
    fn count(&mut self) {
        if !std::mem::replace(&mut self.is_counted, true) {
            let left: Vec<_> = self.left.iter().map(|(stays, count)| (*stays, *count)).collect();
            self.inner().state.handovers.completed(self.moved, &left, self.pause);
        }
    }

    fn left_by_name(&self) -> BTreeMap<String, u64> {
        let left = self.left.iter();
        left.map(|(stays, count)| (stays.name().to_owned(), *count)).collect()
    }

    /// Sends every worker an order, and waits for all answers.
    async fn ask_all<T>(&self, order: impl Fn(oneshot::Sender<T>) -> Order) -> io::Result<Vec<T>> {
        let mut asked = Vec::new();
        for worker in &self.inner().workers {
            asked.push(worker.ask(&order).await?);
        }
        let mut answers = Vec::new();
        for asked in asked {
            answers.push(asked.answer().await?);
        }
        Ok(answers)
    }
}

impl handover::Giver for Process<'_> {
    async fn manifest(&mut self, taker: &Hello) -> Result<Manifest, String> {
        self.taker = taker.clone();
        let handle = self.handle;
        let inner = &handle.0;
        if handle.has_handed_over() {
            return Err(HANDED_OVER.to_owned());
        }
        if inner.state.draining.load(Ordering::Relaxed) {
            return Err("this process is draining".to_owned());
        }
        if inner.is_taking.load(Ordering::Relaxed) {
            return Err("this process is still taking over from another one".to_owned());
        }
        let turn = inner.turn.try_lock();
        self.turn = Some(turn.map_err(|_| "a reload, a drain or another handover is in progress")?);
        inner.is_giving.store(true, Ordering::Relaxed);
        let cluster = inner.shared.clusters.current();
        let nodes = cluster.all_known();
        let listeners = inner.shared.listeners.current();
        self.names = Arc::new(Names::new(
            (0..).map(NodeId).take(nodes.len()).collect(),
            listeners.iter().map(|entry| entry.id).collect(),
        ));
        self.wishes = handle.wishes();
        let sockets = self.listening().await.map_err(|error| error.to_string())?;
        let found = inner.control.known().await.map_err(|error| error.to_string())?;
        let is_drained_by_api =
            |finding: &Finding| (finding.source, finding.verdict) == (FindingSource::Api, Verdict::Draining);
        let drained = cluster
            .nodes()
            .iter()
            .filter(|node| node.findings.iter().any(is_drained_by_api));
        let mut manifest = Manifest {
            requires: handover::messages::FEATURES
                .iter()
                .map(|feature| (*feature).to_owned())
                .collect(),
            program: build::VERSION.to_owned(),
            age_ms: milliseconds(clock::since_start(Instant::now())),
            nodes: nodes.iter().map(|known| known.name.to_string()).collect(),
            listeners: (listeners.iter())
                .map(|entry| Listener {
                    name: entry.name().to_owned(),
                    configured: entry.listener.address.to_string(),
                    bound: entry.address.to_string(),
                    is_removed: entry.removed,
                })
                .collect(),
            relays: inner.shared.admission.connections() as u64,
            sockets: sockets.len() as u64,
            wishes: (self.wishes.clone().into_iter())
                .map(|wish| handover::messages::Wish {
                    node: wish.node,
                    weight: wish.weight.map(u32::from),
                    is_draining: wish.is_draining,
                })
                .collect(),
            down: endpoints(&cluster, |endpoint| endpoint.is_down),
            answered: endpoints(&cluster, |endpoint| {
                endpoint.passive.has_answered.load(Ordering::Relaxed)
            }),
            drained_by_api: drained.map(|node| node.name.to_string()).collect(),
            examined: (inner.state.examined.get()).and_then(|last| examination::message(&last)),
            usual_connects: inner.state.usual_connects.load(Ordering::Relaxed),
            ..Manifest::default()
        };
        known::write(found, &mut manifest);
        self.sockets = sockets;
        Ok(manifest)
    }

    async fn sockets(&mut self) -> io::Result<Vec<(ListenSocket, OwnedFd)>> {
        Ok(std::mem::take(&mut self.sockets))
    }

    async fn relays(&mut self) -> io::Result<Option<Vec<Offered>>> {
        self.check_not_ordered_otherwise()?;
        while let Some((number, place)) = self.next {
            let Some(worker) = self.inner().workers.get(number) else {
                self.next = None;
                break;
            };
            let offer = Offer {
                names: Arc::clone(&self.names),
                place,
                most: RELAYS_MAX,
            };
            let page = worker.request(|reply| Order::Offer(offer, reply)).await?;
            self.next = Some(match page.next {
                Some(place) => (number, place),
                None => (number + 1, 0),
            });
            if !page.offered.is_empty() {
                self.sent
                    .extend(page.offered.iter().map(|offered| offered.relay.number));
                return Ok(Some(page.offered));
            }
        }
        Ok(None)
    }

    async fn placements(&mut self) -> Option<Vec<Placement>> {
        let placements = &self.handle.0.shared.placements;
        let rest = self.placements.get_or_insert_with(|| {
            placements.follow(true);
            placements.export(Instant::now())
        });
        let page = rest.split_off(rest.len().saturating_sub(PLACEMENTS_AT_ONCE));
        (!page.is_empty()).then(|| placements_of(&page, &self.names))
    }

    fn prepared(&mut self, prepared: Prepared) {
        let places = prepared.closing.into_iter();
        self.closing = Arc::new(places.filter_map(|place| self.names.listener(place).ok()).collect());
    }

    async fn freeze(&mut self) -> io::Result<Frozen> {
        self.shut = Some(self.inner().gate.shut().await);
        self.check_not_ordered_otherwise()?;
        self.frozen = Some(Instant::now());
        let known = Arc::new(self.sent.clone());
        let names = Arc::clone(&self.names);
        let freeze = |reply| {
            let (names, known) = (Arc::clone(&names), Arc::clone(&known));
            Order::Freeze(Freeze { names, known }, reply)
        };
        let mut all = Frozen::default();
        if *self.inner().gave.borrow() == Gave::Nothing {
            all.closings = self.handle.closings();
        }
        self.left.clear();
        for frozen in self.ask_all(freeze).await? {
            all.states.extend(frozen.states);
            all.offered.extend(frozen.offered);
            all.numbers.push(frozen.last_number + self.kept_numbers());
            for (stays, count) in frozen.left {
                *self.left.entry(stays).or_default() += count as u64;
            }
        }
        let mut numbers = HashSet::with_capacity(all.states.len());
        if !all.states.iter().all(|state| numbers.insert(state.number)) {
            return Err(io::Error::other("two connections have one number"));
        }
        all.numbers
            .extend(self.inner().numbers_before.get().into_iter().flatten());
        self.sent.extend(all.offered.iter().map(|offered| offered.relay.number));
        let changed = self.inner().shared.placements.changed(Instant::now());
        all.placements = placements_of(&changed, &self.names);
        all.knowledge = self.knowledge().await?;
        Ok(all)
    }

    async fn thaw(&mut self) {
        let mut asked = Vec::new();
        for worker in &self.inner().workers {
            // A worker that has ended has nothing frozen.
            asked.extend(worker.ask(Order::Thaw).await.ok());
        }
        for asked in asked {
            let _ = asked.answer().await;
        }
        self.shut = None;
    }

    async fn release(&mut self, numbers: Vec<u64>) {
        self.pause = self
            .pause
            .max(self.frozen.map_or(Duration::ZERO, |since| since.elapsed()));
        self.moved += numbers.len() as u64;
        let numbers: Arc<HashSet<u64>> = Arc::new(numbers.into_iter().collect());
        self.sent.retain(|number| !numbers.contains(number));
        let inner = self.inner();
        let is_first = *inner.gave.borrow() == Gave::Nothing;
        if is_first {
            inner.stop_serving();
        }
        let forget = |reply| {
            let (numbers, keep) = (Arc::clone(&numbers), Arc::clone(&self.closing));
            Order::Forget(Forget { numbers, keep }, reply)
        };
        // A worker that has ended has forgotten them.
        let _ = self.ask_all(forget).await;
        if is_first {
            self.close_kept().await;
        }
        self.inner().gave.send_if_modified(|gave| {
            let is_first = *gave == Gave::Nothing;
            if is_first {
                *gave = Gave::Listeners;
            }
            is_first
        });
        // What is closed from here on has stayed.
        self.shut = None;
    }

    async fn has_more(&mut self) -> bool {
        loop {
            tokio::time::sleep(ROUND).await;
            // Asked first: what is accepted then is a connection below.
            let are_closing = self.are_closing();
            let Ok(rows) = self.ask_all(|reply| Order::Select(Selector::All, reply)).await else {
                return false;
            };
            let rows: usize = rows.iter().map(std::collections::VecDeque::len).sum();
            let names = &self.names;
            let offer = |reply| {
                let names = Arc::clone(names);
                Order::Offer(
                    Offer {
                        names,
                        place: 0,
                        most: 1,
                    },
                    reply,
                )
            };
            match self.ask_all(offer).await {
                Ok(pages) if pages.iter().any(|page| !page.offered.is_empty()) => return true,
                Ok(_) if self.handle.connections() > rows || are_closing => {}
                _ => return false,
            }
        }
    }

    async fn last_words(&mut self) -> Knowledge {
        self.count();
        // A worker that has ended has nothing more to say.
        let mut knowledge = self.knowledge().await.unwrap_or_default();
        knowledge.left = self.left_behind();
        knowledge
    }

    fn progress(&mut self, step: Step) {
        (self.steps)(step);
    }
}

impl Process<'_> {
    /// Whether the operator wants something else by now. Only before the first round: what has moved is not called back.
    fn check_not_ordered_otherwise(&self) -> io::Result<()> {
        let inner = self.inner();
        if *inner.gave.borrow() != Gave::Nothing {
            return Ok(());
        }
        if inner.state.draining.load(Ordering::Relaxed) {
            return Err(io::Error::other("this process was ordered to drain"));
        }
        if self.handle.wishes() != self.wishes {
            return Err(io::Error::other("a node was drained or weighted meanwhile: try again"));
        }
        Ok(())
    }

    /// Closes the listeners that the taker does not have, after accepting the clients that wait there, which takes a moment.
    async fn close_kept(&mut self) {
        for id in self.closing.iter() {
            for worker in &self.handle.0.workers {
                let (reply, closed) = oneshot::channel();
                // A worker that has ended has closed its sockets, too.
                if worker.send(Order::Unlisten(*id, reply)).await.is_ok() {
                    self.closed.push(closed);
                }
            }
        }
    }

    /// How many numbers of each worker are left out for the clients that this process still accepts, while the taker counts on.
    fn kept_numbers(&self) -> u64 {
        const MORE_THAN_COME: u64 = 1 << 32;
        match self.closing.is_empty() {
            true => 0,
            false => MORE_THAN_COME,
        }
    }

    /// Waits until no client is accepted there any more, if the taker is gone before that.
    async fn until_closed(&mut self) {
        for closed in &mut self.closed {
            // A worker that has ended has closed its sockets, too.
            let _ = closed.await;
        }
    }

    /// Whether clients may still be accepted there.
    fn are_closing(&mut self) -> bool {
        self.closed
            .retain_mut(|closed| closed.try_recv() == Err(TryRecvError::Empty));
        !self.closed.is_empty()
    }

    /// Duplicates of every socket that listens.
    ///
    /// # Errors
    /// No descriptor is left.
    async fn listening(&self) -> io::Result<Vec<(ListenSocket, OwnedFd)>> {
        let mut all = Vec::new();
        let listeners = self.inner().shared.listeners.current();
        let bound = |id: ListenerId| listeners.iter().find(|entry| entry.id == id).map(|entry| entry.address);
        for sockets in self.ask_all(Order::Sockets).await? {
            for (id, socket) in sockets? {
                let entry = ListenSocket {
                    listener: self.names.place_of_listener(id),
                    other: String::new(),
                    bound: bound(id).map_or(String::new(), |address| address.to_string()),
                };
                all.push((entry, socket));
            }
        }
        let other = |other: &str, bound: String| ListenSocket {
            listener: None,
            other: other.to_owned(),
            bound,
        };
        let inner = self.inner();
        if let Some(admin) = inner.admin_listener.upgrade() {
            let crate::admin::Inherited { tcp, unix } = admin.duplicates()?;
            let addresses = admin.addresses()?;
            let tcp = addresses.iter().zip(tcp);
            all.extend(tcp.map(|(address, socket)| (other("admin", address.to_string()), socket)));
            all.extend(unix.map(|(path, socket)| (other("admin-socket", path.display().to_string()), socket)));
        }
        if let Some(handover) = inner.handover_socket.upgrade() {
            let path = handover.path().display().to_string();
            all.push((other("handover", path), handover.duplicate()?));
        }
        Ok(all)
    }

    /// The connections that stay here, and those that have stayed with processes before.
    fn left_behind(&self) -> Vec<Left> {
        let inner = self.inner();
        let (grace, rate) = {
            let config = inner.config.load();
            (config.handover.grace, u64::from(config.drain.rate.max(1)))
        };
        let connections: u64 = self.left.values().sum();
        let closing = Duration::from_secs(connections.div_ceil(rate));
        let own = (connections > 0).then(|| (connections, grace.saturating_add(closing)));
        let before = inner.left_behind.at(Instant::now());
        let all = before.chain(own).map(|(connections, ends_within)| Left {
            connections,
            ends_within_ms: milliseconds(ends_within),
        });
        all.collect()
    }

    /// What was counted since the taker was told, and how connections ended.
    ///
    /// # Errors
    /// A worker has ended.
    async fn knowledge(&mut self) -> io::Result<Knowledge> {
        let names = Arc::clone(&self.names);
        let ends = self.ask_all(|reply| Order::Ends(Arc::clone(&names), reply)).await?;
        let Inner { state, shared, .. } = &*self.handle.0;
        let listeners = shared.listeners.current();
        let cluster = shared.clusters.current();
        let mut counted = Counts::export(&state.counters, &listeners, &cluster, &shared.placements);
        for (name, label, count) in state.handovers.counts() {
            counted.add(name, "", label, count);
        }
        let news = counted.since(&self.counted);
        self.counted = counted;
        Ok(Knowledge {
            counters: news.messages(),
            ends: ends.into_iter().flatten().collect(),
            left: Vec::new(),
        })
    }
}

impl Inner {
    /// Another process accepts on all sockets: these here are closed, and no peer notices.
    fn stop_serving(&self) {
        self.state.handed_over.store(true, Ordering::Relaxed);
        let listeners = self.shared.listeners.current();
        for entry in listeners.iter().filter(|entry| !entry.removed) {
            self.shared.listeners.change(entry.id, |entry| entry.removed = true);
        }
        // Before this process can end.
        if let Some(admin) = self.admin_listener.upgrade() {
            admin.leave_file();
        }
        if let Some(socket) = self.handover_socket.upgrade() {
            socket.leave_file();
        }
        self.serving.send_replace(Serving::NoMore);
        self.do_no_work_of_the_next();
    }

    /// What only one process may do: rotating the log's file, and examining the cluster from time to time.
    fn do_no_work_of_the_next(&self) {
        let mut config = Config::clone(&self.config.load());
        config.log.file_size_max = None;
        config.doctor.interval = None;
        match log::prepare(&config.log) {
            Ok(prepared) => log::reconfigure(&config.log, prepared),
            Err(error) => tracing::warn!(%error, "both processes rotate the log's file"),
        }
        let config = Arc::new(config);
        self.examiner.reload(Arc::clone(&config));
        self.config.store(config);
    }
}

/// The endpoints of which that is true.
fn endpoints(cluster: &Cluster, is_meant: impl Fn(&cluster::Endpoint) -> bool) -> Vec<Endpoint> {
    let named = cluster.nodes().iter().flat_map(|node| {
        let meant = node.endpoints.iter().filter(|(_, endpoint)| is_meant(endpoint));
        meant.map(|(kind, _)| Endpoint {
            node: node.name.to_string(),
            endpoint: kind.name().to_owned(),
        })
    });
    named.collect()
}

fn placements_of(exported: &[Exported], names: &Names) -> Vec<Placement> {
    let named = exported.iter().filter_map(|exported| placement(exported, names));
    named.collect()
}
