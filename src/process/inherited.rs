//! Listening sockets that this process did not open: of one that hands over, or of systemd.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, getsockname, sockopt};

use crate::admin;
use crate::base::log::List;
use crate::config::Config;
use crate::net::network;
use crate::net::socket::sys;
use crate::path::accept::Listener;

/// Listening sockets that another process has opened.
#[derive(Debug, Default)]
pub struct Inherited {
    pub(super) listeners: Vec<InheritedSocket>,
    pub(super) admin: admin::Inherited,
    /// The one at which another process can take over, and its path.
    pub(super) handover: Option<(PathBuf, OwnedFd)>,
}

/// A socket for clients.
#[derive(Debug)]
pub(super) struct InheritedSocket {
    /// The name of the listener that it was opened for.
    pub(super) name: String,
    /// The address that it was opened for.
    pub(super) configured: SocketAddr,
    pub(super) socket: OwnedFd,
}

impl Inherited {
    /// The sockets that systemd has opened for this configuration, by number, each with its `FileDescriptorName`: those of a listener have its
    /// name or its address, those of the admin listener its address or its path.
    ///
    /// # Errors
    /// One of them fits nothing in the configuration: it would take clients that no one accepts.
    pub fn of_systemd(sockets: &[(String, RawFd)], config: &Config) -> io::Result<Self> {
        let mut inherited = Self::default();
        let numbers: Vec<RawFd> = sockets.iter().map(|(_, number)| *number).collect();
        for ((name, _), socket) in sockets.iter().zip(sys::passed(&numbers)?) {
            inherited.add(name, socket, config)?;
        }
        Ok(inherited)
    }

    fn add(&mut self, name: &str, socket: OwnedFd, config: &Config) -> io::Result<()> {
        let no_use = |what: &str| {
            let error =
                format!("systemd has opened a socket, {name:?} {what}, that no listener of the configuration has");
            Err(io::Error::new(io::ErrorKind::InvalidInput, error))
        };
        if sockopt::socket_domain(&socket)? == AddressFamily::UNIX {
            let Some(path) = path_of(&socket)? else {
                return no_use("without a path");
            };
            if config.admin.socket_paths().contains(&path) {
                self.admin.unix = Some((path, socket));
            } else if config.handover.socket.as_ref() == Some(&path) {
                self.handover = Some((path, socket));
            } else {
                return no_use(&format!("at {}", path.display()));
            }
            return Ok(());
        }
        let bound = SocketAddr::try_from(getsockname(&socket)?)?;
        let listeners = &config.listeners;
        let named = listeners.iter().find(|listener| listener.name == name);
        let found = named.or_else(|| listeners.iter().find(|listener| listener.address == bound));
        match found {
            Some(listener) => self.listeners.push(InheritedSocket {
                name: listener.name.clone(),
                configured: listener.address,
                socket,
            }),
            None if is_of_admin(&config.admin, bound) => self.admin.tcp.push(socket),
            None => return no_use(&format!("at {bound}")),
        }
        Ok(())
    }

    /// Warns the operator of listeners that clients reach in another network than this process's.
    pub(super) fn warn_of_other_networks(&self) {
        let mut elsewhere: Vec<&String> = (self.listeners.iter())
            .filter(|inherited| !network::is_own(&inherited.socket))
            .map(|inherited| &inherited.name)
            .collect();
        elsewhere.dedup();
        if !elsewhere.is_empty() {
            tracing::warn!(
                listeners = List::of(elsewhere).value(),
                "these listeners, and the connections that move, stay in the network namespace in which they were opened"
            );
        }
    }

    /// The sockets that were opened for this listener, or for one with its address.
    pub(super) fn take(&mut self, listener: &Listener) -> Vec<OwnedFd> {
        // As `ListenerEntry::is`: listeners on free ports are told apart only by name.
        let is_of = |socket: &mut InheritedSocket| {
            socket.configured == listener.address && (listener.address.port() != 0 || socket.name == listener.name)
        };
        self.listeners.extract_if(.., is_of).map(|found| found.socket).collect()
    }
}

fn is_of_admin(settings: &admin::Settings, bound: SocketAddr) -> bool {
    match &settings.address {
        admin::Address::Default => bound == admin::ADDRESS_DEFAULT,
        admin::Address::At(addresses) => addresses.contains(&bound),
        admin::Address::Off => false,
    }
}

/// Where a unix socket is bound, if that is a path.
pub(super) fn path_of(socket: impl AsFd) -> io::Result<Option<PathBuf>> {
    let address = SocketAddrUnix::try_from(getsockname(socket)?)?;
    let path = address.path_bytes().map(std::ffi::OsStr::from_bytes);
    Ok(path.map(Path::new).map(Path::to_owned))
}
