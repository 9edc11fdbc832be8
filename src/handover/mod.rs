//! The conversation between a process, the giver, and the next one, the taker, which takes over its listeners and its connections.
//!
//! [`give`] and [`take`] hold the order of the messages, their deadlines, and the decision whose the relays are. What the two processes
//! do at each step is behind [`Giver`] and [`Taker`].
//!
//! 1. Everything that does not change is sent while the giver still relays: sockets, relays with their descriptors, placements.
//! 2. The giver freezes: it accepts nobody, and the relays that move take no turn. It sends what has changed. The taker adopts the
//!    relays, and neither reads nor writes a byte of theirs.
//! 3. The giver sends `Go`. The taker sends `Running`, and begins to relay only if that was sent. The giver forgets the relays if
//!    `Running` is in its queue, and otherwise thaws them. Before it looks, it shuts its end down, so that nothing can come after.
//! 4. Connections that were being set up when the giver froze move in later rounds, each of which is steps 2 and 3.

pub mod messages;
pub mod settings;
pub mod wire;

mod channel;
mod conversation;
mod giver;
mod sockets;
mod taker;
#[cfg(test)]
mod tests;

pub use conversation::{Deadlines, Failure, Offered, Step};
pub use giver::{Frozen, Given, Giver, give, turn_away};
pub use settings::Settings;
pub use taker::{Taken, Taker, take};
