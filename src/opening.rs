//! An opening: a client whose CONNECT was read as far as routing needs, every byte still to be replayed.

use crate::held::Share;
use crate::mqtt::Connect;
use crate::socket::Socket;

/// What `peek` makes and `greet` takes to a node.
#[derive(Debug)]
pub struct Opening {
    /// The client's socket.
    pub client: Socket,
    /// Everything that the client has sent so far.
    pub bytes: Vec<u8>,
    /// What its CONNECT says.
    pub connect: Connect,
    /// The account of `bytes`.
    pub share: Share,
}
