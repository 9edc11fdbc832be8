//! A configuration as it was read: its text, and where in it each key is. For what is found only later: an address that is in use, a
//! certificate that has expired.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, Problems};
use super::reader::shown_key;

/// The text of a configuration, and the places of its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
    /// The bytes of each value, by its path: `listeners[0].address`.
    values: BTreeMap<String, Range<usize>>,
}

impl Source {
    /// The text of the file `name`. One that is not TOML has no values.
    pub(super) fn new(name: &str, text: &str) -> Self {
        let mut values = BTreeMap::new();
        if let Ok(tree) = DeTable::parse(text) {
            collect(tree.get_ref(), "", &mut values);
        }
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            values,
        }
    }

    /// The text of a configuration that no file has.
    pub fn of(name: &str, text: &str) -> Self {
        Self::new(name, text)
    }

    /// The name of the file, as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line of the value at `path`, from 1; `None` if the file does not have it.
    pub fn line(&self, path: &str) -> Option<usize> {
        let span = self.values.get(path)?;
        Some(self.text.get(..span.start)?.matches('\n').count() + 1)
    }

    /// A problem with the value at `path`, or with the file as a whole if it does not have it.
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        match self.values.get(path) {
            Some(span) => Place {
                path: path.to_owned(),
                span: span.clone(),
            }
            .problem(message),
            None => Problem {
                path: path.to_owned(),
                ..Problem::of_file(message)
            },
        }
    }

    /// These problems, to be shown with the lines of this text. There must be one.
    pub fn problems(&self, problems: Vec<Problem>) -> Problems {
        Problems::new(&self.name, &self.text, problems)
    }
}

fn collect(table: &DeTable<'_>, path: &str, values: &mut BTreeMap<String, Range<usize>>) {
    for (key, value) in table.iter() {
        let key = shown_key(key.get_ref());
        let path = match path {
            "" => key,
            path => format!("{path}.{key}"),
        };
        collect_value(value.get_ref(), &path, values);
        values.insert(path, value.span());
    }
}

fn collect_value(value: &DeValue<'_>, path: &str, values: &mut BTreeMap<String, Range<usize>>) {
    match value {
        DeValue::Table(table) => collect(table, path, values),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                collect_value(item.get_ref(), &path, values);
                values.insert(path, item.span());
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_its_line_and_an_absent_one_none() {
        let text = "workers = 2\n[[listeners]]\naddress = '0.0.0.0:1'\nallow = [\n  '10.0.0.1',\n  '10.0.0.2',\n]\n";
        let source = Source::new("remora.toml", text);
        for (path, line) in [
            ("workers", Some(1)),
            ("listeners[0]", Some(2)),
            ("listeners[0].address", Some(3)),
            ("listeners[0].allow[1]", Some(6)),
            ("listeners[0].name", None),
            ("listeners[1].address", None),
        ] {
            assert_eq!(source.line(path), line, "{path}");
        }
        let problems = source.problems(vec![source.problem("listeners[0].address", "is wrong")]);
        assert!(problems.to_string().contains("--> remora.toml:3:11"), "{problems}");
        let absent = source.problems(vec![source.problem("admin.address", "is wrong")]);
        assert!(
            absent.to_string().starts_with("error: admin.address: is wrong\n"),
            "{absent}"
        );
    }
}
