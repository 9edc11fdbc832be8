//! The settings of the whole process as one value, read from a TOML file in one fallible step that finds all problems at once.

mod address;
mod bundles;
mod choices;
mod credentials;
mod discovery;
mod effective;
mod expand;
mod expiry;
mod file;
mod files;
mod foreign;
mod include;
mod meant;
mod merge;
mod node_address;
mod nodes;
mod notes;
mod overlap;
mod problem;
mod reader;
mod resolve;
mod schema;
mod source;
mod syntax;
mod texts;
mod tls;
mod tokens;
mod units;
mod words;

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::{self, Path, PathBuf};

pub use effective::effective;
pub use nodes::ListedNodes;
pub use problem::{Problem, Problems, Severity};
pub use schema::schema;
pub use source::Source;
pub use texts::Position;
pub use units::{duration_text, size_text};

use texts::Texts;

use crate::admin::settings as admin;
use crate::base::heartbeat;
use crate::base::log;
use crate::cluster;
use crate::control;
use crate::doctor;
use crate::handover::settings as handover;
use crate::net::dial;
use crate::net::held;
use crate::net::tls::Nodes;
use crate::path::accept;
use crate::path::affinity;
use crate::path::greet;
use crate::path::peek;
use crate::path::relay;
use crate::process::drain;

/// Everything that an operator can configure, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The number of worker threads; `None` means one per core.
    pub workers: Option<NonZeroUsize>,
    /// The addresses that clients connect to.
    pub listeners: Vec<accept::Listener>,
    /// The nodes of the one cluster.
    pub nodes: Vec<cluster::Member>,
    /// TLS to nodes; `None` if no node uses it.
    pub nodes_tls: Option<Nodes>,
    /// Which node a client belongs to.
    pub affinity: affinity::Settings,
    /// How many connections there may be.
    pub limits: accept::Limits,
    /// What connections may hold together that are being set up.
    pub held: held::Limits,
    /// How long a client's CONNECT is awaited.
    pub peek: peek::Limits,
    /// How nodes are reached.
    pub dial: dial::Settings,
    /// How long a node may take to answer, and when another node is tried.
    pub greet: greet::Settings,
    /// How bytes are moved, and when an idle connection ends.
    pub relay: relay::Settings,
    /// When a node is down, and how often host names are resolved.
    pub control: control::Settings,
    /// How connections are closed before the process ends.
    pub drain: drain::Settings,
    /// How the process hands over to the next one.
    pub handover: handover::Settings,
    /// What the doctor sends to nodes, and how often.
    pub doctor: doctor::Settings,
    /// When a thread is stuck.
    pub watchdog: heartbeat::Settings,
    /// The address of the admin listener.
    pub admin: admin::Settings,
    /// What is written, and how.
    pub log: log::Settings,
    /// The files that it names, by the keys that name them (`listeners[0].certificates[0].chain`), as absolute paths.
    pub files: BTreeMap<String, PathBuf>,
    /// What an operator should look at in the configuration that these settings were read from.
    pub warnings: Vec<Problem>,
}

/// A configuration that was read, and what it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// What it says.
    pub config: Config,
    /// Where it says it.
    pub source: Source,
}

impl Config {
    /// These listeners and nodes, with the defaults for everything else.
    pub fn new(listeners: Vec<accept::Listener>, nodes: Vec<cluster::Member>) -> Self {
        Self {
            workers: None,
            listeners,
            nodes,
            nodes_tls: None,
            affinity: affinity::Settings::default(),
            peek: peek::Limits::default(),
            dial: dial::Settings::default(),
            greet: greet::Settings::default(),
            relay: relay::Settings::default(),
            control: control::Settings::default(),
            limits: accept::Limits::default(),
            held: held::Limits::default(),
            drain: drain::Settings::default(),
            handover: handover::Settings::default(),
            doctor: doctor::Settings::default(),
            watchdog: heartbeat::Settings::default(),
            admin: admin::Settings::default(),
            log: log::Settings::default(),
            files: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }
}

/// Reads the file at `path`, and those that it includes. Relative paths in a file start in its directory.
///
/// # Errors
/// All problems in the files, or why one cannot be read.
pub fn load(path: &Path) -> Result<Config, Problems> {
    load_with_source(path).map(|loaded| loaded.config)
}

/// Reads the file at `path`, and those that it includes, and keeps where they say what. Relative paths in a file start in its directory.
///
/// # Errors
/// All problems in the files, or why one cannot be read.
pub fn load_with_source(path: &Path) -> Result<Loaded, Problems> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|error| unreadable(&name, &error))?;
    let mut loaded = read_beside(&name, file, Some(path))?;
    loaded.config.admin.configuration = path::absolute(path).ok();
    Ok(loaded)
}

/// Reads a configuration from standard input or another source of bytes; problems show `name` as its file. Relative paths in it start
/// in the working directory.
///
/// # Errors
/// All problems in it, or why it cannot be read.
pub fn read_with_source(name: &str, from: impl Read) -> Result<Loaded, Problems> {
    read_beside(name, from, None)
}

/// Reads `text`; problems show `name` as its file. Relative paths in it start in the working directory.
///
/// # Errors
/// All problems in the text.
pub fn parse(name: &str, text: &str) -> Result<Config, Problems> {
    parse_all(Texts::new(name, text, Path::new("")), None).map(|loaded| loaded.config)
}

fn unreadable(name: &str, error: &io::Error) -> Problems {
    let problem = Problem::of_file(format!("cannot be read: {error}"));
    Problems::new(Texts::new(name, "", Path::new("")), vec![problem])
}

fn read_beside(name: &str, from: impl Read, path: Option<&Path>) -> Result<Loaded, Problems> {
    let bytes = include::read(from).map_err(|error| unreadable(name, &error))?;
    let (text, wrong_at) = include::decoded(bytes);
    let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
    let texts = Texts::new(name, &text, folder);
    match wrong_at {
        None => parse_all(texts, path),
        Some(at) => Err(Problems::new(texts, vec![include::not_utf8(at)])),
    }
}

/// Reads the configuration whose one file is in `texts`; `path` is where that is.
fn parse_all(mut texts: Texts, path: Option<&Path>) -> Result<Loaded, Problems> {
    let variables = |name: &str| env::var_os(name);
    let mut problems = include::add_all(&mut texts, path, &variables);
    let merged = match merge::merge(&texts, &variables) {
        Ok(merged) if problems.is_empty() => merged,
        // What else is wrong may follow from it.
        other => {
            problems.extend(other.err().into_iter().flatten());
            return Err(Problems::new(texts, problems));
        }
    };
    let source = Source::new(&texts, &merged);
    let (file, mut problems) = file::read::<file::File>(merged.tree, &texts);
    let config = resolve::config(file, &mut problems);
    let (problems, warnings): (Vec<_>, Vec<_>) = problems.into_iter().partition(Problem::refuses);
    match problems.is_empty() {
        true => Ok(Loaded {
            config: Config { warnings, ..config },
            source,
        }),
        false => Err(Problems::new(texts, problems)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::de::{DeTable, DeValue};

    use super::reader::{Shape, Value};
    use super::*;

    const MINIMAL: &str = include_str!("../../config/minimal.toml");
    const FULL: &str = include_str!("../../config/full.toml");

    fn accepted(text: &str) -> Config {
        parse("test.toml", text).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// `text` with the keys that have no default taken out of their comments.
    fn with_every_key(text: &str) -> String {
        let is_key = |line: &str| {
            line.split_once(" = ")
                .is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
        };
        text.lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n")
    }

    fn keys_of_shape(shape: &Shape, path: &str, keys: &mut BTreeSet<String>) {
        match shape {
            Shape::Table(entries) | Shape::List(Shape::Table(entries)) => {
                for (key, shape) in *entries {
                    keys_of_shape(shape, &format!("{path}.{key}"), keys);
                }
            }
            Shape::Leaf(_) | Shape::List(_) => {
                keys.insert(path.to_owned());
            }
        }
    }

    fn keys_of_table(table: &DeTable<'_>, path: &str, keys: &mut BTreeSet<String>) {
        for (key, value) in table.iter() {
            let path = format!("{path}.{}", key.get_ref());
            match value.get_ref() {
                DeValue::Table(table) => keys_of_table(table, &path, keys),
                DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                    let tables = items.iter().filter_map(|item| item.get_ref().as_table());
                    tables.for_each(|table| keys_of_table(table, &path, keys));
                }
                _ => {
                    keys.insert(path);
                }
            }
        }
    }

    #[test]
    fn the_full_file_says_exactly_the_defaults() {
        assert_eq!(accepted(FULL), accepted(MINIMAL));
    }

    #[test]
    fn the_full_file_has_every_key_and_no_other() {
        let text = with_every_key(FULL);
        let texts = Texts::new("full.toml", &text, Path::new(""));
        let (_, problems) = file::read::<file::File>(merge::parse(&text).expect("TOML"), &texts);
        assert!(problems.is_empty(), "{problems:?}");
        let mut known = BTreeSet::new();
        keys_of_shape(&<file::File as Value>::SHAPE, "", &mut known);
        let mut written = BTreeSet::new();
        keys_of_table(DeTable::parse(&text).expect("TOML").get_ref(), "", &mut written);
        assert_eq!(written, known);
        assert!(known.contains(".listeners.connections_max"), "{known:?}");
    }

    #[test]
    fn a_user_timeout_that_is_shorter_than_the_probes_is_raised_and_noted() {
        let config = accepted(&format!("{MINIMAL}\n[timeouts]\nuser_timeout = \"30s\"\n"));
        let [warning] = &config.warnings[..] else {
            panic!("{:?}", config.warnings);
        };
        assert_eq!(
            warning.to_string(),
            "timeouts.user_timeout: 30s is less than keepalive takes; 2m is used"
        );
        let config = accepted(&format!("{MINIMAL}\n[timeouts]\nuser_timeout = \"120s\"\n"));
        assert_eq!(config.warnings, []);
    }

    #[test]
    fn a_log_file_is_warned_of_if_its_folder_is_not_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |file: &str| folder.path().join(file).display().to_string();
        let with = |file: &str| {
            accepted(&format!(
                "{MINIMAL}\n[log]\nfile = \"{file}\"\nfile_size_max = \"0B\"\n"
            ))
        };
        let config = with(&path("remora.log"));
        assert_eq!(config.warnings, []);
        assert_eq!(config.log.file, Some(folder.path().join("remora.log")));
        assert_eq!((config.log.file_size_max, config.log.file_count), (None, 5));
        let warnings = with(&path("a/remora.log")).warnings;
        let expected = format!("log.file: its folder \"{}\" is not there", path("a"));
        assert!(
            warnings.len() == 1 && warnings[0].to_string() == expected,
            "{warnings:?}"
        );
    }

    #[test]
    fn what_is_left_out_is_the_default_of_its_part() {
        let config = accepted(MINIMAL);
        let address = "0.0.0.0:1883".parse().expect("an address");
        let node = |name: &str, address: &str| cluster::Member {
            name: name.to_owned(),
            endpoints: cluster::Endpoints::only(cluster::MemberEndpoint::plain(cluster::NodeAddress::Socket(
                address.parse().expect("an address"),
            ))),
            api: None,
            weight: cluster::WEIGHT_DEFAULT,
            connects_per_second: None,
            connections_max: None,
        };
        let nodes = vec![node("emqx1", "10.0.0.11:1883"), node("emqx2", "10.0.0.12:1883")];
        let listeners = vec![accept::Listener::new(address)];
        assert_eq!(config, Config::new(listeners, nodes));
    }
}
