//! The future of one relay: it takes turns at a row of the table until the row is gone.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::parked::Adopted;
use super::relayed::{Finished, Relayed};
use super::table::{Outcome, RowId, Table};
use crate::base::clock::Seconds;
use crate::net::socket::Socket;
use crate::path::ended::Ended;

/// The worker's part that owns the table of relays, and accounts for each relay that has ended.
pub trait Owner {
    /// The relays.
    fn table(&self) -> &RefCell<Table>;

    /// The time.
    fn now(&self) -> Seconds;

    /// A relay has ended, and is in no table any more.
    fn finished(&self, finished: Finished);
}

/// Relays a connection in a task of its own: a row in the table of `owner`, and a future of two words.
pub fn spawn<O: Owner + 'static>(owner: Rc<O>, relayed: Relayed<Socket>) {
    let id = owner.table().borrow_mut().adopt(relayed, owner.now());
    tokio::task::spawn_local(Relay { owner, id });
}

/// The same for a relay of another process, which is frozen.
pub(crate) fn spawn_frozen<O: Owner + 'static>(owner: Rc<O>, adopted: Adopted) {
    let id = owner.table().borrow_mut().adopt_frozen(adopted, owner.now());
    tokio::task::spawn_local(Relay { owner, id });
}

/// Takes turns at one row of the table until it is gone; holds nothing else, since there is one for each idle connection.
struct Relay<O: Owner> {
    owner: Rc<O>,
    id: RowId,
}

impl<O: Owner> Future for Relay<O> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let now = self.owner.now();
        let outcome = self.owner.table().borrow_mut().turn(self.id, now, cx);
        match outcome {
            Outcome::Pending => Poll::Pending,
            Outcome::Gone => Poll::Ready(()),
            Outcome::Finished(finished) => {
                self.owner.finished(finished);
                Poll::Ready(())
            }
        }
    }
}

impl<O: Owner> Drop for Relay<O> {
    fn drop(&mut self) {
        // The row is gone already, unless its turn panicked or the runtime is dropped with relays in the table.
        let row = self
            .owner
            .table()
            .borrow_mut()
            .finish(self.id, Ended::of_dropped_task());
        if let Some(finished) = row {
            self.owner.finished(finished);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Owner for Nobody {
        fn table(&self) -> &RefCell<Table> {
            unreachable!("only its size is asked for")
        }

        fn now(&self) -> Seconds {
            Seconds::default()
        }

        fn finished(&self, _: Finished) {}
    }

    #[test]
    fn a_relays_future_is_two_words() {
        assert_eq!(size_of::<Relay<Nobody>>(), 2 * size_of::<usize>());
    }
}
