//! The listening sockets of one worker: accepts clients, and closes a socket without losing a waiting client.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::base::failpoint::{self, Place};
use crate::base::supervise::{Supervisor, Task};
use crate::net::dial;
use crate::path::accept::{Accepted, ListenSocket};
use crate::path::connection::Path;
use crate::path::record::ListenerId;

/// Clients accepted before other tasks get a turn.
const ACCEPTED_AT_ONCE: usize = 8;

/// How long a closing listener goes on accepting. The kernel keeps back a client that has completed its handshake and
/// sent nothing, until it sends, or until the kernel repeats its SYN-ACK after a second.
const LAST_CALL: Duration = Duration::from_millis(1_100);

/// How long a closing listener then waits for TCP handshakes that have begun.
const HANDSHAKES: Duration = Duration::from_millis(200);

/// The sockets of a worker, by listener, and the tasks that accept on them.
pub(super) struct ListenSockets {
    path: Rc<Path>,
    supervisor: Supervisor,
    /// A listener has more than one if this process has taken over from one with more workers.
    open: RefCell<HashMap<ListenerId, Vec<Accepting>>>,
    /// The number of the last connection.
    numbers: Cell<u64>,
    /// Nobody is accepted for now.
    is_paused: Cell<bool>,
}

struct Accepting {
    socket: Rc<ListenSocket>,
    /// `None` while nobody is accepted.
    task: Option<JoinHandle<()>>,
}

impl Accepting {
    /// Accepts nobody from now on; no client is lost, since none is in the task between two waits.
    fn pause(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

impl ListenSockets {
    /// No sockets yet. Connections are numbered from `first` on.
    pub(super) fn new(path: Rc<Path>, supervisor: Supervisor, first: u64) -> Rc<Self> {
        Rc::new(Self {
            path,
            supervisor,
            open: RefCell::default(),
            numbers: Cell::new(first),
            is_paused: Cell::new(false),
        })
    }

    /// The number of the last connection.
    pub(super) fn last_number(&self) -> u64 {
        self.numbers.get()
    }

    /// Connections are numbered from `last` on, unless they are further already.
    pub(super) fn number_after(&self, last: u64) {
        self.numbers.set(self.numbers.get().max(last));
    }

    /// Accepts nobody for now. Clients wait in the kernel. A socket that is closing goes on, since nobody else has it.
    pub(super) fn pause(&self) {
        self.is_paused.set(true);
        self.open.borrow_mut().values_mut().flatten().for_each(Accepting::pause);
    }

    /// Accepts clients again.
    pub(super) fn resume(self: &Rc<Self>) {
        self.is_paused.set(false);
        for (id, all) in self.open.borrow_mut().iter_mut() {
            for accepting in all {
                accepting.pause();
                accepting.task = self.accept(&accepting.socket, *id);
            }
        }
    }

    /// Accepts clients on this socket from now on.
    pub(super) fn open(self: &Rc<Self>, id: ListenerId, socket: OwnedFd) -> io::Result<()> {
        let socket = Rc::new(ListenSocket::new(socket)?);
        let task = self.accept(&socket, id);
        let mut open = self.open.borrow_mut();
        open.entry(id).or_default().push(Accepting { socket, task });
        Ok(())
    }

    /// Duplicates of all sockets, for another process.
    pub(super) fn duplicates(&self) -> io::Result<Vec<(ListenerId, OwnedFd)>> {
        let open = self.open.borrow();
        let all = open
            .iter()
            .flat_map(|(id, all)| all.iter().map(|accepting| (*id, accepting)));
        all.map(|(id, accepting)| Ok((id, accepting.socket.duplicate()?)))
            .collect()
    }

    /// A task that accepts clients on `socket`; none while nobody is accepted.
    fn accept(self: &Rc<Self>, socket: &Rc<ListenSocket>, id: ListenerId) -> Option<JoinHandle<()>> {
        let accept = accept(Rc::clone(socket), id, Rc::clone(self));
        let spawn = || tokio::task::spawn_local(self.supervisor.clone().guard(Task::Accept, accept));
        (!self.is_paused.get()).then(spawn)
    }

    /// Accepts the clients that are already waiting, then closes the socket.
    pub(super) async fn close(self: Rc<Self>, id: ListenerId, closed: oneshot::Sender<()>) {
        let closing = self.open.borrow_mut().remove(&id);
        if let Some(mut closing) = closing {
            let sockets: Vec<_> = closing.iter().map(|accepting| Rc::clone(&accepting.socket)).collect();
            sockets.iter().for_each(|socket| socket.last_call());
            tokio::time::sleep(LAST_CALL).await;
            sockets.iter().for_each(|socket| socket.drop_new_syns());
            failpoint::pass(Place::NoMore);
            tokio::time::sleep(HANDSHAKES).await;
            closing.iter_mut().for_each(Accepting::pause);
            while let Some(accepted) = sockets.iter().find_map(|socket| socket.accept_waiting()) {
                self.serve(accepted, id);
            }
        }
        // The receiver may have been dropped, which changes nothing.
        let _ = closed.send(());
    }

    /// Sets keepalive and user timeout for the clients accepted from now on.
    pub(super) fn apply(&self, settings: &dial::Settings) {
        for accepting in self.open.borrow().values().flatten() {
            if let Err(error) = accepting.socket.apply(settings) {
                tracing::warn!(%error, "keepalive and user_timeout not changed for new clients");
            }
        }
    }

    /// Closes all sockets at once, except those of these listeners.
    pub(super) fn close_all_but(&self, keep: &HashSet<ListenerId>) {
        let mut open = self.open.borrow_mut();
        let closing = open.extract_if(|id, _| !keep.contains(id));
        closing
            .flat_map(|(_, all)| all)
            .for_each(|mut accepting| accepting.pause());
    }

    fn serve(&self, accepted: Accepted, id: ListenerId) {
        self.numbers.set(self.numbers.get() + 1);
        let path = Rc::clone(&self.path);
        // Boxed, since a task is copied where it is spawned and where it ends, and this one has several kilobytes.
        tokio::task::spawn_local(Box::pin(path.serve(accepted, id, self.numbers.get())));
    }
}

async fn accept(socket: Rc<ListenSocket>, id: ListenerId, sockets: Rc<ListenSockets>) {
    loop {
        for _ in 0..ACCEPTED_AT_ONCE {
            let accepted = socket.accept(&sockets.path.counters).await;
            sockets.serve(accepted, id);
        }
        tokio::task::yield_now().await;
    }
}
