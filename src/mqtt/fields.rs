//! Reads the fields of MQTT packets (MQTT 5, section 1.5 and 2.2.2) with a cursor that never leaves its packet.

/// Why a field could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The packet is incomplete: the result cannot change before this many bytes (in all) have arrived.
    NeedMore(usize),
    /// The field extends past the end of its packet, or is invalid.
    Malformed,
}

/// Reads fields of one packet, which may still be arriving.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

/// The position of a field of bytes, counted from the packet's first byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The field in the bytes that it was read from.
    pub(crate) fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

impl<'a> Cursor<'a> {
    /// A cursor after the fixed header of the packet that begins with `bytes` (MQTT 5, 2.1).
    pub(crate) fn behind_fixed_header(bytes: &'a [u8]) -> Result<Self, Stop> {
        let mut header = Self {
            bytes,
            at: 1,
            // The remaining length has at most four bytes and gives the end of the packet.
            end: 5,
        };
        let remaining = header.variable_integer()?;
        Ok(Self {
            end: header.at + remaining,
            ..header
        })
    }

    /// Where the next field starts.
    pub(crate) fn start(&self) -> usize {
        self.at
    }

    /// Where the packet (or the block) ends.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// Whether everything has been read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.end
    }

    /// One byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Stop> {
        self.take::<1>().map(|[byte]| byte)
    }

    /// A Two Byte Integer (1.5.2).
    pub(crate) fn two_bytes(&mut self) -> Result<u16, Stop> {
        self.take().map(u16::from_be_bytes)
    }

    /// A Four Byte Integer (1.5.3).
    pub(crate) fn four_bytes(&mut self) -> Result<u32, Stop> {
        self.take().map(u32::from_be_bytes)
    }

    /// A Variable Byte Integer (1.5.5). One with more bytes than necessary is accepted, as in EMQX.
    pub(crate) fn variable_integer(&mut self) -> Result<usize, Stop> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Stop::Malformed)
    }

    /// A string or Binary Data after its two-byte length (1.5.4, 1.5.6), once it is complete.
    pub(crate) fn string(&mut self) -> Result<Span, Stop> {
        let length = self.two_bytes()?;
        self.skip(length.into())
    }

    /// A cursor over a block of properties after its length (2.2.2), once it is complete.
    pub(crate) fn properties(&mut self) -> Result<Self, Stop> {
        let length = self.variable_integer()?;
        let block = self.skip(length)?;
        Ok(Self {
            bytes: self.bytes,
            at: block.start as usize,
            end: block.end as usize,
        })
    }

    /// Skips `length` bytes once all of them have arrived.
    pub(crate) fn skip(&mut self, length: usize) -> Result<Span, Stop> {
        let start = self.at;
        let end = start + length;
        if end > self.end {
            return Err(Stop::Malformed);
        }
        if end > self.bytes.len() {
            return Err(Stop::NeedMore(end));
        }
        self.at = end;
        // A packet has at most 268,435,460 bytes, so both numbers fit.
        Ok(Span {
            start: start as u32,
            end: end as u32,
        })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let span = self.skip(N)?;
        let mut field = [0; N];
        field.copy_from_slice(span.of(self.bytes));
        Ok(field)
    }
}

/// One property of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    /// 0x11, in seconds.
    SessionExpiryInterval(u32),
    /// 0x12.
    AssignedClientIdentifier(Span),
    /// 0x13, in seconds.
    ServerKeepAlive(u16),
    /// 0x18, in seconds.
    WillDelayInterval(u32),
    /// 0x21.
    ReceiveMaximum(u16),
    /// 0x27, in bytes.
    MaximumPacketSize(u32),
    /// Any other known property.
    Other,
}

impl Cursor<'_> {
    /// The next property of a block; `None` at its end, or if the rest is malformed.
    pub(crate) fn property(&mut self) -> Option<Property> {
        if self.is_at_end() {
            return None;
        }
        self.read_property().ok()
    }

    /// MQTT 5, table 2-4. No identifier in it needs a second byte.
    fn read_property(&mut self) -> Result<Property, Stop> {
        match self.byte()? {
            0x11 => return self.four_bytes().map(Property::SessionExpiryInterval),
            0x12 => return self.string().map(Property::AssignedClientIdentifier),
            0x13 => return self.two_bytes().map(Property::ServerKeepAlive),
            0x18 => return self.four_bytes().map(Property::WillDelayInterval),
            0x21 => return self.two_bytes().map(Property::ReceiveMaximum),
            0x27 => return self.four_bytes().map(Property::MaximumPacketSize),
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => drop(self.byte()?),
            0x22 | 0x23 => drop(self.two_bytes()?),
            0x02 => drop(self.four_bytes()?),
            0x0B => drop(self.variable_integer()?),
            0x03 | 0x08 | 0x09 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => drop(self.string()?),
            0x26 => {
                self.string()?;
                self.string()?;
            }
            _ => return Err(Stop::Malformed),
        }
        Ok(Property::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_integers_of_every_length() {
        let cases: &[(&[u8], Result<usize, Stop>)] = &[
            (&[0x00], Ok(0)),
            (&[0x7F], Ok(127)),
            (&[0x80, 0x01], Ok(128)),
            (&[0xFF, 0xFF, 0xFF, 0x7F], Ok(268_435_455)),
            (&[0x8E, 0x00], Ok(14)),
            (&[0xFF, 0xFF, 0xFF, 0xFF], Err(Stop::Malformed)),
            (&[0x80], Err(Stop::NeedMore(2))),
        ];
        for (bytes, expected) in cases {
            let mut cursor = Cursor { bytes, at: 0, end: 4 };
            assert_eq!(cursor.variable_integer(), *expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn a_string_past_the_end_of_its_packet_is_malformed_before_it_arrives() {
        let mut cursor = Cursor {
            bytes: &[0x00, 0x05],
            at: 0,
            end: 6,
        };
        assert_eq!(cursor.string(), Err(Stop::Malformed));
    }

    #[test]
    fn properties_are_read_until_one_makes_no_sense() {
        let bytes = [0x21, 0, 9, 0x11, 0, 0, 1, 0, 0x7F, 0x13, 0, 60];
        let mut cursor = Cursor {
            bytes: &bytes,
            at: 0,
            end: bytes.len(),
        };
        assert_eq!(cursor.property(), Some(Property::ReceiveMaximum(9)));
        assert_eq!(cursor.property(), Some(Property::SessionExpiryInterval(256)));
        assert_eq!(cursor.property(), None);
    }
}
