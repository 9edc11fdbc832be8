//! Frames, right ones and wrong ones, by the sections of RFC 6455 and in the manner of Autobahn's cases: before the CONNECT, to listeners
//! before nodes with WebSocket and before nodes without it; and behind the CONNACK, where frames are opened and where they are relayed.
//!
//! | Autobahn | here |
//! | --- | --- |
//! | 1 framing, 9 limits, 10 fragments | `messages_of_every_size_and_in_fragments_arrive` |
//! | 2 pings and pongs, 5 fragmentation (allowed) | `allowed`: 5.4, 5.5.2, 5.5.3 |
//! | 3 reserved bits, 4 opcodes, 5 fragmentation (forbidden) | `forbidden`: 5.1, 5.2, 5.4, 5.5 |
//! | 6 UTF-8 | `forbidden`: 5.6; all text is refused (MQTT-6.0.0-1), where the node is not asked |
//! | 7 close | `ws_closing` |
//!
//! The suite itself is run by `tests/interop/run autobahn`.

use crate::balancer::Program;
use crate::packets::{self, Connect};
use crate::websocket::{Mesh, bridged};
use crate::ws_client::WsClient;
use crate::ws_frames::{BEGUN, BINARY, CLOSE, CONTINUED, LAST, PING, PONG, TEXT, masked, plain};
use crate::ws_requests::both_kinds;

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    masked(first, payload, KEY)
}

/// Frames without MQTT that are allowed, by section, and the answers to them.
fn allowed() -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let pong = |payload: &[u8]| plain(PONG, payload);
    let ten: Vec<u8> = (0..10).flat_map(|number| frame(PING, &[number; 10])).collect();
    let ten_pongs: Vec<u8> = (0..10).flat_map(|number| pong(&[number; 10])).collect();
    let between = [
        frame(BEGUN, b""),
        frame(PING, b"in between"),
        frame(CONTINUED, b""),
        frame(LAST, b""),
    ]
    .concat();
    vec![
        ("5.5.2 a ping without payload", frame(PING, b""), pong(b"")),
        (
            "5.5.2 a ping of bytes that are no text",
            frame(PING, &[0, 0xFF, 0xFE]),
            pong(&[0, 0xFF, 0xFE]),
        ),
        ("5.5.2 the longest ping", frame(PING, &[0xFE; 125]), pong(&[0xFE; 125])),
        ("5.5.2 ten pings", ten, ten_pongs),
        (
            "5.5.3 a pong that nobody asked for",
            frame(PONG, b"unsolicited"),
            vec![],
        ),
        (
            "5.5.3 such a pong, and a ping",
            [frame(PONG, &[1; 125]), frame(PING, b"?")].concat(),
            pong(b"?"),
        ),
        ("5.3 a mask of zeros", masked(PING, b"bare", [0; 4]), pong(b"bare")),
        ("5.4 an empty message", frame(BINARY, b""), vec![]),
        (
            "5.4 a fragmented message with a ping in it",
            between,
            pong(b"in between"),
        ),
    ]
}

/// Frames that are not allowed, by section, and the close codes.
fn forbidden() -> Vec<(String, Vec<u8>, u16)> {
    let mut cases = Vec::new();
    for bits in 1..=7u8 {
        for first in [BINARY, PING, PONG, CLOSE] {
            cases.push((format!("5.2 reserved bits {bits}"), frame(first | bits << 4, b""), 1002));
        }
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.push((format!("5.2 opcode {opcode}"), frame(0x80 | opcode, b""), 1002));
        cases.push((
            format!("5.2 opcode {opcode} with payload"),
            frame(0x80 | opcode, b"reserved"),
            1002,
        ));
    }
    let endless = [&[BINARY, 0xFF, 0x80][..], &[0; 7], &KEY].concat();
    let one = |name: &str, frames: Vec<u8>, code| (name.to_owned(), frames, code);
    cases.extend([
        one("5.1 not masked", plain(BINARY, b"bare"), 1002),
        one("5.1 a ping that is not masked", plain(PING, b"bare"), 1002),
        one("5.2 a length with the highest bit", endless, 1002),
        one("5.4 a continuation of nothing", frame(LAST, b"of nothing"), 1002),
        one("5.4 a fragment of nothing", frame(CONTINUED, b"of nothing"), 1002),
        one(
            "5.4 a message within another",
            [frame(BEGUN, b""), frame(BINARY, b"")].concat(),
            1002,
        ),
        one(
            "5.4 a text within another",
            [frame(BEGUN, b""), frame(TEXT, b"")].concat(),
            1002,
        ),
        one("5.5 a ping of 126 bytes", frame(PING, &[7; 126]), 1002),
        one("5.5 a pong of 126 bytes", frame(PONG, &[7; 126]), 1002),
        one("5.5 a close frame of 126 bytes", frame(CLOSE, &[3; 126]), 1002),
        one(
            "5.5 a fragmented ping",
            [frame(PING & 0x7F, b"a"), frame(LAST, b"b")].concat(),
            1002,
        ),
        one(
            "5.5 a fragmented pong",
            [frame(PONG & 0x7F, b"a"), frame(LAST, b"b")].concat(),
            1002,
        ),
        one("5.6 a text", frame(TEXT, b"words"), 1003),
        one("5.6 an empty text", frame(TEXT, b""), 1003),
        one("5.6 a fragmented text", frame(TEXT & 0x7F, b"wo"), 1003),
        one(
            "5.6 a text beyond ASCII",
            frame(TEXT, "\u{3ba}\u{1f680}".as_bytes()),
            1003,
        ),
        one(
            "5.6 a text that is no UTF-8",
            frame(TEXT, b"\xCE\xBA\xED\xA0\x80"),
            1003,
        ),
        one(
            "5.6 a text cut within a letter",
            [frame(TEXT & 0x7F, b"\xCE"), frame(LAST, b"\xBA")].concat(),
            1003,
        ),
    ]);
    cases
}

#[test]
fn what_rfc_6455_allows_is_answered_before_the_connect_however_it_is_cut() {
    for mesh in both_kinds() {
        let balancer = mesh.start();
        for (number, (case, frames, answers)) in allowed().into_iter().enumerate() {
            for piece in [1, usize::MAX] {
                let mut client = WsClient::to(balancer.address);
                for piece in frames.chunks(piece.min(frames.len())) {
                    client.tcp.send(piece);
                }
                assert!(client.tcp.read(answers.len()) == answers, "{case}");
                client.send(&Connect::new(format!("allowed-{number}-{}", piece == 1)).bytes());
                client.expect(BINARY, &packets::connack(4, 0));
            }
        }
    }
}

#[test]
fn what_rfc_6455_allows_is_answered_behind_the_connack() {
    let mesh = Mesh::of(0, 1);
    let balancer = mesh.start();
    let (mut client, node, connect) = bridged(&mesh, balancer.address, "bridged");
    for (case, frames, answers) in allowed() {
        client.tcp.send(&frames);
        assert!(client.tcp.read(answers.len()) == answers, "{case}");
    }
    let last = packets::publish(b"and nothing else");
    client.send(&last);
    node.expect(&[connect, last].concat());
}

#[test]
fn what_rfc_6455_forbids_is_closed_with_its_code_before_the_connect() {
    for mesh in both_kinds() {
        let program = Program::of(&mesh.toml("[log]\nunrouted_rate = 1000\n"));
        for (case, frames, code) in forbidden() {
            let mut client = WsClient::to(program.address);
            client.tcp.send(&frames);
            let (first, payload) = client.read_frame();
            assert_eq!((first, payload), (CLOSE, code.to_be_bytes().to_vec()), "{case}");
            client.tcp.end();
            let address = client.tcp.address();
            drop(client);
            assert_eq!(program.ended(address)["cause"], "frame_fault", "{case}");
        }
        assert_eq!(mesh.dials(), 0);
    }
}

#[test]
fn what_rfc_6455_forbids_is_closed_with_its_code_behind_the_connack() {
    let mesh = Mesh::of(0, 1);
    let program = Program::of(&mesh.toml(""));
    for (number, (case, frames, code)) in forbidden().into_iter().enumerate() {
        let (mut client, node, _) = bridged(&mesh, program.address, &format!("forbidden-{number}"));
        client.tcp.send(&frames);
        let (first, payload) = client.read_frame();
        assert_eq!((first, payload), (CLOSE, code.to_be_bytes().to_vec()), "{case}");
        node.end();
        assert_eq!(program.ended(client.tcp.address())["cause"], "frame_fault", "{case}");
    }
}

/// Each payload in one frame, and in frames of 1,300 bytes and of one; the long ones not in those.
fn messages() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut messages = Vec::new();
    for length in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 1 << 20] {
        let payload: Vec<u8> = (0..length).map(|at: usize| (at % 251) as u8).collect();
        for part in [length, 1_300, 1] {
            if part == 0 || (part < length && length / part > 1_000) {
                continue;
            }
            let parts: Vec<_> = payload.chunks(part).collect();
            let frames = parts.iter().enumerate().flat_map(|(number, part)| {
                let opcode = if number == 0 { BEGUN } else { CONTINUED };
                let last = if number + 1 == parts.len() { LAST } else { 0 };
                frame(opcode | last, part)
            });
            messages.push((payload.clone(), frames.collect()));
        }
    }
    messages.push((Vec::new(), frame(BINARY, b"")));
    messages
}

#[test]
fn messages_of_every_size_and_in_fragments_arrive() {
    let mesh = Mesh::of(0, 1);
    let balancer = mesh.start();
    let (mut client, node, connect) = bridged(&mesh, balancer.address, "sizes");
    let mut expected = connect;
    for (payload, frames) in messages() {
        client.tcp.send(&frames);
        expected.extend(&payload);
        node.expect(&expected);
        // And back: in whatever frames, with the same bytes.
        node.send(&payload);
        assert!(client.read_mqtt(payload.len()) == payload, "{} bytes", payload.len());
    }
}

#[test]
fn all_that_a_client_sends_behind_the_connack_reaches_a_node_with_websocket_as_it_is() {
    let mesh = Mesh::of(1, 0);
    let balancer = mesh.start();
    let allowed = allowed().into_iter().map(|(case, frames, _)| (case.to_owned(), frames));
    let forbidden = forbidden().into_iter().map(|(case, frames, _)| (case, frames));
    let sizes = messages()
        .into_iter()
        .map(|(payload, frames)| (format!("{} bytes", payload.len()), frames));
    for (number, (case, frames)) in allowed.chain(forbidden).chain(sizes).enumerate() {
        let connect = Connect::new(format!("relayed-{number}")).bytes();
        let mut client = WsClient::to(balancer.address);
        client.send(&connect);
        client.expect(BINARY, &packets::connack(4, 0));
        let (_, node) = mesh.holder(&connect);
        client.tcp.send(&frames);
        println!("{case}");
        node.expect(&[masked(BINARY, &connect, [1, 2, 3, 4]), frames].concat());
    }
}
