//! Answers a client's WebSocket upgrade (RFC 6455, section 4.2), or rejects it with an HTTP status and a reason.

use std::io;

use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::derive_accept_key;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::Request;
use tungstenite::http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE, USER_AGENT,
};
use tungstenite::http::uri::{Authority, Uri};
use tungstenite::http::{HeaderMap, StatusCode};

use super::health_check::{PlainRequest, Readiness};
use super::host::is_host;
use super::{HEAD_BYTES_MAX, SUBPROTOCOLS, elements, head_end};
use super::{origin, target};
use crate::net::held::{HeldReader, ReadError, Reservation};
use crate::net::socket::Socket;

/// The most header fields of one request: as many as the library reads. EMQX's HTTP server reads 100, HAProxy 101.
const FIELDS_MAX: usize = 124;

const HEAD_TOO_LARGE: Rejection = (
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "request head larger than this listener accepts",
);
const TOO_MANY_FIELDS: Rejection = (
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "more than 124 header fields",
);

/// Which upgrades a listener accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptPolicy {
    /// The paths of the WebSocket service; any other path is not found. A client may spell them in other ways that mean the same,
    /// such as with a slash at the end.
    pub paths: Vec<String>,
    /// The origins of pages that may connect, such as `https://example.com`, as [`check_origin`](super::check_origin) demands; empty means
    /// any. A client that sends no origin is not a page, and may always connect.
    pub origins: Vec<String>,
    /// The most bytes of a request's head.
    pub head_bytes_max: usize,
}

impl Default for AcceptPolicy {
    fn default() -> Self {
        Self {
            paths: vec!["/mqtt".to_owned()],
            origins: Vec::new(),
            head_bytes_max: HEAD_BYTES_MAX,
        }
    }
}

/// What a client asked for, as far as its node is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Path and query: the path as the listener has it, the query as the client has it.
    pub target: String,
    /// Header fields that are passed on unchanged: Host, Origin, cookies, User-Agent.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// The subprotocol that was agreed on, in small letters.
    pub subprotocol: &'static str,
}

/// Why a client was not upgraded.
#[derive(Debug)]
pub enum UpgradeError {
    /// It sent something else than HTTP.
    NotHttp(Vec<u8>),
    /// Its request was answered with an error.
    Rejected(Box<Rejected>),
    /// It is a health check by HTTP, and was answered.
    HealthCheck,
    /// The connection was closed or lost before the request was answered.
    Closed {
        /// What failed; none when the client closed.
        error: Option<io::Error>,
        /// A byte of its request had come.
        has_spoken: bool,
    },
    /// All held bytes are in use.
    HeldBytesFull,
}

/// A request that was answered with an error, for the log.
#[derive(Debug)]
pub struct Rejected {
    /// The status of the answer.
    pub status: StatusCode,
    /// The reason, which is in the body of the answer.
    pub why: &'static str,
    /// The target of the request: the path, and what comes behind it. `None` if the first line has none.
    pub target: Option<Box<[u8]>>,
    /// The field Origin of the request.
    pub origin: Option<Box<[u8]>>,
}

impl Rejected {
    fn new((status, why): Rejection, head: &[u8]) -> Box<Self> {
        let mut lines = head.split(|byte| *byte == b'\n');
        let request = lines.next().unwrap_or_default();
        let mut words = request.split(|byte| byte.is_ascii_whitespace());
        let origin = lines.find_map(|line| {
            let (name, value) = line.split_at_checked(b"origin:".len())?;
            name.eq_ignore_ascii_case(b"origin:").then(|| value.trim_ascii().into())
        });
        Box::new(Self {
            status,
            why,
            target: words.nth(1).filter(|target| !target.is_empty()).map(Into::into),
            origin,
        })
    }
}

/// Reads the client's request and answers it; health checks with what `readiness` returns.
///
/// Bytes after the request are an error: a client has to wait for the answer (4.1), and what it sends earlier may be meant
/// for another HTTP server.
///
/// # Errors
/// See [`UpgradeError`]; where there was something to answer, it has been sent.
pub(crate) async fn upgrade(
    client: &Socket,
    policy: &AcceptPolicy,
    readiness: impl FnOnce() -> Readiness,
    reservation: &mut Reservation,
) -> Result<Upgrade, UpgradeError> {
    let (head, end) = read_head(client, policy.head_bytes_max, reservation).await?;
    if end == Some(head.len())
        && let Some(request) = PlainRequest::read(&head)
    {
        return Err(answer_plain(client, request, readiness, &head)
            .await
            .unwrap_or_else(|error| closed(Some(error), &head)));
    }
    let answered = match end {
        Some(end) if end == head.len() => answer(&head, policy),
        Some(_) => Err((StatusCode::BAD_REQUEST, "data sent before the upgrade was answered")),
        None => Err(HEAD_TOO_LARGE),
    };
    let lost = |error| closed(Some(error), &head);
    match answered {
        Ok((upgrade, response)) => {
            client.send_all(&response).await.map_err(lost)?;
            Ok(upgrade)
        }
        Err((status, why)) => {
            client.send_all(&rejection(status, why)).await.map_err(lost)?;
            Err(UpgradeError::Rejected(Rejected::new((status, why), &head)))
        }
    }
}

/// Answers a request that asks for no upgrade. Returns how the connection ends.
async fn answer_plain(
    client: &Socket,
    request: PlainRequest,
    readiness: impl FnOnce() -> Readiness,
    head: &[u8],
) -> io::Result<UpgradeError> {
    if request.is_health_check {
        client.send_all(&request.answer(readiness())).await?;
        return Ok(UpgradeError::HealthCheck);
    }
    let why = "upgrade to WebSocket required";
    client.send_all(&request.rejection(why)).await?;
    let rejection = (StatusCode::UPGRADE_REQUIRED, why);
    Ok(UpgradeError::Rejected(Rejected::new(rejection, head)))
}

/// Everything up to the end of the head and where that is, or more than `bytes_max`.
async fn read_head(
    client: &Socket,
    bytes_max: usize,
    reservation: &mut Reservation,
) -> Result<(Vec<u8>, Option<usize>), UpgradeError> {
    let mut head = Vec::new();
    loop {
        let searched = head.len();
        let read = HeldReader::new(client, reservation).read(|bytes| {
            head.extend_from_slice(bytes);
            Ok::<_, ReadError>(bytes.len())
        });
        match read.await {
            Ok(0) => return Err(closed(None, &head)),
            Ok(_) => {}
            Err(ReadError::Socket(error)) => return Err(closed(Some(error), &head)),
            Err(ReadError::HeldBytesFull) => return Err(UpgradeError::HeldBytesFull),
        }
        // A method consists of letters (RFC 9110, 9.1), and none is called PROXY: everything else is another protocol.
        if head.iter().take(3).any(|byte| !byte.is_ascii_alphabetic()) || head.starts_with(b"PROXY ") {
            return Err(UpgradeError::NotHttp(head));
        }
        let end = head_end(&head, searched);
        if end.is_some() || head.len() > bytes_max {
            return Ok((head, end));
        }
    }
}

fn closed(error: Option<io::Error>, head: &[u8]) -> UpgradeError {
    UpgradeError::Closed {
        error,
        has_spoken: !head.is_empty(),
    }
}

/// The status and the reason of a rejection.
type Rejection = (StatusCode, &'static str);

/// The answer to a request whose head is complete, and what a node is told of it.
///
/// # Errors
/// The status and the reason of the rejection.
pub fn answer(head: &[u8], policy: &AcceptPolicy) -> Result<(Upgrade, Vec<u8>), Rejection> {
    let bad = |why| (StatusCode::BAD_REQUEST, why);
    if head.len() > policy.head_bytes_max {
        return Err(HEAD_TOO_LARGE);
    }
    let mut request = match Request::try_parse(head) {
        // The library accepts lines without a carriage return, so it may see the end of the head where other readers do not.
        Ok(Some((end, _))) if end != head.len() => {
            return Err(bad("a line of the request head ends without a carriage return"));
        }
        Ok(Some((_, request))) => request,
        Err(Error::Protocol(ProtocolError::WrongHttpMethod)) => {
            return Err((
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET can be upgraded to a WebSocket",
            ));
        }
        Err(Error::Protocol(ProtocolError::WrongHttpVersion)) => {
            return Err((
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "only HTTP/1.1 can be upgraded to a WebSocket",
            ));
        }
        Err(_) if fields(head) > FIELDS_MAX => return Err(TOO_MANY_FIELDS),
        Ok(None) | Err(_) => return Err(bad("not an HTTP/1.1 request")),
    };
    for once in [HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, ORIGIN] {
        if request.headers().get_all(once).iter().count() > 1 {
            return Err(bad("duplicate header field"));
        }
    }
    match request.headers().get(HOST) {
        None => return Err(bad("missing Host")),
        // It is passed on.
        Some(host) if !is_host(host.as_bytes()) => return Err(bad("invalid Host")),
        Some(_) => {}
    }
    if let Some(host) = host_of_target(request.uri()).map_err(bad)? {
        request.headers_mut().insert(HOST, host);
    }
    let headers = request.headers();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if headers.contains_key(TRANSFER_ENCODING) || lengths.any(|length| length != "0") {
        return Err(bad("an upgrade request must not have a body"));
    }
    let path = match target::listed(&policy.paths, request.uri().path()) {
        Ok(Some(path)) => path,
        Ok(None) => return Err((StatusCode::NOT_FOUND, "no MQTT at this path")),
        Err(target::InvalidEscape) => return Err(bad("invalid escape in the path")),
    };
    if let Some(origin) = headers.get(ORIGIN)
        && !policy.origins.is_empty()
        && !is_listed(origin, &policy.origins)
    {
        return Err((StatusCode::FORBIDDEN, "origin not allowed"));
    }
    let key = key_of_upgrade(headers).ok_or((
        StatusCode::UPGRADE_REQUIRED,
        "upgrade to WebSocket version 13 with a key required",
    ))?;
    let granted = granted(elements(headers, SEC_WEBSOCKET_PROTOCOL));
    let Some((subprotocol, spelling)) = granted else {
        return Err(bad("no MQTT subprotocol offered"));
    };
    // The answer must name one of the client's own (RFC 6455, 4.1).
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Protocol: {spelling}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    );
    let passed_on = [HOST, ORIGIN, COOKIE, USER_AGENT];
    let fields = headers
        .iter()
        .filter(|(name, _)| passed_on.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let target = match request.uri().query() {
        None => path.to_owned(),
        Some(query) => format!("{path}?{query}"),
    };
    let upgrade = Upgrade {
        target,
        fields,
        subprotocol,
    };
    Ok((upgrade, response.into_bytes()))
}

/// The key of a request for an upgrade to WebSocket; `None` if it is for something else, or without a key.
///
/// As EMQX's HTTP server does, this takes every key, also one that is not 16 bytes in Base64, and the drafts 7 and 8 of the
/// protocol, whose frames are the same: there are devices that send these.
fn key_of_upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    const VERSIONS: [&str; 3] = ["13", "8", "7"];
    let has = |name, expected: &str| elements(headers, name).any(|element| element.eq_ignore_ascii_case(expected));
    let version = headers.get(SEC_WEBSOCKET_VERSION)?;
    let is_upgrade = has(CONNECTION, "upgrade") && has(UPGRADE, "websocket");
    let is_known = VERSIONS.iter().any(|known| version == known);
    headers.get(SEC_WEBSOCKET_KEY).filter(|_| is_upgrade && is_known)
}

/// How many header fields a head has, however they are written.
fn fields(head: &[u8]) -> usize {
    let lines = head.windows(2).filter(|pair| pair == b"\r\n").count();
    // The request line, and the empty line at the end.
    lines.saturating_sub(2)
}

/// The host in an absolute target, `http://a.example/mqtt`, which goes before the Host field (RFC 9112, 3.2.2); `None` if the target
/// is a path.
///
/// # Errors
/// What is wrong with it.
fn host_of_target(uri: &Uri) -> Result<Option<HeaderValue>, &'static str> {
    let Some(scheme) = uri.scheme_str() else {
        return match uri.authority() {
            None => Ok(None),
            Some(_) => Err("the request target must be a path or a URL"),
        };
    };
    if !["http", "https", "ws", "wss"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
    {
        return Err("the request target must be a path or a URL of HTTP");
    }
    let host = uri
        .authority()
        .map(Authority::as_str)
        .filter(|host| is_host(host.as_bytes()));
    let host = host.and_then(|host| HeaderValue::from_str(host).ok());
    host.map(Some).ok_or("invalid host in the request target")
}

fn is_listed(origin: &HeaderValue, origins: &[String]) -> bool {
    let Ok(origin) = origin.to_str() else {
        return false;
    };
    let origin = origin::canonical(origin);
    origins.contains(&origin)
}

/// The first MQTT subprotocol in the client's list, and the client's spelling of it. EMQX takes it in capitals, too.
fn granted<'a>(mut offers: impl Iterator<Item = &'a str>) -> Option<(&'static str, &'a str)> {
    let known = |offer: &str| SUBPROTOCOLS.into_iter().find(|known| known.eq_ignore_ascii_case(offer));
    offers.find_map(|offer| Some((known(offer)?, offer)))
}

fn rejection(status: StatusCode, why: &str) -> Vec<u8> {
    let more = match status {
        StatusCode::METHOD_NOT_ALLOWED => "Allow: GET\r\n",
        StatusCode::UPGRADE_REQUIRED => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        _ => "",
    };
    let connection = match status {
        StatusCode::UPGRADE_REQUIRED => "Upgrade, close",
        _ => "close",
    };
    format!(
        "HTTP/1.1 {status}\r\n{more}Connection: {connection}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\n\r\n{why}\n",
        why.len() + 1
    )
    .into_bytes()
}

/// What is rejected, and how, is tested end to end: `a_bad_request_is_answered_with_its_status_and_nothing_is_dialled`.
#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /mqtt?x=1 HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, mqtt\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\nOrigin: https://a.example\r\nCookie: a=b\r\nUser-Agent: test\r\n\
        X-Forwarded-For: 1.2.3.4\r\n\r\n";

    #[test]
    fn a_good_request_is_answered_with_the_key_and_one_subprotocol() {
        let (upgrade, response) = answer(GOOD.as_bytes(), &AcceptPolicy::default()).expect("an upgrade");
        let response = String::from_utf8(response).expect("text");
        assert!(response.starts_with("HTTP/1.1 101"), "{response}");
        let lower = response.to_ascii_lowercase();
        // The example of RFC 6455, 1.3.
        assert!(response.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(lower.contains("sec-websocket-protocol: mqtt\r\n"));
        assert!(!lower.contains("extensions"), "none is agreed on");
        assert_eq!(upgrade.target, "/mqtt?x=1");
        assert_eq!(upgrade.subprotocol, "mqtt");
        let names: Vec<&str> = upgrade.fields.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(!names.contains(&"x-forwarded-for"));
    }

    #[test]
    fn letter_case_and_spread_lists_do_not_matter() {
        for (from, to) in [
            ("Connection: keep-alive, Upgrade", "connection: UPGRADE"),
            ("Upgrade: websocket", "UPGRADE: WebSocket"),
            ("keep-alive, Upgrade", "keep-alive\r\nconnection: upgrade"),
            ("keep-alive, Upgrade", "keep-alive,\tUpgrade"),
            ("chat, mqtt", "chat\r\nSec-WebSocket-Protocol: mqtt"),
            ("chat, mqtt", "mqttv3.1"),
            ("chat, mqtt", "mqtt-v5,mqtt"),
            ("chat, mqtt", "MQTT"),
            ("Upgrade: websocket", "Upgrade: h2c, websocket"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ="),
            ("dGhlIHNhbXBsZSBub25jZQ==", "no base64!"),
            ("Version: 13", "Version: 8"),
            ("Version: 13", "Version: 7"),
        ] {
            let request = GOOD.replacen(from, to, 1);
            assert_ne!(request, GOOD, "{from}");
            let answered = answer(request.as_bytes(), &AcceptPolicy::default());
            assert!(answered.is_ok(), "{to}: {answered:?}");
        }
    }

    #[test]
    fn a_subprotocol_is_granted_as_the_client_spells_it() {
        let request = GOOD.replacen("chat, mqtt", "Mqtt", 1);
        let (upgrade, response) = answer(request.as_bytes(), &AcceptPolicy::default()).expect("an upgrade");
        let response = String::from_utf8(response).expect("text");
        assert_eq!(upgrade.subprotocol, "mqtt");
        assert!(response.contains(": Mqtt\r\n"), "{response}");
    }

    #[test]
    fn a_node_is_asked_for_the_path_as_it_was_configured() {
        for path in ["/mqtt/", "/x/../mqtt", "/%6dqtt"] {
            let request = GOOD.replacen("/mqtt", path, 1);
            let (upgrade, _) = answer(request.as_bytes(), &AcceptPolicy::default()).expect("an upgrade");
            assert_eq!(upgrade.target, "/mqtt?x=1", "{path}");
        }
    }

    #[test]
    fn the_host_of_an_absolute_target_goes_before_the_field() {
        for (target, host) in [
            ("http://b.example/mqtt?x=1", "b.example"),
            ("HTTPS://b.example:8084/mqtt?x=1", "b.example:8084"),
            ("ws://[::1]:8083/mqtt?x=1", "[::1]:8083"),
            ("wss://b.example/mqtt/?x=1", "b.example"),
        ] {
            let request = GOOD.replacen("/mqtt?x=1", target, 1);
            let (upgrade, _) = answer(request.as_bytes(), &AcceptPolicy::default()).expect("an upgrade");
            assert_eq!(upgrade.target, "/mqtt?x=1", "{target}");
            let hosts = upgrade.fields.iter().filter(|(name, _)| name == HOST);
            let hosts: Vec<_> = hosts.map(|(_, host)| host.as_bytes()).collect();
            assert_eq!(hosts, [host.as_bytes()], "{target}");
        }
        for target in [
            "ftp://b.example/mqtt",
            "http://a@b.example/mqtt",
            "b.example:8083",
            "http:///mqtt",
        ] {
            let request = GOOD.replacen("/mqtt?x=1", target, 1);
            let (status, _) = answer(request.as_bytes(), &AcceptPolicy::default()).expect_err(target);
            assert_eq!(status, StatusCode::BAD_REQUEST, "{target}");
        }
    }
}
