//! Unix sockets that listen at a path: bound where no other process has it, and removed at the end, unless another process goes on with
//! them.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Type};

/// As std's listeners have it.
const BACKLOG: i32 = 128;

/// How often a lock is tried that another process has, and the time between: each holds it for as long as it takes to bind.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A socket that listens at a path; dropped, its file is removed.
#[derive(Debug)]
pub(crate) struct SocketFile {
    pub(crate) listener: UnixListener,
    pub(crate) path: PathBuf,
    /// The file's device and number: another process may have replaced it.
    file: (u64, u64),
    /// The file is another process's.
    is_left: AtomicBool,
}

/// What a socket is for: it decides who may use it, and what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The admin listener's.
    Admin,
    /// The one at which another process takes over.
    Handover,
}

/// Why a socket cannot be had. [`start`](crate::serve::start) returns it inside of an [`io::Error`].
#[derive(Debug)]
pub struct SocketRefused {
    /// The path of the socket.
    pub path: PathBuf,
    purpose: Purpose,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// This process has it, if the system says which.
    InUse(Option<u32>),
    /// Something is there that is no socket.
    NotASocket,
    System(io::Error),
}

impl Purpose {
    fn noun(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Handover => "handover",
        }
    }

    /// Connecting takes the right to write: the group may use the admin socket.
    fn mode(self) -> u32 {
        match self {
            Self::Admin => 0o660,
            Self::Handover => 0o600,
        }
    }
}

impl SocketRefused {
    /// What is refused, if `error` is about the admin socket.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// The process that has the socket, if one has and the system says which.
    pub fn process(&self) -> Option<u32> {
        match self.why {
            Why::InUse(pid) => pid,
            Why::NotASocket | Why::System(_) => None,
        }
    }

    /// The key that names it.
    pub fn key(&self) -> &'static str {
        match self.purpose {
            Purpose::Admin => "admin.socket",
            Purpose::Handover => "handover.socket",
        }
    }

    /// What is wrong.
    pub fn message(&self) -> String {
        let (what, path) = (self.purpose.noun(), self.path.display());
        match &self.why {
            Why::InUse(Some(pid)) => format!("the {what} socket {path} is in use by process {pid}"),
            Why::InUse(None) => format!("the {what} socket {path} is in use"),
            Why::NotASocket => format!("{path} is there and is no socket"),
            Why::System(error) => format!("the {what} socket {path} cannot be opened: {error}"),
        }
    }

    /// What would do.
    pub fn hint(&self) -> String {
        let table = self.purpose.noun();
        match &self.why {
            Why::InUse(_) => format!("stop the process that has it, or set another socket in [{table}]"),
            Why::NotASocket => format!("remove it, or set another socket in [{table}]"),
            Why::System(_) => "its directory must be there, and writable for this user".to_owned(),
        }
    }
}

impl fmt::Display for SocketRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message(), self.hint())
    }
}

impl Error for SocketRefused {}

impl From<SocketRefused> for io::Error {
    fn from(refused: SocketRefused) -> Self {
        let kind = match &refused.why {
            Why::InUse(_) | Why::NotASocket => ErrorKind::AddrInUse,
            Why::System(error) => error.kind(),
        };
        Self::new(kind, refused)
    }
}

impl SocketFile {
    /// Binds the socket at `path`. A file there that no process listens on is replaced.
    ///
    /// # Errors
    /// Another process has it, or the system refuses it.
    pub(crate) fn bind(path: &Path, purpose: Purpose) -> Result<Self, SocketRefused> {
        let refused = |why| SocketRefused {
            path: path.to_owned(),
            purpose,
            why,
        };
        let system = |error: io::Error| refused(Why::System(error));
        // Two processes that start at once could both find the file of a dead one, and the second would remove that of the first.
        let _lock = lock(path.parent().filter(|folder| !folder.as_os_str().is_empty()));
        if let Ok(found) = fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(refused(Why::NotASocket));
            }
            match UnixStream::connect(path) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(system)?,
                // It may be there and not for us, or its queue may be full.
                Err(_) => return Err(refused(Why::InUse(None))),
                Ok(stream) => {
                    let peer = socket_peercred(&stream).ok();
                    return Err(refused(Why::InUse(
                        peer.map(|peer| peer.pid.as_raw_nonzero().get().cast_unsigned()),
                    )));
                }
            }
        }
        let open = || {
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
            socket.bind(&SockAddr::unix(path)?)?;
            // Before it listens, so that nobody can connect who may not.
            fs::set_permissions(path, Permissions::from_mode(purpose.mode()))?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            Self::at(socket.into(), path)
        };
        open().map_err(system)
    }

    /// A socket that another process has bound at `path`, and gives away. The file is that process's until [`SocketFile::own_file`].
    ///
    /// # Errors
    /// Nothing is there any more.
    pub(crate) fn inherit(socket: OwnedFd, path: &Path) -> io::Result<Self> {
        let listener = UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        let inherited = Self::at(listener, path)?;
        inherited.leave_file();
        Ok(inherited)
    }

    /// Whether a process listens at `path`, as this process sees it. It notices a connection that ends at once.
    pub(crate) fn is_served(path: &Path) -> bool {
        let is_dead = |error: io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
        !UnixStream::connect(path).is_err_and(is_dead)
    }

    fn at(listener: UnixListener, path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (file.dev(), file.ino()),
            is_left: AtomicBool::new(false),
        })
    }

    /// The file is this process's, which removes it at its end.
    pub(crate) fn own_file(&self) {
        self.is_left.store(false, Ordering::Relaxed);
    }

    /// Leaves the file where it is: another process listens there.
    pub(crate) fn leave_file(&self) {
        self.is_left.store(true, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.file;
        if !self.is_left.load(Ordering::Relaxed) && fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
            // What cannot be removed is replaced at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks the directory, for as long as the file is open. Without a lock it must do: any user who may read the directory can hold it.
fn lock(folder: Option<&Path>) -> Option<File> {
    let folder = File::open(folder.unwrap_or(Path::new("."))).ok()?;
    for _ in 0..LOCK_TRIES {
        if flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Some(folder);
        }
        thread::park_timeout(LOCK_PAUSE);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_in_use_is_refused_with_its_process_and_a_stale_one_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let bind = |path: &Path| SocketFile::bind(path, Purpose::Admin);
        let first = bind(&path).expect("free");
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, 0o660);
        let refused = bind(&path).expect_err("in use").to_string();
        let expected = format!("is in use by process {}: stop the process", std::process::id());
        assert!(refused.contains(&expected), "{refused}");
        drop(first);
        assert!(!path.exists(), "removed at the end");
        // As a process that is killed leaves it.
        drop(UnixListener::bind(&path).expect("free"));
        assert!(path.exists());
        let _second = bind(&path).expect("no process listens there");
        UnixStream::connect(&path).expect("it listens");
    }

    #[test]
    fn what_is_no_socket_is_left_alone_and_so_is_the_socket_of_another_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        fs::write(&path, "mine").expect("written");
        let bind = |path: &Path| SocketFile::bind(path, Purpose::Handover);
        let refused = bind(&path).expect_err("a file").to_string();
        assert!(refused.contains("is no socket"), "{refused}");
        assert_eq!(fs::read(&path).expect("a file"), b"mine");
        fs::remove_file(&path).expect("removed");
        let ours = bind(&path).expect("free");
        fs::remove_file(&path).expect("removed");
        let _theirs = UnixListener::bind(&path).expect("free");
        drop(ours);
        assert!(path.exists(), "the other one's");
        let refused = bind(Path::new("/no/such/directory/admin.sock")).expect_err("no directory");
        assert!(refused.to_string().contains("its directory must be there"), "{refused}");
    }

    #[test]
    fn a_socket_that_was_given_away_keeps_its_file_until_the_next_process_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let giver = SocketFile::bind(&path, Purpose::Admin).expect("free");
        let socket = giver.listener.try_clone().expect("a descriptor");
        let taker = SocketFile::inherit(socket.into(), &path).expect("it is there");
        giver.leave_file();
        drop(giver);
        UnixStream::connect(&path).expect("it listens");
        let second = taker.listener.try_clone().expect("a descriptor");
        let second = SocketFile::inherit(second.into(), &path).expect("it is there");
        drop(second);
        UnixStream::connect(&path).expect("one that does not take over leaves it");
        taker.own_file();
        drop(taker);
        assert!(!path.exists());
        let (socket, _other) = UnixStream::pair().expect("sockets");
        SocketFile::inherit(socket.into(), &path).expect_err("nothing is there");
        assert!(!SocketFile::is_served(&path));
    }

    #[test]
    fn a_path_is_served_while_a_process_listens_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let socket = UnixListener::bind(&path).expect("free");
        assert!(SocketFile::is_served(&path));
        drop(socket);
        assert!(path.exists() && !SocketFile::is_served(&path));
    }
}
