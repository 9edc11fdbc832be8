//! The program as its users see it: exit codes, and what is printed where.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

fn remora() -> Command {
    Command::new(env!("CARGO_BIN_EXE_remora"))
}

/// Runs the program to its end with arguments that end by themselves.
fn output(arguments: &[&str]) -> Output {
    remora().args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

/// A configuration file that lives as long as this value.
struct Written {
    _directory: TempDir,
    path: PathBuf,
}

impl Written {
    fn new(text: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("remora.toml");
        fs::write(&path, text).expect("a file");
        Self {
            _directory: directory,
            path,
        }
    }

    fn path(&self) -> &str {
        self.path.to_str().expect("UTF-8")
    }
}

const THREE_NODES: &str = r#"
[[listeners]]
name = "mqtt"
address = "127.0.0.1:0"
allow = ["127.0.0.0/8"]

[[nodes]]
name = "emqx1"
address = "127.0.0.2:1883"

[[nodes]]
name = "emqx2"
address = "emqx2.example.com:1883"
weight = 200

[[nodes]]
name = "emqx3"
address = "127.0.0.4:1883"
"#;

#[test]
fn help_and_version_are_fine() {
    let version = output(&["--version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(
        text(&version.stdout),
        format!("remora {}\n", env!("CARGO_PKG_VERSION"))
    );

    let help = output(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for word in ["run", "check", "route", "demo", "[[listeners]]", "64"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    assert_eq!(output(&["route", "--help"]).status.code(), Some(0));
}

#[test]
fn bad_usage_exits_with_64_and_prints_to_stderr_only() {
    let file = Written::new(THREE_NODES);
    for arguments in [
        &[][..],
        &["walk"],
        &["run"],
        &["check", "--config"],
        &["check", "-c", file.path(), "--colour"],
        &["route", "-c", file.path()],
    ] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(text(&output.stderr).contains("--help"), "{arguments:?}");
    }
}

#[test]
fn bad_configuration_exits_with_64_for_every_subcommand() {
    let file = Written::new("worker = 2\n[[listeners]]\naddress = \"10.0.0.4\"\n");
    let subcommands = [&["check"][..], &["run"], &["route", "client"]];
    for arguments in subcommands {
        let output = output(&[arguments, &["-c", file.path()]].concat());
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let said = text(&output.stderr);
        for part in [
            &format!("{}:1:1\n", file.path())[..],
            "did you mean `workers`?",
            &format!("{}:3:11\n", file.path()),
            "\"10.0.0.4\" has no port",
            "nodes: there are none",
            "3 problems",
        ] {
            assert!(
                said.contains(part),
                "{arguments:?} without {part:?}: {said}"
            );
        }
        assert!(!said.contains('\x1b'), "no colours where no terminal reads");
    }
}

#[test]
fn a_missing_file_exits_with_64_and_is_named() {
    let output = output(&["check", "-c", "no/such/file.toml"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("no/such/file.toml"));
}

#[test]
fn check_prints_what_would_be_done() {
    let file = Written::new(THREE_NODES);
    let output = output(&["check", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    let printed = text(&output.stdout);
    for line in [
        "No problems",
        "tcp 127.0.0.1:0  from 127.0.0.0/8  called mqtt",
        "emqx1  127.0.0.2:1883          weight 100",
        "emqx2  emqx2.example.com:1883  weight 200",
        "client id, ring seed 0x52454d4f5241",
    ] {
        assert!(printed.contains(line), "{line:?} is not in {printed}");
    }
    let shares: Vec<f64> = printed
        .lines()
        .filter_map(|line| line.strip_suffix(" %")?.rsplit(' ').next()?.parse().ok())
        .collect();
    assert_eq!(shares.len(), 3);
    assert!(
        (shares.iter().sum::<f64>() - 100.0).abs() < 0.02,
        "{shares:?}"
    );
}

#[test]
fn route_names_every_node_once_and_says_why() {
    let file = Written::new(THREE_NODES);
    let output = output(&["route", "-c", file.path(), "--json", "sensor-1", ""]);
    assert_eq!(output.status.code(), Some(0));
    let answers: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answers[0]["id"], "sensor-1");
    assert_eq!(answers[0]["why"], "home");
    let mut nodes = answers[0]["next"].as_array().expect("a list").clone();
    nodes.push(answers[0]["node"].clone());
    nodes.sort_by_key(|node| node.to_string());
    assert_eq!(nodes, ["emqx1", "emqx2", "emqx3"]);
    assert_eq!(
        answers[1],
        serde_json::json!({"id": "", "node": null, "why": "anonymous", "next": []})
    );
}

#[test]
fn route_prints_a_line_for_each_id_and_escapes_it() {
    let file = Written::new(THREE_NODES);
    let long = "x".repeat(1000);
    let output = output(&["route", "-c", file.path(), "sensor-1", "a\x1b[2J\n", &long]);
    assert_eq!(output.status.code(), Some(0));
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("sensor-1 "), "{lines:?}");
    assert!(
        lines[0].contains("home on the ring by client id"),
        "{lines:?}"
    );
    assert!(lines[1].starts_with("a\\u{1b}[2J\\u{a} "), "{lines:?}");
    assert!(
        lines[2].len() < 400 && lines[2].contains("(1000B,"),
        "{lines:?}"
    );
}

#[test]
fn route_by_client_address_takes_addresses_only() {
    let file = Written::new(&format!(
        "{THREE_NODES}\n[affinity]\nkey = \"client_address\"\n"
    ));
    let address = output(&["route", "-c", file.path(), "192.0.2.7"]);
    assert_eq!(address.status.code(), Some(0));
    assert!(text(&address.stdout).contains("home on the ring by client address"));

    let name = output(&["route", "-c", file.path(), "sensor-1"]);
    assert_eq!(name.status.code(), Some(64));
    assert!(text(&name.stderr).contains("\"sensor-1\" is not an IP address"));
}

/// A balancer that does not outlive its test.
struct Running(Child);

impl Running {
    /// Starts it, and returns once it listens, with the line that says so.
    fn start(config: &str) -> (Self, String) {
        let mut child = remora()
            .args(["run", "--config", config])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let log = BufReader::new(child.stdout.take().expect("a pipe"));
        let running = Self(child);
        let mut lines = log.lines().map(|line| line.expect("a line"));
        let line = lines.find(|line| line.contains("listening"));
        (running, line.expect("it listens"))
    }

    fn stop(mut self, signal: Signal) -> ExitStatus {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("the process is there");
        self.0.wait().expect("a child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const ONE_NODE: &str = r#"
workers = 1
[admin]
enabled = false
[[listeners]]
address = "127.0.0.1:0"
[[nodes]]
name = "emqx1"
address = "127.0.0.2:1883"
"#;

#[test]
fn run_says_where_it_listens_and_ends_in_order_at_sigterm_and_sigint() {
    for signal in [Signal::TERM, Signal::INT] {
        let file = Written::new(ONE_NODE);
        let (running, line) = Running::start(file.path());
        let (_, rest) = line.split_once("127.0.0.1:").expect("an address");
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let port = rest[..digits].parse::<u16>().expect("a port");
        TcpStream::connect(("127.0.0.1", port)).expect("it listens there");
        assert_eq!(running.stop(signal).code(), Some(0), "{signal:?}");
    }
}

#[test]
fn run_fails_with_1_where_an_address_is_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let file = Written::new(&ONE_NODE.replace("127.0.0.1:0", &address));
    let output = output(&["run", "-c", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&address), "{output:?}");
}
