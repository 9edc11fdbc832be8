//! Admission: counts the connections of the whole process over all workers, and enforces the limits on them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::time::Instant;

use crate::base::clock;
use crate::base::rate_table::{Allowed, RateTable};
use crate::base::sync::{AtomicUsize, Ordering};
use crate::net::held::source_of;
use crate::path::ended::Ended;

/// How many connections there may be at once. A limit below the present number refuses only new ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// In total; `None` means as many as the open-file limit allows.
    pub connections_max: Option<usize>,
    /// Per source: an IPv4 address, or the /64 network of an IPv6 address, which one host has to itself.
    pub connections_per_source_max: Option<usize>,
    /// Connections that a source may make in a second, after as many at once; `None` means no limit.
    pub connects_per_source_per_second: Option<u32>,
}

/// Connections of one listener, counted over all workers.
#[derive(Debug, Default)]
pub struct ListenerCount(AtomicUsize);

impl ListenerCount {
    /// Connections now.
    pub fn connections(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections of the whole process.
#[derive(Debug, Default)]
pub struct Admission {
    connections: AtomicUsize,
    /// Connections per source. Counted also without a limit, so that a limit set by a reload applies to existing
    /// connections. The map's guards do not leave this file.
    sources: DashMap<IpAddr, usize>,
    /// How often sources connect, while that is limited.
    connects: RateTable,
}

impl Admission {
    /// Connections now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts one more connection in total and on its listener. Its source is counted once it is known:
    /// [`Admitted::enter_source`].
    ///
    /// # Errors
    /// [`Ended::LimitTotal`] or [`Ended::LimitListener`].
    pub fn enter(
        self: &Arc<Self>,
        listener_count: &Arc<ListenerCount>,
        listener_max: Option<usize>,
        limits: &Limits,
    ) -> Result<Admitted, Ended> {
        // Counted first, and uncounted on drop if a limit is exceeded, so that two connections cannot both take the
        // last place.
        let full = |count: &AtomicUsize, max: Option<usize>| {
            let before = count.fetch_add(1, Ordering::Relaxed);
            max.is_some_and(|max| before >= max)
        };
        let total = full(&self.connections, limits.connections_max);
        let listener = full(&listener_count.0, listener_max);
        let admitted = Admitted {
            admission: Arc::clone(self),
            listener_count: Arc::clone(listener_count),
            source: None,
            kept: false,
        };
        if total {
            return Err(Ended::LimitTotal);
        }
        if listener {
            return Err(Ended::LimitListener);
        }
        Ok(admitted)
    }

    /// Counts that the source of `client`, its true address, has connected `now`.
    ///
    /// # Errors
    /// [`Ended::LimitSourceRate`].
    pub fn check_rate(&self, client: IpAddr, limits: &Limits, now: Instant) -> Result<(), Ended> {
        let Some(times) = limits.connects_per_source_per_second else {
            return Ok(());
        };
        let allowed = Allowed {
            times,
            within: Duration::from_secs(1),
            early_max: Duration::ZERO,
        };
        let early = self.connects.come(source_of(client), allowed, clock::since_start(now));
        match early.is_zero() {
            true => Ok(()),
            false => Err(Ended::LimitSourceRate),
        }
    }

    fn take_off(&self, listener_count: &ListenerCount, source: Option<IpAddr>) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
        listener_count.0.fetch_sub(1, Ordering::Relaxed);
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

/// One counted connection; uncounted on drop.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    listener_count: Arc<ListenerCount>,
    /// The client's address; `None` while it is unknown, or if its source is at its limit.
    source: Option<IpAddr>,
    kept: bool,
}

impl Admitted {
    /// Counts the connection on the source of `client`, its true address, unless the source is at its limit.
    ///
    /// # Errors
    /// [`Ended::LimitSource`].
    pub fn enter_source(&mut self, client: IpAddr, limits: &Limits) -> Result<(), Ended> {
        debug_assert_eq!(self.source, None, "a connection has one source");
        let max = limits.connections_per_source_max.unwrap_or(usize::MAX);
        if !self.admission.enter_source(source_of(client), max) {
            return Err(Ended::LimitSource);
        }
        self.source = Some(client);
        Ok(())
    }

    /// Counts a connection that another process has admitted, whatever the limits are.
    pub(crate) fn beyond_limits(
        admission: &Arc<Admission>,
        listener_count: &Arc<ListenerCount>,
        client: IpAddr,
    ) -> Self {
        admission.connections.fetch_add(1, Ordering::Relaxed);
        listener_count.0.fetch_add(1, Ordering::Relaxed);
        admission.enter_source(source_of(client), usize::MAX);
        Self::kept(admission, listener_count, client)
    }

    /// Leaves the connection counted, until the guard that [`Admitted::kept`] makes of it is dropped.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// The guard of a connection that [`Admitted::keep`] left counted.
    pub fn kept(admission: &Arc<Admission>, listener_count: &Arc<ListenerCount>, client: IpAddr) -> Self {
        Self {
            admission: Arc::clone(admission),
            listener_count: Arc::clone(listener_count),
            source: Some(client),
            kept: false,
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if !self.kept {
            self.admission.take_off(&self.listener_count, self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    struct Process {
        admission: Arc<Admission>,
        listener_count: Arc<ListenerCount>,
        limits: Limits,
        listener_max: Option<usize>,
    }

    impl Process {
        fn new() -> Self {
            Self {
                admission: Arc::default(),
                listener_count: Arc::default(),
                limits: Limits::default(),
                listener_max: None,
            }
        }

        fn enter(&self, client: IpAddr) -> Result<Admitted, Ended> {
            let entered = self
                .admission
                .enter(&self.listener_count, self.listener_max, &self.limits);
            let mut admitted = entered?;
            admitted.enter_source(client, &self.limits)?;
            Ok(admitted)
        }

        fn is_empty(&self) -> bool {
            self.admission.connections() == 0
                && self.listener_count.connections() == 0
                && self.admission.sources.is_empty()
        }
    }

    #[test]
    fn each_limit_takes_nobody_until_one_leaves() {
        type Case = (fn(&mut Process), Ended);
        let cases: [Case; 3] = [
            (|process| process.limits.connections_max = Some(1), Ended::LimitTotal),
            (|process| process.listener_max = Some(1), Ended::LimitListener),
            (
                |process| process.limits.connections_per_source_max = Some(1),
                Ended::LimitSource,
            ),
        ];
        for (limit, cause) in cases {
            let mut process = Process::new();
            limit(&mut process);
            let first = process.enter(CLIENT).expect("room");
            assert_eq!(process.enter(CLIENT).err(), Some(cause));
            drop(first);
            process.enter(CLIENT).expect("room again").keep();
            drop(Admitted::kept(&process.admission, &process.listener_count, CLIENT));
            assert!(process.is_empty(), "{cause:?}");
        }
    }

    #[test]
    fn what_another_process_has_admitted_is_counted_beyond_every_limit() {
        let mut process = Process::new();
        process.listener_max = Some(1);
        process.limits.connections_max = Some(1);
        process.limits.connections_per_source_max = Some(1);
        let adopt = || Admitted::beyond_limits(&process.admission, &process.listener_count, CLIENT);
        let adopted = [adopt(), adopt(), adopt()];
        assert_eq!(process.admission.connections(), 3);
        assert_eq!(process.enter(CLIENT).err(), Some(Ended::LimitTotal));
        adopted.into_iter().for_each(Admitted::keep);
        for _ in 0..3 {
            drop(Admitted::kept(&process.admission, &process.listener_count, CLIENT));
        }
        assert!(process.is_empty());
    }

    #[test]
    fn a_limit_for_each_source_that_comes_later_knows_who_is_there() {
        let mut process = Process::new();
        let _first = process.enter(CLIENT).expect("no limit");
        process.limits.connections_per_source_max = Some(1);
        assert_eq!(process.enter(CLIENT).err(), Some(Ended::LimitSource));
    }

    #[test]
    fn a_source_may_connect_as_often_as_its_rate_allows_and_others_as_well() {
        let mut process = Process::new();
        process.limits.connects_per_source_per_second = Some(20);
        let start = Instant::now() + Duration::from_secs(1_000);
        let other = IpAddr::from([127, 0, 0, 2]);
        let mut taken = [0; 2];
        for ms in 0..3_000 {
            let now = start + Duration::from_millis(ms);
            for (client, taken) in [CLIENT, other].into_iter().zip(&mut taken) {
                let is_taken = process.admission.check_rate(client, &process.limits, now).is_ok();
                *taken += usize::from(is_taken);
            }
        }
        // Twenty at once, and twenty in each of three seconds.
        assert!(taken.iter().all(|taken| (79..=81).contains(taken)), "{taken:?}");
    }

    #[test]
    fn a_connection_that_ends_before_its_source_is_known_leaves_no_trace() {
        let process = Process::new();
        let entered = process.admission.enter(&process.listener_count, None, &process.limits);
        drop(entered.expect("room"));
        assert!(process.is_empty());
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        let mut process = Process::new();
        process.limits.connections_per_source_max = Some(1);
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let _held = [
            process.enter(address("127.0.0.1")).expect("room"),
            process.enter(address("127.0.0.2")).expect("another source"),
            process.enter(address("2001:db8::1")).expect("room"),
            process.enter(address("2001:db8:0:1::1")).expect("another"),
        ];
        assert!(process.enter(address("2001:db8::2")).is_err());
    }
}
