//! Connects to a node over TCP, with TLS where the endpoint has it, and sends the first bytes.
//!
//! What follows (an upgrade to WebSocket, MQTT) is in `node`.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};
use tokio::time::Instant;

use crate::cluster::Endpoint;
use crate::net::descriptors;
use crate::net::socket::{Socket, sys};
use crate::net::tls::NodesTls;

/// How sockets to nodes are opened. Keepalive and user timeout also apply to the clients' sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The limit for one connection attempt.
    pub timeout: Duration,
    /// Source addresses, used in turn; if empty, the kernel chooses. Each allows another 28,000 or so connections to one
    /// node.
    pub sources: Vec<IpAddr>,
    /// TCP keepalive towards clients and nodes.
    pub keepalive: Keepalive,
    /// Unacknowledged data for this long ends the connection, towards clients and nodes. `None` means as long as keepalive takes;
    /// a shorter time is raised to that, see [`Settings::watch_times`].
    pub user_timeout: Option<Duration>,
    /// The kernel's buffers for the clients' sockets, each for sending and for receiving, in bytes (SO_SNDBUF, SO_RCVBUF).
    pub client_buffer: usize,
    /// The same for the nodes' sockets.
    pub node_buffer: usize,
}

/// TCP keepalive: detects peers that have vanished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Idle time before the first probe. `None` means [`Keepalive::IDLE_DEFAULT`], and longer where a client may be silent for
    /// longer.
    pub idle: Option<Duration>,
    /// Time between probes.
    pub interval: Duration,
    /// Unanswered probes after which the connection is closed.
    pub count: u32,
}

/// What the kernel is told so that it finds a peer that has vanished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchTimes {
    /// Idle time before the first probe (TCP_KEEPIDLE).
    pub idle: Duration,
    /// TCP_USER_TIMEOUT.
    pub user_timeout: Duration,
}

impl Keepalive {
    /// Idle time before the first probe of a peer that may not be silent for longer than the probes take.
    pub const IDLE_DEFAULT: Duration = Duration::from_secs(60);

    /// The most that the kernel takes (MAX_TCP_KEEPIDLE).
    const IDLE_MAX: Duration = Duration::from_secs(32_767);

    /// From the first probe until the last one counts as lost.
    pub fn probing(&self) -> Duration {
        self.interval * self.count
    }
}

/// The kernel takes twice as much, for its own structures. Linux allows no more than 208 KiB by default (`net.core.wmem_max`).
const BUFFER_DEFAULT: usize = 192 * 1024;

impl Default for Settings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(2),
            sources: Vec::new(),
            keepalive: Keepalive {
                idle: None,
                interval: Duration::from_secs(15),
                count: 4,
            },
            user_timeout: None,
            client_buffer: BUFFER_DEFAULT,
            node_buffer: BUFFER_DEFAULT,
        }
    }
}

impl Settings {
    /// Sets all options on a listener; on Linux, accepted sockets inherit them.
    ///
    /// # Errors
    /// The kernel refuses an option.
    pub fn apply(&self, listener: SockRef<'_>) -> io::Result<()> {
        listener.set_tcp_nodelay(true)?;
        set_buffers(&listener, self.client_buffer)?;
        self.watch(listener)
    }

    /// How many source ports there are towards one node: those of the kernel's range, for each source address of a family. If
    /// the kernel does not tell its range, the usual one is assumed.
    pub fn source_ports(&self) -> usize {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let range = range
            .ok()
            .and_then(|text| port_range(&text))
            .unwrap_or(PORT_RANGE_USUAL);
        let ports = usize::from(range.1 - range.0) + 1;
        let families = [IpAddr::is_ipv4, IpAddr::is_ipv6];
        let sources = families.map(|is_one| self.sources.iter().filter(|source| is_one(source)).count());
        // Of two families, the one with fewer sources; a node has addresses of either.
        let sources = sources.into_iter().filter(|sources| *sources > 0).min();
        ports * sources.unwrap_or(1)
    }

    /// Lets the kernel detect when the peer of `socket` has vanished.
    ///
    /// This takes five system calls, and none of the options acts within the first seconds. So a socket to a node gets them only
    /// once its connection has lasted for a while, which saves 3 % of the CPU in a storm of short connections.
    ///
    /// # Errors
    /// The kernel refuses an option.
    pub(crate) fn watch(&self, socket: SockRef<'_>) -> io::Result<()> {
        let WatchTimes { idle, user_timeout } = self.watch_times(None);
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(idle)
                .with_interval(self.keepalive.interval)
                .with_retries(self.keepalive.count),
        )?;
        socket.set_tcp_user_timeout(Some(user_timeout))
    }

    /// Changes what a client's socket has inherited from its listener, if this client may be silent for longer. Like
    /// [`Settings::watch`], it is called once a connection has lasted for a while.
    ///
    /// # Errors
    /// The kernel refuses an option.
    pub(crate) fn watch_silent(&self, client: SockRef<'_>, silence: Option<Duration>) -> io::Result<()> {
        let times = self.watch_times(silence);
        if times == self.watch_times(None) {
            return Ok(());
        }
        rustix::net::sockopt::set_tcp_keepidle(&*client, times.idle)?;
        client.set_tcp_user_timeout(Some(times.user_timeout))
    }

    /// What the kernel is told of a peer that may be silent for `silence`; `None` if that is not limited, or not known.
    ///
    /// With TCP_USER_TIMEOUT, Linux ends a connection whose probes are not answered by that and not by their number (tcp(7)). So it
    /// is never shorter than all the probes take, or one or two that are lost would end a connection. And unless the operator has
    /// said when probes begin, they do not end a client's connection before its own limit does: a device may sleep for as long as
    /// its Keep Alive allows, and answers nothing meanwhile.
    pub fn watch_times(&self, silence: Option<Duration>) -> WatchTimes {
        let probing = self.keepalive.probing();
        let (idle, silence) = match self.keepalive.idle {
            Some(idle) => (idle, Duration::ZERO),
            None => {
                let silence = silence.unwrap_or_default();
                let idle = silence.saturating_sub(probing).max(Keepalive::IDLE_DEFAULT);
                (idle.min(Keepalive::IDLE_MAX), silence)
            }
        };
        let least = (idle + probing).max(silence);
        WatchTimes {
            idle,
            user_timeout: self.user_timeout.unwrap_or_default().max(least),
        }
    }
}

/// How many of so many ports are free again each second, if all are in TIME_WAIT, which lasts a minute.
pub fn ports_rate(ports: usize) -> usize {
    ports / 60
}

/// Bounds the kernel's buffers, which it would otherwise let grow to 4 and 6 MiB for a peer that does not read.
fn set_buffers(socket: &SockRef<'_>, bytes: usize) -> io::Result<()> {
    socket.set_send_buffer_size(bytes)?;
    socket.set_recv_buffer_size(bytes)
}

/// Linux' default of `net.ipv4.ip_local_port_range`.
const PORT_RANGE_USUAL: (u16, u16) = (32_768, 60_999);

/// The first and the last port in the kernel's own words.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let mut ports = text.split_whitespace().map(str::parse);
    let (first, last) = (ports.next()?.ok()?, ports.next()?.ok()?);
    (first <= last).then_some((first, last))
}

/// Why a node could not be reached. If the endpoint has several addresses, the error names the last one tried.
#[derive(Debug)]
pub enum DialError {
    /// The address refused, was unreachable, or did not answer in time.
    Connect(SocketAddr, io::Error),
    /// The TLS handshake failed: [`io::ErrorKind::InvalidData`] if TLS failed, any other kind if the network did.
    Tls(SocketAddr, io::Error),
    /// The endpoint has no address.
    NoAddress,
    /// Every source port towards this address is in use, from every configured source address.
    SourcePorts(SocketAddr),
    /// The process has no descriptor or no memory left: not the node's fault.
    NoSocket(io::Error),
}

/// A connection to a node.
#[derive(Debug)]
pub struct Dialed {
    /// The socket, with TLS if the endpoint has it.
    pub socket: Socket,
    /// The one of the endpoint's addresses that was reached.
    pub address: SocketAddr,
    /// How many of the first bytes were sent.
    pub sent: usize,
}

/// Dials nodes from one worker.
#[derive(Debug)]
pub struct Dialer {
    settings: Settings,
    tls: Arc<NodesTls>,
    next_source: Cell<usize>,
}

impl Dialer {
    /// Creates a dialer without TLS.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            tls: Arc::default(),
            next_source: Cell::new(0),
        }
    }

    /// Adds TLS, with the settings that `tls` has at the time of dialing.
    pub(crate) fn with_tls(self, tls: Arc<NodesTls>) -> Self {
        Self { tls, ..self }
    }

    /// Connects to the first address of `endpoint` that can be reached, until `due` at the latest, and sends `header` and as
    /// much of `first` as fits; either may be empty. A host name may resolve to both address families while the node listens
    /// on only one of them.
    ///
    /// The bytes are offered to the kernel while the connection is still being established: a node on the same host gets
    /// them without another turn of the event loop, and any other node gets them with the last packet of the TCP handshake.
    /// If the handshake fails, the same call returns the error.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(
        &self,
        endpoint: &Endpoint,
        header: &[u8],
        first: &[u8],
        due: Option<Instant>,
    ) -> Result<Dialed, DialError> {
        let joined;
        let bytes = match header {
            [] => first,
            // In one packet: nodes close a connection that sends a header and then nothing for some time.
            header => {
                joined = [header, first].concat();
                &joined
            }
        };
        let mut failed = DialError::NoAddress;
        for address in endpoint.addresses.iter().copied() {
            let own_due = Instant::now() + self.settings.timeout;
            let due = due.map_or(own_due, |due| due.min(own_due));
            let dialed = match &endpoint.tls {
                None => self.dial_plain(address, bytes, header.len(), due).await,
                // Boxed, since TLS to nodes is rare and its future is large.
                Some(tls) => Box::pin(self.dial_tls(address, header, first, &tls.server_name, due)).await,
            };
            match dialed {
                Ok((socket, sent)) => return Ok(Dialed { socket, address, sent }),
                Err(error @ (DialError::Connect(..) | DialError::Tls(..))) => failed = error,
                Err(error) => return Err(error),
            }
        }
        Err(failed)
    }

    async fn dial_plain(
        &self,
        address: SocketAddr,
        bytes: &[u8],
        header_bytes: usize,
        due: Instant,
    ) -> Result<(Socket, usize), DialError> {
        let socket = Socket::new(self.connect(address)?).map_err(DialError::NoSocket)?;
        let sent = tokio::time::timeout_at(due, send_first(&socket, bytes, header_bytes)).await;
        match flatten(sent) {
            Ok(sent) => Ok((socket, sent - header_bytes)),
            Err(error) => Err(DialError::Connect(address, error)),
        }
    }

    /// Like [`Dialer::dial_plain`], with TLS. The handshake follows the header, which nodes read first.
    async fn dial_tls(
        &self,
        address: SocketAddr,
        header: &[u8],
        first: &[u8],
        server_name: &str,
        due: Instant,
    ) -> Result<(Socket, usize), DialError> {
        let socket = Socket::new(self.connect(address)?).map_err(DialError::NoSocket)?;
        // Even without a header, so that an error up to here is attributed to TCP, and a later one to TLS.
        let connected = tokio::time::timeout_at(due, send_first(&socket, header, header.len())).await;
        flatten(connected).map_err(|error| DialError::Connect(address, error))?;
        let sent = async {
            let socket = self.tls.secure(server_name, socket).await?;
            let sent = match first {
                [] => 0,
                first => std::future::poll_fn(|cx| socket.poll_send(cx, first)).await?,
            };
            // A node may hold back its CONNACK until its last TLS record is acknowledged (Nagle): 40 ms with mosquitto.
            rustix::net::sockopt::set_tcp_quickack(&socket, true)?;
            Ok((socket, sent))
        };
        flatten(tokio::time::timeout_at(due, sent).await).map_err(|error| DialError::Tls(address, error))
    }

    /// Starts the TCP handshake from the next source address that has a free port.
    fn connect(&self, address: SocketAddr) -> Result<OwnedFd, DialError> {
        let sources = &self.settings.sources;
        let start = self.next_source.get();
        self.next_source.set(start.wrapping_add(1));
        for turn in 0..sources.len().max(1) {
            let source = sources
                .get((start.wrapping_add(turn)) % sources.len().max(1))
                .filter(|source| source.is_ipv4() == address.is_ipv4());
            let socket = self.socket(address, source).map_err(DialError::NoSocket)?;
            match rustix::net::connect(&socket, &address) {
                Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => return Ok(socket),
                Err(Errno::ADDRNOTAVAIL) => {}
                Err(errno) => return Err(DialError::Connect(address, errno.into())),
            }
        }
        Err(DialError::SourcePorts(address))
    }

    fn socket(&self, address: SocketAddr, source: Option<&IpAddr>) -> io::Result<OwnedFd> {
        let socket = socket2::Socket::new_raw(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        let socket = descriptors::keep(socket)?;
        socket.set_tcp_nodelay(true)?;
        // Before the handshake, which agrees on the window.
        set_buffers(&SockRef::from(&socket), self.settings.node_buffer)?;
        // The handshake's last ACK travels with the CONNECT: one packet less (tcp(7), TCP_QUICKACK).
        rustix::net::sockopt::set_tcp_quickack(&socket, false)?;
        if let Some(source) = source {
            sys::choose_port_when_connecting(&socket)?;
            socket.bind(&SocketAddr::new(*source, 0).into())?;
        }
        Ok(socket.into())
    }
}

/// Waits until `socket` is connected, and sends as many of `bytes` as fit, but at least `least`. Returns how many were sent.
async fn send_first(socket: &Socket, bytes: &[u8], least: usize) -> io::Result<usize> {
    let send = |from: usize| {
        let rest = &bytes[from..];
        std::future::poll_fn(move |cx| socket.poll_send(cx, rest))
    };
    // Called even if `bytes` is empty: until the connection is established, the kernel does not accept even an empty send.
    let mut sent = send(0).await?;
    // The caller does not send the rest of a header later.
    while sent < least {
        sent += send(sent).await?;
    }
    Ok(sent)
}

/// Turns a timeout into an I/O error.
fn flatten<T>(step: Result<io::Result<T>, tokio::time::error::Elapsed>) -> io::Result<T> {
    step.unwrap_or_else(|elapsed| Err(elapsed.into()))
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

    #[test]
    fn the_kernels_port_range_is_read_as_it_is_written() {
        assert_eq!(port_range("32768\t60999\n"), Some(PORT_RANGE_USUAL));
        assert_eq!(port_range("60999 32768"), None);
        assert_eq!(port_range("32768"), None);
    }

    #[test]
    fn no_peer_is_given_up_before_all_its_probes_are_lost() {
        let times = |idle, user_timeout, silence| {
            let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
            let settings = Settings {
                keepalive: Keepalive {
                    idle: seconds(idle),
                    interval: Duration::from_secs(15),
                    count: 4,
                },
                user_timeout: seconds(user_timeout),
                ..Settings::default()
            };
            let WatchTimes { idle, user_timeout } = settings.watch_times(seconds(silence));
            (idle.as_secs(), user_timeout.as_secs())
        };
        assert_eq!(times(None, None, None), (60, 120));
        assert_eq!(times(Some(10), None, None), (10, 70));
        assert_eq!(times(Some(10), Some(5), None), (10, 70), "raised");
        assert_eq!(times(Some(10), Some(600), None), (10, 600));
        // A client that may be silent, which its own limit ends.
        assert_eq!(times(None, None, Some(50)), (60, 120));
        assert_eq!(times(None, None, Some(125)), (65, 125));
        assert_eq!(times(None, Some(30), Some(485)), (425, 485));
        assert_eq!(times(None, None, Some(98_338)), (32_767, 98_338));
        // The operator has said when probes begin.
        assert_eq!(times(Some(10), None, Some(485)), (10, 70));
    }

    #[test]
    fn each_source_address_adds_its_ports() {
        let ports = |sources: &[&str]| {
            let sources = sources.iter().map(|source| source.parse().expect("an address"));
            let sources = sources.collect();
            Settings {
                sources,
                ..Settings::default()
            }
            .source_ports()
        };
        let one = ports(&[]);
        assert!(one > 0);
        assert_eq!(ports(&["10.0.0.1", "10.0.0.2", "10.0.0.3"]), 3 * one);
        assert_eq!(ports(&["10.0.0.1", "10.0.0.2", "::1"]), one);
    }

    #[tokio::test]
    async fn the_first_address_that_can_be_reached_is_taken() {
        let (gone, closed) = listener();
        drop(gone);
        let (open, address) = listener();
        let dialer = Dialer::new(Settings::default());
        let both = Endpoint::plain(Arc::new([closed, address]));
        let dialed = dialer.dial(&both, b"", b"x", None).await.expect("a node");
        assert_eq!((dialed.address, dialed.sent), (address, 1));
        open.accept().expect("it was dialled");
        let gone = Endpoint::plain(Arc::new([closed]));
        for first in [&b"x"[..], b""] {
            let refused = dialer.dial(&gone, b"", first, None).await;
            assert!(
                matches!(refused, Err(DialError::Connect(address, _)) if address == closed),
                "{refused:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_header_goes_before_the_first_bytes_and_is_not_counted() {
        let (node, address) = listener();
        let dialer = Dialer::new(Settings::default());
        let endpoint = Endpoint::plain(Arc::new([address]));
        let dialed = dialer
            .dial(&endpoint, b"header,", b"first", None)
            .await
            .expect("a node");
        assert_eq!(dialed.sent, 5);
        drop(dialed);
        let (mut accepted, _) = node.accept().expect("it was dialled");
        let mut received = String::new();
        accepted.read_to_string(&mut received).expect("all of it");
        assert_eq!(received, "header,first");
    }
}
