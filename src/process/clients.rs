//! What a handle says about clients: where one is and why, lists of them, and which ones are in trouble. The facts are the workers';
//! a worker is asked, and never waits.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::handle::Handle;
use crate::cluster::{Cluster, Decision, EndpointKind, NodeId};
use crate::identity::Identity;
use crate::path::affinity::Key;
use crate::path::counters::version_name;
use crate::path::ended::Ended;
use crate::path::home::Homes;
use crate::path::last_ends::{LastEnd, Loop};
use crate::path::record::{KeptId, PlacementKey};
use crate::path::relay::RelayStatus;
use crate::worker::{Filter, List, Moved, Order, Ranking};

pub(crate) use crate::worker::RankedBy;

/// The most connections on one page of a list.
pub const PAGE_MAX: usize = 1_000;

/// The most connections in a list of those that come first.
pub const RANKED_MAX: usize = 100;

/// The most ids that are shown as connected twice, or as reconnecting in a loop.
const SHOWN_MAX: usize = 1_000;

/// A client's connection as it is now.
#[derive(Clone, Debug)]
pub struct ClientStatus {
    /// The number of the connection, unique in this process.
    pub number: u64,
    /// The client id; empty for a client that has none, and for one whose TLS ends at the node.
    pub client_id: KeptId,
    /// The name of its node.
    pub node: Arc<str>,
    /// Why it is on that node.
    pub route: Option<Decision>,
    /// The name of its home now; `None` for a client without an affinity key.
    pub home: Option<Arc<str>>,
    /// The name of its listener.
    pub listener: String,
    /// Its transport.
    pub transport: EndpointKind,
    /// Its address.
    pub client: SocketAddr,
    /// The version of MQTT, as in the log; `None` if its TLS ends at the node.
    pub version: Option<&'static str>,
    /// How long ago it was accepted.
    pub connected: Duration,
    /// For how long it has sent nothing.
    pub client_silence: Duration,
    /// For how long its node has sent nothing, to the second.
    pub node_silence: Duration,
    /// For how long its node has sent nothing but answers to pings, to the second.
    pub message_silence: Duration,
    /// Bytes read from it.
    pub from_client: u64,
    /// Bytes read from its node.
    pub from_node: u64,
    /// Keep Alive in seconds, as asked for or as granted; 0 for none, `None` if its TLS ends at the node.
    pub keep_alive: Option<u16>,
    /// Clean Start (5), Clean Session (3.x).
    pub clean_start: Option<bool>,
    /// How long its session outlives the connection; `None` if it does not, [`Duration::MAX`] for ever.
    pub session_expiry: Option<Duration>,
    /// The server name that it has asked for in TLS.
    pub server_name: Option<Box<str>>,
    /// The common name of its certificate.
    pub certificate_cn: Option<Box<str>>,
}

/// What is known of a client id.
#[derive(Clone, Debug)]
pub struct ClientLookup {
    /// The connections of the client: more than one while a new one takes over from an older one, or where the nodes let two clients
    /// with one id be.
    pub connections: Vec<ClientStatus>,
    /// The name of its home; `None` if that depends on something else than the id (`affinity.key`), which is known only of a client
    /// that is here, or was here lately.
    pub home: Option<Arc<str>>,
    /// The name of the node that is remembered for it, in place of its home.
    pub placement: Option<Arc<str>>,
    /// How its last connection ended, as far as that is remembered.
    pub last_end: Option<ClientEnd>,
}

/// How a connection of a client ended.
#[derive(Clone, Debug)]
pub struct ClientEnd {
    /// The client id.
    pub client_id: KeptId,
    /// The cause.
    pub cause: Ended,
    /// How long ago.
    pub ago: Duration,
    /// How long the connection lasted.
    pub connected: Duration,
    /// The client's address.
    pub client: SocketAddr,
    /// The name of the node that was last dialed for it.
    pub node: Option<Arc<str>>,
    /// Why that node.
    pub route: Option<Decision>,
}

/// A client that reconnects in a loop.
#[derive(Clone, Debug)]
pub struct Reconnecting {
    /// How many of its connections have ended within the last minute, of those that are remembered.
    pub count: usize,
    /// The last end.
    pub last: ClientEnd,
}

/// Which clients are listed: those that all of these hold for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFilter {
    /// On the node of this name.
    pub node: Option<String>,
    /// Accepted on a listener of this name.
    pub listener: Option<String>,
    /// With an address of this network.
    pub network: Option<IpNet>,
    /// On another node than their home.
    pub off_home: bool,
    /// With an id that begins with this.
    pub id_prefix: Vec<u8>,
    /// That have sent something within this time, while their nodes have sent them nothing but answers to pings.
    pub quiet_for: Option<Duration>,
}

/// Where a list goes on. A client that stays connected to the end of the list, and on its thread, is listed once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    worker: u16,
    place: u32,
}

/// A client with what puts it in front of others.
#[derive(Clone, Debug)]
pub struct RankedClient {
    /// What was moved: within the time of [`RankedBy::Rate`], or since the connection began.
    pub moved: Moved,
    /// The client.
    pub client: ClientStatus,
}

/// Part of a list of clients.
#[derive(Clone, Debug)]
pub struct ClientPage {
    /// The clients.
    pub clients: Vec<ClientStatus>,
    /// Where the list goes on; `None` at its end.
    pub next: Option<Cursor>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.worker, self.place)
    }
}

impl FromStr for Cursor {
    type Err = io::Error;

    fn from_str(text: &str) -> io::Result<Self> {
        let parts = text.split_once('-');
        let parsed = parts.and_then(|(worker, place)| {
            Some(Self {
                worker: worker.parse().ok()?,
                place: place.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a cursor"))
    }
}

impl Handle {
    /// What is known of the client with this id: its connections, and if it has none, where it would go and how the last one ended.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn client(&self, id: &[u8]) -> io::Result<ClientLookup> {
        let kept = KeptId::of(id);
        let (mut relays, mut last_end) = (Vec::new(), None::<LastEnd>);
        for worker in &self.0.workers {
            let found = worker.request(|reply| Order::Find(kept.clone(), reply)).await?;
            relays.extend(found.relays);
            last_end = last_end.into_iter().chain(found.last_end).max_by_key(|end| end.at);
        }
        let homes = self.0.shared.homes();
        let cluster = homes.cluster();
        let key = relays.first().and_then(|relay| relay.record.connect.as_ref());
        let key = key.map(|connect| (connect.placement, connect.ring_hash));
        let key = key.or(last_end.as_ref().map(|end| (end.placement, end.ring_hash)));
        let affinity = &self.0.shared.affinity;
        let (placement, ring_hash) = key.unwrap_or_else(|| match affinity.key {
            Key::ClientId => (
                PlacementKey::of(affinity.part(id)),
                cluster.ring().hash(affinity.part(id)),
            ),
            Key::Username | Key::ClientAddress | Key::CertificateCn => (PlacementKey::NONE, 0),
        });
        let hash = placement.hash();
        let home = hash.and_then(|_| cluster.nodes().get(cluster.ring().choices(ring_hash).next()?));
        let placed = hash.and_then(|hash| self.0.shared.placements.find(hash, Instant::now()));
        Ok(ClientLookup {
            connections: relays.into_iter().map(|relay| status(relay, &homes)).collect(),
            home: home.map(|home| Arc::clone(&home.name)),
            placement: placed.and_then(|node| name(cluster, node)),
            last_end: last_end.map(|end| client_end(end, cluster)),
        })
    }

    /// Part of the list of clients that `filter` includes, at most `limit` and [`PAGE_MAX`] of them, from `cursor` on. A page may have
    /// fewer, and the list goes on all the same.
    ///
    /// # Errors
    /// The filter names a node that is not in the cluster, or a worker has ended.
    pub async fn clients(&self, filter: &ClientFilter, cursor: Option<Cursor>, limit: usize) -> io::Result<ClientPage> {
        let filter = Arc::new(self.filter(filter)?);
        let limit = limit.clamp(1, PAGE_MAX);
        let Cursor { worker, mut place } = cursor.unwrap_or_default();
        let mut relays = Vec::new();
        let mut next = None;
        let workers = self.0.workers.iter().zip(0..).skip(usize::from(worker));
        for (worker, number) in workers {
            if relays.len() == limit {
                next = Some(Cursor {
                    worker: number,
                    place: 0,
                });
                break;
            }
            let list = List {
                filter: Arc::clone(&filter),
                place: std::mem::take(&mut place),
                most: limit - relays.len(),
            };
            let page = worker.request(|reply| Order::List(list, reply)).await?;
            relays.extend(page.relays);
            if let Some(place) = page.next {
                next = Some(Cursor { worker: number, place });
                break;
            }
        }
        let homes = self.0.shared.homes();
        Ok(ClientPage {
            clients: relays.into_iter().map(|relay| status(relay, &homes)).collect(),
            next,
        })
    }

    /// The clients that `filter` includes and that come first by this order, at most `limit` and [`RANKED_MAX`] of them. By rate, the
    /// answer takes as long as is measured.
    ///
    /// # Errors
    /// The filter names a node that is not in the cluster, or a worker has ended.
    pub async fn ranked_clients(
        &self,
        filter: &ClientFilter,
        by: RankedBy,
        limit: usize,
    ) -> io::Result<Vec<RankedClient>> {
        let filter = Arc::new(self.filter(filter)?);
        let most = limit.clamp(1, RANKED_MAX);
        // All are asked before the first one is waited for: each measures for as long.
        let mut answers = Vec::with_capacity(self.0.workers.len());
        for worker in &self.0.workers {
            let filter = Arc::clone(&filter);
            let ranking = Ranking { filter, by, most };
            answers.push(worker.ask(|reply| Order::Rank(ranking, reply)).await?);
        }
        let mut all = Vec::new();
        for answer in answers {
            all.extend(answer.answer().await?);
        }
        all.sort_by_key(|ranked| std::cmp::Reverse(ranked.rank));
        all.truncate(most);
        let homes = self.0.shared.homes();
        let ranked = all.into_iter().map(|ranked| RankedClient {
            moved: ranked.moved,
            client: status(ranked.relay, &homes),
        });
        Ok(ranked.collect())
    }

    fn filter(&self, filter: &ClientFilter) -> io::Result<Filter> {
        let ClientFilter {
            node,
            listener,
            network,
            off_home,
            id_prefix,
            quiet_for,
        } = filter.clone();
        Ok(Filter {
            node: node.map(|name| self.named(&name)).transpose()?,
            listener,
            network,
            off_home,
            id_prefix,
            quiet_for,
        })
    }

    /// The connections of ids that have more than one now, up to a thousand, those of one id together.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn connected_twice(&self) -> io::Result<Vec<ClientStatus>> {
        let mut places = Vec::new();
        for (worker, number) in self.0.workers.iter().zip(0_usize..) {
            let hashes = worker.request(Order::Hashes).await?;
            places.extend(hashes.into_iter().map(|(hash, place)| (hash, number, place)));
        }
        places.sort_unstable();
        let same = places.chunk_by(|(one, ..), (other, ..)| one == other);
        let mut twice = vec![Vec::new(); self.0.workers.len()];
        for (_, worker, place) in same.filter(|same| same.len() > 1).flatten().take(SHOWN_MAX) {
            twice[*worker].push(*place);
        }
        let mut by_id: HashMap<KeptId, Vec<RelayStatus>> = HashMap::new();
        for (worker, places) in self.0.workers.iter().zip(twice) {
            for relay in worker.request(|reply| Order::Look(places, reply)).await? {
                if let Some(id) = relay.record.client_id() {
                    by_id.entry(id.clone()).or_default().push(relay);
                }
            }
        }
        let homes = self.0.shared.homes();
        let twice = by_id.into_values().filter(|relays| relays.len() > 1).flatten();
        Ok(twice.map(|relay| status(relay, &homes)).collect())
    }

    /// The clients with at least so many connections that have ended within the last minute, up to a thousand, the most first.
    ///
    /// # Errors
    /// A worker has ended.
    pub async fn reconnecting(&self, at_least: usize) -> io::Result<Vec<Reconnecting>> {
        let mut loops: HashMap<KeptId, Loop> = HashMap::new();
        for worker in &self.0.workers {
            for found in worker.request(Order::Loops).await? {
                let id = found.last.client_id.clone();
                let known = loops.remove(&id);
                let both = match known {
                    None => found,
                    Some(known) => Loop {
                        count: known.count + found.count,
                        last: if known.last.at > found.last.at {
                            known.last
                        } else {
                            found.last
                        },
                    },
                };
                loops.insert(id, both);
            }
        }
        let mut loops: Vec<Loop> = loops.into_values().filter(|found| found.count >= at_least).collect();
        loops.sort_by_key(|found| std::cmp::Reverse((found.count, found.last.at)));
        loops.truncate(SHOWN_MAX);
        let cluster = self.0.shared.clusters.current();
        let loops = loops.into_iter().map(|Loop { count, last }| Reconnecting {
            count,
            last: client_end(last, &cluster),
        });
        Ok(loops.collect())
    }
}

fn name(cluster: &Cluster, node: NodeId) -> Option<Arc<str>> {
    cluster.known(node).map(|known| Arc::clone(&known.name))
}

fn status(relay: RelayStatus, homes: &Homes) -> ClientStatus {
    let home = homes.home(&relay.record).map(|home| Arc::clone(&home.name));
    let listener = homes.listener(&relay.record);
    let (listener, transport) = listener.map_or(("-", EndpointKind::Mqtt), |entry| (entry.name(), entry.kind()));
    let RelayStatus {
        node_id,
        record,
        bytes,
        client_silence,
        node_silence,
        message_silence,
    } = relay;
    let certificate_cn = record.common_name().map(Into::into);
    let server_name = record.identity.and_then(|identity| {
        let Identity { server_name, .. } = *identity;
        server_name
    });
    let connect = record.connect;
    ClientStatus {
        number: record.number,
        node: name(homes.cluster(), node_id).unwrap_or_else(|| "-".into()),
        route: record.decision,
        home,
        listener: listener.to_owned(),
        transport,
        client: record.client,
        version: connect.as_ref().map(|connect| version_name(connect.version)),
        connected: record.accepted.elapsed(),
        client_silence,
        node_silence,
        message_silence,
        from_client: bytes.from_client.total(),
        from_node: bytes.from_node.total(),
        keep_alive: connect.as_ref().map(|connect| connect.keep_alive),
        clean_start: connect.as_ref().map(|connect| connect.clean_start),
        session_expiry: connect.as_ref().and_then(|connect| connect.session_expiry.duration()),
        client_id: connect.map_or_else(|| KeptId::of(&[]), |connect| connect.client_id),
        server_name,
        certificate_cn,
    }
}

fn client_end(end: LastEnd, cluster: &Cluster) -> ClientEnd {
    ClientEnd {
        client_id: end.client_id,
        cause: end.cause,
        ago: end.at.elapsed(),
        connected: end.at.saturating_duration_since(end.accepted),
        client: end.client,
        node: end.node.and_then(|node| name(cluster, node)),
        route: end.decision,
    }
}
