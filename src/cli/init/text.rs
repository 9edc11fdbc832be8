//! The text of a first configuration. Everything that was chosen is a key; what may be wanted next is a comment.

use std::fmt::Write as _;

/// Where EMQX takes MQTT over TCP.
pub(super) const MQTT_PORT: u16 = 1883;

/// Where EMQX has its HTTP API.
const API_PORT: u16 = 18_083;

/// What was chosen.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) listen: String,
    pub(super) websocket: Option<String>,
    pub(super) tls: Option<Tls>,
    /// Networks of upstream proxies.
    pub(super) behind: Vec<String>,
    pub(super) nodes: Vec<Node>,
    /// How nodes are found, if they are.
    pub(super) found: Option<Found>,
    pub(super) api_port: Option<u16>,
    pub(super) api_key: Option<String>,
    pub(super) nodes_ca: Option<String>,
    pub(super) proxy_protocol: bool,
}

/// A certificate and its key, as absolute paths.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) chain: String,
    pub(super) key: String,
}

/// A node of the file.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    /// Host and port, with `mqtts://` before them or without.
    pub(super) address: String,
}

/// How nodes are found.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Dns { name: String, port: u16 },
    Emqx(Vec<String>),
}

impl Choice {
    /// The configuration.
    ///
    /// # Errors
    /// What was chosen does not go together, in words for operators.
    pub(super) fn text(&self) -> Result<String, String> {
        let mut text = String::from(
            "# Remora's configuration, written by `remora init`. `remora check -c FILE` reports every mistake in it at once;\n\
             # `remora config -c FILE` prints every key that there is, with the value in force.\n\n",
        );
        self.listeners(&mut text);
        let has_tls = self.nodes(&mut text)?;
        self.nodes_tls(&mut text, has_tls)?;
        text += concat!(
            "\n[limits]\n",
            "# Most connections at a time. Without it: as many as the open-file limit allows, at two descriptors for each.\n",
            "# connections = 100000\n",
            "# Most connections at a time from one address.\n",
            "# connections_per_source = 1000\n",
            "\n[affinity]\n",
            "# The seed of the ring: the same in every balancer of a site. Changing it moves every client once. `remora check` suggests one.\n",
            "# seed = 0x5245_4d4f_5241\n",
            "\n[admin]\n",
            "# For operators: /livez, /readyz, /metrics. `remora ctl` and `remora top` use a unix socket, which the log names.\n",
            "# address = \"127.0.0.1:9883\"\n",
        );
        Ok(text)
    }

    fn listeners(&self, text: &mut String) {
        *text += "# Where clients connect to.\n";
        self.listener(text, &self.listen, None);
        if let Some(address) = &self.websocket {
            *text += "\n# MQTT over WebSocket, at ws://HOST:PORT/mqtt, or wss:// with TLS.\n";
            self.listener(text, address, Some("ws"));
        }
    }

    fn listener(&self, text: &mut String, address: &str, transport: Option<&str>) {
        *text += "[[listeners]]\n";
        key(text, "address", address);
        if let Some(transport) = transport {
            key(text, "transport", transport);
        }
        match &self.tls {
            Some(Tls { chain, key: file }) => {
                *text += "# TLS ends here. The files are read again at a reload (SIGHUP).\n";
                key(text, "tls", "end");
                line(
                    text,
                    &format!(
                        "certificates = [{{ chain = {}, key = {} }}]",
                        quoted(chain),
                        quoted(file)
                    ),
                );
            }
            None => *text += "# tls = \"end\"\n# certificates = [{ chain = \"tls.pem\", key = \"tls.key\" }]\n",
        }
        match &self.behind[..] {
            [] => *text += "# proxy_protocol_from = [\"10.0.0.0/8\"]\n",
            networks => {
                *text += "# Every connection from these networks must begin with a PROXY header; others are refused.\n";
                line(text, &format!("proxy_protocol_from = {}", list(networks)));
            }
        }
    }

    /// Writes the nodes; returns whether any of them expects TLS.
    fn nodes(&self, text: &mut String) -> Result<bool, String> {
        let mut has_tls = false;
        *text += "\n# The nodes. Clients are tied to their names: a node may move to another address and keep its clients.\n";
        for node in &self.nodes {
            *text += "[[nodes]]\n";
            key(text, "name", &node.name);
            key(text, "address", &node.address);
            has_tls |= node.address.starts_with("mqtts://");
            if let Some(port) = self.api_port {
                let host = host_of(&node.address)?;
                key(text, "api", &format!("http://{host}:{port}"));
            }
            self.proxy_header(text);
            *text += "\n";
        }
        match &self.found {
            None => {
                self.api_credentials(text, self.api_port.is_some());
            }
            Some(Found::Dns { name, port }) => {
                *text += "# Every node that is found has these addresses, with its own host.\n[[nodes]]\n";
                key(text, "address", &format!("{{host}}:{port}"));
                if let Some(port) = self.api_port {
                    key(text, "api", &format!("http://{{host}}:{port}"));
                }
                self.proxy_header(text);
                *text += "\n# SRV records, or the addresses of a host.\n[discovery]\n";
                key(text, "source", "dns");
                key(text, "name", name);
                *text += "\n";
                self.api_credentials(text, self.api_port.is_some());
            }
            Some(Found::Emqx(seeds)) => {
                *text += "# Every node that is found has these addresses, with its own host.\n[[nodes]]\n";
                key(text, "address", &format!("{{host}}:{MQTT_PORT}"));
                let first = seeds.first().map(String::as_str).unwrap_or_default();
                let is_https = first.starts_with("https://");
                let scheme = if is_https { "https" } else { "http" };
                let port = first
                    .rsplit_once(':')
                    .and_then(|(_, port)| port.trim_end_matches('/').parse().ok());
                let port: u16 = port.unwrap_or(API_PORT);
                key(text, "api", &format!("{scheme}://{{host}}:{port}"));
                self.proxy_header(text);
                *text += "\n# EMQX's HTTP API says which nodes there are. The first that answers is believed.\n[discovery]\n";
                key(text, "source", "emqx");
                line(text, &format!("seeds = {}", list(seeds)));
                *text += "\n";
                has_tls |= seeds.iter().any(|seed| seed.starts_with("https://"));
                self.api_credentials(text, true);
            }
        }
        Ok(has_tls)
    }

    fn proxy_header(&self, text: &mut String) {
        if self.proxy_protocol {
            *text += "# The node's listener must expect it: of EMQX, with proxy_protocol = true.\n";
            key(text, "proxy_protocol", "v2");
        }
    }

    fn api_credentials(&self, text: &mut String, is_asked: bool) {
        match (&self.api_key, is_asked) {
            (None, false) => {}
            (None, true) => {
                *text += "[nodes_api]\n# A file with a line KEY:SECRET, as EMQX's dashboard makes it; the role \"viewer\" is enough.\n";
                *text += "# credentials = \"emqx-api.key\"\n";
            }
            (Some(file), _) => {
                *text += "[nodes_api]\n# A line KEY:SECRET.\n";
                key(text, "credentials", file);
            }
        }
    }

    fn nodes_tls(&self, text: &mut String, has_tls: bool) -> Result<(), String> {
        match &self.nodes_ca {
            Some(file) => {
                *text += "\n# Who issued the nodes' certificates.\n[nodes_tls]\n";
                key(text, "ca", file);
                Ok(())
            }
            None if has_tls => Err(
                "nodes or APIs with TLS need the authorities that issued their certificates: --nodes-ca FILE"
                    .to_owned(),
            ),
            None => Ok(()),
        }
    }
}

/// The host of a node's address.
fn host_of(address: &str) -> Result<&str, String> {
    let address = address.rsplit_once("://").map_or(address, |(_, address)| address);
    let host = address
        .rsplit_once(':')
        .map(|(host, _)| host)
        .filter(|host| !host.is_empty());
    host.ok_or_else(|| format!("{address:?} is not HOST:PORT"))
}

fn key(text: &mut String, name: &str, value: &str) {
    line(text, &format!("{name} = {}", quoted(value)));
}

fn line(text: &mut String, line: &str) {
    // A string takes everything.
    let _ = writeln!(text, "{line}");
}

/// A string of TOML, whose escapes are those of JSON; it names no variable.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace("${", "$${")).to_string()
}

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}
