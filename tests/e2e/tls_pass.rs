//! `tls = "pass"`: TLS ends at the node, of which the balancer reads the server name and touches nothing.

use std::net::IpAddr;
use std::sync::Arc;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program, toml};
use crate::certificates::{BOTH, Certificates, NAME, TLS12, TLS13, der};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::header::{v1, v2};
use crate::node::{End, FakeNode};
use crate::packets::Connect;
use crate::relaying::IN_FLIGHT;
use crate::tls_client::{TlsClient, TlsEnd, hello};
use crate::tls_front::TlsFront;

/// Nodes with TLS listeners that are these, all before the cluster's.
fn site(cluster: &Cluster, passes: &[String], listener: &str, tables: &str) -> String {
    let listener = format!("tls = \"pass\"\n{listener}");
    let mut config = toml(cluster, &listener, tables);
    for (fake, pass) in cluster.nodes.iter().zip(passes) {
        let address = format!("address = \"{}\"", fake.address);
        config = config.replace(&address, &format!("{address}\npass = \"{pass}\""));
    }
    config
}

fn fronts(cluster: &Cluster, certificates: &Certificates) -> Vec<TlsFront> {
    let pair = certificates.authority.server(&[NAME]).expect("a pair");
    let before = |address| TlsFront::before(address, certificates.node(&pair, false), false);
    cluster.nodes.iter().map(|node| before(node.address)).collect()
}

fn addresses(fronts: &[TlsFront]) -> Vec<String> {
    fronts.iter().map(|front| front.address.to_string()).collect()
}

#[test]
fn a_client_with_one_address_has_one_node_whatever_its_id() {
    let (cluster, certificates) = (Cluster::of(3), Certificates::new());
    let fronts = fronts(&cluster, &certificates);
    let program = Program::of(&site(&cluster, &addresses(&fronts), "", ""));
    let mut homes = [0; 3];
    for host in 1..20 {
        let source = IpAddr::from([127, 0, 5, host]);
        let home = cluster.home([127, 0, 5, host]);
        homes[home] += 1;
        for (round, versions) in [TLS12, TLS13].into_iter().enumerate() {
            let config = Arc::new(certificates.trusting(versions, None));
            let tcp = Client::from(source, program.address);
            let mut client = TlsClient::on(tcp, &config, NAME).expect("a handshake with the node");
            let connect = Connect::new(format!("id-{host}-{round}"));
            client.connect(&connect);
            assert_eq!(cluster.holder(&connect.bytes()).0, home, "{source}");
            client.tcp.reset();
            let line = program.ended(client.address());
            assert_eq!(line["server_name"], NAME);
            assert_eq!(line["node"], format!("node{home}"));
            assert!(line["client_id"] == "" || line["client_id"] == "-", "{line}");
        }
    }
    assert!(homes.iter().all(|count| *count > 0), "{homes:?}");
}

#[test]
fn the_node_is_whom_the_client_speaks_to_and_every_byte_is_the_clients() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let fronts = fronts(&cluster, &certificates);
    let program = Program::of(&site(&cluster, &addresses(&fronts), "", ""));
    // A certificate of the client reaches the node: nothing between has ended TLS.
    let pair = certificates.authority.server(&[NAME]).expect("a pair");
    let asking = TlsFront::before(cluster.nodes[0].address, certificates.node(&pair, true), false);
    let asks = Program::of(&site(&cluster, &[asking.address.to_string()], "", ""));
    let shown = certificates.client("gauge");
    let config = Arc::new(certificates.trusting(BOTH, Some(&shown)));
    let client = TlsClient::accepted(asks.address, &config, &Connect::new("shows"));
    assert_eq!(client.shown(), der(&pair));
    let certificate = asking.until(0, "a certificate", |seen| seen.certificate.clone());
    assert_eq!(certificate, der(&shown));
    client.tcp.reset();

    let mut client = TlsClient::accepted(program.address, &config, &Connect::new("id"));
    let (_, node) = cluster.holder(&Connect::new("id").bytes());
    client.send(&IN_FLIGHT);
    node.expect(&[&Connect::new("id").bytes()[..], &IN_FLIGHT].concat());
    node.send(&IN_FLIGHT);
    client.expect(&IN_FLIGHT);
    client.fin();
    assert_eq!(node.end(), End::Fin);
    node.send(b"still");
    node.fin();
    client.expect(b"still");
    assert_eq!(client.end(), TlsEnd::Said);
    assert_eq!(program.ended(client.address())["cause"], "client_closed");
}

#[test]
fn a_connection_that_passes_moves_when_another_process_takes_over() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let fronts = fronts(&cluster, &certificates);
    let mut program = Program::of(&site(&cluster, &addresses(&fronts), "", ADMIN));
    let config = Arc::new(certificates.trusting(BOTH, None));
    let connect = Connect::new("passes");
    let mut client = TlsClient::accepted(program.address, &config, &connect);
    let (_, node) = cluster.holder(&connect.bytes());
    let mut sent = connect.bytes();
    for _ in 0..2 {
        let done = program.upgrade();
        assert_eq!(done["moved"], 1, "{done}");
        client.send(&IN_FLIGHT);
        sent.extend_from_slice(&IN_FLIGHT);
        node.expect(&sent);
        node.send(&IN_FLIGHT);
        client.expect(&IN_FLIGHT);
    }
    client.tcp.reset();
    assert_eq!(program.ended(client.address())["server_name"], NAME);
}

#[test]
fn the_hello_arrives_as_it_came_however_it_was_cut() {
    // The fake node itself: it sees what is on the wire.
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let passes = [cluster.nodes[0].address.to_string()];
    let program = Program::of(&site(&cluster, &passes, "", ""));
    let config = Arc::new(certificates.trusting(BOTH, None));
    let whole = hello(&config, NAME);
    let in_records = |bytes: usize| -> Vec<u8> {
        let fragments = whole[5..].chunks(bytes);
        let records = fragments.map(|f| [&[0x16, 3, 1, 0, f.len() as u8], f].concat());
        records.collect::<Vec<_>>().concat()
    };
    let behind = [&whole[..], b"\x14\x03\x03\0\x01\x01and more"].concat();
    let cases = [
        (whole.clone(), vec![]),
        (whole.clone(), vec![1, 4, 5, 6, 43, 44, whole.len() - 1]),
        (whole.clone(), (1..whole.len()).collect()),
        (in_records(100), vec![50]),
        (in_records(1), vec![7, 600]),
        (behind, vec![]),
    ];
    for (came, (said, cuts)) in cases.into_iter().enumerate() {
        let mut client = Client::to(program.address);
        client.send_cut(&said, &cuts);
        cluster.nodes[0].connection(came).expect(&said);
        client.reset();
        assert_eq!(program.ended(client.address())["server_name"], NAME);
    }
}

#[test]
fn an_old_hello_is_the_nodes_to_judge() {
    let cluster = Cluster::of(1);
    let passes = [cluster.nodes[0].address.to_string()];
    let program = Program::of(&site(&cluster, &passes, "", ""));
    // TLS 1.0, one cipher suite, no extension.
    let mut old = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 1];
    old.extend([7; 32]);
    old.extend([0, 0, 2, 0, 0x2F, 1, 0]);
    let mut client = Client::to(program.address);
    client.send(&old);
    cluster.nodes[0].connection(0).expect(&old);
    client.reset();
    assert!(program.ended(client.address())["server_name"].is_null());
}

#[test]
fn whoever_speaks_no_tls_is_passed_to_nobody() {
    let cluster = Cluster::of(1);
    let passes = [cluster.nodes[0].address.to_string()];
    let tables = "[timeouts]\nconnect = \"1s\"";
    let program = Program::of(&site(&cluster, &passes, "", tables));
    for (said, cause) in [
        (Connect::new("id").bytes(), "not_tls"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "not_tls"),
        (v1("192.0.2.7:1"), "not_tls"),
        (vec![0; 40], "not_tls"),
        (b"\x16\x03\x01\0\x04\x02\0\0\0".to_vec(), "not_tls"),
        (b"\x16\x03\x01\0\x04\x01\xff\xff\xff".to_vec(), "not_tls"),
        (b"\x17\x03\x03\0\x02hi".to_vec(), "not_tls"),
        (b"\x16\x03\x01\x01\0\x01".to_vec(), "connect_timeout"),
        (Vec::new(), "connect_timeout"),
    ] {
        let mut client = Client::to(program.address);
        client.send(&said);
        client.rest();
        assert_eq!(program.ended(client.address())["cause"], cause, "{said:02x?}");
    }
    assert_eq!(cluster.dials(), 0);
}

#[test]
fn a_balancer_before_this_one_may_say_who_the_client_is() {
    let (cluster, certificates) = (Cluster::of(3), Certificates::new());
    let fronts = fronts(&cluster, &certificates);
    let listener = "proxy_protocol_from = [\"127.0.0.0/8\"]";
    let program = Program::of(&site(&cluster, &addresses(&fronts), listener, ""));
    let config = Arc::new(certificates.trusting(BOTH, None));
    for host in 1..12 {
        let client = format!("192.0.2.{host}:4711");
        let header = if host % 2 == 0 { v1(&client) } else { v2(&client, &[]) };
        let mut tcp = Client::to(program.address);
        tcp.send(&header);
        let mut tls = TlsClient::on(tcp, &config, NAME).expect("a handshake");
        let connect = Connect::new(format!("id-{host}"));
        tls.connect(&connect);
        let home = cluster.home([192, 0, 2, host]);
        assert_eq!(cluster.holder(&connect.bytes()).0, home, "{client}");
        tls.tcp.reset();
        assert_eq!(program.ended(client.parse().expect("an address"))["server_name"], NAME);
    }
}

#[test]
fn a_node_that_is_dead_is_passed_by() {
    let (mut cluster, certificates) = (Cluster::of(3), Certificates::new());
    let fronts = fronts(&cluster, &certificates);
    let choices = cluster.choices([127, 0, 0, 1]);
    let mut passes = addresses(&fronts);
    passes[choices[0]] = cluster.nodes[choices[0]].address.to_string();
    let program = Program::of(&site(&cluster, &passes, "", ""));
    cluster.nodes[choices[0]].die();
    let config = Arc::new(certificates.trusting(BOTH, None));
    let connect = Connect::new("id");
    let _client = TlsClient::accepted(program.address, &config, &connect);
    assert_eq!(cluster.holder(&connect.bytes()).0, choices[1]);
}

#[test]
fn a_failed_dial_is_retried_only_if_another_node_is_dialled() {
    let (mut cluster, certificates) = (Cluster::of(3), Certificates::new());
    let passes = cluster.nodes.iter().map(|node| node.address.to_string());
    let passes: Vec<String> = passes.collect();
    let program = Program::of(&site(
        &cluster,
        &passes,
        "",
        &format!("{ADMIN}[health]\nfailures_max = 1000\n"),
    ));
    cluster.nodes.iter_mut().for_each(FakeNode::die);
    let config = Arc::new(certificates.trusting(BOTH, None));
    let mut client = Client::to(program.address);
    client.send(&hello(&config, NAME));
    client.rest();
    assert_eq!(program.ended(client.address())["cause"], "no_node");
    let metrics = Metrics::of(program.admin());
    assert_eq!(metrics.sum_with("remora_retries_total", "reason", "dial"), 2.0);
}
