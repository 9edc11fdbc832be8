//! Connections of the whole process, counted over all workers, and the limits on them.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::ended::Ended;
use crate::sync::{AtomicUsize, Ordering};

/// How many connections there may be at once. A limit below the present number refuses only new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all; none means as many as the limit of open files allows.
    pub connections_max: Option<usize>,
    /// From one source: an IPv4 address, or the /64 network of an IPv6 address, which one host has to itself.
    pub connections_per_source_max: Option<usize>,
    /// Whose CONNECT has not been read yet.
    pub undecided_max: usize,
    /// In a TLS handshake.
    pub handshakes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: None,
            connections_per_source_max: None,
            undecided_max: 10_000,
            handshakes_max: 5_000,
        }
    }
}

/// Connections of one listener, counted over all workers.
#[derive(Debug, Default)]
pub struct Population(AtomicUsize);

impl Population {
    /// Connections now.
    pub fn connections(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections of the whole process.
#[derive(Debug, Default)]
pub struct Census {
    connections: AtomicUsize,
    undecided: AtomicUsize,
    /// Filled also while there is no limit, so that one that comes with a reload knows who is there. None of the map's
    /// guards leaves this file.
    sources: DashMap<IpAddr, usize>,
}

impl Census {
    /// Connections now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections now whose CONNECT has not been read yet.
    pub fn undecided(&self) -> usize {
        self.undecided.load(Ordering::Relaxed)
    }

    /// Counts one more connection on the listener with this population, or says which limit it meets. Its source is counted
    /// once it is known: [`Admitted::enter_source`].
    ///
    /// # Errors
    /// [`Ended::LimitTotal`], [`Ended::LimitListener`] or [`Ended::LimitUndecided`].
    pub fn enter(
        self: &Arc<Self>,
        population: &Arc<Population>,
        listener_max: Option<usize>,
        limits: &Limits,
    ) -> Result<(Admitted, Undecided), Ended> {
        // Counted first and given back by drop when a limit is met, so that two at the same moment cannot both be last.
        let full = |count: &AtomicUsize, max: Option<usize>| {
            let before = count.fetch_add(1, Ordering::Relaxed);
            max.is_some_and(|max| before >= max)
        };
        let total = full(&self.connections, limits.connections_max);
        let listener = full(&population.0, listener_max);
        let undecided = full(&self.undecided, Some(limits.undecided_max));
        let admitted = Admitted {
            census: Arc::clone(self),
            population: Arc::clone(population),
            source: None,
            kept: false,
        };
        let decision = Undecided(Arc::clone(self));
        if total {
            return Err(Ended::LimitTotal);
        }
        if listener {
            return Err(Ended::LimitListener);
        }
        if undecided {
            return Err(Ended::LimitUndecided);
        }
        Ok((admitted, decision))
    }

    /// Takes off what [`Admitted::keep`] left counted.
    pub fn leave(&self, population: &Population, client: IpAddr) {
        self.take_off(population, Some(client));
    }

    fn take_off(&self, population: &Population, source: Option<IpAddr>) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        population.0.fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = source {
            self.leave_source(source_of(client));
        }
    }

    fn enter_source(&self, source: IpAddr, max: usize) -> bool {
        let mut connections = self.sources.entry(source).or_insert(0);
        let enters = *connections < max;
        *connections += usize::from(enters);
        enters
    }

    fn leave_source(&self, source: IpAddr) {
        if let Entry::Occupied(mut connections) = self.sources.entry(source) {
            *connections.get_mut() -= 1;
            if *connections.get() == 0 {
                connections.remove();
            }
        }
    }
}

/// One connection counted, for as long as this is held.
#[derive(Debug)]
pub struct Admitted {
    census: Arc<Census>,
    population: Arc<Population>,
    /// The client's address; none while it is not known, or where its source had no room for it.
    source: Option<IpAddr>,
    kept: bool,
}

impl Admitted {
    /// Counts the connection on the source of `client`, its true address, or says that there is no room.
    ///
    /// # Errors
    /// [`Ended::LimitSource`].
    pub fn enter_source(&mut self, client: IpAddr, limits: &Limits) -> Result<(), Ended> {
        debug_assert_eq!(self.source, None, "a connection has one source");
        let max = limits.connections_per_source_max.unwrap_or(usize::MAX);
        if !self.census.enter_source(source_of(client), max) {
            return Err(Ended::LimitSource);
        }
        self.source = Some(client);
        Ok(())
    }

    /// Leaves the connection counted: whoever keeps the relay takes it off again with [`Census::leave`].
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if !self.kept {
            self.census.take_off(&self.population, self.source);
        }
    }
}

/// One connection whose CONNECT is awaited, for as long as this is held.
#[derive(Debug)]
pub struct Undecided(Arc<Census>);

impl Drop for Undecided {
    fn drop(&mut self) {
        self.0.undecided.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What counts as one source.
fn source_of(client: IpAddr) -> IpAddr {
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

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    struct House {
        census: Arc<Census>,
        population: Arc<Population>,
        limits: Limits,
        listener_max: Option<usize>,
    }

    impl House {
        fn new() -> Self {
            Self {
                census: Arc::default(),
                population: Arc::default(),
                limits: Limits::default(),
                listener_max: None,
            }
        }

        fn enter(&self, client: IpAddr) -> Result<(Admitted, Undecided), Ended> {
            let entered = self
                .census
                .enter(&self.population, self.listener_max, &self.limits);
            let (mut admitted, undecided) = entered?;
            admitted.enter_source(client, &self.limits)?;
            Ok((admitted, undecided))
        }

        fn is_empty(&self) -> bool {
            self.census.connections() == 0
                && self.census.undecided() == 0
                && self.population.connections() == 0
                && self.census.sources.is_empty()
        }
    }

    #[test]
    fn each_limit_takes_nobody_until_one_leaves() {
        type Case = (fn(&mut House), Ended);
        let cases: [Case; 4] = [
            (
                |house| house.limits.connections_max = Some(1),
                Ended::LimitTotal,
            ),
            (|house| house.listener_max = Some(1), Ended::LimitListener),
            (
                |house| house.limits.connections_per_source_max = Some(1),
                Ended::LimitSource,
            ),
            (
                |house| house.limits.undecided_max = 1,
                Ended::LimitUndecided,
            ),
        ];
        for (limit, cause) in cases {
            let mut house = House::new();
            limit(&mut house);
            let first = house.enter(CLIENT).expect("room");
            assert_eq!(house.enter(CLIENT).err(), Some(cause));
            drop(first);
            let (admitted, undecided) = house.enter(CLIENT).expect("room again");
            drop(undecided);
            admitted.keep();
            house.census.leave(&house.population, CLIENT);
            assert!(house.is_empty(), "{cause:?}");
        }
    }

    #[test]
    fn a_limit_for_each_source_that_comes_later_knows_who_is_there() {
        let mut house = House::new();
        let _first = house.enter(CLIENT).expect("no limit");
        house.limits.connections_per_source_max = Some(1);
        assert_eq!(house.enter(CLIENT).err(), Some(Ended::LimitSource));
    }

    #[test]
    fn a_connection_that_ends_before_its_source_is_known_leaves_no_trace() {
        let house = House::new();
        let entered = house.census.enter(&house.population, None, &house.limits);
        drop(entered.expect("room"));
        assert!(house.is_empty());
    }

    #[test]
    fn a_decided_client_makes_room_for_an_undecided_one() {
        let mut house = House::new();
        house.limits.undecided_max = 1;
        let (_first, undecided) = house.enter(CLIENT).expect("room");
        drop(undecided);
        assert!(house.enter(CLIENT).is_ok());
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let mut house = House::new();
        house.limits.connections_per_source_max = Some(1);
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let _held = [
            house.enter(address("127.0.0.1")).expect("room"),
            house.enter(address("127.0.0.2")).expect("another source"),
            house.enter(address("2001:db8::1")).expect("room"),
            house.enter(address("2001:db8:0:1::1")).expect("another"),
        ];
        assert!(house.enter(address("2001:db8::2")).is_err());
    }
}
