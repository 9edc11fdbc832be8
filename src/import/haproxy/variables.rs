//! Variables between double quotes (section 2.3 of HAProxy's manual): what a file sets itself has its value, and others are left to the result.

use std::collections::BTreeMap;

use crate::import::environment::{self, is_name};
use crate::import::text::printable;

/// What `setenv` and `presetenv` say.
#[derive(Default)]
pub(super) struct Variables {
    set: BTreeMap<String, Set>,
}

#[derive(Clone, Debug)]
struct Set {
    value: String,
    /// The environment of the process goes before it.
    is_default: bool,
}

/// What a variable stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// How many characters it has behind the dollar.
    pub(super) length: usize,
    /// The words; one, unless it is a list.
    pub(super) words: Vec<String>,
    /// What is lost, and what to do.
    pub(super) lost: Option<(String, &'static str)>,
}

impl Variables {
    /// `setenv NAME VALUE`, `presetenv NAME VALUE`.
    pub(super) fn set(&mut self, directive: &str, name: &str, value: &str) {
        let is_default = directive == "presetenv";
        if is_default && self.set.contains_key(name) {
            return;
        }
        let value = value.to_owned();
        self.set.insert(name.to_owned(), Set { value, is_default });
    }

    /// `unsetenv NAME…`, and `resetenv NAME…` of all others.
    pub(super) fn unset(&mut self, is_unset: impl Fn(&str) -> bool) {
        self.set.retain(|name, _| !is_unset(name));
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.set.contains_key(name)
    }

    /// What `$NAME`, `${NAME}`, `${NAME[*]}` or `${NAME-default}` stands for; `rest` is behind the dollar, `before` in the same word before
    /// it. `None` if the dollar is itself.
    pub(super) fn expand(&self, before: &str, rest: &str) -> Option<Expanded> {
        let (reference, length) = match rest.strip_prefix('{') {
            Some(inner) => inner
                .split_once('}')
                .map(|(inner, _)| (inner, inner.chars().count() + 2))?,
            None => {
                let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
                (&rest[..end], end)
            }
        };
        let (name, default) = match reference.split_once('-') {
            Some((name, default)) => (name, Some(default)),
            None => (reference, None),
        };
        let (name, is_list) = match name.strip_suffix("[*]") {
            Some(name) => (name, true),
            None => (name, false),
        };
        if !is_name(name) {
            return None;
        }
        let own = self.set.get(name);
        let value = own.map(|own| &*own.value).or(default);
        let lost = match own {
            Some(own) if own.is_default => Some(of_default(name, &own.value)),
            Some(_) => None,
            None => default.map(|default| of_default(name, default)),
        };
        let (text, lost) = match value {
            Some(value) => (value.to_owned(), lost),
            None => match unknown(name, is_list, before) {
                Some(lost) => (format!("${{{reference}}}"), Some(lost)),
                None => (environment::variable(name), None),
            },
        };
        let words = match is_list {
            true => text.split_ascii_whitespace().map(str::to_owned).collect(),
            false => vec![text],
        };
        Some(Expanded { length, words, lost })
    }
}

fn of_default(name: &str, value: &str) -> (String, &'static str) {
    (
        format!(
            "{} of the environment is not looked at: its default is written, {}",
            printable(name),
            printable(value)
        ),
        "where it is part of a string, write the variable in its place if it is always set where Remora starts: there are no defaults",
    )
}

/// Why an unknown variable cannot be in the result.
fn unknown(name: &str, is_list: bool, before: &str) -> Option<(String, &'static str)> {
    const ADVICE: &str = "write what it stands for";
    let name = &*printable(name);
    if name.starts_with("HAPROXY_") {
        return Some((format!("HAProxy itself sets {name}, and Remora does not"), ADVICE));
    }
    if is_list {
        return Some((format!("{name} may stand for several words, and is not known"), ADVICE));
    }
    let is_behind_dollar = before.ends_with('$');
    is_behind_dollar.then(|| (format!("{name} cannot stand behind a dollar"), ADVICE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::environment::variable;

    #[test]
    fn a_variable_has_the_value_of_the_file_or_is_left_to_the_result() {
        let mut variables = Variables::default();
        variables.set("setenv", "PORT", "1883");
        variables.set("presetenv", "PORT", "1884");
        variables.set("presetenv", "HOST", "a");
        variables.set("setenv", "LIST", "a  b");
        variables.set("presetenv", "RAW", "a\n\x1b[31m");
        let one = |text: &str| vec![text.to_owned()];
        for (before, rest, length, words, lost) in [
            ("", "PORT:x", 4, one("1883"), ""),
            ("", "{PORT}x", 6, one("1883"), ""),
            ("", "{PORT-1}", 8, one("1883"), ""),
            ("", "{HOST}", 6, one("a"), "HOST of the environment is not looked at"),
            ("", "{RAW}", 5, one("a\n\x1b[31m"), "its default is written, a  [31m"),
            ("", "{ÄB}", 0, one(""), ""),
            ("", "{LIST[*]}", 9, vec!["a".to_owned(), "b".to_owned()], ""),
            ("", "{LIST}", 6, one("a  b"), ""),
            ("", "{OTHER}:1", 7, one(&variable("OTHER")), ""),
            ("", "OTHER", 5, one(&variable("OTHER")), ""),
            ("", "{OTHER-b é}", 11, one("b é"), "its default is written, b é"),
            ("", "{OTHER-}", 8, one(""), "OTHER"),
            ("", "{OTHER[*]}", 10, one("${OTHER[*]}"), "several words"),
            ("$", "{OTHER}", 7, one("${OTHER}"), "behind a dollar"),
            (
                "",
                "{HAPROXY_CFGFILES}",
                18,
                one("${HAPROXY_CFGFILES}"),
                "HAProxy itself",
            ),
            ("", "{", 0, one(""), ""),
            ("", "{}", 0, one(""), ""),
            ("", "1", 0, one(""), ""),
            ("", "", 0, one(""), ""),
            ("", "{.LINE}", 0, one(""), ""),
        ] {
            let Some(found) = variables.expand(before, rest) else {
                assert_eq!(length, 0, "{rest}");
                continue;
            };
            assert_eq!((found.length, found.words), (length, words), "{rest}");
            let told = found.lost.map_or(String::new(), |(message, _)| message);
            assert!(
                told.contains(lost) && told.is_empty() == lost.is_empty(),
                "{rest}: {told}"
            );
        }
    }
}
