//! What a node's own HTTP API says, and what becomes of its clients: a fake of EMQX's dashboard listener beside a fake node.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use remora::cluster::{FindingSource, Ring, SEED_DEFAULT, Verdict};

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Balancer, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{FakeNode, own_address};
use crate::packets::Connect;
use crate::wait::{self, DEADLINE, Watched, uninterrupted};

/// What a node in evacuation answers.
const EVACUATING: &str = "{\"code\":\"NODE_EVACUATING\",\"message\":\"Node Evacuating\"}";

/// Asked often.
const OFTEN: &str = "[nodes_api]\ninterval = \"20ms\"\ntimeout = \"10s\"\n";

/// A listener that answers every request with the same bytes.
#[derive(Debug)]
pub(crate) struct FakeApi {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By the start of the path; the first that fits.
    answers: Watched<Vec<(String, Vec<u8>)>>,
    /// The heads of all requests.
    requests: Watched<Vec<String>>,
}

/// A whole answer.
pub(crate) fn answer(status: &str, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\nretry-after: 15\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl FakeApi {
    /// An API that takes clients.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((own_address(), 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let api = Self {
            address,
            shared: Arc::clone(&shared),
        };
        api.answer("", answer("200 OK", "application/json", "{}"));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        api
    }

    /// From now on, requests for paths that begin so are answered so; no bytes is no answer.
    pub(crate) fn answer(&self, path: &str, bytes: Vec<u8>) {
        self.shared.answers.change(|answers| {
            answers.retain(|(other, _)| other != path);
            answers.push((path.to_owned(), bytes));
            answers.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        });
    }

    /// The heads of all requests that came.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().clone()
    }

    /// The cluster's configuration, with this API at node 0.
    fn toml(&self, cluster: &Cluster, tables: &str) -> String {
        let name = "name = \"node0\"\n";
        let api = format!("{name}api = \"http://{}\"\n", self.address);
        toml(cluster, "", tables).replacen(name, &api, 1)
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    stream.set_read_timeout(Some(DEADLINE)).expect("an option");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match uninterrupted(|| stream.read(&mut byte)) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8(head).expect("text");
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    shared.requests.change(|requests| requests.push(head));
    let answers = shared.answers.lock().clone();
    let found = answers.iter().find(|(start, _)| path.starts_with(start));
    let bytes = found.map(|(_, bytes)| &**bytes).unwrap_or_default();
    // The balancer may have read enough.
    let _ = stream.write_all(bytes);
    if bytes.is_empty() {
        // Until the balancer has had enough.
        let _ = uninterrupted(|| stream.read(&mut byte));
    }
}

/// Whether node 0 drains.
fn drains(balancer: &Balancer) -> bool {
    balancer.running.nodes()[0].is_draining
}

#[test]
fn a_node_that_evacuates_gets_no_new_clients_and_keeps_those_it_has() {
    let cluster = Cluster::of(2);
    let api = FakeApi::start();
    let balancer = Balancer::of(&api.toml(&cluster, OFTEN));
    let ids = cluster.ids_at_home(0, "moved", 6);
    let there = |id: &str| cluster.holder(&Connect::new(id).bytes()).0;
    let mut stays = Client::accepted(balancer.address, &Connect::new(&ids[0]));
    assert_eq!(there(&ids[0]), 0);

    api.answer("", answer("503 Service Unavailable", "application/json", EVACUATING));
    wait::until("the evacuation is seen", || drains(&balancer));
    let _elsewhere: Vec<Client> = ids[1..4]
        .iter()
        .map(|id| Client::accepted(balancer.address, &Connect::new(id)))
        .collect();
    assert!(ids[1..4].iter().all(|id| there(id) == 1), "no new clients");
    stays.send(b"\xC0\0");
    let all = [Connect::new(&ids[0]).bytes(), b"\xC0\0".to_vec()].concat();
    assert_eq!(cluster.holder(&all).0, 0, "live clients stay");
    let findings = balancer.running.nodes()[0].findings.clone();
    let says = |finding: &&remora::cluster::Finding| finding.source == FindingSource::Api;
    assert_eq!(
        findings.iter().find(says).expect("the API's").verdict,
        Verdict::Draining
    );
    assert_eq!(balancer.running.wishes(), [], "what the API says is no wish");

    api.answer("", answer("200 OK", "application/json", "{}"));
    wait::until("its end is seen", || !drains(&balancer));
    let _home: Vec<Client> = ids[4..]
        .iter()
        .map(|id| Client::accepted(balancer.address, &Connect::new(id)))
        .collect();
    assert!(ids[4..].iter().all(|id| there(id) == 0), "home again");
    let asked = api.requests();
    let asks = |head: &String| head.starts_with("GET /api/v5/load_rebalance/availability_check HTTP/1.1\r\n");
    assert!(asked.iter().all(asks), "{asked:?}");
    let secret = |head: &String| head.to_lowercase().contains("authorization");
    assert!(!asked.iter().any(secret), "none was given");
}

#[test]
fn a_node_that_evacuates_gets_no_clients_from_a_process_that_takes_over_either() {
    let cluster = Cluster::of(2);
    let api = FakeApi::start();
    let mut program = Program::of(&api.toml(&cluster, &format!("{OFTEN}{ADMIN}")));
    api.answer("", answer("503 Service Unavailable", "application/json", EVACUATING));
    let draining = "remora_node_state{node=\"node0\",endpoint=\"mqtt\",state=\"draining\"}";
    let drains = |program: &Program| Metrics::of(program.admin()).value(draining) == 1.0;
    wait::until("the evacuation is seen", || drains(&program));
    // The next process asks at once, and has no answer for a long time.
    api.answer("", Vec::new());
    program.upgrade();
    assert!(drains(&program));
    let id = cluster.id_at_home(0, "away");
    let _client = Client::accepted(program.address, &Connect::new(&id));
    assert_eq!(cluster.holder(&Connect::new(&id).bytes()).0, 1);
}

#[test]
fn a_check_that_cannot_be_used_is_said_once_and_moves_nothing() {
    // No such check in the open source edition up to 5.8; keys that are missing, wrong, or may not (5.0 to 5.3); a page in between.
    for status in [
        "404 Not Found",
        "401 Unauthorized",
        "403 Forbidden",
        "302 Found",
        "500 Oops",
    ] {
        let cluster = Cluster::of(2);
        let api = FakeApi::start();
        api.answer(
            "",
            answer(status, "applicatin/json", "{\"code\":\"BAD_API_KEY_OR_SECRET\"}"),
        );
        let tables = format!("{OFTEN}{ADMIN}");
        let program = Program::of(&api.toml(&cluster, &tables));
        let unusable = "remora_node_checks_total{node=\"node0\",result=\"unusable\"}";
        wait::until("it was asked often", || {
            Metrics::of(program.admin()).value(unusable) >= 5.0
        });
        let id = cluster.id_at_home(0, "stays");
        let _client = Client::accepted(program.address, &Connect::new(&id));
        assert_eq!(cluster.holder(&Connect::new(&id).bytes()).0, 0, "{status}");
        let metrics = Metrics::of(program.admin());
        let state = metrics.value("remora_node_state{node=\"node0\",endpoint=\"mqtt\",state=\"up\"}");
        assert_eq!(state, 1.0, "{status}");
        let said = program.lines(|line| {
            let message = line["message"].as_str().unwrap_or_default();
            message.starts_with("node's API cannot be used")
        });
        assert_eq!(said.len(), 1, "{status}: {said:?}");
        assert_eq!(said[0]["status"].to_string(), status[..3], "{said:?}");
    }
}

#[test]
fn no_answer_and_a_bad_one_move_nothing() {
    let long = format!("HTTP/1.1 503 X\r\ncontent-length: 70000\r\n\r\n{}", "x".repeat(70_000));
    let endless_head = format!("HTTP/1.1 503 X\r\nfield: {}", "x".repeat(70_000));
    for bytes in [
        &b""[..],
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 503",
        long.as_bytes(),
        endless_head.as_bytes(),
    ] {
        let cluster = Cluster::of(2);
        let api = FakeApi::start();
        api.answer("", bytes.to_vec());
        let tables = format!("{}{ADMIN}", OFTEN.replace("10s", "100ms"));
        let balancer = Balancer::of(&api.toml(&cluster, &tables));
        let admin = balancer.running.admin().expect("an admin listener");
        let unanswered = "remora_node_checks_total{node=\"node0\",result=\"unanswered\"}";
        wait::until("it was asked often", || Metrics::of(admin).value(unanswered) > 4.0);
        assert!(
            !drains(&balancer),
            "{:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(20)])
        );
        let id = cluster.id_at_home(0, "stays");
        let _client = Client::accepted(balancer.address, &Connect::new(&id));
        assert_eq!(cluster.holder(&Connect::new(&id).bytes()).0, 0);
    }
}

#[test]
fn the_status_and_the_key_are_sent_where_the_configuration_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("api.key");
    std::fs::write(&file, "key:secret:viewer\n").expect("written");
    let cluster = Cluster::of(2);
    let api = FakeApi::start();
    let tables = format!("{OFTEN}check = \"status\"\ncredentials = {file:?}\n");
    let balancer = Balancer::of(&api.toml(&cluster, &tables));
    // The empty body of EMQX 5.0.10 and later while a listener of its dashboard is not up.
    api.answer("", answer("503 Service Unavailable", "text/plain", ""));
    wait::until("the status is seen", || drains(&balancer));
    let asked = api.requests();
    assert!(asked[0].starts_with("GET /api/v5/status HTTP/1.1\r\n"), "{asked:?}");
    // base64 of key:secret.
    assert!(
        asked[0].contains("authorization: Basic a2V5OnNlY3JldA==\r\n"),
        "{asked:?}"
    );
}

/// Nodes of an EMQX cluster: all on one port, each with an address of its own, and the API of the first.
struct EmqxCluster {
    nodes: Vec<FakeNode>,
    api: FakeApi,
}

impl EmqxCluster {
    fn of(count: usize) -> Self {
        let mut port = 0;
        let nodes = (0..count).map(|_| {
            let mut node = FakeNode::start_at("", (own_address(), port).into());
            port = node.address.port();
            node.name = format!("emqx@{}", node.address.ip());
            node
        });
        let nodes: Vec<FakeNode> = nodes.collect();
        let api = FakeApi::start();
        Self { nodes, api }
    }

    fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name.clone()).collect()
    }

    /// The API lists these nodes.
    fn list(&self, names: &[&str]) {
        let nodes: Vec<String> = names
            .iter()
            .map(|name| format!("{{\"node\":\"{name}\",\"node_status\":\"running\"}}"))
            .collect();
        self.answer(&format!("[{}]", nodes.join(",")));
    }

    fn answer(&self, body: &str) {
        self.api
            .answer("/api/v5/nodes", answer("200 OK", "application/json", body));
    }

    fn toml(&self, seeds: &[SocketAddr], tables: &str) -> String {
        let port = self.nodes[0].address.port();
        let seeds: Vec<String> = seeds.iter().map(|seed| format!("\"http://{seed}\"")).collect();
        format!(
            "workers = 1\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
             [[nodes]]\naddress = \"{{host}}:{port}\"\n{ADMIN}\
             [discovery]\nsource = \"emqx\"\ninterval = \"20ms\"\nseeds = [{}]\n{tables}",
            seeds.join(", ")
        )
    }
}

/// The names of the balancer's nodes.
fn names(balancer: &Balancer) -> Vec<String> {
    balancer
        .running
        .nodes()
        .iter()
        .map(|node| node.name.to_string())
        .collect()
}

/// Waits until the balancer has the nodes of these names.
#[track_caller]
fn until_found(balancer: &Balancer, expected: &[String]) {
    let mut expected = expected.to_vec();
    expected.sort();
    wait::until("the nodes are found", || names(balancer) == expected);
}

#[test]
fn the_nodes_of_an_emqx_cluster_of_every_version_are_found_and_serve() {
    for (content_type, first, second) in [
        // 5.0: loads are strings.
        (
            "application/json",
            "\"node_status\":\"running\",\"load1\":\"2.27\",\"role\":\"core\"",
            "\"load1\":\"0\"",
        ),
        // 5.4: the type is misspelt.
        (
            "applicatin/json",
            "\"node_status\":\"running\",\"load1\":2.27,\"live_connections\":0",
            "\"node_status\":\"running\"",
        ),
        // 5.8: without the monitor of the system, and with a core node that is stopped.
        (
            "application/json",
            "\"node_status\":\"running\",\"version\":\"5.8.9\"",
            "\"node_status\":\"stopped\",\"role\":\"core\"",
        ),
        // 5.9 and later: one edition, and fields that nobody knows yet.
        (
            "application/json",
            "\"node_status\":\"running\",\"edition\":\"Enterprise\"",
            "\"new\":{\"a\":[null,1e9]}",
        ),
    ] {
        let cluster = EmqxCluster::of(2);
        let [a, b] = &cluster.names()[..] else {
            panic!("two nodes")
        };
        let body = format!("[{{\"node\":\"{a}\",{first}}},{{\"node\":\"{b}\",{second}}}]");
        cluster
            .api
            .answer("/api/v5/nodes", answer("200 OK", content_type, &body));
        let balancer = Balancer::of(&cluster.toml(&[cluster.api.address], ""));
        until_found(&balancer, &cluster.names());
        let members: Vec<(&str, u16)> = cluster.nodes.iter().map(|node| (&*node.name, 100)).collect();
        let mut sorted = members.clone();
        sorted.sort_unstable();
        let ring = Ring::build(SEED_DEFAULT, &sorted);
        for id in ["one", "two", "three", "four"] {
            let connect = Connect::new(id);
            let _client = Client::accepted(balancer.address, &connect);
            let home = ring.choices(ring.hash(id.as_bytes())).next().expect("a node");
            let node = cluster
                .nodes
                .iter()
                .find(|node| node.name == sorted[home].0)
                .expect("of this name");
            assert_eq!(node.asked(&connect.bytes()), 1, "{id}");
        }
    }
}

#[test]
fn a_source_that_fails_or_lists_another_cluster_changes_nothing() {
    let cluster = EmqxCluster::of(3);
    let [a, b, c] = &cluster.names()[..] else {
        panic!("three nodes")
    };
    cluster.list(&[a, b]);
    let balancer = Balancer::of(&cluster.toml(
        &[cluster.api.address],
        "grace = \"10m\"\n[nodes_api]\ntimeout = \"300ms\"\n",
    ));
    let two = [a.clone(), b.clone()];
    until_found(&balancer, &two);
    let admin = balancer.running.admin().expect("an admin listener");
    let many: Vec<String> = (0..1001)
        .map(|number| format!("{{\"node\":\"emqx@n{number}\"}}"))
        .collect();
    let many = format!("[{}]", many.join(","));
    let long = format!("[{}]", " ".repeat(1_100_000));
    let json = "application/json";
    for (number, (bytes, result)) in [
        (
            answer("401 Unauthorized", json, "{\"code\":\"BAD_API_KEY_OR_SECRET\"}"),
            "failed",
        ),
        (answer("404 Not Found", json, "{}"), "failed"),
        (answer("200 OK", json, "[]"), "failed"),
        (answer("200 OK", json, &many), "failed"),
        (answer("200 OK", json, &long), "failed"),
        (answer("200 OK", json, "[{\"node\":\"emqx@"), "failed"),
        (b"junk".to_vec(), "failed"),
        (Vec::new(), "failed"),
        (answer("200 OK", json, "[{\"node\":\"emqx@10.9.9.9\"}]"), "held_back"),
    ]
    .into_iter()
    .enumerate()
    {
        let series = format!("remora_discovery_answers_total{{result=\"{result}\"}}");
        cluster.api.answer("/api/v5/nodes", bytes);
        let before = Metrics::of(admin).value(&series);
        wait::until(&format!("answer {number} was taken"), || {
            Metrics::of(admin).value(&series) >= before + 2.0
        });
        assert_eq!(names(&balancer).len(), 2, "{number}");
        let _client = Client::accepted(balancer.address, &Connect::new(format!("id-{number}")));
    }
    // A node more, and two with one name.
    cluster.list(&[c, b, a, a]);
    until_found(&balancer, &cluster.names());
    // One is missing, and stays.
    cluster.list(&[a, b]);
    let used = || Metrics::of(admin).value("remora_discovery_answers_total{result=\"used\"}");
    let before = used();
    wait::until("it is missing again and again", || used() >= before + 3.0);
    assert_eq!(names(&balancer).len(), 3);
}

#[test]
fn a_node_that_has_been_missing_for_the_grace_time_leaves_and_its_clients_stay() {
    let cluster = EmqxCluster::of(2);
    let [a, b] = &cluster.names()[..] else {
        panic!("two nodes")
    };
    cluster.list(&[a, b]);
    let balancer = Balancer::of(&cluster.toml(&[cluster.api.address], "grace = \"100ms\"\n"));
    until_found(&balancer, &cluster.names());
    let connects: Vec<Connect> = (0..20).map(|number| Connect::new(format!("id-{number}"))).collect();
    let mut clients: Vec<Client> = connects
        .iter()
        .map(|connect| Client::accepted(balancer.address, connect))
        .collect();
    let of_b: Vec<usize> = (0..20)
        .filter(|number| cluster.nodes[1].asked(&connects[*number].bytes()) == 1)
        .collect();
    assert!(!of_b.is_empty());
    cluster.list(&[a]);
    wait::until("it has left", || {
        let nodes = balancer.running.nodes();
        nodes.iter().any(|node| *node.name == **b && node.endpoints.is_empty())
    });
    for number in of_b {
        clients[number].send(b"\xC0\0");
        let all = [connects[number].bytes(), b"\xC0\0".to_vec()].concat();
        wait::until("its client goes on", || cluster.nodes[1].asked(&all) == 1);
        let again = connects[number].clone().keep_alive(7);
        let _client = Client::accepted(balancer.address, &again);
        assert_eq!(cluster.nodes[0].asked(&again.bytes()), 1, "new ones go elsewhere");
    }
}

#[test]
fn seeds_are_asked_in_turn_with_the_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("api.key");
    std::fs::write(&file, "key:secret\n").expect("written");
    let cluster = EmqxCluster::of(2);
    let [silent, refusing] = [FakeApi::start(), FakeApi::start()];
    silent.answer("", Vec::new());
    refusing.answer("", answer("403 Forbidden", "application/json", "{}"));
    let names = cluster.names();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    cluster.list(&names);
    // Nobody listens there.
    let away = SocketAddr::from((own_address(), 9));
    let seeds = [away, silent.address, refusing.address, cluster.api.address];
    let tables = format!("[nodes_api]\ntimeout = \"500ms\"\ncredentials = {file:?}\n");
    let balancer = Balancer::of(&cluster.toml(&seeds, &tables));
    until_found(&balancer, &cluster.names());
    for api in [&silent, &refusing, &cluster.api] {
        let requests = api.requests();
        assert!(
            requests[0].starts_with("GET /api/v5/nodes HTTP/1.1\r\n"),
            "{requests:?}"
        );
        assert!(
            requests[0].contains("authorization: Basic a2V5OnNlY3JldA==\r\n"),
            "{requests:?}"
        );
    }
}
