//! The control API on the admin socket, asked with HTTP by hand and by `remora ctl`.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::admin_client::{ask, ask_socket, get, raw};
use crate::balancer::{ADMIN, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{End, own_address};
use crate::packets::{self, Connect};
use crate::{raise_descriptor_limit, wait};

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
    let states = |mut node: Value| {
        // They come as the nodes are asked and answer.
        node.as_object_mut().expect("a node").remove("findings");
        node
    };
    let shown: Vec<Value> = nodes["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .cloned()
        .map(states)
        .collect();
    let expected = |node: &str, connections: u32| {
        json!({
            "node": node, "weight": 100, "configured_weight": 100, "is_draining": false, "closing_rate": null,
            "is_removed": false,
            "connections": connections, "endpoints": [{ "endpoint": "mqtt", "state": "up" }],
        })
    };
    assert_eq!(shown, [expected("node0", 0), expected("node1", 1)]);
    let (status, node) = asked(&program, "GET", "/api/v1/nodes/node1", "");
    assert_eq!((status, states(node)), (200, expected("node1", 1)));
    // The same by the command, as text and as JSON.
    assert_eq!(
        states(json_of(&program, &["nodes"])["nodes"][1].clone()),
        expected("node1", 1)
    );
    assert_eq!(json_of(&program, &["status"])["pid"], program.process());
    let table = said(&program, &["nodes"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[2], ["node1", "up", "100", "1"], "{table}");
    assert!(said(&program, &["status"]).contains("nodes up          node0, node1"));
}

#[test]
fn what_each_source_says_of_a_node_is_shown() {
    let mut cluster = Cluster::of(2);
    let program = Program::start(&cluster, &format!("{ADMIN}[health]\nfailures_max = 1\n"));
    cluster.nodes[0].die();
    said(&program, &["drain", "node1"]);
    Client::accepted(program.address, &Connect::new(cluster.id_at_home(0, "elsewhere")));
    let findings = |node: usize| json_of(&program, &["nodes"])["nodes"][node]["findings"].clone();
    wait::until("a probe has failed", || {
        let all = findings(0);
        let mut all = all.as_array().expect("a list").iter();
        all.any(|finding| {
            let why = finding["why"].as_str().unwrap_or_default();
            (&finding["source"], &finding["endpoint"], &finding["verdict"])
                == (&json!("probe"), &json!("mqtt"), &json!("failing"))
                && why.contains("Connection refused")
        })
    });
    let operator = json!({ "source": "operator", "endpoint": null, "verdict": "draining", "why": null });
    assert!(
        findings(1).as_array().expect("a list").contains(&operator),
        "{}",
        findings(1)
    );
    let table = said(&program, &["nodes"]);
    assert!(
        table.contains("probe of mqtt: failing (TCP connect: Connection refused"),
        "{table}"
    );
    assert!(table.contains("operator: draining"), "{table}");
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
    let lines = program.at_least(4, |line| line["message"] == "changed by the control API");
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
    for (length, expected) in [(256 << 10, 400), ((256 << 10) + 1, 413), (1 << 20, 413)] {
        let body = "x".repeat(length);
        let answer = ask_socket(program.socket(), "POST", "/api/v1/nodes/node0/weight", &body);
        assert_eq!(answer.status, expected, "{length} bytes: {answer:?}");
    }
    for (body, words) in [
        ("", "the body is not"),
        ("{\"id\":\"\"}", "id is empty"),
        ("{\"client_id\":\"a\"}", "unknown field"),
    ] {
        for path in ["/api/v1/client", "/api/v1/client/close"] {
            let (status, refused) = asked(&program, "POST", path, body);
            let error = refused["error"].as_str().expect("an error");
            assert!(
                status == 400 && error.contains(words),
                "{path} {body}: {status} {error}"
            );
        }
    }
    // Nothing of this is on TCP.
    assert_eq!(get_status(&program, "/api/v1/nodes"), 403);
    assert_eq!(get_status(&program, "/livez"), 200);
}

fn get_status(program: &Program, path: &str) -> u16 {
    get(program.admin(), path).status
}

/// Two tokens, one for each scope, in files of this folder.
pub(crate) fn tokens(folder: &TempDir) -> String {
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

pub(crate) const READER: &str = "reads-0123456789abcdef";
pub(crate) const WRITER: &str = "writes-0123456789abcdef";

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
        // A change is a POST, from any caller.
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
    let lines = program.at_least(1, |line| line["message"] == "changed by the control API");
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

/// So many clients at home on a node.
fn at_home(program: &Program, cluster: &Cluster, node: usize, count: usize) -> Vec<Client> {
    let ids = cluster.ids_at_home(node, "home", count);
    ids.iter()
        .map(|id| Client::accepted(program.address, &Connect::new(id.clone())))
        .collect()
}

#[test]
fn a_drain_at_a_rate_empties_the_node_and_no_other_and_ctl_waits_for_it() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let mut gone = at_home(&program, &cluster, 0, 20);
    let mut stay = at_home(&program, &cluster, 1, 5);
    let began = Instant::now();
    let node: Value = json_of(&program, &["drain", "node0", "--rate", "20/s", "--wait"]);
    // 20 a second: the last one is due after a second, and never before.
    assert!(began.elapsed() >= Duration::from_millis(950), "{:?}", began.elapsed());
    assert_eq!((&node["connections"], &node["is_draining"]), (&json!(0), &json!(true)));
    for client in &mut gone {
        assert_eq!(client.end(), End::Fin);
    }
    program.until_ended_with("closed", 20);
    for client in &mut stay {
        client.send(&[0xC0, 0]);
    }
    assert_eq!(json_of(&program, &["nodes", "node1"])["connections"], 5);
}

#[test]
fn an_undrained_node_keeps_what_is_not_closed_yet() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let _clients = at_home(&program, &cluster, 0, 40);
    // So slowly that it is under way for longer than this test.
    let (status, node) = asked(&program, "POST", "/api/v1/nodes/node0/drain", "{\"rate\":1}");
    assert_eq!((status, &node["closing_rate"]), (200, &json!(1)));
    assert!(said(&program, &["nodes", "node0"]).contains("(closing 1/s)"));
    let (_, node) = asked(&program, "POST", "/api/v1/nodes/node0/undrain", "");
    assert_eq!(
        (&node["closing_rate"], &node["is_draining"]),
        (&json!(null), &json!(false))
    );
    let waited = ctl(&program, &["drain", "node0", "--rate", "0"]);
    assert_eq!(waited.status.code(), Some(64));
    assert_eq!(
        asked(&program, "POST", "/api/v1/nodes/node0/drain", "{\"rate\":0}").0,
        400
    );
}

#[test]
fn close_ends_the_connections_of_the_named_nodes_and_no_other() {
    let cluster = Cluster::of(3);
    let program = Program::start(&cluster, ADMIN);
    let mut clients: Vec<Vec<Client>> = (0..3).map(|node| at_home(&program, &cluster, node, 4)).collect();
    said(&program, &["close-node", "node0", "node2"]);
    for node in [0, 2] {
        for client in &mut clients[node] {
            assert_eq!(client.end(), End::Fin);
        }
    }
    program.until_ended_with("closed", 8);
    assert_eq!(json_of(&program, &["nodes", "node1"])["connections"], 4);
    let listeners = json_of(&program, &["listeners"]);
    assert_eq!(listeners["listeners"][0]["accepted"], 12);
    assert_eq!(listeners["listeners"][0]["address"], program.address.to_string());
    assert!(said(&program, &["listeners"]).contains("mqtt"));
}

#[test]
fn a_reload_by_ctl_is_one_by_signal_and_says_what_is_wrong_as_check_does() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let config = json_of(&program, &["config"]);
    assert_eq!(config["is_of_file"], true);
    let toml_text = config["toml"].as_str().expect("a text");
    assert!(
        toml_text.contains("freebind = false  # default") && toml_text.contains("  # line "),
        "{toml_text}"
    );

    program.configure(&toml(&cluster, "", &format!("{ADMIN}[drain]\nrate = 0\n")));
    let failed = ctl(&program, &["reload"]);
    assert_eq!(failed.status.code(), Some(1));
    let error = String::from_utf8_lossy(&failed.stderr);
    let is_report = error.contains("error: drain.rate: ") && error.contains("= help: ");
    assert!(is_report && error.contains("nothing has changed"), "{error}");
    let (status, refused) = asked(&program, "POST", "/api/v1/reload", "");
    assert_eq!((status, &refused["problems"][0]["key"]), (422, &json!("drain.rate")));
    assert!(refused["problems"][0]["line"].is_u64(), "{refused}");
    assert_eq!(refused["problems"][0]["file"], program.path().display().to_string());
    let config = json_of(&program, &["config"]);
    assert_eq!(config["is_of_file"], false);

    program
        .configure(&toml(&cluster, "", &format!("{ADMIN}[drain]\nrate = 7\n")).replace("workers = 2", "workers = 1"));
    let reloaded = said(&program, &["reload"]);
    assert_eq!(
        reloaded,
        "reloaded\nworkers needs a restart; the old value stays in use\n"
    );
    assert!(said(&program, &["config"]).contains("rate = 7"));
    program.until_said("configuration reloaded");
    let changes = program.at_least(3, |line| line["change"] == "reload");
    assert_eq!(changes.len(), 3);
}

#[test]
fn a_drain_of_the_process_by_the_api_ends_it() {
    let cluster = Cluster::of(1);
    let mut program = Program::start(&cluster, &format!("{ADMIN}[drain]\nrate = 1000\n"));
    let mut client = at_home(&program, &cluster, 0, 1).remove(0);
    assert_eq!(
        asked(&program, "POST", "/api/v1/drain", ""),
        (200, json!({ "connections": 1 }))
    );
    assert_eq!(client.end(), End::Fin);
    assert_eq!(program.exit_code(), Some(0));
    assert_eq!(program.at_least(1, |line| line["message"] == "drained").len(), 1);
}

#[test]
fn a_drain_of_the_process_by_ctl_is_one_by_the_api() {
    let cluster = Cluster::of(1);
    for (arguments, expected) in [
        (
            &["drain-process"][..],
            "draining: 1 connection, then the process ends\n",
        ),
        (&["drain-process", "--json"], "{\n  \"connections\": 1\n}\n"),
    ] {
        let mut program = Program::start(&cluster, &format!("{ADMIN}[drain]\nrate = 1000\n"));
        let mut client = at_home(&program, &cluster, 0, 1).remove(0);
        assert_eq!(said(&program, arguments), expected);
        assert_eq!(client.end(), End::Fin);
        assert_eq!(program.exit_code(), Some(0));
        assert_eq!(program.at_least(1, |line| line["change"] == "drain").len(), 1);
    }
}

/// Clients that come as soon as there is a listener never meet a node that was draining before the restart.
#[test]
fn a_state_file_is_in_force_before_the_first_client() {
    let cluster = Cluster::of(2);
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("state.json");
    fs::write(
        &file,
        "{ \"wishes\": [{ \"node\": \"node0\", \"weight\": null, \"is_draining\": true }] }",
    )
    .expect("written");
    // No other process is at this address, and it is known before the program starts.
    let address = TcpListener::bind((own_address(), 0)).and_then(|listener| listener.local_addr());
    let address = address.expect("a free port");
    let config = toml(&cluster, "", ADMIN).replacen(
        "[[listeners]]\naddress = \"127.0.0.1:0\"",
        &format!("[[listeners]]\naddress = \"{address}\""),
        1,
    );
    let ids = cluster.ids_at_home(0, "early", 8);
    let program = std::thread::scope(|scope| {
        for id in &ids {
            scope.spawn(move || {
                let stream = wait::until_some("it listens", || TcpStream::connect(address).ok());
                let mut client = Client::of(stream);
                client.send(&Connect::new(id).bytes());
                client.expect(&packets::connack(4, 0));
            });
        }
        let mut shell = Command::new("sh");
        let kept = "exec \"$0\" \"$@\" --state \"$STATE\"";
        shell
            .args(["-c", kept, env!("CARGO_BIN_EXE_remora")])
            .env("STATE", &file);
        Program::by(shell, &config)
    });
    for id in &ids {
        let connect = Connect::new(id).bytes();
        assert_eq!(
            [0, 1].map(|node: usize| cluster.nodes[node].asked(&connect)),
            [0, 1],
            "{id}"
        );
    }
    assert_eq!(
        program
            .at_least(1, |line| line["message"] == "wishes for the node restored")
            .len(),
        1
    );
}

#[test]
fn a_state_file_keeps_wishes_over_a_restart_and_a_broken_one_is_ignored() {
    let cluster = Cluster::of(2);
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("state.json");
    let start = || {
        let mut shell = Command::new("sh");
        let kept = "exec \"$0\" \"$@\" --state \"$STATE\"";
        shell
            .args(["-c", kept, env!("CARGO_BIN_EXE_remora")])
            .env("STATE", &file);
        Program::by(shell, &toml(&cluster, "", ADMIN))
    };
    fs::write(&file, "{ \"wishes\": [{").expect("written");
    let program = start();
    program.until_said("the state file is ignored");
    said(&program, &["drain", "node0"]);
    said(&program, &["weight", "node1", "7"]);
    let expected = json!({ "wishes": [
        { "node": "node0", "weight": null, "is_draining": true },
        { "node": "node1", "weight": 7, "is_draining": false },
    ] });
    let read = || {
        fs::read(&file)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
    };
    wait::until("the wishes are written", || read().as_ref() == Some(&expected));
    drop(program);
    assert_eq!(read(), Some(expected));

    let again = start();
    let nodes = json_of(&again, &["nodes"]);
    assert_eq!(
        (&nodes["nodes"][0]["is_draining"], &nodes["nodes"][1]["weight"]),
        (&json!(true), &json!(7))
    );
    said(&again, &["undrain", "node0"]);
    said(&again, &["weight", "node1", "reset"]);
    wait::until("there are no wishes", || read() == Some(json!({ "wishes": [] })));
}

/// The kinds and the numbers of what `ctl events` prints.
#[track_caller]
fn events(program: &Program, arguments: &[&str]) -> Vec<Value> {
    let printed = said(program, &[&["events", "--json"], arguments].concat());
    printed
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn events_tell_what_changes_in_order_and_can_be_replayed() {
    let mut cluster = Cluster::of(2);
    let health = format!("{ADMIN}[health]\nfailures_max = 1\n");
    let program = Program::start(&cluster, &health);
    assert_eq!(events(&program, &[]), Vec::<Value>::new());
    said(&program, &["drain", "node1"]);
    said(&program, &["undrain", "node1"]);
    let added = toml(&cluster, "", &health) + "\n[[listeners]]\nname = \"more\"\naddress = \"127.0.0.1:0\"\n";
    program.reload(&added);
    cluster.nodes[0].die();
    let _client = Client::to(program.address);
    let id = cluster.id_at_home(0, "finds out");
    let _client = Client::accepted(program.address, &Connect::new(id));
    wait::until("the node is down", || {
        events(&program, &[]).iter().any(|event| event["kind"] == "node_state")
    });
    let all = events(&program, &[]);
    let kinds: Vec<&str> = all
        .iter()
        .map(|event| event["kind"].as_str().expect("a kind"))
        .collect();
    assert_eq!(
        kinds,
        ["node_wish", "node_wish", "listener_opened", "reload", "node_state"]
    );
    let ids: Vec<u64> = all
        .iter()
        .map(|event| event["id"].as_u64().expect("a number"))
        .collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    assert_eq!(
        (&all[0]["node"], &all[0]["is_draining"]),
        (&json!("node1"), &json!(true))
    );
    assert_eq!(
        (&all[2]["listener"], &all[3]["is_in_force"]),
        (&json!("more"), &json!(true))
    );
    assert_eq!((&all[4]["node"], &all[4]["state"]), (&json!("node0"), &json!("down")));
    assert_eq!(events(&program, &["--since", "3"]), all[3..]);
    // Of a process that has run for longer, before this one.
    assert_eq!(events(&program, &["--since", "1000000"]), all);
    assert!(said(&program, &["events"]).lines().count() == 5);
    assert_eq!(asked(&program, "GET", "/api/v1/events?since=x", "").0, 400);
}

#[test]
fn readers_that_do_not_read_are_bounded_and_keep_nobody_from_an_answer() {
    raise_descriptor_limit();
    let cluster = Cluster::of(1);
    let folder = TempDir::new().expect("a folder");
    let program = Program::start(&cluster, &tokens(&folder));
    let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {READER}\r\n\r\n");
    let readers: Vec<TcpStream> = (0..1_000)
        .map(|number| {
            let mut stream = TcpStream::connect(program.admin()).expect("an admin listener");
            // The oldest may be closed meanwhile.
            let _ = stream.write_all(request.as_bytes());
            if number % 100 == 0 {
                assert_eq!(get_status(&program, "/livez"), 200);
            }
            stream
        })
        .collect();
    assert_eq!(get_status(&program, "/livez"), 200);
    assert_eq!(asked(&program, "GET", "/api/v1/status", "").0, 200);
    wait::until("most of the crowd is gone", || {
        let open = fs::read_dir(format!("/proc/{}/fd", program.process())).expect("a process");
        open.count() < 100
    });
    let refused = ctl(&program, &["events", "--follow"]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(error.contains("32 readers follow the events already"), "{error}");
    drop(readers);
    wait::until("there is room for a reader", || {
        ctl(&program, &["events"]).status.success()
    });
}

#[test]
fn every_answer_has_the_form_that_the_document_gives_it() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let _clients = ["shown", "asked"].map(|id| Client::accepted(program.address, &Connect::new(id)));
    wait::until("they are relayed", || {
        let (_, list) = asked(&program, "GET", "/api/v1/clients", "");
        list["clients"].as_array().is_some_and(|clients| clients.len() == 2)
    });
    let (_, document) = asked(&program, "GET", "/api/v1/openapi.json", "");
    let mut seen = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let target = path.replace("{name}", "node0").replace("{id}", "shown");
            if target == "/api/v1/drain" {
                // It would end the process.
                continue;
            }
            let body = match &*target {
                "/api/v1/nodes/node0/weight" => "{\"weight\": 7}",
                "/api/v1/client" | "/api/v1/client/close" => "{\"id\": \"asked\"}",
                _ => "",
            };
            let responses = &operation["responses"];
            seen += 1;
            if let Some(schema) = responses["200"]["content"]["text/event-stream"].get("schema") {
                let printed = ask_socket(program.socket(), "GET", &format!("{target}?follow=false"), "").body;
                let events: Vec<&str> = printed.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
                for event in events {
                    let event = serde_json::from_str(event).expect("JSON");
                    fits(&document, schema, &event, path);
                }
                continue;
            }
            let (status, answer) = asked(&program, &method.to_uppercase(), &target, body);
            // Its log is standard output.
            let (expected, response) = match &*target {
                "/api/v1/log/reopen" => (409, "default"),
                _ => (200, "200"),
            };
            assert_eq!(status, expected, "{method} {target}: {answer}");
            let schema = &responses[response]["content"]["application/json"]["schema"];
            fits(&document, schema, &answer, path);
            // A refusal, too: another method than any path takes.
            let (status, refused) = asked(&program, "DELETE", &target, "");
            assert_eq!(status, 405);
            fits(
                &document,
                &responses["default"]["content"]["application/json"]["schema"],
                &refused,
                path,
            );
        }
    }
    assert!(seen >= 12, "only {seen} operations");
    // Every parameter of a real event, too.
    let schema = &document["components"]["schemas"]["Event"];
    for event in events(&program, &[]) {
        fits(&document, schema, &event, "event");
    }
}

#[test]
fn the_document_says_which_weights_there_are() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let (_, document) = asked(&program, "GET", "/api/v1/openapi.json", "");
    let weight = &document["components"]["schemas"]["SetWeight"]["properties"]["weight"];
    let bound = |name: &str| weight[name].as_u64().unwrap_or_else(|| panic!("no {name}: {weight}"));
    let (least, most) = (bound("minimum"), bound("maximum"));
    assert_eq!((least, most), (1, 1000));
    for (number, expected) in [(least, 200), (most, 200), (least - 1, 400), (most + 1, 400)] {
        let body = json!({ "weight": number }).to_string();
        let (status, answer) = asked(&program, "POST", "/api/v1/nodes/node0/weight", &body);
        assert_eq!(status, expected, "{number}: {answer}");
    }
}

/// Checks a value against a schema, as far as schemas of this document go; a key that the schema does not know is wrong.
#[track_caller]
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Err(why) = check(document, schema, value, at) {
        panic!("{why}");
    }
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#'));
        return check(
            document,
            target.ok_or_else(|| format!("{at}: no {reference}"))?,
            value,
            at,
        );
    }
    if let Some(alternatives) = schema["anyOf"].as_array() {
        let mut all = alternatives.iter().map(|schema| check(document, schema, value, at));
        return all
            .find(Result::is_ok)
            .unwrap_or_else(|| Err(format!("{at}: {value} is none of {alternatives:?}")));
    }
    let mut known: Vec<&Value> = vec![&schema["properties"]];
    if let Some(kinds) = schema["oneOf"].as_array() {
        let is_kind = |kind: &&Value| kind["properties"]["kind"]["const"] == value["kind"];
        let kind = kinds
            .iter()
            .find(is_kind)
            .ok_or_else(|| format!("{at}: {value} is of no kind"))?;
        known.push(&kind["properties"]);
    }
    let types = match &schema["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        // Any value.
        _ => return Ok(()),
    };
    let is_of = |name: &&str| match *name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{at}: a type {other}"),
    };
    if !types.iter().any(is_of) {
        return Err(format!("{at}: {value} is not {types:?}"));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{at}[{index}]"))?;
    }
    let required = schema["required"].as_array().into_iter().flatten();
    for key in required.filter_map(Value::as_str) {
        value.get(key).ok_or_else(|| format!("{at}: no {key} in {value}"))?;
    }
    for (key, entry) in value.as_object().into_iter().flatten() {
        let of_key = known.iter().find_map(|properties| properties.get(key));
        match of_key {
            Some(schema) => check(document, schema, entry, &format!("{at}.{key}"))?,
            // A map of one form.
            None if schema["additionalProperties"].is_object() => {
                check(document, &schema["additionalProperties"], entry, &format!("{at}.{key}"))?;
            }
            // A map of anything.
            None if schema["additionalProperties"] == true => {}
            None if at.ends_with("openapi.json") => {}
            None => return Err(format!("{at}: {key} is in no schema")),
        }
    }
    Ok(())
}
