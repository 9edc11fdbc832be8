//! The fields of whole MQTT packets (MQTT 5, 1.5 and 2.2.2), where mqttbytes does not read them: see [`super::packet`].

/// A field runs past the end of its packet, or is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The part of a packet that has not been read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a>(&'a [u8]);

/// Where a packet's fixed header and the packet itself end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FixedHeader {
    pub(crate) bytes: usize,
    pub(crate) packet_bytes: usize,
}

impl FixedHeader {
    /// Reads the fixed header at the beginning of `stream` (MQTT 5, 2.1); `None` while it is incomplete.
    pub(crate) fn read(stream: &[u8]) -> Result<Option<Self>, Malformed> {
        /// The first byte, and at most four of the remaining length.
        const BYTES_MAX: usize = 5;

        let mut cursor = Cursor(stream.get(1..).unwrap_or_default());
        match cursor.variable_integer() {
            Ok(remaining) => {
                let bytes = stream.len() - cursor.0.len();
                Ok(Some(Self {
                    bytes,
                    packet_bytes: bytes + remaining,
                }))
            }
            Err(Malformed) if stream.len() < BYTES_MAX => Ok(None),
            Err(Malformed) => Err(Malformed),
        }
    }
}

impl<'a> Cursor<'a> {
    /// A cursor behind the fixed header of a whole packet.
    pub(crate) fn behind_fixed_header(packet: &'a [u8]) -> Result<Self, Malformed> {
        let header = FixedHeader::read(packet)?.ok_or(Malformed)?;
        packet.get(header.bytes..header.packet_bytes).map(Self).ok_or(Malformed)
    }

    /// Whether nothing is left to read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Malformed> {
        self.take::<1>().map(|[byte]| byte)
    }

    /// A Two Byte Integer (1.5.2).
    pub(crate) fn two_bytes(&mut self) -> Result<u16, Malformed> {
        self.take().map(u16::from_be_bytes)
    }

    /// A UTF-8 Encoded String or Binary Data, behind its two bytes of length (1.5.4, 1.5.6).
    pub(crate) fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.two_bytes()?;
        self.skip(length.into())
    }

    /// A block of properties behind its length (2.2.2).
    pub(crate) fn properties(&mut self) -> Result<Self, Malformed> {
        let length = self.variable_integer()?;
        self.skip(length).map(Self)
    }

    /// A Four Byte Integer (1.5.3).
    fn four_bytes(&mut self) -> Result<u32, Malformed> {
        self.take().map(u32::from_be_bytes)
    }

    /// A Variable Byte Integer (1.5.5).
    fn variable_integer(&mut self) -> Result<usize, Malformed> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn skip(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (field, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(field)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*field)
    }
}

/// One property of a block, as far as a node acts on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Property {
    /// 0x11, in seconds.
    SessionExpiryInterval(u32),
    /// 0x18, in seconds.
    WillDelayInterval(u32),
    /// 0x21.
    ReceiveMaximum(u16),
    /// 0x27, in bytes.
    MaximumPacketSize(u32),
    /// Any other known one.
    Other,
}

impl Cursor<'_> {
    /// The next property of a block; `None` at its end.
    pub(crate) fn property(&mut self) -> Result<Option<Property>, Malformed> {
        if self.is_at_end() {
            return Ok(None);
        }
        self.read_property().map(Some)
    }

    /// MQTT 5, table 2-4. No identifier in it needs a second byte.
    fn read_property(&mut self) -> Result<Property, Malformed> {
        match self.byte()? {
            0x11 => return self.four_bytes().map(Property::SessionExpiryInterval),
            0x18 => return self.four_bytes().map(Property::WillDelayInterval),
            0x21 => return self.two_bytes().map(Property::ReceiveMaximum),
            0x27 => return self.four_bytes().map(Property::MaximumPacketSize),
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => drop(self.byte()?),
            0x13 | 0x22 | 0x23 => drop(self.two_bytes()?),
            0x02 => drop(self.four_bytes()?),
            0x0B => drop(self.variable_integer()?),
            0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => drop(self.string()?),
            0x26 => {
                self.string()?;
                self.string()?;
            }
            _ => return Err(Malformed),
        }
        Ok(Property::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_headers_of_every_length() {
        let header = |bytes, packet_bytes| Ok(Some(FixedHeader { bytes, packet_bytes }));
        type Read = Result<Option<FixedHeader>, Malformed>;
        let cases: &[(&[u8], Read)] = &[
            (b"", Ok(None)),
            (b"\x30", Ok(None)),
            (b"\x30\x00", header(2, 2)),
            (b"\x30\x80", Ok(None)),
            (b"\x30\x80\x01", header(3, 131)),
            (b"\x30\xFF\xFF\xFF\x7F", header(5, 268_435_460)),
            (b"\x30\xFF\xFF\xFF", Ok(None)),
            (b"\x30\xFF\xFF\xFF\xFF", Err(Malformed)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(FixedHeader::read(bytes), *expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn properties_are_read_until_one_is_malformed() {
        let mut block = Cursor(&[0x21, 0, 9, 0x13, 0, 60, 0x11, 0, 0, 1, 0, 0x7F]);
        assert_eq!(block.property(), Ok(Some(Property::ReceiveMaximum(9))));
        assert_eq!(block.property(), Ok(Some(Property::Other)));
        assert_eq!(block.property(), Ok(Some(Property::SessionExpiryInterval(256))));
        assert_eq!(block.property(), Err(Malformed));
    }
}
