//! Decides which nodes a client may go to, in which order, and why: pure over connect, cluster, loads and placement.

mod placement;
mod remember;
mod router;

pub use placement::{Exported, Kept, Placements};
pub use remember::{AcceptedClient, remember_placement};
pub(crate) use router::Router;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cluster::{self, Choice, Cluster, Decision, EndpointKind, Node, NodeId, NodeState};

/// The nodes that a client may go to, one after another, each with the reason: an iterator that never allocates.
///
/// Placement first, then the ring's choices in order, filtered by what the nodes' states and limits allow at the moment of asking.
/// If none of them is available: draining nodes in the ring's order, and finally the home node, whatever its state (a
/// client is never refused without a dial).
#[derive(Debug)]
pub struct Route {
    cluster: Arc<Cluster>,
    /// The kind of the client's endpoint.
    kind: EndpointKind,
    /// The client's position on the ring.
    hash: u64,
    /// Tried before the ring.
    first: Option<(NodeId, Decision)>,
    /// The decision for the ring's choices other than the first.
    decision: Decision,
    stage: Stage,
    /// What a node may have of all connections, if that is bounded.
    bound: Option<LoadBound>,
    /// The ring's first choice has no room for the client.
    home_is_full: bool,
    /// The nodes yielded so far, so that none is yielded twice.
    yielded: Yielded,
}

/// Bounded load (Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads"): no node has more than a factor of
/// its share of all connections, by weight.
#[derive(Clone, Copy, Debug)]
struct LoadBound {
    percent: u64,
    connections: u64,
    weights: u64,
}

impl LoadBound {
    /// The bound now, over the nodes that are up.
    fn of(cluster: &Cluster, kind: EndpointKind, percent: u32) -> Self {
        let (mut connections, mut weights) = (0, 0);
        for node in cluster.up(kind) {
            connections += load(node);
            weights += weight(node);
        }
        Self {
            percent: percent.into(),
            connections,
            weights,
        }
    }

    /// Whether one more connection keeps the node within its part, rounded up, of all connections and this one.
    fn admits(self, node: &Node) -> bool {
        // Cross-multiplied; with the largest weights and counts, a tenth of what a u64 holds.
        load(node) * 100 * self.weights < self.percent * (self.connections + 1) * weight(node)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    Ring { next: usize },
    Draining { next: usize },
    Home,
    Over,
}

/// A set of nodes by their place in the cluster.
#[derive(Debug, Default)]
struct Yielded([u64; cluster::NODES_MAX / 64]);

impl Yielded {
    fn contains(&self, place: usize) -> bool {
        self.0[place / 64] & (1 << (place % 64)) != 0
    }

    fn insert(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

/// The route of a client with this affinity key; a `placement` goes before the ring.
pub fn route(cluster: Arc<Cluster>, kind: EndpointKind, affinity_key: &[u8], placement: Option<NodeId>) -> Route {
    let hash = cluster.ring().hash(affinity_key);
    Route {
        cluster,
        kind,
        hash,
        first: placement.map(|node| (node, Decision::Placement)),
        decision: Decision::Spill,
        stage: Stage::First,
        bound: None,
        home_is_full: false,
        yielded: Yielded::default(),
    }
}

/// The route of a client without an affinity key: the less loaded of two nodes drawn by weight, then the ring from the
/// first draw on. The draws are two random numbers.
pub fn route_anonymous(cluster: Arc<Cluster>, kind: EndpointKind, draws: [u64; 2]) -> Route {
    let first = less_loaded(&cluster, kind, draws);
    Route {
        hash: draws[0],
        first: first.map(|node| (node, Decision::Anonymous)),
        decision: Decision::Anonymous,
        cluster,
        kind,
        stage: Stage::First,
        bound: None,
        home_is_full: false,
        yielded: Yielded::default(),
    }
}

impl Route {
    /// The client's position on the ring; a draw for one without an affinity key.
    pub fn ring_hash(&self) -> u64 {
        self.hash
    }

    /// The same route, on which a node has no room for the client that has more than `percent` of its share of all connections.
    pub fn bounded(mut self, percent: Option<u32>) -> Self {
        self.bound = percent.map(|percent| LoadBound::of(&self.cluster, self.kind, percent));
        self
    }

    /// Whether the node may have one more connection.
    fn has_room(&self, node: &Node) -> bool {
        has_room(node) && self.bound.is_none_or(|bound| bound.admits(node))
    }

    /// The ring's first choice, whatever its state.
    pub fn home(&self) -> Option<&Node> {
        let place = self.cluster.ring().choices(self.hash).next()?;
        self.cluster.nodes().get(place)
    }

    fn ring_decision(&self, turn: usize) -> Decision {
        match self.decision {
            Decision::Spill if turn == 0 => Decision::Home,
            Decision::Spill if self.home_is_full => Decision::Full,
            other => other,
        }
    }

    fn first_choice(&mut self) -> Option<Choice> {
        let (id, decision) = self.first?;
        let place = self.cluster.nodes().iter().position(|n| n.id == id)?;
        let node = &self.cluster.nodes()[place];
        let is_up = node.state_for(self.kind) == Some(NodeState::Up) && self.has_room(node);
        let choice = is_up.then(|| Choice::of(node, self.kind, decision))??;
        self.yielded.insert(place);
        Some(choice)
    }

    fn ring_choice(&mut self, turn: usize, place: usize, admits: Admits) -> Option<Choice> {
        if self.yielded.contains(place) {
            return None;
        }
        let node = &self.cluster.nodes()[place];
        if !admits(node, self.kind) {
            return None;
        }
        if matches!(self.stage, Stage::Ring { .. }) && !self.has_room(node) {
            self.home_is_full |= turn == 0;
            return None;
        }
        let choice = Choice::of(node, self.kind, self.ring_decision(turn))?;
        self.yielded.insert(place);
        Some(choice)
    }

    /// The next node that `admits` accepts, from the ring's `next`th choice on, and the choice to continue from.
    fn walk(&mut self, mut next: usize, admits: Admits) -> Option<(Choice, usize)> {
        let cluster = Arc::clone(&self.cluster);
        for place in cluster.ring().choices(self.hash).skip(next) {
            next += 1;
            if let Some(choice) = self.ring_choice(next - 1, place, admits) {
                return Some((choice, next));
            }
        }
        None
    }
}

impl Iterator for Route {
    type Item = Choice;

    fn next(&mut self) -> Option<Choice> {
        loop {
            match self.stage {
                Stage::First => {
                    self.stage = Stage::Ring { next: 0 };
                    if let Some(choice) = self.first_choice() {
                        return Some(choice);
                    }
                }
                Stage::Ring { next } => match self.walk(next, is_up) {
                    Some((choice, next)) => {
                        self.stage = Stage::Ring { next };
                        return Some(choice);
                    }
                    None => self.stage = Stage::Draining { next: 0 },
                },
                Stage::Draining { next } => match self.walk(next, is_draining) {
                    Some((choice, next)) => {
                        self.stage = Stage::Draining { next };
                        return Some(choice);
                    }
                    None => self.stage = Stage::Home,
                },
                Stage::Home => {
                    self.stage = Stage::Over;
                    if self.yielded.is_empty() {
                        return self.walk(0, |_, _| true).map(|(choice, _)| choice);
                    }
                }
                Stage::Over => return None,
            }
        }
    }
}

/// Whether a node takes a client at this kind of endpoint now.
type Admits = fn(&Node, EndpointKind) -> bool;

fn is_up(node: &Node, kind: EndpointKind) -> bool {
    node.state_for(kind) == Some(NodeState::Up)
}

fn is_draining(node: &Node, kind: EndpointKind) -> bool {
    node.state_for(kind) == Some(NodeState::Draining)
}

/// Of two nodes that are up, drawn by weight, the one with fewer connections relative to its weight.
fn less_loaded(cluster: &Cluster, kind: EndpointKind, draws: [u64; 2]) -> Option<NodeId> {
    let up = |place: &usize| {
        let node = &cluster.nodes()[*place];
        node.state_for(kind) == Some(NodeState::Up) && has_room(node)
    };
    let one = cluster.ring().choices(draws[0]).find(up)?;
    let other = cluster
        .ring()
        .choices(draws[1])
        .find(|place| up(place) && *place != one);
    let node = |place: usize| &cluster.nodes()[place];
    let less = match other {
        // Cross-multiplied, so that weights divide without fractions.
        Some(other) if load(node(other)) * weight(node(one)) < load(node(one)) * weight(node(other)) => other,
        _ => one,
    };
    Some(node(less).id)
}

fn has_room(node: &Node) -> bool {
    node.connections_max.is_none_or(|max| load(node) < max as u64)
}

fn load(node: &Node) -> u64 {
    node.load.connections.load(Ordering::Relaxed) as u64
}

fn weight(node: &Node) -> u64 {
    u64::from(node.weight)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::cluster::{Endpoint, Endpoints, KnownNode, NodeLoad};

    const KEYS: usize = 300;

    fn cluster(states: &[NodeState]) -> Cluster {
        let nodes: Vec<Node> = states
            .iter()
            .zip(0..)
            .map(|(state, number)| Node {
                id: NodeId(number),
                name: format!("emqx{number}").into(),
                endpoints: Endpoints::only(Endpoint {
                    is_down: *state == Down,
                    ..Endpoint::plain([([127, 0, 0, 1], 1883 + number).into()].into())
                }),
                weight: cluster::WEIGHT_DEFAULT,
                is_draining: *state == Draining,
                configured_weight: cluster::WEIGHT_DEFAULT,
                connect_rate: None,
                connections_max: None,
                findings: Arc::default(),
                load: Arc::default(),
            })
            .collect();
        let known: Vec<KnownNode> = Vec::new();
        Cluster::new(nodes, known.into(), cluster::SEED_DEFAULT)
    }

    fn key(number: usize) -> Vec<u8> {
        format!("client-{number}").into_bytes()
    }

    fn choices(cluster: &Arc<Cluster>, number: usize, placement: Option<NodeId>) -> Vec<Choice> {
        route(Arc::clone(cluster), Mqtt, &key(number), placement).collect()
    }

    fn ids(choices: &[Choice]) -> Vec<u16> {
        choices.iter().map(|choice| choice.id.0).collect()
    }

    use EndpointKind::Mqtt;
    use NodeState::{Down, Draining, Up};

    #[test]
    fn a_route_gives_every_node_that_is_up_once_home_first() {
        let cluster = Arc::new(cluster(&[Up, Up, Up]));
        for number in 0..KEYS {
            let choices = choices(&cluster, number, None);
            let mut sorted = ids(&choices);
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2]);
            let decisions: Vec<_> = choices.iter().map(|choice| choice.decision).collect();
            assert_eq!(decisions, [Decision::Home, Decision::Spill, Decision::Spill]);
        }
    }

    #[test]
    fn a_node_away_moves_only_its_own_clients() {
        let all = Arc::new(cluster(&[Up, Up, Up]));
        for away in [Down, Draining] {
            let without = Arc::new(all.with(|node| {
                if node.id == NodeId(1) {
                    node.is_draining = away == Draining;
                    node.endpoints.mqtt.is_down = away == Down;
                }
            }));
            for number in 0..KEYS {
                let before = ids(&choices(&all, number, None));
                let after = choices(&without, number, None);
                let expected = before.iter().copied().find(|id| *id != 1);
                assert_eq!(after.first().map(|choice| choice.id.0), expected);
                let moved = after[0].decision == Decision::Spill;
                assert_eq!(moved, before[0] == 1);
            }
        }
    }

    #[test]
    fn a_placement_goes_before_the_ring_while_its_node_is_up() {
        let up = Arc::new(cluster(&[Up, Up, Up]));
        let down = Arc::new(cluster(&[Up, Up, Down]));
        for number in 0..KEYS {
            let placed = choices(&up, number, Some(NodeId(2)));
            assert_eq!(placed[0].id, NodeId(2));
            assert_eq!(placed[0].decision, Decision::Placement);
            assert_eq!(placed.len(), 3, "each node once");
            let elsewhere = choices(&down, number, Some(NodeId(2)));
            assert_ne!(elsewhere[0].id, NodeId(2));
        }
    }

    #[test]
    fn a_node_that_is_down_gets_no_client() {
        let cluster = Arc::new(cluster(&[Up, Down]));
        for number in 0..KEYS {
            assert_eq!(ids(&choices(&cluster, number, None)), [0]);
        }
    }

    #[test]
    fn where_no_node_is_up_a_draining_one_is_better_than_none() {
        let cluster = Arc::new(cluster(&[Down, Draining, Down]));
        for number in 0..KEYS {
            assert_eq!(ids(&choices(&cluster, number, None)), [1]);
        }
    }

    #[test]
    fn where_all_are_down_home_is_dialled_anyway() {
        let up = Arc::new(cluster(&[Up, Up, Up]));
        let down = Arc::new(cluster(&[Down, Down, Down]));
        for number in 0..KEYS {
            let choices_down = choices(&down, number, None);
            assert_eq!(choices_down.len(), 1);
            assert_eq!(choices_down[0].id, choices(&up, number, None)[0].id);
        }
    }

    #[test]
    fn anonymous_clients_go_to_the_less_loaded_of_two() {
        let cluster = Arc::new(cluster(&[Up, Up]));
        let busy: &AtomicUsize = &cluster.nodes()[0].load.connections;
        busy.store(10, Ordering::Relaxed);
        for number in 0..KEYS as u64 {
            let draws = [number.wrapping_mul(0x9E37_79B9_7F4A_7C15), !number << 32];
            let first = route_anonymous(Arc::clone(&cluster), Mqtt, draws).next();
            let first = first.expect("a node");
            assert_eq!(first.id, NodeId(1));
            assert_eq!(first.decision, Decision::Anonymous);
        }
    }

    #[test]
    fn anonymous_clients_spread_over_all_nodes() {
        let cluster = Arc::new(cluster(&[Up, Up, Up]));
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..3_000 {
            let draws = [random.u64(..), random.u64(..)];
            let first = route_anonymous(Arc::clone(&cluster), Mqtt, draws).next();
            first.expect("a node").permit().keep();
        }
        for node in cluster.nodes() {
            let connections = node.load.connections.load(Ordering::Relaxed);
            assert!((990..=1_010).contains(&connections), "{connections}");
        }
    }

    #[test]
    fn a_full_node_is_passed_over_and_only_if_it_is_home_that_is_the_reason() {
        let all = Arc::new(cluster(&[Up, Up, Up]));
        let full = Arc::new(all.with(|node| node.connections_max = (node.id == NodeId(1)).then_some(5)));
        for connections in [4, 5] {
            full.nodes()[1].load.connections.store(connections, Ordering::Relaxed);
            for number in 0..KEYS {
                let before = ids(&choices(&all, number, None));
                let after = choices(&full, number, None);
                if connections == 4 {
                    assert_eq!(ids(&after), before);
                    continue;
                }
                let expected: Vec<_> = before.iter().copied().filter(|id| *id != 1).collect();
                assert_eq!(ids(&after), expected);
                let why = match before[0] {
                    1 => Decision::Full,
                    _ => Decision::Home,
                };
                assert_eq!(after[0].decision, why);
                let placed = choices(&full, number, Some(NodeId(1)));
                assert_ne!(placed[0].decision, Decision::Placement);
                let random = number as u64;
                let anonymous = route_anonymous(Arc::clone(&full), Mqtt, [random << 54, !random << 53]);
                assert!(anonymous.map(|choice| choice.id).all(|id| id != NodeId(1)));
            }
        }
        full.nodes()[1].load.connections.store(0, Ordering::Relaxed);
    }

    #[test]
    fn no_node_has_more_than_its_bound_of_all_connections_and_most_clients_are_at_home() {
        let mut nodes = cluster(&[Up, Up, Down, Up]).nodes().to_vec();
        nodes[3].weight = 200;
        let cluster = Arc::new(Cluster::new(nodes, Arc::new([]), 1));
        let mut at_home = 0;
        for number in 0..4_000 {
            let route = route(Arc::clone(&cluster), Mqtt, &key(number), None).bounded(Some(102));
            let choice = route.into_iter().next().expect("a node");
            at_home += usize::from(choice.decision == Decision::Home);
            choice.permit().keep();
            for (node, parts) in cluster.nodes().iter().zip([1, 1, 0, 2]) {
                // 102 % of a quarter or a half, rounded up.
                let bound = (102 * (number + 1) * parts).div_ceil(400);
                let connections = node.load.connections.load(Ordering::Relaxed);
                assert!(connections <= bound, "{connections} of {} on {}", number + 1, node.name);
            }
        }
        // Those of the node that is down are on others.
        assert!((3_000..3_400).contains(&at_home), "{at_home}");
    }

    #[test]
    fn a_node_without_an_address_is_passed_over() {
        let mut nameless = cluster(&[Up, Up]).nodes().to_vec();
        nameless[0].endpoints.mqtt.addresses = Arc::new([]);
        nameless[0].load = Arc::new(NodeLoad::default());
        let cluster = Arc::new(Cluster::new(nameless, Arc::new([]), 1));
        for number in 0..KEYS {
            assert_eq!(ids(&choices(&cluster, number, None)), [1]);
        }
    }
}
