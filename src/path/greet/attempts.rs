//! Decides, after each attempt to take a client to a node, what to do next. It does no I/O, and the time is passed in.

use tokio::time::Instant;

use crate::mqtt::Version;
use crate::path::counters::Retry;
use crate::path::ended::Ended;

/// The most times that one client is taken to another node, whatever the reason.
const OTHER_NODES_MAX: u8 = 2;

/// The most times that one client is taken to the same node again.
const SAME_NODE_MAX: u8 = 1;

/// After this many nodes have closed without an answer, no other node is tried: the CONNECT itself is probably the
/// reason.
const SILENT_CLOSES_MAX: u8 = 2;

/// How an attempt to take a client to a node failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node has as many connections as it may have. Nothing was sent.
    Full,
    /// Too many CONNECTs wait for their turn at the node. Nothing was sent.
    NoTurn,
    /// The node could not be reached.
    Unreachable,
    /// Every source port towards the node is in use.
    SourcePortsExhausted,
    /// The node's WebSocket listener rejected the upgrade.
    UpgradeRejected,
    /// The node sent a CONNACK after which another attempt may succeed.
    Refused {
        /// Where another attempt may succeed.
        retry: RetryAt,
        /// The MQTT that the node sent: the CONNACK.
        connack: Vec<u8>,
    },
    /// The node closed or reset the connection before it sent any MQTT, or it sent something else.
    SilentClose,
    /// The node did not answer in time.
    TimedOut,
    /// The client's own deadline passed while the node still had time to answer.
    DeadlinePassed,
}

/// Where a refused client may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAt {
    /// On another node.
    OtherNode,
    /// On the same node a little later: the client id is briefly locked in the cluster.
    SameNode,
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Try the next node of the route, if there is one, for this reason.
    OtherNode(Retry),
    /// Wait a moment, then try the same node again.
    SameNode,
    /// Stop: the connection ends with [`Attempts::ended`].
    GiveUp,
}

/// The attempts for one client so far.
#[derive(Debug)]
pub struct Attempts {
    deadline: Instant,
    to_other_nodes: u8,
    to_same_node: u8,
    silent_closes: u8,
    /// Nodes that refused the client, or closed silently, in a way that may last.
    refusals: u8,
    /// `None` if no attempt has failed.
    worst: Option<Failure>,
    last_connack: Option<Vec<u8>>,
}

/// The reason that is reported when all attempts have failed: the greatest that occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    NoTurn,
    Full,
    Unreachable,
    SourcePortsExhausted,
    Refused,
}

impl Attempts {
    /// No attempt yet, for a client that must be accepted before `deadline`.
    pub fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            to_other_nodes: 0,
            to_same_node: 0,
            silent_closes: 0,
            refusals: 0,
            worst: None,
            last_connack: None,
        }
    }

    /// Records an attempt that failed at `now`. `take` takes a further try from the budget, if there is one left.
    pub fn note(&mut self, outcome: Outcome, now: Instant, take: impl FnOnce() -> bool) -> Next {
        match outcome {
            // For the client it is as if the node were away, and for the others it costs nothing.
            Outcome::NoTurn => {
                self.worst = self.worst.max(Some(Failure::NoTurn));
                Next::OtherNode(Retry::Pace)
            }
            // As if it had refused the client, and that costs nothing either.
            Outcome::Full => {
                self.worst = self.worst.max(Some(Failure::Full));
                self.refusals += 1;
                Next::OtherNode(Retry::Full)
            }
            Outcome::Unreachable => self.not_sent(Failure::Unreachable, now, take),
            Outcome::SourcePortsExhausted => self.not_sent(Failure::SourcePortsExhausted, now, take),
            Outcome::UpgradeRejected => self.not_sent(Failure::Refused, now, take),
            Outcome::Refused { retry, connack } => {
                self.worst = Some(Failure::Refused);
                self.last_connack = Some(connack);
                match retry {
                    RetryAt::OtherNode => {
                        self.refusals += 1;
                        self.other_node(Retry::Refused, take)
                    }
                    RetryAt::SameNode => self.same_node(take),
                }
            }
            Outcome::SilentClose => {
                self.worst = Some(Failure::Refused);
                self.silent_closes += 1;
                if self.silent_closes >= SILENT_CLOSES_MAX {
                    return Next::GiveUp;
                }
                self.refusals += 1;
                self.other_node(Retry::Silent, take)
            }
            Outcome::TimedOut => {
                self.worst = self.worst.max(Some(Failure::Unreachable));
                self.other_node(Retry::Late, take)
            }
            Outcome::DeadlinePassed => {
                self.worst = self.worst.max(Some(Failure::Unreachable));
                Next::GiveUp
            }
        }
    }

    /// When a node must have accepted the client.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Tries at another node, including one that a limit prevented.
    pub fn retries(&self) -> u8 {
        self.to_other_nodes
    }

    /// Whether a node has refused the client in a way that may last.
    pub fn was_refused(&self) -> bool {
        self.refusals > 0
    }

    /// How the connection ends if no node accepts the client.
    pub fn ended(&self) -> Ended {
        match self.worst {
            None | Some(Failure::Unreachable) => Ended::NoNode,
            Some(Failure::NoTurn) => Ended::LimitPace,
            Some(Failure::Full) => Ended::LimitNode,
            Some(Failure::SourcePortsExhausted) => Ended::SourcePortsExhausted,
            Some(Failure::Refused) => Ended::Refused,
        }
    }

    /// Whether a node has closed the connection without a CONNACK, and none has refused the client with one.
    pub fn was_dropped(&self) -> bool {
        self.silent_closes > 0 && self.last_connack.is_none()
    }

    /// The last refusing CONNACK, as MQTT.
    pub fn last_connack(self) -> Option<Vec<u8>> {
        self.last_connack
    }

    fn not_sent(&mut self, failure: Failure, now: Instant, take: impl FnOnce() -> bool) -> Next {
        self.worst = self.worst.max(Some(failure));
        match now < self.deadline {
            true => self.other_node(Retry::Dial, take),
            false => Next::GiveUp,
        }
    }

    fn other_node(&mut self, reason: Retry, take: impl FnOnce() -> bool) -> Next {
        self.to_other_nodes += 1;
        match self.to_other_nodes <= OTHER_NODES_MAX && take() {
            true => Next::OtherNode(reason),
            false => Next::GiveUp,
        }
    }

    fn same_node(&mut self, take: impl FnOnce() -> bool) -> Next {
        self.to_same_node += 1;
        match self.to_same_node <= SAME_NODE_MAX && take() {
            true => Next::SameNode,
            false => Next::GiveUp,
        }
    }
}

/// Where a client that got this CONNACK may be accepted; `None` if another attempt would not help (MQTT 3.1.1, table
/// 3.1; MQTT 5, 3.2.2.2).
pub(crate) fn retry_at(code: u8, version: Version) -> Option<RetryAt> {
    /// 3.x: server unavailable. EMQX also sends it when it is busy or being evacuated.
    const UNAVAILABLE_3: u8 = 3;
    const UNAVAILABLE: u8 = 0x88;
    /// EMQX: another node holds the cluster-wide lock on this client id.
    const BUSY: u8 = 0x89;
    const QUOTA_EXCEEDED: u8 = 0x97;
    /// EMQX: the node is being evacuated.
    const USE_ANOTHER_SERVER: u8 = 0x9C;
    const RATE_EXCEEDED: u8 = 0x9F;

    match (version, code) {
        (Version::V5, UNAVAILABLE | QUOTA_EXCEEDED | USE_ANOTHER_SERVER | RATE_EXCEEDED) => Some(RetryAt::OtherNode),
        (Version::V5, BUSY) => Some(RetryAt::SameNode),
        (Version::V31 | Version::V311, UNAVAILABLE_3) => Some(RetryAt::OtherNode),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused(retry: RetryAt) -> Outcome {
        Outcome::Refused {
            retry,
            connack: b"connack".to_vec(),
        }
    }

    /// What is decided after each of these outcomes, all of them before the deadline.
    fn run(outcomes: impl IntoIterator<Item = Outcome>) -> (Vec<Next>, Attempts) {
        let start = Instant::now();
        let mut attempts = Attempts::new(start + Duration::from_secs(12));
        let next = outcomes
            .into_iter()
            .map(|outcome| attempts.note(outcome, start, || true));
        (next.collect(), attempts)
    }

    #[test]
    fn a_client_is_taken_to_two_more_nodes_at_most_whatever_the_reason() {
        for (outcome, reason) in [
            (refused(RetryAt::OtherNode), Retry::Refused),
            (Outcome::TimedOut, Retry::Late),
            (Outcome::Unreachable, Retry::Dial),
            (Outcome::SourcePortsExhausted, Retry::Dial),
            (Outcome::UpgradeRejected, Retry::Dial),
        ] {
            let (next, attempts) = run(vec![outcome; 3]);
            assert_eq!(next, [Next::OtherNode(reason), Next::OtherNode(reason), Next::GiveUp]);
            assert_eq!(attempts.retries(), 3);
        }
        let (next, _) = run([Outcome::Unreachable, Outcome::TimedOut, Outcome::UpgradeRejected]);
        assert_eq!(next[2], Next::GiveUp, "all of them together");
    }

    #[test]
    fn a_second_silent_close_ends_the_attempts() {
        let (next, attempts) = run([Outcome::SilentClose, Outcome::TimedOut, Outcome::SilentClose]);
        let expected = [
            Next::OtherNode(Retry::Silent),
            Next::OtherNode(Retry::Late),
            Next::GiveUp,
        ];
        assert_eq!(next, expected);
        assert_eq!(attempts.ended(), Ended::Refused);
    }

    #[test]
    fn the_same_node_is_tried_once_more_and_this_is_no_lasting_refusal() {
        let (next, attempts) = run([refused(RetryAt::SameNode), refused(RetryAt::SameNode)]);
        assert_eq!(next, [Next::SameNode, Next::GiveUp]);
        assert_eq!(attempts.retries(), 0);
        assert!(!attempts.was_refused());
        assert_eq!(attempts.last_connack().as_deref(), Some(&b"connack"[..]));
    }

    #[test]
    fn after_the_deadline_no_other_node_is_tried() {
        for outcome in [
            Outcome::Unreachable,
            Outcome::SourcePortsExhausted,
            Outcome::UpgradeRejected,
            Outcome::DeadlinePassed,
        ] {
            let due = Instant::now();
            let mut attempts = Attempts::new(due);
            assert_eq!(attempts.note(outcome, due, || true), Next::GiveUp);
        }
    }

    #[test]
    fn without_a_budget_there_is_no_further_try() {
        let now = Instant::now();
        for outcome in [
            refused(RetryAt::OtherNode),
            refused(RetryAt::SameNode),
            Outcome::SilentClose,
            Outcome::TimedOut,
            Outcome::Unreachable,
            Outcome::SourcePortsExhausted,
            Outcome::UpgradeRejected,
        ] {
            let mut attempts = Attempts::new(now + Duration::from_secs(1));
            assert_eq!(attempts.note(outcome, now, || false), Next::GiveUp);
        }
    }

    #[test]
    fn a_node_that_has_no_turn_or_no_room_for_the_client_costs_it_no_try() {
        let now = Instant::now();
        let mut attempts = Attempts::new(now + Duration::from_secs(12));
        for _ in 0..10 {
            assert_eq!(
                attempts.note(Outcome::NoTurn, now, || false),
                Next::OtherNode(Retry::Pace)
            );
        }
        assert_eq!(attempts.ended(), Ended::LimitPace);
        assert_eq!(attempts.retries(), 0);
        assert!(!attempts.was_refused(), "as if the node were away");
        assert_eq!(
            attempts.note(Outcome::Full, now, || false),
            Next::OtherNode(Retry::Full)
        );
        assert_eq!(attempts.ended(), Ended::LimitNode);
        assert!(attempts.was_refused(), "the client is to stay where it goes instead");
        assert_eq!(
            attempts.note(Outcome::Unreachable, now, || true),
            Next::OtherNode(Retry::Dial)
        );
        assert_eq!(attempts.ended(), Ended::NoNode);
    }

    #[test]
    fn a_refusal_outweighs_ports_and_ports_outweigh_an_unreachable_node() {
        for (outcomes, ended) in [
            (vec![], Ended::NoNode),
            (vec![Outcome::TimedOut, Outcome::DeadlinePassed], Ended::NoNode),
            (
                vec![Outcome::SourcePortsExhausted, Outcome::Unreachable],
                Ended::SourcePortsExhausted,
            ),
            (
                vec![Outcome::UpgradeRejected, Outcome::SourcePortsExhausted],
                Ended::Refused,
            ),
            (vec![refused(RetryAt::OtherNode), Outcome::Unreachable], Ended::Refused),
        ] {
            assert_eq!(run(outcomes.clone()).1.ended(), ended, "{outcomes:?}");
        }
    }

    #[test]
    fn only_a_connack_that_another_attempt_may_change_is_retried() {
        let other = Some(RetryAt::OtherNode);
        let same = Some(RetryAt::SameNode);
        for code in 0..=u8::MAX {
            let expected_5 = match code {
                0x88 | 0x97 | 0x9C | 0x9F => other,
                0x89 => same,
                _ => None,
            };
            assert_eq!(retry_at(code, Version::V5), expected_5, "{code:#x}");
            let expected_3 = (code == 3).then_some(RetryAt::OtherNode);
            assert_eq!(retry_at(code, Version::V311), expected_3, "{code:#x}");
            assert_eq!(retry_at(code, Version::V31), expected_3, "{code:#x}");
            assert_eq!(retry_at(code, Version::Unknown(9)), None, "{code:#x}");
        }
    }
}
