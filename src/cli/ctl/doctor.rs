//! `remora ctl doctor`: examines the balancer that runs, and exits as `remora doctor` does.

use std::process::ExitCode;

use remora::admin::api::answers::Examined;

use super::connection::{At, Connection, Failed};
use crate::cli::doctor::exit_code;
use crate::cli::print as print_text;

const PATH: &str = "/api/v1/doctor";

/// The last examination, or a new one.
pub(super) async fn examined(at: At, last: bool) -> Result<Examined, Failed> {
    let mut connection = Connection::open(at, false).await?;
    let examined: Examined = connection.ask(!last, PATH, None).await?;
    match examined.report {
        Some(_) => Ok(examined),
        None => Err(Failed::refused(
            "there was no examination yet: `remora ctl doctor` makes one, and `interval` in [doctor] repeats it",
        )),
    }
}

/// Prints an examination; the exit code says whether something was found.
pub(super) fn print(examined: &Examined, json: bool) -> ExitCode {
    let Some(report) = &examined.report else {
        return ExitCode::FAILURE;
    };
    let text = match (json, &examined.at) {
        // What was read always serializes.
        (true, _) => serde_json::to_string_pretty(examined).unwrap_or_default(),
        (false, Some(at)) => format!("examined at {at}\n\n{}", report.text()),
        (false, None) => report.text(),
    };
    match print_text(&text) {
        ExitCode::SUCCESS => exit_code(report),
        failure => failure,
    }
}
