//! The paths of a listener, compared with the path of an upgrade request as EMQX's HTTP server (cowboy) compares them: segment by
//! segment, unescaped, without dot segments and without a slash at the end. Pure.

/// An escape that is not a percent sign and two hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InvalidEscape;

/// The one of `paths` that a client means with `path`, as it was configured: so a node gets a path that it knows. `None` if it means
/// none of them. A path of the same spelling goes before others.
pub(super) fn listed<'a>(paths: &'a [String], path: &str) -> Result<Option<&'a str>, InvalidEscape> {
    if let Some(same) = paths.iter().find(|listed| *listed == path) {
        return Ok(Some(same));
    }
    let asked = segments(path)?;
    let mut means = paths.iter().filter(|listed| segments(listed) == Ok(asked.clone()));
    Ok(means.next().map(String::as_str).filter(|_| path.starts_with('/')))
}

/// What is between the slashes. Segments are unescaped one by one, so that `%2F` is no slash, and then `.` and `..` are resolved, the
/// escaped ones too; above the root is the root.
fn segments(path: &str) -> Result<Vec<Vec<u8>>, InvalidEscape> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut segments = Vec::new();
    if path.is_empty() {
        return Ok(segments);
    }
    for segment in path.split('/') {
        match unescaped(segment)? {
            dot if dot == b"." => {}
            dots if dots == b".." => {
                segments.pop();
            }
            segment => segments.push(segment),
        }
    }
    Ok(segments)
}

fn unescaped(segment: &str) -> Result<Vec<u8>, InvalidEscape> {
    let mut bytes = segment.bytes();
    let mut unescaped = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        unescaped.push(match byte {
            b'%' => hex(bytes.next())? << 4 | hex(bytes.next())?,
            plain => plain,
        });
    }
    Ok(unescaped)
}

fn hex(digit: Option<u8>) -> Result<u8, InvalidEscape> {
    let digit = digit.and_then(|digit| char::from(digit).to_digit(16));
    digit.map(|digit| digit as u8).ok_or(InvalidEscape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_as_cowboy_routes_it() {
        let paths = ["/mqtt", "/a/b c", "/"].map(str::to_owned);
        for (path, meant) in [
            ("/mqtt", Some("/mqtt")),
            ("/mqtt/", Some("/mqtt")),
            ("/mqtt/.", Some("/mqtt")),
            ("/./mqtt", Some("/mqtt")),
            ("/../mqtt", Some("/mqtt")),
            ("/other/../mqtt", Some("/mqtt")),
            ("/other/%2e%2E/mqtt", Some("/mqtt")),
            ("/%6Dqtt", Some("/mqtt")),
            ("/m%71%74t/", Some("/mqtt")),
            ("/a/b%20c", Some("/a/b c")),
            ("/", Some("/")),
            ("/mqtt/..", Some("/")),
            ("//mqtt", None),
            ("/mqtt//", None),
            ("/MQTT", None),
            ("/mqtt%2F", None),
            ("/a%2Fb c", None),
            ("/mqtt/x", None),
            ("/mqtt%00", None),
            ("mqtt", None),
            ("*", None),
        ] {
            assert_eq!(listed(&paths, path), Ok(meant), "{path}");
        }
        for path in ["/mqtt%", "/mqtt%2", "/%zzmqtt", "/%+1mqtt"] {
            assert_eq!(listed(&paths, path), Err(InvalidEscape), "{path}");
        }
    }

    #[test]
    fn a_path_of_the_same_spelling_goes_first() {
        let paths = ["/mqtt", "/mqtt/", "/%zz"].map(str::to_owned);
        assert_eq!(listed(&paths, "/mqtt/"), Ok(Some("/mqtt/")));
        assert_eq!(listed(&paths, "/mqtt/."), Ok(Some("/mqtt")));
        assert_eq!(listed(&paths, "/%zz"), Ok(Some("/%zz")));
    }
}
