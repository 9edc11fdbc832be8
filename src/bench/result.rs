//! The result of a run: one screen for people, JSON with units in its keys for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::clock::{Nanos, SECOND};
use super::driver::{Look, Moment, Outcome};
use super::measured::{Failure, Latencies};
use super::plan::{Plan, Then};
use super::process::{self, Usage};

/// What is printed.
#[derive(Serialize)]
pub(super) struct Summary {
    target: String,
    clients: u32,
    measured_s: f64,
    connections: Connections,
    messages: Messages,
    /// By kind; those that never happened included.
    errors: BTreeMap<&'static str, u64>,
    /// Messages under way when the run ended: no error.
    cut_off: u64,
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
    connack_us: Quantiles,
}

#[derive(Serialize)]
struct Messages {
    sent: u64,
    received: u64,
    per_s: f64,
    received_bytes: u64,
    latency_us: Quantiles,
    latency_from_send_us: Quantiles,
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
        Self {
            target: plan.target.to_string(),
            clients: plan.clients,
            measured_s,
            connections: Connections {
                accepted: measured.accepted,
                per_s: rate(measured.accepted, connecting_s),
                connack_us: Quantiles::new(&measured.connect),
            },
            messages: Messages {
                sent: measured.sent,
                received: measured.received,
                per_s: rate(measured.received, measured_s),
                received_bytes: measured.received_bytes,
                latency_us: Quantiles::new(&measured.message),
                latency_from_send_us: Quantiles::new(&measured.message_from_send),
            },
            errors: Failure::ALL
                .into_iter()
                .map(|failure| (failure.name(), measured.failed(failure)))
                .collect(),
            cut_off: measured.cut_off,
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

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = &self.connections;
        writeln!(
            f,
            "{} clients against {}, {:.1} s",
            self.clients, self.target, self.measured_s
        )?;
        writeln!(
            f,
            "connections  {} accepted, {:.0} a second",
            connections.accepted, connections.per_s
        )?;
        writeln!(f, "  CONNACK    {}", connections.connack_us)?;
        if self.messages.sent > 0 {
            let messages = &self.messages;
            let megabytes = messages.received_bytes as f64 / 1e6 / self.measured_s;
            writeln!(
                f,
                "messages     {} sent, {} received, {:.0} a second, {megabytes:.1} MB/s",
                messages.sent, messages.received, messages.per_s
            )?;
            writeln!(f, "  latency    {}", messages.latency_us)?;
            writeln!(f, "  from send  {}", messages.latency_from_send_us)?;
        }
        for (kind, count) in self.errors.iter().filter(|(_, count)| **count > 0) {
            writeln!(f, "error        {kind}: {count}")?;
        }
        if self.cut_off > 0 {
            writeln!(
                f,
                "cut off      {} messages were under way at the end",
                self.cut_off
            )?;
        }
        let asked_for = self
            .processes
            .split_last()
            .map_or(&[][..], |(_, asked_for)| asked_for);
        for process in asked_for {
            let [start, end, settled] = process.rss_bytes.map(|bytes| bytes as f64 / 1e6);
            writeln!(
                f,
                "process {}  {:.1} ms CPU; resident {start:.1} MB, {end:.1} MB at the end, {settled:.1} MB after",
                process.pid, process.cpu_ms
            )?;
        }
        Ok(())
    }
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / SECOND as f64
}

fn milliseconds(begin: Nanos, end: Nanos) -> f64 {
    end.saturating_sub(begin) as f64 / 1e6
}

fn rate(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}
