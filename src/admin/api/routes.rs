//! The table of all routes of the API.

use hyper::Method;

use super::answers::{
    AskClient, Certificates, Client, Clients, CloseNode, Closed, Configuration, Counters, DrainNode, Draining, Event,
    Examined, History, Listeners, Node, Nodes, OpenApi, Overview, Peers, Rebalance, Reconnecting, Reloaded, Reopened,
    SetRebalance, SetWeight, Status, TopClients, Upgradable, Upgrade, UpgradeStep,
};
use super::route::{Answered, Route, answers, may_take, of, takes};
use super::{
    clients, counters, doctor, events, listeners, nodes, openapi, overview, peers, process, status, top_clients,
    upgrade,
};
use crate::admin::tokens::Scope;

/// All routes.
pub(super) static ROUTES: &[Route] = &[
    Route {
        method: Method::GET,
        path: "/api/v1/status",
        scope: Scope::Read,
        summary: "The process as a whole: which it is, whether it is ready, and its connections.",
        query: &[],
        body: None,
        answer: answers::<Status>(),
        handler: |call| Box::pin(status::show(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/overview",
        scope: Scope::Read,
        summary: "All of the process at one look: whether it is fine and why, and what was counted of each node.",
        query: &[],
        body: None,
        answer: answers::<Overview>(),
        handler: |call| Box::pin(overview::show(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/history",
        scope: Scope::Read,
        summary: "The last ten minutes of each node, in steps of five seconds.",
        query: &[(
            "since",
            of::<u64>(),
            "Only what is newer than the sample with this number.",
        )],
        body: None,
        answer: answers::<History>(),
        handler: |call| Box::pin(overview::history(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/peers",
        scope: Scope::Read,
        summary: "The other balancers that are configured: their connections, and in what they do not agree with this one.",
        query: &[],
        body: None,
        answer: answers::<Peers>(),
        handler: |call| Box::pin(peers::show(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/nodes",
        scope: Scope::Read,
        summary: "All nodes.",
        query: &[],
        body: None,
        answer: answers::<Nodes>(),
        handler: |call| Box::pin(nodes::list(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/nodes/{name}",
        scope: Scope::Read,
        summary: "One node.",
        query: &[],
        body: None,
        answer: answers::<Node>(),
        handler: |call| Box::pin(nodes::show(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/nodes/{name}/drain",
        scope: Scope::Write,
        summary: "Drains a node: it gets no new clients, and keeps those it has, or they are closed at a rate.",
        query: &[],
        body: may_take::<DrainNode>(),
        answer: answers::<Node>(),
        handler: |call| Box::pin(nodes::drain(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/nodes/{name}/undrain",
        scope: Scope::Write,
        summary: "Lets a node get new clients again; its connections are not closed any more.",
        query: &[],
        body: None,
        answer: answers::<Node>(),
        handler: |call| Box::pin(nodes::undrain(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/nodes/{name}/weight",
        scope: Scope::Write,
        summary: "Gives a node another weight than the file does, or that of the file again. No connection moves.",
        query: &[],
        body: takes::<SetWeight>(),
        answer: answers::<Node>(),
        handler: |call| Box::pin(nodes::weight(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/nodes/{name}/rebalance",
        scope: Scope::Write,
        summary: "Brings home the clients of this node that are elsewhere, at a rate, in the background.",
        query: &[],
        body: may_take::<SetRebalance>(),
        answer: answers::<Rebalance>(),
        handler: |call| Box::pin(clients::rebalance_node(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/rebalance",
        scope: Scope::Write,
        summary: "Brings home the clients that are not, at a rate, in the background.",
        query: &[],
        body: may_take::<SetRebalance>(),
        answer: answers::<Rebalance>(),
        handler: |call| Box::pin(clients::rebalance(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/rebalance",
        scope: Scope::Read,
        summary: "The last rebalance, and how far it is.",
        query: &[],
        body: None,
        answer: answers::<Rebalance>(),
        handler: |call| Box::pin(clients::show_rebalance(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/rebalance/stop",
        scope: Scope::Write,
        summary: "Stops the rebalance. What it has not closed stays open.",
        query: &[],
        body: None,
        answer: answers::<Rebalance>(),
        handler: |call| Box::pin(clients::stop_rebalance(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/clients",
        scope: Scope::Read,
        summary: "Clients that are connected, page by page.",
        query: clients::LIST_QUERY,
        body: None,
        answer: answers::<Clients>(),
        handler: |call| Box::pin(clients::list(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/clients/{id}",
        scope: Scope::Read,
        summary: "A client, connected or not.",
        query: &[],
        body: None,
        answer: answers::<Client>(),
        handler: |call| Box::pin(clients::show(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/clients/{id}/close",
        scope: Scope::Write,
        summary: "Closes the connections of a client.",
        query: &[],
        body: None,
        answer: answers::<Closed>(),
        handler: |call| Box::pin(clients::close(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/client",
        scope: Scope::Read,
        summary: "A client, connected or not, whose id may be too long for a path.",
        query: &[],
        body: takes::<AskClient>(),
        answer: answers::<Client>(),
        handler: |call| Box::pin(clients::show_asked(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/client/close",
        scope: Scope::Write,
        summary: "Closes the connections of a client whose id may be too long for a path.",
        query: &[],
        body: takes::<AskClient>(),
        answer: answers::<Closed>(),
        handler: |call| Box::pin(clients::close_asked(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/top-clients",
        scope: Scope::Read,
        summary: "The clients that come first in an order: the busiest, the quietest, the oldest.",
        query: top_clients::QUERY,
        body: None,
        answer: answers::<TopClients>(),
        handler: |call| Box::pin(top_clients::list(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/counters",
        scope: Scope::Read,
        summary: "What was counted since the start of the process, in all and of each node.",
        query: &[],
        body: None,
        answer: answers::<Counters>(),
        handler: |call| Box::pin(counters::show(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/connected-twice",
        scope: Scope::Read,
        summary: "The connections of client ids that have more than one.",
        query: &[],
        body: None,
        answer: answers::<Clients>(),
        handler: |call| Box::pin(clients::connected_twice(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/reconnecting",
        scope: Scope::Read,
        summary: "The clients whose connections have ended most often within the last minute.",
        query: clients::LOOPS_QUERY,
        body: None,
        answer: answers::<Reconnecting>(),
        handler: |call| Box::pin(clients::reconnecting(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/nodes/{name}/close",
        scope: Scope::Write,
        summary: "Closes the connections that a node has now, at once or at a rate.",
        query: &[],
        body: may_take::<CloseNode>(),
        answer: answers::<Node>(),
        handler: |call| Box::pin(nodes::close(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/doctor",
        scope: Scope::Read,
        summary: "The last examination by the doctor.",
        query: &[],
        body: None,
        answer: answers::<Examined>(),
        handler: |call| Box::pin(doctor::show(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/doctor",
        scope: Scope::Write,
        summary: "Has the doctor look at the set-up, the nodes and the routes between them, which takes some seconds.",
        query: &[],
        body: None,
        answer: answers::<Examined>(),
        handler: |call| Box::pin(doctor::examine(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/listeners",
        scope: Scope::Read,
        summary: "All listeners.",
        query: &[],
        body: None,
        answer: answers::<Listeners>(),
        handler: |call| Box::pin(listeners::list(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/certificates",
        scope: Scope::Read,
        summary: "All certificates in use, and when they expire.",
        query: &[],
        body: None,
        answer: answers::<Certificates>(),
        handler: |call| Box::pin(listeners::certificates(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/config",
        scope: Scope::Write,
        summary: "The configuration in force. It has the seed of the ring, which should stay with operators.",
        query: &[],
        body: None,
        answer: answers::<Configuration>(),
        handler: |call| Box::pin(process::config(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/reload",
        scope: Scope::Write,
        summary: "Reads the configuration again, and takes it completely or not at all.",
        query: &[],
        body: None,
        answer: answers::<Reloaded>(),
        handler: |call| Box::pin(process::reload(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/log/reopen",
        scope: Scope::Write,
        summary: "Opens the file of the log anew, after something else has moved it.",
        query: &[],
        body: None,
        answer: answers::<Reopened>(),
        handler: |call| Box::pin(process::reopen_log(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/drain",
        scope: Scope::Write,
        summary: "Drains the process, which then ends, as on SIGTERM.",
        query: &[],
        body: None,
        answer: answers::<Draining>(),
        handler: |call| Box::pin(process::drain(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/upgrade",
        scope: Scope::Read,
        summary: "The program on disk, and whether it is another one than the one that runs.",
        query: &[],
        body: None,
        answer: answers::<Upgradable>(),
        handler: |call| Box::pin(upgrade::show(call)),
    },
    Route {
        method: Method::POST,
        path: "/api/v1/upgrade",
        scope: Scope::Write,
        summary: "Starts the program on disk, which takes over all listeners and connections. How far it is comes as server-sent events.",
        query: &[],
        body: may_take::<Upgrade>(),
        answer: Answered::Events(of::<UpgradeStep>()),
        handler: |call| Box::pin(upgrade::upgrade(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/events",
        scope: Scope::Read,
        summary: "What changes, as server-sent events with the number of each as its id. Slow readers are dropped.",
        query: &[
            (
                "since",
                of::<u64>(),
                "Begin behind the event with this number, or with the oldest that is kept.",
            ),
            ("follow", of::<bool>(), "With false, end with the newest event."),
        ],
        body: None,
        answer: Answered::Events(of::<Event>()),
        handler: |call| Box::pin(events::show(call)),
    },
    Route {
        method: Method::GET,
        path: "/api/v1/openapi.json",
        scope: Scope::Read,
        summary: "This document.",
        query: &[],
        body: None,
        answer: answers::<OpenApi>(),
        handler: |call| Box::pin(openapi::show(call, ROUTES)),
    },
];

/// What a request asks for.
pub(super) enum Found {
    /// A route, with the values of its parameters.
    Route(&'static Route, Vec<String>),
    /// A path that takes other methods: these.
    OtherMethod(&'static str),
    Nothing,
}

/// Finds the route of a request. HEAD is GET without the body.
pub(super) fn find(method: &Method, path: &str) -> Found {
    let matching = || {
        let with = |route: &'static Route| Some((route, parameters(route.path, path)?));
        ROUTES.iter().filter_map(with)
    };
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    if let Some((route, parameters)) = matching().find(|(route, _)| route.method == *method) {
        return Found::Route(route, parameters);
    }
    match matching().next() {
        Some((route, _)) if route.method == Method::GET => Found::OtherMethod("GET, HEAD"),
        Some(_) => Found::OtherMethod("POST"),
        None => Found::Nothing,
    }
}

/// The values of a route's parameters in a path, if the path is of that route.
fn parameters(route: &str, path: &str) -> Option<Vec<String>> {
    let (mut wanted, mut given) = (route.split('/'), path.split('/'));
    let mut values = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(values),
            // Any bytes, which its handler takes out of the encoding.
            (Some("{id}"), Some(value)) if !value.is_empty() => values.push(value.to_owned()),
            (Some(parameter), Some(value)) if parameter.starts_with('{') && !value.is_empty() => {
                values.push(unescaped(value)?);
            }
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

/// A segment of a path without its percent-encoding (RFC 3986, section 2.1); `None` if it is no text.
fn unescaped(segment: &str) -> Option<String> {
    crate::admin::percent::unescaped(segment).into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_one_route_with_its_parameters() {
        assert_eq!(parameters("/a/{name}/b", "/a/x%20y/b"), Some(vec!["x y".to_owned()]));
        assert_eq!(parameters("/a/{name}", "/a/x%2Fy"), Some(vec!["x/y".to_owned()]));
        assert_eq!(parameters("/a/{id}/b", "/a/%ff%2F/b"), Some(vec!["%ff%2F".to_owned()]));
        for other in ["/a", "/a/", "/a/x/", "/a/x/b/", "/a//b", "/b/x/b", "/a/x%ff/b"] {
            assert_eq!(parameters("/a/{name}/b", other), None, "{other}");
        }
    }

    #[test]
    fn what_changes_something_is_a_post_that_takes_the_right_to_write() {
        for route in ROUTES {
            assert!([Method::GET, Method::POST].contains(&route.method), "{}", route.path);
            let is_post = route.method == Method::POST;
            // A question that may be too long for a path.
            let is_question = route.path == "/api/v1/client";
            assert_eq!(
                is_post && !is_question,
                route.scope == Scope::Write && route.path != "/api/v1/config",
                "{}",
                route.path
            );
            assert!(is_post || route.body.is_none(), "{}", route.path);
            assert!(route.path.starts_with("/api/v1/") && route.summary.ends_with('.'));
        }
    }
}
