//! The door of a listener whose TLS ends here: which certificate for whom, who has to show one, and the handshake.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;

use rustls::server::{
    Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CipherSuite, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::material::{has_expired, identity_of};
use super::newcomer::{Newcomer, Unheard};
use super::{Certificate, Revocations, Trust, library, provider};
use crate::ended::Ended;
use crate::held::Held;
use crate::identity::{self, Identity};
use crate::socket::Socket;

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// 1.2.
    #[default]
    Tls12,
    /// 1.3.
    Tls13,
}

/// Which clients have to show a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Clients {
    /// None is asked.
    #[default]
    Off,
    /// All are asked; one that shows none may come in, one that shows a wrong one may not.
    Optional(Trust, Option<Revocations>),
    /// Only those with a certificate come in.
    Required(Trust, Option<Revocations>),
}

/// What a listener offers: what its configuration says, with its files read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// For whom; the first is for every server name that no other is for. Never empty.
    pub certificates: Vec<Certificate>,
    /// The oldest version that is spoken.
    pub version_min: Version,
    /// Who has to show a certificate.
    pub clients: Clients,
    /// The protocol that a client may name in ALPN (RFC 7301): `mqtt`, or `http/1.1` for WebSocket.
    pub protocol: &'static str,
}

/// The door of one listener. Two are equal that offer the same.
#[derive(Clone, Debug)]
pub struct Door {
    offer: Offer,
    /// With and without an answer to ALPN: a client that names only other protocols is served all the same.
    named: Arc<ServerConfig>,
    unnamed: Arc<ServerConfig>,
}

impl PartialEq for Door {
    fn eq(&self, other: &Self) -> bool {
        self.offer == other.offer
    }
}

impl Eq for Door {}

/// One handshake's computing after the other, with all that is ready in between, so that a storm of handshakes does not hold
/// up the relays of its worker.
#[derive(Debug)]
pub struct Turnstile(Semaphore);

impl Turnstile {
    /// Waits until it is this one's turn to compute, and all that is ready has had its own.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turn = self.0.acquire().await;
        tokio::task::yield_now().await;
        // Always there: the semaphore is never closed.
        turn.ok()
    }

    /// Sees a handshake through, each step of it in a turn.
    async fn see_through<F: Future + Unpin>(&self, mut handshake: F) -> F::Output {
        loop {
            let turn = self.turn().await;
            // Nothing else is awaited before the wait for its waker, so that no wake-up is lost.
            let step = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut handshake).poll(cx)));
            let polled = step.await;
            drop(turn);
            if let Poll::Ready(done) = polled {
                return done;
            }
            woken().await;
        }
    }
}

/// Waits until this task is woken.
async fn woken() {
    let mut asleep = false;
    std::future::poll_fn(|_| {
        if asleep {
            return Poll::Ready(());
        }
        asleep = true;
        Poll::Pending
    })
    .await;
}

impl Default for Turnstile {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

/// A handshake that failed.
#[derive(Debug)]
pub struct Refused {
    /// How the connection ends.
    pub ended: Ended,
    /// Why, for the log.
    pub why: io::Error,
    /// The client, which may not have heard yet; none when it is gone, or has to go at once.
    pub client: Option<Socket>,
    /// A byte of the client had come.
    pub has_spoken: bool,
}

impl Refused {
    fn of(ended: Ended, why: io::Error, newcomer: Option<Newcomer<'_>>) -> Self {
        // Whoever goes for want of room gets no more of it, and there is nothing that it has to hear.
        let newcomer = newcomer.filter(|_| ended != Ended::HeldBytesFull);
        Self {
            ended,
            why,
            has_spoken: newcomer.as_ref().is_none_or(Newcomer::has_spoken),
            client: newcomer.map(Newcomer::into_client),
        }
    }
}

impl Door {
    /// A door that offers this, with tickets of its own.
    ///
    /// # Errors
    /// The trust in clients cannot be used, or the system has no randomness.
    pub fn new(offer: Offer) -> Result<Self, String> {
        let tickets = library::Ticketer::new()
            .map_err(|error| format!("no keys for session tickets: {error}"))?;
        let provider = provider();
        let versions: &[_] = match offer.version_min {
            Version::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
            Version::Tls13 => &[&rustls::version::TLS13],
        };
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let verifier = |trust: &Trust, revoked: &Option<Revocations>| {
            let roots = trust.roots()?;
            let mut verifier =
                WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
            if let Some(revoked) = revoked {
                verifier = verifier
                    .with_crls(revoked.lists())
                    // Authorities seldom publish a list of each other.
                    .only_check_end_entity_revocation();
            }
            Ok::<_, String>(verifier)
        };
        let unusable = |error| format!("clients cannot be verified: {error}");
        let config = match &offer.clients {
            Clients::Off => config.with_no_client_auth(),
            Clients::Optional(trust, revoked) => config.with_client_cert_verifier(
                verifier(trust, revoked)?
                    .allow_unauthenticated()
                    .build()
                    .map_err(unusable)?,
            ),
            Clients::Required(trust, revoked) => config
                .with_client_cert_verifier(verifier(trust, revoked)?.build().map_err(unusable)?),
        };
        let mut config = config.with_cert_resolver(Arc::new(ByName::new(&offer.certificates)));
        config.ticketer = tickets;
        // Tickets are all the memory of a session that there is: every worker can read them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // The usual two are for browsers that open several connections at once.
        config.send_tls13_tickets = 1;
        let unnamed = Arc::new(config.clone());
        config.alpn_protocols = vec![offer.protocol.as_bytes().to_vec()];
        Ok(Self {
            offer,
            named: Arc::new(config),
            unnamed,
        })
    }

    /// This door with the tickets of the one before it, so that clients can resume across a change of certificates. Where
    /// clients show certificates each door has its own: a ticket would carry one past the new trust.
    #[must_use]
    pub fn after(self, before: &Self) -> Self {
        if self.offer.clients != Clients::Off || before.offer.clients != Clients::Off {
            return self;
        }
        let with_tickets = |config: &ServerConfig| {
            let mut config = config.clone();
            config.ticketer = Arc::clone(&before.unnamed.ticketer);
            Arc::new(config)
        };
        Self {
            named: with_tickets(&self.named),
            unnamed: with_tickets(&self.unnamed),
            offer: self.offer,
        }
    }

    /// What it offers.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// When the first of its certificates expires.
    pub fn expires(&self) -> Option<SystemTime> {
        self.offer
            .certificates
            .iter()
            .map(Certificate::expires)
            .min()
    }

    /// The client's handshake, on the account of `held`. What came behind it is in the socket.
    ///
    /// # Errors
    /// It failed; the client has been sent an alert.
    pub async fn open(
        &self,
        client: Socket,
        turnstile: &Turnstile,
        held: &Arc<Held>,
    ) -> Result<(Socket, Identity, HandshakeKind), Refused> {
        let newcomer = Newcomer::new(client, held);
        let mut hello = LazyConfigAcceptor::new(Acceptor::default(), newcomer);
        let start = match (&mut hello).await {
            Ok(start) => start,
            Err(why) => {
                let ended = match tls_error(&why) {
                    // Nobody who speaks TLS begins with something else.
                    Some(rustls::Error::InvalidMessage(_)) => Ended::NotTls,
                    None if Unheard::of(&why) == Some(Unheard::TooMuch) => Ended::ConnectTooLarge,
                    _ => ended(&why),
                };
                let newcomer = hello.take_io();
                return Err(Refused::of(ended, why, newcomer));
            }
        };
        let config = if self.is_named_by(&start.client_hello()) {
            &self.named
        } else {
            &self.unnamed
        };
        let start = StartHandshake::from_parts(start.accepted, start.io.after_hello());
        let turn = turnstile.turn().await;
        let accept = start.into_stream(Arc::clone(config)).into_fallible();
        drop(turn);
        // A second ClientHello costs as much as the first, and so does a client's certificate.
        match turnstile.see_through(accept).await {
            Ok(stream) => {
                let (newcomer, connection) = stream.into_inner();
                let kind = connection.handshake_kind().unwrap_or(HandshakeKind::Full);
                let identity = identity(&connection, kind);
                let is_over = kind == HandshakeKind::Resumed && shows_expired(&connection);
                let client = newcomer.secured(connection);
                if is_over {
                    return Err(Refused {
                        ended: Ended::CertificateRefused,
                        why: io::Error::other("a resumed session's certificate has expired"),
                        client: Some(client),
                        has_spoken: true,
                    });
                }
                Ok((client, identity, kind))
            }
            Err((why, newcomer)) => Err(Refused::of(ended(&why), why, Some(newcomer))),
        }
    }

    fn is_named_by(&self, hello: &ClientHello<'_>) -> bool {
        let protocol = self.offer.protocol.as_bytes();
        let mut named = hello.alpn().into_iter().flatten();
        named.any(|name| name == protocol)
    }
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
        Self {
            keys: keys.collect(),
        }
    }

    /// The certificates in the order in which they fit: those with the name, those with a wildcard for it, the others.
    fn fitting(&self, server_name: Option<&str>) -> impl Iterator<Item = &Arc<CertifiedKey>> {
        let wildcard = server_name
            .and_then(|name| name.split_once('.'))
            .map(|(_, parent)| format!("*.{parent}"));
        let fits = move |names: &[String]| {
            let has = |wanted: Option<&str>| {
                wanted.is_some_and(|wanted| names.iter().any(|n| n == wanted))
            };
            match (has(server_name), has(wildcard.as_deref())) {
                (true, _) => 0,
                (_, true) => 1,
                _ => 2,
            }
        };
        let mut keys: Vec<_> = self
            .keys
            .iter()
            .map(|(key, names)| (fits(names), key))
            .collect();
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

/// Whether the client's certificate has expired. A session that is resumed was verified when it began, and each resumption
/// brings a ticket for the next one: without this, whoever comes back often enough would come in for ever.
fn shows_expired(connection: &ServerConnection) -> bool {
    let certificate = connection.peer_certificates().and_then(<[_]>::first);
    certificate.is_some_and(|certificate| has_expired(certificate, SystemTime::now()))
}

fn identity(connection: &ServerConnection, kind: HandshakeKind) -> Identity {
    let certificate = connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .and_then(|first| identity_of(first, kind != HandshakeKind::Resumed));
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    let suite = connection.negotiated_cipher_suite();
    Identity {
        server_name: connection.server_name().map(Into::into),
        tls: Some(identity::Tls {
            version: version.into(),
            cipher: suite
                .and_then(|suite| cipher_name(suite.suite()))
                .map(Into::into),
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
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
            "ECDHE-ECDSA-CHACHA20-POLY1305"
        }
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

/// What rustls said, where it was rustls.
fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// How a connection ends whose handshake failed so.
fn ended(error: &io::Error) -> Ended {
    let Some(error) = tls_error(error) else {
        return match (Unheard::of(error), error.kind()) {
            (Some(Unheard::HeldBytesFull), _) => Ended::HeldBytesFull,
            (Some(Unheard::TooMuch), _) => Ended::TlsFault,
            (None, io::ErrorKind::UnexpectedEof) => Ended::ClientClosed,
            (None, _) => Ended::of_client(error),
        };
    };
    match error {
        rustls::Error::NoCertificatesPresented
        | rustls::Error::InvalidCertificate(_)
        | rustls::Error::InvalidCertRevocationList(_) => Ended::CertificateRefused,
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity,
        ) => Ended::TlsIncompatible,
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            // An authority of the same name whose key is another one.
            | AlertDescription::DecryptError,
        ) => Ended::CertificateDistrusted,
        _ => Ended::TlsFault,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;
    use crate::tls::throwaway::Authority;

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
        let door = Door::new(offer(vec![certificate.expect("right")])).expect("usable");
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
        let (mut wire, far) = crate::socket::pair();
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
        let (held, turnstile) = (Held::new(1 << 20), Turnstile::default());
        let opened = door.open(far, &turnstile, &held).await;
        let (socket, ..) = opened.expect("a handshake");
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

    #[test]
    fn doors_that_offer_the_same_are_equal_and_tickets_outlive_certificates() {
        let one = certificate(&["a"]);
        let door = |certificate: &Certificate| {
            Door::new(offer(vec![certificate.clone()])).expect("usable")
        };
        assert_eq!(door(&one), door(&one));
        let (before, new) = (door(&one), door(&certificate(&["a"])));
        assert_ne!(before, new);
        let ticketer = |door: &Door| Arc::clone(&door.named.ticketer);
        assert!(!Arc::ptr_eq(&ticketer(&before), &ticketer(&new)));
        let new = new.after(&before);
        assert!(Arc::ptr_eq(&ticketer(&before), &ticketer(&new)));
    }
}
