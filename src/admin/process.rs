//! The kernel's figures about this process, read from `/proc`.

use std::fs;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// The figures at one moment.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) open_files: u64,
    pub(super) open_files_max: u64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) cpu: Duration,
    /// Since 1970.
    pub(super) started: Duration,
}

impl Process {
    /// `None` if there is no `/proc`.
    pub(super) fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The program's name is in parentheses and may contain anything (proc(5)). The fields from number 3 on follow it.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = |ticks: u64| Duration::from_millis(ticks.saturating_mul(1000) / clock_ticks_per_second().max(1));
        Some(Self {
            open_files: counted().or_else(listed)?,
            open_files_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            resident_bytes: field(24)? * page_size() as u64,
            virtual_bytes: field(23)?,
            cpu: ticks(field(14)? + field(15)?),
            started: boot_time()? + ticks(field(22)?),
        })
    }
}

/// How many descriptors are open, as Linux has counted them since 6.2.
fn counted() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    (size > 0).then_some(size)
}

/// The same, one by one: for 9,000 connections, that takes as long as ten scrapes.
fn listed() -> Option<u64> {
    let listed = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    // Without the descriptor that was opened for this list.
    Some(listed.saturating_sub(1))
}

fn boot_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn open_descriptors_are_counted_in_either_way() {
        const MORE: u64 = 50;
        // An older kernel counts none.
        let ways = [
            Some(listed as fn() -> Option<u64>),
            counted().map(|_| counted as fn() -> Option<u64>),
        ];
        for count in ways.into_iter().flatten() {
            // Other tests open and close some meanwhile.
            let is_counted = (0..100).any(|_| {
                let before = count().expect("a number");
                let files: Vec<File> = (0..MORE).map(|_| File::open("/dev/null").expect("a file")).collect();
                let opened = count().expect("a number").saturating_sub(before);
                drop(files);
                opened == MORE
            });
            assert!(is_counted);
        }
    }
}
