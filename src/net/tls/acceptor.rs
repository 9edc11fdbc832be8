//! TLS termination on a listener: which certificate for which server name, client certificates, and the handshake.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::server::{
    Acceptor as HelloAcceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, CipherSuite, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::handshake_io::{HandshakeIo, LimitExceeded};
use super::hidden_name;
use super::material::{has_expired, identity_of};
use super::queue::HandshakeQueue;
use super::refused;
use super::trusted::Trusted;
use super::verifiers::ClientVerifier;
use super::words::{in_words, words};
use super::{Certificate, Revocations, Trust, library, provider, ticket_nonce};
use crate::identity::{self, Identity};
use crate::net::held::Reservation;
use crate::net::socket::Socket;

/// The header of a record, and the largest record with it.
const RECORD_HEADER_BYTES: usize = 5;
const RECORD_BYTES_MAX: usize = 16 * 1024 + RECORD_HEADER_BYTES;

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// 1.2.
    #[default]
    Tls12,
    /// 1.3.
    Tls13,
}

/// Whether clients have to present a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// No client is asked for one.
    #[default]
    Off,
    /// Every client is asked. One without a certificate is accepted, one with an invalid certificate is not.
    Optional(Trust, Option<Revocations>),
    /// Only clients with a valid certificate are accepted.
    Required(Trust, Option<Revocations>),
}

/// What a listener offers: what its configuration says, with its files read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// One for each server name; the first is the default. Never empty.
    pub certificates: Vec<Certificate>,
    /// The oldest version that is accepted.
    pub version_min: Version,
    /// Whether clients have to present a certificate.
    pub clients: Clients,
    /// The protocol that a client may offer in ALPN (RFC 7301): `mqtt`, or `http/1.1` for WebSocket.
    pub protocol: &'static str,
    /// The most bytes of content in a record that is sent; `None` means as many as TLS allows.
    pub record_max: Option<usize>,
}

/// Accepts TLS for one listener. Two are equal if they offer the same.
#[derive(Clone, Debug)]
pub struct Acceptor {
    offer: Offer,
    usual: Configs,
    /// For clients whose server name is hidden.
    nameless: Configs,
}

/// With and without an answer to ALPN: a client that offers only other protocols is served as well.
#[derive(Clone, Debug)]
struct Configs {
    named: Arc<ServerConfig>,
    unnamed: Arc<ServerConfig>,
}

impl Configs {
    fn map(&self, change: impl Fn(&mut ServerConfig)) -> Self {
        let changed = |config: &ServerConfig| {
            let mut config = config.clone();
            change(&mut config);
            Arc::new(config)
        };
        Self {
            named: changed(&self.named),
            unnamed: changed(&self.unnamed),
        }
    }
}

impl PartialEq for Acceptor {
    fn eq(&self, other: &Self) -> bool {
        self.offer == other.offer
    }
}

impl Eq for Acceptor {}

/// A client whose handshake is complete.
#[derive(Debug)]
pub struct Secured {
    /// Its socket; bytes that came with the end of the handshake are in it.
    pub client: Socket,
    /// What its TLS tells about it.
    pub identity: Identity,
    /// An earlier session was resumed.
    pub is_resumed: bool,
}

/// A handshake that failed.
#[derive(Debug)]
pub struct HandshakeError {
    /// What failed.
    pub failure: HandshakeFailure,
    /// The error behind it, for the log.
    pub error: io::Error,
    /// What the client did or has, in words, where there are any.
    pub why: Option<&'static str>,
    /// The subject of the client's certificate, if that was refused and can be read.
    pub subject: Option<String>,
    /// The client, which may not have received its alert yet; none when it has gone, or was evicted.
    pub client: Option<Socket>,
    /// A byte of the client had come.
    pub has_spoken: bool,
}

/// What failed in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeFailure {
    /// The client does not speak TLS.
    NotTls,
    /// The ClientHello is too large.
    HelloTooLarge,
    /// All held bytes are in use, and this client was evicted.
    HeldBytesFull,
    /// The two sides have no version, cipher suite or key exchange in common.
    Incompatible,
    /// The client's certificate is missing, expired, revoked or not trusted.
    CertificateRefused,
    /// The client does not trust the listener's certificate.
    CertificateDistrusted,
    /// The client violated the protocol, sent an alert, or sent too much.
    Protocol,
    /// The client closed the connection.
    Closed,
    /// The socket failed.
    Socket,
}

impl HandshakeError {
    fn new(failure: HandshakeFailure, error: io::Error, handshake_io: Option<HandshakeIo>) -> Self {
        // An evicted client gives its bytes back at once, and gets no alert.
        let handshake_io = handshake_io.filter(|_| failure != HandshakeFailure::HeldBytesFull);
        Self {
            failure,
            subject: match failure {
                HandshakeFailure::CertificateRefused => refused::take(),
                _ => None,
            },
            why: tls_error(&error).and_then(words),
            error: in_words(error),
            has_spoken: handshake_io.as_ref().is_none_or(HandshakeIo::has_spoken),
            client: handshake_io.map(HandshakeIo::into_client),
        }
    }
}

impl Acceptor {
    /// An acceptor of `offer`, with session tickets of its own.
    ///
    /// # Errors
    /// The authorities for client certificates cannot be used, or the system has no randomness.
    pub fn new(offer: Offer) -> Result<Self, String> {
        let tickets = library::Ticketer::new().map_err(|error| format!("no keys for session tickets: {error}"))?;
        let provider = Arc::new(ticket_nonce::provider((*provider()).clone()));
        let versions: &[_] = match offer.version_min {
            Version::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            Version::Tls13 => &[&rustls::version::TLS13],
        };
        let verifier = match &offer.clients {
            Clients::Off => None,
            Clients::Optional(trust, revoked) => Some(verifier(trust, revoked.as_ref(), false, &provider)?),
            Clients::Required(trust, revoked) => Some(verifier(trust, revoked.as_ref(), true, &provider)?),
        };
        let configs = |provider: Arc<CryptoProvider>, verifier: Option<ClientVerifier>| {
            let config = ServerConfig::builder_with_provider(provider)
                .with_protocol_versions(versions)
                .map_err(|error| error.to_string())?;
            let config = match verifier {
                None => config.with_no_client_auth(),
                Some(verifier) => config.with_client_cert_verifier(Arc::new(verifier)),
            };
            let mut config = config.with_cert_resolver(Arc::new(ByName::new(&offer.certificates)));
            config.ticketer = Arc::clone(&tickets);
            // Sessions are kept in tickets only: every worker can read them.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            // The usual two are for browsers that open several connections at once. `ticket_nonce` looks for one.
            config.send_tls13_tickets = 1;
            config.max_fragment_size = offer.record_max.map(|bytes| bytes + RECORD_HEADER_BYTES);
            let unnamed = Arc::new(config.clone());
            config.alpn_protocols = vec![offer.protocol.as_bytes().to_vec()];
            let named = Arc::new(config);
            Ok::<_, String>(Configs { named, unnamed })
        };
        let of_nameless = verifier.clone().map(|verifier| ClientVerifier {
            has_hidden_name: true,
            ..verifier
        });
        let nameless = configs(Arc::new(hidden_name::provider((*provider).clone())), of_nameless)?;
        let usual = configs(provider, verifier)?;
        Ok(Self { offer, usual, nameless })
    }

    /// This acceptor with the tickets of the one before it, so that clients can resume across a change of certificates. Where
    /// clients present certificates each acceptor has its own tickets: an old one would carry a client past the new trust.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        if self.offer.clients != Clients::Off || before.offer.clients != Clients::Off {
            return self;
        }
        let with_tickets = |config: &mut ServerConfig| config.ticketer = Arc::clone(&before.usual.unnamed.ticketer);
        Self {
            usual: self.usual.map(with_tickets),
            nameless: self.nameless.map(with_tickets),
            offer: self.offer,
        }
    }

    /// What it offers.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// When the first of its certificates expires.
    pub fn expires(&self) -> Option<SystemTime> {
        self.offer.certificates.iter().map(Certificate::expires).min()
    }

    /// When the first of its lists of revoked certificates expires; `None` if it has none.
    pub fn revocations_expire(&self) -> Option<SystemTime> {
        self.revocations().and_then(Revocations::expires)
    }

    fn revocations(&self) -> Option<&Revocations> {
        match &self.offer.clients {
            Clients::Off => None,
            Clients::Optional(_, revoked) | Clients::Required(_, revoked) => revoked.as_ref(),
        }
    }

    /// Completes the handshake of a client from `source`. What it takes is counted in `reservation`, and given back at its end.
    ///
    /// # Errors
    /// It failed; the client has been sent an alert.
    pub async fn accept(
        &self,
        client: Socket,
        source: IpAddr,
        queue: &HandshakeQueue,
        reservation: Reservation,
    ) -> Result<Secured, HandshakeError> {
        let handshake_io = HandshakeIo::new(client, reservation);
        let mut hello = LazyConfigAcceptor::new(HelloAcceptor::default(), handshake_io);
        let start = match (&mut hello).await {
            Ok(start) => start,
            Err(error) => {
                let failure = match tls_error(&error) {
                    // No TLS client begins with anything but a ClientHello.
                    Some(rustls::Error::InvalidMessage(_)) => HandshakeFailure::NotTls,
                    None if LimitExceeded::of(&error) == Some(LimitExceeded::HandshakeBytes) => {
                        HandshakeFailure::HelloTooLarge
                    }
                    _ => failure(&error),
                };
                let handshake_io = hello.take_io();
                return Err(HandshakeError::new(failure, error, handshake_io));
            }
        };
        let config = self.config_for(&start.client_hello(), &start.io);
        let record_max = config.max_fragment_size.map(|bytes| bytes - RECORD_HEADER_BYTES);
        let mut handshake = queue.enter(source);
        let turn = tokio::select! {
            biased;
            turn = handshake.first_turn() => turn,
            // Nothing is computed for a client that has gone meanwhile.
            error = start.io.gone() => return Err(HandshakeError::new(failure(&error), error, Some(start.io))),
        };
        let start = StartHandshake::from_parts(start.accepted, start.io.after_hello(record_max));
        let accept = turn.compute(|| start.into_stream(config).into_fallible());
        // A second ClientHello costs as much as the first, and so does a client's certificate.
        match handshake.run(accept).await {
            Ok(stream) => {
                handshake.complete();
                let (handshake_io, connection) = stream.into_inner();
                let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
                let identity = identity(&connection, is_resumed);
                let is_expired = is_resumed && self.is_verified_no_more(&connection);
                let shown = connection.peer_certificates().and_then(<[_]>::first);
                let subject = shown.filter(|_| is_expired).and_then(refused::subject);
                let client = handshake_io.secured(connection);
                if is_expired {
                    let why = "certificate of a resumed session, or list of revoked certificates, has expired";
                    return Err(HandshakeError {
                        failure: HandshakeFailure::CertificateRefused,
                        error: io::Error::other(why),
                        why: Some(why),
                        subject,
                        client: Some(client),
                        has_spoken: true,
                    });
                }
                Ok(Secured {
                    client,
                    identity,
                    is_resumed,
                })
            }
            Err((error, handshake_io)) => Err(HandshakeError::new(failure(&error), error, Some(handshake_io))),
        }
    }

    /// Whether the client's certificate, or the list of revoked certificates where it must be current, has expired. A session that
    /// is resumed was verified when it began, and each resumption brings a ticket for the next one: without this check, a client that
    /// returns often enough would be accepted for ever.
    fn is_verified_no_more(&self, connection: &ServerConnection) -> bool {
        let now = SystemTime::now();
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        certificate.is_some_and(|certificate| {
            let mut revocations = self.revocations().into_iter();
            has_expired(certificate, now) || revocations.any(|lists| lists.are_too_old_for(certificate, now))
        })
    }

    /// What a client with this ClientHello is offered.
    fn config_for(&self, hello: &ClientHello<'_>, io: &HandshakeIo) -> Arc<ServerConfig> {
        let configs = match io.has_hidden_name() {
            true => {
                tracing::debug!("server name that no host can have ignored");
                &self.nameless
            }
            false => &self.usual,
        };
        let config = match self.is_named_by(hello) {
            true => &configs.named,
            false => &configs.unnamed,
        };
        // With its header, as rustls counts.
        let record_max = io.record_max().map(|bytes| bytes + RECORD_HEADER_BYTES);
        match (record_max, config.max_fragment_size) {
            (Some(of_client), ours) if of_client < ours.unwrap_or(RECORD_BYTES_MAX) => {
                let mut config = (**config).clone();
                config.max_fragment_size = Some(of_client);
                Arc::new(config)
            }
            _ => Arc::clone(config),
        }
    }

    fn is_named_by(&self, hello: &ClientHello<'_>) -> bool {
        let protocol = self.offer.protocol.as_bytes();
        let mut named = hello.alpn().into_iter().flatten();
        named.any(|name| name == protocol)
    }
}

/// Verifies clients whose certificates are of `trust`.
fn verifier(
    trust: &Trust,
    revoked: Option<&Revocations>,
    is_mandatory: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<ClientVerifier, String> {
    let trusted = Trusted::new(trust.certificates(), revoked, provider)?;
    let authorities = trusted.authorities();
    let library = || {
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(authorities), Arc::clone(provider));
        if let Some(revoked) = revoked {
            verifier = verifier
                .with_crls(revoked.lists())
                // Authorities seldom publish a list about each other.
                .only_check_end_entity_revocation();
            if revoked.must_be_current() {
                verifier = verifier.enforce_revocation_expiration();
            }
        }
        verifier
            .build()
            .map_err(|error| format!("clients cannot be verified: {error}"))
    };
    let library = match authorities.is_empty() {
        true => None,
        false => Some(library()?),
    };
    Ok(ClientVerifier {
        names: trusted.names()?,
        trusted: Arc::new(trusted),
        library,
        is_mandatory,
        has_hidden_name: false,
    })
}

/// Certificates by the server name that a client asks for.
#[derive(Debug)]
struct ByName {
    keys: Vec<(Arc<CertifiedKey>, Vec<String>)>,
}

impl ByName {
    fn new(certificates: &[Certificate]) -> Self {
        let keys = certificates
            .iter()
            .map(|certificate| (Arc::clone(certificate.key()), certificate.names().to_vec()));
        Self { keys: keys.collect() }
    }

    /// The certificates, best first: those with the name, those with a wildcard for it, the others.
    fn fitting(&self, server_name: Option<&str>) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let wildcard = server_name
            .and_then(|name| name.split_once('.'))
            .map(|(_, parent)| format!("*.{parent}"));
        let fits = move |names: &[String]| {
            let has = |wanted: Option<&str>| wanted.is_some_and(|wanted| names.iter().any(|n| n == wanted));
            match (has(server_name), has(wildcard.as_deref())) {
                (true, _) => 0,
                (_, true) => 1,
                _ => 2,
            }
        };
        let mut keys: Vec<_> = self.keys.iter().map(|(key, names)| (fits(names), key)).collect();
        // Stable: the first stays the default.
        keys.sort_by_key(|(fit, _)| *fit);
        keys.into_iter().map(|(_, key)| key)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has checked the name, and made it lower case.
        let mut fitting = self.fitting(hello.server_name()).peekable();
        let first = fitting.peek().map(|key| Arc::clone(key));
        // A name may have a certificate of each kind of key.
        fitting
            .find(|key| key.key.choose_scheme(hello.signature_schemes()).is_some())
            .cloned()
            .or(first)
    }
}

fn identity(connection: &ServerConnection, is_resumed: bool) -> Identity {
    let certificate = connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .and_then(|first| identity_of(first, !is_resumed));
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let suite = connection.negotiated_cipher_suite();
    Identity {
        server_name: connection.server_name().map(Into::into),
        tls: Some(identity::Tls {
            version: version.into(),
            cipher: suite.and_then(|suite| cipher_name(suite.suite())).map(Into::into),
            certificate,
        }),
    }
}

/// A cipher suite as OpenSSL calls it, which is what nodes and operators know.
fn cipher_name(suite: CipherSuite) -> Option<&'static str> {
    Some(match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

/// The error of rustls, if it is one.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What failed when the handshake ended with `error`.
fn failure(error: &io::Error) -> HandshakeFailure {
    let Some(error) = tls_error(error) else {
        return match (LimitExceeded::of(error), error.kind()) {
            (Some(LimitExceeded::HeldBytes), _) => HandshakeFailure::HeldBytesFull,
            (Some(LimitExceeded::HandshakeBytes), _) => HandshakeFailure::Protocol,
            (None, io::ErrorKind::UnexpectedEof) => HandshakeFailure::Closed,
            (None, _) => HandshakeFailure::Socket,
        };
    };
    match error {
        rustls::Error::NoCertificatesPresented
        | rustls::Error::InvalidCertificate(_)
        | rustls::Error::InvalidCertRevocationList(_) => HandshakeFailure::CertificateRefused,
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity,
        ) => HandshakeFailure::Incompatible,
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            // An authority of the same name with another key.
            | AlertDescription::DecryptError,
        ) => HandshakeFailure::CertificateDistrusted,
        _ => HandshakeFailure::Protocol,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::task::Poll;
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};
    use tokio::time::Instant;

    use super::*;
    use crate::net::held::{HeldBytes, Limits};
    use crate::net::tls::throwaway::Authority;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn certificate(names: &[&str]) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names)
            .and_then(|params| params.self_signed(&key))
            .expect("a certificate");
        let key = key.serialize_pem();
        Certificate::from_pem(certificate.pem().as_bytes(), key.as_bytes()).expect("right")
    }

    fn offer(certificates: Vec<Certificate>) -> Offer {
        Offer {
            certificates,
            version_min: Version::Tls12,
            clients: Clients::Off,
            protocol: "mqtt",
            record_max: None,
        }
    }

    #[test]
    fn the_name_decides_then_the_wildcard_then_the_first() {
        let all = [
            certificate(&["default.example"]),
            certificate(&["*.example.com"]),
            certificate(&["a.example.com", "b.example.org"]),
        ];
        let by_name = ByName::new(&all);
        for (name, expected) in [
            (Some("a.example.com"), 2),
            (Some("b.example.org"), 2),
            (Some("c.example.com"), 1),
            (Some("x.c.example.com"), 0),
            (Some("example.com"), 0),
            (None, 0),
        ] {
            let first = by_name.fitting(name).next().expect("never empty");
            assert!(Arc::ptr_eq(first, all[expected].key()), "{name:?}");
        }
    }

    #[tokio::test]
    async fn what_came_behind_a_handshake_counts_as_kept_and_the_handshake_does_not() {
        const PART: usize = 12_000;
        let authority = Authority::new().expect("an authority");
        let pair = authority.server(&["localhost"]).expect("a name");
        let certificate = Certificate::from_pem(pair.chain.as_bytes(), pair.key.as_bytes());
        let acceptor = Acceptor::new(offer(vec![certificate.expect("right")])).expect("usable");
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM");
        roots.add(root).expect("an authority");
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("a version")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let (mut wire, far) = crate::net::socket::pair();
        let client = tokio::task::spawn_blocking(move || {
            client.write_tls(&mut wire).expect("a hello");
            while client.is_handshaking() {
                client.read_tls(&mut wire).expect("an answer");
                client.process_new_packets().expect("a right one");
            }
            let mut words = Vec::new();
            client.write_tls(&mut words).expect("the rest of it");
            let rest = words.len();
            client.writer().write_all(&[7; 16_384]).expect("room");
            client.write_tls(&mut words).expect("sealed");
            wire.write_all(&words[..rest + PART]).expect("sent at once");
            (wire, rest)
        });
        let (held, queue) = (HeldBytes::new(Limits::of_bytes(1 << 20)), HandshakeQueue::default());
        let accepted = acceptor
            .accept(far, SOURCE, &queue, held.reservation(Instant::now()))
            .await;
        let socket = accepted.expect("a handshake").client;
        assert_eq!(held.bytes(), 0);
        let (_wire, rest) = client.await.expect("a client");
        let all = std::future::poll_fn(|cx| match socket.poll_recv(cx, &mut [0; 64]) {
            Poll::Pending if socket.sealed() >= PART => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
            Poll::Ready(read) => panic!("{read:?} of what is not whole"),
        });
        let all = tokio::time::timeout(Duration::from_secs(5), all).await;
        all.unwrap_or_else(|_| panic!("{} are sealed, of {PART}", socket.sealed()));
        assert!(socket.sealed() <= rest + PART, "{} are", socket.sealed());
    }

    #[tokio::test]
    async fn a_client_that_leaves_before_its_turn_costs_none() {
        let acceptor = Acceptor::new(offer(vec![certificate(&["localhost"])])).expect("usable");
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let (mut wire, far) = crate::net::socket::pair();
        client.write_tls(&mut wire).expect("a hello");
        let (held, queue) = (HeldBytes::new(Limits::of_bytes(1 << 20)), HandshakeQueue::default());
        let mut other = queue.enter([192, 0, 2, 7].into());
        let turn = other.first_turn().await;
        let accept = acceptor.accept(far, SOURCE, &queue, held.reservation(Instant::now()));
        tokio::pin!(accept);
        let waits = tokio::time::timeout(Duration::from_millis(50), &mut accept).await;
        assert!(waits.is_err(), "it is not its turn");
        drop(wire);
        let gone = tokio::time::timeout(Duration::from_secs(5), &mut accept).await;
        let error = gone.expect("it does not wait for its turn").expect_err("it has gone");
        assert_eq!(error.failure, HandshakeFailure::Closed);
        turn.compute(|| ());
    }

    #[test]
    fn acceptors_that_offer_the_same_are_equal_and_tickets_outlive_certificates() {
        let one = certificate(&["a"]);
        let acceptor = |certificate: &Certificate| Acceptor::new(offer(vec![certificate.clone()])).expect("usable");
        assert_eq!(acceptor(&one), acceptor(&one));
        let (before, new) = (acceptor(&one), acceptor(&certificate(&["a"])));
        assert_ne!(before, new);
        let ticketer = |acceptor: &Acceptor| Arc::clone(&acceptor.usual.named.ticketer);
        assert!(!Arc::ptr_eq(&ticketer(&before), &ticketer(&new)));
        let new = new.after(&before);
        assert!(Arc::ptr_eq(&ticketer(&before), &ticketer(&new)));
    }
}
