//! Which configuration a command reads: the one that its arguments name, else the one of the environment, else that of the system.

use std::env;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use remora::config::{self, Loaded, Problems};

/// The variable that names a configuration.
const VARIABLE: &str = "REMORA_CONFIG";

/// Where the configuration is if nothing names one.
const SYSTEM: &str = "/etc/remora/remora.toml";

/// The configuration of a command that takes nothing else.
#[derive(Args)]
pub(super) struct File {
    /// The configuration, in TOML. Without it: $REMORA_CONFIG, then /etc/remora/remora.toml.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same.
    #[arg(short, long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

/// The configuration of a command whose arguments are something else.
#[derive(Args)]
pub(super) struct FileOption {
    /// The configuration, in TOML; "-" is standard input. Without it: $REMORA_CONFIG, then /etc/remora/remora.toml.
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// Where a configuration is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Located {
    /// In a file; whether the variable names it.
    File(PathBuf, bool),
    /// On standard input.
    Input,
}

/// No configuration was named, and there is none at the usual places.
#[derive(Debug)]
pub(super) struct NotFound;

impl File {
    pub(super) fn locate(&self) -> Result<Located, NotFound> {
        locate(self.file.as_deref().or(self.config.as_deref()))
    }
}

impl FileOption {
    pub(super) fn locate(&self) -> Result<Located, NotFound> {
        locate(self.config.as_deref())
    }
}

fn locate(given: Option<&Path>) -> Result<Located, NotFound> {
    match given {
        Some(path) if path == Path::new("-") => return Ok(Located::Input),
        Some(path) => return Ok(Located::File(path.to_owned(), false)),
        None => {}
    }
    if let Some(path) = env::var_os(VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(Located::File(path.into(), true));
    }
    // One that is there and cannot be read is a problem that must be told.
    match Path::new(SYSTEM).symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NotFound),
        _ => Ok(Located::File(SYSTEM.into(), false)),
    }
}

impl Located {
    pub(super) fn load(&self) -> Result<Loaded, Problems> {
        match self {
            Self::File(path, _) => config::load_with_source(path),
            Self::Input => config::read_with_source("<stdin>", io::stdin()),
        }
    }

    /// What names the file, if that is not on the command line.
    pub(super) fn note(&self) -> Option<String> {
        match self {
            Self::File(path, true) => Some(format!("{VARIABLE} names {}", path.display())),
            Self::File(_, false) | Self::Input => None,
        }
    }
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no configuration: no FILE is given (-c FILE), {VARIABLE} is not set, and there is no {SYSTEM}"
        )
    }
}
