//! What the parts of the importer share.

use crate::import::draft::Draft;
use crate::import::environment;
use crate::import::haproxy::syntax::Line;
use crate::import::report::Report;
use crate::import::text::{Place, printable};
use crate::import::units::haproxy_time;

/// The result so far, and the report.
#[derive(Default)]
pub(super) struct Context {
    pub(super) draft: Draft,
    pub(super) report: Report,
}

impl Context {
    /// Reports a value that cannot be read.
    pub(super) fn unreadable(&mut self, place: Place, written: &str, wanted: &str) {
        let has_variable = environment::is_in(written);
        let message = match (written, has_variable) {
            ("", _) => format!("{wanted} is missing"),
            (_, true) => format!(
                "{} has a variable of the environment, and is to be {wanted}",
                printable(written)
            ),
            (_, false) => format!("{} is not {wanted}", printable(written)),
        };
        let advice = if has_variable {
            environment::ADVICE
        } else {
            "write the value itself"
        };
        self.report.lost(place, message, advice);
    }

    /// Sets a duration from a word of a line; a bare number is in `bare` milliseconds.
    /// Returns whether there is one.
    pub(super) fn time(
        &mut self,
        table: &'static str,
        key: &'static str,
        line: &Line,
        index: usize,
        bare: u64,
    ) -> bool {
        self.time_of(table, key, line.word(index), line.place(), bare)
    }

    /// Sets a duration that is written at this place.
    pub(super) fn time_of(
        &mut self,
        table: &'static str,
        key: &'static str,
        text: &str,
        place: Place,
        bare: u64,
    ) -> bool {
        match haproxy_time(text, bare) {
            Some(ms) => self.draft.set_time(table, key, ms, place, &mut self.report),
            None => {
                self.unreadable(place, text, "a duration");
                false
            }
        }
    }
}
