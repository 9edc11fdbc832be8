//! A client that speaks TLS on a raw socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, ClientConnection, HandshakeKind, Stream};

use crate::certificates::NAME;
use crate::client::Client;
use crate::node::End;
use crate::packets::{self, Connect};
use crate::wait::uninterrupted;

#[derive(Debug)]
pub(crate) struct TlsClient {
    pub tcp: Client,
    pub tls: ClientConnection,
}

/// How TLS ended, as the client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsEnd {
    /// The other side said that it says no more (`close_notify`).
    Said,
    /// TCP ended and TLS had not.
    Cut(End),
    Alert(AlertDescription),
    /// The client did not believe what it was shown, and said so.
    Refused,
}

/// A connection on which there was no handshake.
#[derive(Debug)]
pub(crate) struct Failed {
    pub client: SocketAddr,
    pub end: TlsEnd,
}

impl TlsClient {
    #[track_caller]
    pub(crate) fn to(balancer: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        Self::on(Client::to(balancer), config, NAME).expect("a handshake")
    }

    /// A handshake on this connection, which asks for this server name.
    pub(crate) fn on(mut tcp: Client, config: &Arc<ClientConfig>, name: &'static str) -> Result<Self, Failed> {
        let mut tls = connection(config, name);
        while tls.is_handshaking() {
            if let Err(error) = tls.complete_io(&mut tcp.stream) {
                return Err(Failed {
                    client: tcp.address(),
                    end: TlsEnd::of(&error),
                });
            }
        }
        Ok(Self { tcp, tls })
    }

    /// A client whose CONNECT was accepted.
    #[track_caller]
    pub(crate) fn accepted(balancer: SocketAddr, config: &Arc<ClientConfig>, connect: &Connect) -> Self {
        let mut client = Self::to(balancer, config);
        client.connect(connect);
        client
    }

    #[track_caller]
    pub(crate) fn connect(&mut self, connect: &Connect) {
        self.send(&connect.bytes());
        self.expect(&packets::connack(connect.level, 0));
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.tcp.address()
    }

    fn stream(&mut self) -> Stream<'_, ClientConnection, std::net::TcpStream> {
        Stream::new(&mut self.tls, &mut self.tcp.stream)
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).expect("a balancer that reads");
    }

    /// Sends `bytes`. What the kernel has no room for in its time waits in TLS, and only of the last record.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for chunk in bytes.chunks(16 * 1024) {
            self.tls.writer().write_all(chunk)?;
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.tcp.stream)?;
        }
        Ok(())
    }

    #[track_caller]
    pub(crate) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let read = self.stream().read_exact(&mut bytes);
        read.unwrap_or_else(|error| panic!("{error} before {count} bytes"));
        bytes
    }

    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        let read = self.read(bytes.len());
        assert!(read == bytes, "other bytes than those expected");
    }

    /// Whether these bytes come, before an end.
    pub(crate) fn hears(&mut self, bytes: &[u8]) -> bool {
        let mut read = vec![0; bytes.len()];
        self.stream().read_exact(&mut read).is_ok() && read == bytes
    }

    /// Reads to the end: what came, and how it ended.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, TlsEnd) {
        let mut all = Vec::new();
        let mut buffer = [0; 64 * 1024];
        loop {
            match uninterrupted(|| self.stream().read(&mut buffer)) {
                Ok(0) => return (all, TlsEnd::Said),
                Ok(read) => all.extend_from_slice(&buffer[..read]),
                Err(error) => return (all, TlsEnd::of(&error)),
            }
        }
    }

    /// Waits for the end, before which nothing may come.
    #[track_caller]
    pub(crate) fn end(&mut self) -> TlsEnd {
        let (bytes, end) = self.rest();
        assert!(bytes.is_empty(), "bytes before the end: {bytes:02x?}");
        end
    }

    /// Says the end in TLS, and sends a FIN; reads on.
    pub(crate) fn fin(&mut self) {
        self.tls.send_close_notify();
        self.flush().expect("a balancer that reads");
        self.tcp.fin();
    }

    pub(crate) fn kind(&self) -> HandshakeKind {
        self.tls.handshake_kind().expect("a handshake")
    }

    /// The certificate that the balancer has shown.
    pub(crate) fn shown(&self) -> CertificateDer<'static> {
        let chain = self.tls.peer_certificates().expect("a certificate");
        chain[0].clone().into_owned()
    }
}

impl TlsEnd {
    fn of(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        match (tls, error.kind()) {
            (Some(rustls::Error::AlertReceived(alert)), _) => Self::Alert(*alert),
            (Some(rustls::Error::InvalidCertificate(_)), _) => Self::Refused,
            (None, ErrorKind::UnexpectedEof) => Self::Cut(End::Fin),
            (None, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => Self::Cut(End::Reset),
            _ => panic!("TLS ended strangely: {error}"),
        }
    }
}

/// The client's side of a handshake that has not begun.
pub(crate) fn connection(config: &Arc<ClientConfig>, name: &'static str) -> ClientConnection {
    let name = ServerName::try_from(name).expect("a name");
    ClientConnection::new(Arc::clone(config), name).expect("a client")
}

/// Says the hello on this connection, and hears the answer: what the client says next, of which there are so many bytes at
/// least.
pub(crate) fn second_flight(
    tcp: &mut Client,
    config: &Arc<ClientConfig>,
    bytes_min: usize,
) -> (ClientConnection, Vec<u8>) {
    let mut tls = connection(config, NAME);
    tls.write_tls(&mut tcp.stream).expect("a hello");
    let mut flight = Vec::new();
    while flight.len() < bytes_min || tls.wants_write() {
        if tls.wants_write() {
            tls.write_tls(&mut flight).expect("room");
        } else {
            tls.read_tls(&mut tcp.stream).expect("an answer");
            tls.process_new_packets().expect("a right one");
        }
    }
    (tls, flight)
}

/// Puts `content` in a record behind `records`.
pub(crate) fn seal(tls: &mut ClientConnection, content: &[u8], records: &mut Vec<u8>) {
    tls.writer().write_all(content).expect("room");
    while tls.wants_write() {
        tls.write_tls(records).expect("room");
    }
}

/// A ClientHello.
pub(crate) fn hello(config: &Arc<ClientConfig>, name: &'static str) -> Vec<u8> {
    let mut bytes = Vec::new();
    connection(config, name).write_tls(&mut bytes).expect("a hello");
    bytes
}
