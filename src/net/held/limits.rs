//! What there may be of connections that are being set up, and how much of it one source may have.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// The least share of the bytes that a source has: enough for the largest connection with TLS whose CONNECT can be legal, and for
/// some others beside it.
const SHARE_BYTES_MIN: usize = 1024 * 1024;

/// What there may be of set-ups, over all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes held for connections that no node has accepted yet.
    pub bytes_max: usize,
    /// Connections whose CONNECT has not been read yet.
    pub undecided_max: usize,
    /// Connections in a TLS handshake.
    pub handshakes_max: usize,
    /// The share of each of these, in percent, that one source may have when another one needs it. A source is an IPv4 address, or
    /// the /64 network of an IPv6 address.
    pub source_share: u8,
    /// How long a connection is not evicted for another one of its own source, or where no source has more than its share, if only
    /// the number of connections is limited. Within that time it may still be waiting for us, and in a storm the oldest are
    /// those that are nearly done.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes_max: 256 * 1024 * 1024,
            undecided_max: 10_000,
            handshakes_max: 5_000,
            source_share: 25,
            grace: Duration::from_millis(2_500),
        }
    }
}

impl Limits {
    /// So many bytes, and the defaults for everything else.
    pub fn of_bytes(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            ..Self::default()
        }
    }

    /// What one source may have of each room when another one needs it.
    pub(super) fn shares(&self) -> Sums {
        ROOMS.map(|room| self.share(room))
    }

    fn share(&self, room: Room) -> usize {
        let (max, least) = match room {
            Room::Bytes => (self.bytes_max, SHARE_BYTES_MIN),
            Room::Undecided => (self.undecided_max, 1),
            Room::Handshakes => (self.handshakes_max, 1),
        };
        (max / 100 * usize::from(self.source_share) + max % 100 * usize::from(self.source_share) / 100).max(least)
    }
}

/// What there can be too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Bytes.
    Bytes,
    /// Places for those whose CONNECT is awaited.
    Undecided,
    /// Places for TLS handshakes.
    Handshakes,
}

/// All of them.
pub(super) const ROOMS: [Room; 3] = [Room::Bytes, Room::Undecided, Room::Handshakes];

/// So much of each room.
pub(super) type Sums = [usize; ROOMS.len()];

/// What counts as one source.
pub fn source_of(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let of = |text: &str| source_of(text.parse().expect("an address"));
        assert_ne!(of("127.0.0.1"), of("127.0.0.2"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }

    #[test]
    fn a_share_is_enough_for_one() {
        let limits = Limits {
            bytes_max: 64 << 20,
            undecided_max: 3,
            handshakes_max: 450,
            ..Limits::default()
        };
        assert_eq!(ROOMS.map(|room| limits.share(room)), [16 << 20, 1, 112]);
        let least = Limits::of_bytes(1 << 20);
        assert_eq!(least.share(Room::Bytes), 1 << 20);
        let all = Limits {
            bytes_max: usize::MAX,
            source_share: 100,
            ..limits
        };
        assert_eq!(ROOMS.map(|room| all.share(room)), [usize::MAX, 3, 450]);
    }
}
