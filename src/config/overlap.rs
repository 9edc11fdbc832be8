//! Finds listeners that cannot be open together, since the kernel gives a port of an address to one of them only.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::file;
use super::problem::{Place, Problem};
use super::reader::{Field, Spanned};
use crate::admin::settings as admin;

/// What is said of two listeners.
const HINT: &str = "give each listener its own address or port";

/// Notes listeners that could not be opened beside another one, or beside the admin listener, which is opened first.
pub(super) fn note(
    listeners: &Field<Vec<Spanned<file::Listener>>>,
    admin: &Field<file::Admin>,
    problems: &mut Vec<Problem>,
) {
    let listeners = listeners.as_set().map_or(&[][..], |listeners| &listeners.value);
    let listeners: Vec<_> = listeners.iter().filter_map(|l| l.value.address.as_set()).collect();
    let only_v6 = only_v6();
    let admins = AdminAddress::of(admin);
    for (index, listener) in listeners.iter().enumerate() {
        let Spanned { value: address, place } = listener;
        if let Some(admin) = admins.iter().find(|admin| overlap(*address, admin.address, only_v6)) {
            problems.push(admin.problem(*address, place));
        }
        let mut before = listeners[..index].iter();
        if let Some(other) = before.find(|other| overlap(*address, other.value, only_v6)) {
            let (message, hint) = explain(*address, other.value);
            problems.push(place.problem(message).other(&other.place, "first used here").hint(hint));
        }
    }
}

/// What is wrong with a listener at `address` that comes after one at `other`.
fn explain(address: SocketAddr, other: SocketAddr) -> (String, String) {
    if address == other {
        return (format!("two listeners use {address}"), HINT.to_owned());
    }
    let (every, one) = match address.ip().is_unspecified() && (address.is_ipv6() || !other.ip().is_unspecified()) {
        true => (address, other),
        false => (other, address),
    };
    let what = match (every, one) {
        (SocketAddr::V6(_), SocketAddr::V4(_)) => "every address of this machine, of IPv4 as well",
        (SocketAddr::V6(_), SocketAddr::V6(_)) => "every address of this machine",
        (SocketAddr::V4(_), _) => "every IPv4 address of this machine",
    };
    let message = format!("the listeners at {one} and {every} cannot both be opened: {every} is {what}");
    (message, format!("{HINT}, or leave out the one at {one}"))
}

/// Where the admin listener is.
struct AdminAddress<'a> {
    address: SocketAddr,
    /// `None` if it is there by default.
    place: Option<&'a Place>,
}

impl<'a> AdminAddress<'a> {
    fn of(admin: &'a Field<file::Admin>) -> Vec<Self> {
        let default = || {
            vec![Self {
                address: admin::ADDRESS_DEFAULT,
                place: None,
            }]
        };
        let written = match admin {
            Field::Absent => return default(),
            Field::Invalid => return Vec::new(),
            Field::Set(written) => &written.value,
        };
        match (&written.enabled, &written.address) {
            (Field::Invalid, _) | (_, Field::Invalid) => Vec::new(),
            (Field::Set(enabled), _) if !enabled.value => Vec::new(),
            (_, Field::Set(addresses)) => (addresses.value.iter())
                .map(|address| Self {
                    address: *address,
                    place: Some(&addresses.place),
                })
                .collect(),
            (_, Field::Absent) => default(),
        }
    }

    fn problem(&self, address: SocketAddr, place: &Place) -> Problem {
        let Self { address: admin, .. } = self;
        match self.place {
            Some(here) => place
                .problem(format!("{address} is taken by the admin listener at {admin}"))
                .other(here, "the admin listener is here")
                .hint("give one of them another port"),
            None => place
                .problem(format!(
                    "{address} is taken by the admin listener, which is at {admin} by default"
                ))
                .hint("give the listener another port, or add address = \"127.0.0.1:9884\" in [admin]"),
        }
    }
}

/// Whether the kernel refuses to let two sockets listen at these addresses. `only_v6`: a socket at [::] takes no IPv4.
fn overlap(a: SocketAddr, b: SocketAddr, only_v6: bool) -> bool {
    // Port 0 takes another free port each time.
    if a.port() != b.port() || a.port() == 0 {
        return false;
    }
    match (a, b) {
        (SocketAddr::V6(a), SocketAddr::V6(b)) if a.ip() == b.ip() => {
            a.scope_id() == b.scope_id() || a.scope_id() == 0 || b.scope_id() == 0
        }
        (SocketAddr::V4(_), SocketAddr::V4(_)) | (SocketAddr::V6(_), SocketAddr::V6(_)) => {
            a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()
        }
        (SocketAddr::V6(v6), SocketAddr::V4(_)) | (SocketAddr::V4(_), SocketAddr::V6(v6)) => {
            !only_v6 && IpAddr::V6(*v6.ip()).is_unspecified()
        }
    }
}

/// Whether sockets at [::] take no IPv4 on this machine.
fn only_v6() -> bool {
    fs::read_to_string("/proc/sys/net/ipv6/bindv6only").is_ok_and(|value| value.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_overlap_where_the_kernel_says_so() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let cases = [
            ("127.0.0.1:1883", "127.0.0.1:1883", true, true),
            ("127.0.0.1:1883", "127.0.0.2:1883", false, false),
            ("127.0.0.1:1883", "127.0.0.1:1884", false, false),
            ("127.0.0.1:0", "127.0.0.1:0", false, false),
            ("0.0.0.0:1883", "127.0.0.1:1883", true, true),
            ("[::]:1883", "[::1]:1883", true, true),
            ("[::]:1883", "0.0.0.0:1883", true, false),
            ("[::]:1883", "127.0.0.1:1883", true, false),
            ("[::1]:1883", "0.0.0.0:1883", false, false),
            ("[::1]:1883", "127.0.0.1:1883", false, false),
            ("[fe80::1%2]:1883", "[fe80::1%3]:1883", false, false),
            ("[fe80::1%2]:1883", "[fe80::1%2]:1883", true, true),
            ("[::]:1883", "[fe80::1%2]:1883", true, true),
        ];
        for (a, b, with_v4, only_v6) in cases {
            for (a, b) in [(a, b), (b, a)] {
                assert_eq!(overlap(address(a), address(b), false), with_v4, "{a} {b}");
                assert_eq!(overlap(address(a), address(b), true), only_v6, "{a} {b} bindv6only");
            }
        }
    }

    /// The rule is the kernel's, so it is asked, with sockets as listeners have them.
    #[test]
    fn the_kernel_agrees() {
        let hosts = ["0.0.0.0", "127.0.0.1", "127.0.0.2", "[::]", "[::1]"];
        for a in hosts {
            for b in hosts {
                let first = match std::net::TcpListener::bind(format!("{a}:0")) {
                    Ok(first) => first,
                    // A machine without IPv6.
                    Err(_) => continue,
                };
                let a = first.local_addr().expect("an address");
                let b: SocketAddr = format!("{b}:{}", a.port()).parse().expect("an address");
                let second = std::net::TcpListener::bind(b);
                let Err(error) = second else {
                    assert!(!overlap(a, b, only_v6()), "{a} {b}");
                    continue;
                };
                if error.kind() == std::io::ErrorKind::AddrInUse && !overlap(a, b, only_v6()) {
                    // Another process may have taken the port at the other address meanwhile; not twice.
                    let again = std::net::TcpListener::bind(SocketAddr::new(b.ip(), 0)).expect("a free port");
                    let port = again.local_addr().expect("an address").port();
                    let at_a = std::net::TcpListener::bind(SocketAddr::new(a.ip(), port));
                    assert!(at_a.is_ok(), "{a} {b}: {error}");
                }
            }
        }
    }
}
