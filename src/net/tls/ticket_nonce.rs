//! Makes the nonce of a session ticket in TLS 1.3 shorter than rustls has it: 8 bytes, as OpenSSL has it, instead of 32.
//!
//! A client on wolfSSL, as nearly all of it is built, has room for 8 bytes, and ends its connection at a ticket with more. The nonce only
//! keeps the secrets of several tickets of one connection apart (RFC 8446, section 4.6.1); one ticket is sent here. It is in two places: in the
//! message, which is changed before it is encrypted, and in the secret that is derived for the ticket, for which rustls asks by the
//! label `resumption`.

use std::sync::OnceLock;

use rustls::crypto::cipher::{
    AeadKey, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks, OutboundOpaqueMessage, OutboundPlainMessage,
    Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use rustls::crypto::{ActiveKeyExchange, CryptoProvider, hmac};
use rustls::{CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite, Tls13CipherSuite};

const NONCE_BYTES: usize = 8;

const NEW_SESSION_TICKET: u8 = 4;

/// Where the length of the nonce is in the message: behind type, length, lifetime and the number that is added to the age.
const NONCE_AT: usize = 1 + 3 + 4 + 4;

/// The cryptography of `provider`, for a server.
pub(super) fn provider(provider: CryptoProvider) -> CryptoProvider {
    // rustls wants suites that live for ever; there is one set of them in a process.
    static SUITES: OnceLock<Vec<SupportedCipherSuite>> = OnceLock::new();
    let suites = SUITES.get_or_init(|| provider.cipher_suites.iter().map(suite).collect());
    CryptoProvider {
        cipher_suites: suites.clone(),
        ..provider
    }
}

fn suite(suite: &SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(suite) = *suite else {
        return *suite;
    };
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: suite.common.suite,
            hash_provider: suite.common.hash_provider,
            confidentiality_limit: suite.common.confidentiality_limit,
        },
        hkdf_provider: Box::leak(Box::new(ShortInSecret(suite.hkdf_provider))),
        aead_alg: Box::leak(Box::new(ShortInMessage(suite.aead_alg))),
        quic: suite.quic,
    })))
}

struct ShortInSecret(&'static dyn Hkdf);

impl ShortInSecret {
    fn short(expander: Box<dyn HkdfExpander>) -> Box<dyn HkdfExpander> {
        Box::new(ShortExpander(expander))
    }
}

impl Hkdf for ShortInSecret {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.0.extract_from_zero_ikm(salt)
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        self.0.extract_from_secret(salt, secret)
    }

    fn extract_from_kx_shared_secret(
        &self,
        salt: Option<&[u8]>,
        kx: Box<dyn ActiveKeyExchange>,
        peer_pub_key: &[u8],
    ) -> Result<Box<dyn HkdfExpander>, Error> {
        self.0.extract_from_kx_shared_secret(salt, kx, peer_pub_key)
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Self::short(self.0.expander_for_okm(okm))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> hmac::Tag {
        self.0.hmac_sign(key, message)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct ShortExpander(Box<dyn HkdfExpander>);

impl HkdfExpander for ShortExpander {
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        self.0.expand_slice(info, output)
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        match *info {
            // An HkdfLabel (RFC 8446, section 7.1), its last two parts the length of the nonce and the nonce.
            [length, label_length, prefix, label @ b"resumption", _, nonce] if nonce.len() > NONCE_BYTES => {
                let short = &[NONCE_BYTES as u8];
                self.0
                    .expand_block(&[length, label_length, prefix, label, short, &nonce[..NONCE_BYTES]])
            }
            _ => self.0.expand_block(info),
        }
    }

    fn hash_len(&self) -> usize {
        self.0.hash_len()
    }
}

struct ShortInMessage(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for ShortInMessage {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(ShortEncrypter(self.0.encrypter(key, iv)))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        self.0.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct ShortEncrypter(Box<dyn MessageEncrypter>);

impl MessageEncrypter for ShortEncrypter {
    fn encrypt(&mut self, message: OutboundPlainMessage<'_>, seq: u64) -> Result<OutboundOpaqueMessage, Error> {
        // A ticket is the first that is sent with the keys of a connection, and the part of a certificate that begins with the
        // number of tickets never is.
        if message.typ != ContentType::Handshake || seq != 0 {
            return self.0.encrypt(message, seq);
        }
        match shortened(&message.payload.to_vec()) {
            None => self.0.encrypt(message, seq),
            Some(short) => {
                let payload = OutboundChunks::Single(&short);
                self.0.encrypt(OutboundPlainMessage { payload, ..message }, seq)
            }
        }
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.0.encrypted_payload_len(payload_len)
    }
}

/// The first record of a ticket with a nonce that is short; `None` for every other record of a handshake.
fn shortened(record: &[u8]) -> Option<Vec<u8>> {
    let &[NEW_SESSION_TICKET, a, b, c, ..] = record else {
        return None;
    };
    let nonce = NONCE_AT + 1..NONCE_AT + 1 + usize::from(*record.get(NONCE_AT)?);
    let cut = nonce.len().checked_sub(NONCE_BYTES).filter(|cut| *cut > 0)?;
    let rest = record.get(nonce.end..)?;
    let length = u32::from_be_bytes([0, a, b, c]).checked_sub(u32::try_from(cut).ok()?)?;
    let [_, a, b, c] = length.to_be_bytes();
    let start = &record[4..NONCE_AT];
    let nonce = &record[nonce.start..nonce.start + NONCE_BYTES];
    Some(
        [
            &[NEW_SESSION_TICKET, a, b, c][..],
            start,
            &[NONCE_BYTES as u8],
            nonce,
            rest,
        ]
        .concat(),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use rustls::version::TLS13;
    use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection};

    use super::super::throwaway::Authority;
    use super::*;

    #[test]
    fn the_nonce_of_a_ticket_is_cut_and_nothing_else_is() {
        let ticket = |nonce: &[u8]| {
            let body = [&[7; 8][..], &[nonce.len() as u8], nonce, &[0, 5], b"stuff", &[0, 0]].concat();
            [&[NEW_SESSION_TICKET, 0, 0, body.len() as u8][..], &body].concat()
        };
        let nonce: Vec<u8> = (0..32).collect();
        assert_eq!(shortened(&ticket(&nonce)), Some(ticket(&nonce[..8])));
        assert_eq!(shortened(&ticket(&nonce[..8])), None);
        assert_eq!(shortened(&ticket(&[])), None);
        let finished = [&[20, 0, 0, 32][..], &[4; 32]].concat();
        assert_eq!(shortened(&finished), None);
        for end in 0..NONCE_AT + 1 + 32 {
            assert_eq!(shortened(&ticket(&nonce)[..end]), None);
        }
    }

    /// Remembers what is encrypted.
    struct Kept(Arc<std::sync::Mutex<Vec<Vec<u8>>>>);

    impl MessageEncrypter for Kept {
        fn encrypt(&mut self, message: OutboundPlainMessage<'_>, _: u64) -> Result<OutboundOpaqueMessage, Error> {
            self.0.lock().expect("no panic").push(message.payload.to_vec());
            Err(Error::EncryptError)
        }

        fn encrypted_payload_len(&self, payload_len: usize) -> usize {
            payload_len
        }
    }

    #[test]
    fn what_is_sent_in_parts_is_never_taken_for_a_ticket() {
        let kept = Arc::default();
        let mut encrypter = ShortEncrypter(Box::new(Kept(Arc::clone(&kept))));
        // A part of a certificate in a small record, which could be a ticket with a nonce of 32 bytes.
        let part = [&[NEW_SESSION_TICKET, 0, 0, 60][..], &[32; 60]].concat();
        for (typ, seq) in [
            (ContentType::Handshake, 1),
            (ContentType::Handshake, 7),
            (ContentType::ApplicationData, 0),
            (ContentType::Handshake, 0),
        ] {
            let message = OutboundPlainMessage {
                typ,
                version: rustls::ProtocolVersion::TLSv1_2,
                payload: OutboundChunks::Single(&part),
            };
            assert!(encrypter.encrypt(message, seq).is_err(), "it only remembers");
        }
        let kept = kept.lock().expect("no panic");
        assert_eq!(kept[..3], [&part[..], &part, &part]);
        assert_eq!(kept[3].len(), part.len() - 24, "a ticket, as the first");
    }

    /// The length of the last nonce that a client has received.
    static RECEIVED: AtomicUsize = AtomicUsize::new(0);

    struct Watched<T>(T);

    impl Hkdf for Watched<&'static dyn Hkdf> {
        fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
            self.0.extract_from_zero_ikm(salt)
        }

        fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
            self.0.extract_from_secret(salt, secret)
        }

        fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
            Box::new(Watched(self.0.expander_for_okm(okm)))
        }

        fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> hmac::Tag {
            self.0.hmac_sign(key, message)
        }
    }

    impl HkdfExpander for Watched<Box<dyn HkdfExpander>> {
        fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
            self.0.expand_slice(info, output)
        }

        fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
            if info.get(3) == Some(&&b"resumption"[..]) {
                RECEIVED.store(info[5].len(), Ordering::Relaxed);
            }
            self.0.expand_block(info)
        }

        fn hash_len(&self) -> usize {
            self.0.hash_len()
        }
    }

    /// A provider whose clients tell how long a nonce was.
    fn watching(mut provider: CryptoProvider) -> CryptoProvider {
        for suite in &mut provider.cipher_suites {
            if let SupportedCipherSuite::Tls13(of) = *suite {
                let hkdf_provider: &'static dyn Hkdf = Box::leak(Box::new(Watched(of.hkdf_provider)));
                let common = &of.common;
                *suite = SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                    common: CipherSuiteCommon {
                        suite: common.suite,
                        hash_provider: common.hash_provider,
                        confidentiality_limit: common.confidentiality_limit,
                    },
                    hkdf_provider,
                    aead_alg: of.aead_alg,
                    quic: of.quic,
                })));
            }
        }
        provider
    }

    #[test]
    fn a_client_receives_a_short_nonce_and_resumes_with_its_ticket() {
        let library = || (*super::super::provider()).clone();
        let authority = Authority::new().expect("an authority");
        let pair = authority.server(&["localhost"]).expect("a name");
        let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
        let mut roots = RootCertStore::empty();
        roots.add(der(&authority.pem())).expect("an authority");
        // Many, since signatures differ each time, and any part of one may begin with any byte.
        for record_max in [None].into_iter().chain([Some(64); 50]) {
            let mut config = ServerConfig::builder_with_provider(Arc::new(provider(library())))
                .with_protocol_versions(&[&TLS13])
                .expect("a version")
                .with_no_client_auth()
                .with_single_cert(vec![der(&pair.chain)], key.clone_key())
                .expect("a key");
            config.ticketer = super::super::library::Ticketer::new().expect("keys");
            // As at a listener: only the first message of a record is looked at.
            config.send_tls13_tickets = 1;
            config.max_fragment_size = record_max;
            let config = Arc::new(config);
            let client = ClientConfig::builder_with_provider(Arc::new(watching(library())))
                .with_protocol_versions(&[&TLS13])
                .expect("a version")
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            let client = Arc::new(client);
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                RECEIVED.store(0, Ordering::Relaxed);
                let mut server = ServerConnection::new(Arc::clone(&config)).expect("a server");
                let name = ServerName::try_from("localhost").expect("a name");
                let mut client = ClientConnection::new(Arc::clone(&client), name).expect("a client");
                while client.wants_write() || server.wants_write() {
                    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
                    client.write_tls(&mut to_server).expect("room");
                    server.read_tls(&mut &to_server[..]).expect("bytes");
                    server.process_new_packets().expect("right ones");
                    server.write_tls(&mut to_client).expect("room");
                    client.read_tls(&mut &to_client[..]).expect("bytes");
                    client.process_new_packets().expect("right ones");
                }
                assert_eq!(client.handshake_kind(), Some(kind));
                assert_eq!(RECEIVED.load(Ordering::Relaxed), NONCE_BYTES);
            }
        }
    }
}
