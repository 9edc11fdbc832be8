//! The values of one figure over several runs: their median, and where the true median is.

/// Fewest runs of each side for a verdict. With four, all of one side are above all of the other by chance in 1 of 35 cases;
/// with three, in 1 of 10.
pub(super) const RUNS_MIN: usize = 4;

/// How certain the interval of the median must be, where there are enough values.
const CONFIDENCE: f64 = 0.95;

/// At least one value, in ascending order.
pub(super) struct Sample(Vec<f64>);

/// How the values of one side are to those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Too few runs to tell.
    TooFewRuns,
    /// Every value of both sides is the same.
    Same,
    /// The intervals overlap.
    Noise,
    /// The other side is above this one.
    Higher,
    /// The other side is below this one.
    Lower,
}

impl Sample {
    /// `None` without a value.
    pub(super) fn new(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        (!values.is_empty()).then_some(Self(values))
    }

    /// The middle value, or the mean of the two in the middle.
    pub(super) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len().is_multiple_of(2) {
            true => f64::midpoint(self.0[middle - 1], self.0[middle]),
            false => self.0[middle],
        }
    }

    /// Where the true median is with 95 % confidence, whatever the distribution: between two of the sorted values. With
    /// fewer than six values, the lowest and the highest are less certain than that.
    pub(super) fn interval(&self) -> (f64, f64) {
        let count = self.0.len();
        let mut outside = 0;
        while outside + 1 < count.div_ceil(2) && coverage(count, outside + 1) >= CONFIDENCE {
            outside += 1;
        }
        (self.0[outside], self.0[count - 1 - outside])
    }

    /// Whether all values are zero.
    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|value| *value == 0.0)
    }

    /// How another sample is to this one.
    pub(super) fn compared_with(&self, other: &Self) -> Verdict {
        if self.0.len().min(other.0.len()) < RUNS_MIN {
            return Verdict::TooFewRuns;
        }
        let ((low, high), (other_low, other_high)) = (self.interval(), other.interval());
        if low == high && (low, high) == (other_low, other_high) {
            Verdict::Same
        } else if other_low > high {
            Verdict::Higher
        } else if other_high < low {
            Verdict::Lower
        } else {
            Verdict::Noise
        }
    }
}

/// How likely the true median is between the sorted values that have this many of all values outside on each side. Each
/// value is above it or below it like the side of a coin.
fn coverage(count: usize, outside: usize) -> f64 {
    let mut ways = 1.0;
    let mut sum = 0.0;
    for below in 0..=outside {
        sum += ways;
        ways *= (count - below) as f64 / (below + 1) as f64;
    }
    1.0 - 2.0 * sum / 2_f64.powi(count as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: &[f64]) -> Sample {
        Sample::new(values.to_vec()).unwrap()
    }

    #[test]
    fn the_interval_is_that_of_the_tables() {
        // The ranks of the 95 % interval of a median, as in tables of the sign test.
        for (count, low, high) in [
            (1, 1, 1),
            (3, 1, 3),
            (5, 1, 5),
            (6, 1, 6),
            (8, 1, 8),
            (9, 2, 8),
            (12, 3, 10),
            (20, 6, 15),
            (25, 8, 18),
        ] {
            let values: Vec<f64> = (1..=count).map(f64::from).collect();
            let interval = sample(&values).interval();
            assert_eq!(interval, (f64::from(low), f64::from(high)), "{count}");
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(sample(&[9.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(sample(&[9.0, 1.0, 2.0, 4.0]).median(), 3.0);
    }

    #[test]
    fn one_run_is_no_verdict_however_large_the_difference() {
        assert_eq!(sample(&[1.0]).compared_with(&sample(&[100.0])), Verdict::TooFewRuns);
        let few = sample(&[1.0, 1.1, 1.2]);
        assert_eq!(few.compared_with(&sample(&[5.0; 9])), Verdict::TooFewRuns);
    }

    #[test]
    fn only_ranges_that_do_not_overlap_differ() {
        let one = sample(&[10.0, 11.0, 12.0, 13.0]);
        assert_eq!(one.compared_with(&sample(&[13.0, 14.0, 15.0, 16.0])), Verdict::Noise);
        assert_eq!(one.compared_with(&sample(&[13.1, 14.0, 15.0, 16.0])), Verdict::Higher);
        assert_eq!(one.compared_with(&sample(&[6.0, 7.0, 8.0, 9.0])), Verdict::Lower);
        let same = sample(&[100.0; 4]);
        assert_eq!(same.compared_with(&sample(&[100.0; 4])), Verdict::Same);
    }

    /// Runs of the same thing differ by chance; the comparison must seldom call that a difference.
    #[test]
    fn noise_is_seldom_called_a_difference() {
        let mut random = fastrand::Rng::with_seed(7);
        for count in [4, 5, 6, 9, 12] {
            let mut wrong = 0;
            for _ in 0..2_000 {
                // Skewed, as latencies are.
                let mut draw = || sample(&(0..count).map(|_| 1.0 / (random.f64() + 0.05)).collect::<Vec<_>>());
                let verdict = draw().compared_with(&draw());
                wrong += u32::from(matches!(verdict, Verdict::Higher | Verdict::Lower));
            }
            assert!(wrong <= 90, "{wrong} of 2,000 with {count} runs each");
        }
    }
}
