//! Events by one name each, in the API, in lines of the log and in the metric; and certificates that expire.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;

use crate::admin_client::{Metrics, get};
use crate::balancer::{ADMIN, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::control::ctl;
use crate::packets::Connect;
use crate::wait;

const DAY: Duration = Duration::from_secs(86_400);

/// A certificate for this name that expires at that time, with its key, in files of a folder.
fn certificate(folder: &Path, name: &str, expires: SystemTime) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.not_before = (SystemTime::now() - 300 * DAY).into();
    params.not_after = expires.into();
    let chain = params.self_signed(&key).expect("a certificate").pem();
    fs::write(folder.join(format!("{name}.pem")), chain).expect("a file");
    fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("a file");
}

fn tls(folder: &Path, names: &[&str]) -> String {
    let file = |name: &str, kind: &str| folder.join(format!("{name}.{kind}")).display().to_string();
    let one = |name: &&str| {
        format!(
            "{{ chain = \"{}\", key = \"{}\" }}",
            file(name, "pem"),
            file(name, "key")
        )
    };
    let all: Vec<String> = names.iter().map(one).collect();
    format!(
        "name = \"secure\"\ntls = \"end\"\ncertificates = [{}]\n",
        all.join(", ")
    )
}

/// The events so far, by the API.
fn events(program: &Program) -> Vec<Value> {
    let printed = ctl(program, &["events", "--json"]);
    let printed = String::from_utf8(printed.stdout).expect("UTF-8");
    let lines = printed.lines();
    lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn of_kind(program: &Program, kind: &str) -> Vec<Value> {
    events(program)
        .into_iter()
        .filter(|event| event["kind"] == kind)
        .collect()
}

/// How many there are of each name.
fn counts<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn each_event_has_one_name_in_the_api_the_log_and_the_metric() {
    let mut cluster = Cluster::of(2);
    let folder = TempDir::new().expect("a folder");
    certificate(folder.path(), "soon.example", SystemTime::now() + 5 * DAY);
    certificate(folder.path(), "late.example", SystemTime::now() - 2 * DAY);
    let listeners = |limit: usize| {
        let plain = toml(
            &cluster,
            &format!("connections_max = {limit}\n"),
            &format!("{ADMIN}[health]\nfailures_max = 1\n"),
        );
        let tls = tls(folder.path(), &["soon.example", "late.example"]);
        format!("{plain}\n[[listeners]]\naddress = \"127.0.0.1:0\"\n{tls}")
    };
    let config = listeners(10);
    let program = Program::of(&config);
    let mut clients: Vec<Client> = (0..9)
        .map(|number| Client::accepted(program.address, &Connect::new(format!("kept-{number}"))))
        .collect();
    wait::until("a limit that is nearly reached", || {
        of_kind(&program, "finding").len() == 1
    });
    clients.clear();
    wait::until("its end", || of_kind(&program, "finding").len() == 2);
    ctl(&program, &["drain", "node1"]);
    ctl(&program, &["undrain", "node1"]);
    program.reload(&format!(
        "{config}\n[[listeners]]\nname = \"more\"\naddress = \"127.0.0.1:0\"\n"
    ));
    program.reload(&config);
    program.reload_in_vain(&config.replace("workers = 2", "workers = \"two\""));
    cluster.nodes[0].die();
    let _client = Client::to(program.address);
    let id = cluster.id_at_home(0, "finds out");
    let _client = Client::accepted(program.address, &Connect::new(id));
    wait::until("the node is down", || !of_kind(&program, "node_state").is_empty());
    wait::until("both certificates", || {
        !of_kind(&program, "certificate_expiring").is_empty() && !of_kind(&program, "certificate_expired").is_empty()
    });

    let told = events(&program);
    let told = counts(told.iter().map(|event| event["kind"].as_str().expect("a kind")));
    for (kind, count) in [
        ("finding", 2),
        ("node_wish", 2),
        ("listener_opened", 1),
        ("listener_closed", 1),
        ("reload", 3),
        ("node_state", 1),
        ("certificate_expiring", 1),
        ("certificate_expired", 1),
    ] {
        assert_eq!(told.get(kind), Some(&count), "{kind}: {told:?}");
    }
    let logged = || {
        let lines = program.lines(|line| line["event"].is_string());
        counts(lines.iter().map(|line| line["event"].as_str().expect("a name")))
    };
    // The test may read them later than the API's.
    wait::until("as many lines as events", || {
        logged().values().sum::<usize>() >= told.values().sum::<usize>()
    });
    assert_eq!(logged(), told);
    let metrics = Metrics::of(program.admin());
    for kind in remora::admin::api::answers::Change::KINDS {
        let counted = metrics.value(&format!("remora_events_total{{event=\"{kind}\"}}"));
        assert_eq!(counted, told.get(kind).copied().unwrap_or(0) as f64, "{kind}");
    }
    let state = &of_kind(&program, "node_state")[0];
    assert_eq!((&state["source"], &state["state"]), (&"probe".into(), &"down".into()));
    let finding = &of_kind(&program, "finding")[0];
    assert_eq!(
        (&finding["code"], &finding["subject"], &finding["is_begun"]),
        (&"connections_near_limit".into(), &"127.0.0.1:0".into(), &true.into()),
        "{finding}"
    );
}

#[test]
fn more_clients_than_nodes_may_get_are_a_storm_that_is_told_once() {
    let cluster = Cluster::of(1);
    let tables = format!("{ADMIN}[pacing]\nconnects_per_second = 1\n");
    let program = Program::start(&cluster, &tables);
    let metrics = || Metrics::of(program.admin());
    assert_eq!(metrics().value("remora_storm"), 0.0);
    // The last of them waits for ten seconds.
    let _clients: Vec<Client> = (0..11)
        .map(|number| {
            let mut client = Client::to(program.address);
            client.send(&Connect::new(format!("waits-{number}")).bytes());
            client
        })
        .collect();
    wait::until("a storm", || metrics().value("remora_storm") == 1.0);
    let begun = of_kind(&program, "storm_begun");
    assert_eq!(begun.len(), 1, "{begun:?}");
    assert!(
        begun[0]["waiting"].as_u64().is_some_and(|waiting| waiting > 0),
        "{begun:?}"
    );
    program.until_said("far more clients connect than usual");
    let lines = program.lines(|line| line["event"] == "storm_begun");
    assert!(lines.len() == 1 && lines[0]["level"] == "WARN", "{lines:?}");
    assert_eq!(metrics().value("remora_events_total{event=\"storm_begun\"}"), 1.0);
}

#[test]
fn certificates_are_shown_with_their_ends_and_told_of_once_until_they_are_renewed() {
    let cluster = Cluster::of(1);
    let folder = TempDir::new().expect("a folder");
    certificate(folder.path(), "soon.example", SystemTime::now() + 5 * DAY + DAY / 2);
    certificate(folder.path(), "long.example", SystemTime::now() + 90 * DAY);
    let config = |more: &str| {
        let tls = tls(folder.path(), &["soon.example", "long.example"]);
        toml(&cluster, &format!("{tls}{more}"), ADMIN)
    };
    let program = Program::of(&config(""));
    let shown = ctl(&program, &["certificates", "--json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    let shown = shown["certificates"].as_array().expect("a list").clone();
    let days: Vec<_> = shown
        .iter()
        .map(|one| (&one["listener"], &one["names"][0], &one["days"]))
        .collect();
    let secure: Value = "secure".into();
    assert_eq!(
        days,
        [
            (&secure, &"soon.example".into(), &5.into()),
            (&secure, &"long.example".into(), &89.into())
        ]
    );
    let text = String::from_utf8(ctl(&program, &["certificates"]).stdout).expect("UTF-8");
    assert!(
        text.lines()
            .nth(1)
            .is_some_and(|line| line.starts_with("secure") && line.ends_with("soon.example")),
        "{text}"
    );
    let page = get(program.admin(), "/metrics").body;
    assert!(
        page.contains("remora_certificate_expiry_timestamp_seconds{listener=\"secure\"}"),
        "{page}"
    );
    wait::until("the event", || of_kind(&program, "certificate_expiring").len() == 1);
    let told = &of_kind(&program, "certificate_expiring")[0];
    assert_eq!((&told["listener"], &told["days"]), (&secure, &5.into()), "{told}");
    assert_eq!(told["expires"], shown[0]["expires"]);
    // A reload that keeps it does not tell of it again; one with another certificate near its end does.
    program.reload(&config("connections_max = 100\n"));
    certificate(folder.path(), "long.example", SystemTime::now() + DAY / 2);
    program.reload(&config("connections_max = 100\n"));
    wait::until("the event", || of_kind(&program, "certificate_expiring").len() == 2);
    let told = &of_kind(&program, "certificate_expiring")[1];
    assert_eq!(
        (&told["names"][0], &told["days"]),
        (&"long.example".into(), &0.into()),
        "{told}"
    );
    drop(TcpStream::connect(program.address));
}
