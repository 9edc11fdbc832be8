//! Asks another balancer's control API, on a connection of its own. Time and bytes are bounded.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::tokens::Secret;

/// How long an answer may take, the look-up of the name included.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The most bytes of an answer that are read: the overview of some thousand nodes.
const ANSWER_BYTES_MAX: usize = 2 << 20;

/// The most bytes of an answer's head.
const HEAD_MAX: usize = 16 * 1024;

/// The answer of a peer, which is `HOST:PORT`, to a GET of this path: its status and its body.
pub(super) async fn get(peer: &str, path: &str, token: Option<&Secret>) -> io::Result<(u16, Vec<u8>)> {
    tokio::time::timeout(ANSWER_MAX, ask(peer, path, token))
        .await
        .unwrap_or_else(|_| {
            let message = format!("no answer within {} s", ANSWER_MAX.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, message))
        })
}

async fn ask(peer: &str, path: &str, token: Option<&Secret>) -> io::Result<(u16, Vec<u8>)> {
    let socket = TcpStream::connect(&*addresses(peer).await?).await?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(io::Error::other)?;
    let mut request = Request::get(path).header(HOST, peer);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token.bearer());
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    // Ends with the answer or at the timeout, when `sender` and the body are dropped.
    tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
    let body = body.collect().await.map_err(io::Error::other)?;
    Ok((status, body.to_bytes().to_vec()))
}

/// A look-up of a name, on a thread that nothing can stop; one for each name at most.
type LookUp = Arc<tokio::sync::Mutex<Option<JoinHandle<io::Result<Vec<SocketAddr>>>>>>;

/// The look-ups of the names in the configuration.
static LOOK_UPS: LazyLock<Mutex<HashMap<String, LookUp>>> = LazyLock::new(Mutex::default);

/// The addresses of a peer. A look-up that hangs is waited for again instead of being started again, so that each name has one thread
/// at most.
async fn addresses(peer: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = peer.parse() {
        return Ok(vec![address]);
    }
    let running = {
        // Nothing panics while it is locked.
        let mut running = LOOK_UPS.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(running.entry(peer.to_owned()).or_default())
    };
    let mut running = running.lock().await;
    let look_up = running.get_or_insert_with(|| {
        let peer = peer.to_owned();
        tokio::spawn(async move { Ok(tokio::net::lookup_host(peer).await?.collect()) })
    });
    let found = look_up.await.map_err(io::Error::other);
    *running = None;
    found?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_needs_no_look_up_and_a_name_is_looked_up_each_time() {
        let address: SocketAddr = "192.0.2.7:9883".parse().expect("an address");
        assert_eq!(addresses("192.0.2.7:9883").await.expect("an address"), [address]);
        for _ in 0..2 {
            let found = addresses("localhost:9883").await.expect("addresses");
            assert!(
                found
                    .iter()
                    .all(|found| found.ip().is_loopback() && found.port() == 9883)
            );
            assert!(!found.is_empty());
        }
        let is_known = |name| LOOK_UPS.lock().expect("not poisoned").contains_key(name);
        assert!(is_known("localhost:9883") && !is_known("192.0.2.7:9883"));
    }

    #[tokio::test]
    async fn a_look_up_that_was_given_up_is_waited_for_and_not_started_again() {
        let waiting: LookUp = Arc::default();
        let (told, tell) = tokio::sync::oneshot::channel::<()>();
        let slow = tokio::spawn(async move {
            // Its end does not matter.
            let _ = tell.await;
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], 1))])
        });
        *waiting.lock().await = Some(slow);
        let name = "given-up.invalid:1";
        LOOK_UPS
            .lock()
            .expect("not poisoned")
            .insert(name.to_owned(), Arc::clone(&waiting));
        let given_up = tokio::time::timeout(Duration::from_millis(1), addresses(name)).await;
        assert!(given_up.is_err());
        told.send(()).expect("it waits");
        let found = addresses(name).await.expect("that of the same look-up");
        assert_eq!(found, [SocketAddr::from(([127, 0, 0, 1], 1))]);
    }
}
