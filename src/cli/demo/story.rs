//! The experiment of `remora demo --broken-routing`: the same subscriber restarts three times behind round robin, behind Remora,
//! and behind Remora with routing restored. Every word of the result is counted on real MQTT connections.

use std::io;
use std::net::SocketAddr;

use remora_sandbox::{Client, Node, Sandbox};

use super::print;

/// How often the subscriber restarts in each part.
const RESTARTS: usize = 3;

const TOPIC: &str = "demo/restarts";

/// What the experiment needs.
pub(super) struct Story<'a> {
    pub(super) sandbox: &'a Sandbox,
    /// Remora's TCP listener.
    pub(super) remora: SocketAddr,
    /// The stable client id of the subscriber.
    pub(super) subscriber: &'a str,
    /// The index of the subscriber's home.
    pub(super) home: usize,
}

/// Whom the subscriber connects to after each restart.
#[derive(Clone, Copy)]
enum Through {
    /// Each node in turn.
    RoundRobin,
    Remora,
}

impl Story<'_> {
    /// Tells the story while it happens. Routing must be broken at the beginning, and is joined at the end.
    pub(super) async fn tell(&self) -> io::Result<()> {
        let nodes = self.sandbox.nodes();
        let (home, away) = (&nodes[self.home], &nodes[(self.home + 1) % nodes.len()]);
        let (here, there) = (home.name(), away.name());
        print(&format!(
            "An experiment: client {} connects, subscribes, and waits for a message; then it restarts, {RESTARTS} times.\n\
                 The nodes do not route messages to each other.\n\n\
                 1. The nodes in turn, as a balancer connects a client that it does not know. The publisher is on {here}.\n\n",
            self.subscriber
        ))?;
        let [in_turn] = self.part(Through::RoundRobin, [home]).await?;
        print(&format!(
            "\n   Received after {in_turn} of {RESTARTS} restarts: a message reaches only the clients of the node where it was published.\n\n\
                 2. Through Remora, by the client id. A second publisher is on {there}, connected past the balancer.\n\n"
        ))?;
        let [near, far] = self.part(Through::Remora, [home, away]).await?;
        print(&format!(
            "\n   From {here}, received after {near} of {RESTARTS} restarts: the client id leads to the same node each time.\n   \
                 From {there}, after {far} of {RESTARTS}: Remora chooses nodes, it does not route messages between them.\n   \
                 That is the cluster's task, and its routing is broken.\n\n\
                 3. Through Remora, after the routing between the nodes was repaired.\n\n"
        ))?;
        self.sandbox.cut_routing(false)?;
        let [near, far] = self.part(Through::Remora, [home, away]).await?;
        print(&format!(
            "\n   From {here}, received after {near} of {RESTARTS} restarts; from {there}, after {far} of {RESTARTS}.\n\n"
        ))
    }

    /// One part: a publisher on each of these nodes; returns after how many restarts the message of each was received.
    async fn part<const N: usize>(&self, through: Through, nodes: [&Node; N]) -> io::Result<[usize; N]> {
        let mut publishers = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            publishers.push(Client::connect(node.address(), &format!("publisher-{number}")).await?);
        }
        let mut counts = [0; N];
        for restart in 0..RESTARTS {
            let all = self.sandbox.nodes();
            let address = match through {
                Through::RoundRobin => all[restart % all.len()].address(),
                Through::Remora => self.remora,
            };
            let mut subscriber = Client::connect(address, self.subscriber).await?;
            subscriber.subscribe(TOPIC).await?;
            let mut line = format!(
                "   restart {}: {} on {}",
                restart + 1,
                self.subscriber,
                subscriber.node()
            );
            for ((publisher, node), count) in publishers.iter_mut().zip(nodes).zip(&mut counts) {
                let payload = format!("{restart} from {}", node.name());
                publisher.publish(TOPIC, &payload).await?;
                let is_received = subscriber.receives(&payload).await?;
                *count += usize::from(is_received);
                let verdict = if is_received { "received" } else { "not received" };
                line += &format!("; message from {}: {verdict}", node.name());
            }
            print(&format!("{line}\n"))?;
            subscriber.disconnect().await?;
        }
        for publisher in publishers {
            publisher.disconnect().await?;
        }
        Ok(counts)
    }
}
