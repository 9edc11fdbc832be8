//! What one process tells the next, whatever it is.

use remora::handover::messages::{Body, DESCRIPTORS_MAX, MESSAGE_BYTES_MAX};
use remora::handover::wire::{Fault, Reader, write};

/// Messages do not depend on how the stream is split, have the descriptors that they must have, and can be sent again.
pub(crate) fn handover(bytes: &[u8]) {
    for descriptors_max in [0, DESCRIPTORS_MAX] {
        let whole = read(bytes, usize::MAX, descriptors_max);
        for piece in [1, 2, 3, 7] {
            assert_eq!(read(bytes, piece, descriptors_max), whole, "in pieces of {piece}");
        }
        for (body, descriptors) in whole.0 {
            assert!(descriptors <= descriptors_max);
            let Some(body) = body else {
                continue;
            };
            assert_eq!(body.descriptors(), descriptors);
            let written = write(body.clone(), descriptors).expect("what was read can be sent");
            let again = read(&written, usize::MAX, descriptors_max);
            assert_eq!(again, (vec![(Some(body), descriptors)], None));
        }
    }
}

type Messages = Vec<(Option<Body>, usize)>;

/// The messages in a stream that arrives in pieces of so many bytes at most, each with as many descriptors as its header announces, and
/// the fault at which reading ended.
fn read(bytes: &[u8], piece: usize, descriptors_max: usize) -> (Messages, Option<Fault>) {
    let mut reader = Reader::new(descriptors_max);
    let mut messages = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let wanted = reader.wanted();
        assert!((1..=MESSAGE_BYTES_MAX).contains(&wanted), "{wanted}");
        let mut descriptors = Vec::new();
        if !reader.is_within_message() {
            let announced = rest.get(4..8).map_or(0, |count| {
                u32::from_be_bytes([count[0], count[1], count[2], count[3]]) as usize
            });
            descriptors.resize(announced.min(DESCRIPTORS_MAX), ());
        }
        let (here, behind) = rest.split_at(wanted.min(piece).min(rest.len()));
        rest = behind;
        match reader.add(here, descriptors) {
            Ok(None) => {}
            Ok(Some(message)) => {
                assert!(!reader.is_within_message());
                messages.push((message.body, message.descriptors.len()));
            }
            Err(fault) => return (messages, Some(fault)),
        }
    }
    (messages, None)
}
