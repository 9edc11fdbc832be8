//! What is served at which path: three pages that are open to all, the status page, and the control API.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use prometheus_client::encoding::{prometheus_text, text};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::api::Api;
use super::body::{Body, plain, whole};
use super::exposition::{AdminState, ProcessState, Unready};
use super::host::Hosts;
use super::identity::Identity;
use super::peer::Peer;
use super::status_page;

/// How long `/readyz` waits for the nodes' answers to probes: those who ask often give up after a second.
const PROBES_MAX: Duration = Duration::from_millis(800);

/// What is said to a request for another host.
const UNKNOWN_HOST: &str =
    "unknown Host: use an IP address of this machine or localhost, or add the name to hosts in [admin]\n";

/// The pages that are served.
pub(super) struct Pages {
    hosts: Hosts,
    identity: Identity,
    facts: Arc<AdminState>,
    registry: Registry,
    api: Arc<Api>,
}

impl Pages {
    pub(super) fn new(facts: Arc<AdminState>, hosts: Hosts, identity: Identity, api: Arc<Api>) -> Self {
        let mut registry = Registry::default();
        registry
            .sub_registry_with_prefix("remora")
            .register_collector(Box::new(Arc::clone(&facts)));
        registry.register_collector(Box::new(ProcessState));
        Self {
            hosts,
            identity,
            facts,
            registry,
            api,
        }
    }

    pub(super) async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        // No web page can reach a socket.
        let is_allowed = matches!(peer, Peer::Unix { .. }) || self.hosts.allow(&request);
        let mut response = match request.uri().path() {
            _ if !is_allowed => plain(StatusCode::MISDIRECTED_REQUEST, UNKNOWN_HOST),
            path if Api::serves(path) => self.api.answer(request, peer).await,
            "/" | "/livez" | "/readyz" | "/metrics" if !is_read => {
                let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                response
            }
            "/" => status_page::page(&self.api.look(&request, peer).await),
            "/livez" => match self.facts.stuck() {
                None => plain(StatusCode::OK, "alive\n"),
                Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/readyz" => {
                let mut response = match self.unready().await {
                    None => plain(StatusCode::OK, "ready\n"),
                    Some(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
                };
                self.identity.write(response.headers_mut());
                response
            }
            "/metrics" => self.metrics(&request),
            _ => plain(
                StatusCode::NOT_FOUND,
                "not found; there are /, /livez, /readyz, /metrics and /api/v1\n",
            ),
        };
        response
            .headers_mut()
            .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    /// Why this balancer should get no new clients. Waits for the nodes' answers to probes if no node has ever answered.
    async fn unready(&self) -> Option<Unready> {
        let due = Instant::now() + PROBES_MAX;
        loop {
            let unready = self.facts.unready();
            if unready != Some(Unready::NoAnswer) {
                return unready;
            }
            let asked = tokio::time::timeout_at(due, self.facts.control.ask_unknown()).await;
            if !matches!(asked, Ok(Ok(true))) {
                return self.facts.unready();
            }
        }
    }

    fn metrics(&self, request: &Request<Incoming>) -> Response<Body> {
        let open_metrics = request
            .headers()
            .get_all(ACCEPT)
            .iter()
            .filter_map(|accept| accept.to_str().ok())
            .any(|accept| accept.contains("application/openmetrics-text"));
        let mut page = String::new();
        let (written, content_type) = if open_metrics {
            (
                text::encode(&mut page, &self.registry),
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            )
        } else {
            (
                prometheus_text::encode(&mut page, &self.registry),
                "text/plain; version=0.0.4; charset=utf-8",
            )
        };
        if written.is_err() {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be encoded\n");
        }
        whole(StatusCode::OK, content_type, page)
    }
}
