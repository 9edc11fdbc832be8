//! The load tester: clients against any MQTT endpoint, honest latency, one screen of result.
//!
//! It is a black box: it imports nothing of the balancer, and sees it as its users do.

mod args;
mod clock;
mod compare;
mod driver;
mod files;
mod interrupt;
mod link;
mod live;
mod measured;
mod nodes;
mod packet;
mod page;
mod pattern;
mod plan;
mod poll;
mod process;
mod result;
mod sources;
mod units;

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

pub use args::Args;

use files::Listener;
use interrupt::Interrupts;
use live::Live;
use nodes::Nodes;
use plan::Plan;
use result::{Report, Summary, Thresholds};

/// Bad usage; sysexits.h calls it EX_USAGE.
const BAD_USAGE: u8 = 64;

/// Runs what the arguments ask for.
pub fn run(args: Args) -> ExitCode {
    match bench(&args) {
        Ok(code) => code,
        // Whoever reads has seen enough, as in `remora bench | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remora bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> io::Result<ExitCode> {
    if let Some(paths) = &args.compare {
        return match compare::files(paths) {
            Ok(text) => {
                write!(io::stdout(), "{text}")?;
                Ok(ExitCode::SUCCESS)
            }
            Err(problem) => Ok(bad_usage(&problem)),
        };
    }
    let clients_max = files::clients_max()?;
    if let Some(count) = args.serve {
        return serve(Nodes::bind(count.into(), args.stall())?);
    }
    let mut plans = match args.plans() {
        Ok(plans) => plans,
        Err(problem) => return Ok(bad_usage(&problem)),
    };
    fit(&mut plans, clients_max);
    // Found out now rather than after the run.
    if let Some(path) = &args.report
        && let Err(error) = fs::write(path, "")
    {
        return Ok(bad_usage(&format!("--report {}: {error}", path.display())));
    }
    let report = measure(&plans, args)?;
    if let Some(path) = &args.report {
        fs::write(path, page::page(&report))?;
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    out.flush()?;
    Ok(if report.missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn bad_usage(problem: &str) -> ExitCode {
    eprintln!("remora bench: {problem}");
    ExitCode::from(BAD_USAGE)
}

/// Takes back what this machine does not allow, and tells what the target's process has no room for.
fn fit(plans: &mut [Plan], clients_max: u64) {
    let wanted = plans.iter().map(|plan| plan.clients).max().unwrap_or(0);
    // A storm's clients are not here at the same time.
    let stay = |plan: &Plan| plan.then != plan::Then::Leave;
    let max = u32::try_from(clients_max).unwrap_or(u32::MAX);
    if plans.iter().any(|plan| stay(plan) && plan.clients > max) {
        eprintln!(
            "remora bench: {max} clients instead of {wanted}: a process may have no more files on this machine"
        );
    }
    for plan in plans
        .iter_mut()
        .filter(|plan| stay(plan) && plan.clients > max)
    {
        plan.publishers =
            (u64::from(plan.publishers) * u64::from(max) / u64::from(plan.clients)).max(1) as u32;
        plan.clients = max;
    }
    let most = plans
        .iter()
        .filter(|plan| stay(plan))
        .map(|plan| plan.clients);
    let (Some(plan), Some(most)) = (plans.first(), most.max()) else {
        return;
    };
    let Some(listener) = Listener::find(plan.target) else {
        return;
    };
    let room = listener.clients_max(
        listener.files_per_client(),
        listener.open_files().unwrap_or(0),
    );
    if u64::from(most) > room {
        eprintln!(
            "remora bench: about {room} clients fit into the target (process {}, {:.0} files a client, {} files at most)",
            listener.pid,
            listener.files_per_client(),
            listener.limit
        );
    }
}

fn measure(plans: &[Plan], args: &Args) -> io::Result<Report> {
    let interrupts = Interrupts::caught()?;
    let live = Live::new();
    let mut runs = Vec::new();
    for plan in plans {
        let outcome = driver::run(plan, &live, Some(&interrupts))?;
        runs.push(Summary::new(plan, &outcome));
        // A target that takes nobody has nothing to show in the runs that follow.
        if outcome.measured.interrupted || outcome.measured.accepted == 0 {
            break;
        }
    }
    live.clear();
    let thresholds = Thresholds {
        p99: args.max_p99,
        connack_p99: args.max_connack_p99,
        errors: args.max_errors,
        same_node_percent: args.min_same_node,
    };
    Ok(Report::new(runs, &thresholds))
}

fn serve(mut nodes: Nodes) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    for address in nodes.addresses()? {
        writeln!(out, "{address}")?;
    }
    out.flush()?;
    loop {
        nodes.turn()?;
    }
}
