//! TLS towards the target: what clients offer, which authorities they trust, which sessions they resume. The records on
//! the wire are left to `session`.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clap::ValueEnum;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as library;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use rustls::crypto::ring as library;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, NamedGroup, RootCertStore, SignatureScheme, version};

/// Most sessions that are remembered: one for each client of a large run.
const SESSIONS_MAX: usize = 100_000;

/// The TLS options of the command line.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "TLS")]
pub(super) struct Options {
    /// Connect with TLS, as with mqtts:// or wss:// in the target.
    #[arg(long)]
    pub(super) tls: bool,

    /// Certificates of the authorities to trust, as PEM.
    #[arg(long, value_name = "FILE", visible_aliases = ["cacertfile", "ca"], conflicts_with = "insecure")]
    cafile: Option<PathBuf>,

    /// Trust every certificate, whatever its issuer and name.
    #[arg(long)]
    insecure: bool,

    /// The certificate that each client presents, with its chain, as PEM.
    #[arg(long, value_name = "FILE", visible_alias = "certfile")]
    cert: Option<PathBuf>,

    /// The key of that certificate, as PEM [default: in the file of --cert].
    #[arg(long, value_name = "FILE", visible_alias = "keyfile", requires = "cert")]
    key: Option<PathBuf>,

    /// The name to ask for (SNI), and that the target's certificate must be valid for [default: the target's host].
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,

    /// The only version to offer [default: both].
    #[arg(long, value_enum)]
    tls_version: Option<Version>,

    /// Cipher suites to offer, by their names in RFC 8446 and 5289, the best first [default: all supported].
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    ciphers: Vec<String>,

    /// Groups for the key exchange to offer, such as X25519 or secp256r1, the best first [default: all supported].
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    keyex_groups: Vec<String>,

    /// Resume the session of an earlier connection, where there is one, instead of a full handshake.
    #[arg(long)]
    resume: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Version {
    #[value(name = "1.2", alias = "tlsv1.2")]
    Tls12,
    #[value(name = "1.3", alias = "tlsv1.3")]
    Tls13,
}

/// The TLS settings that all clients of a run share.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

impl Options {
    /// Options that trust every certificate.
    #[cfg(test)]
    pub(super) fn trusting() -> Self {
        Self {
            insecure: true,
            ..Self::default()
        }
    }

    /// The first option about TLS that was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.tls, "--tls"),
            (self.cafile.is_some(), "--cafile"),
            (self.insecure, "--insecure"),
            (self.cert.is_some(), "--cert"),
            (self.server_name.is_some(), "--server-name"),
            (self.tls_version.is_some(), "--tls-version"),
            (!self.ciphers.is_empty(), "--ciphers"),
            (!self.keyex_groups.is_empty(), "--keyex-groups"),
            (self.resume, "--resume"),
        ];
        let found = given.into_iter().find(|(given, _)| *given);
        found.map(|(_, option)| option)
    }

    /// The settings for a target at this `HOST:PORT`.
    pub(super) fn read(&self, host: &str) -> Result<Tls, String> {
        let name = self.server_name.as_deref().unwrap_or(name_of(host));
        let server_name = ServerName::try_from(name.to_owned())
            .map_err(|_| format!("--server-name {name:?}: neither a host name nor an address"))?;
        let provider = Arc::new(self.provider()?);
        let versions: &[_] = match self.tls_version {
            None => &[&version::TLS13, &version::TLS12],
            Some(Version::Tls12) => &[&version::TLS12],
            Some(Version::Tls13) => &[&version::TLS13],
        };
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|_| "--ciphers: none of them belongs to that --tls-version".to_owned())?;
        let config = match &self.cafile {
            Some(path) => config.with_root_certificates(roots(path)?),
            None if self.insecure => config
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(TrustAll(provider))),
            None => {
                return Err(
                    "TLS needs --cafile FILE, the authorities to trust, or --insecure to trust every certificate"
                        .into(),
                );
            }
        };
        let mut config = match &self.cert {
            None => config.with_no_client_auth(),
            Some(path) => {
                let key_path = self.key.as_ref().unwrap_or(path);
                let key = PrivateKeyDer::from_pem_file(key_path)
                    .map_err(|error| unreadable("--key", key_path, in_words(&error)))?;
                config
                    .with_client_auth_cert(certificates("--cert", path)?, key)
                    .map_err(|error| unreadable("--cert", path, error))?
            }
        };
        config.resumption = match self.resume {
            true => Resumption::store(Arc::new(Sessions::default())),
            false => Resumption::disabled(),
        };
        Ok(Tls {
            config: Arc::new(config),
            server_name,
        })
    }

    fn provider(&self) -> Result<CryptoProvider, String> {
        let all = library::default_provider();
        Ok(CryptoProvider {
            cipher_suites: chosen("--ciphers", &self.ciphers, &all.cipher_suites, |suite| {
                // The name in the RFC, without the version.
                format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
            })?,
            kx_groups: chosen("--keyex-groups", &self.keyex_groups, &all.kx_groups, |group| {
                format!("{:?}", group.name())
            })?,
            ..all
        })
    }
}

/// The entries of `known` with these names, in the order of the names; all of them without names.
fn chosen<T: Copy>(
    option: &str,
    names: &[String],
    known: &[T],
    name_of: impl Fn(&T) -> String,
) -> Result<Vec<T>, String> {
    if names.is_empty() {
        return Ok(known.to_vec());
    }
    let one = |name: &String| {
        let found = known.iter().find(|one| name_of(one) == *name);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = known.iter().map(&name_of).collect();
            format!("{option} {name}: not one of {}", names.join(", "))
        })
    };
    names.iter().map(one).collect()
}

/// The host in `HOST:PORT`, `[ADDRESS]:PORT` or either without a port.
fn name_of(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        _ if host.parse::<IpAddr>().is_ok() => host,
        Some((name, _)) if host.parse::<SocketAddr>().is_ok() || !name.contains(':') => name,
        _ => host,
    };
    name.trim_start_matches('[').trim_end_matches(']')
}

fn unreadable(option: &str, path: &Path, error: impl fmt::Display) -> String {
    format!("{option} {}: {error}", path.display())
}

/// An error in PEM. The library prints lines as numbers, and a line may hold a private key.
fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "an -----END line is missing".to_owned(),
        pem::Error::IllegalSectionStart { .. } => {
            "a line that starts with -----BEGIN does not end with -----, or has more behind it".to_owned()
        }
        pem::Error::Base64Decode(_) => "what is between -----BEGIN and -----END is not base64".to_owned(),
        other => other.to_string(),
    }
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|error| unreadable(option, path, in_words(&error)))?;
    if certificates.is_empty() {
        return Err(unreadable(option, path, "no certificate in it"));
    }
    Ok(certificates)
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // The bundle of a system may contain certificates that rustls cannot use.
    let (used, _) = roots.add_parsable_certificates(certificates("--cafile", path)?);
    if used == 0 {
        return Err(unreadable("--cafile", path, "no usable certificate in it"));
    }
    Ok(roots)
}

/// Sessions of earlier connections, each for the client that connects next: all clients of a run have the same target.
#[derive(Debug, Default)]
struct Sessions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    group: Option<NamedGroup>,
    /// Of TLS 1.2, for any number of connections.
    session: Option<Tls12ClientSessionValue>,
    /// Of TLS 1.3, each for one connection.
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, _server_name: ServerName<'static>, group: NamedGroup) {
        self.known().group = Some(group);
    }

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.known().group
    }

    fn set_tls12_session(&self, _server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.known().session = Some(value);
    }

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.known().session.clone()
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {
        self.known().session = None;
    }

    fn insert_tls13_ticket(&self, _server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let tickets = &mut self.known().tickets;
        if tickets.len() == SESSIONS_MAX {
            tickets.pop_front();
        }
        tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.known().tickets.pop_back()
    }
}

/// Trusts every certificate whose key the peer holds.
#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_what_a_certificate_is_for() {
        for (host, name) in [
            ("broker.example:8883", "broker.example"),
            ("broker.example", "broker.example"),
            ("192.0.2.7:8883", "192.0.2.7"),
            ("[2001:db8::1]:8883", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::1", "::1"),
        ] {
            assert_eq!(name_of(host), name, "{host}");
        }
    }

    #[test]
    fn suites_and_groups_are_offered_as_named() {
        let words = |text: &str| text.split(',').map(str::to_owned).collect();
        let options = |ciphers: &str, groups: &str| Options {
            ciphers: words(ciphers),
            keyex_groups: words(groups),
            ..Options::default()
        };
        let few = options(
            "TLS_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "secp256r1,X25519",
        );
        let provider = few.provider().unwrap();
        assert_eq!(provider.cipher_suites.len(), 2);
        let groups = provider.kx_groups.iter().map(|group| group.name());
        let groups: Vec<_> = groups.collect();
        assert_eq!(groups, [NamedGroup::secp256r1, NamedGroup::X25519]);

        let unknown = options("TLS_AES_128_GCM_SHA256", "X448").provider();
        let says = unknown.unwrap_err();
        assert!(says.starts_with("--keyex-groups X448: not one of"), "{says}");
        assert!(says.contains("secp384r1"), "{says}");
    }

    #[test]
    fn trust_is_never_implied() {
        let says = Options::default().read("127.0.0.1:8883").unwrap_err();
        assert!(says.contains("--cafile FILE"), "{says}");
        let trusting = Options::trusting();
        trusting.read("127.0.0.1:8883").unwrap();
        let odd = Options {
            server_name: Some("a b".into()),
            ..trusting
        };
        let says = odd.read("127.0.0.1:8883").unwrap_err();
        assert!(says.starts_with("--server-name \"a b\""), "{says}");
    }
}
