//! Control in virtual time: everything that it is told, one thing at a time, beside a model that works out from all of it what the
//! cluster must be.
//!
//! One seed is one life: nodes of the configuration and nodes that are found, with one or two endpoints and perhaps an API. Probes,
//! questions to APIs and questions for nodes wait here until the world answers them, in any order, late, or with what cannot be
//! used. Clients are routed by the published cluster, meet failures, and stay; operators drain, weigh and reload; time passes. After
//! each of these, what is published must be what the model says, and nothing that is due may be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use remora::cluster::{
    Choice, Cluster, Clusters, ConnectionPermit, EndpointKind, Endpoints, Failure, FindingSource, Member,
    MemberEndpoint, Node, NodeAddress, NodeApi, NodeId, NodeState, PassiveHealth, Verdict, Witness,
};
use remora::control::{
    self, ApiSettings, Checked, Control, ControlHandle, Discovery, Found, FoundAnswer, FoundAt, HOST_OF_FOUND, Prober,
    Reload, Settings, Source, SourceKind, Target, Unanswered, Wish,
};
use remora::net::reports::Reports;
use remora::path::route;
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::{Seen, run_seeds, said};

const STEPS: usize = 3_000;
/// Nodes that the configuration may have.
const NAMES: [&str; 4] = ["emqx1", "emqx2", "emqx3", "emqx4"];
/// Nodes that may be found; the first is in the configuration as well, at times.
const FOUND: [&str; 5] = ["emqx1", "found1", "found2", "found3", "found4"];
const CLIENTS: usize = 40;
/// The most probes of one endpoint under way.
const PROBES_MAX: usize = 8;
/// The time between two probes that bring no answer, where no client has failed.
const SPACING: Duration = Duration::from_secs(1);
/// The same where a client has failed.
const SPACING_WITH_CLIENT: Duration = Duration::from_millis(50);
/// The longest of the intervals that are drawn.
const INTERVAL_MAX: Duration = Duration::from_secs(10);
/// After so long, a probe has failed.
const PROBE_TIMEOUT: Duration = Duration::from_secs(7);
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// Questions to an API in a row without an answer, after which nothing holds.
const SILENCE_MAX: usize = 3;
const FIND_INTERVAL: Duration = Duration::from_secs(10);
const TTL_MIN: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(60);

pub(super) const WHATS: &[&str] = &[
    "down with a client",
    "down by probes alone",
    "kept up beyond the share",
    "back at once",
    "back after several answers",
    "an answer outweighed older failures",
    "an older answer settled no newer failure",
    "a late report of an endpoint that has moved",
    "drained by its API",
    "its API fell silent",
    "wish",
    "a node was found",
    "a node went missing and stayed",
    "a node was gone after the grace time",
    "an answer was held back",
    "another cluster was believed",
    "a node moved",
    "connections of a node that is down closed",
    "full",
    "bounded",
    "all probes lost",
];

/// Not every life sees them.
const RARE: &[&str] = &["another cluster was believed", "its API fell silent"];

#[test]
fn control_publishes_what_the_model_says_after_every_step_of_every_seed() {
    let seen = Seen::of(WHATS);
    run_seeds(|seed| live(seed, &seen), &|seeds| seen.check(seeds, RARE));
}

/// One life; the seed and the step at which it went wrong.
fn live(seed: u64, seen: &Seen) -> Result<(), String> {
    let step = AtomicUsize::new(0);
    let run = || {
        // Of which control's own generator is made.
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let mut world = World::new(seed, seen).await;
            for number in 0..STEPS {
                step.store(number, Ordering::Relaxed);
                world.step().await;
                world.check();
            }
        });
    };
    std::panic::catch_unwind(AssertUnwindSafe(run))
        .map_err(|panic| format!("seed {seed}, step {}: {}", step.load(Ordering::Relaxed), said(&*panic)))
}

/// What waits for an answer.
#[derive(Debug, Default)]
struct Questions(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    probes: Vec<Probe>,
    checks: Vec<(NodeApi, oneshot::Sender<Checked>)>,
    finds: Vec<oneshot::Sender<(FoundAnswer, Option<Duration>)>>,
    /// How many of them are known to the model.
    probes_known: u64,
    probes_asked: u64,
}

#[derive(Debug)]
struct Probe {
    number: u64,
    target: Target,
    began: Instant,
    answer: oneshot::Sender<Result<(), Unanswered>>,
}

fn unanswered(was_asked: bool) -> Unanswered {
    Unanswered {
        was_asked,
        address: None,
        why: "as drawn".to_owned(),
    }
}

impl Prober for Questions {
    fn probe(&self, target: Target) -> control::Answer {
        let (answer, result) = oneshot::channel();
        let mut waiting = self.0.lock().expect("no panic");
        waiting.probes_asked += 1;
        let probe = Probe {
            number: waiting.probes_asked,
            target,
            began: Instant::now(),
            answer,
        };
        waiting.probes.push(probe);
        Box::pin(async move { result.await.unwrap_or(Err(unanswered(false))) })
    }

    fn check(&self, api: NodeApi) -> control::CheckAnswer {
        let (answer, result) = oneshot::channel();
        self.0.lock().expect("no panic").checks.push((api, answer));
        Box::pin(async move { result.await.unwrap_or(Checked::Unanswered("no answer".to_owned())) })
    }

    fn find(&self, _: Source) -> control::FindAnswer {
        let (answer, result) = oneshot::channel();
        self.0.lock().expect("no panic").finds.push(answer);
        Box::pin(async move { result.await.unwrap_or((Err("no answer".to_owned()), None)) })
    }
}

/// What an endpoint really does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Well,
    Dead,
    /// Some probes are lost on their way, and some clients' CONNECTs.
    Lossy,
}

/// What the model knows of one endpoint: what has happened at it.
#[derive(Debug)]
struct Known {
    address: NodeAddress,
    passive: Arc<PassiveHealth>,
    is_down: bool,
    has_answered: bool,
    /// Control was told of a failure, and of no answer since.
    has_failed: bool,
    /// When an answer was told last.
    answered_at: Option<Instant>,
    /// Failed probes since, of those that began after it.
    failed: u32,
    /// Clients that failed since, each of its own id and source.
    clients: Vec<Witness>,
    /// While it is down: answers since the last failure.
    answers: u32,
    /// When a client met a failure last, while it was up.
    client_failed_at: Option<Instant>,
    /// When something happened that a probe must follow.
    suspected_at: Option<Instant>,
    under_way: usize,
    probed_at: Option<Instant>,
    /// When a probe brought something last, an answer was told, or control was told to plan probes anew.
    planned_at: Instant,
}

impl Known {
    fn new(address: NodeAddress, passive: Arc<PassiveHealth>) -> Self {
        Self {
            address,
            passive,
            is_down: false,
            has_answered: false,
            has_failed: false,
            answered_at: None,
            failed: 0,
            clients: Vec::new(),
            answers: 0,
            client_failed_at: None,
            suspected_at: None,
            under_way: 0,
            probed_at: None,
            planned_at: Instant::now(),
        }
    }
}

/// What the model knows of a node that was found.
#[derive(Clone, Debug)]
struct FoundNode {
    host: String,
    /// The first answer in which it was missing, of those since it was in one.
    missing: Option<Instant>,
}

struct Connection {
    node: NodeId,
    kind: EndpointKind,
    _permit: ConnectionPermit,
}

type At = (String, EndpointKind);

struct World<'a> {
    rng: Rng,
    seen: &'a Seen,
    clusters: Arc<Clusters>,
    control: ControlHandle,
    reports: Reports,
    questions: Arc<Questions>,
    settings: Settings,
    members: Vec<Member>,
    /// How many connections a node may have, in percent of its share.
    load_max: Option<u32>,
    natures: BTreeMap<At, Nature>,
    /// The source of nodes answers for another cluster.
    is_other_cluster: bool,
    are_apis_silent: bool,
    connections: Vec<Connection>,
    /// Choices of which something may be reported late.
    old: Vec<Choice>,
    // The model.
    known: BTreeMap<At, Known>,
    /// What the API of a node has answered since it has this one.
    said: BTreeMap<String, (NodeApi, Vec<Checked>)>,
    wishes: BTreeMap<String, (bool, Option<u16>)>,
    ids: BTreeMap<String, NodeId>,
    homes: BTreeMap<(Vec<(String, u16)>, usize), String>,
    found: BTreeMap<String, FoundNode>,
    /// The names in answers that were held back, and since when.
    held_back: Option<(Instant, BTreeSet<String>)>,
    /// Whatever the next usable answer says is believed.
    is_new_source: bool,
    found_at: Instant,
}

fn address(host: u8, port: u16) -> NodeAddress {
    NodeAddress::Socket(SocketAddr::from((Ipv4Addr::new(10, 0, 0, host), port)))
}

fn member(name: &str, host: u8, rng: &mut Rng) -> Member {
    let endpoint = |port| MemberEndpoint::plain(address(host, port));
    let mut endpoints = Endpoints::only(endpoint(1_883));
    endpoints.ws = rng.bool().then(|| endpoint(8_083));
    let api = NodeApi {
        // A port of its own, by which the question of a node is known.
        address: address(host, 18_080 + u16::from(name.as_bytes()[name.len() - 1])),
        tls: None,
    };
    Member {
        name: name.to_owned(),
        endpoints,
        api: rng.bool().then_some(api),
        weight: rng.u16(1..=4),
        connects_per_second: None,
        connections_max: (rng.u8(0..3) == 0).then(|| rng.usize(1..12)),
    }
}

fn discovery() -> Discovery {
    let endpoint = MemberEndpoint::plain(NodeAddress::Host(HOST_OF_FOUND.to_owned(), 1_883));
    Discovery {
        source: Source {
            kind: SourceKind::Dns,
            seeds: Vec::new(),
            name: Some("emqx.test".to_owned()),
            name_servers: Vec::new(),
            file: None,
        },
        interval: FIND_INTERVAL,
        grace: GRACE,
        template: Some(Member {
            name: String::new(),
            endpoints: Endpoints::only(endpoint),
            api: None,
            weight: 2,
            connects_per_second: None,
            connections_max: None,
        }),
    }
}

fn draw_settings(rng: &mut Rng) -> Settings {
    Settings {
        failures_max: rng.u32(1..=4),
        fall: rng.u32(1..=10),
        rise: rng.u32(1..=3),
        interval: rng.bool().then(|| rng.u32(2..=10) * Duration::from_secs(1)),
        down_share: [1, 34, 50, 100][rng.usize(0..4)],
        down_max: Duration::from_secs([1, 8][rng.usize(0..2)]),
        api: ApiSettings {
            interval: CHECK_INTERVAL,
            ..ApiSettings::default()
        },
        discovery: rng.bool().then(discovery),
        ..Settings::default()
    }
}

impl<'a> World<'a> {
    async fn new(seed: u64, seen: &'a Seen) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = rng.usize(1..=NAMES.len());
        let members: Vec<Member> = (1..)
            .zip(&NAMES[..count])
            .map(|(host, name)| member(name, host, &mut rng))
            .collect();
        let settings = draw_settings(&mut rng);
        let (reports, to_control) = Reports::new();
        let questions = Arc::<Questions>::default();
        let prober: Arc<dyn Prober> = Arc::<Questions>::clone(&questions);
        let (control, handle) = Control::new(settings.clone(), &members, seed, to_control, prober);
        let clusters = control.clusters();
        tokio::task::spawn_local(control.run());
        let mut world = Self {
            seen,
            clusters,
            control: handle,
            reports,
            questions,
            is_new_source: false,
            settings,
            members,
            load_max: rng.bool().then(|| rng.u32(110..200)),
            natures: BTreeMap::new(),
            is_other_cluster: false,
            are_apis_silent: false,
            connections: Vec::new(),
            old: Vec::new(),
            known: BTreeMap::new(),
            said: BTreeMap::new(),
            wishes: BTreeMap::new(),
            ids: BTreeMap::new(),
            homes: BTreeMap::new(),
            found: BTreeMap::new(),
            held_back: None,
            found_at: Instant::now(),
            rng,
        };
        world.follow_nodes();
        world.settle().await;
        world
    }

    async fn step(&mut self) {
        match self.rng.u32(0..1_000) {
            0..=349 => self.answer_probe().await,
            350..=549 => self.pass().await,
            550..=669 => self.connect().await,
            670..=769 => self.disconnect(),
            770..=829 => self.answer_check().await,
            830..=899 => self.answer_find().await,
            900..=929 => self.report_late().await,
            930..=959 => self.change_nature(),
            960..=972 => self.wish().await,
            973..=979 => self.reload().await,
            _ => self.close_on_down(),
        }
    }

    /// Control runs until there is nothing left for it to do; then the model learns which probes have begun.
    async fn settle(&mut self) {
        for _ in 0..6 {
            tokio::task::yield_now().await;
        }
        let now = Instant::now();
        let mut waiting = self.questions.0.lock().expect("no panic");
        let known_before = waiting.probes_known;
        waiting.probes_known = waiting.probes_asked;
        for probe in waiting.probes.iter().filter(|probe| probe.number > known_before) {
            let target = &probe.target;
            let at = (target.node.to_string(), target.kind);
            let known = self.known.get_mut(&at).expect("a node of the cluster is probed");
            assert!(
                Arc::ptr_eq(&known.passive, &target.endpoint.passive),
                "{at:?} is probed where it was"
            );
            assert_eq!(known.is_down, target.endpoint.is_down, "{at:?}");
            assert_eq!(probe.began, now, "{at:?}");
            let spacing = match known.clients.is_empty() || known.is_down {
                true => SPACING,
                false => SPACING_WITH_CLIENT,
            };
            if let Some(last) = known.probed_at {
                assert!(
                    now - last >= spacing,
                    "{at:?} is probed {:?} after the last time",
                    now - last
                );
            }
            known.probed_at = Some(now);
            known.under_way += 1;
            assert!(known.under_way <= PROBES_MAX, "{at:?}");
        }
    }

    fn known_mut(&mut self, passive: &Arc<PassiveHealth>) -> Option<(At, &mut Known)> {
        let found = self
            .known
            .iter_mut()
            .find(|(_, known)| Arc::ptr_eq(&known.passive, passive));
        found.map(|(at, known)| (at.clone(), known))
    }

    // Probes.

    async fn answer_probe(&mut self) {
        let probe = {
            let mut waiting = self.questions.0.lock().expect("no panic");
            let count = waiting.probes.len();
            if count == 0 {
                return;
            }
            waiting.probes.swap_remove(self.rng.usize(0..count))
        };
        let at = (probe.target.node.to_string(), probe.target.kind);
        let result = match (self.rng.u8(0..100), self.nature(&at)) {
            (0..=1, _) => Err(unanswered(false)),
            (_, Nature::Well) => Ok(()),
            (_, Nature::Dead) => Err(unanswered(true)),
            (drawn, Nature::Lossy) => {
                if drawn < 60 {
                    Ok(())
                } else {
                    Err(unanswered(true))
                }
            }
        };
        self.end_probe(probe, result).await;
    }

    async fn end_probe(&mut self, probe: Probe, result: Result<(), Unanswered>) {
        let Probe {
            target, began, answer, ..
        } = probe;
        let is_asked = result.as_ref().err().is_none_or(|unanswered| unanswered.was_asked);
        let has_answered = result.is_ok();
        answer.send(result).expect("control awaits it");
        let now = Instant::now();
        if let Some((at, known)) = self.known_mut(&target.endpoint.passive) {
            known.under_way -= 1;
            known.planned_at = now;
            if has_answered {
                self.note_answer(&at);
                let known = self.known.get_mut(&at).expect("an endpoint");
                if !known.is_down && known.client_failed_at.is_some_and(|failed_at| began < failed_at) {
                    known.suspected_at = Some(now);
                    self.seen.note("an older answer settled no newer failure");
                }
            } else if is_asked {
                known.has_failed = true;
                if known.answered_at.is_some_and(|answered_at| began < answered_at) {
                    self.seen.note("an answer outweighed older failures");
                } else {
                    known.failed += 1;
                    known.answers = 0;
                    known.suspected_at = Some(now);
                    self.judge(&at);
                }
            } else {
                known.suspected_at = Some(now);
            }
        }
        self.settle().await;
    }

    fn note_answer(&mut self, at: &At) {
        let rise = self.settings.rise;
        let known = self.known.get_mut(at).expect("an endpoint");
        known.has_answered = true;
        known.has_failed = false;
        known.answered_at = Some(Instant::now());
        known.planned_at = Instant::now();
        known.answers += 1;
        if known.is_down && known.answers < rise {
            return;
        }
        if std::mem::take(&mut known.is_down) {
            self.seen.note(if rise == 1 {
                "back at once"
            } else {
                "back after several answers"
            });
        }
        known.failed = 0;
        known.answers = 0;
        known.clients.clear();
        known.suspected_at = None;
    }

    /// Whether what has happened at an endpoint is enough.
    fn judge(&mut self, at: &At) {
        let of_kind = || self.known.iter().filter(|((_, kind), _)| *kind == at.1);
        let count = of_kind().count();
        let down_with_it = of_kind().filter(|(_, known)| known.is_down).count() + 1;
        let known = &self.known[at];
        if known.is_down || known.failed == 0 {
            return;
        }
        let Settings {
            failures_max,
            fall,
            down_share,
            ..
        } = self.settings;
        let goes_down = if known.clients.is_empty() {
            let is_within_share = down_with_it * 100 <= count * usize::from(down_share);
            let most = if known.has_answered {
                fall
            } else {
                fall.min(failures_max)
            };
            if known.failed >= most && !is_within_share && known.has_answered {
                self.seen.note("kept up beyond the share");
            }
            known.failed >= most && (is_within_share || !known.has_answered)
        } else if down_with_it * 2 > count {
            known.failed >= failures_max
        } else {
            known.failed as usize + known.clients.len() >= failures_max as usize
        };
        if goes_down {
            let has_client = !known.clients.is_empty();
            self.seen.note(if has_client {
                "down with a client"
            } else {
                "down by probes alone"
            });
            let known = self.known.get_mut(at).expect("an endpoint");
            known.is_down = true;
            known.answers = 0;
            known.clients.clear();
        }
    }

    fn nature(&mut self, at: &At) -> Nature {
        self.natures.get(at).copied().unwrap_or(Nature::Well)
    }

    fn change_nature(&mut self) {
        let places: Vec<At> = self.known.keys().cloned().collect();
        if places.is_empty() {
            return;
        }
        let at = places[self.rng.usize(0..places.len())].clone();
        let nature = [Nature::Well, Nature::Well, Nature::Dead, Nature::Lossy][self.rng.usize(0..4)];
        self.natures.insert(at, nature);
    }

    // Time.

    async fn pass(&mut self) {
        let time = match self.rng.u8(0..20) {
            0 => Duration::from_secs(self.rng.u64(10..120)),
            1..=8 => Duration::from_millis(self.rng.u64(1_000..3_000)),
            _ => Duration::from_millis(self.rng.u64(1..500)),
        };
        tokio::time::advance(time).await;
        self.settle().await;
        // What is not answered fails in the end.
        loop {
            let overdue = {
                let now = Instant::now();
                let mut waiting = self.questions.0.lock().expect("no panic");
                let place = waiting
                    .probes
                    .iter()
                    .position(|probe| now - probe.began >= PROBE_TIMEOUT);
                place.map(|place| waiting.probes.swap_remove(place))
            };
            let Some(probe) = overdue else {
                break;
            };
            self.seen.note("all probes lost");
            self.end_probe(probe, Err(unanswered(true))).await;
        }
    }

    // The nodes' APIs.

    async fn answer_check(&mut self) {
        let (api, answer) = {
            let mut waiting = self.questions.0.lock().expect("no panic");
            if waiting.checks.is_empty() {
                return;
            }
            waiting.checks.swap_remove(0)
        };
        // For a while.
        self.are_apis_silent ^= self.rng.u8(0..8) == 0;
        let checked = match self.rng.u8(0..10) {
            0..=8 if self.are_apis_silent => Checked::Unanswered("as drawn".to_owned()),
            0..=3 => Checked::Status(200),
            4..=5 => Checked::Status(503),
            6 => Checked::Status([301, 401, 403, 404, 500][self.rng.usize(0..5)]),
            _ => Checked::Unanswered("as drawn".to_owned()),
        };
        answer.send(checked.clone()).expect("control awaits it");
        if let Some((_, said)) = self.said.values_mut().find(|(known, _)| *known == api) {
            let drained = drains(said);
            said.push(checked);
            if !drained && drains(said) {
                self.seen.note("drained by its API");
            } else if drained && !drains(said) && matches!(said.last(), Some(Checked::Unanswered(_))) {
                self.seen.note("its API fell silent");
            }
        }
        self.settle().await;
    }

    // Nodes that are found.

    async fn answer_find(&mut self) {
        let sender = self.questions.0.lock().expect("no panic").finds.pop();
        let Some(sender) = sender else {
            return;
        };
        // The same one for a while, so that it may be believed.
        self.is_other_cluster ^= self.rng.u8(0..12) == 0;
        let mut listed: Vec<Found> = Vec::new();
        for (host, name) in (100..).zip(FOUND) {
            // Each of them is at one of two places.
            let host = if self.rng.u8(0..20) == 0 { host + 100 } else { host };
            if self.rng.u8(0..8) > 0 {
                let host = format!("10.0.0.{host}");
                let name = name.to_owned();
                listed.push(Found::at_host(name, host));
            }
        }
        let answer: FoundAnswer = match self.rng.u8(0..12) {
            0 => Err("as drawn".to_owned()),
            1 => Ok(Vec::new()),
            _ if self.is_other_cluster => Ok(vec![Found::at_host(FOUND[4].to_owned(), "10.0.0.104".to_owned())]),
            2 => {
                let twice = listed
                    .iter()
                    .map(|found| Found::at_host(found.name.clone(), "10.0.0.250".to_owned()));
                let twice: Vec<Found> = twice.collect();
                listed.extend(twice);
                Ok(listed)
            }
            _ => Ok(listed),
        };
        let ttl = self.rng.bool().then(|| Duration::from_secs(self.rng.u64(0..30)));
        self.found_at = Instant::now();
        // A reload may have dropped the question.
        if sender.send((answer.clone(), ttl)).is_ok() {
            self.note_found(&answer);
        }
        for _ in 0..6 {
            tokio::task::yield_now().await;
        }
        self.follow_nodes();
        self.settle().await;
    }

    fn note_found(&mut self, answer: &FoundAnswer) {
        let now = Instant::now();
        let mut hosts: BTreeMap<&str, &str> = BTreeMap::new();
        for found in answer.iter().flatten() {
            let FoundAt::Host(host) = &found.at else {
                unreachable!("name servers know hosts");
            };
            hosts.entry(&found.name).or_insert(host);
        }
        if hosts.is_empty() {
            return;
        }
        let names: BTreeSet<String> = hosts.keys().map(|name| (*name).to_owned()).collect();
        let missing = self.found.keys().filter(|name| !names.contains(*name)).count();
        let is_other = missing * 2 > self.found.len();
        if is_other && !self.is_new_source {
            let since = match &self.held_back {
                Some((since, held)) if *held == names => *since,
                _ => now,
            };
            if since + GRACE > now {
                self.held_back = Some((since, names));
                return self.seen.note("an answer was held back");
            }
            self.seen.note("another cluster was believed");
        }
        let at_once = is_other || self.is_new_source;
        self.is_new_source = false;
        self.held_back = None;
        let (seen, before) = (self.seen, self.found.len());
        self.found.retain(|name, node| {
            if names.contains(name) {
                node.missing = None;
                return true;
            }
            let missing = *node.missing.get_or_insert(now);
            let stays = !at_once && now - missing < GRACE;
            seen.note(if stays {
                "a node went missing and stayed"
            } else {
                "a node was gone after the grace time"
            });
            stays
        });
        for (name, host) in hosts {
            let node = self.found.entry(name.to_owned()).or_insert_with(|| FoundNode {
                host: host.to_owned(),
                missing: None,
            });
            host.clone_into(&mut node.host);
        }
        if self.found.len() > before {
            self.seen.note("a node was found");
        }
    }

    /// The nodes that there must be.
    fn expected_members(&self) -> Vec<Member> {
        let mut members = self.members.clone();
        if let Some(discovery) = &self.settings.discovery {
            for (name, node) in &self.found {
                if self.members.iter().any(|member| member.name == *name) {
                    continue;
                }
                let ip: IpAddr = node.host.parse().expect("an address");
                let endpoint = MemberEndpoint::plain(NodeAddress::Socket((ip, 1_883).into()));
                members.push(Member {
                    name: name.clone(),
                    endpoints: Endpoints::only(endpoint),
                    ..discovery.template.clone().expect("this source has one")
                });
            }
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members
    }

    /// The model follows a change of the nodes.
    fn follow_nodes(&mut self) {
        let members = self.expected_members();
        let cluster = self.clusters.current();
        let names: Vec<&str> = cluster.nodes().iter().map(|node| &*node.name).collect();
        let expected: Vec<&str> = members.iter().map(|member| &*member.name).collect();
        assert_eq!(names, expected, "the nodes");
        let mut before = std::mem::take(&mut self.known);
        for (member, node) in members.iter().zip(cluster.nodes()) {
            for (kind, endpoint) in member.endpoints.iter() {
                let at = (member.name.clone(), kind);
                let published = node.endpoints.get(kind).expect("an endpoint of the member");
                let known = match before.remove(&at) {
                    Some(known) if known.address == endpoint.address => known,
                    moved => {
                        if moved.is_some() {
                            self.seen.note("a node moved");
                        }
                        Known::new(endpoint.address.clone(), Arc::clone(&published.passive))
                    }
                };
                self.known.insert(at, known);
            }
        }
        let mut said = std::mem::take(&mut self.said);
        for member in &members {
            if let Some(api) = &member.api {
                let kept = said.remove(&member.name).filter(|(known, _)| known == api);
                self.said
                    .insert(member.name.clone(), kept.unwrap_or_else(|| (api.clone(), Vec::new())));
            }
        }
        self.wishes.retain(|name, _| expected.contains(&&**name));
    }

    // Operators.

    async fn wish(&mut self) {
        let cluster = self.clusters.current();
        let nodes = cluster.nodes();
        let Some(node) = nodes.get(self.rng.usize(0..nodes.len().max(1))) else {
            return;
        };
        let entry = self.wishes.entry(node.name.to_string()).or_default();
        let wish = match self.rng.u8(0..4) {
            0 => {
                entry.0 = true;
                Wish::Draining
            }
            1..=2 => {
                entry.0 = false;
                Wish::Up
            }
            _ => {
                entry.1 = self.rng.bool().then(|| self.rng.u16(1..=4));
                Wish::Weight(entry.1)
            }
        };
        self.control.set_wish(node.id, wish).await.expect("control answers");
        self.seen.note("wish");
        self.settle().await;
    }

    async fn reload(&mut self) {
        let name = NAMES[self.rng.usize(0..NAMES.len())];
        let host = self.rng.u8(1..5);
        let other = member(name, host, &mut self.rng);
        // No two nodes at one place: their APIs are told apart by it.
        let is_free = !self
            .members
            .iter()
            .any(|m| m.endpoints.mqtt.address == other.endpoints.mqtt.address);
        match self.members.iter().position(|member| member.name == name) {
            None if is_free => self.members.push(other),
            None => {}
            Some(place) if self.rng.bool() && self.members.len() > 1 => drop(self.members.swap_remove(place)),
            Some(place) if is_free => self.members[place] = other,
            Some(place) => self.members[place].connections_max = other.connections_max,
        }
        if self.rng.bool() {
            let before = self.settings.discovery.is_some();
            self.settings = draw_settings(&mut self.rng);
            match (before, self.settings.discovery.is_some()) {
                (_, false) => self.found.clear(),
                (false, true) => self.is_new_source = true,
                (true, true) => {}
            }
            if before != self.settings.discovery.is_some() {
                self.held_back = None;
                self.is_new_source = !before;
                self.found_at = Instant::now();
            }
        }
        let reload = Reload {
            settings: self.settings.clone(),
            members: self.members.clone(),
            prober: Arc::<Questions>::clone(&self.questions),
        };
        let before: BTreeSet<NodeId> = self.clusters.current().nodes().iter().map(|node| node.id).collect();
        let removed = self.control.reload(reload).await.expect("control answers");
        let after: BTreeSet<NodeId> = self.clusters.current().nodes().iter().map(|node| node.id).collect();
        assert_eq!(
            removed.into_iter().collect::<BTreeSet<_>>(),
            &before - &after,
            "those that are gone"
        );
        // Questions of those that are no longer asked.
        self.questions
            .0
            .lock()
            .expect("no panic")
            .finds
            .retain(|find| !find.is_closed());
        self.follow_nodes();
        let now = Instant::now();
        self.known.values_mut().for_each(|known| known.planned_at = now);
        self.settle().await;
    }

    // Clients.

    async fn connect(&mut self) {
        let cluster = self.clusters.current();
        let kind = if self.rng.u8(0..3) == 0 {
            EndpointKind::Ws
        } else {
            EndpointKind::Mqtt
        };
        let client = self.rng.usize(0..CLIENTS);
        let key = format!("device-{client}").into_bytes();
        let route = route::route(Arc::clone(&cluster), kind, &key, None);
        if let Some(home) = route.home() {
            let membership = cluster.nodes().iter().map(|n| (n.name.to_string(), n.weight)).collect();
            let known = self
                .homes
                .entry((membership, client))
                .or_insert_with(|| home.name.to_string());
            assert_eq!(**known, *home.name, "client {client} has two homes");
        }
        let source = IpAddr::V4(Ipv4Addr::new(192, 0, 2, self.rng.u8(..)));
        let nodes = cluster.nodes().iter();
        let up: Vec<&Node> = nodes.filter(|n| self.state(n, kind) == Some(NodeState::Up)).collect();
        let mut offered = Vec::new();
        for choice in route.bounded(self.load_max).take(2) {
            self.check_choice(&cluster, &up, &offered, &choice);
            offered.push(choice.id);
            let at = (cluster.node(choice.id).expect("a node").name.to_string(), choice.kind);
            let Some(permit) = choice.try_permit() else {
                let max = choice.connections_max.expect("a limit");
                assert!(self.connections.iter().filter(|c| c.node == choice.id).count() >= max);
                self.seen.note("full");
                continue;
            };
            let is_served = match self.nature(&at) {
                Nature::Well => true,
                Nature::Dead => false,
                Nature::Lossy => self.rng.bool(),
            };
            self.old.push(choice.clone());
            if is_served {
                self.report_answer(&choice);
                self.connections.push(Connection {
                    node: choice.id,
                    kind: choice.kind,
                    _permit: permit,
                });
                break;
            }
            let witness = Witness {
                client_id: Some(client as u64),
                source,
            };
            let failure = if self.rng.u8(0..4) == 0 {
                Failure::Suspected
            } else {
                Failure::Of(witness)
            };
            self.report_failure(&choice, failure);
            drop(permit);
            self.settle().await;
        }
        self.settle().await;
    }

    fn report_failure(&mut self, choice: &Choice, failure: Failure) {
        self.reports.failed(choice, failure);
        let failures_max = self.settings.failures_max as usize;
        let Some((at, known)) = self.known_mut(&choice.endpoint.passive) else {
            return self.seen.note("a late report of an endpoint that has moved");
        };
        known.has_failed = true;
        if known.is_down {
            return;
        }
        known.suspected_at = Some(Instant::now());
        known.client_failed_at = known.suspected_at;
        if let Failure::Of(witness) = failure {
            let is_known = |other: &Witness| other.client_id == witness.client_id || other.source == witness.source;
            if known.clients.len() < failures_max && !known.clients.iter().any(is_known) {
                known.clients.push(witness);
            }
        }
        self.judge(&at);
    }

    fn report_answer(&mut self, choice: &Choice) {
        self.reports.answered(choice);
        if let Some((at, known)) = self.known_mut(&choice.endpoint.passive)
            // What is known already is not told.
            && (known.has_failed || !known.has_answered)
        {
            self.note_answer(&at);
        }
    }

    /// Something is reported of an endpoint that may have moved since.
    async fn report_late(&mut self) {
        if self.old.is_empty() {
            return;
        }
        let choice = self.old.swap_remove(self.rng.usize(0..self.old.len()));
        if self.rng.bool() {
            self.report_failure(&choice, Failure::Suspected);
        } else {
            self.report_answer(&choice);
        }
        self.old.truncate(20);
        self.settle().await;
    }

    fn disconnect(&mut self) {
        if !self.connections.is_empty() {
            let place = self.rng.usize(0..self.connections.len());
            self.connections.swap_remove(place);
        }
    }

    /// Some of the connections are closed that are to be closed.
    fn close_on_down(&mut self) {
        let cluster = self.clusters.current();
        for (node, kind) in cluster.to_close() {
            if let Some(place) = self.connections.iter().position(|c| (c.node, c.kind) == (node, kind)) {
                self.connections.swap_remove(place);
                self.seen.note("connections of a node that is down closed");
            }
        }
    }

    // What must hold.

    /// The state that the model gives to the endpoint for clients of this kind; `None` if the node has none.
    fn state(&self, node: &Node, kind: EndpointKind) -> Option<NodeState> {
        let name = &*node.name;
        let of = |kind| self.known.get(&(name.to_owned(), kind));
        let known = match kind {
            // WebSocket ends here where the node has none.
            EndpointKind::Ws => of(kind).or_else(|| of(EndpointKind::Mqtt)),
            EndpointKind::Mqtt | EndpointKind::Pass => of(kind),
        }?;
        Some(match (known.is_down, self.is_draining(name)) {
            (true, _) => NodeState::Down,
            (false, true) => NodeState::Draining,
            (false, false) => NodeState::Up,
        })
    }

    fn is_draining(&self, name: &str) -> bool {
        let is_wished = self.wishes.get(name).is_some_and(|(is_draining, _)| *is_draining);
        is_wished || self.said.get(name).is_some_and(|(_, said)| drains(said))
    }

    fn count(&self, node: NodeId) -> usize {
        self.connections.iter().filter(|c| c.node == node).count()
    }

    /// A node that was down, drained or full was chosen only if no other would do: of those that were `up` when the route was made,
    /// and that were not `offered` before.
    fn check_choice(&self, cluster: &Cluster, up: &[&Node], offered: &[NodeId], choice: &Choice) {
        let total: usize = up.iter().map(|node| self.count(node.id)).sum();
        let weights: usize = up.iter().map(|node| usize::from(node.weight)).sum();
        let has_room = |node: &&&Node| {
            let count = self.count(node.id);
            let share = (total + 1) as f64 * f64::from(node.weight) / weights as f64;
            let is_within = |percent: u32| (count as f64) < f64::from(percent) / 100.0 * share - 1e-9;
            if !self.load_max.is_none_or(is_within) {
                self.seen.note("bounded");
                return false;
            }
            node.connections_max.is_none_or(|max| count < max)
        };
        let with_room: Vec<NodeId> = up.iter().filter(has_room).map(|node| node.id).collect();
        assert!(!offered.contains(&choice.id), "the same node twice");
        if !with_room.contains(&choice.id) {
            let name = &cluster.node(choice.id).expect("a node").name;
            let passed_over = with_room.iter().find(|id| !offered.contains(id));
            assert_eq!(
                passed_over, None,
                "{name} was preferred to a node that is up and has room"
            );
        }
    }

    /// What is published is what the model says, and what is due has begun.
    fn check(&mut self) {
        let (cluster, now) = (self.clusters.current(), Instant::now());
        let members = self.expected_members();
        assert_eq!(cluster.nodes().len(), members.len());
        for (node, member) in cluster.nodes().iter().zip(&members) {
            let name = &*node.name;
            assert_eq!(name, member.name);
            let id = self.ids.entry(name.to_owned()).or_insert(node.id);
            assert_eq!(*id, node.id, "{name} has another number");
            let weight = self.wishes.get(name).and_then(|(_, weight)| *weight);
            assert_eq!(node.weight, weight.unwrap_or(member.weight), "{name}");
            assert_eq!(
                node.is_draining,
                self.is_draining(name),
                "whether {name} drains: {:?}",
                self.said.get(name)
            );
            assert_eq!(node.connections_max, member.connections_max, "{name}");
            assert_eq!(
                node.load.connections.load(Ordering::Relaxed),
                self.count(node.id),
                "{name}"
            );
            self.check_findings(node);
            for (kind, endpoint) in node.endpoints.iter() {
                let at = (name.to_owned(), kind);
                let known = &self.known[&at];
                assert!(Arc::ptr_eq(&known.passive, &endpoint.passive), "{at:?}");
                assert_eq!(endpoint.is_down, known.is_down, "{at:?}: {known:?}");
                let NodeAddress::Socket(address) = known.address else {
                    unreachable!("all have addresses");
                };
                assert_eq!(*endpoint.addresses, [address], "{at:?}");
                self.check_due(&at, known, now);
            }
        }
        let published: usize = cluster
            .all_known()
            .iter()
            .map(|k| k.load.connections.load(Ordering::Relaxed))
            .sum();
        assert_eq!(published, self.connections.len(), "connections");
        self.check_to_close(&cluster);
        self.check_questions(now);
    }

    fn check_findings(&self, node: &Node) {
        let name = &*node.name;
        let verdict = |source, kind| {
            let mut findings = node.findings.iter();
            let finding = findings.find(|finding| finding.source == source && finding.endpoint == kind);
            finding.map(|finding| finding.verdict)
        };
        let is_wished = self.wishes.get(name).is_some_and(|(is_draining, _)| *is_draining);
        assert_eq!(verdict(FindingSource::Operator, None).is_some(), is_wished, "{name}");
        let by_api = self.said.get(name).is_some_and(|(_, said)| drains(said));
        assert_eq!(
            verdict(FindingSource::Api, None) == Some(Verdict::Draining),
            by_api,
            "{name}"
        );
        for (kind, _) in node.endpoints.iter() {
            let known = &self.known[&(name.to_owned(), kind)];
            let has_clients = verdict(FindingSource::Clients, Some(kind)).is_some();
            assert_eq!(has_clients, !known.clients.is_empty(), "{name}: {known:?}");
            let is_overruled = verdict(FindingSource::Probe, Some(kind)) == Some(Verdict::Overruled);
            assert!(!is_overruled || !known.is_down && known.failed > 0, "{name}: {known:?}");
        }
    }

    /// An endpoint in question, one that is down, and one that is probed at an interval is probed in time.
    fn check_due(&self, at: &At, known: &Known, now: Instant) {
        if known.under_way == PROBES_MAX {
            return;
        }
        let since = known.probed_at.map(|last| now - last);
        if known.is_down {
            let since = since.expect("a probe took it down");
            assert!(
                since < self.settings.down_max.max(Duration::from_secs(8)),
                "{at:?} was left alone for {since:?}"
            );
        } else if known.under_way > 0 {
            // One that was asked before the last answer is of no interest.
            let is_answered = known.answered_at >= known.probed_at && known.suspected_at.is_none();
            // Beside a client's failure, the next one follows that of a probe.
            let has_just_failed = known.suspected_at.is_some_and(|at| now - at < SPACING_WITH_CLIENT);
            let is_recent = has_just_failed || since.is_some_and(|since| since < SPACING);
            assert!(is_answered || is_recent, "{at:?}: {known:?}");
        } else if let Some(suspected_at) = known.suspected_at {
            assert!(now - suspected_at < SPACING, "{at:?} was not asked: {known:?}");
        } else if self.settings.interval.is_some() {
            let since = now - known.planned_at.max(known.probed_at.unwrap_or(known.planned_at));
            assert!(since <= INTERVAL_MAX.mul_f64(1.1), "{at:?} was not asked for {since:?}");
        }
    }

    /// Connections are closed at endpoints that are down while another node takes their clients, and nowhere else.
    fn check_to_close(&self, cluster: &Cluster) {
        let to_close: BTreeSet<(NodeId, EndpointKind)> = cluster.to_close().into_iter().collect();
        for node in cluster.nodes() {
            for (kind, _) in node.endpoints.iter() {
                let is_down = self.known[&(node.name.to_string(), kind)].is_down;
                let others = cluster.nodes().iter().filter(|other| other.id != node.id);
                let is_replaced = others
                    .clone()
                    .any(|other| self.state(other, kind) == Some(NodeState::Up));
                assert_eq!(
                    to_close.contains(&(node.id, kind)),
                    is_down && is_replaced,
                    "{} {kind:?}",
                    node.name
                );
            }
        }
    }

    /// Sources of nodes and APIs are asked one question at a time, and none is forgotten.
    fn check_questions(&self, now: Instant) {
        let waiting = self.questions.0.lock().expect("no panic");
        assert!(waiting.finds.len() <= 1);
        if self.settings.discovery.is_some() && waiting.finds.is_empty() {
            let since = now - self.found_at;
            assert!(
                since <= FIND_INTERVAL.max(TTL_MIN).mul_f64(1.1),
                "nodes were not looked for in {since:?}"
            );
        }
    }
}

/// Whether a node drains whose API has answered so: with 503 last, unless it has been silent for too long.
fn drains(said: &[Checked]) -> bool {
    let silent = said
        .iter()
        .rev()
        .take_while(|said| matches!(said, Checked::Unanswered(_)))
        .count();
    let last = said[..said.len() - silent].last();
    silent < SILENCE_MAX && last == Some(&Checked::Status(503))
}
