//! Watches the threads that no connection may stop, from a thread of its own, and logs one that does not run and one that runs
//! again. What follows from it is left to `/livez`, `/readyz` and systemd.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::events::{Change, Events};
use crate::base::heartbeat::{Heartbeat, Heartbeats, INTERVAL};

/// The code of the finding.
const CODE: &str = "thread_stuck";

/// How long a thread may be silent before that is logged.
const LOGGED_AFTER: Duration = Duration::from_secs(3);

/// How often the silence of a thread is logged again while it lasts.
const LOGGED_EVERY: Duration = Duration::from_secs(10);

/// The watching thread; ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// Dropped to end the thread.
    stop: Option<mpsc::SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Watches these threads, which have begun to beat.
    pub(super) fn start(heartbeats: Arc<Heartbeats>, events: Arc<Events>) -> io::Result<Self> {
        let (stop, stopped) = mpsc::sync_channel::<()>(0);
        let thread = std::thread::Builder::new()
            .name("remora-watchdog".into())
            .spawn(move || {
                let mut watched: Vec<Watched<'_>> =
                    heartbeats.threads().iter().map(|thread| Watched::new(thread)).collect();
                while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    watched.iter_mut().for_each(|thread| thread.look(&events));
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watchdog panicked");
        }
    }
}

/// A thread, as the watchdog last saw it.
struct Watched<'a> {
    heartbeat: &'a Heartbeat,
    beats: u64,
    /// The silence at which it is logged next.
    logged_at: Duration,
}

impl<'a> Watched<'a> {
    fn new(heartbeat: &'a Heartbeat) -> Self {
        Self {
            heartbeat,
            beats: 0,
            logged_at: LOGGED_AFTER,
        }
    }

    fn look(&mut self, events: &Events) {
        let (silence, ended) = self.heartbeat.look(&mut self.beats);
        let thread = self.heartbeat.name();
        if silence >= self.logged_at {
            let is_new = self.logged_at == LOGGED_AFTER;
            self.logged_at = silence + LOGGED_EVERY;
            if is_new {
                tell(events, thread, true);
            }
            let event = is_new.then_some(Change::FINDING);
            tracing::warn!(
                event,
                code = CODE,
                thread,
                seconds = silence.as_secs(),
                "thread does not run"
            );
        }
        if let Some(ended) = ended.filter(|ended| *ended >= LOGGED_AFTER) {
            self.logged_at = LOGGED_AFTER;
            tell(events, thread, false);
            tracing::warn!(
                event = Change::FINDING,
                code = CODE,
                thread,
                seconds = ended.as_secs(),
                "thread runs again"
            );
        }
    }
}

fn tell(events: &Events, thread: &str, is_begun: bool) {
    events.push(Change::Finding {
        name: None,
        found: None,
        code: CODE.to_owned(),
        subject: thread.to_owned(),
        is_begun,
    });
}
