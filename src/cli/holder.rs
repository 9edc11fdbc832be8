//! Which process listens on an address, as far as this one may see that.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

/// A socket that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listening {
    address: SocketAddr,
    inode: u64,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// Where it listens: perhaps on every address.
    pub(super) address: SocketAddr,
    /// Its process and the name of that; `None` if only others may see it.
    pub(super) process: Option<(u32, String)>,
}

/// Who listens where a listener at `address` cannot.
pub(super) fn find(address: SocketAddr) -> Option<Holder> {
    let all = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    let all = all.iter().filter_map(|file| fs::read_to_string(file).ok());
    let listening: Vec<Listening> = all.flat_map(|table| listening(&table)).collect();
    let at = |is_same: &dyn Fn(&Listening) -> bool| listening.iter().find(|listening| is_same(listening));
    // Rather the same address than every address.
    let found = at(&|listening| listening.address == address).or_else(|| at(&|l| excludes(l.address, address)))?;
    Some(Holder {
        address: found.address,
        process: process_with(found.inode),
    })
}

/// Whether a socket at `other` keeps one from `address`.
fn excludes(other: SocketAddr, address: SocketAddr) -> bool {
    let (a, b) = (other.ip().to_canonical(), address.ip().to_canonical());
    other.port() == address.port() && (a == b || a.is_unspecified() || b.is_unspecified())
}

/// The sockets of a table that listen (proc_pid_net(5)).
fn listening(table: &str) -> Vec<Listening> {
    /// TCP_LISTEN.
    const LISTEN: &str = "0A";
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if *fields.get(3)? != LISTEN {
            return None;
        }
        Some(Listening {
            address: address(fields.get(1)?)?,
            inode: fields.get(9)?.parse().ok()?,
        })
    };
    table.lines().skip(1).filter_map(read).collect()
}

/// `0100007F:075B`: words of four bytes in the order of this machine, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<u32>> = (0..ip.len())
        .step_by(8)
        .map(|at| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok())
        .collect();
    let bytes: Vec<u8> = words?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// The process that has this socket open, and its name.
fn process_with(inode: u64) -> Option<(u32, String)> {
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    let processes = fs::read_dir("/proc").ok()?;
    for process in processes.filter_map(Result::ok) {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Those of other users may not be read.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let mut descriptors = descriptors.filter_map(Result::ok);
        if descriptors.any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|file| file == socket)) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some((pid, name.trim().escape_debug().to_string()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found_by_every_address_that_it_takes() {
        for (bound, wanted) in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1", "0.0.0.0"),
            ("0.0.0.0", "127.0.0.1"),
            ("[::1]", "[::1]"),
            ("[::]", "127.0.0.1"),
        ] {
            // A machine may have no IPv6.
            let Ok(listener) = TcpListener::bind(format!("{bound}:0")) else {
                continue;
            };
            let address = listener.local_addr().expect("an address");
            let wanted = format!("{wanted}:{}", address.port()).parse().expect("an address");
            let holder = find(wanted).unwrap_or_else(|| panic!("none at {wanted}"));
            assert_eq!(holder.address, address, "{wanted}");
            let (pid, name) = holder.process.expect("a process of this user");
            assert_eq!(pid, std::process::id());
            assert!(!name.is_empty());
        }
        let listener = TcpListener::bind("127.0.0.77:0").expect("a free port");
        let free = listener.local_addr().expect("an address");
        drop(listener);
        assert_eq!(find(free), None);
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let check = |text: &str, expected: &str| {
            assert_eq!(address(text), Some(expected.parse().expect("an address")), "{text}");
        };
        if cfg!(target_endian = "little") {
            check("0100007F:075B", "127.0.0.1:1883");
            check("00000000000000000000000001000000:22B3", "[::1]:8883");
        }
        for wrong in [
            "",
            "0100007F",
            "0100007:075B",
            "01:00",
            "0100007F:1075B",
            "é100007F:075B",
        ] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }
}
