//! The counters that all workers share, under shuttle: it runs the threads of a test one step at a time, and at every
//! step of an atomic or a lock draws who goes next. This is the balancer's own code, with other atomics (`remora::base::sync`).
//!
//! Two things stay as they are. The map of sources has real locks, under which the census touches no atomic, so shuttle never
//! stops between them; and shuttle takes every ordering as the strictest, so what a relaxed one allows besides is not tried.
//! Placements are not here: their map walks under its locks. `two_million_ids_do_not_outgrow_the_map` has real threads.
//!
//! A failure prints the schedule, with which `shuttle::replay` shows it again.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use remora::base::sync::{AtomicUsize, Ordering};
use remora::cluster::{
    Choice, ConnectBucket, ConnectRate, Decision, Endpoint, EndpointKind, Failure, NodeId, NodeLoad, Observed,
};
use remora::net::held::{Eviction, HeldBytes, Limits as HeldLimits, Reservation};
use remora::net::reports::Reports;
use remora::path::accept::{Admission, Admitted, Limits, ListenerCount};
use remora::path::ended::Ended;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::thread;
use shuttle::{Config, Runner};
use tokio::time::Instant;

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
    let admission: Arc<Admission> = Arc::default();
    let listener_count: Arc<ListenerCount> = Arc::default();
    // Those who were told that they are in: what the limit is about.
    let inside = Arc::new(AtomicUsize::new(0));
    let ever_inside = Arc::new(AtomicUsize::new(0));
    threads((0..3).map(|number| {
        let limits = Arc::clone(&limits);
        let (admission, listener_count) = (Arc::clone(&admission), Arc::clone(&listener_count));
        let (inside, ever_inside) = (Arc::clone(&inside), Arc::clone(&ever_inside));
        move || {
            for turn in 0..2 {
                let entered = admission.enter(&listener_count, listener_max, &limits);
                let entered = entered.and_then(|mut admitted| {
                    admitted.enter_source(CLIENT, &limits)?;
                    Ok(admitted)
                });
                let admitted = match entered {
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
                    drop(admitted);
                } else {
                    admitted.keep();
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(Admitted::kept(&admission, &listener_count, CLIENT));
                }
            }
        }
    }));
    assert!(ever_inside.load(Ordering::SeqCst) >= 2);
    let counts = [admission.connections(), listener_count.connections()];
    assert_eq!(counts, [0; 2], "everyone has left");
    // The map of sources is empty again too, or this one would find no room.
    let one = Limits {
        connections_per_source_max: Some(1),
        ..Limits::default()
    };
    let mut admitted = admission.enter(&listener_count, None, &one).expect("room");
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

/// Three sources that come twice, for two places in one room: at the limit the one that has more than its share makes room.
#[test]
fn no_more_are_undecided_than_may_be_and_a_source_makes_room_for_another() {
    in_every_order(|| {
        let held = HeldBytes::new(HeldLimits {
            undecided_max: 2,
            ..HeldLimits::default()
        });
        let sources: Vec<_> = (0..3_u8)
            .map(|number| {
                let held = Arc::clone(&held);
                thread::spawn(move || {
                    let come = |_| {
                        let reservation = enter(&held);
                        let place = reservation.await_connect([127, 0, 0, number].into(), 0, Instant::now());
                        place.ok().map(|place| (reservation.eviction(), place))
                    };
                    (0..2).filter_map(come).collect::<Vec<_>>()
                })
            })
            .collect();
        let places = sources.into_iter().flat_map(|source| source.join().expect("no panic"));
        let places: Vec<_> = places.collect();
        let stay = places
            .iter()
            .filter(|(eviction, _)| !is_evicted(eviction, &Arc::default()));
        assert_eq!(stay.count(), 2, "one that ends makes room for one, and for no more");
        drop(places);
        assert_eq!(held.awaiting_connect(), 0);
        let places: Vec<_> = (0..3)
            .map(|_| enter(&held).await_connect(CLIENT, 0, Instant::now()))
            .collect();
        let taken = places.iter().filter(|place| place.is_ok()).count();
        assert_eq!(taken, 2, "as many as may be, and no more");
    });
}

fn choice(load: &Arc<NodeLoad>) -> Choice {
    Choice {
        id: NodeId(0),
        kind: EndpointKind::Mqtt,
        endpoint: Endpoint::plain(Arc::new([(CLIENT, 1883).into()])),
        decision: Decision::Home,
        connect_rate: None,
        connections_max: None,
        load: Arc::clone(load),
    }
}

/// Three workers with two clients each, for a node that takes one every 100 ms. One client leaves again.
#[test]
fn no_two_clients_get_the_same_slot_of_a_node() {
    in_every_order(|| {
        let bucket: Arc<ConnectBucket> = Arc::default();
        let rate = ConnectRate {
            per_second: 10,
            slow_start: None,
        };
        let now = Duration::from_secs(1);
        let workers: Vec<_> = (0..3)
            .map(|number| {
                let bucket = Arc::clone(&bucket);
                thread::spawn(move || {
                    let slots = [(); 2].map(|()| bucket.take(rate, now, Duration::MAX).expect("a slot"));
                    if number > 0 {
                        return slots.to_vec();
                    }
                    bucket.give_back(slots[1]);
                    vec![slots[0]]
                })
            })
            .collect();
        let slots = workers.into_iter().flat_map(|worker| worker.join().expect("no panic"));
        let mut slots: Vec<_> = slots.map(|slot| slot.at).collect();
        slots.sort_unstable();
        let spaced = |pair: &[Duration]| pair[1] - pair[0] >= Duration::from_millis(100);
        assert!(slots[0] >= now && slots.windows(2).all(spaced), "{slots:?}");
        // At most the slot of the one that left is lost.
        assert!(slots[4] <= now + Duration::from_millis(500), "{slots:?}");
    });
}

#[test]
fn every_seat_is_given_back() {
    in_every_order(|| {
        let load: Arc<NodeLoad> = Arc::default();
        threads((0..3).map(|number| {
            let load = Arc::clone(&load);
            move || {
                for turn in 0..2 {
                    let permit = choice(&load).permit();
                    let now = load.connections.load(Ordering::Relaxed);
                    assert!((1..=3).contains(&now), "{now}");
                    if (number + turn) % 2 == 0 {
                        drop(permit);
                    } else {
                        permit.keep();
                        load.leave();
                    }
                }
            }
        }));
        assert_eq!(load.connections.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn an_answer_is_reported_behind_every_failure_before_it() {
    in_every_order(|| {
        let tried = choice(&Arc::default());
        let (reports, mut to_control) = Reports::new();
        threads((0..3).map(|number| {
            let (tried, reports) = (tried.clone(), reports.clone());
            move || match number {
                0 => reports.answered(&tried),
                _ => reports.failed(&tried, Failure::Suspected),
            }
        }));
        reports.answered(&tried);
        let observed: Vec<_> = std::iter::from_fn(|| to_control.try_recv().ok())
            .map(|report| report.observed)
            .collect();
        let failed = observed.iter().filter(|observed| **observed != Observed::Answered);
        assert_eq!(failed.count(), 2);
        assert_eq!(observed.last(), Some(&Observed::Answered), "{observed:?}");
        reports.answered(&tried);
        assert!(to_control.try_recv().is_err(), "it is known");
    });
}

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn enter(held: &Arc<HeldBytes>) -> Reservation {
    held.reservation(Instant::now())
}

fn is_evicted(eviction: &Eviction, wakes: &Arc<Wakes>) -> bool {
    let waker = Waker::from(Arc::clone(wakes));
    let mut cx = Context::from_waker(&waker);
    eviction.poll(&mut cx).is_ready()
}

/// Three holders, no two of which have room in the end: some are evicted, and all give back what they have.
#[test]
fn held_bytes_are_given_back_and_each_holder_is_evicted_once() {
    in_every_order(|| {
        const BYTES_MAX: usize = 20_000;
        let held = HeldBytes::new(HeldLimits::of_bytes(BYTES_MAX));
        threads([[5_000, 1_000], [9_000, 500], [8_000, 3_000]].map(|grows| {
            let held = Arc::clone(&held);
            move || {
                let mut reservation = enter(&held);
                let (eviction, wakes) = (reservation.eviction(), Arc::default());
                for bytes in grows {
                    let grown = reservation.grow(bytes);
                    let evicted = is_evicted(&eviction, &wakes);
                    assert!(!evicted || is_evicted(&eviction, &wakes), "an eviction was used up");
                    assert!(grown.is_ok() || evicted, "refused without an eviction");
                    if evicted {
                        break;
                    }
                }
                // Whether it is seen before or after it waits, it is evicted once.
                let woken = wakes.0.load(Ordering::SeqCst);
                assert!(woken <= 1, "evicted {woken} times");
                assert!(woken == 0 || is_evicted(&eviction, &wakes), "woken for nothing");
            }
        }));
        assert_eq!(held.bytes(), 0);
        // And none counts as evicted any more: the account is as large as ever, and no larger.
        let mut reservation = enter(&held);
        reservation
            .grow(BYTES_MAX - BYTES_MAX / 8)
            .expect("room for as much as one may have");
        assert!(reservation.grow(1).is_err(), "more than may be held");
    });
}

/// A holder that waits is woken by its eviction, whenever that is.
#[test]
fn no_eviction_is_missed_by_a_holder_that_waits() {
    in_every_order(|| {
        let held = HeldBytes::new(HeldLimits::of_bytes(10_000));
        let mut oldest = enter(&held);
        oldest.grow(8_000).expect("room");
        let other = {
            let held = Arc::clone(&held);
            thread::spawn(move || enter(&held).grow(2_000).expect("the oldest is evicted instead"))
        };
        let (eviction, wakes) = (oldest.eviction(), Arc::default());
        let evicted = is_evicted(&eviction, &wakes);
        other.join().expect("no panic");
        let woken = wakes.0.load(Ordering::SeqCst);
        assert!(evicted || woken == 1, "it sleeps on");
        assert!(is_evicted(&eviction, &wakes));
    });
}

/// A holder that is evicted and has not been dropped yet is not evicted again, however much it still grows.
#[test]
fn an_evicted_holder_is_not_evicted_again() {
    in_every_order(|| {
        let held = HeldBytes::new(HeldLimits::of_bytes(10_000));
        let mut oldest = enter(&held);
        oldest.grow(8_000).expect("room");
        let (eviction, wakes) = (oldest.eviction(), Arc::default());
        assert!(!is_evicted(&eviction, &wakes));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let held = Arc::clone(&held);
                thread::spawn(move || enter(&held).grow(2_000).is_ok())
            })
            .collect();
        for _ in 0..3 {
            // Whether there is room for it is another matter.
            let _ = oldest.grow(100);
            // Waits again, so that one more eviction would wake it.
            is_evicted(&eviction, &wakes);
        }
        for other in others {
            other.join().expect("no panic");
        }
        assert!(wakes.0.load(Ordering::SeqCst) <= 1, "evicted twice");
        drop(oldest);
        assert_eq!(held.bytes(), 0);
        let mut reservation = enter(&held);
        reservation.grow(8_000).expect("room for as much as one may have");
        assert!(reservation.grow(751).is_err(), "more than may be held");
    });
}
