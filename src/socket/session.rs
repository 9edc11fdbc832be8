//! TLS on one socket, once its handshake is over: records in and out, with no buffer at rest but rustls' own.

use std::io::{self, Read, Write};
use std::task::{Context, Poll, ready};

use rustls::Connection;

use super::tcp::Tcp;
use crate::scratch;

/// What rustls takes in one call of `read_tls`.
const TAKEN_BYTES: usize = 4 * 1024;

/// What one record carries at most (RFC 8446, 5.1), and a header and tag besides.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Reads that bring nothing but TLS's own messages, before other connections get a turn.
const EMPTY_READS_MAX: u32 = 8;

/// The TLS of one connection.
#[derive(Debug)]
pub struct Session(Connection);

impl Session {
    /// A session whose handshake is over; what came behind it may be in it already.
    pub fn new(connection: Connection) -> Self {
        Self(connection)
    }

    /// Reads into `buffer` what the peer said; 0 is its end, said or not.
    ///
    /// # Errors
    /// What became of the connection; [`io::ErrorKind::InvalidData`] for records that may not be there.
    pub fn poll_recv(
        &mut self,
        tcp: &Tcp,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        // As much as becomes no more than fits, together with a record of which rustls has all but the end.
        let room = buffer.len().saturating_sub(RECORD_BYTES_MAX);
        let room = room.clamp(TAKEN_BYTES, scratch::RECORDS_BYTES);
        for _ in 0..EMPTY_READS_MAX {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that closes without saying so in TLS has closed: MQTT's packets tell whether one is whole.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(0));
                }
                read => return Poll::Ready(read),
            }
            let taken = scratch::with_records(|records| {
                let read = ready!(tcp.poll_recv(cx, &mut records[..room]))?;
                if read == 0 {
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(self.take(&records[..read], buffer).map(Some))
            });
            match taken {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(0)),
                Poll::Ready(Ok(Some(read))) => {
                    // What TLS itself has to answer. A peer that takes nothing is heard all the same.
                    if let Poll::Ready(Err(error)) = self.poll_flush(tcp, cx) {
                        return Poll::Ready(Err(error));
                    }
                    if read > 0 {
                        return Poll::Ready(Ok(read));
                    }
                }
                Poll::Ready(Err(error)) => {
                    // The peer hears why in an alert, if it listens.
                    let _ = self.flush_now(tcp);
                    return Poll::Ready(Err(error));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes `records` in, and puts what they carry into `buffer`.
    fn take(&mut self, mut records: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while !records.is_empty() {
            if self.0.read_tls(&mut records)? == 0 {
                // The peer has said that it says no more.
                break;
            }
            self.0
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            while filled < buffer.len() {
                match self.0.reader().read(&mut buffer[filled..]) {
                    Ok(read @ 1..) => filled += read,
                    // Nothing more for now, or for ever: the next read tells which.
                    Ok(0) | Err(_) => break,
                }
            }
        }
        Ok(filled)
    }

    /// Sends `bytes` in a record, as far as one takes them; what the kernel has no room for waits in
    /// [`Session::poll_flush`].
    ///
    /// # Errors
    /// What became of the connection.
    pub fn poll_send(
        &mut self,
        tcp: &Tcp,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(tcp, cx))?;
        let taken = self.seal(bytes)?;
        match self.poll_flush(tcp, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    /// Sends `bytes` in a record now, as far as one takes them.
    ///
    /// # Errors
    /// `WouldBlock` while records wait; else what became of the connection.
    pub fn send_now(&mut self, tcp: &Tcp, bytes: &[u8]) -> io::Result<usize> {
        self.flush_now(tcp)?;
        let taken = self.seal(bytes)?;
        match self.flush_now(tcp) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn seal(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(RECORD_BYTES_MAX);
        self.0.writer().write(&bytes[..taken])
    }

    /// Sends the records that wait.
    ///
    /// # Errors
    /// What became of the connection.
    pub fn poll_flush(&mut self, tcp: &Tcp, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.0.wants_write() {
            match self.0.write_tls(&mut Polled { tcp, cx }) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn flush_now(&mut self, tcp: &Tcp) -> io::Result<()> {
        while self.0.wants_write() {
            self.0.write_tls(&mut Now(tcp))?;
        }
        Ok(())
    }

    /// Whether records wait to be sent.
    pub fn holds(&self) -> bool {
        self.0.wants_write()
    }

    /// Says that nothing more will be said (`close_notify`), if the kernel has room for it.
    pub fn say_end(&mut self, tcp: &Tcp) {
        self.0.send_close_notify();
        // The end is heard from TCP as well.
        let _ = self.flush_now(tcp);
    }
}

/// Writes for a task that is woken when there is room again.
struct Polled<'a, 'b> {
    tcp: &'a Tcp,
    cx: &'a mut Context<'b>,
}

impl Write for Polled<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.tcp.poll_send(self.cx, bytes) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes what fits now, and lets whoever waits for room wait on.
struct Now<'a>(&'a Tcp);

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send_now(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
