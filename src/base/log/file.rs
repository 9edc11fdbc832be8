//! The log in a file: rotated before it becomes larger than it may be, and opened anew when something else has moved or removed it.
//!
//! Everything here runs on the writer's thread, so that a disk that is slow or full holds up nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use tokio::time::Instant;

/// How often the path is looked at: whether the open file is still there, and how large it is.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long after a rotation that failed the next is tried.
const ROTATE_RETRY: Duration = Duration::from_secs(10);

/// Client ids and addresses are no business of every user's.
const MODE: u32 = 0o640;

/// A file that the log is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileSettings {
    /// Where it is.
    pub(super) path: PathBuf,
    /// It is rotated before it has more bytes; `None` never does.
    pub(super) size_max: Option<u64>,
    /// So many rotated files are kept beside it: `PATH.1` is the newest.
    pub(super) count: u32,
}

/// The file while it is written to.
#[derive(Debug)]
pub(super) struct LogFile {
    settings: FileSettings,
    /// `None` if it could not be opened; it is tried again once a second.
    open: Option<Open>,
    looked_at: Instant,
    /// A rotation has failed, and none is tried before.
    rotates_from: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    file: File,
    device: u64,
    inode: u64,
    size: u64,
    is_regular: bool,
}

impl Open {
    fn new(path: &Path) -> io::Result<Self> {
        // Opened like this, a pipe without a reader is an error at once.
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(MODE).custom_flags(nonblock);
        let file = match options.open(path) {
            // The folder was removed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(|at| !at.exists()) => {
                path.parent().map_or(Ok(()), fs::create_dir)?;
                options.open(path)?
            }
            opened => opened?,
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() && !metadata.file_type().is_char_device() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Self {
            file,
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            is_regular: metadata.is_file(),
        })
    }

    fn is_at(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }

    /// Writes a line, whole or not at all.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let mut written = 0;
        while written < line.len() {
            match self.file.write(&line[written..]) {
                Ok(0) => return Err(self.take_back(written, io::ErrorKind::WriteZero.into())),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.take_back(written, error)),
            }
        }
        self.size += line.len() as u64;
        Ok(())
    }

    /// Removes the part of a line that was written, so that the next one begins a line.
    fn take_back(&self, written: usize, error: io::Error) -> io::Error {
        if written > 0
            && let Ok(metadata) = self.file.metadata()
        {
            // If that fails as well, half a line stays.
            let _ = self.file.set_len(metadata.len().saturating_sub(written as u64));
        }
        error
    }
}

impl LogFile {
    /// Opens the file, and creates it if it is not there.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn open(settings: &FileSettings) -> io::Result<Self> {
        Ok(Self {
            open: Some(Open::new(&settings.path)?),
            settings: settings.clone(),
            looked_at: Instant::now(),
            rotates_from: None,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.settings.path
    }

    /// Opens what is at the path now. The file that was open before stays in use if that fails.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.open = Some(Open::new(&self.settings.path)?);
        Ok(())
    }

    /// Appends a line. One that does not fit begins the next file.
    pub(super) fn write(&mut self, line: &[u8], now: Instant) -> io::Result<()> {
        if now.duration_since(self.looked_at) >= LOOK_INTERVAL {
            self.look(now)?;
        }
        let is_full = |open: &Open| {
            let max = self.settings.size_max.filter(|_| open.is_regular);
            max.is_some_and(|max| open.size > 0 && open.size.saturating_add(line.len() as u64) > max)
        };
        if self.open.as_ref().is_some_and(is_full) && self.rotates_from.is_none_or(|from| now >= from) {
            // If it fails, a file that is too large is better than lines that are lost.
            self.rotates_from = self.rotate().is_err().then_some(now + ROTATE_RETRY);
        }
        match &mut self.open {
            Some(open) => open.write(line),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Looks whether the file is still at its path, and opens the one that is there now if not.
    fn look(&mut self, now: Instant) -> io::Result<()> {
        self.looked_at = now;
        let path = &self.settings.path;
        match &mut self.open {
            Some(open) if open.is_at(path) => {
                // It may have been truncated.
                open.size = open.file.metadata().map_or(open.size, |metadata| metadata.len());
                Ok(())
            }
            Some(open) => {
                // What is written to a file without a name would be lost without a word. One that was moved is better than none.
                let is_somewhere = open.file.metadata().is_ok_and(|metadata| metadata.nlink() > 0);
                match self.reopen() {
                    Err(_) if is_somewhere => Ok(()),
                    Err(error) => {
                        self.open = None;
                        Err(error)
                    }
                    Ok(()) => Ok(()),
                }
            }
            None => self.reopen(),
        }
    }

    /// Moves `PATH` to `PATH.1`, that to `PATH.2` and so on, without those beyond the count, and begins a new file.
    fn rotate(&mut self) -> io::Result<()> {
        let FileSettings { path, count, .. } = &self.settings;
        let is_there = self.open.as_ref().is_some_and(|open| open.is_at(path));
        // Otherwise something else has moved it.
        if is_there {
            if *count == 0 {
                fs::remove_file(path)?;
            }
            for number in (0..*count).rev() {
                match fs::rename(numbered(path, number), numbered(path, number + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            // The count may have been greater.
            let mut beyond = *count + 1;
            while fs::remove_file(numbered(path, beyond)).is_ok() {
                beyond += 1;
            }
        }
        self.reopen()
    }
}

/// The path of a rotated file; that of the log itself for 0.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(folder: &Path, size_max: u64, count: u32) -> FileSettings {
        FileSettings {
            path: folder.join("remora.log"),
            size_max: Some(size_max),
            count,
        }
    }

    fn unbounded(path: PathBuf) -> FileSettings {
        FileSettings {
            path,
            size_max: None,
            count: 1,
        }
    }

    fn text(path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(path).ok()
    }

    #[test]
    fn no_file_is_larger_than_it_may_be_and_no_more_are_kept_than_were_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path(), 20, 2);
        let mut log = LogFile::open(&settings).expect("a file");
        let now = Instant::now();
        for number in 0..9 {
            log.write(format!("line {number:02}\n").as_bytes(), now).expect("room");
        }
        log.write(b"one that is longer than a file may be\n", now)
            .expect("room");
        let path = settings.path.clone();
        let numbered = |number| text(numbered(&path, number));
        assert_eq!(numbered(0).as_deref(), Some("one that is longer than a file may be\n"));
        assert_eq!(numbered(1).as_deref(), Some("line 08\n"));
        assert_eq!(numbered(2).as_deref(), Some("line 06\nline 07\n"));
        assert_eq!(numbered(3), None);
        // After a restart, what is there counts; with a smaller count, those beyond go.
        let settings = FileSettings { count: 1, ..settings };
        let mut log = LogFile::open(&settings).expect("a file");
        log.write(b"next\n", now).expect("room");
        assert_eq!(text(&settings.path).as_deref(), Some("next\n"));
        assert!(numbered(1).expect("a file").starts_with("one that"));
        assert_eq!(numbered(2), None);
        let settings = FileSettings { count: 0, ..settings };
        let mut log = LogFile::open(&settings).expect("a file");
        log.write(b"0123456789abcdef\n", now).expect("room");
        assert_eq!(text(&settings.path).as_deref(), Some("0123456789abcdef\n"));
    }

    #[test]
    fn a_file_that_was_moved_is_written_to_until_it_is_reopened_or_a_second_has_passed() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path(), 1 << 20, 2);
        let mut log = LogFile::open(&settings).expect("a file");
        let now = Instant::now();
        let moved = folder.path().join("moved");
        log.write(b"a\n", now).expect("room");
        fs::rename(&settings.path, &moved).expect("moved");
        log.write(b"b\n", now).expect("room");
        assert_eq!(text(&moved).as_deref(), Some("a\nb\n"));
        log.reopen().expect("a file");
        log.write(b"c\n", now).expect("room");
        assert_eq!(text(&settings.path).as_deref(), Some("c\n"));
        fs::rename(&settings.path, &moved).expect("moved");
        log.write(b"d\n", now + 2 * SECOND).expect("room");
        assert_eq!(text(&settings.path).as_deref(), Some("d\n"));
        assert_eq!(text(&moved).as_deref(), Some("c\n"));
        // As long as no other can be opened, the one that was moved has to do.
        fs::rename(&settings.path, &moved).expect("moved");
        fs::create_dir(&settings.path).expect("a folder");
        log.write(b"e\n", now + 4 * SECOND).expect("room");
        fs::remove_dir(&settings.path).expect("removed");
        log.write(b"f\n", now + 6 * SECOND).expect("room");
        assert_eq!(text(&moved).as_deref(), Some("d\ne\n"));
        assert_eq!(text(&settings.path).as_deref(), Some("f\n"));
        // The folder goes, and comes back by itself.
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).expect("a folder");
        let settings = unbounded(inner.join("log"));
        let mut log = LogFile::open(&settings).expect("a file");
        fs::remove_dir_all(&inner).expect("removed");
        log.write(b"e\n", Instant::now() + 2 * SECOND).expect("room");
        assert_eq!(text(&settings.path).as_deref(), Some("e\n"));
        // Something is in its place.
        fs::remove_dir_all(&inner).expect("removed");
        fs::write(&inner, b"").expect("a file");
        log.write(b"lost\n", Instant::now() + 4 * SECOND)
            .expect_err("no folder");
        log.write(b"lost\n", Instant::now() + 4 * SECOND)
            .expect_err("no folder");
        fs::remove_file(&inner).expect("removed");
        log.write(b"f\n", Instant::now() + 6 * SECOND).expect("room");
        assert_eq!(text(&settings.path).as_deref(), Some("f\n"));
    }

    #[test]
    fn a_file_that_was_truncated_is_rotated_by_its_size_now() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = settings(folder.path(), 20, 1);
        let mut log = LogFile::open(&settings).expect("a file");
        let now = Instant::now();
        log.write(b"0123456789abcde\n", now).expect("room");
        File::create(&settings.path).expect("truncated");
        log.write(b"0123456789\n", now + 2 * SECOND).expect("room");
        assert_eq!(text(&settings.path).as_deref(), Some("0123456789\n"));
        assert_eq!(text(numbered(&settings.path, 1)), None);
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_so_and_what_is_no_file_is_refused() {
        let settings = unbounded("/dev/full".into());
        let mut log = LogFile::open(&settings).expect("a device");
        let full = log.write(b"lost\n", Instant::now()).expect_err("it is full");
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let folder = tempfile::tempdir().expect("a folder");
        assert!(LogFile::open(&unbounded(folder.path().to_owned())).is_err());
        let missing = unbounded(folder.path().join("a/b/log"));
        assert!(LogFile::open(&missing).is_err());
    }
}
