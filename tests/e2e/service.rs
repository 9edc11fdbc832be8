//! What systemd is told: a socket of the test in its place.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::balancer::{ADMIN, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::Connect;
use crate::wait::DEADLINE;

/// A program that was started by systemd, and everything that it says to it, in order.
struct Service {
    program: Program,
    socket: UnixDatagram,
    _folder: TempDir,
}

impl Service {
    fn start(toml: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a time");
        let mut remora = Command::new(env!("CARGO_BIN_EXE_remora"));
        remora.env("NOTIFY_SOCKET", &path);
        let program = Program::by(remora, toml);
        Self {
            program,
            socket,
            _folder: folder,
        }
    }

    /// Waits for a message with this line in it; the message.
    #[track_caller]
    fn until(&self, wanted: &str) -> String {
        let mut message = [0; 4096];
        loop {
            let bytes = self.socket.recv(&mut message);
            let bytes = bytes.unwrap_or_else(|error| panic!("waited in vain for {wanted}: {error}"));
            let message = std::str::from_utf8(&message[..bytes]).expect("UTF-8");
            assert!(
                wanted == "STOPPING=1" || !message.contains("STOPPING=1"),
                "it stops: {message}"
            );
            if message.lines().any(|line| line.starts_with(wanted)) {
                return message.to_owned();
            }
        }
    }
}

#[test]
fn the_state_is_one_line_that_follows_nodes_connections_and_reloads() {
    let mut cluster = Cluster::of(2);
    let tables = "[health]\ndown_min = \"100ms\"\ndown_max = \"200ms\"";
    let config = toml(&cluster, "", tables);
    let mut service = Service::start(&config);
    let ready = service.until("READY=1");
    assert!(ready.contains("STATUS=nodes up: 2 of 2, connections: 0\n"), "{ready:?}");
    let client = Client::accepted(service.program.address, &Connect::new(cluster.id_at_home(1, "stays")));
    service.until("STATUS=nodes up: 2 of 2, connections: 1");
    cluster.nodes[0].die();
    Client::accepted(
        service.program.address,
        &Connect::new(cluster.id_at_home(0, "homeless")),
    )
    .reset();
    service.until("STATUS=nodes up: 1 of 2, connections: 1");

    service
        .program
        .reload_in_vain(&config.replace("workers = 2", "workers = \"two\""));
    service.until("RELOADING=1");
    let ready = service.until("READY=1");
    assert!(
        ready.contains("; the last reload was refused: ") && ready.contains("workers"),
        "{ready}"
    );
    service.program.reload(&config);
    service.until("RELOADING=1");
    let ready = service.until("READY=1");
    assert!(!ready.contains("refused"), "{ready}");

    // systemd would end it in a minute if it knew of this.
    service.program.signal(Signal::USR1);
    service.until("STATUS=nodes up: 1 of 2, connections: 1; accepts no more clients");
    client.reset();
    assert_eq!(service.program.exit_code(), Some(0));
}

#[test]
fn the_process_that_takes_over_is_the_service() {
    let cluster = Cluster::of(1);
    let mut service = Service::start(&toml(&cluster, "", ADMIN));
    service.until("READY=1");
    let client = Client::accepted(service.program.address, &Connect::new("stays"));
    service.program.upgrade();
    let pid = service.program.process();
    service.until(&format!("MAINPID={pid}"));
    // Not a word of the end of the old one.
    assert_eq!(service.program.old_exit_code(), Some(0));
    client.reset();
    service.until("STATUS=nodes up: 1 of 1, connections: 0");
    service.program.signal(Signal::INT);
    service.until("STOPPING=1");
}

#[test]
fn sockets_of_systemd_are_used_by_name_and_by_address() {
    let cluster = Cluster::of(1);
    for (name, address) in [("mqtt", None), ("remora.socket", Some(()))] {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let bound = socket.local_addr().expect("an address");
        let config = toml(&cluster, "name = \"mqtt\"", ADMIN);
        let config = match address {
            // The admin listener has a free port, and comes first.
            Some(()) => config.replace(
                "[[listeners]]\naddress = \"127.0.0.1:0\"",
                &format!("[[listeners]]\naddress = \"{bound}\""),
            ),
            None => config,
        };
        // As systemd does: the first one is number 3. The shell closes what it was given it as.
        let mut shell = Command::new("sh");
        let passed = "exec 3>&2 2>/dev/null; LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=\"$NAMES\" exec \"$0\" \"$@\"";
        shell
            .args(["-c", passed, env!("CARGO_BIN_EXE_remora")])
            .env("NAMES", name);
        shell.stderr(Stdio::from(OwnedFd::from(socket)));
        let mut program = Program::by(shell, &config);
        assert_eq!(program.address, bound);
        // Both workers accept on it.
        for number in 0..20 {
            Client::accepted(bound, &Connect::new(format!("{name} {number}")));
        }
        program.upgrade();
        assert_eq!(program.old_exit_code(), Some(0));
        Client::accepted(bound, &Connect::new("after"));
    }
}

#[test]
fn a_drain_is_a_stop() {
    let cluster = Cluster::of(1);
    let service = Service::start(&toml(&cluster, "", "[drain]\nrate = 1000"));
    service.until("READY=1");
    let mut client = Client::accepted(service.program.address, &Connect::new("leaves"));
    service.program.signal(Signal::TERM);
    let stopping = service.until("STOPPING=1");
    assert!(stopping.contains("; draining"), "{stopping}");
    client.rest();
}
