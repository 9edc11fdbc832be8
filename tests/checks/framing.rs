//! What becomes of MQTT on its way between a client in WebSocket frames and a node of either transport.

use remora::net::websocket::frames::{Control, Fault, Frames, Sender, close_reply, pong};
use remora::path::opening::{Framing, Replay, Unsent};
use remora::path::relay::coding::Coding;

use super::taken_apart;

/// However a client's bytes are cut, and wherever its relay begins: a node gets each byte of MQTT once and in order, and the
/// client the answers to its control frames. What a node sends is the same when the client opens its frames.
///
/// The first byte says how the rest is cut, the second where the relay begins.
pub(crate) fn framing(bytes: &[u8]) {
    let [piece, begin, bytes @ ..] = bytes else { return };
    let piece = usize::from(*piece).max(1);
    let begin = bytes.len() * usize::from(*begin) / 255;
    to_plain_node(bytes, begin, piece);
    to_websocket_node(bytes, begin, piece);
    to_client(bytes, piece);
}

/// What a client sends, the replies that it gets, and the fault at which it ended.
type Opened = (Vec<u8>, Vec<u8>, Option<Fault>);

/// The same by way of the reader of frames alone, which has a check of its own.
fn expected(bytes: &[u8]) -> Opened {
    let mut frames = Frames::new(Sender::Client);
    // A close ends it: nothing behind it means anything, not even a fault.
    let mut end = bytes.len();
    let mut at = 0;
    while at < bytes.len() {
        let Ok((here, _)) = frames.next(&bytes[at..]) else {
            break;
        };
        at += here;
        if frames.is_closed() {
            end = at;
            break;
        }
    }
    let (data, controls, fault) = taken_apart([&bytes[..end]], Sender::Client);
    (data, replies_to(&controls), fault)
}

fn replies_to(controls: &[Control]) -> Vec<u8> {
    let answers = controls.iter().map(|control| match control {
        Control::Ping(payload) => pong(payload),
        Control::Close(payload) => close_reply(payload),
        Control::Pong => Vec::new(),
    });
    answers.flatten().collect()
}

/// Gives `bytes` to the replay in pieces; the fault, if there is one.
fn push(replay: &mut Replay, bytes: &[u8], piece: usize) -> Option<Fault> {
    for part in bytes.chunks(piece) {
        let held = replay.held_bytes();
        let received = replay.received_bytes();
        let fault = replay.push(part).err();
        assert_eq!(replay.received_bytes(), received + part.len() as u64);
        assert!(replay.held_bytes() >= held, "what is held is not given back");
        assert!(
            replay.held_bytes() <= 2 * replay.received_bytes() as usize,
            "no more than the frames and what is in them"
        );
        if fault.is_some() {
            return fault;
        }
    }
    None
}

fn to_plain_node(bytes: &[u8], begin: usize, piece: usize) {
    let (before, after) = bytes.split_at(begin);
    let mut replay = Replay::new(Framing::WebSocket);
    let fault = push(&mut replay, before, piece);
    let closed = replay.is_closed();
    let mut mqtt = replay.mqtt().to_vec();
    let sent = mqtt.len() / 2;
    let Unsent {
        to_node,
        to_client: mut replies,
        frames,
    } = replay.into_unsent(Framing::Raw, sent);
    assert_eq!(to_node, mqtt[sent..], "what the node does not have yet");
    let opened = if fault.is_some() || closed {
        (mqtt, replies, fault)
    } else {
        let mut coding = Coding::unframe(frames.expect("frames that are opened here"));
        let fault = open(&mut coding, after, piece, &mut mqtt, &mut replies);
        (mqtt, replies, fault)
    };
    let expected = expected(bytes);
    match expected.2 {
        // At a fault the last piece is lost as a whole, for the connection ends.
        Some(_) => {
            assert!(expected.0.starts_with(&opened.0), "in order");
            assert!(expected.1.starts_with(&opened.1), "in order");
            assert_eq!(opened.2, expected.2);
        }
        None => assert_eq!(opened, expected),
    }
}

fn open(coding: &mut Coding, bytes: &[u8], piece: usize, mqtt: &mut Vec<u8>, replies: &mut Vec<u8>) -> Option<Fault> {
    for part in bytes.chunks(piece) {
        let mut buffer = part.to_vec();
        let read = buffer.len();
        let mut more = Vec::new();
        let coded = match coding.code(&mut buffer, read, &mut more) {
            Ok(coded) => coded,
            Err(fault) => return Some(fault),
        };
        replies.append(&mut more);
        mqtt.extend_from_slice(&buffer[coded.range]);
        if coded.closed {
            break;
        }
    }
    None
}

fn to_websocket_node(bytes: &[u8], begin: usize, piece: usize) {
    let (before, after) = bytes.split_at(begin);
    let mut replay = Replay::new(Framing::WebSocket);
    if push(&mut replay, before, piece).is_some() || replay.is_closed() {
        return;
    }
    let frames = replay.bytes_for(Framing::WebSocket).to_vec();
    let sent = frames.len() / 2;
    let unsent = replay.into_unsent(Framing::WebSocket, sent);
    assert!(unsent.frames.is_none(), "frames pass untouched");
    let all = [&frames[..sent], &unsent.to_node, after].concat();
    let at_node = taken_apart([&all[..]], Sender::Client);
    let (data, controls, fault) = taken_apart([bytes], Sender::Client);
    assert_eq!((&at_node.0, at_node.2), (&data, fault), "MQTT, whole and in order");
    assert!(
        controls.ends_with(&at_node.1),
        "the node answers what was not answered here"
    );
    let answered = &controls[..controls.len() - at_node.1.len()];
    assert_eq!(unsent.to_client, replies_to(answered));
}

fn to_client(bytes: &[u8], piece: usize) {
    let mut framed = Vec::new();
    for part in bytes.chunks(piece) {
        let mut coding = Coding::Frame;
        let start = coding.start();
        let mut buffer = vec![0xEE; start];
        buffer.extend_from_slice(part);
        let mut replies = Vec::new();
        let coded = coding
            .code(&mut buffer, part.len(), &mut replies)
            .expect("a node sends no frames");
        assert!(replies.is_empty() && !coded.closed);
        framed.extend_from_slice(&buffer[coded.range]);
    }
    let (data, controls, fault) = taken_apart([&framed[..]], Sender::Node);
    assert_eq!((data.as_slice(), controls.len(), fault), (bytes, 0, None));
}
