//! The command line of the bench, and the plans that result from it.

use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::clock::nanos;
use super::emqx::Api;
use super::nodes::Stall;
use super::packet::{STAMP_BYTES, Version};
use super::plan::{Arrival, Audience, CloseMode, Plan, Then, Traffic};
use super::sources::Sources;
use super::tls::{self, Tls};
use super::units;
use super::upgrade::{Endpoint, PATH};

/// Most clients of one process.
const CLIENTS_MAX: u32 = 1_000_000;

/// Largest payload: what fits into a PUBLISH beside its topic.
const SIZE_MAX: usize = 256 * 1024 * 1024 - 128 * 1024;

/// Time to connect for clients that have no schedule of their own.
const CONNECTING_MAX: Duration = Duration::from_secs(60);

/// Longest time to connect that a schedule may ask for.
const LONGEST_CONNECTING: Duration = Duration::from_secs(24 * 3600);

/// Load-tests an MQTT endpoint.
///
/// Without a workload, runs four in less than a minute: a storm of connects, latency at a fixed rate, throughput, and
/// clients that reconnect after they were cut off.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 fine, 1 failed or past a threshold, 64 bad usage.\n\n\
    Latency counts from the time at which a message was due to be sent. `from send` counts from the time at which it \
    was sent, and so hides how long it waited.")]
pub struct Args {
    /// What the clients do.
    #[arg(value_enum)]
    workload: Option<Workload>,

    /// Where the clients connect to; ws://HOST:PORT/PATH uses WebSocket, mqtts:// and wss:// use TLS [default: port
    /// 1883 of 127.0.0.1, with --ws 8083, with --tls 8883, with both 8084].
    #[arg(short, long, value_name = "HOST:PORT")]
    target: Option<String>,

    /// Connect over WebSocket.
    #[arg(long)]
    ws: bool,

    /// Path of the WebSocket endpoint, with its query; `%i` is the client's number [default: /mqtt].
    #[arg(long, value_name = "PATH")]
    path: Option<String>,

    /// Confirm that you may load this target, although it is not on this machine.
    #[arg(long)]
    i_own_this_target: bool,

    /// How many clients: publishers of pub, subscribers of sub.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    clients: Option<u32>,

    /// How many clients publish to the subscribers of sub [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    publishers: Option<u32>,

    /// How many clients subscribe to the publishers of pub [default: 0].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=i64::from(CLIENTS_MAX)))]
    subscribers: Option<u32>,

    /// How many clients may be connecting at the same time.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    at_once: u32,

    /// How many clients connect per second, whatever the target does.
    #[arg(short = 'R', long, value_name = "PER_SECOND", conflicts_with = "at_once", value_parser = units::rate)]
    connect_rate: Option<f64>,

    /// Longest time from the dial to CONNACK.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::duration)]
    connect_timeout: Duration,

    /// Messages per second over all clients, at fixed times (open loop).
    #[arg(short, long, value_name = "PER_SECOND", value_parser = units::rate)]
    rate: Option<f64>,

    /// Messages in flight per client; without a rate, the next one is sent when one ends (closed loop).
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    window: Option<u32>,

    /// Payload bytes of a message.
    #[arg(short, long, value_name = "BYTES")]
    size: Option<usize>,

    /// The measured time.
    #[arg(short, long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,

    /// Time between the first message and the measured time; in reconnect, how long clients stay connected.
    #[arg(long, value_name = "TIME", default_value = "0.5s", value_parser = units::duration)]
    warm_up: Duration,

    /// Time between the last close and the last look at `--pid`.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::duration)]
    settle: Duration,

    /// How often the clients of reconnect are cut off.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    cuts: u32,

    /// QoS of the messages.
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,

    /// Protocol version: 4 (MQTT 3.1.1) or 5, in which nodes may report their names.
    #[arg(short = 'V', long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(4..=5))]
    protocol: u8,

    /// Keep alive in seconds; 0 turns it off.
    #[arg(
        short,
        long,
        visible_alias = "keepalive",
        value_name = "SECONDS",
        default_value_t = 300
    )]
    keep_alive: u16,

    /// Client ids; `%i` is the client's number.
    #[arg(
        short,
        long,
        visible_alias = "client-id",
        value_name = "TEMPLATE",
        default_value = "bench-%i"
    )]
    id: String,

    /// Topics; `%i` is the publisher's number. Without `%i`, all publishers share one topic.
    #[arg(long, value_name = "TEMPLATE", default_value = "bench/%i")]
    topic: String,

    /// User name.
    #[arg(short, long)]
    username: Option<String>,

    /// Password.
    #[arg(short = 'P', long)]
    password: Option<String>,

    /// Addresses and IPv4 networks that clients connect from, in turn.
    #[arg(long, value_name = "ADDRESS,...", value_parser = Sources::parse)]
    ifaddr: Option<Sources>,

    /// The clients of reconnect return from another of those addresses each time.
    #[arg(long, requires = "ifaddr")]
    roam: bool,

    /// Close connections with a reset instead of gracefully.
    #[arg(long)]
    reset: bool,

    /// EMQX's API, to look up each client's node where CONNACK does not name it.
    #[arg(long, value_name = "HOST:PORT", requires = "emqx_key")]
    emqx_api: Option<String>,

    /// A file with the API's key, as KEY:SECRET.
    #[arg(long, value_name = "FILE", requires = "emqx_api")]
    emqx_key: Option<PathBuf>,

    /// Measure the CPU time and memory of this process and its descendants.
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,

    /// Print the result as JSON.
    #[arg(long)]
    pub(super) json: bool,

    /// Write the result as a page with charts, in one file.
    #[arg(long, value_name = "FILE")]
    pub(super) report: Option<PathBuf>,

    /// Run each workload so many times, and print medians and ranges. Five or more make --compare meaningful.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(super) runs: u32,

    /// Print two results of --json side by side, and run nothing. Each side may be several files, with commas between
    /// them; a difference is called one only if it is beyond what the runs of one side differ among themselves.
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"], conflicts_with_all = ["workload", "served", "report"])]
    pub(super) compare: Option<Vec<PathBuf>>,

    /// Fail when the p99 of the message latency (without messages, of the CONNACK latency) is above this.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub(super) max_p99: Option<Duration>,

    /// Fail when the p99 of the latency from CONNECT to CONNACK is above this.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub(super) max_connack_p99: Option<Duration>,

    /// Fail when there are more errors than this.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) max_errors: u64,

    /// Fail when less than this share of the returning clients reach the same node as before.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) min_same_node: Option<u8>,

    /// Serve this many small nodes on free ports, and run no clients. They accept every client, skip PROXY headers, and
    /// route by exact topic.
    ///
    /// Each serves MQTT and, at the path /mqtt, MQTT over WebSocket on the same port.
    #[arg(long, value_name = "N", group = "served", conflicts_with = "workload", value_parser = clap::value_parser!(u16).range(1..=1_000))]
    serve: Option<u16>,

    /// The same at these addresses.
    #[arg(
        long,
        value_name = "IP:PORT,...",
        value_delimiter = ',',
        group = "served",
        conflicts_with = "workload"
    )]
    serve_at: Vec<SocketAddr>,

    /// The served nodes stall for a second, once in this many seconds.
    #[arg(long, value_name = "SECONDS", requires = "served", value_parser = clap::value_parser!(u16).range(2..))]
    stall_every: Option<u16>,

    // Last, since its heading would apply to the options behind it.
    #[command(flatten)]
    tls: tls::Options,
}

/// What the clients of a run do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Connect and disconnect, as fast as the target accepts.
    Connect,
    /// Publish; with QoS 1 each message is timed until it is confirmed.
    Pub,
    /// Subscribe, and time the messages of a few publishers.
    Sub,
    /// Each client subscribes to what it publishes.
    Echo,
    /// Connect, ping once, and stay connected.
    Idle,
    /// All clients are cut off at once and reconnect: how long it takes, whether to the same node and session.
    Reconnect,
    /// Large messages, whose content is verified.
    Bulk,
}

/// What differs between workloads unless options say otherwise.
struct Defaults {
    name: &'static str,
    clients: u32,
    size: usize,
    duration_s: u64,
    traffic: Traffic,
}

impl Workload {
    fn defaults(self) -> Defaults {
        let (name, clients, size, duration_s, traffic) = match self {
            Self::Connect => ("connect", 10_000, STAMP_BYTES, 60, Traffic::None),
            Self::Pub | Self::Sub => ("pub", 100, 100, 10, Traffic::Window(1)),
            Self::Echo => ("echo", 100, 100, 10, Traffic::Window(1)),
            Self::Idle => ("idle", 1_000, STAMP_BYTES, 10, Traffic::None),
            Self::Reconnect => ("reconnect", 1_000, STAMP_BYTES, 10, Traffic::None),
            // Within the megabyte that many brokers accept, as do the nodes of the demo.
            Self::Bulk => ("bulk", 4, 1_000_000, 10, Traffic::Window(2)),
        };
        Defaults {
            name: if self == Self::Sub { "sub" } else { name },
            clients,
            size,
            duration_s,
            traffic,
        }
    }
}

/// Messages a second of publishers without a rate, whose messages have no end that could pace them.
const RATE: f64 = 1_000.0;

impl Args {
    /// The password, which is not to be shown.
    pub(super) fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// Where nodes are to be served, if they are.
    pub(super) fn served(&self) -> Option<Vec<SocketAddr>> {
        match self.serve {
            Some(count) => Some(vec![(Ipv4Addr::LOCALHOST, 0).into(); count.into()]),
            None => Some(self.serve_at.clone()).filter(|addresses| !addresses.is_empty()),
        }
    }

    /// How the served nodes stall.
    pub(super) fn stall(&self) -> Option<Stall> {
        self.stall_every.map(|every_s| Stall {
            every: Duration::from_secs(every_s.into()),
            lasts: Duration::from_secs(1),
        })
    }

    /// The plans that the arguments ask for, in order, or what is wrong with them.
    pub(super) fn plans(&self) -> Result<Vec<Plan>, String> {
        let target = Target::read(self)?;
        self.check(target.address)?;
        let Some(workload) = self.workload else {
            return self
                .canonical()
                .iter()
                .map(|(args, workload, name)| {
                    Ok(Plan {
                        name,
                        ..args.plan(*workload, &target)?
                    })
                })
                .collect();
        };
        Ok(vec![self.plan(workload, &target)?])
    }

    /// The runs of a bench without a workload. Options apply to each of them.
    fn canonical(&self) -> [(Self, Workload, &'static str); 4] {
        let with = |change: fn(&mut Self)| {
            let mut args = self.clone();
            change(&mut args);
            args
        };
        let seconds = |duration: &mut Option<Duration>, seconds| {
            duration.get_or_insert(Duration::from_secs(seconds));
        };
        let storm = with(|args| {
            args.clients = args.clients.or(Some(5_000));
            args.duration = args.duration.or(Some(Duration::from_secs(10)));
            // Gracefully closed, the ports of each run would be missing in the next.
            args.reset = true;
        });
        let mut latency = with(|args| args.rate = args.rate.or(Some(2_000.0)));
        seconds(&mut latency.duration, 10);
        let mut throughput = with(|args| {
            args.rate = None;
            args.window = args.window.or(Some(8));
        });
        seconds(&mut throughput.duration, 5);
        let returning = with(|args| args.clients = args.clients.or(Some(500)));
        [
            (storm, Workload::Connect, "storm"),
            (latency, Workload::Echo, "latency"),
            (throughput, Workload::Echo, "throughput"),
            (returning, Workload::Reconnect, "return"),
        ]
    }

    fn check(&self, target: SocketAddr) -> Result<(), String> {
        if !target.ip().is_loopback() && !self.i_own_this_target {
            return Err(format!(
                "{target} is not on this machine: add --i-own-this-target if you may load it"
            ));
        }
        for (option, template) in [("--id", &self.id), ("--topic", &self.topic)] {
            // Room for a number of ten digits in each place.
            if template.len() + 10 * template.matches("%i").count() > usize::from(u16::MAX) {
                return Err(format!("{option}: longer than MQTT's 65,535 bytes"));
            }
        }
        if self.topic.is_empty() || self.topic.contains(['+', '#', '\0']) {
            return Err(format!("--topic {:?}: not a topic to publish to", self.topic));
        }
        for (option, text) in [("--username", &self.username), ("--password", &self.password)] {
            if text.as_ref().is_some_and(|text| text.len() > usize::from(u16::MAX)) {
                return Err(format!("{option}: longer than MQTT's 65,535 bytes"));
            }
        }
        if self.protocol == 4 && self.password.is_some() && self.username.is_none() {
            return Err("--password without --username: MQTT 3.1.1 does not allow it".into());
        }
        if self.ifaddr.as_ref().is_some_and(|sources| !sources.fit(target)) {
            return Err(format!("--ifaddr: not every address is of the family of {target}"));
        }
        let of = |workload, given: bool, option| {
            if given && self.workload != Some(workload) {
                return Err(format!("{option} is for another workload"));
            }
            Ok(())
        };
        of(Workload::Reconnect, self.roam, "--roam")?;
        of(Workload::Sub, self.publishers.is_some(), "--publishers")?;
        of(Workload::Pub, self.subscribers.is_some(), "--subscribers")
    }

    fn plan(&self, workload: Workload, target: &Target) -> Result<Plan, String> {
        let defaults = workload.defaults();
        let size = self.size.unwrap_or(defaults.size);
        if size < STAMP_BYTES {
            return Err(format!(
                "--size {size}: at least {STAMP_BYTES}, since every message carries timestamps"
            ));
        }
        if size > SIZE_MAX {
            return Err(format!("--size {size}: at most {SIZE_MAX} fit into a message"));
        }
        let asked_for = self.clients.unwrap_or(defaults.clients);
        let (publishers, subscribers, audience) = match workload {
            Workload::Connect | Workload::Idle | Workload::Reconnect => (asked_for, 0, Audience::None),
            Workload::Echo | Workload::Bulk => (asked_for, 0, Audience::Sender),
            Workload::Pub => match self.subscribers.unwrap_or(0) {
                0 => (asked_for, 0, Audience::None),
                subscribers => (asked_for, subscribers, Audience::Others),
            },
            Workload::Sub => (self.publishers.unwrap_or(1), asked_for, Audience::Others),
        };
        let clients = publishers + subscribers;
        if clients > CLIENTS_MAX {
            return Err(format!("{clients} clients: at most {CLIENTS_MAX}"));
        }
        let is_held_back = audience != Audience::None || self.qos > 0;
        let rate = self.rate.or((!is_held_back).then_some(RATE));
        let traffic = match (defaults.traffic, rate) {
            (Traffic::None, _) => Traffic::None,
            (_, Some(rate)) => Traffic::PerSecond {
                rate,
                window: self.window.unwrap_or(u32::MAX),
            },
            (Traffic::Window(window), None) => Traffic::Window(self.window.unwrap_or(window)),
            (per_second, None) => per_second,
        };
        let arrival = self
            .connect_rate
            .map_or(Arrival::AtOnce(self.at_once), Arrival::PerSecond);
        let connecting = match arrival {
            Arrival::AtOnce(_) => CONNECTING_MAX,
            Arrival::PerSecond(rate) => Duration::try_from_secs_f64(f64::from(clients) / rate).unwrap_or(Duration::MAX),
        };
        if connecting > LONGEST_CONNECTING {
            return Err(format!(
                "{clients} clients at that --connect-rate take longer than a day"
            ));
        }
        let returns = workload == Workload::Reconnect;
        let emqx = match (&self.emqx_api, &self.emqx_key) {
            (Some(address), Some(key)) => Some(Api::new(address, key)?),
            _ => None,
        };
        Ok(Plan {
            name: defaults.name,
            target: target.address,
            tls: target.tls.clone(),
            websocket: target.websocket.clone(),
            sources: self
                .ifaddr
                .clone()
                .unwrap_or_else(|| Sources::for_clients(target.address, clients)),
            roam: self.roam,
            clients,
            publishers,
            audience,
            clean: !returns,
            version: if self.protocol == 5 { Version::V5 } else { Version::V4 },
            client_id: self.id.clone(),
            topic: self.topic.clone(),
            keep_alive_s: self.keep_alive,
            username: self.username.clone(),
            password: self.password.clone(),
            arrival,
            connect_timeout: nanos(self.connect_timeout),
            connecting_max: nanos(connecting.saturating_add(self.connect_timeout)),
            then: match workload {
                Workload::Connect => Then::Leave,
                Workload::Idle => Then::Ping,
                Workload::Reconnect => Then::Return(self.cuts),
                Workload::Pub | Workload::Sub | Workload::Echo | Workload::Bulk => Then::Stay,
            },
            close_mode: if self.reset { CloseMode::Reset } else { CloseMode::Fin },
            traffic,
            qos: self.qos,
            size,
            warm_up: nanos(self.warm_up),
            duration: nanos(self.duration.unwrap_or(Duration::from_secs(defaults.duration_s))),
            settle: nanos(self.settle),
            emqx,
            pids: self.pid.iter().copied().chain([std::process::id()]).collect(),
        })
    }
}

/// What `--target` means, together with `--ws`, `--path` and the TLS options.
#[derive(Debug)]
struct Target {
    address: SocketAddr,
    tls: Option<Tls>,
    websocket: Option<Endpoint>,
}

impl Target {
    fn read(args: &Args) -> Result<Self, String> {
        let text = args.target.as_deref();
        let wrong = |why: &str| Err(format!("--target {}: {why}", text.unwrap_or_default()));
        let (scheme, rest) = match text.and_then(|text| text.split_once("://")) {
            Some((scheme, rest)) => (scheme, Some(rest)),
            None => ("", text),
        };
        let (is_ws, is_tls) = match scheme {
            "" => (args.ws, args.tls.tls),
            "mqtt" | "tcp" => (false, false),
            "mqtts" | "ssl" => (false, true),
            "ws" => (true, false),
            "wss" => (true, true),
            _ => return wrong("the scheme is not one of mqtt://, mqtts://, ws:// and wss://"),
        };
        if args.ws && !is_ws {
            return wrong("this scheme contradicts --ws");
        }
        if args.tls.tls && !is_tls {
            return wrong("this scheme contradicts --tls");
        }
        let port = match (is_ws, is_tls) {
            (false, false) => 1883,
            (false, true) => 8883,
            (true, false) => 8083,
            (true, true) => 8084,
        };
        let default = format!("127.0.0.1:{port}");
        let rest = rest.unwrap_or(&default);
        // Only WebSocket has a path; elsewhere, the address is then found invalid.
        let (host, path) = match rest.find('/').filter(|_| is_ws) {
            Some(at) => (&rest[..at], Some(&rest[at..])),
            None => (rest, None),
        };
        let addresses = host.to_socket_addrs().or_else(|_| (host, port).to_socket_addrs());
        let Some(address) = addresses.ok().and_then(|mut addresses| addresses.next()) else {
            return wrong("no such HOST:PORT");
        };
        if address.port() == 0 {
            return wrong("port 0 is invalid");
        }
        let path = match (path, &args.path) {
            (Some(_), Some(_)) => return wrong("it has a path, and --path gives another"),
            (None, Some(_)) if !is_ws => {
                return Err("--path is for WebSocket: add --ws".to_owned());
            }
            (Some(path), None) => path,
            (None, path) => path.as_deref().unwrap_or(PATH),
        };
        if !path.starts_with('/') || !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
            return Err(format!("--path {path:?}: not a valid URL path"));
        }
        let tls = match args.tls.given() {
            _ if is_tls => Some(args.tls.read(host)?),
            Some(option) => return Err(format!("{option} is for TLS: add --tls")),
            None => None,
        };
        Ok(Self {
            address,
            tls,
            websocket: is_ws.then(|| Endpoint {
                host: host.to_owned(),
                path: path.to_owned(),
            }),
        })
    }
}
