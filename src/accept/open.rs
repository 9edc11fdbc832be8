//! Opens what lies below MQTT: the WebSocket upgrade. PROXY protocol and TLS find their place here.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Transport;
use crate::ended::Ended;
use crate::held::Held;
use crate::opening::Leg;
use crate::socket::Socket;
use crate::websocket::{self, Refused, Upgrade};

/// How long a client that was refused may take to hear why.
const FAREWELL: Duration = Duration::from_secs(1);

/// A client that speaks MQTT from here on, as it is or in frames.
#[derive(Debug)]
pub struct Opened {
    /// Its socket.
    pub client: Socket,
    /// How it speaks.
    pub leg: Leg,
    /// What it asked for when it upgraded.
    pub upgrade: Option<Box<Upgrade>>,
}

/// Opens a client that came in by `transport`, until `due`.
///
/// # Errors
/// How the connection ended instead.
pub async fn open(
    client: Socket,
    transport: &Transport,
    due: Instant,
    held: &Arc<Held>,
) -> Result<Opened, Ended> {
    match transport {
        Transport::Tcp => Ok(Opened {
            client,
            leg: Leg::Tcp,
            upgrade: None,
        }),
        Transport::Ws(door) => {
            let mut share = held.share();
            // Boxed, so that the set-up of a client without WebSocket is not as large as that of one with it.
            let upgrade = Box::pin(websocket::upgrade_client(&client, door, &mut share));
            let upgrade = match tokio::time::timeout_at(due, upgrade).await {
                Ok(Ok(upgrade)) => upgrade,
                Ok(Err(refused)) => return Err(Box::pin(refuse(client, refused)).await),
                Err(_elapsed) => return Err(Ended::ConnectTimeout),
            };
            Ok(Opened {
                client,
                leg: Leg::Ws,
                upgrade: Some(Box::new(upgrade)),
            })
        }
    }
}

async fn refuse(client: Socket, refused: Refused) -> Ended {
    match refused {
        Refused::NotHttp(bytes) if bytes.starts_with(&[0x16]) => Ended::NotMqttTls,
        Refused::NotHttp(bytes) if bytes.starts_with(b"\r") || bytes.starts_with(b"PROXY ") => {
            Ended::NotMqttProxy
        }
        Refused::NotHttp(_) => Ended::NotMqttJunk,
        Refused::Answered(status, why) => {
            tracing::debug!(%status, why, "upgrade refused");
            // A client that does not listen is closed all the same.
            let _ = tokio::time::timeout(FAREWELL, client.leave_after_reading()).await;
            Ended::UpgradeRefused
        }
        Refused::Gone(Ok(())) => Ended::ClientClosed,
        Refused::Gone(Err(error)) => Ended::of_client(&error),
        Refused::HeldBytesFull => Ended::HeldBytesFull,
    }
}
