//! How WebSockets are closed, by the sections of RFC 6455 and in the manner of Autobahn's cases 7: where Remora answers itself, which
//! is before a node has accepted the client, and for nodes without WebSocket.

use crate::balancer::Program;
use crate::node::{Answer, End};
use crate::packets::{self, Connect};
use crate::websocket::{Mesh, bridged};
use crate::ws_client::WsClient;
use crate::ws_frames::{BEGUN, BINARY, CLOSE, PING, masked};
use crate::ws_node::WsAnswer;
use crate::ws_requests::both_kinds;

/// The payloads of close frames, and those of the answers.
fn close_frames() -> Vec<(Vec<u8>, Vec<u8>)> {
    let of = |code: u16, reason: &[u8]| [&code.to_be_bytes()[..], reason].concat();
    // 5.5.1: no payload, and one byte, which is no code (7.3.1, 7.3.2).
    let mut cases = vec![(vec![], vec![]), (vec![b'a'], of(1002, b""))];
    // 7.4.1, 7.4.2: codes that may be sent (7.7).
    for code in [1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999] {
        cases.push((of(code, b""), of(code, b"")));
    }
    // Codes that may not (7.9, 7.13).
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push((of(code, b""), of(1002, b"")));
        cases.push((of(code, b"why"), of(1002, b"")));
    }
    // A reason, the longest one (7.3.4, 7.3.5), and one that is not UTF-8 (7.5.1).
    cases.push((of(1000, "Ümlaut".as_bytes()), of(1000, b"")));
    cases.push((of(1000, &[b'x'; 123]), of(1000, b"")));
    cases.push((of(1000, b"\xCE\xBA\xED\xA0\x80edited"), of(1002, b"")));
    cases
}

#[test]
fn a_close_frame_before_the_connect_is_answered_as_rfc_6455_allows() {
    for mesh in both_kinds() {
        let program = Program::of(&mesh.toml(""));
        for (payload, answer) in close_frames() {
            let mut client = WsClient::to(program.address);
            // What is behind it is not read (7.1.3 to 7.1.6): a ping, and the start of a message.
            let behind = [masked(PING, b"?", [1; 4]), masked(BEGUN, b"more", [1; 4])].concat();
            client
                .tcp
                .send(&[masked(CLOSE, &payload, [1, 2, 3, 4]), behind].concat());
            client.expect(CLOSE, &answer);
            assert_eq!(client.tcp.end(), End::Fin, "{payload:02x?}");
            let address = client.tcp.address();
            drop(client);
            assert_eq!(program.ended(address)["cause"], "client_closed", "{payload:02x?}");
        }
        assert_eq!(mesh.dials(), 0);
    }
}

#[test]
fn a_close_frame_of_a_bridged_client_is_answered_as_rfc_6455_allows() {
    let mesh = Mesh::of(0, 1);
    let program = Program::of(&mesh.toml(""));
    for (number, (payload, answer)) in close_frames().into_iter().enumerate() {
        let (mut client, node, _) = bridged(&mesh, program.address, &format!("closes-{number}"));
        client.frame(CLOSE, &payload);
        client.expect(CLOSE, &answer);
        assert_eq!(node.end(), End::Fin, "{payload:02x?}");
        node.fin();
        assert_eq!(client.tcp.end(), End::Fin, "{payload:02x?}");
        assert_eq!(program.ended(client.tcp.address())["cause"], "client_closed");
    }
}

#[test]
fn a_close_frame_passes_to_a_node_with_websocket_as_it_is() {
    let mesh = Mesh::of(1, 0);
    let balancer = mesh.start();
    for (number, (payload, _)) in close_frames().into_iter().enumerate() {
        let connect = Connect::new(format!("passes-{number}")).bytes();
        let mut client = WsClient::to(balancer.address);
        client.send(&connect);
        client.expect(BINARY, &packets::connack(4, 0));
        let (_, node) = mesh.holder(&connect);
        let close = masked(CLOSE, &payload, [1, 2, 3, 4]);
        client.tcp.send(&close);
        node.expect(&[masked(BINARY, &connect, [1, 2, 3, 4]), close].concat());
    }
}

#[test]
fn a_websocket_whose_mqtt_is_wrong_is_told_so() {
    let mut no_name = Connect::new("nameless").bytes();
    no_name[4..8].copy_from_slice(b"HTTP");
    let cases: [(&[u8], &str); 6] = [
        // No CONNECT first (MQTT-3.1.0-1).
        (&packets::publish(b"early"), "not_mqtt_junk"),
        (&[0xC0, 0], "not_mqtt_junk"),
        (&no_name, "malformed"),
        (b"GET / HTTP/1.1\r\n\r\n", "not_mqtt_http"),
        (b"\x16\x03\x01\x02\x00\x01\0\0", "not_mqtt_tls"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", "not_mqtt_proxy"),
    ];
    for mesh in both_kinds() {
        let program = Program::of(&mesh.toml(""));
        for (mqtt, cause) in cases {
            let mut client = WsClient::to(program.address);
            client.send(mqtt);
            client.closed(1002);
            let address = client.tcp.address();
            drop(client);
            assert_eq!(program.ended(address)["cause"], cause);
        }
        assert_eq!(mesh.dials(), 0);
    }
}

#[test]
fn a_malformed_connect_of_mqtt_5_is_answered_in_a_frame_where_that_is_wished() {
    let mut malformed = Connect::v5("id").bytes();
    // Properties that go on behind the end of the packet.
    malformed[12] = 0x7F;
    for mesh in both_kinds() {
        let program = Program::of(&mesh.toml("[greet]\nrefuse = \"connack\"\n"));
        let mut client = WsClient::to(program.address);
        client.send(&malformed);
        client.expect(BINARY, &packets::connack(5, 0x81));
        client.closed(1002);
    }
}

#[test]
fn a_websocket_without_a_connect_in_time_is_told_so() {
    for mesh in both_kinds() {
        let program =
            Program::of(&mesh.toml(
                "[timeouts]\nconnect = \"300ms\"\ndial = \"400ms\"\ngreet = \"400ms\"\ngreet_total = \"700ms\"\n",
            ));
        let connect = Connect::new("slow").username("late").bytes();
        let begun = masked(BINARY, &connect[..connect.len() - 1], [1; 4]);
        for sent in [
            &b""[..],
            &masked(PING, b"?", [1; 4])[..3],
            &masked(BINARY, b"\x10", [1; 4]),
            &begun,
        ] {
            let mut client = WsClient::to(program.address);
            client.tcp.send(sent);
            client.closed(1008);
            let address = client.tcp.address();
            drop(client);
            assert_eq!(program.ended(address)["cause"], "connect_timeout");
        }
    }
}

#[test]
fn a_client_whose_connect_nodes_drop_is_not_told_to_try_again() {
    for mesh in [Mesh::of(2, 0), Mesh::of(0, 2)] {
        for refuse in ["close", "connack"] {
            let program = Program::of(&mesh.toml(&format!("[greet]\nrefuse = \"{refuse}\"\n")));
            mesh.cluster.answer(&Answer::Close);
            // A close frame is as silent.
            let close = crate::ws_frames::plain(CLOSE, &1000u16.to_be_bytes());
            mesh.ws
                .iter()
                .for_each(|node| node.answer(WsAnswer::Bytes(close.clone())));
            for connect in [Connect::new("dropped"), Connect::v5("dropped")] {
                let mut client = WsClient::to(program.address);
                client.send(&connect.bytes());
                client.closed(1002);
                let address = client.tcp.address();
                drop(client);
                assert_eq!(program.ended(address)["cause"], "refused");
            }
        }
    }
}
