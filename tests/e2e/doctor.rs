//! The doctor: every fault that can be planted is named, alone and beside others, and a sound cluster has none.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use remora::config;
use remora::doctor::report::{Finding, Report};
use remora::net::tls::Trust;
use remora::serve::{self, Fronts};
use tokio::task::LocalSet;

use crate::admin_client::{Metrics, ask_socket};
use crate::balancer::{ADMIN, Balancer, Program, block_on};
use crate::certificates::Certificates;
use crate::client::Client;
use crate::control::ctl;
use crate::emqx::{FakeApi, answer};
use crate::packets::{Connect, connack, level};
use crate::routing_nodes::{Fault, RoutingNodes};
use crate::tls_front::TlsFront;
use crate::wait;
use crate::ws_node::{WsAnswer, WsNode};

/// A time that no message takes, however busy the machine is; only checks without a loss wait for less.
pub(crate) const PATIENT: &str = "[doctor]\ntimeout = \"20s\"\nslow_after = \"19s\"\n";

/// Messages that are lost are awaited for so long, and those of the other routes arrive meanwhile.
pub(crate) const LOSSY: &str = "[timeouts]\ngreet = \"2s\"\n[doctor]\ntimeout = \"3s\"\nslow_after = \"3s\"\n";

/// The nodes of a cluster: two with faults, and two without.
const NODES: usize = 4;

async fn examine(toml: &str) -> Report {
    let config = config::parse("test.toml", toml).unwrap_or_else(|problems| panic!("{problems}"));
    serve::examine(&config, &Fronts::default()).await
}

/// Examinations of all these, at the same time.
fn examine_all(configurations: Vec<String>) -> Vec<Report> {
    block_on(LocalSet::new().run_until(async {
        let examinations: Vec<_> = configurations
            .into_iter()
            .map(|toml| tokio::task::spawn_local(async move { examine(&toml).await }))
            .collect();
        let mut reports = Vec::new();
        for examination in examinations {
            reports.push(examination.await.expect("a report"));
        }
        reports
    }))
}

fn examine_one(toml: &str) -> Report {
    examine_all(vec![toml.to_owned()]).remove(0)
}

fn codes(report: &Report) -> BTreeSet<String> {
    report.findings.iter().map(|finding| finding.code.clone()).collect()
}

#[track_caller]
fn only(report: &Report, code: &str) -> Finding {
    match &report.findings[..] {
        [finding] if finding.code == code => finding.clone(),
        findings => panic!("{code} is expected: {findings:#?}"),
    }
}

/// Each fault with its code.
const FAULTS: [(Fault, &str); 21] = [
    (Fault::Unjoined, "R101"),
    (Fault::OneWay, "R102"),
    (Fault::Mute, "R103"),
    (Fault::Lossy, "R104"),
    (Fault::Throttles, "R104"),
    (Fault::ForbidsSubscribe(0x87), "R106"),
    (Fault::ForbidsSubscribe(0x80), "R106"),
    (Fault::RefusesPublish(0x87), "R106"),
    (Fault::KeepsRetainedToItself, "R107"),
    (Fault::SharesByNode, "R108"),
    (Fault::StallsAtSubscribe, "R109"),
    (Fault::StallsInTheMiddle, "R109"),
    (Fault::StallsAtConnect, "R109"),
    (Fault::RefusesPublish(0x97), "R110"),
    (Fault::ClosesAtPublish, "R111"),
    (Fault::AnnouncesTooMuch, "R111"),
    (Fault::Dead, "S205"),
    (Fault::ExpectsHeader, "S206"),
    (Fault::ExpectsNoHeader, "S207"),
    (Fault::Refuses(0x87), "S215"),
    (Fault::Refuses(0x88), "S216"),
];

#[test]
fn each_fault_is_named_with_its_node() {
    let faults = [&FAULTS[..], &[(Fault::IsHttp, "S217")]].concat();
    let clusters: Vec<_> = faults
        .iter()
        .map(|(fault, _)| RoutingNodes::of(NODES, vec![(*fault, 1)]))
        .collect();
    let reports = examine_all(clusters.iter().map(|cluster| cluster.toml(LOSSY)).collect());
    for ((fault, code), report) in faults.iter().zip(&reports) {
        assert_eq!(
            codes(report),
            BTreeSet::from([(*code).to_owned()]),
            "{fault:?}: {}",
            report.text()
        );
        let finding = &report.findings[0];
        assert!(finding.subjects.contains(&"node1".to_owned()), "{fault:?}: {finding:?}");
        let words = &finding.found;
        assert!(
            words.contains("node1") || words.contains("127."),
            "{fault:?}: {finding:?}"
        );
        assert_eq!(report.could_not_look, [""; 0], "{fault:?}");
    }
}

#[test]
fn two_faults_are_both_named_and_no_third() {
    /// More at once would make each other late.
    const AT_ONCE: usize = 32;
    let mut pairs = Vec::new();
    for (number, one) in FAULTS.iter().enumerate() {
        for other in &FAULTS[number + 1..] {
            pairs.push([*one, *other]);
        }
    }
    for pairs in pairs.chunks(AT_ONCE) {
        let clusters: Vec<_> = pairs
            .iter()
            .map(|[(one, _), (other, _)]| RoutingNodes::of(NODES, vec![(*one, 0), (*other, 1)]))
            .collect();
        let reports = examine_all(clusters.iter().map(|cluster| cluster.toml(LOSSY)).collect());
        for ([one, other], report) in pairs.iter().zip(&reports) {
            let expected = BTreeSet::from([one, other].map(|(_, code)| (*code).to_owned()));
            assert_eq!(
                codes(report),
                expected,
                "{:?} and {:?}: {}",
                one.0,
                other.0,
                report.text()
            );
        }
    }
}

#[test]
fn parts_of_a_split_are_listed_node_by_node() {
    let cluster = RoutingNodes::of(3, vec![(Fault::Unjoined, 2)]);
    let report = examine_one(&cluster.toml(LOSSY));
    let finding = only(&report, "R101");
    let pattern = "node0, node1 | node2 are 2 clusters: no message passes between them, in either direction";
    assert_eq!(finding.found, pattern);
    let routes = report.routes.expect("routes");
    for route in routes.routes {
        let is_apart = (route.from == "node2") != (route.to == "node2");
        assert_eq!(route.delivered, if is_apart { 0 } else { route.sent }, "{route:?}");
        assert_eq!(route.sent, 10);
    }
}

#[test]
fn a_sound_cluster_has_no_finding_and_nothing_stays_there() {
    for count in [1, 3, 16] {
        let cluster = RoutingNodes::of(count, Vec::new());
        let report = examine_one(&cluster.toml(PATIENT));
        assert_eq!(report.findings, [], "{}", report.text());
        assert_eq!(report.could_not_look, [""; 0]);
        let routes = report.routes.expect("routes");
        assert_eq!(routes.routes.len(), count * count * 2);
        assert!(
            routes
                .routes
                .iter()
                .all(|route| route.delivered == route.sent && route.late == 0)
        );
        assert_eq!(routes.retained.expect("they keep messages").len(), count * count);
        assert!(routes.shared.expect("they share").iter().all(|row| row.once == 5));
        wait::until("nothing is left", || cluster.left() == (0, 0));
        assert_eq!(cluster.disconnects(), count, "each client says that it goes");
    }
}

#[test]
fn of_many_nodes_some_are_drawn_and_the_report_says_so() {
    let cluster = RoutingNodes::of(50, Vec::new());
    let report = examine_one(&cluster.toml(PATIENT));
    assert_eq!(report.findings, [], "{}", report.text());
    let routes = report.routes.as_ref().expect("routes");
    assert_eq!((routes.nodes.len(), routes.nodes_in_all), (16, 50));
    assert_eq!(routes.routes.len(), 16 * 16 * 2);
    assert!(report.text().contains("routes (16 of 50 nodes, drawn at random)"));
    let looked_at = (0..50).filter(|node| {
        let line = format!("node{node} (mqtt)");
        routes.nodes.contains(&format!("node{node}")) || report.checked.iter().any(|checked| checked.what == line)
    });
    assert_eq!(looked_at.count(), 50, "each node is at least looked at");
}

#[test]
fn nodes_of_mqtt_3_are_checked_in_mqtt_3() {
    let cluster = RoutingNodes::of(3, vec![(Fault::IsOld, 0), (Fault::IsOld, 1), (Fault::Unjoined, 1)]);
    let report = examine_one(&cluster.toml(LOSSY));
    assert_eq!(
        only(&report, "R101").found.split(" are").next(),
        Some("node0, node2 | node1")
    );
}

#[test]
fn the_doctor_logs_in_with_its_user_and_shows_it_nowhere() {
    let directory = tempfile::TempDir::new().expect("a directory");
    let file = directory.path().join("doctor.key");
    std::fs::write(&file, "physician:apple:a:day\n").expect("a file");
    let cluster = RoutingNodes::of(2, Vec::new());
    let tables = format!("{PATIENT}credentials = \"{}\"\ntopic = \"site/7\"\n", file.display());
    let report = examine_one(&cluster.toml(&tables));
    assert_eq!(report.findings, [], "{}", report.text());
    for connect in cluster.connects() {
        assert!(connect.ends_with(b"\0\x09physician\0\x0bapple:a:day"), "{connect:02x?}");
    }
    assert!(!report.json().contains("apple"));
}

#[test]
fn a_name_without_an_address_is_a_finding_beside_the_routes_of_the_others() {
    let cluster = RoutingNodes::of(2, Vec::new());
    let toml = cluster.toml(PATIENT) + "\n[[nodes]]\nname = \"lost\"\naddress = \"lost.invalid:1883\"\n";
    let report = examine_one(&toml);
    let finding = only(&report, "S204");
    assert_eq!(finding.subjects, ["lost"]);
    assert!(finding.found.starts_with("lost.invalid:1883: "), "{finding:?}");
    assert_eq!(report.routes.expect("routes").nodes, ["node0", "node1"]);
}

#[test]
fn what_is_wrong_with_a_nodes_tls_is_told_apart() {
    const NODE: &str = "emqx.example";
    let (certificates, strangers) = (Certificates::new(), Certificates::new());
    let day = 86_400;
    let pairs = [
        (certificates.authority.server(&[NODE]).expect("a pair"), None),
        (certificates.node_valid(NODE, -3 * day, -day), Some("S210")),
        (
            certificates.authority.server(&["other.example"]).expect("a pair"),
            Some("S211"),
        ),
        (strangers.authority.server(&[NODE]).expect("a pair"), Some("S212")),
        (certificates.node_valid(NODE, day, 3 * day), Some("S214")),
    ];
    let trusted = format!("[nodes_tls]\nca = \"{}\"\n{LOSSY}", certificates.path("ca.pem"));
    let sites: Vec<_> = pairs
        .iter()
        .map(|(pair, _)| {
            let cluster = RoutingNodes::of(2, Vec::new());
            let front = TlsFront::before(cluster.addresses[0], certificates.node(pair, false), false);
            let plain = format!("address = \"{}\"", cluster.addresses[0]);
            let secured = format!("address = \"mqtts://{}\"\nserver_name = \"{NODE}\"", front.address);
            let toml = cluster.toml(&trusted).replace(&plain, &secured);
            (cluster, front, toml)
        })
        .collect();
    let reports = examine_all(sites.iter().map(|(_, _, toml)| toml.clone()).collect());
    for ((_, expected), report) in pairs.iter().zip(&reports) {
        let expected: BTreeSet<_> = expected.iter().map(|code| (*code).to_owned()).collect();
        assert_eq!(codes(report), expected, "{}", report.text());
    }
    // What listens there has no TLS at all.
    let cluster = RoutingNodes::of(1, Vec::new());
    let secured = cluster
        .toml(&trusted)
        .replace("address = \"127.1", "address = \"mqtts://127.1");
    only(&examine_one(&secured), "S213");
}

#[test]
fn a_wrong_clock_is_told_from_a_certificate_out_of_its_time_by_the_clock_of_the_node() {
    const NODE: &str = "emqx.example";
    let certificates = Certificates::new();
    let day = 86_400;
    let trusted = format!("[nodes_tls]\nca = \"{}\"\n{LOSSY}", certificates.path("ca.pem"));
    // From when and until when the certificate is valid, and the node's clock, all in seconds from now.
    let cases = [
        (
            (-3 * day, -day),
            -2 * day,
            "S214",
            "behind this machine's, and by that clock the certificate is valid",
        ),
        ((-3 * day, -day), 0, "S210", "agrees with this machine's"),
        (
            (-3 * day, -day),
            2 * day,
            "S210",
            "ahead of this machine's, and by that clock the certificate is not valid either",
        ),
        (
            (day, 3 * day),
            2 * day,
            "S214",
            "ahead of this machine's, and by that clock the certificate is valid",
        ),
        ((day, 3 * day), 0, "S214", "agrees with this machine's"),
    ];
    let sites: Vec<_> = cases
        .iter()
        .map(|((from, until), clock, ..)| {
            let cluster = RoutingNodes::of(1, Vec::new());
            let pair = certificates.node_valid(NODE, *from, *until);
            let front = TlsFront::before(cluster.addresses[0], certificates.node(&pair, false), false);
            let plain = format!("address = \"{}\"", cluster.addresses[0]);
            let secured = format!("address = \"mqtts://{}\"\nserver_name = \"{NODE}\"", front.address);
            let api = FakeApi::start();
            let there = SystemTime::now() + Duration::from_secs(10 * day as u64)
                - Duration::from_secs((10 * day - clock) as u64);
            api.answer("/api/v5/cluster", dated(view("emqx@a", &["emqx@a"]), there));
            api.answer("/api/v5/nodes", answer("200 OK", "application/json", "[]"));
            let toml = with_apis(
                &cluster.toml(&trusted).replace(&plain, &secured),
                std::slice::from_ref(&api),
            );
            (cluster, front, api, toml)
        })
        .collect();
    let reports = examine_all(sites.iter().map(|(.., toml)| toml.clone()).collect());
    for ((_, _, code, words), report) in cases.iter().zip(&reports) {
        let finding = only(report, code);
        assert!(finding.found.ends_with(words), "{finding:?}");
    }
}

#[test]
fn what_is_wrong_with_a_nodes_websocket_listener_is_told_apart() {
    for (answer, expected) in [
        (WsAnswer::Accept, None),
        (
            WsAnswer::Head("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
            Some("S208"),
        ),
        (
            WsAnswer::Head("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
            Some("S209"),
        ),
    ] {
        let cluster = RoutingNodes::of(1, Vec::new());
        let ws = WsNode::start();
        ws.answer(answer);
        let toml = cluster.toml(PATIENT).replace(
            "proxy_protocol",
            &format!("ws = \"ws://{}/mqtt\"\nproxy_protocol", ws.address),
        );
        let report = examine_one(&toml);
        match expected {
            None => assert_eq!(report.findings, [], "{}", report.text()),
            Some(code) => assert!(only(&report, code).looked_at.contains("node0 (ws)")),
        }
    }
}

/// The codes of the findings in an answer of the API.
fn found(answer: &serde_json::Value) -> Vec<&str> {
    let findings = answer["report"]["findings"].as_array().into_iter().flatten();
    findings.filter_map(|finding| finding["code"].as_str()).collect()
}

/// The configuration, with a listener behind another load balancer, which sends PROXY headers.
pub(crate) fn behind_another(toml: &str) -> String {
    let behind = "address = \"127.0.0.1:0\"\nproxy_protocol_from = [\"127.0.0.0/8\"]\n\n[[nodes]]";
    toml.replacen("address = \"127.0.0.1:0\"\n\n[[nodes]]", behind, 1)
}

/// A client that came through that one, and was accepted.
pub(crate) fn introduced(balancer: SocketAddr, connect: &Connect) -> Client {
    let mut client = Client::to(balancer);
    client.send(&[&b"PROXY TCP4 127.0.0.9 127.0.0.1 4000 1883\r\n"[..], &connect.bytes()].concat());
    client.expect(&connack(level(&connect.bytes()), 0));
    client
}

/// What the log says of each fault that appears.
const FOUND: &str = "the doctor found a fault; remora ctl doctor shows what to do";

#[test]
fn a_balancer_that_runs_is_examined_when_asked() {
    let cluster = RoutingNodes::of(3, vec![(Fault::Unjoined, 2)]);
    let program = Program::of(&cluster.toml(&format!("{ADMIN}{LOSSY}")));
    let none = ctl(&program, &["doctor", "--last"]);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert!(
        String::from_utf8_lossy(&none.stderr).contains("no examination yet"),
        "{none:?}"
    );
    let text = ctl(&program, &["doctor"]);
    assert_eq!(text.status.code(), Some(2), "{text:?}");
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    assert!(text.contains("node0, node1 | node2 are 2 clusters"), "{text}");
    let lines = program.at_least(1, |line| line["message"] == FOUND);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["code"], "R101");
    assert_eq!(lines[0]["subjects"], serde_json::json!(["node0", "node1", "node2"]));
    let metrics = Metrics::of(program.admin());
    assert_eq!(metrics.value("remora_findings{code=\"R101\"}"), 1.0);
    assert_eq!(metrics.sum("remora_findings"), 1.0);
    let ratio = |from, to| {
        metrics.value(&format!(
            "remora_route_check_delivered_ratio{{from=\"{from}\",to=\"{to}\"}}"
        ))
    };
    assert_eq!((ratio("node0", "node1"), ratio("node0", "node2")), (1.0, 0.0));
    let seconds = metrics.value("remora_route_check_seconds{from=\"node0\",to=\"node1\"}");
    assert!(seconds > 0.0 && seconds < 3.0, "{seconds}");
    assert!(metrics.value("remora_examination_timestamp_seconds") > 1_700_000_000.0);
    // The status page says the same.
    let overview = ask_socket(program.socket(), "GET", "/api/v1/overview", "");
    let overview: serde_json::Value = serde_json::from_str(&overview.body).expect("JSON");
    assert_eq!(overview["is_fine"], false);
    let sentence = overview["sentence"].as_str().expect("a sentence");
    assert!(
        sentence.contains("the doctor finds R101 nodes-not-joined; "),
        "{sentence}"
    );
    let examination = &overview["examination"];
    assert_eq!(examination["findings"][0]["code"], "R101");
    assert_eq!(examination["nodes"], serde_json::json!(["node0", "node1", "node2"]));
    let route = |from, to| {
        let routes = examination["routes"].as_array().expect("an array");
        let found = routes.iter().find(|route| route["from"] == from && route["to"] == to);
        let found = found.expect("a route");
        (found["sent"].as_u64(), found["delivered"].as_u64())
    };
    assert_eq!(route("node0", "node1").0, route("node0", "node1").1);
    assert_eq!(route("node0", "node2").1, Some(0));
    cluster.heal();
    let answer = ask_socket(program.socket(), "POST", "/api/v1/doctor", "");
    assert_eq!(answer.status, 200);
    let answer: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(found(&answer), [""; 0], "{answer}");
    program.until_said("a fault that the doctor found is gone");
    assert_eq!(Metrics::of(program.admin()).sum("remora_findings"), 0.0);
    assert_eq!(ctl(&program, &["doctor", "--last"]).status.code(), Some(0));
    let events = ask_socket(program.socket(), "GET", "/api/v1/events?since=0&follow=false", "");
    let told = |is_begun| {
        format!(
            "\"found\":\"node0, node1 | node2 are 2 clusters: no message passes between them, in either direction\",\"is_begun\":{is_begun}"
        )
    };
    for is_begun in [true, false] {
        assert!(events.body.contains(&told(is_begun)), "{events:?}");
    }
}

#[test]
fn a_balancer_examines_itself_at_the_interval_and_leaves_nothing_at_the_nodes() {
    let cluster = RoutingNodes::of(2, vec![(Fault::OneWay, 0)]);
    let program = Program::of(&behind_another(
        &cluster.toml(&format!("{ADMIN}{LOSSY}interval = \"10s\"\n")),
    ));
    let sleeper = introduced(program.address, &Connect::new("sleeper").keep_alive(600));
    let at = || Metrics::of(program.admin()).value("remora_examination_timestamp_seconds");
    let found_a_fault = |line: &serde_json::Value| line["message"] == FOUND;
    let lines = program.at_least(2, found_a_fault);
    assert_eq!(
        BTreeSet::from_iter(lines.iter().map(|line| line["code"].as_str())),
        BTreeSet::from([Some("R102"), Some("S218")])
    );
    let first = at();
    // The clients are not looked at again so soon, and what was found of them stays.
    wait::until("another examination", || at() > first);
    let examined = ctl(&program, &["doctor", "--last", "--json"]);
    assert_eq!(examined.status.code(), Some(2));
    let examined: serde_json::Value = serde_json::from_slice(&examined.stdout).expect("JSON");
    assert_eq!(found(&examined), ["R102", "S218"]);
    let routes = &examined["report"]["routes"];
    let rows = |name: &str| routes[name].as_array().map(Vec::len);
    assert_eq!((rows("retained"), rows("shared")), (Some(3), Some(2)), "{routes}");
    assert_eq!(program.lines(found_a_fault).len(), 2, "each fault is told once");
    assert_eq!(
        program
            .lines(|line| line["message"] == "a fault that the doctor found is gone")
            .len(),
        0
    );
    drop(program);
    drop(sleeper);
    assert!(cluster.retained_ever() > 0);
    wait::until("nothing is left", || cluster.left() == (0, 0));
}

#[test]
fn as_soon_as_routes_break_or_heal_the_clients_are_looked_at_again() {
    let cluster = RoutingNodes::of(2, vec![(Fault::Unjoined, 0)]);
    let program = Program::of(&cluster.toml(&format!("{ADMIN}{LOSSY}interval = \"10s\"\n")));
    program.at_least(1, |line| line["message"] == FOUND && line["code"] == "R101");
    let twins = ["twin"; 2].map(|id| Client::accepted(program.address, &Connect::new(id)));
    cluster.heal();
    program.at_least(1, |line| line["message"] == FOUND && line["code"] == "C503");
    program.until_said("a fault that the doctor found is gone");
    drop(twins);
}

#[test]
fn nodes_without_shared_subscriptions_are_asked_for_one_once_and_not_at_each_interval() {
    let cluster = RoutingNodes::of(2, vec![(Fault::SharesNothing, 0), (Fault::SharesNothing, 1)]);
    let program = Program::of(&cluster.toml(&format!("{ADMIN}{PATIENT}interval = \"10s\"\n")));
    // Nothing is no time yet.
    let at = || Metrics::of(program.admin()).sum("remora_examination_timestamp_seconds");
    wait::until("an examination", || at() > 0.0);
    let first = at();
    wait::until("another examination", || at() > first);
    assert_eq!(cluster.asked_to_share(), 2);
    assert_eq!(Metrics::of(program.admin()).sum("remora_findings"), 0.0);
}

#[test]
fn a_shared_subscription_is_checked_once_there_are_routes() {
    let refused = Fault::Refuses(0x87);
    let cluster = RoutingNodes::of(2, vec![(refused, 0), (refused, 1)]);
    let program = Program::of(&cluster.toml(&format!("{ADMIN}{LOSSY}interval = \"10s\"\n")));
    program.at_least(1, |line| line["message"] == FOUND);
    cluster.heal();
    let last = || -> serde_json::Value {
        let examined = ctl(&program, &["doctor", "--last", "--json"]);
        serde_json::from_slice(&examined.stdout).expect("JSON")
    };
    wait::until("an examination without findings", || found(&last()).is_empty());
    let shared = &last()["report"]["routes"]["shared"];
    assert_eq!(shared.as_array().map(Vec::len), Some(2), "{shared}");
}

fn examine_through(toml: &str, fronts: &Fronts) -> Report {
    let config = config::parse("test.toml", toml).unwrap_or_else(|problems| panic!("{problems}"));
    block_on(LocalSet::new().run_until(serve::examine(&config, fronts)))
}

#[test]
fn a_subscriber_behind_each_kind_of_listener_receives_after_every_restart() {
    let cluster = RoutingNodes::of(2, Vec::new());
    let certificates = Certificates::new();
    certificates.server("front.pem", &["127.0.0.1"]);
    let tls = certificates.listener_with(&["front.pem"]);
    let ws = "transport = \"ws\"\npaths = [\"/way\"]\n";
    let mut toml = cluster.toml(PATIENT);
    for keys in [ws.to_owned(), tls.clone(), format!("{ws}{tls}")] {
        toml += &format!(
            "\n[[listeners]]\naddress = \"127.0.0.2:0\"\nname = \"{}\"\n{keys}\n",
            keys.len()
        );
    }
    let balancer = Balancer::of(&toml.replace("127.0.0.2:0", "127.0.0.1:0"));
    let addresses = balancer.running.addresses();
    let urls = ["mqtt://{}", "ws://{}/way", "mqtts://{}", "wss://{}/way"];
    let urls = urls
        .iter()
        .zip(&addresses)
        .map(|(url, address)| url.replace("{}", &address.to_string()));
    let urls: Vec<String> = urls.collect();
    let fronts = Fronts {
        urls: urls.iter().map(|url| url.parse().expect("a URL")).collect(),
        restarts: 2,
        trust: Some(Trust::from_pem(certificates.authority.pem().as_bytes()).expect("an authority")),
    };
    let report = examine_through(&cluster.toml(PATIENT), &fronts);
    assert_eq!(report.findings, [], "{}", report.text());
    for (front, url) in report.front.iter().zip(&urls) {
        assert_eq!((&front.url, front.restarts), (url, 2));
        let received: Vec<_> = front.publishers.iter().map(|row| (&*row.from, row.received)).collect();
        assert_eq!(received, [("through the balancer", 2), ("node0", 2), ("node1", 2)]);
    }
    assert_eq!(report.front.len(), 4);
    let strangers = Fronts {
        urls: vec![urls[2].parse().expect("a URL")],
        trust: Some(Trust::from_pem(Certificates::new().authority.pem().as_bytes()).expect("an authority")),
        ..fronts
    };
    let finding = only(&examine_through(&cluster.toml(PATIENT), &strangers), "F301");
    assert!(finding.found.contains("certificate"), "{finding:?}");
}

#[test]
fn behind_a_balancer_before_unjoined_nodes_only_one_publisher_is_received() {
    let cluster = RoutingNodes::of(2, vec![(Fault::Unjoined, 1)]);
    let balancer = Balancer::of(&cluster.toml(""));
    let fronts = Fronts {
        urls: vec![format!("mqtt://{}", balancer.address).parse().expect("a URL")],
        restarts: 3,
        trust: None,
    };
    let report = examine_through(&cluster.toml(LOSSY), &fronts);
    assert_eq!(
        codes(&report),
        BTreeSet::from(["F303", "R101"].map(str::to_owned)),
        "{}",
        report.text()
    );
    let of_nodes: Vec<u32> = report.front[0].publishers[1..].iter().map(|row| row.received).collect();
    assert!(
        [[3, 0], [0, 3]].iter().any(|counts| of_nodes == counts),
        "it stays on its node: {of_nodes:?}"
    );
}

/// The answer, by a clock that says this.
fn dated(answer: Vec<u8>, time: SystemTime) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ndate: {}\r\n", httpdate::fmt_http_date(time));
    [
        head.as_bytes(),
        answer.strip_prefix(b"HTTP/1.1 200 OK\r\n").expect("a good one"),
    ]
    .concat()
}

/// The cluster's configuration, with an API at each node.
pub(crate) fn with_apis(toml: &str, apis: &[FakeApi]) -> String {
    let each = apis.iter().enumerate();
    each.fold(toml.to_owned(), |toml, (node, api)| {
        let name = format!("name = \"node{node}\"\n");
        toml.replacen(&name, &format!("{name}api = \"http://{}\"\n", api.address), 1)
    })
}

/// What EMQX says of a cluster with these members, asked at one of them.
pub(crate) fn view(own: &str, members: &[&str]) -> Vec<u8> {
    let body = serde_json::json!({"name": "emqxcl", "nodes": members, "self": own}).to_string();
    answer("200 OK", "application/json", &body)
}

#[test]
fn views_of_the_cluster_that_differ_are_named_beside_the_routes() {
    let cluster = RoutingNodes::of(2, vec![(Fault::Unjoined, 1)]);
    let apis = [FakeApi::start(), FakeApi::start()];
    let toml = with_apis(&cluster.toml(LOSSY), &apis);
    let names = ["emqx@a", "emqx@b"];
    for (api, name) in apis.iter().zip(names) {
        api.answer("/api/v5/cluster", view(name, &[name]));
        api.answer("/api/v5/nodes", answer("200 OK", "application/json", "[]"));
    }
    let report = examine_one(&toml);
    assert_eq!(
        codes(&report),
        BTreeSet::from(["C403", "R101"].map(str::to_owned)),
        "{}",
        report.text()
    );
    let found = report.findings.iter().find(|finding| finding.code == "C403");
    assert_eq!(
        found.map(|finding| &*finding.found),
        Some("node0: cluster emqxcl with emqx@a; node1: cluster emqxcl with emqx@b")
    );
    cluster.heal();
    for (api, name) in apis.iter().zip(names) {
        api.answer("/api/v5/cluster", view(name, &names));
    }
    let members =
        r#"[{"node":"emqx@a","node_status":"running","version":"5.8.9"},{"node":"emqx@c","node_status":"stopped"}]"#;
    apis[0].answer("/api/v5/nodes", answer("200 OK", "application/json", members));
    assert_eq!(only(&examine_one(&toml), "C404").subjects, ["emqx@c"]);
    apis[0].answer("/api/v5/nodes", answer("200 OK", "application/json", "[]"));
    for api in &apis {
        api.answer(
            "/api/v5/cluster",
            answer(
                "401 Unauthorized",
                "application/json",
                "{\"code\":\"BAD_API_KEY_OR_SECRET\"}",
            ),
        );
    }
    // The key is wrong; where there is none, nothing else is to be expected.
    let mut key = tempfile::NamedTempFile::new().expect("a temporary file");
    key.write_all(b"key:secret\n").expect("written");
    let with_key = format!("{toml}\n[nodes_api]\ncredentials = {:?}\n", key.path());
    assert_eq!(only(&examine_one(&with_key), "C401").subjects, ["node0", "node1"]);
    let report = examine_one(&toml);
    assert_eq!(codes(&report), BTreeSet::new(), "{}", report.text());
    let seen = report
        .checked
        .iter()
        .find(|checked| checked.what == "cluster by its API");
    assert_eq!(
        seen.map(|checked| &*checked.seen),
        Some("not compared, since nodes_api.credentials is not set: node0, node1")
    );
    apis[0].answer("/api/v5/cluster", answer("200 OK", "text/html", "<html>"));
    apis[1].answer("/api/v5/cluster", view("emqx@b", &names));
    assert_eq!(only(&examine_one(&toml), "C402").subjects, ["node0"]);
}

#[test]
fn clients_past_the_balancer_ids_of_libraries_and_twins_are_found_among_clients() {
    let cluster = RoutingNodes::of(1, Vec::new());
    let api = FakeApi::start();
    api.answer("/api/v5/cluster", view("emqx@a", &["emqx@a"]));
    api.answer("/api/v5/nodes", answer("200 OK", "application/json", "[]"));
    let page = |ids: &[&str], hasnext| {
        let data: Vec<_> = ids
            .iter()
            .map(|id| serde_json::json!({"clientid": id, "node": "emqx@a", "connected": true}))
            .collect();
        let body = serde_json::json!({"data": data, "meta": {"page": 1, "limit": 1000, "hasnext": hasnext}});
        answer("200 OK", "application/json", &body.to_string())
    };
    api.answer("/api/v5/clients?page=1&", page(&["sensor-1"], true));
    api.answer("/api/v5/clients?page=2&", page(&["sensor-2"], false));
    let program = Program::of(&with_apis(&cluster.toml(&format!("{ADMIN}{PATIENT}")), &[api]));
    let sensors = ["sensor-1", "sensor-2"].map(|id| Client::accepted(program.address, &Connect::new(id)));
    let examined = || {
        let output = ctl(&program, &["doctor", "--json"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    assert_eq!(found(&examined()), [""; 0], "both came through the balancer");
    let [first, second] = sensors;
    let name = second.address();
    drop(second);
    program.ended(name);
    let past = examined();
    assert_eq!(found(&past), ["C406"], "{past}");
    let words = past["report"]["findings"][0]["found"].as_str().expect("words");
    assert!(
        words.starts_with("1 of them did not come") && words.ends_with("sensor-2"),
        "{words}"
    );
    let _others =
        ["mqttjs_1a2b3c4d", "sensor-2", "sensor-1"].map(|id| Client::accepted(program.address, &Connect::new(id)));
    let all = examined();
    assert_eq!(found(&all), ["C502", "C503"], "{all}");
    drop(first);
}

#[test]
fn clients_that_ping_more_rarely_than_a_load_balancer_in_front_allows_are_named() {
    let cluster = RoutingNodes::of(1, Vec::new());
    let toml = behind_another(&cluster.toml(&format!("{ADMIN}{PATIENT}")));
    let program = Program::of(&toml);
    let clients = [("sleeper", 600), ("pinger", 60)]
        .map(|(id, seconds)| introduced(program.address, &Connect::new(id).keep_alive(seconds)));
    let output = ctl(&program, &["doctor", "--json"]);
    let examined: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found(&examined), ["S218"], "{examined}");
    let words = examined["report"]["findings"][0]["found"].as_str().expect("words");
    assert!(words.ends_with("350 s, or none: 1 (sleeper)"), "{words}");
    program.reload(&format!("[keepalive]\nidle = \"60s\"\n{toml}"));
    assert_eq!(ctl(&program, &["doctor"]).status.code(), Some(0));
    drop(clients);
}

#[test]
fn nodes_that_discovery_finds_are_examined_as_well() {
    let cluster = RoutingNodes::of(1, Vec::new());
    let api = FakeApi::start();
    let (host, port) = (cluster.addresses[0].ip(), cluster.addresses[0].port());
    let members = serde_json::json!([{"node": format!("emqx@{host}"), "node_status": "running"}]).to_string();
    api.answer("/api/v5/nodes", answer("200 OK", "application/json", &members));
    let toml = format!(
        "{PATIENT}[discovery]\nsource = \"emqx\"\nseeds = [\"http://{}\"]\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [[nodes]]\naddress = \"{{host}}:{port}\"\n",
        api.address
    );
    let report = examine_one(&toml);
    assert_eq!(report.findings, [], "{}", report.text());
    assert_eq!(report.routes.expect("routes").nodes, [format!("emqx@{host}")]);
    api.answer("/api/v5/nodes", answer("401 Unauthorized", "application/json", "{}"));
    let report = examine_one(&toml);
    assert_eq!(report.could_not_look.len(), 1, "{report:?}");
    assert!(
        report.could_not_look[0].contains("see nodes_api.credentials"),
        "{report:?}"
    );
}
