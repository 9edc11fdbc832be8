//! What the doctor says of the clients: every fault that can be planted among them is named, alone and beside each other.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::balancer::{ADMIN, Program};
use crate::client::Client;
use crate::control::ctl;
use crate::doctor::{PATIENT, behind_another, introduced, view, with_apis};
use crate::emqx::{FakeApi, answer};
use crate::packets::Connect;
use crate::routing_nodes::RoutingNodes;

/// What is wrong with clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Among {
    /// Many have an id that MQTT.js has made up.
    IdsChange,
    /// Two have one id.
    Twins,
    /// One ends the connection of another with the same id, again and again.
    Fight,
    /// One without an id has a session that stays.
    SessionLeft,
    /// One pings more rarely than the load balancer in front allows.
    Sleeper,
    /// Some are on the node, and did not come through the balancer.
    Past,
}

const FAULTS: [(Among, &str); 6] = [
    (Among::IdsChange, "C502"),
    (Among::Twins, "C503"),
    (Among::Fight, "C504"),
    (Among::SessionLeft, "C506"),
    (Among::Sleeper, "S218"),
    (Among::Past, "C406"),
];

/// Clients with nothing wrong.
const SOUND: usize = 30;

/// More than one without an id, which could be the same.
const PAST: usize = 3;

fn plant(fault: Among, balancer: SocketAddr) -> Vec<Client> {
    let client = |connect: Connect| introduced(balancer, &connect.keep_alive(60));
    match fault {
        Among::IdsChange => (0..10)
            .map(|number| client(Connect::new(format!("mqttjs_1a2b3c{number:02}"))))
            .collect(),
        Among::Twins => (0..2).map(|_| client(Connect::new("twin"))).collect(),
        Among::Fight => {
            for _ in 0..12 {
                drop(client(Connect::new("boxer")));
            }
            Vec::new()
        }
        Among::SessionLeft => vec![client(Connect::v5("").session_expiry(3600))],
        Among::Sleeper => vec![introduced(balancer, &Connect::new("sleeper").keep_alive(600))],
        Among::Past => Vec::new(),
    }
}

/// The codes that are found where these faults are planted.
fn found(faults: &[Among]) -> BTreeSet<String> {
    let (nodes, api) = (RoutingNodes::of(2, Vec::new()), FakeApi::start());
    api.answer("/api/v5/cluster", view("emqx@a", &["emqx@a"]));
    api.answer("/api/v5/nodes", answer("200 OK", "application/json", "[]"));
    let past = if faults.contains(&Among::Past) { PAST } else { 0 };
    let past = (0..past)
        .map(|number| serde_json::json!({"clientid": format!("past-{number}"), "node": "emqx@a", "connected": true}));
    let page = serde_json::json!({"data": Vec::from_iter(past), "meta": {"hasnext": false}}).to_string();
    api.answer("/api/v5/clients", answer("200 OK", "application/json", &page));
    let toml = behind_another(&nodes.toml(&format!("{ADMIN}{PATIENT}")));
    let program = Program::of(&with_apis(&toml, &[api]));
    let sound = (0..SOUND).map(|number| {
        introduced(
            program.address,
            &Connect::new(format!("sensor-{number}")).keep_alive(60),
        )
    });
    let mut clients: Vec<Client> = sound.collect();
    clients.extend(faults.iter().flat_map(|fault| plant(*fault, program.address)));
    if faults.contains(&Among::Fight) {
        program.at_least(12, |line| line["client_id"] == "boxer");
    }
    let output = ctl(&program, &["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let findings = report["report"]["findings"].as_array().expect("findings");
    findings
        .iter()
        .map(|finding| finding["code"].as_str().expect("a code").to_owned())
        .collect()
}

#[test]
fn each_fault_among_clients_is_named() {
    assert_eq!(found(&[]), BTreeSet::new());
    for (fault, code) in FAULTS {
        assert_eq!(found(&[fault]), BTreeSet::from([code.to_owned()]), "{fault:?}");
    }
}

#[test]
fn two_faults_among_clients_are_both_named_and_no_third() {
    for (number, (one, code)) in FAULTS.iter().enumerate() {
        for (other, other_code) in &FAULTS[number + 1..] {
            let expected = BTreeSet::from([*code, *other_code].map(str::to_owned));
            assert_eq!(found(&[*one, *other]), expected, "{one:?} and {other:?}");
        }
    }
}
