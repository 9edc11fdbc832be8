//! Problems that tables of several kinds may have: a key that is missing, a value that is there twice.

use std::collections::HashMap;
use std::hash::Hash;

use super::problem::{Place, Problem};
use super::reader::Field;

/// The value of a required key in the table at `table`; `example` begins with the key.
pub(super) fn required<T>(written: Field<T>, table: &Place, example: &str, problems: &mut Vec<Problem>) -> Option<T> {
    if let Field::Absent = written {
        let key = example.split(' ').next().unwrap_or_default();
        let place = table.below(key, table.span.clone());
        problems.push(place.problem("is missing").hint(format!("add {example}")));
    }
    written.value()
}

/// Notes every repeated value, with `message`.
pub(super) fn note_repeats<'a, T: Eq + Hash>(
    all: impl Iterator<Item = (T, &'a Place)>,
    message: impl Fn(&T) -> String,
    hint: &str,
    problems: &mut Vec<Problem>,
) {
    let mut seen: HashMap<T, &Place> = HashMap::new();
    for (value, place) in all {
        match seen.get(&value) {
            Some(first) => {
                let problem = place.problem(message(&value)).other(first, "first used here");
                problems.push(problem.hint(hint));
            }
            None => {
                seen.insert(value, place);
            }
        }
    }
}
