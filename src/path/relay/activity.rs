//! When the peers of a relay last sent something, to the second: what shows that a client is quiet.

use crate::base::clock::Seconds;

/// What a node sends between two sweeps is no message if it has no more bytes than this. A PINGRESP has two, or four in a WebSocket
/// frame; the smallest PUBLISH has five.
const PINGRESP_BYTES_MAX: u64 = 4;

/// When a relay's peers last sent something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// When the client last sent a byte.
    pub client: Seconds,
    /// The sweep that last found bytes from the node.
    pub node: Seconds,
    /// The sweep that last found more bytes from the node than an answer to a ping has.
    pub message: Seconds,
}

impl Activity {
    /// That of a relay that begins.
    pub(crate) fn new(now: Seconds) -> Self {
        Self {
            client: now,
            node: now,
            message: now,
        }
    }

    /// A sweep has found so many bytes from the node.
    pub(crate) fn swept(&mut self, from_node: u64, now: Seconds) {
        if from_node > 0 {
            self.node = now;
        }
        if from_node > PINGRESP_BYTES_MAX {
            self.message = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_a_ping_is_no_message() {
        let mut activity = Activity::new(Seconds(1));
        let cases = [(0, 1, 1), (2, 3, 1), (4, 4, 1), (5, 5, 5), (4, 6, 5), (0, 6, 5)];
        for (second, (bytes, node, message)) in (2..).zip(cases) {
            activity.swept(bytes, Seconds(second));
            assert_eq!((activity.node, activity.message), (Seconds(node), Seconds(message)));
        }
    }
}
