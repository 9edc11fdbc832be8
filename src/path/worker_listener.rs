//! A listener as one worker sees it. A connection keeps it, so that a reload changes nothing about connections that
//! have begun.

use std::sync::Arc;

use crate::path::accept::{Limits, Listener, ListenerCount, Rules};
use crate::path::counters::ListenerCounters;
use crate::path::listeners::ListenerEntry;
use crate::path::report::ReportedListener;

/// A listener as one worker sees it.
#[derive(Clone, Debug)]
pub(crate) struct WorkerListener {
    entry: Arc<ListenerEntry>,
    worker: u16,
}

impl WorkerListener {
    /// `entry`, as the worker with this number sees it.
    pub(crate) fn new(entry: Arc<ListenerEntry>, worker: u16) -> Self {
        Self { entry, worker }
    }

    /// Its settings.
    pub(crate) fn listener(&self) -> &Listener {
        &self.entry.listener
    }

    /// Its connections, over all workers.
    pub(crate) fn count(&self) -> &Arc<ListenerCount> {
        &self.entry.listener_count
    }

    /// What this worker counts of it.
    pub(crate) fn counters(&self) -> &ListenerCounters {
        &self.entry.counters[usize::from(self.worker)]
    }

    /// What its connections are checked against, together with the limits on all listeners.
    pub(crate) fn rules<'a>(&'a self, limits: &'a Limits) -> Rules<'a> {
        Rules {
            listener: self.listener(),
            listener_count: self.count(),
            limits,
        }
    }

    /// What a report needs of it.
    pub(crate) fn reported(&self) -> ReportedListener<'_> {
        ReportedListener {
            name: self.entry.name(),
            counters: self.counters(),
        }
    }
}
