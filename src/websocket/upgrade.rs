//! Answers a client's upgrade (RFC 6455, section 4.2), or says in HTTP why not.

use std::io;
use std::task::Poll;

use tungstenite::error::{Error, ProtocolError};
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::StatusCode;
use tungstenite::http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, USER_AGENT,
};

use super::{HEAD_BYTES_MAX, SUBPROTOCOLS, elements, head_end};
use crate::held::{HeldBytesFull, Share};
use crate::socket::Socket;

/// Header fields of one request at most.
const FIELDS_MAX: usize = 64;

/// Who may upgrade, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    /// The paths that there are.
    pub paths: Vec<String>,
    /// The origins of pages that may connect, such as `https://example.com`; empty means any. A client without an origin is
    /// no page, and may.
    pub origins: Vec<String>,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            paths: vec!["/mqtt".to_owned()],
            origins: Vec::new(),
        }
    }
}

/// What a client asked for, as far as its node is to hear of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Path and query.
    pub target: String,
    /// Fields that are passed on as they came: Host, Origin, cookies, User-Agent.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    /// What was granted.
    pub subprotocol: &'static str,
}

/// Why a client was not upgraded.
#[derive(Debug)]
pub enum Refused {
    /// What it sent is no HTTP.
    NotHttp(Vec<u8>),
    /// Its request was answered with this status, and why.
    Answered(StatusCode, &'static str),
    /// It closed, or was lost, before its request was answered.
    Gone {
        /// Whether it closed.
        how: io::Result<()>,
        /// A byte of its request had come.
        has_spoken: bool,
    },
    /// All held bytes are in use.
    HeldBytesFull,
}

impl From<HeldBytesFull> for Refused {
    fn from(_: HeldBytesFull) -> Self {
        Self::HeldBytesFull
    }
}

/// Reads the client's request and answers it.
///
/// Bytes behind the request are a fault: a client has to wait for the answer (4.1), and what comes before it may be meant
/// for somebody else.
///
/// # Errors
/// See [`Refused`]; where there was something to answer, it has been sent.
pub async fn upgrade(client: &Socket, door: &Door, share: &mut Share) -> Result<Upgrade, Refused> {
    let head = head(client, share).await;
    let answered = match head {
        Ok(head) => match head_end(&head) {
            Some(end) if end == head.len() => answer(&head, door),
            Some(_) => Err((
                StatusCode::BAD_REQUEST,
                "data before the answer to the upgrade",
            )),
            None => Err((
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request's head is larger than 8 KiB",
            )),
        },
        Err(refused) => return Err(refused),
    };
    let gone = |error| Refused::Gone {
        how: Err(error),
        has_spoken: true,
    };
    match answered {
        Ok((upgrade, response)) => {
            client.send_all(&response).await.map_err(gone)?;
            Ok(upgrade)
        }
        Err((status, why)) => {
            client.send_all(&refusal(status, why)).await.map_err(gone)?;
            Err(Refused::Answered(status, why))
        }
    }
}

/// Everything up to the end of the head, or too much.
async fn head(client: &Socket, share: &mut Share) -> Result<Vec<u8>, Refused> {
    let mut head = Vec::new();
    loop {
        let eviction = share.eviction();
        let arrived = std::future::poll_fn(|cx| match client.poll_recv_more(cx, &mut head) {
            Poll::Ready(read) => Poll::Ready(Ok(Some(read))),
            Poll::Pending => share
                .poll_cover(client.sealed())
                .map(|covered| covered.map(|()| None)),
        });
        let arrived = tokio::select! {
            biased;
            arrived = arrived => arrived?,
            () = eviction.told() => return Err(Refused::HeldBytesFull),
        };
        match arrived {
            // The share has become a larger one.
            None => continue,
            Some(Ok(0)) => return Err(gone(Ok(()), &head)),
            Some(Ok(read)) => share.hear(read, client.sealed())?,
            Some(Err(error)) => return Err(gone(Err(error), &head)),
        }
        // A method is made of letters (RFC 9110, 9.1), and none is called PROXY: everything else is another protocol.
        if head.iter().take(3).any(|byte| !byte.is_ascii_alphabetic())
            || head.starts_with(b"PROXY ")
        {
            return Err(Refused::NotHttp(head));
        }
        if head_end(&head).is_some() || head.len() > HEAD_BYTES_MAX {
            return Ok(head);
        }
    }
}

fn gone(how: io::Result<()>, head: &[u8]) -> Refused {
    Refused::Gone {
        how,
        has_spoken: !head.is_empty(),
    }
}

type Refusal = (StatusCode, &'static str);

fn answer(head: &[u8], door: &Door) -> Result<(Upgrade, Vec<u8>), Refusal> {
    let bad = |why| (StatusCode::BAD_REQUEST, why);
    if head.len() > HEAD_BYTES_MAX {
        return Err((
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the request's head is larger than 8 KiB",
        ));
    }
    let mut request = match Request::try_parse(head) {
        // Lines may end without a carriage return: then the head is over where another reader sees it go on.
        Ok(Some((end, _))) if end != head.len() => {
            return Err(bad("the request's head ends before its empty line"));
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
        Ok(None) | Err(_) => return Err(bad("not an HTTP/1.1 request")),
    };
    if request.headers().len() > FIELDS_MAX {
        return Err((
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "more than 64 header fields",
        ));
    }
    // The library looks at one line of it only, and takes no tab for a space.
    let connection: Vec<&str> = elements(request.headers(), CONNECTION).collect();
    if let Ok(connection) = HeaderValue::from_str(&connection.join(", ")) {
        request.headers_mut().insert(CONNECTION, connection);
    }
    let headers = request.headers();
    for once in [HOST, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, ORIGIN] {
        if headers.get_all(once).iter().count() > 1 {
            return Err(bad("a header field that may be there once is there twice"));
        }
    }
    if !headers.contains_key(HOST) {
        return Err(bad("no Host"));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    if headers.contains_key(TRANSFER_ENCODING) || lengths.any(|length| length != "0") {
        return Err(bad("a request to upgrade has no body"));
    }
    if request.uri().scheme().is_some() || request.uri().authority().is_some() {
        return Err(bad("the target is a path here, not a whole address"));
    }
    if !door.paths.iter().any(|path| path == request.uri().path()) {
        return Err((StatusCode::NOT_FOUND, "MQTT is not at this path"));
    }
    if let Some(origin) = headers.get(ORIGIN)
        && !door.origins.is_empty()
        && !door.origins.iter().any(|known| origin == known.as_str())
    {
        return Err((
            StatusCode::FORBIDDEN,
            "pages of this origin may not connect here",
        ));
    }
    let mut response = create_response(&request).map_err(|_| {
        (
            StatusCode::UPGRADE_REQUIRED,
            "this is a WebSocket of version 13: ask for the upgrade with a key of 16 bytes",
        )
    })?;
    let Some(subprotocol) = granted(elements(headers, SEC_WEBSOCKET_PROTOCOL)) else {
        return Err(bad("no subprotocol of MQTT was offered"));
    };
    response.headers_mut().insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(subprotocol),
    );
    let mut bytes = Vec::new();
    // What is written is what the library made: nothing in it fails to be text, and a vector takes everything.
    write_response(&mut bytes, &response)
        .map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, "no answer"))?;
    let passed_on = [HOST, ORIGIN, COOKIE, USER_AGENT];
    let fields = headers
        .iter()
        .filter(|(name, _)| passed_on.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let target = request.uri().path_and_query();
    let upgrade = Upgrade {
        target: target.map_or("/", |target| target.as_str()).to_owned(),
        fields,
        subprotocol,
    };
    Ok((upgrade, bytes))
}

/// The first subprotocol of the client's list that means MQTT.
fn granted<'a>(mut offers: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    offers.find_map(|offer| SUBPROTOCOLS.into_iter().find(|known| *known == offer))
}

fn refusal(status: StatusCode, why: &str) -> Vec<u8> {
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

/// What is refused, and how, is tested from outside: `a_bad_request_is_answered_with_its_status_and_nothing_is_dialled`.
#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /mqtt?x=1 HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat, mqtt\r\n\
        Sec-WebSocket-Extensions: permessage-deflate\r\nOrigin: https://a.example\r\nCookie: a=b\r\nUser-Agent: test\r\n\
        X-Forwarded-For: 1.2.3.4\r\n\r\n";

    #[test]
    fn a_good_request_is_answered_with_the_key_and_one_subprotocol() {
        let (upgrade, response) = answer(GOOD.as_bytes(), &Door::default()).expect("an upgrade");
        let response = String::from_utf8(response).expect("text");
        assert!(response.starts_with("HTTP/1.1 101"), "{response}");
        let lower = response.to_ascii_lowercase();
        // The example of RFC 6455, 1.3.
        assert!(response.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        assert!(lower.contains("sec-websocket-protocol: mqtt\r\n"));
        assert!(!lower.contains("extensions"), "none is agreed on");
        assert_eq!(upgrade.target, "/mqtt?x=1");
        assert_eq!(upgrade.subprotocol, "mqtt");
        let names: Vec<&str> = upgrade
            .fields
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(!names.contains(&"x-forwarded-for"));
    }

    #[test]
    fn letter_case_does_not_matter_where_it_may_not() {
        for (from, to) in [
            ("Connection: keep-alive, Upgrade", "connection: UPGRADE"),
            ("Upgrade: websocket", "UPGRADE: WebSocket"),
            ("keep-alive, Upgrade", "keep-alive\r\nconnection: upgrade"),
            ("keep-alive, Upgrade", "keep-alive,\tUpgrade"),
            ("chat, mqtt", "chat\r\nSec-WebSocket-Protocol: mqtt"),
            ("chat, mqtt", "mqttv3.1"),
            ("chat, mqtt", "mqtt-v5,mqtt"),
        ] {
            let request = GOOD.replacen(from, to, 1);
            assert_ne!(request, GOOD, "{from}");
            let answered = answer(request.as_bytes(), &Door::default());
            assert!(answered.is_ok(), "{to}: {answered:?}");
        }
    }
}
