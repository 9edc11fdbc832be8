//! The sandbox's nodes, behind a balancer and by themselves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use mqttbytes::{v4, v5};
use tokio_tungstenite::tungstenite::Message;

use remora::cluster::{Endpoints, Member, MemberEndpoint, NodeAddress, Ring, WEIGHT_DEFAULT};
use remora::config::Config;
use remora::path::accept::Listener;
use remora::path::greet;
use remora::serve;
use remora_sandbox::{Behaviour, Counts, Node, Sandbox, Settings};

use super::client::{Accepted, Client, Session, uninterrupted};

/// A sandbox, and a balancer before it.
struct Balanced {
    running: serve::Running,
    config: Config,
    sandbox: Sandbox,
}

impl Balanced {
    fn start() -> Self {
        let sandbox = Sandbox::start(Settings::default()).expect("a sandbox");
        let member = |node: &Node| Member {
            name: node.name().to_owned(),
            endpoints: Endpoints::only(MemberEndpoint::plain(NodeAddress::Socket(node.address()))),
            api: None,
            weight: WEIGHT_DEFAULT,
            connects_per_second: None,
            connections_max: None,
        };
        let nodes = sandbox.nodes().iter().map(member).collect();
        let listener = Listener::new("127.0.0.1:0".parse().expect("an address"));
        let config = Config {
            workers: std::num::NonZeroUsize::new(1),
            greet: greet::Settings {
                timeout: Duration::from_millis(300),
                ..greet::Settings::default()
            },
            admin: remora::admin::Settings {
                address: remora::admin::Address::Off,
                ..remora::admin::Settings::default()
            },
            ..Config::new(vec![listener], nodes)
        };
        Self {
            running: serve::start(config.clone()).expect("a balancer"),
            config,
            sandbox,
        }
    }

    fn connect(&self, client_id: &str, session: Session) -> (Client, Accepted) {
        Client::connect(self.running.addresses()[0], client_id, session)
    }

    /// The node that a client belongs to.
    fn home(&self, client_id: &str) -> &Node {
        let nodes = self.config.nodes.iter();
        let members: Vec<_> = nodes.map(|node| (&*node.name, node.weight)).collect();
        let ring = Ring::build(self.config.affinity.seed, &members);
        let home = ring.choices(ring.hash(client_id.as_bytes())).next();
        &self.sandbox.nodes()[home.expect("a node")]
    }

    fn takeovers_across(&self) -> u64 {
        let counts = self.sandbox.nodes().iter().map(counts);
        counts.map(|counts| counts.takeovers_across).sum()
    }
}

fn counts(node: &Node) -> Counts {
    node.counts().expect("a node that answers")
}

#[test]
fn a_persistent_session_comes_home_and_nobody_takes_it_over() {
    let balanced = Balanced::start();
    for number in 0..20 {
        let id = format!("sensor-{number}");
        let (mut client, accepted) = balanced.connect(&id, Session::Kept);
        assert!(!accepted.session_present);
        assert_eq!(accepted.node, balanced.home(&id).name());
        client.subscribe(&id);
        client.leave();
        let (mut other, _) = balanced.connect("other", Session::Clean);
        other.publish(&id, "missed");
        other.leave();
        let (mut client, back) = balanced.connect(&id, Session::Kept);
        assert!(back.session_present, "{id}");
        assert_eq!(back.node, accepted.node);
        assert_eq!(client.receive(), "missed");
    }
    assert_eq!(balanced.takeovers_across(), 0);

    // The same past the balancer, so that it is known that takeovers would be counted.
    let home = balanced.home("sensor-0").name();
    let mut nodes = balanced.sandbox.nodes().iter();
    let elsewhere = nodes.find(|node| node.name() != home).expect("another");
    let (_, accepted) = Client::connect(elsewhere.address(), "sensor-0", Session::Kept);
    assert!(accepted.session_present);
    assert_eq!(balanced.takeovers_across(), 1);
}

#[test]
fn a_client_is_accepted_elsewhere_when_its_node_misbehaves() {
    for behaviour in [
        Behaviour::Refuse(0x88),
        Behaviour::Refuse(0x9C),
        Behaviour::Stall,
        Behaviour::Close,
    ] {
        let balanced = Balanced::start();
        let home = balanced.home("client");
        home.behave(behaviour).expect("obeyed");
        let (client, accepted) = balanced.connect("client", Session::Clean);
        assert_ne!(accepted.node, home.name(), "{behaviour:?}");
        let asked = counts(home);
        assert!(asked.turned_away > 0, "{behaviour:?} was never met");
        assert_eq!(asked.connects, 0, "{behaviour:?}");
        client.leave();

        home.behave(Behaviour::Serve).expect("obeyed");
        let (client, accepted) = balanced.connect("client", Session::Clean);
        assert_eq!(accepted.node, home.name(), "{behaviour:?} and back");
        client.leave();
    }
}

#[test]
fn a_node_that_dies_resets_its_clients_and_comes_back_where_it_was() {
    let balanced = Balanced::start();
    let home = balanced.home("client");
    let (mut client, accepted) = balanced.connect("client", Session::Kept);
    assert_eq!(accepted.node, home.name());
    let (mut direct, _) = Client::connect(home.address(), "direct", Session::Clean);
    direct.subscribe("#");
    home.kill().expect("obeyed");
    home.kill().expect("dead already");
    for client in [&mut client, &mut direct] {
        let error = uninterrupted(|| client.socket.read(&mut [0])).expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert!(TcpStream::connect(home.address()).is_err(), "closed");
    let (client, accepted) = balanced.connect("client", Session::Kept);
    assert_ne!(accepted.node, home.name());
    assert!(!accepted.session_present, "the session died with its node");
    client.leave();

    home.revive().expect("obeyed");
    home.revive().expect("alive already");
    let (client, accepted) = Client::connect(home.address(), "direct", Session::Clean);
    assert_eq!(accepted.node, home.name());
    assert_eq!(counts(home).connections, 1);
    client.leave();
}

#[test]
fn a_node_has_the_same_clients_over_tcp_and_websocket() {
    let sandbox = Sandbox::start(Settings::default()).expect("a sandbox");
    let node = &sandbox.nodes()[0];
    let connect = |id| Client::connect_ws(node.ws_address(), id, Session::Clean);
    let (mut subscriber, accepted) = connect("subscriber");
    assert_eq!(accepted.node, node.name());
    subscriber.subscribe("a");
    let (mut publisher, _) = Client::connect(node.address(), "publisher", Session::Clean);
    // More than the node puts into one message, and than a socket takes at once.
    let large = "x".repeat(1_000_000);
    publisher.publish("a", &large);
    publisher.publish("a", "small");
    assert!(subscriber.receive() == large, "changed on its way");
    assert_eq!(subscriber.receive(), "small");
    let frames = subscriber.frames.as_mut().expect("frames");
    let ping = Message::Ping(b"there?".to_vec().into());
    frames.send(ping).expect("sent");
    let pong = frames.read().expect("a pong");
    assert_eq!(pong, Message::Pong(b"there?".to_vec().into()));
    assert_eq!(counts(node).connections, 2);

    node.behave(Behaviour::Close).expect("obeyed");
    let mut turned_away = Client::open_ws(node.ws_address(), "/mqtt", "chat, mqttv3.1");
    let turned_away = turned_away.as_mut().expect("an upgrade");
    turned_away.send_bytes(b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01x");
    let frames = turned_away.frames.as_mut().expect("frames");
    frames.read().expect_err("an end without a word");
    assert_eq!(counts(node).turned_away, 1);
    node.behave(Behaviour::Serve).expect("obeyed");

    node.kill().expect("obeyed");
    let error = uninterrupted(|| subscriber.socket.read(&mut [0])).expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(TcpStream::connect(node.ws_address()).is_err(), "closed");
    node.revive().expect("obeyed");
    let (client, _) = connect("subscriber");
    client.leave();
}

#[test]
fn a_node_upgrades_nothing_but_mqtt() {
    let sandbox = Sandbox::start(Settings::default()).expect("a sandbox");
    let address = sandbox.nodes()[0].ws_address();
    let asked = |path, subprotocol| Client::open_ws(address, path, subprotocol).map(drop);
    asked("/mqtt", "mqtt").expect("an upgrade");
    let error = asked("/", "mqtt").expect_err("no such path");
    assert!(error.contains("404"), "{error}");
    let error = asked("/mqtt", "chat").expect_err("no such subprotocol");
    assert!(error.contains("400"), "{error}");
    // Text is not MQTT's.
    let mut client = Client::open_ws(address, "/mqtt", "mqtt").expect("an upgrade");
    let frames = client.frames.as_mut().expect("frames");
    frames.send(Message::text("hello")).expect("sent");
    frames.read().expect_err("an end");
}

#[test]
fn joined_nodes_route_and_cut_ones_do_not() {
    let sandbox = Sandbox::start(Settings::default()).expect("a sandbox");
    let [here, there] = [0, 1].map(|index: usize| &sandbox.nodes()[index]);
    let (mut subscriber, _) = Client::connect(here.address(), "subscriber", Session::Clean);
    let (mut publisher, _) = Client::connect(there.address(), "publisher", Session::Clean);
    subscriber.subscribe("a");
    publisher.publish("a", "joined");
    assert_eq!(subscriber.receive(), "joined");
    sandbox.cut_routing(true).expect("obeyed");
    publisher.publish("a", "cut");
    assert!(subscriber.hears_nothing());
    sandbox.cut_routing(false).expect("obeyed");
    publisher.publish("a", "joined again");
    assert_eq!(subscriber.receive(), "joined again");
    let (here, there) = (counts(here), counts(there));
    assert_eq!((there.messages_in, there.messages_out), (3, 0));
    assert_eq!((here.messages_out, here.messages_across), (2, 2));
}

#[test]
fn the_older_connection_of_a_client_is_told_that_it_was_taken_over() {
    let sandbox = Sandbox::start(Settings::default()).expect("a sandbox");
    for (node, within, across) in [(0, 1, 0), (1, 0, 1)] {
        let node = &sandbox.nodes()[node];
        let (mut loser, _) = Client::connect(sandbox.nodes()[0].address(), "client", Session::Kept);
        let before = counts(node);
        let (winner, accepted) = Client::connect(node.address(), "client", Session::Kept);
        assert!(accepted.session_present);
        // mqttbytes reads no DISCONNECT of one property length; the bytes are plain enough.
        let mut told = Vec::new();
        loser.socket.read_to_end(&mut told).expect("an end");
        assert_eq!(told, [0xE0, 2, 0x8E, 0]);
        let after = counts(node);
        assert_eq!(after.takeovers_within - before.takeovers_within, within);
        assert_eq!(after.takeovers_across - before.takeovers_across, across);
        winner.leave();
    }
}

#[test]
fn the_end_of_the_sandbox_is_said_to_its_clients() {
    let sandbox = Sandbox::start(Settings::default()).expect("a sandbox");
    let address = sandbox.nodes()[0].address();
    let (mut client, _) = Client::connect(address, "client", Session::Clean);
    sandbox.stop();
    let mut told = Vec::new();
    client.socket.read_to_end(&mut told).expect("an end");
    assert_eq!(told, [0xE0, 2, 0x8B, 0]);
    assert!(TcpStream::connect(address).is_err(), "closed");
}

#[test]
fn a_message_that_a_client_cannot_take_does_not_hold_up_the_next() {
    let sandbox = Sandbox::start(Settings::default()).expect("a sandbox");
    let node = &sandbox.nodes()[0];
    let mut small = Client::open(node.address());
    // Maximum Packet Size 200, Receive Maximum 1.
    let connect = b"\x10\x16\0\x04MQTT\x05\x02\0\0\x08\x27\0\0\0\xC8\x21\0\x01\0\x01s";
    small.socket.write_all(connect).expect("sent");
    assert!(matches!(small.packet(), v5::Packet::ConnAck(_)));
    small.subscribe("a");
    let (mut publisher, _) = Client::connect(node.address(), "publisher", Session::Clean);
    publisher.publish("a", &"x".repeat(300));
    publisher.publish("a", "short");
    assert_eq!(small.receive(), "short");
    assert_eq!(counts(node).messages_dropped, 1);
}

#[test]
fn an_anonymous_client_comes_home_with_the_id_that_it_was_given() {
    let balanced = Balanced::start();
    for _ in 0..10 {
        let (client, first) = balanced.connect("", Session::Kept);
        let id = first.assigned.expect("an id");
        client.leave();
        let (client, back) = balanced.connect(&id, Session::Kept);
        assert!(back.session_present, "{id}");
        assert_eq!(back.node, first.node);
        client.leave();
    }
    assert_eq!(balanced.takeovers_across(), 0);
}

#[test]
fn malformed_input_ends_its_connection_and_no_other() {
    let sandbox = Sandbox::start(Settings::default()).expect("a sandbox");
    let node = &sandbox.nodes()[0];
    let (mut bystander, _) = Client::connect(node.address(), "bystander", Session::Clean);
    let strangers: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\x10\xFF\xFF\xFF\x7F",
        b"\x30\x05\0\x01ahi",
    ];
    for bytes in strangers {
        let mut stranger = Client::open(node.address());
        stranger.socket.write_all(bytes).expect("sent");
        let mut answer = Vec::new();
        // The end may be a reset, where it came before all was read.
        let _ = stranger.socket.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{answer:02x?} to {bytes:02x?}");
    }
    // QoS 2, which CONNACK has ruled out; a level that does not exist.
    let (mut client, _) = Client::connect(node.address(), "client", Session::Clean);
    client.socket.write_all(b"\x34\x06\0\x01a\0\x01\0").expect("sent");
    let mut told = Vec::new();
    client.socket.read_to_end(&mut told).expect("an end");
    assert_eq!(told, [0xE0, 2, 0x9B, 0]);
    let mut client = Client::open(node.address());
    client
        .socket
        .write_all(b"\x10\x0D\0\x04MQTT\x09\x02\0\0\0\0\x01x")
        .expect("sent");
    let mut told = Vec::new();
    client.socket.read_to_end(&mut told).expect("an end");
    assert_eq!(told, [0x20, 3, 0, 0x84, 0]);

    bystander.subscribe("a");
    bystander.publish("b", "still here");
    assert_eq!(counts(node).connections, 1);
}

#[test]
fn a_client_of_mqtt_3_1_1_and_one_of_5_talk_to_each_other() {
    let sandbox = Sandbox::start(Settings::default()).expect("a sandbox");
    let [here, there] = [0, 1].map(|index: usize| &sandbox.nodes()[index]);
    let mut old = Client::open(here.address());
    let mut connect = v4::Connect::new("old");
    connect.keep_alive = 1;
    old.send(|out| connect.write(out));
    let mut connack = [0; 4];
    old.socket.read_exact(&mut connack).expect("a CONNACK");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    old.socket.write_all(b"\x82\x06\0\x01\0\x01a\x01").expect("sent");
    let mut suback = [0; 5];
    old.socket.read_exact(&mut suback).expect("a SUBACK");
    assert_eq!(suback, [0x90, 3, 0, 1, 1]);
    let (mut new, _) = Client::connect(there.address(), "new", Session::Clean);
    new.publish("a", "hello");
    let mut publish = [0; 12];
    old.socket.read_exact(&mut publish).expect("a PUBLISH");
    assert_eq!(publish, *b"\x32\x0A\0\x01a\0\x01hello");

    // It keeps silent for longer than its Keep Alive of a second, and is closed without a word.
    assert_eq!(uninterrupted(|| old.socket.read(&mut [0])).expect("an end"), 0);
    assert_eq!(counts(here).connections, 0);
}
