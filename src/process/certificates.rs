//! Tells of certificates that expire soon: those that listeners present to clients, and the one that is presented to nodes.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::base::events::{Change, Events};
use crate::base::log::{self, List};
use crate::net::tls::{Certificate, NodesTls};
use crate::path::listeners::Listeners;

const DAY: Duration = Duration::from_secs(86_400);

/// The days before its end at which a certificate is warned of.
const WARNED_AT: [u32; 3] = [21, 7, 1];

/// A certificate that is in use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateStatus {
    /// The listener that presents it; `None` for the one that is presented to nodes.
    pub listener: Option<String>,
    /// The host names that it is for.
    pub names: Vec<String>,
    /// When it expires.
    pub expires: SystemTime,
}

impl CertificateStatus {
    fn new(listener: Option<&str>, certificate: &Certificate) -> Self {
        Self {
            listener: listener.map(str::to_owned),
            names: certificate.names().to_vec(),
            expires: certificate.expires(),
        }
    }
}

/// All certificates in use: of each open listener in turn, then the one that is presented to nodes.
pub(super) fn in_use(listeners: &Listeners, nodes: &NodesTls) -> Vec<CertificateStatus> {
    let listeners = listeners.current();
    let open = listeners.iter().filter(|listener| !listener.removed);
    let of_listeners = open.flat_map(|listener| {
        let certificates = listener.certificates().iter();
        certificates.map(|certificate| CertificateStatus::new(Some(listener.name()), certificate))
    });
    let mut all: Vec<_> = of_listeners.collect();
    all.extend(
        nodes
            .certificate()
            .map(|certificate| CertificateStatus::new(None, &certificate)),
    );
    all
}

/// How far a certificate is: how many of [`WARNED_AT`] have passed, and one more once it has expired.
fn stage(expires: SystemTime, now: SystemTime) -> usize {
    match expires.duration_since(now) {
        Ok(left) => WARNED_AT.iter().filter(|days| left <= DAY * **days).count(),
        Err(_) => WARNED_AT.len() + 1,
    }
}

/// What has been told of.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// The stage of each certificate in use.
    told: HashMap<CertificateStatus, usize>,
}

impl Certificates {
    /// Tells of each certificate that has come to another stage at `now`. One that is new, at the start or by a reload, is told of
    /// at once if it is at any; one that a reload has kept is not told of again.
    pub(super) fn check(&mut self, in_use: Vec<CertificateStatus>, events: &Events, now: SystemTime) {
        for change in self.changes(in_use, now) {
            write_line(&change);
            events.push(change);
        }
    }

    fn changes(&mut self, in_use: Vec<CertificateStatus>, now: SystemTime) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut told = HashMap::new();
        for certificate in in_use {
            let stage = stage(certificate.expires, now);
            // A clock that was set back does not make it forget.
            let before = self.told.get(&certificate).copied().unwrap_or(0);
            // Two certificates with the same names and the same end are told of once.
            if stage > before && !told.contains_key(&certificate) {
                changes.push(change(&certificate, now));
            }
            told.insert(certificate, stage.max(before));
        }
        self.told = told;
        changes
    }
}

fn change(certificate: &CertificateStatus, now: SystemTime) -> Change {
    let CertificateStatus {
        listener,
        names,
        expires,
    } = certificate.clone();
    let shown = log::timestamp(expires);
    match expires.duration_since(now) {
        Ok(left) => Change::CertificateExpiring {
            listener,
            names,
            expires: shown,
            days: left.as_secs() / DAY.as_secs(),
        },
        Err(_) => Change::CertificateExpired {
            listener,
            names,
            expires: shown,
        },
    }
}

fn write_line(change: &Change) {
    match change {
        Change::CertificateExpiring {
            listener,
            names,
            expires,
            days,
        } => tracing::warn!(
            event = Change::CERTIFICATE_EXPIRING,
            listener = listener.as_deref(),
            names = List::of(names).value(),
            expires,
            days,
            "certificate expires soon: renew it, then reload"
        ),
        Change::CertificateExpired {
            listener,
            names,
            expires,
        } => tracing::error!(
            event = Change::CERTIFICATE_EXPIRED,
            listener = listener.as_deref(),
            names = List::of(names).value(),
            expires,
            "certificate has expired: renew it, then reload"
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(listener: Option<&str>, name: &str, expires: SystemTime) -> CertificateStatus {
        CertificateStatus {
            listener: listener.map(str::to_owned),
            names: vec![name.to_owned()],
            expires,
        }
    }

    /// What was told: the days that are left, `None` for one that has expired.
    fn days(changes: &[Change]) -> Vec<Option<u64>> {
        let days = changes.iter().map(|change| match change {
            Change::CertificateExpiring { days, .. } => Some(*days),
            Change::CertificateExpired { .. } => None,
            other => panic!("{other:?}"),
        });
        days.collect()
    }

    #[test]
    fn a_certificate_is_told_of_at_21_7_and_1_days_and_at_its_end_once_each() {
        let start = SystemTime::UNIX_EPOCH + DAY * 20_000;
        let end = start + DAY * 30;
        let mut certificates = Certificates::default();
        let mut told = Vec::new();
        // Every hour of 40 days.
        for hour in 0..40 * 24_u32 {
            let now = start + DAY / 24 * hour;
            let in_use = vec![certificate(Some("tls"), "a.example", end)];
            let changes = certificates.changes(in_use, now);
            told.extend(days(&changes).into_iter().map(|days| (hour / 24, days)));
        }
        assert_eq!(told, [(9, Some(21)), (23, Some(7)), (29, Some(1)), (30, None)]);
    }

    #[test]
    fn after_a_restart_it_is_told_of_once_and_a_reload_tells_only_of_what_is_new() {
        let now = SystemTime::UNIX_EPOCH + DAY * 20_000;
        let old = || certificate(Some("tls"), "a.example", now + DAY * 5);
        let mut certificates = Certificates::default();
        assert_eq!(days(&certificates.changes(vec![old()], now)), [Some(5)]);
        assert_eq!(days(&certificates.changes(vec![old()], now + DAY)), []);
        // A reload adds one that is near its end, for nodes.
        let nodes = || certificate(None, "a.example", now + DAY * 5);
        let later = now + DAY;
        assert_eq!(days(&certificates.changes(vec![old(), nodes()], later)), [Some(4)]);
        // The clock is set back, and on again.
        assert_eq!(days(&certificates.changes(vec![old(), nodes()], now - DAY * 60)), []);
        assert_eq!(days(&certificates.changes(vec![old(), nodes()], later)), []);
        // It is renewed.
        let new = || certificate(Some("tls"), "a.example", now + DAY * 90);
        assert_eq!(days(&certificates.changes(vec![new()], later)), []);
        assert_eq!(days(&certificates.changes(vec![new()], now + DAY * 69)), [Some(21)]);
        // Two of one name and end, of different keys.
        let mut certificates = Certificates::default();
        assert_eq!(days(&certificates.changes(vec![old(), old()], now)), [Some(5)]);
    }
}
