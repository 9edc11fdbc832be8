//! Probes of which some are lost on the way, of nodes that are well: hours of it, in virtual time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use remora::cluster::{Clusters, Endpoints, Member, MemberEndpoint, NodeAddress, NodeApi};
use remora::control::{self, Control, Prober, Settings, Target, Unanswered};
use remora::net::reports::Reports;
use tokio::task::LocalSet;
use tokio::time::Instant;

const NODES: u16 = 10;
/// `REMORA_HOURS` says otherwise.
const HOURS: u64 = 3;
const INTERVAL: Duration = Duration::from_secs(5);
/// How long an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(7);

/// A network that loses this share of probes, in percent, before nodes that answer every other one.
#[derive(Debug)]
struct Lossy {
    percent: u8,
    /// How long it takes until a probe that is lost has failed.
    fails_after: Duration,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    rng: Rng,
    probes: u64,
    /// Probes of nodes that were down.
    of_down: u64,
}

impl Prober for Lossy {
    fn probe(&self, target: Target) -> control::Answer {
        let mut seen = self.seen.lock().expect("no panic");
        seen.probes += 1;
        seen.of_down += u64::from(target.endpoint.is_down);
        let is_lost = seen.rng.u8(0..100) < self.percent;
        let fails_after = self.fails_after;
        Box::pin(async move {
            if !is_lost {
                return Ok(());
            }
            tokio::time::sleep(fails_after).await;
            Err(Unanswered {
                was_asked: true,
                address: None,
                why: "lost".to_owned(),
            })
        })
    }

    fn check(&self, _: NodeApi) -> control::CheckAnswer {
        unreachable!("no node has an API")
    }

    fn find(&self, _: control::Source) -> control::FindAnswer {
        unreachable!("no nodes are looked for")
    }
}

/// Runs control over nodes that no client uses, and `watch` beside it. Returns the probes, and those of nodes that were down.
fn run<F: Future>(
    percent: u8,
    fails_after: Duration,
    settings: Settings,
    watch: impl FnOnce(Arc<Clusters>) -> F,
) -> (u64, u64) {
    let members: Vec<Member> = (0..NODES)
        .map(|number| Member {
            name: format!("emqx{number}"),
            endpoints: Endpoints::only(MemberEndpoint::plain(NodeAddress::Socket(SocketAddr::from((
                Ipv4Addr::LOCALHOST,
                1_883 + number,
            ))))),
            api: None,
            weight: 1,
            connects_per_second: None,
            connections_max: None,
        })
        .collect();
    let seen = Seen {
        rng: Rng::with_seed(1),
        probes: 0,
        of_down: 0,
    };
    let network = Arc::new(Lossy {
        percent,
        fails_after,
        seen: Mutex::new(seen),
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let (_reports, to_control) = Reports::new();
        let prober: Arc<dyn Prober> = Arc::<Lossy>::clone(&network);
        let (control, _handle) = Control::new(settings, &members, 1, to_control, prober);
        let clusters = control.clusters();
        tokio::task::spawn_local(control.run());
        watch(clusters).await;
    });
    let seen = network.seen.lock().expect("no panic");
    (seen.probes, seen.of_down)
}

fn settings() -> Settings {
    Settings {
        interval: Some(INTERVAL),
        ..Settings::default()
    }
}

async fn hours(hours: u64) {
    tokio::time::sleep(Duration::from_secs(hours * 3_600)).await;
}

#[test]
fn no_node_goes_down_because_30_percent_of_its_probes_are_lost() {
    let length = std::env::var("REMORA_HOURS").map_or(HOURS, |hours| hours.parse().expect("a number"));
    let (probes, of_down) = run(30, TIMEOUT, settings(), |_| hours(length));
    let fewest = u64::from(NODES) * length * 3_600 / INTERVAL.as_secs() / 2;
    assert!(probes > fewest, "{probes}");
    assert_eq!(of_down, 0, "of {probes} probes");
}

/// The test above sees what it looks for: probes that fail at once, of which three in a row are enough.
#[test]
fn with_fall_at_3_nodes_go_down_whose_probes_fail_by_chance() {
    let few = Settings { fall: 3, ..settings() };
    let (_, of_down) = run(30, Duration::ZERO, few, |_| hours(1));
    assert!(of_down > 10, "{of_down}");
}

#[test]
fn nodes_that_answer_no_probe_any_more_are_found_within_the_time_that_is_documented() {
    let settings = settings();
    // The last probe of those that must fail begins `fall - 1` seconds after the first, and is waited for.
    let most = INTERVAL.mul_f64(1.1) + Duration::from_secs(u64::from(settings.fall) - 1) + TIMEOUT;
    let shared = Settings {
        down_share: 100,
        ..settings
    };
    run(100, TIMEOUT, shared, |clusters| async move {
        let are_down = || {
            let cluster = clusters.current();
            cluster.nodes().iter().all(|node| node.endpoints.mqtt.is_down)
        };
        // They have answered a client once.
        for node in clusters.current().nodes() {
            node.endpoints.mqtt.passive.has_answered.store(true, Ordering::Relaxed);
        }
        let began = Instant::now();
        while !are_down() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let elapsed = began.elapsed();
            assert!(elapsed <= most + Duration::from_millis(200), "not after {elapsed:?}");
        }
        assert!(began.elapsed() >= TIMEOUT * 2, "no sooner than all must have failed");
    });
}
