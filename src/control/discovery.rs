//! Which nodes are found: folds the answers of a source into the set in force. No I/O: answers and the time are passed in.
//!
//! An answer may be wrong, and a cluster that is asked while it is in trouble leaves nodes out. So a node that is missing stays, and its
//! health decides whether it gets clients, until it has been missing for the grace time. An answer in which more than half of the nodes
//! are missing may be that of another cluster: nothing of it counts until as much time has passed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::known::KnownFound;
use crate::cluster::{Member, MemberEndpoint, NodeAddress, NodeApi};

/// The host in the addresses of a template. No host can have this name (RFC 6761).
pub const HOST_OF_FOUND: &str = "host-of-node.invalid";

/// The most nodes in an answer.
pub(super) const FOUND_MAX: usize = 1000;

/// Where nodes are found, beside those in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// Who is asked.
    pub source: Source,
    /// The time between an answer and the next question, a tenth more or less; less where a record is to be believed for less.
    pub interval: Duration,
    /// How long a node that is missing in answers stays.
    pub grace: Duration,
    /// The endpoints of every node whose host is found; their hosts are [`HOST_OF_FOUND`]. `None` if the source says all of a node.
    pub template: Option<Member>,
}

/// Who is asked for nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which of the following is used.
    pub kind: SourceKind,
    /// EMQX's HTTP API: the first of these that answers.
    pub seeds: Vec<NodeApi>,
    /// The name behind which the nodes are.
    pub name: Option<String>,
    /// The name servers to ask; those of the system if there is none.
    pub name_servers: Vec<SocketAddr>,
    /// The file that lists them.
    pub file: Option<PathBuf>,
}

/// What kind of source is asked for nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// EMQX's HTTP API.
    Emqx,
    /// Name servers: SRV records, or addresses.
    Dns,
    /// A file, which says all of each node.
    File,
}

impl SourceKind {
    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Emqx => "emqx",
            Self::Dns => "dns",
            Self::File => "file",
        }
    }
}

/// The same text means the same source.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            seeds,
            name,
            name_servers,
            file,
        } = self;
        f.write_str(kind.name())?;
        seeds.iter().try_for_each(|seed| write!(f, " {seed}"))?;
        name.iter().try_for_each(|name| write!(f, " {name}"))?;
        name_servers.iter().try_for_each(|server| write!(f, " @{server}"))?;
        file.iter().try_for_each(|file| write!(f, " {}", file.display()))
    }
}

/// A node that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name: its identity.
    pub name: String,
    /// Where it is.
    pub at: FoundAt,
}

/// What a source says of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundAt {
    /// Its host, an IP address or a host name. All else is the template's.
    Host(String),
    /// All that a configuration could say of it.
    Member(Box<Member>),
}

impl Found {
    /// A node at `host`.
    pub fn at_host(name: String, host: String) -> Self {
        Self {
            name,
            at: FoundAt::Host(host),
        }
    }
}

impl From<Member> for Found {
    fn from(member: Member) -> Self {
        Self {
            name: member.name.clone(),
            at: FoundAt::Member(Box::new(member)),
        }
    }
}

/// The nodes of one answer, or why there is none.
pub type FoundAnswer = Result<Vec<Found>, String>;

/// What an answer has changed, to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Discovered {
    /// Nodes were added, or removed, or have moved: the set in force is another one.
    Changed,
    /// There is no answer that can be used any more; the nodes stay.
    Failed(String),
    /// There are answers again.
    Again,
    /// So many of so many nodes are missing, which are too many to be believed before the grace time is over.
    HeldBack { missing: usize, of: usize },
    /// This node is missing, and stays for the grace time.
    Missing(String),
}

/// The nodes that are found, as far as control knows.
#[derive(Debug, Default)]
pub(super) struct FoundNodes {
    /// Those in force, by name.
    in_force: BTreeMap<String, InForce>,
    /// An answer is awaited.
    is_asking: bool,
    /// When the source is asked next; at once, if it has never been.
    due: Option<Instant>,
    /// The source is another one than the last answer's, so that any set of nodes is believed.
    is_new: bool,
    /// The last answer could not be used.
    has_failed: bool,
    /// Since when answers have been held back, and the names in the last of them.
    held_back: Option<(Instant, BTreeSet<String>)>,
}

#[derive(Debug)]
struct InForce {
    at: FoundAt,
    /// Since when it is missing in answers.
    missing: Option<Instant>,
}

impl FoundNodes {
    /// When the source is asked next: not while an answer is awaited.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        (!self.is_asking).then(|| self.due.unwrap_or(now))
    }

    /// Whether the source is to be asked now, which then counts as begun.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.next(now).is_some_and(|due| due <= now);
        self.is_asking |= is_due;
        is_due
    }

    /// Whether the last answer could not be used.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether the last answer that could be used is held back.
    pub(super) fn holds_back(&self) -> bool {
        self.held_back.is_some()
    }

    /// Another source is asked from now on, at once. The nodes stay until it has answered.
    pub(super) fn begin_anew(&mut self) {
        *self = Self {
            in_force: std::mem::take(&mut self.in_force),
            is_new: true,
            ..Self::default()
        };
    }

    /// Begins with what another process has found; if it has asked another source, any set of nodes is believed. Nodes whose hosts are not
    /// known are left out.
    pub(super) fn begin_with(&mut self, found: &[KnownFound], is_same_source: bool, now: Instant) {
        let found = found.iter().filter_map(|known| {
            let in_force = InForce {
                at: FoundAt::Host(known.host.clone()?),
                missing: known.missing.map(|age| now.checked_sub(age).unwrap_or(now)),
            };
            Some((known.name.clone(), in_force))
        });
        self.in_force = found.take(FOUND_MAX).collect();
        self.is_new = !is_same_source;
    }

    /// What another process needs to begin with.
    pub(super) fn known(&self, now: Instant) -> Vec<KnownFound> {
        let known = self.in_force.iter().map(|(name, node)| KnownFound {
            name: name.clone(),
            host: match &node.at {
                FoundAt::Host(host) => Some(host.clone()),
                FoundAt::Member(_) => None,
            },
            missing: node.missing.map(|since| now.saturating_duration_since(since)),
        });
        known.collect()
    }

    /// The nodes in force, by name.
    pub(super) fn in_force(&self) -> impl Iterator<Item = (&str, &FoundAt)> {
        self.in_force.iter().map(|(name, node)| (&**name, &node.at))
    }

    /// Takes an answer; the next question follows after `interval`. Returns what is to be said of it.
    pub(super) fn answered(
        &mut self,
        answer: &FoundAnswer,
        interval: Duration,
        grace: Duration,
        now: Instant,
    ) -> Vec<Discovered> {
        self.is_asking = false;
        self.due = Some(now + interval);
        let found = match answer {
            Ok(found) if found.is_empty() => Err("no node in the answer".to_owned()),
            Ok(found) if found.len() > FOUND_MAX => Err(format!("more than {FOUND_MAX} nodes in the answer")),
            Ok(found) => Ok(found),
            Err(why) => Err(why.clone()),
        };
        let found = match found {
            Ok(found) => found,
            // Said once.
            Err(_) if self.has_failed => return Vec::new(),
            Err(why) => {
                self.has_failed = true;
                return vec![Discovered::Failed(why)];
            }
        };
        let mut said = Vec::new();
        if std::mem::take(&mut self.has_failed) {
            said.push(Discovered::Again);
        }
        // Of two with one name, the first counts.
        let mut by_name: BTreeMap<&str, &FoundAt> = BTreeMap::new();
        for node in found {
            by_name.entry(&node.name).or_insert(&node.at);
        }
        let of = self.in_force.len();
        let missing = self
            .in_force
            .keys()
            .filter(|name| !by_name.contains_key(name.as_str()))
            .count();
        let are_too_many = missing * 2 > of && !self.is_new;
        if are_too_many && !self.is_believed(&by_name, grace, now) {
            if self.held_back.is_none() {
                said.push(Discovered::HeldBack { missing, of });
            }
            let since = match self.held_back.take() {
                Some((since, names)) if names.iter().map(String::as_str).eq(by_name.keys().copied()) => since,
                _ => now,
            };
            self.held_back = Some((since, by_name.keys().map(|name| (*name).to_owned()).collect()));
            return said;
        }
        self.held_back = None;
        // What was held back for the grace time has waited long enough.
        let goes_at_once = are_too_many || std::mem::take(&mut self.is_new);
        let mut is_changed = false;
        self.in_force.retain(|name, node| {
            if by_name.contains_key(name.as_str()) {
                node.missing = None;
                return true;
            }
            if node.missing.is_none() && !goes_at_once {
                said.push(Discovered::Missing(name.clone()));
            }
            let since = *node.missing.get_or_insert(now);
            let stays = !goes_at_once && now.saturating_duration_since(since) < grace;
            is_changed |= !stays;
            stays
        });
        for (name, at) in by_name {
            let node = self.in_force.entry(name.to_owned()).or_insert_with(|| {
                is_changed = true;
                InForce {
                    at: at.clone(),
                    missing: None,
                }
            });
            if node.at != *at {
                is_changed = true;
                node.at.clone_from(at);
            }
        }
        if is_changed {
            said.push(Discovered::Changed);
        }
        said
    }

    /// Whether the same names have been held back for the grace time.
    fn is_believed(&self, by_name: &BTreeMap<&str, &FoundAt>, grace: Duration, now: Instant) -> bool {
        self.held_back.as_ref().is_some_and(|(since, names)| {
            names.iter().map(String::as_str).eq(by_name.keys().copied())
                && now.saturating_duration_since(*since) >= grace
        })
    }
}

impl Discovery {
    /// The node of this name that was found there; `None` if its host is all that is known, and there is no template.
    pub(crate) fn member(&self, name: &str, at: &FoundAt) -> Option<Member> {
        match at {
            FoundAt::Host(host) => self.member_at(name, host),
            FoundAt::Member(member) => Some(Member::clone(member)),
        }
    }

    /// The node of this name at `host`, by the template.
    fn member_at(&self, name: &str, host: &str) -> Option<Member> {
        let address = |address: &mut NodeAddress| {
            if let NodeAddress::Host(of_template, port) = address
                && of_template == HOST_OF_FOUND
            {
                *address = match host.parse() {
                    Ok(ip) => NodeAddress::Socket((std::net::IpAddr::to_canonical(&ip), *port).into()),
                    Err(_) => NodeAddress::Host(host.to_owned(), *port),
                };
            }
        };
        let mut member = self.template.clone()?;
        name.clone_into(&mut member.name);
        let of_api = member.api.iter_mut().map(|api| (&mut api.address, &mut api.tls));
        let of_endpoints = member.endpoints.iter_mut().map(|(_, endpoint)| {
            let MemberEndpoint { address, tls, .. } = endpoint;
            (address, tls)
        });
        for (at, tls) in of_endpoints.chain(of_api) {
            address(at);
            if let Some(tls) = tls
                && &*tls.server_name == HOST_OF_FOUND
            {
                tls.server_name = Arc::from(host);
            }
        }
        Some(member)
    }
}

/// The nodes in the answer of EMQX to GET /api/v5/nodes: an array of objects, of whose fields only `node` is needed. A stopped core node
/// stays a node, which is found to be down; a stopped replicant is not in the answer.
pub(super) fn read_emqx(body: &[u8]) -> FoundAnswer {
    let nodes: Vec<EmqxNode> = serde_json::from_slice(body).map_err(|error| format!("not a list of nodes: {error}"))?;
    if nodes.len() > FOUND_MAX {
        return Err(format!("more than {FOUND_MAX} nodes in the answer"));
    }
    let found = nodes.into_iter().map(|EmqxNode { node }| match node.rsplit_once('@') {
        Some((_, host)) if is_host(host) && is_name(&node) => {
            let host = host.to_owned();
            Ok(Found::at_host(node, host))
        }
        _ => Err("a node whose name is not NAME@HOST is in the answer".to_owned()),
    });
    found.collect()
}

#[derive(serde::Deserialize)]
struct EmqxNode {
    node: String,
}

/// Whether it may be the name of a node: as in the configuration, and in log lines.
fn is_name(name: &str) -> bool {
    /// As many as a host name may have, twice.
    const BYTES_MAX: usize = 512;
    name.len() <= BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"')
}

/// Whether it may be a host: an IP address or a host name.
pub(super) fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    host.parse::<std::net::IpAddr>().is_ok()
        || (host.len() <= 253 && host.trim_end_matches('.').split('.').all(is_label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{EndpointTls, Endpoints};

    const INTERVAL: Duration = Duration::from_secs(10);
    const GRACE: Duration = Duration::from_secs(60);

    fn found(names: &[&str]) -> FoundAnswer {
        let found = |name: &&str| Found::at_host(format!("emqx@{name}"), (*name).to_owned());
        Ok(names.iter().map(found).collect())
    }

    fn host(at: &FoundAt) -> &str {
        match at {
            FoundAt::Host(host) => host,
            FoundAt::Member(member) => panic!("{member:?}"),
        }
    }

    fn hosts(nodes: &FoundNodes) -> Vec<&str> {
        nodes.in_force().map(|(_, at)| host(at)).collect()
    }

    fn started(names: &[&str], now: Instant) -> FoundNodes {
        let mut nodes = FoundNodes::default();
        assert!(nodes.is_due(now));
        assert_eq!(
            nodes.answered(&found(names), INTERVAL, GRACE, now),
            [Discovered::Changed]
        );
        nodes
    }

    #[test]
    fn a_failed_or_empty_answer_keeps_the_nodes_and_is_said_once() {
        let now = Instant::now();
        let mut nodes = started(&["a", "b"], now);
        let too_many: Vec<String> = (0..=FOUND_MAX).map(|number| format!("n{number}")).collect();
        let too_many: Vec<&str> = too_many.iter().map(String::as_str).collect();
        for (number, answer) in [Err("away".to_owned()), found(&[]), found(&too_many)]
            .into_iter()
            .enumerate()
        {
            let said = nodes.answered(&answer, INTERVAL, GRACE, now + GRACE * 10);
            assert_eq!(said.is_empty(), number > 0, "{said:?}");
            assert_eq!(hosts(&nodes), ["a", "b"]);
        }
        let said = nodes.answered(&found(&["a", "b"]), INTERVAL, GRACE, now);
        assert_eq!(said, [Discovered::Again]);
    }

    #[test]
    fn what_another_process_has_found_is_in_force_and_goes_as_it_would_have_gone_there() {
        let now = Instant::now();
        let mut nodes = started(&["a", "b", "c"], now);
        let two = found(&["a", "b"]);
        nodes.answered(&two, INTERVAL, GRACE, now);
        let next = |is_same_source: bool, at: Instant| {
            let mut next = FoundNodes::default();
            next.begin_with(&nodes.known(at), is_same_source, at);
            next
        };
        let later = now + GRACE - INTERVAL;
        let mut same = next(true, later);
        assert_eq!(hosts(&same), ["a", "b", "c"]);
        // Most are missing: perhaps another cluster has answered.
        let held_back = same.answered(&found(&["a"]), INTERVAL, GRACE, later);
        assert_eq!(held_back, [Discovered::HeldBack { missing: 2, of: 3 }]);
        assert_eq!(same.answered(&two, INTERVAL, GRACE, later), []);
        // It has been missing since the process before saw that.
        assert_eq!(same.answered(&two, INTERVAL, GRACE, now + GRACE), [Discovered::Changed]);
        let mut other = next(false, later);
        assert_eq!(hosts(&other), ["a", "b", "c"], "until there is an answer");
        other.answered(&found(&["d"]), INTERVAL, GRACE, later);
        assert_eq!(hosts(&other), ["d"]);
    }

    #[test]
    fn a_missing_node_stays_for_the_grace_time_and_no_longer() {
        let now = Instant::now();
        let mut nodes = started(&["a", "b", "c"], now);
        let two = found(&["a", "b"]);
        assert_eq!(
            nodes.answered(&two, INTERVAL, GRACE, now),
            [Discovered::Missing("emqx@c".into())]
        );
        assert_eq!(nodes.answered(&two, INTERVAL, GRACE, now + GRACE - INTERVAL), []);
        assert_eq!(hosts(&nodes), ["a", "b", "c"]);
        // Seen once in between: the time begins anew.
        assert_eq!(
            nodes.answered(&found(&["a", "b", "c"]), INTERVAL, GRACE, now + GRACE),
            []
        );
        let again = now + GRACE + INTERVAL;
        assert_eq!(
            nodes.answered(&two, INTERVAL, GRACE, again),
            [Discovered::Missing("emqx@c".into())]
        );
        assert_eq!(
            nodes.answered(&two, INTERVAL, GRACE, again + GRACE),
            [Discovered::Changed]
        );
        assert_eq!(hosts(&nodes), ["a", "b"]);
    }

    #[test]
    fn an_answer_of_another_cluster_is_held_back_for_the_grace_time() {
        let now = Instant::now();
        let mut nodes = started(&["a", "b", "c"], now);
        let other = found(&["x", "y"]);
        let said = nodes.answered(&other, INTERVAL, GRACE, now);
        assert_eq!(said, [Discovered::HeldBack { missing: 3, of: 3 }]);
        assert_eq!(nodes.answered(&other, INTERVAL, GRACE, now + INTERVAL), [], "said once");
        assert_eq!(hosts(&nodes), ["a", "b", "c"], "nothing is added either");
        // Another one again: its time begins anew.
        assert_eq!(nodes.answered(&found(&["z"]), INTERVAL, GRACE, now + GRACE), []);
        assert_eq!(
            nodes.answered(&found(&["z"]), INTERVAL, GRACE, now + GRACE * 2 - INTERVAL),
            []
        );
        assert_eq!(hosts(&nodes), ["a", "b", "c"]);
        let said = nodes.answered(&found(&["z"]), INTERVAL, GRACE, now + GRACE * 2);
        assert_eq!((said, hosts(&nodes)), (vec![Discovered::Changed], vec!["z"]));
    }

    #[test]
    fn half_of_the_nodes_missing_is_not_too_many() {
        let now = Instant::now();
        let mut nodes = started(&["a", "b"], now);
        let said = nodes.answered(&found(&["b", "c"]), INTERVAL, GRACE, now);
        assert_eq!(said, [Discovered::Missing("emqx@a".into()), Discovered::Changed]);
        assert_eq!(hosts(&nodes), ["a", "b", "c"]);
    }

    #[test]
    fn the_answers_of_all_versions_are_read() {
        // 5.0: loads are strings. 5.4: numbers, connections that are live. 5.8: no monitor, so no loads; a core node that is stopped.
        // 5.9 and later: more fields.
        for body in [
            r#"[{"node":"emqx@10.0.0.1","node_status":"running","load1":"2.27","load5":"1.0","role":"core","uptime":7},
                {"node":"emqx@h2.example","node_status":"running","load1":"0.1","role":"replicant","memory_total":"512.00M"}]"#,
            r#"[{"node":"emqx@10.0.0.1","node_status":"running","load1":2.27,"live_connections":3,"edition":"Opensource"},
                {"node":"emqx@h2.example","node_status":"running","load1":0,"connections":9}]"#,
            r#"[{"node":"emqx@10.0.0.1","node_status":"running","version":"5.8.9","cluster_sessions":1},
                {"node":"emqx@h2.example","node_status":"stopped","role":"core"}]"#,
            r#"[{"node":"emqx@10.0.0.1","node_status":"running","edition":"Enterprise","new":{"a":[null]}},
                {"node":"emqx@h2.example","node_status":"running","version":"5.10.0","description":"x"}]"#,
        ] {
            let found = read_emqx(body.as_bytes()).expect("nodes");
            let found: Vec<(&str, &str)> = found.iter().map(|f| (&*f.name, host(&f.at))).collect();
            assert_eq!(
                found,
                [("emqx@10.0.0.1", "10.0.0.1"), ("emqx@h2.example", "h2.example")]
            );
        }
    }

    #[test]
    fn what_is_no_list_of_nodes_is_an_error_and_no_node_of_it_counts() {
        let many: Vec<String> = (0..=FOUND_MAX)
            .map(|number| format!(r#"{{"node":"emqx@n{number}"}}"#))
            .collect();
        for body in [
            "",
            "{}",
            "null",
            r#"{"data":[{"node":"emqx@a"}]}"#,
            r#"{"code":"BAD_API_KEY_OR_SECRET"}"#,
            r#"[{"node":"emqx@a"},{"name":"emqx@b"}]"#,
            r#"[{"node":"emqx@a"},{"node":"emqx"}]"#,
            r#"[{"node":"emqx@a"},{"node":"emqx@"}]"#,
            r#"[{"node":"emqx@a"},{"node":"em\nqx@b"}]"#,
            r#"[{"node":"emqx@a/b"}]"#,
            r#"[{"node":"emqx@a"}"#,
            &format!("[{}]", many.join(",")),
        ] {
            assert!(read_emqx(body.as_bytes()).is_err(), "{}", &body[..body.len().min(60)]);
        }
        assert_eq!(read_emqx(b"[]"), Ok(Vec::new()));
    }

    #[test]
    fn a_template_is_filled_with_the_host() {
        let at = |port| NodeAddress::Host(HOST_OF_FOUND.into(), port);
        let tls = EndpointTls {
            server_name: HOST_OF_FOUND.into(),
            is_verified: true,
        };
        let discovery = Discovery {
            source: Source {
                kind: SourceKind::Emqx,
                seeds: Vec::new(),
                name: None,
                name_servers: Vec::new(),
                file: None,
            },
            interval: INTERVAL,
            grace: GRACE,
            template: Some(Member {
                name: String::new(),
                endpoints: Endpoints::only(MemberEndpoint::plain(at(1883))),
                api: Some(NodeApi {
                    address: at(18084),
                    tls: Some(tls),
                }),
                weight: 7,
                connects_per_second: None,
                connections_max: None,
            }),
        };
        let member = discovery.member("emqx@10.0.0.1", &FoundAt::Host("10.0.0.1".into()));
        let member = member.expect("a template");
        let api = member.api.expect("an API");
        assert_eq!(member.endpoints.mqtt.address.to_string(), "10.0.0.1:1883");
        assert_eq!(api.address.to_string(), "10.0.0.1:18084");
        assert_eq!(&*api.tls.expect("TLS").server_name, "10.0.0.1");
        let member = discovery.member("emqx@h", &FoundAt::Host("h.example".into()));
        let member = member.expect("a template");
        assert_eq!(member.endpoints.mqtt.address.to_string(), "h.example:1883");
        assert_eq!((&*member.name, member.weight), ("emqx@h", 7));
        let whole = Member { weight: 9, ..member };
        let found = Found::from(whole.clone());
        assert_eq!(
            discovery.member(&found.name, &found.at),
            Some(whole),
            "nothing of the template"
        );
    }

    /// Lives of a source that fails, forgets nodes, and answers for another cluster, each with one seed; `REMORA_SEEDS` says how many.
    #[test]
    fn what_must_hold_holds_after_every_answer_of_every_seed() {
        let seeds = std::env::var("REMORA_SEEDS").map_or(64, |seeds| seeds.parse().expect("a number"));
        for seed in 0..seeds {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut now = Instant::now();
            let mut nodes = FoundNodes::default();
            // For the model: when each name was in an answer that could be used last.
            let mut seen: BTreeMap<String, Instant> = BTreeMap::new();
            for step in 0..300 {
                now += INTERVAL * rng.u32(1..4);
                assert!(nodes.is_due(now), "seed {seed}, step {step}");
                let first = if rng.u8(0..10) == 0 { 8 } else { 0 };
                let names: Vec<String> = (first..first + 8).map(|number| format!("n{number}")).collect();
                let listed: Vec<&str> = names.iter().filter(|_| rng.u8(0..10) > 0).map(String::as_str).collect();
                let answer = match rng.u8(0..10) {
                    0 => Err("away".to_owned()),
                    1 => found(&[]),
                    2 => found(&[&names[0]]),
                    _ => found(&listed),
                };
                let before: BTreeSet<String> = nodes.in_force().map(|(name, _)| name.to_owned()).collect();
                let said = nodes.answered(&answer, INTERVAL, GRACE, now);
                let after: BTreeSet<String> = nodes.in_force().map(|(name, _)| name.to_owned()).collect();
                let context = format!("seed {seed}, step {step}: {before:?} {answer:?} {said:?} {after:?}");
                let usable = answer.as_ref().ok().filter(|found| !found.is_empty());
                let Some(listed) = usable else {
                    assert_eq!(before, after, "a failure changes nothing: {context}");
                    continue;
                };
                let listed: BTreeSet<String> = listed.iter().map(|found| found.name.clone()).collect();
                assert!(!after.is_empty(), "{context}");
                assert_eq!(before != after, said.contains(&Discovered::Changed), "{context}");
                if nodes.holds_back() {
                    assert_eq!(before, after, "{context}");
                    continue;
                }
                assert!(listed.is_subset(&after), "what was listed is there: {context}");
                assert!(
                    after.iter().all(|name| before.contains(name) || listed.contains(name)),
                    "{context}"
                );
                for gone in before.difference(&after) {
                    let missing = now - seen[gone];
                    assert!(missing >= GRACE, "{gone} was seen {missing:?} ago: {context}");
                }
                for name in listed {
                    seen.insert(name, now);
                }
            }
        }
    }
}
