//! A client in its handshake: how much it may say, and on whose account rustls holds it.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::held::{Held, HeldBytesFull, SMALL_BYTES, Share};
use crate::socket::Socket;

/// Bytes of a ClientHello at most, and of what comes behind it at once. Browsers send 2 KiB; a ticket with a chain of
/// certificates in it makes some more. rustls would hold 64 KiB, for thousands of clients at once of which nothing is known.
const HELLO_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a whole handshake at most, and of what comes behind it at once: a second ClientHello, and a chain of certificates
/// of the 64 KiB that rustls allows, fit as well.
const HANDSHAKE_BYTES_MAX: usize = 128 * 1024;

/// A client that is shaking hands, as the handshake reads and writes it.
///
/// rustls keeps a message until it is whole, and parts of the handshake beyond that: how much of it cannot be seen from here,
/// but it is never more than came. So all that came counts as held, until the handshake is over.
pub struct Newcomer<'a> {
    client: Socket,
    held: &'a Arc<Held>,
    /// Bytes that it has said, and that it may say.
    said: usize,
    said_max: usize,
    /// How many of them the last read brought.
    last: usize,
    /// It was read, and the handshake has not had a look at what came.
    is_read: bool,
    /// None for a client of few words, which is nearly every one: they fit into what rustls reads with in any case.
    charge: Option<Charge>,
}

/// What a client of many words holds.
struct Charge {
    share: Share,
    /// Resolves when it must go.
    told: Pin<Box<dyn Future<Output = ()>>>,
}

/// Why a newcomer is not heard out. It is the kind of its error: tokio-rustls hands that on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unheard {
    /// It says too much.
    TooMuch,
    /// All held bytes are in use, and it holds the most.
    HeldBytesFull,
}

impl Unheard {
    /// What an error of the handshake says of it; none for an error of another cause.
    pub fn of(error: &io::Error) -> Option<Self> {
        // Neither is any kind that a socket has.
        match error.kind() {
            io::ErrorKind::FileTooLarge => Some(Self::TooMuch),
            io::ErrorKind::QuotaExceeded => Some(Self::HeldBytesFull),
            _ => None,
        }
    }
}

impl From<HeldBytesFull> for Unheard {
    fn from(_: HeldBytesFull) -> Self {
        Self::HeldBytesFull
    }
}

impl From<Unheard> for io::Error {
    fn from(unheard: Unheard) -> Self {
        let (kind, why) = match unheard {
            Unheard::TooMuch => (io::ErrorKind::FileTooLarge, "too long a handshake"),
            Unheard::HeldBytesFull => (io::ErrorKind::QuotaExceeded, "all held bytes are in use"),
        };
        io::Error::new(kind, why)
    }
}

impl<'a> Newcomer<'a> {
    /// A client that has said nothing yet, and begins with a ClientHello.
    pub fn new(client: Socket, held: &'a Arc<Held>) -> Self {
        Self {
            client,
            held,
            said: 0,
            said_max: HELLO_BYTES_MAX,
            last: 0,
            is_read: false,
            charge: None,
        }
    }

    /// The same, the ClientHello of which is over.
    #[must_use]
    pub fn after_hello(self) -> Self {
        Self {
            said_max: HANDSHAKE_BYTES_MAX,
            is_read: false,
            ..self
        }
    }

    /// Whether a byte of it has come.
    pub fn has_spoken(&self) -> bool {
        self.said > 0
    }

    /// Its socket. What it held is given back.
    pub fn into_client(self) -> Socket {
        self.client
    }

    /// Its socket, with this TLS, the handshake of which is over. It was over with the last read: of nothing else can something
    /// be left.
    pub fn secured(self, connection: ServerConnection) -> Socket {
        self.client.secured(connection.into(), self.last)
    }

    /// Whether it may stay; if it may, it is woken when it no longer does.
    fn poll_told(&mut self, cx: &mut Context<'_>) -> Result<(), Unheard> {
        let Some(charge) = &mut self.charge else {
            return Ok(());
        };
        match charge.told.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => {
                // Told once and never asked again: the handshake ends with the error.
                self.charge = None;
                Err(Unheard::HeldBytesFull)
            }
        }
    }

    /// Counts what came.
    fn hear(&mut self, read: usize) -> Result<(), Unheard> {
        if read == 0 {
            // Whoever leaves takes nothing, and nobody has to go for it.
            return Ok(());
        }
        self.said += read;
        self.last = read;
        self.is_read = true;
        if self.said > self.said_max {
            return Err(Unheard::TooMuch);
        }
        match &mut self.charge {
            None if self.said <= SMALL_BYTES => {}
            None => {
                let mut share = self.held.share();
                share.grow(self.said)?;
                let eviction = share.eviction();
                let told = Box::pin(async move { eviction.told().await });
                self.charge = Some(Charge { share, told });
            }
            Some(charge) => charge.share.grow(read)?,
        }
        Ok(())
    }
}

impl fmt::Debug for Newcomer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Newcomer")
            .field("said", &self.said)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for Newcomer<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_told(cx)?;
        if std::mem::take(&mut self.is_read) {
            // One read at a time: tokio-rustls would read on behind the handshake as far as anything is there, and nobody could
            // say how much of it is left.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let read = ready!(self.client.poll_recv(cx, buffer.initialize_unfilled()))?;
        buffer.advance(read);
        Poll::Ready(self.hear(read).map_err(Into::into))
    }
}

impl AsyncWrite for Newcomer<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        // Nothing is read of a client that does not take what it is told.
        self.poll_told(cx)?;
        Pin::new(&mut self.client).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_told(cx)?;
        Pin::new(&mut self.client).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.client.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

    use super::*;
    use crate::socket::pair;

    /// Lets the client say so many bytes more, and reads them.
    async fn say(
        wire: &mut TcpStream,
        newcomer: &mut Newcomer<'_>,
        bytes: usize,
    ) -> Result<(), Unheard> {
        wire.write_all(&vec![7; bytes]).expect("room for them");
        let mut buffer = vec![0; bytes];
        let read = tokio::time::timeout(Duration::from_secs(5), newcomer.read_exact(&mut buffer));
        match read.await.expect("it is on its way") {
            Ok(_) => Ok(()),
            Err(error) => Err(Unheard::of(&error).expect("not the socket's")),
        }
    }

    #[tokio::test]
    async fn few_words_are_free_and_many_are_charged_from_the_first_until_the_end() {
        let held = Held::new(1 << 20);
        let (mut wire, socket) = pair();
        let mut newcomer = Newcomer::new(socket, &held);
        say(&mut wire, &mut newcomer, SMALL_BYTES)
            .await
            .expect("few");
        assert_eq!(held.bytes(), 0);
        say(&mut wire, &mut newcomer, 1).await.expect("room");
        assert_eq!(held.bytes(), SMALL_BYTES + 1);
        let mut newcomer = newcomer.after_hello();
        say(&mut wire, &mut newcomer, 20_000).await.expect("room");
        assert_eq!(held.bytes(), SMALL_BYTES + 20_001);
        let _client = newcomer.into_client();
        assert_eq!(held.bytes(), 0);
    }

    #[tokio::test]
    async fn a_hello_has_an_end_and_so_has_a_handshake() {
        let held = Held::new(1 << 20);
        for (before, more, is_over) in [
            (HELLO_BYTES_MAX - 1, 1, false),
            (HELLO_BYTES_MAX, 1, false),
            (1_000, HANDSHAKE_BYTES_MAX - 1_000, true),
            (1_000, HANDSHAKE_BYTES_MAX - 999, true),
        ] {
            let (mut wire, socket) = pair();
            let mut newcomer = Newcomer::new(socket, &held);
            say(&mut wire, &mut newcomer, before)
                .await
                .expect("a hello");
            if is_over {
                newcomer = newcomer.after_hello();
            }
            // In pieces for which the kernel has room.
            let mut heard = Ok(());
            for at in (0..more).step_by(8_192) {
                heard = say(&mut wire, &mut newcomer, (more - at).min(8_192)).await;
            }
            let expected = match before + more {
                HELLO_BYTES_MAX | HANDSHAKE_BYTES_MAX => Ok(()),
                _ => Err(Unheard::TooMuch),
            };
            assert_eq!(heard, expected, "{before} and {more}");
            drop(newcomer);
            assert_eq!(held.bytes(), 0);
        }
    }

    #[tokio::test]
    async fn who_leaves_a_full_account_makes_nobody_go() {
        let held = Held::new(20_000);
        let ((mut wire, socket), (mut other_wire, other)) = (pair(), pair());
        let mut largest = Newcomer::new(socket, &held);
        let mut leaves = Newcomer::new(other, &held);
        say(&mut wire, &mut largest, 12_000).await.expect("room");
        say(&mut other_wire, &mut leaves, 8_000)
            .await
            .expect("room");
        // A reload leaves less.
        held.set_bytes_max(10_000);
        drop(other_wire);
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(5), leaves.read(&mut byte));
        let read = read.await.expect("its end is on its way");
        assert_eq!(read.expect("no fault of it"), 0);
        drop(leaves);
        let stays = std::future::poll_fn(|cx| {
            Poll::Ready(Pin::new(&mut largest).poll_write(cx, b"a word"))
        });
        assert!(matches!(stays.await, Poll::Ready(Ok(6))), "it had to go");
    }

    #[tokio::test]
    async fn the_largest_goes_whether_it_speaks_or_not() {
        let held = Held::new(20_000);
        let ((mut wire, socket), (mut other_wire, other)) = (pair(), pair());
        let mut largest = Newcomer::new(socket, &held);
        let mut other = Newcomer::new(other, &held);
        say(&mut wire, &mut largest, 12_000).await.expect("room");
        let mut byte = [0];
        let silent = largest.read(&mut byte);
        let speaks = say(&mut other_wire, &mut other, 9_000);
        let (silent, speaks) =
            tokio::join!(tokio::time::timeout(Duration::from_secs(5), silent), speaks);
        speaks.expect("the largest goes instead");
        let error = silent.expect("it was told").expect_err("that it must go");
        assert_eq!(Unheard::of(&error), Some(Unheard::HeldBytesFull));
        assert_eq!(held.bytes(), 9_000);
        // Now this one is the largest itself.
        let mut other = other.after_hello();
        let more = say(&mut other_wire, &mut other, 12_000).await;
        assert_eq!(more, Err(Unheard::HeldBytesFull));
        drop(other);
        assert_eq!(held.bytes(), 0);
    }
}
