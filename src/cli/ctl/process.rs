//! `remora ctl config`, `drain-process`, `listeners`, `certificates`, `reload` and `reopen-logs`.

use remora::admin::api::answers::{
    Certificate, Certificates, Configuration, Draining, Listener, Listeners, Reloaded, Reopened,
};
use remora::base::log::Escaped;

use crate::cli::columns;

pub(super) fn config(config: &Configuration) -> String {
    let note = match (&config.configuration, config.is_of_file) {
        (Some(file), false) => format!("# {file} says something else now, so that no value has its line.\n"),
        _ => String::new(),
    };
    format!("{note}{}", config.toml.trim_end())
}

pub(super) fn draining(draining: &Draining) -> String {
    let connections = draining.connections;
    let noun = if connections == 1 { "connection" } else { "connections" };
    format!("draining: {connections} {noun}, then the process ends")
}

pub(super) fn listeners(listeners: &Listeners) -> String {
    let head = ["LISTENER", "ADDRESS", "KIND", "CONNECTIONS", "ACCEPTED"]
        .map(str::to_owned)
        .to_vec();
    let row = |listener: &Listener| {
        let removed = if listener.is_removed { " (removed)" } else { "" };
        vec![
            format!("{}{removed}", listener.listener),
            listener.address.clone(),
            listener.kind.clone(),
            listener.connections.to_string(),
            listener.accepted.to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(listeners.listeners.iter().map(row))
        .collect();
    columns("", &rows)
}

pub(super) fn reloaded(reloaded: &Reloaded) -> String {
    let mut lines = vec!["reloaded".to_owned()];
    let restart = reloaded.needs_restart.iter();
    lines.extend(restart.map(|key| format!("{key} needs a restart; the old value stays in use")));
    lines.extend(reloaded.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n")
}

pub(super) fn certificates(certificates: &Certificates) -> String {
    let head = ["LISTENER", "EXPIRES", "DAYS", "NAMES"].map(str::to_owned).to_vec();
    let row = |certificate: &Certificate| {
        vec![
            certificate.listener.clone().unwrap_or_else(|| "(to nodes)".to_owned()),
            certificate.expires.clone(),
            certificate.days.to_string(),
            Escaped(certificate.names.join(", ").as_bytes()).to_string(),
        ]
    };
    let rows: Vec<Vec<String>> = std::iter::once(head)
        .chain(certificates.certificates.iter().map(row))
        .collect();
    columns("", &rows)
}

pub(super) fn reopened(reopened: &Reopened) -> String {
    format!("{} was opened anew", reopened.file)
}
