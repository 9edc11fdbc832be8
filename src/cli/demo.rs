//! `remora demo`: the sandbox's nodes, a balancer before them, and a screen that says what to type.

use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;

use clap::Args;

use remora::accept::Listener;
use remora::cluster::{Member, NodeAddress, WEIGHT_DEFAULT};
use remora::config::Config;
use remora::log;
use remora::sandbox::{self, Sandbox};
use remora::serve;

use super::signals::Signals;
use super::{columns, ring};

#[derive(Args)]
pub(super) struct Arguments {
    /// Where clients come in; a free port of the same address where this one is taken.
    #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:1883")]
    address: SocketAddr,
    /// Let the nodes route nothing to each other: a message reaches only the clients of the node where it was published.
    #[arg(long)]
    broken_routing: bool,
}

/// Runs the demo until a signal ends it.
pub(super) fn run(arguments: &Arguments) -> io::Result<()> {
    let (runtime, mut signals) = Signals::catch()?;
    let sandbox = Sandbox::start(sandbox::Settings {
        routing_is_cut: arguments.broken_routing,
        ..sandbox::Settings::default()
    })?;
    let config = config(arguments.address, &sandbox);
    let _log = log::init(&config.log);
    let (running, is_elsewhere) = match serve::start(config.clone()) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let free = SocketAddr::new(arguments.address.ip(), 0);
            (serve::start(self::config(free, &sandbox))?, true)
        }
        started => (started?, false),
    };
    let screen = Screen {
        address: running.addresses().first().copied(),
        taken: is_elsewhere.then_some(arguments.address),
        broken_routing: arguments.broken_routing,
        config: &config,
    };
    // Whoever has seen enough may close the pipe; the demo goes on.
    match io::stdout().write_all(screen.text().as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
        _ => {}
    }
    let signal = runtime.block_on(signals.end());
    tracing::info!(signal, "stopping");
    running.stop();
    sandbox.stop();
    Ok(())
}

fn config(address: SocketAddr, sandbox: &Sandbox) -> Config {
    let member = |node: &sandbox::Node| Member {
        name: node.name().to_owned(),
        address: NodeAddress::Socket(node.address()),
        ws: None,
        weight: WEIGHT_DEFAULT,
    };
    let nodes = sandbox.nodes().iter().map(member).collect();
    let listener = Listener {
        // Its address is on the screen, and not in each line: port 0 would look odd there.
        name: "demo".to_owned(),
        ..Listener::new(address)
    };
    Config::new(vec![listener], nodes)
}

/// What is printed when all runs.
struct Screen<'a> {
    address: Option<SocketAddr>,
    /// The address that was asked for, where it was not to be had.
    taken: Option<SocketAddr>,
    broken_routing: bool,
    config: &'a Config,
}

impl Screen<'_> {
    fn text(&self) -> String {
        let ring = ring(self.config);
        let home = |id: &str| {
            let home = ring.choices(ring.hash(id.as_bytes())).next();
            home.map_or("", |node| &*self.config.nodes[node].name)
        };
        let subscriber = "screen";
        // On another node than the subscriber, so that the message has a way to go.
        let publishers: Vec<String> = (1..=100).map(|number| format!("sensor-{number}")).collect();
        let is_elsewhere = |id: &&String| home(id) != home(subscriber);
        let publisher = publishers.iter().find(is_elsewhere);
        let neighbour = publishers.iter().find(|id| !is_elsewhere(id));
        let (publisher, neighbour) = (
            publisher.map_or("sensor", String::as_str),
            neighbour.map_or("sensor", String::as_str),
        );

        // Where the listener is open to the world, this machine is as good as any.
        let address = self.address.unwrap_or(self.config.listeners[0].address);
        let host = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        let target = SocketAddr::new(host, address.port());
        let at = format!("-h {host} -p {}", target.port());
        let taken = self
            .taken
            .map_or(String::new(), |taken| format!(" ({taken} is taken)"));
        let nodes: Vec<_> = self
            .config
            .nodes
            .iter()
            .zip(ring.shares())
            .map(|(node, share)| {
                vec![
                    node.name.clone(),
                    node.address.to_string(),
                    format!("{:.1} % of the clients", share * 100.0),
                ]
            })
            .collect();
        let nodes = columns("  ", &nodes);
        let (there, here) = (home(publisher), home(subscriber));
        let outcome = match self.broken_routing {
            false => format!("It arrives: {there} passes it on to {here}."),
            true => format!(
                "It does not arrive: routing is broken, and {there} passes nothing on to {here}.\n\
                 From a client of {here} it does:\n\n  \
                 mosquitto_pub {at} -i {neighbour} -t demo/hello -m hello"
            ),
        };
        format!(
            "Remora listens on {address}{taken}, before three small MQTT nodes:\n\n\
             {nodes}\n\n\
             They live in this process and keep everything in memory: no brokers for production.\n\n\
             Receive in another terminal, as a client of {here}:\n\n  \
             mosquitto_sub {at} -i {subscriber} -t 'demo/#' -v\n\n\
             Send in a third, as a client of {there}:\n\n  \
             mosquitto_pub {at} -i {publisher} -t demo/hello -m hello\n\n\
             {outcome}\n\n\
             Without mosquitto, ten clients that each get back what they send:\n\n  \
             remora bench echo --target {target} --clients 10 --duration 5\n\n\
             Ctrl-C ends it. Below is a line for each connection, at its end.\n\n"
        )
    }
}
