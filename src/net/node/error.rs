//! Why a node could not be used: at which step, at which address, and the cause.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use crate::net::dial::DialError;
use crate::net::websocket::frames::Fault;
use crate::net::websocket::{NodeUpgradeError, Rejection};

/// A step of a connection to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The TCP connection, with the PROXY header where one is expected.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The WebSocket upgrade.
    Upgrade,
    /// From the CONNECT to the CONNACK.
    Mqtt,
}

impl Step {
    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "TCP connect",
            Self::Tls => "TLS handshake",
            Self::Upgrade => "WebSocket upgrade",
            Self::Mqtt => "MQTT CONNECT",
        }
    }
}

/// A step that failed.
#[derive(Debug)]
pub struct NodeError {
    /// The step that failed.
    pub step: Step,
    /// The node's address; if it has several, the last one tried. `None` if no address was tried.
    pub address: Option<SocketAddr>,
    /// Why it failed.
    pub cause: Cause,
}

/// Why a step failed.
#[derive(Debug)]
pub enum Cause {
    /// It took too long.
    TimedOut,
    /// The node closed the connection.
    Closed,
    /// The connection was refused, reset or lost.
    Io(io::Error),
    /// A TLS error, as the TLS library reports it: above all, a certificate that is not trusted.
    Tls(io::Error),
    /// The response to the upgrade request was not a valid 101.
    UpgradeRejected(Rejection),
    /// The node sent invalid WebSocket frames.
    InvalidFrames(Fault),
    /// The node's first packet was not a valid CONNACK.
    NotConnack,
    /// The node sent a packet that a client need not expect, or that is too large.
    InvalidPacket,
    /// The CONNACK refused the CONNECT with this code.
    Refused(u8),
    /// The CONNECT cannot be written: a field is longer than 65,535 bytes.
    FieldTooLong,
    /// The endpoint has no address: its host name has never been resolved.
    NoAddress,
    /// Every source port towards the node is in use.
    SourcePortsExhausted,
    /// This process could not create a socket: it has no descriptor or no memory left.
    NoSocket(io::Error),
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::UnexpectedEof => Self::Closed,
            // Only TLS returns InvalidData.
            ErrorKind::InvalidData => Self::Tls(error),
            _ => Self::Io(error),
        }
    }
}

impl From<DialError> for NodeError {
    fn from(error: DialError) -> Self {
        let (step, address, cause) = match error {
            DialError::Connect(address, error) => (Step::Connect, Some(address), error.into()),
            DialError::Tls(address, error) => (Step::Tls, Some(address), error.into()),
            DialError::NoAddress => (Step::Connect, None, Cause::NoAddress),
            DialError::SourcePorts(address) => (Step::Connect, Some(address), Cause::SourcePortsExhausted),
            DialError::NoSocket(error) => (Step::Connect, None, Cause::NoSocket(error)),
        };
        Self { step, address, cause }
    }
}

impl From<NodeUpgradeError> for Cause {
    fn from(error: NodeUpgradeError) -> Self {
        match error {
            NodeUpgradeError::Rejected(rejection) => Self::UpgradeRejected(rejection),
            NodeUpgradeError::Closed => Self::Closed,
            NodeUpgradeError::Lost(error) => error.into(),
        }
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.step.name())?;
        if let Some(address) = self.address {
            write!(f, " at {address}")?;
        }
        write!(f, ": {}", self.cause)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str("timed out"),
            Self::Closed => f.write_str("the node closed the connection"),
            Self::Io(error) | Self::Tls(error) => error.fmt(f),
            Self::UpgradeRejected(rejection) => write!(f, "answered with {rejection}"),
            Self::InvalidFrames(fault) => write!(f, "invalid WebSocket frames (close code {})", fault.close_code()),
            Self::NotConnack => f.write_str("the first packet is not a CONNACK"),
            Self::InvalidPacket => f.write_str("the node sent an invalid packet"),
            Self::Refused(code) => write!(f, "refused with code {code} ({code:#04x})"),
            Self::FieldTooLong => f.write_str("a field of the CONNECT is longer than 65,535 bytes"),
            Self::NoAddress => f.write_str("the host name has not been resolved"),
            Self::SourcePortsExhausted => f.write_str("every source port towards the node is in use"),
            Self::NoSocket(error) => write!(f, "cannot create a socket: {error}"),
        }
    }
}

impl std::error::Error for NodeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            Cause::Io(error) | Cause::Tls(error) | Cause::NoSocket(error) => Some(error),
            _ => None,
        }
    }
}
