//! What is reported of a connection: one count and one log line at its end, however it ends, a panic included.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use tokio::time::Instant;
use tracing::field::{DisplayValue, display};

use crate::base::log::{self, Escaped, List};
use crate::cluster::Clusters;
use crate::mqtt::{Connack, connack_reason};
use crate::path::counters::{Counters, ListenerCounters, Step, Verdict, version_name};
use crate::path::ended::{Details, Ended, SetUpEnded};
use crate::path::last_ends::LastEnds;
use crate::path::line_rate::LineRate;
use crate::path::record::{KeptId, Record, Steps};
use crate::path::sides::Bytes;

/// The target of the lines about connections, which operators filter by.
const TARGET: &str = "remora::connection";

/// Counts and logs the connections of one worker.
#[derive(Debug)]
pub(crate) struct Reporter {
    counters: Arc<Counters>,
    /// Names the nodes.
    clusters: Arc<Clusters>,
    /// Which lines a connection writes.
    lines: Cell<log::Connections>,
    /// How the connections of clients with an id ended lately.
    last_ends: RefCell<LastEnds>,
    /// How many lines on connections that were not routed.
    unrouted: LineRate,
}

/// The listener that a connection was accepted on, as far as a report needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReportedListener<'a> {
    /// Its name in the log.
    pub name: &'a str,
    /// What the worker counts of it.
    pub counters: &'a ListenerCounters,
}

/// The report of one connection from accept to its relay. If it is dropped before either `end` or `into_record`
/// consumes it, it reports why.
#[derive(Debug)]
pub struct Report<'a> {
    reporter: &'a Reporter,
    listener: ReportedListener<'a>,
    /// `None` once it was consumed.
    record: Option<Box<Record>>,
}

impl Reporter {
    /// A reporter that counts in `counters`, writes `lines`, and remembers the `last_ends`.
    pub(crate) fn new(
        counters: Arc<Counters>,
        clusters: Arc<Clusters>,
        lines: log::ConnectionLines,
        last_ends: LastEnds,
    ) -> Self {
        Self {
            counters,
            clusters,
            lines: Cell::new(lines.connections),
            last_ends: RefCell::new(last_ends),
            unrouted: LineRate::new(lines.unrouted_rate),
        }
    }

    /// How the connections of clients with an id ended lately.
    pub(crate) fn last_ends(&self) -> &RefCell<LastEnds> {
        &self.last_ends
    }

    /// Changes which lines are written.
    pub(crate) fn set_lines(&self, lines: log::ConnectionLines) {
        self.lines.set(lines.connections);
        self.unrouted.set(lines.unrouted_rate);
    }

    /// Called once a second: allows further lines, and logs how many were kept back.
    pub(crate) fn sweep(&self) {
        if let Some(kept_back) = self.unrouted.second() {
            tracing::warn!(
                kept_back,
                "too many connections ended before they were routed; lines kept back"
            );
        }
    }

    /// Counts a connection that was accepted on `listener`; its end is counted when the report is consumed or dropped.
    pub(crate) fn accepted<'a>(&'a self, listener: ReportedListener<'a>, record: Record) -> Report<'a> {
        listener.counters.accepted.add(1);
        Report {
            reporter: self,
            listener,
            record: Some(Box::new(record)),
        }
    }

    /// Counts a client that a node has answered, with this CONNACK if that could be read.
    pub(crate) fn greeted(&self, record: &Record, connack: Option<&Connack>) {
        let steps = &record.steps;
        let observe = |step, us: u32| {
            if let Some(node) = record.node {
                self.counters.of_node(node, |node| node.steps(step).observe(us.into()));
            }
        };
        if let Some(decision) = record.decision {
            self.counters.routes(decision).add(1);
        }
        self.counters.peek.observe(steps.peek.into());
        observe(Step::Dial, steps.dial);
        // Of a client whose TLS ends at the node, neither CONNECT nor CONNACK is read.
        if let Some(connect) = &record.connect {
            let verdict = match connack {
                Some(connack) if connack.code == 0 => Verdict::Accepted,
                Some(_) => Verdict::Refused,
                None => Verdict::Unread,
            };
            self.counters.connects(connect.version, verdict).add(1);
            observe(Step::Greet, steps.greet);
        }
    }

    /// Logs that a connection is relayed from now on, if such lines are configured.
    pub(crate) fn relayed(&self, listener: ReportedListener<'_>, record: &Record) {
        if self.lines.get() == log::Connections::Both {
            self.log(listener.name, record, None, Bytes::default());
        }
    }

    /// Counts, logs and remembers the end of a connection. Must be called once for each; during set-up, [`Report`] ensures that.
    pub(crate) fn ended(&self, listener: ReportedListener<'_>, record: Box<Record>, ended: SetUpEnded, bytes: Bytes) {
        let cause = ended.cause;
        self.counters.ends(ended.cause).add(1);
        if ended.cause == Ended::Internal {
            self.counters.panics().add(1);
        }
        if self.lines.get() != log::Connections::None {
            self.log(listener.name, &record, Some(ended), bytes);
        }
        self.last_ends.borrow_mut().add(*record, cause, Instant::now());
    }

    /// Whether the line on the end of a connection is one too many. Those on routed connections and on our own bugs never are.
    fn is_kept_back(&self, record: &Record, cause: Ended) -> bool {
        let is_routed = record.connect.is_some() || record.decision.is_some();
        let is_kept_back = !is_routed && cause != Ended::Internal && !self.unrouted.take();
        if is_kept_back {
            self.counters.lines_kept_back().add(1);
        }
        is_kept_back
    }

    /// One line on a connection: at its end with the cause, at its relay's beginning without. The end of a health check, and one
    /// line too many on connections that were not routed, is a line at debug only.
    fn log(&self, listener: &str, record: &Record, ended: Option<SetUpEnded>, bytes: Bytes) {
        let is_quiet = ended
            .as_ref()
            .is_some_and(|ended| ended.is_probe || self.is_kept_back(record, ended.cause));
        if is_quiet && !tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
            return;
        }
        let cluster = self.clusters.current();
        let known = record.node.and_then(|id| cluster.known(id));
        let node = known.map_or("-", |known| &*known.name);
        let connect = record.connect.as_ref();
        let version = connect.map_or("-", |connect| version_name(connect.version));
        let anonymous = KeptId::of(&[]);
        let client_id = connect.map_or(&anonymous, |connect| &connect.client_id);
        let client = record.client;
        let code = record.code;
        let reason = connect.and_then(|connect| connack_reason(code?, connect.version));
        // What follows is left out of the line for the many clients without it.
        let identity = record.identity.as_deref();
        let server_name = shown(identity.and_then(|identity| identity.server_name.as_deref()));
        let certificate_cn = shown(record.common_name());
        let names = identity.map_or(&[][..], |identity| identity.names());
        let names = (!names.is_empty()).then(|| List::of(names));
        let certificate_names = names.as_ref().map(List::value);
        let route = record.decision.map_or("-", |decision| decision.name());
        let Steps {
            peek,
            pace,
            dial,
            greet,
        } = record.steps;
        let pace = (pace > 0).then_some(pace);
        // A line's level is a constant.
        macro_rules! ended {
            ($level:ident, $ended:expr) => {{
                let none = Details::default();
                let details = $ended.details.as_deref().unwrap_or(&none);
                tracing::$level!(
                    target: TARGET,
                    cause = $ended.cause.name(),
                    why = details.why.as_deref(),
                    code, reason,
                    %client, listener, %client_id, version, node, route, retries = record.retries,
                    from_client = bytes.from_client.total(),
                    from_node = bytes.from_node.total(),
                    peek_us = peek, pace_us = pace, dial_us = dial, greet_us = greet,
                    seconds = log::seconds(record.accepted.elapsed()), server_name, certificate_cn,
                    certificate_names,
                    certificate_subject = shown(details.certificate_subject.as_deref()),
                    error = details.error.as_deref(),
                    status = details.status,
                    path = details.path.as_deref().map(|path| display(Escaped(path))),
                    origin = details.origin.as_deref().map(|origin| display(Escaped(origin))),
                    "connection ended"
                )
            }};
        }
        match ended {
            None => tracing::info!(
                target: TARGET,
                code, reason,
                %client, listener, %client_id, version, node, route, retries = record.retries,
                peek_us = peek, pace_us = pace, dial_us = dial, greet_us = greet, server_name, certificate_cn,
                certificate_names,
                "connection relayed"
            ),
            Some(ended) if is_quiet => ended!(debug, ended),
            Some(ended) => ended!(info, ended),
        }
    }
}

impl Report<'_> {
    /// The record, to be filled in; `None` once the report was consumed.
    pub fn record(&mut self) -> Option<&mut Record> {
        self.record.as_deref_mut()
    }

    /// The connection has ended before its relay.
    pub fn end(mut self, ended: SetUpEnded) {
        self.report(ended);
    }

    /// The record of a connection that is relayed from now on, and whose end is reported when its relay ends.
    pub(crate) fn into_record(mut self) -> Option<Box<Record>> {
        let record = self.record.take()?;
        self.reporter.relayed(self.listener, &record);
        Some(record)
    }

    fn report(&mut self, ended: SetUpEnded) {
        let Some(record) = self.record.take() else {
            return;
        };
        if let Some(connect) = &record.connect {
            let failed = Verdict::Failed;
            self.reporter.counters.connects(connect.version, failed).add(1);
        }
        self.reporter.ended(self.listener, record, ended, Bytes::default());
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        self.report(Ended::of_dropped_task().into());
    }
}

/// What a client has chosen, in a line.
fn shown(chosen: Option<&str>) -> Option<DisplayValue<Escaped<'_>>> {
    chosen.map(|chosen| display(Escaped(chosen.as_bytes())))
}

/// Counts what a relay has moved.
pub(crate) fn count_bytes(counters: &ListenerCounters, moved: Bytes) {
    counters.to_node_copied.add(moved.from_client.copied);
    counters.to_node_spliced.add(moved.from_client.spliced);
    counters.to_client_copied.add(moved.from_node.copied);
    counters.to_client_spliced.add(moved.from_node.spliced);
}
