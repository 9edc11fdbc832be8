//! Where a connection is counted: on its listener, its source and its node. The bytes held before its relay are counted
//! by `HeldBytes`, and uncounted as they are released.

use std::sync::Arc;

use crate::cluster::{Cluster, ConnectionPermit};
use crate::path::accept::{Admission, Admitted, ListenerCount};
use crate::path::record::Record;

/// The counts of one connection, undone on drop.
///
/// A relay keeps none of the guards, which would take 48 bytes of each idle connection. They are forgotten when the
/// relay begins, and made again when it ends from the record, which says where the connection is counted.
#[derive(Debug)]
pub(crate) struct Accounts {
    admitted: Admitted,
    permit: Option<ConnectionPermit>,
}

impl Accounts {
    /// The counts that a connection's set-up has made.
    pub(crate) fn new(admitted: Admitted, permit: ConnectionPermit) -> Self {
        Self {
            admitted,
            permit: Some(permit),
        }
    }

    /// Leaves the connection counted while it is relayed; [`Accounts::of_relayed`] takes over.
    pub(crate) fn keep(self) {
        self.admitted.keep();
        if let Some(permit) = self.permit {
            permit.keep();
        }
    }

    /// Counts a connection that another process has relayed, whatever the limits are: it is there.
    pub(crate) fn of_adopted(
        record: &Record,
        admission: &Arc<Admission>,
        listener_count: &Arc<ListenerCount>,
        cluster: &Cluster,
    ) -> Self {
        let known = record.node.and_then(|id| cluster.known(id));
        Self {
            admitted: Admitted::beyond_limits(admission, listener_count, record.client.ip()),
            permit: known.map(|known| ConnectionPermit::of(&known.load)),
        }
    }

    /// The counts of a connection whose relay has ended.
    pub(crate) fn of_relayed(
        record: &Record,
        admission: &Arc<Admission>,
        listener_count: &Arc<ListenerCount>,
        cluster: &Cluster,
    ) -> Self {
        let known = record.node.and_then(|id| cluster.known(id));
        Self {
            admitted: Admitted::kept(admission, listener_count, record.client.ip()),
            permit: known.map(|known| ConnectionPermit::kept(&known.load)),
        }
    }
}
