//! The metrics with the label `node`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::encoding::NoLabelSet;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::page::Page;
use crate::cluster::{
    CheckResult, Cluster, EndpointKind, FindingSource, NodeId, NodeLoad, NodeState, ProbeResult, Verdict,
};
pub(super) use crate::path::counters::code_name;
use crate::path::counters::{BOUNDS_US, CODES, Count, Counters, Fault, NodeCounters, Retry, Step};

/// Writes what there is to say of each node of `cluster`: states, gauges, and what `workers` have counted.
pub(super) fn encode(page: &mut Page<'_>, cluster: &Cluster, workers: &[Arc<Counters>]) -> fmt::Result {
    page.gauges(
        "node_state",
        "1 for the current state of the node's endpoint, 0 for the others",
        cluster.nodes().iter().flat_map(|node| {
            node.endpoints.iter().flat_map(move |(kind, endpoint)| {
                let now = node.state_of(endpoint);
                NodeState::ALL.iter().map(move |state| {
                    let labels = [
                        ("node", &*node.name),
                        ("endpoint", kind.name()),
                        ("state", state.name()),
                    ];
                    (labels, u64::from(now == *state))
                })
            })
        }),
    )?;
    asked(page, cluster)?;
    let mut shares = page.family(
        "node_share",
        "The node's part of the ring, from 0 to 1: that of the clients whose home it is",
        MetricType::Gauge,
    )?;
    for (node, share) in cluster.nodes().iter().zip(cluster.ring().shares()) {
        shares.encode_family(&[("node", &*node.name)])?.encode_gauge(&share)?;
    }
    let nodes = ShownNode::all(cluster, workers);
    page.gauges(
        "node_connections",
        "Connections to the node, including those being set up",
        nodes.iter().map(|node| {
            let connections = node.load.connections.load(Ordering::Relaxed);
            ([("node", node.name)], connections as u64)
        }),
    )?;
    page.gauges(
        "node_source_ports",
        "Source ports towards the node that are in use, by connections and in TIME_WAIT",
        nodes
            .iter()
            .map(|node| ([("node", node.name)], node.load.ports() as u64)),
    )?;
    page.gauges(
        "node_connects_waiting",
        "Clients that wait for their turn at the node",
        nodes.iter().map(|node| {
            let waiting = node.load.waiting.load(Ordering::Relaxed);
            ([("node", node.name)], waiting as u64)
        }),
    )?;
    counted(page, &nodes)
}

/// How often control has asked each node, and what came of it.
fn asked(page: &mut Page<'_>, cluster: &Cluster) -> fmt::Result {
    let endpoints = || {
        cluster
            .nodes()
            .iter()
            .flat_map(|node| node.endpoints.iter().map(move |(kind, _)| (node, kind)))
    };
    let findings = cluster.nodes().iter().flat_map(|node| node.findings.iter());
    page.gauge(
        "probes_overruled",
        "Endpoints that stay in use although their probes fail, because too many nodes would be down",
        findings.filter(|finding| finding.verdict == Verdict::Overruled).count() as u64,
    )?;
    page.counters(
        "probes",
        "Probes of the node's endpoint, by result",
        endpoints().flat_map(|(node, kind)| {
            // The third result is no node's.
            let results = ProbeResult::ALL
                .iter()
                .filter(|result| **result != ProbeResult::NotAsked);
            results.map(move |result| {
                let labels = [
                    ("node", &*node.name),
                    ("endpoint", kind.name()),
                    ("result", result.name()),
                ];
                (labels, node.load.asked.probes(kind, *result))
            })
        }),
    )?;
    let not_asked = |load: &NodeLoad| {
        let kinds = EndpointKind::ALL.iter();
        let counts = kinds.map(|kind| load.asked.probes(*kind, ProbeResult::NotAsked));
        counts.sum::<u64>()
    };
    page.counter(
        "probes_not_asked",
        "Probes that could not be sent, because no descriptor or no port was left",
        cluster.all_known().iter().map(|known| not_asked(&known.load)).sum(),
    )?;
    let mut family = page.0.encode_descriptor(
        "probe_duration",
        "Duration of the last probe of the node's endpoint",
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    for (node, kind) in endpoints() {
        family
            .encode_family(&[("node", &*node.name), ("endpoint", kind.name())])?
            .encode_gauge(&node.load.asked.took(kind).as_secs_f64())?;
    }
    // The others are never asked.
    let with_api = cluster.nodes().iter().filter(|node| {
        let mut findings = node.findings.iter();
        findings.any(|finding| finding.source == FindingSource::Api)
    });
    page.counters(
        "node_checks",
        "Questions to the node's HTTP API, by result",
        with_api.flat_map(|node| {
            CheckResult::ALL.iter().map(move |result| {
                let labels = [("node", &*node.name), ("result", result.name())];
                (labels, node.load.asked.checks(*result))
            })
        }),
    )
}

/// What the workers have counted of each node.
fn counted(page: &mut Page<'_>, nodes: &[ShownNode<'_>]) -> fmt::Result {
    type Moved = (&'static str, fn(&NodeCounters) -> &Count);
    const MOVED: [Moved; 2] = [
        ("to_node", |counters| &counters.to_node),
        ("to_client", |counters| &counters.to_client),
    ];
    page.counters(
        "node_bytes",
        "Bytes relayed to and from the node, a second late at most",
        nodes.iter().flat_map(|node| {
            MOVED.map(|(direction, count)| ([("node", node.name), ("direction", direction)], node.sum(count)))
        }),
    )?;
    page.counters(
        "node_failures",
        "Clients that met a failure of the node, by what it was",
        nodes.iter().flat_map(|node| {
            Fault::ALL.iter().map(|fault| {
                let labels = [("node", node.name), ("reason", fault.name())];
                (labels, node.sum(|counters| counters.faults(*fault)))
            })
        }),
    )?;
    let codes: Vec<String> = CODES.iter().map(|code| code_name(*code)).collect();
    let codes: Vec<&str> = codes.iter().map(String::as_str).chain(["other"]).collect();
    page.counters(
        "connacks",
        "CONNACK packets read from the node, by code, whether passed on or not",
        nodes.iter().flat_map(|node| {
            codes.iter().enumerate().map(|(place, code)| {
                let labels = [("node", node.name), ("code", *code)];
                (labels, node.sum(|counters| counters.connacks_at(place)))
            })
        }),
    )?;
    page.counters(
        "retries",
        "CONNECT packets sent again after the node, to another one or to itself, by reason",
        nodes.iter().flat_map(|node| {
            Retry::ALL.iter().map(|reason| {
                let labels = [("node", node.name), ("reason", reason.name())];
                (labels, node.sum(|counters| counters.retries(*reason)))
            })
        }),
    )?;
    page.counters(
        "pace_waits",
        "Clients that waited for their turn at the node, whether or not it came",
        nodes
            .iter()
            .map(|node| ([("node", node.name)], node.sum(|counters| &counters.waits))),
    )?;
    let mut family = page.0.encode_descriptor(
        "pace_wait",
        "How long clients waited for their turn at the node, added up",
        Some(&Unit::Seconds),
        MetricType::Counter,
    )?;
    for node in nodes {
        let waited = Duration::from_micros(node.sum(|counters| &counters.wait_us));
        family
            .encode_family(&[("node", node.name)])?
            .encode_counter::<NoLabelSet, f64, u64>(&waited.as_secs_f64(), None)?;
    }
    let mut family = page.0.encode_descriptor(
        "step_duration",
        "How long dial and greet took, for clients that were connected to the node",
        Some(&Unit::Seconds),
        MetricType::Histogram,
    )?;
    for node in nodes {
        for step in Step::ALL {
            let (counts, sum) = node.durations(*step);
            family
                .encode_family(&[("node", node.name), ("step", step.name())])?
                .encode_histogram::<NoLabelSet>(sum.as_secs_f64(), counts.iter().sum(), &buckets(counts), None)?;
        }
    }
    Ok(())
}

/// The counts of a histogram with their bounds, in seconds.
pub(super) fn buckets(counts: [u64; BOUNDS_US.len() + 1]) -> Vec<(f64, u64)> {
    let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
    bounds.zip(counts).collect()
}

/// A node with series: one of the cluster, or a removed one as long as it has connections.
struct ShownNode<'a> {
    name: &'a str,
    load: &'a NodeLoad,
    /// What the workers have counted of it that have counted anything.
    counters: Vec<Arc<NodeCounters>>,
}

impl<'a> ShownNode<'a> {
    fn all(cluster: &'a Cluster, workers: &[Arc<Counters>]) -> Vec<Self> {
        let shown = (0..)
            .map(NodeId)
            .zip(cluster.all_known())
            .filter(|(id, known)| cluster.node(*id).is_some() || known.load.connections.load(Ordering::Relaxed) > 0);
        let shown = shown.map(|(id, known)| Self {
            name: &known.name,
            load: &known.load,
            counters: workers.iter().filter_map(|counters| counters.node(id)).collect(),
        });
        shown.collect()
    }

    fn sum(&self, count: impl Fn(&NodeCounters) -> &Count) -> u64 {
        self.counters.iter().map(|counters| count(counters).get()).sum()
    }

    fn durations(&self, step: Step) -> ([u64; BOUNDS_US.len() + 1], Duration) {
        let mut counts = [0; BOUNDS_US.len() + 1];
        let mut sum = Duration::ZERO;
        for counters in &self.counters {
            let (more, more_sum) = counters.steps(step).read();
            counts.iter_mut().zip(more).for_each(|(a, b)| *a += b);
            sum += more_sum;
        }
        (counts, sum)
    }
}
