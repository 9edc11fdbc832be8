//! Probes of our own: whether an endpoint answers when no client has a say in it.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{Endpoint, EndpointKind};
use crate::mqtt::{ConnectPacket, Version};
use crate::net::dial::{self, Dialer};
use crate::net::node::{self, Cause, NodeError, Step};
use crate::net::tls::NodesTls;
use crate::net::websocket::Framing;

/// An endpoint to be probed.
#[derive(Clone, Debug)]
pub struct Target {
    /// The node's name.
    pub node: Arc<str>,
    /// Which of its endpoints.
    pub kind: EndpointKind,
    /// That endpoint, which has an address.
    pub endpoint: Endpoint,
}

/// Why a probe brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unanswered {
    /// Whether the endpoint was asked, or this process could not ask.
    pub was_asked: bool,
    /// The address that did not answer, or the last of several; `None` if none was asked.
    pub address: Option<SocketAddr>,
    /// The step and the error.
    pub why: String,
}

/// The result of a probe, later.
pub type Answer = Pin<Box<dyn Future<Output = Result<(), Unanswered>>>>;

/// Asks endpoints whether they answer.
pub trait Prober: fmt::Debug + Send + Sync {
    /// Asks one endpoint.
    fn probe(&self, target: Target) -> Answer;
}

/// How far a probe goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProbeDepth {
    /// As far as a client: with TLS and an upgrade where the endpoint has them, a CONNECT and its CONNACK, whatever that says.
    #[default]
    Mqtt,
    /// The TCP connection, with TLS where the endpoint has it.
    Connect,
}

/// Probes nodes over the network.
#[derive(Clone, Debug)]
pub struct NodeProber {
    /// How they are dialed.
    pub dial: dial::Settings,
    /// TLS to them.
    pub tls: Arc<NodesTls>,
    /// From the connection to the CONNACK.
    pub greet_timeout: Duration,
    /// How far a probe goes.
    pub depth: ProbeDepth,
    /// Tells the client ids of this process from those of another: nodes end one of two connections with the same id.
    pub instance: u32,
}

impl Prober for NodeProber {
    fn probe(&self, target: Target) -> Answer {
        let prober = self.clone();
        Box::pin(async move {
            let Err(error) = prober.ask(&target).await else {
                return Ok(());
            };
            Err(Unanswered {
                was_asked: !matches!(
                    error.cause,
                    Cause::NoSocket(_) | Cause::SourcePortsExhausted | Cause::NoAddress | Cause::FieldTooLong
                ),
                address: error.address,
                why: format!(
                    "{}: {}{}",
                    error.step.name(),
                    error.cause,
                    hint(&error, &target.endpoint)
                ),
            })
        })
    }
}

impl NodeProber {
    async fn ask(self, target: &Target) -> Result<(), NodeError> {
        let Target { node, kind, endpoint } = target;
        let dialer = Dialer::new(self.dial.clone()).with_tls(self.tls);
        let framing = match (self.depth, kind) {
            // TLS ends at the node, and a client's certificate may be needed.
            (ProbeDepth::Connect, _) | (_, EndpointKind::Pass) => {
                let header = node::own_header(endpoint);
                let dialed = dialer.dial(endpoint, &header, &[], None).await;
                return dialed.map(drop).map_err(NodeError::from);
            }
            (ProbeDepth::Mqtt, EndpointKind::Mqtt) => Framing::Raw,
            (ProbeDepth::Mqtt, EndpointKind::Ws) => Framing::WebSocket,
        };
        let settings = node::Settings {
            framing,
            timeout: self.dial.timeout + self.greet_timeout,
        };
        let mut connection = node::connect(&dialer, endpoint, &settings).await?;
        let client_id = format!("remora-probe-{:08x}-{node}-{}", self.instance, kind.name());
        let connect = ConnectPacket {
            version: Version::V311,
            client_id: &client_id,
            username: None,
            password: None,
            keep_alive: 60,
            clean_start: true,
        };
        match connection.mqtt_connect(&connect).await {
            // It has judged the CONNECT, so it is alive.
            Err(error) if matches!(error.cause, Cause::Refused(_)) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                // The answer is known already; the node takes its time to close.
                tokio::task::spawn_local(connection.close());
                Ok(())
            }
        }
    }
}

/// What an operator may have to change, where the error suggests something.
fn hint(error: &NodeError, endpoint: &Endpoint) -> &'static str {
    let is_mute = matches!(error.cause, Cause::Closed | Cause::TimedOut);
    match (error.step, &error.cause, endpoint.proxy_protocol) {
        (Step::Upgrade | Step::Mqtt, _, Some(_)) if is_mute => "; does it expect a PROXY header?",
        (Step::Upgrade | Step::Mqtt, _, None) if is_mute => "; does it expect a PROXY header, or TLS?",
        (Step::Mqtt, Cause::NotConnack, _) => "; is this its MQTT listener?",
        _ => "",
    }
}
