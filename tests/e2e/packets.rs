//! Packets for the tests, written by hand: mqttbytes knows neither MQTT 3.1 nor the bridge bit, and writes no binary
//! passwords.

/// A CONNECT in the making.
#[derive(Clone, Debug)]
pub(crate) struct Connect {
    /// 3, 4 or 5; with `0x80` for a bridge.
    pub level: u8,
    pub client_id: Vec<u8>,
    pub clean_start: bool,
    pub keep_alive: u16,
    /// Properties of MQTT 5, without their length.
    pub properties: Vec<u8>,
    /// Topic and payload.
    pub will: Option<(Vec<u8>, Vec<u8>)>,
    pub username: Option<Vec<u8>>,
    pub password: Option<Vec<u8>>,
}

impl Connect {
    /// MQTT 3.1.1, a clean session, no keep alive.
    pub(crate) fn new(client_id: impl AsRef<[u8]>) -> Self {
        Self {
            level: 4,
            client_id: client_id.as_ref().to_vec(),
            clean_start: true,
            keep_alive: 0,
            properties: Vec::new(),
            will: None,
            username: None,
            password: None,
        }
    }

    /// MQTT 5.
    pub(crate) fn v5(client_id: impl AsRef<[u8]>) -> Self {
        Self {
            level: 5,
            ..Self::new(client_id)
        }
    }

    /// MQTT 3.1, whose protocol name is another one.
    pub(crate) fn v31(client_id: impl AsRef<[u8]>) -> Self {
        Self {
            level: 3,
            ..Self::new(client_id)
        }
    }

    /// The client says that it is a bridge.
    pub(crate) fn bridge(mut self) -> Self {
        self.level |= 0x80;
        self
    }

    pub(crate) fn persistent(mut self) -> Self {
        self.clean_start = false;
        self
    }

    pub(crate) fn keep_alive(mut self, seconds: u16) -> Self {
        self.keep_alive = seconds;
        self
    }

    pub(crate) fn session_expiry(mut self, seconds: u32) -> Self {
        self.properties.push(0x11);
        self.properties.extend(seconds.to_be_bytes());
        self
    }

    pub(crate) fn user_property(mut self, name: &[u8], value: &[u8]) -> Self {
        self.properties.push(0x26);
        self.properties.extend(string(name));
        self.properties.extend(string(value));
        self
    }

    /// Enhanced authentication (MQTT 5, 4.12).
    pub(crate) fn authentication(mut self, method: &[u8]) -> Self {
        self.properties.push(0x15);
        self.properties.extend(string(method));
        self
    }

    pub(crate) fn will(mut self, topic: &[u8], payload: &[u8]) -> Self {
        self.will = Some((topic.to_vec(), payload.to_vec()));
        self
    }

    pub(crate) fn username(mut self, username: impl AsRef<[u8]>) -> Self {
        self.username = Some(username.as_ref().to_vec());
        self
    }

    pub(crate) fn password(mut self, password: impl AsRef<[u8]>) -> Self {
        self.password = Some(password.as_ref().to_vec());
        self
    }

    /// The packet.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let is_v5 = self.level & 0x7F == 5;
        let name: &[u8] = match self.level & 0x7F {
            3 => b"MQIsdp",
            _ => b"MQTT",
        };
        let mut body = string(name);
        body.push(self.level);
        let mut flags = 0;
        flags |= u8::from(self.clean_start) << 1;
        flags |= u8::from(self.will.is_some()) << 2;
        flags |= u8::from(self.password.is_some()) << 6;
        flags |= u8::from(self.username.is_some()) << 7;
        body.push(flags);
        body.extend(self.keep_alive.to_be_bytes());
        if is_v5 {
            body.extend(variable_integer(self.properties.len()));
            body.extend(&self.properties);
        }
        body.extend(string(&self.client_id));
        if let Some((topic, payload)) = &self.will {
            if is_v5 {
                body.push(0);
            }
            body.extend(string(topic));
            body.extend(string(payload));
        }
        for field in [&self.username, &self.password].into_iter().flatten() {
            body.extend(string(field));
        }
        packet(0x10, &body)
    }

    /// The packet with as many user properties, or with a user name as long, as make its remaining length `remaining`.
    pub(crate) fn with_remaining_length(self, remaining: usize) -> Vec<u8> {
        let without = self.clone().username("");
        let missing = remaining - remaining_length(&without.bytes());
        let bytes = self.username(vec![b'u'; missing]).bytes();
        assert_eq!(remaining_length(&bytes), remaining);
        bytes
    }
}

/// A CONNACK with this code, for a client of this level.
pub(crate) fn connack(level: u8, code: u8) -> Vec<u8> {
    match level & 0x7F {
        5 => connack_5(code, &[]),
        _ => vec![0x20, 2, 0, code],
    }
}

/// A CONNACK of MQTT 5 with these properties.
pub(crate) fn connack_5(code: u8, properties: &[u8]) -> Vec<u8> {
    let mut body = vec![0, code];
    body.extend(variable_integer(properties.len()));
    body.extend(properties);
    packet(0x20, &body)
}

/// The property Assigned Client Identifier.
pub(crate) fn assigned_client_id(id: &[u8]) -> Vec<u8> {
    [vec![0x12], string(id)].concat()
}

pub(crate) fn subscribe() -> Vec<u8> {
    [vec![0x82, 6, 0, 1], string(b"#"), vec![0]].concat()
}

/// A PUBLISH of QoS 0.
pub(crate) fn publish(payload: &[u8]) -> Vec<u8> {
    packet(0x30, &[string(b"a/b"), payload.to_vec()].concat())
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [vec![first], variable_integer(body.len()), body.to_vec()].concat()
}

/// Where the packet ends that begins with `bytes`; none where that cannot be known yet.
pub(crate) fn packet_end(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(1..)?.iter().take(4);
    let bytes_of_length = length.clone().position(|byte| byte & 0x80 == 0)? + 1;
    let remaining = length.take(bytes_of_length).rev();
    let remaining = remaining.fold(0, |all, byte| all << 7 | usize::from(byte & 0x7F));
    Some(1 + bytes_of_length + remaining)
}

/// The level of a CONNECT, bridge bit included.
pub(crate) fn level(connect: &[u8]) -> u8 {
    let header = connect[1..].iter().take_while(|byte| *byte & 0x80 != 0);
    let name_at = 2 + header.count();
    let name_length = usize::from(connect[name_at + 1]);
    connect[name_at + 2 + name_length]
}

fn remaining_length(packet: &[u8]) -> usize {
    let header = packet[1..].iter().take_while(|byte| *byte & 0x80 != 0);
    packet.len() - 2 - header.count()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a string of MQTT");
    [&length.to_be_bytes(), bytes].concat()
}

fn variable_integer(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
