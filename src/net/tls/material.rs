//! Certificates, keys and lists of revoked certificates, as files hold them (PEM).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer, GeneralName, X509Certificate, X509Version};

use super::{form, provider};
use crate::identity;

/// Names of a client's certificate that are kept.
const NAMES_KEPT_MAX: usize = 8;

/// The most bytes of the authorities' names that clients are told. More than fit into 64 KiB cannot be sent at all, and a small device
/// takes no message that does not fit into one record. A client that is told no names may show any certificate (RFC 5246,
/// section 7.4.4).
pub(super) const NAMES_BYTES_MAX: usize = 15 * 1024;

/// A certificate with its chain and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// What it is compared by: a key that changed is another certificate.
    secret: Arc<PrivateKeyDer<'static>>,
    names: Vec<String>,
    expires: SystemTime,
    out_of_order: Option<usize>,
}

/// What is read of a server's own certificate.
struct Own {
    names: Vec<String>,
    expires: SystemTime,
    is_version_one: bool,
    public_key: Vec<u8>,
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
        if let Some(why) = form::of_key(key) {
            return Err(format!("its private key cannot be read: it {why}"));
        }
        let secret = match PrivateKeyDer::from_pem_slice(key) {
            Ok(secret) => secret,
            Err(pem::Error::NoItemsFound) => return Err("there is no private key in it".to_owned()),
            Err(error) => return Err(format!("its private key cannot be read: {}", form::of_pem(&error))),
        };
        let signing = provider()
            .key_provider
            .load_private_key(secret.clone_key())
            .map_err(|error| match form::is_p521(&secret) {
                true => "its private key is on the curve P-521, for which Remora must be built with aws-lc-rs: use P-256".to_owned(),
                false => format!(
                    "its private key cannot be used: {error}; usable are RSA of 2048 bits and more, P-256, P-384 and Ed25519"
                ),
            })?;
        let read = match X509Certificate::from_der(&chain[0]) {
            Ok((_, certificate)) => Own {
                names: own_names(&certificate),
                expires: expiry(&certificate),
                is_version_one: certificate.version() == X509Version::V1,
                public_key: certificate.public_key().raw.to_vec(),
            },
            Err(error) => return Err(format!("its certificate cannot be read: {}", form::of_der(error))),
        };
        let key = CertifiedKey::new(chain, signing);
        let keys_match = match read.is_version_one {
            // rustls does not read it.
            true => match key.key.public_key().is_none_or(|public| *public == *read.public_key) {
                true => Ok(()),
                false => Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)),
            },
            false => key.keys_match(),
        };
        match keys_match {
            // A key that does not tell its public half is believed.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let is_anothers = key.cert[1..].iter().any(|other| {
                    let other = X509Certificate::from_der(other);
                    let public = key.key.public_key();
                    other.is_ok_and(|(_, other)| public.is_some_and(|public| *public == *other.public_key().raw))
                });
                return Err(match is_anothers {
                    true => "its private key belongs to a later certificate of the chain, which must be the first",
                    false => "its private key belongs to another certificate",
                }
                .to_owned());
            }
            Err(error) => return Err(format!("its certificate cannot be used: {error}")),
        }
        let Own { names, expires, .. } = read;
        let out_of_order = first_out_of_order(&key.cert);
        Ok(Self {
            key: Arc::new(key),
            secret: Arc::new(secret),
            names,
            expires,
            out_of_order,
        })
    }

    /// The first certificate of the chain, counted from 1, that has not issued the one before it. Many clients do not sort.
    pub fn out_of_order(&self) -> Option<usize> {
        self.out_of_order
    }

    /// The host names that it is for, wildcards included, in lower case.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When it expires.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// From when and until when each certificate of the chain is valid, with its number, from 1. Without self-signed ones behind the
    /// first, which nobody looks at.
    pub(crate) fn validity(&self) -> impl Iterator<Item = (usize, SystemTime, SystemTime)> {
        let read = |(number, certificate): (usize, &CertificateDer<'_>)| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            let is_root = certificate.issuer().as_raw() == certificate.subject().as_raw();
            let validity = certificate.validity();
            (number == 1 || !is_root).then(|| (number, time(validity.not_before), time(validity.not_after)))
        };
        (1..).zip(&self.key.cert).filter_map(read)
    }

    /// The chain and the key, as rustls takes them.
    pub(super) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
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

    /// How many bytes the names of all of them have, if they are more than clients are told.
    pub fn names_too_long(&self) -> Option<usize> {
        let names = self.0.iter().filter_map(|certificate| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            Some(2 + certificate.subject().as_raw().len())
        });
        let bytes = names.sum();
        (bytes > NAMES_BYTES_MAX).then_some(bytes)
    }

    /// The certificates, as rustls takes them.
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.0
    }
}

/// Lists of certificates that are trusted no more (RFC 5280, section 5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    lists: Vec<List>,
    is_current: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct List {
    der: CertificateRevocationListDer<'static>,
    /// The authority's name, as it is in the certificates that it issues.
    issuer: Vec<u8>,
    expires: SystemTime,
}

impl Revocations {
    /// Reads lists from PEM.
    ///
    /// # Errors
    /// What is missing or wrong.
    pub fn from_pem(lists: &[u8]) -> Result<Self, String> {
        if let Some(why) = form::of_lists(lists) {
            return Err(format!("it {why}"));
        }
        let lists = CertificateRevocationListDer::pem_slice_iter(lists);
        let lists: Vec<_> = lists
            .collect::<Result<_, _>>()
            .map_err(|error| format!("not PEM: {}", form::of_pem(&error)))?;
        if lists.is_empty() {
            return Err("there is no list of revoked certificates in it".to_owned());
        }
        let lists: Result<_, String> = lists.into_iter().map(List::read).collect();
        Ok(Self {
            lists: lists?,
            is_current: false,
        })
    }

    /// These lists; if `is_current`, one that has expired refuses all clients of its authority.
    #[must_use]
    pub fn that_must_be_current(self, is_current: bool) -> Self {
        Self { is_current, ..self }
    }

    /// When the first of them expires: its authority promised another one until then.
    pub fn expires(&self) -> Option<SystemTime> {
        self.lists.iter().map(|list| list.expires).min()
    }

    /// The lists, as rustls takes them.
    pub(super) fn lists(&self) -> Vec<CertificateRevocationListDer<'static>> {
        self.lists.iter().map(|list| list.der.clone()).collect()
    }

    /// Whether a list that has expired refuses clients.
    pub(crate) fn must_be_current(&self) -> bool {
        self.is_current
    }

    /// Whether this certificate is refused at `now` because its authority's list has expired.
    pub(super) fn are_too_old_for(&self, certificate: &CertificateDer<'_>, now: SystemTime) -> bool {
        if !self.is_current {
            return false;
        }
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return false;
        };
        let issuer = certificate.issuer().as_raw();
        let mut lists = self.lists.iter().filter(|list| list.issuer == issuer);
        lists.any(|list| list.expires < now)
    }
}

impl List {
    fn read(der: CertificateRevocationListDer<'static>) -> Result<Self, String> {
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| {
            format!(
                "a list of revoked certificates in it cannot be read: {}",
                form::of_der(error)
            )
        })?;
        if list.version() != Some(X509Version::V2) {
            return Err(
                "a list of revoked certificates in it is of version 1: set crlnumber in the configuration of `openssl ca`, \
                 and have it write the list anew"
                    .to_owned(),
            );
        }
        let expires = list
            .next_update()
            .ok_or("a list of revoked certificates in it does not say when it expires (nextUpdate)")?;
        let (issuer, expires) = (list.issuer().as_raw().to_vec(), time(expires));
        Ok(Self { der, issuer, expires })
    }
}

/// Reads a file of this kind, which is small.
///
/// # Errors
/// It cannot be read, or is much too large.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
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
pub(super) fn identity_of(certificate: &CertificateDer<'_>, on_this_connection: bool) -> Option<identity::Certificate> {
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

/// Whether a certificate may have issued others: an authority's (CA:TRUE), or a self-signed one of version 1, which cannot say so.
pub(super) fn may_issue(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return true;
    };
    match certificate.version() {
        X509Version::V1 => certificate.issuer().as_raw() == certificate.subject().as_raw(),
        _ => certificate.is_ca(),
    }
}

/// Whether a certificate has subject alternative names of hosts: where it has, the common name does not count.
pub(super) fn has_host_names(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return true;
    };
    match certificate.subject_alternative_name() {
        Ok(None) => false,
        Ok(Some(names)) => {
            let mut names = names.value.general_names.iter();
            names.any(|name| matches!(name, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
        }
        Err(_) => true,
    }
}

/// The first common name of a certificate.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(ToOwned::to_owned)
}

/// The first certificate, counted from 1, that has not issued the one before it, by its name.
fn first_out_of_order(chain: &[CertificateDer<'_>]) -> Option<usize> {
    let names = |certificate: &CertificateDer<'_>| {
        let (_, read) = X509Certificate::from_der(certificate).ok()?;
        Some((read.issuer().as_raw().to_vec(), read.subject().as_raw().to_vec()))
    };
    let in_order = |pair: &[CertificateDer<'_>]| match (names(&pair[0]), names(&pair[1])) {
        (Some((issuer, _)), Some((_, subject))) => issuer == subject,
        _ => true,
    };
    chain.windows(2).position(|pair| !in_order(pair)).map(|at| at + 2)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    if let Some(why) = form::of_certificates(pem) {
        return Err(format!("it {why}"));
    }
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("not PEM: {}", form::of_pem(&error)))?;
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

/// The host names that a server's certificate is for. Without any other name it is its common name, as with HAProxy.
fn own_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let names = names(certificate);
    if !names.is_empty() {
        return names;
    }
    let common_name = certificate.subject().iter_common_name().next();
    let common_name = common_name.and_then(|name| name.as_str().ok());
    common_name.map(str::to_ascii_lowercase).into_iter().collect()
}

fn expiry(certificate: &X509Certificate<'_>) -> SystemTime {
    time(certificate.validity().not_after)
}

fn time(time: ASN1Time) -> SystemTime {
    match u64::try_from(time.timestamp()) {
        Ok(seconds) => UNIX_EPOCH + Duration::from_secs(seconds),
        Err(_) => UNIX_EPOCH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use crate::net::tls::throwaway::Authority;

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
    fn pem_that_is_cut_off_or_on_one_line_is_explained_in_words_and_shows_no_key() {
        let (chain, key) = pem(&["a"]);
        let on_one_line = key.replace('\n', "");
        let secret = key.lines().nth(1).expect("base64");
        for (chain, key, says) in [
            (&*chain, &key[..80], "the line -----END PRIVATE KEY----- is missing"),
            (&*chain, &*on_one_line, "the line -----END PRIVATE KEY----- is missing"),
            (&*chain, &on_one_line[..60], "does not end with -----"),
            (
                &chain[..80],
                &*key,
                "not PEM: the line -----END CERTIFICATE----- is missing",
            ),
            (
                &*chain.replace('\n', ""),
                &*key,
                "not PEM: the line -----END CERTIFICATE----- is missing",
            ),
            (&*chain.replacen("MII", "M!!", 1), &*key, "not PEM: what is between"),
            (
                "-----BEGIN CERTIFICATE-----\nMAAwAA==\n-----END CERTIFICATE-----\n",
                &*key,
                "its certificate cannot be read: ",
            ),
        ] {
            let error = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).expect_err(says);
            assert!(error.contains(says), "{error}");
            let shows = ["45, 45", "Error", &secret[..10]]
                .into_iter()
                .find(|text| error.contains(text));
            assert_eq!(shows, None, "{error}");
        }
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
    fn files_in_other_forms_are_named_in_words() {
        let (chain, key) = pem(&["a"]);
        let der = certificates(chain.as_bytes()).expect("a certificate").remove(0);
        let with_mark = [b"\xef\xbb\xbf", chain.as_bytes()].concat();
        let utf_16: Vec<u8> = std::iter::once(0xfeff)
            .chain(chain.encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        let relabelled = |label: &str| [&chain, &*chain.replace(" CERTIFICATE", label)].concat();
        let (trusted, old) = (relabelled(" TRUSTED CERTIFICATE"), relabelled(" X509 CERTIFICATE"));
        for (chain, says) in [
            (&*der, "is DER, not PEM: convert it with openssl x509 -inform der"),
            (&with_mark, "begins with a byte order mark"),
            (&utf_16, "is UTF-16"),
            (trusted.as_bytes(), "TRUSTED CERTIFICATE"),
            (old.as_bytes(), "X509 CERTIFICATE"),
        ] {
            let error = Certificate::from_pem(chain, key.as_bytes()).expect_err(says);
            assert!(error.contains(says), "{error}");
            let error = Trust::from_pem(chain).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
        let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let headers = key.replace(
            "KEY-----\n",
            "KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n",
        );
        // SEQUENCE, and the object identifier of the curve in it.
        let p_521 = "-----BEGIN PRIVATE KEY-----\nMBcCAQAwEAYHKoZIzj0CAQYFK4EEACMEAA==\n-----END PRIVATE KEY-----\n";
        let with_mark = [b"\xef\xbb\xbf", key.as_bytes()].concat();
        for (key, says) in [
            (encrypted.as_bytes(), "is encrypted"),
            (headers.as_bytes(), "is encrypted"),
            (p_521.as_bytes(), "P-521"),
            (&with_mark, "begins with a byte order mark"),
            (b"\x30\x82\x01\x02", "openssl pkey -inform der"),
        ] {
            let error = Certificate::from_pem(chain.as_bytes(), key).expect_err(says);
            assert!(error.contains("private key") && error.contains(says), "{error}");
        }
        let error = Revocations::from_pem(b"\x30\x82\x01\x02").expect_err("DER");
        assert!(error.contains("openssl crl -inform der"), "{error}");
    }

    #[test]
    fn a_chain_in_a_wrong_order_is_noticed() {
        let authority = Authority::new().expect("an authority");
        let pair = authority.server(&["a"]).expect("a pair");
        let (other, _) = pem(&["other"]);
        for (chain, expected) in [
            (pair.chain.clone(), Ok(None)),
            ([&*pair.chain, &authority.pem()].concat(), Ok(None)),
            ([&*pair.chain, &authority.pem(), &authority.pem()].concat(), Ok(None)),
            ([&*pair.chain, &other, &authority.pem()].concat(), Ok(Some(2))),
            ([&*pair.chain, &authority.pem(), &other].concat(), Ok(Some(3))),
            ([&*authority.pem(), &pair.chain].concat(), Err("must be the first")),
        ] {
            match (Certificate::from_pem(chain.as_bytes(), pair.key.as_bytes()), expected) {
                (Ok(certificate), expected) => assert_eq!(Ok(certificate.out_of_order()), expected),
                (Err(error), expected) => assert!(error.contains(expected.expect_err("no fault")), "{error}"),
            }
        }
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
