//! `remora import`: what becomes of configurations of nginx and HAProxy. Beside each file of a case are the result (`.toml`) and the report
//! (`.report`, with the exit code). `REMORA_WRITE_EXPECTED=1 cargo test --test import` writes them anew: read the difference.

mod broken;
#[path = "../checks/mod.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod checks;
mod mutated;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use remora::config;
use remora::net::tls::throwaway::Authority;
use tempfile::TempDir;

/// What `remora import` did.
struct Outcome {
    toml: String,
    /// The exit code and the report, without notes on files that this machine does not have.
    report: String,
    code: i32,
}

/// The environment in which results are checked.
const VARIABLES: [(&str, &str); 22] = [
    ("BIND_IP", "10.0.0.5"),
    ("BLOCKED", "192.0.2.0/24"),
    ("CA_FILE", "/etc/ca.pem"),
    ("CA_NAME", "devices"),
    ("CERT_DIR", "/etc/certs"),
    ("CONFIG_DIR", "/etc/haproxy"),
    ("DNS_IP", "10.0.0.53"),
    ("DOMAIN", "example"),
    ("EMQX", "10.0.1.3"),
    ("emqx", "10.0.1.4"),
    ("GONE", "1885"),
    ("EMQX1", "10.0.1.1"),
    ("EMQX2", "emqx2:1883"),
    ("EMQX6", "2001:db8::1"),
    ("INTERVAL", "2s"),
    ("MQTT_PORT", "11883"),
    ("NODE_PORT", "1883"),
    ("SITE", "there"),
    ("SOURCE", "10.0.0.6"),
    ("TLS_PORT", "18883"),
    ("WS_PATH", "/mqtt"),
    ("WS_PORT", "18083"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import")
}

/// Runs `remora import PROGRAM FILE` in `folder`.
fn import(folder: &Path, program: &str, file: &str) -> Outcome {
    let output = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["import", program, file])
        .envs(VARIABLES)
        .current_dir(folder)
        .output()
        .expect("it runs");
    let code = output.status.code().expect("an exit code, no signal");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    let lines = stderr
        .lines()
        .filter(|line| !line.starts_with("note: listeners") && !line.starts_with("note: nodes_tls"));
    let report = lines.fold(format!("exit {code}\n"), |report, line| report + line + "\n");
    Outcome {
        toml: String::from_utf8(output.stdout).expect("UTF-8"),
        report,
        code,
    }
}

/// The cases in a folder: files with this extension, and folders that have the file `within`.
fn cases(folder: &Path, extension: &str, within: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut found: Vec<(String, String)> = entries
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name()?.to_str()?.to_owned();
            if path.is_dir() {
                let first = path.join(within);
                return first.is_file().then(|| (name.clone(), argument(&name, within)));
            }
            let stem = path.file_stem()?.to_str()?.to_owned();
            (path.extension()? == extension).then_some((stem, name))
        })
        .collect();
    found.sort();
    found
}

/// HAProxy reads a folder as a whole.
fn argument(name: &str, within: &str) -> String {
    match within.ends_with(".cfg") {
        true => name.to_owned(),
        false => format!("{name}/{within}"),
    }
}

/// Compares with what is expected, or writes it.
fn compare(file: &Path, found: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("REMORA_WRITE_EXPECTED").is_some() {
        fs::write(file, found).expect("written");
    }
    let expected = fs::read_to_string(file).unwrap_or_default();
    if expected != found {
        wrong.push(format!("{}:\n{found}", file.display()));
    }
}

/// Files in the place of those that a result names: those would be on the machine that it is for.
struct Replaced(TempDir);

impl Replaced {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new().expect("an authority");
        let pair = authority.server(&["localhost"]).expect("a certificate");
        let now = SystemTime::now();
        let list = rcgen::CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + Duration::from_secs(86_400)).into(),
            crl_number: rcgen::SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = list.signed_by(authority.issuer()).expect("a list").pem().expect("text");
        for (name, text) in [
            ("chain", pair.chain.clone()),
            ("key", pair.key.clone()),
            ("both", pair.chain + &pair.key),
            ("ca", authority.pem().to_owned()),
            ("crl", list),
        ] {
            fs::write(folder.path().join(name), text).expect("written");
        }
        Self(folder)
    }

    /// The text with other paths for the values of the keys that name files.
    fn of(&self, toml: &str) -> String {
        let path = |name: &str| self.0.path().join(name).display().to_string();
        let mut text = toml.to_owned();
        for (name, value) in VARIABLES {
            text = text.replace(&format!("${{{name}}}"), value);
        }
        for (key, name) in [
            ("client_ca", "ca"),
            ("client_crl", "crl"),
            ("ca", "ca"),
            (", key", "key"),
        ] {
            text = replaced(&text, key, |_| path(name));
        }
        replaced(&text, "chain", |behind| {
            path(if behind.starts_with(", key") { "chain" } else { "both" })
        })
    }
}

/// Puts what `with` makes of the text behind it in the place of each value of `key`.
fn replaced(text: &str, key: &str, with: impl Fn(&str) -> String) -> String {
    let start = format!("{key} = \"");
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(&start) {
        let is_whole = !rest[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let value = at + start.len();
        let mut quotes = rest[value..].match_indices('"').map(|(at, _)| value + at);
        let end = quotes.find(|at| !rest[..*at].ends_with('\\')).expect("a closing quote");
        match is_whole {
            true => out += &format!("{}{}", &rest[..value], with(&rest[end + 1..])),
            false => out += &rest[..end],
        }
        rest = &rest[end..];
    }
    out + rest
}

/// Runs all cases of a program.
fn all(program: &str, extension: &str, within: &str, at_least: usize) {
    let folder = root().join(program);
    let files = Replaced::new();
    let mut wrong = Vec::new();
    let cases = cases(&folder, extension, within);
    for (name, file) in &cases {
        let outcome = import(&folder, program, file);
        compare(&folder.join(format!("{name}.toml")), &outcome.toml, &mut wrong);
        compare(&folder.join(format!("{name}.report")), &outcome.report, &mut wrong);
        if let Err(problems) = config::parse(name, &files.of(&outcome.toml)) {
            wrong.push(format!("{name}: check refuses the result:\n{problems}"));
        }
        let wanted = if name == "nothing_is_lost" { 0 } else { outcome.code };
        if outcome.code != wanted || ![0, 2].contains(&outcome.code) {
            wrong.push(format!("{name}: exit code {}", outcome.code));
        }
        if (outcome.code == 0) == outcome.report.contains("warning: not carried over") {
            wrong.push(format!(
                "{name}: exit code {} with this report:\n{}",
                outcome.code, outcome.report
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(cases.len() >= at_least, "only {} cases", cases.len());
}

#[test]
fn configurations_of_nginx_become_those_of_remora() {
    all("nginx", "conf", "nginx.conf", 25);
}

#[test]
fn configurations_of_haproxy_become_those_of_remora() {
    all("haproxy", "cfg", "10-global.cfg", 25);
}

#[test]
fn a_variable_that_is_not_set_here_is_a_note_and_no_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "listen mqtt\n  mode tcp\n  bind \":${UNSET_PORT}\"\n  balance source\n  server a 10.0.0.1:1883\n";
    fs::write(folder.path().join("a.cfg"), text).expect("written");
    let output = Command::new(env!("CARGO_BIN_EXE_remora"))
        .args(["import", "haproxy", "a.cfg"])
        .current_dir(folder.path())
        .output()
        .expect("it runs");
    let told = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0), "{told}");
    let note = "note: listeners[0].address: the variable UNSET_PORT is not set";
    assert!(told.contains(note), "{told}");
    let toml = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(toml.contains("address = \"0.0.0.0:${UNSET_PORT}\""), "{toml}");
}

#[test]
fn what_variables_are_here_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = "listen mqtt\n  mode tcp\n  bind \":${A_PORT}\"\n  balance source\n  server a 10.0.0.1:1883\n";
    fs::write(folder.path().join("a.cfg"), text).expect("written");
    let outcome = |port: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_remora"))
            .args(["import", "haproxy", "a.cfg"])
            .env("A_PORT", port)
            .current_dir(folder.path())
            .output()
            .expect("it runs");
        (output.status.code(), output.stdout)
    };
    let fine = outcome("1883");
    assert_eq!(fine.0, Some(0));
    // No port, and the one of the admin listener.
    assert_eq!(outcome("no-port"), fine);
    assert_eq!(outcome("9883"), fine);
}

#[test]
fn every_key_has_the_line_that_it_comes_from() {
    for (program, extension) in [("nginx", "conf"), ("haproxy", "cfg")] {
        let folder = root().join(program);
        for (name, file) in cases(&folder, extension, "nginx.conf") {
            let toml = import(&folder, program, &file).toml;
            for line in toml.lines().filter(|line| line.contains(" = ")) {
                let (_, comment) = line.split_once("  # ").unwrap_or_else(|| panic!("{name}: {line}"));
                let (place, directive) = comment.split_once(": ").unwrap_or_else(|| panic!("{name}: {line}"));
                let (of, number) = place.rsplit_once(':').expect("a file and a line");
                let text = fs::read_to_string(folder.join(of)).expect("the file");
                let number: usize = number.parse().expect("a number");
                let original = text.lines().nth(number - 1).expect("the line");
                let begin: String = directive.chars().take(20).collect();
                assert!(original.contains(&begin), "{name}: {line}\n{original}");
            }
        }
    }
}

#[test]
fn every_directive_is_in_the_result_or_in_the_report() {
    // What only holds others together, or has its line with another one that it belongs to.
    const OF_NGINX: [&str; 17] = [
        "stream",
        "http",
        "server",
        "upstream",
        "location",
        "proxy_pass",
        "ssl_certificate",
        "ssl_certificate_key",
        "proxy_ssl_certificate_key",
        "limit_conn_zone",
        "split_clients",
        "map",
        "set_real_ip_from",
        "proxy_ssl",
        "proxy_ssl_verify",
        "}",
        "default",
    ];
    const OF_HAPROXY: [&str; 11] = [
        "global",
        "defaults",
        "frontend",
        "backend",
        "listen",
        "resolvers",
        "mode",
        "default_backend",
        "acl",
        "crt-base",
        "ca-base",
    ];
    // Lines that are reported with the block or the section that they are in, or that are in no branch.
    let within = |name: &str, number: usize| match name {
        "manual_websocket.conf" => (38..=41).contains(&number),
        "passed_tls.conf" => (3..=6).contains(&number),
        "conditional.cfg" | "conditions.cfg" => true,
        "all_ports.cfg" => number >= 17,
        "expert.cfg" => (31..=35).contains(&number) || (60..=63).contains(&number) || number >= 82,
        "inheritance.cfg" => (12..=14).contains(&number),
        "manual_websocket.cfg" => number >= 15,
        "websocket_by_path.cfg" => number >= 21,
        "by_server_name.conf" => (9..=13).contains(&number) || number == 31,
        "template.conf" => number >= 33,
        "by_server_name.cfg" => number == 22 || number == 39,
        "named_defaults.cfg" => number == 28,
        "overridden.cfg" => number == 24 || number == 34,
        "two_paths.conf" => number == 17,
        "checks.cfg" => number == 13,
        "content_rules.cfg" => [19, 26, 32, 36].contains(&number),
        "counters.cfg" => [6, 8, 21, 28].contains(&number),
        "ports_of_clients.cfg" => [17, 23].contains(&number),
        "variables.cfg" => [26, 30].contains(&number),
        "sections.cfg" => (6..=24).contains(&number) || number >= 53,
        _ => false,
    };
    // Values that another line has given already.
    let same = [
        "proxy_protocol on",
        "access_log off",
        "srvtcpka-",
        "timeout server-fin",
        "listen [::]:",
        "bind [::]:",
        "default-server check port 18083 inter 2s fall 2 rise 3 weight",
    ];
    let mut silent = Vec::new();
    let mut seen = 0;
    for (program, extension, structure) in [("nginx", "conf", &OF_NGINX[..]), ("haproxy", "cfg", &OF_HAPROXY[..])] {
        let folder = root().join(program);
        for (_, file) in cases(&folder, extension, "-") {
            let outcome = import(&folder, program, &file);
            let all = outcome.toml + &outcome.report;
            let text = fs::read_to_string(folder.join(&file)).expect("a file");
            for (index, line) in text.lines().enumerate() {
                let word = line.split_whitespace().next().unwrap_or("#");
                let is_other = word.starts_with('#') || structure.contains(&word) || within(&file, index + 1);
                if is_other || same.iter().any(|same| line.trim().starts_with(same)) {
                    continue;
                }
                seen += 1;
                if !all.contains(&format!("{file}:{}:", index + 1)) {
                    silent.push(format!("{file}:{}: {}", index + 1, line.trim()));
                }
            }
        }
    }
    assert!(
        silent.is_empty(),
        "neither in the result nor in the report:\n{}",
        silent.join("\n")
    );
    assert!(seen > 250, "only {seen} lines");
}
