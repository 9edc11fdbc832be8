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

/// What rustls reads with at rest.
const REST_BYTES: usize = 4 * 1024;

/// Reads that bring nothing but TLS's own messages, before other connections get a turn.
const EMPTY_READS_MAX: u32 = 8;

/// The TLS of one connection.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    /// What is wrong with the peer's records. What came before is passed on first.
    fault: Option<Box<io::Error>>,
    /// Bytes that rustls took since something came out of it: more than these it does not keep. What it keeps is a record that
    /// is not whole, 18 KiB of it at most, or a message of TLS's own, 64 KiB; its buffer may be twice as large, for it grows
    /// by doubling.
    sealed: u16,
    /// rustls' buffer may have become a large one since it was given back.
    is_large: bool,
}

impl Session {
    /// A session whose handshake is over; what came behind it may be in it already.
    pub fn new(connection: Connection, sealed: usize) -> Self {
        let mut session = Self {
            connection,
            fault: None,
            sealed: kept(sealed),
            is_large: true,
        };
        session.give_back();
        session
    }

    /// Bytes that rustls keeps of what is not whole, at most.
    pub fn sealed(&self) -> usize {
        self.sealed.into()
    }

    /// Lets rustls give back the buffer that it took for something large. It looks at its size before each read and at no
    /// other time: without this, a connection at rest would keep 32 KiB of its last large record, or 64 KiB of its handshake.
    ///
    /// It gives back nothing while a part of something lies in it: that can be seen by the room that is left of a large one.
    fn give_back(&mut self) {
        let mut nothing = Nothing { room: 0 };
        // Nothing is there, and that is no end.
        let _ = self.connection.read_tls(&mut nothing);
        self.is_large = nothing.room != REST_BYTES || self.sealed() > REST_BYTES;
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
        self.is_large |= self.sealed() + records.len() > REST_BYTES;
        let mut filled = 0;
        while !records.is_empty() {
            let taken = self.connection.read_tls(&mut records)?;
            if taken == 0 {
                // The peer has said that it says no more.
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
                    // Nothing more for now, or for ever: the next read tells which.
                    Ok(0) | Err(_) => break,
                }
            }
            // What comes out ends with these bytes, or before: only of them can some be left.
            self.sealed = kept(match filled > before {
                true => taken,
                false => self.sealed() + taken,
            });
        }
        if self.is_large {
            self.give_back();
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

/// What rustls keeps at most of so many bytes: it takes no message of 64 KiB.
fn kept(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// Where there is nothing to read for now.
struct Nothing {
    /// How much would have been read.
    room: usize,
}

impl Read for Nothing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.room = buffer.len();
        Err(io::ErrorKind::WouldBlock.into())
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
    use std::task::Poll;
    use std::time::Duration;

    use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::{
        ClientConfig, ClientConnection, ConnectionTrafficSecrets, ContentType, ProtocolVersion,
        RootCertStore, ServerConfig, ServerConnection, SupportedCipherSuite,
    };

    use super::REST_BYTES;
    use crate::allocated::live_bytes;

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
        let mut client = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        client.enable_secret_extraction = true;
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
        (client, near, socket.secured(server.into(), 0))
    }

    /// Seals what a client's TLS would not say.
    struct Records {
        encrypter: Box<dyn MessageEncrypter>,
        next: u64,
    }

    impl Records {
        fn of(client: ClientConnection) -> Self {
            let Some(SupportedCipherSuite::Tls13(suite)) = client.negotiated_cipher_suite() else {
                panic!("TLS 1.3 is spoken");
            };
            let secrets = client.dangerous_extract_secrets().expect("at rest");
            let (next, secrets) = secrets.tx;
            let (ConnectionTrafficSecrets::Aes128Gcm { key, iv }
            | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
            | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv }) = secrets
            else {
                panic!("a cipher that is unknown here");
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

    /// Reads until so much is kept of what is not whole, which brings nothing.
    async fn until_sealed(socket: &Socket, bytes: usize) {
        let all = std::future::poll_fn(|cx| {
            let mut buffer = [0; 64 * 1024];
            match socket.poll_recv(cx, &mut buffer) {
                Poll::Pending if socket.sealed() == bytes => Poll::Ready(()),
                Poll::Pending => Poll::Pending,
                Poll::Ready(read) => panic!("{read:?} of what is not whole"),
            }
        });
        let all = tokio::time::timeout(Duration::from_secs(5), all).await;
        all.unwrap_or_else(|_| panic!("{} are sealed, and not {bytes}", socket.sealed()));
    }

    /// Sends one message of so many bytes, and reads it.
    async fn passes(
        client: &mut ClientConnection,
        wire: &mut TcpStream,
        socket: &Socket,
        bytes: usize,
    ) {
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
        // Everything on the way has its room by now, but for what belongs to the session.
        passes(&mut client, &mut wire, &socket, 100).await;
        let before = live_bytes();
        for bytes in [16_384, 5_000, 16_384] {
            passes(&mut client, &mut wire, &socket, bytes).await;
        }
        let kept = live_bytes() - before;
        // The client has sealed as much, and is no more frugal than rustls is.
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
        // Each part comes with the end of the record before it.
        for (words, bytes) in [
            ([&large[..], &next[..300]].concat(), 16_384),
            ([&next[300..], &third[..300]].concat(), 3_000),
            (third[300..].to_vec(), 500),
        ] {
            wire.write_all(&words).expect("sent");
            drop(words);
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
        let word = records.seal(ContentType::ApplicationData, &[7]);
        wire.write_all(&word).expect("sent");
        assert_eq!(socket.recv(&mut byte).await.expect("a word"), 1);
        let (rest, before) = (socket.sealed(), live_bytes());
        // The type comes behind the content, which is empty, and before the padding: the last zero of that is sealed as a type.
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
        // The last that came out counts until more comes.
        let rest = socket.sealed();
        let before = live_bytes();
        wire.write_all(begun).expect("sent");
        until_sealed(&socket, rest + begun.len()).await;
        let kept = live_bytes() - before;
        println!("{} bytes of a record: {kept} bytes more", begun.len());
        assert!(kept >= begun.len() as isize - REST_BYTES as isize);
        assert!(kept <= BUFFER_BYTES_MAX, "{kept} bytes are kept");
        // And nothing of it once it is whole.
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
        // A KeyUpdate as long as none is.
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
        assert!(
            kept_max <= 2 * MESSAGE_BYTES_MAX as isize,
            "{kept_max} bytes are kept"
        );
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
