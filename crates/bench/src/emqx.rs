//! The node of each client according to EMQX's API, for nodes that do not report their names in CONNACK.

use std::collections::HashMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::clock::{self, Nanos, SECOND};

/// For each step of a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// For all pages together.
const IN_ALL: Nanos = 20 * SECOND;

/// Clients per page: as many as every EMQX 5 allows.
const PAGE: usize = 1_000;

/// Most pages, which are enough for every client of the bench.
const PAGES_MAX: usize = 1_000;

/// Longest answer: far more than a page of clients needs.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The address of the API, and its key.
#[derive(Clone, Debug)]
pub(super) struct Api {
    address: String,
    key: String,
}

#[derive(Deserialize)]
struct Clients {
    data: Vec<Client>,
    meta: Meta,
}

#[derive(Deserialize)]
struct Client {
    clientid: String,
    node: String,
}

#[derive(Deserialize)]
struct Meta {
    hasnext: Option<bool>,
}

impl Api {
    /// With the key in a file, as `KEY:SECRET`, so that it does not show in the list of processes.
    pub(super) fn new(address: &str, key: &Path) -> Result<Self, String> {
        let wrong = |what: String| format!("--emqx-key {}: {what}", key.display());
        let text = fs::read_to_string(key).map_err(|error| wrong(error.to_string()))?;
        let text = text.trim();
        if !text.contains(':') || text.contains(char::is_whitespace) {
            return Err(wrong("it does not contain KEY:SECRET".into()));
        }
        let address = address.strip_prefix("http://").unwrap_or(address);
        if address.contains("://") {
            return Err(format!("--emqx-api {address}: only http:// is supported"));
        }
        Ok(Self {
            address: address.trim_end_matches('/').to_owned(),
            key: text.to_owned(),
        })
    }

    /// The node of each connected client.
    pub(super) fn nodes(&self) -> Result<HashMap<String, String>, String> {
        let mut nodes = HashMap::new();
        let began = clock::now();
        for page in 1..=PAGES_MAX {
            if clock::now() - began > IN_ALL {
                return Err("EMQX's API took too long".into());
            }
            let path = format!("/api/v5/clients?conn_state=connected&limit={PAGE}&page={page}");
            let body = self.get(&path)?;
            let clients: Clients =
                serde_json::from_slice(&body).map_err(|error| format!("EMQX's answer is not understood: {error}"))?;
            let more = clients.meta.hasnext.unwrap_or(clients.data.len() == PAGE);
            let pairs = clients.data.into_iter();
            nodes.extend(pairs.map(|client| (client.clientid, client.node)));
            if !more {
                break;
            }
        }
        Ok(nodes)
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, String> {
        let answer = self
            .exchange(path)
            .map_err(|error| format!("EMQX's API at {}: {error}", self.address))?;
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let (Some(end), Some(status)) = (end, answer.get(9..12)) else {
            return Err(format!("EMQX's API at {}: the answer is not HTTP", self.address));
        };
        if status != b"200" {
            return Err(format!(
                "EMQX's API at {} answered {}",
                self.address,
                status.escape_ascii()
            ));
        }
        Ok(answer[end + 4..].to_vec())
    }

    fn exchange(&self, path: &str) -> std::io::Result<Vec<u8>> {
        let mut addresses = self.address.to_socket_addrs()?;
        let address = addresses.next().ok_or(std::io::ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        // The answer to HTTP/1.0 ends with the connection, and is not chunked.
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Basic {}\r\n\r\n",
            self.address,
            base64(self.key.as_bytes())
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            if digit <= chunk.len() {
                text.push(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize].into());
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;

    #[test]
    fn base64_is_the_standard_one() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("key:secret?>", "a2V5OnNlY3JldD8+"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }

    /// Asks an API that gives these answers one after another; returns the requests, too.
    fn ask(answers: Vec<&'static str>) -> (Result<HashMap<String, String>, String>, Vec<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let thread = thread::spawn(move || {
            let asked = answers.into_iter().map(|answer| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8(request).unwrap()
            });
            asked.collect()
        });
        let api = Api {
            address,
            key: "key:secret".into(),
        };
        (api.nodes(), thread.join().unwrap())
    }

    #[test]
    fn every_page_of_clients_is_read() {
        let (nodes, asked) = ask(vec![
            "HTTP/1.1 200 OK\r\n\r\n{\"data\":[{\"clientid\":\"a\",\"node\":\"emqx@1\",\"port\":7}],\
             \"meta\":{\"page\":1,\"hasnext\":true}}",
            "HTTP/1.1 200 OK\r\n\r\n{\"data\":[{\"clientid\":\"b\",\"node\":\"emqx@2\"}],\"meta\":{\"hasnext\":false}}",
        ]);
        let nodes = nodes.unwrap();
        assert_eq!(nodes.get("a").map(String::as_str), Some("emqx@1"));
        assert_eq!(nodes.get("b").map(String::as_str), Some("emqx@2"));
        assert!(asked[0].contains("page=1 "), "{}", asked[0]);
        assert!(asked[1].contains("page=2 "), "{}", asked[1]);
        assert!(asked[0].contains("Authorization: Basic a2V5OnNlY3JldA==\r\n"));
    }

    #[test]
    fn refusals_and_malformed_answers_are_reported() {
        let (refused, _) = ask(vec!["HTTP/1.1 401 Unauthorized\r\n\r\n{}"]);
        assert!(refused.unwrap_err().ends_with("answered 401"));
        let (nonsense, _) = ask(vec!["HTTP/1.1 200 OK\r\n\r\nhello"]);
        assert!(nonsense.unwrap_err().contains("not understood"));
        let (silent, _) = ask(vec![""]);
        assert!(silent.unwrap_err().ends_with("not HTTP"));
    }
}
