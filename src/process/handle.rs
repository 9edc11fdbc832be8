//! The cloneable handle of a balancer: orders to its workers and to control, and snapshots to show. Reload is in a
//! file of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::drain::{self, Closing};
use crate::admin::AdminState;
use crate::base::heartbeat::Heartbeat;
use crate::base::supervise::{Supervisor, Task};
use crate::cluster::{EndpointKind, Finding, NodeId, NodeState};
use crate::config::Config;
use crate::control::{ControlHandle, Wish};
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
    pub(super) admin: Option<SocketAddr>,
    pub(super) supervisor: Supervisor,
    /// Control's runtime. Reloads run there, so that one is finished even if its caller is cancelled.
    pub(super) runtime: tokio::runtime::Handle,
    /// The configuration in force. A reload or a drain holds the lock from its beginning to its end: one at a time.
    pub(super) config: Mutex<Config>,
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
    /// The operator is draining it, or its own API says so: it gets no new clients.
    pub is_draining: bool,
    /// What each source says of it: why its endpoints are in their states.
    pub findings: Arc<[Finding]>,
    /// The states of its endpoints.
    pub endpoints: Vec<(EndpointKind, NodeState)>,
    /// Connections to it, those being set up included.
    pub connections: usize,
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

    /// Where the admin listener is, if there is one.
    pub fn admin(&self) -> Option<SocketAddr> {
        self.0.admin
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
            is_draining: node.is_draining,
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
            is_draining: true,
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

    /// Drains a node: it keeps its clients and gets no new ones until [`Handle::undrain_node`], also across reloads.
    ///
    /// # Errors
    /// There is no such node, or control has ended.
    pub async fn drain_node(&self, name: &str) -> io::Result<()> {
        self.wish(name, Wish::Draining).await
    }

    /// Lets a node get new clients again.
    ///
    /// # Errors
    /// There is no such node, or control has ended.
    pub async fn undrain_node(&self, name: &str) -> io::Result<()> {
        self.wish(name, Wish::Up).await
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
        let node = self.node_id(name).ok_or_else(|| {
            let message = format!("there is no node {name}");
            io::Error::new(io::ErrorKind::NotFound, message)
        })?;
        self.0.control.set_wish(node, wish).await
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
        self.0.state.draining.store(true, Ordering::Relaxed);
        let config = self.0.config.lock().await;
        self.stop_accepting(config.drain.delay).await?;
        while self.connections() > 0 {
            tokio::time::sleep(EMPTY_INTERVAL).await;
        }
        Ok(())
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
        self.0.state.draining.store(true, Ordering::Relaxed);
        let config = self.0.config.lock().await;
        let drain::Settings { delay, rate, grace } = config.drain;
        self.stop_accepting(delay).await?;
        let mut closing = Closing::new(&self.0.workers, Selector::All, Ended::Shutdown, rate);
        // Clients that are being set up are closed once they are relayed.
        while self.connections() > 0 && closing.elapsed() < grace {
            closing.round().await?;
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

    /// Closes the selected connections at `rate` per second, those at rest first. Returns how many there were, once all
    /// were ordered to close. Clients that are being set up are not included. If the returned future is dropped, the
    /// remaining connections stay open.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn close_at(&self, selector: Selector, rate: u32) -> io::Result<u64> {
        let mut closing = Closing::new(&self.0.workers, selector, Ended::Closed, rate.max(1));
        while !closing.round().await? {}
        Ok(closing.count())
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
            let relayed = from.request(|reply| Order::Detach(Selector::All, reply)).await?;
            let moved = relayed.len();
            room.send(Order::Adopt(relayed));
            Ok(moved)
        });
        moving.await.map_err(io::Error::other)?
    }

    /// The name of a thread that is stuck, if there is one: it has not run for `watchdog.stuck_after`.
    pub fn stuck_thread(&self) -> Option<&str> {
        self.0.state.heartbeats.stuck().map(Heartbeat::name)
    }

    /// Counts a reload that failed earlier, such as one with a file that cannot be read.
    pub fn reload_failed(&self) {
        self.0.state.reloads.failed();
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
