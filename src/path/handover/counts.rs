//! What was counted, by stable names, so that no metric falls when another process goes on counting.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cluster::{CheckResult, Cluster, Decision, EndpointKind, NodeId, ProbeResult};
use crate::handover::messages::{Counter, Invalid};
use crate::path::counters::{
    CODES, Count, Counters, Fault, Histogram, ListenerCounters, NodeCounters, Retry, Step, VERSIONS, Verdict, code_name,
};
use crate::path::ended::Ended;
use crate::path::listeners::ListenerEntry;
use crate::path::route::Placements;

/// More than anything is counted; sums of several such numbers are still numbers.
const COUNT_MAX: u64 = 1 << 60;

/// Placements that were evicted, which all workers count together.
const PLACEMENTS_EVICTED: &str = "placements_evicted";

/// What control has asked nodes, which it counts for all workers.
const PROBES: &str = "probes";
const NODE_CHECKS: &str = "node_checks";

/// What was counted, by metric, node or listener, and label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<(String, String, String), u64>);

impl Counts {
    /// What these workers have counted so far.
    pub(crate) fn export(
        workers: &[Arc<Counters>],
        listeners: &[Arc<ListenerEntry>],
        cluster: &Cluster,
        placements: &Placements,
    ) -> Self {
        let mut counts = Self::default();
        for worker in workers {
            of_worker(worker, &mut |metric, label, count| {
                counts.add(metric, "", label, count.get())
            });
            for (known, place) in cluster.all_known().iter().zip(0..) {
                if let Some(node) = worker.node(NodeId(place)) {
                    of_node(&node, &mut |metric, label, count| {
                        counts.add(metric, &known.name, label, count.get());
                    });
                }
            }
        }
        for known in cluster.all_known() {
            for (kind, result, label) in probes() {
                counts.add(PROBES, &known.name, &label, known.load.asked.probes(kind, result));
            }
            for result in CheckResult::ALL {
                counts.add(
                    NODE_CHECKS,
                    &known.name,
                    result.name(),
                    known.load.asked.checks(*result),
                );
            }
        }
        for listener in listeners {
            for worker in listener.counters.iter() {
                of_listener(worker, &mut |metric, label, count| {
                    counts.add(metric, listener.name(), label, count.get());
                });
            }
        }
        counts.add(PLACEMENTS_EVICTED, "", "", placements.evicted());
        counts
    }

    /// What was counted since the counts were `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let more = self.0.iter().filter_map(|(name, count)| {
            let more = count.saturating_sub(before.0.get(name).copied().unwrap_or_default());
            (more > 0).then(|| (name.clone(), more))
        });
        Self(more.collect())
    }

    /// As messages.
    pub(crate) fn messages(&self) -> Vec<Counter> {
        let messages = self.0.iter().map(|((name, of, label), count)| Counter {
            name: name.clone(),
            of: of.clone(),
            label: label.clone(),
            count: *count,
        });
        messages.collect()
    }

    /// What these messages say.
    ///
    /// # Errors
    /// Nothing is counted that often.
    pub(crate) fn of(messages: &[Counter]) -> Result<Self, Invalid> {
        let mut counts = Self::default();
        for Counter { name, of, label, count } in messages {
            if *count > COUNT_MAX {
                return Err(Invalid("count"));
            }
            let name = (name.clone(), of.clone(), label.clone());
            if counts.0.insert(name, *count).is_some() {
                return Err(Invalid("counter: it is there twice"));
            }
        }
        Ok(counts)
    }

    /// Adds them to what a worker has counted. Only on that worker's thread, and only on one. What has no name here is left out.
    pub(crate) fn import(
        &self,
        (worker, counters): (u16, &Counters),
        listeners: &[Arc<ListenerEntry>],
        cluster: &Cluster,
        placements: &Placements,
    ) {
        of_worker(counters, &mut |metric, label, count| {
            count.add(self.count(metric, "", label));
        });
        for (known, place) in cluster.all_known().iter().zip(0..) {
            if self.0.keys().any(|(_, of, _)| **of == *known.name) {
                counters.of_node(NodeId(place), |node| {
                    of_node(node, &mut |metric, label, count| {
                        count.add(self.count(metric, &known.name, label));
                    });
                });
            }
        }
        for known in cluster.all_known() {
            for (kind, result, label) in probes() {
                let count = self.count(PROBES, &known.name, &label);
                known.load.asked.add_probes(kind, result, count);
            }
            for result in CheckResult::ALL {
                let count = self.count(NODE_CHECKS, &known.name, result.name());
                known.load.asked.add_checks(*result, count);
            }
        }
        for (place, listener) in listeners.iter().enumerate() {
            // All listeners with one name are one series: it goes on with the first.
            let is_first = !listeners[..place].iter().any(|other| other.name() == listener.name());
            if let Some(counters) = listener.counters.get(usize::from(worker)).filter(|_| is_first) {
                of_listener(counters, &mut |metric, label, count| {
                    count.add(self.count(metric, listener.name(), label));
                });
            }
        }
        placements.add_evicted(self.count(PLACEMENTS_EVICTED, "", ""));
    }

    /// Adds what was counted under this name.
    pub(crate) fn add(&mut self, metric: &str, of: &str, label: &str, count: u64) {
        if count > 0 {
            *self.0.entry((metric.into(), of.into(), label.into())).or_default() += count;
        }
    }

    fn count(&self, metric: &str, of: &str, label: &str) -> u64 {
        let name = (metric.into(), of.into(), label.into());
        self.0.get(&name).copied().unwrap_or_default()
    }
}

/// Every endpoint that is probed and every result, with the label of both.
fn probes() -> impl Iterator<Item = (EndpointKind, ProbeResult, String)> {
    EndpointKind::ALL.iter().flat_map(|kind| {
        let results = ProbeResult::ALL.iter();
        results.map(|result| (*kind, *result, format!("{} {}", kind.name(), result.name())))
    })
}

/// Visits a number by the name of its metric and its label.
type Visit<'a> = dyn FnMut(&'static str, &str, &Count) + 'a;

/// Everything that a worker counts over all its connections.
fn of_worker(counters: &Counters, visit: &mut Visit<'_>) {
    for cause in Ended::ALL {
        visit("ends", cause.name(), counters.ends(*cause));
    }
    for decision in Decision::ALL {
        visit("routes", decision.name(), counters.routes(*decision));
    }
    for (place, version) in VERSIONS.iter().enumerate() {
        for verdict in Verdict::ALL {
            let label = format!("{version} {}", verdict.name());
            visit("connects", &label, counters.connects_at(place, *verdict));
        }
    }
    histogram("peek_duration", "", &counters.peek, visit);
    visit("panics", "", counters.panics());
    visit("turned_away", "", counters.turned_away());
    visit("log_lines_kept_back", "", counters.lines_kept_back());
    visit("held_reconnects", "", &counters.held_back);
}

/// Everything that a worker counts of a node.
fn of_node(counters: &NodeCounters, visit: &mut Visit<'_>) {
    for (place, code) in CODES.iter().enumerate() {
        visit("connacks", &code_name(*code), counters.connacks_at(place));
    }
    visit("connacks", "other", counters.connacks_at(CODES.len()));
    for reason in Retry::ALL {
        visit("retries", reason.name(), counters.retries(*reason));
    }
    for fault in Fault::ALL {
        visit("node_failures", fault.name(), counters.faults(*fault));
    }
    for step in Step::ALL {
        histogram("step_duration", step.name(), counters.steps(*step), visit);
    }
    visit("pace_waits", "", &counters.waits);
    visit("pace_wait", "us", &counters.wait_us);
    visit("node_bytes", "to_node", &counters.to_node);
    visit("node_bytes", "to_client", &counters.to_client);
}

/// Everything that a worker counts of a listener.
fn of_listener(counters: &ListenerCounters, visit: &mut Visit<'_>) {
    let ListenerCounters {
        accepted,
        handshakes_full,
        handshakes_resumed,
        to_node_copied,
        to_node_spliced,
        to_client_copied,
        to_client_spliced,
    } = counters;
    visit("accepts", "", accepted);
    visit("tls_handshakes", "full", handshakes_full);
    visit("tls_handshakes", "resumed", handshakes_resumed);
    visit("bytes", "to_node copy", to_node_copied);
    visit("bytes", "to_node splice", to_node_spliced);
    visit("bytes", "to_client copy", to_client_copied);
    visit("bytes", "to_client splice", to_client_spliced);
}

fn histogram(metric: &'static str, label: &str, histogram: &Histogram, visit: &mut Visit<'_>) {
    for (bound, count) in histogram.buckets() {
        let bound = bound.map_or_else(|| "inf".to_owned(), |bound| bound.to_string());
        visit(metric, format!("{label} {bound}").trim_start(), count);
    }
    visit(metric, format!("{label} sum").trim_start(), histogram.sum_us());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::KnownNode;
    use crate::path::accept::Listener;
    use crate::path::record::ListenerId;

    /// What a process with two workers counts in.
    struct Process {
        workers: Vec<Arc<Counters>>,
        listeners: Vec<Arc<ListenerEntry>>,
        cluster: Cluster,
        placements: Placements,
    }

    impl Process {
        fn new(nodes: &[&str], listeners: &[&str]) -> Self {
            let known = nodes.iter().map(|name| KnownNode {
                name: (*name).into(),
                load: Arc::default(),
            });
            let listener = |(place, name): (usize, &&str)| {
                let address = "127.0.0.1:0".parse().expect("an address");
                let listener = Listener {
                    name: (*name).to_owned(),
                    ..Listener::new(address)
                };
                Arc::new(ListenerEntry::new(ListenerId(place as u16), listener, address, 2))
            };
            Self {
                workers: vec![Arc::default(), Arc::default()],
                listeners: listeners.iter().enumerate().map(listener).collect(),
                cluster: Cluster::new(Vec::new(), known.collect(), 0),
                placements: Placements::new(10, Duration::ZERO),
            }
        }

        fn export(&self) -> Counts {
            Counts::export(&self.workers, &self.listeners, &self.cluster, &self.placements)
        }

        fn import(&self, counts: &Counts) {
            let worker = (1, &*self.workers[1]);
            counts.import(worker, &self.listeners, &self.cluster, &self.placements);
        }
    }

    #[test]
    fn every_number_goes_on_in_another_process_whatever_its_nodes_and_listeners_are_numbered() {
        let from = Process::new(&["a", "b"], &["mqtt", "ws", "mqtt"]);
        let mut next = 0;
        let mut count = |_: &'static str, _: &str, count: &Count| {
            next += 1;
            count.add(next);
        };
        for worker in &from.workers {
            of_worker(worker, &mut count);
            for node in 0..2 {
                worker.of_node(NodeId(node), |node| of_node(node, &mut count));
            }
        }
        for listener in &from.listeners {
            listener
                .counters
                .iter()
                .for_each(|worker| of_listener(worker, &mut count));
        }
        from.placements.add_evicted(7);
        let asked = &from.cluster.all_known()[1].load.asked;
        asked.add_probes(EndpointKind::Ws, ProbeResult::Failed, 8);
        asked.add_checks(CheckResult::Unavailable, 9);
        let counts = from.export();
        assert_eq!(Counts::of(&counts.messages()), Ok(counts.clone()));
        assert_eq!(counts.count(PROBES, "b", "ws failed"), 8);

        let to = Process::new(&["new", "b", "a"], &["ws", "mqtt"]);
        to.import(&counts);
        assert_eq!(to.export(), counts);
        to.import(&Counts::default());
        assert_eq!(to.export(), counts, "nothing more");

        // What is counted later.
        from.workers[0].ends(Ended::Idle).add(2);
        let more = from.export().since(&counts);
        assert_eq!(more.messages().len(), 1);
        to.import(&more);
        assert_eq!(to.export(), from.export());
    }

    #[test]
    fn what_has_no_name_here_is_left_out_and_what_cannot_be_is_refused() {
        let to = Process::new(&["a"], &["mqtt"]);
        let counter = |name: &str, of: &str, label: &str| Counter {
            name: name.to_owned(),
            of: of.to_owned(),
            label: label.to_owned(),
            count: 1,
        };
        let unknown = [
            counter("ends", "", "no_such_cause"),
            counter("no_such_metric", "", ""),
            counter("connacks", "no-such-node", "0"),
            counter("accepts", "no-such-listener", ""),
        ];
        to.import(&Counts::of(&unknown).expect("names are names"));
        assert_eq!(to.export(), Counts::default());
        let often = Counter {
            count: u64::MAX,
            ..counter("ends", "", "idle")
        };
        assert!(Counts::of(&[often]).is_err());
        assert!(Counts::of(&[counter("ends", "", "idle"), counter("ends", "", "idle")]).is_err());
    }
}
