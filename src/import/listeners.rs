//! Merges the listeners of all services, as far as they can be open together.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::address::Port;
use super::cluster::Node;
use super::model::{Kind, Listener, Service, Setting};
use super::report::Report;
use super::text::{Place, list, printable};
use super::units::{Rule, duration, haproxy_time, lists, network_text};

/// All listeners that can be open together.
pub(super) fn merged(services: Vec<Service>, report: &mut Report) -> Vec<Listener> {
    let mut found: Vec<(Kind, String, Listener)> = Vec::new();
    let mut by_port: BTreeMap<Port, Vec<usize>> = BTreeMap::new();
    for service in services {
        for mut listener in service.listeners {
            let kind_keys: &[(&'static str, &str)] = match service.kind {
                Kind::Mqtt => &[],
                Kind::Ws => &[("transport", "\"ws\"")],
                Kind::Pass => &[("tls", "\"pass\"")],
            };
            let place = listener.place;
            let own = kind_keys.iter().map(|(key, toml)| Setting::new(key, *toml, place));
            listener.settings.splice(0..0, own);
            only_of_ws(&mut listener, service.kind, report);
            handshake_time(&mut listener, report);
            let same_port = by_port.entry(listener.address.port.clone()).or_default();
            let overlapping = same_port
                .iter()
                .copied()
                .find(|index| found[*index].2.address.overlaps(&listener.address));
            let Some(index) = overlapping else {
                same_port.push(found.len());
                found.push((service.kind, service.pool.clone(), listener));
                continue;
            };
            let (kind, pool, other) = &mut found[index];
            let is_same = *kind == service.kind && *pool == service.pool;
            let are_same = |a: &Listener, b: &Listener| {
                let keys = |listener: &Listener| {
                    let keys = listener.settings.iter();
                    keys.map(|setting| (setting.key, setting.toml.clone()))
                        .collect::<BTreeSet<_>>()
                };
                keys(a) == keys(b)
            };
            let both_any = other.address.is_any() && listener.address.is_any();
            if is_same && are_same(other, &listener) && (other.address == listener.address || both_any) {
                // One socket at [::] takes IPv4 as well.
                other.only_v6 &= listener.only_v6;
                if listener.address.is_v6() {
                    other.address = listener.address;
                }
                for pair in listener.certificates {
                    if !other
                        .certificates
                        .iter()
                        .any(|(chain, key, _)| *chain == pair.0 && *key == pair.1)
                    {
                        other.certificates.push(pair);
                    }
                }
                continue;
            }
            report.lost(
                listener.place,
                format!(
                    "{} cannot be open beside {}",
                    printable(&listener.address.to_string()),
                    printable(&other.address.to_string())
                ),
                "Remora has one listener at an address, which leads to the one cluster with one set of rules: give one of them another port, or merge them",
            );
        }
    }
    let without_v4 = |(_, _, mut listener): (Kind, String, Listener)| {
        if listener.only_v6 && listener.address.is_any() {
            listener
                .settings
                .push(Setting::new("deny", list(["0.0.0.0/0"]), listener.place));
        }
        listener
    };
    found.into_iter().map(without_v4).collect()
}

/// Rules on requests mean nothing where there are none.
fn only_of_ws(listener: &mut Listener, kind: Kind, report: &mut Report) {
    listener.settings.retain(|setting| {
        let is_kept = kind == Kind::Ws || !["paths", "origins"].contains(&setting.key);
        if !is_kept {
            report.lost(
                setting.place,
                format!(
                    "{} is no listener for WebSocket, and has no {}",
                    printable(&listener.address.to_string()),
                    setting.key
                ),
                "look whether the rule was meant for another listener",
            );
        }
        is_kept
    });
}

/// A time that the original gives the CONNECT alone is too short for TLS as well.
fn handshake_time(listener: &mut Listener, report: &mut Report) {
    /// What Remora has by default where TLS ends.
    const DEFAULT: u64 = 15_000;
    if !listener
        .settings
        .iter()
        .any(|setting| setting.key == "tls" && setting.toml == "\"end\"")
    {
        return;
    }
    listener.settings.retain(|setting| {
        let ms = haproxy_time(setting.toml.trim_matches('"'), 1).unwrap_or(DEFAULT);
        let is_shorter = setting.key == "connect_timeout" && ms < DEFAULT;
        if is_shorter {
            report.differs(
                setting.place,
                format!(
                    "where TLS ends, the time for the CONNECT runs over the handshake as well: 15s instead of {}",
                    duration(ms)
                ),
                "write connect_timeout to the listener for another time",
            );
        }
        !is_shorter
    });
}

/// Leaves out listeners that Remora refuses: without a certificate, which is reported already, or at the address of a node.
pub(super) fn leave_out(listeners: &mut Vec<Listener>, nodes: &[Node], report: &mut Report) {
    let ends_tls = |listener: &Listener| {
        listener
            .settings
            .iter()
            .any(|setting| setting.key == "tls" && setting.toml == "\"end\"")
    };
    listeners.retain(|listener| !(ends_tls(listener) && listener.certificates.is_empty()));
    let servers = || {
        nodes
            .iter()
            .flat_map(|node| [Some(&node.mqtt), node.ws.as_ref(), node.pass.as_ref()])
            .flatten()
    };
    let addresses: Vec<SocketAddr> = servers()
        .filter_map(|server| {
            Some(SocketAddr::new(
                server.host.parse::<IpAddr>().ok()?,
                server.port.number()?,
            ))
        })
        .collect();
    listeners.retain(|listener| {
        let at = &listener.address;
        let leads_back = addresses.iter().find(|node| {
            let everywhere = at.is_any() && node.ip().is_loopback();
            at.port.number() == Some(node.port()) && (everywhere || at.ip() == Some(node.ip()))
        });
        if let Some(node) = leads_back {
            report.lost(
                listener.place,
                format!("a listener at {at} would lead back to itself, since a node is at {node}; it is left out"),
                "give the listener or the node another port",
            );
        }
        leads_back.is_none()
    });
    let mut names = BTreeSet::new();
    for listener in listeners {
        listener.name = listener.name.take().filter(|name| names.insert(name.clone()));
    }
}

/// The lists `allow` and `deny` of a listener, and a report of what they cannot say.
pub(super) fn networks(rules: &[Rule<Place>], settings: &mut Vec<Setting>, report: &mut Report) {
    let lists = lists(rules);
    for (key, rules) in [("allow", &lists.allow), ("deny", &lists.deny)] {
        let nets: Vec<String> = rules
            .iter()
            .filter_map(|rule| rule.net.as_ref().map(network_text))
            .collect();
        if let Some(first) = rules.first() {
            settings.push(Setting::new(key, list(nets), first.from));
        }
    }
    for rule in &lists.lost {
        report.lost(
            rule.from,
            "an exception from a network that is refused: here, `deny` goes before `allow`, so these clients are refused as well",
            "divide the refused network into parts without the exception, in `deny`",
        );
    }
    for rule in &lists.unreached {
        report.unneeded(rule.from, "rule", "an earlier rule has decided for every address");
    }
    if let (true, Some(rule)) = (
        lists.refuses_all,
        rules.iter().find(|rule| !rule.is_allowed && rule.net.is_none()),
    ) {
        settings.push(Setting::new("deny", list(["0.0.0.0/0", "::/0"]), rule.from));
    }
}
