//! nginx's grammar: words, blocks and includes, with the place of each word.

use std::path::{Path, PathBuf};

use crate::import::files::{BYTES_MAX, Files};
use crate::import::report::{Fault, Report};
use crate::import::text::{Place, Sources, printable};

/// A word, without its quotes.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) text: String,
    pub(super) place: Place,
}

/// A directive, with those in its block.
#[derive(Clone, Debug)]
pub(super) struct Directive {
    /// Its number among all directives.
    pub(super) id: usize,
    pub(super) name: Word,
    pub(super) args: Vec<Word>,
    pub(super) block: Option<Vec<Directive>>,
}

impl Directive {
    /// The text of an argument; empty if there are fewer.
    pub(super) fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", |word| &word.text)
    }

    /// The directives in its block.
    pub(super) fn inner(&self) -> &[Self] {
        self.block.as_deref().unwrap_or_default()
    }

    /// From its name to its last argument.
    pub(super) fn place(&self) -> Place {
        self.args
            .last()
            .map_or(self.name.place, |last| self.name.place.to(last.place))
    }
}

/// How deep blocks and includes may be nested; nginx's own have five levels.
const DEPTH_MAX: usize = 32;

/// Most directives of all files: includes of includes could multiply without a bound.
const DIRECTIVES_MAX: usize = 200_000;

/// Reads files with what they include.
pub(super) struct Reader<'a> {
    pub(super) files: &'a dyn Files,
    pub(super) sources: &'a mut Sources,
    pub(super) report: &'a mut Report,
    /// Where relative paths start: the directory of the first file.
    prefix: PathBuf,
    /// The files that are open, from the outermost in.
    open: Vec<PathBuf>,
    /// The files that were read.
    done: Vec<PathBuf>,
    depth: usize,
    count: usize,
}

/// What ends a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Word,
    End,
    Open,
    Close,
}

impl<'a> Reader<'a> {
    pub(super) fn new(files: &'a dyn Files, sources: &'a mut Sources, report: &'a mut Report, first: &Path) -> Self {
        Self {
            files,
            sources,
            report,
            prefix: first.parent().unwrap_or(Path::new("")).to_owned(),
            open: Vec::new(),
            done: Vec::new(),
            depth: 0,
            count: 0,
        }
    }

    /// Whether a file was read already, by an `include`.
    pub(super) fn has_read(&self, path: &Path) -> bool {
        self.done.iter().any(|done| done == path)
    }

    /// Parses a file that was read.
    pub(super) fn parse(&mut self, path: PathBuf, bytes: &[u8]) -> Result<Vec<Directive>, Fault> {
        let file = self.sources.add(&path, bytes);
        let whole = Place { file, start: 0, end: 0 };
        if self.sources.bytes() > BYTES_MAX {
            return Err(Fault::new(
                whole,
                "the files have more than 16 MiB together",
                "name fewer files",
            ));
        }
        self.done.push(path.clone());
        self.open.push(path);
        let text = self.sources.text(file).to_owned();
        let parsed = Parser {
            reader: self,
            text: &text,
            file,
            at: 0,
        }
        .all();
        self.open.pop();
        parsed
    }

    fn include(&mut self, directive: &Directive, into: &mut Vec<Directive>) -> Result<(), Fault> {
        let place = directive.place();
        let written = directive.arg(0);
        if directive.args.len() != 1 || written.is_empty() {
            return Err(Fault::new(
                place,
                "include takes one file or pattern",
                "write: include conf.d/*.conf;",
            ));
        }
        let path = self.prefix.join(written);
        let is_pattern = written.contains(['*', '?', '[']);
        let paths = match is_pattern {
            true => match self.files.matching(&self.prefix, written) {
                Ok(paths) => paths,
                Err(error) => {
                    let message = format!("{} cannot be looked for: {error}", printable(written));
                    return Err(Fault::new(
                        place,
                        message,
                        "look at the pattern and at the permissions of its folder",
                    ));
                }
            },
            false => vec![path],
        };
        for path in paths {
            if self.open.contains(&path) {
                let message = format!("{} includes itself", printable(&path.display().to_string()));
                return Err(Fault::new(place, message, "take the include out of the circle"));
            }
            if self.open.len() >= DEPTH_MAX {
                return Err(Fault::new(
                    place,
                    "files are nested too deeply",
                    "include them from fewer levels",
                ));
            }
            match self.files.read(&path) {
                Ok(bytes) => into.extend(self.parse(path, &bytes)?),
                Err(_) if written.ends_with("mime.types") => {
                    self.report
                        .unneeded(place, "include", "types of files mean nothing for MQTT");
                }
                Err(error) => self.report.lost(
                    place,
                    format!("{} cannot be read: {error}", printable(&path.display().to_string())),
                    "run the import where all files are, or as a user that may read them",
                ),
            }
        }
        Ok(())
    }
}

/// One file on its way to directives.
struct Parser<'r, 'a, 't> {
    reader: &'r mut Reader<'a>,
    text: &'t str,
    file: usize,
    at: usize,
}

impl Parser<'_, '_, '_> {
    fn all(mut self) -> Result<Vec<Directive>, Fault> {
        let directives = self.block(None)?;
        Ok(directives)
    }

    fn place(&self, start: usize, end: usize) -> Place {
        Place {
            file: self.file,
            start,
            end,
        }
    }

    /// Directives until `}`, or until the end of the file if no block is open.
    fn block(&mut self, opened: Option<Place>) -> Result<Vec<Directive>, Fault> {
        let mut directives = Vec::new();
        let mut words: Vec<Word> = Vec::new();
        loop {
            let Some((token, word)) = self.token()? else {
                let last = words.last().map(|word| word.place);
                return match (opened, last) {
                    (_, Some(place)) => Err(Fault::new(
                        place,
                        "the file ends within a directive",
                        "write ; at its end, or { and } with its block",
                    )),
                    (Some(place), None) => Err(Fault::new(place, "this block is not closed", "write the missing }")),
                    (None, None) => Ok(directives),
                };
            };
            match token {
                Token::Word => words.push(word),
                Token::End | Token::Open if words.is_empty() => {
                    let what = if token == Token::End { ";" } else { "{" };
                    return Err(Fault::new(
                        word.place,
                        format!("unexpected {what}"),
                        "write a directive before it",
                    ));
                }
                Token::End | Token::Open => {
                    let directive = self.directive(std::mem::take(&mut words), token == Token::Open)?;
                    match &*directive.name.text {
                        "include" if directive.block.is_none() => self.reader.include(&directive, &mut directives)?,
                        _ => directives.push(directive),
                    }
                }
                Token::Close if !words.is_empty() => {
                    return Err(Fault::new(
                        word.place,
                        "unexpected }",
                        "write ; before it, at the end of the directive",
                    ));
                }
                Token::Close if opened.is_none() => {
                    return Err(Fault::new(
                        word.place,
                        "unexpected }: no block is open",
                        "take it out, or look for a { that is missing",
                    ));
                }
                Token::Close => return Ok(directives),
            }
        }
    }

    fn directive(&mut self, mut words: Vec<Word>, has_block: bool) -> Result<Directive, Fault> {
        self.reader.count += 1;
        let id = self.reader.count;
        let args = words.split_off(1);
        let name = words.remove(0);
        if id > DIRECTIVES_MAX {
            return Err(Fault::new(
                name.place,
                format!("more than {DIRECTIVES_MAX} directives"),
                "name fewer files",
            ));
        }
        let block = match has_block {
            false => None,
            true if name.text.ends_with("_by_lua_block") => {
                self.skip_lua(name.place)?;
                Some(Vec::new())
            }
            true => {
                if self.reader.depth >= DEPTH_MAX {
                    return Err(Fault::new(
                        name.place,
                        "blocks are nested too deeply",
                        "nginx has no blocks so deep",
                    ));
                }
                self.reader.depth += 1;
                let inner = self.block(Some(name.place));
                self.reader.depth -= 1;
                Some(inner?)
            }
        };
        Ok(Directive { id, name, args, block })
    }

    /// Lua between braces is no directive; its strings and comments may have braces of their own.
    fn skip_lua(&mut self, opened: Place) -> Result<(), Fault> {
        let bytes = self.text.as_bytes();
        let mut depth = 1;
        while let Some(byte) = bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'{' => depth += 1,
                b'}' if depth == 1 => return Ok(()),
                b'}' => depth -= 1,
                b'-' if bytes.get(self.at) == Some(&b'-') => {
                    self.at += bytes[self.at..]
                        .iter()
                        .position(|byte| *byte == b'\n')
                        .unwrap_or(bytes.len() - self.at);
                }
                b'"' | b'\'' => {
                    while let Some(next) = bytes.get(self.at) {
                        self.at += if *next == b'\\' { 2 } else { 1 };
                        if next == byte || *next == b'\n' {
                            break;
                        }
                    }
                }
                _ => {}
            }
        }
        self.at = bytes.len();
        Err(Fault::new(
            opened,
            "this block of Lua is not closed",
            "write the missing }",
        ))
    }

    /// The next word or mark; `None` at the end.
    fn token(&mut self) -> Result<Option<(Token, Word)>, Fault> {
        self.skip_space();
        let start = self.at;
        let Some(first) = self.text[start..].chars().next() else {
            return Ok(None);
        };
        let mark = match first {
            ';' => Some(Token::End),
            '{' => Some(Token::Open),
            '}' => Some(Token::Close),
            _ => None,
        };
        if let Some(token) = mark {
            self.at += 1;
            let place = self.place(start, self.at);
            return Ok(Some((
                token,
                Word {
                    text: String::new(),
                    place,
                },
            )));
        }
        let text = match first {
            '"' | '\'' => self.quoted(first)?,
            _ => self.bare(),
        };
        let place = self.place(start, self.at);
        if let Some(at) = self.text[start..self.at].find(char::REPLACEMENT_CHARACTER) {
            let place = self.place(start + at, start + at + char::REPLACEMENT_CHARACTER.len_utf8());
            return Err(Fault::new(place, "not UTF-8", "save the file as UTF-8"));
        }
        Ok(Some((Token::Word, Word { text, place })))
    }

    fn skip_space(&mut self) {
        while let Some(c) = self.text[self.at..].chars().next() {
            match c {
                ' ' | '\t' | '\r' | '\n' => self.at += 1,
                '#' => self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at),
                _ => break,
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, Fault> {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.text[start + 1..].char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, escaped)) => unescape(escaped, &mut text),
                    None => break,
                },
                c if c == quote => {
                    self.at = start + 1 + at + 1;
                    let next = self.text[self.at..].chars().next();
                    return match next {
                        None | Some(' ' | '\t' | '\r' | '\n' | ';' | '{' | ')') => Ok(text),
                        Some(_) => {
                            let place = self.place(start, self.at);
                            Err(Fault::new(
                                place,
                                "a word goes on behind its closing quote",
                                "write a space or ; behind the quote",
                            ))
                        }
                    };
                }
                c => text.push(c),
            }
        }
        let line = self.text[start..].find('\n').map_or(self.text.len(), |end| start + end);
        Err(Fault::new(
            self.place(start, line),
            format!("{quote} is not closed"),
            "write the closing quote",
        ))
    }

    fn bare(&mut self) -> String {
        let start = self.at;
        let mut text = String::new();
        let mut chars = self.text[start..].char_indices();
        self.at = self.text.len();
        let mut is_behind_dollar = false;
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, escaped)) => unescape(escaped, &mut text),
                    None => text.push(c),
                },
                // ${name} is a variable.
                '{' if is_behind_dollar => text.push(c),
                ' ' | '\t' | '\r' | '\n' | ';' | '{' => {
                    self.at = start + at;
                    break;
                }
                c => text.push(c),
            }
            is_behind_dollar = c == '$';
        }
        text
    }
}

/// What a backslash means before `escaped`.
fn unescape(escaped: char, text: &mut String) {
    match escaped {
        '"' | '\'' | '\\' => text.push(escaped),
        't' => text.push('\t'),
        'r' => text.push('\r'),
        'n' => text.push('\n'),
        other => {
            text.push('\\');
            text.push(other);
        }
    }
}
