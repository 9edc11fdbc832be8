//! One of the doctor's clients, as a task: sends what it is told, acknowledges, and reports each packet with the time of its arrival.

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::mqtt::{NodePacket, Version, puback};
use crate::net::node::NodeClient;

/// The most packets that a node may send to one client: some times what a check asks for.
const PACKETS_MAX: usize = 50_000;

/// How many packets may wait to be sent: more than a check sends at a time.
const TO_SEND_MAX: usize = 256;

/// How many events may wait until a check takes them.
const EVENTS_MAX: usize = 1024;

/// The events of all clients of a check.
pub(super) fn events() -> (mpsc::Sender<Event>, mpsc::Receiver<Event>) {
    mpsc::channel(EVENTS_MAX)
}

/// What happened to a client.
#[derive(Debug)]
pub(super) struct Event {
    /// The client's number.
    pub(super) of: usize,
    pub(super) at: Instant,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Packet(NodePacket),
    /// The connection has ended; why, in words.
    Ended(String),
}

/// A client that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    packets: mpsc::Sender<Vec<u8>>,
    /// What its node takes.
    pub(super) version: Version,
    next_id: u16,
}

impl Peer {
    /// Runs `client` on this thread. Its DISCONNECT is sent when the peer is dropped, behind all that was sent before.
    pub(super) fn start(of: usize, client: NodeClient, events: mpsc::Sender<Event>) -> Self {
        let (packets, to_send) = mpsc::channel(TO_SEND_MAX);
        let version = client.version();
        tokio::task::spawn_local(run(of, client, to_send, events));
        Self {
            packets,
            version,
            next_id: 1,
        }
    }

    /// Sends a packet; false if the connection has ended, of which an event tells, or if its node takes none.
    pub(super) fn send(&self, packet: Vec<u8>) -> bool {
        self.packets.try_send(packet).is_ok()
    }

    /// A number for a packet that is to be acknowledged.
    pub(super) fn next_id(&mut self) -> u16 {
        let id = self.next_id;
        // A check sends fewer than there are.
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        id
    }
}

async fn run(of: usize, mut client: NodeClient, mut to_send: mpsc::Receiver<Vec<u8>>, events: mpsc::Sender<Event>) {
    let tell = async |what| {
        let at = Instant::now();
        // The check may be over.
        let _ = events.send(Event { of, at, what }).await;
    };
    let mut received = 0;
    loop {
        tokio::select! {
            packet = to_send.recv() => match packet {
                Some(packet) => {
                    if let Err(cause) = client.send(&packet).await {
                        return tell(What::Ended(cause.to_string())).await;
                    }
                }
                None => return client.close().await,
            },
            packet = client.recv() => match packet {
                Ok(packet) => {
                    received += 1;
                    if received > PACKETS_MAX {
                        return tell(What::Ended("the node sends more than it was asked for".to_owned())).await;
                    }
                    let id = match &packet {
                        NodePacket::Publish { packet_id, .. } => *packet_id,
                        _ => None,
                    };
                    let has_ended = matches!(packet, NodePacket::Disconnect { .. });
                    tell(What::Packet(packet)).await;
                    if let Some(id) = id && let Err(cause) = client.send(&puback(id)).await {
                        return tell(What::Ended(cause.to_string())).await;
                    }
                    if has_ended {
                        return;
                    }
                }
                Err(cause) => return tell(What::Ended(cause.to_string())).await,
            },
        }
    }
}
