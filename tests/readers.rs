//! The readers of CONNECT, CONNACK and WebSocket frames against everything that can be done to them: cut, changed, claimed too
//! long.

use proptest::collection::vec;
use proptest::prelude::*;

use remora::mqtt::{
    Connack, ConnackVerdict, Connect, Need, NodeVerdict, Stranger, Verdict, Version, read_connack, read_connect,
    read_node_packet,
};
use remora::net::websocket::frames::{Control, Sender};

#[path = "e2e/packets.rs"]
#[allow(dead_code, reason = "the end-to-end tests need more of it")]
mod packets;

#[path = "e2e/ws_frames.rs"]
#[allow(dead_code, reason = "the end-to-end tests need more of it")]
mod ws_frames;

#[allow(dead_code, reason = "the fuzzers need more of it")]
mod checks;

use checks::{NEEDS, check_all_prefixes, read_as_asked, taken_apart};

fn samples() -> Vec<Vec<u8>> {
    use packets::Connect;
    let will = Connect::new("will").will(b"gone", &[0xFF; 300]);
    let connects = [
        Connect::new(""),
        Connect::new("plain").keep_alive(60),
        Connect::new("persistent").persistent(),
        Connect::v31("three-one"),
        Connect::v31("three-one").username("u").password("p"),
        Connect::new("bridge").bridge(),
        Connect::v31("bridge").bridge(),
        Connect::v5("five").bridge(),
        will.clone(),
        will.username("user").password([0, 0xFF, 0xC3]),
        Connect::new("no password").username("user"),
        Connect::new([0xC3, 0x28, 0, b'"']),
        Connect::v5(""),
        Connect::v5("five").session_expiry(3_600).user_property(b"n", b"v"),
        Connect::v5("five").authentication(b"SCRAM").username("user"),
        Connect::v5("five").will(b"t", b"w").username("user").password("p"),
        Connect::v5("five")
            .user_property(b"n", &[b'v'; 2_000])
            .session_expiry(u32::MAX),
        Connect::new([b'l'; 200]),
        Connect::v5([b'l'; 20_000]).username([b'u'; 300]),
    ];
    let mut samples: Vec<Vec<u8>> = connects.iter().map(Connect::bytes).collect();
    let mut from_the_future = Connect::new("later");
    from_the_future.level = 6;
    samples.push(from_the_future.bytes());
    samples
}

#[test]
fn every_prefix_of_every_sample_is_undecided_or_decided_for_good() {
    for sample in samples() {
        for need in NEEDS {
            check_all_prefixes(&sample, need);
            let verdict = read_as_asked(&sample, need);
            assert!(matches!(verdict, Verdict::Complete(_)), "{sample:02x?}");
        }
    }
}

#[test]
fn every_change_of_one_byte_gives_a_verdict() {
    let mut seen = 0;
    for sample in samples() {
        // Behind the first 100 bytes there are only the insides of long fields, and what stands behind them.
        let places = (0..sample.len()).filter(|at| *at < 100 || sample.len() - at < 30);
        for at in places {
            for change in 1..=u8::MAX {
                let mut changed = sample.clone();
                changed[at] ^= change;
                for need in NEEDS {
                    let whole = read_connect(&changed, need);
                    assert_eq!(read_as_asked(&changed, need), whole, "byte {at} ^ {change:#x}");
                    if let Verdict::Complete(connect) = whole {
                        assert!(connect.client_id(&changed).len() <= changed.len());
                    }
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 500_000, "only {seen} changes");
}

#[test]
fn every_sample_says_what_it_was_made_of() {
    let check = |made: packets::Connect, version: Version, expiry: Option<u32>| {
        let bytes = made.bytes();
        let Verdict::Complete(connect) = read_connect(&bytes, Need::Username) else {
            panic!("{made:?}");
        };
        assert_eq!(connect.version(), version);
        assert_eq!(connect.client_id(&bytes), made.client_id);
        assert_eq!(connect.username(&bytes), made.username.as_deref());
        assert_eq!(connect.clean_start(), made.clean_start);
        assert_eq!(connect.keep_alive(), made.keep_alive);
        assert_eq!(connect.bridge(), made.level & 0x80 != 0);
        assert_eq!(connect.session_expiry(), expiry);
        assert_eq!(connect.packet_end(), bytes.len());
    };
    use packets::Connect;
    check(Connect::new("a").keep_alive(7), Version::V311, None);
    check(Connect::v31("a").persistent().username("u"), Version::V31, None);
    check(Connect::v31("a").bridge(), Version::V31, None);
    check(
        Connect::new("a").bridge().will(b"t", &[0; 500]).username("u"),
        Version::V311,
        None,
    );
    check(
        Connect::v5("a")
            .bridge()
            .session_expiry(9)
            .will(b"t", b"w")
            .username("u"),
        Version::V5,
        Some(9),
    );
    check(
        Connect::v5([0xFF; 65_535]).user_property(b"a", b"b").session_expiry(0),
        Version::V5,
        Some(0),
    );
}

#[test]
fn strangers_are_named_within_six_bytes() {
    let cases: &[(&[u8], Stranger)] = &[
        (b"GET / HTTP/1.1\r\n", Stranger::Http),
        (b"HEAD /", Stranger::Http),
        (b"POST /", Stranger::Http),
        (b"PUT / ", Stranger::Http),
        (b"DELETE /x", Stranger::Http),
        (b"OPTIONS *", Stranger::Http),
        (b"PATCH /x", Stranger::Http),
        (b"TRACE /x", Stranger::Http),
        (b"CONNECT example.com:443", Stranger::Http),
        (b"PRI * HTTP/2.0\r\n", Stranger::Http),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n", Stranger::Proxy),
        (b"\r\n\r\n\0\r\nQUIT\n", Stranger::Proxy),
        (&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01], Stranger::Tls),
        (&[0x16, 0x03, 0x03], Stranger::Tls),
        (b"SSH-2.0", Stranger::Junk),
        (b"GOT / HTTP", Stranger::Junk),
        (b"PROXIMITY", Stranger::Junk),
        (b"POTATO", Stranger::Junk),
        (b"CONNACK", Stranger::Junk),
        (b"get / http", Stranger::Junk),
        (b"\r\n\r\r", Stranger::Junk),
        (&[0x00], Stranger::Junk),
        // Other packets of MQTT, which no client begins with.
        (&[0x20, 0x02, 0, 0], Stranger::Junk),
        (&[0xC0, 0x00], Stranger::Junk),
        (&[0xE0, 0x00], Stranger::Junk),
    ];
    for (bytes, stranger) in cases {
        for need in NEEDS {
            check_all_prefixes(bytes, need);
            let at_most = &bytes[..bytes.len().min(6)];
            let named = read_connect(at_most, need);
            assert_eq!(
                named,
                Verdict::Stranger(*stranger),
                "{:?}",
                at_most.escape_ascii().to_string()
            );
        }
    }
    for first in 0..=u8::MAX {
        let verdict = read_connect(&[first], Need::ClientId);
        let may_go_on = first >> 4 == 1 || b"GHPDOTC\r".contains(&first);
        assert_eq!(verdict == Verdict::Stranger(Stranger::Junk), !may_go_on, "{first:#x}");
    }
}

#[test]
fn the_low_nibble_of_the_first_byte_is_not_looked_at() {
    let mut bytes = packets::Connect::new("nibble").bytes();
    for nibble in 0..=0x0F {
        bytes[0] = 0x10 | nibble;
        assert!(matches!(read_connect(&bytes, Need::ClientId), Verdict::Complete(_)));
    }
}

#[test]
fn a_claim_is_not_believed() {
    // The largest packet, a longest id: the reader asks for what it needs, not for what was claimed.
    let claim = [
        0x10, 0xFF, 0xFF, 0xFF, 0x7F, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0xFF, 0xFF,
    ];
    let whole = claim.len() + 65_535;
    for need in NEEDS {
        assert_eq!(read_connect(&claim, need), Verdict::NeedMore(whole));
    }
    // An id longer than its packet cannot come.
    let lie = packets::packet(0x10, &claim[5..]);
    assert_eq!(
        read_connect(&lie, Need::ClientId),
        Verdict::Stranger(Stranger::Malformed)
    );
    let endless = [0x10, 0xFF, 0xFF, 0xFF, 0xFF];
    assert_eq!(
        read_connect(&endless, Need::ClientId),
        Verdict::Stranger(Stranger::Malformed)
    );
    let other = packets::packet(0x10, b"\0\x04HTTP\x04\x02\0\0\0\x01a");
    assert_eq!(
        read_connect(&other, Need::ClientId),
        Verdict::Stranger(Stranger::Malformed)
    );
}

fn connacks() -> Vec<(Vec<u8>, Version)> {
    let expiry = [0x11, 0, 0, 0x0E, 0x10];
    let all = [
        &expiry[..],
        &packets::assigned_client_id(b"given"),
        &[0x13, 0, 60, 0x21, 0, 10],
    ]
    .concat();
    vec![
        (packets::connack(4, 0), Version::V311),
        (packets::connack(4, 3), Version::V31),
        (vec![0x20, 2, 1, 0], Version::V311),
        (packets::connack(5, 0), Version::V5),
        (packets::connack(5, 0x9C), Version::V5),
        (vec![0x20, 2, 0, 1], Version::V5),
        (packets::connack_5(0, &all), Version::V5),
        (
            packets::connack_5(
                0x89,
                &[0x1F, 0, 200].iter().copied().chain([b'r'; 200]).collect::<Vec<_>>(),
            ),
            Version::V5,
        ),
        (vec![0x2F, 2, 0, 5], Version::V311),
    ]
}

#[test]
fn every_prefix_of_a_connack_is_undecided() {
    for (connack, version) in connacks() {
        let whole = read_connack(&connack, version);
        assert!(matches!(whole, ConnackVerdict::Connack(_)), "{connack:02x?}");
        for length in 0..connack.len() {
            let verdict = read_connack(&connack[..length], version);
            let ConnackVerdict::NeedMore(enough) = verdict else {
                panic!("{verdict:?} with {length} of {connack:02x?}");
            };
            assert!(enough > length && enough <= connack.len());
        }
        let behind = [&connack[..], b"\x30\x05"].concat();
        assert_eq!(
            read_connack(&behind, version),
            whole,
            "what comes behind changes nothing"
        );
    }
}

#[test]
fn every_change_of_one_byte_of_a_connack_gives_a_verdict() {
    for (connack, version) in connacks() {
        for at in 0..connack.len() {
            for change in 1..=u8::MAX {
                let mut changed = connack.clone();
                changed[at] ^= change;
                for length in 0..changed.len() {
                    read_connack(&changed[..length], version);
                }
                let verdict = read_connack(&changed, version);
                if at == 0 && changed[0] >> 4 != 2 {
                    let is_auth = changed[0] >> 4 == 15 && version == Version::V5;
                    let expected = if is_auth {
                        ConnackVerdict::Auth
                    } else {
                        ConnackVerdict::Stranger
                    };
                    assert_eq!(verdict, expected);
                }
            }
        }
    }
}

#[test]
fn a_connack_says_what_it_was_made_of() {
    let expiry = [0x11, 0, 0, 0x0E, 0x10];
    let properties = [&expiry[..], &packets::assigned_client_id(b"given"), &[0x13, 0, 60]].concat();
    let said = read_connack(&packets::connack_5(0, &properties), Version::V5);
    let expected = Connack {
        code: 0,
        session_present: false,
        assigned_client_id: Some(b"given".as_slice().into()),
        server_keep_alive: Some(60),
        session_expiry: Some(3_600),
    };
    assert_eq!(said, ConnackVerdict::Connack(expected));
    let ConnackVerdict::Connack(present) = read_connack(&[0x20, 2, 1, 0], Version::V311) else {
        panic!("a CONNACK");
    };
    assert!(present.session_present);
    // A 3.x client hears of no properties, whatever stands behind the code.
    let ConnackVerdict::Connack(plain) = read_connack(&packets::connack_5(0, &properties), Version::V311) else {
        panic!("a CONNACK");
    };
    assert_eq!(plain.server_keep_alive, None);
}

fn field(bytes_max: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..=bytes_max)
}

fn connect() -> impl Strategy<Value = packets::Connect> {
    let level = prop_oneof![Just(3u8), Just(4), Just(5), Just(0x84), Just(0x83)];
    let optional = || proptest::option::of(field(40));
    let will = proptest::option::of((field(20), field(300)));
    let rest = (any::<bool>(), any::<u16>(), will, optional(), optional());
    (
        level,
        field(300),
        rest,
        vec(field(30), 0..3),
        proptest::option::of(any::<u32>()),
    )
        .prop_map(
            |(level, client_id, (clean_start, keep_alive, will, username, password), pairs, expiry)| {
                let mut connect = packets::Connect::new(client_id);
                connect.level = level;
                connect.clean_start = clean_start;
                connect.keep_alive = keep_alive;
                (connect.will, connect.username, connect.password) = (will, username, password);
                for value in pairs {
                    connect = connect.user_property(b"name", &value);
                }
                match expiry {
                    Some(seconds) => connect.session_expiry(seconds),
                    None => connect,
                }
            },
        )
}

/// Payload whose length takes each form of header, and little more.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![0..10usize, 120..130usize, 65_530..65_540usize];
    (lengths, any::<u8>()).prop_map(|(length, first)| {
        let bytes = (0..length).map(|place| first.wrapping_add(place as u8));
        bytes.collect()
    })
}

/// Frames, by first byte and payload: messages in fragments, with control frames before, between and behind them.
fn frames() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let control = (any::<bool>(), vec(any::<u8>(), 0..=125)).prop_map(|(asks, payload)| {
        let first = if asks { ws_frames::PING } else { ws_frames::PONG };
        (first, payload)
    });
    let fragment = (vec(control, 0..2), payload());
    let message = vec(fragment, 1..4).prop_map(|fragments| {
        let last = fragments.len() - 1;
        let mut frames = Vec::new();
        for (number, (controls, payload)) in fragments.into_iter().enumerate() {
            frames.extend(controls);
            let opcode = if number == 0 { ws_frames::BEGUN } else { 0 };
            let fin = if number == last { ws_frames::LAST } else { 0 };
            frames.push((fin | opcode, payload));
        }
        frames
    });
    vec(message, 0..4).prop_map(|messages| messages.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// However frames are fragmented, masked and cut, what is in them comes out, and each control frame once.
    #[test]
    fn frames_carry_what_was_put_into_them(made in frames(), key in any::<[u8; 4]>(), cuts in vec(any::<prop::sample::Index>(), 0..6)) {
        let (mut data, mut controls) = (Vec::new(), Vec::new());
        for (first, payload) in &made {
            match *first {
                ws_frames::PING => controls.push(Control::Ping(payload.as_slice().into())),
                ws_frames::PONG => controls.push(Control::Pong),
                _ => data.extend_from_slice(payload),
            }
        }
        for sender in [Sender::Client, Sender::Node] {
            let frame = |(first, payload): &(u8, Vec<u8>)| match sender {
                Sender::Client => ws_frames::masked(*first, payload, key),
                Sender::Node => ws_frames::plain(*first, payload),
            };
            let bytes: Vec<u8> = made.iter().flat_map(frame).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
            let taken = taken_apart(pieces, sender);
            prop_assert!(taken.2.is_none(), "{:?}", taken.2);
            prop_assert!(taken.0 == data, "other data");
            prop_assert_eq!(&taken.1, &controls);
        }
    }
}

/// A PROXY header that is nearly right: what may be there, and how much of it is said to be.
fn nearly_a_header() -> impl Strategy<Value = Vec<u8>> {
    let tlv = (
        prop::sample::select(vec![1_u8, 2, 3, 4, 5, 0x20, 0x21, 0x22, 0x23, 0x30, 0xEA]),
        vec(any::<u8>(), 0..40),
        -1_i16..=1,
    );
    let tlv = tlv.prop_map(|(kind, value, off)| {
        let length = (value.len() as i16 + off.max(-(value.len() as i16))) as u16;
        [&[kind], &length.to_be_bytes()[..], &value].concat()
    });
    let binary = (
        prop::sample::select(vec![0x20_u8, 0x21, 0x22, 0x11]),
        prop::sample::select(vec![0x00_u8, 0x11, 0x12, 0x21, 0x31, 0x41]),
        vec(any::<u8>(), 0..40),
        vec(tlv, 0..4),
        -2_i16..=2,
    );
    let binary = binary.prop_map(|(command, family, addresses, tlvs, off)| {
        let block = [addresses, tlvs.concat()].concat();
        let length = (block.len() as i16 + off).max(0) as u16;
        let start = b"\r\n\r\n\0\r\nQUIT\n";
        [&start[..], &[command, family], &length.to_be_bytes(), &block].concat()
    });
    let line = "PROXY (TCP4|TCP6|UNKNOWN) ?[0-9a-f.:]{0,39} [0-9.:]{1,15} [+0-9]{1,6} [0-9]{1,6} ?\r?\n?.{0,9}";
    prop_oneof![binary, line.prop_map(String::into_bytes)]
}

proptest! {
    #[test]
    fn any_header_has_one_verdict_however_it_is_cut(bytes in nearly_a_header()) {
        checks::proxy_header(&bytes);
    }

    #[test]
    fn any_bytes_behind_the_start_of_a_header_have_one_verdict(bytes in vec(any::<u8>(), 0..80)) {
        checks::proxy_header(&[b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x30", &bytes[..]].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Cut anywhere, read whenever a piece arrives or only when asked for: the verdict is that on the whole.
    #[test]
    fn the_cut_does_not_change_the_verdict(made in connect(), behind in field(20), cuts in vec(any::<prop::sample::Index>(), 0..6)) {
        let bytes = [made.bytes(), behind].concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        for need in NEEDS {
            let whole = read_connect(&bytes, need);
            let Verdict::Complete(connect) = whole else {
                panic!("{whole:?} on {made:?}");
            };
            prop_assert_eq!(connect.client_id(&bytes), &made.client_id[..]);
            prop_assert_eq!(read_as_asked(&bytes, need), whole);
            let mut enough = 0;
            let mut decided = None;
            for cut in &cuts {
                // As the balancer does: not asked again before there is enough.
                if decided.is_none() && *cut >= enough {
                    match read_connect(&bytes[..*cut], need) {
                        Verdict::NeedMore(more) => enough = more,
                        verdict => decided = Some(verdict),
                    }
                }
            }
            prop_assert_eq!(decided, Some(whole));
        }
    }

    /// Nothing from the network panics, and what is decided once stays so.
    #[test]
    fn any_bytes_of_a_node_give_a_verdict_that_holds(first in any::<u8>(), rest in field(80), is_5 in any::<bool>()) {
        let version = if is_5 { Version::V5 } else { Version::V311 };
        let bytes = [&[first][..], &rest].concat();
        let whole = read_node_packet(&bytes, version);
        for end in 0..bytes.len() {
            match read_node_packet(&bytes[..end], version) {
                NodeVerdict::NeedMore(enough) => prop_assert!(enough > end),
                decided => prop_assert_eq!(&decided, &whole, "{}", end),
            }
        }
    }

    #[test]
    fn any_bytes_give_a_verdict(first in prop_oneof![Just(0x10u8), any::<u8>()], rest in field(80)) {
        let bytes = [vec![first], rest].concat();
        for need in NEEDS {
            check_all_prefixes(&bytes, need);
        }
        for version in [Version::V31, Version::V311, Version::V5, Version::Unknown(9)] {
            for length in 0..=bytes.len() {
                read_connack(&bytes[..length], version);
            }
        }
    }

    /// mqttbytes writes plain CONNECTs of 3.1.1 right.
    #[test]
    fn connects_of_mqttbytes_are_read_v4(id in "\\PC{0,60}", keep_alive in any::<u16>(), clean in any::<bool>(), user in "\\PC{1,20}", login in any::<bool>(), will in any::<bool>()) {
        use mqttbytes::{QoS, v4};
        let mut written = v4::Connect::new(id.clone());
        written.keep_alive = keep_alive;
        written.clean_session = clean;
        if login {
            written.set_login(user.clone(), "password".to_owned());
        }
        if will {
            written.last_will = Some(v4::LastWill::new("gone", b"payload".to_vec(), QoS::AtLeastOnce, true));
        }
        let mut bytes = bytes::BytesMut::new();
        written.write(&mut bytes).expect("a packet");
        let connect = complete(&bytes)?;
        prop_assert_eq!(connect.version(), Version::V311);
        prop_assert_eq!(connect.client_id(&bytes), id.as_bytes());
        prop_assert_eq!(connect.username(&bytes), login.then_some(user.as_bytes()));
        prop_assert_eq!((connect.keep_alive(), connect.clean_start()), (keep_alive, clean));
        prop_assert_eq!(connect.packet_end(), bytes.len());
    }

    /// And of 5, with properties.
    #[test]
    fn connects_of_mqttbytes_are_read_v5(id in "\\PC{0,60}", keep_alive in any::<u16>(), user in "\\PC{1,20}", login in any::<bool>(), expiry in proptest::option::of(any::<u32>()), value in "\\PC{0,200}") {
        use mqttbytes::v5;
        let mut written = v5::Connect::new(id.clone());
        written.keep_alive = keep_alive;
        if login {
            written.set_login(user.clone(), "password".to_owned());
        }
        written.properties = Some(v5::ConnectProperties {
            session_expiry_interval: expiry,
            receive_maximum: Some(7),
            max_packet_size: None,
            topic_alias_max: None,
            request_response_info: None,
            request_problem_info: Some(1),
            user_properties: vec![("name".to_owned(), value)],
            authentication_method: None,
            authentication_data: None,
        });
        let mut bytes = bytes::BytesMut::new();
        written.write(&mut bytes).expect("a packet");
        let connect = complete(&bytes)?;
        prop_assert_eq!(connect.version(), Version::V5);
        prop_assert_eq!(connect.client_id(&bytes), id.as_bytes());
        prop_assert_eq!(connect.username(&bytes), login.then_some(user.as_bytes()));
        prop_assert_eq!((connect.keep_alive(), connect.session_expiry()), (keep_alive, expiry));
        prop_assert_eq!(connect.packet_end(), bytes.len());
    }
}

fn complete(bytes: &[u8]) -> Result<Connect, TestCaseError> {
    match read_connect(bytes, Need::Username) {
        Verdict::Complete(connect) => Ok(connect),
        other => Err(TestCaseError::fail(format!("{other:?}"))),
    }
}
