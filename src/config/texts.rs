//! The texts of all files of a configuration as one: positions count from the start of the first file, so that each also says which file it
//! is in.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files of a configuration, one or more, in the order in which they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Texts {
    /// At least one.
    files: Arc<Vec<Text>>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// As messages show it.
    pub(super) name: String,
    pub(super) text: String,
    /// Where relative paths in it start.
    pub(super) folder: PathBuf,
    /// The position of its first byte.
    pub(super) start: usize,
}

/// A position, as editors count: lines and columns from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position<'a> {
    /// The name of the file.
    pub file: &'a str,
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Texts {
    /// A configuration of one file; relative paths in it start in `folder`.
    pub(super) fn new(name: &str, text: &str, folder: &Path) -> Self {
        let main = Text::new(name, text, folder, 0);
        Self {
            files: Arc::new(vec![main]),
        }
    }

    /// Adds a file that another one includes, and returns the position of its first byte.
    pub(super) fn add(&mut self, name: &str, text: &str, folder: &Path) -> usize {
        // The end of a file is a position of its own: something may be missing there.
        let start = self.bytes() + 1;
        Arc::make_mut(&mut self.files).push(Text::new(name, text, folder, start));
        start
    }

    /// All files.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Text> {
        self.files.iter()
    }

    /// The file that includes the others.
    pub(super) fn main(&self) -> &Text {
        &self.files[0]
    }

    /// The file with this position.
    pub(super) fn of(&self, at: usize) -> &Text {
        let behind = self.files.partition_point(|text| text.start <= at);
        // The first one starts at 0.
        &self.files[behind - 1]
    }

    /// Position `at`, as editors show it.
    pub(super) fn position(&self, at: usize) -> Option<Position<'_>> {
        let file = self.of(at);
        let before = file.text.get(..at - file.start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Some(Position {
            file: &file.name,
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        })
    }

    /// Where position `at` is, for a message: `conf.d/nodes.toml:3:1`.
    pub(super) fn place_of(&self, at: usize) -> String {
        match self.position(at) {
            Some(Position { file, line, column }) => format!("{file}:{line}:{column}"),
            None => self.of(at).name.clone(),
        }
    }

    /// How much text there is.
    pub(super) fn bytes(&self) -> usize {
        self.files.last().map_or(0, Text::end)
    }

    /// How many files there are.
    pub(super) fn count(&self) -> usize {
        self.files.len()
    }
}

impl Text {
    fn new(name: &str, text: &str, folder: &Path, start: usize) -> Self {
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            folder: folder.to_owned(),
            start,
        }
    }

    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// A span of this file, counted from its own start.
    pub(super) fn within(&self, span: &Range<usize>) -> Range<usize> {
        span.start - self.start..span.end.min(self.end()) - self.start
    }
}

/// A span of a file that begins at `start`, counted from there, as one of all files.
pub(super) fn moved(span: &Range<usize>, start: usize) -> Range<usize> {
    span.start + start..span.end + start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_position_is_in_one_file() {
        let mut texts = Texts::new("main", "ab\nc", Path::new(""));
        texts.add("empty", "", Path::new(""));
        texts.add("last", "é=1", Path::new("x"));
        let at = |at: usize| texts.position(at).map(|p| (p.file, p.line, p.column));
        assert_eq!(at(0), Some(("main", 1, 1)));
        // The ends of files as well.
        assert_eq!(at(4), Some(("main", 2, 2)));
        assert_eq!(at(5), Some(("empty", 1, 1)));
        assert_eq!(at(6), Some(("last", 1, 1)));
        assert_eq!(at(8), Some(("last", 1, 2)));
        assert_eq!(at(10), Some(("last", 1, 4)));
        assert_eq!(at(11), None);
        assert_eq!(texts.of(8).within(&(8..9)), 2..3);
        assert_eq!((texts.count(), texts.bytes()), (3, 10));
    }
}
