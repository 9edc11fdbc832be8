//! TLS to nodes: who is believed, what they are shown, and that the next node is tried where one is not what it should be.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use remora::net::tls::throwaway::Pair;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program, toml};
use crate::certificates::{BOTH, Certificates, both, chains_out_of_bounds, der};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::header::Version;
use crate::node::{Answer, End, own_address};
use crate::packets::{self, Connect};
use crate::relaying::{BULK_BYTES, IN_FLIGHT, Stream, in_random_chunks, write_until_stalled};
use crate::tls_client::{TlsClient, TlsEnd};
use crate::tls_front::TlsFront;
use crate::wait;
use crate::ws_client::WsClient;
use crate::ws_node::WsNode;

/// The name in the certificates of nodes.
const NODE: &str = "emqx.example";

/// Nodes, the first choice of `id` of which is reached at `at` with TLS.
fn site(cluster: &Cluster, at: SocketAddr, listener: &str, tables: &str) -> String {
    let first = &cluster.nodes[cluster.home("id")];
    let plain = format!("address = \"{}\"", first.address);
    let secured = format!("address = \"mqtts://{at}\"\nserver_name = \"{NODE}\"");
    let toml = toml(cluster, listener, tables);
    assert!(toml.contains(&plain));
    toml.replace(&plain, &secured)
}

fn trust(certificates: &Certificates) -> String {
    format!("[nodes_tls]\nca = \"{}\"\n", certificates.path("ca.pem"))
}

fn node(certificates: &Certificates) -> Pair {
    certificates.authority.server(&[NODE]).expect("a pair")
}

#[test]
fn a_node_is_reached_with_tls_and_told_of_the_client_before() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let home = &cluster.nodes[0];
    home.expect_header(Version::V2);
    let front = TlsFront::before(home.address, certificates.node(&node(&certificates), false), true);
    let tables = format!("{ADMIN}{}", trust(&certificates));
    let program = Program::of(&site(&cluster, front.address, "", &tables));
    for number in 0..2 {
        let connect = Connect::new("id").bytes();
        let mut client = Client::to(program.address);
        client.send(&[&connect[..], b"at once"].concat());
        client.expect(&packets::connack(4, 0));
        let node = home.connection(number);
        assert_eq!(node.header().client(), client.address());
        let seen = front.until(number, "a handshake", |seen| {
            seen.server_name.is_some().then(|| seen.clone())
        });
        assert_eq!(seen.server_name.as_deref(), Some(NODE));
        assert_eq!(seen.certificate, None);
        assert_eq!(seen.resumed, number > 0, "the second time is cheaper");
        client.send(&IN_FLIGHT);
        node.expect(&[&connect[..], b"at once", &IN_FLIGHT].concat());
        node.send(&IN_FLIGHT);
        client.expect(&IN_FLIGHT);
        client.fin();
        assert_eq!(node.end(), End::Fin);
        front.until(number, "an end in TLS", |seen| seen.said_end.then_some(()));
        node.send(b"still");
        node.fin();
        client.expect(b"still");
        assert_eq!(client.end(), End::Fin);
        program.ended(client.address());
    }
}

#[test]
fn nodes_are_believed_by_what_openssl_believes_and_by_their_common_name_where_that_is_asked_for() {
    let certificates = Certificates::new();
    let listed = Certificates::self_signed("listed", &[NODE], true, None);
    let other_name = Certificates::self_signed(NODE, &["other.example"], true, None);
    let old = certificates.version_one(NODE);
    let old_wildcard = certificates.version_one("*.example");
    let own = Certificates::self_signed("own", &[NODE], true, None);
    let files = [&certificates.authority.pem(), &listed.chain, &other_name.chain];
    certificates.write("ca.pem", &files.map(|pem| &**pem).concat());
    for (pair, common_names, expected) in [
        (&listed, false, None),
        (&old, true, None),
        (&old, false, Some("nodes_tls.common_names")),
        // Another name besides, so the common name does not count; and a wildcard of a whole domain of the root.
        (&other_name, true, Some("not valid for name")),
        (&old_wildcard, true, Some("NotValidForName")),
        (&own, false, Some("not itself in the trusted file")),
    ] {
        let cluster = Cluster::of(2);
        let home = &cluster.nodes[cluster.home("id")];
        let front = TlsFront::before(home.address, certificates.node(pair, false), false);
        let tables = format!("{}common_names = {common_names}\n", trust(&certificates));
        let program = Program::of(&site(&cluster, front.address, "", &tables));
        let client = Client::accepted(program.address, &Connect::new("id"));
        let is_there = home.asked(&Connect::new("id").bytes()) == 1;
        assert_eq!(is_there, expected.is_none(), "{expected:?}");
        drop(client);
        if let Some(why) = expected {
            wait::until("the reason in the log", || {
                let lines = program.lines(|line| line.to_string().contains(why));
                !lines.is_empty()
            });
        }
    }
}

#[test]
fn bulk_through_tls_on_both_sides_or_one_is_exact_and_never_spliced() {
    let certificates = Certificates::new();
    let config = Arc::new(certificates.trusting(BOTH, None));
    for secured in [false, true] {
        let cluster = Cluster::of(1);
        let home = &cluster.nodes[0];
        let front = TlsFront::before(home.address, certificates.node(&node(&certificates), false), false);
        let listener = match secured {
            true => certificates.listener(),
            false => String::new(),
        };
        let tables = format!("{ADMIN}{}", trust(&certificates));
        let program = Program::of(&site(&cluster, front.address, &listener, &tables));
        let connect = Connect::new("id");
        let mut client = match secured {
            true => Either::Tls(Box::new(TlsClient::accepted(program.address, &config, &connect))),
            false => Either::Plain(Client::accepted(program.address, &connect)),
        };
        let node = home.connection(0);
        in_random_chunks(31, |bytes| client.send(bytes));
        node.expect_count(connect.bytes().len() + BULK_BYTES);
        assert!(Stream::new(31).takes(&node.received()[connect.bytes().len()..]));
        // A client that does not read until its node is stalled.
        let sent = write_until_stalled(node.stream(), &mut Stream::new(32));
        node.fin();
        let received = client.rest();
        assert_eq!(received.len(), sent);
        assert!(Stream::new(32).takes(&received));
        wait::until("the sweep has counted", || {
            let metrics = Metrics::of(program.admin());
            metrics.sum("remora_bytes_total") >= (BULK_BYTES + sent) as f64
        });
        let metrics = Metrics::of(program.admin());
        let spliced: Vec<_> = metrics
            .names()
            .into_iter()
            .filter(|name| name.starts_with("remora_bytes_total{") && name.contains("splice"))
            .map(|name| metrics.value(name))
            .collect();
        assert_eq!(spliced, [0.0; 2]);
    }
}

/// A client with TLS or without.
enum Either {
    Plain(Client),
    Tls(Box<TlsClient>),
}

impl Either {
    fn send(&mut self, bytes: &[u8]) {
        match self {
            Self::Plain(client) => client.send(bytes),
            Self::Tls(client) => client.send(bytes),
        }
    }

    /// Everything to an orderly end.
    fn rest(&mut self) -> Vec<u8> {
        match self {
            Self::Plain(client) => {
                let (bytes, end) = client.rest();
                assert_eq!(end, End::Fin);
                bytes
            }
            Self::Tls(client) => {
                let (bytes, end) = client.rest();
                assert_eq!(end, TlsEnd::Said);
                bytes
            }
        }
    }
}

#[test]
fn a_node_that_is_not_who_it_should_be_gets_no_client_and_the_next_one_does() {
    let certificates = Certificates::new();
    let stranger = Certificates::new();
    let expired = certificates.odd_client("x", &[NODE], 1, Some(crate::certificates::Flaw::Expired));
    let cases = [
        (
            "another name",
            certificates.authority.server(&["other.example"]).expect("a pair"),
        ),
        (
            "an address",
            certificates.authority.server(&["127.0.0.1"]).expect("a pair"),
        ),
        ("another authority", node(&stranger)),
        ("expired", expired),
        ("a client's", certificates.client(NODE)),
    ];
    for (what, pair) in cases {
        let cluster = Cluster::of(2);
        let choices = cluster.choices("id");
        let (first, second) = (&cluster.nodes[choices[0]], &cluster.nodes[choices[1]]);
        let front = TlsFront::before(first.address, certificates.node(&pair, false), false);
        let program = Program::of(&site(&cluster, front.address, "", &trust(&certificates)));
        let client = Client::accepted(program.address, &Connect::new("id"));
        second.connection(0).expect(&Connect::new("id").bytes());
        assert_eq!(first.dials(), 0, "{what}");
        // It was told why.
        let error = front.until(0, "no handshake", |seen| seen.error.clone());
        assert!(error.contains("alert"), "{what}: {error}");
        program.until_said("TLS handshake with node failed");
        let warned = program.lines(|line| line["message"] == "TLS handshake with node failed");
        assert_eq!(warned[0]["level"], "WARN");
        let error = warned[0]["error"].as_str().expect("why");
        assert!(error.contains("ertificate"), "{what}: {error}");
        client.reset();
    }
}

#[test]
fn a_node_whose_chain_is_out_of_bounds_gets_no_client_and_the_log_says_why() {
    let certificates = Certificates::new();
    let pair = node(&certificates);
    for (others, why) in chains_out_of_bounds(&pair) {
        let cluster = Cluster::of(2);
        let choices = cluster.choices("id");
        let (first, second) = (&cluster.nodes[choices[0]], &cluster.nodes[choices[1]]);
        let config = certificates.node_behind(&pair, &others, false);
        let front = TlsFront::before(first.address, config, false);
        let program = Program::of(&site(&cluster, front.address, "", &trust(&certificates)));
        let client = Client::accepted(program.address, &Connect::new("id"));
        second.connection(0).expect(&Connect::new("id").bytes());
        assert_eq!(first.dials(), 0, "{why}");
        program.until_said("TLS handshake with node failed");
        let warned = program.lines(|line| line["message"] == "TLS handshake with node failed");
        let error = warned[0]["error"].as_str().expect("why");
        assert!(error.contains(why), "{why}: {error}");
        client.reset();
    }
}

#[test]
fn a_storm_of_clients_warns_of_a_node_once_a_worker() {
    const CLIENTS: usize = 60;
    let (certificates, stranger) = (Certificates::new(), Certificates::new());
    let cluster = Cluster::of(1);
    let pair = node(&stranger);
    let front = TlsFront::before(cluster.nodes[0].address, certificates.node(&pair, false), false);
    let tables = format!("[log]\nlevel = \"debug\"\n{}", trust(&certificates));
    let program = Program::of(&site(&cluster, front.address, "", &tables));
    let began = tokio::time::Instant::now();
    for _ in 0..CLIENTS {
        let mut client = Client::to(program.address);
        client.send(&Connect::new("id").bytes());
        client.end();
    }
    program.until_ended(CLIENTS);
    // Nearly always the first.
    let tens_of_seconds = began.elapsed().as_secs() as usize / 10 + 1;
    let said = program.lines(|line| line["message"] == "TLS handshake with node failed");
    let warned = said.iter().filter(|line| line["level"] == "WARN").count();
    // There are two workers.
    assert!((1..=2 * tens_of_seconds).contains(&warned), "{warned} warnings");
    assert!(said.len() > 2, "each attempt is in the log");
}

#[test]
fn whoever_is_at_the_address_of_a_node_and_speaks_no_tls_gets_no_client() {
    let certificates = Certificates::new();
    let cluster = Cluster::of(2);
    let choices = cluster.choices("id");
    let second = &cluster.nodes[choices[1]];
    // A node without TLS hears a ClientHello, which is no CONNECT; this one answers all the same.
    let plain = TcpListener::bind((own_address(), 0)).expect("a free port");
    let address = plain.local_addr().expect("an address");
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = plain.accept() {
            // It may be gone.
            let _ = std::io::Write::write_all(&mut stream, &packets::connack(4, 0));
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    });
    let program = Program::of(&site(&cluster, address, "", &trust(&certificates)));
    Client::accepted(program.address, &Connect::new("id"));
    second.connection(0).expect(&Connect::new("id").bytes());
    program.until_said("TLS handshake with node failed");
}

#[test]
fn a_node_whose_handshake_stalls_costs_its_dial_timeout_and_then_nobody_anything() {
    let certificates = Certificates::new();
    let cluster = Cluster::of(2);
    let choices = cluster.choices("id");
    let second = &cluster.nodes[choices[1]];
    // Nobody accepts: the kernel takes the ClientHello, and that is all.
    let silent = TcpListener::bind((own_address(), 0)).expect("a free port");
    let address = silent.local_addr().expect("an address");
    let tables = format!(
        "[timeouts]\ndial = \"300ms\"\n[health]\ndown_min = \"10m\"\ndown_max = \"10m\"\n{}",
        trust(&certificates)
    );
    let program = Program::of(&site(&cluster, address, "", &tables));
    for number in 0..6 {
        let began = tokio::time::Instant::now();
        Client::accepted(program.address, &Connect::new("id"));
        second.connection(number);
        let waited = began.elapsed().as_millis();
        // After three of them it is down.
        let expected = if number < 3 { 300..u128::MAX } else { 0..290 };
        assert!(expected.contains(&waited), "{number}: {waited} ms");
        if number == 2 {
            program.until_said("node is down");
        }
    }
}

#[test]
fn a_node_that_asks_is_shown_the_certificate() {
    let certificates = Certificates::new();
    let shown = certificates.client("remora");
    certificates.write("remora.pem", &both(&shown));
    for shows in [true, false] {
        let cluster = Cluster::of(2);
        let choices = cluster.choices("id");
        let (first, second) = (&cluster.nodes[choices[0]], &cluster.nodes[choices[1]]);
        let front = TlsFront::before(first.address, certificates.node(&node(&certificates), true), false);
        let mut tables = trust(&certificates);
        if shows {
            tables += &format!("certificate = {{ chain = \"{}\" }}\n", certificates.path("remora.pem"));
        }
        let program = Program::of(&site(&cluster, front.address, "", &tables));
        Client::accepted(program.address, &Connect::new("id"));
        match shows {
            true => {
                first.connection(0).expect(&Connect::new("id").bytes());
                let certificate = front.until(0, "a certificate", |seen| seen.certificate.clone());
                assert_eq!(certificate, der(&shown));
            }
            false => {
                second.connection(0).expect(&Connect::new("id").bytes());
                assert_eq!(first.dials(), 0);
            }
        }
    }
}

#[test]
fn whoever_asks_for_it_by_its_full_name_believes_everyone_and_is_warned() {
    let certificates = Certificates::new();
    let cluster = Cluster::of(1);
    let pair = Certificates::new()
        .authority
        .server(&["other.example"])
        .expect("a pair");
    let front = TlsFront::before(cluster.nodes[0].address, certificates.node(&pair, false), false);
    let tables = "[nodes_tls]\ninsecure_skip_verify = true\n";
    let config = site(&cluster, front.address, "", tables);
    let program = Program::of(&config);
    program.until_said("nodes_tls.insecure_skip_verify");
    let warned = program.lines(|line| line["level"] == "WARN");
    assert_eq!(warned.len(), 1);
    assert_eq!(warned[0]["nodes"], serde_json::json!(["node0"]));
    Client::accepted(program.address, &Connect::new("id"));
    program.reload(&config);
    assert_eq!(program.lines(|line| line["level"] == "WARN").len(), 2);
    let other = Program::of(&toml(&cluster, "", tables));
    assert!(
        other.lines(|line| line["level"] == "WARN").is_empty(),
        "no node is reached with TLS"
    );
}

#[test]
fn a_refused_client_is_taken_from_one_node_with_tls_to_another() {
    let certificates = Certificates::new();
    let cluster = Cluster::of(3);
    let fronts: Vec<_> = cluster
        .nodes
        .iter()
        .map(|fake| TlsFront::before(fake.address, certificates.node(&node(&certificates), false), false))
        .collect();
    let mut config = toml(&cluster, &certificates.listener(), &trust(&certificates));
    for (fake, front) in cluster.nodes.iter().zip(&fronts) {
        let plain = format!("address = \"{}\"", fake.address);
        let secured = format!("address = \"mqtts://{}\"\nserver_name = \"{NODE}\"", front.address);
        config = config.replace(&plain, &secured);
    }
    let program = Program::of(&config);
    let choices = cluster.choices("id");
    cluster.nodes[choices[0]].answer(Answer::Code(3));
    cluster.nodes[choices[1]].answer(Answer::Close);
    let config = Arc::new(certificates.trusting(BOTH, None));
    let connect = Connect::new("id");
    let mut client = TlsClient::accepted(program.address, &config, &connect);
    for choice in &choices {
        cluster.nodes[*choice].connection(0).expect(&connect.bytes());
    }
    // Those that were left are told so in TLS.
    for choice in &choices[..2] {
        fronts[*choice].until(0, "an end in TLS", |seen| seen.said_end.then_some(()));
    }
    let node = cluster.nodes[choices[2]].connection(0);
    node.send(b"hello");
    client.expect(b"hello");
}

#[test]
fn a_wrong_certificate_of_a_websocket_listener_takes_that_listener_down_and_no_more() {
    let certificates = Certificates::new();
    let (cluster, ws) = (Cluster::of(2), WsNode::start());
    let other = certificates.authority.server(&["other.example"]);
    let pair = other.expect("a pair");
    let front = TlsFront::before(ws.address, certificates.node(&pair, false), false);
    let home = format!("address = \"{}\"", cluster.nodes[cluster.home("id")].address);
    let with_ws = format!("{home}\nws = \"wss://{}\"\nserver_name = \"{NODE}\"", front.address);
    let listeners = "transport = \"ws\"\n[[listeners]]\naddress = \"127.0.0.1:0\"";
    let tables = format!(
        "[health]\ndown_min = \"10m\"\ndown_max = \"10m\"\n{}",
        trust(&certificates)
    );
    let config = toml(&cluster, listeners, &tables);
    assert!(config.contains(&home));
    let program = Program::of(&config.replace(&home, &with_ws));
    drop(WsClient::accepted(program.addresses[0], &Connect::new("id")));
    front.until(0, "no handshake", |seen| seen.error.clone());
    program.until_said("node is down");
    let dials = front.dials();
    for keep_alive in 1..=6 {
        let (by_ws, by_tcp) = (Connect::new("id"), Connect::new("id").keep_alive(keep_alive));
        drop(WsClient::accepted(program.addresses[0], &by_ws));
        let client = Client::accepted(program.addresses[1], &by_tcp);
        let (holder, _) = cluster.holder(&by_tcp.bytes());
        assert_eq!(holder, cluster.home("id"));
        drop(client);
    }
    assert_eq!(front.dials(), dials, "nobody tries any more");
}

#[test]
fn a_websocket_node_is_reached_with_tls() {
    let certificates = Certificates::new();
    let (cluster, ws) = (Cluster::of(1), WsNode::start());
    let front = TlsFront::before(ws.address, certificates.node(&node(&certificates), false), false);
    let node = format!(
        "{}\nws = \"wss://{}/there\"\nserver_name = \"{NODE}\"",
        cluster.toml().trim_end(),
        front.address
    );
    let config = toml(&cluster, "transport = \"ws\"", &trust(&certificates));
    let program = Program::of(&config.replace(cluster.toml().trim_end(), &node));
    let client = WsClient::accepted(program.address, &Connect::new("id"));
    let node = ws.connection(0);
    let head = node.head();
    assert!(head.starts_with("GET /there HTTP/1.1\r\n"), "{head}");
    let forwarded = crate::ws_node::field(&head, "x-forwarded-proto");
    assert_eq!(forwarded, Some("http"), "it is the client's");
    assert_eq!(cluster.dials(), 0);
    drop(client);
}
