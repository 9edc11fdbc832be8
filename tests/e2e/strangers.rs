//! Who is no MQTT client is closed without a dial, and the log names the cause.

use std::time::Duration;

use crate::balancer::Program;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::{self, Connect};

#[test]
fn strangers_are_closed_without_a_dial_each_with_its_cause() {
    let client_hello = [&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01][..], &[7; 506]].concat();
    let mut odd = Connect::new("id").bytes();
    odd[4..8].copy_from_slice(b"AMQP");
    let cases: &[(&[u8], &str)] = &[
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "not_mqtt_http"),
        (b"POST /mqtt HTTP/1.1\r\n\r\n", "not_mqtt_http"),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", "not_mqtt_http"),
        (b"CONNECT example.com:443 HTTP/1.1\r\n\r\n", "not_mqtt_http"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not_mqtt_http"),
        (&client_hello, "not_mqtt_tls"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "not_mqtt_proxy"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", "not_mqtt_proxy"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_mqtt_junk"),
        (b"\0\0\0\0", "not_mqtt_junk"),
        (b"\xC0\0", "not_mqtt_junk"),
        (&odd, "malformed"),
    ];
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, "");
    for (bytes, cause) in cases {
        for cut in [vec![], vec![1], (1..bytes.len().min(8)).collect()] {
            let mut client = Client::to(program.address);
            let address = client.address();
            // The stranger may be closed before it has said all.
            let mut parts = Vec::new();
            let mut start = 0;
            for end in cut.iter().copied().chain([bytes.len()]) {
                parts.push(&bytes[start..end]);
                start = end;
            }
            for part in parts {
                if !client.offers(part) {
                    break;
                }
            }
            let line = program.ended(address);
            assert_eq!(line["cause"], *cause, "{:?}", bytes.escape_ascii().to_string());
            assert_eq!(client.rest().0, b"", "{cause}: nothing is said to a stranger");
            assert_eq!(line["node"], "-");
        }
    }
    assert_eq!(cluster.dials(), 0);
}

#[test]
fn a_malformed_connect_of_mqtt_5_is_answered_only_where_that_is_wished() {
    // Properties that go on behind the end of the packet.
    let malformed = |connect: Connect| {
        let mut bytes = connect.bytes();
        bytes[12] = 0x7F;
        bytes
    };
    let cluster = Cluster::of(1);
    let mute = Program::start(&cluster, "");
    let telling = Program::start(&cluster, "[greet]\nrefuse = \"connack\"\n");
    for (program, connect, expected) in [
        (&telling, malformed(Connect::v5("id")), &packets::connack(5, 0x81)[..]),
        (&telling, malformed(Connect::new("id")), b""),
        (&mute, malformed(Connect::v5("id")), b""),
    ] {
        let mut client = Client::to(program.address);
        client.send(&connect);
        assert_eq!(client.rest().0, expected);
        let address = client.address();
        drop(client);
        assert_eq!(program.ended(address)["cause"], "malformed");
    }
    assert_eq!(cluster.dials(), 0);
}

#[test]
fn a_connection_that_says_nothing_is_closed_at_the_deadline() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, "[timeouts]\nconnect = \"1s\"\n");
    let mut silent = Client::to(program.address);
    let mut slow = Client::to(program.address);
    slow.send_alone(&Connect::new("slow").bytes()[..10]);
    // One deadline for all of it: a byte now and then does not move it.
    let mut trickling = Client::to(program.address);
    let long = Connect::new([b'i'; 60_000]).bytes();
    for byte in &long {
        if !trickling.offers(&[*byte]) || program.has_ended(trickling.address()) {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    for client in [&mut silent, &mut slow, &mut trickling] {
        client.rest();
        let line = program.ended(client.address());
        assert_eq!(line["cause"], "connect_timeout");
        let seconds = line["seconds"].as_f64().expect("a number");
        assert!((1.0..3.0).contains(&seconds), "closed after {seconds} s");
    }
    assert_eq!(cluster.dials(), 0);
}

#[test]
fn the_line_of_a_connection_says_who_where_and_how() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, "");
    let connect = Connect::v5("some\"one\n");
    let mut client = Client::accepted(program.address, &connect);
    client.send(&packets::publish(b"hello"));
    let (node, connection) = cluster.holder(&connect.bytes());
    client.fin();
    assert_eq!(client.end(), connection.end());
    let line = program.ended(client.address());
    let sent = connect.bytes().len() + packets::publish(b"hello").len();
    assert_eq!(line["cause"], "client_closed");
    assert_eq!(line["client_id"], "some\"one\n");
    assert_eq!(line["version"], "5");
    assert_eq!(line["node"], cluster.nodes[node].name.as_str());
    assert_eq!(line["route"], "home");
    assert_eq!(line["retries"], 0);
    assert_eq!(line["from_client"], sent);
    assert_eq!(line["from_node"], packets::connack(5, 0).len());
}
