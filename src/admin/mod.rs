//! The HTTP listener for operators: whether the process is alive, whether it is ready for clients, its metrics, and the control API.
//!
//! Runs on control's thread, never on a worker's.

mod accept;
pub mod api;
mod ask;
mod ask_peer;
mod bind;
mod body;
mod client;
mod doctor_series;
mod exposition;
mod forward;
mod handovers;
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
mod status_page;
pub(crate) mod tokens;

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;

pub use api::Api;
pub use ask::{Health, health};
pub use bind::{BindFailed, Inherited, Listener, bind, probe_socket};
pub use client::{Answer, Client};

pub use exposition::{AdminState, Reloads};
pub use forward::Forward;
pub use handovers::Handovers;
pub use identity::Identity;
use pages::Pages;
pub use percent::escaped;
pub use settings::{ADDRESS_DEFAULT, Address, Settings, Socket};
pub use tokens::{Scope, Token};

/// Whether the admin listener takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serving {
    /// Not yet: another process does.
    NotYet,
    /// It does.
    Now,
    /// Not any more: another process does. What was asked before is answered still, and then the connection is closed.
    NoMore,
}

/// Serves requests while it may, for ever.
pub(crate) async fn serve(
    listener: Arc<Listener>,
    mut serving: watch::Receiver<Serving>,
    facts: Arc<AdminState>,
    api: Arc<Api>,
) {
    let pages = Arc::new(Pages::new(
        facts,
        listener.hosts.clone(),
        listener.identity.clone(),
        api,
    ));
    // Who can change it lasts as long as what is served.
    let _ = serving.wait_for(|serving| *serving != Serving::NotYet).await;
    let accepting = serving.clone();
    tokio::select! {
        // No client that was told so by the end of its connection is accepted here again.
        biased;
        Ok(_) = serving.wait_for(|serving| *serving == Serving::NoMore) => {}
        never = accept_all(&listener, &pages, &accepting) => match never {},
    }
    drop(listener);
    std::future::pending().await
}

async fn accept_all(listener: &Listener, pages: &Arc<Pages>, accepting: &watch::Receiver<Serving>) -> Infallible {
    let mut serving: Vec<Pin<Box<dyn Future<Output = ()> + Send>>> = Vec::new();
    for tcp in &listener.tcp {
        let tcp = tcp.try_clone().and_then(TcpListener::from_std);
        serving.push(Box::pin(accept::serve(tcp, Arc::clone(pages), accepting.clone())));
    }
    if let Some(unix) = &listener.unix {
        let unix = unix.listener.try_clone().and_then(UnixListener::from_std);
        serving.push(Box::pin(accept::serve(unix, Arc::clone(pages), accepting.clone())));
    }
    poll_fn(|cx| {
        for serve in &mut serving {
            // None of them ends.
            let _ = serve.as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await
}
