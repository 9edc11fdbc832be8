//! The measurements of a run: counts, latencies, failures by kind.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::clock::{Nanos, SECOND};
use super::failure::{Failure, Stage};
use super::session::{Agreed, Handshake};

/// Latencies in nanoseconds.
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    /// Without a value.
    pub(super) fn new() -> Self {
        // The bounds are constants that fit: 1 µs to an hour, three digits.
        #[expect(clippy::expect_used, reason = "constant bounds")]
        Self(Histogram::new_with_bounds(1_000, 3_600 * SECOND, 3).expect("bounds fit"))
    }

    /// Adds a value.
    pub(super) fn record(&mut self, latency: Nanos) {
        self.0.saturating_record(latency);
    }

    /// The latency at a quantile, in µs.
    pub(super) fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The highest latency, in µs.
    pub(super) fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    /// The number of values.
    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Removes all values.
    pub(super) fn clear(&mut self) {
        self.0.reset();
    }
}

/// Most nodes that are counted by name.
const NODES_MAX: usize = 1_000;

/// What a run measured.
pub(super) struct Measured {
    /// From the time at which the dial was due to CONNACK.
    pub(super) connect: Latencies,
    /// From the time at which a message was due to be sent to its arrival.
    pub(super) message: Latencies,
    /// From the time a message was sent to its arrival.
    pub(super) message_from_send: Latencies,
    /// Messages sent in the measured time.
    pub(super) sent: u64,
    /// Messages that arrived in the measured time.
    pub(super) received: u64,
    /// Their payload.
    pub(super) received_bytes: u64,
    /// Messages that the target confirmed in the measured time, where no client of the run subscribes to them.
    pub(super) confirmed: u64,
    /// Messages that were in flight when the run ended.
    pub(super) cut_off: u64,
    /// Clients that had not connected when the run ended.
    pub(super) cut_off_connects: u64,
    /// Connections that were accepted.
    pub(super) accepted: u64,
    /// From the first dial to the last CONNACK.
    pub(super) connecting: Nanos,
    /// The measured time.
    pub(super) measuring: Nanos,
    /// Nodes by the name they report, and how many connections each accepted.
    pub(super) nodes: Vec<(String, u64)>,
    /// Why EMQX's API did not provide the nodes.
    pub(super) nodes_problem: Option<String>,
    pub(super) handshakes: Handshakes,
    pub(super) returns: Returns,
    pub(super) series: Series,
    /// Whether the run was interrupted.
    pub(super) interrupted: bool,
    /// How often each failure happened in each stage. There are only so many codes.
    pub(super) failures: BTreeMap<(Failure, Stage), u64>,
}

/// TLS handshakes that succeeded.
pub(super) struct Handshakes {
    /// From the time at which the dial was due to the end of the handshake.
    pub(super) latency: Latencies,
    pub(super) full: u64,
    /// Handshakes that resumed the session of an earlier connection.
    pub(super) resumed: u64,
    /// What was negotiated, and how often.
    pub(super) agreed: Vec<(Agreed, u64)>,
    /// Why the first failed handshake failed.
    pub(super) problem: Option<String>,
}

impl Handshakes {
    /// Counts a handshake.
    pub(super) fn note(&mut self, handshake: Handshake, latency: Nanos) {
        self.latency.record(latency);
        match handshake.resumed {
            true => self.resumed += 1,
            false => self.full += 1,
        }
        let known = self.agreed.iter_mut();
        match known.into_iter().find(|(agreed, _)| *agreed == handshake.agreed) {
            Some((_, count)) => *count += 1,
            None => self.agreed.push((handshake.agreed, 1)),
        }
    }
}

/// Clients that were cut off and returned.
pub(super) struct Returns {
    /// From the cut to the return.
    pub(super) latency: Latencies,
    /// From each cut until all clients had returned.
    pub(super) rounds: Vec<Nanos>,
    /// Clients that returned.
    pub(super) count: u64,
    /// Of those, the ones whose node is known before and after the cut.
    pub(super) known: u64,
    pub(super) same_node: u64,
    pub(super) session_present: u64,
}

/// The run over time, in a bounded number of slices whose length grows with the run.
pub(super) struct Series {
    pub(super) slices: Vec<Slice>,
    /// The length of each slice but the last.
    pub(super) every: Nanos,
    /// The length of the last slice.
    pub(super) last: Nanos,
}

/// What happened in one slice of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Slice {
    pub(super) connects: u64,
    pub(super) messages: u64,
    pub(super) errors: u64,
    /// Of messages; of CONNACKs outside the measured time.
    pub(super) p99_us: f64,
}

impl Series {
    const SLICES_MAX: usize = 240;

    /// Appends a slice of this length; when there are too many, each two become one.
    pub(super) fn push(&mut self, slice: Slice, lasts: Nanos) {
        self.slices.push(slice);
        self.last = lasts;
        if self.slices.len() < Self::SLICES_MAX {
            return;
        }
        let pairs = self.slices.chunks(2).map(|pair| Slice {
            connects: pair.iter().map(|slice| slice.connects).sum(),
            messages: pair.iter().map(|slice| slice.messages).sum(),
            errors: pair.iter().map(|slice| slice.errors).sum(),
            // The higher of the two: the percentile of both cannot be computed from two percentiles.
            p99_us: pair.iter().map(|slice| slice.p99_us).fold(0.0, f64::max),
        });
        if self.slices.len().is_multiple_of(2) {
            self.last += self.every;
        }
        self.slices = pairs.collect();
        self.every *= 2;
    }
}

impl Measured {
    /// Without a measurement.
    pub(super) fn new() -> Self {
        Self {
            connect: Latencies::new(),
            message: Latencies::new(),
            message_from_send: Latencies::new(),
            sent: 0,
            received: 0,
            received_bytes: 0,
            confirmed: 0,
            cut_off: 0,
            cut_off_connects: 0,
            accepted: 0,
            connecting: 0,
            measuring: 0,
            nodes: Vec::new(),
            nodes_problem: None,
            handshakes: Handshakes {
                latency: Latencies::new(),
                full: 0,
                resumed: 0,
                agreed: Vec::new(),
                problem: None,
            },
            returns: Returns {
                latency: Latencies::new(),
                rounds: Vec::new(),
                count: 0,
                known: 0,
                same_node: 0,
                session_present: 0,
            },
            series: Series {
                slices: Vec::new(),
                every: SECOND / 10,
                last: 0,
            },
            interrupted: false,
            failures: BTreeMap::new(),
        }
    }

    /// Counts a failure in this stage so many times.
    pub(super) fn fail(&mut self, failure: Failure, stage: Stage, count: u64) {
        if count > 0 {
            *self.failures.entry((failure, stage)).or_default() += count;
        }
    }

    /// Counts a connection of a node; returns the node's number, or zero without a name.
    pub(super) fn note_node(&mut self, name: Option<&str>) -> u16 {
        let Some(name) = name else {
            return 0;
        };
        let known = self.nodes.iter().position(|(node, _)| node == name);
        let index = match known {
            Some(index) => index,
            // Bounds the memory that a target can use up by inventing names.
            None if self.nodes.len() >= NODES_MAX => return 0,
            None => {
                self.nodes.push((name.to_owned(), 0));
                self.nodes.len() - 1
            }
        };
        self.nodes[index].1 += 1;
        index as u16 + 1
    }

    /// The number of all failures.
    pub(super) fn failed_in_all(&self) -> u64 {
        self.failures.values().sum()
    }

    /// The number of failures of a kind, whatever their codes.
    pub(super) fn failed(&self, kind: Failure) -> u64 {
        let of_kind = self.failures.iter();
        let of_kind = of_kind.filter(|((failure, _), _)| failure.name() == kind.name());
        of_kind.map(|(_, count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_series_keeps_its_sums_in_fewer_slices() {
        let mut series = Series {
            slices: Vec::new(),
            every: SECOND / 10,
            last: 0,
        };
        for number in 0..1_000 {
            let slice = Slice {
                messages: 1,
                p99_us: f64::from(number),
                ..Slice::default()
            };
            series.push(slice, series.every);
        }
        assert!(series.slices.len() < Series::SLICES_MAX);
        assert!(series.every > SECOND / 10);
        assert_eq!(series.slices.iter().map(|slice| slice.messages).sum::<u64>(), 1_000);
        assert_eq!(series.slices.last().unwrap().p99_us, 999.0);
        assert_eq!(series.last, series.every);
    }

    #[test]
    fn nodes_are_counted_by_name() {
        let mut measured = Measured::new();
        let seen = [Some("a"), None, Some("b"), Some("a")].map(|name| measured.note_node(name));
        assert_eq!(seen, [1, 0, 2, 1]);
        assert_eq!(measured.nodes, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    }
}
