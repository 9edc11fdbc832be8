//! The last examination of a balancer that runs: kept for operators and metrics, and compared with the one before.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::report::{Finding, Report};

/// An examination that is over.
#[derive(Clone, Debug)]
pub struct Examination {
    /// When it ended.
    pub at: SystemTime,
    /// What it found.
    pub report: Report,
}

/// The last examination, if there was one.
#[derive(Debug, Default)]
pub struct LastExamination(Mutex<Option<Arc<Examination>>>);

/// What is found now and was not before, and the other way round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Findings that are new.
    pub appeared: Vec<Finding>,
    /// Findings that are there no more.
    pub gone: Vec<Finding>,
}

impl LastExamination {
    /// The last one.
    pub fn get(&self) -> Option<Arc<Examination>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the last one. Returns how the new one differs from it: by code and what a finding is about, not by its words, which have
    /// numbers that change each time.
    pub fn replace(&self, new: Arc<Examination>) -> Difference {
        let old = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(Arc::clone(&new));
        let of_old = old.as_ref().map_or(&[][..], |old| &old.report.findings);
        let of_new = &new.report.findings[..];
        Difference {
            appeared: without(of_new, of_old),
            gone: without(of_old, of_new),
        }
    }
}

/// The findings of `these` that are not among `those`.
fn without(these: &[Finding], those: &[Finding]) -> Vec<Finding> {
    let key = |finding: &Finding| (finding.code.clone(), finding.subjects.clone());
    let those: BTreeSet<_> = those.iter().map(key).collect();
    let is_other = |finding: &&Finding| !those.contains(&key(finding));
    these.iter().filter(is_other).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::{self, Certainty, Code};

    fn examination(findings: &[(Code, &str, &str)]) -> Arc<Examination> {
        let mut report = Report::default();
        for (code, node, found) in findings {
            let finding = finding::Finding {
                code: *code,
                subjects: vec![(*node).to_owned()],
                looked_at: String::new(),
                found: (*found).to_owned(),
                certainty: Certainty::Certain,
            };
            report.found("routes", finding);
        }
        let at = SystemTime::UNIX_EPOCH;
        Arc::new(Examination { at, report })
    }

    #[test]
    fn only_what_changes_is_told() {
        let last = LastExamination::default();
        let appeared = |difference: &Difference| difference.appeared.len();
        let lossy = (Code::MessagesLost, "a", "10 %");
        let first = last.replace(examination(&[lossy]));
        assert_eq!((appeared(&first), first.gone.len()), (1, 0));
        let other_words = last.replace(examination(&[(Code::MessagesLost, "a", "20 %")]));
        assert_eq!(other_words, Difference::default());
        let moved = last.replace(examination(&[(Code::MessagesLost, "b", "20 %")]));
        assert_eq!((appeared(&moved), moved.gone.len()), (1, 1));
        let healed = last.replace(examination(&[]));
        assert_eq!(
            (appeared(&healed), &*healed.gone[0].subjects),
            (0, &["b".to_owned()][..])
        );
        assert!(last.get().expect("the last").report.findings.is_empty());
    }
}
