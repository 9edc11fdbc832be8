//! What an operator has ordered, and is under way: it goes on in the process that takes over.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use remora::handover::messages::{
    Closing, Complete, Hello, Knowledge, ListenSocket, Manifest, Placement, Prepared, State,
};
use remora::handover::{self, Deadlines, Offered, Step, Taker};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::admin_client::ask_socket;
use crate::balancer::{ADMIN, Program, block_on, toml};
use crate::certificates::{BOTH, Certificates};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, End};
use crate::packets::{self, Connect};
use crate::pair::Pair;
use crate::tls_client::TlsClient;
use crate::wait;

/// What the API answers.
#[track_caller]
fn api(program: &Program, method: &str, path: &str, body: &str) -> Value {
    let answer = ask_socket(program.socket(), method, &format!("/api/v1/{path}"), body);
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

fn node0(program: &Program) -> Value {
    api(program, "GET", "nodes/node0", "")
}

/// Starts `remora ctl --json` with these arguments.
fn ctl(program: &Program, arguments: &[&str]) -> Child {
    let mut ctl = Command::new(env!("CARGO_BIN_EXE_remora"));
    ctl.args(["ctl", "--json", "--socket"]).arg(program.socket());
    ctl.args(arguments).stdout(Stdio::piped()).spawn().expect("it starts")
}

/// Waits for its end; what it has printed.
#[track_caller]
fn printed(mut ctl: Child) -> Value {
    let mut text = String::new();
    let mut stdout = ctl.stdout.take().expect("piped");
    stdout.read_to_string(&mut text).expect("text");
    let status = ctl.wait().expect("its end");
    assert!(status.success(), "{status}: {text}");
    serde_json::from_str(&text).expect("JSON")
}

/// So many clients that are at home on this node, with their connections at the nodes where they are.
fn pairs(cluster: &Cluster, program: &Program, node: usize, count: usize) -> Vec<Pair> {
    let ids = cluster.ids_at_home(node, "id", count);
    let mut pairs: Vec<Pair> = ids.iter().map(|id| Pair::accepted(cluster, program, id)).collect();
    // They are relayed by now.
    pairs.iter_mut().for_each(|pair| pair.talks("hello"));
    pairs
}

#[track_caller]
fn all_are_closed(pairs: &mut [Pair]) {
    for pair in pairs {
        assert_eq!(pair.client.end(), End::Fin);
    }
}

/// Clients of node0 that are on node1, and could go home.
fn off_home(cluster: &Cluster, program: &Program, count: usize) -> Vec<Pair> {
    api(program, "POST", "nodes/node0/drain", "");
    let pairs = pairs(cluster, program, 0, count);
    api(program, "POST", "nodes/node0/undrain", "");
    pairs
}

#[test]
fn a_rebalance_goes_on_from_where_it_was_and_the_command_waits_for_its_end() {
    const CLIENTS: usize = 50;
    let cluster = Cluster::of(2);
    let mut program = Program::start(&cluster, ADMIN);
    let mut clients = off_home(&cluster, &program, CLIENTS);
    let mut at_home = pairs(&cluster, &program, 1, 3);
    let began = Instant::now();
    let waits = ctl(&program, &["rebalance", "node0", "--rate", "5/s", "--wait"]);
    program.until_ended_with("closed", 1);
    for _ in 0..2 {
        let before = api(&program, "GET", "rebalance", "");
        program.upgrade();
        let after = api(&program, "GET", "rebalance", "");
        assert_eq!(
            (&after["node"], &after["rate"]),
            (&json!("node0"), &json!(5)),
            "{after}"
        );
        assert_eq!(
            (&after["selected"], &after["is_running"]),
            (&json!(CLIENTS), &json!(true))
        );
        assert!(
            after["closed"].as_u64() >= before["closed"].as_u64(),
            "{after} {before}"
        );
    }
    all_are_closed(&mut clients);
    let over = json!({"node": "node0", "rate": 5, "selected": CLIENTS, "closed": CLIENTS, "is_running": false});
    assert_eq!(printed(waits), over);
    assert!(began.elapsed() >= Duration::from_secs(9), "50 at 5 a second");
    program.until_ended_with("closed", CLIENTS);
    at_home
        .iter_mut()
        .for_each(|pair| pair.talks("nothing was ordered for it"));
    // Also of one that is over, the next process knows what has become of it.
    program.upgrade();
    assert_eq!(api(&program, "GET", "rebalance", ""), over);
}

#[test]
fn a_drain_at_a_rate_goes_on_until_the_node_is_empty_and_the_command_waits_for_that() {
    let cluster = Cluster::of(2);
    let mut program = Program::start(&cluster, ADMIN);
    let mut clients = pairs(&cluster, &program, 0, 30);
    let mut others = pairs(&cluster, &program, 1, 3);
    let began = Instant::now();
    let waits = ctl(&program, &["drain", "node0", "--rate", "5/s", "--wait"]);
    program.until_ended_with("closed", 1);
    program.upgrade();
    let node = node0(&program);
    assert_eq!(
        (&node["closing_rate"], &node["is_draining"]),
        (&json!(5), &json!(true)),
        "{node}"
    );
    all_are_closed(&mut clients);
    assert_eq!(printed(waits)["connections"], 0);
    assert!(began.elapsed() >= Duration::from_secs(5), "30 at 5 a second");
    program.until_ended_with("closed", 30);
    others.iter_mut().for_each(|pair| pair.talks("on another node"));
    wait::until("it is over", || node0(&program)["closing_rate"].is_null());
}

#[test]
fn closing_the_connections_of_a_node_goes_on_and_spares_those_that_came_later() {
    let cluster = Cluster::of(2);
    let two = toml(&cluster, "", ADMIN);
    let mut program = Program::of(&two);
    let mut clients = pairs(&cluster, &program, 0, 8);
    // Some of them are of a worker that there is no more.
    program.configure(&two.replace("workers = 2", "workers = 1"));
    program.upgrade();
    api(&program, "POST", "nodes/node0/close", "{\"rate\":4}");
    let mut later = Pair::accepted(&cluster, &program, &cluster.id_at_home(0, "later"));
    program.upgrade();
    all_are_closed(&mut clients);
    wait::until("it is over", || node0(&program)["closing_rate"].is_null());
    later.talks("still here");
    assert_eq!(node0(&program)["connections"], 1);
}

#[test]
fn the_clients_of_a_node_that_is_down_are_closed_by_the_next_process_as_well() {
    let cluster = Cluster::of(2);
    let health = "failures_max = 1\ndown_min = \"200ms\"\ndown_max = \"200ms\"\non_down_rate = 5";
    let tables = format!("{ADMIN}[health]\n{health}\n[timeouts]\ngreet = \"1s\"");
    let mut program = Program::start(&cluster, &tables);
    let mut clients = pairs(&cluster, &program, 0, 20);
    cluster.nodes[0].answer(Answer::Stall);
    let mut finds_out = Client::to(program.address);
    finds_out.send(&Connect::new(cluster.id_at_home(0, "finds out")).bytes());
    finds_out.expect(&packets::connack(4, 0));
    program.until_ended_with("node_down", 1);
    let began = Instant::now();
    program.upgrade();
    let left = node0(&program)["connections"].as_u64().expect("a number");
    all_are_closed(&mut clients);
    program.until_ended_with("node_down", 20);
    assert!(
        began.elapsed() >= Duration::from_secs(left.saturating_sub(5) / 5),
        "{left} at 5 a second"
    );
}

#[test]
fn what_stays_with_the_old_process_is_closed_by_that() {
    let cluster = Cluster::of(2);
    let certificates = Certificates::new();
    let config = Arc::new(certificates.trusting(BOTH, None));
    let mut program = Program::of(&toml(&cluster, &certificates.listener(), ADMIN));
    let ids = cluster.ids_at_home(0, "encrypted", 6);
    let accepted = |id: &String| TlsClient::accepted(program.address, &config, &Connect::new(id));
    let mut clients: Vec<TlsClient> = ids.iter().map(accepted).collect();
    api(&program, "POST", "nodes/node0/drain", "{\"rate\":4}");
    program.upgrade();
    for client in &mut clients {
        client.rest();
    }
    assert_eq!(program.old_exit_code(), Some(0));
    program.until_ended_with("closed", 6);
}

#[test]
fn an_order_that_cannot_go_on_is_a_line_of_the_log() {
    let cluster = Cluster::of(2);
    let mut program = Program::start(&cluster, ADMIN);
    let mut clients = off_home(&cluster, &program, 20);
    api(&program, "POST", "nodes/node0/rebalance", "{\"rate\":1}");
    let whole = toml(&cluster, "", ADMIN);
    program.configure(&whole.replace(&cluster.nodes[0].toml(100), ""));
    program.upgrade();
    let line = program.at_least(1, |line| line["message"] == "order of the process before cannot go on");
    assert_eq!(
        (&line[0]["order"], &line[0]["node"]),
        (&json!("rebalance"), &json!("node0"))
    );
    assert_eq!(api(&program, "GET", "rebalance", "")["is_running"], false);
    clients.last_mut().expect("a client").talks("it is where it was");
}

/// Holds everything, and refuses in the last moment.
#[derive(Default)]
struct Refuses {
    socket: PathBuf,
    closings: Vec<Closing>,
    /// An order that was given meanwhile.
    asking: Option<UnixStream>,
}

impl Taker for Refuses {
    fn hello(&self) -> Hello {
        Hello {
            descriptors_max: 20_000,
            ..Hello::default()
        }
    }

    async fn begin(&mut self, _: Manifest) -> Result<(), String> {
        Ok(())
    }

    async fn sockets(&mut self, _: Vec<(ListenSocket, OwnedFd)>) -> Result<(), String> {
        Ok(())
    }

    async fn relays(&mut self, _: Vec<Offered>) -> Result<(), String> {
        Ok(())
    }

    async fn placements(&mut self, _: Vec<Placement>) -> Result<(), String> {
        Ok(())
    }

    async fn prepare(&mut self) -> Result<Prepared, String> {
        Ok(Prepared::default())
    }

    async fn states(&mut self, _: Vec<State>) -> Result<(), String> {
        Ok(())
    }

    async fn knowledge(&mut self, _: Knowledge) -> Result<(), String> {
        Ok(())
    }

    async fn adopt(&mut self, complete: Complete) -> Result<Vec<u64>, String> {
        self.closings = complete.closings;
        let mut asking = UnixStream::connect(&self.socket).expect("an admin socket");
        let order = "POST /api/v1/nodes/node1/drain HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        asking.write_all(order.as_bytes()).expect("it reads");
        asking.set_read_timeout(Some(STILL)).expect("an option");
        let answer = wait::uninterrupted(|| asking.read(&mut [0]));
        answer.expect_err("answered, while it is open which process the order is for");
        self.asking = Some(asking);
        Err("not today".to_owned())
    }

    async fn run(&mut self) {
        panic!("it has refused");
    }

    async fn discard(&mut self) {}

    fn progress(&mut self, _: Step) {}
}

/// How long a process holds the connections that are to move.
const STILL: Duration = Duration::from_millis(500);

#[test]
fn after_a_handover_that_failed_everything_goes_on_at_its_rate() {
    let folder = TempDir::new().expect("a folder");
    let socket = folder.path().join("handover.sock");
    let cluster = Cluster::of(2);
    let tables = format!("{ADMIN}[handover]\nsocket = \"{}\"\n", socket.display());
    let program = Program::start(&cluster, &tables);
    let mut clients = pairs(&cluster, &program, 0, 60);
    let began = Instant::now();
    api(&program, "POST", "nodes/node0/drain", "{\"rate\":20}");
    let mut taker = Refuses {
        socket: program.socket().to_owned(),
        ..Refuses::default()
    };
    let failed = block_on(async {
        let socket = tokio::net::UnixStream::connect(&socket).await.expect("it listens");
        handover::take(socket, &mut taker, Deadlines::default()).await
    });
    failed.expect_err("it has refused");
    let [closing] = &*taker.closings else {
        panic!("{:?}", taker.closings);
    };
    assert_eq!(
        (&*closing.order, closing.node.as_deref(), closing.rate),
        ("drain", Some("node0"), 20)
    );
    // What was ordered meanwhile is carried out here.
    let mut answer = String::new();
    let mut asking = taker.asking.expect("an order");
    asking.set_read_timeout(Some(wait::DEADLINE)).expect("an option");
    asking.read_to_string(&mut answer).expect("an answer");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("draining"),
        "{answer}"
    );
    all_are_closed(&mut clients);
    program.until_ended_with("closed", 60);
    let least = STILL + Duration::from_secs(3) - Duration::from_millis(50);
    assert!(began.elapsed() >= least, "60 at 20 a second: {:?}", began.elapsed());
}
