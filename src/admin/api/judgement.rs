//! Whether a balancer is fine, and why, in one sentence: a pure function of what is known of it.

use std::fmt::Write;

use crate::base::words::counted;

/// What is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts<'a> {
    /// Why it should get no new clients.
    pub(super) unready: Option<&'a str>,
    pub(super) nodes: Vec<NodeFact<'a>>,
    pub(super) connections: usize,
    pub(super) connections_max: usize,
    pub(super) has_reload_failed: bool,
    /// What the doctor finds, if the reader may know.
    pub(super) found: Option<&'a str>,
}

/// A node of the cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeFact<'a> {
    pub(super) name: &'a str,
    /// As in an overview.
    pub(super) state: &'a str,
    /// Why, where it is not up and the reader may know.
    pub(super) why: Option<&'a str>,
    /// It fails its probes, and stays in use.
    pub(super) is_overruled: bool,
}

/// As many names as a sentence has at most.
const NAMES_MAX: usize = 3;

/// The judgement: whether an operator need not look any further, and a sentence.
pub(super) fn judge(facts: &Facts<'_>) -> (bool, String) {
    let Facts {
        unready,
        nodes,
        connections,
        connections_max,
        has_reload_failed,
        found,
    } = facts;
    let of = |states: &[&str]| {
        let found = nodes.iter().filter(|node| states.contains(&node.state));
        found.collect::<Vec<_>>()
    };
    let (down, draining) = (of(&["down", "partly down"]), of(&["draining"]));
    let overruled: Vec<_> = nodes.iter().filter(|node| node.is_overruled).collect();
    let mut said = Vec::new();
    if let Some(why) = unready {
        let why = match *why {
            "draining" => "this balancer drains and takes no new clients",
            why => why,
        };
        said.push(Part::words(why));
    }
    if let Some(first) = down.first() {
        let state = if first.state == "down" { "down" } else { "partly down" };
        let mut text = format!("{} {}", names(&down), verb(&down, state));
        if let (1, Some(why)) = (down.len(), first.why) {
            // Writing to a string cannot fail.
            let _ = write!(text, " ({why})");
        }
        said.push(Part::Names(text));
    }
    if !overruled.is_empty() {
        let fails = match overruled.len() {
            1 => "fails its probes and stays",
            _ => "fail their probes and stay",
        };
        said.push(Part::Names(format!("{} {fails} in use", names(&overruled))));
    }
    if *has_reload_failed {
        let text = "the last reload failed, and the configuration before it is in force";
        said.push(Part::words(text));
    }
    if *connections_max > 0 && connections.saturating_mul(10) >= connections_max.saturating_mul(9) {
        let text = format!(
            "{connections} of at most {} in use",
            counted(*connections_max, "connection")
        );
        said.push(Part::Words(text));
    }
    if let Some(found) = found {
        said.push(Part::words(found));
    }
    let is_fine = said.is_empty();
    if !draining.is_empty() {
        let text = format!("{} {}", names(&draining), verb(&draining, "draining"));
        said.push(Part::Names(text));
    }
    let taking = of(&["up", "partly down"]).len();
    said.push(Part::Words(match nodes.len() {
        0 => "there is no node".to_owned(),
        1 if taking == 1 => "the node takes clients".to_owned(),
        all if taking == all => format!("all {all} nodes take clients"),
        all if taking == 1 => format!("1 of {all} nodes takes clients"),
        all => format!("{taking} of {all} nodes take clients"),
    }));
    (is_fine, sentence(said))
}

/// A part of a sentence.
enum Part {
    /// It begins with the name of a node, which is written as it is.
    Names(String),
    /// It may begin with a capital letter.
    Words(String),
}

impl Part {
    fn words(text: &str) -> Self {
        Self::Words(text.to_owned())
    }
}

fn sentence(parts: Vec<Part>) -> String {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Words(words) if text.is_empty() => {
                let mut letters = words.chars();
                text.extend(letters.next().into_iter().flat_map(char::to_uppercase));
                text.push_str(letters.as_str());
            }
            Part::Names(words) | Part::Words(words) => {
                if !text.is_empty() {
                    text.push_str("; ");
                }
                text.push_str(&words);
            }
        }
    }
    text.push('.');
    text
}

fn names(nodes: &[&NodeFact<'_>]) -> String {
    let shown: Vec<&str> = nodes.iter().take(NAMES_MAX).map(|node| node.name).collect();
    match (&shown[..], nodes.len().saturating_sub(NAMES_MAX)) {
        (shown, more @ 1..) => format!("{} and {more} more", shown.join(", ")),
        ([all @ .., last], _) if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        (shown, _) => shown.join(", "),
    }
}

fn verb(nodes: &[&NodeFact<'_>], word: &str) -> String {
    format!("{} {word}", if nodes.len() == 1 { "is" } else { "are" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node<'a>(name: &'a str, state: &'a str) -> NodeFact<'a> {
        NodeFact {
            name,
            state,
            why: None,
            is_overruled: false,
        }
    }

    #[test]
    fn one_sentence_says_whether_it_is_fine_and_why() {
        let judged = |nodes: Vec<NodeFact<'_>>| {
            judge(&Facts {
                nodes,
                connections_max: 1000,
                ..Facts::default()
            })
        };
        let fine = |sentence: &str| (true, sentence.to_owned());
        let wrong = |sentence: &str| (false, sentence.to_owned());
        assert_eq!(
            judged(vec![node("a", "up"), node("b", "up")]),
            fine("All 2 nodes take clients.")
        );
        assert_eq!(judged(vec![node("a", "up")]), fine("The node takes clients."));
        assert_eq!(
            judged(vec![node("a", "up"), node("b", "draining")]),
            fine("b is draining; 1 of 2 nodes takes clients.")
        );
        let refused = NodeFact {
            why: Some("Connection refused"),
            ..node("b", "down")
        };
        assert_eq!(
            judged(vec![node("a", "up"), refused, node("c", "up")]),
            wrong("b is down (Connection refused); 2 of 3 nodes take clients.")
        );
        let five = ["a", "b", "c", "d", "e"].map(|name| node(name, "down"));
        assert_eq!(
            judged(five.to_vec()),
            wrong("a, b, c and 2 more are down; 0 of 5 nodes take clients.")
        );
        assert_eq!(
            judged(vec![node("a", "partly down"), node("b", "partly down")]),
            wrong("a and b are partly down; all 2 nodes take clients.")
        );
        let overruled = NodeFact {
            is_overruled: true,
            ..node("a", "up")
        };
        assert_eq!(
            judged(vec![overruled]),
            wrong("a fails its probes and stays in use; the node takes clients.")
        );
    }

    #[test]
    fn what_an_operator_must_know_is_said_first() {
        let facts = Facts {
            unready: Some("no node has answered yet"),
            nodes: vec![node("a", "up")],
            connections: 900,
            connections_max: 1000,
            has_reload_failed: true,
            found: Some("the doctor finds R101 nodes-not-joined"),
        };
        let (is_fine, sentence) = judge(&facts);
        assert!(!is_fine);
        assert_eq!(
            sentence,
            "No node has answered yet; the last reload failed, and the configuration before it is in force; 900 of at most \
             1000 connections in use; the doctor finds R101 nodes-not-joined; the node takes clients."
        );
        let drains = Facts {
            unready: Some("draining"),
            has_reload_failed: false,
            connections: 0,
            found: None,
            ..facts
        };
        assert_eq!(
            judge(&drains).1,
            "This balancer drains and takes no new clients; the node takes clients."
        );
    }
}
