//! Looks a host name up, off every thread that matters.

use std::io;
use std::net::SocketAddr;

use tokio::sync::mpsc;

use crate::cluster::{NodeAddress, NodeId};

/// What a look-up brought.
#[derive(Debug)]
pub struct Found {
    /// For which node.
    pub node: NodeId,
    /// What was looked up; the node may be somewhere else by now.
    pub asked: NodeAddress,
    /// Its addresses, sorted so that the same answer in another order is the same; never empty.
    pub addresses: io::Result<Vec<SocketAddr>>,
}

/// Starts a look-up with the system's resolver, in the runtime's pool of blocking threads.
pub fn look_up(node: NodeId, asked: NodeAddress, found: mpsc::Sender<Found>) {
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
        // Control has gone: nobody wants to know any more.
        let _ = found
            .send(Found {
                node,
                asked,
                addresses,
            })
            .await;
    });
}

async fn lookup(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses = tokio::net::lookup_host((host, port)).await?;
    Ok(addresses.collect())
}
