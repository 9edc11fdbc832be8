//! TLS on one socket, once its handshake is over: records in and out, with no buffer at rest but rustls' own.

use std::io::{self, Read, Write};
use std::task::{Context, Poll, ready};

use rustls::Connection;

use super::tcp::Tcp;
use crate::scratch;

/// What rustls takes in one call of `read_tls` even beside a record of which it has all but the end.
const TAKEN_BYTES: usize = 1024;

/// What one record carries at most (RFC 8446, 5.1); its header and its tag come on top.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Reads that bring nothing but TLS's own messages, before other connections get a turn.
const EMPTY_READS_MAX: u32 = 8;

/// The TLS of one connection.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    /// What is wrong with the peer's records. What came before is passed on first.
    fault: Option<Box<io::Error>>,
}

impl Session {
    /// A session whose handshake is over; what came behind it may be in it already.
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            fault: None,
        }
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
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that closes without saying so in TLS has closed: MQTT's packets tell whether one is whole.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(0));
                }
                read => return Poll::Ready(read),
            }
            if let Some(fault) = self.fault.take() {
                // The peer hears why in an alert, if it listens.
                let _ = self.flush_now(tcp);
                return Poll::Ready(Err(*fault));
            }
            let taken = scratch::with_records(|records| {
                let read = ready!(tcp.poll_recv(cx, &mut records[..room]))?;
                if read == 0 {
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(self.take(&records[..read], buffer).map(Some))
            });
            // What TLS itself has to answer goes out with what is sent next, or is flushed: a peer that takes nothing, or has
            // gone, is heard all the same.
            match ready!(taken)? {
                None => return Poll::Ready(Ok(0)),
                Some(0) => {}
                Some(read) => return Poll::Ready(Ok(read)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes `records` in, and puts what they carry into `buffer`.
    fn take(&mut self, mut records: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while !records.is_empty() {
            if self.connection.read_tls(&mut records)? == 0 {
                // The peer has said that it says no more.
                break;
            }
            if let Err(error) = self.connection.process_new_packets() {
                let error = io::Error::new(io::ErrorKind::InvalidData, error);
                self.fault = Some(Box::new(error));
                records = &[];
            }
            while filled < buffer.len() {
                match self.connection.reader().read(&mut buffer[filled..]) {
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
        self.connection.writer().write(&bytes[..taken])
    }

    /// Sends the records that wait.
    ///
    /// # Errors
    /// What became of the connection.
    pub fn poll_flush(&mut self, tcp: &Tcp, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Polled { tcp, cx }) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn flush_now(&mut self, tcp: &Tcp) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Now(tcp))?;
        }
        Ok(())
    }

    /// Puts the end (`close_notify`) behind what waits to be sent.
    pub fn prepare_end(&mut self) {
        self.connection.send_close_notify();
    }

    /// Whether records wait to be sent.
    pub fn holds(&self) -> bool {
        self.connection.wants_write()
    }

    /// Says that nothing more will be said (`close_notify`), if the kernel has room for it.
    pub fn say_end(&mut self, tcp: &Tcp) {
        self.prepare_end();
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

#[cfg(test)]
pub mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

    use crate::socket::Socket;
    use crate::tls::throwaway::Authority;

    /// A client whose handshake is over, and the socket of its server.
    pub fn pair() -> (ClientConnection, TcpStream, Socket) {
        let authority = Authority::new().expect("an authority");
        let pair = authority.server(&["localhost"]).expect("a certificate");
        let mut roots = RootCertStore::empty();
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        roots.add(der(&authority.pem())).expect("an authority");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![der(&pair.chain)], key)
            .expect("a server");
        let client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
        let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut near =
            TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        while client.is_handshaking() || server.is_handshaking() {
            client.write_tls(&mut near).expect("sent");
            server.read_tls(&mut far).expect("received");
            server.process_new_packets().expect("right");
            server.write_tls(&mut far).expect("sent");
            if client.is_handshaking() {
                client.read_tls(&mut near).expect("received");
                client.process_new_packets().expect("right");
            }
        }
        far.set_nonblocking(true).expect("set");
        let socket = Socket::new(OwnedFd::from(far)).expect("registered");
        (client, near, socket.secured(server.into()))
    }

    #[tokio::test]
    async fn what_came_before_a_wrong_record_is_delivered_before_the_error() {
        let (mut client, mut wire, socket) = pair();
        client.writer().write_all(b"before").expect("taken");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("sealed");
        bytes.extend(b"\x17\x03\x03\0\x20 thirty-two bytes that are sealed");
        wire.write_all(&bytes).expect("sent");
        let mut buffer = [0; 100];
        let read = socket.recv(&mut buffer).await.expect("what was right");
        assert_eq!(&buffer[..read], b"before");
        let error = socket.recv(&mut buffer).await.expect_err("a wrong record");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn every_byte_comes_through_whatever_fits_and_however_it_is_cut() {
        let (mut client, mut wire, socket) = pair();
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writer = std::thread::spawn(move || {
            for piece in sent.chunks(7_001) {
                client.writer().write_all(piece).expect("taken");
                while client.wants_write() {
                    client.write_tls(&mut wire).expect("sent");
                }
            }
            client.send_close_notify();
            client.write_tls(&mut wire).expect("sent");
            (client, wire)
        });
        let mut received = Vec::new();
        for size in [1, 100, 5_000, 20_000, 65_536].into_iter().cycle() {
            let mut buffer = vec![0; size];
            match socket.recv(&mut buffer).await.expect("no error") {
                0 => break,
                read => received.extend_from_slice(&buffer[..read]),
            }
        }
        assert!(received == expected, "other bytes");
        // The other way, with a peer that reads only later.
        let (mut client, mut wire) = writer.join().expect("it ends");
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            while client.read_tls(&mut wire).expect("received") > 0 {
                client.process_new_packets().expect("right");
                // Nothing more for now.
                let _ = client.reader().read_to_end(&mut received);
            }
            received
        });
        socket.send_all(&expected).await.expect("sent");
        socket.shutdown_write();
        assert!(reader.join().expect("it ends") == expected, "other bytes");
    }
}
