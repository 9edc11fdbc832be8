//! The control API on the admin socket, asked with HTTP by hand and by `remora ctl`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::admin_client::{ask, ask_socket, get, raw};
use crate::balancer::{ADMIN, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::Connect;

/// What `ctl` says of this program.
pub(crate) fn ctl(program: &Program, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.arg("ctl").arg("--socket").arg(program.socket()).args(arguments);
    command.output().expect("the program")
}

/// What `ctl` prints of this program.
#[track_caller]
fn said(program: &Program, arguments: &[&str]) -> String {
    let output = ctl(program, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What `ctl --json` prints of this program.
#[track_caller]
fn json_of(program: &Program, arguments: &[&str]) -> Value {
    serde_json::from_str(&said(program, &[arguments, &["--json"]].concat())).expect("JSON")
}

/// The JSON that the socket answers.
#[track_caller]
fn asked(program: &Program, method: &str, path: &str, body: &str) -> (u16, Value) {
    let response = ask_socket(program.socket(), method, path, body);
    let value = serde_json::from_str(&response.body);
    (response.status, value.unwrap_or_else(|_| panic!("{response:?}")))
}

#[test]
fn the_socket_shows_the_process_and_its_nodes_in_the_words_of_the_log() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let _client = Client::accepted(program.address, &Connect::new(cluster.id_at_home(1, "shown")));
    let (status, process) = asked(&program, "GET", "/api/v1/status", "");
    assert_eq!(status, 200);
    assert_eq!(process["pid"], program.process());
    assert_eq!(process["configuration"], program.path().to_str().expect("UTF-8"));
    assert_eq!(process["is_ready"], true);
    assert_eq!(process["connections"], 1);
    assert_eq!(process["nodes_up"], json!(["node0", "node1"]));
    let (status, nodes) = asked(&program, "GET", "/api/v1/nodes", "");
    assert_eq!(status, 200);
    let expected = |node: &str, connections: u32| {
        json!({
            "node": node, "weight": 100, "configured_weight": 100, "is_draining": false, "is_removed": false,
            "connections": connections, "endpoints": [{ "endpoint": "mqtt", "state": "up" }],
        })
    };
    assert_eq!(nodes["nodes"], json!([expected("node0", 0), expected("node1", 1)]));
    assert_eq!(
        asked(&program, "GET", "/api/v1/nodes/node1", ""),
        (200, expected("node1", 1))
    );
    // The same by the command, as text and as JSON.
    assert_eq!(json_of(&program, &["nodes"]), nodes);
    assert_eq!(json_of(&program, &["status"])["pid"], program.process());
    let table = said(&program, &["nodes"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[2], ["node1", "up", "100", "1"], "{table}");
    assert!(said(&program, &["status"]).contains("nodes up          node0, node1"));
}

#[test]
fn a_wish_is_carried_out_shown_as_a_difference_and_logged_with_its_author() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let (status, node) = asked(&program, "POST", "/api/v1/nodes/node0/drain", "");
    assert_eq!((status, &node["is_draining"]), (200, &json!(true)));
    let id = cluster.id_at_home(0, "elsewhere");
    let _client = Client::accepted(program.address, &Connect::new(id.clone()));
    assert_eq!(cluster.holder(&Connect::new(id).bytes()).0, 1);
    said(&program, &["weight", "node1", "7"]);
    // It outlives a reload of the file, which still says otherwise.
    program.reload(&toml(&cluster, "", ADMIN));
    let nodes = json_of(&program, &["nodes"]);
    assert_eq!(nodes["nodes"][0]["is_draining"], true);
    assert_eq!(
        (&nodes["nodes"][1]["weight"], &nodes["nodes"][1]["configured_weight"]),
        (&json!(7), &json!(100))
    );
    assert!(said(&program, &["nodes", "node1"]).contains("7 (file: 100)"));
    said(&program, &["undrain", "node0"]);
    said(&program, &["weight", "node1", "reset"]);
    let nodes = json_of(&program, &["nodes"]);
    assert_eq!(nodes["nodes"][0]["is_draining"], false);
    assert_eq!(nodes["nodes"][1]["weight"], 100);
    let lines = program.lines(|line| line["message"] == "changed by the control API");
    let changes: Vec<_> = lines
        .iter()
        .map(|line| (line["change"].as_str(), line["node"].as_str()))
        .collect();
    let expected = [
        ("drain", "node0"),
        ("weight", "node1"),
        ("undrain", "node0"),
        ("weight", "node1"),
    ];
    assert_eq!(changes, expected.map(|(change, node)| (Some(change), Some(node))));
    let uid = rustix::process::geteuid().as_raw();
    let by = lines[0]["by"].as_str().expect("an author");
    assert_eq!(by, format!("uid {uid}, pid {}", std::process::id()));
}

#[test]
fn what_cannot_be_done_is_refused_with_what_would_do() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    for (method, path, body, expected, words) in [
        (
            "GET",
            "/api/v1/nodes/nobody",
            "",
            404,
            "there is no node nobody; there are node0",
        ),
        ("POST", "/api/v1/nodes/nobody/drain", "", 404, "there is no node nobody"),
        (
            "GET",
            "/api/v1/nothing",
            "",
            404,
            "/api/v1/openapi.json lists all paths",
        ),
        ("GET", "/api", "", 404, "/api/v1/openapi.json"),
        ("GET", "/api/v1/nodes/node0/drain", "", 405, "takes POST"),
        ("PUT", "/api/v1/nodes/node0/drain", "", 405, "takes POST"),
        ("POST", "/api/v1/nodes", "", 405, "takes GET, HEAD"),
        ("POST", "/api/v1/nodes/node0/weight", "", 400, "the body is not"),
        (
            "POST",
            "/api/v1/nodes/node0/weight",
            "{}",
            400,
            "missing field `weight`",
        ),
        ("POST", "/api/v1/nodes/node0/weight", "{\"weight\":0}", 400, "1 to 1000"),
        (
            "POST",
            "/api/v1/nodes/node0/weight",
            "{\"weight\":70000}",
            400,
            "the body is not",
        ),
        (
            "POST",
            "/api/v1/nodes/node0/weight",
            "{\"weight\":5,\"wait\":1}",
            400,
            "unknown field `wait`",
        ),
    ] {
        let (status, refused) = asked(&program, method, path, body);
        let error = refused["error"].as_str().expect("an error");
        assert!(
            status == expected && error.contains(words),
            "{method} {path} {body}: {status} {error}"
        );
    }
    let get = ask_socket(program.socket(), "GET", "/api/v1/nodes/node0/drain", "");
    assert!(get.head.contains("allow: post"), "{get:?}");
    let failed = ctl(&program, &["drain", "nobody"]);
    assert_eq!(failed.status.code(), Some(1));
    let error = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(error, "remora: there is no node nobody; there are node0\n");
    assert_eq!(ctl(&program, &["weight", "node0", "much"]).status.code(), Some(64));
    let large = ask_socket(
        program.socket(),
        "POST",
        "/api/v1/nodes/node0/weight",
        &"x".repeat(1 << 20),
    );
    assert_eq!(large.status, 413, "{large:?}");
    // Nothing of this is on TCP.
    assert_eq!(get_status(&program, "/api/v1/nodes"), 403);
    assert_eq!(get_status(&program, "/livez"), 200);
}

fn get_status(program: &Program, path: &str) -> u16 {
    get(program.admin(), path).status
}

/// Two tokens, one for each scope, in files of this folder.
fn tokens(folder: &TempDir) -> String {
    let file = |name: &str, secret: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("{secret}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        path.display().to_string()
    };
    format!(
        "{ADMIN}tokens = [{{ name = \"reader\", file = \"{}\", scope = \"read\" }}, \
         {{ name = \"writer\", file = \"{}\", scope = \"write\" }}]\n",
        file("reader", READER),
        file("writer", WRITER),
    )
}

const READER: &str = "reads-0123456789abcdef";
const WRITER: &str = "writes-0123456789abcdef";

/// The cases of a hostile or mistaken caller on TCP, each with the answer.
#[test]
fn on_tcp_a_token_says_what_may_be_done_and_nothing_else_does() {
    let cluster = Cluster::of(1);
    let folder = TempDir::new().expect("a folder");
    let tables = tokens(&folder);
    let program = Program::start(&cluster, &tables);
    let admin = program.admin();
    let (reader, writer) = (
        format!("Authorization: Bearer {READER}\r\n"),
        format!("Authorization: Bearer {WRITER}\r\n"),
    );
    let (nodes, drain) = ("/api/v1/nodes", "/api/v1/nodes/node0/drain");
    let foreign = "Origin: http://evil.example\r\n";
    let cases: &[(&str, &str, String, u16)] = &[
        // Without a token, or with one that is none.
        ("GET", nodes, String::new(), 401),
        ("POST", drain, String::new(), 401),
        (
            "GET",
            nodes,
            "Authorization: Bearer wrong-0123456789abcdef\r\n".to_owned(),
            401,
        ),
        ("POST", drain, format!("Authorization: Basic {WRITER}\r\n"), 401),
        ("GET", "/api/v1/nodes?token=writes-0123456789abcdef", String::new(), 401),
        // It does not say what there is, either.
        ("GET", "/api/v1/nothing", String::new(), 401),
        // One that may only read.
        ("GET", nodes, reader.clone(), 200),
        ("POST", drain, reader.clone(), 403),
        // A change is a POST, whoever asks.
        ("GET", drain, writer.clone(), 405),
        ("HEAD", drain, writer.clone(), 405),
        ("PUT", drain, writer.clone(), 405),
        ("DELETE", nodes, writer.clone(), 405),
        // From a web page, with or without the token of an operator.
        ("POST", drain, foreign.to_owned(), 403),
        ("POST", drain, format!("{foreign}{writer}"), 403),
        ("GET", nodes, format!("{foreign}{reader}"), 403),
        ("POST", drain, format!("Origin: null\r\n{writer}"), 403),
        // By a name that was bound to this address (DNS rebinding).
        ("POST", drain, format!("Host: evil.example\r\n{writer}"), 421),
        // A body that is too large.
        (
            "POST",
            "/api/v1/nodes/node0/weight",
            format!("{writer}Content-Length: 1048576\r\n"),
            413,
        ),
    ];
    for (method, path, headers, expected) in cases {
        let response = ask(admin, method, path, headers);
        assert_eq!(response.status, *expected, "{method} {path} {headers}: {response:?}");
        assert!(!response.body.contains("0123456789abcdef"), "{response:?}");
    }
    let rebound = raw(
        admin,
        &format!("POST {drain} HTTP/1.1\r\nHost: evil.example\r\n{writer}Content-Length: 0\r\n\r\n"),
    );
    assert!(rebound.starts_with("HTTP/1.1 421 "), "{rebound}");
    let unauthorized = ask(admin, "GET", nodes, "");
    assert!(
        unauthorized.head.contains("www-authenticate: bearer"),
        "{unauthorized:?}"
    );
    // None of these has changed anything.
    assert_eq!(json_of(&program, &["nodes"])["nodes"][0]["is_draining"], false);
    for open in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get_status(&program, open), 200, "{open}");
    }
    assert_eq!(ask(admin, "POST", drain, &writer).status, 200);
    assert_eq!(json_of(&program, &["nodes"])["nodes"][0]["is_draining"], true);
    let lines = program.lines(|line| line["message"] == "changed by the control API");
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["by"], "token writer");
    assert!(
        program
            .lines(|line| line.to_string().contains("0123456789abcdef"))
            .is_empty(),
        "no secret is logged"
    );
}

#[test]
fn a_reload_reads_the_files_of_tokens_again() {
    let cluster = Cluster::of(1);
    let folder = TempDir::new().expect("a folder");
    let tables = tokens(&folder);
    let program = Program::start(&cluster, &tables);
    let status = |secret: &str| {
        let header = format!("Authorization: Bearer {secret}\r\n");
        ask(program.admin(), "GET", "/api/v1/status", &header).status
    };
    assert_eq!((status(READER), status("new-0123456789abcdef")), (200, 401));
    fs::write(folder.path().join("reader"), "new-0123456789abcdef").expect("written");
    program.reload(&toml(&cluster, "", &tables));
    assert_eq!((status(READER), status("new-0123456789abcdef")), (401, 200));
    // An empty file is refused, and the old token stays.
    fs::write(folder.path().join("reader"), "\n").expect("written");
    program.reload_in_vain(&toml(&cluster, "", &tables));
    assert_eq!((status("new-0123456789abcdef"), status("")), (200, 401));
    // Without any, the API is on the socket only.
    program.reload(&toml(&cluster, "", ADMIN));
    assert_eq!(status(WRITER), 403);
    assert_eq!(asked(&program, "GET", "/api/v1/status", "").0, 200);
    let unasked = program.lines(|line| {
        line["message"]
            .as_str()
            .is_some_and(|text| text.contains("needs a restart"))
    });
    assert!(unasked.is_empty(), "{unasked:?}");
}

#[test]
fn the_admin_listener_is_at_each_of_its_addresses() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "[admin]\naddress = [\"127.0.0.1:0\", \"127.0.0.2:0\"]\n");
    let line = &program.lines(|line| line["message"] == "listening")[0];
    let addresses = line["admin"].as_str().expect("addresses").split(", ");
    let addresses: Vec<SocketAddr> = addresses.map(|address| address.parse().expect("an address")).collect();
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        assert_eq!(get(address, "/livez").status, 200, "{address}");
    }
    // None of it is for everybody.
    let open = Program::start(&cluster, "[admin]\naddress = \"0.0.0.0:0\"\n");
    open.until_said("no token in [admin]");
    let address = SocketAddr::from(([127, 0, 0, 1], open.admin().port()));
    assert_eq!(
        (get(address, "/metrics").status, get(address, "/api/v1/status").status),
        (200, 403)
    );
}

#[test]
fn the_socket_is_for_its_user_and_group_and_is_removed_at_the_end() {
    let cluster = Cluster::of(1);
    let mut program = Program::start(&cluster, ADMIN);
    let path = program.socket().to_owned();
    let file = fs::metadata(&path).expect("a socket");
    assert!(file.file_type().is_socket());
    assert_eq!(file.mode() & 0o777, 0o660);
    for page in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(ask_socket(&path, "GET", page, "").status, 200);
    }
    program.signal(Signal::TERM);
    assert_eq!(program.exit_code(), Some(0));
    assert!(!path.exists());
    let gone = ctl(&program, &["status"]);
    assert_eq!(gone.status.code(), Some(1));
    let error = String::from_utf8_lossy(&gone.stderr);
    assert!(
        error.contains(&format!("no process at {}: not there", path.display())),
        "{error}"
    );
}

#[test]
fn a_configured_socket_is_found_by_its_file_and_one_in_use_refused_with_its_process() {
    let cluster = Cluster::of(1);
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("remora.sock");
    let tables = format!("{ADMIN}socket = \"{}\"\n", socket.display());
    // As a process leaves it that was killed.
    drop(UnixListener::bind(&socket).expect("free"));
    let program = Program::start(&cluster, &tables);
    assert_eq!(program.socket(), socket);
    let by_file = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.args(["ctl", "-c"]).arg(program.path()).args(arguments);
        command.output().expect("the program")
    };
    let status = by_file(&["status", "--json"]);
    assert_eq!(status.status.code(), Some(0), "{status:?}");
    let status: Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(status["pid"], program.process());

    let second = folder.path().join("second.toml");
    fs::write(&second, toml(&cluster, "", &tables)).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    let refused = command.args(["run", "-c"]).arg(&second).output().expect("the program");
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr);
    let expected = format!("{} is in use by process {}", socket.display(), program.process());
    assert!(error.contains(&expected), "{error}");
    assert_eq!(by_file(&["status"]).status.code(), Some(0), "it was not taken away");
}

#[test]
fn without_an_admin_listener_there_is_no_socket_either() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, "[admin]\nenabled = false\n");
    assert_eq!(program.socket, None);
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    let asked = command
        .args(["ctl", "-c"])
        .arg(program.path())
        .arg("status")
        .output()
        .expect("the program");
    assert_eq!(asked.status.code(), Some(1));
    let error = String::from_utf8_lossy(&asked.stderr);
    assert!(error.contains("has no admin socket (admin.enabled = false)"), "{error}");
}
