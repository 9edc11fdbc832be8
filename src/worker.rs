//! One worker: a thread with a single-threaded runtime, a socket for each listener, and the table of its relays.

use std::cell::Cell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::accept::Door;
use crate::cluster::NodeId;
use crate::connection::Path;
use crate::ended::Ended;
use crate::record::{ListenerId, Record};
use crate::relay::Relayed;

/// Orders that wait for a worker at most.
const ORDERS_MAX: usize = 64;

/// Clients accepted before others get a turn.
const ACCEPTED_AT_ONCE: usize = 8;

/// How long the relays of a worker that stops have for their end.
const STOP_MAX: Duration = Duration::from_secs(1);

/// What a worker is told from outside.
#[derive(Debug)]
pub enum Order {
    /// Close everything and end.
    Stop,
    /// End these relays.
    Close(Which, Ended),
    /// Give these relays out of hand, whole.
    Detach(Which, oneshot::Sender<Vec<Relayed<OwnedFd>>>),
    /// Go on with these relays.
    Adopt(Vec<Relayed<OwnedFd>>),
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
    orders: mpsc::Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the worker with this number; `path` is made on its thread, `doors` are its sockets, by listener.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn start(
        number: u16,
        doors: Vec<OwnedFd>,
        path: impl FnOnce() -> Path + Send + 'static,
    ) -> io::Result<Self> {
        let (orders, queue) = mpsc::channel(ORDERS_MAX);
        let (started, is_started) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("remora-{number}"))
            .spawn(move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                match runtime {
                    Ok(runtime) => runtime.block_on(work(number, doors, path, queue, started)),
                    // The starter hears of it, unless it has gone itself.
                    Err(e) => drop(started.send(Err(e))),
                }
            })?;
        is_started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a worker died while it started")))?;
        Ok(Self {
            orders,
            thread: Some(thread),
        })
    }

    /// Tells the worker to close everything and end; [`Worker::join`] waits for it.
    pub fn stop(&self) {
        // A full queue means that it is told already; a closed one, that it has ended.
        let _ = self.orders.try_send(Order::Stop);
    }

    /// Gives the worker an order, waiting for room in its queue. Not for a thread of a runtime.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn order(&self, order: Order) -> io::Result<()> {
        self.orders
            .blocking_send(order)
            .map_err(|_| io::Error::other("the worker has ended"))
    }

    /// Takes relays out of this worker, to be adopted by another one. Not for a thread of a runtime.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn detach(&self, which: Which) -> io::Result<Vec<Relayed<OwnedFd>>> {
        let (reply, detached) = oneshot::channel();
        self.order(Order::Detach(which, reply))?;
        detached
            .blocking_recv()
            .map_err(|_| io::Error::other("the worker has ended"))
    }

    /// Waits until the worker has ended.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a worker panicked");
        }
    }
}

async fn work(
    number: u16,
    doors: Vec<OwnedFd>,
    path: impl FnOnce() -> Path,
    mut orders: mpsc::Receiver<Order>,
    started: std::sync::mpsc::SyncSender<io::Result<()>>,
) {
    let path = Rc::new(path());
    path.clock.tick();
    let numbers = Rc::new(Cell::new(u64::from(number) << 48));
    let doors: io::Result<Vec<Door>> = doors.into_iter().map(Door::new).collect();
    let accepting: Vec<_> = match doors {
        Ok(doors) => doors
            .into_iter()
            .zip(0..)
            .map(|(door, listener)| {
                let (path, numbers) = (Rc::clone(&path), Rc::clone(&numbers));
                tokio::task::spawn_local(accept(door, ListenerId(listener), path, numbers))
            })
            .collect(),
        Err(e) => {
            // The starter hears of it, unless it has gone itself.
            let _ = started.send(Err(e));
            return;
        }
    };
    let sweeping = tokio::task::spawn_local(sweep(Rc::clone(&path)));
    // The starter has gone: the orders' channel is closed as well, and ends the loop below.
    let _ = started.send(Ok(()));
    while let Some(order) = orders.recv().await {
        match order {
            Order::Stop => break,
            Order::Close(which, cause) => close(&path, which, cause),
            Order::Detach(which, reply) => {
                // Whoever asked and has gone loses the connections: nobody else has them.
                let _ = reply.send(detach(&path, which));
            }
            Order::Adopt(relayed) => relayed
                .into_iter()
                .for_each(|relayed| Rc::clone(&path).resume(relayed)),
        }
    }
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    close(&path, Which::All, Ended::Shutdown);
    let empty = async {
        while !path.table.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    // What is still there then goes with the runtime, and says so.
    let _ = tokio::time::timeout(STOP_MAX, empty).await;
    sweeping.abort();
}

fn close(path: &Path, which: Which, cause: Ended) {
    path.table
        .borrow_mut()
        .close(|node, record| which.includes(node, record).then_some(cause));
}

fn detach(path: &Path, which: Which) -> Vec<Relayed<OwnedFd>> {
    let mut table = path.table.borrow_mut();
    let ids = table.select(|node, record| which.includes(node, record));
    ids.into_iter()
        .filter_map(|id| match table.detach(id) {
            Ok(relayed) => Some(relayed),
            Err(error) => {
                tracing::error!(%error, "a connection was lost while it changed hands");
                None
            }
        })
        .collect()
}

async fn accept(door: Door, listener: ListenerId, path: Rc<Path>, numbers: Rc<Cell<u64>>) {
    loop {
        for _ in 0..ACCEPTED_AT_ONCE {
            let accepted = door.accept().await;
            numbers.set(numbers.get() + 1);
            tokio::task::spawn_local(Rc::clone(&path).serve(accepted, listener, numbers.get()));
        }
        tokio::task::yield_now().await;
    }
}

async fn sweep(path: Rc<Path>) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        seconds.tick().await;
        path.clock.tick();
        path.table.borrow_mut().sweep(path.clock.now(), |node| {
            // A connection that has just ended is not worth watching.
            let _ = path.dialing.watch(SockRef::from(node));
        });
    }
}
