//! Applies a hint to the text of a configuration, as an operator would who reads it.

use std::ops::Range;

use remora::config::Problem;

/// The texts that the hint of `problem` leads to: one for each alternative that it names. Empty if it names nothing to write.
pub(super) fn alternatives(text: &str, problem: &Problem) -> Vec<String> {
    let (Some(hint), Some(span)) = (&problem.hint, &problem.span) else {
        return missing(text, problem);
    };
    let edit = Edit {
        text,
        span: span.clone(),
    };
    let mut found = Vec::new();
    if hint.starts_with("leave the key out") {
        found.push(edit.without_line());
    }
    if let Some(rest) = hint.strip_prefix("did you mean `") {
        return vec![edit.replaced(span.clone(), until(rest, '`'))];
    }
    if let Some(rest) = hint.strip_prefix("did you mean ") {
        return vec![edit.replaced(span.clone(), until(rest, '?'))];
    }
    if let Some((key, homes)) = hint.strip_prefix('`').and_then(|rest| rest.split_once("` belongs ")) {
        let (homes, near) = homes.split_once("; or did you mean `").unwrap_or((homes, ""));
        for home in homes.split(" or ") {
            found.push(edit.moved(key, home));
        }
        if !near.is_empty() {
            found.push(edit.replaced(span.clone(), until(near, '`')));
        }
        return found;
    }
    if hint.starts_with("leave the [[") {
        return vec![edit.without_table()];
    }
    let leaves = hint.contains("or leave the key out");
    if let Some(rest) = hint
        .strip_prefix("write ")
        .or_else(|| hint.split_once(", or write ").map(|(_, rest)| rest))
    {
        found.extend(edit.written(rest));
    } else if let Some(at) = hint.find("add ") {
        found.extend(edit.added(&hint[at + "add ".len()..]));
    }
    if leaves {
        found.push(edit.without_line());
    }
    found
}

/// Tables that are not in the file at all.
fn missing(text: &str, problem: &Problem) -> Vec<String> {
    let hint = problem.hint.as_deref().unwrap_or_default();
    let whole = Edit { text, span: 0..0 };
    hint.strip_prefix("add ").map_or(Vec::new(), |rest| whole.added(rest))
}

/// A text, and the part of it that a problem is about.
struct Edit<'a> {
    text: &'a str,
    span: Range<usize>,
}

impl Edit<'_> {
    fn replaced(&self, span: Range<usize>, with: &str) -> String {
        format!("{}{with}{}", &self.text[..span.start], &self.text[span.end..])
    }

    fn line(&self) -> Range<usize> {
        let start = self.text[..self.span.start].rfind('\n').map_or(0, |at| at + 1);
        let end = self.text[self.span.start..]
            .find('\n')
            .map_or(self.text.len(), |at| self.span.start + at + 1);
        start..end
    }

    fn without_line(&self) -> String {
        // A table whose name is the key goes as a whole.
        match self.text[self.line()].trim_start().starts_with('[') {
            true => self.without_table(),
            false => self.replaced(self.line(), ""),
        }
    }

    /// The section of the table that the problem is in.
    fn section(&self) -> Range<usize> {
        let line_end = self.line().end;
        let mut starts = self.text[..line_end].rmatch_indices('[').map(|(at, _)| at);
        let start = starts.find(|at| *at == 0 || self.text[..*at].ends_with('\n'));
        let start = start.unwrap_or(0);
        let end = self.text[line_end..]
            .find("\n[")
            .map_or(self.text.len(), |at| line_end + at + 1);
        let end = if self.text[line_end..].starts_with('[') {
            line_end
        } else {
            end
        };
        start..end
    }

    fn without_table(&self) -> String {
        self.replaced(self.section(), "")
    }

    /// With the line of the key in another table.
    fn moved(&self, key: &str, home: &str) -> String {
        let line = &self.text[self.line()];
        let value = line.split_once('=').map_or("", |(_, value)| value.trim());
        let without = self.without_line();
        match home.strip_prefix("in ") {
            Some(table) => set_in(&without, table, key, value),
            None => format!("{key} = {value}\n{without}"),
        }
    }

    /// With what stands behind "write ".
    fn written(&self, rest: &str) -> Vec<String> {
        if let Some(header) = header(rest) {
            let line = self.line();
            return vec![self.replaced(line, &format!("{header}\n"))];
        }
        if let Some((assignments, behind)) = assignments(rest) {
            let line = self.text[self.line()].to_owned();
            let is_whole_line = line.split('=').next().is_some_and(|key| key.trim() == assignments[0].0);
            // Not TOML: the line is written anew, and nothing else is known of it.
            if is_whole_line && !behind.starts_with(" in [") {
                let (key, value) = &assignments[0];
                return vec![self.replaced(self.line(), &format!("{key} = {value}\n"))];
            }
            let table = behind
                .strip_prefix(" in ")
                .map(|table| until(table, ' ').trim_end_matches([';', ',']));
            let with = |value_of_first: &str| {
                let mut text = self.without_line();
                for (number, (key, value)) in assignments.iter().enumerate() {
                    let value = if number == 0 { value_of_first } else { value };
                    text = match table {
                        Some(table) => set_in(&text, table, key, value),
                        None => set_at(&text, self.section().start, key, value),
                    };
                }
                text
            };
            // `"5000s", or "5s" if it is in milliseconds`
            let other = behind.split_once(", or ").and_then(|(_, other)| value(other));
            let values = [Some(assignments[0].1.as_str()), other];
            return values.into_iter().flatten().map(with).collect();
        }
        // The first value, and those behind "or" and "to".
        let mut values = Vec::new();
        let first = match rest.starts_with(['"', '[', '{']) || rest.starts_with(|c: char| c.is_ascii_digit()) {
            true => 0,
            false => match [
                "such as ",
                "like ",
                "usually ",
                "machine, or ",
                "from ",
                "true",
                "false",
            ]
            .iter()
            .find_map(|word| rest.find(word).map(|at| (at, *word)))
            {
                Some((at, word @ ("true" | "false"))) => {
                    let _ = word;
                    at
                }
                Some((at, word)) => at + word.len(),
                None => return Vec::new(),
            },
        };
        let mut rest = &rest[first..];
        while let Some(value) = value(rest) {
            values.push(value.to_owned());
            rest = &rest[value.len()..];
            let next = [", or ", " or ", " to ", ", "]
                .iter()
                .find_map(|word| rest.strip_prefix(word));
            match next {
                Some(next) if value_is_literal(next) => rest = next,
                _ => break,
            }
        }
        let more = rest.strip_prefix(", and add ").and_then(assignments);
        let with_more = |value: &String| {
            let text = self.replaced(self.span.clone(), value);
            let section = self.section().start;
            more.iter()
                .flat_map(|(more, _)| more)
                .fold(text, |text, (key, value)| set_at(&text, section, key, value))
        };
        values.iter().map(with_more).collect()
    }

    /// With what stands behind "add ".
    fn added(&self, rest: &str) -> Vec<String> {
        if let Some(header) = header(rest) {
            let with = rest.split_once(" with ").map_or("", |(_, with)| with);
            let Some((all, _)) = assignments(with) else {
                return Vec::new();
            };
            let text = match self.span.is_empty() || !self.text[self.line()].contains('=') {
                true => self.text.to_owned(),
                // A scalar of that name is no table.
                false
                    if self.text[self.span.clone()]
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
                {
                    self.without_line()
                }
                false => self.text.to_owned(),
            };
            let lines: String = all.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            return vec![format!("{text}\n{header}\n{lines}")];
        }
        let Some((all, behind)) = assignments(rest) else {
            return Vec::new();
        };
        let (key, value) = &all[0];
        let mut values = vec![value.clone()];
        // add client_certificates = "required" or "optional"
        values.extend(behind.strip_prefix(" or ").and_then(self::value).map(str::to_owned));
        let table = behind.strip_prefix(" in ").map(|table| until(table, ' '));
        let with = |value: &String| match table {
            None if self.text[self.span.clone()].starts_with('{') => {
                let inside = &self.text[self.span.start + 1..self.span.end];
                self.replaced(self.span.clone(), &format!("{{ {key} = {value},{inside}"))
            }
            Some(table) => set_in(self.text, table, key, value),
            None => set_at(self.text, self.section().start, key, value),
        };
        values.iter().map(with).collect()
    }
}

fn value_is_literal(text: &str) -> bool {
    text.starts_with(['"', '[', '{']) || text.starts_with(|c: char| c.is_ascii_digit()) || text.starts_with("false")
}

fn until(text: &str, end: char) -> &str {
    text.split(end).next().unwrap_or_default()
}

/// `[[name]]` or `[name]` at the start of a text.
fn header(text: &str) -> Option<&str> {
    let end = text.find("]]").map(|at| at + 2).filter(|_| text.starts_with("[["));
    let end = end.or_else(|| text.find(']').map(|at| at + 1).filter(|_| text.starts_with('[')))?;
    let name = text[..end].trim_matches(['[', ']']);
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.".contains(&b))).then(|| &text[..end])
}

type Assignments = Vec<(String, String)>;

/// `key = value and key = value` at the start of a text, and what is behind.
fn assignments(text: &str) -> Option<(Assignments, &str)> {
    let mut all = Vec::new();
    let mut rest = text;
    loop {
        let key_end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .filter(|end| *end > 0);
        let assignment = key_end.and_then(|end| {
            let value = value(rest[end..].strip_prefix(" = ")?)?;
            Some((
                rest[..end].to_owned(),
                value.to_owned(),
                end + " = ".len() + value.len(),
            ))
        });
        let Some((key, value, length)) = assignment else {
            break;
        };
        all.push((key, value));
        rest = &rest[length..];
        match [" and ", ", and add "].iter().find_map(|word| rest.strip_prefix(word)) {
            Some(next) => rest = next,
            None => break,
        }
    }
    (!all.is_empty()).then_some((all, rest))
}

/// A value of TOML at the start of a text.
fn value(text: &str) -> Option<&str> {
    let first = text.chars().next()?;
    let end = match first {
        '"' | '\'' => text[1..].find(first)? + 2,
        '[' | '{' => {
            let mut depth = 0;
            let mut in_string = false;
            text.char_indices().find_map(|(at, c)| {
                match c {
                    '"' => in_string = !in_string,
                    '[' | '{' if !in_string => depth += 1,
                    ']' | '}' if !in_string => depth -= 1,
                    _ => {}
                }
                (depth == 0 && !in_string).then_some(at + 1)
            })?
        }
        _ if text.starts_with("true") => "true".len(),
        _ if text.starts_with("false") => "false".len(),
        c if c.is_ascii_digit() => text.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(text.len()),
        _ => return None,
    };
    Some(&text[..end])
}

/// With a key in the table whose section begins at `start`.
fn set_at(text: &str, start: usize, key: &str, value: &str) -> String {
    let section = &text[start..];
    let first_line = section.find('\n').map_or(section.len(), |at| at + 1);
    let first_line = if section.starts_with('[') { first_line } else { 0 };
    let end = match section[first_line..].starts_with('[') {
        true => first_line,
        false => section[first_line..]
            .find("\n[")
            .map_or(section.len(), |at| first_line + at + 1),
    };
    let mut at = start;
    for line in section[..end].split_inclusive('\n') {
        if line.split('=').next().is_some_and(|other| other.trim() == key) {
            return format!("{}{key} = {value}\n{}", &text[..at], &text[at + line.len()..]);
        }
        at += line.len();
    }
    let at = start + first_line;
    format!("{}{key} = {value}\n{}", &text[..at], &text[at..])
}

/// With a key in the table with this header.
fn set_in(text: &str, table: &str, key: &str, value: &str) -> String {
    let table = table.trim_end_matches([':', ',', ';']);
    let at_start = text.starts_with(&format!("{table}\n")).then_some(0);
    match at_start.or_else(|| text.find(&format!("\n{table}\n")).map(|at| at + 1)) {
        Some(start) => set_at(text, start, key, value),
        None => format!("{text}\n{table}\n{key} = {value}\n"),
    }
}
