//! The settings of the admin listener, and where its unix socket is.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::tokens::{Secret, Token};

/// The address of the admin listener if the configuration names none.
pub const ADDRESS_DEFAULT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9883));

/// The longest path of a unix socket, in bytes (unix(7)).
pub(crate) const SOCKET_PATH_MAX: usize = 107;

/// Where the sockets of services are, if no variable names another directory.
const RUN: &str = "/run/remora";

/// The admin listener, as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where it is on TCP, or that there is no admin listener at all.
    pub address: Address,
    /// Where its unix socket is, unless there is no admin listener at all.
    pub socket: Socket,
    /// Who may use the control API on TCP.
    pub tokens: Vec<Token>,
    /// Host names that requests may call it by, besides IP addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Other balancers to be shown beside this one, each as `HOST:PORT` of its admin listener.
    pub peers: Vec<String>,
    /// What is shown to them, if they want a token.
    pub peers_token: Option<Secret>,
    /// The file of this configuration, by an absolute path: what `remora health` knows its process by. `None` without a file.
    pub configuration: Option<PathBuf>,
}

/// The address of the admin listener.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Address {
    /// [`ADDRESS_DEFAULT`]; if that is taken, there is no admin listener on TCP.
    #[default]
    Default,
    /// These addresses, or none; if one cannot be bound, the process does not start.
    At(Vec<SocketAddr>),
    /// No admin listener, and no socket.
    Off,
}

/// The path of the unix socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Socket {
    /// In the first of the [runtime directories](Settings::socket_paths) that can be used; without one there is no socket.
    #[default]
    Default,
    /// This path; if it cannot be bound, the process does not start.
    At(PathBuf),
}

impl Settings {
    /// Where the unix socket may be, in the order in which a process tries it: the configured path, or else in `$RUNTIME_DIRECTORY`
    /// (systemd's), `$XDG_RUNTIME_DIR` and `/run/remora`. None if there is no admin listener.
    ///
    /// The name in these directories is made of the path of the configuration, or of the process's number if it has none, so that
    /// several processes of one user have a socket each, and `remora ctl` finds that of its file.
    pub fn socket_paths(&self) -> Vec<PathBuf> {
        match (&self.address, &self.socket) {
            (Address::Off, _) => Vec::new(),
            (_, Socket::At(path)) => vec![path.clone()],
            (_, Socket::Default) => {
                let name = self.socket_name();
                directories().into_iter().map(|folder| folder.join(&name)).collect()
            }
        }
    }

    fn socket_name(&self) -> String {
        match &self.configuration {
            Some(file) => {
                let hash = xxh3_64(file.as_os_str().as_bytes());
                format!("remora-{:08x}.sock", hash as u32)
            }
            None => format!("remora-pid{}.sock", std::process::id()),
        }
    }
}

/// The directories for sockets, those first that only this service or user has.
fn directories() -> Vec<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty());
    // systemd names all directories of a service, with colons between them.
    let service = variable("RUNTIME_DIRECTORY").map(|all| {
        let first = all.as_bytes().split(|byte| *byte == b':').next();
        PathBuf::from(OsStr::from_bytes(first.unwrap_or_default()))
    });
    let user = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
    let all = [service, user, Some(PathBuf::from(RUN))].into_iter().flatten();
    all.filter(|folder| folder.is_absolute()).collect()
}

/// Whether a socket may be put into this directory by default: no other user may take it away there.
pub(super) fn is_ours(folder: &Path) -> bool {
    let Ok(found) = fs::metadata(folder) else {
        return false;
    };
    let owner = found.uid();
    let others_write = found.mode() & 0o002 != 0;
    found.is_dir() && owner == rustix::process::geteuid().as_raw() && !others_write
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_configurations_have_two_sockets_and_one_has_one() {
        let of = |file: &str| Settings {
            configuration: Some(file.into()),
            ..Settings::default()
        };
        let (one, two) = (of("/etc/remora/one.toml"), of("/etc/remora/two.toml"));
        assert_eq!(one.socket_paths(), of("/etc/remora/one.toml").socket_paths());
        for (a, b) in one.socket_paths().iter().zip(two.socket_paths()) {
            assert_ne!(*a, b);
            assert_eq!(a.parent(), b.parent());
        }
        let at = Settings {
            socket: Socket::At("/srv/remora.sock".into()),
            ..one.clone()
        };
        assert_eq!(at.socket_paths(), [Path::new("/srv/remora.sock")]);
        let off = Settings {
            address: Address::Off,
            ..at
        };
        assert!(off.socket_paths().is_empty());
    }
}
