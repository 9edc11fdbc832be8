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
        let file = std::env::current_exe()?;
        // A link that is set to another version leads to that one; the file that it leads to now does not.
        let named = std::env::args_os()
            .next()
            .and_then(|name| named(Path::new(&name), &file));
        Ok(Self {
            path: named.unwrap_or(file),
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

/// Where a program that was started by this name was found, if that leads to this file.
fn named(name: &Path, file: &Path) -> Option<PathBuf> {
    let is_this = |path: &Path| {
        let file_of = |path: &Path| fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        file_of(path).is_some_and(|found| Some(found) == file_of(file))
    };
    let found = match name.parent() {
        // Without a slash, it was looked for.
        Some(folder) if folder.as_os_str().is_empty() => {
            let folders = std::env::var_os("PATH")?;
            std::env::split_paths(&folders)
                .map(|folder| folder.join(name))
                .find(|path| is_this(path))?
        }
        _ => name.to_owned(),
    };
    std::path::absolute(found).ok().filter(|path| is_this(path))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_program_is_where_its_name_leads_and_elsewhere_if_that_leads_to_another_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("v1"), "one").expect("a file");
        fs::write(at("v2"), "two").expect("a file");
        symlink("v1", at("link")).expect("a link");
        assert_eq!(named(&at("link"), &at("v1")), Some(at("link")));
        assert_eq!(named(&at("v1"), &at("v1")), Some(at("v1")));
        assert_eq!(named(&at("link"), &at("v2")), None);
        assert_eq!(named(Path::new("/no/such/program"), &at("v1")), None);
        assert_eq!(named(Path::new("no-such-program-on-the-path"), &at("v1")), None);
        assert_eq!(named(Path::new(""), &at("v1")), None);
    }
}
