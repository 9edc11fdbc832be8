//! Three small MQTT nodes in the process, over TCP and WebSocket, joined or with broken routing between them: for `remora demo`, and the fakes of
//! the tests. No broker for production.
//!
//! MQTT 3.1, 3.1.1 and 5, QoS 0 and 1, wildcards, retained messages, sessions, wills. All in memory; message expiry,
//! topic aliases, shared subscriptions, authentication and QoS 2 are left out, and MQTT 5 clients are told so.

mod broker;
mod node;
mod packet;
mod topic;
mod wire;

use std::cell::Cell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
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

use broker::{Broker, NodeIndex};
use wire::Transport;

/// How long the sandbox may take to do as it is told.
const ORDER_MAX: Duration = Duration::from_secs(10);

/// How many nodes there are, and how they begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The nodes' names.
    pub nodes: Vec<String>,
    /// Whether nodes share neither sessions nor messages, from the start.
    pub routing_is_cut: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nodes: ["node1", "node2", "node3"].map(String::from).into(),
            routing_is_cut: false,
        }
    }
}

/// What a node does with a CONNECT from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Serves the client.
    #[default]
    Serve,
    /// Refuses it: with this reason code in MQTT 5, with return code 3 before (but 1, 2, 4 and 5 for what they say).
    Refuse(u8),
    /// Reads whatever comes, and never answers.
    Stall,
    /// Closes the connection without a word.
    Close,
}

/// The nodes that run, until this is stopped or dropped.
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

/// The way to the sandbox's thread, one order at a time.
#[derive(Clone, Debug)]
struct Orders(Arc<Mutex<mpsc::Sender<Order>>>);

/// Each is answered when it is done.
#[derive(Debug)]
enum Order {
    Behave(NodeIndex, Behaviour, SyncSender<()>),
    Kill(NodeIndex, SyncSender<()>),
    Revive(NodeIndex, SyncSender<io::Result<()>>),
    Count(NodeIndex, SyncSender<Counts>),
    CutRouting(bool, SyncSender<()>),
}

impl Sandbox {
    /// Starts the nodes, each on two free ports of the loopback, all on one thread.
    ///
    /// # Errors
    /// What the system refuses: a port, a thread.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let mut places = Vec::new();
        let mut nodes = Vec::new();
        let (sender, queue) = mpsc::channel(1);
        let orders = Orders(Arc::new(Mutex::new(sender)));
        for (index, name) in settings.nodes.iter().enumerate() {
            let (socket, address) = free()?;
            let (ws_socket, ws_address) = free()?;
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
                        let inside = Inside::start(broker, places)?;
                        // The starter waits for this.
                        let _ = started.send(Ok(()));
                        inside.run(queue).await;
                        Ok(())
                    })
                });
                if let Err(error) = run {
                    // The starter hears of it, or the sandbox has ended anyway.
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

    /// From now on nodes share neither sessions nor messages nor what is retained; or do so again.
    ///
    /// # Errors
    /// The sandbox's thread has died.
    pub fn cut_routing(&self, cut: bool) -> io::Result<()> {
        self.orders.give(|done| Order::CutRouting(cut, done))
    }

    /// Ends every connection, and returns when all is closed.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // The queue ends with its last sender, and the thread with the queue.
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
    /// Its name, which it tells in CONNACK (MQTT 5) in the user property `node`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens, for as long as the sandbox lives.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens for WebSocket, with the path `/mqtt`, for as long as the sandbox lives.
    pub fn ws_address(&self) -> SocketAddr {
        self.ws_address
    }

    /// Tells it what to do with the next CONNECTs, over TCP and WebSocket. Clients that are connected stay as they are.
    ///
    /// # Errors
    /// The sandbox's thread has died.
    pub fn behave(&self, behaviour: Behaviour) -> io::Result<()> {
        self.orders
            .give(|done| Order::Behave(self.index, behaviour, done))
    }

    /// Lets it die: its listeners close, its connections are reset, its sessions are gone.
    ///
    /// # Errors
    /// The sandbox's thread has died.
    pub fn kill(&self) -> io::Result<()> {
        self.orders.give(|done| Order::Kill(self.index, done))
    }

    /// Brings it back on the same addresses.
    ///
    /// # Errors
    /// Another program has taken a port; the sandbox's thread has died.
    pub fn revive(&self) -> io::Result<()> {
        self.orders.give(|done| Order::Revive(self.index, done))?
    }

    /// What happened there so far.
    ///
    /// # Errors
    /// The sandbox's thread has died.
    pub fn counts(&self) -> io::Result<Counts> {
        self.orders.give(|done| Order::Count(self.index, done))
    }
}

impl Orders {
    /// Gives an order, and waits until it is done.
    fn give<T>(&self, order: impl FnOnce(SyncSender<T>) -> Order) -> io::Result<T> {
        let (done, is_done) = sync_channel(1);
        let orders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        orders
            .try_send(order(done))
            .map_err(|_| io::Error::other("the sandbox has ended"))?;
        is_done
            .recv_timeout(ORDER_MAX)
            .map_err(|_| io::Error::other("the sandbox does not answer"))
    }
}

/// The sandbox on its own thread.
struct Inside {
    shared: Rc<node::Shared>,
    nodes: Vec<Running>,
}

/// A node there.
struct Running {
    node: Rc<node::Node>,
    /// When it goes, all that serves ends.
    life: Option<watch::Sender<()>>,
    doors: [Door; 2],
}

/// Where clients come in: alive with a task that serves, or dead with a socket that keeps its port.
struct Door {
    transport: Transport,
    address: SocketAddr,
    task: Option<tokio::task::JoinHandle<io::Result<Socket>>>,
    place: Option<Socket>,
}

/// A socket that keeps a free port.
fn free() -> io::Result<(Socket, SocketAddr)> {
    let socket = node::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = socket.local_addr()?.as_socket();
    let address = address.ok_or_else(|| io::Error::other("a socket without an address"))?;
    Ok((socket, address))
}

/// A node's listeners, with the address of each.
type Listeners = [(Transport, Socket, SocketAddr); 2];

impl Inside {
    fn start(broker: Broker, places: Vec<(String, Listeners)>) -> io::Result<Self> {
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
                life: None,
                doors: places.map(|(transport, socket, address)| Door {
                    transport,
                    address,
                    task: None,
                    place: Some(socket),
                }),
            };
            running.live(&shared)?;
            nodes.push(running);
        }
        Ok(Self { shared, nodes })
    }

    /// Does as it is told, until nobody is left who could tell it anything.
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return self.shared.say_farewell().await,
                },
                now = seconds.tick() => {
                    self.shared.broker.borrow_mut().tick(now);
                    self.shared.deliver();
                }
            }
        }
    }

    /// Whoever gave the order may have given up waiting: then the answer is lost, and nothing else.
    async fn obey(&mut self, order: Order) {
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
                // Sessions first, so that no will of theirs is published by a dead node.
                self.shared.broker.borrow_mut().node_died(index);
                self.nodes[index].die().await;
                let _ = done.try_send(());
            }
            Order::Revive(index, done) => {
                let lives = self.nodes[index].live(&self.shared);
                if let Ok(true) = lives {
                    self.shared.broker.borrow_mut().node_returned(index);
                }
                let _ = done.try_send(lives.map(drop));
            }
        }
    }
}

impl Running {
    /// Starts to serve, unless it does so already; whether it does so anew.
    fn live(&mut self, shared: &Rc<node::Shared>) -> io::Result<bool> {
        if self.life.is_some() {
            return Ok(false);
        }
        let mut listeners = Vec::new();
        for door in &mut self.doors {
            let place = match door.place.take() {
                Some(place) => place,
                None => node::bind(door.address)?,
            };
            listeners.push(node::listen(place)?);
        }
        let (life, dies) = watch::channel(());
        self.life = Some(life);
        for (door, listener) in self.doors.iter_mut().zip(listeners) {
            let (shared, node) = (Rc::clone(shared), Rc::clone(&self.node));
            let served = node::serve(shared, node, listener, door.transport, dies.clone());
            door.task = Some(tokio::task::spawn_local(served));
        }
        Ok(true)
    }

    /// Stops to serve; returns when the listeners are closed.
    async fn die(&mut self) {
        self.life = None;
        for door in &mut self.doors {
            if let Some(task) = door.task.take() {
                // Without its place, the node asks for the port again when it comes back.
                door.place = task.await.ok().and_then(Result::ok);
            }
        }
    }
}
