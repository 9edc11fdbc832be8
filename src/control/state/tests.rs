use super::*;
use crate::cluster::{Failure, NodeState, Witness};

fn host(name: &str, weight: u16) -> Member {
    let address = NodeAddress::Host(format!("{name}.example"), 1883);
    member(name, address, weight)
}

fn socket(name: &str, port: u16, weight: u16) -> Member {
    let address = NodeAddress::Socket(SocketAddr::from(([127, 0, 0, 1], port)));
    member(name, address, weight)
}

fn member(name: &str, address: NodeAddress, weight: u16) -> Member {
    Member {
        name: name.to_owned(),
        endpoints: Endpoints::only(MemberEndpoint::plain(address)),
        api: None,
        weight,
        connects_per_second: None,
        connections_max: None,
    }
}

fn state(members: &[Member]) -> State {
    State::new(members, 1, Instant::now())
}

fn node<'a>(cluster: &'a Cluster, name: &str) -> &'a Node {
    let mut nodes = cluster.nodes().iter();
    nodes.find(|node| &*node.name == name).expect("a node of this name")
}

fn share(cluster: &Cluster, name: &str) -> f64 {
    let place = cluster.nodes().iter().position(|node| &*node.name == name);
    cluster.ring().shares()[place.expect("a node of this name")]
}

/// Everything that a reader can see of a cluster.
fn shown(cluster: &Cluster) -> String {
    format!(
        "{:?} {:?} {:?}",
        cluster.nodes(),
        cluster.all_known(),
        cluster.ring().shares()
    )
}

fn passive(state: &State, name: &str) -> Arc<PassiveHealth> {
    Arc::clone(&node(&state.snapshot(), name).endpoints.mqtt.passive)
}

/// A client meets a failure at the node's MQTT endpoint.
fn fail(state: &mut State, name: &str, now: Instant) {
    let report = Report {
        node: node(&state.snapshot(), name).id,
        passive: passive(state, name),
        observed: Observed::Failed(Failure::Suspected),
    };
    assert_eq!(state.observe(&report, &Settings::default(), now), None);
}

fn unanswered() -> Result<(), Unanswered> {
    Err(Unanswered {
        was_asked: true,
        address: None,
        why: "it is gone".to_owned(),
    })
}

/// A client meets a failure, and probes fail until the node is down. Returns how many, and when the last was.
fn take_down(state: &mut State, name: &str, mut now: Instant) -> (u32, Instant) {
    fail(state, name, now);
    let passive = passive(state, name);
    for probes in 1.. {
        now = state.next_deadline().expect("a probe");
        assert_eq!(&*state.due_probes(now)[0].node, name);
        if let Some(changed) = state.probed(&passive, &unanswered(), now, &Settings::default(), now) {
            assert_eq!(changed.change, Change::WentDown);
            assert_eq!(changed.unanswered.expect("a probe failed").why, "it is gone");
            return (probes, now);
        }
    }
    unreachable!("some number of probes is enough");
}

#[test]
fn the_same_state_gives_the_same_snapshot() {
    let members = [host("a", 100), socket("b", 1, 200), socket("c", 2, 100)];
    let mut state = state(&members);
    let now = Instant::now();
    let resolved = NodeAddress::Host("a.example".into(), 1883);
    state.due_lookups(Duration::from_secs(30), now);
    state.resolved(NodeId(0), &resolved, Some(&[SocketAddr::from(([10, 0, 0, 1], 1883))]));
    take_down(&mut state, "b", now);
    let a = node(&state.snapshot(), "a").id;
    state.wish(a, Wish::Draining, now).expect("a node");
    state.wish(a, Wish::Weight(Some(50)), now).expect("a node");
    let first = state.snapshot();
    assert_eq!(shown(&first), shown(&state.snapshot()));
    assert!(node(&first, "a").is_draining);
    assert_eq!(node(&first, "a").weight, 50);
    assert!(node(&first, "b").endpoints.mqtt.is_down);
    // Nothing that has been published changes with the state.
    let before = shown(&first);
    state.wish(a, Wish::Up, now).expect("a node");
    state.wish(a, Wish::Weight(None), now).expect("a node");
    assert_eq!(shown(&first), before);
}

#[test]
fn a_reload_keeps_wishes_addresses_and_health() {
    let mut state = state(&[host("a", 100), socket("b", 1, 100)]);
    let now = Instant::now();
    let (a, b) = (NodeId(0), NodeId(1));
    let addresses = [SocketAddr::from(([10, 0, 0, 1], 1883))];
    let asked = NodeAddress::Host("a.example".into(), 1883);
    assert_eq!(state.due_lookups(Duration::from_secs(30), now), [(a, asked.clone())]);
    state.resolved(a, &asked, Some(&addresses));
    take_down(&mut state, "b", now);
    state.wish(a, Wish::Draining, now).expect("a node");
    state.wish(b, Wish::Weight(Some(10)), now).expect("a node");
    let changes = state.reconfigure(&[socket("c", 2, 100), socket("b", 1, 300), host("a", 100)], now);
    assert_eq!(changes.added.len(), 1);
    assert!(changes.moved.is_empty() && changes.removed.is_empty());
    let cluster = state.snapshot();
    assert!(node(&cluster, "a").is_draining);
    assert_eq!(*node(&cluster, "a").endpoints.mqtt.addresses, addresses);
    assert!(node(&cluster, "b").endpoints.mqtt.is_down);
    assert_eq!(node(&cluster, "b").weight, 10, "the wish overrides the configuration");
    state.wish(b, Wish::Weight(None), now).expect("a node");
    assert_eq!(node(&state.snapshot(), "b").weight, 300);
}

#[test]
fn a_node_that_comes_back_has_its_id_and_no_wish() {
    let now = Instant::now();
    let both = [socket("a", 1, 100), socket("b", 2, 100)];
    let mut state = state(&both);
    let b = node(&state.snapshot(), "b").id;
    state.wish(b, Wish::Draining, now).expect("a node");
    let changes = state.reconfigure(&both[..1], now);
    assert_eq!(changes.removed, [(b, Arc::from("b"))]);
    assert_eq!(state.wish(b, Wish::Up, now), Err(WishError::UnknownNode));
    assert_eq!(state.snapshot().known(b).map(|known| &*known.name), Some("b"));
    state.reconfigure(&both, now);
    let cluster = state.snapshot();
    assert_eq!(node(&cluster, "b").id, b);
    assert!(!node(&cluster, "b").is_draining);
}

#[test]
fn an_endpoint_that_moves_begins_anew() {
    let now = Instant::now();
    let mut state = state(&[socket("a", 1, 100)]);
    take_down(&mut state, "a", now);
    let before = state.snapshot();
    let changes = state.reconfigure(&[socket("a", 2, 100)], now);
    assert_eq!(changes.moved.len(), 1);
    let after = state.snapshot();
    let passive = |cluster: &Cluster| Arc::clone(&node(cluster, "a").endpoints.mqtt.passive);
    assert!(!Arc::ptr_eq(&passive(&before), &passive(&after)));
    assert!(!node(&after, "a").endpoints.mqtt.is_down);
}

#[test]
fn a_weight_override_changes_the_shares() {
    let mut state = state(&[socket("a", 1, 100), socket("b", 2, 100)]);
    let a = node(&state.snapshot(), "a").id;
    assert!((share(&state.snapshot(), "a") - 0.5).abs() < 0.02);
    state.wish(a, Wish::Weight(Some(300)), Instant::now()).expect("a node");
    assert!((share(&state.snapshot(), "a") - 0.75).abs() < 0.02);
    state.wish(a, Wish::Weight(None), Instant::now()).expect("a node");
    assert!((share(&state.snapshot(), "a") - 0.5).abs() < 0.02);
}

#[test]
fn a_weight_out_of_range_is_refused_and_changes_nothing() {
    let mut state = state(&[socket("a", 1, 100)]);
    let before = shown(&state.snapshot());
    for weight in [0, 1_001, u16::MAX] {
        assert_eq!(
            state.wish(NodeId(0), Wish::Weight(Some(weight)), Instant::now()),
            Err(WishError::Weight)
        );
    }
    assert_eq!(
        state.wish(NodeId(7), Wish::Draining, Instant::now()),
        Err(WishError::UnknownNode)
    );
    assert_eq!(shown(&state.snapshot()), before);
}

#[test]
fn weights_add_up_to_no_more_than_a_ring_is_built_for() {
    assert_eq!(check_weight(400, WEIGHTS_MAX - 400), Ok(()));
    assert_eq!(check_weight(401, WEIGHTS_MAX - 400), Err(WishError::WeightSum));
    assert_eq!(check_weight(0, 0), Err(WishError::Weight));
}

#[test]
fn each_change_of_what_a_name_resolves_to_is_told_once_and_an_old_answer_is_none() {
    let now = Instant::now();
    let mut state = state(&[host("a", 100)]);
    let asked = NodeAddress::Host("a.example".into(), 1883);
    let addresses = [SocketAddr::from(([10, 0, 0, 1], 1883))];
    let resolved = |state: &mut State, addresses: Option<&[SocketAddr]>| {
        let (name, resolved) = state.resolved(NodeId(0), &asked, addresses)?;
        assert_eq!(&*name, "a");
        Some(resolved)
    };
    assert_eq!(resolved(&mut state, None), Some(Resolved::Nowhere));
    assert_eq!(resolved(&mut state, None), None, "it was said");
    assert_eq!(resolved(&mut state, Some(&addresses)), Some(Resolved::Changed));
    assert_eq!(resolved(&mut state, Some(&addresses)), None);
    assert_eq!(resolved(&mut state, None), Some(Resolved::Kept));
    assert_eq!(resolved(&mut state, None), None, "it was said");
    assert_eq!(resolved(&mut state, Some(&addresses)), Some(Resolved::Again));
    assert_eq!(resolved(&mut state, Some(&addresses)), None);
    state.reconfigure(&[socket("a", 1, 100)], now);
    assert_eq!(resolved(&mut state, Some(&addresses)), None);
}

#[test]
fn a_node_without_an_address_is_down_as_operators_see_it() {
    let mut state = state(&[host("a", 100)]);
    let seen = |state: &State| {
        let snapshot = state.snapshot();
        let node = node(&snapshot, "a");
        node.state_of(&node.endpoints.mqtt)
    };
    assert_eq!(seen(&state), NodeState::Down);
    let asked = NodeAddress::Host("a.example".into(), 1883);
    state.resolved(NodeId(0), &asked, Some(&[SocketAddr::from(([10, 0, 0, 1], 1883))]));
    assert_eq!(seen(&state), NodeState::Up);
}

#[test]
fn a_failure_brings_the_next_look_up_forward() {
    let now = Instant::now();
    let mut state = State::new(&[host("a", 100)], 1, now);
    let interval = Duration::from_secs(30);
    let due = state.due_lookups(interval, now);
    assert_eq!(state.next_deadline(), None, "the first look-up is under way");
    state.resolved(due[0].0, &due[0].1, None);
    assert_eq!(state.next_deadline(), Some(now + interval));
    fail(&mut state, "a", now);
    state.due_probes(now);
    assert_eq!(state.next_deadline(), Some(now + LOOKUP_AFTER_FAILURE_MIN));
}

#[test]
fn one_look_up_of_an_endpoint_is_under_way_at_a_time() {
    let now = Instant::now();
    let mut state = State::new(&[host("a", 100)], 1, now);
    let interval = Duration::from_secs(30);
    let due = state.due_lookups(interval, now);
    assert_eq!(due.len(), 1);
    // A resolver that hangs, and clients that fail meanwhile.
    let later = now + 3 * interval;
    fail(&mut state, "a", later);
    assert_eq!(state.due_lookups(interval, later), []);
    state.resolved(due[0].0, &due[0].1, None);
    assert_eq!(state.due_lookups(interval, later), due);
}

#[test]
fn a_client_counts_no_longer_when_half_of_the_nodes_are_down() {
    let mut now = Instant::now();
    let mut state = state(&[
        socket("a", 1, 100),
        socket("b", 2, 100),
        socket("c", 3, 100),
        socket("d", 4, 100),
    ]);
    let settings = Settings::default();
    let witness = |last| Witness {
        client_id: None,
        source: [192, 0, 2, last].into(),
    };
    let mut probes = Vec::new();
    for (name, at) in ["a", "b", "c"].into_iter().zip(1..) {
        let passive = passive(&state, name);
        for client in [1, 2] {
            let report = Report {
                node: node(&state.snapshot(), name).id,
                passive: Arc::clone(&passive),
                observed: Observed::Failed(Failure::Of(witness(client))),
            };
            assert_eq!(state.observe(&report, &settings, now), None, "{at}");
        }
        let mut failed = 0;
        while !node(&state.snapshot(), name).endpoints.mqtt.is_down {
            now = state.next_deadline().expect("a probe");
            for target in state.due_probes(now) {
                failed += u32::from(&*target.node == name);
                state.probed(&target.endpoint.passive, &unanswered(), now, &settings, now);
            }
        }
        probes.push(failed);
    }
    assert_eq!(probes, [1, 1, settings.failures_max]);
}

#[test]
fn one_that_has_never_answered_is_probed_when_somebody_asks() {
    let now = Instant::now();
    let mut state = state(&[socket("a", 1, 100), host("b", 100)]);
    assert!(state.due_probes(now).is_empty());
    state.ask_unknown(now);
    assert!(state.has_unknown_in_question());
    let due = state.due_probes(now);
    assert_eq!(due.len(), 1, "the other one has no address");
    assert!(state.has_unknown_in_question(), "it is under way");
    assert_eq!(
        state.probed(&due[0].endpoint.passive, &Ok(()), now, &Settings::default(), now),
        None
    );
    assert!(!state.has_unknown_in_question());
    assert_eq!(state.snapshot().answering(EndpointKind::Mqtt).count(), 1);
    state.ask_unknown(now);
    assert!(state.due_probes(now).is_empty(), "it is known");
}

/// Since when the node's rate rises; `None` if it does not.
fn slow_start(state: &State, name: &str) -> Option<SlowStart> {
    node(&state.snapshot(), name).connect_rate.expect("a rate").slow_start
}

#[test]
fn a_node_that_has_come_back_starts_slowly_and_no_other_one_does() {
    let members = [socket("a", 1, 100), socket("b", 2, 100)];
    let mut state = state(&members);
    let pacing = Pacing {
        connects_per_second: Some(200),
        slow_start: Duration::from_secs(20),
    };
    state.set_pacing(pacing);
    let begins = |at| {
        Some(SlowStart {
            since: clock::since_start(at),
            length: pacing.slow_start,
        })
    };
    assert_eq!(
        slow_start(&state, "a"),
        None,
        "not where the balancer itself has started"
    );
    let (_, down) = take_down(&mut state, "a", Instant::now());
    let now = Duration::from_secs(1);
    let take = |state: &State, latest| {
        let a = node(&state.snapshot(), "a").clone();
        a.load.connects.take(a.connect_rate.expect("a rate"), now, latest)
    };
    (0..50).for_each(|_| assert!(take(&state, Duration::MAX).is_some()));
    assert_eq!(take(&state, now), None, "many wait for it");
    let back = down + Duration::from_secs(3);
    let passive = passive(&state, "a");
    state.due_probes(back);
    let changed = state.probed(&passive, &Ok(()), back, &Settings::default(), back);
    assert_eq!(changed.expect("it is back").change, Change::CameBack);
    assert_eq!(slow_start(&state, "a"), begins(back));
    assert_eq!(slow_start(&state, "b"), None);
    assert!(take(&state, now).is_some(), "those who waited have gone elsewhere");

    // So does one that was drained, and one that is new.
    let later = back + Duration::from_secs(60);
    let b = node(&state.snapshot(), "b").id;
    state.wish(b, Wish::Up, later).expect("a node");
    assert_eq!(slow_start(&state, "b"), None, "it was up all the time");
    state.wish(b, Wish::Draining, later).expect("a node");
    state.wish(b, Wish::Up, later).expect("a node");
    assert_eq!(slow_start(&state, "b"), begins(later));
    let more = [members[0].clone(), members[1].clone(), socket("c", 3, 100)];
    state.reconfigure(&more, later);
    assert_eq!(slow_start(&state, "c"), begins(later));
    assert_eq!(slow_start(&state, "a"), begins(back), "a reload changes nothing");
}

#[test]
fn a_node_has_its_own_rate_or_that_of_all() {
    let own = Member {
        connects_per_second: Some(5),
        ..socket("own", 1, 100)
    };
    let mut state = state(&[own, socket("other", 2, 100)]);
    let rate = |state: &State, name| node(&state.snapshot(), name).connect_rate.map(|rate| rate.per_second);
    assert_eq!((rate(&state, "own"), rate(&state, "other")), (Some(5), None));
    state.set_pacing(Pacing {
        connects_per_second: Some(100),
        ..Pacing::default()
    });
    assert_eq!((rate(&state, "own"), rate(&state, "other")), (Some(5), Some(100)));
}

#[test]
fn a_node_is_where_another_process_has_found_it_until_a_look_up_succeeds() {
    let mut before = state(&[host("a", 100), socket("b", 2, 100)]);
    let addresses = |port| [SocketAddr::from(([192, 0, 2, 1], port))];
    let asked = NodeAddress::Host("a.example".to_owned(), 1883);
    let resolved = |state: &mut State, found: Option<&[SocketAddr]>| {
        let id = node(&state.snapshot(), "a").id;
        state.resolved(id, &asked, found).map(|(_, resolved)| resolved)
    };
    assert_eq!(before.known_addresses(), [], "what is configured needs no look-up");
    resolved(&mut before, Some(&addresses(1)));
    let known = before.known_addresses();
    assert_eq!(known.len(), 1);
    let at = |state: &State| node(&state.snapshot(), "a").endpoints.mqtt.addresses.to_vec();
    // Configured to be elsewhere by now, or not at all.
    let mut moved = state(&[member("a", NodeAddress::Host("other.example".to_owned(), 1883), 100)]);
    moved.begin_at(&known[0]);
    assert_eq!(at(&moved), []);
    state(&[socket("b", 2, 100)]).begin_at(&known[0]);

    let mut next = state(&[host("a", 100)]);
    next.begin_at(&known[0]);
    assert_eq!(at(&next), addresses(1));
    assert_eq!(
        next.due_lookups(Duration::from_secs(30), Instant::now()).len(),
        1,
        "at once"
    );
    assert_eq!(resolved(&mut next, None), Some(Resolved::Kept));
    assert_eq!(at(&next), addresses(1));
    assert_eq!(resolved(&mut next, Some(&addresses(2))), Some(Resolved::Changed));
    next.begin_at(&known[0]);
    assert_eq!(at(&next), addresses(2), "what was found here is newer");
}

#[test]
fn a_node_begins_slowly_only_if_it_had_come_back_in_the_process_before() {
    let (mut state, now) = (state(&[socket("a", 1, 100)]), Instant::now());
    state.set_pacing(Pacing {
        connects_per_second: Some(100),
        slow_start: Duration::from_secs(20),
    });
    // Found by this process, as if it were new.
    state.reconfigure(&[socket("a", 1, 100), socket("b", 2, 100)], now);
    assert_eq!(state.came_back(now), [("b".to_owned(), Duration::ZERO)]);
    let second = Duration::from_secs(1);
    let mut learned = Learned {
        known: ["a", "b", "removed"].map(str::to_owned).to_vec(),
        ..Learned::default()
    };
    learned.found.came_back = vec![("a".to_owned(), second), ("removed".to_owned(), second)];
    state.learn(&learned, &Settings::default(), now + second);
    assert_eq!(slow_start(&state, "b"), None);
    assert_eq!(state.came_back(now + 2 * second), [("a".to_owned(), 2 * second)]);
}

#[test]
fn what_another_process_knew_has_numbers_and_is_down_until_it_answers() {
    let (mut state, now) = (state(&[socket("a", 1, 100), socket("b", 2, 100)]), Instant::now());
    assert_eq!(state.know(&["b".to_owned(), "removed".to_owned()]), 2);
    let cluster = state.snapshot();
    let known: Vec<_> = cluster.all_known().iter().map(|known| &*known.name).collect();
    assert_eq!(known, ["a", "b", "removed"]);
    assert_eq!(cluster.nodes().len(), 2, "only its name is known");

    let settings = Settings::default();
    let is_up = |state: &State| {
        let cluster = state.snapshot();
        node(&cluster, "b").state_for(EndpointKind::Mqtt) == Some(NodeState::Up)
    };
    let down = |node: &str, kind| Learned {
        down: vec![(node.to_owned(), kind)],
        ..Learned::default()
    };
    assert!(!state.learn(&down("removed", EndpointKind::Mqtt), &settings, now));
    assert!(!state.learn(&down("b", EndpointKind::Ws), &settings, now));
    assert!(is_up(&state));
    assert!(state.learn(&down("b", EndpointKind::Mqtt), &settings, now));
    assert!(!is_up(&state));
    let due = state.due_probes(now);
    assert_eq!(due.len(), 1, "at once");
    let passive = passive(&state, "b");
    let mut at = now;
    for _ in 0..settings.rise {
        assert!(!is_up(&state));
        state.probed(&passive, &Ok(()), at, &settings, at);
        at = state.next_deadline().unwrap_or(at);
        state.due_probes(at);
    }
    assert!(is_up(&state));
}

#[test]
fn a_node_that_has_answered_another_process_goes_down_as_slowly_as_one_that_has_answered_this_one() {
    let settings = Settings::default();
    let until_down = |learned: &Learned| {
        let members = [socket("a", 1, 100), socket("b", 2, 100), socket("c", 3, 100)];
        let (mut state, now) = (state(&members), Instant::now());
        state.learn(learned, &settings, now);
        take_down(&mut state, "a", now).0
    };
    let answered = Learned {
        answered: vec![("a".to_owned(), EndpointKind::Mqtt)],
        ..Learned::default()
    };
    assert_eq!(until_down(&answered), settings.fall);
    assert_eq!(until_down(&Learned::NOTHING), settings.failures_max.min(settings.fall));
}

#[test]
fn a_node_whose_api_told_another_process_that_it_drains_gets_no_clients_until_the_api_says_otherwise() {
    let with_api = Member {
        api: Some(NodeApi {
            address: NodeAddress::Host("a.example".into(), 18083),
            tls: None,
        }),
        ..socket("a", 1, 100)
    };
    let mut state = state(&[with_api, socket("b", 2, 100)]);
    let (settings, now) = (Settings::default(), Instant::now());
    let is_draining = |state: &State| node(&state.snapshot(), "a").is_draining;
    assert!(!is_draining(&state));
    let learned = Learned {
        drained_by_api: vec!["a".to_owned(), "b".to_owned(), "removed".to_owned()],
        ..Learned::default()
    };
    assert!(state.learn(&learned, &settings, now));
    assert!(is_draining(&state));
    assert!(!node(&state.snapshot(), "b").is_draining, "nobody asks its API");
    let due = state.due_checks(now);
    let [(id, api)] = &due[..] else {
        panic!("asked at once: {due:?}")
    };
    state.checked(*id, api, &Checked::Status(200), &settings, now);
    assert!(!is_draining(&state));
}

#[test]
fn no_more_names_are_known_than_there_are_numbers() {
    let mut state = state(&[socket("a", 1, 100)]);
    let names: Vec<String> = (0..70_000).map(|number| format!("n{number}")).take(66_000).collect();
    // Each name is compared with all before it: only the last ones matter here.
    let last = usize::from(u16::MAX) - 1;
    state.known = names[..last]
        .iter()
        .map(|name| KnownNode {
            name: name.as_str().into(),
            load: Arc::default(),
        })
        .collect();
    assert_eq!(state.know(&names[last..]), 1);
}
