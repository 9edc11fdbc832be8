//! Upgrades: starts the next process, which takes over from this one, and tells how far that is.

use std::convert::Infallible;
use std::ffi::OsString;
use std::future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use remora::admin::api::answers::{UpgradeStep, Upgraded};
use remora::handover::{Failure, Step};
use remora::serve::{Handle, Program, Upgrade};

use super::systemd::Service;

/// What stands for standard input in `--take-over`.
const STDIN: &str = "-";

/// How long a process may take to end that has not taken over.
const EXIT_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether it has.
const EXIT_INTERVAL: Duration = Duration::from_millis(20);

/// How long the last step waits for its reader, when this process may end at once.
const READ_MAX: Duration = Duration::from_secs(1);

/// Variables that are for this process alone: what systemd passes by number, and to whom.
const NOT_FOR_THE_NEXT: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// The socket to the process that is to be taken over: at a path, or standard input, which is nothing from then on.
///
/// # Errors
/// No process hands over there.
pub(super) fn connect(from: &Path) -> io::Result<UnixStream> {
    let failed = |error: io::Error| {
        let message = format!("no process hands over at {}: {error}", from.display());
        io::Error::new(error.kind(), message)
    };
    if from != Path::new(STDIN) {
        return UnixStream::connect(from).map_err(failed);
    }
    let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    // Otherwise it would stay open, and the other process would wait for what comes of it.
    let nothing = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(nothing)?;
    let socket = UnixStream::from(socket);
    socket.local_addr().map_err(failed)?;
    Ok(socket)
}

/// Starts the program, which takes over, and says in `upgrade` how far it is.
pub(super) async fn upgrade(upgrade: Upgrade, program: Arc<Program>, running: Handle, service: Service) {
    let Upgrade { binary, steps } = upgrade;
    let path = binary.unwrap_or_else(|| program.path().to_owned());
    let tell = {
        let steps = steps.clone();
        move |step| {
            // Who reads too slowly misses some.
            let _ = steps.try_send(step);
        }
    };
    let over = match start(&path) {
        Ok((child, socket)) => {
            tracing::info!(pid = child.id(), program = %path.display(), "started, to take over");
            tell(UpgradeStep::Started { pid: child.id() });
            hand_over(child, socket, &running, &service, tell).await
        }
        Err(error) => Err(format!("{} cannot be started: {error}", path.display())),
    };
    let last = match over {
        Ok(upgraded) => UpgradeStep::Done(upgraded),
        Err(error) => {
            tracing::warn!(error, "not upgraded, nothing changed");
            UpgradeStep::Failed { error }
        }
    };
    let read = async {
        let _ = steps.send(last).await;
        steps.closed().await;
    };
    // Who asked may be gone.
    let _ = tokio::time::timeout(READ_MAX, read).await;
}

/// Starts the program as this process was started, with one end of a socket as its standard input.
fn start(program: &Path) -> io::Result<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(program);
    command.args(arguments(std::env::args_os().skip(1)));
    for variable in NOT_FOR_THE_NEXT {
        command.env_remove(variable);
    }
    let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
    Ok((child, ours))
}

/// The arguments of a process that takes over, of those of this one.
fn arguments(own: impl Iterator<Item = OsString>) -> Vec<OsString> {
    const OPTION: &str = "--take-over";
    let mut arguments: Vec<OsString> = Vec::new();
    let mut own = own.peekable();
    while let Some(argument) = own.next() {
        let bytes = argument.as_encoded_bytes();
        if argument == OPTION {
            own.next();
        } else if !bytes.starts_with(format!("{OPTION}=").as_bytes()) {
            arguments.push(argument);
        }
    }
    arguments.push(format!("{OPTION}={STDIN}").into());
    arguments
}

async fn hand_over(
    mut child: Child,
    socket: UnixStream,
    running: &Handle,
    service: &Service,
    tell: impl Fn(UpgradeStep) + Send + 'static,
) -> Result<Upgraded, String> {
    let pid = child.id();
    let over = running.hand_over(socket, move |step| told(step).into_iter().for_each(&tell));
    let serves = async {
        running.handed_over().await;
        service.handed_over(pid);
        future::pending::<Infallible>().await
    };
    let over = tokio::select! {
        over = over => over,
        never = serves => match never {},
    };
    match over {
        Ok(upgraded) => {
            // It is a child still, for as long as this process lasts.
            let reap = std::thread::Builder::new().name("remora-reap".into());
            let _ = reap.spawn(move || child.wait());
            Ok(Upgraded {
                pid: Some(pid),
                ..upgraded
            })
        }
        Err(failure) => Err(match (&failure, ended(&mut child).await) {
            // It has said why.
            (Failure::Refused(_), _) => failure.to_string(),
            (_, Some(status)) if !status.success() => {
                format!("{failure}: it ended with {status}, and its output says why")
            }
            _ => failure.to_string(),
        }),
    }
}

/// Waits for the end of a process that has not taken over, and ends it if it does not; its status.
async fn ended(child: &mut Child) -> Option<ExitStatus> {
    let exits = async {
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                return status;
            }
            tokio::time::sleep(EXIT_INTERVAL).await;
        }
    };
    if let Ok(status) = tokio::time::timeout(EXIT_MAX, exits).await {
        return Some(status);
    }
    let _ = child.kill();
    // It has been killed, so that this does not take long.
    child.wait().ok()
}

fn told(step: Step) -> Option<UpgradeStep> {
    Some(match step {
        Step::Checked => UpgradeStep::Checked,
        Step::Sockets => UpgradeStep::Sockets,
        Step::Relays { sent, of } => UpgradeStep::Relays { sent, of },
        Step::Prepared => UpgradeStep::Prepared,
        Step::Frozen => UpgradeStep::Frozen,
        Step::Adopted => UpgradeStep::Adopted,
        Step::Running { round, relays } => UpgradeStep::Running { round, relays },
        // With what has become of them.
        Step::Done => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_has_the_arguments_of_this_one_and_takes_over_from_it() {
        let next = |own: &[&str]| {
            let arguments = arguments(own.iter().map(OsString::from));
            let texts = arguments
                .into_iter()
                .map(|argument| argument.into_string().expect("text"));
            texts.collect::<Vec<_>>()
        };
        assert_eq!(next(&["run", "a.toml"]), ["run", "a.toml", "--take-over=-"]);
        let again = next(&["run", "--take-over=-", "-c", "a.toml"]);
        assert_eq!(again, ["run", "-c", "a.toml", "--take-over=-"]);
        let from_socket = next(&["run", "--take-over", "/run/a.sock", "--state", "s"]);
        assert_eq!(from_socket, ["run", "--state", "s", "--take-over=-"]);
    }
}
