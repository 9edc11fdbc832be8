//! What `remora init` writes runs, and serves clients.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::balancer::Program;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::Connect;
use crate::terminal::Terminal;

/// The text that `init` writes with these options.
#[track_caller]
fn written(options: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(["init", "--out", "-"]).args(options);
    let output = command.output().expect("the program");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn what_init_writes_runs_and_serves_clients() {
    let cluster = Cluster::of(2);
    let nodes: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| format!("{}={}", node.name, node.address))
        .collect();
    let text = written(&[
        "--node",
        &nodes[0],
        "--node",
        &nodes[1],
        "--listen",
        "127.0.0.1:0",
        "--websocket=127.0.0.1:0",
    ]);
    // The admin listener's port may be in use on the machine that tests.
    let text = text.replace("# address = \"127.0.0.1:9883\"", "address = \"127.0.0.1:0\"");
    let program = Program::of(&text);
    assert_eq!(program.addresses.len(), 2);
    for node in [0, 1] {
        let connect = Connect::new(cluster.id_at_home(node, "first"));
        let _client = Client::accepted(program.address, &connect);
        assert_eq!(cluster.holder(&connect.bytes()).0, node);
    }
}

#[test]
fn at_a_terminal_what_is_missing_is_asked_for() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("remora.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.arg("init").arg("--out").arg(&path);
    let mut terminal = Terminal::run(command);
    terminal.until("Node 1");
    terminal.press(b"emqx1=10.0.0.11:1883\n");
    terminal.until("Node 2 [no more]");
    terminal.press(b"\n");
    terminal.until("Certificate");
    terminal.press(b"\n");
    terminal.until("Where clients connect to [0.0.0.0:1883]");
    terminal.press(b"\n");
    terminal.until("WebSocket clients as well?");
    terminal.press(b"y\n");
    terminal.until("PROXY headers?");
    terminal.press(b"\n");
    let (status, contents) = terminal.restored();
    assert_eq!(status.code(), Some(0), "{contents}");
    let text = fs::read_to_string(&path).expect("a file");
    assert!(
        text.contains("address = \"0.0.0.0:1883\"") && text.contains("address = \"0.0.0.0:8083\""),
        "{text}"
    );
    assert!(text.contains("name = \"emqx1\""), "{text}");
}
