//! The listeners, and the certificates.

use std::time::SystemTime;

use super::answers::{Certificate, Certificates, Listener, Listeners};
use super::call::{Call, Refusal, Reply};
use crate::base::log;
use crate::process::handle::Handle;

pub(super) async fn list(call: Call) -> Result<Reply, Refusal> {
    Reply::json(&Listeners {
        listeners: listeners(&call.handle),
    })
}

pub(super) fn listeners(handle: &Handle) -> Vec<Listener> {
    let listeners = handle.listeners().into_iter().map(|status| Listener {
        listener: status.name,
        address: status.address.to_string(),
        kind: status.kind.name().to_owned(),
        connections: status.connections,
        accepted: status.accepted,
        is_removed: status.removed,
    });
    listeners.collect()
}

pub(super) async fn certificates(call: Call) -> Result<Reply, Refusal> {
    let now = SystemTime::now();
    let certificates = call.handle.certificates().into_iter().map(|status| Certificate {
        listener: status.listener,
        names: status.names,
        expires: log::timestamp(status.expires),
        days: days(status.expires, now),
    });
    Reply::json(&Certificates {
        certificates: certificates.collect(),
    })
}

/// Whole days from `now` until then, rounded down.
fn days(then: SystemTime, now: SystemTime) -> i64 {
    const DAY: i64 = 86_400;
    let seconds = match then.duration_since(now) {
        Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        // A moment ago is a day ago already: no certificate that has expired has 0 days left.
        Err(past) => -1 - i64::try_from(past.duration().as_secs()).unwrap_or(i64::MAX - 1),
    };
    seconds.div_euclid(DAY)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_what_has_expired_has_less_than_no_days_left() {
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        assert_eq!(days(now + day * 2, now), 2);
        assert_eq!(days(now + day * 2 - Duration::from_secs(1), now), 1);
        assert_eq!(days(now, now), 0);
        assert_eq!(days(now - Duration::from_millis(1), now), -1);
        assert_eq!(days(now - day * 2, now), -3);
    }
}
