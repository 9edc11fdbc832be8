//! Relays on their way between two processes: what [`row::handed`](super::super::row) does to one, for the whole table.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use super::{RowId, Table, row_mut};
use crate::base::clock::Seconds;
use crate::handover::messages::State;
use crate::path::record::Record;
use crate::path::relay::parked::Adopted;
use crate::path::relay::relayed::RelayView;
use crate::path::relay::row::Row;
use crate::path::relay::stays::Stays;

/// A relay that can move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Movable<'a> {
    /// What is known of it.
    pub relay: RelayView<'a>,
    /// The client's socket.
    pub client: BorrowedFd<'a>,
    /// The node's.
    pub node: BorrowedFd<'a>,
}

impl<'a> From<&'a Row> for Movable<'a> {
    fn from(row: &'a Row) -> Self {
        let (client, node) = row.sockets();
        Self {
            relay: row.view(),
            client,
            node,
        }
    }
}

impl Table {
    /// Passes to `offer` the relays that could move now and are in so many `places` of the table, from place `from` on. Where it
    /// returns true, another process gets duplicates of the sockets. Returns the place to go on from; `None` at the end of the table.
    pub(crate) fn offer(&mut self, from: u32, places: u32, mut offer: impl FnMut(Movable<'_>) -> bool) -> Option<u32> {
        let end = from.saturating_add(places).min(self.places());
        for index in from..end {
            if let Some(row) = self.row_at_mut(index)
                && row.stays().is_none()
                && offer(Movable::from(&*row))
            {
                row.set_offered();
            }
        }
        (end < self.places()).then_some(end)
    }

    /// Freezes every relay that can move, unless `accept` says why it must stay. Returns their states, and why the others stay.
    pub(crate) fn freeze(
        &mut self,
        now: Seconds,
        mut accept: impl FnMut(Movable<'_>) -> Result<(), Stays>,
    ) -> (Vec<State>, Vec<Stays>) {
        let (mut states, mut left) = (Vec::with_capacity(self.len()), Vec::new());
        for row in self.rows_mut() {
            let frozen = row.freeze().and_then(|()| {
                accept(Movable::from(&*row)).inspect_err(|_| row.thaw())?;
                Ok(row.state(now))
            });
            match frozen {
                Ok(state) => states.push(state),
                Err(stays) => left.push(stays),
            }
        }
        (states, left)
    }

    /// Every frozen relay goes on. Returns how many there were.
    pub(crate) fn thaw(&mut self) -> usize {
        let mut thawed = 0;
        for row in self.rows_mut() {
            thawed += usize::from(row.is_frozen());
            row.thaw();
        }
        thawed
    }

    /// The frozen relays with these numbers.
    pub(crate) fn frozen(&self, numbers: &HashSet<u64>) -> Vec<RowId> {
        self.frozen_where(|row| numbers.contains(&row.facts().1.number))
    }

    /// All frozen relays.
    pub(crate) fn all_frozen(&self) -> Vec<RowId> {
        self.frozen_where(|_| true)
    }

    fn frozen_where(&self, is_wanted: impl Fn(&Row) -> bool) -> Vec<RowId> {
        let rows = (0..self.places()).filter_map(|index| Some((index, self.row(index)?)));
        let frozen = rows.filter(|(_, (_, row))| row.is_frozen() && is_wanted(row));
        frozen
            .map(|(index, (generation, _))| RowId { index, generation })
            .collect()
    }

    /// Forgets a frozen relay that another process has: its sockets are closed, which closes no connection. `None` if it is gone, or
    /// is not frozen.
    pub(crate) fn forget(&mut self, id: RowId) -> Option<Box<Record>> {
        row_mut(&mut self.chunks, id).filter(|row| row.is_frozen())?;
        Some(self.remove(id)?.forget())
    }

    /// Drops all frozen relays, in a process that ends: of those that another process has, nothing happens to their peers.
    pub(crate) fn drop_frozen(&mut self) {
        for id in self.all_frozen() {
            drop(self.forget(id));
        }
    }

    /// Adds a relay of another process, frozen.
    pub(crate) fn adopt_frozen(&mut self, adopted: Adopted, now: Seconds) -> RowId {
        self.insert(Row::adopted(adopted, now))
    }

    /// Whether bytes of any relay are in a pipe.
    #[cfg(test)]
    fn has_pipes(&self) -> bool {
        let rows = (0..self.places()).filter_map(|index| self.row(index));
        rows.into_iter().any(|(_, row)| row.has_pipe())
    }

    fn row_at_mut(&mut self, index: u32) -> Option<&mut Row> {
        let (number, place) = super::place_of(index);
        let (_, row) = self.chunks.get_mut(number)?.rows.as_mut()?[place].as_mut()?;
        Some(row)
    }
}

#[cfg(test)]
mod tests;
