//! The cloneable handle of a balancer: orders to its workers and to control, and snapshots to show. Reload is in a
//! file of its own.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, watch};

use super::certificates::{self, CertificateStatus};
use super::closing_gate::{ClosingGate, Passing};
use super::closings::{self, Closings, Which, Work};
use super::drain::{self, Closing};
use super::examiner_handle::ExaminerHandle;
use super::handover::{Gave, HandoverSocket, LeftBehind};
use super::rebalance::{self, Background, RebalanceStatus};
use super::requests::{Program, Request};
use crate::admin::settings as admin;
use crate::admin::{AdminState, Listener, Serving};
use crate::base::events::{Change, Events};
use crate::base::heartbeat::Heartbeat;
use crate::base::log;
use crate::base::supervise::{Supervisor, Task};
use crate::cluster::{EndpointKind, Finding, FindingSource, NodeId, NodeState, Verdict};
use crate::config::{self, Config};
use crate::control::{ControlHandle, Wish};
use crate::doctor::examination::Examination;
use crate::path::connection::Shared;
use crate::path::ended::Ended;
use crate::worker::{Order, Selector, WorkerHandle};

/// How often a balancer that stops softly looks whether connections are left.
const EMPTY_INTERVAL: Duration = Duration::from_millis(100);

/// Sends orders to a balancer, and shows its state. Clones may be held on any thread; one that outlives the balancer
/// returns errors.
#[derive(Clone, Debug)]
pub struct Handle(pub(super) Arc<Inner>);

/// What all handles share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) workers: Vec<WorkerHandle>,
    pub(super) control: ControlHandle,
    pub(super) shared: Shared,
    pub(super) state: Arc<AdminState>,
    /// Tells the probes of this process from those of another.
    pub(super) instance: u32,
    pub(super) admin: Vec<SocketAddr>,
    /// The path of the admin socket, if there is one.
    pub(super) socket: Option<PathBuf>,
    /// The admin listener, as long as it serves.
    pub(super) admin_listener: Weak<Listener>,
    /// Where another process can take over, as long as none has.
    pub(super) handover_socket: Weak<HandoverSocket>,
    /// Whether these serve.
    pub(super) serving: watch::Sender<Serving>,
    /// What another process has taken over.
    pub(super) gave: watch::Sender<Gave>,
    /// Another process is taking over.
    pub(super) is_giving: AtomicBool,
    /// Connections that have stayed with processes before this one.
    pub(super) left_behind: LeftBehind,
    /// Connections may still come from the process that this one has taken over from.
    pub(super) is_taking: Arc<AtomicBool>,
    pub(super) supervisor: Supervisor,
    /// Control's runtime. Reloads run there, so that one is finished even if its caller is cancelled.
    pub(super) runtime: tokio::runtime::Handle,
    /// A reload or a drain holds it from its beginning to its end: one at a time.
    pub(super) turn: Mutex<()>,
    /// The configuration in force. Only a reload replaces it.
    pub(super) config: ArcSwap<Config>,
    /// Examines this balancer.
    pub(super) examiner: ExaminerHandle,
    /// The last rebalance in the background.
    pub(super) rebalance: Background,
    /// Where changes are told.
    pub(super) events: Arc<Events>,
    /// Connections of nodes that are being closed.
    pub(super) closings: Closings,
    /// Shut while connections change hands.
    pub(super) gate: ClosingGate,
    /// The last numbers of connections on further workers, which processes before this one had.
    pub(super) numbers_before: OnceLock<Vec<u64>>,
    /// To the owner of the process, if it takes requests.
    pub(super) requests: ArcSwapOption<mpsc::Sender<Request>>,
    /// What an upgrade starts, if the owner of the process can do that.
    pub(super) program: ArcSwapOption<Program>,
    /// Workers end once this is true.
    pub(super) stop: watch::Sender<bool>,
}

/// A node as it is now.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// Its number, by which orders name it.
    pub id: NodeId,
    /// Its name.
    pub name: Arc<str>,
    /// Its weight on the ring: the configured one, or the operator's override.
    pub weight: u16,
    /// The weight that the configuration gives it, or the source that it was found by; `None` if it is in the cluster no more.
    pub configured_weight: Option<u16>,
    /// The operator is draining it, or its own API says so: it gets no new clients.
    pub is_draining: bool,
    /// What each source says of it: why its endpoints are in their states.
    pub findings: Arc<[Finding]>,
    /// So many of its connections are being closed per second, at the operator's order.
    pub closing_rate: Option<u32>,
    /// The states of its endpoints.
    pub endpoints: Vec<(EndpointKind, NodeState)>,
    /// Connections to it, those being set up included.
    pub connections: usize,
}

impl NodeStatus {
    /// Whether it is draining because the operator wishes so.
    pub fn is_drained_by_operator(&self) -> bool {
        let mut findings = self.findings.iter();
        findings.any(|finding| (finding.source, finding.verdict) == (FindingSource::Operator, Verdict::Draining))
    }
}

/// What the operator wishes of a node, where that differs from the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeWish {
    /// The name of the node.
    pub node: String,
    /// Its weight instead of the configured one.
    pub weight: Option<u16>,
    /// Whether it is draining.
    pub is_draining: bool,
}

/// A listener as it is now.
#[derive(Clone, Debug)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where it is bound.
    pub address: SocketAddr,
    /// The transport of its clients.
    pub kind: EndpointKind,
    /// Its connections now.
    pub connections: usize,
    /// Connections that it has accepted.
    pub accepted: u64,
    /// It is closed, and some of its connections are still open.
    pub removed: bool,
}

/// Connections of the whole process at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// All of them, those being set up included.
    pub connections: usize,
    /// Those whose CONNECT has not been read yet.
    pub awaiting_connect: usize,
    /// Those in a TLS handshake.
    pub handshakes: usize,
    /// Bytes held for clients that no node has accepted yet.
    pub held_bytes: usize,
    /// Clients remembered because they are on another node than their home.
    pub placements: usize,
}

impl Handle {
    /// The addresses of the open listeners, in the order in which they were opened: that of the configuration, at first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let listeners = self.0.shared.listeners.current();
        let open = listeners.iter().filter(|listener| !listener.removed);
        open.map(|listener| listener.address).collect()
    }

    /// Where the admin listener is on TCP, first; `None` if it is nowhere.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.0.admin.first().copied()
    }

    /// Everywhere where the admin listener is on TCP.
    pub fn admin_addresses(&self) -> &[SocketAddr] {
        &self.0.admin
    }

    /// The settings of the admin listener in force.
    pub(crate) fn admin_settings(&self) -> admin::Settings {
        self.0.config.load().admin.clone()
    }

    /// What the admin listener shows of this balancer.
    pub(crate) fn admin_state(&self) -> &AdminState {
        &self.0.state
    }

    /// The path of the admin listener's unix socket, if there is one.
    pub fn admin_socket(&self) -> Option<&Path> {
        self.0.socket.as_deref()
    }

    /// The file of the configuration, as an absolute path, if there is one.
    pub fn configuration(&self) -> Option<PathBuf> {
        self.0.config.load().admin.configuration.clone()
    }

    /// Why this balancer should get no new clients; `None` if it should.
    pub fn unready(&self) -> Option<String> {
        self.0.state.unready().map(|unready| unready.to_string())
    }

    /// Connections now, those being set up included.
    pub fn connections(&self) -> usize {
        self.0.shared.admission.connections()
    }

    /// The nodes of the cluster, sorted by name, and the removed ones that still have connections.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        let cluster = self.0.shared.clusters.current();
        let current = cluster.nodes().iter().map(|node| NodeStatus {
            id: node.id,
            name: Arc::clone(&node.name),
            weight: node.weight,
            configured_weight: Some(node.configured_weight),
            is_draining: node.is_draining,
            closing_rate: self.0.closings.rate(node.id),
            findings: Arc::clone(&node.findings),
            endpoints: node
                .endpoints
                .iter()
                .map(|(kind, e)| (kind, node.state_of(e)))
                .collect(),
            connections: node.load.connections.load(Ordering::Relaxed),
        });
        let known = (0..).map(NodeId).zip(cluster.all_known());
        let removed = known.filter(|(id, _)| cluster.node(*id).is_none());
        let removed = removed.map(|(id, known)| NodeStatus {
            id,
            name: Arc::clone(&known.name),
            weight: 0,
            configured_weight: None,
            is_draining: true,
            closing_rate: self.0.closings.rate(id),
            findings: Arc::default(),
            endpoints: Vec::new(),
            connections: known.load.connections.load(Ordering::Relaxed),
        });
        current.chain(removed.filter(|node| node.connections > 0)).collect()
    }

    /// The open listeners, in the order in which they were opened, and the removed ones that still have connections.
    pub fn listeners(&self) -> Vec<ListenerStatus> {
        let listeners = self.0.shared.listeners.current();
        let shown = listeners.iter().map(|listener| ListenerStatus {
            name: listener.name().to_owned(),
            address: listener.address,
            kind: listener.kind(),
            connections: listener.listener_count.connections(),
            accepted: listener.counters.iter().map(|counters| counters.accepted.get()).sum(),
            removed: listener.removed,
        });
        shown.filter(|l| !l.removed || l.connections > 0).collect()
    }

    /// The connections of the whole process.
    pub fn totals(&self) -> Totals {
        let shared = &self.0.shared;
        Totals {
            connections: shared.admission.connections(),
            awaiting_connect: shared.held.awaiting_connect(),
            handshakes: shared.held.handshakes(),
            held_bytes: shared.held.bytes(),
            placements: shared.placements.len(),
        }
    }

    /// The wishes for the nodes of the cluster that differ from the configuration.
    pub fn wishes(&self) -> Vec<NodeWish> {
        let nodes = self.nodes().into_iter().filter_map(|node| {
            let configured = node.configured_weight?;
            Some(NodeWish {
                node: node.name.to_string(),
                weight: (node.weight != configured).then_some(node.weight),
                // Not what its own API says, which is no wish of the operator's.
                is_draining: node.is_drained_by_operator(),
            })
        });
        nodes.filter(|wish| wish.is_draining || wish.weight.is_some()).collect()
    }

    /// Carries out wishes of an earlier process.
    ///
    /// # Errors
    /// There is no such node, the weight is out of range, or control has ended.
    pub async fn restore(&self, wish: &NodeWish) -> io::Result<()> {
        if let Some(weight) = wish.weight {
            self.set_weight(&wish.node, Some(weight)).await?;
        }
        if wish.is_draining {
            self.drain_node(&wish.node).await?;
        }
        Ok(())
    }

    /// Waits for an event behind the one with the number `seen`, and returns the number of the newest.
    pub async fn next_change(&self, seen: u64) -> u64 {
        self.0.events.wait_for(seen + 1).await;
        self.0.events.newest()
    }

    /// Drains a node: it keeps its clients and gets no new ones until [`Handle::undrain_node`], also across reloads.
    ///
    /// # Errors
    /// There is no such node, or control has ended.
    pub async fn drain_node(&self, name: &str) -> io::Result<()> {
        self.wish(name, Wish::Draining).await
    }

    /// Drains a node, and closes its connections at `rate` per second, those at rest first, until it has none or is undrained.
    /// Returns at once.
    ///
    /// # Errors
    /// There is no such node, or control has ended.
    pub async fn drain_node_at(&self, name: &str, rate: u32) -> io::Result<()> {
        self.drain_node(name).await?;
        let _passing = self.may_order().await?;
        let which = Which::All;
        self.start_closing(self.named(name)?, closings::Order { rate, which });
        Ok(())
    }

    /// Closes the connections that a node has now at `rate` per second, those at rest first, or at once without a rate. Returns at
    /// once. The node may be one that was removed.
    ///
    /// # Errors
    /// This process has never had such a node, or a worker has ended.
    pub async fn close_node(&self, name: &str, rate: Option<u32>) -> io::Result<()> {
        let cluster = self.0.shared.clusters.current();
        let known = (0..).map(NodeId).zip(cluster.all_known());
        let node = known.into_iter().find(|(_, known)| *known.name == *name);
        let (node, _) = node.ok_or_else(|| no_node(name))?;
        let _passing = self.may_order().await?;
        match rate {
            Some(rate) => {
                let which = Which::UpTo(self.last_numbers().await?);
                self.start_closing(node, closings::Order { rate, which });
            }
            None => {
                self.0.closings.stop(node);
                self.close(Selector::Node(node)).await?;
            }
        }
        Ok(())
    }

    /// Lets a node get new clients again. Its connections are not closed any more.
    ///
    /// # Errors
    /// There is no such node, or control has ended.
    pub async fn undrain_node(&self, name: &str) -> io::Result<()> {
        self.wish(name, Wish::Up).await?;
        let _passing = self.may_order().await?;
        self.0.closings.stop(self.named(name)?);
        Ok(())
    }

    /// Gives a node this weight instead of the configured one, also across reloads; `None` resets it. Connections stay
    /// where they are.
    ///
    /// # Errors
    /// There is no such node, the weight is out of range, or control has ended.
    pub async fn set_weight(&self, name: &str, weight: Option<u16>) -> io::Result<()> {
        self.wish(name, Wish::Weight(weight)).await
    }

    async fn wish(&self, name: &str, wish: Wish) -> io::Result<()> {
        let _passing = self.may_order().await?;
        self.0.control.set_wish(self.named(name)?, wish).await
    }

    /// The node of the cluster with this name.
    pub(super) fn named(&self, name: &str) -> io::Result<NodeId> {
        self.node_id(name).ok_or_else(|| no_node(name))
    }

    /// Waits while connections change hands. They stay here for as long as the result lasts.
    ///
    /// # Errors
    /// Another process has them now, and would not learn of the order.
    async fn may_order(&self) -> io::Result<Passing> {
        let passing = self.0.gate.pass().await;
        match self.has_handed_over() {
            true => Err(io::Error::other(HANDED_OVER)),
            false => Ok(passing),
        }
    }

    /// The last number of a connection on each worker that this process or one before it had.
    async fn last_numbers(&self) -> io::Result<Arc<[u64]>> {
        let mut numbers = Vec::with_capacity(self.0.workers.len());
        for worker in &self.0.workers {
            numbers.push(worker.request(Order::LastNumber).await?);
        }
        numbers.extend(self.0.numbers_before.get().into_iter().flatten());
        Ok(numbers.into())
    }

    pub(super) fn start_closing(&self, node: NodeId, order: closings::Order) {
        let work = Work {
            workers: self.0.workers.clone(),
            gate: self.0.gate.clone(),
            clusters: Arc::clone(&self.0.shared.clusters),
            is_taking: Arc::clone(&self.0.is_taking),
            node,
            order,
        };
        self.0.closings.start(&self.0.runtime, work);
    }

    /// What has changed lately, and what changes.
    pub(crate) fn events(&self) -> Arc<Events> {
        Arc::clone(&self.0.events)
    }

    /// What an operator should look at in the configuration in force.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.0.config.load().warnings.iter().map(ToString::to_string).collect()
    }

    /// The configuration in force as a file with every key, and whether it is what its file says now: only then it has the lines
    /// of that file. Reads the file, and those that it names.
    pub(crate) fn effective(&self) -> (String, bool) {
        let config = self.0.config.load();
        let file = config.admin.configuration.as_deref();
        let loaded = file.and_then(|file| config::load_with_source(file).ok());
        let same = loaded.filter(|loaded| loaded.config == **config);
        let source = same.as_ref().map(|loaded| &loaded.source);
        (config::effective(&config, source), same.is_some())
    }

    /// The number of the node with this name, if it is in the cluster now.
    pub fn node_id(&self, name: &str) -> Option<NodeId> {
        let cluster = self.0.shared.clusters.current();
        let mut nodes = cluster.nodes().iter();
        nodes.find(|node| &*node.name == name).map(|node| node.id)
    }

    /// Stops softly: reports it on `/readyz`, goes on accepting for a while, and closes the listeners once no client waits there.
    /// Connections go on until they end by themselves. Returns when none is left. Waits for a reload in progress; none is possible
    /// afterwards.
    ///
    /// If the returned future is dropped, the balancer stays without listeners, and [`Handle::drain`] closes what is left.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn stop_softly(&self) -> io::Result<()> {
        self.begin_draining();
        let _turn = self.0.turn.lock().await;
        let delay = self.0.config.load().drain.delay;
        self.stop_accepting(delay).await?;
        self.empty().await;
        Ok(())
    }

    /// Waits until there is no connection.
    pub(super) async fn empty(&self) {
        while self.connections() > 0 {
            tokio::time::sleep(EMPTY_INTERVAL).await;
        }
    }

    /// Closes the listeners after `delay`, unless they are closed.
    async fn stop_accepting(&self, delay: Duration) -> io::Result<()> {
        if self.addresses().is_empty() {
            return Ok(());
        }
        tokio::time::sleep(delay).await;
        self.0.close_all_listeners().await
    }

    /// Drains the balancer: reports it on `/readyz`, goes on accepting for a while, closes the listeners once no client
    /// waits there, then closes connections at a pace. Returns when none is left, or when the time for it is over.
    /// Waits for a reload in progress; none is possible afterwards.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn drain(&self) -> io::Result<()> {
        self.begin_draining();
        let _turn = self.0.turn.lock().await;
        let drain::Settings { delay, rate, grace } = self.0.config.load().drain;
        self.stop_accepting(delay).await?;
        self.close_all_within(rate, grace).await
    }

    /// Closes all connections at `rate` per second, until there are none or the time for it is over.
    pub(super) async fn close_all_within(&self, rate: u32, grace: Duration) -> io::Result<()> {
        let mut closing = Closing::new((&self.0.workers, &self.0.gate), Selector::All, Ended::Shutdown, rate).await?;
        while self.connections() > 0 && closing.elapsed() < grace {
            if closing.round().await?.is_last {
                // Clients that were being set up are closed once they are relayed.
                closing.select().await?;
            }
        }
        Ok(())
    }

    /// Closes the selected connections at once. Returns how many were ordered to close. Clients that are being set up
    /// are not included.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn close(&self, selector: Selector) -> io::Result<usize> {
        drain::close(&self.0.workers, selector).await
    }

    /// Closes the connections of the client with exactly this id. Returns how many there were.
    ///
    /// # Errors
    /// A worker has ended, or another process has taken over.
    pub async fn close_client(&self, id: &[u8]) -> io::Result<usize> {
        let _passing = self.may_order().await?;
        self.close(Selector::client_id(id)).await
    }

    /// Closes the selected connections at `rate` per second, those at rest first. Returns how many there were, once all
    /// were ordered to close. Clients that are being set up are not included. If the returned future is dropped, the
    /// remaining connections stay open.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn close_at(&self, selector: Selector, rate: u32) -> io::Result<u64> {
        let mut closing = Closing::new((&self.0.workers, &self.0.gate), selector, Ended::Closed, rate.max(1)).await?;
        while !closing.round().await?.is_last {}
        Ok(closing.count())
    }

    /// Brings clients home: closes, at `rate` per second, the connections of those that are on another node than their home, whose
    /// home is up and would get them if they reconnected; those at rest first. With the name of a node, only the clients at home there.
    /// Returns how many there were, once all were ordered to close. If the returned future is dropped, the remaining connections stay
    /// open.
    ///
    /// # Errors
    /// There is no such node, or a worker has ended.
    pub async fn rebalance(&self, node: Option<&str>, rate: u32) -> io::Result<u64> {
        let node = node.map(|name| self.named(name)).transpose()?;
        self.close_at(Selector::OffHome(node), rate).await
    }

    /// Starts what [`Handle::rebalance`] does, and returns once it is known how many connections are to be closed. One that is running
    /// is stopped.
    ///
    /// # Errors
    /// There is no such node, or a worker has ended.
    pub async fn start_rebalance(&self, node: Option<&str>, rate: u32) -> io::Result<RebalanceStatus> {
        let _passing = self.may_order().await?;
        let numbers = self.last_numbers().await?;
        let order = self.rebalance_order(node, rate, numbers)?;
        self.0.rebalance.start(&self.0.runtime, order).await
    }

    /// To bring home clients whose connections have numbers up to these.
    pub(super) fn rebalance_order(
        &self,
        node: Option<&str>,
        rate: u32,
        numbers: Arc<[u64]>,
    ) -> io::Result<rebalance::Order> {
        let home = node.map(|name| Ok::<_, io::Error>((self.named(name)?, name.to_owned())));
        Ok(rebalance::Order {
            workers: self.0.workers.clone(),
            gate: self.0.gate.clone(),
            home: home.transpose()?,
            rate: rate.max(1),
            numbers,
        })
    }

    /// The last rebalance that was started in the background, if there was one.
    pub fn rebalance_status(&self) -> Option<RebalanceStatus> {
        self.0.rebalance.status()
    }

    /// Stops the rebalance in the background. What it has not closed stays open.
    ///
    /// # Errors
    /// Another process has taken over, and goes on with it.
    pub async fn stop_rebalance(&self) -> io::Result<()> {
        let _passing = self.may_order().await?;
        self.0.rebalance.stop();
        Ok(())
    }

    /// Moves all relays of one worker to another, without losing a byte. Returns how many.
    ///
    /// # Errors
    /// There is no such worker, or one has ended.
    pub async fn move_connections(&self, from: usize, to: usize) -> io::Result<usize> {
        let worker = |number: usize| {
            let worker = self.0.workers.get(number);
            worker.ok_or_else(|| io::Error::other("no such worker"))
        };
        let (from, to) = (worker(from)?.clone(), worker(to)?.clone());
        // In a task of its own: a caller that is cancelled while the relays are in nobody's table would lose them.
        let moving = self.0.runtime.spawn(async move {
            let room = to.reserve().await?;
            let relayed = from.request(Order::Detach).await?;
            let moved = relayed.len();
            room.send(Order::Adopt(relayed));
            Ok(moved)
        });
        moving.await.map_err(io::Error::other)?
    }

    /// Has the doctor examine this balancer, its nodes and the routes between them.
    ///
    /// # Errors
    /// Too many callers wait already, or control has ended.
    pub async fn examine(&self) -> io::Result<Arc<Examination>> {
        self.0.examiner.examine().await
    }

    /// The last examination, if there was one.
    pub fn examined(&self) -> Option<Arc<Examination>> {
        self.0.state.examined.get()
    }

    /// The name of a thread that is stuck, if there is one: it has not run for `watchdog.stuck_after`.
    pub fn stuck_thread(&self) -> Option<&str> {
        self.0.state.heartbeats.stuck().map(Heartbeat::name)
    }

    /// Counts a reload that failed earlier, such as one with a file that cannot be read, and says why.
    pub fn reload_failed(&self, why: &str) {
        self.0.state.reloads.failed();
        self.0.events.push(Change::Reload {
            is_in_force: false,
            error: Some(why.to_owned()),
        });
    }

    /// Whether the log is in a file, by the configuration in force.
    pub fn has_log_file(&self) -> bool {
        self.0.config.load().log.file.is_some()
    }

    /// Opens the file of the log anew, after something else has moved it. Returns its path.
    ///
    /// # Errors
    /// The log is not in a file, or that cannot be opened; then lines go where they went before.
    pub async fn reopen_log(&self) -> io::Result<PathBuf> {
        log::reopen().await
    }

    /// The certificates in use: those of each open listener in turn, then the one that is presented to nodes.
    pub fn certificates(&self) -> Vec<CertificateStatus> {
        certificates::in_use(&self.0.shared.listeners, &self.0.shared.nodes_tls)
    }

    /// Reports on `/readyz` that the balancer drains.
    fn begin_draining(&self) {
        if !self.0.state.draining.swap(true, Ordering::Relaxed) {
            let connections = self.connections();
            self.0.events.push(Change::Drain { connections });
        }
    }

    /// Waits until a critical task has panicked, and returns which. Its message is in the log. The balancer cannot work
    /// without it, and stopping may hang: the process should exit at once.
    pub fn panicked(&self) -> impl Future<Output = Task> + use<> {
        self.0.supervisor.panicked()
    }

    /// Orders all workers to close their listeners and connections and to end. The owner of the balancer waits for
    /// that.
    pub fn stop(&self) {
        self.0.state.draining.store(true, Ordering::Relaxed);
        self.0.stop.send_replace(true);
    }
}

/// What is said by a process that another one has taken over from.
pub(crate) const HANDED_OVER: &str = "another process has taken over: ask again, and that one answers";

fn no_node(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("there is no node {name}"))
}
