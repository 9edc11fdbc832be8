//! What `/metrics` says: the workers' numbers added up, and what there is at the moment of asking.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::process::Process;
use crate::accept::{Census, Handshakes, Population};
use crate::cluster::{Clusters, Decision, EndpointKind, NodeState};
use crate::ended::Ended;
use crate::held::Held;
use crate::log;
use crate::metrics::{BOUNDS_US, Count, ListenerTally, Retry, Step, Tally, VERSIONS, Verdict};
use crate::route::Placements;

/// Where the numbers come from.
#[derive(Debug)]
pub struct Facts {
    /// By worker.
    pub tallies: Vec<Arc<Tally>>,
    /// The listeners of this process's life, by id.
    pub listeners: Mutex<Vec<ListenerFacts>>,
    /// The newest snapshot of the nodes.
    pub clusters: Arc<Clusters>,
    /// Connections, counted over all workers.
    pub census: Arc<Census>,
    /// TLS handshakes under way, counted over all workers.
    pub handshakes: Arc<Handshakes>,
    /// The account of held bytes.
    pub held: Arc<Held>,
    /// The remembered exceptions.
    pub placements: Arc<Placements>,
    /// Set once this balancer drains.
    pub draining: AtomicBool,
    /// How reloads went.
    pub reloads: Reloads,
}

/// What is known of one listener.
#[derive(Debug)]
pub struct ListenerFacts {
    /// Its name, which is the value of its label.
    pub name: String,
    /// What its clients come by.
    pub kind: EndpointKind,
    /// Its connections now.
    pub population: Arc<Population>,
    /// By worker.
    pub tallies: Vec<Arc<ListenerTally>>,
    /// When the first of its certificates expires; none without any.
    pub certificate_expires: Option<SystemTime>,
    /// It was removed: it is shown for as long as connections of it live.
    pub removed: bool,
}

/// The listeners of one name: the one that is open, and those that had the name before it. They are one series, which only
/// grows, also when a listener moves to another address.
struct Namesakes<'a>(Vec<&'a ListenerFacts>);

impl<'a> Namesakes<'a> {
    /// The listeners that are shown, by name, in the order in which the names came up.
    fn shown(listeners: &'a [ListenerFacts]) -> Vec<Self> {
        let mut shown: Vec<Self> = Vec::new();
        for listener in listeners {
            match shown.iter_mut().find(|other| other.name() == listener.name) {
                Some(namesakes) => namesakes.0.push(listener),
                None => shown.push(Self(vec![listener])),
            }
        }
        shown.retain(|namesakes| {
            let is_there = |listener: &&ListenerFacts| {
                !listener.removed || listener.population.connections() > 0
            };
            namesakes.0.iter().any(is_there)
        });
        shown
    }

    fn name(&self) -> &'a str {
        self.0.first().map_or("", |listener| &listener.name)
    }

    fn certificate_expires(&self) -> Option<SystemTime> {
        let open = self.0.iter().filter(|listener| !listener.removed);
        open.filter_map(|listener| listener.certificate_expires)
            .min()
    }

    fn sum(&self, count: impl Fn(&ListenerTally) -> &Count) -> u64 {
        let tallies = self.0.iter().flat_map(|listener| &listener.tallies);
        tallies.map(|tally| count(tally).get()).sum()
    }
}

/// How reloads went.
#[derive(Debug, Default)]
pub struct Reloads {
    succeeded: AtomicU64,
    failed: AtomicU64,
    last_failed: AtomicBool,
    /// Seconds since 1970; the start counts as the first success.
    succeeded_at: AtomicU64,
}

impl Reloads {
    /// The configuration is in force, at the start or after a reload.
    pub fn in_force(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        // A clock before 1970 is shown as 1970.
        let now = now.unwrap_or_default().as_secs();
        self.succeeded_at.store(now, Ordering::Relaxed);
        self.last_failed.store(false, Ordering::Relaxed);
    }

    /// A reload succeeded.
    pub fn succeeded(&self) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        self.in_force();
    }

    /// A reload failed, and changed nothing.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.last_failed.store(true, Ordering::Relaxed);
    }
}

impl Facts {
    /// The listeners, for a moment.
    pub fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<ListenerFacts>> {
        // Nothing that can panic runs under the lock; a poisoned list would still be a right one.
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Why this balancer should get no new clients; none when it should.
    pub fn unready(&self) -> Option<&'static str> {
        if self.draining.load(Ordering::Relaxed) {
            return Some("draining");
        }
        let cluster = self.clusters.current();
        let listeners = self.listeners();
        let mut open = listeners.iter().filter(|listener| !listener.removed);
        let up = open.any(|listener| cluster.up(listener.kind).next().is_some());
        (!up).then_some("no node is up")
    }

    fn sum(&self, count: impl Fn(&Tally) -> &Count) -> u64 {
        self.tallies.iter().map(|tally| count(tally).get()).sum()
    }
}

/// CONNACK codes that have a series from the start: those of MQTT 3.1.1 (table 3.1) and MQTT 5 (3.2.2.2).
const CODES: [u8; 27] = [
    0, 1, 2, 3, 4, 5, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90,
    0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
];

/// A code as a label: decimal as in MQTT 3, hexadecimal as in MQTT 5.
fn code_name(code: u8) -> String {
    match code {
        0..0x80 => code.to_string(),
        _ => format!("0x{code:02X}"),
    }
}

impl Collector for Facts {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        self.clients(&mut page)?;
        self.path(&mut page)?;
        self.nodes(&mut page)?;
        self.limits(&mut page)?;
        self.process(&mut page)
    }
}

impl Facts {
    fn clients(&self, page: &mut Page<'_>) -> fmt::Result {
        let listeners = self.listeners();
        let listeners = Namesakes::shown(&listeners);
        page.gauges(
            "connections",
            "Client connections that were accepted and have not ended",
            listeners.iter().map(|listener| {
                // Ended first: what ends in between is then counted as open, never the other way round.
                let ended = listener.sum(|tally| &tally.ended);
                let accepted = listener.sum(|tally| &tally.accepted);
                (
                    [("listener", listener.name())],
                    accepted.saturating_sub(ended),
                )
            }),
        )?;
        page.counters(
            "accepts",
            "Client connections accepted",
            listeners.iter().map(|listener| {
                let accepted = listener.sum(|tally| &tally.accepted);
                ([("listener", listener.name())], accepted)
            }),
        )?;
        type Moved = (&'static str, &'static str, fn(&ListenerTally) -> &Count);
        const MOVED: [Moved; 4] = [
            ("to_node", "copy", |tally| &tally.to_node_copied),
            ("to_node", "splice", |tally| &tally.to_node_spliced),
            ("to_client", "copy", |tally| &tally.to_client_copied),
            ("to_client", "splice", |tally| &tally.to_client_spliced),
        ];
        page.counters(
            "bytes",
            "Bytes relayed, a second late at most",
            listeners.iter().flat_map(|listener| {
                MOVED.map(|(direction, method, count)| {
                    let labels = [
                        ("listener", listener.name()),
                        ("direction", direction),
                        ("method", method),
                    ];
                    (labels, listener.sum(count))
                })
            }),
        )?;
        let secured = || {
            let expiry = |listener: &&Namesakes<'_>| listener.certificate_expires().is_some();
            listeners.iter().filter(expiry)
        };
        type Kind = (&'static str, fn(&ListenerTally) -> &Count);
        const KINDS: [Kind; 2] = [
            ("full", |tally| &tally.handshakes_full),
            ("resumed", |tally| &tally.handshakes_resumed),
        ];
        page.counters(
            "tls_handshakes",
            "TLS handshakes of clients that succeeded, by whether they went on with an earlier session",
            secured().flat_map(|listener| {
                KINDS.map(|(kind, count)| {
                    let labels = [("listener", listener.name()), ("kind", kind)];
                    (labels, listener.sum(count))
                })
            }),
        )?;
        page.gauges(
            "certificate_expiry_timestamp_seconds",
            "When the first of the listener's certificates expires",
            secured().filter_map(|listener| {
                let expires = listener.certificate_expires()?.duration_since(UNIX_EPOCH);
                // One that expired before 1970 expired then.
                let expires = expires.unwrap_or_default().as_secs();
                Some(([("listener", listener.name())], expires))
            }),
        )
    }

    fn path(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counters(
            "connects",
            "CONNECT packets read, by protocol version and what became of them",
            VERSIONS.iter().enumerate().flat_map(|(place, version)| {
                Verdict::ALL.iter().map(move |verdict| {
                    let labels = [("version", *version), ("result", verdict.name())];
                    let count = self.sum(|tally| tally.connects_at(place, *verdict));
                    (labels, count)
                })
            }),
        )?;
        page.counters(
            "routes",
            "Clients taken to a node, by the reason for that node",
            Decision::ALL.iter().map(|decision| {
                let count = self.sum(|tally| tally.routes(*decision));
                ([("decision", decision.name())], count)
            }),
        )?;
        let codes: Vec<(String, u64)> = CODES
            .iter()
            .map(|code| (code_name(*code), self.sum(|tally| tally.connacks(*code))))
            .collect();
        let other: u64 = (0..=u8::MAX)
            .filter(|code| !CODES.contains(code))
            .map(|code| self.sum(|tally| tally.connacks(code)))
            .sum();
        page.counters(
            "connacks",
            "CONNACK packets read from nodes, by code, passed on or not",
            codes
                .iter()
                .map(|(code, count)| (code.as_str(), *count))
                .chain([("other", other)])
                .map(|(code, count)| ([("code", code)], count)),
        )?;
        page.counters(
            "retries",
            "CONNECT packets replayed to another node, or to the same once more, by reason",
            Retry::ALL.iter().map(|reason| {
                let count = self.sum(|tally| tally.retries(*reason));
                ([("reason", reason.name())], count)
            }),
        )?;
        page.counters(
            "ends",
            "Connections that ended, by cause",
            Ended::ALL.iter().map(|cause| {
                let count = self.sum(|tally| tally.ends(*cause));
                ([("cause", cause.name())], count)
            }),
        )?;
        self.steps(page)
    }

    fn steps(&self, page: &mut Page<'_>) -> fmt::Result {
        let mut family = page.0.encode_descriptor(
            "step_duration",
            "How long the steps of a connection's set-up took, for clients that were taken to a node",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        for step in Step::ALL {
            let mut counts = [0; BOUNDS_US.len() + 1];
            let mut sum = Duration::ZERO;
            for tally in &self.tallies {
                let (more, more_sum) = tally.steps(*step).read();
                counts.iter_mut().zip(more).for_each(|(a, b)| *a += b);
                sum += more_sum;
            }
            let bounds = BOUNDS_US
                .iter()
                .map(|us| *us as f64 / 1e6)
                .chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            family
                .encode_family(&[("step", step.name())])?
                .encode_histogram::<NoLabelSet>(
                    sum.as_secs_f64(),
                    counts.iter().sum(),
                    &buckets,
                    None,
                )?;
        }
        Ok(())
    }

    fn nodes(&self, page: &mut Page<'_>) -> fmt::Result {
        let cluster = self.clusters.current();
        page.gauges(
            "node_state",
            "1 for the state that the node's endpoint is in, 0 for the others",
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
        // A node that was removed is shown for as long as it has connections.
        let shown = cluster.all_known().iter().filter_map(|known| {
            let connections = known.live.connections.load(Ordering::Relaxed);
            let is_there = || cluster.nodes().iter().any(|node| node.name == known.name);
            (connections > 0 || is_there()).then_some((known, connections))
        });
        page.gauges(
            "node_connections",
            "Connections to the node, those being set up included",
            shown.map(|(known, connections)| ([("node", &*known.name)], connections as u64)),
        )
    }

    fn limits(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "undecided_connections",
            "Connections whose CONNECT has not been read yet",
            self.census.undecided() as u64,
        )?;
        page.gauge(
            "tls_handshakes_pending",
            "TLS handshakes under way",
            self.handshakes.now() as u64,
        )?;
        page.gauge(
            "held_bytes",
            "Bytes held for clients that no node has accepted yet",
            self.held.bytes() as u64,
        )?;
        page.gauge(
            "placements",
            "Clients remembered because they sit on another node than their own",
            self.placements.len() as u64,
        )?;
        page.counter(
            "placements_evicted",
            "Placements given up, or not taken, for want of room",
            self.placements.evicted(),
        )?;
        page.counter(
            "turned_away",
            "Clients reset because no descriptor was left to accept them",
            self.sum(Tally::turned_away),
        )
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter(
            "panics",
            "Connections that a bug of the balancer ended",
            self.sum(Tally::panics),
        )?;
        page.counter(
            "log_lines_dropped",
            "Log lines dropped because the writer could not keep up",
            log::dropped(),
        )?;
        let Reloads {
            succeeded,
            failed,
            last_failed,
            succeeded_at,
        } = &self.reloads;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        page.counters(
            "config_reloads",
            "Reloads of the configuration, by how they went",
            [("success", succeeded), ("failure", failed)]
                .into_iter()
                .map(|(result, count)| ([("result", result)], read(count))),
        )?;
        page.gauge(
            "config_last_reload_successful",
            "1 while the newest configuration is in force, 0 after a reload that failed",
            u64::from(!last_failed.load(Ordering::Relaxed)),
        )?;
        page.gauge(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration in force was taken",
            read(succeeded_at),
        )?;
        page.gauge(
            "draining",
            "1 once the balancer drains",
            u64::from(self.draining.load(Ordering::Relaxed)),
        )?;
        page.gauges(
            "build_info",
            "1; the label says which version runs",
            [([("version", env!("CARGO_PKG_VERSION"))], 1)].into_iter(),
        )
    }
}

/// The figures that every Prometheus client gives of its process, under their usual names.
#[derive(Debug)]
pub struct ProcessFacts;

impl Collector for ProcessFacts {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        let Some(process) = Process::read() else {
            return Ok(());
        };
        page.gauge(
            "process_open_fds",
            "Open file descriptors",
            process.open_files,
        )?;
        page.gauge(
            "process_max_fds",
            "File descriptors that may be open",
            process.open_files_max,
        )?;
        page.gauge(
            "process_resident_memory_bytes",
            "Resident memory",
            process.resident_bytes,
        )?;
        page.gauge(
            "process_virtual_memory_bytes",
            "Virtual memory",
            process.virtual_bytes,
        )?;
        let mut cpu = page.0.encode_descriptor(
            "process_cpu_seconds",
            "CPU time of user and system",
            None,
            MetricType::Counter,
        )?;
        cpu.encode_counter::<NoLabelSet, f64, u64>(&process.cpu.as_secs_f64(), None)?;
        let mut start = page.0.encode_descriptor(
            "process_start_time_seconds",
            "When the process began, in seconds since 1970",
            None,
            MetricType::Gauge,
        )?;
        start.encode_gauge(&process.started.as_secs_f64())
    }
}

/// A page that is being written, family after family.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counter(&mut self, name: &str, help: &str, count: u64) -> fmt::Result {
        let mut metric = self.family(name, help, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, u64, u64>(&count, None)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.family(name, help, MetricType::Gauge)?;
        metric.encode_gauge(&value)
    }

    fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (labels, count) in series {
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }
        Ok(())
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (labels, value) in series {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }
}
