//! Compares the documentation with the code: configurations parse; keys, causes, log fields, metrics and commands are listed, no
//! more and no fewer; links lead somewhere; and no benchmark table flatters.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateRevocationListParams, KeyIdMethod, SerialNumber};
use remora::admin::api::answers::Change;
use remora::config::{self, Config};
use remora::doctor::finding::Code;
use remora::net::tls::throwaway::{Authority, Pair};
use remora::path::ended::Ended;
use remora::serve;

const README: &str = include_str!("../README.md");
const ARCHITECTURE: &str = include_str!("../ARCHITECTURE.md");
const BENCHMARKS: &str = include_str!("../docs/benchmarks.md");
const CONFIGURATION: &str = include_str!("../docs/configuration.md");
const CONTROL: &str = include_str!("../docs/control.md");
const DOCTOR: &str = include_str!("../docs/doctor.md");
const LOGS: &str = include_str!("../docs/logs.md");
const METRICS: &str = include_str!("../docs/metrics.md");
const SECURITY: &str = include_str!("../SECURITY.md");
const OPERATIONS: &str = include_str!("../docs/operations.md");
const MINIMAL: &str = include_str!("../config/minimal.toml");
const FULL: &str = include_str!("../config/full.toml");

/// What one step may take that takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn the_front_page_and_the_map_are_short() {
    assert!(README.lines().count() <= 200, "{} lines", README.lines().count());
    assert!(
        ARCHITECTURE.lines().count() <= 120,
        "{} lines",
        ARCHITECTURE.lines().count()
    );
}

#[test]
fn every_configuration_in_the_documentation_parses() {
    let blocks: Vec<_> = pages()
        .into_iter()
        .flat_map(|page| {
            blocks(&page.text, "toml")
                .into_iter()
                .map(move |block| (page.path.clone(), block))
        })
        .collect();
    assert!(blocks.len() >= 5, "{} configurations", blocks.len());
    let files = tempfile::tempdir().expect("a folder");
    let authority = Authority::new().expect("an authority");
    let Pair { chain, key } = authority.server(&["localhost"]).expect("a certificate");
    for (name, text) in [
        ("tls.pem", chain),
        ("tls.key", key),
        ("client-ca.pem", authority.pem()),
        ("nodes-ca.pem", authority.pem()),
        ("dashboard.token", "reads-0123456789abcdef".to_owned()),
        ("peers.token", "reads-of-peers-0123456789abcdef".to_owned()),
        ("deploy.token", "writes-0123456789abcdef".to_owned()),
    ] {
        fs::write(files.path().join(name), text).expect("written");
    }
    for (page, block) in blocks {
        // A block without listeners is what an operator would add to the ten lines.
        let text = match block.contains("[[listeners]]") {
            true => block,
            false => format!("{MINIMAL}\n{block}"),
        };
        // The files that it names are there.
        let text = text.replace("/etc/remora", &files.path().display().to_string());
        if let Err(problems) = config::parse(&page.display().to_string(), &text) {
            panic!("{problems}");
        }
    }
}

#[test]
fn the_first_configuration_of_a_reader_is_the_minimal_one() {
    for page in [README, CONFIGURATION] {
        assert_eq!(blocks(page, "toml").first().map(String::as_str), Some(MINIMAL));
    }
}

#[test]
fn every_key_of_the_configuration_is_listed() {
    assert_eq!(keys_listed(), keys_of(FULL));
}

#[test]
fn every_command_is_listed() {
    let remora = Command::new(env!("CARGO_BIN_EXE_remora")).arg("--help").output();
    let help = String::from_utf8(remora.expect("it runs").stdout).expect("UTF-8");
    let (_, commands) = help.split_once("Commands:\n").expect("a list of commands");
    let known: BTreeSet<_> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .map(|command| format!("remora {command}"))
        .collect();
    let listed: BTreeSet<_> = rows(OPERATIONS, "Commands")
        .map(|row| code(&row[0]).split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(listed, known);
}

#[test]
fn every_event_is_listed_with_its_fields() {
    let schema = serde_json::to_value(schemars::schema_for!(Change)).expect("JSON");
    let kinds = schema["oneOf"].as_array().expect("kinds").iter();
    let known: BTreeMap<String, BTreeSet<String>> = kinds
        .map(|kind| {
            let fields = kind["properties"].as_object().expect("fields");
            let names = fields.keys().filter(|field| *field != "kind").cloned();
            let kind = fields["kind"]["const"].as_str().expect("a name");
            (kind.to_owned(), names.collect())
        })
        .collect();
    let listed: BTreeMap<String, BTreeSet<String>> = rows(CONTROL, "Events")
        .flat_map(|row| {
            let kinds = codes(&row[0]).into_iter();
            kinds.map(move |kind| (kind, codes(&row[2]))).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(listed, known);
}

#[test]
fn every_cause_is_explained() {
    let mut listed: Vec<String> = rows(LOGS, "Causes").map(|row| code(&row[0])).collect();
    let mut known: Vec<_> = Ended::ALL.iter().map(|cause| cause.name()).collect();
    listed.sort_unstable();
    known.sort_unstable();
    assert_eq!(listed, known);
}

#[test]
fn every_finding_has_a_section_with_its_reason_and_its_remedy() {
    let (_, findings) = DOCTOR.split_once("\n## Findings\n").expect("a section");
    let sections: Vec<_> = findings.split("\n### ").skip(1).collect();
    let titles: Vec<_> = sections.iter().filter_map(|section| section.lines().next()).collect();
    let known: Vec<_> = Code::ALL
        .iter()
        .map(|code| format!("{} {}", code.id(), code.name()))
        .collect();
    assert_eq!(titles, known);
    for (section, code) in sections.iter().zip(Code::ALL) {
        let words = section.split_whitespace().collect::<Vec<_>>().join(" ");
        for sentence in [code.why(), code.advice()] {
            assert!(words.contains(sentence), "{}: {sentence}", code.id());
        }
    }
}

#[test]
fn every_field_of_a_connections_line_is_explained() {
    let (text, _files) = balancer_text();
    let mut config = tempfile::NamedTempFile::new().expect("a file");
    write!(config, "{text}\n[log]\nformat = \"json\"\n").expect("written");
    let mut remora = Command::new(env!("CARGO_BIN_EXE_remora"));
    remora.args(["run", "-c"]).arg(config.path()).stdout(Stdio::piped());
    let mut remora = remora.spawn().expect("it runs");
    let lines = BufReader::new(remora.stdout.take().expect("a pipe")).lines();
    let mut lines = lines.map(|line| serde_json::from_str::<Line>(&line.expect("UTF-8")).expect("JSON"));
    let listening = lines.find(|line| line["message"] == "listening").expect("a line");
    let address = listening["addresses"][0].as_str().expect("an address");
    let mut client = connect(address.parse().expect("an address"));
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    // It is closed; as a reset, since not all that it said was read.
    let _ = client.read(&mut [0]);
    let line = lines.find(is_end).expect("a line");
    // Its log is read no more, so it would wait for that at its end.
    let _ = remora.kill();
    remora.wait().expect("a child");
    let written: BTreeSet<String> = line.keys().cloned().collect();
    let listed: BTreeSet<String> = rows(LOGS, "Fields").map(|row| code(&row[0])).collect();
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
    // Before the doctor has looked at anything; `doctor.rs` of the end-to-end tests has these.
    let of_doctor =
        |(name, family): (String, Family)| match name.starts_with("remora_route_check_") || name == "remora_findings" {
            true => (name, (family.0, BTreeSet::new())),
            false => (name, family),
        };
    let listed: BTreeMap<String, Family> = rows(METRICS, "List")
        .map(|row| (code(&row[0]), (row[1].clone(), codes(&row[2]))))
        .filter(|(name, _)| !is_process(name))
        .map(of_doctor)
        .collect();
    assert_eq!(listed, ours.collect());
}

#[test]
fn every_limit_and_its_test_are_in_the_security_policy() {
    let section = SECURITY.split("## Bounds\n").nth(1).expect("a heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let tables = tables(section);
    let [configured, fixed] = &tables[..] else {
        panic!("{} tables", tables.len());
    };
    // Each limit with its default.
    let stated: BTreeMap<String, String> = configured
        .rows
        .iter()
        .filter_map(|row| row[1].split_once(": "))
        .map(|(key, value)| (code(key), value.to_owned()))
        .collect();
    for table in ["limits", "timeouts"] {
        let (_, rest) = FULL.split_once(&format!("\n[{table}]\n")).expect("a table");
        let lines = rest.split("\n[").next().unwrap_or_default().lines();
        let keys = lines.filter_map(|line| line.trim_start_matches("# ").split_once(" = "));
        for (key, value) in keys.filter(|(key, _)| *key != "user_timeout") {
            let path = format!("{table}.{key}");
            let said = stated.get(&path).unwrap_or_else(|| panic!("no {path}"));
            let has_default = FULL.contains(&format!("\n{key} = {value}\n"));
            match has_default {
                true => assert_eq!(*said, value.trim_matches('"'), "{path}"),
                false => assert!(
                    !said.starts_with(|c: char| c.is_ascii_digit()),
                    "{path} has no default: {said}"
                ),
            }
        }
    }
    // Each test is there.
    let tests = all_code();
    for row in configured.rows.iter().chain(&fixed.rows) {
        let named: Vec<&str> = row[2].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "{row:?} has no test");
        for test in named {
            assert!(tests.contains(&format!("fn {test}(")), "there is no test {test}");
        }
    }
}

/// Everything in `src` and `tests` that is Rust.
fn all_code() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("src"), root.join("tests")];
    let mut code = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                code += &fs::read_to_string(path).expect("a file");
            }
        }
    }
    code
}

#[test]
fn the_documents_name_no_file_that_is_not_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src/", "crates/", "tests/", "benches/", "config/", "docs/", ".ci/"];
    let mut missing = Vec::new();
    let mut seen = 0;
    for page in pages() {
        let outside = outside_of_blocks(&page.text);
        // What is written as code and begins with one of our folders.
        let words = outside.split('`').skip(1).step_by(2);
        for path in words.filter(|word| folders.iter().any(|folder| word.starts_with(folder))) {
            let path = path.split(['#', ' ']).next().unwrap_or_default();
            seen += 1;
            if !root.join(path).exists() {
                missing.push(format!("{}: {path}", page.path.display()));
            }
        }
    }
    assert!(seen >= 20, "only {seen} files named");
    assert!(missing.is_empty(), "not there:\n{}", missing.join("\n"));
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pages: BTreeMap<PathBuf, String> = pages().into_iter().map(|page| (page.path, page.text)).collect();
    let mut broken = Vec::new();
    let mut seen = 0;
    for (path, text) in &pages {
        let outside = outside_of_blocks(text);
        let links = outside.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            seen += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                _ => resolved(&path.with_file_name(""), file),
            };
            let has_anchor = || {
                let text = pages.get(&target);
                text.is_some_and(|text| anchors(text).contains(anchor))
            };
            if !root.join(&target).exists() || !anchor.is_empty() && !has_anchor() {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(seen >= 50, "only {seen} links");
    assert!(broken.is_empty(), "these lead nowhere:\n{}", broken.join("\n"));
}

#[test]
fn every_page_of_the_documentation_is_reachable_from_its_index() {
    let pages = pages();
    for index in ["docs/README.md", "docs/decisions/README.md"] {
        let index = Path::new(index);
        let of_index = |page: &&Page| page.path == index;
        let text = &pages.iter().find(of_index).expect("an index").text;
        let beside = |page: &&Page| page.path.parent() == index.parent() && page.path != index;
        for page in pages.iter().filter(beside) {
            let name = page.path.file_name().expect("a name").to_string_lossy();
            assert!(
                text.contains(&format!("]({name})")),
                "{} has no {name}",
                index.display()
            );
        }
    }
}

#[test]
fn a_benchmark_table_has_the_best_of_each_row_in_bold_and_nothing_else() {
    let on_the_front_page: Vec<_> = tables(README).into_iter().filter(Table::is_of_figures).collect();
    let [table] = &on_the_front_page[..] else {
        panic!("{} benchmark tables", on_the_front_page.len());
    };
    assert_eq!(table.rows.len(), 5);
    let long = tables(BENCHMARKS).into_iter().filter(Table::is_of_figures);
    for table in on_the_front_page.iter().cloned().chain(long) {
        table.check();
    }
    // No other table of the front page praises anything.
    for table in tables(README).into_iter().filter(|table| !table.is_of_figures()) {
        let bold = table.rows.iter().flatten().find(|cell| cell.contains("**"));
        assert_eq!(bold, None, "{:?}", table.columns);
    }
}

/// A table of a page, cell by cell.
#[derive(Clone, Debug)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Whether its second column says which value of a row is the better one.
    fn is_of_figures(&self) -> bool {
        self.columns.get(1).is_some_and(|column| column == "better")
    }

    fn check(&self) {
        assert!(
            self.columns.iter().any(|column| column.starts_with("Remora")),
            "{self:?}"
        );
        for place in 2..self.columns.len() {
            let has_figure = self.rows.iter().any(|row| figure(&row[place]).is_some());
            assert!(has_figure, "{} has no figure", self.columns[place]);
        }
        for row in &self.rows {
            // A direct connection is not one of those that are compared.
            let compared = (2..row.len()).filter(|place| self.columns[*place] != "direct");
            let figures: Vec<_> = compared
                .filter_map(|place| Some((place, figure(&row[place])?)))
                .collect();
            let values = figures.iter().map(|(_, value)| *value);
            let best = match row[1].as_str() {
                "lower" => values.reduce(f64::min),
                "higher" => values.reduce(f64::max),
                other => panic!("{row:?}: {other:?} is neither lower nor higher"),
            };
            let best = best.unwrap_or_else(|| panic!("{row:?} has no figure"));
            let expected: Vec<_> = figures
                .iter()
                .filter(|(_, value)| *value == best)
                .map(|(place, _)| *place)
                .collect();
            let bold: Vec<_> = (0..row.len()).filter(|place| row[*place].contains("**")).collect();
            match figures.len() {
                1 => assert!(bold.is_empty(), "{row:?} compares nothing"),
                _ => assert_eq!(bold, expected, "{row:?}"),
            }
        }
    }
}

/// The number with which a cell begins.
fn figure(cell: &str) -> Option<f64> {
    let cell = cell.replace([',', '*'], "");
    cell.split(' ').next()?.parse().ok()
}

/// A page of the documentation, by its path from the root of the repository.
struct Page {
    path: PathBuf,
    text: String,
}

/// Every page: those of the root, and those below `docs/`.
fn pages() -> Vec<Page> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ]
    .map(PathBuf::from)
    .into();
    let mut folders = vec![PathBuf::from("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).expect("a folder") {
            let path = folder.join(entry.expect("an entry").file_name());
            match path.extension() {
                Some(extension) if extension == "md" => paths.push(path),
                _ if root.join(&path).is_dir() => folders.push(path),
                _ => {}
            }
        }
    }
    let page = |path: PathBuf| {
        let text = fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Page { path, text }
    };
    paths.into_iter().map(page).collect()
}

/// Where `relative`, as a page in `folder` writes it, leads to.
fn resolved(folder: &Path, relative: &str) -> PathBuf {
    let mut path = folder.to_path_buf();
    for component in Path::new(relative).components() {
        match component {
            Component::ParentDir => assert!(path.pop(), "{relative} leads out of the repository"),
            component => path.push(component),
        }
    }
    path
}

/// The names under which the headings of a page can be linked to.
fn anchors(text: &str) -> BTreeSet<String> {
    let outside = outside_of_blocks(text);
    let headings = outside.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// A page without its fenced blocks.
fn outside_of_blocks(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// A list on which no certificate is.
fn empty_list(authority: &Authority) -> String {
    let list = CertificateRevocationListParams {
        this_update: SystemTime::now().into(),
        next_update: (SystemTime::now() + PATIENCE).into(),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(authority.issuer()).expect("a list");
    list.pem().expect("text")
}

/// A listener, one with TLS, and one node, which need not be there.
fn balancer() -> Config {
    let (text, _files) = balancer_text();
    config::parse("test", &text).expect("a configuration")
}

/// The same as it is written, and the files that it names.
fn balancer_text() -> (String, [tempfile::NamedTempFile; 3]) {
    let authority = Authority::new().expect("an authority");
    let Pair { chain, key } = authority.server(&["localhost"]).expect("a certificate");
    let file = |text: String| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    };
    let list = file(empty_list(&authority));
    let (ca, file) = (file(authority.pem()), file(chain + &key));
    let text = format!(
        "workers = 1\n\
        [[listeners]]\naddress = \"127.0.0.1:0\"\n\
        [[listeners]]\naddress = \"127.0.0.1:0\"\nname = \"mqtts\"\n\
        tls = \"end\"\ncertificates = [{{ chain = {:?} }}]\n\
        client_certificates = \"required\"\nclient_ca = {:?}\nclient_crl = {:?}\n\
        [[nodes]]\nname = \"emqx1\"\naddress = \"127.0.0.1:1\"\napi = \"http://127.0.0.1:1\"\n\
        [admin]\naddress = \"127.0.0.1:0\"\n",
        file.path(),
        ca.path(),
        list.path(),
    );
    (text, [ca, list, file])
}

/// The fenced blocks of a page in this language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    page.split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix(language)?.strip_prefix('\n'))
        .map(str::to_owned)
        .collect()
}

/// The cells of each row of the one table under the heading `title`.
fn rows(page: &str, title: &str) -> impl Iterator<Item = Vec<String>> {
    let (_, rest) = page
        .split_once(&format!("## {title}\n"))
        .unwrap_or_else(|| panic!("no heading {title:?}"));
    let section = rest.split("\n#").next().unwrap_or_default();
    let mut tables = tables(section);
    assert_eq!(tables.len(), 1, "tables under {title:?}");
    tables.remove(0).rows.into_iter()
}

/// The tables of a text.
fn tables(text: &str) -> Vec<Table> {
    let mut tables = Vec::new();
    let lines: Vec<_> = text.lines().collect();
    for table in lines
        .split(|line| !line.starts_with('|'))
        .filter(|lines| !lines.is_empty())
    {
        let cells = |line: &&str| {
            let line = line.strip_prefix('|').and_then(|line| line.strip_suffix('|'));
            let cells = line.expect("a row ends with |").split('|');
            cells.map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
        };
        tables.push(Table {
            columns: cells(&table[0]),
            // Below the names of the columns is a line.
            rows: table[2..].iter().map(cells).collect(),
        });
    }
    tables
}

/// The words of a cell that are set as code.
fn codes(cell: &str) -> BTreeSet<String> {
    let parts = cell.split('`').skip(1).step_by(2);
    parts.map(str::to_owned).collect()
}

/// The first of them.
fn code(cell: &str) -> String {
    let word = cell.split('`').nth(1);
    word.unwrap_or_else(|| panic!("no code in {cell:?}")).to_owned()
}

type Keys = BTreeSet<(String, String)>;

/// Table and key, for each key that the README lists.
fn keys_listed() -> Keys {
    rows(CONFIGURATION, "Keys")
        .flat_map(|row| {
            let table = row[0].trim_matches('`').to_owned();
            let keys = codes(&row[1]).into_iter();
            keys.map(move |key| (table.clone(), key)).collect::<Vec<_>>()
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
    let stream = TcpStream::connect_timeout(&address, PATIENCE).expect("a listener");
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

type Line = serde_json::Map<String, serde_json::Value>;

fn is_end(line: &Line) -> bool {
    line.get("message").is_some_and(|message| message == "connection ended")
}
