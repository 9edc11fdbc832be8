//! `http`: a server with a location that upgrades is a listener for MQTT over WebSocket.

use crate::import::address::{Address, Port};
use crate::import::model::{Kind, Listener, Service, Setting, is_origin, is_path};
use crate::import::nginx::affinity;
use crate::import::nginx::listen;
use crate::import::nginx::scope::{Context, Scope};
use crate::import::nginx::stream::{access, limits, logs, silence, with_own};
use crate::import::nginx::syntax::Directive;
use crate::import::nginx::template::Own;
use crate::import::nginx::tls;
use crate::import::nginx::upstream::{self, Pool, Upstreams};
use crate::import::text::{list, printable};

/// A location that leads to nodes.
struct Location<'d> {
    directive: &'d Directive,
    path: String,
    pool: Pool,
}

pub(super) fn server<'d>(
    server: &'d Directive,
    scope: &Scope<'d>,
    upstreams: &mut Upstreams<'d>,
    context: &mut Context<'d>,
) {
    let own = Scope::new(server.inner());
    let place = server.place();
    let mut found: Vec<Location<'d>> = Vec::new();
    let locations = server
        .inner()
        .iter()
        .filter(|directive| directive.name.text == "location");
    let mut others = Vec::new();
    for directive in locations {
        context.mark(directive);
        let inner = scope.below(directive.inner());
        if !upgrades(&inner, context) || !directive.inner().iter().any(|inner| inner.name.text == "proxy_pass") {
            others.push(directive);
            continue;
        }
        let Some(location) = location(directive, &inner, upstreams, context) else {
            context.mark_all(directive);
            continue;
        };
        match found.first() {
            Some(first) if first.pool.name != location.pool.name => context.report.lost(
                directive.place(),
                "locations of one server that lead to different nodes: Remora has one cluster",
                "give them listeners of their own, in a Remora of their own",
            ),
            Some(first) if rewritten(&first.pool) != rewritten(&location.pool) => context.report.lost(
                directive.place(),
                "locations of one server that lead to different paths of the nodes: a node has one, or that of the client",
                "write the path of the nodes to `ws`, as ws://HOST:PORT/path, and give other paths a Remora of their own",
            ),
            _ => found.push(location),
        }
    }
    let Some(first) = found.first() else {
        context.report.lost(
            place,
            "a server without a location that upgrades to WebSocket: Remora serves nothing else over HTTP",
            "keep it in nginx, on another port or address",
        );
        return context.mark_all(server);
    };
    for directive in others {
        context.report.lost(
            directive.place(),
            "a location that is not WebSocket",
            "serve it elsewhere: Remora answers 404 or 426 there, and 200 to health checks for /",
        );
        context.mark_all(directive);
    }
    let inner = scope.below(first.directive.inner());
    let written = own.many("listen", context);
    let listens: Vec<_> = written
        .iter()
        .map(|directive| listen::read(directive, 80, context))
        .collect();
    let mut listeners = with_own(&listens, &written, &own, scope, context);
    if written.is_empty() {
        listeners.push(Listener {
            name: None,
            address: Address::any(Port::Number(80)),
            place,
            only_v6: false,
            settings: Vec::new(),
            certificates: Vec::new(),
        });
    }
    let paths: Vec<&String> = found.iter().map(|location| &location.path).collect();
    let mut settings = vec![Setting::new("paths", list(paths), first.directive.place())];
    let mut servers = first.pool.servers.clone();
    if let Some(proxy) = inner.one("proxy_pass", context)
        && proxy.arg(0).starts_with("https:")
    {
        tls::of_nodes(&inner, proxy.place(), &first.pool.name, &mut servers, context);
    }
    let trusted = inner.many("set_real_ip_from", context);
    if let Some(trusted) = trusted.first()
        && !listens.iter().any(|listen| listen.has_proxy_protocol)
    {
        context.report.lost(
            trusted.place(),
            "clients' addresses come in PROXY headers, not in fields of the request: what an upstream proxy writes to X-Forwarded-For is dropped",
            "let the upstream proxy send PROXY headers, and list its networks in proxy_protocol_from",
        );
    }
    inner.one("real_ip_header", context);
    inner.one("real_ip_recursive", context);
    names(&own, context);
    origins(&inner, server, first.directive, &mut settings, context);
    access(&inner, &mut settings, context);
    limits(&inner, &mut settings, context);
    headers(&inner, context);
    for listener in &mut listeners {
        listener.settings.extend(settings.iter().cloned());
    }
    for location in &found {
        let inner = scope.below(location.directive.inner());
        upstream::way(&inner, context);
        for name in ["proxy_read_timeout", "proxy_send_timeout"] {
            let idle = inner.one(name, context);
            silence(idle, context);
        }
        headers(&inner, context);
    }
    logs(&inner, context);
    affinity::tie(first.pool.key, Kind::Ws, context);
    context.draft.add(Service {
        kind: Kind::Ws,
        pool: first.pool.name.clone(),
        place,
        servers,
        listeners,
    });
}

/// The path of the nodes, if it is not the client's.
fn rewritten(pool: &Pool) -> Option<&str> {
    pool.servers.first()?.path.as_deref()
}

/// Whether the upgrade is passed on.
fn upgrades<'d>(scope: &Scope<'d>, context: &mut Context<'d>) -> bool {
    let fields = scope.many("proxy_set_header", context);
    fields
        .iter()
        .any(|field| field.arg(0).eq_ignore_ascii_case("upgrade") && !field.arg(1).is_empty())
}

fn location<'d>(
    directive: &'d Directive,
    scope: &Scope<'d>,
    upstreams: &mut Upstreams<'d>,
    context: &mut Context<'d>,
) -> Option<Location<'d>> {
    let proxy = scope.one("proxy_pass", context)?;
    let word = proxy.args.first()?;
    let rest = word
        .text
        .strip_prefix("http://")
        .or_else(|| word.text.strip_prefix("https://"));
    let Some(rest) = rest else {
        context.unreadable(word.place, &word.text, "http:// and an upstream");
        return None;
    };
    let port = if word.text.starts_with("https") { 443 } else { 80 };
    let (target, uri) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let mut pool = upstreams.pool(target, word, port, context)?;
    let written = directive.args.last().map_or("/", |word| &word.text);
    // nginx takes no variables of its own in a location, and a dollar in an expression is its end.
    let filled = match directive.args.len() {
        2 if directive.arg(0).starts_with('~') => None,
        _ => context.filled(written, Own::Refused),
    };
    let written = filled.as_deref().unwrap_or(written);
    let place = directive.place();
    let path = match directive.args.len() {
        1 => written.to_owned(),
        _ => match directive.arg(0) {
            "=" | "^~" => written.to_owned(),
            _ => match plain(written) {
                Some(path) => path,
                None => {
                    context.report.lost(
                        place,
                        format!("paths by the expression {}", printable(written)),
                        "list each path in `paths` of the listener",
                    );
                    "/mqtt".to_owned()
                }
            },
        },
    };
    let path = match &*path {
        "/" | "" => {
            context.report.differs(
                place,
                "every path was passed on; Remora serves those in `paths`: /mqtt is EMQX's own",
                "list further paths in `paths`",
            );
            "/mqtt".to_owned()
        }
        path => {
            if directive.args.len() == 1 {
                context.report.differs(
                    place,
                    "only this path is served, and not those that begin with it",
                    "list further paths in `paths`",
                );
            }
            path.trim_end_matches('/').to_owned()
        }
    };
    if !is_path(&path) || uri.contains('$') {
        context.unreadable(place, written, "a path");
        return None;
    }
    let uri = if uri.len() > 1 { uri.trim_end_matches('/') } else { "" };
    if !uri.is_empty() && uri != path && is_path(uri) {
        pool.servers
            .iter_mut()
            .for_each(|server| server.path = Some(uri.to_owned()));
    }
    Some(Location { directive, path, pool })
}

/// The text that a simple expression stands for: `^/mqtt$`.
fn plain(expression: &str) -> Option<String> {
    let text = expression.strip_prefix('^')?;
    let text = text
        .strip_suffix('$')
        .unwrap_or(text)
        .replace("\\.", "\u{0}")
        .replace("\\/", "/");
    let is_plain = !text.contains(['\\', '.', '*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '^', '$']);
    is_plain.then(|| text.replace('\u{0}', "."))
}

/// `server_name`: Remora serves every name.
fn names<'d>(own: &Scope<'d>, context: &mut Context<'d>) {
    if let Some(name) = own.one("server_name", context) {
        context.report.differs(
            name.place(),
            "every host name is served; certificates are chosen by the names in them",
            "",
        );
    }
}

/// `if ($http_origin …) { return 403; }`.
fn origins<'d>(
    inner: &Scope<'d>,
    server: &'d Directive,
    location: &'d Directive,
    settings: &mut Vec<Setting>,
    context: &mut Context<'d>,
) {
    inner.many("if", context);
    let conditions = server
        .inner()
        .iter()
        .chain(location.inner())
        .filter(|directive| directive.name.text == "if");
    for condition in conditions {
        let words: Vec<&str> = condition.args.iter().map(|word| &*word.text).collect();
        let text = words.join(" ");
        let text = text.trim_start_matches('(').trim_end_matches(')').trim();
        let refuses = matches!(condition.inner(), [only] if only.name.text == "return" && matches!(only.arg(0), "403" | "444" | "400" | "401"));
        let wanted = text.strip_prefix("$http_origin").map(str::trim).filter(|_| refuses);
        let allowed = match wanted {
            Some(text) if text.starts_with("!=") => Some(vec![text[2..].trim().trim_matches('"').to_owned()]),
            Some(text) if text.starts_with("!~") => {
                let expression = text[2..].trim_start_matches('*').trim().trim_matches('"');
                alternatives(expression)
            }
            _ => None,
        };
        context.mark_all(condition);
        match allowed.filter(|allowed| allowed.iter().all(|origin| is_origin(origin))) {
            Some(allowed) if settings.iter().all(|setting| setting.key != "origins") => {
                settings.push(Setting::new("origins", list(allowed), condition.place()));
                context.report.differs(
                    condition.place(),
                    "a client that sends no Origin is no page in a browser, and may connect",
                    "",
                );
            }
            _ => context.report.lost(
                condition.place(),
                "a condition on requests",
                "of requests, Remora checks the path (`paths`) and the Origin (`origins`)",
            ),
        }
    }
}

/// `^https://(a|b)\.example\.com$`: the texts that it stands for.
fn alternatives(expression: &str) -> Option<Vec<String>> {
    let text = expression.strip_prefix('^')?.strip_suffix('$')?;
    let Some((before, rest)) = text.split_once('(') else {
        return plain(expression).map(|one| vec![one]);
    };
    let (words, after) = rest.split_once(')')?;
    words
        .split('|')
        .map(|word| plain(&format!("^{before}{word}{after}$")))
        .collect()
}

/// `proxy_set_header`: which fields the node gets.
fn headers<'d>(scope: &Scope<'d>, context: &mut Context<'d>) {
    for field in scope.many("proxy_set_header", context) {
        let place = field.place();
        let name = field.arg(0).to_ascii_lowercase();
        let value = field.arg(1);
        match (&*name, value) {
            ("upgrade" | "connection", _)
            | (
                "sec-websocket-protocol" | "sec-websocket-extensions" | "sec-websocket-key" | "sec-websocket-version",
                _,
            ) => {
                context
                    .report
                    .unneeded(place, "proxy_set_header", "Remora answers upgrades itself");
            }
            ("host", "$host" | "$http_host" | "$host:$server_port")
            | ("origin", "$http_origin")
            | ("cookie", "$http_cookie")
            | ("user-agent", "$http_user_agent") => {
                context.report.unneeded(place, "proxy_set_header", "it is passed on");
            }
            ("x-forwarded-for", "$proxy_add_x_forwarded_for") => context.report.differs(
                place,
                "X-Forwarded-For has the client's address alone: what the client has sent in it is dropped",
                "EMQX believes the first address in it",
            ),
            ("x-forwarded-for", "$remote_addr")
            | ("x-forwarded-port", "$remote_port")
            | ("x-forwarded-proto", "$scheme") => {
                context.report.unneeded(place, "proxy_set_header", "Remora sets it");
            }
            ("x-real-ip", _) => context.report.differs(
                place,
                "X-Real-IP is not sent",
                "nodes find the address in X-Forwarded-For, where EMQX looks for it (proxy_address_header)",
            ),
            (_, "") => context.report.unneeded(
                place,
                "proxy_set_header",
                "only Host, Origin, cookies, User-Agent and X-Forwarded-… are sent",
            ),
            _ => context.report.lost(
                place,
                format!("the field {} is not sent to nodes", printable(field.arg(0))),
                "nodes get Host, Origin, cookies, User-Agent and X-Forwarded-For, -Port and -Proto",
            ),
        }
    }
}
