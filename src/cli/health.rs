//! `remora health`: asks the balancer that runs a configuration whether it is ready.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use remora::admin::{self, Address, Health, Identity};
use remora::config::Loaded;

use super::locate::{File, Located};
use super::{bad_usage, print, reachable, refused_config};

/// Asks at `address`, or else the process of the configuration.
pub(super) fn command(file: &File, address: Option<SocketAddr>) -> ExitCode {
    if let Some(address) = address {
        return say(ask(address), address, None);
    }
    let located = match file.locate() {
        Ok(located) => located,
        // The default for a balancer without a configuration file, such as the demo.
        Err(none) => {
            let address = admin::ADDRESS_DEFAULT;
            let code = say(ask(address), address, None);
            if code != ExitCode::SUCCESS {
                eprintln!("remora: {none}, so {address} was asked");
            }
            return code;
        }
    };
    let Located::File(path, _) = &located else {
        return bad_usage(
            &"health knows a process by its file: give it the file instead of standard input; see --help",
        );
    };
    let Loaded { config, .. } = match located.load() {
        Ok(loaded) => loaded,
        Err(problems) => {
            let code = refused_config(&located, &problems);
            // Such as a variable that only the service has.
            eprintln!("remora: health can also be told where to ask, with --address HOST:PORT");
            return code;
        }
    };
    match &config.admin.address {
        Address::Default => say(ask(admin::ADDRESS_DEFAULT), admin::ADDRESS_DEFAULT, Some(path)),
        Address::At(addresses) => match (addresses.iter().find(|address| address.port() != 0), &addresses[..]) {
            (Some(address), _) => say(ask(*address), *address, Some(path)),
            (None, []) => fail("this configuration has no admin address: `remora ctl status` asks its socket"),
            (None, _) => fail(
                "admin.address has port 0, so the kernel has chosen the port: give the one that the log says with --address",
            ),
        },
        Address::Off => fail("this configuration has no admin listener (admin.enabled = false)"),
    }
}

/// The answer at `address`.
pub(super) fn ask(address: SocketAddr) -> io::Result<Health> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .and_then(|runtime| runtime.block_on(admin::health(reachable(address))))
}

/// Prints an answer, if it is that of the process of the configuration at `file`, or if any will do.
fn say(answer: io::Result<Health>, address: SocketAddr, file: Option<&Path>) -> ExitCode {
    let Health { ready, text, identity } = match answer {
        Ok(health) => health,
        Err(error) => return fail(&format!("no answer from {address}: {error}")),
    };
    if let Some(file) = file.filter(|file| !identity.as_ref().is_some_and(|identity| identity.is_of(file))) {
        return fail(&format!(
            "{} answers at {address}, not the one of {}: give each an admin.address of its own",
            other(identity.as_ref()),
            file.display()
        ));
    }
    match ready {
        true => print(&text),
        false => fail(&format!("not ready: {text}")),
    }
}

/// Another process that answers.
fn other(identity: Option<&Identity>) -> String {
    match identity {
        Some(Identity {
            pid,
            configuration: Some(file),
        }) => format!("another Remora (configuration {}, pid {pid})", file.display()),
        Some(Identity {
            pid,
            configuration: None,
        }) => format!("another Remora (without a configuration file, pid {pid})"),
        None => "a program that is no Remora, or an older one,".to_owned(),
    }
}

fn fail(message: &str) -> ExitCode {
    eprintln!("remora: {message}");
    ExitCode::FAILURE
}
