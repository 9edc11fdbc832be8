//! The unix socket of the admin listener: bound where no other process has it, and removed at the end.

use std::error::Error;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::socket_peercred;
use socket2::{Domain, SockAddr, Type};

use super::settings::{Settings, Socket, is_ours};

/// Its user and its group may use it: connecting takes the right to write.
const MODE: u32 = 0o660;

/// As std's listeners have it.
const BACKLOG: i32 = 128;

/// How often a lock is tried that another process has, and the time between: each holds it for as long as it takes to bind.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The bound socket; dropped, its file is removed.
#[derive(Debug)]
pub(super) struct AdminSocket {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    /// The file's device and number: another process may have replaced it.
    file: (u64, u64),
}

/// Why the admin socket cannot be had. [`start`](crate::serve::start) returns it inside of an [`io::Error`].
#[derive(Debug)]
pub struct SocketRefused {
    /// The path of the socket.
    pub path: PathBuf,
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

    /// What is wrong.
    pub fn message(&self) -> String {
        let path = self.path.display();
        match &self.why {
            Why::InUse(Some(pid)) => format!("the admin socket {path} is in use by process {pid}"),
            Why::InUse(None) => format!("the admin socket {path} is in use"),
            Why::NotASocket => format!("{path} is there and is no socket"),
            Why::System(error) => format!("the admin socket {path} cannot be opened: {error}"),
        }
    }

    /// What would do.
    pub fn hint(&self) -> &'static str {
        match &self.why {
            Why::InUse(_) => "stop the process that has it, or set another socket in [admin]",
            Why::NotASocket => "remove it, or set another socket in [admin]",
            Why::System(_) => "its directory must be there, and writable for this user",
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

/// Tries the configured socket as a start would bind it, and removes it again. Why it is refused, if it is; one of the default ones never is.
pub fn probe(settings: &Settings) -> Option<SocketRefused> {
    let paths = settings.socket_paths();
    match settings.socket {
        Socket::At(_) => AdminSocket::bind(paths.first()?).err(),
        Socket::Default => None,
    }
}

/// Binds the configured socket, or the first of the default ones that can be had. One of these that cannot is only a warning.
pub(super) fn bind(settings: &Settings) -> Result<Option<AdminSocket>, SocketRefused> {
    let paths = settings.socket_paths();
    if let Socket::At(_) = settings.socket {
        return paths.first().map(|path| AdminSocket::bind(path)).transpose();
    }
    let usable = |path: &&PathBuf| path.parent().is_some_and(is_ours);
    let Some(path) = paths.iter().find(usable) else {
        if !paths.is_empty() {
            tracing::info!("no admin socket: there is no runtime directory; set socket in [admin] to have one");
        }
        return Ok(None);
    };
    match AdminSocket::bind(path) {
        Ok(socket) => Ok(Some(socket)),
        Err(refused) => {
            tracing::warn!(socket = %path.display(), why = %refused, "no admin socket");
            Ok(None)
        }
    }
}

impl AdminSocket {
    /// Binds the socket at `path`. A file there that no process listens on is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, SocketRefused> {
        let refused = |why| SocketRefused {
            path: path.to_owned(),
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
            fs::set_permissions(path, Permissions::from_mode(MODE))?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let file = fs::symlink_metadata(path)?;
            Ok(Self {
                listener: socket.into(),
                path: path.to_owned(),
                file: (file.dev(), file.ino()),
            })
        };
        open().map_err(system)
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let is_ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.file;
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours) {
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
        let first = AdminSocket::bind(&path).expect("free");
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, MODE);
        let refused = AdminSocket::bind(&path).expect_err("in use").to_string();
        let expected = format!("is in use by process {}: stop the process", std::process::id());
        assert!(refused.contains(&expected), "{refused}");
        drop(first);
        assert!(!path.exists(), "removed at the end");
        // As a process that is killed leaves it.
        drop(UnixListener::bind(&path).expect("free"));
        assert!(path.exists());
        let _second = AdminSocket::bind(&path).expect("no process listens there");
        UnixStream::connect(&path).expect("it listens");
    }

    #[test]
    fn what_is_no_socket_is_left_alone_and_so_is_the_socket_of_another_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        fs::write(&path, "mine").expect("written");
        let refused = AdminSocket::bind(&path).expect_err("a file").to_string();
        assert!(refused.contains("is no socket"), "{refused}");
        assert_eq!(fs::read(&path).expect("a file"), b"mine");
        fs::remove_file(&path).expect("removed");
        let ours = AdminSocket::bind(&path).expect("free");
        fs::remove_file(&path).expect("removed");
        let _theirs = UnixListener::bind(&path).expect("free");
        drop(ours);
        assert!(path.exists(), "the other one's");
        let refused = AdminSocket::bind(Path::new("/no/such/directory/admin.sock")).expect_err("no directory");
        assert!(refused.to_string().contains("its directory must be there"), "{refused}");
    }
}
