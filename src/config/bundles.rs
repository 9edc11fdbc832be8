//! Folders of certificates: each file in one is a chain with its key, or has its key beside it, as HAProxy takes them.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use super::file;
use super::problem::{Place, Problem};
use super::reader::{Field, NamedFile, Spanned, quoted};
use super::tls::CertificateFiles;

/// Extensions of files beside certificates.
const BESIDE: [&str; 5] = ["key", "ocsp", "issuer", "sctl", "dh"];

/// Puts the files of each folder that `certificates` names in its place.
pub(super) fn list(listeners: &mut Field<Vec<Spanned<file::Listener>>>, problems: &mut Vec<Problem>) {
    let Field::Set(listeners) = listeners else {
        return;
    };
    for listener in &mut listeners.value {
        let certificates = &mut listener.value.certificates;
        if let Field::Set(Spanned { value, place }) = certificates {
            match listed(mem::take(value), place) {
                Ok(pairs) => *value = pairs,
                Err(problem) => {
                    problems.push(*problem);
                    *certificates = Field::Invalid;
                }
            }
        }
    }
}

fn listed(
    written: Vec<Spanned<CertificateFiles>>,
    list: &Place,
) -> Result<Vec<Spanned<CertificateFiles>>, Box<Problem>> {
    let mut pairs: Vec<Spanned<CertificateFiles>> = Vec::with_capacity(written.len());
    let mut of_folder = Vec::new();
    for pair in written {
        let folder = match (&pair.value.chain, &pair.value.key) {
            (Field::Set(chain), Field::Absent) if chain.value.path.is_dir() => chain,
            _ => {
                pairs.push(pair);
                continue;
            }
        };
        let shown = quoted(&folder.value.written);
        let refuse = |message: String| {
            let hint = "put PEM files there, each with a chain and its key, or with the key beside it in FILE.key";
            Box::new(folder.place.problem(message).hint(hint))
        };
        let files = files(&folder.value.path).map_err(|error| refuse(format!("{shown} cannot be read: {error}")))?;
        if files.is_empty() {
            return Err(refuse(format!("there is no certificate in the folder {shown}")));
        }
        for file in files {
            of_folder.push(pairs.len());
            pairs.push(bundle(file, folder, &pair.place));
        }
    }
    // Their places in the list are those of what is used.
    if !of_folder.is_empty() {
        for (index, pair) in pairs.iter_mut().enumerate() {
            renumber(pair, &format!("{}[{index}]", list.path));
        }
    }
    Ok(pairs)
}

/// The chain in `path` of a folder, and its key.
fn bundle(path: PathBuf, folder: &Spanned<NamedFile>, table: &Place) -> Spanned<CertificateFiles> {
    let named = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default();
        let written = Path::new(&folder.value.written).join(name).display().to_string();
        Field::Set(Spanned {
            value: NamedFile {
                written,
                path,
                is_of_folder: true,
            },
            place: folder.place.clone(),
        })
    };
    let mut key = path.clone().into_os_string();
    key.push(".key");
    let key = PathBuf::from(key);
    Spanned {
        value: CertificateFiles {
            key: if key.exists() { named(key) } else { Field::Absent },
            chain: named(path),
        },
        place: table.clone(),
    }
}

fn renumber(pair: &mut Spanned<CertificateFiles>, path: &str) {
    path.clone_into(&mut pair.place.path);
    for (field, key) in [(&mut pair.value.chain, "chain"), (&mut pair.value.key, "key")] {
        if let Field::Set(field) = field {
            field.place.path = format!("{path}.{key}");
        }
    }
}

/// The files that hold certificates, in the order of their names.
fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        if !is_hidden && !BESIDE.contains(&extension) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
