//! One choice of a route, and what became of it: what passes between route, greet and control.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Endpoint, EndpointKind, Live, Node, NodeId, Pulse};
use crate::sync::Ordering;

/// Why a client goes to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Decision {
    /// The ring's first choice.
    Home,
    /// A remembered exception.
    Placement,
    /// A later choice of the ring, since the first was away or would not have the client.
    Spill,
    /// The less loaded of two, for a client without an affinity key.
    Anonymous,
}

impl Decision {
    /// Every decision.
    pub const ALL: &'static [Self] = &[Self::Home, Self::Placement, Self::Spill, Self::Anonymous];

    /// The name in log lines, metrics and the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Placement => "placement",
            Self::Spill => "spill",
            Self::Anonymous => "anonymous",
        }
    }
}

/// A node that a client may be taken to now.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Which node.
    pub id: NodeId,
    /// Which of its listeners.
    pub kind: EndpointKind,
    /// That listener; it has an address.
    pub endpoint: Endpoint,
    /// Why it.
    pub decision: Decision,
    /// The endpoint is down, and this connection is its trial.
    pub trial: bool,
    /// What changes at every connection.
    pub live: Arc<Live>,
}

impl Choice {
    /// `node` as a choice for a client that comes by `kind`; none where it has no listener for it, or while that one's host
    /// name has never been resolved.
    pub fn of(node: &Node, kind: EndpointKind, decision: Decision, trial: bool) -> Option<Self> {
        let (kind, endpoint) = node.endpoint_for(kind)?;
        Some(Self {
            id: node.id,
            kind,
            endpoint: endpoint.clone(),
            decision,
            trial,
            live: Arc::clone(&node.live),
        })
    }

    /// Counts one connection to the node for as long as the seat is held.
    pub fn seat(&self) -> Seat {
        self.live.connections.fetch_add(1, Ordering::Relaxed);
        Seat(Some(Arc::clone(&self.live)))
    }
}

/// One connection counted on a node.
#[derive(Debug)]
pub struct Seat(Option<Arc<Live>>);

impl Seat {
    /// Leaves the connection counted: whoever keeps the relay takes it off again with [`Live::leave`].
    pub fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(live) = &self.0 {
            live.leave();
        }
    }
}

/// What the path tells control about an endpoint of a node.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which node.
    pub node: NodeId,
    /// Which of its endpoints: the one whose pulse this is; none of them, if it has moved since.
    pub pulse: Arc<Pulse>,
    /// What it did.
    pub observed: Observed,
}

/// What was observed of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// A dial failed, or a CONNECT was not answered in time.
    Failed {
        /// So many in a row now.
        in_a_row: u32,
        /// It was the trial of an endpoint that is down.
        trial: bool,
    },
    /// It answered, and had failed before or was on trial.
    Answered,
}

/// Where the path's reports go; full means dropped, since the next failure says the same.
#[derive(Clone, Debug)]
pub struct Reports(mpsc::Sender<Report>);

/// Reports that wait for control at most.
const REPORTS_MAX: usize = 1024;

impl Reports {
    /// A queue, and the end that control reads.
    pub fn new() -> (Self, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel(REPORTS_MAX);
        (Self(sender), receiver)
    }

    /// A dial failed, or a CONNECT was not answered in time.
    pub fn failed(&self, choice: &Choice) {
        let failures = &choice.endpoint.pulse.failures;
        let in_a_row = failures.fetch_add(1, Ordering::Relaxed) + 1;
        let trial = choice.trial;
        self.send(choice, Observed::Failed { in_a_row, trial });
    }

    /// The endpoint answered. Costs one load where nothing had failed.
    pub fn answered(&self, choice: &Choice) {
        let failures = &choice.endpoint.pulse.failures;
        if choice.trial || failures.load(Ordering::Relaxed) != 0 {
            failures.store(0, Ordering::Relaxed);
            self.send(choice, Observed::Answered);
        }
    }

    fn send(&self, choice: &Choice, observed: Observed) {
        // Full or closed: control is behind or gone, and the path never waits for it.
        let _ = self.0.try_send(Report {
            node: choice.id,
            pulse: Arc::clone(&choice.endpoint.pulse),
            observed,
        });
    }
}
