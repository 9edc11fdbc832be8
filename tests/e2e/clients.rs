//! Where a client is and why, lists of clients, and how they are brought home or away from a node that is down.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;
use std::time::Duration;

use remora::cluster::Decision;
use remora::serve::{ClientFilter, ClientLookup, ClientStatus, Handle, Selector};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::admin_client::ask_socket;
use crate::balancer::{ADMIN, Balancer, Program, block_on, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, End};
use crate::packets::{self, Connect};
use crate::raise_descriptor_limit;
use crate::wait;

const PINGREQ: &[u8] = b"\xC0\0";
const PINGRESP: &[u8] = b"\xD0\0";

/// A node that failed once, and then a probe, is down; probed every 200 ms.
const QUICK: &str = "failures_max = 1\ndown_min = \"200ms\"\ndown_max = \"200ms\"";

fn find(handle: &Handle, id: impl AsRef<[u8]>) -> ClientLookup {
    block_on(handle.client(id.as_ref())).expect("all workers run")
}

/// Waits until the balancer relays so many clients.
fn until_relayed(handle: &Handle, count: usize) {
    wait::until("all are relayed", || {
        list(handle, &ClientFilter::default(), 1_000).len() == count
    });
}

/// The whole list, in pages of `limit`.
fn list(handle: &Handle, filter: &ClientFilter, limit: usize) -> Vec<ClientStatus> {
    let mut all = Vec::new();
    let mut cursor = None;
    loop {
        let page = block_on(handle.clients(filter, cursor, limit)).expect("all workers run");
        assert!(page.clients.len() <= limit);
        all.extend(page.clients);
        // As it comes back from an operator.
        cursor = page.next.map(|next| next.to_string().parse().expect("a cursor"));
        if cursor.is_none() {
            return all;
        }
    }
}

/// The ids of a list, sorted.
fn ids(clients: &[ClientStatus]) -> Vec<String> {
    let mut ids: Vec<String> = clients.iter().map(|client| client.client_id.to_string()).collect();
    ids.sort_unstable();
    ids
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort_unstable();
    ids
}

fn all_accepted(balancer: &Balancer, ids: &[String]) -> Vec<Client> {
    ids.iter()
        .map(|id| Client::accepted(balancer.address, &Connect::new(id)))
        .collect()
}

#[test]
fn a_client_is_found_by_its_id_with_everything_about_it() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::with_listener(&cluster, "name = \"front\"", "");
    let id = cluster.id_at_home(1, "sensor");
    let connect = Connect::v5(&id).keep_alive(60).session_expiry(3_600).persistent();
    let mut client = Client::accepted(balancer.address, &connect);
    let _others = all_accepted(&balancer, &cluster.ids_at_home(0, "other", 20));
    until_relayed(&balancer.running, 21);
    let (_, node) = cluster.holder(&connect.bytes());
    node.send(b"five!");
    client.expect(b"five!");
    let found = find(&balancer.running, &id);
    let [status] = &found.connections[..] else {
        panic!("one connection: {found:?}");
    };
    assert_eq!(status.client_id.kept(), id.as_bytes());
    assert_eq!((&*status.node, status.route), ("node1", Some(Decision::Home)));
    assert_eq!(status.home.as_deref(), Some("node1"));
    assert_eq!((&*status.listener, status.client), ("front", client.address()));
    assert_eq!((status.keep_alive, status.clean_start), (Some(60), Some(false)));
    assert_eq!(status.session_expiry, Some(Duration::from_secs(3_600)));
    assert_eq!(status.from_client, connect.bytes().len() as u64);
    assert_eq!(status.from_node, packets::connack(5, 0).len() as u64 + 5);
    assert_eq!((found.home.as_deref(), found.placement), (Some("node1"), None));
    assert!(found.last_end.is_none());
    for near in [&id[..id.len() - 1], &format!("{id} "), &format!("{id}\0"), ""] {
        assert!(find(&balancer.running, near).connections.is_empty(), "{near:?}");
    }
}

#[test]
fn ids_of_every_kind_are_found_and_told_apart() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let long = |last: u8| [vec![b'x'; 60_000], vec![last]].concat();
    let hostile: Vec<Vec<u8>> = vec![
        long(b'a'),
        long(b'b'),
        b"\xff\xfe".to_vec(),
        b"<script>".to_vec(),
        "\u{202e}bidi".into(),
        b"a\nb".to_vec(),
    ];
    let clients: Vec<Client> = hostile
        .iter()
        .map(|id| Client::accepted(balancer.address, &Connect::new(id)))
        .collect();
    until_relayed(&balancer.running, hostile.len());
    for (id, client) in hostile.iter().zip(&clients) {
        let found = find(&balancer.running, id).connections;
        let addresses: Vec<_> = found.iter().map(|found| found.client).collect();
        assert_eq!(addresses, [client.address()], "{}", id.escape_ascii());
        assert!(!found[0].client_id.to_string().contains(['\n', '\u{202e}']));
    }
}

#[test]
fn two_connections_of_one_id_are_both_found() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    // No node here takes a session over.
    let twice = ["twice", "once", "twice", "also once"].map(str::to_owned);
    let mut clients = all_accepted(&balancer, &twice);
    until_relayed(&balancer.running, 4);
    let handle = &balancer.running;
    assert_eq!(find(handle, "twice").connections.len(), 2);
    let both = block_on(handle.connected_twice()).expect("all workers run");
    assert_eq!(ids(&both), ["twice", "twice"]);
    let number = find(handle, "twice").connections[0].number;
    assert_eq!(
        block_on(handle.close(Selector::Connection(number))).expect("all workers run"),
        1
    );
    wait::until("one is left", || find(handle, "twice").connections.len() == 1);
    assert!(block_on(handle.connected_twice()).expect("all workers run").is_empty());
    assert_eq!(
        block_on(handle.close(Selector::client_id(b"once"))).expect("all workers run"),
        1
    );
    assert_eq!(clients[1].end(), End::Fin);
}

#[test]
fn of_a_client_that_is_not_here_its_home_and_its_last_end_are_known() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let handle = &balancer.running;
    let id = cluster.id_at_home(1, "gone");
    let never = find(handle, &id);
    assert!(never.connections.is_empty() && never.last_end.is_none());
    assert_eq!(never.home.as_deref(), Some("node1"));
    let connect = Connect::new(&id);
    let client = Client::accepted(balancer.address, &connect);
    let address = client.address();
    cluster.holder(&connect.bytes()).1.fin();
    wait::until("it is gone", || find(handle, &id).last_end.is_some());
    let found = find(handle, &id);
    let end = found.last_end.expect("it has ended");
    assert!(found.connections.is_empty());
    assert_eq!((end.cause.name(), end.client), ("node_closed", address));
    assert_eq!((end.node.as_deref(), end.route), (Some("node1"), Some(Decision::Home)));
    // Also if no node has ever accepted it.
    cluster.nodes[1].answer(Answer::Code(5));
    let refused = Connect::new(cluster.id_at_home(1, "refused"));
    let mut client = Client::to(balancer.address);
    client.send(&refused.bytes());
    client.expect(&packets::connack(4, 5));
    drop(client);
    wait::until("it is refused", || find(handle, &refused.client_id).last_end.is_some());
    let end = find(handle, &refused.client_id).last_end.expect("it has ended");
    assert_eq!(end.cause.name(), "refused_by_node");
}

#[test]
fn a_client_that_was_placed_is_said_to_be() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let id = cluster.id_at_home(0, "placed");
    cluster.nodes[0].answer(Answer::Code(3));
    let _client = Client::accepted(balancer.address, &Connect::new(&id).persistent());
    until_relayed(&balancer.running, 1);
    let found = find(&balancer.running, &id);
    assert_eq!(
        (found.home.as_deref(), found.placement.as_deref()),
        (Some("node0"), Some("node1"))
    );
    let [status] = &found.connections[..] else {
        panic!("one connection: {found:?}");
    };
    assert_eq!((&*status.node, status.route), ("node1", Some(Decision::Spill)));
    assert_eq!(status.home.as_deref(), Some("node0"));
}

#[test]
fn a_list_has_each_client_that_stays_once_while_others_come_and_go() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let handle = &balancer.running;
    let stay: Vec<String> = (0..150).map(|number| format!("stays-{number}")).collect();
    let mut go: Vec<Client> = Vec::new();
    let mut clients = Vec::new();
    for (number, id) in stay.iter().enumerate() {
        clients.push(Client::accepted(balancer.address, &Connect::new(id)));
        let goes = format!("goes-{number}");
        go.push(Client::accepted(balancer.address, &Connect::new(goes)));
    }
    until_relayed(handle, 300);
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut cursor = None;
    let mut pages = 0;
    loop {
        let page = block_on(handle.clients(&ClientFilter::default(), cursor, 7)).expect("all workers run");
        assert!(page.clients.len() <= 7);
        for client in page.clients {
            *seen.entry(client.client_id.to_string()).or_default() += 1;
        }
        pages += 1;
        // Their places are taken by the next ones.
        drop(go.pop());
        let comes = format!("comes-{pages}");
        clients.push(Client::accepted(balancer.address, &Connect::new(comes)));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert!(pages >= 22, "{pages} pages");
    for id in stay {
        assert_eq!(seen.get(&id), Some(&1), "{id}");
    }
}

#[test]
fn a_list_has_those_that_its_filter_includes_and_no_other() {
    let cluster = Cluster::of(2);
    let text = toml(
        &cluster,
        "name = \"one\"",
        "[[listeners]]\nname = \"two\"\naddress = \"127.0.0.1:0\"\n",
    );
    let balancer = Balancer::of(&text);
    let handle = &balancer.running;
    let addresses = handle.addresses();
    let of = |name: &str| handle.listeners().iter().position(|listener| listener.name == name);
    let at = |name: &str| addresses[of(name).expect("a listener")];
    let near = IpAddr::from([127, 0, 0, 7]);
    let mut clients = Vec::new();
    let mut by_node = [Vec::new(), Vec::new()];
    for (node, ids) in by_node.iter_mut().enumerate() {
        *ids = cluster.ids_at_home(node, "filter", 5);
        for id in &*ids {
            clients.push(Client::accepted(at("one"), &Connect::new(id)));
        }
    }
    let mut other = Client::from(near, at("two"));
    other.send(&Connect::new("elsewhere").bytes());
    other.expect(&packets::connack(4, 0));
    until_relayed(handle, 11);
    let listed = |filter: &ClientFilter| ids(&list(handle, filter, 3));
    let all = ClientFilter::default();
    let on = |node: usize| {
        let on = ClientFilter {
            node: Some(format!("node{node}")),
            id_prefix: b"filter-".to_vec(),
            ..all.clone()
        };
        listed(&on)
    };
    assert_eq!(on(0), sorted(by_node[0].clone()));
    assert_eq!(on(1), sorted(by_node[1].clone()));
    let listener = |name: &str| ClientFilter {
        listener: Some(name.to_owned()),
        ..all.clone()
    };
    assert_eq!(listed(&listener("two")), ["elsewhere"]);
    assert_eq!(listed(&listener("one")).len(), 10);
    assert_eq!(listed(&listener("none")).len(), 0);
    let network = ClientFilter {
        network: Some("127.0.0.7/32".parse().expect("a network")),
        ..all.clone()
    };
    assert_eq!(listed(&network), ["elsewhere"]);
    let prefix = ClientFilter {
        id_prefix: by_node[0][0].clone().into_bytes(),
        ..all.clone()
    };
    assert!(listed(&prefix).contains(&by_node[0][0]) && listed(&prefix).len() < 11);
    let off_home = ClientFilter {
        off_home: true,
        ..all.clone()
    };
    assert_eq!(listed(&off_home).len(), 0);
    block_on(handle.drain_node("node0")).expect("a node");
    let away = cluster.id_at_home(0, "away");
    clients.push(Client::accepted(at("one"), &Connect::new(&away)));
    wait::until("it is relayed", || listed(&all).len() == 12);
    assert_eq!(listed(&off_home), [away]);
    let nobody = ClientFilter {
        node: Some("nobody".to_owned()),
        ..all
    };
    assert!(block_on(handle.clients(&nobody, None, 10)).is_err());
}

#[test]
fn a_quiet_client_sends_pings_and_receives_nothing_but_their_answers() {
    const QUIET: Duration = Duration::from_secs(3);
    let cluster = Cluster::of(1);
    let balancer = Balancer::start(&cluster);
    let connects = ["quiet", "served", "silent"].map(Connect::new);
    let mut clients = connects
        .each_ref()
        .map(|connect| Client::accepted(balancer.address, connect));
    let nodes = connects.each_ref().map(|connect| cluster.holder(&connect.bytes()).1);
    let filter = ClientFilter {
        quiet_for: Some(QUIET),
        ..ClientFilter::default()
    };
    let publish = packets::publish(b"x");
    let mut listed = Vec::new();
    let due = Instant::now() + 3 * wait::DEADLINE;
    while ids(&listed) != ["quiet"] && Instant::now() < due {
        // Each of them is answered. The last one says nothing, so its node is not to blame.
        for number in 0..2 {
            clients[number].send(PINGREQ);
            nodes[number].send(PINGRESP);
            clients[number].expect(PINGRESP);
        }
        nodes[1].send(&publish);
        clients[1].expect(&publish);
        // No more than two answers between two sweeps.
        std::thread::park_timeout(Duration::from_millis(700));
        listed = list(&balancer.running, &filter, 10);
    }
    assert_eq!(ids(&listed), ["quiet"]);
    assert!(
        listed[0].message_silence >= QUIET && listed[0].client_silence < QUIET,
        "{listed:?}"
    );
}

#[test]
fn a_client_that_reconnects_in_a_loop_is_counted() {
    let cluster = Cluster::of(1);
    let balancer = Balancer::start(&cluster);
    for _ in 0..20 {
        Client::accepted(balancer.address, &Connect::new("loop"));
    }
    Client::accepted(balancer.address, &Connect::new("once"));
    let loops = |at_least| block_on(balancer.running.reconnecting(at_least)).expect("all workers run");
    wait::until("all have ended", || {
        loops(1).iter().map(|found| found.count).sum::<usize>() == 21
    });
    let found = loops(10);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].last.client_id.kept(), found[0].count), (&b"loop"[..], 20));
}

#[test]
fn rebalance_brings_home_those_whose_home_is_back_and_no_other() {
    let cluster = Cluster::of(3);
    let balancer = Balancer::start(&cluster);
    let handle = &balancer.running;
    // One is where it is because its home has refused it.
    let placed = cluster.id_at_home(0, "placed");
    cluster.nodes[0].answer(Answer::Code(3));
    let placed = Connect::new(&placed).persistent();
    let mut placed_client = Client::accepted(balancer.address, &placed);
    cluster.answer(&Answer::Accept);
    let at_home: Vec<String> = (0..3).flat_map(|node| cluster.ids_at_home(node, "home", 5)).collect();
    let mut home_clients = all_accepted(&balancer, &at_home);
    for node in ["node0", "node1"] {
        block_on(handle.drain_node(node)).expect("a node");
    }
    let away = [cluster.ids_at_home(0, "away", 12), cluster.ids_at_home(1, "away", 7)];
    let mut away_clients = away.each_ref().map(|ids| all_accepted(&balancer, ids));
    until_relayed(handle, 1 + 15 + 19);
    let rebalance = |node| block_on(handle.rebalance(node, 1_000)).expect("all workers run");
    assert_eq!(rebalance(None), 0, "their homes are not back");
    for node in ["node0", "node1"] {
        block_on(handle.undrain_node(node)).expect("a node");
    }
    assert_eq!(rebalance(Some("node2")), 0);
    assert_eq!(rebalance(Some("node1")), 7);
    assert!(block_on(handle.rebalance(Some("nobody"), 1)).is_err());
    for client in &mut away_clients[1] {
        assert_eq!(client.end(), End::Fin);
    }
    assert_eq!(rebalance(None), 12);
    for (id, client) in away[0].iter().zip(&mut away_clients[0]) {
        assert_eq!(client.end(), End::Fin);
        let again = Connect::new(id).keep_alive(7);
        Client::accepted(balancer.address, &again);
        assert_eq!(cluster.holders(&again.bytes()), [0], "{id}");
    }
    let connects = at_home.iter().map(Connect::new).chain([placed]);
    for (connect, client) in connects.zip(home_clients.iter_mut().chain([&mut placed_client])) {
        cluster.holder(&connect.bytes()).1.send(b"still here");
        client.expect(b"still here");
    }
}

#[test]
fn a_rebalance_that_is_dropped_leaves_the_others_where_they_are() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let handle = &balancer.running;
    block_on(handle.drain_node("node0")).expect("a node");
    let away = cluster.ids_at_home(0, "away", 20);
    let mut clients = all_accepted(&balancer, &away);
    until_relayed(handle, 20);
    block_on(handle.undrain_node("node0")).expect("a node");
    // At one a second, it is at the very beginning when it is dropped.
    let dropped =
        block_on(async { tokio::time::timeout(Duration::from_millis(1_200), handle.rebalance(None, 1)).await });
    assert!(dropped.is_err(), "it takes 20 s: {dropped:?}");
    let mut left = 0;
    for (id, client) in away.iter().zip(&mut clients) {
        let connections = find(handle, id).connections;
        if let [status] = &connections[..] {
            assert_eq!(&*status.node, "node1");
            client.send(PINGREQ);
            left += 1;
        }
    }
    assert!(left >= 15, "{left} are left");
}

#[test]
fn the_clients_of_a_node_that_is_down_are_closed_and_no_other() {
    let cluster = Cluster::of(2);
    let tables = format!("[health]\n{QUICK}\non_down_rate = 100\n[timeouts]\ngreet = \"1s\"");
    let mut program = Program::start(&cluster, &tables);
    let there: [Vec<String>; 2] = [0, 1].map(|node| cluster.ids_at_home(node, "there", 20));
    let accepted = |id: &String| Client::accepted(program.address, &Connect::new(id));
    let mut clients = there.each_ref().map(|ids| ids.iter().map(accepted).collect::<Vec<_>>());
    // It is frozen: its connections stay, and nothing is answered.
    cluster.nodes[0].answer(Answer::Stall);
    let finds_out = Connect::new(cluster.id_at_home(0, "finds out"));
    let mut client = Client::to(program.address);
    client.send(&finds_out.bytes());
    client.expect(&packets::connack(4, 0));
    for (id, client) in there[0].iter().zip(&mut clients[0]) {
        assert_eq!(client.end(), End::Fin);
        let again = Connect::new(id).keep_alive(7);
        Client::accepted(program.address, &again);
        assert_eq!(cluster.holders(&again.bytes()), [1], "{id}");
    }
    for (id, client) in there[1].iter().zip(&mut clients[1]) {
        cluster.holder(&Connect::new(id).bytes()).1.send(b"still here");
        client.expect(b"still here");
    }
    program.until_ended_with("node_down", 20);
    program.until_said("connections to a node that is down closed");
    program.signal(rustix::process::Signal::INT);
    assert_eq!(program.exit_code(), Some(0));
    assert_eq!(program.ended_with("node_down"), 20);
}

#[test]
fn with_keep_the_clients_of_a_node_that_is_down_stay_until_a_reload_says_otherwise() {
    let cluster = Cluster::of(2);
    let tables = |on_down: &str| format!("[health]\n{QUICK}\non_down = \"{on_down}\"\n[timeouts]\ngreet = \"1s\"");
    let program = Program::start(&cluster, &tables("keep"));
    let ids = cluster.ids_at_home(0, "there", 5);
    let accepted = |id: &String| Client::accepted(program.address, &Connect::new(id));
    let mut clients: Vec<Client> = ids.iter().map(accepted).collect();
    cluster.nodes[0].answer(Answer::Stall);
    let mut client = Client::to(program.address);
    client.send(&Connect::new(cluster.id_at_home(0, "finds out")).bytes());
    client.expect(&packets::connack(4, 0));
    program.until_said("node is down");
    for (id, client) in ids.iter().zip(&mut clients) {
        cluster.holder(&Connect::new(id).bytes()).1.send(b"still here");
        client.expect(b"still here");
    }
    program.reload(&toml(&cluster, "", &tables("close")));
    for client in &mut clients {
        assert_eq!(client.end(), End::Fin);
    }
    program.until_ended_with("node_down", 5);
}

#[test]
fn where_every_node_is_down_nobody_is_closed() {
    let cluster = Cluster::of(2);
    let tables = format!("[health]\n{QUICK}\n[timeouts]\ngreet = \"1s\"");
    let program = Program::start(&cluster, &tables);
    let ids: Vec<String> = (0..10).map(|number| format!("there-{number}")).collect();
    let accepted = |id: &String| Client::accepted(program.address, &Connect::new(id));
    let mut clients: Vec<Client> = ids.iter().map(accepted).collect();
    // Refused by all at once, so that neither is up while the other is down.
    cluster.answer(&Answer::Stall);
    let mut asking = Client::to(program.address);
    asking.send(&Connect::new("finds out").bytes());
    let down = |line: &serde_json::Value| line["message"] == "node is down";
    wait::until("one is down", || !program.lines(down).is_empty());
    let first = program.lines(down)[0]["node"].as_str().expect("a node").to_owned();
    wait::until("both are down", || program.lines(down).len() == 2);
    for (id, client) in ids.iter().zip(&mut clients) {
        // Those of the first may have been closed while the other was up.
        if format!("node{}", cluster.home(id)) != first {
            cluster.holder(&Connect::new(id).bytes()).1.send(b"still here");
            client.expect(b"still here");
        }
    }
}

#[test]
fn a_thousand_connections_are_closed_evenly() {
    raise_descriptor_limit();
    const CLIENTS: usize = 1_000;
    const RATE: u32 = 500;
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let handle = &balancer.running;
    block_on(handle.drain_node("node0")).expect("a node");
    let away = cluster.ids_at_home(0, "even", CLIENTS);
    let _clients = all_accepted(&balancer, &away);
    until_relayed(handle, CLIENTS);
    block_on(handle.undrain_node("node0")).expect("a node");
    let began = Instant::now();
    assert_eq!(
        block_on(handle.rebalance(None, RATE)).expect("all workers run"),
        CLIENTS as u64
    );
    // Never faster than the rate; how much slower is the machine's.
    assert!(began.elapsed() >= Duration::from_millis(1_950), "{:?}", began.elapsed());
}

/// What the admin socket of this program answers.
fn asked(program: &Program, method: &str, target: &str, body: &str) -> (u16, Value) {
    let response = ask_socket(program.socket(), method, target, body);
    let value = serde_json::from_str(&response.body);
    (response.status, value.unwrap_or_else(|_| panic!("{response:?}")))
}

/// What `ctl` prints.
#[track_caller]
fn said(program: &Program, arguments: &[&OsStr]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.arg("ctl").arg("--socket").arg(program.socket()).args(arguments);
    let output = command.output().expect("the program");
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn a_client_is_shown_and_closed_by_id_whatever_is_in_it() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    // The longest there is, of which each byte is encoded.
    let longest = b"\xc3\xa9".repeat(32_767);
    let almost = [&longest[2..], b"x"].concat();
    let ids: [&[u8]; 8] = [
        b"plain",
        b"with/slash ?#%&",
        b"\xff\xfe\n",
        "<b>\u{202e}\u{1b}[31m".as_bytes(),
        b"\"quoted\"",
        &[b'x'; 10_000],
        &[&longest[..], b"x"].concat(),
        // The same beginning.
        &almost,
    ];
    assert_eq!(ids[6].len(), 65_535);
    let mut clients: Vec<Client> = ids
        .iter()
        .map(|id| Client::accepted(program.address, &Connect::new(id)))
        .collect();
    wait::until("all are relayed", || {
        let (_, list) = asked(&program, "GET", "/api/v1/clients", "");
        list["clients"].as_array().expect("a list").len() == ids.len()
    });
    for (id, client) in ids.iter().zip(&mut clients) {
        let argument = OsStr::from_bytes(id);
        let shown = said(&program, &["--json".as_ref(), "client".as_ref(), argument]);
        let found: Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(found["connections"][0]["client"], client.address().to_string());
        assert_eq!(found["home"], format!("node{}", cluster.home(id)));
        let text = said(&program, &["client".as_ref(), argument]);
        assert!(text.contains(&client.address().to_string()), "{text}");
        for output in [&shown, &text] {
            assert!(
                !output.contains(['\u{202e}', '\u{1b}']) && output.len() < 2_000,
                "{output}"
            );
        }
        assert_eq!(said(&program, &["close".as_ref(), argument]), "connections closed: 1\n");
        assert_eq!(client.end(), End::Fin);
        let last = program.ended(client.address());
        assert_eq!(last["cause"], "closed");
        let text = said(&program, &["client".as_ref(), argument]);
        assert!(text.contains("connected  no") && text.contains("closed "), "{text}");
    }
    let (status, refused) = asked(&program, "POST", "/api/v1/clients/nobody/close", "");
    assert_eq!(
        (status, &refused["error"]),
        (404, &json!("there is no client nobody now"))
    );
    let changes = program.at_least(ids.len(), |line| line["change"] == "close");
    assert_eq!(changes.len(), ids.len());
}

#[test]
fn the_list_of_clients_is_asked_for_with_a_query() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let ids: Vec<String> = (0..25).map(|number| format!("a&b={number}")).collect();
    let connect = |id: &String| Client::accepted(program.address, &Connect::new(id));
    let _clients: Vec<Client> = ids.iter().chain(&["other".to_owned()]).map(connect).collect();
    let get = |query: &str| asked(&program, "GET", &format!("/api/v1/clients{query}"), "");
    wait::until("all are relayed", || {
        get("").1["clients"].as_array().expect("a list").len() == 26
    });
    let (_, page) = get("?limit=20&prefix=a%26b%3D");
    assert_eq!(page["clients"].as_array().expect("a list").len(), 20);
    let next = page["next"].as_str().expect("there is more");
    let (_, rest) = get(&format!("?limit=20&prefix=a%26b%3D&cursor={next}"));
    assert_eq!(
        (rest["clients"].as_array().expect("a list").len(), &rest["next"]),
        (5, &Value::Null)
    );
    let on = |node: usize| {
        get(&format!("?node=node{node}")).1["clients"]
            .as_array()
            .expect("a list")
            .len()
    };
    assert_eq!(on(0) + on(1), 26);
    assert_eq!(
        get("?network=127.0.0.0/8").1["clients"]
            .as_array()
            .expect("a list")
            .len(),
        26
    );
    assert_eq!(get("?network=10.0.0.1").1["clients"], json!([]));
    for (query, words) in [
        ("?limit=x", "limit"),
        ("?limit=-1", "limit"),
        ("?colour=red", "unknown field `colour`"),
        ("?cursor=1", "not a cursor"),
        ("?network=everywhere", "no address and no network"),
        ("?off_home=perhaps", "true or false"),
        ("?quiet=1h", "quiet"),
        ("?listener=%ff", "not UTF-8"),
    ] {
        let (status, refused) = get(query);
        let error = refused["error"].as_str().expect("an error");
        assert!(status == 400 && error.contains(words), "{query}: {status} {error}");
    }
    assert_eq!(get("?node=nobody").0, 404);
    assert_eq!(
        get("?cursor=65535-4294967295").1["clients"],
        json!([]),
        "a cursor of nowhere"
    );
    let table = said(&program, &["clients".as_ref(), "--prefix".as_ref(), "a&b=1".as_ref()]);
    let shown: Vec<_> = table
        .lines()
        .skip(1)
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert_eq!(shown.len(), 11, "{table}");
    assert!(shown.iter().all(|id| id.starts_with("a&b=1")));
    let table = said(&program, &["clients".as_ref(), "--limit".as_ref(), "3".as_ref()]);
    assert_eq!(table.lines().count(), 4, "{table}");
}

#[test]
fn an_operator_brings_clients_home_and_may_stop_half_way() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    said(&program, &["drain".as_ref(), "node0".as_ref()]);
    let away = cluster.ids_at_home(0, "away", 30);
    let connect = |id: &String| Client::accepted(program.address, &Connect::new(id));
    let mut clients: Vec<Client> = away.iter().map(connect).collect();
    let off_home = || {
        let (_, list) = asked(&program, "GET", "/api/v1/clients?off_home=true", "");
        list["clients"].as_array().expect("a list").len()
    };
    wait::until("all are relayed", || off_home() == 30);
    said(&program, &["undrain".as_ref(), "node0".as_ref()]);
    let (status, started) = asked(&program, "POST", "/api/v1/nodes/node0/rebalance", "{\"rate\":1}");
    assert_eq!(status, 200);
    assert_eq!(
        (&started["node"], &started["selected"], &started["is_running"]),
        (&json!("node0"), &json!(30), &json!(true))
    );
    said(&program, &["rebalance".as_ref(), "--stop".as_ref()]);
    wait::until("it is stopped", || {
        asked(&program, "GET", "/api/v1/rebalance", "").1["is_running"] == false
    });
    let left = off_home();
    assert!(left >= 15, "{left} are left");
    let text = said(
        &program,
        &[
            "rebalance".as_ref(),
            "--rate".as_ref(),
            "500/s".as_ref(),
            "--wait".as_ref(),
        ],
    );
    assert!(text.ends_with(&format!(" of {left} connections\n")), "{text}");
    for client in &mut clients {
        assert_eq!(client.end(), End::Fin);
    }
    assert_eq!(off_home(), 0);
    for body in ["{\"rate\":0}", "{\"rate\":-1}", "{\"speed\":1}", "nonsense"] {
        assert_eq!(asked(&program, "POST", "/api/v1/rebalance", body).0, 400, "{body}");
    }
    assert_eq!(asked(&program, "POST", "/api/v1/nodes/nobody/rebalance", "").0, 404);
}

#[test]
fn clients_in_trouble_are_listed() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let connect = |id: &str| Client::accepted(program.address, &Connect::new(id));
    let _twice = ["twice", "twice", "once"].map(connect);
    for _ in 0..7 {
        let client = connect("loop");
        let address = client.address();
        drop(client);
        program.ended(address);
    }
    let (_, twice) = asked(&program, "GET", "/api/v1/connected-twice", "");
    let of = |list: &Value| {
        let clients = list["clients"].as_array().expect("a list").iter();
        clients.map(|client| client["client_id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(&twice), ["twice", "twice"]);
    let text = said(&program, &["clients".as_ref(), "--twice".as_ref()]);
    assert_eq!(text.lines().count(), 3, "{text}");
    let (_, loops) = asked(&program, "GET", "/api/v1/reconnecting", "");
    let loops = loops["reconnecting"].as_array().expect("a list");
    assert_eq!(loops.len(), 1);
    assert_eq!(
        (&loops[0]["count"], &loops[0]["last_end"]["client_id"]),
        (&json!(7), &json!("loop"))
    );
    let text = said(&program, &["clients".as_ref(), "--reconnecting".as_ref(), "8".as_ref()]);
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn no_order_holds_up_a_worker_for_more_than_256_connections_at_a_time() {
    raise_descriptor_limit();
    const CLIENTS: usize = 1_000;
    const AT_ONCE: u64 = 256;
    let cluster = Cluster::of(1);
    let tables = format!("{ADMIN}[log]\nlevel = \"debug\"\n");
    let program = Program::start(&cluster, &tables);
    let connected = |number| Client::accepted(program.address, &Connect::new(format!("client-{number}")));
    let clients: Vec<Client> = (0..CLIENTS).map(connected).collect();
    wait::until("all are listed", || {
        let (_, list) = asked(&program, "GET", "/api/v1/clients?limit=1000", "");
        list["clients"].as_array().is_some_and(|list| list.len() == CLIENTS)
    });
    let (status, answer) = asked(&program, "POST", "/api/v1/nodes/node0/close", "{}");
    assert_eq!(status, 200, "{answer}");
    program.until_ended_with("closed", CLIENTS);
    drop(clients);
    for order in ["list", "select", "close"] {
        let is_of = |line: &Value| line["message"] == "order carried out" && line["order"] == order;
        let number = |line: &Value, field: &str| line[field].as_u64().expect("a number");
        // On one of the two workers at least, which has half of them or more.
        program.at_least(1, |line| is_of(line) && number(line, "rows") > AT_ONCE);
        for line in program.lines(is_of) {
            assert!(number(&line, "rows") <= number(&line, "slices") * AT_ONCE, "{line}");
        }
    }
}
