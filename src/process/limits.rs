//! What the open-file limit allows: connections, and pipes for each worker.

use rustix::process::{Resource, getrlimit};

use crate::config::Config;
use crate::path::connection::Settings;
use crate::path::relay;

/// Descriptors that are not for connections: logs, epolls, the admin listener and its connections, a reload.
const DESCRIPTORS_RESERVED: u64 = 64;

/// Descriptors of each worker that are not for connections, besides those of its pipes: its listeners and their reserves.
const DESCRIPTORS_RESERVED_PER_WORKER: u64 = 8;

/// One in this many descriptors may be a pipe's, if that is more than [`relay::PIPES_MIN`]: bulk to a slow receiver
/// holds a pipe, and is copied without one.
const DESCRIPTORS_PER_PIPE_DESCRIPTOR: u64 = 32;

/// The most pipes of each worker. The kernel gives a user without privileges some 1,000 of full size.
const PIPES_MAX: usize = 256;

/// The path's settings of `config` for this many workers, within the open-file limit.
pub(super) fn path_settings(config: &Config, workers: usize) -> Settings {
    let mut limits = config.limits.clone();
    let most = connections_max(config, workers);
    if let Some(configured) = limits.connections_max.filter(|configured| *configured > most) {
        // Otherwise no descriptor would be left to answer an operator or to read a file.
        let open_files = descriptors_max();
        tracing::warn!(
            configured,
            open_files,
            limit = most,
            "limits.connections exceeds the open-file limit; lowered to {most}: raise LimitNOFILE or ulimit -n"
        );
    }
    limits.connections_max = Some(most);
    Settings {
        limits,
        peek: config.peek.clone(),
        dial: config.dial.clone(),
        greet: config.greet.clone(),
        relay: relay::Settings {
            pipes_max: pipes_max(descriptors_max(), workers),
            ports_max: config.dial.source_ports(),
            ..config.relay.clone()
        },
        log: config.log.lines_of_worker(workers),
    }
}

/// The open-file limit.
fn descriptors_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The most connections at once: as configured, or as many as the open-file limit allows where that is fewer.
pub(super) fn connections_max(config: &Config, workers: usize) -> usize {
    let allowed = connections_allowed(workers);
    config.limits.connections_max.unwrap_or(allowed).min(allowed)
}

/// As many connections as the open-file limit allows: each takes two descriptors.
pub(super) fn connections_allowed(workers: usize) -> usize {
    let files = descriptors_max();
    let pipes = 2 * pipes_max(files, workers) as u64;
    let reserved = DESCRIPTORS_RESERVED + (DESCRIPTORS_RESERVED_PER_WORKER + pipes) * workers as u64;
    usize::try_from(files.saturating_sub(reserved) / 2)
        .unwrap_or(usize::MAX)
        .max(1)
}

/// The pipes that each worker may have, reserved for it: each takes two of `files` descriptors.
fn pipes_max(files: u64, workers: usize) -> usize {
    let share = files / DESCRIPTORS_PER_PIPE_DESCRIPTOR / 2 / workers.max(1) as u64;
    usize::try_from(share)
        .unwrap_or(PIPES_MAX)
        .clamp(relay::PIPES_MIN, PIPES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_few_where_descriptors_are() {
        let cases = [
            (128, 2, 8),
            (1_024, 2, 8),
            (1_024, 1, 16),
            (16_384, 2, 128),
            (1_048_576, 2, 256),
            (1_048_576, 256, 64),
            (u64::MAX, 1, 256),
        ];
        for (files, workers, pipes) in cases {
            assert_eq!(pipes_max(files, workers), pipes, "{files} for {workers}");
        }
    }
}
