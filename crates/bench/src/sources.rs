//! The source addresses of clients: the system's choice, a list, or whole networks.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;

/// Clients per source address, when the bench chooses the addresses: far fewer than a system has ports, even while
/// those of earlier clients are in TIME_WAIT.
const CLIENTS_PER_SOURCE: u32 = 10_000;

/// The source addresses, which clients use in turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources(Vec<Source>);

#[derive(Clone, Copy, Debug)]
enum Source {
    One(IpAddr),
    /// Each host of the network.
    Network(Ipv4Net),
}

impl Source {
    fn count(self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Network(network) => 1 << (32 - network.prefix_len()),
        }
    }

    fn at(self, index: u64) -> IpAddr {
        match self {
            Self::One(address) => address,
            Self::Network(network) => {
                let first = u32::from(network.network());
                Ipv4Addr::from(first | index as u32).into()
            }
        }
    }
}

impl Sources {
    /// Reads `address,address,network/prefix`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let source = |text: &str| match (text.parse::<IpAddr>(), text.parse::<Ipv4Net>()) {
            (Ok(address), _) => Ok(Source::One(address)),
            (_, Ok(network)) => Ok(Source::Network(network)),
            _ => Err(format!("{text:?} is neither an address nor an IPv4 network")),
        };
        let sources = text.split(',').map(|part| source(part.trim()));
        Ok(Self(sources.collect::<Result<_, _>>()?))
    }

    /// The default: the system's choice; on the loopback interface, as many addresses as the clients need for their
    /// ports.
    pub(super) fn for_clients(target: SocketAddr, clients: u32) -> Self {
        let needed = clients.div_ceil(CLIENTS_PER_SOURCE);
        if needed <= 1 || !target.ip().is_loopback() || target.is_ipv6() {
            return Self::default();
        }
        let address = |number: u32| Source::One(Ipv4Addr::from(0x7F00_0100 + number).into());
        Self((1..=needed.min(60_000)).map(address).collect())
    }

    /// Whether every address is of the same family as the target.
    pub(super) fn fit(&self, target: SocketAddr) -> bool {
        let families = self.0.iter().map(|source| source.at(0).is_ipv6());
        families.into_iter().all(|ipv6| ipv6 == target.is_ipv6())
    }

    /// The source address of a client; `None` leaves it to the system.
    pub(super) fn of(&self, client: u32) -> Option<IpAddr> {
        let count: u64 = self.0.iter().map(|source| source.count()).sum();
        let mut index = u64::from(client).checked_rem(count)?;
        for source in &self.0 {
            if index < source.count() {
                return Some(source.at(index));
            }
            index -= source.count();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_over_addresses_and_networks() {
        let sources = Sources::parse("127.0.0.9, 127.1.2.0/30").unwrap();
        let of = |client| sources.of(client).unwrap().to_string();
        assert_eq!(
            [of(0), of(1), of(4), of(5)],
            ["127.0.0.9", "127.1.2.0", "127.1.2.3", "127.0.0.9"]
        );
        assert!(Sources::parse("127.0.0.300").is_err());
        assert!(Sources::parse("").is_err());
    }

    #[test]
    fn many_clients_on_the_loopback_have_ports_enough() {
        let target = "127.0.0.1:1883".parse().unwrap();
        assert_eq!(Sources::for_clients(target, 10_000).of(3), None);
        let sources = Sources::for_clients(target, 100_000);
        let mut used = std::collections::BTreeMap::new();
        for client in 0..100_000 {
            *used.entry(sources.of(client).unwrap()).or_insert(0) += 1;
        }
        assert_eq!(used.len(), 10);
        assert!(used.values().all(|&clients| clients <= CLIENTS_PER_SOURCE));
        let far = "192.0.2.1:1883".parse().unwrap();
        assert_eq!(Sources::for_clients(far, 100_000).of(0), None);
    }
}
