//! What surrounds a balancer in the field while another process takes over: name servers and files that fail, links to programs, figures
//! that go on, and a doctor that must not take what has stayed for another's.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use simple_dns::RCODE;
use tempfile::TempDir;

use crate::admin_client::{Metrics, ask_socket};
use crate::balancer::{ADMIN, Program};
use crate::certificates::{BOTH, Certificates};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::control::ctl;
use crate::doctor::{LOSSY, PATIENT, view, with_apis};
use crate::emqx::{FakeApi, answer};
use crate::found_by_dns::{self, NameServer, SERVICE, Zone};
use crate::found_by_file::{self, Listed};
use crate::packets::Connect;
use crate::pair::Pair;
use crate::routing_nodes::{Fault, RoutingNodes};
use crate::tls_client::TlsClient;
use crate::wait;

/// The program of this repository.
const REMORA: &str = env!("CARGO_BIN_EXE_remora");

fn get(program: &Program, path: &str) -> Value {
    let answer = ask_socket(program.socket(), "GET", &format!("/api/v1/{path}"), "");
    assert_eq!(answer.status, 200, "{path}: {}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

/// The names of the nodes of the cluster.
fn names(program: &Program) -> Vec<String> {
    let nodes = get(program, "nodes");
    let nodes = nodes["nodes"].as_array().expect("nodes").iter();
    nodes
        .map(|node| node["node"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
fn what_another_process_has_counted_is_no_storm_and_in_no_figure_of_the_last_seconds() {
    let cluster = Cluster::of(1);
    let mut program = Program::start(&cluster, ADMIN);
    // As many as would be a storm if they all came within three seconds.
    for number in 0..400 {
        Client::accepted(program.address, &Connect::new(format!("earlier {number}"))).reset();
    }
    program.until_ended(400);
    program.upgrade();
    wait::until("the first figures", || get(&program, "overview")["newest_sample"] != 0);
    let overview = get(&program, "overview");
    let node = &overview["nodes"][0];
    assert_eq!(node["connects_per_second"], 0.0, "{overview}");
    assert_eq!(node["recent"]["accepted"], 0, "{overview}");
    assert_eq!(overview["ends"][0]["recent"], 0, "{overview}");
    assert_eq!(Metrics::of(program.admin()).value("remora_storm"), 0.0);
    let events = ask_socket(program.socket(), "GET", "/api/v1/events?follow=false", "").body;
    assert!(
        events.contains("handover") && !events.contains("storm_begun"),
        "{events}"
    );
}

#[test]
fn nodes_that_were_found_stay_whatever_a_name_server_answers_during_an_upgrade() {
    let (nodes, hosts) = found_by_dns::nodes(3);
    let server = NameServer::start(hosts.clone());
    let mut program = Program::of(&found_by_dns::toml(&nodes, &server, SERVICE, ""));
    wait::until("three nodes", || names(&program).len() == 3);
    let found = names(&program);
    for zone in [
        Zone::Code(RCODE::ServerFailure),
        Zone::Hosts(Vec::new()),
        // Of another cluster, perhaps: too few to be believed at once.
        Zone::Hosts(hosts[..1].to_vec()),
        // One that may be back soon.
        Zone::Hosts(hosts[..2].to_vec()),
    ] {
        server.set(zone.clone());
        program.upgrade();
        assert_eq!(names(&program), found, "{zone:?}");
        let client = Client::accepted(program.address, &Connect::new("goes on"));
        client.reset();
    }
    // Nodes are looked for still.
    let (_, more) = found_by_dns::nodes(1);
    server.set(Zone::Hosts([&hosts[..], &more].concat()));
    wait::until("four nodes", || names(&program).len() == 4);
}

#[test]
fn a_file_of_nodes_that_is_broken_stops_an_upgrade() {
    let listed = Listed::new();
    let nodes = found_by_file::nodes(2);
    listed.put(&found_by_file::tables(&nodes));
    let mut program = Program::of(&listed.tables(""));
    wait::until("two nodes", || names(&program).len() == 2);
    listed.put("what is this?");
    let (is_done, last) = program.try_upgrade(&[]);
    let error = last["error"].as_str().unwrap_or_default();
    assert!(!is_done && error.contains("2 nodes of file"), "{last}");
    Client::accepted(program.address, &Connect::new("goes on")).reset();
    listed.put(&found_by_file::tables(&nodes));
    program.upgrade();
    assert_eq!(names(&program).len(), 2);
    Client::accepted(program.address, &Connect::new("goes on")).reset();
}

#[test]
fn an_upgrade_starts_what_a_link_leads_to_now() {
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for version in ["v1", "v2"] {
        fs::copy(REMORA, at(version)).expect("a copy");
    }
    symlink("v1", at("remora")).expect("a link");
    let cluster = Cluster::of(1);
    let toml = crate::balancer::toml(&cluster, "", ADMIN);
    let mut program = Program::by(Command::new(at("remora")), &toml);
    let mut pair = Pair::accepted(&cluster, &program, "stays");
    let runs = |program: &Program| fs::read_link(format!("/proc/{}/exe", program.process())).expect("it runs");
    for version in ["v2", "v1"] {
        symlink(version, at("new")).expect("a link");
        fs::rename(at("new"), at("remora")).expect("renamed");
        assert_eq!(program.try_upgrade(&["--or-reload"]).1["step"], "done");
        assert_eq!(runs(&program), at(version));
        pair.talks(version);
    }
}

#[test]
fn clients_that_stay_with_the_old_process_did_not_come_past_the_balancer() {
    let (nodes, api) = (RoutingNodes::of(1, Vec::new()), FakeApi::start());
    api.answer("/api/v5/cluster", view("emqx@a", &["emqx@a"]));
    api.answer("/api/v5/nodes", answer("200 OK", "application/json", "[]"));
    let at_node = |ids: &[&str]| {
        let clients = ids
            .iter()
            .map(|id| json!({"clientid": id, "node": "emqx@a", "connected": true}));
        let page = json!({"data": Vec::from_iter(clients), "meta": {"hasnext": false}}).to_string();
        api.answer("/api/v5/clients", answer("200 OK", "application/json", &page));
    };
    at_node(&["encrypted"]);
    let certificates = Certificates::new();
    let config = Arc::new(certificates.trusting(BOTH, None));
    let toml = nodes.toml(&format!("{ADMIN}{PATIENT}"));
    let plain = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
    let toml = toml.replace(plain, &format!("{plain}{}\n", certificates.listener()));
    let mut program = Program::of(&with_apis(&toml, std::slice::from_ref(&api)));
    let _stays = TlsClient::accepted(program.address, &config, &Connect::new("encrypted").keep_alive(60));
    let is_past = |program: &Program| {
        let report: Value = serde_json::from_slice(&ctl(program, &["doctor", "--json"]).stdout).expect("JSON");
        let findings = report["report"]["findings"].as_array().expect("findings");
        findings.iter().any(|finding| finding["code"] == "C406")
    };
    for upgrades in 1..=2 {
        let done = program.upgrade();
        assert_eq!(done["moved"], 0, "{done}");
        let completed = "remora_handovers_total{result=\"completed\"}";
        wait::until("the last words of the old process", || {
            Metrics::of(program.admin()).value(completed) == f64::from(upgrades)
        });
        assert!(!is_past(&program));
    }
    at_node(&["encrypted", "another"]);
    assert!(is_past(&program), "there is one client too many");
}

#[test]
fn the_last_examination_is_known_behind_an_upgrade_and_its_findings_are_not_told_again() {
    let nodes = RoutingNodes::of(2, vec![(Fault::Unjoined, 1)]);
    let mut program = Program::of(&nodes.toml(&format!("{ADMIN}{LOSSY}")));
    let examine = |program: &Program, last: &[&str]| {
        let output = ctl(program, &[&["doctor", "--json"], last].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let before = examine(&program, &[]);
    let findings = |program: &Program| Metrics::of(program.admin()).value("remora_findings{code=\"R101\"}");
    assert_eq!(findings(&program), 1.0);
    program.upgrade();
    assert_eq!(findings(&program), 1.0);
    assert_eq!(
        examine(&program, &["--last"])["report"]["findings"],
        before["report"]["findings"]
    );
    examine(&program, &[]);
    let events = ask_socket(program.socket(), "GET", "/api/v1/events?follow=false", "").body;
    assert!(!events.contains("\"finding\""), "{events}");
}
