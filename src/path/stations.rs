//! The stations of one worker, made of the newest settings, and what the stations of all workers share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::time::Instant;

use crate::base::log;
use crate::base::rate_table::RateTable;
use crate::cluster::Clusters;
use crate::net::dial::{self, Dialer};
use crate::net::held::HeldBytes;
use crate::net::reports::Reports;
use crate::net::tls::NodesTls;
use crate::path::accept::{self, Admission};
use crate::path::affinity::Rule;
use crate::path::counters::Counters;
use crate::path::greet::{self, Greeter, Refuse};
use crate::path::home::Homes;
use crate::path::listeners::Listeners;
use crate::path::peek::{self, Peek};
use crate::path::relay::{self, WaitingBytes};
use crate::path::route::Placements;

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Connections, counted over all workers.
    pub admission: Arc<Admission>,
    /// What connections hold that are being set up, over all workers.
    pub held: Arc<HeldBytes>,
    /// What waits for receivers without room, added up over all workers.
    pub waiting: Arc<WaitingBytes>,
    /// The listeners, as they are now.
    pub listeners: Arc<Listeners>,
    /// The newest snapshot.
    pub clusters: Arc<Clusters>,
    /// How nodes are reached with TLS.
    pub nodes_tls: Arc<NodesTls>,
    /// The queue of reports to control about nodes.
    pub reports: Reports,
    /// What ties a client to a node.
    pub affinity: Rule,
    /// The most that a node has of its share of all connections, in percent; `None` means no bound.
    pub load_max: Option<u32>,
    /// How often client ids connect, while that is limited.
    pub connects: Arc<RateTable>,
    /// The remembered placements.
    pub placements: Arc<Placements>,
    /// How many workers there are.
    pub workers: usize,
    /// Set while the balancer drains.
    pub draining: Arc<AtomicBool>,
}

impl Shared {
    /// What decides where connected clients belong now.
    pub(crate) fn homes(&self) -> Homes {
        Homes::new(
            self.clusters.current(),
            self.listeners.current(),
            Arc::clone(&self.placements),
            Instant::now(),
        )
    }
}

/// What a reload may change about the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many connections there may be.
    pub limits: accept::Limits,
    /// How much of a client is read before it is routed.
    pub peek: peek::Limits,
    /// How nodes are reached.
    pub dial: dial::Settings,
    /// How a node's first answer is awaited.
    pub greet: greet::Settings,
    /// How bytes are moved.
    pub relay: relay::Settings,
    /// Which lines connections write.
    pub log: log::ConnectionLines,
}

/// The stations, as the newest settings have them. A connection keeps those that it began with until it is relayed.
#[derive(Debug)]
pub(crate) struct Stations {
    /// How many connections there may be.
    pub limits: accept::Limits,
    /// Reads the CONNECT.
    pub peek: Peek,
    /// Takes a routed client to a node that accepts it.
    pub greeter: Greeter,
    /// How nodes are reached.
    pub dial: dial::Settings,
    /// How bytes are moved.
    pub relay: relay::Settings,
}

impl Stations {
    /// The stations of a worker that counts in `counters`.
    pub(crate) fn new(settings: Settings, shared: &Shared, counters: &Arc<Counters>) -> Self {
        let Settings {
            limits,
            peek,
            dial,
            greet,
            relay,
            log: _,
        } = settings;
        let dialer = Dialer::new(dial.clone()).with_tls(Arc::clone(&shared.nodes_tls));
        let (reports, counters) = (shared.reports.clone(), Arc::clone(counters));
        Self {
            limits,
            peek: Peek::new(shared.affinity.key.need(), &peek, greet.refuse == Refuse::Connack),
            greeter: Greeter::new(
                greet,
                dialer,
                reports,
                Arc::clone(&shared.clusters),
                counters,
                Arc::clone(&shared.connects),
                shared.workers,
            ),
            dial,
            relay,
        }
    }
}
