//! What goes into a table and what comes out: a connection to relay, and a relay that has ended.

use std::time::Duration;

use crate::base::clock::Seconds;
use crate::cluster::NodeId;
use crate::net::socket::{Detached, Socket};
use crate::path::ended::{Details, Ended};
use crate::path::record::Record;
use crate::path::relay::activity::Activity;
use crate::path::relay::closing::Closing;
use crate::path::sides::{Bytes, Sides};

/// A greeted connection, ready to be relayed; also one that was taken out of another worker's table.
#[derive(Debug)]
pub struct Relayed<S> {
    /// Both sockets, and what was read from them.
    pub sides: Sides<S>,
    /// A client that is silent for this long is disconnected; `None` means never.
    pub idle_limit: Option<Seconds>,
    /// When its peers last sent something; `None` for a relay that begins.
    pub activity: Option<Activity>,
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
            activity: self.activity,
            node_id: self.node_id,
            record: self.record,
        })
    }
}

/// A relay as it is now, in its table.
#[derive(Clone, Copy, Debug)]
pub struct RelayView<'a> {
    /// Its node.
    pub node_id: NodeId,
    /// What is known of the connection.
    pub record: &'a Record,
    /// What was moved.
    pub bytes: Bytes,
    /// When its peers last sent something.
    pub activity: Activity,
    /// A client that is silent for this long is disconnected; `None` means never.
    pub idle_limit: Option<Seconds>,
}

/// A relay as it was when it was looked at.
#[derive(Clone, Debug)]
pub struct RelayStatus {
    /// Its node.
    pub node_id: NodeId,
    /// What is known of the connection.
    pub record: Record,
    /// What was moved.
    pub bytes: Bytes,
    /// For how long the client has sent nothing.
    pub client_silence: Duration,
    /// For how long the node has sent nothing, in whole sweeps.
    pub node_silence: Duration,
    /// For how long the node has sent nothing but answers to pings, in whole sweeps.
    pub message_silence: Duration,
}

impl RelayView<'_> {
    /// For how long the client has sent nothing.
    pub fn client_silence(&self, now: Seconds) -> Duration {
        now.since(self.activity.client)
    }

    /// For how long the node has sent nothing but answers to pings, in whole sweeps.
    pub fn message_silence(&self, now: Seconds) -> Duration {
        now.since(self.activity.message)
    }

    /// A copy.
    pub fn status(&self, now: Seconds) -> RelayStatus {
        RelayStatus {
            node_id: self.node_id,
            record: self.record.clone(),
            bytes: self.bytes,
            client_silence: self.client_silence(now),
            node_silence: now.since(self.activity.node),
            message_silence: self.message_silence(now),
        }
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
