use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};

use super::*;
use crate::cluster::NodeId;
use crate::handover::messages;
use crate::net::socket::{Socket, pair, secured_pair};
use crate::net::websocket::frames::{Frames, Sender, masked_binary};
use crate::path::ended::Ended;
use crate::path::record::ListenerId;
use crate::path::relay::parked::Parked;
use crate::path::relay::relayed::{Finished, Relayed};
use crate::path::relay::run::{Owner, spawn, spawn_frozen};
use crate::path::relay::{OrderedToEnd, Settings};
use crate::path::sides::{Side, Sides};

/// A table with tasks that take turns at its rows, as a worker has it.
struct Process {
    table: RefCell<Table>,
    now: Cell<Seconds>,
    finished: RefCell<Vec<Finished>>,
}

impl Owner for Process {
    fn table(&self) -> &RefCell<Table> {
        &self.table
    }

    fn now(&self) -> Seconds {
        self.now.get()
    }

    fn finished(&self, finished: Finished) {
        self.finished.borrow_mut().push(finished);
    }
}

impl Process {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            table: RefCell::new(Table::new(&Settings::default())),
            now: Cell::new(Seconds(1_000)),
            finished: RefCell::default(),
        })
    }

    fn freeze(&self) -> (Vec<State>, Vec<Stays>) {
        let mut table = self.table.borrow_mut();
        table.freeze(self.now.get(), |_| Ok(()))
    }

    fn thaw(&self) -> usize {
        self.table.borrow_mut().thaw()
    }

    /// A second passes.
    fn sweep(&self) -> u64 {
        self.now.set(self.now.get().after(Seconds(1)));
        let counted = Cell::new(0);
        let mut table = self.table.borrow_mut();
        table.sweep(self.now.get(), |_| {});
        table.count(self.now.get(), |_, moved| {
            counted.set(counted.get() + moved.from_client.total() + moved.from_node.total());
        });
        counted.get()
    }

    /// Relays this client, with these frames of it, to a node.
    fn relay(
        self: &Rc<Self>,
        number: u64,
        (client, from_client): (TcpStream, Socket),
        frames: Option<Frames>,
    ) -> Peers {
        let (node, from_node) = pair();
        for peer in [&client, &node] {
            peer.set_nonblocking(true).expect("set");
        }
        let relayed = Relayed {
            sides: Sides {
                client: Side::new(from_client, Vec::new(), 0, false),
                node: Side::new(from_node, Vec::new(), 0, false),
                frames,
            },
            idle_limit: Some(Seconds(60)),
            activity: None,
            node_id: NodeId(0),
            record: Box::new(Record::new(
                number,
                ListenerId(0),
                ([127, 0, 0, 1], 1).into(),
                Instant::now(),
            )),
        };
        spawn(Rc::clone(self), relayed);
        Peers { client, node }
    }

    /// Duplicates of the sockets of every relay that can move, as another process would hold them.
    fn offer(&self) -> Vec<Parked> {
        let mut parked = Vec::new();
        let mut table = self.table.borrow_mut();
        let next = table.offer(0, u32::MAX, |movable| {
            let socket = |fd| Socket::of_another_process(Socket::duplicate(fd).expect("room")).expect("a connection");
            parked.push(Parked {
                client: socket(movable.client),
                node: socket(movable.node),
                idle_limit: movable.relay.idle_limit,
                node_id: movable.relay.node_id,
                record: Box::new(movable.relay.record.clone()),
            });
            true
        });
        assert_eq!(next, None);
        parked
    }

    fn adopt(self: &Rc<Self>, parked: Vec<Parked>, mut states: Vec<State>) {
        for relay in parked {
            let place = states.iter().position(|state| state.number == relay.record().number);
            let state = states.swap_remove(place.expect("a state"));
            let adopted = relay.with(state, self.now.get()).expect("a state that can be");
            spawn_frozen(Rc::clone(self), adopted);
        }
        assert!(states.is_empty());
    }

    fn forget_all(&self) -> usize {
        let mut table = self.table.borrow_mut();
        let all = table
            .chunks
            .iter()
            .map(|chunk| u64::from(chunk.taken.count_ones()))
            .sum();
        let numbers: HashSet<u64> = (0..=all).collect();
        let rows = table.frozen(&numbers);
        rows.into_iter().filter_map(|row| table.forget(row)).count()
    }
}

/// The two peers of a relay.
struct Peers {
    client: TcpStream,
    node: TcpStream,
}

/// Waits until `check` returns something, giving tasks their turns.
async fn until<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = check() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(10), found)
        .await
        .unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// What `peer` receives next: so many bytes.
async fn receive(peer: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut received = Vec::new();
    let what = format!("{bytes} bytes");
    until(&what, || {
        let mut buffer = [0; 64 * 1024];
        match peer.read(&mut buffer) {
            Ok(0) => panic!("the end, behind {} bytes of {bytes}", received.len()),
            Ok(read) => received.extend_from_slice(&buffer[..read]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        (received.len() >= bytes).then_some(())
    })
    .await;
    received
}

/// Sends for as long as there is room for it. Returns what was sent.
async fn fill(peer: &mut TcpStream, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut sent = Vec::new();
    let mut full = 0;
    while full < 5 {
        let block: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(32 * 1024).collect();
        match peer.write(&block) {
            Ok(written) => {
                sent.extend_from_slice(&block[..written]);
                full = 0;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                full += 1;
            }
        }
        // The relay takes what it can.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }
    sent
}

/// Tasks have turns, in which they could move bytes.
async fn turns() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

fn nothing(peer: &mut TcpStream) {
    let error = peer.read(&mut [0; 1]).expect_err("nothing arrives");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_frozen_relay_moves_nothing_and_loses_nothing_once_it_goes_on() {
    local(async {
        let process = Process::new();
        let mut peers = process.relay(1, pair(), None);
        peers.client.write_all(b"before").expect("room");
        assert_eq!(receive(&mut peers.node, 6).await, b"before");
        for round in 0..100_u8 {
            let (states, stay) = process.freeze();
            assert_eq!((states.len(), stay.len()), (1, 0));
            // Each of these is one event, which comes while nobody listens.
            peers.client.write_all(&[round; 10]).expect("room");
            peers.node.write_all(&[round; 20]).expect("room");
            turns().await;
            nothing(&mut peers.node);
            nothing(&mut peers.client);
            assert_eq!(process.thaw(), 1);
            assert_eq!(receive(&mut peers.node, 10).await, [round; 10]);
            assert_eq!(receive(&mut peers.client, 20).await, [round; 20]);
        }
        // The end of a client that closes while it is frozen is not missed either.
        process.freeze();
        peers.client.shutdown(Shutdown::Write).expect("open");
        turns().await;
        process.thaw();
        until("the client's end", || peers.node.read(&mut [0]).ok()).await;
    });
}

#[test]
fn neither_sweeps_nor_orders_touch_a_frozen_relay_and_nothing_of_it_is_counted() {
    local(async {
        let process = Process::new();
        let mut peers = process.relay(1, pair(), None);
        peers.client.write_all(b"counted later").expect("room");
        receive(&mut peers.node, 13).await;
        process.freeze();
        let id = process.table.borrow().frozen(&HashSet::from([1]))[0];
        for _ in 0..100 {
            assert_eq!(process.sweep(), 0);
        }
        let now = process.now.get();
        let order = process.table.borrow_mut().close(id, now, false, Ended::Closed);
        assert_eq!(order, OrderedToEnd::Busy);
        process.table.borrow_mut().close_all(now, Ended::Shutdown);
        process.table.borrow_mut().release_waiting(now, usize::MAX);
        assert!(process.table.borrow().all().is_empty(), "no other worker gets it");
        turns().await;
        assert!(process.finished.borrow().is_empty());
        nothing(&mut peers.client);
        process.thaw();
        assert_eq!(process.sweep(), 13);
        // It has been silent for longer than it may be.
        let finished = until("its end", || process.finished.borrow_mut().pop()).await;
        assert_eq!(
            (finished.cause, finished.uncounted.from_client.total()),
            (Ended::Idle, 0)
        );
    });
}

#[test]
fn a_frozen_relay_that_is_dropped_or_forgotten_ends_for_nobody() {
    local(async {
        let process = Process::new();
        let mut peers = process.relay(1, pair(), None);
        let mut others = process.relay(2, pair(), None);
        let (duplicates, _) = (process.offer(), process.freeze());
        assert_eq!(process.forget_all(), 2);
        turns().await;
        assert!(process.table.borrow().is_empty() && process.finished.borrow().is_empty());
        nothing(&mut peers.client);
        nothing(&mut peers.node);
        drop(duplicates);
        assert_eq!(until("a FIN", || others.client.read(&mut [0]).ok()).await, 0);

        let mut peers = process.relay(3, pair(), None);
        let duplicates = process.offer();
        process.freeze();
        process.table.borrow_mut().drop_frozen();
        turns().await;
        assert!(process.table.borrow().is_empty() && process.finished.borrow().is_empty());
        nothing(&mut peers.client);
        drop(duplicates);
        assert_eq!(until("a FIN", || peers.node.read(&mut [0]).ok()).await, 0);
    });
}

#[test]
fn what_ends_after_it_was_offered_ends_at_once_although_another_process_has_its_sockets() {
    local(async {
        let process = Process::new();
        let mut peers = process.relay(1, pair(), None);
        let duplicates = process.offer();
        assert_eq!(duplicates.len(), 1);
        let id = process.table.borrow().all()[0];
        let now = process.now.get();
        process.table.borrow_mut().close(id, now, false, Ended::Closed);
        until("its end", || process.finished.borrow_mut().pop()).await;
        assert_eq!(until("a FIN", || peers.client.read(&mut [0]).ok()).await, 0);
        assert_eq!(until("a FIN", || peers.node.read(&mut [0]).ok()).await, 0);
        let (states, stay) = process.freeze();
        assert!(states.is_empty() && stay.is_empty());
        drop(duplicates);
    });
}

#[test]
fn tls_and_what_is_ending_stay_and_go_on_while_others_are_frozen() {
    local(async {
        let process = Process::new();
        let (mut tls, client, from_client) = secured_pair();
        let mut secured = process.relay(1, (client, from_client), None);
        let mut closing = process.relay(2, pair(), None);
        closing.client.shutdown(Shutdown::Write).expect("open");
        until("the client's end", || closing.node.read(&mut [0]).ok()).await;
        let mut frames = process.relay(3, pair(), Some(Frames::new(Sender::Client)));
        // A close frame.
        frames.client.write_all(&[0x88, 0x80, 0, 0, 0, 0]).expect("room");
        receive(&mut frames.client, 2).await;
        let _moves = process.relay(4, pair(), None);
        turns().await;
        let (states, mut stay) = process.freeze();
        stay.sort_unstable();
        assert_eq!(stay, [Stays::Tls, Stays::Ending, Stays::Ending]);
        assert_eq!(states.iter().map(|state| state.number).collect::<Vec<_>>(), [4]);
        tls.writer().write_all(b"secret").expect("taken");
        let mut records = Vec::new();
        tls.write_tls(&mut records).expect("sealed");
        secured.client.write_all(&records).expect("room");
        assert_eq!(receive(&mut secured.node, 6).await, b"secret");
        closing.node.write_all(b"rest").expect("room");
        assert_eq!(receive(&mut closing.client, 4).await, b"rest");
    });
}

#[test]
fn what_cannot_be_sent_stays_and_goes_on() {
    local(async {
        let process = Process::new();
        let mut peers = process.relay(1, pair(), None);
        let refuse = |_: Movable<'_>| Err(Stays::Descriptors);
        let (states, stay) = process.table.borrow_mut().freeze(process.now.get(), refuse);
        assert_eq!((states.len(), &stay[..]), (0, &[Stays::Descriptors][..]));
        peers.client.write_all(b"on").expect("room");
        assert_eq!(receive(&mut peers.node, 2).await, b"on");
    });
}

/// How a relay is busy when it is frozen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Busy {
    /// Neither peer reads, and both have sent more than fits.
    Copying,
    /// The same in bulk, so that bytes are in pipes.
    Splicing,
    /// The client's frames are unwrapped, and one has arrived in part.
    Frames,
}

#[test]
fn what_waits_is_sent_once_here_if_it_goes_on_and_there_if_it_has_moved() {
    for busy in [Busy::Copying, Busy::Splicing, Busy::Frames] {
        for moves in [false, true] {
            local(async {
                let (from, to) = (Process::new(), Process::new());
                if busy == Busy::Copying {
                    let settings = Settings {
                        splice: false,
                        ..Settings::default()
                    };
                    from.table.borrow_mut().reconfigure(&settings);
                }
                let (client, from_client) = pair();
                let frames = (busy == Busy::Frames).then(|| Frames::new(Sender::Client));
                let mut peers = from.relay(1, (client, from_client), frames);
                let to_client = fill(&mut peers.node, 1).await;
                let mut to_node = match busy {
                    Busy::Frames => {
                        let payload: Vec<u8> = (0..70_000_u32).map(|number| number as u8).collect();
                        let frame = masked_binary(&payload, [9, 8, 7, 6]);
                        peers.client.write_all(&frame[..50_000]).expect("room");
                        turns().await;
                        payload
                    }
                    Busy::Copying | Busy::Splicing => fill(&mut peers.client, 2).await,
                };
                if busy == Busy::Splicing {
                    assert!(from.table.borrow().has_pipes(), "bytes are in a pipe");
                }
                let parked = from.offer();
                let (states, stay) = from.freeze();
                assert!(stay.is_empty() && !from.table.borrow().has_pipes());
                assert!(
                    states[0].node.as_ref().is_some_and(|side| !side.unsent.is_empty()),
                    "{busy:?}"
                );
                let expected_bytes = from.table.borrow().row(0).expect("a row").1.view().bytes;
                if moves {
                    to.adopt(parked, states);
                    turns().await;
                    assert_eq!(from.forget_all(), 1);
                    assert_eq!(to.thaw(), 1);
                    assert_eq!(to.table.borrow().row(0).expect("a row").1.view().bytes, expected_bytes);
                } else {
                    drop((parked, states));
                    assert_eq!(from.thaw(), 1);
                }
                match busy {
                    Busy::Frames => {
                        let frame = masked_binary(&to_node, [9, 8, 7, 6]);
                        peers.client.write_all(&frame[50_000..]).expect("room");
                        assert_eq!(receive(&mut peers.node, to_node.len()).await, to_node);
                        let mut frames = receive_frames(&mut peers.client, to_client.len()).await;
                        assert!(frames == to_client, "the client's bytes");
                        frames.clear();
                    }
                    Busy::Copying | Busy::Splicing => {
                        assert!(receive(&mut peers.client, to_client.len()).await == to_client);
                        assert!(receive(&mut peers.node, to_node.len()).await == to_node);
                    }
                }
                to_node.clear();
                turns().await;
                nothing(&mut peers.client);
                nothing(&mut peers.node);
                peers
                    .client
                    .write_all(match busy {
                        Busy::Frames => &[0x82, 0x81, 0, 0, 0, 0, b'!'],
                        Busy::Copying | Busy::Splicing => b"!",
                    })
                    .expect("room");
                assert_eq!(receive(&mut peers.node, 1).await, b"!");
            });
        }
    }
}

/// The payloads of frames that `peer` receives: so many bytes.
async fn receive_frames(peer: &mut TcpStream, bytes: usize) -> Vec<u8> {
    use crate::net::websocket::frames::Part;
    let (mut frames, mut payload) = (Frames::new(Sender::Node), Vec::new());
    while payload.len() < bytes {
        let received = receive(peer, 1).await;
        let mut at = 0;
        while at < received.len() {
            let (here, part) = frames.next(&received[at..]).expect("frames");
            if let Part::Data(_) = part {
                payload.extend_from_slice(&received[at..at + here]);
            }
            at += here;
        }
    }
    payload
}

#[test]
fn silences_and_the_last_packet_go_on_with_a_relay() {
    local(async {
        let (from, to) = (Process::new(), Process::new());
        let mut peers = from.relay(1, pair(), None);
        peers.client.write_all(&[0xC0, 0, 0xE0, 0]).expect("room");
        receive(&mut peers.node, 4).await;
        for _ in 0..40 {
            from.sweep();
        }
        let parked = from.offer();
        let (states, _) = from.freeze();
        assert_eq!(states[0].silences[0], 40);
        assert!(states[0].ends_with_disconnect);
        to.now.set(Seconds(7_000));
        to.adopt(parked, states);
        turns().await;
        from.forget_all();
        to.thaw();
        let states = to.freeze().0;
        assert_eq!(states[0].silences[0], 40);
        assert!(states[0].ends_with_disconnect);
        to.thaw();
        for _ in 0..20 {
            to.sweep();
        }
        turns().await;
        assert!(to.finished.borrow().is_empty(), "a minute is allowed");
        to.sweep();
        let finished = until("its end", || to.finished.borrow_mut().pop()).await;
        assert_eq!(finished.cause, Ended::Idle);
    });
}

#[test]
fn a_state_that_cannot_be_is_an_error() {
    local(async {
        let process = Process::new();
        let _peers = process.relay(1, pair(), Some(Frames::new(Sender::Client)));
        turns().await;
        let good = process.freeze().0.remove(0);
        process.thaw();
        type Change = fn(&mut State);
        let wrong: [Change; 9] = [
            |state| state.number = 2,
            |state| state.client = None,
            |state| state.node = None,
            |state| state.silences.truncate(2),
            |state| state.silences.push(1),
            |state| state.client.get_or_insert_default().copied = u64::MAX,
            |state| state.client.get_or_insert_default().counted_copied = 1,
            |state| state.node.get_or_insert_default().counted_spliced = 1,
            |state| {
                state.frames = Some(messages::Frames {
                    left: Some(1),
                    control: 300,
                    ..messages::Frames::default()
                });
            },
        ];
        for (place, change) in wrong.into_iter().enumerate() {
            let mut state = good.clone();
            change(&mut state);
            let parked = process.offer().remove(0);
            assert!(parked.with(state, Seconds(1)).is_err(), "{place}");
        }
        let parked = process.offer().remove(0);
        assert!(
            parked.with(good, Seconds(0)).is_ok(),
            "silences longer than the clock has run"
        );
    });
}

#[test]
fn only_a_connection_of_tcp_is_taken_from_another_process() {
    local(async {
        use std::os::fd::OwnedFd;
        use std::os::unix::net::UnixStream;
        let taken = |fd: OwnedFd| Socket::of_another_process(fd).is_ok();
        let nonblocking = |stream: TcpStream| {
            stream.set_nonblocking(true).expect("set");
            OwnedFd::from(stream)
        };
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let connect = || TcpStream::connect(address).expect("connected");
        assert!(taken(nonblocking(connect())));
        assert!(!taken(connect().into()), "it would block");
        let closed = connect();
        closed.shutdown(Shutdown::Both).expect("open");
        assert!(taken(nonblocking(closed)), "it may have ended");
        listener.set_nonblocking(true).expect("set");
        assert!(!taken(listener.into()));
        let (unix, _other) = UnixStream::pair().expect("a pair");
        unix.set_nonblocking(true).expect("set");
        assert!(!taken(unix.into()));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        udp.set_nonblocking(true).expect("set");
        assert!(!taken(udp.into()));
        assert!(!taken(std::fs::File::open("/dev/null").expect("a file").into()));
    });
}
