//! Requests to a WebSocket listener that ask for no upgrade: health checks by HTTP. Pure.

use tungstenite::http::StatusCode;

/// Whether a listener should get new clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// A node is up.
    Ready,
    /// No node is up.
    NoNode,
    /// The balancer is draining.
    Draining,
}

impl Readiness {
    /// The status and the text of the answer.
    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Ready => (StatusCode::OK, "ready"),
            Self::NoNode => (StatusCode::SERVICE_UNAVAILABLE, "no node is up"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        }
    }
}

/// A request without an Upgrade field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PlainRequest {
    /// It asks for `/`, as health checks do unless told otherwise; OPTIONS may ask for `*`.
    pub is_health_check: bool,
    /// The answer must have no body.
    is_head: bool,
}

impl PlainRequest {
    /// Reads a whole head; `None` if it asks for an upgrade, or is not GET, HEAD or OPTIONS in HTTP/1. HAProxy's `option httpchk` sends
    /// `OPTIONS / HTTP/1.0`, without any field.
    pub(super) fn read(head: &[u8]) -> Option<Self> {
        let mut lines = str::from_utf8(head).ok()?.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        let is_plain = matches!(method, "GET" | "HEAD" | "OPTIONS") && matches!(version, "HTTP/1.0" | "HTTP/1.1");
        let is_upgrade = |line: &str| line.get(..8).is_some_and(|name| name.eq_ignore_ascii_case("upgrade:"));
        if !is_plain || words.next().is_some() || lines.any(is_upgrade) {
            return None;
        }
        Some(Self {
            is_health_check: is_root(target) || method == "OPTIONS" && target == "*",
            is_head: method == "HEAD",
        })
    }

    /// The answer to a health check.
    pub(super) fn answer(self, readiness: Readiness) -> Vec<u8> {
        let (status, text) = readiness.answer();
        self.response(status, "Connection: close\r\n", text)
    }

    /// The answer to any other request: an upgrade is required.
    pub(super) fn rejection(self, text: &str) -> Vec<u8> {
        let fields = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade, close\r\n";
        self.response(StatusCode::UPGRADE_REQUIRED, fields, text)
    }

    fn response(self, status: StatusCode, fields: &str, text: &str) -> Vec<u8> {
        let body = if self.is_head {
            String::new()
        } else {
            format!("{text}\n")
        };
        format!(
            "HTTP/1.1 {status}\r\n{fields}Cache-Control: no-store\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\r\n{body}",
            text.len() + 1
        )
        .into_bytes()
    }
}

/// Whether a target is `/`, with or without a query, or an absolute one.
fn is_root(target: &str) -> bool {
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?']).map_or("/", |path| &rest[path..]),
        None => target,
    };
    path == "/" || path.starts_with("/?") || path.starts_with('?')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &str) -> Option<bool> {
        PlainRequest::read(head.as_bytes()).map(|request| request.is_health_check)
    }

    #[test]
    fn a_health_check_asks_for_the_root_and_for_no_upgrade() {
        for (head, is_health_check) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some(true)),
            (
                "GET /?from=alb HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
                Some(true),
            ),
            ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", Some(true)),
            ("OPTIONS / HTTP/1.0\r\n\r\n", Some(true)),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Some(true)),
            ("GET http://a:8083 HTTP/1.1\r\nHost: a\r\n\r\n", Some(true)),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Some(true)),
            ("GET http://a/mqtt HTTP/1.1\r\nHost: a\r\n\r\n", Some(false)),
            ("GET /mqtt HTTP/1.1\r\nHost: a\r\n\r\n", Some(false)),
            ("GET // HTTP/1.1\r\nHost: a\r\n\r\n", Some(false)),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Some(false)),
            ("GET / HTTP/1.1\r\nHost: a\r\nuPgrade: websocket\r\n\r\n", None),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", None),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET / HTTP/1.1 x\r\n\r\n", None),
            ("GET /\r\n\r\n", None),
        ] {
            assert_eq!(read(head), is_health_check, "{head}");
        }
    }

    #[test]
    fn an_answer_to_head_has_no_body() {
        let of = |method: &str| {
            let head = format!("{method} / HTTP/1.1\r\n\r\n");
            let request = PlainRequest::read(head.as_bytes()).expect("a plain request");
            String::from_utf8(request.answer(Readiness::Ready)).expect("text")
        };
        assert!(of("GET").ends_with("Content-Length: 6\r\n\r\nready\n"));
        assert!(of("HEAD").ends_with("Content-Length: 6\r\n\r\n"));
    }
}
