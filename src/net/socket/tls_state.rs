//! TLS on one socket after the handshake: reads and writes records. An idle connection has no buffer except rustls' own.

use std::io::{self, Read, Write};
use std::task::{Context, Poll, ready};

use rustls::Connection;

use super::tcp::Tcp;
use crate::base::{scratch, turn};

/// How many bytes rustls takes in one call of `read_tls` even if it already buffers an almost complete record.
const TAKEN_BYTES: usize = 1024;

/// The most plaintext of one record (RFC 8446, 5.1), without its header and tag.
const RECORD_BYTES_MAX: usize = 16 * 1024;

/// The size of rustls' read buffer on an idle connection.
const REST_BYTES: usize = 4 * 1024;

/// How many reads may yield only TLS's own messages, or empty records, before other connections get a turn. Each may
/// contain more than a thousand of them.
const EMPTY_READS_MAX: u32 = 2;

/// The TLS of one connection.
#[derive(Debug)]
pub(crate) struct TlsState {
    connection: Connection,
    /// An error in the peer's records. Plaintext from before the error is delivered first.
    fault: Option<Box<io::Error>>,
    /// Bytes that rustls has taken in since it last yielded plaintext: an upper bound of what it buffers. That is an incomplete
    /// record (18 KiB at most) or an incomplete handshake message (64 KiB at most). The buffer may be twice as large, since it
    /// grows by doubling.
    sealed: u16,
    /// Received bytes that were not plaintext, since they were last asked for.
    overhead: u32,
    /// Whether rustls' buffer may have grown since it was last shrunk.
    is_large: bool,
}

impl TlsState {
    /// `connection` has completed its handshake, and may already contain bytes that followed it.
    pub(crate) fn new(connection: Connection, sealed: usize) -> Self {
        let mut tls = Self {
            connection,
            fault: None,
            sealed: kept(sealed),
            overhead: 0,
            is_large: true,
        };
        tls.shrink_buffer();
        tls
    }

    /// An upper bound of the bytes that rustls buffers of an incomplete record or message.
    pub(crate) fn sealed(&self) -> usize {
        self.sealed.into()
    }

    /// How many bytes were received since the last call that are not plaintext.
    pub(crate) fn take_overhead(&mut self) -> usize {
        std::mem::take(&mut self.overhead) as usize
    }

    /// Lets rustls shrink the buffer that it grew for a large record. rustls checks the size only before each read: without
    /// this, an idle connection would keep 32 KiB from its last large record, or 64 KiB from its handshake.
    ///
    /// rustls does not shrink the buffer while it contains part of a record. The room that rustls offers for a read shows whether
    /// the buffer was shrunk.
    fn shrink_buffer(&mut self) {
        let mut empty = EmptyReader { room: 0 };
        // The reader returns WouldBlock, which is not the end of the stream.
        let _ = self.connection.read_tls(&mut empty);
        self.is_large = empty.room != REST_BYTES || self.sealed() > REST_BYTES;
    }

    /// Reads plaintext into `buffer`; 0 is the end of the stream, with `close_notify` or without.
    ///
    /// # Errors
    /// The error of the connection; [`io::ErrorKind::InvalidData`] for invalid records.
    pub(crate) fn poll_recv(&mut self, tcp: &Tcp, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        // No more than what fits into `buffer` when decrypted, together with an almost complete record that rustls buffers.
        let room = buffer.len().saturating_sub(RECORD_BYTES_MAX);
        let room = room.clamp(TAKEN_BYTES, scratch::RECORDS_BYTES);
        for _ in 0..EMPTY_READS_MAX {
            match self.connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A close without `close_notify` is accepted: MQTT's own framing shows whether a packet is complete.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Poll::Ready(Ok(0));
                }
                read => return Poll::Ready(read),
            }
            if let Some(fault) = self.fault.take() {
                // The peer gets the reason in an alert, if it reads.
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
            // TLS's own answers go out with the next send or flush. So a peer that does not read, or has closed, can still be
            // read from.
            match ready!(taken)? {
                None => return Poll::Ready(Ok(0)),
                Some(0) => {}
                Some(read) => return Poll::Ready(Ok(read)),
            }
        }
        turn::take_next(cx);
        Poll::Pending
    }

    /// Decrypts `records` into `buffer`. Returns the number of plaintext bytes.
    fn take(&mut self, mut records: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        self.is_large |= self.sealed() + records.len() > REST_BYTES;
        let (received, mut filled) = (records.len(), 0);
        while !records.is_empty() {
            let taken = self.connection.read_tls(&mut records)?;
            if taken == 0 {
                // The peer has sent `close_notify`: nothing may follow.
                break;
            }
            let before = filled;
            if let Err(error) = self.connection.process_new_packets() {
                let error = io::Error::new(io::ErrorKind::InvalidData, error);
                self.fault = Some(Box::new(error));
                records = &[];
            }
            while filled < buffer.len() {
                match self.connection.reader().read(&mut buffer[filled..]) {
                    Ok(read @ 1..) => filled += read,
                    // Nothing more now, or the end of the stream: the next read shows which.
                    Ok(0) | Err(_) => break,
                }
            }
            // If there was plaintext, it came from these bytes or earlier ones, so only these can still be undecrypted.
            self.sealed = kept(match filled > before {
                true => taken,
                false => self.sealed() + taken,
            });
        }
        if self.is_large {
            self.shrink_buffer();
        }
        // Plaintext may be of records that were received before.
        let overhead = u32::try_from(received.saturating_sub(filled)).unwrap_or(u32::MAX);
        self.overhead = self.overhead.saturating_add(overhead);
        Ok(filled)
    }

    /// Sends as many of `bytes` as fit into one record; [`TlsState::poll_flush`] sends what the kernel has no room for.
    ///
    /// # Errors
    /// The error of the connection.
    pub(crate) fn poll_send(&mut self, tcp: &Tcp, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(tcp, cx))?;
        let taken = self.seal(bytes)?;
        match self.poll_flush(tcp, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    /// Sends as many of `bytes` as fit into one record now.
    ///
    /// # Errors
    /// `WouldBlock` while records wait; otherwise the error of the connection.
    pub(crate) fn send_now(&mut self, tcp: &Tcp, bytes: &[u8]) -> io::Result<usize> {
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
    /// The error of the connection.
    pub(crate) fn poll_flush(&mut self, tcp: &Tcp, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

    /// Queues `close_notify` behind the records that wait.
    pub(crate) fn prepare_end(&mut self) {
        self.connection.send_close_notify();
    }

    /// Whether records wait to be sent.
    pub(crate) fn holds(&self) -> bool {
        self.connection.wants_write()
    }

    /// Sends `close_notify` if the kernel has room for it. Nothing may be sent after it.
    pub(crate) fn send_close_notify(&mut self, tcp: &Tcp) {
        self.prepare_end();
        // If it does not fit, the FIN also ends the stream.
        let _ = self.flush_now(tcp);
    }
}

/// How many of `bytes` rustls can buffer: it refuses messages of 64 KiB.
fn kept(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// A reader that returns `WouldBlock` and notes how much would have been read.
struct EmptyReader {
    room: usize,
}

impl Read for EmptyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.room = buffer.len();
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// Writes, and wakes the task when there is room again.
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

/// Writes what fits now, and leaves the waker of a waiting task in place.
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
pub(crate) mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::sync::Arc;
    use std::task::Poll;
    use std::time::Duration;

    use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{
        ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion, RootCertStore,
        ServerConfig, ServerConnection, SupportedCipherSuite,
    };

    use super::REST_BYTES;
    use crate::base::allocated::live_bytes;

    use crate::net::socket::Socket;
    use crate::net::tls::throwaway::Authority;

    /// A client after its handshake, and the server's socket.
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
        let mut client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.enable_secret_extraction = true;
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name).expect("a client");
        let mut server = ServerConnection::new(Arc::new(server)).expect("a server");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut near = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
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
        (client, near, socket.secured(server.into(), 0))
    }

    /// Encrypts records that a client's TLS library would not send.
    struct Records {
        encrypter: Box<dyn MessageEncrypter>,
        next: u64,
    }

    impl Records {
        fn of(client: ClientConnection) -> Self {
            let Some(SupportedCipherSuite::Tls13(suite)) = client.negotiated_cipher_suite() else {
                panic!("not TLS 1.3");
            };
            let secrets = client.dangerous_extract_secrets().expect("at rest");
            let (next, secrets) = secrets.tx;
            let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
            else {
                panic!("an unexpected cipher");
            };
            let encrypter = suite.aead_alg.encrypter(key, iv);
            Self { encrypter, next }
        }

        fn seal(&mut self, typ: ContentType, content: &[u8]) -> Vec<u8> {
            let message = OutboundPlainMessage {
                typ,
                version: ProtocolVersion::TLSv1_2,
                payload: OutboundChunks::Single(content),
            };
            let sealed = self.encrypter.encrypt(message, self.next).expect("sealed");
            self.next += 1;
            sealed.encode()
        }
    }

    /// Reads until `bytes` bytes of an incomplete record are buffered. Fails if a read yields plaintext.
    async fn until_sealed(socket: &Socket, bytes: usize) {
        let all = std::future::poll_fn(|cx| {
            let mut buffer = [0; 64 * 1024];
            match socket.poll_recv(cx, &mut buffer) {
                Poll::Pending if socket.sealed() == bytes => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
                Poll::Ready(read) => panic!("{read:?} from an incomplete record"),
            }
        });
        let all = tokio::time::timeout(Duration::from_secs(5), all).await;
        all.unwrap_or_else(|_| panic!("{} bytes are sealed, not {bytes}", socket.sealed()));
    }

    /// Sends one message of `bytes` bytes and reads it.
    async fn passes(client: &mut ClientConnection, wire: &mut TcpStream, socket: &Socket, bytes: usize) {
        client.writer().write_all(&vec![7; bytes]).expect("taken");
        client.write_tls(wire).expect("sent");
        let mut buffer = vec![0; 64 * 1024];
        let mut left = bytes;
        while left > 0 {
            left -= socket.recv(&mut buffer).await.expect("what was sent");
        }
    }

    #[tokio::test]
    async fn a_connection_at_rest_keeps_what_it_kept_before_its_largest_record() {
        let (mut client, mut wire, socket) = pair();
        // After one message, all buffers are allocated except those that belong to the TLS connections.
        passes(&mut client, &mut wire, &socket, 100).await;
        let before = live_bytes();
        for bytes in [16_384, 5_000, 16_384] {
            passes(&mut client, &mut wire, &socket, bytes).await;
        }
        let kept = live_bytes() - before;
        // This includes the buffers of the client's rustls, which has encrypted the same records.
        assert!(kept < 2_048, "{kept} bytes are kept at rest");
    }

    #[tokio::test]
    async fn a_large_record_is_given_back_however_its_successors_are_cut() {
        let (mut client, mut wire, socket) = pair();
        passes(&mut client, &mut wire, &socket, 100).await;
        let mut seal = |bytes: usize| {
            let mut record = Vec::new();
            client.writer().write_all(&vec![7; bytes]).expect("taken");
            client.write_tls(&mut record).expect("sealed");
            record
        };
        let (large, next, third) = (seal(16_384), seal(3_000), seal(500));
        let before = live_bytes();
        // Each part also contains the end of the record before it.
        for (part, bytes) in [
            ([&large[..], &next[..300]].concat(), 16_384),
            ([&next[300..], &third[..300]].concat(), 3_000),
            (third[300..].to_vec(), 500),
        ] {
            wire.write_all(&part).expect("sent");
            drop(part);
            let mut buffer = vec![0; 64 * 1024];
            let mut left = bytes;
            while left > 0 {
                left -= socket.recv(&mut buffer).await.expect("what was sent");
            }
        }
        let kept = live_bytes() - before;
        assert!(kept < 2_048, "{kept} bytes are kept at rest");
    }

    #[tokio::test]
    async fn a_large_record_with_nothing_in_it_is_given_back() {
        let (client, mut wire, socket) = pair();
        let mut records = Records::of(client);
        let mut byte = [0];
        let record = records.seal(ContentType::ApplicationData, &[7]);
        wire.write_all(&record).expect("sent");
        assert_eq!(socket.recv(&mut byte).await.expect("a byte"), 1);
        let (rest, before) = (socket.sealed(), live_bytes());
        // The content is empty; the type follows it and comes before the padding. The last zero of the padding is passed as the
        // type.
        let mut padding = vec![0; 16_384];
        padding[0] = ContentType::ApplicationData.into();
        let record = records.seal(ContentType::Unknown(0), &padding);
        wire.write_all(&record).expect("sent");
        let bytes = record.len();
        drop((record, padding));
        until_sealed(&socket, rest + bytes).await;
        let kept = live_bytes() - before;
        assert!(kept < 2_048, "{kept} bytes are kept at rest");
    }

    #[tokio::test]
    async fn of_a_record_that_is_not_whole_no_more_is_kept_than_came_and_its_buffer() {
        const BUFFER_BYTES_MAX: isize = 32 * 1024;
        let (mut client, mut wire, socket) = pair();
        passes(&mut client, &mut wire, &socket, 100).await;
        let mut record = Vec::new();
        client.writer().write_all(&[7; 16_384]).expect("taken");
        client.write_tls(&mut record).expect("sealed");
        let (last, begun) = record.split_last().expect("a record");
        // The bytes of the last decrypted record count until more arrive.
        let rest = socket.sealed();
        let before = live_bytes();
        wire.write_all(begun).expect("sent");
        until_sealed(&socket, rest + begun.len()).await;
        let kept = live_bytes() - before;
        println!("{} bytes of a record: {kept} bytes more", begun.len());
        assert!(kept >= begun.len() as isize - REST_BYTES as isize);
        assert!(kept <= BUFFER_BYTES_MAX, "{kept} bytes are kept");
        // And nothing once the record is complete.
        wire.write_all(&[*last]).expect("sent");
        let mut buffer = vec![0; 64 * 1024];
        let read = socket.recv(&mut buffer).await.expect("all of it");
        assert_eq!(read, 16_384);
        drop(buffer);
        let kept = live_bytes() - before;
        assert!(kept < 2_048, "{kept} bytes are kept at rest");
    }

    #[tokio::test]
    async fn of_a_message_of_tls_that_is_not_whole_no_more_is_kept_than_64_kib() {
        const MESSAGE_BYTES_MAX: usize = 64 * 1024;
        let (client, mut wire, socket) = pair();
        let mut records = Records::of(client);
        // A KeyUpdate that is far too long.
        let mut content = vec![0; 16_384];
        content[..4].copy_from_slice(&[24, 0, 0xFF, 0xFF]);
        let before = live_bytes();
        let mut sent = 0;
        let mut kept_max = 0;
        loop {
            let record = records.seal(ContentType::Handshake, &content);
            wire.write_all(&record).expect("sent");
            sent += record.len();
            if sent >= MESSAGE_BYTES_MAX {
                break;
            }
            until_sealed(&socket, sent).await;
            drop(record);
            kept_max = kept_max.max(live_bytes() - before);
        }
        println!("{sent} bytes of a message: {kept_max} bytes more");
        assert!(kept_max > 48 * 1024, "only {kept_max} bytes are kept");
        assert!(kept_max <= 2 * MESSAGE_BYTES_MAX as isize, "{kept_max} bytes are kept");
        let mut buffer = vec![0; 64 * 1024];
        let error = socket.recv(&mut buffer).await.expect_err("too long");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
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
        // In the other direction, with a peer that reads late.
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
