//! `remora run`: starts the balancer and handles signals until one of them ends it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use remora::base::events::Change;
use remora::base::log::{self, List};
use remora::base::supervise::Task;
use remora::config::{self, Config, Loaded, Problems};
use remora::serve::{self, BindError, Handle, Inherited, NotReloaded, Program, Reloaded, Request};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use super::refused;
use super::signals::{Action, Faster, Foreign, Signals};
use super::state;
use super::systemd::{self, Service};
use super::upgrade;

/// How long the report of a panic may take after its first symptom.
const PANIC_REPORT_MAX: Duration = Duration::from_secs(1);

/// Runs until a signal ends it, or another process has taken over; `state` is the file in which the operator's wishes for nodes outlive it,
/// `take_over` where another process hands over to this one.
pub(super) fn run(path: &Path, config: Config, state: Option<&Path>, take_over: Option<&Path>) -> io::Result<()> {
    let program = Program::of_this_process().ok().map(Arc::new);
    let other = take_over.map(upgrade::connect).transpose()?;
    let (runtime, mut signals) = Signals::catch()?;
    let _log = log::init(&config.log)?;
    log_panics();
    let may_come = config.control.discovery.is_some();
    let mut waiting = Vec::new();
    let running = match other {
        Some(other) => {
            let running = serve::take_over(config, other)?;
            if let Some(state) = state {
                waiting = state::waiting(state, &running, may_come);
            }
            running
        }
        None => {
            let inherited = Inherited::of_systemd(&systemd::sockets()?, &config)?;
            serve::start_with(config, inherited, async |handle| {
                if let Some(state) = state {
                    waiting = state::restore(state, handle, may_come).await;
                }
            })?
        }
    };
    tracing::info!(
        addresses = List::of(running.addresses()).value(),
        admin = addresses(running.admin_addresses()).map(display),
        socket = running.admin_socket().map(|path| display(path.display())),
        "listening"
    );
    let service = Service::default();
    service.ready(&running);
    service.watch(running.handle())?;
    let panic = running.panicked();
    let kept = async {
        match state {
            Some(state) => Some(state::keep(state, &running, waiting).await),
            None => None,
        }
    };
    let end = runtime.block_on(async {
        tokio::select! {
            biased;
            task = panic => Err(panicked(task)),
            end = handle_signals(path, &running, (&mut signals, program), &service) => end,
            Some(never) = kept => match never {},
        }
    });
    if let Err(error) = end {
        // Not stopped: joining the threads of a broken balancer may take for ever, and the supervisor would not restart it.
        std::mem::forget(running);
        return Err(error);
    }
    // A task may also panic while it ends.
    running.stop().map_or(Ok(()), |task| Err(panicked(task)))
}

/// The addresses of the admin listener for a field, if it has any.
fn addresses(all: &[SocketAddr]) -> Option<String> {
    let all: Vec<String> = all.iter().map(SocketAddr::to_string).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

/// Switches off core dumps: private keys are in the memory, and so is what clients send. To be called before keys are read.
pub(super) fn forbid_core_dumps() {
    /// A limit of 0 applies to files only. With a limit of 1, the kernel starts no program in `core_pattern` either (core(5)).
    const NO_DUMPS: u64 = 1;
    let maximum = getrlimit(Resource::Core).maximum;
    let limit = Some(maximum.map_or(NO_DUMPS, |maximum| maximum.min(NO_DUMPS)));
    let none = Rlimit {
        current: limit,
        maximum: limit,
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        eprintln!("remora: core dumps cannot be switched off: {error}");
    }
}

/// The error with which the process ends after this task has panicked.
pub(super) fn panicked(task: Task) -> io::Error {
    io::Error::other(format!("the task {} panicked", task.name()))
}

/// Handles signals until one of them ends the balancer. Returns an error if the balancer is broken.
async fn handle_signals(
    path: &Path,
    running: &Handle,
    (signals, program): (&mut Signals, Option<Arc<Program>>),
    service: &Service,
) -> io::Result<()> {
    let mut requests = running.requests(program.clone());
    let mut upgrades = JoinSet::new();
    loop {
        let action = tokio::select! {
            action = signals.next() => action,
            () = running.handed_over() => {
                let ended = tokio::select! {
                    biased;
                    lost = lost(&mut upgrades) => Err(lost),
                    ended = end_after_handover(running, signals, service) => ended,
                };
                ended?;
                // What is read of it may be the last that this process says.
                while let Some(upgraded) = upgrades.join_next().await {
                    upgraded.map_err(io::Error::other)??;
                }
                return Ok(());
            }
            Some(request) = requests.recv() => match request {
                Request::Reload(reply) => {
                    tracing::info!("reloading");
                    service.reloading();
                    let reloaded = reload(path, running).await;
                    service.reloaded(running, reloaded.as_ref().err().map(|not| &*not.why));
                    // Who has asked may be gone.
                    let _ = reply.send(reloaded);
                    continue;
                }
                Request::Drain => return drain(None, running, signals, service).await,
                Request::Upgrade(request) => {
                    if let Some(program) = program.clone() {
                        // In a task: the signals are handled meanwhile.
                        upgrades.spawn(upgrade::upgrade(request, program, running.clone(), service.clone()));
                    }
                    continue;
                }
            },
        };
        match action {
            Action::Reload(signal) => {
                tracing::info!(signal, "reloading");
                service.reloading();
                let reloaded = reload(path, running).await;
                service.reloaded(running, reloaded.as_ref().err().map(|not| &*not.why));
            }
            Action::Ignore(foreign) => log_ignored(foreign),
            Action::Stop(signal) => {
                tracing::info!(signal, "stopping");
                service.stopping("stopping", running);
                return Ok(());
            }
            Action::ReopenOrStopSoftly(signal) if running.has_log_file() => reopen_log(signal, running).await,
            Action::ReopenOrStopSoftly(signal) => {
                let connections = running.connections();
                tracing::info!(event = Change::DRAIN, signal, connections, "stopping softly");
                service.stopping_softly(running);
                return stop_softly(running, signals, service).await;
            }
            Action::Drain(signal) => {
                return drain(Some(signal), running, signals, service).await;
            }
        }
    }
}

/// Waits until the process that has taken over is known to have died, if it ever is: then a supervisor must start another one.
async fn lost(upgrades: &mut JoinSet<io::Result<()>>) -> io::Error {
    while let Some(upgraded) = upgrades.join_next().await {
        if let Ok(Err(lost)) = upgraded {
            return lost;
        }
    }
    std::future::pending().await
}

/// Waits, after another process has taken over, for the last connection to end, or for a signal that requests a faster end.
async fn end_after_handover(running: &Handle, signals: &mut Signals, service: &Service) -> io::Result<()> {
    let ends = tokio::select! {
        ends = running.end_after_handover() => ends,
        faster = signals.faster(log_ignored, || reopen_if_file(running)) => match faster {
            Faster::Drain(signal) => return drain(Some(signal), running, signals, service).await,
            Faster::Stop(signal) => {
                tracing::info!(signal, "stopping before all connections have ended");
                return Ok(());
            }
        },
    };
    ended(ends).await?;
    tracing::info!("all connections have moved or ended");
    Ok(())
}

/// Waits for the last connection to end, or for a signal that requests a faster end.
async fn stop_softly(running: &Handle, signals: &mut Signals, service: &Service) -> io::Result<()> {
    let stopped = tokio::select! {
        stopped = running.stop_softly() => stopped,
        faster = signals.faster(log_ignored, || reopen_if_file(running)) => match faster {
            Faster::Drain(signal) => return drain(Some(signal), running, signals, service).await,
            Faster::Stop(signal) => {
                tracing::info!(signal, "stopping before all connections have ended");
                return Ok(());
            }
        },
    };
    ended(stopped).await?;
    tracing::info!("the last connection has ended");
    Ok(())
}

/// Opens the log's file anew.
async fn reopen_log(signal: &'static str, running: &Handle) {
    match running.reopen_log().await {
        Ok(file) => tracing::info!(signal, file = display(file.display()), "log file opened anew"),
        Err(error) => tracing::error!(signal, %error, "log file cannot be opened anew"),
    }
}

/// What SIGUSR1 means to a balancer that is about to end.
async fn reopen_if_file(running: &Handle) {
    if running.has_log_file() {
        reopen_log("SIGUSR1", running).await;
    }
}

fn log_ignored(Foreign { signal, hint, .. }: Foreign) {
    tracing::warn!(signal, hint, "signal ignored");
}

async fn drain(
    signal: Option<&'static str>,
    running: &Handle,
    signals: &mut Signals,
    service: &Service,
) -> io::Result<()> {
    let connections = running.connections();
    tracing::info!(event = Change::DRAIN, signal, connections, "draining");
    service.stopping("draining", running);
    let drained = tokio::select! {
        drained = running.drain() => drained,
        signal = signals.second(log_ignored, || reopen_if_file(running)) => {
            tracing::info!(signal, "stopping before all connections are drained");
            return Ok(());
        }
    };
    ended(drained).await?;
    tracing::info!(connections = running.connections(), "drained");
    Ok(())
}

async fn ended(result: io::Result<()>) -> io::Result<()> {
    if let Err(error) = &result {
        tracing::error!(%error, "draining failed");
        // A worker ends by itself only if a task has panicked. The report, which cancels this future, has not arrived yet.
        tokio::time::sleep(PANIC_REPORT_MAX).await;
    }
    result
}

/// Applies the file as it is now, completely or not at all.
///
/// # Errors
/// Why nothing has changed; the log has all of it.
async fn reload(path: &Path, running: &Handle) -> Result<Reloaded, NotReloaded> {
    let Loaded { config, source } = match config::load_with_source(path) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let not = reject(problems);
            running.reload_failed(&not.why);
            return Err(not);
        }
    };
    match running.reload(config.clone()).await {
        Ok(reloaded) => {
            for key in &reloaded.restart {
                tracing::warn!(key, "this key needs a restart; the old value stays in use");
            }
            tracing::info!(
                event = Change::RELOAD,
                addresses = List::of(running.addresses()).value(),
                "configuration reloaded"
            );
            Ok(reloaded)
        }
        Err(error) => match BindError::of(&error) {
            Some(refused) => {
                let problem = refused::address(refused, Some(std::process::id()), &config, &source);
                Err(reject(source.problems(vec![problem])))
            }
            None => {
                tracing::error!(event = Change::RELOAD, %error, "reload failed, nothing changed");
                Err(NotReloaded {
                    why: error.to_string(),
                    problems: None,
                })
            }
        },
    }
}

/// Logs why a configuration was not applied, in one line for each problem: this is a log, and may be JSON.
fn reject(problems: Problems) -> NotReloaded {
    let mut first = None;
    for problem in problems.iter() {
        let file = problems.place(problem);
        let hint = problem.hint.as_deref();
        tracing::error!(file, hint, "{problem}");
        first.get_or_insert_with(|| format!("{file}: {problem}"));
    }
    tracing::error!(event = Change::RELOAD, "configuration rejected, nothing changed");
    NotReloaded {
        why: first.unwrap_or_default(),
        problems: Some(problems),
    }
}

/// Logs every panic with its backtrace. What the panic ends, a connection or the process, is logged elsewhere.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::force_capture().to_string();
        tracing::error!(backtrace, "{panic}");
    }));
}
