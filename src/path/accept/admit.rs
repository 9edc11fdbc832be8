//! Admits a connection: lists, limits and the PROXY header, in the order that each needs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::time::Instant;

use super::header::take_header;
use super::{Accepted, Admission, Admitted, Limits, Listener, ListenerCount};
use crate::identity::Identity;
use crate::net::held::{AwaitingConnect, CONNECTION_BYTES, Reservation, source_of};
use crate::net::socket::Socket;
use crate::path::ended::{Ended, SetUpEnded};

/// What the connections of one listener are checked against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    /// Its lists, and its own limit.
    pub listener: &'a Listener,
    /// Its connections.
    pub listener_count: &'a Arc<ListenerCount>,
    /// The limits on all listeners together.
    pub limits: &'a Limits,
}

/// What is known of a client before its own first byte.
#[derive(Debug)]
pub struct Client {
    /// Its true address; the peer's until a PROXY header was read.
    pub address: SocketAddr,
    /// Its TLS identity, as sent by an upstream load balancer.
    pub identity: Option<Box<Identity>>,
}

/// A client that was admitted and counted.
#[derive(Debug)]
pub(crate) struct AdmittedClient {
    /// Its socket; the next byte is the client's own.
    pub socket: Socket,
    /// Counts the connection.
    pub admitted: Admitted,
    /// Counts it among those awaiting CONNECT.
    pub awaiting_connect: AwaitingConnect,
}

/// Identifies the client, until `due`, and admits it if the lists and limits allow. What it takes is counted in `reservation`.
///
/// The lists, the limit per source and the places of undecided clients apply to clients, not to upstream load balancers, so they are
/// checked after the PROXY header was read, and everything else before it.
///
/// The client is returned also if it was rejected.
pub(crate) async fn admit(
    accepted: Accepted,
    rules: Rules<'_>,
    admission: &Arc<Admission>,
    reservation: &Reservation,
    due: Instant,
) -> (Client, Result<AdmittedClient, SetUpEnded>) {
    let mut client = Client {
        address: accepted.client,
        identity: None,
    };
    let admitted = enter(accepted, rules, admission, reservation, due, &mut client).await;
    (client, admitted)
}

async fn enter(
    accepted: Accepted,
    rules: Rules<'_>,
    admission: &Arc<Admission>,
    reservation: &Reservation,
    due: Instant,
    client: &mut Client,
) -> Result<AdmittedClient, SetUpEnded> {
    let Rules {
        listener,
        listener_count,
        limits,
    } = rules;
    let has_header = listener.expects_header(client.address.ip())?;
    if !has_header {
        listener.check_lists(client.address.ip())?;
    }
    let mut admitted = admission.enter(listener_count, listener.connections_max, limits)?;
    let mut identify = |client: IpAddr, more: usize| {
        // First, so that nobody is evicted for one that is refused.
        admission.check_rate(client, limits, Instant::now())?;
        admitted.enter_source(client, limits)?;
        let awaiting_connect = reservation.await_connect(source_of(client), more, Instant::now());
        awaiting_connect.map_err(Ended::for_want_of)
    };
    let awaiting_connect = match has_header {
        false => Some(identify(client.address.ip(), CONNECTION_BYTES)?),
        true => {
            reservation.grow_fixed(CONNECTION_BYTES).map_err(Ended::from)?;
            None
        }
    };
    let socket = Socket::new(accepted.socket).map_err(|_| Ended::DescriptorsExhausted)?;
    let awaiting_connect = match awaiting_connect {
        Some(awaiting_connect) => awaiting_connect,
        None => {
            // Boxed, to keep the set-up future of a client that connects directly small.
            let header = Box::pin(take_header(&socket, due, reservation)).await?;
            client.address = header.client.unwrap_or(client.address);
            client.identity = header.identity;
            listener.check_lists(client.address.ip())?;
            identify(client.address.ip(), 0)?
        }
    };
    Ok(AdmittedClient {
        socket,
        admitted,
        awaiting_connect,
    })
}
