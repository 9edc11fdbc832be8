//! Who holds what before its relay, and who is evicted when there is no room: a decision, made under the lock of
//! [`super::HeldBytes`], which wakes the evicted.
//!
//! The oldest holder of a source with more than its share of a room is evicted first. Where no source has more, it is the oldest of
//! all. Nobody is evicted while there is room, so a source that is alone may use all of it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use slab::Slab;
use tokio::time::Instant;

use super::eviction::Signal;
use super::limits::{Limits, ROOMS, Room, Sums};
use super::sources::{SourceId, Sources};

/// A holder of at most this many bytes of its client's has a part of the account that no larger one can take: nearly every CONNECT
/// is smaller.
pub const SMALL_CONNECT_BYTES: usize = 1024;

/// The part of the account that is kept for small holders: one in so many bytes.
const SMALL_PART: usize = 8;

/// Those who hold something of one kind. Bytes are of two kinds, since small holders have a part of the account to themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    SmallBytes,
    LargeBytes,
    Undecided,
    Handshake,
}

impl Kind {
    const ALL: [Self; 4] = [Self::SmallBytes, Self::LargeBytes, Self::Undecided, Self::Handshake];

    fn room(self) -> Room {
        match self {
            Self::SmallBytes | Self::LargeBytes => Room::Bytes,
            Self::Undecided => Room::Undecided,
            Self::Handshake => Room::Handshakes,
        }
    }
}

/// So much of each kind.
type Amounts = [usize; Kind::ALL.len()];

/// One holder. Later holders are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HolderId {
    /// In order of arrival.
    number: u64,
    /// Where it is kept; another one is there after it.
    slot: usize,
}

/// A place that a holder takes besides its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Undecided,
    Handshake,
}

/// A holder: one connection that is being set up.
#[derive(Debug)]
struct Holder {
    number: u64,
    /// `None` while it is unknown.
    source: Option<SourceId>,
    since: Instant,
    /// What the connection itself takes.
    fixed_bytes: usize,
    /// What is held of the client's bytes.
    bytes: usize,
    is_undecided: bool,
    is_in_handshake: bool,
    is_evicted: bool,
    signal: Arc<Signal>,
}

impl Holder {
    /// How much it holds of each kind.
    fn amounts(&self) -> Amounts {
        let all = self.fixed_bytes + self.bytes;
        let (small, large) = match self.bytes {
            ..=SMALL_CONNECT_BYTES => (all, 0),
            _ => (0, all),
        };
        [small, large, self.is_undecided.into(), self.is_in_handshake.into()]
    }

    /// How much of it others have to do without: nothing once it is evicted.
    fn present(&self) -> Amounts {
        match self.is_evicted {
            true => Default::default(),
            false => self.amounts(),
        }
    }

    fn place(&mut self, place: Place) -> &mut bool {
        match place {
            Place::Undecided => &mut self.is_undecided,
            Place::Handshake => &mut self.is_in_handshake,
        }
    }
}

/// Holders of one kind, by age.
#[derive(Debug, Default)]
struct Queue {
    /// What they hold together.
    sum: usize,
    all: BTreeSet<HolderId>,
    /// Those whose source is known.
    by_source: BTreeSet<(SourceId, HolderId)>,
}

impl Queue {
    fn set(&mut self, id: HolderId, source: Option<SourceId>, before: usize, after: usize) {
        self.sum = self.sum - before + after;
        if before == 0 && after > 0 {
            self.all.insert(id);
            self.by_source.extend(source.map(|source| (source, id)));
        } else if before > 0 && after == 0 {
            self.all.remove(&id);
            if let Some(source) = source {
                self.by_source.remove(&(source, id));
            }
        }
    }

    fn oldest_of(&self, source: SourceId) -> Option<HolderId> {
        let first = HolderId { number: 0, slot: 0 };
        let (of, id) = self.by_source.range((source, first)..).next()?;
        (*of == source).then_some(*id)
    }
}

/// All holders.
#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    next: u64,
    holders: Slab<Holder>,
    queues: [Queue; Kind::ALL.len()],
    sources: Sources,
    /// How much of each room is taken, by those too who were evicted and are not gone yet.
    taken: Sums,
}

/// There is no room, and nobody to evict for this holder, or it was evicted itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Ledger {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            sources: Sources::new(limits.shares()),
            limits,
            next: 0,
            holders: Slab::new(),
            queues: Default::default(),
            taken: Default::default(),
        }
    }

    pub(super) fn set_limits(&mut self, limits: Limits) {
        self.sources.set_shares(limits.shares());
        self.limits = limits;
    }

    pub(super) fn taken(&self, room: Room) -> usize {
        self.taken[room as usize]
    }

    /// Adds a holder that was accepted at `since`, later than all others.
    pub(super) fn enter(&mut self, since: Instant, signal: Arc<Signal>) -> HolderId {
        let number = self.next;
        self.next += 1;
        let holder = Holder {
            number,
            source: None,
            since,
            fixed_bytes: 0,
            bytes: 0,
            is_undecided: false,
            is_in_handshake: false,
            is_evicted: false,
            signal,
        };
        let slot = self.holders.insert(holder);
        HolderId { number, slot }
    }

    pub(super) fn leave(&mut self, id: HolderId) {
        self.change(id, |holder| {
            holder.fixed_bytes = 0;
            holder.bytes = 0;
            holder.is_undecided = false;
            holder.is_in_handshake = false;
        });
        if self.get(id).is_some() {
            let holder = self.holders.remove(id.slot);
            holder.source.inspect(|source| self.sources.leave(*source));
        }
    }

    fn get(&self, id: HolderId) -> Option<&Holder> {
        self.holders.get(id.slot).filter(|holder| holder.number == id.number)
    }

    fn get_mut(&mut self, id: HolderId) -> Option<&mut Holder> {
        let holder = self.holders.get_mut(id.slot);
        holder.filter(|holder| holder.number == id.number)
    }

    /// From now on it is known where the holder is from.
    pub(super) fn identify(&mut self, id: HolderId, source: IpAddr) {
        let Some(holder) = self.get(id) else {
            return;
        };
        let (before, amounts) = (holder.source, holder.present());
        let source = self.sources.enter(source);
        self.book(id, before, amounts, Default::default());
        self.book(id, Some(source), Default::default(), amounts);
        before.inspect(|before| self.sources.leave(*before));
        if let Some(holder) = self.get_mut(id) {
            holder.source = Some(source);
        }
    }

    /// Takes `more` bytes for the connection itself.
    pub(super) fn grow_fixed(
        &mut self,
        id: HolderId,
        more: usize,
        evicted: &mut Vec<Arc<Signal>>,
    ) -> Result<(), NoRoom> {
        self.change(id, |holder| holder.fixed_bytes += more);
        self.fit_bytes(id, evicted)
    }

    /// Takes `more` bytes for what a client has sent.
    pub(super) fn grow(&mut self, id: HolderId, more: usize, evicted: &mut Vec<Arc<Signal>>) -> Result<(), NoRoom> {
        self.change(id, |holder| holder.bytes += more);
        self.fit_bytes(id, evicted)
    }

    /// Gives back bytes that the client has sent.
    pub(super) fn shrink(&mut self, id: HolderId, less: usize) {
        self.change(id, |holder| holder.bytes -= less);
    }

    /// Takes a place, if there is one, or one of another holder. It takes none if it fails.
    pub(super) fn take_place(
        &mut self,
        id: HolderId,
        place: Place,
        now: Instant,
        evicted: &mut Vec<Arc<Signal>>,
    ) -> Result<(), NoRoom> {
        let (kind, max) = match place {
            Place::Undecided => (Kind::Undecided, self.limits.undecided_max),
            Place::Handshake => (Kind::Handshake, self.limits.handshakes_max),
        };
        let queue = &self.queues[kind as usize];
        if queue.sum >= max {
            let own = self.get(id).and_then(|holder| holder.source);
            let (source, oldest) = self.oldest(kind);
            let spares_it = |oldest: &HolderId| {
                let holder = self.get(*oldest);
                holder.is_none_or(|holder| now.saturating_duration_since(holder.since) < self.limits.grace)
            };
            let is_for_another = source.is_some() && source != own;
            let oldest = oldest.filter(|oldest| is_for_another || !spares_it(oldest));
            evicted.push(
                oldest
                    .and_then(|oldest| self.evict(oldest, kind.room()))
                    .ok_or(NoRoom)?,
            );
        }
        self.change(id, |holder| *holder.place(place) = true);
        Ok(())
    }

    pub(super) fn leave_place(&mut self, id: HolderId, place: Place) {
        self.change(id, |holder| *holder.place(place) = false);
    }

    /// Evicts others until all bytes fit, or fails with this holder's own eviction.
    fn fit_bytes(&mut self, id: HolderId, evicted: &mut Vec<Arc<Signal>>) -> Result<(), NoRoom> {
        while let Some(kind) = self.overfull() {
            let (_, Some(oldest)) = self.oldest(kind) else { break };
            evicted.extend(self.evict(oldest, Room::Bytes));
            if oldest == id {
                break;
            }
        }
        match self.get(id) {
            Some(holder) if !holder.is_evicted => Ok(()),
            Some(_) | None => Err(NoRoom),
        }
    }

    /// Who holds too many bytes, if there are too many: small holders can only be too many beyond their part.
    fn overfull(&self) -> Option<Kind> {
        let [small, large] = [Kind::SmallBytes, Kind::LargeBytes].map(|kind| self.queues[kind as usize].sum);
        let bytes_max = self.limits.bytes_max;
        if large > bytes_max - bytes_max / SMALL_PART {
            Some(Kind::LargeBytes)
        } else if small + large > bytes_max {
            Some(Kind::SmallBytes)
        } else {
            None
        }
    }

    /// Who goes first: the oldest of the source that has most, of those with more than their share; else the oldest of all, of no
    /// source in particular.
    fn oldest(&self, kind: Kind) -> (Option<SourceId>, Option<HolderId>) {
        let queue = &self.queues[kind as usize];
        let over = self.sources.over(kind.room()).filter_map(|(rank, source)| {
            let oldest = queue.oldest_of(source)?;
            Some((rank, source, oldest))
        });
        match over.max() {
            Some((_, source, oldest)) => (Some(source), Some(oldest)),
            None => (None, queue.all.first().copied()),
        }
    }

    fn evict(&mut self, id: HolderId, room: Room) -> Option<Arc<Signal>> {
        let mut signal = None;
        self.change(id, |holder| {
            holder.is_evicted = true;
            // Under the lock, so that a holder that is evicted here never sees a signal that says otherwise.
            holder.signal.set(room);
            signal = Some(Arc::clone(&holder.signal));
        });
        signal
    }

    fn change(&mut self, id: HolderId, change: impl FnOnce(&mut Holder)) {
        let Some(holder) = self.get_mut(id) else {
            return;
        };
        let (all_before, before) = (holder.amounts(), holder.present());
        change(holder);
        let (all_after, after, source) = (holder.amounts(), holder.present(), holder.source);
        for kind in Kind::ALL {
            let taken = &mut self.taken[kind.room() as usize];
            *taken = *taken + all_after[kind as usize] - all_before[kind as usize];
        }
        self.book(id, source, before, after);
    }

    /// Books that a holder of `source` has `after` instead of `before`.
    fn book(&mut self, id: HolderId, source: Option<SourceId>, before: Amounts, after: Amounts) {
        if before == after {
            return;
        }
        let (mut less, mut more) = ([0; ROOMS.len()], [0; ROOMS.len()]);
        for kind in Kind::ALL {
            let (before, after) = (before[kind as usize], after[kind as usize]);
            self.queues[kind as usize].set(id, source, before, after);
            less[kind.room() as usize] += before;
            more[kind.room() as usize] += after;
        }
        if let Some(source) = source {
            self.sources.book(source, less, more);
        }
    }

    /// Whether nothing is left of anybody.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let is_empty = |queue: &Queue| queue.sum == 0 && queue.all.is_empty() && queue.by_source.is_empty();
        self.holders.is_empty()
            && self.sources.is_empty()
            && self.taken == [0; ROOMS.len()]
            && self.queues.iter().all(is_empty)
    }
}

#[cfg(test)]
mod tests;
