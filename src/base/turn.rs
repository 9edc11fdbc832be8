//! The next turn of a task that could go on at once, but has had its turn.

use std::future::Future;
use std::pin::pin;
use std::task::Context;

/// Wakes the task of `cx` once the runtime has looked for events of its sockets.
///
/// A task that wakes itself would be run again before that: the runtime looks for events only when no task is ready, or after
/// 61 of them. So a task that is always ready would have 61 turns before any other connection has one.
pub(crate) fn take_next(cx: &mut Context<'_>) {
    // Of all ways to be woken, only this one waits for the sockets.
    let is_ready = pin!(tokio::task::yield_now()).poll(cx).is_ready();
    debug_assert!(!is_ready, "it yields once");
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;
    use std::rc::Rc;
    use std::task::Poll;

    use tokio::runtime::{Builder, LocalOptions};

    use super::*;
    use crate::net::socket::pair;

    #[test]
    fn a_task_that_is_always_ready_has_few_turns_before_a_socket_with_bytes() {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .expect("a runtime like a worker's");
        let most = runtime.block_on(async {
            let (mut wire, socket) = pair();
            let turns = Rc::new(Cell::new(0));
            let counted = Rc::clone(&turns);
            tokio::task::spawn_local(std::future::poll_fn(move |cx| {
                counted.set(counted.get() + 1);
                take_next(cx);
                Poll::<()>::Pending
            }));
            let mut most = 0;
            for _ in 0..100 {
                let receive = async {
                    let mut byte = [0];
                    socket.recv(&mut byte).await.expect("a byte");
                    turns.get()
                };
                let send = async {
                    // Until the receiver waits for its event.
                    tokio::task::yield_now().await;
                    let before = turns.get();
                    wire.write_all(b"x").expect("room");
                    before
                };
                let (after, before) = tokio::join!(receive, send);
                most = most.max(after - before);
            }
            most
        });
        assert!(most <= 4, "{most} turns");
    }
}
