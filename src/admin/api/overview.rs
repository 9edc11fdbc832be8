//! All of the process at one look, and its last ten minutes: what the status page shows.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::answers::{
    Counted, EndCount, ExaminationOverview, FindingOverview, History, NodeHistory, NodeOverview, Overview, Recent,
};
use super::call::{Call, Refusal, Reply};
use super::clients::rebalance_of;
use super::judgement::{Facts, NodeFact, judge};
use super::{listeners, nodes, status};
use crate::admin::exposition::AdminState;
use crate::admin::history::{INTERVAL, SAMPLES_MAX, Sample};
use crate::admin::node_series::code_name;
use crate::base::{clock, log};
use crate::cluster::{NodeState, Verdict};
use crate::doctor::examination::Examination;
use crate::doctor::report::{Finding, Routes};
use crate::process::counts::{Counts, NodeCounts};
use crate::process::handle::{Handle, NodeStatus};

pub(super) async fn show(call: Call) -> Result<Reply, Refusal> {
    Reply::json(&overview(&call.handle, call.may_change))
}

/// The overview, for a caller that may change something or not.
pub(super) fn overview(handle: &Handle, may_change: bool) -> Overview {
    let state = handle.admin_state();
    let cluster = state.clusters.current();
    let shares = cluster.ring().known_shares();
    let share = |name: &str| {
        let place = cluster.nodes().binary_search_by(|node| (*node.name).cmp(name)).ok()?;
        shares.get(place).copied()
    };
    let newest_sample = state.history.newest();
    let counts = handle.counts();
    let found = handle.nodes();
    let (is_fine, sentence) = judgement(handle, &found, true);
    let nodes = found.into_iter().map(|found| {
        let samples = state.history.of_node(found.id, 0);
        let counted = counts.nodes.iter().find(|counts| counts.name == found.name);
        NodeOverview {
            state: word(&found).to_owned(),
            share: share(&found.name),
            connects_per_second: samples.last().map_or(0.0, per_second),
            recent: recent(&samples),
            connacks: counted.map(connacks).unwrap_or_default(),
            failures: counted.map(failures).unwrap_or_default(),
            node: nodes::node(found),
        }
    });
    let nodes = nodes.collect();
    Overview {
        is_fine,
        sentence,
        may_change,
        seconds: clock::since_start(Instant::now()).as_secs(),
        status: status::status(handle),
        nodes,
        ends: ends(state, &counts),
        listeners: listeners::listeners(handle),
        rebalance: handle.rebalance_status().map(rebalance_of).unwrap_or_default(),
        ring: format!("{:016x}", cluster.fingerprint()),
        newest_sample,
        recent_seconds: newest_sample.min(SAMPLES_MAX as u64) * INTERVAL.as_secs(),
        peers: handle.admin_settings().peers.len(),
        examination: handle.examined().map(|examination| examined(&examination)),
    }
}

/// Whether the process is fine, and why; with reasons only for a reader that may know them.
pub(super) fn judgement(handle: &Handle, nodes: &[NodeStatus], with_reasons: bool) -> (bool, String) {
    let state = handle.admin_state();
    let unready = handle.unready();
    let is_removed = |node: &&NodeStatus| node.configured_weight.is_none();
    let facts = nodes.iter().filter(|node| !is_removed(node)).map(|node| {
        let failing = node.findings.iter().find(|finding| finding.verdict == Verdict::Failing);
        NodeFact {
            name: &node.name,
            state: word(node),
            why: failing
                .and_then(|finding| finding.why.as_deref())
                .filter(|_| with_reasons),
            is_overruled: with_reasons
                && node
                    .findings
                    .iter()
                    .any(|finding| finding.verdict == Verdict::Overruled),
        }
    });
    let examination = handle.examined().filter(|_| with_reasons);
    let found = examination.and_then(|examination| said_of(&examination.report.findings));
    judge(&Facts {
        unready: unready.as_deref(),
        nodes: facts.collect(),
        connections: handle.connections(),
        connections_max: state.connections_max.load(Ordering::Relaxed),
        has_reload_failed: state.has_reload_failed(),
        found: found.as_deref(),
    })
}

/// The doctor's findings in a few words; `None` if there is none.
fn said_of(findings: &[Finding]) -> Option<String> {
    let first = findings.first()?;
    let others = match findings.len() {
        1 => String::new(),
        all => format!(" and {} more", all - 1),
    };
    Some(format!("the doctor finds {} {}{others}", first.code, first.name))
}

fn examined(examination: &Examination) -> ExaminationOverview {
    let report = &examination.report;
    let routes = report.routes.as_ref();
    let findings = report.findings.iter().map(|finding| FindingOverview {
        code: finding.code.clone(),
        name: finding.name.clone(),
        found: finding.found.clone(),
        advice: finding.advice.clone(),
    });
    ExaminationOverview {
        at: log::timestamp(examination.at),
        findings: findings.collect(),
        nodes: routes.map(|routes| routes.nodes.clone()).unwrap_or_default(),
        routes: routes.map(Routes::pairs).unwrap_or_default(),
    }
}

/// The state of a node in a word.
pub(super) fn word(node: &NodeStatus) -> &'static str {
    let has = |state| node.endpoints.iter().any(|(_, found)| *found == state);
    match () {
        () if node.configured_weight.is_none() => "removed",
        () if node.is_draining => "draining",
        () if has(NodeState::Down) && has(NodeState::Up) => "partly down",
        () if has(NodeState::Up) => "up",
        () => "down",
    }
}

fn per_second(sample: &Sample) -> f64 {
    let connects = u64::from(sample.accepted) + u64::from(sample.refused) + u64::from(sample.failures);
    connects as f64 / INTERVAL.as_secs_f64()
}

fn recent(samples: &[Sample]) -> Recent {
    let sum = |count: fn(&Sample) -> u32| samples.iter().map(|sample| u64::from(count(sample))).sum();
    Recent {
        accepted: sum(|sample| sample.accepted),
        refused: sum(|sample| sample.refused),
        failures: sum(|sample| sample.failures),
    }
}

fn connacks(counts: &NodeCounts) -> Vec<Counted> {
    let named = |code: Option<u8>| code.map_or("other".to_owned(), code_name);
    happened(counts.connacks.iter().map(|(code, count)| (named(*code), *count)))
}

fn failures(counts: &NodeCounts) -> Vec<Counted> {
    happened(
        counts
            .failures
            .iter()
            .map(|(fault, count)| (fault.name().to_owned(), *count)),
    )
}

/// Only what was counted at least once.
fn happened(counted: impl Iterator<Item = (String, u64)>) -> Vec<Counted> {
    let counted = counted.filter(|(_, count)| *count > 0);
    counted.map(|(what, count)| Counted { what, count }).collect()
}

fn ends(state: &AdminState, counts: &Counts) -> Vec<EndCount> {
    let all = counts.ends.iter().zip(state.history.ends());
    let all = all.filter(|((_, count), _)| *count > 0);
    let ends = all.map(|((cause, count), recent)| EndCount {
        cause: cause.name().to_owned(),
        count: *count,
        recent,
    });
    ends.collect()
}

pub(super) async fn history(call: Call) -> Result<Reply, Refusal> {
    let since = call.query::<u64>("since", "the number of the last sample that is known")?;
    let history = &call.handle.admin_state().history;
    // A number from before a restart says nothing.
    let newest = history.newest();
    let since = since.filter(|since| *since <= newest).unwrap_or(0);
    let nodes = call.handle.nodes().into_iter().filter_map(|node| {
        let samples = history.of_node(node.id, since);
        let all = |value: fn(&Sample) -> u32| samples.iter().map(value).collect();
        (!samples.is_empty()).then(|| NodeHistory {
            node: node.name.to_string(),
            connections: all(|sample| sample.connections),
            accepted: all(|sample| sample.accepted),
            refused: all(|sample| sample.refused),
            failures: all(|sample| sample.failures),
        })
    });
    Reply::json(&History {
        interval_seconds: INTERVAL.as_secs(),
        newest,
        nodes: nodes.collect(),
    })
}
