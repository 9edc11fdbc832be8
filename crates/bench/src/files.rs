//! Open files: how many this process may have, and how many clients fit into a target on this machine.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that the bench needs besides clients: output, poll, files under /proc, and some in reserve.
const OWN_FILES: u64 = 32;

/// Raises this process's open-file limit as far as allowed; returns how many clients it may have.
pub(super) fn clients_max() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard.saturating_sub(OWN_FILES))
}

/// The process that listens on the target address, if it runs on this machine and may be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) pid: u32,
    /// Its open-file limit.
    pub(super) limit: u64,
}

impl Listener {
    /// Finds the process.
    pub(super) fn find(target: SocketAddr) -> Option<Self> {
        if !target.ip().is_loopback() {
            return None;
        }
        let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
            .into_iter()
            .filter_map(|table| fs::File::open(table).ok())
            .find_map(|table| listening_inode(BufReader::new(table), target.port()))?;
        let wanted = format!("socket:[{inode}]");
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let pid = pids.into_iter().find(|pid| {
            let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
            files
                .flatten()
                .any(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()))
        })?;
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
        Some(Self {
            pid,
            limit: soft_limit(&limits)?,
        })
    }

    /// How many files it has open.
    pub(super) fn open_files(self) -> Option<u64> {
        Some(fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?.count() as u64)
    }

    /// Files that a client takes in a known program. The demo is the balancer and the nodes in one process.
    pub(super) fn files_per_client(self) -> f64 {
        let command = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let mut words = command.split(|&byte| byte == 0);
        let program = words.next().unwrap_or_default();
        if !program.ends_with(b"remora") {
            return 1.0;
        }
        match words.next() {
            Some(b"demo") => 3.0,
            Some(b"run") => 2.0,
            _ => 1.0,
        }
    }

    /// How many clients fit, with so many files each, beside the files that are open without them.
    pub(super) fn clients_max(self, files_per_client: f64, open_without: u64) -> u64 {
        (self.limit.saturating_sub(open_without) as f64 / files_per_client) as u64
    }
}

/// The open files of the target's process, where it runs on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenFiles {
    pub(super) listener: Listener,
    /// Before the first client.
    pub(super) before: u64,
    /// With clients connected: how many files, and how many clients.
    pub(super) during: Option<(u64, u32)>,
}

impl OpenFiles {
    /// Finds the target's process, and counts what it has open without clients.
    pub(super) fn find(target: SocketAddr) -> Option<Self> {
        let listener = Listener::find(target)?;
        Some(Self {
            listener,
            before: listener.open_files()?,
            during: None,
        })
    }

    /// Counts once more, with this many clients connected; later calls change nothing.
    pub(super) fn count_with(&mut self, clients: u32) {
        if self.during.is_none() {
            self.during = self.listener.open_files().map(|open| (open, clients));
        }
    }
}

/// The inode of the socket that listens on a port, of a table as in proc_net(5).
///
/// Listening sockets come first, so reading ends early. The rest may be megabytes, which would be counted as memory of
/// clients.
fn listening_inode(table: impl BufRead, port: u16) -> Option<u64> {
    let suffix = format!(":{port:04X}");
    let lines = table.lines().map_while(Result::ok);
    lines.skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let listens = local.ends_with(&suffix) && *state == "0A";
        listens.then(|| inode.parse().ok())?
    })
}

fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn the_process_behind_a_port_is_found() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let found = Listener::find(listener.local_addr().unwrap()).unwrap();
        assert_eq!(found.pid, std::process::id());
        assert!(found.open_files().unwrap() > 3);
        assert!(found.limit >= found.open_files().unwrap());
        assert_eq!(found.files_per_client(), 1.0);
    }

    #[test]
    fn a_demo_of_20_000_files_has_room_for_a_third() {
        let demo = Listener { pid: 0, limit: 20_000 };
        assert_eq!(demo.clients_max(3.0, 50), 6_650);
    }

    #[test]
    fn a_target_elsewhere_has_no_process_here() {
        assert_eq!(Listener::find("192.0.2.1:1883".parse().unwrap()), None);
    }
}
