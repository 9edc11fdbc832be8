//! Limits further tries to the number of CONNECTs accepted lately, in total and for each source, so that retries do not
//! multiply a reconnect storm, and nobody uses up those of others.

use std::collections::HashMap;
use std::net::IpAddr;

/// The time over which accepted CONNECTs and retries are compared, in seconds.
const WINDOW: usize = 10;

/// The most sources that are told apart in one window; those beyond share one account.
const SOURCES_MAX: usize = 16_384;

/// Retries of one worker, and its accepted CONNECTs, over the last ten seconds.
#[derive(Debug)]
pub struct Budget {
    /// Retries per second that need no accepted CONNECT. One source gets half of them at most.
    free_per_second: u64,
    seconds: [Second; WINDOW],
    /// The accounts of sources in the current window, which starts every ten seconds.
    sources: HashMap<IpAddr, Account>,
    /// The account of all sources beyond [`SOURCES_MAX`].
    others: Account,
    window: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u32,
    account: Account,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    accepted: u64,
    retried: u64,
}

impl Account {
    /// Whether there is a retry left, with `free` ones beside those that were earned.
    fn has_left(&self, free: u64) -> bool {
        self.retried < self.accepted + free
    }
}

impl Budget {
    /// A budget in which `free_per_second` retries need no accepted CONNECT.
    pub fn new(free_per_second: u64) -> Self {
        Self {
            free_per_second,
            seconds: [Second::default(); WINDOW],
            sources: HashMap::new(),
            others: Account::default(),
            window: 0,
        }
    }

    /// Counts a CONNECT from `source` that was accepted in the second `now`.
    pub fn accepted(&mut self, now: u32, source: IpAddr) {
        self.second(now).accepted += 1;
        self.source(now, source).accepted += 1;
    }

    /// Takes one retry of a client from `source` in the second `now`, if there is one left.
    pub fn take(&mut self, now: u32, source: IpAddr) -> bool {
        let free = self.free_per_second * WINDOW as u64;
        let recent = |second: &&Second| now.wrapping_sub(second.number) < WINDOW as u32;
        let mut total = Account::default();
        for Second { account, .. } in self.seconds.iter().filter(recent) {
            total.accepted += account.accepted;
            total.retried += account.retried;
        }
        let own = *self.source(now, source);
        // What a source has earned, others cannot use up.
        let is_left = own.has_left(0) || (own.has_left(free.div_ceil(2)) && total.has_left(free));
        if is_left {
            self.second(now).retried += 1;
            self.source(now, source).retried += 1;
        }
        is_left
    }

    fn second(&mut self, now: u32) -> &mut Account {
        let second = &mut self.seconds[now as usize % WINDOW];
        if second.number != now {
            *second = Second {
                number: now,
                ..Second::default()
            };
        }
        &mut second.account
    }

    fn source(&mut self, now: u32, source: IpAddr) -> &mut Account {
        let window = now / WINDOW as u32;
        if self.window != window {
            self.window = window;
            self.others = Account::default();
            self.sources.clear();
        }
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            return &mut self.others;
        }
        self.sources.entry(source).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// A source that no test has used before.
    fn sources() -> impl Iterator<Item = IpAddr> {
        (0_u32..).map(|number| IpAddr::V4((0x0A00_0000 + number).into()))
    }

    /// How many retries different sources take.
    fn taken(budget: &mut Budget, now: u32) -> usize {
        sources()
            .take(1_000)
            .take_while(|source| budget.take(now, *source))
            .count()
    }

    #[test]
    fn as_many_retries_as_accepted_connects_and_the_free_ones() {
        let mut budget = Budget::new(10);
        sources().take(50).for_each(|source| budget.accepted(100, source));
        assert_eq!(taken(&mut budget, 105), 150);
    }

    #[test]
    fn old_seconds_count_no_more() {
        let mut budget = Budget::new(1);
        sources().take(50).for_each(|source| budget.accepted(100, source));
        assert_eq!(taken(&mut budget, 110), 10, "the accepted ones are too old");
        assert_eq!(taken(&mut budget, 119), 0, "the retries are not");
        assert_eq!(taken(&mut budget, 120), 10);
    }

    #[test]
    fn one_source_takes_half_of_the_free_ones_and_those_that_it_has_earned() {
        let mut budget = Budget::new(10);
        (0..20).for_each(|_| budget.accepted(100, ONE));
        let own = (0..1_000).take_while(|_| budget.take(100, ONE)).count();
        assert_eq!(own, 20 + 50);
        assert_eq!(taken(&mut budget, 100), 50, "the other half is for others");
    }

    #[test]
    fn nobody_uses_up_what_another_source_has_earned() {
        let mut budget = Budget::new(10);
        (0..20).for_each(|_| budget.accepted(100, ONE));
        assert_eq!(taken(&mut budget, 100), 120);
        let own = (0..1_000).take_while(|_| budget.take(100, ONE)).count();
        assert_eq!(own, 20);
    }

    #[test]
    fn sources_beyond_those_that_are_told_apart_share_one_account() {
        let mut budget = Budget::new(10);
        sources()
            .take(SOURCES_MAX)
            .for_each(|source| budget.accepted(100, source));
        let more = sources().skip(SOURCES_MAX).take(1_000);
        assert_eq!(more.take_while(|source| budget.take(100, *source)).count(), 50);
        assert!(budget.sources.len() <= SOURCES_MAX);
    }
}
