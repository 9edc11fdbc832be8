//! Which of a worker's relays an order or a list is about, found without holding up the others.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::base::clock::Seconds;
use crate::cluster::{EndpointKind, NodeId};
use crate::path::connection::Path;
use crate::path::home::Homes;
use crate::path::record::KeptId;
use crate::path::relay::{RelayStatus, RelayView, RowId};

use super::WORKER_SHIFT;
use super::slices::{ROWS_MAX, Slices};

/// Which connections an order applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// All of them.
    All,
    /// Those on this node.
    Node(NodeId),
    /// Those that reach this node by this endpoint.
    Endpoint(NodeId, EndpointKind),
    /// Those on another node than their home, while their home is up and no placement keeps them away from it: with a node, only
    /// those at home there.
    OffHome(Option<NodeId>),
    /// The one with this number ([`Record::number`](crate::path::record::Record::number)).
    Connection(u64),
    /// Those of the client with this id.
    ClientId(KeptId),
    /// Those of another selection that were accepted before a moment: when these were the last numbers of connections, by worker.
    Before(Arc<[u64]>, Box<Self>),
}

impl Selector {
    /// The connections of the client with exactly this id.
    pub fn client_id(id: &[u8]) -> Self {
        Self::ClientId(KeptId::of(id))
    }

    fn includes(&self, relay: RelayView<'_>, homes: &Homes) -> bool {
        let RelayView { node_id, record, .. } = relay;
        match self {
            Self::All => true,
            Self::Node(id) => node_id == *id,
            Self::Endpoint(id, kind) => {
                node_id == *id && homes.endpoint(*id, record).is_some_and(|(by, _)| by == *kind)
            }
            Self::OffHome(at) => {
                let home = homes.awaits(node_id, record);
                home.is_some_and(|home| at.is_none_or(|at| at == home))
            }
            Self::Connection(number) => record.number == *number,
            Self::ClientId(id) => record.client_id() == Some(id),
            Self::Before(last, of) => {
                let of_worker = usize::try_from(record.number >> WORKER_SHIFT).unwrap_or(usize::MAX);
                let is_before = last.get(of_worker).is_some_and(|last| record.number <= *last);
                is_before && of.includes(relay, homes)
            }
        }
    }
}

/// Which connections are listed: those that all of these hold for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// On this node.
    pub node: Option<NodeId>,
    /// Accepted on a listener of this name.
    pub listener: Option<String>,
    /// Of a client from this network.
    pub network: Option<IpNet>,
    /// On another node than their home.
    pub off_home: bool,
    /// Of a client whose id begins with this.
    pub id_prefix: Vec<u8>,
    /// Of a client that has sent something within this time, while its node has sent it nothing but answers to pings.
    pub quiet_for: Option<Duration>,
}

impl Filter {
    pub(super) fn includes(&self, relay: RelayView<'_>, homes: &Homes, now: Seconds) -> bool {
        let record = relay.record;
        let has_prefix = || {
            let id = record.client_id().map_or(&[][..], KeptId::kept);
            id.starts_with(&self.id_prefix)
        };
        let is_off_home = || homes.home(record).is_some_and(|home| home.id != relay.node_id);
        let is_of_listener = |name: &str| homes.listener(record).is_some_and(|listener| listener.name() == name);
        let is_quiet = |quiet: Duration| relay.message_silence(now) >= quiet && relay.client_silence(now) < quiet;
        self.node.is_none_or(|node| relay.node_id == node)
            && self
                .network
                .is_none_or(|network| network.contains(&plain(record.client.ip())))
            && (self.id_prefix.is_empty() || has_prefix())
            && self.quiet_for.is_none_or(is_quiet)
            && self.listener.as_deref().is_none_or(is_of_listener)
            && (!self.off_home || is_off_home())
    }
}

/// An IPv4 client of a listener for IPv6 is in networks of IPv4.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// Part of a worker's list.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The relays, in the order of their places.
    pub relays: Vec<RelayStatus>,
    /// The place to go on from; `None` at the end.
    pub next: Option<u32>,
}

/// The relays that `selector` includes and that were not ordered to end. Those that begin meanwhile may be missing.
pub(super) async fn select(path: &Rc<Path>, selector: &Selector) -> VecDeque<RowId> {
    if let Selector::ClientId(id) = selector {
        return path.table.borrow().find(id).collect();
    }
    let homes = path.homes();
    let mut selected = VecDeque::new();
    let mut slices = Slices::default();
    let mut places = 0;
    let mut from = Some(0);
    while let Some(place) = from {
        let slice = || {
            path.table.borrow().visit(place, ROWS_MAX, |id, relay| {
                if selector.includes(relay, &homes) {
                    selected.push_back(id);
                }
            })
        };
        from = slices.next(slice).await;
        places = place as usize + ROWS_MAX as usize;
    }
    slices.log("select", places);
    selected
}

/// Up to `most` of the relays that `filter` includes, from this place of the table on.
pub(super) async fn list(path: &Rc<Path>, filter: &Filter, place: u32, most: usize) -> Page {
    let homes = path.homes();
    let (mut slices, mut looked_at) = (Slices::default(), 0);
    let mut page = Page {
        relays: Vec::new(),
        next: Some(place),
    };
    while let Some(place) = page.next
        && page.relays.len() < most
    {
        let now = path.clock.now();
        // No more places than there is room for in the page.
        let places = ROWS_MAX.min(u32::try_from(most - page.relays.len()).unwrap_or(u32::MAX));
        let slice = || {
            path.table.borrow().visit(place, places, |_, relay| {
                if filter.includes(relay, &homes, now) {
                    page.relays.push(relay.status(now));
                }
            })
        };
        page.next = slices.next(slice).await;
        looked_at += places as usize;
    }
    slices.log("list", looked_at);
    page
}
