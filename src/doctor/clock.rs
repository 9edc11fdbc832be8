//! Whether the certificate or a clock is wrong when a certificate is outside its validity period. No I/O: the clocks are passed in.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::finding::{Certainty, Code};
use crate::net::tls::{CertificateFault, TimeLimit};

/// Clocks that are not further apart than this agree: an answer is some time on its way, and has no fractions of a second.
const AGREE: i64 = 60;

/// By how many seconds the clock of a node is ahead of this machine's; less than 0 if it is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ahead(i64);

impl Ahead {
    /// The clock of a node said `there` when that of this machine said `here`.
    pub fn new(there: SystemTime, here: SystemTime) -> Self {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Self(match there.duration_since(here) {
            Ok(ahead) => seconds(ahead),
            Err(behind) => -seconds(behind.duration()),
        })
    }
}

/// Nodes whose clocks are known, by name.
pub type Clocks = BTreeMap<String, Ahead>;

/// What it means, and in words, that a certificate is out of its time by the clock of this machine; `None` if nothing more is known than that,
/// or if something else is wrong with it.
pub fn judge(fault: CertificateFault, ahead: Option<Ahead>) -> Option<(Code, Certainty, String)> {
    let Ahead(ahead) = ahead?;
    let (code, certainty, is_valid_there) = match fault {
        CertificateFault::Expired(limit) => {
            let is_valid = limit.map(|TimeLimit { now, limit }| now.saturating_add_signed(ahead) <= limit);
            (Code::CertificateExpired, Certainty::Certain, is_valid)
        }
        CertificateFault::NotValidYet(limit) => {
            let is_valid = limit.map(|TimeLimit { now, limit }| now.saturating_add_signed(ahead) >= limit);
            (Code::ClockSkew, Certainty::Likely, is_valid)
        }
        CertificateFault::Name | CertificateFault::Untrusted => return None,
    };
    if ahead.abs() <= AGREE {
        let words = "; the clock of the node's API agrees with this machine's".to_owned();
        return Some((code, certainty, words));
    }
    let apart = humantime::format_duration(Duration::from_secs(ahead.unsigned_abs()));
    let side = if ahead > 0 { "ahead of" } else { "behind" };
    let apart = format!("; the clock of the node's API is {apart} {side} this machine's");
    Some(match is_valid_there {
        Some(true) => (
            Code::ClockSkew,
            Certainty::Certain,
            format!("{apart}, and by that clock the certificate is valid"),
        ),
        Some(false) => (
            code,
            certainty,
            format!("{apart}, and by that clock the certificate is not valid either"),
        ),
        None => (Code::ClockSkew, Certainty::Likely, apart),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn judged(fault: CertificateFault, ahead: i64) -> (Code, Certainty, String) {
        judge(fault, Some(Ahead(ahead))).expect("a verdict")
    }

    #[test]
    fn the_clock_is_to_blame_only_if_the_certificate_is_valid_by_the_other_one() {
        let (days, now) = (|days: i64| days * DAY as i64, 100 * DAY);
        let expired = |limit| CertificateFault::Expired(Some(TimeLimit { now, limit }));
        let early = |limit| CertificateFault::NotValidYet(Some(TimeLimit { now, limit }));
        let skew = (Code::ClockSkew, Certainty::Certain);
        for (fault, ahead, expected) in [
            (expired(99 * DAY), 0, (Code::CertificateExpired, Certainty::Certain)),
            (expired(99 * DAY), days(-2), skew),
            (
                expired(98 * DAY - 1),
                days(-2),
                (Code::CertificateExpired, Certainty::Certain),
            ),
            (
                expired(99 * DAY),
                days(3),
                (Code::CertificateExpired, Certainty::Certain),
            ),
            (early(101 * DAY), 30, (Code::ClockSkew, Certainty::Likely)),
            (early(101 * DAY), days(1), skew),
            (early(101 * DAY), days(-5), (Code::ClockSkew, Certainty::Likely)),
            (
                CertificateFault::Expired(None),
                days(-2),
                (Code::ClockSkew, Certainty::Likely),
            ),
        ] {
            let (code, certainty, words) = judged(fault, ahead);
            assert_eq!((code, certainty), expected, "{fault:?}, {ahead} s ahead: {words}");
        }
        assert_eq!(judge(expired(99 * DAY), None), None);
        assert_eq!(judge(CertificateFault::Name, Some(Ahead(days(9)))), None);
        let words = judged(expired(99 * DAY), days(-2)).2;
        assert_eq!(
            words,
            "; the clock of the node's API is 2days behind this machine's, and by that clock the certificate is valid"
        );
    }

    #[test]
    fn a_difference_has_a_sign() {
        let epoch = SystemTime::UNIX_EPOCH;
        let later = epoch + Duration::from_secs(90);
        assert_eq!(
            (Ahead::new(later, epoch), Ahead::new(epoch, later)),
            (Ahead(90), Ahead(-90))
        );
    }
}
