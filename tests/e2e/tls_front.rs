//! What speaks TLS before a fake node: it takes a PROXY header and TLS off, and passes both on as the node expects them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::node::own_address;
use crate::wait::Watched;

#[derive(Debug)]
pub(crate) struct TlsFront {
    pub address: SocketAddr,
    listener: TcpListener,
    seen: Arc<Watched<Vec<Seen>>>,
}

/// A connection that came to a node's TLS.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Why there was no handshake.
    pub error: Option<String>,
    pub server_name: Option<String>,
    pub certificate: Option<CertificateDer<'static>>,
    pub resumed: bool,
    /// It has said that it says no more.
    pub said_end: bool,
}

impl TlsFront {
    /// Before this node; PROXY headers come first where `headers`.
    pub(crate) fn before(node: SocketAddr, config: ServerConfig, headers: bool) -> Self {
        let listener = TcpListener::bind((own_address(), 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let accepting = listener.try_clone().expect("a descriptor");
        let seen = Arc::new(Watched::<Vec<Seen>>::default());
        let known = Arc::clone(&seen);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                accepting.set_nonblocking(true).expect("an option");
                let listener = tokio::net::TcpListener::from_std(accepting).expect("a listener");
                while let Ok((client, _)) = listener.accept().await {
                    let number = known.change(|seen| {
                        seen.push(Seen::default());
                        seen.len() - 1
                    });
                    let (known, acceptor) = (Arc::clone(&known), acceptor.clone());
                    tokio::spawn(async move {
                        let see = |see: &dyn Fn(&mut Seen)| known.change(|seen| see(&mut seen[number]));
                        if let Err(error) = serve(client, node, acceptor, headers, &see).await {
                            see(&|seen| seen.error = Some(error.to_string()));
                        }
                    });
                }
            });
        });
        Self {
            address,
            listener,
            seen,
        }
    }

    /// Waits until the `number`th connection is as `find` wants it.
    #[track_caller]
    pub(crate) fn until<T>(&self, number: usize, what: &str, find: impl Fn(&Seen) -> Option<T>) -> T {
        self.seen.until_some(what, |seen| seen.get(number).and_then(&find))
    }

    /// How many connections ever came.
    pub(crate) fn dials(&self) -> usize {
        self.seen.lock().len()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        // Wakes who accepts.
        let _ = rustix::net::shutdown(self.listener.as_fd(), rustix::net::Shutdown::Both);
    }
}

async fn serve(
    mut client: TcpStream,
    node: SocketAddr,
    acceptor: TlsAcceptor,
    headers: bool,
    see: &(impl Fn(&dyn Fn(&mut Seen)) + Sync),
) -> io::Result<()> {
    let mut first = Vec::new();
    if headers {
        // Version 2: the length is at its end.
        first.resize(16, 0);
        client.read_exact(&mut first).await?;
        let more = u16::from_be_bytes([first[14], first[15]]);
        first.resize(16 + usize::from(more), 0);
        client.read_exact(&mut first[16..]).await?;
    }
    let tls = acceptor.accept(client).await?;
    let (_, connection) = tls.get_ref();
    let server_name = connection.server_name().map(str::to_owned);
    let chain = connection.peer_certificates();
    let certificate = chain.map(|chain| chain[0].clone().into_owned());
    let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    see(&|seen| {
        seen.server_name.clone_from(&server_name);
        seen.certificate.clone_from(&certificate);
        seen.resumed = resumed;
    });
    let (mut from_client, mut to_client) = tokio::io::split(tls);
    let (mut from_node, mut to_node) = TcpStream::connect(node).await?.into_split();
    let up = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match from_client.read(&mut buffer).await {
                Ok(0) => {
                    see(&|seen| seen.said_end = true);
                    return to_node.shutdown().await;
                }
                Ok(read) => {
                    first.extend_from_slice(&buffer[..read]);
                    to_node.write_all(&std::mem::take(&mut first)).await?;
                }
                Err(error) => {
                    to_node.shutdown().await?;
                    return Err(error);
                }
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match from_node.read(&mut buffer).await? {
                0 => return to_client.shutdown().await,
                read => to_client.write_all(&buffer[..read]).await?,
            }
            to_client.flush().await?;
        }
    };
    tokio::try_join!(up, down)?;
    Ok(())
}
