//! TLS on one link: records in and out. At rest a session owns what rustls keeps, and nothing else.

use std::fmt;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::sync::Arc;

use rustls::{CipherSuite, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion};
use socket2::Socket;

use super::tls::Tls;

/// What a record carries at most (RFC 8446, 5.1), with header and tag.
const RECORD_BYTES_MAX: usize = 17 * 1024;

/// Most bytes that wait in records for a peer that does not read.
const SEALED_BYTES_MAX: usize = 64 * 1024;

/// The TLS of one client.
pub(super) struct Session {
    connection: ClientConnection,
    /// The end of the handshake was returned.
    reported: bool,
    end: ReadEnd,
}

/// What the next read returns, where it is known already. Bytes received before it are returned first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadEnd {
    NotYet,
    /// The peer has sent close_notify.
    Closed,
    /// An invalid record was received.
    Broken,
}

/// What a read brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrived {
    pub(super) count: usize,
    /// There may be more.
    pub(super) more: bool,
}

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handshake {
    /// It resumed the session of an earlier connection.
    pub(super) resumed: bool,
    pub(super) agreed: Agreed,
}

/// What both ends negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    version: Option<ProtocolVersion>,
    cipher: Option<CipherSuite>,
    group: Option<NamedGroup>,
}

impl fmt::Display for Agreed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, cipher, group } = self;
        f.write_str(match version {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            _ => "TLSv1.3",
        })?;
        if let Some(cipher) = cipher {
            let name = format!("{cipher:?}");
            write!(f, " {}", name.replace("TLS13_", "TLS_"))?;
        }
        // A resumed session of TLS 1.2 has none.
        group.map_or(Ok(()), |group| write!(f, " {group:?}"))
    }
}

impl Session {
    /// Begins a handshake; the first send carries the ClientHello.
    pub(super) fn new(tls: &Tls) -> io::Result<Self> {
        let mut connection =
            ClientConnection::new(Arc::clone(&tls.config), tls.server_name.clone()).map_err(io::Error::other)?;
        // All that is sent during the handshake waits for its end.
        connection.set_buffer_limit(None);
        Ok(Self {
            connection,
            reported: false,
            end: ReadEnd::NotYet,
        })
    }

    /// Sends as much as fits into a record; during the handshake, that waits for its end. `WouldBlock` while records
    /// wait.
    pub(super) fn send(&mut self, socket: &Socket, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.flush(socket)?;
        let taken = self.connection.writer().write_vectored(parts)?;
        match self.flush(socket) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Sends the records that wait; `WouldBlock` when the socket does not take them all.
    pub(super) fn flush(&mut self, mut socket: &Socket) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut socket)?;
        }
        Ok(())
    }

    /// Reads what has arrived, as far as it fits; `None` if nothing has.
    pub(super) fn read(&mut self, mut socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<Arrived>> {
        // Records are read into the back of the buffer, and opened to its front, which has room for all that they can
        // carry and for a record of which rustls has all but the end.
        let front = buffer.len().div_ceil(2) + RECORD_BYTES_MAX;
        let Some((front, records)) = buffer
            .split_at_mut_checked(front)
            .filter(|(_, records)| !records.is_empty())
        else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        loop {
            match self.end {
                ReadEnd::NotYet => {}
                ReadEnd::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                ReadEnd::Broken => self.process()?,
            }
            let read = match socket.read(records) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            };
            let opened = self.open(&records[..read], front);
            // Messages of TLS itself, alerts among them. If the socket fails, the next read returns that.
            let _ = self.flush(socket);
            let count = opened?;
            if count > 0 {
                let more = read == records.len() || self.end != ReadEnd::NotYet;
                return Ok(Some(Arrived { count, more }));
            }
        }
    }

    /// Opens records into `front`; returns how many bytes they carried.
    fn open(&mut self, mut records: &[u8], front: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while !records.is_empty() && self.end == ReadEnd::NotYet {
            self.connection.read_tls(&mut records)?;
            let processed = self.process();
            filled += self.carried(&mut front[filled..])?;
            if let Err(error) = processed {
                if filled == 0 {
                    return Err(error);
                }
                self.end = ReadEnd::Broken;
            }
        }
        Ok(filled)
    }

    /// Copies what the records up to now have carried.
    fn carried(&mut self, front: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            match self.connection.reader().read(&mut front[filled..]) {
                Ok(0) => {
                    self.end = ReadEnd::Closed;
                    return Ok(filled);
                }
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(filled),
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens the complete records. An error stays one at each call.
    fn process(&mut self) -> io::Result<()> {
        self.connection.process_new_packets().map_err(io::Error::other)?;
        if !self.reported && !self.connection.is_handshaking() {
            self.connection.set_buffer_limit(Some(SEALED_BYTES_MAX));
        }
        Ok(())
    }

    /// How the handshake ended; returned once.
    pub(super) fn handshake(&mut self) -> Option<Handshake> {
        if self.reported || self.connection.is_handshaking() {
            return None;
        }
        self.reported = true;
        let connection = &self.connection;
        Some(Handshake {
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            agreed: Agreed {
                version: connection.protocol_version(),
                cipher: connection.negotiated_cipher_suite().map(|suite| suite.suite()),
                group: connection.negotiated_key_exchange_group().map(|group| group.name()),
            },
        })
    }

    /// Whether the handshake has not ended yet.
    pub(super) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// What was wrong, in words.
    pub(super) fn problem(&mut self) -> Option<String> {
        let error = self.connection.process_new_packets().err()?;
        Some(error.to_string())
    }

    /// Sends close_notify, if the socket has room for it.
    pub(super) fn send_close_notify(&mut self, socket: &Socket) {
        self.connection.send_close_notify();
        // The peer notices the end of the stream without it, too.
        let _ = self.flush(socket);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::thread;

    use rustls::pki_types::PrivatePkcs8KeyDer;
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    use super::*;
    use crate::failure::Failure;
    use crate::tls::Options;

    type Server = StreamOwned<ServerConnection, TcpStream>;

    /// A client whose handshake is over, and a server that then calls `serve` on its own thread.
    fn client<T: Send + 'static>(
        serve: impl FnOnce(Server) -> T + Send + 'static,
    ) -> (Session, Socket, thread::JoinHandle<T>) {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let tls = Options::trusting().read("localhost:8883").unwrap();
        let provider = Arc::clone(tls.config.crypto_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.into()], key.into())
            .unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = Socket::from(socket);
        let thread = thread::spawn(move || {
            let connection = ServerConnection::new(Arc::new(config)).unwrap();
            let mut server = StreamOwned::new(connection, listener.accept().unwrap().0);
            server.write_all(b"welcome").unwrap();
            // What `serve` sends must not arrive together with that.
            server.read_exact(&mut [0; 2]).unwrap();
            serve(server)
        });
        let mut session = Session::new(&tls).unwrap();
        session.flush(&socket).unwrap();
        assert_eq!(session.handshake(), None);
        assert_eq!(heard(&mut session, &socket).unwrap().0, b"welcome");
        assert!(session.handshake().is_some());
        assert_eq!(session.handshake(), None, "it is returned once");
        session.send(&socket, &[IoSlice::new(b"hi")]).unwrap();
        (session, socket, thread)
    }

    /// What a read returns, and whether there may be more.
    fn heard(session: &mut Session, socket: &Socket) -> io::Result<(Vec<u8>, bool)> {
        let mut buffer = vec![0; 256 * 1024];
        let arrived = session.read(socket, &mut buffer)?;
        let Arrived { count, more } = arrived.expect("the socket waits");
        buffer.truncate(count);
        Ok((buffer, more))
    }

    /// The bytes of a record with some last words.
    fn last_words(server: &mut Server) -> Vec<u8> {
        let mut records = Vec::new();
        server.conn.writer().write_all(b"last words").unwrap();
        server.conn.write_tls(&mut records).unwrap();
        records
    }

    #[test]
    fn bytes_before_an_invalid_record_are_returned_first() {
        let (mut session, socket, thread) = client(|mut server| {
            let mut records = last_words(&mut server);
            records.extend_from_slice(&[0x17, 3, 3, 0, 20]);
            records.extend_from_slice(&[0; 20]);
            server.sock.write_all(&records).unwrap();
            // The alert with the reason.
            assert!(server.sock.read(&mut [0; 64]).unwrap() > 0);
        });
        let heard = |session: &mut _| heard(session, &socket);
        assert_eq!(heard(&mut session).unwrap(), (b"last words".to_vec(), true));
        let error = heard(&mut session).unwrap_err();
        assert_eq!(Failure::from(error), Failure::Tls);
        assert!(session.problem().unwrap().contains("decrypt"));
        thread.join().unwrap();
    }

    #[test]
    fn close_notify_ends_the_stream_although_the_socket_is_open() {
        let (mut session, socket, thread) = client(|mut server| {
            let mut records = last_words(&mut server);
            server.conn.send_close_notify();
            server.conn.write_tls(&mut records).unwrap();
            server.sock.write_all(&records).unwrap();
            server.sock
        });
        let heard = |session: &mut _| heard(session, &socket);
        assert_eq!(heard(&mut session).unwrap(), (b"last words".to_vec(), true));
        let error = heard(&mut session).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        drop(thread.join().unwrap());
    }

    #[test]
    fn a_peer_that_does_not_read_gets_no_more_than_fits_and_all_of_that() {
        let (go, wait) = std::sync::mpsc::sync_channel::<usize>(1);
        let (mut session, socket, thread) = client(move |mut server| {
            let mut bytes = vec![0; wait.recv().unwrap()];
            server.read_exact(&mut bytes).unwrap();
            bytes
        });
        socket.set_nonblocking(true).unwrap();
        let pattern: Vec<u8> = (0..1_000_003).map(|number| number as u8).collect();
        let mut sent = Vec::new();
        let error = loop {
            let parts = [IoSlice::new(&[1, 2, 3]), IoSlice::new(&pattern)];
            match session.send(&socket, &parts) {
                Ok(taken) => {
                    assert!((1..=SEALED_BYTES_MAX).contains(&taken), "{taken}");
                    sent.extend_from_slice(&[&[1, 2, 3], &pattern[..]].concat()[..taken]);
                }
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        go.send(sent.len()).unwrap();
        socket.set_nonblocking(false).unwrap();
        session.flush(&socket).unwrap();
        assert!(thread.join().unwrap() == sent, "other bytes");
    }
}
