//! Configurations of several files: read anew at each reload, whole or not at all.

use std::fs;
use std::path::PathBuf;

use crate::balancer::{Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::packets::Connect;

const INCLUDE: &str = "include = [\"conf.d/*.toml\"]\n";

/// The folder of a program's included files.
fn folder_of(program: &Program) -> PathBuf {
    program.path().with_file_name("conf.d")
}

#[test]
fn a_reload_reads_included_files_and_files_in_strings_anew() {
    let cluster = Cluster::of(1);
    let main = toml(&cluster, "", "");
    let program = Program::of(&main);
    let folder = folder_of(&program);
    fs::create_dir(&folder).expect("a folder");
    let listener = |port: &str| format!("[[listeners]]\nname = 'more'\naddress = \"127.0.0.3:{port}\"\n");
    fs::write(folder.join("port"), "0\n").expect("a file");
    fs::write(folder.join("10.toml"), listener("${file:port}")).expect("a file");
    let main = format!("{INCLUDE}{main}");
    let [first, more] = program.reload(&main)[..] else {
        panic!("two listeners");
    };
    assert_eq!(first, program.address);
    Client::accepted(more, &Connect::new("a"));

    // Another address by the file that a string names, and no other change.
    fs::write(
        folder.join("10.toml"),
        listener("${file:port}").replace("127.0.0.3", "127.0.0.2"),
    )
    .expect("a file");
    let [_, moved] = program.reload(&main)[..] else {
        panic!("two listeners");
    };
    assert_eq!(moved.ip().to_string(), "127.0.0.2");
    Client::accepted(moved, &Connect::new("b"));

    // A mistake in a file that is included changes nothing, and is logged with its place.
    fs::write(folder.join("20.toml"), "\n[limits]\nundecided = 0\n").expect("a file");
    program.reload_in_vain(&main);
    Client::accepted(moved, &Connect::new("c"));
    let place = format!("{}:3:13", folder.join("20.toml").display());
    let told = program.lines(|line| line["file"] == *place);
    assert_eq!(told.len(), 1, "{place}");

    // So does a variable that is not there.
    fs::write(folder.join("20.toml"), "[log]\nfile = \"${REMORA_TEST_UNSET}\"\n").expect("a file");
    program.reload_in_vain(&main);
    Client::accepted(moved, &Connect::new("d"));

    // What is not included any more is gone.
    fs::remove_file(folder.join("20.toml")).expect("a file");
    fs::remove_file(folder.join("10.toml")).expect("a file");
    assert_eq!(program.reload(&main), [program.address]);
}
