//! TLS at the door: who comes in, with what, and what everyone else is told.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose as Usage, KeyPair};
use remora::net::held::{CONNECTION_BYTES, TLS_BYTES};
use remora::net::tls::throwaway::Pair;
use rustls::{AlertDescription, ClientConnection, HandshakeKind};
use tokio::time::Instant;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program, toml};
use crate::certificates::{self, BOTH, Certificates, Flaw, NAME, TLS12, TLS13, chains_out_of_bounds, der};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::header::{self, Version, tlvs};
use crate::node::{Answer, End};
use crate::packets::{self, Connect};
use crate::raise_descriptor_limit;
use crate::slow::{Waits, drip, p90_max};
use crate::tls_client::{Failed, TlsClient, TlsEnd, connection, hello, seal, second_flight};
use crate::wait::{self, uninterrupted};

/// A handshake that must fail: how it ended, and the cause in the log.
#[track_caller]
fn failed(program: &Program, failed: Result<TlsClient, Failed>) -> (TlsEnd, String) {
    let failed = failed.expect_err("no handshake");
    (failed.end, cause(&program.ended(failed.client)))
}

fn cause(line: &serde_json::Value) -> String {
    line["cause"].as_str().expect("a cause").to_owned()
}

#[test]
fn both_versions_are_spoken_and_the_oldest_can_be_set() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let listener = certificates.listener();
    let program = Program::of(&toml(&cluster, &listener, ""));
    let strict = Program::of(&toml(&cluster, &format!("{listener}\ntls_min = \"1.3\""), ""));
    let old = Arc::new(certificates.trusting(TLS12, None));
    let new = Arc::new(certificates.trusting(TLS13, None));
    for (config, version) in [
        (&old, rustls::ProtocolVersion::TLSv1_2),
        (&new, rustls::ProtocolVersion::TLSv1_3),
    ] {
        let connect = Connect::new("id");
        let mut client = TlsClient::accepted(program.address, config, &connect);
        assert_eq!(client.tls.protocol_version(), Some(version));
        let (_, node) = cluster.holder(&connect.bytes());
        client.send(&packets::publish(b"up"));
        node.expect(&[connect.bytes(), packets::publish(b"up")].concat());
        node.send(b"down");
        client.expect(b"down");
        client.fin();
        assert_eq!(node.end(), End::Fin);
        node.fin();
        assert_eq!(client.end(), TlsEnd::Said);
        assert_eq!(cause(&program.ended(client.address())), "client_closed");
    }
    TlsClient::accepted(strict.address, &new, &Connect::new("id"));
    let (end, cause) = failed(&strict, TlsClient::on(Client::to(strict.address), &old, NAME));
    assert_eq!(end, TlsEnd::Alert(AlertDescription::ProtocolVersion));
    assert_eq!(cause, "tls_incompatible");
}

#[test]
fn the_server_name_picks_the_certificate() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let default = certificates.server("default.pem", &["default.example"]);
    let wildcard = certificates.server("wildcard.pem", &["*.site.example", "site.example"]);
    let exact = certificates.server("exact.pem", &["a.site.example"]);
    let files = ["default.pem", "wildcard.pem", "exact.pem"];
    let program = Program::of(&toml(&cluster, &certificates.listener_with(&files), ""));
    for versions in [TLS12, TLS13] {
        let config = Arc::new(certificates.trusting(versions, None));
        for (name, pair) in [
            ("default.example", &default),
            ("a.site.example", &exact),
            ("A.Site.Example", &exact),
            ("b.site.example", &wildcard),
            ("site.example", &wildcard),
        ] {
            let client = TlsClient::on(Client::to(program.address), &config, name);
            let mut client = client.unwrap_or_else(|failed| panic!("{name}: {failed:?}"));
            assert_eq!(client.shown(), der(pair), "{name}");
            client.connect(&Connect::new("id"));
            client.tcp.reset();
            let line = program.ended(client.address());
            assert_eq!(line["server_name"], name.to_ascii_lowercase());
        }
        // The default is for everyone else, who does not have to like it. An address is no server name.
        for name in ["b.a.site.example", "other.example", "127.0.0.1"] {
            let (end, cause) = failed(&program, TlsClient::on(Client::to(program.address), &config, name));
            assert_eq!(cause, "certificate_distrusted", "{name}");
            assert_eq!(end, TlsEnd::Refused, "{name}");
        }
    }
}

#[test]
fn whoever_names_a_protocol_of_ours_is_answered_and_everyone_else_is_served() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let config = format!(
        "{}\n[[listeners]]\naddress = \"127.0.0.1:0\"\ntransport = \"ws\"\n{}\n",
        toml(&cluster, &certificates.listener(), ""),
        certificates.listener()
    );
    let program = Program::of(&config);
    for (listener, ours) in [(0, "mqtt"), (1, "http/1.1")] {
        for versions in [TLS12, TLS13] {
            for (named, answer) in [
                (&[][..], None),
                (&[ours][..], Some(ours)),
                (&["h2", ours][..], Some(ours)),
                (&["h2", "acme-tls/1"][..], None),
                (&["MQTT"][..], None),
            ] {
                let mut config = certificates.trusting(versions, None);
                config.alpn_protocols = named.iter().map(|name| name.as_bytes().to_vec()).collect();
                let client = TlsClient::to(program.addresses[listener], &Arc::new(config));
                let answered = client.tls.alpn_protocol();
                assert_eq!(answered, answer.map(str::as_bytes), "{ours}: {named:?}");
            }
        }
    }
}

#[test]
fn clients_come_in_by_their_certificates() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    certificates.revoke("revoked.pem", &[13]);
    let crl = format!("client_crl = \"{}\"", certificates.path("revoked.pem"));
    let program = |whom: &str| {
        let listener = format!("{}\n{crl}", certificates.asking_listener(whom));
        Program::of(&toml(&cluster, &listener, ""))
    };
    let (optional, required) = (program("optional"), program("required"));
    let off = Program::of(&toml(&cluster, &certificates.listener(), ""));
    let right = certificates.odd_client("right", &["gauge.example"], 7, None);
    let revoked = certificates.odd_client("revoked", &[], 13, None);
    let odd = |flaw| certificates.odd_client("odd", &[], 8, Some(flaw));
    // Of an authority with the same name, which is not the same; and of nobody but itself.
    let namesake = Certificates::new().client("namesake");
    let own = own_authority();
    let cases = [
        (Some(right), true, None),
        (None, false, Some(AlertDescription::CertificateRequired)),
        (Some(revoked), false, Some(AlertDescription::CertificateRevoked)),
        (Some(namesake), false, Some(AlertDescription::DecryptError)),
        (Some(own), false, Some(AlertDescription::UnknownCA)),
        (
            Some(odd(Flaw::Expired)),
            false,
            Some(AlertDescription::CertificateExpired),
        ),
        (Some(odd(Flaw::NotYetValid)), false, None),
        (Some(odd(Flaw::Purpose)), false, None),
    ];
    for versions in [TLS12, TLS13] {
        for (pair, comes_in, alert) in &cases {
            let shows = pair.is_some();
            let config = Arc::new(certificates.trusting(versions, pair.as_ref()));
            // Nobody is asked.
            let client = TlsClient::accepted(off.address, &config, &Connect::new("id"));
            client.tcp.reset();
            assert!(off.ended(client.address())["certificate_cn"].is_null());
            for program in [&optional, &required] {
                let client = Client::to(program.address);
                let address = client.address();
                let welcome = *comes_in || (!shows && std::ptr::eq(program, &optional));
                // With TLS 1.3, the client is done before it is judged.
                match TlsClient::on(client, &config, NAME) {
                    Ok(mut client) if welcome => {
                        client.connect(&Connect::new("id"));
                        client.tcp.reset();
                        let line = program.ended(address);
                        assert_eq!(line["certificate_cn"].is_null(), !shows);
                    }
                    Ok(mut client) => {
                        // It may be gone already.
                        let _ = client.try_send(&Connect::new("id").bytes());
                        let (bytes, end) = client.rest();
                        assert!(bytes.is_empty());
                        drop(client);
                        judged(end, *alert, pair.is_some());
                        assert_eq!(cause(&program.ended(address)), "certificate_refused");
                    }
                    Err(failed) => {
                        assert!(!welcome, "{failed:?}");
                        judged(failed.end, *alert, pair.is_some());
                        assert_eq!(cause(&program.ended(address)), "certificate_refused");
                    }
                }
            }
        }
    }
    let hears = cluster.dials();
    assert_eq!(hears, 2 * (cases.len() + 2 + 1), "nobody else was dialled for");
}

#[test]
fn certificates_that_openssl_takes_come_in_and_of_others_the_log_says_what_is_wrong() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let listed = Certificates::self_signed("listed", &[], true, None);
    let leaf = Certificates::self_signed("leaf", &[], false, Some(Usage::ClientAuth));
    let server = Certificates::self_signed("server", &[], true, Some(Usage::ServerAuth));
    let files = [&certificates.authority.pem(), &listed.chain, &leaf.chain, &server.chain];
    certificates.write("ca.pem", &files.map(|pem| &**pem).concat());
    let listener = certificates.asking_listener("required");
    let program = Program::of(&toml(&cluster, &listener, ""));
    certificates.revoke("revoked.pem", &[13]);
    let with_list = format!("{listener}\nclient_crl = \"{}\"", certificates.path("revoked.pem"));
    let with_list = Program::of(&toml(&cluster, &with_list, ""));
    let gone = certificates.as_version_one(certificates.odd_client("gone", &[], 13, None));
    // Of an authority with the same name and another key.
    let other = Certificates::new();
    other.revoke("revoked.pem", &[13]);
    let with_namesakes_list = format!("{listener}\nclient_crl = \"{}\"", other.path("revoked.pem"));
    let with_namesakes_list = Program::of(&toml(&cluster, &with_namesakes_list, ""));
    let own = Certificates::self_signed("own", &[], true, None);
    // Of another authority with the same name; and signed by a device whose certificate is in the file.
    let namesake = Certificates::new().version_one("namesake");
    let by_leaf = signed_by(&leaf, "leaf");
    let ours = certificates.version_one("old");
    // What everyone can read of a device, without its key.
    let stolen = |pair: &Pair| Pair {
        key: own.key.clone(),
        ..pair.clone()
    };
    let (stolen, stolen_listed) = (stolen(&ours), stolen(&listed));
    let cases = [
        (&program, &listed, Ok("listed")),
        (&program, &leaf, Ok("leaf")),
        (&program, &ours, Ok("old")),
        (&program, &stolen, Err("not of the certificate's own key")),
        (&program, &stolen_listed, Err("not of the certificate's own key")),
        (&program, &server, Err("extendedKeyUsage")),
        (&program, &own, Err("not itself in the trusted file")),
        (&program, &namesake, Err("version 1")),
        (&program, &by_leaf, Err("no authority in the trusted file")),
        (&with_list, &ours, Ok("old")),
        (&with_list, &gone, Err("certificate is revoked")),
        (&with_list, &listed, Err("client_crl has no list")),
        (&with_namesakes_list, &ours, Err("no list of revoked certificates")),
    ];
    for versions in [TLS12, TLS13] {
        for (program, pair, expected) in &cases {
            let config = Arc::new(certificates.trusting(versions, Some(pair)));
            let client = Client::to(program.address);
            let address = client.address();
            let client = TlsClient::on(client, &config, NAME);
            match (client, expected) {
                (Ok(mut client), Ok(name)) => {
                    client.connect(&Connect::new("id"));
                    client.tcp.reset();
                    let line = program.ended(address);
                    assert_eq!(line["certificate_cn"], *name);
                    assert!(line["why"].is_null());
                }
                (client, Err(why)) => {
                    drop(client);
                    let line = program.ended(address);
                    assert_eq!(cause(&line), "certificate_refused");
                    let said = line["why"].as_str().expect("words");
                    assert!(said.contains(why), "{said}");
                }
                (Err(failed), Ok(name)) => panic!("{name}: {failed:?}, {}", program.ended(address)),
            }
        }
    }
}

#[test]
fn more_authorities_than_a_client_can_be_told_keep_nobody_out() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let key = KeyPair::generate().expect("a key");
    let mut bundle = certificates.authority.pem();
    for number in 0..800 {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        let name = format!("Authority number {number} of many, for the devices of this site and for those of others");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        bundle += &params.self_signed(&key).expect("a certificate").pem();
    }
    certificates.write("ca.pem", &bundle);
    let program = Program::of(&toml(&cluster, &certificates.asking_listener("required"), ""));
    let ours = certificates.client("ours");
    for versions in [TLS12, TLS13] {
        let config = Arc::new(certificates.trusting(versions, Some(&ours)));
        TlsClient::accepted(program.address, &config, &Connect::new("id"));
    }
    let warned = program.lines(|line| line.to_string().contains("so clients are told none of them"));
    assert_eq!(warned.len(), 1);
}

/// A client's certificate that was signed with the key of another one.
fn signed_by(issuer: &Pair, name: &str) -> Pair {
    let key = KeyPair::from_pem(&issuer.key).expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let issuer = rcgen::Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.extended_key_usages = vec![Usage::ClientAuth];
    Pair {
        chain: params.signed_by(&key, &issuer).expect("a certificate").pem(),
        key: key.serialize_pem(),
    }
}

#[test]
fn a_chain_out_of_bounds_is_refused_however_good_its_first_certificate_is() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let program = Program::of(&toml(&cluster, &certificates.asking_listener("optional"), ""));
    let known = certificates.client("somebody");
    for versions in [TLS12, TLS13] {
        for (others, _) in chains_out_of_bounds(&known) {
            let config = Arc::new(certificates.showing_behind(versions, &known, &others));
            let client = Client::to(program.address);
            let address = client.address();
            let end = match TlsClient::on(client, &config, NAME) {
                Ok(mut client) => client.rest().1,
                Err(failed) => failed.end,
            };
            assert_eq!(end, TlsEnd::Alert(AlertDescription::CertificateUnknown));
            assert_eq!(cause(&program.ended(address)), "certificate_refused");
        }
        // As many as there may be.
        let others: Vec<_> = (0..5).map(|bytes| vec![0; bytes].into()).collect();
        let config = Arc::new(certificates.showing_behind(versions, &known, &others));
        TlsClient::accepted(program.address, &config, &Connect::new("id"));
    }
    assert_eq!(cluster.dials(), 2, "nobody else was dialled for");
}

/// A client's certificate that no authority has signed.
fn own_authority() -> Pair {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["gauge.example".to_owned()]).expect("a name");
    Pair {
        chain: params.self_signed(&key).expect("a certificate").pem(),
        key: key.serialize_pem(),
    }
}

/// Whether the client was told why it may not come in.
#[track_caller]
fn judged(end: TlsEnd, alert: Option<AlertDescription>, shown: bool) {
    let TlsEnd::Alert(told) = end else {
        panic!("no alert, but {end:?}");
    };
    match alert {
        // TLS 1.2 has no word for a missing one.
        Some(AlertDescription::CertificateRequired) if !shown => {}
        Some(alert) => assert_eq!(told, alert),
        None => {}
    }
}

#[test]
fn a_client_that_does_not_trust_us_says_so_in_the_log() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let program = Program::of(&toml(&cluster, &certificates.listener(), ""));
    // Another authority with the same name, as one that was made anew; and one with another name, of a self-signed certificate.
    let namesake = Certificates::new();
    let own = own_authority();
    for versions in [TLS12, TLS13] {
        for config in [
            namesake.trusting(versions, None),
            certificates::trusting(&own, versions),
        ] {
            let config = Arc::new(config);
            let (end, cause) = failed(&program, TlsClient::on(Client::to(program.address), &config, NAME));
            assert_eq!(end, TlsEnd::Refused);
            assert_eq!(cause, "certificate_distrusted");
        }
    }
}

/// What a node is told of a client's TLS: verify flags, version, cipher, common name.
#[track_caller]
fn told(header: &crate::header::Header) -> (u8, u32, String, String, Option<String>) {
    let ssl = header.tlv(0x20).expect("that there is TLS");
    let verify = u32::from_be_bytes(ssl[1..5].try_into().expect("four bytes"));
    let inner = tlvs(&ssl[5..]);
    let text = |kind: u8| {
        let found = inner.iter().find(|(is, _)| *is == kind);
        found.map(|(_, value)| String::from_utf8(value.clone()).expect("text"))
    };
    (
        ssl[0],
        verify,
        text(0x21).expect("a version"),
        text(0x23).expect("a cipher"),
        text(0x22),
    )
}

#[test]
fn nodes_and_the_log_hear_who_the_client_is_also_when_it_resumes() {
    let (cluster, certificates) = (Cluster::of(3), Certificates::new());
    cluster.nodes.iter().for_each(|node| node.expect_header(Version::V2));
    let listener = certificates.asking_listener("optional");
    let tables = "[affinity]\nkey = \"certificate_cn\"";
    let program = Program::of(&toml(&cluster, &listener, tables));
    let pair = certificates.odd_client("gauge 7", &["gauge-7.example", "192.0.2.7"], 7, None);
    for (versions, version) in [(TLS12, "TLSv1.2"), (TLS13, "TLSv1.3")] {
        for (shown, name) in [(Some(&pair), Some("gauge 7")), (None, None)] {
            let config = Arc::new(certificates.trusting(versions, shown));
            for round in 0..2 {
                let connect = Connect::new(format!("{version}-{name:?}-{round}"));
                let mut client = TlsClient::accepted(program.address, &config, &connect);
                let (number, node) = cluster.holder(&connect.bytes());
                let key = name.map_or(connect.client_id.clone(), |name| name.as_bytes().to_vec());
                assert_eq!(number, cluster.home(&key), "{version} {name:?}");
                let header = node.header();
                assert_eq!(header.client(), client.address());
                assert_eq!(header.tlv(0x02), Some(NAME.as_bytes()));
                let (flags, verify, said, cipher, common_name) = told(&header);
                let resumed = client.kind() == HandshakeKind::Resumed;
                assert_eq!(resumed, round == 1, "{version}: the second resumes");
                // TLS; a certificate on this connection; one in this session.
                let expected = match (name, resumed) {
                    (None, _) => 1,
                    (Some(_), false) => 1 | 2 | 4,
                    (Some(_), true) => 1 | 4,
                };
                assert_eq!(flags, expected, "{version} {name:?} {round}");
                // Zero only where a certificate was verified.
                assert_eq!(verify == 0, name.is_some(), "{version} {name:?}");
                assert_eq!((&*said, common_name.as_deref()), (version, name));
                let expected = match version {
                    "TLSv1.2" => "ECDHE-ECDSA-AES256-GCM-SHA384",
                    _ => "TLS_AES_256_GCM_SHA384",
                };
                assert_eq!(cipher, expected, "as OpenSSL calls it");
                client.fin();
                node.end();
                node.fin();
                client.end();
                let line = program.ended(client.address());
                assert_eq!(line["server_name"], NAME);
                assert_eq!(line["certificate_cn"].as_str(), name);
                let names = name.map_or(serde_json::Value::Null, |_| ["gauge-7.example", "192.0.2.7"].into());
                assert_eq!(line["certificate_names"], names);
            }
        }
    }
}

#[test]
fn a_balancer_before_this_one_says_who_the_client_is_and_tls_here_says_the_rest() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    cluster.nodes[0].expect_header(Version::V2);
    let from = "proxy_protocol_from = [\"127.0.0.0/8\"]";
    let listener = format!("{}\n{from}", certificates.asking_listener("optional"));
    let program = Program::of(&toml(&cluster, &listener, ""));
    let pair = certificates.client("here");
    let config = Arc::new(certificates.trusting(BOTH, Some(&pair)));
    let client: std::net::SocketAddr = "192.0.2.7:51000".parse().expect("an address");
    // What it says of TLS before it is not what this balancer has seen.
    let before = header::tlv(0x02, b"before.example");
    let headers = [
        header::v1("192.0.2.7:51000"),
        header::v2("192.0.2.7:51000", &[before, header::ssl(b"before")].concat()),
    ];
    for (number, said) in headers.into_iter().enumerate() {
        let mut tcp = Client::to(program.address);
        // The header and the ClientHello are one segment.
        let mut tls = connection(&config, NAME);
        let mut first = said;
        tls.write_tls(&mut first).expect("a hello");
        tcp.send(&first);
        while tls.is_handshaking() {
            tls.complete_io(&mut tcp.stream).expect("a handshake");
        }
        let mut secured = TlsClient { tcp, tls };
        secured.connect(&Connect::new("id"));
        let header = cluster.nodes[0].connection(number).header();
        assert_eq!(header.client(), client);
        assert_eq!(header.tlv(0x02), Some(NAME.as_bytes()));
        assert_eq!(told(&header).4.as_deref(), Some("here"));
        secured.tcp.reset();
        assert_eq!(program.ended(client)["certificate_cn"], "here");
    }
    // TLS without a header before it.
    let tcp = Client::to(program.address);
    let address = tcp.address();
    TlsClient::on(tcp, &config, NAME).expect_err("no handshake");
    assert_eq!(cause(&program.ended(address)), "proxy_header");
}

#[test]
fn a_name_that_could_forge_a_line_comes_in_nowhere() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    cluster.nodes[0].expect_header(Version::V2);
    let listener = certificates.asking_listener("required");
    let program = Program::of(&toml(&cluster, &listener, ""));
    for name in ["gauge\n7", "gauge\r\n7", "\u{7f}", "a\0b", "gauge\u{85}7", "\u{1b}[31m"] {
        let pair = certificates.client(name);
        let config = Arc::new(certificates.trusting(BOTH, Some(&pair)));
        let mut client = TlsClient::to(program.address, &config);
        assert_eq!(client.end(), TlsEnd::Said);
        let line = program.ended(client.address());
        assert_eq!(cause(&line), "certificate_name", "{name:?}");
        assert_eq!(line["certificate_cn"], name);
    }
    assert_eq!(cluster.dials(), 0);
    // What merely looks strange is no fault.
    for name in ["gauge=7, \"x\"", "ä ö", ""] {
        let pair = certificates.client(name);
        let config = Arc::new(certificates.trusting(BOTH, Some(&pair)));
        TlsClient::accepted(program.address, &config, &Connect::new("id"));
    }
}

#[test]
fn whoever_speaks_something_else_is_told_apart() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let program = Program::of(&toml(&cluster, &certificates.listener(), ""));
    for said in [
        Connect::new("id").bytes(),
        Connect::v5("id").bytes(),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec(),
        // Of SSL 2, and of nothing.
        b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10".to_vec(),
        vec![0; 64],
        vec![0xFF; 64],
        // A record that is longer than any, and a ClientHello with nothing in it.
        b"\x16\x03\x01\xff\xff\x01".to_vec(),
        b"\x16\x03\x01\0\x04\x01\0\0\0".to_vec(),
    ] {
        let mut client = Client::to(program.address);
        client.send(&said);
        let (answer, _) = client.rest();
        let address = client.address();
        drop(client);
        // An alert, and nothing that is not TLS.
        assert!(answer.is_empty() || answer[0] == 0x15, "{answer:02x?}");
        let cause = cause(&program.ended(address));
        assert_eq!(cause, "not_tls", "{said:02x?}");
    }
    // What is in records is TLS, if a poor one.
    for said in [
        &b"\x17\x03\x03\0\x05hello"[..],
        b"\x14\x03\x03\0\x01\x01",
        b"\x16\x03\x01\0\x04\x0e\0\0\0",
        b"\x15\x03\x03\0\x02\x02\x28",
    ] {
        let mut client = Client::to(program.address);
        client.send(said);
        client.rest();
        let address = client.address();
        drop(client);
        let cause = cause(&program.ended(address));
        assert_eq!(cause, "tls_fault", "{said:02x?}");
    }
    let plain = Program::of(&toml(&cluster, "", ""));
    let ws = Program::of(&toml(&cluster, "transport = \"ws\"", ""));
    let config = Arc::new(certificates.trusting(BOTH, None));
    for program in [&plain, &ws] {
        let (_, cause) = failed(program, TlsClient::on(Client::to(program.address), &config, NAME));
        assert_eq!(cause, "not_mqtt_tls");
    }
    assert_eq!(cluster.dials(), 0);
}

#[test]
fn a_hello_may_come_byte_by_byte() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let program = Program::of(&toml(&cluster, &certificates.listener(), ""));
    for versions in [TLS12, TLS13] {
        let config = Arc::new(certificates.trusting(versions, None));
        let mut tcp = Client::to(program.address);
        let mut tls = connection(&config, NAME);
        let mut said = Vec::new();
        while tls.is_handshaking() {
            while tls.wants_write() {
                tls.write_tls(&mut said).expect("bytes");
            }
            for byte in said.drain(..) {
                tcp.send_alone(&[byte]);
            }
            if tls.wants_read() {
                tls.read_tls(&mut tcp.stream).expect("an answer");
                tls.process_new_packets().expect("TLS");
            }
        }
        let mut client = TlsClient { tcp, tls };
        client.connect(&Connect::new("id"));
    }
    // And in records of one byte each.
    let config = Arc::new(certificates.trusting(BOTH, None));
    let whole = hello(&config, NAME);
    let pieces = whole[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]);
    let mut client = Client::to(program.address);
    client.send(&pieces.collect::<Vec<u8>>());
    let answer = client.read(1);
    assert_eq!(answer, [0x16], "a ServerHello");
}

#[test]
fn a_handshake_that_stalls_anywhere_is_closed_at_the_deadline() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let listener = certificates.asking_listener("optional");
    let tables = format!("{ADMIN}\n[timeouts]\nconnect = \"1s\"");
    let program = Program::of(&toml(&cluster, &listener, &tables));
    let pair = certificates.client("gauge");
    let mut stalled = Vec::new();
    for versions in [TLS12, TLS13] {
        let config = Arc::new(certificates.trusting(versions, Some(&pair)));
        let whole = hello(&config, NAME);
        for part in [1, 4, 5, 6, 40, whole.len() - 1, whole.len()] {
            let mut client = Client::to(program.address);
            client.send(&whole[..part]);
            stalled.push(client);
        }
        // The second flight: certificate, key and the client's end of the handshake, in parts.
        for part in [1, 6, 200, usize::MAX] {
            let mut tcp = Client::to(program.address);
            let mut tls = connection(&config, NAME);
            tls.write_tls(&mut tcp.stream).expect("a hello");
            let mut flight = Vec::new();
            while flight.is_empty() {
                tls.read_tls(&mut tcp.stream).expect("an answer");
                tls.process_new_packets().expect("TLS");
                while tls.wants_write() {
                    tls.write_tls(&mut flight).expect("bytes");
                }
            }
            let end = part.min(flight.len());
            tcp.send(&flight[..end]);
            stalled.push(tcp);
        }
        // A handshake, and then a CONNECT that never ends.
        for part in [0, 1, 9] {
            let mut client = TlsClient::to(program.address, &config);
            client.send(&Connect::new("id").bytes()[..part]);
            stalled.push(client.tcp);
        }
    }
    let began = Instant::now();
    for client in &mut stalled {
        client.rest();
        let line = program.ended(client.address());
        assert_eq!(cause(&line), "connect_timeout");
        let seconds = line["seconds"].as_f64().expect("a number");
        assert!((0.9..2.5).contains(&seconds), "closed after {seconds} s");
    }
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!(cluster.dials(), 0);
    let pending = Metrics::of(program.admin()).value("remora_tls_handshakes_pending");
    assert_eq!(pending, 0.0);
}

#[test]
fn a_device_that_computes_for_seconds_is_waited_for_and_each_listener_has_its_deadline() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let config = format!(
        "{}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{}\nconnect_timeout = \"1s\"\n",
        toml(&cluster, &certificates.listener(), ""),
        certificates.listener()
    );
    let program = Program::of(&config);
    let config = Arc::new(certificates.trusting(TLS12, None));
    let started = |listener: usize| {
        let mut client = Client::to(program.addresses[listener]);
        let (tls, flight) = second_flight(&mut client, &config, 1);
        (client, tls, flight)
    };
    let (mut slow, mut tls, flight) = started(0);
    // The other listener ends the same client after a second of its own.
    let (mut other, ..) = started(1);
    other.rest();
    let line = program.ended(other.address());
    assert_eq!(cause(&line), "connect_timeout");
    let seconds = line["seconds"].as_f64().expect("a number");
    assert!((0.9..3.0).contains(&seconds), "closed after {seconds} s");
    // Longer than the default of listeners without TLS, which gives a measure: a client that sends nothing there.
    let plain = Program::of(&toml(&cluster, "", ""));
    let mut silent = Client::to(plain.address);
    silent.rest();
    assert_eq!(cause(&plain.ended(silent.address())), "connect_timeout");
    slow.send(&flight);
    while tls.is_handshaking() {
        tls.read_tls(&mut slow.stream).expect("an answer");
        tls.process_new_packets().expect("a right one");
    }
    let connect = Connect::new("slow");
    tls.writer().write_all(&connect.bytes()).expect("room");
    tls.write_tls(&mut slow.stream).expect("sent");
    cluster.holder(&connect.bytes());
}

#[test]
fn no_record_is_larger_than_the_listener_says_and_all_of_it_arrives() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let listener = format!("{}\ntls_record_max = \"512B\"", certificates.listener());
    let program = Program::of(&toml(&cluster, &listener, ""));
    for versions in [TLS12, TLS13] {
        let config = Arc::new(certificates.trusting(versions, None));
        let mut tcp = Client::to(program.address);
        let mut tls = connection(&config, NAME);
        let connect = Connect::new(format!("{versions:?}"));
        tls.writer().write_all(&connect.bytes()).expect("room");
        let payload = vec![7; 50_000];
        let (mut sealed, mut opened) = (Vec::new(), Vec::new());
        let mut is_answered = false;
        let expected = packets::connack(4, 0).len() + payload.len();
        while opened.len() < expected {
            while tls.wants_write() {
                tls.write_tls(&mut tcp.stream).expect("sent");
            }
            if !tls.is_handshaking() && !is_answered {
                is_answered = true;
                let (_, node) = cluster.holder(&connect.bytes());
                node.send(&payload);
            }
            let mut bytes = [0; 4_096];
            let read = uninterrupted(|| tcp.stream.read(&mut bytes)).expect("more");
            assert!(read > 0, "closed after {} bytes", opened.len());
            sealed.extend_from_slice(&bytes[..read]);
            let mut bytes = &bytes[..read];
            while !bytes.is_empty() {
                tls.read_tls(&mut bytes).expect("room");
                tls.process_new_packets().expect("records");
                let _ = tls.reader().read_to_end(&mut opened);
            }
        }
        assert!(opened.ends_with(&payload));
        let (mut rest, mut sizes, mut message_left) = (&sealed[..], Vec::new(), Some(0));
        while let [kind, _, _, high, low, others @ ..] = rest {
            let size = usize::from(u16::from_be_bytes([*high, *low]));
            sizes.push(size);
            // Until one is encrypted, each message begins a record: mbedTLS reads no message that is in two.
            message_left = message_left.filter(|_| *kind == 22).map(|left| {
                let left = match (left, others) {
                    (0, [_, 0, high, low, ..]) => 4 + usize::from(u16::from_be_bytes([*high, *low])),
                    (left, _) => left,
                };
                assert_eq!(size, left.min(512), "{versions:?}");
                left - size
            });
            rest = others.get(size..).unwrap_or_default();
        }
        // What AEAD adds, and in TLS 1.3 the type.
        let largest = sizes.iter().max().expect("some");
        assert!((512..=512 + 24).contains(largest), "{largest} of {}", sizes.len());
    }
}

#[test]
fn whoever_comes_no_further_hears_the_end_of_tls() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    cluster.nodes[0].answer(Answer::Code(3));
    let tables = "[timeouts]\nconnect = \"1s\"";
    let program = Program::of(&toml(&cluster, &certificates.listener(), tables));
    let connect = Connect::new("id").bytes();
    let config = Arc::new(certificates.trusting(BOTH, None));
    for (said, expected) in [
        (&connect[..], "refused"),
        (&connect[..9], "connect_timeout"),
        (b"\x30 no CONNECT", "not_mqtt_junk"),
    ] {
        let mut client = TlsClient::to(program.address, &config);
        client.send(said);
        assert_eq!(client.end(), TlsEnd::Said, "{expected}");
        assert_eq!(cause(&program.ended(client.address())), expected);
    }
}

#[test]
fn a_handshake_that_is_left_half_way_is_the_clients_end() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let program = Program::of(&toml(&cluster, &certificates.listener(), ""));
    let config = Arc::new(certificates.trusting(BOTH, None));
    let whole = hello(&config, NAME);
    for part in [1, 5, whole.len() / 2, whole.len()] {
        for resets in [false, true] {
            let mut client = Client::to(program.address);
            client.send_alone(&whole[..part]);
            let address = client.address();
            if resets {
                client.reset();
            } else {
                client.fin();
                client.rest();
            }
            let cause = cause(&program.ended(address));
            let expected = ["client_closed", "client_reset"][usize::from(resets)];
            assert_eq!(cause, expected, "{part} of {}", whole.len());
        }
    }
}

#[test]
fn a_hello_without_end_is_not_kept() {
    const CLIENTS: usize = 400;
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let program = Program::of(&toml(&cluster, &certificates.listener(), ""));
    let before = program.resident_bytes();
    // It says that it is as long as one can be, which it never is.
    let record = |first: &[u8]| [&[0x16, 3, 1, 0x3E, 0x80], first, &vec![0; 16_000 - first.len()]].concat();
    let begun = record(&[1, 0, 0xFF, 0]);
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = Client::to(program.address);
            client.send(&begun);
            client
        })
        .collect();
    clients.iter().for_each(Client::sent_all);
    for client in &mut clients {
        // It may be closed meanwhile.
        for _ in 0..3 {
            client.offers(&record(&[0]));
        }
    }
    program.until_ended_with("connect_too_large", CLIENTS);
    let grown = program.resident_bytes().saturating_sub(before);
    assert!(grown < CLIENTS * 32 * 1024, "grown by {grown} bytes");
    assert_eq!(cluster.dials(), 0);
}

/// What is held may be no more than this, and the last that came.
const HELD_BYTES_MAX: usize = 1 << 20;

/// What a client with TLS holds besides what it has sent.
const FIXED_BYTES: usize = CONNECTION_BYTES + TLS_BYTES;

/// Waits until all but so many of these clients had to go, and until the account says what the others hold.
fn all_but(left_max: usize, clients: usize, bytes: usize, program: &Program) {
    program.until_ended_with("held_bytes_full", clients - left_max);
    let held = || Metrics::of(program.admin()).value("remora_held_bytes") as usize;
    wait::until("nobody is on the way out", || held() <= HELD_BYTES_MAX);
    let left = clients - program.ended_with("held_bytes_full");
    assert!(left >= left_max / 2, "{left} were left: closed below the limit");
    assert!(held() >= left * bytes, "{} held for {left}", held());
}

#[test]
fn certificates_without_end_are_on_the_account_and_honest_clients_are_served() {
    const CLIENTS: usize = 160;
    const SAID: usize = 50_000;
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let listener = certificates.asking_listener("optional");
    let tables =
        format!("{ADMIN}\n[limits]\nheld_bytes = \"1MiB\"\n[timeouts]\nconnect = \"30s\"\ngreet_total = \"30s\"");
    let program = Program::of(&toml(&cluster, &listener, &tables));
    let stranger = Certificates::new().client("nobody");
    let configs = [TLS12, TLS13].map(|versions| Arc::new(certificates.showing_much(versions, &stranger, 60_000)));
    let honest = Arc::new(certificates.trusting(BOTH, None));
    let known = certificates.client("somebody");
    let known = Arc::new(certificates.trusting(BOTH, Some(&known)));
    TlsClient::accepted(program.address, &honest, &Connect::new("warm"));
    let before = program.resident_bytes();
    let begun: Vec<Client> = (0..CLIENTS)
        .map(|number| {
            let mut client = Client::to(program.address);
            let (_, flight) = second_flight(&mut client, &configs[number % 2], SAID);
            // In pieces, and never whole. It may be closed meanwhile.
            for piece in flight[..SAID].chunks(10_000) {
                client.offers(piece);
            }
            client
        })
        .collect();
    all_but(HELD_BYTES_MAX / (SAID + FIXED_BYTES), CLIENTS, SAID, &program);
    let grown = program.resident_bytes().saturating_sub(before);
    println!("{CLIENTS} certificates without end: grown by {grown} bytes");
    // All of them together would be 8 MB.
    assert!(grown < 5 << 20, "grown by {grown} bytes");
    for (number, config) in [&honest, &known].into_iter().enumerate() {
        for turn in 0..5 {
            let connect = Connect::new(format!("honest-{number}-{turn}"));
            TlsClient::accepted(program.address, config, &connect);
        }
    }
    drop(begun);
    wait::until("nothing is held", || {
        Metrics::of(program.admin()).value("remora_held_bytes") == 0.0
    });
    assert_eq!(cluster.dials(), 11, "only honest clients were dialled for");
}

#[test]
fn records_without_end_are_on_the_account_until_a_node_has_answered() {
    const CLIENTS: usize = 100;
    const LEAST: usize = 15_000;
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    cluster.nodes[0].answer(Answer::Stall);
    let tables = format!(
        "{ADMIN}\n[limits]\nheld_bytes = \"1MiB\"\n[timeouts]\nconnect = \"30s\"\ngreet = \"30s\"\ngreet_total = \"30s\""
    );
    let program = Program::of(&toml(&cluster, &certificates.listener(), &tables));
    let config = Arc::new(certificates.trusting(BOTH, None));
    // The one half is not routed yet, the other waits for its node. Both have large ones.
    let said = |number: usize| {
        let mut client = TlsClient::to(program.address, &config);
        if number % 2 == 1 {
            client.send(&Connect::new(format!("waits-{number}")).bytes());
        }
        let mut record = Vec::new();
        seal(&mut client.tls, &[0x10; 16 * 1024], &mut record);
        client.tcp.offers(&record[..LEAST + number * 37 % 1_000]);
        client
    };
    let clients: Vec<TlsClient> = (0..CLIENTS).map(said).collect();
    all_but(HELD_BYTES_MAX / (LEAST + FIXED_BYTES), CLIENTS, LEAST, &program);
    for half in [0, 1] {
        let gone = clients
            .iter()
            .skip(half)
            .step_by(2)
            .filter(|client| {
                let line = |line: &serde_json::Value| {
                    line["client"] == client.address().to_string() && !line["cause"].is_null()
                };
                !program.lines(line).is_empty()
            })
            .count();
        assert!(gone > 0, "half {half}: nobody had to go");
    }
    drop(clients);
    wait::until("nothing is held", || {
        Metrics::of(program.admin()).value("remora_held_bytes") == 0.0
    });
}

#[test]
fn a_handshake_that_is_over_is_off_the_account_and_what_came_behind_it_is_on_it() {
    const CLIENTS: usize = 10;
    const CHAIN: usize = 6_000;
    const PART: usize = 12_000;
    let certificates = Certificates::new();
    let known = certificates.client("somebody");
    let listener = certificates.asking_listener("required");
    let config = Arc::new(certificates.showing_much(TLS13, &known, CHAIN));
    let connect = |number| Connect::new(format!("stalled-{number}")).bytes();
    let said = connect(0).len() * CLIENTS;
    for (is_at_once, part) in [(false, 0), (true, 0), (false, PART), (true, PART)] {
        let cluster = Cluster::of(1);
        cluster.nodes[0].answer(Answer::Stall);
        let tables = format!("{ADMIN}\n[timeouts]\nconnect = \"30s\"\ngreet = \"30s\"\ngreet_total = \"30s\"");
        let program = Program::of(&toml(&cluster, &listener, &tables));
        let metrics = || Metrics::of(program.admin());
        let mut clients: Vec<(Client, ClientConnection, Vec<u8>)> = (0..CLIENTS)
            .map(|_| {
                let mut client = Client::to(program.address);
                let (tls, flight) = second_flight(&mut client, &config, CHAIN);
                (client, tls, flight)
            })
            .collect();
        if !is_at_once {
            for (client, _, flight) in &mut clients {
                client.send(&std::mem::take(flight));
            }
            wait::until("their handshakes are over", || {
                metrics().sum("remora_tls_handshakes_total") == CLIENTS as f64
            });
        }
        for (number, (client, tls, words)) in clients.iter_mut().enumerate() {
            seal(tls, &connect(number), words);
            let whole = words.len();
            if part > 0 {
                seal(tls, &[0xC0; 16 * 1024], words);
                words.truncate(whole + part);
            }
            client.send(words);
        }
        wait::until("the node has every CONNECT", || {
            let connections = cluster.nodes[0].connections();
            let has = |number| connections.iter().any(|c| c.begins_with(&connect(number)));
            (0..CLIENTS).all(has)
        });
        // What was read last counts whole: 4 KiB, as much as is read at once of a handshake.
        let held_min = said + CLIENTS * (FIXED_BYTES + part);
        let held_max = held_min + CLIENTS * 4_096 * usize::from(part > 0);
        let held = || metrics().value("remora_held_bytes") as usize;
        wait::until("what is kept is held", || held() >= held_min);
        let held = held();
        assert!(held <= held_max, "{held} of {held_min} to {held_max}");
    }
}

#[test]
fn two_thousand_slow_hellos_are_closed_and_honest_clients_are_served() {
    raise_descriptor_limit();
    const SLOW: usize = 2_000;
    let (cluster, certificates) = (Cluster::of(2), Certificates::new());
    let tables = "[timeouts]\nconnect = \"3s\"";
    let program = Program::of(&toml(&cluster, &certificates.listener(), tables));
    let config = Arc::new(certificates.trusting(BOTH, None));
    let whole = hello(&config, NAME);
    let trusting = Arc::new(certificates.trusting(TLS13, None));
    let come = |number| {
        let connect = Connect::new(format!("honest-{number}"));
        TlsClient::accepted(program.address, &trusting, &connect)
    };
    let quiet = Waits::quiet(come).p90();
    let mut slow: Vec<Client> = (0..SLOW)
        .map(|number| {
            let source = [127, 0, 3, number as u8 % 4];
            Client::from(source.into(), program.address)
        })
        .collect();
    let done = AtomicBool::new(false);
    let mut waits = std::thread::scope(|scope| {
        let honest = scope.spawn(|| Waits::of(&done, come));
        for (at, byte) in whole.iter().enumerate().take(whole.len() - 1) {
            drip(&mut slow, *byte);
            if program.ended_with("connect_timeout") == SLOW {
                break;
            }
            assert!(at + 2 < whole.len(), "the hello is over before the deadline");
        }
        done.store(true, Ordering::Relaxed);
        honest.join().expect("all are served")
    });
    let p90 = waits.p90();
    println!("{SLOW} slow hellos; {} honest clients, p90 {p90:?}", waits.len());
    assert!(waits.len() > 20, "{} honest clients", waits.len());
    assert!(p90 <= p90_max(quiet), "{p90:?}, and {quiet:?} before");
    let longest = program
        .lines(|line| line["cause"] == "connect_timeout")
        .iter()
        .filter_map(|line| line["seconds"].as_f64())
        .fold(0.0, f64::max);
    assert!((3.0..6.0).contains(&longest), "closed after {longest} s");
}

#[test]
fn handshakes_on_top_of_the_limit_are_closed_and_are_no_trouble_to_others() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let tables = format!("{ADMIN}\n[limits]\nhandshakes = 3");
    let program = Program::of(&toml(&cluster, &certificates.listener(), &tables));
    let config = Arc::new(certificates.trusting(BOTH, None));
    let mut within = TlsClient::accepted(program.address, &config, &Connect::new("in"));
    let mut pending: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = Client::to(program.address);
            client.send_alone(&[0x16]);
            client
        })
        .collect();
    let (_, cause_of_it) = failed(&program, TlsClient::on(Client::to(program.address), &config, NAME));
    assert_eq!(cause_of_it, "limit_handshakes");
    assert_eq!(Metrics::of(program.admin()).value("remora_tls_handshakes_pending"), 3.0);
    // A client whose handshake is done is in no queue.
    let (_, node) = cluster.holder(&Connect::new("in").bytes());
    node.send(b"hello");
    within.expect(b"hello");
    let gone = pending.pop().expect("one of three");
    gone.fin();
    assert_eq!(cause(&program.ended(gone.address())), "client_closed");
    TlsClient::accepted(program.address, &config, &Connect::new("now"));
}

#[test]
fn handshakes_and_the_expiry_are_counted() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let listener = format!("name = \"secure\"\n{}", certificates.listener());
    let program = Program::of(&toml(&cluster, &listener, ADMIN));
    let value = |name: &str| Metrics::of(program.admin()).value(name);
    let count = |kind: &str| {
        value(&format!(
            "remora_tls_handshakes_total{{listener=\"secure\",kind=\"{kind}\"}}"
        ))
    };
    for versions in [TLS12, TLS13] {
        let (full, resumed) = (count("full"), count("resumed"));
        let config = Arc::new(certificates.trusting(versions, None));
        for round in 0..3 {
            let client = TlsClient::accepted(program.address, &config, &Connect::new("id"));
            let resumes = client.kind() == HandshakeKind::Resumed;
            assert_eq!(resumes, round > 0);
        }
        assert_eq!(count("full"), full + 1.0);
        assert_eq!(count("resumed"), resumed + 2.0);
    }
    // Failed ones are none.
    let (full, strangers) = (count("full"), Certificates::new());
    let config = Arc::new(strangers.trusting(TLS13, None));
    failed(&program, TlsClient::on(Client::to(program.address), &config, NAME));
    assert_eq!(count("full"), full);
    let days = 86_400.0;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("a clock").as_secs_f64();
    let expiry = value("remora_certificate_expiry_timestamp_seconds{listener=\"secure\"}") - now;
    assert!((29.0 * days..31.0 * days).contains(&expiry), "{expiry}");
}
