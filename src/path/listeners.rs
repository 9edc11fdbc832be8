//! The listeners of this process: one immutable list, published like the cluster, which workers and operators read without a
//! lock. Its one writer is `process`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::cluster::EndpointKind;
use crate::net::tls::Certificate;
use crate::path::accept::{Listener, ListenerCount, Tls};
use crate::path::counters::ListenerCounters;
use crate::path::record::ListenerId;

/// A listener that this process has opened; it may have been removed since.
#[derive(Clone, Debug)]
pub struct ListenerEntry {
    /// Its place in the list.
    pub id: ListenerId,
    /// Its settings, which a reload may change.
    pub listener: Arc<Listener>,
    /// Where it is bound, with the port that the kernel chose if none was configured.
    pub address: SocketAddr,
    /// Its connections now, over all workers.
    pub listener_count: Arc<ListenerCount>,
    /// What each worker counts of it.
    pub counters: Arc<[ListenerCounters]>,
    /// It is closed. It stays in the list for the connections that it accepted.
    pub removed: bool,
}

impl ListenerEntry {
    /// A listener that is bound at `address`, with counters for so many workers.
    pub fn new(id: ListenerId, listener: Listener, address: SocketAddr, workers: usize) -> Self {
        Self {
            id,
            listener: Arc::new(listener),
            address,
            listener_count: Arc::default(),
            counters: (0..workers).map(|_| ListenerCounters::default()).collect(),
            removed: false,
        }
    }

    /// Its name, which is the value of its label.
    pub fn name(&self) -> &str {
        &self.listener.name
    }

    /// The transport of its clients.
    pub fn kind(&self) -> EndpointKind {
        self.listener.kind()
    }

    /// How many connections it may have at once, if all listeners together may have `all`.
    pub(crate) fn connections_max(&self, all: usize) -> usize {
        self.listener.connections_max.map_or(all, |own| own.min(all))
    }

    /// The certificates that it presents.
    pub(crate) fn certificates(&self) -> &[Certificate] {
        match &self.listener.tls {
            Some(Tls::End(acceptor)) => &acceptor.offer().certificates,
            Some(Tls::Pass) | None => &[],
        }
    }

    /// When the first of its certificates expires; `None` if it has none.
    pub(crate) fn certificate_expires(&self) -> Option<SystemTime> {
        match &self.listener.tls {
            Some(Tls::End(acceptor)) => acceptor.expires(),
            Some(Tls::Pass) | None => None,
        }
    }

    /// When the first of its lists of revoked certificates expires; `None` if it has none.
    pub(crate) fn revocations_expire(&self) -> Option<SystemTime> {
        match &self.listener.tls {
            Some(Tls::End(acceptor)) => acceptor.revocations_expire(),
            Some(Tls::Pass) | None => None,
        }
    }

    /// Whether `listener` is this one, perhaps with other settings. Listeners on free ports are told apart only by
    /// name.
    pub fn is(&self, listener: &Listener) -> bool {
        self.listener.address == listener.address
            && (listener.address.port() != 0 || self.listener.name == listener.name)
    }
}

/// Where the newest list of listeners is published.
#[derive(Debug, Default)]
pub struct Listeners(ArcSwap<Vec<Arc<ListenerEntry>>>);

impl Listeners {
    /// All listeners that this process has opened, by id.
    pub fn current(&self) -> Arc<Vec<Arc<ListenerEntry>>> {
        self.0.load_full()
    }

    /// The listener with this id, as it is now.
    pub fn get(&self, id: ListenerId) -> Option<Arc<ListenerEntry>> {
        self.with(id, Arc::clone)
    }

    /// Calls `read` with the listener of this id. Unlike [`Listeners::get`], touches no reference count that other
    /// threads touch.
    pub fn with<T>(&self, id: ListenerId, read: impl FnOnce(&Arc<ListenerEntry>) -> T) -> Option<T> {
        self.0.load().get(usize::from(id.0)).map(read)
    }

    /// Adds a listener, whose id is the next one. Only `process` does.
    pub fn add(&self, entry: ListenerEntry) {
        let mut entries = Vec::clone(&self.0.load());
        debug_assert_eq!(usize::from(entry.id.0), entries.len(), "ids are given out in order");
        entries.push(Arc::new(entry));
        self.0.store(Arc::new(entries));
    }

    /// Publishes the listener with this id as changed by `change`. Only `process` does.
    pub fn change(&self, id: ListenerId, change: impl FnOnce(&mut ListenerEntry)) {
        let mut entries = Vec::clone(&self.0.load());
        if let Some(entry) = entries.get_mut(usize::from(id.0)) {
            change(Arc::make_mut(entry));
            self.0.store(Arc::new(entries));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(name: &str) -> Listener {
        Listener {
            name: name.to_owned(),
            ..Listener::new("127.0.0.1:0".parse().expect("an address"))
        }
    }

    #[test]
    fn a_list_that_was_read_stays_as_it_was() {
        let listeners = Listeners::default();
        let address = "127.0.0.1:1883".parse().expect("an address");
        listeners.add(ListenerEntry::new(ListenerId(0), listener("a"), address, 2));
        let before = listeners.current();
        listeners.add(ListenerEntry::new(ListenerId(1), listener("b"), address, 2));
        listeners.change(ListenerId(0), |entry| entry.removed = true);
        assert!(before.len() == 1 && !before[0].removed);
        let after = listeners.current();
        assert!(after.len() == 2 && after[0].removed);
        // The counts go on with the entry.
        after[0].counters[1].accepted.add(1);
        assert_eq!(before[0].counters[1].accepted.get(), 1);
        assert!(listeners.get(ListenerId(2)).is_none());
    }
}
