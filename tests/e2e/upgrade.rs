//! Another process takes over all listeners and connections, and nobody notices.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::admin_client::{Metrics, ask_socket};
use crate::balancer::{ADMIN, Program, toml};
use crate::certificates::{BOTH, Certificates};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, End};
use crate::packets::{self, Connect};
use crate::pair::Pair;
use crate::relaying::{Stream, write_until_stalled};
use crate::tls_client::TlsClient;
use crate::wait;
use crate::websocket::Mesh;
use crate::ws_client::WsClient;
use crate::ws_frames::{BEGUN, BINARY, CONTINUED, LAST, PING, PONG, masked};

/// What the API answers.
#[track_caller]
fn api(program: &Program, method: &str, path: &str, body: &str) -> Value {
    let answer = ask_socket(program.socket(), method, &format!("/api/v1/{path}"), body);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

#[test]
fn a_connection_goes_on_over_many_upgrades_and_new_clients_are_accepted() {
    let cluster = Cluster::of(2);
    let mut program = Program::start(&cluster, ADMIN);
    let mut pair = Pair::accepted(&cluster, &program, "stays");
    let mut others = Vec::new();
    pair.talks("before");
    for number in 0..3 {
        let done = program.upgrade();
        assert_eq!(done["moved"], 1 + number, "{done}");
        assert_eq!(program.old_exit_code(), Some(0));
        pair.talks(&format!("after {number}"));
        others.push(Pair::accepted(&cluster, &program, &format!("new {number}")));
    }
    others.iter_mut().for_each(|other| other.talks("as well"));
    assert_eq!(
        api(&program, "GET", "clients", "")["clients"].as_array().map(Vec::len),
        Some(4)
    );
    // What ends is told by the process that has it.
    pair.client.reset();
    assert_eq!(program.ended(pair.client.address())["cause"], "client_reset");
    assert_eq!(program.ended_with("shutdown"), 0);
}

/// Both ways a stream whose every byte is known, while the program is upgraded again and again.
fn streams(splice: bool) {
    const UPGRADES: usize = 4;
    let cluster = Cluster::of(1);
    cluster.answer(&Answer::AcceptDeaf);
    let mut program = Program::start(&cluster, &format!("{ADMIN}[relay]\nsplice = {splice}\n"));
    let client = Client::accepted(program.address, &Connect::new("bulk"));
    let (_, node) = cluster.holder(&Connect::new("bulk").bytes());
    let is_over = AtomicBool::new(false);
    let sides = [(&client.stream, node.stream(), 1), (node.stream(), &client.stream, 2)];
    std::thread::scope(|scope| {
        for (mut from, to, seed) in sides {
            let (sent, received) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let is_over = &is_over;
            scope.spawn(move || {
                let mut stream = Stream::new(seed);
                while !is_over.load(Ordering::Relaxed) {
                    from.write_all(stream.next(50_000)).expect("a balancer that reads");
                }
                sent.store(stream.at(), Ordering::Relaxed);
                from.shutdown(Shutdown::Write).expect("a connection");
            });
            scope.spawn(move || {
                let (mut stream, mut buffer) = (Stream::new(seed), vec![0; 100_000]);
                loop {
                    let read = wait::uninterrupted(|| std::io::Read::read(&mut { to }, &mut buffer));
                    match read.expect("no end but a FIN") {
                        0 => break,
                        count => assert!(stream.takes(&buffer[..count]), "other bytes behind {}", stream.at()),
                    }
                }
                received.store(stream.at(), Ordering::Relaxed);
            });
        }
        for _ in 0..UPGRADES {
            let done = program.upgrade();
            assert_eq!(done["moved"], 1, "{done}");
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn every_byte_of_a_spliced_stream_arrives_once() {
    streams(true);
}

#[test]
fn every_byte_of_a_copied_stream_arrives_once() {
    streams(false);
}

#[test]
fn what_waits_for_a_slow_receiver_moves_with_it() {
    let cluster = Cluster::of(1);
    cluster.answer(&Answer::AcceptDeaf);
    let mut program = Program::start(&cluster, ADMIN);
    let client = Client::accepted(program.address, &Connect::new("slow"));
    let (_, node) = cluster.holder(&Connect::new("slow").bytes());
    let sent = write_until_stalled(&client.stream, &mut Stream::new(3));
    assert_eq!(program.upgrade()["moved"], 1);
    assert_eq!(program.old_exit_code(), Some(0));
    node.listen();
    client.fin();
    assert_eq!(node.end(), End::Fin);
    let received = node.received();
    let connect = Connect::new("slow").bytes();
    assert_eq!(received.len(), connect.len() + sent);
    assert!(Stream::new(3).takes(&received[connect.len()..]), "other bytes");
}

#[test]
fn frames_that_are_half_read_go_on_wherever_they_were_cut() {
    let mesh = Mesh::of(0, 1);
    let mut program = Program::of(&mesh.toml(ADMIN));
    let connect = Connect::new("frames");
    let mut client = WsClient::accepted(program.address, &connect);
    let (_, node) = mesh.cluster.holder(&connect.bytes());
    let mut sent = connect.bytes();
    let mut random = fastrand::Rng::with_seed(5);
    for round in 0..8 {
        let text: Vec<u8> = (0..300).map(|_| random.u8(..)).collect();
        let message = packets::publish(&text);
        let (one, two) = message.split_at(message.len() / 2);
        let frames = [
            masked(BEGUN, one, [1, 2, 3, round]),
            masked(PING, b"in between", [4, 5, 6, 7]),
            masked(CONTINUED, &[], [9, 9, 9, 9]),
            masked(LAST, two, [8, 7, round, 5]),
        ]
        .concat();
        // In a header, in a mask, in a payload, in a control frame.
        let cut = match round {
            0 => 1,
            1 => 5,
            2 => 100,
            round => random.usize(1..frames.len().min(200 + usize::from(round))),
        };
        client.tcp.send_alone(&frames[..cut]);
        assert_eq!(program.upgrade()["moved"], 1);
        client.tcp.send(&frames[cut..]);
        sent.extend_from_slice(&message);
        node.expect(&sent);
        client.expect(PONG, b"in between");
        node.send(&message);
        assert_eq!(client.read_mqtt(message.len()), message);
    }
}

#[test]
fn websocket_that_passes_as_it_is_goes_on() {
    let mesh = Mesh::of(1, 0);
    let mut program = Program::of(&mesh.toml(ADMIN));
    let connect = Connect::new("passes");
    let mut client = WsClient::accepted(program.address, &connect);
    let (_, node) = mesh.holder(&connect.bytes());
    assert_eq!(program.upgrade()["moved"], 1);
    client.send(&packets::publish(b"after"));
    let all = [connect.bytes(), packets::publish(b"after")].concat();
    wait::until("the message at the node", || node.mqtt() == all);
    node.send(&crate::ws_frames::plain(BINARY, b"answer"));
    client.expect(BINARY, b"answer");
}

#[test]
fn clients_that_connect_all_the_time_are_all_accepted() {
    let cluster = Cluster::of(2);
    let mut program = Program::start(&cluster, ADMIN);
    let (is_over, accepted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = program.address;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (is_over, accepted) = (&is_over, &accepted);
            scope.spawn(move || {
                let mut number = 0;
                while !is_over.load(Ordering::Relaxed) {
                    // Fails if it is not accepted.
                    let client = Client::accepted(address, &Connect::new(format!("{thread}-{number}")));
                    client.fin();
                    number += 1;
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..5 {
            program.upgrade();
            let before = accepted.load(Ordering::Relaxed);
            wait::until("clients of the new process", || {
                accepted.load(Ordering::Relaxed) > before + 20
            });
        }
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_client_off_its_home_returns_to_where_it_was() {
    let cluster = Cluster::of(3);
    let mut program = Program::start(&cluster, ADMIN);
    let connect = Connect::new("placed").persistent();
    let choices = cluster.choices(&connect.client_id);
    cluster.nodes[choices[0]].answer(Answer::Code(3));
    let client = Client::accepted(program.address, &connect);
    let (node, connection) = cluster.holder(&connect.bytes());
    assert_eq!(node, choices[1]);
    cluster.answer(&Answer::Accept);
    // It is remembered while it is connected, and once it has left.
    program.upgrade();
    client.fin();
    connection.end();
    connection.fin();
    program.ended(client.address());
    program.upgrade();
    let _client = Client::accepted(program.address, &connect);
    assert_eq!(cluster.holder(&connect.bytes()).0, choices[1]);
}

#[test]
fn no_counter_falls() {
    let cluster = Cluster::of(2);
    let mut program = Program::start(&cluster, ADMIN);
    let mut pairs: Vec<Pair> = (0..20)
        .map(|number| Pair::accepted(&cluster, &program, &format!("counted {number}")))
        .collect();
    pairs.iter_mut().for_each(|pair| pair.talks("something to count"));
    for pair in pairs.drain(..10) {
        pair.client.reset();
        program.ended(pair.client.address());
    }
    let admin = program.admin();
    // Bytes are counted a second late.
    let bytes = |metrics: &Metrics| metrics.sum("remora_bytes_total");
    wait::until("all bytes in the counters", || bytes(&Metrics::of(admin)) > 20.0 * 40.0);
    let before = Metrics::of(admin);
    program.upgrade();
    program.old_exit_code();
    // The last of it is told when nothing waits for it any more.
    let completed = "remora_handovers_total{result=\"completed\"}";
    wait::until("the last counts of the old process", || {
        Metrics::of(admin).value(completed) == 1.0
    });
    let after = Metrics::of(admin);
    assert_eq!(after.sum("remora_connections"), 10.0);
    assert!(after.value("remora_handover_pause_seconds") > 0.0);
    for name in before.names() {
        let is_counter = name.contains("_total") || name.contains("_count") || name.contains("_bucket");
        // Of the process itself, and of what it has done beside clients.
        let is_own = ["process_", "remora_log_", "remora_probes_", "remora_config_"];
        if is_counter && !is_own.iter().any(|own| name.starts_with(own)) {
            assert!(
                after.value(name) >= before.value(name),
                "{name} fell from {} to {}",
                before.value(name),
                after.value(name)
            );
        }
    }
    assert_eq!(after.value("remora_ends_total{cause=\"client_reset\"}"), 10.0);
    assert_eq!(after.sum("remora_accepts_total"), 20.0);
}

#[test]
fn the_next_process_may_have_more_workers_or_fewer() {
    let cluster = Cluster::of(2);
    let config = toml(&cluster, "", ADMIN);
    let mut program = Program::of(&config);
    let mut pairs: Vec<Pair> = (0..20)
        .map(|number| Pair::accepted(&cluster, &program, &format!("{number}")))
        .collect();
    for workers in [5, 1, 3, 2] {
        program.configure(&config.replace("workers = 2", &format!("workers = {workers}")));
        assert_eq!(program.upgrade()["moved"], pairs.len());
        pairs.iter_mut().for_each(|pair| pair.talks("moved"));
        // Clients are accepted on every socket that there is, whichever worker has it.
        let more = (0..20).map(|number| Pair::accepted(&cluster, &program, &format!("{workers} {number}")));
        pairs.extend(more);
    }
    let listed = api(&program, "GET", "clients", "");
    assert_eq!(listed["clients"].as_array().map(Vec::len), Some(pairs.len()));
}

#[test]
fn wishes_for_nodes_survive_and_a_node_that_is_down_stays_down() {
    let mut cluster = Cluster::of(3);
    let tables = format!("{ADMIN}[health]\ndown_min = \"100s\"\ndown_max = \"100s\"\n");
    let mut program = Program::start(&cluster, &tables);
    api(&program, "POST", "nodes/node0/drain", "");
    api(&program, "POST", "nodes/node1/weight", "{\"weight\": 7}");
    cluster.nodes[2].die();
    let state = |node: &Value| node["endpoints"][0]["state"].clone();
    let nodes = |program: &Program| api(program, "GET", "nodes", "")["nodes"].clone();
    Client::accepted(program.address, &Connect::new(cluster.id_at_home(2, "homeless"))).reset();
    wait::until("a node that is down", || state(&nodes(&program)[2]) == "down");
    program.upgrade();
    let after = nodes(&program);
    assert_eq!(state(&after[0]), "draining", "{after}");
    assert_eq!(after[1]["weight"], 7, "{after}");
    assert_eq!(state(&after[2]), "down", "{after}");
}

#[test]
fn tls_stays_and_the_old_process_ends_with_the_last_of_it() {
    let cluster = Cluster::of(1);
    let certificates = Certificates::new();
    let config = Arc::new(certificates.trusting(BOTH, None));
    let mut program = Program::of(&toml(&cluster, &certificates.listener(), ADMIN));
    let connect = Connect::new("encrypted");
    let mut client = TlsClient::accepted(program.address, &config, &connect);
    let (_, node) = cluster.holder(&connect.bytes());
    let done = program.upgrade();
    assert_eq!((&done["moved"], &done["left"]["tls"]), (&0.into(), &1.into()), "{done}");
    let metrics = Metrics::of(program.admin());
    let left = "remora_handover_connections_total{result=\"left\",reason=\"tls\"}";
    assert_eq!(metrics.value(left), 1.0);
    // Both processes serve their clients.
    node.send(b"still here");
    client.expect(b"still here");
    TlsClient::accepted(program.address, &config, &Connect::new("new"));
    assert!(!program.has_old_exited());
    client.fin();
    node.end();
    node.fin();
    assert_eq!(program.old_exit_code(), Some(0));
}

#[test]
fn tls_that_stays_is_closed_after_the_grace() {
    let cluster = Cluster::of(1);
    let certificates = Certificates::new();
    let config = Arc::new(certificates.trusting(BOTH, None));
    let tables = format!("{ADMIN}[handover]\ngrace = \"0s\"\n");
    let mut program = Program::of(&toml(&cluster, &certificates.listener(), &tables));
    let mut client = TlsClient::accepted(program.address, &config, &Connect::new("encrypted"));
    program.upgrade();
    client.rest();
    assert_eq!(program.old_exit_code(), Some(0));
}

#[test]
fn a_client_that_is_being_set_up_is_served_by_the_old_process_and_moves_then() {
    let cluster = Cluster::of(1);
    let mut program = Program::start(&cluster, ADMIN);
    let connect = Connect::new("late").bytes();
    let mut client = Client::to(program.address);
    client.send_alone(&connect[..5]);
    let upgrade = std::thread::scope(|scope| {
        let upgrade = scope.spawn(|| program.upgrade());
        client.send(&connect[5..]);
        client.expect(&packets::connack(4, 0));
        upgrade.join().expect("an upgrade")
    });
    assert_eq!(upgrade["moved"], 1, "{upgrade}");
    assert_eq!(program.old_exit_code(), Some(0));
    let (_, node) = cluster.holder(&connect);
    node.send(b"moved");
    client.expect(b"moved");
}

#[test]
fn a_process_of_another_container_takes_over_at_the_socket() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("handover.sock");
    let cluster = Cluster::of(1);
    let tables = format!("{ADMIN}[handover]\nsocket = \"{}\"\n", socket.display());
    let mut old = Program::start(&cluster, &tables);
    let mut pair = Pair::accepted(&cluster, &old, "stays");
    pair.talks("before");
    let mut new = Program::taking_over(&old, &socket);
    assert_eq!(old.exit_code(), Some(0));
    assert_eq!(new.address, old.address);
    pair.talks("after");
    // The sockets' files are the new one's, and it can be taken over in turn.
    let mut third = Program::taking_over(&old, &socket);
    assert_eq!(new.exit_code(), Some(0));
    pair.talks("once more");
    third.signal(Signal::INT);
    assert_eq!(third.exit_code(), Some(0));
    assert!(!socket.exists(), "removed by the last one");
}
