//! Shows what clients chose: escaped, so that it cannot forge a line or a field, and cut, so that it cannot fill a disk.

use std::fmt::{self, Write as _};

/// The most bytes of a client id that are shown; a longer one is cut, followed by a hash of the whole.
const SHOWN_BYTES_MAX: usize = 128;

/// Shows bytes that a client chose: escaped, so that they cannot forge a line or a field, and cut, so that they cannot fill a
/// disk.
///
/// These are escaped: control characters, all kinds of spaces, invisible characters and those that change the direction of text,
/// the quote, the backslash, and bytes that are not UTF-8.
///
/// In the alternate form (`{:#}`), only bytes that are not UTF-8 are escaped: for a format with escapes of its own.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

/// Like [`Escaped`], for bytes of which only the start was kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EscapedStart<'a> {
    /// The start.
    pub start: &'a [u8],
    /// The number of bytes in all.
    pub bytes: usize,
    /// The XXH3-64 of all of them.
    pub hash: u64,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = *self;
        if bytes.len() <= SHOWN_BYTES_MAX {
            return write_escaped(f, bytes);
        }
        let whole = EscapedStart {
            start: bytes,
            bytes: bytes.len(),
            hash: xxhash_rust::xxh3::xxh3_64(bytes),
        };
        whole.fmt(f)
    }
}

impl fmt::Display for EscapedStart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, bytes, hash } = *self;
        write_escaped(f, &start[..start.len().min(SHOWN_BYTES_MAX)])?;
        write!(f, "...({bytes}B,{hash:016x})")
    }
}

fn write_escaped(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let is_raw = f.alternate();
    for chunk in bytes.utf8_chunks() {
        match is_raw {
            true => f.write_str(chunk.valid())?,
            false => chunk.valid().chars().try_for_each(|character| escape(f, character))?,
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// Writes a character, or its number where it is not safe.
fn escape(to: &mut impl fmt::Write, character: char) -> fmt::Result {
    match is_safe(character) && character != '\\' {
        true => to.write_char(character),
        false => write!(to, "\\u{{{:x}}}", u32::from(character)),
    }
}

/// Shows text that may have been escaped already, on a terminal: spaces and backslashes are as they were.
#[derive(Clone, Copy, Debug)]
pub struct EscapedText<'a>(pub &'a str);

impl fmt::Display for EscapedText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(self.0.len());
        escape_text(&mut text, self.0);
        f.write_str(&text)
    }
}

/// Writes text that nobody has escaped yet, such as the sentence of a library, or that was escaped already: spaces and backslashes
/// are as they were.
pub(super) fn escape_text(to: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            ' ' => to.push(' '),
            safe if is_safe(safe) => to.push(safe),
            // A string takes everything.
            other => drop(write!(to, "\\u{{{:x}}}", u32::from(other))),
        }
    }
}

/// Whether a character does nothing to a terminal, a reader or a field. The backslash is: it begins an escape.
pub(super) fn is_safe(character: char) -> bool {
    !character.is_control()
        && !character.is_whitespace()
        && !matches!(character, '"' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
        && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{061c}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_chose_can_forge_no_line() {
        let cases: &[(&[u8], &str)] = &[
            (b"sensor-1", "sensor-1"),
            ("Gerät-7".as_bytes(), "Gerät-7"),
            (b"a node=emqx9", "a\\u{20}node=emqx9"),
            ("a\u{a0}b\u{3000}c".as_bytes(), "a\\u{a0}b\\u{3000}c"),
            ("a\u{e0041}b".as_bytes(), "a\\u{e0041}b"),
            (b"a\nb", "a\\u{a}b"),
            (b"a\x1b[31mb", "a\\u{1b}[31mb"),
            (b"a\"b\\c", "a\\u{22}b\\u{5c}c"),
            (b"\xff\x00", "\\xff\\u{0}"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
            ("a\u{2028}b".as_bytes(), "a\\u{2028}b"),
            ("a\u{85}b".as_bytes(), "a\\u{85}b"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(Escaped(bytes).to_string(), *shown);
        }
    }

    #[test]
    fn a_format_with_escapes_of_its_own_gets_the_bytes_as_they_are() {
        assert_eq!(format!("{:#}", Escaped(b"a \"b\\c\n\xff")), "a \"b\\c\n\\xff");
    }

    #[test]
    fn a_long_id_is_cut_and_told_apart_by_its_hash() {
        let one = [b'a'; 300];
        let mut other = one;
        other[299] = b'b';
        let (one, other) = (Escaped(&one).to_string(), Escaped(&other).to_string());
        assert!(one.starts_with(&"a".repeat(128)));
        assert!(one.len() < 180, "{one}");
        assert_ne!(one, other);
    }
}
