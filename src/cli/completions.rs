//! `remora completions` and `remora man`: what shells and `man` know of the command line, made of the same definitions as its help.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{bad_usage, or_failure, print};
use remora::base::build;

/// Which pages of the manual, and where they go.
#[derive(Args)]
pub(super) struct ManArguments {
    /// Write a page for each command into this directory, which is made if it is not there.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    out: Option<PathBuf>,
    /// Print the page of this command, as in `remora man ctl drain`.
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

/// Prints the completions for a shell.
pub(super) fn completions<A: CommandFactory>(shell: Shell) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut A::command(), "remora", &mut script);
    // What is generated is text.
    print(String::from_utf8_lossy(&script).trim_end())
}

/// Prints a page of the manual, or writes all of them.
pub(super) fn man<A: CommandFactory>(arguments: ManArguments) -> ExitCode {
    let ManArguments { out, command: names } = arguments;
    let mut command = A::command();
    // Gives every command its whole name, and the options that hold for all.
    command.build();
    if let Some(directory) = out {
        return or_failure(write(&command, &directory));
    }
    let mut wanted = &command;
    for name in &names {
        wanted = match wanted.find_subcommand(name) {
            Some(command) => command,
            None => return bad_usage(&format!("there is no command {}; see --help", names.join(" "))),
        };
    }
    match page(wanted) {
        Ok(page) => print(page.trim_end()),
        Err(error) => or_failure(Err(error)),
    }
}

/// Writes the page of this command and of those below it.
fn write(command: &Command, directory: &Path) -> io::Result<()> {
    let at = |error: io::Error, path: &Path| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    fs::create_dir_all(directory).map_err(|error| at(error, directory))?;
    let path = directory.join(format!("{}.1", name_of(command)));
    fs::write(&path, page(command)?).map_err(|error| at(error, &path))?;
    let is_shown = |below: &&Command| below.get_name() != "help" && !below.is_hide_set();
    let below = command.get_subcommands().filter(is_shown);
    below.into_iter().try_for_each(|below| write(below, directory))
}

/// The name of a page: that of the program and of the commands on the way.
fn name_of(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn page(command: &Command) -> io::Result<String> {
    let man = Man::new(command.clone())
        .date(build::COMMIT_DATE)
        .source(format!("remora {}", build::VERSION))
        .manual("Remora");
    let mut page = Vec::new();
    man.render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
