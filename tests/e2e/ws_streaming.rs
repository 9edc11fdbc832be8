//! Clients that do not wait for the CONNACK (MQTT 5, 3.1.4) and send all in one WebSocket message, larger than what is kept for
//! replays. A node with WebSocket reads none of a message before its end.

use std::io::Write;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program};
use crate::node::Answer;
use crate::packets::{self, Connect};
use crate::websocket::Mesh;
use crate::ws_client::WsClient;
use crate::ws_frames::{BEGUN, BINARY, CONTINUED, LAST, masked, plain};
use crate::ws_node::WsAnswer;

/// Bytes of a PUBLISH: beyond what is kept, and beyond what all buffers on the way have room for.
const SIZES: [usize; 3] = [200_000, 1_000_000, 10_000_000];

const WS: bool = true;
const PLAIN: bool = false;

/// CONNECT, SUBSCRIBE and a PUBLISH of this size.
fn all_at_once(connect: &Connect, size: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
    [connect.bytes(), packets::subscribe(), packets::publish(&payload)].concat()
}

/// One message: as one frame, or as four.
fn message(mqtt: &[u8], fragments: usize) -> Vec<u8> {
    if fragments == 1 {
        return masked(BINARY, mqtt, [9, 8, 7, 6]);
    }
    let size = mqtt.len().div_ceil(fragments);
    let last = fragments - 1;
    let parts = mqtt.chunks(size).enumerate().map(|(number, part)| {
        let first = match number {
            0 => BEGUN,
            number if number == last => LAST,
            _ => CONTINUED,
        };
        masked(first, part, [number as u8 + 1, 2, 3, 4])
    });
    parts.collect::<Vec<_>>().concat()
}

/// A cluster of one node, which answers as the test tells it.
fn one(kind: bool) -> Mesh {
    let mesh = Mesh::of(usize::from(kind == WS), usize::from(kind == PLAIN));
    mesh.ws.iter().for_each(|node| node.answer(WsAnswer::Stall));
    if kind == PLAIN {
        mesh.cluster.answer(&Answer::Stall);
    }
    mesh
}

/// Sends `mqtt` in one message, and this CONNACK once the node has everything, or, without WebSocket, the CONNECT. Returns the client
/// once it has the CONNACK.
fn converse(mesh: &Mesh, program: &Program, mqtt: &[u8], fragments: usize, connack: &[u8]) -> WsClient {
    let mut client = WsClient::to(program.address);
    let frames = message(mqtt, fragments);
    std::thread::scope(|scope| {
        let mut sending = client.tcp.stream.try_clone().expect("a descriptor");
        let sent = &frames;
        scope.spawn(move || sending.write_all(sent).expect("a balancer that reads"));
        match mesh.ws.first() {
            Some(node) => {
                let node = node.connection(0);
                node.expect(&frames);
                node.send(&plain(BINARY, connack));
            }
            None => {
                let node = mesh.cluster.nodes[0].connection(0);
                let connect = packets::packet_end(mqtt).expect("a packet");
                node.expect_count(connect);
                node.send(connack);
                node.expect(mqtt);
            }
        }
        client.expect(BINARY, connack);
    });
    client
}

#[test]
fn a_client_that_sends_all_in_one_message_is_served() {
    for kind in [WS, PLAIN] {
        for fragments in [1, 4] {
            for size in SIZES {
                let mesh = one(kind);
                let program = Program::of(&mesh.toml(ADMIN));
                let connect = Connect::new("at once");
                let mqtt = all_at_once(&connect, size);
                let case = format!("WebSocket {kind}, {fragments} frames, {size} bytes");
                let connack = packets::connack(4, 0);
                let client = converse(&mesh, &program, &mqtt, fragments, &connack);
                let metrics = Metrics::of(program.admin());
                let accepted = "remora_connects_total{version=\"3.1.1\",result=\"accepted\"}";
                assert_eq!(metrics.value(accepted), 1.0, "{case}");
                client.tcp.reset();
                let line = program.ended(client.tcp.address());
                assert!(line["from_client"].as_u64() > Some(mqtt.len() as u64), "{case}: {line}");
                assert_eq!(line["retries"], 0, "{case}: {line}");
            }
        }
    }
}

#[test]
fn the_nodes_keep_alive_and_its_refusal_hold_for_such_a_client() {
    for kind in [WS, PLAIN] {
        // A Server Keep Alive of one second.
        let mesh = one(kind);
        let program = Program::of(&mesh.toml("[timeouts]\nidle_slack = \"0s\"\n"));
        let mqtt = all_at_once(&Connect::v5("idle").keep_alive(600), SIZES[0]);
        let connack = packets::connack_5(0, &[0x13, 0, 1]);
        let client = converse(&mesh, &program, &mqtt, 4, &connack);
        assert_eq!(program.ended(client.tcp.address())["cause"], "idle");
    }
    // It cannot be taken to another node, so it gets what this one says.
    let mesh = one(WS);
    let program = Program::of(&mesh.toml(ADMIN));
    let mqtt = all_at_once(&Connect::new("refused"), SIZES[1]);
    let _client = converse(&mesh, &program, &mqtt, 1, &packets::connack(4, 3));
    let metrics = Metrics::of(program.admin());
    let refused = "remora_connects_total{version=\"3.1.1\",result=\"refused\"}";
    assert_eq!(metrics.value(refused), 1.0);
}

#[test]
fn a_node_that_closes_within_such_a_message_ends_the_connection() {
    let mesh = Mesh::of(2, 0);
    mesh.ws.iter().for_each(|node| node.answer(WsAnswer::Stall));
    let program = Program::of(&mesh.toml(""));
    let mut client = WsClient::to(program.address);
    let frames = message(&all_at_once(&Connect::new("dropped"), SIZES[1]), 1);
    client.tcp.send(&frames[..500_000]);
    let (node, other) = match mesh.cluster.choices("dropped")[0] {
        0 => (&mesh.ws[0], &mesh.ws[1]),
        _ => (&mesh.ws[1], &mesh.ws[0]),
    };
    let node = node.connection(0);
    node.expect(&frames[..500_000]);
    node.stream.shutdown(std::net::Shutdown::Both).expect("open");
    client.closed(1002);
    let address = client.tcp.address();
    drop(client);
    assert_eq!(program.ended(address)["cause"], "refused");
    assert!(other.connections().is_empty(), "it could not get everything");
}

#[test]
fn a_client_that_sends_such_a_message_slowly_is_given_the_time() {
    let mesh = one(WS);
    let times = "[timeouts]\nconnect = \"1s\"\ndial = \"1s\"\ngreet = \"1s\"\ngreet_total = \"1s\"\n";
    let program = Program::of(&mesh.toml(times));
    let mut client = WsClient::to(program.address);
    let frames = message(&all_at_once(&Connect::new("slow"), SIZES[0]), 1);
    let began = tokio::time::Instant::now();
    client.tcp.send(&frames[..150_000]);
    let node = mesh.ws[0].connection(0);
    node.expect(&frames[..150_000]);
    crate::wait::until("the deadline", || {
        began.elapsed() > std::time::Duration::from_millis(1_500)
    });
    client.tcp.send(&frames[150_000..]);
    node.expect(&frames);
    node.send(&plain(BINARY, &packets::connack(4, 0)));
    client.expect(BINARY, &packets::connack(4, 0));
}

#[test]
fn a_connect_too_large_to_keep_is_streamed_and_its_connack_is_read() {
    let mesh = Mesh::of(0, 1);
    mesh.cluster.answer(&Answer::Stall);
    let program = Program::of(&mesh.toml(ADMIN));
    let connect = Connect::new("large")
        .will(b"t", &[7; 65_000])
        .username([b'u'; 65_000])
        .password([b'p'; 65_000]);
    let mqtt = connect.bytes();
    let mut client = WsClient::to(program.address);
    client.tcp.send(&message(&mqtt, 4));
    let node = mesh.cluster.nodes[0].connection(0);
    node.expect(&mqtt);
    node.send(&packets::connack(4, 0));
    client.expect(BINARY, &packets::connack(4, 0));
    let accepted = "remora_connects_total{version=\"3.1.1\",result=\"accepted\"}";
    let metrics = Metrics::of(program.admin());
    assert_eq!(metrics.value(accepted), 1.0);
}
