//! WebSocket frames by hand, right ones and wrong ones: what the balancer reads is not checked with what it reads with.

pub(crate) const CONTINUED: u8 = 0x00;
pub(crate) const LAST: u8 = 0x80;
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
/// A binary message that goes on in the next frame.
pub(crate) const BEGUN: u8 = 0x02;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8A;

/// A frame of a client.
pub(crate) fn masked(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut frame = head(first, payload.len(), 0x80);
    frame.extend(key);
    let keys = key.iter().cycle();
    frame.extend(payload.iter().zip(keys).map(|(byte, key)| byte ^ key));
    frame
}

/// A frame of a node.
pub(crate) fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    [head(first, payload.len(), 0), payload.to_vec()].concat()
}

/// `payload` as binary messages of random sizes up to `longest`, with random masks.
pub(crate) fn messages(payload: &[u8], longest: usize, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut frames = Vec::new();
    let mut rest = payload;
    while !rest.is_empty() {
        let (message, behind) = rest.split_at(random.usize(1..=longest).min(rest.len()));
        frames.extend(masked(BINARY, message, random.u32(..).to_be_bytes()));
        rest = behind;
    }
    frames
}

fn head(first: u8, length: usize, mask: u8) -> Vec<u8> {
    match length {
        0..126 => vec![first, mask | length as u8],
        126..0x1_0000 => [&[first, mask | 126][..], &(length as u16).to_be_bytes()].concat(),
        _ => [&[first, mask | 127][..], &(length as u64).to_be_bytes()].concat(),
    }
}

/// The first frame of `bytes`: its first byte, its payload unmasked, and its length; none where it is not whole.
pub(crate) fn first(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (length, mut at) = match second & 0x7F {
        126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize, 10),
        short => (usize::from(short), 2),
    };
    let mut key = [0; 4];
    if second & 0x80 != 0 {
        key = bytes.get(at..at + 4)?.try_into().ok()?;
        at += 4;
    }
    let payload = bytes.get(at..at + length)?;
    let payload = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key);
    Some((first, payload.collect(), at + length))
}

/// The payload of all whole data frames.
pub(crate) fn opened(mut bytes: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some((kind, payload, length)) = first(bytes) {
        if kind & 0x08 == 0 {
            all.extend(payload);
        }
        bytes = &bytes[length..];
    }
    all
}
