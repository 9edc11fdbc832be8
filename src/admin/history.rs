//! What was counted lately, in steps of five seconds: a bounded history of ten minutes, for those who look only now and then.
//!
//! Control's thread writes it, from the counters that are there anyway; nothing on the path knows of it.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::cluster::{Cluster, NodeId};
use crate::path::counters::{CODES, Counters, Fault};
use crate::path::ended::Ended;

/// From one sample to the next.
pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// How many samples are kept: ten minutes of them.
pub(crate) const SAMPLES_MAX: usize = 120;

/// The samples of the process.
#[derive(Debug, Default)]
pub struct History(Mutex<Kept>);

/// One sample of a node. What is counted is of the time since the sample before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Connections at that moment.
    pub(crate) connections: u32,
    /// CONNECTs that the node accepted.
    pub(crate) accepted: u32,
    /// CONNECTs that it refused.
    pub(crate) refused: u32,
    /// Clients that met a failure of it.
    pub(crate) failures: u32,
}

#[derive(Debug, Default)]
struct Kept {
    /// The number of the newest sample; 0 before the first.
    newest: u64,
    nodes: HashMap<NodeId, Lately<3>>,
    ends: Lately<{ Ended::ALL.len() }>,
}

/// Samples of some counters, the newest last.
#[derive(Debug)]
struct Lately<const N: usize> {
    /// The counters at the newest sample.
    counted: [u64; N],
    /// A gauge, and how much each counter has grown.
    samples: VecDeque<(u32, [u32; N])>,
}

impl<const N: usize> Default for Lately<N> {
    fn default() -> Self {
        Self::from([0; N])
    }
}

impl<const N: usize> Lately<N> {
    fn from(counted: [u64; N]) -> Self {
        Self {
            counted,
            samples: VecDeque::new(),
        }
    }

    fn push(&mut self, gauge: u32, counted: [u64; N]) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        let grown = std::array::from_fn(|place| narrow(counted[place].saturating_sub(self.counted[place])));
        self.samples.push_back((gauge, grown));
        self.counted = counted;
    }
}

impl History {
    /// The first sample begins here: what was counted before, in another process, is not of its time.
    pub(crate) fn begin(&self, cluster: &Cluster, workers: &[Arc<Counters>]) {
        let mut kept = self.kept();
        kept.ends.counted = counted_ends(workers);
        for (id, _) in (0..).map(NodeId).zip(cluster.all_known()) {
            kept.nodes.insert(id, Lately::from(counted(id, workers)));
        }
    }

    /// Adds a sample of everything.
    pub(crate) fn sample(&self, cluster: &Cluster, workers: &[Arc<Counters>]) {
        let mut kept = self.kept();
        let is_first = kept.newest == 0;
        kept.newest += 1;
        kept.ends.push(0, counted_ends(workers));
        let known = (0..).map(NodeId).zip(cluster.all_known());
        for (id, known) in known {
            let connections = known.load.connections.load(Ordering::Relaxed);
            if cluster.node(id).is_none() && connections == 0 {
                kept.nodes.remove(&id);
                continue;
            }
            let counted = counted(id, workers);
            // What an earlier node of this name was counted for is not of the last five seconds.
            let begin = if is_first { [0; 3] } else { counted };
            let lately = kept.nodes.entry(id).or_insert_with(|| Lately::from(begin));
            lately.push(u32::try_from(connections).unwrap_or(u32::MAX), counted);
        }
    }

    /// The number of the newest sample; 0 before the first.
    pub(crate) fn newest(&self) -> u64 {
        self.kept().newest
    }

    /// The samples of a node, the newest last, of which the caller knows those up to `since`.
    pub(crate) fn of_node(&self, id: NodeId, since: u64) -> Vec<Sample> {
        let kept = self.kept();
        let Some(lately) = kept.nodes.get(&id) else {
            return Vec::new();
        };
        let unknown = usize::try_from(kept.newest.saturating_sub(since)).unwrap_or(usize::MAX);
        let known = lately.samples.len().saturating_sub(unknown);
        let samples = lately.samples.iter().skip(known);
        let samples = samples.map(|(connections, [accepted, refused, failures])| Sample {
            connections: *connections,
            accepted: *accepted,
            refused: *refused,
            failures: *failures,
        });
        samples.collect()
    }

    /// How many connections have ended within the history, by place in [`Ended::ALL`].
    pub(crate) fn ends(&self) -> Vec<u64> {
        let kept = self.kept();
        let of = |place: usize| kept.ends.samples.iter().map(|(_, ends)| u64::from(ends[place])).sum();
        (0..Ended::ALL.len()).map(of).collect()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many connections have ended, by place in [`Ended::ALL`].
fn counted_ends(workers: &[Arc<Counters>]) -> [u64; Ended::ALL.len()] {
    std::array::from_fn(|place| {
        let ends = workers.iter().map(|counters| counters.ends(Ended::ALL[place]).get());
        ends.sum()
    })
}

/// How many CONNECTs a node has accepted and refused, and how many clients met a failure of it.
fn counted(id: NodeId, workers: &[Arc<Counters>]) -> [u64; 3] {
    let mut counted = [0; 3];
    for counters in workers.iter().filter_map(|worker| worker.node(id)) {
        // The first code is "accepted"; behind the known ones are all others.
        counted[0] += counters.connacks_at(0).get();
        counted[1] += (1..=CODES.len())
            .map(|place| counters.connacks_at(place).get())
            .sum::<u64>();
        counted[2] += Fault::ALL
            .iter()
            .map(|fault| counters.faults(*fault).get())
            .sum::<u64>();
    }
    counted
}

fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{KnownNode, SEED_DEFAULT};

    fn cluster(names: &[&str]) -> Cluster {
        let known: Vec<KnownNode> = names
            .iter()
            .map(|name| KnownNode {
                name: (*name).into(),
                load: Arc::default(),
            })
            .collect();
        known.iter().for_each(|known| {
            // A removed node is kept for its connections.
            known.load.connections.store(7, Ordering::Relaxed);
        });
        Cluster::new(Vec::new(), known.into(), SEED_DEFAULT)
    }

    #[test]
    fn a_sample_has_what_was_counted_since_the_one_before() {
        let (history, cluster) = (History::default(), cluster(&["a"]));
        let workers = [Arc::<Counters>::default(), Arc::default()];
        let count = |worker: usize, code: u8| workers[worker].of_node(NodeId(0), |node| node.connacks(code).add(1));
        count(0, 0);
        count(1, 0);
        history.sample(&cluster, &workers);
        count(0, 0x88);
        workers[1].ends(Ended::Idle).add(3);
        history.sample(&cluster, &workers);
        history.sample(&cluster, &workers);
        let sample = |accepted, refused| Sample {
            connections: 7,
            accepted,
            refused,
            failures: 0,
        };
        assert_eq!(
            history.of_node(NodeId(0), 0),
            [sample(2, 0), sample(0, 1), sample(0, 0)]
        );
        assert_eq!(history.of_node(NodeId(0), 2), [sample(0, 0)]);
        assert_eq!(history.of_node(NodeId(0), 3), []);
        assert_eq!(history.ends()[Ended::Idle as usize], 3);
    }

    #[test]
    fn what_was_counted_before_the_beginning_is_in_no_sample() {
        let (history, cluster) = (History::default(), cluster(&["a"]));
        let workers = [Arc::<Counters>::default()];
        workers[0].of_node(NodeId(0), |node| node.connacks(0).add(1_000_000));
        workers[0].ends(Ended::Idle).add(1_000_000);
        history.begin(&cluster, &workers);
        workers[0].of_node(NodeId(0), |node| node.connacks(0).add(2));
        workers[0].ends(Ended::Idle).add(3);
        history.sample(&cluster, &workers);
        assert_eq!(history.of_node(NodeId(0), 0)[0].accepted, 2);
        assert_eq!(history.ends()[Ended::Idle as usize], 3);
    }

    #[test]
    fn no_more_than_ten_minutes_are_kept_and_nothing_of_a_node_that_is_gone() {
        let history = History::default();
        let workers = [Arc::<Counters>::default()];
        let both = cluster(&["a", "b"]);
        for _ in 0..SAMPLES_MAX + 5 {
            history.sample(&both, &workers);
        }
        assert_eq!(history.of_node(NodeId(1), 0).len(), SAMPLES_MAX);
        both.all_known()[1].load.connections.store(0, Ordering::Relaxed);
        history.sample(&both, &workers);
        assert_eq!(history.of_node(NodeId(1), 0), []);
        assert_eq!(history.newest(), SAMPLES_MAX as u64 + 6);
        // It comes back: what it was counted for before is not of now.
        workers[0].of_node(NodeId(1), |node| node.connacks(0).add(9));
        both.all_known()[1].load.connections.store(1, Ordering::Relaxed);
        history.sample(&both, &workers);
        assert_eq!(history.of_node(NodeId(1), 0)[0].accepted, 0);
    }
}
