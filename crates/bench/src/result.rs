//! The result of a run as data: JSON with units in its keys for programs. [`text`] prints it for people.

mod parameters;
mod text;
mod thresholds;

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::about::About;
use super::clock::{Nanos, SECOND};
use super::driver::Outcome;
use super::failure::Failure;
use super::files::OpenFiles;
use super::measured::{self, Latencies, Measured, Series};
use super::plan::{Audience, Plan, Then};
use super::process::{self, Look, Moment, Usage};

use parameters::parameters;
pub(super) use thresholds::Thresholds;

/// What is printed: each run, and what it missed.
#[derive(Serialize)]
pub(super) struct Report {
    /// The version of the bench.
    version: &'static str,
    pub(super) about: About,
    /// How often each workload ran.
    pub(super) repetitions: u32,
    pub(super) runs: Vec<Summary>,
    /// Thresholds that were missed, in words.
    pub(super) missed: Vec<String>,
}

impl Report {
    /// The report on these runs.
    pub(super) fn new(about: About, repetitions: u32, runs: Vec<Summary>, thresholds: &Thresholds) -> Self {
        let missed = thresholds.missed(&runs);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            about,
            repetitions,
            runs,
            missed,
        }
    }
}

/// The summary of one run.
#[derive(Serialize)]
pub(super) struct Summary {
    pub(super) name: &'static str,
    /// Which run of this workload it is, from 1 on.
    pub(super) repetition: u32,
    pub(super) target: String,
    clients: u32,
    /// What was asked for, in words.
    #[serde(serialize_with = "as_map")]
    pub(super) parameters: Vec<(&'static str, String)>,
    pub(super) measured_s: f64,
    /// It was interrupted.
    pub(super) interrupted: bool,
    pub(super) connections: Connections,
    /// Absent without TLS.
    pub(super) tls: Option<Handshakes>,
    pub(super) messages: Messages,
    /// Absent unless clients were cut off.
    pub(super) returns: Option<Returns>,
    /// Connections of each node, by the name that it reports.
    pub(super) nodes: BTreeMap<String, u64>,
    /// Why EMQX's API did not provide them.
    pub(super) nodes_problem: Option<String>,
    /// The connections of the busiest node, divided by the mean; absent if no node reported its name.
    pub(super) balance_max_to_mean: Option<f64>,
    target_files: Option<TargetFiles>,
    pub(super) series: SeriesOut,
    /// Latency in µs at ever more nines: of messages, or without messages of CONNACKs.
    pub(super) curve: Vec<(f64, f64)>,
    /// By kind, with those that never happened.
    errors: BTreeMap<&'static str, u64>,
    /// The same, told apart by who caused them and when; only those that happened.
    pub(super) failures: Vec<Counted>,
    /// Messages in flight when the run ended, which is not an error.
    pub(super) cut_off: u64,
    /// Clients that had not connected when the run ended, which is not an error.
    pub(super) cut_off_connects: u64,
    #[serde(skip)]
    stays: bool,
    /// CPU of the whole machine in the measured time.
    box_cpu_ms: f64,
    /// The kernel's own memory: at the start, at the end of the measured time, and when all had settled.
    slab_bytes: [u64; 3],
    /// The processes asked for, and at the end the bench itself.
    processes: Vec<Process>,
}

/// A failure, and how often it happened.
#[derive(Serialize)]
pub(super) struct Counted {
    /// A key of `errors`.
    pub(super) kind: &'static str,
    /// What happened, who caused it, and when.
    pub(super) what: String,
    pub(super) count: u64,
}

#[derive(Serialize)]
pub(super) struct Connections {
    pub(super) accepted: u64,
    pub(super) per_s: f64,
    /// From CONNECT being due to CONNACK.
    pub(super) connack_us: Quantiles,
}

#[derive(Serialize)]
pub(super) struct Handshakes {
    pub(super) full: u64,
    /// Handshakes that resumed the session of an earlier connection.
    pub(super) resumed: u64,
    /// From the dial being due to the end of the handshake.
    pub(super) handshake_us: Quantiles,
    /// Version, cipher suite and key exchange, and how often they were negotiated.
    pub(super) agreed: BTreeMap<String, u64>,
    /// Why the first failed handshake failed.
    pub(super) problem: Option<String>,
}

#[derive(Serialize)]
pub(super) struct Messages {
    pub(super) sent: u64,
    sent_per_s: f64,
    pub(super) received: u64,
    /// Confirmed with PUBACK, where no client of the run subscribes.
    pub(super) confirmed: u64,
    /// Messages received or confirmed; where there is neither, sent.
    pub(super) per_s: f64,
    pub(super) received_bytes: u64,
    #[serde(skip)]
    is_timed: bool,
    pub(super) latency_us: Quantiles,
    pub(super) latency_from_send_us: Quantiles,
}

#[derive(Serialize)]
pub(super) struct Returns {
    pub(super) count: u64,
    /// From the cut until each client had returned.
    pub(super) latency_us: Quantiles,
    /// From each cut until all clients had returned.
    pub(super) all_back_ms: Vec<f64>,
    /// Of the clients whose node is known before and after the cut.
    pub(super) same_node_percent: Option<f64>,
    pub(super) session_present_percent: f64,
}

#[derive(Serialize)]
struct TargetFiles {
    pid: u32,
    limit: u64,
    per_client: f64,
    clients_max: u64,
}

/// The run over time.
#[derive(Serialize)]
pub(super) struct SeriesOut {
    /// The length of each slice but the last.
    pub(super) every_s: f64,
    pub(super) last_s: f64,
    pub(super) connects: Vec<u64>,
    pub(super) messages: Vec<u64>,
    pub(super) errors: Vec<u64>,
    pub(super) p99_us: Vec<f64>,
}

#[derive(Serialize)]
pub(super) struct Quantiles {
    pub(super) count: u64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) max: f64,
}

#[derive(Serialize)]
struct Process {
    pid: u32,
    /// In the measured time.
    cpu_ms: f64,
    /// At the start, at the end of the measured time, and when all had settled.
    rss_bytes: [u64; 3],
    pss_bytes: [u64; 3],
}

impl Summary {
    /// Summarizes a run, the so-manyth of its workload.
    pub(super) fn new(plan: &Plan, repetition: u32, outcome: &Outcome) -> Self {
        let measured = &outcome.measured;
        let looks = Looks(&outcome.looks);
        let measured_s = seconds(measured.measuring);
        let connecting_s = match plan.then {
            Then::Leave => measured_s,
            _ => seconds(measured.connecting),
        };
        let timed = if measured.message.count() > 0 {
            &measured.message
        } else {
            &measured.connect
        };
        let is_timed = plan.audience != Audience::None || plan.qos > 0;
        let finished = match (is_timed, plan.audience) {
            (false, _) => measured.sent,
            (true, Audience::None) => measured.confirmed,
            (true, _) => measured.received,
        };
        let scheme = match (&plan.websocket, &plan.tls) {
            (None, None) => "",
            (None, Some(_)) => "mqtts://",
            (Some(_), None) => "ws://",
            (Some(_), Some(_)) => "wss://",
        };
        Self {
            name: plan.name,
            repetition,
            target: plan.websocket.as_ref().map_or_else(
                || format!("{scheme}{}", plan.target),
                |endpoint| format!("{scheme}{}{}", plan.target, endpoint.path),
            ),
            clients: plan.clients,
            parameters: parameters(plan),
            measured_s,
            interrupted: measured.interrupted,
            connections: Connections {
                accepted: measured.accepted,
                per_s: rate(first_accepted(measured), connecting_s),
                connack_us: Quantiles::new(&measured.connect),
            },
            tls: plan.tls.is_some().then(|| Handshakes::new(&measured.handshakes)),
            messages: Messages {
                sent: measured.sent,
                sent_per_s: rate(measured.sent, measured_s),
                received: measured.received,
                confirmed: measured.confirmed,
                per_s: rate(finished, measured_s),
                received_bytes: measured.received_bytes,
                is_timed,
                latency_us: Quantiles::new(&measured.message),
                latency_from_send_us: Quantiles::new(&measured.message_from_send),
            },
            returns: matches!(plan.then, Then::Return(_)).then(|| Returns::new(&measured.returns)),
            nodes: measured.nodes.iter().cloned().collect(),
            nodes_problem: measured.nodes_problem.clone(),
            balance_max_to_mean: balance(&measured.nodes),
            target_files: outcome.files.map(TargetFiles::new),
            series: SeriesOut::new(&measured.series),
            curve: curve(timed),
            errors: Failure::ALL
                .into_iter()
                .map(|failure| (failure.name(), measured.failed(failure)))
                .collect(),
            failures: measured
                .failures
                .iter()
                .map(|((failure, stage), &count)| Counted {
                    kind: failure.name(),
                    what: failure.words(*stage),
                    count,
                })
                .collect(),
            cut_off: measured.cut_off,
            cut_off_connects: measured.cut_off_connects,
            stays: plan.then != Then::Leave,
            box_cpu_ms: milliseconds(looks.machine(Moment::Begin).busy_ns, looks.machine(Moment::End).busy_ns),
            slab_bytes: MEMORY_MOMENTS.map(|moment| looks.machine(moment).slab_bytes),
            processes: (0..plan.pids.len())
                .map(|index| Process {
                    pid: plan.pids[index],
                    cpu_ms: milliseconds(
                        looks.process(Moment::Begin, index).cpu_ns,
                        looks.process(Moment::End, index).cpu_ns,
                    ),
                    rss_bytes: MEMORY_MOMENTS.map(|moment| looks.process(moment, index).rss_bytes),
                    pss_bytes: MEMORY_MOMENTS.map(|moment| looks.process(moment, index).pss_bytes),
                })
                .collect(),
        }
    }
}

fn as_map<S: Serializer>(pairs: &[(&'static str, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// Connections before any was cut off.
fn first_accepted(measured: &Measured) -> u64 {
    measured.accepted - measured.returns.count
}

fn balance(nodes: &[(String, u64)]) -> Option<f64> {
    let most = nodes.iter().map(|(_, count)| *count).max()?;
    let all: u64 = nodes.iter().map(|(_, count)| count).sum();
    Some(most as f64 * nodes.len() as f64 / all as f64)
}

/// Latencies at 0, 0.5, 0.9 and so on, in small steps of nines, as far as the number of latencies allows.
fn curve(latencies: &Latencies) -> Vec<(f64, f64)> {
    let count = latencies.count();
    if count == 0 {
        return Vec::new();
    }
    let nines = (count as f64).log10().min(6.0);
    let steps = (nines * 20.0) as u32;
    let quantiles = (0..=steps).map(|step| 1.0 - 10_f64.powf(-f64::from(step) / 20.0));
    quantiles
        .map(|quantile| (quantile, latencies.quantile_us(quantile)))
        .collect()
}

impl Handshakes {
    fn new(handshakes: &measured::Handshakes) -> Self {
        let agreed = handshakes.agreed.iter();
        Self {
            full: handshakes.full,
            resumed: handshakes.resumed,
            handshake_us: Quantiles::new(&handshakes.latency),
            agreed: agreed.map(|(agreed, count)| (agreed.to_string(), *count)).collect(),
            problem: handshakes.problem.clone(),
        }
    }
}

impl Returns {
    fn new(returns: &measured::Returns) -> Self {
        let percent = |part: u64, of: u64| part as f64 * 100.0 / of as f64;
        Self {
            count: returns.count,
            latency_us: Quantiles::new(&returns.latency),
            all_back_ms: returns.rounds.iter().map(|&round| milliseconds(0, round)).collect(),
            same_node_percent: (returns.known > 0).then(|| percent(returns.same_node, returns.known)),
            session_present_percent: percent(returns.session_present, returns.count.max(1)),
        }
    }
}

impl TargetFiles {
    fn new(files: OpenFiles) -> Self {
        let assumed = files.listener.files_per_client();
        // Measured only with enough clients for other files not to matter.
        let measured = files.during.filter(|&(_, clients)| clients >= 10);
        let per_client = measured.map_or(assumed, |(open, clients)| {
            (open.saturating_sub(files.before) as f64 / f64::from(clients)).max(assumed.min(1.0))
        });
        Self {
            pid: files.listener.pid,
            limit: files.listener.limit,
            per_client,
            clients_max: files.listener.clients_max(per_client, files.before),
        }
    }
}

impl SeriesOut {
    fn new(series: &Series) -> Self {
        let slices = &series.slices;
        Self {
            every_s: seconds(series.every),
            last_s: seconds(series.last),
            connects: slices.iter().map(|slice| slice.connects).collect(),
            messages: slices.iter().map(|slice| slice.messages).collect(),
            errors: slices.iter().map(|slice| slice.errors).collect(),
            p99_us: slices.iter().map(|slice| slice.p99_us).collect(),
        }
    }
}

const MEMORY_MOMENTS: [Moment; 3] = [Moment::Start, Moment::End, Moment::Settled];

struct Looks<'a>(&'a [Look]);

impl Looks<'_> {
    fn at(&self, moment: Moment) -> Option<&Look> {
        self.0.iter().find(|look| look.moment == moment)
    }

    fn machine(&self, moment: Moment) -> process::Machine {
        self.at(moment).map(|look| look.machine).unwrap_or_default()
    }

    fn process(&self, moment: Moment, index: usize) -> Usage {
        self.at(moment)
            .and_then(|look| look.processes.get(index).copied())
            .unwrap_or_default()
    }
}

impl Quantiles {
    fn new(latencies: &Latencies) -> Self {
        Self {
            count: latencies.count(),
            p50: latencies.quantile_us(0.5),
            p90: latencies.quantile_us(0.9),
            p99: latencies.quantile_us(0.99),
            p999: latencies.quantile_us(0.999),
            max: latencies.max_us(),
        }
    }
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / SECOND as f64
}

fn milliseconds(begin: Nanos, end: Nanos) -> f64 {
    // A moment that was never reached is zero.
    if begin == 0 && end > 3_600 * SECOND {
        return 0.0;
    }
    end.saturating_sub(begin) as f64 / 1e6
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}
