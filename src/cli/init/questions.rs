//! The questions of `remora init`, for an operator at a terminal. An empty answer takes what is in brackets.

use std::io::{self, BufRead, Write};

use remora::config;

use super::{Arguments, NodeOption, node};

/// Asks for what the options do not say. What cannot be used is said, and asked for again.
///
/// # Errors
/// There are no more answers.
pub(super) fn ask(arguments: &mut Arguments, answers: &mut impl BufRead, to: &mut impl Write) -> io::Result<()> {
    let mut talk = Talk { answers, to };
    talk.say("A first configuration, in a few questions. An empty answer takes what is in brackets.")?;
    nodes(arguments, &mut talk)?;
    if arguments.tls.is_none() {
        talk.until_fine(arguments, |arguments, talk| {
            let chain = talk.ask("Certificate for clients with TLS, as a PEM file [no TLS]: ")?;
            arguments.tls = match chain.is_empty() {
                true => None,
                false => Some(vec![chain.into(), talk.ask("Its key, as a PEM file: ")?.into()]),
            };
            Ok(())
        })?;
    }
    if arguments.listen.is_none() {
        let port = if arguments.tls.is_some() { 8883 } else { 1883 };
        talk.until_fine(arguments, |arguments, talk| {
            let address = talk.ask(&format!("Where clients connect to [0.0.0.0:{port}]: "))?;
            arguments.listen = (!address.is_empty()).then_some(address);
            Ok(())
        })?;
    }
    if arguments.websocket.is_none() {
        talk.until_fine(arguments, |arguments, talk| {
            let is_wanted = talk.agrees("WebSocket clients as well?")?;
            arguments.websocket = is_wanted.then_some(None);
            Ok(())
        })?;
    }
    if !arguments.proxy_protocol {
        arguments.proxy_protocol = talk.agrees("Do the nodes' listeners expect PROXY headers?")?;
    }
    Ok(())
}

fn nodes(arguments: &mut Arguments, talk: &mut Talk<'_, impl BufRead, impl Write>) -> io::Result<()> {
    loop {
        let number = arguments.nodes.len() + 1;
        let question = match number {
            1 => format!("Node {number}, such as emqx1=10.0.0.11:1883: "),
            _ => format!("Node {number} [no more]: "),
        };
        let answer = talk.ask(&question)?;
        match answer.is_empty() {
            true if number > 1 => return Ok(()),
            true => talk.say("  one node at least")?,
            false => {
                let known: Vec<NodeOption> = arguments.nodes.clone();
                let refused = match node(&answer) {
                    Ok(node) => {
                        arguments.nodes.push(node);
                        problem(arguments)
                    }
                    Err(error) => Some(error),
                };
                if let Some(refused) = refused {
                    talk.say(&format!("  {refused}"))?;
                    arguments.nodes = known;
                }
            }
        }
    }
}

/// What is wrong with what was chosen so far.
fn problem(arguments: &Arguments) -> Option<String> {
    let text = match arguments.text() {
        Ok(text) => text,
        Err(error) => return Some(error),
    };
    let problems = config::parse("answers", &text).err()?;
    // The first line of each names the key and says what was found.
    let said = problems.to_string();
    let mut lines = said.lines().filter_map(|line| line.strip_prefix("error: "));
    lines.next().map(str::to_owned)
}

/// Questions and answers.
struct Talk<'a, R, W> {
    answers: &'a mut R,
    to: &'a mut W,
}

impl<R: BufRead, W: Write> Talk<'_, R, W> {
    fn say(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.to, "{text}")
    }

    fn ask(&mut self, question: &str) -> io::Result<String> {
        write!(self.to, "{question}")?;
        self.to.flush()?;
        let mut answer = String::new();
        match self.answers.read_line(&mut answer)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answers ended")),
            _ => Ok(answer.trim().to_owned()),
        }
    }

    fn agrees(&mut self, question: &str) -> io::Result<bool> {
        loop {
            match &*self.ask(&format!("{question} [y/N]: "))?.to_lowercase() {
                "y" | "yes" => return Ok(true),
                "" | "n" | "no" => return Ok(false),
                _ => self.say("  y or n")?,
            }
        }
    }

    /// Asks until a configuration with the answer has no problem.
    fn until_fine(
        &mut self,
        arguments: &mut Arguments,
        mut ask: impl FnMut(&mut Arguments, &mut Self) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            ask(arguments, self)?;
            match problem(arguments) {
                None => return Ok(()),
                Some(problem) => self.say(&format!("  {problem}"))?,
            }
        }
    }
}
