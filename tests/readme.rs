//! Holds the README to the code: its configurations, its causes, its log fields, its keys and its metrics are those that
//! there are, no more and no fewer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use remora::config::{self, Config};
use remora::ended::Ended;
use remora::serve;
use remora::tls::throwaway::{Authority, Pair};
use tracing_subscriber::fmt::MakeWriter;

const README: &str = include_str!("../README.md");
const MINIMAL: &str = include_str!("../config/minimal.toml");
const FULL: &str = include_str!("../config/full.toml");

/// What one step may take that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn every_configuration_in_the_readme_is_one() {
    let blocks = blocks("toml");
    assert!(blocks.len() >= 2, "{} configurations", blocks.len());
    let files = tempfile::tempdir().expect("a folder");
    let authority = Authority::new().expect("an authority");
    let Pair { chain, key } = authority.server(&["localhost"]).expect("a certificate");
    for (name, text) in [
        ("tls.pem", chain),
        ("tls.key", key),
        ("client-ca.pem", authority.pem()),
        ("nodes-ca.pem", authority.pem()),
    ] {
        std::fs::write(files.path().join(name), text).expect("written");
    }
    for block in blocks {
        // A block without listeners is what an operator would add to the ten lines.
        let text = match block.contains("[[listeners]]") {
            true => block,
            false => format!("{MINIMAL}\n{block}"),
        };
        // The files that it names are there.
        let text = text.replace("/etc/remora", &files.path().display().to_string());
        if let Err(problems) = config::parse("README.md", &text) {
            panic!("{problems}");
        }
    }
}

#[test]
fn the_first_configuration_is_the_minimal_one() {
    assert_eq!(blocks("toml").first().map(String::as_str), Some(MINIMAL));
}

#[test]
fn every_key_of_the_configuration_is_listed() {
    assert_eq!(keys_listed(), keys_of(FULL));
}

#[test]
fn every_cause_is_explained() {
    let mut listed: Vec<String> = rows("Causes").map(|row| code(&row[0])).collect();
    let mut known: Vec<_> = Ended::ALL.iter().map(|cause| cause.name()).collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
}

#[test]
fn every_field_of_a_connections_line_is_explained() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_writer(log.clone())
        .finish();
    // For all threads, since it is a worker that writes; this is the only test of the file that reads a log.
    tracing::subscriber::set_global_default(subscriber).expect("the first");
    let running = serve::start(balancer()).expect("it starts");
    let mut client = connect(running.addresses()[0]);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    // It is closed; as a reset, since not all that it said was read.
    let _ = client.read(&mut [0]);
    running.stop();
    let line = log.lines().into_iter().find(is_end).expect("a line");
    let written: BTreeSet<String> = line.keys().cloned().collect();
    let listed: BTreeSet<String> = rows("Log lines").map(|row| code(&row[0])).collect();
    assert_eq!(listed, written);
}

#[test]
fn every_metric_is_listed_with_its_labels() {
    let running = serve::start(balancer()).expect("it starts");
    let page = get(running.admin().expect("an admin listener"), "/metrics");
    let scraped = families(&page);
    assert!(scraped.len() > 20, "{page}");
    let is_process = |name: &String| name.starts_with("process_");
    assert!(scraped.keys().any(is_process), "{page}");
    let ours = scraped.into_iter().filter(|(name, _)| !is_process(name));
    let listed: BTreeMap<String, Family> = rows("Metrics")
        .map(|row| (code(&row[0]), (row[1].clone(), codes(&row[2]))))
        .filter(|(name, _)| !is_process(name))
        .collect();
    assert_eq!(listed, ours.collect());
}

#[test]
fn the_documents_name_no_file_that_is_not_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ] {
        let text = std::fs::read_to_string(root.join(document)).expect(document);
        let outside = text.split("```").step_by(2).collect::<String>();
        // What is written as code and begins with one of our folders, and where links lead.
        let links = outside
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let folders = ["src/", "tests/", "benches/", "config/", ".ci/"];
        let words = outside.split('`').skip(1).step_by(2);
        let named = words.filter(|word| folders.iter().any(|folder| word.starts_with(folder)));
        let local = links.filter(|link| !link.contains("://") && !link.starts_with('#'));
        for path in local.chain(named) {
            let path = path.split(['#', ' ']).next().unwrap_or_default();
            assert!(root.join(path).exists(), "{document}: {path} is not there");
            seen += 1;
        }
    }
    assert!(seen >= 20, "only {seen} files named");
}

/// A listener, one with TLS, and one node, which need not be there.
fn balancer() -> Config {
    let pair = Authority::new().and_then(|authority| authority.server(&["localhost"]));
    let Pair { chain, key } = pair.expect("a certificate");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all((chain + &key).as_bytes()).expect("written");
    let text = format!(
        "workers = 1\n\
        [[listeners]]\naddress = \"127.0.0.1:0\"\n\
        [[listeners]]\naddress = \"127.0.0.1:0\"\nname = \"mqtts\"\n\
        tls = \"end\"\ncertificates = [{{ chain = {:?} }}]\n\
        [[nodes]]\nname = \"emqx1\"\naddress = \"127.0.0.1:1\"\n\
        [admin]\naddress = \"127.0.0.1:0\"\n",
        file.path()
    );
    config::parse("test", &text).expect("a configuration")
}

/// The fenced blocks of the README in this language.
fn blocks(language: &str) -> Vec<String> {
    README
        .split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .map(str::to_owned)
        .collect()
}

/// The cells of each row of the one table under the heading `title`.
fn rows(title: &str) -> impl Iterator<Item = Vec<String>> {
    let (_, rest) = README
        .split_once(&format!("## {title}\n"))
        .unwrap_or_else(|| panic!("the README has no heading {title:?}"));
    let section = rest.split("\n#").next().unwrap_or_default();
    section
        .lines()
        .filter(|line| line.starts_with('|'))
        // The names of the columns, and the line below them.
        .skip(2)
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
}

/// The words of a cell that are set as code.
fn codes(cell: &str) -> BTreeSet<String> {
    let parts = cell.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

/// The first of them.
fn code(cell: &str) -> String {
    let word = cell.split('`').nth(1);
    word.unwrap_or_else(|| panic!("no code in {cell:?}"))
        .to_owned()
}

type Keys = BTreeSet<(String, String)>;

/// Table and key, for each key that the README lists.
fn keys_listed() -> Keys {
    rows("Configuration")
        .flat_map(|row| {
            let table = row[0].trim_matches('`').to_owned();
            let keys = codes(&row[1]).into_iter();
            keys.map(move |key| (table.clone(), key))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Table and key, for each key of a configuration that shows them all, commented out or not.
fn keys_of(text: &str) -> Keys {
    let mut table = "top".to_owned();
    let mut keys = Keys::new();
    for line in text.lines() {
        if line.starts_with('[') {
            line.clone_into(&mut table);
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        if key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            keys.insert((table.clone(), key.to_owned()));
        }
    }
    keys
}

/// What kind a metric is of, and the names of its labels.
type Family = (String, BTreeSet<String>);

/// The metrics of a scrape, by the name under which Prometheus keeps them.
fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines() {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            let (name, kind) = family.split_once(' ').expect("name and type");
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
            continue;
        }
        let Some((sample, labels)) = line.split_once('{') else {
            continue;
        };
        let histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| sample.strip_suffix(suffix))
            .filter(|name| families.contains_key(*name));
        let family = families.get_mut(histogram.unwrap_or(sample));
        let (_, known) = family.unwrap_or_else(|| panic!("{line:?} belongs to no family"));
        // Neither names of nodes nor of listeners have a comma or an equals sign here.
        let labels = labels.split('}').next().unwrap_or_default().split(',');
        let names = labels.filter_map(|label| Some(label.split_once('=')?.0));
        known.extend(names.filter(|name| *name != "le").map(str::to_owned));
    }
    families
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream
}

/// Asks over HTTP, without a library of ours in between.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = connect(address);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

/// A log that can be read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

type Line = serde_json::Map<String, serde_json::Value>;

impl Log {
    fn lines(&self) -> Vec<Line> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = std::str::from_utf8(&bytes).expect("UTF-8");
        let line = |line| serde_json::from_str(line).expect("JSON");
        text.lines().map(line).collect()
    }
}

fn is_end(line: &Line) -> bool {
    line.get("message")
        .is_some_and(|message| message == "connection ended")
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self(log) = self;
        log.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
