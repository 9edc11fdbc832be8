//! Keys that operators bring along from nginx, HAProxy and EMQX: which key is meant here, and with which value.

use std::net::Ipv6Addr;

use toml::de::{DeTable, DeValue};

use super::address::{AdminAddress, ListenerAddress, LogPath};
use super::meant::Scheme;
use super::node_address::NodeMqtt;
use super::reader::{Leaf, Meant};
use super::units::{HOUR, Size, Time, Whole};
use super::words::{self, PAIR, list_of, suggested, text, toml};

/// A duration, as far as other programs have it.
type AnyTime = Time<1, { 500 * HOUR }>;

/// A number of connections.
type Connections = Whole<usize, 1, 100_000_000>;

/// What was probably meant by `key` in the table at `path`, if other programs have such a key.
pub(super) fn meant(path: &str, key: &str, value: &DeValue<'_>, table: &DeTable<'_>) -> Option<Meant> {
    let kind = path.split('[').next().unwrap_or_default();
    let key = key.to_ascii_lowercase().replace(['-', '.', ' '], "_");
    let unknown = Unknown {
        key: &key,
        value,
        table,
    };
    match kind {
        "" => unknown.at_top(),
        "listeners" => unknown.of_listener(),
        "nodes" => unknown.of_node(),
        "nodes_tls" => unknown.of_nodes_tls(),
        _ => unknown.of_settings(kind),
    }
}

/// An unknown key, with its value and the table that it is in.
struct Unknown<'a, 't> {
    key: &'a str,
    value: &'a DeValue<'t>,
    table: &'a DeTable<'t>,
}

impl Unknown<'_, '_> {
    fn at_top(&self) -> Option<Meant> {
        let is_table = self.value.is_table() || self.value.is_array();
        Some(match self.key {
            "server" | "servers" | "upstream" | "upstreams" | "backend" | "backends" | "members" | "cluster"
            | "endpoints"
                if is_table =>
            {
                renamed("nodes")
            }
            "server" | "servers" | "upstream" | "upstreams" | "backend" | "backends" | "cluster" | "endpoints" => {
                let address = convert::<NodeMqtt>(self.value, "\"10.0.0.11:1883\"");
                of_table(
                    "nodes",
                    format!("add [[nodes]] with name = \"emqx1\" and address = {address}"),
                )
            }
            "frontend" | "frontends" | "listen" | "bind" | "stream" | "http" | "tcp" | "ws" if is_table => {
                renamed("listeners")
            }
            "listen" | "bind" | "port" | "frontend" | "address" | "host" => {
                let address = convert::<ListenerAddress>(self.value, "\"0.0.0.0:1883\"");
                of_table("listeners", format!("add [[listeners]] with address = {address}"))
            }
            "tls" | "ssl" if is_table => {
                out("TLS of clients is in keys of [[listeners]] (tls, certificates), TLS to nodes in [nodes_tls]")
            }
            "proxy_protocol" => out(
                "PROXY headers of upstream proxies are proxy_protocol_from of a listener, those to a node are proxy_protocol of the node",
            ),
            "maxconn" | "max_connections" | "worker_connections" | "connections_max" | "max_conn" => {
                elsewhere("limits", "connections", convert::<Connections>(self.value, "100000"))
            }
            "worker_processes" | "nbthread" | "nbproc" | "threads" | "worker_threads" | "num_threads"
                if self.text() != "auto" =>
            {
                write("workers", convert::<Whole<usize, 1, 1024>>(self.value, "2"))
            }
            "worker_processes" | "nbthread" | "nbproc" | "threads" | "worker_threads" | "num_threads" => {
                out("by default there is one thread for each core")
            }
            "log_level" | "loglevel" | "verbosity" => elsewhere("log", "level", self.level()),
            "error_log" | "access_log" | "log_file" | "logfile" if self.text().starts_with('/') => {
                elsewhere("log", "file", convert::<LogPath>(self.value, LOG_FILE))
            }
            "error_log" | "access_log" | "log_file" | "logfile" | "syslog" => out(LOG_IS_OUTPUT),
            "user" | "group" | "daemon" | "pid" | "pidfile" | "pid_file" | "chroot" | "master_process" => {
                out("systemd does that, see config/remora.service")
            }
            "ulimit_n" | "worker_rlimit_nofile" | "nofile" => {
                out("the limit of open files is raised to the hard limit; LimitNOFILE of systemd sets that")
            }
            "enabled" | "enable" | "disabled" => {
                out("only the admin listener can be switched off, by enabled in [admin]")
            }
            "global" | "defaults" | "events" | "main" => {
                out("limits are in [limits], durations in [timeouts], the log is in [log]")
            }
            "balance" | "hash" | "sticky" | "stick" | "stick_table" | "sticky_session" | "lb_method" => {
                elsewhere("affinity", "key", self.affinity())
            }
            "metrics" | "prometheus" | "stats" | "api" | "dashboard" if is_table => renamed("admin"),
            "metrics" | "prometheus" | "stats" | "api" | "dashboard" => out("metrics are served at address of [admin]"),
            _ => return None,
        })
    }

    fn of_listener(&self) -> Option<Meant> {
        Some(match self.key {
            "listen" | "bind" | "host" | "ip" | "addr" | "listen_address" | "bind_address" | "hostname" | "url"
            | "port" | "listen_port" | "bind_port" | "endpoint" => self.address::<ListenerAddress>("\"0.0.0.0:1883\""),
            "server_name" | "server_names" | "sni" => {
                out("certificates are chosen by the host names in them, and no other name is refused")
            }
            "proxy_protocol" | "accept_proxy" | "proxy" | "send_proxy" if self.is_off() => {
                out("PROXY headers are expected only with proxy_protocol_from")
            }
            "proxy_protocol" | "accept_proxy" | "proxy" | "send_proxy" => {
                let Meant { hint, key } = write("proxy_protocol_from", "[\"10.0.0.0/8\"]");
                let hint = format!("{hint}, with the networks of the proxies that send the headers");
                Meant { hint, key }
            }
            "real_ip_from" | "set_real_ip_from" | "trusted_proxies" => write("proxy_protocol_from", self.list()),
            "ssl" | "tls_enabled" | "secure" | "ssl_enabled" | "enable_tls" | "https" if self.is_off() => {
                out("without tls = \"end\", the listener has no TLS")
            }
            "ssl" | "tls_enabled" | "secure" | "ssl_enabled" | "enable_tls" | "https" | "ssl_options" => {
                write("tls", "\"end\"")
            }
            "ssl_certificate"
            | "ssl_certificate_key"
            | "certificate"
            | "certificate_key"
            | "cert"
            | "certs"
            | "crt"
            | "certfile"
            | "cert_file"
            | "tls_cert"
            | "ssl_cert"
            | "chain"
            | "key"
            | "keyfile"
            | "key_file"
            | "private_key"
            | "tls_key"
            | "ssl_key"
            | "certificate_file"
            | "certkey" => write("certificates", format!("[{}]", self.pair())),
            "ca" | "cacertfile" | "ca_file" | "cafile" | "ssl_client_certificate" | "client_ca_file" | "ca_cert" => {
                write("client_ca", self.path("ca.pem"))
            }
            "crl" | "ssl_crl" | "crl_file" | "crlfile" => write("client_crl", self.path("crl.pem")),
            "verify"
            | "ssl_verify_client"
            | "verify_client"
            | "client_auth"
            | "fail_if_no_peer_cert"
            | "require_client_certificate" => write("client_certificates", self.verify()),
            "ssl_protocols" | "tls_version" | "tls_versions" | "min_tls_version" | "ssl_min_ver"
            | "tls_min_version" | "versions" => {
                let text = self.text();
                let only_13 = text.contains("1.3") && !text.contains("1.2");
                write("tls_min", if only_13 { "\"1.3\"" } else { "\"1.2\"" })
            }
            "maxconn" | "max_connections" | "max_conn" | "max_conns" | "connection_limit" | "connections" => {
                write("connections_max", convert::<Connections>(self.value, "10000"))
            }
            "timeout" | "connect" | "client_header_timeout" | "handshake_timeout" | "proxy_protocol_timeout" => {
                self.time(None, "connect_timeout", "\"15s\"")
            }
            "path" | "mqtt_path" | "ws_path" | "location" => write("paths", self.list()),
            "protocol" | "type" | "mode" | "scheme" => return self.transport(),
            "websocket" | "websockets" | "ws" if self.value.is_bool() || self.value.is_table() => match self.is_off() {
                true => out("without transport = \"ws\", the listener has no WebSocket"),
                false => write("transport", "\"ws\""),
            },
            "pass" | "passthrough" | "tls_passthrough" | "ssl_preread" if self.value.is_bool() => match self.is_off() {
                true => out("without tls = \"pass\", no TLS is passed on"),
                false => write("tls", "\"pass\""),
            },
            "enabled" | "enable" | "disabled" => self.enabled("[[listeners]]", "every listener in the file is opened"),
            "whitelist" | "allowlist" | "permit" | "allow_from" | "allowed" => write("allow", self.list()),
            "blacklist" | "denylist" | "block" | "disallow" | "deny_from" | "denied" | "reject" => {
                write("deny", self.list())
            }
            "origin" | "check_origins" | "allowed_origins" | "allow_origins" => write("origins", self.list()),
            "backlog" | "reuseport" | "so_reuseport" | "acceptors" | "nodelay" | "tcp_nodelay" | "defer_accept" => {
                out("that is always as it should be")
            }
            _ => return None,
        })
    }

    fn of_node(&self) -> Option<Meant> {
        Some(match self.key {
            "server" | "host" | "ip" | "addr" | "url" | "uri" | "hostname" | "port" | "endpoint" | "target"
            | "mqtt" => self.address::<NodeMqtt>("\"10.0.0.11:1883\""),
            "id" | "node" | "node_name" | "label" => write("name", suggested(&self.text())),
            "tls" | "ssl" | "secure" | "ssl_enabled" if self.is_off() => {
                out("a node is reached without TLS unless its address begins with mqtts://")
            }
            "tls" | "ssl" | "secure" | "ssl_enabled" => {
                let address = self
                    .sibling(&["address"])
                    .unwrap_or_else(|| "10.0.0.11:8883".to_owned());
                match address.contains("://") {
                    true => out("the scheme of the address says it"),
                    false => write("address", suggested(&format!("mqtts://{address}"))),
                }
            }
            "cacertfile" | "ca_file" | "cafile" | "ssl_ca" | "client_ca" | "trusted_certificate" => {
                elsewhere("nodes_tls", "ca", self.path("ca.pem"))
            }
            "certificates"
            | "cert"
            | "key"
            | "certfile"
            | "keyfile"
            | "chain"
            | "crt"
            | "ssl_certificate"
            | "ssl_certificate_key" => elsewhere("nodes_tls", "certificate", self.pair()),
            "verify" | "ssl_verify" | "tls_verify" if self.is_off() => {
                elsewhere("nodes_tls", "insecure_skip_verify", "true")
            }
            "verify" | "ssl_verify" | "tls_verify" => out("certificates of nodes are verified by ca of [nodes_tls]"),
            "sni" | "verifyhost" | "ssl_name" | "proxy_ssl_name" => {
                write("server_name", self.path("emqx1.example.com"))
            }
            "send_proxy" | "proxy" | "send_proxy_protocol" if self.is_off() => {
                out("no PROXY header is sent by default")
            }
            "send_proxy" => write("proxy_protocol", "\"v1\""),
            "send_proxy_v2" | "proxy" | "send_proxy_protocol" => write("proxy_protocol", "\"v2\""),
            "transport" | "path" | "paths" | "ws_path" | "websocket" | "protocol" => {
                let host = self
                    .sibling(&["address"])
                    .unwrap_or_else(|| "10.0.0.11:1883".to_owned());
                let host = host.rsplit("://").next().unwrap_or_default().to_owned();
                let host = host.rsplit_once(':').map_or(&*host, |(host, _)| host).to_owned();
                match Scheme::of(&self.text()).is_some_and(|scheme| !scheme.is_ws) {
                    true => out("address is the node's MQTT listener, and ws its WebSocket listener"),
                    false => write("ws", suggested(&format!("ws://{host}:8083/mqtt"))),
                }
            }
            "backup" | "down" | "disabled" | "enabled" | "enable" | "drain" | "state" => {
                self.enabled("[[nodes]]", "every node in the file gets clients")
            }
            "maxconn" | "max_conns" | "max_connections" | "max_conn" | "connections" => {
                write("connections_max", convert::<Connections>(self.value, "10000"))
            }
            "max_fails" | "failures_max" => elsewhere(
                "health",
                "failures_max",
                convert::<Whole<u32, 1, 1_000_000>>(self.value, "3"),
            ),
            "fail_timeout" | "inter" | "interval" | "check_interval" => self.time(Some("health"), "down_max", "\"1s\""),
            "slowstart" | "slow_start" => {
                out("with connects_per_second of [pacing], the rate of a node that has come back rises for slow_start")
            }
            "max_conn_rate" | "maxconnrate" | "connect_rate" | "conn_rate" | "rate" => write(
                "connects_per_second",
                convert::<Whole<u32, 1, 1_000_000>>(self.value, "500"),
            ),
            "check" | "health_check" => out("nodes are probed when clients fail there, see [health]"),
            "rise" => elsewhere("health", "rise", convert::<Whole<u32, 1, 1_000_000>>(self.value, "1")),
            "fall" => elsewhere("health", "fall", convert::<Whole<u32, 1, 1_000_000>>(self.value, "10")),
            "timeout" | "connect_timeout" | "dial_timeout" => self.time(Some("timeouts"), "dial", "\"2s\""),
            _ => return None,
        })
    }

    fn of_nodes_tls(&self) -> Option<Meant> {
        Some(match self.key {
            "cacertfile" | "ca_file" | "cafile" | "client_ca" | "trusted_certificate" | "ca_cert" => {
                write("ca", self.path("ca.pem"))
            }
            "certificates" | "cert" | "key" | "certfile" | "keyfile" | "chain" | "crt" => {
                write("certificate", self.pair())
            }
            "verify" | "tls_verify" | "ssl_verify" if self.is_off() => write("insecure_skip_verify", "true"),
            "verify" | "tls_verify" | "ssl_verify" => out("certificates of nodes are verified by ca"),
            "enabled" | "enable" => out("the addresses of nodes say where TLS is used: mqtts:// and wss://"),
            _ => return None,
        })
    }

    fn of_settings(&self, table: &str) -> Option<Meant> {
        if matches!(self.key, "enabled" | "enable" | "disabled") && !matches!(table, "admin" | "health") {
            return Some(out(
                "only the admin listener can be switched off, by enabled in [admin]",
            ));
        }
        let time = |key, fallback| self.time(None, key, fallback);
        Some(match (table, self.key) {
            ("limits", "maxconn" | "max_connections" | "max_conn" | "connections_max" | "worker_connections") => {
                write("connections", convert::<Connections>(self.value, "100000"))
            }
            ("affinity", "hash_balance_factor" | "balance_factor" | "bounded_load") => {
                write("load_max", convert::<Whole<u32, 101, 10_000>>(self.value, "125"))
            }
            ("limits", "max_conn_per_ip" | "per_ip" | "per_source" | "limit_conn") => {
                write("connections_per_source", convert::<Connections>(self.value, "1000"))
            }
            ("limits", "conn_rate" | "connects_per_source" | "max_conn_rate" | "rate" | "limit_req") => write(
                "connects_per_source_per_second",
                convert::<Whole<u32, 1, 10_000>>(self.value, "100"),
            ),
            ("timeouts", "client" | "server" | "tunnel" | "idle" | "read" | "idle_timeout" | "proxy_timeout") => {
                time("idle_max", "\"24h\"")
            }
            ("timeouts", "connection" | "handshake" | "client_hello" | "accept" | "connect_timeout") => {
                time("connect", "\"5s\"")
            }
            ("timeouts", "backend" | "node" | "upstream" | "proxy_connect_timeout") => time("dial", "\"2s\""),
            ("timeouts", "client_fin" | "server_fin" | "close" | "shutdown") => time("linger", "\"5s\""),
            ("admin", "host" | "port" | "listen" | "bind" | "ip" | "addr" | "bind_address" | "listen_address") => {
                self.address::<AdminAddress>("\"127.0.0.1:9883\"")
            }
            ("admin", "password" | "user" | "username" | "token" | "auth" | "api_key") => out(
                "a token is a file of its own, named in tokens; without one, only /livez, /readyz, /metrics and a page that says no more are served on TCP",
            ),
            ("log", "path" | "target" | "destination" | "to" | "file_name" | "filename")
                if self.text().starts_with('/') =>
            {
                write("file", convert::<LogPath>(self.value, LOG_FILE))
            }
            ("log", "path" | "target" | "destination" | "dir" | "to") => out(LOG_IS_OUTPUT),
            ("log", "max_size" | "size_max" | "rotate_size" | "size" | "file_max_size") => write(
                "file_size_max",
                convert::<Size<0, { 1 << 40 }>>(self.value, "\"100MiB\""),
            ),
            ("log", "count" | "rotate" | "backups" | "max_files" | "keep" | "rotate_count" | "max_backups") => {
                write("file_count", convert::<Whole<u32, 0, 1000>>(self.value, "5"))
            }
            ("log", "verbosity" | "severity" | "log_level") => write("level", self.level()),
            ("health", "inter" | "check_interval") => self.time(None, "interval", "\"10s\""),
            ("health", "fail_timeout") => {
                let time = convert::<AnyTime>(self.value, "\"1s\"");
                write("down_min", format!("{time} and down_max = {time}"))
            }
            ("health", "max_fails" | "retries" | "failures") => {
                write("failures_max", convert::<Whole<u32, 1, 1_000_000>>(self.value, "3"))
            }
            ("health", "timeout") => self.time(Some("timeouts"), "dial", "\"2s\""),
            ("health", "enabled" | "path" | "url" | "uri" | "port") => {
                out("a node is probed at its addresses, once a client has failed there")
            }
            ("drain", "timeout" | "max" | "hard_stop_after" | "shutdown_timeout") => {
                self.time(None, "grace", "\"30s\"")
            }
            ("affinity", "by" | "hash" | "on" | "type" | "mode" | "method" | "sticky") => write("key", self.affinity()),
            _ => return None,
        })
    }

    /// The key of a duration, of another table if there is one, with what a bare number may mean besides.
    fn time(&self, table: Option<&str>, key: &'static str, fallback: &str) -> Meant {
        let parsed = AnyTime::parse(self.value);
        let hint = parsed.err().map(|mismatch| mismatch.hint).unwrap_or_default();
        let other = hint.split_once(", or ").filter(|_| hint.starts_with("write \""));
        let other = other.and_then(|(_, other)| other.split(';').next());
        let other = other.map_or(String::new(), |other| format!(", or {other}"));
        let value = convert::<AnyTime>(self.value, fallback);
        let Meant { hint, key } = match table {
            Some(table) => elsewhere(table, key, value),
            None => write(key, value),
        };
        Meant {
            hint: format!("{hint}{other}"),
            key,
        }
    }

    /// The address that this key and its like in the same table mean together.
    fn address<A: Leaf>(&self, fallback: &str) -> Meant {
        const PORTS: [&str; 3] = ["port", "listen_port", "bind_port"];
        if self.table.contains_key("address") {
            return out("address has the host and the port");
        }
        let (host, port) = match PORTS.contains(&self.key) {
            true => (self.sibling(&HOSTS), Some(self.text())),
            false => (Some(self.text()), self.sibling(&PORTS)),
        };
        let has_port = |host: &str| {
            host.rsplit_once(':')
                .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        };
        let text = match (host, port) {
            (Some(host), Some(port)) if host.parse::<Ipv6Addr>().is_ok() => format!("[{host}]:{port}"),
            (Some(host), Some(port)) if !has_port(&host) => format!("{host}:{port}"),
            (Some(host), _) => host,
            (None, Some(port)) => port,
            (None, None) => String::new(),
        };
        let value = DeValue::String(text.into());
        let address = match A::parse(&value) {
            Ok(_) => toml(&value),
            // With what else that address means: TLS, or WebSocket.
            Err(mismatch) => match mismatch.hint.strip_prefix("write ") {
                Some(hint) if hint.starts_with('"') => hint.to_owned(),
                _ => first_value(&mismatch.hint).unwrap_or_else(|| fallback.to_owned()),
            },
        };
        write("address", address)
    }

    /// The certificate and the key that this key and its like in the same table mean together.
    fn pair(&self) -> String {
        if let DeValue::Array(_) | DeValue::Table(_) = self.value {
            return PAIR.to_owned();
        }
        const CHAINS: [&str; 11] = [
            "chain",
            "ssl_certificate",
            "certificate",
            "cert",
            "certs",
            "crt",
            "certfile",
            "cert_file",
            "tls_cert",
            "ssl_cert",
            "certificate_file",
        ];
        const KEYS: [&str; 9] = [
            "key",
            "ssl_certificate_key",
            "certificate_key",
            "keyfile",
            "key_file",
            "private_key",
            "tls_key",
            "ssl_key",
            "certkey",
        ];
        let own = |keys: &[&str]| keys.contains(&self.key).then(|| self.text());
        let chain = own(&CHAINS)
            .or_else(|| self.sibling(&CHAINS))
            .unwrap_or_else(|| "tls.pem".to_owned());
        let key = own(&KEYS)
            .or_else(|| self.sibling(&KEYS))
            .unwrap_or_else(|| "tls.key".to_owned());
        format!("{{ chain = {}, key = {} }}", suggested(&chain), suggested(&key))
    }

    fn transport(&self) -> Option<Meant> {
        let scheme = Scheme::of(&self.text())?;
        let word = if scheme.is_ws { "\"ws\"" } else { "\"tcp\"" };
        let tls = if scheme.has_tls { " and tls = \"end\"" } else { "" };
        Some(write("transport", format!("{word}{tls}")))
    }

    /// What a switch for a whole listener or node means.
    fn enabled(&self, table: &str, why: &str) -> Meant {
        let is_negative = !matches!(self.key, "enabled" | "enable");
        let is_state = self.value.is_str() && self.key == "state" && matches!(&*self.text(), "up" | "ready");
        match is_state || self.is_off() == is_negative {
            true => out(why),
            false => Meant {
                hint: format!("leave the {table} out: {why}"),
                key: None,
            },
        }
    }

    fn verify(&self) -> &'static str {
        match &*self.text().to_ascii_lowercase() {
            "optional" | "optional_no_ca" => "\"optional\"",
            _ if self.is_off() => "\"off\"",
            _ => "\"required\"",
        }
    }

    fn level(&self) -> String {
        let text = self.text().to_ascii_lowercase();
        let level = match &*text {
            "error" | "warn" | "info" | "debug" => &*text,
            text => words::level(text).unwrap_or("info"),
        };
        suggested(level)
    }

    fn affinity(&self) -> String {
        let text = self.text().to_ascii_lowercase();
        suggested(words::affinity(&text).unwrap_or("client_id"))
    }

    fn is_off(&self) -> bool {
        matches!(
            &*self.text().to_ascii_lowercase(),
            "false" | "off" | "no" | "none" | "0" | "disabled" | "verify_none"
        )
    }

    fn path(&self, fallback: &str) -> String {
        match self.value.as_str() {
            Some(path) => suggested(path),
            None => suggested(fallback),
        }
    }

    fn list(&self) -> String {
        list_of(self.value).unwrap_or_else(|| "[\"...\"]".to_owned())
    }

    fn text(&self) -> String {
        text(self.value).unwrap_or_default()
    }

    /// The value of the first of these keys that the table has.
    fn sibling(&self, keys: &[&str]) -> Option<String> {
        let known = |key: &str| keys.contains(&&*key.to_ascii_lowercase().replace('-', "_"));
        let mut entries = self.table.iter();
        entries.find_map(|(key, value)| known(key.get_ref()).then(|| text(value.get_ref()))?)
    }
}

const HOSTS: [&str; 11] = [
    "host",
    "ip",
    "addr",
    "hostname",
    "server",
    "listen",
    "bind",
    "listen_address",
    "bind_address",
    "url",
    "endpoint",
];

const LOG_IS_OUTPUT: &str =
    "the log is standard output, which systemd or a container keeps, or file = \"/var/log/remora/remora.log\" in [log]";
const LOG_FILE: &str = "\"/var/log/remora/remora.log\"";

fn write(key: &'static str, value: impl AsRef<str>) -> Meant {
    Meant {
        hint: format!("write {key} = {}", value.as_ref()),
        key: Some(key),
    }
}

fn elsewhere(table: &str, key: &'static str, value: impl AsRef<str>) -> Meant {
    Meant {
        hint: format!("write {key} = {} in [{table}]", value.as_ref()),
        key: None,
    }
}

fn out(why: &str) -> Meant {
    Meant {
        hint: format!("leave the key out: {why}"),
        key: None,
    }
}

fn renamed(table: &'static str) -> Meant {
    of_table(table, format!("did you mean `{table}`?"))
}

fn of_table(table: &'static str, hint: String) -> Meant {
    Meant { hint, key: Some(table) }
}

/// The value for a key of type `L` that `value` means: itself, what its own hint says, or `fallback`.
fn convert<L: Leaf>(value: &DeValue<'_>, fallback: &str) -> String {
    match L::parse(value) {
        Ok(_) => toml(value),
        Err(mismatch) => first_value(&mismatch.hint).unwrap_or_else(|| fallback.to_owned()),
    }
}

/// The first value in a hint: `"5s"` or `5` in `write "5s"; the units are ...`.
fn first_value(hint: &str) -> Option<String> {
    let rest = hint.strip_prefix("write ")?;
    if let Some(rest) = rest.strip_prefix('"') {
        return rest.find('"').map(|end| format!("\"{}\"", &rest[..end]));
    }
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}
