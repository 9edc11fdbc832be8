//! Certificates, keys and lists of revoked certificates, as files hold them (PEM).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::provider;
use crate::identity;

/// Names of a client's certificate that are kept.
const NAMES_KEPT_MAX: usize = 8;

/// A certificate with its chain and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// What it is compared by: a key that changed is another certificate.
    secret: Arc<PrivateKeyDer<'static>>,
    names: Vec<String>,
    expires: SystemTime,
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert && self.secret == other.secret
    }
}

impl Eq for Certificate {}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and its key from PEM; both may be in one file.
    ///
    /// # Errors
    /// What is missing or wrong, as a sentence that begins with the file's part.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, String> {
        let chain = certificates(chain)?;
        let secret = match PrivateKeyDer::from_pem_slice(key) {
            Ok(secret) => secret,
            Err(pem::Error::NoItemsFound) => return Err("there is no private key in it".to_owned()),
            Err(error) => return Err(format!("its private key cannot be read: {error}")),
        };
        let signing = provider()
            .key_provider
            .load_private_key(secret.clone_key())
            .map_err(|error| format!("its private key cannot be used: {error}"))?;
        let (names, expires) = match X509Certificate::from_der(&chain[0]) {
            Ok((_, certificate)) => (names(&certificate), expiry(&certificate)),
            Err(error) => return Err(format!("its certificate cannot be read: {error}")),
        };
        let key = CertifiedKey::new(chain, signing);
        match key.keys_match() {
            // A key that does not tell its public half is believed.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                return Err("its private key belongs to another certificate".to_owned());
            }
            Err(error) => return Err(format!("its certificate cannot be used: {error}")),
        }
        Ok(Self {
            key: Arc::new(key),
            secret: Arc::new(secret),
            names,
            expires,
        })
    }

    /// The host names that it is for, wildcards included, in lower case.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When it expires.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// The chain and the key, as rustls takes them.
    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// The chain and the key once more, for a handshake in which this side is the client.
    pub(super) fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.key.cert.clone(), self.secret.clone_key())
    }
}

/// Certificates of authorities that are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trust(Vec<CertificateDer<'static>>);

impl Trust {
    /// Reads a bundle from PEM.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn from_pem(bundle: &[u8]) -> Result<Self, String> {
        certificates(bundle).map(Self)
    }

    /// The authorities, as rustls takes them.
    ///
    /// # Errors
    /// One of them is no authority's certificate.
    pub(super) fn roots(&self) -> Result<Arc<rustls::RootCertStore>, String> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in &self.0 {
            roots
                .add(certificate.clone())
                .map_err(|error| format!("a certificate in it cannot be trusted: {error}"))?;
        }
        Ok(Arc::new(roots))
    }
}

/// Lists of certificates that are trusted no more (RFC 5280, section 5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations(Vec<CertificateRevocationListDer<'static>>);

impl Revocations {
    /// Reads lists from PEM.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn from_pem(lists: &[u8]) -> Result<Self, String> {
        let lists = CertificateRevocationListDer::pem_slice_iter(lists);
        let lists: Vec<_> = lists
            .collect::<Result<_, _>>()
            .map_err(|error| format!("not PEM: {error}"))?;
        if lists.is_empty() {
            return Err("there is no list of revoked certificates in it".to_owned());
        }
        Ok(Self(lists))
    }

    /// The lists, as rustls takes them.
    pub(super) fn lists(&self) -> Vec<CertificateRevocationListDer<'static>> {
        self.0.clone()
    }
}

/// Reads a file of this kind, which is small.
///
/// # Errors
/// It cannot be read, or is much too large.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    /// Room for a bundle of all authorities of the world, and a long list of the revoked.
    const BYTES_MAX: u64 = 16 << 20;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    io::Read::read_to_end(&mut io::Read::take(file, BYTES_MAX + 1), &mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::other("larger than any such file"));
    }
    Ok(bytes)
}

/// What a client's certificate says of it; none when it cannot be read, though it was verified.
pub(super) fn identity_of(
    certificate: &CertificateDer<'_>,
    on_this_connection: bool,
) -> Option<identity::Certificate> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let common_name = certificate
        .subject()
        .iter_common_name()
        .next()
        .and_then(|name| name.as_str().ok());
    Some(identity::Certificate {
        common_name: common_name.map(Into::into),
        // They are for the log alone, which shows no more of them.
        names: names(&certificate)
            .into_iter()
            .take(NAMES_KEPT_MAX)
            .map(Into::into)
            .collect(),
        on_this_connection,
    })
}

/// Whether a certificate was valid only until before `now`. One that cannot be read has said nothing of it.
pub(super) fn has_expired(certificate: &CertificateDer<'_>, now: SystemTime) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| expiry(&certificate) < now)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(certificates)
}

/// Subject alternative names that are text or addresses.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            GeneralName::RFC822Name(name) | GeneralName::URI(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes)
                    .ok()
                    .map(|b| std::net::Ipv4Addr::from(b).to_string()),
                _ => <[u8; 16]>::try_from(*bytes)
                    .ok()
                    .map(|b| std::net::Ipv6Addr::from(b).to_string()),
            },
            _ => None,
        })
        .collect()
}

fn expiry(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = certificate.validity().not_after.timestamp();
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds),
        Err(_) => UNIX_EPOCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn pem(names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, "sensor");
        let certificate = params.self_signed(&key).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_says_its_names_and_expiry() {
        let (chain, key) = pem(&["MQTT.example.com", "*.example.org", "192.0.2.7", "::1"]);
        let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).expect("right");
        let names = ["mqtt.example.com", "*.example.org", "192.0.2.7", "::1"];
        assert_eq!(certificate.names(), names);
        assert!(certificate.expires() > SystemTime::now());
        let one_file = format!("{chain}{key}");
        let same = Certificate::from_pem(one_file.as_bytes(), one_file.as_bytes());
        assert_eq!(same.expect("right"), certificate);
    }

    #[test]
    fn what_does_not_belong_together_is_said() {
        let (chain, key) = pem(&["a"]);
        let (_, other) = pem(&["a"]);
        for (chain, key, says) in [
            (&*chain, &*other, "belongs to another certificate"),
            (&*key, &*key, "no certificate"),
            (&*chain, &*chain, "no private key"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                &*key,
                "cannot be read",
            ),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n", &*key, "not PEM"),
        ] {
            let error = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
        assert!(Trust::from_pem(key.as_bytes()).is_err());
        assert!(Revocations::from_pem(chain.as_bytes()).is_err());
    }

    #[test]
    fn a_clients_certificate_says_who_it_is() {
        let (chain, _) = pem(&["device-7.example.com"]);
        let chain = certificates(chain.as_bytes()).expect("a certificate");
        let identity = identity_of(&chain[0], true).expect("readable");
        assert_eq!(identity.common_name.as_deref(), Some("sensor"));
        assert_eq!(*identity.names[0], *"device-7.example.com");
    }

    #[test]
    fn a_certificate_expires_at_its_end() {
        let (chain, key) = pem(&["device-7.example.com"]);
        let end = Certificate::from_pem(chain.as_bytes(), key.as_bytes());
        let end = end.expect("right").expires();
        let chain = certificates(chain.as_bytes()).expect("a certificate");
        assert!(!has_expired(&chain[0], SystemTime::now()));
        assert!(!has_expired(&chain[0], end));
        assert!(has_expired(&chain[0], end + Duration::from_secs(1)));
        assert!(!has_expired(&CertificateDer::from(vec![0x30]), end));
    }
}
