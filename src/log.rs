//! Where log lines go: a bounded queue and one writer thread, text or JSON; no worker ever waits for the output.

use std::cell::Cell;
use std::fmt::{self, Write as _};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};

/// Lines that wait for the writer at most; more are dropped and counted.
const QUEUE_LINES_MAX: usize = 32 * 1024;

/// Bytes of a client id that are shown; a longer one is cut, with a hash of the whole.
const SHOWN_BYTES_MAX: usize = 128;

/// How long until the operator is told again of what goes on.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// What is written, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The least severe level that is written.
    pub level: Level,
    /// Text for people, JSON for machines.
    pub format: Format,
    /// Which lines a connection writes.
    pub connections: Connections,
}

/// The least severe level that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Someone must act.
    Error,
    /// An operator should look.
    Warn,
    /// Changes and connections.
    #[default]
    Info,
    /// Weather.
    Debug,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Which lines a connection writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// One line, at its end.
    #[default]
    End,
    /// One when it is relayed and one at its end.
    Both,
    /// None.
    None,
}

/// Keeps the writer alive; what is queued is written when it goes.
#[derive(Debug)]
#[must_use]
pub struct Writer {
    _guard: WorkerGuard,
}

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Lines dropped so far because the writer could not keep up.
pub fn dropped() -> u64 {
    DROPPED
        .get()
        .map_or(0, |dropped| dropped.dropped_lines() as u64)
}

/// Sends the log of this process to standard output.
pub fn init(settings: &Settings) -> Writer {
    let (lines, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUE_LINES_MAX)
        .lossy(true)
        .thread_name("remora-log")
        .finish(std::io::stdout());
    // A second start in the same process (tests, a library's user) keeps the first one's log.
    let _ = DROPPED.set(lines.error_counter());
    let level = match settings.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(lines)
        .with_ansi(false)
        .with_target(false);
    let _ = match settings.format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    Writer { _guard: guard }
}

/// How often a warning is written that every client of a storm has a reason for: once in a while.
#[derive(Debug, Default)]
pub struct Seldom {
    told: Cell<Option<Instant>>,
    kept_back: Cell<u64>,
}

impl Seldom {
    /// Whether the warning is due at `now`: how many were kept back since the last one, or none when this one is.
    pub fn due(&self, now: Instant) -> Option<u64> {
        if self.told.get().is_some_and(|told| now - told < TELL_AGAIN) {
            self.kept_back.update(|kept_back| kept_back + 1);
            return None;
        }
        self.told.set(Some(now));
        Some(self.kept_back.take())
    }
}

/// Writes a warning where [`Seldom::due`] says so, else the same line for whoever looks closely.
macro_rules! warn_seldom {
    ($due:expr, $($line:tt)+) => {
        match $due {
            Some(kept_back) => tracing::warn!(kept_back, $($line)+),
            None => tracing::debug!($($line)+),
        }
    };
}

pub(crate) use warn_seldom;

/// A duration as lines show it: in seconds, to the millisecond.
pub fn seconds(duration: Duration) -> f64 {
    let milliseconds = duration.as_micros().saturating_add(500) / 1_000;
    milliseconds as f64 / 1e3
}

/// Shows bytes that a client chose: escaped, so that they can forge neither a line nor a field of one, and cut, so that
/// they can flood no disk.
///
/// Control characters, spaces of all kinds, the characters that change the direction of text or cannot be seen, the quote,
/// the backslash, and bytes that are no UTF-8 appear as escapes.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a [u8]);

/// Shows bytes that a client chose, of which only the start was kept.
#[derive(Clone, Copy, Debug)]
pub struct ShownStart<'a> {
    /// The start.
    pub start: &'a [u8],
    /// How many bytes there were.
    pub bytes: usize,
    /// The XXH3-64 of all of them.
    pub hash: u64,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        if bytes.len() <= SHOWN_BYTES_MAX {
            return write_escaped(f, bytes);
        }
        let whole = ShownStart {
            start: bytes,
            bytes: bytes.len(),
            hash: xxhash_rust::xxh3::xxh3_64(bytes),
        };
        whole.fmt(f)
    }
}

impl fmt::Display for ShownStart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, bytes, hash } = *self;
        write_escaped(f, &start[..start.len().min(SHOWN_BYTES_MAX)])?;
        write!(f, "...({bytes}B,{hash:016x})")
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if is_safe(character) {
                f.write_char(character)?;
            } else {
                write!(f, "\\u{{{:x}}}", u32::from(character))?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

fn is_safe(character: char) -> bool {
    !character.is_control()
        && !character.is_whitespace()
        && !matches!(
            character,
            '"' | '\\' | '\u{feff}' | '\u{e0000}'..='\u{e007f}'
        )
        && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{061c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_chose_can_forge_no_line() {
        let cases: &[(&[u8], &str)] = &[
            (b"sensor-1", "sensor-1"),
            ("Gerät-7".as_bytes(), "Gerät-7"),
            (b"a node=emqx9", "a\\u{20}node=emqx9"),
            ("a\u{a0}b\u{3000}c".as_bytes(), "a\\u{a0}b\\u{3000}c"),
            ("a\u{e0041}b".as_bytes(), "a\\u{e0041}b"),
            (b"a\nb", "a\\u{a}b"),
            (b"a\x1b[31mb", "a\\u{1b}[31mb"),
            (b"a\"b\\c", "a\\u{22}b\\u{5c}c"),
            (b"\xff\x00", "\\xff\\u{0}"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
            ("a\u{2028}b".as_bytes(), "a\\u{2028}b"),
            ("a\u{85}b".as_bytes(), "a\\u{85}b"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(Shown(bytes).to_string(), *shown);
        }
    }

    #[test]
    fn a_warning_is_due_once_in_a_while_and_counts_those_before_it() {
        let seldom = Seldom::default();
        let start = Instant::now();
        let at = |ms| seldom.due(start + Duration::from_millis(ms));
        assert_eq!(at(0), Some(0));
        assert_eq!(at(0), None);
        assert_eq!(at(9_999), None);
        assert_eq!(at(10_000), Some(2));
        assert_eq!(at(19_999), None);
        assert_eq!(at(60_000), Some(1));
        assert_eq!(at(70_000), Some(0));
    }

    #[test]
    fn seconds_are_shown_to_the_millisecond() {
        let shown = |us| seconds(Duration::from_micros(us)).to_string();
        assert_eq!(shown(3_000_923), "3.001");
        assert_eq!(shown(3_000_499), "3");
        assert_eq!(shown(0), "0");
        assert_eq!(shown(31_536_000_123_456), "31536000.123");
    }

    #[test]
    fn a_long_id_is_cut_and_told_apart_by_its_hash() {
        let one = [b'a'; 300];
        let mut other = one;
        other[299] = b'b';
        let (one, other) = (Shown(&one).to_string(), Shown(&other).to_string());
        assert!(one.starts_with(&"a".repeat(128)));
        assert!(one.len() < 180, "{one}");
        assert_ne!(one, other);
    }
}
