//! Configurations of other programs: whatever they hold, an error with a place, or a result that this version accepts.

use std::io;
use std::path::{Path, PathBuf};

use remora::config;
use remora::import::{self, Failure, Files, Imported};

/// Files in memory: the bytes that are tried, divided at lines of three equal signs. All but the first can be included, as `1`, `2`, ….
struct Memory<'b> {
    files: Vec<&'b [u8]>,
}

impl<'b> Memory<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        const DIVIDER: &[u8] = b"\n===\n";
        let mut files = Vec::new();
        let mut rest = bytes;
        while let Some(at) = rest.windows(DIVIDER.len()).position(|window| window == DIVIDER) {
            files.push(&rest[..at]);
            rest = &rest[at + DIVIDER.len()..];
        }
        files.push(rest);
        Self { files }
    }
}

impl Files for Memory<'_> {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let number = path.to_str().and_then(|name| name.parse::<usize>().ok());
        let found = number.and_then(|number| self.files.get(number));
        found
            .map(|bytes| bytes.to_vec())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn matching(&self, _folder: &Path, _pattern: &str) -> io::Result<Vec<PathBuf>> {
        Ok((1..self.files.len())
            .map(|number| PathBuf::from(number.to_string()))
            .collect())
    }

    fn folder(&self, path: &Path) -> io::Result<Option<Vec<PathBuf>>> {
        match path.to_str() {
            Some("folder") => Ok(Some(vec![PathBuf::from("a.pem")])),
            _ => Ok(None),
        }
    }
}

pub(crate) fn nginx(bytes: &[u8]) {
    check(bytes, import::nginx);
}

pub(crate) fn haproxy(bytes: &[u8]) {
    check(bytes, import::haproxy);
}

fn check(bytes: &[u8], read: fn(&[PathBuf], &dyn Files) -> Result<Imported, Failure>) {
    match read(&[PathBuf::from("0")], &Memory::new(bytes)) {
        Err(failure) => {
            let shown = failure.to_string();
            assert!(shown.contains("--> "), "no place in {shown}");
        }
        Ok(Imported { toml: None, report }) => {
            assert!(report.has_losses(), "nothing is left, and nothing was lost");
            assert!(!report.to_string().is_empty());
        }
        Ok(Imported {
            toml: Some(toml),
            report,
            ..
        }) => {
            let shown = report.to_string();
            assert_eq!(
                report.has_losses(),
                shown.contains("warning: not carried over"),
                "{shown}"
            );
            accepted(&toml);
        }
    }
}

/// Nothing is wrong with the result but the files and variables that it names, which are not here, or are others.
fn accepted(toml: &str) {
    let Err(problems) = config::parse("result.toml", toml) else {
        return;
    };
    for problem in problems.iter() {
        let mut names = problem.message.split('"').skip(1).step_by(2);
        let is_of_a_file = names.any(|name| Path::new(name).exists());
        assert!(
            is_of_a_file
                || problem.message.contains("cannot be read")
                || problem.message.contains("is not a path")
                || problem.message.ends_with(" is not set"),
            "{problems}\n{toml}"
        );
    }
}
