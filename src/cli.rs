//! The command line: what each subcommand does, and which exit code it ends with.

use std::process::ExitCode;

use clap::Parser;

use remora::bench;

/// A sticky-session, MQTT-aware load balancer.
#[derive(Parser)]
#[command(version)]
enum Command {
    /// Load-tests an MQTT endpoint.
    Bench(bench::Args),
}

/// Runs the subcommand that the arguments name.
pub fn main() -> ExitCode {
    match Command::parse() {
        Command::Bench(args) => bench::run(args),
    }
}
