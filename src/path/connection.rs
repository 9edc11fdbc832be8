//! One connection, in order: accepted, opened, peeked, routed, dialed, greeted, relayed, ended.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use crate::base::clock::{Clock, Seconds};
use crate::base::failpoint;
use crate::base::memory::MemoryTrim;
use crate::cluster::{EndpointKind, NodeId};
use crate::handover::messages::Invalid;
use crate::net::held::Reservation;
use crate::net::socket::Detached;
use crate::net::tls::HandshakeQueue;
use crate::path::accept::{self, Accepted, AdmittedClient, Opened, OpenedClient, Opener};
use crate::path::accounts::Accounts;
use crate::path::affinity::Affinity;
use crate::path::counters::Counters;
use crate::path::ended::{Ended, SetUpEnded};
use crate::path::greet::Greeted;
use crate::path::handover::Counts;
use crate::path::home::Homes;
use crate::path::last_ends::LastEnds;
use crate::path::listeners::ListenerEntry;
use crate::path::opening::{Opening, Passing};
use crate::path::record::{Connected, ListenerId, PlacementKey, Record};
use crate::path::relay::{self, Adopted, Finished, Relayed, RowId, Table};
use crate::path::report::{Reporter, count_bytes};
use crate::path::route::{AcceptedClient, Router};
use crate::path::set_up::{SetUp, client_info, note_greeting};
use crate::path::sides::Bytes;
use crate::path::stations::Stations;

pub use crate::path::stations::{Settings, Shared};
use crate::path::worker_listener::WorkerListener;

/// What all connections of one worker share.
#[derive(Debug)]
pub struct Path {
    /// The number of the worker.
    worker: u16,
    shared: Shared,
    stations: RefCell<Rc<Stations>>,
    opener: Opener,
    router: Router,
    reporter: Reporter,
    /// The time, to the second.
    pub clock: Clock,
    /// The relays.
    pub table: RefCell<Table>,
    /// What waited for receivers at the last sweep.
    waiting: Cell<usize>,
    memory_trim: RefCell<MemoryTrim>,
    /// The worker's counters.
    pub counters: Arc<Counters>,
}

impl Path {
    /// The path of the worker with this number.
    pub fn new(worker: u16, shared: Shared, settings: Settings, counters: Arc<Counters>) -> Self {
        let opener = Opener {
            queue: HandshakeQueue::default(),
            clusters: Arc::clone(&shared.clusters),
            draining: Arc::clone(&shared.draining),
        };
        let clusters = &shared.clusters;
        Self {
            opener,
            router: Router::new(Arc::clone(clusters), Arc::clone(&shared.placements), shared.load_max),
            reporter: Reporter::new(
                Arc::clone(&counters),
                Arc::clone(clusters),
                settings.log.clone(),
                LastEnds::of_one_of(shared.workers),
            ),
            worker,
            clock: Clock::default(),
            table: RefCell::new(Table::new(&settings.relay)),
            waiting: Cell::default(),
            memory_trim: RefCell::default(),
            stations: RefCell::new(Rc::new(Stations::new(settings, &shared, &counters))),
            counters,
            shared,
        }
    }

    /// Applies other settings: to relays at once, to set-ups that begin from now on.
    pub(crate) fn reconfigure(&self, settings: Settings) {
        self.table.borrow_mut().reconfigure(&settings.relay);
        self.reporter.set_lines(settings.log.clone());
        let stations = Stations::new(settings, &self.shared, &self.counters);
        *self.stations.borrow_mut() = Rc::new(stations);
    }

    fn listening(&self, id: ListenerId) -> Option<WorkerListener> {
        let entry = self.shared.listeners.get(id)?;
        Some(WorkerListener::new(entry, self.worker))
    }

    /// Called once a second: updates the clock, ends relays that were silent for too long, counts the bytes moved since the last
    /// call, and allows further log lines.
    pub fn sweep(&self) {
        self.clock.tick();
        let stations = self.stations();
        let mut table = self.table.borrow_mut();
        let now = self.clock.now();
        let waiting = table.sweep(now, |sockets| {
            let silence = sockets.idle_limit.map(|limit| Duration::from_secs(limit.0.into()));
            // Each fails only if the connection has just ended.
            let _ = stations.dial.watch(SockRef::from(sockets.node));
            let _ = stations.dial.watch_silent(SockRef::from(sockets.client), silence);
        });
        let before = self.waiting.replace(waiting);
        let most = stations.relay.waiting_bytes_max;
        match self.shared.waiting.replace(before, waiting, most) {
            0 => {}
            too_many => table.release_waiting(now, too_many),
        }
        table.sweep_ports(now, &self.shared.clusters.current());
        table.count(now, |record, moved| {
            self.shared.listeners.with(record.listener, |entry| {
                count_bytes(&entry.counters[usize::from(self.worker)], moved);
            });
            if let Some(node) = record.node {
                self.counters.of_node(node, |counters| counters.count_bytes(moved));
            }
        });
        self.memory_trim.borrow_mut().at(table.len());
        self.reporter.sweep();
    }

    /// What decides where connected clients belong now.
    pub(crate) fn homes(&self) -> Homes {
        self.shared.homes()
    }

    /// How the connections of this client ended lately, the last one first.
    pub(crate) fn last_ends(&self) -> &RefCell<LastEnds> {
        self.reporter.last_ends()
    }

    fn stations(&self) -> Rc<Stations> {
        Rc::clone(&self.stations.borrow())
    }

    /// Serves one client from accept to the beginning of its relay. The relay gets a task of its own, so that the
    /// memory of the set-up is freed.
    pub async fn serve(self: Rc<Self>, accepted: Accepted, listener: ListenerId, number: u64) {
        let Some(listening) = self.listening(listener) else {
            debug_assert!(false, "a listener is published before it accepts");
            return;
        };
        let stations = self.stations();
        let record = Record::new(number, listener, accepted.client, accepted.at);
        let mut report = self.reporter.accepted(listening.reported(), record);
        let Some(record) = report.record() else {
            return;
        };
        let reservation = self.shared.held.reservation(accepted.at);
        let eviction = reservation.eviction();
        // Whatever a set-up waits for, its eviction ends it, and it is dropped before that is reported.
        let set_up = {
            let set_up = pin!(self.set_up(accepted, &listening, &stations, record, reservation));
            eviction.or(set_up).await
        };
        match set_up {
            Ok(Ok(set_up)) => {
                if let Some(record) = report.into_record() {
                    relay::spawn(self, set_up.into_relayed(record, &stations.relay));
                }
            }
            Ok(Err(ended)) => report.end(ended),
            Err(room) => report.end(Ended::for_want_of(room).into()),
        }
    }

    /// Sets up a connection, up to the node that accepts the client. `?` ends the connection.
    async fn set_up(
        &self,
        accepted: Accepted,
        listening: &WorkerListener,
        stations: &Stations,
        record: &mut Record,
        reservation: Reservation,
    ) -> Result<SetUp, SetUpEnded> {
        let listener = listening.listener();
        let due = stations.peek.due(accepted.at, listener.connect_timeout);

        // Accepted: its true address, the lists and the limits.
        let rules = listening.rules(&stations.limits);
        let (client, admitted) = accept::admit(accepted, rules, &self.shared.admission, &reservation, due).await;
        (record.client, record.identity) = (client.address, client.identity);
        let AdmittedClient {
            socket,
            admitted,
            awaiting_connect,
        } = admitted?;

        // Opened: the layers below MQTT.
        let address = record.client.ip();
        let opened = self
            .opener
            .open(socket, address, listener, reservation, listening.counters(), due);
        let OpenedClient {
            client,
            framing,
            upgrade,
            identity,
            reservation,
        } = match opened.await? {
            Opened::Mqtt(client) => client,
            Opened::Pass(passing) => {
                drop(awaiting_connect);
                let greeted = Box::pin(self.pass(passing, stations, record)).await?;
                return Ok(SetUp::new(greeted, admitted));
            }
        };
        record.identity = identity.or(record.identity.take());
        record.check_common_name().inspect_err(|_| client.send_close_notify())?;

        // Peeked: its CONNECT, as far as the affinity key.
        let peek = &stations.peek;
        let opening = peek.opening(client, framing, upgrade, reservation, due).await?;
        drop(awaiting_connect);

        // Routed: the nodes that it may go to.
        let Opening { connect, replay, .. } = &opening;
        let (bytes, address) = (replay.mqtt(), record.client.ip());
        let rule = &self.shared.affinity;
        let affinity = rule.of_client(connect, bytes, address, record.common_name());
        let placement = affinity.placement();
        let route = self.router.route(listener.kind(), &affinity, placement);
        let home = route.home().map(|node| node.id);
        let connected = Connected::new(connect, bytes, placement, route.ring_hash());
        record.connect = Some(connected);
        record.peeked();

        // Dialed and greeted: the node that accepts it.
        let greeting = stations.greeter.greet(opening, route, client_info(record), &self.clock);
        let (report, greeted) = greeting.await;
        note_greeting(record, &report);
        let greeted = greeted?;
        failpoint::pass(failpoint::Place::SetUp);
        self.reporter.greeted(record, greeted.connack.as_ref());
        self.remember(home, &greeted, record);
        Ok(SetUp::new(greeted, admitted))
    }

    /// Routes, dials and greets for a client whose TLS ends at the node. Its affinity key is its address, since its
    /// MQTT cannot be read.
    async fn pass(&self, passing: Passing, stations: &Stations, record: &mut Record) -> Result<Greeted, Ended> {
        record.peeked();
        // The identity from the PROXY header of an upstream load balancer is kept.
        let identity = record.identity.get_or_insert_default();
        identity.server_name = passing.server_name.clone().or(identity.server_name.take());
        let affinity = Affinity::of_address(record.client.ip());
        let route = self.router.route(EndpointKind::Pass, &affinity, PlacementKey::NONE);
        let greeter = &stations.greeter;
        let (report, greeted) = greeter
            .pass_through(passing, route, client_info(record), &self.clock)
            .await;
        note_greeting(record, &report);
        let greeted = greeted?;
        self.reporter.greeted(record, None);
        Ok(greeted)
    }

    /// Records an accepting CONNACK, and remembers a node that the ring would not choose again.
    fn remember(&self, home: Option<NodeId>, greeted: &Greeted, record: &mut Record) {
        let connack = greeted.connack.as_ref().filter(|connack| connack.code == 0);
        let (Some(connect), Some(connack)) = (&mut record.connect, connack) else {
            return;
        };
        // Under the key that the client will have when it comes again.
        let assigned = connect.accepted(connack).map(|id| self.shared.affinity.part(id));
        if let Some(assigned) = assigned {
            connect.ring_hash = self.router.ring_hash(assigned);
        }
        connect.placement = self.router.remember(AcceptedClient {
            placement: connect.placement,
            home,
            node: greeted.choice.id,
            is_exception: greeted.is_exception(),
            assigned,
            owner: record.number,
            source: record.client.ip(),
        });
    }

    /// Resumes a relay that another worker has detached.
    pub fn resume(self: Rc<Self>, relayed: Relayed<Detached>) {
        match relayed.register() {
            Ok(relayed) => relay::spawn(self, relayed),
            Err(record) => {
                let ended = Ended::DescriptorsExhausted.into();
                self.ended(ended, record, Bytes::default(), Bytes::default());
            }
        }
    }

    /// Adopts a relay of another process: it is counted, and frozen until [`Table::thaw`].
    ///
    /// # Errors
    /// Its listener is unknown.
    pub(crate) fn adopt(self: Rc<Self>, adopted: Adopted) -> Result<(), Invalid> {
        let record = adopted.record();
        let listening = self.listening(record.listener).ok_or(Invalid("listener"))?;
        let cluster = self.shared.clusters.current();
        let (admission, count) = (&self.shared.admission, listening.count());
        Accounts::of_adopted(record, admission, count, &cluster).keep();
        relay::spawn_frozen(self, adopted);
        Ok(())
    }

    /// Another process has this frozen relay: it is uncounted here, and its peers notice nothing. Returns whether it was there.
    pub(crate) fn forget(&self, id: RowId) -> bool {
        let forgotten = self.table.borrow_mut().forget(id);
        if let Some(record) = &forgotten {
            self.uncount(record);
        }
        forgotten.is_some()
    }

    /// Goes on counting from here. Only one worker may.
    pub(crate) fn count_from(&self, counts: &Counts) {
        let Shared {
            clusters,
            listeners,
            placements,
            ..
        } = &self.shared;
        let worker = (self.worker, &*self.counters);
        counts.import(worker, &listeners.current(), &clusters.current(), placements);
    }

    /// The number of its worker.
    pub(crate) fn worker(&self) -> u16 {
        self.worker
    }

    fn uncount(&self, record: &Record) {
        let cluster = self.shared.clusters.current();
        let of = |entry: &Arc<ListenerEntry>| {
            drop(Accounts::of_relayed(
                record,
                &self.shared.admission,
                &entry.listener_count,
                &cluster,
            ));
        };
        self.shared.listeners.with(record.listener, of);
    }

    /// Ended: uncounts a connection whose relay is over, and reports it.
    fn ended(&self, ended: SetUpEnded, record: Box<Record>, bytes: Bytes, uncounted: Bytes) {
        let Some(listening) = self.listening(record.listener) else {
            debug_assert!(false, "a listener stays in the list");
            return;
        };
        count_bytes(listening.counters(), uncounted);
        if let Some(node) = record.node {
            self.counters.of_node(node, |counters| counters.count_bytes(uncounted));
        }
        self.uncount(&record);
        if let Some(connect) = &record.connect {
            self.router.ended(connect, record.number);
        }
        let ended = SetUpEnded {
            cause: ended.cause.after_connack(record.code),
            ..ended
        };
        self.reporter.ended(listening.reported(), record, ended, bytes);
    }
}

impl relay::Owner for Path {
    fn table(&self) -> &RefCell<Table> {
        &self.table
    }

    fn now(&self) -> Seconds {
        self.clock.now()
    }

    fn finished(&self, finished: Finished) {
        let Finished {
            cause,
            details,
            record,
            bytes,
            uncounted,
            left,
            time_wait,
        } = finished;
        if let Some(left) = left {
            left.spawn();
        }
        let cluster = self.shared.clusters.current();
        if let Some(node) = time_wait
            && let Some(known) = cluster.known(node)
        {
            let now = self.clock.now();
            self.table.borrow_mut().add_time_wait(now, node, &known.load);
        }
        let ended = SetUpEnded {
            details,
            ..cause.into()
        };
        self.ended(ended, record, bytes, uncounted);
    }
}
