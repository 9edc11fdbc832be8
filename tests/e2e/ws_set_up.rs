//! A WebSocket client whose node has not taken it yet: it is heard, counted and bounded. And one whose frames are wrong: it
//! is told so, whatever else it has to say.

use std::io::Write;
use std::time::Duration;

use remora::net::held::CONNECTION_BYTES;
use tokio::time::Instant;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Balancer, Program};
use crate::client::Client;
use crate::node::{Answer, End};
use crate::packets::{self, Connect};
use crate::wait;
use crate::websocket::{Mesh, bridged};
use crate::ws_client::{KEY, REQUEST, WsClient};
use crate::ws_frames::{BINARY, CLOSE, PING, PONG, TEXT, masked, plain};
use crate::ws_node::{WsAnswer, WsNode, field};

/// Begins to upgrade, and never does.
const NEVER: WsAnswer = WsAnswer::Head("HTTP/1.1 101 Switching Protocols\r\nUpgr");

/// A node that never upgrades, which nobody gives up before a test is over.
const PATIENT: &str = "[timeouts]\ngreet = \"30s\"\ngreet_total = \"30s\"\n";

/// What so many clients hold besides the connections themselves.
#[track_caller]
fn held(program: &Program, clients: usize) -> f64 {
    Metrics::of(program.admin()).value("remora_held_bytes") - (clients * CONNECTION_BYTES) as f64
}

/// How a client goes.
type Way = fn(&mut WsClient);

#[test]
fn a_client_that_goes_while_its_node_upgrades_ends_the_dial() {
    let mesh = Mesh::of(1, 0);
    let program = Program::of(&mesh.toml(PATIENT));
    mesh.ws[0].answer(NEVER);
    let gone: &[(&str, Way)] = &[
        ("client_reset", |client| client.tcp.reset()),
        ("client_closed", |client| client.tcp.fin()),
        ("client_closed", |client| {
            client.frame(CLOSE, &[0x03, 0xE9]);
            client.expect(CLOSE, &[0x03, 0xE9]);
        }),
        ("frame_fault", |client| {
            client.frame(TEXT, b"words");
            client.closed(1003);
        }),
    ];
    for (number, (cause, go)) in gone.iter().enumerate() {
        let mut client = WsClient::to(program.address);
        client.send(&Connect::new(format!("goes-{number}")).bytes());
        let node = mesh.ws[0].connection(number);
        wait::until("the node is asked", || !node.head().is_empty());
        client.frame(PING, b"still there?");
        client.expect(PONG, b"still there?");
        let began = Instant::now();
        go(&mut client);
        node.end();
        let address = client.tcp.address();
        drop(client);
        assert_eq!(program.ended(address)["cause"], *cause);
        let seconds = began.elapsed();
        assert!(seconds < Duration::from_secs(5), "{cause} after {seconds:?}");
        assert!(node.frames().is_empty(), "it did not upgrade");
    }
}

#[test]
fn what_a_client_says_while_its_node_upgrades_arrives_and_is_bounded() {
    const HELD_MAX: f64 = 300e3;
    let mesh = Mesh::of(2, 0);
    let patient = PATIENT.replace("greet = \"30s\"", "greet = \"2s\"");
    let program = Program::of(&mesh.toml(&format!("{ADMIN}\n{patient}")));
    let choices = mesh.cluster.choices("eager");
    mesh.ws[choices[0]].answer(NEVER);
    let connect = Connect::new("eager").bytes();
    let message = packets::publish(&[7; 10_000]);
    let mut all = masked(BINARY, &connect, [1, 2, 3, 4]);
    for _ in 0..800 {
        all.extend(masked(BINARY, &message, [5, 6, 7, 8]));
    }
    let mut client = WsClient::to(program.address);
    let mut sending = client.tcp.stream.try_clone().expect("a descriptor");
    std::thread::scope(|scope| {
        scope.spawn(|| sending.write_all(&all).expect("a balancer that reads"));
        wait::until("what it says is held", || held(&program, 1) > 50e3);
        let mut most = 0.0f64;
        // Until the first node's time is over.
        while mesh.ws[choices[1]].connections().is_empty() {
            most = most.max(held(&program, 1));
        }
        assert!(most < HELD_MAX, "{most} bytes were held");
        client.expect(BINARY, &packets::connack(4, 0));
        mesh.ws[choices[1]].connection(0).expect(&all);
    });
    assert_eq!(held(&program, 0), 0.0);
}

#[test]
fn a_client_whose_time_is_over_while_a_node_upgrades_is_told_to_come_again() {
    const TIMES: &str = "[timeouts]\nconnect = \"1s\"\ndial = \"1s\"\ngreet = \"1s\"\ngreet_total = \"1500ms\"\n";
    let mesh = Mesh::of(3, 0);
    let program = Program::of(&mesh.toml(TIMES));
    mesh.ws.iter().for_each(|node| node.answer(NEVER));
    let mut client = WsClient::to(program.address);
    client.send(&Connect::new("late").bytes());
    client.closed(1013);
    let address = client.tcp.address();
    drop(client);
    assert_eq!(program.ended(address)["cause"], "no_node");
    // Probes have nobody to name.
    let is_client = |head: &String| field(head, "x-forwarded-for").is_some();
    let connections = mesh.ws.iter().flat_map(WsNode::connections);
    let asked = connections.map(|connection| connection.head()).filter(is_client);
    assert_eq!(asked.count(), 2, "the third has no time left");
}

#[test]
fn a_request_counts_as_held_until_a_node_has_taken_its_client() {
    let mesh = Mesh::of(1, 0);
    let program = Program::of(&mesh.toml(&format!("{ADMIN}\n{PATIENT}")));
    mesh.ws[0].answer(WsAnswer::Stall);
    let cookie = format!("Cookie: {}", "c".repeat(6_000));
    let request = REQUEST.replacen("Cookie: a=b; c=d", &cookie, 1);
    let mut client = WsClient::with(program.address, &request);
    wait::until("the request is held", || held(&program, 1) == request.len() as f64);
    let connect = Connect::new("held").bytes();
    let frame = masked(BINARY, &connect, [1; 4]);
    client.tcp.send(&frame);
    let node = mesh.ws[0].connection(0);
    node.expect(&frame);
    let kept = field(&node.head(), "cookie").map(str::len);
    assert_eq!(kept, Some(6_000), "it was kept for the node");
    // What is in frames is held beside them: the next node may want either.
    let all = request.len() + frame.len() + connect.len();
    assert_eq!(held(&program, 1), all as f64);
    node.send(&plain(BINARY, &packets::connack(4, 0)));
    client.expect(BINARY, &packets::connack(4, 0));
    wait::until("nothing is held", || held(&program, 0) == 0.0);
}

#[test]
fn requests_that_fill_the_account_close_the_oldest_client() {
    let mesh = Mesh::of(1, 0);
    let tables = format!("{ADMIN}\n[limits]\nheld_bytes = \"1MiB\"\n{PATIENT}connect = \"20s\"\n");
    let program = Program::of(&mesh.toml(&tables));
    let cookie = format!("Cookie: {}", "c".repeat(6_000));
    let request = REQUEST.replacen("Cookie: a=b; c=d", &cookie, 1);
    // An eighth is kept for those who need little.
    let fit = (7 << 17) / (request.len() + CONNECTION_BYTES);
    // Each was upgraded, and says no more.
    let waiting: Vec<WsClient> = (0..fit).map(|_| WsClient::with(program.address, &request)).collect();
    wait::until("all are held", || held(&program, fit) == (fit * request.len()) as f64);
    assert_eq!(program.ended_with("held_bytes_full"), 0);
    let mut one_more = Client::to(program.address);
    one_more.offers(request.as_bytes());
    program.until_ended_with("held_bytes_full", 1);
    assert_eq!(program.ended(waiting[0].tcp.address())["cause"], "held_bytes_full");
}

#[test]
fn what_is_wrong_with_a_frame_is_heard_by_who_goes_on_talking() {
    const BEHIND: usize = 6 << 20;
    let mesh = Mesh::of(1, 1);
    let program = Program::of(&mesh.toml(PATIENT));
    let wrong = plain(BINARY, b"not masked");
    let behind = vec![7; BEHIND];
    let id_at = |node| mesh.cluster.id_at_home(node, "talks");
    // While it is relayed, while its node greets it, while its node upgrades, and before its CONNECT.
    let mut talking = vec![bridged(&mesh, program.address, &id_at(1)).0];
    for answer in [WsAnswer::Stall, NEVER] {
        mesh.ws[0].answer(answer);
        let mut client = WsClient::to(program.address);
        client.send(&Connect::new(id_at(0)).bytes());
        let node = mesh.ws[0].connection(talking.len() - 1);
        wait::until("the node is asked", || !node.head().is_empty());
        talking.push(client);
    }
    talking.push(WsClient::to(program.address));
    for (stage, mut client) in talking.into_iter().enumerate() {
        let mut sending = client.tcp.stream.try_clone().expect("a descriptor");
        let all = [&wrong[..], &behind].concat();
        std::thread::scope(|scope| {
            // The balancer may close before it has said all.
            let said = scope.spawn(move || sending.write_all(&all));
            client.expect(CLOSE, &1002u16.to_be_bytes());
            assert_eq!(client.tcp.end(), End::Fin, "stage {stage}");
            assert!(said.join().expect("no panic").is_ok(), "stage {stage}: cut off");
        });
        let address = client.tcp.address();
        drop(client);
        assert_eq!(program.ended(address)["cause"], "frame_fault", "stage {stage}");
    }
}

#[test]
fn a_slow_reader_whose_frame_is_wrong_gets_whole_frames_and_then_the_reason() {
    let mesh = Mesh::of(0, 1);
    let program = Program::of(&mesh.toml(""));
    let (mut client, node, _) = bridged(&mesh, program.address, "slow and wrong");
    // More than fits anywhere on the way.
    let words = vec![7; 32 << 20];
    std::thread::scope(|scope| {
        let saying = scope.spawn(|| {
            // Until the relay ends.
            let _ = node.stream().write_all(&words);
        });
        client.frame(TEXT, b"words");
        let code = loop {
            match client.read_frame() {
                (BINARY, payload) => assert!(payload.iter().all(|byte| *byte == 7)),
                (CLOSE, code) => break code,
                frame => panic!("{:02x} with {} bytes", frame.0, frame.1.len()),
            }
        };
        assert_eq!(code, 1003u16.to_be_bytes());
        assert_eq!(client.tcp.end(), End::Fin);
        saying.join().expect("no panic");
    });
}

#[test]
fn mqtt_3_1_comes_to_a_node_that_calls_it_otherwise() {
    let mesh = Mesh::of(1, 0);
    let balancer = Balancer::of(&mesh.toml(""));
    let request = REQUEST.replacen("Protocol: mqtt\r\n", "Protocol: mqttv3.1\r\n", 1);
    let mut client = Client::to(balancer.address);
    client.send(request.as_bytes());
    let head = String::from_utf8(client.read_until(b"\r\n\r\n")).expect("text");
    assert_eq!(field(&head, "sec-websocket-protocol"), Some("mqttv3.1"), "{head}");
    let accept = tungstenite::handshake::derive_accept_key(KEY.as_bytes());
    assert_eq!(field(&head, "sec-websocket-accept"), Some(&*accept), "{head}");
    let mut client = WsClient { tcp: client };
    client.send(&Connect::v31("old").bytes());
    // The node echoes the last that is offered: the one that EMQX knows.
    client.expect(BINARY, &packets::connack(3, 0));
    let head = mesh.ws[0].connection(0).head();
    let offered = field(&head, "sec-websocket-protocol");
    assert_eq!(offered, Some("mqttv3.1, mqtt-v3, mqtt"), "{head}");
}

#[test]
fn the_oldest_is_closed_also_while_its_node_is_asked() {
    for ws in [0, 1] {
        let mesh = Mesh::of(ws, 1 - ws);
        let tables = format!("[limits]\nheld_bytes = \"1MiB\"\n{PATIENT}connect = \"30s\"\n");
        let program = Program::of(&mesh.toml(&tables));
        // It greets nobody, or upgrades nobody.
        mesh.cluster.answer(&Answer::Stall);
        mesh.ws.iter().for_each(|node| node.answer(NEVER));
        let mut oldest = WsClient::to(program.address);
        oldest.send(&Connect::new("talks").bytes());
        wait::until("its node is asked", || mesh.dials() == 1);
        // More than a small CONNECT, and less than any other.
        let message = packets::publish(&[7; 2_000]);
        oldest.tcp.send_alone(&masked(BINARY, &message, [1; 4]));
        let unfinished = &Connect::new([b'i'; 65_535]).bytes()[..40_000];
        let mut others = Vec::new();
        while program.ended_with("held_bytes_full") == 0 {
            let mut other = WsClient::to(program.address);
            other.tcp.send_alone(&masked(BINARY, unfinished, [1; 4]));
            others.push(other);
            assert!(others.len() < 40, "far beyond the limit");
        }
        let address = oldest.tcp.address();
        assert_eq!(program.ended(address)["cause"], "held_bytes_full");
    }
}
