//! The load generator behind `remora bench`: clients for any MQTT endpoint, latency without coordinated omission, and a
//! result that fits on one screen.
//!
//! It imports nothing of the balancer, and sees it from outside as its users do.

mod about;
mod args;
mod clock;
mod compare;
mod driver;
mod emqx;
mod failure;
mod files;
mod frames;
mod interrupt;
mod introduction;
mod link;
mod measured;
mod nodes;
mod packet;
mod page;
mod pattern;
mod plan;
mod poll;
mod process;
mod progress;
mod result;
mod session;
mod sources;
mod tls;
mod units;
mod upgrade;
mod wire;

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

pub use args::Args;

use about::About;
use files::Listener;
use interrupt::Interrupts;
use nodes::Nodes;
use plan::{Plan, Then};
use progress::ProgressLine;
use result::{Report, Summary, Thresholds};

/// Bad usage; sysexits.h calls it EX_USAGE.
const BAD_USAGE: u8 = 64;

/// Runs what the arguments ask for; returns the exit code. `program` is what the program says of its version, for the result.
pub fn run(args: Args, program: &str) -> ExitCode {
    match bench(&args, program) {
        Ok(code) => code,
        // The reader has closed the pipe, as in `remora bench | head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("remora bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args, program: &str) -> io::Result<ExitCode> {
    if let Some(sides) = &args.compare {
        return match compare::files(sides) {
            Ok(text) => {
                write!(io::stdout(), "{text}")?;
                Ok(ExitCode::SUCCESS)
            }
            Err(problem) => Ok(bad_usage(&problem)),
        };
    }
    let clients_max = files::clients_max()?;
    if let Some(addresses) = args.served() {
        return serve(Nodes::bind(&addresses, args.stall())?);
    }
    let mut plans = match args.plans() {
        Ok(plans) => plans,
        Err(problem) => return Ok(bad_usage(&problem)),
    };
    for note in [fit(&mut plans, clients_max), room(&plans)].into_iter().flatten() {
        eprintln!("remora bench: {note}");
    }
    // An unwritable file is reported now rather than after the run.
    if let Some(path) = &args.report
        && let Err(error) = fs::write(path, "")
    {
        return Ok(bad_usage(&format!("--report {}: {error}", path.display())));
    }
    let report = measure(&plans, args, program)?;
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

/// Lowers the number of clients to what this machine allows; returns a note about it.
fn fit(plans: &mut [Plan], clients_max: u64) -> Option<String> {
    let max = u32::try_from(clients_max).unwrap_or(u32::MAX);
    let most = most_at_once(plans).filter(|&most| most > max)?;
    for plan in plans.iter_mut().filter(|plan| plan.clients > max) {
        // The clients of a storm are not connected at the same time.
        if plan.then != Then::Leave {
            let publishers = u64::from(plan.publishers) * u64::from(max);
            plan.publishers = (publishers / u64::from(plan.clients)).max(1) as u32;
            plan.clients = max;
        }
    }
    Some(format!(
        "{max} clients instead of {most}: this machine allows a process no more open files"
    ))
}

/// A note about how many clients fit into the target's process, when the plans have more.
fn room(plans: &[Plan]) -> Option<String> {
    let most = most_at_once(plans)?;
    let listener = Listener::find(plans.first()?.target)?;
    let files_per_client = listener.files_per_client();
    let room = listener.clients_max(files_per_client, listener.open_files()?);
    (u64::from(most) > room).then(|| {
        format!(
            "about {room} clients fit into the target: process {} may open {} files, and each client takes {files_per_client:.0}",
            listener.pid, listener.limit
        )
    })
}

fn most_at_once(plans: &[Plan]) -> Option<u32> {
    let stay = plans.iter().filter(|plan| plan.then != Then::Leave);
    stay.map(|plan| plan.clients).max()
}

fn measure(plans: &[Plan], args: &Args, program: &str) -> io::Result<Report> {
    let about = About::new(args, program);
    let interrupts = Interrupts::block()?;
    let progress = ProgressLine::new();
    let mut runs = Vec::new();
    // All workloads, then all of them again: what the machine does meanwhile then affects each of them alike.
    let repeated = (1..=args.runs).flat_map(|repetition| plans.iter().map(move |plan| (repetition, plan)));
    for (repetition, plan) in repeated {
        let outcome = driver::run(plan, &progress, Some(&interrupts))?;
        runs.push(Summary::new(plan, repetition, &outcome));
        // A target that accepts no client would show nothing in the runs that follow.
        if outcome.measured.interrupted || outcome.measured.accepted == 0 {
            break;
        }
    }
    progress.clear();
    let thresholds = Thresholds {
        p99: args.max_p99,
        connack_p99: args.max_connack_p99,
        errors: args.max_errors,
        same_node_percent: args.min_same_node,
    };
    Ok(Report::new(about, args.runs, runs, &thresholds))
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plans(line: &str) -> Vec<Plan> {
        let words = format!("bench {line}");
        let line = Line::try_parse_from(words.split_whitespace()).unwrap();
        line.args.plans().unwrap()
    }

    #[test]
    fn more_clients_than_files_are_fewer_and_it_is_said() {
        let mut few = plans("idle -c 100");
        assert_eq!(fit(&mut few, 100), None);

        let mut many = plans("pub -c 300 --subscribers 100");
        let note = fit(&mut many, 40).unwrap();
        assert!(note.starts_with("40 clients instead of 400"), "{note}");
        assert_eq!((many[0].clients, many[0].publishers), (40, 30));

        // They come and go.
        let mut storm = plans("connect -c 300");
        assert_eq!(fit(&mut storm, 40), None);
        assert_eq!(storm[0].clients, 300);
    }

    #[test]
    fn a_target_without_room_is_told_of_before() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let note = |clients: u32| room(&plans(&format!("idle -t {address} -c {clients}")));
        assert_eq!(note(1), None);
        let said = note(1_000_000).unwrap();
        assert!(said.contains("clients fit into the target"), "{said}");
    }

    #[test]
    fn the_canonical_runs_end_within_a_minute() {
        let plans = plans("");
        assert_eq!(plans.len(), 4);
        let planned: u64 = plans
            .iter()
            .map(|plan| match plan.then {
                Then::Leave => plan.duration,
                Then::Return(cuts) => plan.warm_up * u64::from(cuts),
                Then::Ping | Then::Stay => plan.warm_up + plan.duration,
            })
            .sum();
        assert!(planned < 30 * clock::SECOND, "{planned} ns");
    }
}
