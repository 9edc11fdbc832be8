//! What the clients of a balancer mean: those off their home, ids that change at every connect, ids that two clients have, and quiet
//! clients on a node whose routes are broken. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::finding::{Certainty, Code, Finding};
use crate::base::words::counted;

/// The most client ids that a finding names.
const EXAMPLES_MAX: usize = 20;

/// A share of the clients, in percent, from which it is a finding that they are off their home, or that their ids are made up.
const SHARE: usize = 10;

/// What was counted of the clients that are connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFacts {
    /// How many there are.
    pub count: usize,
    /// Those off their home, by the reason.
    pub off_home: BTreeMap<String, usize>,
    /// Ids that a library has made up for one connection, as [`is_made_up`] says.
    pub made_up: Vec<String>,
    /// How many have such an id, or none.
    pub made_up_count: usize,
    /// Ids of clients without one of their own whose session outlives the connection.
    pub sessions_left: Vec<String>,
    /// How many such clients there are.
    pub sessions_left_count: usize,
    /// Ids with more than one connection.
    pub twice: BTreeSet<String>,
    /// Ids whose connections have ended at least [`FIGHT_ENDS`] times within the last minute.
    pub fighting: Vec<String>,
    /// Clients behind another load balancer on whose connections nothing passes for longer than [`FRONT_IDLE`].
    pub silent_behind_front: Vec<String>,
    /// Clients that ping, and have received no message for long, by node.
    pub quiet: BTreeMap<String, Vec<String>>,
}

/// After this time without a byte, load balancers in front drop a connection (AWS NLB).
pub const FRONT_IDLE: Duration = Duration::from_secs(350);

/// So many ends within a minute are more than those of a client that reconnects at ease.
pub const FIGHT_ENDS: usize = 10;

/// Whether an id is one that a library makes up at each connect if it is given none.
pub fn is_made_up(id: &[u8]) -> bool {
    let Ok(id) = std::str::from_utf8(id) else {
        return false;
    };
    let is_tail = |prefix: &str, least: usize, digit: fn(char) -> bool| {
        let tail = id.strip_prefix(prefix);
        tail.is_some_and(|tail| tail.len() >= least && tail.chars().all(digit))
    };
    let hex: fn(char) -> bool = |c| c.is_ascii_hexdigit();
    let word: fn(char) -> bool = |c| c.is_ascii_alphanumeric();
    // MQTT.js, MQTTX, mosquitto (its clients and those that it names itself), Paho for Java, for Go and rumqttc have no default or
    // these.
    id.is_empty()
        || is_tail("mqttjs_", 8, hex)
        || is_tail("mqttx_", 8, hex)
        || is_tail("mosq-", 18, word)
        || is_tail("auto-", 32, |c| c.is_ascii_hexdigit() || c == '-')
        || is_tail("paho", 10, |c| c.is_ascii_digit())
}

/// What `facts` mean, if these nodes have broken routes.
pub fn findings(facts: &ClientFacts, broken: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let finding = |code, subjects, found, certainty| Finding {
        code,
        subjects,
        looked_at: format!("this balancer's {}", counted(facts.count, "client")),
        found,
        certainty,
    };
    let is_share = |count: usize| count > 0 && count * 100 >= facts.count * SHARE;
    let off_home: usize = facts.off_home.values().sum();
    if is_share(off_home) {
        let reasons: Vec<String> = facts
            .off_home
            .iter()
            .map(|(why, count)| format!("{why} {count}"))
            .collect();
        let found = format!("{off_home} are on another node than their home: {}", reasons.join(", "));
        findings.push(finding(Code::OffHome, Vec::new(), found, Certainty::Certain));
    }
    if is_share(facts.made_up_count) {
        let found = format!(
            "{} have an id that their library has made up, such as {}",
            facts.made_up_count,
            shown(facts.made_up.iter())
        );
        findings.push(finding(Code::IdsChange, Vec::new(), found, Certainty::Likely));
    }
    if !facts.twice.is_empty() {
        let found = format!(
            "ids with more than one connection: {} ({})",
            facts.twice.len(),
            shown(facts.twice.iter())
        );
        findings.push(finding(Code::IdsTwice, Vec::new(), found, Certainty::Likely));
    }
    if !facts.fighting.is_empty() {
        let found = format!(
            "ids whose connections ended {FIGHT_ENDS} times or more within a minute: {} ({})",
            facts.fighting.len(),
            shown(facts.fighting.iter())
        );
        findings.push(finding(Code::IdsFight, Vec::new(), found, Certainty::Likely));
    }
    if !facts.silent_behind_front.is_empty() {
        let found = format!(
            "clients that come through another load balancer with a Keep Alive of more than {} s, or none: {} ({})",
            FRONT_IDLE.as_secs(),
            facts.silent_behind_front.len(),
            shown(facts.silent_behind_front.iter())
        );
        findings.push(finding(Code::IdleLimit, Vec::new(), found, Certainty::Likely));
    }
    if facts.sessions_left_count > 0 {
        let mut found = format!(
            "clients without an id of their own whose session outlives the connection: {}",
            facts.sessions_left_count
        );
        if !facts.sessions_left.is_empty() {
            found += &format!(" (among them {})", shown(facts.sessions_left.iter()));
        }
        findings.push(finding(Code::SessionsLeft, Vec::new(), found, Certainty::Likely));
    }
    for (node, ids) in facts.quiet.iter().filter(|(node, _)| broken.contains(*node)) {
        let found = format!(
            "clients on {node} that are connected and have received no message for ten minutes: {} ({})",
            ids.len(),
            shown(ids.iter())
        );
        findings.push(finding(
            Code::QuietClients,
            vec![node.clone()],
            found,
            Certainty::Likely,
        ));
    }
    findings
}

fn shown<'a>(ids: impl Iterator<Item = &'a String>) -> String {
    let mut words: Vec<String> = ids
        .take(EXAMPLES_MAX + 1)
        .map(|id| id.escape_debug().to_string())
        .collect();
    if words.len() > EXAMPLES_MAX {
        words[EXAMPLES_MAX] = "…".to_owned();
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_libraries_are_known_and_those_of_people_are_not() {
        for id in [
            "",
            "mqttjs_1a2b3c4d",
            "mosq-Xy12Xy12Xy12Xy12Xy",
            "auto-84FDC754-9850-4E45-4664-BE7063ED7112",
            "paho12345678901234",
        ] {
            assert!(is_made_up(id.as_bytes()), "{id}");
        }
        for id in [
            "mqttjs_gateway",
            "sensor-1",
            "mosq-kitchen",
            "auto-door",
            "paho",
            "pahoe",
        ] {
            assert!(!is_made_up(id.as_bytes()), "{id}");
        }
    }

    #[test]
    fn a_few_clients_off_home_are_no_finding_and_a_tenth_is() {
        let with = |count| ClientFacts {
            count: 100,
            off_home: BTreeMap::from([("spill".to_owned(), count)]),
            ..ClientFacts::default()
        };
        assert_eq!(findings(&with(9), &BTreeSet::new()), []);
        assert_eq!(findings(&with(10), &BTreeSet::new())[0].code, Code::OffHome);
    }

    #[test]
    fn quiet_clients_are_named_only_where_the_routes_are_broken() {
        let facts = ClientFacts {
            count: 50,
            quiet: BTreeMap::from(
                [("a", "one"), ("b", "two")].map(|(node, id)| (node.to_owned(), vec![id.to_owned()])),
            ),
            twice: BTreeSet::from(["twin".to_owned()]),
            fighting: vec!["boxer".to_owned()],
            silent_behind_front: vec!["sleeper".to_owned()],
            sessions_left: vec!["mqttjs_1a2b3c4d".to_owned()],
            sessions_left_count: 2,
            ..ClientFacts::default()
        };
        let found = findings(&facts, &BTreeSet::from(["b".to_owned()]));
        let codes: Vec<_> = found.iter().map(|finding| finding.code).collect();
        assert_eq!(
            codes,
            [
                Code::IdsTwice,
                Code::IdsFight,
                Code::IdleLimit,
                Code::SessionsLeft,
                Code::QuietClients
            ]
        );
        assert!(
            found[3].found.ends_with("connection: 2 (among them mqttjs_1a2b3c4d)"),
            "{found:?}"
        );
        assert!(
            found[4].found.contains("on b") && found[4].found.ends_with("1 (two)"),
            "{found:?}"
        );
    }
}
