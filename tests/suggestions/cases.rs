//! Mistakes, most of them habits from nginx, HAProxy and EMQX, and what was meant: lines of the configuration in force, for each
//! alternative of the first suggestion.

/// All cases: the configuration, and for each configuration that its suggestions lead to, lines of it, separated by `; `.
pub(super) fn all() -> Vec<(String, Vec<&'static str>)> {
    let listener = LISTENER.iter().map(|(lines, means)| {
        let address = if has(lines, &ADDRESSES) {
            ""
        } else {
            "address = \"0.0.0.0:1884\"\n"
        };
        (format!("[[listeners]]\n{address}{lines}\n{NODE}"), means.to_vec())
    });
    let node = NODES.iter().map(|(lines, means)| {
        let name = if has(lines, &["name", "id"]) {
            ""
        } else {
            "name = \"emqx9\"\n"
        };
        let address = if has(lines, &ADDRESSES) {
            ""
        } else {
            "address = \"10.0.0.19:1883\"\n"
        };
        let tls = "[nodes_tls]\nca = \"ca.pem\"\n";
        (
            format!("{LISTENER_ONLY}\n{NODE}\n[[nodes]]\n{name}{address}{lines}\n{tls}"),
            means.to_vec(),
        )
    });
    let table = TABLES
        .iter()
        .map(|(lines, means)| (format!("{LISTENER_ONLY}\n{NODE}\n{lines}\n"), means.to_vec()));
    let top = TOP
        .iter()
        .map(|(lines, means)| (format!("{lines}\n{LISTENER_ONLY}\n{NODE}"), means.to_vec()));
    let whole = WHOLE.iter().map(|(text, means)| ((*text).to_owned(), means.to_vec()));
    listener.chain(node).chain(table).chain(top).chain(whole).collect()
}

type Cases = &'static [(&'static str, &'static [&'static str])];

const LISTENER_ONLY: &str = "[[listeners]]\naddress = \"0.0.0.0:1884\"\n";
const NODE: &str = "[[nodes]]\nname = \"emqx1\"\naddress = \"10.0.0.11:1883\"\n";

/// Keys that mean an address.
const ADDRESSES: [&str; 11] = [
    "address", "listen", "bind", "host", "port", "server", "url", "hostname", "ip", "mqtt", "endpoint",
];

/// Whether one of the lines has one of these keys.
fn has(lines: &str, keys: &[&str]) -> bool {
    let mut written = lines.lines().filter_map(|line| line.split_once(" = "));
    written.any(|(key, _)| keys.contains(&key))
}

const LISTENER: Cases = &[
    // Addresses.
    ("address = 1885", &["address = \"0.0.0.0:1885\""]),
    ("address = \"1885\"", &["address = \"0.0.0.0:1885\""]),
    (
        "address = \":1885\"",
        &["address = \"0.0.0.0:1885\"", "address = \"[::]:1885\""],
    ),
    (
        "address = \"*:1885\"",
        &["address = \"0.0.0.0:1885\"", "address = \"[::]:1885\""],
    ),
    ("address = \"localhost:1885\"", &["address = \"127.0.0.1:1885\""]),
    ("address = \"lb1.example.com:1885\"", &["address = \"0.0.0.0:1885\""]),
    ("address = \"10.0.0.7\"", &["address = \"10.0.0.7:1883\""]),
    ("address = \"10.0.0.7:\"", &["address = \"10.0.0.7:1883\""]),
    ("address = \"10.0.0.7 1885\"", &["address = \"10.0.0.7:1885\""]),
    ("address = \" 10.0.0.7:1885\"", &["address = \"10.0.0.7:1885\""]),
    ("address = \"::1:23101\"", &["address = \"[::1]:23101\""]),
    (
        "address = \"::1:1885\"",
        &["address = \"[::1]:1885\"", "address = \"[::1:1885]:1883\""],
    ),
    ("address = \":::1885\"", &["address = \"[::]:1885\""]),
    ("address = \"::1\"", &["address = \"[::1]:1883\""]),
    ("address = \"0.0.0.0:1885/mqtt\"", &["address = \"0.0.0.0:1885\""]),
    ("address = [\"0.0.0.0:1885\"]", &["address = \"0.0.0.0:1885\""]),
    ("address = true", &["address = \"0.0.0.0:1883\""]),
    (
        "address = \"tcp://0.0.0.0:1885\"",
        &["address = \"0.0.0.0:1885\"; tls = \"off\"; transport = \"tcp\""],
    ),
    (
        "address = \"mqtt://:1885\"",
        &["address = \"0.0.0.0:1885\"; tls = \"off\""],
    ),
    (
        "address = \"ssl://0.0.0.0:8883\"",
        &["address = \"0.0.0.0:8883\"; tls = \"end\"; transport = \"tcp\""],
    ),
    (
        "address = \"mqtts://0.0.0.0\"",
        &["address = \"0.0.0.0:8883\"; tls = \"end\""],
    ),
    (
        "address = \"ws://0.0.0.0:8083/mqtt\"",
        &["address = \"0.0.0.0:8083\"; tls = \"off\"; transport = \"ws\""],
    ),
    (
        "address = \"wss://0.0.0.0:8084/other\"",
        &["address = \"0.0.0.0:8084\"; tls = \"end\"; transport = \"ws\"; paths = [\"/other\"]"],
    ),
    ("address = \"quic://0.0.0.0:14567\"", &["address = \"0.0.0.0:14567\""]),
    ("listen = 1885", &["address = \"0.0.0.0:1885\""]),
    ("listen = \"*:1885\"", &["address = \"0.0.0.0:1885\""]),
    ("bind = \"0.0.0.0:1885\"", &["address = \"0.0.0.0:1885\""]),
    ("bind = \"ssl://:8883\"", &["address = \"0.0.0.0:8883\"; tls = \"end\""]),
    ("port = 1885", &["address = \"0.0.0.0:1885\""]),
    ("host = \"10.0.0.7\"\nport = 1885", &["address = \"10.0.0.7:1885\""]),
    ("host = \"::1\"\nport = \"1885\"", &["address = \"[::1]:1885\""]),
    // What carries MQTT.
    ("transport = \"wss\"", &["transport = \"ws\"; tls = \"end\""]),
    ("transport = \"https\"", &["transport = \"ws\"; tls = \"end\""]),
    ("transport = \"http\"", &["transport = \"ws\"; tls = \"off\""]),
    ("transport = \"websocket\"", &["transport = \"ws\"; tls = \"off\""]),
    ("transport = \"mqtts\"", &["transport = \"tcp\"; tls = \"end\""]),
    ("transport = \"ssl\"", &["transport = \"tcp\"; tls = \"end\""]),
    ("transport = \"TLS\"", &["transport = \"tcp\"; tls = \"end\""]),
    ("transport = \"mqtt\"", &["transport = \"tcp\"; tls = \"off\""]),
    ("transport = \"quic\"", &["transport = \"tcp\"", "transport = \"ws\""]),
    ("protocol = \"wss\"", &["transport = \"ws\"; tls = \"end\""]),
    ("type = \"tcp\"", &["transport = \"tcp\""]),
    ("websocket = true", &["transport = \"ws\""]),
    ("ws = false", &["transport = \"tcp\""]),
    ("path = \"/mqtt\"\ntransport = \"ws\"", &["paths = [\"/mqtt\"]"]),
    ("paths = \"/mqtt\"\ntransport = \"ws\"", &["paths = [\"/mqtt\"]"]),
    ("paths = [\"mqtt\"]\ntransport = \"ws\"", &["paths = [\"/mqtt\"]"]),
    (
        "paths = [\"ws://h:8083/other\"]\ntransport = \"ws\"",
        &["paths = [\"/other\"]"],
    ),
    (
        "paths = [\"/other?a=b\"]\ntransport = \"ws\"",
        &["paths = [\"/other\"]"],
    ),
    ("paths = [\"a b\"]\ntransport = \"ws\"", &["paths = [\"/mqtt\"]"]),
    ("paths = [7]\ntransport = \"ws\"", &["paths = [\"/mqtt\"]"]),
    ("paths = []\ntransport = \"ws\"", &["paths = [\"/mqtt\"]"]),
    (
        "paths = [\"/other\"]",
        &["transport = \"ws\"; paths = [\"/other\"]", "transport = \"tcp\""],
    ),
    (
        "origin = \"https://app.example\"\ntransport = \"ws\"",
        &["origins = [\"https://app.example\"]"],
    ),
    (
        "origins = [\"https://App.Example\"]\ntransport = \"ws\"",
        &["origins = [\"https://app.example\"]"],
    ),
    (
        "origins = [\"wss://a.example:84\"]\ntransport = \"ws\"",
        &["origins = [\"https://a.example:84\"]"],
    ),
    // TLS.
    ("tls = true", &["tls = \"end\""]),
    ("tls = false", &["tls = \"off\""]),
    ("tls = \"ends\"", &["tls = \"end\""]),
    ("ssl = true", &["tls = \"end\""]),
    ("ssl = false", &["tls = \"off\""]),
    ("ssl_preread = true\n", &["tls = \"pass\""]),
    ("passthrough = false", &["tls = \"off\""]),
    ("tls = \"passthrough\"", &["tls = \"pass\""]),
    (
        "ssl = true\nssl_certificate = \"fullchain.pem\"\nssl_certificate_key = \"privkey.pem\"",
        &["tls = \"end\"; tls_min = \"1.2\""],
    ),
    (
        "certfile = \"fullchain.pem\"\nkeyfile = \"privkey.pem\"\ntls = \"end\"",
        &["tls = \"end\""],
    ),
    (
        "cert = \"fullchain.pem\"\nkey = \"privkey.pem\"\ntls = \"end\"",
        &["tls = \"end\""],
    ),
    ("certificates = \"fullchain.pem\"\ntls = \"end\"", &["tls = \"end\""]),
    ("certificates = [\"fullchain.pem\"]\ntls = \"end\"", &["tls = \"end\""]),
    (
        "certificates = { chain = \"tls.pem\", key = \"tls.key\" }\ntls = \"end\"",
        &["tls = \"end\""],
    ),
    ("certificates = []\ntls = \"end\"", &["tls = \"end\""]),
    (
        "certificates = [{ chain = \"tls.pem\", key = \"tls.key\" }]",
        &["tls = \"end\"", "tls = \"off\""],
    ),
    (
        "tls = \"end\"\nclient_ca = \"ca.pem\"\ncertificates = [{ chain = \"tls.pem\", key = \"tls.key\" }]",
        &[
            "client_certificates = \"required\"",
            "client_certificates = \"optional\"",
            "client_certificates = \"off\"",
        ],
    ),
    (
        "tls = \"end\"\ncacertfile = \"ca.pem\"\nverify = \"verify_peer\"",
        &["client_certificates = \"required\""],
    ),
    (
        "tls = \"end\"\nssl_client_certificate = \"ca.pem\"\nssl_verify_client = \"optional\"",
        &["client_certificates = \"optional\""],
    ),
    ("tls = \"end\"\nverify = false", &["client_certificates = \"off\""]),
    (
        "tls = \"end\"\nclient_certificates = true",
        &["client_certificates = \"required\""],
    ),
    (
        "tls = \"end\"\nclient_certificates = \"verify_none\"",
        &["client_certificates = \"off\""],
    ),
    ("tls = \"end\"\ntls_min = \"TLSv1.3\"", &["tls_min = \"1.3\""]),
    ("tls = \"end\"\ntls_min = 1.2", &["tls_min = \"1.2\""]),
    (
        "tls = \"end\"\nssl_protocols = \"TLSv1.2 TLSv1.3\"",
        &["tls_min = \"1.2\""],
    ),
    ("tls = \"end\"\nversions = [\"tlsv1.3\"]", &["tls_min = \"1.3\""]),
    ("tls = \"end\"\ntls_record_max = \"4k\"", &["tls_record_max = \"4KiB\""]),
    (
        "tls = \"end\"\ncertificates = [{ chain = \"disordered.pem\", key = \"tls.key\" }]",
        &["tls = \"end\""],
    ),
    ("server_name = \"mqtt.example.com\"", &["address = \"0.0.0.0:1884\""]),
    // Who connects.
    ("proxy_protocol = true", &["proxy_protocol_from = [\"10.0.0.0/8\"]"]),
    ("proxy_protocol = \"v2\"", &["proxy_protocol_from = [\"10.0.0.0/8\"]"]),
    ("proxy_protocol = false", &["proxy_protocol_from = []"]),
    (
        "set_real_ip_from = \"10.1.0.0/16\"",
        &["proxy_protocol_from = [\"10.1.0.0/16\"]"],
    ),
    (
        "allow = \"10.0.0.0/8, 192.0.2.7\"",
        &["allow = [\"10.0.0.0/8\", \"192.0.2.7/32\"]"],
    ),
    ("allow = [\"10.1.0.0/255.255.0.0\"]", &["allow = [\"10.1.0.0/16\"]"]),
    ("allow = [\"10.1.0.7:1883\"]", &["allow = [\"10.1.0.7/32\"]"]),
    ("allow = [\"localhost\"]", &["allow = [\"127.0.0.0/8\"]"]),
    ("allow = [7]", &["allow = [\"10.0.0.0/8\"]"]),
    ("blacklist = \"10.1.0.0/16\"", &["deny = [\"10.1.0.0/16\"]"]),
    ("disallow = [\"10.1.0.0/16\"]", &["deny = [\"10.1.0.0/16\"]"]),
    ("whitelist = [\"10.1.0.0/16\"]", &["allow = [\"10.1.0.0/16\"]"]),
    ("maxconn = 5000", &["connections_max = 5000"]),
    ("maxconn = \"5000\"", &["connections_max = 5000"]),
    (
        "connections_max = 0",
        &[
            "# connections_max: no limit (default)",
            "connections_max = 1",
            "connections_max = 100000000",
        ],
    ),
    (
        "connections_max = \"unlimited\"",
        &[
            "# connections_max: no limit (default)",
            "connections_max = 1",
            "connections_max = 100000000",
        ],
    ),
    ("connections_max = \"10_000\"", &["connections_max = 10000"]),
    ("connections_max = 1e4", &["connections_max = 10000"]),
    ("timeout = 5", &["connect_timeout = \"5s\""]),
    ("timeout = \"5000ms\"", &["connect_timeout = \"5s\""]),
    ("freebind = \"yes\"", &["freebind = true"]),
    ("freebind = 0", &["freebind = false"]),
    ("freebind = \"perhaps\"", &["freebind = true", "freebind = false"]),
    ("enabled = true", &["address = \"0.0.0.0:1884\""]),
    ("backlog = 1024", &["address = \"0.0.0.0:1884\""]),
    ("name = \" mqtt\"", &["name = \"mqtt\""]),
    ("name = \"\"", &["name = \"emqx1\""]),
    ("name = 7", &["name = \"emqx1\""]),
];

const NODES: Cases = &[
    ("api = \"10.0.0.19:18083\"", &["api = \"http://10.0.0.19:18083\""]),
    ("api = \"http://10.0.0.19\"", &["api = \"http://10.0.0.19:18083\""]),
    (
        "api = \"https://emqx9.example:18084/api/v5/nodes\"",
        &["api = \"https://emqx9.example:18084\""],
    ),
    ("api = 18083", &["api = \"http://10.0.0.11:18083\""]),
    (
        "api = \"http://key:secret@10.0.0.19:18083\"",
        &["api = \"http://10.0.0.19:18083\""],
    ),
    ("address = \"ssl://h:8883\"", &["address = \"mqtts://h:8883\""]),
    ("address = \"tls://h:8883\"", &["address = \"mqtts://h:8883\""]),
    ("address = \"MQTTS://h:8883\"", &["address = \"mqtts://h:8883\""]),
    ("address = \"mqtts://h\"", &["address = \"mqtts://h:8883\""]),
    ("address = \"mqtts://h:8883/\"", &["address = \"mqtts://h:8883\""]),
    (
        "address = \"mqtts://user:word@h:8883\"",
        &["address = \"mqtts://h:8883\""],
    ),
    (
        "address = \"mqtts://::1:8883\"",
        &[
            "address = \"mqtts://[::1]:8883\"",
            "address = \"mqtts://[::1:8883]:8883\"",
        ],
    ),
    ("address = \"mqtt://h:1883\"", &["address = \"h:1883\""]),
    ("address = \"tcp://h\"", &["address = \"h:1883\""]),
    (
        "address = \"ws://h:8083/mqtt\"",
        &["address = \"h:1883\"; ws = \"ws://h:8083/mqtt\""],
    ),
    (
        "address = \"wss://h:8084/mqtt\"",
        &["address = \"mqtts://h:8883\"; ws = \"wss://h:8084/mqtt\""],
    ),
    (
        "address = \"quic://h:14567\"",
        &["address = \"h:14567\"", "address = \"mqtts://h:14567\""],
    ),
    ("address = \"h\"", &["address = \"h:1883\""]),
    ("address = \"h:mqtts\"", &["address = \"h:8883\""]),
    ("address = \"h:0\"", &["address = \"h:1883\""]),
    ("address = \"1885\"", &["address = \"10.0.0.11:1885\""]),
    ("address = \":1885\"", &["address = \"10.0.0.11:1885\""]),
    ("address = \"0.0.0.0:1885\"", &["address = \"10.0.0.11:1885\""]),
    ("address = \"10.0.0.300:1885\"", &["address = \"10.0.0.11:1885\""]),
    ("host = \"h\"\nport = 1885", &["address = \"h:1885\""]),
    ("server = \"h:1885\"", &["address = \"h:1885\""]),
    ("url = \"mqtts://h:8883\"", &["address = \"mqtts://h:8883\""]),
    ("url = \"ssl://h:8883\"", &["address = \"mqtts://h:8883\""]),
    ("id = \"emqx7\"", &["name = \"emqx7\""]),
    ("tls = true", &["address = \"mqtts://10.0.0.19:1883\""]),
    ("ssl = false", &["address = \"10.0.0.19:1883\""]),
    (
        "tls = true\naddress = \"mqtts://h:8883\"",
        &["address = \"mqtts://h:8883\""],
    ),
    (
        "sni = \"broker.example\"\naddress = \"mqtts://h:8883\"",
        &["server_name = \"broker.example\""],
    ),
    (
        "server_name = \"broker.example:8883\"\naddress = \"mqtts://h:8883\"",
        &["server_name = \"broker.example\""],
    ),
    (
        "verify = false\naddress = \"mqtts://h:8883\"",
        &["insecure_skip_verify = true"],
    ),
    (
        "verify = true\naddress = \"mqtts://h:8883\"",
        &["insecure_skip_verify = false"],
    ),
    ("ws = \"http://h:8083/mqtt\"", &["ws = \"ws://h:8083/mqtt\""]),
    ("ws = \"https://h:8084/mqtt\"", &["ws = \"wss://h:8084/mqtt\""]),
    ("ws = \"mqtts://h:8883\"", &["ws = \"wss://h:8084\""]),
    ("ws = \"wss://h/mqtt\"", &["ws = \"wss://h:8084/mqtt\""]),
    ("ws = \"h/mqtt\"", &["ws = \"ws://h:8083/mqtt\""]),
    ("ws = \"ws://u:w@h:8083/mqtt\"", &["ws = \"ws://h:8083/mqtt\""]),
    ("ws = \"h:8083/a b\"", &["ws = \"ws://h:8083/mqtt\""]),
    ("transport = \"ws\"", &["ws = \"ws://10.0.0.19:8083/mqtt\""]),
    ("transport = \"tcp\"", &["address = \"10.0.0.19:1883\""]),
    ("pass = \"ssl://h:8883\"", &["pass = \"h:8883\""]),
    ("pass = \"h\"", &["pass = \"h:8883\""]),
    ("pass = 8883", &["pass = \"10.0.0.11:8883\""]),
    ("proxy_protocol = true", &["proxy_protocol = \"v2\""]),
    ("proxy_protocol = false", &["proxy_protocol = \"off\""]),
    ("send_proxy_v2 = true", &["proxy_protocol = \"v2\""]),
    ("send-proxy = true", &["proxy_protocol = \"v1\""]),
    ("send_proxy = false", &["proxy_protocol = \"off\""]),
    ("ws_proxy_protocol = \"v1\"", &["ws_proxy_protocol = \"off\""]),
    // A node that is to be drained.
    ("weight = 0", &["name = \"emqx1\""]),
    ("backup = true", &["name = \"emqx1\""]),
    ("enabled = false", &["name = \"emqx1\""]),
    ("down = false", &["name = \"emqx9\""]),
    ("weight = 2000", &["weight = 1", "weight = 1000"]),
    ("weight = -1", &["weight = 1", "weight = 1000"]),
    ("weight = \"50\"", &["weight = 50"]),
    ("max_conns = 100", &["connections_max = 100"]),
    ("slowstart = \"60s\"", &["name = \"emqx9\""]),
    ("max_conn_rate = 200", &["connects_per_second = 200"]),
    ("max_conn_rate = \"1000/s\"", &["connects_per_second = 500"]),
    ("max_fails = 5", &["failures_max = 5"]),
    ("fall = 5", &["fall = 5"]),
    ("fail_timeout = \"30s\"", &["down_max = \"30s\""]),
    ("check = true", &["name = \"emqx9\""]),
    ("connect_timeout = 3", &["dial = \"3s\""]),
    ("cacertfile = \"ca.pem\"", &["name = \"emqx9\""]),
    ("cert = \"fullchain.pem\"\nkey = \"privkey.pem\"", &["name = \"emqx9\""]),
    ("wieght = 50", &["weight = 50"]),
];

const TABLES: Cases = &[
    ("[health]\ninter = 5", &["interval = \"5s\""]),
    ("[timeouts]\nconnect = 5", &["connect = \"5s\""]),
    ("[timeouts]\nconnect = 5000", &["connect = \"5s\""]),
    ("[timeouts]\ndial = 500", &["dial = \"500ms\""]),
    (
        "[timeouts]\nidle_max = 3600",
        &["idle_max = \"1h\"", "idle_max = \"3600ms\""],
    ),
    ("[timeouts]\nidle_max = \"1m30s\"", &["idle_max = \"90s\""]),
    ("[timeouts]\nidle_max = \"1.5h\"", &["idle_max = \"90m\""]),
    ("[timeouts]\nidle_max = \"1d\"", &["idle_max = \"24h\""]),
    ("[timeouts]\nidle_max = \"5 min\"", &["idle_max = \"5m\""]),
    ("[timeouts]\nidle_max = \"90S\"", &["idle_max = \"90s\""]),
    ("[timeouts]\nidle_max = 1.5", &["idle_max = \"1500ms\""]),
    (
        "[timeouts]\nidle_max = \"none\"",
        &["# idle_max: no limit (default)", "idle_max = \"5s\""],
    ),
    ("[timeouts]\nidle_max = \"soon\"", &["idle_max = \"5s\""]),
    (
        "[timeouts]\nidle_max = \"99999999999999999h\"",
        &["idle_max = \"500h\""],
    ),
    ("[timeouts]\nuser_timeout = \"30s\"", &["user_timeout = \"30s\""]),
    (
        "[timeouts]\nclient = 60000",
        &["idle_max = \"1000m\"", "idle_max = \"1m\""],
    ),
    ("[health]\ntimeout = 500", &["dial = \"500ms\""]),
    ("[timeouts]\nclient = \"1h\"", &["idle_max = \"1h\""]),
    ("[timeouts]\nidle = \"1h\"", &["idle_max = \"1h\""]),
    ("[timeouts]\nconnect_timeout = \"4s\"", &["connect = \"4s\""]),
    ("[timeouts]\nclient_fin = \"4s\"", &["linger = \"4s\""]),
    ("[timeouts]\nproxy_connect_timeout = \"4s\"", &["dial = \"4s\""]),
    ("[timeout]\nconnect = \"4s\"", &["connect = \"4s\""]),
    ("[keepalive]\ninterval = \"1500ms\"", &["interval = \"2s\""]),
    ("[keepalive]\nlevel = \"debug\"", &["level = \"debug\""]),
    (
        "[keepalive]\nidle_max = \"1h\"",
        &["idle_max = \"1h\"", "idle = \"1h\""],
    ),
    ("[limits]\nheld_bytes = \"64m\"", &["held_bytes = \"64MiB\""]),
    ("[limits]\nheld_bytes = \"64MB\"", &["held_bytes = \"64MiB\""]),
    ("[limits]\nheld_bytes = \"65536k\"", &["held_bytes = \"64MiB\""]),
    ("[limits]\nheld_bytes = 67108864", &["held_bytes = \"64MiB\""]),
    ("[limits]\nheld_bytes = \"64 mib\"", &["held_bytes = \"64MiB\""]),
    ("[limits]\nheld_bytes = true", &["held_bytes = \"1MiB\""]),
    ("[limits]\nmaxconn = 5000", &["connections = 5000"]),
    ("[limits]\nconnections_max = 5000", &["connections = 5000"]),
    ("[affinity]\nanonymous = \"leastconn\"", &["anonymous = \"least\""]),
    ("[affinity]\nclean_sessions = \"hash\"", &["clean_sessions = \"ring\""]),
    ("[affinity]\nhash-balance-factor = 130", &["load_max = 130"]),
    ("[limits]\nconn_rate = 50", &["connects_per_source_per_second = 50"]),
    ("[limits]\nper_ip = 50", &["connections_per_source = 50"]),
    ("[admin]\naddress = \"127.0.0.1\"", &["address = \"127.0.0.1:9883\""]),
    (
        "[admin]\naddress = \":9884\"",
        &["address = \"127.0.0.1:9884\"", "address = \"0.0.0.0:9884\""],
    ),
    (
        "[admin]\naddress = \"http://127.0.0.1:9884/\"",
        &["address = \"127.0.0.1:9884\""],
    ),
    (
        "[admin]\nhost = \"10.0.0.5\"\nport = 9884",
        &["address = \"10.0.0.5:9884\""],
    ),
    ("[admin]\nport = 9884", &["address = \"127.0.0.1:9884\""]),
    ("[admin]\npassword = \"secret\"", &["enabled = true"]),
    (
        "[admin]\ntokens = [{ name = \"a\", file = \"api.token\", scope = \"rw\" }]",
        &["enabled = true"],
    ),
    (
        "[admin]\naddress = \"unix:/run/lb.sock\"",
        &["address = \"127.0.0.1:9883\"; socket = \"/run/lb.sock\""],
    ),
    ("[admin]\nsocket = 7", &["socket = \"/run/remora/admin.sock\""]),
    ("[admin]\nsocket = \"\"", &["socket = \"/run/remora/admin.sock\""]),
    (
        "[admin]\nsocket = \"unix:///run/lb.sock\"",
        &["socket = \"/run/lb.sock\""],
    ),
    (
        "[admin]\nsocket = \"/run/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"",
        &["socket = \"/run/remora/admin.sock\""],
    ),
    (
        "[admin]\nhosts = [\"http://lb.example.com:9883/\"]",
        &["hosts = [\"lb.example.com\"]"],
    ),
    (
        "[admin]\npeers = [\"10.0.0.6:9883\"]",
        &["peers = [\"http://10.0.0.6:9883\"]"],
    ),
    (
        "[admin]\npeers = [\"https://lb2.example.com\"]",
        &["peers = [\"http://lb2.example.com:9883\"]"],
    ),
    // The doctor's topics.
    ("[doctor]\ntopic = \"site/doctor/#\"", &["topic = \"site/doctor\""]),
    ("[doctor]\ntopic = \"site/doctor/\"", &["topic = \"site/doctor\""]),
    ("[doctor]\ntopic = \"+/doctor\"", &["topic = \"remora/doctor\""]),
    ("[doctor]\ntopic = \"\"", &["topic = \"remora/doctor\""]),
    ("[admin]\nhosts = [\"\"]", &["hosts = [\"remora.example.com\"]"]),
    (
        "[log]\npath = \"/var/log/remora.log\"",
        &["file = \"/var/log/remora.log\""],
    ),
    ("[log]\nmax_size = \"64 MB\"", &["file_size_max = \"64MiB\""]),
    ("[log]\nrotate = 7", &["file_count = 7"]),
    ("[log]\nfile = \"\"", &["file = \"/var/log/remora/remora.log\""]),
    ("[log]\nlevel = \"warning\"", &["level = \"warn\""]),
    ("[log]\nlevel = \"trace\"", &["level = \"debug\""]),
    ("[log]\nverbosity = \"notice\"", &["level = \"info\""]),
    ("[log]\nformat = \"plain\"", &["format = \"text\""]),
    ("[log]\nformat = true", &["format = \"text\"", "format = \"json\""]),
    ("[log]\nconnections = false", &["connections = \"none\""]),
    (
        "[health]\nfail_timeout = \"5s\"",
        &["down_min = \"5s\"; down_max = \"5s\""],
    ),
    ("[health]\nmax_fails = 5", &["failures_max = 5"]),
    ("[health]\nprobe = \"tcp\"", &["probe = \"connect\""]),
    ("[health]\nrise = 2", &["rise = 2"]),
    ("[health]\ntimeout = \"4s\"", &["dial = \"4s\""]),
    ("[drain]\ntimeout = \"1m\"", &["grace = \"1m\""]),
    ("[affinity]\nkey = \"client_ip\"", &["key = \"client_address\""]),
    ("[affinity]\nkey = \"clientid\"", &["key = \"client_id\""]),
    ("[affinity]\nby = \"username\"", &["key = \"username\""]),
    (
        "[affinity]\nkey = \"random\"",
        &[
            "key = \"client_id\"",
            "key = \"username\"",
            "key = \"client_address\"",
            "key = \"certificate_cn\"",
        ],
    ),
    ("[dial]\nsources = [\"10.0.0.2:0\"]", &["sources = [\"10.0.0.2\"]"]),
    ("[dial]\nsources = \"10.0.0.2\"", &["sources = [\"10.0.0.2\"]"]),
    ("[dial]\nsources = [\"eth0\"]", &["sources = [\"10.0.0.2\"]"]),
    ("[nodes_tls]\ncacertfile = \"ca.pem\"", &["name = \"emqx1\""]),
    (
        "[nodes_tls]\ncertfile = \"fullchain.pem\"\nkeyfile = \"privkey.pem\"",
        &["name = \"emqx1\""],
    ),
    ("[nodes_tls]\ncertificate = \"fullchain.pem\"", &["name = \"emqx1\""]),
    ("[nodes_tls]\nverify = false", &["name = \"emqx1\""]),
    ("[nodes_tls]\nenabled = true", &["name = \"emqx1\""]),
    ("[affinity]\nenabled = true", &["enabled = true; name = \"emqx1\""]),
    ("[relay]\nidle_max = \"1h\"", &["idle_max = \"1h\""]),
    ("[drain]\ndial = \"4s\"", &["dial = \"4s\""]),
    ("[global]\nmaxconn = 4", &["name = \"emqx1\""]),
    ("[metrics]\nenabled = true", &["enabled = true"]),
    ("[listeners.default]\naddress = \"0.0.0.0:1885\"", &[]),
];

const TOP: Cases = &[
    ("maxconn = 5000", &["connections = 5000"]),
    ("worker_processes = 2", &["workers = 2"]),
    ("nbthread = \"auto\"", &["# workers: one for each core (default)"]),
    ("log_level = \"warning\"", &["level = \"warn\""]),
    (
        "error_log = \"/var/log/remora.log\"",
        &["file = \"/var/log/remora.log\""],
    ),
    ("daemon = true", &["name = \"emqx1\""]),
    ("worker_rlimit_nofile = 65536", &["name = \"emqx1\""]),
    ("balance = \"source\"", &["key = \"client_address\""]),
    ("proxy_protocol = true", &["name = \"emqx1\""]),
    ("listen = 1885", &["address = \"0.0.0.0:1885\""]),
    ("stats = true", &["name = \"emqx1\""]),
    ("worker = 2", &["workers = 2"]),
    ("splice = false", &["splice = false"]),
];

const WHOLE: Cases = &[
    (
        "server = \"h:1885\"\n[[listeners]]\naddress = \"0.0.0.0:1884\"\n",
        &["name = \"emqx1\"; address = \"h:1885\""],
    ),
    // Names that other programs have for both lists.
    (
        "[[frontend]]\naddress = \"0.0.0.0:1884\"\n[[backend]]\nname = \"a\"\naddress = \"10.0.0.1:1883\"\n",
        &["name = \"a\"; address = \"10.0.0.1:1883\"; address = \"0.0.0.0:1884\""],
    ),
    (
        "[[listen]]\nbind = \":1884\"\n[[upstream]]\nname = \"a\"\nserver = \"10.0.0.1:1883\"\n",
        &["address = \"10.0.0.1:1883\"; address = \"0.0.0.0:1884\""],
    ),
    (
        "[listeners]\naddress = \"0.0.0.0:1884\"\n[nodes]\nname = \"a\"\naddress = \"10.0.0.1:1883\"\n",
        &["address = \"10.0.0.1:1883\"; address = \"0.0.0.0:1884\""],
    ),
    (
        "",
        &["address = \"0.0.0.0:1883\"; name = \"emqx1\"; address = \"10.0.0.11:1883\""],
    ),
    (
        "[[listeners]]\n[[nodes]]\n",
        &["address = \"0.0.0.0:1883\"; name = \"emqx1\"; address = \"10.0.0.11:1883\""],
    ),
    // Not TOML.
    (
        "[[listeners]]\naddress = 0.0.0.0:1884\n[[nodes]]\nname = emqx1\naddress = h:1883\n",
        &["address = \"0.0.0.0:1884\"; name = \"emqx1\"; address = \"h:1883\""],
    ),
    (
        "[[listeners]]\naddress = \"0.0.0.0:1884\"\nfreebind = yes\n[[nodes]]\nname = 'a'\naddress = 'h:1'\n[timeouts]\ndial = 4s;\n",
        &["freebind = true; dial = \"4s\""],
    ),
    (
        "[[listeners]\naddress = \"0.0.0.0:1884\"\n[[nodes]]\nname = 'a'\naddress = 'h:1'\n",
        &["address = \"0.0.0.0:1884\""],
    ),
    // The admin listener is where a listener is to be.
    (
        "[[listeners]]\naddress = \"127.0.0.1:9883\"\n[[nodes]]\nname = 'a'\naddress = 'h:1'\n",
        &["address = \"127.0.0.1:9884\"; address = \"127.0.0.1:9883\""],
    ),
    // TLS that passes needs a listener of each node.
    (
        "[[listeners]]\naddress = \"0.0.0.0:8883\"\ntls = \"pass\"\n[[nodes]]\nname = 'a'\naddress = 'h:1883'\n",
        &["pass = \"h:8883\""],
    ),
    (
        "[[listeners]]\naddress = \"0.0.0.0:8883\"\ntls = \"pass\"\ntransport = \"ws\"\n[[nodes]]\nname = 'a'\naddress = 'h:1'\npass = 'h:2'\n",
        &["transport = \"tcp\"; tls = \"pass\""],
    ),
    // TLS to a node needs authorities.
    (
        "[[listeners]]\naddress = \"0.0.0.0:8883\"\n[[nodes]]\nname = 'a'\naddress = 'mqtts://h:8883'\n",
        &["address = \"mqtts://h:8883\"; insecure_skip_verify = false"],
    ),
];
