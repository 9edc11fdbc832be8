//! What ties a client to a node: the affinity key, out of its CONNECT, its address or its certificate.
//!
//! Used by both the path and `remora route`, so that they hash the same bytes.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use crate::cluster;
use crate::mqtt::{Connect, Need};
use crate::path::record::PlacementKey;

/// What ties a client to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Key {
    /// The client id of the CONNECT.
    #[default]
    ClientId,
    /// The user name; clients without one are routed by client id.
    Username,
    /// The client's IP address.
    ClientAddress,
    /// The common name of the client's certificate; without one the client id.
    CertificateCn,
}

impl Key {
    /// How much of a CONNECT must be read for it.
    pub fn need(self) -> Need {
        match self {
            Self::ClientId | Self::ClientAddress | Self::CertificateCn => Need::ClientId,
            Self::Username => Need::Username,
        }
    }
}

/// Which node a client belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What ties a client to a node.
    pub key: Key,
    /// Seed of the ring; the same in every balancer of a site. Changing it moves every client once.
    pub seed: u64,
    /// The most that a node has of its share of all connections, in percent; `None` means no bound.
    pub load_max: Option<u32>,
    /// The most placements remembered.
    pub placements_max: usize,
    /// A placement of a disconnected client is forgotten after this long, even if its session lives longer.
    pub placement_age_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            key: Key::default(),
            seed: cluster::SEED_DEFAULT,
            load_max: None,
            placements_max: 100_000,
            placement_age_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// A client's affinity key: the bytes that the ring hashes. Empty for an anonymous client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity<'a>(Cow<'a, [u8]>);

impl<'a> Affinity<'a> {
    /// The affinity of a client whose CONNECT was read from `bytes`, with its address and the common name of its certificate.
    pub(crate) fn of_client(
        key: Key,
        connect: &Connect,
        bytes: &'a [u8],
        address: IpAddr,
        common_name: Option<&'a str>,
    ) -> Self {
        let name = match key {
            Key::ClientAddress => return Self::of_address(address),
            Key::ClientId => None,
            Key::Username => connect.username(bytes),
            Key::CertificateCn => common_name.map(str::as_bytes),
        };
        let name = name.filter(|name| !name.is_empty());
        Self::of_name(name.unwrap_or_else(|| connect.client_id(bytes)))
    }

    /// The affinity of a client id, a user name or a common name.
    pub fn of_name(name: &'a [u8]) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// The affinity of an address.
    pub fn of_address(address: IpAddr) -> Self {
        Self(Cow::Owned(match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        }))
    }

    /// The affinity key.
    pub fn key(&self) -> &[u8] {
        &self.0
    }

    /// Whether nothing ties the client to a node.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of the client's placement; `PlacementKey::NONE` for an anonymous client.
    pub fn placement(&self) -> PlacementKey {
        PlacementKey::of(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Verdict, read_connect};

    /// A CONNECT of MQTT 3.1.1 with this client id and user name.
    fn connect(client_id: &str, username: Option<&str>) -> (Connect, Vec<u8>) {
        let mut bytes = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x02, 0, 60];
        for text in [Some(client_id), username].into_iter().flatten() {
            bytes.extend((text.len() as u16).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes[9] |= u8::from(username.is_some()) << 7;
        bytes[1] = bytes.len() as u8 - 2;
        match read_connect(&bytes, Need::Username) {
            Verdict::Complete(connect) => (connect, bytes),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_client_without_the_configured_name_is_tied_by_its_client_id() {
        let address = IpAddr::from([10, 0, 0, 7]);
        let cases = [
            (Key::ClientId, Some("user"), Some("cn"), &b"id"[..]),
            (Key::Username, Some("user"), Some("cn"), b"user"),
            (Key::Username, Some(""), Some("cn"), b"id"),
            (Key::Username, None, Some("cn"), b"id"),
            (Key::CertificateCn, Some("user"), Some("cn"), b"cn"),
            (Key::CertificateCn, Some("user"), Some(""), b"id"),
            (Key::CertificateCn, Some("user"), None, b"id"),
            (Key::ClientAddress, Some("user"), Some("cn"), &[10, 0, 0, 7]),
        ];
        for (key, username, common_name, expected) in cases {
            let (connect, bytes) = connect("id", username);
            let affinity = Affinity::of_client(key, &connect, &bytes, address, common_name);
            assert_eq!(affinity.key(), expected, "{key:?} {username:?} {common_name:?}");
        }
    }

    #[test]
    fn an_anonymous_client_has_no_placement() {
        let (connect, bytes) = connect("", None);
        let affinity = Affinity::of_client(Key::Username, &connect, &bytes, [10, 0, 0, 7].into(), None);
        assert!(affinity.is_anonymous());
        assert_eq!(affinity.placement().hash(), None);
    }

    #[test]
    fn an_address_ties_by_its_octets() {
        assert_eq!(Affinity::of_address([10, 0, 0, 7].into()).key(), [10, 0, 0, 7]);
        let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        assert_eq!(Affinity::of_address(v6).key().len(), 16);
    }
}
