//! The connection that a TLS handshake reads and writes: bounds how much a client may send in it, and counts it.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{PeerMisbehaved, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client_hello::{Facts, Scan, Scanner};
use super::flight::Flight;
use crate::net::held::{HeldReader, ReadError, Reservation, counted};
use crate::net::socket::Socket;

/// The most bytes of a ClientHello, and of what comes with it at once. Browsers send 2 KiB; a ticket that contains a chain of
/// certificates adds some more. rustls would hold 64 KiB, for thousands of clients at once of which nothing is known.
const HELLO_BYTES_MAX: usize = 16 * 1024;

/// The most bytes of a whole handshake, and of what comes with it at once: room for a second ClientHello, and for a chain of
/// certificates of the 64 KiB that rustls allows.
const HANDSHAKE_BYTES_MAX: usize = 128 * 1024;

/// A client in its TLS handshake, as tokio-rustls reads and writes it.
///
/// rustls keeps a message until it is complete, and parts of the handshake beyond that: how much cannot be seen from here,
/// but never more than was received. So all that was received counts as held until the handshake is over, but for a client
/// that sends little, as nearly every one does (see [`counted`]).
pub(crate) struct HandshakeIo {
    client: Socket,
    reservation: Reservation,
    received: usize,
    received_max: usize,
    /// Bytes of the last read.
    last_read: usize,
    /// The handshake has not processed the last read yet.
    is_unprocessed: bool,
    hello: Hello,
    /// What the first ClientHello says.
    facts: Facts,
    has_hidden_name: bool,
    to_client: ToClient,
}

/// What is sent to the client.
#[derive(Debug)]
enum ToClient {
    /// Everything as it is.
    AsIs,
    /// The messages of the handshake in records of their own, of which some were not sent yet.
    InFlight(Flight, Vec<u8>),
}

/// The client's ClientHello, which is passed on once it is whole.
#[derive(Debug)]
enum Hello {
    /// What has come of it.
    Receiving(Vec<u8>, Scanner),
    /// What of it, and of what came with it, was not passed on yet, last byte first.
    Received(Vec<u8>),
}

/// A limit that a handshake exceeded. It travels as the kind of an [`io::Error`], which tokio-rustls passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitExceeded {
    /// The client sent too much.
    HandshakeBytes,
    /// All held bytes are in use, and this client was evicted.
    HeldBytes,
}

impl LimitExceeded {
    /// The limit that `error` is about, if it is about one.
    pub(crate) fn of(error: &io::Error) -> Option<Self> {
        // No socket fails with either kind.
        match error.kind() {
            io::ErrorKind::FileTooLarge => Some(Self::HandshakeBytes),
            io::ErrorKind::QuotaExceeded => Some(Self::HeldBytes),
            _ => None,
        }
    }
}

impl From<LimitExceeded> for io::Error {
    fn from(limit: LimitExceeded) -> Self {
        let (kind, why) = match limit {
            LimitExceeded::HandshakeBytes => (io::ErrorKind::FileTooLarge, "handshake too long"),
            LimitExceeded::HeldBytes => (io::ErrorKind::QuotaExceeded, "all held bytes are in use"),
        };
        io::Error::new(kind, why)
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::HeldBytesFull => LimitExceeded::HeldBytes.into(),
            ReadError::Socket(error) => error,
        }
    }
}

impl HandshakeIo {
    /// A client that begins with a ClientHello, of which nothing was read yet.
    pub(crate) fn new(client: Socket, reservation: Reservation) -> Self {
        Self {
            client,
            reservation,
            received: 0,
            received_max: HELLO_BYTES_MAX,
            last_read: 0,
            is_unprocessed: false,
            hello: Hello::Receiving(Vec::new(), Scanner::default()),
            facts: Facts::default(),
            has_hidden_name: false,
            to_client: ToClient::AsIs,
        }
    }

    /// The same client after its ClientHello, to which records with so many bytes of content at most are sent, if it or its listener wants
    /// small ones. Where a name was hidden in that, a second one is looked for, in which it is hidden too.
    #[must_use]
    pub(crate) fn after_hello(self, record_max: Option<usize>) -> Self {
        let hello = match self.hello {
            // What came with the first is of no client that waits for an answer to it, as all do that send a second.
            Hello::Received(queued) if self.has_hidden_name && queued.is_empty() => {
                Hello::Receiving(Vec::new(), Scanner::of_second())
            }
            other => other,
        };
        Self {
            received_max: HANDSHAKE_BYTES_MAX,
            is_unprocessed: false,
            hello,
            to_client: record_max.map_or(ToClient::AsIs, |bytes| {
                ToClient::InFlight(Flight::new(bytes), Vec::new())
            }),
            ..self
        }
    }

    /// The most bytes of content in a record that the client can take, if it says so.
    pub(crate) fn record_max(&self) -> Option<usize> {
        self.facts.record_max
    }

    /// Whether its ClientHello has a server name that was hidden.
    pub(crate) fn has_hidden_name(&self) -> bool {
        self.has_hidden_name
    }

    /// Whether a byte was received.
    pub(crate) fn has_spoken(&self) -> bool {
        self.received > 0
    }

    /// Waits until the client has gone; how that ends its handshake. One that has sent more is not watched any longer.
    pub(crate) async fn gone(&self) -> io::Error {
        match self.client.peek_more(&mut Vec::new(), 1).await {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => std::future::pending().await,
            Err(error) => error,
        }
    }

    /// Receives from the socket, within the limits.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self {
            client,
            reservation,
            received,
            received_max,
            ..
        } = self;
        HeldReader::new(client, reservation).poll_read_into(cx, buffer, |bytes| {
            let before = *received;
            *received += bytes.len();
            match *received > *received_max {
                true => Err(io::Error::from(LimitExceeded::HandshakeBytes)),
                false => Ok(counted(*received) - counted(before)),
            }
        })
    }

    /// Takes note of what was received. `Some(true)` if it can be passed on as it is now in `bytes`, `Some(false)` if it is queued to be
    /// passed on, `None` if more must come before.
    ///
    /// # Errors
    /// A second ClientHello has the type as which a name was hidden in the first: its hash would be that of another one.
    fn take_hello(&mut self, bytes: &mut [u8]) -> io::Result<Option<bool>> {
        let Hello::Receiving(before, scanner) = &mut self.hello else {
            return Ok(Some(true));
        };
        // In nearly every case the whole of it comes at once, and nothing is copied.
        let is_first = before.is_empty();
        if !is_first {
            before.extend_from_slice(bytes);
        }
        let all = if is_first { &mut *bytes } else { &mut before[..] };
        let facts = match scanner.scan(all) {
            Scan::Incomplete => {
                if is_first {
                    before.extend_from_slice(bytes);
                }
                return Ok(None);
            }
            Scan::Complete(facts) => facts,
            Scan::Unreadable => Facts::default(),
        };
        let is_second = scanner.is_of_second();
        if is_second && facts.is_type_taken {
            let error = rustls::Error::from(PeerMisbehaved::ServerNameDifferedOnRetry);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        let is_hidden = facts.hide_name(all);
        let mut queued = std::mem::take(before);
        queued.reverse();
        self.hello = Hello::Received(queued);
        if !is_second {
            (self.facts, self.has_hidden_name) = (facts, is_hidden);
        }
        Ok(Some(is_first))
    }

    /// Sends what waits for that.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ToClient::InFlight(flight, unsent) = &mut self.to_client else {
            return Poll::Ready(Ok(()));
        };
        while !unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.client).poll_write(cx, unsent))?;
            unsent.drain(..sent);
        }
        if flight.is_over() {
            self.to_client = ToClient::AsIs;
        }
        Poll::Ready(Ok(()))
    }

    /// The client's socket. What was held is given back.
    pub(crate) fn into_client(self) -> Socket {
        self.client
    }

    /// The client's socket with the TLS of its completed handshake. The last read completed it, so nothing of an earlier one
    /// can be left in TLS.
    pub(crate) fn secured(self, connection: ServerConnection) -> Socket {
        self.client.secured(connection.into(), self.last_read)
    }
}

impl fmt::Debug for HandshakeIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandshakeIo")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for HandshakeIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.is_unprocessed) {
            // One read at a time: tokio-rustls would read on after the handshake while there is anything to read, and nobody
            // could tell how much of it is left in TLS.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // tokio-rustls asks only once for what could not be sent then.
        if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
            return Poll::Ready(Err(error));
        }
        let read = loop {
            let buffer_left = buffer.initialize_unfilled();
            if let Hello::Received(queued) = &mut self.hello
                && !queued.is_empty()
            {
                let count = buffer_left.len().min(queued.len());
                let queued_left = queued.len() - count;
                let passed = queued.drain(queued_left..).rev();
                buffer_left.iter_mut().zip(passed).for_each(|(to, byte)| *to = byte);
                if queued_left == 0 {
                    *queued = Vec::new();
                }
                break count;
            }
            let read = ready!(self.poll_receive(cx, buffer_left))?;
            match self.take_hello(&mut buffer_left[..read])? {
                // All of it is in the buffer.
                Some(true) => break read,
                Some(false) => {}
                None if read == 0 => break 0,
                None => {}
            }
        };
        buffer.advance(read);
        if read > 0 {
            self.last_read = read;
            self.is_unprocessed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HandshakeIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let ToClient::InFlight(flight, unsent) = &mut self.to_client else {
            return Pin::new(&mut self.client).poll_write(cx, bytes);
        };
        flight.push(bytes, unsent);
        // What cannot be sent now is sent before anything else is, and before more is received.
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let ToClient::AsIs = self.to_client {
            return Pin::new(&mut self.client).poll_write_vectored(cx, parts);
        }
        let part = parts.iter().find(|part| !part.is_empty());
        self.poll_write(cx, part.map_or(&[], |part| part))
    }

    fn is_write_vectored(&self) -> bool {
        self.client.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.client).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.client).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpStream;
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::time::Instant;

    use super::*;
    use crate::net::held::{HeldBytes, Limits, TLS_READ_BYTES};
    use crate::net::socket::pair;

    /// Lets the client send so many bytes more, and reads them.
    async fn send(wire: &mut TcpStream, handshake_io: &mut HandshakeIo, bytes: usize) -> Result<(), LimitExceeded> {
        wire.write_all(&vec![7; bytes]).expect("room for them");
        let mut buffer = vec![0; bytes];
        let read = tokio::time::timeout(Duration::from_secs(5), handshake_io.read_exact(&mut buffer));
        match read.await.expect("it is on its way") {
            Ok(_) => Ok(()),
            Err(error) => Err(LimitExceeded::of(&error).expect("a limit")),
        }
    }

    #[tokio::test]
    async fn a_short_handshake_is_not_counted_and_a_long_one_is_from_its_first_byte_until_its_end() {
        let held = HeldBytes::new(Limits::of_bytes(1 << 20));
        let (mut wire, socket) = pair();
        let mut handshake_io = HandshakeIo::new(socket, held.reservation(Instant::now()));
        send(&mut wire, &mut handshake_io, TLS_READ_BYTES)
            .await
            .expect("little");
        assert_eq!(held.bytes(), 0);
        send(&mut wire, &mut handshake_io, 1).await.expect("room");
        assert_eq!(held.bytes(), TLS_READ_BYTES + 1);
        let mut handshake_io = handshake_io.after_hello(None);
        send(&mut wire, &mut handshake_io, 20_000).await.expect("room");
        assert_eq!(held.bytes(), TLS_READ_BYTES + 20_001);
        let _client = handshake_io.into_client();
        assert_eq!(held.bytes(), 0);
    }

    #[tokio::test]
    async fn a_client_hello_is_bounded_and_so_is_a_handshake() {
        let held = HeldBytes::new(Limits::of_bytes(1 << 20));
        for (before, more, is_over) in [
            (HELLO_BYTES_MAX - 1, 1, false),
            (HELLO_BYTES_MAX, 1, false),
            (1_000, HANDSHAKE_BYTES_MAX - 1_000, true),
            (1_000, HANDSHAKE_BYTES_MAX - 999, true),
        ] {
            let (mut wire, socket) = pair();
            let mut handshake_io = HandshakeIo::new(socket, held.reservation(Instant::now()));
            send(&mut wire, &mut handshake_io, before).await.expect("a hello");
            if is_over {
                handshake_io = handshake_io.after_hello(None);
            }
            // In pieces for which the kernel has room.
            let mut sent = Ok(());
            for at in (0..more).step_by(8_192) {
                sent = send(&mut wire, &mut handshake_io, (more - at).min(8_192)).await;
            }
            let expected = match before + more {
                HELLO_BYTES_MAX | HANDSHAKE_BYTES_MAX => Ok(()),
                _ => Err(LimitExceeded::HandshakeBytes),
            };
            assert_eq!(sent, expected, "{before} and {more}");
            drop(handshake_io);
            assert_eq!(held.bytes(), 0);
        }
    }

    #[tokio::test]
    async fn a_client_that_closes_evicts_nobody_from_a_full_account() {
        let held = HeldBytes::new(Limits::of_bytes(20_000));
        let ((mut wire, socket), (mut other_wire, other)) = (pair(), pair());
        let oldest = held.reservation(Instant::now());
        let eviction = oldest.eviction();
        let mut oldest = HandshakeIo::new(socket, oldest);
        let mut closing = HandshakeIo::new(other, held.reservation(Instant::now()));
        send(&mut wire, &mut oldest, 9_000).await.expect("room");
        send(&mut other_wire, &mut closing, 8_000).await.expect("room");
        // A reload leaves less.
        held.set_limits(Limits::of_bytes(10_000));
        drop(other_wire);
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(5), closing.read(&mut byte));
        let read = read.await.expect("its end is on its way");
        assert_eq!(read.expect("no fault of it"), 0);
        drop(closing);
        let is_evicted = std::future::poll_fn(|cx| Poll::Ready(eviction.poll(cx).is_ready()));
        assert!(!is_evicted.await);
    }

    #[tokio::test]
    async fn one_that_is_evicted_gets_no_further() {
        let held = HeldBytes::new(Limits::of_bytes(20_000));
        let ((mut wire, socket), (mut other_wire, other)) = (pair(), pair());
        let mut oldest = HandshakeIo::new(socket, held.reservation(Instant::now()));
        let mut other = HandshakeIo::new(other, held.reservation(Instant::now()));
        send(&mut wire, &mut oldest, 12_000).await.expect("room");
        send(&mut other_wire, &mut other, 9_000)
            .await
            .expect("the oldest is evicted instead");
        let more = send(&mut wire, &mut oldest, 1).await;
        assert_eq!(more, Err(LimitExceeded::HeldBytes));
        // What it held is given back with the rest of its handshake.
        drop(oldest);
        assert_eq!(held.bytes(), 9_000);
        // Now this one is the oldest itself.
        let mut other = other.after_hello(None);
        let more = send(&mut other_wire, &mut other, 12_000).await;
        assert_eq!(more, Err(LimitExceeded::HeldBytes));
        drop(other);
        assert_eq!(held.bytes(), 0);
    }
}
