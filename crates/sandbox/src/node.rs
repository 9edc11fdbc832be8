//! The sockets of a node: its listeners, a task for each connection, and the behaviours that tests can ask for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use mqttbytes::QoS;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::broker::{Broker, ConnectionId, NodeIndex};
use super::packet::{self, Connect, FromClient, PACKET_BYTES_MAX, ToClient, Unreadable, Version, reason};
use super::wire::{Transport, Wire};

/// What a node does with a CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Serves the client.
    #[default]
    Serve,
    /// Refuses the client: with this reason code in MQTT 5; in MQTT 3.x with the return code of the same meaning, or
    /// else 3.
    Refuse(u8),
    /// Reads, and never answers.
    Stall,
    /// Closes the connection without an answer.
    Close,
}

/// Longest time from accept to a whole CONNECT.
const CONNECT_MAX: Duration = Duration::from_secs(15);

/// How long a client may stop reading while something waits for it.
const WRITE_MAX: Duration = Duration::from_secs(30);

/// Longest time that a client is stalled.
const STALL_MAX: Duration = Duration::from_secs(600);

/// How long a node that has closed waits for the client to close.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Pause of a listener when no descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long the end of the sandbox waits until DISCONNECTs are sent, and how often it checks.
const SHUTDOWN_MAX: Duration = Duration::from_millis(500);
const SHUTDOWN_POLL: Duration = Duration::from_millis(5);

const BACKLOG: i32 = 4_096;

/// With this many bytes waiting for a client, nothing more is read from it, and messages with QoS 0 are dropped.
const OUT_BYTES_MAX: usize = 2 * PACKET_BYTES_MAX;

/// What all connections of the sandbox share, on its one thread.
pub(super) struct Shared {
    pub(super) broker: RefCell<Broker>,
    outgoing: RefCell<HashMap<ConnectionId, Rc<Outgoing>>>,
}

/// What the connections of a node need of it.
pub(super) struct Node {
    pub(super) index: NodeIndex,
    pub(super) name: String,
    pub(super) behaviour: Cell<Behaviour>,
}

/// The packets that wait for one client.
struct Outgoing {
    version: Version,
    node: NodeIndex,
    name: String,
    packet_bytes_max: usize,
    bytes: RefCell<BytesMut>,
    /// A WebSocket message is partly sent.
    is_partly_sent: Cell<bool>,
    /// A DISCONNECT was added, and nothing follows it.
    ends: Cell<bool>,
    added: Notify,
}

impl Shared {
    pub(super) fn new(broker: Broker) -> Self {
        Self {
            broker: RefCell::new(broker),
            outgoing: RefCell::default(),
        }
    }

    /// Distributes the packets that the broker wants sent.
    pub(super) fn deliver(&self) {
        loop {
            let out = self.broker.borrow_mut().take_out();
            if out.is_empty() {
                return;
            }
            for (connection, packet) in out {
                let outgoing = self.outgoing.borrow().get(&connection).cloned();
                if let Some(outgoing) = outgoing
                    && !outgoing.add(&packet)
                {
                    self.drop_packet(connection, &outgoing, &packet);
                }
            }
        }
    }

    /// A message that is too large for its client counts as sent (MQTT 5, 3.1.2.11.4), so that it does not block
    /// others.
    fn drop_packet(&self, connection: ConnectionId, outgoing: &Outgoing, packet: &ToClient) {
        let mut broker = self.broker.borrow_mut();
        if let ToClient::Publish(delivery) = packet {
            broker.note_dropped(outgoing.node);
            if delivery.packet_id != 0 {
                let as_if = FromClient::Puback(delivery.packet_id);
                broker.packet(connection, as_if, Instant::now());
            }
        }
    }

    /// Sends DISCONNECT to every client, as far as they read it at once.
    pub(super) async fn send_shutdown(&self) {
        let outgoing: Vec<_> = self.outgoing.borrow().values().cloned().collect();
        for outgoing in &outgoing {
            outgoing.add(&ToClient::Disconnect(reason::SHUTTING_DOWN));
        }
        let due = Instant::now() + SHUTDOWN_MAX;
        let is_waiting = |out: &Rc<Outgoing>| !out.is_empty();
        while outgoing.iter().any(is_waiting) && Instant::now() < due {
            tokio::time::sleep(SHUTDOWN_POLL).await;
        }
    }
}

impl Outgoing {
    fn new(version: Version, packet_bytes_max: usize, node: &Node) -> Self {
        Self {
            version,
            node: node.index,
            name: node.name.clone(),
            packet_bytes_max,
            bytes: RefCell::default(),
            is_partly_sent: Cell::new(false),
            ends: Cell::new(false),
            added: Notify::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.bytes.borrow().is_empty() && !self.is_partly_sent.get()
    }

    fn is_full(&self) -> bool {
        self.bytes.borrow().len() >= OUT_BYTES_MAX
    }

    /// Adds a packet. Returns `false` and drops it if it is larger than the client accepts, or a message with QoS 0 and
    /// too much waits already.
    fn add(&self, packet: &ToClient) -> bool {
        match packet {
            _ if self.ends.get() => return true,
            ToClient::Publish(delivery) if delivery.qos == QoS::AtMostOnce && self.is_full() => {
                return false;
            }
            ToClient::Disconnect(_) => self.ends.set(true),
            _ => {}
        }
        let mut bytes = self.bytes.borrow_mut();
        let before = bytes.len();
        let written = packet::write(packet, self.version, &self.name, &mut bytes);
        if written.is_err() || bytes.len() - before > self.packet_bytes_max {
            bytes.truncate(before);
            return false;
        }
        self.added.notify_one();
        true
    }

    /// Sends as much as the socket takes now; returns whether that was anything.
    fn send(&self, wire: &Wire) -> io::Result<bool> {
        let mut bytes = self.bytes.borrow_mut();
        let sent = wire.send(&mut bytes)?;
        self.is_partly_sent.set(!sent.is_all && bytes.is_empty());
        if bytes.is_empty() {
            // Frees the memory of a burst.
            *bytes = BytesMut::new();
        }
        Ok(sent.progress)
    }
}

/// A socket that is bound to `address` and does not listen yet. It keeps the port while its node is dead.
pub(super) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Starts to listen on a bound socket.
pub(super) fn listen(socket: Socket) -> io::Result<TcpListener> {
    // Accepted sockets inherit it (Linux).
    socket.set_tcp_nodelay(true)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves clients until the node dies, which is when the sender of `dies` is dropped. Then returns a socket that keeps
/// the port.
pub(super) async fn serve(
    shared: Rc<Shared>,
    node: Rc<Node>,
    listener: TcpListener,
    transport: Transport,
    mut dies: watch::Receiver<()>,
) -> io::Result<Socket> {
    let address = listener.local_addr()?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = dies.changed() => break,
        };
        match accepted {
            Ok((socket, _)) => {
                let (shared, node) = (Rc::clone(&shared), Rc::clone(&node));
                let mut dies = dies.clone();
                let mut wire = Wire::new(socket, transport);
                tokio::task::spawn_local(async move {
                    let died = tokio::select! {
                        // Checked first: a dead node accepts no CONNECT.
                        biased;
                        _ = dies.changed() => true,
                        () = serve_client(&shared, &node, &mut wire) => false,
                    };
                    if died {
                        // On failure the connection is closed instead of reset.
                        let _ = SockRef::from(wire.socket()).set_linger(Some(Duration::ZERO));
                    }
                });
            }
            // The client has closed already, or no descriptor is left.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(listener);
    bind(address)
}

/// One connection, from its first byte to its last.
async fn serve_client(shared: &Shared, node: &Node, wire: &mut Wire) {
    let due = Instant::now() + CONNECT_MAX;
    if !matches!(timeout_at(due, wire.open()).await, Ok(Ok(()))) {
        return;
    }
    let wire = &*wire;
    let mut incoming = BytesMut::new();
    let connect = match first_packet(wire, &mut incoming, due).await {
        First::Connect(connect) => connect,
        First::UnknownLevel(level) => {
            let version = match level & 0x7F {
                0..=4 => Version::V311,
                _ => Version::V5,
            };
            let refused = ToClient::Refused(reason::UNSUPPORTED_VERSION);
            return send_last(wire, node, version, &refused).await;
        }
        First::Nothing => return,
    };
    let version = connect.version;
    let behaviour = node.behaviour.get();
    if behaviour != Behaviour::Serve {
        shared.broker.borrow_mut().note_turned_away(node.index);
    }
    match behaviour {
        Behaviour::Serve => {}
        Behaviour::Refuse(code) => {
            return send_last(wire, node, version, &ToClient::Refused(code)).await;
        }
        Behaviour::Stall => return stall(wire).await,
        Behaviour::Close => return,
    }
    let Connect {
        keep_alive,
        packet_bytes_max,
        ..
    } = *connect;
    let accepted = shared.broker.borrow_mut().connect(node.index, *connect, Instant::now());
    let id = match accepted {
        Ok(id) => id,
        Err(code) => return send_last(wire, node, version, &ToClient::Refused(code)).await,
    };
    let connected = Connected {
        shared,
        id,
        outgoing: Rc::new(Outgoing::new(version, packet_bytes_max, node)),
    };
    let outgoing = Rc::clone(&connected.outgoing);
    shared.outgoing.borrow_mut().insert(id, outgoing);
    shared.deliver();
    connected.run(wire, incoming, keep_alive).await;
}

enum First {
    Connect(Box<Connect>),
    /// A CONNECT with an unsupported protocol level.
    UnknownLevel(u8),
    /// No CONNECT arrived.
    Nothing,
}

async fn first_packet(wire: &Wire, incoming: &mut BytesMut, due: Instant) -> First {
    loop {
        match packet::read(incoming, None) {
            Ok(Some(FromClient::Connect(connect))) => return First::Connect(connect),
            Err(Unreadable::UnknownLevel(level)) => return First::UnknownLevel(level),
            Ok(Some(_)) | Err(_) => return First::Nothing,
            Ok(None) => {}
        }
        match timeout_at(due, wire.ready(Interest::READABLE)).await {
            Ok(Ok(_)) if wire.receive(incoming).is_ok() => {}
            _ => return First::Nothing,
        }
    }
}

/// Sends one packet to a client that has no session, and closes.
async fn send_last(wire: &Wire, node: &Node, version: Version, packet: &ToClient) {
    let outgoing = Outgoing::new(version, usize::MAX, node);
    outgoing.add(packet);
    if outgoing.send(wire).is_ok() {
        close(wire).await;
    }
}

/// Ends the stream, and reads for a moment longer: closing a socket with unread bytes sends a reset, which could
/// overtake the last packet.
async fn close(wire: &Wire) {
    if wire.finish().is_err() {
        return;
    }
    discard_until(wire, Instant::now() + CLOSE_MAX).await;
}

async fn stall(wire: &Wire) {
    discard_until(wire, Instant::now() + STALL_MAX).await;
}

/// Reads and discards until the client ends the stream.
async fn discard_until(wire: &Wire, due: Instant) {
    let mut incoming = BytesMut::new();
    while let Ok(Ok(_)) = timeout_at(due, wire.ready(Interest::READABLE)).await {
        if wire.discard(&mut incoming).is_err() {
            return;
        }
    }
}

/// A connection that the broker knows. Dropping it, for any reason, reports the end to the broker.
struct Connected<'a> {
    shared: &'a Shared,
    id: ConnectionId,
    outgoing: Rc<Outgoing>,
}

impl Connected<'_> {
    async fn run(&self, wire: &Wire, mut incoming: BytesMut, keep_alive: u16) {
        // One and a half times Keep Alive (MQTT 5, 3.1.2.10).
        let silence = Duration::from_millis(u64::from(keep_alive) * 1_500);
        let mut heard = Instant::now();
        let mut taken = heard;
        loop {
            let now = Instant::now();
            match self.outgoing.send(wire) {
                Ok(progress) => {
                    if progress || self.outgoing.is_empty() {
                        taken = now;
                    }
                }
                Err(_) => return,
            }
            let is_empty = self.outgoing.is_empty();
            if self.outgoing.ends.get() && is_empty {
                return close(wire).await;
            }
            let is_reading = !self.outgoing.is_full() && !self.outgoing.ends.get();
            let interest = match (is_reading, is_empty) {
                (true, true) => Interest::READABLE,
                (true, false) => Interest::READABLE | Interest::WRITABLE,
                (false, _) => Interest::WRITABLE,
            };
            if !is_reading {
                heard = now;
            }
            let silent_at = (keep_alive > 0 && is_reading).then(|| heard + silence);
            let stuck_at = (!is_empty).then(|| taken + WRITE_MAX);
            let due = [silent_at, stuck_at].into_iter().flatten().min();
            let ready = tokio::select! {
                ready = wire.ready(interest) => ready,
                () = self.outgoing.added.notified() => continue,
                () = sleep_until(due.unwrap_or(now)), if due.is_some() => {
                    if stuck_at.is_some_and(|at| Instant::now() >= at) {
                        return;
                    }
                    self.end(reason::KEEP_ALIVE_TIMEOUT);
                    continue;
                }
            };
            match ready {
                Ok(ready) if ready.is_readable() && is_reading => {}
                Ok(_) => continue,
                Err(_) => return,
            }
            if wire.receive(&mut incoming).is_err() {
                return;
            }
            heard = Instant::now();
            if !self.read(&mut incoming) {
                return close(wire).await;
            }
            if incoming.is_empty() {
                // An idle client has no buffer.
                incoming = BytesMut::new();
            }
        }
    }

    /// Gives the complete packets to the broker; returns whether the connection goes on.
    fn read(&self, incoming: &mut BytesMut) -> bool {
        let version = Some(self.outgoing.version);
        loop {
            match packet::read(incoming, version) {
                Ok(Some(packet)) => {
                    let leaves = matches!(packet, FromClient::Disconnect(_));
                    let mut broker = self.shared.broker.borrow_mut();
                    broker.packet(self.id, packet, Instant::now());
                    drop(broker);
                    self.shared.deliver();
                    if leaves {
                        return false;
                    }
                }
                Ok(None) => return true,
                Err(unreadable) => {
                    self.end(unreadable.reason());
                    return true;
                }
            }
        }
    }

    /// Ends the connection with this reason, behind the packets that wait for the client.
    fn end(&self, reason: u8) {
        self.outgoing.add(&ToClient::Disconnect(reason));
        self.lost();
    }

    /// Reports the end to the broker. Doing so twice does no harm.
    fn lost(&self) {
        let mut broker = self.shared.broker.borrow_mut();
        broker.lost(self.id, Instant::now());
        drop(broker);
        self.shared.deliver();
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.shared.outgoing.borrow_mut().remove(&self.id);
        self.lost();
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::runtime::{Builder, LocalOptions};

    use super::*;

    /// Runs a test against one node, on a paused clock, which advances only when all tasks are idle.
    fn with_node<F: Future<Output = ()>>(test: impl FnOnce(Rc<Shared>, Rc<Node>, SocketAddr) -> F) {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().start_paused(true);
        let runtime = runtime.build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let node = Rc::new(Node {
                index: 0,
                name: "node".to_owned(),
                behaviour: Cell::default(),
            });
            let shared = Rc::new(Shared::new(Broker::new(&["node".to_owned()])));
            let (_life, dies) = watch::channel(());
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            let listener = listen(socket).unwrap();
            let (ours, its) = (Rc::clone(&shared), Rc::clone(&node));
            tokio::task::spawn_local(serve(ours, its, listener, Transport::Tcp, dies));
            test(shared, node, address).await;
        });
    }

    const CONNECT: &[u8] = b"\x10\x0D\0\x04MQTT\x04\x02\0\0\0\x01x";
    const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

    async fn connect(address: SocketAddr, packet: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(packet).await.unwrap();
        let mut connack = [0; 4];
        client.read_exact(&mut connack).await.unwrap();
        assert_eq!(connack, CONNACK);
        client
    }

    #[test]
    fn a_client_that_finishes_no_connect_is_closed_at_the_deadline() {
        with_node(|_, _, address| async move {
            let began = Instant::now();
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&CONNECT[..9]).await.unwrap();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(began.elapsed().as_secs(), CONNECT_MAX.as_secs());
        });
    }

    #[test]
    fn a_stalled_client_receives_nothing_but_the_end() {
        with_node(|shared, node, address| async move {
            node.behaviour.set(Behaviour::Stall);
            let began = Instant::now();
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(CONNECT).await.unwrap();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            assert!(began.elapsed() >= STALL_MAX, "{:?}", began.elapsed());
            let counts = shared.broker.borrow().counts(0);
            assert_eq!((counts.turned_away, counts.connects), (1, 0));
        });
    }

    #[test]
    fn keep_alive_counts_from_the_clients_last_byte() {
        with_node(|_, _, address| async move {
            // Ten seconds, hence fifteen.
            let mut client = connect(address, b"\x10\x0D\0\x04MQTT\x04\x02\0\x0A\0\x01x").await;
            tokio::time::sleep(Duration::from_secs(14)).await;
            client.write_all(&[0xC0, 0]).await.unwrap();
            let mut pong = [0; 2];
            client.read_exact(&mut pong).await.unwrap();
            assert_eq!(pong, [0xD0, 0]);
            let pinged = Instant::now();
            assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(pinged.elapsed().as_secs(), 15);
        });
    }

    #[test]
    fn a_client_that_takes_nothing_costs_little_and_is_closed() {
        with_node(|shared, _, address| async move {
            let mut lazy = connect(address, CONNECT).await;
            lazy.write_all(b"\x82\x06\0\x01\0\x01a\0").await.unwrap();
            let mut suback = [0; 5];
            lazy.read_exact(&mut suback).await.unwrap();
            let packet = [&CONNECT[..14], b"y"].concat();
            let mut publisher = connect(address, &packet).await;
            let mut message = b"\x30\x83\x80\x10\0\x01a".to_vec();
            message.resize(message.len() + 256 * 1024, b'x');
            let mut bytes_max = 0;
            let dropped = || shared.broker.borrow().counts(0).messages_dropped;
            // Else the clock would jump whenever both sides wait for the kernel.
            tokio::time::resume();
            while dropped() < 100 {
                publisher.write_all(&message).await.unwrap();
                let outgoing = shared.outgoing.borrow();
                let waiting = outgoing.values().map(|out| out.bytes.borrow().len());
                bytes_max = bytes_max.max(waiting.sum());
            }
            assert_eq!(shared.broker.borrow().counts(0).connections, 2);
            tokio::time::pause();
            tokio::time::sleep(WRITE_MAX).await;
            assert_eq!(shared.broker.borrow().counts(0).connections, 1);
            assert!(bytes_max >= OUT_BYTES_MAX, "{bytes_max}");
            assert!(bytes_max <= OUT_BYTES_MAX + message.len(), "{bytes_max}");
            // The publisher is not affected.
            publisher.write_all(&[0xC0, 0]).await.unwrap();
            let mut pong = [0; 2];
            publisher.read_exact(&mut pong).await.unwrap();
        });
    }
}
