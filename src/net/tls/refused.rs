//! The subject of the client's certificate that was refused last on this thread: rustls keeps no certificate that it has not
//! accepted, and a verifier does not know whose handshake it is in.

use std::cell::RefCell;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

thread_local! {
    static REFUSED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the subject of a certificate that is being refused, for [`take`].
pub(super) fn note(certificate: &CertificateDer<'_>) {
    REFUSED.set(subject(certificate));
}

/// The subject of the certificate that was refused last on this thread. To be asked as soon as the handshake has failed: between both,
/// the thread turns to no other client.
pub(super) fn take() -> Option<String> {
    REFUSED.take()
}

/// The subject of a certificate, as `C=…, O=…, CN=…`; `None` if it cannot be read.
pub(super) fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.subject().to_string())
}
