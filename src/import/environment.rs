//! Variables of the environment in the values that an importer passes on: the result names them as `${NAME}`.

/// Stands in a word for the dollar of a variable, since a dollar of the original means itself. No word of a file has this character.
pub(super) const DOLLAR: char = char::REPLACEMENT_CHARACTER;

/// What to do about a variable in a number, a duration or a network.
pub(super) const ADVICE: &str =
    "write the value itself: only strings such as addresses and paths can have variables, and a duration needs a unit";

/// What to do about a variable that is a network.
pub(super) const NETWORK_ADVICE: &str = "write it to `allow` or `deny` of the listener, which are strings and can have variables: `deny` goes before `allow`";

/// A variable, as words have it.
pub(super) fn variable(name: &str) -> String {
    format!("{DOLLAR}{{{name}}}")
}

/// Whether Remora takes this as the name of a variable.
pub(super) fn is_name(name: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.bytes().all(is_of_name)
}

/// Whether a word has a variable.
pub(super) fn is_in(text: &str) -> bool {
    text.contains(DOLLAR)
}

/// Whether a word begins with a variable.
pub(super) fn begins(text: &str) -> bool {
    text.starts_with(DOLLAR)
}

/// Whether a word is one variable and nothing else.
pub(super) fn is_whole(text: &str) -> bool {
    begins(text) && text.find('}').is_some_and(|end| end + 1 == text.len())
}

/// The variables in a word, as it has them.
pub(super) fn variables(text: &str) -> impl Iterator<Item = &str> {
    let starts = text.match_indices(DOLLAR);
    starts.filter_map(|(at, _)| text[at..].find('}').map(|end| &text[at..=at + end]))
}

/// The text with something in the place of each variable, to see whether it is right around them.
pub(super) fn filled(text: &str, with: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(DOLLAR) {
        out += &rest[..at];
        out += with;
        rest = rest[at..].split_once('}').map_or("", |(_, rest)| rest);
    }
    out + rest
}

/// Whether a string of the result has a variable.
pub(super) fn is_in_toml(toml: &str) -> bool {
    toml.match_indices("${").any(|(at, _)| !toml[..at].ends_with('$'))
}
