//! The control API: one table of routes over the [`Handle`], with requests and answers as JSON.
//!
//! The table in `routes` is all there is: what it says of a route is what is served, what a caller needs for it, and what the OpenAPI
//! document says.

mod access;
pub mod answers;
mod call;
mod clients;
mod doctor;
mod events;
mod listeners;
mod nodes;
mod openapi;
mod process;
pub(super) mod reader;
mod route;
mod routes;
mod status;

use std::sync::OnceLock;

use http_body_util::{BodyExt, Collected, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};

use super::body::{Body, whole};
use super::peer::Peer;
use crate::process::handle::Handle;

use call::{Call, Refusal, Reply};
use route::Route;
use routes::Found;

/// The most bytes of a request's body.
const BODY_MAX: usize = 64 * 1024;

/// The control API of one process.
#[derive(Debug, Default)]
pub struct Api {
    /// Set once the process has started: the admin listener answers before, while host names are looked up.
    handle: OnceLock<Handle>,
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

    pub(super) async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        match self.reply(request, peer).await {
            Ok(Reply::Json(body)) => whole(StatusCode::OK, JSON, body),
            Ok(Reply::Events(body, reader)) => {
                let mut response = Response::new(body);
                let content_type = HeaderValue::from_static(EVENTS);
                response.headers_mut().insert(CONTENT_TYPE, content_type);
                // For the connection, which lasts for as long as the reader keeps up.
                response.extensions_mut().insert(reader);
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
        let by = caller.may(route.scope)?;
        let query = request.uri().query().unwrap_or_default().to_owned();
        let body = match *request.method() {
            Method::POST => body(request).await?,
            _ => Bytes::new(),
        };
        let Route { handler, .. } = route;
        handler(Call {
            handle: handle.clone(),
            parameters,
            query,
            body,
            by,
        })
        .await
    }
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
