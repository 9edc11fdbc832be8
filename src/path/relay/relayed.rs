//! What goes into a table and what comes out: a connection to relay, and a relay that has ended.

use crate::base::clock::Seconds;
use crate::cluster::NodeId;
use crate::net::socket::{Detached, Socket};
use crate::path::ended::{Details, Ended};
use crate::path::record::Record;
use crate::path::relay::closing::Closing;
use crate::path::sides::{Bytes, Sides};

/// A greeted connection, ready to be relayed; also one that was taken out of another worker's table.
#[derive(Debug)]
pub struct Relayed<S> {
    /// Both sockets, and what was read from them.
    pub sides: Sides<S>,
    /// A client that is silent for this long is disconnected; `None` means never.
    pub idle_limit: Option<Seconds>,
    /// Its node.
    pub node_id: NodeId,
    /// What is known of the connection.
    pub record: Box<Record>,
}

impl Relayed<Detached> {
    /// Registers both sockets with this thread's runtime.
    ///
    /// # Errors
    /// The connection is lost, since one of them could not be registered; its record is left.
    pub(crate) fn register(self) -> Result<Relayed<Socket>, Box<Record>> {
        let Ok(sides) = self.sides.attach() else {
            return Err(self.record);
        };
        Ok(Relayed {
            sides,
            idle_limit: self.idle_limit,
            node_id: self.node_id,
            record: self.record,
        })
    }
}

/// A relay that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The cause.
    pub cause: Ended,
    /// What the log says beside the cause.
    pub details: Option<Box<Details>>,
    /// What is known of the connection.
    pub record: Box<Record>,
    /// What was moved.
    pub bytes: Bytes,
    /// The part of it that [`Table::count`](super::Table::count) has not reported.
    pub uncounted: Bytes,
    /// A socket that is still to be closed, in a task of its own.
    pub left: Option<Closing>,
    /// Its node, if the connection to it was closed from here first, which keeps its source port in TIME_WAIT.
    pub time_wait: Option<NodeId>,
}
