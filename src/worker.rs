//! One worker: a thread with a single-threaded runtime, a socket for each listener, and the table of its relays.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::accept::{Accepted, Door, Listener};
use crate::cluster::NodeId;
use crate::connection::{Listening, Path, Settings};
use crate::dial;
use crate::ended::Ended;
use crate::failpoint::{self, Place};
use crate::record::{ListenerId, Record};
use crate::relay::Relayed;
use crate::socket::Detached;
use crate::vital::{Task, Vitals};

/// Orders that wait for a worker at most.
const ORDERS_MAX: usize = 64;

/// Clients accepted before others get a turn.
const ACCEPTED_AT_ONCE: usize = 8;

/// How long a listener that closes goes on accepting. Clients whose handshake is over may not have said anything yet, and
/// are in the kernel's hands until they have, or until it asks them once more after a second.
const LAST_CALL: Duration = Duration::from_millis(1_100);

/// How long handshakes that have begun are waited for, before the listener closes.
const HANDSHAKES: Duration = Duration::from_millis(200);

/// How long the relays of a worker that stops have for their end.
const STOP_MAX: Duration = Duration::from_secs(1);

/// How often a worker that stops looks whether all relays have ended.
const STOP_LOOK: Duration = Duration::from_millis(1);

/// What a worker is told from outside.
#[derive(Debug)]
pub enum Order {
    /// Accept clients on this socket; the answer is whether that was possible.
    Listen(
        ListenerId,
        Listening,
        OwnedFd,
        oneshot::Sender<io::Result<()>>,
    ),
    /// Go on accepting clients by other settings.
    Relisten(ListenerId, Arc<Listener>),
    /// Accept those who are there already, then close the socket, and say so.
    Unlisten(ListenerId, oneshot::Sender<()>),
    /// Serve clients by other settings.
    Reconfigure(Box<Settings>),
    /// End these relays.
    Close(Which, Ended),
    /// End up to so many relays, and say how many.
    CloseSome {
        /// So many.
        most: usize,
        /// Only those for which nothing waits.
        at_rest: bool,
        /// Why.
        cause: Ended,
        /// Who asked.
        reply: oneshot::Sender<usize>,
    },
    /// Give these relays out of hand, whole.
    Detach(Which, oneshot::Sender<Vec<Relayed<Detached>>>),
    /// Go on with these relays.
    Adopt(Vec<Relayed<Detached>>),
}

/// Which relays an order is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All of them.
    All,
    /// Those on this node.
    Node(NodeId),
    /// The one with this number ([`Record::number`]).
    Connection(u64),
}

impl Which {
    fn includes(self, node: NodeId, record: &Record) -> bool {
        match self {
            Self::All => true,
            Self::Node(id) => node == id,
            Self::Connection(number) => record.number == number,
        }
    }
}

/// A worker that runs.
#[derive(Debug)]
pub struct Worker {
    /// None once it was told to end.
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<std::thread::JoinHandle<()>>,
    vitals: Vitals,
}

impl Worker {
    /// Starts the worker with this number; `path` is made on its thread, and what it cannot live without is guarded by `vitals`.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(
        number: u16,
        vitals: Vitals,
        path: impl FnOnce() -> Path + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let (started, is_started) = std::sync::mpsc::sync_channel(1);
        let guard = vitals.clone();
        let thread = std::thread::Builder::new()
            .name(format!("remora-{number}"))
            .spawn(move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                match runtime {
                    Ok(runtime) => {
                        let work = work(number, guard.clone(), path, queue, started);
                        runtime.block_on(guard.guard(Task::Orders, work));
                    }
                    // The starter hears of it, unless it has gone itself.
                    Err(e) => drop(started.send(Err::<(), _>(e))),
                }
            })?;
        is_started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a worker died while it started")))?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
            vitals,
        })
    }

    /// Tells the worker to close everything and end; [`Worker::join`] waits for it.
    pub fn stop(&mut self) {
        self.orders = None;
    }

    /// Gives the worker an order, waiting for room in its queue. Not for a thread of a runtime.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn order(&self, order: Order) -> io::Result<()> {
        let orders = self.orders.as_ref().ok_or_else(has_ended)?;
        orders.blocking_send(order).map_err(|_| has_ended())
    }

    /// Gives the worker an order, waiting for room in its queue.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn tell(&self, order: Order) -> io::Result<()> {
        let orders = self.orders.as_ref().ok_or_else(has_ended)?;
        orders.send(order).await.map_err(|_| has_ended())
    }

    /// Gives the worker an order that it answers.
    ///
    /// # Errors
    /// The worker has ended.
    pub async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> io::Result<T> {
        let (reply, answer) = oneshot::channel();
        self.tell(order(reply)).await?;
        answer.await.map_err(|_| has_ended())
    }

    /// Gives the worker an order that it answers. Not for a thread of a runtime.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn ask_blocking<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<T>) -> Order,
    ) -> io::Result<T> {
        let (reply, answer) = oneshot::channel();
        self.order(order(reply))?;
        answer.blocking_recv().map_err(|_| has_ended())
    }

    /// Takes relays out of this worker, to be adopted by another one. Not for a thread of a runtime.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn detach(&self, which: Which) -> io::Result<Vec<Relayed<Detached>>> {
        self.ask_blocking(|reply| Order::Detach(which, reply))
    }

    /// Waits until the worker has ended.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a worker panicked");
            self.vitals.lose(Task::Orders);
        }
    }
}

fn has_ended() -> io::Error {
    io::Error::other("the worker has ended")
}

/// The sockets of a worker, and who accepts on them.
struct Doors {
    path: Rc<Path>,
    vitals: Vitals,
    open: RefCell<HashMap<ListenerId, Accepting>>,
    /// The number of the last connection.
    numbers: Cell<u64>,
}

struct Accepting {
    door: Rc<Door>,
    task: JoinHandle<()>,
}

impl Doors {
    fn open(self: &Rc<Self>, id: ListenerId, socket: OwnedFd) -> io::Result<()> {
        let door = Rc::new(Door::new(socket)?);
        let accept = accept(Rc::clone(&door), id, Rc::clone(self));
        let task = tokio::task::spawn_local(self.vitals.clone().guard(Task::Accept, accept));
        let accepting = Accepting { door, task };
        self.open.borrow_mut().insert(id, accepting);
        Ok(())
    }

    /// Accepts those who are there already, then closes the socket.
    async fn close(self: Rc<Self>, id: ListenerId, closed: oneshot::Sender<()>) {
        let accepting = self.open.borrow_mut().remove(&id);
        if let Some(Accepting { door, task }) = accepting {
            door.last_call();
            tokio::time::sleep(LAST_CALL).await;
            door.no_more();
            failpoint::pass(Place::NoMore);
            tokio::time::sleep(HANDSHAKES).await;
            task.abort();
            while let Some(accepted) = door.accept_waiting() {
                self.serve(accepted, id);
            }
        }
        // Whoever asked has gone: the door is closed all the same.
        let _ = closed.send(());
    }

    fn serve(&self, accepted: Accepted, id: ListenerId) {
        self.numbers.set(self.numbers.get() + 1);
        let path = Rc::clone(&self.path);
        tokio::task::spawn_local(path.serve(accepted, id, self.numbers.get()));
    }

    fn apply(&self, settings: &dial::Settings) {
        for accepting in self.open.borrow().values() {
            if let Err(error) = accepting.door.apply(settings) {
                tracing::warn!(%error, "new clients are watched by the old keepalive and user_timeout");
            }
        }
    }

    fn close_all(&self) {
        for (_, accepting) in self.open.borrow_mut().drain() {
            accepting.task.abort();
        }
    }
}

async fn work(
    number: u16,
    vitals: Vitals,
    path: impl FnOnce() -> Path,
    mut orders: mpsc::Receiver<Order>,
    started: std::sync::mpsc::SyncSender<io::Result<()>>,
) {
    let path = Rc::new(path());
    path.clock.tick();
    let doors = Rc::new(Doors {
        path: Rc::clone(&path),
        vitals: vitals.clone(),
        open: RefCell::default(),
        numbers: Cell::new(u64::from(number) << 48),
    });
    let sweep = sweep(Rc::clone(&path));
    let sweeping = tokio::task::spawn_local(vitals.clone().guard(Task::Sweep, sweep));
    // The starter has gone: the orders' channel is closed as well, and ends the loop below.
    let _ = started.send(Ok(()));
    // Ends when nobody is left who could give an order.
    while let Some(order) = orders.recv().await {
        match order {
            // For all of these: whoever asked may have gone, which changes nothing.
            Order::Listen(id, listening, socket, reply) => {
                path.know(id, listening);
                let _ = reply.send(doors.open(id, socket));
            }
            Order::Relisten(id, listener) => path.relisten(id, listener),
            Order::Unlisten(id, reply) => {
                let close = Rc::clone(&doors).close(id, reply);
                tokio::task::spawn_local(vitals.clone().guard(Task::Unlisten, close));
            }
            Order::Reconfigure(settings) => {
                doors.apply(&settings.dial);
                path.reconfigure(*settings);
            }
            Order::Close(which, cause) => close(&path, which, cause),
            Order::CloseSome {
                most,
                at_rest,
                cause,
                reply,
            } => {
                failpoint::pass(Place::CloseSome);
                let now = path.clock.now();
                let mut table = path.table.borrow_mut();
                let _ = reply.send(table.close_some(most, at_rest, cause, now));
            }
            Order::Detach(which, reply) => {
                if let Err(relayed) = reply.send(detach(&path, which)) {
                    // Whoever asked has gone, and nobody else has the connections.
                    resume(&path, relayed);
                }
            }
            Order::Adopt(relayed) => resume(&path, relayed),
        }
    }
    doors.close_all();
    close(&path, Which::All, Ended::Shutdown);
    let empty = async {
        while !path.table.borrow().is_empty() {
            tokio::time::sleep(STOP_LOOK).await;
        }
    };
    // What is still there then goes with the runtime, and says so.
    let _ = tokio::time::timeout(STOP_MAX, empty).await;
    sweeping.abort();
}

fn close(path: &Path, which: Which, cause: Ended) {
    let now = path.clock.now();
    path.table.borrow_mut().close(now, |node, record| {
        which.includes(node, record).then_some(cause)
    });
}

fn detach(path: &Path, which: Which) -> Vec<Relayed<Detached>> {
    let mut table = path.table.borrow_mut();
    let ids = table.select(|node, record| which.includes(node, record));
    ids.into_iter()
        .filter_map(|id| match table.detach(id)? {
            Ok(relayed) => Some(relayed),
            Err(lost) => {
                path.finished(lost);
                None
            }
        })
        .collect()
}

fn resume(path: &Rc<Path>, relayed: Vec<Relayed<Detached>>) {
    for relayed in relayed {
        Rc::clone(path).resume(relayed);
    }
}

async fn accept(door: Rc<Door>, id: ListenerId, doors: Rc<Doors>) {
    loop {
        for _ in 0..ACCEPTED_AT_ONCE {
            let accepted = door.accept(&doors.path.tally).await;
            doors.serve(accepted, id);
        }
        tokio::task::yield_now().await;
    }
}

async fn sweep(path: Rc<Path>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        seconds.tick().await;
        path.sweep();
    }
}
