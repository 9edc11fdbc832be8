//! The load tester: clients against any MQTT endpoint, honest latency, one screen of result.
//!
//! It is a black box: it imports nothing of the balancer, and sees it as its users do.

mod args;
mod clock;
mod driver;
mod link;
mod measured;
mod nodes;
mod packet;
mod pattern;
mod plan;
mod poll;
mod process;
mod result;

use std::io::{self, Write as _};
use std::process::ExitCode;

pub use args::Args;

use nodes::Nodes;

/// Runs what the arguments ask for.
pub fn run(args: Args) -> ExitCode {
    match bench(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("remora bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> io::Result<ExitCode> {
    if let Some(count) = args.serve {
        return serve(Nodes::bind(count, args.stall())?);
    }
    let plan = match args.plan() {
        Ok(plan) => plan,
        Err(problem) => {
            eprintln!("remora bench: {problem}");
            return Ok(ExitCode::from(64));
        }
    };
    let outcome = driver::run(&plan)?;
    let summary = result::Summary::new(&plan, &outcome);
    if args.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        print!("{summary}");
    }
    Ok(ExitCode::SUCCESS)
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
