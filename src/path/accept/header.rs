//! Reads the PROXY header of an upstream load balancer, and no byte behind it.

use tokio::time::Instant;

use crate::net::held::Reservation;
use crate::net::socket::Socket;
use crate::path::ended::{Details, Ended, SetUpEnded};
use crate::proxy_protocol::{self, Header, Verdict, Wrong};

/// Reads the header that `client` must send first, until `due`.
///
/// # Errors
/// How the connection ended instead.
pub(super) async fn take_header(
    client: &Socket,
    due: Instant,
    reservation: &Reservation,
) -> Result<Header, SetUpEnded> {
    let taken = tokio::time::timeout_at(due, take(client, reservation.part())).await;
    taken.unwrap_or(Err(Ended::ConnectTimeout.into()))
}

async fn take(client: &Socket, mut reservation: Reservation) -> Result<Header, SetUpEnded> {
    let mut received = Vec::new();
    loop {
        let taken = received.len();
        let room = proxy_protocol::BYTES_MAX - taken;
        match client.peek_more(&mut received, room).await {
            // Health checks of load balancers connect and send nothing.
            Ok(0) => return Err(SetUpEnded::gone(Ended::ClientClosed, taken > 0)),
            Ok(_) => {}
            Err(_) => return Err(SetUpEnded::gone(Ended::ClientReset, taken > 0)),
        }
        let header = match proxy_protocol::read(&received) {
            Verdict::Header(header) => Some(header),
            Verdict::NeedMore => None,
            Verdict::Wrong(Wrong::CommonName) => return Err(Ended::CertificateName.into()),
            Verdict::Wrong(Wrong::Header(why)) => {
                return Err(SetUpEnded::from(Ended::ProxyHeader).with(Details::of_words(why)));
            }
        };
        // The next step reads the peeked bytes behind the header again.
        let end = header.as_ref().map_or(received.len(), |header| header.bytes);
        match client.skip(end - taken).await {
            Ok(()) => {}
            // The peeked bytes were lost to a reset, but still show whether the client sent more than a header.
            Err(_) => {
                let has_sent = header.is_none() || received.len() > end;
                return Err(SetUpEnded::gone(Ended::ClientReset, has_sent));
            }
        }
        match header {
            Some(header) => return Ok(header),
            None => reservation.grow(received.len() - taken).map_err(Ended::from)?,
        }
    }
}
