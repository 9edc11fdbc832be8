//! Writes the packets of a plan, and sends them.

use crate::failure::Failure;
use crate::packet::{self, Connect, Message, STAMP_BYTES, Stamp};
use crate::plan::Plan;
use crate::wire::{Outgoing, Wire};

/// What all clients of a run send with: the content of messages, and buffers that each packet is written into.
pub(crate) struct Sender<'a> {
    plan: &'a Plan,
    pub(crate) outgoing: Outgoing,
    packet: Vec<u8>,
    text: Vec<u8>,
}

impl<'a> Sender<'a> {
    /// For the clients of this plan.
    pub(crate) fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            outgoing: Outgoing::new(plan.size, plan.websocket.as_ref()),
            packet: Vec::new(),
            text: Vec::new(),
        }
    }

    /// The client id of a client.
    pub(crate) fn client_id(&mut self, index: u32) -> &str {
        packet::fill(&self.plan.client_id, index, &mut self.text);
        str::from_utf8(&self.text).unwrap_or_default()
    }

    /// Sends CONNECT.
    pub(crate) fn connect(&mut self, wire: &mut Wire, index: u32) -> Result<(), Failure> {
        packet::fill(&self.plan.client_id, index, &mut self.text);
        self.packet.clear();
        packet::write_connect(
            &mut self.packet,
            &Connect {
                version: self.plan.version,
                client_id: str::from_utf8(&self.text).unwrap_or_default(),
                keep_alive_s: self.plan.keep_alive_s,
                clean: self.plan.clean,
                username: self.plan.username.as_deref(),
                password: self.plan.password.as_deref(),
            },
        );
        wire.send(&self.packet, 0..0, &mut self.outgoing)
    }

    /// Sends SUBSCRIBE, for the topic that this client subscribes to.
    pub(crate) fn subscribe(&mut self, wire: &mut Wire, index: u32) -> Result<(), Failure> {
        packet::fill(&self.plan.topic, self.plan.topic_number(index), &mut self.text);
        let filter = str::from_utf8(&self.text).unwrap_or_default();
        self.packet.clear();
        packet::write_subscribe(&mut self.packet, self.plan.version, filter, self.plan.qos);
        wire.send(&self.packet, 0..0, &mut self.outgoing)
    }

    /// Sends PINGREQ.
    pub(crate) fn ping(&mut self, wire: &mut Wire) -> Result<(), Failure> {
        wire.send(&packet::PINGREQ, 0..0, &mut self.outgoing)
    }

    /// Sends PUBACK.
    pub(crate) fn confirm(&mut self, wire: &mut Wire, packet_id: u16) -> Result<(), Failure> {
        self.packet.clear();
        packet::write_puback(&mut self.packet, packet_id);
        wire.send(&self.packet, 0..0, &mut self.outgoing)
    }

    /// Sends a message: its stamp, and the content that belongs to that.
    pub(crate) fn publish(&mut self, wire: &mut Wire, stamp: Stamp) -> Result<(), Failure> {
        let body_bytes = self.plan.size - STAMP_BYTES;
        packet::fill(&self.plan.topic, stamp.sender, &mut self.text);
        self.packet.clear();
        packet::write_publish_head(
            &mut self.packet,
            &Message {
                version: self.plan.version,
                topic: &self.text,
                qos: self.plan.qos,
                packet_id: packet_id(stamp.sequence),
                stamp,
                body_bytes,
            },
        );
        let start = self.outgoing.pattern.start(stamp);
        wire.send(&self.packet, start..start + body_bytes, &mut self.outgoing)
    }

    /// Sends DISCONNECT of a client that may return, and closes.
    pub(crate) fn leave(&mut self, wire: Wire) -> Result<(), Failure> {
        wire.leave(&packet::DISCONNECT, self.plan.close_mode, &mut self.outgoing)
    }

    /// Sends DISCONNECT of a client that does not return, and closes.
    pub(crate) fn leave_for_good(&mut self, wire: Wire) -> Result<(), Failure> {
        let disconnect = packet::last_disconnect(self.plan.version);
        wire.leave(disconnect, self.plan.close_mode, &mut self.outgoing)
    }
}

/// The packet id of a message. It is used again after 65,535 messages, long after the first with it was confirmed.
pub(crate) fn packet_id(sequence: u32) -> u16 {
    (sequence % 65_535 + 1) as u16
}
