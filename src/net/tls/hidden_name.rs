//! A handshake in which a server name is hidden from rustls (see [`super::client_hello`]): the transcript of it is hashed as the client
//! has sent it.
//!
//! Only this is changed: a ClientHello that a hash is given, the second one after a HelloRetryRequest too; and, by
//! [`super::verifiers`], the messages that a client's signature is for in TLS 1.2. A ClientHello with an extension of the hidden type becomes the one with the server name again,
//! which is a change that can be undone, so that no two ClientHellos have the same hash.

use std::sync::OnceLock;

use rustls::crypto::CryptoProvider;
use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};

use super::client_hello::with_hidden_name;

/// The cryptography of `provider`, for such handshakes.
pub(super) fn provider(provider: CryptoProvider) -> CryptoProvider {
    // rustls wants suites that live for ever; there is one set of them in a process.
    static SUITES: OnceLock<Vec<SupportedCipherSuite>> = OnceLock::new();
    let of_provider = || provider.cipher_suites.iter().map(|of| suite(of, with_hidden_name));
    let suites = SUITES.get_or_init(|| of_provider().collect());
    CryptoProvider {
        cipher_suites: suites.clone(),
        ..provider
    }
}

/// What was sent, if rustls reads another message than that.
type AsSent = fn(&[u8]) -> Option<Vec<u8>>;

fn suite(suite: &SupportedCipherSuite, as_sent: AsSent) -> SupportedCipherSuite {
    let common = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: Box::leak(Box::new(HashAsSent {
            hash: common.hash_provider,
            as_sent,
        })),
        confidentiality_limit: common.confidentiality_limit,
    };
    match suite {
        SupportedCipherSuite::Tls12(suite) => SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
            common: common(&suite.common),
            prf_provider: suite.prf_provider,
            kx: suite.kx,
            sign: suite.sign,
            aead_alg: suite.aead_alg,
        }))),
        SupportedCipherSuite::Tls13(suite) => SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
            common: common(&suite.common),
            hkdf_provider: suite.hkdf_provider,
            aead_alg: suite.aead_alg,
            quic: suite.quic,
        }))),
    }
}

struct HashAsSent {
    hash: &'static dyn Hash,
    as_sent: AsSent,
}

impl Hash for HashAsSent {
    fn start(&self) -> Box<dyn Context> {
        Box::new(ContextAsSent {
            context: self.hash.start(),
            as_sent: self.as_sent,
        })
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.hash.hash(data)
    }

    fn output_len(&self) -> usize {
        self.hash.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.hash.algorithm()
    }

    fn fips(&self) -> bool {
        self.hash.fips()
    }
}

struct ContextAsSent {
    context: Box<dyn Context>,
    as_sent: AsSent,
}

impl Context for ContextAsSent {
    fn fork_finish(&self) -> Output {
        self.context.fork_finish()
    }

    fn fork(&self) -> Box<dyn Context> {
        Box::new(Self {
            context: self.context.fork(),
            as_sent: self.as_sent,
        })
    }

    fn finish(self: Box<Self>) -> Output {
        self.context.finish()
    }

    /// rustls gives each message as a whole, and no other message than a ClientHello begins with the byte that one begins with.
    fn update(&mut self, data: &[u8]) {
        match (self.as_sent)(data) {
            Some(as_sent) => self.context.update(&as_sent),
            None => self.context.update(data),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;

    use rustls::crypto::{ActiveKeyExchange, SharedSecret, SupportedKxGroup};
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName};
    use rustls::version::{TLS12, TLS13};
    use rustls::{
        ClientConfig, ClientConnection, Error, HandshakeKind, NamedGroup, RootCertStore, SupportedProtocolVersion,
    };
    use tokio::time::Instant;

    use super::*;
    use crate::net::held::{HeldBytes, Limits};
    use crate::net::tls::throwaway::Authority;
    use crate::net::tls::{Acceptor, Certificate, Clients, HandshakeQueue, Offer, Version, provider as library};

    /// A name that rustls can send, and the one of the same length that is sent instead.
    const SENDABLE: &str = "broker.8883.example";
    const SENT: &str = "broker:8883 example";

    /// A client's records, or its transcript: a ClientHello, or the second one behind the hash of the first.
    fn sent(bytes: &[u8]) -> Option<Vec<u8>> {
        if !matches!(bytes.first()?, 1 | 20 | 22 | 254) {
            return None;
        }
        let name = SENDABLE.as_bytes();
        let at = bytes.windows(name.len()).position(|window| window == name)?;
        let mut sent = bytes.to_vec();
        sent[at..at + name.len()].copy_from_slice(SENT.as_bytes());
        Some(sent)
    }

    /// A key exchange under a number that no server knows.
    #[derive(Debug)]
    struct Unknown(&'static dyn SupportedKxGroup);

    impl SupportedKxGroup for Unknown {
        fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
            Ok(Box::new(UnknownExchange(self.0.start()?)))
        }

        fn name(&self) -> NamedGroup {
            NamedGroup::Unknown(0xfe5a)
        }
    }

    struct UnknownExchange(Box<dyn ActiveKeyExchange>);

    impl ActiveKeyExchange for UnknownExchange {
        fn complete(self: Box<Self>, _peer: &[u8]) -> Result<SharedSecret, Error> {
            panic!("no server takes it");
        }

        fn pub_key(&self) -> &[u8] {
            self.0.pub_key()
        }

        fn group(&self) -> NamedGroup {
            NamedGroup::Unknown(0xfe5a)
        }
    }

    /// A client that sends the name that is none.
    fn config(version: &'static SupportedProtocolVersion, retries: bool, roots: &RootCertStore) -> ClientConfig {
        let library = (*library()).clone();
        let mut groups = library.kx_groups.clone();
        if retries {
            groups.insert(0, Box::leak(Box::new(Unknown(groups[0]))));
        }
        let provider = CryptoProvider {
            cipher_suites: library.cipher_suites.iter().map(|of| suite(of, sent)).collect(),
            kx_groups: groups,
            ..library
        };
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots.clone())
            .with_no_client_auth()
    }

    /// Goes on until the handshake is complete and a byte has come. Everything is sent in two parts, with the name in both.
    fn shake_hands(client: &mut ClientConnection, wire: &mut TcpStream) {
        loop {
            let mut records = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut records).expect("room");
            }
            let records = sent(&records).unwrap_or(records);
            let (one, other) = records.split_at(records.len() / 2);
            wire.write_all(one).expect("sent");
            wire.write_all(other).expect("sent");
            if client.reader().read(&mut [0]).is_ok() {
                return;
            }
            client.read_tls(wire).expect("an answer");
            client.process_new_packets().expect("a right one");
        }
    }

    #[tokio::test]
    async fn a_client_with_a_server_name_that_is_none_is_served_and_resumes() {
        let authority = Authority::new().expect("an authority");
        let pair = authority.server(&[SENDABLE]).expect("a name");
        let certificate = Certificate::from_pem(pair.chain.as_bytes(), pair.key.as_bytes());
        let offer = Offer {
            certificates: vec![certificate.expect("right")],
            version_min: Version::Tls12,
            clients: Clients::Off,
            protocol: "mqtt",
            record_max: None,
        };
        let acceptor = Acceptor::new(offer).expect("usable");
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("PEM");
        roots.add(root).expect("an authority");
        for (version, retries) in [(&TLS12, false), (&TLS13, false), (&TLS13, true)] {
            let config = Arc::new(config(version, retries, &roots));
            let first = match retries {
                false => HandshakeKind::Full,
                true => HandshakeKind::FullWithHelloRetryRequest,
            };
            for kind in [first, HandshakeKind::Resumed] {
                let name = ServerName::try_from(SENDABLE).expect("a name");
                let mut client = ClientConnection::new(Arc::clone(&config), name).expect("a client");
                let (mut wire, far) = crate::net::socket::pair();
                let client = tokio::task::spawn_blocking(move || {
                    // A ticket comes with the first data at the latest.
                    shake_hands(&mut client, &mut wire);
                    client.handshake_kind()
                });
                let (held, queue) = (HeldBytes::new(Limits::of_bytes(1 << 20)), HandshakeQueue::default());
                let accepted = acceptor
                    .accept(far, [192, 0, 2, 7].into(), &queue, held.reservation(Instant::now()))
                    .await
                    .expect("a handshake");
                assert_eq!(accepted.identity.server_name, None);
                accepted.client.close_after(&[7]).await;
                assert_eq!(client.await.expect("a client"), Some(kind), "{version:?}");
            }
        }
    }
}
