//! The HTTP listener for operators: whether the process is alive, whether it is ready for clients, its metrics, and the control API.
//!
//! Runs on control's thread, never on a worker's.

mod accept;
pub mod api;
mod ask;
mod ask_peer;
mod body;
mod client;
mod doctor_series;
mod exposition;
mod forward;
pub(crate) mod history;
mod host;
mod identity;
mod node_series;
mod page;
mod pages;
mod peer;
mod percent;
mod process;
pub(crate) mod settings;
mod socket;
mod status_page;
pub(crate) mod tokens;

use std::future::poll_fn;
use std::io;
use std::net::{self, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::{TcpListener, UnixListener};

pub use api::Api;
pub use ask::{Health, health};
pub use client::{Answer, Client};

pub use exposition::{AdminState, Reloads};
pub use forward::Forward;
use host::Hosts;
pub use identity::Identity;
use pages::Pages;
pub use percent::escaped;
pub use settings::{ADDRESS_DEFAULT, Address, Settings, Socket};
use socket::AdminSocket;
pub use socket::{SocketRefused, probe as probe_socket};
pub use tokens::{Scope, Token};

/// The bound admin listener.
#[derive(Debug)]
pub struct Listener {
    tcp: Vec<net::TcpListener>,
    unix: Option<AdminSocket>,
    hosts: Hosts,
    identity: Identity,
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
}

/// Binds the admin listener's addresses.
///
/// # Errors
/// A configured address cannot be bound. If the default one cannot be bound, that is only a warning.
fn bind_tcp(address: &Address) -> Result<Vec<net::TcpListener>, BindFailed> {
    let bind = |address: SocketAddr| {
        let socket = net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    match address {
        Address::Off => Ok(Vec::new()),
        Address::At(addresses) => {
            let all = addresses.iter().map(|address| {
                let failed = |error| BindFailed::Address(*address, error);
                bind(*address).map_err(failed)
            });
            all.collect()
        }
        Address::Default => match bind(ADDRESS_DEFAULT) {
            Ok(socket) => Ok(vec![socket]),
            Err(error) => {
                let error: io::Error = error;
                tracing::warn!(%error, address = %ADDRESS_DEFAULT, "no admin listener; set admin.address to have one");
                Ok(Vec::new())
            }
        },
    }
}

/// Binds the admin listener: its addresses, and its unix socket.
///
/// # Errors
/// What is configured cannot be bound.
pub fn bind(settings: &Settings) -> Result<Listener, BindFailed> {
    let tcp = bind_tcp(&settings.address)?;
    let is_local = |tcp: &net::TcpListener| tcp.local_addr().is_ok_and(|address| address.ip().is_loopback());
    if settings.tokens.is_empty() && !tcp.iter().all(is_local) {
        tracing::info!("no token in [admin]: only /livez, /readyz and /metrics are served on TCP");
    }
    Ok(Listener {
        tcp,
        unix: socket::bind(settings).map_err(|refused| BindFailed::Socket(refused.into()))?,
        hosts: Hosts::new(settings.hosts.clone()),
        identity: Identity::of_this_process(settings.configuration.clone()),
    })
}

/// What could not be bound.
#[derive(Debug)]
pub enum BindFailed {
    /// This address.
    Address(SocketAddr, io::Error),
    /// The unix socket, in words for operators.
    Socket(io::Error),
}

/// Serves requests for ever.
pub async fn serve(listener: Listener, facts: Arc<AdminState>, api: Arc<Api>) {
    let Listener {
        tcp,
        unix,
        hosts,
        identity,
    } = listener;
    let pages = Arc::new(Pages::new(facts, hosts, identity, api));
    let mut serving: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    for tcp in tcp {
        let serve = accept::serve(TcpListener::from_std(tcp), Arc::clone(&pages));
        serving.push(Box::pin(serve));
    }
    if let Some(unix) = unix {
        let pages = Arc::clone(&pages);
        serving.push(Box::pin(async move {
            let listener = unix.listener.try_clone().and_then(UnixListener::from_std);
            accept::serve(listener, pages).await;
            // Not before: its file is removed then.
            drop(unix);
        }));
    }
    poll_fn(|cx| {
        for serve in &mut serving {
            // None of them ends.
            let _ = serve.as_mut().poll(cx);
        }
        Poll::<()>::Pending
    })
    .await
}
