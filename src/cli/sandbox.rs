//! `remora sandbox`: the sandbox's nodes without a balancer, as the cluster of a container or a test.

use std::io;
use std::net::SocketAddr;

use clap::Args;
use remora_sandbox::{Sandbox, Settings};

use super::signals::Signals;
use super::{columns, print};

#[derive(Args)]
pub(super) struct Arguments {
    /// The address of the first node; each further one has the next port. With port 0, every node has a free one.
    #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    address: SocketAddr,
    /// The same for WebSocket.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    ws_address: SocketAddr,
    /// Break the routing between the nodes: a message reaches only the clients of the node where it was published.
    #[arg(long)]
    broken_routing: bool,
}

/// Runs the nodes until a signal stops them.
pub(super) fn run(arguments: &Arguments) -> io::Result<()> {
    let (runtime, mut signals) = Signals::catch()?;
    let sandbox = Sandbox::start(Settings {
        address: arguments.address,
        ws_address: arguments.ws_address,
        routing_is_cut: arguments.broken_routing,
        ..Settings::default()
    })?;
    let row = |node: &remora_sandbox::Node| {
        let (address, ws) = (node.address(), node.ws_address());
        vec![node.name().to_owned(), address.to_string(), format!("ws://{ws}/mqtt")]
    };
    let rows: Vec<_> = sandbox.nodes().iter().map(row).collect();
    print(&columns("", &rows));
    runtime.block_on(signals.end_or_hang_up());
    sandbox.stop();
    Ok(())
}
