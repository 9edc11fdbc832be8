//! One end of the unix socket between the two processes: messages and descriptors in and out, and an end after which nothing arrives.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use crate::base::failpoint::{self, Place};
use crate::handover::conversation::Failure;
use crate::handover::messages::{Body, DESCRIPTORS_MAX, Refused};
use crate::handover::wire::{self, Message, Reader};

/// The most bytes that are read with one call.
const PIECE: usize = 64 << 10;

/// Room for the descriptors of one message.
const SPACE: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));

/// How long a refusal may wait for room in the socket.
const REFUSAL: Duration = Duration::from_secs(1);

/// Which process an end belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Giver,
    Taker,
}

impl Side {
    /// Only the giver sends descriptors.
    fn descriptors_max(self) -> usize {
        match self {
            Self::Giver => 0,
            Self::Taker => DESCRIPTORS_MAX,
        }
    }

    fn place(self, body: &Body) -> Place {
        match self {
            Self::Giver => Place::Give(body.name()),
            Self::Taker => Place::Take(body.name()),
        }
    }
}

/// A message of the other side.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) body: Body,
    /// As many as the message must have.
    pub(super) descriptors: Vec<OwnedFd>,
}

#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixStream,
    side: Side,
    reader: Reader<OwnedFd>,
    piece: Vec<u8>,
    /// A message was begun and not sent to its end: nothing can follow it.
    is_cut: bool,
}

impl Channel {
    /// # Errors
    /// The other process is of another user, and not root's.
    pub(super) fn new(socket: UnixStream, side: Side) -> Result<Self, Failure> {
        let user = socket.peer_cred()?.uid();
        if user != rustix::process::geteuid().as_raw() && user != 0 {
            return Err(Failure::Refusal(format!("the other process belongs to user {user}")));
        }
        Ok(Self {
            socket,
            side,
            reader: Reader::new(side.descriptors_max()),
            piece: vec![0; PIECE],
            is_cut: false,
        })
    }

    /// The other process, as this one's name space numbers it; `None` if it is in another one.
    pub(super) fn peer(&self) -> Option<u32> {
        let pid = self.socket.peer_cred().ok()?.pid()?;
        u32::try_from(pid).ok().filter(|pid| *pid > 0)
    }

    /// Sends a message. It is in the other side's queue as a whole when this returns, or never will be. After a failure, or if dropped
    /// before it returns, nothing more can be sent.
    ///
    /// # Errors
    /// The other side is gone, or the system fails.
    pub(super) async fn send(&mut self, body: Body, descriptors: &[OwnedFd], until: Instant) -> Result<(), Failure> {
        cut().await;
        let place = self.side.place(&body);
        failpoint::pass(place);
        let bytes = wire::write(body, descriptors.len()).map_err(|fault| Failure::System(io::Error::other(fault.0)))?;
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        if std::mem::replace(&mut self.is_cut, true) {
            return Err(Failure::Closed);
        }
        let writing = async {
            let mut sent = 0;
            while sent < bytes.len() {
                let attached: &[BorrowedFd<'_>] = if sent == 0 { &borrowed } else { &[] };
                let write = || send_some(&self.socket, &bytes[sent..], attached);
                sent += self.socket.async_io(Interest::WRITABLE, write).await?;
            }
            Ok::<(), Failure>(())
        };
        let written = timeout_at(until, writing).await;
        written.map_err(|_| Failure::TooLate("room in the socket"))??;
        self.is_cut = false;
        Ok(())
    }

    /// The next message of a kind that this program knows. Dropped before it returns, it has lost nothing.
    ///
    /// # Errors
    /// There will be none.
    pub(super) async fn receive(&mut self) -> Result<Received, Failure> {
        cut().await;
        loop {
            let length = self.reader.wanted().min(PIECE);
            let read = || receive_some(&self.socket, &mut self.piece[..length]);
            let (length, descriptors) = self.socket.async_io(Interest::READABLE, read).await?;
            if let Some(received) = self.take_in(length, descriptors)? {
                failpoint::pass(self.side.place(&received.body));
                return Ok(received);
            }
        }
    }

    /// Ends the conversation for both sides, at once: from here on, the other side can send nothing. Returns what it has sent before
    /// and was not received yet.
    pub(super) fn end(&mut self) -> Vec<Body> {
        let _ = shutdown(&self.socket, Shutdown::Both);
        let mut last = Vec::new();
        loop {
            let length = self.reader.wanted().min(PIECE);
            // It never blocks: behind what is in the queue is the end.
            let Ok((length, descriptors)) = receive_some(&self.socket, &mut self.piece[..length]) else {
                return last;
            };
            match self.take_in(length, descriptors) {
                Ok(received) => last.extend(received.map(|received| received.body)),
                Err(_) => return last,
            }
        }
    }

    /// Tells the other side why there is nothing more to say, if it listens.
    pub(super) async fn refuse(&mut self, failure: &Failure) {
        if matches!(failure, Failure::Closed | Failure::Refused(_)) {
            return;
        }
        let why = Refused {
            why: failure.to_string(),
        };
        let _ = self.send(Body::Refused(why), &[], Instant::now() + REFUSAL).await;
    }

    /// Why the conversation has really ended: a side that refuses says so and closes, and this one may have been writing meanwhile.
    pub(super) fn explain(&mut self, failure: Failure) -> Failure {
        if !matches!(failure, Failure::Closed) {
            return failure;
        }
        let refusal = self.end().into_iter().find_map(|body| match body {
            Body::Refused(refused) => Some(Failure::Refused(refused.why)),
            _ => None,
        });
        refusal.unwrap_or(failure)
    }

    /// Sends what a stranger would.
    #[cfg(test)]
    pub(super) fn write_raw(&self, bytes: &[u8]) {
        assert_eq!(self.socket.try_write(bytes).expect("room"), bytes.len());
    }

    /// Takes what one call has received. What this program does not know it skips.
    fn take_in(&mut self, length: usize, descriptors: Vec<OwnedFd>) -> Result<Option<Received>, Failure> {
        if length == 0 {
            return Err(Failure::Closed);
        }
        let added = self.reader.add(&self.piece[..length], descriptors);
        let message = added.map_err(|fault| Failure::Violation(fault.0))?;
        Ok(message.and_then(|Message { body, descriptors }| {
            Some(Received {
                body: body?,
                descriptors,
            })
        }))
    }
}

/// One call of the kernel: bytes, with descriptors.
fn send_some(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let pieces = [IoSlice::new(bytes)];
    let send = || sendmsg(socket, &pieces, &mut control, SendFlags::NOSIGNAL);
    Ok(retry_on_intr(send)?)
}

/// One call of the kernel: the number of bytes, which is 0 at the end, and descriptors. They are closed in programs that this one
/// starts.
fn receive_some(socket: &UnixStream, piece: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut pieces = [IoSliceMut::new(piece)];
    let receive = || recvmsg(socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC);
    let received = retry_on_intr(receive)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // The kernel had descriptors that this process may not open: there is room here for all that one message can have.
        return Err(rustix::io::Errno::MFILE.into());
    }
    Ok((received.bytes, descriptors))
}

/// Lets a test stop this side before each message.
async fn cut() {
    #[cfg(test)]
    tokio::task::yield_now().await;
}
