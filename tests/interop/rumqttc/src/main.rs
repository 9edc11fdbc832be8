//! rumqttc receives one message: connects, subscribes, prints `subscribed`, prints the message as `received PAYLOAD`, disconnects.
//!
//! Arguments: the transport (tcp, tls, ws, wss), port, client id, protocol level, topic, and the authority's certificate.

use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::{TlsConfiguration, Transport};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PATIENCE: Duration = Duration::from_secs(30);

/// Its place in what rumqttc takes for an address where it speaks WebSocket.
fn host(transport: &str, port: u16) -> String {
    match transport {
        "ws" | "wss" => format!("{transport}://127.0.0.1:{port}/mqtt"),
        _ => "127.0.0.1".to_owned(),
    }
}

fn transport(name: &str, ca: &str) -> Result<Transport> {
    let tls = || -> Result<TlsConfiguration> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&fs::read(ca)?)?)?;
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(TlsConfiguration::Rustls(Arc::new(config)))
    };
    Ok(match name {
        "tcp" => Transport::Tcp,
        "tls" => Transport::tls_with_config(tls()?),
        "ws" => Transport::Ws,
        "wss" => Transport::wss_with_config(tls()?),
        other => return Err(format!("no transport is called {other}").into()),
    })
}

/// The same for both versions, which rumqttc has as two libraries with the same names.
macro_rules! receive {
    ($options:expr, $topic:expr) => {{
        let (client, mut events) = AsyncClient::new($options, 10);
        client.subscribe($topic, QoS::AtLeastOnce).await?;
        loop {
            match events.poll().await? {
                Event::Incoming(Packet::SubAck(_)) => println!("subscribed"),
                Event::Incoming(Packet::Publish(publish)) => {
                    println!("received {}", String::from_utf8(publish.payload.to_vec())?);
                    client.disconnect().await?;
                }
                Event::Outgoing(Outgoing::Disconnect) => return Ok(()),
                _ => {}
            }
        }
    }};
}

async fn receive_v4(options: rumqttc::MqttOptions, topic: &str) -> Result<()> {
    use rumqttc::{AsyncClient, Event, Outgoing, Packet, QoS};
    receive!(options, topic)
}

async fn receive_v5(options: rumqttc::v5::MqttOptions, topic: &str) -> Result<()> {
    use rumqttc::Outgoing;
    use rumqttc::v5::mqttbytes::{QoS, v5::Packet};
    use rumqttc::v5::{AsyncClient, Event};
    receive!(options, topic)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, port, id, level, topic, ca] = &arguments[..] else {
        return Err("six arguments are needed".into());
    };
    let provider = rustls::crypto::ring::default_provider();
    provider.install_default().map_err(|_| "cryptography is set up twice")?;
    let (port, packet_max) = (port.parse()?, 64 * 1024);
    let received = async {
        if level == "5" {
            let mut options = rumqttc::v5::MqttOptions::new(id, host(name, port), port);
            options
                .set_transport(transport(name, ca)?)
                .set_max_packet_size(Some(packet_max as u32));
            receive_v5(options, topic).await
        } else {
            let mut options = rumqttc::MqttOptions::new(id, host(name, port), port);
            options
                .set_transport(transport(name, ca)?)
                .set_max_packet_size(packet_max, packet_max);
            receive_v4(options, topic).await
        }
    };
    tokio::time::timeout(PATIENCE, received).await?
}
