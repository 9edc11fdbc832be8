//! The connection to a balancer's admin listener: finds it, asks, and says what failed.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use remora::admin::api::answers::Refused;
use remora::admin::{Answer, Client, escaped};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::locate::{FileOption, Located};
use crate::cli::{BAD_USAGE, print_problems};
use remora::config::{Loaded, Problems};

/// Which balancer is asked, as the command line says it.
#[derive(Args)]
pub(in crate::cli) struct At {
    /// The admin socket, instead of that of a configuration.
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
    /// The address of an admin listener on TCP, instead of a socket.
    #[arg(long, value_name = "HOST:PORT", global = true, conflicts_with = "socket")]
    address: Option<String>,
    /// The file with the token to show at --address.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    file: FileOption,
}

/// Where a balancer can be asked.
#[derive(Clone)]
pub(in crate::cli) enum Place {
    /// At one of these sockets; of the process of a configuration, if one was named.
    Sockets(Vec<PathBuf>, Option<String>),
    /// At an address, with a token.
    Tcp(String, Option<String>),
}

/// A balancer that can be asked.
pub(in crate::cli) struct Connection {
    client: Client,
    at: Place,
    /// The socket or the address.
    place: String,
    /// The socket, if it is one.
    socket: Option<PathBuf>,
    /// Whether answers are printed as they are.
    pub(super) json: bool,
}

/// Why there is nothing to print, and the exit code.
pub(in crate::cli) struct Failed {
    message: Message,
    code: ExitCode,
}

enum Message {
    Text(String),
    Problems(Problems),
}

impl Failed {
    /// The balancer could not be asked, or it refused.
    pub(in crate::cli) fn refused(message: impl Into<String>) -> Self {
        Self {
            message: Message::Text(message.into()),
            code: ExitCode::FAILURE,
        }
    }

    /// The command line, or the configuration that it names, cannot be used.
    pub(in crate::cli) fn bad_usage(message: impl Into<String>) -> Self {
        Self {
            message: Message::Text(message.into()),
            code: ExitCode::from(BAD_USAGE),
        }
    }

    /// The message in one line, for a screen.
    pub(in crate::cli) fn line(&self) -> String {
        match &self.message {
            Message::Text(text) => text.lines().next().unwrap_or_default().to_owned(),
            Message::Problems(_) => "the configuration has problems".to_owned(),
        }
    }

    pub(in crate::cli) fn report(self) -> ExitCode {
        match self.message {
            // The terminal may be gone, and with it who would read this.
            Message::Text(text) => drop(writeln!(io::stderr(), "remora: {text}")),
            Message::Problems(problems) => {
                print_problems(&problems);
                // Such as a variable that only the service has.
                let hint = "the socket can also be named, with --socket PATH";
                drop(writeln!(io::stderr(), "remora: {hint}"));
            }
        }
        self.code
    }
}

impl At {
    /// Finds out where to ask. Nothing is asked yet.
    pub(in crate::cli) fn place(self) -> Result<Place, Failed> {
        let Self {
            socket,
            address,
            token_file,
            file,
        } = self;
        match (socket, address, token_file) {
            (_, None, Some(_)) => Err(Failed::bad_usage(
                "--token-file is for --address; a socket asks for no token",
            )),
            (Some(path), ..) => Ok(Place::Sockets(vec![path], None)),
            (None, Some(address), token_file) => {
                let token = token_file.map(|path| token(&path)).transpose()?;
                Ok(Place::Tcp(address, token))
            }
            (None, None, None) => configured(&file),
        }
    }
}

impl Place {
    /// Connects to the balancer.
    pub(in crate::cli) async fn connect(&self) -> Result<Connection, Failed> {
        let connection = |client, place, socket| Connection {
            client,
            at: self.clone(),
            place,
            socket,
            json: false,
        };
        match self {
            Self::Sockets(paths, of) => {
                let mut tried = Vec::new();
                for path in paths {
                    match Client::connect(path).await {
                        Ok(client) => return Ok(connection(client, path.display().to_string(), Some(path.clone()))),
                        Err(error) => tried.push((path, error)),
                    }
                }
                Err(Failed::refused(no_process(&tried, of.as_deref())))
            }
            Self::Tcp(address, token) => match Client::connect_tcp(address, token.as_deref()).await {
                Ok(client) => Ok(connection(client, address.clone(), None)),
                Err(error) => Err(Failed::refused(format!("no answer at {address}: {error}"))),
            },
        }
    }
}

/// The token in a file, without the line end behind it.
fn token(path: &Path) -> Result<String, Failed> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|error| Failed::bad_usage(format!("--token-file {}: {error}", path.display())))?;
    Ok(text.trim_end().to_owned())
}

impl Connection {
    /// Connects to the balancer that the command line names.
    pub(super) async fn open(at: At, json: bool) -> Result<Self, Failed> {
        Ok(Self {
            json,
            ..at.place()?.connect().await?
        })
    }

    /// Connects anew: to the process that has taken over from the one that was asked.
    pub(super) async fn reopen(&mut self) -> Result<(), Failed> {
        let json = self.json;
        *self = Self {
            json,
            ..self.at.connect().await?
        };
        Ok(())
    }

    /// The socket, without the connection to it.
    pub(super) fn into_socket(self) -> Result<PathBuf, Failed> {
        let place = self.place;
        self.socket.ok_or_else(|| {
            Failed::bad_usage(format!(
                "page is for a socket; the page of a balancer on TCP is at http://{place}/"
            ))
        })
    }

    /// Asks for `target`, and returns the answer as `text` says it, or as JSON.
    pub(super) async fn get<T: Serialize + DeserializeOwned>(
        &mut self,
        target: &str,
        text: impl FnOnce(&T) -> String,
    ) -> Result<String, Failed> {
        self.request(false, target, None, text).await
    }

    /// Asks for a change, and returns the answer as `text` says it, or as JSON.
    pub(super) async fn post<T: Serialize + DeserializeOwned>(
        &mut self,
        target: &str,
        body: Option<String>,
        text: impl FnOnce(&T) -> String,
    ) -> Result<String, Failed> {
        self.request(true, target, body, text).await
    }

    async fn request<T: Serialize + DeserializeOwned>(
        &mut self,
        is_change: bool,
        target: &str,
        body: Option<String>,
        text: impl FnOnce(&T) -> String,
    ) -> Result<String, Failed> {
        let answer = self.ask::<T>(is_change, target, body).await?;
        Ok(self.shown(&answer, text))
    }

    /// An answer as `text` says it, or as JSON.
    pub(super) fn shown<T: Serialize>(&self, answer: &T, text: impl FnOnce(&T) -> String) -> String {
        match self.json {
            // What was read always serializes.
            true => serde_json::to_string_pretty(answer).unwrap_or_default(),
            false => text(answer),
        }
    }

    /// Asks for a stream of events, and passes each to `take` until it returns false or the stream ends.
    pub(super) async fn events(&mut self, target: &str, take: impl FnMut(&str) -> bool) -> Result<(), Failed> {
        let read = self.client.events(target, take).await;
        self.read(target, read)
    }

    /// Asks for a change whose steps are a stream of events, and passes each to `take` until it returns false or the stream ends.
    pub(super) async fn steps(
        &mut self,
        target: &str,
        body: Option<String>,
        take: impl FnMut(&str) -> bool,
    ) -> Result<(), Failed> {
        let read = self.client.steps(target, body, take).await;
        self.read(target, read)
    }

    fn read(&self, target: &str, read: io::Result<Result<(), Answer>>) -> Result<(), Failed> {
        match read {
            Ok(Ok(())) => Ok(()),
            Ok(Err(answer)) => Err(self.refused(&answer)),
            Err(error) => Err(self.no_answer(target, &error)),
        }
    }

    /// Asks, and reads the answer. What changes nothing is asked once more where another process has taken over.
    pub(in crate::cli) async fn ask<T: DeserializeOwned>(
        &mut self,
        is_change: bool,
        target: &str,
        body: Option<String>,
    ) -> Result<T, Failed> {
        let mut asked = self.client.request(is_change, target, body).await;
        if !is_change && is_of_process_before(&asked) {
            self.reopen().await?;
            asked = self.client.request(false, target, None).await;
        }
        let answer = asked.map_err(|error| self.no_answer(target, &error))?;
        if answer.status >= 400 {
            return Err(self.refused(&answer));
        }
        serde_json::from_slice(&answer.body).map_err(|error| {
            let place = &self.place;
            let message = format!("{place} was asked for {target}: the answer of another version? {error}");
            Failed::refused(message)
        })
    }

    fn no_answer(&self, target: &str, error: &io::Error) -> Failed {
        let place = &self.place;
        Failed::refused(format!("{place} was asked for {target}: no answer: {error}"))
    }

    fn refused(&self, answer: &Answer) -> Failed {
        let refused: Option<Refused> = serde_json::from_slice(&answer.body).ok();
        let Some(refused) = refused else {
            return Failed::refused(format!("{} answered with status {}", self.place, answer.status));
        };
        if self.json {
            // For the scripts that asked; the error is printed beside it.
            println!("{}", serde_json::to_string_pretty(&refused).unwrap_or_default());
        } else if let Some(report) = &refused.report {
            eprintln!("{report}");
        }
        Failed::refused(refused.error)
    }
}

/// Whether another process may have taken over from the one that was asked, which closes its connections then.
fn is_of_process_before(asked: &io::Result<Answer>) -> bool {
    const UNAVAILABLE: u16 = 503;
    match asked {
        Ok(answer) => answer.status == UNAVAILABLE,
        Err(error) => error.kind() != ErrorKind::TimedOut,
    }
}

/// Where the process of a configuration may have its socket, and what names the configuration.
fn configured(file: &FileOption) -> Result<Place, Failed> {
    let located = match file.locate() {
        Ok(located) => located,
        Err(none) => return Err(Failed::bad_usage(format!("{none}; name the socket with --socket PATH"))),
    };
    let Located::File(path, _) = &located else {
        let message = "a process is known by its file: give the file instead of standard input, or --socket PATH";
        return Err(Failed::bad_usage(message));
    };
    let Loaded { config, .. } = located.load().map_err(|problems| Failed {
        message: Message::Problems(problems),
        code: ExitCode::from(BAD_USAGE),
    })?;
    let paths = config.admin.socket_paths();
    if paths.is_empty() {
        let message = format!("{} has no admin socket (admin.enabled = false)", path.display());
        return Err(Failed::refused(message));
    }
    Ok(Place::Sockets(paths, Some(path.display().to_string())))
}

/// What is said where no process answers.
fn no_process(tried: &[(&PathBuf, io::Error)], of: Option<&str>) -> String {
    let each = tried
        .iter()
        .map(|(path, error)| format!("{}: {}", path.display(), why(path, error)));
    let each: Vec<String> = each.collect();
    let whose = of.map_or(String::new(), |file| format!(" of {file}"));
    let hint = match of {
        Some(file) => {
            format!("start it with `remora run {file}`, or name its socket, which its log says, with --socket PATH")
        }
        None => "the log of a process says its socket; -c FILE finds that of a configuration".to_owned(),
    };
    format!("no process{whose} at {}\n  = help: {hint}", each.join("; "))
}

fn why(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "not there".to_owned(),
        ErrorKind::ConnectionRefused => "left by a process that has ended".to_owned(),
        ErrorKind::PermissionDenied => format!(
            "not for this user: be in its group, or root (see `ls -l {}`)",
            path.display()
        ),
        _ => error.to_string(),
    }
}

/// Bytes as a part of a path or of a query.
pub(in crate::cli) fn encoded(bytes: &[u8]) -> String {
    escaped(bytes)
        .replace('/', "%2F")
        .replace('?', "%3F")
        .replace('#', "%23")
        .replace('&', "%26")
        .replace('"', "%22")
        .replace('<', "%3C")
        .replace('>', "%3E")
}
