//! An event as one line: text for people, JSON for machines, or fields for the journal.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::escaped::{escape_text, is_safe};
use super::{Escaped, List};

/// A field that is written as it is, line by line, behind everything else.
const BACKTRACE: &str = "backtrace";

/// What the names of this program's fields begin with in the journal.
const JOURNAL_PREFIX: &str = "REMORA_";

/// A value of a field.
enum Value<'a> {
    /// A number or a truth, as Rust writes it.
    Plain(fmt::Arguments<'a>),
    Text(&'a str),
    /// Shown as text; in the alternate form, without escapes of its own.
    Shown(&'a dyn fmt::Debug),
    List(&'a List),
}

/// Takes the fields of an event, in order.
trait Fields {
    fn message(&mut self, text: &str);

    fn field(&mut self, name: &str, value: Value<'_>);
}

struct Visitor<F>(F);

impl<F: Fields> Visit for Visitor<F> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        match value.is_finite() {
            true => self.0.field(field.name(), Value::Plain(format_args!("{value}"))),
            // JSON has no number for it.
            false => self.0.field(field.name(), Value::Plain(format_args!("null"))),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.field(field.name(), Value::Plain(format_args!("{value}")));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.field(field.name(), Value::Plain(format_args!("{value}")));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.field(field.name(), Value::Plain(format_args!("{value}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.0.message(value),
            name => self.0.field(name, Value::Text(value)),
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        match value.downcast_ref::<List>() {
            Some(list) => self.0.field(field.name(), Value::List(list)),
            None => self.record_debug(field, &format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.0.message(&format!("{value:?}")),
            name => self.0.field(name, Value::Shown(value)),
        }
    }
}

/// The event as a line of text, with its end.
pub(super) fn text(event: &Event<'_>, now: SystemTime) -> Vec<u8> {
    let mut line = timestamp(now);
    // A string takes everything.
    let _ = write!(line, " {:>5} ", event.metadata().level().as_str());
    line += &Text::of(event);
    line.push('\n');
    line.into_bytes()
}

/// Message and fields, separated by spaces: `message number=1 address=127.0.0.1:1883 name="words of ours, or with spaces"`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
    backtrace: String,
}

impl Text {
    fn of(event: &Event<'_>) -> String {
        let mut visitor = Visitor(Self::default());
        event.record(&mut visitor);
        let Self {
            message,
            fields,
            backtrace,
        } = visitor.0;
        message + &fields + &backtrace
    }
}

impl Fields for Text {
    fn message(&mut self, text: &str) {
        escape_text(&mut self.message, text);
    }

    fn field(&mut self, name: &str, value: Value<'_>) {
        let is_word = matches!(value, Value::Text(_));
        let value = match value {
            Value::Text(text) if name == BACKTRACE => {
                self.backtrace = format!("\n{}", text.trim_end());
                return;
            }
            Value::Plain(value) => value.to_string(),
            Value::Text(text) => text.to_owned(),
            Value::Shown(value) => format!("{value:?}"),
            Value::List(list) => list.to_string(),
        };
        let is_bare = |c: char| is_safe(c) && c != '=';
        let is_quoted = is_word || value.is_empty() || !value.chars().all(is_bare);
        let quote = if is_quoted { "\"" } else { "" };
        let _ = write!(self.fields, " {name}={quote}");
        escape_text(&mut self.fields, &value);
        self.fields += quote;
    }
}

/// The event as one JSON object, with the end of the line.
pub(super) fn json(event: &Event<'_>, now: SystemTime) -> Vec<u8> {
    let level = event.metadata().level().as_str();
    let line = format!("{{\"timestamp\":\"{}\",\"level\":\"{level}\"", timestamp(now));
    let mut visitor = Visitor(Json(line));
    event.record(&mut visitor);
    let Visitor(Json(mut line)) = visitor;
    line += "}\n";
    line.into_bytes()
}

struct Json(String);

impl Json {
    fn name(&mut self, name: &str) {
        let _ = write!(self.0, ",\"{name}\":");
    }

    /// A string. What could do something to a terminal or a reader is escaped as JSON escapes it, so that it is the text itself
    /// once it was read.
    fn string(&mut self, text: &str) {
        self.0.push('"');
        for character in text.chars() {
            match character {
                '"' => self.0 += "\\\"",
                '\\' => self.0 += "\\\\",
                ' ' => self.0.push(' '),
                safe if is_safe(safe) => self.0.push(safe),
                other => {
                    let mut units = [0; 2];
                    for unit in other.encode_utf16(&mut units) {
                        let _ = write!(self.0, "\\u{unit:04x}");
                    }
                }
            }
        }
        self.0.push('"');
    }
}

impl Fields for Json {
    fn message(&mut self, text: &str) {
        self.name("message");
        self.string(text);
    }

    fn field(&mut self, name: &str, value: Value<'_>) {
        self.name(name);
        match value {
            Value::Plain(value) => drop(write!(self.0, "{value}")),
            Value::Text(text) => self.string(text),
            Value::Shown(value) => self.string(&format!("{value:#?}")),
            Value::List(list) => {
                let mut separator = '[';
                for value in list.values() {
                    self.0.push(separator);
                    self.string(&format!("{:#}", Escaped(value.as_bytes())));
                    separator = ',';
                }
                self.0 += if list.values().is_empty() { "[]" } else { "]" };
            }
        }
    }
}

/// The event as the journal takes it: one field a line, of which `MESSAGE` has the text with all fields, since that is what
/// journalctl shows.
pub(super) fn journal(event: &Event<'_>) -> Vec<u8> {
    // As syslog counts; journalctl shows notices (5) in bold, which no line about a client should be.
    let priority = match *event.metadata().level() {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    };
    let mut entry = Journal(Vec::with_capacity(512));
    entry.put("MESSAGE", &Text::of(event));
    entry.put("PRIORITY", priority);
    entry.put("SYSLOG_IDENTIFIER", "remora");
    let mut visitor = Visitor(entry);
    event.record(&mut visitor);
    visitor.0.0
}

struct Journal(Vec<u8>);

impl Journal {
    /// Adds a field. A value of several lines has its length before it (systemd's "Native Journal Protocol").
    fn put(&mut self, name: &str, value: &str) {
        let Self(entry) = self;
        entry.extend_from_slice(name.as_bytes());
        if value.contains('\n') {
            entry.push(b'\n');
            entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend_from_slice(value.as_bytes());
        entry.push(b'\n');
    }
}

impl Fields for Journal {
    fn message(&mut self, text: &str) {
        self.put("REMORA_MESSAGE", text);
    }

    fn field(&mut self, name: &str, value: Value<'_>) {
        let name = format!("{JOURNAL_PREFIX}{}", name.to_ascii_uppercase());
        match value {
            Value::Plain(value) => self.put(&name, &value.to_string()),
            Value::Text(text) => self.put(&name, text),
            Value::Shown(value) => self.put(&name, &format!("{value:#?}")),
            // A field may be there several times.
            Value::List(list) => {
                let values = list.values().iter();
                values.for_each(|value| self.put(&name, &format!("{:#}", Escaped(value.as_bytes()))));
            }
        }
    }
}

/// The time in UTC, as RFC 3339 writes it, to the microsecond.
pub(crate) fn timestamp(now: SystemTime) -> String {
    let mut text = String::new();
    // A clock that is set before 1970 or after 9999 has no such form, and stops no line.
    let written = write!(text, "{}", humantime::format_rfc3339_micros(now.max(UNIX_EPOCH)));
    match written {
        Ok(()) => text,
        Err(_) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests;
