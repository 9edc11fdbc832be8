//! What must hold of any bytes whatever, written once: for the fuzz targets, for their corpus, and for the tests of the
//! readers.

use remora::config;
use remora::mqtt::{ConnackVerdict, Need, Verdict, Version, read_connack, read_connect};
use remora::proxy_protocol;
use remora::websocket::frames::{Control, Fault, Frames, Part, Sender};

/// How far a CONNECT may have to be read.
pub const NEEDS: [Need; 2] = [Need::ClientId, Need::Username];

/// How often a CONNECT is asked about at most, however it is cut.
pub const ASKED_MAX: usize = 30;

const VERSIONS: [Version; 4] = [
    Version::V31,
    Version::V311,
    Version::V5,
    Version::Unknown(9),
];

/// The verdict on a client's first bytes does not depend on how they are cut, and names nothing that is not there.
pub fn connect(bytes: &[u8]) {
    for need in NEEDS {
        check_all_prefixes(bytes, need);
        if let Verdict::Complete(connect) = read_connect(bytes, need) {
            let username = connect.username(bytes).unwrap_or_default();
            assert!(connect.client_id(bytes).len() + username.len() <= bytes.len());
            assert!(connect.packet_end() <= 5 + 0x0FFF_FFFF);
        }
    }
}

/// The verdict on a node's first bytes does not depend on how they are cut.
pub fn connack(bytes: &[u8]) {
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
                    assert!(
                        length >= not_before,
                        "decided with {length}, asked for {not_before}"
                    );
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

/// The verdict on what must be a PROXY header does not depend on how it is cut; what was read can be said again.
pub fn proxy_header(bytes: &[u8]) {
    use proxy_protocol::{BYTES_MAX, Source, Verdict, read, write};
    let whole = read(bytes);
    // Behind a header's bytes at most, nothing is looked at.
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
        assert!(is_there, "decided by what is not there");
        assert_eq!(verdict, whole, "decided with {length} of {}", bytes.len());
    }
    let Verdict::Header(header) = whole else {
        return;
    };
    let source = header.client.map(|client| Source {
        client,
        local: client,
    });
    assert!(source.is_some() || header.identity.is_none(), "of nobody");
    for version in [proxy_protocol::Version::V1, proxy_protocol::Version::V2] {
        let said = write(version, source, header.identity.as_deref());
        let Verdict::Header(again) = read(&said) else {
            panic!("{said:02x?} was said");
        };
        assert_eq!(again.bytes, said.len());
        assert_eq!(again.client, header.client);
        if version == proxy_protocol::Version::V2 {
            assert_eq!(again.identity, header.identity);
        }
    }
}

/// What frames are taken for does not depend on how they are cut; nothing is taken that is not there.
pub fn frames(bytes: &[u8]) {
    for sender in [Sender::Client, Sender::Node] {
        let whole = taken_apart([bytes], sender);
        for piece in [1, 2, 3, 7] {
            assert_eq!(
                taken_apart(bytes.chunks(piece), sender),
                whole,
                "in pieces of {piece}"
            );
        }
        assert!(whole.0.len() <= bytes.len());
    }
}

/// Data, control frames, and the fault at which it ended, of frames that come in these pieces.
pub fn taken_apart<'a>(
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
            assert!(here > 0 && here <= piece.len(), "it goes on");
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

/// A configuration is accepted, or refused with problems that all stand in the text and can be shown.
pub fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Err(problems) = config::parse("any.toml", &text) else {
        return;
    };
    let mut count = 0;
    for problem in problems.iter() {
        count += 1;
        assert!(!problem.message.is_empty());
        let spans = [problem.span.as_ref(), problem.other.as_ref().map(|o| &o.0)];
        for span in spans.into_iter().flatten() {
            assert!(
                text.get(span.clone()).is_some(),
                "{problem}: {span:?} of {} bytes",
                text.len()
            );
        }
        let position = problems.position(problem);
        assert_eq!(position.is_some(), problem.span.is_some(), "{problem}");
    }
    assert!(count > 0, "a refusal without a reason");
    let shown = problems.to_string();
    assert!(shown.contains(&format!("any.toml: {count} problem")));
    assert!(problems.coloured().len() >= shown.len());
}

/// `NeedMore` is told the truth about, and a verdict stays when more comes.
pub fn check_all_prefixes(bytes: &[u8], need: Need) {
    let whole = read_connect(bytes, need);
    let mut not_before = 0;
    for length in 0..=bytes.len() {
        match read_connect(&bytes[..length], need) {
            Verdict::NeedMore(enough) => {
                assert!(enough > length, "{enough} bytes are here: {length}");
                not_before = not_before.max(enough);
            }
            decided => {
                assert!(
                    length >= not_before,
                    "decided with {length}, asked for {not_before}"
                );
                assert_eq!(decided, whole, "decided with {length} of {}", bytes.len());
            }
        }
    }
    assert_eq!(read_as_asked(bytes, need), whole);
}

/// The verdict on `bytes` that arrive as they are asked for: never a byte more than what `NeedMore` names.
pub fn read_as_asked(bytes: &[u8], need: Need) -> Verdict {
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
