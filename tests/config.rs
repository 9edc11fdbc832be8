//! Configurations that are refused: each file in `tests/config` says in its lines after `#!` which problems it has, with
//! line, column and what would do, and every one of them must be found in one go.

use std::fs;
use std::path::{Path, PathBuf};

use remora::config::{self, Problems};

/// The files of `tests/config`; a test over files says how many it saw.
const FILES: usize = 75;

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let entries = fs::read_dir(directory).expect("a directory");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    // Folders hold what these files include.
    files.retain(|file| file.is_file());
    files.sort();
    files
}

/// What the file says about itself: `#! LINE:COLUMN problem` and below it `#! help: hint`; of a problem in another file
/// `#! FILE:LINE:COLUMN problem`.
fn expected(file: &Path) -> Vec<String> {
    let bytes = fs::read(file).expect("a file");
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter_map(|line| line.strip_prefix("#! "));
    lines.map(str::to_owned).collect()
}

/// What was found, in the same form.
fn found(problems: &Problems) -> Vec<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    // Of the files of this test, names are shown; hints may name files of this machine.
    let here = |text: &str| text.replace(&format!("{root}/tests/config/"), "");
    let mut lines = Vec::new();
    for problem in problems.iter() {
        let position = problems.position(problem);
        let position = position.map_or("-".to_owned(), |p| match here(p.file).split_once('/') {
            Some(_) => format!("{}:{}:{}", here(p.file), p.line, p.column),
            None => format!("{}:{}", p.line, p.column),
        });
        lines.push(format!("{position} {}", here(&problem.to_string())));
        lines.extend((problem.hint.iter()).map(|hint| format!("help: {}", hint.replace(root, "ROOT"))));
    }
    lines
}

#[test]
fn every_problem_is_found_at_its_line_and_column() {
    let files = files();
    let mut wrong = String::new();
    for file in &files {
        let problems = config::load(file).err();
        let found = problems.as_ref().map(found).unwrap_or_default();
        if found != expected(file) {
            wrong += &format!("{}\n{}\n\n", file.display(), found.join("\n"));
        }
    }
    assert!(
        wrong.is_empty(),
        "these files have other problems than they say:\n{wrong}"
    );
    assert_eq!(files.len(), FILES);
}

#[test]
fn a_thousand_and_more_nodes_are_refused_at_the_first_too_many() {
    let nodes = |count: usize| {
        (0..count).fold("[[listeners]]\naddress = '0.0.0.0:1883'\n".to_owned(), |text, index| {
            text + &format!("[[nodes]]\nname = 'n{index}'\naddress = 'n{index}:1883'\n")
        })
    };
    assert!(config::parse("many.toml", &nodes(1024)).is_ok());
    let problems = config::parse("many.toml", &nodes(1026)).expect_err("too many nodes");
    let hint = "help: a cluster has at most 1024 nodes";
    assert_eq!(found(&problems), ["3075:1 nodes[1024]: 1026 nodes are too many", hint]);
}

#[test]
fn weights_whose_ring_would_fill_the_memory_are_refused() {
    let nodes = |weight: u16| {
        (0..200).fold("[[listeners]]\naddress = '0.0.0.0:1883'\n".to_owned(), |text, index| {
            text + &format!("[[nodes]]\nname = 'n{index}'\naddress = 'n{index}:1883'\nweight = {weight}\n")
        })
    };
    assert!(config::parse("heavy.toml", &nodes(512)).is_ok());
    let problems = config::parse("heavy.toml", &nodes(513)).expect_err("too heavy");
    let problems = found(&problems);
    assert!(
        problems[0].contains("all weights add up to 102600, more than 102400"),
        "{problems:?}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let problems = config::load(Path::new("no/such/file.toml")).expect_err("no file");
    let shown = problems.to_string();
    assert!(shown.contains("no/such/file.toml"), "{shown}");
    assert!(shown.contains("cannot be read: No such file or directory"), "{shown}");

    let endless = config::load(Path::new("/dev/zero")).expect_err("an endless file");
    assert!(endless.to_string().contains("larger than 16 MiB"));
}

/// A folder with a configuration that includes `pattern`, and with these files.
fn folder(pattern: &str, files: impl IntoIterator<Item = (String, String)>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("conf.d")).expect("a folder");
    for (name, text) in files {
        fs::write(folder.path().join("conf.d").join(name), text).expect("a file");
    }
    let main = folder.path().join("remora.toml");
    let listener = "[[listeners]]\naddress = '0.0.0.0:1883'\n";
    fs::write(&main, format!("include = [\"{pattern}\"]\n{listener}")).expect("a file");
    (folder, main)
}

fn node(name: usize) -> String {
    format!("[[nodes]]\nname = 'n{name}'\naddress = 'n{name}:1883'\n")
}

#[test]
fn what_files_include_is_added_in_the_order_of_their_names() {
    let more = [
        // Each of these has a place of its own for relative paths, variables and includes.
        ("20.toml".to_owned(), format!("include = ['more/*.toml']\n{}", node(3))),
        ("10.toml".to_owned(), node(2) + &node(1) + "[log]\nfile = 'own.log'\n"),
        (".30.toml".to_owned(), "hidden".to_owned()),
        ("40.toml.bak".to_owned(), "another name".to_owned()),
    ];
    let (folder, main) = folder("conf.d/*.toml", more);
    let below = folder.path().join("conf.d/more");
    fs::create_dir(&below).expect("a folder");
    fs::write(below.join("x.toml"), node(4) + "[log]\nlevel = 'debug'\n").expect("a file");
    let config = config::load(&main).unwrap_or_else(|problems| panic!("{problems}"));
    let names: Vec<&str> = config.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(names, ["n2", "n1", "n3", "n4"]);
    assert_eq!(config.log.file, Some(folder.path().join("conf.d/own.log")));
    // A pattern may match nothing, even where a file may not be missing.
    let (_none, main) = self::folder("conf.d/*.toml", []);
    let problems = config::load(&main).expect_err("no node");
    assert_eq!(found(&problems)[0], "- nodes: at least one is required");
}

#[test]
fn includes_have_bounds() {
    let (_folder, main) = folder("conf.d/*.toml", (0..1001).map(|at| (format!("{at:04}.toml"), node(at))));
    let problems = config::load(&main).expect_err("too many files");
    let message = &found(&problems)[0];
    assert!(
        message.contains("conf.d/1000.toml\" is beyond the 1000 files"),
        "{message}"
    );

    let chain = (0..9).map(|at| (format!("{at}.toml"), format!("include = ['{}.toml']\n", at + 1)));
    let (_folder, main) = folder("conf.d/0.toml", chain);
    let problems = config::load(&main).expect_err("too deep");
    let message = &found(&problems)[0];
    assert!(message.contains("7.toml:1:12"), "{message}");
    assert!(
        message.contains("conf.d/8.toml\" is the 9th file of which each includes the next"),
        "{message}"
    );

    let large = "#".repeat(9 << 20);
    let files = [("a.toml".to_owned(), large.clone()), ("b.toml".to_owned(), large)];
    let (_folder, main) = folder("conf.d/*.toml", files);
    let problems = config::load(&main).expect_err("too large");
    let message = &found(&problems)[0];
    assert!(
        message.contains("b.toml\", the files together are larger than 16 MiB"),
        "{message}"
    );
    assert!(!problems.to_string().contains("can read"), "{problems}");
}

#[test]
fn every_prefix_and_every_changed_byte_gets_an_answer() {
    let text = include_str!("../config/minimal.toml");
    let answer = |text: &str| match config::parse("changed.toml", text) {
        Ok(_) => true,
        Err(problems) => {
            assert!(problems.to_string().contains("changed.toml"), "{text:?}");
            false
        }
    };
    let shortest = (0..text.len()).find(|end| answer(&text[..*end]));
    let shortest = &text[..shortest.expect("the whole file but its last line end")];
    assert!(shortest.ends_with("address = \"10.0.0.11:1883\""), "{shortest}");
    for (at, _) in text.char_indices() {
        for change in ["", "\"", "[", "=", "\n", "\r", "\t", "\0", "é", "\u{3000}", "{", "0"] {
            answer(&format!("{}{change}{}", &text[..at], &text[at + 1..]));
        }
    }
}
