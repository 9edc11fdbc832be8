use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::SockRef;

use super::*;
use crate::emqx::Api;
use crate::failure::Failure;
use crate::nodes::{Nodes, Stall};
use crate::packet::{self, STAMP_BYTES, Version};
use crate::plan::{Arrival, Audience, CloseMode, Traffic};
use crate::sources::Sources;
use crate::upgrade::{self, Endpoint, PATH};

/// A node on its own thread, which ends when this is dropped.
struct FakeNode {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeNode {
    fn start(stall: Option<Stall>) -> Self {
        let mut nodes = Nodes::bind(&[(Ipv4Addr::LOCALHOST, 0).into()], stall).unwrap();
        let address = nodes.addresses().unwrap()[0];
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                nodes.turn().unwrap();
            }
        });
        Self {
            address,
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn plan(target: SocketAddr, clients: u32) -> Plan {
    Plan {
        name: "test",
        target,
        tls: None,
        websocket: None,
        sources: Sources::default(),
        roam: false,
        clients,
        publishers: clients,
        audience: Audience::Sender,
        clean: true,
        version: Version::V4,
        client_id: "test-%i".into(),
        topic: "test/%i".into(),
        keep_alive_s: 60,
        username: None,
        password: None,
        arrival: Arrival::AtOnce(8),
        connect_timeout: 5 * SECOND,
        connecting_max: 30 * SECOND,
        then: Then::Stay,
        close_mode: CloseMode::Reset,
        traffic: Traffic::None,
        qos: 0,
        size: 100,
        warm_up: 0,
        duration: SECOND / 10,
        settle: 0,
        emqx: None,
        pids: Vec::new(),
    }
}

/// The same over WebSocket.
fn over_ws(plan: Plan) -> Plan {
    let websocket = Some(Endpoint {
        host: plan.target.to_string(),
        path: PATH.into(),
    });
    Plan { websocket, ..plan }
}

fn measured(plan: &Plan) -> Measured {
    run(plan, &ProgressLine::none(), None).unwrap().measured
}

fn failures(measured: &Measured) -> Vec<(&'static str, u64)> {
    let counts = Failure::ALL.map(|failure| (failure.name(), measured.failed(failure)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn a_storm_connects_every_client_once() {
    let node = FakeNode::start(None);
    let plan = Plan {
        then: Then::Leave,
        duration: 30 * SECOND,
        ..plan(node.address, 500)
    };
    let measured = measured(&plan);
    assert_eq!(failures(&measured), []);
    assert_eq!(measured.accepted, 500);
}

#[test]
fn every_message_returns_whole_and_in_order() {
    let node = FakeNode::start(None);
    for (version, qos, size) in [
        (Version::V4, 0, STAMP_BYTES),
        (Version::V4, 1, 100),
        (Version::V5, 0, 100_000),
        (Version::V5, 1, 1 << 20),
    ] {
        let plan = Plan {
            version,
            qos,
            size,
            traffic: Traffic::Window(3),
            ..plan(node.address, 4)
        };
        for plan in [plan.clone(), over_ws(plan)] {
            let measured = measured(&plan);
            assert_eq!(failures(&measured), []);
            assert_eq!(measured.cut_off, 0);
            assert!(measured.received > 0, "{size} bytes");
            assert_eq!(measured.received_bytes, measured.received * size as u64);
        }
    }
}

#[test]
fn an_open_loop_keeps_its_schedule() {
    let node = FakeNode::start(None);
    let plan = Plan {
        traffic: Traffic::PerSecond {
            rate: 2_000.0,
            window: u32::MAX,
        },
        duration: SECOND / 2,
        ..plan(node.address, 10)
    };
    let measured = measured(&plan);
    assert_eq!(failures(&measured), []);
    // Half a second, or longer on a busy machine, at 2,000 a second; a few messages more or less at either end.
    let due = 2_000 * measured.measuring / SECOND;
    assert!(measured.measuring >= SECOND / 2, "{}", measured.measuring);
    assert!(
        measured.message.count().abs_diff(due) <= 10 + due / 100,
        "{} in {} ns",
        measured.message.count(),
        measured.measuring
    );
}

/// Ten windows of one message: while the node stalls ten messages wait, and all others are not even sent.
#[test]
fn a_stall_shows_in_the_latency_from_the_intended_time() {
    let node = FakeNode::start(Some(Stall {
        every: Duration::from_secs(10),
        lasts: Duration::from_secs(1),
    }));
    let plan = Plan {
        traffic: Traffic::PerSecond {
            rate: 1_000.0,
            window: 1,
        },
        duration: 10 * SECOND,
        ..plan(node.address, 10)
    };
    let measured = measured(&plan);
    assert_eq!(failures(&measured), []);
    let corrected = measured.message.quantile_us(0.99);
    let uncorrected = measured.message_from_send.quantile_us(0.99);
    assert!(corrected >= 800_000.0, "{corrected} µs");
    assert!(uncorrected < 200_000.0, "{uncorrected} µs: it shows no lie");
}

#[test]
fn a_target_that_refuses_is_counted_and_the_run_ends() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let measured = measured(&plan(address, 20));
    assert_eq!(failures(&measured), [("refused", 20)]);
}

#[test]
fn a_target_that_says_nothing_is_a_timeout() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let plan = Plan {
        connect_timeout: SECOND / 10,
        ..plan(listener.local_addr().unwrap(), 3)
    };
    assert_eq!(failures(&measured(&plan)), [("timeout", 3)]);
}

/// A target that does the same to every client, on its own thread, which ends when this is dropped.
struct FakeTarget {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeTarget {
    fn start(serve: fn(TcpStream)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if seen.load(Ordering::Relaxed) {
                    return;
                }
                serve(client);
            }
        });
        Self {
            address,
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for FakeTarget {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes it, so that it looks.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Answers the CONNECT with these bytes, and waits until the client closes.
fn answer(mut client: TcpStream, answer: &[u8]) {
    let mut buffer = [0; 1024];
    assert!(client.read(&mut buffer).unwrap() > 0);
    client.write_all(answer).unwrap();
    while client.read(&mut buffer).is_ok_and(|count| count > 0) {}
}

#[test]
fn what_a_target_does_wrong_is_counted_by_kind() {
    type Serve = fn(TcpStream);
    let cases: [(&str, Serve); 6] = [
        ("reset", |client| {
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        }),
        ("closed", |mut client| {
            // All of the CONNECT is read, or the close would be a reset.
            assert!(client.read(&mut [0; 1024]).unwrap() > 0);
        }),
        ("junk", |client| answer(client, b"HTTP/1.1 400 Bad Request\r\n")),
        ("junk", |client| answer(client, &[0x20, 0xff, 0xff, 0xff, 0xff, 0xff])),
        ("junk", |client| answer(client, &[0x20, 2, 0, 0, 0x20, 2, 0, 0])),
        ("not_accepted", |client| answer(client, &[0x20, 2, 0, 5])),
    ];
    for (kind, serve) in cases {
        let target = FakeTarget::start(serve);
        let plan = Plan {
            arrival: Arrival::AtOnce(1),
            ..plan(target.address, 3)
        };
        assert_eq!(failures(&measured(&plan)), [(kind, 3)]);
    }
}

/// Reads an upgrade request and sends an answer, which `says` makes of the right one.
fn answer_upgrade(mut client: &TcpStream, says: fn(String) -> String) {
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        let count = client.read(&mut buffer).unwrap();
        assert!(count > 0);
        request.extend_from_slice(&buffer[..count]);
    }
    let (right, agreed) = upgrade::answer(&request);
    assert!(agreed);
    let says = says(String::from_utf8(right).unwrap());
    client.write_all(says.as_bytes()).unwrap();
}

/// Waits until the client closes.
fn outlast(mut client: TcpStream) {
    while client.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
}

#[test]
fn what_a_target_does_wrong_over_websocket_is_counted_by_kind() {
    type Serve = fn(TcpStream);
    let cases: [(&str, Serve); 11] = [
        // What an MQTT broker does, and what a web server.
        ("closed", |mut client| {
            assert!(client.read(&mut [0; 1024]).unwrap() > 0);
        }),
        ("not_upgraded", |client| {
            answer_upgrade(&client, |_| {
                "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone".into()
            });
            outlast(client);
        }),
        ("not_upgraded", |client| {
            answer_upgrade(&client, |right| right.replace("mqtt", "chat"));
            outlast(client);
        }),
        ("junk", |client| {
            answer_upgrade(&client, |_| "SSH-2.0-OpenSSH_9.2\r\n".into());
            outlast(client);
        }),
        ("junk", |client| {
            answer_upgrade(&client, |_| format!("HTTP/1.1 101 {}", "x".repeat(9_000)));
            outlast(client);
        }),
        // Half an answer, and silence.
        ("timeout", |client| {
            answer_upgrade(&client, |right| right[..right.len() - 2].to_owned());
            outlast(client);
        }),
        ("closed", |client| {
            answer_upgrade(&client, |right| right[..right.len() - 2].to_owned());
        }),
        // A text message; a masked one; MQTT without frames.
        ("junk", |client| {
            answer_upgrade(&client, |right| right + "\u{1}\u{4}\u{20}\u{2}\0\0");
            outlast(client);
        }),
        ("junk", |mut client| {
            answer_upgrade(&client, |right| right);
            client.write_all(&[0x82, 0x84, 0, 0, 0, 0, 0x20, 2, 0, 0]).unwrap();
            outlast(client);
        }),
        ("junk", |mut client| {
            answer_upgrade(&client, |right| right);
            client.write_all(&[0x20, 2, 0, 0]).unwrap();
            outlast(client);
        }),
        // A close with a code: try again later.
        ("closed", |mut client| {
            answer_upgrade(&client, |right| right);
            client.write_all(&[0x88, 2, 3, 0xf5]).unwrap();
            outlast(client);
        }),
    ];
    for (number, (kind, serve)) in cases.into_iter().enumerate() {
        let target = FakeTarget::start(serve);
        let plan = Plan {
            arrival: Arrival::AtOnce(1),
            connect_timeout: if kind == "timeout" { SECOND / 10 } else { 5 * SECOND },
            ..over_ws(plan(target.address, 3))
        };
        assert_eq!(failures(&measured(&plan)), [(kind, 3)], "case {number}");
    }
}

/// Sends CONNACK and SUBACK byte by byte, each in a frame of its own and a ping between them; then waits for all the
/// pongs.
fn crumble(mut client: TcpStream) {
    answer_upgrade(&client, |right| right);
    let mut frames = vec![0x02, 0];
    for byte in [0x20, 2, 0, 0, 0x90, 3, 0, 1, 0] {
        frames.extend_from_slice(&[0x00, 1, byte, 0x89, 1, byte]);
    }
    // The message is over; the next has a PINGRESP and the close behind it.
    frames.extend_from_slice(&[0x80, 0, 0x82, 2, 0xd0, 0]);
    for byte in frames {
        client.write_all(&[byte]).unwrap();
    }
    outlast(client);
}

#[test]
fn packets_are_read_however_a_target_cuts_its_frames() {
    let target = FakeTarget::start(crumble);
    let measured = measured(&over_ws(plan(target.address, 1)));
    assert_eq!(failures(&measured), []);
    assert_eq!(measured.accepted, 1);
}

/// Pings the client, and refuses it once the pong has arrived.
fn ping(mut client: TcpStream) {
    answer_upgrade(&client, |right| right);
    client.write_all(&[0x89, 2, b'h', b'i']).unwrap();
    let (mut seen, mut buffer) = (Vec::new(), [0; 1024]);
    let is_pong = |bytes: &[u8]| matches!(bytes, [0x8a, 0x82, a, b, _, _, h, i] if [h ^ a, i ^ b] == *b"hi");
    while !seen.windows(8).any(is_pong) {
        let count = client.read(&mut buffer).unwrap();
        seen.extend_from_slice(&buffer[..count]);
    }
    client.write_all(&[0x82, 4, 0x20, 2, 0, 5]).unwrap();
    outlast(client);
}

#[test]
fn a_ping_of_the_target_is_answered() {
    let target = FakeTarget::start(ping);
    let plan = over_ws(plan(target.address, 1));
    assert_eq!(failures(&measured(&plan)), [("not_accepted", 1)]);
}

#[test]
fn clients_that_roam_return_from_other_addresses() {
    let (seen, sources) = std::sync::mpsc::sync_channel(8);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        for _ in 0..3 {
            let (mut client, from) = listener.accept().unwrap();
            assert!(client.read(&mut [0; 1024]).unwrap() > 0);
            client.write_all(&[0x20, 2, 0, 0]).unwrap();
            seen.send((client, from.ip().to_string())).unwrap();
        }
    });
    let plan = Plan {
        sources: Sources::parse("127.1.0.0/24").unwrap(),
        roam: true,
        audience: Audience::None,
        then: Then::Return(2),
        ..plan(address, 1)
    };
    assert_eq!(failures(&measured(&plan)), []);
    thread.join().unwrap();
    let sources: Vec<String> = sources.iter().map(|(_, from)| from).collect();
    assert_eq!(sources, ["127.1.0.0", "127.1.0.1", "127.1.0.2"]);
}

#[test]
fn connecting_ends_in_time_with_a_target_that_says_nothing() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let plan = Plan {
        arrival: Arrival::AtOnce(1),
        connecting_max: SECOND / 10,
        ..plan(listener.local_addr().unwrap(), 1_000)
    };
    let before = clock::now();
    assert_eq!(failures(&measured(&plan)), [("timeout", 1_000)]);
    assert!(clock::now() - before < 3 * SECOND);
}

#[test]
fn a_storm_that_its_end_cuts_off_has_not_failed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let plan = Plan {
        then: Then::Leave,
        ..plan(listener.local_addr().unwrap(), 20)
    };
    let measured = measured(&plan);
    assert_eq!(failures(&measured), []);
    assert_eq!(measured.cut_off_connects, 20);
}

#[test]
fn subscribers_get_each_message_of_their_publisher() {
    let node = FakeNode::start(None);
    for (topic, publishers, clients, copies) in [
        // Five subscribers for two topics; all five for the one.
        ("test/%i", 2, 7, None),
        ("test", 2, 7, Some(5)),
    ] {
        let plan = Plan {
            topic: topic.into(),
            publishers,
            audience: Audience::Others,
            traffic: Traffic::Window(2),
            ..plan(node.address, clients)
        };
        let measured = measured(&plan);
        assert_eq!(failures(&measured), []);
        assert_eq!(measured.cut_off, 0);
        assert!(measured.message.count() > 0);
        if let Some(copies) = copies {
            let expected = measured.sent * copies;
            let off = measured.message.count().abs_diff(expected);
            assert_eq!(off, 0, "{} of {expected}", measured.message.count());
        }
    }
}

#[test]
fn messages_without_subscribers_are_timed_until_they_are_confirmed() {
    let node = FakeNode::start(None);
    let plan = Plan {
        audience: Audience::None,
        qos: 1,
        traffic: Traffic::Window(3),
        ..plan(node.address, 5)
    };
    let measured = measured(&plan);
    assert_eq!(failures(&measured), []);
    assert_eq!((measured.received, measured.cut_off), (0, 0));
    assert!(measured.confirmed > 0);
    assert_eq!(measured.message.count(), measured.sent);
}

#[test]
fn clients_that_are_cut_off_find_their_node_and_session() {
    let node = FakeNode::start(None);
    let plan = Plan {
        version: Version::V5,
        audience: Audience::None,
        clean: false,
        then: Then::Return(2),
        ..plan(node.address, 30)
    };
    let measured = measured(&plan);
    assert_eq!(failures(&measured), []);
    assert_eq!(measured.accepted, 90);
    let returns = &measured.returns;
    assert_eq!(returns.rounds.len(), 2);
    assert_eq!((returns.count, returns.known), (60, 60));
    assert_eq!((returns.same_node, returns.session_present), (60, 60));
    assert_eq!(measured.nodes, [("node1".to_owned(), 90)]);
}

#[test]
fn clients_connect_from_their_source_addresses() {
    let (seen, sources) = std::sync::mpsc::sync_channel(8);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        for _ in 0..4 {
            seen.send(listener.accept().unwrap().1.ip().to_string()).unwrap();
        }
    });
    let plan = Plan {
        sources: Sources::parse("127.0.0.7,127.1.0.0/31").unwrap(),
        connect_timeout: SECOND / 10,
        arrival: Arrival::AtOnce(1),
        ..plan(address, 4)
    };
    measured(&plan);
    thread.join().unwrap();
    let sources: Vec<String> = sources.iter().collect();
    assert_eq!(sources, ["127.0.0.7", "127.1.0.0", "127.1.0.1", "127.0.0.7"]);
}

#[test]
fn emqx_tells_the_nodes_of_its_clients() {
    let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = api.local_addr().unwrap().to_string();
    let thread = thread::spawn(move || {
        // The second time, one of three has moved.
        for moved in ["n1", "n2"] {
            let (client, _) = api.accept().unwrap();
            let on = |id: u32, node: &str| format!(r#"{{"clientid":"test-{id}","node":"{node}"}}"#);
            let clients = [on(0, "n1"), on(1, moved), on(2, "n2")].join(",");
            let body = format!(r#"{{"data":[{clients}],"meta":{{"hasnext":false}}}}"#);
            let mut client = BufReader::new(client);
            while client.by_ref().lines().next().unwrap().unwrap() != "" {}
            let answer = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
            client.get_mut().write_all(answer.as_bytes()).unwrap();
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key");
    fs::write(&key, "key:secret\n").unwrap();
    let node = FakeNode::start(None);
    let plan = Plan {
        audience: Audience::None,
        then: Then::Return(1),
        emqx: Some(Api::new(&address, &key).unwrap()),
        ..plan(node.address, 3)
    };
    let measured = measured(&plan);
    thread.join().unwrap();
    assert_eq!(measured.nodes_problem, None);
    assert_eq!((measured.returns.known, measured.returns.same_node), (3, 2));
    assert_eq!(measured.nodes, [("n1".to_owned(), 3), ("n2".to_owned(), 3)]);
}

/// Takes two messages before it confirms any, as its CONNACK announces, and closes on a third.
fn take_two(mut client: TcpStream) {
    let mut buffer = [0; 4096];
    assert!(client.read(&mut buffer).unwrap() > 0);
    client.write_all(&[0x20, 6, 0, 0, 3, 0x21, 0, 2]).unwrap();
    let (mut held, mut taken, mut id) = (Vec::new(), 0, 0_u16);
    loop {
        let count = client.read(&mut buffer).unwrap_or(0);
        if count == 0 {
            return;
        }
        held.extend_from_slice(&buffer[..count]);
        while let packet::Read::Publish(published) = packet::read(&held, Version::V5) {
            let whole = published.head.len() + published.body_bytes;
            if held.len() < whole {
                break;
            }
            held.drain(..whole);
            taken += 1;
        }
        if taken > 2 {
            return;
        }
        if taken == 2 {
            for _ in 0..2 {
                id += 1;
                let [high, low] = id.to_be_bytes();
                client.write_all(&[0x40, 2, high, low]).unwrap();
            }
            taken = 0;
        }
    }
}

#[test]
fn no_more_is_under_way_than_the_target_takes() {
    let target = FakeTarget::start(take_two);
    let plan = Plan {
        version: Version::V5,
        audience: Audience::None,
        qos: 1,
        traffic: Traffic::Window(10),
        ..plan(target.address, 1)
    };
    let measured = measured(&plan);
    assert_eq!(failures(&measured), []);
    assert!(measured.confirmed > 2, "{}", measured.confirmed);
}
