//! Looks up a host name, on a thread of the blocking pool.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::cluster::{NodeAddress, NodeId};

/// How long a look-up may take: no second one is started beside it, and a resolver may hang.
const LOOKUP_MAX: Duration = Duration::from_secs(30);

/// The answer to a look-up.
#[derive(Debug)]
pub(super) struct Answer {
    /// The node.
    pub(super) node: NodeId,
    /// What was looked up. The node may have another address by now.
    pub(super) asked: NodeAddress,
    /// Its addresses, sorted so that the same answer in another order is the same; never empty.
    pub(super) addresses: io::Result<Vec<SocketAddr>>,
}

/// Starts a look-up with the system's resolver, in the runtime's pool of blocking threads.
pub(super) fn look_up(node: NodeId, asked: NodeAddress, answers: mpsc::Sender<Answer>) {
    tokio::spawn(async move {
        let addresses = match &asked {
            NodeAddress::Host(host, port) => lookup(host, *port).await,
            NodeAddress::Socket(address) => Ok(vec![*address]),
        };
        let addresses = addresses.and_then(|mut addresses| {
            addresses.sort_unstable();
            addresses.dedup();
            if addresses.is_empty() {
                return Err(io::Error::other("the name has no address"));
            }
            Ok(addresses)
        });
        // Fails if control has ended, which then needs no answer.
        let _ = answers.send(Answer { node, asked, addresses }).await;
    });
}

async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let lookup = tokio::time::timeout(LOOKUP_MAX, tokio::net::lookup_host((host, port)));
    let addresses = lookup.await??;
    Ok(addresses.collect())
}
