//! Settings as meant: one value for the whole process, made from a TOML file by one fallible step that finds every
//! problem at once.

mod address;
mod file;
mod meant;
mod problem;
mod reader;
mod tls;
mod units;

use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroUsize;
use std::path::Path;

pub use problem::{Position, Problem, Problems};
pub use units::{duration_text, size_text};

use crate::{accept, admin, cluster, control, dial, drain, greet, log, peek, relay, route};

/// Everything an operator can say, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Worker threads; none means one per core.
    pub workers: Option<NonZeroUsize>,
    /// Where clients come in.
    pub listeners: Vec<accept::Listener>,
    /// The nodes of the one cluster.
    pub nodes: Vec<cluster::Member>,
    /// Which node a client belongs to.
    pub affinity: route::Affinity,
    /// How many connections there may be.
    pub limits: accept::Limits,
    /// How much of a client is read, and for how long, before it is routed.
    pub peek: peek::Limits,
    /// How nodes are reached.
    pub dial: dial::Settings,
    /// How a node's first answer is awaited, and when another node is tried.
    pub greet: greet::Settings,
    /// How bytes are moved, and when a silent connection ends.
    pub relay: relay::Settings,
    /// When a node counts as down, and how often names are resolved.
    pub control: control::Settings,
    /// How the clients are let go when the balancer is to end.
    pub drain: drain::Settings,
    /// Where the process can be asked how it is.
    pub admin: admin::Settings,
    /// What is written, and how.
    pub log: log::Settings,
}

impl Config {
    /// These listeners and nodes, and the defaults for all else.
    pub fn new(listeners: Vec<accept::Listener>, nodes: Vec<cluster::Member>) -> Self {
        Self {
            workers: None,
            listeners,
            nodes,
            affinity: route::Affinity::default(),
            peek: peek::Limits::default(),
            dial: dial::Settings::default(),
            greet: greet::Settings::default(),
            relay: relay::Settings::default(),
            control: control::Settings::default(),
            limits: accept::Limits::default(),
            drain: drain::Settings::default(),
            admin: admin::Settings::default(),
            log: log::Settings::default(),
        }
    }
}

/// Reads the file at `path`.
///
/// # Errors
/// All that is wrong with it; or why it cannot be read.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let name = path.display().to_string();
    let bytes = read(path).map_err(|error| {
        let problem = Problem::of_file(format!("cannot be read: {error}"));
        Problems::new(&name, "", vec![problem])
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => parse_beside(&name, &text, path.parent().unwrap_or(Path::new(""))),
        Err(error) => {
            let valid_up_to = error.utf8_error().valid_up_to();
            let shown = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let mut problem = Problem::of_file("not UTF-8").hint("save the file as UTF-8");
            problem.span = Some(valid_up_to..valid_up_to + char::REPLACEMENT_CHARACTER.len_utf8());
            Err(Problems::new(&name, &shown, vec![problem]))
        }
    }
}

/// Reads `text`, which problems say is from the file `name`. Files that it names are looked for in the working directory.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(name: &str, text: &str) -> Result<Config, Problems> {
    parse_beside(name, text, Path::new(""))
}

fn parse_beside(name: &str, text: &str, base: &Path) -> Result<Config, Problems> {
    let (file, mut problems) =
        file::File::read(text).map_err(|problems| Problems::new(name, text, problems))?;
    let config = meant::config(file, base, &mut problems);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(Problems::new(name, text, problems))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    /// Room for a thousand nodes many times over; keeps a wrong path from filling the memory.
    const BYTES_MAX: u64 = 16 << 20;
    let mut bytes = Vec::new();
    File::open(path)?
        .take(BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::other("larger than any configuration"));
    }
    Ok(bytes)
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
            line.split_once(" = ").is_some_and(|(key, _)| {
                key.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
            })
        };
        text.lines()
            .map(|line| {
                line.strip_prefix("# ")
                    .filter(|rest| is_key(rest))
                    .unwrap_or(line)
            })
            .fold(String::new(), |text, line| text + line + "\n")
    }

    fn keys_of_shape(shape: &Shape, path: &str, keys: &mut BTreeSet<String>) {
        match shape {
            Shape::Table(entries) | Shape::List(Shape::Table(entries)) => {
                for (key, shape) in *entries {
                    keys_of_shape(shape, &format!("{path}.{key}"), keys);
                }
            }
            Shape::Leaf | Shape::List(_) => {
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
        let (_, problems) = file::File::read(&text).expect("a file that can be read");
        assert!(problems.is_empty(), "{problems:?}");
        let mut known = BTreeSet::new();
        keys_of_shape(&<file::File as Value>::SHAPE, "", &mut known);
        let mut written = BTreeSet::new();
        keys_of_table(
            DeTable::parse(&text).expect("TOML").get_ref(),
            "",
            &mut written,
        );
        assert_eq!(written, known);
        assert!(known.contains(".listeners.connections_max"), "{known:?}");
    }

    #[test]
    fn what_is_left_out_is_the_default_of_its_part() {
        let config = accepted(MINIMAL);
        let address = "0.0.0.0:1883".parse().expect("an address");
        let node = |name: &str, address: &str| cluster::Member {
            name: name.to_owned(),
            endpoints: cluster::Endpoints::only(cluster::MemberEndpoint::plain(
                cluster::NodeAddress::Socket(address.parse().expect("an address")),
            )),
            weight: cluster::WEIGHT_DEFAULT,
        };
        let nodes = vec![
            node("emqx1", "10.0.0.11:1883"),
            node("emqx2", "10.0.0.12:1883"),
        ];
        let listeners = vec![accept::Listener::new(address)];
        assert_eq!(config, Config::new(listeners, nodes));
    }
}
