//! One listener's socket on one worker. Accepting never waits for what a peer sends, and never spins.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, sockopt};
use socket2::{Domain, Protocol, SockFilter, SockRef, Type};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::base::log::{self, Throttled};
use crate::net::descriptors::{self, Reserve};
use crate::net::dial;
use crate::net::socket::{reset_on_close, sys};
use crate::path::counters::Counters;

/// The backlog: connections that wait in the kernel to be accepted, if `net.core.somaxconn` allows.
const BACKLOG: i32 = 65_535;

/// A client that sends nothing for this long after its TCP handshake is accepted anyway, and its deadline begins.
const SILENT_SECONDS: i32 = 1;

/// How long a listener pauses when the kernel has no descriptor or memory for one more connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Clients turned away before a listener pauses, so that clients that reconnect at once cannot keep the worker busy.
const TURNED_AWAY_AT_ONCE: usize = 1_024;

// Opcodes of classic BPF (linux/bpf_common.h).
const BPF_LD: u16 = 0x00;
const BPF_JMP: u16 = 0x05;
const BPF_RET: u16 = 0x06;
const BPF_B: u16 = 0x10;
const BPF_ABS: u16 = 0x20;
const BPF_JSET: u16 = 0x40;
const BPF_K: u16 = 0x00;

/// An accepted client.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket, nonblocking.
    pub socket: OwnedFd,
    /// Its address.
    pub client: SocketAddr,
    /// When it was accepted.
    pub at: Instant,
}

/// A listener's socket on one worker.
#[derive(Debug)]
pub(crate) struct ListenSocket {
    listener: AsyncFd<OwnedFd>,
    /// Closed for a moment when no descriptor is left, so that waiting clients can be accepted and reset.
    reserve: RefCell<Reserve>,
    /// Clients turned away that are not in the counter yet.
    turned_away: Cell<u64>,
    no_descriptor: Throttled,
    no_memory: Throttled,
}

/// Binds `workers` sockets to one address, so that the kernel spreads the clients over them; with `freebind`, even if this machine
/// does not have the address.
///
/// A socket without SO_REUSEPORT is bound first, and closed: this fails if another program, or a second Remora, has the
/// port. With SO_REUSEPORT alone, they would share the port unnoticed.
///
/// # Errors
/// The kernel refuses, most often because the address is in use.
pub fn bind(
    address: SocketAddr,
    freebind: bool,
    workers: usize,
    settings: &dial::Settings,
) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    if address.port() != 0 {
        probe(address, freebind)?;
    }
    let mut bound = address;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = listen(bound, freebind, settings)?;
        bound = address_of(&socket)?;
        sockets.push(socket.into());
    }
    Ok((bound, sockets))
}

/// Binds `more` sockets to an address at which this process has sockets of another one.
///
/// # Errors
/// The kernel refuses: those sockets were opened by another user, or without SO_REUSEPORT.
pub(crate) fn bind_beside(
    address: SocketAddr,
    freebind: bool,
    more: usize,
    settings: &dial::Settings,
) -> io::Result<Vec<OwnedFd>> {
    (0..more)
        .map(|_| Ok(listen(address, freebind, settings)?.into()))
        .collect()
}

/// Gives a socket that another process has opened the options that [`bind`] gives, and returns where it is bound.
///
/// # Errors
/// It is no TCP socket that listens.
pub(crate) fn inherit(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let as_socket = SockRef::from(socket);
    if !sockopt::socket_acceptconn(socket)? {
        return Err(io::Error::other("a socket that does not listen"));
    }
    address_of(&as_socket)
}

/// Gives an inherited socket the options of this process. Not before another process that had it has let it go: both have the same.
///
/// # Errors
/// The kernel refuses an option.
pub(crate) fn make_own(socket: &OwnedFd, settings: &dial::Settings) -> io::Result<()> {
    SockRef::from(socket).set_nonblocking(true)?;
    settings.apply(SockRef::from(socket))?;
    sys::defer_accept(socket.as_fd(), SILENT_SECONDS)
}

fn listen(address: SocketAddr, freebind: bool, settings: &dial::Settings) -> io::Result<socket2::Socket> {
    let socket = socket(address, true, freebind)?;
    // Accepted sockets inherit these (Linux), which saves six system calls for each.
    settings.apply(SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    sys::defer_accept(socket.as_fd(), SILENT_SECONDS)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn address_of(socket: &socket2::Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| io::Error::other("a TCP socket without an IP address"))
}

/// Binds a socket to the address and closes it, as [`bind`] does at first. It does not listen, so no client notices.
///
/// # Errors
/// The kernel refuses, most often because another socket listens there.
pub fn probe(address: SocketAddr, freebind: bool) -> io::Result<()> {
    socket(address, false, freebind)?.bind(&address.into())
}

fn socket(address: SocketAddr, shared: bool, freebind: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new_raw(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if freebind {
        match address.is_ipv4() {
            true => socket.set_freebind_v4(true)?,
            false => socket.set_freebind_v6(true)?,
        }
    }
    Ok(socket)
}

impl ListenSocket {
    /// Listens on this worker's socket.
    ///
    /// # Errors
    /// epoll refuses the socket, or no descriptor is left for the reserve.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let listener = sys::register(socket)?;
        Ok(Self {
            listener,
            reserve: RefCell::new(Reserve::new()?),
            turned_away: Cell::new(0),
            no_descriptor: Throttled::default(),
            no_memory: Throttled::default(),
        })
    }

    /// The next client.
    ///
    /// When no descriptor is left, waiting clients are reset at once and the listener pauses, so that it never spins.
    pub(crate) async fn accept(&self, counters: &Counters) -> Accepted {
        loop {
            let Ok(mut ready) = self.listener.readable().await else {
                // The runtime is shutting down.
                std::future::pending::<()>().await;
                continue;
            };
            match self.accept_now() {
                Ok(accepted) => return accepted,
                // A listener without its reserve must not wait for a client, which may never connect.
                Err(Errno::AGAIN) if !self.reserve.borrow_mut().take_back() => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::MFILE | Errno::NFILE) => {
                    self.turn_away_all();
                    let turned_away = self.turned_away.take();
                    counters.turned_away().add(turned_away);
                    log::warn_throttled!(
                        self.no_descriptor.due(Instant::now()),
                        turned_away,
                        "no descriptor left: raise the limit of open files, or lower limits.connections"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Errno::NOBUFS | Errno::NOMEM) => {
                    log::warn_throttled!(
                        self.no_memory.due(Instant::now()),
                        "the kernel has no memory for another connection"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
                // A client that closed while it waited; the next one may be fine (accept(2), "Error handling").
                Err(_) => {}
            }
        }
    }

    /// The next client in the backlog, if there is one.
    pub(crate) fn accept_waiting(&self) -> Option<Accepted> {
        self.accept_now().ok()
    }

    /// A duplicate, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.listener.get_ref().try_clone()
    }

    /// Sets keepalive and user timeout for the clients accepted from now on.
    ///
    /// # Errors
    /// The kernel refuses an option.
    pub(crate) fn apply(&self, settings: &dial::Settings) -> io::Result<()> {
        settings.apply(SockRef::from(self.listener.get_ref()))
    }

    /// Accepts clients that have sent nothing, too: the listener closes soon.
    pub(crate) fn last_call(&self) {
        // An error means that the socket no longer listens, and then no client waits.
        let _ = sys::defer_accept(self.listener.as_fd(), 0);
    }

    /// Drops new SYNs, while handshakes that have begun still complete. Otherwise a client whose handshake completes
    /// during the close would be reset.
    pub(crate) fn drop_new_syns(&self) {
        /// The offset of the flags in the TCP header, where the filter's data begins.
        const FLAGS_AT: u32 = 13;
        const SYN: u32 = 0x02;
        let load_flags = SockFilter::new(BPF_LD | BPF_B | BPF_ABS, 0, 0, FLAGS_AT);
        let is_syn = SockFilter::new(BPF_JMP | BPF_JSET | BPF_K, 0, 1, SYN);
        let drop = SockFilter::new(BPF_RET | BPF_K, 0, 0, 0);
        let keep = SockFilter::new(BPF_RET | BPF_K, 0, 0, u32::MAX);
        let filter = [load_flags, is_syn, drop, keep];
        if let Err(error) = SockRef::from(self.listener.get_ref()).attach_filter(&filter) {
            tracing::debug!(%error, "clients may be reset while a listener closes");
        }
    }

    /// The next waiting client. Fails with EMFILE also if a reserve needs the client's descriptor.
    fn accept_now(&self) -> rustix::io::Result<Accepted> {
        let accepted = self.take_from_kernel()?;
        if descriptors::is_reserve_lacking() {
            self.turn_away(&accepted);
            return Err(Errno::MFILE);
        }
        Ok(accepted)
    }

    fn take_from_kernel(&self) -> rustix::io::Result<Accepted> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, client) = rustix::net::acceptfrom_with(&self.listener, flags)?;
        let client = client
            .and_then(|address| SocketAddr::try_from(address).ok())
            .ok_or(Errno::CONNABORTED)?;
        // An IPv4 client of a dual-stack listener is an IPv4 client.
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        Ok(Accepted {
            socket,
            client,
            at: Instant::now(),
        })
    }

    /// Resets the waiting clients, using the reserved descriptor.
    fn turn_away_all(&self) {
        self.reserve.borrow_mut().lend(|| {
            for _ in 0..TURNED_AWAY_AT_ONCE {
                let Ok(accepted) = self.take_from_kernel() else {
                    break;
                };
                self.turn_away(&accepted);
            }
        });
    }

    /// Makes the close of `accepted` a reset; the caller drops it next.
    fn turn_away(&self, accepted: &Accepted) {
        reset_on_close(accepted.socket.as_fd());
        self.turned_away.update(|turned_away| turned_away + 1);
    }
}
