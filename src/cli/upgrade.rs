//! Upgrades: starts the next process, which takes over from this one, and tells how far that is.

use std::ffi::OsString;
use std::future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use remora::admin::api::answers::{UpgradeStep, Upgraded};
use remora::handover::{Failure, Step};
use remora::serve::{Handle, Program, Upgrade};
use rustix::process::Signal;
use tokio::sync::Notify;

use super::systemd::Service;

/// This program, also where its file has been replaced.
const THIS: &str = "/proc/self/exe";

/// What stands for standard input in `--take-over`.
const STDIN: &str = "-";

/// How long a process may take to end that has not taken over.
const EXIT_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether it has.
const EXIT_INTERVAL: Duration = Duration::from_millis(20);

/// So often it is looked whether one that has taken over is about to.
const ENDING_CHECKS: u32 = 10;

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
///
/// # Errors
/// It has taken over, and died before this process has let it go: nothing accepts clients any more.
pub(super) async fn upgrade(
    upgrade: Upgrade,
    program: Arc<Program>,
    running: Handle,
    service: Service,
) -> io::Result<()> {
    let Upgrade { binary, steps } = upgrade;
    let path = binary.unwrap_or_else(|| program.path().to_owned());
    let tell = {
        let steps = steps.clone();
        move |step| {
            // Who reads too slowly misses some.
            let _ = steps.try_send(step);
        }
    };
    let over = match may_end(std::process::id()).and_then(|()| start(&path)) {
        Ok((supervisor, socket)) => {
            tracing::info!(program = %path.display(), "started, to take over");
            hand_over(supervisor, socket, &running, &service, tell).await
        }
        Err(error) => {
            let error = format!("{} cannot be started: {error}", path.display());
            Err(NotUpgraded::NothingChanged(error))
        }
    };
    let (last, result) = match over {
        Ok(upgraded) => (UpgradeStep::Done(upgraded), Ok(())),
        Err(NotUpgraded::NothingChanged(error)) => {
            tracing::warn!(error, "not upgraded, nothing changed");
            let error = format!("nothing changed: {error}");
            (UpgradeStep::Failed { error }, Ok(()))
        }
        Err(NotUpgraded::Died) => {
            let error = "the process that had taken over has died, and its connections with it";
            let last = UpgradeStep::Failed { error: error.into() };
            (last, Err(io::Error::other(error)))
        }
    };
    let read = async {
        let _ = steps.send(last).await;
        steps.closed().await;
    };
    // Who asked may be gone.
    let _ = tokio::time::timeout(READ_MAX, read).await;
    result
}

/// Why there was no upgrade.
enum NotUpgraded {
    /// This process goes on as before.
    NothingChanged(String),
    /// The other one has taken over, and died.
    Died,
}

/// Whether another process can outlive this one, which has this number.
///
/// # Errors
/// It cannot: the kernel ends all processes of a container with the first one.
fn may_end(pid: u32) -> io::Result<()> {
    match pid {
        1 => Err(io::Error::other(
            "its container would end with PID 1, this process: start another container with --take-over",
        )),
        _ => Ok(()),
    }
}

/// Starts the program as this process was started, with one end of a socket as its standard input.
///
/// It is a child of the returned one, which has no other task and is ended once the program has taken over. So it becomes an
/// orphan, which systemd adopts. Of a service that is no child of its own, systemd would neither notice the end nor wait for it.
fn start(program: &Path) -> io::Result<(Child, UnixStream)> {
    rustix::fs::access(program, rustix::fs::Access::EXEC_OK)?;
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(THIS);
    command.arg("supervise").arg(program).arg("--");
    command.args(arguments(std::env::args_os().skip(1)));
    for variable in NOT_FOR_THE_NEXT {
        command.env_remove(variable);
    }
    let supervisor = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn()?;
    Ok((supervisor, ours))
}

/// A program to run, and its arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Supervised {
    program: PathBuf,
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Runs a program with this process's standard input, and ends as it does.
pub(super) fn supervise(supervised: &Supervised) -> ExitCode {
    let Supervised { program, arguments } = supervised;
    let run = || {
        let mut child = Command::new(program).args(arguments).spawn()?;
        // Its end must be seen at the other side of the socket.
        rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
        child.wait()
    };
    match run() {
        Ok(status) => {
            if let Some(signal) = status.signal().and_then(Signal::from_named_raw) {
                let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
            }
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            code.map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            eprintln!("remora: {}: {error}", program.display());
            ExitCode::FAILURE
        }
    }
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
    mut supervisor: Child,
    socket: UnixStream,
    running: &Handle,
    service: &Service,
    tell: impl Fn(UpgradeStep) + Send + 'static,
) -> Result<Upgraded, NotUpgraded> {
    let pid = Arc::new(AtomicU32::new(0));
    let runs = Arc::new(Notify::new());
    let (known, began) = (Arc::clone(&pid), Arc::clone(&runs));
    let over = running.hand_over(socket, move |step| {
        if let Step::Known { pid } = step {
            known.store(pid, Ordering::Relaxed);
        }
        if let Step::Running { round: 1, .. } = step {
            began.notify_one();
        }
        told(step).into_iter().for_each(&tell);
    });
    let serves = async {
        // This handover, and not another one that was asked for at the same time.
        runs.notified().await;
        // It has done its part.
        let _ = supervisor.kill();
        let _ = supervisor.wait();
        let pid = pid.load(Ordering::Relaxed);
        if has_ended(pid) {
            return;
        }
        service.handed_over(pid);
        future::pending().await
    };
    let over = tokio::select! {
        biased;
        () = serves => return Err(NotUpgraded::Died),
        over = over => over,
    };
    match over {
        // systemd has not noticed, if it was not told in time which process it is.
        Ok(_) if ends_soon(pid.load(Ordering::Relaxed)).await => Err(NotUpgraded::Died),
        Ok(upgraded) => Ok(Upgraded {
            pid: Some(pid.load(Ordering::Relaxed)),
            ..upgraded
        }),
        Err(failure) => {
            let status = ended(&mut supervisor, pid.load(Ordering::Relaxed)).await;
            Err(NotUpgraded::NothingChanged(match (&failure, status) {
                // It has said why.
                (Failure::Refused(_), _) => failure.to_string(),
                (_, Some(status)) if !status.success() => {
                    format!("{failure}: it ended with {status}, and its output says why")
                }
                _ => failure.to_string(),
            }))
        }
    }
}

/// Whether this process has ended, or is about to: its end of the socket is closed some milliseconds before that.
async fn ends_soon(pid: u32) -> bool {
    for _ in 0..ENDING_CHECKS {
        if has_ended(pid) {
            return true;
        }
        tokio::time::sleep(EXIT_INTERVAL).await;
    }
    false
}

/// Whether this process has ended.
fn has_ended(pid: u32) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    match pidfd_open(pid, PidfdFlags::empty()) {
        // Also of one whose status was not asked for yet.
        Ok(process) => poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&Timespec::default())) == Ok(1),
        // INVAL while the last of it goes.
        Err(error) => [Errno::SRCH, Errno::INVAL].contains(&error),
    }
}

/// Waits for the end of a process that has not taken over, and ends it if it does not; its status.
async fn ended(supervisor: &mut Child, pid: u32) -> Option<ExitStatus> {
    let exits = async |supervisor: &mut Child| {
        loop {
            if let Ok(Some(status)) = supervisor.try_wait() {
                return status;
            }
            tokio::time::sleep(EXIT_INTERVAL).await;
        }
    };
    if let Ok(status) = tokio::time::timeout(EXIT_MAX, exits(supervisor)).await {
        return Some(status);
    }
    // Until its supervisor ends, the number is of no other process. One that has not said who it is cannot have anything.
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    if let Ok(status) = tokio::time::timeout(EXIT_MAX, exits(supervisor)).await {
        return Some(status);
    }
    let _ = supervisor.kill();
    supervisor.wait().ok()
}

fn told(step: Step) -> Option<UpgradeStep> {
    Some(match step {
        Step::Known { pid } => UpgradeStep::Started { pid },
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
    fn the_first_process_of_a_container_does_not_end_for_another_one() {
        let why = may_end(1).expect_err("all would end").to_string();
        assert!(why.contains("--take-over"), "{why}");
        may_end(2).expect("it may");
    }

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
