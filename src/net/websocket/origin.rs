//! Origins of pages (RFC 6454), in the one spelling in which browsers send them. Pure.

use std::fmt::Write;
use std::net::Ipv6Addr;

use super::host::is_host;

/// Why no browser can send an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginFault {
    /// It is not a scheme and a host, with or without a port.
    Invalid,
    /// It has a wildcard.
    Wildcard,
    /// It is the address of a WebSocket, not that of a page; with the origin of a page of the same host.
    WebSocket(String),
    /// Browsers send it in this spelling.
    Spelling(String),
}

/// Checks an origin that is to be compared with those that clients send.
///
/// # Errors
/// No browser sends it.
pub fn check_origin(origin: &str) -> Result<(), OriginFault> {
    if origin.contains('*') {
        return Err(OriginFault::Wildcard);
    }
    // Sandboxed and local pages have no origin of their own.
    if origin == "null" {
        return Ok(());
    }
    let canonical = canonical(origin);
    let (scheme, host) = canonical.split_once("://").ok_or(OriginFault::Invalid)?;
    let is_scheme_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic()) && scheme.bytes().all(is_scheme_byte);
    let is_right = match scheme {
        "http" | "https" | "ws" | "wss" => is_host(host.as_bytes()),
        // Pages from an app's own files.
        "file" => host.is_empty(),
        // Apps and extensions have schemes of their own: capacitor://localhost.
        _ => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() && !b"/?#@\"\\".contains(&byte))
        }
    };
    if !is_scheme || !is_right {
        return Err(OriginFault::Invalid);
    }
    if let Some(secured) = scheme.strip_prefix("ws") {
        return Err(OriginFault::WebSocket(format!("http{secured}://{host}")));
    }
    match canonical == origin {
        true => Ok(()),
        false => Err(OriginFault::Spelling(canonical)),
    }
}

/// The spelling of browsers: in small letters, without a port that the scheme has anyway, and IPv6 addresses in their short form.
/// Clients that are no browsers may use another one.
pub(super) fn canonical(origin: &str) -> String {
    let origin = origin.to_ascii_lowercase();
    let Some((scheme, rest)) = origin.split_once("://") else {
        return origin;
    };
    let default = match scheme {
        "http" | "ws" => 80,
        "https" | "wss" => 443,
        _ => return origin,
    };
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => match port.parse::<u16>() {
            Ok(port) => (host, Some(port)),
            Err(_) => return origin,
        },
        _ => (rest, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let mut canonical = match bracketed.and_then(|address| address.parse::<Ipv6Addr>().ok()) {
        Some(address) => format!("{scheme}://[{address}]"),
        None => format!("{scheme}://{host}"),
    };
    if let Some(port) = port.filter(|port| *port != default) {
        // A string takes all of it.
        let _ = write!(canonical, ":{port}");
    }
    canonical
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_browsers_and_apps_send_can_be_listed() {
        for origin in [
            "null",
            "file://",
            "capacitor://localhost",
            "ionic://localhost",
            "app://-",
            "chrome-extension://abcdefghijklmnop",
            "http://localhost:8100",
            "https://app.example",
            "https://app.example:8443",
            "http://192.0.2.7:8080",
            "http://[2001:db8::7]:8080",
        ] {
            assert_eq!(check_origin(origin), Ok(()), "{origin}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_told_from_what_would_do() {
        let spelling = |origin: &str| Err(OriginFault::Spelling(origin.to_owned()));
        let page = |origin: &str| Err(OriginFault::WebSocket(origin.to_owned()));
        for (origin, found) in [
            ("https://App.Example", spelling("https://app.example")),
            ("HTTPS://app.example:443", spelling("https://app.example")),
            ("http://app.example:80", spelling("http://app.example")),
            ("http://app.example:08080", spelling("http://app.example:8080")),
            ("http://[2001:DB8:0::7]", spelling("http://[2001:db8::7]")),
            ("Capacitor://localhost", spelling("capacitor://localhost")),
            ("FILE://", spelling("file://")),
            ("ws://app.example:8083", page("http://app.example:8083")),
            ("wss://app.example:443", page("https://app.example")),
            ("*", Err(OriginFault::Wildcard)),
            ("https://*.example.com", Err(OriginFault::Wildcard)),
            ("", Err(OriginFault::Invalid)),
            ("Null", Err(OriginFault::Invalid)),
            ("app.example", Err(OriginFault::Invalid)),
            ("https://", Err(OriginFault::Invalid)),
            ("https://app.example/", Err(OriginFault::Invalid)),
            ("https://app.example:", Err(OriginFault::Invalid)),
            ("https://user@app.example", Err(OriginFault::Invalid)),
            ("https://bücher.example", Err(OriginFault::Invalid)),
            ("file:///", Err(OriginFault::Invalid)),
            ("capacitor://", Err(OriginFault::Invalid)),
            ("1app://localhost", Err(OriginFault::Invalid)),
        ] {
            assert_eq!(check_origin(origin), found, "{origin}");
        }
    }

    #[test]
    fn the_spelling_of_a_client_does_not_matter() {
        for (sent, same) in [
            ("https://mqtt.example:443", "https://mqtt.example"),
            ("http://MQTT.example:8083", "http://mqtt.example:8083"),
            ("http://mqtt.example:443", "http://mqtt.example:443"),
            ("http://[::1]:80", "http://[::1]"),
            ("null", "null"),
            ("http://a:b:c", "http://a:b:c"),
        ] {
            assert_eq!(canonical(sent), same);
        }
    }
}
