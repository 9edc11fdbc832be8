//! CONNECTs paced for each node: who waits, who goes elsewhere, and what a node sees of a storm.

use std::time::Duration;

use tokio::time::Instant;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Balancer, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::FakeNode;
use crate::packets::{self, Connect};
use crate::wait;
use crate::websocket::Mesh;
use crate::ws_client::WsClient;

/// The token bucket from outside: `CONNECT`s of clients that came to a node before any moment are no more than it had tokens by then.
/// A load on the machine makes them later, never earlier.
#[track_caller]
fn assert_paced(node: &FakeNode, since: Instant, per_second: u32, burst: u32) {
    let connections = node.connections();
    let clients = connections.iter().filter(|c| !c.is_probe() && c.at >= since);
    let mut came: Vec<Duration> = clients.map(|connection| connection.at - since).collect();
    came.sort_unstable();
    for (place, at) in came.iter().enumerate() {
        let tokens = at.as_secs_f64() * f64::from(per_second) + f64::from(burst);
        assert!(
            place as f64 <= tokens,
            "client {place} of {} came after {at:?}",
            node.name
        );
    }
}

/// Clients that have all sent their CONNECT at once.
fn all_at_once(program: &Program, ids: &[String]) -> Vec<Client> {
    let connect = |id: &String| {
        let mut client = Client::to(program.address);
        client.send(&Connect::new(id).bytes());
        client
    };
    ids.iter().map(connect).collect()
}

#[test]
fn clients_beyond_the_rate_of_a_node_wait_for_their_turn_and_none_is_refused() {
    let cluster = Cluster::of(1);
    let tables = format!("[pacing]\nconnects_per_second = 20\n{ADMIN}");
    let program = Program::start(&cluster, &tables);
    let since = Instant::now();
    let ids: Vec<String> = (0..30).map(|number| format!("client-{number}")).collect();
    let mut clients = all_at_once(&program, &ids);
    for client in &mut clients {
        client.expect(&packets::connack(4, 0));
    }
    assert_paced(&cluster.nodes[0], since, 20, 1);
    let metrics = Metrics::of(program.admin());
    let value = |name: &str| metrics.value(&format!("{name}{{node=\"node0\"}}"));
    assert!(value("remora_pace_waits_total") >= 20.0, "{}", metrics.text);
    // Nineteen that wait 50 ms longer each.
    assert!(value("remora_pace_wait_seconds_total") >= 5.0, "{}", metrics.text);
    assert_eq!(value("remora_node_connects_waiting"), 0.0);
    assert_eq!(metrics.sum("remora_retries_total"), 0.0);
    let last = clients.pop().expect("a client");
    let address = last.address();
    drop(last);
    let line = program.ended(address);
    let waited = line["pace_us"].as_u64().expect("it has waited");
    assert!(waited >= 100_000, "{line}");
}

#[test]
fn a_client_whose_turn_would_come_too_late_goes_to_its_next_choice_and_that_is_not_remembered() {
    let cluster = Cluster::of(2);
    // Of its 20 s, a node has 10 s to answer: no client waits for longer than the other 10 s.
    let tables = format!("[timeouts]\ngreet_total = \"20s\"\ngreet = \"20s\"\n{ADMIN}");
    let slow = "name = \"node0\"";
    let config = toml(&cluster, "", &tables).replace(slow, &format!("{slow}\nconnects_per_second = 1"));
    let program = Program::of(&config);
    let ids = cluster.ids_at_home(0, "storm", 20);
    let clients = all_at_once(&program, &ids);
    let gone = |connection: &Connect| cluster.holders(&connection.bytes()) == [1];
    let sent_on = || ids.iter().filter(|id| gone(&Connect::new(*id))).count();
    wait::until("those who cannot wait are sent on", || sent_on() >= 5);
    let metrics = Metrics::of(program.admin());
    assert!(metrics.value("remora_retries_total{node=\"node0\",reason=\"pace\"}") >= 5.0);
    assert_eq!(metrics.value("remora_placements"), 0.0);
    // Those who leave while they wait are never taken to the node.
    let waiting = || Metrics::of(program.admin()).value("remora_node_connects_waiting{node=\"node0\"}");
    wait::until("some wait", || waiting() > 0.0);
    let addresses: Vec<_> = clients.iter().map(Client::address).collect();
    drop(clients);
    wait::until("nobody waits any more", || waiting() == 0.0);
    let lines: Vec<_> = addresses.into_iter().map(|address| program.ended(address)).collect();
    let never_asked = lines.iter().filter(|line| line["code"].is_null());
    let mut count = 0;
    for line in never_asked {
        count += 1;
        assert_eq!(line["cause"], "client_closed", "{line}");
        assert!(line["pace_us"].as_u64() > Some(0), "{line}");
        let id = line["client_id"].as_str().expect("an id");
        assert_eq!(cluster.asked(&Connect::new(id).bytes()), 0, "{id}");
    }
    assert!(count > 0, "{lines:?}");
}

#[test]
fn a_client_for_whom_no_node_has_a_turn_in_time_is_closed() {
    let cluster = Cluster::of(1);
    let tables = "[timeouts]\ngreet_total = \"20s\"\ngreet = \"20s\"\n[pacing]\nconnects_per_second = 1";
    let program = Program::start(&cluster, tables);
    let ids: Vec<String> = (0..40).map(|number| format!("client-{number}")).collect();
    let _clients = all_at_once(&program, &ids);
    program.until_ended_with("limit_pace", 10);
    let line = &program.lines(|line| line["cause"] == "limit_pace")[0];
    assert_eq!((&line["node"], &line["route"]), (&"-".into(), &"-".into()), "{line}");
}

#[test]
fn what_a_client_has_sent_before_it_closed_its_side_is_delivered_however_long_it_waits() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "[pacing]\nconnects_per_second = 2");
    let _first = Client::accepted(program.address, &Connect::new("first"));
    let publish = packets::publish(b"x");
    let bytes = [Connect::new("publisher").bytes(), publish].concat();
    let mut publisher = Client::to(program.address);
    publisher.send(&bytes);
    publisher.fin();
    publisher.expect(&packets::connack(4, 0));
    cluster.nodes[0].connection(1).expect(&bytes);
}

#[test]
fn clients_of_websocket_and_of_tcp_take_turns_at_one_node() {
    let mesh = Mesh::of(1, 0);
    let config = mesh.toml("[pacing]\nconnects_per_second = 5");
    let program = Program::of(&config);
    let [ws, tcp] = program.addresses[..] else {
        panic!("two listeners: {:?}", program.addresses);
    };
    let since = Instant::now();
    for number in 0..3 {
        let _ws = WsClient::accepted(ws, &Connect::new(format!("ws-{number}")));
        let _tcp = Client::accepted(tcp, &Connect::new(format!("tcp-{number}")));
    }
    assert!(since.elapsed() >= Duration::from_secs(1), "five intervals of 200 ms");
}

#[test]
fn in_a_storm_every_client_comes_back_at_once_and_no_survivor_sees_more_than_its_rate() {
    const RATE: u32 = 40;
    let mut cluster = Cluster::of(3);
    let balancer = Balancer::with(&cluster, &format!("[pacing]\nconnects_per_second = {RATE}"));
    let ids: Vec<String> = (0..90).map(|number| format!("client-{number}")).collect();
    let connect = |id: &String| Connect::new(id).persistent();
    let mut clients = Vec::new();
    for id in &ids {
        let mut client = Client::to(balancer.address);
        client.send(&connect(id).bytes());
        clients.push((id, client));
    }
    for (_, client) in &mut clients {
        client.expect(&packets::connack(4, 0));
    }
    let lost = 1;
    cluster.nodes[lost].die();
    let since = Instant::now();
    let (moved, stayed): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(id, _)| cluster.home(id) == lost);
    let mut again: Vec<_> = moved
        .into_iter()
        .map(|(id, mut client)| {
            client.end();
            let mut client = Client::to(balancer.address);
            client.send(&connect(id).bytes());
            (id, client)
        })
        .collect();
    for (id, client) in &mut again {
        client.expect(&packets::connack(4, 0));
        let next = cluster.choices(&**id)[1];
        assert!(cluster.holders(&connect(id).bytes()).contains(&next), "{id}");
    }
    for survivor in [0, 2] {
        assert_paced(&cluster.nodes[survivor], since, RATE, RATE / 20);
    }
    for (id, mut client) in stayed {
        client.send(b"\xC0\0");
        let all = [connect(id).bytes(), b"\xC0\0".to_vec()].concat();
        assert_eq!(cluster.holder(&all).0, cluster.home(id), "{id} was left alone");
    }
}

#[test]
fn a_client_in_a_loop_is_held_and_told_once_and_no_other_one_is() {
    let cluster = Cluster::of(1);
    let tables = format!("[pacing]\nconnects_per_id_per_minute = 60\n{ADMIN}");
    let program = Program::start(&cluster, &tables);
    let told = |line: &serde_json::Value| line["message"] == "client connects too often; its CONNECTs are held";
    let held = || Metrics::of(program.admin()).value("remora_held_reconnects_total");
    let accepted = |id: &str| drop(Client::accepted(program.address, &Connect::new(id)));
    let mut times = 0;
    // Sixty may come at once, and one more in each second that this takes.
    while held() < 2.0 {
        accepted("looping");
        times += 1;
        assert!(times < 200, "never held");
    }
    assert!(times > 60, "{times}");
    accepted("another");
    accepted("");
    assert_eq!(held(), 2.0);
    // Another source that sends the same id does not pay for it.
    let mut other = Client::from([127, 0, 0, 9].into(), program.address);
    other.send(&Connect::new("looping").bytes());
    other.expect(&packets::connack(4, 0));
    assert_eq!(held(), 2.0);
    program.until_said("client connects too often");
    let lines = program.lines(told);
    assert!(lines.len() <= 2, "one of each worker: {lines:?}");
    assert_eq!(lines[0]["client_id"], "looping");
    let waited = |line: &&serde_json::Value| line["pace_us"].as_u64().is_some();
    let ended = program.lines(|line| line["client_id"] == "looping" && line["message"] == "connection ended");
    assert!(ended.iter().filter(waited).count() <= 2, "{ended:?}");
}
