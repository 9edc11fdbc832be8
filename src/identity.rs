//! What is known about a client besides its address and its CONNECT: facts about its TLS, from here or from an upstream proxy.

/// Facts about a client's TLS, which are passed on to the node in a PROXY header (version 2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The server name that the client requested (RFC 6066, section 3; `PP2_TYPE_AUTHORITY`).
    pub server_name: Option<Box<str>>,
    /// The TLS of its connection; `None` for a client without TLS, or with TLS that ends at the node.
    pub tls: Option<Tls>,
}

/// A TLS connection that ends before the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// In the notation of OpenSSL and HAProxy: `TLSv1.2`, `TLSv1.3`; empty if an upstream proxy does not report it.
    pub version: Box<str>,
    /// In the notation of OpenSSL and HAProxy: `TLS_AES_256_GCM_SHA384`, `ECDHE-ECDSA-AES128-GCM-SHA256`.
    pub cipher: Option<Box<str>>,
    /// The client's certificate, which was verified; `None` if it has none.
    pub certificate: Option<Certificate>,
}

/// The names in a client's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject.
    pub common_name: Option<Box<str>>,
    /// The first of its subject alternative names, for the log.
    pub names: Vec<Box<str>>,
    /// Whether it was sent on this connection, not on an earlier one whose session was resumed.
    pub on_this_connection: bool,
}

impl Identity {
    /// The common name of the client's certificate.
    pub fn common_name(&self) -> Option<&str> {
        let certificate = self.tls.as_ref()?.certificate.as_ref()?;
        certificate.common_name.as_deref()
    }

    /// The other names of the client's certificate.
    pub fn names(&self) -> &[Box<str>] {
        let certificate = self.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        certificate.map_or(&[], |certificate| &certificate.names)
    }
}

/// The most bytes of a name. A server name has at most 255 bytes (RFC 1035, 2.3.4), a common name at most 64 characters (RFC 5280,
/// appendix A.1).
const NAME_BYTES_MAX: usize = 1024;

/// Whether a name can be passed on: it has at most [`NAME_BYTES_MAX`] bytes and no control characters, which could forge lines and
/// fields elsewhere and make EMQX close the connection.
pub(crate) fn is_plain(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}
