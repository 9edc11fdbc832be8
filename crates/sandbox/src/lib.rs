//! Three small MQTT nodes in the process, over TCP and WebSocket, for `remora demo` and for tests. They route messages
//! to each other, unless that is cut. Not a broker for production.
//!
//! MQTT 3.1, 3.1.1 and 5, QoS 0 and 1, wildcards, retained messages, sessions, wills. All in memory; message expiry,
//! topic aliases, shared subscriptions, authentication and QoS 2 are left out, and CONNACK says so to MQTT 5 clients.

mod broker;
mod client;
mod fields;
mod node;
mod packet;
mod topic;
mod wire;

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::Socket;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

pub use broker::Counts;
pub use client::Client;
pub use node::Behaviour;

use broker::{Broker, NodeIndex};
use wire::Transport;

/// How long the sandbox may take for an order.
const ORDER_MAX: Duration = Duration::from_secs(10);

/// Free ports of the loopback interface.
const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The nodes of a sandbox, and how they begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The nodes' names.
    pub nodes: Vec<String>,
    /// The address of the first node for MQTT over TCP. Each further node has the next port; with port 0, every node has a free one.
    pub address: SocketAddr,
    /// The same for WebSocket.
    pub ws_address: SocketAddr,
    /// Whether nodes share neither sessions nor messages, from the start.
    pub routing_is_cut: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nodes: ["node1", "node2", "node3"].map(String::from).into(),
            address: LOOPBACK,
            ws_address: LOOPBACK,
            routing_is_cut: false,
        }
    }
}

/// Running nodes, until this is stopped or dropped.
#[derive(Debug)]
pub struct Sandbox {
    nodes: Vec<Node>,
    orders: Orders,
    thread: Option<JoinHandle<()>>,
}

/// One node of a sandbox.
#[derive(Debug)]
pub struct Node {
    index: NodeIndex,
    name: String,
    address: SocketAddr,
    ws_address: SocketAddr,
    orders: Orders,
}

/// Sends orders to the sandbox's thread, one at a time.
#[derive(Clone, Debug)]
struct Orders(Arc<Mutex<mpsc::Sender<Order>>>);

/// An order, which is answered when it is done.
#[derive(Debug)]
enum Order {
    Behave(NodeIndex, Behaviour, SyncSender<()>),
    Kill(NodeIndex, SyncSender<()>),
    Revive(NodeIndex, SyncSender<io::Result<()>>),
    Count(NodeIndex, SyncSender<Counts>),
    CutRouting(bool, SyncSender<()>),
}

impl Sandbox {
    /// Starts the nodes on one thread, each on two ports.
    ///
    /// # Errors
    /// A port or an address is not available, or no thread.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let mut places = Vec::new();
        let mut nodes = Vec::new();
        let (sender, queue) = mpsc::channel(1);
        let orders = Orders(Arc::new(Mutex::new(sender)));
        for (index, name) in settings.nodes.iter().enumerate() {
            let (socket, address) = bind(settings.address, index)?;
            let (ws_socket, ws_address) = bind(settings.ws_address, index)?;
            places.push((
                name.clone(),
                [
                    (Transport::Tcp, socket, address),
                    (Transport::Ws, ws_socket, ws_address),
                ],
            ));
            nodes.push(Node {
                index,
                name: name.clone(),
                address,
                ws_address,
                orders: orders.clone(),
            });
        }
        let mut broker = Broker::new(&settings.nodes);
        broker.cut_routing(settings.routing_is_cut);
        let (started, is_started) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("remora-sandbox".into())
            .spawn(move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                let run = runtime.and_then(|runtime| {
                    runtime.block_on(async {
                        let nodes = Nodes::start(broker, places)?;
                        // `start` waits for this.
                        let _ = started.send(Ok(()));
                        nodes.run(queue).await;
                        Ok(())
                    })
                });
                if let Err(error) = run {
                    // Read by `start`, unless the nodes have run already.
                    let _ = started.try_send(Err(error));
                }
            })?;
        is_started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the sandbox died while it started")))?;
        Ok(Self {
            nodes,
            orders,
            thread: Some(thread),
        })
    }

    /// The nodes, in the order of their names in the settings.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Makes nodes share neither sessions nor messages nor retained messages from now on, or share them again.
    ///
    /// # Errors
    /// The sandbox's thread has died.
    pub fn cut_routing(&self, cut: bool) -> io::Result<()> {
        self.orders.send(|done| Order::CutRouting(cut, done))
    }

    /// Ends every connection; returns when all are closed.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The queue ends with its last sender, and the thread ends with the queue.
        self.nodes.clear();
        let (gone, _) = mpsc::channel(1);
        *self.orders.0.lock().unwrap_or_else(PoisonError::into_inner) = gone;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sandbox panicked");
        }
    }
}

impl Node {
    /// The name, which the node also reports in CONNACK (MQTT 5), in the user property `node`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of the TCP listener, which stays the same.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the WebSocket listener, which stays the same. Its path is `/mqtt`.
    pub fn ws_address(&self) -> SocketAddr {
        self.ws_address
    }

    /// Sets what the node does with a CONNECT from now on, over TCP and WebSocket. Connected clients are not affected.
    ///
    /// # Errors
    /// The sandbox's thread has died.
    pub fn behave(&self, behaviour: Behaviour) -> io::Result<()> {
        self.orders.send(|done| Order::Behave(self.index, behaviour, done))
    }

    /// Kills the node: its listeners close, its connections are reset, and its sessions are lost.
    ///
    /// # Errors
    /// The sandbox's thread has died.
    pub fn kill(&self) -> io::Result<()> {
        self.orders.send(|done| Order::Kill(self.index, done))
    }

    /// Starts the node again, on the same addresses.
    ///
    /// # Errors
    /// Another program has taken a port; the sandbox's thread has died.
    pub fn revive(&self) -> io::Result<()> {
        self.orders.send(|done| Order::Revive(self.index, done))?
    }

    /// What has happened at the node so far.
    ///
    /// # Errors
    /// The sandbox's thread has died.
    pub fn counts(&self) -> io::Result<Counts> {
        self.orders.send(|done| Order::Count(self.index, done))
    }
}

impl Orders {
    /// Sends an order, and waits until it is done.
    fn send<T>(&self, order: impl FnOnce(SyncSender<T>) -> Order) -> io::Result<T> {
        let (done, is_done) = sync_channel(1);
        let orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        orders
            .try_send(order(done))
            .map_err(|_| io::Error::other("the sandbox has ended"))?;
        is_done
            .recv_timeout(ORDER_MAX)
            .map_err(|_| io::Error::other("the sandbox did not answer in time"))
    }
}

/// All nodes, on the thread of the sandbox.
struct Nodes {
    shared: Rc<node::Shared>,
    nodes: Vec<Running>,
}

/// One node, which runs or is dead.
struct Running {
    node: Rc<node::Node>,
    /// Dropped to end everything that the node serves; `None` while it is dead.
    alive: Option<watch::Sender<()>>,
    listeners: [Listener; 2],
}

/// A listener of a node. While the node runs, a task accepts clients; otherwise a bound socket keeps the port.
struct Listener {
    transport: Transport,
    address: SocketAddr,
    task: Option<tokio::task::JoinHandle<io::Result<Socket>>>,
    place: Option<Socket>,
}

/// A socket of the node with this index, whose first node is at `first`.
fn bind(first: SocketAddr, index: NodeIndex) -> io::Result<(Socket, SocketAddr)> {
    let port = match first.port() {
        0 => Some(0),
        port => u16::try_from(index).ok().and_then(|index| port.checked_add(index)),
    };
    let port = port.ok_or_else(|| io::Error::other(format!("there are too few ports behind that of {first}")))?;
    let address = SocketAddr::new(first.ip(), port);
    let refused = |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    let socket = node::bind(address).map_err(refused)?;
    let address = socket.local_addr()?.as_socket();
    let address = address.ok_or_else(|| io::Error::other("a socket without an address"))?;
    Ok((socket, address))
}

/// The bound sockets of a node, with their addresses.
type BoundListeners = [(Transport, Socket, SocketAddr); 2];

impl Nodes {
    fn start(broker: Broker, places: Vec<(String, BoundListeners)>) -> io::Result<Self> {
        let shared = Rc::new(node::Shared::new(broker));
        let mut nodes = Vec::new();
        for (index, (name, places)) in places.into_iter().enumerate() {
            let node = node::Node {
                index,
                name,
                behaviour: Cell::default(),
            };
            let mut running = Running {
                node: Rc::new(node),
                alive: None,
                listeners: places.map(|(transport, socket, address)| Listener {
                    transport,
                    address,
                    task: None,
                    place: Some(socket),
                }),
            };
            running.start(&shared)?;
            nodes.push(running);
        }
        Ok(Self { shared, nodes })
    }

    /// Executes orders until nothing can send any more.
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.execute(order).await,
                    None => return self.shared.send_shutdown().await,
                },
                now = seconds.tick() => {
                    self.shared.broker.borrow_mut().tick(now);
                    self.shared.deliver();
                }
            }
        }
    }

    /// Executes one order. Its sender may have stopped waiting, and then only the answer is lost.
    async fn execute(&mut self, order: Order) {
        match order {
            Order::Behave(index, behaviour, done) => {
                self.nodes[index].node.behaviour.set(behaviour);
                let _ = done.try_send(());
            }
            Order::Count(index, done) => {
                let counts = self.shared.broker.borrow().counts(index);
                let _ = done.try_send(counts);
            }
            Order::CutRouting(cut, done) => {
                self.shared.broker.borrow_mut().cut_routing(cut);
                let _ = done.try_send(());
            }
            Order::Kill(index, done) => {
                // Sessions first, so that a dead node publishes no wills.
                self.shared.broker.borrow_mut().node_died(index);
                self.nodes[index].stop().await;
                let _ = done.try_send(());
            }
            Order::Revive(index, done) => {
                let started = self.nodes[index].start(&self.shared);
                if let Ok(true) = started {
                    self.shared.broker.borrow_mut().node_returned(index);
                }
                let _ = done.try_send(started.map(drop));
            }
        }
    }
}

impl Running {
    /// Starts the node unless it runs; returns whether it was started.
    fn start(&mut self, shared: &Rc<node::Shared>) -> io::Result<bool> {
        if self.alive.is_some() {
            return Ok(false);
        }
        let mut sockets = Vec::new();
        for listener in &mut self.listeners {
            let place = match listener.place.take() {
                Some(place) => place,
                None => node::bind(listener.address)?,
            };
            sockets.push(node::listen(place)?);
        }
        let (alive, dies) = watch::channel(());
        self.alive = Some(alive);
        for (listener, socket) in self.listeners.iter_mut().zip(sockets) {
            let (shared, node) = (Rc::clone(shared), Rc::clone(&self.node));
            let served = node::serve(shared, node, socket, listener.transport, dies.clone());
            listener.task = Some(tokio::task::spawn_local(served));
        }
        Ok(true)
    }

    /// Stops the node; returns when its listeners are closed.
    async fn stop(&mut self) {
        self.alive = None;
        for listener in &mut self.listeners {
            if let Some(task) = listener.task.take() {
                // Without this socket, the node binds the port again when it starts.
                listener.place = task.await.ok().and_then(Result::ok);
            }
        }
    }
}
