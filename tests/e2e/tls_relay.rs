//! Relays with TLS on the client's side: every byte once and in order, whatever the records, and each end as what it was.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Balancer, Program, toml};
use crate::certificates::{BOTH, Certificates, NAME, TLS12, TLS13, Versions};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, Connection, End};
use crate::packets::{self, Connect};
use crate::relaying::{BULK_BYTES, GROWTH_BYTES_MAX, IN_FLIGHT, Stream, in_random_chunks, write_until_stalled};
use crate::tls_client::{TlsClient, TlsEnd};
use crate::ws_client::REQUEST;
use crate::ws_frames::{self, BINARY};
use crate::ws_node::{WsNode, field};

/// Nodes, and clients that trust the balancer before them.
struct Site {
    cluster: Cluster,
    certificates: Certificates,
    config: Arc<ClientConfig>,
}

impl Site {
    fn of(versions: Versions) -> Self {
        let certificates = Certificates::new();
        Self {
            cluster: Cluster::of(1),
            config: Arc::new(certificates.trusting(versions, None)),
            certificates,
        }
    }

    fn toml(&self, tables: &str) -> String {
        toml(&self.cluster, &self.certificates.listener(), tables)
    }

    fn start(&self, tables: &str) -> Program {
        Program::of(&self.toml(tables))
    }

    /// A client and its connection at the node, just accepted.
    #[track_caller]
    fn pair(&self, balancer: SocketAddr, id: &str) -> (TlsClient, Arc<Connection>) {
        let connect = Connect::new(id);
        let client = TlsClient::accepted(balancer, &self.config, &connect);
        let (_, node) = self.cluster.holder(&connect.bytes());
        (client, node)
    }
}

#[test]
fn every_byte_arrives_once_and_in_order_and_none_is_spliced() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for versions in [TLS12, TLS13] {
        let site = Site::of(versions);
        let program = site.start(ADMIN);
        let connect = Connect::new("bulk").bytes();
        let seeds = [21, 22];
        let config = Arc::clone(&site.config);
        let local = runtime.block_on(async {
            let tcp = tokio::net::TcpStream::connect(program.address).await?;
            let local = tcp.local_addr()?;
            let name = ServerName::try_from(NAME).expect("a name");
            let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
            tls.write_all(&connect).await?;
            let mut connack = vec![0; packets::connack(4, 0).len()];
            tls.read_exact(&mut connack).await?;
            let (_, node) = site.cluster.holder(&connect);
            let sending = std::thread::spawn(move || {
                in_random_chunks(seeds[1], |bytes| node.send(bytes));
                node
            });
            let (mut reading, mut writing) = tokio::io::split(tls);
            let up = async {
                let mut chunks = Vec::new();
                in_random_chunks(seeds[0], |bytes| chunks.push(bytes.to_vec()));
                for chunk in chunks {
                    writing.write_all(&chunk).await?;
                }
                writing.flush().await
            };
            let down = async {
                let mut stream = Stream::new(seeds[1]);
                let mut buffer = vec![0; 64 * 1024];
                while stream.at() < BULK_BYTES {
                    let read = reading.read(&mut buffer).await?;
                    assert!(
                        read > 0 && stream.takes(&buffer[..read]),
                        "to the client at {}",
                        stream.at()
                    );
                }
                Ok(())
            };
            tokio::try_join!(up, down)?;
            let node = sending.join().expect("no panic");
            node.expect_count(connect.len() + BULK_BYTES);
            let received = node.received();
            assert_eq!(received.len(), connect.len() + BULK_BYTES);
            assert!(Stream::new(seeds[0]).takes(&received[connect.len()..]));
            writing.shutdown().await?;
            assert_eq!(node.end(), End::Fin);
            node.fin();
            assert_eq!(reading.read(&mut [0]).await?, 0);
            std::io::Result::Ok(local)
        });
        let line = program.ended(local.expect("a connection"));
        assert_eq!(line["from_client"], connect.len() + BULK_BYTES);
        assert_eq!(line["from_node"], packets::connack(4, 0).len() + BULK_BYTES);
        let metrics = Metrics::of(program.admin());
        let by = |method: &str| -> f64 {
            let names = metrics.names();
            let of = names
                .iter()
                .filter(|name| name.starts_with("remora_bytes_total{") && name.contains(&format!("\"{method}\"")));
            of.map(|name| metrics.value(name)).sum()
        };
        assert_eq!(by("splice"), 0.0);
        let moved = (2 * BULK_BYTES + connect.len() + 4) as f64;
        crate::wait::until("the sweep has counted", || {
            let metrics = Metrics::of(program.admin());
            metrics.sum("remora_bytes_total") == moved
        });
    }
}

#[test]
fn a_reader_that_does_not_read_stalls_its_sender_and_nobody_else() {
    let site = Site::of(TLS13);
    site.cluster.answer(&Answer::AcceptDeaf);
    let program = site.start("");
    let (mut client, node) = site.pair(program.address, "stalled");
    let before = program.resident_bytes();
    let mut stream = Stream::new(3);
    let patience = Some(Duration::from_millis(500));
    client.tcp.stream.set_write_timeout(patience).expect("an option");
    // As much as the client's own TLS takes counts as sent: it holds what the kernel has no room for.
    let sent = loop {
        match client.try_send(stream.next(16 * 1024)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break stream.at(),
            Err(error) => panic!("{error}"),
        }
        assert!(stream.at() < 96 << 20, "the sender never stalled");
    };
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes for {sent} sent");
    site.cluster.answer(&Answer::Accept);
    let (mut other, its_node) = site.pair(program.address, "other");
    its_node.send(b"hello");
    other.expect(b"hello");
    node.listen();
    let connect = Connect::new("stalled").bytes();
    client.tcp.stream.set_write_timeout(None).expect("an option");
    client.fin();
    assert_eq!(node.end(), End::Fin);
    let received = node.received();
    assert_eq!(received.len(), connect.len() + sent);
    assert!(Stream::new(3).takes(&received[connect.len()..]));
}

#[test]
fn a_client_that_does_not_read_stalls_its_node_and_hears_all_and_the_end_when_it_does() {
    for versions in [TLS12, TLS13] {
        for round in [0, 3] {
            let site = Site::of(versions);
            let program = site.start("");
            let (mut client, node) = site.pair(program.address, "deaf");
            let before = program.resident_bytes();
            let mut stream = Stream::new(4);
            let sent = write_until_stalled(node.stream(), &mut stream);
            let grown = program.resident_bytes().saturating_sub(before);
            assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes for {sent} sent");
            node.fin();
            // In gulps, and at last all of it.
            for _ in 0..round {
                client.read(100_000 * round);
            }
            let (received, end) = client.rest();
            let taken: usize = 100_000 * round * round;
            assert_eq!((taken + received.len(), end), (sent, TlsEnd::Said));
            let mut expected = Stream::new(4);
            let mut skipped = 0;
            while skipped < taken {
                skipped += expected.next(taken - skipped).len();
            }
            assert!(expected.takes(&received));
        }
    }
}

#[test]
fn half_closes_are_passed_on_as_what_they_are() {
    for versions in [TLS12, TLS13] {
        let site = Site::of(versions);
        let balancer = Balancer::of(&site.toml(""));
        let (mut client, node) = site.pair(balancer.address, "client first");
        client.send(&IN_FLIGHT);
        client.fin();
        assert_eq!(node.end(), End::Fin);
        node.expect(&[&Connect::new("client first").bytes()[..], &IN_FLIGHT].concat());
        node.send(&IN_FLIGHT);
        client.expect(&IN_FLIGHT);
        node.send(b"and this");
        node.fin();
        client.expect(b"and this");
        assert_eq!(client.end(), TlsEnd::Said);

        let (mut client, node) = site.pair(balancer.address, "node first");
        node.send(&IN_FLIGHT);
        node.fin();
        client.expect(&IN_FLIGHT);
        assert_eq!(client.end(), TlsEnd::Said);
        client.send(&IN_FLIGHT);
        client.send(b"and this");
        client.fin();
        assert_eq!(node.end(), End::Fin);
        let connect = Connect::new("node first").bytes();
        node.expect(&[&connect[..], &IN_FLIGHT, b"and this"].concat());
    }
}

#[test]
fn a_client_that_leaves_without_a_word_of_tls_has_left_all_the_same() {
    let site = Site::of(BOTH);
    let program = site.start("");
    let (mut client, node) = site.pair(program.address, "cut");
    client.send(&IN_FLIGHT);
    client.tcp.fin();
    assert_eq!(node.end(), End::Fin);
    node.expect(&[&Connect::new("cut").bytes()[..], &IN_FLIGHT].concat());
    node.send(b"still heard");
    node.fin();
    client.expect(b"still heard");
    assert_eq!(client.end(), TlsEnd::Said);
    assert_eq!(program.ended(client.address())["cause"], "client_closed");

    // In the middle of a record: what was whole has arrived.
    let (mut client, node) = site.pair(program.address, "torn");
    client.send(b"whole");
    client.tls.writer().write_all(b"torn").expect("room");
    let mut record = Vec::new();
    client.tls.write_tls(&mut record).expect("a record");
    client.tcp.send(&record[..record.len() - 1]);
    client.tcp.fin();
    assert_eq!(node.end(), End::Fin);
    node.expect(&[&Connect::new("torn").bytes()[..], b"whole"].concat());
    node.fin();
    client.end();
    assert_eq!(program.ended(client.address())["cause"], "client_closed");
}

#[test]
fn a_reset_is_passed_on_as_a_reset_behind_what_came_before_it() {
    let site = Site::of(BOTH);
    let program = site.start("");
    for round in 0..20 {
        let (mut client, node) = site.pair(program.address, "node resets");
        node.send(&IN_FLIGHT);
        node.sent_all();
        node.reset();
        client.expect(&IN_FLIGHT);
        assert_eq!(client.end(), TlsEnd::Cut(End::Reset), "{round}");
        assert_eq!(program.ended(client.address())["cause"], "node_reset");

        let (mut client, node) = site.pair(program.address, "client resets");
        client.send(&IN_FLIGHT);
        client.tcp.sent_all();
        client.tcp.reset();
        assert_eq!(node.end(), End::Reset, "{round}");
        node.expect(&[&Connect::new("client resets").bytes()[..], &IN_FLIGHT].concat());
        assert_eq!(program.ended(client.address())["cause"], "client_reset");
    }
}

#[test]
fn records_that_may_not_be_there_end_their_connection_and_no_other() {
    let site = Site::of(TLS13);
    let old = Arc::new(site.certificates.trusting(TLS12, None));
    let program = site.start(ADMIN);
    let (mut other, its_node) = site.pair(program.address, "other");
    let junk = [
        b"\x17\x03\x03\0\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".to_vec(),
        b"\x17\x03\x03\xff\xff".to_vec(),
        b"\x17\x03\x03\x48\x01".to_vec(),
        b"\x17\x03\x03\0\0".to_vec(),
        b"\x16\x03\x03\0\x04\0\0\0\0".to_vec(),
        b"\x16\x03\x03\0\x05\x18\0\0\x01\x07".to_vec(),
        b"\x15\x03\x03\0\x02\x02\x28".to_vec(),
        b"\x14\x03\x03\0\x01\x01".to_vec(),
        b"\x18\x03\x03\0\x03\x01\x40\0".to_vec(),
        b"\x80\x80\x01\x03\x01".to_vec(),
        Connect::new("again").bytes(),
        vec![0; 6],
        vec![0xFF; 20_000],
    ];
    let mut faults = 0;
    for config in [&site.config, &old] {
        for junk in &junk {
            let connect = Connect::new("junk");
            let mut client = TlsClient::accepted(program.address, config, &connect);
            let (_, node) = site.cluster.holder(&connect.bytes());
            // What was said before, in one segment with it, is passed on.
            client.tls.writer().write_all(b"before").expect("room");
            let mut said = Vec::new();
            client.tls.write_tls(&mut said).expect("a record");
            said.extend(junk);
            client.tcp.send(&said);
            node.end();
            assert_eq!(
                node.received(),
                [&connect.bytes()[..], b"before"].concat(),
                "before {:02x?}",
                &junk[..6.min(junk.len())]
            );
            let line = program.ended(client.address());
            assert_eq!(line["cause"], "tls_fault", "{:02x?}", &junk[..6.min(junk.len())]);
            assert!(line["error"].is_string(), "{line}");
            faults += 1;
        }
    }
    assert_eq!(faults, 2 * junk.len());
    its_node.send(b"hello");
    other.expect(b"hello");
    other.send(b"hello");
    its_node.expect_count(Connect::new("other").bytes().len() + 5);
    assert_eq!(Metrics::of(program.admin()).value("remora_panics_total"), 0.0);
}

#[test]
fn keys_may_be_changed_and_not_without_end() {
    let site = Site::of(TLS13);
    let program = site.start("");
    let (mut client, node) = site.pair(program.address, "changes");
    let mut said = Connect::new("changes").bytes();
    for number in 0..200_u16 {
        client.tls.refresh_traffic_keys().expect("TLS 1.3");
        client.send(&number.to_be_bytes());
        said.extend(number.to_be_bytes());
        node.expect(&said);
        node.send(&number.to_be_bytes());
        client.expect(&number.to_be_bytes());
    }
    // Nothing but that, and more and more of it.
    let mut flooding = site.pair(program.address, "floods").0;
    let mut updates = Vec::new();
    for _ in 0..20_000 {
        flooding.tls.refresh_traffic_keys().expect("TLS 1.3");
        while flooding.tls.wants_write() {
            flooding.tls.write_tls(&mut updates).expect("bytes");
        }
    }
    // It may be cut off in the middle of it.
    let _ = flooding.tcp.stream.write_all(&updates);
    assert_eq!(program.ended(flooding.address())["cause"], "tls_fault");
    client.send(b"still here");
    said.extend(b"still here");
    node.expect(&said);
}

#[test]
fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    let site = Site::of(BOTH);
    let balancer = Balancer::of(&site.toml(""));
    for versions in [TLS12, TLS13] {
        let config = Arc::new(site.certificates.trusting(versions, None));
        for more in [0, 1, 5_000, 40_000] {
            let connect = Connect::new(format!("early-{more}")).bytes();
            let said = [&connect[..], &vec![7; more]].concat();
            let mut tcp = Client::to(balancer.address);
            let mut tls = crate::tls_client::connection(&config, NAME);
            let mut flight = Vec::new();
            while tls.is_handshaking() {
                while tls.wants_write() {
                    tls.write_tls(&mut flight).expect("bytes");
                }
                tcp.send(&std::mem::take(&mut flight));
                tls.read_tls(&mut tcp.stream).expect("an answer");
                tls.process_new_packets().expect("TLS");
            }
            // The client's last words of the handshake, where there are any left, and the CONNECT: one segment.
            tls.writer().write_all(&said).expect("room");
            while tls.wants_write() {
                tls.write_tls(&mut flight).expect("bytes");
            }
            tcp.send(&flight);
            let mut client = TlsClient { tcp, tls };
            client.expect(&packets::connack(4, 0));
            let (_, node) = site.cluster.holder(&connect);
            node.expect(&said);
        }
    }
}

#[test]
fn what_a_client_says_before_its_node_answers_is_kept_within_bounds_and_arrives() {
    let site = Site::of(BOTH);
    site.cluster.answer(&Answer::Stall);
    let program = site.start("[timeouts]\ngreet = \"10s\"");
    // All sizes of the room that is left for it.
    for more in [65_000, 65_536, 66_000, 90_000, 200_000] {
        let connect = Connect::new(format!("hasty-{more}")).bytes();
        let mut client = TlsClient::to(program.address, &site.config);
        client.send(&connect);
        let (_, node) = site.cluster.holder(&connect);
        let mut stream = Stream::new(more as u64);
        let mut said = connect.clone();
        while said.len() < connect.len() + more {
            said.extend_from_slice(stream.next(777));
        }
        client.send(&said[connect.len()..]);
        node.expect_count(connect.len() + 60_000);
        node.send(&packets::connack(4, 0));
        client.expect(&packets::connack(4, 0));
        node.expect(&said);
    }
}

#[test]
fn relays_move_between_workers_and_lose_no_byte() {
    const CLIENTS: usize = 12;
    const BYTES: usize = 300_000;
    let site = Site::of(BOTH);
    let balancer = Balancer::of(&site.toml(""));
    let mut bytes = vec![0; BYTES];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    let pairs: Vec<_> = (0..CLIENTS)
        .map(|number| site.pair(balancer.address, &format!("moves-{number}")))
        .collect();
    let done = AtomicBool::new(false);
    let (moved, pairs) = std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            let mut moved = 0;
            while !done.load(Ordering::Relaxed) {
                moved += balancer.move_connections(0, 1).expect("both run");
                moved += balancer.move_connections(1, 0).expect("both run");
            }
            moved
        });
        let talking: Vec<_> = pairs
            .into_iter()
            .map(|(mut client, node)| {
                let bytes = &bytes;
                scope.spawn(move || {
                    // The node sends all of it while the client has not begun to read.
                    let sending = Arc::clone(&node);
                    std::thread::scope(|scope| {
                        scope.spawn(|| bytes.chunks(901).for_each(|chunk| sending.send(chunk)));
                        bytes.chunks(997).for_each(|chunk| client.send(chunk));
                        client.expect(bytes);
                    });
                    (client, node)
                })
            })
            .collect();
        let pairs: Vec<_> = talking
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect();
        done.store(true, Ordering::Relaxed);
        (moving.join().expect("no panic"), pairs)
    });
    assert!(moved > CLIENTS, "moved {moved} times");
    for (number, (mut client, node)) in pairs.into_iter().enumerate() {
        let connect = Connect::new(format!("moves-{number}")).bytes();
        node.expect(&[&connect[..], &bytes].concat());
        client.fin();
        assert_eq!(node.end(), End::Fin);
        node.fin();
        assert_eq!(client.end(), TlsEnd::Said);
    }
}

#[test]
fn a_stalled_relay_moves_with_the_records_that_wait() {
    let site = Site::of(BOTH);
    let balancer = Balancer::of(&site.toml(""));
    let (mut client, node) = site.pair(balancer.address, "stalled");
    let sent = write_until_stalled(node.stream(), &mut Stream::new(9));
    for _ in 0..6 {
        let there = balancer.move_connections(0, 1).expect("both run");
        let back = balancer.move_connections(1, 0).expect("both run");
        assert!(there + back >= 1, "it is on one of the two");
    }
    node.fin();
    let (received, end) = client.rest();
    assert_eq!((received.len(), end), (sent, TlsEnd::Said));
    assert!(Stream::new(9).takes(&received));
}

#[test]
fn a_drain_and_the_idle_limit_say_goodbye_in_tls() {
    let site = Site::of(BOTH);
    let mut program = site.start("[drain]\nrate = 1000");
    let clients: Vec<_> = (0..50)
        .map(|number| site.pair(program.address, &format!("drains-{number}")))
        .collect();
    program.signal(Signal::TERM);
    for (mut client, _node) in clients {
        assert_eq!(client.end(), TlsEnd::Said);
    }
    assert_eq!(program.exit_code(), Some(0));
    program.until_ended_with("shutdown", 50);

    let program = site.start("[timeouts]\nidle_slack = \"0s\"");
    let connect = Connect::new("idle").keep_alive(1);
    let mut client = TlsClient::accepted(program.address, &site.config, &connect);
    // What TLS itself has to say is not the client's.
    client.tls.refresh_traffic_keys().expect("TLS 1.3");
    client.tls.write_tls(&mut client.tcp.stream).expect("a word");
    assert_eq!(client.end(), TlsEnd::Said);
    assert_eq!(program.ended(client.address())["cause"], "idle");
}

#[test]
fn an_end_before_the_relay_is_said_in_tls_as_well() {
    let site = Site::of(BOTH);
    let program = site.start("[timeouts]\nconnect = \"1s\"");
    let ended = |said: &[u8], cause: &str| {
        for versions in [TLS12, TLS13] {
            let config = Arc::new(site.certificates.trusting(versions, None));
            let mut client = TlsClient::to(program.address, &config);
            client.send(said);
            assert_eq!(client.end(), TlsEnd::Said, "{cause}");
            let address = client.address();
            drop(client);
            assert_eq!(program.ended(address)["cause"], cause);
        }
    };
    let connect = Connect::new("id").bytes();
    ended(b"junk", "not_mqtt_junk");
    ended(b"GET / HTTP/1.1\r\n\r\n", "not_mqtt_http");
    ended(&connect[..5], "connect_timeout");
    site.cluster.answer(&Answer::Code(3));
    ended(&connect, "refused");
    site.cluster.answer(&Answer::Close);
    ended(&connect, "refused");
}

#[test]
fn a_drain_passes_on_what_has_arrived() {
    let site = Site::of(BOTH);
    let mut program = site.start("[drain]\nrate = 1000\ngrace = \"15s\"");
    let (mut client, node) = site.pair(program.address, "slow");
    let sent = write_until_stalled(node.stream(), &mut Stream::new(5));
    program.signal(Signal::TERM);
    let (received, end) = client.rest();
    assert_eq!((received.len(), end), (sent, TlsEnd::Said));
    assert!(Stream::new(5).takes(&received));
    assert_eq!(program.exit_code(), Some(0));
}

/// Asks for an upgrade; the head of the answer.
#[track_caller]
fn upgrade(client: &mut TlsClient) -> String {
    client.send(REQUEST.as_bytes());
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(client.read(1));
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    head
}

#[test]
fn websocket_over_tls_reaches_nodes_with_websocket_and_without() {
    let site = Site::of(BOTH);
    let ws = WsNode::start();
    let with = site.cluster.toml().trim_end().to_owned() + &format!("\nws = \"{}\"", ws.address);
    let without = site
        .toml("")
        .replace("[[listeners]]", "[[listeners]]\ntransport = \"ws\"");
    for (toml, framed) in [
        (without.replace(site.cluster.toml().trim_end(), &with), true),
        (without, false),
    ] {
        let program = Program::of(&toml);
        let mut client = TlsClient::to(program.address, &site.config);
        upgrade(&mut client);
        let connect = Connect::new("tab").bytes();
        let masked = ws_frames::masked(BINARY, &connect, [1, 2, 3, 4]);
        client.send(&masked);
        client.expect(&ws_frames::plain(BINARY, &packets::connack(4, 0)));
        if framed {
            let node = ws.connection(0);
            let head = node.head();
            assert_eq!(field(&head, "x-forwarded-proto"), Some("https"), "{head}");
            let address = client.address();
            assert_eq!(field(&head, "x-forwarded-port"), Some(&*address.port().to_string()));
        } else {
            let node = site.cluster.nodes[0].connection(0);
            node.expect(&connect);
            let message = ws_frames::masked(BINARY, &IN_FLIGHT, [4, 3, 2, 1]);
            client.send(&message);
            node.expect(&[&connect[..], &IN_FLIGHT].concat());
            node.send(&packets::publish(b"down"));
            client.expect(&ws_frames::plain(BINARY, &packets::publish(b"down")));
        }
        client.tcp.reset();
        program.ended(client.address());
    }
    // A page over TLS that is none of ours.
    let program = Program::of(
        &site
            .toml("")
            .replace("[[listeners]]", "[[listeners]]\ntransport = \"ws\""),
    );
    // And a health check.
    for (path, status) in [("/page", "426"), ("/", "200")] {
        let mut client = TlsClient::to(program.address, &site.config);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes());
        let (answer, end) = client.rest();
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert_eq!(end, TlsEnd::Said);
        if status == "426" {
            assert_eq!(program.ended(client.address())["cause"], "upgrade_refused");
        }
    }
}
