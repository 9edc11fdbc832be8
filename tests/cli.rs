//! The program as its users see it: exit codes, and what is printed where.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use remora::net::tls::throwaway::Authority;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

fn remora() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    // That of the user who runs the tests.
    command.env_remove("REMORA_CONFIG");
    command
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
    for arguments in [&["--version"][..], &["-V"], &["-v"]] {
        let version = output(arguments);
        assert_eq!(version.status.code(), Some(0), "{arguments:?}");
        let line = text(&version.stdout);
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..2], ["remora", env!("CARGO_PKG_VERSION")], "{line}");
        let (build, rest) = words[2..].split_at(words.len() - 4);
        assert_eq!(rest, [remora::base::build::TLS, remora::base::build::TARGET], "{line}");
        assert_eq!(build.join(" "), commit(), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }

    let help = output(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for word in [
        "run",
        "check",
        "config",
        "route",
        "health",
        "demo",
        "sandbox",
        "[[listeners]]",
        "64",
    ] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    assert_eq!(output(&["route", "--help"]).status.code(), Some(0));
}

/// The commit as the version shows it: that of the repository, where there is one.
fn commit() -> String {
    let git = Command::new("git")
        .args(["log", "-1", "--abbrev=10", "--format=(%h %cs)"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    match git {
        Ok(output) if output.status.success() && Path::new(env!("CARGO_MANIFEST_DIR")).join(".git").exists() => {
            text(&output.stdout).trim().to_owned()
        }
        _ => format!("({} {})", env!("REMORA_BUILD_COMMIT"), env!("REMORA_BUILD_COMMIT_DATE")).replace(" )", ")"),
    }
}

#[test]
fn a_verbose_version_has_what_a_report_of_a_problem_needs() {
    for arguments in [&["--version", "--verbose"][..], &["-vv"], &["-Vv"]] {
        let version = output(arguments);
        assert_eq!(version.status.code(), Some(0), "{arguments:?}");
        let (line, details) = text(&version.stdout).split_once("\n\n").expect("details");
        assert_eq!(line, text(&output(&["--version"]).stdout).trim());
        for part in [
            "compiler         rustc 1.",
            "profile          ",
            "features         ring",
            "allocator        mimalloc",
            "splice           works",
            "open files       ",
            "admin listener   127.0.0.1:9883",
        ] {
            assert!(details.contains(part), "{part} in {details}");
        }
    }
}

#[test]
fn bad_usage_exits_with_64_and_prints_to_stderr_only() {
    let file = Written::new(THREE_NODES);
    for arguments in [
        &[][..],
        &["walk"],
        &["--version", "run"],
        &["run"],
        &["check", "--config"],
        &["check", "-c", file.path(), "--colour"],
        &["check", "-c", file.path(), file.path()],
        &["route", "-c", file.path()],
        &["run", "-"],
        &["health", "-c", "-"],
        &["health", file.path(), "--address", "127.0.0.1:9883"],
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
    let subcommands = [&["check"][..], &["run"], &["route", "client"], &["config"], &["health"]];
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
            "nodes: at least one is required",
            "3 problems",
        ] {
            assert!(said.contains(part), "{arguments:?} without {part:?}: {said}");
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
    let warned = text(&output.stderr);
    let at = format!("{}:4:11", file.path());
    for part in ["warning: listeners[0].address: with port 0", &*at, "1 warning"] {
        assert!(warned.contains(part), "{part:?} is not in {warned}");
    }
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
    assert!((shares.iter().sum::<f64>() - 100.0).abs() < 0.02, "{shares:?}");
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
    assert!(lines[0].contains("home on the ring by client id"), "{lines:?}");
    assert!(lines[1].starts_with("a\\u{1b}[2J\\u{a} "), "{lines:?}");
    assert!(lines[2].len() < 400 && lines[2].contains("(1000B,"), "{lines:?}");
}

#[test]
fn route_by_client_address_takes_addresses_only() {
    let file = Written::new(&format!("{THREE_NODES}\n[affinity]\nkey = \"client_address\"\n"));
    let address = output(&["route", "-c", file.path(), "192.0.2.7"]);
    assert_eq!(address.status.code(), Some(0));
    assert!(text(&address.stdout).contains("home on the ring by client address"));

    let name = output(&["route", "-c", file.path(), "sensor-1"]);
    assert_eq!(name.status.code(), Some(64));
    assert!(text(&name.stderr).contains("\"sensor-1\" is not an IP address"));
}

#[test]
fn route_tells_the_group_of_a_client_and_what_goes_by_load() {
    let affinity = "[affinity]\ngroup = '^([^/]+)/'\nclean_sessions = \"least\"\nanonymous = \"ring\"";
    let file = Written::new(&format!("{THREE_NODES}\n{affinity}\n"));
    let answer = output(&["route", "-c", file.path(), "tenant7/dev3", "tenant7/app", "alone", ""]);
    assert_eq!(answer.status.code(), Some(0));
    let lines: Vec<&str> = text(&answer.stdout).lines().collect();
    let grouped =
        "home on the ring by client id, in groups by ^([^/]+)/: tenant7; with a clean session, the less loaded of two";
    let node = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    assert!(lines[0].contains(grouped) && lines[1].contains(grouped), "{lines:?}");
    assert_eq!(node(lines[0]), node(lines[1]));
    assert!(!lines[2].contains("tenant7"), "{lines:?}");
    assert!(lines[3].contains("anonymous: on the ring by its address"), "{lines:?}");

    let answer = output(&["route", "-c", file.path(), "--json", "tenant7/dev3", "alone"]);
    let answers: serde_json::Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert_eq!(answers[0]["group"], "tenant7");
    assert_eq!(answers[1].get("group"), None);
}

/// A balancer that does not outlive its test.
struct Running(Child);

impl Running {
    /// Starts it, and returns once it listens, with the line that says so.
    fn start(config: &str) -> (Self, String) {
        Self::start_by(remora().args(["run", "--config", config]))
    }

    fn start_by(command: &mut Command) -> (Self, String) {
        let (running, mut lines) = Self::start_with_lines(command);
        (running, lines.pop().expect("it listens"))
    }

    /// Starts it, and returns its lines up to the one that says that it listens.
    fn start_with_lines(command: &mut Command) -> (Self, Vec<String>) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program runs");
        let log = BufReader::new(child.stdout.take().expect("a pipe"));
        let running = Self(child);
        let mut lines = Vec::new();
        for line in log.lines().map(|line| line.expect("a line")) {
            let listens = line.contains("listening");
            lines.push(line);
            if listens {
                return (running, lines);
            }
        }
        panic!("it does not listen: {lines:?}");
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
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
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

/// The place, and the process that has it: this one.
#[test]
fn an_address_in_use_is_a_problem_of_its_line_for_run_and_for_check_that_binds() {
    let taken = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    let address = format!("127.0.0.1:{port}");
    let as_listener = ONE_NODE.replace("127.0.0.1:0", &address);
    let as_admin = ONE_NODE.replace("enabled = false", &format!("address = \"{address}\""));
    for (config, key, line) in [(as_listener, "listeners[0].address", 6), (as_admin, "admin.address", 4)] {
        let file = Written::new(&config);
        for arguments in [&["run", "-c", file.path()][..], &["check", "--bind", file.path()]] {
            let output = output(arguments);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}");
            let said = text(&output.stderr);
            for part in [
                format!("error: {key}: {address} is in use"),
                format!("{}:{line}:11", file.path()),
                format!("(pid {}) listens on 0.0.0.0:{port}", std::process::id()),
            ] {
                assert!(said.contains(&part), "{part:?} is not in {said}");
            }
        }
        // Without --bind nothing is tried.
        assert_eq!(output(&["check", file.path()]).status.code(), Some(0));
    }
}

#[test]
fn check_that_binds_lets_the_process_of_its_own_configuration_be() {
    let config = ONE_NODE.replace("enabled = false", "address = \"127.0.0.1:0\"");
    let other = Written::new(&config);
    // A port that is free: this balancer's admin listener has it until it ends.
    let (running, line) = Running::start(other.path());
    let admin = admin_of(&line);
    drop(running);
    let config = config.replace("127.0.0.1:0", &admin.to_string());
    let config = config
        .replacen(&admin.to_string(), "ADMIN", 1)
        .replace(&admin.to_string(), "127.0.0.1:0");
    let file = Written::new(&config.replace("ADMIN", &admin.to_string()));
    let (_running, _) = Running::start(file.path());
    let own = output(&["check", "--bind", file.path()]);
    assert_eq!(own.status.code(), Some(0), "{own:?}");
    let note = format!("note: {admin} is open in the process of this configuration");
    assert!(text(&own.stderr).contains(&note), "{own:?}");
    // An address that overlaps with one of its own could not be opened by a reload.
    let every = config.replace("ADMIN", &format!("0.0.0.0:{}", admin.port()));
    fs::write(&file.path, every).expect("written");
    let overlapping = output(&["check", "--bind", file.path()]);
    assert_eq!(overlapping.status.code(), Some(1), "{overlapping:?}");
    let said = text(&overlapping.stderr);
    assert!(
        said.contains("the process of this configuration") && said.contains("restart it"),
        "{said}"
    );
    // Another file that says the same is not that process's.
    let copy = Written::new(&config.replace("ADMIN", &admin.to_string()));
    assert_eq!(output(&["check", "--bind", copy.path()]).status.code(), Some(1));
}

/// The address of the admin listener in the line that says where a balancer listens.
fn admin_of(line: &str) -> SocketAddr {
    let (_, rest) = line.split_once("admin=").expect("an admin listener");
    let address = rest.split_whitespace().next().expect("an address");
    address.parse().expect("an address")
}

#[test]
fn health_is_answered_by_the_process_of_the_configuration_and_by_no_other() {
    let config = ONE_NODE.replace("enabled = false", "address = \"127.0.0.1:0\"");
    let file = Written::new(&config);
    let (running, line) = Running::start(file.path());
    let admin = admin_of(&line);
    // The same address in another file, as where two balancers have the default one. The running one's own file has port 0.
    let other = Written::new(&config.replacen("127.0.0.1:0", &admin.to_string(), 1));
    let of_other = output(&["health", "-c", other.path()]);
    assert_eq!(of_other.status.code(), Some(1));
    let said = text(&of_other.stderr);
    let who = format!(
        "another Remora (configuration {}, pid {}) answers at {admin}",
        file.path(),
        running.0.id()
    );
    assert!(said.contains(&who), "{said}");
    // Now the file says where its process is. Not ready, since no node answers, and that is the answer.
    fs::write(&file.path, config.replacen("127.0.0.1:0", &admin.to_string(), 1)).expect("written");
    let link = file.path.with_file_name("link.toml");
    std::os::unix::fs::symlink(&file.path, &link).expect("a link");
    for path in [file.path(), link.to_str().expect("UTF-8")] {
        let own = output(&["health", path]);
        assert_eq!(own.status.code(), Some(1));
        assert!(text(&own.stderr).starts_with("remora: not ready: "), "{own:?}");
    }
    // A reload keeps who it is; and an address is asked, whichever process is there.
    let _ = kill_process(Pid::from_child(&running.0), Signal::HUP);
    let any = output(&["health", "--address", &admin.to_string()]);
    assert!(text(&any.stderr).starts_with("remora: not ready: "), "{any:?}");
}

#[test]
fn the_configuration_is_looked_for_in_one_order_by_every_command() {
    let named = Written::new(&THREE_NODES.replace("emqx1", "by-argument"));
    let of_environment = Written::new(&THREE_NODES.replace("emqx1", "by-variable"));
    let run = |arguments: &[&str], variable: Option<&str>| {
        let mut command = remora();
        command.args(arguments).stdin(Stdio::null());
        if let Some(variable) = variable {
            command.env("REMORA_CONFIG", variable);
        }
        command.output().expect("the program runs")
    };
    for command in ["check", "config"] {
        for (arguments, variable, node) in [
            (
                &[command, "-c", named.path()][..],
                Some(of_environment.path()),
                "by-argument",
            ),
            (&[command, named.path()], None, "by-argument"),
            (&[command], Some(of_environment.path()), "by-variable"),
        ] {
            let output = run(arguments, variable);
            assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
            assert!(text(&output.stdout).contains(node), "{arguments:?}: {output:?}");
        }
    }
    let route = run(&["route", "sensor-1", "--json"], Some(of_environment.path()));
    assert!(text(&route.stdout).contains("by-variable"), "{route:?}");
    // What was looked at is said, if there is none.
    if !std::path::Path::new("/etc/remora/remora.toml").exists() {
        for command in [&["check"][..], &["run"], &["config"], &["route", "sensor-1"]] {
            let none = run(command, None);
            assert_eq!(none.status.code(), Some(64), "{command:?}");
            for part in ["-c FILE", "REMORA_CONFIG is not set", "no /etc/remora/remora.toml"] {
                assert!(text(&none.stderr).contains(part), "{part} is not in {none:?}");
            }
        }
    }
    let missing = run(&["check"], Some("no/such.toml"));
    assert_eq!(missing.status.code(), Some(64));
    assert!(
        text(&missing.stderr).contains("REMORA_CONFIG names no/such.toml"),
        "{missing:?}"
    );
}

#[test]
fn check_reads_standard_input() {
    let read = |config: &str| {
        let mut command = remora();
        command.args(["check", "-c", "-"]).stdin(Stdio::piped());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(config.as_bytes()).expect("read");
        drop(input);
        child.wait_with_output().expect("it ends")
    };
    assert_eq!(read(THREE_NODES).status.code(), Some(0));
    let refused = read(&THREE_NODES.replace("weight = 200", "weight = 2000"));
    assert_eq!(refused.status.code(), Some(64));
    assert!(text(&refused.stderr).contains("<stdin>:14:10"), "{refused:?}");
}

#[test]
fn config_prints_every_key_with_its_origin_and_loads_again() {
    let file = Written::new(&format!("{THREE_NODES}\n[timeouts]\nlinger = \"7s\"\n"));
    let printed = output(&["config", file.path()]);
    assert_eq!(printed.status.code(), Some(0));
    let printed = text(&printed.stdout);
    for line in [
        "name = \"mqtt\"  # line 3",
        "weight = 200  # line 14",
        "weight = 100  # default",
        "linger = \"7s\"  # line 21",
        "greet = \"5s\"  # default",
        "# connect_timeout: derived: timeouts.connect",
        "# idle_max: no limit (default)",
    ] {
        assert!(
            printed.lines().any(|other| other == line),
            "{line:?} is not in {printed}"
        );
    }
    let again = Written::new(printed);
    let values = |page: &str| -> Vec<String> {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.split("  # ").next().unwrap_or_default().to_owned())
            .collect()
    };
    let printed_again = output(&["config", again.path()]);
    assert_eq!(values(printed), values(text(&printed_again.stdout)));
}

/// The loader and `run` take it, since the rest of a site must go on; `check` says it loudly, and fails if that is asked for.
#[test]
fn config_prints_the_schema_without_a_configuration() {
    let printed = output(&["config", "--schema"]);
    assert_eq!(printed.status.code(), Some(0));
    assert_eq!(text(&printed.stdout), include_str!("../config/remora.schema.json"));
    // It is that of all configurations.
    assert_eq!(output(&["config", "--schema", "remora.toml"]).status.code(), Some(64));
}

/// A configuration that includes two files and names variables, in a folder with these files.
fn included(log: &str) -> Written {
    let file = Written::new("include = [\"conf.d/*.toml\"]\n[[listeners]]\naddress = \"${REMORA_TEST_IP}:1883\"\n");
    let conf_d = file.path.with_file_name("conf.d");
    fs::create_dir(&conf_d).expect("a folder");
    fs::write(conf_d.join("host"), "emqx1\n").expect("a file");
    let node = "[[nodes]]\nname = \"${file:host}\"\naddress = \"${file:host}:${REMORA_TEST_PORT}\"\n";
    fs::write(conf_d.join("nodes.toml"), node).expect("a file");
    fs::write(conf_d.join("zlog.toml"), log).expect("a file");
    file
}

#[test]
fn config_names_the_files_and_variables_that_values_come_from() {
    let file = included("[log]\nlevel = \"debug\"\n");
    let run = |arguments: &[&str]| {
        let mut command = remora();
        command
            .env("REMORA_TEST_IP", "127.0.0.7")
            .env("REMORA_TEST_PORT", "2883");
        command.args(arguments).output().expect("the program runs")
    };
    let printed = run(&["config", file.path()]);
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    let printed = text(&printed.stdout);
    for line in [
        "address = \"127.0.0.7:1883\"  # line 3, from ${REMORA_TEST_IP}",
        "name = \"emqx1\"  # conf.d/nodes.toml:2, from ${file:host}",
        "address = \"emqx1:2883\"  # conf.d/nodes.toml:3, from ${file:host} and ${REMORA_TEST_PORT}",
        "level = \"debug\"  # conf.d/zlog.toml:2",
        "format = \"text\"  # default",
    ] {
        assert!(
            printed.lines().any(|other| other == line),
            "{line:?} is not in {printed}"
        );
    }
    assert_eq!(run(&["check", file.path()]).status.code(), Some(0));
    // In a shell without the variables, a process can be named otherwise.
    for (asks, option) in [
        (&["ctl", "-c", file.path(), "status"][..], "--socket PATH"),
        (&["top", "--once", "-c", file.path()], "--socket PATH"),
        (&["health", "-c", file.path()], "--address HOST:PORT"),
    ] {
        let refused = output(asks);
        assert_eq!(refused.status.code(), Some(64), "{refused:?}");
        let shown = text(&refused.stderr);
        assert!(shown.contains("REMORA_TEST_IP") && shown.contains(option), "{shown}");
    }
    // What check finds has the place in its own file, and both places of what two files have.
    let file = included("[[listeners]]\naddress = \"0.0.0.0\"\n");
    let refused = run(&["check", file.path()]);
    assert_eq!(refused.status.code(), Some(64));
    let shown = text(&refused.stderr);
    let place = "conf.d/zlog.toml:2:11";
    assert!(
        shown.contains(place) && shown.contains("2 | address = \"0.0.0.0\""),
        "{shown}"
    );
    let file = included("include = []\nlog.level = \"debug\"\n");
    fs::write(
        file.path.with_file_name("conf.d").join("a.toml"),
        "[log]\nlevel = \"warn\"\n",
    )
    .expect("a file");
    let shown = run(&["check", file.path()]);
    let shown = text(&shown.stderr);
    for place in ["conf.d/zlog.toml:2:5", "conf.d/a.toml:2:1"] {
        assert!(shown.matches(place).count() >= 1, "{place} is not in {shown}");
    }
    // Without the variables, each is told with its place.
    let refused = output(&["check", file.path()]);
    let shown = text(&refused.stderr);
    assert!(shown.contains("the variable REMORA_TEST_IP is not set"), "{shown}");
    assert!(shown.contains("remora.toml:3:12"), "{shown}");
}

#[test]
fn an_expired_certificate_is_said_by_check_at_its_line_and_does_not_keep_run_from_starting() {
    let directory = TempDir::new().expect("a directory");
    let path = |file: &str| directory.path().join(file);
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let day = std::time::Duration::from_secs(86_400);
    params.not_before = (std::time::SystemTime::now() - 30 * day).into();
    params.not_after = (std::time::SystemTime::now() - 2 * day).into();
    fs::write(path("tls.pem"), params.self_signed(&key).expect("a certificate").pem()).expect("a file");
    fs::write(path("tls.key"), key.serialize_pem()).expect("a file");
    fs::set_permissions(path("tls.key"), Permissions::from_mode(0o600)).expect("its owner");
    let tls = "tls = \"end\"\ncertificates = [{ chain = \"tls.pem\", key = \"tls.key\" }]\n[[nodes]]";
    fs::write(path("remora.toml"), ONE_NODE.replace("[[nodes]]", tls)).expect("a file");
    let config = path("remora.toml");
    let config = config.to_str().expect("UTF-8");
    let checked = output(&["check", config]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let said = text(&checked.stderr);
    for part in [
        "error: listeners[0].certificates[0].chain: the certificate in \"tls.pem\" expired 2 days ago",
        &format!("{config}:8:27"),
        "1 problem and 1 warning",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(text(&checked.stdout).starts_with("There are PROBLEMS"), "{checked:?}");
    assert_eq!(output(&["check", config, "--strict"]).status.code(), Some(1));
    let (_running, lines) = Running::start_with_lines(remora().args(["run", config]));
    assert!(
        lines
            .iter()
            .any(|line| line.contains("WARN") && line.contains("expired 2 days ago")),
        "{lines:?}"
    );
}

#[test]
fn check_says_when_a_peer_that_vanished_is_closed() {
    for (tables, says) in [
        (
            "",
            "4 keepalive probes, 15s apart, after 1m of silence, or 2m without an acknowledgement; clients not before 1.5 \
             times their Keep Alive\n",
        ),
        (
            "[keepalive]\nidle = \"30s\"\ncount = 2\n",
            "2 keepalive probes, 15s apart, after 30s of silence, or 1m without an acknowledgement\n",
        ),
        (
            "[keepalive]\nidle = \"32767s\"\n[timeouts]\nuser_timeout = \"24h\"\n",
            "24h without an answer to keepalive probes, sent every 15s after 32767s of silence, or without an acknowledgement\n",
        ),
    ] {
        let file = Written::new(&format!("{ONE_NODE}{tables}"));
        let output = output(&["check", "-c", file.path()]);
        assert_eq!(output.status.code(), Some(0));
        let line = format!("vanished peers  closed after {says}");
        assert!(
            text(&output.stdout).contains(&line),
            "{line:?} is not in {}",
            text(&output.stdout)
        );
    }
}

#[test]
fn an_address_of_another_machine_takes_freebind_and_the_error_says_so() {
    // For documentation (RFC 5737, RFC 3849): no machine has them.
    for (address, words) in [
        (
            "192.0.2.1:0",
            ["freebind = true", "net.ipv4.ip_nonlocal_bind", "0.0.0.0:"],
        ),
        (
            "[2001:db8::1]:0",
            ["freebind = true", "net.ipv6.ip_nonlocal_bind", "[::]:"],
        ),
    ] {
        let config = ONE_NODE.replace("127.0.0.1:0", address);
        let file = Written::new(&config);
        let output = output(&["run", "-c", file.path()]);
        assert_eq!(output.status.code(), Some(1), "{address}");
        let said = text(&output.stderr);
        for word in [address].iter().chain(&words) {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
        let key = format!("address = \"{address}\"");
        let file = Written::new(&config.replace(&key, &format!("{key}\nfreebind = true")));
        let (running, line) = Running::start(file.path());
        assert!(line.contains(address.trim_end_matches('0')), "{line}");
        assert_eq!(running.stop(Signal::INT).code(), Some(0), "{address}");
    }
}

#[test]
fn a_private_key_that_everybody_can_read_is_warned_of() {
    let directory = TempDir::new().expect("a directory");
    let pair = Authority::new().and_then(|authority| authority.server(&["localhost"]));
    let pair = pair.expect("a certificate");
    let path = |file: &str| directory.path().join(file);
    fs::write(path("tls.pem"), pair.chain).expect("a file");
    fs::write(path("tls.key"), pair.key).expect("a file");
    let config = path("remora.toml");
    let tls = "tls = \"end\"\ncertificates = [{ chain = \"tls.pem\", key = \"tls.key\" }]\n[[nodes]]";
    fs::write(&config, ONE_NODE.replace("[[nodes]]", tls)).expect("a file");
    let config = config.to_str().expect("UTF-8");
    let warning = "listeners[0].certificates[0].key: \"tls.key\", a private key, is open to every user of this machine";
    for (mode, warned) in [(0o644, true), (0o602, true), (0o640, false), (0o600, false)] {
        let others = |mode| fs::set_permissions(path("tls.key"), Permissions::from_mode(mode)).expect("its owner");
        others(mode);
        // The certificate is public.
        fs::set_permissions(path("tls.pem"), Permissions::from_mode(0o644)).expect("its owner");
        let output = output(&["check", "-c", config]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let printed = text(&output.stderr);
        assert_eq!(printed.contains(warning), warned, "{mode:o}: {printed}");
        let (running, first) = Running::start_with_lines(remora().args(["run", "--config", config]));
        let logged = first
            .iter()
            .any(|line| line.contains("is open to every user of this machine"));
        assert_eq!(logged, warned, "{mode:o}: {first:?}");
        drop(running);
    }
}

#[test]
fn there_are_no_core_dumps_unless_they_are_asked_for() {
    let limits = |process: &str| {
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).expect("limits");
        let line = limits.lines().find(|line| line.starts_with("Max core file size"));
        let line = line.expect("a limit").to_owned();
        let value = |number| line.split_whitespace().nth(number).expect("a value").to_owned();
        (value(4), value(5))
    };
    let file = Written::new(ONE_NODE);
    // Core dumps are allowed as far as they can be here.
    let start = |more: &[&str]| {
        let mut shell = Command::new("sh");
        let allowed = "ulimit -S -c $(ulimit -H -c); exec \"$0\" \"$@\"";
        shell.args([
            "-c",
            allowed,
            env!("CARGO_BIN_EXE_remora"),
            "run",
            "--config",
            file.path(),
        ]);
        Running::start_by(shell.args(more)).0
    };
    let running = start(&[]);
    let (soft, hard) = limits(&running.0.id().to_string());
    let off = ["0", "1"];
    assert!(off.contains(&&*soft) && off.contains(&&*hard), "{soft} {hard}");
    let running = start(&["--core-dumps"]);
    let (_, hard) = limits("self");
    assert_eq!(limits(&running.0.id().to_string()), (hard.clone(), hard));
}

#[test]
fn check_suggests_a_seed_of_the_sites_own_that_can_be_used_as_it_is() {
    let file = Written::new(THREE_NODES);
    let suggested = || {
        let output = output(&["check", "-c", file.path()]);
        let printed = text(&output.stdout).to_owned();
        let seed = printed.lines().find_map(|line| line.trim().strip_prefix("seed = "));
        seed.unwrap_or_else(|| panic!("no seed in {printed}")).to_owned()
    };
    let seed = suggested();
    assert_ne!(seed, suggested(), "another one each time");
    let own = Written::new(&format!("{THREE_NODES}\n[affinity]\nseed = {seed}\n"));
    let output = output(&["check", "-c", own.path()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let printed = text(&output.stdout);
    assert!(
        printed.contains(&format!("ring seed {seed}")) && !printed.contains("suggestions"),
        "{printed}"
    );
}

/// As `ONE_NODE`, with this admin socket and without an admin listener on TCP.
fn with_socket(socket: &Path) -> String {
    ONE_NODE.replace("enabled = false", &format!("address = []\nsocket = {socket:?}"))
}

#[test]
fn an_admin_socket_that_cannot_be_had_is_a_problem_of_its_line_for_run_and_for_check_that_binds() {
    let folder = TempDir::new().expect("a directory");
    let in_use = folder.path().join("in-use.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&in_use).expect("free");
    let no_socket = folder.path().join("no-socket");
    fs::write(&no_socket, "mine").expect("written");
    let nowhere = folder.path().join("no/such/directory/admin.sock");
    for (socket, what, hint) in [
        (
            &in_use,
            format!("is in use by process {}", std::process::id()),
            "stop the process that has it",
        ),
        (&no_socket, "is there and is no socket".to_owned(), "remove it"),
        (
            &nowhere,
            "cannot be opened: No such file".to_owned(),
            "its directory must be there",
        ),
    ] {
        let file = Written::new(&with_socket(socket));
        for arguments in [&["run", "-c", file.path()][..], &["check", "--bind", file.path()]] {
            let output = output(arguments);
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
            let said = text(&output.stderr);
            for part in ["error: admin.socket: ", &format!("{}:5:10", file.path()), &what, hint] {
                assert!(said.contains(part), "{part:?} is not in {said}");
            }
        }
        // Without --bind nothing is tried.
        assert_eq!(output(&["check", file.path()]).status.code(), Some(0));
    }
    assert_eq!(fs::read(&no_socket).expect("a file"), b"mine");
}

#[test]
fn check_that_binds_lets_the_socket_of_its_own_process_be_and_leaves_none_behind() {
    let folder = TempDir::new().expect("a directory");
    let socket = folder.path().join("admin.sock");
    let file = Written::new(&with_socket(&socket));
    let free = output(&["check", "--bind", file.path()]);
    assert_eq!(free.status.code(), Some(0), "{free:?}");
    assert!(!socket.exists());
    let (_running, _) = Running::start(file.path());
    let own = output(&["check", "--bind", file.path()]);
    assert_eq!(own.status.code(), Some(0), "{own:?}");
    let note = format!(
        "note: {} is open in the process of this configuration",
        socket.display()
    );
    assert!(text(&own.stderr).contains(&note), "{own:?}");
    // Another file that says the same is not that process's.
    let copy = Written::new(&with_socket(&socket));
    assert_eq!(output(&["check", "--bind", copy.path()]).status.code(), Some(1));
}

#[test]
fn check_and_route_say_where_nodes_are_found_and_read_the_file_that_lists_them() {
    let discovery = |source: &str| {
        format!(
            "[[listeners]]\naddress = \"127.0.0.1:1883\"\n[[nodes]]\naddress = \"{{host}}:1883\"\nws = \"{{host}}:8083\"\n\
             [discovery]\n{source}\n"
        )
    };
    for (source, expected) in [
        (
            "source = \"emqx\"\nseeds = [\"http://10.0.0.11:18083\"]\ngrace = \"2m\"",
            "nodes that EMQX lists at http://10.0.0.11:18083, asked every 10s; one that is missing stays for 2m",
        ),
        (
            "source = \"dns\"\nname = \"_mqtt._tcp.emqx.example\"\nname_servers = [\"10.0.0.53\"]",
            "nodes behind the name _mqtt._tcp.emqx.example, of which 10.0.0.53:53 are asked every 10s or as its TTL says",
        ),
    ] {
        let file = Written::new(&discovery(source));
        let output = output(&["check", file.path()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let printed = text(&output.stdout);
        assert!(printed.contains(expected), "{expected:?} is not in {printed}");
        let template = "each node that is found  {host}:1883  weight 100  by its weight  ws://{host}:8083";
        assert!(printed.contains(template), "{template:?} is not in {printed}");
    }
    let file = Written::new(
        "[[listeners]]\naddress = \"127.0.0.1:1883\"\n[discovery]\nsource = \"file\"\nfile = \"nodes.toml\"\n",
    );
    let nodes = file.path.with_file_name("nodes.toml");
    // Before its writer has come, or after it has failed.
    let said = format!("{}: 1 problem", nodes.display());
    for wrong in [None, Some("[[nodes]]\nname = \"emqx1\"\n")] {
        if let Some(wrong) = wrong {
            fs::write(&nodes, wrong).expect("written");
        }
        let lenient = output(&["check", file.path()]);
        assert_eq!(lenient.status.code(), Some(0), "{lenient:?}");
        assert!(text(&lenient.stderr).contains(&said), "{lenient:?}");
        assert!(
            text(&lenient.stderr).contains("note: `run` would start without the nodes"),
            "{lenient:?}"
        );
        assert_eq!(output(&["check", "--strict", file.path()]).status.code(), Some(1));
        assert_eq!(
            output(&["route", "-c", file.path(), "sensor-1"]).status.code(),
            Some(64)
        );
    }
    fs::write(
        &nodes,
        THREE_NODES
            .split_once("[[nodes]]")
            .map(|(_, nodes)| format!("[[nodes]]{nodes}"))
            .expect("nodes"),
    )
    .expect("written");
    let checked = output(&["check", "--strict", file.path()]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let printed = text(&checked.stdout);
    let listed = format!("nodes listed in {}, read every 2s", nodes.display());
    for part in [&*listed, "emqx2  emqx2.example.com:1883  weight 200"] {
        assert!(printed.contains(part), "{part:?} is not in {printed}");
    }
    // As if they were in the configuration.
    let same = Written::new(THREE_NODES);
    let of = |file: &Written| output(&["route", "-c", file.path(), "--json", "sensor-1", "sensor-2"]).stdout;
    assert!(text(&of(&file)).contains("emqx2"));
    assert_eq!(text(&of(&file)), text(&of(&same)));
}

/// Runs a script of bash after it has read the completions, with the program's directory in its PATH.
fn bash(script: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_remora"));
    let directories = std::env::var("PATH").expect("a path");
    let path = format!("{}:{directories}", program.parent().expect("a directory").display());
    let script = format!("source <(remora completions bash)\n{script}");
    let output = Command::new("bash")
        .args(["--norc", "-c", &script])
        .env("PATH", path)
        .output();
    let output = output.expect("bash");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    text(&output.stdout).to_owned()
}

/// What bash offers behind these words, of which the last one is being typed.
fn completed(words: &[&str]) -> Vec<String> {
    let last = words.len() - 1;
    let previous = words[last - 1];
    let array: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    // As bash itself would do it at the tab key: by what is registered for the command.
    let script = format!(
        "COMP_WORDS=({})\nCOMP_CWORD={last}\nregistered=$(complete -p remora)\nfunction=${{registered##*-F }}\n\
         ${{function%% *}} remora '{}' '{previous}'\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        array.join(" "),
        words[last],
    );
    bash(&script).lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let commands = completed(&["remora", ""]);
    for command in ["run", "check", "ctl", "top", "init", "completions", "man"] {
        assert!(
            commands.iter().any(|offered| offered == command),
            "{command}: {commands:?}"
        );
    }
    assert_eq!(completed(&["remora", "comp"]), ["completions"]);
    assert_eq!(completed(&["remora", "ctl", "undr"]), ["undrain"]);
    assert_eq!(completed(&["remora", "ctl", "rebalance", "--st"]), ["--stop"]);
    assert_eq!(completed(&["remora", "completions", "f"]), ["fish"]);
    assert!(completed(&["remora", "top", "--"]).contains(&"--once".to_owned()));
}

#[test]
fn every_shell_has_completions_that_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = output(&["completions", shell]);
        assert_eq!(script.status.code(), Some(0), "{shell}");
        for command in ["run", "reload", "close-node", "--token-file"] {
            let name = command.trim_start_matches("--");
            assert!(text(&script.stdout).contains(name), "{shell}: {command}");
        }
    }
    assert_eq!(output(&["completions", "tcsh"]).status.code(), Some(64));
}

/// The names of all commands as they are typed, from the help.
fn commands(of: &[&str]) -> Vec<String> {
    let help = output(&[of, &["--help"]].concat());
    assert_eq!(help.status.code(), Some(0), "{of:?}");
    let help = text(&help.stdout);
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return vec![of.join("-")];
    };
    let names = list.lines().take_while(|line| !line.is_empty());
    // Further lines of a description are further to the right.
    let names = names.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    let names: Vec<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    let below = names.into_iter().filter(|name| *name != "help");
    let mut all: Vec<String> = below.flat_map(|name| commands(&[of, &[name]].concat())).collect();
    all.push(of.join("-"));
    all
}

#[test]
fn every_command_has_a_page_of_the_manual() {
    let directory = TempDir::new().expect("a directory");
    let pages = directory.path().join("share/man/man1");
    let written = output(&["man", "--out", pages.to_str().expect("UTF-8")]);
    assert_eq!(written.status.code(), Some(0), "{written:?}");
    let mut expected: Vec<String> = commands(&[])
        .into_iter()
        .map(|name| match &*name {
            "" => "remora.1".to_owned(),
            name => format!("remora-{name}.1"),
        })
        .collect();
    let entries = fs::read_dir(&pages).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.collect();
    expected.sort_unstable();
    names.sort_unstable();
    assert_eq!(names, expected);
    assert!(names.len() > 25, "{names:?}");
    for name in &names {
        let page = fs::read_to_string(pages.join(name)).expect("a page");
        for part in [".TH ", ".SH NAME\n", ".SH SYNOPSIS\n"] {
            assert!(page.contains(part), "{name}: {part:?}");
        }
        // Whatever is no request of roff is text, and text does not begin with a control character by accident.
        let requests = page.lines().filter_map(|line| line.strip_prefix('.'));
        for request in requests {
            let request = request.split(' ').next().unwrap_or_default();
            assert!(
                ["TH", "SH", "TP", "IP", "PP", "RS", "RE", "br", "ie", "el"].contains(&request),
                "{name}: .{request}"
            );
        }
        // Where there is a formatter, it has nothing to say about any page.
        let formatted = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-z"])
            .arg(pages.join(name))
            .output();
        if let Ok(formatted) = formatted {
            assert!(
                formatted.status.success() && formatted.stderr.is_empty(),
                "{name}: {formatted:?}"
            );
        }
    }
    let one = output(&["man", "ctl", "drain"]);
    assert_eq!(
        text(&one.stdout).trim_end(),
        fs::read_to_string(pages.join("remora-ctl-drain.1"))
            .expect("a page")
            .trim_end()
    );
    let none = output(&["man", "ctl", "sink"]);
    assert_eq!(none.status.code(), Some(64));
    assert!(text(&none.stderr).contains("ctl sink"));
}

#[test]
fn init_writes_a_file_that_check_takes_and_replaces_none_unasked() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("remora.toml");
    let file = path.to_str().expect("UTF-8");
    let node = ["init", "--node", "emqx1=10.0.0.11:1883", "--out", file];
    let written = output(&node);
    assert_eq!(written.status.code(), Some(0), "{written:?}");
    // What is recommended next works as it stands.
    let said = text(&written.stdout);
    for command in ["check", "check --bind", "run", "top"] {
        assert!(said.contains(&format!("remora {command} -c {file}")), "{said}");
    }
    let checked = output(&["check", "-c", file]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    assert!(text(&checked.stdout).contains("emqx1"));

    let before = fs::read_to_string(&path).expect("a file");
    let other = ["init", "--node", "emqx9=10.0.0.19:1883", "--out", file];
    let again = output(&other);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("--force"), "{again:?}");
    assert_eq!(fs::read_to_string(&path).expect("a file"), before);
    assert_eq!(output(&[&other[..], &["--force"]].concat()).status.code(), Some(0));
    assert!(fs::read_to_string(&path).expect("a file").contains("emqx9"));

    let printed = output(&["init", "--node", "emqx1=10.0.0.11:1883", "--out", "-"]);
    assert_eq!(text(&printed.stdout).trim_end(), before.trim_end());
}

#[test]
fn init_writes_nothing_that_check_would_refuse() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("remora.toml");
    let file = path.to_str().expect("UTF-8");
    let cases: [(&[&str], &str); 7] = [
        (&[], "--node emqx1="),
        (&["--node", "emqx1=10.0.0.11"], "has no port"),
        (&["--node", "=10.0.0.11:1883"], "NAME=HOST:PORT"),
        (&["--node", "a=mqtts://10.0.0.11:8883"], "--nodes-ca"),
        (
            &["--node", "a=10.0.0.11:1883", "--tls", "/nowhere.pem", "/nowhere.key"],
            "/nowhere.pem",
        ),
        (
            &["--node", "a=10.0.0.11:1883", "--listen", "here"],
            "listeners[0].address",
        ),
        (&["--node", "a=10.0.0.11:1883", "--dns", "emqx.example.com"], "--dns"),
    ];
    for (options, said) in cases {
        let refused = remora()
            .args(["init", "--out", file])
            .args(options)
            .stdin(Stdio::null())
            .output();
        let refused = refused.expect("the program");
        assert_eq!(refused.status.code(), Some(64), "{options:?}: {refused:?}");
        assert!(text(&refused.stderr).contains(said), "{options:?}: {refused:?}");
        assert!(!path.exists(), "{options:?}");
    }
}

#[test]
fn the_sandbox_runs_nodes_for_a_balancer_in_another_process() {
    let mut child = remora()
        .args(["sandbox", "--broken-routing"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut printed = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut toml = "[doctor]\ntimeout = \"3s\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n".to_owned();
    for number in 1..=3 {
        let line = printed.next().expect("a line for each node").expect("UTF-8");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, address, ws] = words[..] else {
            panic!("{line}")
        };
        assert_eq!(name, format!("node{number}"));
        toml += &format!("[[nodes]]\nname = \"{name}\"\naddress = \"{address}\"\nws = \"{ws}\"\n");
    }
    // Its options hold: every endpoint answers, and no message passes from one node to another.
    let configuration = Written::new(&toml);
    let found = output(&["doctor", configuration.path()]);
    assert_eq!(found.status.code(), Some(2), "{found:?}");
    let found = text(&found.stdout);
    assert!(
        found.contains("R101") && found.contains("  node3 (ws)     fine\n"),
        "{found}"
    );
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("a child").code(), Some(0));
}

#[test]
fn a_sandbox_that_cannot_listen_says_where() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let refused = output(&["sandbox", "--address", &address]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains(&format!("cannot listen on {address}: ")), "{said}");
    let refused = output(&["sandbox", "--address", "127.0.0.1:65534"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}

#[test]
fn the_doctor_exits_with_what_it_found() {
    let routing = |routing_is_cut| {
        let settings = remora_sandbox::Settings {
            routing_is_cut,
            ..remora_sandbox::Settings::default()
        };
        let sandbox = remora_sandbox::Sandbox::start(settings).expect("nodes");
        let mut toml = "[doctor]\ntimeout = \"3s\"\n[[listeners]]\naddress = \"127.0.0.1:0\"\n".to_owned();
        for node in sandbox.nodes() {
            let (name, address, ws) = (node.name(), node.address(), node.ws_address());
            toml += &format!("[[nodes]]\nname = \"{name}\"\naddress = \"{address}\"\nws = \"ws://{ws}/mqtt\"\n");
        }
        (sandbox, Written::new(&toml))
    };
    let (_joined, fine) = routing(false);
    let result = output(&["doctor", "-c", fine.path()]);
    assert_eq!(result.status.code(), Some(0), "{}", text(&result.stdout));
    assert!(text(&result.stdout).contains("\nnothing found, after "));
    assert!(
        text(&result.stdout).contains("  node2 (ws)     fine\n"),
        "{}",
        text(&result.stdout)
    );
    let (_cut, broken) = routing(true);
    let result = output(&["doctor", broken.path(), "--json"]);
    assert_eq!(result.status.code(), Some(2));
    let report: serde_json::Value = serde_json::from_slice(&result.stdout).expect("JSON");
    assert_eq!(report["findings"][0]["code"], "R101");
    assert_eq!(
        report["findings"][0]["subjects"],
        serde_json::json!(["node1", "node2", "node3"])
    );
    let found = report["findings"][0]["found"].as_str().expect("words");
    assert!(found.starts_with("node1 | node2 | node3 are 3 clusters"), "{found}");
    let unusable = Written::new("[doctor]\ntopic = \"a/#\"\n");
    let result = output(&["doctor", unusable.path()]);
    assert_eq!(result.status.code(), Some(64));
    assert!(
        text(&result.stderr).contains("doctor.topic: \"a/#\" does not name a topic"),
        "{}",
        text(&result.stderr)
    );
    assert!(text(&result.stderr).contains("write \"a\""), "{}", text(&result.stderr));
}
