//! When handshakes compute on a worker: one at a time, the sources in turn, and no source more than its share of the time.
//! What a source is, the caller says.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::base::clock::thread_time;

/// The part of a worker's time that one source may use for handshakes that it does not complete: one in so many. It is four
/// times as much for those that it completes, see [`Handshake::complete`].
///
/// A ClientHello of 81 bytes costs a signature, which takes 4 ms with an RSA key of 4096 bits. A client that goes on pays for
/// it with computations of its own; one that only sends the next ClientHello does not.
const SHARE: u32 = 5;

/// What a source may owe before it waits: 400 ms of computations, so that neither a client that comes alone nor the clients
/// behind one address that all come back at once wait before they could complete anything.
const OWED_MAX: Duration = Duration::from_secs(2);

/// Sources that owe something are looked through for those that do no longer when there are so many, and then when there are
/// twice as many as were left.
const SOURCES_MIN: usize = 1_024;

/// The handshakes of one worker.
#[derive(Debug, Default)]
pub struct HandshakeQueue {
    turns: RefCell<Turns>,
    shares: RefCell<Shares>,
}

/// Which handshake computes next.
#[derive(Debug, Default)]
struct Turns {
    /// A handshake computes, or will as soon as its task runs.
    is_taken: bool,
    /// Sources with handshakes that wait; the first is next.
    sources: VecDeque<IpAddr>,
    /// What waits, by source and in order. One that was dropped meanwhile is skipped.
    waiting: HashMap<IpAddr, VecDeque<Weak<Waiter>>>,
}

/// A handshake that waits for its turn.
#[derive(Debug, Default)]
struct Waiter {
    is_granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Turns {
    fn enter(&mut self, source: IpAddr) -> Rc<Waiter> {
        let waiter = Rc::new(Waiter::default());
        let waiting = self.waiting.entry(source).or_default();
        if waiting.is_empty() {
            self.sources.push_back(source);
        }
        waiting.push_back(Rc::downgrade(&waiter));
        self.grant();
        waiter
    }

    fn leave(&mut self) {
        self.is_taken = false;
        self.grant();
    }

    /// Gives the turn to the oldest handshake of the next source, which is the last one after that.
    fn grant(&mut self) {
        while !self.is_taken
            && let Some(source) = self.sources.pop_front()
        {
            let Some(waiting) = self.waiting.get_mut(&source) else {
                continue;
            };
            let next = std::iter::from_fn(|| waiting.pop_front()).find_map(|waiter| waiter.upgrade());
            match waiting.is_empty() {
                true => drop(self.waiting.remove(&source)),
                false => self.sources.push_back(source),
            }
            if let Some(waiter) = next {
                self.is_taken = true;
                waiter.is_granted.set(true);
                if let Some(waker) = waiter.waker.take() {
                    waker.wake();
                }
            }
        }
    }
}

/// What sources owe for the time that they have used.
#[derive(Debug, Default)]
struct Shares {
    /// When each has worked off what it owes, at [`SHARE`]. A source that owes nothing is not here, so there are never more
    /// than have used the worker lately.
    owes_until: HashMap<IpAddr, Instant>,
    /// How many of them there may be before they are looked through.
    sources_max: usize,
    /// What a handshake has cost lately, up to where the client has to answer.
    usual: Duration,
}

impl Shares {
    /// Books a computation at a quarter of the usual cost, which is what one costs that the client completes: the clients behind
    /// one address that all come back at once must not wait as if none of them would. When it may begin, and what was booked.
    fn book(&mut self, source: IpAddr, now: Instant) -> (Instant, Duration) {
        let owed = self.owed(source, now);
        let booked = self.usual / 4;
        self.charge(source, booked, now);
        (now + owed.saturating_sub(OWED_MAX), booked)
    }

    fn owed(&self, source: IpAddr, now: Instant) -> Duration {
        let until = self.owes_until.get(&source);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn charge(&mut self, source: IpAddr, cost: Duration, now: Instant) {
        if cost.is_zero() {
            return;
        }
        if self.owes_until.len() >= self.sources_max.max(SOURCES_MIN) {
            self.owes_until.retain(|_, until| *until > now);
            self.sources_max = 2 * self.owes_until.len();
        }
        let owed = self.owed(source, now) + cost * SHARE;
        self.owes_until.insert(source, now + owed);
    }

    fn refund(&mut self, source: IpAddr, cost: Duration, now: Instant) {
        match self.owed(source, now).saturating_sub(cost * SHARE) {
            Duration::ZERO => drop(self.owes_until.remove(&source)),
            owed => drop(self.owes_until.insert(source, now + owed)),
        }
    }

    /// Notes what a first computation has cost.
    fn learn(&mut self, cost: Duration) {
        self.usual = (self.usual * 7 + cost) / 8;
    }
}

impl HandshakeQueue {
    /// One more handshake, of a client from `source`.
    pub fn enter(&self, source: IpAddr) -> Handshake<'_> {
        Handshake {
            queue: self,
            source,
            used: Duration::ZERO,
        }
    }
}

/// One handshake, on the account of its source.
#[derive(Debug)]
pub struct Handshake<'a> {
    queue: &'a HandshakeQueue,
    source: IpAddr,
    /// What it has cost so far.
    used: Duration,
}

impl<'a> Handshake<'a> {
    /// Waits until its source does not owe too much, and then for the turn of its first computation.
    pub async fn first_turn(&mut self) -> FirstTurn<'_, 'a> {
        let shares = &self.queue.shares;
        let (at, cost) = shares.borrow_mut().book(self.source, Instant::now());
        let booked = Booked {
            shares,
            source: self.source,
            cost,
        };
        if at > Instant::now() {
            tokio::time::sleep_until(at).await;
        }
        FirstTurn {
            turn: self.turn().await,
            handshake: self,
            booked,
        }
    }

    /// Runs the rest, each step of it in a turn of its own.
    pub async fn run<F: Future + Unpin>(&mut self, mut handshake: F) -> F::Output {
        loop {
            let turn = self.turn().await;
            // Nothing else is awaited before the wait for its waker, so that no wake-up is lost.
            let step = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut handshake).poll(cx)));
            let polled = step.await;
            self.used += turn.end();
            if let Poll::Ready(done) = polled {
                return done;
            }
            woken().await;
        }
    }

    /// It is complete, so the client has computed as well: three quarters of what it has cost are forgiven.
    pub fn complete(self) {
        let forgiven = self.used * 3 / 4;
        let mut shares = self.queue.shares.borrow_mut();
        shares.refund(self.source, forgiven, Instant::now());
    }

    /// Waits until this handshake may compute and all tasks that are ready have run, so that a storm of handshakes does not
    /// hold up the relays of its worker.
    async fn turn(&self) -> Turn<'a> {
        let mut turn = Turn {
            queue: self.queue,
            source: self.source,
            waiter: self.queue.turns.borrow_mut().enter(self.source),
            began: Duration::ZERO,
        };
        std::future::poll_fn(|cx| match turn.waiter.is_granted.get() {
            true => Poll::Ready(()),
            false => {
                turn.waiter.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await;
        tokio::task::yield_now().await;
        turn.began = thread_time();
        turn
    }
}

/// The turn of a handshake's first computation.
pub struct FirstTurn<'h, 'a> {
    handshake: &'h mut Handshake<'a>,
    turn: Turn<'a>,
    booked: Booked<'a>,
}

impl FirstTurn<'_, '_> {
    /// Takes it.
    pub fn compute<T>(self, compute: impl FnOnce() -> T) -> T {
        let computed = compute();
        let cost = self.turn.end();
        drop(self.booked);
        self.handshake.used += cost;
        self.handshake.queue.shares.borrow_mut().learn(cost);
        computed
    }
}

/// A turn, granted or awaited; over when dropped.
struct Turn<'a> {
    queue: &'a HandshakeQueue,
    source: IpAddr,
    waiter: Rc<Waiter>,
    /// The processor time of the thread: a busy machine makes no handshake dearer.
    began: Duration,
}

impl Turn<'_> {
    /// Charges the source with what was computed since the turn began; how much that is.
    fn end(self) -> Duration {
        let cost = thread_time().saturating_sub(self.began);
        let mut shares = self.queue.shares.borrow_mut();
        shares.charge(self.source, cost, Instant::now());
        cost
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.waiter.is_granted.get() {
            self.queue.turns.borrow_mut().leave();
        }
    }
}

/// What a source was charged with before it was known what the computation costs, or whether it comes to that.
struct Booked<'a> {
    shares: &'a RefCell<Shares>,
    source: IpAddr,
    cost: Duration,
}

impl Drop for Booked<'_> {
    fn drop(&mut self) {
        let mut shares = self.shares.borrow_mut();
        shares.refund(self.source, self.cost, Instant::now());
    }
}

/// Waits until this task is woken.
async fn woken() {
    let mut asleep = false;
    std::future::poll_fn(|_| {
        if asleep {
            return Poll::Ready(());
        }
        asleep = true;
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn source(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    /// Lets every other task run until it waits.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn sources_take_turns_however_many_handshakes_one_of_them_has() {
        let mut turns = Turns::default();
        let first = turns.enter(source(1));
        assert!(first.is_granted.get(), "nobody else is there");
        let many: Vec<_> = (0..100).map(|_| turns.enter(source(1))).collect();
        let other = turns.enter(source(2));
        let third = turns.enter(source(3));
        let granted = || many.iter().filter(|waiter| waiter.is_granted.get()).count();
        turns.leave();
        assert_eq!((granted(), other.is_granted.get()), (1, false));
        turns.leave();
        assert!(other.is_granted.get());
        turns.leave();
        assert!(third.is_granted.get());
        turns.leave();
        assert_eq!(granted(), 2);
        // What has left the queue costs nobody a turn, and nothing stays of it.
        drop(many);
        let last = turns.enter(source(4));
        turns.leave();
        assert!(last.is_granted.get());
        turns.leave();
        assert!(!turns.is_taken && turns.sources.is_empty() && turns.waiting.is_empty());
    }

    #[test]
    fn a_source_that_completes_nothing_gets_a_fifth_of_the_time_and_others_do_not_wait_for_it() {
        let mut shares = Shares::default();
        let began = Instant::now();
        let (mut now, mut used) = (began, Duration::ZERO);
        let cost = 4 * MS;
        shares.usual = cost;
        while now < began + Duration::from_secs(60) {
            let (at, booked) = shares.book(source(1), now);
            now = now.max(at) + cost;
            shares.charge(source(1), cost, now);
            shares.refund(source(1), booked, now);
            used += cost;
            let (at, booked) = shares.book(source(2), now);
            assert_eq!(at, now, "another source");
            shares.refund(source(2), booked, now);
        }
        let share = now - began;
        let at_most = share / SHARE + OWED_MAX / SHARE + cost;
        assert!(
            used <= at_most && used + 2 * cost >= share / SHARE,
            "{used:?} of {share:?}"
        );
    }

    #[test]
    fn handshakes_that_are_booked_at_once_begin_one_after_the_other() {
        let mut shares = Shares {
            usual: 4 * MS,
            ..Shares::default()
        };
        let now = Instant::now();
        let begin: Vec<_> = (0..800).map(|_| shares.book(source(1), now).0 - now).collect();
        let at_once = begin.iter().filter(|wait| wait.is_zero()).count();
        assert_eq!(at_once, 401, "as many as may be owed for");
        // They take four fifths of the time, as those do that are completed.
        assert!(begin[401..].windows(2).all(|pair| pair[1] - pair[0] == MS * SHARE));
    }

    #[test]
    fn sources_that_owe_nothing_are_forgotten() {
        let mut shares = Shares::default();
        let mut now = Instant::now();
        for number in 0..100_000_u32 {
            shares.charge(IpAddr::from(number.to_be_bytes()), MS, now);
            now += MS;
            assert!(shares.owes_until.len() <= SOURCES_MIN);
        }
        shares.refund(source(1), MS, now);
        shares.charge(source(1), MS, now);
        shares.refund(source(1), MS, now);
        assert!(!shares.owes_until.contains_key(&source(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_owes_waits_and_one_that_gives_up_waiting_owes_no_more_for_it() {
        let queue = HandshakeQueue::default();
        queue.shares.borrow_mut().usual = MS;
        queue
            .shares
            .borrow_mut()
            .charge(source(1), Duration::from_secs(1), Instant::now());
        let owed = || queue.shares.borrow().owed(source(1), Instant::now());
        assert_eq!(owed(), Duration::from_secs(5));
        let mut handshake = queue.enter(source(1));
        let begin = tokio::time::timeout(Duration::from_secs(1), handshake.first_turn());
        assert!(begin.await.is_err(), "it owes too much");
        assert_eq!(owed(), Duration::from_secs(4));
        let before = Instant::now();
        handshake.first_turn().await.compute(|| ());
        assert!(before.elapsed() >= Duration::from_secs(2));
        let before = Instant::now();
        queue.enter(source(2)).first_turn().await.compute(|| ());
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn three_quarters_of_a_complete_handshake_are_forgiven() {
        let queue = HandshakeQueue::default();
        let owed = || queue.shares.borrow().owed(source(1), Instant::now());
        let mut handshake = queue.enter(source(1));
        handshake.first_turn().await.compute(|| {
            let began = thread_time();
            while thread_time() - began < 20 * MS {}
        });
        let before = owed();
        assert!(before >= 20 * MS * SHARE, "{before:?}");
        let left = before - handshake.used * 3 / 4 * SHARE;
        handshake.complete();
        assert_eq!(owed(), left);
        assert!(left <= before / 4 + MS, "{left:?} of {before:?}");
    }

    #[tokio::test]
    async fn a_turn_that_nobody_takes_goes_to_the_next() {
        let queue = Rc::new(HandshakeQueue::default());
        let tasks = tokio::task::LocalSet::new();
        let begun = Rc::new(Cell::new(0));
        let begin = |number| {
            let (queue, begun) = (Rc::clone(&queue), Rc::clone(&begun));
            tasks.spawn_local(async move {
                let mut handshake = queue.enter(source(number));
                handshake.first_turn().await.compute(|| begun.set(begun.get() + 1));
            })
        };
        let turn = queue.enter(source(9));
        let turn = turn.turn().await;
        let (first, second) = (begin(1), begin(2));
        tasks.run_until(settle()).await;
        assert_eq!(begun.get(), 0, "one at a time");
        drop(turn);
        // It is granted to the first, whose client is gone before it runs.
        first.abort();
        tasks.run_until(second).await.expect("its turn");
        assert_eq!(begun.get(), 1);
    }
}
