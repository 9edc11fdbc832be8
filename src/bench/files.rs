//! Open files: how many this process may have, and how many clients fit into a target on this machine.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files of the bench that are no clients: its output, its poll, what it reads of processes, and some in hand.
const OWN_FILES: u64 = 32;

/// Raises this process's limit as far as it goes: how many clients it may have.
pub(super) fn clients_max() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard.saturating_sub(OWN_FILES))
}

/// The process that listens where the target is, if it is on this machine and may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) pid: u32,
    /// How many files it may have open.
    pub(super) limit: u64,
}

impl Listener {
    /// Looks for it.
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
            let files = fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten();
            files.flatten().any(|file| {
                fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str())
            })
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

    /// Files that a client costs, where the program is known: a demo is client, node and what lies between in one process.
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

    /// How many clients fit, at so many files each, beside what it has open without them.
    pub(super) fn clients_max(self, files_per_client: f64, open_without: u64) -> u64 {
        (self.limit.saturating_sub(open_without) as f64 / files_per_client) as u64
    }
}

/// The inode of the socket that listens on a port, of a table as in proc_net(5).
///
/// Those that listen come first. The rest may be megabytes, which would be taken for the memory of clients later on.
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
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
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
        let demo = Listener {
            pid: 0,
            limit: 20_000,
        };
        assert_eq!(demo.clients_max(3.0, 50), 6_650);
    }

    #[test]
    fn a_target_elsewhere_has_no_process_here() {
        assert_eq!(Listener::find("192.0.2.1:1883".parse().unwrap()), None);
    }
}
