//! The upgrade to WebSocket (RFC 6455, 4): the request of a client, and the answer of the served nodes.

use tungstenite::handshake::client::{Response, generate_key};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse as _;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::StatusCode;
use tungstenite::http::header::{
    HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL,
};

use super::failure::Failure;
use super::packet;

/// Longest head of a request or an answer.
const HEAD_BYTES_MAX: usize = 8 * 1024;

const HEAD_END: &[u8] = b"\r\n\r\n";

/// The subprotocol (MQTT 5, 6.0).
const MQTT: &str = "mqtt";

/// The path of MQTT at the served nodes, and at most brokers.
pub(super) const PATH: &str = "/mqtt";

/// A WebSocket endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) host: String,
    /// With the query; `%i` stands for the client's number.
    pub(super) path: String,
}

/// The requests of all clients of a run, which differ in the path only.
pub(super) struct UpgradeRequest {
    endpoint: Endpoint,
    key: String,
    accept: String,
}

impl UpgradeRequest {
    /// For an endpoint.
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        let key = generate_key();
        Self {
            endpoint: endpoint.clone(),
            accept: derive_accept_key(key.as_bytes()),
            key,
        }
    }

    /// The request of a client.
    pub(super) fn request(&self, index: u32) -> Vec<u8> {
        let mut path = Vec::new();
        packet::fill(&self.endpoint.path, index, &mut path);
        let fields = format!(
            " HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: {}\r\nSec-WebSocket-Protocol: {MQTT}\r\n\r\n",
            self.endpoint.host, self.key
        );
        [b"GET ", &path[..], fields.as_bytes()].concat()
    }

    /// Checks whether a whole head is the 101 that the request asked for.
    pub(super) fn check_response(&self, head: &[u8]) -> Result<(), Failure> {
        let response = match Response::try_parse(head) {
            // Bytes behind an end without carriage returns would be lost.
            Ok(Some((end, response))) if end == head.len() => response,
            _ => return Err(Failure::Junk),
        };
        let headers = response.headers();
        let status = response.status();
        let is_right = status == StatusCode::SWITCHING_PROTOCOLS
            && is(headers, &SEC_WEBSOCKET_ACCEPT, &self.accept)
            && is(headers, &SEC_WEBSOCKET_PROTOCOL, MQTT)
            && !headers.contains_key(SEC_WEBSOCKET_EXTENSIONS);
        is_right.then_some(()).ok_or(Failure::NotUpgraded(status.as_u16()))
    }
}

fn is(headers: &HeaderMap, name: &HeaderName, value: &str) -> bool {
    headers.get(name).is_some_and(|given| given == value)
}

/// Whether a stream begins with a whole head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    NeedMore,
    /// It is not a head, or too long.
    Junk,
    /// A head of this length.
    Is(usize),
}

/// Finds the end of a head that begins with this word.
pub(super) fn head(bytes: &[u8], word: &[u8]) -> Head {
    let begins = bytes.len().min(word.len());
    if bytes[..begins] != word[..begins] {
        return Head::Junk;
    }
    let mut windows = bytes.windows(HEAD_END.len()).take(HEAD_BYTES_MAX);
    match windows.position(|window| window == HEAD_END) {
        Some(start) => Head::Is(start + HEAD_END.len()),
        None if bytes.len() > HEAD_BYTES_MAX => Head::Junk,
        None => Head::NeedMore,
    }
}

/// The answer to the whole head of a request, and whether it grants the upgrade.
pub(super) fn answer(head: &[u8]) -> (Vec<u8>, bool) {
    let refusal = |status: &str| {
        let fields = "Connection: close\r\nContent-Length: 0\r\n\r\n";
        (format!("HTTP/1.1 {status}\r\n{fields}").into_bytes(), false)
    };
    let Ok(Some((_, request))) = Request::try_parse(head) else {
        return refusal("400 Bad Request");
    };
    if request.uri().path() != PATH {
        return refusal("404 Not Found");
    }
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut offered = offered.iter().filter_map(|value| value.to_str().ok());
    let speaks_mqtt = offered.any(|value| value.split(',').any(|name| name.trim() == MQTT));
    let Ok(mut response) = create_response(&request) else {
        return refusal("400 Bad Request");
    };
    if !speaks_mqtt {
        return refusal("400 Bad Request");
    }
    let headers = response.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(MQTT));
    let mut bytes = Vec::new();
    match write_response(&mut bytes, &response) {
        Ok(()) => (bytes, true),
        Err(_) => refusal("500 Internal Server Error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrade(path: &str) -> UpgradeRequest {
        UpgradeRequest::new(&Endpoint {
            host: "127.0.0.1:8083".into(),
            path: path.into(),
        })
    }

    #[test]
    fn nodes_agree_to_what_clients_ask_for() {
        let upgrade = upgrade("/mqtt?id=%i");
        let request = upgrade.request(7);
        assert!(request.starts_with(b"GET /mqtt?id=7 HTTP/1.1\r\n"));
        assert_eq!(head(&request, b"GET "), Head::Is(request.len()));
        let (answer, agreed) = answer(&request);
        assert!(agreed);
        assert_eq!(head(&answer, b"HTTP/1.1 "), Head::Is(answer.len()));
        assert_eq!(upgrade.check_response(&answer), Ok(()));
    }

    #[test]
    fn other_answers_than_the_right_101_are_rejected() {
        let upgrade = upgrade(PATH);
        let (right, _) = answer(&upgrade.request(0));
        let right = String::from_utf8(right).unwrap();
        assert_eq!(upgrade.check_response(right.as_bytes()), Ok(()));
        for (from, to) in [
            ("101", "200"),
            (upgrade.accept.as_str(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ("mqtt", "chat"),
            ("sec-websocket-protocol: mqtt\r\n", ""),
            ("\r\n\r\n", "\r\nsec-websocket-extensions: permessage-deflate\r\n\r\n"),
        ] {
            let wrong = right.replace(from, to);
            assert_ne!(wrong, right, "{from}");
            let status = if to == "200" { 200 } else { 101 };
            assert_eq!(
                upgrade.check_response(wrong.as_bytes()),
                Err(Failure::NotUpgraded(status)),
                "{wrong}"
            );
        }
        assert_eq!(upgrade.check_response(b"HTTP/1.1 what\r\n\r\n"), Err(Failure::Junk));
    }

    #[test]
    fn nodes_reject_requests_without_an_upgrade_to_mqtt() {
        let right = String::from_utf8(upgrade(PATH).request(0)).unwrap();
        for (from, to, status) in [
            ("/mqtt", "/other", "404"),
            ("Protocol: mqtt", "Protocol: chat", "400"),
            ("Version: 13", "Version: 8", "400"),
            ("GET", "PUT", "400"),
        ] {
            let (answer, agreed) = answer(right.replace(from, to).as_bytes());
            assert!(!agreed, "{to}");
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        }
    }

    #[test]
    fn a_head_is_found_wherever_it_is_cut() {
        let stream = b"HTTP/1.1 101 Fine\r\na: b\r\n\r\nframes";
        let end = stream.len() - b"frames".len();
        for cut in 0..stream.len() {
            let expected = if cut < end { Head::NeedMore } else { Head::Is(end) };
            assert_eq!(head(&stream[..cut], b"HTTP/1.1 "), expected, "{cut}");
        }
        assert_eq!(head(&[0x20, 2], b"HTTP/1.1 "), Head::Junk);
        let endless = [b"HTTP/1.1 ", &[b'x'; HEAD_BYTES_MAX][..]].concat();
        assert_eq!(head(&endless, b"HTTP/1.1 "), Head::Junk);
    }
}
