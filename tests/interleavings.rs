//! The counters that all workers share, under shuttle: it runs the threads of a test one step at a time, and at every
//! step of an atomic or a lock draws who goes next. This is the balancer's own code, with other atomics (`remora::sync`).
//!
//! Two things stay as they are. The map of sources has real locks, under which the census touches no atomic, so shuttle never
//! stops between them; and shuttle takes every ordering as the strictest, so what a relaxed one allows besides is not tried.
//! Placements are not here: their map walks under its locks. `two_million_ids_do_not_outgrow_the_map` has real threads.
//!
//! A failure prints the schedule, with which `shuttle::replay` shows it again.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use remora::accept::{Census, Limits, Population};
use remora::cluster::{
    Choice, Decision, Endpoint, EndpointKind, Live, NodeId, Observed, Pulse, Reports,
};
use remora::ended::Ended;
use remora::held::{Eviction, Held};
use remora::sync::{AtomicUsize, Ordering};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread;
use shuttle::{Config, Runner};

/// Schedules drawn at random for each test, and as many again that prefer few switches in odd places.
const SCHEDULES: usize = 2_000;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn in_every_order(test: fn()) {
    fn run(scheduler: impl Scheduler + 'static, test: fn()) {
        let mut config = Config::new();
        // What it would warn of is said above.
        config.silence_warnings = true;
        Runner::new(scheduler, config).run(test);
    }
    run(RandomScheduler::new(SCHEDULES), test);
    run(PctScheduler::new(3, SCHEDULES), test);
}

/// Runs these as threads of one schedule, and waits for them.
fn threads<F: FnOnce() + Send + 'static>(bodies: impl IntoIterator<Item = F>) {
    let threads: Vec<_> = bodies.into_iter().map(thread::spawn).collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
}

/// A house with these limits, three clients who come twice, and what must hold of those who are in at one moment.
fn visit(limits: Limits, listener_max: Option<usize>, refused: Ended) {
    let limits = Arc::new(limits);
    let census: Arc<Census> = Arc::default();
    let population: Arc<Population> = Arc::default();
    // Those who were told that they are in: what the limit is about.
    let inside = Arc::new(AtomicUsize::new(0));
    let ever_inside = Arc::new(AtomicUsize::new(0));
    threads((0..3).map(|number| {
        let limits = Arc::clone(&limits);
        let (census, population) = (Arc::clone(&census), Arc::clone(&population));
        let (inside, ever_inside) = (Arc::clone(&inside), Arc::clone(&ever_inside));
        move || {
            for turn in 0..2 {
                let entered = census.enter(&population, listener_max, &limits);
                let entered = entered.and_then(|(mut admitted, undecided)| {
                    admitted.enter_source(CLIENT, &limits)?;
                    Ok((admitted, undecided))
                });
                let (admitted, undecided) = match entered {
                    Ok(entered) => entered,
                    Err(cause) => {
                        assert_eq!(cause, refused);
                        continue;
                    }
                };
                let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                assert!(now <= 2, "{now} are in, and two may be");
                ever_inside.fetch_add(1, Ordering::SeqCst);
                // Some end while they are set up, some are relayed first.
                if (number + turn) % 2 == 0 {
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop((admitted, undecided));
                } else {
                    admitted.keep();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(undecided);
                    census.leave(&population, CLIENT);
                }
            }
        }
    }));
    assert!(ever_inside.load(Ordering::SeqCst) >= 2);
    let counts = [
        census.connections(),
        census.undecided(),
        population.connections(),
    ];
    assert_eq!(counts, [0; 3], "everyone has left");
    // The map of sources is empty again too, or this one would find no room.
    let one = Limits {
        connections_per_source_max: Some(1),
        ..Limits::default()
    };
    let (mut admitted, _undecided) = census.enter(&population, None, &one).expect("room");
    assert!(admitted.enter_source(CLIENT, &one).is_ok());
}

#[test]
fn no_more_are_in_than_may_be_in_all() {
    in_every_order(|| {
        let limits = Limits {
            connections_max: Some(2),
            ..Limits::default()
        };
        visit(limits, None, Ended::LimitTotal);
    });
}

#[test]
fn no_more_are_in_than_the_listener_may_have() {
    in_every_order(|| visit(Limits::default(), Some(2), Ended::LimitListener));
}

#[test]
fn no_more_are_in_than_one_source_may_have() {
    in_every_order(|| {
        let limits = Limits {
            connections_per_source_max: Some(2),
            ..Limits::default()
        };
        visit(limits, None, Ended::LimitSource);
    });
}

#[test]
fn no_more_are_undecided_than_may_be() {
    in_every_order(|| {
        let limits = Limits {
            undecided_max: 2,
            ..Limits::default()
        };
        visit(limits, None, Ended::LimitUndecided);
    });
}

#[test]
fn a_trial_is_taken_once_for_each_time_it_is_offered() {
    in_every_order(|| {
        let pulse: Arc<Pulse> = Arc::default();
        let (offered, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let control = {
            let (pulse, offered) = (Arc::clone(&pulse), Arc::clone(&offered));
            thread::spawn(move || {
                for _ in 0..2 {
                    offered.fetch_add(1, Ordering::SeqCst);
                    pulse.trial.store(true, Ordering::Relaxed);
                }
            })
        };
        threads((0..3).map(|_| {
            let (pulse, offered, taken) =
                (Arc::clone(&pulse), Arc::clone(&offered), Arc::clone(&taken));
            move || {
                for _ in 0..2 {
                    if pulse.take_trial() {
                        let taken = taken.fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(taken <= offered.load(Ordering::SeqCst));
                    }
                }
            }
        }));
        control.join().expect("no panic");
        let left = usize::from(pulse.take_trial());
        let taken = taken.load(Ordering::SeqCst) + left;
        assert!((1..=2).contains(&taken), "{taken} of 2");
        assert!(!pulse.take_trial(), "it is gone");
    });
}

fn choice(live: &Arc<Live>) -> Choice {
    Choice {
        id: NodeId(0),
        kind: EndpointKind::Mqtt,
        endpoint: Endpoint::plain(Arc::new([(CLIENT, 1883).into()])),
        decision: Decision::Home,
        trial: false,
        live: Arc::clone(live),
    }
}

#[test]
fn every_seat_is_given_back() {
    in_every_order(|| {
        let live: Arc<Live> = Arc::default();
        threads((0..3).map(|number| {
            let live = Arc::clone(&live);
            move || {
                for turn in 0..2 {
                    let seat = choice(&live).seat();
                    let now = live.connections.load(Ordering::Relaxed);
                    assert!((1..=3).contains(&now), "{now}");
                    if (number + turn) % 2 == 0 {
                        drop(seat);
                    } else {
                        seat.keep();
                        live.leave();
                    }
                }
            }
        }));
        assert_eq!(live.connections.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn failures_in_a_row_are_each_counted_once() {
    in_every_order(|| {
        let tried = choice(&Arc::default());
        let (reports, mut to_control) = Reports::new();
        threads((0..3).map(|_| {
            let (tried, reports) = (tried.clone(), reports.clone());
            move || reports.failed(&tried)
        }));
        let mut in_a_row: Vec<u32> = std::iter::from_fn(|| to_control.try_recv().ok())
            .map(|report| match report.observed {
                Observed::Failed { in_a_row, .. } => in_a_row,
                Observed::Answered => panic!("nobody has answered"),
            })
            .collect();
        in_a_row.sort_unstable();
        assert_eq!(in_a_row, [1, 2, 3], "so that the third is seen as such");
    });
}

fn is_told(eviction: &Eviction) -> bool {
    let told = pin!(eviction.told());
    let mut cx = Context::from_waker(Waker::noop());
    told.poll(&mut cx) == Poll::Ready(())
}

/// Four holders of which three are too many: some are told to go, or find no room, and all do go.
#[test]
fn held_bytes_are_given_back_and_each_is_told_once_to_go() {
    in_every_order(|| {
        const BYTES_MAX: usize = 20_000;
        let held = Held::new(BYTES_MAX);
        threads([[5_000, 1_000], [9_000, 500], [8_000, 3_000]].map(|grows| {
            let held = Arc::clone(&held);
            move || {
                let mut share = held.share();
                for bytes in grows {
                    let grown = share.grow(bytes);
                    let eviction = share.eviction();
                    let told = is_told(&eviction);
                    assert!(!is_told(&eviction), "told twice");
                    if told || grown.is_err() {
                        return;
                    }
                }
            }
        }));
        assert_eq!(held.bytes(), 0);
        // And nobody counts as leaving any more: the account is as large as ever, and no larger.
        let mut share = held.share();
        share.grow(BYTES_MAX).expect("room for as much as may be");
        assert!(share.grow(1).is_err(), "more than may be held");
    });
}

/// One that was told to go and has not gone yet is not told again, however much it still grows.
#[test]
fn who_is_leaving_is_not_told_again() {
    in_every_order(|| {
        let held = Held::new(10_000);
        let mut largest = held.share();
        largest.grow(9_000).expect("room");
        let told = Arc::new(AtomicUsize::new(0));
        let newcomers: Vec<_> = (0..2)
            .map(|_| {
                let held = Arc::clone(&held);
                thread::spawn(move || held.share().grow(2_000).is_ok())
            })
            .collect();
        for _ in 0..3 {
            // Whether there is room for it is another matter.
            let _ = largest.grow(100);
            let heard = usize::from(is_told(&largest.eviction()));
            told.fetch_add(heard, Ordering::SeqCst);
        }
        for newcomer in newcomers {
            newcomer.join().expect("no panic");
        }
        let heard = usize::from(is_told(&largest.eviction()));
        assert!(told.fetch_add(heard, Ordering::SeqCst) + heard <= 1);
        drop(largest);
        assert_eq!(held.bytes(), 0);
        let mut share = held.share();
        share.grow(10_000).expect("room for as much as may be");
        assert!(share.grow(1).is_err(), "more than may be held");
    });
}
