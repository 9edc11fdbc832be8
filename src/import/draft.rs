//! A configuration of Remora in the making: what was found in a file of another program, as TOML in the end.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::cluster::{cluster, weights};
use super::listeners::{leave_out, merged};
use super::model::{Listener, Service, Setting};
use super::report::Report;
use super::text::{Place, Sources, printable, quoted};
use super::units::{LONGEST, duration};
use super::writer::Writer;

/// Which of two values a key gets that Remora has once and the original for each server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefer {
    First,
    /// The larger of two numbers.
    Larger(u64),
    /// Any other: this one is not written in the original.
    Other,
}

#[derive(Clone, Debug)]
struct Global {
    setting: Setting,
    prefer: Prefer,
}

/// Everything that was found so far.
#[derive(Default)]
pub(super) struct Draft {
    services: Vec<Service>,
    globals: BTreeMap<(&'static str, &'static str), Global>,
}

/// Tables that are written once, in their order in the reference.
const TABLES: [&str; 13] = [
    "nodes_tls",
    "nodes_api",
    "discovery",
    "affinity",
    "limits",
    "timeouts",
    "keepalive",
    "dial",
    "pacing",
    "relay",
    "health",
    "admin",
    "log",
];

/// What Remora has by default, where a longer time elsewhere must raise it.
const GREET_TOTAL: u64 = 20_000;

/// The admin listener's port.
const ADMIN_PORT: u16 = 9883;

impl Draft {
    pub(super) fn add(&mut self, service: Service) {
        self.services.push(service);
    }

    pub(super) fn has(&self, table: &'static str, key: &'static str) -> bool {
        self.globals.contains_key(&(table, key))
    }

    /// Whether a key that Remora has once has this value.
    pub(super) fn is(&self, table: &'static str, key: &'static str, toml: &str) -> bool {
        let global = self.globals.get(&(table, key));
        global.is_some_and(|global| global.setting.toml == toml)
    }

    /// Sets a key that Remora has once; a second, different value for it is reported.
    pub(super) fn set(
        &mut self,
        table: &'static str,
        key: &'static str,
        toml: String,
        place: Place,
        prefer: Prefer,
        report: &mut Report,
    ) {
        let setting = Setting { key, toml, place };
        let Some(global) = self.globals.get_mut(&(table, key)) else {
            self.globals.insert((table, key), Global { setting, prefer });
            return;
        };
        if global.setting.toml == setting.toml || prefer == Prefer::Other {
            return;
        }
        if global.prefer == Prefer::Other {
            *global = Global { setting, prefer };
            return;
        }
        let replaces = matches!((global.prefer, prefer), (Prefer::Larger(old), Prefer::Larger(new)) if new > old);
        let loser = match replaces {
            true => std::mem::replace(&mut global.setting, setting),
            false => setting,
        };
        if replaces {
            global.prefer = prefer;
        }
        let name = if table.is_empty() {
            key.to_owned()
        } else {
            format!("{table}.{key}")
        };
        report.lost(
            loser.place,
            format!(
                "{name} has one value for all listeners and nodes, {}, and not {} here",
                global.setting.toml, loser.toml
            ),
            format!("look which of them is right, and write it to {name}"),
        );
    }

    /// Sets a duration that Remora has once, to the longest of those that are given. Returns whether it takes such a duration.
    pub(super) fn set_time(
        &mut self,
        table: &'static str,
        key: &'static str,
        ms: u64,
        place: Place,
        report: &mut Report,
    ) -> bool {
        if ms == 0 || ms > LONGEST {
            let what = if ms == 0 { "0".to_owned() } else { duration(ms) };
            report.differs(
                place,
                format!("{table}.{key} takes no {what}"),
                "without it, its default holds; see config/full.toml",
            );
            return false;
        }
        self.set(table, key, quoted(&duration(ms)), place, Prefer::Larger(ms), report);
        true
    }

    /// The file, or `None` if there is no listener. Notes in `report` what one cluster cannot have.
    pub(super) fn finish(
        mut self,
        program: &str,
        files: &str,
        sources: &Sources,
        report: &mut Report,
    ) -> Option<String> {
        let services = std::mem::take(&mut self.services);
        let (nodes, services) = cluster(services, report);
        let mut listeners = merged(services, report);
        leave_out(&mut listeners, &nodes, report);
        if listeners.is_empty() || nodes.is_empty() {
            report.lost_at_all(
                "no listener with MQTT was found, so there is no configuration",
                "name the file that has them; Remora serves MQTT over TCP and WebSocket, and nothing else",
            );
            return None;
        }
        self.settle(&listeners, report);
        if !nodes.iter().any(|node| node.mqtt.is_template) {
            self.forget_discovery(report);
        }
        let mut out = Writer {
            sources,
            text: format!(
                "# From {} by `remora import {program}`, which reported what is not in it.\n",
                printable(files)
            ),
            variables: Vec::new(),
        };
        let top = self.globals.iter().filter(|((table, _), _)| table.is_empty());
        for (_, global) in top {
            out.text.push('\n');
            out.setting(&global.setting);
        }
        for listener in &listeners {
            out.listener(listener);
        }
        let weights = weights(&nodes);
        for (node, weight) in nodes.iter().zip(weights) {
            out.node(node, weight);
        }
        for name in TABLES {
            let keys: Vec<&Global> = self
                .globals
                .iter()
                .filter(|((table, _), _)| *table == name)
                .map(|(_, global)| global)
                .collect();
            if !keys.is_empty() {
                out.text += &format!("\n[{name}]\n");
            }
            keys.into_iter().for_each(|global| out.setting(&global.setting));
        }
        report.variables(&out.variables);
        Some(out.text)
    }

    /// Nodes that are looked for must be in the result.
    fn forget_discovery(&mut self, report: &mut Report) {
        if let Some(global) = self.globals.get(&("discovery", "source")) {
            report.lost(
                global.setting.place,
                "nodes are not looked for, since the table for them is not in the result",
                "see docs/discovery.md",
            );
        }
        self.globals.retain(|(table, _), _| *table != "discovery");
    }

    /// Settings that follow from others.
    fn settle(&mut self, listeners: &[Listener], report: &mut Report) {
        let longest = ["connect", "dial", "greet"]
            .iter()
            .filter_map(|key| self.globals.get(&("timeouts", *key)))
            .filter_map(|global| match global.prefer {
                Prefer::Larger(ms) if ms > GREET_TOTAL => Some((ms, global.setting.place)),
                _ => None,
            })
            .max();
        let own = listeners.iter().flat_map(|listener| &listener.settings);
        let own = own
            .filter(|setting| setting.key == "connect_timeout")
            .filter_map(|setting| {
                let ms = super::units::haproxy_time(setting.toml.trim_matches('"'), 1)?;
                (ms > GREET_TOTAL).then_some((ms, setting.place))
            });
        let longest = own.chain(longest).max();
        if let Some((ms, place)) = longest {
            self.set(
                "timeouts",
                "greet_total",
                quoted(&duration(ms)),
                place,
                Prefer::First,
                report,
            );
            report.differs(
                place,
                format!("so long, {}, one client may wait until a node has accepted it", duration(ms)),
                "Remora's defaults are 2s for a node (timeouts.dial), 5s for the CONNECT (15s with TLS), and 20s in all: leave these keys out",
            );
        }
        if self.has("nodes_tls", "ca")
            && let Some(insecure) = self.globals.remove(&("nodes_tls", "insecure_skip_verify"))
        {
            report.lost(
                insecure.setting.place,
                "nodes' certificates are verified for all listeners, and not only for some",
                "ca in [nodes_tls] must have the authorities of all nodes",
            );
        }
        let taken = |listener: &&Listener| {
            let is_there = |ip: IpAddr| ip.is_unspecified() || ip.is_loopback();
            listener.address.port.number() == Some(ADMIN_PORT) && listener.address.ip().is_some_and(is_there)
        };
        if let Some(listener) = listeners.iter().find(taken)
            && !self.has("admin", "address")
        {
            let is_free = |port: &u16| {
                !listeners
                    .iter()
                    .any(|listener| listener.address.port.number() == Some(*port))
            };
            let port = (ADMIN_PORT + 1..).find(is_free).unwrap_or(ADMIN_PORT);
            let address = quoted(&format!("127.0.0.1:{port}"));
            report.differs(
                listener.place,
                format!("Remora's own metrics are at port {ADMIN_PORT} by default, and at {port} here"),
                "",
            );
            self.set("admin", "address", address, listener.place, Prefer::First, report);
        }
    }
}
