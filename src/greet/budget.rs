//! How many CONNECTs may be replayed: no more than were accepted lately, so that retries never multiply a storm.

/// The window over which accepted CONNECTs and retries are compared, in seconds.
const WINDOW: usize = 10;

/// Counts per second of one worker, over the last ten seconds.
#[derive(Debug)]
pub struct Budget {
    /// Retries a second that are free of the comparison.
    free_per_second: u64,
    seconds: [Second; WINDOW],
}

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u32,
    accepted: u64,
    retried: u64,
}

impl Budget {
    /// A budget in which `free_per_second` retries need no accepted CONNECT.
    pub fn new(free_per_second: u64) -> Self {
        Self {
            free_per_second,
            seconds: [Second::default(); WINDOW],
        }
    }

    /// A CONNECT was accepted in the second `now`.
    pub fn accepted(&mut self, now: u32) {
        self.second(now).accepted += 1;
    }

    /// Takes one retry in the second `now`, if there is one left.
    pub fn take(&mut self, now: u32) -> bool {
        let recent = |second: &&Second| now.wrapping_sub(second.number) < WINDOW as u32;
        let (accepted, retried) = self
            .seconds
            .iter()
            .filter(recent)
            .fold((0, 0), |(accepted, retried), second| {
                (accepted + second.accepted, retried + second.retried)
            });
        let left = retried < accepted + self.free_per_second * WINDOW as u64;
        if left {
            self.second(now).retried += 1;
        }
        left
    }

    fn second(&mut self, now: u32) -> &mut Second {
        let second = &mut self.seconds[now as usize % WINDOW];
        if second.number != now {
            *second = Second {
                number: now,
                ..Second::default()
            };
        }
        second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &mut Budget, now: u32) -> usize {
        (0..1_000).take_while(|_| budget.take(now)).count()
    }

    #[test]
    fn as_many_retries_as_accepted_connects_and_the_free_ones() {
        let mut budget = Budget::new(10);
        (0..50).for_each(|_| budget.accepted(100));
        assert_eq!(taken(&mut budget, 105), 150);
    }

    #[test]
    fn old_seconds_count_no_more() {
        let mut budget = Budget::new(1);
        (0..50).for_each(|_| budget.accepted(100));
        assert_eq!(taken(&mut budget, 110), 10, "the accepted ones are too old");
        assert_eq!(taken(&mut budget, 119), 0, "the retries are not");
        assert_eq!(taken(&mut budget, 120), 10);
    }
}
