//! Counts what the doctor wants to know of the clients that are connected.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::time::Duration;

use super::clients::{ClientFilter, ClientStatus, PAGE_MAX};
use super::handle::Handle;
use crate::config::Config;
use crate::doctor::clients::{ClientFacts, FIGHT_ENDS, FRONT_IDLE, findings, is_made_up};
use crate::doctor::report::{Finding, Report};

/// The most clients that are looked at.
const CLIENTS_MAX: usize = 200_000;

/// The most ids that are kept to be shown.
const KEPT_MAX: usize = 1_000;

/// How long a quiet client has received no message.
const QUIET: Duration = Duration::from_secs(600);

/// The clients of a balancer.
#[derive(Debug, Default)]
pub(super) struct Ours {
    /// Their ids.
    pub(super) ids: HashSet<Vec<u8>>,
    /// Those whose ids are not known here: a node has made them up, or their TLS ends there.
    pub(super) unknown: usize,
    facts: ClientFacts,
}

/// Looks at all clients; `None` if they are too many.
pub(super) async fn ours(handle: &Handle, config: &Config) -> io::Result<Option<Ours>> {
    let fronts = behind_fronts(config);
    let mut ours = Ours::default();
    let mut cursor = None;
    loop {
        let page = handle.clients(&ClientFilter::default(), cursor, PAGE_MAX).await?;
        for client in &page.clients {
            ours.add(client, &fronts);
        }
        if ours.facts.count > CLIENTS_MAX {
            return Ok(None);
        }
        cursor = page.next;
        if cursor.is_none() {
            return Ok(Some(ours));
        }
    }
}

/// The nodes of these findings whose routes are broken.
pub(super) fn broken(findings: &[Finding]) -> BTreeSet<String> {
    let is_of_routes = |code: &str| ["R101", "R102", "R103"].contains(&code);
    let of_routes = findings.iter().filter(|finding| is_of_routes(&finding.code));
    of_routes.flat_map(|finding| finding.subjects.clone()).collect()
}

/// Adds what the clients mean, if the routes of these nodes are broken.
pub(super) async fn judge(
    handle: &Handle,
    mut ours: Ours,
    broken: &BTreeSet<String>,
    report: &mut Report,
) -> io::Result<()> {
    for client in handle.connected_twice().await? {
        ours.facts.twice.insert(text(client.client_id.kept()));
    }
    for found in handle.reconnecting(FIGHT_ENDS).await? {
        ours.facts.fighting.push(text(found.last.client_id.kept()));
    }
    let findings = findings(&ours.facts, broken);
    if findings.is_empty() {
        report.fine("clients", format!("{} connected", ours.facts.count));
    }
    for finding in findings {
        report.found("clients", finding);
    }
    Ok(())
}

/// The listeners whose clients come through another load balancer, if nothing passes there but what clients and nodes send: unless an
/// operator has said so, probes of TCP are as rare as a client's pings.
fn behind_fronts(config: &Config) -> HashSet<String> {
    let is_probed = config.dial.keepalive.idle.is_some_and(|idle| idle < FRONT_IDLE);
    let listeners = config.listeners.iter();
    let fronts = listeners.filter(|listener| !is_probed && !listener.proxy_protocol_from.is_empty());
    fronts.map(|listener| listener.name.clone()).collect()
}

impl Ours {
    fn add(&mut self, client: &ClientStatus, fronts: &HashSet<String>) {
        let facts = &mut self.facts;
        facts.count += 1;
        let id = client.client_id.kept();
        match id.is_empty() {
            true => self.unknown += 1,
            false => {
                self.ids.insert(id.to_vec());
            }
        }
        if let (Some(home), Some(route)) = (&client.home, client.route)
            && *home != client.node
        {
            *facts.off_home.entry(route.name().to_owned()).or_default() += 1;
        }
        let keep = |ids: &mut Vec<String>| {
            if ids.len() < KEPT_MAX && !id.is_empty() {
                ids.push(text(id));
            }
        };
        let is_made_up = client.version.is_some() && is_made_up(id);
        if is_made_up {
            facts.made_up_count += 1;
            keep(&mut facts.made_up);
        }
        // The id of a client without a home is one that its node has given it.
        if client.session_expiry.is_some() && (is_made_up || client.home.is_none()) {
            facts.sessions_left_count += 1;
            keep(&mut facts.sessions_left);
        }
        let keep_alive = client.keep_alive.map(|seconds| Duration::from_secs(seconds.into()));
        // Without a limit of its own it may be silent for ever.
        let is_silent = keep_alive.is_some_and(|keep_alive| keep_alive.is_zero() || keep_alive > FRONT_IDLE);
        if is_silent && fronts.contains(&client.listener) && facts.silent_behind_front.len() < KEPT_MAX {
            facts.silent_behind_front.push(text(id));
        }
        let is_quiet = client.message_silence >= QUIET && client.client_silence < QUIET;
        if is_quiet {
            let of_node: &mut BTreeMap<String, Vec<String>> = &mut facts.quiet;
            let ids = of_node.entry(client.node.to_string()).or_default();
            if ids.len() < KEPT_MAX {
                ids.push(text(id));
            }
        }
    }
}

/// An id as it is shown.
fn text(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}
