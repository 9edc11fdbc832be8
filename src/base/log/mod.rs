//! The log: each event becomes a line of text, of JSON or an entry of the journal, which waits in a bounded queue for a writer
//! thread. No worker ever waits for the output.

mod escaped;
mod file;
mod line;
mod list;
mod writer;

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use file::{FileSettings, LogFile};
use writer::{Queue, Request, Sink};

pub(crate) use escaped::EscapedStart;
pub use escaped::{Escaped, EscapedText};
pub(crate) use line::timestamp;
pub use list::List;
pub use writer::{dropped, unwritten};

/// The least time between two throttled warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Where journald takes entries in its own form.
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";

/// What systemd sets for a service whose standard output is the journal: the device and the inode of that stream.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// What is written, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The least severe level that is written.
    pub level: Level,
    /// Text for people, JSON for machines.
    pub format: Format,
    /// Where it is written to; `None` means the journal if text would get there over standard output, and standard output
    /// otherwise.
    pub output: Option<Output>,
    /// A file that it is written to instead.
    pub file: Option<PathBuf>,
    /// The file is rotated before it has more bytes; `None` never does.
    pub file_size_max: Option<u64>,
    /// So many rotated files are kept beside it: `PATH.1` is the newest.
    pub file_count: u32,
    /// Which lines a connection writes.
    pub connections: Connections,
    /// Lines per second, of the whole process, on connections that ended before they were routed.
    pub unrouted_rate: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            level: Level::default(),
            format: Format::default(),
            output: None,
            file: None,
            file_size_max: Some(100 << 20),
            file_count: 5,
            connections: Connections::default(),
            unrouted_rate: 20,
        }
    }
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
    /// Events that matter only when a problem is investigated.
    Debug,
}

/// The format of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the log is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Standard output.
    Stdout,
    /// journald, with priorities and fields of its own.
    Journald,
}

/// Which lines a connection writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// One line, at its end.
    #[default]
    End,
    /// One when it is relayed and one at its end.
    Both,
    /// No lines.
    None,
}

/// Which lines the connections of one worker write, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLines {
    /// Which lines a connection writes.
    pub connections: Connections,
    /// Lines per second on connections that ended before they were routed.
    pub unrouted_rate: u32,
}

impl Settings {
    fn of_file(&self) -> Option<FileSettings> {
        Some(FileSettings {
            path: self.file.clone()?,
            size_max: self.file_size_max,
            count: self.file_count,
        })
    }

    /// The lines of each of so many workers.
    pub fn lines_of_worker(&self, workers: usize) -> ConnectionLines {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        ConnectionLines {
            connections: self.connections,
            unrouted_rate: self.unrouted_rate.div_ceil(workers),
        }
    }
}

/// Keeps the log; when dropped, waits for the queued lines to be written.
#[derive(Debug)]
#[must_use]
pub struct Writer {
    /// `None` if another log was there before.
    queue: Option<Queue>,
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue {
            queue.flush();
        }
    }
}

/// Level and format now: a reload may change them.
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static FORMAT: AtomicU8 = AtomicU8::new(Format::Text as u8);

/// Whether lines are entries of the journal now.
static IS_JOURNAL: AtomicBool = AtomicBool::new(false);

/// The queue of this process, and the file that its lines go to.
static QUEUE: OnceLock<(Queue, Mutex<Option<FileSettings>>)> = OnceLock::new();

fn level() -> LevelFilter {
    match LEVEL.load(Ordering::Relaxed) {
        level if level == Level::Error as u8 => LevelFilter::ERROR,
        level if level == Level::Warn as u8 => LevelFilter::WARN,
        level if level == Level::Debug as u8 => LevelFilter::DEBUG,
        _ => LevelFilter::INFO,
    }
}

/// The file of changed settings, opened.
#[derive(Debug)]
pub(crate) struct Prepared(Option<Sink>);

/// Opens what other settings of the log need, without using it yet.
///
/// # Errors
/// The file cannot be opened.
pub(crate) fn prepare(settings: &Settings) -> io::Result<Prepared> {
    let Some((_, current)) = QUEUE.get() else {
        return Ok(Prepared(None));
    };
    match *lock(current) == settings.of_file() {
        true => Ok(Prepared(None)),
        false => open(settings).map(|(sink, _)| Prepared(Some(sink))),
    }
}

/// Writes with this level and this format from now on, and to what was prepared for these settings.
///
/// `tracing` asks for the level once for each place in the code and keeps the answer, so a line that is not written costs one
/// comparison. It is told to ask again.
pub(crate) fn reconfigure(settings: &Settings, Prepared(sink): Prepared) {
    LEVEL.store(settings.level as u8, Ordering::Relaxed);
    FORMAT.store(settings.format as u8, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
    if let (Some(sink), Some((queue, current))) = (sink, QUEUE.get()) {
        IS_JOURNAL.store(matches!(sink, Sink::Journal(..)), Ordering::Relaxed);
        *lock(current) = settings.of_file();
        queue.request(Request::Use(sink));
    }
}

/// Opens the file of the log anew, where something else has moved it. Returns its path.
///
/// # Errors
/// The log is not in a file, or that cannot be opened; then lines go where they went before.
pub(crate) async fn reopen() -> io::Result<PathBuf> {
    /// The writer may wait for a disk.
    const ANSWER_MAX: Duration = Duration::from_secs(5);
    let no_writer = || io::Error::new(io::ErrorKind::Unsupported, "the log of this process is not Remora's");
    let (queue, _) = QUEUE.get().ok_or_else(no_writer)?;
    let (reply, answer) = oneshot::channel();
    queue.request(Request::Reopen(reply));
    match tokio::time::timeout(ANSWER_MAX, answer).await {
        Ok(Ok(reopened)) => reopened,
        Ok(Err(_)) => Err(no_writer()),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the log's writer waits for its output",
        )),
    }
}

fn lock(file: &Mutex<Option<FileSettings>>) -> MutexGuard<'_, Option<FileSettings>> {
    // Nothing panics while it is locked.
    file.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where lines go with these settings, and why not to the journal if they should.
fn open(settings: &Settings) -> io::Result<(Sink, Option<io::Error>)> {
    if let Some(file) = settings.of_file() {
        let opened = LogFile::open(&file).map_err(|error| {
            let message = format!(
                "log.file: {} cannot be opened: {error}; make its folder, and let the user of this process write there",
                file.path.display()
            );
            io::Error::new(error.kind(), message)
        })?;
        return Ok((Sink::File(opened), None));
    }
    let stdout = Sink::stdout();
    let stream = std::env::var(JOURNAL_STREAM).unwrap_or_default();
    let wants_journal = match settings.output {
        Some(output) => output == Output::Journald,
        // Lines of JSON are for the program that reads standard output.
        None => settings.format == Format::Text && stdout.is_journal_stream(&stream),
    };
    let journal = wants_journal.then(|| Sink::journal(JOURNAL_SOCKET.into()));
    Ok(match journal {
        Some(Ok(journal)) => (journal, None),
        Some(Err(error)) => (stdout, Some(error)),
        None => (stdout, None),
    })
}

/// Sends the log of this process to standard output, to the journal or to a file.
///
/// # Errors
/// The file cannot be opened.
pub fn init(settings: &Settings) -> io::Result<Writer> {
    let (sink, error) = open(settings)?;
    IS_JOURNAL.store(matches!(sink, Sink::Journal(..)), Ordering::Relaxed);
    reconfigure(settings, Prepared(None));
    let (queue, unwritten) = Queue::new();
    let log = Log { queue: queue.clone() };
    // A second start in the same process (tests, users of the library) keeps the first log.
    if tracing::subscriber::set_global_default(log).is_err() {
        return Ok(Writer { queue: None });
    }
    if let Err(error) = unwritten.write_to(sink) {
        // There is no log that could say so.
        eprintln!("remora: no thread for the log: {error}");
    }
    QUEUE.get_or_init(|| (queue.clone(), Mutex::new(settings.of_file())));
    if let Some(error) = error {
        tracing::warn!(%error, "journald does not answer; the log goes to standard output");
    }
    Ok(Writer { queue: Some(queue) })
}

/// Takes the events of the whole process. There are no spans.
#[derive(Debug)]
struct Log {
    queue: Queue,
}

impl Subscriber for Log {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.enabled(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    // It has a level and a target, and nothing of a connection. A level for one client id, address or listener belongs to the code
    // that knows those: the reporter of connections, which chooses between the levels of a line, and the places that have a record.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(level())
    }

    fn event(&self, event: &Event<'_>) {
        self.queue.push(match IS_JOURNAL.load(Ordering::Relaxed) {
            true => line::journal(event),
            false if FORMAT.load(Ordering::Relaxed) == Format::Json as u8 => line::json(event, SystemTime::now()),
            false => line::text(event, SystemTime::now()),
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Limits the rate of a warning that many clients could cause at once.
#[derive(Debug, Default)]
pub(crate) struct Throttled {
    last: Cell<Option<Instant>>,
    kept_back: Cell<u64>,
}

impl Throttled {
    /// If the warning is due at `now`, returns how many were kept back since the last one; otherwise counts it and returns `None`.
    pub(crate) fn due(&self, now: Instant) -> Option<u64> {
        if self.last.get().is_some_and(|last| now - last < WARN_INTERVAL) {
            self.kept_back.update(|kept_back| kept_back + 1);
            return None;
        }
        self.last.set(Some(now));
        Some(self.kept_back.take())
    }
}

/// Logs a warning if [`Throttled::due`] allows it, otherwise the same line at debug level.
macro_rules! warn_throttled {
    ($due:expr, $($line:tt)+) => {
        match $due {
            Some(kept_back) => tracing::warn!(kept_back, $($line)+),
            None => tracing::debug!($($line)+),
        }
    };
}

pub(crate) use warn_throttled;

/// A duration for a log line: in seconds, to the millisecond.
pub fn seconds(duration: Duration) -> f64 {
    let milliseconds = duration.as_micros().saturating_add(500) / 1_000;
    milliseconds as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_due_once_in_a_while_and_counts_those_before_it() {
        let throttled = Throttled::default();
        let start = Instant::now();
        let at = |ms| throttled.due(start + Duration::from_millis(ms));
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
}
