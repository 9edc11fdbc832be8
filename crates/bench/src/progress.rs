//! The progress line of a run: on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::clock::{Nanos, SECOND};
use super::units::{rate_text, time_text};

/// The line, which is hidden unless standard error is a terminal.
pub(super) struct ProgressLine(ProgressBar);

/// What the line shows.
pub(super) struct Progress {
    pub(super) phase: &'static str,
    pub(super) elapsed: Nanos,
    pub(super) connected: u32,
    pub(super) clients: u32,
    pub(super) connects_per_s: f64,
    pub(super) messages_per_s: f64,
    pub(super) p99_us: f64,
    pub(super) errors: u64,
}

impl ProgressLine {
    /// A line on standard error, which indicatif hides unless that is a terminal.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // The template is a valid constant; without it, the default style would do.
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// A hidden line.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(ProgressBar::hidden())
    }

    /// Shows the progress.
    pub(super) fn show(&self, name: &str, progress: &Progress) {
        if !self.0.is_hidden() {
            self.0.set_message(text(name, progress));
        }
    }

    /// Removes the line.
    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

fn text(name: &str, progress: &Progress) -> String {
    let Progress {
        phase,
        elapsed,
        connected,
        clients,
        connects_per_s,
        messages_per_s,
        p99_us,
        errors,
    } = progress;
    let elapsed = elapsed / SECOND;
    let mut line = format!("{name}: {phase}, {elapsed} s, {connected} of {clients} connected");
    for (rate, what) in [(connects_per_s, "connects"), (messages_per_s, "messages")] {
        if *rate > 0.0 {
            line += &format!(", {} {what}/s", rate_text(*rate));
        }
    }
    if *p99_us > 0.0 {
        line += &format!(", p99 {}", time_text(*p99_us));
    }
    if *errors > 0 {
        line += &format!(", {errors} errors");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_shows_only_what_is_not_zero() {
        let progress = Progress {
            phase: "connecting",
            elapsed: 2 * SECOND + 7,
            connected: 3,
            clients: 10,
            connects_per_s: 1.4,
            messages_per_s: 0.0,
            p99_us: 0.0,
            errors: 2,
        };
        assert_eq!(
            text("echo", &progress),
            "echo: connecting, 2 s, 3 of 10 connected, 1.4 connects/s, 2 errors"
        );
    }
}
