//! What becomes of sockets that another process does not have: a listener that is not configured any more, a path in other folders.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::admin_client::ask_socket;
use crate::balancer::{ADMIN, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::{self, Connect};
use crate::pair::Pair;

#[test]
fn a_client_that_waits_at_a_listener_of_the_old_configuration_alone_is_served() {
    let cluster = Cluster::of(1);
    // With one worker, both processes number their clients in one row.
    let config = toml(&cluster, "", ADMIN).replace("workers = 2", "workers = 1");
    let gone = "\n[[listeners]]\nname = \"gone\"\naddress = \"127.0.0.1:0\"\n";
    let mut program = Program::of(&format!("{config}{gone}"));
    program.configure(&config);
    let gone = program.addresses[1];
    // Until it sends something, the kernel keeps it for a second: no process knows of it.
    let mut client = Client::to(gone);
    let mut upgrade = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["ctl", "--json", "--socket"])
        .arg(program.socket())
        .arg("upgrade")
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let steps = BufReader::new(upgrade.stdout.take().expect("a pipe")).lines();
    let mut steps = steps.map(|line| serde_json::from_str::<Value>(&line.expect("UTF-8")).expect("JSON"));
    let step = |step: &Value, name: &str| step["step"] == name;
    let started = steps.find(|found| step(found, "started")).expect("a process");
    steps.find(|found| step(found, "running")).expect("a process that runs");
    program.goes_on_as(&started);
    let mut other = Pair::accepted(&cluster, &program, "of the new one");
    let connect = Connect::new("late").bytes();
    client.send(&connect);
    client.expect(&packets::connack(4, 0));
    let done = steps.find(|found| step(found, "done")).expect("an upgrade");
    assert!(upgrade.wait().expect("the program").success());
    TcpStream::connect(gone).expect_err("a listener that is gone");
    assert_eq!(
        (&done["moved"], &done["left"]),
        (&1.into(), &Value::Object(serde_json::Map::new()))
    );
    assert_eq!(program.old_exit_code(), Some(0));
    let (_, node) = cluster.holder(&connect);
    node.send(b"moved");
    client.expect(b"moved");
    // They are not taken for one another.
    assert_eq!(program.upgrade()["moved"], 2);
    node.send(b"again");
    client.expect(b"again");
    other.talks("as well");
}

#[test]
fn a_socket_whose_path_is_another_one_for_the_new_process_is_opened_anew() {
    let folder = TempDir::new().expect("a folder");
    let [admin, handover, elsewhere] = ["admin", "handover", "elsewhere"].map(|name| folder.path().join(name));
    let cluster = Cluster::of(1);
    let tables = format!(
        "[admin]\naddress = \"127.0.0.1:0\"\nsocket = \"{}\"\n[handover]\nsocket = \"{}\"\n",
        admin.display(),
        handover.display()
    );
    let mut old = Program::start(&cluster, &tables);
    let mut pair = Pair::accepted(&cluster, &old, "stays");
    // A container sees other folders, and what it shares elsewhere.
    fs::rename(&handover, &elsewhere).expect("a file");
    fs::remove_file(&admin).expect("a file");
    let mut new = Program::taking_over(&old, &elsewhere);
    assert_eq!(old.exit_code(), Some(0));
    pair.talks("after");
    let answer = ask_socket(&admin, "GET", "/api/v1/clients", "");
    assert!(answer.body.contains("stays"), "{}", answer.body);
    let mut third = Program::taking_over(&new, &handover);
    assert_eq!(new.exit_code(), Some(0));
    pair.talks("once more");
    third.signal(Signal::INT);
    assert_eq!(third.exit_code(), Some(0));
    assert!(!admin.exists() && !handover.exists(), "removed by the last one");
}
