//! Binds the admin listener: its addresses, and its unix socket. Takes over those that another process gives away.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::host::Hosts;
use super::identity::Identity;
use super::settings::{ADDRESS_DEFAULT, Address, Settings, Socket, is_ours};
use crate::net::network;
use crate::net::unix::{Purpose, SocketFile, SocketRefused};

/// The bound admin listener.
#[derive(Debug)]
pub struct Listener {
    pub(super) tcp: Vec<net::TcpListener>,
    pub(super) unix: Option<SocketFile>,
    pub(super) hosts: Hosts,
    pub(super) identity: Identity,
}

/// Sockets of another process's admin listener.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Those on TCP.
    pub tcp: Vec<OwnedFd>,
    /// The unix socket, and its path.
    pub unix: Option<(PathBuf, OwnedFd)>,
}

/// What could not be bound.
#[derive(Debug)]
pub enum BindFailed {
    /// This address.
    Address(SocketAddr, io::Error),
    /// The unix socket, in words for operators.
    Socket(io::Error),
}

impl Listener {
    /// Where it is bound on TCP.
    ///
    /// # Errors
    /// The system does not say.
    pub fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.tcp.iter().map(net::TcpListener::local_addr).collect()
    }

    /// The path of its unix socket, if it has one.
    pub fn socket(&self) -> Option<&Path> {
        self.unix.as_ref().map(|unix| &*unix.path)
    }

    /// Duplicates of its sockets, for another process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn duplicates(&self) -> io::Result<Inherited> {
        let tcp = self.tcp.iter().map(|tcp| Ok(tcp.try_clone()?.into()));
        let unix = self.unix.as_ref().map(|unix| {
            let socket = unix.listener.try_clone()?;
            Ok::<_, io::Error>((unix.path.clone(), socket.into()))
        });
        Ok(Inherited {
            tcp: tcp.collect::<io::Result<_>>()?,
            unix: unix.transpose()?,
        })
    }

    /// The socket's file is this process's, which removes it at its end.
    pub(crate) fn own_file(&self) {
        if let Some(unix) = &self.unix {
            unix.own_file();
        }
    }

    /// Leaves the socket's file to another process.
    pub(crate) fn leave_file(&self) {
        if let Some(unix) = &self.unix {
            unix.leave_file();
        }
    }
}

/// Binds the admin listener: its addresses, and its unix socket. What was inherited is used where it fits, and closed elsewhere.
///
/// # Errors
/// What is configured cannot be bound.
pub fn bind(settings: &Settings, inherited: Inherited) -> Result<Listener, BindFailed> {
    let tcp = bind_tcp(&settings.address, inherited.tcp)?;
    let is_local = |tcp: &net::TcpListener| tcp.local_addr().is_ok_and(|address| address.ip().is_loopback());
    if settings.tokens.is_empty() && !tcp.iter().all(is_local) {
        tracing::info!("no token in [admin]: only /livez, /readyz and /metrics are served on TCP");
    }
    let unix = match inherited.unix {
        // That process may be in another container, where the path is another file's.
        Some((path, socket)) if settings.socket_paths().contains(&path) && SocketFile::is_served(&path) => {
            let inherited = SocketFile::inherit(socket, &path).map_err(BindFailed::Socket)?;
            Some(inherited)
        }
        _ => bind_socket(settings).map_err(|refused| BindFailed::Socket(refused.into()))?,
    };
    Ok(Listener {
        tcp,
        unix,
        hosts: Hosts::new(settings.hosts.clone()),
        identity: Identity::of_this_process(settings.configuration.clone()),
    })
}

/// Binds the admin listener's addresses. Those that were inherited of another network are bound in this one as well.
///
/// # Errors
/// A configured address cannot be bound. If the default one cannot be bound, that is only a warning.
fn bind_tcp(address: &Address, inherited: Vec<OwnedFd>) -> Result<Vec<net::TcpListener>, BindFailed> {
    let inherited = inherited.into_iter().map(net::TcpListener::from);
    let (mut here, mut elsewhere): (Vec<_>, Vec<_>) = inherited.partition(|socket| network::is_own(socket));
    let mut bind = |address: SocketAddr| {
        // A free port is any that the other process has got.
        let fits = |socket: &net::TcpListener| {
            let bound = socket.local_addr();
            bound.is_ok_and(|at| at == address || address.port() == 0 && at.ip() == address.ip())
        };
        // Who asks in this network, such as the health check of a container, does not reach the sockets of another one.
        let own = match here.iter().position(fits) {
            Some(place) => Ok(here.swap_remove(place)),
            None => net::TcpListener::bind(address),
        };
        let mut sockets: Vec<_> = elsewhere.extract_if(.., |socket| fits(socket)).collect();
        match own {
            Ok(own) => sockets.insert(0, own),
            Err(error) if sockets.is_empty() => return Err(error),
            Err(error) => tracing::warn!(%error, %address, "the admin listener is reached in another network only"),
        }
        for socket in &sockets {
            socket.set_nonblocking(true)?;
        }
        Ok(sockets)
    };
    match address {
        Address::Off => Ok(Vec::new()),
        Address::At(addresses) => {
            let mut all = Vec::new();
            for address in addresses {
                all.extend(bind(*address).map_err(|error| BindFailed::Address(*address, error))?);
            }
            Ok(all)
        }
        Address::Default => match bind(ADDRESS_DEFAULT) {
            Ok(sockets) => Ok(sockets),
            Err(error) => {
                tracing::warn!(%error, address = %ADDRESS_DEFAULT, "no admin listener; set admin.address to have one");
                Ok(Vec::new())
            }
        },
    }
}

/// Tries the configured socket as a start would bind it, and removes it again. Why it is refused, if it is; one of the default ones never is.
pub fn probe_socket(settings: &Settings) -> Option<SocketRefused> {
    let paths = settings.socket_paths();
    match settings.socket {
        Socket::At(_) => SocketFile::bind(paths.first()?, Purpose::Admin).err(),
        Socket::Default => None,
    }
}

/// Binds the configured socket, or the first of the default ones that can be had. One of these that cannot is only a warning.
fn bind_socket(settings: &Settings) -> Result<Option<SocketFile>, SocketRefused> {
    let bind = |path: &PathBuf| SocketFile::bind(path, Purpose::Admin);
    let paths = settings.socket_paths();
    if let Socket::At(_) = settings.socket {
        return paths.first().map(bind).transpose();
    }
    let usable = |path: &&PathBuf| path.parent().is_some_and(is_ours);
    let Some(path) = paths.iter().find(usable) else {
        if !paths.is_empty() {
            tracing::info!("no admin socket: there is no runtime directory; set socket in [admin] to have one");
        }
        return Ok(None);
    };
    match bind(path) {
        Ok(socket) => Ok(Some(socket)),
        Err(refused) => {
            tracing::warn!(socket = %path.display(), why = %refused, "no admin socket");
            Ok(None)
        }
    }
}
