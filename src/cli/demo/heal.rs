//! How the nodes of a demo are joined: by Enter in its terminal, or by `remora demo --heal` in any other.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::getpgrp;
use rustix::termios::{isatty, tcgetpgrp};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::folder::{self, Folder};
use super::print;

/// The socket in a demo's folder: a connection to it asks for the nodes to be joined.
const SOCKET: &str = "heal.sock";

/// The answer once they are.
const JOINED: &[u8] = b"joined\n";

/// How long a demo may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Has every demo of this user that waits for it join its nodes.
pub(super) fn all() -> io::Result<()> {
    let mut count = 0;
    for folder in folder::own() {
        match ask(&folder.join(SOCKET)) {
            // Its nodes are joined already, or it has been killed.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
            answered => {
                answered?;
                count += 1;
                print(&format!(
                    "The nodes of the demo in {} are joined now.\n",
                    folder.display()
                ))?;
            }
        }
    }
    if count == 0 {
        let text = format!(
            "no demo in {} has nodes that can be joined: start `remora demo --broken-routing`, and wait for the end of its experiment",
            std::env::temp_dir().display()
        );
        return Err(io::Error::other(text));
    }
    Ok(())
}

fn ask(socket: &Path) -> io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    match answer == JOINED {
        true => Ok(()),
        false => Err(io::Error::other("the demo did not join its nodes")),
    }
}

/// Waits for a request to join the nodes of this demo.
pub(super) struct Healer {
    entered: mpsc::Receiver<()>,
    /// `None` where there can be none.
    listener: Option<UnixListener>,
}

impl Healer {
    /// Where `--heal` asks; `None` where the path would be too long for a socket.
    pub(super) fn socket(folder: &Folder) -> Option<PathBuf> {
        folder.socket(SOCKET)
    }

    /// From now on, Enter and `--heal` count.
    pub(super) fn new(folder: &Folder) -> io::Result<Self> {
        let listen = |path| {
            let listener = UnixListener::bind(&path)?;
            // A user whose umask hides nothing has neighbours.
            fs::set_permissions(&path, Permissions::from_mode(0o600))?;
            io::Result::Ok(listener)
        };
        Ok(Self {
            entered: entered(),
            listener: Self::socket(folder).map(listen).transpose()?,
        })
    }

    /// Calls `join` when asked, and returns when that is done.
    pub(super) async fn wait(mut self, join: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let entered = async {
            match self.entered.recv().await {
                Some(()) => {}
                // Nobody can enter anything.
                None => std::future::pending().await,
            }
        };
        let asked = async {
            match &self.listener {
                Some(listener) => listener.accept().await.map(|(stream, _)| stream),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = entered => join(),
            asked = asked => {
                let mut stream = asked?;
                join()?;
                // The other end may have gone.
                let _ = stream.write_all(JOINED).await;
                Ok(())
            }
        }
    }
}

/// Lines that were entered from now on; none where standard input has ended, or where this process may not read the terminal.
fn entered() -> mpsc::Receiver<()> {
    let (sender, entered) = mpsc::channel(1);
    // It ends with the process: nothing can wake it.
    std::thread::spawn(move || {
        let mut line = String::new();
        while may_read() && io::stdin().lock().read_line(&mut line).is_ok_and(|read| read > 0) {
            line.clear();
            if sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    entered
}

/// Whether a read would not stop this process, as it does in the background of a terminal.
fn may_read() -> bool {
    let stdin = io::stdin();
    !isatty(&stdin) || tcgetpgrp(&stdin).is_ok_and(|foreground| foreground == getpgrp())
}
