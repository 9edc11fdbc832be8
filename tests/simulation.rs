//! A seeded simulation of everything that decides: census, route, placements, the node's states as control folds them.
//!
//! One seed is one life of a balancer: a few thousand events, drawn at random, in virtual time. Clients come, are decided,
//! dialled, accepted, refused, left without an answer, and go; nodes die, come back, drain, are added, removed, moved and
//! weighted anew; limits change; time passes. The code that decides is the balancer's own; what stands between (sockets,
//! and the order of steps in `connection` and `greet`) is played here. Beside it runs a model that is too simple to be
//! wrong, and after every step both must agree.
//!
//! `REMORA_SEEDS=10000 cargo test --test simulation` tries more seeds; `REMORA_SEED=7` tries that one alone. A failure
//! names its seed and step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use remora::accept::{Admitted, Census, Limits, Population, Undecided};
use remora::cluster::{
    Choice, Cluster, Clusters, Decision, EndpointKind, Endpoints, Member, MemberEndpoint, Node,
    NodeAddress, NodeId, NodeState, Reports, Seat,
};
use remora::control::{Control, Order, Settings};
use remora::ended::Ended;
use remora::record::PlacementKey;
use remora::route::{self, Placements, Route, Settled};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

const SEEDS: u64 = 256;
const STEPS: usize = 3_000;

/// Clients that come again and again.
const CLIENTS: usize = 48;
/// Names that nodes may have.
const NAMES: [&str; 6] = ["emqx1", "emqx2", "emqx3", "emqx4", "emqx5", "emqx6"];
const SOURCES: u8 = 5;
const LISTENERS: usize = 2;
/// Few enough to be met.
const PLACEMENTS_MAX: usize = 24;
const AGE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// How long dialling and greeting a node may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// As in `greet`.
const REFUSALS_MORE: u8 = 2;

#[test]
fn what_must_hold_holds_after_every_step_of_every_seed() {
    let number = |name: &str| {
        let value = std::env::var(name).ok()?;
        Some(value.parse::<u64>().expect("a number"))
    };
    let seeds: Vec<u64> = match number("REMORA_SEED") {
        Some(seed) => vec![seed],
        None => (0..number("REMORA_SEEDS").unwrap_or(SEEDS)).collect(),
    };
    let (next, seen) = (AtomicUsize::new(0), Seen::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            std::iter::from_fn(|| seeds.get(next.fetch_add(1, Ordering::Relaxed)))
                .find_map(|seed| live(*seed, &seen).err())
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results
            .filter_map(|result| result.expect("caught"))
            .collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    // A simulation in which the thing never happens proves nothing about it.
    for (what, count) in seen.0.iter() {
        let count = count.load(Ordering::Relaxed);
        assert!(count >= seeds.len(), "{what}: only {count} times");
    }
}

/// What happened, over all seeds.
struct Seen(BTreeMap<&'static str, AtomicUsize>);

const WHATS: &[&str] = &[
    "home",
    "placement",
    "spill",
    "anonymous",
    "trial",
    "remembered",
    "forgotten",
    "assigned",
    "limited",
    "refused",
    "node down",
    "node back",
    "draining taken where none is up",
    "an older connection ended after a newer one",
];

impl Default for Seen {
    fn default() -> Self {
        Self(
            WHATS
                .iter()
                .map(|what| (*what, AtomicUsize::new(0)))
                .collect(),
        )
    }
}

impl Seen {
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
        runtime.block_on(async {
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
    std::panic::catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied());
        format!(
            "seed {seed}, step {}: {}",
            step.load(Ordering::Relaxed),
            said.unwrap_or("panicked")
        )
    })?;
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

struct Connection {
    number: u64,
    source: IpAddr,
    listener: usize,
    station: Station,
}

enum Station {
    /// Its CONNECT is awaited.
    Undecided {
        admitted: Admitted,
        _undecided: Undecided,
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
    seat: Seat,
    offered: Vec<NodeId>,
    asked_at: Instant,
    refusals: u8,
    retries: u8,
    silent: bool,
    busy: bool,
}

/// What the model knows of one placement.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    node: NodeId,
    owner: u64,
    expires: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    offered_at: Instant,
    taken: bool,
    reported: bool,
}

struct World<'a> {
    rng: Rng,
    seen: &'a Seen,
    clusters: Arc<Clusters>,
    orders: mpsc::Sender<Order>,
    reports: Reports,
    members: Vec<Member>,
    natures: BTreeMap<String, Nature>,
    placements: Placements,
    census: Arc<Census>,
    populations: Vec<Arc<Population>>,
    limits: Limits,
    listener_max: Option<usize>,
    connections: Vec<Connection>,
    accepted: u64,
    ended: BTreeMap<Ended, u64>,
    // The model.
    remembered: BTreeMap<u128, Remembered>,
    evicted: u64,
    /// Who was accepted last of each placement key.
    newest: BTreeMap<u128, u64>,
    /// The ring's first choice, by membership and client: never two.
    homes: BTreeMap<(Vec<(String, u16)>, usize), String>,
    /// The trial that was offered last of each node.
    trials: BTreeMap<NodeId, Trial>,
}

fn client_id(client: usize) -> Vec<u8> {
    format!("device-{client}").into_bytes()
}

fn member(name: &str, port: u16, weight: u16) -> Member {
    Member {
        name: name.to_owned(),
        endpoints: Endpoints::only(MemberEndpoint::plain(NodeAddress::Socket(
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        ))),
        weight,
    }
}

fn settings() -> Settings {
    Settings {
        failures_max: 3,
        down_min: Duration::from_secs(1),
        down_max: Duration::from_secs(30),
        ..Settings::default()
    }
}

/// The same cluster with nobody on it, so that it may be asked without a trace.
fn apart(cluster: &Cluster) -> Arc<Cluster> {
    Arc::new(cluster.with(|node| {
        node.live = Arc::default();
        node.endpoints.mqtt.pulse = Arc::default();
    }))
}

fn state(node: &Node) -> NodeState {
    node.state_of(&node.endpoints.mqtt)
}

/// Whether a client was taken to where the node is in its snapshot.
fn is_endpoint_of(choice: &Choice, node: &Node) -> bool {
    Arc::ptr_eq(&choice.endpoint.pulse, &node.endpoints.mqtt.pulse)
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
        let (control, orders) = Control::new(settings(), &members, seed, to_control, PATIENCE);
        let clusters = control.clusters();
        tokio::spawn(control.run());
        Self {
            seen,
            clusters,
            orders,
            reports,
            members,
            natures: NAMES
                .iter()
                .map(|name| ((*name).to_owned(), Nature::Healthy))
                .collect(),
            placements: Placements::new(PLACEMENTS_MAX, AGE_MAX),
            census: Arc::default(),
            populations: (0..LISTENERS).map(|_| Arc::default()).collect(),
            limits: Limits::default(),
            listener_max: None,
            connections: Vec::new(),
            accepted: 0,
            ended: BTreeMap::new(),
            remembered: BTreeMap::new(),
            evicted: 0,
            newest: BTreeMap::new(),
            homes: BTreeMap::new(),
            trials: BTreeMap::new(),
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
            975..=980 => self.drain_or_not(),
            981..=986 => self.reload().await,
            987..=992 => self.change_limits(),
            _ => self.tidy(),
        }
    }

    // Clients.

    fn connect(&mut self) {
        let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, self.rng.u8(0..SOURCES)));
        let listener = self.rng.usize(0..LISTENERS);
        let number = self.accepted;
        self.accepted += 1;
        let expected = self.expected_refusal(source, listener);
        let entered =
            self.census
                .enter(&self.populations[listener], self.listener_max, &self.limits);
        let entered = entered.and_then(|(mut admitted, undecided)| {
            admitted.enter_source(source, &self.limits)?;
            Ok((admitted, undecided))
        });
        match entered {
            Err(cause) => {
                assert_eq!(Some(cause), expected);
                self.seen.note("limited");
                self.end_with(cause);
            }
            Ok((admitted, undecided)) => {
                assert_eq!(expected, None, "let in");
                self.connections.push(Connection {
                    number,
                    source,
                    listener,
                    station: Station::Undecided {
                        admitted,
                        _undecided: undecided,
                    },
                });
            }
        }
    }

    /// Which limit a new connection meets, by counting.
    fn expected_refusal(&self, source: IpAddr, listener: usize) -> Option<Ended> {
        let count =
            |which: &dyn Fn(&&Connection) -> bool| self.connections.iter().filter(which).count();
        let meets = |count: usize, max: Option<usize>| max.is_some_and(|max| count >= max);
        let undecided = count(&|c| matches!(c.station, Station::Undecided { .. }));
        if meets(self.connections.len(), self.limits.connections_max) {
            Some(Ended::LimitTotal)
        } else if meets(count(&|c| c.listener == listener), self.listener_max) {
            Some(Ended::LimitListener)
        } else if meets(undecided, Some(self.limits.undecided_max)) {
            Some(Ended::LimitUndecided)
        } else if meets(
            count(&|c| c.source == source),
            self.limits.connections_per_source_max,
        ) {
            Some(Ended::LimitSource)
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
        let Some(mut connection) = self.draw(|s| matches!(s, Station::Undecided { .. })) else {
            return;
        };
        let Station::Undecided { admitted, .. } = connection.station else {
            unreachable!("drawn so");
        };
        if self.rng.u8(..) < 12 {
            drop(admitted);
            return self.end_with(Ended::NotMqttJunk);
        }
        let client = self.rng.usize(0..CLIENTS);
        let anonymous = self.rng.u8(..) < 24;
        let key = if anonymous {
            Vec::new()
        } else {
            client_id(client)
        };
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
            assert!(
                cluster.nodes().is_empty(),
                "there is always somebody to dial"
            );
            drop(admitted);
            return self.end_with(Ended::NoNode);
        };
        self.check_choice(&cluster, &choice, &[]);
        self.seen.note(choice.decision.name());
        let seat = choice.seat();
        connection.station = Station::Greeting(Box::new(Greeting {
            admitted,
            key,
            home,
            keep,
            route,
            cluster,
            offered: vec![choice.id],
            choice,
            seat,
            asked_at: now,
            refusals: 0,
            retries: 0,
            silent: false,
            busy: false,
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
        if greeting.choice.trial
            && !matches!(answer, Answer::Silent | Answer::Gone)
            && let Some(trial) = self.trials.get_mut(&greeting.choice.id)
        {
            trial.reported = true;
        }
        match answer {
            Answer::DialFailed | Answer::Late => self.reports.failed(&greeting.choice),
            Answer::Accepted | Answer::Passed | Answer::Refused | Answer::Busy => {
                self.reports.answered(&greeting.choice);
            }
            Answer::Silent | Answer::Gone => {}
        }
        self.let_control_work().await;
        self.note_changes(&before);
        // The same steps as in `greet::through`.
        let mut given_up = false;
        let mut same_again = false;
        match answer {
            Answer::Accepted | Answer::Passed => {
                let placement = self.accept(number, &greeting, answer);
                let Greeting {
                    admitted,
                    seat,
                    choice,
                    keep,
                    ..
                } = *greeting;
                seat.keep();
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
            Answer::DialFailed => {}
            Answer::Busy if greeting.busy => given_up = true,
            Answer::Busy => {
                greeting.busy = true;
                same_again = true;
            }
            Answer::Silent if greeting.silent => given_up = true,
            Answer::Silent | Answer::Refused | Answer::Late => {
                greeting.silent |= answer == Answer::Silent;
                greeting.refusals += u8::from(answer != Answer::Late);
                greeting.retries += 1;
                given_up = greeting.retries > REFUSALS_MORE;
            }
        }
        if same_again {
            // The seat is given back and taken again.
            greeting.seat = greeting.choice.seat();
        } else if !given_up {
            match greeting.route.next() {
                Some(choice) => {
                    let now = Instant::now();
                    self.check_choice(&greeting.cluster, &choice, &greeting.offered);
                    self.seen.note(choice.decision.name());
                    greeting.offered.push(choice.id);
                    greeting.seat = choice.seat();
                    greeting.choice = choice;
                    greeting.asked_at = now;
                }
                None => {
                    // Nobody that was up was left out: stickiness has refused no one.
                    for node in greeting.cluster.up(EndpointKind::Mqtt) {
                        assert!(
                            greeting.offered.contains(&node.id),
                            "{} was not asked",
                            node.name
                        );
                    }
                    given_up = true;
                }
            }
        }
        if given_up {
            self.seen.note("refused");
            drop(greeting);
            return self.end_with(Ended::Refused);
        }
        self.connections.push(Connection {
            number,
            source,
            listener,
            station: Station::Greeting(greeting),
        });
    }

    fn draw_answer(&mut self, greeting: &Greeting) -> Answer {
        let known = greeting.cluster.known(greeting.choice.id).expect("a node");
        let nature = self.natures[&*known.name];
        let patience_is_over = greeting.asked_at + PATIENCE <= Instant::now();
        let drawn = self.rng.u8(0..100);
        match (nature, drawn) {
            (_, 0..=2) => Answer::Gone,
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
    fn accept(&mut self, number: u64, greeting: &Greeting, answer: Answer) -> PlacementKey {
        let by_connect = PlacementKey::of(&greeting.key);
        if answer == Answer::Passed {
            return by_connect;
        }
        let anonymous = greeting.key.is_empty();
        let given = client_id(self.rng.usize(0..CLIENTS));
        let assigned = (anonymous && self.rng.bool()).then_some(&*given);
        let node = greeting.choice.id;
        // As in `Greeted::is_exception`.
        let is_exception = greeting.refusals > 0 || greeting.choice.decision == Decision::Placement;
        let settled = Settled {
            placement: by_connect,
            home: greeting.home,
            node,
            is_exception,
            assigned,
            owner: number,
        };
        let cluster = self.clusters.current();
        let room = self.placements.len() < PLACEMENTS_MAX;
        let placement = route::settle(&self.placements, &cluster, settled);
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
        let known = self.remembered.contains_key(&hash);
        if home == Some(node) || !(is_exception || assigned.is_some()) {
            // At home, or only as long as home is away.
            assert_eq!(found, None, "a placement that the ring makes needless");
            if self.remembered.remove(&hash).is_some() {
                self.seen.note("forgotten");
            }
        } else if room || known {
            assert_eq!(found, Some(node), "an exception that is not remembered");
            self.seen.note("remembered");
            let remembered = Remembered {
                node,
                owner: number,
                expires: None,
            };
            self.remembered.insert(hash, remembered);
        } else {
            assert_eq!(found, None);
            self.evicted += 1;
        }
        placement
    }

    fn disconnect(&mut self) {
        let Some(connection) = self.draw(|s| matches!(s, Station::Relayed { .. })) else {
            return;
        };
        self.leave(connection);
    }

    /// What `connection` does at the end of a relay.
    fn leave(&mut self, connection: Connection) {
        let Station::Relayed {
            node,
            placement,
            keep,
        } = connection.station
        else {
            unreachable!("relayed");
        };
        let known = self.clusters.current().known(node).cloned();
        known.expect("a node is known for ever").live.leave();
        self.census
            .leave(&self.populations[connection.listener], connection.source);
        if let Some(hash) = placement.hash() {
            let now = Instant::now();
            let before = self.placements.find(hash, now);
            self.placements
                .ended(hash, connection.number, keep.duration(), now);
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
                self.seen
                    .note("an older connection ended after a newer one");
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
        let (cluster, now) = (self.clusters.current(), Instant::now());
        for node in cluster.nodes() {
            let was = before.get(&node.id).copied();
            let state = state(node);
            if was != Some(state) {
                self.trials.remove(&node.id);
                match state {
                    NodeState::Down => self.seen.note("node down"),
                    NodeState::Up if was == Some(NodeState::Down) => self.seen.note("node back"),
                    NodeState::Up | NodeState::Draining => {}
                }
            }
            let is_offered = node.endpoints.mqtt.pulse.trial.load(Ordering::Relaxed);
            let last = self.trials.get(&node.id).copied();
            if !is_offered || last.is_some_and(|last| !last.taken) {
                continue;
            }
            assert_eq!(state, NodeState::Down, "a trial of {}", node.name);
            // One at a time: the next only when the last was reported on, or nobody will any more.
            if let Some(last) = last.filter(|last| !last.reported) {
                let since = now - last.offered_at;
                assert!(
                    since >= PATIENCE,
                    "{} on trial again after {since:?}",
                    node.name
                );
            }
            let trial = Trial {
                offered_at: now,
                taken: false,
                reported: false,
            };
            self.trials.insert(node.id, trial);
        }
    }

    /// Control runs until there is nothing left for it to do.
    async fn let_control_work(&self) {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }

    async fn pass(&mut self, time: Duration) {
        let before = self.states();
        tokio::time::advance(time).await;
        self.let_control_work().await;
        self.note_changes(&before);
    }

    fn change_nature(&mut self) {
        let name = NAMES[self.rng.usize(0..NAMES.len())];
        let nature = match self.rng.u8(0..5) {
            0..=1 => Nature::Dead,
            2 => Nature::Refusing,
            _ => Nature::Healthy,
        };
        self.natures.insert(name.to_owned(), nature);
    }

    /// The operator drains a node, or takes that back.
    fn drain_or_not(&mut self) {
        let before = self.clusters.current();
        if before.nodes().is_empty() {
            return;
        }
        let id = before.nodes()[self.rng.usize(0..before.nodes().len())].id;
        let after = before.with(|node| {
            if node.id == id {
                node.is_draining = !node.is_draining;
            }
        });
        self.check_moved(&before, &after);
        self.clusters.publish(after);
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
                    members[place] =
                        member(name, self.rng.u16(1_884..1_999), members[place].weight);
                }
            },
        }
        self.rng.shuffle(&mut members);
        let states = self.states();
        let (reply, removed) = oneshot::channel();
        let order = Order::Reload {
            settings: settings(),
            members: members.clone(),
            patience: PATIENCE,
            reply,
        };
        self.orders.send(order).await.expect("control lives");
        for id in removed.await.expect("control answers") {
            self.placements.forget_node(id);
            self.remembered.retain(|_, entry| entry.node != id);
        }
        self.members = members;
        let after = self.clusters.current();
        let mut names: Vec<&str> = self.members.iter().map(|m| &*m.name).collect();
        names.sort_unstable();
        assert!(after.nodes().iter().map(|n| &*n.name).eq(names));
        for node in after.nodes().iter().filter(|n| !states.contains_key(&n.id)) {
            let failures = node.endpoints.mqtt.pulse.failures.load(Ordering::Relaxed);
            assert_eq!(failures, 0, "{} has only just come", node.name);
        }
        self.let_control_work().await;
        self.trials.retain(|id, _| after.node(*id).is_some());
        self.note_changes(&states);
        self.check_moved_ring(&before, &after, name);
    }

    fn change_limits(&mut self) {
        let mut draw = |most| self.rng.bool().then(|| self.rng.usize(1..most));
        let limits = Limits {
            connections_max: draw(120),
            connections_per_source_max: draw(40),
            undecided_max: draw(30).unwrap_or(10_000),
            handshakes_max: 1,
        };
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
            self.remembered.retain(|hash, entry| {
                let kept = placements.find(*hash, now).is_some();
                assert!(
                    kept || entry.expires.is_some(),
                    "a client that is here was evicted"
                );
                gone += u64::from(!kept);
                kept
            });
        }
        self.evicted += gone;
        assert_eq!(self.placements.len(), self.remembered.len());
    }

    // What must hold.

    /// Whatever a node's state, its choice was allowed.
    fn check_choice(&mut self, cluster: &Cluster, choice: &Choice, offered: &[NodeId]) {
        assert!(!offered.contains(&choice.id), "the same node twice");
        let node = cluster.node(choice.id).expect("a node of the snapshot");
        let up_left = cluster
            .up(EndpointKind::Mqtt)
            .find(|node| !offered.contains(&node.id));
        match state(node) {
            NodeState::Up => assert!(!choice.trial),
            NodeState::Down if choice.trial => {
                self.seen.note("trial");
                // One that was removed meanwhile may still have one to give, to those who were routed before.
                // So has one that has moved since.
                let now = self.clusters.current();
                let is_the_same = now
                    .node(choice.id)
                    .is_some_and(|node| is_endpoint_of(choice, node));
                if is_the_same {
                    let trial = self.trials.get_mut(&choice.id).expect("offered");
                    assert!(!trial.taken, "two take one trial of {}", node.name);
                    trial.taken = true;
                }
            }
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
                let mut route = route::route(
                    Arc::clone(cluster),
                    EndpointKind::Mqtt,
                    &client_id(client),
                    None,
                );
                route.next().map(|choice| choice.id)
            };
            let (was, is) = (first(&before_apart), first(&after_apart));
            let concerned = [was, is]
                .into_iter()
                .flatten()
                .any(|id| changed.contains(&id));
            assert!(
                was == is || concerned,
                "client {client} was moved for nothing"
            );
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
                assert!(
                    was_weight != is_weight,
                    "client {client} was moved for nothing"
                );
                let concerned = if is_weight < was_weight { was } else { is };
                assert_eq!(&*concerned, name, "client {client} was moved for nothing");
            }
        }
    }

    /// The balancer and the model agree.
    fn check(&mut self) {
        let cluster = self.clusters.current();
        let mut on_node = vec![0; cluster.all_known().len()];
        let (mut undecided, mut on_listener) = (0, [0; LISTENERS]);
        for connection in &self.connections {
            on_listener[connection.listener] += 1;
            match &connection.station {
                Station::Undecided { .. } => undecided += 1,
                Station::Greeting(greeting) => on_node[usize::from(greeting.choice.id.0)] += 1,
                Station::Relayed { node, .. } => on_node[usize::from(node.0)] += 1,
            }
        }
        assert_eq!(self.census.connections(), self.connections.len());
        assert_eq!(self.census.undecided(), undecided);
        for (population, count) in self.populations.iter().zip(on_listener) {
            assert_eq!(population.connections(), count);
        }
        for (known, count) in cluster.all_known().iter().zip(on_node) {
            let counted = known.live.connections.load(Ordering::Relaxed);
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
                Station::Undecided { .. } | Station::Greeting(_) => {
                    drop(connection);
                    self.end_with(Ended::Shutdown);
                }
            }
        }
        self.check();
        assert_eq!(self.ended.values().sum::<u64>(), self.accepted);
        assert_eq!(self.census.connections(), 0);
        // The map of sources is empty too, or this one would find no room.
        let one = Limits {
            connections_per_source_max: Some(1),
            ..Limits::default()
        };
        for source in 0..SOURCES {
            let source = IpAddr::V4(Ipv4Addr::new(10, 0, 0, source));
            let entered = self.census.enter(&self.populations[0], None, &one);
            let (mut admitted, _undecided) = entered.expect("room");
            let entered = admitted.enter_source(source, &one);
            assert!(entered.is_ok(), "{source} is still counted");
        }
        let cluster = self.clusters.current();
        for known in cluster.all_known() {
            assert_eq!(known.live.connections.load(Ordering::Relaxed), 0);
        }
        // What is left of the placements is forgotten in its time.
        self.placements.tidy(Instant::now() + AGE_MAX);
        assert!(self.placements.is_empty());
    }
}
