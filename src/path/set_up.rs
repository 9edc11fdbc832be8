//! A connection whose set-up is complete: turns the result of greeting into a connection to relay.

use crate::mqtt::keep_alive_limit;
use crate::net::socket::Socket;
use crate::path::accept::Admitted;
use crate::path::accounts::Accounts;
use crate::path::greet::{ClientInfo, GreetReport, Greeted};
use crate::path::record::{Record, Steps};
use crate::path::relay::{self, Relayed};

/// A connection whose set-up is complete.
#[derive(Debug)]
pub(crate) struct SetUp {
    greeted: Greeted,
    admitted: Admitted,
}

impl SetUp {
    /// A client and the node that answered it, counted by `admitted`.
    pub(crate) fn new(greeted: Greeted, admitted: Admitted) -> Self {
        Self { greeted, admitted }
    }

    /// The connection, ready for the relay. It stays counted until the relay ends.
    pub(crate) fn into_relayed(self, record: Box<Record>, settings: &relay::Settings) -> Relayed<Socket> {
        let Greeted {
            sides,
            choice,
            permit,
            keep_alive,
            ..
        } = self.greeted;
        Accounts::new(self.admitted, permit).keep();
        Relayed {
            sides,
            idle_limit: settings.idle_limit(keep_alive_limit(keep_alive)),
            activity: None,
            node_id: choice.id,
            record,
        }
    }
}

/// What greeting needs from a record.
pub(crate) fn client_info(record: &Record) -> ClientInfo<'_> {
    ClientInfo {
        accepted: record.accepted,
        address: record.client,
        identity: record.identity.as_deref(),
    }
}

/// Records what greeting did, whether or not a node accepted the client.
pub(crate) fn note_greeting(record: &mut Record, report: &GreetReport) {
    record.node = report.tried.map(|(node, _)| node);
    record.decision = report.tried.map(|(_, decision)| decision);
    record.retries = report.retries;
    record.code = report.code;
    record.steps.pace = Steps::micros(report.pace);
    record.steps.dial = Steps::micros(report.dial);
    record.steps.greet = Steps::micros(report.greet);
}
