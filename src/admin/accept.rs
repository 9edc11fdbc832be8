//! Accepts connections to the admin listener, on TCP and on its unix socket, and keeps them from taking what others need.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Ready;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::io::{DupFlags, dup3};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Serving;
use super::api::reader::Lasting;
use super::pages::Pages;
use super::peer::Peer;
use crate::net::descriptors::{self, Reserve};

/// The most connections at a time. One more closes the oldest: an answer takes milliseconds, so the oldest peer does not read or
/// sends no request, and must not block health checks.
const CONNECTIONS_MAX: usize = 16;

/// How long a peer may take to send a request's head.
const HEAD_MAX: Duration = Duration::from_secs(5);

/// How long a connection may last. A scrape takes milliseconds; a peer that does not read must be closed.
const CONNECTION_MAX: Duration = Duration::from_secs(60);

/// How often it is looked whether a connection has become one that follows the events.
const LOOK: Duration = Duration::from_secs(1);

/// How long a connection may last that uses the reserved descriptor. All other peers wait for it, and a health check with a timeout
/// of a second must still be answered if a few peers before it send nothing.
const LAST_CONNECTION_MAX: Duration = Duration::from_millis(200);

/// How long the listener pauses if no descriptor is left for a connection.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection that is being answered.
struct Answering {
    task: JoinHandle<()>,
    follows: Follows,
}

/// The long answer that a connection is given, if it is one.
type Follows = Arc<OnceLock<Lasting>>;

/// A socket that yields connections.
pub(super) trait Accept: AsFd + Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Stream>>;

    fn peer(stream: &Self::Stream) -> Peer;

    fn into_fd(stream: Self::Stream) -> io::Result<OwnedFd>;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        self.poll_accept(cx).map_ok(|(stream, _)| stream)
    }

    fn peer(_: &TcpStream) -> Peer {
        Peer::Tcp
    }

    fn into_fd(stream: TcpStream) -> io::Result<OwnedFd> {
        Ok(stream.into_std()?.into())
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<UnixStream>> {
        self.poll_accept(cx).map_ok(|(stream, _)| stream)
    }

    fn peer(stream: &UnixStream) -> Peer {
        let known = stream.peer_cred().ok();
        Peer::Unix {
            uid: known.as_ref().map(tokio::net::unix::UCred::uid),
            pid: known.and_then(|peer| peer.pid()),
        }
    }

    fn into_fd(stream: UnixStream) -> io::Result<OwnedFd> {
        Ok(stream.into_std()?.into())
    }
}

/// Serves the connections of one listener for ever. If another process takes over, those that are open end with their next answer.
pub(super) async fn serve<L: Accept>(made: io::Result<L>, pages: Arc<Pages>, serving: watch::Receiver<Serving>) {
    let made = made.and_then(|listener| Ok((listener, Reserve::new()?)));
    let (listener, mut reserve) = match made {
        Ok(made) => made,
        Err(error) => {
            tracing::error!(%error, "no admin listener");
            return std::future::pending().await;
        }
    };
    let mut answering: VecDeque<Answering> = VecDeque::with_capacity(CONNECTIONS_MAX);
    loop {
        let accepted = std::future::poll_fn(|cx| listener.poll_accept(cx)).await.ok();
        let socket = match accepted {
            Some(socket) if !descriptors::is_reserve_lacking() => socket,
            // No descriptor is left, or a listener's reserve needs the one that was accepted.
            accepted => {
                if accepted.is_none() {
                    // Idle connections hold descriptors that others need.
                    answering.drain(..).for_each(|connection| connection.task.abort());
                }
                reserve = answer_with(reserve, accepted, &listener, &pages).await;
                continue;
            }
        };
        answering.retain(|connection| !connection.task.is_finished());
        // Those who follow the events stay, and have a limit of their own.
        let is_short = |connection: &Answering| connection.follows.get().is_none();
        if answering.iter().filter(|connection| is_short(connection)).count() >= CONNECTIONS_MAX
            && let Some(oldest) = answering.iter().position(is_short)
            && let Some(oldest) = answering.remove(oldest)
        {
            oldest.task.abort();
        }
        let (pages, follows) = (Arc::clone(&pages), Follows::default());
        let reader = Arc::clone(&follows);
        let mut serving = serving.clone();
        let task = tokio::spawn(async move {
            let peer = L::peer(&socket);
            let taken_over = async {
                // Who can change it lasts as long as what is served.
                let _ = serving.wait_for(|serving| *serving == Serving::NoMore).await;
            };
            let connection = answer(socket, &peer, &pages, &reader, Some(taken_over));
            // How the connection ended does not matter.
            tokio::select! {
                () = connection => {}
                () = lasts_too_long(&reader) => {}
            }
        });
        answering.push_back(Answering { task, follows });
    }
}

/// Answers one peer, `accepted` or the next one in the backlog, with the descriptor of `reserve`. Returns the reserve once it has
/// its descriptor again.
///
/// If the reserve were lent for as long as the request takes, no client could be accepted meanwhile. So its descriptor is given
/// away, and the new reserve is made from the peer's descriptor itself, which no other thread can get in between.
async fn answer_with<L: Accept>(reserve: Reserve, accepted: Option<L::Stream>, listener: &L, pages: &Pages) -> Reserve {
    let waiting = || match listener.poll_accept(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(socket)) => Some(socket),
        _ => None,
    };
    let mut reserve = match reserve.give(|| accepted.or_else(waiting)) {
        Ok(mut socket) => {
            let peer = L::peer(&socket);
            let follows = Follows::default();
            let answer = answer(&mut socket, &peer, pages, &follows, None::<Ready<()>>);
            // How the connection ended does not matter.
            let _ = tokio::time::timeout(LAST_CONNECTION_MAX, answer).await;
            close(socket, listener).unwrap_or_else(|_| Reserve::lacking())
        }
        // No peer is waiting, or another thread took the descriptor.
        Err(reserve) => {
            tokio::time::sleep(PAUSE).await;
            reserve
        }
    };
    // At once, not only at the next call: until then no client is accepted.
    while !reserve.take_back() {
        tokio::time::sleep(PAUSE).await;
    }
    reserve
}

/// Closes `socket` and in the same step (dup3) lets its descriptor refer to `listener`, which is open in any case.
fn close<L: Accept>(socket: L::Stream, listener: &L) -> io::Result<Reserve> {
    let mut descriptor = L::into_fd(socket)?;
    dup3(listener, &mut descriptor, DupFlags::CLOEXEC)?;
    Ok(descriptor.into())
}

/// Returns when a connection has lasted for too long: one that follows the events, when it falls behind.
async fn lasts_too_long(follows: &OnceLock<Lasting>) {
    let due = Instant::now() + CONNECTION_MAX;
    while Instant::now() < due {
        tokio::time::sleep(LOOK).await;
        if let Some(lasting) = follows.get() {
            return lasting.lasts_too_long().await;
        }
    }
}

/// Serves one connection: one request, or as many as come until `taken_over`. A reader of events becomes known in `follows`.
async fn answer(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    peer: &Peer,
    pages: &Pages,
    follows: &OnceLock<Lasting>,
    taken_over: Option<impl Future<Output = ()>>,
) {
    let answer = service_fn(|request| async move {
        let response = pages.answer(request, peer).await;
        if let Some(lasting) = response.extensions().get::<Lasting>() {
            // A connection has one at most, unless it was read to its end.
            let _ = follows.set(lasting.clone());
        }
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .keep_alive(taken_over.is_some())
        // `nc -N` closes its side behind the request, and still waits for the answer.
        .half_close(true)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(socket), answer);
    let mut connection = pin!(connection);
    // How the connection ended does not matter.
    if let Some(taken_over) = taken_over {
        tokio::select! {
            // A request that has come already is read first.
            biased;
            _ = connection.as_mut() => return,
            () = taken_over => connection.as_mut().graceful_shutdown(),
        }
    }
    let _ = connection.await;
}
