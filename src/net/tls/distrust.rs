//! Why a certificate was refused without the library, in words for the log.

use std::fmt;
use std::sync::Arc;

use rustls::{CertificateError, Error, OtherError};

/// Why a certificate was refused that the library was not asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Distrust {
    /// It came with so many intermediate certificates, of so many at most.
    TooManyIntermediates(usize, usize),
    /// Its chain has so many bytes, of so many at most.
    ChainTooLarge(usize, usize),
    /// Two certificates of its chain have the same subject.
    SubjectTwice,
    /// It expired, or is not valid yet.
    OutOfTime,
    /// Its extended key usage does not name this one.
    Purpose,
    /// It is of version 1, and of no authority in the file, or not signed by it.
    VersionOneIssuer,
    /// It is of version 1, and its authority has name constraints.
    VersionOneConstrained,
    /// It is self-signed and in the file, and there are lists of revoked certificates, none of which is its own.
    SelfSignedRevocations,
    /// It is a node's, with no name but the common name.
    NoName,
    /// There is no authority in the file, and it is not in it itself.
    NoAuthority,
}

impl Distrust {
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::TooManyIntermediates(..) | Self::ChainTooLarge(..) | Self::SubjectTwice => {
                "certificate chain is longer or larger than allowed, or has a subject twice"
            }
            Self::OutOfTime => "certificate has expired or is not valid yet",
            Self::Purpose => "extendedKeyUsage of the certificate does not allow this use",
            Self::VersionOneIssuer => {
                "certificate of X.509 version 1 that no authority in the trusted file has issued directly"
            }
            Self::VersionOneConstrained => "certificate of X.509 version 1 of an authority with name constraints",
            Self::SelfSignedRevocations => {
                "self-signed certificate, of which client_crl has no list: take it out of client_ca to revoke it, and leave client_crl out"
            }
            Self::NoName => {
                "certificate has no subjectAltName, and its common name counts only with nodes_tls.common_names = true"
            }
            Self::NoAuthority => "certificate is not in the trusted file, which has no authority",
        }
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyIntermediates(count, most) => {
                write!(f, "{count} intermediate certificates, of at most {most}")
            }
            Self::ChainTooLarge(bytes, most) => write!(f, "a certificate chain of {bytes} bytes, of at most {most}"),
            Self::SubjectTwice => f.write_str("two certificates of the chain have the same subject"),
            other => f.write_str(other.words()),
        }
    }
}

/// A sentence as well: this is what rustls puts into the error that is logged.
impl fmt::Debug for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Distrust {}

impl From<Distrust> for CertificateError {
    fn from(distrust: Distrust) -> Self {
        Self::Other(OtherError(Arc::new(distrust)))
    }
}

impl From<Distrust> for Error {
    fn from(distrust: Distrust) -> Self {
        Self::InvalidCertificate(distrust.into())
    }
}
