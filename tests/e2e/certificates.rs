//! Certificates of a throw-away authority, in files of a directory of their own, and what clients and nodes of the tests
//! make of them.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose as Usage,
    ExtendedKeyUsagePurpose, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, SigningKey,
};
use remora::net::tls::throwaway::{Authority, Pair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as library;
#[cfg(not(feature = "aws-lc-rs"))]
use rustls::crypto::ring as library;

pub(crate) type Versions = &'static [&'static SupportedProtocolVersion];

pub(crate) const TLS12: Versions = &[&rustls::version::TLS12];
pub(crate) const TLS13: Versions = &[&rustls::version::TLS13];
pub(crate) const BOTH: Versions = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The name that most servers of the tests have.
pub(crate) const NAME: &str = "mqtt.example";

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(library::default_provider())
}

/// An authority, and a directory with what it has made.
#[derive(Debug)]
pub(crate) struct Certificates {
    pub authority: Authority,
    directory: TempDir,
}

/// What is not as it should be with a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    Expired,
    /// It will expire in three seconds at most.
    ExpiresSoon,
    NotYetValid,
    /// It is a server's.
    Purpose,
}

impl Certificates {
    /// With `ca.pem`, and `mqtt.pem` for [`NAME`].
    pub(crate) fn new() -> Self {
        let all = Self {
            authority: Authority::new().expect("an authority"),
            directory: TempDir::new().expect("a directory"),
        };
        all.write("ca.pem", &all.authority.pem());
        all.server("mqtt.pem", &[NAME]);
        all
    }

    pub(crate) fn path(&self, file: &str) -> String {
        self.directory.path().join(file).display().to_string()
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).expect("a file");
    }

    /// Writes a server's certificate and its key into one file.
    pub(crate) fn server(&self, file: &str, names: &[&str]) -> Pair {
        let pair = self.authority.server(names).expect("names");
        self.write(file, &both(&pair));
        pair
    }

    pub(crate) fn client(&self, common_name: &str) -> Pair {
        self.authority.client(common_name).expect("a name")
    }

    /// A client's certificate with these names besides, this number, and perhaps a flaw.
    pub(crate) fn odd_client(&self, common_name: &str, names: &[&str], number: u64, flaw: Option<Flaw>) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
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
        let certificate = params.signed_by(&key, self.authority.issuer()).expect("a certificate");
        Pair {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A node's certificate that is valid from and until so many seconds from now.
    pub(crate) fn node_valid(&self, name: &str, from: i64, until: i64) -> Pair {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let at = |seconds: i64| {
            let time = Duration::from_secs(seconds.unsigned_abs());
            let now = SystemTime::now();
            if seconds < 0 { now - time } else { now + time }
        };
        params.not_before = at(from).into();
        params.not_after = at(until).into();
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, self.authority.issuer()).expect("a certificate");
        Pair {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// A certificate of X.509 version 1 with this common name, as `openssl x509 -req` makes it without extensions.
    pub(crate) fn version_one(&self, common_name: &str) -> Pair {
        self.as_version_one(self.client(common_name))
    }

    /// This certificate of the authority in version 1.
    pub(crate) fn as_version_one(&self, pair: Pair) -> Pair {
        let whole = der(&pair);
        let (signed, rest) = element(element(&whole).0);
        let (algorithm, _) = element_with_header(rest);
        // Without the version before it and the extensions behind it.
        let (_, mut rest) = element(signed);
        let fields = rest;
        for _ in 0..6 {
            (_, rest) = element(rest);
        }
        let signed = of(0x30, &[&fields[..fields.len() - rest.len()]]);
        let signature = self.authority.issuer().key().sign(&signed).expect("a signature");
        let signature = of(3, &[&[0], &signature]);
        Pair {
            chain: pem("CERTIFICATE", &of(0x30, &[&signed, algorithm, &signature])),
            key: pair.key,
        }
    }

    /// A certificate of nobody but itself, as `openssl req -x509` makes it: an authority's, if so said.
    pub(crate) fn self_signed(common_name: &str, names: &[&str], is_authority: bool, usage: Option<Usage>) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        if is_authority {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        params.extended_key_usages.extend(usage);
        let key = KeyPair::generate().expect("a key");
        Pair {
            chain: params.self_signed(&key).expect("a certificate").pem(),
            key: key.serialize_pem(),
        }
    }

    /// Writes a list on which the certificates with these numbers are.
    pub(crate) fn revoke(&self, file: &str, numbers: &[u64]) {
        self.revoke_until(file, numbers, SystemTime::now() + Duration::from_secs(3_600));
    }

    /// The same with a list that expires then.
    pub(crate) fn revoke_until(&self, file: &str, numbers: &[u64], next_update: SystemTime) {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3_600);
        let revoked = numbers.iter().map(|number| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: (now - hour).into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: (now - 2 * hour).into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(self.authority.issuer()).expect("a list");
        self.write(file, &list.pem().expect("text"));
    }

    /// The keys of a listener whose TLS ends here, with `mqtt.pem`.
    pub(crate) fn listener(&self) -> String {
        self.listener_with(&["mqtt.pem"])
    }

    /// The same with these files.
    pub(crate) fn listener_with(&self, files: &[&str]) -> String {
        let tables = files
            .iter()
            .map(|file| format!("{{ chain = \"{}\" }}", self.path(file)));
        let tables = tables.collect::<Vec<_>>().join(", ");
        format!("tls = \"end\"\ncertificates = [{tables}]")
    }

    /// The keys of a listener that asks clients for certificates of this authority.
    pub(crate) fn asking_listener(&self, whom: &str) -> String {
        let (listener, ca) = (self.listener(), self.path("ca.pem"));
        format!("{listener}\nclient_certificates = \"{whom}\"\nclient_ca = \"{ca}\"")
    }

    /// A client that trusts this authority, and shows this.
    pub(crate) fn trusting(&self, versions: Versions, shown: Option<&Pair>) -> ClientConfig {
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots(&self.authority.pem()));
        match shown {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let (chain, key) = parts(pair);
                let key = provider().key_provider.load_private_key(key).expect("a key");
                // Not read: the library would refuse its version.
                let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
                config.with_client_cert_resolver(Arc::new(shown))
            }
        }
    }

    /// A client that shows this, and so many bytes behind it that are no certificate.
    pub(crate) fn showing_much(&self, versions: Versions, shown: &Pair, bytes: usize) -> ClientConfig {
        self.showing_behind(versions, shown, &[vec![0; bytes].into()])
    }

    /// A client that shows this, and others behind it.
    pub(crate) fn showing_behind(
        &self,
        versions: Versions,
        shown: &Pair,
        others: &[CertificateDer<'static>],
    ) -> ClientConfig {
        let (mut chain, key) = parts(shown);
        chain.extend_from_slice(others);
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots(&self.authority.pem()))
            .with_client_auth_cert(chain, key)
            .expect("a key")
    }

    /// A node with TLS whose certificate is `pair`; clients must show one of this authority's where `asks`.
    pub(crate) fn node(&self, pair: &Pair, asks: bool) -> ServerConfig {
        self.node_behind(pair, &[], asks)
    }

    /// The same with others behind its certificate.
    pub(crate) fn node_behind(&self, pair: &Pair, others: &[CertificateDer<'static>], asks: bool) -> ServerConfig {
        let (mut chain, key) = parts(pair);
        chain.extend_from_slice(others);
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(BOTH)
            .expect("versions");
        let config = if asks {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(&self.authority.pem())), provider());
            config.with_client_cert_verifier(verifier.build().expect("an authority"))
        } else {
            config.with_no_client_auth()
        };
        let key = provider().key_provider.load_private_key(key).expect("a key");
        // Not read: the library would refuse its version.
        config.with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key))))
    }
}

/// A client that trusts this certificate as an authority.
pub(crate) fn trusting(pair: &Pair, versions: Versions) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots(&pair.chain))
        .with_no_client_auth()
}

/// The content of the DER element that this begins with, and what is behind it.
fn element(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (whole, rest) = element_with_header(bytes);
    let header = match whole[1] {
        0..=0x7f => 2,
        long => 2 + usize::from(long & 0x7f),
    };
    (&whole[header..], rest)
}

fn element_with_header(bytes: &[u8]) -> (&[u8], &[u8]) {
    let length = match bytes[1] {
        short @ 0..=0x7f => 2 + usize::from(short),
        0x81 => 3 + usize::from(bytes[2]),
        _ => 4 + usize::from(u16::from_be_bytes([bytes[2], bytes[3]])),
    };
    bytes.split_at(length)
}

fn of(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut all = vec![tag];
    match length {
        0..=127 => all.push(length as u8),
        128..=255 => all.extend([0x81, length as u8]),
        _ => all.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    [all, content].concat()
}

/// Bytes as PEM, with this label.
pub(crate) fn pem(label: &str, bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text: String = String::new();
    for group in bytes.chunks(3) {
        let number = group.iter().fold(0_u32, |all, byte| all << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * place) & 63) as usize];
            text.push(if place > group.len() { '=' } else { letter as char });
        }
    }
    let lines: Vec<&str> = (0..text.len())
        .step_by(64)
        .map(|at| &text[at..text.len().min(at + 64)])
        .collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Certificate and key as one file.
pub(crate) fn both(pair: &Pair) -> String {
    format!("{}{}", pair.chain, pair.key)
}

/// The certificate as it goes over the wire.
pub(crate) fn der(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.chain.as_bytes()).expect("a certificate")
}

/// Chains that no peer may show behind the certificate of `pair`, each with what the log says of it: too many certificates,
/// too many bytes, and one subject twice.
pub(crate) fn chains_out_of_bounds(pair: &Pair) -> [(Vec<CertificateDer<'static>>, &'static str); 3] {
    let junk = |bytes: usize| CertificateDer::from(vec![0; bytes]);
    [
        (vec![junk(16); 6], "6 intermediate certificates"),
        (vec![junk(8_000), junk(8_400)], "a certificate chain of"),
        (vec![junk(16), der(pair)], "the same subject"),
    ]
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
