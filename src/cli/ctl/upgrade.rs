//! `remora ctl upgrade`: has the balancer start another process, which takes over, and shows how far that is.

use std::io::Write;
use std::path::{Path, PathBuf};

use remora::admin::api::answers::{Upgradable, Upgrade, UpgradeStep, Upgraded};
use remora::base::words::counted;

use super::connection::{Connection, Failed};
use super::{body, process};

const PATH: &str = "/api/v1/upgrade";

/// What is asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) binary: Option<PathBuf>,
    pub(super) or_reload: bool,
}

/// Upgrades, or reloads if the program on disk is the one that runs and that is asked for.
pub(super) async fn run(connection: &mut Connection, asked: Asked) -> Result<String, Failed> {
    let Asked { binary, or_reload } = asked;
    if or_reload && binary.is_none() {
        let Upgradable { is_another, .. } = connection.ask(false, PATH, None).await?;
        if !is_another {
            return connection.post("/api/v1/reload", None, process::reloaded).await;
        }
    }
    let binary = binary.map(|path| absolute(&path)).transpose()?;
    let body = body(&Upgrade { binary });
    let (json, mut out) = (connection.json, std::io::stdout());
    let mut last = None;
    connection
        .steps(PATH, body, |data| {
            let Ok(step) = serde_json::from_str::<UpgradeStep>(data) else {
                // A step that this program does not know.
                return true;
            };
            let line = if json { data.to_owned() } else { text(&step) };
            // Where nobody reads, the upgrade goes on.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
            let is_last = matches!(step, UpgradeStep::Done(_) | UpgradeStep::Failed { .. });
            last = Some(step);
            !is_last
        })
        .await?;
    match last {
        Some(UpgradeStep::Done(_)) => Ok(String::new()),
        Some(UpgradeStep::Failed { error }) => Err(Failed::refused(format!("not upgraded, {error}"))),
        _ => Err(Failed::refused(
            "the process ended before it said what has become of the upgrade: its log says it",
        )),
    }
}

/// The path as the balancer must have it, whose working directory is another one.
fn absolute(path: &Path) -> Result<String, Failed> {
    let absolute = std::path::absolute(path)?;
    let text = absolute.into_os_string().into_string();
    text.map_err(|_| Failed::bad_usage("the path of the program must be UTF-8"))
}

fn text(step: &UpgradeStep) -> String {
    match step {
        UpgradeStep::Started { pid } => format!("started process {pid}"),
        UpgradeStep::Checked => "its configuration is right, and both understand each other".to_owned(),
        UpgradeStep::Sockets => "sent the listening sockets".to_owned(),
        UpgradeStep::Relays { sent, of } => format!("sent {sent} of about {}", counted(*of, "connection")),
        UpgradeStep::Prepared => "the new process is ready".to_owned(),
        UpgradeStep::Frozen => "stopped relaying".to_owned(),
        UpgradeStep::Adopted => "the new process has everything".to_owned(),
        UpgradeStep::Running { round: 1, relays } => {
            format!("the new process relays {}, and accepts", counted(*relays, "connection"))
        }
        UpgradeStep::Running { relays, .. } => format!("{relays} more, which were connecting"),
        UpgradeStep::Done(upgraded) => done(upgraded),
        UpgradeStep::Failed { error } => format!("failed: {error}"),
    }
}

fn done(upgraded: &Upgraded) -> String {
    let Upgraded {
        pid,
        version,
        moved,
        left,
        pause_seconds,
    } = upgraded;
    let process = pid.map_or(String::new(), |pid| format!(", process {pid}"));
    let pause = pause_seconds * 1_000.0;
    let noun = |count: u64| if count == 1 { "connection" } else { "connections" };
    let mut line = format!(
        "upgraded to {version}{process}: {moved} {} moved, not relayed for {pause:.1} ms",
        noun(*moved)
    );
    let reasons: Vec<String> = left.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if !reasons.is_empty() {
        let total = left.values().sum();
        line += &format!(
            "; {total} {} stay with the old process ({})",
            noun(total),
            reasons.join(", ")
        );
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_has_moved_and_what_has_not() {
        let upgraded = Upgraded {
            pid: Some(7),
            version: "1.2.3".to_owned(),
            moved: 1,
            left: [("tls".to_owned(), 2), ("ending".to_owned(), 1)].into(),
            pause_seconds: 0.0123,
        };
        assert_eq!(
            done(&upgraded),
            "upgraded to 1.2.3, process 7: 1 connection moved, not relayed for 12.3 ms; 3 connections stay with the old process (1 ending, \
             2 tls)"
        );
    }
}
