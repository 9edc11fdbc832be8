//! `remora ctl`: shows and changes a balancer that runs, by way of its admin socket.
//!
//! One file per group of commands. A command says what it asks, and how the answer reads as text.

pub(super) mod clients;
pub(super) mod connection;
mod doctor;
mod events;
pub(super) mod nodes;
mod page;
mod process;
mod status;
mod upgrade;

use std::ffi::OsString;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use remora::admin::api::answers::{CloseNode, DrainNode, Nodes, SetWeight};
use serde::Serialize;

use super::print;
use connection::{At, Connection, Failed};

/// Where the balancer is, and what is asked.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    at: At,
    /// Print the answer as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show the process: whether it is ready, and its connections.
    Status,
    /// Show the nodes, or one of them.
    Nodes {
        /// The name of a node.
        #[arg(value_name = "NODE")]
        node: Option<String>,
    },
    /// Drain a node: it gets no new clients.
    ///
    /// It keeps those that it has, unless --rate is given.
    Drain {
        #[arg(value_name = "NODE")]
        node: String,
        /// Also close its connections, so many per second.
        #[arg(long, value_name = "N/s", value_parser = nodes::rate)]
        rate: Option<NonZeroU32>,
        /// Return once it has no connections.
        #[arg(long)]
        wait: bool,
    },
    /// Let a node get new clients again; its connections are not closed any more.
    Undrain {
        #[arg(value_name = "NODE")]
        node: String,
    },
    /// Give a node another weight than the file does. No connection moves.
    Weight {
        #[arg(value_name = "NODE")]
        node: String,
        /// 1 to 1000, or `reset` for the weight of the file.
        #[arg(value_name = "WEIGHT|reset", value_parser = nodes::weight)]
        weight: nodes::Weight,
    },
    /// List the clients that are connected.
    Clients(clients::Filters),
    /// Show where a client is and why, or where it would go and how its last connection ended.
    Client {
        #[arg(value_name = "ID")]
        id: OsString,
    },
    /// Close the connections of a client.
    Close {
        #[arg(value_name = "ID")]
        id: OsString,
    },
    /// Bring home the clients that are on another node, by closing their connections at a rate.
    Rebalance {
        /// Only the clients at home on this node.
        #[arg(value_name = "NODE")]
        node: Option<String>,
        /// Connections closed per second, such as 50 or 50/s.
        #[arg(long, value_name = "N/s", value_parser = nodes::rate)]
        rate: Option<NonZeroU32>,
        /// Return when all are closed.
        #[arg(long)]
        wait: bool,
        /// Stop the one that is running, and leave the others where they are.
        #[arg(long, conflicts_with_all = ["node", "rate", "wait"])]
        stop: bool,
    },
    /// Close the connections that nodes have now.
    CloseNode {
        #[arg(value_name = "NODE", required = true)]
        nodes: Vec<String>,
        /// So many per second of each node, instead of all at once.
        #[arg(long, value_name = "N/s", value_parser = nodes::rate)]
        rate: Option<NonZeroU32>,
    },
    /// Drain the whole process, as SIGTERM does: it takes no new clients, closes its connections at the rate of [drain], and ends.
    DrainProcess,
    /// Have the doctor look at the set-up, the nodes and the routes between them, and say what to change.
    ///
    /// Exits with 0 if nothing was found, 2 if something was, 1 if it could not look.
    Doctor {
        /// Show the last examination instead of a new one.
        #[arg(long)]
        last: bool,
    },
    /// Show the listeners.
    Listeners,
    /// Serve the status page on a port of this machine, for a browser.
    ///
    /// It prints the page's address, whose token lets its bearer do everything. Over ssh: ssh -L 8080:127.0.0.1:PORT.
    Page {
        /// A port of 127.0.0.1. Default: a free one.
        #[arg(long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
        port: u16,
    },
    /// Print what has changed lately.
    Events {
        /// Print what changes, until interrupted.
        #[arg(long)]
        follow: bool,
        /// Begin behind the event with this number.
        #[arg(long, value_name = "ID")]
        since: Option<u64>,
    },
    /// Show the certificates in use, and when they expire.
    Certificates,
    /// Open the file of the log anew, after something else has moved it.
    ReopenLogs,
    /// Print the configuration in force: every key, its value, and where that comes from.
    Config,
    /// Read the configuration again, and take it completely or not at all.
    Reload,
    /// Start the program on disk, which takes over all listeners and connections: nobody is disconnected.
    ///
    /// If it cannot, the process that runs goes on as before, and the exit code is 1.
    Upgrade {
        /// Another program than the one that the process was started from.
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        /// Reload instead, if the program on disk is the one that runs.
        #[arg(long, conflicts_with = "binary")]
        or_reload: bool,
    },
}

/// Runs the command.
pub(super) fn command(arguments: Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Failed::from(error).report(),
    };
    if let Command::Doctor { last } = arguments.command {
        return match runtime.block_on(doctor::examined(arguments.at, last)) {
            Ok(examined) => doctor::print(&examined, arguments.json),
            Err(failed) => failed.report(),
        };
    }
    match runtime.block_on(run(arguments)) {
        Ok(text) if text.is_empty() => ExitCode::SUCCESS,
        Ok(text) => print(&text),
        Err(failed) => failed.report(),
    }
}

async fn run(arguments: Arguments) -> Result<String, Failed> {
    let Arguments { at, json, command } = arguments;
    let mut connection = Connection::open(at, json).await?;
    match command {
        Command::Status => connection.get("/api/v1/status", status::text).await,
        Command::Nodes { node: None } => connection.get("/api/v1/nodes", nodes::list).await,
        Command::Nodes { node: Some(node) } => connection.get(&nodes::path(&node, ""), nodes::one).await,
        Command::Drain { node, rate, wait } => {
            let (path, body) = (nodes::path(&node, "drain"), body(&DrainNode { rate }));
            let draining = connection.post(&path, body, nodes::one).await?;
            match wait {
                true => nodes::wait(&mut connection, &node).await,
                false => Ok(draining),
            }
        }
        Command::CloseNode { nodes, rate } => {
            let mut closed = Vec::new();
            for node in &nodes {
                let (path, body) = (nodes::path(node, "close"), body(&CloseNode { rate }));
                closed.push(connection.ask(true, &path, body).await?);
            }
            Ok(connection.shown(&Nodes { nodes: closed }, nodes::list))
        }
        Command::DrainProcess => connection.post("/api/v1/drain", None, process::draining).await,
        Command::Page { port } => page::serve(&connection.into_socket()?, port).await,
        // Done by the caller, since it has an exit code of its own.
        Command::Doctor { .. } => Ok(String::new()),
        Command::Listeners => connection.get("/api/v1/listeners", process::listeners).await,
        Command::Events { follow, since } => events::print(&mut connection, follow, since).await,
        Command::Certificates => connection.get("/api/v1/certificates", process::certificates).await,
        Command::ReopenLogs => connection.post("/api/v1/log/reopen", None, process::reopened).await,
        Command::Config => connection.get("/api/v1/config", process::config).await,
        Command::Upgrade { binary, or_reload } => {
            upgrade::run(&mut connection, upgrade::Asked { binary, or_reload }).await
        }
        Command::Reload => connection.post("/api/v1/reload", None, process::reloaded).await,
        Command::Undrain { node } => connection.post(&nodes::path(&node, "undrain"), None, nodes::one).await,
        Command::Weight {
            node,
            weight: nodes::Weight(weight),
        } => {
            let body = body(&SetWeight { weight });
            connection.post(&nodes::path(&node, "weight"), body, nodes::one).await
        }
        Command::Clients(filters) => clients::list(&mut connection, filters).await,
        Command::Client { id } => clients::show(&mut connection, &id).await,
        Command::Close { id } => clients::close(&mut connection, &id).await,
        Command::Rebalance { stop: true, .. } => clients::stop_rebalance(&mut connection).await,
        Command::Rebalance { node, rate, wait, .. } => {
            clients::rebalance(&mut connection, node.as_deref(), rate.map(NonZeroU32::get), wait).await
        }
    }
}

/// A request's body.
fn body(value: &impl Serialize) -> Option<String> {
    // What is asked always serializes.
    serde_json::to_string(value).ok()
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::refused(error.to_string())
    }
}
