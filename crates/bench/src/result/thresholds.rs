//! The limits that a result must keep, and what it missed.

use std::time::Duration;

use super::Summary;
use crate::units::time_text;

/// The limits that a result must keep.
pub(crate) struct Thresholds {
    pub(crate) p99: Option<Duration>,
    pub(crate) connack_p99: Option<Duration>,
    pub(crate) errors: u64,
    pub(crate) same_node_percent: Option<u8>,
}

impl Thresholds {
    pub(super) fn missed(&self, runs: &[Summary]) -> Vec<String> {
        let mut missed = Vec::new();
        for run in runs {
            let connack = &run.connections.connack_us;
            let messages = &run.messages;
            let latency = if messages.sent > 0 {
                &messages.latency_us
            } else {
                connack
            };
            for (what, max, found) in [("p99", self.p99, latency), ("CONNACK p99", self.connack_p99, connack)] {
                let Some(max) = max else {
                    continue;
                };
                // Messages that no client receives and the target does not confirm have no latency to check.
                let is_timed = found.count > 0 || messages.sent == 0 || messages.is_timed;
                let found_us = found.p99;
                if is_timed && (found.count == 0 || found_us > max.as_secs_f64() * 1e6) {
                    missed.push(if found.count == 0 {
                        format!("{}: no {what} at all, at most {max:?} allowed", run.name)
                    } else {
                        format!("{}: {what} {}, at most {max:?} allowed", run.name, time_text(found_us))
                    });
                }
            }
            if let (Some(percent), Some(returns)) = (self.same_node_percent, &run.returns) {
                match returns.same_node_percent {
                    Some(found) if found < f64::from(percent) => missed.push(format!(
                        "{}: {found:.2} % returned to the same node, at least {percent} % required",
                        run.name
                    )),
                    None => missed.push(format!("{}: the nodes do not report their names", run.name)),
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
