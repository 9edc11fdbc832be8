//! Decides what the cluster is: folds resolved names, observations of the path, probes and the operator's wishes into
//! published snapshots.
//!
//! The one writer of the cluster, on a thread of its own. The path reads the newest snapshot and never waits for the next.

mod check;
mod discovery;
mod dns;
mod file;
mod health;
mod known;
mod learned;
mod probe;
mod resolve;
mod settings;
mod state;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::Instant;
use tracing::field::display;

use crate::base::events::{self, Events};
use crate::base::log::{self, List, Throttled};
use crate::cluster::{
    Cluster, Clusters, FindingSource, Member, NODES_MAX, NodeApi, NodeId, PassiveHealth, Report, WEIGHTS_MAX,
};

use check::CheckChange;
use discovery::{Discovered, FoundNodes};
use health::Change;
use state::{Changed, Reconfigured, Resolved, State};

pub use check::{Check, Checked};
pub use discovery::{Discovery, Found, FoundAnswer, FoundAt, HOST_OF_FOUND, Source, SourceKind};
pub use file::{NodesFile, NodesFormat, read as read_nodes_file};
pub use known::{Known, KnownAddresses, KnownFound};
pub use learned::Learned;
pub use probe::{Answer, CheckAnswer, FindAnswer, NodeProber, Prober, Target, Unanswered};
pub use settings::{ApiSettings, Credentials, OnDown, Pacing, ProbeDepth, ProbeProxy, Settings};
pub use state::Wish;
pub(crate) use state::WishError;

/// How long one look-up of a host name may take before the listeners open without its answer.
const FIRST_LOOKUP_MAX: Duration = Duration::from_secs(3);

/// How long records are believed at least, whatever they say.
const TTL_MIN: Duration = Duration::from_secs(5);

/// The capacity of the queue of the resolver's answers.
const LOOKUPS_MAX: usize = 64;

/// The capacity of control's queue of orders.
const ORDERS_MAX: usize = 8;

/// An order to control.
#[derive(Debug)]
enum Order {
    /// Boxed, since it is far larger than the others.
    Reload(Box<Reload>, oneshot::Sender<Vec<NodeId>>),
    SetWish {
        node: NodeId,
        wish: Wish,
        reply: oneshot::Sender<Result<(), WishError>>,
    },
    AskUnknown(oneshot::Sender<bool>),
    Known(oneshot::Sender<Known>),
}

/// What a reload changes for control.
#[derive(Clone, Debug)]
pub struct Reload {
    /// When a node counts as down, and how often names are resolved.
    pub settings: Settings,
    /// The nodes from now on. One whose name was known before keeps its id and its clients.
    pub members: Vec<Member>,
    /// How nodes are probed.
    pub prober: Arc<dyn Prober>,
}

/// Sends orders to control, which ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct ControlHandle(mpsc::Sender<Order>, Arc<FindCounts>);

/// Answers of the source of nodes, by what became of them.
#[derive(Debug, Default)]
pub(crate) struct FindCounts {
    pub(crate) used: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) held_back: AtomicU64,
}

impl ControlHandle {
    /// Applies other nodes and settings. Returns the nodes that are no longer in the cluster.
    ///
    /// # Errors
    /// Control has ended.
    pub async fn reload(&self, reload: Reload) -> io::Result<Vec<NodeId>> {
        self.request(|reply| Order::Reload(Box::new(reload), reply)).await
    }

    /// Sets the operator's wish for a node. The wish is in the published cluster when this returns, and lasts until the
    /// node is removed from the configuration.
    ///
    /// # Errors
    /// Control has ended, or [`WishError`].
    pub async fn set_wish(&self, node: NodeId, wish: Wish) -> io::Result<()> {
        let taken = self.request(|reply| Order::SetWish { node, wish, reply }).await?;
        taken.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }

    /// Has endpoints probed that have never answered. Returns once there is a result of one of them: whether there will be more.
    ///
    /// # Errors
    /// Control has ended.
    pub(crate) async fn ask_unknown(&self) -> io::Result<bool> {
        self.request(Order::AskUnknown).await
    }

    /// What another process needs for [`Control::begin_from`], beside what a cluster shows.
    ///
    /// # Errors
    /// Control has ended.
    pub(crate) async fn known(&self) -> io::Result<Known> {
        self.request(Order::Known).await
    }

    /// Answers of the source of nodes so far.
    pub(crate) fn finds(&self) -> &FindCounts {
        &self.1
    }

    async fn request<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> io::Result<T> {
        let has_ended = || io::Error::other("control has ended");
        let (reply, answer) = oneshot::channel();
        self.0.send(order(reply)).await.map_err(|_| has_ended())?;
        answer.await.map_err(|_| has_ended())
    }
}

/// The one writer of the cluster.
#[derive(Debug)]
pub struct Control {
    settings: Settings,
    state: State,
    /// The nodes of the configuration.
    members: Vec<Member>,
    /// Those that were found beside them.
    found: FoundNodes,
    /// The question for them, while it is under way.
    finding: JoinSet<(FoundAnswer, Option<Duration>)>,
    finds: Arc<FindCounts>,
    clusters: Arc<Clusters>,
    /// Sent anew with each snapshot.
    published: watch::Sender<Settings>,
    events: Arc<Events>,
    reports: mpsc::Receiver<Report>,
    orders: mpsc::Receiver<Order>,
    prober: Arc<dyn Prober>,
    /// The probes under way.
    probes: JoinSet<Result<(), Unanswered>>,
    /// Which endpoint each of them is for, and when it began.
    probed: HashMap<task::Id, (Arc<PassiveHealth>, Instant)>,
    /// The questions to nodes' APIs under way.
    checks: JoinSet<(NodeId, NodeApi, Checked)>,
    /// At most so many lines say that this process cannot probe.
    unable: Throttled,
    /// What another process has learned of nodes, for when the cluster has them, once all names were looked up.
    learned: Learned,
    /// Who waits for an endpoint that has never answered.
    asking: Vec<oneshot::Sender<bool>>,
    answers: mpsc::Receiver<resolve::Answer>,
    resolver: mpsc::Sender<resolve::Answer>,
}

impl Control {
    /// Control over `members`, with a first snapshot in which every node is up and host names are not resolved yet.
    ///
    /// Builds the ring, so it must not run on a worker.
    pub fn new(
        settings: Settings,
        members: &[Member],
        seed: u64,
        reports: mpsc::Receiver<Report>,
        prober: Arc<dyn Prober>,
    ) -> (Self, ControlHandle) {
        let mut state = State::new(members, seed, Instant::now());
        state.set_pacing(settings.pacing);
        // Each node has one look-up in progress at a time, whose answer waits for room in the queue.
        let (resolver, answers) = mpsc::channel(LOOKUPS_MAX);
        let (handle, orders) = mpsc::channel(ORDERS_MAX);
        let finds = Arc::<FindCounts>::default();
        let control = Self {
            published: watch::Sender::new(settings.clone()),
            settings,
            members: members.to_vec(),
            found: FoundNodes::default(),
            finding: JoinSet::new(),
            finds: Arc::clone(&finds),
            clusters: Clusters::new(state.snapshot()),
            events: Arc::default(),
            state,
            reports,
            orders,
            prober,
            probes: JoinSet::new(),
            probed: HashMap::new(),
            checks: JoinSet::new(),
            unable: Throttled::default(),
            learned: Learned::default(),
            asking: Vec::new(),
            answers,
            resolver,
        };
        (control, ControlHandle(handle, finds))
    }

    /// Goes on from what another process has learned. To be called before [`Control::run`].
    ///
    /// # Errors
    /// There are too many names.
    pub fn begin_from(&mut self, learned: Learned) -> io::Result<()> {
        if self.state.know(&learned.known) < learned.known.len() {
            return Err(io::Error::other("too many names of nodes"));
        }
        if self.settings.discovery.is_some() && !learned.found.found.is_empty() {
            let is_same = self.source() == learned.found.source;
            self.found.begin_with(&learned.found.found, is_same, Instant::now());
            self.reconfigure();
        }
        self.learned = learned;
        self.begin_at();
        self.publish();
        Ok(())
    }

    /// Puts nodes where another process has found them to be.
    fn begin_at(&mut self) {
        let known = &self.learned.found.addresses;
        known.iter().for_each(|known| self.state.begin_at(known));
        if !known.is_empty() {
            self.publish();
        }
    }

    /// Who is asked for nodes; empty if nobody is.
    fn source(&self) -> String {
        let discovery = self.settings.discovery.as_ref();
        discovery.map_or(String::new(), |discovery| discovery.source.to_string())
    }

    fn known(&self) -> Known {
        let now = Instant::now();
        Known {
            source: self.source(),
            found: self.found.known(now),
            addresses: self.state.known_addresses(),
            came_back: self.state.came_back(now),
        }
    }

    /// Where the snapshots are published.
    pub fn clusters(&self) -> Arc<Clusters> {
        Arc::clone(&self.clusters)
    }

    /// The settings in force, which count as changed whenever a snapshot was published.
    pub(crate) fn published(&self) -> watch::Receiver<Settings> {
        self.published.subscribe()
    }

    /// Where changes of nodes are told, and others of the process may be.
    pub fn events(&self) -> Arc<Events> {
        Arc::clone(&self.events)
    }

    /// Looks for nodes, and looks up all host names, once. One that cannot be resolved is a warning, and is tried again later.
    ///
    /// # Errors
    /// Nodes that another process has are not known here.
    pub(crate) async fn resolve_at_start(&mut self) -> io::Result<()> {
        self.look_up_at_start().await;
        let learned = std::mem::take(&mut self.learned);
        self.check_found(&learned.found)?;
        if self.state.learn(&learned, &self.settings, Instant::now()) {
            self.publish();
        }
        Ok(())
    }

    /// Whether the nodes are here that another process has found, if the same source says all of them and has given no answer here.
    fn check_found(&self, known: &Known) -> io::Result<()> {
        let missing = known.found.iter().filter(|found| found.host.is_none()).count();
        if missing == 0 || self.source() != known.source || self.finds.used.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        let source = &known.source;
        let message =
            format!("{missing} nodes of {source} are missing here, since it cannot be read now: the log says why");
        Err(io::Error::other(message))
    }

    async fn look_up_at_start(&mut self) {
        let due = Instant::now() + FIRST_LOOKUP_MAX;
        self.find_due(Instant::now());
        if !self.finding.is_empty() {
            match tokio::time::timeout_at(due, self.finding.join_next()).await {
                Ok(Some(joined)) => {
                    self.take_found(joined);
                    self.begin_at();
                }
                Ok(None) | Err(_) => tracing::warn!("nodes are still being looked for; starting without them"),
            }
        }
        let due = Instant::now() + FIRST_LOOKUP_MAX;
        let mut missing = self.look_up_due(Instant::now());
        while missing > 0 {
            let Ok(Some(answer)) = tokio::time::timeout_at(due, self.answers.recv()).await else {
                tracing::warn!(missing, "host names are still being looked up; starting without them");
                return;
            };
            missing -= 1;
            self.take_answer(&answer);
        }
    }

    /// Keeps the cluster up to date until the last [`ControlHandle`] is dropped. It must run in a [`tokio::task::LocalSet`],
    /// since sockets stay on their thread.
    pub async fn run(mut self) {
        loop {
            let now = Instant::now();
            self.probe_due(now);
            self.check_due(now);
            self.find_due(now);
            self.look_up_due(now);
            let find = self.settings.discovery.as_ref().and_then(|_| self.found.next(now));
            let wake = [self.state.next_deadline(), find].into_iter().flatten().min();
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.take_order(order),
                    None => return,
                },
                Some(report) = self.reports.recv() => self.take_report(&report, Instant::now()),
                Some(answer) = self.answers.recv() => {
                    let before = self.clusters.current();
                    self.take_answer(&answer);
                    self.tell_states(&before, FindingSource::Lookup);
                }
                Some(joined) = self.probes.join_next_with_id() => self.take_probed(joined),
                Some(Ok((node, api, checked))) = self.checks.join_next() => self.take_checked(node, &api, &checked),
                Some(joined) = self.finding.join_next() => self.take_found(joined),
                () = sleep_until(wake) => {}
            }
        }
    }

    fn publish(&self) {
        self.clusters.publish(self.state.snapshot());
        self.published.send_replace(self.settings.clone());
    }

    fn take_order(&mut self, order: Order) {
        // In all of these, the receiver may have been dropped, which changes nothing.
        match order {
            Order::Reload(reload, reply) => {
                let _ = reply.send(self.reload(*reload));
            }
            Order::SetWish { node, wish, reply } => {
                let _ = reply.send(self.set_wish(node, wish));
            }
            Order::AskUnknown(reply) => {
                self.state.ask_unknown(Instant::now());
                self.asking.push(reply);
            }
            Order::Known(reply) => {
                let _ = reply.send(self.known());
            }
        }
    }

    /// Applies other nodes and settings. Returns the nodes that are no longer in the cluster.
    fn reload(&mut self, reload: Reload) -> Vec<NodeId> {
        let Reload {
            settings,
            members,
            prober,
        } = reload;
        self.state.set_pacing(settings.pacing);
        let source = |settings: &Settings| settings.discovery.as_ref().map(|discovery| discovery.source.clone());
        if source(&settings) != source(&self.settings) {
            self.finding.abort_all();
            self.finding = JoinSet::new();
            match settings.discovery {
                Some(_) => self.found.begin_anew(),
                None => self.found = FoundNodes::default(),
            }
        }
        self.settings = settings;
        self.prober = prober;
        self.members = members;
        self.reconfigure()
    }

    /// Applies the nodes of the configuration and those that were found. Returns those that are no longer in the cluster.
    fn reconfigure(&mut self) -> Vec<NodeId> {
        let mut members = self.members.clone();
        if let Some(discovery) = &self.settings.discovery {
            let mut weights: usize = members.iter().map(|member| usize::from(member.weight)).sum();
            let mut left_out = 0;
            for (name, at) in self.found.in_force() {
                // What the configuration says of a node comes first.
                if self.members.iter().any(|member| member.name == name) {
                    continue;
                }
                let Some(member) = discovery.member(name, at) else {
                    continue;
                };
                weights += usize::from(member.weight);
                let known = self.state.known_count() + members.len();
                if members.len() >= NODES_MAX || weights > WEIGHTS_MAX || known >= usize::from(u16::MAX) {
                    left_out += 1;
                } else {
                    members.push(member);
                }
            }
            if left_out > 0 {
                tracing::warn!(
                    left_out,
                    "found more nodes than a cluster may have, or too many new names for this process"
                );
            }
        }
        let Reconfigured { added, moved, removed } = self.state.reconfigure(&members, Instant::now());
        self.publish();
        for (node, address) in added {
            self.events.push(events::Change::NodeAdded { node: node.to_string() });
            let event = events::Change::NODE_ADDED;
            tracing::info!(event, %node, %address, "node added");
        }
        for (node, kind, address) in moved {
            tracing::info!(%node, endpoint = kind.name(), %address, "node address changed");
        }
        for (_, node) in &removed {
            self.events.push(events::Change::NodeRemoved { node: node.to_string() });
            let event = events::Change::NODE_REMOVED;
            tracing::info!(event, %node, "node removed; its connections stay");
        }
        removed.into_iter().map(|(id, _)| id).collect()
    }

    fn set_wish(&mut self, node: NodeId, wish: Wish) -> Result<(), WishError> {
        let id = node;
        let node = self.state.wish(id, wish, Instant::now())?;
        self.publish();
        if let Some(now) = self.clusters.current().node(id) {
            self.events.push(events::Change::NodeWish {
                node: node.to_string(),
                weight: now.weight,
                is_draining: now.is_draining,
            });
        }
        let event = events::Change::NODE_WISH;
        match wish {
            Wish::Up => tracing::info!(event, %node, "node takes new clients"),
            Wish::Draining => tracing::info!(event, %node, "node is draining"),
            Wish::Weight(Some(weight)) => tracing::info!(event, %node, weight, "node weight set"),
            Wish::Weight(None) => tracing::info!(event, %node, "node weight reset to the configured one"),
        }
        Ok(())
    }

    /// Logs a change that was published, and tells those who follow the events.
    fn tell(&self, changed: &Changed, source: FindingSource) {
        log_change(changed, source);
        let cluster = self.clusters.current();
        let node = cluster.nodes().iter().find(|node| node.name == changed.node);
        let Some((node, endpoint)) = node.and_then(|node| Some((node, node.endpoints.get(changed.kind)?))) else {
            return;
        };
        let unanswered = changed.unanswered.as_deref();
        self.events.push(events::Change::NodeState {
            node: node.name.to_string(),
            endpoint: changed.kind.name().to_owned(),
            state: node.state_of(endpoint).name().to_owned(),
            source: source.name().to_owned(),
            why: unanswered
                .filter(|_| changed.change == Change::WentDown)
                .map(|unanswered| unanswered.why.clone()),
        });
    }

    /// Tells of each endpoint that is in another state than in `before`, at the word of `source`.
    fn tell_states(&self, before: &Cluster, source: FindingSource) {
        for node in self.clusters.current().nodes() {
            let Some(old) = before.node(node.id) else {
                continue;
            };
            for (kind, endpoint) in node.endpoints.iter() {
                let state = node.state_of(endpoint).name();
                if old
                    .endpoints
                    .get(kind)
                    .is_none_or(|before| old.state_of(before).name() == state)
                {
                    continue;
                }
                let (event, name, endpoint, source) =
                    (events::Change::NODE_STATE, &*node.name, kind.name(), source.name());
                tracing::info!(event, node = name, endpoint, state, source, "node has another state");
                self.events.push(events::Change::NodeState {
                    node: name.to_owned(),
                    endpoint: endpoint.to_owned(),
                    state: state.to_owned(),
                    source: source.to_owned(),
                    why: None,
                });
            }
        }
    }

    fn take_report(&mut self, report: &Report, now: Instant) {
        let changed = self.state.observe(report, &self.settings, now);
        if self.state.take_findings() || changed.is_some() {
            self.publish();
        }
        if let Some(changed) = changed {
            self.tell(&changed, FindingSource::Clients);
        }
    }

    /// Starts the probes that are due.
    fn probe_due(&mut self, now: Instant) {
        self.state.plan_probes(&self.settings, now);
        for target in self.state.due_probes(now) {
            let passive = Arc::clone(&target.endpoint.passive);
            let probe = self.probes.spawn_local(self.prober.probe(target));
            self.probed.insert(probe.id(), (passive, now));
        }
        if !self.state.has_unknown_in_question() {
            self.answer_asking();
        }
    }

    fn take_probed(&mut self, joined: Result<(task::Id, Result<(), Unanswered>), JoinError>) {
        let (id, answer) = joined.unwrap_or_else(|error| {
            let why = format!("the probe panicked: {error}");
            let unanswered = Unanswered {
                was_asked: false,
                address: None,
                why,
            };
            (error.id(), Err(unanswered))
        });
        let Some((passive, began)) = self.probed.remove(&id) else {
            return;
        };
        if let Err(Unanswered {
            was_asked: false,
            address,
            why,
        }) = &answer
        {
            let (due, address) = (self.unable.due(Instant::now()), address.map(display));
            log::warn_throttled!(due, address, why, "cannot probe a node");
        }
        let changed = self
            .state
            .probed(&passive, &answer, began, &self.settings, Instant::now());
        if self.state.take_findings() || changed.is_some() {
            self.publish();
        }
        for (node, kind, why) in self.state.take_kept_up() {
            tracing::warn!(
                %node, endpoint = kind.name(), why,
                "probes of node fail, but it stays in use: more nodes than health.down_share allows would be down by probes alone"
            );
        }
        if let Some(changed) = changed {
            self.tell(&changed, FindingSource::Probe);
        }
        self.answer_asking();
    }

    /// Asks the APIs that are to be asked now.
    fn check_due(&mut self, now: Instant) {
        for (node, api) in self.state.due_checks(now) {
            let check = self.prober.check(api.clone());
            // A panic in it would leave the node unasked.
            self.checks.spawn_local(async move {
                let checked = task::spawn_local(check).await;
                let checked = checked.unwrap_or_else(|error| Checked::Unanswered(error.to_string()));
                (node, api, checked)
            });
        }
    }

    fn take_checked(&mut self, node: NodeId, api: &NodeApi, checked: &Checked) {
        let before = self.clusters.current();
        let changed = self.state.checked(node, api, checked, &self.settings, Instant::now());
        if self.state.take_findings() || changed.is_some() {
            self.publish();
        }
        if let Some((node, change)) = changed {
            log_check(&node, api, &change);
            self.tell_states(&before, FindingSource::Api);
        }
    }

    fn answer_asking(&mut self) {
        let more = self.state.has_unknown_in_question();
        for reply in self.asking.drain(..) {
            // Who has asked may be gone.
            let _ = reply.send(more);
        }
    }

    /// Asks for nodes, if that is due.
    fn find_due(&mut self, now: Instant) {
        if let Some(discovery) = &self.settings.discovery
            && self.found.is_due(now)
        {
            self.finding.spawn_local(self.prober.find(discovery.source.clone()));
        }
    }

    fn take_found(&mut self, joined: Result<(FoundAnswer, Option<Duration>), JoinError>) {
        let Some((interval, grace)) = self.settings.discovery.as_ref().map(|d| (d.interval, d.grace)) else {
            return;
        };
        let (answer, ttl) = joined.unwrap_or_else(|error| (Err(format!("the question panicked: {error}")), None));
        let interval = ttl.map_or(interval, |ttl| ttl.clamp(TTL_MIN.min(interval), interval));
        let interval = self.state.jittered(interval);
        let said = self.found.answered(&answer, interval, grace, Instant::now());
        let counted = match (self.found.has_failed(), self.found.holds_back()) {
            (true, _) => &self.finds.failed,
            (false, true) => &self.finds.held_back,
            (false, false) => &self.finds.used,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        for discovered in said {
            match discovered {
                Discovered::Changed => drop(self.reconfigure()),
                Discovered::Failed(why) => {
                    tracing::warn!(why, "nodes cannot be looked for; keeping those found before");
                }
                Discovered::Again => tracing::info!("nodes can be looked for again"),
                Discovered::HeldBack { missing, of } => tracing::warn!(
                    missing,
                    of,
                    "more than half of the nodes are missing in an answer; keeping them until it has been so for discovery.grace"
                ),
                Discovered::Missing(node) => {
                    tracing::info!(node, "node is missing in an answer; keeping it for discovery.grace");
                }
            }
        }
    }

    /// Starts the look-ups that are due. Returns how many.
    fn look_up_due(&mut self, now: Instant) -> usize {
        let due = self.state.due_lookups(self.settings.resolve_interval, now);
        let count = due.len();
        for (node, address) in due {
            resolve::look_up(node, address, self.resolver.clone());
        }
        count
    }

    fn take_answer(&mut self, answer: &resolve::Answer) {
        let resolve::Answer { node, asked, addresses } = answer;
        let found = addresses.as_deref().ok();
        let error = addresses.as_ref().err().map(display);
        let Some((node, resolved)) = self.state.resolved(*node, asked, found) else {
            return;
        };
        let (host, addresses) = (asked, List::of(found.unwrap_or_default()));
        match resolved {
            Resolved::Changed => {
                self.publish();
                let several = several_of_a_family(found.unwrap_or_default());
                let addresses = addresses.value();
                tracing::info!(%node, %host, addresses, "node's host name resolved");
                if several {
                    tracing::warn!(
                        %node, %host, addresses,
                        "node's host name has several addresses, as a headless service has; if they are different brokers, the clients \
                         of this node are spread over them: give each broker a node of its own"
                    );
                }
            }
            Resolved::Again => {
                tracing::info!(%node, %host, addresses = addresses.value(), "node's host name can be resolved again")
            }
            Resolved::Nowhere => {
                tracing::warn!(%node, %host, error, "node's host name cannot be resolved; the node gets no clients until it can");
            }
            Resolved::Kept => {
                tracing::warn!(%node, %host, error, "node's host name cannot be resolved; keeping its last address");
            }
        }
    }
}

/// Logs a change that was published.
fn log_change(changed: &Changed, source: FindingSource) {
    let Changed {
        node,
        kind,
        change,
        unanswered,
        address,
    } = changed;
    let (event, endpoint, source) = (events::Change::NODE_STATE, kind.name(), source.name());
    match change {
        Change::WentDown => {
            // What the last probe met, without which no endpoint goes down.
            let (asked, why) = unanswered
                .as_deref()
                .map(|failed| (failed.address, &*failed.why))
                .unzip();
            let asked = asked.flatten().map(display);
            tracing::warn!(event, %node, endpoint, source, address = asked, why, "node is down");
        }
        Change::CameBack => {
            let address = address.map(display);
            tracing::info!(event, %node, endpoint, source, address, "node is up again");
        }
    }
}

/// Logs a change of what a node's API says.
fn log_check(node: &str, api: &NodeApi, change: &CheckChange) {
    let api = display(api);
    match change {
        CheckChange::Drains => {
            tracing::info!(node, api, "node is draining: its API says that it takes no new clients");
        }
        CheckChange::Takes => tracing::info!(node, api, "node takes new clients: its API says so"),
        CheckChange::Unusable(status) => {
            tracing::warn!(
                node,
                api,
                status,
                "node's API cannot be used to check it; its state depends on probes and clients alone"
            );
        }
        CheckChange::Silent(why) => {
            tracing::warn!(
                node,
                api,
                why = &**why,
                "node's API does not answer; its state depends on probes and clients alone"
            );
        }
        CheckChange::Usable => tracing::info!(node, api, "node's API can be used again"),
    }
}

/// Whether a host name has more than one address of one family. A host with both families has one of each.
fn several_of_a_family(addresses: &[SocketAddr]) -> bool {
    let of_v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
    of_v4 > 1 || addresses.len() - of_v4 > 1
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_of_each_family_is_one_host() {
        let several = |addresses: &[&str]| {
            let addresses: Vec<SocketAddr> = addresses.iter().map(|a| a.parse().expect("an address")).collect();
            several_of_a_family(&addresses)
        };
        assert!(!several(&[]));
        assert!(!several(&["10.0.0.1:1883"]));
        assert!(!several(&["10.0.0.1:1883", "[2001:db8::1]:1883"]));
        assert!(several(&["10.0.0.1:1883", "10.0.0.2:1883"]));
        assert!(several(&["10.0.0.1:1883", "[2001:db8::1]:1883", "[2001:db8::2]:1883"]));
    }
}
