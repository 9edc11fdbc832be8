//! The kinds of failure that a run counts, who caused them and when, and which of them an error of the system or of TLS is.

use std::io;

use nix::errno::Errno;
use tungstenite::http::StatusCode;

/// A failure. The list of kinds is closed, so that a count of zero can be shown, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Failure {
    /// The kernel of the target refused the TCP connection.
    Refused,
    /// The connection was reset.
    Reset,
    /// The target closed the connection during the run.
    Closed,
    /// The target sent DISCONNECT with this reason code.
    Disconnected(u8),
    /// The target's certificate is not trusted, has expired, or is for another name.
    NotTrusted,
    /// The TLS handshake failed for another reason, or TLS failed later; an alert may give the reason.
    Tls,
    /// The target rejected the WebSocket upgrade with this HTTP status; 101 if the rest of its answer was wrong.
    NotUpgraded(u16),
    /// A CONNACK with this code.
    NotAccepted(u8),
    /// A SUBACK with this code.
    NotSubscribed(u8),
    /// No answer in time.
    Timeout,
    /// The target sent something that is not MQTT, or that MQTT (or WebSocket below it) does not allow there.
    Junk,
    /// The content of a message changed on its way.
    Corrupt,
    /// A message arrived twice, or one before it never arrived.
    OutOfOrder,
    /// A message was due, and its client was not connected.
    NotSent,
    /// The open-file limit of this process is reached.
    NoFiles,
    /// No local port was free.
    NoPorts,
    /// Any other system error.
    Other,
}

/// How far a connection was when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The TCP handshake.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// The answer to the WebSocket upgrade is awaited.
    Upgrade,
    /// CONNACK is awaited.
    Connect,
    /// SUBACK is awaited.
    Subscribe,
    /// CONNACK, and SUBACK where the client subscribes, have arrived.
    Connected,
}

impl Stage {
    /// When a connection that was in this stage ended.
    fn when(self) -> &'static str {
        match self {
            Self::Tcp => "before the TCP connection was established",
            Self::Tls => "during the TLS handshake",
            Self::Upgrade => "before the answer to the WebSocket upgrade",
            Self::Connect => "before CONNACK",
            Self::Subscribe => "before SUBACK",
            Self::Connected => "while connected",
        }
    }

    fn awaited(self) -> &'static str {
        match self {
            Self::Tcp => "TCP connection",
            Self::Tls => "end of the TLS handshake",
            Self::Upgrade => "answer to the WebSocket upgrade",
            Self::Connect => "CONNACK",
            Self::Subscribe => "SUBACK",
            Self::Connected => "PINGRESP",
        }
    }
}

impl Failure {
    /// All kinds, in the order in which they are printed.
    pub(super) const ALL: [Self; 17] = [
        Self::Refused,
        Self::Reset,
        Self::Closed,
        Self::Disconnected(0),
        Self::NotTrusted,
        Self::Tls,
        Self::NotUpgraded(0),
        Self::NotAccepted(0),
        Self::NotSubscribed(0),
        Self::Timeout,
        Self::Junk,
        Self::Corrupt,
        Self::OutOfOrder,
        Self::NotSent,
        Self::NoFiles,
        Self::NoPorts,
        Self::Other,
    ];

    /// The name of the kind in the printed result, and its key in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Disconnected(_) => "disconnected",
            Self::NotTrusted => "not_trusted",
            Self::Tls => "tls_failed",
            Self::NotUpgraded(_) => "not_upgraded",
            Self::NotAccepted(_) => "not_accepted",
            Self::NotSubscribed(_) => "not_subscribed",
            Self::Timeout => "timeout",
            Self::Junk => "junk",
            Self::Corrupt => "corrupt",
            Self::OutOfOrder => "out_of_order",
            Self::NotSent => "not_sent",
            Self::NoFiles => "no_files",
            Self::NoPorts => "no_ports",
            Self::Other => "other",
        }
    }

    /// What happened, and who did it.
    pub(super) fn words(self, stage: Stage) -> String {
        let when = stage.when();
        match self {
            Self::Refused => "the target's kernel refused the TCP connection: nothing listens there".to_owned(),
            Self::Reset => format!("TCP reset {when}"),
            Self::Closed => format!("closed by the target {when}"),
            Self::Disconnected(code) => format!("DISCONNECT {}", code_text(code)),
            Self::NotTrusted => "the target's certificate is not trusted".to_owned(),
            Self::Tls => format!("TLS failed {when}"),
            Self::NotUpgraded(101) => "HTTP 101 without the requested headers".to_owned(),
            Self::NotUpgraded(status) => {
                let reason = StatusCode::from_u16(status).ok();
                let reason = reason.and_then(|status| status.canonical_reason()).unwrap_or_default();
                format!("WebSocket upgrade rejected: HTTP {status} {reason}")
                    .trim_end()
                    .to_owned()
            }
            Self::NotAccepted(code) => format!("CONNACK {}", code_text(code)),
            Self::NotSubscribed(code) => format!("SUBACK {}", code_text(code)),
            Self::Timeout => format!("no {} in time", stage.awaited()),
            Self::Junk => format!("not MQTT {when}"),
            Self::Corrupt => "the content of a message changed on its way".to_owned(),
            Self::OutOfOrder => "a message arrived twice, or one before it never arrived".to_owned(),
            Self::NotSent => "a message was due, and its client was not connected".to_owned(),
            Self::NoFiles => "the open-file limit of the bench is reached".to_owned(),
            Self::NoPorts => "no local port was free".to_owned(),
            Self::Other => format!("system error {when}"),
        }
    }
}

/// A code of MQTT with its name. Those of MQTT 3.1.1 are below 6, those of failures in MQTT 5 above 127.
fn code_text(code: u8) -> String {
    let name = match code {
        0x01 => "unacceptable protocol version",
        0x02 => "identifier rejected",
        0x03 | 0x88 => "server unavailable",
        0x04 | 0x86 => "bad user name or password",
        0x05 | 0x87 => "not authorized",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x89 => "server busy",
        0x8A => "banned",
        0x8B => "server shutting down",
        0x8C => "bad authentication method",
        0x8D => "keep alive timeout",
        0x8E => "session taken over",
        0x8F => "topic filter invalid",
        0x90 => "topic name invalid",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        0x9B => "QoS not supported",
        0x9C => "use another server",
        0x9D => "server moved",
        0x9E => "shared subscriptions not supported",
        0x9F => "connection rate exceeded",
        0xA0 => "maximum connect time",
        0xA1 => "subscription identifiers not supported",
        0xA2 => "wildcard subscriptions not supported",
        _ => "",
    };
    format!("{code:#04x} {name}").trim_end().to_owned()
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::Closed;
        }
        if let Some(failure) = tls_failure(&error) {
            return failure;
        }
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ECONNREFUSED) => Self::Refused,
            Some(Errno::ECONNRESET | Errno::EPIPE) => Self::Reset,
            Some(Errno::ETIMEDOUT) => Self::Timeout,
            Some(Errno::EMFILE | Errno::ENFILE) => Self::NoFiles,
            Some(Errno::EADDRNOTAVAIL) => Self::NoPorts,
            _ => Self::Other,
        }
    }
}

/// The kind of a rustls error, which is wrapped in an I/O error.
fn tls_failure(error: &io::Error) -> Option<Failure> {
    let error: &rustls::Error = error.get_ref()?.downcast_ref()?;
    Some(match error {
        rustls::Error::InvalidCertificate(_) => Failure::NotTrusted,
        _ => Failure::Tls,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_who_refused() {
        for (failure, stage, says) in [
            (Failure::Refused, Stage::Tcp, "kernel refused the TCP connection"),
            (Failure::Reset, Stage::Tls, "TCP reset during the TLS handshake"),
            (Failure::Closed, Stage::Connect, "closed by the target before CONNACK"),
            (
                Failure::NotUpgraded(503),
                Stage::Upgrade,
                "HTTP 503 Service Unavailable",
            ),
            (Failure::NotUpgraded(799), Stage::Upgrade, "HTTP 799"),
            (Failure::NotUpgraded(101), Stage::Upgrade, "HTTP 101 without"),
            (Failure::NotAccepted(5), Stage::Connect, "CONNACK 0x05 not authorized"),
            (
                Failure::NotAccepted(0x97),
                Stage::Connect,
                "CONNACK 0x97 quota exceeded",
            ),
            (Failure::NotAccepted(0xFF), Stage::Connect, "CONNACK 0xff"),
            (
                Failure::NotSubscribed(0x87),
                Stage::Subscribe,
                "SUBACK 0x87 not authorized",
            ),
            (
                Failure::Disconnected(0x8E),
                Stage::Connected,
                "DISCONNECT 0x8e session taken over",
            ),
            (
                Failure::Timeout,
                Stage::Upgrade,
                "no answer to the WebSocket upgrade in time",
            ),
        ] {
            let words = failure.words(stage);
            assert!(words.contains(says), "{words}");
        }
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let mut names = Failure::ALL.map(Failure::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Failure::ALL.len());
    }
}
