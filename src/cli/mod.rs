//! The command line: what each subcommand does, and which exit code it ends with.

mod check;
mod demo;
mod route;
mod run;
mod signals;

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use remora::admin;
use remora::bench;
use remora::cluster::Ring;
use remora::config::{self, Config};
use remora::route::Key;

/// Bad usage or bad configuration; sysexits.h calls it EX_USAGE.
const BAD_USAGE: u8 = 64;

/// A sticky-session, MQTT-aware load balancer in front of EMQX clusters.
///
/// Remora reads the client id from the MQTT CONNECT and takes each client to the same node every time.
#[derive(Parser)]
#[command(name = "remora", version, after_help = EXAMPLE)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = concat!(
    "A whole configuration:\n\n",
    include_str!("../../config/minimal.toml"),
    "\nExit codes: 0 fine, 1 failed, 64 bad usage or bad configuration."
);

#[derive(Subcommand)]
enum Command {
    /// Take clients to their nodes.
    ///
    /// SIGHUP reads the configuration again; SIGTERM and SIGQUIT drain and end; SIGINT, or a second SIGTERM, ends at once.
    Run(File),
    /// Find every problem in a configuration, or print what it would do.
    ///
    /// Nothing is bound, dialed or resolved.
    Check(File),
    /// Tell which node a client belongs to, and why.
    ///
    /// This is the ring's choice, the same in every balancer with the same nodes and seed. A client is elsewhere while its
    /// node is down or draining, or when its node refused it.
    Route {
        #[command(flatten)]
        file: File,
        /// Print a JSON array with an object for each id.
        #[arg(long)]
        json: bool,
        /// Client ids; user names, common names or IP addresses where the configuration's affinity key is one of these.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<OsString>,
    },
    /// Try it: three small MQTT nodes and a balancer before them, until SIGTERM or SIGINT.
    ///
    /// Prints what to type to see a message pass. The nodes are no brokers for production: they keep everything in memory.
    Demo(demo::Arguments),
    /// Ask a running balancer whether it should get clients; ends with 1 when it should not.
    Health {
        /// The configuration that the balancer runs with: it says where its admin listener is.
        #[arg(short, long, value_name = "FILE", conflicts_with = "address")]
        config: Option<PathBuf>,
        /// Where the admin listener is.
        #[arg(long, value_name = "ADDRESS", default_value_t = admin::ADDRESS_DEFAULT)]
        address: SocketAddr,
    },
    /// Load-test an MQTT endpoint.
    Bench(Box<bench::Args>),
}

#[derive(Args)]
struct File {
    /// The configuration, in TOML.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the subcommand that the arguments name.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    match arguments.command {
        Command::Run(file) => {
            with_config(&file, |config| or_failure(run::run(&file.config, config)))
        }
        Command::Health { config, address } => health(config, address),
        Command::Check(file) => with_config(&file, |config| print(&check::description(&config))),
        Command::Demo(arguments) => or_failure(demo::run(&arguments)),
        Command::Bench(args) => bench::run(*args),
        Command::Route { file, json, ids } => {
            with_config(&file, |config| match route::answers(&config, &ids) {
                Ok(answers) if json => print(&answers.json()),
                Ok(answers) => print(&answers.text()),
                Err(error) => {
                    eprintln!("remora: {error}");
                    ExitCode::from(BAD_USAGE)
                }
            })
        }
    }
}

/// Prints what clap has to say: help and version are fine, all else is bad usage.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing is left to be done for those who cannot read it.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(BAD_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

fn with_config(file: &File, command: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match config::load(&file.config) {
        Ok(config) => command(config),
        Err(problems) => {
            // NO_COLOR counts where it is set and not empty (no-color.org).
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            if io::stderr().is_terminal() && !no_color {
                eprintln!("{}", problems.coloured());
            } else {
                eprintln!("{problems}");
            }
            ExitCode::from(BAD_USAGE)
        }
    }
}

fn or_failure(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remora: {error}");
            ExitCode::FAILURE
        }
    }
}

fn health(config: Option<PathBuf>, address: SocketAddr) -> ExitCode {
    let Some(config) = config else {
        return ask_health(address);
    };
    with_config(&File { config }, |config| match config.admin {
        admin::Settings::Default => ask_health(admin::ADDRESS_DEFAULT),
        admin::Settings::At(address) => ask_health(address),
        admin::Settings::Off => {
            eprintln!("remora: this configuration has no admin listener (admin.enabled = false)");
            ExitCode::FAILURE
        }
    })
}

fn ask_health(address: SocketAddr) -> ExitCode {
    let asked = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(admin::health(reachable(address))));
    match asked {
        Ok(admin::Health { ready: true, says }) => print(&says),
        Ok(admin::Health { ready: false, says }) => {
            eprintln!("remora: not ready: {says}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("remora: no answer from {address}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Where a listener on every address can be asked on this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
        }
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    }
}

/// Prints to standard output.
fn print(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough, as in `remora route ... | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remora: cannot print: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Rows as lines, in columns as wide as needed, each line after `indent`.
fn columns(indent: &str, rows: &[Vec<String>]) -> String {
    let mut widths = Vec::new();
    for row in rows {
        widths.resize(row.len().max(widths.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{indent}{}", cells.join("  ").trim_end())
    };
    let lines: Vec<String> = rows.iter().map(line).collect();
    lines.join("\n")
}

/// The ring of the configured nodes; its indices are positions in `config.nodes`.
fn ring(config: &Config) -> Ring {
    let members: Vec<_> = config
        .nodes
        .iter()
        .map(|node| (&*node.name, node.weight))
        .collect();
    Ring::build(config.affinity.seed, &members)
}

/// The affinity key, in words.
fn key_text(key: Key) -> &'static str {
    match key {
        Key::ClientId => "client id",
        Key::Username => "user name",
        Key::ClientAddress => "client address",
        Key::CertificateCn => "certificate's common name",
    }
}
