//! A fake node's WebSocket listener: answers upgrades and CONNECTs as it is told, and keeps every byte.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use tungstenite::handshake::derive_accept_key;

use crate::header::{Header, Version};
use crate::node::{End, own_address};
use crate::packets;
use crate::wait::{Watched, uninterrupted};
use crate::ws_frames::{self, BINARY};

/// What a node does with a client.
#[derive(Clone, Debug)]
pub(crate) enum WsAnswer {
    /// Upgrades, and accepts the CONNECT.
    Accept,
    /// Upgrades, and answers the CONNECT with these bytes as they are.
    Bytes(Vec<u8>),
    /// Upgrades, says these bytes behind its 101, and accepts the CONNECT.
    First(Vec<u8>),
    /// Upgrades, and says nothing more.
    Stall,
    /// Answers the upgrade with its right answer, in which the first is replaced by the second.
    Wrong(&'static str, &'static str),
    /// Answers the upgrade with this, and no more.
    Head(&'static str),
}

#[derive(Debug)]
pub(crate) struct WsNode {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listener: TcpListener,
}

#[derive(Debug)]
struct Shared {
    answer: Watched<WsAnswer>,
    /// The PROXY header that connections must begin with.
    expects: Watched<Option<Version>>,
    connections: Watched<Vec<Arc<WsConnection>>>,
}

/// A connection that came to a node.
#[derive(Debug)]
pub(crate) struct WsConnection {
    pub stream: TcpStream,
    heard: Watched<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    header: Option<Header>,
    head: String,
    frames: Vec<u8>,
    end: Option<End>,
    /// The node has done with the CONNECT what it was told to.
    is_answered: bool,
}

impl Heard {
    /// All of a CONNECT is here, and its answer is due.
    fn owes_answer(&self) -> bool {
        let mqtt = ws_frames::opened(&self.frames);
        let is_complete = packets::packet_end(&mqtt).is_some_and(|end| mqtt.len() >= end);
        is_complete && !self.is_answered && self.end.is_none()
    }
}

impl WsNode {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((own_address(), 0)).expect("a free port");
        let shared = Arc::new(Shared {
            answer: Watched::new(WsAnswer::Accept),
            expects: Watched::default(),
            connections: Watched::default(),
        });
        let accepting = (listener.try_clone().expect("a descriptor"), Arc::clone(&shared));
        std::thread::spawn(move || {
            let (listener, shared) = accepting;
            while let Ok((stream, _)) = listener.accept() {
                let heard = Watched::default();
                let connection = Arc::new(WsConnection { stream, heard });
                let known = Arc::clone(&connection);
                let answer = shared.answer.lock().clone();
                let expects = *shared.expects.lock();
                shared.connections.change(|all| all.push(known));
                std::thread::spawn(move || connection.converse(&answer, expects));
            }
        });
        Self {
            address: listener.local_addr().expect("an address"),
            shared,
            listener,
        }
    }

    pub(crate) fn answer(&self, answer: WsAnswer) {
        self.shared.answer.change(|told| *told = answer);
    }

    /// From now on, connections must begin with this PROXY header.
    pub(crate) fn expect_header(&self, version: Version) {
        self.shared.expects.change(|expects| *expects = Some(version));
    }

    pub(crate) fn connections(&self) -> Vec<Arc<WsConnection>> {
        self.shared.connections.lock().clone()
    }

    #[track_caller]
    pub(crate) fn connection(&self, number: usize) -> Arc<WsConnection> {
        let what = format!("connection {number} to a WebSocket node");
        let connections = &self.shared.connections;
        connections.until_some(&what, |all| all.get(number).cloned())
    }
}

impl Drop for WsNode {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(self.listener.as_fd(), rustix::net::Shutdown::Both);
        for connection in self.connections() {
            // It may be gone.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }
}

impl WsConnection {
    fn converse(&self, answer: &WsAnswer, expects: Option<Version>) {
        if let Some(version) = expects {
            let Some(header) = Header::take(&self.stream, version) else {
                return;
            };
            self.heard.change(|heard| heard.header = Some(header));
        }
        let Some(right) = self.upgrade() else {
            return;
        };
        match answer {
            WsAnswer::Wrong(from, to) => {
                let wrong = right.replacen(from, to, 1);
                assert_ne!(wrong, right, "{from}");
                self.write(wrong.as_bytes());
                self.heard.change(|heard| heard.is_answered = true);
                while self.read_once() {}
                return;
            }
            WsAnswer::Head(head) => {
                self.write(head.as_bytes());
                self.heard.change(|heard| heard.is_answered = true);
                while self.read_once() {}
                return;
            }
            WsAnswer::First(bytes) => self.write(&[right.as_bytes(), bytes].concat()),
            WsAnswer::Accept | WsAnswer::Bytes(_) | WsAnswer::Stall => self.write(right.as_bytes()),
        }
        let level = loop {
            let mqtt = self.mqtt();
            if packets::packet_end(&mqtt).is_some_and(|end| mqtt.len() >= end) {
                break packets::level(&mqtt);
            }
            if !self.read_once() {
                return;
            }
        };
        match answer {
            WsAnswer::Bytes(bytes) => self.write(bytes),
            WsAnswer::Stall => {}
            _ => self.write(&ws_frames::plain(BINARY, &packets::connack(level, 0))),
        }
        self.heard.change(|heard| heard.is_answered = true);
        while self.read_once() {}
    }

    /// Reads the request; the right answer.
    fn upgrade(&self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if uninterrupted(|| (&self.stream).read(&mut byte)).unwrap_or(0) == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        let key = field(&head, "sec-websocket-key").expect("a key");
        let protocol = field(&head, "sec-websocket-protocol").expect("a subprotocol");
        let right = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {}\r\n\r\n",
            derive_accept_key(key.as_bytes()),
            protocol.split(',').next_back().expect("one").trim(),
        );
        self.heard.change(|heard| heard.head = head);
        Some(right)
    }

    fn read_once(&self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match uninterrupted(|| (&self.stream).read(&mut buffer)) {
            Ok(read) if read > 0 => {
                self.heard
                    .change(|heard| heard.frames.extend_from_slice(&buffer[..read]));
                true
            }
            ended => {
                let end = End::of(ended);
                self.heard.change(|heard| heard.end = Some(end));
                false
            }
        }
    }

    /// The PROXY header that came before everything.
    #[track_caller]
    pub(crate) fn header(&self) -> Header {
        self.heard.until_some("a PROXY header", |heard| heard.header.clone())
    }

    /// The balancer's request.
    pub(crate) fn head(&self) -> String {
        self.heard.lock().head.clone()
    }

    /// Every byte behind it.
    pub(crate) fn frames(&self) -> Vec<u8> {
        self.heard.lock().frames.clone()
    }

    pub(crate) fn mqtt(&self) -> Vec<u8> {
        ws_frames::opened(&self.heard.lock().frames)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.heard.lock().end.is_some()
    }

    #[track_caller]
    pub(crate) fn end(&self) -> End {
        self.heard.until_some("a node's end", |heard| heard.end)
    }

    /// Sends `bytes`, behind the node's answer where a CONNECT is here.
    #[track_caller]
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.heard
            .until("the answer to a CONNECT", |heard| !heard.owes_answer());
        self.write(bytes);
    }

    fn write(&self, bytes: &[u8]) {
        // A balancer that has given up this node does not read.
        let _ = (&self.stream).write_all(bytes);
    }

    /// Waits until these frames and no others have come.
    #[track_caller]
    pub(crate) fn expect(&self, frames: &[u8]) {
        let what = format!("{} bytes at a WebSocket node", frames.len());
        self.heard.until(&what, |heard| heard.frames.len() >= frames.len());
        assert!(self.heard.lock().frames == frames, "other frames than those expected");
    }
}

/// A field of a head.
pub(crate) fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (given, value) = line.split_once(':')?;
        given.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
