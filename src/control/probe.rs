//! Probes of our own: whether an endpoint answers when no client has a say in it.

use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::check::Checked;
use super::discovery::{self, FoundAnswer, Source, SourceKind};
use super::dns;
use super::file::NodesFile;
use super::settings::{ApiSettings, Credentials, ProbeDepth, ProbeProxy};
use crate::cluster::{Endpoint, EndpointKind, NodeAddress, NodeApi};
use crate::mqtt::{ConnectPacket, Version};
use crate::net::dial::{self, Dialer};
use crate::net::http::{self, Get, Response};
use crate::net::node::{self, Cause, NodeError, Step};
use crate::net::tls::{self, NodesTls};
use crate::net::websocket::Framing;
use crate::proxy_protocol;

/// The most bytes of the body of an answer to a check: EMQX sends fewer than a hundred.
const CHECK_BYTES_MAX: usize = 64 * 1024;

/// The most bytes of an answer with nodes: EMQX sends about a kilobyte for each.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// How long a source of nodes may take to answer, with all of its seeds.
const FIND_MAX: Duration = Duration::from_secs(10);

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

/// The answer of a node's API, later.
pub type CheckAnswer = Pin<Box<dyn Future<Output = Checked>>>;

/// The answer of a source of nodes, and for how long it may be believed, if it says so; later.
pub type FindAnswer = Pin<Box<dyn Future<Output = (FoundAnswer, Option<Duration>)>>>;

/// Asks endpoints whether they answer, and nodes' APIs what they say.
pub trait Prober: fmt::Debug + Send + Sync {
    /// Asks one endpoint.
    fn probe(&self, target: Target) -> Answer;

    /// Asks a node's HTTP API.
    fn check(&self, api: NodeApi) -> CheckAnswer;

    /// Asks a source which nodes there are.
    fn find(&self, source: Source) -> FindAnswer;
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
    /// Whom the PROXY header of a probe names.
    pub probe_proxy: ProbeProxy,
    /// Tells the client ids of this process from those of another: nodes end one of two connections with the same id.
    pub instance: u32,
    /// How their APIs are asked.
    pub api: ApiSettings,
    /// How a file that lists nodes is read.
    pub nodes_file: NodesFile,
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
                    prober.advice(&target, &error).await
                ),
            })
        })
    }

    fn check(&self, api: NodeApi) -> CheckAnswer {
        let prober = self.clone();
        Box::pin(async move {
            let due = Instant::now() + prober.api.timeout;
            let path = prober.api.check.path();
            match prober.get(&api, path, CHECK_BYTES_MAX, due).await {
                Ok(response) => Checked::Status(response.status),
                Err(why) => Checked::Unanswered(why),
            }
        })
    }

    fn find(&self, source: Source) -> FindAnswer {
        let prober = self.clone();
        Box::pin(async move {
            let due = Instant::now() + FIND_MAX;
            let Source {
                kind,
                seeds,
                name,
                name_servers,
                file,
            } = source;
            match kind {
                SourceKind::Emqx => (prober.ask_emqx(&seeds, due).await, None),
                SourceKind::Dns => match dns::find(&name.unwrap_or_default(), &name_servers, due).await {
                    Ok((found, ttl)) => (Ok(found), Some(ttl)),
                    Err(why) => (Err(why), None),
                },
                SourceKind::File => (prober.nodes_file.find(&file.unwrap_or_default(), due).await, None),
            }
        })
    }
}

impl NodeProber {
    /// Asks EMQX for the nodes of its cluster: the first of `seeds` that has an answer.
    async fn ask_emqx(&self, seeds: &[NodeApi], due: Instant) -> FoundAnswer {
        let mut failed = "no seed".to_owned();
        for seed in seeds {
            let own_due = due.min(Instant::now() + self.api.timeout);
            let asked = self.get(seed, "/api/v5/nodes", ANSWER_BYTES_MAX, own_due).await;
            let found = asked.and_then(|response| match response.status {
                200 => discovery::read_emqx(&response.body),
                status @ (401 | 403) => Err(format!("answered with {status}: see nodes_api.credentials")),
                status => Err(format!("answered with {status}")),
            });
            match found {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => failed = format!("{seed}: no node in the answer"),
                Err(why) => failed = format!("{seed}: {why}"),
            }
        }
        Err(failed)
    }

    /// Asks the HTTP API of a node.
    ///
    /// # Errors
    /// There was no answer in time; why not.
    pub(crate) async fn get(
        &self,
        api: &NodeApi,
        path: &str,
        body_max: usize,
        due: Instant,
    ) -> Result<Response, String> {
        let get = tokio::time::timeout_at(due, self.get_unbounded(api, path, body_max, due));
        get.await.unwrap_or(Err("no answer in time".to_owned()))
    }

    /// Like [`NodeProber::get`]; the look-up of a host name has no end of its own.
    async fn get_unbounded(
        &self,
        api: &NodeApi,
        path: &str,
        body_max: usize,
        due: Instant,
    ) -> Result<Response, String> {
        let addresses: Arc<[SocketAddr]> = match &api.address {
            NodeAddress::Socket(address) => Arc::new([*address]),
            NodeAddress::Host(host, port) => {
                let found = tokio::net::lookup_host((host.as_str(), *port)).await;
                found.map_err(|error| error.to_string())?.collect()
            }
        };
        let dialer = Dialer::new(self.dial.clone()).with_tls(Arc::clone(&self.tls));
        let endpoint = Endpoint {
            tls: api.tls.clone(),
            ..Endpoint::plain(addresses)
        };
        let get = Get {
            host: &api.address.to_string(),
            path,
            authorization: self.api.credentials.as_ref().map(Credentials::authorization),
            body_max,
            due,
        };
        let response = http::get(&dialer, &endpoint, &get).await;
        response.map_err(|error| error.to_string())
    }

    async fn ask(&self, target: &Target) -> Result<(), NodeError> {
        let Target { node, kind, endpoint } = target;
        let dialer = Dialer::new(self.dial.clone()).with_tls(Arc::clone(&self.tls));
        let names_client = self.probe_proxy == ProbeProxy::Proxy;
        let framing = match (self.depth, kind) {
            (ProbeDepth::Connect, _) => {
                let header = node::own_header(endpoint, names_client);
                let dialed = dialer.dial(endpoint, &header, &[], None).await;
                return dialed.map(drop).map_err(NodeError::from);
            }
            // No further than the handshake: a client's certificate may be needed.
            (ProbeDepth::Mqtt, EndpointKind::Pass) => return self.ask_tls(&dialer, endpoint).await,
            (ProbeDepth::Mqtt, EndpointKind::Mqtt) => Framing::Raw,
            (ProbeDepth::Mqtt, EndpointKind::Ws) => Framing::WebSocket,
        };
        let settings = node::Settings {
            framing,
            timeout: self.dial.timeout + self.greet_timeout,
            names_client,
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

    /// Whether the endpoint speaks TLS, whatever its certificate: verifying that is up to the clients.
    async fn ask_tls(&self, dialer: &Dialer, endpoint: &Endpoint) -> Result<(), NodeError> {
        let header = node::own_header(endpoint, self.probe_proxy == ProbeProxy::Proxy);
        let dialed = dialer.dial(endpoint, &header, &[], None).await?;
        let handshake = tls::try_handshake(dialed.address.ip(), dialed.socket);
        let tried = tokio::time::timeout(self.greet_timeout, handshake).await;
        tried
            .unwrap_or_else(|elapsed| Err(elapsed.into()))
            .map_err(|error| NodeError {
                step: Step::Tls,
                address: Some(dialed.address),
                cause: error.into(),
            })
    }

    /// What an operator may have to change, where the error suggests something: a node that closes the connection instead of an
    /// answer is asked once more, with a PROXY header if it got none, and without one if it got one.
    async fn advice(&self, target: &Target, error: &NodeError) -> &'static str {
        let is_closed = match &error.cause {
            Cause::Closed | Cause::NotConnack | Cause::InvalidFrames(_) => true,
            Cause::Io(error) => error.kind() == ErrorKind::ConnectionReset,
            _ => false,
        };
        if !is_closed || !matches!(error.step, Step::Upgrade | Step::Mqtt) {
            return hint(error, &target.endpoint);
        }
        let mut other = target.clone();
        other.endpoint.proxy_protocol = match target.endpoint.proxy_protocol {
            None => Some(proxy_protocol::Version::V2),
            Some(_) => None,
        };
        match (self.ask(&other).await, target.endpoint.proxy_protocol) {
            (Ok(()), None) => "; it answers with a PROXY header: set its proxy_protocol",
            (Ok(()), Some(_)) => "; it answers without a PROXY header: set its proxy_protocol to \"off\"",
            (Err(_), _) => hint(error, &target.endpoint),
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
