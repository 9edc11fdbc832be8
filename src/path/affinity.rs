//! What ties a client to a node: the affinity key, out of its CONNECT, its address or its certificate.
//!
//! Used by both the path and `remora route`, so that they hash the same bytes.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use regex_lite::{Regex, RegexBuilder};

use crate::cluster;
use crate::mqtt::{Connect, Need, SessionExpiry};
use crate::path::record::PlacementKey;

/// What ties a client to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Key {
    /// The client id of the CONNECT.
    #[default]
    ClientId,
    /// The user name; clients without one are routed by client id.
    Username,
    /// The client's IP address.
    ClientAddress,
    /// The common name of the client's certificate; without one the client id.
    CertificateCn,
}

impl Key {
    /// How much of a CONNECT must be read for it.
    pub fn need(self) -> Need {
        match self {
            Self::ClientId | Self::ClientAddress | Self::CertificateCn => Need::ClientId,
            Self::Username => Need::Username,
        }
    }
}

/// How clients are spread that nothing has to tie to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// By the ring.
    Ring,
    /// To the less loaded of two nodes drawn by weight.
    Least,
}

impl Spread {
    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Least => "least",
        }
    }
}

/// The longest key that is searched for a group, in bytes; a longer one is a group of its own. The search takes time in proportion to
/// the key, which a client chooses.
const GROUPED_KEY_MAX: usize = 1024;

/// The most memory that a compiled expression takes, in bytes: what one step of a search may go through.
const EXPRESSION_BYTES_MAX: usize = 64 * 1024;

/// The part of a key by which several clients are tied to one node: the capture group of a regular expression.
#[derive(Clone, Debug)]
pub struct Group(Regex);

/// Why an expression is none for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAGroup {
    /// It is no regular expression, or too large a one, for this reason.
    Invalid(String),
    /// It has this many capture groups, and not one.
    Captures(usize),
}

impl Group {
    /// The group by this expression, which must have one capture group.
    ///
    /// # Errors
    /// [`NotAGroup`].
    pub fn new(expression: &str) -> Result<Self, NotAGroup> {
        let mut builder = RegexBuilder::new(expression);
        let regex = builder.size_limit(EXPRESSION_BYTES_MAX).build();
        let regex = regex.map_err(|error| NotAGroup::Invalid(error.to_string()))?;
        // The first one is the whole match.
        match regex.captures_len() - 1 {
            1 => Ok(Self(regex)),
            count => Err(NotAGroup::Captures(count)),
        }
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The part of `key` that counts; `None` if that is all of it.
    fn part<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let key = key.get(..key.len().min(GROUPED_KEY_MAX + 1))?;
        let text = str::from_utf8(key).ok().filter(|text| text.len() <= GROUPED_KEY_MAX)?;
        let part = self.0.captures(text)?.get(1)?.as_str();
        (!part.is_empty()).then_some(part.as_bytes())
    }
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Group {}

/// What ties which clients to nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What ties a client to a node.
    pub key: Key,
    /// The part of it that counts; `None` means all of it.
    pub group: Option<Group>,
    /// Where clients without a key go: by the ring of their address, or by load.
    pub anonymous: Spread,
    /// Where clients go whose session ends with their connection.
    pub clean_sessions: Spread,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            key: Key::default(),
            group: None,
            anonymous: Spread::Least,
            clean_sessions: Spread::Ring,
        }
    }
}

impl Rule {
    /// The affinity of a client whose CONNECT was read from `bytes`, with its address and the common name of its certificate.
    pub(crate) fn of_client<'a>(
        &self,
        connect: &Connect,
        bytes: &'a [u8],
        address: IpAddr,
        common_name: Option<&'a str>,
    ) -> Affinity<'a> {
        // A client that resumes an earlier session has something to find.
        let is_clean = connect.clean_start() && SessionExpiry::of(connect) == SessionExpiry::WITH_CONNECTION;
        if is_clean && self.clean_sessions == Spread::Least {
            return Affinity::NONE;
        }
        let name = match self.key {
            Key::ClientAddress => return Affinity::of_address(address),
            Key::ClientId => None,
            Key::Username => connect.username(bytes),
            Key::CertificateCn => common_name.map(str::as_bytes),
        };
        let name = name.filter(|name| !name.is_empty());
        match (name.unwrap_or_else(|| connect.client_id(bytes)), self.anonymous) {
            ([], Spread::Least) => Affinity::NONE,
            ([], Spread::Ring) => Affinity {
                // The node may assign it an id, under which it is remembered.
                is_remembered: false,
                ..Affinity::of_address(address)
            },
            (name, _) => self.of_name(name),
        }
    }

    /// The affinity of a client id, a user name or a common name.
    pub fn of_name<'a>(&self, name: &'a [u8]) -> Affinity<'a> {
        Affinity {
            key: Cow::Borrowed(self.part(name)),
            is_remembered: true,
        }
    }

    /// The part of a client id, a user name or a common name that counts.
    pub(crate) fn part<'k>(&self, name: &'k [u8]) -> &'k [u8] {
        let part = self.group.as_ref().and_then(|group| group.part(name));
        part.unwrap_or(name)
    }
}

/// Which node a client belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What ties which clients to nodes.
    pub rule: Rule,
    /// Seed of the ring; the same in every balancer of a site. Changing it moves every client once.
    pub seed: u64,
    /// The most that a node has of its share of all connections, in percent; `None` means no bound.
    pub load_max: Option<u32>,
    /// The most placements remembered.
    pub placements_max: usize,
    /// A placement of a disconnected client is forgotten after this long, even if its session lives longer.
    pub placement_age_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rule: Rule::default(),
            seed: cluster::SEED_DEFAULT,
            load_max: None,
            placements_max: 100_000,
            placement_age_max: Duration::from_secs(24 * 60 * 60),
        }
    }
}

/// A client's affinity key: the bytes that the ring hashes. Empty for a client that goes by load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity<'a> {
    key: Cow<'a, [u8]>,
    /// A placement of the client is kept under its key.
    is_remembered: bool,
}

impl Affinity<'_> {
    /// Nothing ties the client to a node.
    const NONE: Self = Self {
        key: Cow::Borrowed(&[]),
        is_remembered: false,
    };

    /// The affinity of an address.
    pub fn of_address(address: IpAddr) -> Self {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        Self {
            key: Cow::Owned(octets),
            is_remembered: true,
        }
    }

    /// The affinity key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether nothing ties the client to a node.
    pub fn is_anonymous(&self) -> bool {
        self.key.is_empty()
    }

    /// The key of the client's placement; `PlacementKey::NONE` if none is kept.
    pub fn placement(&self) -> PlacementKey {
        match self.is_remembered {
            true => PlacementKey::of(&self.key),
            false => PlacementKey::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Verdict, read_connect};

    /// A CONNECT of MQTT 3.1.1 with this client id and user name.
    fn connect(client_id: &str, username: Option<&str>) -> (Connect, Vec<u8>) {
        let mut bytes = vec![0x10, 0, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x02, 0, 60];
        for text in [Some(client_id), username].into_iter().flatten() {
            bytes.extend((text.len() as u16).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes[9] |= u8::from(username.is_some()) << 7;
        bytes[1] = bytes.len() as u8 - 2;
        match read_connect(&bytes, Need::Username) {
            Verdict::Complete(connect) => (connect, bytes),
            other => panic!("{other:?}"),
        }
    }

    fn by(key: Key) -> Rule {
        Rule { key, ..Rule::default() }
    }

    #[test]
    fn a_client_without_the_configured_name_is_tied_by_its_client_id() {
        let address = IpAddr::from([10, 0, 0, 7]);
        let cases = [
            (Key::ClientId, Some("user"), Some("cn"), &b"id"[..]),
            (Key::Username, Some("user"), Some("cn"), b"user"),
            (Key::Username, Some(""), Some("cn"), b"id"),
            (Key::Username, None, Some("cn"), b"id"),
            (Key::CertificateCn, Some("user"), Some("cn"), b"cn"),
            (Key::CertificateCn, Some("user"), Some(""), b"id"),
            (Key::CertificateCn, Some("user"), None, b"id"),
            (Key::ClientAddress, Some("user"), Some("cn"), &[10, 0, 0, 7]),
        ];
        for (key, username, common_name, expected) in cases {
            let (connect, bytes) = connect("id", username);
            let affinity = by(key).of_client(&connect, &bytes, address, common_name);
            assert_eq!(affinity.key(), expected, "{key:?} {username:?} {common_name:?}");
        }
    }

    #[test]
    fn an_anonymous_client_has_no_placement() {
        let (connect, bytes) = connect("", None);
        let affinity = by(Key::Username).of_client(&connect, &bytes, [10, 0, 0, 7].into(), None);
        assert!(affinity.is_anonymous());
        assert_eq!(affinity.placement().hash(), None);
    }

    #[test]
    fn an_address_ties_by_its_octets() {
        assert_eq!(Affinity::of_address([10, 0, 0, 7].into()).key(), [10, 0, 0, 7]);
        let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        assert_eq!(Affinity::of_address(v6).key().len(), 16);
    }

    #[test]
    fn clients_of_a_group_have_one_key_and_others_their_own() {
        let rule = Rule {
            group: Some(Group::new("^([^/]+)/").expect("a group")),
            ..Rule::default()
        };
        let long = [b"tenant7/".to_vec(), vec![b'x'; GROUPED_KEY_MAX]].concat();
        let cases: [(&[u8], &[u8]); 8] = [
            (b"tenant7/dev3", b"tenant7"),
            (b"tenant7/app", b"tenant7"),
            (b"tenant8/app", b"tenant8"),
            ("größe/app".as_bytes(), "größe".as_bytes()),
            (b"plain", b"plain"),
            (b"/app", b"/app"),
            (b"tenant7/\xFF", b"tenant7/\xFF"),
            (&long, &long),
        ];
        for (name, key) in cases {
            assert_eq!(rule.of_name(name).key(), key);
            assert_eq!(rule.of_name(name).placement(), PlacementKey::of(key));
        }
        let (connect, bytes) = connect("tenant7/dev3", None);
        let affinity = rule.of_client(&connect, &bytes, [10, 0, 0, 7].into(), None);
        assert_eq!(affinity.key(), b"tenant7");
    }

    #[test]
    fn a_group_that_captures_nothing_is_the_whole_key() {
        let rule = Rule {
            group: Some(Group::new("^a(b*)").expect("a group")),
            ..Rule::default()
        };
        assert_eq!(rule.of_name(b"abbc").key(), b"bb");
        assert_eq!(rule.of_name(b"ac").key(), b"ac");
    }

    #[test]
    fn an_expression_must_have_one_capture_group_and_a_size_within_bounds() {
        assert_eq!(Group::new("^tenant"), Err(NotAGroup::Captures(0)));
        assert_eq!(Group::new("(a)(b)"), Err(NotAGroup::Captures(2)));
        assert!(Group::new("(?:a|b)(c)").is_ok());
        for invalid in ["(", "a{1000}{1000}(b)", "(\\p{Greek})"] {
            assert!(matches!(Group::new(invalid), Err(NotAGroup::Invalid(_))), "{invalid}");
        }
    }

    #[test]
    fn an_anonymous_client_may_go_by_its_address_and_is_not_remembered_under_it() {
        let rule = Rule {
            anonymous: Spread::Ring,
            ..Rule::default()
        };
        let (connect, bytes) = connect("", None);
        let affinity = rule.of_client(&connect, &bytes, [10, 0, 0, 7].into(), None);
        assert_eq!(affinity.key(), [10, 0, 0, 7]);
        assert_eq!(affinity.placement(), PlacementKey::NONE);
    }

    #[test]
    fn a_clean_session_may_go_by_load_and_a_persistent_one_stays() {
        let rule = Rule {
            clean_sessions: Spread::Least,
            ..Rule::default()
        };
        let (connect, mut bytes) = connect("id", None);
        let address = [10, 0, 0, 7].into();
        assert!(rule.of_client(&connect, &bytes, address, None).is_anonymous());
        bytes[9] &= !0x02;
        let Verdict::Complete(connect) = read_connect(&bytes, Need::ClientId) else {
            panic!("a CONNECT");
        };
        assert_eq!(rule.of_client(&connect, &bytes, address, None).key(), b"id");
        // MQTT 5: an earlier session may be there, although this one is not kept; or this one is.
        for (flags, properties, is_anonymous) in [
            (0x02, &[0][..], true),
            (0x00, &[0], false),
            (0x02, &[5, 0x11, 0, 0, 0, 60], false),
        ] {
            let mut bytes = [
                &[0x10, 0, 0, 4][..],
                b"MQTT",
                &[5, flags, 0, 60],
                properties,
                b"\0\x02id",
            ]
            .concat();
            bytes[1] = bytes.len() as u8 - 2;
            let Verdict::Complete(connect) = read_connect(&bytes, Need::ClientId) else {
                panic!("a CONNECT");
            };
            let affinity = rule.of_client(&connect, &bytes, address, None);
            assert_eq!(affinity.is_anonymous(), is_anonymous, "{flags} {properties:?}");
        }
    }
}
