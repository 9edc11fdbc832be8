//! PROXY headers: what nodes are told of clients, and who is believed when it speaks for others.

use std::net::SocketAddr;

use crate::balancer::{Balancer, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::header::{self, Version, local, raw, ssl, tlv, tlvs, v1, v2};
use crate::node::Answer;
use crate::packets::{self, Connect};
use crate::ws_client::{REQUEST, WsClient};
use crate::ws_frames::BINARY;
use crate::ws_node::{WsNode, field};

/// Everyone on this machine may speak for others.
const FROM_HERE: &str = "proxy_protocol_from = [\"127.0.0.0/8\"]";

/// The client that headers of these tests speak of.
const CLIENT: &str = "192.0.2.7:51000";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A connection that says this header, then its CONNECT, and is accepted.
#[track_caller]
fn introduced(balancer: SocketAddr, header: &[u8], connect: &Connect) -> Client {
    let mut client = Client::to(balancer);
    client.send(&[header, &connect.bytes()].concat());
    client.expect(&packets::connack(connect.level, 0));
    client
}

/// Two listeners before one node that has a WebSocket listener too, both of which expect `version`; `listener` is added to both.
fn both_transports(cluster: &Cluster, ws: &WsNode, version: Version, listener: &str) -> String {
    let name = version.name();
    let node = cluster.toml();
    format!(
        "[admin]\nenabled = false\n\n{}\nws = \"{}\"\nws_proxy_protocol = \"{name}\"\n\n\
         [[listeners]]\naddress = \"127.0.0.1:0\"\ntransport = \"ws\"\n{listener}\n\n\
         [[listeners]]\naddress = \"127.0.0.1:0\"\n{listener}\n",
        node.trim_end(),
        ws.address,
    )
}

#[test]
fn a_node_hears_who_the_client_is_in_the_version_that_it_expects() {
    for version in [Version::V1, Version::V2] {
        let cluster = Cluster::of(1);
        cluster.nodes[0].expect_header(version);
        let balancer = Balancer::start(&cluster);
        let mut client = Client::from([127, 9, 8, 7].into(), balancer.address);
        let connect = Connect::new("id").bytes();
        client.send(&connect);
        client.expect(&packets::connack(4, 0));
        let node = cluster.nodes[0].connection(0);
        let header = node.header();
        assert_eq!(header.addresses, Some((client.address(), balancer.address)));
        assert!(header.tlvs.is_empty(), "nothing is known of it: {header:?}");
        node.expect(&connect);
        // The header is not among the bytes of the client, and not where it ends.
        client.send(b"later");
        node.expect(&[&connect[..], b"later"].concat());
    }
}

#[test]
fn every_node_that_is_tried_hears_it_as_it_expects() {
    let cluster = Cluster::of(3);
    let choices = cluster.choices("id");
    cluster.nodes[choices[0]].expect_header(Version::V2);
    cluster.nodes[choices[1]].expect_header(Version::V1);
    cluster.nodes[choices[0]].answer(Answer::Code(3));
    cluster.nodes[choices[1]].answer(Answer::Code(3));
    let balancer = Balancer::start(&cluster);
    let client = Client::accepted(balancer.address, &Connect::new("id"));
    for choice in &choices[..2] {
        let header = cluster.nodes[*choice].connection(0).header();
        assert_eq!(header.client(), client.address());
    }
    // The third expects none, and gets none.
    let third = cluster.nodes[choices[2]].connection(0);
    third.expect(&Connect::new("id").bytes());
}

#[test]
fn a_websocket_node_hears_it_before_the_request() {
    for version in [Version::V1, Version::V2] {
        let (cluster, ws) = (Cluster::of(1), WsNode::start());
        ws.expect_header(version);
        let balancer = Balancer::of(&both_transports(&cluster, &ws, version, ""));
        let client = WsClient::accepted(balancer.address, &Connect::new("id"));
        let node = ws.connection(0);
        let client = client.tcp.address();
        assert_eq!(node.header().addresses, Some((client, balancer.address)), "{version:?}");
        let head = node.head();
        assert!(head.starts_with("GET /mqtt?x=1 HTTP/1.1\r\n"), "{head}");
        let forwarded = field(&head, "x-forwarded-for");
        assert_eq!(forwarded, Some(&*client.ip().to_string()));
    }
}

#[test]
fn a_websocket_client_is_announced_to_a_node_that_has_no_websocket() {
    let cluster = Cluster::of(1);
    cluster.nodes[0].expect_header(Version::V2);
    let balancer = Balancer::with_listener(&cluster, "transport = \"ws\"", "");
    let client = WsClient::accepted(balancer.address, &Connect::new("id"));
    let header = cluster.nodes[0].connection(0).header();
    assert_eq!(header.client(), client.tcp.address());
}

#[test]
fn the_client_is_the_one_of_the_header() {
    let headers = [
        (v1(CLIENT), CLIENT),
        (v2(CLIENT, &[]), CLIENT),
        (v2(CLIENT, &ssl(b"gauge-7")), CLIENT),
        (v1("[2001:db8::7]:51000"), "[2001:db8::7]:51000"),
        (v2("[2001:db8::7]:51000", &[]), "[2001:db8::7]:51000"),
        // An IPv4 client is one in whichever words.
        (v2("[::ffff:192.0.2.7]:51000", &[]), CLIENT),
    ];
    let (cluster, ws) = (Cluster::of(1), WsNode::start());
    cluster.nodes[0].expect_header(Version::V2);
    ws.expect_header(Version::V2);
    let program = Program::of(&both_transports(&cluster, &ws, Version::V2, FROM_HERE));
    let (ws_address, tcp_address) = (program.addresses[0], program.addresses[1]);
    for (number, (said, client)) in headers.iter().enumerate() {
        let client = address(client);
        let mut tcp = introduced(tcp_address, said, &Connect::new("id"));
        let node = cluster.nodes[0].connection(number);
        // An IPv6 client of an IPv4 listener: both in IPv6.
        assert_eq!(node.header().client(), client);
        tcp.fin();
        node.end();
        node.fin();
        tcp.end();
        assert_eq!(program.ended(client)["cause"], "client_closed");

        let mut over_ws = Client::to(ws_address);
        over_ws.send_alone(said);
        let mut over_ws = WsClient::on(over_ws, REQUEST);
        over_ws.send(&Connect::new("id").bytes());
        over_ws.expect(BINARY, &packets::connack(4, 0));
        let node = ws.connection(number);
        assert_eq!(node.header().client(), client);
        let head = node.head();
        let forwarded = field(&head, "x-forwarded-for");
        assert_eq!(forwarded, Some(&*client.ip().to_string()));
        assert_eq!(field(&head, "x-forwarded-port"), Some("51000"));
        // TLS that ended at the balancer before this one is TLS.
        let scheme = match said.ends_with(&ssl(b"gauge-7")) {
            true => "https",
            false => "http",
        };
        assert_eq!(field(&head, "x-forwarded-proto"), Some(scheme));
        drop(over_ws);
        program.ended(client);
    }
}

#[test]
fn a_header_that_says_nothing_of_the_client_leaves_the_peer() {
    let cluster = Cluster::of(1);
    cluster.nodes[0].expect_header(Version::V2);
    let balancer = Balancer::with_listener(&cluster, FROM_HERE, "");
    let spoof = |command, family| {
        let header = v2(CLIENT, &[]);
        raw(command, family, &header[16..])
    };
    let headers = [
        local(),
        // An address in it is not believed.
        spoof(0x20, 0x11),
        spoof(0x20, 0xFF),
        spoof(0x21, 0x00),
        raw(0x21, 0x31, &[b'/'; 216]),
        spoof(0x21, 0x12),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.7 198.51.100.9 51000 1883\r\n".to_vec(),
    ];
    for (number, header) in headers.iter().enumerate() {
        let client = introduced(balancer.address, header, &Connect::new("id"));
        let node = cluster.nodes[0].connection(number);
        let header = node.header();
        assert_eq!(header.client(), client.address(), "{number}");
        node.expect(&Connect::new("id").bytes());
    }
}

#[test]
fn a_header_may_come_in_pieces_and_takes_no_byte_of_what_follows() {
    let cluster = Cluster::of(1);
    let balancer = Balancer::with_listener(&cluster, FROM_HERE, "");
    let connect = Connect::new("id").bytes();
    let mut came = 0;
    for header in [v1(CLIENT), v2(CLIENT, &ssl(b"gauge-7")), local()] {
        let said = [&header[..], &connect].concat();
        let last = said.len();
        for cuts in (1..last).map(|cut| vec![cut]).chain([(1..last).collect()]) {
            let mut client = Client::to(balancer.address);
            client.send_cut(&said, &cuts);
            client.expect(&packets::connack(4, 0));
            cluster.nodes[0].connection(came).expect(&connect);
            came += 1;
        }
    }
    assert!(came > 150, "{came}");
}

#[test]
fn nobody_who_is_not_listed_speaks_for_others() {
    let cluster = Cluster::of(1);
    let listed = "proxy_protocol_from = [\"127.7.0.0/16\"]";
    let program = Program::of(&toml(&cluster, listed, ""));
    for said in [v1(CLIENT), v2(CLIENT, &[]), Connect::new("id").bytes()] {
        let mut stranger = Client::from([127, 8, 0, 1].into(), program.address);
        // It may be closed before it has said it.
        stranger.offers(&said);
        stranger.rest();
        assert_eq!(program.ended(stranger.address())["cause"], "denied");
    }
    let open = Program::of(&toml(&cluster, "", ""));
    for said in [v1(CLIENT), v2(CLIENT, &[]), local()] {
        let mut client = Client::to(open.address);
        client.send(&[said, Connect::new("id").bytes()].concat());
        client.rest();
        assert_eq!(open.ended(client.address())["cause"], "not_mqtt_proxy");
    }
    assert_eq!(cluster.dials(), 0, "none was believed or let in");
    let mut listed = Client::from([127, 7, 0, 1].into(), program.address);
    listed.send(&[v1(CLIENT), Connect::new("id").bytes()].concat());
    listed.expect(&packets::connack(4, 0));
}

#[test]
fn what_is_no_header_ends_the_connection_of_a_listed_peer() {
    let cluster = Cluster::of(1);
    let program = Program::of(&toml(&cluster, FROM_HERE, ""));
    let with = |text: &str| text.as_bytes().to_vec();
    let twice = [v1(CLIENT), v1(CLIENT)].concat();
    let cases = [
        (Connect::new("id").bytes(), "proxy_header"),
        (with("GET / HTTP/1.1\r\n\r\n"), "proxy_header"),
        (with("\x16\x03\x01\x02"), "proxy_header"),
        (with("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n"), "proxy_header"),
        (with("PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n"), "proxy_header"),
        (raw(0x21, 0x11, &[]), "proxy_header"),
        (raw(0x21, 0x41, &[0; 12]), "proxy_header"),
        (v2(CLIENT, &[4, 0, 1]), "proxy_header"),
        (raw(0x21, 0x11, &[0; 4081]), "proxy_header"),
        (v2(CLIENT, &ssl(b"gauge\n7")), "certificate_name"),
        (v2(CLIENT, &ssl(b"gauge\xff7")), "certificate_name"),
        (twice, "not_mqtt_proxy"),
    ];
    for (said, cause) in cases {
        let mut client = Client::to(program.address);
        client.send(&said);
        let (answer, _) = client.rest();
        assert!(answer.is_empty());
        let speaker = match cause {
            // The first header was a right one.
            "not_mqtt_proxy" => address(CLIENT),
            _ => client.address(),
        };
        assert_eq!(program.ended(speaker)["cause"], cause, "{said:02x?}");
    }
    assert_eq!(cluster.dials(), 0);
}

#[test]
fn looking_in_makes_no_warning() {
    let cluster = Cluster::of(1);
    let log = "[log]\nlevel = \"debug\"";
    let program = Program::of(&toml(&cluster, FROM_HERE, log));
    for (said, level) in [(&[][..], "DEBUG"), (&local(), "DEBUG"), (&local()[..5], "INFO")] {
        let mut client = Client::to(program.address);
        if !said.is_empty() {
            client.send(said);
        }
        client.fin();
        client.end();
        let line = program.ended(client.address());
        assert_eq!(line["cause"], "client_closed", "{said:02x?}");
        assert_eq!(line["level"], level, "{said:02x?}");
    }
    let mut client = Client::to(program.address);
    client.send(&local());
    client.reset();
    assert_eq!(program.ended(client.address())["level"], "DEBUG");
    let warnings = program.lines(|line| ["WARN", "ERROR"].contains(&line["level"].as_str().unwrap_or("")));
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(cluster.dials(), 0);
}

#[test]
fn a_header_has_the_deadline_of_everything_before_the_route() {
    let cluster = Cluster::of(1);
    let tables = "[timeouts]\nconnect = \"300ms\"";
    let program = Program::of(&toml(&cluster, FROM_HERE, tables));
    let header = v2(CLIENT, &ssl(b"gauge-7"));
    for part in [1, 12, 16, header.len() - 1] {
        let mut client = Client::to(program.address);
        client.send(&header[..part]);
        client.end();
        let line = program.ended(client.address());
        assert_eq!(line["cause"], "connect_timeout", "{part}");
    }
    // And it does not begin again behind the header.
    let mut client = Client::to(program.address);
    client.send(&header);
    client.end();
    assert_eq!(program.ended(address(CLIENT))["cause"], "connect_timeout");
}

#[test]
fn lists_and_limits_are_about_clients_and_not_about_the_balancer_before_them() {
    let cluster = Cluster::of(1);
    let listener = format!("{FROM_HERE}\nallow = [\"192.0.2.0/24\", \"127.0.0.1\"]\ndeny = [\"192.0.2.13\"]");
    let tables = "[limits]\nconnections_per_source = 2";
    let program = Program::of(&toml(&cluster, &listener, tables));
    let refused = |client: &str, cause: &str| {
        let mut refused = Client::to(program.address);
        refused.send(&v1(client));
        refused.rest();
        assert_eq!(program.ended(address(client))["cause"], cause, "{client}");
    };
    refused("192.0.2.13:1", "denied");
    refused("198.51.100.1:1", "denied");
    let enter = |client: &str| introduced(program.address, &v1(client), &Connect::new(client));
    let mut first = enter("192.0.2.1:1");
    let _second = enter("192.0.2.1:2");
    refused("192.0.2.1:3", "limit_source");
    // All of them come from one peer, which has no limit of its own.
    let _others: Vec<Client> = (2..12).map(|host| enter(&format!("192.0.2.{host}:1"))).collect();
    // A place is given back to the client that had it.
    first.fin();
    let node = cluster.nodes[0].connection(0);
    node.end();
    node.fin();
    first.end();
    program.ended(address("192.0.2.1:1"));
    let _third = enter("192.0.2.1:4");
    refused("192.0.2.1:5", "limit_source");
}

#[test]
fn a_reload_changes_what_a_node_hears_and_who_is_believed_and_touches_no_connection() {
    let cluster = Cluster::of(1);
    let program = Program::of(&toml(&cluster, "", ""));
    let mut before = Client::accepted(program.address, &Connect::new("before"));
    let node = &cluster.nodes[0];
    node.expect_header(Version::V1);
    program.reload(&toml(&cluster, FROM_HERE, ""));
    let _after = introduced(program.address, &v2(CLIENT, &[]), &Connect::new("after"));
    assert_eq!(node.connection(1).header().client(), address(CLIENT));
    before.send(b"still there");
    let expected = [&Connect::new("before").bytes()[..], b"still there"].concat();
    node.connection(0).expect(&expected);
    assert!(!node.connection(0).has_ended());
}

#[test]
fn affinity_by_address_is_by_the_clients() {
    let cluster = Cluster::of(3);
    let tables = "[affinity]\nkey = \"client_address\"";
    let balancer = Balancer::with_listener(&cluster, FROM_HERE, tables);
    for host in 1..30 {
        let client = format!("192.0.2.{host}:4711");
        let id = format!("id-{host}");
        let connect = Connect::new(&id);
        let _client = introduced(balancer.address, &v2(&client, &[]), &connect);
        let home = cluster.home([192, 0, 2, host]);
        assert_eq!(cluster.holder(&connect.bytes()).0, home, "{client}");
    }
}

#[test]
fn affinity_by_common_name_falls_back_to_the_client_id() {
    let cluster = Cluster::of(3);
    let tables = "[affinity]\nkey = \"certificate_cn\"";
    let balancer = Balancer::with_listener(&cluster, FROM_HERE, tables);
    for number in 0..20 {
        let (name, id) = (format!("gauge-{number}"), format!("id-{number}"));
        let named = Connect::new(&id);
        let header = v2(CLIENT, &ssl(name.as_bytes()));
        let _named = introduced(balancer.address, &header, &named);
        assert_eq!(cluster.holder(&named.bytes()).0, cluster.home(&name));
        // One that was not verified is none.
        let mut unverified = ssl(name.as_bytes());
        unverified[7] = 1;
        let nameless = Connect::new(format!("other-{number}"));
        let unverified = v2(CLIENT, &unverified);
        let _nameless = introduced(balancer.address, &unverified, &nameless);
        let home = cluster.home(format!("other-{number}"));
        assert_eq!(cluster.holder(&nameless.bytes()).0, home);
    }
}

#[test]
fn what_tls_said_before_this_balancer_is_logged_and_passed_on() {
    let cluster = Cluster::of(1);
    cluster.nodes[0].expect_header(Version::V2);
    let program = Program::of(&toml(&cluster, FROM_HERE, "[log]\nconnections = \"both\""));
    let of_tls = ssl("gauge 7 ä".as_bytes());
    let said = [tlv(0x02, b"mqtt.example"), tlv(0x04, &[0; 5]), of_tls.clone()].concat();
    let client = introduced(program.address, &v2(CLIENT, &said), &Connect::new("id"));
    let header = cluster.nodes[0].connection(0).header();
    assert_eq!(header.client(), address(CLIENT));
    assert_eq!(header.tlv(0x02), Some(&b"mqtt.example"[..]));
    let expected = tlvs(&of_tls);
    assert_eq!(header.tlv(0x20), Some(&expected[0].1[..]));
    assert_eq!(header.tlvs.len(), 2);
    drop(client);
    let line = program.ended(address(CLIENT));
    assert_eq!(line["server_name"], "mqtt.example");
    assert_eq!(line["certificate_cn"], "gauge 7 ä");
    let relayed = program.lines(|line| line["message"] == "connection relayed");
    assert_eq!(relayed[0]["certificate_cn"], line["certificate_cn"]);

    // A server name that could forge a line goes no further.
    let said = tlv(0x02, b"mqtt\n.example");
    let _client = introduced(program.address, &v2(CLIENT, &said), &Connect::new("id"));
    let header = cluster.nodes[0].connection(1).header();
    assert_eq!(
        header,
        header::Header {
            tlvs: Vec::new(),
            ..header.clone()
        }
    );
}
