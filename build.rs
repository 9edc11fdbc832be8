//! Tells the program what it was built from and by: the commit, the compiler, the target, the profile.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for name in ["REMORA_COMMIT", "REMORA_COMMIT_DATE"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let (commit, date) = from_git()
        .or_else(from_environment)
        .or_else(from_package)
        .unwrap_or_else(|| ("unknown".to_owned(), String::new()));
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let rustc = run(&variable("RUSTC"), &["--version"]).unwrap_or_default();
    for (name, value) in [
        ("COMMIT", commit),
        ("COMMIT_DATE", date),
        ("TARGET", variable("TARGET")),
        ("PROFILE", variable("PROFILE")),
        ("OPT_LEVEL", variable("OPT_LEVEL")),
        ("RUSTC", rustc),
    ] {
        println!("cargo::rustc-env=REMORA_BUILD_{name}={value}");
    }
}

/// The commit that is checked out here, and its date.
fn from_git() -> Option<(String, String)> {
    // A package that was unpacked into the repository of another project has another commit.
    if !Path::new(".git").exists() {
        return None;
    }
    let shown = git(&["log", "-1", "--no-show-signature", "--abbrev=10", "--format=%h %cs"])?;
    let (commit, date) = shown.split_once(' ')?;
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    // The branch changes with each commit, HEAD with the branch. A path that does not exist would be a change each time.
    for place in ["HEAD", "logs/HEAD", "packed-refs"]
        .into_iter()
        .chain(branch.as_deref())
    {
        if let Some(path) = git(&["rev-parse", "--git-path", place]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    Some((commit.to_owned(), date.to_owned()))
}

/// What a build without a repository says of itself, such as one in a container.
fn from_environment() -> Option<(String, String)> {
    let commit = env::var("REMORA_COMMIT").ok().filter(|commit| !commit.is_empty())?;
    Some((commit, env::var("REMORA_COMMIT_DATE").unwrap_or_default()))
}

/// What `cargo package` has left beside the sources.
fn from_package() -> Option<(String, String)> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\"")?;
    let commit = rest.split('"').nth(1)?;
    Some((commit.get(..10)?.to_owned(), String::new()))
}

fn git(arguments: &[&str]) -> Option<String> {
    run("git", arguments)
}

/// What a command prints, if it succeeds and prints anything.
fn run(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
