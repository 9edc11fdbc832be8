//! Decides what the cluster is: folds names resolved, dials failed and the operator's wishes into published snapshots.
//!
//! The one writer of the cluster, on a thread of its own. The path reads the newest snapshot and never waits for the next.

mod health;
mod resolve;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::cluster::{
    Cluster, Clusters, Endpoint, Endpoints, Known, Live, Member, MemberEndpoint, Node, NodeAddress,
    NodeId, Observed, Pulse, Report,
};

use health::{Change, Health};

/// When a node counts as down, and how often names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failed dials or greet timeouts in a row that make a node down.
    pub failures_max: u32,
    /// How long a node stays down the first time; doubles each time a trial fails.
    pub down_min: Duration,
    /// How long a node stays down at most before the next trial.
    pub down_max: Duration,
    /// Between two look-ups of a node's host name.
    pub resolve_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures_max: 3,
            down_min: Duration::from_secs(1),
            down_max: Duration::from_secs(30),
            resolve_interval: Duration::from_secs(30),
        }
    }
}

/// How long one look-up of a host name may take before the listeners open without its answer.
const FIRST_LOOKUP_MAX: Duration = Duration::from_secs(3);

/// Answers of the resolver that wait at most.
const LOOKUPS_MAX: usize = 64;

/// A node that has just failed is looked up again, but not more often than this.
const LOOKUP_AFTER_FAILURE_MIN: Duration = Duration::from_secs(1);

/// What control is told from outside.
#[derive(Debug)]
pub enum Order {
    /// Go on with other nodes and settings; the answer is the ids of the nodes that are not in the cluster any more.
    Reload {
        /// When a node counts as down, and how often names are resolved.
        settings: Settings,
        /// The nodes from now on. One whose name was known before keeps its id and its clients.
        members: Vec<Member>,
        /// How long dialling and greeting a node may take.
        patience: Duration,
        /// Who asked.
        reply: oneshot::Sender<Vec<NodeId>>,
    },
}

/// Orders that wait for control at most.
const ORDERS_MAX: usize = 8;

/// What control knows of one node besides its snapshot.
#[derive(Debug)]
struct Watched {
    id: NodeId,
    name: Arc<str>,
    places: Endpoints<Place>,
    weight: u16,
    live: Arc<Live>,
}

/// What control knows of one of a node's endpoints.
#[derive(Clone, Debug)]
struct Place {
    written: MemberEndpoint,
    /// When its host name is looked up next; never for a plain address.
    lookup_at: Option<Instant>,
    looked_up: Option<Instant>,
    health: Health,
    pulse: Arc<Pulse>,
}

/// The one writer of the cluster.
#[derive(Debug)]
pub struct Control {
    settings: Settings,
    clusters: Arc<Clusters>,
    watched: Vec<Watched>,
    reports: mpsc::Receiver<Report>,
    orders: mpsc::Receiver<Order>,
    seed: u64,
    /// How long the trial of a node may take until it is offered to somebody else.
    patience: Duration,
    found: mpsc::Receiver<resolve::Found>,
    finder: mpsc::Sender<resolve::Found>,
}

impl Control {
    /// Control over `members`, with a first snapshot in which every node is up and host names are not resolved yet.
    ///
    /// `patience` is how long dialling and greeting a node may take. Builds the ring, so this is no work for a worker.
    pub fn new(
        settings: Settings,
        members: &[Member],
        seed: u64,
        reports: mpsc::Receiver<Report>,
        patience: Duration,
    ) -> (Self, mpsc::Sender<Order>) {
        let watched: Vec<Watched> = members
            .iter()
            .zip(0..)
            .map(|(member, number)| Watched::new(member, NodeId(number), Arc::default()))
            .collect();
        let nodes = watched.iter().map(|watched| watched.node(None)).collect();
        let known = watched
            .iter()
            .map(|watched| Known {
                name: Arc::clone(&watched.name),
                live: Arc::clone(&watched.live),
            })
            .collect();
        // One look-up of a node is under way at a time, and each waits for room when its answer is there.
        let (finder, found) = mpsc::channel(LOOKUPS_MAX);
        let (orders, to_control) = mpsc::channel(ORDERS_MAX);
        let control = Self {
            settings,
            clusters: Clusters::new(Cluster::new(nodes, known, seed)),
            watched,
            reports,
            orders: to_control,
            seed,
            patience,
            found,
            finder,
        };
        (control, orders)
    }

    /// Where the snapshots are published.
    pub fn clusters(&self) -> Arc<Clusters> {
        Arc::clone(&self.clusters)
    }

    /// Looks all host names up once; an unresolvable one is a warning, and is tried again later.
    pub async fn resolve_at_start(&mut self) {
        let due = Instant::now() + FIRST_LOOKUP_MAX;
        let mut missing = self.look_up_due(Instant::now());
        while missing > 0 {
            let Ok(Some(found)) = tokio::time::timeout_at(due, self.found.recv()).await else {
                tracing::warn!(
                    missing,
                    "host names are still being looked up: going on without them"
                );
                return;
            };
            missing -= 1;
            self.take_found(found);
        }
    }

    /// Keeps the cluster true until nobody is left who could give an order.
    pub async fn run(mut self) {
        loop {
            let wake = self.next_deadline();
            tokio::select! {
                order = self.orders.recv() => match order {
                    Some(order) => self.take_order(order),
                    None => return,
                },
                Some(report) = self.reports.recv() => self.take_report(report, Instant::now()),
                Some(found) = self.found.recv() => self.take_found(found),
                () = sleep_until(wake) => {}
            }
            let now = Instant::now();
            self.offer_trials(now);
            self.look_up_due(now);
        }
    }

    fn take_order(&mut self, order: Order) {
        let Order::Reload {
            settings,
            members,
            patience,
            reply,
        } = order;
        self.settings = settings;
        self.patience = patience;
        let removed = self.replace(&members);
        // Whoever asked has gone: the cluster has changed all the same.
        let _ = reply.send(removed);
    }

    /// Goes on with these nodes, and says which are not in the cluster any more.
    fn replace(&mut self, members: &[Member]) -> Vec<NodeId> {
        let before = self.clusters.current();
        let mut known = before.all_known().to_vec();
        let mut leaving = std::mem::take(&mut self.watched);
        for member in members {
            let staying = leaving
                .iter()
                .position(|watched| *watched.name == *member.name);
            let watched = match staying.map(|place| leaving.swap_remove(place)) {
                Some(watched) => watched.written_as(member),
                None => {
                    tracing::info!(node = %member.name, address = %member.endpoints.mqtt.address, "node added");
                    let place = known.iter().position(|known| *known.name == *member.name);
                    let place = place.unwrap_or_else(|| {
                        known.push(Known {
                            name: member.name.as_str().into(),
                            live: Arc::default(),
                        });
                        known.len() - 1
                    });
                    Watched::new(member, NodeId(place as u16), Arc::clone(&known[place].live))
                }
            };
            self.watched.push(watched);
        }
        let nodes = self
            .watched
            .iter()
            .map(|watched| watched.node(before.node(watched.id)));
        let cluster = Cluster::new(nodes.collect(), known.into(), self.seed);
        self.clusters.publish(cluster);
        for watched in &leaving {
            tracing::info!(node = %watched.name, "node removed: its connections live on");
        }
        leaving.iter().map(|watched| watched.id).collect()
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.watched
            .iter()
            .flat_map(|watched| watched.places.iter())
            .flat_map(|(_, place)| [place.lookup_at, place.health.next_trial()])
            .flatten()
            .min()
    }

    fn take_report(&mut self, report: Report, now: Instant) {
        let Report {
            node: id,
            pulse,
            observed,
        } = report;
        let Some(watched) = self.watched.iter_mut().find(|watched| watched.id == id) else {
            return;
        };
        if let Observed::Failed { .. } = observed {
            watched.look_up_soon(now);
        }
        let is_its = |(_, place): &(_, &mut Place)| Arc::ptr_eq(&place.pulse, &pulse);
        let Some((kind, place)) = watched.places.iter_mut().find(is_its) else {
            return;
        };
        let Some(change) = place.health.observe(observed, &self.settings, now) else {
            return;
        };
        if change == Change::CameBack {
            pulse.trial.store(false, Ordering::Relaxed);
        }
        let (name, is_down) = (Arc::clone(&watched.name), place.health.is_down());
        self.change(id, |node| {
            if let Some(endpoint) = node.endpoints.get_mut(kind) {
                endpoint.is_down = is_down;
            }
        });
        // Said once it is so.
        let endpoint = kind.name();
        match change {
            Change::WentDown => {
                tracing::warn!(node = %name, endpoint, "node is down: it failed to answer {} times in a row", self.settings.failures_max);
            }
            Change::CameBack => tracing::info!(node = %name, endpoint, "node is up again"),
        }
    }

    fn offer_trials(&mut self, now: Instant) {
        for watched in &mut self.watched {
            for (_, place) in watched.places.iter_mut() {
                if place.health.trial_is_due(self.patience, now) {
                    place.pulse.trial.store(true, Ordering::Relaxed);
                }
            }
        }
    }

    /// Starts the look-ups that are due; says how many.
    fn look_up_due(&mut self, now: Instant) -> usize {
        let mut started = 0;
        for watched in &mut self.watched {
            let id = watched.id;
            for (_, place) in watched.places.iter_mut() {
                if place.lookup_at.is_some_and(|at| at <= now) {
                    resolve::look_up(id, place.written.address.clone(), self.finder.clone());
                    place.looked_up = Some(now);
                    place.lookup_at = Some(now + self.settings.resolve_interval);
                    started += 1;
                }
            }
        }
        started
    }

    fn take_found(&mut self, found: resolve::Found) {
        let Some(watched) = self.watched.iter().find(|w| w.id == found.node) else {
            return;
        };
        let known = self.clusters.current();
        let Some(node) = known.node(found.node) else {
            return;
        };
        // The same host and port may be more than one of its listeners.
        let is_asked = |kind| {
            let place: Option<&Place> = watched.places.get(kind);
            place.is_some_and(|place| place.written.address == found.asked)
        };
        let asked = || node.endpoints.iter().filter(|(kind, _)| is_asked(*kind));
        if asked().next().is_none() {
            return;
        }
        match found.addresses {
            Ok(addresses) if asked().all(|(_, endpoint)| *addresses == *endpoint.addresses) => {}
            Ok(addresses) => {
                tracing::info!(node = %watched.name, ?addresses, "node's host name resolved");
                let addresses: Arc<[SocketAddr]> = addresses.into();
                self.change(found.node, |node| {
                    for (kind, endpoint) in node.endpoints.iter_mut() {
                        if is_asked(kind) {
                            endpoint.addresses = Arc::clone(&addresses);
                        }
                    }
                });
            }
            Err(error) if asked().any(|(_, endpoint)| !endpoint.is_found()) => {
                tracing::warn!(node = %watched.name, %error, "node's host name cannot be resolved: the node gets no clients until it can");
            }
            Err(error) => {
                tracing::warn!(node = %watched.name, %error, "node's host name cannot be resolved: keeping its last address");
            }
        }
    }

    /// Publishes the cluster with one node changed.
    fn change(&self, id: NodeId, change: impl Fn(&mut Node)) {
        self.clusters.publish(self.clusters.current().with(|node| {
            if node.id == id {
                change(node);
            }
        }));
    }
}

impl Watched {
    fn new(member: &Member, id: NodeId, live: Arc<Live>) -> Self {
        Self {
            id,
            name: member.name.as_str().into(),
            places: member.endpoints.map(|_, written| Place::new(written)),
            weight: member.weight,
            live,
        }
    }

    /// The same node, as the operator has written it now.
    fn written_as(self, member: &Member) -> Self {
        let places = member.endpoints.map(|kind, written| {
            let before = self.places.get(kind);
            match before {
                Some(before) if before.written.address == written.address => Place {
                    written: written.clone(),
                    ..before.clone()
                },
                Some(_) => {
                    tracing::info!(node = %member.name, endpoint = kind.name(), address = %written.address, "node has another address");
                    Place::new(written)
                }
                None => Place::new(written),
            }
        });
        Self {
            places,
            weight: member.weight,
            ..self
        }
    }

    /// The node in a snapshot. What was found of its host names `before` is right until they are looked up again.
    fn node(&self, before: Option<&Node>) -> Node {
        Node {
            id: self.id,
            name: Arc::clone(&self.name),
            endpoints: self.places.map(|kind, place| {
                place.endpoint(before.and_then(|node| node.endpoints.get(kind)))
            }),
            weight: self.weight,
            is_draining: before.is_some_and(|before| before.is_draining),
            live: Arc::clone(&self.live),
        }
    }

    /// Perhaps the node has moved.
    fn look_up_soon(&mut self, now: Instant) {
        for (_, place) in self.places.iter_mut() {
            if let (Some(at), Some(last)) = (place.lookup_at, place.looked_up) {
                place.lookup_at = Some(at.min(now.max(last + LOOKUP_AFTER_FAILURE_MIN)));
            }
        }
    }
}

impl Place {
    fn new(written: &MemberEndpoint) -> Self {
        let is_host = matches!(written.address, NodeAddress::Host(..));
        Self {
            written: written.clone(),
            lookup_at: is_host.then(Instant::now),
            looked_up: None,
            health: Health::Up,
            pulse: Arc::default(),
        }
    }

    fn endpoint(&self, before: Option<&Endpoint>) -> Endpoint {
        let MemberEndpoint {
            address: _,
            path,
            proxy_protocol,
            tls,
        } = &self.written;
        let found = before.filter(|_| self.looked_up.is_some());
        Endpoint {
            addresses: found.map_or_else(|| self.plain(), |found| Arc::clone(&found.addresses)),
            path: path.clone(),
            proxy_protocol: *proxy_protocol,
            tls: tls.clone(),
            is_down: self.health.is_down(),
            pulse: Arc::clone(&self.pulse),
        }
    }

    /// Its address, where no look-up is needed.
    fn plain(&self) -> Arc<[SocketAddr]> {
        match &self.written.address {
            NodeAddress::Socket(address) => Arc::new([*address]),
            NodeAddress::Host(..) => Arc::new([]),
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
