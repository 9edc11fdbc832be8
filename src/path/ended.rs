//! How a connection ended: one closed list for the log line and the metric.

use std::borrow::Cow;
use std::io;

use crate::mqtt::Stranger;
use crate::net::held::{HeldBytesFull, ReadError, Room};

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
    /// The client vanished, as keepalive or TCP_USER_TIMEOUT showed.
    ClientVanished = "client_vanished",
    /// The node closed its side first.
    NodeClosed = "node_closed",
    /// The node's connection was reset.
    NodeReset = "node_reset",
    /// The node vanished, as keepalive or TCP_USER_TIMEOUT showed.
    NodeVanished = "node_vanished",
    /// Closed because the node is down.
    NodeDown = "node_down",
    /// The node violated the TLS protocol, or ended with an alert.
    NodeTlsFault = "node_tls_fault",
    /// The client sent nothing for longer than its Keep Alive allows.
    Idle = "idle",
    /// The client kept bytes waiting, and took too few of them.
    ClientStalled = "client_stalled",
    /// Too many bytes waited for slow receivers, and more of them for this connection than for others.
    WaitingBytesFull = "waiting_bytes_full",
    /// No CONNECT by the deadline.
    ConnectTimeout = "connect_timeout",
    /// The CONNECT, or a ClientHello, was larger than what is held for one connection.
    ConnectTooLarge = "connect_too_large",
    /// All held bytes were in use, and it was this connection's turn to be evicted.
    HeldBytesFull = "held_bytes_full",
    /// TLS on a plain listener.
    NotMqttTls = "not_mqtt_tls",
    /// A PROXY protocol header where none is expected.
    NotMqttProxy = "not_mqtt_proxy",
    /// An upstream load balancer sent no PROXY header, or an invalid one.
    ProxyHeader = "proxy_header",
    /// The common name of the client's certificate has control characters, is not text, or is far too long.
    CertificateName = "certificate_name",
    /// HTTP on an MQTT listener.
    NotMqttHttp = "not_mqtt_http",
    /// A CONNECT whose protocol name is unknown, or whose client id cannot be determined.
    Malformed = "malformed",
    /// A request to a WebSocket listener that was answered with an HTTP error.
    UpgradeRefused = "upgrade_refused",
    /// A health check by HTTP on a WebSocket listener, which was answered.
    HealthCheck = "health_check",
    /// Invalid WebSocket frames, or a text message.
    FrameFault = "frame_fault",
    /// WebSocket frames at a high rate, without a byte of MQTT in them.
    FrameFlood = "frame_flood",
    /// Something other than TLS on a listener with TLS.
    NotTls = "not_tls",
    /// The client violated the TLS protocol, sent an alert, or did not end its handshake.
    TlsFault = "tls_fault",
    /// No TLS version, cipher suite or key exchange in common with the client.
    TlsIncompatible = "tls_incompatible",
    /// The client's certificate is missing, expired, revoked or of an issuer that is not trusted here.
    CertificateRefused = "certificate_refused",
    /// The client does not trust this balancer's certificate.
    CertificateDistrusted = "certificate_distrusted",
    /// Something other than MQTT.
    NotMqttJunk = "not_mqtt_junk",
    /// The client's address may not connect here.
    Denied = "denied",
    /// The limit on connections in total was reached.
    LimitTotal = "limit_total",
    /// The limit on connections of the listener was reached.
    LimitListener = "limit_listener",
    /// The limit on connections per source was reached.
    LimitSource = "limit_source",
    /// The source connected more often than it may.
    LimitSourceRate = "limit_source_rate",
    /// The limit on connections whose CONNECT is awaited was reached: this one was evicted for another one, or refused.
    LimitUndecided = "limit_undecided",
    /// The limit on connections in a TLS handshake was reached: this one was evicted for another one, or refused.
    LimitHandshakes = "limit_handshakes",
    /// Every node that was left for the client had as many connections as it may have.
    LimitNode = "limit_node",
    /// Every node that was left for the client had too many CONNECTs waiting for their turn.
    LimitPace = "limit_pace",
    /// No node could be reached, or none answered in time.
    NoNode = "no_node",
    /// A node refused the client or closed without an answer, and no other node accepted it.
    Refused = "refused",
    /// A node refused the client, and its CONNACK was passed on, since no other node would have accepted it.
    RefusedByNode = "refused_by_node",
    /// Every source port towards the nodes is in use.
    SourcePortsExhausted = "source_ports_exhausted",
    /// The process has no descriptor left.
    DescriptorsExhausted = "descriptors_exhausted",
    /// Closed by the operator.
    Closed = "closed",
    /// Closed because this balancer is shutting down.
    Shutdown = "shutdown",
    /// A bug in Remora.
    Internal = "internal",
}

impl Ended {
    /// How a connection ends if the client's socket fails with `error`.
    pub(crate) fn of_client(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::ClientVanished,
            // Only TLS reports `InvalidData`.
            io::ErrorKind::InvalidData => Self::TlsFault,
            _ => Self::ClientReset,
        }
    }

    /// How a connection ended whose node has answered with this code: a client that was refused is closed by its node, or closes or
    /// resets the connection itself, whichever comes first.
    pub(crate) fn after_connack(self, code: Option<u8>) -> Self {
        let is_refused = code.is_some_and(|code| code != 0);
        match self {
            Self::ClientClosed | Self::ClientReset | Self::NodeClosed | Self::NodeReset if is_refused => {
                Self::RefusedByNode
            }
            _ => self,
        }
    }

    /// How a connection ends that is evicted or refused for want of this.
    pub(crate) fn for_want_of(room: Room) -> Self {
        match room {
            Room::Bytes => Self::HeldBytesFull,
            Room::Undecided => Self::LimitUndecided,
            Room::Handshakes => Self::LimitHandshakes,
        }
    }

    /// How a connection ends if its task is dropped before: because of a panic, or with the runtime, which is dropped
    /// only at shutdown.
    pub(crate) fn of_dropped_task() -> Self {
        if std::thread::panicking() {
            Self::Internal
        } else {
            Self::Shutdown
        }
    }
}

/// How a set-up ended, and whether the client had sent anything of its own by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetUpEnded {
    /// The cause.
    pub cause: Ended,
    /// The client closed the connection after sending nothing but a PROXY header, as health checks of other load
    /// balancers do every few seconds; or it sent a health check by HTTP.
    pub is_probe: bool,
    /// What the log says beside the cause, where that does not say enough.
    pub details: Option<Box<Details>>,
}

/// What the log says about the end of a connection beside its cause. Clients chose some of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// What the client did or has, in words.
    pub why: Option<Cow<'static, str>>,
    /// The sentence of the TLS library.
    pub error: Option<String>,
    /// The subject of the certificate that was refused.
    pub certificate_subject: Option<String>,
    /// The HTTP status of the answer.
    pub status: Option<u16>,
    /// The target of the client's request.
    pub path: Option<Box<[u8]>>,
    /// The page that the request is from.
    pub origin: Option<Box<[u8]>>,
}

impl Details {
    /// What there is to say about a socket that could not be read: the sentence of the TLS library, if it is from there.
    pub(crate) fn of_socket(error: &io::Error) -> Option<Self> {
        // Only TLS reports `InvalidData`.
        let is_of_tls = error.kind() == io::ErrorKind::InvalidData;
        is_of_tls.then(|| Self {
            error: Some(error.to_string()),
            ..Self::default()
        })
    }

    /// Words alone.
    pub(crate) fn of_words(why: &'static str) -> Self {
        Self {
            why: Some(why.into()),
            ..Self::default()
        }
    }
}

impl SetUpEnded {
    /// The client's connection is gone. `has_sent`: the client had sent at least one byte of its own.
    pub fn gone(cause: Ended, has_sent: bool) -> Self {
        let is_gone = matches!(cause, Ended::ClientClosed | Ended::ClientReset);
        Self {
            cause,
            is_probe: is_gone && !has_sent,
            details: None,
        }
    }
}

impl From<Ended> for SetUpEnded {
    fn from(cause: Ended) -> Self {
        Self {
            cause,
            is_probe: false,
            details: None,
        }
    }
}

impl SetUpEnded {
    /// The same, with more to say.
    pub(crate) fn with(self, details: Details) -> Self {
        Self {
            details: Some(Box::new(details)),
            ..self
        }
    }
}

impl From<HeldBytesFull> for Ended {
    fn from(_: HeldBytesFull) -> Self {
        Self::HeldBytesFull
    }
}

/// How a connection ends if its client cannot be read during set-up.
impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::HeldBytesFull => Self::HeldBytesFull,
            ReadError::Socket(error) => Self::of_client(&error),
        }
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
    fn only_the_end_that_follows_a_refusal_is_one() {
        let after = |cause: Ended, code| cause.after_connack(code);
        for cause in [
            Ended::ClientClosed,
            Ended::ClientReset,
            Ended::NodeClosed,
            Ended::NodeReset,
        ] {
            assert_eq!(after(cause, Some(5)), Ended::RefusedByNode);
            assert_eq!(after(cause, Some(0)), cause);
            assert_eq!(after(cause, None), cause);
        }
        for cause in [Ended::Shutdown, Ended::Idle, Ended::Internal, Ended::ClientVanished] {
            assert_eq!(after(cause, Some(5)), cause);
        }
    }

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<_> = Ended::ALL.iter().map(|e| e.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Ended::ALL.len());
    }
}
