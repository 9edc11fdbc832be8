//! An address that cannot be opened: which, for whom, and what would do.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::admin;
use crate::config::Config;
use crate::path::accept;

/// An address that the system refuses to a listener. [`start`](super::start) and a reload return it inside of an [`io::Error`].
#[derive(Debug)]
pub struct BindError {
    /// The name of the listener; `None` for the admin listener.
    pub listener: Option<String>,
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

impl BindError {
    /// What is refused, if `error` is about an address.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    /// What to do about an address that this machine does not have: perhaps not yet, as with VRRP, or never, behind NAT.
    pub fn not_here(&self) -> String {
        let (family, every) = match self.address {
            SocketAddr::V4(_) => ("ipv4", "0.0.0.0"),
            SocketAddr::V6(_) => ("ipv6", "[::]"),
        };
        let port = self.address.port();
        let later = match self.listener {
            Some(_) => "set freebind = true for this listener, or net",
            None => "set net",
        };
        format!(
            "this machine does not have the address: listen on {every}:{port}, or, if it will have it later, {later}.{family}\
             .ip_nonlocal_bind = 1 for all programs"
        )
    }
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        Self::new(error.source.kind(), error)
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.listener {
            Some(name) => write!(f, "listener {name}: ")?,
            None => f.write_str("admin.address: ")?,
        }
        write!(f, "{}: {}", self.address, self.source)?;
        match self.source.kind() {
            io::ErrorKind::AddrNotAvailable => write!(f, "; {}", self.not_here()),
            _ => Ok(()),
        }
    }
}

// The source is part of the text.
impl Error for BindError {}

/// Tries every address of a configuration as [`start`](super::start) would, without listening there: what the system refuses.
pub fn probe(config: &Config) -> Vec<BindError> {
    let admin: &[SocketAddr] = match &config.admin.address {
        admin::Address::At(addresses) => addresses,
        // One that is taken is a warning.
        admin::Address::Default | admin::Address::Off => &[],
    };
    let admin = admin.iter().map(|address| (None, *address, false));
    let listeners = config.listeners.iter();
    let listeners = listeners.map(|listener| (Some(listener.name.clone()), listener.address, listener.freebind));
    let refused = |(listener, address, freebind)| {
        let source = accept::probe(address, freebind).err()?;
        Some(BindError {
            listener,
            address,
            source,
        })
    };
    admin.chain(listeners).filter_map(refused).collect()
}
