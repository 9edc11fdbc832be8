//! Opens the layers below MQTT: TLS, then the WebSocket upgrade. The PROXY header before them is read in `header`.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;

use super::{Listener, Tls, Transport};
use crate::cluster::{Clusters, EndpointKind};
use crate::identity::Identity;
use crate::net::held::{HeldReader, ReadError, Reservation, TLS_BYTES, source_of};
use crate::net::socket::Socket;
use crate::net::tls::{self, HandshakeError, HandshakeFailure, HandshakeQueue, HelloReader, Secured};
use crate::net::websocket::{self, Readiness, Rejected, Upgrade, UpgradeError};
use crate::path::counters::ListenerCounters;
use crate::path::ended::{Details, Ended, SetUpEnded};
use crate::path::opening::{Framing, Passing};

/// The largest ClientHello that is passed on. Browsers send 2 KiB, with post-quantum key shares.
const HELLO_BYTES_MAX: usize = 32 * 1024;

/// A client whose transport below MQTT is open.
#[derive(Debug)]
pub(crate) enum Opened {
    /// Its next bytes are MQTT, raw or in WebSocket frames.
    Mqtt(OpenedClient),
    /// Its TLS ends at the node.
    Pass(Passing),
}

/// A client whose next bytes are MQTT.
#[derive(Debug)]
pub(crate) struct OpenedClient {
    /// Its socket.
    pub client: Socket,
    /// What carries its MQTT.
    pub framing: Framing,
    /// Its upgrade request; `None` without WebSocket.
    pub upgrade: Option<Box<Upgrade>>,
    /// Its identity from the TLS handshake, if there was one.
    pub identity: Option<Box<Identity>>,
    /// Accounts for the bytes held for it: the whole upgrade request, since parts of it are kept until a node was
    /// asked.
    pub reservation: Reservation,
}

/// What a worker needs to open clients.
#[derive(Debug)]
pub(crate) struct Opener {
    /// Lets one handshake compute after the other, the sources in turn.
    pub queue: HandshakeQueue,
    /// Tells health checks whether a node is up.
    pub clusters: Arc<Clusters>,
    /// Set while the balancer drains, of which health checks are told too.
    pub draining: Arc<AtomicBool>,
}

impl Opener {
    /// Opens a client of `listener` with this address, until `due`. What it takes is counted in `reservation`.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub(crate) async fn open(
        &self,
        client: Socket,
        address: IpAddr,
        listener: &Listener,
        mut reservation: Reservation,
        counters: &ListenerCounters,
        due: Instant,
    ) -> Result<Opened, SetUpEnded> {
        // The rarer cases are boxed, to keep the set-up future of a plain client small.
        let (client, identity) = match &listener.tls {
            None => (client, None),
            Some(Tls::End(acceptor)) => {
                let handshake = reservation.begin_handshake(TLS_BYTES, Instant::now());
                let _handshake = handshake.map_err(Ended::for_want_of)?;
                let part = reservation.part();
                let secured = Box::pin(self.secure(client, address, acceptor, part, counters, due));
                let (client, identity) = secured.await?;
                (client, Some(Box::new(identity)))
            }
            Some(Tls::Pass) => return Box::pin(self.pass(client, reservation, due)).await.map(Opened::Pass),
        };
        let upgrade = match &listener.transport {
            Transport::Tcp => None,
            Transport::Ws(policy) => {
                let readiness = || self.readiness(listener.kind());
                let upgrade = Box::pin(websocket::upgrade_client(&client, policy, readiness, &mut reservation));
                match tokio::time::timeout_at(due, upgrade).await {
                    Ok(Ok(upgrade)) => Some(Box::new(upgrade)),
                    Ok(Err(error)) => return Err(Box::pin(end_upgrade(client, error)).await),
                    Err(_elapsed) => return Err(Ended::ConnectTimeout.into()),
                }
            }
        };
        let framing = match upgrade {
            None => Framing::Raw,
            Some(_) => Framing::WebSocket,
        };
        Ok(Opened::Mqtt(OpenedClient {
            client,
            framing,
            upgrade,
            identity,
            reservation,
        }))
    }

    /// What a health check is told.
    fn readiness(&self, kind: EndpointKind) -> Readiness {
        if self.draining.load(Ordering::Relaxed) {
            return Readiness::Draining;
        }
        match self.clusters.current().up(kind).next() {
            Some(_) => Readiness::Ready,
            None => Readiness::NoNode,
        }
    }

    /// The TLS handshake.
    async fn secure(
        &self,
        client: Socket,
        address: IpAddr,
        acceptor: &tls::Acceptor,
        reservation: Reservation,
        counters: &ListenerCounters,
        due: Instant,
    ) -> Result<(Socket, Identity), SetUpEnded> {
        let handshake = acceptor.accept(client, source_of(address), &self.queue, reservation);
        match tokio::time::timeout_at(due, handshake).await {
            Ok(Ok(Secured {
                client,
                identity,
                is_resumed,
            })) => {
                match is_resumed {
                    true => counters.handshakes_resumed.add(1),
                    false => counters.handshakes_full.add(1),
                }
                Ok((client, identity))
            }
            Ok(Err(HandshakeError {
                failure,
                error,
                why,
                subject,
                client,
                has_spoken,
            })) => {
                if let Some(client) = client {
                    // What it has sent is read, so that no reset overtakes the alert.
                    client.close_after(&[]).await;
                }
                let ended = SetUpEnded::gone(cause_of_handshake(failure, &error), has_spoken);
                Err(match ended.cause {
                    // The cause says it.
                    Ended::ClientClosed | Ended::ClientReset | Ended::ClientVanished => ended,
                    _ => ended.with(Details {
                        why: why.map(Into::into),
                        error: Some(error.to_string()),
                        certificate_subject: subject,
                        ..Details::default()
                    }),
                })
            }
            Err(_elapsed) => Err(Ended::ConnectTimeout.into()),
        }
    }

    /// Reads the ClientHello of a client whose TLS ends at the node.
    async fn pass(&self, client: Socket, mut reservation: Reservation, due: Instant) -> Result<Passing, SetUpEnded> {
        let (mut received, mut reader) = (Vec::new(), HelloReader::default());
        loop {
            let before = received.len();
            let read = HeldReader::new(&client, &mut reservation).read(|bytes| {
                received.extend_from_slice(bytes);
                // Counted twice: the reader keeps a copy until the ClientHello is complete.
                Ok::<_, ReadError>(2 * bytes.len())
            });
            let gone = |cause| SetUpEnded::gone(cause, before > 0);
            match tokio::time::timeout_at(due, read).await {
                Ok(Ok(0)) => return Err(gone(Ended::ClientClosed)),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(gone(error.into())),
                Err(_elapsed) => return Err(Ended::ConnectTimeout.into()),
            }
            match reader.read(&received[before..]) {
                Err(_not_tls) => return Err(Ended::NotTls.into()),
                Ok(None) if received.len() > HELLO_BYTES_MAX => {
                    return Err(Ended::ConnectTooLarge.into());
                }
                Ok(None) => {}
                Ok(Some(hello)) => {
                    return Ok(Passing {
                        client,
                        received,
                        server_name: hello.server_name,
                        reservation,
                    });
                }
            }
        }
    }
}

/// How a connection ends after a failed TLS handshake.
fn cause_of_handshake(failure: HandshakeFailure, error: &io::Error) -> Ended {
    match failure {
        HandshakeFailure::NotTls => Ended::NotTls,
        HandshakeFailure::HelloTooLarge => Ended::ConnectTooLarge,
        HandshakeFailure::HeldBytesFull => Ended::HeldBytesFull,
        HandshakeFailure::Incompatible => Ended::TlsIncompatible,
        HandshakeFailure::CertificateRefused => Ended::CertificateRefused,
        HandshakeFailure::CertificateDistrusted => Ended::CertificateDistrusted,
        HandshakeFailure::Protocol => Ended::TlsFault,
        HandshakeFailure::Closed => Ended::ClientClosed,
        HandshakeFailure::Socket => Ended::of_client(error),
    }
}

/// Closes a client whose upgrade failed, and returns how the connection ended.
async fn end_upgrade(client: Socket, error: UpgradeError) -> SetUpEnded {
    let cause = match error {
        UpgradeError::NotHttp(bytes) if bytes.starts_with(&[0x16]) => Ended::NotMqttTls,
        UpgradeError::NotHttp(bytes) if bytes.starts_with(b"\r") || bytes.starts_with(b"PROXY ") => Ended::NotMqttProxy,
        UpgradeError::NotHttp(_) => Ended::NotMqttJunk,
        UpgradeError::Rejected(rejected) => {
            client.close_after(&[]).await;
            let Rejected {
                status,
                why,
                target,
                origin,
            } = *rejected;
            return SetUpEnded::from(Ended::UpgradeRefused).with(Details {
                why: Some(why.into()),
                status: Some(status.as_u16()),
                path: target,
                origin,
                ..Details::default()
            });
        }
        UpgradeError::HealthCheck => {
            client.close_after(&[]).await;
            return SetUpEnded {
                cause: Ended::HealthCheck,
                is_probe: true,
                details: None,
            };
        }
        UpgradeError::Closed { error, has_spoken } => {
            let cause = error.map_or(Ended::ClientClosed, |error| Ended::of_client(&error));
            // A TLS handshake before the upgrade counts as sent bytes, too.
            return SetUpEnded::gone(cause, has_spoken || !client.is_plain());
        }
        UpgradeError::HeldBytesFull => Ended::HeldBytesFull,
    };
    cause.into()
}
