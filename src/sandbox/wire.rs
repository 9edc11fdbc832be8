//! What carries a node's MQTT: a TCP stream as it is, or WebSocket messages over it.
//!
//! Frames are read and written by a library here, so that the balancer's own reader of frames meets another one's.

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

/// What a WebSocket client's connection owns at rest.
const FRAME_READ_BYTES: usize = 4 * 1024;

/// The most MQTT in one message to a client.
const MESSAGE_BYTES: usize = 16 * 1024;

/// Where MQTT is, and what it is called there.
const PATH: &str = "/mqtt";
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// What a listener's clients speak below MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Ws,
}

/// A client's stream.
pub(super) struct Wire {
    socket: TcpStream,
    /// Where MQTT comes in WebSocket messages.
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
        let frames = (transport == Transport::Ws)
            .then(|| RefCell::new(WebSocketContext::new(Role::Server, Some(config))));
        Self { socket, frames }
    }

    /// The stream below.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Answers the client's upgrade, where there is one to wait for.
    pub(super) async fn open(&mut self) -> io::Result<()> {
        if self.frames.is_none() {
            return Ok(());
        }
        // Borrowed, so that a node that dies meanwhile can reset the stream.
        let (read, write) = self.socket.split();
        accept_hdr_async(tokio::io::join(read, write), judge)
            .await
            .map_err(io::Error::other)?;
        Ok(())
    }

    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.socket.ready(interest).await
    }

    /// Adds what has arrived; fails at the end of the stream.
    pub(super) fn receive(&self, incoming: &mut BytesMut) -> io::Result<()> {
        let Some(frames) = &self.frames else {
            return receive(&self.socket, incoming);
        };
        let mut frames = frames.borrow_mut();
        let full = incoming.len() + READ_BYTES;
        // The socket stays readable until this has met its end: whole frames that are left here are not forgotten.
        while incoming.len() < full {
            match frames.read(&mut Unwaiting(&self.socket)) {
                Ok(Message::Binary(payload)) => incoming.extend_from_slice(&payload),
                // Answered by the library.
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(_)) => return Err(ErrorKind::UnexpectedEof.into()),
                // MQTT is binary (MQTT 5, 6.0).
                Ok(Message::Text(_) | Message::Frame(_)) => {
                    return Err(ErrorKind::InvalidData.into());
                }
                Err(error) => return is_waiting(error).map(drop),
            }
        }
        Ok(())
    }

    /// Sends as much as the socket takes now: whether that was anything, and whether all of it is gone.
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
        let (mut frames, mut socket) = (frames.borrow_mut(), Unwaiting(&self.socket));
        loop {
            // What is left of the message before, and pongs.
            if let Err(error) = frames.flush(&mut socket) {
                is_waiting(error)?;
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
                // The library has it, and goes on with the next flush.
                is_waiting(error)?;
            }
        }
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish(&self) -> io::Result<()> {
        if let Some(frames) = &self.frames {
            // A client that takes nothing, or has said the same already, needs no close frame.
            let _ = frames
                .borrow_mut()
                .close(&mut Unwaiting(&self.socket), None);
        }
        SockRef::from(&self.socket).shutdown(std::net::Shutdown::Write)
    }

    /// Takes what has arrived, and forgets it; fails at the end of the stream.
    pub(super) fn discard(&self, scratch: &mut BytesMut) -> io::Result<()> {
        let received = receive(&self.socket, scratch);
        scratch.clear();
        received
    }
}

/// What became of bytes that were to be sent.
pub(super) struct Sent {
    /// Whether the client took anything.
    pub(super) progress: bool,
    /// Whether nothing waits any more.
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

/// Whether the library only waits for the socket, which is no fault.
fn is_waiting(error: Error) -> io::Result<()> {
    match error {
        Error::Io(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Error::Io(error) => Err(error),
        error => Err(io::Error::other(error)),
    }
}

#[allow(
    clippy::result_large_err,
    reason = "the library says what an answer is"
)]
fn judge(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
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
        .find_map(|offer| {
            SUBPROTOCOLS
                .into_iter()
                .find(|known| *known == offer.trim())
        });
    let Some(granted) = granted else {
        return refuse(StatusCode::BAD_REQUEST);
    };
    let headers = response.headers_mut();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(granted));
    Ok(response)
}

/// The socket as a library wants it that does not wait.
struct Unwaiting<'a>(&'a TcpStream);

impl Read for Unwaiting<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl Write for Unwaiting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
