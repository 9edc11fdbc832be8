//! Every input of the fuzzers' corpus, through the same checks: what was once worth trying is tried at every change.

use std::fs;
use std::path::{Path, PathBuf};

mod checks;

/// The files of `directories`, which lie in the repository.
fn files(directories: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<PathBuf> = directories
        .iter()
        .flat_map(|directory| fs::read_dir(root.join(directory)).expect("a directory"))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .collect();
    files.sort();
    files
}

/// Puts every file of `directories` through `check`, by itself and cut short at every 64th of its length.
fn replay(directories: &[&str], at_least: usize, check: fn(&[u8])) {
    let files = files(directories);
    assert!(files.len() >= at_least, "only {} files", files.len());
    for file in files {
        let bytes = fs::read(&file).expect("a file");
        let lengths = (0..64).map(|part| bytes.len() * part / 64);
        for length in lengths.chain([bytes.len()]) {
            let checked = std::panic::catch_unwind(|| check(&bytes[..length]));
            assert!(checked.is_ok(), "{}, its first {length} bytes", file.display());
        }
    }
}

#[test]
fn a_clients_first_bytes() {
    replay(&["fuzz/corpus/connect"], 160, checks::connect);
}

#[test]
fn a_nodes_first_bytes() {
    replay(&["fuzz/corpus/connack"], 60, checks::connack);
}

#[test]
fn websocket_frames() {
    replay(&["fuzz/corpus/frames"], 21, checks::frames);
}

#[test]
fn framing_both_ways() {
    replay(&["fuzz/corpus/framing"], 12, checks::framing::framing);
}

#[test]
fn requests_for_an_upgrade() {
    replay(&["fuzz/corpus/upgrade"], 20, checks::heads::request);
}

#[test]
fn answers_to_a_request_for_an_upgrade() {
    replay(&["fuzz/corpus/switching"], 15, checks::heads::response);
}

#[test]
fn client_hellos() {
    replay(&["fuzz/corpus/hello"], 12, checks::hello::hello);
}

#[test]
fn the_account_of_held_bytes() {
    replay(&["fuzz/corpus/held"], 9, checks::held::held);
}

#[test]
fn messages_of_a_handover() {
    replay(&["fuzz/corpus/handover"], 350, checks::handover::handover);
}

#[test]
fn proxy_headers() {
    replay(&["fuzz/corpus/proxy"], 19, checks::proxy_header);
}

#[test]
fn configurations() {
    let directories = ["fuzz/corpus/config", "tests/config", "config"];
    replay(&directories, 400, checks::config);
}

#[test]
fn configurations_of_nginx() {
    let directories = [
        "fuzz/corpus/import_nginx",
        "tests/import/nginx",
        "tests/import/bad-nginx",
    ];
    replay(&directories, 60, checks::import::nginx);
}

#[test]
fn configurations_of_haproxy() {
    let directories = [
        "fuzz/corpus/import_haproxy",
        "tests/import/haproxy",
        "tests/import/bad-haproxy",
    ];
    replay(&directories, 60, checks::import::haproxy);
}
