//! Which process answers: its number and the file of its configuration, as fields of the answer at `/readyz`. Several balancers of one
//! machine may have the same admin address configured, and only one of them has it.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

use super::percent::{escaped, unescaped};

const CONFIGURATION: HeaderName = HeaderName::from_static("remora-configuration");
const PID: HeaderName = HeaderName::from_static("remora-pid");

/// Which process answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number, in its own namespace of processes.
    pub pid: u32,
    /// The file of its configuration, by the absolute path that it was started with; `None` if it has no file, as the demo.
    pub configuration: Option<PathBuf>,
}

impl Identity {
    /// This process, with this file.
    pub(super) fn of_this_process(configuration: Option<PathBuf>) -> Self {
        Self {
            pid: std::process::id(),
            configuration,
        }
    }

    /// Whether this is the process of the configuration in `file`.
    ///
    /// The same path is enough, since a file may be replaced, or be a link that leads elsewhere by now (as the files of a ConfigMap of
    /// Kubernetes). Two paths of one file are enough as well.
    pub fn is_of(&self, file: &Path) -> bool {
        let Some(configuration) = &self.configuration else {
            return false;
        };
        let absolute = std::path::absolute(file);
        let is_same_file = || match (fs::canonicalize(configuration), fs::canonicalize(file)) {
            (Ok(one), Ok(other)) => one == other,
            _ => false,
        };
        absolute.is_ok_and(|file| file == *configuration) || is_same_file()
    }

    pub(super) fn write(&self, fields: &mut HeaderMap) {
        fields.insert(PID, HeaderValue::from(self.pid));
        let path = self
            .configuration
            .as_ref()
            .map(|path| escaped(path.as_os_str().as_bytes()));
        if let Some(path) = path.and_then(|path| HeaderValue::from_str(&path).ok()) {
            fields.insert(CONFIGURATION, path);
        }
    }

    pub(super) fn read(fields: &HeaderMap) -> Option<Self> {
        let text = |name| fields.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        Some(Self {
            pid: text(PID)?.parse().ok()?,
            configuration: text(CONFIGURATION).map(|path| PathBuf::from(unescaped(path))),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn identity(path: &Path) -> Identity {
        Identity::of_this_process(Some(path.to_owned()))
    }

    #[test]
    fn every_path_survives_the_fields_of_an_answer() {
        let strange = OsString::from_vec(b"/etc/\xff 100%/\n\xc3\xa9.toml".to_vec());
        for path in ["/etc/remora/remora.toml".into(), strange, "/%41".into()] {
            let sent = identity(Path::new(&path));
            let mut fields = HeaderMap::new();
            sent.write(&mut fields);
            assert_eq!(Identity::read(&fields), Some(sent));
        }
        let without = Identity::of_this_process(None);
        let mut fields = HeaderMap::new();
        without.write(&mut fields);
        assert_eq!(Identity::read(&fields), Some(without));
        assert_eq!(Identity::read(&HeaderMap::new()), None, "another program's answer");
    }

    #[test]
    fn a_process_is_of_its_file_by_every_path_and_of_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["one.toml", "two.toml"] {
            fs::write(at(name), "").expect("written");
        }
        std::os::unix::fs::symlink(at("one.toml"), at("link.toml")).expect("a link");
        let one = identity(&at("one.toml"));
        for path in [at("one.toml"), at("link.toml"), at("./one.toml"), at("x/../one.toml")] {
            let is_there = path.exists();
            assert_eq!(one.is_of(&path), is_there, "{}", path.display());
        }
        assert!(!one.is_of(&at("two.toml")));
        assert!(!Identity::of_this_process(None).is_of(&at("one.toml")));
        // A link that leads elsewhere by now, as when a ConfigMap has changed.
        let linked = identity(&at("link.toml"));
        fs::remove_file(at("link.toml")).expect("removed");
        std::os::unix::fs::symlink(at("two.toml"), at("link.toml")).expect("a link");
        assert!(linked.is_of(&at("link.toml")));
        // A file that is gone is still the same configuration.
        fs::remove_file(at("one.toml")).expect("removed");
        assert!(one.is_of(&at("one.toml")));
    }
}
