//! Certificates, and lists of revoked ones, that have expired or soon will. None of them keeps the configuration from being used: a
//! process that starts again must serve its other listeners, as nginx and HAProxy do.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::problem::{Place, Problem};
use super::reader::quoted;
use crate::base::words::counted;

/// How long before its end a certificate is warned of: three weeks, in which the operator can renew it, as the first event
/// on it does.
const WARNED_BEFORE: Duration = Duration::from_secs(21 * DAY);
const DAY: u64 = 86_400;

/// The time in which a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    /// Its number in the chain, from 1.
    pub(super) number: usize,
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

/// A certificate's problem with the time, if it has one. `file` is what the key at `place` says; `refused_by` are those who check it.
pub(super) fn of_certificate(
    place: &Place,
    file: &str,
    validity: Validity,
    refused_by: &str,
    now: SystemTime,
) -> Option<Problem> {
    let Validity { number, from, until } = validity;
    let what = match number {
        1 => format!("the certificate in {}", quoted(file)),
        number => format!("certificate {number} of the chain in {}", quoted(file)),
    };
    if let Ok(left) = from.duration_since(now)
        && !left.is_zero()
    {
        let message = format!("{what} is not valid yet, but {} ({})", in_time(left), date(from));
        let hint = format!("check the clock of this machine: until then, {refused_by} refuse it");
        return Some(place.problem(message).hint(hint).fault());
    }
    let problem = match until.duration_since(now) {
        Ok(left) if left >= WARNED_BEFORE => return None,
        Ok(left) => {
            let message = format!("{what} expires {} ({})", in_time(left), date(until));
            place.problem(message).warning()
        }
        Err(past) => {
            let message = format!("{what} expired {} ({})", ago(past.duration()), date(until));
            place.problem(message).fault()
        }
    };
    let hint = format!("renew it, then reload: an expired one is loaded, and {refused_by} refuse it");
    Some(problem.hint(hint))
}

/// The problem of lists of revoked certificates that have expired, if they have.
pub(super) fn of_lists(
    place: &Place,
    file: &str,
    expires: SystemTime,
    must_be_current: bool,
    now: SystemTime,
) -> Option<Problem> {
    let past = now.duration_since(expires).ok().filter(|past| !past.is_zero())?;
    let message = format!(
        "a list of revoked certificates in {} expired {} ({})",
        quoted(file),
        ago(past),
        date(expires)
    );
    let problem = place.problem(message);
    Some(match must_be_current {
        true => problem
            .hint("get a new one from its authority, then reload: client_crl_expired = \"refuse\" refuses all clients of that authority")
            .fault(),
        false => problem
            .hint("get a new one from its authority, then reload: certificates that were revoked since then are accepted")
            .warning(),
    })
}

fn in_time(left: Duration) -> String {
    match left.as_secs() / DAY {
        0 => "within a day".to_owned(),
        days => format!("in {}", counted(days, "day")),
    }
}

fn ago(past: Duration) -> String {
    match past.as_secs() / DAY {
        0 => "less than a day ago".to_owned(),
        days => format!("{} ago", counted(days, "day")),
    }
}

/// The day in UTC, as in `2026-11-30`. By the algorithm for civil dates in eras of 400 years, whose years begin in March.
fn date(time: SystemTime) -> String {
    const DAYS_OF_ERA: i64 = 146_097;
    /// From 1 March of the year 0 to 1 January 1970.
    const TO_1970: i64 = 719_468;
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
    };
    let days = seconds.div_euclid(DAY as i64) + TO_1970;
    let (era, day) = (days.div_euclid(DAYS_OF_ERA), days.rem_euclid(DAYS_OF_ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::super::problem::Severity;
    use super::*;

    fn place() -> Place {
        Place {
            path: "chain".to_owned(),
            span: 0..0,
        }
    }

    #[test]
    fn a_certificate_is_a_fault_once_it_has_expired_and_warned_of_three_weeks_before() {
        let now = UNIX_EPOCH + Duration::from_secs(1_796_000_000);
        let day = Duration::from_secs(DAY);
        let check_all = |number, from: SystemTime, until: SystemTime| {
            let validity = Validity { number, from, until };
            let problem = of_certificate(&place(), "tls.pem", validity, "clients", now);
            problem.map(|problem| (problem.severity, problem.message))
        };
        let check = |until| check_all(1, now - 500 * day, until);
        assert_eq!(check_all(1, now, now + 90 * day), None);
        let early = "the certificate in \"tls.pem\" is not valid yet, but in 2 days (2026-12-02)";
        assert_eq!(
            check_all(1, now + 2 * day, now + 90 * day),
            Some((Severity::Fault, early.to_owned()))
        );
        let of_chain = "certificate 2 of the chain in \"tls.pem\" expired 1 day ago (2026-11-29)";
        assert_eq!(
            check_all(2, now - 9 * day, now - day),
            Some((Severity::Fault, of_chain.to_owned()))
        );
        assert_eq!(check(now + 21 * day), None);
        let warned = |when: &str| {
            let message = format!("the certificate in \"tls.pem\" expires {when}");
            Some((Severity::Warning, message))
        };
        assert_eq!(
            check(now + 21 * day - Duration::from_secs(1)),
            warned("in 20 days (2026-12-21)")
        );
        assert_eq!(check(now), warned("within a day (2026-11-30)"));
        let fault = |when: &str| {
            let message = format!("the certificate in \"tls.pem\" expired {when}");
            Some((Severity::Fault, message))
        };
        assert_eq!(
            check(now - Duration::from_secs(1)),
            fault("less than a day ago (2026-11-30)")
        );
        assert_eq!(check(now - 400 * day), fault("400 days ago (2025-10-26)"));
    }

    #[test]
    fn an_expired_list_is_as_bad_as_what_it_does_to_clients() {
        let now = UNIX_EPOCH + Duration::from_secs(1_796_000_000);
        let check = |expires, must_be_current| {
            let problem = of_lists(&place(), "crl.pem", expires, must_be_current, now);
            problem.map(|problem| problem.severity)
        };
        assert_eq!(check(now, true), None);
        assert_eq!(check(now - Duration::from_secs(1), false), Some(Severity::Warning));
        assert_eq!(check(now - Duration::from_secs(1), true), Some(Severity::Fault));
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (20_786, "2026-11-29"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(date(UNIX_EPOCH + Duration::from_secs(days * DAY)), expected);
        }
        assert_eq!(date(UNIX_EPOCH - Duration::from_secs(1)), "1969-12-31");
    }
}
