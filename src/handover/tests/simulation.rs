//! Both sides at once, over a real socket and in virtual time, where each is killed or held up before each of its messages and at each
//! wait: at any moment one process relays a connection at most, and in the end exactly one of those that live.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep, timeout};

use super::{At, Plan, PlayedGiver, PlayedTaker, Sockets, World, in_virtual_time};
use crate::handover::conversation::{Deadlines, Failure};
use crate::handover::giver::{Given, give};
use crate::handover::taker::{Taken, take};

/// What becomes of a process when it has been polled so often.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Lives,
    Dies(u32),
    /// It does not run for so long.
    IsHeldUp(u32, Duration),
}

/// A process. Its result is `None` if it has died.
struct Process<T> {
    life: Option<Pin<Box<dyn Future<Output = T>>>>,
    polls: u32,
    fate: Fate,
    held_up: Option<Pin<Box<Sleep>>>,
}

impl<T> Process<T> {
    fn new(fate: Fate, life: impl Future<Output = T> + 'static) -> Self {
        Self {
            life: Some(Box::pin(life)),
            polls: 0,
            fate,
            held_up: None,
        }
    }
}

impl<T> Future for Process<T> {
    type Output = (Option<T>, u32);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(held_up) = &mut self.held_up {
            if held_up.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.held_up = None;
        }
        self.polls += 1;
        match self.fate {
            Fate::Dies(at) if at == self.polls => {
                self.life = None;
                return Poll::Ready((None, self.polls));
            }
            Fate::IsHeldUp(at, time) if at == self.polls => {
                let mut held_up = Box::pin(sleep(time));
                assert!(held_up.as_mut().poll(cx).is_pending());
                self.held_up = Some(held_up);
                return Poll::Pending;
            }
            _ => {}
        }
        let polls = self.polls;
        let life = self.life.as_mut().expect("polled after its end");
        life.as_mut().poll(cx).map(|result| (Some(result), polls))
    }
}

/// How one handover went.
struct Went {
    world: World,
    given: Option<Result<Given, Failure>>,
    taken: Option<Result<Taken, Failure>>,
    polls_of_giver: u32,
    polls_of_taker: u32,
}

const MOVING: [u64; 4] = [1, 2, 4, 5];
const STAYING: [u64; 2] = [3, 6];

fn plan() -> Plan {
    Plan {
        early: vec![1, 2, 3],
        late: vec![vec![4], vec![5]],
        staying: vec![6],
        untakable: vec![3],
        ..Plan::default()
    }
}

fn hand_over(sockets: &Rc<Sockets>, of_giver: Fate, of_taker: Fate) -> Went {
    let world = Rc::default();
    let end = in_virtual_time(run(&world, sockets, of_giver, of_taker));
    let ((given, polls_of_giver), (taken, polls_of_taker)) = end;
    Went {
        world: world.take(),
        given,
        taken,
        polls_of_giver,
        polls_of_taker,
    }
}

type End<T> = (Option<Result<T, Failure>>, u32);

async fn run(
    world: &Rc<RefCell<World>>,
    sockets: &Rc<Sockets>,
    of_giver: Fate,
    of_taker: Fate,
) -> (End<Given>, End<Taken>) {
    let (socket_of_giver, socket_of_taker) = UnixStream::pair().expect("a pair");
    let mut giver = PlayedGiver::new(world, sockets, &plan());
    let mut taker = PlayedTaker::new(world, &plan());
    let giving = Process::new(of_giver, async move {
        give(socket_of_giver, &mut giver, Deadlines::default()).await
    });
    let taking = Process::new(of_taker, async move {
        take(socket_of_taker, &mut taker, Deadlines::default()).await
    });
    // Nobody who is dead relays anything.
    let of_giver = Rc::clone(world);
    let giving = tokio::task::spawn_local(async move {
        let end = giving.await;
        if end.0.is_none() {
            let mut world = of_giver.borrow_mut();
            world.frozen_since = None;
            for number in Vec::from_iter(world.giver.keys().copied()) {
                world.set_giver(number, At::Absent);
            }
            world.giver_accepts = false;
        }
        end
    });
    let of_taker = Rc::clone(world);
    let taking = tokio::task::spawn_local(async move {
        let end = taking.await;
        if end.0.is_none() {
            // What has run is lost with it; what it has only held is not.
            of_taker.borrow_mut().taker_accepts = false;
        }
        end
    });
    let both = async { (giving.await.expect("no panic"), taking.await.expect("no panic")) };
    timeout(Duration::from_secs(3_600), both).await.expect("an end")
}

fn check(went: &Went) {
    let world = &went.world;
    let giver_lives = went.given.is_some();
    let taker_lives = went.taken.is_some();
    for number in MOVING.into_iter().chain(STAYING) {
        let both = (world.at_giver(number), world.at_taker(number));
        let has_run = both.1 == At::Relayed;
        match (giver_lives, taker_lives) {
            (true, true) => assert!(
                [(At::Relayed, At::Absent), (At::Absent, At::Relayed)].contains(&both),
                "relay {number} is {both:?}"
            ),
            // What the taker never ran, the giver relays; what it ran, the giver must not touch.
            (true, false) => {
                let at_giver = if has_run { At::Absent } else { At::Relayed };
                assert_eq!(both.0, at_giver, "relay {number} is {both:?}");
            }
            (false, true) => assert_ne!(both.1, At::Still, "relay {number} is {both:?}"),
            (false, false) => {}
        }
        assert!(!(has_run && STAYING.contains(&number)), "relay {number} was taken");
    }
    let relays = |at_most: usize| u64::try_from(at_most).expect("a few");
    if let Some(Ok(given)) = &went.given {
        let moved = MOVING.len()
            - world
                .of_giver(At::Relayed)
                .iter()
                .filter(|n| MOVING.contains(n))
                .count();
        assert_eq!(given.relays, relays(moved));
        assert!(given.rounds > 0 && !world.giver_accepts);
    }
    if let Some(Err(_)) = &went.given {
        assert_eq!(world.of_giver(At::Relayed), [1, 2, 3, 4, 5, 6]);
        assert!(world.giver_accepts, "the giver does not accept");
    }
    if let Some(taken) = &went.taken {
        match taken {
            Ok(taken) => {
                assert_eq!(taken.relays, relays(world.of_taker(At::Relayed).len()));
                assert!(taken.rounds > 0 && world.taker_accepts);
            }
            Err(_) => {
                assert!(world.of_taker(At::Relayed).is_empty() && !world.taker_accepts);
                assert!(world.discarded);
            }
        }
    }
    if giver_lives && taker_lives {
        assert!(world.giver_accepts != world.taker_accepts, "nobody accepts, or both");
    }
}

#[test]
fn everything_moves_when_nothing_fails() {
    let sockets = Rc::new(Sockets::new());
    let went = hand_over(&sockets, Fate::Lives, Fate::Lives);
    check(&went);
    let given = went.given.expect("alive").expect("a handover");
    assert!(given.cut_short.is_none());
    assert_eq!((given.relays, given.rounds), (4, 2));
    assert_eq!(given.peer, Some(std::process::id()));
    let taken = went.taken.expect("alive").expect("a handover");
    assert!(taken.cut_short.is_none());
    assert_eq!((taken.relays, taken.rounds), (4, 2));
    assert_eq!(went.world.of_taker(At::Relayed), MOVING);
    assert_eq!(went.world.of_giver(At::Relayed), STAYING);
    Rc::into_inner(sockets).expect("the last").check_that_nothing_is_left();
}

#[test]
fn each_relay_has_one_owner_whatever_becomes_of_one_process() {
    let sockets = Rc::new(Sockets::new());
    let well = hand_over(&sockets, Fate::Lives, Fate::Lives);
    let mut seen_kept = 0;
    for at in 1..=well.polls_of_giver.max(well.polls_of_taker) {
        for fate in fates(at) {
            for (of_giver, of_taker) in [(fate, Fate::Lives), (Fate::Lives, fate)] {
                let went = hand_over(&sockets, of_giver, of_taker);
                checked(&went, of_giver, of_taker);
                seen_kept += u32::from(matches!(went.given, Some(Err(_))));
                let is_giver_held_up = matches!(of_giver, Fate::IsHeldUp(..));
                if went.given.is_some() && !is_giver_held_up {
                    let pause = went.world.pause;
                    assert!(pause <= Deadlines::default().pause, "{pause:?}, taker {of_taker:?}");
                }
            }
        }
    }
    assert!(seen_kept > 50, "{seen_kept}");
    Rc::into_inner(sockets).expect("the last").check_that_nothing_is_left();
}

#[test]
fn each_relay_has_one_owner_whatever_becomes_of_both_processes() {
    let sockets = Rc::new(Sockets::new());
    let well = hand_over(&sockets, Fate::Lives, Fate::Lives);
    for at_giver in 1..=well.polls_of_giver {
        for at_taker in 1..=well.polls_of_taker {
            // All pairs of fates, one after the other: each at each place of the two would be sixteen times as many.
            let pair = (at_giver * 7 + at_taker) as usize;
            let of_giver = fates(at_giver)[pair % 4];
            let of_taker = fates(at_taker)[pair / 4 % 4];
            let went = hand_over(&sockets, of_giver, of_taker);
            checked(&went, of_giver, of_taker);
        }
    }
    Rc::into_inner(sockets).expect("the last").check_that_nothing_is_left();
}

/// Death; a moment in which the other side does all it can; longer than a pause may be; longer than any deadline.
fn fates(at: u32) -> [Fate; 4] {
    let held_up = |seconds| Fate::IsHeldUp(at, Duration::from_secs_f64(seconds));
    [Fate::Dies(at), held_up(0.001), held_up(6.0), held_up(200.0)]
}

fn checked(went: &Went, of_giver: Fate, of_taker: Fate) {
    let checking = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(went)));
    assert!(
        checking.is_ok(),
        "giver {of_giver:?}, taker {of_taker:?}: {:?}",
        went.world
    );
}
