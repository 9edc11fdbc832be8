//! The balancer: as a library in this process, or as the program that users run.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use remora::config;
use remora::serve::{self, Running};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::wait::Watched;

/// Two workers on a free port; `listener` is added to the listener's table, `tables` to the rest.
fn toml(cluster: &Cluster, listener: &str, tables: &str) -> String {
    let nodes = cluster.toml();
    format!(
        "workers = 2\n\n{tables}\n\n{nodes}[[listeners]]\naddress = \"127.0.0.1:0\"\n{listener}\n"
    )
}

/// A balancer in this process.
#[derive(Debug)]
pub struct Balancer {
    pub running: Running,
    pub address: SocketAddr,
}

impl Balancer {
    pub fn start(cluster: &Cluster) -> Self {
        Self::with(cluster, "")
    }

    /// With these further tables in its configuration.
    pub fn with(cluster: &Cluster, tables: &str) -> Self {
        Self::with_listener(cluster, "", tables)
    }

    /// With these further keys of its listener.
    pub fn with_listener(cluster: &Cluster, listener: &str, tables: &str) -> Self {
        Self::of(&toml(cluster, listener, tables))
    }

    pub fn of(toml: &str) -> Self {
        let config =
            config::parse("test.toml", toml).unwrap_or_else(|problems| panic!("{problems}"));
        let running = serve::start(config).expect("a free port");
        Self {
            address: running.addresses()[0],
            running,
        }
    }
}

/// A balancer in a process of its own, whose log is read.
#[derive(Debug)]
pub struct Program {
    pub address: SocketAddr,
    child: Child,
    lines: Arc<Watched<Vec<Value>>>,
    _directory: TempDir,
}

impl Program {
    pub fn start(cluster: &Cluster, tables: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("remora.toml");
        let tables = format!("{tables}\n[log]\nformat = \"json\"\n");
        fs::write(&path, toml(cluster, "", &tables)).expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_remora"))
            .args(["run", "--config"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let lines = Arc::new(Watched::<Vec<Value>>::default());
        let written = Arc::clone(&lines);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("a line of JSON");
                written.change(|lines| lines.push(line));
            }
        });
        let address = lines.until_some("the program listens", |lines| {
            let line = lines.iter().find(|line| line["message"] == "listening")?;
            let addresses = line["addresses"].as_str().expect("addresses");
            addresses.trim_matches(['[', ']']).parse().ok()
        });
        Self {
            address,
            child,
            lines,
            _directory: directory,
        }
    }

    /// Waits for the line on the end of this client's connection, and takes it: another client may get the same port.
    #[track_caller]
    pub fn ended(&self, client: SocketAddr) -> Value {
        let find = |lines: &Vec<Value>| end_of(lines, client);
        let at = self.lines.until_some("the line on a connection", find);
        self.lines.change(|lines| lines.remove(at))
    }

    /// Whether the connection of this client has ended.
    pub fn has_ended(&self, client: SocketAddr) -> bool {
        end_of(&self.lines.lock(), client).is_some()
    }

    /// How many connections have ended with this cause.
    pub fn ended_with(&self, cause: &str) -> usize {
        let lines = self.lines.lock();
        lines.iter().filter(|line| line["cause"] == cause).count()
    }

    /// Waits until so many connections have ended with this cause.
    #[track_caller]
    pub fn until_ended_with(&self, cause: &str, count: usize) {
        self.lines.until("ends of connections", |lines| {
            lines.iter().filter(|line| line["cause"] == cause).count() >= count
        });
    }

    /// Waits for a line whose message begins so.
    #[track_caller]
    pub fn until_said(&self, message: &str) {
        self.lines.until(message, |lines| {
            let said = |line: &Value| {
                line["message"]
                    .as_str()
                    .is_some_and(|m| m.starts_with(message))
            };
            lines.iter().any(said)
        });
    }

    /// Memory that is resident now, in bytes.
    pub fn resident_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a process that runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kibibytes
            .and_then(|number| number.trim().parse::<usize>().ok())
            .expect("VmRSS in kB")
            * 1024
    }
}

/// Where the line on the end of this client's connection is.
fn end_of(lines: &[Value], client: SocketAddr) -> Option<usize> {
    let client = client.to_string();
    lines
        .iter()
        .position(|line| line["message"] == "connection ended" && line["client"] == client.as_str())
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        // It may have ended already; then there is nobody left to tell.
        let _ = kill_process(pid, Signal::TERM);
        let status = self.child.wait().expect("a child");
        if !std::thread::panicking() {
            assert!(status.success(), "the program ended with {status}");
        }
    }
}
