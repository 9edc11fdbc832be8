//! The writer: a bounded queue, and a thread that writes what is in it to standard output or to the journal.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::time::Duration;

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
        }
    }
}

enum Message {
    Line(Vec<u8>),
    /// Everything before it is to be written; then the waiting thread is told.
    Flush(SyncSender<()>),
}

/// The sending end of the queue.
#[derive(Clone, Debug)]
pub(super) struct Queue(SyncSender<Message>);

/// The queue whose lines nobody writes yet.
pub(super) struct Unwritten(Receiver<Message>);

impl Queue {
    pub(super) fn new() -> (Self, Unwritten) {
        let (sender, receiver) = mpsc::sync_channel(QUEUE_LINES_MAX);
        (Self(sender), Unwritten(receiver))
    }

    /// Adds a line, unless the queue is full. Never waits.
    pub(super) fn push(&self, line: Vec<u8>) {
        if self.0.try_send(Message::Line(line)).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until the lines so far are written, or until none is written any more.
    pub(super) fn flush(&self) {
        let (done, is_done) = mpsc::sync_channel(1);
        let mut waiting = Some(Message::Flush(done));
        let (mut written, mut in_vain) = (WRITTEN.load(Ordering::Relaxed), 0);
        while in_vain < LOOKS_IN_VAIN_MAX {
            match waiting.take().map(|flush| self.0.try_send(flush)) {
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
        let Self(messages) = self;
        let thread = std::thread::Builder::new().name("remora-log".into());
        // Ends with the process.
        thread.spawn(move || {
            for message in messages {
                match message {
                    Message::Line(line) => {
                        if sink.write(&line).is_err() {
                            UNWRITTEN.fetch_add(1, Ordering::Relaxed);
                        }
                        WRITTEN.fetch_add(1, Ordering::Relaxed);
                    }
                    // If nobody waits any more, nothing is lost.
                    Message::Flush(done) => drop(done.try_send(())),
                }
            }
        })?;
        Ok(())
    }
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
        let mut sink = Sink::journal(path.clone()).expect("somebody is there");
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
}
