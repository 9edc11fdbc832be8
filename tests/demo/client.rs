//! A client that asserts what it is sent.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::BytesMut;
use mqttbytes::{QoS, v5};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

use super::DEADLINE;

/// How long nothing must come, where nothing may.
const SILENCE: Duration = Duration::from_millis(500);

/// Calls again where a signal has interrupted the call: with a timeout on a socket, the kernel does not do so itself.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// A client of MQTT 5, with packets as mqttbytes writes and reads them.
pub(crate) struct Client {
    pub(crate) socket: TcpStream,
    /// Where MQTT goes in WebSocket messages over the socket.
    pub(crate) frames: Option<WebSocket<TcpStream>>,
    incoming: BytesMut,
}

/// What a CONNACK said.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) session_present: bool,
    pub(crate) node: String,
    pub(crate) assigned: Option<String>,
}

/// How a client connects.
#[derive(Clone, Copy)]
pub(crate) enum Session {
    Clean,
    /// Outlives the connection by an hour.
    Kept,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr, client_id: &str, session: Session) -> (Self, Accepted) {
        Self::open(address).introduce(client_id, session)
    }

    pub(crate) fn connect_ws(address: SocketAddr, client_id: &str, session: Session) -> (Self, Accepted) {
        let client = Self::open_ws(address, "/mqtt", "mqtt").expect("an upgrade");
        client.introduce(client_id, session)
    }

    pub(crate) fn introduce(mut self, client_id: &str, session: Session) -> (Self, Accepted) {
        let mut connect = v5::Connect::new(client_id);
        connect.clean_session = matches!(session, Session::Clean);
        let expiry = match session {
            Session::Clean => 0,
            Session::Kept => 3_600,
        };
        connect.properties = Some(v5::ConnectProperties {
            session_expiry_interval: Some(expiry),
            receive_maximum: None,
            max_packet_size: None,
            topic_alias_max: None,
            request_response_info: None,
            request_problem_info: None,
            user_properties: Vec::new(),
            authentication_method: None,
            authentication_data: None,
        });
        self.send(|out| connect.write(out));
        let v5::Packet::ConnAck(connack) = self.packet() else {
            panic!("no CONNACK");
        };
        assert_eq!(connack.code, v5::ConnectReturnCode::Success);
        let properties = connack.properties.expect("properties");
        let mut users = properties.user_properties.into_iter();
        let accepted = Accepted {
            session_present: connack.session_present,
            node: users.find(|(key, _)| key == "node").expect("a node").1,
            assigned: properties.assigned_client_identifier,
        };
        (self, accepted)
    }

    pub(crate) fn open(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).expect("a connection");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self {
            socket,
            frames: None,
            incoming: BytesMut::new(),
        }
    }

    /// Asks for an upgrade; the error says what was answered instead.
    pub(crate) fn open_ws(address: SocketAddr, path: &str, subprotocol: &str) -> Result<Self, String> {
        let mut opened = Self::open(address);
        let url = format!("ws://{address}{path}");
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert(
            "Sec-WebSocket-Protocol",
            HeaderValue::from_str(subprotocol).expect("text"),
        );
        let socket = opened.socket.try_clone().expect("a descriptor");
        let (frames, _) = client(request, socket).map_err(|error| error.to_string())?;
        opened.frames = Some(frames);
        Ok(opened)
    }

    pub(crate) fn send<T>(&mut self, write: impl FnOnce(&mut BytesMut) -> Result<T, mqttbytes::Error>) {
        let mut out = BytesMut::new();
        write(&mut out).expect("a packet");
        self.send_bytes(&out);
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        match &mut self.frames {
            None => self.socket.write_all(bytes).expect("sent"),
            Some(frames) => frames.send(Message::Binary(bytes.to_vec().into())).expect("sent"),
        }
    }

    /// The next packet; fails when none comes in time.
    pub(crate) fn packet(&mut self) -> v5::Packet {
        self.next().expect("a packet before the end")
    }

    /// The next packet; none at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<v5::Packet> {
        loop {
            match v5::read(&mut self.incoming, 1 << 20) {
                Ok(packet) => return Some(packet),
                Err(mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("{error:?} in {:02x?}", self.incoming),
            }
            if let Some(frames) = &mut self.frames {
                match frames.read() {
                    Ok(Message::Binary(payload)) => self.incoming.extend_from_slice(&payload),
                    Ok(Message::Close(_)) => return None,
                    other => panic!("waiting for a packet: {other:?}"),
                }
                continue;
            }
            let mut bytes = [0; 4_096];
            match uninterrupted(|| self.socket.read(&mut bytes)) {
                Ok(0) => return None,
                Ok(read) => self.incoming.extend_from_slice(&bytes[..read]),
                Err(error) => panic!("waiting for a packet: {error}"),
            }
        }
    }

    pub(crate) fn subscribe(&mut self, filter: &str) {
        let mut subscribe = v5::Subscribe::new(filter, QoS::AtLeastOnce);
        subscribe.pkid = 1;
        self.send(|out| subscribe.write(out));
        assert!(matches!(self.packet(), v5::Packet::SubAck(_)));
    }

    /// Publishes with acknowledgement, and waits for it.
    pub(crate) fn publish(&mut self, topic: &str, payload: &str) {
        let mut publish = v5::Publish::new(topic, QoS::AtLeastOnce, payload);
        publish.pkid = 1;
        self.send(|out| publish.write(out));
        assert!(matches!(self.packet(), v5::Packet::PubAck(_)));
    }

    /// The payload of the next packet, which must be a message.
    pub(crate) fn receive(&mut self) -> String {
        let v5::Packet::Publish(publish) = self.packet() else {
            panic!("no PUBLISH");
        };
        let acknowledged = v5::PubAck::new(publish.pkid);
        self.send(|out| acknowledged.write(out));
        String::from_utf8(publish.payload.to_vec()).expect("UTF-8")
    }

    /// Whether nothing comes, although the node answers a ping that was sent behind everything else.
    pub(crate) fn hears_nothing(&mut self) -> bool {
        self.send_bytes(&[0xC0, 0]);
        assert!(matches!(self.packet(), v5::Packet::PingResp));
        self.socket.set_read_timeout(Some(SILENCE)).expect("set");
        let read = uninterrupted(|| self.socket.peek(&mut [0]));
        self.socket.set_read_timeout(Some(DEADLINE)).expect("set");
        read.is_err()
    }

    /// Leaves in order, and returns when the node has closed.
    pub(crate) fn leave(mut self) {
        self.send_bytes(&[0xE0, 0]);
        assert!(self.next().is_none(), "a packet after DISCONNECT");
    }
}
