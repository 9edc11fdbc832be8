//! `remora demo`: the sandbox's nodes, a balancer before them, and a screen that says what to type.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use remora::accept::{Listener, Tls, Transport};
use remora::cluster::{Endpoints, Member, MemberEndpoint, NodeAddress, WEIGHT_DEFAULT};
use remora::config::Config;
use remora::log;
use remora::sandbox::{self, Sandbox};
use remora::serve;
use remora::tls::throwaway::Authority;
use remora::tls::{self, Certificate, Clients, Offer, Version};
use remora::websocket::Door;

use super::run::panicked;
use super::signals::Signals;
use super::{columns, reachable, ring};

#[derive(Args)]
pub(super) struct Arguments {
    /// Where clients come in; a free port of the same address where this one is taken.
    #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:1883")]
    address: SocketAddr,
    /// Where clients come in over WebSocket; a free port likewise.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8083")]
    ws_address: SocketAddr,
    /// Where clients come in with TLS; a free port likewise.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8883")]
    tls_address: SocketAddr,
    /// Where clients come in over WebSocket with TLS; a free port likewise.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8084")]
    wss_address: SocketAddr,
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
    let wanted = [
        arguments.address,
        arguments.ws_address,
        arguments.tls_address,
        arguments.wss_address,
    ];
    let identity = Identity::new(&wanted)?;
    let config = config(wanted, &sandbox, &identity)?;
    let _log = log::init(&config.log);
    let (running, taken) = match serve::start(config.clone()) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let taken = wanted.map(|address| is_taken(address).then_some(address));
            let free = |place: usize| match taken[place] {
                Some(address) => SocketAddr::new(address.ip(), 0),
                None => wanted[place],
            };
            let addresses = std::array::from_fn(free);
            let config = self::config(addresses, &sandbox, &identity)?;
            (serve::start(config)?, taken)
        }
        started => (started?, [None; LISTENERS]),
    };
    let bound = running.addresses();
    let at = |place: usize| Bound {
        address: bound.get(place).copied().unwrap_or(wanted[place]),
        taken: taken[place],
    };
    let screen = Screen {
        tcp: at(0),
        ws: at(1),
        tls: at(2),
        wss: at(3),
        authority: &identity.authority,
        admin: running.admin(),
        broken_routing: arguments.broken_routing,
        config: &config,
    };
    // Whoever has seen enough may close the pipe; the demo goes on.
    match io::stdout().write_all(screen.text().as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(error),
        _ => {}
    }
    let lost = running.lost();
    let signal = runtime.block_on(async {
        tokio::select! {
            biased;
            task = lost => Err(panicked(task)),
            signal = signals.end() => Ok(signal),
        }
    });
    let signal = match signal {
        Ok(signal) => signal,
        Err(lost) => {
            // As in `run`.
            std::mem::forget(running);
            return Err(lost);
        }
    };
    tracing::info!(signal, "stopping");
    let lost = running.stop();
    sandbox.stop();
    lost.map_or(Ok(()), |task| Err(panicked(task)))
}

/// How many listeners the demo has: without TLS and with it, each without WebSocket and with it.
const LISTENERS: usize = 4;

/// Who the demo is to clients that speak TLS: a certificate that is made anew each time.
struct Identity {
    certificate: Certificate,
    /// Where the certificate of its authority is, for clients. Gone with the demo.
    authority: PathBuf,
}

impl Identity {
    fn new(addresses: &[SocketAddr]) -> io::Result<Self> {
        let addresses: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
        let mut names = vec!["localhost", "127.0.0.1", "::1"];
        names.extend(addresses.iter().map(String::as_str));
        let authority = Authority::new().map_err(io::Error::other)?;
        let pair = authority.server(&names).map_err(io::Error::other)?;
        let certificate = Certificate::from_pem(pair.chain.as_bytes(), pair.key.as_bytes());
        let folder = format!("remora-demo-{:08x}", fastrand::u32(..));
        let folder = std::env::temp_dir().join(folder);
        // A new one: in another, somebody might have laid something else.
        fs::DirBuilder::new().mode(0o755).create(&folder)?;
        let path = folder.join("ca.pem");
        fs::write(&path, authority.pem())?;
        Ok(Self {
            certificate: certificate.map_err(io::Error::other)?,
            authority: path,
        })
    }

    /// The door of a listener with TLS, whose clients speak `protocol` in it.
    fn door(&self, protocol: &'static str) -> io::Result<Option<Tls>> {
        let offer = Offer {
            certificates: vec![self.certificate.clone()],
            version_min: Version::default(),
            clients: Clients::Off,
            protocol,
        };
        let door = tls::Door::new(offer).map_err(io::Error::other)?;
        Ok(Some(Tls::End(Arc::new(door))))
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if let Some(folder) = self.authority.parent() {
            // Whoever has removed it already has saved us the work.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Whether somebody else listens there.
fn is_taken(address: SocketAddr) -> bool {
    matches!(TcpListener::bind(address), Err(error) if error.kind() == ErrorKind::AddrInUse)
}

fn config(
    [address, ws_address, tls_address, wss_address]: [SocketAddr; LISTENERS],
    sandbox: &Sandbox,
    identity: &Identity,
) -> io::Result<Config> {
    let member = |node: &sandbox::Node| Member {
        name: node.name().to_owned(),
        endpoints: Endpoints {
            mqtt: MemberEndpoint::plain(NodeAddress::Socket(node.address())),
            ws: Some(MemberEndpoint::plain(NodeAddress::Socket(
                node.ws_address(),
            ))),
            pass: None,
        },
        weight: WEIGHT_DEFAULT,
    };
    let nodes = sandbox.nodes().iter().map(member).collect();
    // Their addresses are on the screen, and not in each line: port 0 would look odd there.
    let listener = |name: &str, address, transport, tls| Listener {
        name: name.to_owned(),
        transport,
        tls,
        ..Listener::new(address)
    };
    let ws = || Transport::Ws(Door::default());
    let listeners = vec![
        listener("demo", address, Transport::Tcp, None),
        listener("demo-ws", ws_address, ws(), None),
        listener(
            "demo-tls",
            tls_address,
            Transport::Tcp,
            identity.door("mqtt")?,
        ),
        listener("demo-wss", wss_address, ws(), identity.door("http/1.1")?),
    ];
    Ok(Config::new(listeners, nodes))
}

/// Where a listener is.
struct Bound {
    address: SocketAddr,
    /// The address that was asked for, where it was not to be had.
    taken: Option<SocketAddr>,
}

impl Bound {
    fn note(&self) -> String {
        self.taken
            .map_or(String::new(), |taken| format!(" ({taken} is taken)"))
    }
}

/// What is printed when all runs.
struct Screen<'a> {
    tcp: Bound,
    ws: Bound,
    tls: Bound,
    wss: Bound,
    authority: &'a Path,
    admin: Option<SocketAddr>,
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
        let target = reachable(self.tcp.address);
        let at = format!("-h {} -p {}", target.ip(), target.port());
        let ws = reachable(self.ws.address);
        let (url, ws_at) = (
            format!("ws://{ws}/mqtt"),
            format!("-h {} -p {}", ws.ip(), ws.port()),
        );
        let (address, taken, ws_taken) = (self.tcp.address, self.tcp.note(), self.ws.note());
        let tls = reachable(self.tls.address);
        let (tls_host, tls_port, tls_taken) = (tls.ip(), tls.port(), self.tls.note());
        let (wss, wss_taken) = (reachable(self.wss.address), self.wss.note());
        let authority = self.authority.display();
        let admin = match self.admin {
            Some(address) => format!("Metrics are at http://{}/metrics\n\n", reachable(address)),
            None => String::new(),
        };
        let nodes: Vec<_> = self
            .config
            .nodes
            .iter()
            .zip(ring.shares())
            .map(|(node, share)| {
                vec![
                    node.name.clone(),
                    node.endpoints.mqtt.address.to_string(),
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
            "Remora listens on {address}{taken} and {url}{ws_taken},\n\
             with TLS on {tls}{tls_taken} and wss://{wss}/mqtt{wss_taken}, before three small MQTT nodes:\n\n\
             {nodes}\n\n\
             They live in this process and keep everything in memory: no brokers for production.\n\n\
             Receive in another terminal, as a client of {here}:\n\n  \
             mosquitto_sub {at} -i {subscriber} -t 'demo/#' -v\n\n\
             Send in a third, as a client of {there}:\n\n  \
             mosquitto_pub {at} -i {publisher} -t demo/hello -m hello\n\n\
             {outcome}\n\n\
             Without mosquitto, ten clients that each get back what they send:\n\n  \
             remora bench echo --target {target} --clients 10 --duration 5\n\n\
             Over WebSocket, where you have Node.js:\n\n  \
             npx mqtt sub -l ws {ws_at} --path /mqtt -t 'demo/#' -v\n\n\
             With TLS, by a certificate of an authority that is made anew each time:\n\n  \
             mosquitto_sub -h {tls_host} -p {tls_port} --cafile {authority} -i {subscriber} -t 'demo/#' -v\n\n\
             {admin}\
             Ctrl-C ends it. Below is a line for each connection, at its end.\n\n"
        )
    }
}
