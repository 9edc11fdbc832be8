//! `remora ctl`: shows and changes a balancer that runs, by way of its admin socket.
//!
//! One file per group of commands. A command says what it asks, and how the answer reads as text.

mod connection;
mod nodes;
mod status;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use remora::admin::api::answers::SetWeight;
use serde::Serialize;

use super::locate::FileOption;
use super::print;
use connection::{Connection, Failed};

/// Where the balancer is, and what is asked.
#[derive(Args)]
pub(super) struct Arguments {
    /// The admin socket, instead of that of a configuration.
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    #[command(flatten)]
    file: FileOption,
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
    /// Drain a node: it keeps its clients and gets no new ones.
    Drain {
        #[arg(value_name = "NODE")]
        node: String,
    },
    /// Let a node get new clients again.
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
}

/// Runs the command.
pub(super) fn command(arguments: Arguments) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime
        .map_err(Failed::from)
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match done {
        Ok(text) if text.is_empty() => ExitCode::SUCCESS,
        Ok(text) => print(&text),
        Err(failed) => failed.report(),
    }
}

async fn run(arguments: Arguments) -> Result<String, Failed> {
    let Arguments {
        socket,
        file,
        json,
        command,
    } = arguments;
    let mut connection = Connection::open(socket, &file, json).await?;
    match command {
        Command::Status => connection.get("/api/v1/status", status::text).await,
        Command::Nodes { node: None } => connection.get("/api/v1/nodes", nodes::list).await,
        Command::Nodes { node: Some(node) } => connection.get(&nodes::path(&node, ""), nodes::one).await,
        Command::Drain { node } => connection.post(&nodes::path(&node, "drain"), None, nodes::one).await,
        Command::Undrain { node } => connection.post(&nodes::path(&node, "undrain"), None, nodes::one).await,
        Command::Weight {
            node,
            weight: nodes::Weight(weight),
        } => {
            let body = body(&SetWeight { weight });
            connection.post(&nodes::path(&node, "weight"), body, nodes::one).await
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
