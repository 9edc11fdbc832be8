//! The health of one endpoint: a state machine, to which every observation and the time are passed in.
//!
//! What clients meet only arouses suspicion, since a client may be its cause. A suspected endpoint is probed, and it goes
//! down when the probes fail too. Probes that fail while no client does are rather lost on the way, so that many of them must
//! fail in a row. An endpoint that is down is probed until it answers. One that is up may be probed at an interval, whether or
//! not clients complain.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Settings;
use crate::cluster::{Failure, Observed, ProbeResult, Witness};

/// How long after a failed probe of an endpoint that is still up the next one follows.
const PROBE_AGAIN: Duration = Duration::from_millis(50);

/// The most probes of one endpoint under way. They begin at an interval, whether or not the last one has an answer: that one may
/// be lost, or the endpoint may be answering again and never answer it.
const PROBES_MAX: u32 = 8;

/// The shortest time between two probes of an endpoint that answers them, however often clients arouse suspicion.
const SUSPICION_INTERVAL: Duration = Duration::from_secs(1);

/// The health of one of a node's endpoints.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// While it is down.
    down: Option<Down>,
    /// The clients that met a failure since it answered last, no two of them the same, and no more than count.
    witnesses: Vec<Witness>,
    /// Probes that failed since it answered last.
    failed_probes: u32,
    /// While it is down: answers since the last failure.
    answers: u32,
    /// When it is probed next, if there is a reason to.
    probe_at: Option<Instant>,
    /// When it is probed next although there is none.
    regular_at: Option<Instant>,
    /// The probes under way.
    probing: u32,
    /// When the last probe began.
    probed_at: Option<Instant>,
    /// When it answered last, after a failure.
    answered_at: Option<Instant>,
    /// When a client met a failure last, while it was up.
    suspected_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Down {
    since: Instant,
    /// The time between its last probe and the next.
    interval: Duration,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It went down.
    WentDown,
    /// It is up again.
    CameBack,
}

/// What an endpoint's health depends on beside the endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) settings: &'a Settings,
    /// Half of the nodes or more would be down with this one, so that clients do not count: the probes alone must fail as often
    /// as [`Settings::failures_max`] says.
    pub(crate) only_probes_count: bool,
    /// So many would be down with this one that probes alone do not count either: at least one client must have met a failure.
    pub(crate) must_be_confirmed: bool,
    /// It has answered a client or a probe before: probes alone must fail as often as [`Settings::fall`] says.
    pub(crate) has_answered: bool,
}

impl Health {
    /// Whether it gets no clients while another node does.
    pub(crate) fn is_down(&self) -> bool {
        self.down.is_some()
    }

    /// It is down from the start, as another process has found; it is probed at once.
    pub(super) fn begin_down(&mut self, settings: &Settings, now: Instant) {
        let interval = settings.down_min;
        self.down = Some(Down { since: now, interval });
        self.probe_at = Some(now);
    }

    /// How many different clients met a failure since it answered last: as many as count, at most.
    pub(super) fn witnesses(&self) -> usize {
        self.witnesses.len()
    }

    /// Takes an observation of the path.
    pub(crate) fn observe(&mut self, observed: Observed, rules: Rules<'_>, now: Instant) -> Option<Change> {
        match observed {
            Observed::Answered => self.answered(rules, now),
            // It is probed in any case.
            Observed::Failed(_) if self.is_down() => None,
            Observed::Failed(failure) => {
                if let Failure::Of(witness) = failure
                    && self.witnesses.len() < rules.settings.failures_max as usize
                    && !self.witnesses.iter().any(|known| known.is_same(&witness))
                {
                    self.witnesses.push(witness);
                }
                self.suspected_at = Some(now);
                self.suspect(now);
                self.judge(rules, now)
            }
        }
    }

    /// Has it probed soon.
    pub(crate) fn suspect(&mut self, now: Instant) {
        let at = match self.probed_at {
            Some(last) => now.max(last + SUSPICION_INTERVAL),
            None => now,
        };
        self.probe_at = Some(self.probe_at.map_or(at, |due| due.min(at)));
    }

    /// Whether a probe is to begin now, which then counts as under way.
    pub(crate) fn probe_is_due(&mut self, now: Instant) -> bool {
        let is_due = self.next_probe().is_some_and(|at| at <= now);
        if is_due {
            self.probing += 1;
            self.probed_at = Some(now);
            self.probe_at = Some(now + self.down.map_or(SUSPICION_INTERVAL, |down| down.interval));
            self.regular_at = None;
        }
        is_due
    }

    /// Has it probed at `at` if there is no other reason to before.
    pub(super) fn plan(&mut self, at: Instant) {
        if !self.is_planned() {
            self.regular_at = Some(at);
        }
    }

    /// Whether another probe follows in any case.
    pub(super) fn is_planned(&self) -> bool {
        self.is_in_question() || self.regular_at.is_some()
    }

    /// Whether probes have failed often enough to take it down, and it is up because too many others are not.
    pub(super) fn is_kept_up(&self, settings: &Settings) -> bool {
        !self.is_down() && self.failed_probes >= settings.fall
    }

    /// When the next probe is due.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        let regular_at = self.regular_at.filter(|_| !self.is_down());
        let due = [self.probe_at, regular_at].into_iter().flatten().min();
        due.filter(|_| self.probing < PROBES_MAX)
    }

    /// Whether a probe is under way or due.
    pub(crate) fn is_in_question(&self) -> bool {
        self.probing > 0 || self.probe_at.is_some()
    }

    /// Takes the result of the probe that began at `began`.
    pub(crate) fn probed(
        &mut self,
        probed: ProbeResult,
        began: Instant,
        rules: Rules<'_>,
        now: Instant,
    ) -> Option<Change> {
        self.probing -= 1;
        match probed {
            ProbeResult::Answered => {
                let change = self.answered(rules, now);
                // What a client has met since it was asked is not answered.
                if !self.is_down() && self.suspected_at.is_some_and(|suspected_at| began < suspected_at) {
                    self.suspect(now);
                }
                change
            }
            // It has answered since: what was asked before is as good as answered.
            ProbeResult::Failed if self.answered_at.is_some_and(|answered_at| began < answered_at) => None,
            ProbeResult::Failed => {
                // Those that were under way when it went down say nothing new.
                if let Some(down) = self.down.as_mut().filter(|down| began >= down.since) {
                    down.interval = (down.interval * 2).min(rules.settings.down_max);
                }
                self.failed_probes = self.failed_probes.saturating_add(1);
                self.answers = 0;
                let change = self.judge(rules, now);
                self.probe_again(now);
                change
            }
            ProbeResult::NotAsked => {
                self.probe_again(now);
                None
            }
        }
    }

    fn probe_again(&mut self, now: Instant) {
        let at = match (self.down, self.probed_at) {
            (Some(down), Some(last)) => now.max(last + down.interval),
            // No client has failed there: some lost packets in a row are not to look like a node that is gone.
            (None, Some(last)) if self.witnesses.is_empty() => now.max(last + SUSPICION_INTERVAL),
            _ => now + PROBE_AGAIN,
        };
        self.probe_at = Some(at);
    }

    fn answered(&mut self, rules: Rules<'_>, now: Instant) -> Option<Change> {
        self.answered_at = Some(now);
        self.answers = self.answers.saturating_add(1);
        if self.is_down() && self.answers < rules.settings.rise {
            // Probed again as before; every failure makes it begin anew.
            return None;
        }
        self.witnesses.clear();
        self.failed_probes = 0;
        self.answers = 0;
        self.probe_at = None;
        self.regular_at = None;
        self.down.take().map(|_| Change::CameBack)
    }

    /// Decides whether it goes down: only if a probe has failed as well.
    fn judge(&mut self, rules: Rules<'_>, now: Instant) -> Option<Change> {
        let Settings { failures_max, fall, .. } = *rules.settings;
        if self.is_down() || self.failed_probes == 0 {
            return None;
        }
        let is_enough = if self.witnesses.is_empty() {
            let most = if rules.has_answered {
                fall
            } else {
                failures_max.min(fall)
            };
            self.failed_probes >= most && !rules.must_be_confirmed
        } else {
            let clients = if rules.only_probes_count {
                0
            } else {
                self.witnesses.len() as u32
            };
            self.failed_probes.saturating_add(clients) >= failures_max
        };
        if !is_enough {
            return None;
        }
        let interval = rules.settings.down_min;
        self.down = Some(Down { since: now, interval });
        self.answers = 0;
        self.witnesses.clear();
        self.probe_at = self.probed_at.map(|last| last + interval);
        Some(Change::WentDown)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn rules(settings: &Settings) -> Rules<'_> {
        Rules {
            settings,
            only_probes_count: false,
            must_be_confirmed: false,
            has_answered: true,
        }
    }

    fn client(number: u8) -> Observed {
        let source = IpAddr::from([192, 0, 2, number]);
        Observed::Failed(Failure::Of(Witness {
            client_id: Some(number.into()),
            source,
        }))
    }

    /// An endpoint that this many probes have found dead.
    fn down(settings: &Settings, now: Instant) -> Health {
        let mut health = Health::default();
        let mut at = now;
        health.suspect(at);
        while !health.is_down() {
            at = health.next_probe().expect("in question");
            assert!(health.probe_is_due(at));
            health.probed(ProbeResult::Failed, at, rules(settings), at);
        }
        health
    }

    #[test]
    fn clients_alone_take_nothing_down_and_one_probe_beside_two_of_them_does() {
        let (settings, now) = (Settings::default(), Instant::now());
        let mut health = Health::default();
        for number in 0..100 {
            assert_eq!(health.observe(client(number), rules(&settings), now), None);
        }
        assert!(health.probe_is_due(now));
        assert_eq!(health.probed(ProbeResult::Answered, now, rules(&settings), now), None);
        assert!(!health.is_in_question(), "all of it is forgotten");
        for number in 0..2 {
            assert_eq!(health.observe(client(number), rules(&settings), now), None);
        }
        let at = health.next_probe().expect("asked again");
        assert_eq!(at, now + SUSPICION_INTERVAL);
        assert!(health.probe_is_due(at));
        let change = health.probed(ProbeResult::Failed, at, rules(&settings), at);
        assert_eq!(change, Some(Change::WentDown));
    }

    #[test]
    fn a_client_that_comes_while_probes_fail_counts_at_once() {
        let (settings, now) = (Settings::default(), Instant::now());
        let mut health = Health::default();
        health.observe(client(1), rules(&settings), now);
        assert!(health.probe_is_due(now));
        assert_eq!(health.probed(ProbeResult::Failed, now, rules(&settings), now), None);
        let change = health.observe(client(2), rules(&settings), now);
        assert_eq!(change, Some(Change::WentDown));
    }

    #[test]
    fn one_id_or_one_source_counts_once_and_a_suspicion_does_not_count() {
        let (settings, now) = (Settings::default(), Instant::now());
        let seen = |client_id, last| {
            let source = IpAddr::from([192, 0, 2, last]);
            Observed::Failed(Failure::Of(Witness { client_id, source }))
        };
        let mut health = Health::default();
        for observed in [
            seen(Some(1), 1),
            seen(Some(1), 2),
            seen(Some(2), 1),
            seen(None, 1),
            Observed::Failed(Failure::Suspected),
        ] {
            health.observe(observed, rules(&settings), now);
        }
        assert!(health.probe_is_due(now));
        assert_eq!(health.probed(ProbeResult::Failed, now, rules(&settings), now), None);
        assert!(!health.is_down());
    }

    #[test]
    fn beyond_half_of_the_nodes_only_probes_count() {
        let (settings, mut now) = (Settings::default(), Instant::now());
        let rules = Rules {
            settings: &settings,
            only_probes_count: true,
            must_be_confirmed: false,
            has_answered: true,
        };
        let mut health = Health::default();
        for number in 0..100 {
            health.observe(client(number), rules, now);
        }
        for failed in 1..=settings.failures_max {
            now = health.next_probe().expect("in question");
            assert!(health.probe_is_due(now));
            let change = health.probed(ProbeResult::Failed, now, rules, now);
            let expected = (failed == settings.failures_max).then_some(Change::WentDown);
            assert_eq!(change, expected, "{failed}");
        }
    }

    #[test]
    fn one_that_is_down_is_probed_ever_more_rarely_until_it_answers() {
        let settings = Settings {
            down_max: Duration::from_secs(5),
            ..Settings::default()
        };
        let mut health = down(&settings, Instant::now());
        for seconds in [1, 2, 4, 5, 5] {
            let began = health.probed_at.expect("a probe");
            let due = health.next_probe().expect("another one");
            assert_eq!(due - began, Duration::from_secs(seconds));
            // What clients meet meanwhile changes nothing.
            assert_eq!(health.observe(client(1), rules(&settings), due), None);
            assert_eq!(health.next_probe(), Some(due));
            assert!(health.probe_is_due(due));
            assert!(!health.probe_is_due(due), "not before its time");
            assert_eq!(health.probed(ProbeResult::Failed, due, rules(&settings), due), None);
        }
        let due = health.next_probe().expect("another one");
        assert!(health.probe_is_due(due));
        let change = health.probed(ProbeResult::Answered, due, rules(&settings), due);
        assert_eq!(change, Some(Change::CameBack));
        assert!(!health.is_down() && !health.is_in_question());
    }

    #[test]
    fn probes_without_an_answer_hold_up_no_other_and_say_nothing_once_one_is_answered() {
        let settings = Settings::default();
        let mut health = down(&settings, Instant::now());
        let mut began = Vec::new();
        while let Some(due) = health.next_probe() {
            assert!(health.probe_is_due(due));
            began.push(due);
        }
        assert_eq!(began.len(), PROBES_MAX as usize);
        assert!(began.is_sorted_by(|a, b| *b - *a == settings.down_min), "{began:?}");
        let now = began.pop().expect("a probe");
        let change = health.probed(ProbeResult::Answered, now, rules(&settings), now);
        assert_eq!(change, Some(Change::CameBack));
        for began in began {
            assert_eq!(health.probed(ProbeResult::Failed, began, rules(&settings), now), None);
        }
        assert!(!health.is_down() && !health.is_in_question());
    }

    #[test]
    fn an_answer_to_a_client_brings_an_endpoint_back() {
        let settings = Settings::default();
        let now = Instant::now();
        let mut health = down(&settings, now);
        let change = health.observe(Observed::Answered, rules(&settings), now);
        assert_eq!(change, Some(Change::CameBack));
        assert!(!health.is_down() && !health.is_in_question());
    }

    #[test]
    fn what_this_process_could_not_ask_takes_nothing_down() {
        let (settings, mut now) = (Settings::default(), Instant::now());
        let mut health = Health::default();
        health.observe(client(1), rules(&settings), now);
        for _ in 0..100 {
            now = health.next_probe().expect("asked again");
            assert!(health.probe_is_due(now));
            assert_eq!(health.probed(ProbeResult::NotAsked, now, rules(&settings), now), None);
        }
        assert!(!health.is_down());
    }

    #[test]
    fn beyond_the_share_probes_alone_take_nothing_down_and_one_client_beside_them_does() {
        let (settings, mut now) = (Settings::default(), Instant::now());
        let rules = Rules {
            settings: &settings,
            only_probes_count: true,
            must_be_confirmed: true,
            has_answered: true,
        };
        let mut health = Health::default();
        health.suspect(now);
        for _ in 0..100 {
            now = health.next_probe().expect("asked again");
            assert!(health.probe_is_due(now));
            assert_eq!(health.probed(ProbeResult::Failed, now, rules, now), None);
        }
        assert!(health.is_kept_up(&settings));
        assert_eq!(health.observe(client(1), rules, now), Some(Change::WentDown));
        assert!(!health.is_kept_up(&settings));
    }

    #[test]
    fn one_that_is_down_is_up_after_as_many_answers_in_a_row_as_the_settings_say() {
        let settings = Settings {
            rise: 3,
            ..Settings::default()
        };
        let mut health = down(&settings, Instant::now());
        let results = [true, true, false, true, true, true];
        for (number, answers) in results.into_iter().enumerate() {
            let due = health.next_probe().expect("another one");
            assert!(health.probe_is_due(due));
            let probed = match answers {
                true => ProbeResult::Answered,
                false => ProbeResult::Failed,
            };
            let change = health.probed(probed, due, rules(&settings), due);
            assert_eq!(change.is_some(), number + 1 == results.len(), "{number}");
        }
        assert!(!health.is_down() && !health.is_in_question());
    }

    #[test]
    fn a_planned_probe_waits_for_its_time_and_gives_way_to_one_with_a_reason() {
        let (settings, now) = (Settings::default(), Instant::now());
        let later = now + Duration::from_secs(60);
        let mut health = Health::default();
        health.plan(later);
        assert!(!health.is_in_question() && health.is_planned());
        assert_eq!(health.next_probe(), Some(later));
        health.suspect(now);
        assert!(health.probe_is_due(now));
        assert_eq!(health.probed(ProbeResult::Answered, now, rules(&settings), now), None);
        assert_eq!(health.next_probe(), None, "to be planned anew");
    }

    #[test]
    fn without_a_client_that_fails_many_probes_a_second_apart_must_fail() {
        let (settings, now) = (Settings::default(), Instant::now());
        for (has_answered, most) in [(true, settings.fall), (false, settings.failures_max)] {
            let rules = Rules {
                has_answered,
                ..rules(&settings)
            };
            let mut health = Health::default();
            health.plan(now);
            let mut due = now;
            for _ in 0..most {
                assert!(!health.is_down());
                due = health.next_probe().expect("another one");
                assert!(health.probe_is_due(due));
                health.probed(ProbeResult::Failed, due, rules, due);
            }
            assert!(health.is_down());
            assert_eq!(due - now, SUSPICION_INTERVAL * (most - 1));
        }
    }

    #[test]
    fn a_probe_that_is_lost_holds_up_no_other_and_any_answer_makes_up_for_all_before_it() {
        let (settings, now) = (Settings::default(), Instant::now());
        let mut health = Health::default();
        health.suspect(now);
        let mut began = Vec::new();
        while let Some(due) = health.next_probe() {
            assert!(health.probe_is_due(due));
            began.push(due);
        }
        assert_eq!(began.len(), PROBES_MAX as usize);
        assert!(began.is_sorted_by(|a, b| *b - *a == SUSPICION_INTERVAL), "{began:?}");
        let last = began.pop().expect("a probe");
        health.probed(ProbeResult::Failed, began.remove(0), rules(&settings), last);
        health.probed(ProbeResult::Answered, last, rules(&settings), last);
        for began in began {
            health.probed(ProbeResult::Failed, began, rules(&settings), last);
        }
        assert_eq!(health.failed_probes, 0);
        assert!(!health.is_in_question());
    }

    #[test]
    fn an_answer_to_an_older_probe_does_not_settle_a_newer_failure() {
        let (settings, now) = (Settings::default(), Instant::now());
        let later = now + SUSPICION_INTERVAL / 2;
        let mut health = Health::default();
        health.suspect(now);
        assert!(health.probe_is_due(now));
        health.observe(Observed::Failed(Failure::Suspected), rules(&settings), later);
        health.probed(ProbeResult::Answered, now, rules(&settings), later);
        assert_eq!(health.next_probe(), Some(now + SUSPICION_INTERVAL));
        assert!(health.probe_is_due(now + SUSPICION_INTERVAL));
        health.probed(ProbeResult::Answered, now + SUSPICION_INTERVAL, rules(&settings), later);
        assert!(!health.is_in_question());
    }

    #[test]
    fn probes_under_way_when_it_goes_down_do_not_put_off_the_next() {
        let settings = Settings {
            down_max: Duration::from_secs(60),
            ..Settings::default()
        };
        let now = Instant::now();
        let mut health = Health::default();
        health.observe(client(1), rules(&settings), now);
        let mut began = Vec::new();
        while let Some(due) = health.next_probe() {
            assert!(health.probe_is_due(due));
            began.push(due);
        }
        let last = *began.last().expect("a probe");
        for began in began {
            health.probed(
                ProbeResult::Failed,
                began,
                rules(&settings),
                last + Duration::from_millis(1),
            );
        }
        assert!(health.is_down());
        assert_eq!(health.next_probe(), Some(last + settings.down_min));
    }
}
