//! A configuration as it was read: its texts, and where in them each key is. For what is found only later: an address that is in use, a
//! certificate that has expired.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::merge::{self, Merged};
use super::problem::{Place, Problem, Problems, path_below};
use super::reader::shown_key;
use super::texts::Texts;

/// The texts of a configuration, and the places of its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    texts: Texts,
    /// The bytes of each value, by its path: `listeners[0].address`.
    values: BTreeMap<String, Range<usize>>,
    /// What strings name, by the positions of these strings.
    references: BTreeMap<usize, Vec<String>>,
}

impl Source {
    pub(super) fn new(texts: &Texts, Merged { tree, references }: &Merged<'_>) -> Self {
        let mut values = BTreeMap::new();
        collect(tree, "", &mut values);
        Self {
            texts: texts.clone(),
            values,
            references: references.clone(),
        }
    }

    /// The text of a configuration that no file has. One that is not TOML has no values.
    pub fn of(name: &str, text: &str) -> Self {
        let texts = Texts::new(name, text, Path::new(""));
        let tree = merge::parse(text).unwrap_or_default();
        let references = BTreeMap::new();
        Self::new(&texts, &Merged { tree, references })
    }

    /// The name of the file, as it was given.
    pub fn name(&self) -> &str {
        &self.texts.main().name
    }

    /// Where the value at `path` is, and what it is made of: `line 3`, or `conf.d/nodes.toml:3, from ${HOST}`; `None` if no file has it.
    pub fn origin(&self, path: &str) -> Option<String> {
        let span = self.values.get(path)?;
        let at = self.texts.position(span.start)?;
        let main = self.texts.main();
        let place = match Path::new(at.file).strip_prefix(&main.folder) {
            _ if self.texts.of(span.start).start == main.start => format!("line {}", at.line),
            Ok(file) => format!("{}:{}", file.display(), at.line),
            Err(_) => format!("{}:{}", at.file, at.line),
        };
        let references = self.references.range(span.clone());
        let references: Vec<&str> = references.flat_map(|(_, all)| all).map(|one| &**one).collect();
        Some(match &references[..] {
            [] => place,
            references => format!("{place}, from {}", references.join(" and ")),
        })
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

    /// These problems, to be shown with the lines of these texts. There must be one.
    pub fn problems(&self, problems: Vec<Problem>) -> Problems {
        Problems::new(self.texts.clone(), problems)
    }
}

fn collect(table: &DeTable<'_>, path: &str, values: &mut BTreeMap<String, Range<usize>>) {
    for (key, value) in table.iter() {
        let path = path_below(path, &shown_key(key.get_ref()));
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
        let source = Source::of("remora.toml", text);
        for (path, origin) in [
            ("workers", Some("line 1")),
            ("listeners[0]", Some("line 2")),
            ("listeners[0].address", Some("line 3")),
            ("listeners[0].allow[1]", Some("line 6")),
            ("listeners[0].name", None),
            ("listeners[1].address", None),
        ] {
            assert_eq!(source.origin(path).as_deref(), origin, "{path}");
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
