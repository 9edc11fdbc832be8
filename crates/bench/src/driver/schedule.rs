//! When clients dial, and when they publish. Pure decisions: given the time, they return what is due.

use crate::clock::{Nanos, SECOND};
use crate::plan::{Arrival, Plan, Traffic};

/// The dials of one round: all clients in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dials {
    arrival: Arrival,
    clients: u32,
    /// When the round began.
    began: Nanos,
    /// The next client to dial.
    next: u32,
    /// How many rounds there were before this one: zero until all clients were cut off.
    round: u32,
}

impl Dials {
    /// The first round begins.
    pub(crate) fn new(plan: &Plan, now: Nanos) -> Self {
        Self {
            arrival: plan.arrival,
            clients: plan.clients,
            began: now,
            next: 0,
            round: 0,
        }
    }

    /// All clients were cut off: the next round begins.
    pub(crate) fn restart(&mut self, now: Nanos) {
        self.began = now;
        self.next = 0;
        self.round += 1;
    }

    /// How many rounds there were before this one.
    pub(crate) fn round(&self) -> u32 {
        self.round
    }

    /// How many clients were dialed in this round.
    pub(crate) fn dialed(&self) -> u32 {
        self.next
    }

    /// How many clients are still to be dialed in this round.
    pub(crate) fn left(&self) -> u32 {
        self.clients - self.next
    }

    /// Dials no more in this round; returns how many clients are left out.
    pub(crate) fn stop(&mut self) -> u32 {
        let left = self.left();
        self.next = self.clients;
        left
    }

    /// The next client, and when it was due, while a dial is due and `connecting` clients are on their way.
    pub(crate) fn take(&mut self, connecting: u32, now: Nanos) -> Option<(u32, Nanos)> {
        if self.left() == 0 {
            return None;
        }
        let due = match self.arrival {
            Arrival::AtOnce(max) if connecting >= max => return None,
            Arrival::AtOnce(_) => now,
            Arrival::PerSecond(_) => self.due().filter(|&due| due <= now)?,
        };
        let index = self.next;
        self.next += 1;
        Some((index, due))
    }

    /// When the next dial is due, where that is a matter of time.
    pub(crate) fn due(&self) -> Option<Nanos> {
        match self.arrival {
            Arrival::PerSecond(rate) if self.left() > 0 => Some(self.began + at_rate(u64::from(self.next), rate)),
            _ => None,
        }
    }
}

/// The messages of all publishers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Messages {
    traffic: Traffic,
    publishers: u32,
    /// Messages may be sent.
    is_on: bool,
    /// Of the open loop: when it began, and when its messages stop falling due.
    began: Nanos,
    until: Nanos,
    /// How many messages of all clients have fallen due.
    due: u64,
    /// How many of those are still to be sent by clients that are connected.
    owed: u64,
}

/// Permission to send one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Permit {
    /// When it was due.
    pub(crate) intended: Nanos,
    /// How many messages the client may have in flight.
    pub(crate) window: u32,
}

impl Messages {
    /// No traffic yet.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            traffic: plan.traffic,
            publishers: plan.publishers,
            is_on: false,
            began: 0,
            until: Nanos::MAX,
            due: 0,
            owed: 0,
        }
    }

    /// Begins the traffic.
    pub(crate) fn start(&mut self, now: Nanos) {
        self.is_on = self.traffic != Traffic::None;
        self.began = now;
    }

    /// Ends it. A closed loop is over at once. An open one goes on until all that was due by now is sent: dropping what
    /// waits would hide the very stall that made it wait.
    pub(crate) fn end(&mut self, now: Nanos) {
        self.until = now;
        self.is_on &= matches!(self.traffic, Traffic::PerSecond { .. });
    }

    /// Whether this client may publish at all now.
    pub(crate) fn is_on_for(&self, index: u32) -> bool {
        self.is_on && index < self.publishers
    }

    /// When the open loop's next message is due, as long as messages still fall due.
    pub(crate) fn next_due(&self) -> Option<Nanos> {
        let Traffic::PerSecond { rate, .. } = self.traffic else {
            return None;
        };
        let due = self.began + at_rate(self.due, rate);
        (self.is_on && due < self.until).then_some(due)
    }

    /// The client whose message is due by now, in an open loop. Each message is returned once.
    pub(crate) fn take_due(&mut self, now: Nanos) -> Option<u32> {
        self.next_due().filter(|&due| due <= now)?;
        let index = (self.due % u64::from(self.publishers)) as u32;
        self.due += 1;
        Some(index)
    }

    /// The client of a message that is due is connected, and will send it.
    pub(crate) fn owe(&mut self) {
        self.owed += 1;
    }

    /// How many messages are due and not sent yet.
    pub(crate) fn owed(&self) -> u64 {
        self.owed
    }

    /// A message was sent.
    pub(crate) fn note_sent(&mut self) {
        self.owed = self.owed.saturating_sub(1);
    }

    /// A client that had sent so many messages is lost: returns how many it still owed.
    pub(crate) fn note_lost(&mut self, index: u32, sent: u32) -> u64 {
        let unsent = self.due_by(index).saturating_sub(u64::from(sent));
        self.owed = self.owed.saturating_sub(unsent);
        unsent
    }

    /// Whether a client that has sent so many messages may send the next one, its window permitting: in an open loop
    /// only what is due. A closed loop needs an end of each message (`is_answered`) to know when the next may follow.
    pub(crate) fn permit(&self, index: u32, sent: u32, is_answered: bool, now: Nanos) -> Option<Permit> {
        match self.traffic {
            Traffic::None => None,
            Traffic::Window(window) => is_answered.then_some(Permit { intended: now, window }),
            Traffic::PerSecond { .. } if u64::from(sent) >= self.due_by(index) => None,
            Traffic::PerSecond { rate, window } => {
                let number = u64::from(sent) * u64::from(self.publishers) + u64::from(index);
                let intended = self.began + at_rate(number, rate);
                Some(Permit { intended, window })
            }
        }
    }

    /// How many messages of a client have fallen due.
    fn due_by(&self, index: u32) -> u64 {
        let publishers = u64::from(self.publishers);
        if index >= self.publishers {
            return 0;
        }
        (self.due + publishers - 1 - u64::from(index)) / publishers
    }
}

/// When the event with this number is due, at so many a second.
fn at_rate(number: u64, rate: f64) -> Nanos {
    (number as f64 * SECOND as f64 / rate) as Nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_at_a_rate_are_due_one_after_the_other() {
        let mut dials = Dials {
            arrival: Arrival::PerSecond(10.0),
            clients: 3,
            began: 1_000,
            next: 0,
            round: 0,
        };
        assert_eq!(dials.take(0, 1_000), Some((0, 1_000)));
        assert_eq!(dials.take(0, 1_000), None);
        let due = 1_000 + SECOND / 10;
        assert_eq!(dials.due(), Some(due));
        // A late dial keeps the time at which it was due.
        assert_eq!(dials.take(0, due + 7), Some((1, due)));
        assert_eq!((dials.stop(), dials.due()), (1, None));
        dials.restart(5_000);
        assert_eq!((dials.take(0, 5_000), dials.round()), (Some((0, 5_000)), 1));
    }

    #[test]
    fn dials_at_once_wait_for_those_on_their_way() {
        let mut dials = Dials {
            arrival: Arrival::AtOnce(2),
            clients: 3,
            began: 0,
            next: 0,
            round: 0,
        };
        assert_eq!(dials.take(1, 9), Some((0, 9)));
        assert_eq!(dials.take(2, 9), None);
    }

    #[test]
    fn an_open_loop_owes_what_was_due_and_no_more() {
        let mut messages = Messages {
            traffic: Traffic::PerSecond { rate: 10.0, window: 1 },
            publishers: 2,
            is_on: false,
            began: 0,
            until: Nanos::MAX,
            due: 0,
            owed: 0,
        };
        messages.start(0);
        let taken: Vec<u32> = std::iter::from_fn(|| messages.take_due(SECOND / 2 - 1)).collect();
        assert_eq!(taken, [0, 1, 0, 1, 0]);
        taken.iter().for_each(|_| messages.owe());
        let second = messages.permit(0, 1, false, SECOND).unwrap();
        assert_eq!(second.intended, SECOND / 5);
        assert_eq!(messages.permit(1, 2, false, SECOND), None);
        messages.note_sent();
        assert_eq!((messages.note_lost(0, 1), messages.owed()), (2, 2));
        messages.end(SECOND / 2);
        assert_eq!(messages.take_due(SECOND), None);
        assert!(messages.is_on_for(1) && !messages.is_on_for(2));
    }
}
