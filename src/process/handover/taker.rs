//! Takes over from another process: starts everything, holds what that process has, and serves once it lets go.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use rustix::process::{Resource, getrlimit};

use crate::admin::Serving;
use crate::base::build;
use crate::base::events::Change;
use crate::base::supervise::Task;
use crate::cluster::NodeId;
use crate::config::Config;
use crate::handover::messages::{Complete, Hello, Knowledge, ListenSocket, Manifest, Placement, State};
use crate::handover::{self, Deadlines, Failure, Offered, Step};
use crate::net::descriptors;
use crate::path::accept::Listener;
use crate::path::handover::Names;
use crate::path::listeners::ListenerEntry;
use crate::path::record::ListenerId;
use crate::process::Running;
use crate::process::handle::{Handle, NodeWish};
use crate::process::inherited::{Inherited, InheritedSocket};
use crate::process::start::Starting;
use crate::worker::handover::{Learn, Park};
use crate::worker::{Asked, Order, WorkerHandle};

/// Where the number of a connection names the worker that has accepted it.
const WORKER_SHIFT: u32 = 48;

/// Starts a balancer that takes over from the process at the other end of `socket`: its listeners, its connections, its placements, the
/// operator's wishes and what it has counted. Returns once it serves; connections that were being set up follow in the background. Must
/// not be called on a thread of a runtime.
///
/// # Errors
/// Why not. The other process goes on as if nothing had happened, and this one must exit at once without closing anything gracefully.
pub fn take_over(config: Config, socket: UnixStream) -> io::Result<Running> {
    // The other process asks for the limit.
    descriptors::raise_limit();
    let (reply, runs) = sync_channel(1);
    std::thread::Builder::new()
        .name("remora-handover".into())
        .spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(reply.send(Err(error))),
            };
            runtime.block_on(take(config, socket, reply));
        })?;
    runs.recv()
        .unwrap_or_else(|_| Err(io::Error::other("the handover panicked")))
}

async fn take(config: Config, socket: UnixStream, reply: SyncSender<io::Result<Running>>) {
    let mut process = Process {
        config: Some(config),
        manifest: Manifest::default(),
        inherited: Inherited::default(),
        starting: None,
        handle: None,
        names: Arc::default(),
        adopting: Vec::new(),
        is_first: true,
        reply,
    };
    let taken = async {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UnixStream::from_std(socket)?;
        handover::take(socket, &mut process, Deadlines::default()).await
    };
    match taken.await {
        Ok(taken) => {
            let Manifest { program: version, .. } = &process.manifest;
            let pid = process.giver;
            let moved = taken.relays;
            if let Some(handle) = &process.handle {
                handle.events().push(Change::Handover {
                    result: "took".to_owned(),
                    moved,
                    left: 0,
                    error: None,
                });
            }
            tracing::info!(event = Change::HANDOVER, pid, version, moved, rounds = taken.rounds, "took over");
            if let Some(why) = taken.cut_short {
                tracing::warn!(error = %why, "the other process was gone before all that could move had moved");
            }
        }
        Err(failure) => {
            let reply = process.reply.clone();
            // Nothing of it may be closed gracefully: the other process goes on with all of it.
            std::mem::forget(process);
            // The main thread waits for it, and exits.
            let _ = reply.send(Err(io::Error::other(failure)));
        }
    }
}
