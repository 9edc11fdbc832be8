//! The giver's side of a handover: what it sends, in which order, and whether the taker has the relays.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::net::UnixStream;

use crate::handover::conversation::{Deadlines, Failure, Offered, Step};
use crate::handover::messages::{Hello, Knowledge, ListenSocket, Manifest, Placement, State};

/// What the giving process does for a handover. All descriptors that it returns are duplicates, which are closed when they were sent.
#[allow(
    async_fn_in_trait,
    reason = "whether the futures can change threads is for who implements and spawns them"
)]
pub trait Giver {
    /// What there is to take over. The version is filled in by [`give`].
    ///
    /// # Errors
    /// Why this taker gets nothing.
    async fn manifest(&mut self, taker: &Hello) -> Result<Manifest, String>;

    /// Every socket that listens.
    ///
    /// # Errors
    /// No descriptor is left.
    async fn sockets(&mut self) -> io::Result<Vec<(ListenSocket, OwnedFd)>>;

    /// Some of the relays that could move now, which go on being relayed; [`RELAYS_MAX`](super::messages::RELAYS_MAX) of them at
    /// most. `None` after the last.
    ///
    /// # Errors
    /// No descriptor is left.
    async fn relays(&mut self) -> io::Result<Option<Vec<Offered>>>;

    /// Some of the placements; `None` after the last.
    async fn placements(&mut self) -> Option<Vec<Placement>>;

    /// Stops accepting clients, and stops the relays that move, until [`thaw`](Self::thaw) or [`release`](Self::release). May be cut
    /// short by the deadline: `thaw` follows then.
    ///
    /// # Errors
    /// No descriptor is left, or a worker does not answer; `thaw` follows.
    async fn freeze(&mut self) -> io::Result<Frozen>;

    /// Nothing of this round has moved: undoes `freeze`, even one that has not returned.
    async fn thaw(&mut self);

    /// The taker relays these: forgets them, without closing the connections visibly. In the first round closes the listening sockets,
    /// too. Frozen relays that are not among them go on here.
    async fn release(&mut self, numbers: Vec<u64>);

    /// Waits until there are relays for another round, which it should begin no more than ten times a second. `false` if there will be
    /// no more. May be cut short, when the taker is gone.
    async fn has_more(&mut self) -> bool;

    /// What was counted since the last round.
    async fn last_words(&mut self) -> Knowledge;

    /// How far it is.
    fn progress(&mut self, step: Step);
}

/// What changes hands in one round.
#[derive(Debug, Default)]
pub struct Frozen {
    /// Relays that were not sent before. They need states as well.
    pub offered: Vec<Offered>,
    /// The state of each relay that moves.
    pub states: Vec<State>,
    /// Placements that were made, changed or ended since they were sent.
    pub placements: Vec<Placement>,
    /// What was counted, and how connections ended: in all, or since the last round.
    pub knowledge: Knowledge,
    /// The last number of a connection on each worker.
    pub numbers: Vec<u64>,
}

/// What has moved.
#[derive(Debug)]
pub struct Given {
    /// How many relays have moved.
    pub relays: u64,
    /// The longest time in which what moves was not relayed, for any round.
    pub pause: Duration,
    /// How many rounds there were.
    pub rounds: u32,
    /// Why there were no more, if not for want of relays. What was left then is still with the giver.
    pub cut_short: Option<Failure>,
}

/// Hands over to the process behind `socket`, until there are no more rounds. It must not be dropped before it returns: whose the
/// relays are would be open.
///
/// # Errors
/// Nothing has moved, and the giver goes on as before.
pub async fn give(_socket: UnixStream, _giver: &mut impl Giver, _deadlines: Deadlines) -> Result<Given, Failure> {
    Err(Failure::Refusal("a handover is not possible yet".to_owned()))
}
