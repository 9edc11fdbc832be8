//! `remora demo`: the sandbox's nodes behind a balancer, and a screen with the commands to try.

mod command;
mod folder;
mod heal;
mod screen;
mod story;

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener};

use clap::Args;

use remora::base::log;
use remora::cluster::{Endpoints, Member, MemberEndpoint, NodeAddress, WEIGHT_DEFAULT};
use remora::config::Config;
use remora::net::websocket::AcceptPolicy;
use remora::path::accept::{Listener, Transport};
use remora::serve;
use remora_sandbox::{self as sandbox, Sandbox};

use super::run::panicked;
use super::signals::Signals;
use super::{columns, reachable, ring};
use folder::Folder;
use heal::Healer;
use screen::{Bound, Ids, Screen};
use story::Story;

#[derive(Args)]
pub(super) struct Arguments {
    /// The address for clients; if its port is taken, a free one.
    #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:1883")]
    address: SocketAddr,
    /// The address for WebSocket clients; if its port is taken, a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8083")]
    ws_address: SocketAddr,
    /// The address for TLS clients; if its port is taken, a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8883")]
    tls_address: SocketAddr,
    /// The address for WebSocket clients with TLS; if its port is taken, a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8084")]
    wss_address: SocketAddr,
    /// Break the routing between the nodes: a message reaches only the clients of the node where it was published. Begins
    /// with an experiment of some seconds, which shows what Remora does about it and what it cannot do.
    #[arg(long)]
    broken_routing: bool,
    /// Join the nodes of the demo that runs with --broken-routing, as Enter in its terminal does.
    #[arg(long, exclusive = true)]
    heal: bool,
}

/// Runs the demo until a signal stops it, or joins the nodes of another one.
pub(super) fn run(arguments: &Arguments) -> io::Result<()> {
    if arguments.heal {
        return heal::all();
    }
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
    let folder = Folder::new(&wanted)?;
    let config = config(wanted, &sandbox, &folder)?;
    // The experiment prints lines of its own; those on its connections would come between them.
    let mut log = (!arguments.broken_routing)
        .then(|| log::init(&config.log))
        .transpose()?;
    let (running, taken) = match serve::start(config.clone()) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            let taken = wanted.map(|address| is_taken(address).then_some(address));
            let free = |place: usize| match taken[place] {
                Some(address) => SocketAddr::new(address.ip(), 0),
                None => wanted[place],
            };
            let addresses = std::array::from_fn(free);
            let config = self::config(addresses, &sandbox, &folder)?;
            (serve::start(config)?, taken)
        }
        started => (started?, [None; LISTENERS]),
    };
    let bound = running.addresses();
    let at = |place: usize| Bound {
        address: bound.get(place).copied().unwrap_or(wanted[place]),
        taken: taken[place],
    };
    let ids = Ids::new(&config);
    let handle = running.handle();
    let screen = Screen {
        tcp: at(0),
        ws: at(1),
        tls: at(2),
        wss: at(3),
        authority: &folder.authority,
        configuration: &folder.configure(&config, reachable(at(0).address))?,
        admin: running.admin(),
        admin_socket: handle.admin_socket(),
        broken_routing: arguments.broken_routing,
        can_be_asked: Healer::socket(&folder).is_some(),
        ids: &ids,
        config: &config,
    };
    let panic = running.panicked();
    let ended = runtime.block_on(async {
        let shown = async {
            print(&screen.listeners())?;
            if arguments.broken_routing {
                let story = Story {
                    sandbox: &sandbox,
                    remora: reachable(at(0).address),
                    subscriber: &ids.subscriber,
                    home: ids.home,
                };
                story.tell().await?;
                print(&screen.own_cluster())?;
                // As the option says: it is broken for what is tried by hand, too.
                sandbox.cut_routing(true)?;
            }
            let healer = match arguments.broken_routing {
                true => Some(Healer::new(&folder)?),
                false => None,
            };
            print(&screen.commands())?;
            if log.is_none() {
                log = Some(log::init(&config.log)?);
            }
            if let Some(healer) = healer {
                let join = || {
                    sandbox.cut_routing(false)?;
                    print(&screen.healed())
                };
                healer.wait(join).await?;
            }
            io::Result::Ok(std::future::pending().await)
        };
        tokio::select! {
            biased;
            task = panic => Err(panicked(task)),
            signal = signals.end_or_hang_up() => Ok(Ok(signal)),
            failed = shown => Ok(failed),
        }
    });
    let ended = match ended {
        Ok(ended) => ended,
        Err(lost) => {
            // As in `run`.
            std::mem::forget(running);
            return Err(lost);
        }
    };
    if let Ok(signal) = &ended {
        tracing::info!(signal, "stopping");
    }
    let lost = running.stop();
    sandbox.stop();
    ended?;
    lost.map_or(Ok(()), |task| Err(panicked(task)))
}

/// Prints to standard output, at once. The reader may close the pipe; the demo goes on.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// The demo's listeners: TCP and WebSocket, each without and with TLS.
const LISTENERS: usize = 4;

/// Whether another process listens there.
fn is_taken(address: SocketAddr) -> bool {
    matches!(TcpListener::bind(address), Err(error) if error.kind() == ErrorKind::AddrInUse)
}

fn config(
    [address, ws_address, tls_address, wss_address]: [SocketAddr; LISTENERS],
    sandbox: &Sandbox,
    folder: &Folder,
) -> io::Result<Config> {
    let member = |node: &sandbox::Node| Member {
        name: node.name().to_owned(),
        endpoints: Endpoints {
            mqtt: MemberEndpoint::plain(NodeAddress::Socket(node.address())),
            ws: Some(MemberEndpoint::plain(NodeAddress::Socket(node.ws_address()))),
            pass: None,
        },
        api: None,
        weight: WEIGHT_DEFAULT,
        connects_per_second: None,
        connections_max: None,
    };
    let nodes = sandbox.nodes().iter().map(member).collect();
    // Named, since the default name is the address, and port 0 in log lines would be misleading. The screen shows the addresses.
    let listener = |name: &str, address, transport, tls| Listener {
        name: name.to_owned(),
        transport,
        tls,
        ..Listener::new(address)
    };
    let ws = || Transport::Ws(AcceptPolicy::default());
    let listeners = vec![
        listener("demo", address, Transport::Tcp, None),
        listener("demo-ws", ws_address, ws(), None),
        listener("demo-tls", tls_address, Transport::Tcp, folder.tls("mqtt")?),
        listener("demo-wss", wss_address, ws(), folder.tls("http/1.1")?),
    ];
    let mut config = Config::new(listeners, nodes);
    config.admin.socket = folder.admin_socket();
    Ok(config)
}
