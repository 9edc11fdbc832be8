//! What is said, counted and reported of a node that could not be used.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::field::display;

use super::{Greeter, Outcome};
use crate::base::log;
use crate::cluster::{Choice, Failure, NodeId, Witness};
use crate::net::node::{Cause, NodeError, Step};
use crate::path::counters::Fault;
use crate::path::ended::Ended;

/// A warning about an endpoint, logged at a limited rate and not once per client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Warning {
    TlsFailed,
    UpgradeRejected,
    SourcePortsExhausted,
    NoSocket,
}

impl Greeter {
    /// Logs and reports that connecting to a node failed.
    ///
    /// # Errors
    /// The process cannot open a socket, which no other node would change.
    pub(super) fn note_failed(&self, error: NodeError, choice: &Choice, witness: Witness) -> Result<Outcome, Ended> {
        let NodeError { step, address, cause } = error;
        let (node, address) = (self.name(choice.id), address.map(display));
        let (node, endpoint) = (&*node, choice.kind.name());
        match cause {
            Cause::SourcePortsExhausted => {
                log::warn_throttled!(
                    self.due(choice, Warning::SourcePortsExhausted),
                    node,
                    endpoint,
                    address,
                    "every source port towards the node is in use; add addresses to dial.sources"
                );
                Ok(Outcome::SourcePortsExhausted)
            }
            Cause::NoSocket(error) => {
                let due = self.due(choice, Warning::NoSocket);
                log::warn_throttled!(due, node, endpoint, %error, "cannot open a socket to a node");
                Err(Ended::DescriptorsExhausted)
            }
            // The client chose the path, the origin and other fields, so all that follows from them may be its doing.
            Cause::UpgradeRejected(answer) => {
                let due = self.due(choice, Warning::UpgradeRejected);
                log::warn_throttled!(due, node, endpoint, address, %answer, "node rejected the WebSocket upgrade");
                self.count(choice, Fault::Upgrade);
                // As a proxy answers in front of a node that is dead.
                if answer.is_server_error() {
                    self.reports.failed(choice, Failure::Suspected);
                }
                Ok(Outcome::UpgradeRejected)
            }
            error if step == Step::Upgrade => {
                tracing::debug!(node, endpoint, address, %error, "upgrade failed");
                self.count(choice, Fault::Upgrade);
                self.reports.failed(choice, Failure::Suspected);
                Ok(Outcome::Unreachable)
            }
            // Most often an untrusted certificate, which an operator must fix.
            Cause::Tls(error) => {
                let due = self.due(choice, Warning::TlsFailed);
                log::warn_throttled!(due, node, endpoint, address, %error, "TLS handshake with node failed");
                self.count(choice, Fault::Tls);
                self.reports.failed(choice, Failure::Of(witness));
                Ok(Outcome::Unreachable)
            }
            error => {
                let step = step.name();
                tracing::debug!(node, endpoint, address, step, %error, "node could not be reached");
                self.count(choice, Fault::Dial);
                self.reports.failed(choice, Failure::Of(witness));
                Ok(Outcome::Unreachable)
            }
        }
    }

    /// The name of a node in the log.
    fn name(&self, node: NodeId) -> Arc<str> {
        let cluster = self.clusters.current();
        cluster
            .known(node)
            .map_or_else(|| "-".into(), |known| Arc::clone(&known.name))
    }

    /// Counts what a client met at a node.
    pub(super) fn count(&self, choice: &Choice, fault: Fault) {
        self.counters.of_node(choice.id, |node| node.faults(fault).add(1));
    }

    /// `Some` if this warning is to be logged now, with the number of warnings suppressed since the last one.
    fn due(&self, choice: &Choice, warning: Warning) -> Option<u64> {
        let mut warnings = self.warnings.borrow_mut();
        let throttled = warnings.entry((choice.id, choice.kind, warning)).or_default();
        throttled.due(Instant::now())
    }
}
