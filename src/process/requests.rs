//! What the API requests of the owner of the process: to read the configuration again, to drain and end, both in the same way as for a
//! signal; and to have another process take over.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};

use crate::admin::api::answers::UpgradeStep;
use crate::config::Problems;

/// A request to the owner of the process.
#[derive(Debug)]
pub enum Request {
    /// To read the configuration again.
    Reload(oneshot::Sender<Result<Reloaded, NotReloaded>>),
    /// To drain, then end.
    Drain,
    /// To start a process that takes over.
    Upgrade(Upgrade),
}

/// A request for a process that takes over.
#[derive(Debug)]
pub struct Upgrade {
    /// The program, if it is not that of this process.
    pub binary: Option<PathBuf>,
    /// Where to say how far it is.
    pub steps: mpsc::Sender<UpgradeStep>,
}

/// The program that this process was started from.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
}

impl Program {
    /// That of this process. To be called at its start: the name is not known any more once another file has it.
    ///
    /// # Errors
    /// The system does not say.
    pub fn of_this_process() -> io::Result<Self> {
        Ok(Self {
            path: std::env::current_exe()?,
        })
    }

    /// Where it was.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another file is there now. A program cannot be written to while it runs, so that another one is another file.
    pub fn is_another(&self) -> bool {
        let file = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
        match (file(Path::new("/proc/self/exe")), file(&self.path)) {
            (Ok(running), Ok(there)) => running != there,
            // Nothing is there that could be started.
            _ => false,
        }
    }
}

/// Why a configuration was not taken. Nothing has changed.
#[derive(Debug)]
pub struct NotReloaded {
    /// In a line.
    pub why: String,
    /// The problems of the file, if it has any.
    pub problems: Option<Problems>,
}

/// The result of a reload.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Keys whose change needs a restart; the old values stay in force.
    pub restart: Vec<&'static str>,
}
