//! The tokens of `[admin]`: which there are, and what is in their files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use toml::de::DeValue;

use super::address::Name;
use super::notes::{note_repeats, required};
use super::problem::{Place, Problem};
use super::reader::{Choice, Entries, Field, Named, NamedFile, Reader, Shape, Spanned, Value, quoted, table};
use super::tls::{self, FilePath};
use crate::admin::tokens::{self, NotASecret, Scope, Secret};

/// What is said where a token's file is missing or holds nothing.
const MAKE: &str = "make one with `openssl rand -hex 32`";

/// A secret that can be guessed has fewer bytes.
const BYTES_MIN: usize = 16;

table! {
    /// One of `tokens` in `[admin]`.
    Token {
        name: Name,
        file: Named<FilePath>,
        scope: ScopeWord,
    }
}

/// What a token allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScopeWord;

impl Choice for ScopeWord {
    type Meaning = Scope;
    const WORDS: &'static [(&'static str, Scope)] =
        &[(Scope::Read.name(), Scope::Read), (Scope::Write.name(), Scope::Write)];

    fn meant(word: &str) -> Option<String> {
        match word {
            "ro" | "readonly" | "read-only" | "view" | "viewer" | "user" => Some("\"read\"".to_owned()),
            "rw" | "readwrite" | "read-write" | "admin" | "operator" | "all" | "full" => Some("\"write\"".to_owned()),
            _ => None,
        }
    }
}

/// The tokens, with the secrets in their files.
pub(super) fn resolve(written: Field<Vec<Spanned<Token>>>, problems: &mut Vec<Problem>) -> Vec<tokens::Token> {
    let written = written.or_default();
    let names = written.iter().filter_map(|token| token.value.name.as_set());
    note_repeats(
        names.map(|given| (&given.value, &given.place)),
        |name| format!("two tokens are called {}", quoted(name)),
        "give each token its own name: the log says it of a change",
        problems,
    );
    let mut places: Vec<Place> = Vec::new();
    let mut all: Vec<tokens::Token> = Vec::new();
    for Spanned { value, place } in written {
        let Token { name, file, scope } = value;
        let name = required(name, &place, "name = \"prometheus\"", problems);
        let scope = required(scope, &place, "scope = \"read\" or scope = \"write\"", problems);
        if let Field::Absent = file {
            // With its example.
            required(file, &place, "file = \"/etc/remora/api.token\"", problems);
            continue;
        }
        let Some((file, secret)) = read(file, problems) else {
            continue;
        };
        if let Some(at) = all.iter().position(|other| other.secret == secret) {
            let problem = file.problem("this file has the same secret as another token's");
            problems.push(problem.other(&places[at], "first used here").hint(MAKE));
        }
        if let (Some(name), Some(scope)) = (name, scope) {
            all.push(tokens::Token { name, scope, secret });
            places.push(file);
        }
    }
    all
}

/// The most peers: each is asked whenever a page looks.
const PEERS_MAX: usize = 16;

/// The other balancers.
pub(super) fn peers(written: Field<Vec<Spanned<String>>>, problems: &mut Vec<Problem>) -> Vec<String> {
    let written = written.or_default();
    note_repeats(
        written.iter().map(|peer| (&peer.value, &peer.place)),
        |peer| format!("http://{peer} is there twice"),
        "name each balancer once",
        problems,
    );
    if let Some(beyond) = written.get(PEERS_MAX) {
        let message = format!("there are {} peers, and {PEERS_MAX} can be asked", written.len());
        problems.push(beyond.place.problem(message).hint(format!("leave {PEERS_MAX} of them")));
    }
    written.into_iter().map(|peer| peer.value).collect()
}

/// Reads the file of a token.
pub(super) fn read(file: Field<NamedFile>, problems: &mut Vec<Problem>) -> Option<(Place, Secret)> {
    let written = file.as_set()?.clone();
    let (place, bytes) = tls::bytes(file, problems)?;
    let shown = quoted(&written.value.written);
    let secret = match Secret::of_file(&bytes) {
        Ok(secret) => secret,
        Err(why) => {
            let why = match why {
                NotASecret::Empty => "is empty",
                NotASecret::TooLong => "is too long for a token",
                NotASecret::Unprintable => "has more than one word of printable ASCII",
            };
            problems.push(place.problem(format!("{shown} {why}")).hint(MAKE));
            return None;
        }
    };
    if secret.len() < BYTES_MIN {
        let message = format!("the token in {shown} has {} bytes, and can be guessed", secret.len());
        problems.push(place.problem(message).hint(MAKE).warning());
    }
    if is_open(&written.value.path) {
        let message = format!("{shown}, a token, can be read by others than its owner");
        let hint = "chmod 0600 it, and let the user of this process own it";
        problems.push(place.problem(message).hint(hint).warning());
    }
    Some((place, secret))
}

/// Whether a group or every user can read or replace a file.
fn is_open(file: &Path) -> bool {
    const OTHERS_READ_OR_WRITE: u32 = 0o066;
    fs::metadata(file).is_ok_and(|found| found.permissions().mode() & OTHERS_READ_OR_WRITE != 0)
}
