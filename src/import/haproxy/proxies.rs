//! `frontend`, `backend` and `listen`: listeners, and the nodes that they lead to.

use std::collections::{BTreeMap, BTreeSet};

use crate::import::address::Port;
use crate::import::files::Files;
use crate::import::haproxy::bind;
use crate::import::haproxy::check::check;
use crate::import::haproxy::context::Context;
use crate::import::haproxy::global::Global;
use crate::import::haproxy::requests::only_these;
use crate::import::haproxy::rules::{Rules, expect_tls, periods};
use crate::import::haproxy::server;
use crate::import::haproxy::statement::{self, Side};
use crate::import::haproxy::syntax::{Line, Section};
use crate::import::haproxy::terms::{self, Acls, Condition, Test};
use crate::import::model::{Kind, Listener, Server, Service, Setting, is_path};
use crate::import::text::{Place, list, printable, quoted};

/// The ports on which EMQX has TLS, those on which it has WebSocket, and those of its dashboard.
const PORTS_OF_TLS: [u16; 2] = [8883, 8084];
const PORTS_OF_WS: [u16; 2] = [8083, 8084];
const PORTS_OF_HTTP: [u16; 2] = [18083, 18084];

/// All proxies of a configuration.
pub(super) struct Proxies<'s> {
    sections: &'s [Section],
    /// The `defaults` that each section inherits from, the outermost first.
    inherited: Vec<Vec<usize>>,
    /// How long the counters of each table count.
    periods: BTreeMap<String, u64>,
    reached: BTreeSet<usize>,
}

/// Paths that lead to a backend, and the line that says so.
struct Paths {
    paths: Vec<String>,
    are_prefixes: bool,
    place: Place,
}

impl Paths {
    fn new(paths: &[String], are_prefixes: bool, line: &Line) -> Option<Self> {
        let is_every = are_prefixes && paths.iter().any(|path| path == "/");
        let is_right = !is_every && paths.iter().all(|path| is_path(path));
        is_right.then(|| Self {
            paths: paths.to_vec(),
            are_prefixes,
            place: line.place(),
        })
    }

    /// The key of a listener.
    fn setting(self, context: &mut Context) -> Setting {
        if self.are_prefixes {
            only_these(self.place, context);
        }
        Setting::new("paths", list(self.paths), self.place)
    }
}

/// Statements of a section, with those of its defaults before.
struct Proxy<'s> {
    section: &'s Section,
    lines: Vec<&'s Line>,
    acls: Acls,
    /// What `set-var` sets.
    variables: BTreeMap<String, String>,
    /// Where each statement of one value is for the last time.
    singles: BTreeMap<(&'s str, &'s str), Place>,
}

impl<'s> Proxy<'s> {
    fn last(&self, word: &str) -> Option<&'s Line> {
        self.lines.iter().rev().find(|line| line.word(0) == word).copied()
    }

    fn is_http(&self) -> bool {
        self.last("mode").is_some_and(|line| line.word(1) == "http")
    }

    /// Whether a later line says something else instead, as a section does of its defaults; says so.
    fn overrides(&self, line: &Line, context: &mut Context) -> bool {
        let Some(key) = statement::single(line) else {
            return false;
        };
        let place = line.place();
        let is_overridden = self.singles.get(&key).is_some_and(|last| *last != place);
        if is_overridden {
            let what = format!("{} {}", line.word(0), line.word(1));
            let why = format!("another one holds in {}", printable(self.section.name()));
            context.report.unneeded(place, &what, why);
        }
        is_overridden
    }

    fn has(&self, words: &[&str]) -> bool {
        let is = |line: &&&Line| words.iter().enumerate().all(|(index, word)| line.word(index) == *word);
        self.lines.iter().find(is).is_some()
    }
}

impl<'s> Proxies<'s> {
    pub(super) fn new(sections: &'s [Section], context: &mut Context) -> Self {
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        let mut last = None;
        let mut inherited: Vec<Vec<usize>> = Vec::new();
        for (index, section) in sections.iter().enumerate() {
            let is_proxy = matches!(section.kind(), "frontend" | "backend" | "listen");
            let from = match section.from() {
                Some(name) => {
                    let found = named.get(name).copied();
                    if found.is_none() {
                        context.report.lost(
                            section.head.place(),
                            format!("there are no defaults called {} before this", printable(name)),
                            "write them, or take `from` out",
                        );
                    }
                    found
                }
                // Of `defaults`, only those that say so inherit from others.
                None if is_proxy => last,
                None => None,
            };
            let mut chain = from.map_or(Vec::new(), |from| inherited[from].clone());
            chain.extend(from);
            inherited.push(chain);
            if section.kind() == "defaults" {
                last = Some(index);
                if !section.name().is_empty() {
                    named.insert(section.name(), index);
                }
            }
        }
        Self {
            sections,
            inherited,
            periods: periods(sections),
            reached: BTreeSet::new(),
        }
    }

    fn proxy(&self, index: usize) -> Proxy<'s> {
        let sections = self.sections;
        let chain = self.inherited[index].iter().chain([&index]);
        let lines: Vec<&Line> = chain.flat_map(|index| &sections[*index].lines).collect();
        let mut acls = Acls::default();
        let mut variables = BTreeMap::new();
        for line in &lines {
            if line.word(0) == "acl" {
                acls.add(&line.words);
            }
            for (at, word) in line.words.iter().enumerate() {
                let inner = word
                    .text
                    .strip_prefix("set-var(")
                    .and_then(|rest| rest.strip_suffix(')'));
                if let Some(name) = inner {
                    let name = name.split(',').next().unwrap_or_default().to_ascii_lowercase();
                    variables.insert(name, line.word(at + 1).to_owned());
                }
            }
        }
        let singles = lines
            .iter()
            .filter_map(|line| Some((statement::single(line)?, line.place())));
        let singles = singles.collect();
        Proxy {
            singles,
            section: &sections[index],
            lines,
            acls,
            variables,
        }
    }

    /// Reads all of them.
    pub(super) fn read(&mut self, global: &Global, files: &dyn Files, context: &mut Context) {
        for index in 0..self.sections.len() {
            if matches!(self.sections[index].kind(), "frontend" | "listen") {
                self.frontend(index, global, files, context);
            }
        }
        let inherited: BTreeSet<usize> = self.inherited.iter().flatten().copied().collect();
        for (index, section) in self.sections.iter().enumerate() {
            if section.kind() == "defaults" && !inherited.contains(&index) {
                let place = section.head.place();
                context
                    .report
                    .unneeded(place, "defaults", "no section inherits from it");
            }
            if section.kind() == "backend" && !self.reached.contains(&index) {
                context.report.unneeded(
                    section.head.place(),
                    "backend",
                    "no listener that was carried over leads to it",
                );
            }
        }
    }

    fn frontend(&mut self, index: usize, global: &Global, files: &dyn Files, context: &mut Context) {
        let front = self.proxy(index);
        let place = front.section.head.place();
        let name = printable(front.section.name());
        if self.is_statistics(&front, context) {
            return;
        }
        let (back_index, paths) = match self.backend(index, &front, context) {
            Some(found) => found,
            None => return,
        };
        self.reached.insert(back_index);
        let back = self.proxy(back_index);
        let binds: Vec<&Line> = front
            .section
            .lines
            .iter()
            .filter(|line| line.word(0) == "bind")
            .collect();
        let binds: Vec<bind::Bind> = binds
            .into_iter()
            .map(|line| bind::read(line, &global.binds, files, context))
            .collect();
        let ports: BTreeSet<&Port> = binds
            .iter()
            .flat_map(|bind| &bind.listeners)
            .map(|listener| &listener.address.port)
            .collect();
        let ports: Vec<&Port> = ports.into_iter().collect();
        let port = match ports[..] {
            [] => Some(Port::Number(1883)),
            [port] => Some(port.clone()).filter(|port| *port != Port::InHost),
            _ => None,
        };
        let found = server::read(&back.lines, port.as_ref(), &global.servers, context);
        let mut servers = found.servers;
        let all_at = |ports: &[u16]| !servers.is_empty() && servers.iter().all(|server| is_at(server, ports));
        if servers.is_empty() {
            context.report.lost(
                back.section.head.place(),
                format!("{} has no node that Remora can reach", printable(back.section.name())),
                "write its nodes to [[nodes]]",
            );
            return;
        }
        if all_at(&PORTS_OF_HTTP) {
            context.report.lost(
                place,
                format!("{name} leads to EMQX's dashboard, which is HTTP and not MQTT"),
                "keep HAProxy for it, or use the dashboard of one node",
            );
            return;
        }
        let has_tls = binds.iter().any(|bind| bind.has_tls);
        let to_tls = servers.iter().any(|server| server.has_tls);
        let expects_tls = expect_tls(&front.lines, &front.acls) || expect_tls(&back.lines, &back.acls);
        let kind = match (front.is_http() || back.is_http(), has_tls || to_tls) {
            (true, _) => Kind::Ws,
            (false, false) if all_at(&PORTS_OF_TLS) || expects_tls => Kind::Pass,
            (false, _) if all_at(&PORTS_OF_WS) => Kind::Ws,
            (false, _) => Kind::Mqtt,
        };
        if kind == Kind::Ws && front.is_http() && !is_websocket(&front, &back, &paths, &all_at) {
            context.report.lost(
                place,
                format!("{name} is HTTP, and nothing says that it is WebSocket with MQTT"),
                "keep HAProxy for it; if it is MQTT, add a [[listeners]] with transport = \"ws\", and `ws` to the nodes",
            );
            return;
        }
        match kind {
            Kind::Pass => context.report.differs(
                place,
                "TLS is passed on to the nodes: clients are tied to them by their addresses, since the client id is inside TLS",
                "for the client id, let TLS end here: tls = \"end\" with certificates",
            ),
            Kind::Ws if !front.is_http() => context.report.differs(
                place,
                "port 8083 or 8084 of the nodes is WebSocket: Remora answers upgrades itself, for /mqtt",
                "list other paths in `paths`",
            ),
            Kind::Ws if paths.is_none() => context.report.differs(
                place,
                "every path was passed on; Remora serves those in `paths`: /mqtt is EMQX's own",
                "list further paths in `paths`",
            ),
            Kind::Mqtt if servers.iter().any(|server| server.port.number().is_none()) => context.report.differs(
                place,
                "which of the nodes' listeners a variable leads to is not known: it is taken for MQTT without TLS",
                "for another one, write `ws` or `pass` of the nodes in the place of `address`, and transport or tls of the listener",
            ),
            _ => {}
        }
        let mut settings: Vec<Setting> = Vec::new();
        if let Some(paths) = paths.filter(|_| kind == Kind::Ws) {
            settings.push(paths.setting(context));
        }
        let is_passed = kind == Kind::Pass;
        let name = front.section.name();
        let mut rules = Rules::new(&front.acls, &front.variables, &self.periods, name, is_passed);
        for line in &front.lines {
            rules.track(line);
        }
        let is_same = index == back_index;
        let tunnels = front.has(&["timeout", "tunnel"]) || back.has(&["timeout", "tunnel"]);
        for line in &front.lines {
            let side = if is_same { Side::Both } else { Side::Front };
            if !front.overrides(line, context) && !rules.rule(line, &mut settings, context) {
                statement::read(line, side, tunnels, context);
            }
        }
        rules.finish(&mut settings, context);
        if !is_same {
            let name = back.section.name();
            let mut rules = Rules::new(&back.acls, &back.variables, &self.periods, name, is_passed);
            let mut own = Vec::new();
            for line in &back.lines {
                rules.track(line);
            }
            for line in &back.lines {
                if !back.overrides(line, context) && !rules.rule(line, &mut own, context) {
                    statement::read(line, Side::Back, tunnels, context);
                }
            }
            rules.finish(&mut own, context);
            add_rules(&mut settings, own, context);
        }
        self.affinity(kind, &front, &back, context);
        check(
            &back.lines,
            &mut servers,
            (found.check, found.interval, found.port),
            context,
        );
        let mut listeners: Vec<Listener> = binds.into_iter().flat_map(|bind| bind.listeners).collect();
        settings.extend(most(&front, &listeners, context));
        for listener in &mut listeners {
            listener.settings.extend(settings.iter().cloned());
        }
        context.draft.add(Service {
            kind,
            pool: back.section.name().to_owned(),
            place,
            servers,
            listeners,
        });
    }

    /// Whether a section only shows what HAProxy does; says what becomes of it.
    fn is_statistics(&self, front: &Proxy<'s>, context: &mut Context) -> bool {
        let own = &front.section.lines;
        let place = front.section.head.place();
        let has_way = own.iter().any(|line| {
            matches!(
                line.word(0),
                "server" | "server-template" | "use_backend" | "default_backend"
            )
        });
        let exports = own
            .iter()
            .find(|line| line.words.iter().any(|word| word.text == "prometheus-exporter"));
        let is_stats = own.iter().any(|line| line.word(0) == "stats");
        if has_way || exports.is_none() && !is_stats {
            return false;
        }
        context.report.lost(
            place,
            format!("{} shows HAProxy's statistics", printable(front.section.name())),
            "Remora's metrics for Prometheus are /metrics at admin.address (127.0.0.1:9883), with other names: see docs/metrics.md; `remora ctl` shows the rest",
        );
        true
    }

    /// The backend that clients of MQTT are taken to, and the paths that lead there.
    fn backend(&mut self, index: usize, front: &Proxy<'s>, context: &mut Context) -> Option<(usize, Option<Paths>)> {
        let place = front.section.head.place();
        let find = |name: &str| {
            let is_it = |section: &Section| matches!(section.kind(), "backend" | "listen") && section.name() == name;
            self.sections.iter().position(is_it)
        };
        let mut chosen: Option<(&Line, Option<Paths>)> = None;
        let mut others = Vec::new();
        for line in front.lines.iter().copied().filter(|line| line.word(0) == "use_backend") {
            let condition = front.acls.condition(line.rest(2));
            let found = match &condition {
                Condition::Always => Some(None),
                Condition::All(terms) => {
                    let is_of_ws = |test: &Test| matches!(test, Test::Upgrade | Test::Path { .. });
                    let paths = terms.iter().find_map(|term| match &term.test {
                        Test::Path { paths, are_prefixes } if !term.is_negated => {
                            Paths::new(paths, *are_prefixes, line)
                        }
                        _ => None,
                    });
                    let are_of_ws = terms.iter().all(|term| !term.is_negated && is_of_ws(&term.test));
                    are_of_ws.then_some(paths)
                }
                Condition::Other => None,
            };
            match (found, &chosen) {
                (Some(paths), None) => chosen = Some((line, paths)),
                _ => others.push(line),
            }
        }
        let default = front.last("default_backend");
        let own = front.section.kind() == "listen"
            && front
                .section
                .lines
                .iter()
                .any(|line| line.word(0).starts_with("server"));
        let (line, paths) = match (chosen, default) {
            (Some((line, paths)), default) => {
                others.extend(default.filter(|default| default.word(1) != line.word(1)));
                (line, paths)
            }
            (None, _) if own => {
                self.report_others(&others, context);
                return Some((index, None));
            }
            (None, Some(default)) => (default, None),
            (None, None) => {
                context.report.lost(
                    place,
                    format!("{} leads to no backend", printable(front.section.name())),
                    "keep HAProxy for it",
                );
                self.report_others(&others, context);
                return None;
            }
        };
        others.retain(|other| other.word(1) != line.word(1));
        self.report_others(&others, context);
        let name = line.word(1);
        let found = find(name);
        if found.is_none() {
            let advice = "Remora has one cluster; write the nodes of that backend to [[nodes]]";
            context.report.lost(
                line.place(),
                format!("there is no backend called {}", printable(name)),
                advice,
            );
        }
        Some((found?, paths))
    }

    fn report_others(&self, others: &[&Line], context: &mut Context) {
        for line in others {
            context.report.lost(
                line.place(),
                format!(
                    "some clients go to {}: Remora has one cluster, and serves nothing but MQTT",
                    printable(line.word(1))
                ),
                "run a Remora for each cluster; keep HAProxy, or another port, for HTTP",
            );
        }
    }

    /// What ties a client to a node.
    fn affinity(&self, kind: Kind, front: &Proxy<'s>, back: &Proxy<'s>, context: &mut Context) {
        let variables: BTreeMap<String, String> = front
            .variables
            .iter()
            .chain(&back.variables)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let sticks = back
            .lines
            .iter()
            .rev()
            .find(|line| line.word(0) == "stick" && matches!(line.word(1), "on" | "match" | "store-request"));
        let balance = back.last("balance");
        let mut said = false;
        let mut take = |line: &Line, expression: &str, context: &mut Context| {
            said = true;
            match terms::meaning(expression, &variables) {
                Some("client_address") if kind == Kind::Pass => {
                    let why = "where TLS is passed on, clients are tied to nodes by their addresses anyway";
                    context.report.unneeded(line.place(), line.word(0), why);
                }
                Some(key) => {
                    bind::set(context, "affinity", "key", quoted(key), line.place());
                    context.report.differs(
                        line.place(),
                        "the ring is another one: most clients move to another node, once",
                        "move them in small steps: see the checklist in docs/from-haproxy.md",
                    );
                }
                None => context.report.lost(
                    line.place(),
                    format!(
                        "clients are not tied to nodes by {}: the client id is used",
                        printable(expression)
                    ),
                    "affinity.key may be \"client_id\", \"username\", \"client_address\" or \"certificate_cn\"",
                ),
            }
        };
        if let Some(line) = sticks {
            take(line, line.word(2), context);
            if let Some(balance) = balance {
                context
                    .report
                    .unneeded(balance.place(), "balance", "the ring chooses a node for each client");
            }
            return;
        }
        let Some(line) = balance else {
            let servers = back
                .section
                .lines
                .iter()
                .filter(|line| line.word(0).starts_with("server"));
            if servers.count() > 1 {
                context.report.differs(
                    back.section.head.place(),
                    "clients go to their own node by client id, and not to one after the other",
                    "for clients without a lasting session, write clean_sessions = \"least\" in [affinity]; load_max bounds what a node gets",
                );
            }
            return;
        };
        match line.word(1) {
            "hash" => take(line, line.word(2), context),
            "source" => take(line, "src", context),
            "url_param" | "hdr" => take(line, &format!("{}({})", line.word(1), line.word(2)), context),
            word if word.starts_with("url_param(") || word.starts_with("hdr(") => take(line, word, context),
            "roundrobin" | "static-rr" | "leastconn" | "random" => {}
            word if word.starts_with("random(") => {}
            word => take(line, word, context),
        }
        if !said {
            context.report.differs(
                line.place(),
                format!("{}: clients go to their own node by client id", printable(line.word(1))),
                "for clients without a lasting session, write clean_sessions = \"least\" in [affinity]; load_max bounds what a node gets",
            );
        }
    }
}

/// Whether the port of a node is one of these.
fn is_at(server: &Server, ports: &[u16]) -> bool {
    server.port.number().is_some_and(|port| ports.contains(&port))
}

/// Adds the rules of a backend to those of its frontend: both hold.
fn add_rules(settings: &mut Vec<Setting>, own: Vec<Setting>, context: &mut Context) {
    for setting in own {
        let is_there = settings
            .iter()
            .any(|other| other.key == setting.key && other.place != setting.place);
        // What both deny is denied; of anything else, a listener has one.
        match is_there && setting.key != "deny" {
            true => context.report.lost(
                setting.place,
                format!("the frontend has other rules that make {} of the listener", setting.key),
                "write what both of them let through",
            ),
            false => settings.push(setting),
        }
    }
}

/// The limit of a whole frontend, if it has one listener.
fn most(front: &Proxy<'_>, listeners: &[Listener], context: &mut Context) -> Option<Setting> {
    let line = front.last("maxconn")?;
    let place = line.place();
    let Ok(most) = line.word(1).parse::<u64>() else {
        context.unreadable(place, line.word(1), "a number of connections");
        return None;
    };
    let [listener] = listeners else {
        context.report.lost(
            place,
            "a limit for several listeners together",
            "write connections_max to each of them, or limits.connections for all",
        );
        return None;
    };
    let has_own = listener.settings.iter().any(|setting| setting.key == "connections_max");
    if has_own || !(1..=100_000_000).contains(&most) {
        return None;
    }
    context.report.differs(
        place,
        "clients beyond maxconn do not wait until there is room: they are refused",
        "",
    );
    Some(Setting::new("connections_max", most.to_string(), place))
}

/// Whether a proxy for HTTP is one for MQTT over WebSocket.
fn is_websocket(front: &Proxy<'_>, back: &Proxy<'_>, paths: &Option<Paths>, all_at: &dyn Fn(&[u16]) -> bool) -> bool {
    let tunnels = |proxy: &Proxy<'_>| {
        proxy
            .section
            .lines
            .iter()
            .any(|line| line.word(0) == "timeout" && line.word(1) == "tunnel")
    };
    let by_id = back.last("balance").is_some_and(|line| {
        line.words
            .iter()
            .any(|word| word.text.to_ascii_lowercase().replace('_', "").contains("clientid"))
    });
    let by_upgrade = front.lines.iter().any(|line| {
        let is_its = line.word(0) == "use_backend" && line.word(1) == back.section.name();
        is_its
            && match front.acls.condition(line.rest(2)) {
                Condition::All(terms) => terms.iter().any(|term| !term.is_negated && term.test == Test::Upgrade),
                _ => false,
            }
    });
    by_upgrade || paths.is_some() || all_at(&PORTS_OF_WS) || tunnels(front) || tunnels(back) || by_id
}
