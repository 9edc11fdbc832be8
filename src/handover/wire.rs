//! How messages and descriptors follow each other in a stream: the reader of what the other side sends, whatever it is.
//!
//! Each message has a header of eight bytes: the length of the message, and how many descriptors come with it, both in network order.
//! The descriptors come with the header, in one call of the kernel.

use prost::Message as _;

use crate::handover::messages::{Body, DESCRIPTORS_MAX, ENTRIES_MAX, Envelope, MESSAGE_BYTES_MAX};

const HEADER: usize = 8;

/// About so many bytes of entries are in one message.
const BATCH_BYTES: usize = 256 << 10;

/// A message, with the descriptors that came with it.
#[derive(Debug)]
pub struct Message<D> {
    /// `None` for a kind of message that this program does not know.
    pub body: Option<Body>,
    /// As many as it must have.
    pub descriptors: Vec<D>,
}

/// What is wrong with a stream of messages, which ends with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub &'static str);

/// A message as it is sent, without its descriptors.
///
/// # Errors
/// It is too long, or it must have another number of descriptors.
pub fn write(body: Body, descriptors: usize) -> Result<Vec<u8>, Fault> {
    if body.descriptors() != descriptors || descriptors > DESCRIPTORS_MAX {
        return Err(Fault("wrong number of descriptors"));
    }
    let envelope = Envelope { body: Some(body) };
    let length = envelope.encoded_len();
    if length > MESSAGE_BYTES_MAX {
        return Err(Fault("message too long"));
    }
    let mut bytes = Vec::with_capacity(HEADER + length);
    // Neither is near the limit of its type.
    bytes.extend_from_slice(&(length as u32).to_be_bytes());
    bytes.extend_from_slice(&(descriptors as u32).to_be_bytes());
    envelope.encode_raw(&mut bytes);
    Ok(bytes)
}

/// `items` in their order, in messages of about 256 KiB and so many entries at most.
pub fn batches<T: prost::Message>(items: Vec<T>, most: usize) -> impl Iterator<Item = Vec<T>> {
    let mut items = items.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut batch = vec![items.next()?];
        let mut bytes = batch[0].encoded_len();
        while batch.len() < most
            && let Some(item) = items.next_if(|item| bytes + item.encoded_len() <= BATCH_BYTES)
        {
            bytes += item.encoded_len();
            batch.push(item);
        }
        Some(batch)
    })
}

/// Reads messages from a stream in pieces of any size. `D` is a descriptor.
#[derive(Debug)]
pub struct Reader<D> {
    /// The most descriptors that a message may have.
    descriptors_max: usize,
    /// The message that is arriving, with its header.
    bytes: Vec<u8>,
    descriptors: Vec<D>,
}

impl<D> Reader<D> {
    /// For messages with so many descriptors at most.
    pub fn new(descriptors_max: usize) -> Self {
        Self {
            descriptors_max,
            bytes: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    /// How many bytes the next piece may have, one at least: no piece has bytes of two messages, since descriptors belong to a piece.
    pub fn wanted(&self) -> usize {
        match self.header() {
            None => HEADER - self.bytes.len(),
            Some((length, _)) => HEADER + length - self.bytes.len(),
        }
    }

    /// Whether part of a message is there.
    pub fn is_within_message(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// Takes a piece of [`wanted`](Self::wanted) bytes or fewer, and the descriptors that came with it. Returns the message that it
    /// completes. After a fault the reader is of no use.
    ///
    /// # Errors
    /// This is no message.
    pub fn add(&mut self, piece: &[u8], descriptors: Vec<D>) -> Result<Option<Message<D>>, Fault> {
        let wanted = self.wanted();
        if piece.is_empty() || piece.len() > wanted {
            return Err(Fault("a piece of the wrong size"));
        }
        if !descriptors.is_empty() && self.header().is_some() {
            return Err(Fault("descriptors in the middle of a message"));
        }
        self.descriptors.extend(descriptors);
        self.bytes.extend_from_slice(piece);
        let Some((length, count)) = self.header() else {
            return Ok(None);
        };
        if length > MESSAGE_BYTES_MAX {
            return Err(Fault("message too long"));
        }
        if count > self.descriptors_max {
            return Err(Fault("too many descriptors"));
        }
        if count != self.descriptors.len() {
            return Err(Fault("wrong number of descriptors"));
        }
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        let bytes = std::mem::take(&mut self.bytes);
        let message = &bytes[HEADER..];
        if entries(message).ok_or(MALFORMED)? > ENTRIES_MAX {
            return Err(Fault("too many entries"));
        }
        let body = Envelope::decode(message).map_err(|_| MALFORMED)?.body;
        let mut descriptors = std::mem::take(&mut self.descriptors);
        match &body {
            Some(body) if body.descriptors() != descriptors.len() => return Err(Fault("wrong number of descriptors")),
            Some(_) => {}
            None => descriptors.clear(),
        }
        Ok(Some(Message { body, descriptors }))
    }

    /// What the header says, once it is there: bytes, and descriptors.
    fn header(&self) -> Option<(usize, usize)> {
        let header: [u8; HEADER] = self.bytes.get(..HEADER)?.try_into().ok()?;
        let [a, b, c, d, e, f, g, h] = header;
        let number = |bytes| u32::from_be_bytes(bytes) as usize;
        Some((number([a, b, c, d]), number([e, f, g, h])))
    }
}

const MALFORMED: Fault = Fault("malformed message");

/// How many fields the bodies in an envelope have. Counted before anything is decoded, since an empty entry takes two bytes here and
/// hundreds in memory. `None` if it is malformed.
fn entries(envelope: &[u8]) -> Option<usize> {
    let mut entries = 0;
    let mut fields = Fields(envelope);
    while let Some(body) = fields.next()? {
        let mut inside = Fields(body);
        while inside.next()?.is_some() {
            entries += 1;
        }
    }
    Some(entries)
}

/// The fields of a message in Protocol Buffers.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The bytes of the next field, which are empty if it is a number. `Some(None)` at the end, `None` if what follows is malformed, or
    /// a group, which no message has.
    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let skipped = match self.varint()? & 7 {
            0 => {
                self.varint()?;
                return Some(Some(&[]));
            }
            1 => 8,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                return Some(Some(self.take(length)?));
            }
            5 => 4,
            _ => return None,
        };
        self.take(skipped)?;
        Some(Some(&[]))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}
