//! A seeded simulation of everything that decides: census, route, placements, the node's states as control folds them.
//!
//! One seed is one life of a balancer: a few thousand events, drawn at random, in virtual time. Clients come, are decided,
//! dialled, accepted, refused, left without an answer, and go; nodes die, come back, drain, are added, removed, moved and
//! weighted anew; limits change; time passes. The code that decides is the balancer's own, retries included; what stands
//! between (sockets, and the order of steps in `connection`) is played here. Beside it runs a model that is too simple to be
//! wrong, and after every step both must agree.
//!
//! `REMORA_SEEDS=10000 cargo test --test simulation` tries more seeds; `REMORA_SEED=7` tries that one alone. A failure
//! names its seed and step.

mod control;
mod loss;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use remora::cluster::{
    Choice, Cluster, Clusters, ConnectionPermit, Decision, EndpointKind, Endpoints, Failure, Member, MemberEndpoint,
    Node, NodeAddress, NodeApi, NodeId, NodeState, Witness,
};
use remora::control::{Control, ControlHandle, Prober, Reload, Settings, Target, Unanswered, Wish};
use remora::net::held::{self, AwaitingConnect, HeldBytes, Room};
use remora::net::reports::Reports;
use remora::path::accept::{Admission, Admitted, Limits, ListenerCount};
use remora::path::counters::Retry;
use remora::path::ended::Ended;
use remora::path::greet::{Attempts, Budget, Next, Outcome, RetryAt};
use remora::path::record::PlacementKey;
use remora::path::route::{self, AcceptedClient, Placements, Route};
use tokio::task::LocalSet;
use tokio::time::Instant;

const SEEDS: u64 = 256;
const STEPS: usize = 3_000;

/// Clients that come again and again.
const CLIENTS: usize = 48;
/// Names that nodes may have.
const NAMES: [&str; 6] = ["emqx1", "emqx2", "emqx3", "emqx4", "emqx5", "emqx6"];
const SOURCES: u8 = 200;
const LISTENERS: usize = 2;
/// Few enough to be met.
const PLACEMENTS_MAX: usize = 8;
/// A tenth of them, and one at least.
const PLACEMENTS_OF_SOURCE_MAX: usize = 1;
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// How long dialling and greeting a node may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Failures that make a node down.
const FAILURES_MAX: u32 = 3;
/// The time between two probes of a node that is down.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long a client may wait until a node accepts it.
const DEADLINE: Duration = Duration::from_secs(30);
/// Retries a second that need no accepted CONNECT: so few that the budget runs out.
const FREE_RETRIES: u64 = 1;
/// Over how many seconds retries and accepted CONNECTs are compared.
const BUDGET_SECONDS: u64 = 10;
/// The CONNECT goes to two more nodes at most.
const OTHER_NODES: usize = 2;

#[test]
fn what_must_hold_holds_after_every_step_of_every_seed() {
    let seen = Seen::of(WHATS);
    run_seeds(|seed| live(seed, &seen), &|seeds| seen.check(seeds, &[RARE]));
}

/// Lives every seed that is asked for, and afterwards checks what was seen of so many of them.
fn run_seeds(live: impl Fn(u64) -> Result<(), String> + Sync, check: &dyn Fn(usize)) {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().expect("a number"))
    };
    let seeds: Vec<u64> = match number("REMORA_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("REMORA_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            std::iter::from_fn(|| seeds.get(next.fetch_add(1, Ordering::Relaxed))).find_map(|seed| live(*seed).err())
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results.filter_map(|result| result.expect("caught")).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // One life need not have everything.
    if seeds.len() > 1 {
        check(seeds.len());
    }
}

/// The message of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("panicked")
}

/// What happened, over all seeds.
struct Seen(BTreeMap<&'static str, AtomicUsize>);

const WHATS: &[&str] = &[
    "home",
    "placement",
    "spill",
    "anonymous",
    "remembered",
    "forgotten",
    "assigned",
    "limited",
    "refused",
    "retried",
    "out of budget",
    "out of time",
    "node down",
    "node down by probes alone",
    "node back",
    "wish",
    "weight override",
    "draining taken where none is up",
    "an older connection ended after a newer one",
    "a source's share was used up",
    RARE,
];

/// Few lives see it, since a source gets only a share of the placements.
const RARE: &str = "room was made among placements";

impl Seen {
    fn of(whats: &[&'static str]) -> Self {
        Self(whats.iter().map(|what| (*what, AtomicUsize::new(0))).collect())
    }

    /// A simulation in which the thing never happens proves nothing about it.
    fn check(&self, seeds: usize, rare: &[&str]) {
        for (what, count) in &self.0 {
            let count = count.load(Ordering::Relaxed);
            let least = if rare.contains(what) { seeds / 8 } else { seeds };
            assert!(count >= least, "{what}: only {count} times");
        }
    }

    fn note(&self, what: &str) {
        self.0[what].fetch_add(1, Ordering::Relaxed);
    }
}

/// One life; the seed and the step at which it went wrong.
fn live(seed: u64, seen: &Seen) -> Result<(), String> {
    let step = AtomicUsize::new(0);
    let finished = AtomicBool::new(false);
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let mut world = World::new(seed, seen);
            for number in 0..STEPS {
                step.store(number, Ordering::Relaxed);
                world.step().await;
                world.check();
            }
            world.end();
            finished.store(true, Ordering::Relaxed);
        });
    };
    std::panic::catch_unwind(AssertUnwindSafe(run))
        .map_err(|panic| format!("seed {seed}, step {}: {}", step.load(Ordering::Relaxed), said(&*panic)))?;
    assert!(finished.load(Ordering::Relaxed));
    Ok(())
}

/// What a node really does, which the balancer can only find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Healthy,
    /// Dials fail, CONNECTs are not answered.
    Dead,
    /// It evacuates, or is full.
    Refusing,
}

/// What becomes of one question to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    DialFailed,
    Accepted,
    /// A CONNACK that no other node could cure, or one that cannot be read: passed on.
    Passed,
    Refused,
    Busy,
    Silent,
    Late,
    /// The client's deadline has passed before the node's time was over.
    OutOfTime,
    /// The client has gone meanwhile.
    Gone,
}

/// How long a session outlives its connection.
#[derive(Clone, Copy, Debug)]
enum Keep {
    Nothing,
    For(Duration),
}

impl Keep {
    fn duration(self) -> Option<Duration> {
        match self {
            Self::Nothing => None,
            Self::For(duration) => Some(duration),
        }
    }
}

/// To the account of held bytes, all clients are from here.
const ONE_SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// So many places for those whose CONNECT is awaited. Nobody is evicted from them for another one of its own source, and never
/// has half of its time passed: who is evicted is not what this is about.
fn held_limits(undecided_max: usize) -> held::Limits {
    held::Limits {
        undecided_max,
        grace: Duration::MAX,
        ..held::Limits::default()
    }
}

struct Connection {
    number: u64,
    source: IpAddr,
    listener: usize,
    station: Station,
}

enum Station {
    /// Its CONNECT is awaited.
    AwaitingConnect {
        admitted: Admitted,
        _undecided: AwaitingConnect,
    },
    Greeting(Box<Greeting>),
    Relayed {
        node: NodeId,
        placement: PlacementKey,
        keep: Keep,
    },
}

struct Greeting {
    admitted: Admitted,
    key: Vec<u8>,
    home: Option<NodeId>,
    keep: Keep,
    route: Route,
    /// The snapshot that it was routed by.
    cluster: Arc<Cluster>,
    choice: Choice,
    permit: ConnectionPermit,
    offered: Vec<NodeId>,
    asked_at: Instant,
    attempts: Attempts,
    due: Instant,
    /// For the model: what has become of each attempt.
    answers: Vec<Answer>,
}

/// What the model knows of one placement.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    node: NodeId,
    owner: u64,
    expires: Option<Instant>,
    source: IpAddr,
    is_assigned: bool,
}

/// What the nodes really do, and what they answered to probes.
#[derive(Debug, Default)]
struct Nodes(Mutex<BTreeMap<String, Reality>>);

#[derive(Clone, Copy, Debug)]
struct Reality {
    nature: Nature,
    since: Instant,
    /// Probes in a row that failed.
    failed_probes: u32,
}

impl Nodes {
    fn of(&self, name: &str) -> Reality {
        self.0.lock().expect("no panic")[name]
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Reality)) {
        change(self.0.lock().expect("no panic").get_mut(name).expect("a node"));
    }
}

impl Prober for Nodes {
    fn probe(&self, target: Target) -> remora::control::Answer {
        let mut answer = Ok(());
        self.change(&target.node, |node| {
            node.failed_probes = match node.nature {
                Nature::Dead => node.failed_probes + 1,
                Nature::Healthy | Nature::Refusing => 0,
            };
            if node.nature == Nature::Dead {
                answer = Err(Unanswered {
                    was_asked: true,
                    address: None,
                    why: "it is dead".to_owned(),
                });
            }
        });
        Box::pin(std::future::ready(answer))
    }

    fn check(&self, _: NodeApi) -> remora::control::CheckAnswer {
        unreachable!("no node has an API here")
    }

    fn find(&self, _: remora::control::Source) -> remora::control::FindAnswer {
        unreachable!("no nodes are looked for here")
    }
}

struct World<'a> {
    rng: Rng,
    seen: &'a Seen,
    clusters: Arc<Clusters>,
    control: ControlHandle,
    reports: Reports,
    members: Vec<Member>,
    nodes: Arc<Nodes>,
    placements: Placements,
    admission: Arc<Admission>,
    populations: Vec<Arc<ListenerCount>>,
    limits: Limits,
    held: Arc<HeldBytes>,
    undecided_max: usize,
    listener_max: Option<usize>,
    connections: Vec<Connection>,
    accepted: u64,
    ended: BTreeMap<Ended, u64>,
    budget: Budget,
    // The model.
    began: Instant,
    /// In which seconds CONNECTs were accepted, and replayed.
    accepted_in: Vec<(u64, IpAddr)>,
    replayed_in: Vec<(u64, IpAddr)>,
    remembered: BTreeMap<u128, Remembered>,
    evicted: u64,
    /// Who was accepted last of each placement key.
    newest: BTreeMap<u128, u64>,
    /// The ring's first choice, by membership and client: never two.
    homes: BTreeMap<(Vec<(String, u16)>, usize), String>,
}

fn client_id(client: usize) -> Vec<u8> {
    format!("device-{client}").into_bytes()
}

fn member(name: &str, port: u16, weight: u16) -> Member {
    Member {
        name: name.to_owned(),
        endpoints: Endpoints::only(MemberEndpoint::plain(NodeAddress::Socket(SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            port,
        ))))),
        api: None,
        weight,
        connects_per_second: None,
        connections_max: None,
    }
}

fn settings() -> Settings {
    Settings {
        failures_max: FAILURES_MAX,
        down_min: PROBE_INTERVAL,
        down_max: PROBE_INTERVAL,
        ..Settings::default()
    }
}

/// The same cluster with nobody on it, so that it may be asked without a trace.
fn apart(cluster: &Cluster) -> Arc<Cluster> {
    Arc::new(cluster.with(|node| {
        node.load = Arc::default();
        node.endpoints.mqtt.passive = Arc::default();
    }))
}

fn state(node: &Node) -> NodeState {
    node.state_of(&node.endpoints.mqtt)
}

impl<'a> World<'a> {
    fn new(seed: u64, seen: &'a Seen) -> Self {
        let mut rng = Rng::with_seed(seed);
        let count = rng.usize(2..=NAMES.len() - 1);
        let members: Vec<Member> = NAMES[..count]
            .iter()
            .map(|name| member(name, 1_883, rng.u16(1..=4)))
            .collect();
        let (reports, to_control) = Reports::new();
        let healthy = Reality {
            nature: Nature::Healthy,
            since: Instant::now(),
            failed_probes: 0,
        };
        let nodes = NAMES.iter().map(|name| ((*name).to_owned(), healthy)).collect();
        let nodes = Arc::new(Nodes(Mutex::new(nodes)));
        let prober: Arc<dyn Prober> = Arc::<Nodes>::clone(&nodes);
        let (control, handle) = Control::new(settings(), &members, seed, to_control, prober);
        let clusters = control.clusters();
        tokio::task::spawn_local(control.run());
        Self {
            seen,
            clusters,
            control: handle,
            reports,
            members,
            nodes,
            placements: Placements::new(PLACEMENTS_MAX, AGE_MAX),
            admission: Arc::default(),
            populations: (0..LISTENERS).map(|_| Arc::default()).collect(),
            limits: Limits::default(),
            held: HeldBytes::new(held_limits(10_000)),
            undecided_max: 10_000,
            listener_max: None,
            connections: Vec::new(),
            accepted: 0,
            ended: BTreeMap::new(),
            budget: Budget::new(FREE_RETRIES),
            began: Instant::now(),
            accepted_in: Vec::new(),
            replayed_in: Vec::new(),
            remembered: BTreeMap::new(),
            evicted: 0,
            newest: BTreeMap::new(),
            homes: BTreeMap::new(),
            rng,
        }
    }

    async fn step(&mut self) {
        match self.rng.u32(0..1_000) {
            0..=329 => self.connect(),
            330..=569 => self.decide(),
            570..=819 => self.answer().await,
            820..=919 => self.disconnect(),
            920..=954 => {
                let time = Duration::from_millis(self.rng.u64(1..5_000));
                self.pass(time).await;
            }
            955..=959 => {
                let time = Duration::from_secs(self.rng.u64(60..30_000));
                self.pass(time).await;
            }
            960..=974 => self.change_nature(),
            975..=979 => self.drain_or_not().await,
            980..=981 => self.change_weight().await,
            982..=986 => self.reload().await,
            987..=992 => self.change_limits(),
            _ => self.tidy(),
        }
    }

    // Clients.

    fn connect(&mut self) {
        // Many come from one address.
        let number = if self.rng.u8(0..4) == 0 {
            0
        } else {
            self.rng.u8(0..SOURCES)
        };
        let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, number));
        let listener = self.rng.usize(0..LISTENERS);
        let number = self.accepted;
        self.accepted += 1;
        let expected = self.expected_refusal(source, listener);
        let entered = self
            .admission
            .enter(&self.populations[listener], self.listener_max, &self.limits);
        let reservation = self.held.reservation(Instant::now());
        let entered = entered.and_then(|mut admitted| {
            admitted.enter_source(source, &self.limits)?;
            let awaiting_connect = reservation.await_connect(ONE_SOURCE, 0, Instant::now());
            let awaiting_connect = awaiting_connect.map_err(|room| {
                assert_eq!(room, Room::Undecided);
                Ended::LimitUndecided
            })?;
            Ok((admitted, awaiting_connect))
        });
        match entered {
            Err(cause) => {
                assert_eq!(Some(cause), expected);
                self.seen.note("limited");
                self.end_with(cause);
            }
            Ok((admitted, awaiting_connect)) => {
                assert_eq!(expected, None, "let in");
                self.connections.push(Connection {
                    number,
                    source,
                    listener,
                    station: Station::AwaitingConnect {
                        admitted,
                        _undecided: awaiting_connect,
                    },
                });
            }
        }
    }

    /// Which limit a new connection meets, by counting.
    fn expected_refusal(&self, source: IpAddr, listener: usize) -> Option<Ended> {
        let count = |which: &dyn Fn(&&Connection) -> bool| self.connections.iter().filter(which).count();
        let meets = |count: usize, max: Option<usize>| max.is_some_and(|max| count >= max);
        let awaiting_connect = count(&|c| matches!(c.station, Station::AwaitingConnect { .. }));
        if meets(self.connections.len(), self.limits.connections_max) {
            Some(Ended::LimitTotal)
        } else if meets(count(&|c| c.listener == listener), self.listener_max) {
            Some(Ended::LimitListener)
        } else if meets(count(&|c| c.source == source), self.limits.connections_per_source_max) {
            Some(Ended::LimitSource)
        } else if meets(awaiting_connect, Some(self.undecided_max)) {
            Some(Ended::LimitUndecided)
        } else {
            None
        }
    }

    /// Takes out one connection at that station, if there is one.
    fn draw(&mut self, at: fn(&Station) -> bool) -> Option<Connection> {
        let places: Vec<usize> = (0..self.connections.len())
            .filter(|place| at(&self.connections[*place].station))
            .collect();
        let place = *places.get(self.rng.usize(0..places.len().max(1)))?;
        Some(self.connections.swap_remove(place))
    }

    /// A CONNECT was read, or something else, or nothing in time.
    fn decide(&mut self) {
        let Some(mut connection) = self.draw(|s| matches!(s, Station::AwaitingConnect { .. })) else {
            return;
        };
        let Station::AwaitingConnect { admitted, .. } = connection.station else {
            unreachable!("drawn so");
        };
        if self.rng.u8(..) < 12 {
            drop(admitted);
            return self.end_with(Ended::NotMqttJunk);
        }
        let client = self.rng.usize(0..CLIENTS);
        let anonymous = self.rng.u8(..) < 24;
        let key = if anonymous { Vec::new() } else { client_id(client) };
        let now = Instant::now();
        let hash = PlacementKey::of(&key).hash();
        let placed = hash.and_then(|hash| self.placements.find(hash, now));
        let cluster = self.clusters.current();
        let route = if key.is_empty() {
            let draws = [self.rng.u64(..), self.rng.u64(..)];
            route::route_anonymous(Arc::clone(&cluster), EndpointKind::Mqtt, draws)
        } else {
            route::route(Arc::clone(&cluster), EndpointKind::Mqtt, &key, placed)
        };
        let home = route.home().map(|node| node.id);
        if !key.is_empty() {
            self.check_home(&cluster, client, home);
            self.check_route(&cluster, &key, placed);
        }
        let keep = match self.rng.u8(0..4) {
            0 => Keep::For(Duration::MAX),
            1 => Keep::For(Duration::from_secs(self.rng.u64(1..7_200))),
            _ => Keep::Nothing,
        };
        let mut route = route;
        let Some(choice) = route.next() else {
            assert!(cluster.nodes().is_empty(), "there is always a node to dial");
            drop(admitted);
            return self.end_with(Ended::NoNode);
        };
        self.check_choice(&cluster, &choice, &[]);
        self.seen.note(choice.decision.name());
        let permit = choice.permit();
        connection.station = Station::Greeting(Box::new(Greeting {
            admitted,
            key,
            home,
            keep,
            route,
            cluster,
            offered: vec![choice.id],
            choice,
            permit,
            asked_at: now,
            attempts: Attempts::new(now + DEADLINE),
            due: now + DEADLINE,
            answers: Vec::new(),
        }));
        self.connections.push(connection);
    }

    /// One node answers, or does not.
    async fn answer(&mut self) {
        let Some(connection) = self.draw(|s| matches!(s, Station::Greeting(_))) else {
            return;
        };
        let Connection {
            number,
            source,
            listener,
            station,
        } = connection;
        let Station::Greeting(mut greeting) = station else {
            unreachable!("drawn so");
        };
        let answer = self.draw_answer(&greeting);
        let before = self.states();
        match answer {
            Answer::DialFailed | Answer::Late | Answer::Silent => {
                let witness = Witness {
                    client_id: (!greeting.key.is_empty()).then(|| u64::from(greeting.key[greeting.key.len() - 1])),
                    source,
                };
                let failure = match self.rng.u8(0..4) {
                    0 => Failure::Suspected,
                    _ => Failure::Of(witness),
                };
                self.reports.failed(&greeting.choice, failure);
            }
            Answer::Accepted | Answer::Passed | Answer::Refused | Answer::Busy => {
                self.reports.answered(&greeting.choice);
            }
            Answer::OutOfTime | Answer::Gone => {}
        }
        self.let_control_work().await;
        self.note_changes(&before);
        let outcome = match answer {
            Answer::Accepted | Answer::Passed => {
                let placement = self.accept(number, source, &greeting, answer);
                let Greeting {
                    admitted,
                    permit,
                    choice,
                    keep,
                    ..
                } = *greeting;
                permit.keep();
                admitted.keep();
                let station = Station::Relayed {
                    node: choice.id,
                    placement,
                    keep,
                };
                return self.connections.push(Connection {
                    number,
                    source,
                    listener,
                    station,
                });
            }
            Answer::Gone => {
                drop(greeting);
                return self.end_with(Ended::ClientReset);
            }
            Answer::DialFailed => Outcome::Unreachable,
            Answer::Busy | Answer::Refused => Outcome::Refused {
                retry: match answer {
                    Answer::Busy => RetryAt::SameNode,
                    _ => RetryAt::OtherNode,
                },
                connack: vec![0x20],
            },
            Answer::Silent => Outcome::SilentClose,
            Answer::Late => Outcome::TimedOut,
            Answer::OutOfTime => Outcome::DeadlinePassed,
        };
        let now = Instant::now();
        greeting.answers.push(answer);
        let expected = self.expected_next(&greeting, source, now);
        let second = self.second() as u32;
        let take = || self.budget.take(second, source);
        let next = greeting.attempts.note(outcome, now, take);
        assert_eq!(next, expected, "after {:?}", greeting.answers);
        let mut given_up = false;
        match next {
            Next::GiveUp => given_up = true,
            // The permit is given back and taken again.
            Next::SameNode => greeting.permit = greeting.choice.permit(),
            Next::OtherNode(_) => match greeting.route.next() {
                Some(choice) => {
                    let now = Instant::now();
                    self.check_choice(&greeting.cluster, &choice, &greeting.offered);
                    self.seen.note(choice.decision.name());
                    greeting.offered.push(choice.id);
                    greeting.permit = choice.permit();
                    greeting.choice = choice;
                    greeting.asked_at = now;
                }
                None => {
                    // Nobody that was up was left out: stickiness has refused no one.
                    for node in greeting.cluster.up(EndpointKind::Mqtt) {
                        assert!(greeting.offered.contains(&node.id), "{} was not asked", node.name);
                    }
                    given_up = true;
                }
            },
        }
        if given_up {
            let ended = greeting.attempts.ended();
            let was_asked = |answer: &Answer| matches!(answer, Answer::Refused | Answer::Busy | Answer::Silent);
            let expected = match greeting.answers.iter().any(was_asked) {
                true => Ended::Refused,
                false => Ended::NoNode,
            };
            assert_eq!(ended, expected, "after {:?}", greeting.answers);
            if ended == Ended::Refused {
                self.seen.note("refused");
            }
            let has_refused = |answer: &Answer| matches!(answer, Answer::Refused | Answer::Busy);
            let refused = greeting.answers.iter().any(has_refused);
            assert_eq!(greeting.attempts.last_connack().is_some(), refused);
            return self.end_with(ended);
        }
        self.connections.push(Connection {
            number,
            source,
            listener,
            station: Station::Greeting(greeting),
        });
    }

    fn second(&self) -> u64 {
        (Instant::now() - self.began).as_secs()
    }

    /// What must follow the last answer, worked out from all answers and all that was replayed and accepted before.
    fn expected_next(&mut self, greeting: &Greeting, source: IpAddr, now: Instant) -> Next {
        let count = |which: &[Answer]| greeting.answers.iter().filter(|answer| which.contains(answer)).count();
        let last = *greeting.answers.last().expect("an answer");
        let next = match last {
            Answer::OutOfTime => Next::GiveUp,
            Answer::DialFailed if now >= greeting.due => Next::GiveUp,
            Answer::Busy if count(&[Answer::Busy]) > 1 => Next::GiveUp,
            Answer::Busy => Next::SameNode,
            Answer::Silent if count(&[Answer::Silent]) > 1 => Next::GiveUp,
            _ if count(&[Answer::DialFailed, Answer::Silent, Answer::Refused, Answer::Late]) > OTHER_NODES => {
                Next::GiveUp
            }
            Answer::DialFailed => Next::OtherNode(Retry::Dial),
            Answer::Silent => Next::OtherNode(Retry::Silent),
            Answer::Refused => Next::OtherNode(Retry::Refused),
            Answer::Late => Next::OtherNode(Retry::Late),
            Answer::Accepted | Answer::Passed | Answer::Gone => unreachable!("not an attempt that failed"),
        };
        match next {
            Next::GiveUp if last == Answer::OutOfTime || now >= greeting.due => self.seen.note("out of time"),
            Next::GiveUp => {}
            Next::SameNode | Next::OtherNode(_) => {
                let second = self.second();
                let total = |of: &[(u64, IpAddr)]| {
                    let is_recent = |(then, _): &&(u64, IpAddr)| second - then < BUDGET_SECONDS;
                    of.iter().rev().take_while(is_recent).count() as u64
                };
                let own = |of: &[(u64, IpAddr)]| {
                    let is_now = |(then, _): &&(u64, IpAddr)| then / BUDGET_SECONDS == second / BUDGET_SECONDS;
                    let own = of.iter().rev().take_while(is_now).filter(|(_, by)| *by == source);
                    own.count() as u64
                };
                let (accepted, replayed) = (&self.accepted_in[..], &self.replayed_in[..]);
                let free = FREE_RETRIES * BUDGET_SECONDS;
                let has_earned = own(replayed) < own(accepted);
                let has_share = own(replayed) < own(accepted) + free / 2;
                if !(has_earned || has_share && total(replayed) < total(accepted) + free) {
                    self.seen.note("out of budget");
                    return Next::GiveUp;
                }
                self.seen.note("retried");
                self.replayed_in.push((second, source));
            }
        }
        next
    }

    fn draw_answer(&mut self, greeting: &Greeting) -> Answer {
        let known = greeting.cluster.known(greeting.choice.id).expect("a node");
        let nature = self.nodes.of(&known.name).nature;
        let patience_is_over = greeting.asked_at + PATIENCE <= Instant::now();
        let drawn = self.rng.u8(0..100);
        match (nature, drawn) {
            (_, 0..=2) => Answer::Gone,
            (Nature::Dead, _) if patience_is_over && greeting.due <= Instant::now() && drawn < 50 => Answer::OutOfTime,
            (Nature::Dead, _) if patience_is_over => Answer::Late,
            (Nature::Dead, _) => Answer::DialFailed,
            (_, 3..=5) => Answer::DialFailed,
            (Nature::Refusing, 6..=80) => Answer::Refused,
            (Nature::Refusing, _) => Answer::Busy,
            (_, 6..=7) => Answer::Silent,
            (_, 8..=9) => Answer::Busy,
            (_, 10..=12) => Answer::Refused,
            (_, 13..=16) => Answer::Passed,
            (Nature::Healthy, _) => Answer::Accepted,
        }
    }

    /// The node has taken the client: what `connection` does then, and what must be so afterwards.
    fn accept(&mut self, number: u64, source: IpAddr, greeting: &Greeting, answer: Answer) -> PlacementKey {
        let by_connect = PlacementKey::of(&greeting.key);
        if answer == Answer::Passed {
            return by_connect;
        }
        let second = self.second();
        self.budget.accepted(second as u32, source);
        self.accepted_in.push((second, source));
        let anonymous = greeting.key.is_empty();
        let given = client_id(self.rng.usize(0..CLIENTS));
        let assigned = (anonymous && self.rng.bool()).then_some(&*given);
        let node = greeting.choice.id;
        // As in `Greeted::is_exception`.
        let refused = greeting
            .answers
            .iter()
            .any(|answer| matches!(answer, Answer::Refused | Answer::Silent));
        assert_eq!(greeting.attempts.was_refused(), refused);
        let is_exception = refused || greeting.choice.decision == Decision::Placement;
        let settled = AcceptedClient {
            placement: by_connect,
            home: greeting.home,
            node,
            is_exception,
            assigned,
            owner: number,
            source,
        };
        let cluster = self.clusters.current();
        let room = self.room_for(source, assigned.is_some());
        let placement = route::remember_placement(&self.placements, &cluster, settled);
        let Some(hash) = placement.hash() else {
            assert!(anonymous);
            return placement;
        };
        self.newest.insert(hash, number);
        let found = self.placements.find(hash, Instant::now());
        let home = match assigned {
            None => greeting.home,
            Some(id) => {
                self.seen.note("assigned");
                route::route(cluster, EndpointKind::Mqtt, id, None)
                    .home()
                    .map(|node| node.id)
            }
        };
        let before = self.remembered.get(&hash).copied();
        if home == Some(node) || !(is_exception || assigned.is_some()) {
            // At home, or only as long as home is away.
            assert_eq!(found, None, "a placement that the ring makes needless");
            if self.remembered.remove(&hash).is_some() {
                self.seen.note("forgotten");
            }
        } else if room || before.is_some() {
            assert_eq!(found, Some(node), "an exception that is not remembered");
            self.seen.note("remembered");
            let remembered = Remembered {
                node,
                owner: number,
                expires: None,
                // Whom an entry was made for stays.
                source: before.map_or(source, |before| before.source),
                is_assigned: before.map_or(assigned.is_some(), |before| before.is_assigned),
            };
            self.remembered.insert(hash, remembered);
        } else {
            assert_eq!(found, None);
            self.evicted += 1;
            if self.remembered.len() < PLACEMENTS_MAX {
                self.seen.note("a source's share was used up");
            }
        }
        placement
    }

    /// Whether there is room for a new placement: half of the map for assigned ids, a tenth for a source of these, and for a source
    /// of others while the map is more than half full.
    fn room_for(&self, source: IpAddr, is_assigned: bool) -> bool {
        let entries = self.remembered.len();
        let of_source = self.remembered.values().filter(|entry| entry.source == source).count();
        let within_share = of_source < PLACEMENTS_OF_SOURCE_MAX;
        match (is_assigned, entries < PLACEMENTS_MAX / 2) {
            (true, true) => within_share,
            (true, false) => false,
            (false, true) => true,
            (false, false) => within_share && entries < PLACEMENTS_MAX,
        }
    }

    fn disconnect(&mut self) {
        let Some(connection) = self.draw(|s| matches!(s, Station::Relayed { .. })) else {
            return;
        };
        self.leave(connection);
    }

    /// What `connection` does at the end of a relay.
    fn leave(&mut self, connection: Connection) {
        let Station::Relayed { node, placement, keep } = connection.station else {
            unreachable!("relayed");
        };
        let known = self.clusters.current().known(node).cloned();
        known.expect("a node is known for ever").load.leave();
        let listener_count = &self.populations[connection.listener];
        drop(Admitted::kept(&self.admission, listener_count, connection.source));
        if let Some(hash) = placement.hash() {
            let now = Instant::now();
            let before = self.placements.find(hash, now);
            self.placements.ended(hash, connection.number, keep.duration(), now);
            let after = self.placements.find(hash, now);
            match self.remembered.get_mut(&hash) {
                Some(entry) if entry.owner == connection.number => match keep.duration() {
                    None => {
                        assert_eq!(after, None, "no session, no placement");
                        self.remembered.remove(&hash);
                    }
                    Some(keep) => {
                        assert_eq!(after, before);
                        entry.expires = Some(now + keep.min(AGE_MAX));
                    }
                },
                _ => assert_eq!(after, before, "another connection's entry was touched"),
            }
            if self
                .newest
                .get(&hash)
                .is_some_and(|newest| *newest != connection.number)
            {
                self.seen.note("an older connection ended after a newer one");
            }
        }
        self.end_with(Ended::ClientClosed);
    }

    fn end_with(&mut self, cause: Ended) {
        *self.ended.entry(cause).or_default() += 1;
    }

    // Nodes, time and the operator.

    fn states(&self) -> BTreeMap<NodeId, NodeState> {
        let cluster = self.clusters.current();
        cluster.nodes().iter().map(|n| (n.id, state(n))).collect()
    }

    /// What control has made of the nodes since `before`.
    fn note_changes(&mut self, before: &BTreeMap<NodeId, NodeState>) {
        let cluster = self.clusters.current();
        for node in cluster.nodes() {
            let was = before.get(&node.id).copied();
            let state = state(node);
            if was == Some(state) {
                continue;
            }
            match state {
                NodeState::Down => {
                    // Those that probes alone took down in the same step may have followed.
                    let is_before = |n: &&Node| {
                        let by_probes = self.nodes.of(&n.name).failed_probes >= FAILURES_MAX;
                        let was_down = before.get(&n.id) == Some(&NodeState::Down);
                        self::state(n) == NodeState::Down && (was_down || !by_probes)
                    };
                    let down = cluster.nodes().iter().filter(is_before).count();
                    let failed_probes = self.nodes.of(&node.name).failed_probes;
                    assert!(failed_probes > 0, "{} is down, and no probe has failed", node.name);
                    if failed_probes >= FAILURES_MAX {
                        self.seen.note("node down by probes alone");
                    } else {
                        // A reload may have removed a node since.
                        let count = cluster.nodes().len().max(before.len());
                        assert!(down * 2 <= count, "clients took down {down} of {count} nodes");
                    }
                    self.seen.note("node down");
                }
                NodeState::Up if was == Some(NodeState::Down) => self.seen.note("node back"),
                NodeState::Up | NodeState::Draining => {}
            }
        }
    }

    /// Control runs until there is nothing left for it to do.
    async fn let_control_work(&self) {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    async fn pass(&mut self, time: Duration) {
        let before = self.states();
        tokio::time::advance(time).await;
        self.let_control_work().await;
        self.note_changes(&before);
        let now = Instant::now();
        for node in self.clusters.current().nodes() {
            let reality = self.nodes.of(&node.name);
            if reality.nature != Nature::Dead && now - reality.since > PROBE_INTERVAL && time > PROBE_INTERVAL {
                assert_ne!(
                    state(node),
                    NodeState::Down,
                    "{} is well, and not taken back",
                    node.name
                );
            }
        }
    }

    fn change_nature(&mut self) {
        let name = NAMES[self.rng.usize(0..NAMES.len())];
        let nature = match self.rng.u8(0..5) {
            0..=1 => Nature::Dead,
            2 => Nature::Refusing,
            _ => Nature::Healthy,
        };
        let since = Instant::now();
        self.nodes.change(name, |node| {
            if node.nature == Nature::Dead || nature == Nature::Dead {
                node.since = since;
            }
            node.nature = nature;
        });
    }

    /// The operator drains a node, or takes that back.
    async fn drain_or_not(&mut self) {
        let before = self.clusters.current();
        let Some((id, is_draining)) = self.draw_node().map(|node| (node.id, node.is_draining)) else {
            return;
        };
        let wish = if is_draining { Wish::Up } else { Wish::Draining };
        self.control.set_wish(id, wish).await.expect("control answers");
        let after = self.clusters.current();
        assert_eq!(after.node(id).map(|node| node.is_draining), Some(!is_draining));
        self.check_moved(&before, &after);
        self.let_control_work().await;
        self.seen.note("wish");
    }

    /// The operator gives a node another weight than the configured one, or takes that back.
    async fn change_weight(&mut self) {
        let before = self.clusters.current();
        let Some((id, name)) = self.draw_node().map(|node| (node.id, Arc::clone(&node.name))) else {
            return;
        };
        let weight = self.rng.bool().then(|| self.rng.u16(1..=4));
        let wish = Wish::Weight(weight);
        self.control.set_wish(id, wish).await.expect("control answers");
        let after = self.clusters.current();
        let configured = self.members.iter().find(|member| *member.name == *name);
        let expected = weight.or(configured.map(|member| member.weight));
        assert_eq!(after.node(id).map(|node| node.weight), expected);
        self.check_moved_ring(&before, &after, &name);
        self.let_control_work().await;
        self.seen.note("weight override");
    }

    fn draw_node(&mut self) -> Option<Node> {
        let cluster = self.clusters.current();
        let nodes = cluster.nodes();
        nodes.get(self.rng.usize(0..nodes.len().max(1))).cloned()
    }

    async fn reload(&mut self) {
        let before = self.clusters.current();
        let mut members = self.members.clone();
        let name = NAMES[self.rng.usize(0..NAMES.len())];
        match members.iter().position(|member| member.name == name) {
            None => members.push(member(name, 1_883, self.rng.u16(1..=4))),
            Some(place) => match self.rng.u8(0..4) {
                0 | 1 if members.len() > 1 => drop(members.remove(place)),
                2 => members[place].weight = self.rng.u16(1..=4),
                _ => {
                    members[place] = member(name, self.rng.u16(1_884..1_999), members[place].weight);
                }
            },
        }
        self.rng.shuffle(&mut members);
        let states = self.states();
        let reload = Reload {
            settings: settings(),
            members: members.clone(),
            prober: Arc::<Nodes>::clone(&self.nodes),
        };
        for id in self.control.reload(reload).await.expect("control answers") {
            self.placements.forget_node(id);
            self.remembered.retain(|_, entry| entry.node != id);
        }
        self.members = members;
        let after = self.clusters.current();
        let mut names: Vec<&str> = self.members.iter().map(|m| &*m.name).collect();
        names.sort_unstable();
        assert!(after.nodes().iter().map(|n| &*n.name).eq(names));
        for node in before.nodes() {
            let is_draining = after.node(node.id).map(|after| after.is_draining);
            assert!(
                is_draining.is_none_or(|is_draining| is_draining == node.is_draining),
                "the wish for {} was lost",
                node.name
            );
        }
        for node in after.nodes().iter().filter(|n| !states.contains_key(&n.id)) {
            assert_ne!(state(node), NodeState::Down, "{} has only just come", node.name);
        }
        self.let_control_work().await;
        self.note_changes(&states);
        self.check_moved_ring(&before, &after, name);
    }

    fn change_limits(&mut self) {
        let mut draw = |most| self.rng.bool().then(|| self.rng.usize(1..most));
        let limits = Limits {
            connections_max: draw(120),
            connections_per_source_max: draw(40),
            connects_per_source_per_second: None,
        };
        self.undecided_max = draw(30).unwrap_or(10_000);
        self.held.set_limits(held_limits(self.undecided_max));
        self.listener_max = draw(60);
        self.limits = limits;
    }

    fn tidy(&mut self) {
        let now = Instant::now();
        self.placements.tidy(now);
        self.remembered
            .retain(|_, entry| entry.expires.is_none_or(|at| at > now));
        let mut gone = 0;
        if self.placements.evicted() > self.evicted {
            let placements = &self.placements;
            let mut own_are_gone = false;
            self.remembered.retain(|hash, entry| {
                let kept = placements.find(*hash, now).is_some();
                assert!(kept || entry.expires.is_some(), "a client that is here was evicted");
                gone += u64::from(!kept);
                own_are_gone |= !kept && !entry.is_assigned;
                kept
            });
            if gone > 0 {
                self.seen.note(RARE);
            }
            let mut left = self.remembered.values();
            let is_next = |entry: &Remembered| entry.is_assigned && entry.expires.is_some();
            assert!(
                !own_are_gone || !left.any(is_next),
                "an assigned id was kept for one of its client's own"
            );
        }
        self.evicted += gone;
        assert_eq!(self.placements.len(), self.remembered.len());
    }

    // What must hold.

    /// Whatever a node's state, its choice was allowed.
    fn check_choice(&mut self, cluster: &Cluster, choice: &Choice, offered: &[NodeId]) {
        assert!(!offered.contains(&choice.id), "the same node twice");
        let node = cluster.node(choice.id).expect("a node of the snapshot");
        let up_left = cluster.up(EndpointKind::Mqtt).find(|node| !offered.contains(&node.id));
        match state(node) {
            NodeState::Up => {}
            NodeState::Draining | NodeState::Down => {
                let up_left = up_left.map(|node| &node.name);
                assert_eq!(up_left, None, "{} was preferred to it", node.name);
                if state(node) == NodeState::Draining && offered.is_empty() {
                    self.seen.note("draining taken where none is up");
                }
            }
        }
    }

    /// The ring says the same of the same client whenever the same nodes are there.
    fn check_home(&mut self, cluster: &Cluster, client: usize, home: Option<NodeId>) {
        let Some(home) = home.and_then(|id| cluster.node(id)) else {
            return assert!(cluster.nodes().is_empty());
        };
        let membership = cluster.nodes().iter();
        let membership = membership.map(|n| (n.name.to_string(), n.weight)).collect();
        let known = self.homes.entry((membership, client));
        assert_eq!(*known.or_insert_with(|| home.name.to_string()), *home.name);
    }

    /// Without a placement the first choice is home where home is up; with one, no node is left out that would have been
    /// asked without.
    fn check_route(&self, cluster: &Cluster, key: &[u8], placed: Option<NodeId>) {
        let alone = apart(cluster);
        let all = |placed| -> Vec<NodeId> {
            let route = route::route(Arc::clone(&alone), EndpointKind::Mqtt, key, placed);
            route.map(|choice| choice.id).collect()
        };
        let without = all(None);
        let up: BTreeSet<NodeId> = cluster.up(EndpointKind::Mqtt).map(|node| node.id).collect();
        assert!(up.iter().all(|id| without.contains(id)));
        let home = route::route(Arc::clone(&alone), EndpointKind::Mqtt, key, None)
            .home()
            .map(|n| n.id);
        if let Some(home) = home
            && up.contains(&home)
        {
            assert_eq!(without[0], home);
        }
        if placed.is_some() {
            let with = all(placed);
            let set = |ids: &[NodeId]| ids.iter().copied().collect::<BTreeSet<_>>();
            assert_eq!(set(&with), set(&without), "stickiness left a node out");
            let follows = placed.is_some_and(|placed| up.contains(&placed));
            assert!(!follows || with.first() == placed.as_ref());
        }
    }

    /// One node's state has changed: only the clients whose first choice it was, or is, have moved.
    fn check_moved(&self, before: &Cluster, after: &Cluster) {
        if [before, after]
            .iter()
            .any(|cluster| cluster.up(EndpointKind::Mqtt).next().is_none())
        {
            return;
        }
        let (before_apart, after_apart) = (apart(before), apart(after));
        let changed: Vec<NodeId> = before
            .nodes()
            .iter()
            .zip(after.nodes())
            .filter(|(before, after)| state(before) != state(after))
            .map(|(before, _)| before.id)
            .collect();
        for client in 0..CLIENTS {
            let first = |cluster: &Arc<Cluster>| {
                let mut route = route::route(Arc::clone(cluster), EndpointKind::Mqtt, &client_id(client), None);
                route.next().map(|choice| choice.id)
            };
            let (was, is) = (first(&before_apart), first(&after_apart));
            let concerned = [was, is].into_iter().flatten().any(|id| changed.contains(&id));
            assert!(was == is || concerned, "client {client} was moved for nothing");
        }
    }

    /// The node `name` was added, removed, moved or weighted anew: homes have moved from it or to it, never past it.
    fn check_moved_ring(&self, before: &Cluster, after: &Cluster, name: &str) {
        let weight = |cluster: &Cluster| {
            let node = cluster.nodes().iter().find(|node| &*node.name == name);
            node.map_or(0, |node: &Node| node.weight)
        };
        let (was_weight, is_weight) = (weight(before), weight(after));
        for client in 0..CLIENTS {
            let home = |cluster: &Cluster| {
                let hash = cluster.ring().hash(&client_id(client));
                let place = cluster.ring().choices(hash).next().expect("a node");
                cluster.nodes()[place].name.clone()
            };
            let (was, is) = (home(before), home(after));
            if was != is {
                assert!(was_weight != is_weight, "client {client} was moved for nothing");
                let concerned = if is_weight < was_weight { was } else { is };
                assert_eq!(&*concerned, name, "client {client} was moved for nothing");
            }
        }
    }

    /// The balancer and the model agree.
    fn check(&mut self) {
        let cluster = self.clusters.current();
        let mut on_node = vec![0; cluster.all_known().len()];
        let (mut awaiting_connect, mut on_listener) = (0, [0; LISTENERS]);
        for connection in &self.connections {
            on_listener[connection.listener] += 1;
            match &connection.station {
                Station::AwaitingConnect { .. } => awaiting_connect += 1,
                Station::Greeting(greeting) => on_node[usize::from(greeting.choice.id.0)] += 1,
                Station::Relayed { node, .. } => on_node[usize::from(node.0)] += 1,
            }
        }
        assert_eq!(self.admission.connections(), self.connections.len());
        assert_eq!(self.held.awaiting_connect(), awaiting_connect);
        for (listener_count, count) in self.populations.iter().zip(on_listener) {
            assert_eq!(listener_count.connections(), count);
        }
        for (known, count) in cluster.all_known().iter().zip(on_node) {
            let counted = known.load.connections.load(Ordering::Relaxed);
            assert_eq!(counted, count, "connections on {}", known.name);
        }
        let ended: u64 = self.ended.values().sum();
        assert_eq!(ended + self.connections.len() as u64, self.accepted);

        assert!(self.placements.len() <= PLACEMENTS_MAX);
        assert_eq!(self.placements.evicted(), self.evicted);
        let now = Instant::now();
        let client = client_id(self.rng.usize(0..CLIENTS));
        let hash = PlacementKey::of(&client).hash().expect("a key");
        let expected = self
            .remembered
            .get(&hash)
            .filter(|entry| entry.expires.is_none_or(|at| at > now))
            .map(|entry| entry.node);
        assert_eq!(self.placements.find(hash, now), expected);
    }

    /// Everyone goes, and nothing is left.
    fn end(&mut self) {
        for connection in std::mem::take(&mut self.connections) {
            match connection.station {
                Station::Relayed { .. } => self.leave(connection),
                Station::AwaitingConnect { .. } | Station::Greeting(_) => {
                    drop(connection);
                    self.end_with(Ended::Shutdown);
                }
            }
        }
        self.check();
        assert_eq!(self.ended.values().sum::<u64>(), self.accepted);
        assert_eq!(self.admission.connections(), 0);
        // The map of sources is empty too, or this one would find no room.
        let one = Limits {
            connections_per_source_max: Some(1),
            ..Limits::default()
        };
        for source in 0..SOURCES {
            let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, source));
            let entered = self.admission.enter(&self.populations[0], None, &one);
            let mut admitted = entered.expect("room");
            let entered = admitted.enter_source(source, &one);
            assert!(entered.is_ok(), "{source} is still counted");
        }
        let cluster = self.clusters.current();
        for known in cluster.all_known() {
            assert_eq!(known.load.connections.load(Ordering::Relaxed), 0);
        }
        // What is left of the placements is forgotten in its time.
        self.placements.tidy(Instant::now() + AGE_MAX);
        assert!(self.placements.is_empty());
    }
}
