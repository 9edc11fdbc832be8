//! `remora ctl status`.

use remora::admin::api::answers::Status;

use crate::cli::columns;

pub(super) fn text(status: &Status) -> String {
    let Status {
        version,
        pid,
        configuration,
        is_ready: _,
        why_not_ready,
        connections,
        awaiting_connect,
        handshakes,
        held_bytes,
        placements,
        nodes_up,
        nodes_not_up,
    } = status;
    let names = |names: &[String]| match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    let ready = match why_not_ready {
        None => "yes".to_owned(),
        Some(why) => format!("no: {why}"),
    };
    let rows = [
        ("version", version.clone()),
        ("pid", pid.to_string()),
        ("configuration", configuration.clone().unwrap_or("none".to_owned())),
        ("ready", ready),
        ("connections", connections.to_string()),
        ("awaiting CONNECT", awaiting_connect.to_string()),
        ("handshakes", handshakes.to_string()),
        ("held bytes", held_bytes.to_string()),
        ("placements", placements.to_string()),
        ("nodes up", names(nodes_up)),
        ("nodes not up", names(nodes_not_up)),
    ];
    columns("", &rows.map(|(name, value)| vec![name.to_owned(), value]))
}
