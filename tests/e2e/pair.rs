//! A client and its connection at the node, between which messages go both ways.

use std::sync::Arc;

use crate::balancer::Program;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::Connection;
use crate::packets::{self, Connect};

/// A client, its connection at the node, and what it has sent.
pub(crate) struct Pair {
    pub client: Client,
    pub node: Arc<Connection>,
    sent: Vec<u8>,
}

impl Pair {
    #[track_caller]
    pub(crate) fn accepted(cluster: &Cluster, program: &Program, id: &str) -> Self {
        let sent = Connect::new(id).bytes();
        let client = Client::accepted(program.address, &Connect::new(id));
        let (_, node) = cluster.holder(&sent);
        Self { client, node, sent }
    }

    /// Messages go both ways.
    #[track_caller]
    pub(crate) fn talks(&mut self, text: &str) {
        let message = packets::publish(text.as_bytes());
        self.client.send(&message);
        self.sent.extend_from_slice(&message);
        self.node.expect(&self.sent);
        self.node.send(&message);
        self.client.expect(&message);
    }
}
