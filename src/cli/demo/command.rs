//! Commands as they can be typed: the name of the running program, and quoting for a shell.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

/// How the running program can be started from the current folder: by its name if it was found on the PATH, otherwise by its
/// path, which is relative where the program is below the current folder.
pub(super) fn program() -> String {
    let called = env::args_os().next().unwrap_or_default();
    let Ok(path) = env::current_exe() else {
        return quoted(&called.to_string_lossy());
    };
    if is_on_path(&called, &path) {
        return quoted(&called.to_string_lossy());
    }
    let folder = env::current_dir().unwrap_or_default();
    quoted(&typed(&path, &folder))
}

/// Whether the shell found the program: it was called by a mere name, and that name still leads there.
fn is_on_path(called: &OsStr, path: &Path) -> bool {
    let is_name = !called.is_empty() && !called.as_encoded_bytes().contains(&b'/');
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut found = env::split_paths(&folders).map(|folder| folder.join(called));
    let first = found.find(|path| path.is_file());
    is_name && first.and_then(|path| fs::canonicalize(path).ok()).as_deref() == Some(path)
}

/// A path as it can be typed in this folder.
fn typed(path: &Path, folder: &Path) -> String {
    let inside = path.strip_prefix(folder).ok();
    let inside = inside.filter(|inside| !inside.as_os_str().is_empty() && !folder.as_os_str().is_empty());
    let text = inside.unwrap_or(path).to_string_lossy();
    // A mere name would be looked for on the PATH.
    match text.contains('/') {
        true => text.into_owned(),
        false => format!("./{text}"),
    }
}

/// A word, in quotes if a shell would read it as something else.
pub(super) fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@%,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_as_it_can_be_typed() {
        for (path, folder, expected) in [
            (
                "/src/remora/target/release/remora",
                "/src/remora",
                "target/release/remora",
            ),
            ("/src/remora/remora", "/src/remora", "./remora"),
            ("/usr/local/bin/remora", "/src/remora", "/usr/local/bin/remora"),
            ("/src/remora-2/remora", "/src/remora", "/src/remora-2/remora"),
            ("/remora", "/", "./remora"),
            ("/usr/bin/remora", "", "/usr/bin/remora"),
        ] {
            assert_eq!(
                typed(Path::new(path), Path::new(folder)),
                expected,
                "{path} in {folder}"
            );
        }
    }

    #[test]
    fn only_a_word_that_a_shell_would_change_is_quoted() {
        for plain in ["target/release/remora", "127.0.0.1:1883", "a+b=c@d%,"] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("my tools/remora"), "'my tools/remora'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted("~/remora"), "'~/remora'");
    }
}
