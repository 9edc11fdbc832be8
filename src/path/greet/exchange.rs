//! One exchange with a node: sends it the client's bytes, reads its first packet and classifies the answer.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::attempts::{RetryAt, retry_at};
use super::client::PendingClient;
use crate::base::scratch;
use crate::mqtt::{Connack, Version};
use crate::net::node::{FirstPacket, NodeStream, Received};
use crate::net::socket::Socket;
use crate::path::ended::Ended;
use crate::path::opening::Framing;

/// What a node answered.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The relay begins.
    Relay {
        /// The CONNACK, if it could be parsed.
        connack: Option<Connack>,
        node_ended: bool,
        /// The node has answered with MQTT.
        is_mqtt: bool,
    },
    /// A CONNACK after which another attempt may succeed.
    Refused { code: u8, retry: RetryAt },
    /// The node closed or reset the connection before it sent any MQTT.
    SilentClose,
    /// The node answered with something else than MQTT.
    NotMqtt,
    /// The node did not answer in time.
    TimedOut,
    /// The client's own deadline passed before the node's time was over.
    DeadlinePassed,
}

/// A finished exchange with a node.
pub(crate) struct Answered {
    pub answer: Answer,
    pub node: Socket,
    /// How many of the client's bytes were sent to the node.
    pub sent: usize,
    /// Everything that the node has sent.
    pub received: Received,
}

/// Sends a node the rest of the client's bytes, and waits for its first packet.
///
/// `timeout` begins when the whole CONNECT has arrived: a client that sends the rest of its CONNECT slowly is not the
/// node's fault. When it is over, `is_left` is asked, with whether all bytes were sent: if the client is not to be taken to another
/// node then, the node has the same time once more.
///
/// # Errors
/// How the client's connection ended.
pub(crate) async fn exchange(
    client: &mut PendingClient,
    node: NodeStream,
    timeout: Duration,
    due: Instant,
    is_left: impl FnOnce(bool) -> bool,
) -> Result<Answered, Ended> {
    let NodeStream {
        socket: node,
        framing,
        sent,
        received,
    } = node;
    let mut exchange = Exchange {
        framing,
        sent,
        received: Received::new(framing, &received),
    };
    let mut node_due = None;
    let mut is_left = Some(is_left);
    loop {
        let was_whole = client.has_whole_connect(framing);
        if was_whole {
            node_due.get_or_insert_with(|| Instant::now() + timeout);
        }
        let until = node_due.map_or(due, |node_due| node_due.min(due));
        let progress = std::future::poll_fn(|cx| exchange.poll(client, &node, was_whole, cx));
        let answer = match tokio::time::timeout_at(until, progress).await {
            Ok(Ok(Some(answer))) => answer,
            // The CONNECT is complete: the node's timeout begins.
            Ok(Ok(None)) => continue,
            Ok(Err(ended)) => {
                // The client is gone, and nothing of it is to arrive any more. A reset keeps no source port.
                node.reset_on_close();
                return Err(ended);
            }
            Err(_elapsed) => match node_due {
                Some(late) if late <= due => {
                    let has_all = exchange.sent == client.replay.bytes_for(framing).len();
                    if is_left.take().is_none_or(|is_left| is_left(has_all)) {
                        Answer::TimedOut
                    } else {
                        node_due = Some(late + timeout);
                        continue;
                    }
                }
                Some(_) => Answer::DeadlinePassed,
                // It goes on sending, and no other node could be asked: the relay has no deadline.
                None if client.is_streamed() => Answer::Relay {
                    connack: None,
                    node_ended: false,
                    is_mqtt: false,
                },
                None => {
                    node.reset_on_close();
                    return Err(Ended::ConnectTimeout);
                }
            },
        };
        return Ok(Answered {
            answer,
            node,
            sent: exchange.sent,
            received: exchange.received,
        });
    }
}

struct Exchange {
    framing: Framing,
    sent: usize,
    received: Received,
}

impl Exchange {
    /// Moves what can be moved. Ready with an answer, or with `None` once the CONNECT has become complete (`was_whole`:
    /// it was complete before).
    fn poll(
        &mut self,
        client: &mut PendingClient,
        node: &Socket,
        was_whole: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Answer>, Ended>> {
        loop {
            self.send(client, node, cx);
            if let Poll::Ready(answer) = self.poll_answer(client, node, cx) {
                return Poll::Ready(Ok(Some(answer)));
            }
            if client.fin_received && !client.has_whole_connect(self.framing) {
                // No node can answer it any more.
                return Poll::Ready(Err(Ended::ClientClosed));
            }
            if !client.has_room() && !client.has_whole_connect(self.framing) {
                // A CONNECT too large to keep, or the message with it, is streamed to this node, and cannot be replayed to another
                // one. Else it would wait for the CONNACK, and the node for the rest of it.
                if self.sent == client.replay.bytes_for(self.framing).len() {
                    client.forget_sent();
                    self.sent = 0;
                    // Other connections have their turn.
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            match client.poll_receive(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(ended)) => return Poll::Ready(Err(ended)),
                Poll::Ready(Ok(())) if client.has_whole_connect(self.framing) != was_whole => {
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Ok(())) => {}
            }
        }
    }

    fn send(&mut self, client: &PendingClient, node: &Socket, cx: &mut Context<'_>) {
        let bytes = client.replay.bytes_for(self.framing);
        while self.sent < bytes.len() {
            match node.poll_send(cx, &bytes[self.sent..]) {
                Poll::Ready(Ok(sent)) => self.sent += sent,
                // If the connection failed, the node may have sent the reason before: its answer is read next.
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
        // The last TLS record may still wait for room. It is flushed now, since the node waits for it. The next read finds
        // an error. The client's FIN is left to the relay, which sees to it that the node closes first if it can.
        let _ = node.poll_flush(cx);
    }

    fn poll_answer(&mut self, client: &PendingClient, node: &Socket, cx: &mut Context<'_>) -> Poll<Answer> {
        let version = client.connect.version();
        loop {
            if !self.received.is_empty()
                && let Some(answer) = answer(self.received.first_packet(version), version, client.is_streamed())
            {
                return Poll::Ready(answer);
            }
            let read = scratch::with(|scratch| {
                node.poll_recv(cx, scratch).map(|read| {
                    let read = read.unwrap_or(0);
                    self.received.push(&scratch[..read]);
                    read
                })
            });
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(0) if self.received.mqtt().is_empty() => {
                    return Poll::Ready(Answer::SilentClose);
                }
                Poll::Ready(0) => {
                    return Poll::Ready(Answer::Relay {
                        connack: None,
                        node_ended: true,
                        is_mqtt: false,
                    });
                }
                Poll::Ready(_) => {}
            }
        }
    }
}

/// Classifies a node's first packet; `None` while it is incomplete. Any answer that another attempt cannot change is
/// relayed, and every CONNACK if there can be no other attempt (`is_last`).
fn answer(packet: FirstPacket, version: Version, is_last: bool) -> Option<Answer> {
    let relay = |connack| Answer::Relay {
        connack,
        node_ended: false,
        is_mqtt: true,
    };
    match packet {
        FirstPacket::Incomplete => None,
        FirstPacket::Closed => Some(Answer::SilentClose),
        FirstPacket::InvalidFrames(_) | FirstPacket::NotMqtt => Some(Answer::NotMqtt),
        FirstPacket::Other => Some(relay(None)),
        FirstPacket::Connack(connack) if is_last => Some(relay(Some(connack))),
        FirstPacket::Connack(connack) => match retry_at(connack.code, version) {
            Some(retry) => Some(Answer::Refused {
                code: connack.code,
                retry,
            }),
            None => Some(relay(Some(connack))),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use socket2::SockRef;

    use super::*;
    use crate::mqtt::{Need, Verdict, read_connect};
    use crate::net::held::{HeldBytes, Limits};
    use crate::net::socket::{pair, secured_pair};
    use crate::path::opening::{Opening, Replay};

    /// A pending client that has sent `bytes`, and its peer socket.
    fn pending(bytes: &[u8]) -> (PendingClient, std::net::TcpStream) {
        let (near, client) = pair();
        let Verdict::Complete(connect) = read_connect(bytes, Need::ClientId) else {
            panic!("a CONNECT");
        };
        let mut replay = Replay::new(Framing::Raw);
        replay.push(bytes).expect("no frames");
        let opening = Opening {
            client,
            replay,
            connect,
            upgrade: None,
            reservation: HeldBytes::new(Limits::default()).reservation(Instant::now()),
        };
        (PendingClient::new(opening), near)
    }

    #[tokio::test]
    async fn a_client_that_ends_within_its_connect_ends_the_exchange_with_a_reset() {
        let bytes = b"\x10\x30\0\x04MQTT\x04\x02\0\x3c\0\x06sensor";
        let (mut pending, client) = pending(bytes);
        client.shutdown(std::net::Shutdown::Write).expect("shut");
        let (mut wire, node) = pair();
        let stream = NodeStream {
            socket: node,
            framing: Framing::Raw,
            sent: 0,
            received: Vec::new(),
        };
        let timeout = Duration::from_secs(5);
        let exchange = exchange(&mut pending, stream, timeout, Instant::now() + timeout, |_| true);
        assert_eq!(exchange.await.err(), Some(Ended::ClientClosed));
        let mut received = Vec::new();
        let end = wire.read_to_end(&mut received).expect_err("no port is kept");
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn the_end_of_a_client_is_left_to_the_relay() {
        let (mut pending, client) = pending(b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06sensor");
        client.shutdown(std::net::Shutdown::Write).expect("shut");
        let (mut wire, node) = pair();
        let stream = NodeStream {
            socket: node,
            framing: Framing::Raw,
            sent: 0,
            received: Vec::new(),
        };
        let timeout = Duration::from_secs(5);
        let answer = async {
            while !pending_is_read(&mut wire).await {}
            wire.write_all(b"\x20\x02\0\0").expect("room");
            wire
        };
        let due = Instant::now() + timeout;
        let (answered, mut wire) = tokio::join!(exchange(&mut pending, stream, timeout, due, |_| true), answer);
        let answered = answered.map_err(|_| ()).expect("a CONNACK");
        assert!(matches!(
            answered.answer,
            Answer::Relay {
                connack: Some(_),
                node_ended: false,
                ..
            }
        ));
        assert!(pending.fin_received, "it was read");
        wire.set_nonblocking(true).expect("set");
        let nothing = wire.read(&mut [0]).expect_err("no FIN");
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    }

    /// Lets the exchange go on. Returns whether the node has received the CONNECT.
    async fn pending_is_read(wire: &mut std::net::TcpStream) -> bool {
        tokio::task::yield_now().await;
        wire.set_nonblocking(true).expect("set");
        wire.read(&mut [0; 100]).is_ok_and(|read| read > 0)
    }

    #[tokio::test]
    async fn a_node_with_tls_gets_what_was_sealed_and_had_no_room() {
        let (mut peer, mut wire, node) = secured_pair();
        SockRef::from(&node).set_send_buffer_size(1).expect("set");
        let mut bytes = b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06sensor".to_vec();
        bytes.resize(64 << 20, 7);
        let mut sent = 0;
        while !node.holds() {
            sent += node.send_now(&bytes[sent..]).expect("taken");
        }
        bytes.truncate(sent);
        let (mut pending, client) = pending(&bytes);
        // The client sends no more: its FIN must not overtake the rest.
        client.shutdown(std::net::Shutdown::Write).expect("shut");
        let peer = std::thread::spawn(move || {
            let mut received = Vec::new();
            while received.len() < bytes.len() && peer.read_tls(&mut wire).expect("received") > 0 {
                peer.process_new_packets().expect("right");
                // Nothing more for now.
                let _ = peer.reader().read_to_end(&mut received);
            }
            let connack = b"\x20\x02\0\0";
            peer.writer().write_all(connack).expect("taken");
            peer.write_tls(&mut wire).expect("sent");
            received == bytes
        });
        let stream = NodeStream {
            socket: node,
            framing: Framing::Raw,
            sent,
            received: Vec::new(),
        };
        let timeout = Duration::from_secs(5);
        let due = Instant::now() + 2 * timeout;
        let answered = exchange(&mut pending, stream, timeout, due, |_| true)
            .await
            .expect("the client stays");
        drop(answered.node);
        assert!(peer.join().expect("it ends"), "bytes are missing");
        assert!(matches!(answered.answer, Answer::Relay { .. }));
    }
}
