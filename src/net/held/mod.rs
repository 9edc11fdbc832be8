//! What clients hold before they are relayed, across all workers, and its limits: bytes, places among those whose CONNECT is awaited,
//! and places in TLS handshakes. Who is evicted when there is no room is decided in `ledger`.

mod eviction;
mod ledger;
mod limits;
mod reader;
mod sources;

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use tokio::time::Instant;

use crate::base::sync::{Mutex, MutexGuard};

pub use eviction::Eviction;
use eviction::Signal;
pub use ledger::SMALL_CONNECT_BYTES;
use ledger::{HolderId, Ledger, NoRoom, Place};
pub use limits::{Limits, Room, source_of};
pub(crate) use reader::{HeldReader, ReadError};

/// What a connection that is being set up takes besides the bytes of its client: its task, its record and its sockets.
/// Measured with 3,000 clients: 4,379 bytes for one that has sent one byte, 4,585 for one whose node does not answer.
pub const CONNECTION_BYTES: usize = 4_608;

/// What the TLS of a client takes besides: keys, rustls' state and its buffer. Measured with 3,000 clients: 16,900 bytes in a
/// handshake, less than that after it.
pub const TLS_BYTES: usize = 16_896;

/// How many bytes rustls reads at once, for which [`TLS_BYTES`] has room.
pub(crate) const TLS_READ_BYTES: usize = 4 * 1024;

/// The account of all connections of the process that are being set up.
#[derive(Debug)]
pub struct HeldBytes(Mutex<Ledger>);

/// One connection on the account, off it when the last reservation and place are dropped.
#[derive(Debug)]
struct Ticket {
    held: Arc<HeldBytes>,
    holder: HolderId,
    signal: Arc<Signal>,
}

/// Bytes that one connection holds; released when dropped.
#[derive(Debug)]
pub struct Reservation {
    ticket: Arc<Ticket>,
    bytes: usize,
    /// The part of `bytes` that covers incomplete TLS records.
    sealed: usize,
}

/// A place among those whose CONNECT is awaited; released when dropped.
#[derive(Debug)]
pub struct AwaitingConnect(Arc<Ticket>);

/// A place in a TLS handshake; released when dropped.
#[derive(Debug)]
pub struct Handshake(Arc<Ticket>);

/// The limit is reached, and this connection is the one that was evicted for it.
#[derive(Debug, PartialEq, Eq)]
pub struct HeldBytesFull;

impl HeldBytes {
    /// Creates an account with these limits.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Ledger::new(limits))))
    }

    /// How many bytes are held now, by those too who were evicted and are not gone yet.
    pub fn bytes(&self) -> usize {
        self.lock().taken(Room::Bytes)
    }

    /// How many connections there are now whose CONNECT has not been read yet.
    pub fn awaiting_connect(&self) -> usize {
        self.lock().taken(Room::Undecided)
    }

    /// How many TLS handshakes are in progress now.
    pub fn handshakes(&self) -> usize {
        self.lock().taken(Room::Handshakes)
    }

    /// Changes the limits; nobody is evicted before there is something new.
    pub fn set_limits(&self, limits: Limits) {
        self.lock().set_limits(limits);
    }

    /// Puts a connection on the account that was accepted at `since`, whose source is not known yet.
    pub fn reservation(self: &Arc<Self>, since: Instant) -> Reservation {
        let signal: Arc<Signal> = Arc::default();
        let holder = self.lock().enter(since, Arc::clone(&signal));
        Reservation::of(Arc::new(Ticket {
            held: Arc::clone(self),
            holder,
            signal,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // No code that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Takes something, and wakes those who were evicted for it.
    fn take<E>(&self, take: impl FnOnce(&mut Ledger, &mut Vec<Arc<Signal>>) -> Result<(), E>) -> Result<(), E> {
        let mut evicted = Vec::new();
        let taken = take(&mut self.held.lock(), &mut evicted);
        for signal in evicted {
            signal.wake();
        }
        taken
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.held.lock().leave(self.holder);
    }
}

impl Reservation {
    fn of(ticket: Arc<Ticket>) -> Self {
        Self {
            ticket,
            bytes: 0,
            sealed: 0,
        }
    }

    /// Another reservation of the same connection, which holds nothing yet.
    #[must_use]
    pub fn part(&self) -> Self {
        Self::of(Arc::clone(&self.ticket))
    }

    /// With this, the connection learns of its eviction.
    pub fn eviction(&self) -> Eviction {
        Eviction::new(&self.ticket.signal)
    }

    /// Reserves `more` bytes for what the client has sent, and evicts others until there is room for it.
    ///
    /// Their bytes are released when they are dropped, so until then the account may exceed its limit by the bytes reserved in the
    /// meantime.
    ///
    /// # Errors
    /// This connection was evicted, perhaps just now, because it was its turn.
    pub fn grow(&mut self, more: usize) -> Result<(), HeldBytesFull> {
        let holder = self.ticket.holder;
        self.bytes += more;
        let grown = self.ticket.take(|ledger, evicted| ledger.grow(holder, more, evicted));
        grown.map_err(|NoRoom| HeldBytesFull)
    }

    /// Reserves `more` bytes for the connection itself, until it leaves the account.
    ///
    /// # Errors
    /// As for [`Reservation::grow`].
    pub fn grow_fixed(&self, more: usize) -> Result<(), HeldBytesFull> {
        let holder = self.ticket.holder;
        let grown = self
            .ticket
            .take(|ledger, evicted| ledger.grow_fixed(holder, more, evicted));
        grown.map_err(|NoRoom| HeldBytesFull)
    }

    /// Takes a place among those whose CONNECT is awaited, for a client from `source`, and `more` bytes for the connection itself. What
    /// it holds counts at that source from now on.
    ///
    /// # Errors
    /// What there was too little of. All places are taken, and nobody is to be evicted; or it was evicted itself.
    pub fn await_connect(&self, source: IpAddr, more: usize, now: Instant) -> Result<AwaitingConnect, Room> {
        let holder = self.ticket.holder;
        let identify = |ledger: &mut Ledger| ledger.identify(holder, source);
        self.take_place(Place::Undecided, identify, more, now)
            .map(AwaitingConnect)
    }

    /// Takes a place in a TLS handshake, and `more` bytes for the TLS itself.
    ///
    /// # Errors
    /// As for [`Reservation::await_connect`].
    pub fn begin_handshake(&self, more: usize, now: Instant) -> Result<Handshake, Room> {
        self.take_place(Place::Handshake, |_| (), more, now).map(Handshake)
    }

    fn take_place(
        &self,
        place: Place,
        first: impl FnOnce(&mut Ledger),
        more: usize,
        now: Instant,
    ) -> Result<Arc<Ticket>, Room> {
        let holder = self.ticket.holder;
        self.ticket.take(|ledger, evicted| {
            first(ledger);
            let room = match place {
                Place::Undecided => Room::Undecided,
                Place::Handshake => Room::Handshakes,
            };
            let taken = ledger.take_place(holder, place, now, evicted);
            taken.map_err(|NoRoom| room)?;
            let grown = ledger.grow_fixed(holder, more, evicted);
            grown.map_err(|NoRoom| {
                ledger.leave_place(holder, place);
                Room::Bytes
            })
        })?;
        Ok(Arc::clone(&self.ticket))
    }

    /// Sets the part for sealed bytes, those in incomplete TLS records, to their present number. See [`counted`].
    ///
    /// # Errors
    /// As for [`Reservation::grow`].
    pub fn cover(&mut self, sealed: usize) -> Result<(), HeldBytesFull> {
        self.uncover(sealed);
        let more = counted(sealed).saturating_sub(self.sealed);
        if more == 0 {
            return Ok(());
        }
        self.sealed += more;
        self.grow(more)
    }

    /// Releases what is reserved for sealed bytes beyond `sealed`.
    pub fn uncover(&mut self, sealed: usize) {
        let less = self.sealed.saturating_sub(counted(sealed));
        if less > 0 {
            self.sealed -= less;
            self.release(less);
        }
    }

    fn release(&mut self, less: usize) {
        self.bytes -= less;
        self.ticket.held.lock().shrink(self.ticket.holder, less);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // The last one takes the connection off the account, with everything that it has.
        if self.bytes > 0 && Arc::strong_count(&self.ticket) > 1 {
            self.release(self.bytes);
        }
    }
}

impl Drop for AwaitingConnect {
    fn drop(&mut self) {
        self.0.held.lock().leave_place(self.0.holder, Place::Undecided);
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.held.lock().leave_place(self.0.holder, Place::Handshake);
    }
}

/// How many of the `bytes` that rustls buffers are counted: 0 while they fit into the read buffer that it has in any case.
pub fn counted(bytes: usize) -> usize {
    match bytes {
        ..=TLS_READ_BYTES => 0,
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn account(bytes_max: usize) -> Arc<HeldBytes> {
        HeldBytes::new(Limits::of_bytes(bytes_max))
    }

    fn enter(held: &Arc<HeldBytes>) -> Reservation {
        held.reservation(Instant::now())
    }

    #[test]
    fn a_reservation_is_given_back_when_dropped() {
        let held = account(100_000);
        let mut reservation = enter(&held);
        let mut part = reservation.part();
        reservation.grow(10).expect("room");
        reservation.grow_fixed(5_000).expect("room");
        part.grow(9_000).expect("room");
        assert_eq!(held.bytes(), 14_010);
        drop(part);
        assert_eq!(held.bytes(), 5_010);
        let places = (
            reservation.await_connect(SOURCE, 100, Instant::now()).expect("room"),
            reservation.begin_handshake(200, Instant::now()).expect("room"),
        );
        drop(reservation);
        assert_eq!(held.bytes(), 5_300, "the connection is still there");
        assert_eq!((held.awaiting_connect(), held.handshakes()), (1, 1));
        drop(places);
        assert!(held.lock().is_empty());
    }

    #[test]
    fn what_is_sealed_is_covered_once_and_comes_back_when_it_no_longer_is() {
        let held = account(100_000);
        let mut reservation = enter(&held);
        for (sealed, bytes) in [
            (TLS_READ_BYTES, 0),
            (10_000, 10_000),
            (10_000, 10_000),
            (9_000, 9_000),
            (12_000, 12_000),
            (TLS_READ_BYTES, 0),
            (TLS_READ_BYTES + 1, TLS_READ_BYTES + 1),
        ] {
            assert_eq!(reservation.cover(sealed), Ok(()), "{sealed}");
            assert_eq!(held.bytes(), bytes, "{sealed}");
        }
        assert_eq!(reservation.cover(100_001), Err(HeldBytesFull));
    }

    #[test]
    fn one_that_has_a_place_and_no_bytes_has_neither() {
        let held = account(1_000);
        let reservation = enter(&held);
        let place = reservation.await_connect(SOURCE, 1_001, Instant::now());
        assert!(matches!(place, Err(Room::Bytes)), "{place:?}");
        assert_eq!(held.awaiting_connect(), 0);
        drop(reservation);
        assert!(held.lock().is_empty());
    }

    #[tokio::test]
    async fn whatever_a_connection_waits_for_its_eviction_ends_it() {
        let held = account(20_000);
        let (mut oldest, mut other) = (enter(&held), enter(&held));
        oldest.grow(10_000).expect("room");
        let eviction = oldest.eviction();
        let evict = async {
            tokio::task::yield_now().await;
            other.grow(10_000).expect("the oldest is evicted instead");
            // It has not gone yet.
            assert_eq!(held.bytes(), 20_000);
        };
        let wait = async {
            let waits = std::pin::pin!(async move {
                let _held = oldest;
                std::future::pending::<()>().await;
            });
            eviction.or(waits).await
        };
        let both = async { tokio::join!(wait, evict) };
        let (ended, ()) = tokio::time::timeout(Duration::from_secs(5), both)
            .await
            .expect("it hears of it");
        assert_eq!(ended, Err(Room::Bytes));
        assert_eq!(held.bytes(), 10_000, "what it held was dropped");
        // What is evicted before it begins does not begin, and what takes too much itself ends as well.
        let begun = std::pin::pin!(async { panic!("it begins") });
        assert_eq!(eviction.or(begun).await, Err(Room::Bytes));
        let eviction = other.eviction();
        let takes = std::pin::pin!(async {
            assert_eq!(other.grow(10_001), Err(HeldBytesFull));
            std::future::pending::<()>().await;
        });
        assert_eq!(eviction.or(takes).await, Err(Room::Bytes));
    }

    #[tokio::test]
    async fn what_is_done_before_its_eviction_is_done() {
        let held = account(20_000);
        let eviction = enter(&held).eviction();
        assert_eq!(eviction.or(std::pin::pin!(async { 7 })).await, Ok(7));
    }
}
