//! Configurations of HAProxy: `frontend`, `backend` and `listen` in mode tcp for MQTT, and in mode http for MQTT over WebSocket.

mod bind;
mod certificates;
mod check;
mod condition;
mod context;
mod global;
mod proxies;
mod requests;
mod rules;
mod server;
mod statement;
mod syntax;
mod terms;
mod variables;

use std::path::PathBuf;

use super::Imported;
use super::files::Files;
use super::report::Failure;
use super::text::Sources;

use context::Context;
use global::Global;
use proxies::Proxies;
use syntax::Reader;

/// Reads configurations of HAProxy, one after the other as if they were one.
///
/// # Errors
/// A file that cannot be read or parsed.
pub fn haproxy(paths: &[PathBuf], files: &dyn Files) -> Result<Imported, Failure> {
    let mut sources = Sources::default();
    let mut context = Context::default();
    let mut reader = Reader::default();
    let unreadable = |path: &PathBuf, error: std::io::Error| {
        let name = path.display().to_string();
        Failure::of_file(
            &name,
            format!("cannot be read: {error}"),
            "name a file that is there, and that you may read",
        )
    };
    for path in paths {
        let inside = files.folder(path).map_err(|error| unreadable(path, error))?;
        // Of a folder, HAProxy reads these.
        let is_read = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "cfg");
        let inside = inside.map(|inside| inside.into_iter().filter(is_read).collect());
        for path in inside.unwrap_or_else(|| vec![path.clone()]) {
            let bytes = files.read(&path).map_err(|error| unreadable(&path, error))?;
            if let Err(fault) = reader.read(&path, &bytes, &mut sources, &mut context.report) {
                return Err(fault.of(sources));
            }
        }
    }
    let sections = reader.sections;
    let mut global = Global::default();
    for section in sections.iter().filter(|section| section.kind() == "global") {
        global.read(section, &mut context);
    }
    Proxies::new(&sections, &mut context).read(&global, files, &mut context);
    for section in &sections {
        match section.kind() {
            "global" | "defaults" | "frontend" | "backend" | "listen" => {}
            "resolvers" => global::resolvers(section, &mut context),
            _ => global::other(section, &mut context),
        }
    }
    let Context { draft, mut report } = context;
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let toml = draft.finish("haproxy", &names.join(", "), &sources, &mut report);
    report.finish(sources);
    Ok(Imported { toml, report })
}
