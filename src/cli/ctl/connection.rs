//! The connection to a balancer's admin socket: finds it, asks, and says what failed.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use remora::admin::api::answers::Refused;
use remora::admin::{Answer, Client, escaped};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cli::locate::{FileOption, Located};
use crate::cli::{BAD_USAGE, print_problems};
use remora::config::{Loaded, Problems};

/// A balancer that can be asked.
pub(super) struct Connection {
    client: Client,
    socket: PathBuf,
    /// Whether answers are printed as they are.
    pub(super) json: bool,
}

/// Why there is nothing to print, and the exit code.
pub(super) struct Failed {
    message: Message,
    code: ExitCode,
}

enum Message {
    Text(String),
    Problems(Problems),
}

impl Failed {
    /// The balancer could not be asked, or it refused.
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self {
            message: Message::Text(message.into()),
            code: ExitCode::FAILURE,
        }
    }

    /// The command line, or the configuration that it names, cannot be used.
    pub(super) fn bad_usage(message: impl Into<String>) -> Self {
        Self {
            message: Message::Text(message.into()),
            code: ExitCode::from(BAD_USAGE),
        }
    }

    pub(super) fn report(self) -> ExitCode {
        match self.message {
            Message::Text(text) => eprintln!("remora: {text}"),
            Message::Problems(problems) => print_problems(&problems),
        }
        self.code
    }
}

impl Connection {
    /// Connects to `socket`, or else to that of the process of the configuration.
    pub(super) async fn open(socket: Option<PathBuf>, file: &FileOption, json: bool) -> Result<Self, Failed> {
        let (paths, of) = match socket {
            Some(path) => (vec![path], None),
            None => configured(file)?,
        };
        let mut tried = Vec::new();
        for path in &paths {
            match Client::connect(path).await {
                Ok(client) => {
                    return Ok(Self {
                        client,
                        socket: path.clone(),
                        json,
                    });
                }
                Err(error) => tried.push((path, error)),
            }
        }
        Err(Failed::refused(no_process(&tried, of.as_deref())))
    }

    /// The socket, without the connection to it.
    pub(super) fn into_socket(self) -> PathBuf {
        self.socket
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
        match self.client.events(target, take).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(answer)) => Err(self.refused(&answer)),
            Err(error) => Err(self.no_answer(target, &error)),
        }
    }

    /// Asks, and reads the answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &mut self,
        is_change: bool,
        target: &str,
        body: Option<String>,
    ) -> Result<T, Failed> {
        let asked = self.client.request(is_change, target, body).await;
        let answer = asked.map_err(|error| self.no_answer(target, &error))?;
        if answer.status >= 400 {
            return Err(self.refused(&answer));
        }
        serde_json::from_slice(&answer.body).map_err(|error| {
            let socket = self.socket.display();
            let message = format!("{socket} was asked for {target}: the answer of another version? {error}");
            Failed::refused(message)
        })
    }

    fn no_answer(&self, target: &str, error: &io::Error) -> Failed {
        let socket = self.socket.display();
        Failed::refused(format!("{socket} was asked for {target}: no answer: {error}"))
    }

    fn refused(&self, answer: &Answer) -> Failed {
        let refused: Option<Refused> = serde_json::from_slice(&answer.body).ok();
        let Some(refused) = refused else {
            return Failed::refused(format!(
                "{} answered with status {}",
                self.socket.display(),
                answer.status
            ));
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

/// Where the process of a configuration may have its socket, and what names the configuration.
fn configured(file: &FileOption) -> Result<(Vec<PathBuf>, Option<String>), Failed> {
    let located = match file.locate() {
        Ok(located) => located,
        Err(none) => return Err(Failed::bad_usage(format!("{none}; name the socket with --socket PATH"))),
    };
    let Located::File(path, _) = &located else {
        let message = "ctl knows a process by its file: give it the file instead of standard input, or --socket PATH";
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
    Ok((paths, Some(path.display().to_string())))
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
pub(super) fn encoded(bytes: &[u8]) -> String {
    escaped(bytes)
        .replace('/', "%2F")
        .replace('?', "%3F")
        .replace('#', "%23")
        .replace('&', "%26")
        .replace('"', "%22")
        .replace('<', "%3C")
        .replace('>', "%3E")
}
