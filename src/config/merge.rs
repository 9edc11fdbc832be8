//! Merges the files of a configuration into one tree, and expands the strings in it. Positions stay those of the files.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;

use toml::Spanned as TomlSpanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::expand::{self, Unresolved, Variables};
use super::include;
use super::problem::{Place, Problem, path_below};
use super::reader::shown_key;
use super::syntax;
use super::texts::{Texts, moved};

/// What variables and files may make of all strings together: a small file could name large ones many times.
const EXPANDED_MAX: usize = 16 << 20;

/// A configuration as one tree.
#[derive(Debug, Default)]
pub(super) struct Merged<'t> {
    pub(super) tree: DeTable<'t>,
    /// What strings name, by the positions of these strings.
    pub(super) references: BTreeMap<usize, Vec<String>>,
}

/// The files as one tree, without what they include.
///
/// # Errors
/// Files that are not TOML, keys that two files have, references that stand for nothing.
pub(super) fn merge<'t>(texts: &'t Texts, variables: Variables<'_>) -> Result<Merged<'t>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut merged = Merged::default();
    for file in texts.iter() {
        match parse(&file.text) {
            Ok(table) => {
                let mut table = match file.start {
                    0 => table,
                    start => moved_table(table, start),
                };
                table.remove(include::KEY);
                add(&mut merged.tree, table, "", texts, &mut problems);
            }
            Err(mut problem) => {
                problem.span = problem.span.map(|span| moved(&span, file.start));
                problems.push(*problem);
            }
        }
    }
    let mut expansion = Expansion {
        texts,
        variables,
        references: &mut merged.references,
        problems: &mut problems,
        bytes_left: EXPANDED_MAX,
        is_full: false,
    };
    expansion.table(&mut merged.tree, "");
    match problems.is_empty() {
        true => Ok(merged),
        false => Err(problems),
    }
}

/// The file as a table, or its first syntax error.
pub(super) fn parse(text: &str) -> Result<DeTable<'_>, Box<Problem>> {
    let tree = DeTable::parse(text).map_err(|error| {
        let mut problem = Problem::of_file(format!("not TOML: {}", error.message()));
        problem.span = error.span();
        if error.message() == "duplicate key" {
            problem = problem.hint("write a key once; several tables of one name have two brackets, as in [[nodes]]");
        } else if let Some(hint) = error.span().and_then(|span| syntax::hint(text, span)) {
            problem = problem.hint(hint);
        }
        Box::new(problem)
    })?;
    Ok(tree.into_inner())
}

fn moved_table(table: DeTable<'_>, start: usize) -> DeTable<'_> {
    let moved = |(key, value): (TomlSpanned<_>, _)| {
        let span = moved(&key.span(), start);
        (TomlSpanned::new(span, key.into_inner()), moved_value(value, start))
    };
    table.into_iter().map(moved).collect()
}

fn moved_value(value: TomlSpanned<DeValue<'_>>, start: usize) -> TomlSpanned<DeValue<'_>> {
    let span = moved(&value.span(), start);
    let value = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(moved_table(table, start)),
        DeValue::Array(items) => {
            let items = items.into_iter().map(|item| moved_value(item, start));
            DeValue::Array(items.collect())
        }
        other => other,
    };
    TomlSpanned::new(span, value)
}

/// Adds the keys of `table` to those of `tree` at `path`: tables are merged, lists of tables joined.
fn add<'t>(tree: &mut DeTable<'t>, table: DeTable<'t>, path: &str, texts: &Texts, problems: &mut Vec<Problem>) {
    for (key, value) in table {
        let Some(first) = tree.get_key_value(&key).map(|(first, _)| first.span()) else {
            tree.insert(key, value);
            continue;
        };
        let name = shown_key(key.get_ref());
        let place = Place {
            path: path_below(path, &name),
            span: key.span(),
        };
        let before = tree.get_mut(&key).map(TomlSpanned::get_mut);
        match (before, value.into_inner()) {
            (Some(DeValue::Table(before)), DeValue::Table(table)) => add(before, table, &place.path, texts, problems),
            (Some(DeValue::Array(before)), DeValue::Array(items)) if has_tables(before) && has_tables(&items) => {
                items.into_iter().for_each(|item| before.push(item));
            }
            _ => {
                let message = format!("is there already, at {}", texts.place_of(first.start));
                let hint =
                    "leave it out in one of the two: a file that is included adds keys and tables, and changes none";
                let first = Place {
                    span: first,
                    ..place.clone()
                };
                problems.push(place.problem(message).other(&first, "first written here").hint(hint));
            }
        }
    }
}

fn has_tables(items: &DeArray<'_>) -> bool {
    !items.is_empty() && items.iter().all(|item| item.get_ref().is_table())
}

/// The strings of the tree, while they are expanded.
struct Expansion<'a> {
    texts: &'a Texts,
    variables: Variables<'a>,
    references: &'a mut BTreeMap<usize, Vec<String>>,
    problems: &'a mut Vec<Problem>,
    bytes_left: usize,
    is_full: bool,
}

impl Expansion<'_> {
    fn table(&mut self, table: &mut DeTable<'_>, path: &str) {
        for (key, value) in table.iter_mut() {
            let path = path_below(path, &shown_key(key.get_ref()));
            self.value(value, &path);
        }
    }

    fn value(&mut self, value: &mut TomlSpanned<DeValue<'_>>, path: &str) {
        let span = value.span();
        match value.get_mut() {
            DeValue::Table(table) => self.table(table, path),
            DeValue::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.value(item, &format!("{path}[{index}]"));
                }
            }
            DeValue::String(text) => {
                let folder = &self.texts.of(span.start).folder;
                match expand::expand(text, folder, self.variables) {
                    Ok(None) => {}
                    Ok(Some(expanded)) if expanded.value.len() > self.bytes_left => {
                        // Said once.
                        if !mem::replace(&mut self.is_full, true) {
                            let path = path.to_owned();
                            let problem = Place { path, span }.problem("variables and files make more than 16 MiB");
                            self.problems.push(problem);
                        }
                    }
                    Ok(Some(expanded)) => {
                        self.bytes_left -= expanded.value.len();
                        *text = expanded.value.into();
                        self.references.insert(span.start, expanded.references);
                    }
                    Err(unresolved) => self.note(unresolved, path, span),
                }
            }
            _ => {}
        }
    }

    fn note(&mut self, Unresolved { reference, why }: Unresolved, path: &str, span: Range<usize>) {
        let file = self.texts.of(span.start);
        let written = file.text.get(file.within(&span)).unwrap_or_default();
        // Not there if some of its characters are written as escapes.
        let span = match written.find(&reference) {
            Some(at) => span.start + at..span.start + at + reference.len(),
            None => span,
        };
        let path = path.to_owned();
        self.problems
            .push(Place { path, span }.problem(why.message).hint(why.hint));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn problems(text: &str, variable: &str) -> Vec<String> {
        let texts = Texts::new("test.toml", text, Path::new(""));
        match merge(&texts, &|_| Some(variable.into())) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(Problem::to_string).collect(),
        }
    }

    #[test]
    fn strings_do_not_grow_without_bound() {
        let large = "x".repeat(64 << 10);
        let text = |count: usize| format!("all = [{}]\n", "\"${A}\", ".repeat(count));
        assert_eq!(problems(&text(256), &large), [""; 0]);
        let expected = "all[256]: variables and files make more than 16 MiB";
        assert_eq!(problems(&text(300), &large), [expected]);
    }

    #[test]
    fn keys_of_tables_are_merged_at_every_depth_and_lists_of_values_are_not() {
        let merged = |more: &str| {
            let main = "list = ['a']\n[table]\na = 1\nb.c = 2\n[[tables]]\na = 1\n";
            let mut texts = Texts::new("main.toml", main, Path::new(""));
            texts.add("more.toml", more, Path::new(""));
            match merge(&texts, &|_| None) {
                Ok(Merged { tree, .. }) => Ok(format!(
                    "{:?}",
                    tree.keys().map(|key| key.get_ref()).collect::<Vec<_>>()
                )),
                Err(problems) => Err(problems[0].to_string()),
            }
        };
        for more in [
            "[table]\nd = 1\n",
            "table.b.d = 1\n",
            "[[tables]]\na = 1\n",
            "tables = [{ a = 2 }]",
        ] {
            assert_eq!(
                merged(more).as_deref(),
                Ok("[\"list\", \"table\", \"tables\"]"),
                "{more}"
            );
        }
        for (more, expected) in [
            ("[table]\na = 1\n", "table.a: is there already, at main.toml:3:1"),
            ("[table.b]\nc = 1\n", "table.b.c: is there already, at main.toml:4:3"),
            ("table = 1\n", "table: is there already, at main.toml:2:2"),
            ("list = ['b']\n", "list: is there already, at main.toml:1:1"),
            ("tables = []\n", "tables: is there already, at main.toml:5:3"),
            ("[tables]\nb = 1\n", "tables: is there already, at main.toml:5:3"),
        ] {
            assert_eq!(merged(more), Err(expected.to_owned()), "{more}");
        }
    }
}
