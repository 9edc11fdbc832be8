//! Another process takes over all listeners and connections, and nobody notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::admin_client::{Metrics, ask_socket};
use crate::balancer::{ADMIN, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::Connection;
use crate::packets::{self, Connect};

/// A client and its connection at the node.
struct Pair {
    client: Client,
    node: Arc<Connection>,
    connect: Connect,
}

impl Pair {
    #[track_caller]
    fn accepted(cluster: &Cluster, program: &Program, id: &str) -> Self {
        let connect = Connect::new(id);
        let client = Client::accepted(program.address, &connect);
        let (_, node) = cluster.holder(&connect.bytes());
        Self { client, node, connect }
    }

    /// Messages go both ways; `sent` are the bytes of the client so far, behind its CONNECT.
    #[track_caller]
    fn talks(&mut self, sent: &mut Vec<u8>, text: &str) {
        let message = packets::publish(text.as_bytes());
        self.client.send(&message);
        sent.extend_from_slice(&message);
        self.node.expect(&[self.connect.bytes(), sent.clone()].concat());
        self.node.send(&message);
        self.client.expect(&message);
    }
}

#[test]
fn a_connection_goes_on_over_many_upgrades_and_new_clients_are_accepted() {
    let cluster = Cluster::of(2);
    let mut program = Program::start(&cluster, ADMIN);
    let mut pair = Pair::accepted(&cluster, &program, "stays");
    let mut sent = Vec::new();
    let mut others = Vec::new();
    pair.talks(&mut sent, "before");
    for number in 0..3 {
        let done = program.upgrade();
        assert_eq!(done["moved"], 1 + number, "{done}");
        assert_eq!(program.old_exit_code(), Some(0));
        pair.talks(&mut sent, &format!("after {number}"));
        others.push(Pair::accepted(&cluster, &program, &format!("new {number}")));
    }
    assert_eq!(program.ended_with("shutdown"), 0);
}
