//! What a run measured: counts, latencies, errors by kind; and how those of several threads add up.

use hdrhistogram::Histogram;

use super::clock::{Nanos, SECOND};

/// Why something did not work. A closed list, so that zero is visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The target refused the connection.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection was closed before its time.
    Closed,
    /// CONNACK said no.
    NotAccepted,
    /// No CONNACK in time.
    Timeout,
    /// What came was no MQTT, or not what MQTT allows there.
    Junk,
    /// A message arrived with another content than it was sent with.
    Corrupt,
    /// A message arrived twice, or one before it never did.
    OutOfOrder,
    /// The schedule wanted a message sent and its client was gone or full.
    NotSent,
    /// This process may open no more files.
    NoFiles,
    /// No local port was free.
    NoPorts,
    /// Anything else the system said.
    Other,
}

impl Failure {
    /// Each of them, in the order they are printed.
    pub(super) const ALL: [Self; 12] = [
        Self::Refused,
        Self::Reset,
        Self::Closed,
        Self::NotAccepted,
        Self::Timeout,
        Self::Junk,
        Self::Corrupt,
        Self::OutOfOrder,
        Self::NotSent,
        Self::NoFiles,
        Self::NoPorts,
        Self::Other,
    ];

    /// As it is printed, and as a key of the JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::NotAccepted => "not_accepted",
            Self::Timeout => "timeout",
            Self::Junk => "junk",
            Self::Corrupt => "corrupt",
            Self::OutOfOrder => "out_of_order",
            Self::NotSent => "not_sent",
            Self::NoFiles => "no_files",
            Self::NoPorts => "no_ports",
            Self::Other => "other",
        }
    }
}

/// Latencies in nanoseconds.
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    fn new() -> Self {
        // The bounds are constants that fit: 1 µs to an hour, three digits.
        #[expect(clippy::expect_used, reason = "constant bounds")]
        Self(Histogram::new_with_bounds(1_000, 3_600 * SECOND, 3).expect("bounds fit"))
    }

    /// Notes one.
    pub(super) fn record(&mut self, latency: Nanos) {
        self.0.saturating_record(latency);
    }

    /// The latency in µs that a share of all stayed within.
    pub(super) fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The worst, in µs.
    pub(super) fn max_us(&self) -> f64 {
        self.0.max() as f64 / 1e3
    }

    /// How many.
    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }
}

/// What a run measured.
pub(super) struct Measured {
    /// From the dial (or the time the schedule wanted it) to CONNACK.
    pub(super) connect: Latencies,
    /// From the time the schedule wanted a message sent to its arrival.
    pub(super) message: Latencies,
    /// From the time a message was sent to its arrival.
    pub(super) message_from_send: Latencies,
    /// Messages sent in the measured time.
    pub(super) sent: u64,
    /// Messages that arrived in the measured time.
    pub(super) received: u64,
    /// Payload of those.
    pub(super) received_bytes: u64,
    /// Messages that were under way when the run ended.
    pub(super) cut_off: u64,
    /// Connections that were accepted.
    pub(super) accepted: u64,
    /// From the first dial to the last CONNACK.
    pub(super) connecting: Nanos,
    /// The measured time.
    pub(super) measuring: Nanos,
    failures: [u64; Failure::ALL.len()],
}

impl Measured {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self {
            connect: Latencies::new(),
            message: Latencies::new(),
            message_from_send: Latencies::new(),
            sent: 0,
            received: 0,
            received_bytes: 0,
            cut_off: 0,
            accepted: 0,
            connecting: 0,
            measuring: 0,
            failures: [0; Failure::ALL.len()],
        }
    }

    /// Counts a failure.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.fail_often(failure, 1);
    }

    /// Counts a failure so many times.
    pub(super) fn fail_often(&mut self, failure: Failure, count: u64) {
        self.failures[failure as usize] += count;
    }

    /// How often something failed.
    pub(super) fn failed(&self, failure: Failure) -> u64 {
        self.failures[failure as usize]
    }
}
