//! The numbers are those of what happened, from the first scrape on, and nobody's client can add a series.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::admin_client::{Metrics, ask, get};
use crate::balancer::{ADMIN, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::Answer;
use crate::packets::{self, Connect};
use crate::raise_descriptor_limit;
use crate::wait;

/// Every metric, with the names of its labels.
const TABLE: &[(&str, &[&str])] = &[
    ("process_cpu_seconds_total", &[]),
    ("process_max_fds", &[]),
    ("process_open_fds", &[]),
    ("process_resident_memory_bytes", &[]),
    ("process_start_time_seconds", &[]),
    ("process_virtual_memory_bytes", &[]),
    ("remora_accepts_total", &["listener"]),
    ("remora_build_info", &["version", "commit", "tls", "target"]),
    ("remora_bytes_total", &["listener", "direction", "method"]),
    ("remora_config_last_reload_success_timestamp_seconds", &[]),
    ("remora_config_last_reload_successful", &[]),
    ("remora_config_reloads_total", &["result"]),
    ("remora_connacks_total", &["node", "code"]),
    ("remora_connections", &["listener"]),
    ("remora_connections_max", &[]),
    ("remora_connects_total", &["version", "result"]),
    ("remora_discovery_answers_total", &["result"]),
    ("remora_draining", &[]),
    ("remora_events_total", &["event"]),
    ("remora_ends_total", &["cause"]),
    ("remora_handover_connections_total", &["result", "reason"]),
    ("remora_handover_pause_seconds", &[]),
    ("remora_handovers_total", &["result"]),
    ("remora_held_bytes", &[]),
    ("remora_held_reconnects_total", &[]),
    ("remora_listener_connections_max", &["listener"]),
    ("remora_log_lines_dropped_total", &[]),
    ("remora_log_lines_kept_back_total", &[]),
    ("remora_log_lines_unwritten_total", &[]),
    ("remora_node_bytes_total", &["node", "direction"]),
    ("remora_node_connections", &["node"]),
    ("remora_node_connects_waiting", &["node"]),
    ("remora_node_failures_total", &["node", "reason"]),
    ("remora_node_share", &["node"]),
    ("remora_node_source_ports", &["node"]),
    ("remora_node_state", &["node", "endpoint", "state"]),
    ("remora_pace_wait_seconds_total", &["node"]),
    ("remora_pace_waits_total", &["node"]),
    ("remora_probes_not_asked_total", &[]),
    ("remora_probes_overruled", &[]),
    ("remora_probes_total", &["node", "endpoint", "result"]),
    ("remora_probe_duration_seconds", &["node", "endpoint"]),
    ("remora_panics_total", &[]),
    ("remora_peek_duration_seconds_bucket", &["le"]),
    ("remora_peek_duration_seconds_count", &[]),
    ("remora_peek_duration_seconds_sum", &[]),
    ("remora_placements", &[]),
    ("remora_placements_evicted_total", &[]),
    ("remora_retries_total", &["node", "reason"]),
    ("remora_routes_total", &["decision"]),
    ("remora_source_ports_max", &[]),
    ("remora_step_duration_seconds_bucket", &["node", "step", "le"]),
    ("remora_step_duration_seconds_count", &["node", "step"]),
    ("remora_step_duration_seconds_sum", &["node", "step"]),
    ("remora_storm", &[]),
    ("remora_thread_silence_seconds", &["thread"]),
    ("remora_turned_away_total", &[]),
    ("remora_tls_handshakes_pending", &[]),
    ("remora_undecided_connections", &[]),
    ("remora_waiting_bytes", &[]),
];

/// The series of the labels that the program chooses, without those of listeners, nodes and steps.
fn closed_series() -> Vec<String> {
    let of = |name: &str, label: &str, values: &[&str]| -> Vec<String> {
        let series = |value: &&str| format!("{name}{{{label}=\"{value}\"}}");
        values.iter().map(series).collect()
    };
    let causes: Vec<&str> = remora::path::ended::Ended::ALL
        .iter()
        .map(|cause| cause.name())
        .collect();
    let mut all = [
        of("remora_ends_total", "cause", &causes),
        of(
            "remora_routes_total",
            "decision",
            &["home", "placement", "spill", "full", "anonymous"],
        ),
        of(
            "remora_events_total",
            "event",
            &remora::admin::api::answers::Change::KINDS,
        ),
        of("remora_config_reloads_total", "result", &["success", "failure"]),
        of("remora_handovers_total", "result", &["completed", "failed"]),
        of(
            "remora_discovery_answers_total",
            "result",
            &["used", "failed", "held_back"],
        ),
    ]
    .concat();
    for node in ["node0", "node1"] {
        let mut of_node = |name: &str, label: &str, values: &[&str]| {
            let series = values
                .iter()
                .map(|value| format!("{name}{{node=\"{node}\",{label}=\"{value}\"}}"));
            all.extend(series);
        };
        let codes = ["0", "1", "2", "3", "4", "5", "0x80", "0x88", "0x9C", "0x9F", "other"];
        of_node("remora_connacks_total", "code", &codes);
        let retries = ["dial", "refused", "busy", "silent", "late", "pace", "full"];
        of_node("remora_retries_total", "reason", &retries);
        let failures = ["dial", "tls", "upgrade", "silent", "not_mqtt", "late"];
        of_node("remora_node_failures_total", "reason", &failures);
        of_node("remora_node_bytes_total", "direction", &["to_node", "to_client"]);
        for result in ["answered", "failed"] {
            all.push(format!(
                "remora_probes_total{{node=\"{node}\",endpoint=\"mqtt\",result=\"{result}\"}}"
            ));
        }
    }
    for version in ["3.1", "3.1.1", "5", "unknown"] {
        for result in ["accepted", "refused", "unread", "failed"] {
            all.push(format!(
                "remora_connects_total{{version=\"{version}\",result=\"{result}\"}}"
            ));
        }
    }
    all
}

/// A series without the values of its labels.
fn shape(series: &str) -> (&str, Vec<&str>) {
    let Some((name, labels)) = series.split_once('{') else {
        return (series, Vec::new());
    };
    let labels = labels.trim_end_matches('}').split(',');
    (
        name,
        labels.map(|label| label.split('=').next().expect("a name")).collect(),
    )
}

#[test]
fn every_series_is_there_from_the_start_and_at_zero() {
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let metrics = Metrics::of(program.admin());
    let shapes: BTreeSet<(&str, Vec<&str>)> = metrics.names().into_iter().map(shape).collect();
    let table = TABLE.iter().map(|(name, labels)| (*name, labels.to_vec()));
    assert_eq!(shapes, table.collect());
    for series in closed_series() {
        assert_eq!(metrics.value(&series), 0.0, "{series}");
    }
    for name in metrics.names() {
        let is_count = name.starts_with("remora_") && (name.contains("_total") || name.contains("_bucket"));
        assert!(!is_count || metrics.value(name) == 0.0, "{name}");
    }
    for (node, state, value) in [("node0", "up", 1.0), ("node0", "down", 0.0), ("node1", "draining", 0.0)] {
        let series = format!("remora_node_state{{node=\"{node}\",endpoint=\"mqtt\",state=\"{state}\"}}");
        assert_eq!(metrics.value(&series), value, "{series}");
    }
    // Each family says what it is, once.
    let types: Vec<&str> = metrics
        .text
        .lines()
        .filter(|line| line.starts_with("# TYPE "))
        .collect();
    let helps = metrics.text.lines().filter(|line| line.starts_with("# HELP "));
    assert_eq!(types.len(), helps.count());
    assert_eq!(types.len(), types.iter().collect::<BTreeSet<_>>().len());
}

#[test]
fn the_scraper_chooses_between_two_formats() {
    let cluster = Cluster::of(1);
    let program = Program::start(&cluster, ADMIN);
    let plain = get(program.admin(), "/metrics");
    assert!(
        plain.head.contains("content-type: text/plain; version=0.0.4"),
        "{}",
        plain.head
    );
    assert!(!plain.body.contains("# EOF"));
    // As Prometheus asks.
    let accept = "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n";
    let open = ask(program.admin(), "GET", "/metrics", accept);
    assert!(
        open.head
            .contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        open.head
    );
    assert!(open.body.ends_with("# EOF\n"));
    // They differ in the order of labels, and in how they write a whole number.
    let samples = |body: &str| -> BTreeSet<String> {
        let samples = body.lines().filter(|line| !line.starts_with('#'));
        let names = samples.filter_map(|line| line.rsplit_once(' '));
        let sorted = names.map(|(name, _)| {
            let name = name.replace(".0\"", "\"");
            let mut parts: Vec<&str> = name.split(['{', ',', '}']).collect();
            parts.sort_unstable();
            parts.join(" ")
        });
        sorted.collect()
    };
    assert_eq!(samples(&plain.body), samples(&open.body));
    let other = ask(program.admin(), "GET", "/metrics", "Accept: text/plain\r\n");
    assert!(other.head.contains("content-type: text/plain"), "{}", other.head);
}

#[test]
fn the_numbers_are_those_of_the_traffic() {
    let mut cluster = Cluster::of(3);
    let program = Program::start(&cluster, &format!("{ADMIN}\n[health]\nfailures_max = 1000"));
    let admin = program.admin();
    let leave = |client: Client| {
        client.reset();
        program.ended(client.address());
    };

    // Two of 3.1.1, one of each other version, all at home.
    for connect in [
        Connect::new("a"),
        Connect::new("b"),
        Connect::v31("c"),
        Connect::v5("d"),
    ] {
        leave(Client::accepted(program.address, &connect));
    }
    // No id of its own.
    leave(Client::accepted(program.address, &Connect::v5("")));
    // Refused at home, taken elsewhere, remembered there.
    let spilled = Connect::v5(cluster.id_at_home(0, "spilled")).session_expiry(600);
    cluster.nodes[0].answer(Answer::Code(0x9C));
    leave(Client::accepted(program.address, &spilled));
    leave(Client::accepted(program.address, &spilled));
    cluster.nodes[0].answer(Answer::Accept);
    // Not authorized, which no other node would cure.
    let refused = Connect::new(cluster.id_at_home(1, "refused"));
    cluster.nodes[1].answer(Answer::Code(5));
    let mut client = Client::to(program.address);
    client.send(&refused.bytes());
    client.expect(&packets::connack(4, 5));
    leave(client);
    cluster.nodes[1].answer(Answer::Accept);
    // The home is dead.
    cluster.nodes[2].die();
    let homeless = Connect::new(cluster.id_at_home(2, "homeless"));
    leave(Client::accepted(program.address, &homeless));
    // A stranger.
    let mut stranger = Client::to(program.address);
    stranger.offers(b"GET / HTTP/1.1\r\n\r\n");
    stranger.rest();
    program.ended(stranger.address());
    // No node takes it.
    cluster.answer(&Answer::Code(3));
    let mut unlucky = Client::to(program.address);
    unlucky.send(&Connect::new("unlucky").bytes());
    unlucky.rest();
    program.ended(unlucky.address());

    let metrics = Metrics::of(admin);
    let expect = |series: &str, value: u32| {
        assert_eq!(metrics.value(&format!("remora_{series}")), f64::from(value), "{series}");
    };
    expect("connects_total{version=\"3.1.1\",result=\"accepted\"}", 3);
    expect("connects_total{version=\"3.1\",result=\"accepted\"}", 1);
    expect("connects_total{version=\"5\",result=\"accepted\"}", 4);
    expect("connects_total{version=\"3.1.1\",result=\"refused\"}", 1);
    expect("connects_total{version=\"3.1.1\",result=\"failed\"}", 1);
    assert_eq!(metrics.sum("remora_connects_total"), 10.0);
    expect("routes_total{decision=\"anonymous\"}", 1);
    expect("routes_total{decision=\"placement\"}", 1);
    expect("routes_total{decision=\"spill\"}", 2);
    expect("routes_total{decision=\"home\"}", 5);
    let connacks = |code: &str| metrics.sum_with("remora_connacks_total", "code", code);
    assert_eq!(
        [connacks("0"), connacks("0x9C"), connacks("5"), connacks("3")],
        [8.0, 1.0, 1.0, 2.0]
    );
    expect("connacks_total{node=\"node0\",code=\"0x9C\"}", 1);
    expect("connacks_total{node=\"node1\",code=\"5\"}", 1);
    expect("placements", 1);
    let steps = |step: &str| metrics.sum_with("remora_step_duration_seconds_count", "step", step);
    let peeked = metrics.value("remora_peek_duration_seconds_count");
    assert_eq!([peeked, steps("dial"), steps("greet")], [9.0; 3]);
    let retries = metrics.sum_with("remora_retries_total", "reason", "refused");
    assert!((2.0..=3.0).contains(&retries), "{retries}");
    assert!(metrics.value("remora_retries_total{node=\"node2\",reason=\"dial\"}") >= 1.0);
    assert!(metrics.value("remora_node_failures_total{node=\"node2\",reason=\"dial\"}") >= 1.0);
    for node in ["node0", "node1"] {
        expect(&format!("node_failures_total{{node=\"{node}\",reason=\"dial\"}}"), 0);
    }
    expect("ends_total{cause=\"client_reset\"}", 8);
    expect("ends_total{cause=\"refused_by_node\"}", 1);
    expect("ends_total{cause=\"refused\"}", 1);
    expect("ends_total{cause=\"not_mqtt_http\"}", 1);
    assert_eq!(metrics.sum("remora_ends_total"), 11.0);
    assert_eq!(metrics.sum("remora_accepts_total"), 11.0);
    assert_eq!(metrics.sum("remora_connections"), 0.0);
    assert_eq!(metrics.sum("remora_node_connections"), 0.0);
    expect("undecided_connections", 0);
    expect("held_bytes", 0);
}

#[test]
fn a_node_has_series_until_it_has_left_and_its_last_connection_is_gone() {
    let cluster = Cluster::of(2);
    let config = toml(&cluster, "", ADMIN);
    let program = Program::of(&config);
    let client = Client::accepted(program.address, &Connect::new(cluster.id_at_home(0, "stays")));
    let of = |name: &str| {
        let label = format!("node=\"{name}\"");
        let metrics = Metrics::of(program.admin());
        metrics.names().iter().filter(|series| series.contains(&label)).count()
    };
    let all = of("node0");
    assert!(all > 50 && all == of("node1"), "{all}");
    let without = config.replace(&cluster.nodes[0].toml(100), "");
    program.reload(&without);
    // It has no state and no share any more and is not asked any more (two results of probes, a duration); and all that was counted
    // of its clients.
    assert_eq!(of("node0"), all - 3 - 1 - 3);
    client.reset();
    wait::until("the end", || of("node0") == 0);
    program.reload(&config);
    let accepted = "remora_connacks_total{node=\"node0\",code=\"0\"}";
    assert_eq!(Metrics::of(program.admin()).value(accepted), 1.0, "its counters go on");
}

#[test]
fn a_failed_dial_is_retried_only_if_another_node_is_dialled() {
    let mut cluster = Cluster::of(2);
    // No node is ever down, so that each is dialled however long the clients take.
    let program = Program::of(&toml(&cluster, "", &format!("{ADMIN}[health]\nfailures_max = 1000\n")));
    let dial = |program: &Program| Metrics::of(program.admin()).sum_with("remora_retries_total", "reason", "dial");
    let homeless = |cluster: &Cluster| Connect::new(cluster.id_at_home(0, "homeless"));
    cluster.nodes[0].die();
    Client::accepted(program.address, &homeless(&cluster));
    assert_eq!(dial(&program), 1.0);
    cluster.nodes[1].die();
    let mut client = Client::to(program.address);
    client.send(&homeless(&cluster).bytes());
    client.rest();
    assert_eq!(program.ended(client.address())["cause"], "no_node");
    // From the one to the other, and from there to none.
    assert_eq!(dial(&program), 2.0);
}

#[test]
fn bytes_are_exact_after_the_end_by_listener_direction_and_method() {
    const BYTES: usize = 4 << 20;
    for splice in [true, false] {
        let cluster = Cluster::of(1);
        let tables = format!("{ADMIN}\n[relay]\nsplice = {splice}");
        let program = Program::of(&toml(&cluster, "name = \"mqtt\"", &tables));
        let connect = Connect::new("counts");
        let mut client = Client::accepted(program.address, &connect);
        let (_, node) = cluster.holder(&connect.bytes());
        let up = vec![1; BYTES];
        let down = vec![2; BYTES / 2];
        std::thread::scope(|scope| {
            scope.spawn(|| node.send(&down));
            client.send(&up);
            client.expect(&down);
        });
        node.expect_count(connect.bytes().len() + BYTES);
        client.fin();
        node.end();
        node.fin();
        let line = program.ended(client.address());
        let metrics = Metrics::of(program.admin());
        let moved = |direction: &str| {
            let by = |method: &str| {
                let labels = format!("listener=\"mqtt\",direction=\"{direction}\",method=\"{method}\"");
                metrics.value(&format!("remora_bytes_total{{{labels}}}")) as usize
            };
            assert!(splice || by("splice") == 0, "nothing is spliced where that is off");
            by("copy") + by("splice")
        };
        let sent = connect.bytes().len() + BYTES;
        let received = packets::connack(4, 0).len() + BYTES / 2;
        assert_eq!((moved("to_node"), moved("to_client")), (sent, received));
        let of_node = |direction: &str| {
            metrics.value(&format!(
                "remora_node_bytes_total{{node=\"node0\",direction=\"{direction}\"}}"
            )) as usize
        };
        assert_eq!((of_node("to_node"), of_node("to_client")), (sent, received));
        assert_eq!(
            (&line["from_client"], &line["from_node"]),
            (&sent.into(), &received.into())
        );
    }
}

#[test]
fn as_many_ids_as_they_like_leave_as_many_series_and_a_quick_scrape() {
    const IDS: usize = 5_000;
    let cluster = Cluster::of(2);
    let program = Program::start(&cluster, ADMIN);
    let before = Metrics::of(program.admin());
    for number in 0..IDS {
        let connect = Connect::new(format!("id-{number}\"}}\n")).username(format!("user-{number}"));
        Client::accepted(program.address, &connect).reset();
    }
    program.until_ended(IDS);
    let after = Metrics::of(program.admin());
    assert_eq!(before.names(), after.names());
    let hostile = ["id-", "user-", "127.0.0.1:5", "127.0.0.1:4"];
    assert!(hostile.iter().all(|word| !after.text.contains(word)));
    assert!(after.text.len() <= 64 * 1024, "{} bytes", after.text.len());
    let took = (0..10).map(|_| {
        let began = Instant::now();
        get(program.admin(), "/metrics");
        began.elapsed()
    });
    let best = took.min().expect("ten");
    println!("{} bytes in {best:?} at best", after.text.len());
    assert!(best <= Duration::from_millis(20), "a scrape took {best:?}");
}

/// Each with every kind of endpoint, and an API.
#[test]
fn ten_nodes_with_all_there_is_to_say_of_them_fit_into_64_kib_and_20_ms() {
    let nodes: String = (0..10)
        .map(|number| {
            format!(
                "[[nodes]]\nname = \"emqx{number}\"\naddress = \"127.0.0.1:{}\"\nws = \"127.0.0.1:{}\"\n\
                 pass = \"127.0.0.1:{}\"\napi = \"http://127.0.0.1:{}\"\n",
                1001 + number,
                1101 + number,
                1201 + number,
                1301 + number
            )
        })
        .collect();
    let program = Program::of(&format!(
        "workers = 2\n{ADMIN}[[listeners]]\naddress = \"127.0.0.1:0\"\nname = \"mqtt\"\n\
         [[listeners]]\naddress = \"127.0.0.1:0\"\nname = \"ws\"\ntransport = \"ws\"\n\
         [[listeners]]\naddress = \"127.0.0.1:0\"\nname = \"pass\"\ntls = \"pass\"\n\
         [health]\nfailures_max = 1000000\n[nodes_api]\ninterval = \"1h\"\n{nodes}"
    ));
    let metrics = Metrics::of(program.admin());
    assert_eq!(
        metrics.value("remora_node_state{node=\"emqx9\",endpoint=\"pass\",state=\"up\"}"),
        1.0
    );
    for result in ["available", "unavailable", "unusable", "unanswered"] {
        metrics.value(&format!(
            "remora_node_checks_total{{node=\"emqx9\",result=\"{result}\"}}"
        ));
    }
    let took = (0..10).map(|_| {
        let began = Instant::now();
        get(program.admin(), "/metrics");
        began.elapsed()
    });
    let best = took.min().expect("ten");
    let (bytes, series) = (metrics.text.len(), metrics.names().len());
    println!("{bytes} bytes, {series} series, in {best:?} at best");
    assert!(bytes <= 64 * 1024, "{bytes} bytes");
    assert!(best <= Duration::from_millis(20), "a scrape took {best:?}");
}

/// Connections to this address that the kernel has, by their peers: one that comes while the table is read may be there
/// twice.
fn kernel_connections(address: SocketAddr) -> usize {
    const ESTABLISHED: &str = "01";
    let sockets = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let local = format!("0100007F:{:04X}", address.port());
    let peers = sockets.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_here = fields.next() == Some(&local);
        let peer = fields.next().filter(|_| is_here)?;
        (fields.next() == Some(ESTABLISHED)).then_some(peer)
    });
    peers.collect::<BTreeSet<_>>().len()
}

#[test]
fn gauges_are_what_the_kernel_counts_and_every_connection_ends_once() {
    raise_descriptor_limit();
    const COMING: usize = 600;
    let cluster = Cluster::of(3);
    let program = Program::start(&cluster, ADMIN);
    let check = |open: usize| {
        wait::until("the gauge is what is open", || {
            Metrics::of(program.admin()).sum("remora_connections") == open as f64
        });
        let metrics = Metrics::of(program.admin());
        assert_eq!(kernel_connections(program.address), open);
        assert_eq!(metrics.sum("remora_node_connections"), open as f64);
        let (accepted, ended) = (metrics.sum("remora_accepts_total"), metrics.sum("remora_ends_total"));
        assert_eq!(ended, accepted - open as f64);
    };
    let mut clients = Vec::new();
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..3 {
        for number in 0..COMING / 3 {
            clients.push(Client::accepted(
                program.address,
                &Connect::new(format!("{round}-{number}")),
            ));
        }
        check(clients.len());
        random.shuffle(&mut clients);
        for client in clients.split_off(clients.len() / 2) {
            client.reset();
        }
        check(clients.len());
    }
    clients.drain(..).for_each(|client| client.reset());
    check(0);
    // The log is written by another thread than the one that counts.
    program.until_ended(COMING);
    let ended = program.lines(|line| line["message"] == "connection ended");
    assert_eq!(ended.len(), COMING);
}
