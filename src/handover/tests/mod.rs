//! Both sides of a handover, played: what is relayed where is a word in a table, and the sockets are real.

mod simulation;
mod strangers;
mod transfer;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use super::conversation::{Offered, Step};
use super::giver::{Frozen, Giver};
use super::messages::{
    Closing, Complete, Counter, Hello, Knowledge, ListenSocket, Listener, Manifest, Placement, Prepared, Relay, Side,
    State,
};
use super::taker::Taker;

/// What a process does with a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum At {
    #[default]
    Absent,
    Relayed,
    /// Frozen, or held.
    Still,
}

/// Both processes, seen from above.
#[derive(Debug, Default)]
struct World {
    giver: BTreeMap<u64, At>,
    taker: BTreeMap<u64, At>,
    /// How many relays are frozen, since when one is, and the longest time for which something was.
    frozen: usize,
    frozen_since: Option<Instant>,
    pause: Duration,
    giver_accepts: bool,
    taker_accepts: bool,
    /// The taker has been told to discard.
    discarded: bool,
    steps_of_giver: Vec<Step>,
    steps_of_taker: Vec<Step>,
}

impl World {
    fn set_giver(&mut self, number: u64, at: At) {
        let before = self.giver.insert(number, at).unwrap_or_default();
        self.frozen -= usize::from(before == At::Still);
        self.frozen += usize::from(at == At::Still);
        match (self.frozen > 0, self.frozen_since) {
            (true, None) => self.frozen_since = Some(Instant::now()),
            (false, Some(since)) => {
                self.pause = self.pause.max(since.elapsed());
                self.frozen_since = None;
            }
            _ => {}
        }
        self.check(number);
    }

    fn set_taker(&mut self, number: u64, at: At) {
        self.taker.insert(number, at);
        self.check(number);
    }

    /// Never do two relay one connection.
    fn check(&self, number: u64) {
        let both = (self.at_giver(number), self.at_taker(number));
        assert_ne!(both, (At::Relayed, At::Relayed), "relay {number} has two owners");
    }

    /// Nor do they accept the same clients.
    fn check_who_accepts(&self) {
        assert!(!(self.giver_accepts && self.taker_accepts), "both accept clients");
    }

    fn at_giver(&self, number: u64) -> At {
        self.giver.get(&number).copied().unwrap_or_default()
    }

    fn at_taker(&self, number: u64) -> At {
        self.taker.get(&number).copied().unwrap_or_default()
    }

    /// Numbers of the relays that are so at the giver.
    fn of_giver(&self, wanted: At) -> Vec<u64> {
        let so = self.giver.iter().filter(|(_, at)| **at == wanted);
        so.map(|(number, _)| *number).collect()
    }

    fn of_taker(&self, wanted: At) -> Vec<u64> {
        let so = self.taker.iter().filter(|(_, at)| **at == wanted);
        so.map(|(number, _)| *number).collect()
    }
}

/// Sockets, of which everything that is handed over is a duplicate.
#[derive(Debug)]
struct Sockets {
    listener: TcpListener,
    /// What is handed over, and the other end of it.
    client: (TcpStream, TcpStream),
    node: (TcpStream, TcpStream),
}

impl Sockets {
    fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let connection = || {
            let peer = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
            peer.set_nonblocking(true).expect("a socket");
            (listener.accept().expect("the same").0, peer)
        };
        let (client, node) = (connection(), connection());
        Self { listener, client, node }
    }

    fn listener(&self) -> OwnedFd {
        self.listener.try_clone().expect("a duplicate").into()
    }

    fn client(&self) -> OwnedFd {
        self.client.0.try_clone().expect("a duplicate").into()
    }

    fn node(&self) -> OwnedFd {
        self.node.0.try_clone().expect("a duplicate").into()
    }

    fn offered(&self, number: u64) -> Offered {
        Offered {
            relay: Relay {
                number,
                client: format!("192.0.2.1:{number}"),
                ..Relay::default()
            },
            client: self.client(),
            node: self.node(),
        }
    }

    /// The duplicates were closed, all of them, and the connections have noticed nothing of it until here.
    #[track_caller]
    fn check_that_nothing_is_left(self) {
        use io::{Read, Write};
        for (mut ours, mut peer) in [self.client, self.node] {
            ours.write_all(b"still here").expect("a connection");
            let mut read = [0; 32];
            assert_eq!(peer.read(&mut read).expect("a connection"), 10);
            drop(ours);
            assert_eq!(peer.read(&mut read).expect("no duplicate that keeps it open"), 0);
        }
        let address = self.listener.local_addr().expect("an address");
        drop(self.listener);
        TcpStream::connect(address).expect_err("no duplicate that listens");
    }
}

/// What the giver of a test has.
#[derive(Clone, Debug, Default)]
struct Plan {
    /// Relays that are sent before the freeze, and move in the first round.
    early: Vec<u64>,
    /// Relays that move in each round, and were not sent before.
    late: Vec<Vec<u64>>,
    /// Relays that are sent before the freeze, and do not move.
    staying: Vec<u64>,
    /// Relays that the taker cannot take.
    untakable: Vec<u64>,
    /// What the taker must know.
    requires: Vec<String>,
}

struct PlayedGiver {
    world: Rc<RefCell<World>>,
    sockets: Rc<Sockets>,
    plan: Plan,
    /// What is still to be sent before the freeze.
    to_send: Vec<u64>,
    round: usize,
    placements: u32,
}

impl PlayedGiver {
    fn new(world: &Rc<RefCell<World>>, sockets: &Rc<Sockets>, plan: &Plan) -> Self {
        let mut to_send = [plan.early.as_slice(), &plan.staying].concat();
        to_send.reverse();
        let late = plan.late.iter().flatten();
        for number in late.chain(&to_send) {
            world.borrow_mut().set_giver(*number, At::Relayed);
        }
        world.borrow_mut().giver_accepts = true;
        Self {
            world: Rc::clone(world),
            sockets: Rc::clone(sockets),
            plan: plan.clone(),
            to_send,
            round: 0,
            placements: 2,
        }
    }

    fn freeze_one(&self, number: u64) {
        self.world.borrow_mut().set_giver(number, At::Still);
    }
}

/// Runs `test` alone on this thread, in virtual time.
fn in_virtual_time<T>(test: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test)
}

async fn a_moment() {
    tokio::task::yield_now().await;
}

fn state(number: u64) -> State {
    State {
        number,
        client: Some(Side {
            unsent: vec![7; 100],
            ..Side::default()
        }),
        ..State::default()
    }
}

fn closing() -> Closing {
    Closing {
        order: "drain".to_owned(),
        node: Some("emqx1".to_owned()),
        rate: 50,
        numbers: vec![7, u64::MAX],
        ..Closing::default()
    }
}

fn counted(count: u64) -> Knowledge {
    Knowledge {
        counters: vec![Counter {
            name: "connections".to_owned(),
            count,
            ..Counter::default()
        }],
        ..Knowledge::default()
    }
}

impl Giver for PlayedGiver {
    async fn manifest(&mut self, _: &Hello) -> Result<Manifest, String> {
        a_moment().await;
        Ok(Manifest {
            relays: self.to_send.len() as u64,
            sockets: 1,
            listeners: vec![Listener::default()],
            requires: self.plan.requires.clone(),
            ..Manifest::default()
        })
    }

    async fn sockets(&mut self) -> io::Result<Vec<(ListenSocket, OwnedFd)>> {
        a_moment().await;
        Ok(vec![(ListenSocket::default(), self.sockets.listener())])
    }

    async fn relays(&mut self) -> io::Result<Option<Vec<Offered>>> {
        a_moment().await;
        let page = self.to_send.len().min(super::messages::RELAYS_MAX);
        let page = self.to_send.split_off(self.to_send.len() - page);
        let offered = page.iter().rev().map(|number| self.sockets.offered(*number));
        Ok(Some(offered.collect::<Vec<_>>()).filter(|offered| !offered.is_empty()))
    }

    async fn placements(&mut self) -> Option<Vec<Placement>> {
        a_moment().await;
        self.placements = self.placements.checked_sub(1)?;
        Some(vec![Placement::default()])
    }

    fn prepared(&mut self, prepared: Prepared) {
        assert!(matches!(prepared.closing.as_slice(), [] | [0]), "what the taker said");
    }

    async fn freeze(&mut self) -> io::Result<Frozen> {
        let late = self.plan.late.get(self.round).cloned().unwrap_or_default();
        let early = if self.round == 0 {
            self.plan.early.clone()
        } else {
            Vec::new()
        };
        self.round += 1;
        self.world.borrow_mut().giver_accepts = false;
        for number in &early {
            self.freeze_one(*number);
        }
        a_moment().await;
        for number in &late {
            self.freeze_one(*number);
        }
        a_moment().await;
        let states = early.iter().chain(&late).map(|number| state(*number)).collect();
        Ok(Frozen {
            offered: late.iter().map(|number| self.sockets.offered(*number)).collect(),
            states,
            placements: vec![Placement::default()],
            knowledge: counted(100),
            numbers: vec![7],
            closings: vec![closing()],
        })
    }

    async fn thaw(&mut self) {
        let mut world = self.world.borrow_mut();
        for number in world.of_giver(At::Still) {
            world.set_giver(number, At::Relayed);
        }
        if self.round == 1 {
            world.giver_accepts = true;
        }
        world.check_who_accepts();
    }

    async fn release(&mut self, numbers: Vec<u64>) {
        let numbers = BTreeSet::from_iter(numbers);
        let mut world = self.world.borrow_mut();
        for number in world.of_giver(At::Still) {
            let moves = numbers.contains(&number);
            world.set_giver(number, if moves { At::Absent } else { At::Relayed });
        }
    }

    async fn has_more(&mut self) -> bool {
        sleep(Duration::from_millis(100)).await;
        self.round < self.plan.late.len()
    }

    async fn last_words(&mut self) -> Knowledge {
        counted(1)
    }

    fn progress(&mut self, step: Step) {
        self.world.borrow_mut().steps_of_giver.push(step);
    }
}

struct PlayedTaker {
    world: Rc<RefCell<World>>,
    untakable: Vec<u64>,
    held: Vec<Offered>,
    sockets: Vec<OwnedFd>,
    has_state: BTreeSet<u64>,
    counted: u64,
    descriptors_max: u64,
    /// Refuses at the step of this name.
    refuses_at: &'static str,
}

impl PlayedTaker {
    fn new(world: &Rc<RefCell<World>>, plan: &Plan) -> Self {
        Self {
            world: Rc::clone(world),
            untakable: plan.untakable.clone(),
            held: Vec::new(),
            sockets: Vec::new(),
            has_state: BTreeSet::new(),
            counted: 0,
            descriptors_max: 100_000,
            refuses_at: "",
        }
    }

    async fn step(&self, name: &str) -> Result<(), String> {
        a_moment().await;
        if name == self.refuses_at {
            return Err(format!("no {name} today"));
        }
        Ok(())
    }
}

impl Taker for PlayedTaker {
    fn hello(&self) -> Hello {
        Hello {
            descriptors_max: self.descriptors_max,
            ..Hello::default()
        }
    }

    async fn begin(&mut self, _: Manifest) -> Result<(), String> {
        self.step("begin").await
    }

    async fn sockets(&mut self, sockets: Vec<(ListenSocket, OwnedFd)>) -> Result<(), String> {
        self.sockets
            .extend(sockets.into_iter().map(|(_, descriptor)| descriptor));
        self.step("sockets").await
    }

    async fn relays(&mut self, relays: Vec<Offered>) -> Result<(), String> {
        for offered in relays {
            self.world.borrow_mut().set_taker(offered.relay.number, At::Still);
            self.held.push(offered);
        }
        self.step("relays").await
    }

    async fn placements(&mut self, _: Vec<Placement>) -> Result<(), String> {
        self.step("placements").await
    }

    async fn prepare(&mut self) -> Result<Prepared, String> {
        self.step("prepare").await?;
        Ok(Prepared { closing: vec![0] })
    }

    async fn states(&mut self, states: Vec<State>) -> Result<(), String> {
        self.has_state.extend(states.iter().map(|state| state.number));
        self.step("states").await
    }

    async fn knowledge(&mut self, knowledge: Knowledge) -> Result<(), String> {
        self.counted += knowledge.counters.iter().map(|counter| counter.count).sum::<u64>();
        self.step("knowledge").await
    }

    async fn adopt(&mut self, complete: Complete) -> Result<Vec<u64>, String> {
        assert_eq!(complete.numbers, [7]);
        assert_eq!(complete.closings, [closing()]);
        self.step("adopt").await?;
        let untakable = self.untakable.iter().filter(|number| self.has_state.contains(number));
        Ok(untakable.copied().collect())
    }

    async fn run(&mut self) {
        let mut world = self.world.borrow_mut();
        for number in world.of_taker(At::Still) {
            let moves = self.has_state.contains(&number) && !self.untakable.contains(&number);
            world.set_taker(number, if moves { At::Relayed } else { At::Absent });
        }
        world.taker_accepts = true;
        world.check_who_accepts();
        self.has_state.clear();
        let relayed = |offered: &Offered| world.at_taker(offered.relay.number) == At::Relayed;
        self.held.retain(relayed);
    }

    async fn discard(&mut self) {
        let mut world = self.world.borrow_mut();
        for number in world.of_taker(At::Still) {
            world.set_taker(number, At::Absent);
        }
        world.discarded = true;
        let relayed = |offered: &Offered| world.at_taker(offered.relay.number) == At::Relayed;
        self.held.retain(relayed);
    }

    fn progress(&mut self, step: Step) {
        self.world.borrow_mut().steps_of_taker.push(step);
    }
}
