//! What control knows about the nodes: configuration, addresses, health, and the operator's wishes. No I/O: the time
//! and every answer are passed in, and a snapshot is a pure function of the state.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use crate::base::clock;
use crate::base::words::counted;
use crate::cluster::{
    Cluster, ConnectRate, Endpoint, EndpointKind, Endpoints, Finding, FindingSource, KnownNode, Member, MemberEndpoint,
    Node, NodeAddress, NodeApi, NodeId, NodeLoad, Observed, PassiveHealth, ProbeResult, Report, Ring, SlowStart,
    Verdict, WEIGHT_MAX, WEIGHT_MIN, WEIGHTS_MAX,
};

use super::check::{CheckChange, Checked, NodeCheck};
use super::health::{Change, Health, Rules};
use super::known::KnownAddresses;
use super::learned::Learned;
use super::probe::{Target, Unanswered};
use super::settings::{Pacing, Settings};

/// A node that has just failed is looked up again, but not more often than this.
const LOOKUP_AFTER_FAILURE_MIN: Duration = Duration::from_secs(1);

/// What the operator wishes for a node, in addition to the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It takes new clients.
    Up,
    /// It keeps its clients and gets no new ones.
    Draining,
    /// It has this weight instead of the configured one; `None` resets it.
    Weight(Option<u16>),
}

/// Why a wish was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WishError {
    /// The node is not in the cluster.
    UnknownNode,
    /// The weight is out of range.
    Weight,
    /// With this weight, all of them would add up to more than a ring is built for.
    WeightSum,
}

impl fmt::Display for WishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownNode => f.write_str("no such node"),
            Self::Weight => write!(f, "a weight must be {WEIGHT_MIN} to {WEIGHT_MAX}"),
            Self::WeightSum => write!(f, "all weights would add up to more than {WEIGHTS_MAX}"),
        }
    }
}

impl std::error::Error for WishError {}

/// The nodes, and everything that a snapshot is made of.
#[derive(Debug)]
pub(super) struct State {
    /// Sorted by name: their places are those of the ring.
    nodes: Vec<NodeControl>,
    /// By id.
    known: Arc<[KnownNode]>,
    seed: u64,
    /// Built from the names and weights of `nodes`, and kept while those stay the same, since building it takes
    /// milliseconds.
    ring: Arc<Ring>,
    pacing: Pacing,
    /// Findings have changed since they were published last, and no state with them.
    has_findings: bool,
    /// Draws jitter.
    rng: Rng,
}

/// One node of the cluster.
#[derive(Debug)]
struct NodeControl {
    id: NodeId,
    name: Arc<str>,
    endpoints: Endpoints<EndpointControl>,
    /// As configured.
    weight: u16,
    /// As configured, if not as for every node.
    connects_per_second: Option<u32>,
    connections_max: Option<usize>,
    /// When it began to take clients again; `None` if it did from the start of the process.
    came_back: Option<Instant>,
    wishes: Wishes,
    /// What its own API says, if it is asked.
    check: Option<NodeCheck>,
    load: Arc<NodeLoad>,
}

/// The operator's wishes for one node. They last for as long as the node is in the cluster, also across reloads.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    draining: bool,
    /// Instead of the configured weight.
    weight: Option<u16>,
}

/// One endpoint of a node.
#[derive(Clone, Debug)]
struct EndpointControl {
    /// As configured.
    member: MemberEndpoint,
    /// Where it is, as far as is known.
    addresses: Arc<[SocketAddr]>,
    /// When its host name is looked up next; `None` for a plain address.
    lookup_at: Option<Instant>,
    looked_up: Option<Instant>,
    /// A look-up is under way, and no second one is started beside it.
    is_looking_up: bool,
    health: Health,
    /// What came of the last probe that was asked.
    probed: Option<ProbeResult>,
    /// Why the last probe that failed has failed.
    unanswered: Option<Arc<Unanswered>>,
    /// Probes alone would have taken it down, and too many others are down.
    is_kept_up: bool,
    /// That has been said.
    is_said: bool,
    /// The last look-up has failed.
    is_unresolved: bool,
    passive: Arc<PassiveHealth>,
}

/// A change of an endpoint's state.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) node: Arc<str>,
    pub(super) kind: EndpointKind,
    pub(super) change: Change,
    /// Why the last probe that failed has failed.
    pub(super) unanswered: Option<Arc<Unanswered>>,
    /// Where the endpoint is, if it has one address.
    pub(super) address: Option<SocketAddr>,
}

/// The changes that a reload has made.
#[derive(Debug, Default)]
pub(super) struct Reconfigured {
    pub(super) added: Vec<(Arc<str>, NodeAddress)>,
    /// Endpoints that have another address than before.
    pub(super) moved: Vec<(Arc<str>, EndpointKind, NodeAddress)>,
    pub(super) removed: Vec<(NodeId, Arc<str>)>,
}

/// What the answer to a look-up has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resolved {
    /// The node has other addresses than before.
    Changed,
    /// The look-up succeeds again, and the addresses are those from before it failed.
    Again,
    /// The look-up fails now, and the node keeps the addresses that it had.
    Kept,
    /// The look-up fails now, and an endpoint of the node has no address yet.
    Nowhere,
}

impl State {
    /// The state at the start: every node is up, and no host name is resolved. Builds the ring.
    pub(super) fn new(members: &[Member], seed: u64, now: Instant) -> Self {
        let mut state = Self {
            nodes: Vec::new(),
            known: Arc::new([]),
            seed,
            ring: Arc::new(Ring::build(seed, &[])),
            pacing: Pacing::default(),
            has_findings: false,
            rng: Rng::new(),
        };
        state.reconfigure(members, now);
        // The balancer is new, and not the nodes.
        state.nodes.iter_mut().for_each(|node| node.came_back = None);
        state
    }

    /// The cluster as the path should see it.
    pub(super) fn snapshot(&self) -> Cluster {
        let nodes = self.nodes.iter().map(|node| node.node(self.pacing)).collect();
        Cluster::on_ring(Arc::clone(&self.ring), nodes, Arc::clone(&self.known))
    }

    /// Sets how fast clients are taken to nodes.
    pub(super) fn set_pacing(&mut self, pacing: Pacing) {
        self.pacing = pacing;
    }

    /// Replaces the nodes. One whose name is in the cluster keeps its id, its clients and the operator's wishes, and
    /// each of its endpoints that is at the same address keeps its health.
    pub(super) fn reconfigure(&mut self, members: &[Member], now: Instant) -> Reconfigured {
        let mut changes = Reconfigured::default();
        let mut known = self.known.to_vec();
        let mut before = std::mem::take(&mut self.nodes);
        for member in members {
            let staying = before.iter().position(|node| *node.name == *member.name);
            let node = match staying.map(|place| before.swap_remove(place)) {
                Some(node) => node.reconfigured(member, now, &mut changes),
                None => {
                    let id = id_of(&member.name, &mut known);
                    let known = known[usize::from(id.0)].clone();
                    let address = member.endpoints.mqtt.address.clone();
                    changes.added.push((Arc::clone(&known.name), address));
                    NodeControl::new(member, id, known, now)
                }
            };
            self.nodes.push(node);
        }
        changes.removed = before.into_iter().map(|node| (node.id, node.name)).collect();
        self.known = known.into();
        self.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        self.build_ring();
        changes
    }

    fn build_ring(&mut self) {
        let members: Vec<(&str, u16)> = self.nodes.iter().map(|n| (&*n.name, n.weight())).collect();
        self.ring = Arc::new(Ring::build(self.seed, &members));
    }

    /// Sets the operator's wish for a node. Returns the node's name.
    pub(super) fn wish(&mut self, node: NodeId, wish: Wish, now: Instant) -> Result<Arc<str>, WishError> {
        let weights: usize = self.nodes.iter().map(|node| usize::from(node.weight())).sum();
        let node = self.nodes.iter_mut().find(|known| known.id == node);
        let node = node.ok_or(WishError::UnknownNode)?;
        let before = node.weight();
        match wish {
            Wish::Up if node.wishes.draining => {
                node.wishes.draining = false;
                node.came_back = Some(now);
            }
            Wish::Up => {}
            Wish::Draining => node.wishes.draining = true,
            Wish::Weight(weight) => {
                let others = weights - usize::from(before);
                check_weight(weight.unwrap_or(node.weight), others)?;
                node.wishes.weight = weight;
            }
        }
        let (name, after) = (Arc::clone(&node.name), node.weight());
        if after != before {
            self.build_ring();
        }
        Ok(name)
    }

    /// Takes an observation of the path. Returns how the endpoint's state has changed, if it has.
    pub(super) fn observe(&mut self, report: &Report, settings: &Settings, now: Instant) -> Option<Changed> {
        if report.observed == Observed::Answered {
            let mut endpoints = self.endpoints_mut();
            let endpoint = endpoints.find(|endpoint| Arc::ptr_eq(&endpoint.passive, &report.passive));
            // An older probe has no say any more.
            let probed = endpoint.and_then(|endpoint| endpoint.probed.take());
            drop(endpoints);
            self.has_findings |= probed == Some(ProbeResult::Failed);
        }
        self.change(&report.passive, settings, now, |node, health, rules| {
            if let Observed::Failed { .. } = report.observed {
                node.look_up_soon(now);
            }
            health.observe(report.observed, rules, now)
        })
    }

    /// Takes the result of the probe of an endpoint that began at `began`. Returns how the endpoint's state has changed, if it has.
    pub(super) fn probed(
        &mut self,
        passive: &Arc<PassiveHealth>,
        answer: &Result<(), Unanswered>,
        began: Instant,
        settings: &Settings,
        now: Instant,
    ) -> Option<Changed> {
        let probed = match answer {
            Ok(()) => ProbeResult::Answered,
            Err(Unanswered { was_asked: true, .. }) => ProbeResult::Failed,
            Err(Unanswered { was_asked: false, .. }) => ProbeResult::NotAsked,
        };
        let node = self.nodes.iter_mut().find_map(|node| {
            let mut endpoints = node.endpoints.iter_mut();
            let (kind, endpoint) = endpoints.find(|(_, endpoint)| Arc::ptr_eq(&endpoint.passive, passive))?;
            Some((kind, endpoint, &node.load))
        });
        if let Some((kind, endpoint, load)) = node {
            load.asked
                .count_probe(kind, probed, now.saturating_duration_since(began));
            let before = endpoint.probed;
            if probed != ProbeResult::NotAsked {
                endpoint.probed = Some(probed);
            }
            // What is shown of it changes, even if its state does not.
            self.has_findings |= before != endpoint.probed;
            if let Err(unanswered) = answer
                && unanswered.was_asked
            {
                endpoint.unanswered = Some(Arc::new(unanswered.clone()));
            }
        }
        self.change(passive, settings, now, |node, health, rules| {
            match probed {
                ProbeResult::Answered => {
                    passive.has_answered.store(true, Ordering::Relaxed);
                    passive.has_failed.store(false, Ordering::Relaxed);
                }
                ProbeResult::Failed => {
                    // So that the next client that it accepts is reported, which is worth more than a probe.
                    passive.has_failed.store(true, Ordering::Relaxed);
                    node.look_up_soon(now);
                }
                ProbeResult::NotAsked => {}
            }
            health.probed(probed, began, rules, now)
        })
    }

    /// Applies `change` to the node and the health of the endpoint with this `passive` health, if the cluster still has it.
    fn change(
        &mut self,
        passive: &Arc<PassiveHealth>,
        settings: &Settings,
        now: Instant,
        change: impl FnOnce(&mut NodeControl, &mut Health, Rules<'_>) -> Option<Change>,
    ) -> Option<Changed> {
        let is_it = |(_, endpoint): &(_, &EndpointControl)| Arc::ptr_eq(&endpoint.passive, passive);
        let (place, kind) = self.nodes.iter().enumerate().find_map(|(place, node)| {
            let (kind, _) = node.endpoints.iter().find(is_it)?;
            Some((place, kind))
        })?;
        let of_kind = self.nodes.iter().filter_map(|node| node.endpoints.get(kind));
        let (count, down) = of_kind.fold((0, 0), |(count, down), endpoint| {
            (count + 1, down + usize::from(endpoint.health.is_down()))
        });
        let has_answered = passive.has_answered.load(Ordering::Relaxed);
        let rules = Rules {
            settings,
            only_probes_count: (down + 1) * 2 > count,
            // One that has never answered anyone is no loss.
            must_be_confirmed: (down + 1) * 100 > count * usize::from(settings.down_share) && has_answered,
            has_answered,
        };
        let node = &mut self.nodes[place];
        // Out of the node while both are changed.
        let mut health = std::mem::take(&mut node.endpoints.get_mut(kind)?.health);
        let clients = health.witnesses();
        let change = change(node, &mut health, rules);
        // No more often than there are failures that count.
        self.has_findings |= health.witnesses() != clients;
        let endpoint = node.endpoints.get_mut(kind)?;
        endpoint.health = health;
        let is_kept_up = endpoint.health.is_kept_up(settings);
        self.has_findings |= is_kept_up != endpoint.is_kept_up;
        endpoint.is_kept_up = is_kept_up;
        endpoint.is_said &= is_kept_up;
        // Where another endpoint has answered all the time, it is no other node than before.
        let was_all_down = node
            .endpoints
            .iter()
            .all(|(other, endpoint)| other == kind || endpoint.health.is_down());
        if change == Some(Change::CameBack) && was_all_down {
            node.load.connects.reset();
            node.came_back = Some(now);
        }
        let endpoint = node.endpoints.get_mut(kind)?;
        Some(Changed {
            unanswered: endpoint.unanswered.clone(),
            address: match *endpoint.addresses {
                [address] => Some(address),
                _ => None,
            },
            node: Arc::clone(&node.name),
            kind,
            change: change?,
        })
    }

    /// Knows these names as well, whether or not the cluster has nodes of these names. Returns how many there was room for.
    pub(super) fn know(&mut self, names: &[String]) -> usize {
        let mut known = self.known.to_vec();
        let room = names.iter().take_while(|name| {
            let has_room = known.len() < usize::from(u16::MAX);
            if has_room {
                id_of(name, &mut known);
            }
            has_room
        });
        let count = room.count();
        self.known = known.into();
        count
    }

    /// Takes what another process has learned. Returns whether the cluster has any of it.
    pub(super) fn learn(&mut self, learned: &Learned, settings: &Settings, now: Instant) -> bool {
        let mut is_known = false;
        let each = learned.answered.iter().map(|of| (of, true));
        for ((node, kind), has_answered) in each.chain(learned.down.iter().map(|of| (of, false))) {
            let endpoint = self.named(node).and_then(|node| node.endpoints.get_mut(*kind));
            match endpoint {
                Some(endpoint) if has_answered => endpoint.passive.has_answered.store(true, Ordering::Relaxed),
                Some(endpoint) => endpoint.health.begin_down(settings, now),
                None => continue,
            }
            is_known = true;
        }
        for node in &learned.drained_by_api {
            if let Some(check) = self.named(node).and_then(|node| node.check.as_mut()) {
                check.begin_draining();
                is_known = true;
            }
        }
        for name in &learned.known {
            let mut came_back = learned.found.came_back.iter();
            let age = came_back.find(|(node, _)| node == name).map(|(_, age)| *age);
            if let Some(node) = self.named(name) {
                // It takes clients since it did there, and not since it was found here.
                node.came_back = age.map(|age| now.checked_sub(age).unwrap_or(now));
                is_known = true;
            }
        }
        is_known
    }

    fn named(&mut self, name: &str) -> Option<&mut NodeControl> {
        self.nodes.iter_mut().find(|node| *node.name == *name)
    }

    /// What another process has found at this name, `HOST:PORT`, holds until a look-up succeeds here.
    pub(super) fn begin_at(&mut self, known: &KnownAddresses) {
        let nodes = self.nodes.iter_mut().filter(|node| *node.name == *known.node);
        let endpoints = nodes.flat_map(|node| node.endpoints.iter_mut());
        for (_, endpoint) in endpoints {
            let is_asked = endpoint.member.address.to_string() == known.asked;
            if is_asked && endpoint.addresses.is_empty() && !known.addresses.is_empty() {
                endpoint.addresses = known.addresses.as_slice().into();
            }
        }
    }

    /// What another process needs for [`State::begin_at`].
    pub(super) fn known_addresses(&self) -> Vec<KnownAddresses> {
        let endpoints = self.nodes.iter().flat_map(|node| {
            let endpoints = node.endpoints.iter();
            endpoints.map(|(_, endpoint)| (&node.name, endpoint))
        });
        let looked_up = endpoints.filter(|(_, endpoint)| {
            matches!(endpoint.member.address, NodeAddress::Host(..)) && !endpoint.addresses.is_empty()
        });
        let known = looked_up.map(|(node, endpoint)| KnownAddresses {
            node: node.to_string(),
            asked: endpoint.member.address.to_string(),
            addresses: endpoint.addresses.to_vec(),
        });
        known.collect()
    }

    /// The nodes that have come back, and how long ago.
    pub(super) fn came_back(&self, now: Instant) -> Vec<(String, Duration)> {
        let nodes = self.nodes.iter().filter_map(|node| {
            let since = node.came_back?;
            Some((node.name.to_string(), now.saturating_duration_since(since)))
        });
        nodes.collect()
    }

    /// How many names of nodes this process has known.
    pub(super) fn known_count(&self) -> usize {
        self.known.len()
    }

    /// An interval that is a tenth longer or shorter at most.
    pub(super) fn jittered(&mut self, interval: Duration) -> Duration {
        jittered(interval, &mut self.rng)
    }

    /// Takes what the API of a node answered. Returns the node's name and what has changed, if anything has.
    pub(super) fn checked(
        &mut self,
        node: NodeId,
        api: &NodeApi,
        checked: &Checked,
        settings: &Settings,
        now: Instant,
    ) -> Option<(Arc<str>, CheckChange)> {
        let interval = jittered(settings.api.interval, &mut self.rng);
        let node = self.nodes.iter_mut().find(|known| known.id == node)?;
        // It may have another API by now.
        let check = node.check.as_mut().filter(|check| check.api == *api)?;
        node.load.asked.count_check(checked.result());
        let before = check.finding();
        let change = check.checked(checked, interval, now);
        self.has_findings |= check.finding() != before;
        Some((Arc::clone(&node.name), change?))
    }

    /// Returns the APIs that are to be asked now, and counts them as being asked.
    pub(super) fn due_checks(&mut self, now: Instant) -> Vec<(NodeId, NodeApi)> {
        let checks = self.nodes.iter_mut().filter_map(|node| {
            let check = node.check.as_mut()?;
            check.is_due(now).then(|| (node.id, check.api.clone()))
        });
        checks.collect()
    }

    /// Whether what is shown of the nodes has changed without a change of state, since this was asked last.
    pub(super) fn take_findings(&mut self) -> bool {
        std::mem::take(&mut self.has_findings)
    }

    /// Has every endpoint probed that has never answered and is not down.
    pub(super) fn ask_unknown(&mut self, now: Instant) {
        let unknown = self.endpoints_mut().filter(|endpoint| endpoint.is_unknown());
        for endpoint in unknown.filter(|endpoint| !endpoint.health.is_in_question()) {
            endpoint.health.suspect(now);
        }
    }

    /// Whether the answer of an endpoint that has never answered is to come.
    pub(super) fn has_unknown_in_question(&self) -> bool {
        let mut endpoints = self.nodes.iter().flat_map(|node| node.endpoints.iter());
        endpoints.any(|(_, endpoint)| {
            endpoint.is_unknown() && !endpoint.addresses.is_empty() && endpoint.health.is_in_question()
        })
    }

    /// Plans the probes of endpoints that are up, if they are probed at an interval.
    pub(super) fn plan_probes(&mut self, settings: &Settings, now: Instant) {
        let Some(interval) = settings.interval else {
            return;
        };
        let rng = &mut self.rng;
        for (_, endpoint) in self.nodes.iter_mut().flat_map(|node| node.endpoints.iter_mut()) {
            if !endpoint.health.is_planned() {
                endpoint.health.plan(now + jittered(interval, rng));
            }
        }
    }

    /// The endpoints that stay in use although probes fail, with what the last one met: each once, until it has answered.
    pub(super) fn take_kept_up(&mut self) -> Vec<(Arc<str>, EndpointKind, Option<String>)> {
        let mut kept_up = Vec::new();
        for node in &mut self.nodes {
            for (kind, endpoint) in node.endpoints.iter_mut() {
                if endpoint.is_kept_up && !endpoint.is_said {
                    endpoint.is_said = true;
                    let why = endpoint.unanswered.as_ref().map(|unanswered| unanswered.why.clone());
                    kept_up.push((Arc::clone(&node.name), kind, why));
                }
            }
        }
        kept_up
    }

    /// Returns the probes that are due, and counts them as under way.
    pub(super) fn due_probes(&mut self, now: Instant) -> Vec<Target> {
        let mut due = Vec::new();
        for node in &mut self.nodes {
            for (kind, endpoint) in node.endpoints.iter_mut() {
                if !endpoint.addresses.is_empty() && endpoint.health.probe_is_due(now) {
                    due.push(Target {
                        node: Arc::clone(&node.name),
                        kind,
                        endpoint: endpoint.endpoint(),
                    });
                }
            }
        }
        due
    }

    /// Returns the look-ups that are due, and counts them as begun.
    pub(super) fn due_lookups(&mut self, interval: Duration, now: Instant) -> Vec<(NodeId, NodeAddress)> {
        let mut due = Vec::new();
        for node in &mut self.nodes {
            for (_, endpoint) in node.endpoints.iter_mut() {
                if endpoint.next_lookup().is_some_and(|at| at <= now) {
                    due.push((node.id, endpoint.member.address.clone()));
                    endpoint.looked_up = Some(now);
                    endpoint.is_looking_up = true;
                    endpoint.lookup_at = Some(now + interval);
                }
            }
        }
        due
    }

    /// Takes the answer to a look-up of `asked`: its addresses, or `None` if the look-up failed. Returns the node's name and what
    /// has changed, if anything has.
    pub(super) fn resolved(
        &mut self,
        node: NodeId,
        asked: &NodeAddress,
        addresses: Option<&[SocketAddr]>,
    ) -> Option<(Arc<str>, Resolved)> {
        let node = self.nodes.iter_mut().find(|known| known.id == node)?;
        let name = Arc::clone(&node.name);
        // Several of its endpoints may have the same host and port.
        let endpoints = node.endpoints.iter_mut().map(|(_, endpoint)| endpoint);
        let mut asking: Vec<_> = endpoints.filter(|e| e.member.address == *asked).collect();
        asking.iter_mut().for_each(|endpoint| endpoint.is_looking_up = false);
        let (fails, failed) = (addresses.is_none(), asking.iter().any(|e| e.is_unresolved));
        let resolved = match addresses {
            _ if asking.is_empty() => return None,
            Some(addresses) if asking.iter().all(|e| *e.addresses == *addresses) => failed.then_some(Resolved::Again),
            Some(addresses) => {
                let addresses: Arc<[SocketAddr]> = addresses.into();
                for endpoint in &mut asking {
                    endpoint.addresses = Arc::clone(&addresses);
                }
                Some(Resolved::Changed)
            }
            // Said when it failed first.
            None if asking.iter().all(|e| e.is_unresolved) => None,
            None if asking.iter().any(|e| e.addresses.is_empty()) => Some(Resolved::Nowhere),
            None => Some(Resolved::Kept),
        };
        asking.iter_mut().for_each(|endpoint| endpoint.is_unresolved = fails);
        Some((name, resolved?))
    }

    /// When the next probe, look-up or question to an API is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let endpoints = self.nodes.iter().flat_map(|node| node.endpoints.iter());
        let endpoints = endpoints.flat_map(|(_, endpoint)| [endpoint.next_lookup(), endpoint.next_probe()]);
        let checks = self.nodes.iter().filter_map(|node| node.check.as_ref()?.next());
        endpoints.flatten().chain(checks).min()
    }

    fn endpoints_mut(&mut self) -> impl Iterator<Item = &mut EndpointControl> {
        let endpoints = self.nodes.iter_mut().flat_map(|node| node.endpoints.iter_mut());
        endpoints.map(|(_, endpoint)| endpoint)
    }
}

/// An interval that is a tenth longer or shorter at most, so that balancers and nodes do not fall into step.
fn jittered(interval: Duration, rng: &mut Rng) -> Duration {
    interval.mul_f64(0.9 + 0.2 * rng.f64())
}

/// Checks the weight of a node, beside others that add up to `others`.
fn check_weight(weight: u16, others: usize) -> Result<(), WishError> {
    if !(WEIGHT_MIN..=WEIGHT_MAX).contains(&weight) {
        return Err(WishError::Weight);
    }
    if others + usize::from(weight) > WEIGHTS_MAX {
        return Err(WishError::WeightSum);
    }
    Ok(())
}

/// The id of the node with this name: a new one, if no node ever had the name.
fn id_of(name: &str, known: &mut Vec<KnownNode>) -> NodeId {
    let place = known.iter().position(|known| *known.name == *name);
    let place = place.unwrap_or_else(|| {
        known.push(KnownNode {
            name: name.into(),
            load: Arc::default(),
        });
        known.len() - 1
    });
    NodeId(place as u16)
}

impl NodeControl {
    fn new(member: &Member, id: NodeId, known: KnownNode, now: Instant) -> Self {
        Self {
            id,
            name: known.name,
            endpoints: member.endpoints.map(|_, member| EndpointControl::new(member, now)),
            weight: member.weight,
            connects_per_second: member.connects_per_second,
            connections_max: member.connections_max,
            came_back: Some(now),
            wishes: Wishes::default(),
            check: member.api.clone().map(|api| NodeCheck::new(api, now)),
            load: known.load,
        }
    }

    /// The same node with another configuration.
    fn reconfigured(self, member: &Member, now: Instant, changes: &mut Reconfigured) -> Self {
        let endpoints = member.endpoints.map(|kind, member| match self.endpoints.get(kind) {
            Some(before) if before.member.address == member.address => EndpointControl {
                member: member.clone(),
                ..before.clone()
            },
            before => {
                if before.is_some() {
                    let name = Arc::clone(&self.name);
                    changes.moved.push((name, kind, member.address.clone()));
                }
                EndpointControl::new(member, now)
            }
        });
        let check = match (self.check, &member.api) {
            (Some(check), Some(api)) if check.api == *api => Some(check),
            (_, api) => api.clone().map(|api| NodeCheck::new(api, now)),
        };
        Self {
            endpoints,
            check,
            weight: member.weight,
            connects_per_second: member.connects_per_second,
            connections_max: member.connections_max,
            ..self
        }
    }

    /// The weight in force.
    fn weight(&self) -> u16 {
        self.wishes.weight.unwrap_or(self.weight)
    }

    fn connect_rate(&self, pacing: Pacing) -> Option<ConnectRate> {
        let slow_start = self.came_back.map(|since| SlowStart {
            since: clock::since_start(since),
            length: pacing.slow_start,
        });
        Some(ConnectRate {
            per_second: self.connects_per_second.or(pacing.connects_per_second)?,
            slow_start,
        })
    }

    fn node(&self, pacing: Pacing) -> Node {
        Node {
            id: self.id,
            name: Arc::clone(&self.name),
            endpoints: self.endpoints.map(|_, endpoint| endpoint.endpoint()),
            weight: self.weight(),
            configured_weight: self.weight,
            is_draining: self.wishes.draining || self.check.as_ref().is_some_and(NodeCheck::drains),
            findings: self.findings().collect(),
            connect_rate: self.connect_rate(pacing),
            connections_max: self.connections_max,
            load: Arc::clone(&self.load),
        }
    }

    /// What each source says of it. Sources that have nothing to say, as those of a healthy node, are left out, but for what has
    /// answered.
    fn findings(&self) -> impl Iterator<Item = Finding> {
        let operator = self.wishes.draining.then_some(Finding {
            source: FindingSource::Operator,
            endpoint: None,
            verdict: Verdict::Draining,
            why: None,
        });
        let api = self.check.as_ref().map(NodeCheck::finding);
        let endpoints = self
            .endpoints
            .iter()
            .flat_map(|(kind, endpoint)| endpoint.findings(kind));
        operator.into_iter().chain(api).chain(endpoints)
    }

    /// The node may have another address: brings its next look-up forward.
    fn look_up_soon(&mut self, now: Instant) {
        for (_, endpoint) in self.endpoints.iter_mut() {
            if let (Some(at), Some(last)) = (endpoint.lookup_at, endpoint.looked_up) {
                endpoint.lookup_at = Some(at.min(now.max(last + LOOKUP_AFTER_FAILURE_MIN)));
            }
        }
    }
}

impl EndpointControl {
    /// What each source says of it.
    fn findings(&self, kind: EndpointKind) -> impl Iterator<Item = Finding> {
        let of = move |source, verdict, why| Finding {
            source,
            endpoint: Some(kind),
            verdict,
            why,
        };
        let lookup = (self.is_unresolved || self.addresses.is_empty()).then(|| {
            let (verdict, why) = match (self.addresses.is_empty(), self.is_unresolved) {
                (true, true) => (Verdict::Failing, "its host name cannot be resolved"),
                (true, false) => (Verdict::Unknown, "its host name is not resolved yet"),
                (false, _) => (
                    Verdict::Unknown,
                    "its host name cannot be resolved; its last address is kept",
                ),
            };
            of(FindingSource::Lookup, verdict, Some(why.into()))
        });
        let probe = self.probed.map(|probed| match (probed, &self.unanswered) {
            (ProbeResult::Failed, Some(unanswered)) => {
                let verdict = match self.is_kept_up {
                    true => Verdict::Overruled,
                    false => Verdict::Failing,
                };
                of(FindingSource::Probe, verdict, Some(unanswered.why.as_str().into()))
            }
            _ => of(FindingSource::Probe, Verdict::Up, None),
        });
        let clients = self.health.witnesses();
        let clients = (clients > 0).then(|| {
            let why = format!("failures of {} since it answered last", counted(clients, "client"));
            of(FindingSource::Clients, Verdict::Failing, Some(why.into()))
        });
        lookup.into_iter().chain(probe).chain(clients)
    }

    /// Whether it has never answered and is not down.
    fn is_unknown(&self) -> bool {
        !self.health.is_down() && !self.passive.has_answered.load(Ordering::Relaxed)
    }

    /// When it is probed next: not before it has an address.
    fn next_probe(&self) -> Option<Instant> {
        self.health.next_probe().filter(|_| !self.addresses.is_empty())
    }

    /// When its host name is to be looked up next: not while a look-up is under way.
    fn next_lookup(&self) -> Option<Instant> {
        self.lookup_at.filter(|_| !self.is_looking_up)
    }

    fn new(member: &MemberEndpoint, now: Instant) -> Self {
        let (addresses, lookup_at): (Arc<[_]>, _) = match &member.address {
            NodeAddress::Socket(address) => (Arc::new([*address]), None),
            NodeAddress::Host(..) => (Arc::new([]), Some(now)),
        };
        Self {
            member: member.clone(),
            addresses,
            lookup_at,
            looked_up: None,
            is_looking_up: false,
            health: Health::default(),
            probed: None,
            unanswered: None,
            is_kept_up: false,
            is_said: false,
            is_unresolved: false,
            passive: Arc::default(),
        }
    }

    fn endpoint(&self) -> Endpoint {
        let MemberEndpoint {
            address: _,
            path,
            proxy_protocol,
            tls,
        } = &self.member;
        Endpoint {
            addresses: Arc::clone(&self.addresses),
            path: path.clone(),
            proxy_protocol: *proxy_protocol,
            tls: tls.clone(),
            is_down: self.health.is_down(),
            passive: Arc::clone(&self.passive),
        }
    }
}

#[cfg(test)]
mod tests;
