//! The phases of a run, and when one follows another. Pure decisions: the driver carries the steps out.

use crate::clock::{Nanos, SECOND};
use crate::plan::{Plan, Then};

/// How long messages in flight are waited for at the end.
const DRAIN: Nanos = 2 * SECOND;

/// What a run is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Connecting,
    /// All clients are connected, and are about to be cut off.
    Resting,
    WarmingUp,
    Measuring,
    Draining,
    Settling,
    Over,
}

impl Phase {
    /// As the progress line shows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Resting | Self::WarmingUp => "warming up",
            Self::Measuring => "measuring",
            Self::Draining | Self::Settling | Self::Over => "ending",
        }
    }
}

/// What the decision about the next phase looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Situation {
    /// The run was interrupted.
    pub(crate) interrupted: bool,
    /// Every client has connected or failed to.
    pub(crate) all_settled: bool,
    /// How many clients are connected.
    pub(crate) connected: u32,
    /// Nothing is in flight or due.
    pub(crate) is_quiet: bool,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The phase goes on.
    Stay,
    /// Clients that have not connected yet have failed.
    EndConnecting,
    /// Every client has connected or failed to; this phase follows.
    AllSettled(Phase),
    /// All clients are cut off; they connect again.
    CutOff,
    /// This phase follows.
    Enter(Phase),
}

/// The current phase, and when it ends at the latest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Phases {
    then: Then,
    /// How many times all clients are still to be cut off.
    cuts_left: u32,
    current: Phase,
    ends: Nanos,
}

impl Phases {
    /// Begins to connect.
    pub(crate) fn new(plan: &Plan, now: Nanos) -> Self {
        let lasts = match plan.then {
            Then::Leave => plan.duration,
            _ => plan.connecting_max,
        };
        Self {
            then: plan.then,
            cuts_left: match plan.then {
                Then::Return(times) => times,
                _ => 0,
            },
            current: Phase::Connecting,
            ends: now + lasts,
        }
    }

    /// The current phase.
    pub(crate) fn current(&self) -> Phase {
        self.current
    }

    /// When it ends at the latest.
    pub(crate) fn ends(&self) -> Nanos {
        self.ends
    }

    /// Goes on to `phase` at `now`.
    pub(crate) fn enter(&mut self, phase: Phase, now: Nanos, plan: &Plan) {
        let lasts = match phase {
            Phase::Over => 0,
            Phase::Connecting => plan.connecting_max,
            Phase::Resting | Phase::WarmingUp => plan.warm_up,
            Phase::Measuring => plan.duration,
            Phase::Draining => DRAIN,
            Phase::Settling => plan.settle,
        };
        if self.current == Phase::Resting && phase == Phase::Connecting {
            self.cuts_left = self.cuts_left.saturating_sub(1);
        }
        self.current = phase;
        self.ends = now + lasts;
    }

    /// What is to be done at `now`.
    pub(crate) fn next(&self, now: Nanos, situation: Situation) -> Step {
        let Situation {
            interrupted,
            all_settled,
            connected,
            is_quiet,
        } = situation;
        let ended = now >= self.ends;
        match self.current {
            Phase::Draining if interrupted => Step::Enter(Phase::Settling),
            Phase::Settling if interrupted => Step::Enter(Phase::Over),
            _ if interrupted => Step::Enter(Phase::Draining),
            Phase::Connecting if all_settled => Step::AllSettled(self.after_connecting(connected)),
            // A storm has nothing to do but to connect: its time is over, and no client has failed.
            Phase::Connecting if ended && self.then == Then::Leave => Step::Enter(Phase::Draining),
            Phase::Connecting if ended => Step::EndConnecting,
            Phase::Resting if ended => Step::CutOff,
            // No client is left to measure with.
            Phase::WarmingUp | Phase::Measuring if connected == 0 => Step::Enter(Phase::Draining),
            Phase::WarmingUp if ended => Step::Enter(Phase::Measuring),
            Phase::Measuring if ended => Step::Enter(Phase::Draining),
            Phase::Draining if ended || is_quiet => Step::Enter(Phase::Settling),
            Phase::Settling if ended => Step::Enter(Phase::Over),
            _ => Step::Stay,
        }
    }

    fn after_connecting(&self, connected: u32) -> Phase {
        match self.then {
            Then::Return(_) if self.cuts_left > 0 && connected > 0 => Phase::Resting,
            Then::Leave | Then::Return(_) => Phase::Draining,
            Then::Ping | Then::Stay => Phase::WarmingUp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTED: Situation = Situation {
        interrupted: false,
        all_settled: true,
        connected: 1,
        is_quiet: true,
    };

    fn at(current: Phase, then: Then, cuts_left: u32) -> Phases {
        Phases {
            then,
            cuts_left,
            current,
            ends: 100,
        }
    }

    #[test]
    fn an_interrupt_ends_every_phase_in_three_steps() {
        let situation = Situation {
            interrupted: true,
            ..CONNECTED
        };
        let next = |phase| at(phase, Then::Stay, 0).next(0, situation);
        for phase in [Phase::Connecting, Phase::Resting, Phase::WarmingUp, Phase::Measuring] {
            assert_eq!(next(phase), Step::Enter(Phase::Draining));
        }
        assert_eq!(next(Phase::Draining), Step::Enter(Phase::Settling));
        assert_eq!(next(Phase::Settling), Step::Enter(Phase::Over));
    }

    #[test]
    fn clients_are_cut_off_as_often_as_asked_while_one_is_connected() {
        let connecting = |cuts_left| at(Phase::Connecting, Then::Return(2), cuts_left);
        assert_eq!(connecting(1).next(0, CONNECTED), Step::AllSettled(Phase::Resting));
        assert_eq!(connecting(0).next(0, CONNECTED), Step::AllSettled(Phase::Draining));
        let none = Situation {
            connected: 0,
            ..CONNECTED
        };
        assert_eq!(connecting(1).next(0, none), Step::AllSettled(Phase::Draining));
        let resting = at(Phase::Resting, Then::Return(2), 1);
        assert_eq!(resting.next(99, CONNECTED), Step::Stay);
        assert_eq!(resting.next(100, CONNECTED), Step::CutOff);
    }

    #[test]
    fn the_end_of_the_time_to_connect_is_a_failure_except_for_a_storm() {
        let some = Situation {
            all_settled: false,
            ..CONNECTED
        };
        let connecting = |then| at(Phase::Connecting, then, 0);
        assert_eq!(connecting(Then::Stay).next(99, some), Step::Stay);
        assert_eq!(connecting(Then::Stay).next(100, some), Step::EndConnecting);
        assert_eq!(connecting(Then::Leave).next(100, some), Step::Enter(Phase::Draining));
    }
}
