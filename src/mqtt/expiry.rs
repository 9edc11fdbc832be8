//! When a session and an idle connection expire, from the fields of CONNECT and CONNACK (MQTT 5, 3.1.2.10 and 3.1.2.11.2).

use std::time::Duration;

use super::{Connack, Connect, Version};

/// How long a session outlives its connection: seconds, 0 if it ends with it, the largest value if it never expires (MQTT 5,
/// 3.1.2.11.2).
///
/// Half as large as a `Duration`, and each connection has one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionExpiry(pub u32);

impl SessionExpiry {
    /// The session ends with its connection.
    pub const WITH_CONNECTION: Self = Self(0);

    /// The session never expires.
    pub const NEVER: Self = Self(u32::MAX);

    /// According to the CONNECT alone.
    pub fn of(connect: &Connect) -> Self {
        by_connect(connect.version(), connect.clean_start(), connect.session_expiry())
    }

    /// As a duration, the largest for a session that never expires; `None` if it ends with its connection.
    pub fn duration(self) -> Option<Duration> {
        match self {
            Self::WITH_CONNECTION => None,
            Self::NEVER => Some(Duration::MAX),
            Self(seconds) => Some(Duration::from_secs(seconds.into())),
        }
    }
}

fn by_connect(version: Version, clean_start: bool, seconds: Option<u32>) -> SessionExpiry {
    match version {
        Version::V5 => SessionExpiry(seconds.unwrap_or(0)),
        Version::V31 | Version::V311 if clean_start => SessionExpiry::WITH_CONNECTION,
        Version::V31 | Version::V311 => SessionExpiry::NEVER,
        Version::Unknown(_) => SessionExpiry::WITH_CONNECTION,
    }
}

/// The Keep Alive that the client must keep, in seconds; 0 if it need not, or if only the node and the client know.
pub(crate) fn keep_alive(connect: &Connect, connack: Option<&Connack>) -> u16 {
    by_connack(connect.version(), connect.keep_alive(), connack)
}

/// In MQTT 5, the node's value replaces the client's (3.2.2.3.14). It may be in a CONNACK that was not read: behind an exchange of
/// AUTH packets, or in one that is too large. To guess one that is too short would disconnect a client that obeys the node.
fn by_connack(version: Version, keep_alive: u16, connack: Option<&Connack>) -> u16 {
    match (version, connack) {
        (_, Some(connack)) => connack.server_keep_alive.unwrap_or(keep_alive),
        (Version::V31 | Version::V311, None) => keep_alive,
        (Version::V5 | Version::Unknown(_), None) => 0,
    }
}

/// How long a client with this Keep Alive, in seconds, may send nothing before the node closes its connection: one and a half
/// times the Keep Alive. `None` for 0, which turns the limit off.
pub(crate) fn keep_alive_limit(keep_alive: u16) -> Option<Duration> {
    (keep_alive > 0).then(|| Duration::from_millis(u64::from(keep_alive) * 1_500))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lives_as_long_as_its_connect_says() {
        let ever = Some(Duration::MAX);
        let hour = Some(Duration::from_secs(3_600));
        let by_connect = |version, clean_start, seconds| by_connect(version, clean_start, seconds).duration();
        assert_eq!(by_connect(Version::V311, true, None), None);
        assert_eq!(by_connect(Version::V311, false, None), ever);
        assert_eq!(by_connect(Version::V31, false, None), ever);
        assert_eq!(by_connect(Version::V5, false, None), None);
        assert_eq!(by_connect(Version::V5, false, Some(0)), None);
        assert_eq!(by_connect(Version::V5, true, Some(3_600)), hour);
        assert_eq!(by_connect(Version::V5, true, Some(u32::MAX)), ever);
        assert_eq!(by_connect(Version::Unknown(9), false, Some(3_600)), None);
    }

    #[test]
    fn the_nodes_keep_alive_wins_and_none_is_guessed_where_it_was_not_read() {
        let connack = |server_keep_alive| Connack {
            code: 0,
            session_present: false,
            assigned_client_id: None,
            server_keep_alive,
            session_expiry: None,
        };
        for version in [Version::V31, Version::V311, Version::V5] {
            assert_eq!(by_connack(version, 60, Some(&connack(None))), 60);
        }
        assert_eq!(by_connack(Version::V5, 60, Some(&connack(Some(300)))), 300);
        assert_eq!(by_connack(Version::V5, 60, Some(&connack(Some(0)))), 0);
        assert_eq!(by_connack(Version::V5, 60, None), 0);
        assert_eq!(by_connack(Version::V311, 60, None), 60, "no node can change it");
    }

    #[test]
    fn a_client_may_be_silent_for_one_and_a_half_times_its_keep_alive() {
        assert_eq!(keep_alive_limit(0), None);
        assert_eq!(keep_alive_limit(1), Some(Duration::from_millis(1_500)));
        assert_eq!(keep_alive_limit(60), Some(Duration::from_secs(90)));
        assert_eq!(keep_alive_limit(u16::MAX), Some(Duration::from_millis(98_302_500)));
    }
}
