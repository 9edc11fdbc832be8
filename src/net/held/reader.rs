//! Reads from a client that is not routed yet, and counts the bytes that are kept. What the bytes mean, the deadline, and the client's
//! eviction, are left to the caller.

use std::io;
use std::task::{Context, Poll};

use super::{HeldBytesFull, Reservation};
use crate::base::scratch;
use crate::net::socket::Socket;

/// Reads a client's socket and counts the kept bytes in its reservation.
///
/// Each poll does three things, in this order:
///
/// 1. The socket is read into the thread's buffer, so that a client that sends nothing owns no buffer.
/// 2. The bytes read are handed to the caller, which returns how many more it keeps now; those are counted. The sealed bytes that
///    they came from are released first, since they would count twice otherwise.
/// 3. If nothing was read, the bytes of an incomplete TLS record are counted.
#[derive(Debug)]
pub(crate) struct HeldReader<'a> {
    socket: &'a Socket,
    reservation: &'a mut Reservation,
}

/// Why reading ended.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The client was evicted.
    HeldBytesFull,
    /// The socket failed.
    Socket(io::Error),
}

impl From<HeldBytesFull> for ReadError {
    fn from(_: HeldBytesFull) -> Self {
        Self::HeldBytesFull
    }
}

impl<'a> HeldReader<'a> {
    pub(crate) fn new(socket: &'a Socket, reservation: &'a mut Reservation) -> Self {
        Self { socket, reservation }
    }

    /// Waits for bytes and hands them to `keep`, which returns how many more it keeps now. Returns how many were read; 0 is the
    /// end of the stream. Cancel safe.
    ///
    /// # Errors
    /// A [`ReadError`], or an error of `keep`.
    pub(crate) async fn read<E: From<ReadError>>(
        mut self,
        mut keep: impl FnMut(&[u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        std::future::poll_fn(|cx| self.poll_read(cx, usize::MAX, &mut keep)).await
    }

    /// Like [`HeldReader::read`], for up to `bytes_max` bytes, which must not be 0.
    pub(crate) fn poll_read<E: From<ReadError>>(
        &mut self,
        cx: &mut Context<'_>,
        bytes_max: usize,
        keep: impl FnOnce(&[u8]) -> Result<usize, E>,
    ) -> Poll<Result<usize, E>> {
        scratch::with(|scratch| {
            let room = bytes_max.min(scratch.len());
            self.poll_read_into(cx, &mut scratch[..room], keep)
        })
    }

    /// Like [`HeldReader::poll_read`], into a buffer of the caller, which must not be empty.
    pub(crate) fn poll_read_into<E: From<ReadError>>(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        keep: impl FnOnce(&[u8]) -> Result<usize, E>,
    ) -> Poll<Result<usize, E>> {
        debug_assert!(
            !buffer.is_empty(),
            "an empty read would be taken for the end of the stream"
        );
        match self.socket.poll_recv(cx, buffer) {
            // A client that has closed needs no more room, so none is counted.
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(0)),
            Poll::Ready(Ok(read)) => {
                let kept = keep(&buffer[..read])?;
                self.reservation.uncover(self.socket.sealed());
                self.reservation.grow(kept).map_err(ReadError::from)?;
                Poll::Ready(Ok(read))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(ReadError::Socket(error).into())),
            Poll::Pending => {
                self.reservation.cover(self.socket.sealed()).map_err(ReadError::from)?;
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;
    use crate::net::held::{HeldBytes, Limits, counted};
    use crate::net::socket::{pair, secured_pair};

    /// Reads once and keeps all of it. A wait that does not end fails the test.
    async fn read(socket: &Socket, reservation: &mut Reservation) -> Result<usize, ReadError> {
        let read = HeldReader::new(socket, reservation).read(|bytes| Ok(bytes.len()));
        let read = tokio::time::timeout(Duration::from_secs(5), read);
        read.await.expect("a read that ends")
    }

    /// Reads this many bytes, however they are split.
    async fn read_all(socket: &Socket, reservation: &mut Reservation, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            left -= read(socket, reservation).await.expect("what was sent");
        }
    }

    /// Lets other tasks run until this many bytes are held.
    async fn until_held(held: &HeldBytes, bytes: usize) {
        let held = async {
            while held.bytes() < bytes {
                tokio::task::yield_now().await;
            }
        };
        let held = tokio::time::timeout(Duration::from_secs(5), held);
        held.await.expect("so many are held");
    }

    fn is_full(read: &Result<usize, ReadError>) -> bool {
        matches!(read, Err(ReadError::HeldBytesFull))
    }

    #[tokio::test]
    async fn what_is_kept_counts_and_comes_back_when_dropped() {
        let held = HeldBytes::new(Limits::of_bytes(1 << 20));
        let (mut wire, socket) = pair();
        let mut reservation = held.reservation(Instant::now());
        wire.write_all(&[7; 5_000]).expect("sent");
        read_all(&socket, &mut reservation, 5_000).await;
        assert_eq!(held.bytes(), 5_000);
        // The caller decides how much it keeps: six for three bytes read.
        wire.write_all(b"abc").expect("sent");
        let mut came = Vec::new();
        let read_twice = HeldReader::new(&socket, &mut reservation).read(|bytes| {
            came.extend_from_slice(bytes);
            Ok::<_, ReadError>(2 * bytes.len())
        });
        assert_eq!(read_twice.await.expect("what was sent"), 3);
        assert_eq!(came, b"abc");
        assert_eq!(held.bytes(), 5_006);
        // Bytes that the caller refuses are not counted.
        wire.write_all(b"no").expect("sent");
        let refused = HeldReader::new(&socket, &mut reservation);
        let refused = refused.read(|_| Err(ReadError::Socket(io::ErrorKind::Other.into())));
        assert!(matches!(refused.await, Err(ReadError::Socket(_))));
        drop(wire);
        assert_eq!(read(&socket, &mut reservation).await.expect("its end"), 0);
        assert_eq!(held.bytes(), 5_006);
        drop(reservation);
        assert_eq!(held.bytes(), 0);
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_caller_has_room_for() {
        let held = HeldBytes::new(Limits::of_bytes(1 << 20));
        let (mut wire, socket) = pair();
        let mut reservation = held.reservation(Instant::now());
        wire.write_all(&[7; 100]).expect("sent");
        let read = std::future::poll_fn(|cx| {
            let mut reader = HeldReader::new(&socket, &mut reservation);
            reader.poll_read(cx, 10, |bytes| Ok::<_, ReadError>(bytes.len()))
        });
        assert_eq!(read.await.expect("what was sent"), 10);
        assert_eq!(held.bytes(), 10);
    }

    #[tokio::test]
    async fn what_tls_keeps_of_a_record_counts_until_it_comes_out() {
        const RECORD_BYTES: usize = 16_384;
        const PART: usize = 12_000;
        let held = HeldBytes::new(Limits::of_bytes(1 << 20));
        let (mut client, mut wire, socket) = secured_pair();
        let mut reservation = held.reservation(Instant::now());
        let mut record = Vec::new();
        client.writer().write_all(&[7; RECORD_BYTES]).expect("taken");
        client.write_tls(&mut record).expect("a record");
        let (begin, end) = record.split_at(PART);
        wire.write_all(begin).expect("sent");
        let rest = async {
            until_held(&held, PART).await;
            assert_eq!(held.bytes(), PART);
            wire.write_all(end).expect("sent");
        };
        tokio::join!(read_all(&socket, &mut reservation, RECORD_BYTES), rest);
        // The sealed bytes no longer count beside the plaintext.
        assert_eq!(held.bytes(), RECORD_BYTES + counted(socket.sealed()));
        assert!(socket.sealed() < PART);
        drop(reservation);
        assert_eq!(held.bytes(), 0);
    }

    #[tokio::test]
    async fn one_that_was_evicted_reads_no_more() {
        let held = HeldBytes::new(Limits::of_bytes(20_000));
        let (mut wire, socket) = pair();
        let (mut oldest, mut other) = (held.reservation(Instant::now()), held.reservation(Instant::now()));
        wire.write_all(&[7; 12_000]).expect("sent");
        read_all(&socket, &mut oldest, 12_000).await;
        other.grow(9_000).expect("the oldest is evicted instead");
        wire.write_all(b"more").expect("sent");
        assert!(is_full(&read(&socket, &mut oldest).await));
        drop(oldest);
        assert_eq!(held.bytes(), 9_000);
    }

    #[tokio::test]
    async fn one_that_is_alone_reads_no_more_than_there_is_room_for() {
        let held = HeldBytes::new(Limits::of_bytes(10_000));
        let (mut wire, socket) = pair();
        let mut reservation = held.reservation(Instant::now());
        wire.write_all(&[7; 8_000]).expect("sent");
        read_all(&socket, &mut reservation, 8_000).await;
        wire.write_all(&[7; 2_001]).expect("sent");
        let mut last = Ok(0);
        while last.is_ok() {
            last = read(&socket, &mut reservation).await;
        }
        assert!(is_full(&last), "{last:?}");
        drop(reservation);
        assert_eq!(held.bytes(), 0);
    }
}
