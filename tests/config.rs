//! Configurations that are refused: each file in `tests/config` says in its lines after `#!` which problems it has, with
//! line, column and what would do, and every one of them must be found in one go.

use std::fs;
use std::path::{Path, PathBuf};

use remora::config::{self, Problems};

/// The files of `tests/config`; a test over files says how many it saw.
const FILES: usize = 66;

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let entries = fs::read_dir(directory).expect("a directory");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files
}

/// What the file says about itself: `#! LINE:COLUMN problem` and below it `#! help: hint`.
fn expected(file: &Path) -> Vec<String> {
    let bytes = fs::read(file).expect("a file");
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter_map(|line| line.strip_prefix("#! "));
    lines.map(str::to_owned).collect()
}

/// What was found, in the same form.
fn found(problems: &Problems) -> Vec<String> {
    let mut lines = Vec::new();
    for problem in problems.iter() {
        let position = problems.position(problem);
        let position = position.map_or("-".to_owned(), |p| format!("{}:{}", p.line, p.column));
        lines.push(format!("{position} {problem}"));
        // Hints may name files of this machine.
        let here = |hint: &String| hint.replace(env!("CARGO_MANIFEST_DIR"), "ROOT");
        lines.extend(problem.hint.iter().map(|hint| format!("help: {}", here(hint))));
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
