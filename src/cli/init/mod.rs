//! `remora init`: writes a first configuration, from options or from the answers to a few questions.
//!
//! `text` makes the file of what was chosen; `questions` asks. What is written has been read as `remora check` reads it.

mod questions;
mod text;

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use remora::config;

use super::{BAD_USAGE, bad_usage, print, print_problems};
use text::{Found, Node, Tls};

/// What the configuration is to have. Without a node or a way to find them, and in a terminal, it is asked for.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Arguments {
    /// A node: its name, and where it takes MQTT; mqtts:// if it expects TLS. Once for each. Without names they are emqx1, emqx2 and so on.
    #[arg(short, long = "node", value_name = "[NAME=]HOST:PORT", value_parser = node)]
    nodes: Vec<NodeOption>,
    /// Find the nodes by this name of a service or a host instead; with a port behind it if they do not take MQTT at 1883.
    #[arg(long, value_name = "NAME[:PORT]", conflicts_with = "nodes", value_parser = dns)]
    dns: Option<(String, u16)>,
    /// Find the nodes by asking EMQX's HTTP API at these addresses instead, such as http://10.0.0.11:18083. Once for each.
    #[arg(long = "emqx-api", value_name = "URL", conflicts_with_all = ["nodes", "dns"])]
    emqx_api: Vec<String>,
    /// The file with a line KEY:SECRET for the nodes' HTTP API.
    #[arg(long, value_name = "FILE")]
    api_key: Option<PathBuf>,
    /// Ask the HTTP API of each node, at this port, whether it takes new clients.
    #[arg(long, value_name = "PORT", conflicts_with = "emqx_api", value_parser = clap::value_parser!(u16).range(1..))]
    api_port: Option<u16>,
    /// The authorities that issued the nodes' certificates, for nodes and APIs with TLS.
    #[arg(long, value_name = "FILE")]
    nodes_ca: Option<PathBuf>,
    /// Where clients connect to. Without it: port 1883 of every address, or 8883 with --tls.
    #[arg(short, long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// TLS ends here, with this certificate and its key, as PEM.
    #[arg(long, num_args = 2, value_names = ["CERT", "KEY"])]
    tls: Option<Vec<PathBuf>>,
    /// Clients may also use WebSocket, at this address: port 8083 of every address without one, or 8084 with --tls.
    #[arg(long, value_name = "IP:PORT", num_args = 0..=1, require_equals = true)]
    websocket: Option<Option<String>>,
    /// Clients come through a load balancer in this network, which sends PROXY headers. Once for each.
    #[arg(long, value_name = "NETWORK")]
    behind: Vec<String>,
    /// Tell the nodes the clients' addresses, by PROXY protocol version 2. The nodes' listeners must expect it.
    #[arg(long)]
    proxy_protocol: bool,
    /// The file to write; "-" is standard output.
    #[arg(short, long, value_name = "FILE", default_value = "remora.toml")]
    out: PathBuf,
    /// Replace the file if it is there.
    #[arg(short, long)]
    force: bool,
}

/// A node, with or without a name.
type NodeOption = (Option<String>, String);

/// Reads `NAME=ADDRESS` or `ADDRESS`.
fn node(text: &str) -> Result<NodeOption, String> {
    let (name, address) = match text.split_once('=') {
        Some((name, address)) => (Some(name.trim()), address.trim()),
        None => (None, text.trim()),
    };
    if address.is_empty() || name.is_some_and(str::is_empty) {
        return Err("write NAME=HOST:PORT, such as emqx1=10.0.0.11:1883".to_owned());
    }
    Ok((name.map(str::to_owned), address.to_owned()))
}

/// Reads `NAME` or `NAME:PORT`.
fn dns(text: &str) -> Result<(String, u16), String> {
    let Some((name, port)) = text.rsplit_once(':') else {
        return Ok((text.to_owned(), text::MQTT_PORT));
    };
    let port: u16 = port.parse().unwrap_or_default();
    match port {
        0 => Err("write a name, or a name and a port, such as emqx.example.com:1883".to_owned()),
        port => Ok((name.to_owned(), port)),
    }
}

/// Runs the command.
pub(super) fn command(mut arguments: Arguments) -> ExitCode {
    if !arguments.has_nodes() {
        let is_terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        if !is_terminal {
            return bad_usage(
                &"name the nodes: --node emqx1=10.0.0.11:1883 for each, or --dns NAME, or --emqx-api URL; see init --help",
            );
        }
        if let Err(error) = questions::ask(&mut arguments, &mut io::stdin().lock(), &mut io::stderr()) {
            eprintln!("remora: nothing was written: {error}");
            return ExitCode::FAILURE;
        }
    }
    let out = arguments.out.clone();
    let text = match arguments.text() {
        Ok(text) => text,
        Err(error) => return bad_usage(&error),
    };
    let is_output = out == Path::new("-");
    let name = if is_output {
        "<stdout>".to_owned()
    } else {
        out.display().to_string()
    };
    // What `check` would refuse is never written.
    if let Err(problems) = config::parse(&name, &text) {
        print_problems(&problems);
        eprintln!("remora: nothing was written: these lines come from the options and answers above");
        return ExitCode::from(BAD_USAGE);
    }
    if is_output {
        return print(text.trim_end());
    }
    if let Err(error) = write(&out, &text, arguments.force) {
        let hint = match error.kind() {
            ErrorKind::AlreadyExists => "; --force replaces it, --out FILE writes another one",
            _ => "",
        };
        eprintln!("remora: {name}: {error}{hint}");
        return ExitCode::FAILURE;
    }
    print(arguments.next_steps(&name).trim_end())
}

/// Writes the file, whole or not at all. Its group and others may read it: it has names of files, and no secret.
fn write(path: &Path, text: &str, force: bool) -> io::Result<()> {
    if !force {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        // A part of a file would be taken for a configuration.
        return file
            .write_all(text.as_bytes())
            .inspect_err(|_| drop(fs::remove_file(path)));
    }
    // A process that reloads meanwhile must not read half of it.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    fs::write(&new, text)?;
    fs::rename(&new, path)
}

impl Arguments {
    fn has_nodes(&self) -> bool {
        !self.nodes.is_empty() || self.dns.is_some() || !self.emqx_api.is_empty()
    }

    /// The file's text.
    fn text(&self) -> Result<String, String> {
        let found = match (&self.dns, &self.emqx_api[..]) {
            (Some((name, port)), _) => Some(Found::Dns {
                name: name.clone(),
                port: *port,
            }),
            (None, []) => None,
            (None, seeds) => Some(Found::Emqx(seeds.to_vec())),
        };
        let tls = match self.tls.as_deref() {
            Some([chain, key]) => Some(Tls {
                chain: absolute(chain)?,
                key: absolute(key)?,
            }),
            _ => None,
        };
        let port = |plain: u16, with_tls: u16| if tls.is_some() { with_tls } else { plain };
        let everywhere = |port: u16| format!("0.0.0.0:{port}");
        let websocket = self.websocket.as_ref().map(|address| {
            let address = address.clone();
            address.unwrap_or_else(|| everywhere(port(8083, 8084)))
        });
        let choice = text::Choice {
            listen: self
                .listen
                .clone()
                .unwrap_or_else(|| everywhere(port(text::MQTT_PORT, 8883))),
            websocket,
            tls,
            behind: self.behind.clone(),
            nodes: self.named_nodes(),
            found,
            api_port: self.api_port,
            api_key: self.api_key.as_deref().map(absolute).transpose()?,
            nodes_ca: self.nodes_ca.as_deref().map(absolute).transpose()?,
            proxy_protocol: self.proxy_protocol,
        };
        choice.text()
    }

    /// The nodes. Those without a name get the next one that is free.
    fn named_nodes(&self) -> Vec<Node> {
        let is_given = |free: &String| self.nodes.iter().any(|(name, _)| name.as_ref() == Some(free));
        let mut free = (1..)
            .map(|number| format!("emqx{number}"))
            .filter(|free| !is_given(free));
        let named = self.nodes.iter().map(|(name, address)| Node {
            name: name.clone().or_else(|| free.next()).unwrap_or_default(),
            address: address.clone(),
        });
        named.collect()
    }

    /// What to do with the file.
    fn next_steps(&self, name: &str) -> String {
        let steps = [
            ("check", "says what it would do, and what to look at"),
            ("check --bind", "also tries every address"),
            ("run", "runs the balancer; SIGHUP reads the file again"),
            ("top", "watches it, in another terminal"),
        ];
        let name = match name.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c)) {
            true => name.to_owned(),
            false => format!("'{}'", name.replace('\'', r"'\''")),
        };
        let commands = steps.map(|(command, what)| (format!("remora {command} -c {name}"), what));
        let width = commands
            .iter()
            .map(|(command, _)| command.chars().count())
            .max()
            .unwrap_or(0);
        let lines = commands.map(|(command, what)| format!("  {command:width$}  {what}\n"));
        let proxy = match self.proxy_protocol {
            true => {
                "\nEvery node must expect PROXY headers before it gets clients from here: of EMQX, listeners.tcp.default.proxy_protocol = true.\n"
            }
            false => "",
        };
        format!("wrote {name}\n\n{}{proxy}", lines.concat())
    }
}

/// A path that means the same wherever the configuration is.
fn absolute(path: &Path) -> Result<String, String> {
    let absolute = std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = absolute.into_os_string().into_string();
    text.map_err(|path| format!("{}: a configuration is UTF-8, and this name is not", path.display()))
}

#[cfg(test)]
mod tests;
