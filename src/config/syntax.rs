//! What to write where a file is not TOML: most often a value without quotes, or a line of another program's configuration.

use std::ops::Range;

use super::words::suggested;

/// What would do for the syntax error at `at`.
pub(super) fn hint(text: &str, at: Range<usize>) -> Option<String> {
    let start = text.get(..at.start)?.rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[start..].lines().next()?;
    let line = line.trim();
    if let Some((key, value)) = line.split_once('=').filter(|(key, _)| is_key(key.trim())) {
        let value = without_comment(value).trim();
        return of_value(value).map(|value| format!("write {} = {value}", key.trim()));
    }
    if line.starts_with('[') {
        let name = line.trim_matches(['[', ']', ' ']);
        let brackets = if line.starts_with("[[") {
            ("[[", "]]")
        } else {
            ("[", "]")
        };
        return is_key(name).then(|| format!("write {}{name}{}", brackets.0, brackets.1));
    }
    // `listen 1883;` of nginx, `bind :1883` of HAProxy, `address: x` of YAML.
    let is_statement =
        line.ends_with([';', '{', '}']) || line.split_once([':', ' ']).is_some_and(|(word, _)| is_key(word));
    is_statement
        .then(|| "write every line as KEY = VALUE, such as address = \"0.0.0.0:1883\", below a [table]".to_owned())
}

/// The value that was probably meant.
fn of_value(value: &str) -> Option<String> {
    match &*value.to_ascii_lowercase() {
        "" => return None,
        "yes" | "on" | "true" => return Some("true".to_owned()),
        "no" | "off" | "false" => return Some("false".to_owned()),
        _ => {}
    }
    let bare = value
        .trim_end_matches(';')
        .trim_matches(['"', '\'', '“', '”', '‘', '’']);
    let is_plain = !bare.is_empty() && !bare.contains(['"', '\'', '[', ']', '{', '}', ',']);
    is_plain.then(|| suggested(bare))
}

fn without_comment(value: &str) -> &str {
    value.split(" #").next().unwrap_or(value)
}

fn is_key(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}
