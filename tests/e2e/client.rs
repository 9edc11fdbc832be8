//! A client: a raw socket that sends packets in the segments that the test wants.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use crate::kernel;
use crate::node::{self, End};
use crate::packets::{self, Connect};
use crate::wait::{self, DEADLINE, uninterrupted};

/// A connection to the balancer.
#[derive(Debug)]
pub(crate) struct Client {
    pub stream: TcpStream,
    local: SocketAddr,
    balancer: SocketAddr,
}

impl Client {
    pub(crate) fn to(balancer: SocketAddr) -> Self {
        // Not bound: a bound port could not be used again for a minute, and thousands of clients come and go.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        Self::connected(socket, balancer)
    }

    /// A client that comes from this address of 127.0.0.0/8.
    pub(crate) fn from(source: IpAddr, balancer: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket
            .bind(&SocketAddr::new(source, 0).into())
            .expect("a source address");
        Self::connected(socket, balancer)
    }

    fn connected(socket: Socket, balancer: SocketAddr) -> Self {
        socket.connect(&balancer.into()).expect("a balancer");
        Self::of(socket.into())
    }

    /// A client with this connection.
    pub(crate) fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(DEADLINE)).expect("an option");
        stream.set_write_timeout(Some(DEADLINE)).expect("an option");
        Self {
            local: stream.local_addr().expect("an address"),
            balancer: stream.peer_addr().expect("a balancer"),
            stream,
        }
    }

    /// A client whose CONNECT was accepted.
    #[track_caller]
    pub(crate) fn accepted(balancer: SocketAddr, connect: &Connect) -> Self {
        let mut client = Self::to(balancer);
        client.send(&connect.bytes());
        client.expect(&packets::connack(connect.level, 0));
        client
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.local
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("a balancer that reads");
    }

    /// Sends `bytes` and waits until the balancer has read them, so that what comes next is a segment of its own.
    #[track_caller]
    pub(crate) fn send_alone(&mut self, bytes: &[u8]) {
        self.send(bytes);
        self.sent_all();
        wait::until("the balancer reads", || {
            kernel::queues(self.balancer, self.local).is_none_or(|queues| queues.unread == 0)
        });
    }

    /// Sends `bytes` as [`Client::send_alone`] does, to a balancer that may close meanwhile; whether it took them.
    pub(crate) fn offers(&mut self, bytes: &[u8]) -> bool {
        if self.stream.write_all(bytes).is_err() {
            return false;
        }
        wait::until("the balancer reads or closes", || {
            kernel::queues(self.balancer, self.local).is_none_or(|queues| queues.unread == 0)
        });
        true
    }

    /// Sends `bytes` cut at these places, each part once the balancer has read the one before.
    #[track_caller]
    pub(crate) fn send_cut(&mut self, bytes: &[u8], cuts: &[usize]) {
        let mut start = 0;
        for cut in cuts {
            self.send_alone(&bytes[start..*cut]);
            start = *cut;
        }
        self.send(&bytes[start..]);
    }

    #[track_caller]
    pub(crate) fn read(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let mut read = 0;
        while read < count {
            match uninterrupted(|| self.stream.read(&mut bytes[read..])) {
                Ok(more) if more > 0 => read += more,
                ended => panic!("{ended:?} after {:02x?}", &bytes[..read]),
            }
        }
        bytes
    }

    /// Reads up to the first of these bytes, and no further.
    #[track_caller]
    pub(crate) fn read_until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end) {
            bytes.extend(self.read(1));
        }
        bytes
    }

    /// Reads exactly these bytes.
    #[track_caller]
    pub(crate) fn expect(&mut self, bytes: &[u8]) {
        let read = self.read(bytes.len());
        assert!(read == bytes, "other bytes than those expected");
    }

    /// Waits for the end, before which nothing may come.
    #[track_caller]
    pub(crate) fn end(&mut self) -> End {
        let mut byte = [0];
        match uninterrupted(|| self.stream.read(&mut byte)) {
            Ok(1) => panic!("a byte before the end: {byte:02x?}"),
            ended => End::of(ended),
        }
    }

    /// Reads to the end: what came, and how it ended.
    pub(crate) fn rest(&mut self) -> (Vec<u8>, End) {
        let mut all = Vec::new();
        let mut buffer = [0; 64 * 1024];
        loop {
            match uninterrupted(|| self.stream.read(&mut buffer)) {
                Ok(read) if read > 0 => all.extend_from_slice(&buffer[..read]),
                ended => return (all, End::of(ended)),
            }
        }
    }

    /// Waits until the balancer's kernel has all that was sent.
    #[track_caller]
    pub(crate) fn sent_all(&self) {
        wait::until("all is acknowledged", || {
            kernel::queues(self.local, self.balancer).is_none_or(|queues| queues.unacknowledged == 0)
        });
    }

    /// Sends a FIN, and reads on.
    pub(crate) fn fin(&self) {
        self.stream.shutdown(Shutdown::Write).expect("a connection");
    }

    /// Resets: what was sent and not acknowledged is thrown away.
    pub(crate) fn reset(&self) {
        node::reset(&self.stream);
    }
}
