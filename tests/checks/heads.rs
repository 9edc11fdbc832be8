//! The heads of HTTP on both sides of a WebSocket upgrade.

use std::net::SocketAddr;

use remora::net::websocket::{AcceptPolicy, Upgrade, UpgradeRequest, answer};

const HEAD_END: &[u8] = b"\r\n\r\n";

/// What the library accepts as a request; the node's request has nine lines more than the client's fields.
const LINES_MAX: usize = 124;
const BYTES_MAX: usize = 32 * 1024;

/// A client's upgrade request is accepted whole or not at all, and what a node is asked for then is one request, by us.
pub(crate) fn request(bytes: &[u8]) {
    let policy = AcceptPolicy::default();
    // Bytes behind a head, and bytes that are no method, are another step's to reject.
    let Some(head) = head_of(bytes) else { return };
    if !head.iter().take(3).all(u8::is_ascii_alphabetic) {
        return;
    }
    let Ok((upgrade, response)) = answer(head, &policy) else {
        return;
    };
    for cut in cuts(head) {
        assert!(answer(cut, &policy).is_err(), "accepted with {} bytes", cut.len());
    }
    let asked = Head::read(head);
    assert!(asked.first.starts_with("GET "), "{}", asked.first);
    for once in ["host", "sec-websocket-key", "sec-websocket-version"] {
        assert_eq!(asked.count(once), 1, "{once}");
    }
    assert_eq!(asked.count("transfer-encoding"), 0);
    assert_eq!(head_of(&response), Some(&response[..]), "one head and no more");
    assert!(response.starts_with(b"HTTP/1.1 101 "));
    request_to_node(&upgrade, &policy);
}

/// What a node is asked for on behalf of `upgrade` is one head, whose fields of ours are ours; and it is a right request.
fn request_to_node(upgrade: &Upgrade, policy: &AcceptPolicy) {
    for path in [None, Some("/mqtt")] {
        let bytes = UpgradeRequest::for_client(path, upgrade, client(), false).bytes;
        assert_eq!(head_of(&bytes), Some(&bytes[..]), "one head and no more");
        let returns = bytes.iter().filter(|byte| **byte == b'\r').count();
        let feeds = bytes.windows(2).filter(|pair| pair == b"\r\n").count();
        let bare = bytes.iter().filter(|byte| **byte == b'\n').count();
        assert_eq!((returns, bare), (feeds, feeds), "every line ends as it should");
        let asking = Head::read(&bytes);
        assert!(asking.first.starts_with("GET /"), "{}", asking.first);
        assert!(asking.first.ends_with(" HTTP/1.1"), "{}", asking.first);
        assert_eq!(asking.first.split(' ').count(), 3, "{}", asking.first);
        for once in ["host", "upgrade", "connection", "sec-websocket-key", "x-forwarded-port"] {
            assert_eq!(asking.count(once), 1, "{once}");
        }
        assert_eq!(asking.values("x-forwarded-for").collect::<Vec<_>>(), ["192.0.2.7"]);
        if feeds > LINES_MAX || bytes.len() > BYTES_MAX {
            continue;
        }
        let (again, _) = answer(&bytes, policy).expect("what we ask for, we would accept");
        assert_eq!(again.fields, upgrade.fields);
        assert_eq!(again.target, path.unwrap_or(&upgrade.target));
    }
}

/// Nothing of a node is accepted but a whole 101 with the right key, one subprotocol and no extension.
///
/// The key is another one each time, so `ACCEPT` in `bytes` stands for what answers it.
pub(crate) fn response(bytes: &[u8]) {
    for subprotocol in ["mqtt", "mqttv3.1"] {
        let fields = [("host", "node.example")];
        let upgrade = Upgrade {
            target: "/mqtt".to_owned(),
            fields: fields
                .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
                .into(),
            subprotocol,
        };
        let asking = UpgradeRequest::for_client(None, &upgrade, client(), true);
        let accept = accept_for(&asking);
        let bytes = filled(bytes, accept.as_bytes());
        let Some(head) = head_of(&bytes) else { return };
        if let Err(why) = asking.check(head) {
            assert!((1..200).contains(&why.to_string().len()), "{why}");
            continue;
        }
        for cut in cuts(head) {
            assert!(asking.check(cut).is_err(), "accepted with {} bytes", cut.len());
        }
        assert!(
            asking.check(&[head, b"x"].concat()).is_err(),
            "what is behind it is lost"
        );
        let said = Head::read(head);
        assert!(
            said.first.starts_with("HTTP/1.") && said.first.contains(" 101"),
            "{}",
            said.first
        );
        assert_eq!(said.values("sec-websocket-accept").next(), Some(accept.as_str()));
        assert_eq!(said.count("sec-websocket-extensions"), 0);
        assert_eq!(said.count("sec-websocket-protocol"), 1);
    }
}

/// What a server answers to the key, as our own server says it.
fn accept_for(asking: &UpgradeRequest) -> String {
    let (_, response) = answer(&asking.bytes, &AcceptPolicy::default()).expect("a right request");
    let accept = Head::read(&response)
        .values("sec-websocket-accept")
        .next()
        .map(str::to_owned);
    accept.expect("an answer to the key")
}

fn filled(bytes: &[u8], accept: &[u8]) -> Vec<u8> {
    const PLACE: &[u8] = b"ACCEPT";
    let place = bytes.windows(PLACE.len()).position(|window| window == PLACE);
    match place {
        Some(place) => [&bytes[..place], accept, &bytes[place + PLACE.len()..]].concat(),
        None => bytes.to_vec(),
    }
}

fn client() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 4711))
}

/// The bytes up to the first empty line.
fn head_of(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(HEAD_END.len()).position(|window| window == HEAD_END)?;
    Some(&bytes[..end + HEAD_END.len()])
}

/// `head` cut short in many ways.
fn cuts(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let evenly = (0..32).map(|part| head.len() * part / 32);
    let at_its_end = head.len().saturating_sub(5)..head.len();
    evenly.chain(at_its_end).map(|length| &head[..length])
}

/// A head as a reader takes it that knows no more of HTTP than lines and colons.
struct Head {
    first: String,
    fields: Vec<(String, String)>,
}

impl Head {
    fn read(head: &[u8]) -> Self {
        let text = String::from_utf8_lossy(head);
        let mut lines = text
            .split('\n')
            .map(|line| line.trim_end_matches('\r'))
            .skip_while(|line| line.is_empty());
        let first = lines.next().unwrap_or_default().to_owned();
        let fields = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Self { first, fields }
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.fields.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }

    fn count(&self, name: &str) -> usize {
        self.values(name).count()
    }
}
