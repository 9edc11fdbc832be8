use std::time::Duration;

use super::*;

const BYTES_MAX: usize = 8 << 20;
const LARGE: usize = 100_000;

fn limits() -> Limits {
    Limits {
        bytes_max: BYTES_MAX,
        undecided_max: 8,
        handshakes_max: 4,
        ..Limits::default()
    }
}

fn source(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

/// A ledger, and when its holders come: one each millisecond.
struct Account {
    ledger: Ledger,
    now: Instant,
}

impl Account {
    fn new() -> Self {
        Self {
            ledger: Ledger::new(limits()),
            now: Instant::now(),
        }
    }

    fn enter(&mut self, number: u8) -> HolderId {
        self.now += Duration::from_millis(1);
        let entered = self.ledger.enter(self.now, Arc::default());
        self.ledger.identify(entered, source(number));
        entered
    }

    /// How many were evicted, and whether there is room now.
    fn grow(&mut self, id: HolderId, more: usize) -> (usize, bool) {
        let mut evicted = Vec::new();
        let grown = self.ledger.grow(id, more, &mut evicted);
        (evicted.len(), grown.is_ok())
    }

    fn take_place(&mut self, id: HolderId, place: Place) -> (usize, bool) {
        let mut evicted = Vec::new();
        let taken = self.ledger.take_place(id, place, self.now, &mut evicted);
        (evicted.len(), taken.is_ok())
    }

    fn is_evicted(&self, id: HolderId) -> bool {
        self.ledger.get(id).is_some_and(|holder| holder.is_evicted)
    }

    fn sum(&self, kind: Kind) -> usize {
        self.ledger.queues[kind as usize].sum
    }

    /// As many holders of this source as this many bytes each have room for; the oldest comes first.
    fn fill(&mut self, number: u8, bytes: usize, room: usize) -> Vec<HolderId> {
        let holders = (0..room / bytes).map(|_| {
            let holder = self.enter(number);
            assert_eq!(self.grow(holder, bytes), (0, true), "there is room");
            holder
        });
        holders.collect()
    }
}

#[test]
fn the_oldest_goes_not_the_largest() {
    let mut account = Account::new();
    // Four sources with as much each, so that none has more than its share.
    let each = (BYTES_MAX - BYTES_MAX / SMALL_PART) / 4;
    let oldest = account.fill(1, LARGE, each);
    for number in 2..5 {
        account.fill(number, 2 * LARGE, each);
    }
    let late = account.enter(5);
    account.grow(late, 4 * LARGE);
    assert!(account.is_evicted(oldest[0]) && !account.is_evicted(late));
    // It grows once more than one holder gives back: as many go as it takes.
    let gone = oldest.iter().filter(|number| account.is_evicted(**number)).count();
    account.grow(late, 3 * LARGE);
    let gone_then = oldest.iter().filter(|number| account.is_evicted(**number)).count();
    assert_eq!(gone_then, gone + 3);
    assert!(account.sum(Kind::LargeBytes) <= BYTES_MAX - BYTES_MAX / SMALL_PART);
}

#[test]
fn a_source_beyond_its_share_gives_up_its_own_oldest_however_long_others_have_been_there() {
    let mut account = Account::new();
    let old = account.fill(1, LARGE, LARGE);
    let many = account.fill(2, LARGE, BYTES_MAX - BYTES_MAX / SMALL_PART - LARGE);
    assert!(account.sum(Kind::LargeBytes) > BYTES_MAX / 2, "alone, it may have all");
    let late = account.enter(3);
    assert_eq!(account.grow(late, LARGE), (1, true));
    assert!(account.is_evicted(many[0]) && !account.is_evicted(old[0]));
    // A new one of that source has to do with what that source has.
    let late = account.enter(2);
    assert_eq!(account.grow(late, LARGE), (1, true));
    assert!(account.is_evicted(many[1]) && !account.is_evicted(old[0]));
}

#[test]
fn a_part_is_kept_for_small_holders_and_they_may_have_more_while_nobody_needs_it() {
    let mut account = Account::new();
    for number in 1..10 {
        account.fill(number, LARGE, (BYTES_MAX - BYTES_MAX / SMALL_PART) / 9);
    }
    let large = account.sum(Kind::LargeBytes);
    // Many small ones find room beside those who hold all that large ones may.
    account.fill(20, SMALL_CONNECT_BYTES, BYTES_MAX / SMALL_PART);
    assert_eq!(account.sum(Kind::LargeBytes), large);
    let mut account = Account::new();
    let oldest = account.fill(1, SMALL_CONNECT_BYTES, BYTES_MAX)[0];
    let late = account.enter(2);
    assert_eq!(account.grow(late, SMALL_CONNECT_BYTES), (1, true));
    assert!(account.is_evicted(oldest));
    // A larger one may come as well.
    let (evicted, has_room) = account.grow(late, LARGE);
    assert!(has_room && evicted == LARGE.div_ceil(SMALL_CONNECT_BYTES), "{evicted}");
}

#[test]
fn one_that_is_the_oldest_itself_is_evicted_and_gets_no_more() {
    let mut account = Account::new();
    let alone = account.enter(1);
    assert_eq!(account.grow(alone, BYTES_MAX), (1, false));
    assert!(account.is_evicted(alone));
    let other = account.enter(2);
    assert_eq!(account.grow(other, LARGE), (0, true), "what it has counts no longer");
    assert_eq!(account.grow(alone, 1), (0, false));
    assert_eq!(account.ledger.taken(Room::Bytes), BYTES_MAX + LARGE + 1);
    account.ledger.leave(alone);
    account.ledger.leave(other);
    assert!(account.ledger.is_empty());
}

#[test]
fn what_the_connection_itself_takes_makes_no_holder_large() {
    let mut account = Account::new();
    let holder = account.enter(1);
    let grown = account.ledger.grow_fixed(holder, LARGE, &mut Vec::new());
    assert_eq!(grown, Ok(()));
    account.grow(holder, SMALL_CONNECT_BYTES);
    assert_eq!(account.sum(Kind::SmallBytes), LARGE + SMALL_CONNECT_BYTES);
    account.grow(holder, 1);
    assert_eq!(account.sum(Kind::SmallBytes), 0);
    account.ledger.shrink(holder, 1);
    assert_eq!(account.sum(Kind::LargeBytes), 0);
}

#[test]
fn a_source_may_have_all_places_until_another_one_needs_one() {
    for (place, max) in [(Place::Undecided, 8), (Place::Handshake, 4)] {
        let mut account = Account::new();
        let many: Vec<HolderId> = (0..max).map(|_| account.enter(1)).collect();
        for holder in &many {
            assert_eq!(account.take_place(*holder, place), (0, true), "there is room");
        }
        // Its own next one is refused at first, so that those who are nearly done go on.
        let next = account.enter(1);
        assert_eq!(account.take_place(next, place), (0, false));
        let other = account.enter(2);
        assert_eq!(account.take_place(other, place), (1, true));
        assert!(account.is_evicted(many[0]));
        account.now += limits().grace;
        assert_eq!(account.take_place(next, place), (1, true));
        assert!(account.is_evicted(many[1]) && !account.is_evicted(other));
        for id in many.into_iter().chain([next, other]) {
            account.ledger.leave(id);
        }
        assert!(account.ledger.is_empty());
    }
}

#[test]
fn where_no_source_has_more_than_its_share_the_oldest_goes_after_half_its_time() {
    let mut account = Account::new();
    let many: Vec<HolderId> = (0..8).map(|number| account.enter(number)).collect();
    for holder in &many {
        assert_eq!(account.take_place(*holder, Place::Undecided), (0, true));
    }
    let late = account.enter(9);
    assert_eq!(account.take_place(late, Place::Undecided), (0, false));
    account.now += limits().grace;
    assert_eq!(account.take_place(late, Place::Undecided), (1, true));
    assert!(account.is_evicted(many[0]));
}

#[test]
fn a_source_that_is_not_known_yet_has_no_share() {
    let mut account = Account::new();
    let unknown: Vec<HolderId> = (0..8)
        .map(|_| account.ledger.enter(account.now, Arc::default()))
        .collect();
    for holder in &unknown {
        assert_eq!(account.take_place(*holder, Place::Undecided), (0, true));
    }
    let late = account.enter(1);
    assert_eq!(account.take_place(late, Place::Undecided), (0, false));
    // Once they turn out to be of one source, it has more than its share.
    for holder in &unknown[..3] {
        account.ledger.identify(*holder, source(2));
    }
    assert_eq!(account.take_place(late, Place::Undecided), (1, true));
    assert!(account.is_evicted(unknown[0]));
}

#[test]
fn another_share_holds_for_those_who_are_there() {
    let mut account = Account::new();
    let mut oldest = Vec::new();
    for number in [1, 2, 2, 3, 3, 4, 4, 5] {
        let holder = account.enter(number);
        assert_eq!(account.take_place(holder, Place::Undecided), (0, true));
        oldest.push(holder);
    }
    let late = account.enter(6);
    assert_eq!(
        account.take_place(late, Place::Undecided),
        (0, false),
        "a quarter is two of eight"
    );
    account.ledger.set_limits(Limits {
        source_share: 13,
        ..limits()
    });
    assert_eq!(account.take_place(late, Place::Undecided), (1, true));
    assert!(!account.is_evicted(oldest[0]));
}
