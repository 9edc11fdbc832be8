//! TLS to nodes: which certificates to trust, which one to present, and the handshake.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsConnector;

use super::trusted::Trusted;
use super::verifiers::{AcceptAny, NodeVerifier};
use super::words::in_words;
use super::{Certificate, Trust, provider};
use crate::net::socket::Socket;

/// The settings for all nodes that are reached with TLS, with their files read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodesOffer {
    /// The authorities whose certificates are trusted.
    pub trust: Trust,
    /// The certificate that is presented to a node that asks for one.
    pub certificate: Option<Certificate>,
    /// The common name of a node's certificate counts where it has no other name.
    pub common_names: bool,
    /// Every certificate is accepted, whatever its issuer and name: for tests only.
    pub insecure_skip_verify: bool,
}

/// TLS to nodes. Two are equal if they have the same settings.
#[derive(Clone, Debug)]
pub struct Nodes {
    offer: NodesOffer,
    config: Arc<ClientConfig>,
}

impl PartialEq for Nodes {
    fn eq(&self, other: &Self) -> bool {
        self.offer == other.offer
    }
}

impl Eq for Nodes {}

impl Nodes {
    /// TLS with these settings.
    ///
    /// # Errors
    /// The authorities or the certificate cannot be used.
    pub fn new(offer: NodesOffer) -> Result<Self, String> {
        let provider = provider();
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let verifier: Arc<dyn ServerCertVerifier> = match offer.insecure_skip_verify {
            true => Arc::new(AcceptAny(provider)),
            false => Arc::new(NodeVerifier {
                trusted: Trusted::new(offer.trust.certificates(), None, &provider)?,
                common_names: offer.common_names,
            }),
        };
        let config = config.dangerous().with_custom_certificate_verifier(verifier);
        let config = match &offer.certificate {
            None => config.with_no_client_auth(),
            Some(certificate) => {
                let shown = SingleCertAndKey::from(Arc::clone(certificate.key()));
                config.with_client_cert_resolver(Arc::new(shown))
            }
        };
        Ok(Self {
            offer,
            config: Arc::new(config),
        })
    }

    /// Whether the common name of a node's certificate counts where it has no other name.
    pub(crate) fn counts_common_names(&self) -> bool {
        self.offer.common_names
    }

    /// Whether every certificate is accepted.
    pub(crate) fn is_insecure(&self) -> bool {
        self.offer.insecure_skip_verify
    }
}

/// The TLS settings for nodes that are in force. A reload replaces them before it publishes endpoints that need them.
#[derive(Debug, Default)]
pub struct NodesTls(ArcSwapOption<Nodes>);

impl NodesTls {
    /// Goes on with these settings. None keeps those of before, since clients that are being set up may still need them.
    pub fn replace(&self, nodes: Option<Nodes>) {
        if let Some(nodes) = nodes {
            self.0.store(Some(Arc::new(nodes)));
        }
    }

    /// The certificate that is presented to nodes, if there is one.
    pub(crate) fn certificate(&self) -> Option<Certificate> {
        let nodes = self.0.load();
        nodes.as_ref().and_then(|nodes| nodes.offer.certificate.clone())
    }

    /// The handshake with a node whose certificate must be for `server_name`, on a socket that may not be connected yet.
    ///
    /// # Errors
    /// It failed: [`io::ErrorKind::InvalidData`] unless the network failed.
    pub async fn secure(&self, server_name: &str, node: Socket) -> io::Result<Socket> {
        let nodes = self.0.load_full();
        let nodes = nodes.ok_or_else(|| io::Error::other("no TLS settings for nodes"))?;
        let server_name = ServerName::try_from(server_name.to_owned()).map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::clone(&nodes.config));
        let stream = connector.connect(server_name, node).await.map_err(in_words)?;
        let (node, connection) = stream.into_inner();
        Ok(node.secured(connection.into(), 0))
    }
}

/// Tries a handshake with a peer at `address`, of which nothing is verified and nothing wanted but that it speaks TLS: an alert is as
/// good as a finished handshake, since the peer may want a certificate or a server name.
///
/// # Errors
/// The connection ended or failed, or the answer was no TLS ([`io::ErrorKind::InvalidData`]).
pub(crate) async fn try_handshake(address: IpAddr, peer: Socket) -> io::Result<()> {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .unwrap_or_else(|error| unreachable!("the library's own versions: {error}"));
        let verifier = Arc::new(AcceptAny(provider()));
        Arc::new(
            config
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth(),
        )
    });
    let connector = TlsConnector::from(Arc::clone(config));
    match connector.connect(ServerName::from(address), peer).await {
        Ok(mut stream) => {
            stream.get_mut().1.send_close_notify();
            // It may be gone: it has answered.
            let _ = stream.flush().await;
            Ok(())
        }
        Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_)) => Ok(()),
            _ => Err(in_words(error)),
        },
    }
}
