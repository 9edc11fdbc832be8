//! `remora check`: what `remora run` would do, and what an operator should look at before.

mod description;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use remora::admin::api::answers::Status;
use remora::admin::{self, Client, Identity};
use remora::config::{Config, Loaded, Problem, Source};
use remora::serve;

use super::{health, holder, listed, print, print_problems, refused};

/// Prints what `remora run` would do, and what an operator should look at; with `bind`, also what the system would refuse.
pub(super) fn command(loaded: Loaded, bind: bool, strict: bool) -> ExitCode {
    let Loaded { mut config, source } = loaded;
    let unlisted = listed::add(&mut config).err();
    let (config, source) = (&config, &source);
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
    if let Some(unlisted) = &unlisted {
        print_problems(unlisted);
        eprintln!("note: `run` would start without the nodes of this file, and use it once it is right");
    }
    match is_refused || strict && !(problems.is_empty() && unlisted.is_none()) {
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
    let refused = refused.into_iter();
    let addresses = refused.map(|error| refused::address(error, own, config, source));
    addresses.chain(socket_refused(own, config, source)).collect()
}

/// What is wrong with the admin socket, unless this configuration's own process has it.
fn socket_refused(own: Option<u32>, config: &Config, source: &Source) -> Option<Problem> {
    let refused = admin::probe_socket(&config.admin)?;
    if own.is_some() && refused.process() == own {
        eprintln!(
            "note: {} is open in the process of this configuration",
            refused.path.display()
        );
        return None;
    }
    Some(refused::socket(&refused, source))
}

/// The process that runs this configuration now, if it answers at its admin address or at its socket.
fn own_process(config: &Config) -> Option<u32> {
    process_at_address(config).or_else(|| process_at_socket(config))
}

fn process_at_socket(config: &Config) -> Option<u32> {
    let file = config.admin.configuration.as_ref()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let mut paths = config.admin.socket_paths().into_iter();
    paths.find_map(|path| {
        let asked = runtime.block_on(async {
            let mut client = Client::connect(&path).await?;
            client.request(false, "/api/v1/status", None).await
        });
        let status: Status = serde_json::from_slice(&asked.ok()?.body).ok()?;
        let process = Identity {
            pid: status.pid,
            configuration: status.configuration.map(PathBuf::from),
        };
        process.is_of(file).then_some(process.pid)
    })
}

fn process_at_address(config: &Config) -> Option<u32> {
    let address = match &config.admin.address {
        admin::Address::Default => admin::ADDRESS_DEFAULT,
        admin::Address::At(addresses) => *addresses.iter().find(|address| address.port() != 0)?,
        admin::Address::Off => return None,
    };
    let identity = health::ask(address).ok()?.identity?;
    let file = config.admin.configuration.as_ref()?;
    identity.is_of(file).then_some(identity.pid)
}
