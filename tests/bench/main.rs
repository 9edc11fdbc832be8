//! The load tester as its users see it, against small nodes that it serves itself.

mod tls;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

fn bench() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.arg("bench");
    command
}

/// Runs the bench to its end.
fn output(arguments: &[&str]) -> Output {
    bench().args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}

/// Served nodes, which end with the value.
struct Nodes {
    process: Child,
    addresses: Vec<String>,
}

impl Nodes {
    fn serve(count: usize) -> Self {
        let mut process = bench()
            .args(["--serve", &count.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let addresses = stdout.lines().take(count);
        let addresses = addresses.map(|line| line.expect("an address")).collect();
        Self { process, addresses }
    }

    fn address(&self) -> &str {
        &self.addresses[0]
    }

    /// Waits until so many clients are connected.
    fn wait_for(&self, clients: usize) {
        let files = format!("/proc/{}/fd", self.process.id());
        let count = || fs::read_dir(&files).expect("a process").count();
        let deadline = Instant::now() + DEADLINE;
        while count() < clients {
            assert!(Instant::now() < deadline, "{clients} clients never came");
            std::thread::yield_now();
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // It may have been ended by its test.
        let _ = self.process.kill();
        self.process.wait().expect("an end");
    }
}

/// A demo on free ports, which ends with the value.
struct Demo {
    process: Child,
    /// Of its WebSocket listener.
    url: String,
    /// Its folder for temporary files.
    _files: TempDir,
}

impl Demo {
    fn start() -> Self {
        let files = TempDir::new().expect("a folder");
        let mut process = Command::new(env!("CARGO_BIN_EXE_remora"))
            .args(["demo", "-a", "127.0.0.1:0", "--ws-address", "127.0.0.1:0"])
            .env("TMPDIR", files.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut lines = stdout.lines().map(|line| line.expect("text"));
        let line = lines.find(|line| line.contains("ws://")).expect("a URL");
        let begins = line.find("ws://").expect("a URL");
        let ends = line.find("/mqtt").expect("its path");
        let url = format!("{}/mqtt", &line[begins..ends]);
        // What it logs must find its way.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            url,
            _files: files,
        }
    }

    /// Ends it, unless it has ended.
    fn stop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            self.process.kill().expect("it runs");
            self.process.wait().expect("an end");
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs a workload with `--json` that must not fail.
fn result(arguments: &[&str]) -> Value {
    let common = ["--json", "--warm-up", "0"];
    let output = output(&[arguments, &common].concat());
    assert_eq!(
        output.status.code(),
        Some(0),
        "{arguments:?}: {}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert_eq!(text(&output.stderr), "", "quiet when nobody watches");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn number(result: &Value, pointer: &str) -> f64 {
    result
        .pointer(pointer)
        .and_then(Value::as_f64)
        .unwrap_or_else(|| panic!("no {pointer} in {result}"))
}

#[test]
fn every_workload_measures_what_it_is_for() {
    let nodes = Nodes::serve(1);
    every_workload(&["-t", nodes.address()]);
}

#[test]
fn every_workload_works_over_websocket() {
    let nodes = Nodes::serve(1);
    every_workload(&["-t", nodes.address(), "--ws"]);
}

#[test]
fn every_workload_works_with_the_demo_over_websocket() {
    let demo = Demo::start();
    every_workload(&["-t", &demo.url]);
}

#[test]
fn an_idle_client_costs_two_kilobytes_at_most() {
    let nodes = Nodes::serve(1);
    for websocket in [&[][..], &["--ws"]] {
        let arguments = ["idle", "-c", "4000", "-d", "0.1", "-t", nodes.address()];
        let result = result(&[&arguments[..], websocket].concat());
        let rss = |moment| number(&result, &format!("/runs/0/processes/0/rss_bytes/{moment}"));
        // The bench's own buffers included, and what it had to load of its program.
        let each = (rss(1) - rss(0)) / 4_000.0;
        assert!(each > 0.0 && each <= 2_048.0, "{each} bytes {websocket:?}");
    }
}

/// Runs each of them against a target.
fn every_workload(target: &[&str]) {
    let messages = "/runs/0/messages/latency_us/p99";
    let connack = "/runs/0/connections/connack_us/p99";
    for (arguments, name, figures) in [
        (&["connect", "-c", "300"][..], "connect", &[connack][..]),
        (&["idle", "-c", "300", "-d", "0.1"], "idle", &[connack]),
        (
            &["pub", "-c", "5", "-d", "0.2"],
            "pub",
            &["/runs/0/messages/sent_per_s"],
        ),
        (
            &["pub", "-c", "5", "-q", "1", "-d", "0.2"],
            "pub",
            &[messages, "/runs/0/messages/confirmed"],
        ),
        (
            &["pub", "-c", "5", "--subscribers", "9", "-d", "0.2"],
            "pub",
            &[messages],
        ),
        (
            &["sub", "-c", "20", "--publishers", "2", "-q", "1", "-d", "0.2"],
            "sub",
            &[messages],
        ),
        (&["echo", "-c", "10", "-V", "4", "-d", "0.2"], "echo", &[messages]),
        (
            &["echo", "-c", "10", "-r", "500", "-d", "0.4s"],
            "echo",
            &[messages, "/runs/0/messages/latency_from_send_us/p99"],
        ),
        (&["bulk", "-d", "0.3"], "bulk", &["/runs/0/messages/received_bytes"]),
        (
            &["reconnect", "-c", "100", "--cuts", "2"],
            "reconnect",
            &["/runs/0/returns/latency_us/p99", "/runs/0/returns/all_back_ms/1"],
        ),
    ] {
        let result = result(&[arguments, target].concat());
        assert_eq!(
            result.pointer("/runs/0/name"),
            Some(&Value::from(name)),
            "{arguments:?}"
        );
        for figure in figures {
            assert!(number(&result, figure) > 0.0, "{arguments:?}: {figure}");
        }
        let errors = result.pointer("/runs/0/errors").and_then(Value::as_object);
        let errors = errors.expect("errors by kind");
        assert_eq!(errors.len(), 17, "zero is visible");
        assert!(errors.values().all(|count| count == 0), "{errors:?}");
    }
}

#[test]
fn without_a_workload_the_canonical_runs_fill_one_screen() {
    let nodes = Nodes::serve(1);
    let arguments = ["-t", nodes.address(), "-c", "50", "-d", "0.2", "--warm-up", "0"];
    let output = output(&arguments);
    assert_eq!(output.status.code(), Some(0));
    let screen = text(&output.stdout);
    for words in [
        "storm: 50 clients",
        "latency: 50 clients",
        "throughput: 50 clients",
        "return: 50 clients",
        "CONNACK    p50",
        "latency    p50",
        "same node  100.00 %",
        "nodes        node1",
    ] {
        assert!(screen.contains(words), "{words} in:\n{screen}");
    }
    assert!(screen.lines().count() < 40, "{screen}");
}

#[test]
fn thresholds_set_the_exit_code() {
    let nodes = Nodes::serve(1);
    let code = |arguments: &[&str]| {
        let common = ["-t", nodes.address(), "-c", "10", "-d", "0.2"];
        let output = output(&[arguments, &common].concat());
        (output.status.code(), text(&output.stdout).to_owned())
    };
    assert_eq!(code(&["echo", "--max-p99", "30s", "--max-errors", "0"]).0, Some(0));
    let (failed, screen) = code(&["echo", "--max-p99", "1ns"]);
    assert_eq!(failed, Some(1));
    assert!(screen.contains("failed       echo: p99"), "{screen}");
    assert_eq!(code(&["connect", "--max-connack-p99", "1us"]).0, Some(1));
    assert_eq!(code(&["reconnect", "--min-same-node", "100"]).0, Some(0));
    // Without MQTT 5 nobody tells its name: nothing is claimed.
    assert_eq!(code(&["reconnect", "--min-same-node", "100", "-V", "4"]).0, Some(1));
}

#[test]
fn a_target_that_refuses_fails_unless_that_is_allowed() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let failed = output(&["connect", "-t", &address, "-c", "7"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stdout).contains("error        refused: 7 (the target's kernel refused the TCP connection"));
    // The canonical runs stop at the first that nobody takes.
    let failed = output(&["-t", &address, "-c", "7", "--max-errors", "7"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stdout).contains("no client was accepted"));
}

/// What the errors of a run's JSON are, without those that never happened.
fn errors(output: &Output) -> Vec<(String, u64)> {
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let errors = result.pointer("/runs/0/errors").and_then(Value::as_object);
    let errors = errors.expect("errors by kind").iter();
    let counted = errors.map(|(kind, count)| (kind.clone(), count.as_u64().expect("a count")));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// Holds a run to the death of its target: each of so many clients was cut off, and the exit code says so.
#[track_caller]
fn all_were_cut_off(output: &Output, clients: u64) {
    assert_eq!(output.status.code(), Some(1));
    let errors = errors(output);
    let known = |kind: &str| ["reset", "closed", "refused"].contains(&kind);
    assert!(errors.iter().all(|(kind, _)| known(kind)), "{errors:?}");
    let count: u64 = errors.iter().map(|(_, count)| count).sum();
    assert_eq!(count, clients, "{errors:?}");
}

#[test]
fn a_target_that_is_no_websocket_fails_by_kind_and_in_time() {
    let nodes = Nodes::serve(1);
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let silent = silent.local_addr().expect("an address").to_string();
    let mut demo = Demo::start();
    let connect = |target: &[&str]| {
        let common = ["connect", "-c", "7", "--json", "--connect-timeout", "0.3"];
        let output = output(&[&common[..], target].concat());
        assert_eq!(output.status.code(), Some(1), "{target:?}");
        errors(&output)
    };
    let seven = |kind: &str| vec![(kind.to_owned(), 7)];
    // It has another path.
    let elsewhere = ["--ws", "-t", nodes.address(), "--path", "/chat?id=%i"];
    assert_eq!(connect(&elsewhere), seven("not_upgraded"));
    let elsewhere = demo.url.replace("/mqtt", "/chat");
    assert_eq!(connect(&["-t", &elsewhere]), seven("not_upgraded"));
    // It accepts connections, and says nothing to a request.
    assert_eq!(connect(&["--ws", "-t", &silent]), seven("timeout"));
    // A WebSocket listener that hears MQTT: how it says no is its own business.
    let address = demo.url.replace("ws://", "").replace("/mqtt", "");
    let failed = connect(&["-t", &address]);
    assert_eq!(failed.iter().map(|(_, count)| count).sum::<u64>(), 7);
    demo.stop();
    assert_eq!(connect(&["-t", &demo.url]), seven("refused"));
}

/// A target that reads what a client sends, answers it in this way, and then closes or resets.
fn answering(answer: &'static [u8], resets: bool) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            if resets {
                let linger = Some(Duration::ZERO);
                socket2::SockRef::from(&stream).set_linger(linger).expect("an option");
            }
            let mut said = [0; 4_096];
            // Left unread, it would turn the close into a reset. The client may have gone already.
            let _ = stream.read(&mut said);
            let _ = stream.write_all(answer);
        }
    });
    address
}

#[test]
fn every_kind_of_failure_is_documented() {
    let nodes = Nodes::serve(1);
    let result = result(&["connect", "-c", "1", "-d", "0.1", "-t", nodes.address()]);
    let errors = result.pointer("/runs/0/errors").and_then(Value::as_object);
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bench.md");
    let page = fs::read_to_string(page).expect("a page");
    for (kind, _) in errors.expect("errors by kind") {
        assert!(page.contains(&format!("`{kind}`")), "{kind}");
    }
}

#[test]
fn a_failure_says_who_caused_it_and_when() {
    let refused = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
    for (answer, resets, arguments, kind, says) in [
        (
            &b"\x20\x03\0\x97\0"[..],
            false,
            &[][..],
            "not_accepted",
            "CONNACK 0x97 quota exceeded",
        ),
        (
            b"\x20\x02\0\x05",
            false,
            &["-V", "4"],
            "not_accepted",
            "CONNACK 0x05 not authorized",
        ),
        (b"", false, &[], "closed", "closed by the target before CONNACK"),
        (b"", true, &[], "reset", "TCP reset before CONNACK"),
        (
            b"",
            false,
            &["--tls", "--insecure"],
            "closed",
            "closed by the target during the TLS handshake",
        ),
        (
            b"no TLS",
            false,
            &["--tls", "--insecure"],
            "tls_failed",
            "TLS failed during the TLS handshake",
        ),
        (
            b"",
            true,
            &["--ws"],
            "reset",
            "TCP reset before the answer to the WebSocket upgrade",
        ),
        (
            refused,
            false,
            &["--ws"],
            "not_upgraded",
            "HTTP 503 Service Unavailable",
        ),
        (
            b"\x20\x03\0\0\0\xE0\x01\x8E",
            false,
            &[],
            "disconnected",
            "DISCONNECT 0x8e session taken over",
        ),
        (
            b"\x20\x03\0\0\0\x90\x04\0\x01\0\x87",
            false,
            &[],
            "not_subscribed",
            "SUBACK 0x87 not authorized",
        ),
    ] {
        let target = answering(answer, resets);
        let common = ["echo", "-c", "2", "-d", "0.1", "--json", "-t", &target];
        let output = output(&[&common[..], arguments].concat());
        assert_eq!(output.status.code(), Some(1), "{says}");
        assert_eq!(errors(&output), [(kind.to_owned(), 2)], "{says}");
        let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let failures = result.pointer("/runs/0/failures").and_then(Value::as_array);
        let [failure] = &failures.expect("failures")[..] else {
            panic!("{says}: {failures:?}");
        };
        assert_eq!((&failure["kind"], &failure["count"]), (&kind.into(), &2.into()));
        let what = failure["what"].as_str().expect("words");
        assert!(what.contains(says), "{what}");
    }
}

#[test]
fn a_target_that_dies_ends_the_run() {
    for websocket in [&[][..], &["--ws"]] {
        let mut nodes = Nodes::serve(1);
        let arguments = ["echo", "-c", "40", "-d", "10m", "--json"];
        let bench = bench()
            .args(arguments)
            .args(["-t", nodes.address()])
            .args(websocket)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        nodes.wait_for(40);
        nodes.process.kill().expect("a process");
        let output = bench.wait_with_output().expect("an end");
        all_were_cut_off(&output, 40);
    }
}

#[test]
fn an_interrupt_prints_what_was_measured_so_far() {
    const CLIENTS: usize = 40;
    let node = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let target = node.local_addr().expect("an address").to_string();
    let mut bench = bench()
        .args(["idle", "-c", "40", "-d", "10m", "--json", "-V", "4"])
        .args(["-t", &target])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    // A client that pings has read its CONNACK.
    let came: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let (mut stream, _) = node.accept().expect("a client");
            let mut said = [0; 256];
            assert!(stream.read(&mut said).expect("a CONNECT") > 0);
            stream.write_all(&[0x20, 2, 0, 0]).expect("it is read");
            assert!(stream.read(&mut said).expect("a ping") > 0);
            assert_eq!(said[..2], [0xC0, 0]);
            stream.write_all(&[0xD0, 0]).expect("it is read");
            stream
        })
        .collect();
    let pid = Pid::from_child(&bench);
    kill_process(pid, Signal::INT).expect("a process");
    let mut stdout = String::new();
    let pipe = bench.stdout.as_mut().expect("a pipe");
    pipe.read_to_string(&mut stdout).expect("UTF-8");
    assert_eq!(bench.wait().expect("an end").code(), Some(0), "{stdout}");
    let result: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(result.pointer("/runs/0/interrupted"), Some(&Value::from(true)));
    let accepted = number(&result, "/runs/0/connections/accepted");
    assert_eq!(accepted, CLIENTS as f64);
    drop(came);
}

#[test]
fn the_report_is_one_file_that_needs_no_network() {
    let nodes = Nodes::serve(1);
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("report.html");
    let path = path.to_str().expect("UTF-8");
    let common = ["echo", "-c", "10", "-d", "0.3", "-t", nodes.address()];
    let secret = ["-u", "user <b>", "-P", "hunter2"];
    let result = result(&[&common[..], &secret, &["--report", path]].concat());
    assert!(!result.to_string().contains("hunter2"));
    let page = fs::read_to_string(path).expect("a page");
    for part in [
        "Latency at percentiles",
        "Messages per second",
        "p99 over time",
        "Connections per node",
        "node1",
        "<table",
        "prefers-color-scheme:dark",
        ">date<",
        ">host<",
        "remora 0.",
        "bench echo -c 10",
        "closed loop, 1 in flight per client",
        "user &lt;b&gt;",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<pre") && !page.contains("hunter2") && !page.contains("<b>"));
    assert_eq!(page.matches("<svg").count(), 4);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    for outside in [
        "http:", "https:", "src=", "href=", "url(", "@import", "<script", "NaN", "inf",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn results_are_compared_over_several_runs() {
    let nodes = Nodes::serve(1);
    let directory = TempDir::new().expect("a directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let echo = ["echo", "-c", "5", "-d", "0.1", "-t", nodes.address()];
    for (name, more) in [
        ("a.json", &["--runs", "4"][..]),
        ("b1.json", &["--runs", "2"]),
        ("b2.json", &["--runs", "2", "-s", "64"]),
    ] {
        let result = result(&[&echo[..], more].concat());
        fs::write(path(name), result.to_string()).expect("a file");
    }
    let compare = |a: &str, b: &str| {
        let compared = output(&["--compare", a, b]);
        assert_eq!(compared.status.code(), Some(0));
        text(&compared.stdout).to_owned()
    };
    // Two files on one side.
    let both = format!("{},{}", path("b1.json"), path("b2.json"));
    let compared = compare(&path("a.json"), &both);
    for words in [
        "a.json; 20",
        "b1.json, ",
        "b2.json; 20",
        "\necho\n",
        "A: 4 runs",
        "B: 4 runs",
        "messages a second",
        "latency p99",
        "do not overlap",
    ] {
        assert!(compared.contains(words), "{words} in {compared}");
    }
    // What is compared with itself has a median and a range, and does not differ.
    let compared = compare(&path("a.json"), &path("a.json"));
    let line = compared
        .lines()
        .find(|line| line.contains("messages a second"))
        .expect("a line");
    assert!(line.ends_with("  same"), "{line}");
    let differs = |line: &str| line.ends_with("worse") || line.ends_with("better");
    assert!(!compared.lines().any(differs), "{compared}");
    let compared = compare(&path("b1.json"), &path("b2.json"));
    assert!(compared.contains("payload is 100 B in A, 64 B in B"), "{compared}");
    assert!(compared.contains("No verdict with fewer than 4 runs"), "{compared}");

    fs::write(path("c.json"), "{}").expect("a file");
    for wrong in ["c.json", "absent.json"] {
        let compared = output(&["--compare", &path("a.json"), &path(wrong)]);
        assert_eq!(compared.status.code(), Some(64));
        let said = text(&compared.stderr);
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(wrong), "{said}");
    }
}

#[test]
fn several_runs_are_printed_as_medians_with_ranges() {
    let nodes = Nodes::serve(1);
    let output = output(&[
        "echo",
        "-c",
        "5",
        "-d",
        "0.1",
        "--warm-up",
        "0",
        "--runs",
        "3",
        "-t",
        nodes.address(),
    ]);
    assert_eq!(output.status.code(), Some(0));
    let screen = text(&output.stdout);
    for words in [
        "echo: 3 runs against",
        "median",
        "range",
        "messages a second",
        "latency p99",
        "errors",
    ] {
        assert!(screen.contains(words), "{words} in {screen}");
    }
}

#[test]
fn latency_from_send_is_shown_only_where_it_differs() {
    let nodes = Nodes::serve(1);
    let screen = |arguments: &[&str]| {
        let common = ["echo", "-d", "0.3", "--warm-up", "0", "-t", nodes.address()];
        text(&output(&[&common[..], arguments].concat()).stdout).to_owned()
    };
    // In a closed loop, each message is due when it is sent.
    let closed = screen(&["-c", "5"]);
    assert!(
        closed.contains("latency    p50") && !closed.contains("from send"),
        "{closed}"
    );
    // One at a time at a rate that is out of reach: each message waits for the one before.
    let behind = screen(&["-c", "1", "-r", "200000", "-w", "1"]);
    assert!(behind.contains("from send  p50"), "{behind}");
}

#[test]
fn wrong_options_are_bad_usage() {
    for (arguments, says) in [
        (&["echo", "-t", "192.0.2.1:1883"][..], "--i-own-this-target"),
        (&["echo", "-t", "127.0.0.1:0"], "port 0"),
        (&["echo", "-t", "127.0.0.1:99999"], "no such HOST:PORT"),
        (&["echo", "--size", "3"], "--size 3"),
        (&["echo", "--topic", "a/#"], "--topic"),
        (&["echo", "--subscribers", "3"], "--subscribers"),
        (&["echo", "--ifaddr", "::1"], "--ifaddr"),
        (&["echo", "-V", "4", "-P", "secret"], "--password"),
        (&["connect", "-R", "0.0001"], "longer than a day"),
        (&["echo", "--report", "/"], "--report /"),
        (&["echo", "-t", "wss://127.0.0.1:1"], "--cafile FILE"),
        (&["echo", "-t", "ws://127.0.0.1:1", "--tls"], "--tls"),
        (&["echo", "-t", "mqtts://127.0.0.1:1", "--ws"], "--ws"),
        (&["echo", "--insecure"], "add --tls"),
        (&["echo", "--resume"], "add --tls"),
        (&["echo", "--tls", "--cafile", "/"], "--cafile /"),
        (&["echo", "--tls", "--cafile", "a", "--insecure"], "--insecure"),
        (&["echo", "--tls", "--insecure", "--cert", "/"], "--key /"),
        (&["echo", "--tls", "--insecure", "--key", "/"], "--cert"),
        (&["echo", "--tls", "--insecure", "--ciphers", "NULL"], "--ciphers NULL"),
        (&["echo", "--tls", "--tls-version", "1.1"], "1.1"),
        (&["echo", "-t", "http://127.0.0.1:1"], "ws://"),
        (&["echo", "-t", "mqtt://127.0.0.1:1", "--ws"], "--ws"),
        (&["echo", "-t", "127.0.0.1:1/mqtt"], "no such HOST:PORT"),
        (&["echo", "--path", "/mqtt"], "add --ws"),
        (&["echo", "--ws", "--path", "mqtt"], "--path"),
        (&["echo", "--ws", "--path", "/a b"], "--path"),
        (&["echo", "-t", "ws://[::1]:1/a", "--path", "/b"], "--path"),
        (&["reconnect", "--roam"], "--ifaddr"),
        (&["echo", "--roam", "--ifaddr", "127.0.0.0/8"], "--roam"),
        (&["dance"], "'dance'"),
        (&["echo", "--qos", "2"], "2"),
        (&["echo", "--duration", "long"], "not a duration"),
        (&["echo", "--clients", "0"], "0"),
        (&["--stall-every", "10"], "--serve"),
    ] {
        let output = output(arguments);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
        let said = text(&output.stderr);
        let first = said.lines().next().unwrap_or_default();
        let line = if first.ends_with(':') { said } else { first };
        assert!(line.contains(says), "{arguments:?}: {said}");
    }
}
