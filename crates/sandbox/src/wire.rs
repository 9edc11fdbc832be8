//! What carries the MQTT of a node's client: a TCP stream, or WebSocket messages over it.
//!
//! A library reads and writes the frames here, so that the balancer's reader of frames is tested against another
//! implementation.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{StatusCode, response};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::packet::PACKET_BYTES_MAX;

const READ_BYTES: usize = 64 * 1024;

/// The read buffer of a WebSocket client, which it keeps at rest.
const FRAME_READ_BYTES: usize = 4 * 1024;

/// Most bytes of MQTT in one message to a client.
const MESSAGE_BYTES: usize = 16 * 1024;

/// The path and the subprotocols of MQTT.
const PATH: &str = "/mqtt";
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a listener expects below MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Ws,
}

/// A client's stream.
pub(super) struct Wire {
    socket: TcpStream,
    /// With WebSocket only.
    frames: Option<RefCell<WebSocketContext>>,
}

impl Wire {
    pub(super) fn new(socket: TcpStream, transport: Transport) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(FRAME_READ_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(4 * MESSAGE_BYTES)
            .max_message_size(Some(PACKET_BYTES_MAX))
            .max_frame_size(Some(PACKET_BYTES_MAX));
        let frames =
            (transport == Transport::Ws).then(|| RefCell::new(WebSocketContext::new(Role::Server, Some(config))));
        Self { socket, frames }
    }

    /// The stream below.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// With WebSocket, waits for the client's upgrade request, and answers it.
    pub(super) async fn open(&mut self) -> io::Result<()> {
        if self.frames.is_none() {
            return Ok(());
        }
        // Borrowed, so that the stream can be reset if the node dies meanwhile.
        let (read, write) = self.socket.split();
        accept_hdr_async(tokio::io::join(read, write), accept_upgrade)
            .await
            .map_err(io::Error::other)?;
        Ok(())
    }

    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.socket.ready(interest).await
    }

    /// Appends what has arrived; fails at the end of the stream.
    pub(super) fn receive(&self, incoming: &mut BytesMut) -> io::Result<()> {
        let Some(frames) = &self.frames else {
            return receive(&self.socket, incoming);
        };
        let mut frames = frames.borrow_mut();
        let full = incoming.len() + READ_BYTES;
        // The socket stays readable until a read would block, so complete frames that are left here are read later.
        while incoming.len() < full {
            match frames.read(&mut NonBlocking(&self.socket)) {
                Ok(Message::Binary(payload)) => incoming.extend_from_slice(&payload),
                // Answered by the library.
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(_)) => return Err(ErrorKind::UnexpectedEof.into()),
                // MQTT is binary (MQTT 5, 6.0).
                Ok(Message::Text(_) | Message::Frame(_)) => {
                    return Err(ErrorKind::InvalidData.into());
                }
                Err(error) => return would_block(error).map(drop),
            }
        }
        Ok(())
    }

    /// Sends as much as the socket takes now.
    pub(super) fn send(&self, bytes: &mut BytesMut) -> io::Result<Sent> {
        let mut progress = false;
        let Some(frames) = &self.frames else {
            while !bytes.is_empty() {
                match self.socket.try_write(bytes) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(sent) => bytes.advance(sent),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
                progress = true;
            }
            let is_all = bytes.is_empty();
            return Ok(Sent { progress, is_all });
        };
        let (mut frames, mut socket) = (frames.borrow_mut(), NonBlocking(&self.socket));
        loop {
            // The rest of the previous message, and pongs.
            if let Err(error) = frames.flush(&mut socket) {
                would_block(error)?;
                let is_all = false;
                return Ok(Sent { progress, is_all });
            }
            if bytes.is_empty() {
                let is_all = true;
                return Ok(Sent { progress, is_all });
            }
            let part = bytes.split_to(bytes.len().min(MESSAGE_BYTES)).freeze();
            progress = true;
            if let Err(error) = frames.write(&mut socket, Message::Binary(part)) {
                // The library keeps it, and continues at the next flush.
                would_block(error)?;
            }
        }
    }

    /// Ends the stream towards the client.
    pub(super) fn finish(&self) -> io::Result<()> {
        if let Some(frames) = &self.frames {
            // A client that does not read, or has sent a close frame already, needs none.
            let _ = frames.borrow_mut().close(&mut NonBlocking(&self.socket), None);
        }
        SockRef::from(&self.socket).shutdown(std::net::Shutdown::Write)
    }

    /// Reads and discards what has arrived; fails at the end of the stream.
    pub(super) fn discard(&self, scratch: &mut BytesMut) -> io::Result<()> {
        let received = receive(&self.socket, scratch);
        scratch.clear();
        received
    }
}

/// The outcome of a send.
pub(super) struct Sent {
    /// Whether the socket took anything.
    pub(super) progress: bool,
    /// Whether all bytes were sent.
    pub(super) is_all: bool,
}

fn receive(socket: &TcpStream, incoming: &mut BytesMut) -> io::Result<()> {
    incoming.reserve(READ_BYTES);
    match socket.try_read_buf(incoming) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Turns an error that only means that the socket is not ready into `Ok`.
fn would_block(error: Error) -> io::Result<()> {
    match error {
        Error::Io(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Error::Io(error) => Err(error),
        error => Err(io::Error::other(error)),
    }
}

#[allow(clippy::result_large_err, reason = "the library defines the type of the answer")]
fn accept_upgrade(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let refuse = |status| {
        let refused = response::Builder::new().status(status).body(None);
        // A status and nothing else is always a response.
        Err(refused.unwrap_or_default())
    };
    if request.uri().path() != PATH {
        return refuse(StatusCode::NOT_FOUND);
    }
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let granted = offers
        .iter()
        .filter_map(|offer| offer.to_str().ok())
        .flat_map(|offer| offer.split(','))
        .find_map(|offer| SUBPROTOCOLS.into_iter().find(|known| *known == offer.trim()));
    let Some(granted) = granted else {
        return refuse(StatusCode::BAD_REQUEST);
    };
    let headers = response.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(granted));
    Ok(response)
}

/// The socket as `Read` and `Write`, which return `WouldBlock` instead of waiting.
struct NonBlocking<'a>(&'a TcpStream);

impl Read for NonBlocking<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for NonBlocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
