//! The process's part in a handover: what it does at each step of the conversation, as the one that gives and as the one that takes.

mod closings;
mod examination;
mod gave;
mod giver;
mod known;
mod left;
mod listener;
mod socket;
mod taker;

pub(super) use gave::Gave;
pub(super) use left::LeftBehind;
pub(super) use listener::serve;
pub(super) use socket::HandoverSocket;
pub use taker::take_over;
