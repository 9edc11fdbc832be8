//! Keeps the walls of the house: who may import whom, where each library is at home, and that no files import each other
//! in a circle. ARCHITECTURE.md gives the reasons.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What every part may use.
const FACTS: &[&str] = &["mqtt", "cluster", "proxy_protocol", "identity"];

/// What any station of the path may use besides itself.
const STATION: &[&str] = &[
    "base",
    "net",
    "mqtt",
    "cluster",
    "proxy_protocol",
    "identity",
    "path::affinity",
    "path::counters",
    "path::ended",
    "path::opening",
    "path::record",
    "path::sides",
    "handover::messages",
];

/// A room, and what it may import besides itself. The longest room that a file is in holds for it.
const ROOMS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("mqtt", &[]),
    ("identity", &[]),
    // What another program's configuration says; the program reads the files, and checks the result.
    ("import", &[]),
    ("proxy_protocol", &["identity"]),
    // What two processes say to each other; the messages are plain data, made and read by the part that they are of.
    ("handover", &["base"]),
    ("handover::messages", &[]),
    // Its counters can be put under a test's scheduler; seconds are a number.
    ("cluster", &["base::sync", "base::clock::Seconds", "proxy_protocol"]),
    ("net", &["base", "mqtt", "cluster", "proxy_protocol", "identity"]),
    (
        "path",
        &[
            "base",
            "net",
            "mqtt",
            "cluster",
            "proxy_protocol",
            "identity",
            "handover::messages",
        ],
    ),
    ("path::accept", STATION),
    ("path::peek", STATION),
    ("path::route", STATION),
    ("path::greet", STATION),
    ("path::relay", STATION),
    (
        "control",
        &["base", "net", "mqtt", "cluster", "proxy_protocol", "identity"],
    ),
    // Beside control, which it can do without: it looks at nodes as a client would.
    (
        "doctor",
        &["base", "net", "mqtt", "cluster", "proxy_protocol", "identity"],
    ),
    // What decides does no I/O.
    ("doctor::finding", &[]),
    ("doctor::matrix", &[]),
    (
        "worker",
        &[
            "base",
            "net",
            "path",
            "cluster",
            "handover::messages",
            "handover::Offered",
        ],
    ),
    (
        "admin",
        &[
            "base", "net", "path", "control", "worker", "cluster", "identity", "mqtt", "doctor",
        ],
    ),
    // The API is written over the handle, which is the only way from an operator to workers and control.
    (
        "admin::api",
        &[
            "base",
            "control",
            "cluster",
            "admin",
            "doctor",
            "process::handle",
            // What the handle returns of clients and of a rebalance.
            "process::clients",
            "process::counts",
            "process::rebalance",
        ],
    ),
    (
        "config",
        &[
            "base",
            "net",
            "path",
            "control",
            "admin",
            "doctor",
            "handover::settings",
            "process::drain",
            "cluster",
            "proxy_protocol",
            "identity",
        ],
    ),
    (
        "process",
        &[
            "base", "net", "path", "control", "worker", "admin", "config", "cluster", "identity", "doctor", "handover",
        ],
    ),
];

/// A library, and the only places that may name it.
const HOMES: &[(&str, &[&str])] = &[
    ("annotate_snippets", &["config", "import"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("dashmap", &["path::route::placement", "path::accept::admission"]),
    ("glob", &["cli", "config::include"]),
    ("hashbrown", &["path::relay::index"]),
    // The server is in admin; the client of nodes' APIs in one file of net.
    ("http_body_util", &["admin", "net::http"]),
    ("hyper", &["admin", "net::http"]),
    ("hyper_util", &["admin", "net::http"]),
    ("mqttbytes", &["mqtt::client_packets"]),
    ("nix", &["net::socket"]),
    ("prometheus_client", &["admin"]),
    ("prost", &["handover"]),
    ("ratatui_core", &["cli"]),
    ("ratatui_crossterm", &["cli"]),
    ("rcgen", &["net::tls"]),
    ("regex_lite", &["path::affinity"]),
    ("rustls", &["net::tls", "net::socket"]),
    ("sd_notify", &["cli"]),
    ("simple_dns", &["control::dns"]),
    ("strsim", &["config"]),
    ("tokio_rustls", &["net::tls"]),
    ("toml", &["config"]),
    ("tungstenite", &["net::websocket"]),
    ("webpki", &["net::tls"]),
    ("x509_parser", &["net::tls"]),
];

/// Libraries that do I/O, or write lines about it: not for facts, nor for what only reads a file.
const NOT_FOR_FACTS: &[&str] = &["tokio", "rustls", "tracing", "rustix", "socket2", "nix", "hyper"];

/// The only files with `unsafe`: system calls, the program's hook into its allocator, and an allocator that only tests use.
const UNSAFE: &[&str] = &["src/net/socket/sys.rs", "src/main.rs", "src/base/allocated.rs"];

/// One source file of the library or the program, without comments, strings and unit tests.
struct Source {
    file: PathBuf,
    /// Its module, as in `net::tls::hello`; empty for the crate's root.
    module: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(root).expect("inside").to_owned();
                let text = fs::read_to_string(&path).expect("a file");
                sources.push(Source {
                    module: module_of(&file),
                    code: without_tests(&bare(&text)),
                    file,
                });
            }
        }
    }
    sources.sort_by(|a, b| a.file.cmp(&b.file));
    assert!(sources.len() > 60, "only {} files", sources.len());
    sources
}

fn module_of(file: &Path) -> String {
    let text = file.to_str().expect("a name in UTF-8");
    let text = text
        .strip_prefix("src/")
        .expect("in src")
        .strip_suffix(".rs")
        .expect("Rust");
    let text = text.strip_suffix("/mod").unwrap_or(text);
    if text == "lib" || text == "main" {
        String::new()
    } else {
        text.replace('/', "::")
    }
}

/// The code without its comments and without what is in strings.
fn bare(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            at += rest.find("*/").map_or(rest.len(), |end| end + 2);
        } else if let Some(hashes) = raw_string(rest) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = 2 + hashes;
            at += rest[open..]
                .find(&close)
                .map_or(rest.len(), |end| open + end + close.len());
            out.push_str("\"\"");
        } else if rest.starts_with('"') {
            let mut end = 1;
            while end < rest.len() && bytes[at + end] != b'"' {
                end += if bytes[at + end] == b'\\' { 2 } else { 1 };
            }
            at += end + 1;
            out.push_str("\"\"");
        } else if rest.starts_with("'\\''") || rest.starts_with("'\"'") {
            at += if rest.starts_with("'\"'") { 3 } else { 4 };
        } else {
            let c = rest.chars().next().expect("not at the end");
            out.push(c);
            at += c.len_utf8();
        }
    }
    out
}

/// How many `#` a raw string begins with, if one begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let behind = rest.strip_prefix('r')?;
    let hashes = behind.len() - behind.trim_start_matches('#').len();
    behind[hashes..].starts_with('"').then_some(hashes)
}

/// Unit tests stand at the bottom and may use what they like.
fn without_tests(code: &str) -> String {
    let end = code.find("#[cfg(test)]\nmod tests").unwrap_or(code.len());
    code[..end].to_owned()
}

/// Every path in `code` that begins with `root::`, groups taken apart: `crate::a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str, root: &str) -> Vec<Vec<String>> {
    let start = format!("{root}::");
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(offset) = code[from..].find(&start) {
        let at = from + offset;
        from = at + start.len();
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let tokens = tokens(&code[from..]);
        let mut position = 0;
        tree(&tokens, &mut position, &mut Vec::new(), &mut found);
    }
    found
}

fn tokens(code: &str) -> Vec<&str> {
    /// More than any import has.
    const TOKENS_MAX: usize = 400;
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while !rest.is_empty() && tokens.len() < TOKENS_MAX {
        let word = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let length = match word {
            0 if rest.starts_with("::") => 2,
            0 => rest.chars().next().map_or(1, char::len_utf8),
            word => word,
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

fn tree(tokens: &[&str], position: &mut usize, prefix: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let depth = prefix.len();
    loop {
        match tokens.get(*position).copied() {
            Some("{") => {
                *position += 1;
                while !matches!(tokens.get(*position).copied(), None | Some("}")) {
                    let before = *position;
                    tree(tokens, position, prefix, found);
                    while matches!(tokens.get(*position).copied(), Some(",")) {
                        *position += 1;
                    }
                    if *position == before {
                        *position += 1;
                    }
                }
                *position += 1;
                break;
            }
            Some(word) if word.chars().all(|c| c.is_alphanumeric() || c == '_') => {
                if word != "self" {
                    prefix.push(word.to_owned());
                }
                *position += 1;
                if tokens.get(*position).copied() == Some("::") {
                    *position += 1;
                } else {
                    if tokens.get(*position).copied() == Some("as") {
                        *position += 2;
                    }
                    found.push(prefix.clone());
                    break;
                }
            }
            _ => {
                found.push(prefix.clone());
                *position += 1;
                break;
            }
        }
    }
    prefix.truncate(depth);
}

/// What a file imports of this crate, from the crate's root on.
fn imports(source: &Source) -> Vec<Vec<String>> {
    let mut all = paths(&source.code, "crate");
    let parent: Vec<String> = match source.module.rsplit_once("::") {
        Some((parent, _)) => parent.split("::").map(str::to_owned).collect(),
        None => Vec::new(),
    };
    for path in paths(&source.code, "super") {
        let mut above = parent.clone();
        let ups = path.iter().take_while(|segment| *segment == "super").count();
        above.truncate(above.len().saturating_sub(ups));
        above.extend(path.into_iter().skip(ups));
        all.push(above);
    }
    all.retain(|path| !path.is_empty());
    all
}

fn is_within(module: &str, room: &str) -> bool {
    module == room || module.strip_prefix(room).is_some_and(|rest| rest.starts_with("::"))
}

fn is_program(source: &Source) -> bool {
    source.file.starts_with("src/cli") || source.file.ends_with("main.rs")
}

#[test]
fn every_room_imports_only_what_it_may() {
    let mut leaks = BTreeSet::new();
    for source in sources()
        .iter()
        .filter(|source| !is_program(source) && !source.module.is_empty())
    {
        let room = ROOMS.iter().filter(|(room, _)| is_within(&source.module, room));
        let Some((room, allowed)) = room.max_by_key(|(room, _)| room.len()) else {
            leaks.insert(format!("{} is in no room", source.file.display()));
            continue;
        };
        for path in imports(source) {
            let path = path.join("::");
            let may = is_within(&path, room) || allowed.iter().any(|prefix| is_within(&path, prefix));
            if !may {
                leaks.insert(format!("{} imports {path}: {room} may not", source.file.display()));
            }
        }
    }
    assert!(leaks.is_empty(), "{}", Vec::from_iter(leaks).join("\n"));
}

#[test]
fn every_library_is_named_only_at_home() {
    let mut leaks = BTreeSet::new();
    for source in sources() {
        let module = if is_program(&source) {
            "cli".to_owned()
        } else {
            source.module.clone()
        };
        for (library, homes) in HOMES {
            let at_home = homes.iter().any(|home| is_within(&module, home));
            if !at_home && names(&source.code, library) {
                leaks.insert(format!(
                    "{} names {library}: its home is {}",
                    source.file.display(),
                    homes.join(" or ")
                ));
            }
        }
        let is_fact = FACTS.iter().any(|fact| is_within(&module, fact))
            || ["config", "import"].iter().any(|room| is_within(&module, room));
        for library in NOT_FOR_FACTS.iter().filter(|_| is_fact) {
            if names(&source.code, library) {
                leaks.insert(format!("{} names {library}: facts do no I/O", source.file.display()));
            }
        }
    }
    assert!(leaks.is_empty(), "{}", Vec::from_iter(leaks).join("\n"));
}

/// Whether `code` has a path that begins with the library's name.
fn names(code: &str, library: &str) -> bool {
    !paths(code, library).is_empty() || code.contains(&format!("use {library};"))
}

#[test]
fn no_field_of_a_line_is_printed_as_rust_would() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for source in sources() {
        for (at, _) in source
            .code
            .match_indices("tracing::")
            .chain(source.code.match_indices("warn_throttled!("))
        {
            let line = &source.code[at..];
            let levels = ["error!(", "warn!(", "info!(", "debug!(", "trace!("];
            let is_line = |level: &&str| line["tracing::".len()..].starts_with(*level);
            if !(line.starts_with("warn_throttled!") || levels.iter().any(is_line)) {
                continue;
            }
            seen += 1;
            let end = line.find(");").unwrap_or(line.len());
            let fields: String = line[..end].split_whitespace().collect();
            // A list has `List`, an address `display`.
            if fields.contains(",?") || fields.contains("=?") || fields.contains("(?") {
                wrong.push(format!("{}: {}", source.file.display(), &line[..end]));
            }
        }
    }
    assert!(seen >= 40, "only {seen} lines");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_is_in_one_file() {
    for source in sources() {
        let is_word = |(at, _): (usize, &str)| {
            !source.code[at + "unsafe".len()..].starts_with(|c: char| c == '_' || c.is_alphanumeric())
        };
        let has_unsafe = source.code.match_indices("unsafe").any(is_word);
        let may = UNSAFE.iter().any(|file| source.file == Path::new(file));
        assert!(!has_unsafe || may, "{} has unsafe code", source.file.display());
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources();
    let files: BTreeMap<&str, &Source> = sources
        .iter()
        .filter(|source| !is_program(source) && !source.module.is_empty())
        .map(|source| (source.module.as_str(), source))
        .collect();
    let mut edges: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, source) in &files {
        let targets = imports(source).into_iter().filter_map(|path| file_of(&path, &files));
        edges.insert(module, targets.filter(|target| target != module).collect());
    }
    // Files that nothing in the remaining set imports from, or that import nothing in it, are in no circle.
    loop {
        let leaves: Vec<&str> = edges
            .iter()
            .filter(|(_, targets)| targets.is_empty())
            .map(|(module, _)| *module)
            .collect();
        if leaves.is_empty() {
            break;
        }
        edges.retain(|module, _| !leaves.contains(module));
        edges
            .values_mut()
            .for_each(|targets| targets.retain(|target| !leaves.contains(target)));
    }
    loop {
        let imported: BTreeSet<&str> = edges.values().flatten().copied().collect();
        let before = edges.len();
        edges.retain(|module, _| imported.contains(module));
        if edges.len() == before {
            break;
        }
    }
    assert!(
        edges.is_empty(),
        "these files are in circles, or between two: {edges:#?}"
    );
}

/// The file that has what `path` names: the longest module that it goes through, and where that re-exports the next name
/// from a file below it, that file.
fn file_of<'a>(path: &[String], files: &BTreeMap<&'a str, &'a Source>) -> Option<&'a str> {
    let depth = (1..=path.len())
        .rev()
        .find(|depth| files.contains_key(path[..*depth].join("::").as_str()))?;
    let (module, source) = files.get_key_value(path[..depth].join("::").as_str())?;
    let Some(name) = path.get(depth) else {
        return Some(module);
    };
    for line in source.code.split(';') {
        let Some((_, reexported)) = line
            .split_once("pub use ")
            .or_else(|| line.split_once("pub(crate) use "))
            .or_else(|| line.split_once("pub(super) use "))
        else {
            continue;
        };
        let mut found = Vec::new();
        tree(&tokens(reexported), &mut 0, &mut Vec::new(), &mut found);
        for path_below in found {
            if path_below.last() == Some(name) && path_below.len() > 1 && path_below[0] != "crate" {
                let mut full: Vec<String> = path[..depth].to_vec();
                full.extend(path_below);
                return file_of(&full, files);
            }
        }
    }
    Some(module)
}

#[test]
fn the_reader_of_imports_takes_groups_apart() {
    let code = "use crate::a::{self, b, c::{D, e as f}};\nlet x = crate::g::H::new(); use super::super::i;";
    let joined = |root| paths(code, root).iter().map(|path| path.join("::")).collect::<Vec<_>>();
    assert_eq!(joined("crate"), ["a", "a::b", "a::c::D", "a::c::e", "g::H::new"]);
    assert_eq!(joined("super"), ["super::i"]);
    assert_eq!(
        bare("a \"crate::x\" // crate::y\nb r#\"crate::\"z\"#"),
        "a \"\" \nb \"\""
    );
}
