//! What a connection to a node that failed says about the set-up. No I/O: the errors are passed in.

use super::clock::{self, Ahead};
use super::finding::{Certainty, Code, Finding};
use crate::cluster::EndpointKind;
use crate::mqtt::{Version, connack_reason};
use crate::net::node::{Cause, NodeError, Step};
use crate::net::tls::{CertificateFault, certificate_fault};
use crate::net::websocket::Rejection;

/// Where a connection was to lead.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The node.
    pub node: &'a str,
    /// Which of its endpoints.
    pub kind: EndpointKind,
    /// It gets a PROXY header.
    pub has_header: bool,
    /// How far the node's clock is ahead, if that is known.
    pub ahead: Option<Ahead>,
}

/// How far a second try went, with a PROXY header where the first had none, and without one where it had one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondTry {
    /// Not made, since the first try says enough.
    None,
    /// It failed as well.
    Failed,
    /// The node answered it.
    Answered,
}

/// Whether a second try can say more about why the first failed.
pub fn is_worth_a_second_try(error: &NodeError) -> bool {
    match &error.cause {
        Cause::Refused(_) | Cause::UpgradeRejected(Rejection::Status(_)) => false,
        Cause::Tls(error) => certificate_fault(error).is_none(),
        _ => error.step != Step::Connect,
    }
}

/// What failed because of this process and not because of the node, in words.
pub fn own_fault(error: &NodeError) -> Option<String> {
    match &error.cause {
        Cause::NoSocket(_) | Cause::SourcePortsExhausted | Cause::FieldTooLong => Some(error.to_string()),
        _ => None,
    }
}

/// What a failed connection says.
pub fn finding(place: Place<'_>, error: &NodeError, second: SecondTry) -> Finding {
    let fault = match &error.cause {
        Cause::Tls(error) => certificate_fault(error),
        _ => None,
    };
    let of_clock = fault.and_then(|fault| clock::judge(fault, place.ahead));
    let (code, certainty, words) = match of_clock {
        Some(judged) => judged,
        None => {
            let (code, certainty) = diagnosis(place, error, second);
            (code, certainty, String::new())
        }
    };
    let second = match (second, place.has_header) {
        (SecondTry::Answered, false) => "; it answers with a PROXY header",
        (SecondTry::Answered, true) => "; it answers without a PROXY header",
        _ => "",
    };
    let reason = match error.cause {
        Cause::Refused(code) => {
            let name = connack_reason(code, if code < 0x80 { Version::V311 } else { Version::V5 });
            name.map(|name| format!(" ({})", name.replace('_', " ")))
        }
        _ => None,
    };
    Finding {
        code,
        subjects: vec![place.node.to_owned()],
        looked_at: format!("a connection to {} ({})", place.node, place.kind.name()),
        found: format!("{error}{}{second}{words}", reason.unwrap_or_default()),
        certainty,
    }
}

fn diagnosis(place: Place<'_>, error: &NodeError, second: SecondTry) -> (Code, Certainty) {
    use Certainty::{Certain, Likely};
    if second == SecondTry::Answered {
        return match place.has_header {
            false => (Code::ProxyExpected, Certain),
            true => (Code::ProxyUnexpected, Certain),
        };
    }
    match (&error.cause, error.step) {
        (Cause::NoAddress, _) => (Code::NotResolved, Certain),
        (Cause::Tls(error), _) => match certificate_fault(error) {
            Some(CertificateFault::Expired(_)) => (Code::CertificateExpired, Certain),
            Some(CertificateFault::NotValidYet(_)) => (Code::ClockSkew, Likely),
            Some(CertificateFault::Name) => (Code::CertificateName, Certain),
            Some(CertificateFault::Untrusted) => (Code::CertificateUntrusted, Certain),
            None => (Code::TlsFailed, Certain),
        },
        (Cause::UpgradeRejected(Rejection::Status(status)), _) if status.as_u16() == 404 => {
            (Code::WebSocketPath, Certain)
        }
        (Cause::UpgradeRejected(Rejection::Status(_)), _) => (Code::WebSocketRefused, Certain),
        // MQTT 3.1.1: bad user name or password, not authorized; MQTT 5: the same, and the method of authentication.
        (Cause::Refused(4 | 5 | 0x86 | 0x87 | 0x8C), _) => (Code::LoginRefused, Certain),
        (Cause::Refused(_), _) => (Code::ConnectRefused, Certain),
        (_, Step::Connect) => (Code::NodeUnreachable, Certain),
        (_, Step::Tls) => (Code::TlsFailed, Certain),
        (Cause::TimedOut, _) => (Code::NodeStalls, Likely),
        // Some close the connection where the path is another one.
        (_, Step::Upgrade) => (Code::WebSocketPath, Likely),
        (_, Step::Mqtt) => (Code::NotMqtt, Likely),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    fn code(step: Step, cause: Cause, has_header: bool, second: SecondTry) -> Code {
        let place = Place {
            node: "n1",
            kind: EndpointKind::Mqtt,
            has_header,
            ahead: None,
        };
        let error = NodeError {
            step,
            address: "127.0.0.1:1883".parse().ok(),
            cause,
        };
        finding(place, &error, second).code
    }

    #[test]
    fn each_way_to_fail_has_its_code() {
        let refused = || Cause::Io(Error::from(ErrorKind::ConnectionRefused));
        for (step, cause, expected) in [
            (Step::Connect, Cause::NoAddress, Code::NotResolved),
            (Step::Connect, refused(), Code::NodeUnreachable),
            (Step::Connect, Cause::TimedOut, Code::NodeUnreachable),
            (Step::Tls, Cause::Closed, Code::TlsFailed),
            (Step::Tls, Cause::Tls(Error::other("no TLS")), Code::TlsFailed),
            (Step::Mqtt, Cause::TimedOut, Code::NodeStalls),
            (Step::Mqtt, Cause::NotConnack, Code::NotMqtt),
            (Step::Mqtt, Cause::Refused(5), Code::LoginRefused),
            (Step::Mqtt, Cause::Refused(0x86), Code::LoginRefused),
            (Step::Mqtt, Cause::Refused(0x9C), Code::ConnectRefused),
            (Step::Upgrade, Cause::Closed, Code::WebSocketPath),
        ] {
            let what = format!("{step:?} {cause:?}");
            assert_eq!(code(step, cause, false, SecondTry::Failed), expected, "{what}");
        }
    }

    #[test]
    fn a_second_try_that_is_answered_says_which_side_to_change() {
        let closed = || Cause::Closed;
        assert_eq!(
            code(Step::Mqtt, closed(), false, SecondTry::Answered),
            Code::ProxyExpected
        );
        assert_eq!(
            code(Step::Mqtt, closed(), true, SecondTry::Answered),
            Code::ProxyUnexpected
        );
    }
}
