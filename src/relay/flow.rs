//! One direction of a relay: copies small messages, splices bulk, and holds bytes only while the receiver is full.

use std::io;
use std::task::{Context, Poll, ready};

use crate::clock::Seconds;
use crate::relay::coding::{Coded, Coding};
use crate::relay::pipes::{self, Pipe, Pipes};
use crate::scratch;
use crate::socket::Socket;
use crate::websocket::frames::{Fault, Frames};

/// What one direction may move before its worker turns to other connections.
const TURN_BYTES_MAX: usize = 256 * 1024;

/// A read that brings this much belongs to bulk; after [`BULK_READS`] of them in one turn, splice is cheaper than a copy.
const BULK_READ_BYTES: usize = 32 * 1024;
const BULK_READS: u8 = 3;

/// A fill below this is no bulk any more; [`SMALL_FILLS`] of them in a row end the splicing.
const SMALL_FILL_BYTES: usize = 8 * 1024;
const SMALL_FILLS: u8 = 2;

/// One direction: from one socket to the other.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes read by copying, and by splicing.
    pub copied: u64,
    /// Bytes moved without copying.
    pub spliced: u64,
    /// What the receiver had no room for; nothing more is read until it is gone.
    backlog: Option<Box<Backlog>>,
    mode: Mode,
    /// When the direction last moved in bulk.
    bulk_at: Seconds,
    /// The sender's FIN has been read.
    ended: bool,
    coding: Coding,
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    /// Through the thread's buffer; so many reads in a row were large.
    Copy { large: u8 },
    /// Through a pipe; so many fills in a row were small.
    Splice { small: u8 },
}

impl Default for Mode {
    fn default() -> Self {
        Self::Copy { large: 0 }
    }
}

#[derive(Debug)]
enum Backlog {
    Bytes { bytes: Vec<u8>, sent: usize },
    Pipe { pipe: Pipe, filled: usize },
}

/// What came of a turn.
#[derive(Debug)]
pub enum Turn {
    /// The sender's frames are none that may be here.
    Fault(Fault),
    /// One of the two sockets has nothing more to give or to take; its waker is in place.
    Waiting,
    /// There may be more, but others come first.
    Spent,
    /// The sender's FIN was read, and everything before it was sent.
    Ended,
    /// The sender's connection failed; everything read before was sent.
    ReadFailed(io::Error),
    /// The receiver's connection failed. What it has still to say will be heard from its other direction; why perhaps
    /// not, since the kernel tells each error once.
    WriteFailed(io::Error),
}

enum Failure {
    Read(io::Error),
    Write(io::Error),
    Fault(Fault),
}

impl Flow {
    /// A direction that starts with `unsent` bytes, and whose sender may have `ended` already.
    pub fn new(unsent: Vec<u8>, ended: bool) -> Self {
        let backlog = (!unsent.is_empty()).then(|| {
            Box::new(Backlog::Bytes {
                bytes: unsent,
                sent: 0,
            })
        });
        Self {
            backlog,
            ended,
            ..Self::default()
        }
    }

    /// All bytes read from the sender.
    pub fn bytes(&self) -> u64 {
        self.copied + self.spliced
    }

    /// Whether nothing waits for the receiver.
    pub fn is_at_rest(&self) -> bool {
        self.backlog.is_none()
    }

    /// Whether the sender's FIN has been read.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Moves what can be moved now.
    pub fn turn(
        &mut self,
        from: &Socket,
        to: &Socket,
        tools: &mut Tools,
        cx: &mut Context<'_>,
    ) -> Turn {
        let mut budget = TURN_BYTES_MAX;
        loop {
            match self.flush(to, &mut tools.pipes, cx) {
                Poll::Pending => return Turn::Waiting,
                Poll::Ready(Err(e)) => return Turn::WriteFailed(e),
                Poll::Ready(Ok(())) => {}
            }
            if self.ended {
                // In TLS the end is a record, and may have to wait for room as well.
                to.prepare_end();
                return match to.poll_flush(cx) {
                    Poll::Pending => Turn::Waiting,
                    Poll::Ready(Err(e)) => Turn::WriteFailed(e),
                    Poll::Ready(Ok(())) => Turn::Ended,
                };
            }
            if budget == 0 {
                return Turn::Spent;
            }
            match self.step(from, to, tools, cx) {
                Poll::Pending => {
                    self.burst_is_over();
                    return Turn::Waiting;
                }
                Poll::Ready(Ok(0)) => {
                    self.ended = true;
                    if let Some(words) = self.coding.farewell() {
                        self.queue(words);
                    }
                }
                Poll::Ready(Ok(moved)) => budget = budget.saturating_sub(moved),
                Poll::Ready(Err(Failure::Read(e))) => return Turn::ReadFailed(e),
                Poll::Ready(Err(Failure::Write(e))) => return Turn::WriteFailed(e),
                Poll::Ready(Err(Failure::Fault(fault))) => return Turn::Fault(fault),
            }
        }
    }

    /// Does this with the bytes from now on.
    pub fn code(&mut self, coding: Coding) {
        self.coding = coding;
    }

    /// Takes out how the sender's frames stand, where they are opened.
    pub fn take_frames(&mut self) -> Option<Frames> {
        match std::mem::take(&mut self.coding) {
            Coding::Open(frames) => Some(*frames),
            Coding::Untouched | Coding::Frame | Coding::Mute => None,
        }
    }

    /// Says `words` to the receiver between two frames of the sender.
    pub fn queue(&mut self, words: Vec<u8>) {
        match self.backlog.as_deref_mut() {
            Some(Backlog::Bytes { bytes, sent }) => {
                // What a slow receiver has got makes room, or a backlog that is never empty would only grow.
                bytes.drain(..std::mem::take(sent));
                bytes.extend(words);
            }
            // Nothing is spliced that is put into frames.
            Some(Backlog::Pipe { .. }) => debug_assert!(false, "frames are never spliced"),
            None => {
                self.backlog = Some(Box::new(Backlog::Bytes {
                    bytes: words,
                    sent: 0,
                }));
            }
        }
    }

    /// Says `words` behind what waits, as far as the receiver takes it now.
    pub fn say_now(&mut self, words: Vec<u8>, receiver: &Socket) {
        self.queue(words);
        if let Some(Backlog::Bytes { bytes, sent }) = self.backlog.as_deref_mut() {
            // A receiver that is gone, or does not listen, need not hear it.
            while let Ok(more @ 1..) = receiver.send_now(&bytes[*sent..]) {
                *sent += more;
            }
        }
    }

    /// Whether the sender has said in a close frame that it says no more.
    pub fn is_closed(&self) -> bool {
        matches!(&self.coding, Coding::Open(frames) if frames.is_closed())
    }

    /// Bytes that wait for the receiver here.
    pub fn waiting(&self) -> usize {
        match self.backlog.as_deref() {
            None => 0,
            Some(Backlog::Bytes { bytes, sent }) => bytes.len() - sent,
            Some(Backlog::Pipe { filled, .. }) => *filled,
        }
    }

    /// Takes out what the receiver has not got yet, for a relay that goes on elsewhere.
    ///
    /// # Errors
    /// What the kernel says about a pipe.
    pub fn take_unsent(&mut self) -> io::Result<Vec<u8>> {
        match self.backlog.take().map(|backlog| *backlog) {
            None => Ok(Vec::new()),
            Some(Backlog::Bytes { mut bytes, sent }) => {
                bytes.drain(..sent);
                Ok(bytes)
            }
            Some(Backlog::Pipe { pipe, filled }) => pipe.into_bytes(filled),
        }
    }

    fn step(
        &mut self,
        from: &Socket,
        to: &Socket,
        tools: &mut Tools,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        if let Mode::Splice { small } = self.mode {
            if tools.now > self.bulk_at.after(Seconds(1)) {
                self.mode = Mode::default();
            } else if let Some(pipe) = tools.pipes.lease() {
                return self.splice(from, to, pipe, small, tools, cx);
            }
        }
        scratch::with(|scratch| self.copy(from, to, scratch, tools, cx))
    }

    fn copy(
        &mut self,
        from: &Socket,
        to: &Socket,
        scratch: &mut [u8],
        tools: &mut Tools,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        let start = self.coding.start();
        let read = ready!(from.poll_recv(cx, &mut scratch[start..])).map_err(Failure::Read)?;
        if read == 0 {
            return Poll::Ready(Ok(0));
        }
        self.copied += read as u64;
        if let Mode::Copy { large } = &mut self.mode {
            *large = if read >= BULK_READ_BYTES {
                // Where nothing is spliced, a burst goes on counting.
                large.saturating_add(1)
            } else {
                0
            };
            let as_it_is = self.coding.is_untouched() && from.is_plain() && to.is_plain();
            if *large >= BULK_READS && tools.splice && as_it_is {
                self.mode = Mode::Splice { small: 0 };
                self.bulk_at = tools.now;
            }
        }
        let coded = self.coding.code(scratch, read, &mut tools.replies);
        let Coded { range, closed } = coded.map_err(Failure::Fault)?;
        self.ended = closed;
        let mut bytes = &scratch[range];
        while !bytes.is_empty() {
            match to.poll_send(cx, bytes) {
                Poll::Ready(sent) => bytes = &bytes[sent.map_err(Failure::Write)?..],
                Poll::Pending => {
                    self.backlog = Some(Box::new(Backlog::Bytes {
                        bytes: bytes.to_vec(),
                        sent: 0,
                    }));
                    break;
                }
            }
        }
        Poll::Ready(Ok(read))
    }

    fn splice(
        &mut self,
        from: &Socket,
        to: &Socket,
        pipe: Pipe,
        small: u8,
        tools: &mut Tools,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        let filled = match from.poll_splice_out(cx, pipe.write_end(), pipes::BYTES) {
            Poll::Ready(Ok(filled)) if filled > 0 => filled,
            Poll::Ready(Err(e)) if e.raw_os_error() == Some(EINVAL) => {
                // Not a socket that can be spliced (kernel TLS between two records, for one): copy from here on.
                tools.pipes.give_back(pipe);
                self.mode = Mode::default();
                return scratch::with(|scratch| self.copy(from, to, scratch, tools, cx));
            }
            nothing => {
                tools.pipes.give_back(pipe);
                return nothing.map_err(Failure::Read);
            }
        };
        self.spliced += filled as u64;
        self.bulk_at = tools.now;
        self.mode = match small {
            _ if filled >= SMALL_FILL_BYTES => Mode::Splice { small: 0 },
            small if small + 1 >= SMALL_FILLS => Mode::default(),
            small => Mode::Splice { small: small + 1 },
        };
        let mut left = filled;
        while left > 0 {
            match to.poll_splice_in(cx, pipe.read_end(), left) {
                Poll::Ready(Ok(sent)) => left -= sent,
                // The pipe goes with the connection: it still has bytes in it.
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Failure::Write(e))),
                Poll::Pending => {
                    self.backlog = Some(Box::new(Backlog::Pipe { pipe, filled: left }));
                    return Poll::Ready(Ok(filled));
                }
            }
        }
        tools.pipes.give_back(pipe);
        Poll::Ready(Ok(filled))
    }

    fn flush(
        &mut self,
        to: &Socket,
        pipes: &mut Pipes,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(backlog) = &mut self.backlog else {
            return to.poll_flush(cx);
        };
        match &mut **backlog {
            Backlog::Bytes { bytes, sent } => {
                while *sent < bytes.len() {
                    *sent += ready!(to.poll_send(cx, &bytes[*sent..]))?;
                }
            }
            Backlog::Pipe { pipe, filled } => {
                while *filled > 0 {
                    *filled -= ready!(to.poll_splice_in(cx, pipe.read_end(), *filled))?;
                }
            }
        }
        if let Some(Backlog::Pipe { pipe, .. }) = self.backlog.take().map(|backlog| *backlog) {
            pipes.give_back(pipe);
        }
        to.poll_flush(cx)
    }

    /// Large reads count only within one burst.
    fn burst_is_over(&mut self) {
        if let Mode::Copy { large } = &mut self.mode {
            *large = 0;
        }
    }
}

/// `EINVAL`, as `io::Error` carries it.
const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();

/// What all directions of a worker share while they move.
#[derive(Debug)]
pub struct Tools {
    /// The pipes of this worker.
    pub pipes: Pipes,
    /// The time of this turn.
    pub now: Seconds,
    /// Whether bulk may be spliced.
    pub splice: bool,
    /// What the sender of the direction that has just had its turn is to be told.
    pub replies: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_receiver_has_got_makes_room_for_what_is_queued() {
        let mut flow = Flow::new(vec![1; 10], false);
        for _ in 0..100 {
            flow.queue(vec![2; 10]);
            let Some(Backlog::Bytes { bytes, sent }) = flow.backlog.as_deref_mut() else {
                panic!("bytes wait");
            };
            assert!(bytes.len() <= 20, "{} bytes are kept", bytes.len());
            *sent += 10;
        }
        assert_eq!(flow.waiting(), 10);
        assert_eq!(flow.take_unsent().expect("no pipe"), [2; 10]);
    }
}
