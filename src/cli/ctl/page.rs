//! `remora ctl page`: the status page on a port of this machine, by way of the admin socket.

use std::io::{self, Write};
use std::path::Path;

use remora::admin::Forward;

use super::connection::Failed;

/// Serves the page until the process is ended.
pub(super) async fn serve(socket: &Path, port: u16) -> Result<String, Failed> {
    let forward = Forward::bind(port, socket).await.map_err(|error| {
        let hint = "name a free port with --port, or leave it out";
        Failed::refused(format!("127.0.0.1:{port} cannot be opened: {error}\n  = help: {hint}"))
    })?;
    let mut output = io::stdout();
    // Where nobody reads it, the page is served all the same.
    let _ = writeln!(output, "{}", forward.url()?).and_then(|()| output.flush());
    eprintln!("The token in this address lets its bearer do everything. Ctrl-C ends the page.");
    forward.run().await;
    Ok(String::new())
}
