//! The status page, what it is made of, and the page that `remora ctl` serves on a port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::admin_client::{Response, ask, ask_socket, get, raw};
use crate::balancer::{ADMIN, Program};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::control::{READER, WRITER, ctl, tokens};
use crate::node::Answer;
use crate::packets::Connect;
use crate::wait::{self, DEADLINE, uninterrupted};

/// The JSON that the socket answers.
#[track_caller]
fn asked(program: &Program, path: &str) -> Value {
    let response = ask_socket(program.socket(), "GET", path, "");
    assert_eq!(response.status, 200, "{response:?}");
    serde_json::from_str(&response.body).expect("JSON")
}

fn nonce(response: &Response) -> String {
    let (_, behind) = response.head.split_once("'nonce-").expect("a nonce");
    behind.split('\'').next().unwrap_or_default().to_owned()
}

#[test]
fn the_page_is_one_small_document_under_a_policy_that_lets_nothing_else_in() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let pages = [get(program.admin(), "/"), ask_socket(program.socket(), "GET", "/", "")];
    for page in &pages {
        assert_eq!(page.status, 200);
        assert!(page.body.len() <= 90 * 1024, "{} bytes", page.body.len());
        let nonce = nonce(page);
        assert!(nonce.len() == 32 && page.body.contains(&format!("<script nonce=\"{nonce}\">")));
        for said in [
            "content-type: text/html; charset=utf-8",
            "default-src 'none'",
            "connect-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(page.head.contains(said), "{said}: {}", page.head);
        }
        assert!(!page.head.contains("unsafe"), "{}", page.head);
        for outside in ["src=\"http", "href=\"http", "src=\"//", " onclick=", " style=\""] {
            assert!(!page.body.contains(outside), "{outside}");
        }
    }
    assert_ne!(nonce(&pages[0]), nonce(&pages[1]));
    assert_eq!(ask(program.admin(), "POST", "/", "").status, 405);
    let head = ask(program.admin(), "HEAD", "/", "");
    assert_eq!((head.status, &*head.body), (200, ""));
    let rebound = raw(program.admin(), "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert!(rebound.starts_with("HTTP/1.1 421 "), "{rebound}");
}

/// Without JavaScript, on the socket and on TCP.
#[test]
fn a_first_look_shows_what_the_caller_may_read_and_nothing_more() {
    let mut cluster = Cluster::of(2);
    let folder = TempDir::new().expect("a folder");
    let tables = format!("{}[health]\nfailures_max = 1\n", tokens(&folder));
    let program = Program::start(&cluster, &tables);
    let _client = Client::accepted(program.address, &Connect::new(cluster.id_at_home(1, "secret-id")));
    cluster.nodes[0].die();
    Client::accepted(program.address, &Connect::new(cluster.id_at_home(0, "elsewhere")));
    let whole = || ask_socket(program.socket(), "GET", "/", "");
    wait::until("the page shows the client, and why the node is down", || {
        let page = whole().body;
        page.contains("secret-id") && page.contains("Connection refused") && page.contains("node state")
    });
    let page = whole().body;
    assert!(page.contains("<strong id=\"word\">Not fine</strong>"), "{page}");
    assert!(
        page.contains("node0 is down (TCP connect: Connection refused"),
        "{page}"
    );
    let bearer = |token: &str| {
        ask(
            program.admin(),
            "GET",
            "/",
            &format!("Authorization: Bearer {token}\r\n"),
        )
    };
    for token in [READER, WRITER] {
        assert!(bearer(token).body.contains("secret-id"));
    }
    let open = [
        get(program.admin(), "/"),
        bearer("wrong-0123456789abcdef"),
        ask(
            program.admin(),
            "GET",
            "/",
            &format!("Origin: http://evil.example\r\nAuthorization: Bearer {READER}\r\n"),
        ),
        ask_socket(program.socket(), "GET", "/?open", ""),
    ];
    for page in open {
        // What the metrics say as well.
        assert!(
            page.body.contains("node0 is down; 1 of 2 nodes takes clients."),
            "{}",
            page.body
        );
        for secret in ["secret-id", "Connection refused", "127.0.0.1", "node state:", "share"] {
            let first = page
                .body
                .split("<div id=\"app\"")
                .next()
                .expect("a part")
                .split("<div id=\"first\">")
                .nth(1);
            assert!(!first.expect("a first look").contains(secret), "{secret}");
        }
    }
}

#[test]
fn a_client_id_of_markup_is_text_in_the_page() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let ids: [&[u8]; 4] = [
        b"<script>alert(1)</script>",
        b"\"><img/src=x/onerror=alert(1)>",
        b"{{nonce}}",
        "a\u{202e}b\u{1f680}".as_bytes(),
    ];
    let _clients = ids.map(|id| Client::accepted(program.address, &Connect::new(id)));
    let page = || ask_socket(program.socket(), "GET", "/", "");
    wait::until("all clients are listed", || {
        let page = page().body;
        ["&lt;script&gt;alert(1)", "{{nonce}}", "\u{1f680}"]
            .iter()
            .all(|part| page.contains(part))
    });
    let page = page().body;
    assert!(!page.contains("<script>alert") && !page.contains("<img"), "{page}");
    assert!(
        page.contains("&lt;img/src=x/onerror=alert(1)&gt;") && page.contains("a\\u{202e}b"),
        "{page}"
    );
    assert_eq!(page.matches("<script").count(), 1);
}

#[test]
fn the_overview_and_its_history_say_what_was_counted_of_each_node() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let _kept = Client::accepted(program.address, &Connect::new(cluster.id_at_home(0, "kept")));
    cluster.nodes[1].answer(Answer::Code(5));
    let mut refused = Client::to(program.address);
    refused.send(&Connect::new(cluster.id_at_home(1, "refused")).bytes());
    let overview = || asked(&program, "/api/v1/overview");
    wait::until("the counts are shown", || {
        let nodes = overview()["nodes"].clone();
        nodes[1]["connacks"] == json!([{ "what": "5", "count": 1 }]) && nodes[0]["connections"] == 1
    });
    drop(refused);
    program.until_ended(1);
    let shown = overview();
    assert_eq!(
        (&shown["is_fine"], &shown["sentence"]),
        (&json!(true), &json!("All 2 nodes take clients."))
    );
    assert_eq!(shown["may_change"], true);
    let shares = [0, 1].map(|node: usize| shown["nodes"][node]["share"].as_f64().expect("a share"));
    assert!((shares[0] + shares[1] - 1.0).abs() < 1e-9, "{shares:?}");
    assert_eq!(shown["ends"][0]["count"], 1);
    wait::until("a sample was taken", || {
        let history = asked(&program, "/api/v1/history");
        history["nodes"][1]["refused"]
            .as_array()
            .is_some_and(|all| all.iter().any(|count| *count == 1))
            && history["nodes"][0]["connections"]
                .as_array()
                .is_some_and(|all| all.last() == Some(&json!(1)))
    });
    let newest = asked(&program, "/api/v1/history")["newest"].as_u64().expect("a number");
    let since = asked(&program, &format!("/api/v1/history?since={newest}"));
    assert!(
        since["nodes"].as_array().is_some_and(|nodes| nodes.len() < 3),
        "{since}"
    );
    // From before a restart.
    assert_eq!(
        asked(&program, "/api/v1/history?since=999999")["nodes"]
            .as_array()
            .map(Vec::len),
        Some(2)
    );
    wait::until("the recent counts are those of the samples", || {
        let shown = overview();
        shown["nodes"][1]["recent"]["refused"] == 1 && shown["ends"][0]["recent"] == 1
    });
}

/// Peers: one that agrees or does not, one that wants another token, one that never answers, and one that is not there.
#[test]
fn other_balancers_are_asked_within_bounds_and_it_is_said_who_does_not_agree() {
    let cluster = Cluster::of(2);
    let folder = TempDir::new().expect("a folder");
    let peer = Program::start(&cluster, &tokens(&folder));
    let _client = Client::accepted(peer.address, &Connect::new(cluster.id_at_home(1, "there")));
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let closed = TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("an address");
    let stranger = Program::start(&cluster, ADMIN);
    let addresses = [
        peer.admin(),
        stranger.admin(),
        silent.local_addr().expect("an address"),
        closed,
    ];
    let peers: Vec<String> = addresses
        .iter()
        .map(|address| format!("\"http://{address}\""))
        .collect();
    let own = format!(
        "{ADMIN}peers = [{}]\npeers_token = \"{}\"\n",
        peers.join(", "),
        folder.path().join("reader").display()
    );
    let program = Program::start(&cluster, &own);
    let _own = Client::accepted(program.address, &Connect::new(cluster.id_at_home(0, "here")));
    let shown = wait::until_some("the peers and this one have their clients", || {
        let shown = asked(&program, "/api/v1/peers");
        (shown["connections"] == 2).then_some(shown)
    });
    assert_eq!(
        shown["nodes"],
        json!([{ "node": "node0", "connections": 1 }, { "node": "node1", "connections": 1 }])
    );
    let of = |shown: &Value, peer: usize| shown["peers"][peer].clone();
    assert_eq!(of(&shown, 0)["has_same_ring"], true);
    wait::until("the probes of both have seen the same", || {
        of(&asked(&program, "/api/v1/peers"), 0)["disagreements"] == json!([])
    });
    for (peer, error) in [
        (1, "no token is configured"),
        (2, "no answer within 2 s"),
        (3, "Connection refused"),
    ] {
        let said = of(&shown, peer)["error"].as_str().unwrap_or_default().to_owned();
        assert!(said.contains(error), "{said}");
    }
    // While a peer that does not answer is waited for, others are answered.
    let admin = program.admin();
    let waiting = std::thread::scope(|scope| {
        let begun = Instant::now();
        let slow = scope.spawn(|| asked(&program, "/api/v1/peers"));
        assert_eq!(get(admin, "/livez").status, 200);
        slow.join().expect("an answer");
        begun.elapsed()
    });
    assert!(waiting < DEADLINE, "{waiting:?}");
    for change in [["drain", "node1", ""], ["weight", "node0", "7"]] {
        let change: Vec<&str> = change.into_iter().filter(|word| !word.is_empty()).collect();
        assert!(ctl(&peer, &change).status.success());
    }
    wait::until("both differences are said", || {
        let shown = of(&asked(&program, "/api/v1/peers"), 0);
        shown["has_same_ring"] == false
            && shown["disagreements"]
                == json!([
                    "node0 has weight 7 there and 100 here",
                    "node1 is draining there and up here"
                ])
    });
}

/// `remora ctl page`.
struct Page {
    child: Child,
    address: SocketAddr,
    token: String,
}

impl Page {
    fn of(program: &Program) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
        command.arg("ctl").arg("--socket").arg(program.socket()).arg("page");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program");
        let mut line = String::new();
        let output = child.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let (address, token) = line.trim().split_once("/#token=").expect("a token");
        Self {
            address: address
                .strip_prefix("http://")
                .and_then(|address| address.parse().ok())
                .expect("an address"),
            token: token.to_owned(),
            child,
        }
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}\r\n", self.token)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_page_on_a_port_is_for_the_one_who_has_its_token() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let _client = Client::accepted(program.address, &Connect::new("secret-id"));
    let page = Page::of(&program);
    assert!(page.address.ip().is_loopback());
    // Other users of this machine reach the port as well.
    let open = get(page.address, "/");
    assert_eq!(open.status, 200);
    assert!(
        open.head.contains("content-security-policy: default-src 'none'"),
        "{}",
        open.head
    );
    assert!(open.body.contains("It is shown to those who have the token."));
    for secret in ["secret-id", "node0", "nodes take clients"] {
        assert!(!open.body.contains(secret), "{secret}");
    }
    let drain = "/api/v1/nodes/node0/drain";
    for (method, path) in [
        ("GET", "/api/v1/overview"),
        ("POST", drain),
        ("GET", "/metrics"),
        ("GET", "/readyz"),
        ("POST", "/"),
    ] {
        for headers in ["", "Authorization: Bearer 0123456789abcdef0123456789abcdef\r\n"] {
            assert_eq!(ask(page.address, method, path, headers).status, 401, "{method} {path}");
        }
    }
    // By a name that was bound to this address (DNS rebinding).
    let rebound = format!("GET / HTTP/1.1\r\nHost: evil.example\r\n{}\r\n", page.bearer());
    assert!(raw(page.address, &rebound).starts_with("HTTP/1.1 421 "));
    assert_eq!(asked(&program, "/api/v1/nodes/node0")["is_draining"], false);
    // With it, all that the socket has.
    wait::until("the client is shown", || {
        ask(page.address, "GET", "/", &page.bearer()).body.contains("secret-id")
    });
    let drained = ask(
        page.address,
        "POST",
        drain,
        &format!("{}Content-Length: 0\r\n", page.bearer()),
    );
    assert_eq!(drained.status, 200, "{drained:?}");
    assert_eq!(asked(&program, "/api/v1/nodes/node0")["is_draining"], true);
    let changes = program.at_least(1, |line| line["message"] == "changed by the control API");
    let by = format!("pid {}", page.child.id());
    assert!(
        changes[0]["by"].as_str().is_some_and(|text| text.contains(&by)),
        "{changes:?}"
    );
    let refused = ask(page.address, "GET", "/api/v1/nodes/nobody", &page.bearer());
    assert_eq!(refused.status, 404);
    assert!(refused.body.contains("there is no node nobody"), "{refused:?}");
}

#[test]
fn the_page_on_a_port_passes_events_on_and_outlives_the_balancer() {
    let cluster = Cluster::of(1);
    let mut program = Program::start(&cluster, ADMIN);
    let page = Page::of(&program);
    let mut events = TcpStream::connect(page.address).expect("a page");
    events.set_read_timeout(Some(DEADLINE)).expect("an option");
    let request = format!(
        "GET /api/v1/events?since=0 HTTP/1.1\r\nHost: localhost\r\n{}\r\n",
        page.bearer()
    );
    events.write_all(request.as_bytes()).expect("it reads");
    assert!(ctl(&program, &["drain", "node0"]).status.success());
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("\"kind\":\"node_wish\"") {
        let count = uninterrupted(|| events.read(&mut buffer)).expect("an event in time");
        assert!(count > 0, "{text}");
        text += &String::from_utf8_lossy(&buffer[..count]);
    }
    assert!(text.contains("text/event-stream"), "{text}");
    program.signal(rustix::process::Signal::INT);
    assert_eq!(program.exit_code(), Some(0));
    let gone = ask(page.address, "GET", "/api/v1/overview", &page.bearer());
    assert_eq!(gone.status, 502);
    assert!(gone.body.contains("does not answer"), "{gone:?}");
    let taken = page.address.port().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["ctl", "--socket", "/no/such.sock", "page", "--port", &taken])
        .output()
        .expect("the program");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn those_who_send_nothing_keep_nobody_from_the_page_on_a_port() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let page = Page::of(&program);
    let _silent: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(page.address).expect("a port"))
        .collect();
    let answer = ask(page.address, "GET", "/api/v1/status", &page.bearer());
    assert_eq!(answer.status, 200);
}
