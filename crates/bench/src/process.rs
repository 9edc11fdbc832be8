//! CPU time and memory of other processes on this machine, and of the machine itself, read from /proc.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::clock::Nanos;

/// The usage of a process and its descendants; zero when it has ended.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Usage {
    /// CPU time of all living threads, as the scheduler counts it.
    pub(super) cpu_ns: Nanos,
    /// Resident memory.
    pub(super) rss_bytes: u64,
    /// Resident memory, shared pages divided by their users.
    pub(super) pss_bytes: u64,
}

/// The usage of the whole machine.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Machine {
    /// Time in which its processors were busy.
    pub(super) busy_ns: Nanos,
    /// Memory of the kernel's objects, sockets among them.
    pub(super) slab_bytes: u64,
}

/// When usage is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before the first dial.
    Start,
    /// The measured time begins.
    Begin,
    /// The measured time ends.
    End,
    /// All clients are closed, and the time to settle is over.
    Settled,
}

/// The usage of the machine and of some processes at one moment.
pub(super) struct Look {
    pub(super) moment: Moment,
    pub(super) machine: Machine,
    pub(super) processes: Vec<Usage>,
}

impl Look {
    /// Reads the usage of the machine and of these processes now.
    pub(super) fn at(moment: Moment, pids: &[u32]) -> Self {
        Self {
            moment,
            machine: machine(),
            processes: pids.iter().map(|&pid| usage(pid)).collect(),
        }
    }
}

/// Reads the usage of a process and its descendants.
fn usage(pid: u32) -> Usage {
    let mut total = Usage::default();
    for pid in with_descendants(pid) {
        let process = format!("/proc/{pid}");
        for task in numbers_in(&format!("{process}/task")) {
            total.cpu_ns += first_number(&read(format!("{process}/task/{task}/schedstat")));
        }
        let rollup = read(format!("{process}/smaps_rollup"));
        total.rss_bytes += kilobytes(&rollup, "Rss:");
        total.pss_bytes += kilobytes(&rollup, "Pss:");
    }
    total
}

/// Reads the usage of the machine.
fn machine() -> Machine {
    let stat = read("/proc/stat");
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|number| number.parse().ok())
        .collect();
    // user, nice, system, (idle, iowait), irq, softirq, steal; a tick is 10 ms on every Linux.
    let busy = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|&field: &usize| ticks.get(field))
        .sum::<u64>();
    Machine {
        busy_ns: busy * 10_000_000,
        slab_bytes: kilobytes(&read("/proc/meminfo"), "Slab:"),
    }
}

fn with_descendants(pid: u32) -> Vec<u32> {
    let mut pids = vec![pid];
    let mut next = 0;
    while let Some(&pid) = pids.get(next) {
        let children = read(format!("/proc/{pid}/task/{pid}/children"));
        pids.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
        next += 1;
    }
    pids
}

fn numbers_in(directory: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The text of a file, which is empty when the process has ended.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace()
        .next()
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

fn kilobytes(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .map_or(0, first_number)
        * 1024
}
