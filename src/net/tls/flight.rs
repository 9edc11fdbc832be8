//! Gives each message of a handshake records of its own, for a client that takes small ones only.
//!
//! rustls writes the messages that it sends at once as one stretch of bytes, and cuts that where a record is full, in the middle of a
//! message. OpenSSL begins a record with each message. mbedTLS before 3.6.3 reads no message that is in two records, so it takes the certificate
//! of a server on OpenSSL in a record of 512 bytes, if that is small enough, and would never take it from rustls. What is in the
//! records does not change, nor does what both sides hash.
//!
//! That is possible until the first message that is encrypted: in TLS 1.2 for all but the last one, in TLS 1.3 for the first one only.

const HEADER_BYTES: usize = 5;
const HANDSHAKE: u8 = 22;

/// The records of a handshake on their way to the client.
#[derive(Debug)]
pub(super) struct Flight {
    /// The most bytes of content in a record.
    record_max: usize,
    /// What has come of a record.
    record: Vec<u8>,
    /// What has come of a message, in records before.
    message: Vec<u8>,
    /// Everything is passed on as it is from here on.
    is_encrypted: bool,
}

impl Flight {
    /// For a client that takes records with so many bytes of content.
    pub(super) fn new(record_max: usize) -> Self {
        Self {
            record_max,
            record: Vec::new(),
            message: Vec::new(),
            is_encrypted: false,
        }
    }

    /// Whether everything is passed on as it is from here on.
    pub(super) fn is_over(&self) -> bool {
        self.is_encrypted
    }

    /// Adds to `to_client` what becomes of these bytes. The rest of a record or of a message is kept until its end comes.
    pub(super) fn push(&mut self, bytes: &[u8], to_client: &mut Vec<u8>) {
        self.record.extend_from_slice(bytes);
        let mut records = std::mem::take(&mut self.record);
        let mut at = 0;
        while let &[kind, major, minor, high, low, ..] = &records[at..]
            && !self.is_encrypted
        {
            if kind != HANDSHAKE {
                self.is_encrypted = true;
                break;
            }
            let end = at + HEADER_BYTES + usize::from(u16::from_be_bytes([high, low]));
            let Some(content) = records.get(at + HEADER_BYTES..end) else {
                break;
            };
            self.message.extend_from_slice(content);
            self.pass_messages([kind, major, minor], to_client);
            at = end;
        }
        records.drain(..at);
        if self.is_encrypted {
            to_client.append(&mut records);
        }
        self.record = records;
    }

    /// Adds each message that is whole, in records that begin with `header`.
    fn pass_messages(&mut self, header: [u8; 3], to_client: &mut Vec<u8>) {
        while let &[_, a, b, c, ..] = &self.message[..] {
            let length = 4 + usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap_or(usize::MAX);
            if self.message.len() < length {
                return;
            }
            for part in self.message[..length].chunks(self.record_max) {
                to_client.extend(header);
                to_client.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
                to_client.extend(part);
            }
            self.message.drain(..length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, length: usize) -> Vec<u8> {
        let bytes = u32::try_from(length).expect("short").to_be_bytes();
        [&[kind][..], &bytes[1..], &vec![kind; length]].concat()
    }

    fn record(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).expect("short").to_be_bytes();
        [&[kind, 3, 3][..], &length, content].concat()
    }

    #[test]
    fn each_message_begins_a_record_until_one_is_encrypted_however_the_bytes_come() {
        let messages = [message(2, 70), message(11, 600), message(12, 200), message(14, 0)];
        let stretch = messages.concat();
        let behind = [record(20, &[1]), record(22, &[9; 40]), record(23, &[7; 512])].concat();
        let written: Vec<u8> = stretch.chunks(512).flat_map(|part| record(22, part)).collect();
        let written = [written, behind.clone()].concat();
        let mut expected = Vec::new();
        for message in &messages {
            expected.extend(message.chunks(512).flat_map(|part| record(22, part)));
        }
        expected.extend(behind);
        for piece in [1, 3, 100, 517, 10_000] {
            let mut flight = Flight::new(512);
            let mut to_client = Vec::new();
            for part in written.chunks(piece) {
                flight.push(part, &mut to_client);
            }
            assert_eq!(to_client, expected, "in pieces of {piece}");
            assert!(flight.is_over());
        }
    }

    #[test]
    fn an_alert_is_passed_on() {
        let mut to_client = Vec::new();
        Flight::new(512).push(&record(21, &[2, 40]), &mut to_client);
        assert_eq!(to_client, record(21, &[2, 40]));
    }
}
