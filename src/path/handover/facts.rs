//! What is known of a connection, as a message and back: names instead of numbers, ages instead of times.

use std::time::Duration;

use tokio::time::Instant;

use super::Names;
use crate::base::clock::Seconds;
use crate::cluster::{Decision, NodeId};
use crate::handover::messages::{self, Invalid, LongId};
use crate::identity::{Certificate, Identity, Tls};
use crate::mqtt::{SessionExpiry, Version};
use crate::path::record::{Connected, KeptId, PlacementKey, Record, Steps};

/// What a message says of a relay.
#[derive(Debug)]
pub(crate) struct Facts {
    /// What is known of the connection.
    pub record: Box<Record>,
    /// Its node.
    pub node_id: NodeId,
    /// A client that is silent for this long is disconnected; `None` means never.
    pub idle_limit: Option<Seconds>,
}

/// What does not change of a relay; `None` if its node or its listener has no name in this handover.
pub(crate) fn relay(
    record: &Record,
    (node, idle_limit): (NodeId, Option<Seconds>),
    worker: u16,
    names: &Names,
) -> Option<messages::Relay> {
    let Steps {
        peek,
        pace,
        dial,
        greet,
    } = record.steps;
    Some(messages::Relay {
        number: record.number,
        worker: worker.into(),
        listener: names.place_of_listener(record.listener)?,
        node: names.place_of_node(node)?,
        client: record.client.to_string(),
        age_us: micros(record.accepted.elapsed()),
        connect: record.connect.as_ref().map(connected),
        decision: record.decision.map(|decision| decision.name().to_owned()),
        retries: record.retries.into(),
        code: record.code.map(u32::from),
        steps: vec![peek, pace, dial, greet],
        idle_limit: idle_limit.map(|limit| limit.0),
        identity: record.identity.as_deref().map(identity),
    })
}

/// What a message says of a relay.
///
/// # Errors
/// No relay can be like that.
pub(crate) fn facts(relay: &messages::Relay, names: &Names) -> Result<Facts, Invalid> {
    let [peek, pace, dial, greet] = relay.steps[..] else {
        return Err(Invalid("steps of a relay"));
    };
    let node_id = names.node(relay.node)?;
    let record = Record {
        number: relay.number,
        listener: names.listener(relay.listener)?,
        client: relay.client.parse().map_err(|_| Invalid("address of a client"))?,
        identity: relay.identity.as_ref().map(|identity| Box::new(identity_of(identity))),
        accepted: before(Instant::now(), Duration::from_micros(relay.age_us)),
        connect: relay.connect.as_ref().map(connected_of).transpose()?,
        decision: decision_of(relay.decision.as_deref()),
        node: Some(node_id),
        retries: small(relay.retries, "retries")?,
        code: relay.code.map(|code| small(code, "code of a CONNACK")).transpose()?,
        steps: Steps {
            peek,
            pace,
            dial,
            greet,
        },
    };
    Ok(Facts {
        record: Box::new(record),
        node_id,
        idle_limit: relay.idle_limit.map(Seconds),
    })
}

/// What is kept of a client id, as a message has it.
pub(super) fn client_id(id: &KeptId) -> (Vec<u8>, Option<LongId>) {
    let long = id.long().map(|(length, hash)| LongId {
        length: length as u64,
        hash,
    });
    (id.kept().to_vec(), long)
}

/// The placement's key, as a message has it.
pub(super) fn key(placement: PlacementKey) -> Vec<u8> {
    placement.hash().map_or(Vec::new(), |hash| hash.to_be_bytes().to_vec())
}

/// The decision of this name. One that is unknown here is none: it is only shown.
pub(super) fn decision_of(name: Option<&str>) -> Option<Decision> {
    Decision::ALL
        .iter()
        .copied()
        .find(|decision| Some(decision.name()) == name)
}

/// The time so long before `now`, as far as the system has run.
pub(super) fn before(now: Instant, age: Duration) -> Instant {
    now.checked_sub(age).unwrap_or(now)
}

/// Whole microseconds.
pub(super) fn micros(age: Duration) -> u64 {
    u64::try_from(age.as_micros()).unwrap_or(u64::MAX)
}

fn connected(connect: &Connected) -> messages::Connected {
    let (id, long_id) = client_id(&connect.client_id);
    messages::Connected {
        client_id: id,
        long_id,
        version: connect.version.level().into(),
        keep_alive: connect.keep_alive.into(),
        clean_start: connect.clean_start,
        placement: key(connect.placement),
        ring_hash: connect.ring_hash,
        session_expiry: connect.session_expiry.0,
    }
}

/// What a message says of a CONNECT.
pub(super) fn connected_of(message: &messages::Connected) -> Result<Connected, Invalid> {
    let long = message.long_id.as_ref().map(|long| {
        // Too long for a number here is too long for an id as well.
        (usize::try_from(long.length).unwrap_or(usize::MAX), long.hash)
    });
    let placement = match &message.placement[..] {
        [] => PlacementKey::NONE,
        key => PlacementKey::of_hash(hash_of(key)?),
    };
    Ok(Connected {
        client_id: KeptId::kept_elsewhere(&message.client_id, long).ok_or(Invalid("client id"))?,
        version: Version::of_level(small(message.version, "level of MQTT")?),
        keep_alive: small(message.keep_alive, "Keep Alive")?,
        clean_start: message.clean_start,
        placement,
        ring_hash: message.ring_hash,
        session_expiry: SessionExpiry(message.session_expiry),
    })
}

/// The hash that these bytes are.
pub(super) fn hash_of(key: &[u8]) -> Result<u128, Invalid> {
    let key = key.try_into().map_err(|_| Invalid("key of a placement"))?;
    Ok(u128::from_be_bytes(key))
}

fn small<T: TryFrom<u32>>(number: u32, what: &'static str) -> Result<T, Invalid> {
    T::try_from(number).map_err(|_| Invalid(what))
}

fn identity(identity: &Identity) -> messages::Identity {
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    messages::Identity {
        server_name: text(&identity.server_name),
        tls: identity.tls.as_ref().map(|tls| {
            let certificate = tls.certificate.as_ref();
            messages::Tls {
                version: tls.version.to_string(),
                cipher: text(&tls.cipher),
                has_certificate: certificate.is_some(),
                common_name: certificate.and_then(|certificate| text(&certificate.common_name)),
                names: identity.names().iter().map(|name| name.to_string()).collect(),
                on_this_connection: certificate.is_some_and(|certificate| certificate.on_this_connection),
            }
        }),
    }
}

fn identity_of(message: &messages::Identity) -> Identity {
    let text = |text: &Option<String>| text.as_deref().map(Box::from);
    Identity {
        server_name: text(&message.server_name),
        tls: message.tls.as_ref().map(|tls| Tls {
            version: tls.version.as_str().into(),
            cipher: text(&tls.cipher),
            certificate: tls.has_certificate.then(|| Certificate {
                common_name: text(&tls.common_name),
                names: tls.names.iter().map(|name| name.as_str().into()).collect(),
                on_this_connection: tls.on_this_connection,
            }),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::record::ListenerId;

    fn names() -> Names {
        Names::new(vec![NodeId(7), NodeId(3)], vec![ListenerId(2)])
    }

    fn record(client_id: &[u8], version: Version, placement: PlacementKey) -> Record {
        Record {
            identity: Some(Box::new(Identity {
                server_name: Some("mqtt.example".into()),
                tls: Some(Tls {
                    version: "TLSv1.3".into(),
                    cipher: Some("TLS_AES_256_GCM_SHA384".into()),
                    certificate: Some(Certificate {
                        common_name: Some("größe".into()),
                        names: vec!["a.example".into(), "b.example".into()],
                        on_this_connection: true,
                    }),
                }),
            })),
            connect: Some(Connected {
                client_id: KeptId::of(client_id),
                version,
                keep_alive: u16::MAX,
                clean_start: true,
                placement,
                ring_hash: u64::MAX,
                session_expiry: SessionExpiry::NEVER,
            }),
            decision: Some(Decision::Spill),
            node: Some(NodeId(3)),
            retries: 255,
            code: Some(0x97),
            steps: Steps {
                peek: 1,
                pace: 2,
                dial: 3,
                greet: u32::MAX,
            },
            ..Record::new(
                5 << 48,
                ListenerId(2),
                "[2001:db8::1]:1883".parse().expect("an address"),
                Instant::now(),
            )
        }
    }

    /// All of a record but the time of its accept.
    fn shown(record: &Record) -> String {
        let accepted = format!("{:?}", record.accepted);
        format!("{record:?}").replace(&accepted, "")
    }

    #[test]
    fn everything_that_is_known_of_a_relay_arrives() {
        let placement = PlacementKey::of(b"key");
        let cases = [
            record(b"", Version::V31, PlacementKey::NONE),
            record(&[0xFF; 256], Version::V311, placement),
            record(&[b'x'; 257], Version::V5, placement),
            record(&[b'x'; 65_535], Version::Unknown(9), placement),
            Record {
                connect: None,
                identity: None,
                decision: None,
                code: None,
                ..record(b"", Version::V5, placement)
            },
            Record {
                identity: Some(Box::default()),
                ..record(b"id", Version::V5, placement)
            },
        ];
        for before in cases {
            for idle_limit in [None, Some(Seconds(95))] {
                let of_node = (NodeId(3), idle_limit);
                let message = relay(&before, of_node, 1, &names()).expect("names");
                let facts = facts(&message, &names()).expect("a relay");
                assert_eq!(shown(&facts.record), shown(&before));
                assert_eq!((facts.node_id, facts.idle_limit), of_node);
                let age = |record: &Record| record.accepted.elapsed();
                assert!(age(&facts.record).abs_diff(age(&before)) < Duration::from_secs(1));
            }
        }
    }

    #[test]
    fn ages_go_on_and_one_that_cannot_be_breaks_nothing() {
        let before = record(b"id", Version::V5, PlacementKey::NONE);
        let mut message = relay(&before, (NodeId(3), None), 0, &names()).expect("names");
        message.age_us = 1_000_000;
        let accepted = facts(&message, &names()).expect("a relay").record.accepted;
        assert!(accepted.elapsed() >= Duration::from_secs(1));
        message.age_us = u64::MAX;
        let accepted = facts(&message, &names()).expect("a relay").record.accepted;
        assert!(Instant::now() >= accepted);
    }

    #[test]
    fn a_relay_on_a_node_or_listener_that_has_no_name_cannot_be_sent() {
        let record = record(b"id", Version::V5, PlacementKey::NONE);
        assert!(relay(&record, (NodeId(1), None), 0, &names()).is_none());
        let names = Names::new(vec![NodeId(3)], vec![]);
        assert!(relay(&record, (NodeId(3), None), 0, &names).is_none());
    }

    #[test]
    fn a_client_id_that_nobody_keeps_like_that_is_refused() {
        let long = |length, hash| Some(LongId { length, hash });
        let cases = [
            (vec![1; 257], None),
            (vec![1; 255], long(1_000, 1)),
            (vec![1; 256], long(256, 1)),
            (vec![1; 256], long(65_536, 1)),
            (vec![1; 256], long(u64::MAX, 1)),
        ];
        for (client_id, long_id) in cases {
            let message = messages::Connected {
                client_id,
                long_id,
                ..messages::Connected::default()
            };
            assert!(connected_of(&message).is_err(), "{message:?}");
        }
    }
}
