//! What the loader suggests is what would do: each suggestion is written into the configuration, as an operator would write it, until
//! the configuration loads, and then it means what was meant.

mod apply;
mod cases;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use remora::config::{self, Config, ListedNodes, Problem, Severity};
use remora::net::tls::throwaway::{Authority, Pair};
use tempfile::TempDir;

/// More than any case has mistakes.
const STEPS_MAX: usize = 24;

/// A folder with the files that suggestions name.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = Authority::new().expect("an authority");
        let Pair { chain, key } = authority.server(&["localhost"]).expect("a certificate");
        let other = authority.server(&["other"]).expect("a certificate");
        let both = authority.server(&["localhost", "other"]).expect("a certificate");
        let crl = list_of(&authority);
        for (name, text) in [
            ("tls.pem", &chain),
            ("fullchain.pem", &chain),
            ("tls.key", &key),
            ("privkey.pem", &key),
            ("ca.pem", &authority.pem().to_owned()),
            ("api.key", &"key:secret:viewer\n".to_owned()),
            ("doctor.key", &"doctor:secret\n".to_owned()),
            ("crl.pem", &crl),
            ("other.pem", &both.chain),
            ("other.key", &both.key),
            ("api.token", &"a-token-of-32-printable-bytes-xx\n".to_owned()),
            ("disordered.pem", &(chain.clone() + &other.chain)),
            (
                "more.toml",
                &"[[nodes]]\nname = \"b\"\naddress = \"10.0.0.99:1883\"\npass = \"10.0.0.99:8883\"\n".to_owned(),
            ),
        ] {
            fs::write(folder.path().join(name), text).expect("written");
        }
        Self(folder)
    }

    fn load(&self, text: &str) -> Result<Config, config::Problems> {
        let path = self.0.path().join("remora.toml");
        fs::write(&path, text).expect("written");
        config::load(&path)
    }
}

/// A list on which no certificate is.
fn list_of(authority: &Authority) -> String {
    let now = SystemTime::now();
    let list = rcgen::CertificateRevocationListParams {
        this_update: now.into(),
        next_update: (now + Duration::from_secs(86_400)).into(),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(authority.issuer()).expect("a list");
    list.pem().expect("text")
}

/// What became of a configuration by every way through its suggestions.
#[derive(Default)]
struct Outcome {
    loaded: Vec<Config>,
    /// Problems whose hints are no text to be written.
    advice: BTreeSet<String>,
    hints: BTreeSet<String>,
    /// What went wrong.
    faults: Vec<String>,
}

impl Outcome {
    /// Applies the suggestion for the first problem that has one, each of its alternatives, until nothing is left to apply.
    fn follow(&mut self, folder: &Folder, text: &str, steps: usize) {
        if steps >= STEPS_MAX {
            return self.faults.push(format!("suggestions lead round and round:\n{text}"));
        }
        let problems = match folder.load(text) {
            Ok(config) => {
                self.hints
                    .extend(config.warnings.iter().filter_map(|problem| problem.hint.clone()));
                return self.loaded.push(config);
            }
            Err(problems) => problems,
        };
        self.hints
            .extend(problems.iter().filter_map(|problem| problem.hint.clone()));
        for problem in problems.iter() {
            let applied = apply::alternatives(text, problem);
            if applied.is_empty() {
                self.advice.insert(format!("{problem}: {:?}", problem.hint));
                continue;
            }
            for (index, applied) in applied.iter().enumerate() {
                if applied == text {
                    return self
                        .faults
                        .push(format!("{problem}: {:?} changes nothing", problem.hint));
                }
                // Later alternatives of the same problem are followed in the cases that are about them.
                if index == 0 || steps == 0 {
                    self.gone(folder, applied, problem);
                    self.follow(folder, applied, steps + 1);
                }
            }
            return;
        }
    }

    /// What was complained of is complained of no more.
    fn gone(&mut self, folder: &Folder, text: &str, before: &Problem) {
        let Err(problems) = folder.load(text) else {
            return;
        };
        let same = |problem: &&Problem| {
            // Of syntax errors, only the first is reported.
            problem.path == before.path && problem.message == before.message && problem.hint == before.hint
        };
        if problems.iter().any(|problem| same(&problem)) {
            self.faults.push(format!("{before} stays after {:?}", before.hint));
        }
    }
}

/// `config` without what depends on where it was read.
fn bare(mut config: Config) -> Config {
    config.warnings.clear();
    config.admin.configuration = None;
    config
}

/// What `remora config` prints is the same configuration.
fn round_trip(config: &Config) {
    let text = config::effective(config, None);
    let again = config::parse("effective.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(bare(again), bare(config.clone()), "{text}");
}

/// The lines of a configuration in force.
fn says(config: &Config, line: &str) -> bool {
    let text = config::effective(config, None);
    text.lines().any(|other| other == line)
}

#[test]
fn every_suggestion_loads_and_means_what_was_meant() {
    let folder = Folder::new();
    let mut faults = Vec::new();
    let mut seen = 0;
    for (mistake, means) in cases::all() {
        seen += 1;
        let mut outcome = Outcome::default();
        outcome.follow(&folder, &mistake, 0);
        if outcome.loaded.len() != means.len() {
            let loaded = outcome.loaded.len();
            outcome.faults.push(format!(
                "{loaded} ways lead to one that loads, not {}: {:?}",
                means.len(),
                outcome.advice
            ));
        }
        for (config, lines) in outcome.loaded.iter().zip(means) {
            let missing = lines.split("; ").filter(|line| !says(config, line));
            outcome
                .faults
                .extend(missing.map(|line| format!("the outcome has no {line}")));
            round_trip(config);
        }
        if !outcome.faults.is_empty() {
            let all = outcome.faults.join("\n");
            faults.push(format!(
                "{mistake}\n{all}\n{}",
                Vec::from_iter(outcome.hints).join("\n")
            ));
        }
    }
    assert!(seen > 200, "only {seen} cases");
    assert!(faults.is_empty(), "{}", faults.join("\n\n---\n"));
}

#[test]
fn the_suggestions_for_refused_configurations_lead_to_ones_that_load() {
    let folder = Folder::new();
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut loaded = 0;
    let mut seen = 0;
    for file in fs::read_dir(all).expect("a folder") {
        let path = file.expect("an entry").path();
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        seen += 1;
        let mut outcome = Outcome::default();
        outcome.follow(&folder, &text, 1);
        assert!(
            outcome.faults.is_empty(),
            "{}: {}",
            path.display(),
            outcome.faults.join("\n")
        );
        if outcome.loaded.is_empty() {
            // Only where what is left is a choice that the operator must make.
            assert!(!outcome.advice.is_empty(), "{}", path.display());
        }
        for config in &outcome.loaded {
            loaded += 1;
            round_trip(config);
        }
    }
    assert!(loaded > seen / 3, "only {loaded} of {seen} load by their suggestions");
}

/// Every key in every other table: the line can be moved to where the hint says, or taken out.
#[test]
fn a_key_in_another_table_is_led_to_one_that_has_it() {
    let folder = Folder::new();
    let keys = keys_of_the_reference();
    let mut seen = 0;
    for (table, _, _) in keys.iter().filter(|(_, _, is_first)| *is_first) {
        for (other, line, _) in keys.iter().filter(|(other, _, _)| other != table) {
            let key = line.split(" = ").next().unwrap_or_default();
            let is_own =
                |(own, line, _): &(String, String, bool)| own == table && line.starts_with(&format!("{key} = "));
            if keys.iter().any(is_own) {
                continue;
            }
            let misplaced = match &**table {
                "" => format!("{line}\n{BASE}"),
                "[[listeners]]" => format!("{BASE}[[listeners]]\naddress = \"0.0.0.0:1885\"\n{line}\n"),
                "[[nodes]]" => format!(
                    "{BASE}[[nodes]]\nname = \"b\"\naddress = \"10.0.0.99:1883\"\npass = \"10.0.0.99:8883\"\n{line}\n"
                ),
                table => format!("{BASE}{table}\n{line}\n"),
            };
            let problems = folder.load(&misplaced).expect_err("an unknown key");
            let unknown = problems.iter().find(|problem| problem.message == "unknown key");
            // `dial` and `greet` are tables as well.
            let Some(unknown) = unknown else {
                continue;
            };
            let hint = unknown.hint.as_deref().unwrap_or_default();
            seen += 1;
            if hint.starts_with("known keys: ") {
                continue;
            }
            let applied = apply::alternatives(&misplaced, unknown);
            assert!(!applied.is_empty(), "{other} {line} in {table}: {hint}");
            let mut outcome = Outcome::default();
            for applied in applied {
                outcome.gone(&folder, &applied, unknown);
                let of_switch = applied.contains("[admin]\nenabled") && !misplaced.contains("[admin]");
                assert!(!of_switch, "{table} {line} switches the admin listener");
            }
            assert!(outcome.faults.is_empty(), "{misplaced}\n{:?}", outcome.faults);
        }
    }
    assert!(seen > 1_000, "only {seen} keys in other tables");
}

const BASE: &str = "[[listeners]]\naddress = \"0.0.0.0:1884\"\n[[nodes]]\nname = \"a\"\naddress = \"10.0.0.11:1883\"\n";

/// The lines of all keys of the reference, with the header of their table, and whether it is the first of that.
fn keys_of_the_reference() -> Vec<(String, String, bool)> {
    let mut table = String::new();
    let mut keys: Vec<(String, String, bool)> = Vec::new();
    for line in include_str!("../../config/full.toml").lines() {
        if line.starts_with('[') {
            line.clone_into(&mut table);
        }
        let line = line.strip_prefix("# ").unwrap_or(line);
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        let is_key = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let is_new =
            |(other, known, _): &(String, String, bool)| *other != table || !known.starts_with(&format!("{key} = "));
        if is_key && keys.iter().all(is_new) {
            let is_first = keys.iter().all(|(other, _, _)| *other != table);
            keys.push((table.clone(), line.to_owned(), is_first));
        }
    }
    keys
}

/// A file with every key, none of them with its default: what is printed of it has every key, and the same values.
#[test]
fn no_key_is_lost_when_a_configuration_is_printed() {
    let folder = Folder::new();
    let text = include_str!("every_key.toml");
    let config = folder.load(text).unwrap_or_else(|problems| panic!("{problems}"));
    round_trip(&config);
    let printed = config::effective(&config, None);
    let keys_of = |text: &str| -> BTreeSet<(String, String)> {
        let mut table = String::new();
        let mut keys = BTreeSet::new();
        for line in text.lines() {
            match line.split_once(" = ") {
                _ if line.starts_with('[') => line.clone_into(&mut table),
                Some((key, _)) if !line.starts_with('#') => drop(keys.insert((table.clone(), key.to_owned()))),
                _ => {}
            }
        }
        keys
    };
    let known: BTreeSet<_> = keys_of_the_reference()
        .into_iter()
        .map(|(table, line, _)| (table, line.split(" = ").next().unwrap_or_default().to_owned()))
        .collect();
    assert_eq!(keys_of(text), known, "the file has every key");
    // What is included is printed among the rest.
    let printed_of = known.iter().filter(|(_, key)| key != "include").cloned().collect();
    assert_eq!(keys_of(&printed), printed_of, "{printed}");
    // Each line counts: without it, the configuration is another one, or none.
    let config = bare(config);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| line.contains(" = ")) {
        let without: String = text
            .lines()
            .enumerate()
            .filter(|(other, _)| *other != number)
            .flat_map(|(_, line)| [line, "\n"])
            .collect();
        let is_other = folder.load(&without).map_or(true, |other| bare(other) != config);
        // Said although it is the default.
        assert!(is_other || line == "enabled = true", "{line}");
    }
}

#[test]
fn the_reference_means_the_same_when_it_is_printed() {
    let full = include_str!("../../config/full.toml");
    round_trip(&config::parse("full.toml", full).expect("a configuration"));
}

/// Every text of a hint in the loader is seen in a case or in a refused configuration, so that none is left untried.
#[test]
fn no_hint_of_the_loader_is_untried() {
    let folder = Folder::new();
    let mut outcome = Outcome::default();
    for (mistake, _) in cases::all() {
        outcome.follow(&folder, &mistake, 0);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in fs::read_dir(root.join("tests/config")).expect("a folder") {
        let path = file.expect("an entry").path();
        if let Ok(text) = fs::read_to_string(&path) {
            // Some name files that are only beside them.
            for problems in [folder.load(&text), config::load(&path)]
                .into_iter()
                .filter_map(Result::err)
            {
                outcome
                    .hints
                    .extend(problems.iter().filter_map(|problem| problem.hint.clone()));
            }
            outcome.follow(&folder, &text, 1);
        }
    }
    // What is wrong in a file of nodes, and in no configuration.
    let listed = ListedNodes::of(&folder.load(BASE).expect("a configuration"));
    let problems = listed.parse("nodes.toml", "[[nodes]]\nname = \"a\"\naddress = \"mqtts://a:8883\"\n");
    let problems = problems.expect_err("no authority");
    outcome
        .hints
        .extend(problems.iter().filter_map(|problem| problem.hint.clone()));
    let mut untried = Vec::new();
    let mut tried = 0;
    for file in fs::read_dir(root.join("src/config")).expect("a folder") {
        let path = file.expect("an entry").path();
        if path.is_dir() {
            continue;
        }
        let code = fs::read_to_string(&path).expect("a file");
        let code = code.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for text in literals(code).filter(|text| is_hint(text)) {
            let parts: Vec<&str> = text.split(['{', '}']).step_by(2).collect();
            match outcome.hints.iter().any(|hint| has_in_order(hint, &parts)) {
                true => tried += 1,
                false => untried.push(format!("{}: {text}", path.display())),
            }
        }
    }
    assert!(tried > 60, "only {tried} hints found");
    assert!(untried.is_empty(), "no case has these hints:\n{}", untried.join("\n"));
}

fn is_hint(text: &str) -> bool {
    ["write ", "add ", "leave ", "did you mean", "give "]
        .iter()
        .any(|verb| text.starts_with(verb))
        && text.len() > "write ".len()
}

/// Whether the parts are in the text, in this order.
fn has_in_order(text: &str, parts: &[&str]) -> bool {
    let mut rest = text;
    parts.iter().all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// The string literals of Rust code.
fn literals(code: &str) -> impl Iterator<Item = String> + '_ {
    let without_comments = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = without_comments.flat_map(|line| [line, "\n"]).collect();
    let mut found = Vec::new();
    let mut rest = &*code.replace("'\"'", "");
    while let Some(start) = rest.find('"') {
        rest = &rest[start + 1..];
        let mut text = String::new();
        let mut chars = rest.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    rest = &rest[at + 1..];
                    break;
                }
                '\\' => match chars.next() {
                    // A literal that goes on in the next line.
                    Some((_, '\n')) => {
                        let behind = chars.as_str().trim_start();
                        let offset = rest.len() - behind.len();
                        chars = rest.char_indices();
                        chars.by_ref().take_while(|(at, _)| *at + 1 < offset).for_each(drop);
                    }
                    Some((_, escaped)) => text.push(escaped),
                    None => break,
                },
                c => text.push(c),
            }
        }
        found.push(text);
    }
    found.into_iter()
}

#[test]
fn the_reader_of_literals_reads_them() {
    let code = "a(\"write {x}\", '\"', \"b \\\n     c \\\"d\\\"\"); // \"no\n// \"not\"\n\"e\"";
    let code = code.replace(" // \"no", "");
    assert_eq!(literals(&code).collect::<Vec<_>>(), ["write {x}", "b c \"d\"", "e"]);
}

/// The command in the hint makes a key that can be read.
#[test]
fn an_encrypted_key_is_named_with_the_command_that_decrypts_it() {
    let folder = Folder::new();
    let at = |name: &str| folder.0.path().join(name);
    let openssl = |arguments: &[&str]| {
        Command::new("openssl")
            .current_dir(folder.0.path())
            .args(arguments)
            .output()
    };
    let encrypt = [
        "pkey",
        "-in",
        "tls.key",
        "-aes256",
        "-passout",
        "pass:secret",
        "-out",
        "a key.pem",
    ];
    let Ok(encrypted) = openssl(&encrypt) else {
        println!("no openssl here");
        return;
    };
    assert!(encrypted.status.success(), "{encrypted:?}");
    let text = "[[listeners]]\naddress = '0.0.0.0:8883'\ntls = 'end'\n\
                certificates = [{ chain = 'tls.pem', key = 'a key.pem' }]\n\
                [[nodes]]\nname = 'a'\naddress = '10.0.0.1:1883'\n";
    let problems = folder.load(text).expect_err("an encrypted key");
    let problem = problems.iter().next().expect("a problem");
    assert_eq!(problem.path, "listeners[0].certificates[0].key");
    assert!(problem.message.contains("is encrypted"), "{problem}");
    let hint = problem.hint.as_deref().expect("a hint");
    let command = hint.strip_prefix("decrypt it with ").expect("a command");
    let command = command.replace("NEW", "new.key") + " -passin pass:secret";
    let decrypted = Command::new("sh")
        .current_dir(folder.0.path())
        .args(["-c", &command])
        .output();
    assert!(
        decrypted.as_ref().is_ok_and(|output| output.status.success()),
        "{command}: {decrypted:?}"
    );
    assert!(at("new.key").exists());
    folder.load(&text.replace("a key.pem", "new.key")).expect("it loads");
}

#[test]
fn an_expired_certificate_is_a_fault_of_a_configuration_that_loads() {
    let folder = Folder::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = |days: i64| {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let now = SystemTime::now();
        let day = Duration::from_secs(86_400);
        params.not_before = (now - 400 * day).into();
        params.not_after = match days {
            0.. => now + day * days as u32 + day / 2,
            _ => now - day * days.unsigned_abs() as u32,
        }
        .into();
        params.self_signed(&key).expect("a certificate").pem()
    };
    fs::write(folder.0.path().join("tls.key"), key.serialize_pem()).expect("written");
    let text = "[[listeners]]\naddress = '0.0.0.0:8883'\ntls = 'end'\ncertificates = [{ chain = 'tls.pem', key = 'tls.key' }]\n\
                [[nodes]]\nname = 'a'\naddress = '10.0.0.1:1883'\n";
    for (days, expected) in [(-3, Some(Severity::Fault)), (20, Some(Severity::Warning)), (21, None)] {
        fs::write(folder.0.path().join("tls.pem"), certificate(days)).expect("written");
        let config = folder.load(text).expect("it loads");
        let of_chain = |problem: &&Problem| problem.path == "listeners[0].certificates[0].chain";
        let found = config.warnings.iter().find(of_chain);
        assert_eq!(
            found.map(|problem| problem.severity),
            expected,
            "{days}: {:?}",
            config.warnings
        );
        let span = found.and_then(|problem| problem.span.clone());
        assert!(
            found.is_none() || span.is_some_and(|span| &text[span] == "'tls.pem'"),
            "{days}"
        );
    }
    // One behind it, of those that clients need.
    let leaf = certificate(90);
    let authority = rcgen::CertifiedIssuer::self_signed(
        rcgen::CertificateParams::new(vec!["root".to_owned()]).expect("a name"),
        rcgen::KeyPair::generate().expect("a key"),
    );
    let mut between = rcgen::CertificateParams::new(Vec::new()).expect("no name");
    between.distinguished_name.push(rcgen::DnType::CommonName, "between");
    between.not_after = (SystemTime::now() - Duration::from_secs(86_400)).into();
    let between = between.signed_by(
        &rcgen::KeyPair::generate().expect("a key"),
        &authority.expect("an authority"),
    );
    let chain = leaf + &between.expect("a certificate").pem();
    fs::write(folder.0.path().join("tls.pem"), chain).expect("written");
    let config = folder.load(text).expect("it loads");
    let fault = config
        .warnings
        .iter()
        .find(|problem| problem.severity == Severity::Fault);
    let message = fault.map(|fault| fault.message.as_str()).unwrap_or_default();
    assert!(
        message.starts_with("certificate 2 of the chain in \"tls.pem\" expired"),
        "{message}"
    );
}
