//! The command line: what each subcommand does, and which exit code it ends with.

use std::process::ExitCode;

/// Runs the subcommand that the arguments name.
pub fn main() -> ExitCode {
    ExitCode::from(64)
}
