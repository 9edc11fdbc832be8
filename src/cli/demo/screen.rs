//! What the demo prints once everything runs: where it listens, and commands that work as they are printed.

use std::net::SocketAddr;
use std::path::Path;

use remora::config::Config;

use super::command::{program, quoted};
use super::{columns, reachable, ring};

/// A listener's address.
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    /// The requested address, if it was taken.
    pub(super) taken: Option<SocketAddr>,
}

impl Bound {
    fn note(&self) -> String {
        self.taken.map_or(String::new(), |taken| format!(" ({taken} is taken)"))
    }

    /// For a listener on all addresses, loopback will do.
    fn target(&self) -> SocketAddr {
        reachable(self.address)
    }

    fn host_and_port(&self) -> String {
        let target = self.target();
        format!("-h {} -p {}", target.ip(), target.port())
    }

    /// The same for MQTT.js, which makes a URL of it: an IPv6 address needs its brackets.
    fn host_and_port_of_url(&self) -> String {
        let target = self.target();
        let host = match target.is_ipv6() {
            true => format!("[{}]", target.ip()),
            false => target.ip().to_string(),
        };
        format!("-h {} -p {}", quoted(&host), target.port())
    }
}

/// Client ids whose homes are known. Each command has its own: a second client with the same id would end the first.
pub(super) struct Ids {
    pub(super) subscriber: String,
    /// The index of the subscriber's home.
    pub(super) home: usize,
    /// Subscribers by other transports, on the same node.
    over_ws: String,
    over_tls: String,
    over_wss: String,
    /// A publisher on another node, so that the message must be routed, and that node.
    publisher: String,
    away: usize,
    /// A publisher on the subscriber's node.
    neighbour: String,
}

impl Ids {
    /// By the ring of this configuration.
    pub(super) fn new(config: &Config) -> Self {
        let ring = ring(config);
        let home_of = |id: &str| ring.choices(ring.hash(id.as_bytes())).next().unwrap_or_default();
        let subscriber = "screen".to_owned();
        let home = home_of(&subscriber);
        // One of so many is on any node, as good as certainly.
        let first = |prefix: &str, is_home: bool| {
            let ids = (1..=1_000).map(|number| format!("{prefix}-{number}"));
            let mut found = ids.filter(|id| (home_of(id) == home) == is_home);
            found.next().unwrap_or_else(|| prefix.to_owned())
        };
        let publisher = first("sensor", false);
        Self {
            home,
            over_ws: first("ws", true),
            over_tls: first("tls", true),
            over_wss: first("wss", true),
            away: home_of(&publisher),
            publisher,
            neighbour: first("sensor", true),
            subscriber,
        }
    }
}

/// The text that is printed once everything runs.
pub(super) struct Screen<'a> {
    pub(super) tcp: Bound,
    pub(super) ws: Bound,
    pub(super) tls: Bound,
    pub(super) wss: Bound,
    pub(super) authority: &'a Path,
    /// A configuration with the nodes.
    pub(super) configuration: &'a Path,
    pub(super) admin: Option<SocketAddr>,
    pub(super) admin_socket: Option<&'a Path>,
    pub(super) broken_routing: bool,
    /// Whether `--heal` can join its nodes.
    pub(super) can_be_asked: bool,
    pub(super) ids: &'a Ids,
    pub(super) config: &'a Config,
}

impl Screen<'_> {
    /// Where everything listens.
    pub(super) fn listeners(&self) -> String {
        let (tcp, tcp_note) = (self.tcp.address, self.tcp.note());
        let (ws, ws_note) = (self.ws.target(), self.ws.note());
        let (tls, tls_note) = (self.tls.target(), self.tls.note());
        let (wss, wss_note) = (self.wss.target(), self.wss.note());
        let nodes = self.config.nodes.iter().zip(ring(self.config).shares());
        let rows: Vec<_> = nodes
            .map(|(node, share)| {
                vec![
                    node.name.clone(),
                    node.endpoints.mqtt.address.to_string(),
                    format!("{:.1} % of the clients", share * 100.0),
                ]
            })
            .collect();
        let nodes = columns("  ", &rows);
        format!(
            "Remora listens on {tcp}{tcp_note} and ws://{ws}/mqtt{ws_note},\n\
             with TLS on {tls}{tls_note} and wss://{wss}/mqtt{wss_note}, before three small MQTT nodes:\n\n\
             {nodes}\n\n\
             They live in this process and keep everything in memory: no brokers for production.\n\n"
        )
    }

    /// The commands to try.
    pub(super) fn commands(&self) -> String {
        let Ids {
            subscriber,
            over_ws,
            over_tls,
            over_wss,
            publisher,
            neighbour,
            ..
        } = self.ids;
        let (here, there) = (self.node(self.ids.home), self.node(self.ids.away));
        let [tcp, tls] = [&self.tcp, &self.tls].map(Bound::host_and_port);
        let [ws, wss] = [&self.ws, &self.wss].map(Bound::host_and_port_of_url);
        let target = quoted(&self.tcp.target().to_string());
        let wss_target = quoted(&format!("wss://{}/mqtt", self.wss.target()));
        let (program, authority) = (program(), quoted(&self.authority.to_string_lossy()));
        let admin = match self.admin {
            Some(address) => format!("Metrics are at http://{}/metrics\n\n", reachable(address)),
            None => String::new(),
        };
        let control = self.admin_socket.map_or(String::new(), |socket| {
            let socket = quoted(&socket.to_string_lossy());
            format!(
                "See the nodes, the rates and the clients, in a terminal or in a browser, and have the balancer examine itself:\n\n  \
                 {program} top --socket {socket}\n  \
                 {program} ctl --socket {socket} page\n  \
                 {program} ctl --socket {socket} doctor\n\n"
            )
        });
        let configuration = quoted(&self.configuration.to_string_lossy());
        let heal = match self.can_be_asked {
            false => "Then press Enter here, which joins the nodes, and ask again.".to_owned(),
            true => format!(
                "Then press Enter here, which joins the nodes, and ask again. From another terminal, this does it too:\n\n  \
                 {program} demo --heal"
            ),
        };
        let outcome = match self.broken_routing {
            false => format!("It arrives: {there} passes it on to {here}."),
            true => format!(
                "It does not arrive: routing is broken, and {there} passes nothing on to {here}.\n\
                 From a client of {here} it does:\n\n  \
                 mosquitto_pub {tcp} -i {neighbour} -t demo/hello -m hello\n\n\
                 Ask the doctor why:\n\n  \
                 {program} doctor -c {configuration}\n\n\
                 {heal}"
            ),
        };
        format!(
            "Receive in another terminal, as a client of {here}:\n\n  \
             mosquitto_sub {tcp} -i {subscriber} -t 'demo/#' -v\n\n\
             Send in a third, as a client of {there}:\n\n  \
             mosquitto_pub {tcp} -i {publisher} -t demo/hello -m hello\n\n\
             {outcome}\n\n\
             Without mosquitto, ten clients that each get back what they send, over TCP and over WebSocket with TLS:\n\n  \
             {program} bench echo --target {target} --clients 10 --duration 5\n  \
             {program} bench echo --target {wss_target} --cafile {authority} --clients 10 --duration 5\n\n\
             Receive over WebSocket, where you have Node.js, as another client of {here}:\n\n  \
             npx mqtt sub -l ws {ws} --path /mqtt -i {over_ws} -t 'demo/#' -v\n\n\
             With TLS, by a certificate of an authority that is made anew each time; over TCP and over WebSocket:\n\n  \
             mosquitto_sub {tls} --cafile {authority} -i {over_tls} -t 'demo/#' -v\n  \
             npx mqtt sub -l wss {wss} --path /mqtt --ca {authority} -i {over_wss} -t 'demo/#' -v\n\n\
             {control}\
             {admin}\
             Ctrl-C ends it. Below is a line for each connection, at its end.\n\n"
        )
    }

    /// What to run against a cluster of one's own, and how routing is from here on.
    pub(super) fn own_cluster(&self) -> String {
        let program = program();
        format!(
            "With your own cluster: which node a client id leads to, and whether clients that were cut off come back to the\n\
             same node:\n\n  \
             {program} route --config remora.toml {subscriber}\n  \
             {program} bench reconnect --target HOST:1883 --clients 100 --i-own-this-target\n\n\
             The experiment is over. The demo goes on serving, and routing between its nodes is broken again.\n\n",
            subscriber = self.ids.subscriber,
        )
    }

    /// What is printed once the nodes are joined.
    pub(super) fn healed(&self) -> String {
        let (program, configuration) = (program(), quoted(&self.configuration.to_string_lossy()));
        format!(
            "\nThe nodes are joined now, and route messages to each other. Nothing is found any more by\n\n  \
             {program} doctor -c {configuration}\n\n"
        )
    }

    fn node(&self, index: usize) -> &str {
        self.config.nodes.get(index).map_or("", |node| &*node.name)
    }
}
