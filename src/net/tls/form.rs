//! Forms of certificates and keys that cannot be read, in words: what OpenSSL's tools write besides plain PEM.

use rustls::pki_types::PrivateKeyDer;

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
