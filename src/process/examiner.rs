//! Has the doctor examine a balancer that runs: when an operator asks, and at an interval.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::doctor::{self, SlowChecks};
use super::examiner_handle::{ExaminerHandle, Reply};
use super::handle::Handle;
use crate::base::events::{Change, Events};
use crate::base::log::List;
use crate::cluster::Clusters;
use crate::config::Config;
use crate::doctor::examination::{Examination, LastExamination};
use crate::doctor::report::Finding;
use crate::doctor::route_check::Extent;
use crate::net::tls::NodesTls;

/// How long the result of the slow checks is used: what they look at is gathered from all nodes, or all workers.
const SLOW_CHECKS_EVERY: Duration = Duration::from_secs(300);

/// The balancer that is examined.
#[derive(Debug, Default)]
pub(super) struct Examined(OnceLock<Handle>);

impl Examined {
    /// From now on, its clients are looked at as well.
    pub(super) fn open(&self, handle: Handle) {
        // Called once.
        let _ = self.0.set(handle);
    }
}

/// Examines on control's thread, one at a time.
#[derive(Debug)]
pub(super) struct Examiner {
    requests: mpsc::Receiver<Reply>,
    config: watch::Receiver<Arc<Config>>,
    pub(super) clusters: Arc<Clusters>,
    pub(super) tls: Arc<NodesTls>,
    pub(super) instance: u32,
    pub(super) last: Arc<LastExamination>,
    pub(super) examined: Arc<Examined>,
    pub(super) events: Arc<Events>,
}

impl Examiner {
    /// An examiner of what the other arguments say, and its handle.
    pub(super) fn new(
        config: Arc<Config>,
        (clusters, tls, instance): (Arc<Clusters>, Arc<NodesTls>, u32),
        (last, examined): (Arc<LastExamination>, Arc<Examined>),
        events: Arc<Events>,
    ) -> (Self, ExaminerHandle) {
        let (handle, requests, config) = ExaminerHandle::new(config);
        let examiner = Self {
            requests,
            config,
            clusters,
            tls,
            instance,
            last,
            examined,
            events,
        };
        (examiner, handle)
    }

    /// Examines when asked and when it is time, until the last handle is dropped. It must run in a [`tokio::task::LocalSet`].
    pub(super) async fn run(mut self) {
        let mut began = Instant::now();
        let mut slow = None;
        loop {
            let interval = self.config.borrow_and_update().doctor.interval;
            let due = interval.map(|interval| began + interval);
            let mut asked = Vec::new();
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(reply) => asked.push(reply),
                    None => return,
                },
                changed = self.config.changed() => match changed {
                    Ok(()) => {
                        slow = None;
                        continue;
                    }
                    Err(_) => return,
                },
                () = until(due) => {}
            }
            began = Instant::now();
            // Those who have asked meanwhile get the same.
            asked.extend(std::iter::from_fn(|| self.requests.try_recv().ok()));
            let extent = match asked.is_empty() {
                true => Extent::REPEATED,
                false => Extent::FULL,
            };
            slow = slow.filter(|slow: &SlowChecks| asked.is_empty() && slow.at.elapsed() < SLOW_CHECKS_EVERY);
            let examination = self.examine(extent, &mut slow).await;
            for reply in asked {
                // It may have gone.
                let _ = reply.send(Arc::clone(&examination));
            }
        }
    }

    async fn examine(&self, extent: Extent, slow: &mut Option<SlowChecks>) -> Arc<Examination> {
        let config = Arc::clone(&self.config.borrow());
        let access = doctor::access(&config, Arc::clone(&self.tls), self.instance);
        let cluster = self.clusters.current();
        let handle = self.examined.0.get();
        let report = doctor::examine_running(&config, &cluster, access, handle, extent, slow).await;
        let at = SystemTime::now();
        let examination = Arc::new(Examination { at, report });
        let difference = self.last.replace(Arc::clone(&examination));
        for finding in &difference.appeared {
            self.tell(finding, true);
            tracing::warn!(
                event = Change::FINDING,
                code = finding.code,
                name = finding.name,
                subjects = List::of(&finding.subjects).value(),
                found = finding.found,
                "the doctor found a fault; remora ctl doctor shows what to do"
            );
        }
        for finding in &difference.gone {
            self.tell(finding, false);
            tracing::info!(
                event = Change::FINDING,
                code = finding.code,
                name = finding.name,
                subjects = List::of(&finding.subjects).value(),
                "a fault that the doctor found is gone"
            );
        }
        examination
    }

    fn tell(&self, finding: &Finding, is_there: bool) {
        self.events.push(Change::Finding {
            code: finding.code.clone(),
            name: Some(finding.name.clone()),
            subject: finding.subjects.join(", "),
            found: Some(finding.found.clone()),
            is_begun: is_there,
        });
    }
}

/// Until then, or for ever.
async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.max(Instant::now() + Duration::from_millis(1))).await,
        None => std::future::pending().await,
    }
}
