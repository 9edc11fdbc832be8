//! A fake node: takes connections, keeps every byte of each, and answers CONNECTs as it is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::JoinHandle;

use tokio::time::Instant;

use crate::header::{Header, Version};
use crate::kernel;
use crate::packets;
use crate::wait::{self, Watched, uninterrupted};

/// What a node does with a connection.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Accepts every CONNECT.
    Accept,
    /// Answers each CONNECT with this code.
    Code(u8),
    /// Answers each CONNECT with these bytes.
    Bytes(Vec<u8>),
    /// Closes as soon as the CONNECT is here.
    Close,
    /// Closes before it reads anything, so that the kernel makes a reset of it.
    CloseAtOnce,
    /// Resets as soon as the CONNECT is here.
    Reset,
    /// Says nothing; the test may speak for it.
    Stall,
    /// Says nothing to a CONNECT that contains this, and accepts every other.
    StallAt(&'static str),
    /// Accepts the CONNECT and reads nothing more, until the connection is told to [`Connection::listen`].
    AcceptDeaf,
}

/// A node that is no broker.
#[derive(Debug)]
pub(crate) struct FakeNode {
    pub name: String,
    pub address: SocketAddr,
    shared: Arc<Shared>,
    /// None while it is dead.
    alive: Option<(TcpListener, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Shared {
    answer: Watched<Answer>,
    /// The PROXY header that connections must begin with.
    expects: Watched<Option<Version>>,
    connections: Watched<Vec<Arc<Connection>>>,
}

/// A connection that came to a node.
#[derive(Debug)]
pub(crate) struct Connection {
    /// When it came.
    pub at: Instant,
    stream: TcpStream,
    local: SocketAddr,
    peer: SocketAddr,
    heard: Watched<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    bytes: Vec<u8>,
    end: Option<End>,
    listens: bool,
    header: Option<Header>,
    /// The node has done with the CONNECT what it was told to.
    is_answered: bool,
}

impl Heard {
    /// All of a CONNECT is here, and its answer is due.
    fn owes_answer(&self) -> bool {
        let is_complete = packets::packet_end(&self.bytes).is_some_and(|end| self.bytes.len() >= end);
        is_complete && !self.is_answered && self.end.is_none()
    }
}

/// How a connection ended, as one side saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

impl End {
    /// What a read that brought nothing means.
    pub(crate) fn of(read: std::io::Result<usize>) -> Self {
        match read {
            Ok(_) => Self::Fin,
            // Not connected: this side dissolved it. A broken pipe: what came behind a FIN was reset.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::NotConnected | ErrorKind::BrokenPipe
                ) =>
            {
                Self::Reset
            }
            Err(error) => panic!("a connection ended strangely: {error}"),
        }
    }
}

/// An address for one listener alone. A port that a dead node gave up cannot be taken by anybody else.
pub(crate) fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let [high, low] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = std::process::id() % 100;
    Ipv4Addr::new(127, 100 + process as u8, high, low)
}

impl FakeNode {
    /// A node on a free port, which accepts every CONNECT.
    pub(crate) fn start(name: impl Into<String>) -> Self {
        Self::start_at(name, (own_address(), 0).into())
    }

    pub(crate) fn start_at(name: impl Into<String>, address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            answer: Watched::new(Answer::Accept),
            expects: Watched::default(),
            connections: Watched::default(),
        });
        let listener = TcpListener::bind(address).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut node = Self {
            name: name.into(),
            address,
            shared,
            alive: None,
        };
        node.serve(listener);
        node
    }

    /// The node as it stands in a configuration.
    pub(crate) fn toml(&self, weight: u16) -> String {
        let Self { name, address, .. } = self;
        let proxy_protocol = self.shared.expects.lock().map_or("off", Version::name);
        format!(
            "[[nodes]]\nname = \"{name}\"\naddress = \"{address}\"\nproxy_protocol = \"{proxy_protocol}\"\n\
             weight = {weight}\n\n"
        )
    }

    /// From now on, connections are answered so.
    pub(crate) fn answer(&self, answer: Answer) {
        self.shared.answer.change(|told| *told = answer);
    }

    /// From now on, connections must begin with this PROXY header, and are not heard without it.
    pub(crate) fn expect_header(&self, version: Version) {
        self.shared.expects.change(|expects| *expects = Some(version));
    }

    /// Dies like a killed process: the port refuses, every connection is closed.
    pub(crate) fn die(&mut self) {
        let (listener, thread) = self.alive.take().expect("a node dies once");
        // Wakes the thread that accepts.
        rustix::net::shutdown(listener.as_fd(), rustix::net::Shutdown::Both).expect("it listened");
        drop(listener);
        thread.join().expect("no panic");
        for connection in &*self.shared.connections.lock() {
            connection.close();
        }
    }

    /// Comes back on the port it had.
    pub(crate) fn come_back(&mut self) {
        assert!(self.alive.is_none(), "only the dead come back");
        self.serve(TcpListener::bind(self.address).expect("its own port"));
    }

    /// How many connections ever began with `bytes`: those of clients, without probes.
    pub(crate) fn asked(&self, bytes: &[u8]) -> usize {
        let connections = self.shared.connections.lock();
        connections
            .iter()
            .filter(|connection| connection.begins_with(bytes))
            .count()
    }

    /// How many connections ever came, those of probes included.
    pub(crate) fn dials(&self) -> usize {
        self.shared.connections.lock().len()
    }

    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        self.shared.connections.lock().clone()
    }

    /// The `number`th connection that came, counted from 0.
    #[track_caller]
    pub(crate) fn connection(&self, number: usize) -> Arc<Connection> {
        let what = format!("connection {number} to {}", self.name);
        let connections = &self.shared.connections;
        connections.until_some(&what, |connections| connections.get(number).cloned())
    }

    fn serve(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        let accepting = listener.try_clone().expect("a descriptor");
        let thread = std::thread::spawn(move || {
            while let Ok((stream, peer)) = accepting.accept() {
                let connection = Arc::new(Connection {
                    at: Instant::now(),
                    local: stream.local_addr().expect("an address"),
                    stream,
                    peer,
                    heard: Watched::default(),
                });
                let known = Arc::clone(&connection);
                let answer = shared.answer.lock().clone();
                let expects = *shared.expects.lock();
                shared.connections.change(|all| all.push(known));
                std::thread::spawn(move || connection.converse(&answer, expects));
            }
        });
        self.alive = Some((listener, thread));
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        if self.alive.is_some() {
            self.die();
        }
    }
}

impl Connection {
    fn converse(&self, answer: &Answer, expects: Option<Version>) {
        if let Answer::CloseAtOnce = answer {
            // Closing would leave the descriptor to the thread that holds the connection; a reset is what the kernel would send.
            return self.reset();
        }
        if let Some(version) = expects {
            let Some(header) = Header::take(&self.stream, version) else {
                return;
            };
            self.heard.change(|heard| heard.header = Some(header));
        }
        let connect = loop {
            if !self.read_once() {
                return;
            }
            let heard = self.heard.lock();
            if let Some(end) = packets::packet_end(&heard.bytes)
                && heard.bytes.len() >= end
            {
                break heard.bytes[..end].to_vec();
            }
        };
        let level = packets::level(&connect);
        match answer {
            Answer::Accept | Answer::AcceptDeaf => self.write(&packets::connack(level, 0)),
            Answer::Code(code) => self.write(&packets::connack(level, *code)),
            Answer::Bytes(bytes) => self.write(bytes),
            Answer::Close => self.close(),
            Answer::Reset => self.reset(),
            Answer::Stall => {}
            Answer::StallAt(text) => {
                if !contains(&connect, text.as_bytes()) {
                    self.write(&packets::connack(level, 0));
                }
            }
            Answer::CloseAtOnce => unreachable!("nothing was read"),
        }
        self.heard.change(|heard| heard.is_answered = true);
        if let Answer::AcceptDeaf = answer {
            self.heard.until("told to listen", |heard| heard.listens);
        }
        while self.read_once() {}
    }

    /// Reads so much, on a connection that does not listen.
    pub(crate) fn take(&self, count: usize) {
        let mut buffer = vec![0; count];
        (&self.stream).read_exact(&mut buffer).expect("bytes");
        self.heard.change(|heard| heard.bytes.extend(buffer));
    }

    fn read_once(&self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match uninterrupted(|| (&self.stream).read(&mut buffer)) {
            Ok(read) if read > 0 => {
                self.heard
                    .change(|heard| heard.bytes.extend_from_slice(&buffer[..read]));
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

    /// Every byte that came so far, behind the header.
    pub(crate) fn received(&self) -> Vec<u8> {
        self.heard.lock().bytes.clone()
    }

    /// Whether its CONNECT is of a probe.
    pub(crate) fn is_probe(&self) -> bool {
        contains(&self.heard.lock().bytes, b"remora-probe-")
    }

    pub(crate) fn begins_with(&self, bytes: &[u8]) -> bool {
        self.heard.lock().bytes.starts_with(bytes)
    }

    /// Waits until `bytes` and no others have come.
    #[track_caller]
    pub(crate) fn expect(&self, bytes: &[u8]) {
        let what = format!("{} bytes at a node", bytes.len());
        self.heard.until(&what, |heard| heard.bytes.len() >= bytes.len());
        let heard = self.heard.lock();
        assert!(heard.bytes == bytes, "other bytes than those expected");
    }

    /// Waits until so many bytes have come.
    #[track_caller]
    pub(crate) fn expect_count(&self, count: usize) {
        let what = format!("{count} bytes at a node");
        self.heard.until(&what, |heard| heard.bytes.len() >= count);
    }

    /// Waits for the end of what comes.
    #[track_caller]
    pub(crate) fn end(&self) -> End {
        self.heard.until_some("a node's end", |heard| heard.end)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.heard.lock().end.is_some()
    }

    /// Sends `bytes`, behind the node's answer where a CONNECT is here.
    #[track_caller]
    pub(crate) fn send(&self, bytes: &[u8]) {
        self.heard
            .until("the answer to a CONNECT", |heard| !heard.owes_answer());
        self.write(bytes);
    }

    /// Sends `bytes`, which the balancer may no longer want.
    pub(crate) fn offers(&self, bytes: &[u8]) {
        // It may have closed in this moment.
        let _ = (&self.stream).write_all(bytes);
    }

    fn write(&self, bytes: &[u8]) {
        (&self.stream).write_all(bytes).expect("a balancer that reads");
    }

    /// Sends `bytes`, and waits until the balancer has read them, so that what comes next is a segment of its own.
    #[track_caller]
    pub(crate) fn send_alone(&self, bytes: &[u8]) {
        self.send(bytes);
        self.sent_all();
        wait::until("the balancer reads", || {
            kernel::queues(self.peer, self.local).is_none_or(|queues| queues.unread == 0)
        });
    }

    /// Waits until the balancer's kernel has all that was sent.
    #[track_caller]
    pub(crate) fn sent_all(&self) {
        wait::until("all is acknowledged", || {
            kernel::queues(self.local, self.peer).is_none_or(|queues| queues.unacknowledged == 0)
        });
    }

    /// Reads on.
    pub(crate) fn listen(&self) {
        self.heard.change(|heard| heard.listens = true);
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends a FIN, and reads on.
    pub(crate) fn fin(&self) {
        // A connection that is gone has nothing left to end.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Ends both directions without a reset.
    pub(crate) fn close(&self) {
        self.listen();
        // As above.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Resets: what was sent and not acknowledged is thrown away.
    pub(crate) fn reset(&self) {
        reset(&self.stream);
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|bytes| bytes == part)
}

/// Ends a connection by a reset, although others still hold its descriptor (connect(2): AF_UNSPEC dissolves).
pub(crate) fn reset(stream: &TcpStream) {
    // A connection that is gone already needs none.
    let _ = rustix::net::connect_unspec(stream);
}
