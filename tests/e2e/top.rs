//! `remora top` in a terminal, its frame as text, and what the control API answers for it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin_client::ask_socket;
use crate::balancer::{ADMIN, Program};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::Connect;
use crate::terminal::Terminal;
use crate::wait;

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(arguments).env_remove("REMORA_CONFIG");
    command
}

/// `remora top` of this program, in a terminal.
fn watch(program: &Program) -> Terminal {
    let mut command = command(&["top", "--interval", "1", "--socket"]);
    command.arg(program.socket());
    Terminal::run(command)
}

/// What `top --once` prints, with these further arguments.
fn once(arguments: &[&str]) -> Output {
    let mut command = command(&["top", "--once", "--interval", "1"]);
    command.args(arguments).env("COLUMNS", "120").stdin(Stdio::null());
    // Where a socket without a name of its own is.
    if let Some(directory) = arguments.last().and_then(|path| Path::new(path).parent()) {
        command.env("RUNTIME_DIRECTORY", directory);
    }
    command.output().expect("the program")
}

fn asked(program: &Program, target: &str) -> (u16, Value) {
    let response = ask_socket(program.socket(), "GET", target, "");
    let value = serde_json::from_str(&response.body).unwrap_or_else(|_| panic!("{response:?}"));
    (response.status, value)
}

/// The ids of the first clients by this query.
#[track_caller]
fn first(program: &Program, query: &str) -> Vec<String> {
    let (status, answer) = asked(program, &format!("/api/v1/top-clients?{query}"));
    assert_eq!(status, 200, "{answer}");
    let clients = answer["clients"].as_array().expect("a list").iter();
    let id = |client: &Value| client["connection"]["client_id"].as_str().expect("an id").to_owned();
    clients.map(id).collect()
}

#[test]
fn the_clients_that_come_first_are_found_among_many() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let accepted = |id: &str| Client::accepted(program.address, &Connect::new(id));
    let oldest = accepted("oldest");
    // It has moved the most when the measurement begins, and nothing afterwards.
    let mut large = accepted("large");
    large.send(&[0; 100_000]);
    let mut busy = accepted("busy");
    let crowd: Vec<Client> = (0..300).map(|number| accepted(&format!("crowd-{number}"))).collect();
    let newest = accepted("newest");
    wait::until("all are relayed", || {
        let (_, clients) = asked(&program, "/api/v1/clients?limit=1000");
        let clients = clients["clients"].as_array().expect("a list").iter();
        let mut ids: Vec<&Value> = clients.map(|client| &client["client_id"]).collect();
        ids.dedup();
        ids.len() == 304
    });
    wait::until("all of it is moved", || {
        let (_, answer) = asked(&program, "/api/v1/top-clients?by=bytes&limit=1");
        let first = &answer["clients"][0];
        first["connection"]["client_id"] == "large" && first["moved_from_client"].as_u64() > Some(100_000)
    });
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                busy.send(&[0; 100]);
                std::thread::yield_now();
            }
        });
        let (status, answer) = asked(&program, "/api/v1/top-clients?by=rate&over=1&limit=3");
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(
            (status, &answer["by"], &answer["over_seconds"]),
            (200, &json!("rate"), &json!(1))
        );
        let clients = answer["clients"].as_array().expect("a list");
        assert_eq!(clients.len(), 3);
        assert_eq!(clients[0]["connection"]["client_id"], "busy");
        assert!(clients[0]["moved_from_client"].as_u64().expect("a number") > 0);
        assert_eq!(
            clients[1]["moved_from_client"], 0,
            "what was moved before does not count"
        );
    });
    assert_eq!(first(&program, "by=oldest&limit=2"), ["oldest", "large"]);
    assert_eq!(first(&program, "by=newest&limit=1"), ["newest"]);
    assert_eq!(first(&program, "by=newest&limit=1&prefix=bu"), ["busy"]);
    assert_eq!(first(&program, "by=quiet&prefix=crowd&limit=100").len(), 100);
    let nodes = [0, 1].map(|node| cluster.home("busy") == node);
    for (node, is_home) in nodes.into_iter().enumerate() {
        let found = first(&program, &format!("by=oldest&prefix=busy&node=node{node}"));
        assert_eq!(!found.is_empty(), is_home);
    }
    for wrong in [
        "by=size",
        "over=0",
        "over=11",
        "by=bytes&over=1",
        "limit=x",
        "node=node9",
        "cursor=0-0",
    ] {
        let (status, refused) = asked(&program, &format!("/api/v1/top-clients?{wrong}"));
        assert!((400..500).contains(&status), "{wrong}: {status}");
        assert!(!refused["error"].as_str().expect("a reason").is_empty());
    }
    drop((oldest, large, crowd, newest));
}

#[test]
fn counters_count_what_clients_did() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let ids = cluster.ids_at_home(1, "counted", 5);
    let accepted = |id: &String| Client::accepted(program.address, &Connect::new(id.clone()));
    let clients: Vec<Client> = ids.iter().map(accepted).collect();
    clients.iter().for_each(Client::fin);
    program.until_ended(5);
    let (status, counters) = asked(&program, "/api/v1/counters");
    assert_eq!(status, 200);
    assert_eq!(counters["accepted"], 5);
    assert_eq!(
        counters["connects"],
        json!({ "accepted": 5, "refused": 0, "unread": 0, "failed": 0 })
    );
    assert_eq!(counters["ends"]["client_closed"], 5);
    assert_eq!(counters["ends"]["no_node"], 0, "every cause is there");
    let nodes = counters["nodes"].as_array().expect("a list");
    assert_eq!(nodes.len(), 2);
    assert_eq!(nodes[0]["connacks"], json!({}));
    assert_eq!(nodes[1]["connacks"], json!({ "0": 5 }));
    let shares: f64 = nodes.iter().filter_map(|node| node["ring_share"].as_f64()).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
}

#[test]
fn one_frame_is_text_for_scripts() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let _client = Client::accepted(program.address, &Connect::new("a\u{1b}[2J\u{202e}b"));
    let socket = program.socket().to_str().expect("UTF-8");
    let output = once(&["--socket", socket]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with(&format!(
            "remora {}  pid {}",
            env!("CARGO_PKG_VERSION"),
            program.process()
        )),
        "{text}"
    );
    assert!(
        lines[0].ends_with("ready") && text.contains("connections 1  accepted 0/s"),
        "{text}"
    );
    assert!(text.contains("\nnode0 ") && text.contains("\nnode1 "), "{text}");
    assert!(text.contains("\na\\u{1b}[2J\\u{202e}b"), "{text}");
    assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    // By its configuration as well.
    let by_file = once(&["-c", program.path().to_str().expect("UTF-8")]);
    assert_eq!(by_file.status.code(), Some(0), "{by_file:?}");

    let none = once(&["--socket", "/nowhere/admin.sock"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("/nowhere/admin.sock: not there"));
    let no_terminal = command(&["top", "--socket", socket]).stdin(Stdio::null()).output();
    let no_terminal = no_terminal.expect("the program");
    assert_eq!(no_terminal.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&no_terminal.stderr).contains("--once"));
}

#[test]
fn a_balancer_is_watched_and_steered_over_tcp_with_a_token() {
    let directory = TempDir::new().expect("a directory");
    let file = |name: &str, secret: &str| {
        let path = directory.path().join(name);
        fs::write(&path, secret).expect("a file");
        path.to_str().expect("UTF-8").to_owned()
    };
    let read = file("read.token", "reader-0123456789\n");
    let other = file("other.token", "stranger-0123456789\n");
    let cluster = Cluster::of(1);
    let tokens = format!("tokens = [{{ name = \"screen\", file = \"{read}\", scope = \"read\" }}]\n");
    let program = Program::start(&cluster, &format!("{ADMIN}{tokens}"));
    let address = program.admin().to_string();
    let shown = once(&["--address", &address, "--token-file", &read]);
    assert_eq!(shown.status.code(), Some(0), "{shown:?}");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("\nnode0 "));
    let refused = |token: &[&str]| {
        let output = once(&[&["--address", &address], token].concat());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert!(refused(&["--token-file", &other]).contains("token"));
    assert!(refused(&[]).contains("token"));
    // The same for ctl.
    let ctl = |arguments: &[&str]| {
        let mut command = command(&["ctl", "--address", &address, "--token-file", &read]);
        command.args(arguments).output().expect("the program")
    };
    assert_eq!(ctl(&["nodes"]).status.code(), Some(0));
    let forbidden = ctl(&["drain", "node0"]);
    assert_eq!(forbidden.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&forbidden.stderr).contains("write"),
        "{forbidden:?}"
    );
}

/// Both may be there at once when it looks. One that is forgotten would be read with the next key only.
#[test]
fn a_key_that_comes_with_a_resize_is_not_forgotten() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let mut terminal = watch(&program);
    terminal.until("node0");
    for round in 0..40 {
        terminal.resize(100 + round, 30);
        terminal.press(b"p");
        let is_paused = round % 2 == 0;
        wait::until("the key has its effect", || {
            terminal.contents().contains("paused") == is_paused
        });
    }
    terminal.press(b"q");
    assert_eq!(terminal.restored().0.code(), Some(0));
}

#[test]
fn keys_and_sizes_change_what_the_terminal_shows() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let _clients: Vec<Client> = (0..3)
        .map(|number| Client::accepted(program.address, &Connect::new(format!("sensor-{number}"))))
        .collect();
    let mut terminal = watch(&program);
    terminal.until_alternate(true);
    terminal.until("node1");
    terminal.until("busiest clients");
    terminal.until("sensor-2");
    let clear = b"\x1b[2J";
    assert_eq!(terminal.times(clear), 1, "before the first frame");
    terminal.press(b"\x0c");
    wait::until("it is cleared and drawn again", || {
        terminal.times(clear) == 2 && terminal.contents().contains("sensor-2")
    });
    terminal.press(b"/sensor-1\r");
    terminal.until("id begins with sensor-1");
    wait::until("the others are not shown", || {
        let contents = terminal.contents();
        contents.contains("\nsensor-1") && !contents.contains("\nsensor-2")
    });
    terminal.press(b"?");
    terminal.until("select a node");
    terminal.press(b"?p");
    terminal.until("paused");
    terminal.press(b"p");
    terminal.until("ready");
    assert!(!terminal.contents().contains("ADDRESS"));
    terminal.resize(140, 30);
    terminal.until("ADDRESS");
    terminal.until("127.0.0.1:");
    terminal.resize(20, 5);
    terminal.until("remora");
    terminal.press(b"q");
    let (status, _) = terminal.restored();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn the_terminal_is_as_before_however_it_ends() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let keys: [&[u8]; 3] = [b"q", b"\x1b", b"\x03"];
    for key in keys {
        let mut terminal = watch(&program);
        terminal.until("busiest clients");
        terminal.press(key);
        assert_eq!(terminal.restored().0.code(), Some(0), "{key:?}");
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let terminal = watch(&program);
        terminal.until("busiest clients");
        terminal.signal(signal);
        assert_eq!(terminal.restored().0.code(), Some(0), "{signal:?}");
    }
}

#[test]
fn a_stopped_program_leaves_the_terminal_to_the_shell_and_takes_it_again() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let mut terminal = watch(&program);
    terminal.until("busiest clients");
    terminal.press(b"\x1a");
    // In a process group without a shell, nothing is stopped, and it goes on at once.
    wait::until("it goes on", || {
        terminal.signal(Signal::CONT);
        let taken = terminal.times(b"\x1b[?1049h");
        (taken, terminal.times(b"\x1b[?1049l")) == (2, 1)
    });
    terminal.until("busiest clients");
    terminal.press(b"q");
    assert_eq!(terminal.restored().0.code(), Some(0));
}

#[test]
fn a_balancer_that_goes_away_is_waited_for() {
    let directory = TempDir::new().expect("a directory");
    let socket = directory.path().join("admin.sock");
    let cluster = Cluster::of(1);
    let admin = format!("{ADMIN}socket = \"{}\"\n", socket.display());
    let program = Program::start(&cluster, &admin);
    let mut terminal = watch(&program);
    terminal.until("ready");
    drop(program);
    terminal.until("NO ANSWER");
    terminal.until("trying again");
    terminal.until("node0");
    let program = Program::start(&cluster, &admin);
    terminal.until(&format!("pid {}", program.process()));
    terminal.until("ready");
    terminal.press(b"q");
    assert_eq!(terminal.restored().0.code(), Some(0));
}

#[test]
fn a_balancer_that_hangs_is_said_to_give_no_answer() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let mut terminal = watch(&program);
    terminal.until("ready");
    program.signal(Signal::STOP);
    terminal.until("NO ANSWER");
    terminal.until("no answer within 5 s");
    program.signal(Signal::CONT);
    terminal.until("ready");
    terminal.press(b"q");
    assert_eq!(terminal.restored().0.code(), Some(0));
}

#[test]
fn a_terminal_that_is_gone_ends_the_program() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let terminal = watch(&program);
    terminal.until("busiest clients");
    let status = terminal.hang_up();
    assert_eq!(status.code(), Some(1));
}
