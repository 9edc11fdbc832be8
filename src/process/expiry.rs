//! Warns of lists of revoked certificates that have expired: their authority promised a newer one, so they may lack certificates
//! that are revoked by now.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::base::events::{Change, Events};
use crate::path::listeners::{ListenerEntry, Listeners};
use crate::path::record::ListenerId;

/// The code of the finding.
const CODE: &str = "revocation_list_expired";

/// How often the same list is warned of.
const WARN_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// What has been warned of.
#[derive(Debug, Default)]
pub(super) struct ExpiredLists {
    /// The expiry of the list and the time of the last warning, for each listener.
    warned: HashMap<ListenerId, (SystemTime, SystemTime)>,
}

impl ExpiredLists {
    /// Warns of each open listener with a list that has expired at `now`: at once, and then once an hour.
    pub(super) fn check(&mut self, listeners: &Listeners, events: &Events, now: SystemTime) {
        for listener in listeners.current().iter().filter(|listener| !listener.removed) {
            let expired = listener.revocations_expire().filter(|expires| *expires < now);
            match expired {
                None => {
                    if self.warned.remove(&listener.id).is_some() {
                        tell(events, listener, false);
                        let (event, code) = (Change::FINDING, CODE);
                        let listener = listener.name();
                        tracing::info!(event, code, listener, "client_crl: no list has expired any more");
                    }
                }
                Some(expired) => {
                    let is_new = !self.warned.contains_key(&listener.id);
                    if self.is_due(listener.id, expired, now) {
                        warn(listener, expired, is_new, now);
                    }
                    if is_new {
                        tell(events, listener, true);
                    }
                }
            }
        }
    }

    fn is_due(&mut self, id: ListenerId, expired: SystemTime, now: SystemTime) -> bool {
        // A clock that was set back warns no less.
        let is_recent = |at: SystemTime| now.duration_since(at).is_ok_and(|past| past < WARN_INTERVAL);
        let is_due = !matches!(self.warned.get(&id), Some((list, at)) if *list == expired && is_recent(*at));
        if is_due {
            self.warned.insert(id, (expired, now));
        }
        is_due
    }
}

fn tell(events: &Events, listener: &ListenerEntry, is_begun: bool) {
    events.push(Change::Finding {
        name: None,
        found: None,
        code: CODE.to_owned(),
        subject: listener.name().to_owned(),
        is_begun,
    });
}

fn warn(listener: &ListenerEntry, expired: SystemTime, is_new: bool, now: SystemTime) {
    let hours = now.duration_since(expired).unwrap_or_default().as_secs() / 3_600;
    tracing::warn!(
        event = is_new.then_some(Change::FINDING),
        code = CODE,
        listener = listener.name(),
        hours,
        "client_crl: a list of revoked certificates has expired"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_warned_of_at_once_then_hourly_and_a_newer_one_at_once() {
        let mut lists = ExpiredLists::default();
        let start = SystemTime::now();
        let (one, other) = (start - Duration::from_secs(9), start - Duration::from_secs(5));
        let mut is_due =
            |id, expired, seconds| lists.is_due(ListenerId(id), expired, start + Duration::from_secs(seconds));
        assert!(is_due(0, one, 0));
        assert!(!is_due(0, one, 1));
        assert!(is_due(1, one, 1), "of another listener");
        assert!(!is_due(0, one, 3_599));
        assert!(is_due(0, one, 3_600));
        assert!(is_due(0, other, 3_601));
        assert!(!is_due(0, other, 3_602));
    }
}
