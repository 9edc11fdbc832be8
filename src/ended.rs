//! How a connection ended: one closed list for the log line and the metric.

use std::io;

use crate::held::HeldBytesFull;
use crate::mqtt::Stranger;

macro_rules! causes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// How a connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Ended {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Ended {
            /// Every way in which a connection can end.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in the log line and in metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

causes! {
    /// The client closed its side first.
    ClientClosed = "client_closed",
    /// The client's connection was reset.
    ClientReset = "client_reset",
    /// The client vanished: keepalive or TCP_USER_TIMEOUT found out.
    ClientVanished = "client_vanished",
    /// The node closed its side first.
    NodeClosed = "node_closed",
    /// The node's connection was reset.
    NodeReset = "node_reset",
    /// The node vanished: keepalive or TCP_USER_TIMEOUT found out.
    NodeVanished = "node_vanished",
    /// The node's TLS broke its own rules, or ended with an alert.
    NodeTlsFault = "node_tls_fault",
    /// The client sent nothing for longer than its Keep Alive allows.
    Idle = "idle",
    /// No CONNECT by the deadline.
    ConnectTimeout = "connect_timeout",
    /// The CONNECT, or a ClientHello, was larger than what is held for one connection.
    ConnectTooLarge = "connect_too_large",
    /// All held bytes were in use and this connection held the most.
    HeldBytesFull = "held_bytes_full",
    /// TLS on a plain listener.
    NotMqttTls = "not_mqtt_tls",
    /// A PROXY protocol header where none is expected.
    NotMqttProxy = "not_mqtt_proxy",
    /// A balancer before this one said no PROXY header, or a wrong one.
    ProxyHeader = "proxy_header",
    /// The common name of the client's certificate has control characters, is no text, or is far too long.
    CertificateName = "certificate_name",
    /// HTTP on an MQTT listener.
    NotMqttHttp = "not_mqtt_http",
    /// A CONNECT whose protocol name is unknown or whose client id cannot be known.
    Malformed = "malformed",
    /// A request to a WebSocket listener that was answered with an HTTP error.
    UpgradeRefused = "upgrade_refused",
    /// WebSocket frames that may not be there, or a text message.
    FrameFault = "frame_fault",
    /// Something else than TLS on a listener with TLS.
    NotTls = "not_tls",
    /// TLS that breaks its own rules, or an alert; or a handshake without end.
    TlsFault = "tls_fault",
    /// No version of TLS, cipher suite or key exchange that both sides know.
    TlsIncompatible = "tls_incompatible",
    /// The client's certificate is missing, expired, revoked or of nobody that is trusted here.
    CertificateRefused = "certificate_refused",
    /// The client does not trust this balancer's certificate.
    CertificateDistrusted = "certificate_distrusted",
    /// Something else than MQTT.
    NotMqttJunk = "not_mqtt_junk",
    /// The client's address may not come in here.
    Denied = "denied",
    /// As many connections as there may be in all.
    LimitTotal = "limit_total",
    /// As many connections as the listener may have.
    LimitListener = "limit_listener",
    /// As many connections as one source may have.
    LimitSource = "limit_source",
    /// As many connections as may be waiting for their CONNECT to be read.
    LimitUndecided = "limit_undecided",
    /// As many connections as may be in a TLS handshake.
    LimitHandshakes = "limit_handshakes",
    /// No node could be reached.
    NoNode = "no_node",
    /// Every node that was tried refused the client, or closed without an answer.
    Refused = "refused",
    /// Every source port towards the nodes is in use.
    SourcePortsExhausted = "source_ports_exhausted",
    /// The process has no descriptor left.
    DescriptorsExhausted = "descriptors_exhausted",
    /// Closed by the operator.
    Closed = "closed",
    /// Closed because this balancer is shutting down.
    Shutdown = "shutdown",
    /// A bug of ours.
    Internal = "internal",
}

impl Ended {
    /// What became of a client whose socket failed so.
    pub fn of_client(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::ClientVanished,
            // Only TLS calls bytes invalid.
            io::ErrorKind::InvalidData => Self::TlsFault,
            _ => Self::ClientReset,
        }
    }
}

/// How a set-up ended, and whether the client had said anything of its own by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SetUpEnded {
    /// How.
    pub cause: Ended,
    /// The client went by itself and had said nothing, but for a PROXY header: whoever looks whether somebody is here does
    /// that, over and over.
    pub in_silence: bool,
}

impl SetUpEnded {
    /// The client went. `has_spoken` says whether a byte of its own had come.
    pub fn gone(cause: Ended, has_spoken: bool) -> Self {
        let is_gone = matches!(cause, Ended::ClientClosed | Ended::ClientReset);
        Self {
            cause,
            in_silence: is_gone && !has_spoken,
        }
    }
}

impl From<Ended> for SetUpEnded {
    fn from(cause: Ended) -> Self {
        Self {
            cause,
            in_silence: false,
        }
    }
}

impl From<HeldBytesFull> for Ended {
    fn from(_: HeldBytesFull) -> Self {
        Self::HeldBytesFull
    }
}

impl From<Stranger> for Ended {
    fn from(stranger: Stranger) -> Self {
        match stranger {
            Stranger::Tls => Self::NotMqttTls,
            Stranger::Proxy => Self::NotMqttProxy,
            Stranger::Http => Self::NotMqttHttp,
            Stranger::Malformed => Self::Malformed,
            Stranger::Junk => Self::NotMqttJunk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = Ended::ALL.iter().map(|e| e.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Ended::ALL.len());
    }
}
