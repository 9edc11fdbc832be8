use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;

use remora_sandbox::{Behaviour, Sandbox};

use super::*;
use crate::cluster::EndpointTls;
use crate::mqtt::Version;
use crate::net::dial;
use crate::net::held::{HeldBytes, Limits};
use crate::net::tls::throwaway::Authority;
use crate::net::tls::{self, Certificate, Clients, HandshakeQueue, Nodes, NodesOffer, NodesTls, Offer, Trust};
use crate::net::websocket::{AcceptPolicy, Readiness, Rejection, upgrade_client};

/// Long enough for every step on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(20);

const FRAMINGS: [Framing; 2] = [Framing::Raw, Framing::WebSocket];

fn packet(version: Version, client_id: &str) -> ConnectPacket<'_> {
    ConnectPacket {
        version,
        client_id,
        username: None,
        password: None,
        keep_alive: 30,
        clean_start: true,
    }
}

fn settings(framing: Framing, timeout: Duration) -> Settings {
    Settings {
        framing,
        timeout,
        names_client: true,
    }
}

/// An endpoint, and how it is reached with TLS.
struct Target {
    endpoint: Endpoint,
    tls: Arc<NodesTls>,
}

async fn try_connect(target: &Target, settings: Settings, version: Version) -> Result<Connack, NodeError> {
    let Target { endpoint, tls } = target;
    let dialer = Dialer::new(dial::Settings {
        timeout: TIMEOUT,
        ..dial::Settings::default()
    });
    let dialer = dialer.with_tls(Arc::clone(tls));
    let mut connection = connect(&dialer, endpoint, &settings).await?;
    let connack = connection.mqtt_connect(&packet(version, "probe")).await?;
    assert!(endpoint.addresses.contains(&connection.address()));
    connection.close().await;
    Ok(connack)
}

fn plain(endpoint: Endpoint) -> Target {
    let tls = Arc::default();
    Target { endpoint, tls }
}

fn endpoint(address: SocketAddr) -> Target {
    plain(Endpoint::plain(Arc::new([address])))
}

fn secured(address: SocketAddr, trusted: &Authority) -> Target {
    let nodes = Nodes::new(NodesOffer {
        trust: Trust::from_pem(trusted.pem().as_bytes()).expect("an authority"),
        ..NodesOffer::default()
    });
    let tls = NodesTls::default();
    tls.replace(Some(nodes.expect("TLS")));
    Target {
        endpoint: Endpoint {
            tls: Some(EndpointTls {
                server_name: "localhost".into(),
                is_verified: true,
            }),
            ..Endpoint::plain(Arc::new([address]))
        },
        tls: Arc::new(tls),
    }
}

fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// A node that reads once, answers with this, and closes; with what it has read.
fn fake(answer: &'static [u8]) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let (listener, address) = bound();
    let node = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().expect("a client");
        let mut received = vec![0; 4_096];
        let read = client.read(&mut received).expect("something");
        received.truncate(read);
        client.write_all(answer).expect("sent");
        received
    });
    (address, node)
}

/// Accepts one connection with TLS, upgrades it where it should, and accepts its CONNECT.
async fn serve_tls(listener: TcpListener, authority: &Authority, framing: Framing) {
    let pair = authority.server(&["localhost"]).expect("a certificate");
    let certificate = Certificate::from_pem(pair.chain.as_bytes(), pair.key.as_bytes());
    let acceptor = tls::Acceptor::new(Offer {
        certificates: vec![certificate.expect("valid")],
        version_min: tls::Version::Tls12,
        clients: Clients::Off,
        protocol: "mqtt",
        record_max: None,
    });
    listener.set_nonblocking(true).expect("an option");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let (client, _) = listener.accept().await.expect("a client");
    let socket = Socket::new(client.into_std().expect("registered no more").into()).expect("registered");
    let (queue, held) = (HandshakeQueue::default(), HeldBytes::new(Limits::default()));
    let acceptor = acceptor.expect("TLS");
    let Ok(secured) = acceptor
        .accept(socket, [127, 0, 0, 1].into(), &queue, held.reservation(Instant::now()))
        .await
    else {
        return;
    };
    let socket = secured.client;
    let mut bytes = Vec::new();
    if framing == Framing::WebSocket {
        let (policy, mut reservation) = (AcceptPolicy::default(), held.reservation(Instant::now()));
        let upgrade = upgrade_client(&socket, &policy, || Readiness::Ready, &mut reservation);
        upgrade.await.expect("an upgrade");
    }
    socket.recv_more(&mut bytes).await.expect("a CONNECT");
    let connack = match framing {
        Framing::Raw => vec![0x20, 2, 0, 0],
        Framing::WebSocket => vec![0x82, 4, 0x20, 2, 0, 0],
    };
    socket.close_after(&connack).await;
}

/// The step that failed, the cause, and the whole message.
async fn failure(target: &Target, settings: Settings) -> (Step, Cause, String) {
    let error = try_connect(target, settings, Version::V311)
        .await
        .expect_err("a failure");
    assert_eq!(error.address, target.endpoint.addresses.last().copied());
    let message = error.to_string();
    (error.step, error.cause, message)
}

#[tokio::test]
async fn a_node_accepts_our_connect_in_every_version_and_framing() {
    let sandbox = Sandbox::start(remora_sandbox::Settings::default()).expect("a sandbox");
    let node = &sandbox.nodes()[0];
    for framing in FRAMINGS {
        let endpoint = match framing {
            Framing::Raw => endpoint(node.address()),
            Framing::WebSocket => endpoint(node.ws_address()),
        };
        for version in [Version::V31, Version::V311, Version::V5] {
            let connack = try_connect(&endpoint, settings(framing, TIMEOUT), version).await;
            assert_eq!(connack.expect("accepted").code, 0);
        }
    }
}

#[tokio::test]
async fn a_node_accepts_our_connect_over_tls() {
    let authority = Authority::new().expect("an authority");
    for framing in FRAMINGS {
        let (listener, address) = bound();
        let endpoint = secured(address, &authority);
        let (_, connack) = tokio::join!(
            serve_tls(listener, &authority, framing),
            try_connect(&endpoint, settings(framing, TIMEOUT), Version::V311)
        );
        assert_eq!(connack.expect("accepted").code, 0);
    }
}

#[tokio::test]
async fn a_refusal_is_an_error_with_its_code() {
    let sandbox = Sandbox::start(remora_sandbox::Settings::default()).expect("a sandbox");
    let node = &sandbox.nodes()[0];
    node.behave(Behaviour::Refuse(0x88)).expect("it lives");
    for (version, expected) in [(Version::V311, 3), (Version::V5, 0x88)] {
        for (framing, address) in FRAMINGS.into_iter().zip([node.address(), node.ws_address()]) {
            let refused = try_connect(&endpoint(address), settings(framing, TIMEOUT), version).await;
            let error = refused.expect_err("refused");
            assert_eq!(error.step, Step::Mqtt);
            assert!(
                matches!(error.cause, Cause::Refused(code) if code == expected),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn a_node_that_is_not_there_fails_the_tcp_connect_whatever_would_follow() {
    let authority = Authority::new().expect("an authority");
    let (listener, address) = bound();
    drop(listener);
    for framing in FRAMINGS {
        for endpoint in [endpoint(address), secured(address, &authority)] {
            let (step, cause, message) = failure(&endpoint, settings(framing, TIMEOUT)).await;
            assert_eq!(step, Step::Connect);
            assert!(matches!(cause, Cause::Io(error) if error.kind() == ErrorKind::ConnectionRefused));
            assert!(message.starts_with(&format!("TCP connect at {address}: ")), "{message}");
        }
    }
    let unresolved = plain(Endpoint::plain(Arc::new([])));
    let (step, cause, _) = failure(&unresolved, settings(Framing::Raw, TIMEOUT)).await;
    assert_eq!(step, Step::Connect);
    assert!(matches!(cause, Cause::NoAddress));
}

#[tokio::test]
async fn a_certificate_that_is_not_trusted_fails_the_tls_handshake_in_the_words_of_the_library() {
    let (authority, other) = (Authority::new().expect("one"), Authority::new().expect("another"));
    let (listener, address) = bound();
    let endpoint = secured(address, &other);
    let (_, (step, cause, message)) = tokio::join!(
        serve_tls(listener, &authority, Framing::Raw),
        failure(&endpoint, settings(Framing::Raw, TIMEOUT))
    );
    assert_eq!(step, Step::Tls);
    assert!(matches!(cause, Cause::Tls(_)));
    assert!(message.contains("invalid peer certificate"), "{message}");
}

#[tokio::test]
async fn a_node_without_tls_fails_the_tls_handshake() {
    let authority = Authority::new().expect("an authority");
    for (answer, is_closed) in [(&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], false), (b"", true)] {
        let (address, node) = fake(answer);
        let (step, cause, message) = failure(&secured(address, &authority), settings(Framing::Raw, TIMEOUT)).await;
        assert_eq!(step, Step::Tls);
        assert_eq!(matches!(cause, Cause::Closed), is_closed, "{message}");
        assert_eq!(matches!(cause, Cause::Tls(_)), !is_closed, "{message}");
        node.join().expect("it ends");
    }
}

#[tokio::test]
async fn a_rejected_upgrade_is_an_error_with_its_status() {
    for (answer, expected) in [
        (&b"HTTP/1.1 404 Not Found\r\n\r\n"[..], Some("404 Not Found")),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Some("something that is not HTTP")),
        (b"", None),
    ] {
        let (address, node) = fake(answer);
        let (step, cause, message) = failure(&endpoint(address), settings(Framing::WebSocket, TIMEOUT)).await;
        assert_eq!(step, Step::Upgrade);
        match (cause, expected) {
            (Cause::UpgradeRejected(Rejection::Status(status)), Some(_)) => assert_eq!(status.as_u16(), 404),
            (Cause::UpgradeRejected(Rejection::Invalid(_)), Some(_)) | (Cause::Closed, None) => {}
            (cause, _) => panic!("{cause:?}"),
        }
        assert!(expected.is_none_or(|expected| message.ends_with(expected)), "{message}");
        let request = node.join().expect("it ends");
        assert!(request.starts_with(b"GET /mqtt HTTP/1.1\r\n"));
    }
}

#[tokio::test]
async fn an_answer_that_is_no_connack_is_told_from_none() {
    let (address, node) = fake(b"SSH-2.0-OpenSSH\r\n");
    let (step, cause, _) = failure(&endpoint(address), settings(Framing::Raw, TIMEOUT)).await;
    assert_eq!(step, Step::Mqtt);
    assert!(matches!(cause, Cause::NotConnack), "{cause}");
    node.join().expect("it ends");
    let (address, node) = fake(b"");
    let (step, cause, _) = failure(&endpoint(address), settings(Framing::Raw, TIMEOUT)).await;
    assert_eq!(step, Step::Mqtt);
    assert!(matches!(cause, Cause::Closed), "{cause}");
    node.join().expect("it ends");
}

#[tokio::test]
async fn a_node_that_does_not_answer_fails_the_step_that_waits_for_it() {
    let authority = Authority::new().expect("an authority");
    // The kernel completes the connection, but it is never read.
    let (_listener, address) = bound();
    for (endpoint, framing, expected) in [
        (endpoint(address), Framing::Raw, Step::Mqtt),
        (endpoint(address), Framing::WebSocket, Step::Upgrade),
        (secured(address, &authority), Framing::Raw, Step::Tls),
    ] {
        let (step, cause, message) = failure(&endpoint, settings(framing, Duration::from_millis(50))).await;
        assert_eq!(step, expected);
        assert!(matches!(cause, Cause::TimedOut), "{message}");
        assert!(message.ends_with("timed out"), "{message}");
    }
}

#[tokio::test]
async fn a_proxy_header_of_our_own_names_this_machine() {
    let (address, node) = fake(&[0x20, 2, 0, 0]);
    let mut target = endpoint(address);
    target.endpoint.proxy_protocol = Some(proxy_protocol::Version::V1);
    // The header goes out alone, since the CONNECT comes later: the node may read one without the other.
    let _ = try_connect(&target, settings(Framing::Raw, TIMEOUT), Version::V311).await;
    let received = node.join().expect("it ends");
    let line = received.split(|byte| *byte == b'\r').next().expect("a line");
    let line = std::str::from_utf8(line).expect("text");
    let words: Vec<&str> = line.split(' ').collect();
    let port = address.port().to_string();
    assert_eq!(words[..4], ["PROXY", "TCP4", "127.0.0.1", "127.0.0.1"], "{line}");
    assert_eq!(words[5], port, "{line}");
}
