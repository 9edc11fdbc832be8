//! How much of each room each source has, and which sources have more than their share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use slab::Slab;

use super::limits::{ROOMS, Room, Sums};

/// One source, while it has holders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SourceId(usize);

#[derive(Debug)]
struct Source {
    address: IpAddr,
    /// How many holders it has.
    holders: usize,
    sums: Sums,
}

/// The sources of all holders. They are looked up by address when a holder comes and when the last one is gone, and by number in
/// between: strangers choose addresses, so their hash has to be a slow one.
#[derive(Debug)]
pub(super) struct Sources {
    /// What one source may have.
    shares: Sums,
    all: Slab<Source>,
    by_address: HashMap<IpAddr, SourceId>,
    /// Those with more than their share of a room: few, since shares are large.
    over: [Vec<SourceId>; ROOMS.len()],
}

impl Sources {
    pub(super) fn new(shares: Sums) -> Self {
        Self {
            shares,
            all: Slab::new(),
            by_address: HashMap::new(),
            over: Default::default(),
        }
    }

    pub(super) fn set_shares(&mut self, shares: Sums) {
        self.shares = shares;
        for room in ROOMS.map(|room| room as usize) {
            let over = self.all.iter().filter(|(_, source)| source.sums[room] > shares[room]);
            self.over[room] = over.map(|(number, _)| SourceId(number)).collect();
        }
    }

    /// Adds a holder.
    pub(super) fn enter(&mut self, address: IpAddr) -> SourceId {
        let id = match self.by_address.entry(address) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                let source = Source {
                    address,
                    holders: 0,
                    sums: Sums::default(),
                };
                *unknown.insert(SourceId(self.all.insert(source)))
            }
        };
        self.all[id.0].holders += 1;
        id
    }

    /// Removes a holder, which has nothing left.
    pub(super) fn leave(&mut self, id: SourceId) {
        let source = &mut self.all[id.0];
        source.holders -= 1;
        if source.holders == 0 {
            let Source { address, .. } = self.all.remove(id.0);
            self.by_address.remove(&address);
        }
    }

    /// Books that a source has `more` instead of `less`.
    pub(super) fn book(&mut self, id: SourceId, less: Sums, more: Sums) {
        let sums = &mut self.all[id.0].sums;
        for room in ROOMS.map(|room| room as usize) {
            let before = sums[room];
            sums[room] = before - less[room] + more[room];
            let (share, over) = (self.shares[room], &mut self.over[room]);
            match (before > share, sums[room] > share) {
                (false, true) => over.push(id),
                (true, false) => over.retain(|other| *other != id),
                (true, true) | (false, false) => {}
            }
        }
    }

    /// The sources with more than their share of a room, and how much they have: the greatest has to give first. Of two with as much,
    /// the address decides, so that it does not matter in which order they came.
    pub(super) fn over(&self, room: Room) -> impl Iterator<Item = ((usize, IpAddr), SourceId)> {
        let over = self.over[room as usize].iter();
        over.map(move |id| {
            let source = &self.all[id.0];
            ((source.sums[room as usize], source.address), *id)
        })
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.by_address.is_empty() && self.over.iter().all(Vec::is_empty)
    }
}
