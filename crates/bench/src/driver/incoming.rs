//! Takes packets off what a client has read. Messages are compared with what was sent as their bodies arrive, so that a
//! large one is never held.

use crate::failure::Failure;
use crate::packet::{self, Read, Version, kind};
use crate::pattern::Pattern;
use crate::wire::{Body, Wire};

/// One packet.
pub(crate) enum Incoming<'a> {
    /// Any packet but PUBLISH.
    Packet {
        kind: u8,
        /// What follows the fixed header.
        body: &'a [u8],
        whole: &'a [u8],
    },
    /// A message, with its content checked.
    Message(Body),
}

/// Takes the next packet off `rest`; `None` once the rest of it has not arrived yet, which `wire` then keeps the
/// beginning of.
pub(crate) fn next<'a>(
    wire: &mut Wire,
    rest: &mut &'a [u8],
    awaits_connack: bool,
    version: Version,
    pattern: &Pattern,
) -> Result<Option<Incoming<'a>>, Failure> {
    let Some(&first) = rest.first() else {
        return Ok(None);
    };
    if let Some(body) = &mut wire.body {
        *rest = check(body, rest, pattern)?;
        if body.missing > 0 {
            return Ok(None);
        }
        return Ok(wire.body.take().map(|body| Incoming::Message(*body)));
    }
    // A server of another protocol may never complete what looks like a packet.
    if awaits_connack && first != kind::CONNACK << 4 {
        return Err(Failure::Junk);
    }
    match packet::read(rest, version) {
        Read::NeedMore => {
            wire.hold(rest);
            Ok(None)
        }
        Read::Junk => Err(Failure::Junk),
        Read::Packet { kind, body, whole } => {
            *rest = &rest[whole.len()..];
            Ok(Some(Incoming::Packet { kind, body, whole }))
        }
        Read::Publish(published) => {
            let mut body = Body {
                stamp: published.stamp,
                qos: published.qos,
                packet_id: published.packet_id,
                at: published.stamp.map_or(0, |stamp| pattern.start(stamp)),
                missing: published.body_bytes,
                bytes: published.body_bytes,
            };
            *rest = check(&mut body, &rest[published.head.len()..], pattern)?;
            if body.missing > 0 {
                wire.body = Some(Box::new(body));
                return Ok(None);
            }
            Ok(Some(Incoming::Message(body)))
        }
    }
}

/// Compares what has arrived of a body with the pattern; returns what follows it.
fn check<'a>(body: &mut Body, bytes: &'a [u8], pattern: &Pattern) -> Result<&'a [u8], Failure> {
    let (arrived, rest) = bytes.split_at(body.missing.min(bytes.len()));
    if body.stamp.is_some() && pattern.bytes.get(body.at..body.at + arrived.len()) != Some(arrived) {
        return Err(Failure::Corrupt);
    }
    body.at += arrived.len();
    body.missing -= arrived.len();
    Ok(rest)
}
