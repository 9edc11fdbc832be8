//! The line that tells how a run goes while it goes: on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::clock::{Nanos, SECOND};

/// The line, or nothing where nobody watches.
pub(super) struct Live(ProgressBar);

/// What it says.
pub(super) struct Progress {
    pub(super) phase: &'static str,
    pub(super) elapsed: Nanos,
    pub(super) here: u32,
    pub(super) clients: u32,
    pub(super) connects_per_s: f64,
    pub(super) messages_per_s: f64,
    pub(super) p99_us: f64,
    pub(super) errors: u64,
}

impl Live {
    /// A line on standard error, which indicatif leaves out when that is no terminal.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // The template is a constant without parameters; were it wrong, the default would do.
        if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// No line.
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(ProgressBar::hidden())
    }

    /// Shows how it goes.
    pub(super) fn show(&self, name: &str, progress: &Progress) {
        if !self.0.is_hidden() {
            self.0.set_message(text(name, progress));
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

fn text(name: &str, progress: &Progress) -> String {
    let Progress {
        phase,
        elapsed,
        here,
        clients,
        connects_per_s,
        messages_per_s,
        p99_us,
        errors,
    } = progress;
    let elapsed = elapsed / SECOND;
    let mut line = format!("{name}: {phase}, {elapsed} s, {here} of {clients} clients here");
    for (rate, what) in [(connects_per_s, "connects"), (messages_per_s, "messages")] {
        if *rate > 0.0 {
            line += &format!(", {rate:.0} {what}/s");
        }
    }
    if *p99_us > 0.0 {
        line += &format!(", p99 {p99_us:.0} µs");
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
    fn the_line_says_what_there_is_to_say() {
        let progress = Progress {
            phase: "connecting",
            elapsed: 2 * SECOND + 7,
            here: 3,
            clients: 10,
            connects_per_s: 1.4,
            messages_per_s: 0.0,
            p99_us: 0.0,
            errors: 2,
        };
        assert_eq!(
            text("echo", &progress),
            "echo: connecting, 2 s, 3 of 10 clients here, 1 connects/s, 2 errors"
        );
    }
}
