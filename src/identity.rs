//! What is known of a client beyond its address and its CONNECT: what its TLS said, here or at a balancer before this one.

/// What a client's TLS said, and what goes on to the node in a PROXY header (version 2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The server name that the client asked for (RFC 6066, section 3; `PP2_TYPE_AUTHORITY`).
    pub server_name: Option<Box<str>>,
    /// How its connection is secured; none for a client without TLS, and for one whose TLS ends at the node.
    pub tls: Option<Tls>,
}

/// A connection with TLS that has ended before the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// As OpenSSL and HAProxy say it: `TLSv1.2`, `TLSv1.3`; empty where a balancer before this one does not say.
    pub version: Box<str>,
    /// As OpenSSL and HAProxy say it: `TLS_AES_256_GCM_SHA384`, `ECDHE-ECDSA-AES128-GCM-SHA256`.
    pub cipher: Option<Box<str>>,
    /// The client's certificate, which was verified; none when it has none.
    pub certificate: Option<Certificate>,
}

/// What a client's certificate says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name of its subject.
    pub common_name: Option<Box<str>>,
    /// The first of its subject alternative names, for the log.
    pub names: Vec<Box<str>>,
    /// It was sent on this connection, not on the one whose session was resumed.
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

/// Bytes of a name at most: a server name has 255 (RFC 1035, 2.3.4), a common name 64 characters (RFC 5280, appendix A.1).
const NAME_BYTES_MAX: usize = 1024;

/// Whether a name can be passed on: text without control characters, which could forge lines and fields elsewhere and for
/// which EMQX closes a connection, and of a length that names have.
pub fn is_plain(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}
