//! Bounds on the chain of certificates that a peer presents, checked before the library searches it for a path to a trusted
//! authority. What a chain is worth is left to the library.

use std::collections::HashSet;

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::distrust::Distrust;

/// The most certificates between the peer's own and a trusted one. Public authorities have one or two, and some large
/// companies three.
const INTERMEDIATES_MAX: usize = 5;

/// The most bytes of all certificates of a chain. A certificate has 1 to 2 KiB.
const CHAIN_BYTES_MAX: usize = 16 * 1024;

/// Whether the library may search this chain.
///
/// The library takes certificates in any order and tries each one as the issuer of each other: with many of the same subject,
/// the paths through a few kilobytes of forged certificates take seconds. Where no subject comes twice, each certificate has
/// one issuer at most in the chain, so there is one path. The library tries no certificate that it cannot read.
pub(super) fn check(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Distrust> {
    if intermediates.len() > INTERMEDIATES_MAX {
        return Err(Distrust::TooManyIntermediates(intermediates.len(), INTERMEDIATES_MAX));
    }
    let chain = || std::iter::once(end_entity).chain(intermediates);
    let bytes = chain().map(|certificate| certificate.len()).sum();
    if bytes > CHAIN_BYTES_MAX {
        return Err(Distrust::ChainTooLarge(bytes, CHAIN_BYTES_MAX));
    }
    let read: Vec<_> = chain()
        .filter_map(|certificate| EndEntityCert::try_from(certificate).ok())
        .collect();
    let mut subjects = HashSet::new();
    match read.iter().all(|certificate| subjects.insert(certificate.subject())) {
        true => Ok(()),
        false => Err(Distrust::SubjectTwice),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
        KeyPair, NameConstraints, PKCS_ECDSA_P384_SHA384,
    };
    use rustls::Error;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::server::WebPkiClientVerifier;
    use rustls::server::danger::ClientCertVerifier;

    use super::super::provider;
    use super::super::trusted::Trusted;
    use super::super::verifiers::{ClientVerifier, NodeVerifier};
    use super::*;
    use crate::base::clock::thread_time;

    /// What a chain may cost on a worker; without optimization, the same work takes many times as long.
    const COST_MAX: Duration = match cfg!(debug_assertions) {
        false => Duration::from_millis(10),
        true => Duration::from_millis(400),
    };

    type Chain = Vec<CertificateDer<'static>>;

    fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
        let content = content.concat();
        let length = u16::try_from(content.len()).expect("a short one");
        let mut der = vec![tag, 0x82];
        // The shortest form is the only right one.
        match length {
            0..=127 => der[1] = content.len() as u8,
            128..=255 => der.extend([length as u8]),
            _ => der.extend(length.to_be_bytes()),
        }
        if (128..=255).contains(&length) {
            der[1] = 0x81;
        }
        der.extend(content);
        der
    }

    /// A certificate that the library can read, with names and a key that are none, and nobody's signature.
    fn forged(subject: &str, issuer: &str, key: usize) -> CertificateDer<'static> {
        let validity = [der(0x17, &[b"200101000000Z"]), der(0x17, &[b"490101000000Z"])].concat();
        let is_authority = der(
            0x30,
            &[
                &der(0x06, &[&[0x55, 0x1d, 0x13]]),
                &der(0x04, &[&der(0x30, &[&der(0x01, &[&[0xff]])])]),
            ],
        );
        let signed = [
            der(0xa0, &[&der(0x02, &[&[2]])]),
            der(0x02, &[&[7]]),
            der(0x30, &[]),
            der(0x30, &[issuer.as_bytes()]),
            der(0x30, &[&validity]),
            der(0x30, &[subject.as_bytes()]),
            der(0x30, &[&key.to_be_bytes()]),
            der(0xa3, &[&der(0x30, &[&is_authority])]),
        ];
        let certificate = [der(0x30, &[&signed.concat()]), der(0x30, &[]), der(0x03, &[&[0]])];
        der(0x30, &[&certificate.concat()]).into()
    }

    /// A peer's certificate and the end of `levels` levels of `width` certificates, each of which may have issued each of the
    /// level before it; filled up with as many others as 60 KiB take.
    fn labyrinth(levels: usize, width: usize) -> Chain {
        let mut chain = vec![forged("peer", "level 0", 0)];
        for level in 0..levels {
            let (subject, issuer) = (format!("level {level}"), format!("level {}", level + 1));
            chain.extend((0..width).map(|key| forged(&subject, &issuer, key)));
        }
        let rest = 60 * 1024 / chain[0].len();
        chain.extend((chain.len()..rest).map(|key| forged("filler", "nobody", key)));
        chain
    }

    /// An authority, and what an honest peer presents at worst: as many intermediate certificates as there may be, all with
    /// the slowest key, and names and constraints on them as far as there is room.
    fn longest() -> (CertificateDer<'static>, Chain) {
        let key = || KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key");
        let params = |name: &str, names: Vec<String>| {
            let mut params = CertificateParams::new(names).expect("names");
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let authority = |name: &str| {
            let mut params = params(name, Vec::new());
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let mut issuer = CertifiedIssuer::self_signed(authority("root"), key()).expect("an authority");
        let root = issuer.der().clone();
        let mut chain = Vec::new();
        for level in 0..INTERMEDIATES_MAX {
            let mut params = authority(&format!("level {level}"));
            if level == INTERMEDIATES_MAX - 1 {
                let excluded = (0..400).map(|n| GeneralSubtree::DnsName(format!("{n}.example")));
                params.name_constraints = Some(NameConstraints {
                    permitted_subtrees: Vec::new(),
                    excluded_subtrees: excluded.collect(),
                });
            }
            issuer = CertifiedIssuer::signed_by(params, key(), &issuer).expect("an authority");
            chain.insert(0, issuer.der().clone());
        }
        let mut names = vec!["localhost".to_owned()];
        names.extend((0..400).map(|n| format!("device-{n}")));
        let mut peer = params("peer", names);
        peer.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let peer = peer.signed_by(&key(), &issuer).expect("a certificate");
        chain.insert(0, peer.der().clone());
        (root, chain)
    }

    /// Asks both verifiers, as the listener and the dial have them: what they say, and what it costs at least.
    fn judge(root: &CertificateDer<'static>, chain: &Chain) -> [(Result<(), Error>, Duration); 2] {
        let trusted = || Trusted::new(std::slice::from_ref(root), None, &provider()).expect("an authority");
        let of_clients = trusted();
        let roots = Arc::clone(of_clients.authorities());
        let library = WebPkiClientVerifier::builder_with_provider(roots, provider());
        let clients = ClientVerifier {
            trusted: Arc::new(of_clients),
            library: Some(library.build().expect("authorities")),
            names: Vec::new(),
            is_mandatory: true,
            has_hidden_name: false,
        };
        let nodes = NodeVerifier {
            trusted: trusted(),
            common_names: false,
        };
        let name = ServerName::try_from("localhost").expect("a name");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(now.expect("after 1970"));
        [
            cost(|| clients.verify_client_cert(&chain[0], &chain[1..], now).map(drop)),
            cost(|| {
                nodes
                    .verify_server_cert(&chain[0], &chain[1..], &name, &[], now)
                    .map(drop)
            }),
        ]
    }

    /// The least of several: the thread's own time, of which a busy machine takes none away but caches.
    fn cost(judge: impl Fn() -> Result<(), Error>) -> (Result<(), Error>, Duration) {
        let times = (0..5).map(|_| {
            let before = thread_time();
            let judged = judge();
            (judged, thread_time() - before)
        });
        times.min_by_key(|(_, used)| *used).expect("five of them")
    }

    fn refused(refused: Distrust) -> Result<(), Error> {
        Err(refused.into())
    }

    #[test]
    fn a_chain_is_bounded_by_count_bytes_and_subjects() {
        let chain = |count: usize| -> Chain { (0..count).map(|n| forged(&n.to_string(), "x", n)).collect() };
        let check = |chain: &Chain| check(&chain[0], &chain[1..]);
        assert_eq!(check(&chain(1 + INTERMEDIATES_MAX)), Ok(()));
        let many = chain(2 + INTERMEDIATES_MAX);
        assert_eq!(check(&many), Err(Distrust::TooManyIntermediates(6, INTERMEDIATES_MAX)));
        let mut twice = chain(4);
        twice[3] = forged("1", "y", 9);
        assert_eq!(check(&twice), Err(Distrust::SubjectTwice));
        // The peer's own counts as well.
        twice[3] = forged("0", "y", 9);
        assert_eq!(check(&twice), Err(Distrust::SubjectTwice));
        let mut full = chain(1);
        full.push(vec![0; CHAIN_BYTES_MAX - full[0].len()].into());
        assert_eq!(check(&full), Ok(()));
        full[1] = vec![0; full[1].len() + 1].into();
        assert_eq!(
            check(&full),
            Err(Distrust::ChainTooLarge(CHAIN_BYTES_MAX + 1, CHAIN_BYTES_MAX))
        );
    }

    #[test]
    fn forged_certificates_are_refused_before_a_path_is_searched() {
        let (root, _) = longest();
        for (levels, width) in [(6, 7), (4, 2), (2, 3)] {
            let chain = labyrinth(levels, width);
            let expected = refused(Distrust::TooManyIntermediates(chain.len() - 1, INTERMEDIATES_MAX));
            for (judged, used) in judge(&root, &chain) {
                assert_eq!(
                    judged.map_err(|error| error.to_string()),
                    expected.clone().map_err(|e| e.to_string())
                );
                assert!(used <= COST_MAX, "{used:?}");
            }
        }
        // Few enough, and still more than one path.
        let chain = [&labyrinth(2, 2)[..5]].concat();
        for (judged, _) in judge(&root, &chain) {
            let expected = Error::from(Distrust::SubjectTwice).to_string();
            assert_eq!(judged.expect_err("two of a subject").to_string(), expected);
        }
    }

    #[test]
    fn the_worst_chain_that_is_let_through_costs_ten_milliseconds_at_most() {
        let (root, chain) = longest();
        let bytes: usize = chain.iter().map(|certificate| certificate.len()).sum();
        assert!((12 * 1024..=CHAIN_BYTES_MAX).contains(&bytes), "{bytes}");
        for (judged, used) in judge(&root, &chain) {
            println!("the worst chain takes {used:?}");
            assert_eq!(judged, Ok(()));
            assert!(used <= COST_MAX, "{used:?}");
        }
        // A peer may put its own behind certificates of the authority that everyone can read.
        let mut false_peer = chain.clone();
        false_peer[0] = forged("peer", "nobody", 0);
        for (judged, used) in judge(&root, &false_peer) {
            assert!(judged.is_err());
            assert!(used <= COST_MAX, "{used:?}");
        }
    }
}
