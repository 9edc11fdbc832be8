//! What a worker counts: numbers with one writer each, without locks, read by any thread.
//!
//! A label is always the name of a variant or of something in the configuration, never what a client chose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::cluster::{Decision, NodeId};
use crate::mqtt::Version;
use crate::path::ended::Ended;
use crate::path::sides::Bytes;

/// A number that only grows. One thread writes it, so that a write needs no atomic read-modify-write; any thread reads
/// it.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `more`. Only the one writing thread may call this.
    pub fn add(&self, more: u64) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before + more, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets of a [`Histogram`], in microseconds: few, since each is a series of each node and step.
pub(crate) const BOUNDS_US: [u64; 5] = [1_000, 5_000, 25_000, 100_000, 1_000_000];

/// Durations, counted by how long they were.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One bucket more than there are bounds: the last is for durations above all of them.
    buckets: [Count; BOUNDS_US.len() + 1],
    sum_us: Count,
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn observe(&self, duration_us: u64) {
        let bucket = BOUNDS_US.partition_point(|bound| *bound < duration_us);
        self.buckets[bucket].add(1);
        self.sum_us.add(duration_us);
    }

    /// The count of each bucket with its bound in microseconds; the last has none.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Option<u64>, &Count)> {
        BOUNDS_US.into_iter().map(Some).chain([None]).zip(&self.buckets)
    }

    /// The sum of all durations, in microseconds.
    pub(crate) fn sum_us(&self) -> &Count {
        &self.sum_us
    }

    /// The count of each bucket, the last without a bound, and the sum of all durations.
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
            /// Every variant.
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
    /// The result of a CONNECT.
    Verdict {
        /// A node accepted it.
        Accepted = "accepted",
        /// A node refused it, and the refusal was passed on to the client.
        Refused = "refused",
        /// A node answered with something that is not a readable CONNACK.
        Unread = "unread",
        /// No node accepted it.
        Failed = "failed",
    }
}

labels! {
    /// Why a CONNECT was sent to another node, or once more to the same node.
    Retry {
        /// The node could not be reached.
        Dial = "dial",
        /// The node refused for a reason that another node may not have.
        Refused = "refused",
        /// The client id was briefly locked in the cluster.
        Busy = "busy",
        /// The node closed without an answer.
        Silent = "silent",
        /// The node did not answer in time.
        Late = "late",
        /// Too many CONNECTs waited for their turn at the node.
        Pace = "pace",
        /// Others had taken the node's last connections meanwhile.
        Full = "full",
    }
}

labels! {
    /// What clients met at a node.
    Fault {
        /// It could not be reached.
        Dial = "dial",
        /// The TLS handshake with it failed.
        Tls = "tls",
        /// It rejected the WebSocket upgrade, or did not answer it.
        Upgrade = "upgrade",
        /// It closed without an answer to the CONNECT.
        Silent = "silent",
        /// It answered with something else than MQTT.
        NotMqtt = "not_mqtt",
        /// It did not answer in time.
        Late = "late",
    }
}

labels! {
    /// A step of a connection's set-up that a node has part in.
    Step {
        /// Connecting to the node that accepted the client.
        Dial = "dial",
        /// From the CONNECT sent to the CONNACK read, by the node that accepted the client.
        Greet = "greet",
    }
}

/// Names of the versions, in the order in which they are counted.
pub const VERSIONS: [&str; 4] = ["3.1", "3.1.1", "5", "unknown"];

/// The place in [`VERSIONS`] of a version.
fn version_place(version: Version) -> usize {
    match version {
        Version::V31 => 0,
        Version::V311 => 1,
        Version::V5 => 2,
        Version::Unknown(_) => 3,
    }
}

/// The version's name in log lines and metrics.
pub(crate) fn version_name(version: Version) -> &'static str {
    VERSIONS[version_place(version)]
}

/// CONNACK codes with a place of their own: those of MQTT 3.1.1 (table 3.1), and of MQTT 5 (3.2.2.2) those that say something of the
/// node, or of who may connect to it. Others, which say what is wrong with one client's packet, share the place behind them.
pub(crate) const CODES: [u8; 18] = [
    0, 1, 2, 3, 4, 5, 0x80, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x97, 0x9C, 0x9D, 0x9F,
];

/// A code as a label: decimal as in MQTT 3, hexadecimal as in MQTT 5.
pub(crate) fn code_name(code: u8) -> String {
    match code {
        0..0x80 => code.to_string(),
        _ => format!("0x{code:02X}"),
    }
}

/// What one worker counts of one node: less than a KiB.
#[derive(Debug, Default)]
pub struct NodeCounters {
    /// The last one is for codes without a place of their own.
    connacks: [Count; CODES.len() + 1],
    retries: [Count; Retry::ALL.len()],
    faults: [Count; Fault::ALL.len()],
    steps: [Histogram; Step::ALL.len()],
    /// Clients that waited for their turn at the node, whether or not it came.
    pub waits: Count,
    /// How long they waited together, in microseconds.
    pub wait_us: Count,
    /// Bytes from clients to the node.
    pub to_node: Count,
    /// Bytes from the node to clients.
    pub to_client: Count,
}

impl NodeCounters {
    /// CONNACKs with this code, passed on or not.
    pub(crate) fn connacks(&self, code: u8) -> &Count {
        self.connacks_at(CODES.iter().position(|known| *known == code).unwrap_or(CODES.len()))
    }

    /// The same, by place in [`CODES`]; the place behind them is for all others.
    pub(crate) fn connacks_at(&self, place: usize) -> &Count {
        &self.connacks[place]
    }

    /// CONNECTs taken from this node to another one, or to it once more, for this reason.
    pub(crate) fn retries(&self, reason: Retry) -> &Count {
        &self.retries[reason as usize]
    }

    /// Clients that met this.
    pub(crate) fn faults(&self, fault: Fault) -> &Count {
        &self.faults[fault as usize]
    }

    /// How long this step took.
    pub(crate) fn steps(&self, step: Step) -> &Histogram {
        &self.steps[step as usize]
    }

    /// Counts what relays have moved.
    pub(crate) fn count_bytes(&self, moved: Bytes) {
        self.to_node.add(moved.from_client.total());
        self.to_client.add(moved.from_node.total());
    }
}

/// What one worker counts over all its connections.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    ends: [Count; Ended::ALL.len()],
    routes: [Count; Decision::ALL.len()],
    connects: [[Count; Verdict::ALL.len()]; VERSIONS.len()],
    /// From accept to a CONNECT read as far as needed, of clients that were connected to a node. No node has part in it.
    pub(crate) peek: Histogram,
    /// By the number of the node. The worker alone adds to the list, when it first counts something of a node: those who read it
    /// see each node's counters for as long as they look.
    nodes: ArcSwap<Vec<Arc<NodeCounters>>>,
    panics: Count,
    turned_away: Count,
    lines_kept_back: Count,
    /// CONNECTs that were held because their clients connect too often.
    pub held_back: Count,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            ends: std::array::from_fn(|_| Count::default()),
            routes: Default::default(),
            connects: Default::default(),
            peek: Histogram::default(),
            nodes: ArcSwap::default(),
            panics: Count::default(),
            turned_away: Count::default(),
            lines_kept_back: Count::default(),
            held_back: Count::default(),
        }
    }
}

impl Counters {
    /// Connections that ended this way.
    pub fn ends(&self, cause: Ended) -> &Count {
        &self.ends[cause as usize]
    }

    /// Clients that were taken to a node for this reason.
    pub(crate) fn routes(&self, decision: Decision) -> &Count {
        &self.routes[decision as usize]
    }

    /// CONNECTs of this version with this result.
    pub fn connects(&self, version: Version, verdict: Verdict) -> &Count {
        self.connects_at(version_place(version), verdict)
    }

    /// The same, by place in [`VERSIONS`].
    pub(crate) fn connects_at(&self, version: usize, verdict: Verdict) -> &Count {
        &self.connects[version][verdict as usize]
    }

    /// Counts something of a node. Only the one writing thread may call this. Costs no lock; a node that is new to the worker costs
    /// an allocation.
    pub(crate) fn of_node(&self, node: NodeId, count: impl FnOnce(&NodeCounters)) {
        let place = usize::from(node.0);
        let nodes = self.nodes.load();
        if let Some(counters) = nodes.get(place) {
            return count(counters);
        }
        let mut more = Vec::clone(&nodes);
        more.resize_with(place + 1, Arc::default);
        count(&more[place]);
        self.nodes.store(Arc::new(more));
    }

    /// What was counted of a node so far; `None` if that is nothing.
    pub fn node(&self, node: NodeId) -> Option<Arc<NodeCounters>> {
        self.nodes.load().get(usize::from(node.0)).cloned()
    }

    /// Connections that ended because of a bug in Remora.
    pub fn panics(&self) -> &Count {
        &self.panics
    }

    /// Log lines on connections that were kept back.
    pub fn lines_kept_back(&self) -> &Count {
        &self.lines_kept_back
    }

    /// Clients that were reset because no descriptor was left to accept them.
    pub fn turned_away(&self) -> &Count {
        &self.turned_away
    }
}

/// What one worker counts of one listener.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ListenerCounters {
    /// Connections accepted.
    pub accepted: Count,
    /// TLS handshakes that succeeded, key exchange and certificate included.
    pub handshakes_full: Count,
    /// TLS handshakes that resumed an earlier session.
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
        for us in [0, 1_000, 1_001, 1_000_000, 1_000_001] {
            histogram.observe(us);
        }
        let (buckets, sum) = histogram.read();
        assert_eq!(buckets[0], 2);
        assert_eq!(buckets[1], 1);
        assert_eq!(buckets[4], 1);
        assert_eq!(buckets[5], 1);
        assert_eq!(sum, Duration::from_micros(2_002_002));
    }

    #[test]
    fn each_node_has_counters_of_its_own_that_stay_when_others_come() {
        let counters = Counters::default();
        assert!(counters.node(NodeId(2)).is_none());
        counters.of_node(NodeId(2), |node| node.retries(Retry::Late).add(2));
        let before = counters.node(NodeId(2)).expect("it has counted");
        counters.of_node(NodeId(7), |node| node.retries(Retry::Late).add(7));
        counters.of_node(NodeId(2), |node| node.retries(Retry::Late).add(1));
        assert_eq!(before.retries(Retry::Late).get(), 3);
        let late = |node| counters.node(NodeId(node)).map(|node| node.retries(Retry::Late).get());
        assert_eq!([late(1), late(2), late(7), late(8)], [Some(0), Some(3), Some(7), None]);
    }

    #[test]
    fn a_code_without_a_name_is_counted_with_the_others() {
        let node = NodeCounters::default();
        for code in 0..=u8::MAX {
            node.connacks(code).add(1);
        }
        for (place, code) in CODES.iter().enumerate() {
            assert_eq!(node.connacks_at(place).get(), 1, "{code}");
        }
        assert_eq!(node.connacks_at(CODES.len()).get(), 256 - CODES.len() as u64);
    }

    #[test]
    fn each_variant_has_a_place_of_its_own() {
        let counters = Counters::default();
        for (number, cause) in Ended::ALL.iter().enumerate() {
            counters.ends(*cause).add(number as u64 + 1);
        }
        for (number, cause) in Ended::ALL.iter().enumerate() {
            assert_eq!(counters.ends(*cause).get(), number as u64 + 1);
        }
        for decision in Decision::ALL {
            counters.routes(*decision).add(1);
            assert_eq!(counters.routes(*decision).get(), 1);
        }
    }
}
