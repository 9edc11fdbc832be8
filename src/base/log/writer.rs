//! The writer: a bounded queue, and a thread that writes what is in it to standard output, to the journal or to a file.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::file::LogFile;

/// The most lines that wait for the writer; further ones are dropped and counted.
const QUEUE_LINES_MAX: usize = 32 * 1024;

/// How often the end of the process looks whether the writer still writes.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// After so many looks at a writer that has written nothing meanwhile, the process ends without the lines that are left.
const LOOKS_IN_VAIN_MAX: u32 = 100;

static DROPPED: AtomicU64 = AtomicU64::new(0);
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);
static WRITTEN: AtomicU64 = AtomicU64::new(0);

/// Lines dropped so far because the writer could not keep up.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Lines lost so far because they could not be written: the disk is full, or nobody reads the pipe any more.
pub fn unwritten() -> u64 {
    UNWRITTEN.load(Ordering::Relaxed)
}

/// Where lines are written to.
#[derive(Debug)]
pub(super) enum Sink {
    /// Standard output, as a file of its own: nothing is buffered, so that no part of a line stays behind after an error.
    Stdout(Option<File>),
    /// The socket of the journal. It is named for each line, since another one may be there after journald was started again.
    Journal(UnixDatagram, PathBuf),
    /// A file.
    File(LogFile),
}

impl Sink {
    /// Standard output.
    pub(super) fn stdout() -> Self {
        // A process without standard output writes nowhere.
        Self::Stdout(io::stdout().as_fd().try_clone_to_owned().map(File::from).ok())
    }

    /// The journal whose socket is at `path`.
    ///
    /// # Errors
    /// Nobody takes datagrams there.
    pub(super) fn journal(path: PathBuf) -> io::Result<Self> {
        UnixDatagram::unbound()?.connect(&path)?;
        Ok(Self::Journal(UnixDatagram::unbound()?, path))
    }

    /// Whether this is standard output, and what `stream` describes: the device and the inode that systemd has connected to the
    /// journal (`JOURNAL_STREAM`, systemd.exec(5)).
    pub(super) fn is_journal_stream(&self, stream: &str) -> bool {
        let Self::Stdout(Some(output)) = self else {
            return false;
        };
        let described = stream
            .split_once(':')
            .and_then(|(device, inode)| Some((device.parse::<u64>().ok()?, inode.parse::<u64>().ok()?)));
        let is = output.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        described.is_some() && described == is.ok()
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout(Some(output)) => output.write_all(line),
            Self::Stdout(None) => Ok(()),
            Self::Journal(socket, path) => socket.send_to(line, path).map(drop),
            Self::File(file) => file.write(line, Instant::now()),
        }
    }

    fn reopen(&mut self) -> io::Result<PathBuf> {
        match self {
            Self::File(file) => file.reopen().map(|()| file.path().to_owned()),
            Self::Stdout(_) | Self::Journal(..) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the log is not in a file (log.file)",
            )),
        }
    }
}

enum Message {
    Line(Vec<u8>),
    /// Everything before it is to be written; then the waiting thread is told.
    Flush(SyncSender<()>),
    /// With its number; boxed, since the queue has room for thousands of messages.
    Request(Box<(u64, Request)>),
    /// There is a request for which this queue had no room.
    Look,
}

/// What the writer is asked for between two lines.
pub(super) enum Request {
    /// To write further lines there.
    Use(Sink),
    /// To open the file of the log anew; the answer is its path.
    Reopen(oneshot::Sender<io::Result<PathBuf>>),
}

/// Requests for which the queue of the lines had no room.
type Requests = Arc<Mutex<VecDeque<(u64, Request)>>>;

/// The sending end of the queue.
#[derive(Clone)]
pub(super) struct Queue {
    messages: SyncSender<Message>,
    requests: Requests,
    /// How many requests there were.
    numbers: Arc<AtomicU64>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}

/// The queue whose lines nobody writes yet.
pub(super) struct Unwritten(Receiver<Message>, Requests);

impl Queue {
    pub(super) fn new() -> (Self, Unwritten) {
        let (messages, receiver) = mpsc::sync_channel(QUEUE_LINES_MAX);
        let requests = Requests::default();
        let unwritten = Unwritten(receiver, Arc::clone(&requests));
        let queue = Self {
            messages,
            requests,
            numbers: Arc::default(),
        };
        (queue, unwritten)
    }

    /// Asks the writer for something, which it does behind the lines so far, or sooner if the queue is full. Never waits.
    pub(super) fn request(&self, request: Request) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let sent = self.messages.try_send(Message::Request(Box::new((number, request))));
        if let Err(TrySendError::Full(Message::Request(request))) = sent {
            lock(&self.requests).push_back(*request);
            // If it is full still, the writer has something to write, and looks behind each line.
            let _ = self.messages.try_send(Message::Look);
        }
    }

    /// Adds a line, unless the queue is full. Never waits.
    pub(super) fn push(&self, line: Vec<u8>) {
        if self.messages.try_send(Message::Line(line)).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the lines so far are written, or until none is written any more.
    pub(super) fn flush(&self) {
        let (done, is_done) = mpsc::sync_channel(1);
        let mut waiting = Some(Message::Flush(done));
        let (mut written, mut in_vain) = (WRITTEN.load(Ordering::Relaxed), 0);
        while in_vain < LOOKS_IN_VAIN_MAX {
            match waiting.take().map(|flush| self.messages.try_send(flush)) {
                None | Some(Ok(())) => {}
                Some(Err(TrySendError::Full(flush))) => waiting = Some(flush),
                Some(Err(TrySendError::Disconnected(_))) => return,
            }
            if is_done.recv_timeout(LOOK_INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let now = WRITTEN.load(Ordering::Relaxed);
            in_vain = if now == written { in_vain + 1 } else { 0 };
            written = now;
        }
    }
}

impl Unwritten {
    /// Writes the lines to `sink` from now on, on a thread of its own.
    ///
    /// # Errors
    /// No thread can be started.
    pub(super) fn write_to(self, mut sink: Sink) -> io::Result<()> {
        let Self(messages, requests) = self;
        let thread = std::thread::Builder::new().name("remora-log".into());
        // Ends with the process.
        thread.spawn(move || {
            let mut lost = Lost::default();
            let mut used = 0;
            for message in messages {
                let mut request = match message {
                    Message::Line(line) => {
                        let written = sink.write(&line);
                        lost.note(&sink, written);
                        WRITTEN.fetch_add(1, Ordering::Relaxed);
                        None
                    }
                    // If nobody waits any more, nothing is lost.
                    Message::Flush(done) => {
                        let _ = done.try_send(());
                        None
                    }
                    Message::Request(request) => Some(*request),
                    Message::Look => None,
                };
                while let Some((number, now)) = request.take().or_else(|| next(&requests)) {
                    match now {
                        // One for which there was no room has come before this one.
                        Request::Use(_) if number < used => {}
                        Request::Use(other) => (sink, used) = (other, number),
                        Request::Reopen(reply) => drop(reply.send(sink.reopen())),
                    }
                }
            }
        })?;
        Ok(())
    }
}

/// Lines that a file has not taken since it took one.
#[derive(Default)]
struct Lost(u64);

impl Lost {
    /// Counts a line that was lost. The first one is said on standard error, since the log cannot say it, and their number in the log
    /// once that can be written again.
    fn note(&mut self, sink: &Sink, written: io::Result<()>) {
        let file = match sink {
            Sink::File(file) => Some(file.path().display()),
            Sink::Stdout(_) | Sink::Journal(..) => None,
        };
        match (written, file) {
            (Ok(()), Some(file)) if self.0 > 0 => {
                tracing::warn!(lines = self.0, %file, "the log can be written again; lines before this one are lost");
                self.0 = 0;
            }
            (Ok(()), _) => {}
            (Err(error), file) => {
                UNWRITTEN.fetch_add(1, Ordering::Relaxed);
                if let (0, Some(file)) = (self.0, file) {
                    // Nobody may be there to read it.
                    let _ = writeln!(io::stderr(), "remora: the log cannot be written to {file}: {error}");
                }
                self.0 += 1;
            }
        }
    }
}

fn next(requests: &Requests) -> Option<(u64, Request)> {
    lock(requests).pop_front()
}

fn lock(requests: &Requests) -> MutexGuard<'_, VecDeque<(u64, Request)>> {
    // Nothing panics while it is locked.
    requests.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_file_that_the_journal_reads_is_its_stream() {
        let file = tempfile::tempfile().expect("a file");
        let is = file.metadata().expect("it is open");
        let sink = Sink::Stdout(Some(file));
        assert!(sink.is_journal_stream(&format!("{}:{}", is.dev(), is.ino())));
        for other in [
            format!("{}:{}", is.dev(), is.ino() + 1),
            format!("{}:{}", is.dev() + 1, is.ino()),
            is.ino().to_string(),
            String::new(),
        ] {
            assert!(!sink.is_journal_stream(&other), "{other}");
        }
        assert!(!Sink::Stdout(None).is_journal_stream("0:0"));
    }

    #[test]
    fn a_line_to_a_journal_that_is_gone_is_counted_and_the_next_one_finds_its_successor() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        assert!(Sink::journal(path.clone()).is_err(), "nobody is there");
        let journal = UnixDatagram::bind(&path).expect("a socket");
        let mut sink = Sink::journal(path.clone()).expect("a journal");
        sink.write(b"MESSAGE=one\n").expect("room");
        let mut entry = [0; 64];
        let bytes = journal.recv(&mut entry).expect("an entry");
        assert_eq!(&entry[..bytes], b"MESSAGE=one\n");
        drop(journal);
        assert!(sink.write(b"MESSAGE=lost\n").is_err());
        std::fs::remove_file(&path).expect("it is there");
        let journal = UnixDatagram::bind(&path).expect("a socket");
        sink.write(b"MESSAGE=two\n").expect("room");
        let bytes = journal.recv(&mut entry).expect("an entry");
        assert_eq!(&entry[..bytes], b"MESSAGE=two\n");
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_a_flush_of_it_ends() {
        let (queue, unwritten) = Queue::new();
        let before = dropped();
        for _ in 0..QUEUE_LINES_MAX + 3 {
            queue.push(Vec::new());
        }
        assert!(dropped() >= before + 3);
        // Nobody writes: it must not wait for ever.
        queue.flush();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let output = file.reopen().expect("it is there");
        unwritten.write_to(Sink::Stdout(Some(output))).expect("a thread");
        queue.flush();
        queue.push(b"the last\n".to_vec());
        queue.flush();
        assert_eq!(std::fs::read(file.path()).expect("a file"), b"the last\n");
    }

    #[test]
    fn another_output_gets_the_lines_behind_the_change_even_if_the_queue_was_full_then() {
        let (queue, unwritten) = Queue::new();
        let files: Vec<_> = (0..3)
            .map(|_| tempfile::NamedTempFile::new().expect("a file"))
            .collect();
        let sink = |number: usize| Sink::Stdout(Some(files[number].reopen().expect("it is there")));
        queue.push(b"a\n".to_vec());
        queue.request(Request::Use(sink(1)));
        for _ in 0..QUEUE_LINES_MAX {
            queue.push(b"b\n".to_vec());
        }
        // There is no room for this one.
        queue.request(Request::Use(sink(2)));
        unwritten.write_to(sink(0)).expect("a thread");
        queue.flush();
        queue.push(b"c\n".to_vec());
        queue.flush();
        let text = |number: usize| std::fs::read(files[number].path()).expect("a file");
        assert_eq!(text(0), b"a\n");
        assert!(
            text(1).is_empty(),
            "it was asked for the next one before it wrote there"
        );
        assert!(text(2).ends_with(b"b\nc\n"));
    }
}
