//! Signals that scripts made for nginx or HAProxy go on sending.

use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::balancer::{Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::{self, Connect};
use crate::wait;

const IGNORED: [(Signal, &str); 3] = [
    (Signal::WINCH, "SIGWINCH"),
    (Signal::TTOU, "SIGTTOU"),
    (Signal::TTIN, "SIGTTIN"),
];

/// A program without a terminal, as a service has none.
fn service(cluster: &Cluster, tables: &str) -> Program {
    let mut remora = Command::new(env!("CARGO_BIN_EXE_remora"));
    remora.stderr(Stdio::null());
    Program::by(remora, &toml(cluster, "", tables))
}

/// Sends these signals one after the other, each once the line on the one before is there.
#[track_caller]
fn send_ignored(program: &Program) {
    let said = |name: &str| {
        let lines = program.lines(|line| line["message"] == "signal ignored" && line["signal"] == name);
        assert!(lines.iter().all(|line| line["hint"].is_string()), "{lines:?}");
        lines.len()
    };
    for (signal, name) in IGNORED {
        let before = said(name);
        program.signal(signal);
        wait::until(&format!("a line on {name}"), || said(name) > before);
    }
}

#[test]
fn the_signals_of_nginx_and_haproxy_cut_nobody_off() {
    let cluster = Cluster::of(1);
    let program = service(&cluster, "");
    let connect = Connect::new("stays");
    let mut client = Client::accepted(program.address, &connect);
    send_ignored(&program);
    program.signal(Signal::USR2);
    program.until_said("configuration reloaded");
    let why = program.lines(|line| line["message"] == "reloading");
    assert_eq!(why.len(), 1);
    assert_eq!(why[0]["signal"], "SIGUSR2");
    client.send(&packets::publish(b"still here"));
    let all = [connect.bytes(), packets::publish(b"still here")].concat();
    cluster.holder(&all).1.expect(&all);
}

#[test]
fn a_drain_goes_on_whatever_they_mean_elsewhere() {
    let cluster = Cluster::of(1);
    let mut program = service(&cluster, "[drain]\nrate = 1\ngrace = \"10m\"");
    let mut clients: Vec<_> = (0..20)
        .map(|number| Client::accepted(program.address, &Connect::new(format!("drained-{number}"))))
        .collect();
    program.signal(Signal::TERM);
    program.until_said("draining");
    send_ignored(&program);
    assert!(!program.has_exited());
    program.signal(Signal::TERM);
    assert_eq!(program.exit_code(), Some(0));
    for client in &mut clients {
        client.rest();
    }
}

#[test]
fn a_soft_stop_takes_nobody_new_and_ends_with_the_last_one() {
    let cluster = Cluster::of(1);
    let mut program = service(&cluster, "");
    let connect = Connect::new("stays");
    let mut client = Client::accepted(program.address, &connect);
    program.signal(Signal::USR1);
    program.until_said("listener closed");
    assert!(std::net::TcpStream::connect(program.address).is_err(), "nobody listens");
    send_ignored(&program);
    client.send(&packets::publish(b"still here"));
    let all = [connect.bytes(), packets::publish(b"still here")].concat();
    cluster.holder(&all).1.expect(&all);
    assert!(!program.has_exited());
    client.reset();
    assert_eq!(program.exit_code(), Some(0));
    let line = program.ended(client.address());
    assert_eq!(line["cause"], "client_reset", "it was not closed: {line}");
}

#[test]
fn a_soft_stop_can_be_made_faster() {
    for (signal, cause) in [
        (Signal::TERM, "shutdown"),
        (Signal::QUIT, "shutdown"),
        (Signal::INT, "shutdown"),
    ] {
        let cluster = Cluster::of(1);
        let mut program = service(&cluster, "[drain]\nrate = 1000");
        let mut client = Client::accepted(program.address, &Connect::new("stays"));
        program.signal(Signal::USR1);
        program.until_said("listener closed");
        program.signal(signal);
        client.rest();
        assert_eq!(program.exit_code(), Some(0));
        assert_eq!(program.ended(client.address())["cause"], cause);
        let drained = program.lines(|line| line["message"] == "drained").len();
        assert_eq!(drained, usize::from(signal != Signal::INT));
    }
}
