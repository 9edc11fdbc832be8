//! Requests for an upgrade that EMQX, nginx and HAProxy accept, to listeners before nodes with WebSocket and before nodes without it.

use std::io::Write;
use std::net::SocketAddr;

use tungstenite::handshake::derive_accept_key;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Balancer, Program};
use crate::client::Client;
use crate::node::End;
use crate::packets::{self, Connect};
use crate::wait;
use crate::websocket::Mesh;
use crate::ws_client::{KEY, REQUEST, WsClient};
use crate::ws_frames::BINARY;
use crate::ws_node::field;

/// One node, with WebSocket or without it.
pub(crate) fn both_kinds() -> [Mesh; 2] {
    [Mesh::of(1, 0), Mesh::of(0, 1)]
}

#[test]
fn every_spelling_that_emqx_accepts_is_accepted() {
    let cases = [
        ("GET /mqtt?x=1", "GET /mqtt/?x=1", "/mqtt?x=1"),
        ("GET /mqtt?x=1", "GET /mqtt/", "/mqtt"),
        ("GET /mqtt?x=1", "GET /./mqtt?x=1", "/mqtt?x=1"),
        ("GET /mqtt?x=1", "GET /other/../mqtt?x=1", "/mqtt?x=1"),
        ("GET /mqtt?x=1", "GET /%6d%71tt?x=%20", "/mqtt?x=%20"),
        ("GET /mqtt?x=1", "GET http://mqtt.example:8083/mqtt?x=1", "/mqtt?x=1"),
        ("GET /mqtt?x=1", "GET ws://other.example/mqtt/", "/mqtt"),
        ("Upgrade: websocket", "Upgrade: WebSocket, h2c", "/mqtt?x=1"),
        ("Version: 13", "Version: 8", "/mqtt?x=1"),
        ("Protocol: mqtt", "Protocol: MQTT", "/mqtt?x=1"),
        ("Protocol: mqtt", "Protocol: mqtt-v5", "/mqtt?x=1"),
        ("Protocol: mqtt", "Protocol: chat, Mqtt-V3.1.1", "/mqtt?x=1"),
    ];
    for mesh in both_kinds() {
        let balancer = mesh.start();
        for (number, (from, to, target)) in cases.into_iter().enumerate() {
            let request = REQUEST.replacen(from, to, 1);
            assert_ne!(request, REQUEST, "{from}");
            let mut client = WsClient::with(balancer.address, &request);
            client.send(&Connect::new(format!("spells-{number}")).bytes());
            client.expect(BINARY, &packets::connack(4, 0));
            let Some(node) = mesh.ws.first() else { continue };
            let head = node.connection(number).head();
            assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{to}: {head}");
            let host = if to.contains("other.example") {
                "other.example"
            } else {
                "mqtt.example:8083"
            };
            assert_eq!(field(&head, "host"), Some(host), "{to}");
            // The fake node takes the last that it is offered, as one does that knows no other.
            let offered = field(&head, "sec-websocket-protocol").expect("some");
            assert!(offered.ends_with("mqtt"), "{to}: {offered}");
        }
    }
}

#[test]
fn a_key_that_is_no_key_is_answered_as_it_is() {
    for mesh in both_kinds() {
        let balancer = mesh.start();
        for key in ["c2hvcnQ=", "plain text", "dGhlIHNhbXBsZSBub25jZQ"] {
            let mut client = Client::to(balancer.address);
            client.send(REQUEST.replacen(KEY, key, 1).as_bytes());
            let head = String::from_utf8(client.read_until(b"\r\n\r\n")).expect("text");
            assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
            let accept = derive_accept_key(key.as_bytes());
            assert_eq!(field(&head, "sec-websocket-accept"), Some(&*accept), "{head}");
        }
    }
}

#[test]
fn a_subprotocol_is_answered_as_the_client_spells_it() {
    let [mesh, _] = both_kinds();
    let balancer = mesh.start();
    for (offered, granted) in [
        ("MQTT", "MQTT"),
        ("chat,  Mqtt-V5 , mqtt", "Mqtt-V5"),
        ("mqtt, MQTT", "mqtt"),
    ] {
        let mut client = Client::to(balancer.address);
        let request = REQUEST.replacen("Protocol: mqtt", &format!("Protocol: {offered}"), 1);
        client.send(request.as_bytes());
        let head = String::from_utf8(client.read_until(b"\r\n\r\n")).expect("text");
        assert_eq!(field(&head, "sec-websocket-protocol"), Some(granted), "{head}");
    }
}

#[test]
fn a_head_may_be_as_large_as_nginx_takes_it_or_as_it_is_configured() {
    // The request with a cookie, so that its head has this many bytes.
    let of = |bytes: usize| {
        let cookie = "x".repeat(bytes - REQUEST.len() - 2);
        REQUEST.replacen("Cookie: a=b", &format!("Cookie: a={cookie}b;b"), 1)
    };
    let fields = |more: usize| {
        let more: String = (0..more).map(|number| format!("X-{number}: 1\r\n")).collect();
        REQUEST.replacen("Cookie:", &format!("{more}Cookie:"), 1)
    };
    let now = REQUEST.lines().count() - 2;
    for mesh in both_kinds() {
        for (key, most) in [
            ("", 32 * 1024),
            ("head_max = \"100KiB\"", 100 * 1024),
            ("head_max = \"4KiB\"", 4 * 1024),
        ] {
            let toml = mesh
                .toml("")
                .replacen("transport = \"ws\"", &format!("transport = \"ws\"\n{key}"), 1);
            let balancer = Balancer::of(&toml);
            for (request, status) in [
                (of(most), 101),
                (of(most + 1), 431),
                (fields(124 - now), 101),
                (fields(125 - now), 431),
            ] {
                let mut client = Client::to(balancer.address);
                // It may be answered before it has said all.
                let _ = client.stream.write_all(request.as_bytes());
                client.expect(format!("HTTP/1.1 {status} ").as_bytes());
            }
            let mut client = WsClient::with(balancer.address, &of(most));
            client.send(&Connect::new("large").bytes());
            client.expect(BINARY, &packets::connack(4, 0));
        }
    }
}

/// What health checks send by themselves.
const CHECKS: [&str; 6] = [
    // An Application Load Balancer, and Google's.
    "GET / HTTP/1.1\r\nHost: 127.0.0.1:8083\r\nConnection: close\r\nUser-Agent: ELB-HealthChecker/2.0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Keep-alive\r\nUser-Agent: GoogleHC/1.0\r\n\r\n",
    // HAProxy's `option httpchk`, as it is and with a method and a host.
    "OPTIONS / HTTP/1.0\r\n\r\n",
    "HEAD / HTTP/1.1\r\nHost: remora\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: remora\r\n\r\n",
    "GET http://remora/?x HTTP/1.1\r\nHost: remora\r\n\r\n",
];

/// The answer to a request, its status and its body, and the connection's address.
fn answer(program: &Program, request: &str) -> (String, String, SocketAddr) {
    let mut client = Client::to(program.address);
    client.send(request.as_bytes());
    let (answer, end) = client.rest();
    assert_eq!(end, End::Fin, "{request}");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.strip_prefix("HTTP/1.1 ").expect("a status")[..3].to_owned();
    (status, body.to_owned(), client.address())
}

#[test]
fn a_health_check_is_answered_and_is_no_line_at_info() {
    for mesh in both_kinds() {
        let program = Program::of(&mesh.toml(ADMIN));
        for check in CHECKS {
            let (status, body, _) = answer(&program, check);
            let expected = if check.starts_with("HEAD") { "" } else { "ready\n" };
            assert_eq!((&*status, &*body), ("200", expected), "{check}");
        }
        // Everything else that asks for no upgrade is told to, and has a line.
        for other in [
            "GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            let (status, _, address) = answer(&program, other);
            assert_eq!(status, "426", "{other}");
            assert_eq!(program.ended(address)["cause"], "upgrade_refused");
        }
        let lines = program.lines(|line| line["cause"] == "health_check");
        assert!(lines.is_empty(), "{lines:?}");
        let ends = Metrics::of(program.admin()).value("remora_ends_total{cause=\"health_check\"}");
        assert_eq!(ends, CHECKS.len() as f64);
        assert_eq!(mesh.dials(), 0);
    }
}

#[test]
fn a_health_check_fails_while_no_node_is_up_and_while_the_balancer_drains() {
    let mesh = Mesh::of(0, 1);
    let tables = "[health]\nfailures_max = 1\ndown_min = \"60s\"\ndown_max = \"60s\"\n[drain]\ndelay = \"30s\"\n";
    let program = Program::of(&mesh.toml(tables));
    program.signal(rustix::process::Signal::TERM);
    wait::until("it says that it drains", || {
        let (status, body, _) = answer(&program, CHECKS[0]);
        (&*status, &*body) == ("503", "draining\n")
    });
    let mut mesh = mesh;
    let program = Program::of(&mesh.toml(tables));
    mesh.cluster.nodes[0].die();
    wait::until("it says that no node is up", || {
        let (status, body, _) = answer(&program, CHECKS[0]);
        (&*status, &*body) == ("503", "no node is up\n") || {
            let mut client = WsClient::to(program.address);
            client.send(&Connect::new("meets nobody").bytes());
            client.closed(1013);
            false
        }
    });
}
