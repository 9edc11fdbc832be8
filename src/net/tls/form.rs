//! Forms of certificates and keys that cannot be read, in words: what OpenSSL's tools write besides plain PEM.

use rustls::pki_types::{PrivateKeyDer, pem};
use x509_parser::error::X509Error;
use x509_parser::nom;

/// What is wrong with a file of certificates, to be said behind its subject.
pub(super) fn of_certificates(file: &[u8]) -> Option<&'static str> {
    of_file(
        file,
        "is DER, not PEM: convert it with openssl x509 -inform der -in FILE -out NEW",
    )
    .or_else(|| {
        // The library skips sections that it does not know, and the certificates in them would silently be missing.
        if has(file, "BEGIN TRUSTED CERTIFICATE-----") {
            Some("has a TRUSTED CERTIFICATE, a form of OpenSSL's own: convert it with openssl x509 -in FILE -out NEW")
        } else if has(file, "BEGIN X509 CERTIFICATE-----") {
            Some("has an X509 CERTIFICATE, an old label: convert it with openssl x509 -in FILE -out NEW")
        } else if has(file, "BEGIN PKCS7-----") {
            Some("has PKCS #7: convert it with openssl pkcs7 -print_certs -in FILE -out NEW")
        } else {
            None
        }
    })
}

/// What is wrong with a file that should have a key.
pub(super) fn of_key(file: &[u8]) -> Option<&'static str> {
    of_file(
        file,
        "is DER, not PEM: convert it with openssl pkey -inform der -in FILE -out NEW",
    )
    .or_else(|| {
        let is_encrypted = has(file, "BEGIN ENCRYPTED PRIVATE KEY-----") || has(file, "Proc-Type: 4,ENCRYPTED");
        is_encrypted.then_some(
            "is encrypted, and nobody can be asked for a passphrase: decrypt it with openssl pkey -in FILE -out NEW",
        )
    })
}

/// What is wrong with a file of lists of revoked certificates.
pub(super) fn of_lists(file: &[u8]) -> Option<&'static str> {
    of_file(
        file,
        "is DER, not PEM: convert it with openssl crl -inform der -in FILE -out NEW",
    )
}

fn of_file(file: &[u8], of_der: &'static str) -> Option<&'static str> {
    match file {
        // A SEQUENCE of more than 127 bytes, which no text begins with.
        [0x30, 0x80..=0x84, ..] => Some(of_der),
        // The first section would be skipped.
        [0xef, 0xbb, 0xbf, ..] => Some("begins with a byte order mark: save it as UTF-8 without one"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("is UTF-16: save it as ASCII or UTF-8"),
        _ => None,
    }
}

/// An error in PEM. The library prints lines as numbers, and a line may hold a private key: of the file, only a label is shown.
pub(super) fn of_pem(error: &pem::Error) -> String {
    const LABEL_MAX: usize = 40;
    match error {
        pem::Error::MissingSectionEnd { end_marker } => {
            let text = String::from_utf8_lossy(end_marker);
            let label = text.trim().trim_start_matches("-----END ").split("-----").next();
            let is_of_label = |c: char| c.is_ascii_graphic() || c == ' ';
            match label.filter(|label| label.len() <= LABEL_MAX && label.chars().all(is_of_label)) {
                Some(label) => format!("the line -----END {label}----- is missing"),
                None => "an -----END line is missing".to_owned(),
            }
        }
        pem::Error::IllegalSectionStart { .. } => {
            "a line that starts with -----BEGIN does not end with -----, or has more behind it".to_owned()
        }
        pem::Error::Base64Decode(_) => "what is between -----BEGIN and -----END is not base64".to_owned(),
        other => other.to_string(),
    }
}

/// An error in what PEM holds, in the library's words and without the names of its types.
pub(super) fn of_der(error: nom::Err<X509Error>) -> String {
    match error {
        nom::Err::Incomplete(_) => "it is cut off".to_owned(),
        nom::Err::Error(error) | nom::Err::Failure(error) => error.to_string(),
    }
}

fn has(file: &[u8], text: &str) -> bool {
    file.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Whether a key names the curve P-521 (RFC 5480, section 2.1.1.1).
pub(super) fn is_p521(key: &PrivateKeyDer<'_>) -> bool {
    const SECP521R1: [u8; 7] = [0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];
    key.secret_der()
        .windows(SECP521R1.len())
        .any(|window| window == SECP521R1)
}
