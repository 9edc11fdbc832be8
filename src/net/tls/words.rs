//! What failed in a handshake, in words for the log: rustls names its variants, which say little to operators.

use std::fmt;
use std::io;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error, PeerIncompatible};

use super::distrust::Distrust;

/// What the peer did or has, if there are words for it.
pub(super) fn words(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::NoCertificatesPresented => "no certificate was shown",
        Error::InvalidCertificate(error) => of_certificate(error)?,
        Error::PeerIncompatible(why) => of_versions(why)?,
        _ => return None,
    })
}

fn of_certificate(error: &CertificateError) -> Option<&'static str> {
    use CertificateError as E;
    Some(match error {
        E::BadEncoding => "certificate cannot be read",
        E::Expired | E::ExpiredContext { .. } => "certificate has expired",
        E::NotValidYet | E::NotValidYetContext { .. } => "certificate is not valid yet",
        E::Revoked => "certificate is revoked",
        E::UnknownIssuer => "certificate is of no authority in the trusted file, or one between them was not sent",
        E::BadSignature => "a signature is not of the authority with that name, or not of the certificate's own key",
        E::UnknownRevocationStatus => "there is no list of revoked certificates of the certificate's authority",
        E::ExpiredRevocationList | E::ExpiredRevocationListContext { .. } => "list of revoked certificates has expired",
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            "extendedKeyUsage of the certificate does not allow this use"
        }
        E::UnsupportedSignatureAlgorithmContext { .. } | E::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "key or signature of a certificate is of a kind that is not supported, such as P-521, SHA-1 or RSA below 2048 bits"
        }
        E::Other(other) => {
            if let Some(distrust) = other.0.downcast_ref::<Distrust>() {
                distrust.words()
            } else {
                of_library(other.0.downcast_ref()?)?
            }
        }
        _ => return None,
    })
}

fn of_library(error: &webpki::Error) -> Option<&'static str> {
    use webpki::Error as E;
    Some(match error {
        E::CaUsedAsEndEntity => {
            "certificate is an authority's (CA:TRUE), as self-signed ones are, and not itself in the trusted file"
        }
        E::EndEntityUsedAsCa => "a certificate in the chain is used as an authority's and is not one (CA:FALSE)",
        E::UnsupportedCertVersion => "a certificate in the chain is of X.509 version 1",
        E::UnsupportedCriticalExtension => "certificate has a critical extension that is not supported",
        E::NameConstraintViolation => "a name of the certificate is outside of its authority's name constraints",
        E::PathLenConstraintViolated => "chain has more certificates than one of its authorities allows",
        E::ExtensionValueInvalid | E::MalformedExtensions => "an extension of the certificate is malformed",
        _ => return None,
    })
}

fn of_versions(why: &PeerIncompatible) -> Option<&'static str> {
    use PeerIncompatible as P;
    Some(match why {
        P::Tls12NotOffered
        | P::Tls12NotOfferedOrEnabled
        | P::SupportedVersionsExtensionRequired
        | P::ServerTlsVersionIsDisabledByOurConfig => "client's TLS is older than 1.2, or than tls_min",
        P::NoCipherSuitesInCommon => "no cipher suite in common: RSA key exchange and CBC suites are not supported",
        P::NoKxGroupsInCommon | P::NamedGroupsExtensionRequired => {
            "no key exchange in common: X25519, P-256 and P-384 are supported, RSA key exchange is not"
        }
        P::NoSignatureSchemesInCommon | P::NoCertificateRequestSignatureSchemesInCommon => {
            "no signature in common with the listener's key: client may want SHA-1"
        }
        P::SignatureAlgorithmsExtensionRequired => "client names no signature algorithms, so it wants SHA-1",
        P::NullCompressionRequired => "client insists on compression",
        P::UncompressedEcPointsRequired | P::EcPointsExtensionRequired => "client takes compressed points only",
        _ => return None,
    })
}

/// The same error with words instead of variants inside of it, where there are any.
pub(super) fn in_words(error: io::Error) -> io::Error {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => {
            let of_library = other.0.downcast_ref().and_then(of_library);
            let why = of_library.map_or_else(|| other.to_string(), str::to_owned);
            let fault = match other.0.downcast_ref() {
                Some(Distrust::OutOfTime) => CertificateFault::Expired(None),
                Some(Distrust::NoName) => CertificateFault::Name,
                _ => CertificateFault::Untrusted,
            };
            io::Error::new(error.kind(), InWords { why, fault })
        }
        _ => error,
    }
}

/// What is wrong with a peer's certificate, as far as the remedies differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// It has expired; without a limit, it may also be one that is not valid yet.
    Expired(Option<TimeLimit>),
    /// It is not valid yet.
    NotValidYet(Option<TimeLimit>),
    /// It is for another name, or for none.
    Name,
    /// It is of no trusted authority, or cannot be verified for another reason.
    Untrusted,
}

/// Until when, or from when on, a certificate is valid. Both times are seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimit {
    /// The time by the clock of this machine.
    pub now: u64,
    /// The last second in which it is valid, or the first.
    pub limit: u64,
}

impl TimeLimit {
    fn of(now: &UnixTime, limit: &UnixTime) -> Self {
        Self {
            now: now.as_secs(),
            limit: limit.as_secs(),
        }
    }
}

/// What is wrong with the peer's certificate, if that is why a handshake failed.
pub fn certificate_fault(error: &io::Error) -> Option<CertificateFault> {
    use CertificateError as E;
    let inner = error.get_ref()?;
    if let Some(InWords { fault, .. }) = inner.downcast_ref() {
        return Some(*fault);
    }
    let Error::InvalidCertificate(error) = inner.downcast_ref()? else {
        return None;
    };
    Some(match error {
        E::Expired => CertificateFault::Expired(None),
        E::ExpiredContext { time, not_after } => CertificateFault::Expired(Some(TimeLimit::of(time, not_after))),
        E::NotValidYet => CertificateFault::NotValidYet(None),
        E::NotValidYetContext { time, not_before } => {
            CertificateFault::NotValidYet(Some(TimeLimit::of(time, not_before)))
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => CertificateFault::Name,
        _ => CertificateFault::Untrusted,
    })
}

/// An error about a certificate that rustls has no words for.
#[derive(Debug)]
struct InWords {
    why: String,
    fault: CertificateFault,
}

impl fmt::Display for InWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid peer certificate: {}", self.why)
    }
}

impl std::error::Error for InWords {}
