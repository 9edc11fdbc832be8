//! The taker's side of a handover: what it expects, in which order, and from when on it relays.

use std::os::fd::OwnedFd;

use tokio::net::UnixStream;

use crate::handover::conversation::{Deadlines, Failure, Offered, Step};
use crate::handover::messages::{Complete, Hello, Knowledge, ListenSocket, Manifest, Placement, State};

/// What the process that takes over does for a handover. An error is why it refuses, for the operator: the giver is told, and goes on as
/// before.
#[allow(
    async_fn_in_trait,
    reason = "whether the futures can change threads is for who implements and spawns them"
)]
pub trait Taker {
    /// Who it is. The versions of the protocol are filled in by [`take`].
    fn hello(&self) -> Hello;

    /// What there is. Versions, required features and the number of descriptors were checked.
    async fn begin(&mut self, manifest: Manifest) -> Result<(), String>;

    /// Sockets that listen; that they do was checked.
    async fn sockets(&mut self, sockets: Vec<(ListenSocket, OwnedFd)>) -> Result<(), String>;

    /// Relays to hold, which the giver still relays; that the descriptors are TCP sockets was checked. May come again between `prepare`
    /// and `adopt`.
    async fn relays(&mut self, relays: Vec<Offered>) -> Result<(), String>;

    /// Placements, the same.
    async fn placements(&mut self, placements: Vec<Placement>) -> Result<(), String>;

    /// Starts what can be started before the relays change hands.
    async fn prepare(&mut self) -> Result<(), String>;

    /// States of relays, which the giver has frozen.
    async fn states(&mut self, states: Vec<State>) -> Result<(), String>;

    /// What was counted, and how connections ended.
    async fn knowledge(&mut self, knowledge: Knowledge) -> Result<(), String>;

    /// Makes relays of what is held and has a state, without reading or writing a byte of theirs. Returns the numbers of those that it
    /// cannot take, which stay with the giver.
    async fn adopt(&mut self, complete: Complete) -> Result<Vec<u64>, String>;

    /// It is ours: relays what was adopted, and in the first round accepts clients. Relays that are held without a state are closed
    /// here: they have ended, or stay with the giver.
    async fn run(&mut self);

    /// Nothing of this round is ours: closes what is held and what was adopted, without a trace on the connections.
    async fn discard(&mut self);

    /// How far it is.
    fn progress(&mut self, step: Step);
}

/// What was taken.
#[derive(Debug)]
pub struct Taken {
    /// How many relays.
    pub relays: u64,
    /// In how many rounds.
    pub rounds: u32,
    /// Why there were no more, if the giver has not ended them. What was taken before is relayed.
    pub cut_short: Option<Failure>,
}

/// Takes over from the process behind `socket`, until it has no more. It must not be dropped before it returns.
///
/// # Errors
/// Nothing was taken: the giver goes on, and this process has nothing.
pub async fn take(_socket: UnixStream, _taker: &mut impl Taker, _deadlines: Deadlines) -> Result<Taken, Failure> {
    Err(Failure::Refusal("a handover is not possible yet".to_owned()))
}
