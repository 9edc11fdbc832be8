//! Other balancers beside this one: asks each for its overview, adds up, and says who does not agree.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::answers::{NodeOverview, Overview, PeerNode, PeerSum, PeerView, Peers, Refused};
use super::asked::Answer;
use super::call::{Call, Refusal, Reply};
use super::overview::overview;
use crate::admin::ask_peer;
use crate::admin::tokens::Secret;

/// For how long an answer is shown: several pages that look at once ask the peers once.
const KEPT: Duration = Duration::from_secs(2);

pub(super) async fn show(call: Call) -> Result<Reply, Refusal> {
    let settings = call.handle.admin_settings();
    let mut asked = call.asked.0.lock().await;
    let answers = match asked.take().filter(|(at, _)| at.elapsed() < KEPT) {
        Some(fresh) => fresh,
        None => (Instant::now(), ask_all(settings.peers, settings.peers_token).await),
    };
    // What is here is of now, and the peers' answers are two seconds old at most.
    let peers = beside(&overview(&call.handle, false), &answers.1);
    *asked = Some(answers);
    Reply::json(&peers)
}

/// Asks all peers at once.
async fn ask_all(peers: Vec<String>, token: Option<Secret>) -> Vec<Answer> {
    let asking: Vec<_> = peers
        .into_iter()
        .map(|peer| {
            let token = token.clone();
            tokio::spawn(async move {
                let answer = ask(&peer, token.as_ref()).await;
                (format!("http://{peer}"), answer)
            })
        })
        .collect();
    let mut answers = Vec::with_capacity(asking.len());
    for asking in asking {
        // Each has a time limit of its own. One that panics is left out.
        answers.extend(asking.await);
    }
    answers
}

async fn ask(peer: &str, token: Option<&Secret>) -> Result<Overview, String> {
    let asked = ask_peer::get(peer, "/api/v1/overview", token).await;
    let (status, body) = asked.map_err(|error: io::Error| error.to_string())?;
    match status {
        200 => serde_json::from_slice(&body).map_err(|error| format!("an answer of another version: {error}")),
        401 if token.is_none() => Err("it wants a token: set peers_token in [admin]".to_owned()),
        401 => Err("it does not know the token in peers_token".to_owned()),
        status => {
            let refused = serde_json::from_slice::<Refused>(&body).map(|refused| refused.error);
            Err(match refused {
                Ok(error) => format!("status {status}: {error}"),
                Err(_) => format!("status {status}"),
            })
        }
    }
}

/// The peers beside this balancer.
fn beside(own: &Overview, answers: &[Answer]) -> Peers {
    let mut connections = 0;
    let mut nodes: BTreeMap<&str, usize> = BTreeMap::new();
    let answered = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    for overview in answered.chain([own]) {
        connections += overview.status.connections;
        for found in &overview.nodes {
            *nodes.entry(&found.node.node).or_default() += found.node.connections;
        }
    }
    let sum = |(node, connections): (&str, usize)| PeerSum {
        node: node.to_owned(),
        connections,
    };
    Peers {
        peers: answers.iter().map(|(peer, answer)| view(own, peer, answer)).collect(),
        connections,
        nodes: nodes.into_iter().map(sum).collect(),
    }
}

fn view(own: &Overview, peer: &str, answer: &Result<Overview, String>) -> PeerView {
    let peer = peer.to_owned();
    match answer {
        Err(error) => PeerView {
            peer,
            error: Some(error.clone()),
            ..PeerView::default()
        },
        Ok(other) => PeerView {
            peer,
            error: None,
            version: other.status.version.clone(),
            is_fine: other.is_fine,
            sentence: other.sentence.clone(),
            connections: other.status.connections,
            ring: other.ring.clone(),
            has_same_ring: other.ring == own.ring,
            nodes: other.nodes.iter().map(node).collect(),
            disagreements: disagreements(own, other),
        },
    }
}

fn node(found: &NodeOverview) -> PeerNode {
    PeerNode {
        node: found.node.node.clone(),
        state: found.state.clone(),
        connections: found.node.connections,
    }
}

/// In what another balancer does not agree with this one.
fn disagreements(own: &Overview, other: &Overview) -> Vec<String> {
    let by_name = |overview: &Overview| {
        let nodes = overview.nodes.iter().filter(|found| found.share.is_some());
        let nodes = nodes.map(|found| (found.node.node.clone(), (found.state.clone(), found.node.weight)));
        nodes.collect::<BTreeMap<_, _>>()
    };
    let (here, there) = (by_name(own), by_name(other));
    let mut said = Vec::new();
    for (name, (state, weight)) in &here {
        match there.get(name) {
            None => said.push(format!("{name} is not among its nodes")),
            Some((_, other)) if other != weight => {
                said.push(format!("{name} has weight {other} there and {weight} here"));
            }
            Some((other, _)) if other != state => said.push(format!("{name} is {other} there and {state} here")),
            Some(_) => {}
        }
    }
    let more = there.keys().filter(|name| !here.contains_key(*name));
    said.extend(more.map(|name| format!("{name} is only among its nodes")));
    if said.is_empty() && own.ring != other.ring {
        said.push("the ring has another seed there: clients go to other nodes than from here".to_owned());
    }
    said
}
