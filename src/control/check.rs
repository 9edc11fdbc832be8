//! What a node's own HTTP API says about it: whether it is to get new clients. No I/O: the answer and the time are passed in.
//!
//! EMQX answers its availability check with 503 from the start of an evacuation on, while it still serves: so this is a drain, and
//! never a reason to count the node as down. An answer that cannot be used, or none, says nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::{CheckResult, Finding, FindingSource, NodeApi, Verdict};

/// Questions in a row without an answer after which what the API said before no longer holds.
const UNANSWERED_MAX: u32 = 3;

/// Which of EMQX's two questions is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Check {
    /// Whether the node is being evacuated or rebalanced: its availability check (Enterprise from 5.0.4, every edition from 5.9).
    #[default]
    Availability,
    /// Whether the broker runs: its status (every edition).
    Status,
}

impl Check {
    /// The path to ask for.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Availability => "/api/v5/load_rebalance/availability_check",
            Self::Status => "/api/v5/status",
        }
    }
}

/// What the API answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// With this status.
    Status(u16),
    /// Not at all; why not.
    Unanswered(String),
}

impl Checked {
    /// What that says about the node.
    pub(super) fn result(&self) -> CheckResult {
        match self {
            Self::Status(200) => CheckResult::Available,
            Self::Status(503) => CheckResult::Unavailable,
            // 401 and 403: the credentials; 404: an edition without the check. It would be the same of a healthy node.
            Self::Status(_) => CheckResult::Unusable,
            Self::Unanswered(_) => CheckResult::Unanswered,
        }
    }
}

/// A change of what the API says, to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CheckChange {
    /// The node is to get no new clients.
    Drains,
    /// It takes clients again.
    Takes,
    /// The API answers, and what it says cannot be used.
    Unusable(u16),
    /// The API does not answer any more.
    Silent(Arc<str>),
    /// The API can be used, for the first time or again.
    Usable,
}

/// What is known from the API of one node.
#[derive(Clone, Debug)]
pub(super) struct NodeCheck {
    pub(super) api: NodeApi,
    /// When it is asked next.
    due: Instant,
    /// It is being asked.
    is_asking: bool,
    known: Known,
    /// Questions in a row without an answer.
    unanswered: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// It has never been asked.
    Nothing,
    Takes,
    Drains,
    Unusable(u16),
    Silent(Arc<str>),
}

impl NodeCheck {
    /// An API that is asked at once.
    pub(super) fn new(api: NodeApi, now: Instant) -> Self {
        Self {
            api,
            due: now,
            is_asking: false,
            known: Known::Nothing,
            unanswered: 0,
        }
    }

    /// The node is to get no new clients from the start, as another process was told; it is asked at once.
    pub(super) fn begin_draining(&mut self) {
        self.known = Known::Drains;
    }

    /// Whether the node is to get no new clients.
    pub(super) fn drains(&self) -> bool {
        self.known == Known::Drains
    }

    /// When it is asked next: not while it is being asked.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.is_asking).then_some(self.due)
    }

    /// Whether it is to be asked now, which then counts as begun.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.next().is_some_and(|due| due <= now);
        self.is_asking |= is_due;
        is_due
    }

    /// Takes an answer. The next question follows after `interval`. Returns what has changed, if anything has.
    pub(super) fn checked(&mut self, checked: &Checked, interval: Duration, now: Instant) -> Option<CheckChange> {
        self.is_asking = false;
        self.due = now + interval;
        let known = match (checked, checked.result()) {
            (_, CheckResult::Available) => Known::Takes,
            (_, CheckResult::Unavailable) => Known::Drains,
            (Checked::Status(status), _) => Known::Unusable(*status),
            (Checked::Unanswered(why), _) => {
                self.unanswered = self.unanswered.saturating_add(1);
                // What was said holds for a while: an evacuation is not over because of one lost packet.
                if self.unanswered < UNANSWERED_MAX || matches!(self.known, Known::Silent(_)) {
                    return None;
                }
                Known::Silent(why.as_str().into())
            }
        };
        if !matches!(checked, Checked::Unanswered(_)) {
            self.unanswered = 0;
        }
        let before = std::mem::replace(&mut self.known, known);
        match (&self.known, before) {
            (after, before) if *after == before => None,
            (Known::Drains, _) => Some(CheckChange::Drains),
            (Known::Takes, Known::Drains) => Some(CheckChange::Takes),
            (Known::Takes, Known::Nothing) | (Known::Nothing, _) => None,
            (Known::Takes, _) => Some(CheckChange::Usable),
            (Known::Unusable(status), _) => Some(CheckChange::Unusable(*status)),
            (Known::Silent(why), _) => Some(CheckChange::Silent(Arc::clone(why))),
        }
    }

    /// What operators are shown.
    pub(super) fn finding(&self) -> Finding {
        let (verdict, why) = match &self.known {
            Known::Nothing => (Verdict::Unknown, None),
            Known::Takes => (Verdict::Up, None),
            Known::Drains => (Verdict::Draining, Some("answered with 503".into())),
            Known::Unusable(status) => (Verdict::Unknown, Some(format!("answered with {status}").into())),
            Known::Silent(why) => (Verdict::Unknown, Some(Arc::clone(why))),
        };
        Finding {
            source: FindingSource::Api,
            endpoint: None,
            verdict,
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::NodeAddress;

    const INTERVAL: Duration = Duration::from_secs(5);

    fn check() -> (NodeCheck, Instant) {
        let now = Instant::now();
        let api = NodeApi {
            address: NodeAddress::Host("emqx1".into(), 18083),
            tls: None,
        };
        (NodeCheck::new(api, now), now)
    }

    fn silent() -> Checked {
        Checked::Unanswered("nobody there".into())
    }

    #[test]
    fn a_503_drains_until_a_200() {
        let (mut check, now) = check();
        assert_eq!(check.checked(&Checked::Status(200), INTERVAL, now), None);
        assert_eq!(
            check.checked(&Checked::Status(503), INTERVAL, now),
            Some(CheckChange::Drains)
        );
        assert!(check.drains());
        assert_eq!(check.checked(&Checked::Status(503), INTERVAL, now), None, "said once");
        assert_eq!(
            check.checked(&Checked::Status(200), INTERVAL, now),
            Some(CheckChange::Takes)
        );
        assert!(!check.drains());
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_said_once_and_drains_nothing() {
        for status in [301, 400, 401, 403, 404, 405, 500, 502] {
            let (mut check, now) = check();
            let change = check.checked(&Checked::Status(status), INTERVAL, now);
            assert_eq!(change, Some(CheckChange::Unusable(status)));
            assert_eq!(check.checked(&Checked::Status(status), INTERVAL, now), None);
            assert!(!check.drains());
            assert_eq!(check.finding().verdict, Verdict::Unknown);
            check.checked(&Checked::Status(503), INTERVAL, now);
            check.checked(&Checked::Status(status), INTERVAL, now);
            assert!(
                !check.drains(),
                "no drain lasts because the check has been closed: {status}"
            );
        }
    }

    #[test]
    fn silence_keeps_what_was_said_for_a_while_and_never_drains() {
        let (mut check, now) = check();
        for number in 1..10 {
            let change = check.checked(&silent(), INTERVAL, now);
            assert_eq!(change.is_some(), number == UNANSWERED_MAX, "{number}");
            assert!(!check.drains());
        }
        assert_eq!(
            check.checked(&Checked::Status(200), INTERVAL, now),
            Some(CheckChange::Usable)
        );
        check.checked(&Checked::Status(503), INTERVAL, now);
        check.checked(&silent(), INTERVAL, now);
        assert!(check.drains(), "one lost answer ends no evacuation");
        for _ in 0..UNANSWERED_MAX {
            check.checked(&silent(), INTERVAL, now);
        }
        assert!(!check.drains());
    }

    #[test]
    fn one_question_at_a_time_and_the_next_after_the_interval() {
        let (mut check, now) = check();
        assert!(check.is_due(now));
        assert!(!check.is_due(now + INTERVAL), "it is being asked");
        assert_eq!(check.next(), None);
        check.checked(&Checked::Status(200), INTERVAL, now);
        assert!(!check.is_due(now));
        assert_eq!(check.next(), Some(now + INTERVAL));
        assert!(check.is_due(now + INTERVAL));
    }
}
