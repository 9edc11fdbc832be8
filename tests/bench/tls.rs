//! The load tester over TLS, against a balancer whose TLS ends at its door, and against what is no good TLS.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use remora::net::tls::throwaway::{Authority, Pair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use serde_json::Value;
use tempfile::TempDir;

use super::{Nodes, all_were_cut_off, bench, errors, every_workload, number, output, result, text};

/// A balancer with TLS before a served node; all of it ends with the value.
struct Balancer {
    process: Child,
    /// Where MQTT is, and where WebSocket.
    targets: [String; 2],
    files: Files,
    nodes: Nodes,
}

/// Certificates in a folder of their own.
struct Files(TempDir);

impl Files {
    /// An authority's certificate, one of it for a server and one for a client; and an authority that is another.
    fn new() -> Self {
        let files = Self(tempfile::tempdir().expect("a folder"));
        let authority = Authority::new().expect("an authority");
        let other = Authority::new().expect("an authority");
        let pem = |Pair { chain, key }| chain + &key;
        let server = authority.server(&["localhost", "127.0.0.1"]);
        for (name, text) in [
            ("ca", authority.pem()),
            ("other", other.pem()),
            ("server", pem(server.expect("a pair"))),
            ("client", pem(authority.client("client").expect("a pair"))),
            ("stranger", pem(other.client("stranger").expect("a pair"))),
        ] {
            fs::write(files.path(name), text).expect("written");
        }
        files
    }

    fn path(&self, name: &str) -> String {
        let path = self.0.path().join(name).with_extension("pem");
        path.to_str().expect("UTF-8").to_owned()
    }
}

impl Balancer {
    fn start() -> Self {
        Self::with("")
    }

    /// With more lines for its listeners; `FILES` in them is the folder of the certificates.
    fn with(lines: &str) -> Self {
        let files = Files::new();
        let nodes = Nodes::serve(1);
        let lines = lines.replace("FILES", &files.0.path().display().to_string());
        let listener = format!(
            "[[listeners]]\naddress = \"127.0.0.1:0\"\ntls = \"end\"\n\
             certificates = [{{ chain = {:?} }}]\n{lines}\n",
            files.path("server")
        );
        let node = nodes.address();
        let text = format!(
            "workers = 1\n{listener}{listener}transport = \"ws\"\n\
             [[nodes]]\nname = \"node1\"\naddress = \"{node}\"\nws = \"{node}\"\n\
             [admin]\nenabled = false\n"
        );
        let config = files.0.path().join("remora.toml");
        fs::write(&config, text).expect("written");
        let mut process = Command::new(env!("CARGO_BIN_EXE_remora"))
            .args([Path::new("run"), Path::new("-c"), &config])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut lines = stdout.lines().map(|line| line.expect("text"));
        let line = lines.find(|line| line.contains("listening addresses="));
        let line = line.expect("where it listens");
        let (_, line) = line.split_once("addresses=").expect("addresses");
        let addresses = line.split(' ').next().unwrap_or_default();
        let (mqtt, ws) = addresses.split_once(',').expect("two of them");
        let targets = [format!("mqtts://{mqtt}"), format!("wss://{ws}/mqtt")];
        // What it logs must find its way.
        thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            targets,
            files,
            nodes,
        }
    }

    /// Seven clients that connect and leave, with these options.
    fn seven(&self, options: &[&str]) -> Seven {
        seven(&[&["-t", &self.targets[0]], options].concat())
    }

    fn stop(&mut self) {
        // It may have been ended by its test.
        let _ = self.process.kill();
        self.process.wait().expect("an end");
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What became of seven clients.
struct Seven {
    errors: Vec<(String, u64)>,
    result: Value,
}

fn seven(target: &[&str]) -> Seven {
    let common = ["connect", "-c", "7", "--json", "--connect-timeout", "5"];
    let output = output(&[&common[..], target].concat());
    assert_eq!(text(&output.stderr), "", "{target:?}");
    let errors = errors(&output);
    let is_fine = errors.is_empty();
    assert_eq!(output.status.code(), Some(i32::from(!is_fine)), "{target:?}");
    let result = serde_json::from_slice(&output.stdout).expect("JSON");
    Seven { errors, result }
}

impl Seven {
    fn all_failed_as(&self, kind: &str) {
        assert_eq!(self.errors, [(kind.to_owned(), 7)], "{}", self.result);
    }

    /// Why, as the first of them heard.
    fn problem(&self) -> &str {
        let problem = self.result.pointer("/runs/0/tls/problem");
        problem.and_then(Value::as_str).unwrap_or_default()
    }
}

#[test]
fn every_workload_works_with_tls() {
    let balancer = Balancer::start();
    let authority = balancer.files.path("ca");
    every_workload(&["-t", &balancer.targets[0], "--cafile", &authority]);
}

#[test]
fn every_workload_works_over_websocket_with_tls() {
    let balancer = Balancer::start();
    let authority = balancer.files.path("ca");
    every_workload(&["-t", &balancer.targets[1], "--cafile", &authority]);
}

#[test]
fn handshakes_are_counted_with_what_was_agreed_on() {
    let balancer = Balancer::start();
    let authority = balancer.files.path("ca");
    let common = ["connect", "-c", "20", "--at-once", "1"];
    let tls13 = "TLSv1.3 TLS_AES_128_GCM_SHA256 X25519";
    let aes = ["--ciphers", "TLS_AES_128_GCM_SHA256"];
    let groups = ["--keyex-groups", "X25519"];
    for target in &balancer.targets {
        let target = ["-t", target, "--cafile", &authority];
        for (options, full, resumed, agreed) in [
            (vec!["--tls-version", "1.3"], 20, 0, tls13),
            (vec!["--tls-version", "1.3", "--resume"], 1, 19, tls13),
        ] {
            let arguments = [&common[..], &target, &aes, &groups, &options].concat();
            let result = result(&arguments);
            let count = |key: &str| number(&result, &format!("/runs/0/tls/{key}"));
            assert_eq!(count("full"), f64::from(full), "{options:?}");
            assert_eq!(count("resumed"), f64::from(resumed), "{options:?}");
            assert_eq!(count(&format!("agreed/{agreed}")), 20.0, "{options:?}");
            // Both are counted from the dial, and one comes behind the other.
            let connack = number(&result, "/runs/0/connections/connack_us/p50");
            assert!(count("handshake_us/p50") > 0.0, "{options:?}");
            assert!(count("handshake_us/p50") <= connack, "{options:?}");
        }
        let options = ["--tls-version", "1.2", "--resume"];
        let result = result(&[&common[..], &target, &options].concat());
        let count = |key: &str| number(&result, &format!("/runs/0/tls/{key}"));
        assert_eq!((count("full"), count("resumed")), (1.0, 19.0));
        let agreed = result.pointer("/runs/0/tls/agreed");
        let agreed = agreed.and_then(Value::as_object).expect("what was agreed");
        assert!(agreed.keys().all(|words| words.starts_with("TLSv1.2 ")));
    }
}

#[test]
fn clients_that_return_go_on_with_their_sessions() {
    let balancer = Balancer::start();
    let result = result(&[
        "reconnect",
        "-c",
        "30",
        "--cuts",
        "2",
        "--resume",
        "--insecure",
        "-t",
        &balancer.targets[0],
    ]);
    let count = |key: &str| number(&result, &format!("/runs/0/tls/{key}"));
    assert_eq!((count("full"), count("resumed")), (30.0, 60.0));
}

#[test]
fn the_screen_tells_of_handshakes() {
    let balancer = Balancer::start();
    let authority = balancer.files.path("ca");
    let arguments = ["connect", "-c", "5", "--tls-version", "1.3"];
    let target = ["-t", &balancer.targets[1], "--cafile", &authority];
    let shown = output(&[&arguments[..], &target].concat());
    assert_eq!(shown.status.code(), Some(0));
    let screen = text(&shown.stdout);
    for words in ["against wss://", "5 full, 0 resumed; TLSv1.3", "TLS        p50"] {
        assert!(screen.contains(words), "{words} in:\n{screen}");
    }
    let stranger = ["-t", &balancer.targets[1], "--cafile", &balancer.files.path("other")];
    let shown = output(&[&["connect", "-c", "5"], &stranger[..]].concat());
    let screen = text(&shown.stdout);
    assert!(screen.contains("not_trusted: 5"), "{screen}");
    assert!(screen.contains("invalid peer certificate"), "{screen}");
}

#[test]
fn a_certificate_that_is_not_trusted_is_a_kind_of_its_own() {
    let balancer = Balancer::start();
    let (authority, other) = (balancer.files.path("ca"), balancer.files.path("other"));
    assert_eq!(balancer.seven(&["--cafile", &authority]).errors, []);

    let distrusting = balancer.seven(&["--cafile", &other]);
    distrusting.all_failed_as("not_trusted");
    let problem = distrusting.problem();
    assert!(problem.contains("invalid peer certificate"), "{problem}");

    let elsewhere = ["--cafile", &authority, "--server-name", "broker.example"];
    let elsewhere = balancer.seven(&elsewhere);
    elsewhere.all_failed_as("not_trusted");
    let problem = elsewhere.problem();
    assert!(problem.contains("not valid for name"), "{problem}");

    let named = ["--cafile", &authority, "--server-name", "localhost"];
    assert_eq!(balancer.seven(&named).errors, []);
    assert_eq!(balancer.seven(&["--insecure"]).errors, []);
}

#[test]
fn clients_show_their_certificate() {
    let balancer = Balancer::with("client_certificates = \"required\"\nclient_ca = \"FILES/ca.pem\"");
    let authority = balancer.files.path("ca");
    let target = ["--cafile", &authority];
    let with = |name: &str, version: &str| {
        let certificate = balancer.files.path(name);
        let options = ["--cert", &certificate, "--tls-version", version];
        balancer.seven(&[&target[..], &options].concat())
    };
    for version in ["1.2", "1.3"] {
        assert_eq!(with("client", version).errors, [], "{version}");
        let stranger = with("stranger", version);
        stranger.all_failed_as("tls_failed");
        assert!(stranger.problem().contains("alert"), "{}", stranger.problem());
        let nobody = balancer.seven(&[&target[..], &["--tls-version", version]].concat());
        nobody.all_failed_as("tls_failed");
        assert!(nobody.problem().contains("alert"), "{}", nobody.problem());
    }
}

#[test]
fn a_version_that_the_target_does_not_speak_fails() {
    let balancer = Balancer::with("tls_min = \"1.3\"");
    let old = balancer.seven(&["--insecure", "--tls-version", "1.2"]);
    old.all_failed_as("tls_failed");
    assert!(old.problem().contains("ProtocolVersion"), "{}", old.problem());
}

#[test]
fn tls_and_no_tls_do_not_understand_each_other() {
    let nodes = Nodes::serve(1);
    let plain = seven(&["--tls", "--insecure", "-t", nodes.address()]);
    let failed: u64 = plain.errors.iter().map(|(_, count)| count).sum();
    assert_eq!(failed, 7, "{:?}", plain.errors);
    // How the node says no to a ClientHello is its own business.
    let known = |kind: &str| ["closed", "reset"].contains(&kind);
    let errors = &plain.errors;
    assert!(errors.iter().all(|(kind, _)| known(kind)), "{errors:?}");

    let balancer = Balancer::start();
    for (target, option) in balancer.targets.iter().zip([&[][..], &["--ws"]]) {
        let (_, address) = target.split_once("://").expect("a scheme");
        let address = address.trim_end_matches("/mqtt");
        let failed = seven(&[&["-t", address], option].concat()).errors;
        let count: u64 = failed.iter().map(|(_, count)| count).sum();
        assert_eq!(count, 7, "{failed:?}");
    }
}

/// Takes each client and does this to it, once its ClientHello is there, for as long as the test runs.
fn fake(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(client));
        }
    });
    format!("mqtts://{address}")
}

/// The first flight of a server, in answer to a client's.
fn first_flight(client: &mut TcpStream, config: &Arc<ServerConfig>) -> Vec<u8> {
    let mut connection = ServerConnection::new(Arc::clone(config)).expect("a server");
    let mut flight = Vec::new();
    while !connection.wants_write() {
        connection.read_tls(client).expect("a ClientHello");
        connection.process_new_packets().expect("a ClientHello");
    }
    while connection.wants_write() {
        connection.write_tls(&mut flight).expect("a flight");
    }
    flight
}

/// Waits for the client to go.
fn outlast(mut client: TcpStream) {
    while client.read(&mut [0; 1024]).is_ok_and(|count| count > 0) {}
}

#[test]
fn a_handshake_that_stalls_or_breaks_is_counted_by_kind_and_in_time() {
    let files = Files::new();
    let pem = fs::read(files.path("server")).expect("a file");
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>();
    let key = PrivateKeyDer::from_pem_slice(&pem).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain.expect("a chain"), key)
        .expect("a certificate");
    let config = Arc::new(config);
    let half = {
        let config = Arc::clone(&config);
        move |client: &mut TcpStream| {
            let flight = first_flight(client, &config);
            // Byte by byte, as a hostile network may; never all of it.
            for byte in &flight[..flight.len() / 2] {
                client.write_all(&[*byte]).expect("sent");
            }
        }
    };
    let stalls = {
        let half = half.clone();
        move |mut client: TcpStream| {
            half(&mut client);
            outlast(client);
        }
    };
    let closes = move |mut client: TcpStream| {
        half(&mut client);
        // A close would be a reset, were there something to read.
        client.shutdown(Shutdown::Write).expect("a connection");
        outlast(client);
    };
    let forges = move |mut client: TcpStream| {
        let mut flight = first_flight(&mut client, &config);
        // The first record is the ServerHello; what follows is sealed.
        *flight.last_mut().expect("a byte") ^= 1;
        client.write_all(&flight).expect("sent");
        outlast(client);
    };
    let says = |words: &'static [u8]| {
        move |mut client: TcpStream| {
            assert!(client.read(&mut [0; 1024]).expect("a ClientHello") > 0);
            client.write_all(words).expect("sent");
            outlast(client);
        }
    };
    let options = ["--insecure", "--tls-version", "1.3", "--connect-timeout", "1"];
    for (target, kind) in [
        (fake(outlast), "timeout"),
        (fake(stalls), "timeout"),
        (fake(closes), "closed"),
        (fake(forges), "tls_failed"),
        (fake(says(b"HTTP/1.1 400 Bad Request\r\n\r\n")), "tls_failed"),
        // A CONNACK; and the alert for a name that nobody has.
        (fake(says(&[0x20, 2, 0, 0])), "tls_failed"),
        (fake(says(&[0x15, 3, 3, 0, 2, 2, 112])), "tls_failed"),
    ] {
        let arguments = ["connect", "-c", "7", "--json", "-t", &target];
        let failed = output(&[&arguments[..], &options].concat());
        assert_eq!(failed.status.code(), Some(1), "{kind}");
        assert_eq!(errors(&failed), [(kind.to_owned(), 7)]);
    }
}

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs::default_provider as provider;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring::default_provider as provider;

#[test]
fn a_target_with_tls_that_dies_ends_the_run() {
    for place in 0..2 {
        let mut balancer = Balancer::start();
        let arguments = ["echo", "-c", "40", "-d", "10m", "--json", "--insecure"];
        let bench = bench()
            .args(arguments)
            .args(["-t", &balancer.targets[place]])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program runs");
        // The node sees a client only once its handshake is over.
        balancer.nodes.wait_for(40);
        balancer.stop();
        let output = bench.wait_with_output().expect("an end");
        all_were_cut_off(&output, 40);
    }
}

#[test]
fn an_idle_client_with_tls_costs_what_rustls_keeps() {
    let balancer = Balancer::start();
    let resident = |clients: &str| {
        let arguments = ["idle", "-c", clients, "-d", "0.1", "--insecure", "--reset"];
        let result = result(&[&arguments[..], &["-t", &balancer.targets[0]]].concat());
        let rss = |moment| number(&result, &format!("/runs/0/processes/0/rss_bytes/{moment}"));
        rss(1) - rss(0)
    };
    // Without what the first of them loads of the program: 4 KiB to read into, keys, and the certificate.
    let each = (resident("2500") - resident("500")) / 2_000.0;
    assert!(each > 4_096.0 && each <= 10_240.0, "{each} bytes");
}
