//! `remora --version`: what this program was built from, and with `--verbose` also what it finds on this machine.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;

use rustix::pipe::{PipeFlags, SpliceFlags};
use rustix::process::{Resource, getrlimit};

use remora::admin;
use remora::base::build;

use super::columns;

/// One line: version, commit, TLS library, target.
pub(super) fn line() -> String {
    let date = match build::COMMIT_DATE {
        "" => String::new(),
        date => format!(" {date}"),
    };
    format!(
        "remora {} ({}{date}) {} {}",
        build::VERSION,
        build::COMMIT,
        build::TLS,
        build::TARGET
    )
}

/// The line, and everything that a report of a problem should contain.
pub(super) fn details() -> String {
    let features = [
        ("ring", cfg!(feature = "ring")),
        ("aws-lc-rs", cfg!(feature = "aws-lc-rs")),
        ("failpoints", cfg!(feature = "failpoints")),
        ("shuttle", cfg!(feature = "shuttle")),
    ];
    let features: Vec<_> = features
        .iter()
        .filter(|(_, is_on)| *is_on)
        .map(|(name, _)| *name)
        .collect();
    let read = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        match text.trim() {
            "" => "unknown".to_owned(),
            text => text.to_owned(),
        }
    };
    let cpus = std::thread::available_parallelism().map_or_else(|_| "unknown".to_owned(), |count| count.to_string());
    let rows = [
        ("commit", build::COMMIT.to_owned()),
        ("compiler", build::RUSTC.to_owned()),
        ("target", build::TARGET.to_owned()),
        (
            "profile",
            format!("{}, optimization level {}", build::PROFILE, build::OPT_LEVEL),
        ),
        ("features", features.join(" ")),
        ("TLS library", build::TLS.to_owned()),
        ("allocator", "mimalloc".to_owned()),
        ("kernel", read("/proc/sys/kernel/osrelease")),
        ("processors", cpus),
        ("splice", splice()),
        ("open files", open_files()),
        (
            "pipe pages",
            format!(
                "{} for a user without privileges",
                read("/proc/sys/fs/pipe-user-pages-soft")
            ),
        ),
        ("backlog", format!("{} at most", read("/proc/sys/net/core/somaxconn"))),
        (
            "configuration",
            "the file that --config names; /etc/remora/remora.toml in the unit file and the container".to_owned(),
        ),
        (
            "admin listener",
            format!("{} unless configured", admin::ADDRESS_DEFAULT),
        ),
        (
            "temporary files",
            format!("{} (demo only)", std::env::temp_dir().display()),
        ),
    ];
    let rows: Vec<_> = rows.map(|(name, value)| vec![name.to_owned(), value]).into();
    format!("{}\n\n{}", line(), columns("  ", &rows))
}

/// Whether bytes of a socket can be spliced, which is tried: a sandbox may forbid the system call.
fn splice() -> String {
    let tried = || -> std::io::Result<usize> {
        let (mut one, other) = UnixStream::pair()?;
        let (_read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        one.write_all(b"x")?;
        Ok(rustix::pipe::splice(
            other,
            None,
            write,
            None,
            1,
            SpliceFlags::NONBLOCK,
        )?)
    };
    match tried() {
        Ok(1) => "works".to_owned(),
        Ok(_) => "does not work: nothing was moved".to_owned(),
        Err(error) => format!("does not work: {error}"),
    }
}

/// The open-file limit of a process that is started here.
fn open_files() -> String {
    let limit = getrlimit(Resource::Nofile);
    let text = |value: Option<u64>| value.map_or_else(|| "unlimited".to_owned(), |value| value.to_string());
    format!("{} (hard limit {})", text(limit.current), text(limit.maximum))
}
