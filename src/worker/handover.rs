//! A worker's part in a handover. In the process that gives: offers relays, freezes them, and then forgets or thaws them. In the
//! process that takes over: parks relays, adopts their states, and runs them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::listening::ListenSockets;
use super::slices::{CLOSES_MAX, ROWS_MAX, Slices};
use crate::handover::Offered;
use crate::handover::messages::{self, Invalid};
use crate::net::socket::Socket;
use crate::path::connection::Path;
use crate::path::handover::{self, Counts, Facts, Names};
use crate::path::record::ListenerId;
use crate::path::relay::{Movable, Parked, Stays};

/// Which relays to offer: up to so many, from this place of the table on.
#[derive(Debug)]
pub(crate) struct Offer {
    /// What nodes and listeners are called.
    pub names: Arc<Names>,
    /// The place to go on from.
    pub place: u32,
    /// How many at most.
    pub most: usize,
}

/// Part of a worker's relays.
#[derive(Debug, Default)]
pub(crate) struct OfferedPage {
    /// Those that could move now.
    pub offered: Vec<Offered>,
    /// The place to go on from; `None` at the end.
    pub next: Option<u32>,
}

/// What to freeze: every relay that can move.
#[derive(Debug)]
pub(crate) struct Freeze {
    /// What nodes and listeners are called.
    pub names: Arc<Names>,
    /// The numbers of the relays that were offered before and sent; the others are offered now.
    pub known: Arc<HashSet<u64>>,
}

/// A worker's relays, frozen.
#[derive(Debug, Default)]
pub(crate) struct Frozen {
    /// The states of all that move.
    pub states: Vec<messages::State>,
    /// Those of them that were not known.
    pub offered: Vec<Offered>,
    /// How many stay, by reason.
    pub left: Vec<(Stays, usize)>,
    /// The number of the last connection that was accepted.
    pub last_number: u64,
}

/// What another process has.
#[derive(Debug)]
pub(crate) struct Forget {
    /// The numbers of frozen relays.
    pub numbers: Arc<HashSet<u64>>,
    /// The listeners that it does not have.
    pub keep: Arc<HashSet<ListenerId>>,
}

/// Relays to hold until their states come.
#[derive(Debug)]
pub(crate) struct Park {
    /// What nodes and listeners are called.
    pub names: Arc<Names>,
    /// The relays.
    pub relays: Vec<Offered>,
}

/// What a worker is to know of the time before it started.
#[derive(Debug, Default)]
pub(crate) struct Learn {
    /// What nodes and listeners are called.
    pub names: Arc<Names>,
    /// Connections are numbered from here on, unless they are further already.
    pub last_number: Option<u64>,
    /// To be added to what the worker has counted: all of it to one worker, since the others' numbers are added to its own.
    pub counters: Vec<messages::Counter>,
    /// How connections ended, the newest last.
    pub ends: Vec<messages::End>,
}

/// What a worker keeps of a handover.
#[derive(Debug, Default)]
pub(super) struct HandoverPart {
    /// Relays of another process whose states are still to come, by number.
    parked: RefCell<HashMap<u64, Parked>>,
    /// Relays are frozen that another process may take over.
    is_frozen: Cell<bool>,
    thawed: Notify,
    /// Up to when the ends of connections were told, in the handover with these names.
    told: RefCell<Option<(Arc<Names>, Instant)>>,
}

impl HandoverPart {
    /// Waits until no relay is frozen that another process may take over.
    pub(super) async fn until_thawed(&self) {
        while self.is_frozen.get() {
            self.thawed.notified().await;
        }
    }

    /// Carries out [`Order::Freeze`](super::Order::Freeze), at once: nothing may change between two relays.
    pub(super) fn freeze(&self, path: &Path, sockets: &ListenSockets, order: &Freeze) -> Frozen {
        self.is_frozen.set(true);
        sockets.pause();
        let mut offered = Vec::new();
        let offer = |movable: Movable<'_>| {
            if !order.known.contains(&movable.relay.record.number) {
                offered.push(duplicate(movable, path.worker(), &order.names)?);
            }
            Ok(())
        };
        let (states, stay) = path.table.borrow_mut().freeze(path.clock.now(), offer);
        let mut left = BTreeMap::new();
        for stays in stay {
            *left.entry(stays).or_insert(0) += 1;
        }
        Frozen {
            states,
            offered,
            left: left.into_iter().collect(),
            last_number: sockets.last_number(),
        }
    }

    /// Carries out [`Order::Thaw`](super::Order::Thaw).
    pub(super) fn thaw(&self, path: &Path, sockets: &Rc<ListenSockets>) {
        path.table.borrow_mut().thaw();
        sockets.resume();
        self.is_frozen.set(false);
        self.thawed.notify_waiters();
    }

    /// Carries out [`Order::Forget`](super::Order::Forget), in slices: the relays that stay have their turns in between.
    pub(super) async fn forget(&self, path: &Path, sockets: &Rc<ListenSockets>, numbers: &HashSet<u64>) -> usize {
        let rows = path.table.borrow().frozen(numbers);
        let (mut slices, mut forgotten) = (Slices::default(), 0);
        for rows in rows.chunks(CLOSES_MAX) {
            let slice = || rows.iter().filter(|row| path.forget(**row)).count();
            forgotten += slices.next(slice).await;
        }
        slices.log("forget", forgotten);
        self.thaw(path, sockets);
        forgotten
    }

    /// Carries out [`Order::Park`](super::Order::Park).
    pub(super) fn park(&self, order: Park) -> Result<usize, Invalid> {
        let mut parked = self.parked.borrow_mut();
        for Offered { relay, client, node } in order.relays {
            let Facts {
                record,
                node_id,
                idle_limit,
            } = handover::facts(&relay, &order.names)?;
            let socket = |fd| Socket::of_another_process(fd).map_err(|_| Invalid("socket of a relay"));
            let relay = Parked {
                client: socket(client)?,
                node: socket(node)?,
                idle_limit,
                node_id,
                record,
            };
            if parked.insert(relay.record().number, relay).is_some() {
                return Err(Invalid("number of a relay: another one has it"));
            }
        }
        Ok(parked.len())
    }

    /// Carries out [`Order::AdoptStates`](super::Order::AdoptStates).
    pub(super) fn adopt(&self, path: &Rc<Path>, states: Vec<messages::State>) -> Result<usize, Invalid> {
        let (mut parked, now) = (self.parked.borrow_mut(), path.clock.now());
        let count = states.len();
        for state in states {
            let relay = parked.remove(&state.number);
            let relay = relay.ok_or(Invalid("number of a state: no relay has it"))?;
            Rc::clone(path).adopt(relay.with(state, now)?)?;
        }
        Ok(count)
    }

    /// Carries out [`Order::Ends`](super::Order::Ends).
    pub(super) fn ends(&self, path: &Path, names: Arc<Names>) -> Vec<messages::End> {
        let (ends, now) = (path.last_ends().borrow(), Instant::now());
        let mut told = self.told.borrow_mut();
        let before = told
            .as_ref()
            .filter(|(of, _)| Arc::ptr_eq(of, &names))
            .map(|(_, at)| *at);
        let new = ends.iter().filter(|end| before.is_none_or(|before| end.at > before));
        let ends = new.map(|end| handover::end(end, now, &names)).collect();
        *told = Some((names, now));
        ends
    }

    /// Carries out [`Order::Discard`](super::Order::Discard).
    pub(super) fn discard(&self, path: &Path) -> usize {
        self.parked.take();
        let rows = path.table.borrow().all_frozen();
        rows.into_iter().filter(|row| path.forget(*row)).count()
    }

    /// Carries out [`Order::Run`](super::Order::Run).
    pub(super) fn run(&self, path: &Path) -> usize {
        // Each has ended in the process that had it, or stays there.
        self.parked.take();
        path.table.borrow_mut().thaw()
    }
}

/// Carries out [`Order::Offer`](super::Order::Offer).
pub(super) async fn offer(path: &Path, order: Offer) -> OfferedPage {
    let Offer { names, place, most } = order;
    let (mut slices, mut looked_at) = (Slices::default(), 0);
    let mut page = OfferedPage {
        offered: Vec::new(),
        next: Some(place),
    };
    while let Some(place) = page.next
        && page.offered.len() < most
    {
        // No more places than there is room for in the page.
        let places = ROWS_MAX.min(u32::try_from(most - page.offered.len()).unwrap_or(u32::MAX));
        let slice = || {
            path.table.borrow_mut().offer(place, places, |movable| {
                // What cannot be offered now is tried again when it is frozen, and counted then if it stays.
                let offered = duplicate(movable, path.worker(), &names).ok();
                let is_offered = offered.is_some();
                page.offered.extend(offered);
                is_offered
            })
        };
        page.next = slices.next(slice).await;
        looked_at += places as usize;
    }
    slices.log("offer", looked_at);
    page
}

/// Carries out [`Order::Learn`](super::Order::Learn).
pub(super) fn learn(path: &Path, sockets: &ListenSockets, order: &Learn) -> Result<(), Invalid> {
    let Learn {
        names,
        last_number,
        counters,
        ends,
    } = order;
    let counts = Counts::of(counters)?;
    let now = Instant::now();
    let ends = ends.iter().map(|end| handover::end_of(end, now, names));
    let ends = ends.filter_map(Result::transpose).collect::<Result<_, _>>()?;
    path.count_from(&counts);
    path.last_ends().borrow_mut().add_earlier(ends);
    sockets.number_after(last_number.unwrap_or_default());
    Ok(())
}

/// A relay with duplicates of its sockets.
fn duplicate(movable: Movable<'_>, worker: u16, names: &Names) -> Result<Offered, Stays> {
    let Movable { relay, client, node } = movable;
    let of_node = (relay.node_id, relay.idle_limit);
    let message = handover::relay(relay.record, of_node, worker, names).ok_or(Stays::Unnamed)?;
    let duplicate = |socket| Socket::duplicate(socket).map_err(|_| Stays::Descriptors);
    Ok(Offered {
        relay: message,
        client: duplicate(client)?,
        node: duplicate(node)?,
    })
}

#[cfg(test)]
mod tests;
