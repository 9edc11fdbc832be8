//! What rustls asks about the certificates of clients and nodes, and about what they sign.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::chain;
use super::client_hello::with_hidden_name;
use super::distrust::Distrust;
use super::material::{common_name, has_host_names};
use super::refused;
use super::trusted::{Trusted, Usage};

/// Verifies clients.
#[derive(Clone, Debug)]
pub(super) struct ClientVerifier {
    pub(super) trusted: Arc<Trusted>,
    /// The library's, if there is an authority.
    pub(super) library: Option<Arc<dyn ClientCertVerifier>>,
    /// What clients are told.
    pub(super) names: Vec<DistinguishedName>,
    pub(super) is_mandatory: bool,
    /// A server name is hidden in the messages that a client signs, which has signed them with the name.
    pub(super) has_hidden_name: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.is_mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verify = || {
            chain::check(end_entity, intermediates)?;
            match (self.trusted.judge(end_entity, Usage::Client, now), &self.library) {
                (Some(judged), _) => judged.map(|()| ClientCertVerified::assertion()).map_err(Error::from),
                (None, Some(library)) => library.verify_client_cert(end_entity, intermediates, now),
                (None, None) => Err(Distrust::NoAuthority.into()),
            }
        };
        verify().inspect_err(|_| refused::note(end_entity))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // All messages of the handshake, of which the ClientHello is the first.
        let as_sent = self.has_hidden_name.then(|| with_hidden_name(message)).flatten();
        let message = as_sent.as_deref().unwrap_or(message);
        let verified = self.trusted.verify_tls12(message, certificate, signed);
        verified.inspect_err(|_| refused::note(certificate))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.trusted.verify_tls13(message, certificate, signed);
        verified.inspect_err(|_| refused::note(certificate))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trusted.algorithms().supported_schemes()
    }
}

/// Verifies nodes.
#[derive(Debug)]
pub(super) struct NodeVerifier {
    pub(super) trusted: Trusted,
    /// The common name counts where there is no other name.
    pub(super) common_names: bool,
}

impl NodeVerifier {
    fn check_name(&self, certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
        if has_host_names(certificate) {
            return verify_server_name(&ParsedCertificate::try_from(certificate)?, name);
        }
        let common_name = match self.common_names {
            true => common_name(certificate),
            false => return Err(Distrust::NoName.into()),
        };
        match common_name.is_some_and(|common_name| is_for(&common_name, &name.to_str())) {
            true => Ok(()),
            false => Err(CertificateError::NotValidForName.into()),
        }
    }
}

/// Whether a certificate with this common name is for `name`: the same, or with `*` in the place of its first label.
fn is_for(common_name: &str, name: &str) -> bool {
    let wildcard = common_name.strip_prefix("*.").zip(name.split_once('.'));
    // No wildcard of a whole top-level domain, nor of addresses.
    let is_wildcard = wildcard.is_some_and(|(parent, (first, others))| {
        !first.is_empty()
            && parent.contains('.')
            && name.parse::<std::net::IpAddr>().is_err()
            && parent.eq_ignore_ascii_case(others)
    });
    is_wildcard || common_name.eq_ignore_ascii_case(name)
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        chain::check(end_entity, intermediates)?;
        match self.trusted.judge(end_entity, Usage::Node, now) {
            Some(judged) => judged?,
            None => verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                self.trusted.authorities(),
                intermediates,
                now,
                self.trusted.algorithms().all,
            )?,
        }
        self.check_name(end_entity, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trusted.verify_tls12(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trusted.verify_tls13(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trusted.algorithms().supported_schemes()
    }
}

/// Accepts every certificate, if the node has its key.
#[derive(Debug)]
pub(super) struct AcceptAny(pub(super) Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
