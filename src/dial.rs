//! Opens a socket to a node and says the first bytes: a leaf for greeting, and later for probes and the doctor.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};

use crate::cluster::Endpoint;
use crate::descriptors;
use crate::socket::Socket;
use crate::tls::ToNode;

/// How sockets to nodes are opened. Keepalive and user timeout hold for the clients' sockets as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// For one connection attempt.
    pub timeout: Duration,
    /// Source addresses to take in turn; empty leaves the choice to the kernel. Each brings another 28,000 or so
    /// connections to one node.
    pub sources: Vec<IpAddr>,
    /// TCP keepalive on both legs.
    pub keepalive: Keepalive,
    /// TCP_USER_TIMEOUT on both legs: unacknowledged data for this long ends the connection.
    pub user_timeout: Duration,
}

/// TCP keepalive: it finds peers that vanished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe.
    pub idle: Duration,
    /// Between probes.
    pub interval: Duration,
    /// Unanswered probes that end the connection.
    pub count: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            sources: Vec::new(),
            keepalive: Keepalive {
                idle: Duration::from_secs(60),
                interval: Duration::from_secs(15),
                count: 4,
            },
            user_timeout: Duration::from_secs(90),
        }
    }
}

impl Settings {
    /// Sets everything on a listener, which passes it on to the sockets that it accepts (Linux).
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn apply(&self, listener: SockRef<'_>) -> io::Result<()> {
        listener.set_tcp_nodelay(true)?;
        self.watch(listener)
    }

    /// Lets the kernel find out when the peer of `socket` has vanished.
    ///
    /// Five system calls: a socket to a node gets them when its connection has lasted, since none of them acts within the
    /// first seconds, and a storm of connections that come and go is spared them (3 % of its CPU).
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn watch(&self, socket: SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(self.keepalive.idle)
                .with_interval(self.keepalive.interval)
                .with_retries(self.keepalive.count),
        )?;
        socket.set_tcp_user_timeout(Some(self.user_timeout))
    }
}

/// Why a node could not be reached.
#[derive(Debug)]
pub enum DialError {
    /// The node's address refused, was unreachable, or did not answer in time.
    Node(io::Error),
    /// Every source port towards this node is in use, from every configured source address.
    SourcePorts,
    /// The process has no descriptor left, or no memory: nothing that the node did.
    Ours(io::Error),
}

/// Dials nodes from one worker.
#[derive(Debug)]
pub struct Dialer {
    settings: Settings,
    next_source: Cell<usize>,
}

impl Dialer {
    /// A dialer with these settings.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            next_source: Cell::new(0),
        }
    }

    /// Connects to the first address of `endpoint` that can be reached, and sends `header`, empty for none, and what fits of
    /// `first`, which is not empty; says how much of `first` that was. A host name may have an address of each family, of
    /// which the node listens on one.
    ///
    /// The bytes are offered to the kernel as soon as the connection is under way, so that a node on the same host has
    /// them without another round through the event loop, and any other node has them with the last packet of the
    /// handshake. Failure of the handshake is heard from the same call.
    ///
    /// # Errors
    /// The node's fault, a lack of ports, or a lack of descriptors: see [`DialError`].
    pub async fn dial(
        &self,
        endpoint: &Endpoint,
        header: &[u8],
        first: &[u8],
    ) -> Result<(Socket, usize), DialError> {
        let joined;
        let words = match header {
            [] => first,
            // One packet: nodes give up when they have the header and nothing behind it for long.
            header => {
                joined = [header, first].concat();
                &joined
            }
        };
        let mut failed = io::ErrorKind::AddrNotAvailable.into();
        for address in endpoint.addresses.iter() {
            let dialled = match &endpoint.tls {
                None => self.dial_one(*address, words, header.len()).await,
                // What is rare is boxed.
                Some(tls) => Box::pin(self.dial_secured(*address, header, first, tls)).await,
            };
            match dialled {
                Err(DialError::Node(error)) => failed = error,
                done => return done,
            }
        }
        Err(DialError::Node(failed))
    }

    async fn dial_one(
        &self,
        address: SocketAddr,
        words: &[u8],
        header_bytes: usize,
    ) -> Result<(Socket, usize), DialError> {
        debug_assert!(
            words.len() > header_bytes,
            "the first bytes prove the connection"
        );
        let socket = Socket::new(self.connect(address)?).map_err(DialError::Ours)?;
        let sent = async {
            let send = |from: usize| {
                let (socket, rest) = (&socket, &words[from..]);
                std::future::poll_fn(move |cx| socket.poll_send(cx, rest))
            };
            let mut sent = send(0).await?;
            // Nobody sends the rest of a header later.
            while sent < header_bytes {
                sent += send(sent).await?;
            }
            Ok::<_, io::Error>(sent - header_bytes)
        };
        match tokio::time::timeout(self.settings.timeout, sent).await {
            Ok(Ok(sent)) => Ok((socket, sent)),
            Ok(Err(e)) => Err(DialError::Node(e)),
            Err(elapsed) => Err(DialError::Node(elapsed.into())),
        }
    }

    /// The same with TLS, which begins behind the header: nodes read it first.
    async fn dial_secured(
        &self,
        address: SocketAddr,
        header: &[u8],
        first: &[u8],
        tls: &ToNode,
    ) -> Result<(Socket, usize), DialError> {
        let socket = Socket::new(self.connect(address)?).map_err(DialError::Ours)?;
        let sent = async {
            socket.send_all(header).await?;
            let socket = tls.secure(socket).await?;
            let sent = std::future::poll_fn(|cx| socket.poll_send(cx, first)).await?;
            // A node may hold its CONNACK back until its last words of TLS are acknowledged (Nagle): 40 ms, for mosquitto.
            rustix::net::sockopt::set_tcp_quickack(&socket, true)?;
            Ok::<_, io::Error>((socket, sent))
        };
        match tokio::time::timeout(self.settings.timeout, sent).await {
            Ok(sent) => sent.map_err(DialError::Node),
            Err(elapsed) => Err(DialError::Node(elapsed.into())),
        }
    }

    /// Starts the handshake from the next source address that has a free port.
    fn connect(&self, address: SocketAddr) -> Result<OwnedFd, DialError> {
        let sources = &self.settings.sources;
        let start = self.next_source.get();
        self.next_source.set(start.wrapping_add(1));
        for turn in 0..sources.len().max(1) {
            let source = sources
                .get((start.wrapping_add(turn)) % sources.len().max(1))
                .filter(|source| source.is_ipv4() == address.is_ipv4());
            let socket = self.socket(address, source).map_err(DialError::Ours)?;
            match rustix::net::connect(&socket, &address) {
                Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => return Ok(socket),
                Err(Errno::ADDRNOTAVAIL) => {}
                Err(errno) => return Err(DialError::Node(errno.into())),
            }
        }
        Err(DialError::SourcePorts)
    }

    fn socket(&self, address: SocketAddr, source: Option<&IpAddr>) -> io::Result<OwnedFd> {
        let socket = socket2::Socket::new_raw(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        let socket = descriptors::keep(socket)?;
        socket.set_tcp_nodelay(true)?;
        // The handshake's last ACK travels with the CONNECT: one packet less (tcp(7), TCP_QUICKACK).
        rustix::net::sockopt::set_tcp_quickack(&socket, false)?;
        if let Some(source) = source {
            // Without it the bound port is taken from all nodes at once (envoyproxy/envoy#44747).
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&SocketAddr::new(*source, 0).into())?;
        }
        Ok(socket.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::Arc;

    use super::*;

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        (listener, address)
    }

    #[tokio::test]
    async fn the_first_address_that_can_be_reached_is_taken() {
        let (gone, closed) = listener();
        drop(gone);
        let (open, address) = listener();
        let dialer = Dialer::new(Settings::default());
        let both = Endpoint::plain(Arc::new([closed, address]));
        let (_socket, sent) = dialer.dial(&both, b"", b"x").await.expect("a node");
        assert_eq!(sent, 1);
        open.accept().expect("it was dialled");
        let gone = Endpoint::plain(Arc::new([closed]));
        let refused = dialer.dial(&gone, b"", b"x").await;
        assert!(matches!(refused, Err(DialError::Node(_))), "{refused:?}");
    }
    #[tokio::test]
    async fn a_header_goes_before_the_first_bytes_and_is_not_counted() {
        let (node, address) = listener();
        let dialer = Dialer::new(Settings::default());
        let endpoint = Endpoint::plain(Arc::new([address]));
        let (socket, sent) = dialer
            .dial(&endpoint, b"header,", b"first")
            .await
            .expect("a node");
        assert_eq!(sent, 5);
        drop(socket);
        let (mut accepted, _) = node.accept().expect("it was dialled");
        let mut said = String::new();
        accepted.read_to_string(&mut said).expect("all of it");
        assert_eq!(said, "header,first");
    }
}
