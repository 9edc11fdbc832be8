//! What a worker counts: numbers with one writer each, without locks, read by whoever scrapes. A leaf.
//!
//! A label is always the name of a variant or of something in the configuration, never what a client chose.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::cluster::Decision;
use crate::ended::Ended;
use crate::mqtt::Version;

/// A number that only grows. One thread writes it, so that no write takes a lock's time; any thread reads it.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `more`. Only the one writer may.
    pub fn add(&self, more: u64) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before + more, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of a [`Histogram`], in microseconds.
pub const BOUNDS_US: [u64; 12] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000,
    10_000_000,
];

/// Durations, counted by how long they were.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One more than there are bounds: the last is for what is longer than all of them.
    buckets: [Count; BOUNDS_US.len() + 1],
    sum_us: Count,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration_us: u64) {
        let bucket = BOUNDS_US.partition_point(|bound| *bound < duration_us);
        self.buckets[bucket].add(1);
        self.sum_us.add(duration_us);
    }

    /// How many fell into each bucket, the last without a bound, and how long all took together.
    pub fn read(&self) -> ([u64; BOUNDS_US.len() + 1], Duration) {
        let buckets = std::array::from_fn(|bucket| self.buckets[bucket].get());
        (buckets, Duration::from_micros(self.sum_us.get()))
    }
}

macro_rules! labels {
    ($(#[doc = $about:literal])+ $Name:ident { $($(#[doc = $doc:literal])+ $Variant:ident = $name:literal,)+ }) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $Name {
            $($(#[doc = $doc])+ $Variant,)+
        }

        impl $Name {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$Variant,)+];

            /// The value of the label.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$Variant => $name,)+
                }
            }
        }
    };
}

labels! {
    /// What became of a CONNECT.
    Verdict {
        /// A node accepted it.
        Accepted = "accepted",
        /// A node refused it, and the client was told so.
        Refused = "refused",
        /// A node took it with something that is no CONNACK, or none that could be read.
        Unread = "unread",
        /// No node took it.
        Failed = "failed",
    }
}

labels! {
    /// Why a CONNECT went to another node, or to the same once more.
    Retry {
        /// The node could not be reached.
        Dial = "dial",
        /// The node refused, in a way that another one might not.
        Refused = "refused",
        /// The cluster had locked the client id for a moment.
        Busy = "busy",
        /// The node closed without a word.
        Silent = "silent",
        /// The node did not answer in time.
        Late = "late",
    }
}

labels! {
    /// A step of a connection's set-up.
    Step {
        /// From accept to a CONNECT read as far as needed.
        Peek = "peek",
        /// Connecting to the node that took the client.
        Dial = "dial",
        /// From the CONNECT sent to the CONNACK read, by the node that took the client.
        Greet = "greet",
    }
}

/// Names of the versions, in the order in which they are counted.
pub const VERSIONS: [&str; 4] = ["3.1", "3.1.1", "5", "unknown"];

/// Where a version is counted.
fn version_place(version: Version) -> usize {
    match version {
        Version::V31 => 0,
        Version::V311 => 1,
        Version::V5 => 2,
        Version::Unknown(_) => 3,
    }
}

/// The version's name in log lines and metrics.
pub fn version_name(version: Version) -> &'static str {
    VERSIONS[version_place(version)]
}

/// What one worker counts over all its connections.
#[derive(Debug)]
#[repr(align(128))]
pub struct Tally {
    ends: [Count; Ended::ALL.len()],
    routes: [Count; Decision::ALL.len()],
    connects: [[Count; Verdict::ALL.len()]; VERSIONS.len()],
    retries: [Count; Retry::ALL.len()],
    steps: [Histogram; Step::ALL.len()],
    connacks: [Count; 256],
    panics: Count,
    turned_away: Count,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            ends: std::array::from_fn(|_| Count::default()),
            routes: Default::default(),
            connects: Default::default(),
            retries: Default::default(),
            steps: Default::default(),
            connacks: std::array::from_fn(|_| Count::default()),
            panics: Count::default(),
            turned_away: Count::default(),
        }
    }
}

impl Tally {
    /// Connections that ended this way.
    pub fn ends(&self, cause: Ended) -> &Count {
        &self.ends[cause as usize]
    }

    /// Clients that were taken to a node for this reason.
    pub fn routes(&self, decision: Decision) -> &Count {
        &self.routes[decision as usize]
    }

    /// CONNECTs of this version that came to this.
    pub fn connects(&self, version: Version, verdict: Verdict) -> &Count {
        self.connects_at(version_place(version), verdict)
    }

    /// The same, by place in [`VERSIONS`].
    pub fn connects_at(&self, version: usize, verdict: Verdict) -> &Count {
        &self.connects[version][verdict as usize]
    }

    /// CONNECTs replayed for this reason.
    pub fn retries(&self, reason: Retry) -> &Count {
        &self.retries[reason as usize]
    }

    /// How long this step took.
    pub fn steps(&self, step: Step) -> &Histogram {
        &self.steps[step as usize]
    }

    /// CONNACKs with this code, passed on or not.
    pub fn connacks(&self, code: u8) -> &Count {
        &self.connacks[usize::from(code)]
    }

    /// Connections that a bug of ours ended.
    pub fn panics(&self) -> &Count {
        &self.panics
    }

    /// Clients that were reset because no descriptor was left to accept them.
    pub fn turned_away(&self) -> &Count {
        &self.turned_away
    }
}

/// What one worker counts of one listener.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ListenerTally {
    /// Connections accepted.
    pub accepted: Count,
    /// Connections that have ended.
    pub ended: Count,
    /// TLS handshakes that succeeded, key exchange and certificate included.
    pub handshakes_full: Count,
    /// TLS handshakes that went on with an earlier session.
    pub handshakes_resumed: Count,
    /// Bytes copied from clients to nodes.
    pub to_node_copied: Count,
    /// Bytes spliced from clients to nodes.
    pub to_node_spliced: Count,
    /// Bytes copied from nodes to clients.
    pub to_client_copied: Count,
    /// Bytes spliced from nodes to clients.
    pub to_client_spliced: Count,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for us in [0, 500, 501, 10_000_000, 10_000_001] {
            histogram.observe(us);
        }
        let (buckets, sum) = histogram.read();
        assert_eq!(buckets[0], 2);
        assert_eq!(buckets[1], 1);
        assert_eq!(buckets[11], 1);
        assert_eq!(buckets[12], 1);
        assert_eq!(sum, Duration::from_micros(20_001_002));
    }

    #[test]
    fn each_variant_has_a_place_of_its_own() {
        let tally = Tally::default();
        for (number, cause) in Ended::ALL.iter().enumerate() {
            tally.ends(*cause).add(number as u64 + 1);
        }
        for (number, cause) in Ended::ALL.iter().enumerate() {
            assert_eq!(tally.ends(*cause).get(), number as u64 + 1);
        }
        for decision in Decision::ALL {
            tally.routes(*decision).add(1);
            assert_eq!(tally.routes(*decision).get(), 1);
        }
    }
}
