//! What the system refuses when a balancer starts, in the form of a problem of the configuration: what, where in the file, and what
//! would do.

use std::env;
use std::fs;
use std::io::{self, ErrorKind};

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use remora::config::{Config, Problem, Source};
use remora::net::unix::SocketRefused;
use remora::serve::BindError;

use super::holder::{self, Holder};

/// The problem with what is refused, if it is an address or a unix socket.
pub(super) fn problem(error: &io::Error, config: &Config, source: &Source) -> Option<Problem> {
    if let Some(refused) = SocketRefused::of(error) {
        return Some(socket(refused, source));
    }
    BindError::of(error).map(|refused| address(refused, None, config, source))
}

/// The problem with a unix socket that cannot be opened.
pub(super) fn socket(refused: &SocketRefused, source: &Source) -> Problem {
    source.problem(refused.key(), refused.message()).hint(refused.hint())
}

/// The problem with an address that cannot be opened. `own` is the process that runs this configuration already, if one does.
pub(super) fn address(error: &BindError, own: Option<u32>, config: &Config, source: &Source) -> Problem {
    let path = path(error, config);
    let address = error.address;
    let what = if error.listener.is_some() {
        "the listener"
    } else {
        "the admin listener"
    };
    let (message, hint) = match Errno::from_io_error(&error.source) {
        Some(Errno::ADDRINUSE) => in_use(error, what, own, holder::find(address)),
        Some(Errno::ACCESS | Errno::PERM) => not_permitted(error, what),
        Some(Errno::ADDRNOTAVAIL) => (format!("{address} is not an address of this machine"), error.not_here()),
        Some(Errno::AFNOSUPPORT) => (
            format!("{address} cannot be opened: this machine has no IPv6"),
            format!("write an IPv4 address, such as \"0.0.0.0:{}\"", address.port()),
        ),
        _ => match descriptors(&error.source) {
            Some(hint) => (format!("{address} cannot be opened: no descriptor is left"), hint),
            None => return source.problem(&path, format!("{address} cannot be opened: {}", error.source)),
        },
    };
    source.problem(&path, message).hint(hint)
}

/// The key of the address.
fn path(error: &BindError, config: &Config) -> String {
    let Some(name) = &error.listener else {
        return "admin.address".to_owned();
    };
    match config.listeners.iter().position(|listener| listener.name == *name) {
        Some(index) => format!("listeners[{index}].address"),
        None => "listeners".to_owned(),
    }
}

fn in_use(error: &BindError, what: &str, own: Option<u32>, holder: Option<Holder>) -> (String, String) {
    let address = error.address;
    let port = address.port();
    let hint = match holder {
        Some(Holder {
            address: other,
            process: Some((pid, _)),
        }) if own == Some(pid) => format!(
            "the process of this configuration (pid {pid}) listens on {other}, and a reload opens a new address before it closes an old \
             one: restart it"
        ),
        Some(Holder {
            address: other,
            process: Some((pid, name)),
        }) => format!("{name} (pid {pid}) listens on {other}: stop it, or give {what} another port"),
        Some(Holder {
            address: other,
            process: None,
        }) => format!(
            "a process of another user listens on {other}; as root, `ss -ltnp 'sport = :{port}'` names it: stop it, or give {what} \
             another port"
        ),
        None => format!(
            "no process is seen to listen there: one has bound it and does not listen, or has ended meanwhile; or give {what} another \
             port"
        ),
    };
    (format!("{address} is in use"), hint)
}

fn not_permitted(error: &BindError, what: &str) -> (String, String) {
    /// Where it cannot be read, it is what it has always been.
    const USUAL: u16 = 1024;
    let address = error.address;
    let port = address.port();
    let from = unprivileged_from().unwrap_or(USUAL);
    let message = format!("{address} cannot be opened: {}", error.source);
    if port >= from {
        let hint = "a security module or a filter of system calls forbids it: look into the audit log (ausearch -m avc, journalctl -k)";
        return (message, hint.to_owned());
    }
    let program = env::current_exe().map_or("remora".to_owned(), |program| program.display().to_string());
    let hint = format!(
        "ports below {from} need the capability CAP_NET_BIND_SERVICE. With systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE, as in \
         config/remora.service; otherwise `setcap cap_net_bind_service=+ep {program}`, or \
         `sysctl net.ipv4.ip_unprivileged_port_start={port}` for all programs; or give {what} a port from {from} on"
    );
    (message, hint)
}

/// The first port that needs no capability.
fn unprivileged_from() -> Option<u16> {
    let from = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    from.ok()?.trim().parse().ok()
}

/// What to do if no descriptor is left.
pub(super) fn descriptors(error: &io::Error) -> Option<String> {
    match Errno::from_io_error(error) {
        Some(Errno::MFILE) => {
            let limit = getrlimit(Resource::Nofile).current;
            let limit = limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
            Some(format!(
                "the limit of open files is {limit}: raise it (LimitNOFILE of systemd, ulimit -n, --ulimit nofile of a container)"
            ))
        }
        Some(Errno::NFILE) => Some("the limit of the whole machine is reached: raise fs.file-max".to_owned()),
        _ => None,
    }
}

/// What else the system refuses at a start, as a line and what would do.
pub(super) fn other(error: &io::Error) -> String {
    let hint = match (descriptors(error), error.kind()) {
        (Some(hint), _) => hint,
        (None, ErrorKind::WouldBlock) => {
            "the limit of threads may be reached: raise it (TasksMax of systemd, ulimit -u, --pids-limit of a container)".to_owned()
        }
        (None, _) => return format!("remora: {error}"),
    };
    format!("remora: {error}\n  = help: {hint}")
}

#[cfg(test)]
mod tests {
    use remora::config::{Loaded, read_with_source};

    use super::*;

    fn shown(errno: Errno, address: &str, of_admin: bool) -> String {
        let text = format!(
            "[[listeners]]\nname = 'mqtt'\naddress = '{address}'\n[[nodes]]\nname = 'a'\naddress = '10.0.0.1:1883'\n\
             [admin]\naddress = '127.0.0.9:443'\n"
        );
        let loaded = read_with_source("remora.toml", text.as_bytes());
        let Loaded { config, source } = loaded.unwrap_or_else(|problems| panic!("{problems}"));
        let (listener, address) = match of_admin {
            true => (None, "127.0.0.9:443"),
            false => (Some("mqtt".to_owned()), address),
        };
        let error = BindError {
            listener,
            address: address.parse().expect("an address"),
            source: errno.into(),
        };
        let problem = super::address(&error, None, &config, &source);
        source.problems(vec![problem]).to_string()
    }

    #[test]
    fn each_refusal_has_its_line_and_says_what_would_do() {
        for (errno, address, of_admin, words) in [
            (
                Errno::ACCESS,
                "0.0.0.0:1",
                false,
                // Docker lets its containers have every port.
                match unprivileged_from() {
                    Some(0 | 1) => &["security module"],
                    _ => &["remora.toml:3:11", "CAP_NET_BIND_SERVICE", "setcap", "start=1`"][..],
                },
            ),
            (Errno::ACCESS, "0.0.0.0:65535", false, &["security module"]),
            (
                Errno::ACCESS,
                "0.0.0.0:1883",
                true,
                &["admin.address: 127.0.0.9:443", "remora.toml:8:11"],
            ),
            (
                Errno::ADDRNOTAVAIL,
                "192.0.2.1:1883",
                false,
                &["remora.toml:3:11", "freebind = true", "0.0.0.0:1883"],
            ),
            (
                Errno::ADDRNOTAVAIL,
                "192.0.2.1:1883",
                true,
                &["remora.toml:8:11", "set net.ipv4.ip_nonlocal_bind"],
            ),
            (Errno::AFNOSUPPORT, "[::]:1883", false, &["no IPv6", "\"0.0.0.0:1883\""]),
            (Errno::MFILE, "0.0.0.0:1883", false, &["no descriptor", "LimitNOFILE"]),
            (Errno::NFILE, "0.0.0.0:1883", false, &["no descriptor", "fs.file-max"]),
            (
                Errno::ADDRINUSE,
                "192.0.2.1:1",
                false,
                &["192.0.2.1:1 is in use", "no process is seen"],
            ),
            (
                Errno::NOBUFS,
                "0.0.0.0:1883",
                false,
                &["remora.toml:3:11", "cannot be opened: No buffer space"],
            ),
        ] {
            let shown = shown(errno, address, of_admin);
            for word in words {
                assert!(shown.contains(word), "{word:?} is not in {shown}");
            }
        }
    }
}
