//! What the nodes' own API says of their cluster and its clients, compared. No I/O: the answers are passed in.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Deserialize;

use super::finding::{Certainty, Code, Finding};
use crate::base::words::counted;

/// The most client ids that a finding names.
const EXAMPLES_MAX: usize = 20;

/// A node's view of its cluster (`GET /api/v5/cluster`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ClusterView {
    /// The cluster's name.
    pub name: String,
    /// Its members.
    pub nodes: BTreeSet<String>,
    /// Which of them answers.
    #[serde(rename = "self")]
    pub own: String,
}

/// A member, as a node sees it (`GET /api/v5/nodes`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub node: String,
    /// `running` or `stopped`.
    pub node_status: Option<String>,
    /// Its version; a stopped one has none.
    pub version: Option<String>,
}

/// A page of clients (`GET /api/v5/clients`).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ClientsPage {
    /// The clients.
    pub data: Vec<ClientView>,
    /// Whether there are more.
    pub meta: Meta,
}

/// How a list goes on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Meta {
    /// Whether there is another page.
    #[serde(default)]
    pub hasnext: bool,
}

/// A client, as the cluster sees it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ClientView {
    /// Its id.
    pub clientid: String,
    /// Its node.
    pub node: String,
    /// Whether it is connected, and not only its session there.
    #[serde(default)]
    pub connected: bool,
}

/// What an API answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answered<T> {
    /// What it was asked for.
    With(T),
    /// It refused the key, with this status.
    Refused(u16),
    /// Nothing that can be used; why not.
    Unusable(String),
}

/// What `views` of the nodes with these names mean.
pub fn cluster_findings(views: &[(String, Answered<ClusterView>)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut groups: BTreeMap<(&str, &BTreeSet<String>), Vec<&str>> = BTreeMap::new();
    let mut refused: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for (node, answered) in views {
        match answered {
            Answered::With(view) => groups.entry((&view.name, &view.nodes)).or_default().push(node),
            Answered::Refused(status) => refused.entry(*status).or_default().push(node.clone()),
            Answered::Unusable(why) => findings.push(Finding {
                code: Code::ApiUnusable,
                subjects: vec![node.clone()],
                looked_at: format!("the HTTP API of {node}"),
                found: why.clone(),
                certainty: Certainty::Certain,
            }),
        }
    }
    for (status, nodes) in refused {
        findings.push(Finding {
            code: Code::ApiRefused,
            found: format!("GET /api/v5/cluster was answered with {status} by {}", nodes.join(", ")),
            subjects: nodes,
            looked_at: "the HTTP API of the nodes".to_owned(),
            certainty: Certainty::Certain,
        });
    }
    if groups.len() > 1 {
        let mut subjects: Vec<String> = groups.values().flatten().map(|node| (*node).to_owned()).collect();
        subjects.sort();
        let words = groups.iter().map(|((name, members), nodes)| {
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            format!("{}: cluster {name} with {}", nodes.join(", "), members.join(", "))
        });
        findings.push(Finding {
            code: Code::ViewsDiffer,
            subjects,
            looked_at: "what each node says of its cluster".to_owned(),
            found: words.collect::<Vec<_>>().join("; "),
            certainty: Certainty::Certain,
        });
    }
    findings
}

/// What the members that the nodes see mean.
pub fn member_findings(members: &[MemberView]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let finding = |code, subjects: BTreeSet<&str>, found, certainty| Finding {
        code,
        subjects: subjects.into_iter().map(str::to_owned).collect(),
        looked_at: "the members of the cluster".to_owned(),
        found,
        certainty,
    };
    let is_stopped = |member: &&MemberView| member.node_status.as_deref() == Some("stopped");
    let stopped: BTreeSet<&str> = members.iter().filter(is_stopped).map(|member| &*member.node).collect();
    if !stopped.is_empty() {
        let names: Vec<&str> = stopped.iter().copied().collect();
        let found = format!("{}: stopped", names.join(", "));
        findings.push(finding(Code::MemberStopped, stopped, found, Certainty::Certain));
    }
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for member in members {
        if let Some(version) = &member.version {
            versions.entry(version).or_default().insert(&member.node);
        }
    }
    if versions.len() > 1 {
        let words = versions.iter().map(|(version, nodes)| {
            let nodes: Vec<&str> = nodes.iter().copied().collect();
            format!("{}: {version}", nodes.join(", "))
        });
        let found = words.collect::<Vec<_>>().join("; ");
        let nodes = versions.values().flatten().copied().collect();
        findings.push(finding(Code::VersionsDiffer, nodes, found, Certainty::Likely));
    }
    findings
}

/// What it means that the cluster has `clients`, while the balancer has those with the ids `ours`, and so many whose ids it does not
/// know.
pub fn past_the_balancer(clients: &[ClientView], ours: &HashSet<Vec<u8>>, unknown: usize) -> Option<Finding> {
    let mut past: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let is_past = |client: &&ClientView| {
        let id = &*client.clientid;
        client.connected
            && !ours.contains(id.as_bytes())
            && !id.starts_with("remora-doctor-")
            && !id.starts_with("remora-probe-")
    };
    for client in clients.iter().filter(is_past) {
        past.entry(&client.node).or_default().push(&client.clientid);
    }
    let count: usize = past.values().map(Vec::len).sum();
    // Each of those may be one whose id a node has made up.
    let certain = count.checked_sub(unknown).filter(|certain| *certain > 0)?;
    let at_least = if unknown > 0 { "at least " } else { "" };
    let of_nodes: Vec<String> = past
        .iter()
        .map(|(node, ids)| format!("{} on {node}", ids.len()))
        .collect();
    let examples = past
        .values()
        .flatten()
        .take(EXAMPLES_MAX)
        .map(|id| id.escape_debug().to_string());
    let examples: Vec<String> = examples.collect();
    Some(Finding {
        code: Code::PastTheBalancer,
        subjects: past.keys().map(|node| (*node).to_owned()).collect(),
        looked_at: format!("the cluster's {}", counted(clients.len(), "client")),
        found: format!(
            "{at_least}{certain} of them did not come through this balancer ({}); among them {}",
            of_nodes.join(", "),
            examples.join(", ")
        ),
        certainty: Certainty::Likely,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(name: &str, own: &str, nodes: &[&str]) -> Answered<ClusterView> {
        let nodes: Vec<String> = nodes.iter().map(|node| format!("\"{node}\"")).collect();
        let json = format!(
            "{{\"name\":\"{name}\",\"nodes\":[{}],\"self\":\"{own}\"}}",
            nodes.join(",")
        );
        Answered::With(serde_json::from_str(&json).expect("a view"))
    }

    fn codes(views: &[(&str, Answered<ClusterView>)]) -> Vec<Code> {
        let views: Vec<_> = views
            .iter()
            .map(|(node, view)| ((*node).to_owned(), view.clone()))
            .collect();
        cluster_findings(&views).iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn views_that_agree_in_any_order_are_one_cluster() {
        let both = [
            ("a", view("emqxcl", "emqx@a", &["emqx@a", "emqx@b"])),
            ("b", view("emqxcl", "emqx@b", &["emqx@b", "emqx@a"])),
        ];
        assert_eq!(codes(&both), []);
    }

    #[test]
    fn a_split_another_name_and_a_refused_key_are_told_apart() {
        let split = [
            ("a", view("emqxcl", "emqx@a", &["emqx@a"])),
            ("b", view("emqxcl", "emqx@b", &["emqx@b"])),
        ];
        assert_eq!(codes(&split), [Code::ViewsDiffer]);
        let renamed = [
            ("a", view("one", "emqx@a", &["emqx@a"])),
            ("b", view("two", "emqx@a", &["emqx@a"])),
        ];
        assert_eq!(codes(&renamed), [Code::ViewsDiffer]);
        let refused = [("a", Answered::Refused(401)), ("b", Answered::Refused(401))];
        assert_eq!(codes(&refused), [Code::ApiRefused], "one finding for one key");
        assert_eq!(
            codes(&[("a", Answered::Unusable("timed out".to_owned()))]),
            [Code::ApiUnusable]
        );
    }

    #[test]
    fn stopped_members_and_versions_are_read_as_emqx_writes_them() {
        let json = r#"[{"node":"emqx@a","node_status":"running","version":"5.8.9","load1":"0.1"},
                       {"node":"emqx@b","node_status":"running","version":"5.8.8"},
                       {"node":"emqx@c","node_status":"stopped","role":"core"}]"#;
        let members: Vec<MemberView> = serde_json::from_str(json).expect("members");
        let findings = member_findings(&members);
        let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
        assert_eq!(codes, [Code::MemberStopped, Code::VersionsDiffer]);
        assert_eq!(findings[0].subjects, ["emqx@c"]);
        assert_eq!(findings[1].found, "emqx@b: 5.8.8; emqx@a: 5.8.9");
        assert_eq!(member_findings(&members[..1]), []);
    }

    #[test]
    fn clients_past_the_balancer_are_those_that_it_cannot_have() {
        let client = |id: &str, connected| ClientView {
            clientid: id.to_owned(),
            node: "emqx@a".to_owned(),
            connected,
        };
        let clients = [
            client("ours", true),
            client("publisher", true),
            client("gone", false),
            client("remora-doctor-1-a", true),
        ];
        let ours = HashSet::from([b"ours".to_vec()]);
        let finding = past_the_balancer(&clients, &ours, 0).expect("a finding");
        assert_eq!(
            finding.found,
            "1 of them did not come through this balancer (1 on emqx@a); among them publisher"
        );
        assert_eq!(
            past_the_balancer(&clients, &ours, 1),
            None,
            "it may be one with an id that is not known here"
        );
        assert_eq!(past_the_balancer(&clients[..1], &ours, 0), None);
    }
}
