//! A bug of ours ends the connection that met it, and no other; one in a critical task ends the process; one that holds up a thread
//! is reported.
//!
//! `cargo test --features failpoints --test failpoint`

#![allow(
    dead_code,
    reason = "the harness is that of the tests end to end, which use all of it"
)]

#[path = "e2e/admin_client.rs"]
mod admin_client;
#[path = "e2e/balancer.rs"]
mod balancer;
#[path = "e2e/client.rs"]
mod client;
#[path = "e2e/cluster.rs"]
mod cluster;
#[path = "e2e/header.rs"]
mod header;
#[path = "e2e/kernel.rs"]
mod kernel;
#[path = "e2e/node.rs"]
mod node;
#[path = "e2e/packets.rs"]
mod packets;
#[path = "e2e/pair.rs"]
mod pair;
#[path = "e2e/process.rs"]
mod process;
#[path = "e2e/terminal.rs"]
mod terminal;
#[path = "e2e/wait.rs"]
mod wait;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use remora::base::supervise::Task;
use rustix::process::Signal;
use tokio::time::Instant;

use admin_client::{Metrics, get};
use balancer::{ADMIN, Program, toml};
use client::Client;
use cluster::Cluster;
use packets::Connect;
use pair::Pair;

const CLIENTS: usize = 1_000;

/// Whether these bytes come, before an end.
fn hears(client: &mut Client, bytes: &[u8]) -> bool {
    let mut read = vec![0; bytes.len()];
    client.stream.read_exact(&mut read).is_ok() && read == bytes
}

/// A thousand clients, one of which meets a panic at this passing of this place.
#[track_caller]
fn one_in_a_thousand(variable: &str, passing: u32) {
    let cluster = Cluster::of(3);
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.env(variable, passing.to_string());
    let program = Program::by(command, &toml(&cluster, "", ADMIN));
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|number| {
            let mut client = Client::to(program.address);
            client.send(&Connect::new(format!("client-{number}")).bytes());
            client
        })
        .collect();
    clients.retain_mut(|client| hears(client, &packets::connack(4, 0)));
    for node in &cluster.nodes {
        for connection in node.connections() {
            // The one that has ended hears nothing.
            let _ = std::io::Write::write_all(&mut connection.stream(), b"are you there");
        }
    }
    clients.retain_mut(|client| hears(client, b"are you there"));
    assert_eq!(clients.len(), CLIENTS - 1);

    program.until_ended(1);
    let ended = program.lines(|line| line["message"] == "connection ended");
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0]["cause"], "internal");
    assert!(
        ended[0]["client_id"]
            .as_str()
            .is_some_and(|id| id.starts_with("client-"))
    );
    let is_place = |line: &serde_json::Value| !line["backtrace"].is_null();
    assert_eq!(program.lines(is_place).len(), 1, "where the bug is, is said once");
    let metrics = Metrics::of(program.admin());
    let alive = (CLIENTS - 1) as f64;
    assert_eq!(metrics.value("remora_panics_total"), 1.0);
    assert_eq!(metrics.value("remora_ends_total{cause=\"internal\"}"), 1.0);
    assert_eq!(metrics.sum("remora_connections"), alive, "its place is free");
    assert_eq!(metrics.sum("remora_node_connections"), alive);
    assert_eq!(metrics.value("remora_undecided_connections"), 0.0);

    // Both workers go on.
    let mut more: Vec<Client> = (0..20)
        .map(|number| Client::accepted(program.address, &Connect::new(format!("more-{number}"))))
        .collect();
    more.drain(..).chain(clients).for_each(|client| client.reset());
    program.until_ended(CLIENTS + 20);
    let metrics = Metrics::of(program.admin());
    assert_eq!(metrics.sum("remora_connections"), 0.0);
    assert_eq!(metrics.sum("remora_node_connections"), 0.0);
    assert_eq!(metrics.sum("remora_ends_total"), (CLIENTS + 20) as f64);
}

#[test]
fn a_panic_in_a_set_up_ends_one_connection_of_a_thousand() {
    one_in_a_thousand("REMORA_PANIC_IN_SETUP", 500);
}

#[test]
fn a_panic_in_a_relay_ends_one_connection_of_a_thousand() {
    one_in_a_thousand("REMORA_PANIC_IN_RELAY", 1_300);
}

/// Between two provocations.
const AGAIN: Duration = Duration::from_millis(20);

/// The program ends by itself, at once and as one that failed, when this task panics at this passing; `provoke` is what makes
/// the task take its turns.
#[track_caller]
fn ends_the_process(task: Task, passing: u32, provoke: impl Fn(&Program)) {
    let cluster = Cluster::of(1);
    let name = task.name();
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    let variable = format!("REMORA_PANIC_IN_{}", name.to_uppercase());
    command.env(variable, passing.to_string());
    let mut program = Program::by(command, &toml(&cluster, "", ADMIN));
    program.may_fail = true;
    let due = Instant::now() + wait::DEADLINE;
    while !program.has_exited() {
        assert!(Instant::now() < due, "the task {name} panicked for nothing");
        provoke(&program);
        std::thread::park_timeout(AGAIN);
    }
    program.until_said("a critical task panicked");
    let said = program.lines(|line| line["task"] == name);
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["level"], "ERROR");
    let panic = said[0]["panic"].as_str().unwrap_or_default();
    assert!(panic.contains("test panic"), "{panic}");
    assert_eq!(program.exit_code(), Some(1));
}

/// Sends something to a listener there, if there is one.
fn knock(address: SocketAddr, words: &[u8]) {
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.write_all(words);
    }
}

/// A reload changes nothing here, but gives control and each worker an order.
fn hang_up(program: &Program) {
    program.signal(Signal::HUP);
}

#[test]
fn a_door_that_panics_ends_the_process() {
    // Two doors have their first turn before anybody comes.
    ends_the_process(Task::Accept, 3, |program| {
        knock(program.address, &Connect::new("nobody").bytes());
    });
}

#[test]
fn a_listener_whose_closing_panics_ends_the_process() {
    // A second SIGTERM would end a drain that goes on.
    let told = std::cell::Cell::new(false);
    ends_the_process(Task::Unlisten, 1, |program| {
        if !told.replace(true) {
            program.signal(Signal::TERM);
        }
    });
}

/// A panic in the midst of a task drops what the task has in hand before anybody can know of it: a caller that waits for an answer
/// is told that there is none, and must not take that for an end in order.
#[track_caller]
fn ends_a_drain_as_one_that_failed(task: Task, place: &str, clients: usize) {
    let cluster = Cluster::of(1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.env(format!("REMORA_PANIC_IN_{place}"), "1");
    let tables = format!("{ADMIN}\n[drain]\ndelay = \"0s\"\n");
    let mut program = Program::by(command, &toml(&cluster, "", &tables));
    program.may_fail = true;
    let _clients: Vec<Client> = (0..clients)
        .map(|number| Client::accepted(program.address, &Connect::new(format!("client-{number}"))))
        .collect();
    program.signal(Signal::TERM);
    assert_eq!(program.exit_code(), Some(1));
    program.until_said("a critical task panicked");
    let said = program.lines(|line| line["task"] == task.name());
    assert_eq!(said.len(), 1);
    let panic = said[0]["panic"].as_str().unwrap_or_default();
    assert!(panic.contains("test panic"), "{panic}");
}

#[test]
fn a_worker_that_panics_while_it_ends_connections_ends_a_drain_as_one_that_failed() {
    ends_a_drain_as_one_that_failed(Task::Orders, "CLOSE", 20);
}

#[test]
fn a_listener_that_panics_while_it_closes_ends_a_drain_as_one_that_failed() {
    // Without clients the drain is over at once, and it is the stop that meets the panic.
    ends_a_drain_as_one_that_failed(Task::Unlisten, "NO_MORE", 0);
}

#[test]
fn a_sweep_that_panics_ends_the_process() {
    // Two workers, each at its start and then once a second.
    ends_the_process(Task::Sweep, 7, |_| {});
}

#[test]
fn a_worker_that_panics_over_an_order_ends_the_process() {
    ends_the_process(Task::Orders, 20, hang_up);
}

#[test]
fn control_that_panics_ends_the_process() {
    ends_the_process(Task::Control, 10, hang_up);
}

#[test]
fn placements_whose_tidying_panics_end_the_process() {
    ends_the_process(Task::Placements, 10, hang_up);
}

#[test]
fn an_admin_listener_that_panics_ends_the_process() {
    ends_the_process(Task::Admin, 4, |program| {
        knock(program.admin(), b"GET /livez HTTP/1.0\r\n\r\n");
    });
}

/// A thread is stuck as early as can be configured.
const WATCHED: &str = "[watchdog]\nstuck_after = \"2s\"\n";

/// A program in which the next passing of a place takes for as long as the test wants, and systemd, which is told that it runs.
struct Hanging {
    /// What keeps it hanging, from [`Hanging::hang`] on. The first to be dropped: the program would not end before.
    hold: Option<tempfile::TempPath>,
    hold_path: std::path::PathBuf,
    program: Program,
    systemd: UnixDatagram,
    _directory: tempfile::TempDir,
}

impl Hanging {
    fn start(cluster: &Cluster, place: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let hold_path = directory.path().join("hold");
        let socket = directory.path().join("notify");
        let systemd = UnixDatagram::bind(&socket).expect("a socket");
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command
            .env(format!("REMORA_HANG_IN_{place}"), "1")
            .env("REMORA_HANG_WHILE", &hold_path)
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "200000");
        Self {
            program: Program::by(command, &toml(cluster, "", &format!("{ADMIN}{WATCHED}"))),
            systemd,
            hold: None,
            hold_path,
            _directory: directory,
        }
    }

    /// From now on, the next passing of the place takes until [`Hanging::go_on`].
    fn hang(&mut self) {
        std::fs::write(&self.hold_path, "").expect("a file");
        self.hold = Some(tempfile::TempPath::try_from_path(&self.hold_path).expect("a path"));
    }

    fn go_on(&mut self) {
        self.hold.take().expect("it hangs").close().expect("it was there");
    }

    /// Whether systemd is told within this time, beginning with what is said from now on, that all is well.
    fn is_well_for_systemd(&self, within: Duration) -> bool {
        let mut said = [0; 64];
        self.systemd.set_nonblocking(true).expect("an option");
        while self.systemd.recv(&mut said).is_ok() {}
        self.systemd.set_nonblocking(false).expect("an option");
        self.systemd.set_read_timeout(Some(within)).expect("an option");
        // The first may have waited for room in the socket since before. Lines about the start and the state come between them.
        (0..2).all(|_| {
            loop {
                match self.systemd.recv(&mut said).unwrap_or(0) {
                    0 => break false,
                    length if said[..length].starts_with(b"WATCHDOG=1") => break true,
                    _ => {}
                }
            }
        })
    }

    /// How long this thread has been silent, in seconds.
    fn silence(&self, thread: &str) -> f64 {
        let metrics = Metrics::of(self.program.admin());
        metrics.value(&format!("remora_thread_silence_seconds{{thread=\"{thread}\"}}"))
    }

    fn lines(&self, message: &str) -> Vec<serde_json::Value> {
        self.program.lines(|line| line["message"] == message)
    }
}

#[test]
fn a_worker_that_hangs_is_reported_and_so_is_its_recovery() {
    let cluster = Cluster::of(1);
    let mut hanging = Hanging::start(&cluster, "SWEEP");
    let admin = hanging.program.admin();
    assert_eq!(get(admin, "/livez").status, 200);
    // Workers sweep once a second.
    hanging.hang();
    wait::until("/livez says so", || get(admin, "/livez").status == 503);
    let said = get(admin, "/livez").body;
    let thread = said.split(' ').next().expect("a name").to_owned();
    assert!(
        said.starts_with("remora-") && said.contains(" has not run for "),
        "{said}"
    );
    let ready = get(admin, "/readyz");
    assert!(ready.status == 503 && ready.body.starts_with(&thread), "{ready:?}");
    assert!(!hanging.is_well_for_systemd(Duration::from_millis(500)));
    hanging.program.until_said("thread does not run");
    let lines = hanging.lines("thread does not run");
    assert_eq!((lines.len(), &lines[0]["thread"]), (1, &serde_json::json!(thread)));
    assert!(
        lines[0]["seconds"].as_u64().is_some_and(|seconds| seconds >= 3),
        "{lines:?}"
    );
    assert!(hanging.silence(&thread) >= 3.0);
    let other = if thread == "remora-0" { "remora-1" } else { "remora-0" };
    // Each shows once a second that it runs, and some time later on a busy machine.
    assert!(hanging.silence(other) < 3.0 && hanging.silence("remora-control") < 3.0);

    hanging.go_on();
    hanging.program.until_said("thread runs again");
    assert_eq!(hanging.lines("thread runs again")[0]["thread"], thread);
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(admin, path).status, 200, "{path}");
    }
    assert!(hanging.is_well_for_systemd(wait::DEADLINE));
    assert!(hanging.silence(&thread) < 3.0);
}

#[test]
fn control_that_hangs_is_logged_and_systemd_hears_of_it() {
    let cluster = Cluster::of(1);
    let mut hanging = Hanging::start(&cluster, "PLACEMENTS");
    assert!(hanging.is_well_for_systemd(wait::DEADLINE));
    hanging.hang();
    hanging.program.until_said("thread does not run");
    assert_eq!(hanging.lines("thread does not run")[0]["thread"], "remora-control");
    assert!(!hanging.is_well_for_systemd(Duration::from_millis(500)));
    hanging.go_on();
    hanging.program.until_said("thread runs again");
    assert!(hanging.is_well_for_systemd(wait::DEADLINE));
    assert_eq!(get(hanging.program.admin(), "/livez").status, 200);
}

#[test]
fn a_process_that_was_stopped_is_not_taken_for_stuck() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, &format!("{ADMIN}{WATCHED}"));
    program.signal(Signal::STOP);
    // Longer than a thread may be silent.
    std::thread::park_timeout(Duration::from_secs(4));
    program.signal(Signal::CONT);
    let due = Instant::now() + Duration::from_secs(2);
    while Instant::now() < due {
        let alive = get(program.admin(), "/livez");
        assert_eq!(alive.status, 200, "{}", alive.body);
    }
    assert!(program.lines(|line| line["thread"] == "remora-0").is_empty());
}

#[test]
fn a_panic_of_top_is_told_on_the_shells_screen_of_a_terminal_that_is_as_before() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command
        .args(["top", "--interval", "1", "--socket"])
        .arg(program.socket());
    command.env("REMORA_PANIC_IN_TOP", "3").env("RUST_BACKTRACE", "0");
    let (status, contents) = terminal::Terminal::run(command).restored();
    assert_eq!(status.code(), Some(101));
    assert!(contents.contains("test panic in Top"), "{contents}");
}

/// What a process that takes over does before it runs, each step of which may be its last.
const BEFORE_IT_RUNS: [&str; 12] = [
    "hello", "manifest", "sockets", "relays", "received", "prepare", "prepared", "states", "complete", "adopted", "go",
    "running",
];

/// What the other one does meanwhile.
const BEFORE_IT_LETS_GO: [&str; 8] = [
    "manifest", "sockets", "relays", "prepare", "states", "complete", "adopted", "go",
];

/// A program that hands over at a socket in this folder.
fn handing_over(
    cluster: &Cluster,
    folder: &tempfile::TempDir,
    variable: &str,
    value: &str,
) -> (Program, std::path::PathBuf) {
    let socket = folder.path().join("handover.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.env(variable, value);
    let tables = format!("{ADMIN}[handover]\nsocket = \"{}\"\n", socket.display());
    (Program::by(command, &toml(cluster, "", &tables)), socket)
}

#[test]
fn a_process_that_is_killed_while_it_takes_over_costs_nothing() {
    for place in BEFORE_IT_RUNS {
        let cluster = Cluster::of(1);
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.env(format!("REMORA_KILL_IN_TAKE_{}", place.to_uppercase()), "1");
        let mut program = Program::by(command, &toml(&cluster, "", ADMIN));
        let mut clients: Vec<_> = (0..20)
            .map(|number| Pair::accepted(&cluster, &program, &format!("stays {number}")))
            .collect();
        for attempt in 0..2 {
            let (is_done, last) = program.try_upgrade(&[]);
            assert!(!is_done && last["step"] == "failed", "{place}: {last}");
            assert!(
                last["error"].as_str().is_some_and(|why| why.contains("signal: 9")),
                "{place}: {last}"
            );
            clients
                .iter_mut()
                .for_each(|client| client.talks(&format!("{place} {attempt}")));
            clients.push(Pair::accepted(&cluster, &program, &format!("new {attempt}")));
        }
        let failed = Metrics::of(program.admin()).value("remora_handovers_total{result=\"failed\"}");
        assert_eq!(failed, 2.0, "{place}");
    }
}

#[test]
fn a_process_that_dies_as_soon_as_it_has_taken_over_is_no_end_without_an_error() {
    let cluster = Cluster::of(1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.env("REMORA_KILL_IN_TAKE_RUN", "1");
    let mut program = Program::by(command, &toml(&cluster, "", ADMIN));
    program.may_fail = true;
    let client = Pair::accepted(&cluster, &program, "lost");
    let (is_done, last) = program.try_upgrade(&[]);
    assert!(!is_done && last["step"] == "failed", "{last}");
    assert!(last["error"].as_str().is_some_and(|why| why.contains("died")), "{last}");
    // A supervisor starts another one only then.
    assert_eq!(program.exit_code(), Some(1));
    drop(client);
}

#[test]
fn a_process_that_hangs_while_it_takes_over_is_given_up_in_time() {
    for place in ["complete", "adopted", "go", "running"] {
        let cluster = Cluster::of(1);
        let folder = tempfile::TempDir::new().expect("a folder");
        let hangs = folder.path().join("hangs");
        std::fs::write(&hangs, "").expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.env(format!("REMORA_HANG_IN_TAKE_{}", place.to_uppercase()), "1");
        command.env("REMORA_HANG_WHILE", &hangs);
        let mut program = Program::by(command, &toml(&cluster, "", ADMIN));
        let mut client = Pair::accepted(&cluster, &program, "waits");
        let upgrade = std::thread::scope(|scope| {
            let upgrade = scope.spawn(|| program.try_upgrade(&[]));
            // Sent while it is frozen, or before: it arrives in any case.
            client.talks(place);
            upgrade.join().expect("an upgrade")
        });
        assert!(!upgrade.0 && upgrade.1["step"] == "failed", "{place}: {upgrade:?}");
        std::fs::remove_file(&hangs).expect("a file");
        client.talks("after it");
        // The next one does not hang, and nothing is left of the first.
        assert_eq!(program.upgrade()["moved"], 1, "{place}");
        client.talks("moved");
    }
}

#[test]
fn a_process_that_was_to_take_over_ends_with_the_one_before_unless_it_runs() {
    for place in BEFORE_IT_LETS_GO {
        let (cluster, folder) = (Cluster::of(1), tempfile::TempDir::new().expect("a folder"));
        let variable = format!("REMORA_KILL_IN_GIVE_{}", place.to_uppercase());
        let (mut program, socket) = handing_over(&cluster, &folder, &variable, "1");
        program.may_fail = true;
        let mut client = Pair::accepted(&cluster, &program, "lost with its balancer");
        client.talks("before");
        let mut taker = Command::new(env!("CARGO_BIN_EXE_remora"));
        taker
            .args(["run", "--config"])
            .arg(program.path())
            .arg("--take-over")
            .arg(&socket);
        taker.env("RUNTIME_DIRECTORY", folder.path());
        let ended = taker.output().expect("the program");
        assert_eq!(ended.status.code(), Some(1), "{place}");
        assert_eq!(program.exit_code(), None, "killed");
        client.client.rest();
    }
}

#[test]
fn a_process_that_runs_keeps_what_it_has_taken_when_the_one_before_is_killed() {
    let (cluster, folder) = (Cluster::of(1), tempfile::TempDir::new().expect("a folder"));
    let (mut program, socket) = handing_over(&cluster, &folder, "REMORA_KILL_IN_GIVE_RUNNING", "1");
    program.may_fail = true;
    let mut client = Pair::accepted(&cluster, &program, "moves");
    client.talks("before");
    let new = Program::taking_over(&program, &socket);
    assert_eq!(program.exit_code(), None, "killed");
    client.talks("after");
    Pair::accepted(&cluster, &new, "new").talks("as well");
}
