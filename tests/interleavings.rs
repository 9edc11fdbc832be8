//! The counters that all workers share, under shuttle: it runs the threads of a test one step at a time, and at every
//! step of an atomic or a lock draws who goes next. This is the balancer's own code, with other atomics (`remora::sync`).
//!
//! Two things stay as they are. The map of sources has real locks, under which the census touches no atomic, so shuttle never
//! stops between them; and shuttle takes every ordering as the strictest, so what a relaxed one allows besides is not tried.
//! Placements are not here: their map walks under its locks. `two_million_ids_do_not_outgrow_the_map` has real threads.
//!
//! A failure prints the schedule, with which `shuttle::replay` shows it again.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use remora::accept::{Census, Limits, Population};
use remora::cluster::{Choice, Decision, Live, NodeId, Report, Reports};
use remora::ended::Ended;
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
                let entered = census.enter(CLIENT, &population, listener_max, &limits);
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
                    let counted = admitted.keep().then_some(CLIENT);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(undecided);
                    census.leave(&population, counted);
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
    assert!(census.enter(CLIENT, &population, None, &one).is_ok());
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
        let live: Arc<Live> = Arc::default();
        let (offered, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let control = {
            let (live, offered) = (Arc::clone(&live), Arc::clone(&offered));
            thread::spawn(move || {
                for _ in 0..2 {
                    offered.fetch_add(1, Ordering::SeqCst);
                    live.trial.store(true, Ordering::Relaxed);
                }
            })
        };
        threads((0..3).map(|_| {
            let (live, offered, taken) =
                (Arc::clone(&live), Arc::clone(&offered), Arc::clone(&taken));
            move || {
                for _ in 0..2 {
                    if live.take_trial() {
                        let taken = taken.fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(taken <= offered.load(Ordering::SeqCst));
                    }
                }
            }
        }));
        control.join().expect("no panic");
        let left = usize::from(live.take_trial());
        let taken = taken.load(Ordering::SeqCst) + left;
        assert!((1..=2).contains(&taken), "{taken} of 2");
        assert!(!live.take_trial(), "it is gone");
    });
}

fn choice(live: &Arc<Live>) -> Choice {
    Choice {
        id: NodeId(0),
        address: (CLIENT, 1883).into(),
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
        let live: Arc<Live> = Arc::default();
        let (reports, mut to_control) = Reports::new();
        threads((0..3).map(|_| {
            let (live, reports) = (Arc::clone(&live), reports.clone());
            move || reports.failed(&choice(&live))
        }));
        let mut in_a_row: Vec<u32> = std::iter::from_fn(|| to_control.try_recv().ok())
            .map(|report| match report {
                Report::Failed { in_a_row, .. } => in_a_row,
                Report::Answered { .. } => panic!("nobody has answered"),
            })
            .collect();
        in_a_row.sort_unstable();
        assert_eq!(in_a_row, [1, 2, 3], "so that the third is seen as such");
    });
}
