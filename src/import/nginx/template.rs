//! Variables of the environment in templates, in whose place `envsubst` puts values before nginx reads the file: `${NAME}`, `$NAME`.
//!
//! nginx has variables of its own, written in the same way. It takes none of them in addresses, so there it is clear whose a variable is.
//! Elsewhere, a name in capitals that neither nginx nor the file knows is one of the environment: nginx would refuse it.

use crate::import::environment::{is_name, variable};

/// Whether nginx takes variables of its own in an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Taken,
    Refused,
}

/// nginx's own variables. It does not tell capitals from small letters, so `$HOST` is one of them.
const KNOWN: [&str; 43] = [
    "args",
    "binary_remote_addr",
    "body_bytes_sent",
    "bytes_received",
    "bytes_sent",
    "connection",
    "connection_requests",
    "content_length",
    "content_type",
    "document_root",
    "document_uri",
    "host",
    "hostname",
    "https",
    "is_args",
    "limit_rate",
    "msec",
    "nginx_version",
    "pid",
    "pipe",
    "protocol",
    "proxy_host",
    "proxy_port",
    "proxy_protocol_addr",
    "proxy_protocol_port",
    "query_string",
    "realip_remote_addr",
    "realip_remote_port",
    "remote_addr",
    "remote_port",
    "remote_user",
    "request",
    "request_uri",
    "scheme",
    "server_addr",
    "server_name",
    "server_port",
    "server_protocol",
    "status",
    "time_iso8601",
    "time_local",
    "upstream_addr",
    "uri",
];

/// How names begin of which nginx has many.
const FAMILIES: [&str; 12] = [
    "arg_",
    "cookie_",
    "http_",
    "jwt_",
    "mqtt_preread_",
    "sent_http_",
    "ssl_client_",
    "ssl_preread_",
    "ssl_server_",
    "ssl_session_",
    "tcpinfo_",
    "upstream_http_",
];

/// The text with its variables as those of the environment; `None` if one of them is nginx's, or may be. `is_defined`: by the file, and
/// whatever its capitals are.
pub(super) fn filled(text: &str, own: Own, is_defined: impl Fn(&str) -> bool) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('$') {
        out += before;
        let (name, after) = match behind.strip_prefix('{') {
            Some(inner) => inner.split_once('}')?,
            None => {
                let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                behind.split_at(behind.find(|c| !is_of_name(c)).unwrap_or(behind.len()))
            }
        };
        let is_clear = own == Own::Refused || !is_defined(name) && is_of_environment(name);
        if !is_name(name) || !is_clear || out.ends_with('$') {
            return None;
        }
        out += &variable(name);
        rest = after;
    }
    Some(out + rest)
}

fn is_of_environment(name: &str) -> bool {
    let small = name.to_ascii_lowercase();
    !name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !KNOWN.contains(&&*small)
        && !FAMILIES.iter().any(|family| small.starts_with(family))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_the_environment_are_told_from_those_of_nginx() {
        let is_defined = |name: &str| name.eq_ignore_ascii_case("pool");
        let both = |text: &str| {
            [Own::Taken, Own::Refused].map(|own| {
                let found = filled(text, own, is_defined)?;
                Some(found.replace(crate::import::environment::DOLLAR, "%"))
            })
        };
        let same = |text: &str| [Some(text.to_owned()), Some(text.to_owned())];
        let refused = |text: &str| [None, Some(text.to_owned())];
        for (text, expected) in [
            ("10.0.0.1:1883", same("10.0.0.1:1883")),
            ("${EMQX_1}:$PORT", same("%{EMQX_1}:%{PORT}")),
            ("a$B-c", same("a%{B}-c")),
            // nginx does not tell capitals from small letters.
            ("$HOST", refused("%{HOST}")),
            ("$HTTP_PORT", refused("%{HTTP_PORT}")),
            ("${POOL}", refused("%{POOL}")),
            ("$lower", refused("%{lower}")),
            ("$1", [None, None]),
            ("$", [None, None]),
            ("${A", [None, None]),
            ("$$A", [None, None]),
        ] {
            assert_eq!(both(text), expected, "{text}");
        }
    }
}
