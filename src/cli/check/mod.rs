//! `remora check`: what `remora run` would do, and what an operator should look at before.

mod description;

use std::net::SocketAddr;
use std::process::ExitCode;

use remora::admin;
use remora::config::{Config, Loaded, Problem, Source};
use remora::serve;

use super::{health, holder, print, print_problems, refused};

/// Prints what `remora run` would do, and what an operator should look at; with `bind`, also what the system would refuse.
pub(super) fn command(loaded: &Loaded, bind: bool, strict: bool) -> ExitCode {
    let Loaded { config, source } = loaded;
    let mut problems = config.warnings.clone();
    problems.extend(free_ports(config, source));
    let refused = match bind {
        true => refused_now(config, source),
        false => Vec::new(),
    };
    let is_refused = !refused.is_empty();
    problems.extend(refused);
    let code = print(&description::description(config, &problems));
    if !problems.is_empty() {
        print_problems(&source.problems(problems.clone()));
    }
    match is_refused || strict && !problems.is_empty() {
        true => ExitCode::FAILURE,
        false => code,
    }
}

/// Warns of addresses whose port the kernel chooses: right for a test, and nowhere else.
fn free_ports(config: &Config, source: &Source) -> Vec<Problem> {
    let admin: &[SocketAddr] = match &config.admin.address {
        admin::Address::At(addresses) => addresses,
        admin::Address::Default | admin::Address::Off => &[],
    };
    let admin = admin.iter().map(|address| ("admin.address".to_owned(), *address));
    let listeners = config.listeners.iter().enumerate();
    let listeners = listeners.map(|(index, listener)| (format!("listeners[{index}].address"), listener.address));
    let free = listeners.chain(admin).filter(|(_, address)| address.port() == 0);
    free.map(|(path, _)| {
        let problem = source.problem(&path, "with port 0 the kernel chooses another port at each start");
        problem
            .hint("write the port that clients use; `run` takes 0, and logs the port that it got")
            .warning()
    })
    .collect()
}

/// What the system would refuse now. An address that this configuration's own process has is not refused: a reload keeps it.
fn refused_now(config: &Config, source: &Source) -> Vec<Problem> {
    let own = own_process(config);
    let is_own = |error: &&serve::BindError| {
        let holder = own.and_then(|_| holder::find(error.address));
        // One that only overlaps could not be opened by a reload.
        let holder = holder.filter(|holder| holder.address == error.address);
        holder
            .and_then(|holder| holder.process)
            .is_some_and(|(pid, _)| Some(pid) == own)
    };
    let refused = serve::probe(config);
    let (kept, refused): (Vec<_>, Vec<_>) = refused.iter().partition(is_own);
    for error in kept {
        eprintln!("note: {} is open in the process of this configuration", error.address);
    }
    refused
        .into_iter()
        .map(|error| refused::address(error, own, config, source))
        .collect()
}

/// The process that runs this configuration now, if it answers at its admin address.
fn own_process(config: &Config) -> Option<u32> {
    let address = match &config.admin.address {
        admin::Address::Default => admin::ADDRESS_DEFAULT,
        admin::Address::At(addresses) => *addresses.iter().find(|address| address.port() != 0)?,
        admin::Address::Off => return None,
    };
    let identity = health::ask(address).ok()?.identity?;
    let file = config.admin.configuration.as_ref()?;
    identity.is_of(file).then_some(identity.pid)
}
