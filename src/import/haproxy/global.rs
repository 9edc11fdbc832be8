//! `global`, `resolvers` and other sections that are no proxies.

use std::net::{IpAddr, SocketAddr};

use crate::import::environment;
use crate::import::haproxy::bind::{self, set};
use crate::import::haproxy::context::Context;
use crate::import::haproxy::server;
use crate::import::haproxy::syntax::{Line, Section, Word};
use crate::import::text::{list, printable};

/// What `global` says of all proxies.
#[derive(Clone, Default)]
pub(super) struct Global {
    pub(super) binds: bind::Bases,
    pub(super) servers: server::Bases,
}

impl Global {
    pub(super) fn read(&mut self, section: &Section, context: &mut Context) {
        for line in &section.lines {
            self.line(line, context);
        }
    }

    fn line(&mut self, line: &Line, context: &mut Context) {
        let place = line.place();
        let report = &mut context.report;
        match line.word(0) {
            "maxconn" => match line.word(1).parse::<u64>() {
                Ok(most @ 1..=100_000_000) => set(context, "limits", "connections", most.to_string(), place),
                _ => context.unreadable(place, line.word(1), "a number of connections"),
            },
            "nbthread" | "nbproc" => match line.word(1).parse::<u32>() {
                Ok(count @ 1..=1024) => set(context, "", "workers", count.to_string(), place),
                _ => context.unreadable(place, line.word(1), "a number of threads"),
            },
            "maxsslconn" => match line.word(1).parse::<u64>() {
                Ok(_) => report.differs(
                    place,
                    "TLS connections are not limited apart from others",
                    "limits.handshakes bounds those in their handshake, limits.connections all",
                ),
                Err(_) => context.unreadable(place, line.word(1), "a number of connections"),
            },
            "maxconnrate" | "maxsessrate" | "maxsslrate" => report.lost(
                place,
                format!("{}: the rate of all new connections is not limited", line.word(0)),
                "pacing.connects_per_second limits CONNECTs to each node, and makes clients wait",
            ),
            "crt-base" => {
                line.word(1).clone_into(&mut self.binds.crt);
                line.word(1).clone_into(&mut self.servers.crt);
            }
            "ca-base" => {
                line.word(1).clone_into(&mut self.binds.ca);
                line.word(1).clone_into(&mut self.servers.ca);
            }
            "ssl-default-bind-options" => {
                let mut words = line.rest(1).iter();
                while let Some(word) = words.next() {
                    let text = match &*word.text {
                        "ssl-min-ver" | "ssl-max-ver" => {
                            format!("{} {}", word.text, words.next().map_or("", |word| &word.text))
                        }
                        text => text.to_owned(),
                    };
                    self.binds.options.push(Word { text, place });
                }
            }
            "ssl-default-bind-ciphers" | "ssl-default-bind-ciphersuites" => self.binds.ciphers.push(line.clone()),
            "ssl-server-verify" => {
                self.servers.verifies_none = line.word(1) == "none";
                report.unneeded(
                    place,
                    line.word(0),
                    "each node with TLS says whether its certificate is verified",
                );
            }
            "stats" => report.differs(
                place,
                format!(
                    "stats {}: HAProxy's commands are not understood",
                    printable(line.word(1))
                ),
                "`remora ctl` shows nodes and clients, drains and weighs, on a socket of its own; see docs/control.md",
            ),
            "hard-stop-after" | "grace" | "close-spread-time" => report.differs(
                place,
                "a reload ends no connection, and keeps no old process; an end drains at a rate",
                "drain.rate and drain.grace say how fast connections are closed at an end",
            ),
            "log" => report.differs(
                place,
                "lines go to standard output, for the journal or a pipe, and not to syslog",
                "see docs/logs.md",
            ),
            "log-send-hostname" | "log-tag" => {
                report.unneeded(place, line.word(0), "the journal knows the machine and the service")
            }
            "daemon"
            | "user"
            | "group"
            | "uid"
            | "gid"
            | "chroot"
            | "pidfile"
            | "node"
            | "description"
            | "ulimit-n"
            | "master-worker"
            | "mworker-max-reloads"
            | "fd-hard-limit"
            | "unix-bind"
            | "localpeer"
            | "default-path"
            | "setenv"
            | "presetenv"
            | "unsetenv"
            | "set-dumpable"
            | "strict-limits"
            | "no"
            | "insecure-fork-wanted"
            | "insecure-setuid-wanted"
            | "external-check"
            | "cluster-secret"
            | "setcap"
            | "harden.reject-privileged-ports.tcp" => {
                report.unneeded(
                    place,
                    line.word(0),
                    "the service manager does that: config/remora.service is a unit for systemd",
                );
            }
            "cpu-map"
            | "thread-groups"
            | "thread-group"
            | "numa-cpu-mapping"
            | "cpu-policy"
            | "cpu-set"
            | "busy-polling"
            | "spread-checks"
            | "max-spread-checks"
            | "maxpipes"
            | "nosplice"
            | "nopoll"
            | "noepoll"
            | "nokqueue"
            | "noevports"
            | "noreuseport"
            | "nogetaddrinfo"
            | "ssl-engine"
            | "ssl-mode-async"
            | "profiling.tasks"
            | "profiling.memory"
            | "expose-experimental-directives"
            | "h1-case-adjust"
            | "h1-case-adjust-file"
            | "h2-workaround-bogus-websocket-clients"
            | "pp2-never-send-local"
            | "server-state-file"
            | "server-state-base"
            | "issuers-chain-path"
            | "ssl-load-extra-files"
            | "ssl-load-extra-del-ext"
            | "ssl-dh-param-file"
            | "ssl-default-server-options"
            | "ssl-default-server-ciphers"
            | "ssl-default-server-ciphersuites"
            | "ssl-default-bind-curves"
            | "ssl-default-bind-sigalgs"
            | "ssl-skip-self-issued-ca"
            | "ssl-propquery"
            | "ssl-provider"
            | "ssl-provider-path"
            | "ssl-security-level"
            | "zero-warning"
            | "limited-quic"
            | "quiet"
            | "debug"
            | "deviceatlas-json-file"
            | "wurfl-data-file"
            | "51degrees-data-file"
            | "anonkey"
            | "warn-blocked-traffic-after" => {
                report.unneeded(place, line.word(0), "Remora looks after that by itself");
            }
            "resetenv" => report.lost(
                place,
                "resetenv: which variables are set where HAProxy starts is not known",
                "variables in the result are those of the environment where Remora starts: set these, and no others",
            ),
            word if word.starts_with("tune.") => report.unneeded(
                place,
                word,
                "Remora has no such buffers and queues; see docs/operations.md on sizing",
            ),
            word if word.starts_with("lua-") => report.lost(
                place,
                format!("{}: scripts are not run", printable(word)),
                "Remora reads the client id itself; other decisions are the nodes'",
            ),
            word => report.lost(
                place,
                format!("{} is unknown in global", printable(word)),
                "look up what it does in HAProxy's manual",
            ),
        }
    }
}

/// `resolvers`: how often names are resolved, and by whom where nodes are looked for.
pub(super) fn resolvers(section: &Section, context: &mut Context) {
    let mut servers = Vec::new();
    for line in &section.lines {
        let place = line.place();
        match (line.word(0), line.word(1)) {
            ("hold", "valid") => {
                context.time("health", "resolve_interval", line, 2, 1);
            }
            ("nameserver", _) => {
                let address = line.word(2).trim_start_matches("udp@").trim_start_matches("tcp@");
                let is_address = |text: &str| text.parse::<SocketAddr>().is_ok() || text.parse::<IpAddr>().is_ok();
                // A port and an address are right in the place of these.
                if ["1", "10.0.0.1"]
                    .iter()
                    .any(|value| is_address(&environment::filled(address, value)))
                    || environment::is_whole(address)
                {
                    servers.push((address.to_owned(), place));
                }
                context.report.unneeded(
                    place,
                    "nameserver",
                    "the system resolves the names of nodes; discovery.name_servers are those that are asked for nodes",
                );
            }
            ("hold" | "parse-resolv-conf" | "resolve_retries" | "timeout" | "accepted_payload_size", _) => {
                context
                    .report
                    .unneeded(place, line.word(0), "the system resolves the names of nodes");
            }
            (word, _) => context.report.lost(
                place,
                format!("{} is unknown in resolvers", printable(word)),
                "look up what it does in HAProxy's manual",
            ),
        }
    }
    if context.draft.has("discovery", "name")
        && let Some((_, place)) = servers.first()
    {
        let place = *place;
        let addresses: Vec<String> = servers.into_iter().map(|(address, _)| address).collect();
        set(context, "discovery", "name_servers", list(addresses), place);
    }
}

/// Sections that mean nothing here, or that are lost as a whole.
pub(super) fn other(section: &Section, context: &mut Context) {
    let place = section.head.place();
    let report = &mut context.report;
    match section.kind() {
        "peers" => report.differs(
            place,
            "tables are not shared: every balancer with the same nodes and seed takes a client to the same node",
            "what a balancer remembers besides are clients off their home; see docs/operations.md on several balancers",
        ),
        "userlist" | "cache" | "http-errors" | "mailers" | "fcgi-app" | "traces" | "log-profile" => {
            report.unneeded(place, section.kind(), "it is about HTTP, mail or logs of HAProxy");
        }
        "program" => report.lost(
            place,
            "other programs are not started",
            "let the service manager start it",
        ),
        "ring" | "log-forward" => report.lost(
            place,
            "logs of other programs are not forwarded",
            "keep HAProxy, or a syslog server, for it",
        ),
        kind => report.lost(
            place,
            format!("the section {} is not read", printable(kind)),
            "write the certificates' files to `certificates` of the listener",
        ),
    }
}
