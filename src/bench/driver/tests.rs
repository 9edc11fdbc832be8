use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::*;
use crate::bench::nodes::{Nodes, Stall};
use crate::bench::packet::Version;
use crate::bench::sources::Sources;

/// A node in a thread of its own, which ends with it.
struct FakeNode {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeNode {
    fn start(stall: Option<Stall>) -> Self {
        let mut nodes = Nodes::bind(1, stall).unwrap();
        let address = nodes.addresses().unwrap()[0];
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                nodes.turn().unwrap();
            }
        });
        Self {
            address,
            over,
            thread: Some(thread),
        }
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn plan(target: SocketAddr, clients: u32) -> Plan {
    Plan {
        name: "test",
        target,
        sources: Sources::default(),
        clients,
        publishers: clients,
        audience: Audience::Sender,
        clean: true,
        version: Version::V4,
        client_id: "test-%i".into(),
        topic: "test/%i".into(),
        keep_alive_s: 60,
        username: None,
        password: None,
        arrival: Arrival::AtOnce(8),
        connect_timeout: 5 * SECOND,
        connecting_max: 30 * SECOND,
        then: Then::Stay,
        parting: Parting::Reset,
        traffic: Traffic::None,
        qos: 0,
        size: 100,
        warm_up: 0,
        duration: SECOND / 10,
        settle: 0,
        pids: Vec::new(),
    }
}

fn measured(plan: &Plan) -> Measured {
    run(plan, &Live::none(), None).unwrap().measured
}

fn failures(measured: &Measured) -> Vec<(&'static str, u64)> {
    let counts = Failure::ALL.map(|failure| (failure.name(), measured.failed(failure)));
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}

#[test]
fn a_storm_connects_every_client_once() {
    let node = FakeNode::start(None);
    let plan = Plan {
        then: Then::Leave,
        duration: 30 * SECOND,
        ..plan(node.address, 500)
    };
    let measured = measured(&plan);
    assert_eq!(failures(&measured), []);
    assert_eq!(measured.accepted, 500);
}

#[test]
fn every_message_returns_whole_and_in_order() {
    let node = FakeNode::start(None);
    for (version, qos, size) in [
        (Version::V4, 0, STAMP_BYTES),
        (Version::V4, 1, 100),
        (Version::V5, 0, 100_000),
        (Version::V5, 1, 1 << 20),
    ] {
        let plan = Plan {
            version,
            qos,
            size,
            traffic: Traffic::Window(3),
            ..plan(node.address, 4)
        };
        let measured = measured(&plan);
        assert_eq!(failures(&measured), []);
        assert_eq!(measured.cut_off, 0);
        assert!(measured.received > 0, "{size} bytes");
        assert_eq!(measured.received_bytes, measured.received * size as u64);
    }
}

#[test]
fn an_open_loop_keeps_its_schedule() {
    let node = FakeNode::start(None);
    let plan = Plan {
        traffic: Traffic::PerSecond {
            rate: 2_000.0,
            window: u32::MAX,
        },
        duration: SECOND / 2,
        ..plan(node.address, 10)
    };
    let measured = measured(&plan);
    assert_eq!(failures(&measured), []);
    // A second's half at 2,000 a second; a message more or less at either end.
    assert!(
        (990..=1_010).contains(&measured.message.count()),
        "{}",
        measured.message.count()
    );
}

/// Ten windows of one message: while the node stalls ten messages wait, and all others are not even sent.
#[test]
fn a_stall_shows_in_the_latency_from_the_intended_time() {
    let node = FakeNode::start(Some(Stall {
        every: Duration::from_secs(10),
        lasts: Duration::from_secs(1),
    }));
    let plan = Plan {
        traffic: Traffic::PerSecond {
            rate: 1_000.0,
            window: 1,
        },
        duration: 10 * SECOND,
        ..plan(node.address, 10)
    };
    let measured = measured(&plan);
    assert_eq!(failures(&measured), []);
    let corrected = measured.message.quantile_us(0.99);
    let uncorrected = measured.message_from_send.quantile_us(0.99);
    assert!(corrected >= 800_000.0, "{corrected} µs");
    assert!(uncorrected < 200_000.0, "{uncorrected} µs: it shows no lie");
}

#[test]
fn a_target_that_refuses_is_counted_and_the_run_ends() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let measured = measured(&plan(address, 20));
    assert_eq!(failures(&measured), [("refused", 20)]);
}

#[test]
fn a_target_that_says_nothing_is_a_timeout() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let plan = Plan {
        connect_timeout: SECOND / 10,
        ..plan(listener.local_addr().unwrap(), 3)
    };
    assert_eq!(failures(&measured(&plan)), [("timeout", 3)]);
}
