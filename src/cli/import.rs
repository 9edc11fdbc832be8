//! `remora import`: a configuration of nginx or HAProxy as one of Remora, and a report of what it could not say.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use remora::config::{self, Problem};
use remora::import::{self, Failure, Files, Imported};

use super::{is_coloured, print, print_problems};

/// Something that changes behaviour was not carried over.
const HAS_LOSSES: u8 = 2;

#[derive(Args)]
pub(super) struct Arguments {
    /// The program that the configuration is of.
    program: Program,
    /// Its files, in the order in which it reads them; what they include is read as well. HAProxy's may be folders.
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Program {
    Nginx,
    Haproxy,
}

pub(super) fn command(arguments: &Arguments) -> ExitCode {
    let read: fn(&[PathBuf], &dyn Files) -> Result<Imported, Failure> = match arguments.program {
        Program::Nginx => import::nginx,
        Program::Haproxy => import::haproxy,
    };
    let Imported { toml, report } = match read(&arguments.files, &Disk) {
        Ok(imported) => imported,
        Err(failure) if is_coloured() => {
            eprintln!("{}", failure.coloured());
            return ExitCode::FAILURE;
        }
        Err(failure) => {
            eprintln!("{failure}");
            return ExitCode::FAILURE;
        }
    };
    match is_coloured() {
        true => eprintln!("{}", report.coloured()),
        false => eprintln!("{report}"),
    }
    let Some(toml) = toml else {
        return ExitCode::from(HAS_LOSSES);
    };
    let printed = print(toml.trim_end());
    if printed != ExitCode::SUCCESS {
        return printed;
    }
    match is_fine(&toml) && !report.has_losses() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(HAS_LOSSES),
    }
}

/// Whether `remora check` would accept the result where its files are; prints what it would not.
fn is_fine(toml: &str) -> bool {
    const NAME: &str = "the result";
    let problems = match config::parse(NAME, toml) {
        Ok(config) => config.warnings,
        Err(problems) => problems.iter().cloned().collect(),
    };
    let (of_machine, others): (Vec<_>, Vec<_>) = problems.into_iter().partition(|problem| is_of_machine(problem, toml));
    for problem in &of_machine {
        eprintln!("note: {problem}");
    }
    if !others.is_empty() {
        print_problems(&config::Source::of(NAME, toml).problems(others.clone()));
    }
    !others.iter().any(Problem::refuses)
}

/// Whether a problem is about what is in a file that the result names, or about that file or a variable on this machine.
fn is_of_machine(problem: &Problem, toml: &str) -> bool {
    const KEYS: [&str; 5] = [
        ".certificates[",
        ".client_ca",
        ".client_crl",
        "nodes_tls.ca",
        "nodes_tls.certificate",
    ];
    let value = problem.span.clone().and_then(|span| toml.get(span));
    let has_variable = value.is_some_and(|value| value.contains("${"));
    let is_read = !problem.message.starts_with("is missing") && !problem.message.starts_with("has no effect");
    has_variable || is_read && KEYS.iter().any(|key| problem.path.contains(key))
}

/// Files as they are.
struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        /// More than all files together may have.
        const BYTES_MAX: u64 = 17 << 20;
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn matching(&self, folder: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
        // What is special in a pattern may be in the folder's own name.
        let folder = glob::Pattern::escape(&folder.display().to_string());
        let pattern = Path::new(&folder).join(pattern).display().to_string();
        let found = glob::glob(&pattern).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        found.map(|path| path.map_err(io::Error::from)).collect()
    }

    fn folder(&self, path: &Path) -> io::Result<Option<Vec<PathBuf>>> {
        if !fs::metadata(path)?.is_dir() {
            return Ok(None);
        }
        let paths: io::Result<Vec<PathBuf>> = fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect();
        let mut paths = paths?;
        paths.retain(|path| path.is_file());
        paths.sort();
        Ok(Some(paths))
    }
}
