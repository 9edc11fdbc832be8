//! What surrounds a balancer in the field while another process takes over: links to programs.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use tempfile::TempDir;

use crate::balancer::{ADMIN, Program};
use crate::cluster::Cluster;
use crate::pair::Pair;

/// The program of this repository.
const REMORA: &str = env!("CARGO_BIN_EXE_remora");

#[test]
fn an_upgrade_starts_what_a_link_leads_to_now() {
    let folder = TempDir::new().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for version in ["v1", "v2"] {
        fs::copy(REMORA, at(version)).expect("a copy");
    }
    symlink("v1", at("remora")).expect("a link");
    let cluster = Cluster::of(1);
    let toml = crate::balancer::toml(&cluster, "", ADMIN);
    let mut program = Program::by(Command::new(at("remora")), &toml);
    let mut pair = Pair::accepted(&cluster, &program, "stays");
    let runs = |program: &Program| fs::read_link(format!("/proc/{}/exe", program.process())).expect("it runs");
    for version in ["v2", "v1"] {
        symlink(version, at("new")).expect("a link");
        fs::rename(at("new"), at("remora")).expect("renamed");
        assert_eq!(program.try_upgrade(&["--or-reload"]).1["step"], "done");
        assert_eq!(runs(&program), at(version));
        pair.talks(version);
    }
}
