//! Replaces the configuration, completely or not at all.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::handle::{HANDED_OVER, Handle, Inner};
use super::limits;
use super::requests::Reloaded;
use crate::admin::settings as admin;
use crate::base::events::Change;
use crate::base::log::{self, List};
use crate::cluster::Member;
use crate::config::{Config, ListedNodes};
use crate::control::{self, NodeProber, NodesFile, Prober};
use crate::net::tls::NodesTls;
use crate::path::affinity;
use crate::worker::Order;

impl Handle {
    /// Replaces the configuration, completely or not at all. No connection is touched: those of a removed node stay
    /// open under its name, those of a removed listener too, and a limit below their number refuses only new ones.
    ///
    /// Reloads run one at a time. A reload is finished even if the returned future is dropped.
    ///
    /// # Errors
    /// The system refuses something, or the balancer is draining. Nothing has changed then.
    pub async fn reload(&self, config: Config) -> io::Result<Reloaded> {
        let handle = self.clone();
        let reload = self.0.runtime.spawn(async move {
            let reloaded = handle.0.reload(config).await;
            match &reloaded {
                Ok(_) => {
                    handle.0.state.reloads.succeeded();
                    handle.0.events.push(Change::Reload {
                        is_in_force: true,
                        error: None,
                    });
                }
                Err(error) => handle.reload_failed(&error.to_string()),
            }
            reloaded
        });
        reload.await.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

impl Inner {
    fn check_not_draining(&self) -> io::Result<()> {
        if self.state.handed_over.load(Ordering::Relaxed) {
            return Err(io::Error::other(HANDED_OVER));
        }
        match self.state.draining.load(Ordering::Relaxed) {
            true => Err(io::Error::other("the balancer is draining")),
            false => Ok(()),
        }
    }

    async fn reload(&self, new: Config) -> io::Result<Reloaded> {
        // A drain holds the lock until it is over: asked before it, too, so that nobody waits for an error.
        self.check_not_draining()?;
        if self.is_giving.load(Ordering::Relaxed) {
            return Err(io::Error::other("another process is taking over: reload that one"));
        }
        let _turn = self.turn.lock().await;
        self.check_not_draining()?;
        let (new, restart) = without_restart(&self.config.load(), new);
        if self.shared.clusters.current().all_known().len() + new.nodes.len() > usize::from(u16::MAX) {
            return Err(io::Error::other(
                "this process has known too many different nodes: restart it",
            ));
        }
        // What can fail comes first.
        let log = log::prepare(&new.log)?;
        self.open_added(&new).await?;
        // Before the endpoints that use it.
        self.shared.nodes_tls.replace(new.nodes_tls.clone());
        let reload = control::Reload {
            settings: new.control.clone(),
            members: new.nodes.clone(),
            prober: prober(&new, &self.shared.nodes_tls, self.instance),
        };
        for node in self.control.reload(reload).await? {
            self.shared.placements.forget_node(node);
        }
        self.shared.held.set_limits(new.held.clone());
        self.state.heartbeats.set_stuck_after(new.watchdog.stuck_after);
        let settings = limits::path_settings(&new, self.workers.len());
        self.state
            .source_ports
            .store(settings.relay.ports_max, Ordering::Relaxed);
        self.state
            .connections_max
            .store(limits::connections_max(&new, self.workers.len()), Ordering::Relaxed);
        for worker in &self.workers {
            let settings = Box::new(settings.clone());
            worker.send(Order::Reconfigure(settings)).await?;
        }
        self.change_listeners(&new.listeners).await?;
        log::reconfigure(&new.log, log);
        warn_of_unverified(&new.nodes);
        log_warnings(&new);
        let new = Arc::new(new);
        self.examiner.reload(Arc::clone(&new));
        self.config.store(new);
        Ok(Reloaded { restart })
    }
}

/// `new` with the values of `old` for keys whose change needs a restart, and the names of those that differ.
fn without_restart(old: &Config, mut new: Config) -> (Config, Vec<&'static str>) {
    let mut restart = Vec::new();
    let mut keep = |key: &'static str, differs: bool| {
        if differs {
            restart.push(key);
        }
    };
    keep("workers", new.workers != old.workers);
    let affinity::Settings {
        rule,
        seed,
        load_max,
        placements_max,
        placement_age_max,
    } = &old.affinity;
    let affinity::Rule {
        key,
        group,
        anonymous,
        clean_sessions,
    } = rule;
    keep("affinity.key", new.affinity.rule.key != *key);
    keep("affinity.group", new.affinity.rule.group != *group);
    keep("affinity.anonymous", new.affinity.rule.anonymous != *anonymous);
    keep(
        "affinity.clean_sessions",
        new.affinity.rule.clean_sessions != *clean_sessions,
    );
    keep("affinity.seed", new.affinity.seed != *seed);
    keep("affinity.load_max", new.affinity.load_max != *load_max);
    keep(
        "affinity.placements_max",
        new.affinity.placements_max != *placements_max,
    );
    keep(
        "affinity.placement_age_max",
        new.affinity.placement_age_max != *placement_age_max,
    );
    // Tokens are read at each request.
    let admin = admin::Settings {
        tokens: std::mem::take(&mut new.admin.tokens),
        ..old.admin.clone()
    };
    new.admin.tokens.clone_from(&admin.tokens);
    keep("admin", new.admin != admin);
    keep("log.output", new.log.output != old.log.output);
    new.workers = old.workers;
    new.affinity = old.affinity.clone();
    new.admin = admin;
    new.log.output = old.log.output;
    (new, restart)
}

/// How nodes are probed.
pub(super) fn prober(config: &Config, tls: &Arc<NodesTls>, instance: u32) -> Arc<dyn Prober> {
    Arc::new(node_prober(config, tls, instance))
}

/// The same, for questions of the doctor.
pub(super) fn node_prober(config: &Config, tls: &Arc<NodesTls>, instance: u32) -> NodeProber {
    NodeProber {
        dial: config.dial.clone(),
        tls: Arc::clone(tls),
        greet_timeout: config.greet.timeout,
        depth: config.control.probe,
        probe_proxy: config.control.probe_proxy,
        instance,
        api: config.control.api.clone(),
        nodes_file: NodesFile::new(ListedNodes::of(config)),
    }
}

/// Logs what an operator should look at in a configuration.
pub(super) fn log_warnings(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!(key = warning.path, "{}", warning.message);
    }
}

/// Warns the operator of nodes whose certificates are not verified.
pub(super) fn warn_of_unverified(nodes: &[Member]) {
    if nodes.iter().any(Member::is_unverified) {
        let unverified = nodes.iter().filter(|node| node.is_unverified());
        tracing::warn!(
            nodes = List::of(unverified.map(|node| &node.name)).value(),
            "nodes_tls.insecure_skip_verify: certificates of nodes are not verified"
        );
    }
}
