//! Certificates that every server on OpenSSL takes and webpki does not: self-signed ones that are themselves in the trusted file, those of
//! X.509 version 1, and those of nodes that have their name in the common name only. Everything else is the library's to judge.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore};
use webpki::{EndEntityCert, RawPublicKeyEntity};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::Revocations;
use super::distrust::Distrust;
use super::material::{NAMES_BYTES_MAX, may_issue};
use super::revoked::{RevokedBy, is_signed};

/// The certificates of the trusted file.
#[derive(Debug)]
pub(super) struct Trusted {
    certificates: Vec<CertificateDer<'static>>,
    /// Those of them that may issue others, as the library takes them.
    authorities: Arc<RootCertStore>,
    /// The same by their subjects.
    issuers: Vec<(Vec<u8>, CertificateDer<'static>)>,
    algorithms: WebPkiSupportedAlgorithms,
    /// The lists of revoked certificates, if there are any.
    revoked: Option<RevokedBy>,
}

/// What a certificate is shown for: its object identifier in an extended key usage is in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    Client,
    Node,
}

impl Trusted {
    /// Trusts `certificates`.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub(super) fn new(
        certificates: &[CertificateDer<'static>],
        revocations: Option<&Revocations>,
        provider: &CryptoProvider,
    ) -> Result<Self, String> {
        // A device's own certificate in the file says nothing about those that it may sign.
        let authorities = certificates.iter().filter(|certificate| may_issue(certificate));
        let issuers = authorities.clone().filter_map(|certificate| {
            let (_, read) = X509Certificate::from_der(certificate).ok()?;
            Some((read.subject().as_raw().to_vec(), certificate.clone()))
        });
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self {
            issuers: issuers.collect(),
            certificates: certificates.to_vec(),
            authorities: Arc::new(store(authorities)?),
            revoked: revocations.map(|lists| RevokedBy::new(lists, certificates, &algorithms)),
            algorithms,
        })
    }

    /// The authorities, as the library takes them.
    pub(super) fn authorities(&self) -> &Arc<RootCertStore> {
        &self.authorities
    }

    /// The kinds of keys and signatures that are taken.
    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }

    /// The names that clients are told; empty if they are too many.
    pub(super) fn names(&self) -> Result<Vec<DistinguishedName>, String> {
        let names = store(&self.certificates)?.subjects();
        let bytes: usize = names.iter().map(|name| 2 + name.as_ref().len()).sum();
        Ok(if bytes > NAMES_BYTES_MAX { Vec::new() } else { names })
    }

    /// Whether it is trusted, if it is a certificate about which the library cannot be asked.
    pub(super) fn judge(
        &self,
        certificate: &CertificateDer<'_>,
        usage: Usage,
        now: UnixTime,
    ) -> Option<Result<(), CertificateError>> {
        let (_, read) = X509Certificate::from_der(certificate).ok()?;
        let is_self_signed = read.issuer().as_raw() == read.subject().as_raw();
        if is_self_signed && self.certificates.contains(certificate) {
            return Some(self.judge_listed(certificate, &read, usage, now));
        }
        (read.version() == X509Version::V1).then(|| self.judge_version_one(&read, now))
    }

    /// Judges a self-signed certificate that is in the file: its list, too, can only be its own.
    fn judge_listed(
        &self,
        certificate: &CertificateDer<'_>,
        read: &X509Certificate<'_>,
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        check_time(read, now)?;
        check_usage(read, usage)?;
        let revoked = self.revoked.as_ref();
        revoked.map_or(Ok(()), |revoked| match revoked.check(read, certificate, now) {
            Err(CertificateError::UnknownRevocationStatus) => Err(Distrust::SelfSignedRevocations.into()),
            checked => checked,
        })
    }

    /// Judges a certificate of version 1. It has no extensions, so there is no more to it than dates, signature and number.
    fn judge_version_one(&self, read: &X509Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
        check_time(read, now)?;
        let issuer = self.issuer_of(read)?;
        let revoked = self.revoked.as_ref();
        revoked.map_or(Ok(()), |revoked| revoked.check(read, issuer, now))
    }

    /// The authority in the file that has signed this certificate of version 1.
    fn issuer_of(&self, certificate: &X509Certificate<'_>) -> Result<&CertificateDer<'static>, Distrust> {
        let mut why = Distrust::VersionOneIssuer;
        let issuer = certificate.issuer().as_raw();
        for (_, der) in self.issuers.iter().filter(|(subject, _)| subject == issuer) {
            let Ok((_, authority)) = X509Certificate::from_der(der) else {
                continue;
            };
            if !matches!(authority.name_constraints(), Ok(None)) {
                why = Distrust::VersionOneConstrained;
                continue;
            }
            let (signed, signature) = (certificate.tbs_certificate.as_ref(), &certificate.signature_value.data);
            if is_signed(signed, signature, &authority, &self.algorithms) {
                return Ok(der);
            }
        }
        Err(why)
    }

    /// The signature of a handshake in TLS 1.2.
    pub(super) fn verify_tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let Some(key) = key_of_version_one(certificate) else {
            return verify_tls12_signature(message, certificate, signed, &self.algorithms);
        };
        // The scheme may stand for several kinds of keys.
        let schemes = self
            .algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme);
        let key = RawPublicKeyEntity::try_from(&key).map_err(|_| CertificateError::BadEncoding)?;
        let mut algorithms = schemes.flat_map(|(_, algorithms)| *algorithms);
        match algorithms.any(|algorithm| key.verify_signature(*algorithm, message, signed.signature()).is_ok()) {
            true => Ok(HandshakeSignatureValid::assertion()),
            false => Err(CertificateError::BadSignature.into()),
        }
    }

    /// The signature of a handshake in TLS 1.3.
    pub(super) fn verify_tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match key_of_version_one(certificate) {
            None => verify_tls13_signature(message, certificate, signed, &self.algorithms),
            Some(key) => rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms),
        }
    }
}

fn store<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        store
            .add(certificate.clone())
            .map_err(|error| format!("a certificate in it cannot be trusted: {error}"))?;
    }
    Ok(store)
}

/// The key of a certificate that the library does not read because of its version.
fn key_of_version_one(certificate: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    if EndEntityCert::try_from(certificate).is_ok() {
        return None;
    }
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let is_version_one = certificate.version() == X509Version::V1;
    is_version_one.then(|| SubjectPublicKeyInfoDer::from(certificate.public_key().raw.to_vec()))
}

fn check_time(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Distrust> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    match (validity.not_before.timestamp()..=validity.not_after.timestamp()).contains(&now) {
        true => Ok(()),
        false => Err(Distrust::OutOfTime),
    }
}

fn check_usage(certificate: &X509Certificate<'_>, usage: Usage) -> Result<(), Distrust> {
    match certificate.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(allowed))
            if allowed.value.any
                || match usage {
                    Usage::Client => allowed.value.client_auth,
                    Usage::Node => allowed.value.server_auth,
                } =>
        {
            Ok(())
        }
        Ok(Some(_)) | Err(_) => Err(Distrust::Purpose),
    }
}
