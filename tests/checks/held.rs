//! The account of held bytes, as a machine whose orders are the input.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use remora::net::held::{
    AwaitingConnect, Eviction, Handshake, HeldBytes, HeldBytesFull, Limits, Reservation, Room, SMALL_CONNECT_BYTES,
    counted,
};
use tokio::time::Instant;

const HOLDERS: usize = 8;

/// Bytes that one source may have at least, whatever its share is.
const SHARE_BYTES_MIN: usize = 1 << 20;

/// Whatever is taken, covered, given back and dropped, and in whatever order: the account is the sum of what its holders
/// have, a full account evicts holders by age, those of a source with more than its share first, an evicted one hears of it, and
/// all comes back at the end.
///
/// Four bytes are an order: what and for whom, how many bytes, and to the power of what.
pub(crate) fn held(bytes: &[u8]) {
    let mut account = Account::new(4 << 20);
    for order in bytes.as_chunks::<4>().0 {
        let [kind, low, high, scale] = *order;
        let holder = usize::from(kind) % HOLDERS;
        let number = usize::from(u16::from_le_bytes([low, high]));
        let amount = number >> (scale % 16);
        match usize::from(kind) / HOLDERS % 12 {
            0 | 1 => account.grow(holder, amount),
            2 => account.grow(holder, number * 32),
            3 => account.grow_fixed(holder, amount),
            4 => account.cover(holder, amount),
            5 => account.receive(holder, amount, usize::from(scale) * 64),
            6 => account.give_back(holder),
            7 => account.set_limits(number, scale),
            8 => account.wait(holder),
            9 => account.take_place(holder, Kind::Undecided, scale % 4, number),
            10 => account.take_place(holder, Kind::Handshake, 0, number),
            _ if number % 2 == 0 => account.pass_time(amount),
            _ => account.leave_places(holder),
        }
        account.check();
    }
    account.close();
}

/// A holder as it ought to be.
#[derive(Default)]
struct Holder {
    reservation: Option<Reservation>,
    eviction: Option<Eviction>,
    awaits: Option<AwaitingConnect>,
    handshake: Option<Handshake>,
    /// In order of arrival.
    number: u64,
    since: Option<Instant>,
    source: Option<u8>,
    fixed: usize,
    bytes: usize,
    sealed: usize,
    is_evicted: bool,
    waker: Arc<Woken>,
    is_waiting: bool,
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What can be too little.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Small,
    Large,
    Undecided,
    Handshake,
}

struct Account {
    held: Arc<HeldBytes>,
    limits: Limits,
    now: Instant,
    next: u64,
    holders: [Holder; HOLDERS],
}

impl Account {
    fn new(bytes_max: usize) -> Self {
        let limits = Limits {
            undecided_max: 3,
            handshakes_max: 2,
            source_share: 40,
            grace: Duration::from_secs(2),
            bytes_max,
        };
        Self {
            held: HeldBytes::new(limits.clone()),
            limits,
            now: Instant::now(),
            next: 0,
            holders: Default::default(),
        }
    }

    fn holder(&mut self, index: usize) -> &mut Holder {
        let holder = &mut self.holders[index];
        if holder.reservation.is_none() {
            let reservation = self.held.reservation(self.now);
            holder.eviction = Some(reservation.eviction());
            holder.reservation = Some(reservation);
            holder.since = Some(self.now);
            holder.number = self.next;
            self.next += 1;
        }
        holder
    }

    fn reservation(&mut self, index: usize) -> &mut Reservation {
        self.holder(index).reservation.as_mut().expect("one")
    }

    fn grow(&mut self, index: usize, more: usize) {
        let grown = self.reservation(index).grow(more);
        self.holders[index].bytes += more;
        self.judge_bytes(index, grown);
    }

    fn grow_fixed(&mut self, index: usize, more: usize) {
        let grown = self.reservation(index).grow_fixed(more);
        self.holders[index].fixed += more;
        self.judge_bytes(index, grown);
    }

    fn receive(&mut self, index: usize, more: usize, sealed: usize) {
        let reservation = self.reservation(index);
        reservation.uncover(sealed);
        let grown = reservation.grow(more);
        self.holders[index].uncover(sealed);
        self.holders[index].bytes += more;
        self.judge_bytes(index, grown);
    }

    fn cover(&mut self, index: usize, sealed: usize) {
        let covered = self.reservation(index).cover(sealed);
        let holder = &mut self.holders[index];
        holder.uncover(sealed);
        let more = counted(sealed).saturating_sub(holder.sealed);
        holder.sealed += more;
        holder.bytes += more;
        match more {
            0 => assert_eq!(covered, Ok(()), "nothing more is taken"),
            _ => self.judge_bytes(index, covered),
        }
    }

    fn give_back(&mut self, index: usize) {
        self.holders[index] = Holder::default();
    }

    fn set_limits(&mut self, number: usize, scale: u8) {
        self.limits.bytes_max = number * 128;
        self.limits.source_share = 1 + scale % 100;
        self.limits.undecided_max = 1 + usize::from(scale) % 5;
        self.held.set_limits(self.limits.clone());
    }

    fn pass_time(&mut self, ms: usize) {
        self.now += Duration::from_millis(ms as u64);
    }

    fn leave_places(&mut self, index: usize) {
        self.holders[index].awaits = None;
        self.holders[index].handshake = None;
    }

    fn take_place(&mut self, index: usize, kind: Kind, from: u8, more: usize) {
        let now = self.now;
        if self.holder(index).has_place(kind) {
            return;
        }
        if kind == Kind::Undecided {
            self.holders[index].source = Some(from);
        }
        let max = match kind {
            Kind::Undecided => self.limits.undecided_max,
            _ => self.limits.handshakes_max,
        };
        let is_full = self.sum(kind) >= max;
        let (source, oldest) = self.oldest(kind);
        let own = self.holders[index].source;
        let may_go = |oldest: usize| {
            let since = self.holders[oldest].since.expect("it is there");
            (source.is_some() && source != own) || now - since >= self.limits.grace
        };
        let goes = oldest.filter(|oldest| is_full && may_go(*oldest));
        let before = self.evicted();
        let reservation = self.reservation(index);
        let taken = match kind {
            Kind::Undecided => {
                let place = reservation.await_connect([192, 0, 2, from].into(), more, now);
                place.map(|place| self.holders[index].awaits = Some(place))
            }
            _ => {
                let place = reservation.begin_handshake(more, now);
                place.map(|place| self.holders[index].handshake = Some(place))
            }
        };
        if is_full && goes.is_none() {
            let room = match kind {
                Kind::Undecided => Room::Undecided,
                _ => Room::Handshakes,
            };
            assert_eq!(taken, Err(room));
            return self.look(&before);
        }
        if let Some(goes) = goes {
            self.holders[goes].is_evicted = true;
        }
        self.holders[index].fixed += more;
        self.evict_for_bytes(index);
        let is_evicted = self.holders[index].is_evicted;
        assert_eq!(taken, if is_evicted { Err(Room::Bytes) } else { Ok(()) });
        self.look(&before);
    }

    /// Waits for an eviction, as the task of a connection does.
    fn wait(&mut self, index: usize) {
        let holder = self.holder(index);
        let waker = Waker::from(Arc::clone(&holder.waker));
        let told = holder
            .eviction
            .as_ref()
            .expect("one")
            .poll(&mut Context::from_waker(&waker));
        assert_eq!(told.is_ready(), holder.is_evicted, "every wait sees an eviction");
        holder.is_waiting = true;
    }

    fn sum(&self, kind: Kind) -> usize {
        self.holders.iter().map(|holder| holder.amount(kind)).sum()
    }

    fn evicted(&self) -> Vec<bool> {
        self.holders.iter().map(|holder| holder.is_evicted).collect()
    }

    /// Who has to go for want of this: of the source with most of those with more than their share, or of all, the oldest.
    fn oldest(&self, kind: Kind) -> (Option<u8>, Option<usize>) {
        let room = |holder: &Holder| match kind {
            Kind::Small | Kind::Large => holder.amount(Kind::Small) + holder.amount(Kind::Large),
            _ => holder.amount(kind),
        };
        let has = |source: u8| {
            let of_it = self.holders.iter().filter(|holder| holder.source == Some(source));
            of_it.map(room).sum::<usize>()
        };
        let of = |max: usize| max * usize::from(self.limits.source_share) / 100;
        let share = match kind {
            Kind::Small | Kind::Large => of(self.limits.bytes_max).max(SHARE_BYTES_MIN),
            Kind::Undecided => of(self.limits.undecided_max).max(1),
            Kind::Handshake => of(self.limits.handshakes_max).max(1),
        };
        let oldest = |source: Option<u8>| {
            let holders = self.holders.iter().enumerate();
            holders
                .filter(|(_, holder)| holder.amount(kind) > 0 && (source.is_none() || holder.source == source))
                .min_by_key(|(_, holder)| holder.number)
                .map(|(index, _)| index)
        };
        let over = (0..4).filter(|source| has(*source) > share && oldest(Some(*source)).is_some());
        match over.max_by_key(|source| (has(*source), *source)) {
            Some(source) => (Some(source), oldest(Some(source))),
            None => (None, oldest(None)),
        }
    }

    /// Whether it was right to take bytes for this holder or not, and who had to go.
    fn judge_bytes(&mut self, index: usize, grown: Result<(), HeldBytesFull>) {
        let before = self.evicted();
        self.evict_for_bytes(index);
        assert_eq!(grown.is_err(), self.holders[index].is_evicted, "refused, or evicted");
        self.look(&before);
    }

    /// Evicts others until what this holder has taken fits, or this holder.
    fn evict_for_bytes(&mut self, index: usize) {
        loop {
            let (small, large) = (self.sum(Kind::Small), self.sum(Kind::Large));
            let kind = if large > self.limits.bytes_max - self.limits.bytes_max / 8 {
                Kind::Large
            } else if small + large > self.limits.bytes_max {
                Kind::Small
            } else {
                break;
            };
            let (_, Some(oldest)) = self.oldest(kind) else {
                panic!("nobody holds what is held")
            };
            self.holders[oldest].is_evicted = true;
            if oldest == index {
                break;
            }
        }
    }

    /// Whether those went who had to, and heard of it if they were waiting.
    fn look(&mut self, before: &[bool]) {
        for (holder, was_evicted) in self.holders.iter_mut().zip(before) {
            let Some(eviction) = &holder.eviction else { continue };
            let woken = holder.waker.0.load(Ordering::Relaxed);
            let waker = Waker::from(Arc::clone(&holder.waker));
            let told = eviction.poll(&mut Context::from_waker(&waker));
            assert_eq!(told.is_ready(), holder.is_evicted, "those go whose turn it is");
            if holder.is_evicted && !was_evicted && holder.is_waiting {
                assert!(woken > 0, "one that waits is woken");
            }
            // That look was a wait too.
            holder.is_waiting = true;
        }
    }

    fn check(&self) {
        let all = |what: fn(&Holder) -> usize| self.holders.iter().map(what).sum::<usize>();
        assert_eq!(self.held.bytes(), all(|holder| holder.fixed + holder.bytes), "bytes");
        assert_eq!(self.held.awaiting_connect(), all(|holder| holder.awaits.iter().count()));
        assert_eq!(self.held.handshakes(), all(|holder| holder.handshake.iter().count()));
    }

    fn close(mut self) {
        for index in 0..HOLDERS {
            self.give_back(index);
            self.check();
        }
        assert_eq!(self.held.bytes(), 0, "all came back");
        let mut last = self.held.reservation(self.now);
        let bytes_max = self.limits.bytes_max;
        assert_eq!(
            last.grow(bytes_max - bytes_max / 8),
            Ok(()),
            "and no eviction is remembered"
        );
    }
}

impl Holder {
    /// How much of this others have to do without.
    fn amount(&self, kind: Kind) -> usize {
        let is_small = self.bytes <= SMALL_CONNECT_BYTES;
        match kind {
            _ if self.is_evicted => 0,
            Kind::Small if is_small => self.fixed + self.bytes,
            Kind::Large if !is_small => self.fixed + self.bytes,
            Kind::Small | Kind::Large => 0,
            Kind::Undecided => self.awaits.iter().count(),
            Kind::Handshake => self.handshake.iter().count(),
        }
    }

    fn has_place(&self, kind: Kind) -> bool {
        match kind {
            Kind::Undecided => self.awaits.is_some(),
            _ => self.handshake.is_some(),
        }
    }

    fn uncover(&mut self, sealed: usize) {
        let less = self.sealed.saturating_sub(counted(sealed));
        self.sealed -= less;
        self.bytes -= less;
    }
}
