//! How many clients there may be: who is one too many is told so at once, and costs next to nothing.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::admin_client::{self, Metrics};
use crate::balancer::{ADMIN, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::header::v1;
use crate::packets::{self, Connect};
use crate::raise_descriptor_limit;

/// How soon a client must know that there is no room for it.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

const LOCALHOST: [u8; 4] = [127, 0, 0, 1];

/// A client that is one too many, for this reason.
#[track_caller]
fn is_refused(program: &Program, source: [u8; 4], cause: &str) {
    let came = Instant::now();
    let mut client = Client::from(source.into(), program.address);
    client.offers(&Connect::new("surplus").bytes());
    let (bytes, _) = client.rest();
    let told = came.elapsed();
    assert_eq!(bytes, b"");
    assert!(told <= TOLD_WITHIN, "{cause} was told after {told:?}");
    assert_eq!(program.ended(client.address())["cause"], cause);
}

/// A client that says this, and then the beginning of its CONNECT.
fn begins(program: &Program, source: [u8; 4], header: &[u8]) -> Client {
    let mut client = Client::from(source.into(), program.address);
    client.send_alone(&[header, &Connect::new("slow").bytes()[..5]].concat());
    client
}

#[track_caller]
fn comes_in(program: &Program, source: [u8; 4]) -> Client {
    let mut client = Client::from(source.into(), program.address);
    client.send(&Connect::new("in").bytes());
    client.expect(&packets::connack(4, 0));
    client
}

/// Leaves, and waits until the balancer knows.
#[track_caller]
fn leaves(program: &Program, client: Client) {
    client.reset();
    program.ended(client.address());
}

/// Takes three clients in, and no fourth until one has left.
#[track_caller]
fn three_may_come(listener: &str, tables: &str, cause: &str) -> (Cluster, Program, Vec<Client>) {
    let cluster = Cluster::of(1);
    let program = Program::of(&toml(&cluster, listener, tables));
    let mut clients: Vec<Client> = (0..3).map(|_| comes_in(&program, LOCALHOST)).collect();
    for _ in 0..5 {
        is_refused(&program, LOCALHOST, cause);
    }
    assert_eq!(cluster.dials(), 3, "nothing is dialled for who has no room");
    leaves(&program, clients.remove(0));
    clients.push(comes_in(&program, LOCALHOST));
    is_refused(&program, LOCALHOST, cause);
    (cluster, program, clients)
}

#[test]
fn the_surplus_in_all_is_told_at_once_and_has_room_when_one_leaves() {
    three_may_come("", "[limits]\nconnections = 3", "limit_total");
}

#[test]
fn the_surplus_of_a_listener_is_told_at_once_and_has_room_when_one_leaves() {
    three_may_come("connections_max = 3", "", "limit_listener");
}

#[test]
fn the_surplus_of_a_source_is_told_at_once_and_others_have_room() {
    let limits = "[limits]\nconnections_per_source = 3";
    let (_cluster, program, _clients) = three_may_come("", limits, "limit_source");
    comes_in(&program, [127, 0, 0, 2]);
}

#[test]
fn a_source_that_connects_too_often_is_told_at_once_and_others_have_room() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "[limits]\nconnects_per_source_per_second = 1");
    let _first = comes_in(&program, LOCALHOST);
    // At one in a second, some of ten are too many, unless they take ten seconds.
    let _more: Vec<Client> = (0..10).map(|_| Client::to(program.address)).collect();
    program.until_ended_with("limit_source_rate", 1);
    comes_in(&program, [127, 0, 0, 2]);
}

#[test]
fn the_surplus_of_undecided_clients_is_told_at_once_and_has_room_when_one_is_decided() {
    let cluster = Cluster::of(1);
    let limits = "[limits]\nundecided = 3\n[timeouts]\nconnect = \"10s\"";
    let program = Program::start(&cluster, limits);
    let connect = Connect::new("slow").bytes();
    let mut undecided: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = Client::to(program.address);
            client.send_alone(&connect[..5]);
            client
        })
        .collect();
    is_refused(&program, LOCALHOST, "limit_undecided");
    undecided[0].send(&connect[5..]);
    undecided[0].expect(&packets::connack(4, 0));
    comes_in(&program, LOCALHOST);
    leaves(&program, undecided.remove(1));
    comes_in(&program, LOCALHOST);
}

#[test]
fn an_address_that_has_all_places_of_undecided_clients_gives_up_its_oldest_for_another() {
    let cluster = Cluster::of(1);
    let limits = "[limits]\nundecided = 8\n[timeouts]\nconnect = \"10s\"";
    let program = Program::start(&cluster, limits);
    let undecided: Vec<Client> = (0..8).map(|_| begins(&program, LOCALHOST, b"")).collect();
    is_refused(&program, LOCALHOST, "limit_undecided");
    let other = comes_in(&program, [127, 0, 0, 2]);
    assert_eq!(program.ended(undecided[0].address())["cause"], "limit_undecided");
    leaves(&program, other);
    assert_eq!(program.ended_with("limit_undecided"), 0, "nobody else");
    drop(undecided);
}

#[test]
fn behind_a_proxy_the_address_in_the_header_has_the_share() {
    let cluster = Cluster::of(1);
    let limits = "[limits]\nundecided = 8\n[timeouts]\nconnect = \"10s\"";
    let listener = "proxy_protocol_from = [\"127.0.0.0/8\"]";
    let program = Program::of(&toml(&cluster, listener, limits));
    let old = begins(&program, LOCALHOST, &v1("192.0.2.1:1"));
    let many: Vec<Client> = (1..8)
        .map(|port| begins(&program, LOCALHOST, &v1(&format!("192.0.2.2:{port}"))))
        .collect();
    let mut other = Client::to(program.address);
    other.send(&[v1("192.0.2.3:1"), Connect::new("other").bytes()].concat());
    other.expect(&packets::connack(4, 0));
    let gone = "192.0.2.2:1".parse().expect("an address");
    assert_eq!(program.ended(gone)["cause"], "limit_undecided");
    assert_eq!(program.ended_with("limit_undecided"), 0, "nobody else");
    drop((old, many));
}

#[test]
fn limits_below_the_present_count_refuse_only_new_clients() {
    for (limits, listener, cause) in [
        ("connections = 2", "", "limit_total"),
        ("connections_per_source = 2", "", "limit_source"),
        ("", "connections_max = 2", "limit_listener"),
    ] {
        let cluster = Cluster::of(1);
        let program = Program::start(&cluster, "");
        let mut clients: Vec<Client> = (0..5).map(|_| comes_in(&program, LOCALHOST)).collect();
        program.reload(&toml(&cluster, listener, &format!("[limits]\n{limits}")));
        is_refused(&program, LOCALHOST, cause);
        let nodes = cluster.nodes[0].connections();
        for (client, node) in clients.iter_mut().zip(nodes) {
            node.send(b"still there");
            client.expect(b"still there");
        }
        for client in clients.drain(..3) {
            leaves(&program, client);
        }
        is_refused(&program, LOCALHOST, cause);
        leaves(&program, clients.remove(0));
        comes_in(&program, LOCALHOST);
    }
}

/// Clients that come all at once and send their CONNECT; how many were told within a second that there is no room.
fn crowd(address: SocketAddr, count: usize) -> (Vec<Client>, usize) {
    let mut clients = Vec::with_capacity(count);
    let mut told = 0;
    for number in 0..count {
        let mut client = Client::to(address);
        let came = Instant::now();
        client.offers(&Connect::new(format!("crowd-{number}")).bytes());
        // One way or the other, a byte or the end comes.
        let mut byte = [0];
        match std::io::Read::read(&mut client.stream, &mut byte) {
            Ok(1) => clients.push(client),
            _ => {
                let after = came.elapsed();
                assert!(after <= TOLD_WITHIN, "client {number} was told after {after:?}");
                told += 1;
            }
        }
    }
    (clients, told)
}

/// How long the crowd stays.
const STAY: Duration = Duration::from_secs(3);

/// The share of a core that `program` has used since it had used `before`, `since` then.
fn share_of_a_core(program: &Program, before: Duration, since: Instant) -> f64 {
    (program.cpu() - before).as_secs_f64() / since.elapsed().as_secs_f64()
}

#[test]
fn a_thousand_clients_and_256_descriptors_cost_nothing_and_change_nothing() {
    raise_descriptor_limit();
    const CLIENTS: usize = 1_000;
    let cluster = Cluster::of(2);
    let config = toml(&cluster, "", &format!("{ADMIN}\n[limits]\nconnections = 5000"));
    let program = Program::with_descriptors(256, &config);
    let warned = |line: &serde_json::Value| line["configured"] == 5000;
    assert_eq!(program.lines(warned).len(), 1, "the limit is lowered, aloud");
    let room = Metrics::of(program.admin()).value("process_max_fds");
    assert_eq!(room, 256.0);
    let (mut clients, told) = crowd(program.address, CLIENTS);
    assert_eq!(clients.len() + told, CLIENTS);
    assert!((40..=110).contains(&clients.len()), "{} came in", clients.len());
    program.until_ended(told);
    assert_eq!(program.ended_with("limit_total"), told);

    let (began, spent) = (Instant::now(), program.cpu());
    program.reload_in_vain("listeners = 7");
    let mut asked = 0;
    while began.elapsed() < STAY {
        assert_eq!(admin_client::get(program.admin(), "/livez").status, 200);
        // Those who were refused knock again, as MQTT clients do: each second.
        is_refused(&program, LOCALHOST, "limit_total");
        asked += 1;
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let share = share_of_a_core(&program, spent, began);
    println!(
        "{asked} questions and refusals in {STAY:?}: {:.1} % of a core",
        share * 100.0
    );
    assert!(share <= 0.05, "{:.1} % of a core", share * 100.0);
    let metrics = Metrics::of(program.admin());
    assert_eq!(metrics.value("remora_config_last_reload_successful"), 0.0);
    assert_eq!(
        metrics.value("remora_connections{listener=\"127.0.0.1:0\"}"),
        clients.len() as f64
    );

    let left = Instant::now();
    clients.drain(..).for_each(|client| client.reset());
    comes_in_within_a_second(&program, left);
}

#[test]
fn where_no_descriptor_is_left_clients_are_told_and_nothing_spins() {
    raise_descriptor_limit();
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, &format!("{ADMIN}\n[timeouts]\nconnect = \"10s\""));
    comes_in(&program, LOCALHOST);
    // An operator, or a library, takes away what was there at the start.
    let process = rustix::process::Pid::from_raw(program.process() as i32);
    let few = rustix::process::Rlimit {
        current: Some(128),
        maximum: Some(128),
    };
    rustix::process::prlimit(process, rustix::process::Resource::Nofile, few).expect("our child");
    let (mut clients, told) = crowd(program.address, 180);
    assert!(told > 80 && clients.len() > 30, "{told} told, {} in", clients.len());
    // The descriptor that is one too few for a client and a node: to the last one.
    let undecided = (0..4).map(|_| {
        let mut client = Client::to(program.address);
        client.offers(&Connect::new("undecided").bytes()[..5]);
        client
    });
    let _undecided: Vec<Client> = undecided.collect();
    let (began, spent) = (Instant::now(), program.cpu());
    // What is there keeps moving.
    for client in &mut clients {
        client.expect(&packets::connack(4, 0)[1..]);
    }
    // A file cannot even be opened, or can: it has a problem either way.
    program.configure("listeners = 7");
    program.signal(Signal::HUP);
    program.until_said("configuration rejected, nothing changed");
    let mut late = 0;
    while began.elapsed() < STAY {
        // Now and then a place is free, for a client that connects then.
        let (more, told) = crowd(program.address, 1);
        clients.extend(more);
        late += told;
        // A process that does not answer such a question is killed.
        let asked = Instant::now();
        assert_eq!(admin_client::get(program.admin(), "/livez").status, 200);
        let after = asked.elapsed();
        assert!(after <= TOLD_WITHIN, "it said so after {after:?}");
        std::thread::park_timeout(Duration::from_millis(100));
    }
    assert!(late >= 5, "{late} were told");
    // One who has nothing to ask has the last descriptor for a moment only.
    let _silent = std::net::TcpStream::connect(program.admin()).expect("an admin listener");
    assert_eq!(admin_client::get(program.admin(), "/livez").status, 200);
    let share = share_of_a_core(&program, spent, began);
    println!("without descriptors: {:.1} % of a core", share * 100.0);
    assert!(share <= 0.05, "{:.1} % of a core", share * 100.0);
    program.until_said("no descriptor left");

    let left = Instant::now();
    clients.drain(..).for_each(|client| client.reset());
    comes_in_within_a_second(&program, left);
}

/// Waits until a client is let in, which must be within a second of `left`.
fn comes_in_within_a_second(program: &Program, left: Instant) {
    loop {
        let mut client = Client::to(program.address);
        client.offers(&Connect::new("next").bytes());
        let mut byte = [0];
        if matches!(std::io::Read::read(&mut client.stream, &mut byte), Ok(1)) {
            break;
        }
        let waited = left.elapsed();
        assert!(waited <= TOLD_WITHIN, "still full after {waited:?}");
    }
}
