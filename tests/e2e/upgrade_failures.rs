//! A process that cannot take over: the one that runs goes on as if nothing had happened.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program, toml};
use crate::cluster::Cluster;
use crate::upgrade::Pair;
use crate::wait;

const REMORA: &str = env!("CARGO_BIN_EXE_remora");

/// A program that is to take over, in a script.
fn script(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("next");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a file");
    path
}

fn descriptors(process: u32) -> usize {
    fs::read_dir(format!("/proc/{process}/fd"))
        .expect("a process that runs")
        .count()
}

/// An upgrade that fails, and what has become of the program: nothing. Returns why it failed.
#[track_caller]
fn fails(cluster: &Cluster, program: &mut Program, pair: &mut Pair, arguments: &[&str]) -> String {
    let (process, admin) = (program.process(), program.admin());
    let failed = || Metrics::of(admin).value("remora_handovers_total{result=\"failed\"}");
    let (open, before) = (descriptors(process), failed());
    let (is_done, last) = program.try_upgrade(arguments);
    assert!(!is_done && last["step"] == "failed", "{last}");
    let error = last["error"].as_str().expect("why").to_owned();
    assert_eq!(program.process(), process);
    // A program that was not started is no handover.
    let is_handover = !error.contains("cannot be started");
    assert_eq!(failed(), before + f64::from(u8::from(is_handover)), "{error}");
    pair.talks("goes on");
    let other = Pair::accepted(cluster, program, "comes and goes");
    other.client.reset();
    other.node.end();
    program.ended(other.client.address());
    wait::until("as many descriptors as before", || descriptors(process) <= open);
    error
}

#[test]
fn whatever_fails_at_the_start_changes_nothing() {
    let folder = TempDir::new().expect("a folder");
    let cluster = Cluster::of(1);
    let mut program = Program::start(&cluster, ADMIN);
    let mut pair = Pair::accepted(&cluster, &program, "stays");
    let few = script(folder.path(), &format!("ulimit -n 40; exec {REMORA} \"$@\""));
    for (binary, why) in [
        ("/no/such/program", "cannot be started"),
        ("/bin/false", "exit status: 1"),
        (few.to_str().expect("UTF-8"), "open files is 40"),
    ] {
        let error = fails(&cluster, &mut program, &mut pair, &["--binary", binary]);
        assert!(error.contains(why), "{binary}: {error}");
    }
    let good = toml(&cluster, "", ADMIN);
    program.configure(&good.replace("workers = 2", "workers = \"many\""));
    let error = fails(&cluster, &mut program, &mut pair, &[]);
    assert!(error.contains("exit status: 64"), "{error}");
    program.configure(&good);
    assert_eq!(program.upgrade()["moved"], 1);
    pair.talks("after all");
}

#[test]
fn strangers_at_the_socket_change_nothing() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("handover.sock");
    let cluster = Cluster::of(1);
    let tables = format!("{ADMIN}[handover]\nsocket = \"{}\"\n", socket.display());
    let mut program = Program::start(&cluster, &tables);
    let mut pair = Pair::accepted(&cluster, &program, "stays");
    let open = descriptors(program.process());
    let garbage: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    // Nothing, half a length, a length without a message, a message that is too long, and no message.
    for said in [
        &[][..],
        &[1],
        &[0, 0, 0, 9],
        &[255; 8],
        &garbage,
        b"GET / HTTP/1.1\r\n\r\n",
    ] {
        let mut stranger = UnixStream::connect(&socket).expect("it listens");
        stranger.set_read_timeout(Some(wait::DEADLINE)).expect("a time");
        // It may close before it has read all.
        let _ = stranger.write_all(said);
        let _ = stranger.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stranger.read_to_end(&mut answer);
        pair.talks("goes on");
    }
    wait::until("as many descriptors as before", || {
        descriptors(program.process()) <= open
    });
    let mut new = Program::taking_over(&program, &socket);
    assert_eq!(program.exit_code(), Some(0));
    pair.talks("after all");
    new.signal(rustix::process::Signal::INT);
    assert_eq!(new.exit_code(), Some(0));
}
