//! Which names a request may call the admin listener by.
//!
//! A page in an operator's browser may read what its own host serves, and its host's name may resolve to this listener's address (DNS
//! rebinding). Such a request has the page's host name in its Host field, and that no configuration names.

use std::net::{IpAddr, Ipv6Addr};

use hyper::Request;
use hyper::header::HOST;

/// The configured names of the admin listener.
#[derive(Clone, Debug)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    pub(super) fn new(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Whether the request calls this listener by an IP address, by `localhost` or by a configured name, or by none at all, as no
    /// browser does.
    pub(super) fn allow<B>(&self, request: &Request<B>) -> bool {
        let target = request.uri().authority().map(|authority| authority.as_str());
        let fields = request.headers().get_all(HOST);
        let fields = fields.iter().map(|field| field.to_str().unwrap_or_default());
        target.into_iter().chain(fields).all(|host| self.is_allowed(host))
    }

    fn is_allowed(&self, host: &str) -> bool {
        let (host, port) = match host.strip_prefix('[') {
            Some(bracketed) => {
                let Some((address, port)) = bracketed.split_once(']') else {
                    return false;
                };
                // A zone, which an address of this machine may have, is no part of it.
                let address = address.split('%').next().unwrap_or_default();
                if address.parse::<Ipv6Addr>().is_err() {
                    return false;
                }
                (None, port)
            }
            None => match host.find(':') {
                Some(colon) => (Some(&host[..colon]), &host[colon..]),
                None => (Some(host), ""),
            },
        };
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
        is_port && host.is_none_or(|name| self.is_name(name))
    }

    fn is_name(&self, name: &str) -> bool {
        let is = |known: &str| without_dot(known).eq_ignore_ascii_case(without_dot(name));
        name.parse::<IpAddr>().is_ok() || is("localhost") || self.0.iter().any(|known| is(known))
    }
}

/// A name without the dot that ends an absolute one.
fn without_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_configured_names_are_allowed_and_nothing_else() {
        let hosts = Hosts::new(vec!["remora.example.com".to_owned()]);
        let allowed = [
            "127.0.0.1",
            "10.0.0.7:9883",
            "[::1]",
            "[2001:db8::7]:9883",
            "[fe80::1%2]:9883",
            "localhost",
            "LocalHost:9883",
            "localhost.",
            "remora.example.com",
            "Remora.Example.com.:9883",
        ];
        let refused = [
            "",
            ":9883",
            "evil.example",
            "evil.example:9883",
            "remora.example.com.evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1:9883.evil.example",
            "127.0.0.1:99999",
            "localhost:",
            "::1",
            "[::1",
            "[localhost]",
            "[::1]evil.example",
            "a@localhost",
        ];
        for (list, expected) in [(&allowed[..], true), (&refused[..], false)] {
            for host in list {
                assert_eq!(hosts.is_allowed(host), expected, "{host}");
            }
        }
    }

    #[test]
    fn every_host_of_a_request_counts() {
        let hosts = Hosts::new(Vec::new());
        let request = |target: &str, fields: &[&str]| {
            let start = Request::get(target);
            let all = fields.iter().fold(start, |request, field| request.header(HOST, *field));
            all.body(()).expect("a request")
        };
        assert!(hosts.allow(&request("/livez", &[])));
        assert!(hosts.allow(&request("/livez", &["localhost"])));
        assert!(!hosts.allow(&request("/livez", &["localhost", "evil.example"])));
        assert!(hosts.allow(&request("http://127.0.0.1:9883/livez", &["127.0.0.1:9883"])));
        assert!(!hosts.allow(&request("http://evil.example/livez", &["localhost"])));
    }
}
