//! The balancer: as a library in this process, or as the program that users run.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use remora::config;
use remora::serve::{self, Running};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::process::Process;
use crate::wait::Watched;

/// Two workers on a free port; `listener` is added to the listener's table, `tables` to the rest. No admin listener where
/// `tables` has none.
pub(crate) fn toml(cluster: &Cluster, listener: &str, tables: &str) -> String {
    let nodes = cluster.toml();
    let admin = match tables.contains("[admin]") {
        true => "",
        false => "[admin]\nenabled = false",
    };
    format!("workers = 2\n\n{tables}\n\n{admin}\n\n{nodes}[[listeners]]\naddress = \"127.0.0.1:0\"\n{listener}\n")
}

/// A free port for the admin listener.
pub(crate) const ADMIN: &str = "[admin]\naddress = \"127.0.0.1:0\"\n";

/// A balancer in this process.
#[derive(Debug)]
pub(crate) struct Balancer {
    pub running: Running,
    pub address: SocketAddr,
}

impl Balancer {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        Self::with(cluster, "")
    }

    /// With these further tables in its configuration.
    pub(crate) fn with(cluster: &Cluster, tables: &str) -> Self {
        Self::with_listener(cluster, "", tables)
    }

    /// With these further keys of its listener.
    pub(crate) fn with_listener(cluster: &Cluster, listener: &str, tables: &str) -> Self {
        Self::of(&toml(cluster, listener, tables))
    }

    pub(crate) fn of(toml: &str) -> Self {
        let config = config::parse("test.toml", toml).unwrap_or_else(|problems| panic!("{problems}"));
        let running = serve::start(config).expect("a free port");
        Self {
            address: running.addresses()[0],
            running,
        }
    }

    /// Moves all relays of one worker to another one; says how many.
    pub(crate) fn move_connections(&self, from: usize, to: usize) -> std::io::Result<usize> {
        block_on(self.running.move_connections(from, to))
    }
}

/// Waits for what a handle does.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// A balancer in a process of its own, whose log is read.
#[derive(Debug)]
pub(crate) struct Program {
    pub address: SocketAddr,
    /// All of its listeners' addresses, in order.
    pub addresses: Vec<SocketAddr>,
    /// Where its admin listener is, if it has one.
    pub admin: Option<SocketAddr>,
    /// Its admin socket, if it has one.
    pub socket: Option<PathBuf>,
    /// That which runs now, behind those from which it has taken over.
    processes: Vec<Process>,
    /// Whether it may end as one that failed.
    pub may_fail: bool,
    lines: Arc<Watched<Vec<Value>>>,
    /// Reads the log until the program has ended.
    reader: Option<JoinHandle<()>>,
    path: PathBuf,
    /// Of its configuration and its sockets.
    directory: Arc<TempDir>,
}

impl Program {
    pub(crate) fn start(cluster: &Cluster, tables: &str) -> Self {
        Self::of(&toml(cluster, "", tables))
    }

    pub(crate) fn of(toml: &str) -> Self {
        Self::by(Command::new(env!("CARGO_BIN_EXE_remora")), toml)
    }

    /// With so many descriptors at most.
    pub(crate) fn with_descriptors(descriptors: u32, toml: &str) -> Self {
        let mut shell = Command::new("sh");
        let limited = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
        shell.args(["-c", &limited, env!("CARGO_BIN_EXE_remora")]);
        Self::by(shell, toml)
    }

    /// Runs `command` with this configuration.
    pub(crate) fn by(mut command: Command, toml: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("remora.toml");
        write(&path, toml);
        command.args(["run", "--config"]).arg(&path);
        Self::run(command, path, Arc::new(directory))
    }

    /// Takes over from a program, with its configuration, at this socket.
    pub(crate) fn taking_over(old: &Self, socket: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command
            .args(["run", "--config"])
            .arg(&old.path)
            .arg("--take-over")
            .arg(socket);
        Self::run(command, old.path.clone(), Arc::clone(&old.directory))
    }

    fn run(mut command: Command, path: PathBuf, directory: Arc<TempDir>) -> Self {
        #[expect(
            clippy::zombie_processes,
            reason = "waited for by its number, as those that take over from it are"
        )]
        let mut child = command
            .env("RUNTIME_DIRECTORY", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let lines = Arc::new(Watched::<Vec<Value>>::default());
        let written = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let parsed = serde_json::from_str(&line).expect("a line of JSON");
                check(&line, &parsed);
                written.change(|lines| lines.push(parsed));
            }
        });
        let listening = lines.until_some("the program listens", |lines| {
            let said = |line: &&Value| line["message"] == "listening";
            lines.iter().find(said).cloned()
        });
        Self {
            address: addresses(&listening)[0],
            addresses: addresses(&listening),
            admin: listening["admin"].as_str().and_then(|admin| admin.parse().ok()),
            socket: listening["socket"].as_str().map(PathBuf::from),
            processes: vec![Process::started(&child)],
            may_fail: false,
            lines,
            reader: Some(reader),
            path,
            directory,
        }
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin listener")
    }

    pub(crate) fn socket(&self) -> &Path {
        self.socket.as_deref().expect("an admin socket")
    }

    pub(crate) fn process(&self) -> u32 {
        self.current().id()
    }

    fn current(&self) -> &Process {
        self.processes.last().expect("a process")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.current().signal(signal);
    }

    /// Runs `remora ctl upgrade` with these arguments; whether it succeeded, and the last step that it told of.
    pub(crate) fn try_upgrade(&mut self, arguments: &[&str]) -> (bool, Value) {
        let mut ctl = Command::new(env!("CARGO_BIN_EXE_remora"));
        ctl.args(["ctl", "--json", "--socket"])
            .arg(self.socket())
            .arg("upgrade");
        let output = ctl.args(arguments).output().expect("the program");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let last = text
            .lines()
            .last()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        let last: Value = last.unwrap_or_default();
        if last["step"] == "done" {
            self.goes_on_as(&last);
        }
        (output.status.success(), last)
    }

    /// Another process has taken over, as the last step of an upgrade says.
    #[track_caller]
    pub(crate) fn goes_on_as(&mut self, done: &Value) {
        let pid = done["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        self.processes.push(Process::that_took_over(pid.expect("a process")));
    }

    /// Upgrades to the same program; what `remora ctl upgrade` says in the end.
    #[track_caller]
    pub(crate) fn upgrade(&mut self) -> Value {
        let (is_done, last) = self.try_upgrade(&[]);
        assert!(is_done && last["step"] == "done", "{last}");
        last
    }

    /// Waits for the end of the process that was upgraded last.
    #[track_caller]
    pub(crate) fn old_exit_code(&mut self) -> Option<i32> {
        let old = self.processes.len() - 2;
        self.processes[old].exit_code()
    }

    /// Whether that process has ended.
    pub(crate) fn has_old_exited(&mut self) -> bool {
        let old = self.processes.len() - 2;
        self.processes[old].has_ended()
    }

    /// The file of its configuration.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes another configuration; a SIGHUP makes the program read it.
    pub(crate) fn configure(&self, toml: &str) {
        write(&self.path, toml);
    }

    /// Goes on with another configuration; what it listens on then.
    #[track_caller]
    pub(crate) fn reload(&self, toml: &str) -> Vec<SocketAddr> {
        self.configure(toml);
        addresses(&self.hang_up("configuration reloaded"))
    }

    /// Tries another configuration, which it must not take.
    #[track_caller]
    pub(crate) fn reload_in_vain(&self, toml: &str) {
        self.configure(toml);
        self.hang_up("configuration rejected, nothing changed");
    }

    /// Sends a SIGHUP, and waits for the next line with this message.
    #[track_caller]
    fn hang_up(&self, answer: &str) -> Value {
        let before = self.lines.lock().len();
        self.signal(Signal::HUP);
        self.lines.until_some(answer, |lines| {
            let mut new = lines[before..].iter();
            new.find(|line| line["message"] == answer).cloned()
        })
    }

    /// Waits until the program has ended and its whole log was read; its exit code.
    #[track_caller]
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let code = self.processes.last_mut().expect("a process").exit_code();
        if let Some(reader) = self.reader.take() {
            reader.join().expect("lines of JSON");
        }
        code
    }

    pub(crate) fn has_exited(&mut self) -> bool {
        self.processes.last_mut().expect("a process").has_ended()
    }

    /// The lines so far that `select` selects.
    pub(crate) fn lines(&self, select: impl Fn(&Value) -> bool) -> Vec<Value> {
        let lines = self.lines.lock();
        lines.iter().filter(|line| select(line)).cloned().collect()
    }

    /// The lines of the log that `select` takes, once there are so many: a line may be read after an answer that was sent behind it.
    #[track_caller]
    pub(crate) fn at_least(&self, count: usize, select: impl Fn(&Value) -> bool) -> Vec<Value> {
        let what = format!("{count} lines");
        self.lines.until_some(&what, |lines| {
            let found: Vec<Value> = lines.iter().filter(|line| select(line)).cloned().collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// Waits for the line on the end of this client's connection, and takes it: another client may get the same port.
    #[track_caller]
    pub(crate) fn ended(&self, client: SocketAddr) -> Value {
        let find = |lines: &Vec<Value>| end_of(lines, client);
        let at = self.lines.until_some("the line on a connection", find);
        self.lines.change(|lines| lines.remove(at))
    }

    /// Whether the connection of this client has ended.
    pub(crate) fn has_ended(&self, client: SocketAddr) -> bool {
        end_of(&self.lines.lock(), client).is_some()
    }

    /// How many connections have ended with this cause.
    pub(crate) fn ended_with(&self, cause: &str) -> usize {
        let lines = self.lines.lock();
        lines.iter().filter(|line| line["cause"] == cause).count()
    }

    /// Waits until so many connections have ended.
    #[track_caller]
    pub(crate) fn until_ended(&self, count: usize) {
        self.lines.until("ends of connections", |lines| {
            let ended = lines.iter().filter(|line| !line["cause"].is_null());
            ended.count() >= count
        });
    }

    /// Waits until so many connections have ended with this cause.
    #[track_caller]
    pub(crate) fn until_ended_with(&self, cause: &str, count: usize) {
        self.lines.until("ends of connections", |lines| {
            lines.iter().filter(|line| line["cause"] == cause).count() >= count
        });
    }

    /// Waits for a line whose message begins so.
    #[track_caller]
    pub(crate) fn until_said(&self, message: &str) {
        self.lines.until(message, |lines| {
            let said = |line: &Value| line["message"].as_str().is_some_and(|m| m.starts_with(message));
            lines.iter().any(said)
        });
    }

    /// CPU time so far, of user and system.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process()));
        let stat = stat.expect("a process that runs");
        let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
        let field = |number: usize| {
            let field = fields.split_ascii_whitespace().nth(number - 3);
            field.and_then(|f| f.parse::<u64>().ok()).expect("a number")
        };
        let ticks = field(14) + field(15);
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// Memory that is resident now, in bytes.
    pub(crate) fn resident_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process()));
        let status = status.expect("a process that runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kibibytes
            .and_then(|number| number.trim().parse::<usize>().ok())
            .expect("VmRSS in kB")
            * 1024
    }
}

/// Whether a line is JSON in earnest: each field once, and no value as Rust would print it.
fn check(line: &str, parsed: &Value) {
    let fields = parsed.as_object().expect("an object");
    assert!(!line.contains(char::is_control), "{line:?}");
    for name in ["timestamp", "level", "message"] {
        assert!(fields[name].is_string(), "{name}: {line}");
    }
    for (name, value) in fields {
        assert_eq!(line.matches(&format!("\"{name}\":")).count(), 1, "{name} twice: {line}");
        let Some(text) = value.as_str().filter(|_| name != "client_id" && name != "message") else {
            continue;
        };
        let is_printed = text.starts_with("Some(") || text == "None" || text.starts_with('[') && !text.contains("]:");
        assert!(!is_printed, "{name}: {line}");
    }
}

fn write(path: &Path, toml: &str) {
    // Lines are read as JSON; a level belongs to the test. Every end is waited for in the log.
    let mut keys = "[log]\nformat = \"json\"\n".to_owned();
    if !toml.contains("unrouted_rate") {
        keys += "unrouted_rate = 1000000\n";
    }
    let toml = match toml.contains("[log]") {
        true => toml.replace("[log]", &keys),
        false => format!("{toml}\n{keys}"),
    };
    // Whole or not at all: a reload may be reading.
    let new = path.with_extension("new");
    fs::write(&new, toml).expect("a file");
    fs::rename(new, path).expect("a file");
}

/// What a line says about where the program listens.
fn addresses(line: &Value) -> Vec<SocketAddr> {
    let addresses = line["addresses"].as_array().expect("addresses").iter();
    let addresses = addresses.map(|address| address.as_str().and_then(|address| address.parse().ok()));
    addresses.map(|address| address.expect("an address")).collect()
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
        for process in &mut self.processes {
            if !process.has_ended() {
                // No test waits for a drain by accident.
                process.signal(Signal::INT);
                // A test that failed may have stopped it.
                process.signal(Signal::CONT);
            }
            let code = process.exit_code();
            if !std::thread::panicking() && !self.may_fail {
                assert_eq!(code, Some(0), "how the program ended");
            }
        }
    }
}
