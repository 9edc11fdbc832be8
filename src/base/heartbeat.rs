//! Whether each thread still runs: a thread beats once a second, and a watchdog counts the seconds in which it did not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// How often a thread beats, and how often the watchdog looks.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// When a thread is stuck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A thread that has not run for this long is stuck.
    pub stuck_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stuck_after: Duration::from_secs(10),
        }
    }
}

/// The heartbeats of all threads that no connection may stop.
#[derive(Debug)]
pub struct Heartbeats {
    threads: Vec<Arc<Heartbeat>>,
    /// In intervals.
    stuck_after: AtomicU32,
}

/// The heartbeat of one thread.
#[derive(Debug)]
pub struct Heartbeat {
    /// The thread's name.
    name: String,
    /// Only the thread itself writes it.
    beats: AtomicU64,
    /// How often in a row the watchdog found no new beat; only the watchdog writes it.
    missed: AtomicU32,
}

impl Heartbeats {
    /// Those of the threads with these names. A thread is stuck once it has not beaten for `stuck_after`.
    pub fn new(names: impl IntoIterator<Item = String>, stuck_after: Duration) -> Self {
        let heartbeat = |name| {
            Arc::new(Heartbeat {
                name,
                beats: AtomicU64::new(0),
                missed: AtomicU32::new(0),
            })
        };
        Self {
            threads: names.into_iter().map(heartbeat).collect(),
            stuck_after: AtomicU32::new(intervals(stuck_after)),
        }
    }

    /// All of them, in the order of their names at [`Heartbeats::new`].
    pub(crate) fn threads(&self) -> &[Arc<Heartbeat>] {
        &self.threads
    }

    /// Changes after how long a thread is stuck.
    pub(crate) fn set_stuck_after(&self, stuck_after: Duration) {
        self.stuck_after.store(intervals(stuck_after), Ordering::Relaxed);
    }

    /// A thread that is stuck, if there is one.
    pub(crate) fn stuck(&self) -> Option<&Heartbeat> {
        let stuck_after = self.stuck_after.load(Ordering::Relaxed);
        self.threads
            .iter()
            .map(|thread| &**thread)
            .find(|thread| thread.missed() >= stuck_after)
    }
}

impl Heartbeat {
    /// The thread runs. Only that thread may call this.
    pub(crate) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// The thread's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// For how long the thread has not run: 0 s or 1 s for one that does.
    pub(crate) fn silence(&self) -> Duration {
        INTERVAL * self.missed()
    }

    fn missed(&self) -> u32 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Looks for a beat since the last look, when there were `beats`. Only the watchdog may call this, once per interval. Returns
    /// the silence until now, and the one that has just ended, if any.
    ///
    /// Looks are counted, not time: the watchdog stands still together with the process, so a machine that was suspended, or a
    /// process that was stopped, costs a thread no more than one look.
    pub(crate) fn look(&self, beats: &mut u64) -> (Duration, Option<Duration>) {
        let before = std::mem::replace(beats, self.beats.load(Ordering::Relaxed));
        let missed = self.missed();
        if *beats == before {
            self.missed.store(missed.saturating_add(1), Ordering::Relaxed);
            return (self.silence(), None);
        }
        self.missed.store(0, Ordering::Relaxed);
        (Duration::ZERO, (missed > 0).then(|| INTERVAL * missed))
    }
}

/// `duration` in intervals, rounded up.
fn intervals(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(INTERVAL.as_millis())).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_stuck_after_the_limit_and_well_at_its_next_beat() {
        let names = ["a", "b"].map(str::to_owned);
        let heartbeats = Heartbeats::new(names, Duration::from_millis(2_500));
        let [a, b] = heartbeats.threads() else {
            panic!("two threads");
        };
        let mut seen = [0; 2];
        let mut look = |beats: [bool; 2]| {
            for (thread, beats) in [a, b].into_iter().zip(beats) {
                if beats {
                    thread.beat();
                }
            }
            let [of_a, of_b] = &mut seen;
            let looked = (a.look(of_a), b.look(of_b)).1;
            (heartbeats.stuck().map(|stuck| stuck.name().to_owned()), looked)
        };
        let seconds = Duration::from_secs;
        assert_eq!(look([true, true]), (None, (seconds(0), None)));
        assert_eq!(look([true, false]), (None, (seconds(1), None)));
        assert_eq!(look([true, false]), (None, (seconds(2), None)));
        let stuck = Some("b".to_owned());
        assert_eq!(look([true, false]), (stuck.clone(), (seconds(3), None)));
        assert_eq!(look([false, false]), (stuck, (seconds(4), None)));
        assert_eq!(look([true, true]), (None, (seconds(0), Some(seconds(4)))));
        assert_eq!(look([true, true]), (None, (seconds(0), None)));
    }

    #[test]
    fn another_limit_applies_at_once() {
        let heartbeats = Heartbeats::new(["a".to_owned()], Duration::from_secs(3));
        let mut seen = 0;
        heartbeats.threads()[0].look(&mut seen);
        heartbeats.threads()[0].look(&mut seen);
        assert!(heartbeats.stuck().is_none());
        heartbeats.set_stuck_after(Duration::from_secs(2));
        assert!(heartbeats.stuck().is_some());
    }
}
