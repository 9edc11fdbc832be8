//! Reads the files with the key to the nodes' HTTP API, and with the user of the doctor.

use std::fs::File;
use std::io::Read;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::problem::{Place, Problem};
use super::reader::{Field, NamedFile, Spanned, quoted};
use crate::control::Credentials;
use crate::doctor::Login;

/// The credentials in the file that a key names: the first line of it, `KEY:SECRET`, in the form of EMQX's `api_key.bootstrap_file`.
/// A role behind a second colon is left out.
pub(super) fn read(written: Field<NamedFile>, problems: &mut Vec<Problem>) -> Option<Credentials> {
    let Field::Set(Spanned { value, place }) = written else {
        return None;
    };
    let line = first_line(&value, &place, problems)?;
    match line.split(':').collect::<Vec<_>>()[..] {
        [key, secret, ..] if [key, secret].iter().all(|part| is_word(part)) => {
            let basic = BASE64_STANDARD.encode(format!("{key}:{secret}"));
            Some(Credentials::new(format!("Basic {basic}")))
        }
        _ => {
            // What is in it may be secret.
            let message = format!("{} does not begin with a key and a secret", quoted(&value.written));
            problems.push(
                place
                    .problem(message)
                    .hint("one line is expected, KEY:SECRET, as in EMQX's api_key.bootstrap_file"),
            );
            None
        }
    }
}

/// The user in the file that a key names: the first line of it, `USER:PASSWORD`. There may be more colons in the password.
pub(super) fn read_login(written: Field<NamedFile>, problems: &mut Vec<Problem>) -> Option<Login> {
    let Field::Set(Spanned { value, place }) = written else {
        return None;
    };
    let line = first_line(&value, &place, problems)?;
    match line.split_once(':') {
        Some((username, password)) if !username.is_empty() => Some(Login::new(username.to_owned(), password.into())),
        _ => {
            // What is in it may be secret.
            let message = format!(
                "{} does not begin with a user name and a password",
                quoted(&value.written)
            );
            problems.push(place.problem(message).hint("one line is expected, USER:PASSWORD"));
            None
        }
    }
}

/// The first line of a file that is not empty.
fn first_line(file: &NamedFile, place: &Place, problems: &mut Vec<Problem>) -> Option<String> {
    /// More than any key or password is long.
    const BYTES_MAX: u64 = 4096;
    let mut text = String::new();
    let read = File::open(&file.path).and_then(|file| file.take(BYTES_MAX).read_to_string(&mut text));
    if let Err(error) = read {
        let message = format!("{} cannot be read: {error}", quoted(&file.written));
        problems.push(place.problem(message));
        return None;
    }
    let line = text.lines().map(str::trim).find(|line| !line.is_empty());
    Some(line.unwrap_or_default().to_owned())
}

/// Whether it may be a key or a secret.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}
