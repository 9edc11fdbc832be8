//! The process: its configuration, reading that again, and its end.

use hyper::StatusCode;

use super::answers::{Configuration, Draining, Problem, Refused, Reloaded, Reopened};
use super::call::{Call, Refusal, Reply};

pub(super) async fn config(call: Call) -> Result<Reply, Refusal> {
    let handle = call.handle.clone();
    // The file and those that it names are read.
    let shown = tokio::task::spawn_blocking(move || handle.effective()).await;
    let (toml, is_of_file) =
        shown.map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Reply::json(&Configuration {
        configuration: call.handle.configuration().map(|file| file.display().to_string()),
        is_of_file,
        toml,
    })
}

pub(super) async fn reload(call: Call) -> Result<Reply, Refusal> {
    call.log_change("reload", None);
    match call.handle.request_reload().await? {
        Ok(reloaded) => Reply::json(&Reloaded {
            needs_restart: reloaded.restart.iter().map(|key| (*key).to_owned()).collect(),
            warnings: call.handle.warnings(),
        }),
        Err(not) => {
            let problems = not.problems.iter().flat_map(|problems| {
                problems.iter().map(|problem| {
                    let position = problems.position(problem);
                    Problem {
                        key: problem.path.clone(),
                        message: problem.message.clone(),
                        hint: problem.hint.clone(),
                        file: position.map(|at| at.file.to_owned()),
                        line: position.map(|at| at.line),
                        column: position.map(|at| at.column),
                    }
                })
            });
            let answer = Refused {
                error: format!("nothing has changed: {}", not.why),
                problems: problems.collect(),
                report: not.problems.as_ref().map(ToString::to_string),
            };
            Err(Refusal::with(StatusCode::UNPROCESSABLE_ENTITY, answer))
        }
    }
}

pub(super) async fn drain(call: Call) -> Result<Reply, Refusal> {
    let connections = call.handle.connections();
    call.handle.request_drain().await?;
    call.log_change("drain", None);
    Reply::json(&Draining { connections })
}

pub(super) async fn reopen_log(call: Call) -> Result<Reply, Refusal> {
    let file = call.handle.reopen_log().await?;
    call.log_change("reopen the log", None);
    Reply::json(&Reopened {
        file: file.display().to_string(),
    })
}
