//! The result of a run: one screen for people, JSON with units in its keys for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::clock::{Nanos, SECOND};
use super::driver::{Files, Look, Moment, Outcome};
use super::measured::{self, Failure, Latencies, Measured, Series};
use super::plan::{Audience, Plan, Then};
use super::process::{self, Usage};

/// What is printed: each run by itself.
#[derive(Serialize)]
pub(super) struct Report {
    /// Of the bench.
    version: &'static str,
    pub(super) runs: Vec<Summary>,
    /// Thresholds that were missed, in words.
    pub(super) missed: Vec<String>,
}

impl Report {
    /// Of runs that are over.
    pub(super) fn new(runs: Vec<Summary>, thresholds: &Thresholds) -> Self {
        let missed = thresholds.missed(&runs);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            runs,
            missed,
        }
    }
}

/// What a result must keep to.
pub(super) struct Thresholds {
    pub(super) p99: Option<Duration>,
    pub(super) connack_p99: Option<Duration>,
    pub(super) errors: u64,
    pub(super) same_node_percent: Option<u8>,
}

impl Thresholds {
    fn missed(&self, runs: &[Summary]) -> Vec<String> {
        let mut missed = Vec::new();
        for run in runs {
            let connack = &run.connections.connack_us;
            let messages = &run.messages;
            let latency = if messages.sent > 0 {
                &messages.latency_us
            } else {
                connack
            };
            for (what, max, found) in [
                ("p99", self.p99, latency),
                ("CONNACK p99", self.connack_p99, connack),
            ] {
                let Some(max) = max else {
                    continue;
                };
                // Messages that nobody receives or confirms have no latency to hold to anything.
                let is_timed = found.count > 0 || messages.sent == 0 || messages.is_timed;
                let found_us = found.p99;
                if is_timed && (found.count == 0 || found_us > max.as_secs_f64() * 1e6) {
                    missed.push(if found.count == 0 {
                        format!("{}: no {what} at all, at most {max:?} allowed", run.name)
                    } else {
                        format!(
                            "{}: {what} {found_us:.0} µs, at most {max:?} allowed",
                            run.name
                        )
                    });
                }
            }
            if let (Some(percent), Some(returns)) = (self.same_node_percent, &run.returns) {
                match returns.same_node_percent {
                    Some(found) if found < f64::from(percent) => missed.push(format!(
                        "{}: {found:.2} % came to the same node, at least {percent} % asked for",
                        run.name
                    )),
                    None => missed.push(format!("{}: the nodes do not tell their names", run.name)),
                    Some(_) => {}
                }
            }
        }
        let errors: u64 = runs.iter().flat_map(|run| run.errors.values()).sum();
        if errors > self.errors {
            missed.push(format!("{errors} errors, at most {} allowed", self.errors));
        }
        if runs.iter().all(|run| run.connections.accepted == 0) {
            missed.push("no client was accepted".into());
        }
        missed
    }
}

/// One run, summed up.
#[derive(Serialize)]
pub(super) struct Summary {
    pub(super) name: &'static str,
    target: String,
    clients: u32,
    measured_s: f64,
    /// It was ended before its time.
    interrupted: bool,
    connections: Connections,
    /// Absent without TLS.
    tls: Option<Handshakes>,
    messages: Messages,
    /// Of clients that were cut off.
    returns: Option<Returns>,
    /// Connections of each node, as the nodes name themselves.
    pub(super) nodes: BTreeMap<String, u64>,
    /// Why EMQX's API did not tell them.
    nodes_problem: Option<String>,
    /// The busiest node's connections to those of the mean; absent where no node told its name.
    balance_max_to_mean: Option<f64>,
    target_files: Option<TargetFiles>,
    pub(super) series: SeriesOut,
    /// Latency in µs at ever more nines: of messages, or of CONNACKs without them.
    pub(super) curve: Vec<(f64, f64)>,
    /// By kind; those that never happened included.
    errors: BTreeMap<&'static str, u64>,
    /// Messages under way when the run ended: no error.
    cut_off: u64,
    /// Clients that the end left no time to connect: no error.
    cut_off_connects: u64,
    #[serde(skip)]
    stays: bool,
    /// CPU of the whole machine in the measured time.
    box_cpu_ms: f64,
    /// The kernel's own memory: at the start, at the end of the measured time, and when all had settled.
    slab_bytes: [u64; 3],
    /// Those asked for, and last the bench itself.
    processes: Vec<Process>,
}

#[derive(Serialize)]
struct Connections {
    accepted: u64,
    per_s: f64,
    /// From CONNECT being due to CONNACK.
    connack_us: Quantiles,
}

#[derive(Serialize)]
struct Handshakes {
    full: u64,
    /// With the session of an earlier connection.
    resumed: u64,
    /// From the dial being due to the end of the handshake.
    handshake_us: Quantiles,
    /// Version, cipher suite and key exchange, and how often both ends agreed on them.
    agreed: BTreeMap<String, u64>,
    /// Why the first that failed did so.
    problem: Option<String>,
}

#[derive(Serialize)]
struct Messages {
    sent: u64,
    sent_per_s: f64,
    received: u64,
    /// Confirmed with PUBACK, where nobody of the run subscribes.
    confirmed: u64,
    /// Received, confirmed, or (where nobody tells) sent.
    per_s: f64,
    received_bytes: u64,
    #[serde(skip)]
    is_timed: bool,
    latency_us: Quantiles,
    latency_from_send_us: Quantiles,
}

#[derive(Serialize)]
struct Returns {
    count: u64,
    /// From the cut until each was back.
    latency_us: Quantiles,
    /// From the cut until all were back, each time.
    all_back_ms: Vec<f64>,
    /// Of those whose node is known before and after.
    same_node_percent: Option<f64>,
    session_present_percent: f64,
}

#[derive(Serialize)]
struct TargetFiles {
    pid: u32,
    limit: u64,
    per_client: f64,
    clients_max: u64,
}

/// How the run went over time.
#[derive(Serialize)]
pub(super) struct SeriesOut {
    /// How long each is, but for the last.
    pub(super) every_s: f64,
    pub(super) last_s: f64,
    pub(super) connects: Vec<u64>,
    pub(super) messages: Vec<u64>,
    pub(super) errors: Vec<u64>,
    pub(super) p99_us: Vec<f64>,
}

#[derive(Serialize)]
struct Quantiles {
    count: u64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
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
    /// Sums a run up.
    pub(super) fn new(plan: &Plan, outcome: &Outcome) -> Self {
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
            target: plan.websocket.as_ref().map_or_else(
                || format!("{scheme}{}", plan.target),
                |endpoint| format!("{scheme}{}{}", plan.target, endpoint.path),
            ),
            clients: plan.clients,
            measured_s,
            interrupted: measured.interrupted,
            connections: Connections {
                accepted: measured.accepted,
                per_s: rate(first_accepted(measured), connecting_s),
                connack_us: Quantiles::new(&measured.connect),
            },
            tls: plan
                .tls
                .is_some()
                .then(|| Handshakes::new(&measured.handshakes)),
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
            cut_off: measured.cut_off,
            cut_off_connects: measured.cut_off_connects,
            stays: plan.then != Then::Leave,
            box_cpu_ms: milliseconds(
                looks.machine(Moment::Begin).busy_ns,
                looks.machine(Moment::End).busy_ns,
            ),
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

/// Connections before any was cut off.
fn first_accepted(measured: &Measured) -> u64 {
    measured.accepted - measured.returns.count
}

fn balance(nodes: &[(String, u64)]) -> Option<f64> {
    let most = nodes.iter().map(|(_, count)| *count).max()?;
    let all: u64 = nodes.iter().map(|(_, count)| count).sum();
    Some(most as f64 * nodes.len() as f64 / all as f64)
}

/// Latencies at 0, 0.5, 0.9 and so on, in small steps of nines, as far as there are latencies to tell.
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
            agreed: agreed
                .map(|(agreed, count)| (agreed.to_string(), *count))
                .collect(),
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
            all_back_ms: returns
                .rounds
                .iter()
                .map(|&round| milliseconds(0, round))
                .collect(),
            same_node_percent: (returns.known > 0)
                .then(|| percent(returns.same_node, returns.known)),
            session_present_percent: percent(returns.session_present, returns.count.max(1)),
        }
    }
}

impl TargetFiles {
    fn new(files: Files) -> Self {
        let assumed = files.listener.files_per_client();
        // Measured where enough clients were there for it to be no accident.
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

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.count == 0 {
            return write!(f, "none");
        }
        let Self {
            p50,
            p90,
            p99,
            p999,
            max,
            ..
        } = self;
        write!(
            f,
            "p50 {p50:.0} µs, p90 {p90:.0}, p99 {p99:.0}, p99.9 {p999:.0}, max {max:.0}"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.runs.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{run}")?;
        }
        for missed in &self.missed {
            writeln!(f, "failed       {missed}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = &self.connections;
        writeln!(
            f,
            "{}: {} clients against {}, {:.1} s{}",
            self.name,
            self.clients,
            self.target,
            self.measured_s,
            if self.interrupted {
                ", ended early"
            } else {
                ""
            }
        )?;
        writeln!(
            f,
            "connections  {} accepted, {:.0} a second",
            connections.accepted, connections.per_s
        )?;
        writeln!(f, "  CONNACK    {}", connections.connack_us)?;
        self.write_tls(f)?;
        self.write_messages(f)?;
        self.write_returns(f)?;
        self.write_nodes(f)?;
        for (kind, count) in self.errors.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "error        {kind}: {count}")?;
        }
        if self.cut_off + self.cut_off_connects > 0 {
            writeln!(
                f,
                "cut off      {} messages and {} connects were under way or due at the end",
                self.cut_off, self.cut_off_connects
            )?;
        }
        self.write_processes(f)
    }
}

impl Summary {
    fn write_tls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(tls) = &self.tls else {
            return Ok(());
        };
        write!(f, "handshakes   {} full, {} resumed", tls.full, tls.resumed)?;
        match &mut tls.agreed.iter() {
            agreed if agreed.len() == 1 => agreed.try_for_each(|(words, _)| write!(f, "; {words}")),
            agreed => agreed.try_for_each(|(words, count)| write!(f, "; {count} with {words}")),
        }?;
        writeln!(f)?;
        if tls.handshake_us.count > 0 {
            writeln!(f, "  TLS        {}", tls.handshake_us)?;
        }
        if let Some(problem) = &tls.problem {
            // It may have names out of a certificate: no controls, and cut.
            let shown = problem.chars().filter(|c| !c.is_control()).take(200);
            let shown: String = shown.collect();
            writeln!(f, "  failed     first because of this: {shown}")?;
        }
        Ok(())
    }

    fn write_messages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let messages = &self.messages;
        if messages.sent == 0 {
            return Ok(());
        }
        let megabytes = rate(messages.received_bytes, self.measured_s) / 1e6;
        write!(f, "messages     {} sent, ", messages.sent)?;
        if messages.confirmed > 0 {
            write!(f, "{} confirmed, ", messages.confirmed)?;
        } else if messages.is_timed {
            write!(f, "{} received, ", messages.received)?;
        }
        write!(f, "{:.0} a second", messages.per_s)?;
        if megabytes >= 1_000.0 {
            writeln!(f, ", {:.2} GB/s", megabytes / 1e3)?;
        } else if megabytes > 0.0 {
            writeln!(f, ", {megabytes:.1} MB/s")?;
        } else {
            writeln!(f)?;
        }
        if messages.latency_us.count > 0 {
            writeln!(f, "  latency    {}", messages.latency_us)?;
            writeln!(f, "  from send  {}", messages.latency_from_send_us)?;
        }
        Ok(())
    }

    fn write_returns(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(returns) = &self.returns else {
            return Ok(());
        };
        let rounds: Vec<_> = returns
            .all_back_ms
            .iter()
            .map(|ms| format!("{ms:.0} ms"))
            .collect();
        writeln!(
            f,
            "returns      {} after {} cuts; all back after {}",
            returns.count,
            rounds.len(),
            rounds.join(", ")
        )?;
        writeln!(f, "  each       {}", returns.latency_us)?;
        let same_node = returns.same_node_percent.map_or_else(
            || "unknown: the nodes do not tell their names".to_owned(),
            |percent| format!("{percent:.2} %"),
        );
        writeln!(
            f,
            "  same node  {same_node}; session present {:.2} %",
            returns.session_present_percent
        )
    }

    fn write_nodes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(problem) = &self.nodes_problem {
            writeln!(f, "nodes        unknown: {problem}")?;
        }
        let Some(balance) = self.balance_max_to_mean else {
            return Ok(());
        };
        // Names come from outside: escaped and cut, and as many as a line holds.
        let mut shown: Vec<_> = self
            .nodes
            .iter()
            .map(|(name, count)| {
                let name: String = name.escape_debug().take(40).collect();
                format!("{name} {count}")
            })
            .collect();
        let more = shown.len().saturating_sub(8);
        shown.truncate(8);
        if more > 0 {
            shown.push(format!("{more} more"));
        }
        writeln!(
            f,
            "nodes        {}; busiest {balance:.2} times the mean",
            shown.join(", ")
        )
    }

    fn write_processes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let accepted = self.connections.accepted.max(1) as f64;
        let (bench, asked_for) = match self.processes.split_last() {
            Some((bench, asked_for)) => (Some(bench), asked_for),
            None => (None, &[][..]),
        };
        for process in asked_for {
            let [start, end, settled] = process.rss_bytes.map(|bytes| bytes as f64 / 1e6);
            writeln!(
                f,
                "process {}  {:.1} ms CPU; resident {start:.1} MB, {end:.1} MB at the end ({:.1} kB a connection), {settled:.1} MB after",
                process.pid,
                process.cpu_ms,
                (end - start).max(0.0) * 1e3 / accepted,
            )?;
        }
        if let Some(bench) = bench {
            write!(f, "bench        {:.1} ms CPU", bench.cpu_ms)?;
            let messages = self.messages.received.max(self.messages.sent);
            if messages > 0 {
                let us = bench.cpu_ms * 1e3 / messages as f64;
                writeln!(f, ", {us:.1} µs a message")?;
            } else if self.returns.is_none() && self.stays {
                let per_client = |start: u64, end: u64| {
                    end.saturating_sub(start) as f64 / 1e3 / f64::from(self.clients)
                };
                let [start, end, _] = bench.rss_bytes;
                let [slab_start, slab_end, _] = self.slab_bytes;
                writeln!(
                    f,
                    "; {:.2} kB a client, and {:.1} kB in the kernel, of both ends and what lies between",
                    per_client(start, end),
                    per_client(slab_start, slab_end),
                )?;
            } else {
                writeln!(f)?;
            }
        }
        if let Some(files) = &self.target_files {
            writeln!(
                f,
                "target       {:.1} files a client in process {}, which may have {}: {} clients fit",
                files.per_client, files.pid, files.limit, files.clients_max
            )?;
        }
        Ok(())
    }
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / SECOND as f64
}

fn milliseconds(begin: Nanos, end: Nanos) -> f64 {
    // A moment that never came is zero.
    if begin == 0 && end > 3_600 * SECOND {
        return 0.0;
    }
    end.saturating_sub(begin) as f64 / 1e6
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}
