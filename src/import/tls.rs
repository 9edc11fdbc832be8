//! TLS versions and cipher suites as OpenSSL names them, beside those that rustls has.

use super::report::Report;
use super::text::{Place, printable};

/// The oldest version that clients may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Oldest {
    Taken(&'static str),
    /// Older than any that Remora has.
    Refused(String),
}

/// What a list of versions means: `TLSv1.2`, `TLSv1.3`.
pub(super) fn oldest<'w>(words: impl Iterator<Item = &'w str>) -> Oldest {
    let words: Vec<&str> = words.collect();
    let is = |wanted: &str| words.iter().any(|word| word.eq_ignore_ascii_case(wanted));
    let old = words
        .iter()
        .find(|word| !["tlsv1.2", "tlsv1.3"].contains(&&*word.to_ascii_lowercase()));
    match old {
        Some(old) => Oldest::Refused((*old).to_owned()),
        None if is("TLSv1.2") || words.is_empty() => Oldest::Taken("1.2"),
        None => Oldest::Taken("1.3"),
    }
}

/// Reports versions that only OpenSSL has.
pub(super) fn lost_versions(place: Place, version: &str, report: &mut Report) {
    report.lost(
        place,
        format!("{} and whatever is older than TLS 1.2", printable(version)),
        "devices that have nothing newer need TLS that ends at the nodes: tls = \"pass\"",
    );
}

/// Suites of OpenSSL's names that Remora has, and its words for classes that have nothing else in them.
const SUITES: [&str; 13] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "EECDH+AESGCM",
    "ECDHE+AESGCM",
    "EECDH+CHACHA20",
    "ECDHE+CHACHA20",
];

/// Reports a list of cipher suites: those that Remora has are no loss.
pub(super) fn ciphers(place: Place, what: &str, list: &str, report: &mut Report) {
    let is_word = |word: &&str| !word.is_empty() && !word.starts_with(['!', '-', '@', '+']);
    let others: Vec<&str> = list
        .split([':', ',', ' '])
        .filter(is_word)
        .filter(|word| !SUITES.contains(&&*word.to_ascii_uppercase()))
        .collect();
    match others[..] {
        [] => report.unneeded(place, what, "Remora has these cipher suites, ECDHE with AES-GCM or ChaCha20, and no others"),
        [first, ..] => report.lost(
            place,
            format!(
                "{what} has more cipher suites than Remora ({}): there is only ECDHE with AES-GCM or ChaCha20",
                printable(first)
            ),
            "see docs/compatibility.md; devices that have only CBC or RSA key exchange need TLS that ends at the nodes: tls = \"pass\"",
        ),
    }
}
