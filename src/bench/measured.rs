//! What a run measured: counts, latencies, errors by kind; and how those of several threads add up.

use std::io;

use hdrhistogram::Histogram;
use nix::errno::Errno;

use super::clock::{Nanos, SECOND};
use super::session::{Agreed, Handshake};
use super::tls;

/// Why something did not work. A closed list, so that zero is visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The target refused the connection.
    Refused,
    /// The connection was reset.
    Reset,
    /// The connection was closed before its time.
    Closed,
    /// The target's certificate is not trusted, has expired, or is for another name.
    NotTrusted,
    /// The TLS handshake failed for another reason, or TLS did later; the target may have said why in an alert.
    Tls,
    /// The target did not agree to WebSocket.
    NotUpgraded,
    /// CONNACK said no.
    NotAccepted,
    /// No CONNACK in time.
    Timeout,
    /// What came was no MQTT, or not what MQTT (or WebSocket below it) allows there.
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
    pub(super) const ALL: [Self; 15] = [
        Self::Refused,
        Self::Reset,
        Self::Closed,
        Self::NotTrusted,
        Self::Tls,
        Self::NotUpgraded,
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
            Self::NotTrusted => "not_trusted",
            Self::Tls => "tls_failed",
            Self::NotUpgraded => "not_upgraded",
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

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Closed;
        }
        if let Some(failure) = tls::failure(&error) {
            return failure;
        }
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => Self::Refused,
            Some(Errno::ECONNRESET | Errno::EPIPE) => Self::Reset,
            Some(Errno::ETIMEDOUT) => Self::Timeout,
            Some(Errno::EMFILE | Errno::ENFILE) => Self::NoFiles,
            Some(Errno::EADDRNOTAVAIL) => Self::NoPorts,
            _ => Self::Other,
        }
    }
}

/// Latencies in nanoseconds.
pub(super) struct Latencies(Histogram<u64>);

impl Latencies {
    /// None yet.
    pub(super) fn new() -> Self {
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

    /// Forgets them.
    pub(super) fn clear(&mut self) {
        self.0.reset();
    }
}

/// Most nodes that are told apart.
const NODES_MAX: usize = 1_000;

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
    /// Messages whose receipt the target confirmed in the measured time, where nobody subscribes to them.
    pub(super) confirmed: u64,
    /// Messages that were under way when the run ended.
    pub(super) cut_off: u64,
    /// Clients that the run's end left no time to connect.
    pub(super) cut_off_connects: u64,
    /// Connections that were accepted.
    pub(super) accepted: u64,
    /// From the first dial to the last CONNACK.
    pub(super) connecting: Nanos,
    /// The measured time.
    pub(super) measuring: Nanos,
    /// Nodes by name, as they tell in CONNACK, and how many connections each accepted.
    pub(super) nodes: Vec<(String, u64)>,
    /// Why EMQX's API did not tell the nodes.
    pub(super) nodes_problem: Option<String>,
    pub(super) handshakes: Handshakes,
    pub(super) returns: Returns,
    pub(super) series: Series,
    /// Whether somebody ended the run before its time.
    pub(super) interrupted: bool,
    failures: [u64; Failure::ALL.len()],
}

/// TLS handshakes that succeeded.
pub(super) struct Handshakes {
    /// From the dial (or the time the schedule wanted it) to the end of the handshake.
    pub(super) latency: Latencies,
    pub(super) full: u64,
    /// Those that went on with the session of an earlier connection.
    pub(super) resumed: u64,
    /// What both ends agreed on, and how often.
    pub(super) agreed: Vec<(Agreed, u64)>,
    /// Why the first that failed did so.
    pub(super) problem: Option<String>,
}

impl Handshakes {
    /// Notes one.
    pub(super) fn note(&mut self, handshake: Handshake, latency: Nanos) {
        self.latency.record(latency);
        match handshake.resumed {
            true => self.resumed += 1,
            false => self.full += 1,
        }
        let known = self.agreed.iter_mut();
        match known
            .into_iter()
            .find(|(agreed, _)| *agreed == handshake.agreed)
        {
            Some((_, count)) => *count += 1,
            None => self.agreed.push((handshake.agreed, 1)),
        }
    }
}

/// What became of clients that were cut off and returned.
pub(super) struct Returns {
    /// From the cut to the return.
    pub(super) latency: Latencies,
    /// From the cut until all were back, each time.
    pub(super) rounds: Vec<Nanos>,
    /// Clients that returned.
    pub(super) count: u64,
    /// Of those, the ones whose node is known before and after.
    pub(super) known: u64,
    pub(super) same_node: u64,
    pub(super) session_present: u64,
}

/// How the run went over time: at most so many slices, which grow with the run.
pub(super) struct Series {
    pub(super) slices: Vec<Slice>,
    /// How long each is, but for the last.
    pub(super) every: Nanos,
    /// How long the last one is.
    pub(super) last: Nanos,
}

/// What happened in one slice of time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Slice {
    pub(super) connects: u64,
    pub(super) messages: u64,
    pub(super) errors: u64,
    /// Of messages, or of CONNACKs while there are none.
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
            // The worse of two: a percentile of both is not to be had from two percentiles.
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
    /// Nothing yet.
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

    /// Notes the node of a connection: a number above zero, or zero when it did not tell.
    pub(super) fn note_node(&mut self, name: Option<&str>) -> u16 {
        let Some(name) = name else {
            return 0;
        };
        let known = self.nodes.iter().position(|(node, _)| node == name);
        let index = match known {
            Some(index) => index,
            // A target that names thousands of nodes is not worth the memory.
            None if self.nodes.len() >= NODES_MAX => return 0,
            None => {
                self.nodes.push((name.to_owned(), 0));
                self.nodes.len() - 1
            }
        };
        self.nodes[index].1 += 1;
        index as u16 + 1
    }

    /// How often anything failed.
    pub(super) fn failed_in_all(&self) -> u64 {
        self.failures.iter().sum()
    }

    /// How often something failed.
    pub(super) fn failed(&self, failure: Failure) -> u64 {
        self.failures[failure as usize]
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
        assert_eq!(
            series
                .slices
                .iter()
                .map(|slice| slice.messages)
                .sum::<u64>(),
            1_000
        );
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
