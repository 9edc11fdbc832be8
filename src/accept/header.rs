//! Awaits the PROXY header of a balancer before this one, and takes it off the stream without a byte of what follows.

use std::sync::Arc;

use tokio::time::Instant;

use crate::ended::{Ended, SetUpEnded};
use crate::held::Held;
use crate::proxy_protocol::{self, Header, Verdict, Wrong};
use crate::socket::Socket;

/// Takes the header that `client` must begin with, until `due`.
///
/// # Errors
/// How the connection ended instead.
pub async fn take_header(
    client: &Socket,
    due: Instant,
    held: &Arc<Held>,
) -> Result<Header, SetUpEnded> {
    let taken = tokio::time::timeout_at(due, take(client, held)).await;
    taken.unwrap_or(Err(Ended::ConnectTimeout.into()))
}

async fn take(client: &Socket, held: &Arc<Held>) -> Result<Header, SetUpEnded> {
    let mut said = Vec::new();
    // No more than a header's bytes: a small share, which is never told to go.
    let mut share = held.share();
    loop {
        let taken = said.len();
        let room = proxy_protocol::BYTES_MAX - taken;
        match client.peek_more(&mut said, room).await {
            // Balancers look whether somebody is there, and say nothing.
            Ok(0) => return Err(SetUpEnded::gone(Ended::ClientClosed, taken > 0)),
            Ok(_) => {}
            Err(_) => return Err(SetUpEnded::gone(Ended::ClientReset, taken > 0)),
        }
        let header = match proxy_protocol::read(&said) {
            Verdict::Header(header) => Some(header),
            Verdict::NeedMore => None,
            Verdict::Wrong(Wrong::CommonName) => return Err(Ended::CertificateName.into()),
            Verdict::Wrong(Wrong::Header(why)) => {
                tracing::debug!(why, "not the PROXY header that must be here");
                return Err(Ended::ProxyHeader.into());
            }
        };
        // What was seen and does not belong to the header is read again by whoever comes next.
        let end = header.as_ref().map_or(said.len(), |header| header.bytes);
        match client.skip(end - taken).await {
            Ok(()) => {}
            // Seen, and lost to a reset: whether there was more than a whole header is known.
            Err(_) => {
                let has_spoken = header.is_none() || said.len() > end;
                return Err(SetUpEnded::gone(Ended::ClientReset, has_spoken));
            }
        }
        match header {
            Some(header) => return Ok(header),
            None => share.grow(said.len() - taken).map_err(Ended::from)?,
        }
    }
}
