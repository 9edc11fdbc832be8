//! The doctor's last examination, as a message between two processes: what it found is not found anew by the next one.

use std::time::{Duration, UNIX_EPOCH};

use crate::doctor::examination::Examination;
use crate::doctor::report::Report;
use crate::handover::messages::{Examined, milliseconds};

/// A report that is longer is not sent: a message has its bounds, and the next examination says the same.
const REPORT_BYTES_MAX: usize = 1 << 20;

/// As a message, unless it is too long.
pub(super) fn message(examination: &Examination) -> Option<Examined> {
    let report = serde_json::to_string(&examination.report).ok()?;
    let at = examination.at.duration_since(UNIX_EPOCH).ok()?;
    (report.len() <= REPORT_BYTES_MAX).then(|| Examined {
        at_ms: milliseconds(at),
        report,
    })
}

/// What a message says; `None` if that is a report of another version.
pub(super) fn read(examined: &Examined) -> Option<Examination> {
    let report: Report = serde_json::from_str(&examined.report).ok()?;
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(examined.at_ms))?;
    Some(Examination { at, report })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::{Certainty, Code, Finding};

    #[test]
    fn an_examination_is_the_same_behind_a_message_and_one_that_is_too_long_is_left_out() {
        let mut report = Report::default();
        let mut find = |found: String| {
            let finding = Finding {
                code: Code::PastTheBalancer,
                subjects: vec!["emqx1".to_owned()],
                looked_at: "clients".to_owned(),
                found,
                certainty: Certainty::Likely,
            };
            report.found("clients", finding);
            Examination {
                at: UNIX_EPOCH + Duration::from_millis(1_234_567),
                report: report.clone(),
            }
        };
        let examination = find("one too many".to_owned());
        let message = message(&examination).expect("it is short");
        let behind = read(&message).expect("a report");
        assert_eq!((behind.at, behind.report), (examination.at, examination.report));
        assert!(super::message(&find("x".repeat(REPORT_BYTES_MAX))).is_none());
        let of_another_version = Examined {
            report: "{\"findings\": 7}".to_owned(),
            ..message
        };
        assert!(read(&of_another_version).is_none());
    }
}
