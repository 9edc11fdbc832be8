//! A line for each end, whatever clients call themselves, and no worker that waits for their reader.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program, toml};
use crate::certificates::{BOTH, Certificates};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::header::{local, v1, v2};
use crate::node::own_address;
use crate::packets::{self, Connect};
use crate::tls_client::TlsClient;
use crate::wait;
use crate::ws_client::REQUEST;

/// A hostile client id; each number is another one.
fn hostile(number: usize) -> Vec<u8> {
    let tricks: [&[u8]; 12] = [
        b"\n2026-01-01T00:00:00Z ERROR forged",
        b"\x1b[31mred\x1b[0m\x1b]0;title\x07",
        b"\"}\n{\"level\":\"ERROR\"}",
        b"a\r\0\x7f\x08\t",
        "\u{202e}gnp.exe\u{2066}\u{200f}\u{61c}".as_bytes(),
        "\u{2028}\u{2029}\u{85}\u{feff}\u{200b}".as_bytes(),
        b"\xff\xfe\xc3\x28\xed\xa0\x80",
        b"x cause=\"internal\" node=\"forged\"",
        b"${jndi:ldap://x}%s%n",
        b"\\u{a}\\n\\",
        "\u{e0041}\u{e0042}\u{1f600}".as_bytes(),
        &[b'"'; 300],
    ];
    let id = [tricks[number % tricks.len()], number.to_string().as_bytes()].concat();
    match number % 50 {
        // As long as an id can be.
        49 => id.iter().copied().cycle().take(65_535).collect(),
        _ => id,
    }
}

const PASSWORD: &str = "correct horse battery";
const USERNAME: &str = "who-i-am";
const PAYLOAD: &str = "what-i-say";

/// Connects, says something, and goes.
fn comes_and_goes(program: std::net::SocketAddr, id: &[u8]) {
    let connect = Connect::new(id)
        .username(USERNAME)
        .password(PASSWORD)
        .will(b"will/topic", PAYLOAD.as_bytes());
    let mut client = Client::accepted(program, &connect);
    client.send(&packets::publish(PAYLOAD.as_bytes()));
    client.reset();
}

/// Whether a line could do anything to a terminal, or make a reader see what is not there.
fn is_harmless(line: &str) -> bool {
    line.chars().all(|c| {
        !c.is_control()
            && !matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
            && !matches!(c, '\u{61c}' | '\u{feff}' | '\u{85}' | '\u{e0000}'..='\u{e007f}')
    })
}

/// The program with its output in the hands of the test.
struct Raw {
    child: Child,
    output: Option<BufReader<ChildStdout>>,
    /// Up to the line that says where it listens.
    listening: String,
    _directory: TempDir,
}

impl Raw {
    fn start(config: &str) -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("remora.toml");
        fs::write(&path, config).expect("a file");
        let mut child = Command::new(env!("CARGO_BIN_EXE_remora"))
            .args(["run", "-c"])
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut listening = String::new();
        while !listening.contains("listening") {
            listening.clear();
            let read = output.read_line(&mut listening).expect("UTF-8");
            assert!(read > 0, "it ended before it listened");
        }
        Self {
            child,
            output: Some(output),
            listening,
            _directory: directory,
        }
    }

    /// The addresses of the line, in order: the listener's, then the admin listener's.
    fn addresses(&self) -> Vec<std::net::SocketAddr> {
        let words = self
            .listening
            .split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'));
        words.filter_map(|word| word.parse().ok()).collect()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a process that runs");
    }

    /// Ends it; everything that it wrote after the first line.
    fn rest(mut self) -> String {
        self.signal(Signal::INT);
        let mut rest = String::new();
        let mut output = self.output.take().expect("nobody has read it yet");
        output.read_to_string(&mut rest).expect("UTF-8");
        assert!(self.child.wait().expect("a child").success());
        rest
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn hostile_ids_make_as_many_lines_as_ends_and_each_parses() {
    const IDS: usize = 2_000;
    let cluster = Cluster::of(2);
    let config = toml(&cluster, "", "") + "\n[log]\nformat = \"json\"\nconnections = \"both\"\n";
    let program = Raw::start(&config);
    let address = program.addresses()[0];
    for number in 0..IDS {
        comes_and_goes(address, &hostile(number));
    }
    let rest = program.rest();
    let mut ids = [0, 0];
    let (mut longest, mut told) = (0, HashSet::new());
    for line in rest.split_terminator('\n') {
        assert!(is_harmless(line), "{line:?}");
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        for (place, message) in ["connection relayed", "connection ended"].iter().enumerate() {
            ids[place] += usize::from(value["message"] == *message);
        }
        if let Some(id) = value["client_id"].as_str() {
            assert!(id.len() <= 1_500, "{} bytes of an id", id.len());
            told.insert(id.as_bytes().to_vec());
            longest += usize::from(id.contains("...(65535B,"));
            assert!(value["cause"].as_str().is_none_or(|cause| cause != "internal"));
        }
        for secret in [USERNAME, PASSWORD, PAYLOAD, "will/topic"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
    assert_eq!(ids, [IDS, IDS]);
    // Once it is read, JSON has each id as its client has it, but for what is cut and what JSON has no word for.
    let is_whole = |id: &Vec<u8>| id.len() <= 128 && std::str::from_utf8(id).is_ok();
    let whole: Vec<_> = (0..IDS).map(hostile).filter(is_whole).collect();
    assert!(whole.len() > IDS / 2 && whole.iter().all(|id| told.contains(id)));
    assert_eq!(longest, 2 * IDS / 50, "the length is told of what is cut");
}

#[test]
fn hostile_ids_forge_neither_a_line_nor_a_field_of_text() {
    const IDS: usize = 500;
    let cluster = Cluster::of(2);
    let program = Raw::start(&toml(&cluster, "", ""));
    let address = program.addresses()[0];
    for number in 0..IDS {
        comes_and_goes(address, &hostile(number));
    }
    let rest = program.rest();
    let mut ended = 0;
    for line in rest.split_terminator('\n') {
        assert!(is_harmless(line), "{line:?}");
        // Lines begin with a time and a level, and each field is there once.
        let mut words = line.split_ascii_whitespace();
        assert!(words.next().is_some_and(|time| time.ends_with('Z')), "{line}");
        let level = words.next().expect("a level");
        // So many clients are a storm.
        let is_storm = words.clone().next() == Some("far") && line.contains(" event=\"storm_begun\"");
        assert_eq!(level, if is_storm { "WARN" } else { "INFO" }, "{line}");
        if line.contains("connection ended") {
            ended += 1;
            for field in [" cause=", " node=", " client_id=", " seconds="] {
                assert_eq!(line.matches(field).count(), 1, "{field} in {line}");
            }
        }
        for secret in [USERNAME, PASSWORD, PAYLOAD, "will/topic"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
    assert_eq!(ended, IDS);
}

#[test]
fn seconds_are_shown_to_the_millisecond() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "");
    for number in 0..20 {
        let client = Client::accepted(program.address, &Connect::new(format!("id-{number}")));
        std::thread::park_timeout(std::time::Duration::from_millis(3));
        client.reset();
        let seconds = program.ended(client.address())["seconds"].to_string();
        let (_, decimals) = seconds.split_once('.').expect("a fraction");
        assert!(decimals.len() <= 3, "{seconds}");
    }
}

/// A listener of each kind before one node: plain, behind balancers, with WebSocket, with TLS, and with TLS that ends there.
fn listeners_of_each_kind(cluster: &Cluster, certificates: &Certificates) -> String {
    let tls = certificates.listener();
    let others = [
        "proxy_protocol_from = [\"127.0.0.0/8\"]",
        "transport = \"ws\"",
        &tls,
        "tls = \"pass\"",
    ];
    let others = others.map(|keys| format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{keys}\n"));
    let address = format!("address = \"{}\"", cluster.nodes[0].address);
    let pass = format!("{address}\npass = \"{}\"", cluster.nodes[0].address);
    toml(cluster, &others.join("\n"), ADMIN).replace(&address, &pass)
}

#[test]
fn whoever_looks_in_and_says_nothing_is_counted_and_makes_no_line() {
    let (cluster, certificates) = (Cluster::of(1), Certificates::new());
    let program = Raw::start(&listeners_of_each_kind(&cluster, &certificates));
    let [plain, introduced, ws, tls, passed, admin] = program.addresses()[..] else {
        panic!("five listeners and the admin's: {}", program.listening);
    };
    let ended = |cause: &str| {
        let series = format!("remora_ends_total{{cause=\"{cause}\"}}");
        Metrics::of(admin).value(&series) as usize
    };
    let header = v2("192.0.2.7:51000", &[]);
    let line = v1("192.0.2.7:51000");
    let silent: [(_, &[u8]); 8] = [
        (plain, &[]),
        (introduced, &[]),
        (introduced, &local()),
        (introduced, &header),
        (introduced, &line),
        (ws, &[]),
        (tls, &[]),
        (passed, &[]),
    ];
    let come = || {
        silent.map(|(address, header)| {
            let mut client = Client::to(address);
            client.send(header);
            client
        })
    };
    for mut client in come() {
        client.fin();
        client.end();
    }
    let lost = come();
    // Until then the kernel has those that say nothing, and would not even tell of them.
    wait::until("all to be accepted", || {
        Metrics::of(admin).sum("remora_accepts_total") as usize == 2 * silent.len()
    });
    lost.iter().for_each(Client::reset);
    wait::until("all to be counted", || {
        let ends = ["client_closed", "client_reset"].map(ended);
        ends == [silent.len(); 2]
    });

    // A byte of its own is enough for a line, at whatever height.
    let spoken: [(_, &[u8]); 8] = [
        (plain, b"\x10"),
        (introduced, &local()[..5]),
        (introduced, &[&local()[..], b"\x10"].concat()),
        (introduced, &[&line[..], b"\x10"].concat()),
        (ws, b"GET"),
        (tls, b"\x16"),
        (passed, b"\x16"),
        (ws, REQUEST.as_bytes()),
    ];
    for (address, said) in spoken {
        let mut client = Client::to(address);
        client.send(said);
        if said == REQUEST.as_bytes() {
            client.read_until(b"\r\n\r\n");
        }
        client.fin();
        client.rest();
    }
    let mut client = TlsClient::to(tls, &Arc::new(certificates.trusting(BOTH, None)));
    client.tcp.fin();
    client.tcp.rest();
    let lines = spoken.len() + 1;
    wait::until("all to be counted", || ended("client_closed") == silent.len() + lines);
    let rest = program.rest();
    let ended = rest.lines().filter(|line| line.contains("connection ended"));
    assert_eq!(ended.count(), lines, "{rest}");
    assert_eq!(cluster.dials(), 0);
}

#[test]
fn a_reader_that_does_not_read_stops_no_worker_and_the_lost_lines_are_counted() {
    const PER_THREAD: usize = 9_000;
    let cluster = Cluster::of(2);
    let program = Raw::start(&toml(&cluster, "", &format!("{ADMIN}[log]\nunrouted_rate = 1000000\n")));
    let (address, admin) = (program.addresses()[0], program.addresses()[1]);
    let dropped = || Metrics::of(admin).value("remora_log_lines_dropped_total");
    // Strangers cost the fewest steps for each line. The pipe holds a thousand lines and the queue 32 thousand.
    std::thread::scope(|scope| {
        for thread in 1..=4 {
            scope.spawn(move || {
                for _ in 0..PER_THREAD {
                    // The ports of one address would not suffice.
                    let mut client = Client::from([127, 0, 1, thread].into(), address);
                    client.offers(b"GET / HTTP/1.1\r\n\r\n");
                    client.rest();
                    client.reset();
                }
            });
        }
    });
    Client::accepted(address, &Connect::new("still served"));
    let lost = dropped();
    println!("{lost} lines were dropped");
    assert!(lost > 0.0);
    let metrics = Metrics::of(admin);
    assert_eq!(
        metrics.value("remora_ends_total{cause=\"not_mqtt_http\"}"),
        (4 * PER_THREAD) as f64
    );

    // Read again, it has every line but those: whole ones.
    let rest = program.rest();
    let ended = rest.lines().filter(|line| line.contains("not_mqtt_http")).count();
    assert_eq!(ended + lost as usize, 4 * PER_THREAD);
}

/// Each of so many clients makes a line.
#[track_caller]
fn comes_and_is_no_client(address: std::net::SocketAddr, times: usize) {
    for _ in 0..times {
        let mut client = Client::to(address);
        client.send(b"GET / HTTP/1.1\r\n\r\n");
        client.rest();
    }
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    const LINES: usize = 20;
    let unwritten = |admin| Metrics::of(admin).value("remora_log_lines_unwritten_total") as usize;
    let cluster = Cluster::of(1);
    // The pipe's reader is gone.
    let mut program = Raw::start(&toml(&cluster, "", ADMIN));
    let (address, admin) = (program.addresses()[0], program.addresses()[1]);
    assert_eq!(unwritten(admin), 0);
    program.output = None;
    comes_and_is_no_client(address, LINES);
    wait::until("all lines to be counted", || unwritten(admin) >= LINES);
    program.signal(Signal::INT);
    assert!(program.child.wait().expect("a child").success());

    // The disk is full.
    let free = || {
        let bound = std::net::TcpListener::bind((own_address(), 0)).expect("a free port");
        bound.local_addr().expect("an address")
    };
    let (address, admin) = (free(), free());
    let config = toml(&cluster, "", &format!("[admin]\naddress = \"{admin}\"\n"));
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("remora.toml");
    fs::write(&path, config.replace("127.0.0.1:0", &address.to_string())).expect("a file");
    let full = fs::File::options().write(true).open("/dev/full").expect("a device");
    let child = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["run", "-c"])
        .arg(&path)
        .stdout(full)
        .spawn()
        .expect("the program");
    let mut program = Raw {
        child,
        output: None,
        listening: String::new(),
        _directory: directory,
    };
    for address in [admin, address] {
        wait::until("the program listens", || std::net::TcpStream::connect(address).is_ok());
    }
    comes_and_is_no_client(address, LINES);
    wait::until("all lines to be counted", || unwritten(admin) >= LINES);
    program.signal(Signal::INT);
    assert!(program.child.wait().expect("a child").success());
}

#[test]
fn hostile_connections_have_a_rate_of_lines_and_routed_ones_have_none() {
    const HOSTILE: usize = 400;
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, &format!("{ADMIN}[log]\nunrouted_rate = 2\n"));
    let ended = |cause: &str| Metrics::of(program.admin()).value(&format!("remora_ends_total{{cause=\"{cause}\"}}"));
    for _ in 0..HOSTILE {
        let mut client = Client::to(program.address);
        client.send(b"junk junk junk");
        client.reset();
    }
    wait::until("all of them have ended", || {
        ended("not_mqtt_junk") + ended("client_reset") >= HOSTILE as f64
    });
    for number in 0..HOSTILE {
        Client::accepted(program.address, &Connect::new(format!("routed-{number}"))).reset();
    }
    program.until_said("too many connections ended before they were routed");
    wait::until("the lines of the routed ones", || {
        program
            .lines(|line| line["client_id"].as_str().is_some_and(|id| id.starts_with("routed-")))
            .len()
            == HOSTILE
    });
    let kept_back = Metrics::of(program.admin()).value("remora_log_lines_kept_back_total");
    let unrouted = program
        .lines(|line| line["message"] == "connection ended" && line["version"] == "-")
        .len();
    // A minute's worth at once, and two in each second that this took.
    assert!((1..=200).contains(&unrouted), "{unrouted} lines");
    assert_eq!(unrouted + kept_back as usize, HOSTILE);
    let told = program.lines(|line| !line["kept_back"].is_null());
    assert!(
        told[0]["level"] == "WARN" && told[0]["kept_back"].as_u64() >= Some(1),
        "{told:?}"
    );

    program.reload(&toml(&cluster, "", &format!("{ADMIN}[log]\nunrouted_rate = 0\n")));
    let before = kept_back;
    let mut client = Client::to(program.address);
    client.send(b"junk junk junk");
    client.reset();
    wait::until("it is counted", || {
        Metrics::of(program.admin()).value("remora_log_lines_kept_back_total") == before + 1.0
    });
    assert!(!program.has_ended(client.address()), "it has no line");
}
