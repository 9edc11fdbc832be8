//! What each source says about a node, as operators see it; and how often nodes were asked.

use std::sync::Arc;
use std::time::Duration;

use crate::base::sync::{AtomicU64, Ordering};
use crate::cluster::endpoint::EndpointKind;

/// What one source says about a node, or about one of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Who says so.
    pub source: FindingSource,
    /// About which endpoint; `None` for the whole node.
    pub endpoint: Option<EndpointKind>,
    /// What it says.
    pub verdict: Verdict,
    /// More of it, in words, where there is more: such as the step and the error of the last probe.
    pub why: Option<Arc<str>>,
}

/// Who says something about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FindingSource {
    /// The operator, by a wish.
    Operator,
    /// The node's HTTP API.
    Api,
    /// Probes of Remora's own.
    Probe,
    /// Clients that met failures.
    Clients,
    /// The look-up of its host name.
    Lookup,
}

impl FindingSource {
    /// The name in what is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Api => "api",
            Self::Probe => "probe",
            Self::Clients => "clients",
            Self::Lookup => "lookup",
        }
    }
}

/// What a source says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It takes clients.
    Up,
    /// It is to get no new clients.
    Draining,
    /// It fails.
    Failing,
    /// It fails, and stays in use: more nodes than `health.down_share` allows would be down by probes alone.
    Overruled,
    /// The source says nothing that counts: it has not been asked, or its answer cannot be used.
    Unknown,
}

impl Verdict {
    /// The name in what is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
            Self::Failing => "failing",
            Self::Overruled => "overruled",
            Self::Unknown => "unknown",
        }
    }
}

/// What came of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// The endpoint answered.
    Answered,
    /// It did not.
    Failed,
    /// This process could not ask, for want of a descriptor or a port. This says nothing about the endpoint.
    NotAsked,
}

impl ProbeResult {
    /// Every result.
    pub const ALL: &'static [Self] = &[Self::Answered, Self::Failed, Self::NotAsked];

    /// The label of the metric.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::NotAsked => "not_asked",
        }
    }
}

/// What came of a question to a node's HTTP API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// The node takes clients (200).
    Available,
    /// It is to get no new ones (503).
    Unavailable,
    /// An answer that says nothing about the node: it has no such check, or does not allow it.
    Unusable,
    /// No answer.
    Unanswered,
}

impl CheckResult {
    /// Every result.
    pub const ALL: &'static [Self] = &[Self::Available, Self::Unavailable, Self::Unusable, Self::Unanswered];

    /// The label of the metric.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Unavailable => "unavailable",
            Self::Unusable => "unusable",
            Self::Unanswered => "unanswered",
        }
    }
}

/// How often a node was asked, and what came of it. Control writes it, metrics read it.
#[derive(Debug, Default)]
pub struct Asked {
    probes: [[AtomicU64; ProbeResult::ALL.len()]; EndpointKind::ALL.len()],
    /// In microseconds.
    took: [AtomicU64; EndpointKind::ALL.len()],
    checks: [AtomicU64; CheckResult::ALL.len()],
}

impl Asked {
    /// Counts a probe of an endpoint, which took so long.
    pub(crate) fn count_probe(&self, kind: EndpointKind, result: ProbeResult, took: Duration) {
        self.add_probes(kind, result, 1);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.took[kind as usize].store(took, Ordering::Relaxed);
    }

    /// Counts a question to the node's API.
    pub(crate) fn count_check(&self, result: CheckResult) {
        self.add_checks(result, 1);
    }

    /// Counts so many probes of an endpoint with this result.
    pub(crate) fn add_probes(&self, kind: EndpointKind, result: ProbeResult, more: u64) {
        self.probes[kind as usize][result as usize].fetch_add(more, Ordering::Relaxed);
    }

    /// Counts so many questions to the node's API with this result.
    pub(crate) fn add_checks(&self, result: CheckResult, more: u64) {
        self.checks[result as usize].fetch_add(more, Ordering::Relaxed);
    }

    /// Probes of an endpoint with this result.
    pub fn probes(&self, kind: EndpointKind, result: ProbeResult) -> u64 {
        self.probes[kind as usize][result as usize].load(Ordering::Relaxed)
    }

    /// How long the last probe of an endpoint took; zero if there was none.
    pub fn took(&self, kind: EndpointKind) -> Duration {
        Duration::from_micros(self.took[kind as usize].load(Ordering::Relaxed))
    }

    /// Questions to the node's API with this result.
    pub fn checks(&self, result: CheckResult) -> u64 {
        self.checks[result as usize].load(Ordering::Relaxed)
    }
}
