//! The process's part in a handover: what it does at each step of the conversation, as the one that gives and as the one that takes.

mod giver;
mod listener;
mod taker;

pub(super) use giver::Gave;
pub(super) use listener::HandoverListener;
pub use taker::take_over;
