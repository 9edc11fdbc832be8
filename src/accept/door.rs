//! One listener on one worker: a socket of its own, which waits for no peer and never spins.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockFilter, SockRef, Type};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use crate::descriptors::{self, Reserve};
use crate::dial;
use crate::log::{self, Seldom};
use crate::metrics::Tally;
use crate::socket::reset_on_close;

/// Connections that the kernel keeps for us to accept, if `net.core.somaxconn` allows.
const BACKLOG: i32 = 65_535;

/// A client that says nothing for this long after its handshake is accepted all the same, and its deadline begins.
const SILENT_SECONDS: i32 = 1;

/// How long the door stays shut when the kernel has no descriptor or memory for one more connection.
const PAUSE: Duration = Duration::from_millis(50);

/// Clients turned away before the door pauses, so that those who come back at once cannot keep the worker busy.
const TURNED_AWAY_AT_ONCE: usize = 1_024;

// Of classic BPF: what a filter's instruction does (linux/bpf_common.h).
const BPF_LD: u16 = 0x00;
const BPF_JMP: u16 = 0x05;
const BPF_RET: u16 = 0x06;
const BPF_B: u16 = 0x10;
const BPF_ABS: u16 = 0x20;
const BPF_JSET: u16 = 0x40;
const BPF_K: u16 = 0x00;

/// A client that came in.
#[derive(Debug)]
pub struct Accepted {
    /// Its socket, nonblocking.
    pub socket: OwnedFd,
    /// Its address.
    pub client: SocketAddr,
    /// When it came.
    pub at: Instant,
}

/// A listener's socket on one worker.
#[derive(Debug)]
pub struct Door {
    listener: AsyncFd<OwnedFd>,
    /// Lent for a moment when no descriptor is left, so that the clients that wait can be told.
    reserve: RefCell<Reserve>,
    /// Clients turned away since the tally was told.
    turned_away: Cell<u64>,
    no_descriptor: Seldom,
    no_memory: Seldom,
}

/// Binds `workers` sockets to one address, so that the kernel spreads the clients over them.
///
/// Before them, one without SO_REUSEPORT is bound and closed: it fails where another program, a second Remora included,
/// has the port, which SO_REUSEPORT alone would share in silence.
///
/// # Errors
/// What the kernel refuses; an address in use, above all.
pub fn bind(
    address: SocketAddr,
    workers: usize,
    settings: &dial::Settings,
) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    if address.port() != 0 {
        socket(address, false)?.bind(&address.into())?;
    }
    let mut bound = address;
    let mut sockets = Vec::with_capacity(workers);
    for _ in 0..workers {
        let socket = socket(address, true)?;
        // Accepted sockets inherit these (Linux), which saves six system calls for each.
        settings.apply(SockRef::from(&socket))?;
        socket.bind(&bound.into())?;
        defer_accept(socket.as_fd(), SILENT_SECONDS)?;
        socket.listen(BACKLOG)?;
        bound = socket
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("a TCP socket without an IP address"))?;
        sockets.push(socket.into());
    }
    Ok((bound, sockets))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new_raw(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    Ok(socket)
}

/// Leaves a client in the kernel until it has said something: one wake-up instead of two, and a scanner that says nothing
/// costs neither a descriptor nor memory here until `seconds` have passed.
#[expect(
    unsafe_code,
    reason = "no crate at hand has TCP_DEFER_ACCEPT; the option takes a pointer to one int and reads it"
)]
fn defer_accept(listener: BorrowedFd<'_>, seconds: nix::libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int, which is there, from a descriptor that is open.
    let result = unsafe {
        nix::libc::setsockopt(
            listener.as_raw_fd(),
            nix::libc::IPPROTO_TCP,
            nix::libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size_of_val(&seconds) as nix::libc::socklen_t,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(())
}

impl Door {
    /// A door on this worker's socket.
    ///
    /// # Errors
    /// What epoll says; no descriptor for the reserve.
    #[expect(
        unsafe_code,
        reason = "tokio asks for a promise that the descriptor stays open and the same while registered"
    )]
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open, always the same, and closed only when the `AsyncFd` that now owns it goes.
        let listener = unsafe { AsyncFd::register(socket) }.map_err(io::Error::from)?;
        Ok(Self {
            listener,
            reserve: RefCell::new(Reserve::new()?),
            turned_away: Cell::new(0),
            no_descriptor: Seldom::default(),
            no_memory: Seldom::default(),
        })
    }

    /// The next client.
    ///
    /// Out of descriptors, the clients that wait are reset at once, and the door pauses: it never spins.
    pub async fn accept(&self, tally: &Tally) -> Accepted {
        loop {
            let Ok(mut ready) = self.listener.readable().await else {
                // The runtime is going down.
                std::future::pending::<()>().await;
                continue;
            };
            match self.accept_now() {
                Ok(accepted) => return accepted,
                // Without its reserve a door must not wait for a client, who may never come.
                Err(Errno::AGAIN) if !self.reserve.borrow_mut().take_back() => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::MFILE | Errno::NFILE) => {
                    self.turn_away_all();
                    let turned_away = self.turned_away.take();
                    tally.turned_away().add(turned_away);
                    log::warn_seldom!(
                        self.no_descriptor.due(Instant::now()),
                        turned_away,
                        "no descriptor left: raise the limit of open files, or lower limits.connections"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
                Err(Errno::NOBUFS | Errno::NOMEM) => {
                    log::warn_seldom!(
                        self.no_memory.due(Instant::now()),
                        "the kernel has no memory for another connection"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
                // A client that left while it waited; the next one may be fine (accept(2), "Error handling").
                Err(_) => {}
            }
        }
    }

    /// A client that waits to be accepted, if there is one.
    pub fn accept_waiting(&self) -> Option<Accepted> {
        self.accept_now().ok()
    }

    /// Lets the kernel watch the clients that come from now on by other settings.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn apply(&self, settings: &dial::Settings) -> io::Result<()> {
        settings.apply(SockRef::from(self.listener.get_ref()))
    }

    /// Takes clients that have said nothing as well: the door closes soon.
    pub fn last_call(&self) {
        // A listener that is gone has nobody waiting.
        let _ = defer_accept(self.listener.as_fd(), 0);
    }

    /// Lets no handshake begin any more; those that have begun are still completed. Else a client whose handshake ends at
    /// the moment of closing would be reset.
    pub fn no_more(&self) {
        /// Where the flags are in a TCP header, which is what such a filter sees first.
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

    /// The next client that waits, or EMFILE also where the descriptor it got is one that a reserve lacks.
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

    /// Resets the clients that wait, with the descriptor kept for that.
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

    /// Lets a client that is dropped next hear a reset.
    fn turn_away(&self, accepted: &Accepted) {
        reset_on_close(accepted.socket.as_fd());
        self.turned_away.update(|turned_away| turned_away + 1);
    }
}
