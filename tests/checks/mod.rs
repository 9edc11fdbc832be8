//! Properties that must hold for any bytes, written once: for the fuzz targets, for their corpus, and for the tests of the
//! readers.

pub(crate) mod framing;
pub(crate) mod handover;
pub(crate) mod heads;
pub(crate) mod held;
pub(crate) mod hello;
pub(crate) mod import;

use remora::config;
use remora::mqtt::{ConnackVerdict, Need, Verdict, Version, read_connack, read_connect};
use remora::net::websocket::frames::{Control, Fault, Frames, Part, Sender};
use remora::proxy_protocol;

/// The two ways to read a CONNECT.
pub(crate) const NEEDS: [Need; 2] = [Need::ClientId, Need::Username];

/// How often a CONNECT is read at most until it is complete, however it is split.
pub(crate) const ASKED_MAX: usize = 30;

const VERSIONS: [Version; 4] = [Version::V31, Version::V311, Version::V5, Version::Unknown(9)];

/// The verdict on a client's first bytes does not depend on how they are split, and refers only to bytes that are there.
pub(crate) fn connect(bytes: &[u8]) {
    for need in NEEDS {
        check_all_prefixes(bytes, need);
        if let Verdict::Complete(connect) = read_connect(bytes, need) {
            let username = connect.username(bytes).unwrap_or_default();
            assert!(connect.client_id(bytes).len() + username.len() <= bytes.len());
            assert!(connect.packet_end() <= 5 + 0x0FFF_FFFF);
        }
    }
}

/// The verdict on a node's first bytes does not depend on how they are split.
pub(crate) fn connack(bytes: &[u8]) {
    for version in VERSIONS {
        let whole = read_connack(bytes, version);
        let mut not_before = 0;
        for length in 0..=bytes.len() {
            match read_connack(&bytes[..length], version) {
                ConnackVerdict::NeedMore(enough) => {
                    assert!(enough > length, "{enough} bytes are here: {length}");
                    assert!(enough >= not_before, "{enough}, after {not_before}");
                    not_before = enough;
                }
                decided => {
                    assert!(length >= not_before, "decided with {length}, asked for {not_before}");
                    assert_eq!(decided, whole, "decided with {length} of {}", bytes.len());
                }
            }
        }
        if let ConnackVerdict::Connack(connack) = whole {
            let assigned = connack.assigned_client_id.unwrap_or_default();
            assert!(assigned.is_empty() || bytes.windows(assigned.len()).any(|w| *w == *assigned));
        }
    }
}

/// The verdict on a PROXY header does not depend on how it is split; what was read can be written again.
pub(crate) fn proxy_header(bytes: &[u8]) {
    use proxy_protocol::{BYTES_MAX, Source, Verdict, read, write};
    let whole = read(bytes);
    // Bytes after the longest possible header are not read.
    for length in 0..=bytes.len().min(BYTES_MAX + 1) {
        let verdict = read(&bytes[..length]);
        let is_there = match &verdict {
            Verdict::NeedMore => {
                assert!(length < BYTES_MAX, "more than {length} bytes asked for");
                continue;
            }
            Verdict::Header(header) => header.bytes <= length,
            Verdict::Wrong(_) => true,
        };
        assert!(is_there, "decided before all bytes of the header were there");
        assert_eq!(verdict, whole, "decided with {length} of {}", bytes.len());
    }
    let Verdict::Header(header) = whole else {
        return;
    };
    let source = header.client.map(|client| Source { client, local: client });
    assert!(
        source.is_some() || header.identity.is_none(),
        "an identity without a client"
    );
    for version in [proxy_protocol::Version::V1, proxy_protocol::Version::V2] {
        let written = write(version, source, header.identity.as_deref());
        let Verdict::Header(again) = read(&written) else {
            panic!("{written:02x?} was written");
        };
        assert_eq!(again.bytes, written.len());
        assert_eq!(again.client, header.client);
        if version == proxy_protocol::Version::V2 {
            assert_eq!(again.identity, header.identity);
        }
    }
}

/// The result of parsing frames does not depend on how they are split, and has no more data than there was input.
pub(crate) fn frames(bytes: &[u8]) {
    for sender in [Sender::Client, Sender::Node] {
        let whole = taken_apart([bytes], sender);
        for piece in [1, 2, 3, 7] {
            assert_eq!(taken_apart(bytes.chunks(piece), sender), whole, "in pieces of {piece}");
        }
        assert!(whole.0.len() <= bytes.len());
    }
}

/// The data and control frames in a stream that arrives in these pieces, and the fault at which parsing ended.
pub(crate) fn taken_apart<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    sender: Sender,
) -> (Vec<u8>, Vec<Control>, Option<Fault>) {
    let mut frames = Frames::new(sender);
    let (mut data, mut controls) = (Vec::new(), Vec::new());
    for mut piece in pieces {
        while !piece.is_empty() {
            let (here, part) = match frames.next(piece) {
                Ok(taken) => taken,
                Err(fault) => return (data, controls, Some(fault)),
            };
            assert!(here > 0 && here <= piece.len(), "no progress");
            match part {
                Part::Header | Part::Control(None) => {}
                Part::Control(Some(control)) => controls.push(control),
                Part::Data(mask) => {
                    let start = data.len();
                    data.extend_from_slice(&piece[..here]);
                    mask.apply(&mut data[start..]);
                }
            }
            piece = &piece[here..];
        }
    }
    (data, controls, None)
}

/// A configuration is accepted, and means the same when it is printed and read again, or is refused with problems that all point
/// into the text and can be shown.
pub(crate) fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let problems = match config::parse("any.toml", &text) {
        Ok(mut accepted) => {
            let printed = config::effective(&accepted, None);
            let mut again = config::parse("printed.toml", &printed).unwrap_or_else(|problems| panic!("{problems}"));
            // They point into their texts.
            accepted.warnings.clear();
            again.warnings.clear();
            assert_eq!(again, accepted, "{printed}");
            return;
        }
        Err(problems) => problems,
    };
    let mut count = 0;
    for problem in problems.iter() {
        count += 1;
        assert!(!problem.message.is_empty());
        let position = problems.position(problem);
        assert_eq!(position.is_some(), problem.span.is_some(), "{problem}");
        let spans = [problem.span.as_ref(), problem.other.as_ref().map(|o| &o.0)];
        // Behind the end is a file that it includes.
        let is_here = |span: &&std::ops::Range<usize>| span.start <= text.len();
        for span in spans.into_iter().flatten().filter(is_here) {
            assert!(
                text.get(span.clone()).is_some(),
                "{problem}: {span:?} of {} bytes",
                text.len()
            );
        }
    }
    assert!(count > 0, "refused without a problem");
    let shown = problems.to_string();
    assert!(shown.contains(&format!("any.toml: {count} problem")));
    assert!(problems.coloured().len() >= shown.len());
}

/// `NeedMore` never asks for too many bytes, and a verdict does not change when more arrive.
pub(crate) fn check_all_prefixes(bytes: &[u8], need: Need) {
    let whole = read_connect(bytes, need);
    let mut not_before = 0;
    for length in 0..=bytes.len() {
        match read_connect(&bytes[..length], need) {
            Verdict::NeedMore(enough) => {
                assert!(enough > length, "{enough} bytes are here: {length}");
                not_before = not_before.max(enough);
            }
            decided => {
                assert!(length >= not_before, "decided with {length}, asked for {not_before}");
                assert_eq!(decided, whole, "decided with {length} of {}", bytes.len());
            }
        }
    }
    assert_eq!(read_as_asked(bytes, need), whole);
}

/// The verdict on `bytes` that arrive as they are asked for: never more than `NeedMore` asks for.
pub(crate) fn read_as_asked(bytes: &[u8], need: Need) -> Verdict {
    let mut here = 0;
    for _ in 0..ASKED_MAX {
        match read_connect(&bytes[..here], need) {
            Verdict::NeedMore(enough) if enough <= bytes.len() => {
                assert!(enough > here, "asked for {enough} with {here} here");
                here = enough;
            }
            verdict => return verdict,
        }
    }
    panic!("asked more than {ASKED_MAX} times");
}
