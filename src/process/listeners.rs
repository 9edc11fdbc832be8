//! Opens, changes and closes listeners on all workers: the one writer of the published list.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::bind_error::BindError;
use super::handle::Inner;
use super::inherited::Inherited;
use crate::base::events::Change;
use crate::config::Config;
use crate::net::dial;
use crate::net::network;
use crate::net::tls;
use crate::path::accept::{self, Listener, Tls};
use crate::path::listeners::ListenerEntry;
use crate::path::record::ListenerId;
use crate::worker::Order;

/// A listener that is bound and not open yet.
#[derive(Debug)]
pub(super) struct Bound {
    listener: Listener,
    /// Where it is bound, with the port that the kernel chose if none was configured.
    address: SocketAddr,
    /// One socket for each worker, or those of another process.
    sockets: Vec<OwnedFd>,
}

/// Binds a listener for this many workers.
pub(super) fn bind(listener: &Listener, workers: usize, config: &Config) -> io::Result<Bound> {
    let bound = accept::bind(listener.address, listener.freebind, workers, &config.dial);
    let (address, sockets) = bound.map_err(|source| refused(listener, source))?;
    Ok(Bound {
        listener: listener.clone(),
        address,
        sockets,
    })
}

/// Binds a listener, or takes the sockets that another process has opened for it.
pub(super) fn bind_or_inherit(
    listener: &Listener,
    inherited: &mut Inherited,
    workers: usize,
    config: &Config,
) -> io::Result<Bound> {
    let sockets = inherited.take(listener);
    if sockets.is_empty() {
        return bind(listener, workers, config);
    }
    let mut address = listener.address;
    for socket in &sockets {
        address = accept::inherit(socket).map_err(|source| refused(listener, source))?;
    }
    Ok(Bound {
        listener: listener.clone(),
        address,
        sockets,
    })
}

fn refused(listener: &Listener, source: io::Error) -> BindError {
    BindError {
        listener: Some(listener.name.clone()),
        address: listener.address,
        source,
    }
}

impl Bound {
    /// Opens the sockets that are missing so that each worker has one. Not before the process is to accept: the kernel spreads clients
    /// over all of them at once. In another network they would be no sockets of this listener.
    fn complete(&mut self, workers: usize, settings: &dial::Settings) -> io::Result<()> {
        for socket in &self.sockets {
            accept::make_own(socket, settings)?;
        }
        let own = self.sockets.len();
        let missing = workers.saturating_sub(own);
        let beside = (self.sockets.iter().all(network::is_own))
            .then(|| accept::bind_beside(self.address, self.listener.freebind, missing, settings));
        match beside {
            Some(Ok(more)) => self.sockets.extend(more),
            // Opened in another network, by another user, or without SO_REUSEPORT, as by systemd: workers share what there is.
            None | Some(Err(_)) => {
                for place in 0..missing {
                    let shared = self.sockets[place % own].try_clone()?;
                    self.sockets.push(shared);
                }
            }
        }
        Ok(())
    }
}

impl Inner {
    /// Publishes a listener and lets all workers accept on it.
    pub(super) async fn open(&self, bound: Bound) -> io::Result<()> {
        let id = self.publish(&bound);
        self.listen(id, bound).await
    }

    /// Publishes a listener on which nobody accepts yet.
    pub(super) fn publish(&self, bound: &Bound) -> ListenerId {
        let id = ListenerId(self.shared.listeners.current().len() as u16);
        let entry = ListenerEntry::new(id, bound.listener.clone(), bound.address, self.workers.len());
        self.shared.listeners.add(entry);
        id
    }

    /// Lets all workers accept on a listener that was published.
    pub(super) async fn listen(&self, id: ListenerId, mut bound: Bound) -> io::Result<()> {
        bound.complete(self.workers.len(), &self.config.load().dial)?;
        // More than one for a worker, if a process with more workers has opened them.
        for (worker, socket) in self.workers.iter().cycle().zip(bound.sockets) {
            worker.request(|reply| Order::Listen(id, socket, reply)).await??;
        }
        Ok(())
    }

    /// Opens the listeners that are not open yet, all or none.
    pub(super) async fn open_added(&self, new: &Config) -> io::Result<()> {
        let known = self.shared.listeners.current();
        let is_open = |listener: &&Listener| known.iter().any(|entry| !entry.removed && entry.is(listener));
        let added: Vec<&Listener> = new.listeners.iter().filter(|l| !is_open(l)).collect();
        if known.len() + added.len() > usize::from(u16::MAX) {
            return Err(io::Error::other(
                "this process has had too many different listeners: restart it",
            ));
        }
        let bound = added.into_iter().map(|l| bind(l, self.workers.len(), new));
        let bound: Vec<Bound> = bound.collect::<io::Result<_>>()?;
        for bound in bound {
            let (name, address) = (bound.listener.name.clone(), bound.address);
            if let Err(error) = self.open(bound).await {
                let all = self.shared.listeners.current();
                let opened: Vec<ListenerId> = all.iter().skip(known.len()).map(|entry| entry.id).collect();
                self.close_listeners(&opened).await?;
                return Err(error);
            }
            self.events.push(Change::ListenerOpened {
                listener: name.clone(),
                address: address.to_string(),
            });
            let event = Change::LISTENER_OPENED;
            tracing::info!(event, listener = name, %address, "listener opened");
        }
        Ok(())
    }

    /// Changes the listeners that stay, and closes those that are not in `listeners` once no client waits there.
    pub(super) async fn change_listeners(&self, listeners: &[Listener]) -> io::Result<()> {
        let mut closing = Vec::new();
        for entry in self.shared.listeners.current().iter().filter(|entry| !entry.removed) {
            match listeners.iter().find(|listener| entry.is(listener)) {
                Some(listener) if *listener == *entry.listener => {}
                Some(listener) => {
                    let mut listener = listener.clone();
                    if let (Some(Tls::End(new)), Some(Tls::End(old))) = (&mut listener.tls, &entry.listener.tls) {
                        *new = Arc::new(tls::Acceptor::clone(new).after(old));
                    }
                    let listener = Arc::new(listener);
                    let change = |entry: &mut ListenerEntry| entry.listener = listener;
                    self.shared.listeners.change(entry.id, change);
                }
                None => closing.push(entry.id),
            }
        }
        self.close_listeners(&closing).await
    }

    /// Closes all listeners, after accepting the clients that wait there.
    pub(super) async fn close_all_listeners(&self) -> io::Result<()> {
        let all = self.shared.listeners.current();
        let open: Vec<ListenerId> = all.iter().filter(|entry| !entry.removed).map(|e| e.id).collect();
        self.close_listeners(&open).await
    }

    /// Closes these listeners on all workers, after accepting the clients that wait there.
    async fn close_listeners(&self, ids: &[ListenerId]) -> io::Result<()> {
        let mut closing = Vec::new();
        for id in ids {
            for worker in &self.workers {
                let (reply, closed) = oneshot::channel();
                worker.send(Order::Unlisten(*id, reply)).await?;
                closing.push(closed);
            }
        }
        for closed in closing {
            // A worker that has ended has closed its sockets, too.
            let _ = closed.await;
        }
        for id in ids {
            self.shared.listeners.change(*id, |entry| entry.removed = true);
            self.shared.listeners.with(*id, |entry| {
                self.events.push(Change::ListenerClosed {
                    listener: entry.name().to_owned(),
                    address: entry.address.to_string(),
                });
                let event = Change::LISTENER_CLOSED;
                tracing::info!(event, listener = entry.name(), address = %entry.address, "listener closed");
            });
        }
        Ok(())
    }
}
