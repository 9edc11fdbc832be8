//! What the kernel knows of a connection: the proof that the balancer has read what was sent (sock_diag(7)).

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use crate::wait::uninterrupted;

use socket2::{Domain, Protocol, Socket, Type};

/// The queues of one connection, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queues {
    /// Received, and not read by the socket's owner yet.
    pub unread: u32,
    /// Written by the owner, and not acknowledged by the peer's kernel yet.
    pub unacknowledged: u32,
}

/// The queues of the socket at `local` that is connected to `peer`; none where there is no such socket.
pub(crate) fn queues(local: SocketAddr, peer: SocketAddr) -> Option<Queues> {
    /// `struct inet_diag_msg`: four bytes, a socket's identity of 48, the expiry, then both queues.
    const QUEUES_AT: usize = 4 + 48 + 4;
    let (message_type, body) = ask(local, peer);
    let number = |at: usize| {
        let field = body[at..at + 4].try_into().expect("four bytes");
        u32::from_ne_bytes(field)
    };
    (message_type == SOCK_DIAG_BY_FAMILY).then(|| Queues {
        unread: number(QUEUES_AT),
        unacknowledged: number(QUEUES_AT + 4),
    })
}

/// The keepalive timer of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probing {
    /// Probes sent that were not answered.
    pub unanswered: u8,
    /// Until the next one.
    pub next: Duration,
}

/// How the socket at `local` probes `peer`; none where there is no such socket, or where it does not.
pub(crate) fn probing(local: SocketAddr, peer: SocketAddr) -> Option<Probing> {
    /// Behind the family and the state, `struct inet_diag_msg` has the kind of the timer that runs and its count; behind a
    /// socket's identity, when it expires.
    const TIMER_AT: usize = 2;
    const KEEPALIVE: u8 = 2;
    const EXPIRES_AT: usize = 4 + 48;
    let (message_type, body) = ask(local, peer);
    let expires = body.get(EXPIRES_AT..EXPIRES_AT + 4)?;
    (message_type == SOCK_DIAG_BY_FAMILY && body[TIMER_AT] == KEEPALIVE).then(|| Probing {
        unanswered: body[TIMER_AT + 1],
        next: Duration::from_millis(u32::from_ne_bytes(expires.try_into().expect("four bytes")).into()),
    })
}

/// How many ports of this machine are in TIME_WAIT after connections to `peer`, which were closed from here first.
pub(crate) fn time_waits(peer: SocketAddr) -> usize {
    const TIME_WAIT: &str = "06";
    let SocketAddr::V4(peer) = peer else {
        panic!("the tests speak IPv4");
    };
    let address = u32::from_ne_bytes(peer.ip().octets());
    let peer = format!("{address:08X}:{:04X}", peer.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let is_one = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next() == Some(&peer) && fields.next() == Some(TIME_WAIT)
    };
    table.lines().filter(is_one).count()
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// Type and body of the kernel's answer.
fn ask(local: SocketAddr, peer: SocketAddr) -> (u16, Vec<u8>) {
    const AF_NETLINK: i32 = 16;
    const SOCK_RAW: i32 = 3;
    const NETLINK_SOCK_DIAG: i32 = 4;
    const AF_INET: u8 = 2;
    const IPPROTO_TCP: u8 = 6;
    const NLM_F_REQUEST: u16 = 1;
    const HEADER_BYTES: usize = 16;

    // `struct inet_diag_req_v2`: any state, and the one connection that is asked for.
    let mut body = vec![AF_INET, IPPROTO_TCP, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(peer.port().to_be_bytes());
    for address in [local, peer] {
        let SocketAddr::V4(address) = address else {
            panic!("the tests speak IPv4");
        };
        body.extend(address.ip().octets());
        body.extend([0; 12]);
    }
    body.extend(0u32.to_ne_bytes());
    body.extend([0xFF; 8]);
    let mut request = Vec::new();
    request.extend(((HEADER_BYTES + body.len()) as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);

    let mut socket = Socket::new(
        Domain::from(AF_NETLINK),
        Type::from(SOCK_RAW),
        Some(Protocol::from(NETLINK_SOCK_DIAG)),
    )
    .expect("a netlink socket");
    socket.write_all(&request).expect("the kernel listens");
    let mut answer = vec![0; 4096];
    let read = uninterrupted(|| socket.read(&mut answer)).expect("the kernel answers");
    answer.truncate(read);
    let message_type = u16::from_ne_bytes([answer[4], answer[5]]);
    (message_type, answer.split_off(HEADER_BYTES))
}
