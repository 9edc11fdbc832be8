use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use xxhash_rust::xxh3::Xxh3;

use super::*;
use crate::base::heartbeat::Heartbeats;
use crate::base::log;
use crate::base::supervise::Supervisor;
use crate::cluster::{Cluster, Clusters, KnownNode, NodeId};
use crate::net::dial;
use crate::net::held::HeldBytes;
use crate::net::reports::Reports;
use crate::net::socket::{Detached, pair};
use crate::net::websocket::frames::{Frames, Part, Sender, masked_binary};
use crate::path::accept::{Listener, bind};
use crate::path::accounts::Accounts;
use crate::path::affinity::Rule;
use crate::path::connection::{Settings, Shared};
use crate::path::counters::{Count, Counters, ListenerCounters};
use crate::path::ended::Ended;
use crate::path::listeners::ListenerEntry;
use crate::path::record::{Connected, KeptId, ListenerId, PlacementKey, Record};
use crate::path::relay::{self, Relayed};
use crate::path::route::{AcceptedClient, Placements, remember_placement};
use crate::path::sides::{Side, Sides};
use crate::worker::{Close, Order, Selector, Worker, WorkerHandle};

/// The nodes and listeners that both processes call the same, and each numbers in its own way.
const NODES: [&str; 2] = ["a", "b"];
const LISTENERS: [&str; 2] = ["mqtt", "ws"];

/// The workers of a process, and what they share.
struct Process {
    workers: Vec<Worker>,
    shared: Shared,
    counters: Vec<Arc<Counters>>,
    names: Arc<Names>,
    stop: watch::Sender<bool>,
}

impl Process {
    /// A process with these nodes and listeners, by number.
    fn start(workers: u16, nodes: &[&str], listeners: &[&str]) -> Self {
        let known = nodes.iter().map(|name| KnownNode {
            name: (*name).into(),
            load: Arc::default(),
        });
        let shared = Shared {
            admission: Arc::default(),
            held: HeldBytes::new(Default::default()),
            waiting: Arc::default(),
            listeners: Arc::default(),
            clusters: Clusters::new(Cluster::new(Vec::new(), known.collect(), 0)),
            nodes_tls: Arc::default(),
            reports: Reports::new().0,
            affinity: Rule::default(),
            load_max: None,
            connects: Arc::default(),
            placements: Arc::new(Placements::new(100, Duration::from_secs(3_600))),
            workers: workers.into(),
            draining: Arc::default(),
        };
        for (place, name) in (0..).zip(listeners) {
            let address = ([127, 0, 0, 1], 0).into();
            let listener = Listener {
                name: (*name).to_owned(),
                ..Listener::new(address)
            };
            let entry = ListenerEntry::new(ListenerId(place), listener, address, workers.into());
            shared.listeners.add(entry);
        }
        let settings = Settings {
            limits: Default::default(),
            peek: Default::default(),
            dial: Default::default(),
            greet: Default::default(),
            relay: relay::Settings {
                // The last bytes may take long through small buffers on a busy machine.
                linger: Duration::from_secs(600),
                ..relay::Settings::default()
            },
            log: log::Settings::default().lines_of_worker(workers.into()),
        };
        let counters: Vec<Arc<Counters>> = (0..workers).map(|_| Arc::default()).collect();
        let (stop, stopped) = watch::channel(false);
        let names = (0..workers).map(|worker| worker.to_string());
        let heartbeats = Heartbeats::new(names, Duration::from_secs(10));
        let start = |number: u16| {
            let (shared, settings) = (shared.clone(), settings.clone());
            let counters = Arc::clone(&counters[usize::from(number)]);
            let heartbeat = Arc::clone(&heartbeats.threads()[usize::from(number)]);
            let path = move || Path::new(number, shared, settings, counters);
            let worker = Worker::start(number, Supervisor::default(), stopped.clone(), heartbeat, path);
            worker.expect("a thread")
        };
        let id = |all: &[&str], name| (0..).zip(all).find(|(_, other)| **other == name).expect("a name").0;
        Self {
            workers: (0..workers).map(start).collect(),
            names: Arc::new(Names::new(
                NODES.map(|name| NodeId(id(nodes, name))).to_vec(),
                LISTENERS.map(|name| ListenerId(id(listeners, name))).to_vec(),
            )),
            shared,
            counters,
            stop,
        }
    }

    fn worker(&self, number: u64) -> WorkerHandle {
        self.workers[(number % self.workers.len() as u64) as usize].handle()
    }

    fn handles(&self) -> Vec<WorkerHandle> {
        self.workers.iter().map(Worker::handle).collect()
    }

    /// Relays a client, with these frames of it, to the node of this name.
    async fn relay(&self, number: u64, node: u32, frames: Option<Frames>) -> (TcpStream, TcpStream) {
        self.relay_with(number, node, frames, None).await
    }

    /// Relays a client with this id.
    async fn relay_of(&self, number: u64, id: &[u8]) -> (TcpStream, TcpStream) {
        let long_id = (id.len() > 256).then(|| messages::LongId {
            length: id.len() as u64,
            hash: xxhash_rust::xxh3::xxh3_64(id),
        });
        let connect = messages::Connected {
            client_id: id[..id.len().min(256)].to_vec(),
            long_id,
            version: 5,
            keep_alive: 30,
            clean_start: true,
            placement: number.to_be_bytes().repeat(2),
            ring_hash: number,
            session_expiry: 7,
        };
        let relay = messages::Relay {
            client: "192.0.2.1:7".to_owned(),
            connect: Some(connect),
            steps: vec![1, 2, 3, 4],
            ..messages::Relay::default()
        };
        let facts = handover::facts(&relay, &self.names).expect("a relay");
        self.relay_with(number, 0, None, facts.record.connect).await
    }

    async fn relay_with(
        &self,
        number: u64,
        node: u32,
        frames: Option<Frames>,
        connect: Option<Connected>,
    ) -> (TcpStream, TcpStream) {
        let ((client, from_client), (at_node, from_node)) = (pair(), pair());
        if number.is_multiple_of(2) {
            // Bulk does not fit, and waits for its receiver most of the time.
            for (near, far) in [(&client, &from_client), (&at_node, &from_node)] {
                SockRef::from(near).set_recv_buffer_size(8 * 1024).expect("set");
                SockRef::from(far).set_send_buffer_size(8 * 1024).expect("set");
            }
        }
        let node_id = self.names.node(node).expect("a node");
        let mut record = Record::new(
            number,
            self.names.listener(frames.is_some().into()).expect("a listener"),
            client.local_addr().expect("an address"),
            Instant::now(),
        );
        record.node = Some(node_id);
        record.connect = connect;
        let cluster = self.shared.clusters.current();
        let listener = self.shared.listeners.get(record.listener).expect("a listener");
        Accounts::of_adopted(&record, &self.shared.admission, &listener.listener_count, &cluster).keep();
        let relayed = Relayed {
            sides: Sides {
                client: detached(from_client),
                node: detached(from_node),
                frames,
            },
            idle_limit: None,
            activity: None,
            node_id,
            record: Box::new(record),
        };
        self.worker(number)
            .send(Order::Adopt(vec![relayed]))
            .await
            .expect("it runs");
        (client, at_node)
    }

    async fn offer(&self) -> Vec<Offered> {
        let mut all = Vec::new();
        for worker in self.handles() {
            let mut place = Some(0);
            while let Some(from) = place {
                let offer = |reply| {
                    let names = Arc::clone(&self.names);
                    Order::Offer(
                        Offer {
                            names,
                            place: from,
                            most: 5,
                        },
                        reply,
                    )
                };
                let page = worker.request(offer).await.expect("it runs");
                assert!(page.offered.len() <= 5);
                all.extend(page.offered);
                place = page.next;
            }
        }
        all
    }

    async fn freeze(&self, known: &Arc<HashSet<u64>>) -> Vec<Frozen> {
        let mut all = Vec::new();
        for worker in self.handles() {
            let freeze = Freeze {
                names: Arc::clone(&self.names),
                known: Arc::clone(known),
            };
            all.push(
                worker
                    .request(|reply| Order::Freeze(freeze, reply))
                    .await
                    .expect("it runs"),
            );
        }
        all
    }

    async fn thaw(&self) {
        for worker in self.handles() {
            worker.request(Order::Thaw).await.expect("it runs");
        }
    }

    async fn forget(&self, numbers: &Arc<HashSet<u64>>) -> usize {
        let mut all = 0;
        for worker in self.handles() {
            let (numbers, keep) = (Arc::clone(numbers), Arc::default());
            let forget = |reply| Order::Forget(Forget { numbers, keep }, reply);
            all += worker.request(forget).await.expect("it runs");
        }
        all
    }

    async fn park(&self, offered: Vec<Offered>) {
        for offered in offered {
            let worker = self.worker(offered.relay.number);
            let park = Park {
                names: Arc::clone(&self.names),
                relays: vec![offered],
            };
            let parked = worker.request(|reply| Order::Park(park, reply)).await.expect("it runs");
            parked.expect("a relay that can be");
        }
    }

    async fn adopt(&self, states: Vec<messages::State>) -> usize {
        let mut by_worker: Vec<Vec<messages::State>> = self.workers.iter().map(|_| Vec::new()).collect();
        for state in states {
            by_worker[(state.number % self.workers.len() as u64) as usize].push(state);
        }
        let mut all = 0;
        for (worker, states) in self.handles().into_iter().zip(by_worker) {
            let adopted = worker
                .request(|reply| Order::AdoptStates(states, reply))
                .await
                .expect("it runs");
            all += adopted.expect("states that can be");
        }
        all
    }

    async fn run(&self) -> usize {
        let mut all = 0;
        for worker in self.handles() {
            all += worker.request(Order::Run).await.expect("it runs");
        }
        all
    }

    /// Hands everything over to `to`. Returns how many relays have moved, and how many of them had something to send.
    async fn hand_over(&self, to: &Self) -> (usize, usize) {
        let offered = self.offer().await;
        let known: HashSet<u64> = offered.iter().map(|offered| offered.relay.number).collect();
        to.park(offered).await;
        let mut states = Vec::new();
        for frozen in self.freeze(&Arc::new(known)).await {
            to.park(frozen.offered).await;
            states.extend(frozen.states);
        }
        let numbers: Arc<HashSet<u64>> = Arc::new(states.iter().map(|state| state.number).collect());
        let has_unsent = |side: &Option<messages::Side>| side.as_ref().is_some_and(|side| !side.unsent.is_empty());
        let unsent = states
            .iter()
            .filter(|state| has_unsent(&state.client) || has_unsent(&state.node));
        let unsent = unsent.count();
        let count = to.adopt(states).await;
        assert_eq!(to.run().await, count);
        assert_eq!(self.forget(&numbers).await, count);
        (count, unsent)
    }

    /// Everything that is counted of relays that are there now: in total, on listeners and on nodes.
    fn connections(&self) -> [usize; 3] {
        let listeners = self.shared.listeners.current();
        let cluster = self.shared.clusters.current();
        [
            self.shared.admission.connections(),
            listeners
                .iter()
                .map(|listener| listener.listener_count.connections())
                .sum(),
            cluster
                .all_known()
                .iter()
                .map(|known| known.load.connections.load(Ordering::Relaxed))
                .sum(),
        ]
    }

    fn sum(&self, count: impl Fn(&ListenerCounters) -> &Count) -> u64 {
        let listeners = self.shared.listeners.current();
        let counters = listeners.iter().flat_map(|listener| listener.counters.iter());
        counters.map(|counters| count(counters).get()).sum()
    }

    fn ends(&self, cause: Ended) -> u64 {
        self.counters.iter().map(|counters| counters.ends(cause).get()).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.workers.iter_mut().for_each(Worker::join);
    }
}

fn detached(socket: Socket) -> Side<Detached> {
    let Side {
        unsent,
        ended,
        moved,
        counted,
        ..
    } = Side::new((), Vec::new(), 0, false);
    Side {
        socket: socket.detach(),
        unsent,
        ended,
        moved,
        counted,
    }
}

/// Waits until `check` holds.
async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let holds = async {
        while !check() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(120), holds)
        .await
        .unwrap_or_else(|_| panic!("{what}: not in time"));
}

/// How many bytes a peer has sent or received, their hash, and how many bytes they took on the wire.
type Stream = (u64, u64, u64);

/// Sends random bytes, in frames or not, until it is told to stop; then a FIN.
fn send(mut peer: TcpStream, in_frames: bool, seed: u64, stop: Arc<AtomicBool>) -> JoinHandle<Stream> {
    thread::spawn(move || {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut hash, mut bytes, mut on_wire) = (Xxh3::new(), 0, 0);
        while !stop.load(Ordering::Relaxed) {
            // Now and then in bulk, which is spliced.
            let length = if random.u8(..) < 8 {
                random.usize(..400_000)
            } else {
                random.usize(1..3_000)
            };
            let block: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
            hash.update(&block);
            bytes += block.len() as u64;
            let block = if in_frames {
                masked_binary(&block, random.u32(..).to_be_bytes())
            } else {
                block
            };
            on_wire += block.len() as u64;
            // In pieces, so that headers arrive in part as well.
            let (first, rest) = block.split_at(random.usize(..block.len()).min(5));
            peer.write_all(first).expect("it goes on");
            peer.write_all(rest).expect("it goes on");
            thread::park_timeout(Duration::from_millis(random.u64(..8)));
        }
        peer.shutdown(Shutdown::Write).expect("open");
        (bytes, hash.digest(), on_wire)
    })
}

/// Receives until the end.
fn receive(mut peer: TcpStream, in_frames: bool) -> JoinHandle<Stream> {
    thread::spawn(move || {
        let mut frames = in_frames.then(|| Frames::new(Sender::Node));
        let (mut hash, mut bytes, mut on_wire) = (Xxh3::new(), 0, 0);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = peer.read(&mut buffer).expect("no reset");
            if read == 0 {
                return (bytes, hash.digest(), on_wire);
            }
            on_wire += read as u64;
            let mut at = 0;
            while at < read {
                let (here, is_data) = match &mut frames {
                    None => (read - at, true),
                    Some(frames) => {
                        let (here, part) = frames.next(&buffer[at..read]).expect("frames");
                        (here, matches!(part, Part::Data(_)))
                    }
                };
                if is_data {
                    hash.update(&buffer[at..at + here]);
                    bytes += here as u64;
                }
                at += here;
            }
        }
    })
}

#[tokio::test]
async fn streams_lose_and_double_nothing_while_processes_take_over_from_each_other_a_hundred_times() {
    const RELAYS: u64 = 10;
    let mut from = Process::start(2, &NODES, &LISTENERS);
    let mut to = Process::start(3, &["b", "new", "a"], &["ws", "other", "mqtt"]);
    let stop = Arc::<AtomicBool>::default();
    let mut streams = Vec::new();
    for number in 0..RELAYS {
        let in_frames = number.is_multiple_of(3);
        let frames = in_frames.then(|| Frames::new(Sender::Client));
        let (client, node) = from.relay(number, number as u32 % 2, frames).await;
        let clone = |peer: &TcpStream| peer.try_clone().expect("a descriptor");
        streams.push((
            send(clone(&client), in_frames, number, Arc::clone(&stop)),
            receive(clone(&node), false),
            send(node, false, 1_000 + number, Arc::clone(&stop)),
            receive(client, in_frames),
        ));
    }
    let mut unsent = 0;
    for round in 0..100 {
        if round % 4 == 3 {
            // The other process gets everything and ends before it runs.
            let offered = from.offer().await;
            let known = offered.iter().map(|offered| offered.relay.number).collect();
            let gone = Process::start(1, &NODES, &LISTENERS);
            gone.park(offered).await;
            let frozen = from.freeze(&Arc::new(known)).await;
            let states = frozen.into_iter().flat_map(|frozen| frozen.states).collect();
            assert_eq!(gone.adopt(states).await as u64, RELAYS);
            drop(gone);
            from.thaw().await;
        } else {
            let (moved, had_unsent) = from.hand_over(&to).await;
            assert_eq!(moved as u64, RELAYS, "in round {round}");
            unsent += had_unsent;
            assert_eq!((from.connections(), to.connections()), ([0; 3], [RELAYS as usize; 3]));
            std::mem::swap(&mut from, &mut to);
        }
    }
    stop.store(true, Ordering::Relaxed);
    let ends = || from.ends(Ended::ClientClosed) + from.ends(Ended::NodeClosed);
    until("their ends", || ends() == RELAYS).await;
    let (mut to_node, mut to_client) = (0, 0);
    for (client_sent, node_received, node_sent, client_received) in streams {
        let join = |thread: JoinHandle<Stream>| thread.join().expect("no panic");
        let (client_sent, node_received) = (join(client_sent), join(node_received));
        let (node_sent, client_received) = (join(node_sent), join(client_received));
        assert!(
            client_sent.0 > 10_000 && node_sent.0 > 10_000,
            "streams that say something"
        );
        assert_eq!((client_sent.0, client_sent.1), (node_received.0, node_received.1));
        assert_eq!((node_sent.0, node_sent.1), (client_received.0, client_received.1));
        to_node += client_sent.2;
        to_client += node_sent.2;
    }
    let counted = |count: fn(&ListenerCounters) -> &Count| from.sum(count) + to.sum(count);
    let (copied, spliced) = (counted(|of| &of.to_node_copied), counted(|of| &of.to_node_spliced));
    assert_eq!(copied + spliced, to_node);
    assert!(
        spliced > 0 && unsent > 0,
        "some of it in bulk, and some of it on its way"
    );
    assert_eq!(
        counted(|of| &of.to_client_copied) + counted(|of| &of.to_client_spliced),
        to_client
    );
    assert_eq!((from.connections(), to.connections()), ([0; 3], [0; 3]));
    assert_eq!(
        to.ends(Ended::ClientClosed) + to.ends(Ended::NodeClosed) + to.ends(Ended::Internal),
        0
    );
}

#[tokio::test]
async fn nobody_is_accepted_while_frozen_and_nobody_is_refused() {
    let (from, to) = (
        Process::start(1, &NODES, &LISTENERS),
        Process::start(1, &NODES, &LISTENERS),
    );
    let (address, mut sockets) =
        bind(([127, 0, 0, 1], 0).into(), false, 1, &dial::Settings::default()).expect("a port");
    let socket = sockets.remove(0);
    let duplicate = socket.try_clone().expect("a descriptor");
    let worker = from.worker(0);
    let listen = |socket| |reply| Order::Listen(ListenerId(0), socket, reply);
    worker
        .request(listen(socket))
        .await
        .expect("it runs")
        .expect("it listens");
    let connect = || {
        let mut client = TcpStream::connect(address).expect("connected");
        client.write_all(b"not MQTT").expect("sent");
        client
    };
    let accepted = |process: &Process| process.sum(|of| &of.accepted);
    let _first = connect();
    until("the first client", || accepted(&from) == 1).await;
    let frozen = from.freeze(&Arc::default()).await;
    assert_eq!(frozen[0].last_number, 1);
    let _second = connect();
    // The worker has gone through its events several times, and sees no client.
    for _ in 0..20 {
        worker
            .request(|reply| Order::Ends(Arc::clone(&from.names), reply))
            .await
            .expect("it runs");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(accepted(&from), 1);
    from.thaw().await;
    until("the second client", || accepted(&from) == 2).await;

    from.freeze(&Arc::default()).await;
    let mut third = connect();
    let learn = Learn {
        names: Arc::clone(&to.names),
        last_number: Some(2),
        ..Learn::default()
    };
    to.worker(0)
        .request(|reply| Order::Learn(learn, reply))
        .await
        .expect("it runs")
        .expect("nothing wrong");
    to.worker(0)
        .request(listen(duplicate))
        .await
        .expect("it runs")
        .expect("it listens");
    from.forget(&Arc::default()).await;
    until("the third client", || accepted(&to) == 1).await;
    third.set_nonblocking(false).expect("set");
    assert_eq!(third.read(&mut [0; 10]).expect("no reset"), 0, "it spoke no MQTT");
    let mut last = connect();
    until("the last client", || accepted(&to) == 2).await;
    assert_eq!(last.read(&mut [0; 10]).expect("no reset"), 0);
    assert_eq!(accepted(&from), 2);
    assert_eq!(to.freeze(&Arc::default()).await[0].last_number, 4);
}

#[tokio::test]
async fn an_order_to_end_waits_until_it_is_decided_who_has_the_relay() {
    for moves in [false, true] {
        let (from, to) = (
            Process::start(1, &NODES, &LISTENERS),
            Process::start(1, &NODES, &LISTENERS),
        );
        let (mut client, _node) = from.relay(1, 0, None).await;
        let worker = from.worker(0);
        let rows = worker
            .request(|reply| Order::Select(Selector::All, reply))
            .await
            .expect("it runs");
        let offered = from.offer().await;
        to.park(offered).await;
        let frozen = from.freeze(&Arc::new(HashSet::from([1]))).await;
        let close = Close {
            rows,
            most: 1,
            at_rest: false,
            cause: Ended::Closed,
        };
        let closed = worker.ask(|reply| Order::Close(close, reply)).await.expect("it runs");
        let numbers = Arc::new(HashSet::from([1]));
        if moves {
            let states = frozen.into_iter().flat_map(|frozen| frozen.states).collect();
            assert_eq!(to.adopt(states).await, 1);
            to.run().await;
            assert_eq!(from.forget(&numbers).await, 1);
        } else {
            from.thaw().await;
        }
        let count = closed.answer().await.expect("it runs").count;
        assert_eq!(count, usize::from(!moves));
        if moves {
            assert_eq!((from.connections(), to.connections()), ([0; 3], [1; 3]));
            client.set_nonblocking(true).expect("set");
            client.read(&mut [0]).expect_err("it goes on");
        } else {
            assert_eq!(client.read(&mut [0]).expect("a FIN"), 0);
            until("its end", || from.connections() == [0; 3]).await;
        }
    }
}

#[tokio::test]
async fn relays_go_on_where_they_were_if_nobody_waits_for_the_answer_or_they_are_not_forgotten() {
    let from = Process::start(1, &NODES, &LISTENERS);
    let (mut client, mut node) = from.relay(1, 0, None).await;
    let passes = |client: &mut TcpStream, node: &mut TcpStream| {
        client.write_all(b"on").expect("room");
        let mut buffer = [0; 2];
        node.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        node.read_exact(&mut buffer).expect("what the client sent");
    };
    let freeze = Freeze {
        names: Arc::clone(&from.names),
        known: Arc::default(),
    };
    from.worker(0)
        .send(Order::Freeze(freeze, oneshot::channel().0))
        .await
        .expect("it runs");
    passes(&mut client, &mut node);
    from.freeze(&Arc::default()).await;
    assert_eq!(from.forget(&Arc::new(HashSet::from([2]))).await, 0);
    passes(&mut client, &mut node);
    // A process that ends while they are frozen ends them all the same, if no other has them.
    from.freeze(&Arc::default()).await;
    drop(from);
    assert_eq!(client.read(&mut [0]).expect("a FIN"), 0);
    assert_eq!(node.read(&mut [0]).expect("a FIN"), 0);
}

#[tokio::test]
async fn a_round_that_fails_leaves_nothing_in_the_process_that_goes_on() {
    let (from, to) = (
        Process::start(1, &NODES, &LISTENERS),
        Process::start(1, &NODES, &LISTENERS),
    );
    let mut moved = from.relay(1, 0, None).await;
    assert_eq!(from.hand_over(&to).await.0, 1);
    let mut stays = from.relay(2, 0, None).await;
    // One is adopted, and another one only held, when the process that gives dies or takes too long.
    let mut held = from.relay(3, 0, None).await;
    to.park(from.offer().await).await;
    let frozen = from.freeze(&Arc::new(HashSet::from([2, 3]))).await;
    let states = frozen.into_iter().flat_map(|frozen| frozen.states);
    let states: Vec<_> = states.filter(|state| state.number == 2).collect();
    assert_eq!(to.adopt(states).await, 1);
    let discarded = to.worker(0).request(Order::Discard).await.expect("it runs");
    assert_eq!(discarded, 1);
    assert_eq!(to.connections()[0], 1, "what has moved before");
    from.thaw().await;
    for (client, node) in [&mut moved, &mut stays, &mut held] {
        client.write_all(b"whole").expect("sent");
        let mut read = [0; 5];
        node.read_exact(&mut read).expect("it goes on");
        assert_eq!(&read, b"whole");
    }
    assert_eq!(to.run().await, 0, "nothing is left that could run as well");
}

#[tokio::test]
async fn what_is_no_relay_of_the_other_process_is_refused() {
    let (from, to) = (
        Process::start(1, &NODES, &LISTENERS),
        Process::start(1, &NODES, &LISTENERS),
    );
    let _peers = from.relay(1, 0, None).await;
    let offered = async || {
        let offered = from.offer().await.remove(0);
        (offered.relay, offered.client, offered.node)
    };
    type Change = fn(&mut messages::Relay);
    let wrong: [Change; 9] = [
        |relay| relay.listener = 2,
        |relay| relay.node = 2,
        |relay| relay.node = messages::NO_NODE,
        |relay| relay.client = "somewhere".to_owned(),
        |relay| relay.steps.clear(),
        |relay| relay.retries = 256,
        |relay| relay.code = Some(256),
        |relay| {
            relay.connect = Some(messages::Connected {
                client_id: vec![b'x'; 257],
                ..messages::Connected::default()
            });
        },
        |relay| {
            relay.connect = Some(messages::Connected {
                placement: vec![1; 15],
                ..messages::Connected::default()
            });
        },
    ];
    let park = async |relay, client, node| {
        let park = Park {
            names: Arc::clone(&to.names),
            relays: vec![Offered { relay, client, node }],
        };
        to.worker(0)
            .request(|reply| Order::Park(park, reply))
            .await
            .expect("it runs")
    };
    for change in wrong {
        let (mut relay, client, node) = offered().await;
        change(&mut relay);
        park(relay, client, node).await.expect_err("no relay can be like that");
    }
    let (relay, client, _) = offered().await;
    let file = std::fs::File::open("/dev/null").expect("a file").into();
    park(relay, client, file).await.expect_err("that is no socket");
    let (relay, client, node) = offered().await;
    assert_eq!(park(relay, client, node).await, Ok(1));
    let (relay, client, node) = offered().await;
    park(relay, client, node).await.expect_err("it is there already");
    let state = messages::State {
        number: 2,
        ..messages::State::default()
    };
    let adopted = to
        .worker(0)
        .request(|reply| Order::AdoptStates(vec![state], reply))
        .await;
    adopted.expect("it runs").expect_err("no such relay is held");
}

#[tokio::test]
async fn a_placement_lives_on_with_a_connection_that_moves_and_ends_with_it() {
    let (from, to) = (
        Process::start(1, &NODES, &LISTENERS),
        Process::start(1, &["b", "a"], &LISTENERS),
    );
    let (client, node) = from.relay(1, 1, None).await;
    let placement = PlacementKey::of(b"client");
    let key = placement.hash().expect("a key");
    let settled = AcceptedClient {
        placement,
        home: Some(NodeId(0)),
        node: NodeId(1),
        is_exception: true,
        assigned: None,
        owner: 1,
        source: [127, 0, 0, 1].into(),
    };
    remember_placement(&from.shared.placements, &from.shared.clusters.current(), settled);
    for exported in from.shared.placements.export(Instant::now()) {
        let message = handover::placement(&exported, &from.names).expect("a node with a name");
        let exported = handover::placement_of(&message, &to.names).expect("a placement");
        to.shared.placements.import(exported, true, Instant::now());
    }
    assert_eq!(
        to.shared.placements.find(key, Instant::now()),
        Some(NodeId(0)),
        "its number there"
    );
    assert_eq!(from.hand_over(&to).await.0, 1);
    let kept = from.shared.placements.export(Instant::now())[0]
        .kept
        .expect("it is there");
    assert_eq!(kept.expires, None, "its connection has not ended");
    // Both: what one side has closed waits long for the other here.
    drop((client, node));
    until("its end", || to.connections() == [0; 3]).await;
}

#[tokio::test]
async fn ends_and_counts_are_known_to_the_process_that_takes_over() {
    let (from, to) = (
        Process::start(1, &NODES, &LISTENERS),
        Process::start(2, &["b", "a"], &["ws", "mqtt"]),
    );
    let mut last_end = None;
    for number in 1..=3 {
        let id: Vec<u8> = vec![b'a' + number as u8; 200 * number as usize];
        let (client, node) = from.relay_of(number, &id).await;
        drop((client, node));
        until("its end", || from.connections() == [0; 3]).await;
        last_end = Some(id);
    }
    let names = Arc::clone(&from.names);
    let ends = from
        .worker(0)
        .request(|reply| Order::Ends(names, reply))
        .await
        .expect("it runs");
    assert_eq!(ends.len(), 3);
    let ask = async |names: Arc<Names>| {
        let ends = from.worker(0).request(|reply| Order::Ends(names, reply)).await;
        ends.expect("it runs").len()
    };
    assert_eq!(ask(Arc::clone(&from.names)).await, 0, "they were told");
    assert_eq!(ask(Arc::new(Names::clone(&from.names))).await, 3, "another handover");
    let counts = Counts::export(
        &from.counters,
        &from.shared.listeners.current(),
        &from.shared.clusters.current(),
        &from.shared.placements,
    );
    let learn = Learn {
        names: Arc::clone(&to.names),
        last_number: None,
        counters: counts.messages(),
        ends: ends.clone(),
    };
    to.worker(1)
        .request(|reply| Order::Learn(learn, reply))
        .await
        .expect("it runs")
        .expect("nothing wrong");
    assert_eq!(to.ends(Ended::ClientClosed), from.ends(Ended::ClientClosed));
    let names = Arc::clone(&to.names);
    let again = to
        .worker(1)
        .request(|reply| Order::Ends(names, reply))
        .await
        .expect("it runs");
    let shown = |ends: &[messages::End]| -> Vec<_> {
        let parts = |end: &messages::End| {
            let relay = end.relay.clone().expect("a relay");
            (
                end.cause.clone(),
                relay.node,
                relay.client,
                relay.connect,
                relay.decision,
            )
        };
        ends.iter().map(parts).collect()
    };
    assert_eq!(shown(&again), shown(&ends));
    let id = KeptId::of(&last_end.expect("there was one"));
    let found = to
        .worker(1)
        .request(|reply| Order::Find(id, reply))
        .await
        .expect("it runs");
    let last_end = found.last_end.expect("it is remembered");
    assert_eq!((last_end.cause, last_end.node), (Ended::ClientClosed, Some(NodeId(1))));
    let wrong = Learn {
        names: Arc::clone(&to.names),
        ends: vec![messages::End {
            cause: "idle".to_owned(),
            ..messages::End::default()
        }],
        ..Learn::default()
    };
    let learned = to
        .worker(1)
        .request(|reply| Order::Learn(wrong, reply))
        .await
        .expect("it runs");
    learned.expect_err("an end of nothing");
}
