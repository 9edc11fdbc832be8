//! `tcp-request`, `http-request` and the tables that they count in.

use std::collections::BTreeMap;

use ipnet::IpNet;

use crate::import::environment;
use crate::import::haproxy::bind::set;
use crate::import::haproxy::context::Context;
use crate::import::haproxy::syntax::{Line, Section};
use crate::import::haproxy::terms::{self, Acls, Condition, Counted, Counter, Term, Test};
use crate::import::listeners;
use crate::import::model::Setting;
use crate::import::text::{Place, list, printable, quoted};
use crate::import::units::{Rule, duration, haproxy_time, network_text};

/// How long the counter of connections counts in each table, in milliseconds; 0 in one without that counter.
pub(super) fn periods(sections: &[Section]) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for section in sections {
        for line in &section.lines {
            let name = match (section.kind(), line.word(0)) {
                ("peers", "table") => format!("{}/{}", section.name(), line.word(1)),
                (_, "stick-table") => section.name().to_owned(),
                _ => continue,
            };
            let stores = line.words.iter().flat_map(|word| word.text.split(','));
            let period = stores
                .filter_map(|store| store.strip_prefix("conn_rate(")?.strip_suffix(')'))
                .find_map(|text| haproxy_time(text, 1));
            found.insert(name, period.unwrap_or(0));
        }
    }
    found
}

/// Why it is no loss that something else than MQTT, or than TLS, is refused.
const NOTHING_ELSE: &str = "what does not begin with a CONNECT, or a ClientHello where TLS is expected, is closed";

/// Whether the rules let nothing but TLS through, by its ClientHello.
pub(super) fn expect_tls(lines: &[&Line], acls: &Acls) -> bool {
    let is_such = |line: &&Line| {
        let is_refusal = match line.word(2) {
            "reject" | "silent-drop" => true,
            "accept" => false,
            _ => return false,
        };
        let is_content = line.word(0) == "tcp-request" && line.word(1) == "content";
        is_content && acls.condition(line.rest(3)) == Condition::only(Test::IsTls, is_refusal)
    };
    lines.iter().any(is_such)
}

/// What a counter counts by.
#[derive(Clone, Debug)]
struct Tracked {
    key: Option<&'static str>,
    table: Option<String>,
}

/// The rules of a proxy, read one after the other.
pub(super) struct Rules<'a> {
    pub(super) acls: &'a Acls,
    variables: &'a BTreeMap<String, String>,
    periods: &'a BTreeMap<String, u64>,
    /// The section, which may have a table of its own.
    section: &'a str,
    /// TLS is passed on to the nodes: the content is a ClientHello, and no CONNECT.
    passes_tls: bool,
    /// A rule has accepted whatever is MQTT, or TLS: those behind it are for nothing else.
    has_accepted: bool,
    tracked: BTreeMap<u8, Tracked>,
    addresses: Vec<Rule<Place>>,
    /// Networks outside of which nobody may connect.
    required: Option<(Vec<IpNet>, Place)>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(
        acls: &'a Acls,
        variables: &'a BTreeMap<String, String>,
        periods: &'a BTreeMap<String, u64>,
        section: &'a str,
        passes_tls: bool,
    ) -> Self {
        Self {
            acls,
            variables,
            periods,
            section,
            passes_tls,
            has_accepted: false,
            tracked: BTreeMap::new(),
            addresses: Vec::new(),
            required: None,
        }
    }

    /// Remembers what a counter counts by; it may be used in a line before.
    pub(super) fn track(&mut self, line: &Line) {
        let Some(at) = line.words.iter().position(|word| word.text.starts_with("track-sc")) else {
            return;
        };
        let number = line.word(at).trim_start_matches("track-sc").trim_matches(['(', ')']);
        let Ok(number) = number.parse() else {
            return;
        };
        let rest = line.rest(at + 1);
        let table = rest
            .iter()
            .position(|word| word.text == "table")
            .and_then(|at| rest.get(at + 1));
        let tracked = Tracked {
            key: terms::meaning(line.word(at + 1), self.variables),
            table: table.map(|word| word.text.clone()),
        };
        self.tracked.insert(number, tracked);
    }

    /// Reads a line if it is a rule.
    pub(super) fn rule(&mut self, line: &Line, settings: &mut Vec<Setting>, context: &mut Context) -> bool {
        let place = line.place();
        match (line.word(0), line.word(1)) {
            ("tcp-request", "inspect-delay") => match haproxy_time(line.word(2), 1) {
                Some(ms @ 1..=3_600_000) => {
                    settings.push(Setting::new("connect_timeout", quoted(&duration(ms)), place))
                }
                _ => context.unreadable(place, line.word(2), "a duration of up to an hour"),
            },
            ("tcp-request", "connection" | "session" | "content") => self.request(line, 2, settings, context),
            ("http-request", _) => self.http(line, settings, context),
            ("tcp-response" | "http-response" | "http-after-response", _) => self.response(line, context),
            (
                "acl" | "use_backend" | "default_backend" | "bind" | "server" | "server-template" | "default-server"
                | "balance" | "mode",
                _,
            ) => {}
            _ => return false,
        }
        true
    }

    pub(super) fn request(&mut self, line: &Line, at: usize, settings: &mut Vec<Setting>, context: &mut Context) {
        let place = line.place();
        let action = line.word(at);
        let condition = self.acls.condition(line.rest(at + 1));
        let is_verdict = matches!(action, "reject" | "silent-drop" | "accept");
        if self.has_accepted && line.word(1) == "content" && is_verdict {
            return self.behind(line, &condition, context);
        }
        match action {
            "reject" | "silent-drop" | "deny" | "tarpit" => self.refuse(line, &condition, context),
            "accept" | "allow" => match &condition {
                Condition::All(terms) => match &terms[..] {
                    [
                        Term {
                            is_negated: false,
                            test: Test::Source(nets),
                        },
                    ] => self.addresses.extend(nets.iter().map(|net| Rule {
                        is_allowed: true,
                        net: Some(*net),
                        from: place,
                    })),
                    [
                        Term {
                            is_negated: false,
                            test: test @ (Test::IsMqtt | Test::IsTls),
                        },
                    ] => {
                        self.has_accepted = true;
                        self.protocol(line, test, context);
                    }
                    _ => Self::lost(line, context),
                },
                Condition::Always => self.addresses.push(Rule {
                    is_allowed: true,
                    net: None,
                    from: place,
                }),
                Condition::Other => Self::lost(line, context),
            },
            "expect-proxy" => {
                let rest = line
                    .rest(at + 1)
                    .iter()
                    .position(|word| matches!(&*word.text, "if" | "unless"));
                let condition = rest.map_or(Condition::Always, |rest| self.acls.condition(line.rest(at + 1 + rest)));
                let nets = match &condition {
                    Condition::All(terms) => match &terms[..] {
                        [
                            Term {
                                is_negated: false,
                                test: Test::Source(nets),
                            },
                        ] => Some(nets.iter().map(network_text).collect::<Vec<_>>()),
                        _ => None,
                    },
                    _ => None,
                };
                match nets {
                    Some(nets) => {
                        settings.push(Setting::new("proxy_protocol_from", list(nets), place));
                        context.report.lost(
                            place,
                            "connections from other networks are refused, while HAProxy takes them without a header",
                            "give clients that connect directly a listener of their own",
                        );
                    }
                    None => {
                        settings.push(Setting::new("proxy_protocol_from", list(["0.0.0.0/0", "::/0"]), place));
                        context.report.lost(
                            place,
                            "PROXY headers are taken from every machine, so any client could claim any address",
                            "write the networks of your proxies to proxy_protocol_from",
                        );
                    }
                }
            }
            action if action.starts_with("set-var") || action.starts_with("unset-var") => {
                context
                    .report
                    .unneeded(place, "tcp-request", "Remora reads the CONNECT itself");
            }
            action if action.starts_with("track-sc") => {
                context
                    .report
                    .unneeded(place, "tcp-request", "what counts is which limits its counters have");
            }
            "capture" => context.report.differs(
                place,
                "what is captured for the log has fields with names of their own there, if any",
                "docs/logs.md has all of them",
            ),
            _ => Self::lost(line, context),
        }
    }

    /// A rule that lets MQTT through and nothing else, or TLS.
    fn protocol(&self, line: &Line, test: &Test, context: &mut Context) {
        let place = line.place();
        match (test, self.passes_tls) {
            (Test::IsTls, true) | (Test::IsMqtt, false) => context.report.unneeded(place, "tcp-request", NOTHING_ELSE),
            (_, true) => context.report.lost(
                place,
                "a listener that passes TLS on reads no MQTT, so it takes nothing but TLS",
                "give clients without TLS a listener of their own",
            ),
            (_, false) => context.report.lost(
                place,
                "a ClientHello is looked for, and this listener passes no TLS on",
                "if the nodes end TLS, write tls = \"pass\" to the listener, and `pass` to the nodes",
            ),
        }
    }

    /// A rule behind one that accepts whatever is MQTT, or TLS.
    fn behind(&self, line: &Line, condition: &Condition, context: &mut Context) {
        let place = line.place();
        match condition {
            Condition::Always => context.report.unneeded(place, "tcp-request", NOTHING_ELSE),
            Condition::All(terms) => match &terms[..] {
                [
                    Term {
                        is_negated,
                        test: test @ (Test::IsMqtt | Test::IsTls),
                    },
                ] if *is_negated == (line.word(2) != "accept") => self.protocol(line, test, context),
                _ => Self::lost_behind(line, context),
            },
            _ => Self::lost_behind(line, context),
        }
    }

    fn lost_behind(line: &Line, context: &mut Context) {
        context.report.lost(
            line.place(),
            "a rule before it accepts all clients with MQTT, or TLS, so this one is for others, which are closed here",
            "if it was meant for all clients, write their networks to `allow` or `deny` of the listener",
        );
    }

    /// A rule that refuses clients.
    fn refuse(&mut self, line: &Line, condition: &Condition, context: &mut Context) {
        let place = line.place();
        let terms = match condition {
            Condition::Always => {
                self.addresses.push(Rule {
                    is_allowed: false,
                    net: None,
                    from: place,
                });
                return;
            }
            Condition::All(terms) => terms,
            Condition::Other => return Self::lost(line, context),
        };
        match &terms[..] {
            [
                Term {
                    is_negated: false,
                    test: Test::Constant(false),
                },
            ]
            | [
                Term {
                    is_negated: true,
                    test: Test::Constant(true),
                },
            ] => {
                context
                    .report
                    .unneeded(place, "tcp-request", "the condition never holds");
            }
            [
                Term {
                    is_negated: false,
                    test: Test::Source(nets),
                },
            ] => self.addresses.extend(nets.iter().map(|net| Rule {
                is_allowed: false,
                net: Some(*net),
                from: place,
            })),
            [
                Term {
                    is_negated: true,
                    test: Test::Source(nets),
                },
            ] if self.required.is_none() => self.required = Some((nets.clone(), place)),
            [
                Term {
                    is_negated: true,
                    test: test @ (Test::IsMqtt | Test::IsTls),
                },
            ] => self.protocol(line, test, context),
            [
                Term {
                    is_negated: false,
                    test: Test::Counter(counter),
                },
            ] => self.limit(line, counter, context),
            _ => Self::lost(line, context),
        }
    }

    /// How long a counter counts: in the table that is named, else in that of the section, else in the only one that there is.
    fn period(&self, table: Option<&String>) -> Option<u64> {
        let named = table.map(String::as_str).unwrap_or(self.section);
        let of_name = self.periods.get(named).copied();
        let mut all = self.periods.values().copied();
        let only = all.next().filter(|_| all.next().is_none());
        of_name.or_else(|| only.filter(|_| table.is_none()))
    }

    fn limit(&self, line: &Line, counter: &Counter, context: &mut Context) {
        let place = line.place();
        let tracked = match counter.tracked {
            Some(number) => self.tracked.get(&number).cloned(),
            None => Some(Tracked {
                key: Some("client_address"),
                table: None,
            }),
        };
        let key = tracked.as_ref().and_then(|tracked| tracked.key);
        let table = counter.table.clone().or(tracked.and_then(|tracked| tracked.table));
        let period = self.period(table.as_ref());
        let most = counter.most.clamp(1, 100_000_000);
        match (counter.of, key, period) {
            (Counted::Current, Some("client_address"), _) => {
                set(context, "limits", "connections_per_source", most.to_string(), place);
                context.report.differs(
                    place,
                    "the limit holds for all listeners together, and for an IPv6 /64 network as a whole",
                    "",
                );
            }
            (Counted::Rate, Some("client_address"), Some(period @ 1..)) => {
                let rate = (most * 1000).div_ceil(period).clamp(1, 10_000);
                set(
                    context,
                    "limits",
                    "connects_per_source_per_second",
                    rate.to_string(),
                    place,
                );
                context.report.differs(
                    place,
                    format!("{most} in {} are {rate} in a second, after as many at once; the limit holds for all listeners together, and for an IPv6 /64 network as a whole", duration(period)),
                    "",
                );
            }
            (Counted::Rate, Some("client_id"), Some(period @ 1..)) => {
                let rate = (most * 60_000).div_ceil(period).clamp(1, 10_000);
                set(context, "pacing", "connects_per_id_per_minute", rate.to_string(), place);
                context.report.differs(place, format!("{most} in {} are {rate} in a minute; a client that connects more often is held for up to 5 s, and not refused", duration(period)), "");
            }
            _ => Self::lost(line, context),
        }
    }

    pub(super) fn lost(line: &Line, context: &mut Context) {
        if line.words.iter().any(|word| environment::is_in(&word.text)) {
            let message = format!("{} with a variable of the environment", line.word(0));
            return context.report.lost(line.place(), message, environment::NETWORK_ADVICE);
        }
        context.report.lost(
            line.place(),
            format!("{} {}: this rule has no counterpart", line.word(0), printable(line.word(if line.word(0) == "tcp-request" { 2 } else { 1 }))),
            "by addresses, there are allow and deny; by rates, [limits] and [pacing]; by what is in MQTT, the nodes decide: EMQX has rules and authentication",
        );
    }

    /// Writes what the rules on addresses mean together.
    pub(super) fn finish(mut self, settings: &mut Vec<Setting>, context: &mut Context) {
        if let Some((nets, place)) = self.required.take() {
            let allowed = nets.into_iter().map(|net| Rule {
                is_allowed: true,
                net: Some(net),
                from: place,
            });
            self.addresses.extend(allowed);
            self.addresses.push(Rule {
                is_allowed: false,
                net: None,
                from: place,
            });
        }
        listeners::networks(&self.addresses, settings, &mut context.report);
    }
}
