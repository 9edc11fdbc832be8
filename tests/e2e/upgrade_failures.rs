//! A process that cannot take over: the one that runs goes on as if nothing had happened.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use remora::handover::messages::{Body, Hello, Manifest, VERSION};
use remora::handover::wire;

use tempfile::TempDir;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program, toml};
use crate::cluster::Cluster;
use crate::pair::Pair;
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
    // The admin socket is inherited before that, and each upgrade goes through it.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address");
    program.configure(&format!("{good}\n[[listeners]]\naddress = \"{taken}\"\n"));
    let error = fails(&cluster, &mut program, &mut pair, &[]);
    assert!(error.contains(&taken.to_string()), "{error}");
    program.configure(&good.replace("workers = 2", "workers = \"many\""));
    let error = fails(&cluster, &mut program, &mut pair, &[]);
    assert!(error.contains("exit status: 64"), "{error}");
    program.configure(&good);
    assert_eq!(program.upgrade()["moved"], 1);
    pair.talks("after all");
}

#[test]
fn a_disk_that_is_full_costs_nobody_a_connection() {
    let cluster = Cluster::of(1);
    let mut program = Program::start(&cluster, ADMIN);
    let mut pair = Pair::accepted(&cluster, &program, "stays");
    let full = format!("{ADMIN}[log]\nfile = \"/dev/full\"\n");
    program.configure(&toml(&cluster, "", &full));
    assert_eq!(program.upgrade()["moved"], 1);
    pair.talks("unseen by any log");
    assert_eq!(program.upgrade()["moved"], 1);
    pair.talks("nor this");
}

/// What a process says first that speaks these versions of the protocol.
fn hello(version_oldest: u32, version: u32) -> Body {
    Body::Hello(Hello {
        version,
        version_oldest,
        program: "of the test".to_owned(),
        pid: std::process::id(),
        descriptors_max: 20_000,
    })
}

fn say(socket: &mut UnixStream, body: Body) {
    let message = wire::write(body, 0).expect("a message");
    socket.write_all(&message).expect("it reads");
}

/// The next message at this socket.
fn hear(socket: &mut UnixStream) -> Body {
    socket.set_read_timeout(Some(wait::DEADLINE)).expect("a time");
    let mut reader = wire::Reader::<()>::new(0);
    loop {
        let mut piece = vec![0; reader.wanted()];
        let read = socket.read(&mut piece).expect("a message in time");
        assert_ne!(read, 0, "a whole message");
        if let Some(message) = reader.add(&piece[..read], Vec::new()).expect("a message") {
            return message.body.expect("of a kind that is known");
        }
    }
}

#[test]
fn a_process_of_a_version_too_far_away_is_refused_and_one_of_the_next_is_spoken_to() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("handover.sock");
    let cluster = Cluster::of(1);
    let tables = format!("{ADMIN}[handover]\nsocket = \"{}\"\n", socket.display());
    let program = Program::start(&cluster, &tables);
    let mut pair = Pair::accepted(&cluster, &program, "stays");
    let answer = |hello| {
        let mut taker = UnixStream::connect(&socket).expect("it listens");
        say(&mut taker, hello);
        hear(&mut taker)
    };
    let Body::Refused(refused) = answer(hello(VERSION + 1, VERSION + 1)) else {
        panic!("not refused");
    };
    assert!(refused.why.contains("no common version"), "{}", refused.why);
    pair.talks("goes on");
    // It ends before it has taken anything.
    let Body::Manifest(manifest) = answer(hello(VERSION, VERSION + 1)) else {
        panic!("refused");
    };
    assert_eq!(manifest.version, VERSION);
    let failed = || Metrics::of(program.admin()).value("remora_handovers_total{result=\"failed\"}");
    wait::until("both were counted", || failed() == 2.0);
    pair.talks("still");
}

#[test]
fn what_is_required_and_unknown_is_refused_before_anything_has_moved() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("handover.sock");
    let giver = UnixListener::bind(&path).expect("a socket");
    let file = folder.path().join("remora.toml");
    fs::write(&file, toml(&Cluster::of(1), "", ADMIN)).expect("a file");
    let mut taker = Command::new(REMORA)
        .args(["run", "-c"])
        .arg(&file)
        .arg("--take-over")
        .arg(&path)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a program");
    let (mut socket, _) = giver.accept().expect("a taker");
    let Body::Hello(_) = hear(&mut socket) else {
        panic!("who is it?");
    };
    say(
        &mut socket,
        Body::Manifest(Manifest {
            version: VERSION,
            requires: vec!["relays".to_owned(), "telepathy".to_owned()],
            ..Manifest::default()
        }),
    );
    let Body::Refused(refused) = hear(&mut socket) else {
        panic!("not refused");
    };
    assert!(refused.why.contains("telepathy"), "{}", refused.why);
    let mut said = String::new();
    let mut stderr = taker.stderr.take().expect("piped");
    stderr.read_to_string(&mut said).expect("text");
    assert_eq!(taker.wait().expect("its end").code(), Some(1), "{said}");
    assert!(said.contains("telepathy"), "{said}");
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
