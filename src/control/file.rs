//! Reads the file in which a program beside this one lists the nodes. The file is read anew each time: a look at its time or its size
//! alone would miss a link that leads to another file, or a file that is mounted over it.
//!
//! What is read may be half of what is written. A file is used only after it has stayed the same for a moment, and only if its last line
//! is complete.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::discovery::{Found, FoundAnswer};
use crate::cluster::Member;

/// The most bytes of a file of nodes.
const BYTES_MAX: u64 = 1 << 20;

/// For so long a file must have stayed the same.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// Reads what a file of nodes says.
pub trait NodesFormat: fmt::Debug + Send + Sync {
    /// The nodes in `text`, which is that of `file`.
    ///
    /// # Errors
    /// What is wrong with it, in one line that names the file and the place in it.
    fn read(&self, file: &Path, text: &str) -> Result<Vec<Member>, String>;
}

/// Reads a file of nodes, one time after the other.
#[derive(Clone, Debug)]
pub struct NodesFile {
    format: Arc<dyn NodesFormat>,
    /// A file system that hangs keeps one thread, and not another one at each interval.
    turn: Arc<Semaphore>,
}

/// What a file had when it was read.
#[derive(Debug)]
struct Contents {
    bytes: Vec<u8>,
    /// It has not been written to lately.
    is_settled: bool,
}

impl NodesFile {
    /// Reads files of this format.
    pub fn new(format: impl NodesFormat + 'static) -> Self {
        Self {
            format: Arc::new(format),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    /// The nodes in `file`, once it has stayed the same for a moment.
    pub(super) async fn find(&self, file: &Path, due: Instant) -> FoundAnswer {
        let settled = tokio::time::timeout_at(due, self.settled(file)).await;
        let bytes = match settled {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(format!("{}: {error}", file.display())),
            Err(_) => {
                let why = "it cannot be read in time, or changes all the time";
                return Err(format!("{}: {why}", file.display()));
            }
        };
        let (format, file) = (Arc::clone(&self.format), file.to_owned());
        // A large file takes milliseconds.
        let read = tokio::task::spawn_blocking(move || found(&*format, &file, bytes)).await;
        read.unwrap_or_else(|error| Err(format!("reading it panicked: {error}")))
    }

    async fn settled(&self, file: &Path) -> io::Result<Vec<u8>> {
        let mut before: Option<Vec<u8>> = None;
        loop {
            let Contents { bytes, is_settled } = self.contents(file).await?;
            // Files may be given any time: what was read twice counts as well.
            if is_settled || before.as_ref() == Some(&bytes) {
                return Ok(bytes);
            }
            before = Some(bytes);
            tokio::time::sleep(SETTLED_AFTER).await;
        }
    }

    async fn contents(&self, file: &Path) -> io::Result<Contents> {
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(io::Error::other)?;
        let file = file.to_owned();
        let read = move || {
            let contents = contents(&file);
            // Not before, even if the wait for it is over.
            drop(turn);
            contents
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

/// Reads a file of nodes.
///
/// # Errors
/// It cannot be read, is not a file, or is too large.
pub fn read(file: &Path) -> io::Result<Vec<u8>> {
    contents(file).map(|contents| contents.bytes)
}

fn contents(file: &Path) -> io::Result<Contents> {
    // A pipe would keep the thread until another process opens it.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(nonblocking).open(file)?;
    let found = opened.metadata()?;
    if !found.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut bytes = Vec::new();
    (&opened).take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    let age = found
        .modified()
        .map(|written| SystemTime::now().duration_since(written));
    Ok(Contents {
        is_settled: matches!(age, Ok(Ok(age)) if age >= SETTLED_AFTER),
        bytes,
    })
}

fn found(format: &dyn NodesFormat, file: &Path, bytes: Vec<u8>) -> FoundAnswer {
    let text = String::from_utf8(bytes).map_err(|_| format!("{}: not UTF-8", file.display()))?;
    let members = format.read(file, &text)?;
    Ok(members.into_iter().map(Found::from).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::fs::File;

    use super::*;
    use crate::cluster::{Endpoints, MemberEndpoint, NodeAddress};

    /// One node for each line, by its name.
    #[derive(Debug)]
    struct Lines;

    impl NodesFormat for Lines {
        fn read(&self, file: &Path, text: &str) -> Result<Vec<Member>, String> {
            let member = |name: &str| match name {
                "" => Err(format!("{}: an empty line", file.display())),
                name => Ok(Member {
                    name: name.to_owned(),
                    endpoints: Endpoints::only(MemberEndpoint::plain(NodeAddress::Host(name.to_owned(), 1883))),
                    api: None,
                    weight: 1,
                    connects_per_second: None,
                    connections_max: None,
                }),
            };
            text.lines().map(member).collect()
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    }

    fn find(file: &Path, most: Duration) -> Result<Vec<String>, String> {
        let nodes = NodesFile::new(Lines);
        let found = runtime().block_on(async { nodes.find(file, Instant::now() + most).await })?;
        Ok(found.into_iter().map(|found| found.name).collect())
    }

    /// As if it had been written long ago.
    fn age(file: &Path) {
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        let file = File::options().write(true).open(file).expect("a file");
        file.set_modified(hour_ago).expect("a time");
    }

    #[test]
    fn a_file_is_read_by_its_format_and_an_error_names_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("nodes");
        let most = Duration::from_secs(60);
        let error = find(&file, most).expect_err("no file");
        assert!(error.contains("nodes: No such file"), "{error}");
        fs::write(&file, "a\nb\n").expect("written");
        assert_eq!(find(&file, most).expect("nodes"), ["a", "b"]);
        fs::write(&file, "a\n\nb\n").expect("written");
        assert!(find(&file, most).expect_err("a line").ends_with("nodes: an empty line"));
        fs::write(&file, b"a\xFF\n").expect("written");
        assert!(find(&file, most).expect_err("a byte").ends_with("nodes: not UTF-8"));
        fs::write(&file, "a\n".repeat(BYTES_MAX as usize / 2 + 1)).expect("written");
        assert!(find(&file, most).expect_err("too large").ends_with("larger than 1 MiB"));
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).expect("a pipe");
        for file in [&pipe, Path::new("/dev/zero"), folder.path()] {
            let error = find(file, Duration::from_secs(60)).expect_err("no file");
            assert!(error.ends_with("not a regular file"), "{error}");
        }
    }

    #[test]
    fn a_file_that_changes_is_not_used_before_it_has_stayed_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("nodes");
        fs::write(&file, "a\n").expect("written");
        age(&file);
        assert!(contents(&file).expect("a file").is_settled, "at once, if it is old");
        fs::write(&file, "a\nb\n").expect("written");
        assert!(!contents(&file).expect("a file").is_settled);
        // A time in the future says nothing.
        let later = SystemTime::now() + Duration::from_secs(3600);
        File::options()
            .write(true)
            .open(&file)
            .and_then(|file| file.set_modified(later))
            .expect("a time");
        assert!(!contents(&file).expect("a file").is_settled);
        let runtime = runtime();
        let nodes = NodesFile::new(Lines);
        let began = Instant::now();
        let due = began + Duration::from_secs(60);
        let found = runtime.block_on(async { nodes.find(&file, due).await }).expect("nodes");
        assert_eq!(found.len(), 2, "what was read twice counts all the same");
        assert!(
            began.elapsed() >= SETTLED_AFTER,
            "it was read once: {:?}",
            began.elapsed()
        );
    }

    #[test]
    fn a_file_system_that_hangs_keeps_one_thread() {
        let nodes = NodesFile::new(Lines);
        let runtime = runtime();
        let _hangs = Arc::clone(&nodes.turn).try_acquire_owned().expect("its turn");
        let due = Instant::now() + Duration::from_millis(20);
        let error = runtime.block_on(async { nodes.find(Path::new("/etc/hostname"), due).await });
        assert!(error.expect_err("hangs").contains("cannot be read in time"));
    }
}
