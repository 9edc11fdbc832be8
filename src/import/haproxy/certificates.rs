//! The certificates of a `bind`: files, folders of files, and lists of files with options.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use crate::import::environment;
use crate::import::files::{BYTES_MAX, Files};
use crate::import::haproxy::context::Context;
use crate::import::haproxy::syntax::Word;
use crate::import::report::Report;
use crate::import::text::{Place, printable};

/// A chain, its key if that is in another file, and where it is named.
type Certificate = (String, Option<String>, Place);

/// The path of a file, behind `crt-base` or `ca-base`.
pub(super) fn based(base: &str, written: &str, place: Place, report: &mut Report) -> String {
    match base {
        "" => written.to_owned(),
        _ if environment::begins(written) => {
            report.path_of_variable(place);
            written.to_owned()
        }
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
    let path = based(base, written, word.place, &mut context.report);
    if path.contains("${") || path.starts_with('@') || path.is_empty() {
        context.unreadable(word.place, written, "a file");
        return Vec::new();
    }
    let is_folder = written.ends_with('/') || matches!(files.folder(Path::new(&path)), Ok(Some(_)));
    // Of what is in a folder, keys and the rest are told apart as by HAProxy.
    let key = if is_folder { None } else { beside(&path, files) };
    vec![(path, key, word.place)]
}

/// The certificates of a `crt-list`: on each line a file, perhaps options in brackets, and the server names that it is for.
pub(super) fn of_list(
    written: &str,
    base: &str,
    word: &Word,
    files: &dyn Files,
    context: &mut Context,
) -> Vec<Certificate> {
    const ADVICE: &str =
        "write each of its files to `certificates` of the listener: they are used for the names in them";
    let name = printable(written);
    let bytes = files.read(Path::new(written)).ok();
    let text = bytes
        .filter(|bytes| bytes.len() <= BYTES_MAX)
        .and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(text) = text else {
        match written {
            "" => context.unreadable(word.place, written, "a list of certificates"),
            _ => {
                let message = format!("{name} is a list of certificates that cannot be read here");
                context.report.lost(word.place, message, ADVICE);
            }
        }
        return Vec::new();
    };
    // A private key may be in it, so no line of it is shown.
    if text.contains("-----BEGIN") {
        let message = format!("{name} is a certificate and no list");
        context.report.lost(
            word.place,
            message,
            "name it by crt and not by crt-list, and import again",
        );
        return Vec::new();
    }
    let mut found: Vec<Certificate> = Vec::new();
    // What is wrong and what to do, with the first line where it is: a list may have thousands.
    let mut lost: BTreeMap<(String, &str), usize> = BTreeMap::new();
    let mut filtered = None;
    let mut known = HashSet::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (path, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim_start();
        let (options, names) = match rest.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((options, names))) => (options, names),
            Some(None) => {
                let message = "a bracket is not closed, so the line is left out".to_owned();
                lost.entry((message, ADVICE)).or_insert(number);
                continue;
            }
            None => ("", rest),
        };
        for option in lost_options(options) {
            let message = format!("{option} holds for one certificate alone");
            let advice = "write it to the listener if it may hold for all of its certificates, or give this certificate a listener of its own";
            lost.entry((message, advice)).or_insert(number);
        }
        filtered = filtered.or((!names.trim().is_empty()).then_some(number));
        let has_dollar = path.contains("${") || environment::is_in(path);
        let path = based(base, path, word.place, &mut context.report);
        if has_dollar || path.starts_with(['@', '[']) {
            let message = "the line names no file, so it is left out".to_owned();
            lost.entry((message, ADVICE)).or_insert(number);
        } else if known.insert(path.clone()) {
            let key = beside(&path, files);
            found.push((path, key, word.place));
        }
    }
    for ((message, advice), number) in lost {
        context
            .report
            .lost(word.place, format!("{name}:{number}: {message}"), advice);
    }
    context.report.differs(
        word.place,
        format!(
            "{name} is a list, and its files are listed as they are now: {}",
            found.len()
        ),
        "a certificate that comes later must be added to `certificates`",
    );
    if let Some(number) = filtered {
        context.report.differs(
            word.place,
            format!("{name}:{number}: a certificate is used for the names in it, and not for those of the list"),
            "look whether each certificate has the names of its line",
        );
    }
    found
}

/// The options of a line of a list that change what clients get. Values of options are ignored.
fn lost_options(options: &str) -> impl Iterator<Item = &str> {
    const KNOWN: [&str; 14] = [
        "verify",
        "ca-file",
        "ca-verify-file",
        "crl-file",
        "ciphers",
        "ciphersuites",
        "ssl-min-ver",
        "ssl-max-ver",
        "no-tlsv12",
        "no-tlsv13",
        "no-ca-names",
        "ca-ignore-err",
        "crt-ignore-err",
        "client-sigalgs",
    ];
    options.split_whitespace().filter(|word| KNOWN.contains(word))
}

/// The key beside a file.
fn beside(path: &str, files: &dyn Files) -> Option<String> {
    let key = format!("{path}.key");
    // Which file a variable leads to is not known here.
    (!environment::is_in(path) && files.read(Path::new(&key)).is_ok()).then_some(key)
}
