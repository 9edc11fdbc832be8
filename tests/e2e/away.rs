//! A node that is away: its clients go to the ring's next choice, and home again when it returns.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::admin_client::{self, Metrics};
use crate::balancer::{ADMIN, Balancer, Program};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, Connection, End, FakeNode, own_address};
use crate::packets::{self, Connect};
use crate::wait;
use crate::websocket::Mesh;
use crate::ws_client::WsClient;

/// A node that failed once, and then a probe, is down; probed every 200 ms.
const QUICK: &str = "[health]\nfailures_max = 1\ndown_min = \"200ms\"\ndown_max = \"200ms\"";

/// A node that failed once, and then a probe, is down, and not probed again in any test.
const FOR_GOOD: &str = "[health]\nfailures_max = 1\ndown_min = \"10m\"\ndown_max = \"10m\"";

#[test]
fn losing_a_node_moves_only_its_clients() {
    let mut cluster = Cluster::of(3);
    let balancer = Balancer::with(&cluster, FOR_GOOD);
    let ids: Vec<String> = (0..60).map(|number| format!("client-{number}")).collect();
    let lost = 1;
    let clients: Vec<Client> = ids
        .iter()
        .map(|id| Client::accepted(balancer.address, &Connect::new(id)))
        .collect();
    cluster.nodes[lost].die();
    let mut moved = 0;
    for (id, mut client) in ids.iter().zip(clients) {
        let choices = cluster.choices(id);
        if choices[0] == lost {
            assert_eq!(client.end(), End::Fin, "{id} lost its node");
            moved += 1;
            let again = Connect::new(id).keep_alive(7);
            Client::accepted(balancer.address, &again);
            assert_eq!(cluster.holders(&again.bytes()), [choices[1]], "{id}");
        } else {
            let bytes = Connect::new(id).bytes();
            assert_eq!(cluster.holder(&bytes).0, choices[0], "{id} kept its node");
            client.send(b"\xC0\0");
            let all = [bytes, b"\xC0\0".to_vec()].concat();
            cluster.holder(&all);
            let again = Connect::new(id).keep_alive(7);
            Client::accepted(balancer.address, &again);
            assert_eq!(cluster.holders(&again.bytes()), [choices[0]], "{id}");
        }
    }
    assert!((10..30).contains(&moved), "{moved} of 60");
}

#[test]
fn clients_go_home_when_their_node_returns() {
    let mut cluster = Cluster::of(3);
    let balancer = Balancer::with(&cluster, QUICK);
    let ids = cluster.ids_at_home(0, "away", 5);
    cluster.nodes[0].die();
    for id in &ids {
        // A session that lives on changes nothing: who is away is not remembered.
        let connect = Connect::new(id).persistent();
        Client::accepted(balancer.address, &connect);
        assert_eq!(cluster.holders(&connect.bytes()), [cluster.choices(id)[1]]);
    }
    cluster.nodes[0].come_back();
    let dead = cluster.nodes[0].dials();
    wait::until("the trial succeeds", || {
        Client::accepted(balancer.address, &Connect::new(&ids[0]));
        cluster.nodes[0].dials() > dead
    });
    for id in &ids {
        let connect = Connect::new(id).persistent().keep_alive(9);
        wait::until("the news of the return", || {
            Client::accepted(balancer.address, &connect);
            cluster.holders(&connect.bytes()).first() == Some(&0)
        });
    }
    // From here on nobody goes elsewhere.
    for id in &ids {
        let connect = Connect::new(id).persistent().keep_alive(10);
        Client::accepted(balancer.address, &connect);
        assert_eq!(cluster.holders(&connect.bytes()), [0], "{id}");
    }
}

#[test]
fn a_node_that_does_not_answer_is_down_until_it_does_whether_or_not_clients_come() {
    let cluster = Cluster::of(2);
    let tables = "[timeouts]\ngreet = \"300ms\"";
    let program = Program::start(&cluster, tables);
    let connect = Connect::new(cluster.id_at_home(0, "finds out")).bytes();
    cluster.nodes[0].answer(Answer::Stall);
    // One client is enough: the rest are probes.
    let mut client = Client::to(program.address);
    client.send(&connect);
    client.expect(&packets::connack(4, 0));
    program.until_said("node is down");
    let line = &program.lines(|line| line["message"] == "node is down")[0];
    let why = line["why"].as_str().expect("why");
    assert!(why.starts_with("MQTT CONNECT: ") && why.contains("timed out"), "{why}");
    for _ in 0..5 {
        Client::accepted(program.address, &Connect::new(cluster.id_at_home(0, "finds out")));
        assert_eq!(cluster.nodes[0].asked(&connect), 1, "nobody waits for it any more");
    }
    cluster.nodes[0].answer(Answer::Accept);
    // From here on no client comes.
    let since = Instant::now();
    program.until_said("node is up again");
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    Client::accepted(program.address, &Connect::new(cluster.id_at_home(0, "finds out")));
    assert_eq!(cluster.nodes[0].asked(&connect), 2);
}

#[test]
fn a_client_that_no_node_answers_makes_none_look_dead() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, "[timeouts]\ngreet = \"1s\"\n[health]\nfailures_max = 1");
    cluster.nodes[0].answer(Answer::StallAt("unlucky"));
    for id in cluster.ids_at_home(0, "unlucky", 3) {
        let connect = Connect::new(&id).bytes();
        let mut client = Client::to(program.address);
        client.send(&connect);
        client.expect(&packets::connack(4, 0));
        assert_eq!(cluster.nodes[0].asked(&connect), 1, "{id}");
    }
    let probed = || cluster.nodes[0].connections().iter().filter(|c| c.is_probe()).count();
    wait::until("it is probed", || probed() > 0);
    let connect = Connect::new(cluster.id_at_home(0, "lucky"));
    Client::accepted(program.address, &connect);
    assert_eq!(cluster.holders(&connect.bytes()), [0], "it is still its home");
    assert!(program.lines(|line| line["message"] == "node is down").is_empty());
}

#[test]
fn readiness_needs_a_node_that_has_answered_and_no_client() {
    let mut cluster = Cluster::of(2);
    cluster.nodes.iter_mut().for_each(FakeNode::die);
    let program = Program::start(&cluster, ADMIN);
    let ready = || admin_client::get(program.admin(), "/readyz");
    // At the start, too: it asks before it says anything.
    let first = ready();
    assert_eq!(first.status, 503, "{}", first.body);
    wait::until("both are down", || ready().body == "no node is up\n");
    cluster.nodes[1].come_back();
    wait::until("one is back", || ready().status == 200);
    assert!(cluster.nodes[1].connections().iter().all(|c| c.is_probe()));
}

/// An address where nobody listens.
fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).expect("a free port");
    listener.local_addr().expect("an address")
}

/// The state of a node's endpoint.
fn state(program: &Program, node: usize, endpoint: &str) -> &'static str {
    let metrics = Metrics::of(program.admin());
    let is = |state: &&str| {
        let labels = format!("node=\"node{node}\",endpoint=\"{endpoint}\",state=\"{state}\"");
        metrics.value(&format!("remora_node_state{{{labels}}}")) == 1.0
    };
    let mut states = ["up", "draining", "down"].into_iter().filter(is);
    states.next().expect("one of them")
}

#[test]
fn a_listener_of_a_node_that_is_dead_takes_its_other_listeners_no_client() {
    let mut mesh = Mesh::of(2, 0);
    let tables = format!("{ADMIN}\n{FOR_GOOD}");
    let at_ws = mesh.ws[0].address.to_string();
    let config = mesh.toml(&tables).replace(&at_ws, &nowhere().to_string());
    let program = Program::of(&config);
    let [ws, tcp] = program.addresses[..] else {
        panic!("two listeners: {:?}", program.addresses);
    };
    // No WebSocket at node0, no MQTT over TCP at node1.
    mesh.cluster.nodes[1].die();
    for (home, other) in [(0, 1), (1, 0)] {
        let by_ws = Connect::new(mesh.cluster.id_at_home(home, "ws"));
        let by_tcp = Connect::new(mesh.cluster.id_at_home(home, "tcp"));
        for round in 0..5 {
            let (by_ws, by_tcp) = (by_ws.clone().keep_alive(round), by_tcp.clone().keep_alive(round));
            let client = WsClient::accepted(ws, &by_ws);
            assert_eq!(mesh.holder(&by_ws.bytes()).0, 1, "home is {home}");
            let plain = Client::accepted(tcp, &by_tcp);
            assert_eq!(mesh.cluster.holder(&by_tcp.bytes()).0, 0, "home is {home}");
            drop((client, plain));
        }
        let dead = ["ws", "mqtt"][home];
        wait::until("it is down", || state(&program, home, dead) == "down");
        assert_eq!(state(&program, other, dead), "up");
        let told = |line: &serde_json::Value| line["endpoint"] == dead;
        wait::until("it is said", || !program.lines(told).is_empty());
        assert_eq!(program.lines(told)[0]["node"], format!("node{home}"));
    }
}

#[test]
fn a_balancer_whose_clients_no_listener_of_a_node_can_take_is_not_ready() {
    let mesh = Mesh::of(1, 0);
    let tables = format!("{ADMIN}\n{QUICK}");
    let at_ws = mesh.ws[0].address.to_string();
    let tcp_listener = "[[listeners]]\naddress = \"127.0.0.1:0\"\n\n";
    for (config, ready) in [
        (mesh.toml(&tables), 200),
        (mesh.toml(&tables).replace(tcp_listener, ""), 503),
    ] {
        let program = Program::of(&config.replace(&at_ws, &nowhere().to_string()));
        WsClient::to(program.address).send(&Connect::new("id").bytes());
        wait::until("it is down", || state(&program, 0, "ws") == "down");
        let answer = admin_client::get(program.admin(), "/readyz");
        assert_eq!(answer.status, ready, "{}", answer.body);
    }
}

#[test]
fn when_every_node_is_down_home_is_dialled_anyway() {
    let mut cluster = Cluster::of(2);
    let balancer = Balancer::with(&cluster, FOR_GOOD);
    cluster.nodes.iter_mut().for_each(FakeNode::die);
    for _ in 0..3 {
        let mut client = Client::to(balancer.address);
        client.send(&Connect::new("finds out").bytes());
        assert_eq!(client.end(), End::Fin);
    }
    cluster.nodes.iter_mut().for_each(FakeNode::come_back);
    let connect = Connect::new("comes later");
    Client::accepted(balancer.address, &connect);
    assert_eq!(cluster.holders(&connect.bytes()), [cluster.home("comes later")]);
}

#[test]
fn a_node_may_have_a_host_name() {
    let node = FakeNode::start_at("named", ([127, 0, 0, 1], 0).into());
    let port = node.address.port();
    let balancer = Balancer::of(&format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[[nodes]]\nname = \"named\"\naddress = \"localhost:{port}\"\n"
    ));
    let connect = Connect::new("by name");
    let mut client = Client::accepted(balancer.address, &connect);
    client.send(&packets::publish(b"x"));
    node.connection(0)
        .expect(&[connect.bytes(), packets::publish(b"x")].concat());
}

#[test]
fn an_endpoint_that_a_reload_adds_where_another_is_by_name_is_found() {
    let node = FakeNode::start_at("named", ([127, 0, 0, 1], 0).into());
    let at = format!("\"localhost:{}\"", node.address.port());
    let config = format!(
        "[admin]\nenabled = false\n[[listeners]]\naddress = \"127.0.0.1:0\"\ntransport = \"ws\"\n[[nodes]]\nname = \"named\"\naddress = {at}\n"
    );
    let program = Program::of(&config);
    WsClient::accepted(program.address, &Connect::new("by MQTT"));
    let addresses = program.reload(&format!("{config}ws = {at}\n"));
    wait::until("it is asked for an upgrade", || {
        WsClient::to(addresses[0]).send(&Connect::new("by WebSocket").bytes());
        let asked = |connection: &Arc<Connection>| connection.begins_with(b"GET ");
        node.connections().iter().any(asked)
    });
}

#[test]
fn a_name_that_cannot_be_resolved_stops_nobody_else() {
    let cluster = Cluster::of(1);
    let balancer = Balancer::of(&format!(
        "[[listeners]]\naddress = \"127.0.0.1:0\"\n[[nodes]]\nname = \"gone\"\naddress = \"no-such-host.invalid:1883\"\n{}",
        cluster.toml()
    ));
    for number in 0..10 {
        Client::accepted(balancer.address, &Connect::new(format!("client-{number}")));
    }
    assert_eq!(cluster.dials(), 10);
}
