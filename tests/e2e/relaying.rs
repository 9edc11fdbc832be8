//! After the CONNACK: every byte once and in order, both ways, and each end passed on as what it was.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Balancer, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::kernel::time_waits;
use crate::node::{Answer, Connection, End};
use crate::packets::{self, Connect};
use crate::wait::{self, uninterrupted};

/// Bytes whose order shows: no two places of a longer stream look alike.
pub(crate) struct Stream {
    block: Vec<u8>,
    at: usize,
}

impl Stream {
    /// A prime, so that no chunk that is lost or comes twice fits into it.
    const BLOCK_BYTES: usize = 1_000_003;

    pub(crate) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        Self {
            block: std::iter::repeat_with(|| random.u8(..))
                .take(Self::BLOCK_BYTES)
                .collect(),
            at: 0,
        }
    }

    /// How far it has come.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// The next bytes, at most `count`.
    pub(crate) fn next(&mut self, count: usize) -> &[u8] {
        let start = self.at % Self::BLOCK_BYTES;
        let end = (start + count).min(Self::BLOCK_BYTES);
        self.at += end - start;
        &self.block[start..end]
    }

    /// Whether `bytes` are what comes next.
    pub(crate) fn takes(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.next(bytes.len());
            let count = expected.len();
            if expected != &bytes[..count] {
                return false;
            }
            bytes = &bytes[count..];
        }
        true
    }
}

/// A client and its connection at a node, just accepted.
fn pair(cluster: &Cluster, balancer: std::net::SocketAddr, id: &str) -> (Client, Arc<Connection>) {
    let connect = Connect::new(id);
    let client = Client::accepted(balancer, &connect);
    let (_, connection) = cluster.holder(&connect.bytes());
    (client, connection)
}

pub(crate) const BULK_BYTES: usize = 24 << 20;

/// Writes a whole stream.
pub(crate) fn in_random_chunks(seed: u64, mut write: impl FnMut(&[u8])) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stream = Stream::new(seed);
    while stream.at < BULK_BYTES {
        let chunk_max = if random.bool() { 2_000 } else { 200_000 };
        let chunk = random.usize(1..chunk_max).min(BULK_BYTES - stream.at);
        write(stream.next(chunk));
    }
}

/// Bulk both ways at once, in chunks of random sizes; the log line counts every byte.
fn bulk(splice: bool) {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, &format!("[relay]\nsplice = {splice}"));
    let (client, node) = pair(&cluster, program.address, "bulk");
    let connect = Connect::new("bulk").bytes();
    let seeds = [11, 12];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sending = &client.stream;
            in_random_chunks(seeds[0], |bytes| {
                sending.write_all(bytes).expect("a balancer that reads");
            });
        });
        scope.spawn(|| in_random_chunks(seeds[1], |bytes| node.send(bytes)));
        let mut stream = Stream::new(seeds[1]);
        let mut reading = &client.stream;
        let mut buffer = vec![0; 64 * 1024];
        while stream.at < BULK_BYTES {
            let read = uninterrupted(|| reading.read(&mut buffer)).expect("bytes");
            assert!(
                read > 0 && stream.takes(&buffer[..read]),
                "to the client at {}",
                stream.at
            );
        }
    });
    node.expect_count(connect.len() + BULK_BYTES);
    let received = node.received();
    assert_eq!(received.len(), connect.len() + BULK_BYTES);
    assert!(Stream::new(seeds[0]).takes(&received[connect.len()..]));
    client.fin();
    assert_eq!(node.end(), End::Fin);
    let line = program.ended(client.address());
    assert_eq!(line["from_client"], connect.len() + BULK_BYTES);
    assert_eq!(line["from_node"], packets::connack(4, 0).len() + BULK_BYTES);
}

#[test]
fn after_a_disconnect_the_balancer_keeps_no_port() {
    const DISCONNECT: [u8; 2] = [0xE0, 0];
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let address = cluster.nodes[0].address;
    let in_use = || Metrics::of(program.admin()).value("remora_node_source_ports{node=\"node0\"}");
    for number in 0..20 {
        let id = format!("polite-{number}");
        let (mut client, node) = pair(&cluster, program.address, &id);
        client.send(&DISCONNECT);
        client.fin();
        node.expect(&[&Connect::new(&id).bytes()[..], &DISCONNECT].concat());
        node.close();
        assert_eq!(client.end(), End::Fin);
        assert_eq!(program.ended(client.address())["cause"], "client_closed");
    }
    assert_eq!(time_waits(address), 0);
    wait::until("no port in use", || in_use() == 0.0);
    // Without a DISCONNECT, the node learns of the end from the balancer.
    let (client, node) = pair(&cluster, program.address, "impolite");
    client.fin();
    assert_eq!(node.end(), End::Fin);
    node.close();
    assert_eq!(program.ended(client.address())["cause"], "client_closed");
    wait::until("one port in TIME_WAIT", || time_waits(address) == 1 && in_use() == 1.0);
}

#[test]
fn every_byte_arrives_once_and_in_order_spliced() {
    bulk(true);
}

#[test]
fn every_byte_arrives_once_and_in_order_copied() {
    bulk(false);
}

#[test]
fn small_messages_arrive_as_they_come() {
    let cluster = Cluster::of(1);
    let balancer = Balancer::start(&cluster);
    let (mut client, node) = pair(&cluster, balancer.address, "small");
    let mut sent = Connect::new("small").bytes();
    for number in 0..500u16 {
        let message = packets::publish(&number.to_be_bytes());
        client.send(&message);
        sent.extend(&message);
        node.expect(&sent);
        node.send(&message);
        client.expect(&message);
    }
}

/// Offers more than all buffers between here and the reader can hold; how much was taken before the writer stalled.
pub(crate) fn write_until_stalled(mut sending: &TcpStream, stream: &mut Stream) -> usize {
    const OFFERED_BYTES: usize = 96 << 20;
    // A write that brings nothing for so long is one that waits for the reader.
    let patience = Some(Duration::from_millis(500));
    sending.set_write_timeout(patience).expect("an option");
    while stream.at < OFFERED_BYTES {
        let at = stream.at;
        match sending.write(stream.next(256 * 1024)) {
            Ok(written) => stream.at = at + written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return at,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the sender never stalled");
}

/// What the balancer's memory may grow by, whatever waits in it: the allocator takes memory in steps of 2 MiB.
pub(crate) const GROWTH_BYTES_MAX: usize = 4 << 20;

/// A reader that does not read: its sender stalls, and the balancer's memory stays where it was.
fn stalled(splice: bool) {
    let cluster = Cluster::of(1);
    cluster.answer(&Answer::AcceptDeaf);
    let program = Program::start(&cluster, &format!("[relay]\nsplice = {splice}"));
    let (client, node) = pair(&cluster, program.address, "stalled");
    let before = program.resident_bytes();
    let sent = write_until_stalled(&client.stream, &mut Stream::new(3));
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes for {sent} sent");
    // Others go on meanwhile.
    cluster.answer(&Answer::Accept);
    let (mut other, its_node) = pair(&cluster, program.address, "other");
    its_node.send(b"hello");
    other.expect(b"hello");
    node.listen();
    let connect = Connect::new("stalled").bytes();
    client.fin();
    assert_eq!(node.end(), End::Fin);
    let received = node.received();
    assert_eq!(received.len(), connect.len() + sent);
    assert!(Stream::new(3).takes(&received[connect.len()..]));
}

#[test]
fn a_reader_that_does_not_read_stalls_its_sender_and_nobody_else() {
    stalled(true);
    stalled(false);
}

#[test]
fn what_waits_for_slow_readers_is_bounded_and_the_largest_are_closed() {
    const READERS: usize = 5;
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, &format!("{ADMIN}\n[limits]\nwaiting_bytes = \"1MiB\"\n"));
    let waiting = || Metrics::of(program.admin()).value("remora_waiting_bytes");
    let (mut other, its_node) = pair(&cluster, program.address, "other");
    let readers: Vec<_> = (0..READERS)
        .map(|number| pair(&cluster, program.address, &format!("reader-{number}")))
        .collect();
    for (_, node) in &readers {
        write_until_stalled(node.stream(), &mut Stream::new(3));
    }
    wait::until("a sweep", || waiting() > f64::from(1 << 20));
    program.until_ended_with("waiting_bytes_full", 2);
    wait::until("less waits", || waiting() <= f64::from(1 << 20));
    // Those that are not too many stay, and get what waits for them.
    let closed = program.ended_with("waiting_bytes_full");
    assert!(closed < READERS, "all are closed");
    let left = readers
        .iter()
        .filter(|(client, _)| !program.has_ended(client.address()));
    let mut left = left.map(|(client, _)| client);
    let mut reading = &left.next().expect("a reader").stream;
    let mut received = vec![0; 1 << 20];
    reading.read_exact(&mut received).expect("what waits");
    assert!(Stream::new(3).takes(&received));
    assert_eq!(left.count(), READERS - closed - 1);
    its_node.send(b"hello");
    other.expect(b"hello");
}

#[test]
fn a_client_that_does_not_read_stalls_its_node() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "");
    let (mut client, node) = pair(&cluster, program.address, "deaf");
    let before = program.resident_bytes();
    let sent = write_until_stalled(node.stream(), &mut Stream::new(4));
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes for {sent} sent");
    node.fin();
    let (received, end) = client.rest();
    assert_eq!((received.len(), end), (sent, End::Fin));
    assert!(Stream::new(4).takes(&received));
}

/// The descriptors of `program` that are ends of pipes.
fn pipe_ends(program: &Program) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", program.process()));
    let links = descriptors.expect("a process that runs").flatten();
    links
        .filter_map(|link| std::fs::read_link(link.path()).ok())
        .filter(|to| to.as_os_str().as_encoded_bytes().starts_with(b"pipe:"))
        .count()
}

/// Bulk to more clients than there are pipes, each of which reads only after all of it was offered: what each was sent.
fn bulk_to_many(cluster: &Cluster, program: &Program, name: &str) -> Vec<(Client, Arc<Connection>, usize)> {
    const CLIENTS: u64 = 24;
    std::thread::scope(|scope| {
        let started = (0..CLIENTS).map(|number| {
            let (client, node) = pair(cluster, program.address, &format!("{name}-{number}"));
            scope.spawn(move || {
                // Else the kernel would keep most of it at the node.
                let sending = socket2::SockRef::from(node.stream());
                sending.set_send_buffer_size(64 * 1024).expect("an option");
                let sent = write_until_stalled(node.stream(), &mut Stream::new(number));
                (client, node, sent)
            })
        });
        let started: Vec<_> = started.collect();
        let ended = started.into_iter().map(|thread| thread.join());
        ended.map(|stalled| stalled.expect("no panic")).collect()
    })
}

#[test]
fn bulk_to_many_slow_clients_takes_no_more_descriptors_than_are_reserved() {
    /// Eight pipes of two ends.
    const RESERVED: usize = 16;
    let cluster = Cluster::of(1);
    let config = toml(&cluster, "", "").replace("workers = 2", "workers = 1");
    // As few as these have the fewest pipes.
    let program = Program::with_descriptors(256, &config);
    let before = pipe_ends(&program);
    for round in ["first", "second"] {
        let stalled = bulk_to_many(&cluster, &program, round);
        let held = pipe_ends(&program) - before;
        assert_eq!(held, RESERVED, "all that there may be, in the {round} round");
        // Fewer stay than there are pipes, so some take along a pipe that has bytes in it.
        let numbered = stalled.into_iter().enumerate();
        let (staying, going): (Vec<_>, Vec<_>) = numbered.partition(|(number, _)| number % 4 == 0);
        for (_, (client, ..)) in going {
            let address = client.address();
            client.reset();
            assert_eq!(program.ended(address)["cause"], "client_reset");
        }
        assert!(pipe_ends(&program) - before < RESERVED, "none has gone");
        for (number, (mut client, node, sent)) in staying {
            node.fin();
            let (received, end) = client.rest();
            assert_eq!((received.len(), end), (sent, End::Fin));
            assert!(Stream::new(number as u64).takes(&received));
            assert!(pipe_ends(&program) - before <= RESERVED);
            client.fin();
            program.ended(client.address());
        }
    }
    wait::until("no relay, no pipe", || pipe_ends(&program) == before);
}

pub(crate) static IN_FLIGHT: [u8; 64 * 1024] = [0x5A; 64 * 1024];

#[test]
fn a_client_that_has_said_all_still_hears_the_answer() {
    let cluster = Cluster::of(1);
    let balancer = Balancer::start(&cluster);
    let (mut client, node) = pair(&cluster, balancer.address, "half");
    client.send(&IN_FLIGHT);
    client.fin();
    assert_eq!(node.end(), End::Fin);
    node.expect(&[&Connect::new("half").bytes()[..], &IN_FLIGHT].concat());
    node.send(&IN_FLIGHT);
    client.expect(&IN_FLIGHT);
    node.send(b"and this");
    node.fin();
    client.expect(b"and this");
    assert_eq!(client.end(), End::Fin);
}

#[test]
fn a_node_that_has_said_all_still_hears_its_client() {
    let cluster = Cluster::of(1);
    let balancer = Balancer::start(&cluster);
    let (mut client, node) = pair(&cluster, balancer.address, "half");
    node.send(&IN_FLIGHT);
    node.fin();
    client.expect(&IN_FLIGHT);
    assert_eq!(client.end(), End::Fin);
    client.send(&IN_FLIGHT);
    client.send(b"and this");
    client.fin();
    let all = [&Connect::new("half").bytes()[..], &IN_FLIGHT, b"and this"].concat();
    assert_eq!(node.end(), End::Fin);
    node.expect(&all);
}

#[test]
fn what_is_half_closed_ends_after_the_linger() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "[timeouts]\nlinger = \"1s\"");
    let (mut client, node) = pair(&cluster, program.address, "client first");
    client.fin();
    assert_eq!(node.end(), End::Fin);
    assert_eq!(client.end(), End::Fin, "although the node goes on");
    assert_eq!(program.ended(client.address())["cause"], "client_closed");

    let (mut client, node) = pair(&cluster, program.address, "node first");
    node.fin();
    assert_eq!(client.end(), End::Fin);
    assert_eq!(node.end(), End::Fin, "although the client goes on");
    assert_eq!(program.ended(client.address())["cause"], "node_closed");
}

#[test]
fn a_reset_is_passed_on_as_a_reset_behind_what_came_before_it() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "");
    let (mut client, node) = pair(&cluster, program.address, "node resets");
    node.send(&IN_FLIGHT);
    node.sent_all();
    node.reset();
    client.expect(&IN_FLIGHT);
    assert_eq!(client.end(), End::Reset);
    assert_eq!(program.ended(client.address())["cause"], "node_reset");

    let (mut client, node) = pair(&cluster, program.address, "client resets");
    client.send(&IN_FLIGHT);
    client.sent_all();
    let address = client.address();
    client.reset();
    assert_eq!(node.end(), End::Reset);
    node.expect(&[&Connect::new("client resets").bytes()[..], &IN_FLIGHT].concat());
    assert_eq!(program.ended(address)["cause"], "client_reset");
}

#[test]
fn a_reset_is_a_reset_although_the_other_side_is_just_sending() {
    let cluster = Cluster::of(1);
    let balancer = Balancer::start(&cluster);
    for round in 0..200 {
        let id = format!("crossing-{round}");
        let (client, node) = pair(&cluster, balancer.address, &id);
        let connect = Connect::new(&id).bytes();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                node.expect_count(connect.len() + 1);
                node.reset();
            });
            // What comes back of a FIN is a broken pipe: the answer to what was written behind it.
            let mut sending = &client.stream;
            let error = loop {
                if let Err(error) = sending.write_all(&[7; 100]) {
                    break error;
                }
            };
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "round {round}");
        });
    }
}

#[test]
fn a_fin_is_passed_on_as_a_fin() {
    let cluster = Cluster::of(1);
    let balancer = Balancer::start(&cluster);
    for round in 0..50 {
        let (mut client, node) = pair(&cluster, balancer.address, &format!("fin-{round}"));
        if round % 2 == 0 {
            client.fin();
            assert_eq!(node.end(), End::Fin);
            node.fin();
            assert_eq!(client.end(), End::Fin);
        } else {
            node.fin();
            assert_eq!(client.end(), End::Fin);
            client.fin();
            assert_eq!(node.end(), End::Fin);
        }
    }
}

#[test]
fn a_client_silent_for_longer_than_its_keep_alive_is_closed() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "[timeouts]\nidle_slack = \"0s\"");
    let lasting = Connect::new("no keep alive");
    let mut unlimited = Client::accepted(program.address, &lasting);
    let connect = Connect::new("silent").keep_alive(1);
    let started = tokio::time::Instant::now();
    let mut silent = Client::accepted(program.address, &connect);
    let (_, node) = cluster.holder(&connect.bytes());
    // What the node sends does not count.
    let ended = std::thread::scope(|scope| {
        let hearing = scope.spawn(|| silent.rest());
        while !hearing.is_finished() && !node.has_ended() {
            node.offers(&[0xD0, 0]);
            std::thread::park_timeout(Duration::from_millis(20));
        }
        hearing.join().expect("no panic").1
    });
    let took = started.elapsed();
    assert_eq!(ended, End::Fin);
    assert!(took >= Duration::from_millis(1_500), "closed after {took:?}");
    assert_eq!(program.ended(silent.address())["cause"], "idle");
    unlimited.send(&packets::publish(b"still here"));
    let all = [lasting.bytes(), packets::publish(b"still here")].concat();
    cluster.holder(&all).1.expect(&all);
}

#[test]
fn a_keep_alive_that_the_node_has_granted_unseen_is_not_cut_short() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "[timeouts]\nidle_slack = \"0s\"");
    let ten_minutes = [0x13, 2, 0x58];
    // Enhanced authentication: the CONNACK comes later, and nobody reads it.
    let auth = packets::packet(0xF0, &[0x18, 0]);
    cluster.answer(&Answer::Bytes(auth.clone()));
    let connect = Connect::v5("authenticating").keep_alive(1).authentication(b"SCRAM");
    let mut authenticating = Client::to(program.address);
    authenticating.send(&connect.bytes());
    authenticating.expect(&auth);
    authenticating.send(&auth);
    let (_, node) = cluster.holder(&[connect.bytes(), auth].concat());
    let connack = packets::connack_5(0, &ten_minutes);
    node.send(&connack);
    authenticating.expect(&connack);
    // A CONNACK that is larger than what is kept of one.
    let note = [&[0x26, 0, 1, b'a', 0x40, 0][..], &[b'x'; 0x4000], &ten_minutes].concat();
    let connack = packets::connack_5(0, &note);
    cluster.answer(&Answer::Bytes(connack.clone()));
    let mut lengthy = Client::to(program.address);
    lengthy.send(&Connect::v5("lengthy").keep_alive(1).bytes());
    lengthy.expect(&connack);
    // A client that began last and has one second is closed before them.
    cluster.answer(&Answer::Accept);
    let mut other = Client::accepted(program.address, &Connect::v5("not").keep_alive(1));
    other.rest();
    assert_eq!(program.ended(other.address())["cause"], "idle");
    for client in [&mut authenticating, &mut lengthy] {
        client.send(&packets::publish(b"still here"));
    }
    wait::until("both messages", || {
        let connections = cluster.nodes[0].connections();
        let arrived = connections.iter().filter(|c| c.received().ends_with(b"still here"));
        arrived.count() == 2
    });
}

#[test]
fn a_client_whose_node_does_not_read_is_not_idle() {
    const BYTES: usize = 16 << 20;
    let cluster = Cluster::of(1);
    cluster.answer(&Answer::AcceptDeaf);
    let program = Program::start(&cluster, "[timeouts]\nidle_slack = \"0s\"");
    let connect = Connect::new("sending").keep_alive(1);
    let mut sending = Client::accepted(program.address, &connect);
    let node = cluster.nodes[0].connection(0);
    cluster.answer(&Answer::Accept);
    std::thread::scope(|scope| {
        // Fills every buffer on the way, and waits.
        let sent = scope.spawn(|| sending.send(&vec![0; BYTES]));
        // Two limits pass, one after the other.
        for id in ["one", "two"] {
            let mut silent = Client::accepted(program.address, &Connect::new(id).keep_alive(1));
            silent.rest();
            assert_eq!(program.ended(silent.address())["cause"], "idle");
        }
        assert!(!sent.is_finished(), "{BYTES} bytes fit into the buffers");
        node.listen();
        sent.join().expect("all was taken");
    });
    node.expect_count(connect.bytes().len() + BYTES);
    // And now it is silent.
    sending.rest();
    assert_eq!(program.ended(sending.address())["cause"], "idle");
}

#[test]
fn the_nodes_own_keep_alive_wins() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "[timeouts]\nidle_slack = \"0s\"");
    // The client asks for ten minutes, the node grants a second.
    let connack = packets::connack_5(0, &[0x13, 0, 1]);
    cluster.answer(&Answer::Bytes(connack.clone()));
    let mut client = Client::to(program.address);
    client.send(&Connect::v5("shortened").keep_alive(600).bytes());
    client.expect(&connack);
    client.rest();
    assert_eq!(program.ended(client.address())["cause"], "idle");
    // And the other way round: two clients, of which only the one without a grant is closed.
    let connack = packets::connack_5(0, &[0x13, 2, 0x58]);
    cluster.answer(&Answer::Bytes(connack.clone()));
    let mut granted = Client::to(program.address);
    granted.send(&Connect::v5("prolonged").keep_alive(1).bytes());
    granted.expect(&connack);
    cluster.answer(&Answer::Accept);
    let mut other = Client::accepted(program.address, &Connect::v5("not").keep_alive(1));
    other.rest();
    assert_eq!(program.ended(other.address())["cause"], "idle");
    granted.send(&packets::publish(b"still here"));
    wait::until("the message", || {
        let connections = cluster.nodes[0].connections();
        connections.iter().any(|c| c.received().ends_with(b"still here"))
    });
}
