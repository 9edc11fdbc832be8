//! Who asks the admin listener.

use std::fmt;

/// The peer of a connection to the admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// On TCP: a token says what it may do.
    Tcp,
    /// On the unix socket: it may do everything, since the file's mode has let it connect.
    Unix {
        /// Its user and process, if the kernel says so.
        uid: Option<u32>,
        pid: Option<i32>,
    },
}

/// Who a change is by, for its line in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// The token with this name.
    Token(String),
    /// A process of this machine, on the unix socket.
    Process { uid: Option<u32>, pid: Option<i32> },
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(name) => write!(f, "token {name}"),
            Self::Process {
                uid: Some(uid),
                pid: Some(pid),
            } => write!(f, "uid {uid}, pid {pid}"),
            Self::Process { uid: Some(uid), .. } => write!(f, "uid {uid}"),
            Self::Process { .. } => f.write_str("the admin socket"),
        }
    }
}
