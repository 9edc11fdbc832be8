//! What a route check means: its findings. No I/O, and no clock.

use std::sync::Arc;
use std::time::Duration;

use super::access::NotReached;
use super::finding::{Certainty, Code, Finding};
use super::front::{FrontReport, FrontTrouble, THROUGH};
use super::matrix::{Cell, Matrix, Qos, Way};
use super::route_check::{Action, RouteReport, Shared, Trouble};
use crate::base::words::counted;

/// The most pairs of nodes that a finding names.
const PAIRS_MAX: usize = 8;

/// One message with QoS 0 in so many may be lost without a finding: MQTT allows it.
const LOST_ONE_IN: u32 = 10;

/// One message in so many may be late without a finding, and so may a single one: any machine pauses.
const LATE_ONE_IN: u32 = 10;

/// What was found, and what could not be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What an operator should change, the most important first.
    pub findings: Vec<Finding>,
    /// What could not be looked at because of this process, in words.
    pub could_not_look: Vec<String>,
}

/// What `report` means; messages that take longer than `slow_after` are late, and a route is slow on which too many are.
pub fn verdict(report: &RouteReport, slow_after: Duration) -> Verdict {
    let mut verdict = Verdict::default();
    let of_routes = Judge { report, slow_after };
    verdict.findings.extend(of_routes.routes());
    of_routes.troubles(&mut verdict);
    if let Some(retained) = &report.retained {
        verdict.findings.extend(of_routes.retained(retained));
    }
    if let Some(shared) = &report.shared {
        let is_sound = verdict.findings.is_empty();
        verdict.findings.extend(of_routes.shared(shared, is_sound));
    }
    verdict.findings.sort_by_key(|finding| finding.code);
    verdict
}

/// What a check through the balancer means.
pub fn front_verdict(url: &str, report: &FrontReport) -> Verdict {
    let finding = |code, found| Finding {
        code,
        subjects: vec![url.to_owned()],
        looked_at: format!("a subscriber that restarts behind {url}"),
        found,
        certainty: Certainty::Certain,
    };
    let mut verdict = Verdict::default();
    match &report.trouble {
        Some(FrontTrouble::NotReached(NotReached::CouldNotLook(why))) => {
            verdict.could_not_look.push(format!("{url}: {why}"))
        }
        Some(FrontTrouble::NotReached(NotReached::Found(of_connection))) => {
            verdict
                .findings
                .push(finding(Code::FrontNotReached, of_connection.found.clone()));
        }
        Some(FrontTrouble::Forbidden(code)) => {
            let found = format!("SUBSCRIBE was refused with code {code:#04x}");
            verdict.findings.push(finding(Code::FrontForbidden, found));
        }
        Some(FrontTrouble::Ended(why)) => {
            let found = format!("the connection ended before the subscription was there: {why}");
            verdict.findings.push(finding(Code::FrontNotReached, found));
        }
        Some(FrontTrouble::Stalled) => {
            let found = "SUBSCRIBE was not answered".to_owned();
            verdict.findings.push(finding(Code::FrontNotReached, found));
        }
        None => {}
    }
    let restarts = report.restarts;
    if report.received.iter().any(|(_, count)| *count < restarts) {
        let counts = report
            .received
            .iter()
            .map(|(from, count)| format!("from {from} after {count} of {restarts} restarts"));
        let counts: Vec<String> = counts
            .map(|words| words.replace(&format!("from {THROUGH}"), THROUGH))
            .collect();
        let found = format!("messages were received {}", counts.join(", "));
        verdict.findings.push(finding(Code::LostAfterRestart, found));
    }
    verdict
}

struct Judge<'a> {
    report: &'a RouteReport,
    slow_after: Duration,
}

impl Judge<'_> {
    fn name(&self, node: usize) -> &Arc<str> {
        &self.report.nodes[node]
    }

    fn names(&self, nodes: &[usize]) -> Vec<String> {
        nodes.iter().map(|node| self.name(*node).to_string()).collect()
    }

    fn finding(&self, code: Code, nodes: &[usize], found: String, certainty: Certainty) -> Finding {
        let count = self.report.nodes.len();
        Finding {
            code,
            subjects: self.names(nodes),
            looked_at: match count {
                1 => "messages of a node to itself".to_owned(),
                count => format!("messages between {count} nodes, each to each"),
            },
            found,
            certainty,
        }
    }

    fn troubles(&self, verdict: &mut Verdict) {
        let mut forbidden: Vec<(Action, u8, Vec<usize>)> = Vec::new();
        for (node, trouble) in self.report.troubles.iter().enumerate() {
            let (code, found) = match trouble {
                None => continue,
                Some(Trouble::NotReached(NotReached::Found(finding))) => {
                    verdict.findings.push(finding.clone());
                    continue;
                }
                Some(Trouble::NotReached(NotReached::CouldNotLook(why))) => {
                    verdict.could_not_look.push(why.clone());
                    continue;
                }
                Some(Trouble::Forbidden(action, code)) => {
                    match forbidden.iter_mut().find(|(a, c, _)| (a, c) == (action, code)) {
                        Some((_, _, nodes)) => nodes.push(node),
                        None => forbidden.push((*action, *code, vec![node])),
                    }
                    continue;
                }
                Some(Trouble::Stalled(Action::Subscribe)) => (
                    Code::NodeStalls,
                    "accepts a client, and does not answer its SUBSCRIBE".to_owned(),
                ),
                Some(Trouble::Stalled(Action::Publish)) => (
                    Code::NodeStalls,
                    "does not acknowledge every message with QoS 1".to_owned(),
                ),
                Some(Trouble::Limited(code)) => {
                    (Code::ProbeLimited, format!("refuses more messages (code {code:#04x})"))
                }
                Some(Trouble::Ended(why)) => (Code::ConnectionLost, format!("ended the connection: {why}")),
            };
            let found = format!("{} {found}", self.name(node));
            verdict
                .findings
                .push(self.finding(code, &[node], found, Certainty::Certain));
        }
        for (action, code, nodes) in forbidden {
            let names = self.names(&nodes).join(", ");
            let (what, packet) = match action {
                Action::Subscribe => ("to subscribe to", "SUBACK"),
                Action::Publish => ("to publish to", "PUBACK"),
            };
            let found =
                format!("the doctor is not allowed {what} its topic at {names} ({packet} with code {code:#04x})");
            verdict
                .findings
                .push(self.finding(Code::TopicForbidden, &nodes, found, Certainty::Certain));
        }
    }

    fn routes(&self) -> Vec<Finding> {
        let routes = &self.report.routes;
        let mut findings = Vec::new();
        let all: Vec<usize> = (0..self.report.nodes.len()).collect();
        let measured: Vec<usize> = all
            .iter()
            .copied()
            .filter(|node| routes.way(*node, *node) != Way::Unmeasured)
            .collect();
        let (mute, sound): (Vec<usize>, Vec<usize>) = measured.iter().partition(|node| routes.is_mute(**node));
        if mute.len() > 1 && sound.is_empty() {
            let found = "no node delivers a message to the doctor, not even one of its own: a rule that drops them \
                         without a word does this";
            findings.push(self.finding(Code::TopicForbidden, &mute, found.to_owned(), Certainty::Likely));
            return findings;
        }
        for node in mute {
            findings.push(self.mute(node, &sound));
        }
        let parts = routes.parts(|node| sound.contains(&node));
        if parts.len() > 1 {
            let shown: Vec<String> = parts.iter().map(|part| self.names(part).join(", ")).collect();
            let found = format!(
                "{} are {} clusters: no message passes between them, in either direction",
                shown.join(" | "),
                parts.len()
            );
            findings.push(self.finding(Code::NodesNotJoined, &sound, found, Certainty::Certain));
        }
        let is_apart = |from: usize, to: usize| !parts.iter().any(|part| part.contains(&from) && part.contains(&to));
        let mut pairs = Pairs::default();
        for from in sound.iter().copied() {
            for to in sound.iter().copied().filter(|to| !is_apart(from, *to)) {
                let cell = routes.both(from, to);
                let is_slow = is_slow(&cell, self.slow_after);
                match routes.way(from, to) {
                    Way::None if routes.way(to, from).is_open() => pairs.one_way.push((from, to)),
                    Way::None => pairs.lossy.push((from, to)),
                    Way::Some if is_lossy(routes, from, to) => pairs.lossy.push((from, to)),
                    Way::Some | Way::All if is_slow => pairs.slow.push((from, to)),
                    _ => {}
                }
            }
        }
        findings.extend(self.of_pairs(Code::OneWayRouting, &pairs.one_way, |from, to| {
            format!("nothing arrives from {from} at {to}, while messages arrive in the other direction")
        }));
        findings.extend(self.of_pairs(Code::MessagesLost, &pairs.lossy, |from, to| {
            let [zero, one] = Qos::ALL.map(|qos| {
                let cell = routes.cell(self.place(from), self.place(to), qos);
                (cell.sent - cell.delivered(), cell.sent)
            });
            format!(
                "from {from} to {to}, {} % of the messages are lost ({} of {} with QoS 0, {} of {} with QoS 1)",
                (zero.0 + one.0) * 100 / (zero.1 + one.1).max(1),
                zero.0,
                zero.1,
                one.0,
                one.1
            )
        }));
        findings.extend(self.of_pairs(Code::SlowRouting, &pairs.slow, |from, to| {
            let cell = routes.both(self.place(from), self.place(to));
            let within = |percent| milliseconds(cell.percentile(percent).unwrap_or_default());
            format!(
                "from {from} to {to}, {} of {} messages take longer than {}: half of them arrive within {}, 99 % within {}",
                cell.late(self.slow_after),
                cell.delivered(),
                milliseconds(self.slow_after),
                within(50),
                within(99)
            )
        }));
        findings
    }

    fn place(&self, name: &str) -> usize {
        self.report
            .nodes
            .iter()
            .position(|node| **node == *name)
            .unwrap_or_default()
    }

    fn mute(&self, node: usize, sound: &[usize]) -> Finding {
        let routes = &self.report.routes;
        let name = self.name(node);
        let sends = sound.iter().any(|other| routes.way(node, *other).is_open());
        let receives = sound.iter().any(|other| routes.way(*other, node).is_open());
        let (found, certainty) = match (sends, receives) {
            (_, true) => (
                format!(
                    "{name} takes what is published there, and delivers it to no one; messages of other nodes arrive"
                ),
                Certainty::Likely,
            ),
            (true, false) => (
                format!(
                    "{name} delivers nothing to its own subscribers; what is published there arrives at other nodes"
                ),
                Certainty::Certain,
            ),
            (false, false) => (
                format!("{name} accepts clients, subscriptions and messages, and delivers nothing"),
                Certainty::Certain,
            ),
        };
        self.finding(Code::NodeRoutesNothing, &[node], found, certainty)
    }

    /// One finding for all pairs, if there are any.
    fn of_pairs(&self, code: Code, pairs: &[(usize, usize)], words: impl Fn(&str, &str) -> String) -> Option<Finding> {
        if pairs.is_empty() {
            return None;
        }
        let mut shown: Vec<String> = pairs
            .iter()
            .take(PAIRS_MAX)
            .map(|(from, to)| words(self.name(*from), self.name(*to)))
            .collect();
        if pairs.len() > PAIRS_MAX {
            shown.push(format!("and {} more pairs", pairs.len() - PAIRS_MAX));
        }
        let mut nodes: Vec<usize> = pairs.iter().flat_map(|(from, to)| [*from, *to]).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Some(self.finding(code, &nodes, shown.join("; "), Certainty::Certain))
    }

    fn retained(&self, retained: &Matrix) -> Option<Finding> {
        let count = self.report.nodes.len();
        let all = || (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        // Nodes that keep no messages at all may be set up so.
        if !all().any(|(from, to)| retained.way(from, to).is_open()) {
            return None;
        }
        let missing: Vec<(usize, usize)> = all()
            .filter(|(from, to)| retained.way(*from, *to) == Way::None)
            .collect();
        self.of_pairs(Code::RetainedNotShared, &missing, |from, to| {
            format!("a message retained at {from} is not at {to}")
        })
    }

    /// Lost messages are looked at only while all routes are `is_sound`: otherwise these are lost for another reason.
    fn shared(&self, shared: &[Shared], is_sound: bool) -> Option<Finding> {
        let lost = |row: &Shared| row.sent - row.once - row.several;
        let is_wrong = |row: &Shared| row.several > 0 || is_sound && lost(row) > 0;
        let nodes: Vec<usize> = (0..shared.len()).filter(|node| is_wrong(&shared[*node])).collect();
        if nodes.is_empty() {
            return None;
        }
        let words = nodes.iter().map(|node| {
            let row = &shared[*node];
            format!(
                "of {} from {}, {} arrived once, {} several times, {} not at all",
                counted(row.sent, "message"),
                self.name(*node),
                row.once,
                row.several,
                lost(row)
            )
        });
        let found: Vec<String> = words.take(PAIRS_MAX).collect();
        Some(self.finding(Code::SharedNotOnce, &nodes, found.join("; "), Certainty::Certain))
    }
}

/// Pairs of nodes by what is wrong between them.
#[derive(Default)]
struct Pairs {
    one_way: Vec<(usize, usize)>,
    lossy: Vec<(usize, usize)>,
    slow: Vec<(usize, usize)>,
}

/// Whether more is lost than MQTT allows.
fn is_lossy(routes: &Matrix, from: usize, to: usize) -> bool {
    let lost = |qos| {
        let cell = routes.cell(from, to, qos);
        cell.sent - cell.delivered()
    };
    let sent = routes.cell(from, to, Qos::Zero).sent;
    lost(Qos::One) > 0 || lost(Qos::Zero) * LOST_ONE_IN > sent
}

/// Whether more messages are late than a pause of a machine explains.
fn is_slow(cell: &Cell, slow_after: Duration) -> bool {
    let late = cell.late(slow_after);
    late > 1 && late * LATE_ONE_IN > cell.delivered()
}

/// A time in milliseconds, for reports.
pub(super) fn milliseconds(time: Duration) -> String {
    match time.as_micros() {
        micros if micros < 10_000 => format!("{:.1} ms", micros as f64 / 1_000.0),
        micros => format!("{} ms", micros / 1_000),
    }
}

#[cfg(test)]
mod tests;
