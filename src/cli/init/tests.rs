//! What `remora init` writes is read as `remora check` reads it, for every combination of options.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use clap::Parser;
use remora::net::tls::throwaway::Authority;
use tempfile::TempDir;

use super::*;

/// The options as on a command line.
#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn arguments(options: &[&str]) -> Arguments {
    let line = Line::try_parse_from(std::iter::once("init").chain(options.iter().copied()));
    line.unwrap_or_else(|error| panic!("{options:?}: {error}")).arguments
}

/// Files that options name.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let authority = Authority::new().expect("an authority");
        let certificate = authority.server(&["localhost"]).expect("a certificate");
        let files = [
            ("ca.pem", authority.pem()),
            ("tls.pem", certificate.chain),
            ("tls.key", certificate.key),
            ("api.key", "key:secret-0123456789\n".to_owned()),
        ];
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("UTF-8").to_owned()
    }
}

#[test]
fn every_combination_of_options_is_a_configuration_without_problems() {
    let files = Files::new();
    let [ca, chain, key, api_key] = ["ca.pem", "tls.pem", "tls.key", "api.key"].map(|name| files.path(name));
    let sources: [&[&str]; 7] = [
        &["--node", "emqx1=10.0.0.11:1883"],
        &[
            "--node",
            "10.0.0.11:1883",
            "--node",
            "[2001:db8::1]:1883",
            "--node",
            "broker.example.com:1884",
        ],
        &["--node", "a \"b\" \\ é=mqtts://broker.example.com:8883"],
        &["--dns", "_mqtt._tcp.emqx.example.com"],
        &["--dns", "emqx.example.com:1884"],
        &[
            "--emqx-api",
            "http://10.0.0.11:18083",
            "--emqx-api",
            "http://10.0.0.12:18083",
        ],
        &["--emqx-api", "https://emqx.example.com:18084"],
    ];
    let options: [&[&str]; 8] = [
        &["--listen", "[::]:11883"],
        &["--tls", &chain, &key],
        &["--websocket"],
        &["--behind", "10.0.0.0/8", "--behind", "192.0.2.7"],
        &["--proxy-protocol"],
        &["--api-port", "18083"],
        &["--api-key", &api_key],
        &["--nodes-ca", &ca],
    ];
    let mut written = 0;
    for source in sources {
        for chosen in 0..1_u32 << options.len() {
            let mut line = source.to_vec();
            let is_chosen = |place: usize| chosen & (1 << place) != 0;
            let parts = options.iter().enumerate().filter(|(place, _)| is_chosen(*place));
            parts.for_each(|(_, part)| line.extend(*part));
            if source[0] == "--emqx-api" && is_chosen(5) {
                // The API's port is that of the seeds; two of them are bad usage.
                assert!(Line::try_parse_from(std::iter::once("init").chain(line)).is_err());
                continue;
            }
            let arguments = arguments(&line);
            let text = match arguments.text() {
                Ok(text) => text,
                Err(error) => {
                    // TLS to nodes is the only thing that takes another option.
                    assert!(error.contains("--nodes-ca FILE"), "{line:?}: {error}");
                    assert!(
                        !is_chosen(7) && source.iter().any(|part| part.contains("s://")),
                        "{line:?}"
                    );
                    continue;
                }
            };
            let config = config::parse("init.toml", &text).unwrap_or_else(|problems| panic!("{line:?}\n{problems}"));
            assert_eq!(config.warnings.len(), 0, "{line:?}: {:?}", config.warnings);
            assert_eq!(config.listeners.len(), 1 + usize::from(is_chosen(2)), "{line:?}");
            written += 1;
        }
    }
    assert!(written > 1_000, "{written}");
}

#[test]
fn nodes_without_names_get_names_that_no_other_has() {
    let nodes = [
        "--node",
        "10.0.0.11:1883",
        "--node",
        "emqx1=10.0.0.12:1883",
        "--node",
        "10.0.0.13:1883",
    ];
    let config = config::parse("init.toml", &arguments(&nodes).text().expect("a text")).expect("a configuration");
    let mut names: Vec<&str> = config.nodes.iter().map(|node| &*node.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["emqx1", "emqx2", "emqx3"]);
}

#[test]
fn every_comment_that_is_a_key_can_be_uncommented() {
    let text = arguments(&["--node", "emqx1=10.0.0.11:1883"]).text().expect("a text");
    let files = Files::new();
    let [chain, key] = ["tls.pem", "tls.key"].map(|name| files.path(name));
    let is_key = |line: &str| {
        let name = line.strip_prefix("# ").and_then(|line| line.split_once(" = "));
        name.is_some_and(|(name, _)| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
    };
    let lines = text.lines().map(|line| match is_key(line) {
        true => line[2..]
            .replace("\"tls.pem\"", &format!("{chain:?}"))
            .replace("\"tls.key\"", &format!("{key:?}")),
        false => line.to_owned(),
    });
    let uncommented: Vec<String> = lines.collect();
    assert_ne!(uncommented.join("\n").trim(), text.trim());
    if let Err(problems) = config::parse("init.toml", &uncommented.join("\n")) {
        panic!("{problems}");
    }
}

#[test]
fn what_is_answered_is_asked_again_until_it_can_be_used() {
    let files = Files::new();
    let answers = format!(
        "\nemqx1=10.0.0.11\nemqx1=10.0.0.11:1883\nemqx1=10.0.0.12:1883\n10.0.0.12:1883\n\n/nowhere.pem\n/nowhere.key\n{}\n{}\nhere\n\
         127.0.0.1:18883\nmaybe\ny\nn\n",
        files.path("tls.pem"),
        files.path("tls.key"),
    );
    let mut said = Vec::new();
    let mut chosen = Arguments::default();
    questions::ask(&mut chosen, &mut answers.as_bytes(), &mut said).expect("all answers");
    let said = String::from_utf8(said).expect("UTF-8");
    for part in [
        "one node at least",
        "has no port",
        "Node 3 [no more]",
        "/nowhere.pem",
        "y or n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let config = config::parse("init.toml", &chosen.text().expect("a text")).expect("a configuration");
    let names: Vec<&str> = config.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(names, ["emqx1", "emqx2"]);
    assert_eq!(config.listeners.len(), 2, "the second is WebSocket");
    assert_eq!(config.listeners[0].address.to_string(), "127.0.0.1:18883");

    let ended = questions::ask(
        &mut Arguments::default(),
        &mut &b"emqx1=10.0.0.11:1883\n"[..],
        &mut Vec::new(),
    );
    assert_eq!(ended.expect_err("no more answers").kind(), ErrorKind::UnexpectedEof);
}
