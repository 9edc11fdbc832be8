//! Who comes in, how many, how much is held for them; relays that change hands; the end of it all.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Balancer, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, End};
use crate::packets::{self, Connect};
use crate::raise_descriptor_limit;
use crate::wait;

#[test]
fn networks_decide_who_comes_in() {
    let cluster = Cluster::of(1);
    let listener = "allow = [\"127.7.0.0/16\"]\ndeny = [\"127.7.7.0/24\"]";
    let balancer = Balancer::with_listener(&cluster, listener, "");
    for (source, comes_in) in [
        ([127, 7, 0, 1], true),
        ([127, 7, 8, 1], true),
        ([127, 7, 7, 1], false),
        ([127, 0, 0, 1], false),
    ] {
        let mut client = Client::from(source.into(), balancer.address);
        let dials = cluster.dials();
        if comes_in {
            client.send(&Connect::new("id").bytes());
            client.expect(&packets::connack(4, 0));
        } else {
            // Not a byte is read from it.
            client.end();
            assert_eq!(cluster.dials(), dials, "{source:?}");
        }
    }
}

#[test]
fn a_full_listener_takes_nobody_until_one_leaves() {
    let cluster = Cluster::of(1);
    let balancer = Balancer::with_listener(&cluster, "connections_max = 3", "");
    let mut clients: Vec<Client> = (0..3)
        .map(|number| Client::accepted(balancer.address, &Connect::new(format!("in-{number}"))))
        .collect();
    let mut late = Client::to(balancer.address);
    late.end();
    assert_eq!(cluster.dials(), 3);
    let mut first = clients.remove(0);
    first.fin();
    let gone = cluster.nodes[0].connection(0);
    gone.end();
    gone.fin();
    first.end();
    // It sees the end a moment before its place is free.
    wait::until("a place", || balancer.running.connections() == 2);
    Client::accepted(balancer.address, &Connect::new("next"));
}

#[test]
fn a_limit_that_is_nearly_reached_is_said_once_and_once_when_it_is_not_any_more() {
    let cluster = Cluster::of(1);
    let tables = format!("{ADMIN}[limits]\nconnections = 20\n");
    let program = Program::of(&toml(&cluster, "name = \"mqtt\"\nconnections_max = 10", &tables));
    let metric = |series: &str| Metrics::of(program.admin()).value(series) as usize;
    assert_eq!(metric("remora_connections_max"), 20);
    assert_eq!(metric("remora_listener_connections_max{listener=\"mqtt\"}"), 10);
    let said = |words: &str| {
        let about = |line: &serde_json::Value| line["message"].as_str().is_some_and(|message| message.contains(words));
        program.lines(about)
    };
    let mut clients: Vec<Client> = (0..9)
        .map(|number| Client::accepted(program.address, &Connect::new(format!("in-{number}"))))
        .collect();
    wait::until("a warning", || !said("nine tenths").is_empty());
    // More of them than there is room for, and none of these is a line of its own.
    for _ in 0..3 {
        clients.push(Client::accepted(program.address, &Connect::new("the last")));
        Client::to(program.address).end();
        clients.pop().expect("the last").reset();
        wait::until("room", || metric("remora_connections{listener=\"mqtt\"}") == 9);
    }
    for client in clients.drain(7..) {
        client.reset();
    }
    wait::until("a line", || !said("less than eight tenths").is_empty());
    let warned = said("nine tenths");
    assert_eq!(warned.len(), 1, "{warned:?}");
    let expected = serde_json::json!(["WARN", "mqtt", 10]);
    assert_eq!(
        serde_json::json!([warned[0]["level"], warned[0]["listener"], warned[0]["limit"]]),
        expected
    );
}

#[test]
fn a_thousand_claims_of_the_largest_packet_cost_next_to_nothing() {
    raise_descriptor_limit();
    const CLIENTS: usize = 1_000;
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "[timeouts]\nconnect = \"10s\"");
    Client::accepted(program.address, &Connect::new("warm"));
    // A remaining length of 268,435,455, and a client id of 65,535 bytes of which ten are here.
    let mut claim = vec![0x10, 0xFF, 0xFF, 0xFF, 0x7F, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60];
    claim.extend([0xFF, 0xFF]);
    claim.extend([b'i'; 10]);
    let before = program.resident_bytes();
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = Client::to(program.address);
            client.send_alone(&claim);
            client
        })
        .collect();
    let grown = program.resident_bytes().saturating_sub(before);
    assert_eq!(program.ended_with("connect_timeout"), 0, "all are still there");
    assert!(grown <= 8 << 20, "grown by {grown} bytes");
    for client in &mut clients {
        client.end();
    }
    program.until_ended_with("connect_timeout", CLIENTS);
    assert_eq!(cluster.dials(), 1, "only the first client was dialled for");
}

#[test]
fn when_too_much_is_held_the_oldest_holder_is_closed_not_the_largest() {
    let cluster = Cluster::of(1);
    let program = Program::start(
        &cluster,
        "[limits]\nheld_bytes = \"1MiB\"\n[timeouts]\nconnect = \"10s\"",
    );
    // Each claims a client id that never becomes whole.
    let unfinished = |bytes: usize| Connect::new([b'i'; 65_535]).bytes()[..bytes].to_vec();
    let mut oldest = Client::to(program.address);
    oldest.send_alone(&unfinished(2_000));
    let mut others = Vec::new();
    while program.ended_with("held_bytes_full") == 0 {
        let mut other = Client::to(program.address);
        other.send_alone(&unfinished(50_000));
        others.push(other);
        // A busy machine reads later than we send.
        assert!(others.len() <= 400, "far beyond the limit");
    }
    oldest.end();
    assert_eq!(program.ended(oldest.address())["cause"], "held_bytes_full");
    // Full as it is.
    Client::accepted(program.address, &Connect::new("small"));
    drop(others);
}

#[test]
fn live_relays_move_between_workers_and_lose_no_byte() {
    const CLIENTS: usize = 100;
    const MESSAGES: u32 = 300;
    let cluster = Cluster::of(1);
    let balancer = Balancer::start(&cluster);
    let connects: Vec<Connect> = (0..CLIENTS).map(|n| Connect::new(format!("moves-{n}"))).collect();
    let pairs: Vec<_> = connects
        .iter()
        .map(|connect| {
            let client = Client::accepted(balancer.address, connect);
            (client, cluster.holder(&connect.bytes()).1)
        })
        .collect();
    let done = AtomicBool::new(false);
    let moved = std::thread::scope(|scope| {
        let moving = scope.spawn(|| {
            let mut moved = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let there = balancer.move_connections(0, 1).expect("both run");
                let back = balancer.move_connections(1, 0).expect("both run");
                moved.push(there.max(back));
            }
            moved
        });
        let talking: Vec<_> = pairs
            .iter()
            .map(|(client, node)| {
                scope.spawn(move || {
                    // Both ways at once, without waiting for each other.
                    let mut sending = &client.stream;
                    for number in 0..MESSAGES {
                        let message = [&number.to_be_bytes()[..], &[number as u8; 996]].concat();
                        sending.write_all(&message).expect("a balancer that reads");
                        node.send(&message);
                    }
                })
            })
            .collect();
        talking.into_iter().for_each(|thread| thread.join().expect("no panic"));
        done.store(true, Ordering::Relaxed);
        moving.join().expect("no panic")
    });
    assert!(moved.contains(&CLIENTS), "all at once: {moved:?}");
    let stream: Vec<u8> = (0..MESSAGES)
        .flat_map(|number| [&number.to_be_bytes()[..], &[number as u8; 996]].concat())
        .collect();
    for (connect, (mut client, node)) in connects.iter().zip(pairs) {
        node.expect(&[connect.bytes(), stream.clone()].concat());
        client.expect(&stream);
        client.fin();
        assert_eq!(node.end(), End::Fin);
        node.fin();
        assert_eq!(client.end(), End::Fin);
    }
}

#[test]
fn a_relay_moves_with_bulk_in_flight() {
    const BYTES: usize = 24 << 20;
    for splice in [true, false] {
        let cluster = Cluster::of(1);
        cluster.answer(&Answer::AcceptDeaf);
        let balancer = Balancer::with(&cluster, &format!("[relay]\nsplice = {splice}"));
        let connect = Connect::new("heavy");
        let client = Client::accepted(balancer.address, &connect);
        let (_, node) = cluster.holder(&connect.bytes());
        let mut bytes = vec![0; BYTES];
        fastrand::Rng::with_seed(5).fill(&mut bytes);
        let moved = std::thread::scope(|scope| {
            let sending = scope.spawn(|| {
                (&client.stream).write_all(&bytes).expect("a balancer that reads");
                client.fin();
            });
            let mut moved = 0;
            let mut turn = || {
                for (from, to) in [(0, 1), (1, 0)] {
                    moved += balancer.move_connections(from, to).expect("both run");
                }
            };
            // The node takes a little now and then, so that what is in our hands is partly sent when it is moved.
            let mut random = fastrand::Rng::with_seed(6);
            for _ in 0..200 {
                node.take(random.usize(1..100_000));
                turn();
            }
            node.listen();
            while !sending.is_finished() {
                turn();
            }
            moved
        });
        assert!(moved > 100, "moved {moved} times");
        assert_eq!(node.end(), End::Fin);
        let received = node.received();
        assert_eq!(received.len(), connect.bytes().len() + BYTES);
        assert!(received.ends_with(&bytes), "splice = {splice}");
    }
}

#[test]
fn stop_ends_everything() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let mut relayed: Vec<Client> = (0..20)
        .map(|number| Client::accepted(balancer.address, &Connect::new(format!("relayed-{number}"))))
        .collect();
    cluster.answer(&Answer::Stall);
    let connect = Connect::new("being greeted");
    let mut greeted = Client::to(balancer.address);
    greeted.send(&connect.bytes());
    cluster.holder(&connect.bytes());
    let mut silent = Client::to(balancer.address);
    silent.send_alone(&[0x10]);
    let address = balancer.address;
    balancer.running.stop();
    for client in relayed.iter_mut().chain([&mut greeted, &mut silent]) {
        client.end();
    }
    for node in &cluster.nodes {
        for connection in node.connections() {
            connection.end();
        }
    }
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens");
}
