//! SIGHUP: all or nothing, and nobody is cut.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::Value;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Balancer, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::own_address;
use crate::packets::{self, Connect};
use crate::wait;

/// A free port of an address that nobody else takes ports of.
fn free_address() -> SocketAddr {
    let bound = TcpListener::bind((own_address(), 0)).expect("a free port");
    bound.local_addr().expect("an address")
}

/// A further listener.
fn listener(name: &str, address: SocketAddr) -> String {
    format!("\n[[listeners]]\nname = \"{name}\"\naddress = \"{address}\"\n")
}

/// Says something both ways.
#[track_caller]
fn talk(client: &mut Client, node: &crate::node::Connection) {
    let heard = node.received().len();
    client.send(&packets::publish(b"to the node"));
    node.expect_count(heard + packets::publish(b"to the node").len());
    node.send(b"to the client");
    client.expect(b"to the client");
}

#[test]
fn an_invalid_file_changes_nothing_and_the_log_says_where_it_is_wrong() {
    let cluster = Cluster::of(2);
    let good = toml(&cluster, "", ADMIN);
    let program = Program::of(&good);
    let connect = Connect::new("stays");
    let mut client = Client::accepted(program.address, &connect);
    let (_, node) = cluster.holder(&connect.bytes());
    // Each has something that could be taken, and something that cannot.
    let bad: [(String, &str); 4] = [
        (good.replace("workers = 2", "workers = 2\n[drain]\nrate = 0"), ":3:8"),
        (good.replace("workers = 2", "workers = 2\nworker = 3"), ":2:1"),
        ("listeners = [".to_owned(), "remora.toml:"),
        (String::new(), ""),
    ];
    for (number, (text, position)) in bad.iter().enumerate() {
        program.reload_in_vain(text);
        let errors = program.lines(|line| line["level"] == "ERROR" && !line["file"].is_null());
        let file = errors
            .last()
            .and_then(|line| line["file"].as_str())
            .expect("a line with the file");
        assert!(
            file.contains("remora.toml") && file.contains(position),
            "{number}: {file}"
        );
        talk(&mut client, &node);
        Client::accepted(program.address, &Connect::new("new"));
    }
    let metrics = Metrics::of(program.admin());
    assert_eq!(metrics.value("remora_config_reloads_total{result=\"failure\"}"), 4.0);
    assert_eq!(metrics.value("remora_config_reloads_total{result=\"success\"}"), 0.0);
    assert_eq!(metrics.value("remora_config_last_reload_successful"), 0.0);
    program.reload(&good);
    let metrics = Metrics::of(program.admin());
    assert_eq!(metrics.value("remora_config_reloads_total{result=\"success\"}"), 1.0);
    assert_eq!(metrics.value("remora_config_last_reload_successful"), 1.0);
}

#[test]
fn a_listener_that_cannot_be_opened_leaves_everything_as_it_was() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, "");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().map(|address| (taken, address)).expect("an address");
    let free = free_address();
    let wish = toml(&cluster, "", "[limits]\nconnections = 1") + &listener("free", free) + &listener("taken", taken.1);
    program.configure(&wish);
    program.signal(Signal::HUP);
    program.until_said("configuration rejected, nothing changed");
    let refused = program.lines(|line| line["level"] == "ERROR" && !line["file"].is_null());
    let line = 1 + wish
        .lines()
        .position(|line| line.contains(&taken.1.to_string()))
        .expect("the address");
    let file = refused[0]["file"].as_str().expect("where");
    assert!(file.contains(&format!("remora.toml:{line}:")), "{file}");
    let message = refused[0]["message"].as_str().expect("what");
    assert!(message.contains(&format!("{} is in use", taken.1)), "{message}");
    let hint = refused[0]["hint"].as_str().expect("what to do");
    assert!(hint.contains(&std::process::id().to_string()), "who has it: {hint}");
    assert!(TcpStream::connect(free).is_err(), "all or nothing");
    let _clients = [0, 1].map(|_| Client::accepted(program.address, &Connect::new("in")));
}

#[test]
fn a_listener_that_is_added_opens_and_one_that_is_removed_refuses_nobody_who_came_before() {
    let cluster = Cluster::of(2);
    let config = toml(&cluster, "", ADMIN);
    let program = Program::of(&config);
    let address = free_address();
    let opened = program.reload(&(config.clone() + &listener("second", address)));
    assert_eq!(opened, [program.address, address]);
    let connect = Connect::new("lives on");
    let mut client = Client::accepted(address, &connect);
    let (_, node) = cluster.holder(&connect.bytes());

    // Clients come all the time: each whose handshake succeeded is served.
    let (closed, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (closed, served) = (&closed, &served);
            scope.spawn(move || {
                for number in 0.. {
                    if closed.load(Ordering::Relaxed) {
                        break;
                    }
                    // A refused connection is what a closed listener is.
                    let Ok(stream) = TcpStream::connect(address) else {
                        break;
                    };
                    let mut client = Client::of(stream);
                    client.send(&Connect::new(format!("{thread}-{number}")).bytes());
                    client.expect(&packets::connack(4, 0));
                    client.reset();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait::until("clients come", || served.load(Ordering::Relaxed) > 100);
        assert_eq!(program.reload(&config), [program.address]);
        closed.store(true, Ordering::Relaxed);
    });
    assert!(TcpStream::connect(address).is_err(), "it is closed");
    talk(&mut client, &node);
    // It is shown for as long as it has clients.
    let series = "remora_connections{listener=\"second\"}";
    wait::until("the others have left", || {
        Metrics::of(program.admin()).value(series) == 1.0
    });
    client.reset();
    program.ended(client.address());
    assert!(!Metrics::of(program.admin()).names().contains(&series));
    assert!(!program.lines(|line| line["message"] == "listener closed").is_empty());
}

#[test]
fn a_listener_that_moves_keeps_its_name_and_its_counters() {
    let cluster = Cluster::of(1);
    let config = |address| toml(&cluster, "", ADMIN) + &listener("mqtt", address);
    let (before, after, last) = (free_address(), free_address(), free_address());
    let program = Program::of(&config(before));
    let _stays = Client::accepted(before, &Connect::new("stays"));
    program.reload(&config(after));
    let _comes = Client::accepted(after, &Connect::new("comes"));
    let metrics = Metrics::of(program.admin());
    assert_eq!(metrics.value("remora_connections{listener=\"mqtt\"}"), 2.0);
    assert_eq!(metrics.value("remora_accepts_total{listener=\"mqtt\"}"), 2.0);
    // After a scrape each listener is still the one that it was.
    program.reload(&config(last));
    Client::accepted(last, &Connect::new("comes"));
    let metrics = Metrics::of(program.admin());
    assert_eq!(metrics.value("remora_accepts_total{listener=\"mqtt\"}"), 3.0);
    assert_eq!(metrics.value("remora_accepts_total{listener=\"127.0.0.1:0\"}"), 0.0);
}

#[test]
fn a_removed_node_keeps_its_connections_under_its_name() {
    let cluster = Cluster::of(3);
    let all = toml(&cluster, "", ADMIN);
    let program = Program::of(&all);
    let connect = Connect::new(cluster.id_at_home(2, "leaving"));
    let mut client = Client::accepted(program.address, &connect);
    let (number, node) = cluster.holder(&connect.bytes());
    assert_eq!(number, 2);
    let without = all.replace(&cluster.nodes[2].toml(100), "");
    assert_ne!(without, all);
    program.reload(&without);
    talk(&mut client, &node);
    let series = "remora_node_connections{node=\"node2\"}";
    assert_eq!(Metrics::of(program.admin()).value(series), 1.0);
    // Nobody new comes there.
    let dials = cluster.nodes[2].dials();
    for id in cluster.ids_at_home(2, "other", 10) {
        Client::accepted(program.address, &Connect::new(id));
    }
    assert_eq!(cluster.nodes[2].dials(), dials);
    client.fin();
    node.end();
    node.fin();
    assert_eq!(program.ended(client.address())["node"], "node2");
    assert!(!Metrics::of(program.admin()).names().contains(&series));
    // Back again, it has its clients again.
    program.reload(&all);
    Client::accepted(program.address, &connect);
    assert_eq!(cluster.nodes[2].dials(), dials + 1);
}

#[test]
fn nodes_are_added_moved_and_reweighted() {
    let cluster = Cluster::of(3);
    let whole = toml(&cluster, "", "");
    let two = whole.replace(&cluster.nodes[2].toml(100), "");
    let program = Program::of(&two);
    let ids = cluster.ids_at_home(2, "home", 20);
    let connect_all = || {
        for id in &ids {
            Client::accepted(program.address, &Connect::new(id));
        }
    };
    connect_all();
    assert_eq!(cluster.nodes[2].dials(), 0);
    program.reload(&whole);
    connect_all();
    assert_eq!(cluster.nodes[2].dials(), 20, "an added node has its clients");

    // The name at another address: the clients follow the name.
    let elsewhere = crate::node::FakeNode::start("node2");
    let moved = whole.replace(&cluster.nodes[2].address.to_string(), &elsewhere.address.to_string());
    program.reload(&moved);
    connect_all();
    assert_eq!((cluster.nodes[2].dials(), elsewhere.dials()), (20, 20));

    // Next to no weight: next to nobody.
    program.reload(&moved.replace(&elsewhere.toml(100), &elsewhere.toml(1)));
    let before = elsewhere.dials();
    connect_all();
    let stayed = elsewhere.dials() - before;
    assert!(stayed <= 4, "{stayed} of 20 stayed with a hundredth of the weight");
}

#[test]
fn keys_that_take_a_restart_are_named_and_keep_their_value() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let wish = toml(
        &cluster,
        "",
        "[affinity]\nseed = 7\nkey = \"username\"\nplacements_max = 5\nplacement_age_max = \"1h\"\n[admin]\nenabled = false\n[log]\nlevel = \"debug\"\noutput = \"stdout\"",
    )
    .replace("workers = 2", "workers = 3");
    program.reload(&wish);
    let named = program.lines(|line| !line["key"].is_null());
    let named: Vec<&str> = named.iter().filter_map(|line| line["key"].as_str()).collect();
    assert_eq!(
        named,
        [
            "workers",
            "affinity.key",
            "affinity.seed",
            "affinity.placements_max",
            "affinity.placement_age_max",
            "admin",
            "log.output"
        ]
    );
    // The old seed and the old key: clients are where they were.
    for node in 0..2 {
        let id = cluster.id_at_home(node, "old");
        Client::accepted(program.address, &Connect::new(id).username("somebody"));
        assert_eq!(cluster.nodes[node].dials(), 1);
    }
    assert_eq!(
        Metrics::of(program.admin()).value("remora_config_last_reload_successful"),
        1.0
    );
    // And it is said again as long as it is so.
    program.reload(&wish);
    assert_eq!(program.lines(|line| !line["key"].is_null()).len(), 14);
}

/// Tells other threads to end, also where this one panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_hundred_reloads_cut_nobody_and_refuse_nobody() {
    crate::raise_descriptor_limit();
    const CLIENTS: usize = 400;
    const RELOADS: usize = 100;
    let cluster = Cluster::of(3);
    let all = toml(&cluster, "", ADMIN);
    let two = all.replace(&cluster.nodes[2].toml(100), "");
    // A listener takes a second to close.
    let more = two.clone() + &listener("more", free_address());
    let program = Program::of(&all);
    let mut talking: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let connect = Connect::new(format!("live-{number}"));
            let client = Client::accepted(program.address, &connect);
            let (_, node) = cluster.holder(&connect.bytes());
            (client, node)
        })
        .collect();
    let done = AtomicBool::new(false);
    let (rounds, news) = std::thread::scope(|scope| {
        let talk_on = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                talking.iter_mut().for_each(|(client, node)| talk(client, node));
                rounds += 1;
            }
            rounds
        });
        let come = scope.spawn(|| {
            let mut news = 0;
            while !done.load(Ordering::Relaxed) {
                let connect = Connect::new(format!("new-{news}"));
                Client::accepted(program.address, &connect).reset();
                news += 1;
            }
            news
        });
        let told = Done(&done);
        for number in 0..RELOADS {
            program.reload(match number % 25 {
                0 => &more,
                number if number % 2 == 0 => &two,
                _ => &all,
            });
        }
        drop(told);
        (
            talk_on.join().expect("all are alive"),
            come.join().expect("none is refused"),
        )
    });
    println!("{RELOADS} reloads: {CLIENTS} clients talked {rounds} times each, {news} came");
    talking.iter_mut().for_each(|(client, node)| talk(client, node));
    let metrics = Metrics::of(program.admin());
    assert_eq!(
        metrics.value("remora_config_reloads_total{result=\"success\"}"),
        RELOADS as f64
    );
    let is_end = |line: &Value| line["message"] == "connection ended";
    let live = |line: &&Value| line["client_id"].as_str().is_some_and(|id| id.starts_with("live-"));
    assert_eq!(program.lines(is_end).iter().filter(live).count(), 0);
    assert!(news > 0);
    let children = format!("/proc/{0}/task/{0}/children", program.process());
    let children = std::fs::read_to_string(children).expect("a process that runs");
    assert_eq!(children, "", "one process does it all");
}

#[test]
fn the_library_reloads_as_the_program_does() {
    let cluster = Cluster::of(2);
    let text = toml(&cluster, "", "");
    let balancer = Balancer::of(&text);
    let parse = |text: &str| remora::config::parse("test.toml", text).expect("no problem");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let address = free_address();
    let wish = (text.clone() + &listener("more", address)).replace("workers = 2", "workers = 1");
    let reloaded = runtime
        .block_on(balancer.running.reload(parse(&wish)))
        .expect("a free port");
    assert_eq!(reloaded.restart, ["workers"]);
    assert_eq!(balancer.running.addresses(), [balancer.address, address]);
    Client::accepted(address, &Connect::new("in"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let wish = text.clone() + &listener("taken", taken.local_addr().expect("an address"));
    let refused = runtime.block_on(balancer.running.reload(parse(&wish)));
    assert!(refused.is_err());
    assert_eq!(balancer.running.addresses(), [balancer.address, address]);
    Client::accepted(address, &Connect::new("still in"));
}
