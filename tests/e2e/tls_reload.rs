//! Certificates are swapped where they are: new ones for new clients at once, and nobody is cut.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::HandshakeKind;
use tokio::time::Instant;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program, toml};
use crate::certificates::{BOTH, Certificates, Flaw, NAME, TLS12, TLS13, der};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::{self, Connect};
use crate::tls_client::{TlsClient, TlsEnd};
use crate::wait;

#[test]
fn a_new_certificate_is_served_at_once_and_nobody_is_cut() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let config = toml(&cluster, &certificates.listener(), ADMIN);
    let program = Program::of(&config);
    let configs = [TLS12, TLS13].map(|versions| Arc::new(certificates.trusting(versions, None)));
    let mut before: Vec<_> = (0..40)
        .map(|number| {
            let connect = Connect::new(format!("stays-{number}"));
            let client = TlsClient::accepted(program.address, &configs[number % 2], &connect);
            (client, cluster.holder(&connect.bytes()).1)
        })
        .collect();
    for round in 0..3 {
        let new = certificates.server("mqtt.pem", &[NAME]);
        let began = Instant::now();
        program.reload(&config);
        for config in &configs {
            // Sessions go on across the change, so that a change is no storm.
            let client = TlsClient::accepted(program.address, config, &Connect::new("new"));
            assert_eq!(client.kind(), HandshakeKind::Resumed, "{round}");
            // A client without a session sees the new one.
            let fresh = Arc::new(certificates.trusting(BOTH, None));
            let fresh = TlsClient::to(program.address, &fresh);
            assert_eq!(fresh.kind(), HandshakeKind::Full);
            assert_eq!(fresh.shown(), der(&new), "{round}");
        }
        assert!(began.elapsed() < Duration::from_secs(1));
        for (number, (client, node)) in before.iter_mut().enumerate() {
            let connect = Connect::new(format!("stays-{number}")).bytes();
            client.send(&[round]);
            node.expect_count(connect.len() + 1 + usize::from(round));
            node.send(&[round]);
            client.expect(&[round]);
        }
    }
    for (client, _) in &before {
        assert!(!program.has_ended(client.address()));
    }
}

#[test]
fn a_folder_of_certificates_is_listed_again_at_each_reload() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    std::fs::create_dir(certificates.path("certs")).expect("a folder");
    let other = certificates.server("certs/b.pem", &["other.example"]);
    let program = Program::of(&toml(&cluster, &certificates.listener_with(&["certs"]), ""));
    let trusting = Arc::new(certificates.trusting(BOTH, None));
    let shown = || {
        let client = TlsClient::on(Client::to(program.address), &trusting, "other.example");
        client.expect("a handshake").shown()
    };
    assert_eq!(shown(), der(&other));
    // By its name, the new one is the first; its key is beside it.
    let first = certificates.server("whole.pem", &[NAME]);
    certificates.write("certs/a.pem", &first.chain);
    certificates.write("certs/a.pem.key", &first.key);
    program.reload(&toml(&cluster, &certificates.listener_with(&["certs"]), ""));
    let client = TlsClient::to(program.address, &Arc::new(certificates.trusting(BOTH, None)));
    assert_eq!(client.shown(), der(&first));
    assert_eq!(shown(), der(&other));
    // One that is none keeps them.
    certificates.write("certs/c.pem", "no certificate");
    program.reload_in_vain(&toml(&cluster, &certificates.listener_with(&["certs"]), ""));
    let told = program.lines(|line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("certs/c.pem"))
    });
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(shown(), der(&other));
}

#[test]
fn a_wrong_new_file_keeps_the_old_certificate_and_is_told_with_its_place() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let config = toml(&cluster, &certificates.listener(), ADMIN);
    let program = Program::of(&config);
    let trusting = Arc::new(certificates.trusting(BOTH, None));
    let old = TlsClient::to(program.address, &trusting).shown();
    let other = certificates.client("other");
    let good = certificates.authority.server(&[NAME]).expect("a pair");
    let place = config
        .lines()
        .position(|line| line.starts_with("certificates"))
        .expect("a key")
        + 1;
    for (text, says) in [
        (String::new(), "no certificate"),
        ("junk".to_owned(), "no certificate"),
        (good.chain.clone(), "no private key"),
        (format!("{}{}", good.chain, other.key), "another certificate"),
        (good.chain[..good.chain.len() / 2].to_owned(), "not PEM"),
    ] {
        certificates.write("mqtt.pem", &text);
        program.reload_in_vain(&config);
        let errors = program.lines(|line| line["level"] == "ERROR" && !line["file"].is_null());
        let line = errors.last().expect("a line");
        let message = line["message"].as_str().expect("a message");
        assert!(message.contains(says), "{message}");
        let file = line["file"].as_str().expect("a file");
        assert!(file.contains(&format!("remora.toml:{place}:")), "{file}");
        let fresh = Arc::new(certificates.trusting(BOTH, None));
        assert_eq!(TlsClient::to(program.address, &fresh).shown(), old);
    }
    std::fs::remove_file(certificates.path("mqtt.pem")).expect("a file");
    program.reload_in_vain(&config);
    let value = Metrics::of(program.admin()).value("remora_config_last_reload_successful");
    assert_eq!(value, 0.0);
}

#[test]
fn whoever_is_revoked_by_a_reload_does_not_come_in_with_an_old_session() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    certificates.revoke("crl.pem", &[99]);
    let crl = format!("client_crl = \"{}\"", certificates.path("crl.pem"));
    let listener = format!("{}\n{crl}", certificates.asking_listener("required"));
    let config = toml(&cluster, &listener, "");
    let program = Program::of(&config);
    for (number, versions) in [(7, TLS12), (8, TLS13)] {
        let pair = certificates.odd_client("gauge", &[], number, None);
        let trusting = Arc::new(certificates.trusting(versions, Some(&pair)));
        let connect = Connect::new("id");
        let mut stays = TlsClient::accepted(program.address, &trusting, &connect);
        let (_, node) = cluster.holder(&connect.bytes());
        certificates.revoke("crl.pem", &[number]);
        program.reload(&config);
        let tcp = Client::to(program.address);
        let address = tcp.address();
        if let Ok(mut client) = TlsClient::on(tcp, &trusting, NAME) {
            // It may be gone already.
            let _ = client.try_send(&Connect::new("again").bytes());
            let (bytes, end) = client.rest();
            assert!(bytes.is_empty() && matches!(end, TlsEnd::Alert(_)), "{end:?}");
        }
        assert_eq!(program.ended(address)["cause"], "certificate_refused");
        // Nobody who is in is cut.
        node.send(&packets::publish(b"still"));
        stays.expect(&packets::publish(b"still"));
        stays.tcp.reset();
        program.ended(stays.address());
    }
}

#[test]
fn whoever_has_expired_does_not_come_in_with_an_old_session() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let listener = certificates.asking_listener("required");
    let program = Program::of(&toml(&cluster, &listener, ""));
    let pair = certificates.odd_client("gauge", &[], 9, Some(Flaw::ExpiresSoon));
    let end = SystemTime::now() + Duration::from_secs(3);
    let config = |versions| Arc::new(certificates.trusting(versions, Some(&pair)));
    let configs = [config(TLS12), config(TLS13)];
    for config in &configs {
        let client = TlsClient::accepted(program.address, config, &Connect::new("id"));
        assert_eq!(client.kind(), HandshakeKind::Full);
        client.tcp.reset();
        program.ended(client.address());
    }
    wait::until("the certificate's end", || SystemTime::now() > end);
    for config in &configs {
        let mut client = TlsClient::to(program.address, config);
        assert_eq!(client.kind(), HandshakeKind::Resumed);
        assert_eq!(client.end(), TlsEnd::Said);
        let address = client.address();
        drop(client);
        assert_eq!(program.ended(address)["cause"], "certificate_refused");
    }
}

#[test]
fn a_listener_turns_to_tls_and_back_for_new_clients_only() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let address = crate::node::own_address();
    let port = std::net::TcpListener::bind((address, 0)).expect("a free port");
    let at = port.local_addr().expect("an address");
    drop(port);
    let with = |listener: &str| toml(&cluster, listener, "").replace("127.0.0.1:0", &at.to_string());
    let (plain, secured) = (with(""), with(&certificates.listener()));
    let program = Program::of(&plain);
    let trusting = Arc::new(certificates.trusting(BOTH, None));
    let mut first = Client::accepted(at, &Connect::new("first"));
    let (_, its_node) = cluster.holder(&Connect::new("first").bytes());
    program.reload(&secured);
    let mut second = TlsClient::accepted(at, &trusting, &Connect::new("second"));
    let (_, second_node) = cluster.holder(&Connect::new("second").bytes());
    program.reload(&plain);
    Client::accepted(at, &Connect::new("third"));
    its_node.send(b"first");
    first.expect(b"first");
    second_node.send(b"second");
    second.expect(b"second");
}

/// A list that has expired is warned of and used; where it must be current, it keeps out every client of its authority,
/// those that resume a session included.
#[test]
fn an_expired_list_is_warned_of_and_refuses_where_it_must_be_current() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let now = SystemTime::now();
    let minute = Duration::from_secs(60);
    certificates.revoke("crl.pem", &[13]);
    let listener = |more: &str| {
        let crl = certificates.path("crl.pem");
        let asking = certificates.asking_listener("required");
        toml(
            &cluster,
            &format!("name = \"mqtts\"\n{asking}\nclient_crl = \"{crl}\"\n{more}"),
            ADMIN,
        )
    };
    let program = Program::of(&listener(""));
    let expiry = || {
        let metrics = Metrics::of(program.admin());
        metrics.value("remora_revocation_list_expiry_timestamp_seconds{listener=\"mqtts\"}")
    };
    let seconds = |time: SystemTime| {
        let since = time.duration_since(std::time::UNIX_EPOCH);
        since.expect("after 1970").as_secs() as f64
    };
    assert!(expiry() > seconds(now));
    let warnings = || program.lines(|line| line["message"] == "client_crl: a list of revoked certificates has expired");
    assert!(warnings().is_empty());

    let pair = certificates.odd_client("gauge", &[], 7, None);
    let revoked = certificates.odd_client("revoked", &[], 13, None);
    let config = |pair| Arc::new(certificates.trusting(TLS13, Some(pair)));
    let comes_in = |config: &Arc<_>| {
        let tcp = Client::to(program.address);
        let address = tcp.address();
        let (mut is_in, mut kind) = (false, None);
        if let Ok(mut client) = TlsClient::on(tcp, config, NAME) {
            // It may be gone already.
            let _ = client.try_send(&Connect::new("again").bytes());
            is_in = client.hears(&packets::connack(4, 0));
            kind = Some(client.kind());
            client.tcp.reset();
        }
        let cause = program.ended(address)["cause"].as_str().expect("a cause").to_owned();
        assert_eq!(is_in, cause != "certificate_refused", "{cause}");
        (is_in, kind)
    };
    certificates.revoke_until("crl.pem", &[13], now - minute);
    program.reload(&listener(""));
    program.until_said("client_crl: a list of revoked certificates has expired");
    assert_eq!(warnings()[0]["listener"], "mqtts");
    assert_eq!(
        (&warnings()[0]["event"], &warnings()[0]["code"]),
        (&"finding".into(), &"revocation_list_expired".into())
    );
    assert_eq!(expiry(), seconds(now - minute));
    assert!(comes_in(&config(&pair)).0, "the list is old");
    assert!(!comes_in(&config(&revoked)).0, "and still says who is revoked");

    // One that is current lets them in; it expires while they have tickets.
    let until = SystemTime::now() + Duration::from_secs(4);
    certificates.revoke_until("crl.pem", &[13], until);
    program.reload(&listener("client_crl_expired = \"refuse\""));
    let returning = config(&pair);
    assert!(comes_in(&returning).0);
    wait::until("it expires, and is warned of again", || warnings().len() == 2);
    assert_eq!(comes_in(&returning), (false, Some(HandshakeKind::Resumed)));
    assert!(!comes_in(&config(&pair)).0, "without a ticket");
}
