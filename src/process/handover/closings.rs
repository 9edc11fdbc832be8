//! What an operator has ordered and is not over yet: told to the process that takes over, which goes on with it.

use std::io;
use std::sync::Arc;

use crate::base::log::Escaped;
use crate::cluster::NodeId;
use crate::handover::messages;
use crate::process::closings::{Order, Which};
use crate::process::handle::Handle;
use crate::process::rebalance::RebalanceStatus;

const REBALANCE: &str = "rebalance";
const DRAIN: &str = "drain";
const CLOSE_NODE: &str = "close-node";

impl Handle {
    /// What is under way, and the last rebalance also if it is over. To be called while nothing is closed.
    pub(super) fn closings(&self) -> Vec<messages::Closing> {
        let rebalance = self.0.rebalance.to_carry().map(|(status, numbers)| messages::Closing {
            order: REBALANCE.to_owned(),
            node: status.node,
            rate: status.rate,
            numbers: numbers.to_vec(),
            selected: status.selected,
            closed: status.closed,
            is_over: !status.is_running,
        });
        let cluster = self.0.shared.clusters.current();
        let of_nodes = self.0.closings.to_carry();
        let of_nodes = of_nodes.into_iter().filter_map(|(node, Order { rate, which })| {
            let (order, numbers) = match which {
                Which::All => (DRAIN, Vec::new()),
                Which::UpTo(numbers) => (CLOSE_NODE, numbers.to_vec()),
            };
            Some(messages::Closing {
                order: order.to_owned(),
                node: Some(cluster.known(node)?.name.to_string()),
                rate,
                numbers,
                ..messages::Closing::default()
            })
        });
        rebalance.into_iter().chain(of_nodes).collect()
    }

    /// Goes on with what an operator has ordered in the process before.
    pub(super) fn go_on_with(&self, closings: Vec<messages::Closing>) {
        for closing in closings {
            let order = Escaped(closing.order.as_bytes());
            let node = closing.node.as_deref().map(|node| Escaped(node.as_bytes()));
            let node = node.as_ref().map(tracing::field::display);
            match self.go_on_with_one(&closing) {
                Ok(()) if closing.is_over => {}
                Ok(()) => tracing::info!(%order, node, rate = closing.rate, "order of the process before goes on"),
                Err(error) => tracing::warn!(%order, node, %error, "order of the process before cannot go on"),
            }
        }
    }

    fn go_on_with_one(&self, closing: &messages::Closing) -> io::Result<()> {
        let numbers: Arc<[u64]> = closing.numbers.as_slice().into();
        let which = match &*closing.order {
            REBALANCE => return self.go_on_with_rebalance(closing, numbers),
            DRAIN => Which::All,
            CLOSE_NODE => Which::UpTo(numbers),
            _ => return Err(io::Error::other("not known to this version")),
        };
        let cluster = self.0.shared.clusters.current();
        let mut known = (0..).map(NodeId).zip(cluster.all_known());
        let node = known.find(|(_, known)| Some(&*known.name) == closing.node.as_deref());
        let (node, _) = node.ok_or_else(|| io::Error::other("there is no such node"))?;
        let rate = closing.rate;
        self.start_closing(node, Order { rate, which });
        Ok(())
    }

    fn go_on_with_rebalance(&self, closing: &messages::Closing, numbers: Arc<[u64]>) -> io::Result<()> {
        let (selected, closed) = (closing.selected, closing.closed);
        if closing.is_over {
            self.0.rebalance.remember(RebalanceStatus {
                node: closing.node.clone(),
                rate: closing.rate,
                selected,
                closed,
                is_running: false,
            });
            return Ok(());
        }
        let order = self.rebalance_order(closing.node.as_deref(), closing.rate, numbers)?;
        self.0.rebalance.resume(&self.0.runtime, order, selected, closed);
        Ok(())
    }
}
