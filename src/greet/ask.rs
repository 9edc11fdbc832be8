//! Asks one node: sends it what the client said, reads its first packet, and says what that means.

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::ended::Ended;
use crate::held::Share;
use crate::mqtt::{Connack, ConnackVerdict, Connect, Version, read_connack};
use crate::opening::{Leg, Opening, Said};
use crate::scratch;
use crate::socket::Socket;
use crate::websocket::Upgrade;
use crate::websocket::frames::{self, Control, Fault, Frames, Part, Sender};

/// Client bytes kept for a replay beyond those that were there when it was routed. A client that has sent its CONNECT
/// and this much more is not read until the node has answered.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Node bytes read in search of the CONNACK at most; beyond them everything is passed on unread.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// The same with what is around them in frames: pings, and headers.
const ANSWER_FRAMES_BYTES_MAX: usize = 8 * ANSWER_BYTES_MAX;

/// The client while it is being greeted: what it said, kept for a replay.
pub struct Caller {
    pub socket: Socket,
    pub said: Said,
    pub connect: Connect,
    pub upgrade: Option<Box<Upgrade>>,
    /// Its FIN was read.
    pub ended: bool,
    /// What was wrong with its frames; it has not been told yet.
    fault: Option<Fault>,
    kept_max: usize,
    share: Share,
}

/// What a node answered.
#[derive(Debug)]
pub enum Answer {
    /// From here on everything is passed on; the CONNACK, if it could be read.
    Pass {
        connack: Option<Connack>,
        node_ended: bool,
    },
    /// A CONNACK that another try could cure.
    Refuse { code: u8, cure: Cure },
    /// The node closed or reset the connection before it said a word.
    Silent,
    /// Nothing, in its time.
    Late,
    /// Nothing before the client's own time was over.
    OutOfTime,
}

/// Where a refused client may be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cure {
    /// On another node.
    OtherNode,
    /// On the same node, a little later: the cluster has locked the client id for a moment.
    SameNodeLater,
}

/// An answer, with what was sent for it and what came.
pub struct Asked {
    pub answer: Answer,
    /// Bytes of the caller that the node has.
    pub sent: usize,
    /// Bytes of the node, all of them, as they came.
    pub bytes: Vec<u8>,
    /// The MQTT in them, where they are frames.
    pub opened: Vec<u8>,
}

/// A node that was dialled, and how it is spoken to.
pub struct Dialled {
    pub socket: Socket,
    pub leg: Leg,
    /// Bytes of the caller that the node has.
    pub sent: usize,
    /// What the node has said already.
    pub bytes: Vec<u8>,
}

impl Caller {
    pub fn new(opening: Opening) -> Self {
        let Opening {
            client,
            said,
            connect,
            upgrade,
            share,
        } = opening;
        Self {
            kept_max: kept(&said) + KEPT_BYTES_MAX,
            socket: client,
            said,
            connect,
            upgrade,
            ended: false,
            fault: None,
            share,
        }
    }

    /// Ends the greeting because of `ended`, and tells the client what was wrong with its frames, if that was why.
    pub async fn end(mut self, ended: Ended) -> Ended {
        if let Some(fault) = self.fault {
            let words = frames::close(&fault.close_code().to_be_bytes());
            let words = self.said.last_words(&words);
            self.socket.farewell(&words).await;
        } else {
            self.socket.say_end();
        }
        ended
    }

    /// Listens, while no node can, until the client must go or has gone: how it ended.
    ///
    /// A FIN is an end here. Nobody closes a WebSocket half, and no node has heard a word that could be answered.
    pub async fn leaves(&mut self) -> Ended {
        loop {
            if self.ended {
                return Ended::ClientClosed;
            }
            let eviction = self.share.eviction();
            let heard = std::future::poll_fn(|cx| match self.has_room() {
                true => self.poll_listen(cx),
                false => Poll::Pending,
            });
            tokio::select! {
                biased;
                heard = heard => if let Err(ended) = heard {
                    return ended;
                },
                () = eviction.told() => return Ended::HeldBytesFull,
            }
        }
    }

    /// Whether all of the CONNECT is here, so that it is the node's turn to speak.
    fn is_whole(&self) -> bool {
        self.said.mqtt().len() >= self.connect.packet_end()
    }

    fn has_room(&self) -> bool {
        kept(&self.said) < self.kept_max
    }

    /// Reads what the client says meanwhile, within the cap.
    fn poll_listen(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        scratch::with(|scratch| {
            let room = (self.kept_max - kept(&self.said)).min(scratch.len());
            match self.socket.poll_recv(cx, &mut scratch[..room]) {
                Poll::Ready(read) => Poll::Ready(self.hear(read, scratch)),
                Poll::Pending => self
                    .share
                    .poll_cover(self.socket.sealed())
                    .map_err(Ended::from),
            }
        })
    }

    /// What `read` bytes, which are in `scratch`, say.
    fn hear(&mut self, read: io::Result<usize>, scratch: &[u8]) -> Result<(), Ended> {
        let read = match read {
            Ok(0) => {
                self.ended = true;
                return Ok(());
            }
            Ok(read) => read,
            Err(error) => return Err(Ended::of_client(&error)),
        };
        let held = self.said.held();
        self.said.hear(&scratch[..read]).map_err(|fault| {
            self.fault = Some(fault);
            Ended::FrameFault
        })?;
        let more = self.said.held() - held;
        self.share.hear(more, self.socket.sealed())?;
        if !self.said.reply(&self.socket) || self.said.is_closed() {
            return Err(Ended::ClientClosed);
        }
        Ok(())
    }
}

/// Bytes that count as kept: all that came, so that a client cannot ask without end.
fn kept(said: &Said) -> usize {
    usize::try_from(said.heard()).unwrap_or(usize::MAX)
}

/// Sends the rest of what `caller` said to a node, and waits for its first packet.
///
/// The node has `timeout` from the moment at which the whole CONNECT is here: a client that is slow with the rest of its
/// CONNECT is not the node's fault.
pub async fn ask(
    caller: &mut Caller,
    node: Dialled,
    timeout: Duration,
    due: Instant,
) -> Result<(Asked, Socket), Ended> {
    let Dialled {
        socket: node,
        leg,
        sent,
        bytes,
    } = node;
    let mut exchange = Exchange {
        leg,
        sent,
        answer: Heard::new(leg, bytes),
        fin_sent: false,
    };
    let mut late = None;
    loop {
        let whole = caller.is_whole();
        if whole {
            late.get_or_insert_with(|| Instant::now() + timeout);
        }
        let until = late.map_or(due, |late| late.min(due));
        let eviction = caller.share.eviction();
        let progress = std::future::poll_fn(|cx| exchange.poll(caller, &node, whole, cx));
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout_at(until, progress) => answer,
            () = eviction.told() => return Err(Ended::HeldBytesFull),
        };
        let answer = match answer {
            Ok(Ok(Some(answer))) => answer,
            // The CONNECT has become whole: the node's time begins. Or the share has become a large one, which may be told to go.
            Ok(Ok(None)) => continue,
            Ok(Err(ended)) => return Err(ended),
            Err(_elapsed) => match late {
                Some(late) if late <= due => Answer::Late,
                Some(_) => Answer::OutOfTime,
                None => return Err(Ended::ConnectTimeout),
            },
        };
        let Exchange {
            sent,
            answer: Heard { bytes, opened, .. },
            ..
        } = exchange;
        let asked = Asked {
            answer,
            sent,
            bytes,
            opened,
        };
        return Ok((asked, node));
    }
}

struct Exchange {
    leg: Leg,
    sent: usize,
    answer: Heard,
    fin_sent: bool,
}

/// What a node has said.
struct Heard {
    /// As it came.
    bytes: Vec<u8>,
    /// The MQTT in it, where it came in frames, and how they stand.
    opened: Vec<u8>,
    frames: Option<Frames>,
    /// The frames make no sense any more: everything is passed on unread.
    unreadable: bool,
    /// A close frame came: the node says no more.
    closed: bool,
}

impl Heard {
    fn new(leg: Leg, bytes: Vec<u8>) -> Self {
        let mut heard = Self {
            bytes: Vec::new(),
            opened: Vec::new(),
            frames: (leg == Leg::Ws).then(|| Frames::new(Sender::Node)),
            unreadable: false,
            closed: false,
        };
        heard.hear(&bytes);
        heard
    }

    fn hear(&mut self, mut bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let Some(frames) = &mut self.frames else {
            return;
        };
        while !bytes.is_empty() && !self.unreadable {
            match frames.next(bytes) {
                Ok((here, part)) => {
                    match part {
                        Part::Data(_) => self.opened.extend_from_slice(&bytes[..here]),
                        Part::Control(Some(Control::Close(_))) => self.closed = true,
                        Part::Header | Part::Control(_) => {}
                    }
                    bytes = &bytes[here..];
                }
                Err(_) => self.unreadable = true,
            }
        }
    }

    fn mqtt(&self) -> &[u8] {
        match self.frames {
            Some(_) => &self.opened,
            None => &self.bytes,
        }
    }

    /// What can be said of it; none as long as more is needed.
    fn judge(&self, version: Version) -> Option<Answer> {
        let unread = Answer::Pass {
            connack: None,
            node_ended: false,
        };
        if self.unreadable {
            return Some(unread);
        }
        let mqtt = self.mqtt();
        // However it is cut, a CONNACK larger than that is passed on.
        let readable = &mqtt[..mqtt.len().min(ANSWER_BYTES_MAX)];
        match read_connack(readable, version) {
            ConnackVerdict::NeedMore(_) if self.closed && mqtt.is_empty() => Some(Answer::Silent),
            ConnackVerdict::NeedMore(enough)
                if enough <= ANSWER_BYTES_MAX
                    && !self.closed
                    && (self.frames.is_none() || self.bytes.len() < ANSWER_FRAMES_BYTES_MAX) =>
            {
                None
            }
            ConnackVerdict::Connack(connack) => Some(judge(connack, version)),
            ConnackVerdict::NeedMore(_) | ConnackVerdict::Auth | ConnackVerdict::Unreadable => {
                Some(unread)
            }
        }
    }
}

impl Exchange {
    /// Moves what can be moved; an answer, or none when the CONNECT has become whole while it was not (`whole`) before, or the
    /// caller's share a large one.
    fn poll(
        &mut self,
        caller: &mut Caller,
        node: &Socket,
        whole: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Answer>, Ended>> {
        let large = caller.share.is_large();
        loop {
            self.speak(caller, node, cx);
            if let Poll::Ready(answer) = self.poll_answer(caller.connect.version(), node, cx) {
                return Poll::Ready(Ok(Some(answer)));
            }
            if !caller.has_room() && !caller.is_whole() {
                // A CONNECT too large to keep: it streams, and nobody else can be asked.
                return Poll::Ready(Ok(Some(Answer::Pass {
                    connack: None,
                    node_ended: false,
                })));
            }
            if caller.ended || !caller.has_room() {
                return Poll::Pending;
            }
            match caller.poll_listen(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(ended)) => return Poll::Ready(Err(ended)),
                Poll::Ready(Ok(()))
                    if caller.is_whole() != whole || caller.share.is_large() != large =>
                {
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Ok(())) => {}
            }
        }
    }

    fn speak(&mut self, caller: &Caller, node: &Socket, cx: &mut Context<'_>) {
        let words = caller.said.on(self.leg);
        while self.sent < words.len() {
            match node.poll_send(cx, &words[self.sent..]) {
                Poll::Ready(Ok(sent)) => self.sent += sent,
                // A node that takes no more has perhaps said why: its answer is read next.
                Poll::Ready(Err(_)) | Poll::Pending => return,
            }
        }
        // What was sealed last may wait for room: nobody else sends it while the node waits for it, and no FIN may overtake it.
        if !matches!(node.poll_flush(cx), Poll::Ready(Ok(()))) {
            return;
        }
        if caller.ended && !self.fin_sent {
            node.shutdown_write();
            self.fin_sent = true;
        }
    }

    fn poll_answer(
        &mut self,
        version: Version,
        node: &Socket,
        cx: &mut Context<'_>,
    ) -> Poll<Answer> {
        loop {
            if !self.answer.bytes.is_empty()
                && let Some(answer) = self.answer.judge(version)
            {
                return Poll::Ready(answer);
            }
            let read = scratch::with(|scratch| {
                node.poll_recv(cx, scratch).map(|read| {
                    let read = read.unwrap_or(0);
                    self.answer.hear(&scratch[..read]);
                    read
                })
            });
            match read {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(0) if self.answer.mqtt().is_empty() => {
                    return Poll::Ready(Answer::Silent);
                }
                Poll::Ready(0) => {
                    return Poll::Ready(Answer::Pass {
                        connack: None,
                        node_ended: true,
                    });
                }
                Poll::Ready(_) => {}
            }
        }
    }
}

/// What a CONNACK means for the client: passed on, unless another try could cure it.
fn judge(connack: Connack, version: Version) -> Answer {
    match cure(connack.code, version) {
        Some(cure) => Answer::Refuse {
            code: connack.code,
            cure,
        },
        None => Answer::Pass {
            connack: Some(connack),
            node_ended: false,
        },
    }
}

/// The reason codes that another try could cure (MQTT 3.1.1, table 3.1; MQTT 5, 3.2.2.2).
fn cure(code: u8, version: Version) -> Option<Cure> {
    /// 3.x: the server is unavailable. EMQX also says it for everything that is busy or evacuating.
    const UNAVAILABLE_3: u8 = 3;
    const UNAVAILABLE: u8 = 0x88;
    /// EMQX: another node holds the cluster-wide lock on this client id.
    const BUSY: u8 = 0x89;
    const QUOTA_EXCEEDED: u8 = 0x97;
    /// EMQX: the node is being evacuated.
    const USE_ANOTHER_SERVER: u8 = 0x9C;
    const RATE_EXCEEDED: u8 = 0x9F;

    match (version, code) {
        (Version::V5, UNAVAILABLE | QUOTA_EXCEEDED | USE_ANOTHER_SERVER | RATE_EXCEEDED) => {
            Some(Cure::OtherNode)
        }
        (Version::V5, BUSY) => Some(Cure::SameNodeLater),
        (Version::V31 | Version::V311, UNAVAILABLE_3) => Some(Cure::OtherNode),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use socket2::SockRef;

    use super::*;
    use crate::held::Held;
    use crate::mqtt::{Need, Verdict, read_connect};
    use crate::socket::{pair, secured_pair};

    /// A client that has said `words`, and its other end.
    fn caller(words: &[u8]) -> (Caller, std::net::TcpStream) {
        let (near, client) = pair();
        let Verdict::Complete(connect) = read_connect(words, Need::ClientId) else {
            panic!("a CONNECT");
        };
        let mut said = Said::nothing(Leg::Tcp);
        said.hear(words).expect("no frames");
        let opening = Opening {
            client,
            said,
            connect,
            upgrade: None,
            share: Held::new(usize::MAX).share(),
        };
        (Caller::new(opening), near)
    }

    #[tokio::test]
    async fn a_node_with_tls_gets_what_was_sealed_and_had_no_room() {
        let (mut peer, mut wire, node) = secured_pair();
        SockRef::from(&node).set_send_buffer_size(1).expect("set");
        let mut words = b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06sensor".to_vec();
        words.resize(64 << 20, 7);
        let mut sent = 0;
        while !node.holds() {
            sent += node.send_now(&words[sent..]).expect("taken");
        }
        words.truncate(sent);
        let (mut caller, client) = caller(&words);
        // The client says no more: its FIN must not overtake the rest.
        client.shutdown(std::net::Shutdown::Write).expect("shut");
        let peer = std::thread::spawn(move || {
            let mut received = Vec::new();
            while received.len() < words.len() && peer.read_tls(&mut wire).expect("received") > 0 {
                peer.process_new_packets().expect("right");
                // Nothing more for now.
                let _ = peer.reader().read_to_end(&mut received);
            }
            let connack = b"\x20\x02\0\0";
            peer.writer().write_all(connack).expect("taken");
            peer.write_tls(&mut wire).expect("sent");
            received == words
        });
        let dialled = Dialled {
            socket: node,
            leg: Leg::Tcp,
            sent,
            bytes: Vec::new(),
        };
        let patience = Duration::from_secs(5);
        let due = Instant::now() + 2 * patience;
        let (asked, node) = ask(&mut caller, dialled, patience, due)
            .await
            .expect("the client stays");
        drop(node);
        assert!(peer.join().expect("it ends"), "bytes are missing");
        assert!(matches!(asked.answer, Answer::Pass { .. }));
    }

    #[test]
    fn only_what_another_try_could_cure_is_tried_again() {
        let other = Some(Cure::OtherNode);
        let later = Some(Cure::SameNodeLater);
        for code in 0..=u8::MAX {
            let expected_5 = match code {
                0x88 | 0x97 | 0x9C | 0x9F => other,
                0x89 => later,
                _ => None,
            };
            assert_eq!(cure(code, Version::V5), expected_5, "{code:#x}");
            let expected_3 = (code == 3).then_some(Cure::OtherNode);
            assert_eq!(cure(code, Version::V311), expected_3, "{code:#x}");
            assert_eq!(cure(code, Version::V31), expected_3, "{code:#x}");
            assert_eq!(cure(code, Version::Unknown(9)), None, "{code:#x}");
        }
    }
}
