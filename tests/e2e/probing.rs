//! Probes of nodes that are up: at an interval, within a share of the nodes, and what a failed one says about PROXY headers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use crate::admin_client::{self, Metrics};
use crate::balancer::{ADMIN, Program, toml};
use crate::certificates::{Certificates, NAME};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, own_address};
use crate::packets::{self, Connect};
use crate::tls_front::TlsFront;
use crate::wait;

/// All nodes are probed often, and down after few probes.
const OFTEN: &str = "[health]\ninterval = \"50ms\"\nfall = 3\n";

/// A probe that is not answered fails after 1.5 s.
const SOON: &str = "[timeouts]\ndial = \"1s\"\ngreet = \"500ms\"\n";

/// The value of a metric of node `node`'s MQTT endpoint.
fn of_node(program: &Program, metric: &str, node: usize, label: &str) -> f64 {
    let series = format!("remora_{metric}{{node=\"node{node}\",endpoint=\"mqtt\",{label}}}");
    Metrics::of(program.admin()).value(&series)
}

fn is_down(program: &Program, node: usize) -> bool {
    of_node(program, "node_state", node, "state=\"down\"") == 1.0
}

fn answered(program: &Program, node: usize) -> f64 {
    of_node(program, "probes_total", node, "result=\"answered\"")
}

#[test]
fn a_node_that_hangs_is_found_and_found_again_without_any_client() {
    let cluster = Cluster::of(3);
    let tables = format!("{SOON}{ADMIN}{OFTEN}rise = 2\n");
    let program = Program::start(&cluster, &tables);
    wait::until("all are probed again and again", || {
        (0..3).all(|node| answered(&program, node) >= 3.0)
    });
    cluster.nodes[1].answer(Answer::Stall);
    program.until_said("node is down");
    let line = &program.lines(|line| line["message"] == "node is down")[0];
    assert_eq!((&line["node"], &line["endpoint"]), (&"node1".into(), &"mqtt".into()));
    let before = answered(&program, 1);
    cluster.nodes[1].answer(Answer::Accept);
    program.until_said("node is up again");
    assert!(answered(&program, 1) >= before + 2.0, "it has risen");
    let probes = |node: usize| {
        cluster.nodes[node]
            .connections()
            .iter()
            .all(|c| c.is_probe() || c.received().is_empty())
    };
    assert!((0..3).all(probes), "no client came");
}

#[test]
fn probes_alone_leave_nodes_beyond_the_share_in_use() {
    let cluster = Cluster::of(3);
    let tables = format!("{SOON}{ADMIN}{OFTEN}down_share = 40\n");
    let program = Program::start(&cluster, &tables);
    wait::until("all have answered", || {
        (0..3).all(|node| answered(&program, node) >= 1.0)
    });
    cluster.answer(&Answer::Stall);
    let overruled = || Metrics::of(program.admin()).value("remora_probes_overruled");
    wait::until("two stay in use", || overruled() == 2.0);
    let down: Vec<usize> = (0..3).filter(|node| is_down(&program, *node)).collect();
    assert_eq!(down.len(), 1, "{down:?}");
    program.until_said("probes of node fail, but it stays in use");
    // What a client meets there confirms it.
    let kept = (0..3).find(|node| !down.contains(node)).expect("one of three");
    let mut client = Client::to(program.address);
    client.send(&Connect::new(cluster.id_at_home(kept, "meets it")).bytes());
    wait::until("it is confirmed", || is_down(&program, kept));
    cluster.answer(&Answer::Accept);
    wait::until("all are back", || {
        overruled() == 0.0 && !(0..3).any(|node| is_down(&program, node))
    });
    let said = program.at_least(2, |line| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("probes of node fail")
    });
    assert_eq!(said.len(), 2, "once for each: {said:?}");
}

/// A broker that closes connections without a PROXY header of version 2 if `wants_header`, else those with one.
fn strict_broker(wants_header: bool) -> SocketAddr {
    let listener = TcpListener::bind((own_address(), 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                let read = stream.read(&mut bytes).unwrap_or(0);
                let has_header = bytes[..read].starts_with(b"\r\n\r\n\0\r\nQUIT\n");
                if has_header == wants_header && stream.write_all(&packets::connack(4, 0)).is_ok() {
                    // Until the other side closes.
                    while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
                }
            });
        }
    });
    address
}

#[test]
fn a_probe_says_which_side_expects_a_proxy_header() {
    for (wants_header, configured, advice) in [
        (true, "off", "it answers with a PROXY header: set its proxy_protocol"),
        (
            false,
            "v2",
            "it answers without a PROXY header: set its proxy_protocol to \"off\"",
        ),
    ] {
        let cluster = Cluster::of(2);
        let own = cluster.nodes[0].address.to_string();
        let config = toml(&cluster, "", OFTEN)
            .replacen(&own, &strict_broker(wants_header).to_string(), 1)
            .replacen(
                "proxy_protocol = \"off\"",
                &format!("proxy_protocol = \"{configured}\""),
                1,
            );
        let program = Program::of(&config);
        program.until_said("node is down");
        let line = &program.lines(|line| line["message"] == "node is down")[0];
        let why = line["why"].as_str().expect("why");
        assert!(why.starts_with("MQTT CONNECT: ") && why.ends_with(advice), "{why}");
    }
}

#[test]
fn a_pass_endpoint_is_up_as_long_as_it_speaks_tls_whatever_it_says_in_it() {
    let (cluster, certificates) = (Cluster::of(3), Certificates::new());
    let pair = certificates.authority.server(&[NAME]).expect("a pair");
    // One with a certificate that nobody here trusts, one that wants a certificate, and one that closes.
    let fronts =
        [false, true].map(|asks| TlsFront::before(cluster.nodes[0].address, certificates.node(&pair, asks), false));
    let passes = [fronts[0].address, fronts[1].address, strict_broker(true)];
    let mut config = toml(&cluster, "tls = \"pass\"", &format!("{ADMIN}{OFTEN}"));
    for (node, pass) in cluster.nodes.iter().zip(passes) {
        let address = format!("address = \"{}\"", node.address);
        config = config.replace(&address, &format!("{address}\npass = \"{pass}\""));
    }
    let program = Program::of(&config);
    program.until_said("node is down");
    let line = &program.lines(|line| line["message"] == "node is down")[0];
    assert_eq!((&line["node"], &line["endpoint"]), (&"node2".into(), &"pass".into()));
    let why = line["why"].as_str().expect("why");
    assert!(why.starts_with("TLS handshake: "), "{why}");
    for node in 0..2 {
        let probes = |result: &str| {
            let series = format!("remora_probes_total{{node=\"node{node}\",endpoint=\"pass\",result=\"{result}\"}}");
            Metrics::of(program.admin()).value(&series)
        };
        wait::until("it answers", || probes("answered") >= 3.0);
        assert_eq!(probes("failed"), 0.0, "node{node}");
    }
}

#[test]
fn a_balancer_without_clients_is_not_ready_once_probes_of_every_node_fail() {
    let cluster = Cluster::of(3);
    let program = Program::start(&cluster, &format!("{SOON}{ADMIN}{OFTEN}"));
    let ready = || admin_client::get(program.admin(), "/readyz");
    wait::until("all have answered", || {
        (0..3).all(|node| answered(&program, node) >= 1.0)
    });
    assert_eq!(ready().status, 200);
    let overruled = || Metrics::of(program.admin()).value("remora_probes_overruled");
    cluster.answer(&Answer::Stall);
    // One is down, which is less than half; the others stay in use.
    wait::until("two stay in use", || overruled() == 2.0);
    wait::until("it is not ready", || ready().status == 503);
    assert_eq!(ready().body, "probes of every node fail\n");
    // One that answers is enough.
    let kept = (0..3).find(|node| !is_down(&program, *node)).expect("two of three");
    cluster.nodes[kept].answer(Answer::Accept);
    wait::until("it is ready", || ready().status == 200);
    assert_eq!(ready().body, "ready\n");
}

#[test]
fn a_client_that_is_connected_is_a_sign_of_life_where_probes_of_every_node_fail() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, &format!("{SOON}{ADMIN}{OFTEN}"));
    let client = Client::accepted(program.address, &Connect::new("connected"));
    // As a broker that refuses the ids of probes, and no others.
    cluster.nodes[0].answer(Answer::StallAt("remora-probe"));
    wait::until("it stays in use", || {
        Metrics::of(program.admin()).value("remora_probes_overruled") == 1.0
    });
    let ready = || admin_client::get(program.admin(), "/readyz");
    assert_eq!((ready().status, &*ready().body), (200, "ready\n"));
    client.reset();
    wait::until("it is not ready without a client", || {
        ready().body == "probes of every node fail\n"
    });
    // The next one is taken all the same, and shows that it was right to.
    let _client = Client::accepted(program.address, &Connect::new("next"));
    wait::until("it is ready", || ready().status == 200);
}
