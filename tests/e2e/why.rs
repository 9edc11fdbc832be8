//! The log says why: a line's fields name what was refused, by whom, and where; and each change has one line.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program, toml};
use crate::certificates::{Certificates, NAME, TLS12, TLS13};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, End};
use crate::packets::{self, Connect};
use crate::tls_client::TlsClient;
use crate::wait;
use crate::ws_client::WsClient;

/// The line of a client that sends this and is closed, whatever it is answered.
fn line_of(program: &Program, bytes: &[u8]) -> Value {
    let mut client = Client::to(program.address);
    client.send(bytes);
    client.rest();
    program.ended(client.address())
}

#[test]
fn a_refusal_that_was_passed_on_is_the_cause_whoever_closes_first() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let refusals = [
        (Connect::v31("old"), 2, "identifier_rejected"),
        (Connect::new("id"), 4, "bad_user_name_or_password"),
        (Connect::new("id"), 5, "not_authorized"),
        (Connect::v5("id"), 0x86, "bad_user_name_or_password"),
        (Connect::v5("id"), 0x8A, "banned"),
    ];
    for (connect, code, reason) in &refusals {
        cluster.answer(&Answer::Code(*code));
        for node_closes in [true, false] {
            let mut client = Client::to(program.address);
            client.send(&connect.bytes());
            let (_, node) = cluster.holder(&connect.bytes());
            let connack = match code {
                0x80.. => packets::connack_5(*code, &[]),
                _ => packets::connack(packets::level(&connect.bytes()), *code),
            };
            client.expect(&connack);
            if node_closes {
                node.fin();
                assert_eq!(client.end(), End::Fin);
                client.fin();
            } else {
                client.reset();
            }
            let line = program.ended(client.address());
            let said = [&line["cause"], &line["code"], &line["reason"]];
            assert_eq!(
                said,
                [&json!("refused_by_node"), &json!(code), &json!(reason)],
                "{line}"
            );
            node.end();
        }
    }
    let counted = Metrics::of(program.admin()).value("remora_ends_total{cause=\"refused_by_node\"}");
    assert_eq!(counted as usize, 2 * refusals.len());
}

#[test]
fn the_code_of_the_last_node_is_there_where_none_accepts_and_where_one_does() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, "");
    cluster.answer(&Answer::Code(0x97));
    let line = line_of(&program, &Connect::v5("id").bytes());
    let said = [&line["cause"], &line["code"], &line["reason"]];
    assert_eq!(said, [&json!("refused"), &json!(0x97), &json!("quota_exceeded")]);
    cluster.answer(&Answer::Accept);
    for (connect, reason) in [
        (Connect::new("a"), "connection_accepted"),
        (Connect::v5("b"), "success"),
    ] {
        let client = Client::accepted(program.address, &connect);
        client.reset();
        let line = program.ended(client.address());
        let said = [&line["cause"], &line["code"], &line["reason"]];
        assert_eq!(said, [&json!("client_reset"), &json!(0), &json!(reason)]);
    }
    // No CONNACK was read.
    let line = line_of(&program, b"GET / HTTP/1.1\r\n\r\n");
    assert!(line["code"].is_null() && line["reason"].is_null(), "{line}");
}

#[test]
fn a_refused_upgrade_has_its_status_path_and_origin_and_no_trick_in_them() {
    let cluster = Cluster::of(1);
    let listener = "transport = \"ws\"\norigins = [\"https://good.example\"]";
    let program = Program::of(&toml(&cluster, listener, ""));
    let request = |target: &str, origin: &str| {
        format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{origin}\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
    };
    let line = line_of(&program, request("/other?x=1", "").as_bytes());
    assert_eq!(
        [&line["status"], &line["path"]],
        [&json!(404), &json!("/other?x=1")],
        "{line}"
    );
    assert!(line["origin"].is_null() && line["why"].is_string(), "{line}");
    let line = line_of(
        &program,
        request("/mqtt", "oRigin:  https://evil.example \r\n").as_bytes(),
    );
    let said = [&line["status"], &line["path"], &line["origin"], &line["why"]];
    let expected = json!([403, "/mqtt", "https://evil.example", "origin not allowed"]);
    assert_eq!(json!(said), expected, "{line}");
    // What is longer than an id may be is cut as an id is, and quotes and escapes mean nothing.
    let long = format!("/\"}}{{\\x1b{}", "a".repeat(5_000));
    let line = line_of(&program, request(&long, "").as_bytes());
    let path = line["path"].as_str().expect("a path");
    assert!(path.starts_with("/\"}{\\x1b") && path.len() < 200, "{path}");
    let line = line_of(&program, b"GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        [&line["status"], &line["path"]],
        [&json!(426), &json!("/mqtt")],
        "{line}"
    );
}

#[test]
fn a_refused_certificate_has_its_subject_and_a_broken_handshake_the_librarys_sentence() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let program = Program::of(&toml(&cluster, &certificates.asking_listener("required"), ""));
    let stranger = Certificates::new().client("stranger\u{202e}");
    for versions in [TLS12, TLS13] {
        let config = Arc::new(certificates.trusting(versions, Some(&stranger)));
        let client = Client::to(program.address);
        let address = client.address();
        // With TLS 1.3, the client is done before it is judged.
        drop(TlsClient::on(client, &config, NAME));
        let line = program.ended(address);
        assert_eq!(line["cause"], "certificate_refused", "{line}");
        let subject = line["certificate_subject"].as_str().expect("a subject");
        assert!(subject.contains("CN=stranger"), "{line}");
        assert!(
            line["error"]
                .as_str()
                .is_some_and(|error| error.contains("certificate")),
            "{line}"
        );
        let config = Arc::new(certificates.trusting(versions, None));
        let client = Client::to(program.address);
        let address = client.address();
        drop(TlsClient::on(client, &config, NAME));
        let line = program.ended(address);
        assert_eq!(line["cause"], "certificate_refused", "{line}");
        assert!(line["certificate_subject"].is_null(), "nobody else's: {line}");
    }
    // A record of a ClientHello whose content is none.
    let line = line_of(&program, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\xff");
    assert!(line["error"].is_string(), "{line}");
    assert_eq!(line["listener"].as_str(), Some("127.0.0.1:0"), "{line}");
}

#[test]
fn invalid_frames_have_words_before_and_after_the_connect() {
    let cluster = Cluster::of(1);
    let program = Program::of(&toml(&cluster, "transport = \"ws\"", ""));
    for is_relayed in [false, true] {
        let mut client = match is_relayed {
            true => WsClient::accepted(program.address, &Connect::new("id")),
            false => WsClient::to(program.address),
        };
        // A text message.
        client.frame(0x81, b"text");
        let address = client.tcp.address();
        client.tcp.rest();
        let line = program.ended(address);
        assert_eq!(line["cause"], "frame_fault", "{line}");
        assert!(
            line["why"].as_str().is_some_and(|why| why.contains("text message")),
            "{line}"
        );
    }
}

#[test]
fn a_node_that_goes_down_says_what_failed_and_where_once() {
    let mut cluster = Cluster::of(2);
    let program = Program::start(
        &cluster,
        &format!("{ADMIN}[health]\nfall = 3\ndown_min = \"100ms\"\ndown_max = \"200ms\""),
    );
    let address = json!(cluster.nodes[0].address.to_string());
    let about = |message: &str| program.lines(|line| line["message"] == message && line["node"] == "node0");
    for round in 1..=2 {
        cluster.nodes[0].die();
        Client::accepted(program.address, &Connect::new(cluster.id_at_home(0, "homeless"))).reset();
        wait::until("the node to be down", || about("node is down").len() == round);
        let line = about("node is down").pop().expect("it is there");
        assert_eq!(
            [&line["endpoint"], &line["address"]],
            [&json!("mqtt"), &address],
            "{line}"
        );
        let why = line["why"].as_str().expect("a reason");
        assert!(why.starts_with("TCP connect: ") && why.contains("refused"), "{why}");
        assert_eq!(line["level"], "WARN");
        cluster.nodes[0].come_back();
        wait::until("the node to be up", || about("node is up again").len() == round);
        assert_eq!(about("node is up again")[0]["address"], address);
    }
    // One that takes connections and does not answer.
    cluster.nodes[0].answer(Answer::Close);
    let connect = Connect::new(cluster.id_at_home(0, "unanswered"));
    Client::accepted(program.address, &connect).reset();
    wait::until("the node to be down", || about("node is down").len() == 3);
    let line = about("node is down").pop().expect("it is there");
    let why = line["why"].as_str().expect("a reason");
    assert!(why.starts_with("MQTT CONNECT: the node closed the connection"), "{why}");
}

#[test]
fn a_reload_changes_the_level_at_once() {
    let cluster = Cluster::of(1);
    let level = |level: &str| toml(&cluster, "", &format!("{ADMIN}[log]\nlevel = \"{level}\"\n"));
    let metric = |program: &Program, series: &str| Metrics::of(program.admin()).value(series) as usize;
    let visit = |program: &Program, id: &str| {
        let ends = |program| metric(program, "remora_ends_total{cause=\"client_reset\"}");
        let before = ends(program);
        Client::accepted(program.address, &Connect::new(id)).reset();
        wait::until("its end to be counted", || ends(program) > before);
    };
    let program = Program::of(&level("info"));
    visit(&program, "first");
    program.configure(&level("error"));
    program.signal(rustix::process::Signal::HUP);
    // No line says so.
    wait::until("a reload", || {
        metric(&program, "remora_config_reloads_total{result=\"success\"}") == 1
    });
    visit(&program, "second");
    program.reload(&level("info"));
    visit(&program, "third");
    program.until_ended(2);
    let ids = program.lines(|line| !line["cause"].is_null());
    let ids: Vec<_> = ids.iter().map(|line| line["client_id"].as_str()).collect();
    assert_eq!(ids, [Some("first"), Some("third")]);
}
