//! The connection table of one worker: every relay as a row of plain data, reached by index and generation.

use std::collections::BTreeSet;
use std::io;
use std::task::{Context, Waker};

use crate::clock::Seconds;
use crate::cluster::NodeId;
use crate::ended::Ended;
use crate::failpoint;
use crate::record::Record;
use crate::relay::coding::Coding;
use crate::relay::flow::{Flow, Tools, Turn};
use crate::relay::pipes::Pipes;
use crate::socket::{Detached, Socket};
use crate::websocket::frames::{Frames, close};

/// Rows per chunk: as many as a word has bits, so that one word says which are free.
const CHUNK_ROWS: usize = u64::BITS as usize;

/// What waits for a client at most while it is read; replies to its pings come on top of what the node has said.
const REPLIES_BYTES_MAX: usize = 64 * 1024;

/// "Going away" (RFC 6455, 7.4.1): the balancer ends the connection.
const GOING_AWAY: u16 = 1001;

/// Two sockets and what is needed to move bytes between them.
#[derive(Debug)]
struct Row {
    client: Socket,
    node: Socket,
    from_client: Flow,
    from_node: Flow,
    /// When the client last sent a byte.
    client_at: Seconds,
    /// Silence of the client that ends the connection; none never does.
    idle_limit: Option<Seconds>,
    /// When the other direction ends after the first has; none while both are open.
    linger_until: Option<Seconds>,
    /// How the connection will have ended when both directions have.
    ending: Option<Ended>,
    /// Set from outside the relay: it ends as soon as all that has arrived was passed on, or `linger_until` is over.
    close: Option<Ended>,
    /// The node's connection took no more bytes, for this reason; what it still sends is passed on.
    node_broken: Option<Ended>,
    /// The client's connection took no more bytes, for this reason; what it still sends is passed on.
    client_broken: Option<Ended>,
    /// The sweep has seen it once: it is no connection that comes and goes.
    lasting: bool,
    /// The client speaks in WebSocket frames and the node does not.
    in_frames: bool,
    /// A close frame of ours tells the client why the relay ends.
    told: bool,
    node_id: NodeId,
    /// What was moved, as far as it was counted.
    counted: Bytes,
    waker: Option<Waker>,
    record: Box<Record>,
}

/// Where a row is. A row that took the place of another has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RowId {
    index: u32,
    generation: u32,
}

/// A greeted connection, ready to be relayed; also one that was taken out of another worker's table.
#[derive(Debug)]
pub struct Relayed<S> {
    /// The client's socket.
    pub client: S,
    /// The node's socket.
    pub node: S,
    /// Read from the client and not sent to the node yet.
    pub to_node: Vec<u8>,
    /// Read from the node and not sent to the client yet.
    pub to_client: Vec<u8>,
    /// Bytes from the client and from the node that the relay need not count again.
    pub bytes: Bytes,
    /// As much of `bytes` as the metrics have.
    pub counted: Bytes,
    /// Where the client speaks in WebSocket frames and the node does not: how the client's stream of frames stands.
    pub frames: Option<Frames>,
    /// The client's FIN was read.
    pub client_ended: bool,
    /// The node's FIN was read.
    pub node_ended: bool,
    /// Silence of the client that ends the connection; none never does.
    pub idle_limit: Option<Seconds>,
    /// Which node it is.
    pub node_id: NodeId,
    /// What is known of the connection.
    pub record: Box<Record>,
}

impl Relayed<Detached> {
    /// Registers both sockets with this thread's runtime.
    ///
    /// # Errors
    /// The connection is lost, since one of them could not be registered; its record is left.
    pub fn register(self) -> Result<Relayed<Socket>, Box<Record>> {
        let (Ok(client), Ok(node)) = (self.client.attach(), self.node.attach()) else {
            return Err(self.record);
        };
        Ok(Relayed {
            client,
            node,
            to_node: self.to_node,
            to_client: self.to_client,
            bytes: self.bytes,
            counted: self.counted,
            frames: self.frames,
            client_ended: self.client_ended,
            node_ended: self.node_ended,
            idle_limit: self.idle_limit,
            node_id: self.node_id,
            record: self.record,
        })
    }
}

/// Bytes moved each way, by each method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Copied from the client to the node.
    pub from_client_copied: u64,
    /// Spliced from the client to the node.
    pub from_client_spliced: u64,
    /// Copied from the node to the client.
    pub from_node_copied: u64,
    /// Spliced from the node to the client.
    pub from_node_spliced: u64,
}

impl Bytes {
    /// What was moved since it was `before`.
    fn since(self, before: Self) -> Self {
        Self {
            from_client_copied: self.from_client_copied - before.from_client_copied,
            from_client_spliced: self.from_client_spliced - before.from_client_spliced,
            from_node_copied: self.from_node_copied - before.from_node_copied,
            from_node_spliced: self.from_node_spliced - before.from_node_spliced,
        }
    }
}

/// A relay that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub cause: Ended,
    /// What is known of the connection.
    pub record: Box<Record>,
    /// What was moved.
    pub bytes: Bytes,
    /// As much of it as [`Table::count`] has not told.
    pub uncounted: Bytes,
    /// A socket that outlives the relay for a moment.
    pub left: Option<Left>,
}

/// What is still to be done with a socket whose relay has ended.
#[derive(Debug)]
pub enum Left {
    /// It must be reset once its peer has everything that was sent before.
    Reset(Socket),
    /// Its peer has these bytes still to get, and then its end.
    Tell(Socket, Vec<u8>),
}

/// The relays of one worker.
#[derive(Debug)]
pub struct Table {
    chunks: Vec<Option<Box<Chunk>>>,
    /// Chunks with at least one free row: the lowest is filled first, so that the others can be given back.
    roomy: BTreeSet<u32>,
    generation: u32,
    rows: usize,
    tools: Tools,
    /// How long one direction may go on after the other has ended.
    linger: Seconds,
}

#[derive(Debug)]
struct Chunk {
    /// A bit for each row that is taken.
    taken: u64,
    rows: [Option<(u32, Row)>; CHUNK_ROWS],
}

impl Table {
    /// An empty table.
    pub fn new(settings: &super::Settings) -> Self {
        Self {
            chunks: Vec::new(),
            roomy: BTreeSet::new(),
            generation: 0,
            rows: 0,
            tools: Tools {
                pipes: Pipes::new(settings.pipes_max),
                now: Seconds::default(),
                splice: settings.splice,
                replies: Vec::new(),
            },
            linger: Seconds::at_least(settings.linger),
        }
    }

    /// Relays in the table.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether no relay is in the table.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Takes a connection in. Set-up ends here; whoever adopts it takes turns at it until it is finished.
    pub fn adopt(&mut self, relayed: Relayed<Socket>, now: Seconds) -> RowId {
        let Relayed {
            client,
            node,
            to_node,
            to_client,
            bytes,
            counted,
            frames,
            client_ended,
            node_ended,
            idle_limit,
            node_id,
            record,
        } = relayed;
        let mut from_client = Flow::new(to_node, client_ended);
        from_client.copied = bytes.from_client_copied;
        from_client.spliced = bytes.from_client_spliced;
        let mut from_node = Flow::new(to_client, node_ended);
        from_node.copied = bytes.from_node_copied;
        from_node.spliced = bytes.from_node_spliced;
        let in_frames = frames.is_some();
        if let Some(frames) = frames {
            from_node.code(match frames.is_closed() {
                true => Coding::Mute,
                false => Coding::Frame,
            });
            from_client.code(Coding::Open(Box::new(frames)));
        }
        self.insert(Row {
            client,
            node,
            from_client,
            from_node,
            client_at: now,
            idle_limit,
            linger_until: None,
            ending: None,
            close: None,
            node_broken: None,
            client_broken: None,
            lasting: false,
            in_frames,
            told: false,
            node_id,
            counted,
            waker: None,
            record,
        })
    }

    /// Moves what can be moved now, and says how the relay ended if it did. A relay that is not in the table any more
    /// was taken out, which is no end.
    pub fn turn(&mut self, id: RowId, now: Seconds, cx: &mut Context<'_>) -> Outcome {
        let Some(row) = row_mut(&mut self.chunks, id) else {
            return Outcome::Gone;
        };
        self.tools.now = now;
        failpoint::pass(failpoint::Place::Relay);
        match row.turn(&mut self.tools, self.linger, cx) {
            None => {
                if row.waker.is_none() {
                    row.waker = Some(cx.waker().clone());
                }
                Outcome::Goes
            }
            Some(cause) => self
                .finish(id, cause)
                .map_or(Outcome::Gone, Outcome::Finished),
        }
    }

    /// Takes a relay out because of `cause`, whatever it is doing.
    pub fn finish(&mut self, id: RowId, cause: Ended) -> Option<Finished> {
        let row = self.remove(id)?;
        let bytes = row.bytes();
        let uncounted = bytes.since(row.counted);
        let Row {
            client,
            node,
            mut from_node,
            told,
            record,
            ..
        } = row;
        let reset = |socket: Socket| {
            // Nothing on its way: the reset can go out with the close, here and now.
            if socket.unacknowledged() == 0 {
                socket.reset_on_close();
                None
            } else {
                Some(Left::Reset(socket))
            }
        };
        if cause != Ended::ClientReset {
            node.say_end();
        }
        let left = match cause {
            Ended::ClientReset => reset(node),
            Ended::NodeReset => reset(client),
            // What it has sent meanwhile would make the close a reset, which overtakes the words.
            _ if told => Some(Left::Tell(
                client,
                // Frames are never in a pipe, the only thing that can fail.
                from_node.take_unsent().unwrap_or_default(),
            )),
            _ => {
                client.say_end();
                None
            }
        };
        Some(Finished {
            cause,
            record,
            bytes,
            uncounted,
            left,
        })
    }

    /// Takes a relay out so that it can go on elsewhere: another worker, another process. None when it is gone already.
    ///
    /// # Errors
    /// Bytes in a pipe could not be taken out: the connection is lost.
    pub fn detach(&mut self, id: RowId) -> Option<Result<Relayed<Detached>, Finished>> {
        let row = row_mut(&mut self.chunks, id)?;
        if let Some(waker) = row.waker.take() {
            // The future that took turns at this row finds it gone, and ends.
            waker.wake();
        }
        let unsent = row.take_unsent();
        let Ok((to_node, to_client)) = unsent else {
            return self.finish(id, Ended::Internal).map(Err);
        };
        let mut row = self.remove(id)?;
        let bytes = row.bytes();
        Some(Ok(Relayed {
            client: row.client.detach(),
            node: row.node.detach(),
            to_node,
            to_client,
            bytes,
            counted: row.counted,
            frames: row.from_client.take_frames(),
            client_ended: row.from_client.has_ended(),
            node_ended: row.from_node.has_ended(),
            idle_limit: row.idle_limit,
            node_id: row.node_id,
            record: row.record,
        }))
    }

    /// Ends what was silent or half-closed for too long, and shows each node's socket once to `watch`. To be called once a
    /// second.
    pub fn sweep(&mut self, now: Seconds, watch: impl Fn(&Socket)) {
        for row in self.rows_mut() {
            if !row.lasting {
                row.lasting = true;
                watch(&row.node);
            }
            if let Some(cause) = row.overdue(now) {
                row.end_with(cause);
            }
        }
        if self.rows == 0 {
            self.tools.pipes.close_idle();
        }
    }

    /// Tells what each relay has moved since it was last told, where it moved anything.
    pub fn count(&mut self, tell: impl Fn(&Record, Bytes)) {
        for row in self.rows_mut() {
            let bytes = row.bytes();
            if bytes != row.counted {
                tell(&row.record, bytes.since(row.counted));
                row.counted = bytes;
            }
        }
    }

    /// Relays from now on as `settings` say.
    pub fn reconfigure(&mut self, settings: &super::Settings) {
        self.tools.splice = settings.splice;
        self.tools.pipes.set_most(settings.pipes_max);
        self.linger = Seconds::at_least(settings.linger);
    }

    /// Ends up to `most` relays because of `cause`; only those at rest, if so wished. Says how many it has ended.
    pub fn close_some(&mut self, most: usize, at_rest: bool, cause: Ended, now: Seconds) -> usize {
        let linger = self.linger;
        let mut closed = 0;
        for row in self.rows_mut() {
            if closed == most {
                break;
            }
            if row.close.is_none() && (row.is_at_rest() || !at_rest) {
                row.end_soon(cause, now.after(linger));
                closed += 1;
            }
        }
        closed
    }

    /// Ends every relay for which `which` names a cause.
    pub fn close(&mut self, now: Seconds, mut which: impl FnMut(NodeId, &Record) -> Option<Ended>) {
        let linger = self.linger;
        for row in self.rows_mut() {
            if let Some(cause) = which(row.node_id, &row.record) {
                row.end_soon(cause, now.after(linger));
            }
        }
    }

    /// The relays that `which` names.
    pub fn select(&self, mut which: impl FnMut(NodeId, &Record) -> bool) -> Vec<RowId> {
        let mut selected = Vec::new();
        for (number, chunk) in self.chunks.iter().enumerate() {
            let rows = chunk.iter().flat_map(|chunk| chunk.rows.iter().enumerate());
            for (place, row) in rows {
                if let Some((generation, row)) = row
                    && which(row.node_id, &row.record)
                {
                    selected.push(RowId {
                        index: (number * CHUNK_ROWS + place) as u32,
                        generation: *generation,
                    });
                }
            }
        }
        selected
    }

    fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.chunks
            .iter_mut()
            .flatten()
            .flat_map(|chunk| chunk.rows.iter_mut())
            .flatten()
            .map(|(_, row)| row)
    }

    fn insert(&mut self, row: Row) -> RowId {
        let number = self.roomy.first().copied().unwrap_or_else(|| {
            let number = match self.chunks.iter().position(Option::is_none) {
                Some(free) => free,
                None => {
                    self.chunks.push(None);
                    self.chunks.len() - 1
                }
            };
            self.chunks[number] = Some(Box::new(Chunk {
                taken: 0,
                rows: [const { None }; CHUNK_ROWS],
            }));
            self.roomy.insert(number as u32);
            number as u32
        });
        let chunk = self.chunks[number as usize]
            .as_mut()
            .expect("a roomy chunk is there");
        let place = chunk.taken.trailing_ones();
        chunk.taken |= 1 << place;
        self.generation = self.generation.wrapping_add(1);
        chunk.rows[place as usize] = Some((self.generation, row));
        if chunk.taken == u64::MAX {
            self.roomy.remove(&number);
        }
        self.rows += 1;
        RowId {
            index: number * CHUNK_ROWS as u32 + place,
            generation: self.generation,
        }
    }

    fn remove(&mut self, id: RowId) -> Option<Row> {
        row_mut(&mut self.chunks, id)?;
        let (number, place) = id.place();
        let chunk = self.chunks[number].as_mut()?;
        let (_, row) = chunk.rows[place].take()?;
        chunk.taken &= !(1 << place);
        self.rows -= 1;
        // The first chunk stays, so that one connection after the other does not make and free it each time.
        if chunk.taken == 0 && number > 0 {
            self.chunks[number] = None;
            self.roomy.remove(&(number as u32));
        } else {
            self.roomy.insert(number as u32);
        }
        Some(row)
    }
}

/// What came of a turn at a relay.
#[derive(Debug)]
pub enum Outcome {
    /// It waits for one of its sockets.
    Goes,
    /// It has ended.
    Finished(Finished),
    /// It is not in this table any more.
    Gone,
}

impl RowId {
    fn place(self) -> (usize, usize) {
        (
            self.index as usize / CHUNK_ROWS,
            self.index as usize % CHUNK_ROWS,
        )
    }
}

fn row_mut(chunks: &mut [Option<Box<Chunk>>], id: RowId) -> Option<&mut Row> {
    let (number, place) = id.place();
    match &mut chunks.get_mut(number)?.as_mut()?.rows[place] {
        Some((generation, row)) if *generation == id.generation => Some(row),
        _ => None,
    }
}

impl Row {
    fn bytes(&self) -> Bytes {
        Bytes {
            from_client_copied: self.from_client.copied,
            from_client_spliced: self.from_client.spliced,
            from_node_copied: self.from_node.copied,
            from_node_spliced: self.from_node.spliced,
        }
    }

    fn is_at_rest(&self) -> bool {
        self.from_client.is_at_rest()
            && self.from_node.is_at_rest()
            && !self.client.holds()
            && !self.node.holds()
    }

    /// Whether nothing waits for a receiver that still takes something.
    fn has_passed_all_on(&self) -> bool {
        let passed_on = |flow: &Flow, to: &Socket| flow.is_at_rest() && !to.holds();
        (passed_on(&self.from_client, &self.node) || self.node_broken.is_some())
            && (passed_on(&self.from_node, &self.client) || self.client_broken.is_some())
    }

    fn overdue(&self, now: Seconds) -> Option<Ended> {
        if self.linger_until.is_some_and(|until| now > until) {
            return self.close.or(self.ending);
        }
        let limit = self.idle_limit?;
        (now > self.client_at.after(limit)).then_some(Ended::Idle)
    }

    /// Both directions' bytes that were read and not sent, for the node and for the client.
    fn take_unsent(&mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        Ok((
            self.from_client.take_unsent()?,
            self.from_node.take_unsent()?,
        ))
    }

    /// Ends the relay once what has arrived was passed on, so that its end is a FIN and loses nothing; at `until`, whatever
    /// is still under way.
    fn end_soon(&mut self, cause: Ended, until: Seconds) {
        self.linger_until.get_or_insert(until);
        self.end_with(cause);
    }

    fn end_with(&mut self, cause: Ended) {
        self.close = Some(cause);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// Both directions once; how the relay ended, if it did.
    fn turn(&mut self, tools: &mut Tools, linger: Seconds, cx: &mut Context<'_>) -> Option<Ended> {
        if let Some(cause) = self.close {
            return self.last_turn(cause, tools, linger, cx);
        }
        let held_back = self.is_held_back();
        if let Some(cause) = self.client_to_node(tools, linger, cx) {
            return Some(cause);
        }
        if let Some(cause) = self.node_to_client(tools, linger, cx) {
            return Some(cause);
        }
        if held_back && !self.is_held_back() {
            // Nobody waits for what the client has sent meanwhile.
            cx.waker().wake_by_ref();
        }
        let client_done = self.from_client.has_ended() || self.node_broken.is_some();
        let node_done = self.from_node.has_ended() || self.client_broken.is_some();
        (client_done && node_done && self.has_passed_all_on()).then_some(self.ending?)
    }

    /// A client that asks and does not listen is not read until it has.
    fn is_held_back(&self) -> bool {
        self.in_frames && self.from_node.waiting() > REPLIES_BYTES_MAX
    }

    /// A turn of a relay that was told to end. It is still there for as long as anything moves, or waits for room, and its
    /// time is not over.
    fn last_turn(
        &mut self,
        cause: Ended,
        tools: &mut Tools,
        linger: Seconds,
        cx: &mut Context<'_>,
    ) -> Option<Ended> {
        let may_linger = self.linger_until.is_some_and(|until| tools.now <= until);
        let before = self.bytes();
        let broken = self
            .client_to_node(tools, linger, cx)
            .or_else(|| self.node_to_client(tools, linger, cx));
        let moved = self.bytes() != before;
        if broken.is_some() || !may_linger || (!moved && self.has_passed_all_on()) {
            if self.in_frames && !self.from_node.has_ended() && !self.from_client.is_closed() {
                self.tell(GOING_AWAY);
            }
            return Some(cause);
        }
        if moved {
            // Only a turn that finds nothing more shows that all was passed on.
            cx.waker().wake_by_ref();
        }
        None
    }

    /// Tells the client in a close frame why the relay ends, which it does next.
    fn tell(&mut self, code: u16) {
        // Behind the node's end it was told that.
        if !self.from_node.has_ended() {
            let words = close(&code.to_be_bytes());
            self.from_node.say_now(words, &self.client);
        }
        self.told = true;
    }

    fn client_to_node(
        &mut self,
        tools: &mut Tools,
        linger: Seconds,
        cx: &mut Context<'_>,
    ) -> Option<Ended> {
        if self.node_broken.is_some()
            || (self.from_client.has_ended()
                && self.from_client.is_at_rest()
                && !self.node.holds()
                && self.ending.is_some())
        {
            return None;
        }
        if self.is_held_back() {
            return None;
        }
        let before = self.from_client.bytes();
        let turn = self.from_client.turn(&self.client, &self.node, tools, cx);
        if !tools.replies.is_empty() {
            let replies = std::mem::take(&mut tools.replies);
            // Behind the node's end, the client was told goodbye.
            if !self.from_node.has_ended() {
                self.from_node.queue(replies);
            }
        }
        if self.from_client.is_closed() {
            self.from_node.code(Coding::Mute);
        }
        if self.from_client.bytes() > before {
            self.client_at = tools.now;
        }
        match turn {
            Turn::Waiting => {}
            Turn::Fault(fault) => {
                self.tell(fault.close_code());
                return Some(Ended::FrameFault);
            }
            Turn::Spent => cx.waker().wake_by_ref(),
            Turn::Ended => {
                if let Some(cause @ (Ended::ClientReset | Ended::ClientVanished)) =
                    self.client_broken
                {
                    return Some(cause);
                }
                if !self.from_node.has_ended() {
                    self.node.shutdown_write();
                }
                self.first_end(Ended::ClientClosed, tools.now, linger);
            }
            Turn::ReadFailed(e) => return Some(Ended::of_client(&e)),
            Turn::WriteFailed(e) => {
                let cause = if is_closed(&e) {
                    Ended::NodeClosed
                } else {
                    node_failure(&e)
                };
                self.node_broken = Some(cause);
                self.first_end(cause, tools.now, linger);
            }
        }
        None
    }

    fn node_to_client(
        &mut self,
        tools: &mut Tools,
        linger: Seconds,
        cx: &mut Context<'_>,
    ) -> Option<Ended> {
        if self.client_broken.is_some()
            || (self.from_node.has_ended()
                && self.from_node.is_at_rest()
                && !self.client.holds()
                && self.ending.is_some())
        {
            return None;
        }
        match self.from_node.turn(&self.node, &self.client, tools, cx) {
            // Only a client's frames are looked at.
            Turn::Waiting | Turn::Fault(_) => {}
            Turn::Spent => cx.waker().wake_by_ref(),
            Turn::Ended => {
                if let Some(cause @ (Ended::NodeReset | Ended::NodeVanished)) = self.node_broken {
                    return Some(cause);
                }
                if !self.from_client.has_ended() {
                    self.client.shutdown_write();
                }
                self.first_end(Ended::NodeClosed, tools.now, linger);
            }
            Turn::ReadFailed(e) => return Some(node_failure(&e)),
            Turn::WriteFailed(e) => {
                let cause = if is_closed(&e) {
                    Ended::ClientClosed
                } else {
                    Ended::of_client(&e)
                };
                self.client_broken = Some(cause);
                self.first_end(cause, tools.now, linger);
            }
        }
        None
    }

    /// The first direction to end says how the connection ended, and starts the other's last seconds.
    fn first_end(&mut self, cause: Ended, now: Seconds, linger: Seconds) {
        if self.ending.is_none() {
            self.ending = Some(cause);
            self.linger_until = Some(now.after(linger));
        }
    }
}

/// Whether a write failed because the peer had closed before; else the error was the end itself, and reading will only
/// say that nothing more comes.
fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

fn node_failure(error: &io::Error) -> Ended {
    match error.kind() {
        io::ErrorKind::TimedOut => Ended::NodeVanished,
        // Only TLS calls bytes invalid.
        io::ErrorKind::InvalidData => Ended::NodeTlsFault,
        _ => Ended::NodeReset,
    }
}
