//! HAProxy's grammar: lines of words in sections, with quotes, escapes, variables of the environment and conditional blocks.

use std::path::Path;

use crate::import::files::BYTES_MAX;
use crate::import::haproxy::condition;
use crate::import::haproxy::variables::Variables;
use crate::import::report::{Fault, Report};
use crate::import::text::{Place, Sources, printable};

/// A word, without quotes and escapes. A variable of the environment that the file does not set is still in it.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) place: Place,
}

/// A statement.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) words: Vec<Word>,
}

impl Line {
    /// The text of a word; empty if there are fewer.
    pub(super) fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", |word| &word.text)
    }

    pub(super) fn place(&self) -> Place {
        match &self.words[..] {
            [first, .., last] => first.place.to(last.place),
            [first] => first.place,
            [] => Place {
                file: 0,
                start: 0,
                end: 0,
            },
        }
    }

    /// The place of a word, or of the whole line if there are fewer.
    pub(super) fn place_of(&self, index: usize) -> Place {
        self.words.get(index).map_or_else(|| self.place(), |word| word.place)
    }

    /// The words from `index` on.
    pub(super) fn rest(&self, index: usize) -> &[Word] {
        self.words.get(index..).unwrap_or_default()
    }
}

/// A section: its first line, and those in it.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) head: Line,
    pub(super) lines: Vec<Line>,
}

impl Section {
    pub(super) fn kind(&self) -> &str {
        self.head.word(0)
    }

    /// The name; empty if it has none.
    pub(super) fn name(&self) -> &str {
        match self.head.word(1) {
            "from" => "",
            name => name,
        }
    }

    /// The `defaults` that it names.
    pub(super) fn from(&self) -> Option<&str> {
        let at = self.head.words.iter().position(|word| word.text == "from")?;
        self.head.words.get(at + 1).map(|word| &*word.text)
    }
}

/// The words that begin a section.
const SECTIONS: [&str; 19] = [
    "global",
    "defaults",
    "frontend",
    "backend",
    "listen",
    "peers",
    "resolvers",
    "mailers",
    "userlist",
    "program",
    "http-errors",
    "cache",
    "ring",
    "log-forward",
    "log-profile",
    "fcgi-app",
    "crt-store",
    "traces",
    "acme",
];

/// Most lines of all files.
const LINES_MAX: usize = 50_000;

/// How deep conditional blocks may be nested, as in HAProxy.
const CONDITIONS_MAX: usize = 16;

/// Whether the lines of a conditional block count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Branch {
    /// They do.
    Taken,
    /// Not these, but perhaps those of a later branch.
    Waiting,
    /// A branch before was taken.
    Over,
}

/// Reads files, one after the other as if they were one.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) sections: Vec<Section>,
    variables: Variables,
    lines: usize,
}

impl Reader {
    /// Parses a file that was read.
    pub(super) fn read(
        &mut self,
        path: &Path,
        bytes: &[u8],
        sources: &mut Sources,
        report: &mut Report,
    ) -> Result<(), Fault> {
        let file = sources.add(path, bytes);
        let whole = Place { file, start: 0, end: 0 };
        if sources.bytes() > BYTES_MAX {
            return Err(Fault::new(
                whole,
                "the files have more than 16 MiB together",
                "name fewer files",
            ));
        }
        let text = sources.text(file).to_owned();
        let mut open: Vec<(Branch, Place)> = Vec::new();
        let mut start = 0;
        for line in text.split_inclusive('\n') {
            let mut lost = Vec::new();
            let words = self.words(line, file, start, &mut lost)?;
            start += line.len();
            let Some(first) = words.first() else {
                continue;
            };
            self.lines += 1;
            if self.lines > LINES_MAX {
                return Err(Fault::new(
                    first.place,
                    format!("more than {LINES_MAX} lines"),
                    "name fewer files",
                ));
            }
            let line = Line { words };
            let is_inactive = open.iter().any(|(branch, _)| *branch != Branch::Taken);
            if line.word(0).starts_with('.') {
                self.condition(&line, lost, &mut open, report)?;
                continue;
            }
            if is_inactive {
                continue;
            }
            report_all(lost, report);
            self.line(line)?;
        }
        match open.last() {
            Some((_, place)) => Err(Fault::new(
                *place,
                ".if without .endif",
                "write .endif behind the block",
            )),
            None => Ok(()),
        }
    }

    fn line(&mut self, line: Line) -> Result<(), Fault> {
        if SECTIONS.contains(&line.word(0)) {
            self.sections.push(Section {
                head: line,
                lines: Vec::new(),
            });
            return Ok(());
        }
        let place = line.place_of(0);
        let Some(section) = self.sections.last_mut() else {
            let message = format!("{} outside of a section", printable(line.word(0)));
            return Err(Fault::new(
                place,
                message,
                "begin with a section: global, defaults, frontend, backend or listen",
            ));
        };
        if section.kind() == "global" {
            let names = line.rest(1).iter().map(|word| &*word.text);
            match line.word(0) {
                "setenv" | "presetenv" => self.variables.set(line.word(0), line.word(1), line.word(2)),
                "unsetenv" => self.variables.unset(|name| names.clone().any(|one| one == name)),
                "resetenv" => self.variables.unset(|name| !names.clone().any(|one| one == name)),
                _ => {}
            }
        }
        section.lines.push(line);
        Ok(())
    }

    /// Reads a directive; of its variables, what is `lost` counts where a condition is evaluated.
    fn condition(
        &self,
        line: &Line,
        lost: Vec<Fault>,
        open: &mut Vec<(Branch, Place)>,
        report: &mut Report,
    ) -> Result<(), Fault> {
        let place = line.place();
        let inactive = open.iter().any(|(branch, _)| *branch != Branch::Taken);
        let outer_is_inactive = open.len() > 1
            && open[..open.len() - 1]
                .iter()
                .any(|(branch, _)| *branch != Branch::Taken);
        let branch = |is_true: bool| if is_true { Branch::Taken } else { Branch::Waiting };
        let depth = open.len();
        match (line.word(0), open.last_mut()) {
            (".if", _) if depth >= CONDITIONS_MAX => {
                return Err(Fault::new(
                    place,
                    "conditional blocks are nested too deeply",
                    "HAProxy takes 16 levels",
                ));
            }
            (".if", _) => {
                // Of a block that does not count, none does.
                let found = if inactive {
                    Branch::Over
                } else {
                    branch(self.holds(line, lost, report))
                };
                open.push((found, place));
            }
            (".elif", Some((last, _))) => {
                *last = match *last {
                    Branch::Waiting if !outer_is_inactive => branch(self.holds(line, lost, report)),
                    _ => Branch::Over,
                };
            }
            (".else", Some((last, _))) => {
                *last = match *last {
                    Branch::Waiting => Branch::Taken,
                    _ => Branch::Over,
                };
            }
            (".endif", Some(_)) => {
                open.pop();
            }
            (".elif" | ".else" | ".endif", None) => {
                let message = format!("{} without .if", line.word(0));
                return Err(Fault::new(place, message, "take it out, or write the .if before it"));
            }
            (".notice" | ".warning" | ".diag" | ".alert", _) if inactive => {}
            (".alert", _) => report.lost(
                place,
                ".alert: HAProxy refuses this file here",
                "look at the condition around it",
            ),
            (".notice" | ".warning" | ".diag", _) => {
                report.unneeded(place, line.word(0), "a message of HAProxy's parser")
            }
            (other, _) => {
                let message = format!("{} is no directive", printable(other));
                return Err(Fault::new(
                    place,
                    message,
                    "there are .if, .elif, .else, .endif, .notice, .warning, .alert and .diag",
                ));
            }
        }
        Ok(())
    }

    /// Whether a condition holds, as far as it can be known from the file.
    fn holds(&self, line: &Line, lost: Vec<Fault>, report: &mut Report) -> bool {
        report_all(lost, report);
        let words: Vec<&str> = line.rest(1).iter().map(|word| &*word.text).collect();
        match condition::holds(&words.join(" "), &self.variables) {
            Some(holds) => holds,
            None => {
                report.lost(
                    line.place(),
                    "this condition depends on the machine or on HAProxy's version; it is taken as false",
                    "take the .if out, with the lines that do not count",
                );
                false
            }
        }
    }

    /// The words of a line, and what of their variables is `lost`.
    fn words(&self, line: &str, file: usize, start: usize, lost: &mut Vec<Fault>) -> Result<Vec<Word>, Fault> {
        let mut words = Vec::new();
        let mut chars = line.char_indices().peekable();
        let place = |from: usize, to: usize| Place {
            file,
            start: start + from,
            end: start + to,
        };
        loop {
            while chars.next_if(|(_, c)| matches!(c, ' ' | '\t' | '\r' | '\n')).is_some() {}
            let Some((from, first)) = chars.peek().copied() else {
                return Ok(words);
            };
            if first == '#' {
                return Ok(words);
            }
            let mut text = String::new();
            let mut quote: Option<(char, usize)> = None;
            let mut to = line.len();
            while let Some((at, c)) = chars.next() {
                match (c, quote) {
                    ('\'' | '"', None) => quote = Some((c, at)),
                    (c, Some((open, _))) if c == open => quote = None,
                    ('\\', None | Some(('"', _))) => match chars.next() {
                        Some((_, 'n')) => text.push('\n'),
                        Some((_, 'r')) => text.push('\r'),
                        Some((_, 't')) => text.push('\t'),
                        Some((_, 'x')) => {
                            let digits: String = chars.clone().take(2).map(|(_, c)| c).collect();
                            match u8::from_str_radix(&digits, 16) {
                                Ok(byte) if digits.len() == 2 => {
                                    text.push(char::from(byte));
                                    chars.nth(1);
                                }
                                _ => {
                                    return Err(Fault::new(
                                        place(at, at + 2),
                                        "\\x without two digits",
                                        "write two hexadecimal digits behind \\x",
                                    ));
                                }
                            }
                        }
                        Some((_, '\n' | '\r')) | None => {
                            return Err(Fault::new(
                                place(at, at + 1),
                                "a line does not go on behind a backslash",
                                "write it as one line",
                            ));
                        }
                        Some((_, other)) => text.push(other),
                    },
                    ('$', Some(('"', _))) => {
                        let Some(found) = self.variables.expand(&text, &line[at + 1..]) else {
                            text.push('$');
                            continue;
                        };
                        for _ in 0..found.length {
                            chars.next();
                        }
                        let end = chars.peek().map_or(line.len(), |(at, _)| *at);
                        lost.extend(
                            found
                                .lost
                                .map(|(message, advice)| Fault::new(place(at, end), message, advice)),
                        );
                        for (index, part) in found.words.iter().enumerate() {
                            if index > 0 {
                                let text = std::mem::take(&mut text);
                                let place = place(from, end);
                                words.push(Word { text, place });
                            }
                            text += part;
                        }
                    }
                    ('\n', Some((_, at))) => return Err(open_quote(place(at, line.trim_end().len()))),
                    (' ' | '\t' | '\r' | '\n' | '#', None) => {
                        to = at;
                        if c == '#' {
                            // A comment ends the line; no word is behind it.
                            for _ in chars.by_ref() {}
                        }
                        break;
                    }
                    (c, _) => text.push(c),
                }
            }
            if let Some((_, at)) = quote {
                return Err(open_quote(place(at, line.trim_end().len())));
            }
            if let Some(at) = line[from..to].find(char::REPLACEMENT_CHARACTER) {
                let at = from + at;
                return Err(Fault::new(
                    place(at, at + char::REPLACEMENT_CHARACTER.len_utf8()),
                    "not UTF-8",
                    "save the file as UTF-8",
                ));
            }
            words.push(Word {
                text,
                place: place(from, to),
            });
        }
    }
}

fn report_all(lost: Vec<Fault>, report: &mut Report) {
    for Fault { place, message, advice } in lost {
        report.lost(place, message, advice);
    }
}

fn open_quote(place: Place) -> Fault {
    Fault::new(place, "a quote is not closed in its line", "write the closing quote")
}
