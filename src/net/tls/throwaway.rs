//! Certificates for trying TLS: a new authority each time, which nobody trusts unless told to.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// How long a certificate is valid: long enough for a trial, too short for production.
const LIFETIME: Duration = Duration::from_secs(30 * 86_400);

/// An authority whose key is never stored.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub chain: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut params = params("Remora throw-away authority", &[])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate()?).map(Self)
    }

    /// Its certificate, as PEM: what clients are told to trust.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a server with these host names and addresses.
    ///
    /// # Errors
    /// One of them is neither.
    pub fn server(&self, names: &[&str]) -> Result<Pair, rcgen::Error> {
        self.signed(
            params(names.first().copied().unwrap_or_default(), names)?,
            ExtendedKeyUsagePurpose::ServerAuth,
        )
    }

    /// A certificate for a client with this common name.
    ///
    /// # Errors
    /// The name cannot be in a certificate.
    pub fn client(&self, common_name: &str) -> Result<Pair, rcgen::Error> {
        self.signed(params(common_name, &[])?, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// The authority itself, to issue other kinds of certificates.
    pub fn issuer(&self) -> &CertifiedIssuer<'static, KeyPair> {
        &self.0
    }

    fn signed(&self, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) -> Result<Pair, rcgen::Error> {
        params.extended_key_usages = vec![purpose];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok(Pair {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

fn params(common_name: &str, names: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    // The other side's clock may be behind.
    params.not_before = (now - Duration::from_secs(86_400)).into();
    params.not_after = (now + LIFETIME).into();
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::tls::{Certificate, Trust};

    #[test]
    fn what_it_makes_can_be_used() {
        let authority = Authority::new().expect("an authority");
        let pair = authority.server(&["localhost", "127.0.0.1"]).expect("a pair");
        let certificate = Certificate::from_pem(pair.chain.as_bytes(), pair.key.as_bytes());
        assert_eq!(certificate.expect("right").names(), ["localhost", "127.0.0.1"]);
        Trust::from_pem(authority.pem().as_bytes()).expect("an authority");
        authority.client("sensor-7").expect("a pair");
    }
}
