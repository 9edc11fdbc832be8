//! Asks the nodes' own APIs what they say of their cluster and of its clients, for the doctor.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::base::words::counted;
use crate::cluster::{Member, NodeApi};
use crate::control::NodeProber;
use crate::doctor::clock::{Ahead, Clocks};
use crate::doctor::emqx::{
    Answered, ClientView, ClientsPage, ClusterView, MemberView, cluster_findings, member_findings, past_the_balancer,
};
use crate::doctor::report::Report;

/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Clients on a page: what every version of EMQX allows.
const PAGE: usize = 1_000;

/// The most pages that are asked for.
const PAGES_MAX: usize = 20;

/// How long a page may take: the node gathers it from all others.
const PAGE_MAX: Duration = Duration::from_secs(5);

/// What else is known once the nodes' APIs were asked.
#[derive(Debug, Default)]
pub(super) struct Apis<'m> {
    /// One that has answered.
    pub(super) answering: Option<&'m NodeApi>,
    /// The nodes' clocks.
    pub(super) clocks: Clocks,
}

/// Compares what the nodes with an API say of their cluster.
pub(super) async fn views<'m>(prober: &NodeProber, members: &'m [Member], report: &mut Report) -> Apis<'m> {
    const WHAT: &str = "cluster by its API";
    let mut views = Vec::new();
    let mut not_compared: Vec<&str> = Vec::new();
    let mut apis = Apis::default();
    for member in members {
        let Some(api) = &member.api else { continue };
        let due = Instant::now() + prober.api.timeout;
        let (view, date) = ask_dated::<ClusterView>(prober, api, "/api/v5/cluster", due).await;
        if let Answered::With(_) = view {
            apis.answering = apis.answering.or(Some(api));
        }
        let ahead = date.map(|date| Ahead::new(date, SystemTime::now()));
        apis.clocks.extend(ahead.map(|ahead| (member.name.clone(), ahead)));
        match view {
            // As expected: the nodes' health can be asked for without a key, their cluster cannot.
            Answered::Refused(_) if prober.api.credentials.is_none() => not_compared.push(&member.name),
            view => views.push((member.name.clone(), view)),
        }
    }
    if !not_compared.is_empty() {
        let nodes = not_compared.join(", ");
        report.fine(
            WHAT,
            format!("not compared, since nodes_api.credentials is not set: {nodes}"),
        );
    }
    if views.is_empty() {
        return apis;
    }
    let mut findings = cluster_findings(&views);
    if let Some(api) = apis.answering {
        let due = Instant::now() + PAGE_MAX;
        if let Answered::With(seen) = ask::<Vec<MemberView>>(prober, api, "/api/v5/nodes", due).await {
            findings.extend(member_findings(&seen));
        }
    }
    if findings.is_empty() {
        report.fine(WHAT, format!("{} asked, no difference", counted(views.len(), "node")));
    }
    for finding in findings {
        report.found(WHAT, finding);
    }
    apis
}

/// The clients of the cluster that the node with this API is in; `None` if they are too many, or there is no answer.
pub(super) async fn clients(prober: &NodeProber, api: &NodeApi, report: &mut Report) -> Option<Vec<ClientView>> {
    let mut all = Vec::new();
    for page in 1..=PAGES_MAX {
        let path = format!("/api/v5/clients?page={page}&limit={PAGE}");
        let due = Instant::now() + PAGE_MAX;
        match ask::<ClientsPage>(prober, api, &path, due).await {
            Answered::With(found) => {
                all.extend(found.data);
                if !found.meta.hasnext {
                    return Some(all);
                }
            }
            Answered::Refused(status) => {
                let why = format!("the clients of the cluster: {api} answered with {status}");
                report.could_not_look.push(why);
                return None;
            }
            Answered::Unusable(why) => {
                report.could_not_look.push(format!("the clients of the cluster: {why}"));
                return None;
            }
        }
    }
    let most = PAGES_MAX * PAGE;
    report
        .could_not_look
        .push(format!("the clients of the cluster: there are more than {most}"));
    None
}

/// Compares the clients of the cluster with those of this balancer.
pub(super) fn compare(clients: &[ClientView], ours: &HashSet<Vec<u8>>, unknown: usize, report: &mut Report) {
    const WHAT: &str = "clients past the balancer";
    match past_the_balancer(clients, ours, unknown) {
        None => report.fine(WHAT, format!("none of {}", clients.len())),
        Some(finding) => report.found(WHAT, finding),
    }
}

async fn ask<T: DeserializeOwned>(prober: &NodeProber, api: &NodeApi, path: &str, due: Instant) -> Answered<T> {
    ask_dated(prober, api, path, due).await.0
}

/// The answer, and the time by the clock of the node, which every answer tells.
async fn ask_dated<T: DeserializeOwned>(
    prober: &NodeProber,
    api: &NodeApi,
    path: &str,
    due: Instant,
) -> (Answered<T>, Option<SystemTime>) {
    let got = prober.get(api, path, ANSWER_BYTES_MAX, due).await;
    let date = got.as_ref().ok().and_then(|response| response.date);
    let answered = match got {
        Ok(response) => match response.status {
            200 => match serde_json::from_slice(&response.body) {
                Ok(found) => Answered::With(found),
                Err(error) => Answered::Unusable(format!("{api}{path}: {error}")),
            },
            status @ (401 | 403) => Answered::Refused(status),
            status => Answered::Unusable(format!("{api}{path} was answered with {status}")),
        },
        Err(why) => Answered::Unusable(format!("{api}{path}: {why}")),
    };
    (answered, date)
}
