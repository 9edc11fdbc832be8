//! Finds and reads the files that a configuration includes, and those that they include.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use glob::{MatchOptions, Pattern};
use toml::de::DeTable;

use super::expand::{self, Variables};
use super::problem::{Place, Problem};
use super::reader::{List, Reader, Spanned, Value, quoted};
use super::texts::{Texts, moved};
use super::tls::FilePath;

/// The key that names other files.
pub(super) const KEY: &str = "include";

/// Enough for many thousands of nodes; keeps a wrong path from filling the memory. Of all files together.
const BYTES_MAX: u64 = 16 << 20;

/// A pattern that matches more files is a mistake.
const FILES_MAX: usize = 1000;

/// The most files of which each includes the next.
const DEPTH_MAX: usize = 8;

/// Adds the files that the one file of `texts` includes; `path` is that file's own, if it has one. Files that are not TOML include none.
pub(super) fn add_all(texts: &mut Texts, path: Option<&Path>, variables: Variables<'_>) -> Vec<Problem> {
    let own = path.and_then(|path| path.canonicalize().ok()).unwrap_or_default();
    let mut open = vec![(own, texts.main().name.clone())];
    let mut includes = Includes {
        texts,
        variables,
        included: BTreeMap::new(),
        problems: Vec::new(),
    };
    includes.of_file(0, &mut open);
    includes.problems
}

/// Reads the whole of a file or of standard input.
///
/// # Errors
/// Why it cannot be read; one is that it is too large.
pub(super) fn read(from: impl Read) -> io::Result<Vec<u8>> {
    read_up_to(from, BYTES_MAX)
}

fn read_up_to(from: impl Read, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "larger than 16 MiB"));
    }
    Ok(bytes)
}

/// The text of a file, and where it is not UTF-8, if it is not: then with another character there.
pub(super) fn decoded(bytes: Vec<u8>) -> (String, Option<usize>) {
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let valid_up_to = error.utf8_error().valid_up_to();
            (
                String::from_utf8_lossy(error.as_bytes()).into_owned(),
                Some(valid_up_to),
            )
        }
    }
}

/// The problem with a file that is not UTF-8 at a position.
pub(super) fn not_utf8(at: usize) -> Problem {
    let mut problem = Problem::of_file("not UTF-8").hint("save the file as UTF-8");
    problem.span = Some(at..at + char::REPLACEMENT_CHARACTER.len_utf8());
    problem
}

struct Includes<'a> {
    texts: &'a mut Texts,
    variables: Variables<'a>,
    /// Where each file is included, by its path without links.
    included: BTreeMap<PathBuf, Place>,
    problems: Vec<Problem>,
}

/// The files of which each includes the next: their paths without links, and their names.
type Open = Vec<(PathBuf, String)>;

impl Includes<'_> {
    /// Adds what the file whose text begins at `start` includes.
    fn of_file(&mut self, start: usize, open: &mut Open) {
        let folder = self.texts.of(start).folder.clone();
        for Spanned { value, place } in self.patterns(start) {
            let found = match expand::expand(&value, &folder, self.variables) {
                Ok(None) => matching(&folder, &value),
                Ok(Some(expanded)) => matching(&folder, &expanded.value),
                Err(unresolved) => Err((unresolved.why.message, unresolved.why.hint)),
            };
            match found {
                Ok(files) => files.iter().for_each(|file| self.add(file, &place, open)),
                Err((message, hint)) => self.problems.push(place.problem(message).hint(hint)),
            }
        }
    }

    /// What the file whose text begins at `start` includes, as it is written.
    fn patterns(&mut self, start: usize) -> Vec<Spanned<String>> {
        let Ok(table) = DeTable::parse(&self.texts.of(start).text) else {
            return Vec::new();
        };
        let Some(written) = table.get_ref().get(KEY) else {
            return Vec::new();
        };
        let place = Place {
            path: KEY.to_owned(),
            span: written.span(),
        };
        let mut reader = Reader::of_values();
        let patterns = List::<FilePath>::read(written.get_ref(), &place, &mut reader).unwrap_or_default();
        self.problems.extend(reader.problems.into_iter().map(|problem| Problem {
            span: problem.span.map(|span| moved(&span, start)),
            ..problem
        }));
        let moved = |Spanned { value, place }: Spanned<String>| Spanned {
            value,
            place: Place {
                span: moved(&place.span, start),
                ..place
            },
        };
        patterns.into_iter().map(moved).collect()
    }

    /// Adds the file that the value at `place` names, and what that includes.
    fn add(&mut self, file: &Path, place: &Place, open: &mut Open) {
        if let Err(problem) = self.read(file, place, open) {
            self.problems.push(*problem);
        }
    }

    fn read(&mut self, file: &Path, place: &Place, open: &mut Open) -> Result<(), Box<Problem>> {
        let name = file.display().to_string();
        let shown = quoted(&name);
        let unread = |error: &io::Error| {
            let hint = match error.kind() {
                ErrorKind::NotFound => "name a file that is there; a pattern such as \"conf.d/*.toml\" may match none",
                _ => "name a file, or a pattern such as \"conf.d/*.toml\", that the user of this process can read",
            };
            place.problem(format!("{shown} cannot be read: {error}")).hint(hint)
        };
        let own = file.canonicalize().map_err(|error| Box::new(unread(&error)))?;
        if let Some(at) = open.iter().position(|(open, _)| *open == own) {
            let circle: Vec<&str> = open[at..].iter().map(|(_, name)| &**name).collect();
            let message = format!("a circle: {} includes {name}", circle.join(" includes "));
            let hint = "keep files to include in a folder of their own, as in \"conf.d/*.toml\"";
            return Err(place.problem(message).hint(hint).into());
        }
        if let Some(first) = self.included.get(&own) {
            let message = format!(
                "{shown} is included twice, first at {}",
                self.texts.place_of(first.span.start)
            );
            let problem = place.problem(message).hint("include each file once");
            return Err(problem.other(first, "first included here").into());
        }
        if open.len() > DEPTH_MAX {
            let message = format!("{shown} is the {}th file of which each includes the next", open.len());
            return Err(place.problem(message).hint("include it in an earlier one").into());
        }
        if self.texts.count() > FILES_MAX {
            let message = format!("{shown} is beyond the {FILES_MAX} files that can be included");
            return Err(place.problem(message).hint("join several of them to one").into());
        }
        self.included.insert(own.clone(), place.clone());
        let left = BYTES_MAX.saturating_sub(self.texts.bytes() as u64);
        let (text, wrong_at) = match read_file(file, left) {
            Ok(bytes) => decoded(bytes),
            Err(error) if error.kind() == ErrorKind::FileTooLarge => {
                let message = format!("with {shown}, the files together are larger than 16 MiB");
                return Err(place.problem(message).hint("include fewer or smaller files").into());
            }
            Err(error) => return Err(unread(&error).into()),
        };
        let start = self.texts.add(&name, &text, file.parent().unwrap_or(Path::new("")));
        if let Some(at) = wrong_at {
            return Err(not_utf8(start + at).into());
        }
        open.push((own, name));
        self.of_file(start, open);
        open.pop();
        Ok(())
    }
}

/// Reads a file that another one names. A pipe would be waited for.
fn read_file(file: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    read_up_to(File::open(file)?, bytes_max)
}

/// The files that `written` names, in the order of their names: one, or those that match a pattern in its last part. A problem is its
/// message and its hint.
fn matching(folder: &Path, written: &str) -> Result<Vec<PathBuf>, (String, String)> {
    let is_pattern = |text: &str| text.contains(['*', '?', '[']);
    let path = Path::new(written);
    let last = path.file_name().and_then(|last| last.to_str()).unwrap_or_default();
    let above = path.parent().unwrap_or(Path::new(""));
    if above.to_str().is_some_and(is_pattern) {
        let message = format!("{} has a pattern in a folder's name", quoted(written));
        return Err((
            message,
            "write patterns in the last part only, as in \"conf.d/*.toml\"".to_owned(),
        ));
    }
    if !is_pattern(last) {
        return Ok(vec![folder.join(path)]);
    }
    let pattern = Pattern::new(last).map_err(|error| {
        let message = format!("{} is not a pattern: {}", quoted(written), error.msg);
        (message, "write one as of a shell, such as \"conf.d/*.toml\"".to_owned())
    })?;
    let options = MatchOptions {
        // Kubernetes keeps older versions of a mounted folder in such names, editors their copies.
        require_literal_leading_dot: true,
        ..MatchOptions::default()
    };
    let above = folder.join(above);
    let searched = if above.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &above
    };
    let unread = |error: io::Error| {
        let message = format!("{} cannot be read: {error}", quoted(&searched.display().to_string()));
        let hint = "make the folder, and let the user of this process read it; in it, a pattern may match none";
        (message, hint.to_owned())
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(searched).map_err(unread)? {
        let name = entry.map_err(unread)?.file_name();
        if name.to_str().is_some_and(|name| pattern.matches_with(name, options)) {
            files.push(above.join(name));
        }
    }
    files.sort();
    Ok(files)
}
