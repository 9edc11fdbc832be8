//! Writes settings as the file that says all of them: each key with its value in force, and where that comes from. What it writes loads
//! again as the same settings. Settings are destructured completely, so that no key can be forgotten.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use toml::Value;

use super::node_address::HOST_PLACE;
use super::units::{duration_text, size_text};
use super::words::escaped;
use super::{Config, Source};
use crate::admin::settings as admin;
use crate::base::heartbeat;
use crate::base::log;
use crate::cluster::{EndpointTls, Endpoints, Member, MemberEndpoint, NodeAddress};
use crate::control::{self, Check, OnDown, ProbeDepth, ProbeProxy};
use crate::doctor;
use crate::handover::settings as handover;
use crate::net::dial;
use crate::net::held;
use crate::net::tls::{Clients, Nodes, Offer, ServerName, Version};
use crate::net::websocket;
use crate::path::accept::{self, Listener, Tls, Transport};
use crate::path::affinity;
use crate::path::greet;
use crate::path::peek;
use crate::path::relay;
use crate::process::drain;
use crate::proxy_protocol;

const DEFAULT: &str = "default";

/// `config` as a file, with every key. `source` is what it was read from, if that is known: each value then has its line, or says that
/// it is a default or derived from others.
pub fn effective(config: &Config, source: Option<&Source>) -> String {
    let mut page = Page {
        text: String::new(),
        source,
        path: String::new(),
        config,
    };
    page.all();
    page.text.replace(control::HOST_OF_FOUND, HOST_PLACE)
}

/// The file, as far as it is written.
struct Page<'a> {
    text: String,
    source: Option<&'a Source>,
    /// The table that is being written: `listeners[0]`.
    path: String,
    config: &'a Config,
}

/// A value as TOML.
struct Toml(String);

fn string(text: impl Display) -> Toml {
    Toml(Value::from(escaped(&text.to_string())).to_string())
}

fn duration(duration: Duration) -> Toml {
    string(duration_text(duration))
}

fn size(bytes: usize) -> Toml {
    string(size_text(bytes))
}

fn plain(value: impl Display) -> Toml {
    Toml(value.to_string())
}

fn list<T: Display>(items: &[T]) -> Toml {
    let items: Vec<String> = items.iter().map(|item| string(item).0).collect();
    Toml(format!("[{}]", items.join(", ")))
}

impl Page<'_> {
    fn line(&mut self, line: &str) {
        self.text += line;
        self.text.push('\n');
    }

    fn table(&mut self, path: &str, header: &str) {
        path.clone_into(&mut self.path);
        self.line("");
        self.line(header);
    }

    fn path_of(&self, key: &str) -> String {
        match &*self.path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    /// A key with its value; where the file does not have it, `otherwise` says where the value comes from.
    fn key(&mut self, key: &str, Toml(value): Toml, otherwise: &str) {
        let from = self.source.map(|source| match source.origin(&self.path_of(key)) {
            Some(origin) => format!("  # {}", origin.escape_debug()),
            None => format!("  # {otherwise}"),
        });
        self.line(&format!("{key} = {value}{}", from.unwrap_or_default()));
    }

    /// A key that may be left out, and then means `without`.
    fn optional(&mut self, key: &str, value: Option<Toml>, without: &str) {
        match value {
            Some(value) => self.key(key, value, DEFAULT),
            None => self.line(&format!("# {key}: {without}")),
        }
    }

    /// A key that names a file.
    fn file(&mut self, key: &str, without: &str) {
        let file = self.file_of(key);
        self.optional(key, file, without);
    }

    fn file_of(&self, key: &str) -> Option<Toml> {
        let file: &Path = self.config.files.get(&self.path_of(key))?;
        Some(string(file.display()))
    }

    /// The chain and the key at `key`, as an inline table.
    fn pair(&self, key: &str) -> Option<String> {
        let Toml(chain) = self.file_of(&format!("{key}.chain"))?;
        let secret = self.file_of(&format!("{key}.key"));
        let secret = secret.map_or(String::new(), |Toml(secret)| format!(", key = {secret}"));
        Some(format!("{{ chain = {chain}{secret} }}"))
    }

    fn all(&mut self) {
        let Config {
            workers,
            listeners,
            nodes,
            nodes_tls,
            affinity,
            limits,
            held,
            peek,
            dial,
            greet,
            relay,
            control,
            drain,
            handover,
            doctor,
            watchdog,
            admin,
            log,
            // Written where they are used.
            files: _,
            // Said by `check`.
            warnings: _,
        } = self.config;
        if let Some(source) = self.source {
            let name = source.name().escape_debug();
            self.line(&format!(
                "# The configuration in force by {name}: values of its lines, and all others."
            ));
        }
        self.optional("workers", workers.map(plain), "one for each core (default)");
        for (index, listener) in listeners.iter().enumerate() {
            self.table(&format!("listeners[{index}]"), "[[listeners]]");
            self.listener(listener);
        }
        for (index, node) in nodes.iter().enumerate() {
            self.table(&format!("nodes[{index}]"), "[[nodes]]");
            self.node(node);
        }
        if let Some(template) = control
            .discovery
            .as_ref()
            .and_then(|discovery| discovery.template.as_ref())
        {
            self.table(&format!("nodes[{}]", nodes.len()), "[[nodes]]");
            self.node(template);
        }
        self.table("nodes_tls", "[nodes_tls]");
        self.nodes_tls(nodes_tls.as_ref());
        self.nodes_api(&control.api);
        self.discovery(control.discovery.as_ref());
        self.affinity(affinity);
        self.limits(limits, held, relay);
        self.timeouts(peek, dial, greet, relay);
        self.dial(dial);
        self.relay(greet, &control.pacing, relay);
        self.buffers(dial);
        self.health(control);
        self.drain(drain);
        self.handover(handover);
        self.doctor(doctor);
        self.watchdog(watchdog);
        self.admin(admin);
        self.log(log);
    }

    fn listener(&mut self, listener: &Listener) {
        let Listener {
            name,
            address,
            freebind,
            transport,
            tls,
            allow,
            deny,
            proxy_protocol_from,
            connections_max,
            connect_timeout,
        } = listener;
        // Two listeners on free ports may have the same one.
        let name = (*name != address.to_string()).then(|| string(name));
        self.optional("name", name, "derived: the address");
        self.key("address", string(address), DEFAULT);
        self.key("freebind", plain(freebind), DEFAULT);
        let (word, policy) = match transport {
            Transport::Tcp => ("tcp", None),
            Transport::Ws(policy) => ("ws", Some(policy)),
        };
        self.key("transport", string(word), DEFAULT);
        self.policy(policy);
        let (word, offer) = match tls {
            None => ("off", None),
            Some(Tls::Pass) => ("pass", None),
            Some(Tls::End(acceptor)) => ("end", Some(acceptor.offer())),
        };
        self.key("tls", string(word), DEFAULT);
        match offer {
            Some(offer) => self.offer(offer),
            None => self.line("# certificates, tls_min, tls_record_max, client_*: only with tls = \"end\""),
        }
        self.key("allow", list(allow), "default: every network");
        self.key("deny", list(deny), "default: no network");
        self.key(
            "proxy_protocol_from",
            list(proxy_protocol_from),
            "default: no PROXY headers",
        );
        self.optional("connections_max", connections_max.map(plain), "no limit (default)");
        match connect_timeout {
            Some(timeout) => self.key(
                "connect_timeout",
                duration(*timeout),
                "derived: more than timeouts.connect, since TLS ends here",
            ),
            None => self.line("# connect_timeout: derived: timeouts.connect"),
        }
    }

    fn policy(&mut self, policy: Option<&websocket::AcceptPolicy>) {
        let Some(websocket::AcceptPolicy {
            paths,
            origins,
            head_bytes_max,
        }) = policy
        else {
            return self.line("# paths, origins, head_max: only with transport = \"ws\"");
        };
        self.key("paths", list(paths), DEFAULT);
        self.key("origins", list(origins), "default: pages of every origin");
        self.key("head_max", size(*head_bytes_max), DEFAULT);
    }

    fn offer(&mut self, offer: &Offer) {
        let Offer {
            certificates,
            version_min,
            clients,
            protocol: _,
            record_max,
        } = offer;
        let pairs: Option<Vec<String>> = (0..certificates.len())
            .map(|index| self.pair(&format!("certificates[{index}]")))
            .collect();
        let pairs = pairs.map(|pairs| Toml(format!("[{}]", pairs.join(", "))));
        self.optional("certificates", pairs, "not from files");
        let version = match version_min {
            Version::Tls12 => "1.2",
            Version::Tls13 => "1.3",
        };
        self.key("tls_min", string(version), DEFAULT);
        self.optional("tls_record_max", record_max.map(size), "as TLS allows: 16KiB (default)");
        let (word, revoked) = match clients {
            Clients::Off => ("off", None),
            Clients::Optional(_, revoked) => ("optional", revoked.as_ref()),
            Clients::Required(_, revoked) => ("required", revoked.as_ref()),
        };
        self.key("client_certificates", string(word), DEFAULT);
        self.file("client_ca", "none (default)");
        self.file("client_crl", "none (default)");
        let word = match revoked.is_some_and(|revoked| revoked.must_be_current()) {
            true => "refuse",
            false => "accept",
        };
        self.key("client_crl_expired", string(word), DEFAULT);
    }

    fn node(&mut self, node: &Member) {
        let Member {
            name,
            endpoints,
            api,
            weight,
            connects_per_second,
            connections_max,
        } = node;
        let Endpoints { mqtt, ws, pass } = endpoints;
        let proxy = |endpoint: Option<&MemberEndpoint>| {
            let version = endpoint.and_then(|endpoint| endpoint.proxy_protocol);
            string(version.map_or("off", proxy_protocol::Version::name))
        };
        let is_template = name.is_empty();
        self.optional(
            "name",
            (!is_template).then(|| string(name)),
            "the name of each node that is found",
        );
        let scheme = if mqtt.tls.is_some() { "mqtts://" } else { "" };
        self.key("address", string(format!("{scheme}{}", mqtt.address)), DEFAULT);
        let server_name = [Some(mqtt), ws.as_ref()].into_iter().flatten();
        let server_name = server_name.map(|endpoint| (&endpoint.tls, &endpoint.address));
        let server_name = server_name.chain(api.as_ref().map(|api| (&api.tls, &api.address)));
        let server_name = server_name
            .into_iter()
            .find_map(|(tls, address)| own_name(tls.as_ref()?, address));
        self.optional(
            "server_name",
            server_name.map(string),
            "derived: the host of each address",
        );
        self.key("proxy_protocol", proxy(Some(mqtt)), DEFAULT);
        let ws_address = ws.as_ref().map(|ws| {
            let path = ws.path.as_deref().unwrap_or_default();
            let scheme = match (&ws.tls, path) {
                (Some(_), _) => "wss://",
                (None, "") => "",
                (None, _) => "ws://",
            };
            string(format!("{scheme}{}{path}", ws.address))
        });
        self.optional("ws", ws_address, "none (default): frames are unwrapped for address");
        self.key("ws_proxy_protocol", proxy(ws.as_ref()), DEFAULT);
        let pass_address = pass.as_ref().map(|pass| string(&pass.address));
        self.optional("pass", pass_address, "none (default)");
        self.key("pass_proxy_protocol", proxy(pass.as_ref()), DEFAULT);
        self.optional("api", api.as_ref().map(string), "none (default): it is not asked");
        self.key("weight", plain(weight), DEFAULT);
        self.optional(
            "connects_per_second",
            connects_per_second.map(plain),
            "derived: pacing.connects_per_second",
        );
        self.optional("connections_max", connections_max.map(plain), "no limit (default)");
    }

    fn nodes_tls(&mut self, nodes: Option<&Nodes>) {
        self.file("ca", "none (default)");
        let certificate = self.pair("certificate").map(Toml);
        self.optional("certificate", certificate, "none (default)");
        match nodes {
            Some(nodes) => {
                self.key("common_names", plain(nodes.counts_common_names()), DEFAULT);
                self.key("insecure_skip_verify", plain(nodes.is_insecure()), DEFAULT);
            }
            None => self.line("# common_names, insecure_skip_verify: no node is reached with TLS"),
        }
    }

    fn nodes_api(&mut self, api: &control::ApiSettings) {
        let control::ApiSettings {
            check,
            // Named by its file.
            credentials: _,
            interval,
            timeout,
        } = api;
        self.table("nodes_api", "[nodes_api]");
        let word = match check {
            Check::Availability => "availability",
            Check::Status => "status",
        };
        self.key("check", string(word), DEFAULT);
        self.file("credentials", "none (default)");
        self.key("interval", duration(*interval), DEFAULT);
        self.key("timeout", duration(*timeout), DEFAULT);
    }

    fn discovery(&mut self, discovery: Option<&control::Discovery>) {
        self.table("discovery", "[discovery]");
        let Some(control::Discovery {
            source,
            interval,
            grace,
            // Among the nodes.
            template: _,
        }) = discovery
        else {
            self.key("source", string("off"), DEFAULT);
            return self.line("# seeds, name, name_servers, file, interval, grace: no nodes are looked for");
        };
        let control::Source {
            kind,
            seeds,
            name,
            name_servers,
            // Named by its key.
            file: _,
        } = source;
        self.key("source", string(kind.name()), DEFAULT);
        self.key("seeds", list(seeds), DEFAULT);
        self.optional("name", name.as_ref().map(string), "none (default)");
        self.key("name_servers", list(name_servers), "default: those of the system");
        self.file("file", "none (default)");
        self.key("interval", duration(*interval), DEFAULT);
        self.key("grace", duration(*grace), DEFAULT);
    }

    fn affinity(&mut self, affinity: &affinity::Settings) {
        let affinity::Settings {
            rule:
                affinity::Rule {
                    key,
                    group,
                    anonymous,
                    clean_sessions,
                },
            seed,
            load_max,
            placements_max,
            placement_age_max,
        } = affinity;
        self.table("affinity", "[affinity]");
        let word = match key {
            affinity::Key::ClientId => "client_id",
            affinity::Key::Username => "username",
            affinity::Key::ClientAddress => "client_address",
            affinity::Key::CertificateCn => "certificate_cn",
        };
        self.key("key", string(word), DEFAULT);
        let group = group.as_ref().map(|group| string(group.as_str()));
        self.optional("group", group, "none: the whole key counts (default)");
        self.key("anonymous", string(anonymous.name()), DEFAULT);
        self.key("clean_sessions", string(clean_sessions.name()), DEFAULT);
        self.key("seed", Toml(format!("{seed:#x}")), DEFAULT);
        self.optional("load_max", load_max.map(plain), "no bound (default)");
        self.key("placements_max", plain(placements_max), DEFAULT);
        self.key("placement_age_max", duration(*placement_age_max), DEFAULT);
    }

    fn limits(&mut self, limits: &accept::Limits, held: &held::Limits, relay: &relay::Settings) {
        let accept::Limits {
            connections_max,
            connections_per_source_max,
            connects_per_source_per_second,
        } = limits;
        let held::Limits {
            bytes_max,
            undecided_max,
            handshakes_max,
            source_share,
            // Half of timeouts.connect.
            grace: _,
        } = held;
        self.table("limits", "[limits]");
        let by_files = "as many as the limit of open files allows (default)";
        self.optional("connections", connections_max.map(plain), by_files);
        let per_source = connections_per_source_max.map(plain);
        self.optional("connections_per_source", per_source, "no limit (default)");
        let rate = connects_per_source_per_second.map(plain);
        self.optional("connects_per_source_per_second", rate, "no limit (default)");
        self.key("undecided", plain(undecided_max), DEFAULT);
        self.key("handshakes", plain(handshakes_max), DEFAULT);
        self.key("held_bytes", size(*bytes_max), DEFAULT);
        self.key("source_share", plain(source_share), DEFAULT);
        self.key("waiting_bytes", size(relay.waiting_bytes_max), DEFAULT);
    }

    fn timeouts(
        &mut self,
        peek: &peek::Limits,
        dial: &dial::Settings,
        greet: &greet::Settings,
        relay: &relay::Settings,
    ) {
        let peek::Limits { deadline } = peek;
        self.table("timeouts", "[timeouts]");
        self.key("connect", duration(*deadline), DEFAULT);
        self.key("dial", duration(dial.timeout), DEFAULT);
        self.key("greet", duration(greet.timeout), DEFAULT);
        self.key("greet_total", duration(greet.deadline), DEFAULT);
        self.key("linger", duration(relay.linger), DEFAULT);
        self.key("idle_slack", duration(relay.idle_slack), DEFAULT);
        self.optional("idle_max", relay.idle_max.map(duration), "no limit (default)");
        let derived = format!(
            "derived: {}, and longer for clients that may be silent for longer",
            duration_text(dial.watch_times(None).user_timeout)
        );
        self.optional("user_timeout", dial.user_timeout.map(duration), &derived);
    }

    fn dial(&mut self, dial: &dial::Settings) {
        let dial::Settings {
            // Among the timeouts.
            timeout: _,
            user_timeout: _,
            sources,
            keepalive: dial::Keepalive { idle, interval, count },
            // A table of their own.
            client_buffer: _,
            node_buffer: _,
        } = dial;
        self.table("keepalive", "[keepalive]");
        let derived = format!(
            "derived: {}, and later for clients that may be silent for longer",
            duration_text(dial.watch_times(None).idle)
        );
        self.optional("idle", idle.map(duration), &derived);
        self.key("interval", duration(*interval), DEFAULT);
        self.key("count", plain(count), DEFAULT);
        self.table("dial", "[dial]");
        self.key("sources", list(sources), "default: chosen by the kernel");
    }

    fn relay(&mut self, greet: &greet::Settings, pacing: &control::Pacing, relay: &relay::Settings) {
        let greet::Settings {
            // Among the timeouts.
            timeout: _,
            deadline: _,
            refuse,
            connects_per_id_per_minute,
        } = greet;
        let relay::Settings {
            // Among the timeouts and the limits.
            linger: _,
            idle_slack: _,
            idle_max: _,
            waiting_bytes_max: _,
            splice,
            rate_min,
            // By the limit of open files and the range of ports.
            pipes_max: _,
            ports_max: _,
        } = relay;
        self.table("greet", "[greet]");
        let word = match refuse {
            greet::Refuse::Close => "close",
            greet::Refuse::Connack => "connack",
        };
        self.key("refuse", string(word), DEFAULT);
        let control::Pacing {
            connects_per_second,
            slow_start,
        } = pacing;
        self.table("pacing", "[pacing]");
        self.optional(
            "connects_per_second",
            connects_per_second.map(plain),
            "no limit (default)",
        );
        // Without a rate, the key is no more than its default.
        self.key("slow_start", duration(*slow_start), DEFAULT);
        let per_id = connects_per_id_per_minute.map(plain);
        self.optional("connects_per_id_per_minute", per_id, "no limit (default)");
        self.table("relay", "[relay]");
        self.key("splice", plain(splice), DEFAULT);
        self.key(
            "rate_min",
            size(usize::try_from(*rate_min).unwrap_or(usize::MAX)),
            DEFAULT,
        );
    }

    fn buffers(&mut self, dial: &dial::Settings) {
        self.table("buffers", "[buffers]");
        self.key("client", size(dial.client_buffer), DEFAULT);
        self.key("node", size(dial.node_buffer), DEFAULT);
    }

    fn health(&mut self, control: &control::Settings) {
        let control::Settings {
            failures_max,
            fall,
            rise,
            probe,
            probe_proxy,
            interval,
            down_share,
            down_min,
            down_max,
            on_down,
            on_down_rate,
            resolve_interval,
            // Tables of their own.
            api: _,
            discovery: _,
            pacing: _,
        } = control;
        self.table("health", "[health]");
        self.key("failures_max", plain(failures_max), DEFAULT);
        self.key("fall", plain(fall), DEFAULT);
        self.key("rise", plain(rise), DEFAULT);
        let word = match probe {
            ProbeDepth::Mqtt => "mqtt",
            ProbeDepth::Connect => "connect",
        };
        self.key("probe", string(word), DEFAULT);
        let word = match probe_proxy {
            ProbeProxy::Proxy => "proxy",
            ProbeProxy::Local => "local",
        };
        self.key("probe_proxy", string(word), DEFAULT);
        self.optional(
            "interval",
            interval.map(duration),
            "only when there is a reason to (default)",
        );
        self.key("down_share", plain(down_share), DEFAULT);
        self.key("down_min", duration(*down_min), DEFAULT);
        self.key("down_max", duration(*down_max), DEFAULT);
        let word = match on_down {
            OnDown::Close => "close",
            OnDown::Keep => "keep",
        };
        self.key("on_down", string(word), DEFAULT);
        self.key("on_down_rate", plain(on_down_rate), DEFAULT);
        self.key("resolve_interval", duration(*resolve_interval), DEFAULT);
    }

    fn drain(&mut self, drain: &drain::Settings) {
        let drain::Settings { delay, rate, grace } = drain;
        self.table("drain", "[drain]");
        self.key("delay", duration(*delay), DEFAULT);
        self.key("rate", plain(rate), DEFAULT);
        self.key("grace", duration(*grace), DEFAULT);
    }

    fn handover(&mut self, handover: &handover::Settings) {
        let handover::Settings { socket, grace } = handover;
        self.table("handover", "[handover]");
        let socket = socket.as_ref().map(|path| string(path.display()));
        self.optional("socket", socket, "none: only `remora ctl upgrade` hands over (default)");
        self.key("grace", duration(*grace), DEFAULT);
    }

    fn doctor(&mut self, doctor: &doctor::Settings) {
        let doctor::Settings {
            interval,
            topic,
            // Named by its file.
            login: _,
            slow_after,
            timeout,
        } = doctor;
        self.table("doctor", "[doctor]");
        self.optional("interval", interval.map(duration), "only when asked to (default)");
        self.key("topic", string(topic), DEFAULT);
        self.file("credentials", "none (default)");
        self.key("slow_after", duration(*slow_after), DEFAULT);
        self.key("timeout", duration(*timeout), DEFAULT);
    }

    fn watchdog(&mut self, watchdog: &heartbeat::Settings) {
        let heartbeat::Settings { stuck_after } = watchdog;
        self.table("watchdog", "[watchdog]");
        self.key("stuck_after", duration(*stuck_after), DEFAULT);
    }

    fn admin(&mut self, admin: &admin::Settings) {
        let admin::Settings {
            address,
            socket,
            tokens,
            hosts,
            peers,
            peers_token: _,
            configuration: _,
        } = admin;
        self.table("admin", "[admin]");
        self.key("enabled", plain(*address != admin::Address::Off), DEFAULT);
        let default = format!("{}, if that is free (default)", admin::ADDRESS_DEFAULT);
        match address {
            admin::Address::At(addresses) => match &addresses[..] {
                [address] => self.key("address", string(address), DEFAULT),
                addresses => self.key("address", list(addresses), DEFAULT),
            },
            admin::Address::Default => self.optional("address", None, &default),
            admin::Address::Off => self.optional("address", None, "none: not enabled"),
        }
        match socket {
            admin::Socket::At(path) => self.key("socket", string(path.display()), DEFAULT),
            admin::Socket::Default => {
                let paths = admin.socket_paths();
                let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
                let default = match &paths[..] {
                    [] => "none: not enabled".to_owned(),
                    paths => format!("{}, whose directory is this user's (default)", paths.join(" or ")),
                };
                self.optional("socket", None, &default);
            }
        }
        let tokens: Vec<String> = (tokens.iter().enumerate())
            .map(|(index, token)| {
                let Toml(name) = string(&token.name);
                let file = self.file_of(&format!("tokens[{index}].file"));
                let file = file.map_or(String::new(), |Toml(file)| format!(", file = {file}"));
                format!("{{ name = {name}{file}, scope = \"{}\" }}", token.scope.name())
            })
            .collect();
        self.key("tokens", Toml(format!("[{}]", tokens.join(", "))), DEFAULT);
        self.key("hosts", list(hosts), DEFAULT);
        let peers: Vec<String> = peers.iter().map(|peer| format!("http://{peer}")).collect();
        self.key("peers", list(&peers), DEFAULT);
        self.file("peers_token", "none (default)");
    }

    fn log(&mut self, log: &log::Settings) {
        let log::Settings {
            level,
            format,
            output,
            file,
            file_size_max,
            file_count,
            connections,
            unrouted_rate,
        } = log;
        self.table("log", "[log]");
        let level = match level {
            log::Level::Error => "error",
            log::Level::Warn => "warn",
            log::Level::Info => "info",
            log::Level::Debug => "debug",
        };
        self.key("level", string(level), DEFAULT);
        let format = match format {
            log::Format::Text => "text",
            log::Format::Json => "json",
        };
        self.key("format", string(format), DEFAULT);
        let output = output.map(|output| match output {
            log::Output::Stdout => string("stdout"),
            log::Output::Journald => string("journald"),
        });
        self.optional(
            "output",
            output,
            "journald where text on standard output goes there, else stdout (default)",
        );
        let file = file.as_ref().map(|path| string(path.display()));
        self.optional("file", file, "none (default)");
        let bytes = file_size_max.and_then(|max| usize::try_from(max).ok());
        self.key("file_size_max", size(bytes.unwrap_or(0)), DEFAULT);
        self.key("file_count", plain(file_count), DEFAULT);
        let connections = match connections {
            log::Connections::End => "end",
            log::Connections::Both => "both",
            log::Connections::None => "none",
        };
        self.key("connections", string(connections), DEFAULT);
        self.key("unrouted_rate", plain(unrouted_rate), DEFAULT);
    }
}

/// The name that an endpoint's certificate must have, if it is not the host of its address.
fn own_name<'a>(tls: &'a EndpointTls, address: &NodeAddress) -> Option<&'a str> {
    let name = &*tls.server_name;
    let host = match address {
        NodeAddress::Socket(address) => ServerName::from(address.ip()),
        NodeAddress::Host(host, _) => ServerName::try_from(host.clone()).ok()?,
    };
    (host.to_str() != name).then_some(name)
}
