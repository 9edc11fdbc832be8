//! TLS to nodes: whom to believe, what to show, and the handshake.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio_rustls::TlsConnector;

use super::{Certificate, Trust, provider};
use crate::socket::Socket;

/// What holds for every node that is reached with TLS: what the configuration says, with its files read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodesOffer {
    /// Whose certificates are believed.
    pub trust: Trust,
    /// What is shown to a node that asks.
    pub certificate: Option<Certificate>,
    /// Every certificate is believed, whoever made it and whatever its name: for trials only.
    pub insecure_skip_verify: bool,
}

/// TLS to nodes. Two are equal that offer the same.
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
    /// TLS that offers this.
    ///
    /// # Errors
    /// The trust or the certificate cannot be used.
    pub fn new(offer: NodesOffer) -> Result<Self, String> {
        let provider = provider();
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let config = if offer.insecure_skip_verify {
            config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        } else {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(offer.trust.roots()?, provider)
                    .build()
                    .map_err(|error| format!("nodes cannot be verified: {error}"))?;
            config.with_webpki_verifier(verifier)
        };
        let config = match &offer.certificate {
            None => config.with_no_client_auth(),
            Some(certificate) => {
                let (chain, key) = certificate.parts();
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| format!("the certificate cannot be shown: {error}"))?
            }
        };
        Ok(Self {
            offer,
            config: Arc::new(config),
        })
    }

    /// Whether every certificate is believed.
    pub fn is_insecure(&self) -> bool {
        self.offer.insecure_skip_verify
    }
}

/// TLS to one node.
#[derive(Clone, PartialEq, Eq)]
pub struct ToNode {
    /// What holds for all of them.
    pub nodes: Nodes,
    /// The name that its certificate must be for.
    pub server_name: ServerName<'static>,
}

impl fmt::Debug for ToNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS to {}", self.server_name.to_str())
    }
}

impl ToNode {
    /// The handshake on a socket that may not be connected yet.
    ///
    /// # Errors
    /// It failed: [`io::ErrorKind::InvalidData`] where that is no matter of the network.
    pub async fn secure(&self, node: Socket) -> io::Result<Socket> {
        let connector = TlsConnector::from(Arc::clone(&self.nodes.config));
        let stream = connector.connect(self.server_name.clone(), node).await?;
        let (node, connection) = stream.into_inner();
        Ok(node.secured(connection.into(), 0))
    }
}

/// Believes every certificate, if whoever shows it has its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
