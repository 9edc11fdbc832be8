//! `remora doctor`: examines a configuration, its nodes and the routes between them, and says what to change.

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use remora::config::Loaded;
use remora::doctor::report::Report;
use remora::net::tls::Trust;
use remora::serve::{self, Fronts};
use tokio::runtime::Builder;
use tokio::task::LocalSet;

use super::{print, refused};

/// Something was found.
const FOUND: u8 = 2;

/// Examines this configuration, and prints the report.
pub(super) fn command(Loaded { config, .. }: &Loaded, fronts: &Fronts, json: bool) -> ExitCode {
    match run(serve::examine(config, fronts)) {
        Ok(report) => print_report(&report, json),
        Err(error) => {
            eprintln!("{}", refused::other(&error));
            ExitCode::FAILURE
        }
    }
}

/// The authorities in a file.
pub(super) fn trust(file: &Path) -> Result<Trust, String> {
    let pem = fs::read(file).map_err(|error| format!("--front-ca {}: {error}", file.display()))?;
    Trust::from_pem(&pem).map_err(|error| format!("--front-ca {}: {error}", file.display()))
}

/// Prints a report; the exit code says whether something was found.
fn print_report(report: &Report, json: bool) -> ExitCode {
    let text = if json { report.json() } else { report.text() };
    match print(&text) {
        ExitCode::SUCCESS => exit_code(report),
        failure => failure,
    }
}

/// Whether something was found.
pub(super) fn exit_code(report: &Report) -> ExitCode {
    match (report.findings.is_empty(), report.could_not_look.is_empty()) {
        (false, _) => ExitCode::from(FOUND),
        (true, false) => ExitCode::FAILURE,
        (true, true) => ExitCode::SUCCESS,
    }
}

fn run<T>(examination: impl Future<Output = T>) -> io::Result<T> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let result = LocalSet::new().block_on(&runtime, examination);
    // A look-up that hangs in the system's resolver must not delay the exit.
    runtime.shutdown_background();
    Ok(result)
}
