//! Reads the server name in the ClientHello of a client whose TLS ends at the node.

use std::fmt;

use rustls::server::Acceptor;

/// The part of a ClientHello that concerns a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The server name that the client asks for.
    pub server_name: Option<Box<str>>,
}

/// Reads one ClientHello, however its bytes are split.
#[derive(Default)]
pub struct HelloReader(Acceptor);

impl fmt::Debug for HelloReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HelloReader")
    }
}

/// The client does not speak TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTls;

impl HelloReader {
    /// Adds the bytes that came next; returns the ClientHello once it is complete.
    ///
    /// # Errors
    /// They do not belong to a ClientHello.
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<Option<Hello>, NotTls> {
        while !bytes.is_empty() {
            match self.0.read_tls(&mut bytes) {
                Ok(0) | Err(_) => return Err(NotTls),
                Ok(_) => {}
            }
            match self.0.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let server_name = accepted.client_hello().server_name().map(Into::into);
                    return Ok(Some(Hello { server_name }));
                }
                // A ClientHello that rustls does not accept, mostly because its version is too old. The node may accept it.
                Err((rustls::Error::PeerIncompatible(_) | rustls::Error::PeerMisbehaved(_), _)) => {
                    return Ok(Some(Hello { server_name: None }));
                }
                Err(_) => return Err(NotTls),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &'static str) -> Vec<u8> {
        let config = ClientConfig::builder_with_provider(super::super::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = name.try_into().expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("a hello");
        bytes
    }

    #[test]
    fn the_server_name_is_read_however_the_hello_is_split() {
        for (name, expected) in [("mqtt.example.com", Some("mqtt.example.com")), ("192.0.2.7", None)] {
            let bytes = hello(name);
            let expected = Some(Hello {
                server_name: expected.map(Into::into),
            });
            for cut in 1..bytes.len() {
                let mut reader = HelloReader::default();
                assert_eq!(reader.read(&bytes[..cut]), Ok(None), "{cut}");
                assert_eq!(reader.read(&bytes[cut..]), Ok(expected.clone()), "{cut}");
            }
            let mut reader = HelloReader::default();
            let mut last = Ok(None);
            for byte in &bytes {
                assert_eq!(last, Ok(None));
                last = reader.read(std::slice::from_ref(byte));
            }
            assert_eq!(last, Ok(expected));
        }
    }

    #[test]
    fn anything_else_is_not_a_hello() {
        let mqtt = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04abcd";
        for junk in [
            &mqtt[..],
            b"GET / HTTP/1.1\r\n\r\n",
            b"\r\n\r\n\0\r\nQUIT\n",
            b"\x16\x03\x01\xff\xff",
        ] {
            assert_eq!(HelloReader::default().read(junk), Err(NotTls), "{junk:?}");
        }
    }
}
