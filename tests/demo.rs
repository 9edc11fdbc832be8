//! The demo as a newcomer sees it, and the sandbox as the fake cluster of a balancer in the same process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use mqttbytes::{QoS, v4, v5};
use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use remora::accept::Listener;
use remora::cluster::{Endpoints, Member, MemberEndpoint, NodeAddress, Ring, WEIGHT_DEFAULT};
use remora::config::Config;
use remora::greet;
use remora::sandbox::{Behaviour, Counts, Node, Sandbox, Settings};
use remora::serve;

/// How long anything that must come may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long nothing must come, where nothing may.
const SILENCE: Duration = Duration::from_millis(500);

/// A client of MQTT 5, with packets as mqttbytes writes and reads them.
struct Client {
    socket: TcpStream,
    /// Where MQTT goes in WebSocket messages over the socket.
    frames: Option<WebSocket<TcpStream>>,
    incoming: BytesMut,
}

/// What a CONNACK said.
#[derive(Debug)]
struct Accepted {
    session_present: bool,
    node: String,
    assigned: Option<String>,
}

/// How a client connects.
#[derive(Clone, Copy)]
enum Session {
    Clean,
    /// Outlives the connection by an hour.
    Kept,
}

impl Client {
    fn connect(address: SocketAddr, client_id: &str, session: Session) -> (Self, Accepted) {
        Self::open(address).introduce(client_id, session)
    }

    fn connect_ws(address: SocketAddr, client_id: &str, session: Session) -> (Self, Accepted) {
        let client = Self::open_ws(address, "/mqtt", "mqtt").expect("an upgrade");
        client.introduce(client_id, session)
    }

    fn introduce(mut self, client_id: &str, session: Session) -> (Self, Accepted) {
        let mut connect = v5::Connect::new(client_id);
        connect.clean_session = matches!(session, Session::Clean);
        let expiry = match session {
            Session::Clean => 0,
            Session::Kept => 3_600,
        };
        connect.properties = Some(v5::ConnectProperties {
            session_expiry_interval: Some(expiry),
            receive_maximum: None,
            max_packet_size: None,
            topic_alias_max: None,
            request_response_info: None,
            request_problem_info: None,
            user_properties: Vec::new(),
            authentication_method: None,
            authentication_data: None,
        });
        self.send(|out| connect.write(out));
        let v5::Packet::ConnAck(connack) = self.packet() else {
            panic!("no CONNACK");
        };
        assert_eq!(connack.code, v5::ConnectReturnCode::Success);
        let properties = connack.properties.expect("properties");
        let mut users = properties.user_properties.into_iter();
        let accepted = Accepted {
            session_present: connack.session_present,
            node: users.find(|(key, _)| key == "node").expect("a node").1,
            assigned: properties.assigned_client_identifier,
        };
        (self, accepted)
    }

    fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self {
            socket,
            frames: None,
            incoming: BytesMut::new(),
        }
    }

    /// Asks for an upgrade; the error says what was answered instead.
    fn open_ws(address: SocketAddr, path: &str, subprotocol: &str) -> Result<Self, String> {
        let mut opened = Self::open(address);
        let url = format!("ws://{address}{path}");
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert(
            "Sec-WebSocket-Protocol",
            HeaderValue::from_str(subprotocol).expect("text"),
        );
        let socket = opened.socket.try_clone().expect("a descriptor");
        let (frames, _) = client(request, socket).map_err(|error| error.to_string())?;
        opened.frames = Some(frames);
        Ok(opened)
    }

    fn send<T>(&mut self, write: impl FnOnce(&mut BytesMut) -> Result<T, mqttbytes::Error>) {
        let mut out = BytesMut::new();
        write(&mut out).expect("a packet");
        self.send_bytes(&out);
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        match &mut self.frames {
            None => self.socket.write_all(bytes).expect("sent"),
            Some(frames) => frames
                .send(Message::Binary(bytes.to_vec().into()))
                .expect("sent"),
        }
    }

    /// The next packet; fails when none comes in time.
    fn packet(&mut self) -> v5::Packet {
        self.next().expect("a packet before the end")
    }

    /// The next packet; none at the end of the stream.
    fn next(&mut self) -> Option<v5::Packet> {
        loop {
            match v5::read(&mut self.incoming, 1 << 20) {
                Ok(packet) => return Some(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error:?} in {:02x?}", self.incoming),
            }
            if let Some(frames) = &mut self.frames {
                match frames.read() {
                    Ok(Message::Binary(payload)) => self.incoming.extend_from_slice(&payload),
                    Ok(Message::Close(_)) => return None,
                    other => panic!("waiting for a packet: {other:?}"),
                }
                continue;
            }
            let mut bytes = [0; 4_096];
            match self.socket.read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => self.incoming.extend_from_slice(&bytes[..read]),
                Err(error) => panic!("waiting for a packet: {error}"),
            }
        }
    }

    fn subscribe(&mut self, filter: &str) {
        let mut subscribe = v5::Subscribe::new(filter, QoS::AtLeastOnce);
        subscribe.pkid = 1;
        self.send(|out| subscribe.write(out));
        assert!(matches!(self.packet(), v5::Packet::SubAck(_)));
    }

    /// Publishes with acknowledgement, and waits for it.
    fn publish(&mut self, topic: &str, payload: &str) {
        let mut publish = v5::Publish::new(topic, QoS::AtLeastOnce, payload);
        publish.pkid = 1;
        self.send(|out| publish.write(out));
        assert!(matches!(self.packet(), v5::Packet::PubAck(_)));
    }

    /// The payload of the next packet, which must be a message.
    fn receive(&mut self) -> String {
        let v5::Packet::Publish(publish) = self.packet() else {
            panic!("no PUBLISH");
        };
        let acknowledged = v5::PubAck::new(publish.pkid);
        self.send(|out| acknowledged.write(out));
        String::from_utf8(publish.payload.to_vec()).expect("UTF-8")
    }

    /// Whether nothing comes, although the node answers a ping that was sent behind everything else.
    fn hears_nothing(&mut self) -> bool {
        self.send_bytes(&[0xC0, 0]);
        assert!(matches!(self.packet(), v5::Packet::PingResp));
        self.socket.set_read_timeout(Some(SILENCE)).expect("set");
        let read = self.socket.peek(&mut [0]);
        self.socket.set_read_timeout(Some(DEADLINE)).expect("set");
        read.is_err()
    }

    /// Leaves in order, and returns when the node has closed.
    fn leave(mut self) {
        self.send_bytes(&[0xE0, 0]);
        assert!(self.next().is_none(), "a packet after DISCONNECT");
    }
}

/// `remora demo`, which does not outlive its test.
struct Demo {
    child: Child,
    screen: String,
    log: BufReader<ChildStdout>,
}

impl Demo {
    /// Starts it, and returns when the screen is complete.
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_remora"))
            .arg("demo")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut log = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut screen = String::new();
        while !screen.contains("Ctrl-C") {
            let read = log.read_line(&mut screen).expect("text");
            assert!(read > 0, "the screen ends too early: {screen}");
        }
        Self { child, screen, log }
    }

    /// Where the screen says that it listens.
    fn address(&self) -> SocketAddr {
        let (_, rest) = self.screen.split_once("listens on ").expect("an address");
        let end = rest.find([' ', ',']).expect("an end");
        rest[..end].parse().expect("an address")
    }

    /// Where the screen says that it speaks WebSocket.
    fn ws_address(&self) -> SocketAddr {
        let (_, rest) = self.screen.split_once("ws://").expect("a URL");
        let (address, _) = rest.split_once("/mqtt").expect("its path");
        address.parse().expect("an address")
    }

    /// Where the screen says that it speaks TLS, and whom to trust.
    fn tls_address(&self) -> (SocketAddr, PathBuf) {
        let words: Vec<&str> = self.screen.split_whitespace().collect();
        let behind = |word: &str| {
            let place = words.iter().position(|other| *other == word);
            words[place.expect("the word") + 1]
        };
        let (_, rest) = self.screen.split_once("with TLS on ").expect("an address");
        let end = rest.find([' ', ',']).expect("an end");
        (
            rest[..end].parse().expect("an address"),
            PathBuf::from(behind("--cafile")),
        )
    }

    /// The client ids of the printed commands: who receives, and who sends.
    fn client_ids(&self) -> Vec<&str> {
        let commands = self.screen.lines().map(str::trim);
        commands
            .filter(|line| line.starts_with("mosquitto_") && !line.contains("--cafile"))
            .map(|line| line.split(" -i ").nth(1).expect("an id"))
            .map(|rest| rest.split(' ').next().expect("an id"))
            .collect()
    }

    /// Ends it, and returns its exit code and what it has logged.
    fn stop(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
        let mut log = String::new();
        self.log.read_to_string(&mut log).expect("text");
        (self.child.wait().expect("a child").code(), log)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const FREE: &[&str] = &[
    "--address",
    "127.0.0.1:0",
    "--ws-address",
    "127.0.0.1:0",
    "--tls-address",
    "127.0.0.1:0",
    "--wss-address",
    "127.0.0.1:0",
];

#[test]
fn what_the_screen_says_works() {
    let demo = Demo::start(FREE);
    let ids = demo.client_ids();
    assert_eq!(ids.len(), 2, "{}", demo.screen);
    for word in ["node1", "node2", "node3", " % of the clients", "no brokers"] {
        assert!(demo.screen.contains(word), "{word}: {}", demo.screen);
    }
    let (mut subscriber, here) = Client::connect(demo.address(), ids[0], Session::Clean);
    subscriber.subscribe("demo/#");
    let (mut publisher, there) = Client::connect(demo.address(), ids[1], Session::Clean);
    assert_ne!(here.node, there.node, "the message has a way to go");
    for node in [&here.node, &there.node] {
        let said = format!("as a client of {node}:");
        assert!(demo.screen.contains(&said), "{said} {}", demo.screen);
    }
    publisher.publish("demo/hello", "hello");
    assert_eq!(subscriber.receive(), "hello");

    publisher.leave();
    subscriber.leave();
    let ids = ids.into_iter().map(String::from).collect::<Vec<_>>();
    let (code, log) = demo.stop(Signal::TERM);
    assert_eq!(code, Some(0));
    for (id, node) in ids.iter().zip([here.node, there.node]) {
        let mut lines = log.lines().filter(|line| line.contains("connection ended"));
        let line = lines.find(|line| line.contains(&format!("client_id={id} ")));
        let line = line.unwrap_or_else(|| panic!("no line on {id}: {log}"));
        assert!(line.contains(&format!("node=\"{node}\"")), "{line}");
    }
}

#[test]
fn the_bench_line_of_the_screen_works() {
    let demo = Demo::start(FREE);
    let mut lines = demo.screen.lines().map(str::trim);
    let line = lines.find(|line| line.starts_with("remora bench"));
    // For half a second: a test need not wait for as long as a reader may.
    let line = line
        .expect("a line")
        .replace("--duration 5", "--duration 0.5");
    assert!(line.ends_with("--duration 0.5"), "{line}");
    let output = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(line.split(' ').skip(1))
        .arg("--json")
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let number = |pointer: &str| result.pointer(pointer).and_then(|value| value.as_u64());
    assert!(
        number("/runs/0/messages/received").is_some_and(|messages| messages > 0),
        "{result}"
    );
}

#[test]
fn with_broken_routing_a_message_stays_on_its_node() {
    let demo = Demo::start(&[FREE, &["--broken-routing"]].concat());
    let ids = demo.client_ids();
    assert_eq!(ids.len(), 3, "{}", demo.screen);
    assert!(demo.screen.contains("does not arrive"), "{}", demo.screen);
    let connect = |id| Client::connect(demo.address(), id, Session::Clean);
    let (mut subscriber, here) = connect(ids[0]);
    subscriber.subscribe("demo/#");
    let (mut publisher, there) = connect(ids[1]);
    let (mut neighbour, near) = connect(ids[2]);
    assert_ne!(here.node, there.node);
    assert_eq!(here.node, near.node);
    publisher.publish("demo/hello", "from afar");
    assert!(subscriber.hears_nothing());
    neighbour.publish("demo/hello", "from near");
    assert_eq!(subscriber.receive(), "from near");
    assert_eq!(demo.stop(Signal::INT).0, Some(0));
}

#[test]
fn a_taken_address_is_said_and_a_free_one_found() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = (taken.local_addr().expect("an address"), taken);
    let said = format!("({} is taken)", taken.0);
    for option in ["--address", "--ws-address"] {
        let other = match option {
            "--address" => "--ws-address",
            _ => "--address",
        };
        let taken_there = [option, &taken.0.to_string(), other, "127.0.0.1:0"];
        let demo = Demo::start(&[&taken_there[..], &FREE[4..]].concat());
        assert_eq!(demo.screen.matches(&said).count(), 1, "{}", demo.screen);
        assert_ne!(demo.address(), taken.0);
        assert_ne!(demo.ws_address(), taken.0);
        let (client, _) = Client::connect(demo.address(), "client", Session::Clean);
        client.leave();
        let (client, _) = Client::connect_ws(demo.ws_address(), "client", Session::Clean);
        client.leave();
        assert_eq!(demo.stop(Signal::TERM).0, Some(0));
    }
}

#[test]
fn the_demo_speaks_tls_by_an_authority_that_goes_with_it() {
    let demo = Demo::start(FREE);
    let (address, authority) = demo.tls_address();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&authority).expect("a file") {
        roots
            .add(certificate.expect("a certificate"))
            .expect("an authority");
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(address.ip());
    let client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let socket = TcpStream::connect(address).expect("it listens");
    let mut client = rustls::StreamOwned::new(client, socket);
    client
        .write_all(b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03tls")
        .expect("sent");
    let mut connack = [0; 4];
    client.read_exact(&mut connack).expect("a CONNACK");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    assert_eq!(demo.stop(Signal::INT).0, Some(0));
    assert!(!authority.exists(), "{} is left", authority.display());
}

#[test]
fn a_client_of_the_websocket_listener_hears_one_of_tcp() {
    let demo = Demo::start(FREE);
    let (mut subscriber, _) = Client::connect_ws(demo.ws_address(), "page", Session::Clean);
    subscriber.subscribe("demo/#");
    let (mut publisher, _) = Client::connect(demo.address(), "sensor", Session::Clean);
    publisher.publish("demo/hello", "hello");
    assert_eq!(subscriber.receive(), "hello");
    assert_eq!(demo.stop(Signal::TERM).0, Some(0));
}

#[test]
fn a_client_has_one_node_over_tcp_and_websocket() {
    let demo = Demo::start(FREE);
    let mut nodes = std::collections::BTreeSet::new();
    for number in 0..20 {
        let id = format!("client-{number}");
        let (client, over_tcp) = Client::connect(demo.address(), &id, Session::Kept);
        client.leave();
        let (client, over_ws) = Client::connect_ws(demo.ws_address(), &id, Session::Kept);
        client.leave();
        assert_eq!(over_tcp.node, over_ws.node, "{id}");
        assert!(over_ws.session_present, "{id}");
        nodes.insert(over_ws.node);
    }
    assert_eq!(nodes.len(), 3, "they are spread over all nodes");
    assert_eq!(demo.stop(Signal::TERM).0, Some(0));
}

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
            weight: WEIGHT_DEFAULT,
        };
        let nodes = sandbox.nodes().iter().map(member).collect();
        let listener = Listener::new("127.0.0.1:0".parse().expect("an address"));
        let config = Config {
            workers: std::num::NonZeroUsize::new(1),
            greet: greet::Settings {
                timeout: Duration::from_millis(300),
                ..greet::Settings::default()
            },
            admin: remora::admin::Settings::Off,
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
        let error = client.socket.read(&mut [0]).expect_err("a reset");
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
    let error = subscriber.socket.read(&mut [0]).expect_err("a reset");
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
    client
        .socket
        .write_all(b"\x34\x06\0\x01a\0\x01\0")
        .expect("sent");
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
    old.socket
        .write_all(b"\x82\x06\0\x01\0\x01a\x01")
        .expect("sent");
    let mut suback = [0; 5];
    old.socket.read_exact(&mut suback).expect("a SUBACK");
    assert_eq!(suback, [0x90, 3, 0, 1, 1]);
    let (mut new, _) = Client::connect(there.address(), "new", Session::Clean);
    new.publish("a", "hello");
    let mut publish = [0; 12];
    old.socket.read_exact(&mut publish).expect("a PUBLISH");
    assert_eq!(publish, *b"\x32\x0A\0\x01a\0\x01hello");

    // It keeps silent for longer than its Keep Alive of a second, and is closed without a word.
    assert_eq!(old.socket.read(&mut [0]).expect("an end"), 0);
    assert_eq!(counts(here).connections, 0);
}
