//! The content of `/metrics`: the workers' counters added up, and gauges read at the time of the request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::doctor_series;
use super::handovers::Handovers;
use super::history::History;
use super::node_series;
use super::page::{Page, timestamp};
use super::process::Process;
use crate::base::build;
use crate::base::events::Events;
use crate::base::heartbeat::Heartbeats;
use crate::base::log;
use crate::cluster::{Clusters, Decision, EndpointKind};
use crate::control::ControlHandle;
use crate::doctor::examination::LastExamination;
use crate::net::held::HeldBytes;
use crate::net::tls::NodesTls;
use crate::path::accept::Admission;
use crate::path::counters::{BOUNDS_US, Count, Counters, ListenerCounters, VERSIONS, Verdict};
use crate::path::ended::Ended;
use crate::path::listeners::{ListenerEntry, Listeners};
use crate::path::relay::WaitingBytes;
use crate::path::route::Placements;

/// The sources of the metrics.
#[derive(Debug)]
pub struct AdminState {
    /// One for each worker.
    pub counters: Vec<Arc<Counters>>,
    /// All listeners since the start of the process, by id.
    pub listeners: Arc<Listeners>,
    /// The newest snapshot of the nodes.
    pub clusters: Arc<Clusters>,
    /// Connections, counted across all workers.
    pub admission: Arc<Admission>,
    /// What connections hold that are being set up, over all workers.
    pub held: Arc<HeldBytes>,
    /// What waits for receivers without room.
    pub waiting: Arc<WaitingBytes>,
    /// The remembered placements.
    pub placements: Arc<Placements>,
    /// Has nodes probed that have never answered.
    pub control: ControlHandle,
    /// Set when this balancer starts to drain.
    pub draining: Arc<AtomicBool>,
    /// Set when another process has taken over the listeners.
    pub handed_over: AtomicBool,
    /// Source ports towards each node.
    pub source_ports: AtomicUsize,
    /// Connections that there may be at once.
    pub connections_max: AtomicUsize,
    /// The results of reloads.
    pub reloads: Reloads,
    /// What was counted of handovers.
    pub handovers: Handovers,
    /// What has changed.
    pub events: Arc<Events>,
    /// The certificate that is presented to nodes.
    pub nodes_tls: Arc<NodesTls>,
    /// Whether a storm of clients goes on.
    pub storm: AtomicBool,
    /// How many clients connect in a thousand seconds usually.
    pub usual_connects: AtomicU64,
    /// Whether each thread runs.
    pub heartbeats: Arc<Heartbeats>,
    /// What was counted lately.
    pub history: History,
    /// What the doctor found last.
    pub examined: Arc<LastExamination>,
}

/// Why this balancer should get no new clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unready {
    /// It drains.
    Draining,
    /// A thread does not run; the text names it.
    Stuck(String),
    /// No node has answered a client or a probe yet.
    NoAnswer,
    /// Probes of every node fail, and no client is connected. Some nodes are up all the same, since probes alone take down no more
    /// than a share of them.
    ProbesFail,
    /// Every node is down or draining.
    NoNode,
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "draining",
            Self::Stuck(thread) => thread,
            Self::NoAnswer => "no node has answered yet",
            Self::ProbesFail => "probes of every node fail",
            Self::NoNode => "no node is up",
        })
    }
}

/// All listeners with one name: the open one and its predecessors. They form one series, so that its counters never fall, even if
/// the listener moves to another address.
struct ListenerSeries<'a>(Vec<&'a ListenerEntry>);

impl<'a> ListenerSeries<'a> {
    /// The series that are shown, in the order in which the names first appeared.
    fn shown(listeners: &'a [Arc<ListenerEntry>]) -> Vec<Self> {
        let mut shown: Vec<Self> = Vec::new();
        for listener in listeners {
            match shown.iter_mut().find(|other| other.name() == listener.name()) {
                Some(series) => series.0.push(listener),
                None => shown.push(Self(vec![listener])),
            }
        }
        shown.retain(|series| {
            let is_there = |listener: &&ListenerEntry| !listener.removed || listener.listener_count.connections() > 0;
            series.0.iter().any(is_there)
        });
        shown
    }

    fn name(&self) -> &'a str {
        self.0.first().map_or("", |listener| listener.name())
    }

    fn certificate_expires(&self) -> Option<SystemTime> {
        self.first(ListenerEntry::certificate_expires)
    }

    fn revocations_expire(&self) -> Option<SystemTime> {
        self.first(ListenerEntry::revocations_expire)
    }

    fn first(&self, expires: impl Fn(&ListenerEntry) -> Option<SystemTime>) -> Option<SystemTime> {
        let open = self.0.iter().filter(|listener| !listener.removed);
        open.filter_map(|listener| expires(listener)).min()
    }

    /// How many connections it may have at once, if all listeners together may have `all`.
    fn connections_max(&self, all: usize) -> usize {
        let newest = self.0.iter().rev().find(|listener| !listener.removed);
        newest
            .or(self.0.last())
            .map_or(all, |listener| listener.connections_max(all))
    }

    fn connections(&self) -> usize {
        let counts = self.0.iter().map(|listener| listener.listener_count.connections());
        counts.sum()
    }

    fn sum(&self, count: impl Fn(&ListenerCounters) -> &Count) -> u64 {
        let counters = self.0.iter().flat_map(|listener| listener.counters.iter());
        counters.map(|counters| count(counters).get()).sum()
    }
}

/// The results of reloads.
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
    pub(crate) fn in_force(&self) {
        self.succeeded_at.store(timestamp(SystemTime::now()), Ordering::Relaxed);
        self.last_failed.store(false, Ordering::Relaxed);
    }

    /// A reload succeeded.
    pub fn succeeded(&self) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        self.in_force();
    }

    /// A reload failed and changed nothing.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.last_failed.store(true, Ordering::Relaxed);
    }
}

impl AdminState {
    /// Begins the samples of the counters: what they have counted until now is not in them.
    pub(crate) fn begin_samples(&self) {
        self.history.begin(&self.clusters.current(), &self.counters);
    }

    /// Adds a sample of the counters to the history.
    pub(crate) fn sample(&self) {
        self.history.sample(&self.clusters.current(), &self.counters);
    }

    /// Whether the last reload has failed.
    pub(crate) fn has_reload_failed(&self) -> bool {
        self.reloads.last_failed.load(Ordering::Relaxed)
    }

    /// Why this balancer should get no new clients; `None` if it should.
    pub(crate) fn unready(&self) -> Option<Unready> {
        // A check that came just before it is about the address, where the other process accepts.
        if self.handed_over.load(Ordering::Relaxed) {
            return None;
        }
        if self.draining.load(Ordering::Relaxed) {
            return Some(Unready::Draining);
        }
        if let Some(stuck) = self.stuck() {
            return Some(Unready::Stuck(stuck));
        }
        let cluster = self.clusters.current();
        let listeners = self.listeners.current();
        let open = listeners.iter().filter(|listener| !listener.removed);
        let kinds: Vec<_> = open.map(|listener| listener.kind()).collect();
        // Probes may fail where clients do not, and clients that are connected say so. Without any, nothing contradicts them.
        let has_clients = (cluster.nodes().iter()).any(|node| node.load.connections.load(Ordering::Relaxed) > 0);
        let takes = |kind: &EndpointKind| {
            let mut answering = cluster.answering(*kind);
            answering.any(|node| has_clients || !node.is_overruled(*kind))
        };
        if kinds.iter().any(takes) {
            return None;
        }
        let mut up = kinds
            .iter()
            .flat_map(|kind| cluster.up(*kind).map(|node| node.is_overruled(*kind)));
        Some(match (up.next(), up.all(|is_overruled| is_overruled)) {
            (None, _) => Unready::NoNode,
            (Some(true), true) => Unready::ProbesFail,
            // Those that have not answered can be asked.
            _ => Unready::NoAnswer,
        })
    }

    /// Which thread is stuck, and for how long it has been silent; `None` if all run.
    pub(crate) fn stuck(&self) -> Option<String> {
        let stuck = self.heartbeats.stuck()?;
        Some(format!(
            "{} has not run for {} s",
            stuck.name(),
            stuck.silence().as_secs()
        ))
    }

    /// Clients that have connected since the start of the process: the CONNECT packets read, and the connections accepted where
    /// TLS ends at the node. Health checks and what else sends no CONNECT are no clients.
    pub(crate) fn connects(&self) -> u64 {
        let versions = 0..VERSIONS.len();
        let of_version = |version| {
            let verdicts = Verdict::ALL.iter();
            verdicts.map(move |verdict| self.sum(|counters| counters.connects_at(version, *verdict)))
        };
        let listeners = self.listeners.current();
        let unread = listeners
            .iter()
            .filter(|listener| listener.kind() == EndpointKind::Pass);
        let unread = unread.flat_map(|listener| listener.counters.iter());
        let unread: u64 = unread.map(|counters| counters.accepted.get()).sum();
        unread + versions.flat_map(of_version).sum::<u64>()
    }

    /// Clients that wait for their turn at nodes.
    pub(crate) fn connects_waiting(&self) -> usize {
        let cluster = self.clusters.current();
        let known = cluster.all_known().iter();
        known.map(|known| known.load.waiting.load(Ordering::Relaxed)).sum()
    }

    fn sum(&self, count: impl Fn(&Counters) -> &Count) -> u64 {
        self.counters.iter().map(|counters| count(counters).get()).sum()
    }
}

impl Collector for AdminState {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        self.clients(&mut page)?;
        self.path(&mut page)?;
        node_series::encode(&mut page, &self.clusters.current(), &self.counters)?;
        self.limits(&mut page)?;
        doctor_series::encode(&mut page, self.examined.get().as_deref())?;
        self.process(&mut page)
    }
}

impl AdminState {
    fn clients(&self, page: &mut Page<'_>) -> fmt::Result {
        let listeners = self.listeners.current();
        let listeners = ListenerSeries::shown(&listeners);
        page.gauges(
            "connections",
            "Client connections that were accepted and have not ended",
            listeners
                .iter()
                .map(|listener| ([("listener", listener.name())], listener.connections() as u64)),
        )?;
        page.counters(
            "accepts",
            "Client connections accepted",
            listeners.iter().map(|listener| {
                let accepted = listener.sum(|counters| &counters.accepted);
                ([("listener", listener.name())], accepted)
            }),
        )?;
        type Moved = (&'static str, &'static str, fn(&ListenerCounters) -> &Count);
        const MOVED: [Moved; 4] = [
            ("to_node", "copy", |counters| &counters.to_node_copied),
            ("to_node", "splice", |counters| &counters.to_node_spliced),
            ("to_client", "copy", |counters| &counters.to_client_copied),
            ("to_client", "splice", |counters| &counters.to_client_spliced),
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
            let expiry = |listener: &&ListenerSeries<'_>| listener.certificate_expires().is_some();
            listeners.iter().filter(expiry)
        };
        type Kind = (&'static str, fn(&ListenerCounters) -> &Count);
        const KINDS: [Kind; 2] = [
            ("full", |counters| &counters.handshakes_full),
            ("resumed", |counters| &counters.handshakes_resumed),
        ];
        page.counters(
            "tls_handshakes",
            "Successful TLS handshakes of clients, by whether they resumed a session",
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
            listeners.iter().filter_map(|listener| {
                Some((
                    [("listener", listener.name())],
                    timestamp(listener.certificate_expires()?),
                ))
            }),
        )?;
        let mut of_nodes = page.family(
            "nodes_certificate_expiry_timestamp_seconds",
            "When the certificate that is presented to nodes expires",
            MetricType::Gauge,
        )?;
        if let Some(certificate) = self.nodes_tls.certificate() {
            of_nodes.encode_gauge(&timestamp(certificate.expires()))?;
        }
        page.gauges(
            "revocation_list_expiry_timestamp_seconds",
            "When the first of the listener's lists of revoked certificates expires",
            listeners.iter().filter_map(|listener| {
                Some((
                    [("listener", listener.name())],
                    timestamp(listener.revocations_expire()?),
                ))
            }),
        )
    }

    fn path(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counters(
            "connects",
            "CONNECT packets read, by protocol version and result",
            VERSIONS.iter().enumerate().flat_map(|(place, version)| {
                Verdict::ALL.iter().map(move |verdict| {
                    let labels = [("version", *version), ("result", verdict.name())];
                    let count = self.sum(|counters| counters.connects_at(place, *verdict));
                    (labels, count)
                })
            }),
        )?;
        page.counters(
            "routes",
            "Clients connected to a node, by the reason for that node",
            Decision::ALL.iter().map(|decision| {
                let count = self.sum(|counters| counters.routes(*decision));
                ([("decision", decision.name())], count)
            }),
        )?;
        self.peek(page)?;
        page.counters(
            "ends",
            "Connections that ended, by cause",
            Ended::ALL.iter().map(|cause| {
                let count = self.sum(|counters| counters.ends(*cause));
                ([("cause", cause.name())], count)
            }),
        )
    }

    fn peek(&self, page: &mut Page<'_>) -> fmt::Result {
        let (mut counts, mut sum) = ([0; BOUNDS_US.len() + 1], Duration::ZERO);
        for counters in &self.counters {
            let (more, more_sum) = counters.peek.read();
            counts.iter_mut().zip(more).for_each(|(a, b)| *a += b);
            sum += more_sum;
        }
        let mut family = page.0.encode_descriptor(
            "peek_duration",
            "How long the CONNECT was awaited, for clients that were connected to a node",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let buckets = node_series::buckets(counts);
        family.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), counts.iter().sum(), &buckets, None)
    }

    fn limits(&self, page: &mut Page<'_>) -> fmt::Result {
        page.gauge(
            "source_ports_max",
            "Source ports that there are towards each node",
            self.source_ports.load(Ordering::Relaxed) as u64,
        )?;
        let all = self.connections_max.load(Ordering::Relaxed);
        page.gauge(
            "connections_max",
            "Connections that there may be at once: limits.connections, or what the open-file limit allows",
            all as u64,
        )?;
        let listeners = self.listeners.current();
        page.gauges(
            "listener_connections_max",
            "Connections that the listener may have at once: its own limit, or that of all listeners",
            ListenerSeries::shown(&listeners)
                .iter()
                .map(|listener| ([("listener", listener.name())], listener.connections_max(all) as u64)),
        )?;
        page.gauge(
            "undecided_connections",
            "Connections whose CONNECT has not been read yet",
            self.held.awaiting_connect() as u64,
        )?;
        page.gauge(
            "tls_handshakes_pending",
            "TLS handshakes in progress",
            self.held.handshakes() as u64,
        )?;
        page.gauge(
            "held_bytes",
            "Bytes held for clients that no node has accepted yet",
            self.held.bytes() as u64,
        )?;
        page.gauge(
            "waiting_bytes",
            "Bytes that wait for clients and nodes without room for them, in the kernel too, a second late at most",
            self.waiting.bytes() as u64,
        )?;
        let finds = self.control.finds();
        let finds = [
            ("used", &finds.used),
            ("failed", &finds.failed),
            ("held_back", &finds.held_back),
        ];
        page.counters(
            "discovery_answers",
            "Answers of the source of nodes, by what became of them",
            finds
                .iter()
                .map(|(result, count)| ([("result", *result)], count.load(Ordering::Relaxed))),
        )?;
        page.gauge(
            "placements",
            "Clients remembered because they are on a node other than their home",
            self.placements.len() as u64,
        )?;
        page.counter(
            "placements_evicted",
            "Placements dropped or not stored because the map was full",
            self.placements.evicted(),
        )?;
        page.counter(
            "held_reconnects",
            "CONNECT packets that were held because their clients connect too often",
            self.sum(|counters| &counters.held_back),
        )?;
        page.counter(
            "turned_away",
            "Clients reset because no descriptor was left to accept them",
            self.sum(Counters::turned_away),
        )
    }

    fn process(&self, page: &mut Page<'_>) -> fmt::Result {
        page.counter(
            "panics",
            "Connections ended by a panic in the balancer",
            self.sum(Counters::panics),
        )?;
        page.gauges(
            "thread_silence_seconds",
            "Seconds for which the thread has not run: 0 or 1 for one that does",
            self.heartbeats
                .threads()
                .iter()
                .map(|thread| ([("thread", thread.name())], thread.silence().as_secs())),
        )?;
        page.counter(
            "log_lines_dropped",
            "Log lines dropped because the writer could not keep up",
            log::dropped(),
        )?;
        page.counter(
            "log_lines_unwritten",
            "Log lines that could not be written: the disk is full, or the pipe is closed",
            log::unwritten(),
        )?;
        page.counter(
            "log_lines_kept_back",
            "Log lines on connections that ended before they were routed, kept back because there were too many",
            self.sum(Counters::lines_kept_back),
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
            "Reloads of the configuration, by result",
            [("success", succeeded), ("failure", failed)]
                .into_iter()
                .map(|(result, count)| ([("result", result)], read(count))),
        )?;
        page.gauge(
            "config_last_reload_successful",
            "0 if the last reload failed, otherwise 1",
            u64::from(!last_failed.load(Ordering::Relaxed)),
        )?;
        page.gauge(
            "config_last_reload_success_timestamp_seconds",
            "When the current configuration was loaded",
            read(succeeded_at),
        )?;
        page.counters(
            "events",
            "Events by kind, as the API and the log name them",
            self.events.counts().map(|(kind, count)| ([("event", kind)], count)),
        )?;
        self.handovers.encode(page)?;
        page.gauge(
            "storm",
            "1 while far more clients connect than usual, or more than nodes may get",
            u64::from(self.storm.load(Ordering::Relaxed)),
        )?;
        page.gauge(
            "draining",
            "1 while the balancer is draining",
            u64::from(self.draining.load(Ordering::Relaxed)),
        )?;
        page.gauges(
            "build_info",
            "Always 1; the labels hold what the program was built from",
            [(
                [
                    ("version", build::VERSION),
                    ("commit", build::COMMIT),
                    ("tls", build::TLS),
                    ("target", build::TARGET),
                ],
                1,
            )]
            .into_iter(),
        )
    }
}

/// The metrics that every Prometheus client library exposes about its process, under their usual names.
#[derive(Debug)]
pub(crate) struct ProcessState;

impl Collector for ProcessState {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut page = Page(encoder);
        let Some(process) = Process::read() else {
            return Ok(());
        };
        page.gauge("process_open_fds", "Open file descriptors", process.open_files)?;
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
        page.gauge("process_virtual_memory_bytes", "Virtual memory", process.virtual_bytes)?;
        let mut cpu = page.0.encode_descriptor(
            "process_cpu_seconds",
            "CPU time of user and system",
            None,
            MetricType::Counter,
        )?;
        cpu.encode_counter::<NoLabelSet, f64, u64>(&process.cpu.as_secs_f64(), None)?;
        let mut start = page.0.encode_descriptor(
            "process_start_time_seconds",
            "Start time of the process, in seconds since 1970",
            None,
            MetricType::Gauge,
        )?;
        start.encode_gauge(&process.started.as_secs_f64())
    }
}
