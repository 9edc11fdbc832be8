//! A client of the admin listener: HTTP by hand, and the metrics as numbers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::wait::DEADLINE;

/// What the admin listener answered.
#[derive(Debug)]
pub(crate) struct Response {
    pub status: u16,
    /// Status line and headers, in lower case.
    pub head: String,
    pub body: String,
}

/// Asks with this method for this path.
#[track_caller]
pub(crate) fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> Response {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    let mut stream = TcpStream::connect(address).expect("an admin listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("an option");
    stream.write_all(request.as_bytes()).expect("it reads");
    read(&mut stream)
}

/// Sends exactly this, and returns all of the answer.
#[track_caller]
pub(crate) fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("an admin listener");
    stream.set_read_timeout(Some(DEADLINE)).expect("an option");
    stream.write_all(request.as_bytes()).expect("it reads");
    stream.shutdown(std::net::Shutdown::Write).expect("connected");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// Asks at the admin socket, with this body.
#[track_caller]
pub(crate) fn ask_socket(path: &Path, method: &str, target: &str, body: &str) -> Response {
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let mut stream = UnixStream::connect(path).expect("an admin socket");
    stream.set_read_timeout(Some(DEADLINE)).expect("an option");
    // It may answer before it has read all of a body that is too large.
    let _ = stream.write_all(request.as_bytes());
    read(&mut stream)
}

fn read(stream: &mut impl Read) -> Response {
    let mut answer = Vec::new();
    // It may be reset behind the answer.
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Response {
        status: status.expect("a status"),
        head: head.to_lowercase(),
        body: body.to_owned(),
    }
}

#[track_caller]
pub(crate) fn get(address: SocketAddr, path: &str) -> Response {
    ask(address, "GET", path, "")
}

/// What `/metrics` says, by series.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub text: String,
    series: BTreeMap<String, f64>,
}

impl Metrics {
    #[track_caller]
    pub(crate) fn of(address: SocketAddr) -> Self {
        let response = get(address, "/metrics");
        assert_eq!(response.status, 200);
        let samples = response.body.lines().filter(|line| !line.starts_with('#'));
        let mut series = BTreeMap::new();
        for sample in samples {
            let (name, value) = sample.rsplit_once(' ').expect("a name and a value");
            let value = value.parse().expect("a number");
            let before = series.insert(name.to_owned(), value);
            assert_eq!(before, None, "{name} is there twice");
        }
        Self {
            text: response.body,
            series,
        }
    }

    /// The value of one series.
    #[track_caller]
    pub(crate) fn value(&self, series: &str) -> f64 {
        let value = self.series.get(series);
        *value.unwrap_or_else(|| panic!("no {series} in {}", self.text))
    }

    /// The sum of all series of one name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let of_name = |(series, _): &(&String, &f64)| series.split('{').next() == Some(name);
        self.series.iter().filter(of_name).map(|(_, value)| value).sum()
    }

    /// The sum of all series of one name with this label.
    pub(crate) fn sum_with(&self, name: &str, label: &str, value: &str) -> f64 {
        let label = format!("{label}=\"{value}\"");
        let has_label = |(series, _): &(&String, &f64)| {
            let (of, labels) = series.split_once('{').unwrap_or_default();
            of == name && labels.trim_end_matches('}').split(',').any(|other| other == label)
        };
        self.series.iter().filter(has_label).map(|(_, value)| value).sum()
    }

    /// The names of all series, labels included.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.series.keys().map(String::as_str).collect()
    }
}
