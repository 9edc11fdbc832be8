//! Configurations that were cut, mixed and changed: an error, or a result that `check` accepts, and never a panic.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::checks::import as checks;
use super::root;

/// The texts of all cases of a program.
fn samples(program: &str, extension: &str) -> Vec<Vec<u8>> {
    let folders = [program.to_owned(), format!("bad-{program}")];
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(root().join(folder)).expect("a folder"));
    let mut paths: Vec<_> = files.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    let is_one = |path: &std::path::PathBuf| path.extension().is_some_and(|found| found == extension);
    let text = |path: std::path::PathBuf| {
        let text = fs::read(&path).expect("a file");
        // A list beside it is the second file in memory.
        match fs::read(path.with_extension("txt")) {
            Ok(list) => {
                let name = path.with_extension("txt");
                let name = name.file_name().and_then(|name| name.to_str()).expect("UTF-8");
                let text = String::from_utf8(text).expect("UTF-8").replace(name, "1");
                [text.as_bytes(), b"\n===\n", &list].concat()
            }
            Err(_) => text,
        }
    };
    let texts = paths.into_iter().filter(is_one).map(text);
    // The long ones are lists of a thousand servers.
    texts.filter(|text| text.len() < 6_000).collect()
}

/// One change of a text.
#[derive(Clone, Debug)]
enum Change {
    Cut(usize),
    Remove(usize, usize),
    Insert(usize, Vec<u8>),
    /// A line from another place.
    Copy(usize, usize),
    /// A word from another place, instead of the one here.
    Swap(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let mark = prop::sample::select(vec![
        "{", "}", ";", "\"", "'", "#", "\\", "$", "${A}", "\n", " ", "0", "-1", ":", "[", "é", "\u{0}", "if", "from",
    ]);
    prop_oneof![
        any::<usize>().prop_map(Change::Cut),
        (any::<usize>(), 0usize..40).prop_map(|(at, length)| Change::Remove(at, length)),
        (any::<usize>(), mark).prop_map(|(at, mark)| Change::Insert(at, mark.as_bytes().to_vec())),
        (any::<usize>(), vec(any::<u8>(), 1..4)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Change::Copy(from, to)),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Change::Swap(from, to)),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Change::Swap(from, to)),
    ]
}

/// Where each part of a text begins and ends.
fn parts(text: &[u8], ends: impl Fn(&u8) -> bool) -> Vec<(usize, usize)> {
    let mut start = 0;
    let pieces = text.split_inclusive(ends).map(|part| {
        start += part.len();
        (start - part.len(), start)
    });
    pieces.collect()
}

fn changed(text: &[u8], change: &Change) -> Vec<u8> {
    let mut text = text.to_vec();
    match change {
        Change::Cut(at) => text.truncate(at % (text.len() + 1)),
        Change::Remove(at, length) => {
            let at = at % (text.len() + 1);
            text.drain(at..(at + length).min(text.len()));
        }
        Change::Insert(at, bytes) => {
            let at = at % (text.len() + 1);
            text.splice(at..at, bytes.iter().copied());
        }
        Change::Copy(from, to) | Change::Swap(from, to) => {
            let is_swap = matches!(change, Change::Swap(..));
            let pieces = parts(&text, |byte| {
                if is_swap {
                    b" ;\n".contains(byte)
                } else {
                    *byte == b'\n'
                }
            });
            if pieces.is_empty() {
                return text;
            }
            let (start, end) = pieces[from % pieces.len()];
            let piece = text[start..end].to_vec();
            let (start, end) = pieces[to % pieces.len()];
            text.splice(start..if is_swap { end } else { start }, piece);
        }
    }
    text
}

fn all(samples: &[Vec<u8>], (which, other, changes): (usize, usize, Vec<Change>), check: fn(&[u8])) {
    let mut text = samples[which % samples.len()].clone();
    // Words and lines of another file as well.
    if other % 3 == 0 {
        text.push(b'\n');
        text.extend(&samples[other % samples.len()]);
    }
    for change in &changes {
        text = changed(&text, change);
    }
    check(&text);
}

fn inputs() -> impl Strategy<Value = (usize, usize, Vec<Change>)> {
    (any::<usize>(), any::<usize>(), vec(change(), 0..8))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        rng_seed: seed(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn changed_configurations_of_nginx_are_refused_or_make_a_result_that_is_accepted(input in inputs()) {
        all(&samples("nginx", "conf"), input, checks::nginx);
    }

    #[test]
    fn changed_configurations_of_haproxy_are_refused_or_make_a_result_that_is_accepted(input in inputs()) {
        all(&samples("haproxy", "cfg"), input, checks::haproxy);
    }
}

/// How many are asked for, and then others each time.
fn asked() -> Option<u32> {
    std::env::var("PROPTEST_CASES").ok()?.parse().ok()
}

fn cases() -> u32 {
    asked().unwrap_or(300)
}

/// The same inputs each time, so that a change fails for what it changes; `PROPTEST_CASES` and the fuzzers look for more.
fn seed() -> RngSeed {
    asked().map_or(RngSeed::Fixed(1883), |_| RngSeed::Random)
}

#[test]
fn every_prefix_of_every_case_gets_an_answer() {
    for (program, extension, check) in [
        ("nginx", "conf", checks::nginx as fn(&[u8])),
        ("haproxy", "cfg", checks::haproxy),
    ] {
        for text in samples(program, extension) {
            for length in (0..text.len()).step_by(7) {
                check(&text[..length]);
            }
        }
    }
}
