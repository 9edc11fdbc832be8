//! The control API: one table of routes over the [`Handle`], with requests and answers as JSON.
//!
//! The table in `routes` is all there is: what it says of a route is what is served, what a caller needs for it, and what the OpenAPI
//! document says.

mod access;
pub mod answers;
mod asked;
mod call;
mod clients;
mod counters;
mod doctor;
mod events;
mod judgement;
mod listeners;
mod nodes;
mod openapi;
mod overview;
mod peers;
mod process;
pub(super) mod reader;
mod route;
mod routes;
mod status;
mod top_clients;
mod upgrade;

use std::sync::{Arc, OnceLock};

use http_body_util::{BodyExt, Collected, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};

use super::body::{Body, whole};
use super::peer::Peer;
use super::tokens::Scope;
use crate::process::clients::ClientFilter;
use crate::process::handle::{HANDED_OVER, Handle, NodeStatus};

use answers::{Connection, Event, Overview};
use asked::Asked;
use call::{Call, Refusal, Reply};
use reader::Lasting;
use route::Route;
use routes::Found;

/// The most bytes of a request's body: the longest client id has 64 KiB, of which each byte may be percent-encoded.
pub(super) const BODY_MAX: usize = 256 * 1024;

/// The control API of one process.
#[derive(Debug, Default)]
pub struct Api {
    /// Set once the process has started: the admin listener answers before, while host names are looked up.
    handle: OnceLock<Handle>,
    /// What the peers have answered.
    asked: Arc<Asked>,
}

impl Api {
    /// Opens the API: from now on its requests are answered with this handle.
    pub(crate) fn open(&self, handle: Handle) {
        // Called once.
        let _ = self.handle.set(handle);
    }

    /// Whether a path belongs to the API.
    pub(super) fn serves(path: &str) -> bool {
        path == "/api" || path.starts_with("/api/")
    }

    /// What a caller may see at a first look: everything that the API would tell it, or only what `/metrics` says to all.
    pub(super) async fn look(&self, request: &Request<Incoming>, peer: &Peer) -> Look {
        /// As much as fits on a page that is looked at once.
        const CLIENTS: usize = 50;
        const EVENTS: usize = 20;
        // The page that others than the caller may get to see.
        let wanted = request.uri().query();
        if wanted == Some("closed") {
            return Look::Closed;
        }
        let Some(handle) = self.handle.get() else {
            return Look::Starting;
        };
        let caller = access::caller(peer, request.headers(), &handle.admin_settings().tokens);
        let (Ok(caller), false) = (caller, wanted == Some("open")) else {
            let nodes = handle.nodes();
            let (is_fine, sentence) = overview::judgement(handle, &nodes, false);
            let node = |node: &NodeStatus| (node.name.to_string(), overview::word(node), node.connections);
            return Look::Open {
                is_fine,
                sentence,
                nodes: nodes.iter().map(node).collect(),
            };
        };
        let events = handle.events();
        let first = events.oldest().max((events.newest() + 1).saturating_sub(EVENTS as u64));
        // A worker that has ended has no clients.
        let listed = handle.clients(&ClientFilter::default(), None, CLIENTS).await;
        let listed = listed.map(|page| page.clients).unwrap_or_default();
        Look::Whole(Box::new(WholeLook {
            overview: overview::overview(handle, caller.scope() == Scope::Write),
            clients: listed.into_iter().map(clients::connection).collect(),
            events: events.from(first).unwrap_or_default(),
        }))
    }

    pub(super) async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        match self.reply(request, peer).await {
            Ok(Reply::Json(body)) => whole(StatusCode::OK, JSON, body),
            Ok(Reply::Events(body, reader)) => {
                let mut response = Response::new(body);
                let content_type = HeaderValue::from_static(EVENTS);
                response.headers_mut().insert(CONTENT_TYPE, content_type);
                // For the connection, which lasts for as long as the reader keeps up.
                response.extensions_mut().insert(Lasting::Reader(reader));
                response
            }
            Ok(Reply::Steps(body)) => {
                let mut response = Response::new(body);
                let content_type = HeaderValue::from_static(EVENTS);
                response.headers_mut().insert(CONTENT_TYPE, content_type);
                // The next request is for the process that has taken over.
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
                response.extensions_mut().insert(Lasting::Bounded);
                response
            }
            Err(refusal) => {
                let mut response = whole(refusal.status, JSON, refusal.body());
                if let Some(allow) = refusal.allow {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
                }
                if refusal.status == StatusCode::UNAUTHORIZED {
                    let scheme = HeaderValue::from_static("Bearer realm=\"remora\"");
                    response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
                }
                response
            }
        }
    }

    async fn reply(&self, request: Request<Incoming>, peer: &Peer) -> Result<Reply, Refusal> {
        let handle = self.handle.get().ok_or_else(|| {
            let error = "the process has not started yet: ask again in a moment";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error)
        })?;
        let caller = access::caller(peer, request.headers(), &handle.admin_settings().tokens)?;
        let path = request.uri().path().to_owned();
        let (route, parameters) = match routes::find(request.method(), &path) {
            Found::Route(route, parameters) => (route, parameters),
            Found::OtherMethod(allow) => {
                let error = format!("{path} takes {allow}");
                return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error).allow(allow));
            }
            Found::Nothing => {
                let error = format!("there is no {path}; /api/v1/openapi.json lists all paths");
                return Err(Refusal::new(StatusCode::NOT_FOUND, error));
            }
        };
        let may_change = caller.scope() == Scope::Write;
        let by = caller.may(route.scope)?;
        if route.scope == Scope::Write && handle.has_handed_over() {
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, HANDED_OVER));
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = match *request.method() {
            Method::POST => body(request).await?,
            _ => Bytes::new(),
        };
        let Route { handler, .. } = route;
        let reply = handler(Call {
            handle: handle.clone(),
            parameters,
            query,
            body,
            by,
            may_change,
            asked: Arc::clone(&self.asked),
        });
        match reply.await? {
            // It says what is left here, such as no connections.
            Reply::Json(_) if route.scope == Scope::Read && handle.has_handed_over() => {
                Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, HANDED_OVER))
            }
            reply => Ok(reply),
        }
    }
}

/// A first look at the process.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing is said.
    Closed,
    /// It has not started yet.
    Starting,
    /// What `/metrics` says as well.
    Open {
        is_fine: bool,
        sentence: String,
        /// The name of each node, its state, and its connections.
        nodes: Vec<(String, &'static str, usize)>,
    },
    Whole(Box<WholeLook>),
}

/// What the API says.
#[derive(Debug)]
pub(super) struct WholeLook {
    pub(super) overview: Overview,
    /// The first clients of the list.
    pub(super) clients: Vec<Connection>,
    /// The newest events, the newest last.
    pub(super) events: Vec<Event>,
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

async fn body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let body = request.into_body();
    let refused = || {
        let error = format!("a body may have {BODY_MAX} bytes, and must arrive whole");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    // What is announced to be too large is not read at all.
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(refused());
    }
    let body = Limited::new(body, BODY_MAX).collect().await;
    body.map(Collected::to_bytes).map_err(|_| refused())
}
