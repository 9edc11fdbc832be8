//! The connection table of one worker: every relay as a row of plain data, reached by index and generation.

mod handed;

use std::collections::BTreeSet;
use std::task::Context;

use crate::base::clock::Seconds;
use crate::base::failpoint;
use crate::cluster::{Cluster, NodeId, NodeLoad};
use crate::net::socket::{Detached, Socket};
use crate::path::ended::Ended;
use crate::path::record::{KeptId, Record};
use crate::path::relay::flow::Tools;
use crate::path::relay::index::Index;
use crate::path::relay::pipes::Pipes;
use crate::path::relay::ports::Ports;
use crate::path::relay::relayed::{Finished, RelayView, Relayed};
use crate::path::relay::row::{Row, ToWatch};
use crate::path::sides::Bytes;

pub(crate) use handed::Movable;

/// Rows per chunk: as many as a word has bits, so that one word shows which are free.
const CHUNK_ROWS: usize = u64::BITS as usize;

/// A receiver that has had no room for less than this is merely busy.
const BLOCKED_MIN: Seconds = Seconds(10);

/// Where a row is. A row that took the place of another has another generation. In the order of places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId {
    index: u32,
    generation: u32,
}

/// The relays of one worker.
#[derive(Debug)]
pub struct Table {
    chunks: Vec<Chunk>,
    /// Chunks with at least one free row: the lowest is filled first, so that the others can be freed.
    with_room: BTreeSet<u32>,
    /// Finds rows by client id.
    index: Index,
    generation: u32,
    rows: usize,
    tools: Tools,
}

#[derive(Debug, Default)]
struct Chunk {
    /// A bit for each row that is taken.
    taken: u64,
    /// Not with `taken`: the allocator has a size for 64 rows, and with 8 bytes more it gives the next one, 4 KiB more.
    rows: Option<Box<Rows>>,
}

type Rows = [Option<(u32, Row)>; CHUNK_ROWS];

const _: () = assert!(size_of::<Rows>() <= 16 * 1024);

impl Table {
    /// An empty table.
    pub fn new(settings: &super::Settings) -> Self {
        Self {
            chunks: Vec::new(),
            with_room: BTreeSet::new(),
            index: Index::default(),
            generation: 0,
            rows: 0,
            tools: Tools {
                pipes: Pipes::new(settings.pipes_max),
                now: Seconds::default(),
                linger: Seconds::at_least(settings.linger),
                splice: settings.splice,
                rate_min: settings.rate_min,
                replies: Vec::new(),
                ends_with_disconnect: None,
                ports: Ports::new(settings.ports_max),
                details: None,
            },
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

    /// Adds a connection to relay. The caller takes turns at it until it is finished.
    pub fn adopt(&mut self, relayed: Relayed<Socket>, now: Seconds) -> RowId {
        self.insert(Row::new(relayed, now))
    }

    /// Moves what can be moved now. A relay that is no longer in the table was taken out, which does not end it.
    pub fn turn(&mut self, id: RowId, now: Seconds, cx: &mut Context<'_>) -> Outcome {
        let Some(row) = row_mut(&mut self.chunks, id) else {
            return Outcome::Gone;
        };
        self.tools.now = now;
        failpoint::pass(failpoint::Place::Relay);
        match row.turn(&mut self.tools, cx) {
            None => Outcome::Pending,
            Some(over) => {
                let details = self.tools.details.take().map(Box::new);
                self.remove(id).map_or(Outcome::Gone, |row| {
                    let finished = row.finish(over, &self.tools);
                    Outcome::Finished(Finished { details, ..finished })
                })
            }
        }
    }

    /// Takes a relay out because of `cause`, whatever it is doing. A frozen one, which another process may have, does not end.
    pub fn finish(&mut self, id: RowId, cause: Ended) -> Option<Finished> {
        if self.forget(id).is_some() {
            return None;
        }
        Some(self.remove(id)?.finish(cause.into(), &self.tools))
    }

    /// Takes a relay out so that it can go on elsewhere: another worker, another process. `None` when it is gone already.
    ///
    /// # Errors
    /// Bytes in a pipe could not be taken out: the connection is lost.
    pub(crate) fn detach(&mut self, id: RowId) -> Option<Result<Relayed<Detached>, Finished>> {
        let mut row = self.remove(id)?;
        Some(match row.take_unsent() {
            Ok(unsent) => Ok(row.detach(unsent)),
            Err(_) => Err(row.finish(Ended::Internal.into(), &self.tools)),
        })
    }

    /// Ends relays that were silent, half-closed or stalled for too long, and passes the sockets of each to `watch` once.
    /// Called once a second. Returns how many bytes wait for receivers without room.
    pub fn sweep(&mut self, now: Seconds, watch: impl Fn(ToWatch<'_>)) -> usize {
        let Tools { linger, rate_min, .. } = self.tools;
        let mut waiting = 0;
        for row in self.rows_mut().filter(|row| !row.is_frozen()) {
            if let Some(sockets) = row.sockets_to_watch() {
                watch(sockets);
            }
            row.end_if_overdue(now, linger);
            waiting += row.sample(now, rate_min);
        }
        if self.rows == 0 {
            self.tools.pipes.close_idle();
        }
        waiting
    }

    /// Ends relays whose receivers have had no room for some time, those with the most waiting bytes first, until `bytes` of
    /// these are released.
    pub(crate) fn release_waiting(&mut self, now: Seconds, bytes: usize) {
        let before = Seconds(now.0.saturating_sub(BLOCKED_MIN.0));
        let blocked = self.rows_mut().filter(|row| !row.is_frozen());
        let blocked = blocked.map(|row| (row.waiting_since(before), row));
        let mut blocked: Vec<_> = blocked.filter(|(waiting, _)| *waiting > 0).collect();
        blocked.sort_unstable_by_key(|(waiting, _)| std::cmp::Reverse(*waiting));
        let mut left = bytes;
        for (waiting, row) in blocked {
            if left == 0 {
                break;
            }
            row.end_now(Ended::WaitingBytesFull);
            left = left.saturating_sub(waiting);
        }
    }

    /// Uncounts the source ports that are free again. Called once a second.
    pub(crate) fn sweep_ports(&mut self, now: Seconds, cluster: &Cluster) {
        self.tools.ports.sweep(now, cluster);
    }

    /// Counts the port of a connection to this node that was closed from here first.
    pub(crate) fn add_time_wait(&mut self, now: Seconds, node: NodeId, load: &NodeLoad) {
        self.tools.ports.add(now, node, load);
    }

    /// Reports what each relay has moved since the last report, where it moved anything. Called once a second.
    pub fn count(&mut self, now: Seconds, report: impl Fn(&Record, Bytes)) {
        // Of a frozen one, nothing is counted here and in another process as well.
        for row in self.rows_mut().filter(|row| !row.is_frozen()) {
            if let Some(moved) = row.swept(now) {
                report(row.facts().1, moved);
            }
        }
    }

    /// Relays with these settings from now on.
    pub(crate) fn reconfigure(&mut self, settings: &super::Settings) {
        self.tools.splice = settings.splice;
        self.tools.rate_min = settings.rate_min;
        self.tools.pipes.set_most(settings.pipes_max);
        self.tools.ports.set_most(settings.ports_max);
        self.tools.linger = Seconds::at_least(settings.linger);
    }

    /// Orders a relay to end because of `cause`; with `at_rest`, only if it has no byte in flight.
    pub fn close(&mut self, id: RowId, now: Seconds, at_rest: bool, cause: Ended) -> OrderedToEnd {
        let by = now.after(self.tools.linger);
        match row_mut(&mut self.chunks, id) {
            Some(row) if row.is_ordered_to_end() => OrderedToEnd::Before,
            Some(row) if row.is_frozen() || (at_rest && !row.is_at_rest()) => OrderedToEnd::Busy,
            Some(row) => {
                row.order_to_end(cause, by);
                OrderedToEnd::Now
            }
            None => OrderedToEnd::Before,
        }
    }

    /// Orders all relays to end because of `cause`, but for those that are frozen.
    pub fn close_all(&mut self, now: Seconds, cause: Ended) {
        let by = now.after(self.tools.linger);
        for row in self
            .rows_mut()
            .filter(|row| !row.is_ordered_to_end() && !row.is_frozen())
        {
            row.order_to_end(cause, by);
        }
    }

    /// The relays of the client with this id.
    pub fn find<'a>(&'a self, id: &'a KeptId) -> impl Iterator<Item = RowId> + 'a {
        let found = self.index.find(id.short_hash());
        found.filter_map(move |index| {
            let (generation, row) = self.row(index)?;
            let is_it = row.facts().1.client_id() == Some(id);
            is_it.then_some(RowId { index, generation })
        })
    }

    /// The hash of each client's id, and where its row is.
    pub(crate) fn hashes(&self) -> impl Iterator<Item = (u32, u32)> {
        self.index.iter()
    }

    /// A relay as it is now; `None` if it is gone.
    pub fn view(&self, id: RowId) -> Option<RelayView<'_>> {
        let (generation, row) = self.row(id.index)?;
        (generation == id.generation).then(|| row.view())
    }

    /// Visits the relays in so many `places` of the table, from place `from` on, without those that were ordered to end. Returns
    /// the place to go on from; `None` at the end of the table. A relay stays in its place.
    pub fn visit(&self, from: u32, places: u32, mut visit: impl FnMut(RowId, RelayView<'_>)) -> Option<u32> {
        let end = from.saturating_add(places).min(self.places());
        for index in from..end {
            if let Some((generation, row)) = self.row(index)
                && !row.is_ordered_to_end()
            {
                visit(RowId { index, generation }, row.view());
            }
        }
        (end < self.places()).then_some(end)
    }

    /// The relays that were not ordered to end, since an order would be lost with a move, and are not frozen.
    pub fn all(&self) -> Vec<RowId> {
        let mut all = Vec::with_capacity(self.rows);
        for index in 0..self.places() {
            if let Some((generation, row)) = self.row(index)
                && !row.is_ordered_to_end()
                && !row.is_frozen()
            {
                all.push(RowId { index, generation });
            }
        }
        all
    }

    /// How many places there are, free ones included.
    fn places(&self) -> u32 {
        (self.chunks.len() * CHUNK_ROWS) as u32
    }

    /// What is in this place, and its generation.
    fn row(&self, index: u32) -> Option<(u32, &Row)> {
        let (number, place) = place_of(index);
        let (generation, row) = self.chunks.get(number)?.rows.as_ref()?[place].as_ref()?;
        Some((*generation, row))
    }

    fn rows_mut(&mut self) -> impl Iterator<Item = &mut Row> {
        self.chunks
            .iter_mut()
            .filter_map(|chunk| chunk.rows.as_mut())
            .flat_map(|rows| rows.iter_mut())
            .flatten()
            .map(|(_, row)| row)
    }

    fn insert(&mut self, row: Row) -> RowId {
        let number = self.with_room.first().copied().unwrap_or_else(|| {
            let number = match self.chunks.iter().position(|chunk| chunk.rows.is_none()) {
                Some(free) => free,
                None => {
                    self.chunks.push(Chunk::default());
                    self.chunks.len() - 1
                }
            };
            self.chunks[number].rows = Some(Box::new([const { None }; CHUNK_ROWS]));
            self.with_room.insert(number as u32);
            number as u32
        });
        let chunk = &mut self.chunks[number as usize];
        let rows = chunk.rows.as_mut().expect("a chunk with room has rows");
        let place = chunk.taken.trailing_ones();
        let index = number * CHUNK_ROWS as u32 + place;
        if let Some(id) = row.facts().1.client_id() {
            self.index.insert(id.short_hash(), index);
        }
        chunk.taken |= 1 << place;
        self.generation = self.generation.wrapping_add(1);
        rows[place as usize] = Some((self.generation, row));
        if chunk.taken == u64::MAX {
            self.with_room.remove(&number);
        }
        self.rows += 1;
        RowId {
            index,
            generation: self.generation,
        }
    }

    fn remove(&mut self, id: RowId) -> Option<Row> {
        row_mut(&mut self.chunks, id)?;
        let (number, place) = id.place();
        let chunk = &mut self.chunks[number];
        let (_, row) = chunk.rows.as_mut()?[place].take()?;
        if let Some(client_id) = row.facts().1.client_id() {
            self.index.remove(client_id.short_hash(), id.index);
        }
        chunk.taken &= !(1 << place);
        self.rows -= 1;
        // The first chunk is kept, so that connections one after another do not allocate and free it each time.
        if chunk.taken == 0 && number > 0 {
            chunk.rows = None;
            self.with_room.remove(&(number as u32));
        } else {
            self.with_room.insert(number as u32);
        }
        Some(row)
    }
}

/// The result of a turn at a relay.
#[derive(Debug)]
pub enum Outcome {
    /// It waits for one of its sockets.
    Pending,
    /// It has ended.
    Finished(Finished),
    /// It is no longer in this table.
    Gone,
}

/// The result of an order to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderedToEnd {
    /// It ends because of this order.
    Now,
    /// It has ended, or was ordered to end before.
    Before,
    /// It has bytes in flight, and only one at rest was to end; or it is frozen.
    Busy,
}

impl RowId {
    fn place(self) -> (usize, usize) {
        place_of(self.index)
    }
}

/// Chunk, and place in it.
fn place_of(index: u32) -> (usize, usize) {
    (index as usize / CHUNK_ROWS, index as usize % CHUNK_ROWS)
}

fn row_mut(chunks: &mut [Chunk], id: RowId) -> Option<&mut Row> {
    let (number, place) = id.place();
    match &mut chunks.get_mut(number)?.rows.as_mut()?[place] {
        Some((generation, row)) if *generation == id.generation => Some(row),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{self, Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::task::Poll;
    use std::time::Duration;

    use socket2::SockRef;
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::base::allocated::allocations;
    use crate::base::scratch;
    use crate::base::sync::Ordering;
    use crate::net::socket::{pair, secured_pair};
    use crate::net::websocket::frames::{Frames, Sender};
    use crate::path::record::{ListenerId, Steps};
    use crate::path::relay::Settings;
    use crate::path::sides::{Moved, Side, Sides};

    const LINGER: Seconds = Seconds(5);

    /// A relay, and the two peers that it joins.
    struct Joined {
        table: Table,
        id: RowId,
        now: Seconds,
        client: TcpStream,
        node: TcpStream,
    }

    fn settings() -> Settings {
        Settings {
            linger: Duration::from_secs(LINGER.0.into()),
            ..Settings::default()
        }
    }

    fn joined() -> Joined {
        let (client, from_client) = pair();
        joined_with(client, from_client, None, b"")
    }

    /// A relay of this client, with these frames of it, and what is to be sent to it first.
    fn joined_with(client: TcpStream, from_client: Socket, frames: Option<Frames>, to_client: &[u8]) -> Joined {
        let (node, from_node) = pair();
        for peer in [&client, &node] {
            peer.set_nonblocking(true).expect("set");
        }
        let mut table = Table::new(&settings());
        let relayed = Relayed {
            sides: Sides {
                client: Side::new(from_client, Vec::new(), 0, false),
                node: Side::new(from_node, to_client.to_vec(), 0, false),
                frames,
            },
            idle_limit: None,
            activity: None,
            node_id: NodeId(0),
            record: Box::new(Record {
                number: 1,
                listener: ListenerId(0),
                client: ([127, 0, 0, 1], 1).into(),
                identity: None,
                accepted: Instant::now(),
                connect: None,
                decision: None,
                node: None,
                retries: 0,
                code: None,
                steps: Steps::default(),
            }),
        };
        let now = Seconds(1);
        let id = table.adopt(relayed, now);
        Joined {
            table,
            id,
            now,
            client,
            node,
        }
    }

    impl Joined {
        /// Takes turns until `receive` has something, or the relay is over.
        async fn until<T>(&mut self, mut receive: impl FnMut(&mut Self) -> Option<T>) -> Result<T, Finished> {
            let received = std::future::poll_fn(|cx| {
                let outcome = self.table.turn(self.id, self.now, cx);
                if let Some(received) = receive(self) {
                    return Poll::Ready(Ok(received));
                }
                match outcome {
                    Outcome::Pending => {
                        // What a peer has received causes no event here.
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                    Outcome::Finished(finished) => Poll::Ready(Err(finished)),
                    Outcome::Gone => panic!("it was not taken out"),
                }
            });
            timeout(Duration::from_secs(5), received).await.expect("in time")
        }

        async fn over(&mut self) -> Finished {
            self.until(|_| None::<()>).await.expect_err("nothing is received")
        }
    }

    /// What `peer` has received, which is `bytes` long.
    fn read<const BYTES: usize>(peer: &mut TcpStream) -> Option<[u8; BYTES]> {
        let mut buffer = [0; BYTES];
        let read = peer.read(&mut buffer).ok()?;
        assert_eq!(read, BYTES);
        Some(buffer)
    }

    #[tokio::test]
    async fn a_message_costs_no_allocation() {
        let mut joined = joined();
        let mut before = 0;
        for message in 0..100_u8 {
            if message == 10 {
                // Everything on the way has its room by now.
                before = allocations();
            }
            joined.client.write_all(&[message; 100]).expect("room");
            let to_node = joined.until(|joined| read(&mut joined.node)).await;
            assert_eq!(to_node.expect("a message"), [message; 100]);
            joined.node.write_all(&[message; 50]).expect("room");
            let to_client = joined.until(|joined| read(&mut joined.client)).await;
            assert_eq!(to_client.expect("a message"), [message; 50]);
        }
        assert_eq!(allocations() - before, 0);
    }

    /// What one turn moves of much that is there.
    async fn moved_in_a_turn(mut joined: Joined, block: &[u8]) -> u64 {
        // Until the kernel has no room left.
        while joined.client.write(block).is_ok() {}
        let moved = |joined: &mut Joined, cx: &mut Context<'_>| {
            let outcome = joined.table.turn(joined.id, joined.now, cx);
            assert!(matches!(outcome, Outcome::Pending), "it goes on");
            let moved = Cell::new(0);
            joined
                .table
                .count(joined.now, |_, bytes| moved.set(bytes.from_client.total()));
            match moved.get() {
                0 => Poll::Pending,
                moved => Poll::Ready(moved),
            }
        };
        let first = std::future::poll_fn(|cx| moved(&mut joined, cx)).await;
        let second = std::future::poll_fn(|cx| moved(&mut joined, cx)).await;
        assert!(second > 0, "there was more");
        first
    }

    #[tokio::test]
    async fn a_turn_is_bounded_in_work_whatever_a_client_sends() {
        let (client, from_client) = pair();
        let frames = Frames::new(Sender::Client);
        let joined = joined_with(client, from_client, Some(frames), b"");
        let frames_of_a_byte = [0x82, 0x81, 0, 0, 0, 0, 0xC0].repeat(10_000);
        let moved = moved_in_a_turn(joined, &frames_of_a_byte).await;
        // One read is too much for one turn already, and reads are not interrupted.
        assert!(moved <= scratch::BYTES as u64, "{moved} bytes of frames");

        let (mut tls, client, from_client) = secured_pair();
        let joined = joined_with(client, from_client, None, b"");
        let mut records_of_a_byte = Vec::new();
        for _ in 0..3_000 {
            tls.writer().write_all(&[0xC0]).expect("taken");
            tls.write_tls(&mut records_of_a_byte).expect("sealed");
        }
        let moved = moved_in_a_turn(joined, &records_of_a_byte).await;
        let most = scratch::RECORDS_BYTES * 3_000 / records_of_a_byte.len() + 1;
        assert!(moved <= most as u64, "{moved} records");
    }

    #[tokio::test]
    async fn a_client_that_has_ended_gets_the_rest_and_names_the_cause() {
        let mut joined = joined();
        joined.client.write_all(b"last").expect("room");
        joined.client.shutdown(Shutdown::Write).expect("open");
        let to_node = joined.until(|joined| read(&mut joined.node)).await;
        assert_eq!(&to_node.expect("a message"), b"last");
        let end = joined.until(|joined| read::<0>(&mut joined.node)).await;
        end.expect("the client's end");
        joined.node.write_all(b"rest").expect("room");
        joined.node.shutdown(Shutdown::Write).expect("open");
        let finished = joined.over().await;
        assert_eq!(finished.cause, Ended::ClientClosed);
        assert_eq!(finished.bytes, copied(4, 4));
        assert_eq!(&read(&mut joined.client).expect("what the node sent"), b"rest");
    }

    fn copied(from_client: u64, from_node: u64) -> Bytes {
        let moved = |copied| Moved { copied, spliced: 0 };
        Bytes {
            from_client: moved(from_client),
            from_node: moved(from_node),
        }
    }

    #[tokio::test]
    async fn what_a_node_sent_before_it_went_away_reaches_the_client_although_writes_fail() {
        let mut joined = joined();
        joined.node.write_all(b"goodbye").expect("room");
        drop(std::mem::replace(&mut joined.node, pair().0));
        // The kernel answers the first of these with a reset, and refuses the next.
        let over = joined.until(|joined| {
            let _ = joined.client.write(b"message");
            None::<()>
        });
        let finished = over.await.expect_err("nothing is received");
        assert_eq!(finished.cause, Ended::NodeClosed);
        assert_eq!(&read(&mut joined.client).expect("what the node sent"), b"goodbye");
    }

    /// What the node finds at its end.
    fn end_at_node(joined: &mut Joined) -> io::Result<usize> {
        joined.node.set_nonblocking(false).expect("set");
        joined.node.read(&mut [0; 100])
    }

    #[tokio::test]
    async fn after_a_disconnect_the_node_closes_first_and_no_port_is_kept() {
        let mut joined = joined();
        joined.client.write_all(&[0xC0, 0, 0xE0, 0]).expect("room");
        joined.client.shutdown(Shutdown::Write).expect("open");
        let to_node = joined.until(|joined| read(&mut joined.node)).await;
        assert_eq!(to_node.expect("all of it"), [0xC0, 0, 0xE0, 0]);
        // Long enough for a FIN behind it.
        for _ in 0..10 {
            tokio::task::yield_now().await;
            let nothing = joined.until(|joined| Some(joined.node.read(&mut [0]))).await;
            assert_eq!(
                nothing.expect("it goes on").expect_err("no FIN").kind(),
                io::ErrorKind::WouldBlock
            );
        }
        joined.node.shutdown(Shutdown::Write).expect("open");
        let finished = joined.over().await;
        assert_eq!(finished.cause, Ended::ClientClosed);
        assert_eq!(finished.time_wait, None);
        assert_eq!(end_at_node(&mut joined).expect("a FIN"), 0);
    }

    #[tokio::test]
    async fn a_node_that_does_not_close_after_a_disconnect_gets_the_fin() {
        let mut joined = joined();
        joined.client.write_all(&[0xE0, 0]).expect("room");
        joined.client.shutdown(Shutdown::Write).expect("open");
        let to_node = joined.until(|joined| read(&mut joined.node)).await;
        assert_eq!(to_node.expect("all of it"), [0xE0, 0]);
        joined.now = joined.now.after(Seconds(1));
        joined.table.sweep(joined.now, |_| {});
        let nothing = joined.until(|joined| Some(joined.node.read(&mut [0]))).await;
        assert!(nothing.expect("it goes on").is_err(), "not yet");
        joined.now = joined.now.after(Seconds(1));
        joined.table.sweep(joined.now, |_| {});
        let end = joined.until(|joined| read::<0>(&mut joined.node)).await;
        end.expect("the client's end");
        joined.node.shutdown(Shutdown::Write).expect("open");
        let finished = joined.over().await;
        assert_eq!(finished.cause, Ended::ClientClosed);
        assert_eq!(finished.time_wait, Some(NodeId(0)));
    }

    #[tokio::test]
    async fn where_ports_are_scarce_a_node_is_reset_behind_the_last_byte() {
        let (client, from_client) = pair();
        // What waits for the client is sent before.
        let mut joined = joined_with(client, from_client, None, b"answer");
        let load = NodeLoad::default();
        load.connections.store(usize::from(u16::MAX), Ordering::Relaxed);
        joined.table.add_time_wait(joined.now, NodeId(0), &load);
        joined.client.write_all(b"last").expect("room");
        joined.client.shutdown(Shutdown::Write).expect("open");
        let finished = joined.over().await;
        assert_eq!(finished.cause, Ended::ClientClosed);
        assert_eq!(finished.time_wait, None);
        assert_eq!(&read(&mut joined.client).expect("what the node sent"), b"answer");
        if let Some(left) = finished.left {
            left.close().await;
        }
        joined.node.set_nonblocking(false).expect("set");
        assert_eq!(&read(&mut joined.node).expect("the last bytes"), b"last");
        let end = end_at_node(&mut joined).expect_err("a reset");
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn what_the_balancer_ends_itself_is_reset_once_the_node_has_read_all() {
        for (quiet, is_reset) in [(Seconds(2), false), (Seconds(3), true)] {
            let mut joined = joined();
            joined.client.write_all(b"last").expect("room");
            let to_node = joined.until(|joined| read(&mut joined.node)).await;
            assert_eq!(&to_node.expect("a message"), b"last");
            joined.now = joined.now.after(quiet);
            let now = joined.now;
            joined.table.close_all(now, Ended::Shutdown);
            let finished = joined.over().await;
            assert_eq!(finished.time_wait.is_none(), is_reset);
            assert!(finished.left.is_none(), "everything was acknowledged");
            assert_eq!(end_at_node(&mut joined).is_err(), is_reset);
        }
    }

    /// A relay whose client has small buffers and has not read what its node sends, as a sweep has found.
    async fn blocked() -> Joined {
        let (client, from_client) = pair();
        SockRef::from(&client).set_recv_buffer_size(8 * 1024).expect("set");
        SockRef::from(&from_client).set_send_buffer_size(8 * 1024).expect("set");
        let mut joined = joined_with(client, from_client, None, b"");
        let blocked = joined.until(|joined| {
            let _ = joined.node.write(&[7; 64 * 1024]);
            (joined.table.sweep(joined.now, |_| {}) > 0).then_some(())
        });
        blocked.await.expect("it goes on");
        joined
    }

    /// A second passes, in which the client takes at least so many bytes.
    async fn second(joined: &mut Joined, bytes: usize) -> Result<(), Finished> {
        let mut taken = 0;
        if bytes > 0 {
            let take = joined.until(|joined| {
                let _ = joined.node.write(&[7; 64 * 1024]);
                let mut buffer = [0; 8 * 1024];
                taken += joined.client.read(&mut buffer).unwrap_or(0);
                (taken >= bytes).then_some(())
            });
            take.await?;
        }
        joined.now = joined.now.after(Seconds(1));
        joined.table.sweep(joined.now, |_| {});
        let turn = |cx: &mut Context<'_>| Poll::Ready(joined.table.turn(joined.id, joined.now, cx));
        match std::future::poll_fn(turn).await {
            Outcome::Finished(finished) => Err(finished),
            Outcome::Pending | Outcome::Gone => Ok(()),
        }
    }

    #[tokio::test]
    async fn a_client_that_takes_too_little_for_a_minute_is_ended_and_one_that_takes_enough_is_not() {
        for (rate, is_ended) in [(0, true), (100, true), (2_000, false)] {
            let mut joined = blocked().await;
            let mut seconds = 0;
            let mut debt = 0;
            while seconds < 70 {
                // The client reads when some thousands of bytes are due, as its kernel hands them on in larger pieces.
                debt += rate;
                let bytes = if debt < 4_000 { 0 } else { std::mem::take(&mut debt) };
                seconds += 1;
                if let Err(finished) = second(&mut joined, bytes).await {
                    assert_eq!(finished.cause, Ended::ClientStalled);
                    break;
                }
            }
            assert_eq!(seconds, if is_ended { 60 } else { 70 }, "at {rate} bytes a second");
        }
    }

    #[tokio::test]
    async fn what_has_waited_for_long_is_released_with_a_reset() {
        let mut joined = blocked().await;
        let now = joined.now;
        joined.table.release_waiting(now.after(Seconds(9)), usize::MAX);
        second(&mut joined, 0).await.expect("it is merely busy");
        joined.table.release_waiting(now.after(Seconds(10)), 1);
        let finished = joined.over().await;
        assert_eq!(finished.cause, Ended::WaitingBytesFull);
        joined.client.set_nonblocking(false).expect("set");
        let end = joined.client.read_to_end(&mut Vec::new()).expect_err("a reset");
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_relay_at_rest_again_keeps_nothing_of_its_backlog() {
        let mut joined = blocked().await;
        let drained = joined.until(|joined| {
            while joined.client.read(&mut [0; 64 * 1024]).is_ok_and(|read| read > 0) {}
            (joined.table.sweep(joined.now, |_| {}) == 0).then_some(())
        });
        drained.await.expect("it goes on");
        for _ in 0..200 {
            joined.now = joined.now.after(Seconds(1));
            assert_eq!(joined.table.sweep(joined.now, |_| {}), 0);
        }
        joined.node.write_all(b"more").expect("room");
        let mut received = Vec::new();
        let more = joined.until(|joined| {
            let mut buffer = [0; 64 * 1024];
            let read = joined.client.read(&mut buffer).unwrap_or(0);
            received.extend_from_slice(&buffer[..read]);
            received.ends_with(b"more").then_some(())
        });
        more.await.expect("it goes on");
    }

    #[tokio::test]
    async fn what_is_half_closed_ends_at_its_limit_and_not_before() {
        let mut joined = joined();
        joined.client.shutdown(Shutdown::Write).expect("open");
        let end = joined.until(|joined| read::<0>(&mut joined.node)).await;
        end.expect("the client's end");
        joined.now = joined.now.after(LINGER);
        joined.table.sweep(joined.now, |_| {});
        joined.node.write_all(b"late").expect("room");
        let to_client = joined.until(|joined| read(&mut joined.client)).await;
        assert_eq!(&to_client.expect("a message"), b"late");
        joined.now = joined.now.after(Seconds(1));
        joined.table.sweep(joined.now, |_| {});
        assert_eq!(joined.over().await.cause, Ended::ClientClosed);
        assert!(joined.table.is_empty());
    }

    #[tokio::test]
    async fn what_is_ordered_to_end_passes_on_what_has_arrived() {
        let mut joined = joined();
        joined.node.write_all(b"arrived").expect("room");
        let now = joined.now;
        let mut close = || joined.table.close(joined.id, now, true, Ended::Shutdown);
        assert_eq!(close(), OrderedToEnd::Now);
        assert_eq!(close(), OrderedToEnd::Before);
        assert!(joined.table.all().is_empty(), "a move would lose the order");
        // Lets the runtime see the event.
        tokio::task::yield_now().await;
        assert_eq!(joined.over().await.cause, Ended::Shutdown);
        assert_eq!(&read(&mut joined.client).expect("what had arrived"), b"arrived");
    }

    #[tokio::test]
    async fn a_half_closed_relay_goes_on_in_another_table_and_counts_nothing_twice() {
        let mut joined = joined();
        joined.client.write_all(b"last").expect("room");
        joined.client.shutdown(Shutdown::Write).expect("open");
        let to_node = joined.until(|joined| read(&mut joined.node)).await;
        assert_eq!(&to_node.expect("a message"), b"last");
        let end = joined.until(|joined| read::<0>(&mut joined.node)).await;
        end.expect("the client's end");
        joined
            .table
            .count(joined.now, |_, moved| assert_eq!(moved, copied(4, 0)));
        let away = joined.table.detach(joined.id).expect("it is there").expect("no pipe");
        assert!(joined.table.is_empty());
        joined.table = Table::new(&settings());
        let relayed = away.register().expect("epoll takes both sockets");
        joined.id = joined.table.adopt(relayed, joined.now);
        joined.node.write_all(b"rest!").expect("room");
        joined.node.shutdown(Shutdown::Write).expect("open");
        let finished = joined.over().await;
        assert_eq!(finished.cause, Ended::ClientClosed);
        assert_eq!(finished.bytes, copied(4, 5));
        assert_eq!(finished.uncounted, copied(0, 5));
        assert_eq!(&read(&mut joined.client).expect("what the node sent"), b"rest!");
    }
}
