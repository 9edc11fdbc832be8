//! The files that were read, and places in them: what every setting and every line of the report refers to.

use std::path::Path;

use super::environment;

/// A stretch of one of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Place {
    /// From here to the end of `other`, if that is in the same file and not before.
    pub(super) fn to(self, other: Self) -> Self {
        match other.file == self.file && other.end >= self.end {
            true => Self { end: other.end, ..self },
            false => self,
        }
    }
}

/// One file.
#[derive(Clone, Debug)]
struct Source {
    name: String,
    text: String,
    /// Where each line begins.
    lines: Vec<usize>,
}

/// All files that were read, in the order in which they were opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    files: Vec<Source>,
}

/// Where a place is, as editors count: from 1, columns in characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot<'a> {
    pub(super) file: &'a str,
    pub(super) line: usize,
    pub(super) column: usize,
    /// The whole line, without its end.
    pub(super) text: &'a str,
    /// The bytes of the place in that line; a place that goes on behind it ends with it.
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Sources {
    /// Adds a file. Bytes that are not UTF-8 become U+FFFD, which no word may contain.
    pub(super) fn add(&mut self, path: &Path, bytes: &[u8]) -> usize {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned();
        let ends = text.match_indices('\n').map(|(at, _)| at + 1);
        let lines = std::iter::once(0).chain(ends).collect();
        let name = path.display().to_string();
        self.files.push(Source { name, text, lines });
        self.files.len() - 1
    }

    pub(super) fn text(&self, file: usize) -> &str {
        self.files.get(file).map_or("", |source| &source.text)
    }

    /// How many bytes were read.
    pub(super) fn bytes(&self) -> usize {
        self.files.iter().map(|source| source.text.len()).sum()
    }

    /// Where a place is. `None` only for one of another run.
    pub(super) fn spot(&self, place: Place) -> Option<Spot<'_>> {
        let source = self.files.get(place.file)?;
        let line = source.lines.partition_point(|start| *start <= place.start).max(1) - 1;
        let begin = source.lines[line];
        let end = source.lines.get(line + 1).copied().unwrap_or(source.text.len());
        let text = source.text.get(begin..end)?.trim_end_matches(['\n', '\r']);
        let start = place.start.saturating_sub(begin).min(text.len());
        let end = place.end.saturating_sub(begin).clamp(start, text.len());
        Some(Spot {
            file: &source.name,
            line: line + 1,
            column: text.get(..start)?.chars().count() + 1,
            text,
            start,
            end,
        })
    }

    /// `nginx.conf:12`, for comments.
    pub(super) fn line(&self, place: Place) -> String {
        match self.spot(place) {
            Some(spot) => format!("{}:{}", printable(spot.file), spot.line),
            None => String::new(),
        }
    }
}

/// A text that may stand in a comment or in a message: without line ends and other control characters, and not too long.
pub(super) fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    let shown = |c: char| match c {
        environment::DOLLAR => '$',
        c if c.is_control() => ' ',
        c => c,
    };
    let mut shown: String = text.chars().take(CHARS_MAX).map(shown).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// A string as TOML writes it. Its variables of the environment are those of the result.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    // Else it would name a variable that the original does not.
    for c in text.replace("${", "$${").chars() {
        match c {
            environment::DOLLAR => out.push('$'),
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of strings as TOML writes it.
pub(super) fn list(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| quoted(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::environment::{filled, is_in_toml, is_whole, variable};

    #[test]
    fn a_variable_stays_one_and_a_dollar_of_the_original_stays_a_dollar() {
        let word = format!("a{}:$${{B}}", variable("A"));
        assert_eq!(printable(&word), "a${A}:$${B}");
        assert_eq!(quoted(&word), "\"a${A}:$$${B}\"");
        assert!(is_in_toml(&quoted(&word)));
        assert!(!is_in_toml(&quoted("$${B} ${C} $D")));
        assert_eq!(filled(&word, "1"), "a1:$${B}");
        assert!(is_whole(&variable("A")) && !is_whole(&word) && !is_whole(&format!("{}x", variable("A"))));
    }
}
