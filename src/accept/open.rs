//! Opens what lies below MQTT and is no PROXY header: TLS, then the WebSocket upgrade.

use std::sync::Arc;

use rustls::HandshakeKind;
use tokio::time::Instant;

use super::{Handshakes, Listener, Tls, Transport};
use crate::ended::{Ended, SetUpEnded};
use crate::held::{Held, Share};
use crate::identity::Identity;
use crate::metrics::ListenerTally;
use crate::opening::{Leg, Passing};
use crate::socket::Socket;
use crate::tls::{self, HelloReader, Turnstile};
use crate::websocket::{self, Refused, Upgrade};

/// Bytes of a ClientHello that is passed on at most. Browsers send 2 KiB, with keys that resist quantum computers.
const HELLO_BYTES_MAX: usize = 32 * 1024;

/// A client of which all is known that lies below MQTT.
#[derive(Debug)]
pub enum Opened {
    /// It speaks MQTT from here on, as it is or in frames.
    Mqtt(Speaker),
    /// Its TLS ends at the node.
    Pass(Passing),
}

/// A client that speaks MQTT from here on.
#[derive(Debug)]
pub struct Speaker {
    /// Its socket.
    pub client: Socket,
    /// How it speaks.
    pub leg: Leg,
    /// What it asked for when it upgraded.
    pub upgrade: Option<Box<Upgrade>>,
    /// What its TLS said.
    pub identity: Option<Box<Identity>>,
    /// The account of what is held for it. All of its request counts, since parts of it are kept until a node was asked.
    pub share: Share,
}

/// What one worker opens clients with.
#[derive(Debug)]
pub struct Opener {
    /// The account of held bytes.
    pub held: Arc<Held>,
    /// TLS handshakes under way, over all workers.
    pub handshakes: Arc<Handshakes>,
    /// Lets one handshake compute after the other.
    pub turnstile: Turnstile,
}

impl Opener {
    /// Opens a client that came in by `listener`, until `due`.
    ///
    /// # Errors
    /// How the connection ended instead.
    pub async fn open(
        &self,
        client: Socket,
        listener: &Listener,
        handshakes_max: usize,
        tally: &ListenerTally,
        due: Instant,
    ) -> Result<Opened, SetUpEnded> {
        // What is rare is boxed, so that the set-up of a plain client is not as large.
        let (client, identity) = match &listener.tls {
            None => (client, None),
            Some(Tls::End(door)) => {
                let _one_more = self.handshakes.begin(handshakes_max)?;
                let (client, identity) = Box::pin(self.secure(client, door, tally, due)).await?;
                (client, Some(Box::new(identity)))
            }
            Some(Tls::Pass) => return Box::pin(self.pass(client, due)).await.map(Opened::Pass),
        };
        let mut share = self.held.share();
        let upgrade = match &listener.transport {
            Transport::Tcp => None,
            Transport::Ws(door) => {
                let upgrade = Box::pin(websocket::upgrade_client(&client, door, &mut share));
                match tokio::time::timeout_at(due, upgrade).await {
                    Ok(Ok(upgrade)) => Some(Box::new(upgrade)),
                    Ok(Err(refused)) => return Err(Box::pin(refuse(client, refused)).await),
                    Err(_elapsed) => return Err(Ended::ConnectTimeout.into()),
                }
            }
        };
        let leg = match upgrade {
            None => Leg::Tcp,
            Some(_) => Leg::Ws,
        };
        Ok(Opened::Mqtt(Speaker {
            client,
            leg,
            upgrade,
            identity,
            share,
        }))
    }

    /// The TLS handshake.
    async fn secure(
        &self,
        client: Socket,
        door: &tls::Door,
        tally: &ListenerTally,
        due: Instant,
    ) -> Result<(Socket, Identity), SetUpEnded> {
        let handshake = door.open(client, &self.turnstile, &self.held);
        match tokio::time::timeout_at(due, handshake).await {
            Ok(Ok((client, identity, kind))) => {
                match kind {
                    HandshakeKind::Resumed => tally.handshakes_resumed.add(1),
                    HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest => {
                        tally.handshakes_full.add(1);
                    }
                }
                Ok((client, identity))
            }
            Ok(Err(tls::Refused {
                ended,
                why,
                client,
                has_spoken,
            })) => {
                tracing::debug!(%why, "TLS handshake failed");
                if let Some(client) = client {
                    // What it has sent is read, so that no reset overtakes the alert.
                    client.farewell(&[]).await;
                }
                Err(SetUpEnded::gone(ended, has_spoken))
            }
            Err(_elapsed) => Err(Ended::ConnectTimeout.into()),
        }
    }

    /// Reads the ClientHello of a client whose TLS ends at the node.
    async fn pass(&self, client: Socket, due: Instant) -> Result<Passing, SetUpEnded> {
        let (mut said, mut reader) = (Vec::new(), HelloReader::default());
        let mut share = self.held.share();
        loop {
            let eviction = share.eviction();
            let before = said.len();
            let read = tokio::select! {
                biased;
                read = tokio::time::timeout_at(due, client.recv_more(&mut said)) => read,
                () = eviction.told() => return Err(Ended::HeldBytesFull.into()),
            };
            let gone = |cause| SetUpEnded::gone(cause, before > 0);
            match read {
                Ok(Ok(0)) => return Err(gone(Ended::ClientClosed)),
                // The reader keeps them as well, until the ClientHello is whole.
                Ok(Ok(read)) => share.grow(2 * read).map_err(Ended::from)?,
                Ok(Err(error)) => return Err(gone(Ended::of_client(&error))),
                Err(_elapsed) => return Err(Ended::ConnectTimeout.into()),
            }
            match reader.read(&said[before..]) {
                Err(_not_tls) => return Err(Ended::NotTls.into()),
                Ok(None) if said.len() > HELLO_BYTES_MAX => {
                    return Err(Ended::ConnectTooLarge.into());
                }
                Ok(None) => {}
                Ok(Some(hello)) => {
                    return Ok(Passing {
                        client,
                        said,
                        server_name: hello.server_name,
                        share,
                    });
                }
            }
        }
    }
}

async fn refuse(client: Socket, refused: Refused) -> SetUpEnded {
    let cause = match refused {
        Refused::NotHttp(bytes) if bytes.starts_with(&[0x16]) => Ended::NotMqttTls,
        Refused::NotHttp(bytes) if bytes.starts_with(b"\r") || bytes.starts_with(b"PROXY ") => {
            Ended::NotMqttProxy
        }
        Refused::NotHttp(_) => Ended::NotMqttJunk,
        Refused::Answered(status, why) => {
            tracing::debug!(%status, why, "upgrade refused");
            client.farewell(&[]).await;
            Ended::UpgradeRefused
        }
        Refused::Gone { how, has_spoken } => {
            let cause = how.map_or_else(|error| Ended::of_client(&error), |()| Ended::ClientClosed);
            // With TLS below, it has.
            return SetUpEnded::gone(cause, has_spoken || !client.is_plain());
        }
        Refused::HeldBytesFull => Ended::HeldBytesFull,
    };
    cause.into()
}
