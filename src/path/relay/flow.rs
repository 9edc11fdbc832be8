//! One direction of a relay: copies small messages, splices bulk, and holds bytes only while the receiver is full.
//!
//! [`mode`](super::mode) decides which of the two is done, and [`coding`](super::coding) transforms the bytes.

use std::io;
use std::task::{Context, Poll, ready};

use crate::base::clock::Seconds;
use crate::base::scratch;
use crate::net::socket::Socket;
use crate::net::websocket::frames::{Fault, Frames};
use crate::path::ended::{Details, Ended};
use crate::path::relay::coding::{Coded, Coding};
use crate::path::relay::mode::Mode;
use crate::path::relay::pipes::{self, Pipe, Pipes};
use crate::path::relay::ports::{Ports, ends_with_disconnect};
use crate::path::sides::Moved;

/// The work of one direction before its worker turns to other connections, in bytes moved. That takes some 100 µs.
const TURN_WORK_MAX: usize = 256 * 1024;

/// The work of a part of a frame, of which a client may put 10,000 into one read, in bytes moved.
const PART_WORK: usize = 64;

/// The work of a byte that TLS adds to its records, in bytes moved: each record has 22 of them and is decrypted alone.
const TLS_BYTE_WORK: usize = 32;

/// One direction: from one socket to the other.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    moved: Moved,
    /// What the receiver had no room for; nothing more is read until it is sent. It stays until the next sweep finds that
    /// nothing waits, so that a slow receiver is known from one backlog to the next.
    blocked: Option<Box<Blocked>>,
    mode: Mode,
    /// When the direction last moved in bulk.
    bulk_at: Seconds,
    coding: Coding,
    end: End,
    /// Why the receiver's connection takes no more bytes.
    broken: Option<Ended>,
}

/// How far the end of a direction has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    /// The sender may send more.
    #[default]
    Open,
    /// The sender's end was read; bytes before it may still have to be sent.
    Read,
    /// Everything was sent to the receiver; the FIN is sent next, or was sent.
    PassedOn,
}

/// A receiver that has no room, and what it takes.
#[derive(Debug)]
struct Blocked {
    backlog: Backlog,
    /// Since which sweep each one has found something that waits, and what the last one has found.
    since: Option<Seconds>,
    sampled: usize,
    /// When the present minute began, and how many of the sender's bytes the receiver had taken by then.
    minute: (Seconds, u64),
}

impl Blocked {
    fn by(backlog: Backlog) -> Box<Self> {
        Box::new(Self {
            backlog,
            since: None,
            sampled: 0,
            minute: Default::default(),
        })
    }
}

/// What a sweep has found of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Bytes that wait: here, and in the kernel's buffers of both sockets.
    pub bytes: usize,
    /// The receiver has kept bytes waiting for a minute, and has taken fewer of them than it must.
    pub is_stalled: bool,
}

/// For how long a receiver must keep bytes waiting before it is judged by how many it takes.
const STALL: Seconds = Seconds(60);

#[derive(Debug)]
enum Backlog {
    Nothing,
    Bytes { bytes: Vec<u8>, sent: usize },
    Pipe { pipe: Pipe, filled: usize },
}

/// The result of a turn.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The sender has no bytes, or the receiver has no room; the waker is registered.
    Waiting,
    /// There may be more, but other connections come first.
    Spent,
    /// The sender's end was read, and everything before it was sent.
    Ended,
    /// The sender's frames are invalid.
    Fault(Fault),
    /// The sender sends frames without anything in them, and far too many.
    Flood,
    /// The sender's connection failed; everything read before was sent.
    ReadFailed(io::Error),
    /// The receiver's connection failed. What the receiver sent before is still read in the other direction; the error
    /// may not appear there, since the kernel reports each error once.
    WriteFailed(io::Error),
}

enum Failure {
    Read(io::Error),
    Write(io::Error),
    Fault(Fault),
    Flood,
}

impl Flow {
    /// A direction that first sends `unsent`. `moved` counts the bytes read before; `ended` means that the sender's end
    /// was read before.
    pub(crate) fn new(unsent: Vec<u8>, moved: Moved, ended: bool) -> Self {
        let blocked = (!unsent.is_empty()).then(|| Blocked::by(Backlog::Bytes { bytes: unsent, sent: 0 }));
        Self {
            moved,
            blocked,
            end: if ended { End::Read } else { End::Open },
            ..Self::default()
        }
    }

    /// Bytes read from the sender.
    pub(crate) fn moved(&self) -> Moved {
        self.moved
    }

    /// Whether nothing waits for the receiver.
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!(self.backlog(), None | Some(Backlog::Nothing))
    }

    fn backlog(&self) -> Option<&Backlog> {
        self.blocked.as_deref().map(|blocked| &blocked.backlog)
    }

    fn backlog_mut(&mut self) -> Option<&mut Backlog> {
        self.blocked.as_deref_mut().map(|blocked| &mut blocked.backlog)
    }

    fn set_backlog(&mut self, backlog: Backlog) {
        match &mut self.blocked {
            Some(blocked) => blocked.backlog = backlog,
            None => self.blocked = Some(Blocked::by(backlog)),
        }
    }

    /// What waits for the receiver, and whether that takes less than `rate_min` bytes a second. Called once a second; costs
    /// nothing if nothing has waited lately.
    pub(crate) fn sample(&mut self, from: &Socket, to: &Socket, rate_min: u64, now: Seconds) -> Sample {
        let (read, here) = (self.moved.total(), self.waiting());
        let Some(blocked) = self.blocked.as_deref_mut() else {
            return Sample::default();
        };
        if here == 0 {
            self.blocked = None;
            return Sample::default();
        }
        let sent = here + to.unacknowledged();
        blocked.sampled = sent + from.unread();
        // Frames and records make this inexact by a few thousand bytes.
        let taken = read.saturating_sub(sent as u64);
        let (began, before) = blocked.minute;
        let is_new = blocked.since.is_none();
        let is_over = now >= began.after(STALL);
        if is_new || is_over {
            blocked.minute = (now, taken);
        }
        blocked.since.get_or_insert(now);
        Sample {
            bytes: blocked.sampled,
            is_stalled: !is_new && is_over && taken.saturating_sub(before) < rate_min * u64::from(STALL.0),
        }
    }

    /// What waits for a receiver that has kept bytes waiting since `before` or earlier, as of the last sweep.
    pub(crate) fn waiting_since(&self, before: Seconds) -> usize {
        let blocked = self.blocked.as_deref();
        let blocked = blocked.filter(|blocked| blocked.since.is_some_and(|since| since <= before));
        blocked.map_or(0, |blocked| blocked.sampled)
    }

    /// Whether the sender's end has been read.
    pub(crate) fn has_ended(&self) -> bool {
        self.end != End::Open
    }

    /// Whether everything was sent, the sender's end included.
    pub(crate) fn has_passed_on_its_end(&self) -> bool {
        self.end == End::PassedOn
    }

    /// Why the receiver's connection takes no more bytes, if it failed.
    pub(crate) fn broken(&self) -> Option<Ended> {
        self.broken
    }

    /// Moves nothing more: the receiver's connection takes no more bytes, because of `cause`.
    pub(crate) fn set_broken(&mut self, cause: Ended) {
        self.broken = Some(cause);
    }

    /// Moves what can be moved now.
    pub(crate) fn turn(&mut self, from: &Socket, to: &Socket, tools: &mut Tools, cx: &mut Context<'_>) -> Turn {
        let mut budget = TURN_WORK_MAX;
        loop {
            match self.flush(to, &mut tools.pipes, cx) {
                Poll::Pending => return Turn::Waiting,
                Poll::Ready(Err(e)) => return Turn::WriteFailed(e),
                Poll::Ready(Ok(())) => {}
            }
            if self.has_ended() {
                // In TLS the end is a record, and may have to wait for room as well.
                to.prepare_end();
                return match to.poll_flush(cx) {
                    Poll::Pending => Turn::Waiting,
                    Poll::Ready(Err(e)) => Turn::WriteFailed(e),
                    Poll::Ready(Ok(())) => {
                        self.end = End::PassedOn;
                        Turn::Ended
                    }
                };
            }
            if budget == 0 {
                return Turn::Spent;
            }
            match self.step(from, to, tools, cx) {
                Poll::Pending => {
                    self.mode = self.mode.after_burst();
                    return Turn::Waiting;
                }
                Poll::Ready(Ok(0)) => {
                    self.end = End::Read;
                    if let Some(frame) = self.coding.close_after() {
                        self.queue(frame);
                    }
                }
                Poll::Ready(Ok(work)) => budget = budget.saturating_sub(work),
                Poll::Ready(Err(Failure::Read(e))) => return Turn::ReadFailed(e),
                Poll::Ready(Err(Failure::Write(e))) => return Turn::WriteFailed(e),
                Poll::Ready(Err(Failure::Fault(fault))) => return Turn::Fault(fault),
                Poll::Ready(Err(Failure::Flood)) => return Turn::Flood,
            }
        }
    }

    /// Transforms the bytes from now on.
    pub(crate) fn set_coding(&mut self, coding: Coding) {
        self.coding = coding;
    }

    /// Takes out the decoder of the sender's frames, if they are unwrapped.
    pub(crate) fn take_frames(&mut self) -> Option<Frames> {
        match std::mem::take(&mut self.coding) {
            Coding::Unframe(unframing) => Some(unframing.into_frames()),
            Coding::Untouched | Coding::Frame | Coding::Discard => None,
        }
    }

    /// Puts `more` behind what waits for the receiver, between two frames of the sender.
    pub(crate) fn queue(&mut self, more: Vec<u8>) {
        match self.backlog_mut() {
            Some(Backlog::Bytes { bytes, sent }) => {
                // Sent bytes are removed, or a backlog that is never empty would only grow.
                bytes.drain(..std::mem::take(sent));
                bytes.extend(more);
            }
            // Bytes that are put into frames are never spliced.
            Some(Backlog::Pipe { .. }) => debug_assert!(false, "frames are never spliced"),
            None | Some(Backlog::Nothing) => self.set_backlog(Backlog::Bytes { bytes: more, sent: 0 }),
        }
    }

    /// Sends `replies` behind what waits, as far as the receiver takes them now, and keeps the rest.
    pub(crate) fn reply(&mut self, replies: &[u8], receiver: &Socket) {
        let mut sent = 0;
        if self.is_at_rest() {
            // The next turn reports an error.
            while sent < replies.len()
                && let Ok(more @ 1..) = receiver.send_now(&replies[sent..])
            {
                sent += more;
            }
        }
        if sent < replies.len() {
            self.queue(replies[sent..].to_vec());
        }
    }

    /// Sends `last` behind what waits, as far as the receiver takes it now.
    pub(crate) fn send_last(&mut self, last: Vec<u8>, receiver: &Socket) {
        self.queue(last);
        if let Some(Backlog::Bytes { bytes, sent }) = self.backlog_mut() {
            // A receiver that has closed, or does not read, need not get it.
            while let Ok(more @ 1..) = receiver.send_now(&bytes[*sent..]) {
                *sent += more;
            }
        }
    }

    /// Whether the sender's frames are unwrapped for a receiver without WebSocket.
    pub(crate) fn unwraps_frames(&self) -> bool {
        matches!(self.coding, Coding::Unframe(_))
    }

    /// Whether the sender has sent a close frame, after which nothing more is read.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(&self.coding, Coding::Unframe(unframing) if unframing.is_closed())
    }

    /// Bytes that wait for the receiver here.
    pub(crate) fn waiting(&self) -> usize {
        match self.backlog() {
            None | Some(Backlog::Nothing) => 0,
            Some(Backlog::Bytes { bytes, sent }) => bytes.len() - sent,
            Some(Backlog::Pipe { filled, .. }) => *filled,
        }
    }

    /// Takes what is in a pipe out of it, so that all that waits is in memory. The direction goes on as before.
    ///
    /// # Errors
    /// The pipe could not be read: bytes are lost.
    pub(crate) fn empty_pipe(&mut self) -> io::Result<()> {
        let Some(backlog) = self.backlog_mut() else {
            return Ok(());
        };
        *backlog = match std::mem::replace(backlog, Backlog::Nothing) {
            Backlog::Pipe { pipe, filled } => Backlog::Bytes {
                bytes: pipe.into_bytes(filled)?,
                sent: 0,
            },
            other => other,
        };
        Ok(())
    }

    /// Whether bytes are in a pipe.
    #[cfg(test)]
    pub(crate) fn has_pipe(&self) -> bool {
        matches!(self.backlog(), Some(Backlog::Pipe { .. }))
    }

    /// The bytes that wait for the receiver here. Those in a pipe are not among them.
    pub(crate) fn unsent(&self) -> &[u8] {
        match self.backlog() {
            Some(Backlog::Bytes { bytes, sent }) => &bytes[*sent..],
            None | Some(Backlog::Nothing | Backlog::Pipe { .. }) => &[],
        }
    }

    /// The decoder of the sender's frames, if they are unwrapped.
    pub(crate) fn frames(&self) -> Option<&Frames> {
        match &self.coding {
            Coding::Unframe(unframing) => Some(unframing.frames()),
            Coding::Untouched | Coding::Frame | Coding::Discard => None,
        }
    }

    /// Takes out what was not sent yet, for a relay that goes on elsewhere.
    ///
    /// # Errors
    /// A pipe could not be read.
    pub(crate) fn take_unsent(&mut self) -> io::Result<Vec<u8>> {
        match self.blocked.take().map(|blocked| blocked.backlog) {
            None | Some(Backlog::Nothing) => Ok(Vec::new()),
            Some(Backlog::Bytes { mut bytes, sent }) => {
                bytes.drain(..sent);
                Ok(bytes)
            }
            Some(Backlog::Pipe { pipe, filled }) => pipe.into_bytes(filled),
        }
    }

    /// Reads once and sends what was read. Returns the work of it, which is 0 at the sender's end.
    fn step(
        &mut self,
        from: &Socket,
        to: &Socket,
        tools: &mut Tools,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        if self.mode.is_splice() {
            self.mode = self.mode.at(tools.now, self.bulk_at);
            if self.mode.is_splice()
                && let Some(pipe) = tools.pipes.lease()
            {
                return self.splice(from, to, pipe, tools, cx);
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
        self.moved.copied += read as u64;
        if !self.mode.is_splice() {
            let as_it_is = || self.coding.is_untouched() && from.is_plain() && to.is_plain();
            self.mode = self.mode.after_read(read, || tools.splice && as_it_is());
            if self.mode.is_splice() {
                self.bulk_at = tools.now;
            }
        }
        let coded = self.coding.code(scratch, read, &mut tools.replies);
        let coded = coded.map_err(Failure::Fault)?;
        if self.coding.is_flood(&coded, tools.now) {
            return Poll::Ready(Err(Failure::Flood));
        }
        let Coded { range, parts, closed } = coded;
        if closed {
            self.end = End::Read;
        }
        let mut bytes = &scratch[range];
        if !bytes.is_empty() {
            tools.ends_with_disconnect = Some(ends_with_disconnect(bytes));
        }
        while !bytes.is_empty() {
            match to.poll_send(cx, bytes) {
                Poll::Ready(sent) => bytes = &bytes[sent.map_err(Failure::Write)?..],
                Poll::Pending => {
                    self.set_backlog(Backlog::Bytes {
                        bytes: bytes.to_vec(),
                        sent: 0,
                    });
                    break;
                }
            }
        }
        let work = read + parts * PART_WORK + from.take_overhead() * TLS_BYTE_WORK;
        Poll::Ready(Ok(work))
    }

    fn splice(
        &mut self,
        from: &Socket,
        to: &Socket,
        pipe: Pipe,
        tools: &mut Tools,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Failure>> {
        let filled = match from.poll_splice_out(cx, pipe.write_end(), pipes::BYTES) {
            Poll::Ready(Ok(filled)) if filled > 0 => filled,
            Poll::Ready(Err(e)) if e.raw_os_error() == Some(EINVAL) => {
                // This socket cannot be spliced (for example, kernel TLS between two records): copy from here on.
                tools.pipes.give_back(pipe);
                self.mode = Mode::default();
                return scratch::with(|scratch| self.copy(from, to, scratch, tools, cx));
            }
            nothing => {
                tools.pipes.give_back(pipe);
                return nothing.map_err(Failure::Read);
            }
        };
        self.moved.spliced += filled as u64;
        tools.ends_with_disconnect = Some(false);
        self.bulk_at = tools.now;
        self.mode = self.mode.after_fill(filled);
        let mut left = filled;
        while left > 0 {
            match to.poll_splice_in(cx, pipe.read_end(), left) {
                Poll::Ready(Ok(sent)) => left -= sent,
                // The pipe still has bytes in it, so it is closed with the connection.
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Failure::Write(e))),
                Poll::Pending => {
                    self.set_backlog(Backlog::Pipe { pipe, filled: left });
                    return Poll::Ready(Ok(filled));
                }
            }
        }
        tools.pipes.give_back(pipe);
        Poll::Ready(Ok(filled))
    }

    fn flush(&mut self, to: &Socket, pipes: &mut Pipes, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(backlog) = self.backlog_mut() else {
            return to.poll_flush(cx);
        };
        match backlog {
            Backlog::Nothing => {}
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
        if let Backlog::Pipe { pipe, .. } = std::mem::replace(backlog, Backlog::Nothing) {
            pipes.give_back(pipe);
        }
        to.poll_flush(cx)
    }
}

/// `EINVAL`, as `io::Error` carries it.
const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();

/// What all directions of a worker share.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The pipes of this worker.
    pub pipes: Pipes,
    /// The time of this turn.
    pub now: Seconds,
    /// How long one direction may go on after the other has ended.
    pub linger: Seconds,
    /// Whether bulk may be spliced.
    pub splice: bool,
    /// The bytes that a client takes in a second at least, if it keeps some waiting.
    pub rate_min: u64,
    /// Replies to the sender of the direction that took its turn last.
    pub replies: Vec<u8>,
    /// Whether what was read last seems to end with a DISCONNECT; `None` if nothing was read.
    pub ends_with_disconnect: Option<bool>,
    /// Source ports towards the nodes.
    pub ports: Ports,
    /// What the log is to say of the relay that ends with this turn.
    pub details: Option<Details>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_receiver_has_got_makes_room_for_what_is_queued() {
        let mut flow = Flow::new(vec![1; 10], Moved::default(), false);
        for _ in 0..100 {
            flow.queue(vec![2; 10]);
            let Some(Backlog::Bytes { bytes, sent }) = flow.backlog_mut() else {
                panic!("bytes wait");
            };
            assert!(bytes.len() <= 20, "{} bytes are kept", bytes.len());
            *sent += 10;
        }
        assert_eq!(flow.waiting(), 10);
        assert_eq!(flow.take_unsent().expect("no pipe"), [2; 10]);
    }
}
