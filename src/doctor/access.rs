//! How the doctor connects to nodes: as a client would through the balancer, with a user of its own.

use std::sync::Arc;
use std::time::Duration;

use super::clock::Clocks;
use super::fault::{self, Place, SecondTry};
use super::finding::Finding;
use super::settings::Login;
use crate::cluster::{Endpoint, EndpointKind};
use crate::mqtt::{ConnectPacket, Version};
use crate::net::dial::{self, Dialer};
use crate::net::node::{self, Cause, NodeClient, NodeError, Step};
use crate::net::tls::{self, NodesTls};
use crate::net::websocket::Framing;
use crate::proxy_protocol;

/// How nodes are reached.
#[derive(Clone, Debug)]
pub struct Access {
    /// How they are dialed.
    pub dial: dial::Settings,
    /// TLS to them.
    pub tls: Arc<NodesTls>,
    /// From the connection to the CONNACK.
    pub greet_timeout: Duration,
    /// Whether a PROXY header names this machine as the client.
    pub names_client: bool,
    /// Tells the client ids of this process from those of another.
    pub instance: u32,
    /// The user.
    pub login: Option<Login>,
    /// The clocks of the nodes, as far as they are known.
    pub clocks: Clocks,
}

/// One endpoint of a node.
#[derive(Clone, Debug)]
pub struct Target {
    /// The node's name.
    pub node: Arc<str>,
    /// Which of its endpoints.
    pub kind: EndpointKind,
    /// That endpoint.
    pub endpoint: Endpoint,
}

/// Why an endpoint was not reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReached {
    /// Something is wrong there.
    Found(Finding),
    /// This process could not look.
    CouldNotLook(String),
}

impl Access {
    /// A client of this node, in MQTT 5, or in 3.1.1 where the node has no more; `purpose` is part of its id.
    ///
    /// # Errors
    /// What was found instead, or why nothing could be.
    pub async fn client(&self, target: &Target, purpose: &str) -> Result<NodeClient, NotReached> {
        match self.try_client(target, purpose).await {
            Ok(client) => Ok(client),
            Err(error) => Err(self.diagnose(target, &error).await),
        }
    }

    /// Whether a client would be served at this endpoint; where TLS ends at the node, whether it has TLS at all.
    ///
    /// # Errors
    /// What was found instead, or why nothing could be.
    pub async fn look(&self, target: &Target) -> Result<(), NotReached> {
        match self.try_look(target).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.diagnose(target, &error).await),
        }
    }

    async fn diagnose(&self, target: &Target, error: &NodeError) -> NotReached {
        if let Some(why) = fault::own_fault(error) {
            return NotReached::CouldNotLook(format!("{}: {why}", target.node));
        }
        let second = match fault::is_worth_a_second_try(error) {
            false => SecondTry::None,
            true => {
                let mut other = target.clone();
                other.endpoint.proxy_protocol = match target.endpoint.proxy_protocol {
                    None => Some(proxy_protocol::Version::V2),
                    Some(_) => None,
                };
                match self.try_look(&other).await {
                    Ok(()) => SecondTry::Answered,
                    // It has judged a CONNECT, which it has not before.
                    Err(error) if matches!(error.cause, Cause::Refused(_)) => SecondTry::Answered,
                    Err(_) => SecondTry::Failed,
                }
            }
        };
        let place = Place {
            node: &target.node,
            kind: target.kind,
            has_header: target.endpoint.proxy_protocol.is_some(),
            ahead: self.clocks.get(&*target.node).copied(),
        };
        NotReached::Found(fault::finding(place, error, second))
    }

    async fn try_look(&self, target: &Target) -> Result<(), NodeError> {
        if target.kind != EndpointKind::Pass {
            self.try_client(target, "look").await?.close().await;
            return Ok(());
        }
        let header = node::own_header(&target.endpoint, self.names_client);
        let dialed = self.dialer().dial(&target.endpoint, &header, &[], None).await?;
        let handshake = tls::try_handshake(dialed.address.ip(), dialed.socket);
        let tried = tokio::time::timeout(self.greet_timeout, handshake).await;
        let tried = tried.unwrap_or_else(|elapsed| Err(elapsed.into()));
        tried.map_err(|error| NodeError {
            step: Step::Tls,
            address: Some(dialed.address),
            cause: error.into(),
        })
    }

    async fn try_client(&self, target: &Target, purpose: &str) -> Result<NodeClient, NodeError> {
        match self.try_version(target, purpose, Version::V5).await {
            // What knows only MQTT 3.1.1 refuses the version, or closes the connection.
            Err(error)
                if error.step == Step::Mqtt
                    && matches!(
                        error.cause,
                        Cause::Refused(1 | 0x84) | Cause::Closed | Cause::NotConnack
                    ) =>
            {
                self.try_version(target, purpose, Version::V311).await
            }
            result => result,
        }
    }

    async fn try_version(&self, target: &Target, purpose: &str, version: Version) -> Result<NodeClient, NodeError> {
        let settings = node::Settings {
            framing: match target.kind {
                EndpointKind::Ws => Framing::WebSocket,
                EndpointKind::Mqtt | EndpointKind::Pass => Framing::Raw,
            },
            timeout: self.dial.timeout + self.greet_timeout,
            names_client: self.names_client,
        };
        let connection = node::connect(&self.dialer(), &target.endpoint, &settings).await?;
        let client_id = format!("remora-doctor-{:08x}-{}-{purpose}", self.instance, target.node);
        let connect = ConnectPacket {
            version,
            client_id: &client_id,
            username: self.login.as_ref().map(|login| &*login.username),
            password: self.login.as_ref().map(|login| &*login.password),
            // Longer than a check takes: no PINGREQ is sent.
            keep_alive: 300,
            clean_start: true,
        };
        connection.into_client(&connect).await
    }

    fn dialer(&self) -> Dialer {
        Dialer::new(self.dial.clone()).with_tls(Arc::clone(&self.tls))
    }
}
