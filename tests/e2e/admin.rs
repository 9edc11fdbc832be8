//! What an operator asks the process, and who else may have its ports.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::admin_client::{ask, get, raw};
use crate::balancer::{ADMIN, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::own_address;
use crate::packets::Connect;
use crate::wait::{self, DEADLINE};

/// Runs the program to an end that it comes to by itself.
fn output(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(arguments).output().expect("the program")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

#[test]
fn livez_readyz_and_metrics_answer_get_and_head_and_nothing_else_is_there() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let admin = program.admin();
    assert_eq!(
        (get(admin, "/livez").status, &*get(admin, "/livez").body),
        (200, "alive\n")
    );
    assert_eq!(
        (get(admin, "/readyz").status, &*get(admin, "/readyz").body),
        (200, "ready\n")
    );
    for path in ["/livez", "/readyz", "/metrics"] {
        let got = get(admin, path);
        assert!(got.head.contains("cache-control: no-store"), "{}", got.head);
        let head = ask(admin, "HEAD", path, "");
        assert_eq!((head.status, &*head.body), (200, ""), "{path}");
        assert!(head.head.contains("content-length: "), "{}", head.head);
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let refused = ask(admin, method, path, "Content-Length: 0\r\n");
            assert_eq!(refused.status, 405, "{method} {path}");
            assert!(refused.head.contains("allow: get, head"), "{}", refused.head);
        }
    }
    for path in ["//", "/index.html", "/metrics/", "/livez2", "/../livez", "/metrics%00"] {
        assert_eq!(get(admin, path).status, 404, "{path}");
    }
    assert_eq!(ask(admin, "GET", "/livez?verbose", "").status, 200);
}

#[test]
fn readyz_says_when_no_node_is_up() {
    let mut cluster = Cluster::of(1);
    let health = format!("{ADMIN}\n[health]\nfailures_max = 1\ndown_min = \"100ms\"");
    let program = Program::start(&cluster, &health);
    assert_eq!(health_of(&program), 0);
    cluster.nodes[0].die();
    Client::to(program.address).offers(&Connect::new("finds out").bytes());
    wait::until("it is not ready", || get(program.admin(), "/readyz").status == 503);
    assert_eq!(get(program.admin(), "/readyz").body, "no node is up\n");
    assert_eq!(get(program.admin(), "/livez").status, 200);
    assert_eq!(health_of(&program), 1);
    cluster.nodes[0].come_back();
    wait::until("it is ready again", || {
        Client::to(program.address).offers(&Connect::new("tries").bytes());
        get(program.admin(), "/readyz").status == 200
    });
}

/// As `nc -N` and many a script do: behind the request they close their side, and read.
#[test]
fn one_who_has_closed_its_side_behind_the_request_gets_the_answer() {
    let silent = TcpListener::bind((own_address(), 0)).expect("a free port");
    let cluster = Cluster::of(1);
    let node = cluster.nodes[0].address.to_string();
    let at = silent.local_addr().expect("an address").to_string();
    let program = Program::of(&toml(&cluster, "", ADMIN).replace(&node, &at));
    // This answer takes time: a node is asked first, and it says nothing.
    let answer = raw(program.admin(), "GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer:?}");
    assert!(answer.ends_with("\r\n\r\nno node has answered yet\n"), "{answer:?}");
}

/// What `remora health` ends with.
fn health_of(program: &Program) -> i32 {
    let asked = output(&["health", "--address", &program.admin().to_string()]);
    asked.status.code().expect("an exit code")
}

#[test]
fn health_ends_with_0_only_where_clients_should_come() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, &format!("{ADMIN}\n[drain]\ndelay = \"20s\""));
    let address = program.admin().to_string();
    let ready = output(&["health", "--address", &address]);
    assert_eq!((ready.status.code(), text(&ready.stdout)), (Some(0), "ready\n"));

    // A configuration says where to ask: its own, since another one's process is not this one.
    let path = program.path().to_str().expect("UTF-8");
    let write = |admin: &str| program.configure(&toml(&cluster, "", admin));
    write(&format!("[admin]\naddress = \"{address}\""));
    assert_eq!(output(&["health", "-c", path]).status.code(), Some(0));
    write("[admin]\nenabled = false");
    let off = output(&["health", "-c", path]);
    assert_eq!(off.status.code(), Some(1));
    assert!(text(&off.stderr).contains("admin.enabled"), "{off:?}");
    write("[admin]\naddress = 7");
    assert_eq!(output(&["health", "-c", path]).status.code(), Some(64));

    program.signal(Signal::TERM);
    program.until_said("draining");
    wait::until("it drains", || health_of(&program) == 1);
    let draining = output(&["health", "--address", &address]);
    assert!(text(&draining.stderr).contains("draining"), "{draining:?}");
    drop(program);
    let gone = output(&["health", "--address", &address]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(text(&gone.stderr).contains("no answer"), "{gone:?}");

    // Another program is there, which is no Remora and answers nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let began = Instant::now();
    let address = silent.local_addr().expect("an address").to_string();
    assert_eq!(output(&["health", "--address", &address]).status.code(), Some(1));
    assert!(began.elapsed() < DEADLINE / 2);
}

#[test]
fn who_asks_and_does_not_read_blocks_nobody() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let admin = program.admin();
    // Some say nothing, some half of it, some ask for more than they read.
    let crowd: Vec<TcpStream> = (0..60)
        .map(|number| {
            let mut stream = TcpStream::connect(admin).expect("an admin listener");
            let said: &[u8] = match number % 3 {
                0 => b"",
                1 => b"GET /metrics HTTP/1.1\r\nHost",
                _ => &b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50),
            };
            // The oldest are shown the door meanwhile.
            let _ = stream.write_all(said);
            // Within a deadline that is shorter than a connection may last.
            assert_eq!(get(admin, "/livez").status, 200);
            stream
        })
        .collect();
    // They cost a bounded number of descriptors.
    wait::until("most of the crowd is gone", || {
        let open = fs::read_dir(format!("/proc/{}/fd", program.process())).expect("a process");
        open.count() < 64
    });
    drop(crowd);
}

#[test]
fn a_request_that_is_none_is_answered_or_closed() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(64 * 1024));
    for request in [&b"\x16\x03\x01\x02\0\x01"[..], b"\0\0\0\0\r\n\r\n", long.as_bytes()] {
        let mut stream = TcpStream::connect(program.admin()).expect("an admin listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("an option");
        // It may be closed before it has said all.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", answer.escape_ascii());
        assert_eq!(get(program.admin(), "/livez").status, 200);
    }
}

#[test]
fn a_second_remora_on_the_port_fails_loudly() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "");
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("remora.toml");
    let second = toml(&cluster, "", "").replace("127.0.0.1:0", &program.address.to_string());
    fs::write(&path, second).expect("a file");
    let second = output(&["run", "-c", path.to_str().expect("UTF-8")]);
    assert_eq!(second.status.code(), Some(1));
    let said = text(&second.stderr);
    assert!(
        said.contains(&program.address.to_string()) && said.contains("in use"),
        "{said}"
    );
    // The first has lost nobody to it.
    for number in 0..20 {
        Client::accepted(program.address, &Connect::new(format!("in-{number}")));
    }
}

#[test]
fn a_taken_default_admin_address_is_a_warning_and_a_configured_one_an_error() {
    let cluster = Cluster::of(1);
    // It is taken: by this test, or by another process before.
    let _held = TcpListener::bind(remora::admin::ADDRESS_DEFAULT);
    let program = Program::start(&cluster, "[admin]\nenabled = true");
    assert_eq!(program.admin, None);
    let warned = program
        .lines(|line| line["level"] == "WARN" && line["message"].as_str().is_some_and(|m| m.contains("admin.address")));
    assert_eq!(warned.len(), 1);
    Client::accepted(program.address, &Connect::new("in"));

    let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = held.local_addr().expect("an address");
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("remora.toml");
    let config = toml(&cluster, "", &format!("[admin]\naddress = \"{address}\""));
    fs::write(&path, config).expect("a file");
    let refused = output(&["run", "-c", path.to_str().expect("UTF-8")]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(
        said.contains("admin.address") && said.contains(&address.to_string()),
        "{said}"
    );
}

#[test]
fn systemd_hears_of_start_reload_and_end_in_order() {
    let cluster = Cluster::of(1);
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("an option");
    // What is said beside the state, which is told again and again.
    let heard = || {
        loop {
            let mut buffer = [0; 1024];
            let length = socket.recv(&mut buffer).expect("a message");
            let said = text(&buffer[..length]);
            let said: Vec<&str> = said.lines().filter(|line| !line.starts_with("STATUS=")).collect();
            if !said.is_empty() {
                return said.join("\n");
            }
        }
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.env("NOTIFY_SOCKET", &path);
    let config = toml(&cluster, "", "");
    let mut program = Program::by(command, &config);
    assert_eq!(heard(), "READY=1");
    for reload in [Program::reload_in_vain as fn(&Program, &str), |program, _| {
        program.reload(&toml(&Cluster::of(1), "", ""));
    }] {
        let before = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        reload(&program, "listeners = 7");
        let reloading = heard();
        let usec = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .expect(&reloading);
        let usec: i64 = usec.parse().expect("a number");
        assert!(usec >= before.tv_sec * 1_000_000 + before.tv_nsec / 1_000, "{usec}");
        assert_eq!(heard(), "READY=1");
    }
    program.signal(Signal::TERM);
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(program.exit_code(), Some(0));
    socket.set_nonblocking(true).expect("an option");
    let mut buffer = [0; 1024];
    while let Ok(length) = socket.recv(&mut buffer) {
        assert!(buffer[..length].starts_with(b"STATUS="), "nothing else is said");
    }
}

#[test]
fn a_request_for_another_host_is_refused_with_the_way_out() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, &format!("{ADMIN}hosts = [\"remora.example.com\"]"));
    let admin = program.admin();
    let asked = |host: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        let mut stream = TcpStream::connect(admin).expect("an admin listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("an option");
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let hosts = [
        "Host: 127.0.0.1\r\n",
        "Host: 10.0.0.7:9883\r\n",
        "Host: [::1]:9883\r\n",
        "Host: localhost\r\n",
        "Host: remora.example.com:9883\r\n",
        "",
    ];
    for host in hosts {
        assert!(asked(host, "/livez").starts_with("HTTP/1.1 200 "), "{host}");
    }
    for path in ["/livez", "/readyz", "/metrics", "/"] {
        let refused = asked("Host: evil.example:9883\r\nOrigin: http://evil.example\r\n", path);
        assert!(refused.starts_with("HTTP/1.1 421 "), "{refused}");
        assert!(
            refused.contains("add the name to hosts in [admin]") && !refused.contains("remora_"),
            "{refused}"
        );
    }
    let both = asked("Host: localhost\r\nHost: evil.example\r\n", "/metrics");
    assert!(!both.starts_with("HTTP/1.1 200 "), "{both}");
    assert_eq!(health_of(&program), 0);
}
