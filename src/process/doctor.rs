//! Examines a configuration and its nodes, with or without a balancer that runs it.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::cluster_check::Apis;
use super::handle::Handle;
use super::reload::node_prober;
use super::{client_check, cluster_check, limits};
use crate::base::words::counted;
use crate::cluster::{Cluster, Endpoint, EndpointKind, EndpointTls, Member, MemberEndpoint, NodeAddress, NodeApi};
use crate::config::Config;
use crate::control::{Found, NodeProber, ProbeProxy, Prober};
use crate::doctor::Settings;
use crate::doctor::access::{Access, NotReached, Target};
use crate::doctor::clock::Clocks;
use crate::doctor::finding::{Certainty, Code, Finding};
use crate::doctor::front::{FrontUrl, Stage, front_check};
use crate::doctor::report::Report;
use crate::doctor::route_check::{Extent, drawn, route_check};
use crate::net::descriptors;
use crate::net::tls::{Nodes, NodesOffer, NodesTls, Trust};

/// How long the look-up of a host name may take.
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// Examines this configuration, its nodes and the routes between them. No balancer need run, but for `fronts`.
///
/// It must run in a [`tokio::task::LocalSet`].
pub async fn examine(config: &Config, fronts: &Fronts) -> Report {
    let began = Instant::now();
    let mut report = set_up(config);
    let tls = Arc::<NodesTls>::default();
    tls.replace(config.nodes_tls.clone());
    let mut access = access(config, tls, fastrand::u32(..));
    let prober = node_prober(config, &access.tls, access.instance);
    let members = members(config, &prober, &mut report).await;
    access.clocks = cluster_check::views(&prober, &members, &mut report).await.clocks;
    let looked_up = look_up_all(&members).await;
    let count = members.len();
    let routed = nodes(&access, &config.doctor, (looked_up, count), Extent::FULL, &mut report).await;
    for url in &fronts.urls {
        front(config, &access, (url, fronts), &routed, &mut report).await;
    }
    report.took_ms = began.elapsed().as_millis() as u64;
    report
}

/// Listeners of a balancer that runs, behind which a subscriber is restarted.
#[derive(Clone, Debug, Default)]
pub struct Fronts {
    /// Where they are.
    pub urls: Vec<FrontUrl>,
    /// How often it is restarted at each.
    pub restarts: u32,
    /// The authorities of their certificates; `None` accepts any certificate.
    pub trust: Option<Trust>,
}

/// Restarts a subscriber behind a listener, with publishers on these nodes.
async fn front(
    config: &Config,
    access: &Access,
    (url, fronts): (&FrontUrl, &Fronts),
    nodes: &[Target],
    report: &mut Report,
) {
    let address = NodeAddress::Host(url.host.clone(), url.port);
    let address = match url.host.parse() {
        Ok(ip) => NodeAddress::Socket(SocketAddr::new(ip, url.port)),
        Err(_) => address,
    };
    let tls = url.has_tls.then(|| EndpointTls {
        server_name: Arc::from(&*url.host),
        is_verified: fronts.trust.is_some(),
    });
    let endpoint = MemberEndpoint {
        address,
        path: url.path.as_deref().map(Arc::from),
        proxy_protocol: None,
        tls,
    };
    let (target, found) = looked_up("front".into(), url.kind(), endpoint).await;
    let offer = NodesOffer {
        trust: fronts.trust.clone().unwrap_or_default(),
        insecure_skip_verify: fronts.trust.is_none(),
        ..NodesOffer::default()
    };
    let url = url.to_string();
    let found = match (found, Nodes::new(offer)) {
        (Ok(()), Ok(tls)) => tls,
        (Err(error), _) => {
            let finding = Finding {
                code: Code::FrontNotReached,
                subjects: vec![url.clone()],
                looked_at: format!("the address of {url}"),
                found: error.to_string(),
                certainty: Certainty::Certain,
            };
            return report.found(url, finding);
        }
        (_, Err(error)) => return report.could_not_look.push(format!("{url}: {error}")),
    };
    let tls = Arc::<NodesTls>::default();
    tls.replace(Some(found));
    let of_front = Access { tls, ..access.clone() };
    let stage = Stage {
        front: (&of_front, &target),
        nodes: (access, nodes),
    };
    let seen = front_check(stage, &config.doctor, fronts.restarts).await;
    report.add_front(&url, &seen);
}

/// The nodes of the configuration, and those that `[discovery]` finds now.
async fn members(config: &Config, prober: &NodeProber, report: &mut Report) -> Vec<Member> {
    let mut members = config.nodes.clone();
    let Some(discovery) = &config.control.discovery else {
        return members;
    };
    match prober.find(discovery.source.clone()).await.0 {
        Ok(found) => {
            report.fine("discovery", counted(found.len(), "node"));
            for Found { name, at } in found {
                // What the configuration says of a node comes first.
                if !members.iter().any(|member| member.name == name) {
                    members.extend(discovery.member(&name, &at));
                }
            }
        }
        Err(why) => report
            .could_not_look
            .push(format!("nodes that [discovery] finds: {why}")),
    }
    members
}

/// The result of the checks that are made more rarely than that of the routes: of what the nodes' APIs say, and of the clients.
#[derive(Clone, Debug)]
pub(super) struct SlowChecks {
    /// When they were first made for it.
    pub(super) at: Instant,
    report: Report,
    clocks: Clocks,
    /// Whether the nodes have shared subscriptions.
    has_shared: bool,
    /// The nodes whose routes were broken, which says what quiet clients mean.
    broken: BTreeSet<String>,
}

/// Examines the balancer that runs with this configuration and these nodes. It must run in a [`tokio::task::LocalSet`].
///
/// The slow checks are repeated if there is no result yet, or if the set of nodes with broken routes has changed.
pub(super) async fn examine_running(
    config: &Config,
    cluster: &Cluster,
    mut access: Access,
    handle: Option<&Handle>,
    mut extent: Extent,
    slow: &mut Option<SlowChecks>,
) -> Report {
    let began = Instant::now();
    let mut report = set_up(config);
    let prober = node_prober(config, &access.tls, access.instance);
    let mut looked = Report::default();
    let mut asked: Option<Apis<'_>> = None;
    match slow {
        Some(slow) => {
            access.clocks = slow.clocks.clone();
            extent.has_shared &= slow.has_shared;
        }
        None => {
            let apis = cluster_check::views(&prober, &config.nodes, &mut looked).await;
            access.clocks = apis.clocks.clone();
            asked = Some(apis);
        }
    }
    let known = cluster.nodes().iter().enumerate().flat_map(|(number, node)| {
        node.endpoints.iter().map(move |(kind, endpoint)| {
            let (node, endpoint) = (Arc::clone(&node.name), endpoint.clone());
            let found = match endpoint.addresses.is_empty() {
                true => Err(io::Error::other("the host name has not been resolved")),
                false => Ok(()),
            };
            (number, (Target { node, kind, endpoint }, found))
        })
    });
    let (known, count) = (known.collect(), cluster.nodes().len());
    nodes(&access, &config.doctor, (known, count), extent, &mut report).await;
    let broken = client_check::broken(&report.findings);
    if slow.as_ref().is_none_or(|slow| slow.broken != broken) {
        let apis = match asked {
            Some(apis) => apis,
            None => cluster_check::views(&prober, &config.nodes, &mut looked).await,
        };
        if let Some(handle) = handle
            && let Err(error) = clients((handle, config), (&prober, apis.answering), &broken, &mut looked).await
        {
            looked.could_not_look.push(format!("the clients: {error}"));
        }
        let had_shared = slow.as_ref().is_none_or(|slow| slow.has_shared);
        *slow = Some(SlowChecks {
            at: slow.as_ref().map_or(began, |slow| slow.at),
            report: looked,
            clocks: apis.clocks,
            // Without routes, nothing was measured.
            has_shared: (report.routes.as_ref()).map_or(had_shared, |routes| routes.shared.is_some()),
            broken,
        });
    }
    if let Some(slow) = slow {
        report.append(&slow.report);
    }
    report.took_ms = began.elapsed().as_millis() as u64;
    report
}

/// Looks at the clients of this balancer, and at those of the cluster that did not come through it.
async fn clients(
    (handle, config): (&Handle, &Config),
    (prober, answering): (&NodeProber, Option<&NodeApi>),
    broken: &BTreeSet<String>,
    report: &mut Report,
) -> io::Result<()> {
    let too_many = "the clients: there are too many to look at each";
    let Some(before) = client_check::ours(handle, config).await? else {
        report.could_not_look.push(too_many.to_owned());
        return Ok(());
    };
    if let Some(api) = answering.filter(|_| has_all_clients(handle, report))
        && let Some(clients) = cluster_check::clients(prober, api, report).await
        && let Some(mut after) = client_check::ours(handle, config).await?
    {
        // One that came or went meanwhile is one of ours all the same.
        after.ids.extend(before.ids.iter().cloned());
        let left_behind = usize::try_from(handle.0.left_behind.at_most(Instant::now())).unwrap_or(usize::MAX);
        let unknown = before.unknown.max(after.unknown).saturating_add(left_behind);
        cluster_check::compare(&clients, &after.ids, unknown, report);
    }
    client_check::judge(handle, before, broken, report).await
}

/// Whether all clients of this balancer are with this process, or with one that has said how many it has kept.
fn has_all_clients(handle: &Handle, report: &mut Report) -> bool {
    let is_moving = handle.has_handed_over() || handle.0.is_taking.load(Ordering::Relaxed);
    if is_moving {
        let why = "the clients of the cluster: those of this balancer move to another process just now";
        report.could_not_look.push(why.to_owned());
    }
    !is_moving
}

/// What can be seen without a connection.
fn set_up(config: &Config) -> Report {
    let mut report = Report::default();
    configuration(config, &mut report);
    capacity(config, &mut report);
    report
}

/// Looks at so many nodes, and at the routes between those that it returns.
async fn nodes(
    access: &Access,
    settings: &Settings,
    (endpoints, count): (Vec<Known>, usize),
    extent: Extent,
    report: &mut Report,
) -> Vec<Target> {
    let drawn = drawn(count);
    let mut routed = Vec::new();
    let mut others = Vec::new();
    for (number, (target, found)) in endpoints {
        if let Err(error) = found {
            report.found(name_of(&target), not_resolved(&target, &error));
        } else if target.kind == EndpointKind::Mqtt && drawn.contains(&number) {
            routed.push(target);
        } else {
            others.push(target);
        }
    }
    look_at(access, others, report).await;
    let routes = route_check(access, settings, &routed, count, extent).await;
    report.add_routes(&routes, settings.slow_after);
    routed
}

/// An endpoint with its node's number, and with the error where it has no address.
type Known = (usize, (Target, io::Result<()>));

/// How the doctor reaches nodes under this configuration.
pub(super) fn access(config: &Config, tls: Arc<NodesTls>, instance: u32) -> Access {
    Access {
        dial: config.dial.clone(),
        tls,
        greet_timeout: config.greet.timeout,
        names_client: config.control.probe_proxy == ProbeProxy::Proxy,
        instance,
        login: config.doctor.login.clone(),
        clocks: Clocks::default(),
    }
}

/// What the loader warns of.
fn configuration(config: &Config, report: &mut Report) {
    if config.warnings.is_empty() {
        let (listeners, nodes) = (config.listeners.len(), config.nodes.len());
        let s = |count| if count == 1 { "" } else { "s" };
        let seen = format!("{listeners} listener{}, {nodes} node{}", s(listeners), s(nodes));
        report.fine("configuration", seen);
    }
    for warning in &config.warnings {
        let finding = Finding {
            code: Code::Configuration,
            subjects: vec![warning.path.clone()],
            looked_at: "the configuration".to_owned(),
            found: format!("{}: {}", warning.path, warning.message),
            certainty: Certainty::Certain,
        };
        report.found("configuration", finding);
    }
}

/// Descriptors and source ports, against what the configuration allows clients.
fn capacity(config: &Config, report: &mut Report) {
    // As `run` does at its start.
    descriptors::raise_limit();
    let workers = match config.workers {
        Some(count) => count.get(),
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    let allowed = limits::connections_allowed(workers);
    match config.limits.connections_max.filter(|configured| *configured > allowed) {
        Some(configured) => {
            let finding = Finding {
                code: Code::Descriptors,
                subjects: vec!["limits.connections".to_owned()],
                looked_at: "the limit of open files".to_owned(),
                found: format!("limits.connections is {configured}, and the limit of open files allows {allowed}"),
                certainty: Certainty::Certain,
            };
            report.found("descriptors", finding);
        }
        None => report.fine("descriptors", format!("enough for {}", counted(allowed, "connection"))),
    }
    let ports = config.dial.source_ports();
    let weights: usize = config.nodes.iter().map(|node| usize::from(node.weight)).sum();
    let largest = config.nodes.iter().max_by_key(|node| node.weight);
    let expected = largest.zip(config.limits.connections_max).map(|(node, connections)| {
        let share = connections * usize::from(node.weight) / weights.max(1);
        (node, node.connections_max.map_or(share, |most| most.min(share)))
    });
    match expected.filter(|(_, expected)| *expected > ports) {
        Some((node, expected)) => {
            let finding = Finding {
                code: Code::SourcePorts,
                subjects: vec![node.name.clone()],
                looked_at: "the source ports towards a node".to_owned(),
                found: format!(
                    "{} is to have {} by limits.connections and its weight, and has {}",
                    node.name,
                    counted(expected, "connection"),
                    counted(ports, "port")
                ),
                certainty: Certainty::Certain,
            };
            report.found("source ports", finding);
        }
        None => report.fine("source ports", format!("{ports} towards each node")),
    }
}

fn name_of(target: &Target) -> String {
    format!("{} ({})", target.node, target.kind.name())
}

fn not_resolved(target: &Target, error: &io::Error) -> Finding {
    Finding {
        code: Code::NotResolved,
        subjects: vec![target.node.to_string()],
        looked_at: format!("the address of {}", name_of(target)),
        found: error.to_string(),
        certainty: Certainty::Certain,
    }
}

/// Every endpoint of every node, by the node's number, in their order; with the error where its name has no address.
async fn look_up_all(nodes: &[Member]) -> Vec<Known> {
    let mut looking = JoinSet::new();
    let mut order = 0;
    for (number, node) in nodes.iter().enumerate() {
        for (kind, endpoint) in node.endpoints.iter() {
            let (name, endpoint) = (Arc::from(&*node.name), endpoint.clone());
            looking.spawn_local(async move { (order, number, looked_up(name, kind, endpoint).await) });
            order += 1;
        }
    }
    let mut all = Vec::new();
    while let Some(joined) = looking.join_next().await {
        // A panic would be a fault of ours; the endpoint is then not looked at.
        all.extend(joined);
    }
    all.sort_by_key(|(order, _, _)| *order);
    all.into_iter().map(|(_, number, found)| (number, found)).collect()
}

async fn looked_up(node: Arc<str>, kind: EndpointKind, endpoint: MemberEndpoint) -> (Target, io::Result<()>) {
    let MemberEndpoint {
        address,
        path,
        proxy_protocol,
        tls,
    } = endpoint;
    let found: io::Result<Vec<SocketAddr>> = match &address {
        NodeAddress::Socket(address) => Ok(vec![*address]),
        NodeAddress::Host(host, port) => {
            let lookup = tokio::net::lookup_host((host.as_str(), *port));
            match tokio::time::timeout(LOOKUP_MAX, lookup).await {
                Ok(found) => found.map(Iterator::collect),
                Err(elapsed) => Err(elapsed.into()),
            }
        }
    };
    let found = match found {
        Ok(addresses) if addresses.is_empty() => Err(io::Error::other("the name has no address")),
        found => found,
    };
    let (addresses, result) = match found {
        Ok(addresses) => (addresses, Ok(())),
        Err(error) => (Vec::new(), Err(io::Error::other(format!("{address}: {error}")))),
    };
    let endpoint = Endpoint {
        path,
        proxy_protocol,
        tls,
        ..Endpoint::plain(addresses.into())
    };
    (Target { node, kind, endpoint }, result)
}

/// Looks at endpoints that no route check uses.
async fn look_at(access: &Access, targets: Vec<Target>, report: &mut Report) {
    let mut looking = JoinSet::new();
    for (order, target) in targets.into_iter().enumerate() {
        let access = access.clone();
        looking.spawn_local(async move {
            let result = access.look(&target).await;
            (order, name_of(&target), result)
        });
    }
    let mut all = Vec::new();
    while let Some(joined) = looking.join_next().await {
        // As above.
        all.extend(joined);
    }
    all.sort_by_key(|(order, _, _)| *order);
    for (_, what, result) in all {
        match result {
            Ok(()) => report.fine(what, ""),
            Err(NotReached::Found(finding)) => report.found(what, finding),
            Err(NotReached::CouldNotLook(why)) => report.could_not_look.push(why),
        }
    }
}
