//! Problems that tables of several kinds may have: a key that is missing, a value that is there twice.

use std::collections::HashMap;
use std::hash::Hash;

use super::problem::{Place, Problem};
use super::reader::{Field, Spanned};

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

/// The tables of a list that needs at least one; empty if they could not be read.
pub(super) fn at_least_one<T>(
    written: Field<Vec<Spanned<T>>>,
    key: &str,
    example: &str,
    problems: &mut Vec<Problem>,
) -> Vec<Spanned<T>> {
    let hint = format!("add [[{key}]] with {example}");
    match written {
        Field::Absent => {
            let problem = Problem::of_file(format!("{key}: at least one is required"));
            problems.push(problem.hint(hint));
            Vec::new()
        }
        Field::Invalid => Vec::new(),
        Field::Set(Spanned { value, place }) => {
            if value.is_empty() {
                problems.push(place.problem("at least one is required").hint(hint));
            }
            value
        }
    }
}

/// The values of one key in the tables of a list, with their places.
pub(super) fn given<'a, T, V: 'a>(
    tables: &'a [Spanned<T>],
    key: impl Fn(&'a T) -> &'a Field<V>,
) -> impl Iterator<Item = (&'a V, &'a Place)> {
    tables
        .iter()
        .filter_map(move |table| key(&table.value).as_set())
        .map(|given| (&given.value, &given.place))
}
