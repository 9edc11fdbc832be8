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
        let open_files = fs::read_dir("/proc/self/fd").ok()?.count() as u64;
        Some(Self {
            // Without the descriptor that was opened for this count.
            open_files: open_files.saturating_sub(1),
            open_files_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
            resident_bytes: field(24)? * page_size() as u64,
            virtual_bytes: field(23)?,
            cpu: ticks(field(14)? + field(15)?),
            started: boot_time()? + ticks(field(22)?),
        })
    }
}

fn boot_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok().map(Duration::from_secs)
}
