//! The bench's command line, and the plan that it makes of it.

use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;

use super::clock::nanos;
use super::nodes::Stall;
use super::packet::{STAMP_BYTES, Version};
use super::plan::{Arrival, Parting, Plan, Then, Traffic};

/// Load-tests an MQTT endpoint.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// What the clients do.
    #[arg(value_enum, default_value_t = Workload::Echo)]
    workload: Workload,

    /// Where the clients connect to.
    #[arg(
        short,
        long,
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:1883"
    )]
    target: SocketAddr,

    /// How many clients.
    #[arg(short, long, value_name = "N")]
    clients: Option<u32>,

    /// How many clients connect at once.
    #[arg(long, value_name = "N", default_value_t = 64)]
    at_once: u32,

    /// How many clients connect per second, whatever the target does.
    #[arg(
        short = 'R',
        long,
        value_name = "PER_SECOND",
        conflicts_with = "at_once"
    )]
    connect_rate: Option<f64>,

    /// Messages per second over all clients, at fixed times (open loop).
    #[arg(short, long, value_name = "PER_SECOND")]
    rate: Option<f64>,

    /// Messages under way per client: without a rate, the next is sent when one returns (closed loop).
    #[arg(short, long, value_name = "N")]
    window: Option<u32>,

    /// Payload bytes of a message.
    #[arg(short, long, value_name = "BYTES")]
    size: Option<usize>,

    /// The measured time, in seconds.
    #[arg(short, long, value_name = "SECONDS")]
    duration: Option<f64>,

    /// Time between the first message and the measured time, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    warm_up: f64,

    /// Time between the last close and the last look at `--pid`, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    settle: f64,

    /// QoS of the messages.
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,

    /// Protocol version: 4 (MQTT 3.1.1) or 5.
    #[arg(short = 'V', long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(4..=5))]
    protocol: u8,

    /// Keep alive in seconds; 0 is none.
    #[arg(short, long, value_name = "SECONDS", default_value_t = 300)]
    keep_alive: u16,

    /// Client ids; `%i` is the client's number.
    #[arg(short, long, value_name = "TEMPLATE", default_value = "bench-%i")]
    id: String,

    /// Topics; `%i` is the client's number.
    #[arg(long, value_name = "TEMPLATE", default_value = "bench/%i")]
    topic: String,

    /// User name.
    #[arg(short, long)]
    username: Option<String>,

    /// Password.
    #[arg(short = 'P', long)]
    password: Option<String>,

    /// Leave with a reset instead of in order.
    #[arg(long)]
    reset: bool,

    /// Measure the CPU time and memory of this process and its descendants.
    #[arg(long, value_name = "PID")]
    pid: Vec<u32>,

    /// Print the result as JSON.
    #[arg(long)]
    pub(super) json: bool,

    /// Instead of load: serve so many small nodes on free ports, which accept everyone and echo every message.
    #[arg(long, value_name = "N")]
    pub(super) serve: Option<usize>,

    /// The served nodes do nothing for a second, so often (in seconds).
    #[arg(long, value_name = "SECONDS", requires = "serve", value_parser = clap::value_parser!(u16).range(2..))]
    stall_every: Option<u16>,
}

/// What the clients of a run do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Connect and leave, as fast as the target takes it.
    Connect,
    /// Each client gets back what it sends.
    Echo,
    /// Connect, ping once, stay.
    Idle,
    /// Large messages, content verified.
    Bulk,
}

impl Args {
    /// How the served nodes stall.
    pub(super) fn stall(&self) -> Option<Stall> {
        self.stall_every.map(|every_s| Stall {
            every: Duration::from_secs(every_s.into()),
            lasts: Duration::from_secs(1),
        })
    }

    /// What they ask for, or why it cannot be.
    pub(super) fn plan(&self) -> Result<Plan, String> {
        let (clients, size, duration, window) = match self.workload {
            Workload::Connect => (10_000, STAMP_BYTES, 60.0, 0),
            Workload::Echo => (100, 100, 10.0, 1),
            Workload::Idle => (1_000, STAMP_BYTES, 10.0, 0),
            Workload::Bulk => (4, 1024 * 1024, 10.0, 2),
        };
        let size = self.size.unwrap_or(size);
        if size < STAMP_BYTES {
            return Err(format!(
                "--size {size}: at least {STAMP_BYTES}, since every message carries its times"
            ));
        }
        let seconds = |seconds: f64| {
            Duration::try_from_secs_f64(seconds)
                .map(nanos)
                .map_err(|error| error.to_string())
        };
        Ok(Plan {
            target: self.target,
            clients: self.clients.unwrap_or(clients),
            version: if self.protocol == 5 {
                Version::V5
            } else {
                Version::V4
            },
            client_id: self.id.clone(),
            topic: self.topic.clone(),
            keep_alive_s: self.keep_alive,
            username: self.username.clone(),
            password: self.password.clone(),
            arrival: self
                .connect_rate
                .map_or(Arrival::AtOnce(self.at_once), Arrival::PerSecond),
            connect_timeout: nanos(Duration::from_secs(5)),
            then: match self.workload {
                Workload::Connect => Then::Leave,
                Workload::Idle => Then::Ping,
                Workload::Echo | Workload::Bulk => Then::Stay,
            },
            parting: if self.reset {
                Parting::Reset
            } else {
                Parting::Fin
            },
            subscribes: matches!(self.workload, Workload::Echo | Workload::Bulk),
            traffic: match (self.workload, self.rate) {
                (Workload::Connect | Workload::Idle, _) => Traffic::None,
                (_, Some(rate)) => Traffic::PerSecond {
                    rate,
                    window: self.window.unwrap_or(u32::MAX),
                },
                (_, None) => Traffic::Window(self.window.unwrap_or(window)),
            },
            qos: self.qos,
            size,
            warm_up: seconds(self.warm_up)?,
            duration: seconds(self.duration.unwrap_or(duration))?,
            settle: seconds(self.settle)?,
            pids: self
                .pid
                .iter()
                .copied()
                .chain([std::process::id()])
                .collect(),
        })
    }
}
