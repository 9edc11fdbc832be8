//! Runs a plan on one thread, and measures. It knows no workload by name.
//!
//! Decisions are separate from I/O: [`phases`] and [`schedule`] decide what is due, [`exchange`] moves packets,
//! [`clients`] keeps the state of each client, and [`recorder`] records what happens. The loop in this file brings
//! them together.

mod clients;
mod exchange;
mod incoming;
mod phases;
mod recorder;
mod schedule;
mod sender;
#[cfg(test)]
mod tests;

use std::io;

use crate::clock::{self, Nanos, SECOND};
use crate::files::OpenFiles;
use crate::interrupt::Interrupts;
use crate::measured::Measured;
use crate::plan::{Plan, Then};
use crate::process::{Look, Moment};
use crate::progress::{Progress, ProgressLine};

use exchange::Exchange;
use phases::{Phase, Phases, Situation, Step};
use schedule::Dials;

/// How often clients are swept for those that took too long to connect or were silent for long.
const SWEEP: Nanos = SECOND / 4;

/// Runs a plan; returns when it is over, or soon after an interrupt.
pub(super) fn run(plan: &Plan, progress: &ProgressLine, interrupts: Option<&Interrupts>) -> io::Result<Outcome> {
    // Before there is a client, so that the bench's own memory is counted too.
    let start = Look::at(Moment::Start, &plan.pids);
    let mut driver = Driver::new(plan, progress, interrupts)?;
    driver.looks.push(start);
    driver.run()?;
    Ok(Outcome {
        measured: driver.exchange.recorder.measured,
        looks: driver.looks,
        files: driver.files,
    })
}

/// What a run leaves behind.
pub(super) struct Outcome {
    pub(super) measured: Measured,
    pub(super) looks: Vec<Look>,
    pub(super) files: Option<OpenFiles>,
}

struct Driver<'a> {
    plan: &'a Plan,
    progress: &'a ProgressLine,
    interrupts: Option<&'a Interrupts>,
    phases: Phases,
    dials: Dials,
    exchange: Exchange<'a>,
    next_sweep: Nanos,
    looks: Vec<Look>,
    files: Option<OpenFiles>,
}

impl<'a> Driver<'a> {
    fn new(plan: &'a Plan, progress: &'a ProgressLine, interrupts: Option<&'a Interrupts>) -> io::Result<Self> {
        let files = OpenFiles::find(plan.target);
        let now = clock::now();
        Ok(Self {
            plan,
            progress,
            interrupts,
            phases: Phases::new(plan, now),
            dials: Dials::new(plan, now),
            exchange: Exchange::new(plan, interrupts, now)?,
            next_sweep: 0,
            looks: Vec::new(),
            files,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        if self.plan.then == Then::Leave {
            self.begin_measuring();
        }
        loop {
            let now = clock::now();
            self.advance(now);
            if self.phases.current() == Phase::Over {
                return Ok(());
            }
            self.dial_due(now);
            self.exchange.publish_due(now);
            if now >= self.next_sweep {
                self.exchange.sweep(self.dials.dialed(), now);
                self.next_sweep = now + SWEEP;
            }
            if now >= self.exchange.recorder.slice_ends() {
                self.end_slice(now);
            }
            let due = self.next_due(now);
            self.exchange.wait(now, due, &mut ready)?;
            for event in &ready {
                self.exchange.turn(*event);
                // A client that has connected makes room for the next one to dial.
                if self.phases.current() == Phase::Connecting {
                    self.dial_due(clock::now());
                }
            }
            if self.interrupts.is_some_and(Interrupts::received) {
                self.exchange.recorder.measured.interrupted = true;
            }
        }
    }

    /// Goes on to the next phase when this one is over.
    fn advance(&mut self, now: Nanos) {
        match self.phases.next(now, self.situation()) {
            Step::Stay => {}
            Step::EndConnecting => {
                let never_dialed = self.dials.stop();
                self.exchange.end_connecting(never_dialed);
            }
            Step::AllSettled(phase) => {
                self.exchange.recorder.all_settled(now);
                // Nothing is measured at this moment.
                self.exchange.ask_for_nodes();
                self.enter(phase);
            }
            Step::CutOff => {
                if self.dials.round() == 0 {
                    self.begin_measuring();
                }
                self.exchange.cut_off(now);
                self.dials.restart(now);
                self.enter(Phase::Connecting);
            }
            Step::Enter(phase) => self.enter(phase),
        }
    }

    fn situation(&self) -> Situation {
        let clients = &self.exchange.clients;
        Situation {
            interrupted: self.exchange.recorder.measured.interrupted,
            all_settled: clients.all_settled(),
            connected: clients.connected(),
            is_quiet: self.exchange.is_quiet(),
        }
    }

    fn enter(&mut self, phase: Phase) {
        match phase {
            Phase::Connecting => {}
            Phase::Resting => self.count_files(),
            Phase::WarmingUp => {
                self.exchange.start_traffic();
                self.count_files();
            }
            Phase::Measuring => self.begin_measuring(),
            Phase::Draining => self.end_measuring(),
            Phase::Settling => self.end_clients(),
            Phase::Over => self.look(Moment::Settled),
        }
        self.exchange.recorder.time_messages_only(phase == Phase::Measuring);
        let now = clock::now();
        self.phases.enter(phase, now, self.plan);
        if phase == Phase::Over {
            self.end_slice(now);
        }
    }

    fn begin_measuring(&mut self) {
        self.look(Moment::Begin);
        self.exchange.recorder.begin_measuring(clock::now());
    }

    fn end_measuring(&mut self) {
        let now = clock::now();
        self.exchange.recorder.end_measuring(now);
        self.exchange.messages.end(now);
        self.look(Moment::End);
    }

    /// Closes all clients, and counts what they had not finished.
    fn end_clients(&mut self) {
        let Exchange {
            clients,
            messages,
            recorder,
            ..
        } = &mut self.exchange;
        recorder.measured.cut_off += clients.in_flight() + messages.owed();
        recorder.measured.cut_off_connects += u64::from(self.dials.left() + clients.connecting());
        self.exchange.close_all();
    }

    fn look(&mut self, moment: Moment) {
        self.looks.push(Look::at(moment, &self.plan.pids));
    }

    fn count_files(&mut self) {
        if let Some(files) = &mut self.files {
            files.count_with(self.exchange.clients.connected());
        }
    }

    /// Ends the current slice of time, and shows the progress.
    fn end_slice(&mut self, now: Nanos) {
        let ended = self.exchange.recorder.end_slice(now);
        self.progress.show(
            self.plan.name,
            &Progress {
                phase: self.phases.current().name(),
                elapsed: ended.elapsed,
                connected: self.exchange.clients.connected(),
                clients: self.plan.clients,
                connects_per_s: ended.connects_per_s,
                messages_per_s: ended.messages_per_s,
                p99_us: ended.slice.p99_us,
                errors: self.exchange.recorder.measured.failed_in_all(),
            },
        );
    }

    /// When there is something to do at the latest, should no socket be ready before.
    fn next_due(&self, now: Nanos) -> Nanos {
        if self.phases.next(now, self.situation()) != Step::Stay {
            return now;
        }
        let dial = match self.phases.current() {
            Phase::Connecting => self.dials.due(),
            _ => None,
        };
        let due = [self.phases.ends(), self.next_sweep, self.exchange.recorder.slice_ends()];
        let due = due.into_iter().chain(dial).chain(self.exchange.messages.next_due());
        due.min().unwrap_or(now)
    }

    fn dial_due(&mut self, now: Nanos) {
        if self.phases.current() != Phase::Connecting {
            return;
        }
        let mut now = now;
        while let Some((index, due)) = self.dials.take(self.exchange.clients.connecting(), now) {
            self.exchange.dial(index, due, self.dials.round());
            now = clock::now();
        }
    }
}
