//! One worker: a thread with a single-threaded runtime, a socket for each listener, and the table of its relays. It
//! carries out orders.

pub(crate) mod handover;
mod listening;
mod ranking;
mod select;
mod slices;
mod sweep;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::base::failpoint::{self, Place};
use crate::base::heartbeat::Heartbeat;
use crate::base::supervise::{Supervisor, Task};
use crate::handover::messages::{End, Invalid, State};
use crate::net::socket::Detached;
use crate::path::connection::{Path, Settings};
use crate::path::ended::Ended;
use crate::path::handover::Names;
use crate::path::last_ends::{LastEnd, Loop};
use crate::path::record::{KeptId, ListenerId};
use crate::path::relay::{OrderedToEnd, Owner, RelayStatus, Relayed, RowId};

use handover::{Forget, Freeze, Frozen, HandoverPart, Learn, Offer, OfferedPage, Park};
use listening::ListenSockets;
pub use ranking::{Moved, RankedBy};
pub(crate) use ranking::{Ranked, Ranking};
pub(crate) use select::Page;
pub use select::{Filter, Selector};
use slices::{CLOSES_MAX, Slices};

/// Where the number of a connection names the worker that has accepted it.
pub(crate) const WORKER_SHIFT: u32 = 48;

/// The capacity of a worker's queue of orders.
const ORDERS_MAX: usize = 64;

/// How long a stopping worker waits for its relays to end.
const STOP_MAX: Duration = Duration::from_secs(1);

/// How often a stopping worker checks whether all relays have ended.
const STOP_CHECK: Duration = Duration::from_millis(1);

/// An order to a worker.
#[derive(Debug)]
#[allow(
    dead_code,
    reason = "the orders of a handover are sent by the process's part of it, which follows"
)]
pub(crate) enum Order {
    /// Accept clients of this listener, which is in the published list, on this socket; the answer is whether that was possible.
    Listen(ListenerId, OwnedFd, oneshot::Sender<io::Result<()>>),
    /// Accept the clients that are already waiting, close the socket, then answer.
    Unlisten(ListenerId, oneshot::Sender<()>),
    /// Apply other settings.
    Reconfigure(Box<Settings>),
    /// Say the number of the last connection that was accepted.
    LastNumber(oneshot::Sender<u64>),
    /// Find the relays that this selects.
    Select(Selector, oneshot::Sender<VecDeque<RowId>>),
    /// End relays.
    Close(Close, oneshot::Sender<Closed>),
    /// Say what is known of the client with this id.
    Find(KeptId, oneshot::Sender<Found>),
    /// List relays, without holding up others.
    List(List, oneshot::Sender<Page>),
    /// Find the relays that come first in an order, without holding up others.
    Rank(Ranking, oneshot::Sender<Vec<Ranked>>),
    /// Say where each client with an id is: the hash of the id, and the place in the table.
    Hashes(oneshot::Sender<Vec<(u32, u32)>>),
    /// Say what is in these places of the table.
    Look(Vec<u32>, oneshot::Sender<Vec<RelayStatus>>),
    /// Say which clients' connections have ended within the last minute.
    Loops(oneshot::Sender<Vec<Loop>>),
    /// Detach all relays so that another worker can adopt them.
    Detach(oneshot::Sender<Vec<Relayed<Detached>>>),
    /// Resume relays that another worker has detached.
    Adopt(Vec<Relayed<Detached>>),
    /// Duplicate the listening sockets.
    Sockets(oneshot::Sender<io::Result<Vec<(ListenerId, OwnedFd)>>>),
    /// Duplicate the sockets of relays that another process could take over; they go on here.
    Offer(Offer, oneshot::Sender<OfferedPage>),
    /// Accept nobody and move no byte of the relays that another process can take over, and say what they are. An order to end any of
    /// them waits until that is over.
    Freeze(Freeze, oneshot::Sender<Frozen>),
    /// Go on as before [`Order::Freeze`].
    Thaw(oneshot::Sender<()>),
    /// Another process has these frozen relays and these listening sockets: forget them, without a trace for their peers. The others go
    /// on here. The answer is how many were forgotten.
    Forget(Forget, oneshot::Sender<usize>),
    /// Hold relays of another process, without reading or writing a byte of theirs. The answer is how many are held.
    Park(Park, oneshot::Sender<Result<usize, Invalid>>),
    /// Make relays of those that are held, with their states. They are counted from now on, and are frozen. The answer is how many
    /// they are; after an error, the process must not go on.
    AdoptStates(Vec<State>, oneshot::Sender<Result<usize, Invalid>>),
    /// Drop what is held, and adopted relays that do not run: they are the other process's. The answer is how many were adopted.
    Discard(oneshot::Sender<usize>),
    /// Move the bytes of adopted relays from now on, and drop what is held still. The answer is how many began.
    Run(oneshot::Sender<usize>),
    /// Go on from what another process knows.
    Learn(Learn, oneshot::Sender<Result<(), Invalid>>),
    /// Say how connections ended lately, in the form of a handover: each end once in the handover with these names.
    Ends(Arc<Names>, oneshot::Sender<Vec<End>>),
}

/// Relays to end, and how.
#[derive(Debug)]
pub(crate) struct Close {
    /// Which relays; those in front first.
    pub rows: VecDeque<RowId>,
    /// How many of them at most.
    pub most: usize,
    /// Only those with no byte in flight.
    pub at_rest: bool,
    /// The cause.
    pub cause: Ended,
}

/// What came of an order to end relays.
#[derive(Debug)]
pub(crate) struct Closed {
    /// How many were ordered to end.
    pub count: usize,
    /// Those that were not, those with bytes in flight last.
    pub left: VecDeque<RowId>,
}

/// Part of a list of relays.
#[derive(Debug)]
pub(crate) struct List {
    /// Which ones.
    pub filter: Arc<Filter>,
    /// The place in the worker's table to go on from.
    pub place: u32,
    /// How many at most.
    pub most: usize,
}

/// What a worker knows of a client.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Its connections.
    pub relays: Vec<RelayStatus>,
    /// How the last one ended that is remembered.
    pub last_end: Option<LastEnd>,
}

/// A running worker, and its thread.
#[derive(Debug)]
pub(crate) struct Worker {
    handle: WorkerHandle,
    thread: Option<std::thread::JoinHandle<()>>,
    supervisor: Supervisor,
}

/// Sends orders to a worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerHandle(mpsc::Sender<Order>);

impl WorkerHandle {
    /// Sends the worker an order, waiting for room in its queue.
    ///
    /// # Errors
    /// The worker has ended.
    pub(crate) async fn send(&self, order: Order) -> io::Result<()> {
        self.0.send(order).await.map_err(|_| has_ended())
    }

    /// Waits for room in the worker's queue of orders, and keeps it for one order.
    ///
    /// # Errors
    /// The worker has ended.
    pub(crate) async fn reserve(&self) -> io::Result<mpsc::Permit<'_, Order>> {
        self.0.reserve().await.map_err(|_| has_ended())
    }

    /// Sends the worker an order, and waits for its answer.
    ///
    /// # Errors
    /// The worker has ended.
    pub(crate) async fn request<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> io::Result<T> {
        self.ask(order).await?.answer().await
    }

    /// Sends the worker an order, waiting for room in its queue, and does not wait for the answer.
    ///
    /// # Errors
    /// The worker has ended.
    pub(crate) async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> io::Result<Asked<T>> {
        let (reply, answer) = oneshot::channel();
        self.send(order(reply)).await?;
        Ok(Asked(answer))
    }
}

/// An order whose answer is awaited.
#[derive(Debug)]
pub(crate) struct Asked<T>(oneshot::Receiver<T>);

impl<T> Asked<T> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// The worker has ended.
    pub(crate) async fn answer(self) -> io::Result<T> {
        self.0.await.map_err(|_| has_ended())
    }
}

fn has_ended() -> io::Error {
    io::Error::other("the worker has ended")
}

impl Worker {
    /// Starts the worker with this number, which ends once `stop` is true. Its path is made on its thread; its critical tasks are
    /// guarded by `supervisor`; `heartbeat` shows that it runs.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub(crate) fn start(
        number: u16,
        supervisor: Supervisor,
        stop: watch::Receiver<bool>,
        heartbeat: Arc<Heartbeat>,
        path: impl FnOnce() -> Path + Send + 'static,
    ) -> io::Result<Self> {
        let (handle, orders) = mpsc::channel(ORDERS_MAX);
        let (started, is_started) = std::sync::mpsc::sync_channel(1);
        let guard = supervisor.clone();
        let thread = std::thread::Builder::new()
            .name(format!("remora-{number}"))
            .spawn(move || {
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                match runtime {
                    Ok(runtime) => {
                        let work = work(number, guard.clone(), path, heartbeat, orders, stop, started);
                        runtime.block_on(guard.guard(Task::Orders, work));
                    }
                    // The caller of `start` gets the error, unless it has panicked.
                    Err(e) => drop(started.send(Err::<(), _>(e))),
                }
            })?;
        is_started
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("a worker ended while it started")))?;
        Ok(Self {
            handle: WorkerHandle(handle),
            thread: Some(thread),
            supervisor,
        })
    }

    /// A handle to send it orders.
    pub(crate) fn handle(&self) -> WorkerHandle {
        self.handle.clone()
    }

    /// Waits until the worker has ended.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a worker panicked");
            self.supervisor.report_panic(Task::Orders);
        }
    }
}

async fn work(
    number: u16,
    supervisor: Supervisor,
    path: impl FnOnce() -> Path,
    heartbeat: Arc<Heartbeat>,
    mut orders: mpsc::Receiver<Order>,
    mut stop: watch::Receiver<bool>,
    started: std::sync::mpsc::SyncSender<io::Result<()>>,
) {
    let path = Rc::new(path());
    path.clock.tick();
    let sockets = ListenSockets::new(Rc::clone(&path), supervisor.clone(), u64::from(number) << WORKER_SHIFT);
    let sweep = sweep::sweep(Rc::clone(&path), heartbeat);
    let sweeping = tokio::task::spawn_local(supervisor.clone().guard(Task::Sweep, sweep));
    // If the caller of `start` is gone, so is the other end of `stop`, which ends the loop below.
    let _ = started.send(Ok(()));
    let executing = Executing {
        path: Rc::clone(&path),
        sockets: Rc::clone(&sockets),
        part: Rc::default(),
        supervisor: supervisor.clone(),
    };
    let mut stopping = false;
    loop {
        let order = tokio::select! {
            biased;
            // Also if the sender was dropped: no order to stop could come any more.
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                // Orders sent before are still carried out.
                orders.close();
                stopping = true;
                continue;
            }
            order = orders.recv() => order,
        };
        match order {
            Some(order) => execute(order, &executing),
            None => break,
        }
    }
    sockets.close_all_but(&HashSet::new());
    path.table.borrow_mut().drop_frozen();
    path.table.borrow_mut().close_all(path.clock.now(), Ended::Shutdown);
    let empty = async {
        while !path.table.borrow().is_empty() {
            tokio::time::sleep(STOP_CHECK).await;
        }
    };
    // Relays that are left are dropped with the runtime, and report their end.
    let _ = tokio::time::timeout(STOP_MAX, empty).await;
    sweeping.abort();
}

/// What orders are carried out on.
struct Executing {
    path: Rc<Path>,
    sockets: Rc<ListenSockets>,
    part: Rc<HandoverPart>,
    supervisor: Supervisor,
}

fn execute(order: Order, worker: &Executing) {
    let Executing {
        path,
        sockets,
        part,
        supervisor,
    } = worker;
    // In all of these, the receiver may have been dropped, which changes nothing.
    match order {
        Order::Listen(id, socket, reply) => {
            let _ = reply.send(sockets.open(id, socket));
        }
        Order::Unlisten(id, reply) => {
            let (sockets, part) = (Rc::clone(sockets), Rc::clone(part));
            let close = async move {
                // Of a socket that another process has as well, the last clients are that one's.
                part.until_thawed().await;
                sockets.close(id, reply).await;
            };
            tokio::task::spawn_local(supervisor.clone().guard(Task::Unlisten, close));
        }
        Order::Reconfigure(settings) => {
            sockets.apply(&settings.dial);
            path.reconfigure(*settings);
        }
        Order::LastNumber(reply) => {
            let _ = reply.send(sockets.last_number());
        }
        Order::Select(selector, reply) => {
            let path = Rc::clone(path);
            in_task(supervisor, async move {
                let _ = reply.send(select::select(&path, &selector).await);
            });
        }
        Order::Close(order, reply) => {
            failpoint::pass(Place::Close);
            let (path, part) = (Rc::clone(path), Rc::clone(part));
            in_task(supervisor, async move {
                let _ = reply.send(close(&path, &part, order).await);
            });
        }
        Order::Find(id, reply) => {
            let _ = reply.send(find(path, &id));
        }
        Order::List(List { filter, place, most }, reply) => {
            let path = Rc::clone(path);
            in_task(supervisor, async move {
                let _ = reply.send(select::list(&path, &filter, place, most).await);
            });
        }
        Order::Rank(ranking, mut reply) => {
            let path = Rc::clone(path);
            in_task(supervisor, async move {
                let ranked = tokio::select! {
                    ranked = ranking::rank(&path, &ranking) => ranked,
                    // What no caller waits for is not measured to its end, since it holds a note of each relay.
                    () = reply.closed() => return,
                };
                let _ = reply.send(ranked);
            });
        }
        Order::Hashes(reply) => {
            let _ = reply.send(path.table.borrow().hashes().collect());
        }
        Order::Look(places, reply) => {
            let _ = reply.send(look(path, &places));
        }
        Order::Loops(reply) => {
            let _ = reply.send(path.last_ends().borrow().loops(Instant::now()));
        }
        Order::Detach(reply) => {
            if let Err(relayed) = reply.send(detach(path)) {
                // The receiver was dropped: the connections stay on this worker.
                resume(path, relayed);
            }
        }
        Order::Adopt(relayed) => resume(path, relayed),
        Order::Sockets(reply) => {
            let _ = reply.send(sockets.duplicates());
        }
        Order::Offer(order, reply) => {
            let path = Rc::clone(path);
            in_task(supervisor, async move {
                let _ = reply.send(handover::offer(&path, order).await);
            });
        }
        Order::Freeze(order, reply) => {
            let frozen = part.freeze(path, sockets, &order);
            if reply.send(frozen).is_err() {
                // Nobody would take them.
                part.thaw(path, sockets);
            }
        }
        Order::Thaw(reply) => {
            part.thaw(path, sockets);
            let _ = reply.send(());
        }
        Order::Forget(Forget { numbers, keep }, reply) => {
            sockets.close_all_but(&keep);
            let (path, sockets, part) = (Rc::clone(path), Rc::clone(sockets), Rc::clone(part));
            in_task(supervisor, async move {
                let _ = reply.send(part.forget(&path, &sockets, &numbers).await);
            });
        }
        Order::Park(order, reply) => {
            let _ = reply.send(part.park(order));
        }
        Order::AdoptStates(states, reply) => {
            let _ = reply.send(part.adopt(path, states));
        }
        Order::Discard(reply) => {
            let _ = reply.send(part.discard(path));
        }
        Order::Run(reply) => {
            let _ = reply.send(part.run(path));
        }
        Order::Learn(order, reply) => {
            let _ = reply.send(handover::learn(path, sockets, &order));
        }
        Order::Ends(names, reply) => {
            let _ = reply.send(part.ends(path, names));
        }
    }
}

/// Carries out what takes several turns, in a task of its own.
fn in_task(supervisor: &Supervisor, work: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(supervisor.clone().guard(Task::Orders, work));
}

async fn close(path: &Path, part: &HandoverPart, order: Close) -> Closed {
    let Close {
        mut rows,
        most,
        at_rest,
        cause,
    } = order;
    let mut count = 0;
    // Each is looked at once: those that are busy go to the back.
    let mut left = rows.len();
    let (mut slices, all) = (Slices::default(), left);
    while left > 0 && count < most {
        part.until_thawed().await;
        let slice = || {
            let now = path.clock.now();
            let mut table = path.table.borrow_mut();
            for _ in 0..left.min(CLOSES_MAX) {
                if count == most {
                    break;
                }
                left -= 1;
                let Some(id) = rows.pop_front() else {
                    break;
                };
                match table.close(id, now, at_rest, cause) {
                    OrderedToEnd::Now => count += 1,
                    OrderedToEnd::Before => {}
                    OrderedToEnd::Busy => rows.push_back(id),
                }
            }
        };
        slices.next(slice).await;
    }
    if all > left {
        slices.log("close", all - left);
    }
    Closed { count, left: rows }
}

fn find(path: &Path, id: &KeptId) -> Found {
    let (table, now) = (path.table.borrow(), path.clock.now());
    let relays = table.find(id).filter_map(|row| table.view(row));
    Found {
        relays: relays.map(|relay| relay.status(now)).collect(),
        last_end: path.last_ends().borrow().find(id),
    }
}

fn look(path: &Path, places: &[u32]) -> Vec<RelayStatus> {
    let (table, now) = (path.table.borrow(), path.clock.now());
    let mut relays = Vec::new();
    for place in places {
        table.visit(*place, 1, |_, relay| relays.push(relay.status(now)));
    }
    relays
}

fn detach(path: &Path) -> Vec<Relayed<Detached>> {
    let mut table = path.table.borrow_mut();
    let ids = table.all();
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
