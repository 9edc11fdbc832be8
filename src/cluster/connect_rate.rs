//! How many CONNECTs a node gets in a second: a token bucket in one atomic, from which each client takes the time of its own dial.
//!
//! The bucket is kept as the time at which it is full again (GCRA, ITU-T I.371, section A): a client that takes a token moves that
//! time on by one interval. What the bucket holds goes at once; behind that, each client is given a slot one interval after the one
//! before, so that those who wait need no queue, no lock and no memory. Times are nanoseconds since the process started.

use std::time::Duration;

use crate::base::sync::{AtomicU64, Ordering};

/// What a full bucket holds, as the time in which so many tokens arrive: a twentieth of the rate. No second sees more than the rate
/// and this, and as much again may come late from a worker that was busy, before a node has seen a tenth more than its rate.
const BURST: u64 = SECOND / 20;

/// Where a slow start begins: at this part of the rate.
const SLOW_START_SHARE: u64 = 10;

const SECOND: u64 = 1_000_000_000;

/// The rate of CONNECTs to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectRate {
    /// CONNECTs in a second, 1 or more.
    pub per_second: u32,
    /// How the rate rises after the node has come back.
    pub slow_start: Option<SlowStart>,
}

/// A rate that rises from a tenth to the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// When it began, since the start of the process.
    pub since: Duration,
    /// How long it takes.
    pub length: Duration,
}

/// The bucket of one node, shared by all workers.
#[derive(Debug, Default)]
pub struct ConnectBucket {
    /// When it is full again.
    full_at: AtomicU64,
}

/// When one client may be taken to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When, since the start of the process.
    pub at: Duration,
    /// When the bucket was full again with this slot taken, and without.
    full_at: u64,
    before: u64,
}

impl ConnectBucket {
    /// Takes a slot at `rate`, for a client that has come `now` and can wait until `latest`; both since the start of the process.
    /// `None` if its slot would be later: then nothing is taken.
    ///
    /// Costs a load and an exchange of one atomic, more only if another worker takes a slot at the same moment.
    pub fn take(&self, rate: ConnectRate, now: Duration, latest: Duration) -> Option<Slot> {
        let (now, latest) = (nanoseconds(now), nanoseconds(latest));
        let mut before = self.full_at.load(Ordering::Relaxed);
        loop {
            let empty_at = before.saturating_sub(BURST).max(now);
            let interval = rate.interval(empty_at);
            let at = before.saturating_sub(BURST.saturating_sub(interval)).max(now);
            if at > latest {
                return None;
            }
            let full_at = before.max(now) + interval;
            let exchanged = self
                .full_at
                .compare_exchange_weak(before, full_at, Ordering::Relaxed, Ordering::Relaxed);
            match exchanged {
                Ok(_) => {
                    return Some(Slot {
                        at: Duration::from_nanos(at),
                        full_at,
                        before: before.max(now),
                    });
                }
                Err(other) => before = other,
            }
        }
    }

    /// Puts back the slot of a client that has left, if it is the last one taken. Another one is lost: those behind it keep theirs.
    pub fn give_back(&self, slot: Slot) {
        // As if it had never come; whether that succeeded changes nothing for it.
        let _ = self
            .full_at
            .compare_exchange(slot.full_at, slot.before, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Fills the bucket, and forgets all slots: those who had them have gone elsewhere.
    pub fn reset(&self) {
        self.full_at.store(0, Ordering::Relaxed);
    }
}

impl ConnectRate {
    /// From one token to the next, at this time.
    fn interval(&self, now: u64) -> u64 {
        let whole = SECOND / u64::from(self.per_second.max(1));
        let Some(SlowStart { since, length }) = self.slow_start else {
            return whole;
        };
        let (since, length) = (nanoseconds(since), nanoseconds(length));
        let risen = now.saturating_sub(since).max(length / SLOW_START_SHARE);
        if risen >= length {
            return whole;
        }
        let interval = u128::from(whole) * u128::from(length) / u128::from(risen.max(1));
        u64::try_from(interval).unwrap_or(u64::MAX / 4)
    }
}

/// Five hundred years fit in.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn steady(per_second: u32) -> ConnectRate {
        ConnectRate {
            per_second,
            slow_start: None,
        }
    }

    /// The most of these sorted times that fall into one second.
    fn most_in_a_second(times: &[Duration]) -> usize {
        let mut from = 0;
        let counts = times.iter().enumerate().map(|(place, at)| {
            while *at - times[from] >= Duration::from_secs(1) {
                from += 1;
            }
            place + 1 - from
        });
        counts.max().unwrap_or(0)
    }

    #[test]
    fn a_node_that_is_at_rest_takes_a_client_at_once() {
        let bucket = ConnectBucket::default();
        for second in 1..100 {
            let now = Duration::from_secs(second);
            let slot = bucket.take(steady(2), now, now).expect("a token");
            assert_eq!(slot.at, now);
        }
    }

    #[test]
    fn clients_that_come_together_are_spread_in_their_order() {
        let bucket = ConnectBucket::default();
        let now = ms(1_000);
        let slots: Vec<_> = (0..30)
            .map(|_| bucket.take(steady(100), now, ms(60_000)).expect("a slot").at)
            .collect();
        // A twentieth of a second's tokens are there, the others come every 10 ms.
        let expected: Vec<_> = (0..30_u64)
            .map(|number| now + ms(10 * number.saturating_sub(4)))
            .collect();
        assert_eq!(slots, expected);
    }

    #[test]
    fn who_cannot_wait_takes_nothing() {
        let bucket = ConnectBucket::default();
        let now = ms(1_000);
        let take = |latest| bucket.take(steady(10), now, latest).map(|slot| slot.at);
        assert_eq!(take(now), Some(now));
        assert_eq!(take(ms(1_099)), None);
        assert_eq!(take(ms(1_099)), None);
        assert_eq!(take(ms(1_100)), Some(ms(1_100)));
    }

    #[test]
    fn the_slot_of_the_last_who_leaves_is_given_to_the_next() {
        let bucket = ConnectBucket::default();
        let now = ms(1_000);
        let take = || bucket.take(steady(10), now, ms(60_000)).expect("a slot");
        let (_first, second, third) = (take(), take(), take());
        bucket.give_back(second);
        assert_eq!(take().at, ms(1_300), "others keep their slots");
        assert_eq!(third.at, ms(1_200));
        let last = take();
        bucket.give_back(last);
        assert_eq!(take(), last);
    }

    #[test]
    fn those_whose_slots_came_while_a_worker_was_busy_are_spread_again() {
        let (bucket, released) = (ConnectBucket::default(), ConnectBucket::default());
        let (rate, now) = (steady(100), ms(1_000));
        // For half a second, nobody is let go.
        let woken = |at| {
            if (ms(1_300)..ms(1_800)).contains(&at) {
                ms(1_800)
            } else {
                at
            }
        };
        let slots = (0..300).map(|_| bucket.take(rate, now, Duration::MAX).expect("a slot").at);
        let woken: Vec<_> = slots.map(woken).collect();
        assert!(most_in_a_second(&woken) >= 150, "all at once");
        let released: Vec<_> = woken
            .iter()
            .map(|at| released.take(rate, *at, Duration::MAX).expect("a slot").at)
            .collect();
        assert!(most_in_a_second(&released) <= 110);
        let delayed = released.iter().zip(&woken).map(|(released, woken)| *released - *woken);
        assert!(delayed.max() <= Some(ms(500)), "no longer than the worker was busy");
    }

    #[test]
    fn a_slow_start_rises_from_a_tenth_to_the_whole() {
        let rate = ConnectRate {
            per_second: 1_000,
            slow_start: Some(SlowStart {
                since: ms(5_000),
                length: ms(30_000),
            }),
        };
        let bucket = ConnectBucket::default();
        let mut counts = [0; 40];
        let mut now = ms(5_000);
        while let Some(slot) = bucket.take(rate, now, ms(44_999)) {
            now = now.max(slot.at);
            counts[(slot.at - ms(5_000)).as_secs() as usize] += 1;
        }
        for (second, count) in counts.into_iter().enumerate() {
            let (from, to) = (second as u64 * 1_000 / 30, (second as u64 + 1) * 1_000 / 30);
            let (from, to) = (from.clamp(100, 1_000), to.clamp(100, 1_000));
            assert!(count >= from * 98 / 100, "{count} in second {second}");
            assert!(count <= to * 106 / 100, "{count} in second {second}");
        }
    }

    proptest! {
        #[test]
        fn no_second_sees_more_than_the_rate_and_a_tenth_and_none_is_wasted(
            per_second in 1..5_000_u32,
            gaps in proptest::collection::vec((0..3_u64, 0..40_000_u64), 1..4_000),
        ) {
            let bucket = ConnectBucket::default();
            let mut now = Duration::from_secs(1);
            let mut slots = Vec::new();
            let interval = Duration::from_nanos(SECOND / u64::from(per_second));
            for (kind, gap) in gaps {
                // Most come together, some after a while.
                now += Duration::from_micros(if kind == 0 { gap } else { 0 });
                if let Some(slot) = bucket.take(steady(per_second), now, now + Duration::from_secs(15)) {
                    prop_assert!(slot.at >= now);
                    prop_assert!(slot.at <= now + Duration::from_secs(15));
                    if let Some(last) = slots.last() {
                        prop_assert!(slot.at >= *last, "in the order in which they came");
                        prop_assert!(slot.at <= now.max(*last + interval), "nobody waits for nobody");
                    }
                    slots.push(slot.at);
                }
            }
            let most = (per_second as usize * 11).div_ceil(10).max(per_second as usize + 1);
            prop_assert!(most_in_a_second(&slots) <= most);
        }
    }
}
