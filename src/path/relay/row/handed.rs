//! A relay on its way between two processes.
//!
//! 1. The process that gives *offers* it: the other gets duplicates of both sockets, and what does not change. It is relayed as before.
//! 2. It is *frozen*: no turn moves a byte, no sweep ends it, and nothing of it is counted. What waits for its peers stays in memory,
//!    and its state is a copy, so that it can go on here at any time (*thawed*). Events of its sockets are not lost meanwhile, since only
//!    a read or a write that finds nothing clears readiness.
//! 3. The other process makes a frozen row of the sockets and the state. When that is told to run, this one is forgotten: its sockets
//!    are closed, which closes no connection, since the other process has them.

use std::os::fd::{AsFd, BorrowedFd};

use super::{Handed, NodeClose, Phase, Row};
use crate::base::clock::Seconds;
use crate::handover::messages;
use crate::path::ended::Ended;
use crate::path::record::Record;
use crate::path::relay::parked::{Adopted, frames_message, side_message};
use crate::path::relay::stays::Stays;

impl Row {
    /// Why it cannot move now, if it cannot.
    pub(crate) fn stays(&self) -> Option<Stays> {
        let has_tls = !self.client.socket.is_plain() || !self.node.socket.is_plain();
        let is_ending = self.phase != Phase::Relaying
            || self.client.flow.is_closed()
            || [&self.client, &self.node]
                .iter()
                .any(|half| half.flow.has_ended() || half.flow.broken().is_some());
        match (has_tls, is_ending) {
            (true, _) => Some(Stays::Tls),
            (false, true) => Some(Stays::Ending),
            (false, false) => None,
        }
    }

    /// Whether nothing is read or written.
    pub(crate) fn is_frozen(&self) -> bool {
        self.handed == Handed::Frozen
    }

    /// The client's socket and the node's.
    pub(crate) fn sockets(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.client.socket.as_fd(), self.node.socket.as_fd())
    }

    /// Whether bytes are in a pipe.
    #[cfg(test)]
    pub(crate) fn has_pipe(&self) -> bool {
        self.client.flow.has_pipe() || self.node.flow.has_pipe()
    }

    /// Another process gets duplicates of the sockets.
    pub(crate) fn set_offered(&mut self) {
        if self.handed == Handed::No {
            self.handed = Handed::Offered;
        }
    }

    /// Freezes it, unless it must stay.
    ///
    /// # Errors
    /// Why it stays.
    pub(crate) fn freeze(&mut self) -> Result<(), Stays> {
        if let Some(stays) = self.stays() {
            return Err(stays);
        }
        if self.client.flow.empty_pipe().and(self.node.flow.empty_pipe()).is_err() {
            // Bytes are lost.
            self.end_now(Ended::Internal);
            return Err(Stays::Ending);
        }
        self.handed = Handed::Frozen;
        Ok(())
    }

    /// It goes on, if it is frozen. The other process may still have the sockets.
    pub(crate) fn thaw(&mut self) {
        if self.is_frozen() {
            self.handed = Handed::Offered;
            self.wake();
        }
    }

    /// What has become of it. Only of a frozen relay, of which nothing changes any more.
    pub(crate) fn state(&self, now: Seconds) -> messages::State {
        debug_assert!(self.is_frozen(), "it would change");
        let silence = |since: Seconds| now.0.saturating_sub(since.0);
        let side = |half: &super::Half| side_message(half.flow.unsent(), half.flow.moved(), half.counted);
        messages::State {
            number: self.record.number,
            client: Some(side(&self.client)),
            node: Some(side(&self.node)),
            silences: [self.activity.client, self.activity.node, self.activity.message]
                .map(silence)
                .to_vec(),
            frames: self
                .client
                .flow
                .frames()
                .map(|frames| frames_message(&frames.position())),
            ends_with_disconnect: self.node_close == NodeClose::ByNode,
        }
    }

    /// A frozen row for a relay of another process.
    pub(crate) fn adopted(adopted: Adopted, now: Seconds) -> Self {
        let Adopted {
            relayed,
            activity,
            ends_with_disconnect,
        } = adopted;
        Self {
            activity,
            handed: Handed::Frozen,
            node_close: match ends_with_disconnect {
                true => NodeClose::ByNode,
                false => NodeClose::Open,
            },
            ..Self::new(relayed, now)
        }
    }

    /// Gives up a frozen relay that another process has. Its future is woken, finds the row gone, and ends. The sockets are closed
    /// with the row, which closes no connection.
    pub(crate) fn forget(self) -> Box<Record> {
        self.wake();
        self.record
    }
}
