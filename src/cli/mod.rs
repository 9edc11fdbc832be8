//! The command line: what each subcommand does, and which exit code it ends with.

mod check;
mod completions;
mod ctl;
mod demo;
mod doctor;
mod health;
mod holder;
mod import;
mod init;
mod listed;
mod locate;
mod refused;
mod route;
mod run;
mod sandbox;
mod signals;
mod state;
mod systemd;
mod top;
mod upgrade;
mod version;

use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};

use remora::cluster::Ring;
use remora::config::{self, Config, Loaded, Problems};
use remora::doctor::front::FrontUrl;
use remora::path::affinity::{Key, Rule};
use remora::serve::Fronts;

use locate::{File, FileOption, Located, NotFound};

/// Bad usage or bad configuration; sysexits.h calls it EX_USAGE.
const BAD_USAGE: u8 = 64;

/// A sticky-session, MQTT-aware load balancer in front of EMQX clusters.
///
/// Remora reads the client id from the MQTT CONNECT and takes each client to the same node every time.
#[derive(Parser)]
#[command(
    name = "remora",
    after_help = EXAMPLE,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true
)]
struct Arguments {
    /// Print version, commit, TLS library and target.
    #[arg(short = 'V', long)]
    version: bool,
    /// Print the version; twice, or with --version, also how it was built and what this machine allows.
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLE: &str = concat!(
    "A whole configuration:\n\n",
    include_str!("../../config/minimal.toml"),
    "\nExit codes: 0 fine, 1 failed, 2 the doctor found something, 64 bad usage or bad configuration."
);

#[derive(Subcommand)]
enum Command {
    /// Run the balancer.
    ///
    /// SIGHUP reads the configuration again; SIGTERM and SIGQUIT drain and end; SIGUSR1 opens the log's file anew, or
    /// without one accepts no more clients and ends with the last one; SIGINT, or a second SIGTERM, ends at once.
    Run {
        #[command(flatten)]
        file: File,
        /// Allow core dumps, as far as the system's limits do. They contain private keys and what clients send.
        #[arg(long)]
        core_dumps: bool,
        /// Keep the operator's wishes for nodes (drain, weight) in this file over restarts.
        #[arg(long, value_name = "FILE")]
        state: Option<PathBuf>,
        /// Take over all listeners and connections of a process that runs, at its handover.socket; nobody is disconnected. "-" is
        /// standard input, for `remora ctl upgrade`.
        #[arg(long, value_name = "SOCKET")]
        take_over: Option<PathBuf>,
    },
    /// Write a first configuration, from options or from the answers to a few questions.
    ///
    /// What is written passes `check`. Nothing is dialed or resolved.
    Init(Box<init::Arguments>),
    /// Report every problem in a configuration, or print what it would do.
    ///
    /// Exits with 64 if `run` would refuse the configuration. What `run` does not refuse but an operator should look at, such as a
    /// certificate that has expired, is printed to standard error, and the exit code is 0. Nothing is dialed or resolved, and nothing is
    /// bound without --bind. The FILE "-" is standard input.
    Check {
        #[command(flatten)]
        file: File,
        /// Also try to bind every listener and the admin socket, as `run` would; exits with 1 if one cannot be. Clients notice nothing.
        #[arg(long)]
        bind: bool,
        /// Exit with 1 if there is anything to look at.
        #[arg(long)]
        strict: bool,
    },
    /// Print the configuration in force: every key, its value, and where that comes from.
    ///
    /// The output is a configuration that means the same. The FILE "-" is standard input.
    Config {
        #[command(flatten)]
        file: File,
        /// Print the JSON Schema of all configurations instead, by which editors complete and check one.
        #[arg(long, conflicts_with_all = ["file", "config"])]
        schema: bool,
    },
    /// Print which node a client belongs to, and why.
    ///
    /// This is the ring's choice, the same in every balancer with the same nodes and seed. A client is on another node while
    /// its own is down or draining, or if its own refused it.
    Route {
        #[command(flatten)]
        file: FileOption,
        /// Print a JSON array with one object for each id.
        #[arg(long)]
        json: bool,
        /// Client ids; or user names, common names or IP addresses, if the configuration's affinity key is one of these.
        #[arg(value_name = "ID", required = true)]
        ids: Vec<OsString>,
    },
    /// Find out why messages do not arrive: look at the set-up, send messages between all nodes, and say what to change.
    ///
    /// A client on each node subscribes to a private topic below `[doctor] topic`, and each publishes to it. Nothing of it stays at the
    /// nodes, and no client notices it. Exits with 0 if nothing was found, 2 if something was, 1 if it could not look.
    Doctor {
        #[command(flatten)]
        file: File,
        /// Also restart a subscriber behind this listener of a balancer that runs, with publishers on each node: mqtt://HOST:PORT, or
        /// mqtts, ws or wss.
        #[arg(long, value_name = "URL")]
        front: Vec<FrontUrl>,
        /// How often that subscriber is restarted.
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        restarts: u32,
        /// The authorities of the listeners' certificates, in PEM. Without it, any certificate is accepted.
        #[arg(long, value_name = "FILE", requires = "front")]
        front_ca: Option<PathBuf>,
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Try it: run three small MQTT nodes behind a balancer, until SIGTERM or SIGINT.
    ///
    /// Prints the commands that send a message through it. The nodes are not brokers for production: they keep everything in
    /// memory.
    Demo(demo::Arguments),
    /// Run three small MQTT nodes alone, for a balancer in another process, until SIGTERM or SIGINT.
    ///
    /// They route messages to each other, and keep everything in memory: not brokers for production.
    Sandbox(sandbox::Arguments),
    /// Ask the balancer that runs a configuration whether it is ready for clients; exits with 1 if it is not.
    ///
    /// Another balancer that answers at the admin address of the configuration is no answer. With --address, any balancer may answer.
    Health {
        #[command(flatten)]
        file: File,
        /// The address of an admin listener, instead of a configuration.
        #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["file", "config"])]
        address: Option<SocketAddr>,
    },
    /// Show and change the balancer that runs a configuration, by way of its admin socket, or any by --address.
    ///
    /// Exits with 1 if no process answers there, or if it refuses; with 64 for bad usage.
    Ctl(ctl::Arguments),
    /// Watch the balancer that runs a configuration: nodes, rates, end causes, busiest and quietest clients.
    ///
    /// Fills the terminal until q; ? shows the keys. With --once, prints one frame as text. Exits with 1 if no process answers at the
    /// start; one that goes away later is waited for.
    Top(top::Arguments),
    /// Print completions of the command line for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print a page of the manual, or write all of them.
    Man(completions::ManArguments),
    /// Print a configuration of nginx or HAProxy as one of Remora, and report what it could not say.
    ///
    /// The result goes to standard output, with the line of the original behind each key, and the report to standard error: every
    /// directive that is not in the result, with its place, the reason and what to do. Exits with 2 if something that changes behaviour
    /// was not carried over, and with 1 if a file cannot be read or parsed.
    Import(import::Arguments),
    /// Runs a program, and ends as it does: of an upgrade, which starts the next process in this way.
    #[command(hide = true)]
    Supervise(upgrade::Supervised),
    /// Load-test an MQTT endpoint.
    Bench(Box<remora_bench::Args>),
}

/// Runs the subcommand that the arguments name.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error),
    };
    let Some(command) = arguments.command else {
        // Without any argument, clap has printed the help.
        return match u8::from(arguments.version).saturating_add(arguments.verbose) {
            0 | 1 => print(&version::line()),
            _ => print(&version::details()),
        };
    };
    match command {
        Command::Run {
            file,
            core_dumps,
            state,
            take_over,
        } => {
            if !core_dumps {
                run::forbid_core_dumps();
            }
            run_config(file.locate(), state.as_deref(), take_over.as_deref())
        }
        Command::Health { file, address } => health::command(&file, address),
        Command::Check { file, bind, strict } => {
            with_config(file.locate(), |loaded| check::command(loaded, bind, strict))
        }
        Command::Config { schema: true, .. } => print(config::schema().trim_end()),
        Command::Config { file, schema: false } => with_config(file.locate(), |Loaded { config, source }| {
            print(config::effective(&config, Some(&source)).trim_end())
        }),
        Command::Doctor {
            file,
            front,
            restarts,
            front_ca,
            json,
        } => {
            let trust = match front_ca.as_deref().map(doctor::trust).transpose() {
                Ok(trust) => trust,
                Err(error) => return bad_usage(&error),
            };
            let fronts = Fronts {
                urls: front,
                restarts,
                trust,
            };
            with_config(file.locate(), |loaded| doctor::command(&loaded, &fronts, json))
        }
        Command::Demo(arguments) => or_failure(demo::run(&arguments)),
        Command::Sandbox(arguments) => or_failure(sandbox::run(&arguments)),
        Command::Ctl(arguments) => ctl::command(arguments),
        Command::Import(arguments) => import::command(&arguments),
        Command::Init(arguments) => init::command(*arguments),
        Command::Completions { shell } => completions::completions::<Arguments>(shell),
        Command::Man(arguments) => completions::man::<Arguments>(arguments),
        Command::Top(arguments) => top::command(arguments),
        Command::Supervise(supervised) => upgrade::supervise(&supervised),
        Command::Bench(args) => remora_bench::run(*args, &version::line()),
        Command::Route { file, json, ids } => with_config(file.locate(), |Loaded { mut config, .. }| {
            if let Err(problems) = listed::add(&mut config) {
                print_problems(&problems);
                return ExitCode::from(BAD_USAGE);
            }
            match route::answers(&config, &ids) {
                Ok(answers) if json => print(&answers.json()),
                Ok(answers) => print(&answers.text()),
                Err(error) => bad_usage(&error),
            }
        }),
    }
}

/// Prints clap's message. Help and version exit with 0, everything else is bad usage.
fn usage(error: &clap::Error) -> ExitCode {
    // If it cannot be printed, nothing else can be done.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(BAD_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// Calls `command` with the configuration, unless there is none or it has problems.
fn with_config(located: Result<Located, NotFound>, command: impl FnOnce(Loaded) -> ExitCode) -> ExitCode {
    let located = match located {
        Ok(located) => located,
        Err(none) => return bad_usage(&format!("{none}; see --help")),
    };
    match located.load() {
        Ok(loaded) => command(loaded),
        Err(problems) => refused_config(&located, &problems),
    }
}

/// Prints the problems of the configuration that was found there.
fn refused_config(located: &Located, problems: &Problems) -> ExitCode {
    print_problems(problems);
    if let Some(note) = located.note() {
        eprintln!("remora: {note}");
    }
    ExitCode::from(BAD_USAGE)
}

/// Runs the balancer; what the system refuses at its start is a problem of a line of the file.
fn run_config(located: Result<Located, NotFound>, state: Option<&Path>, take_over: Option<&Path>) -> ExitCode {
    let located = match located {
        Ok(located) => located,
        Err(none) => return bad_usage(&format!("{none}; see --help")),
    };
    let Located::File(path, _) = &located else {
        return bad_usage(
            &"run reads its file again at a reload: give it a file instead of standard input; see --help",
        );
    };
    with_config(Ok(located.clone()), |Loaded { config, source }| {
        // The text of a large file is not kept for as long as the process runs.
        drop(source);
        match run::run(path, config, state, take_over) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let again = located.load().ok();
                let problem = again.as_ref().and_then(|Loaded { config, source }| {
                    let problem = refused::problem(&error, config, source)?;
                    Some(source.problems(vec![problem]))
                });
                match problem {
                    Some(problem) => print_problems(&problem),
                    None => eprintln!("{}", refused::other(&error)),
                }
                ExitCode::FAILURE
            }
        }
    })
}

fn bad_usage(error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("remora: {error}");
    ExitCode::from(BAD_USAGE)
}

/// Prints problems to standard error, with colours if a terminal reads them.
fn print_problems(problems: &Problems) {
    if is_coloured() {
        eprintln!("{}", problems.coloured());
    } else {
        eprintln!("{problems}");
    }
}

/// Whether standard error takes colours.
fn is_coloured() -> bool {
    // NO_COLOR applies if it is set and not empty (no-color.org).
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !no_color
}

fn or_failure(result: io::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", refused::other(&error));
            ExitCode::FAILURE
        }
    }
}

/// The address at which this machine can reach a listener; loopback for one on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    }
}

/// Prints to standard output.
fn print(text: &str) -> ExitCode {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe, as in `remora route ... | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remora: cannot print: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Formats rows as lines with aligned columns, each line after `indent`.
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
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{indent}{}", cells.join("  ").trim_end())
    };
    let lines: Vec<String> = rows.iter().map(line).collect();
    lines.join("\n")
}

/// The ring of the configured nodes; its indices are those of `config.nodes`.
fn ring(config: &Config) -> Ring {
    let members: Vec<_> = config.nodes.iter().map(|node| (&*node.name, node.weight)).collect();
    Ring::build(config.affinity.seed, &members)
}

/// What ties a client to its node, in words.
fn rule_text(rule: &Rule) -> String {
    let key = key_text(rule.key);
    match &rule.group {
        None => key.to_owned(),
        Some(group) => format!("{key}, in groups by {}", group.as_str()),
    }
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
