//! The tokens that callers of the control API on TCP show.

use std::fmt;

use hyper::header::HeaderValue;
use subtle::ConstantTimeEq;

/// A token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its name, which the log says of a change.
    pub name: String,
    /// What its bearer may do.
    pub scope: Scope,
    /// What its bearer shows.
    pub secret: Secret,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Read what there is.
    Read,
    /// Also change it, and read what is for operators alone.
    Write,
}

impl Scope {
    /// The word in configurations and answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// The secret of a token. It is neither printed nor logged, and compared in a time that does not depend on its bytes.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

/// Why a file holds no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotASecret {
    Empty,
    /// It is longer than a field of a request may be.
    TooLong,
    /// A field of a request cannot have such bytes.
    Unprintable,
}

impl Secret {
    /// The secret in a file, without the line end behind it.
    pub(crate) fn of_file(bytes: &[u8]) -> Result<Self, NotASecret> {
        const BYTES_MAX: usize = 4 * 1024;
        let line = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let secret = line.strip_suffix(b"\r").unwrap_or(line);
        match secret {
            [] => Err(NotASecret::Empty),
            _ if secret.len() > BYTES_MAX => Err(NotASecret::TooLong),
            _ if !secret.iter().all(u8::is_ascii_graphic) => Err(NotASecret::Unprintable),
            _ => Ok(Self(secret.into())),
        }
    }

    /// How many bytes it has.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The field Authorization of one who shows it.
    pub(super) fn bearer(&self) -> HeaderValue {
        let field = [b"Bearer ", &*self.0].concat();
        // It is printable, as it was when it was read.
        let mut field = HeaderValue::from_bytes(&field).unwrap_or_else(|_| HeaderValue::from_static(""));
        field.set_sensitive(true);
        field
    }

    /// Whether a caller shows this secret.
    pub(super) fn is(&self, shown: &[u8]) -> bool {
        self.0.ct_eq(shown).into()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The token with the secret that a caller shows.
pub(super) fn find<'t>(tokens: &'t [Token], shown: &[u8]) -> Option<&'t Token> {
    // All are compared, so that the time does not say which one is alike.
    let compare = |found, token: &'t Token| if token.secret.is(shown) { Some(token) } else { found };
    tokens.iter().fold(None, compare)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(bytes: &[u8]) -> Secret {
        Secret::of_file(bytes).expect("a secret")
    }

    #[test]
    fn a_secret_is_a_file_without_its_line_end_and_is_never_printed() {
        assert!(secret(b"s3cret\n").is(b"s3cret"));
        assert!(secret(b"s3cret\r\n").is(b"s3cret"));
        assert!(secret(b"s3cret").is(b"s3cret"));
        assert!(!secret(b"s3cret").is(b"s3cre") && !secret(b"s3cret").is(b"s3creT") && !secret(b"s3cret").is(b""));
        assert_eq!(format!("{:?}", secret(b"s3cret")), "***");
        for (bytes, why) in [
            (&b""[..], NotASecret::Empty),
            (b"\n", NotASecret::Empty),
            (b"two\nlines\n", NotASecret::Unprintable),
            (b"with space", NotASecret::Unprintable),
            ("é".as_bytes(), NotASecret::Unprintable),
            (&[b'x'; 5000], NotASecret::TooLong),
        ] {
            assert_eq!(Secret::of_file(bytes).expect_err("none"), why);
        }
    }

    #[test]
    fn the_token_of_a_secret_is_found() {
        let token = |name: &str, scope| Token {
            name: name.to_owned(),
            scope,
            secret: secret(name.as_bytes()),
        };
        let tokens = [token("one", Scope::Read), token("two", Scope::Write)];
        assert_eq!(find(&tokens, b"two").map(|token| token.scope), Some(Scope::Write));
        assert_eq!(find(&tokens, b"one").map(|token| &*token.name), Some("one"));
        assert_eq!(find(&tokens, b"three"), None);
    }
}
