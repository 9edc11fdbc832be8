//! What asks the admin listener over an upgrade: it asks the process that goes on, and not the one that ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::admin_client::ask_socket;
use crate::balancer::{ADMIN, Program, toml};
use crate::certificates::{BOTH, Certificates};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::Connect;
use crate::tls_client::TlsClient;
use crate::wait::DEADLINE;

/// A program whose old process stays when it is upgraded, since a client is connected with TLS; and what it takes.
fn with_tls() -> (Program, (Cluster, Certificates, TlsClient)) {
    let cluster = Cluster::of(1);
    let certificates = Certificates::new();
    let config = Arc::new(certificates.trusting(BOTH, None));
    let program = Program::of(&toml(&cluster, &certificates.listener(), ADMIN));
    let client = TlsClient::accepted(program.address, &config, &Connect::new("encrypted"));
    (program, (cluster, certificates, client))
}

/// Asks on a connection that is kept.
#[track_caller]
fn asking(program: &Program, target: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(program.socket()).expect("an admin socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("an option");
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).expect("a status line");
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    stream
}

/// Everything that comes until the connection is closed.
#[track_caller]
fn rest(mut stream: impl Read) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the end of the connection");
    text
}

#[test]
fn a_connection_that_is_kept_ends_once_another_process_has_taken_over() {
    let (mut program, _kept) = with_tls();
    let connection = asking(&program, "/api/v1/upgrade");
    let old = program.process();
    program.upgrade();
    rest(connection);
    assert!(!program.has_old_exited(), "it has a client");
    let overview = ask_socket(program.socket(), "GET", "/api/v1/overview", "");
    let overview: Value = serde_json::from_str(&overview.body).expect("JSON");
    assert!(
        overview["status"]["pid"].is_u64() && overview["status"]["pid"] != old,
        "{overview}"
    );
}

#[test]
fn the_connection_of_an_upgrade_is_for_that_alone() {
    let (mut program, _kept) = with_tls();
    let mut stream = UnixStream::connect(program.socket()).expect("an admin socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("an option");
    let request = "POST /api/v1/upgrade HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    let answer = rest(stream);
    let (head, steps) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.to_lowercase().contains("\r\nconnection: close"), "{head}");
    let last = steps.lines().rev().find_map(|line| line.strip_prefix("data: "));
    let last: Value = serde_json::from_str(last.expect("a step")).expect("JSON");
    assert_eq!(last["step"], "done", "{last}");
    program.goes_on_as(&last);
}

#[test]
fn who_follows_the_events_is_told_of_the_handover_last() {
    let (mut program, _kept) = with_tls();
    let events = asking(&program, "/api/v1/events");
    program.upgrade();
    let text = rest(events);
    let last = text.lines().rfind(|line| line.starts_with("data: ")).expect("an event");
    assert!(last.contains("\"kind\":\"handover\",\"result\":\"gave\""), "{text}");
    assert!(!program.has_old_exited(), "it has a client");
}

#[test]
fn the_command_that_follows_the_events_goes_on_with_those_of_the_next_process() {
    let (mut program, _kept) = with_tls();
    let mut follows = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["ctl", "--socket"])
        .arg(program.socket())
        .args(["--json", "events", "--follow", "--since", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let printed = BufReader::new(follows.stdout.take().expect("piped"));
    let mut results = printed.lines().filter_map(|line| {
        let event: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        (event["kind"] == "handover").then(|| event["result"].as_str().expect("a result").to_owned())
    });
    for _ in 0..2 {
        program.upgrade();
        assert_eq!(results.next().as_deref(), Some("gave"));
        assert_eq!(results.next().as_deref(), Some("took"));
    }
    follows.kill().expect("it runs");
    follows.wait().expect("it has run");
}

#[test]
fn a_command_that_waits_goes_on_with_the_next_process() {
    let cluster = Cluster::of(2);
    let mut program = Program::start(&cluster, ADMIN);
    let client = Client::accepted(program.address, &Connect::new(cluster.id_at_home(0, "stays")));
    let mut waits = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["ctl", "--socket"])
        .arg(program.socket())
        .args(["drain", "node0", "--wait"])
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    program.until_said("changed by the control API");
    for _ in 0..2 {
        program.upgrade();
        assert_eq!(program.old_exit_code(), Some(0));
        assert!(
            waits.try_wait().expect("a process").is_none(),
            "it waits for the client"
        );
    }
    client.reset();
    assert!(waits.wait().expect("its end").success());
}
