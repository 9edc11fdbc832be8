//! The program: what it prints, whether that works as it is printed, and how it ends.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::time::Instant;

use super::DEADLINE;
use super::client::{Client, Session};

/// `remora demo`, which does not outlive its test.
struct Demo {
    child: Child,
    screen: String,
    log: Option<BufReader<ChildStdout>>,
    /// Its folder for temporary files, with a name that a shell must be given in quotes.
    files: TempDir,
}

impl Demo {
    /// Starts it, and returns when the screen is complete.
    fn start(arguments: &[&str]) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_remora")), arguments)
    }

    /// The same by a command that becomes the program.
    fn start_by(mut command: Command, arguments: &[&str]) -> Self {
        let files = tempfile::Builder::new()
            .prefix("a demo's ")
            .tempdir()
            .expect("a folder");
        command.env("TMPDIR", files.path());
        Self::start_in(files, command, arguments)
    }

    /// The same by a command that knows its folder for temporary files.
    fn start_in(files: TempDir, mut command: Command, arguments: &[&str]) -> Self {
        let mut child = command
            .arg("demo")
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut log = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut screen = String::new();
        while !screen.contains("Ctrl-C") {
            let read = log.read_line(&mut screen).expect("text");
            assert!(read > 0, "the screen ends too early: {screen}");
        }
        Self {
            child,
            screen,
            log: Some(log),
            files,
        }
    }

    /// Where the screen says that it listens.
    fn address(&self) -> SocketAddr {
        let (_, rest) = self.screen.split_once("listens on ").expect("an address");
        let end = rest.find([' ', ',']).expect("an end");
        rest[..end].parse().expect("an address")
    }

    /// Where the screen says that it speaks WebSocket.
    fn ws_address(&self) -> SocketAddr {
        let (_, rest) = self.screen.split_once("ws://").expect("a URL");
        let (address, _) = rest.split_once("/mqtt").expect("its path");
        address.parse().expect("an address")
    }

    /// Where the screen says that it speaks TLS.
    fn tls_address(&self) -> SocketAddr {
        let (_, rest) = self.screen.split_once("with TLS on ").expect("an address");
        let end = rest.find([' ', ',']).expect("an end");
        rest[..end].parse().expect("an address")
    }

    /// Whom TLS clients are to trust, by the words of the printed commands.
    fn authority(&self) -> PathBuf {
        let commands = self.commands();
        let words = commands
            .iter()
            .find(|words| words.iter().any(|word| word == "--cafile"));
        PathBuf::from(behind(words.expect("a command"), "--cafile"))
    }

    /// The printed commands, as the words that a shell reads: the lines after an indent that name a program.
    fn commands(&self) -> Vec<Vec<String>> {
        let indented = self.screen.lines().filter_map(|line| line.strip_prefix("  "));
        let names_program = |line: &&str| {
            let program = line.split(' ').next().unwrap_or_default();
            program.starts_with("mosquitto_") || program == "npx" || program.ends_with("remora")
        };
        indented.filter(names_program).map(words).collect()
    }

    /// The printed commands of the program itself, whose first words after the name are these.
    fn own_commands(&self, first: &[&str]) -> Vec<Vec<String>> {
        let mut commands = self.commands();
        commands.retain(|words| words[0].ends_with("remora") && words[1..].iter().zip(first).all(|(a, b)| a == b));
        commands
    }

    /// The only one of these.
    fn only_command(&self, first: &[&str]) -> Vec<String> {
        match &self.own_commands(first)[..] {
            [command] => command.clone(),
            commands => panic!("one command {first:?}: {commands:?}"),
        }
    }

    /// Runs a printed command; its exit code, and what it prints.
    fn run(&self, words: &[String]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.args(&words[1..]).env("TMPDIR", self.files.path());
        let output = command.output().expect("the program runs");
        let printed = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(printed).expect("text"))
    }

    /// The client ids of the printed commands for mosquitto over TCP: who receives, and who sends.
    fn client_ids(&self) -> Vec<String> {
        let commands = self.commands().into_iter();
        let over_tcp =
            commands.filter(|words| words[0].starts_with("mosquitto_") && !words.contains(&"--cafile".to_owned()));
        over_tcp.map(|words| behind(&words, "-i")).collect()
    }

    /// Ends it, and returns its exit code and what it has logged. It leaves no file behind.
    fn stop(mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
        let mut lines = self.log.take().expect("a log");
        let (sender, log) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let mut log = String::new();
            lines.read_to_string(&mut log).expect("text");
            // The test may have given up.
            let _ = sender.try_send(log);
        });
        let log = log.recv_timeout(DEADLINE).expect("it ends");
        let code = self.child.wait().expect("a child").code();
        let left: Vec<_> = std::fs::read_dir(self.files.path()).expect("a folder").collect();
        assert!(left.is_empty(), "{left:?} is left");
        (code, log)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The words of a command, as a shell reads them.
fn words(command: &str) -> Vec<String> {
    let output = Command::new("sh")
        .args(["-c", &format!("printf '%s\\n' {command}")])
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{command}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

/// The word after an option.
fn behind(words: &[String], option: &str) -> String {
    let place = words.iter().position(|word| word == option);
    words[place.unwrap_or_else(|| panic!("{option} in {words:?}")) + 1].clone()
}

const FREE: [&str; 8] = [
    "--address",
    "127.0.0.1:0",
    "--ws-address",
    "127.0.0.1:0",
    "--tls-address",
    "127.0.0.1:0",
    "--wss-address",
    "127.0.0.1:0",
];

#[test]
fn what_the_screen_says_works() {
    let demo = Demo::start(&FREE);
    let ids = demo.client_ids();
    assert_eq!(ids.len(), 2, "{}", demo.screen);
    for word in ["node1", "node2", "node3", " % of the clients", "no brokers"] {
        assert!(demo.screen.contains(word), "{word}: {}", demo.screen);
    }
    let (mut subscriber, here) = Client::connect(demo.address(), &ids[0], Session::Clean);
    subscriber.subscribe("demo/#");
    let (mut publisher, there) = Client::connect(demo.address(), &ids[1], Session::Clean);
    assert_ne!(here.node, there.node, "the message has a way to go");
    for node in [&here.node, &there.node] {
        let said = format!("as a client of {node}:");
        assert!(demo.screen.contains(&said), "{said} {}", demo.screen);
    }
    publisher.publish("demo/hello", "hello");
    assert_eq!(subscriber.receive(), "hello");

    publisher.leave();
    subscriber.leave();
    let (code, log) = demo.stop(Signal::TERM);
    assert_eq!(code, Some(0));
    for (id, node) in ids.iter().zip([here.node, there.node]) {
        let mut lines = log.lines().filter(|line| line.contains("connection ended"));
        let line = lines.find(|line| line.contains(&format!("client_id={id} ")));
        let line = line.unwrap_or_else(|| panic!("no line on {id}: {log}"));
        assert!(line.contains(&format!("node=\"{node}\"")), "{line}");
    }
}

/// Each of them is copied into a shell; this runs those of the program itself, tests/interop the others.
#[test]
fn the_bench_commands_of_the_screen_work_as_they_are_printed() {
    for ip in ["127.0.0.1", "[::1]"] {
        bench_commands_work(&FREE.map(|word| word.replace("127.0.0.1", ip)));
    }
}

fn bench_commands_work(arguments: &[String]) {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let demo = Demo::start(&arguments);
    let commands = demo.own_commands(&["bench", "echo"]);
    assert_eq!(commands.len(), 2, "{}", demo.screen);
    assert!(
        commands[1].iter().any(|word| word.starts_with("wss://")),
        "{commands:?}"
    );
    for mut words in commands {
        // For half a second: a test need not wait for as long as a reader may.
        let duration = words.iter().position(|word| word == "--duration").expect("a duration") + 1;
        words[duration] = "0.5".to_owned();
        // In the folder where the demo was started.
        let output = Command::new(&words[0])
            .args(&words[1..])
            .arg("--json")
            .output()
            .unwrap_or_else(|error| panic!("{words:?}: {error}"));
        assert!(output.status.success(), "{words:?}: {output:?}");
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let received = result.pointer("/runs/0/messages/received");
        assert!(received.and_then(|value| value.as_u64()) > Some(0), "{result}");
    }
    assert_eq!(demo.stop(Signal::TERM).0, Some(0));
}

#[test]
fn no_two_subscribers_of_the_screen_end_each_other_and_all_are_on_one_node() {
    let demo = Demo::start(&FREE);
    let commands = demo.commands();
    let subscribers = commands
        .iter()
        .filter(|words| words[0] == "mosquitto_sub" || words[0] == "npx");
    let ids: BTreeSet<String> = subscribers.clone().map(|words| behind(words, "-i")).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    assert_eq!(subscribers.count(), 4);
    let clients: Vec<_> = ids
        .iter()
        .map(|id| Client::connect(demo.address(), id, Session::Clean))
        .collect();
    let nodes: BTreeSet<&str> = clients.iter().map(|(_, accepted)| &*accepted.node).collect();
    assert_eq!(nodes.len(), 1, "{nodes:?}");
}

#[test]
fn the_experiment_shows_what_is_received_after_a_restart() {
    let began = Instant::now();
    let demo = Demo::start(&[&FREE[..], &["--broken-routing"]].concat());
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    // How often each part has received, by the lines of the restarts; and what its summary says.
    let parts: Vec<&str> = ["\n1. ", "\n2. ", "\n3. ", "With your own cluster"]
        .windows(2)
        .map(|marks| {
            let (_, rest) = demo.screen.split_once(marks[0]).expect("a part");
            rest.split_once(marks[1]).expect("its end").0
        })
        .collect();
    let restarts = |part: &str| part.lines().filter(|line| line.trim().starts_with("restart ")).count();
    let received = |part: &str| part.matches(": received").count();
    let counts: Vec<_> = parts.iter().map(|part| (restarts(part), received(part))).collect();
    assert_eq!(counts, [(3, 1), (3, 3), (3, 6)], "{}", demo.screen);
    let on = |part: &str| -> BTreeSet<String> {
        let nodes = part.split("screen on ").skip(1);
        nodes
            .map(|rest| rest[..rest.find(';').expect("an end")].to_owned())
            .collect()
    };
    let nodes: Vec<_> = parts.iter().map(|part| on(part).len()).collect();
    assert_eq!(nodes, [3, 1, 1], "{}", demo.screen);
    for (part, says) in parts.iter().zip([
        &["Received after 1 of 3 restarts"][..],
        &["received after 3 of 3 restarts", "after 0 of 3"],
        &["received after 3 of 3 restarts", "after 3 of 3."],
    ]) {
        assert!(says.iter().all(|says| part.contains(says)), "{says:?} in {part}");
    }
    assert!(demo.screen.contains("routing between its nodes is broken again"));
    assert_eq!(demo.stop(Signal::TERM).0, Some(0));
}

#[test]
fn the_commands_for_ones_own_cluster_work() {
    let demo = Demo::start(&[&FREE[..], &["--broken-routing"]].concat());
    let files = TempDir::new().expect("a folder");
    let config = files.path().join("remora.toml");
    std::fs::write(&config, include_str!("../../config/minimal.toml")).expect("a file");
    for first in [&["route"][..], &["bench", "reconnect"]] {
        let commands = demo.own_commands(first);
        assert_eq!(commands.len(), 1, "{}", demo.screen);
        // With one's own file and host in the places that are meant for them.
        let address = demo.address().to_string();
        let given = commands[0].iter().map(|word| match word.as_str() {
            "remora.toml" => config.to_str().expect("UTF-8"),
            "HOST:1883" => &address,
            word => word,
        });
        let given: Vec<&str> = given.collect();
        let output = Command::new(given[0]).args(&given[1..]).output().expect("it runs");
        assert!(output.status.success(), "{given:?}: {output:?}");
    }
    assert_eq!(demo.stop(Signal::TERM).0, Some(0));
}

#[test]
fn the_demo_ends_at_once_even_during_the_experiment() {
    let files = TempDir::new().expect("a folder");
    let mut child = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["demo", "--broken-routing"])
        .args(FREE)
        .env("TMPDIR", files.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let restart = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("restart 2")));
    assert!(restart.is_some(), "an experiment");
    kill_process(Pid::from_child(&child), Signal::INT).expect("it runs");
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(child.wait().expect("a child").success(), "{rest:?}");
    assert!(!rest.iter().any(|line| line.contains("Ctrl-C")), "{rest:?}");
    assert_eq!(std::fs::read_dir(files.path()).expect("a folder").count(), 0);
}

#[test]
fn what_a_killed_demo_has_left_goes_with_the_next_and_what_a_living_one_uses_stays() {
    let shared = TempDir::new().expect("a folder");
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.env("TMPDIR", shared.path());
        Demo::start_in(TempDir::new().expect("a folder"), command, &FREE)
    };
    let killed = start();
    let abandoned = killed.authority();
    // Dropped, it is killed.
    drop(killed);
    assert!(abandoned.exists());

    let living = start();
    assert!(!abandoned.exists());
    let used = living.authority();
    assert_eq!(start().stop(Signal::TERM).0, Some(0));
    assert!(used.exists());
    assert_eq!(living.stop(Signal::TERM).0, Some(0));
    let left: Vec<_> = std::fs::read_dir(shared.path()).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?} is left");
}

#[test]
fn a_temporary_directory_that_cannot_be_used_is_named_with_what_would_do() {
    let files = TempDir::new().expect("a folder");
    let missing = files.path().join("missing");
    let output = Command::new(env!("CARGO_BIN_EXE_remora"))
        .arg("demo")
        .args(FREE)
        .env("TMPDIR", &missing)
        .output()
        .expect("it runs");
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&*missing.to_string_lossy()) && said.contains("set TMPDIR"),
        "{said}"
    );
}

#[test]
fn the_demo_ends_with_its_terminal() {
    for signal in [Signal::HUP, Signal::INT, Signal::TERM, Signal::QUIT] {
        // The tests may have been started by nohup themselves, which the program would respect.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_remora")]);
        let demo = Demo::start_by(command, &FREE);
        assert!(demo.authority().exists());
        // It also asserts that no file is left.
        assert_eq!(demo.stop(signal).0, Some(0), "{signal:?}");
    }
}

#[test]
fn the_demo_outlives_its_terminal_where_nohup_starts_it() {
    let mut nohup = Command::new("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_remora")]);
    let demo = Demo::start_by(nohup, &FREE);
    kill_process(Pid::from_child(&demo.child), Signal::HUP).expect("it runs");
    let (client, _) = Client::connect(demo.address(), "client", Session::Clean);
    client.leave();
    let (code, log) = demo.stop(Signal::TERM);
    assert_eq!(code, Some(0));
    assert!(log.contains("stopping signal=\"SIGTERM\""), "{log}");
}

#[test]
fn with_broken_routing_a_message_stays_on_its_node() {
    let demo = Demo::start(&[&FREE[..], &["--broken-routing"]].concat());
    let ids = demo.client_ids();
    assert_eq!(ids.len(), 3, "{}", demo.screen);
    assert!(demo.screen.contains("does not arrive"), "{}", demo.screen);
    let connect = |id| Client::connect(demo.address(), id, Session::Clean);
    let (mut subscriber, here) = connect(&ids[0]);
    subscriber.subscribe("demo/#");
    let (mut publisher, there) = connect(&ids[1]);
    let (mut neighbour, near) = connect(&ids[2]);
    assert_ne!(here.node, there.node);
    assert_eq!(here.node, near.node);
    publisher.publish("demo/hello", "from afar");
    assert!(subscriber.hears_nothing());
    neighbour.publish("demo/hello", "from near");
    assert_eq!(subscriber.receive(), "from near");
    assert_eq!(demo.stop(Signal::INT).0, Some(0));
}

/// How the nodes of a demo are joined.
#[derive(Clone, Copy, Debug)]
enum Healed {
    /// A line is entered in its terminal.
    ByEnter,
    /// The printed command runs elsewhere, and the demo has no terminal.
    ByCommand,
}

#[test]
fn the_doctor_names_the_broken_routing_and_each_way_to_heal_it_does() {
    for way in [Healed::ByEnter, Healed::ByCommand] {
        heals(way);
    }
}

fn heals(way: Healed) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.stdin(match way {
        Healed::ByEnter => Stdio::piped(),
        Healed::ByCommand => Stdio::null(),
    });
    let mut demo = Demo::start_by(command, &[&FREE[..], &["--broken-routing"]].concat());
    let doctor = demo.only_command(&["doctor"]);
    let (code, text) = demo.run(&doctor);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("node1 | node2 | node3 are 3 clusters"), "{text}");
    let heal = demo.only_command(&["demo", "--heal"]);
    match way {
        Healed::ByEnter => {
            let mut keys = demo.child.stdin.take().expect("a pipe");
            keys.write_all(b"\n").expect("it reads");
        }
        Healed::ByCommand => {
            let (code, text) = demo.run(&heal);
            assert_eq!(code, Some(0), "{text}");
            assert!(text.contains("are joined now"), "{text}");
        }
    }
    let mut log = demo.log.take().expect("a log");
    let mut said = String::new();
    while !said.contains("The nodes are joined now") {
        assert!(log.read_line(&mut said).expect("text") > 0, "{said}");
    }
    demo.log = Some(log);
    let (code, text) = demo.run(&doctor);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = demo.run(&heal);
    assert_eq!(code, Some(1), "it is healed already: {text}");
    assert_eq!(demo.stop(Signal::TERM).0, Some(0));
}

#[test]
fn without_a_demo_there_is_nothing_to_heal() {
    let files = TempDir::new().expect("a folder");
    // What a killed demo leaves behind: a folder, and a socket that nobody listens on.
    let left = files.path().join("remora-demo-0");
    std::fs::create_dir(&left).expect("a folder");
    drop(UnixListener::bind(left.join("heal.sock")).expect("a socket"));
    let output = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["demo", "--heal"])
        .env("TMPDIR", files.path())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("start `remora demo --broken-routing`"), "{said}");
}

#[test]
fn the_commands_for_its_admin_socket_work_as_they_are_printed() {
    let demo = Demo::start(&FREE);
    let (client, accepted) = Client::connect(demo.address(), "sensor-7", Session::Clean);
    let mut top = demo.only_command(&["top"]);
    top.push("--once".to_owned());
    let (code, text) = demo.run(&top);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&*accepted.node), "{text}");
    let examine = demo
        .own_commands(&["ctl"])
        .into_iter()
        .find(|words| words.ends_with(&["doctor".to_owned()]));
    let examine = examine.expect("a command for the doctor");
    let (code, text) = demo.run(&examine);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 connected"), "{text}");
    client.leave();
    // It also asserts that the socket is not left behind.
    assert_eq!(demo.stop(Signal::TERM).0, Some(0));
}

#[test]
fn where_no_socket_can_be_the_screen_names_enter_alone() {
    let deep = tempfile::Builder::new()
        .prefix(&"d".repeat(100))
        .tempdir()
        .expect("a folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command
        .env("TMPDIR", deep.path())
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("RUNTIME_DIRECTORY");
    let demo = Demo::start_in(deep, command, &[&FREE[..], &["--broken-routing"]].concat());
    assert!(demo.own_commands(&["demo", "--heal"]).is_empty(), "{}", demo.screen);
    assert!(
        demo.screen.contains("press Enter here, which joins the nodes"),
        "{}",
        demo.screen
    );
    assert_eq!(demo.stop(Signal::TERM).0, Some(0));
}

#[test]
fn a_taken_address_is_said_and_a_free_one_found() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = (taken.local_addr().expect("an address"), taken);
    let said = format!("({} is taken)", taken.0);
    for option in ["--address", "--ws-address"] {
        let other = match option {
            "--address" => "--ws-address",
            _ => "--address",
        };
        let taken_there = [option, &taken.0.to_string(), other, "127.0.0.1:0"];
        let demo = Demo::start(&[&taken_there[..], &FREE[4..]].concat());
        assert_eq!(demo.screen.matches(&said).count(), 1, "{}", demo.screen);
        assert_ne!(demo.address(), taken.0);
        assert_ne!(demo.ws_address(), taken.0);
        let (client, _) = Client::connect(demo.address(), "client", Session::Clean);
        client.leave();
        let (client, _) = Client::connect_ws(demo.ws_address(), "client", Session::Clean);
        client.leave();
        assert_eq!(demo.stop(Signal::TERM).0, Some(0));
    }
}

#[test]
fn the_demo_speaks_tls_by_an_authority_that_goes_with_it() {
    let demo = Demo::start(&FREE);
    let (address, authority) = (demo.tls_address(), demo.authority());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&authority).expect("a file") {
        roots.add(certificate.expect("a certificate")).expect("an authority");
    }
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(address.ip());
    let client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let socket = TcpStream::connect(address).expect("it listens");
    let mut client = rustls::StreamOwned::new(client, socket);
    client
        .write_all(b"\x10\x0f\0\x04MQTT\x04\x02\0\x3c\0\x03tls")
        .expect("sent");
    let mut connack = [0; 4];
    client.read_exact(&mut connack).expect("a CONNACK");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    assert_eq!(demo.stop(Signal::INT).0, Some(0));
    assert!(!authority.exists(), "{} is left", authority.display());
}

#[test]
fn a_client_of_the_websocket_listener_hears_one_of_tcp() {
    let demo = Demo::start(&FREE);
    let (mut subscriber, _) = Client::connect_ws(demo.ws_address(), "page", Session::Clean);
    subscriber.subscribe("demo/#");
    let (mut publisher, _) = Client::connect(demo.address(), "sensor", Session::Clean);
    publisher.publish("demo/hello", "hello");
    assert_eq!(subscriber.receive(), "hello");
    assert_eq!(demo.stop(Signal::TERM).0, Some(0));
}

#[test]
fn a_client_has_one_node_over_tcp_and_websocket() {
    let demo = Demo::start(&FREE);
    let mut nodes = std::collections::BTreeSet::new();
    for number in 0..20 {
        let id = format!("client-{number}");
        let (client, over_tcp) = Client::connect(demo.address(), &id, Session::Kept);
        client.leave();
        let (client, over_ws) = Client::connect_ws(demo.ws_address(), &id, Session::Kept);
        client.leave();
        assert_eq!(over_tcp.node, over_ws.node, "{id}");
        assert!(over_ws.session_present, "{id}");
        nodes.insert(over_ws.node);
    }
    assert_eq!(nodes.len(), 3, "they are spread over all nodes");
    assert_eq!(demo.stop(Signal::TERM).0, Some(0));
}
