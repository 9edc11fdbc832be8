//! A small MQTT 5 client, to show what arrives at a subscriber: it connects, subscribes, publishes, and waits for a message.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use mqttbytes::{QoS, v5};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::packet::PACKET_BYTES_MAX;

/// How long a node may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How long a message may be late: counted from the answer to a ping that was sent after the message was published.
const LATE_MAX: Duration = Duration::from_millis(500);

const PINGREQ: [u8; 2] = [0xC0, 0];
const DISCONNECT: [u8; 2] = [0xE0, 0];

/// A connected client, whose session ends with its connection.
#[derive(Debug)]
pub struct Client {
    socket: TcpStream,
    incoming: BytesMut,
    node: String,
}

impl Client {
    /// Connects with this client id.
    ///
    /// # Errors
    /// No node answers in time, or it refuses the client.
    pub async fn connect(address: SocketAddr, client_id: &str) -> io::Result<Self> {
        let socket = timeout(ANSWER_MAX, TcpStream::connect(address)).await??;
        socket.set_nodelay(true)?;
        let mut client = Self {
            socket,
            incoming: BytesMut::new(),
            node: String::new(),
        };
        let connect = v5::Connect::new(client_id);
        client.send(|out| connect.write(out)).await?;
        let v5::Packet::ConnAck(connack) = client.answer().await? else {
            return Err(unexpected("CONNACK"));
        };
        if connack.code != v5::ConnectReturnCode::Success {
            return Err(io::Error::other(format!("CONNECT was refused: {:?}", connack.code)));
        }
        let properties = connack.properties.map(|properties| properties.user_properties);
        let node = properties.into_iter().flatten().find(|(name, _)| name == "node");
        client.node = node.map(|(_, node)| node).unwrap_or_default();
        Ok(client)
    }

    /// The node's name, which the node has reported in CONNACK.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Subscribes to a filter, with QoS 1.
    ///
    /// # Errors
    /// The connection has ended, or the node refuses the filter.
    pub async fn subscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut subscribe = v5::Subscribe::new(filter, QoS::AtLeastOnce);
        subscribe.pkid = 1;
        self.send(|out| subscribe.write(out)).await?;
        match self.answer().await? {
            v5::Packet::SubAck(suback) => match suback.return_codes.first() {
                Some(v5::SubscribeReasonCode::QoS0 | v5::SubscribeReasonCode::QoS1) => Ok(()),
                code => Err(io::Error::other(format!("SUBSCRIBE was refused: {code:?}"))),
            },
            _ => Err(unexpected("SUBACK")),
        }
    }

    /// Publishes with QoS 1, and waits until the node has acknowledged it.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn publish(&mut self, topic: &str, payload: &str) -> io::Result<()> {
        let mut publish = v5::Publish::new(topic, QoS::AtLeastOnce, payload);
        publish.pkid = 1;
        self.send(|out| publish.write(out)).await?;
        match self.answer().await? {
            v5::Packet::PubAck(_) => Ok(()),
            _ => Err(unexpected("PUBACK")),
        }
    }

    /// Whether a message with this payload, which has been acknowledged to its publisher, arrives: before the answer to a
    /// ping, or within half a second after that.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn receives(&mut self, payload: &str) -> io::Result<bool> {
        self.socket.write_all(&PINGREQ).await?;
        let mut due = Instant::now() + ANSWER_MAX;
        let mut has_answered = false;
        loop {
            let packet = match timeout_at(due, self.packet()).await {
                Ok(packet) => packet?,
                Err(_) if has_answered => return Ok(false),
                Err(late) => return Err(late.into()),
            };
            match packet {
                v5::Packet::Publish(publish) => {
                    let acknowledged = v5::PubAck::new(publish.pkid);
                    self.send(|out| acknowledged.write(out)).await?;
                    if publish.payload == payload.as_bytes() {
                        return Ok(true);
                    }
                }
                v5::Packet::PingResp => {
                    has_answered = true;
                    due = Instant::now() + LATE_MAX;
                }
                _ => return Err(unexpected("a message")),
            }
        }
    }

    /// Disconnects, and returns when the node has closed.
    ///
    /// # Errors
    /// The node does not close in time.
    pub async fn disconnect(mut self) -> io::Result<()> {
        self.socket.write_all(&DISCONNECT).await?;
        let mut rest = Vec::new();
        timeout(ANSWER_MAX, self.socket.read_to_end(&mut rest)).await??;
        Ok(())
    }

    async fn send<T>(&mut self, write: impl FnOnce(&mut BytesMut) -> Result<T, mqttbytes::Error>) -> io::Result<()> {
        let mut out = BytesMut::new();
        write(&mut out).map_err(|error| io::Error::other(format!("{error:?}")))?;
        self.socket.write_all(&out).await
    }

    /// The next packet that is not a late PINGRESP.
    async fn answer(&mut self) -> io::Result<v5::Packet> {
        loop {
            match timeout(ANSWER_MAX, self.packet()).await?? {
                v5::Packet::PingResp => {}
                packet => return Ok(packet),
            }
        }
    }

    /// The next packet. May be cancelled: what was read stays.
    async fn packet(&mut self) -> io::Result<v5::Packet> {
        loop {
            match v5::read(&mut self.incoming, PACKET_BYTES_MAX) {
                Ok(packet) => return Ok(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, format!("{error:?}"))),
            }
            if self.socket.read_buf(&mut self.incoming).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn unexpected(awaited: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("another packet instead of {awaited}"))
}
