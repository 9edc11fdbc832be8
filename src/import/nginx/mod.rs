//! Configurations of nginx: `stream` for MQTT over TCP, `http` for MQTT over WebSocket.

mod affinity;
mod http;
mod known;
mod listen;
mod scope;
mod stream;
mod syntax;
mod template;
mod tls;
mod upstream;
mod variable;

use std::path::{Path, PathBuf};

use super::Imported;
use super::draft::{Draft, Prefer};
use super::environment;
use super::files::Files;
use super::report::{Failure, Report};
use super::text::{Sources, printable, quoted};

use known::Verdict;
use scope::{Context, Scope};
use syntax::{Directive, Reader};
use upstream::Upstreams;

/// Reads configurations of nginx, one after the other as if one file included all of them.
///
/// # Errors
/// A file that cannot be read or parsed.
pub fn nginx(paths: &[PathBuf], files: &dyn Files) -> Result<Imported, Failure> {
    let mut sources = Sources::default();
    let mut report = Report::default();
    let first = paths.first().map_or(Path::new(""), PathBuf::as_path);
    let mut directives = Vec::new();
    let mut reader = Reader::new(files, &mut sources, &mut report, first);
    for path in paths.iter() {
        if reader.has_read(path) {
            continue;
        }
        let bytes = files.read(path).map_err(|error| {
            let name = path.display().to_string();
            Failure::of_file(
                &name,
                format!("cannot be read: {error}"),
                "name a file that is there, and that you may read",
            )
        })?;
        match reader.parse(path.clone(), &bytes) {
            Ok(parsed) => directives.extend(parsed),
            Err(fault) => return Err(fault.of(sources)),
        }
    }
    // What is not UTF-8 in it would be taken for a variable.
    let prefix = first.parent().unwrap_or(Path::new(""));
    let prefix = PathBuf::from(prefix.to_string_lossy().replace(environment::DOLLAR, "?"));
    let mut context = Context::new(Draft::default(), report, prefix);
    all(&directives, &mut context);
    let Context { draft, mut report, .. } = context;
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let toml = draft.finish("nginx", &names.join(", "), &sources, &mut report);
    report.finish(sources);
    Ok(Imported { toml, report })
}

/// Reads a server of a block.
type ServerReader<'d> = fn(&'d Directive, &Scope<'d>, &mut Upstreams<'d>, &mut Context<'d>);

/// Reads all servers of a block.
fn servers_of<'d>(level: &'d [Directive], read: ServerReader<'d>, context: &mut Context<'d>) {
    let mut upstreams = Upstreams::new(level, context);
    let scope = Scope::new(level);
    for directive in level
        .iter()
        .filter(|directive| directive.name.text == "server" && directive.block.is_some())
    {
        context.mark(directive);
        let inner = scope.below(directive.inner());
        read(directive, &inner, &mut upstreams, context);
    }
}

fn all<'d>(directives: &'d [Directive], context: &mut Context<'d>) {
    let blocks = |name: &str| {
        let named = directives
            .iter()
            .filter(move |directive| directive.name.text == name && directive.block.is_some());
        named.collect::<Vec<_>>()
    };
    variables(directives, context);
    for directive in directives {
        main(directive, context);
    }
    for (name, read) in [("stream", stream::server as ServerReader<'d>), ("http", http::server)] {
        for (index, block) in blocks(name).into_iter().enumerate() {
            context.mark(block);
            if index > 0 {
                stream::second(block.place(), name, context);
            }
            servers_of(block.inner(), read, context);
        }
    }
    // A file of a folder that nginx.conf includes in one of these blocks.
    let servers = blocks("server");
    if !servers.is_empty() {
        let has_location = |server: &&Directive| server.inner().iter().any(|inner| inner.name.text == "location");
        let read = match servers.iter().any(has_location) {
            true => http::server,
            false => stream::server,
        };
        servers_of(directives, read, context);
    }
    leftovers(directives, context);
}

/// What gives variables their values, in any block.
fn variables<'d>(directives: &'d [Directive], context: &mut Context<'d>) {
    for directive in directives {
        let variable = match &*directive.name.text {
            "map" | "split_clients" => directive.arg(1),
            "geo" if directive.args.len() == 1 => directive.arg(0),
            "geo" => directive.arg(1),
            "js_set" | "set" => directive.arg(0),
            _ => "",
        };
        if let Some(name) = variable::name(variable) {
            context.variables.insert(name.to_owned(), directive);
        }
        if ["stream", "http", "server", "location"].contains(&&*directive.name.text) {
            variables(directive.inner(), context);
        }
    }
}

/// What stands outside of all blocks.
fn main(directive: &Directive, context: &mut Context<'_>) {
    let place = directive.place();
    match (&*directive.name.text, directive.arg(0)) {
        ("worker_processes", "auto") => {
            context.mark(directive);
            context.report.unneeded(
                place,
                "worker_processes",
                "by default there is one thread for each core",
            );
        }
        ("worker_processes", number) => {
            context.mark(directive);
            match number.parse::<u32>() {
                Ok(number @ 1..=1024) => context.draft.set(
                    "",
                    "workers",
                    number.to_string(),
                    place,
                    Prefer::First,
                    &mut context.report,
                ),
                _ => context.unreadable(place, number, "a number of threads"),
            }
        }
        ("error_log", target) => {
            context.mark(directive);
            let level = match directive.arg(1) {
                "debug" => "debug",
                "info" | "notice" => "info",
                "warn" => "warn",
                // nginx' own default is "error", and Remora's lines on connections are of level info.
                "" => {
                    return context.report.unneeded(
                        place,
                        "error_log",
                        "lines go to standard output; see docs/logs.md",
                    );
                }
                _ => "error",
            };
            if level == "error" || level == "warn" {
                context.report.differs(
                    place,
                    format!("error_log … {}: at this level Remora would not write the lines on connections, so level stays \"info\"", printable(directive.arg(1))),
                    "write level in [log] if you want less",
                );
            } else {
                context
                    .draft
                    .set("log", "level", quoted(level), place, Prefer::First, &mut context.report);
                context.report.differs(
                    place,
                    format!("lines go to standard output, and not to {}", printable(target)),
                    "see docs/logs.md",
                );
            }
        }
        _ => {}
    }
}

/// Says something of every directive that nothing has looked at.
fn leftovers(directives: &[Directive], context: &mut Context<'_>) {
    for directive in directives {
        let name = &*directive.name.text;
        let place = directive.place();
        if context.is_marked(directive) {
            let is_block = known::verdict(name) == Verdict::Block;
            if is_block {
                leftovers(directive.inner(), context);
            }
            continue;
        }
        context.mark(directive);
        match (name, known::verdict(name)) {
            ("log_format", _) => stream::log_format(directive, context),
            ("upstream", _) => {
                context
                    .report
                    .unneeded(place, "upstream", "no listener that was carried over leads to it")
            }
            (_, Verdict::Block) => leftovers(directive.inner(), context),
            (_, Verdict::Unneeded(why)) => context.report.unneeded(place, name, why),
            (_, Verdict::Differs(message, advice)) => {
                context.report.differs(place, format!("{name}: {message}"), advice)
            }
            (_, Verdict::Lost(message, advice)) => {
                context
                    .report
                    .lost(place, format!("{}: {message}", printable(name)), advice)
            }
        }
    }
}
