//! What arrives: descriptors with their relays, no more of them on their way than allowed, and what was sent before an end.

use std::os::fd::OwnedFd;
use std::os::unix::net;
use std::rc::Rc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use prost::Message;
use rustix::io::{FdFlags, fcntl_getfd};
use rustix::net::getpeername;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::{At, Plan, PlayedGiver, PlayedTaker, Sockets, World, a_moment, in_virtual_time, state};
use crate::handover::channel::{Channel, Side};
use crate::handover::conversation::{Deadlines, Failure, Step};
use crate::handover::giver::give;
use crate::handover::messages::{
    self, Body, ENTRIES_MAX, Empty, Hello, RELAYS_MAX, Relays, Running, State, States, VERSION,
};
use crate::handover::taker::take;
use crate::handover::wire::{self, Reader, batches};

const RELAYS: u64 = 1_000;

fn many() -> Plan {
    Plan {
        early: (1..=RELAYS).collect(),
        late: vec![(RELAYS + 1..=RELAYS + 300).collect()],
        ..Plan::default()
    }
}

#[test]
fn relays_arrive_with_their_own_descriptors() {
    let sockets = Rc::new(Sockets::new());
    in_virtual_time(async {
        let (world, plan) = (Rc::default(), many());
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut giver = PlayedGiver::new(&world, &sockets, &plan);
        let mut taker = PlayedTaker::new(&world, &plan);
        let deadlines = Deadlines::default();
        let both = async { tokio::join!(give(ours, &mut giver, deadlines), take(theirs, &mut taker, deadlines)) };
        let (given, taken) = both.await;
        assert_eq!(given.expect("a handover").relays, RELAYS + 300);
        assert_eq!(taken.expect("a handover").relays, RELAYS + 300);
        assert_eq!(taker.held.len() as u64, RELAYS + 300);
        assert_eq!(taker.sockets.len(), 1);
        assert_eq!(taker.counted, 100 + 1, "what was counted until the round, and after it");
        let of = |descriptor: &OwnedFd| getpeername(descriptor).expect("a connection");
        let (client, node) = (of(&sockets.client()), of(&sockets.node()));
        for (offered, number) in taker.held.iter().zip(1..) {
            assert_eq!(offered.relay.number, number);
            assert_eq!((of(&offered.client), of(&offered.node)), (client.clone(), node.clone()));
            for descriptor in [&offered.client, &offered.node] {
                let flags = fcntl_getfd(descriptor).expect("open");
                assert!(
                    flags.contains(FdFlags::CLOEXEC),
                    "a program that is started would have it"
                );
            }
        }
        let world: &std::cell::RefCell<World> = &world;
        let steps = &world.borrow().steps_of_giver;
        let of = RELAYS;
        assert_eq!(
            steps[1..4],
            [Step::Checked, Step::Sockets, Step::Relays { sent: 126, of }]
        );
        let running = Step::Running {
            round: 1,
            relays: RELAYS + 300,
        };
        let last = [
            Step::Relays { sent: RELAYS, of },
            Step::Prepared,
            Step::Frozen,
            Step::Adopted,
            running,
            Step::Done,
        ];
        assert_eq!(steps[steps.len() - 6..], last);
        assert!(world.borrow().steps_of_taker.ends_with(&last));
    });
    Rc::into_inner(sockets).expect("the last").check_that_nothing_is_left();
}

#[test]
fn the_giver_is_four_messages_with_descriptors_ahead_at_most() {
    let sockets = Rc::new(Sockets::new());
    in_virtual_time(async {
        let world = Rc::default();
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut giver = PlayedGiver::new(&world, &sockets, &many());
        let slow_taker = async {
            let mut channel = Channel::new(theirs, Side::Taker).expect("ourselves");
            let hello = Hello {
                version: VERSION,
                version_oldest: VERSION,
                ..Hello::default()
            };
            let soon = || Instant::now() + Duration::from_secs(1);
            channel.send(Body::Hello(hello), &[], soon()).await.expect("a giver");
            let mut seen = Vec::new();
            for messages in [4, 6] {
                while let Ok(received) = timeout(Duration::from_secs(10), channel.receive()).await {
                    seen.push(received.expect("a message").body.name());
                }
                let so_many = Body::Received(messages::Received { messages });
                channel.send(so_many, &[], soon()).await.expect("a giver");
            }
            seen
        };
        let (given, seen) = tokio::join!(give(ours, &mut giver, Deadlines::default()), slow_taker);
        let until_four = ["manifest", "sockets", "relays", "relays", "relays"];
        assert_eq!(seen, [until_four.as_slice(), &["relays"; 4]].concat());
        assert!(matches!(given, Err(Failure::Closed)), "{given:?}");
    });
    Rc::into_inner(sockets).expect("the last").check_that_nothing_is_left();
}

#[test]
fn what_was_sent_before_an_end_is_found_and_nothing_can_be_sent_after_it() {
    const TIMES: usize = 4_000;
    let running = || Body::Running(Running { relays: 1 });
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
    let (to_taker, of_giver) = sync_channel::<net::UnixStream>(0);
    let (to_giver, of_taker) = sync_channel::<bool>(0);
    let taker = std::thread::spawn(move || {
        runtime().block_on(async {
            while let Ok(socket) = of_giver.recv() {
                let socket = UnixStream::from_std(socket).expect("a socket");
                let mut channel = Channel::new(socket, Side::Taker).expect("ourselves");
                let soon = Instant::now() + Duration::from_secs(10);
                let was_sent = channel.send(running(), &[], soon).await.is_ok();
                if to_giver.send(was_sent).is_err() {
                    return;
                }
            }
        });
    });
    runtime().block_on(async {
        let mut were_sent = 0;
        for time in 0..TIMES {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let mut channel = Channel::new(ours, Side::Giver).expect("ourselves");
            let theirs = theirs.into_std().expect("a socket");
            let (was_sent, said) = match time {
                // Certainly before, certainly after, and all at the same time.
                0 => {
                    to_taker.send(theirs).expect("a taker");
                    (of_taker.recv().expect("a taker"), channel.end())
                }
                1 => {
                    let said = channel.end();
                    to_taker.send(theirs).expect("a taker");
                    (of_taker.recv().expect("a taker"), said)
                }
                _ => {
                    to_taker.send(theirs).expect("a taker");
                    (0..time * 37 % 4_000).for_each(|_| std::hint::spin_loop());
                    let said = channel.end();
                    (of_taker.recv().expect("a taker"), said)
                }
            };
            let expected = if was_sent { vec![running()] } else { Vec::new() };
            assert_eq!(said, expected, "time {time}");
            assert!(time > 1 || was_sent == (time == 0));
            were_sent += usize::from(was_sent);
        }
        eprintln!("{were_sent} of {TIMES} were sent before the end");
    });
    drop(to_taker);
    taker.join().expect("no panic");
}

#[test]
fn a_message_is_not_lost_by_who_stops_waiting_for_it() {
    in_virtual_time(async {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut receiver = Channel::new(ours, Side::Giver).expect("ourselves");
        let running = Body::Running(Running { relays: 77 });
        let bytes = wire::write(running.clone(), 0).expect("a message");
        for byte in &bytes[..bytes.len() - 1] {
            assert_eq!(theirs.try_write(&[*byte]).expect("room"), 1);
            let received = timeout(Duration::from_millis(1), receiver.receive()).await;
            assert!(received.is_err(), "{received:?}");
        }
        assert_eq!(theirs.try_write(&bytes[bytes.len() - 1..]).expect("room"), 1);
        assert_eq!(receiver.end(), [running]);
    });
}

#[test]
fn entries_go_into_messages_of_bounded_size_in_their_order() {
    let states: Vec<State> = (0..10_000).map(state).collect();
    let batched: Vec<Vec<State>> = batches(states.clone(), 4_000).collect();
    for batch in &batched {
        let bytes: usize = batch.iter().map(State::encoded_len).sum();
        assert!(bytes <= 256 << 10 && batch.len() <= 4_000, "{bytes} in {}", batch.len());
    }
    assert!(batched.len() < 10, "{}", batched.len());
    assert_eq!(batched.concat(), states);
    // One that is larger by itself is alone.
    let mut large = state(1);
    large.node = Some(messages::Side {
        unsent: vec![0; 1 << 20],
        ..messages::Side::default()
    });
    let sizes: Vec<usize> = batches(vec![state(0), large, state(2)], 4_000)
        .map(|batch| batch.len())
        .collect();
    assert_eq!(sizes, [1, 1, 1]);
    assert_eq!(batches(Vec::<State>::new(), 10).count(), 0);
}

#[test]
fn a_relay_has_two_descriptors() {
    let one = Relays {
        relays: vec![messages::Relay::default()],
    };
    for wrong in [0, 1, 3] {
        wire::write(Body::Relays(one.clone()), wrong).expect_err("another number");
    }
    wire::write(Body::Relays(one), 2).expect("a message");
    let too_many = Relays {
        relays: vec![messages::Relay::default(); RELAYS_MAX + 1],
    };
    wire::write(Body::Relays(too_many), 2 * RELAYS_MAX + 2).expect_err("more than the kernel takes");
    wire::write(Body::Go(Empty {}), 1).expect_err("a descriptor too many");
}

#[test]
fn more_entries_than_allowed_are_refused_before_they_are_decoded() {
    for (count, is_fine) in [(ENTRIES_MAX, true), (ENTRIES_MAX + 1, false)] {
        let states = vec![State::default(); count];
        let bytes = wire::write(Body::States(States { states }), 0).expect("a short message");
        let mut reader = Reader::<()>::new(0);
        let mut rest = bytes.as_slice();
        let end = loop {
            let (here, behind) = rest.split_at(reader.wanted().min(rest.len()));
            rest = behind;
            match reader.add(here, Vec::new()) {
                Ok(None) => assert!(!rest.is_empty(), "no message"),
                end => break end,
            }
        };
        assert_eq!(end.is_ok(), is_fine, "{count}");
    }
}

#[test]
fn what_a_taker_refuses_changes_nothing() {
    let steps = [
        "begin",
        "sockets",
        "relays",
        "placements",
        "prepare",
        "states",
        "knowledge",
        "adopt",
    ];
    let sockets = Rc::new(Sockets::new());
    for step in steps {
        in_virtual_time(async {
            let (world, plan) = (Rc::default(), many());
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let mut giver = PlayedGiver::new(&world, &sockets, &plan);
            let mut taker = PlayedTaker::new(&world, &plan);
            taker.refuses_at = step;
            let deadlines = Deadlines::default();
            let (given, taken) = tokio::join!(give(ours, &mut giver, deadlines), take(theirs, &mut taker, deadlines));
            let why = format!("no {step} today");
            assert!(matches!(given, Err(Failure::Refused(said)) if said == why), "{step}");
            assert!(matches!(taken, Err(Failure::Refusal(said)) if said == why), "{step}");
            let world: &std::cell::RefCell<World> = &world;
            assert_eq!(world.borrow().of_giver(At::Relayed).len() as u64, RELAYS + 300);
            assert!(world.borrow().giver_accepts && world.borrow().discarded);
            a_moment().await;
        });
    }
    Rc::into_inner(sockets).expect("the last").check_that_nothing_is_left();
}

#[test]
fn what_a_taker_does_not_know_or_cannot_hold_it_refuses_before_anything_moves() {
    let sockets = Rc::new(Sockets::new());
    let unknown = Plan {
        requires: vec!["relays".to_owned(), "wings".to_owned()],
        ..many()
    };
    for (plan, descriptors_max, word) in [(unknown, 100_000, "wings"), (many(), 2_000, "2000")] {
        in_virtual_time(async {
            let world = Rc::default();
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let mut giver = PlayedGiver::new(&world, &sockets, &plan);
            let mut taker = PlayedTaker::new(&world, &plan);
            taker.descriptors_max = descriptors_max;
            let deadlines = Deadlines::default();
            let (given, taken) = tokio::join!(give(ours, &mut giver, deadlines), take(theirs, &mut taker, deadlines));
            assert!(matches!(given, Err(Failure::Refused(why)) if why.contains(word)));
            assert!(matches!(taken, Err(Failure::Refusal(why)) if why.contains(word)));
            let world: &std::cell::RefCell<World> = &world;
            assert_eq!(world.borrow().of_giver(At::Relayed).len() as u64, RELAYS + 300);
            assert!(world.borrow().taker.is_empty());
        });
    }
    Rc::into_inner(sockets).expect("the last").check_that_nothing_is_left();
}
