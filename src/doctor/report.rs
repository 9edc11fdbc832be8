//! What the doctor tells: what was looked at, what was found, and the routes; as JSON and as text.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::finding::{self, Certainty};
use super::front::FrontReport;
use super::matrix::{Matrix, Qos, Way};
use super::route_check::RouteReport;
use super::verdict::{Verdict, front_verdict, milliseconds, verdict};
use crate::base::words::counted;

/// The result of an examination.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// What was looked at, one line each.
    pub checked: Vec<Checked>,
    /// What became of messages between the nodes; null if none could be sent.
    pub routes: Option<Routes>,
    /// What a subscriber received that came through the balancer and restarted; one for each URL that was asked for.
    #[serde(default)]
    pub front: Vec<Front>,
    /// What an operator should change.
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub could_not_look: Vec<String>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Checked {
    /// What it is.
    pub what: String,
    /// Whether nothing is wrong with it.
    pub is_fine: bool,
    /// What was seen.
    pub seen: String,
}

/// Something that an operator should change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The number, such as `R101`. It stays the same in all versions.
    pub code: String,
    /// The name, such as `nodes-not-joined`.
    pub name: String,
    /// The nodes, listeners or keys that it is about.
    pub subjects: Vec<String>,
    /// What was looked at.
    pub looked_at: String,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub advice: String,
    /// How sure it is.
    pub certainty: Certainty,
}

/// What became of messages between the nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Routes {
    /// The nodes that were checked.
    pub nodes: Vec<String>,
    /// How many nodes there are: of more than 16, some are drawn.
    pub nodes_in_all: usize,
    /// Every pair that could be measured, with each QoS.
    pub routes: Vec<Route>,
    /// Retained messages: null if they were not checked, or no node keeps any.
    pub retained: Option<Vec<Retained>>,
    /// A shared subscription with a member on each node: null if it was not checked, or the nodes do not have any.
    pub shared: Option<Vec<Shared>>,
    /// How long the check took, in milliseconds.
    pub took_ms: u64,
}

/// Messages from one node to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Route {
    /// The node where they were published.
    pub from: String,
    /// The node of the subscriber.
    pub to: String,
    /// Their QoS.
    pub qos: u8,
    /// Messages published.
    pub sent: u32,
    /// Messages that arrived in time.
    pub delivered: u32,
    /// Those of them that took longer than `slow_after`.
    pub late: u32,
    /// Half of those that arrived took no longer, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 99 of 100 took no longer, in milliseconds.
    pub p99_ms: Option<f64>,
}

/// Messages from one node to another, of both QoS together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Pair {
    /// The node where they were published.
    pub from: String,
    /// The node of the subscriber.
    pub to: String,
    /// Messages published.
    pub sent: u32,
    /// Messages that arrived in time.
    pub delivered: u32,
    /// Half of those that arrived took no longer, with the slower QoS, in milliseconds.
    pub p50_ms: Option<f64>,
}

impl Pair {
    /// The share of messages that arrived in time, from 0 to 1.
    pub fn delivered_ratio(&self) -> f64 {
        f64::from(self.delivered) / f64::from(self.sent.max(1))
    }
}

impl Routes {
    /// The pairs, in the order of the routes.
    pub fn pairs(&self) -> Vec<Pair> {
        let pairs = self
            .routes
            .chunk_by(|one, other| (&one.from, &one.to) == (&other.from, &other.to));
        let of_both = pairs.filter_map(|routes| {
            let first = routes.first()?;
            Some(Pair {
                from: first.from.clone(),
                to: first.to.clone(),
                sent: routes.iter().map(|route| route.sent).sum(),
                delivered: routes.iter().map(|route| route.delivered).sum(),
                p50_ms: routes.iter().filter_map(|route| route.p50_ms).reduce(f64::max),
            })
        });
        of_both.collect()
    }
}

/// A retained message of one node, at another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Retained {
    /// The node where it was published.
    pub from: String,
    /// The node where it was asked for.
    pub to: String,
    /// Whether it was there.
    pub is_there: bool,
}

/// Messages of one node to a shared subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Shared {
    /// The node where they were published.
    pub from: String,
    /// Messages published.
    pub sent: u32,
    /// Delivered to one member.
    pub once: u32,
    /// Delivered to several members.
    pub several: u32,
}

/// A subscriber that came through the balancer and restarted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Front {
    /// Where it connected.
    pub url: String,
    /// How often.
    pub restarts: u32,
    /// The publishers: on each node, and through the balancer.
    pub publishers: Vec<Publisher>,
}

/// A publisher to a subscriber that restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Publisher {
    /// The node that it is on.
    pub from: String,
    /// After how many restarts its message was received.
    pub received: u32,
}

impl From<finding::Finding> for Finding {
    fn from(finding: finding::Finding) -> Self {
        let finding::Finding {
            code,
            subjects,
            looked_at,
            found,
            certainty,
        } = finding;
        Self {
            code: code.id().to_owned(),
            name: code.name().to_owned(),
            subjects,
            looked_at,
            found,
            why: code.why().to_owned(),
            advice: code.advice().to_owned(),
            certainty,
        }
    }
}

impl Report {
    /// Adds something that was looked at and is as it should be.
    pub fn fine(&mut self, what: impl Into<String>, seen: impl Into<String>) {
        self.checked.push(Checked {
            what: what.into(),
            is_fine: true,
            seen: seen.into(),
        });
    }

    /// Adds a finding, once, and the line of what was looked at.
    pub fn found(&mut self, what: impl Into<String>, finding: finding::Finding) {
        let finding = Finding::from(finding);
        self.checked.push(Checked {
            what: what.into(),
            is_fine: false,
            seen: format!("{} {}", finding.code, finding.name),
        });
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Adds what another report says beside the routes.
    pub fn append(&mut self, other: &Self) {
        self.checked.extend(other.checked.iter().cloned());
        let known = self.findings.len();
        for finding in &other.findings {
            if !self.findings[..known].contains(finding) {
                self.findings.push(finding.clone());
            }
        }
        self.could_not_look.extend(other.could_not_look.iter().cloned());
    }

    /// Adds a route check, and what it means.
    pub fn add_routes(&mut self, routes: &RouteReport, slow_after: Duration) {
        let judged = verdict(routes, slow_after);
        let count = routes.nodes.len();
        let what = match routes.nodes_in_all > count {
            true => format!("routes ({count} of {} nodes, drawn at random)", routes.nodes_in_all),
            false => "routes".to_owned(),
        };
        let has_cells = routes.routes.names().len() > routes.troubles.iter().flatten().count();
        self.routes = has_cells.then(|| Routes::new(routes, slow_after));
        self.could_not_look.extend(judged.could_not_look);
        if judged.findings.is_empty() && has_cells {
            let extras = match (&routes.retained, &routes.shared) {
                (Some(_), Some(_)) => ", retained messages and a shared subscription as well",
                (Some(_), None) => ", retained messages as well; the nodes have no shared subscriptions",
                (None, Some(_)) => ", a shared subscription as well; the nodes keep no retained messages",
                (None, None) => "",
            };
            self.fine(what, format!("each node reaches each{extras}"));
        } else {
            for finding in judged.findings {
                self.found(what.clone(), finding);
            }
        }
    }

    /// Adds what a subscriber received behind `url`, and what that means.
    pub fn add_front(&mut self, url: &str, front: &FrontReport) {
        let judged = front_verdict(url, front);
        self.could_not_look.extend(judged.could_not_look.clone());
        if judged == Verdict::default() {
            let seen = format!(
                "received from every publisher after each of {} restarts",
                front.restarts
            );
            self.fine(url, seen);
        }
        for finding in judged.findings {
            self.found(url, finding);
        }
        let publishers = front.received.iter().map(|(from, received)| Publisher {
            from: from.clone(),
            received: *received,
        });
        self.front.push(Front {
            url: url.to_owned(),
            restarts: front.restarts,
            publishers: publishers.collect(),
        });
    }

    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// As text for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let width = self
            .checked
            .iter()
            .map(|line| line.what.chars().count())
            .max()
            .unwrap_or(0);
        text.push_str("looked at\n");
        for Checked { what, is_fine, seen } in &self.checked {
            let verdict = match is_fine {
                true => "fine",
                false => "NOT FINE",
            };
            let seen = if seen.is_empty() {
                String::new()
            } else {
                format!(": {seen}")
            };
            text.push_str(&format!("  {what:width$}  {verdict}{seen}\n"));
        }
        if let Some(routes) = &self.routes {
            text.push('\n');
            text.push_str(&routes.text());
        }
        for Front {
            url,
            restarts,
            publishers,
        } in &self.front
        {
            text.push_str(&format!(
                "\na subscriber behind {url}, restarts after which it received a message\n"
            ));
            let width = publishers.iter().map(|row| row.from.chars().count()).max().unwrap_or(0);
            for Publisher { from, received } in publishers {
                text.push_str(&format!("  {from:width$}  {received}/{restarts}\n"));
            }
        }
        for why in &self.could_not_look {
            text.push_str(&format!("\ncould not look: {why}\n"));
        }
        for finding in &self.findings {
            text.push('\n');
            text.push_str(&finding.text());
        }
        let seconds = self.took_ms as f64 / 1_000.0;
        let outcome = match (self.findings.len(), self.could_not_look.is_empty()) {
            (0, true) => "nothing found".to_owned(),
            (0, false) => "nothing found in what could be looked at".to_owned(),
            (count, _) => counted(count, "finding"),
        };
        text.push_str(&format!("\n{outcome}, after {seconds:.1} s"));
        text
    }
}

impl Finding {
    fn text(&self) -> String {
        let Self {
            code,
            name,
            looked_at,
            found,
            why,
            advice,
            certainty,
            subjects: _,
        } = self;
        let mut text = format!("{code} {name} ({})\n", certainty.name());
        for (title, words) in [("looked at", looked_at), ("found", found), ("why", why), ("do", advice)] {
            text.push_str(&format!("  {title:9}  {}\n", wrapped(words, 13)));
        }
        text
    }
}

/// Text in lines of a terminal's width, those behind the first after so many spaces.
fn wrapped(words: &str, indent: usize) -> String {
    const WIDTH: usize = 100;
    let mut text = String::new();
    let mut column = indent;
    for word in words.split(' ') {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            text.push('\n');
            text.push_str(&" ".repeat(indent));
            column = indent;
        } else if column > indent {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text
}

impl Routes {
    fn new(report: &RouteReport, slow_after: Duration) -> Self {
        let names = &report.nodes;
        let pairs = |matrix: &Matrix| {
            let count = matrix.names().len();
            (0..count).flat_map(move |from| (0..count).map(move |to| (from, to)))
        };
        let in_ms = |time: Duration| time.as_micros() as f64 / 1_000.0;
        let routes = pairs(&report.routes)
            .flat_map(|(from, to)| Qos::ALL.map(|qos| (from, to, qos)))
            .filter_map(|(from, to, qos)| {
                let cell = report.routes.cell(from, to, qos);
                (cell.sent > 0).then(|| Route {
                    from: names[from].to_string(),
                    to: names[to].to_string(),
                    qos: qos.number(),
                    sent: cell.sent,
                    delivered: cell.delivered(),
                    late: cell.late(slow_after),
                    p50_ms: cell.percentile(50).map(in_ms),
                    p99_ms: cell.percentile(99).map(in_ms),
                })
            })
            .collect();
        let retained = report.retained.as_ref().map(|matrix| {
            let kept = pairs(matrix).filter(|(from, to)| matrix.way(*from, *to) != Way::Unmeasured);
            kept.map(|(from, to)| Retained {
                from: names[from].to_string(),
                to: names[to].to_string(),
                is_there: matrix.way(from, to).is_open(),
            })
            .collect()
        });
        let shared = report.shared.as_ref().map(|rows| {
            let rows = names.iter().zip(rows).filter(|(_, row)| row.sent > 0);
            rows.map(|(from, row)| Shared {
                from: from.to_string(),
                sent: row.sent,
                once: row.once,
                several: row.several,
            })
            .collect()
        });
        Self {
            nodes: names.iter().map(ToString::to_string).collect(),
            nodes_in_all: report.nodes_in_all,
            routes,
            retained,
            shared,
            took_ms: report.took.as_millis() as u64,
        }
    }

    fn text(&self) -> String {
        let mut rows = vec![[vec!["from \\ to".to_owned()], self.nodes.clone()].concat()];
        for from in &self.nodes {
            let mut row = vec![from.clone()];
            row.extend(self.nodes.iter().map(|to| self.cell(from, to)));
            rows.push(row);
        }
        if let Some(retained) = &self.retained {
            let mut row = vec!["retained".to_owned()];
            row.extend(self.nodes.iter().map(|to| {
                let asked: Vec<_> = retained.iter().filter(|kept| kept.to == *to).collect();
                let there = asked.iter().filter(|kept| kept.is_there).count();
                format!("{there}/{}", asked.len())
            }));
            rows.push(row);
        }
        if let Some(shared) = &self.shared {
            let mut row = vec!["$share".to_owned()];
            row.extend(self.nodes.iter().map(|from| {
                let of_node = shared.iter().find(|row| row.from == *from);
                of_node.map_or("-".to_owned(), |row| format!("{}/{} once", row.once, row.sent))
            }));
            rows.push(row);
        }
        let count = rows[0].len();
        let width_of = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..count).map(width_of).collect();
        let mut text = "messages that arrived, of those sent, and the time that half of them took\n".to_owned();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            text.push_str(&format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end()));
        }
        text
    }

    fn cell(&self, from: &str, to: &str) -> String {
        let of_pair = || self.routes.iter().filter(|route| route.from == from && route.to == to);
        let (sent, delivered) = of_pair().fold((0, 0), |(sent, delivered), route| {
            (sent + route.sent, delivered + route.delivered)
        });
        let p50 = of_pair().filter_map(|route| route.p50_ms).reduce(f64::max);
        match (sent, p50) {
            (0, _) => "-".to_owned(),
            (_, None) => format!("{delivered}/{sent}"),
            (_, Some(p50)) => {
                let time = milliseconds(Duration::from_micros((p50 * 1_000.0) as u64));
                format!("{delivered}/{sent} {time}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Code;

    fn report() -> Report {
        let nodes: Vec<std::sync::Arc<str>> = vec!["emqx1".into(), "emqx2".into()];
        let mut routes = Matrix::new(nodes.clone());
        for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            for qos in Qos::ALL {
                routes.note(from, to, qos, (from == to).then_some(Duration::from_micros(300)));
            }
        }
        let mut report = Report::default();
        report.fine("configuration", "");
        let route_report = RouteReport {
            nodes,
            nodes_in_all: 20,
            troubles: vec![None, None],
            routes,
            retained: None,
            shared: Some(vec![
                super::super::route_check::Shared {
                    sent: 5,
                    once: 5,
                    several: 0,
                },
                super::super::route_check::Shared::default(),
            ]),
            took: Duration::from_millis(12),
        };
        report.add_routes(&route_report, Duration::from_millis(500));
        report
    }

    #[test]
    fn the_text_says_what_was_looked_at_and_found_and_what_to_do() {
        let text = report().text();
        for expected in [
            "  configuration                            fine\n",
            "  routes (2 of 20 nodes, drawn at random)  NOT FINE: R101 nodes-not-joined\n",
            "  from \\ to  emqx1       emqx2\n",
            "  emqx1      2/2 0.3 ms  0/2\n",
            "  $share     5/5 once    -\n",
            "R101 nodes-not-joined (certain)\n  looked at  messages between 2 nodes",
            "  found      emqx1 | emqx2 are 2 clusters",
            "  why        A client",
            "  do         Join the nodes",
            "1 finding, after",
        ] {
            assert!(text.contains(expected), "{expected:?} in:\n{text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 110), "{text}");
    }

    #[test]
    fn json_can_be_read_back() {
        let report = report();
        assert_eq!(serde_json::from_str::<Report>(&report.json()).expect("JSON"), report);
        assert_eq!(report.findings[0].code, Code::NodesNotJoined.id());
    }
}
