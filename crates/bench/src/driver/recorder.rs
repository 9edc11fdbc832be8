//! Records a run as it happens: the measurements, the measured time, and the current slice of time.

use std::mem;

use crate::clock::{Nanos, SECOND};
use crate::failure::{Failure, Stage};
use crate::measured::{Latencies, Measured, Slice};
use crate::packet::{STAMP_BYTES, Stamp};
use crate::session::Handshake;

/// Records what happens.
pub(crate) struct Recorder {
    pub(crate) measured: Measured,
    began: Nanos,
    /// When all clients were cut off last; `None` until then.
    cut_at: Option<Nanos>,
    /// The measured time; messages that were due in it count, even those that arrive later.
    measured_from: Nanos,
    measured_until: Nanos,
    /// The current slice of time, and when it ends.
    slice: Slice,
    slice_latency: Latencies,
    slice_ends: Nanos,
    /// Failures of the slices before.
    errors_before: u64,
    /// The latency of slices is that of messages alone, no longer that of CONNACKs.
    times_messages_only: bool,
}

/// A slice of time that is over.
pub(crate) struct Ended {
    pub(crate) slice: Slice,
    /// Since the run began.
    pub(crate) elapsed: Nanos,
    pub(crate) connects_per_s: f64,
    pub(crate) messages_per_s: f64,
}

impl Recorder {
    /// The run begins.
    pub(crate) fn new(now: Nanos) -> Self {
        let measured = Measured::new();
        Self {
            began: now,
            cut_at: None,
            measured_from: Nanos::MAX,
            measured_until: Nanos::MAX,
            slice: Slice::default(),
            slice_latency: Latencies::new(),
            slice_ends: now + measured.series.every,
            errors_before: 0,
            times_messages_only: false,
            measured,
        }
    }

    /// Counts a failure in this stage of a connection.
    pub(crate) fn fail(&mut self, failure: Failure, stage: Stage) {
        self.fail_often(failure, stage, 1);
    }

    /// Counts a failure in this stage so many times.
    pub(crate) fn fail_often(&mut self, failure: Failure, stage: Stage, count: u64) {
        self.measured.fail(failure, stage, count);
    }

    /// The measured time begins.
    pub(crate) fn begin_measuring(&mut self, now: Nanos) {
        self.measured_from = now;
    }

    /// The measured time ends.
    pub(crate) fn end_measuring(&mut self, now: Nanos) {
        self.measured_until = now;
        self.measured.measuring = now.saturating_sub(self.measured_from);
    }

    /// From now on, or no longer, the slices' latency is that of messages alone.
    pub(crate) fn time_messages_only(&mut self, is_so: bool) {
        self.times_messages_only = is_so;
    }

    /// All clients were cut off.
    pub(crate) fn cut_off(&mut self, now: Nanos) {
        self.cut_at = Some(now);
    }

    /// All clients have connected or failed to: after a cut, one round of returns is over.
    pub(crate) fn all_settled(&mut self, now: Nanos) {
        if let Some(cut_at) = self.cut_at {
            self.measured.returns.rounds.push(now - cut_at);
        }
    }

    /// A TLS handshake ended; its dial was due at `since`.
    pub(crate) fn handshake(&mut self, handshake: Handshake, since: Nanos, now: Nanos) {
        self.measured.handshakes.note(handshake, now.saturating_sub(since));
    }

    /// A client was accepted; its dial was due at `since`, and `is_known` if it was accepted before.
    pub(crate) fn accepted(&mut self, since: Nanos, is_known: bool, session_present: bool, now: Nanos) {
        let latency = now.saturating_sub(since);
        self.measured.connect.record(latency);
        self.measured.accepted += 1;
        self.slice.connects += 1;
        if !self.times_messages_only {
            self.slice_latency.record(latency);
        }
        if self.cut_at.is_none() {
            self.measured.connecting = now - self.began;
        } else if is_known {
            let returns = &mut self.measured.returns;
            returns.count += 1;
            returns.session_present += u64::from(session_present);
        }
    }

    /// A client that was accepted stays connected.
    pub(crate) fn connected(&mut self, now: Nanos) {
        if let Some(cut_at) = self.cut_at {
            self.measured.returns.latency.record(now - cut_at);
        }
    }

    /// A client is on this node, and was on `before`; zero is unknown. Returns the one that is known last.
    pub(crate) fn node(&mut self, name: Option<&str>, before: u16) -> u16 {
        let node = self.measured.note_node(name);
        if node == 0 {
            return before;
        }
        if self.cut_at.is_some() && before != 0 {
            self.measured.returns.known += 1;
            self.measured.returns.same_node += u64::from(before == node);
        }
        node
    }

    /// A message was sent; `has_ended` if it is neither received nor confirmed.
    pub(crate) fn sent(&mut self, has_ended: bool, now: Nanos) {
        self.measured.sent += u64::from(self.measures(now));
        self.slice.messages += u64::from(has_ended);
    }

    /// A message arrived, with a body of so many bytes behind its stamp.
    pub(crate) fn received(&mut self, body_bytes: usize, now: Nanos) {
        if self.measures(now) {
            self.measured.received += 1;
            self.measured.received_bytes += (body_bytes + STAMP_BYTES) as u64;
        }
    }

    /// The target confirmed a message that no client of this run subscribes to.
    pub(crate) fn confirmed(&mut self, now: Nanos) {
        self.measured.confirmed += u64::from(self.measures(now));
    }

    /// A message, or a copy of it, has come to its end.
    pub(crate) fn ended(&mut self, stamp: Stamp, now: Nanos) {
        let latency = now.saturating_sub(stamp.intended);
        self.slice.messages += 1;
        self.slice_latency.record(latency);
        if self.measures(stamp.intended) {
            self.measured.message.record(latency);
            self.measured.message_from_send.record(now.saturating_sub(stamp.sent));
        }
    }

    /// When the current slice ends.
    pub(crate) fn slice_ends(&self) -> Nanos {
        self.slice_ends
    }

    /// Ends the current slice, and begins the next.
    pub(crate) fn end_slice(&mut self, now: Nanos) -> Ended {
        let every = self.measured.series.every;
        let mut slice = mem::take(&mut self.slice);
        slice.p99_us = self.slice_latency.quantile_us(0.99);
        slice.errors = self.measured.failed_in_all() - self.errors_before;
        self.errors_before += slice.errors;
        self.slice_latency.clear();
        let lasts = now - (self.slice_ends - every);
        let seconds = lasts as f64 / SECOND as f64;
        self.measured.series.push(slice, lasts);
        self.slice_ends = now + self.measured.series.every;
        Ended {
            slice,
            elapsed: now - self.began,
            connects_per_s: slice.connects as f64 / seconds,
            messages_per_s: slice.messages as f64 / seconds,
        }
    }

    /// Whether a moment is in the measured time.
    fn measures(&self, moment: Nanos) -> bool {
        (self.measured_from..self.measured_until).contains(&moment)
    }
}
