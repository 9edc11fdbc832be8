//! Looks up the certificates that [`super::trusted`] judges in lists of revoked ones, which the library does for those that it judges.
//!
//! Whose a list is, is found out once, when the files are read. A list is trusted as OpenSSL trusts it: if it is signed by a certificate of
//! the trusted file that has the list's issuer as its subject, and whose key usage, where there is one, is for that.

use rustls::CertificateError;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, SubjectPublicKeyInfoDer, UnixTime};
use webpki::{BorrowedCertRevocationList, CertRevocationList, RawPublicKeyEntity};
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};

use super::Revocations;

/// Lists of revoked certificates by the certificates of those that issued them.
#[derive(Debug)]
pub(super) struct RevokedBy {
    lists: Vec<List>,
    /// One that has expired refuses all.
    must_be_current: bool,
}

#[derive(Debug)]
struct List {
    issuer: CertificateDer<'static>,
    der: CertificateRevocationListDer<'static>,
    /// Its `nextUpdate`, in seconds.
    expires: i64,
}

impl RevokedBy {
    /// These lists, of those whose certificates are among `trusted`.
    pub(super) fn new(
        revocations: &Revocations,
        trusted: &[CertificateDer<'static>],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Self {
        let lists = revocations.lists().into_iter();
        Self {
            lists: lists.filter_map(|der| List::read(der, trusted, algorithms)).collect(),
            must_be_current: revocations.must_be_current(),
        }
    }

    /// Whether the lists of `issuer` let this certificate be, which it has issued.
    ///
    /// It is searched from its start: the library hashes the whole list for each certificate, which takes longer.
    ///
    /// # Errors
    /// There is none, it is on one, or one has expired.
    pub(super) fn check(
        &self,
        certificate: &X509Certificate<'_>,
        issuer: &CertificateDer<'_>,
        now: UnixTime,
    ) -> Result<(), CertificateError> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let mut is_known = false;
        for list in self.lists.iter().filter(|list| list.issuer == *issuer) {
            if self.must_be_current && list.expires < now {
                return Err(CertificateError::ExpiredRevocationList);
            }
            let revoked = BorrowedCertRevocationList::from_der(&list.der).map(CertRevocationList::from);
            let found = revoked
                .as_ref()
                .map(|revoked| revoked.find_serial(certificate.raw_serial()));
            if !matches!(found, Ok(Ok(None))) {
                return Err(CertificateError::Revoked);
            }
            is_known = true;
        }
        match is_known {
            true => Ok(()),
            false => Err(CertificateError::UnknownRevocationStatus),
        }
    }
}

impl List {
    /// This list with its issuer's certificate; `None` if there is none, or if it is for some of its certificates only.
    fn read(
        der: CertificateRevocationListDer<'static>,
        trusted: &[CertificateDer<'static>],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Option<Self> {
        let as_library = CertRevocationList::from(BorrowedCertRevocationList::from_der(&der).ok()?);
        if as_library.issuing_distribution_point().is_some() {
            return None;
        }
        let (_, list) = CertificateRevocationList::from_der(&der).ok()?;
        let has_issued = |certificate: &&CertificateDer<'_>| {
            X509Certificate::from_der(certificate).is_ok_and(|(_, issuer)| {
                let may_sign = match issuer.key_usage() {
                    Ok(usage) => usage.is_none_or(|usage| usage.value.crl_sign()),
                    Err(_) => false,
                };
                let signed = || {
                    is_signed(
                        list.tbs_cert_list.as_ref(),
                        &list.signature_value.data,
                        &issuer,
                        algorithms,
                    )
                };
                issuer.subject().as_raw() == list.issuer().as_raw() && may_sign && signed()
            })
        };
        let issuer = trusted.iter().find(has_issued)?.clone();
        let expires = list.next_update()?.timestamp();
        Some(Self { issuer, der, expires })
    }
}

/// Whether the key of `issuer` has signed this.
pub(super) fn is_signed(
    signed: &[u8],
    signature: &[u8],
    issuer: &X509Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let key = SubjectPublicKeyInfoDer::from(issuer.public_key().raw);
    let Ok(key) = RawPublicKeyEntity::try_from(&key) else {
        return false;
    };
    let mut algorithms = algorithms.all.iter();
    algorithms.any(|algorithm| key.verify_signature(*algorithm, signed, signature).is_ok())
}
