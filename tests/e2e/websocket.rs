//! MQTT in WebSocket frames: the same node as over TCP, frames that pass as they are or are opened, and no trust in
//! either end.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::balancer::{Balancer, Program};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, End};
use crate::packets::{self, Connect};
use crate::raise_descriptor_limit;
use crate::wait::{self, uninterrupted};
use crate::ws_client::{REQUEST, WsClient};
use crate::ws_frames::{self, BEGUN, BINARY, CLOSE, CONTINUED, LAST, PING, PONG, TEXT, masked, plain};
use crate::ws_node::{WsAnswer, WsConnection, WsNode, field};

/// A cluster of which the first nodes speak WebSocket too.
pub(crate) struct Mesh {
    pub cluster: Cluster,
    pub ws: Vec<WsNode>,
}

impl Mesh {
    pub(crate) fn of(ws: usize, plain: usize) -> Self {
        Self {
            cluster: Cluster::of(ws + plain),
            ws: (0..ws).map(|_| WsNode::start()).collect(),
        }
    }

    /// A WebSocket listener, and one for TCP behind it.
    pub(crate) fn toml(&self, tables: &str) -> String {
        let mut toml = format!(
            "workers = 2\n{tables}\n[[listeners]]\naddress = \"127.0.0.1:0\"\ntransport = \"ws\"\n\n\
             [[listeners]]\naddress = \"127.0.0.1:0\"\n\n"
        );
        if !tables.contains("[admin]") {
            toml += "[admin]\nenabled = false\n\n";
        }
        for (number, node) in self.cluster.nodes.iter().enumerate() {
            toml += node.toml(100).trim_end();
            if let Some(ws) = self.ws.get(number) {
                toml += &format!("\nws = \"{}\"", ws.address);
            }
            toml += "\n\n";
        }
        toml
    }

    pub(crate) fn start(&self) -> Balancer {
        Balancer::of(&self.toml(""))
    }

    /// Connections that came to no matter which node.
    pub(crate) fn dials(&self) -> usize {
        let ws = self.ws.iter().map(|node| node.connections().len());
        self.cluster.dials() + ws.sum::<usize>()
    }

    /// Waits for the one live connection of a client with this CONNECT; which node it came to.
    #[track_caller]
    pub(crate) fn holder(&self, connect: &[u8]) -> (usize, Arc<WsConnection>) {
        wait::until_some("the one WebSocket node that has the client", || {
            let nodes = self.ws.iter().enumerate();
            let mut found = nodes.flat_map(|(number, node)| {
                let connections = node.connections().into_iter();
                let live = connections.filter(|c| !c.has_ended() && c.mqtt().starts_with(connect));
                live.map(move |connection| (number, connection))
            });
            found.next().filter(|_| found.next().is_none())
        })
    }

    /// Nodes that got this CONNECT over TCP, and over WebSocket.
    fn homes(&self, connect: &[u8]) -> Vec<usize> {
        let mut homes = self.cluster.holders(connect);
        for (number, node) in self.ws.iter().enumerate() {
            let held = node.connections();
            let held = held.iter().filter(|c| c.mqtt() == connect).count();
            homes.extend(std::iter::repeat_n(number, held));
        }
        homes
    }
}

/// A CONNECT in the frames in which a client may send it; each way is a way of its own.
fn ways(connect: &[u8], random: &mut fastrand::Rng) -> Vec<Vec<Vec<u8>>> {
    let key = random.u32(..).to_be_bytes();
    // As MQTT.js does: a message for each field.
    let mut seventeen = Vec::new();
    let size = connect.len().div_ceil(17);
    for field in connect.chunks(size.max(1)) {
        seventeen.push(masked(BINARY, field, random.u32(..).to_be_bytes()));
    }
    let bytewise = masked(BINARY, connect, key);
    let bytewise = bytewise.iter().map(|byte| vec![*byte]).collect();
    let mut fragments = vec![masked(BEGUN, b"", key)];
    for byte in connect {
        fragments.push(masked(CONTINUED, &[*byte], key));
        fragments.push(masked(PING, b"between", key));
        fragments.push(masked(CONTINUED, b"", key));
    }
    fragments.push(masked(LAST, b"", key));
    let empty = masked(BINARY, b"", [0; 4]);
    let asking = [masked(PING, b"", key), empty, masked(PONG, b"nobody asked", key)].concat();
    vec![
        vec![masked(BINARY, connect, key)],
        seventeen,
        bytewise,
        vec![fragments.concat()],
        vec![asking, masked(BINARY, connect, [0; 4])],
    ]
}

#[test]
fn a_client_comes_to_the_same_node_however_it_speaks() {
    const IDS: usize = 150;
    let mesh = Mesh::of(2, 2);
    let balancer = mesh.start();
    let (ws, tcp) = (balancer.running.addresses()[0], balancer.running.addresses()[1]);
    let mut random = fastrand::Rng::with_seed(1);
    let mut share = [0; 4];
    for number in 0..IDS {
        let connect = Connect::new(format!("device-{number}")).bytes();
        let home = mesh.cluster.home(format!("device-{number}"));
        share[home] += 1;
        let mut client = Client::to(tcp);
        client.send(&connect);
        client.expect(&packets::connack(4, 0));
        let ways = ways(&connect, &mut random);
        let way = &ways[number % ways.len()];
        let mut client = WsClient::to(ws);
        for piece in way {
            client.tcp.send(piece);
        }
        loop {
            match client.read_frame() {
                (PONG, _) => {}
                frame => break assert_eq!(frame, (BINARY, packets::connack(4, 0))),
            }
        }
        wait::until("both at home", || mesh.homes(&connect) == [home; 2]);
    }
    assert!(share.iter().all(|count| *count > 10), "{share:?}");
}

#[test]
fn each_ping_before_the_connack_is_answered_here_and_not_replayed() {
    let mesh = Mesh::of(1, 0);
    let balancer = mesh.start();
    mesh.ws[0].answer(WsAnswer::Stall);
    let connect = Connect::new("asks").bytes();
    let (head, tail) = connect.split_at(9);
    let mut client = WsClient::to(balancer.address);
    client.frame(PING, b"first");
    client.expect(PONG, b"first");
    let begun = masked(BEGUN, head, [9, 8, 7, 6]);
    client.tcp.send(&begun);
    client.frame(PING, &[7; 125]);
    client.expect(PONG, &[7; 125]);
    let subscribe = packets::subscribe();
    let last = masked(LAST, &[tail, &subscribe].concat(), [5, 5, 0, 5]);
    client.tcp.send(&last);
    let node = mesh.ws[0].connection(0);
    node.expect(&[begun.clone(), last.clone()].concat());
    client.frame(PING, b"while it is greeted");
    client.expect(PONG, b"while it is greeted");
    // A ping cut where the node answers is the node's from its first byte.
    let ping = masked(PING, b"cut", [1, 1, 1, 1]);
    client.tcp.send_alone(&ping[..3]);
    let connack = plain(BINARY, &packets::connack(4, 0));
    node.send(&connack);
    client.expect(BINARY, &packets::connack(4, 0));
    client.tcp.send(&ping[3..]);
    node.expect(&[begun, last, ping].concat());
}

#[test]
fn frames_pass_as_they_are_both_ways() {
    const BYTES: usize = 8 << 20;
    for splice in [true, false] {
        let mesh = Mesh::of(2, 0);
        let balancer = Balancer::of(&mesh.toml(&format!("[relay]\nsplice = {splice}\n")));
        let mut random = fastrand::Rng::with_seed(2);
        let mut bytes = vec![0; BYTES];
        random.fill(&mut bytes);
        let connect = Connect::new("bulk").bytes();
        let opening = masked(BINARY, &connect, [3, 1, 4, 1]);
        let mut up = opening.clone();
        up.extend(ws_frames::messages(&bytes, 200_000, &mut random));
        up.extend(masked(PING, b"to the node", [2; 4]));
        up.extend(masked(TEXT, b"which is the node's to judge", [2; 4]));
        let mut down = plain(PING, b"to the client");
        down.extend(plain(BINARY, &bytes));
        let mut client = WsClient::to(balancer.address);
        client.tcp.send(&opening);
        client.expect(BINARY, &packets::connack(4, 0));
        let (_, node) = mesh.holder(&connect);
        std::thread::scope(|scope| {
            let mut sending = client.tcp.stream.try_clone().expect("a descriptor");
            let rest = &up[opening.len()..];
            scope.spawn(move || sending.write_all(rest).expect("a balancer that reads"));
            scope.spawn(|| node.send(&down));
            assert!(client.tcp.read(down.len()) == down, "to the client");
        });
        node.expect(&up);
        client.tcp.fin();
        assert_eq!(node.end(), End::Fin);
    }
}

#[test]
fn nothing_of_a_node_reaches_the_client_before_its_connack() {
    let mesh = Mesh::of(1, 0);
    let balancer = mesh.start();
    mesh.ws[0].answer(WsAnswer::First(plain(PING, b"early")));
    let connect = Connect::new("early").username("late").bytes();
    let mut client = WsClient::to(balancer.address);
    let frame = masked(BINARY, &connect, [1; 4]);
    // The node's ping is here long before the CONNECT is whole, and waits for the CONNACK.
    let (most, last) = frame.split_at(frame.len() - 1);
    client.tcp.send_alone(most);
    mesh.ws[0].connection(0).expect(most);
    client.tcp.stream.set_nonblocking(true).expect("an option");
    let read = uninterrupted(|| client.tcp.stream.read(&mut [0]));
    assert!(read.is_err(), "a byte of the node");
    client.tcp.stream.set_nonblocking(false).expect("an option");
    client.tcp.send(last);
    client.expect(PING, b"early");
    client.expect(BINARY, &packets::connack(4, 0));
    // One that refuses after its ping is never heard of.
    let mesh = Mesh::of(2, 0);
    let balancer = mesh.start();
    let choices = mesh.cluster.choices("early");
    let refusal = [plain(PING, b"no"), plain(BINARY, &packets::connack(4, 3))].concat();
    mesh.ws[choices[0]].answer(WsAnswer::Bytes(refusal));
    let connect = Connect::new("early");
    let _client = WsClient::accepted(balancer.address, &connect);
    assert_eq!(mesh.holder(&connect.bytes()).0, choices[1]);
}

#[test]
fn a_node_hears_who_asks_and_from_where() {
    let mesh = Mesh::of(1, 0);
    let balancer = mesh.start();
    let client = WsClient::accepted(balancer.address, &Connect::new("who"));
    let head = mesh.ws[0].connection(0).head();
    assert!(head.starts_with("GET /mqtt?x=1 HTTP/1.1\r\n"), "{head}");
    for (name, value) in [
        ("host", "mqtt.example:8083"),
        ("origin", "https://page.example"),
        ("cookie", "a=b; c=d"),
        ("user-agent", "by hand"),
        ("sec-websocket-protocol", "mqtt"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-port", &client.tcp.address().port().to_string()),
    ] {
        assert_eq!(field(&head, name), Some(value), "{head}");
        let named = |line: &&str| line.to_ascii_lowercase().starts_with(&format!("{name}:"));
        assert_eq!(head.lines().filter(named).count(), 1, "{head}");
    }
    assert_eq!(field(&head, "sec-websocket-extensions"), None);
    let key = field(&head, "sec-websocket-key");
    assert_ne!(key, Some(crate::ws_client::KEY), "a key of our own");
}

#[test]
fn a_node_may_have_a_path_of_its_own() {
    let mesh = Mesh::of(1, 0);
    let address = mesh.ws[0].address;
    let toml = mesh.toml("").replacen(
        &format!("ws = \"{address}\""),
        &format!("ws = \"ws://{address}/of/the/node?q\""),
        1,
    );
    let balancer = Balancer::of(&toml);
    WsClient::accepted(balancer.address, &Connect::new("elsewhere"));
    let head = mesh.ws[0].connection(0).head();
    assert!(head.starts_with("GET /of/the/node?q HTTP/1.1\r\n"), "{head}");
}

/// Answers to an upgrade after which another node is asked.
fn unwilling() -> Vec<WsAnswer> {
    vec![
        WsAnswer::Head("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
        WsAnswer::Head("HTTP/1.1 200 OK\r\n\r\n"),
        WsAnswer::Head("no HTTP at all\r\n\r\n"),
        WsAnswer::Head("HTTP/1.1 101 Switching Protocols\r\nUpgr"),
        WsAnswer::Wrong("Accept: ", "Accept: x"),
        WsAnswer::Wrong("Sec-WebSocket-Protocol: mqtt\r\n", ""),
        WsAnswer::Wrong("Protocol: mqtt", "Protocol: chat"),
        WsAnswer::Wrong("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"),
        WsAnswer::Wrong("\r\n\r\n", "\n\nlost\r\n\r\n"),
    ]
}

#[test]
fn a_node_that_does_not_upgrade_is_left_for_the_next() {
    for answer in unwilling() {
        let mesh = Mesh::of(2, 0);
        let balancer = Balancer::of(&mesh.toml("[timeouts]\ngreet = \"300ms\"\n"));
        let choices = mesh.cluster.choices("moves on");
        mesh.ws[choices[0]].answer(answer.clone());
        let connect = Connect::new("moves on");
        let _client = WsClient::accepted(balancer.address, &connect);
        assert_eq!(mesh.holder(&connect.bytes()).0, choices[1], "{answer:?}");
        let refusing = mesh.ws[choices[0]].connection(0);
        refusing.end();
        assert!(refusing.frames().is_empty(), "{answer:?}: it got what was not for it");
    }
}

#[test]
fn a_client_that_no_node_takes_is_told_to_come_again() {
    for answer in unwilling() {
        let mesh = Mesh::of(2, 0);
        let program = Program::of(&mesh.toml("[timeouts]\ngreet = \"300ms\"\n"));
        mesh.ws.iter().for_each(|node| node.answer(answer.clone()));
        let mut client = WsClient::to(program.address);
        client.send(&Connect::new("nobody's").bytes());
        client.closed(1013);
        let address = client.tcp.address();
        drop(client);
        let line = program.ended(address);
        let known = ["refused", "no_node"].map(serde_json::Value::from);
        assert!(known.contains(&line["cause"]), "{answer:?}: {line}");
    }
}

#[test]
fn a_close_frame_instead_of_a_connack_is_no_answer() {
    let mesh = Mesh::of(2, 0);
    let balancer = mesh.start();
    let choices = mesh.cluster.choices("closed on");
    let close = plain(CLOSE, &1013u16.to_be_bytes());
    mesh.ws[choices[0]].answer(WsAnswer::Bytes(close));
    let connect = Connect::new("closed on");
    let began = Instant::now();
    let _client = WsClient::accepted(balancer.address, &connect);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(mesh.holder(&connect.bytes()).0, choices[1]);
}

#[test]
fn a_node_that_pings_without_end_is_passed_on_within_bounds() {
    let mesh = Mesh::of(1, 0);
    let balancer = mesh.start();
    mesh.ws[0].answer(WsAnswer::Bytes(plain(PING, &[7; 125]).repeat(2_000)));
    let mut client = WsClient::to(balancer.address);
    client.send(&Connect::new("flooded").bytes());
    // Else it would come when the node's time is over, or never.
    for _ in 0..2_000 {
        client.expect(PING, &[7; 125]);
    }
}

#[test]
fn a_refusal_is_cured_by_a_node_of_the_other_kind() {
    for (first_is_ws, connect) in [
        (true, Connect::new("cured")),
        (true, Connect::v5("cured")),
        (false, Connect::new("cured")),
        (false, Connect::v5("cured")),
    ] {
        let code = if connect.level == 5 { 0x9C } else { 3 };
        let mesh = Mesh::of(1, 1);
        let balancer = mesh.start();
        // Node 0 speaks WebSocket.
        let id = mesh.cluster.id_at_home(usize::from(!first_is_ws), "cured");
        let connect = Connect {
            client_id: id.into_bytes(),
            ..connect
        };
        let refusal = packets::connack(connect.level, code);
        match first_is_ws {
            true => mesh.ws[0].answer(WsAnswer::Bytes(plain(BINARY, &refusal))),
            false => mesh.cluster.nodes[1].answer(Answer::Code(code)),
        }
        let mut client = WsClient::to(balancer.address);
        let all = [connect.bytes(), packets::subscribe()].concat();
        let mut random = fastrand::Rng::with_seed(3);
        let frames = [
            ws_frames::messages(&all[..20], 5, &mut random),
            masked(PING, b"?", [1; 4]),
            ws_frames::messages(&all[20..], 5, &mut random),
        ];
        frames.iter().for_each(|frames| client.tcp.send(frames));
        client.expect(PONG, b"?");
        client.expect(BINARY, &packets::connack(connect.level, 0));
        match first_is_ws {
            true => mesh.cluster.nodes[1].connection(0).expect(&all),
            false => mesh.ws[0].connection(0).expect(&[&frames[0][..], &frames[2]].concat()),
        }
        client.frame(PING, b"still there?");
        if first_is_ws {
            client.expect(PONG, b"still there?");
        }
    }
}

#[test]
fn a_client_may_be_told_the_nodes_refusal_in_a_frame() {
    let mesh = Mesh::of(1, 1);
    let balancer = Balancer::of(&mesh.toml("[greet]\nrefuse = \"connack\"\n"));
    mesh.cluster.answer(&Answer::Code(3));
    mesh.ws[0].answer(WsAnswer::Bytes(plain(BINARY, &packets::connack(4, 3))));
    let mut client = WsClient::to(balancer.address);
    client.send(&Connect::new("told").bytes());
    client.expect(BINARY, &packets::connack(4, 3));
    client.closed(1013);
}

/// A WebSocket client and its connection at a node that speaks MQTT over TCP.
pub(crate) fn bridged(
    mesh: &Mesh,
    balancer: SocketAddr,
    id: &str,
) -> (WsClient, Arc<crate::node::Connection>, Vec<u8>) {
    let connect = Connect::new(id);
    let client = WsClient::accepted(balancer, &connect);
    let (_, node) = mesh.cluster.holder(&connect.bytes());
    (client, node, connect.bytes())
}

#[test]
fn bulk_is_bridged_both_ways_and_pings_are_answered_in_between() {
    const BYTES: usize = 8 << 20;
    let mesh = Mesh::of(0, 2);
    let balancer = mesh.start();
    let (mut client, node, connect) = bridged(&mesh, balancer.address, "bulk");
    let mut random = fastrand::Rng::with_seed(4);
    let mut bytes = vec![0; BYTES];
    random.fill(&mut bytes);
    let mut frames = Vec::new();
    let mut asked = 0;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let longest = [10, 2_000, 300_000][random.usize(..3)];
        let (some, behind) = rest.split_at(random.usize(1..100_000).min(rest.len()));
        frames.extend(ws_frames::messages(some, longest, &mut random));
        frames.extend(masked(PING, b"?", [asked; 4]));
        asked = asked.wrapping_add(1);
        rest = behind;
    }
    let asked = usize::from(asked);
    std::thread::scope(|scope| {
        let mut sending = client.tcp.stream.try_clone().expect("a descriptor");
        scope.spawn(move || sending.write_all(&frames).expect("a balancer that reads"));
        scope.spawn(|| node.send(&bytes));
        let (mut mqtt, mut pongs) = (Vec::new(), 0);
        while mqtt.len() < BYTES || pongs < asked {
            match client.read_frame() {
                (BINARY, payload) => mqtt.extend(payload),
                (PONG, payload) => {
                    assert_eq!(payload, b"?");
                    pongs += 1;
                }
                frame => panic!("{frame:02x?}"),
            }
        }
        assert!(mqtt == bytes, "to the client");
    });
    node.expect(&[connect, bytes].concat());
}

#[test]
fn a_bridged_end_is_said_in_a_close_frame_once() {
    let mesh = Mesh::of(0, 1);
    let program = Program::of(&mesh.toml(""));
    let (mut client, node, connect) = bridged(&mesh, program.address, "client first");
    let last = packets::publish(b"the last word");
    client.send(&last);
    client.frame(CLOSE, &[0x03, 0xE8, b'b', b'y', b'e']);
    client.expect(CLOSE, &[0x03, 0xE8]);
    assert_eq!(node.end(), End::Fin);
    node.expect(&[connect, last].concat());
    node.send(b"which comes too late");
    node.fin();
    assert_eq!(client.tcp.end(), End::Fin, "nothing behind the close frame");
    assert_eq!(program.ended(client.tcp.address())["cause"], "client_closed");

    let (mut client, node, _) = bridged(&mesh, program.address, "node first");
    node.send(b"the last word");
    node.fin();
    assert_eq!(client.read_mqtt(13), b"the last word");
    client.closed(1000);
    client.frame(CLOSE, &[0x03, 0xE8]);
    assert_eq!(node.end(), End::Fin);
    assert_eq!(program.ended(client.tcp.address())["cause"], "node_closed");
}

#[test]
fn frames_that_may_not_be_there_close_a_bridged_client() {
    let mesh = Mesh::of(0, 1);
    let program = Program::of(&mesh.toml(""));
    let message = packets::publish(b"before");
    let cases = [
        (masked(TEXT, b"words", [1; 4]), 1003),
        (plain(BINARY, b"not masked"), 1002),
        (masked(0xC2, b"reserved", [1; 4]), 1002),
        (masked(0x83, b"unknown", [1; 4]), 1002),
        (masked(LAST, b"of nothing", [1; 4]), 1002),
        (masked(0x09, b"in part", [1; 4]), 1002),
    ];
    for (number, (wrong, code)) in cases.into_iter().enumerate() {
        let (mut client, node, connect) = bridged(&mesh, program.address, &format!("wrong-{number}"));
        client.send(&message);
        node.expect(&[&connect[..], &message].concat());
        client.tcp.send(&wrong);
        client.expect(CLOSE, &u16::to_be_bytes(code));
        node.end();
        assert_eq!(program.ended(client.tcp.address())["cause"], "frame_fault");
        // The same before the CONNECT.
        let mut client = WsClient::to(program.address);
        client.tcp.send(&wrong);
        client.closed(code);
        let address = client.tcp.address();
        drop(client);
        assert_eq!(program.ended(address)["cause"], "frame_fault");
    }
    assert_eq!(mesh.cluster.dials(), 6);
}

#[test]
fn frames_without_mqtt_are_legal_until_there_are_far_too_many_in_a_second() {
    let mesh = Mesh::of(0, 1);
    let program = Program::of(&mesh.toml(""));
    let message = packets::publish(b"behind");
    for (name, first) in [("data", BINARY), ("pings", PING), ("pongs", PONG)] {
        let (mut client, node, connect) = bridged(&mesh, program.address, name);
        client.tcp.send(&masked(first, b"", [1; 4]).repeat(500));
        if first == PING {
            for _ in 0..500 {
                client.expect(PONG, b"");
            }
        }
        client.send(&message);
        node.expect(&[&connect[..], &message].concat());
        // However these fall into seconds, 1,024 are exceeded in one.
        client.tcp.send(&masked(first, b"", [1; 4]).repeat(2_100));
        let (kind, payload) = std::iter::repeat_with(|| client.read_frame())
            .find(|(kind, _)| *kind != PONG)
            .expect("a frame");
        assert_eq!((kind, payload), (CLOSE, 1008_u16.to_be_bytes().to_vec()));
        node.end();
        assert_eq!(program.ended(client.tcp.address())["cause"], "frame_flood");
    }
}

#[test]
fn a_bridged_client_hears_that_the_balancer_goes() {
    let mesh = Mesh::of(0, 1);
    let program = Program::of(&mesh.toml("[drain]\ndelay = \"0s\"\ngrace = \"0s\"\n"));
    let (mut client, _node, _) = bridged(&mesh, program.address, "drained");
    program.signal(rustix::process::Signal::TERM);
    client.closed(1001);
}

#[test]
fn bridged_relays_move_between_workers_and_lose_no_byte() {
    const CLIENTS: usize = 20;
    const BYTES: usize = 200_000;
    let mesh = Mesh::of(0, 1);
    let balancer = mesh.start();
    let mut pairs: Vec<_> = (0..CLIENTS)
        .map(|number| bridged(&mesh, balancer.address, &format!("moves-{number}")))
        .collect();
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = vec![0; BYTES];
    random.fill(&mut bytes);
    let frames = ws_frames::messages(&bytes, 700, &mut random);
    let done = AtomicBool::new(false);
    let moved = std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            let mut moved = 0;
            while !done.load(Ordering::Relaxed) {
                moved += balancer.move_connections(0, 1).expect("both run");
                moved += balancer.move_connections(1, 0).expect("both run");
            }
            moved
        });
        let talking: Vec<_> = pairs
            .iter_mut()
            .map(|(client, node, _)| {
                let mut sending = client.tcp.stream.try_clone().expect("a descriptor");
                let (frames, bytes) = (&frames, &bytes);
                scope.spawn(move || {
                    for (up, down) in frames.chunks(997).zip(bytes.chunks(901)) {
                        sending.write_all(up).expect("a balancer that reads");
                        node.send(down);
                    }
                    let done = bytes.chunks(901).len().min(frames.chunks(997).len());
                    node.send(&bytes[(done * 901).min(BYTES)..]);
                    let rest = &frames[(done * 997).min(frames.len())..];
                    sending.write_all(rest).expect("a balancer that reads");
                    assert!(client.read_mqtt(BYTES) == *bytes, "to the client");
                })
            })
            .collect();
        talking.into_iter().for_each(|thread| thread.join().expect("no panic"));
        done.store(true, Ordering::Relaxed);
        moving.join().expect("no panic")
    });
    assert!(moved > CLIENTS, "moved {moved} times");
    for (mut client, node, connect) in pairs {
        node.expect(&[&connect[..], &bytes].concat());
        client.frame(CLOSE, b"");
        client.expect(CLOSE, b"");
        assert_eq!(node.end(), End::Fin);
    }
}

#[test]
fn a_client_that_asks_and_does_not_listen_is_held_back_and_read_again_when_it_does() {
    const GROWN_MAX: usize = 8 << 20;
    let mesh = Mesh::of(0, 1);
    let program = Program::of(&mesh.toml(""));
    let (mut client, node, connect) = bridged(&mesh, program.address, "asks");
    // Pings alone would be a flood.
    let mqtt = [0xC0, 0];
    let pings = masked(PING, &[7; 125], [1, 2, 3, 4]).repeat(400);
    let pings = [pings, masked(BINARY, &mqtt, [1; 4])].concat();
    // What a burst takes for itself comes in huge pages, and stays: it is no growth.
    let pongs = plain(PONG, &[7; 125]).repeat(400);
    for _ in 0..10 {
        client.tcp.send(&pings);
        client.tcp.expect(&pongs);
    }
    let before = program.resident_bytes();
    let mut sent = 0;
    client
        .tcp
        .stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .expect("an option");
    // Until nobody takes any more.
    let mut part = 0;
    while let Ok(written) = (&client.tcp.stream).write(&pings[part..]) {
        sent += written;
        part = (part + written) % pings.len();
        assert!(sent < 200 << 20, "it is read without end");
    }
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < GROWN_MAX, "grown by {grown} bytes for {sent} sent");
    let rest = pings[part..].to_vec();
    let bursts = (sent + rest.len()) / pings.len();
    let message = packets::publish(b"after all that");
    std::thread::scope(|scope| {
        let mut sending = client.tcp.stream.try_clone().expect("a descriptor");
        sending.set_write_timeout(Some(wait::DEADLINE)).expect("an option");
        let all = [rest, masked(BINARY, &message, [1; 4])].concat();
        scope.spawn(move || sending.write_all(&all).expect("a balancer that reads"));
        let pongs = pongs.repeat(bursts);
        assert!(client.tcp.read(pongs.len()) == pongs, "each is answered");
    });
    node.expect(&[connect, mqtt.repeat(10 + bursts), message].concat());
}

#[test]
fn a_slow_reader_that_asks_without_end_costs_no_more_than_it_leaves_unread() {
    const ASKED: usize = 48 << 20;
    const GROWN_MAX: usize = 12 << 20;
    let mesh = Mesh::of(0, 1);
    let program = Program::of(&mesh.toml(""));
    let (mut client, _node, _) = bridged(&mesh, program.address, "slow");
    let before = program.resident_bytes();
    let ping = masked(PING, &[7; 125], [1, 2, 3, 4]);
    // Pings alone would be a flood.
    let mqtt = masked(BINARY, &[0xC0, 0], [1; 4]);
    let pong_bytes = plain(PONG, &[7; 125]).len();
    let count = ASKED / ping.len();
    let grown = std::thread::scope(|scope| {
        let mut sending = client.tcp.stream.try_clone().expect("a descriptor");
        let pings = [ping.repeat(400), mqtt].concat();
        scope.spawn(move || {
            for _ in 0..count / 400 {
                sending.write_all(&pings).expect("a balancer that reads");
            }
        });
        let mut left = (count / 400) * 400 * pong_bytes;
        let mut buffer = vec![0; 4_096];
        let mut grown = 0;
        while left > 0 {
            left -= client.read_some(&mut buffer);
            if left.is_multiple_of(64) {
                grown = grown.max(program.resident_bytes().saturating_sub(before));
            }
        }
        grown.max(program.resident_bytes().saturating_sub(before))
    });
    assert!(grown < GROWN_MAX, "grown by {grown} bytes");
}

#[test]
fn a_bad_request_is_answered_with_its_status_and_nothing_is_dialled() {
    let long = format!("Cookie: {}", "x".repeat(32 * 1024));
    let many: String = (0..124).map(|number| format!("X-{number}: 1\r\n")).collect();
    let version = "Version: 13\r\nSec-WebSocket-Version: 8";
    let length = "Content-Length: 0\r\nContent-Length: 5";
    let cases: &[(&str, &str, u16)] = &[
        ("GET /mqtt", "get /mqtt", 405),
        ("GET /mqtt", "POST /mqtt", 405),
        ("HTTP/1.1", "HTTP/1.0", 505),
        ("HTTP/1.1", "HTTP/2.0", 400),
        ("/mqtt?x=1", "/other", 404),
        ("/mqtt?x=1", "//mqtt", 404),
        ("/mqtt?x=1", "*", 404),
        ("/mqtt?x=1", "ftp://b.example/mqtt", 400),
        ("/mqtt?x=1", "/mqtt%2", 400),
        ("Host: mqtt.example:8083\r\n", "", 400),
        ("Host: mqtt.example:8083", "Host: a\r\nHost: b", 400),
        ("Host: mqtt.example:8083", "Host:", 400),
        ("Host: mqtt.example:8083", "Host: mqtt.example/other", 400),
        ("Host: mqtt.example:8083", "Host: mqtt.example:8083, b", 400),
        ("Host: mqtt.example:8083", "Host: mqtt.example:99999", 400),
        ("Upgrade: websocket\r\n", "", 426),
        ("Upgrade: websocket", "Upgrade: h2c", 426),
        ("keep-alive, Upgrade", "keep-alive", 426),
        ("Version: 13", "Version: 6", 426),
        ("Version: 13", "Version: 013", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        ("Version: 13", version, 400),
        ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", 426),
        ("Protocol: mqtt", "Protocol: chat", 400),
        ("Sec-WebSocket-Protocol: mqtt\r\n", "", 400),
        ("Cookie: a=b", "Content-Length: 5", 400),
        ("Cookie: a=b", length, 400),
        ("Cookie: a=b", "Transfer-Encoding: chunked", 400),
        ("Cookie: a=b", &long, 431),
        ("Cookie: a=b; c=d\r\n", &many, 431),
        ("Cookie: a=b", "Cookie a=b", 400),
        ("Cookie: a=b", "Coo kie: a=b", 400),
        ("Cookie: a=b", "\nsmuggled: ", 400),
        ("Cookie: a=b", "Cookie: a=b\r\n folded", 400),
        ("Cookie: a=b", "Cookie: a\0b", 400),
        ("Host: ", "Host : ", 400),
        // Bytes before the answer: a frame's first, a CONNECT, another request.
        ("\r\n\r\n", "\r\n\r\n\u{2}", 400),
        ("\r\n\r\n", "\r\n\r\n\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0", 400),
        ("\r\n\r\n", "\r\n\r\nGET /mqtt HTTP/1.1\r\n\r\n", 400),
    ];
    assert_eq!(cases.len(), 39);
    let mesh = Mesh::of(1, 1);
    let program = Program::of(&mesh.toml(""));
    for (from, to, status) in cases {
        let request = REQUEST.replacen(from, to, 1);
        assert_ne!(request, REQUEST, "{from}");
        let mut client = Client::to(program.address);
        let address = client.address();
        // It may be answered before it has said all.
        let _ = client.stream.write_all(request.as_bytes());
        let (answer, end) = client.rest();
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{to:.60}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert_eq!(
            field(head, "content-length"),
            Some(&*body.len().to_string()),
            "{answer}"
        );
        assert_eq!(end, End::Fin, "{to:.60}");
        drop(client);
        assert_eq!(program.ended(address)["cause"], "upgrade_refused", "{to:.60}");
    }
    assert_eq!(mesh.dials(), 0);
}

#[test]
fn only_pages_of_known_origins_may_connect() {
    let mesh = Mesh::of(1, 0);
    let toml = mesh.toml("");
    let listener = "transport = \"ws\"\npaths = [\"/a\", \"/b\"]\norigins = [\"https://known.example\", \"file://\"]";
    let program = Program::of(&toml.replacen("transport = \"ws\"", listener, 1));
    let asking = REQUEST.replace("/mqtt?x=1", "/b?y");
    for (origin, status) in [
        ("https://known.example", 101),
        ("https://Known.example:443", 101),
        ("file://", 101),
        ("https://known.example:8443", 403),
        // The balancer's own address is no exception.
        ("http://mqtt.example:8083", 403),
        ("https://page.example", 403),
        ("http://known.example", 403),
        ("null", 403),
    ] {
        let mut client = Client::to(program.address);
        client.send(asking.replace("https://page.example", origin).as_bytes());
        client.expect(format!("HTTP/1.1 {status} ").as_bytes());
    }
}

#[test]
fn who_does_not_speak_http_is_closed_with_its_cause() {
    let mesh = Mesh::of(1, 1);
    let program = Program::of(&mesh.toml(""));
    let connect = Connect::new("raw").bytes();
    let cases: &[(&[u8], &str)] = &[
        (&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0, 0], "not_mqtt_tls"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "not_mqtt_proxy"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "not_mqtt_proxy"),
        (&connect, "not_mqtt_junk"),
    ];
    for (bytes, cause) in cases {
        for cut in 0..bytes.len().min(8) {
            let mut client = Client::to(program.address);
            let address = client.address();
            if cut == 0 || client.offers(&bytes[..cut]) {
                client.offers(&bytes[cut..]);
            }
            assert_eq!(program.ended(address)["cause"], *cause, "cut at {cut}");
            assert_eq!(client.rest().0, b"", "{cause}");
        }
    }
    assert_eq!(mesh.dials(), 0);
}

#[test]
fn upgrades_that_stall_are_closed_at_the_deadline_and_honest_clients_are_served() {
    raise_descriptor_limit();
    const STALLED: usize = 2_000;
    let mesh = Mesh::of(1, 1);
    let program = Program::of(&mesh.toml("[timeouts]\nconnect = \"2s\"\n"));
    let connect = masked(BINARY, &Connect::new("stalls").bytes(), [1; 4]);
    let all = [REQUEST.as_bytes(), &connect].concat();
    let stalled: Vec<_> = (1..=STALLED)
        .map(|number| {
            let cut = number * (all.len() - 1) / STALLED;
            // As from four hosts: the ports of one are needed elsewhere.
            let source = [127, 0, 3, number as u8 % 4];
            let mut client = Client::from(source.into(), program.address);
            let head = cut.min(REQUEST.len());
            client.send(&all[..head]);
            if head == REQUEST.len() {
                client.expect(b"HTTP/1.1 101 ");
                client.send(&all[head..cut]);
            }
            client
        })
        .collect();
    let mut served = 0;
    while program.ended_with("connect_timeout") < STALLED {
        WsClient::accepted(program.address, &Connect::new(format!("honest-{served}")));
        served += 1;
    }
    assert!(served > 20, "{served} served");
    let lines = program.lines(|line| line["cause"] == "connect_timeout");
    for line in &lines {
        let seconds = line["seconds"].as_f64().expect("a number");
        assert!((2.0..4.0).contains(&seconds), "{line}");
    }
    drop(stalled);
    assert_eq!(mesh.dials(), served, "nothing is dialled for who stalls");
}

#[test]
fn a_connect_beyond_the_cap_is_too_large() {
    let mesh = Mesh::of(1, 0);
    let program = Program::of(&mesh.toml(""));
    // Ever more properties, and no client id.
    let mut large = Connect::v5("large");
    while large.properties.len() < 200_000 {
        large = large.user_property(b"name", &[b'v'; 60_000]);
    }
    let mut random = fastrand::Rng::with_seed(8);
    for longest in [1, 100_000] {
        let frames = ws_frames::messages(&large.bytes(), longest, &mut random);
        let mut client = WsClient::to(program.address);
        // It is closed before it has said all.
        let _ = client.tcp.stream.write_all(&frames);
        client.closed(1009);
        let address = client.tcp.address();
        drop(client);
        assert_eq!(program.ended(address)["cause"], "connect_too_large");
    }
    // Neither may it ask without end.
    let mut client = WsClient::to(program.address);
    let address = client.tcp.address();
    std::thread::scope(|scope| {
        let mut sending = client.tcp.stream.try_clone().expect("a descriptor");
        scope.spawn(
            move || {
                while sending.write_all(&masked(PING, b"?", [1; 4]).repeat(1_000)).is_ok() {}
            },
        );
        client.tcp.rest();
    });
    assert_eq!(program.ended(address)["cause"], "connect_too_large");
    assert_eq!(mesh.dials(), 0);
}
