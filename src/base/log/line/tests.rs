use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::span::{Attributes, Id, Record};
use tracing::{Metadata, Subscriber};

use super::*;

/// Keeps each event in each of the three forms.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<[Vec<u8>; 3]>>>);

impl Subscriber for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn event(&self, event: &Event<'_>) {
        let now = UNIX_EPOCH + Duration::from_micros(1_732_475_348_422_472);
        let forms = [text(event, now), json(event, now), journal(event)];
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(forms);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The forms of the one event of `act`: text, JSON, and the fields of the journal.
fn forms(act: impl FnOnce()) -> (String, serde_json::Value, Vec<(String, String)>) {
    let kept = Kept::default();
    tracing::subscriber::with_default(kept.clone(), act);
    let [text, json, journal] = kept.0.lock().expect("not poisoned").pop().expect("an event");
    let text = String::from_utf8(text).expect("UTF-8");
    let raw = String::from_utf8(json).expect("UTF-8");
    assert!(
        raw.trim_end().chars().all(|c| c == ' ' || c == '"' || is_safe(c)),
        "{raw:?}"
    );
    (text, serde_json::from_str(&raw).expect("JSON"), entry(&journal))
}

/// Reads an entry as journald does.
fn entry(mut bytes: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line");
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        match line.iter().position(|byte| *byte == b'=') {
            Some(at) => {
                fields.push((utf8(&line[..at]), utf8(&line[at + 1..])));
                bytes = rest;
            }
            None => {
                let (length, rest) = rest.split_first_chunk().expect("a length");
                let (value, rest) = rest.split_at(u64::from_le_bytes(*length) as usize);
                fields.push((utf8(line), utf8(value)));
                bytes = rest.strip_prefix(b"\n").expect("the end of the value");
            }
        }
    }
    fields
}

#[test]
fn a_line_has_its_fields_in_each_form() {
    let names = List::of(["a.example", "b \"c\n"]);
    let absent: Option<&str> = None;
    let (text, json, journal) = forms(|| {
        tracing::warn!(
            cause = "client_closed",
            absent,
            client_id = %Escaped(b"a b=\"c\\\xff\n"),
            port = 1883,
            seconds = 0.25,
            is = true,
            names = names.value(),
            nothing = "",
            "it \"ended\""
        );
    });
    assert_eq!(
        text,
        "2024-11-24T19:09:08.422472Z  WARN it \\u{22}ended\\u{22} cause=\"client_closed\" \
         client_id=\"a\\u{20}b=\\u{22}c\\u{5c}\\xff\\u{a}\" port=1883 seconds=0.25 is=true \
         names=a.example,b\\u{20}\\u{22}c\\u{a} nothing=\"\"\n"
    );
    let expected = serde_json::json!({
        "timestamp": "2024-11-24T19:09:08.422472Z",
        "level": "WARN",
        "message": "it \"ended\"",
        "cause": "client_closed",
        "client_id": "a b=\"c\\\\xff\n",
        "port": 1883,
        "seconds": 0.25,
        "is": true,
        "names": ["a.example", "b \"c\n"],
        "nothing": "",
    });
    assert_eq!(json, expected);
    let value = |name: &str| -> Vec<&str> {
        let of_name = journal.iter().filter(|(field, _)| field == name);
        of_name.map(|(_, value)| &**value).collect()
    };
    assert_eq!(value("PRIORITY"), ["4"]);
    assert_eq!(value("SYSLOG_IDENTIFIER"), ["remora"]);
    assert!(value("MESSAGE")[0].starts_with("it \\u{22}ended\\u{22} cause=\"client_closed\" "));
    assert_eq!(value("REMORA_MESSAGE"), ["it \"ended\""]);
    assert_eq!(value("REMORA_CLIENT_ID"), ["a b=\"c\\\\xff\n"]);
    assert_eq!(value("REMORA_NAMES"), ["a.example", "b \"c\n"]);
    assert_eq!(value("REMORA_PORT"), ["1883"]);
    assert_eq!(value("REMORA_ABSENT"), [""; 0]);
}

#[test]
fn each_level_has_the_priority_of_syslog() {
    let priority = |act: fn()| {
        let (_, _, journal) = forms(act);
        let found = journal.into_iter().find(|(name, _)| name == "PRIORITY");
        found.expect("a priority").1
    };
    assert_eq!(priority(|| tracing::error!("e")), "3");
    assert_eq!(priority(|| tracing::warn!("w")), "4");
    assert_eq!(priority(|| tracing::info!("i")), "6");
    assert_eq!(priority(|| tracing::debug!("d")), "7");
}

#[test]
fn an_empty_list_is_one_and_an_error_is_text() {
    let error = std::io::Error::other("it \"failed\"");
    let (_, json, _) = forms(|| {
        let error: &(dyn Error + 'static) = &error;
        tracing::info!(list = List::default().value(), error, "both");
    });
    assert_eq!(json["list"], serde_json::json!([]));
    assert_eq!(json["error"], "it \"failed\"");
}

#[test]
fn a_backtrace_is_behind_the_line_of_text_and_one_string_of_json() {
    let (text, json, journal) = forms(|| tracing::error!(backtrace = "0: a\n1: b\n", thread = "x", "panicked"));
    assert!(text.ends_with("panicked thread=\"x\"\n0: a\n1: b\n"), "{text}");
    assert_eq!(json["backtrace"], "0: a\n1: b\n");
    assert!(journal.contains(&("REMORA_BACKTRACE".to_owned(), "0: a\n1: b\n".to_owned())));
}

#[test]
fn times_are_those_of_the_calendar() {
    let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
    for (seconds, shown) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (951_782_399, "2000-02-28T23:59:59.000000Z"),
        (951_782_400, "2000-02-29T00:00:00.000000Z"),
        (951_868_800, "2000-03-01T00:00:00.000000Z"),
        (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
        (1_735_689_600, "2025-01-01T00:00:00.000000Z"),
        (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
    ] {
        assert_eq!(at(seconds), shown);
    }
}
