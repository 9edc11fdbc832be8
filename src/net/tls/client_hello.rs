//! The bytes of a ClientHello before rustls reads them: how large records the client can take, which rustls does not tell, and a
//! server name that is none, at which rustls would end the handshake.
//!
//! RFC 6066, section 3, lets a server go on without a name that it does not know, and every server on OpenSSL does. rustls
//! refuses names that no DNS name can be, such as `broker:8883`, before anything else can be asked. So the extension is [hidden]
//! from it under a type that rustls does not know and skips. The client has sent other bytes than rustls then reads, and
//! both sides hash all that they have sent and read: [`super::hidden_name`] gives the hash, and nothing else, the bytes of the client.
//!
//! [hidden]: Facts::hide_name

use std::borrow::Cow;
use std::net::IpAddr;
use std::ops::Range;

use rustls::pki_types::DnsName;

/// Of records and of their headers (RFC 8446, section 5.1).
const HEADER_BYTES: usize = 5;
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const MAJOR_VERSION: u8 = 3;
const RECORD_BYTES_MAX: usize = 16 * 1024 + 2048;

/// A whole record with a change of ciphers: one byte of content.
const CHANGE_BYTES: usize = HEADER_BYTES + 1;

/// The most bytes of a handshake message that rustls takes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

const CLIENT_HELLO: u8 = 1;

const SERVER_NAME: u16 = 0;
const MAX_FRAGMENT_LENGTH: u16 = 1;
const RECORD_SIZE_LIMIT: u16 = 28;

/// What a server name is hidden as: of the types for private use (RFC 8446, section 11), so no library gives it a meaning.
const HIDDEN: u16 = 0xff5a;

/// What is known of a ClientHello of which these bytes have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// It goes on.
    Incomplete,
    /// It is complete.
    Complete(Facts),
    /// It is none, or one that rustls will not read either.
    Unreadable,
}

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The most bytes of content in a record that the client can take, if it says so: `max_fragment_length` (RFC 6066,
    /// section 4) or `record_size_limit` (RFC 8449).
    pub record_max: Option<usize>,
    /// Where the two bytes of the type of a server name are that is none.
    unusable_name: Option<[usize; 2]>,
    /// It has an extension of the type as which server names are hidden.
    pub is_type_taken: bool,
}

impl Facts {
    /// Hides a server name that is none in `bytes`, of which these are the facts; whether there was one.
    pub(super) fn hide_name(&self, bytes: &mut [u8]) -> bool {
        let Some(places) = self.unusable_name else {
            return false;
        };
        for (place, byte) in places.into_iter().zip(HIDDEN.to_be_bytes()) {
            bytes[place] = byte;
        }
        true
    }
}

/// Looks at the records of a ClientHello, at each of them once, however its bytes are split.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    /// Where the first record of it begins.
    begin: usize,
    /// A change of ciphers may come before it.
    is_second: bool,
    /// Where the next record begins.
    at: usize,
    /// Bytes of the message in the records before it.
    received: usize,
    /// The first four of them: kind and length of the message.
    start: Vec<u8>,
}

impl Scanner {
    /// Looks for a second ClientHello, which a client sends after a HelloRetryRequest, with a change of ciphers before it for the sake
    /// of what stands in between (RFC 8446, appendix D.4).
    pub(super) fn of_second() -> Self {
        Self {
            is_second: true,
            ..Self::default()
        }
    }

    /// Whether it looks for a second ClientHello.
    pub(super) fn is_of_second(&self) -> bool {
        self.is_second
    }

    /// What is known once `bytes` have come, which begin with those of the calls before.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Scan {
        loop {
            let header = &bytes[self.at..bytes.len().min(self.at + HEADER_BYTES)];
            let is_other = |place: usize, expected: u8| header.get(place).is_some_and(|byte| *byte != expected);
            if self.is_second && self.at == 0 && header.first() == Some(&CHANGE_CIPHER_SPEC) {
                if bytes.len() < CHANGE_BYTES {
                    return Scan::Incomplete;
                }
                (self.begin, self.at) = (CHANGE_BYTES, CHANGE_BYTES);
                continue;
            }
            if is_other(0, HANDSHAKE) || is_other(1, MAJOR_VERSION) {
                return Scan::Unreadable;
            }
            let &[_, _, _, high, low] = header else {
                return Scan::Incomplete;
            };
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length == 0 || length > RECORD_BYTES_MAX {
                return Scan::Unreadable;
            }
            let end = self.at + HEADER_BYTES + length;
            let Some(content) = bytes.get(self.at + HEADER_BYTES..end) else {
                return Scan::Incomplete;
            };
            self.start.extend(content.iter().take(4 - self.start.len()));
            (self.at, self.received) = (end, self.received + length);
            let &[kind, a, b, c] = &self.start[..] else {
                continue;
            };
            let message = 4 + usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
            if kind != CLIENT_HELLO || message > MESSAGE_BYTES_MAX {
                return Scan::Unreadable;
            }
            if self.received >= message {
                return Scan::Complete(facts(bytes, &parts(&bytes[..self.at], self.begin)));
            }
        }
    }
}

/// Where the contents of the records from `at` on are, all of which are whole.
fn parts(records: &[u8], mut at: usize) -> Vec<Range<usize>> {
    let part = || {
        let length = records.get(at + 3..at + HEADER_BYTES)?;
        let start = at + HEADER_BYTES;
        at = start + usize::from(u16::from_be_bytes([length[0], length[1]]));
        Some(start..at)
    };
    std::iter::from_fn(part).collect()
}

fn facts(bytes: &[u8], parts: &[Range<usize>]) -> Facts {
    let message = match parts {
        [part] => Cow::Borrowed(&bytes[part.clone()]),
        _ => Cow::Owned(parts.iter().flat_map(|part| &bytes[part.clone()]).copied().collect()),
    };
    let place = |of_message: usize| {
        let mut rest = of_message;
        let part = parts.iter().find(|part| {
            let is_here = rest < part.len();
            rest -= if is_here { 0 } else { part.len() };
            is_here
        });
        part.map(|part| part.start + rest)
    };
    let mut facts = Facts::default();
    for Extension { kind, at, content } in extensions(&message) {
        let record_max = match (kind, content) {
            (MAX_FRAGMENT_LENGTH, [power @ 1..=4]) => Some(256 << power),
            // In TLS 1.3, one byte of it is the type of the content.
            (RECORD_SIZE_LIMIT, [high, low]) => match usize::from(u16::from_be_bytes([*high, *low])) {
                limit @ 64.. => Some(limit - 1),
                _ => None,
            },
            _ => None,
        };
        facts.record_max = facts.record_max.into_iter().chain(record_max).min();
        facts.is_type_taken |= kind == HIDDEN;
        if kind == SERVER_NAME && !is_name(content) {
            facts.unusable_name = place(at).zip(place(at + 1)).map(Into::into);
        }
    }
    if facts.is_type_taken {
        facts.unusable_name = None;
    }
    facts
}

/// Whether rustls reads this list of server names, or refuses it as not to be read at all.
fn is_name(list: &[u8]) -> bool {
    let &[high, low, 0, name_high, name_low, ref name @ ..] = list else {
        return true;
    };
    let length = |high, low| usize::from(u16::from_be_bytes([high, low]));
    let is_one_name = length(high, low) == list.len() - 2 && length(name_high, name_low) == name.len();
    if !is_one_name || name.is_empty() {
        return true;
    }
    let Ok(name) = str::from_utf8(name) else {
        return false;
    };
    DnsName::try_from(name).is_ok() || name.parse::<IpAddr>().is_ok()
}

/// A handshake message that begins with a ClientHello in which a server name was hidden, with it as the client has sent it; `None`
/// if there is nothing hidden.
pub(super) fn with_hidden_name(message: &[u8]) -> Option<Vec<u8>> {
    if message.first() != Some(&CLIENT_HELLO) {
        return None;
    }
    let hidden = extensions(message).find(|extension| extension.kind == HIDDEN)?;
    let mut original = message.to_vec();
    original[hidden.at..hidden.at + 2].copy_from_slice(&SERVER_NAME.to_be_bytes());
    Some(original)
}

/// One extension of a ClientHello.
struct Extension<'a> {
    kind: u16,
    /// Where its type is in the message.
    at: usize,
    content: &'a [u8],
}

/// The extensions of a ClientHello, as many as are whole: for a ticket, a ClientHello is hashed without its end.
fn extensions(message: &[u8]) -> impl Iterator<Item = Extension<'_>> {
    const VERSION_AND_RANDOM: usize = 2 + 32;
    let one = |at: usize| Some(1 + usize::from(*message.get(at)?));
    let two = |at: usize| Some(2 + usize::from(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?])));
    let begin = || {
        let session = 4 + VERSION_AND_RANDOM;
        let suites = session + one(session)?;
        let compressions = suites + two(suites)?;
        let list = compressions + one(compressions)?;
        Some((list + 2, list + two(list)?))
    };
    let (mut at, end) = begin().unwrap_or((0, 0));
    std::iter::from_fn(move || {
        let content = at + 4..at + 2 + two(at + 2)?;
        if content.end > end {
            return None;
        }
        let content = Extension {
            kind: u16::from_be_bytes([message[at], message[at + 1]]),
            at,
            content: message.get(content)?,
        };
        at = content.at + 4 + content.content.len();
        Some(content)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// A ClientHello as a handshake message, with this list of server names and these extensions besides.
    fn hello(names: &[u8], others: &[(u16, &[u8])]) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(super::super::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        // An address is not sent as a name.
        let name = "192.0.2.7".try_into().expect("an address");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut record = Vec::new();
        client.write_tls(&mut record).expect("a hello");
        let mut message = record.split_off(HEADER_BYTES);
        let begin = extensions(&message).next().expect("one").at - 2;
        let mut more: Vec<(u16, &[u8])> = others.to_vec();
        more.extend((!names.is_empty()).then_some((SERVER_NAME, names)));
        for (kind, content) in more {
            let length = u16::try_from(content.len()).expect("short");
            let extension = [&kind.to_be_bytes()[..], &length.to_be_bytes(), content].concat();
            message.splice(begin + 2..begin + 2, extension);
        }
        let length = u16::try_from(message.len() - begin - 2).expect("short");
        message[begin..begin + 2].copy_from_slice(&length.to_be_bytes());
        let length = u16::try_from(message.len() - 4).expect("short");
        message[2..4].copy_from_slice(&length.to_be_bytes());
        message
    }

    fn names(name: &str) -> Vec<u8> {
        let length = u16::try_from(name.len()).expect("short");
        let (list, name_length) = ((length + 3).to_be_bytes(), length.to_be_bytes());
        [&list[..], &[0], &name_length, name.as_bytes()].concat()
    }

    /// The message in records with so much content each.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).expect("short");
            [&[HANDSHAKE, MAJOR_VERSION, 1][..], &length.to_be_bytes(), part].concat()
        };
        message.chunks(size).flat_map(record).collect()
    }

    fn scan(bytes: &[u8]) -> Scan {
        Scanner::default().scan(bytes)
    }

    fn complete(bytes: &[u8]) -> Facts {
        match scan(bytes) {
            Scan::Complete(facts) => facts,
            other => panic!("{other:?}"),
        }
    }

    /// What rustls says to these bytes.
    fn is_read(mut bytes: &[u8]) -> bool {
        let mut acceptor = rustls::server::Acceptor::default();
        while !bytes.is_empty() {
            acceptor.read_tls(&mut bytes).expect("room");
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(_)) => return true,
                Err(_) => return false,
            }
        }
        panic!("not complete");
    }

    #[test]
    fn a_name_that_rustls_refuses_is_hidden_and_no_other_and_can_be_read_again() {
        let cases = [
            ("localhost", false),
            ("10.0.0.7", false),
            ("::1", false),
            ("my_broker", false),
            ("name.", false),
            ("broker:8883", true),
            ("10.0.0.7:8883", true),
            ("[broker]", true),
            ("[::1]", true),
            ("mqtts://broker", true),
            ("my broker", true),
            ("b..example", true),
            ("-b.example", true),
            ("b\u{fc}cher.example", true),
        ];
        for (name, is_hidden) in cases {
            let message = hello(&names(name), &[]);
            for size in [1, 2, 3, 5, 100, 10_000] {
                let mut bytes = records(&message, size);
                assert_eq!(is_read(&bytes), !is_hidden, "{name}");
                let facts = complete(&bytes);
                assert_eq!(facts.hide_name(&mut bytes), is_hidden, "{name}");
                assert!(is_read(&bytes), "{name} in records of {size}");
                let parts: Vec<u8> = bytes
                    .chunks(HEADER_BYTES + size)
                    .flat_map(|r| &r[HEADER_BYTES..])
                    .copied()
                    .collect();
                let again = with_hidden_name(&parts);
                assert_eq!(again, is_hidden.then(|| message.clone()), "{name} in records of {size}");
            }
        }
    }

    #[test]
    fn a_second_hello_is_found_behind_a_change_of_ciphers_and_nothing_else_is_taken_for_one() {
        let message = hello(&names("broker:8883"), &[]);
        let change = [CHANGE_CIPHER_SPEC, MAJOR_VERSION, 3, 0, 1, 1];
        for before in [&[][..], &change] {
            for size in [1, 7, 10_000] {
                let bytes = [before, &records(&message, size)].concat();
                let mut scanner = Scanner::of_second();
                for end in 0..bytes.len() {
                    assert_eq!(scanner.scan(&bytes[..end]), Scan::Incomplete, "{end} bytes");
                }
                let Scan::Complete(facts) = scanner.scan(&bytes) else {
                    panic!("it is complete");
                };
                let mut hidden = bytes.clone();
                assert!(facts.hide_name(&mut hidden));
                assert_eq!(hidden[..before.len()], *before);
                assert!(is_read(&hidden[before.len()..]), "in records of {size}");
            }
        }
        for other in [
            &[&change[..], &change].concat()[..],
            &[&change[..], b"\x17\x03\x03\0\x20"].concat(),
            b"\x17\x03\x03\0\x20",
            b"\x16\x03\x03\0\x04\x0b\0\0\x01",
            b"\x15\x03\x03\0\x02",
        ] {
            assert_eq!(Scanner::of_second().scan(other), Scan::Unreadable, "{other:?}");
        }
        assert_eq!(scan(&change), Scan::Unreadable);
    }

    #[test]
    fn a_list_of_names_that_is_broken_and_a_type_that_is_taken_are_left_alone() {
        let mut twice = [names("a b"), names("a b")[2..].to_vec()].concat();
        twice[1] = u8::try_from(twice.len() - 2).expect("short");
        let mut short = names("a b");
        short[1] += 1;
        for list in [&[0, 0][..], &[0], &short, &twice] {
            assert!(
                !complete(&records(&hello(list, &[]), 10_000)).hide_name(&mut []),
                "{list:?}"
            );
        }
        let taken = hello(&names("a b"), &[(HIDDEN, b"x")]);
        let expected = Facts {
            is_type_taken: true,
            ..Facts::default()
        };
        assert_eq!(complete(&records(&taken, 10_000)), expected);
    }

    #[test]
    fn the_largest_record_is_the_least_that_the_client_asks_for() {
        let length = |power: u8| vec![power];
        let limit = |bytes: u16| bytes.to_be_bytes().to_vec();
        for (asked, expected) in [
            (vec![], None),
            (vec![(MAX_FRAGMENT_LENGTH, length(1))], Some(512)),
            (vec![(MAX_FRAGMENT_LENGTH, length(4))], Some(4_096)),
            (vec![(MAX_FRAGMENT_LENGTH, length(0))], None),
            (vec![(MAX_FRAGMENT_LENGTH, length(5))], None),
            (vec![(RECORD_SIZE_LIMIT, limit(16_385))], Some(16_384)),
            (vec![(RECORD_SIZE_LIMIT, limit(64))], Some(63)),
            (vec![(RECORD_SIZE_LIMIT, limit(63))], None),
            (
                vec![(MAX_FRAGMENT_LENGTH, length(2)), (RECORD_SIZE_LIMIT, limit(601))],
                Some(600),
            ),
        ] {
            let others: Vec<(u16, &[u8])> = asked.iter().map(|(kind, content)| (*kind, &content[..])).collect();
            let bytes = records(&hello(&[], &others), 10_000);
            assert_eq!(complete(&bytes).record_max, expected, "{asked:?}");
        }
    }

    #[test]
    fn a_hello_is_incomplete_until_its_last_byte_and_what_is_none_is_seen_at_once() {
        let message = hello(&names("broker:8883"), &[]);
        for size in [1, 7, 10_000] {
            let bytes = records(&message, size);
            let mut scanner = Scanner::default();
            for end in 0..bytes.len() {
                assert_eq!(scan(&bytes[..end]), Scan::Incomplete, "{end} bytes");
                assert_eq!(scanner.scan(&bytes[..end]), Scan::Incomplete, "{end} bytes");
            }
            assert_eq!(scanner.scan(&bytes), scan(&bytes));
            let more = [&bytes[..], b"more"].concat();
            assert_eq!(scan(&more), scan(&bytes));
        }
        for junk in [
            &b"\x10\x0c\0\x04MQTT"[..],
            b"GET / HTTP/1.1\r\n",
            b"\x16\x02",
            b"\x16\x03\x01\0\0",
            b"\x16\x03\x01\xff\xff",
            b"\x16\x03\x01\0\x04\x02\0\0\x01",
            b"\x16\x03\x01\0\x04\x01\x01\0\x01",
            b"\x15\x03\x01\0\x02",
        ] {
            assert_eq!(scan(junk), Scan::Unreadable, "{junk:?}");
        }
        // However long its parts say that they are.
        for at in 4..message.len().min(400) {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut wrong = message.clone();
                wrong[at] = byte;
                let mut bytes = records(&wrong, 10_000);
                let facts = complete(&bytes);
                facts.hide_name(&mut bytes);
            }
        }
    }
}
