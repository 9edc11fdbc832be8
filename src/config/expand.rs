//! Variables of the environment and files that strings name: `${NAME}`, `${file:/path}`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::reader::{Mismatch, quoted};

/// More than any address, name or path has: of a variable, of a file, and of a string that is made of them.
const BYTES_MAX: usize = 64 << 10;

/// What precedes the path of a file.
const FILE: &str = "file:";

/// Looks up a variable of the environment.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// A string, and what it is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    pub(super) value: String,
    /// The variables and files that it names, as they are written.
    pub(super) references: Vec<String>,
}

/// A reference that stands for nothing.
#[derive(Debug)]
pub(super) struct Unresolved {
    /// As it is written, from its `$` on.
    pub(super) reference: String,
    pub(super) why: Mismatch,
}

/// Replaces what `text` names; `$${` is `${` itself. Relative paths start in `folder`. `None` if there is nothing to replace.
pub(super) fn expand(text: &str, folder: &Path, variables: Variables<'_>) -> Result<Option<Expanded>, Unresolved> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut value = String::with_capacity(text.len());
    let mut references = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            value.push_str(escaped);
            value.push_str("${");
            rest = &reference["${".len()..];
            continue;
        }
        value.push_str(before);
        let unresolved = |reference: &str, message: String, hint: &str| Unresolved {
            reference: reference.to_owned(),
            why: Mismatch::new(message, hint),
        };
        let Some(end) = reference.find('}') else {
            let message = format!("{} has no end", quoted(reference));
            return Err(unresolved(reference, message, "write ${NAME}, or $${ for ${ itself"));
        };
        let (reference, behind) = reference.split_at(end + 1);
        let name = &reference["${".len()..end];
        let found = match name.strip_prefix(FILE) {
            Some(path) => of_file(&folder.join(path)),
            None => of_variable(name, variables),
        };
        let found = found.map_err(|Mismatch { message, hint }| unresolved(reference, message, &hint))?;
        value.push_str(&found);
        if value.len() > BYTES_MAX {
            let message = "the string becomes longer than 64 KiB".to_owned();
            return Err(unresolved(reference, message, "no value is as long"));
        }
        references.push(reference.to_owned());
        rest = behind;
    }
    value.push_str(rest);
    Ok(Some(Expanded { value, references }))
}

fn of_variable(name: &str, variables: Variables<'_>) -> Result<String, Mismatch> {
    const HINT: &str = "write ${NAME} or ${file:/path}, or $${ for ${ itself";
    let is_name = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        let hint = match name.split_once([':', '-', '?']) {
            Some((name, _)) if !name.is_empty() => {
                "there are no defaults as in a shell: set the variable where this process starts"
            }
            _ => HINT,
        };
        let message = format!("{} is neither a variable nor a file", quoted(&format!("${{{name}}}")));
        return Err(Mismatch::new(message, hint));
    }
    let Some(value) = variables(name) else {
        let hint = "set it where this process starts, such as by Environment= of systemd; or write $${ for ${ itself";
        return Err(Mismatch::new(format!("the variable {name} is not set"), hint));
    };
    match value.into_string() {
        Ok(value) if value.len() <= BYTES_MAX => Ok(value),
        Ok(_) => Err(Mismatch::new(
            format!("the variable {name} is longer than 64 KiB"),
            HINT,
        )),
        Err(_) => Err(Mismatch::new(format!("the variable {name} is not UTF-8"), HINT)),
    }
}

/// What is in the file, without the end of its last line.
fn of_file(path: &Path) -> Result<String, Mismatch> {
    let read = || -> io::Result<String> {
        // A pipe would be waited for.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::other("not a file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        match String::from_utf8(bytes) {
            Ok(text) if text.len() <= BYTES_MAX => Ok(text),
            Ok(_) => Err(io::Error::other("larger than 64 KiB")),
            Err(_) => Err(io::Error::other("not UTF-8")),
        }
    };
    let text = read().map_err(|error| {
        let message = format!("{} cannot be read: {error}", quoted(&path.display().to_string()));
        Mismatch::new(
            message,
            "write the path of a file that the user of this process can read",
        )
    })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::words::escaped;

    fn expanded(text: &str) -> Result<Option<Expanded>, Unresolved> {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("line"), "one\n\n").expect("a file");
        fs::write(folder.path().join("crlf"), "two\r\n").expect("a file");
        fs::write(folder.path().join("large"), "x".repeat(BYTES_MAX + 1)).expect("a file");
        let variables = |name: &str| match name {
            "HOST" => Some("10.0.0.1".into()),
            "EMPTY" => Some("".into()),
            "NESTED" => Some("${HOST}".into()),
            "FULL" => Some("x".repeat(BYTES_MAX).into()),
            _ => None,
        };
        expand(text, folder.path(), &variables)
    }

    #[test]
    fn variables_and_files_are_replaced_and_everything_else_stays() {
        for (text, value, references) in [
            ("${HOST}:1883", "10.0.0.1:1883", &["${HOST}"][..]),
            (
                "${HOST}${EMPTY}${HOST}",
                "10.0.0.110.0.0.1",
                &["${HOST}", "${EMPTY}", "${HOST}"],
            ),
            // What they give is not looked into.
            ("${NESTED}", "${HOST}", &["${NESTED}"]),
            ("<${file:line}>", "<one\n>", &["${file:line}"]),
            ("${file:crlf}", "two", &["${file:crlf}"]),
            ("$${HOST} ${HOST}", "${HOST} 10.0.0.1", &["${HOST}"]),
            ("$$${HOST}", "$${HOST}", &[]),
            ("$${", "${", &[]),
        ] {
            let found = expanded(text).expect("a value").expect("something to replace");
            let references = references.iter().map(|&reference| reference.to_owned()).collect();
            assert_eq!(
                found,
                Expanded {
                    value: value.to_owned(),
                    references
                },
                "{text}"
            );
        }
        for text in ["", "$HOST", "{HOST}", "$", "a$}", "$ {HOST}"] {
            assert_eq!(expanded(text).expect("no error"), None, "{text}");
        }
    }

    #[test]
    fn what_stands_for_nothing_is_refused_with_its_reason() {
        for (text, reference, words) in [
            ("a${MISSING}", "${MISSING}", "MISSING is not set"),
            ("${HOST} ${", "${", "has no end"),
            ("${}", "${}", "neither a variable nor a file"),
            ("${1}", "${1}", "neither a variable nor a file"),
            ("${HOST:-x}", "${HOST:-x}", "no defaults"),
            ("${file:absent}", "${file:absent}", "No such file"),
            ("${file:.}", "${file:.}", "not a file"),
            ("${file:large}", "${file:large}", "larger than 64 KiB"),
            ("${FULL}${HOST}", "${HOST}", "becomes longer than 64 KiB"),
        ] {
            let wrong = expanded(text).expect_err(text);
            let shown = format!("{} ({})", wrong.why.message, wrong.why.hint);
            assert_eq!(wrong.reference, reference, "{text}");
            assert!(shown.contains(words), "{text}: {shown}");
        }
    }

    #[test]
    fn what_is_escaped_means_itself() {
        for value in ["${HOST}", "$${HOST}", "$$$${", "${", "$", "$$", "a${b}$${c"] {
            let written = escaped(value);
            let read = expanded(&written).expect("no reference");
            assert_eq!(read.map_or(written, |read| read.value), value);
        }
    }
}
