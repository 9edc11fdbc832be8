//! The certificates of a `bind`: files, and folders of files.

use std::path::Path;

use crate::import::files::Files;
use crate::import::haproxy::context::Context;
use crate::import::haproxy::syntax::Word;
use crate::import::text::{Place, printable};

/// A chain, its key if that is in another file, and where it is named.
type Certificate = (String, Option<String>, Place);

/// The path of a file, behind `crt-base` or `ca-base`.
pub(super) fn based(base: &str, written: &str) -> String {
    match base {
        "" => written.to_owned(),
        base => Path::new(base).join(written).display().to_string(),
    }
}

/// The certificates of `crt`: a file with chain and key, the same with the key beside it, or a folder of files.
pub(super) fn of_crt(
    written: &str,
    base: &str,
    word: &Word,
    files: &dyn Files,
    context: &mut Context,
) -> Vec<Certificate> {
    let path = based(base, written);
    if path.contains("${") || path.starts_with('@') || path.is_empty() {
        context.unreadable(word.place, written, "a file");
        return Vec::new();
    }
    match files.folder(Path::new(&path)) {
        Ok(Some(inside)) => {
            let is_certificate = |path: &&std::path::PathBuf| {
                let extension = path
                    .extension()
                    .and_then(|extension| extension.to_str())
                    .unwrap_or_default();
                !["key", "ocsp", "issuer", "sctl", "dh"].contains(&extension)
            };
            let found: Vec<_> = inside
                .iter()
                .filter(is_certificate)
                .map(|path| {
                    let path = path.display().to_string();
                    let key = beside(&path, files);
                    (path, key, word.place)
                })
                .collect();
            context.report.differs(
                word.place,
                format!(
                    "{} is a folder: the {} files that are in it now are listed",
                    printable(&path),
                    found.len()
                ),
                "a certificate that comes later must be added to `certificates`",
            );
            found
        }
        Ok(None) | Err(_) if written.ends_with('/') => {
            context.report.lost(
                word.place,
                format!("{} is a folder that cannot be read here", printable(&path)),
                "list its files in `certificates`",
            );
            Vec::new()
        }
        Ok(None) | Err(_) => {
            let key = beside(&path, files);
            vec![(path, key, word.place)]
        }
    }
}

/// The key beside a file.
fn beside(path: &str, files: &dyn Files) -> Option<String> {
    let key = format!("{path}.key");
    files.read(Path::new(&key)).is_ok().then_some(key)
}
