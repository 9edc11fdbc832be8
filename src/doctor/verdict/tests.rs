use super::*;

const SLOW: Duration = Duration::from_millis(500);

/// A cluster in which everything arrives within a millisecond, but for what `became` says of a message.
fn report(count: usize, became: impl Fn(usize, usize, Qos, u32) -> Option<Duration>) -> RouteReport {
    let nodes: Vec<Arc<str>> = (1..=count).map(|number| format!("emqx{number}").into()).collect();
    let mut routes = Matrix::new(nodes.clone());
    for from in 0..count {
        for to in 0..count {
            for qos in Qos::ALL {
                for number in 0..10 {
                    routes.note(from, to, qos, became(from, to, qos, number));
                }
            }
        }
    }
    RouteReport {
        nodes_in_all: count,
        troubles: vec![None; count],
        nodes,
        routes,
        retained: None,
        shared: None,
        took: Duration::ZERO,
    }
}

fn open(is_open: bool) -> Option<Duration> {
    is_open.then_some(Duration::from_millis(1))
}

/// A report in which messages of each pair arrive, or none.
fn with_ways(count: usize, ways: impl Fn(usize, usize) -> bool) -> RouteReport {
    report(count, |from, to, _, _| open(ways(from, to)))
}

fn found(report: &RouteReport) -> Vec<(Code, Vec<String>, String)> {
    let findings = verdict(report, SLOW).findings.into_iter();
    findings
        .map(|finding| (finding.code, finding.subjects, finding.found))
        .collect()
}

fn codes(report: &RouteReport) -> Vec<Code> {
    found(report).into_iter().map(|(code, _, _)| code).collect()
}

#[test]
fn a_sound_cluster_of_any_size_has_no_finding() {
    for count in 1..=16 {
        assert_eq!(codes(&with_ways(count, |_, _| true)), [], "{count}");
    }
}

#[test]
fn nodes_that_are_not_joined_are_named_part_by_part() {
    let report = with_ways(3, |from, to| (from == 2) == (to == 2));
    let findings = found(&report);
    let [(code, subjects, words)] = &findings[..] else {
        panic!("{findings:?}");
    };
    assert_eq!(*code, Code::NodesNotJoined);
    assert_eq!(subjects[..], ["emqx1", "emqx2", "emqx3"]);
    assert!(words.starts_with("emqx1, emqx2 | emqx3 are 2 clusters"), "{words}");
    let apart = found(&with_ways(3, |from, to| from == to));
    assert!(
        apart[0].2.starts_with("emqx1 | emqx2 | emqx3 are 3 clusters"),
        "{apart:?}"
    );
}

#[test]
fn one_direction_is_not_two_clusters() {
    let findings = found(&with_ways(2, |from, to| from <= to));
    assert_eq!(findings.len(), 1, "{findings:?}");
    let (code, _, words) = &findings[0];
    assert_eq!(*code, Code::OneWayRouting);
    assert!(words.starts_with("nothing arrives from emqx2 at emqx1"), "{words}");
}

#[test]
fn a_node_that_delivers_nothing_is_named_and_splits_no_cluster() {
    let deaf = found(&with_ways(3, |_, to| to != 1));
    assert_eq!(deaf.len(), 1, "{deaf:?}");
    assert_eq!(
        (deaf[0].0, &deaf[0].1[..]),
        (Code::NodeRoutesNothing, &["emqx2".to_owned()][..])
    );
    assert!(deaf[0].2.contains("arrives at other nodes"), "{deaf:?}");
    let dead = found(&with_ways(3, |from, to| from != 1 && to != 1));
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert!(dead[0].2.ends_with("delivers nothing"), "{dead:?}");
}

#[test]
fn a_topic_that_no_node_delivers_is_forbidden_rather_than_lost() {
    let report = with_ways(3, |_, _| false);
    assert_eq!(codes(&report), [Code::TopicForbidden]);
    assert_eq!(verdict(&report, SLOW).findings[0].certainty, Certainty::Likely);
    let lonely = with_ways(1, |_, _| false);
    assert_eq!(codes(&lonely), [Code::NodeRoutesNothing]);
}

#[test]
fn one_lost_message_of_qos_0_is_no_finding_and_one_of_qos_1_is() {
    let lost = |which: Qos, count: u32| {
        report(2, move |from, to, qos, number| {
            open((from, to, qos) != (0, 1, which) || number >= count)
        })
    };
    assert_eq!(codes(&lost(Qos::Zero, 1)), []);
    let some = found(&lost(Qos::Zero, 2));
    assert_eq!(some[0].0, Code::MessagesLost);
    let words = "from emqx1 to emqx2, 10 % of the messages are lost (2 of 10 with QoS 0, 0 of 10 with QoS 1)";
    assert_eq!(some[0].2, words);
    assert_eq!(codes(&lost(Qos::One, 1)), [Code::MessagesLost]);
}

#[test]
fn two_nodes_that_reach_each_other_only_through_the_rest_lose_messages() {
    let report = with_ways(3, |from, to| from.abs_diff(to) < 2);
    let findings = found(&report);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].0, Code::MessagesLost);
    assert!(findings[0].2.contains("100 %"), "{findings:?}");
}

#[test]
fn a_link_is_slow_if_more_than_a_tenth_of_its_messages_are_late() {
    // Of 20 messages.
    let with = |late: u32, qos: &'static [Qos]| {
        report(2, move |from, _, of, number| {
            let is_late = from == 0 && qos.contains(&of) && number < late;
            Some(Duration::from_millis(if is_late { 900 } else { 1 }))
        })
    };
    assert_eq!(codes(&with(2, &[Qos::Zero])), []);
    assert_eq!(codes(&with(1, &Qos::ALL)), []);
    for report in [with(3, &[Qos::Zero]), with(3, &[Qos::One]), with(6, &Qos::ALL)] {
        assert_eq!(codes(&report), [Code::SlowRouting]);
    }
    let words = &found(&with(3, &[Qos::One]))[0].2;
    let expected = "from emqx1 to emqx2, 3 of 20 messages take longer than 500 ms: half of them arrive within 1.0 ms, 99 % within 900 ms";
    assert!(words.contains(expected), "{words}");
}

#[test]
fn one_late_message_of_a_short_check_is_no_finding() {
    let mut report = with_ways(2, |_, _| true);
    report.routes = Matrix::new(report.nodes.clone());
    let mut late = |count: u32| {
        for number in 0..4 {
            let time = if number < count { 900 } else { 1 };
            report.routes.note(0, 1, Qos::One, Some(Duration::from_millis(time)));
        }
        is_slow(&report.routes.both(0, 1), SLOW)
    };
    assert!(!late(1), "one of four");
    assert!(late(2), "three of eight");
}

#[test]
fn what_a_node_forbids_or_leaves_unanswered_is_named_for_what_it_is() {
    let mut report = with_ways(3, |_, _| true);
    report.routes = Matrix::new(report.nodes.clone());
    report.troubles = vec![
        Some(Trouble::Forbidden(Action::Subscribe, 0x87)),
        Some(Trouble::Forbidden(Action::Subscribe, 0x87)),
        Some(Trouble::Stalled(Action::Publish)),
    ];
    let findings = found(&report);
    let codes: Vec<_> = findings.iter().map(|(code, _, _)| *code).collect();
    assert_eq!(codes, [Code::TopicForbidden, Code::NodeStalls]);
    assert_eq!(findings[0].1, ["emqx1", "emqx2"], "one finding for both");
    assert!(findings[0].2.contains("SUBACK with code 0x87"), "{findings:?}");
    report.troubles = vec![
        Some(Trouble::Limited(0x97)),
        Some(Trouble::Ended("reset".to_owned())),
        Some(Trouble::NotReached(NotReached::CouldNotLook(
            "no descriptor".to_owned(),
        ))),
    ];
    let verdict = verdict(&report, SLOW);
    let codes: Vec<_> = verdict.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, [Code::ProbeLimited, Code::ConnectionLost]);
    assert_eq!(verdict.could_not_look, ["no descriptor"]);
}

#[test]
fn retained_messages_are_missed_only_where_some_are_kept() {
    let with = |kept: fn(usize, usize) -> bool| {
        let mut report = with_ways(2, |_, _| true);
        let mut retained = Matrix::new(report.nodes.clone());
        for from in 0..2 {
            for to in 0..2 {
                retained.note(from, to, Qos::One, open(kept(from, to)));
            }
        }
        report.retained = Some(retained);
        codes(&report)
    };
    assert_eq!(with(|_, _| true), []);
    assert_eq!(with(|_, _| false), []);
    assert_eq!(with(|from, to| from == to), [Code::RetainedNotShared]);
}

#[test]
fn copies_of_shared_messages_are_found_and_losses_only_on_sound_routes() {
    let row = |once, several| Shared { sent: 5, once, several };
    let with = |rows: [Shared; 2], is_sound: bool| {
        let mut report = with_ways(2, move |from, to| is_sound || from == to);
        report.shared = Some(rows.to_vec());
        codes(&report)
    };
    assert_eq!(with([row(5, 0), row(5, 0)], true), []);
    assert_eq!(with([row(3, 2), row(5, 0)], true), [Code::SharedNotOnce]);
    assert_eq!(with([row(4, 0), row(5, 0)], true), [Code::SharedNotOnce]);
    assert_eq!(with([row(4, 0), row(5, 0)], false), [Code::NodesNotJoined]);
}

#[test]
fn what_a_subscriber_misses_after_a_restart_is_told_by_publisher() {
    let report = |counts: [u32; 3]| FrontReport {
        restarts: 3,
        received: [THROUGH, "emqx1", "emqx2"]
            .map(str::to_owned)
            .into_iter()
            .zip(counts)
            .collect(),
        trouble: None,
    };
    assert_eq!(front_verdict("mqtt://lb", &report([3, 3, 3])), Verdict::default());
    let verdict = front_verdict("mqtt://lb", &report([3, 3, 0]));
    let found = "messages were received through the balancer after 3 of 3 restarts, from emqx1 after 3 of 3 restarts, \
                 from emqx2 after 0 of 3 restarts";
    assert_eq!(verdict.findings[0].found, found);
    assert_eq!(verdict.findings[0].code, Code::LostAfterRestart);
    let refused = FrontReport {
        trouble: Some(FrontTrouble::Forbidden(0x87)),
        ..FrontReport::default()
    };
    assert_eq!(
        front_verdict("mqtt://lb", &refused).findings[0].code,
        Code::FrontForbidden
    );
}
