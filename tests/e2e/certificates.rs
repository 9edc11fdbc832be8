//! Certificates of a throw-away authority, in files of a directory of their own, and what clients and nodes of the tests
//! make of them.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};
use remora::tls::throwaway::{Authority, Pair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as library;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring as library;

pub type Versions = &'static [&'static SupportedProtocolVersion];

pub const TLS12: Versions = &[&rustls::version::TLS12];
pub const TLS13: Versions = &[&rustls::version::TLS13];
pub const BOTH: Versions = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The name that most servers of the tests have.
pub const NAME: &str = "mqtt.example";

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(library::default_provider())
}

/// An authority, and a directory with what it has made.
#[derive(Debug)]
pub struct Certificates {
    pub authority: Authority,
    directory: TempDir,
}

/// What is not as it should be with a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Expired,
    /// It will expire in three seconds at most.
    ExpiresSoon,
    NotYetValid,
    /// It is a server's.
    Purpose,
}

impl Certificates {
    /// With `ca.pem`, and `mqtt.pem` for [`NAME`].
    pub fn new() -> Self {
        let all = Self {
            authority: Authority::new().expect("an authority"),
            directory: TempDir::new().expect("a directory"),
        };
        all.write("ca.pem", &all.authority.pem());
        all.server("mqtt.pem", &[NAME]);
        all
    }

    pub fn path(&self, file: &str) -> String {
        self.directory.path().join(file).display().to_string()
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).expect("a file");
    }

    /// Writes a server's certificate and its key into one file.
    pub fn server(&self, file: &str, names: &[&str]) -> Pair {
        let pair = self.authority.server(names).expect("names");
        self.write(file, &both(&pair));
        pair
    }

    pub fn client(&self, common_name: &str) -> Pair {
        self.authority.client(common_name).expect("a name")
    }

    /// A client's certificate with these names besides, this number, and perhaps a flaw.
    pub fn odd_client(
        &self,
        common_name: &str,
        names: &[&str],
        number: u64,
        flaw: Option<Flaw>,
    ) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.serial_number = Some(SerialNumber::from(number));
        params.extended_key_usages = vec![match flaw {
            Some(Flaw::Purpose) => ExtendedKeyUsagePurpose::ServerAuth,
            _ => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        let day = Duration::from_secs(86_400);
        let now = SystemTime::now();
        let (from, until) = match flaw {
            Some(Flaw::Expired) => (now - 3 * day, now - day),
            Some(Flaw::ExpiresSoon) => (now - day, now + Duration::from_secs(3)),
            Some(Flaw::NotYetValid) => (now + day, now + 3 * day),
            _ => (now - day, now + day),
        };
        params.not_before = from.into();
        params.not_after = until.into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params
            .signed_by(&key, self.authority.issuer())
            .expect("a certificate");
        Pair {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Writes a list on which the certificates with these numbers are.
    pub fn revoke(&self, file: &str, numbers: &[u64]) {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3_600);
        let revoked = numbers.iter().map(|number| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: (now - hour).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: (now - hour).into(),
            next_update: (now + hour).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(self.authority.issuer()).expect("a list");
        self.write(file, &list.pem().expect("text"));
    }

    /// The keys of a listener whose TLS ends here, with `mqtt.pem`.
    pub fn listener(&self) -> String {
        self.listener_with(&["mqtt.pem"])
    }

    /// The same with these files.
    pub fn listener_with(&self, files: &[&str]) -> String {
        let tables = files
            .iter()
            .map(|file| format!("{{ chain = \"{}\" }}", self.path(file)));
        let tables = tables.collect::<Vec<_>>().join(", ");
        format!("tls = \"end\"\ncertificates = [{tables}]")
    }

    /// The keys of a listener that asks clients for certificates of this authority.
    pub fn asking_listener(&self, whom: &str) -> String {
        let (listener, ca) = (self.listener(), self.path("ca.pem"));
        format!("{listener}\nclient_certificates = \"{whom}\"\nclient_ca = \"{ca}\"")
    }

    /// A client that trusts this authority, and shows this.
    pub fn trusting(&self, versions: Versions, shown: Option<&Pair>) -> ClientConfig {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots(&self.authority.pem()));
        match shown {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let (chain, key) = parts(pair);
                config.with_client_auth_cert(chain, key).expect("a key")
            }
        }
    }

    /// A client that shows this, and so many bytes behind it that are no certificate.
    pub fn showing_much(&self, versions: Versions, shown: &Pair, bytes: usize) -> ClientConfig {
        let (mut chain, key) = parts(shown);
        chain.push(vec![0; bytes].into());
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots(&self.authority.pem()))
            .with_client_auth_cert(chain, key)
            .expect("a key")
    }

    /// A node with TLS whose certificate is `pair`; clients must show one of this authority's where `asks`.
    pub fn node(&self, pair: &Pair, asks: bool) -> ServerConfig {
        let (chain, key) = parts(pair);
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(BOTH)
            .expect("versions");
        let config = if asks {
            let verifier = WebPkiClientVerifier::builder_with_provider(
                Arc::new(roots(&self.authority.pem())),
                provider(),
            );
            config.with_client_cert_verifier(verifier.build().expect("an authority"))
        } else {
            config.with_no_client_auth()
        };
        config.with_single_cert(chain, key).expect("a key")
    }
}

/// A client that trusts this certificate as an authority.
pub fn trusting(pair: &Pair, versions: Versions) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots(&pair.chain))
        .with_no_client_auth()
}

/// Certificate and key as one file.
pub fn both(pair: &Pair) -> String {
    format!("{}{}", pair.chain, pair.key)
}

/// The certificate as it goes over the wire.
pub fn der(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.chain.as_bytes()).expect("a certificate")
}

fn parts(pair: &Pair) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    (vec![der(pair)], key)
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    roots.add(certificate).expect("an authority");
    roots
}
