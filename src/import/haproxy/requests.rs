//! Rules of proxies on HTTP requests, and on what nodes answer.

use crate::import::haproxy::context::Context;
use crate::import::haproxy::rules::Rules;
use crate::import::haproxy::syntax::{Line, Word};
use crate::import::haproxy::terms::{Condition, Term, Test};
use crate::import::model::{self, Setting};
use crate::import::text::{Place, list, printable};

/// Reports paths that longer ones matched as well.
pub(super) fn only_these(place: Place, context: &mut Context) {
    context.report.differs(
        place,
        "only these paths are served, and not those that begin with them",
        "list further paths in `paths`",
    );
}

impl Rules<'_> {
    /// `http-request`
    pub(super) fn http(&mut self, line: &Line, settings: &mut Vec<Setting>, context: &mut Context) {
        let place = line.place();
        let condition = |from: usize| {
            let rest = line
                .rest(from)
                .iter()
                .position(|word: &Word| matches!(&*word.text, "if" | "unless"));
            rest.map_or(Condition::Always, |rest| self.acls.condition(line.rest(from + rest)))
        };
        let field = line.word(2).to_ascii_lowercase();
        match line.word(1) {
            "set-header" | "add-header" => match &*field {
                "x-forwarded-for" | "x-forwarded-port" | "x-forwarded-proto" => {
                    context
                        .report
                        .unneeded(place, "http-request", "Remora sets X-Forwarded-For, -Port and -Proto")
                }
                "x-real-ip" => context.report.differs(
                    place,
                    "X-Real-IP is not sent",
                    "nodes find the address in X-Forwarded-For, where EMQX looks for it (proxy_address_header)",
                ),
                "host" if line.word(3).contains("hdr(host)") => {
                    context.report.unneeded(place, "http-request", "Host is passed on")
                }
                _ => context.report.lost(
                    place,
                    format!("the field {} is not sent to nodes", printable(line.word(2))),
                    "nodes get Host, Origin, cookies, User-Agent and X-Forwarded-For, -Port and -Proto",
                ),
            },
            "del-header" => context.report.unneeded(
                place,
                "http-request",
                "only Host, Origin, cookies, User-Agent and X-Forwarded-… are sent",
            ),
            action
                if action.starts_with("set-var")
                    || action.starts_with("track-sc")
                    || action.starts_with("capture")
                    || action.starts_with("unset-var") =>
            {
                context
                    .report
                    .unneeded(place, "http-request", "what counts is what is decided by it");
            }
            "deny" | "reject" | "silent-drop" | "tarpit" => match condition(2).of_upgrades() {
                Condition::All(terms) => match &terms[..] {
                    [
                        Term {
                            is_negated: true,
                            test: Test::Origin(origins),
                        },
                    ] if !origins.is_empty() && origins.iter().all(|origin| model::is_origin(origin)) => {
                        settings.push(Setting::new("origins", list(origins), place));
                        context.report.differs(
                            place,
                            "a client that sends no Origin is no page in a browser, and may connect",
                            "",
                        );
                    }
                    [
                        Term {
                            is_negated: true,
                            test: Test::Path { paths, are_prefixes },
                        },
                    ] if !paths.is_empty() && paths.iter().all(|path| model::is_path(path)) => {
                        if *are_prefixes {
                            only_these(place, context);
                        }
                        settings.retain(|setting| setting.key != "paths");
                        settings.push(Setting::new("paths", list(paths), place));
                    }
                    [
                        Term {
                            is_negated: true,
                            test: Test::Upgrade,
                        },
                    ] => context
                        .report
                        .unneeded(place, "http-request", "whatever is no upgrade is refused"),
                    [
                        Term {
                            test: Test::Source(_) | Test::Counter(_),
                            ..
                        },
                    ] => self.request(line, 1, settings, context),
                    _ => Self::lost(line, context),
                },
                _ => Self::lost(line, context),
            },
            _ => Self::lost(line, context),
        }
    }

    /// `tcp-response`, `http-response`
    pub(super) fn response(&self, line: &Line, context: &mut Context) {
        let text: Vec<&str> = line.words.iter().map(|word| &*word.text).collect();
        let text = text.join(" ");
        match line.word(1) {
            "inspect-delay" => context.report.unneeded(
                line.place(),
                line.word(0),
                "a node's CONNACK is waited for (timeouts.greet)",
            ),
            _ if text.contains("mqtt_is_valid") => {
                context
                    .report
                    .unneeded(line.place(), line.word(0), "a node's CONNACK is read anyway")
            }
            "set-header" | "add-header" | "del-header" => context.report.unneeded(
                line.place(),
                line.word(0),
                "WebSocket has no answers behind the upgrade",
            ),
            _ => Self::lost(line, context),
        }
    }
}
