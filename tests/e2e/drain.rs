//! SIGTERM: the balancer lets go of its clients in order, at a pace, and loses nothing.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use crate::admin_client::{self, Metrics};
use crate::balancer::{ADMIN, Program};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, End};
use crate::packets::{self, Connect};
use crate::raise_descriptor_limit;
use crate::wait::{self, Watched};

fn drain(keys: &str) -> String {
    format!("{ADMIN}\n[drain]\n{keys}\n")
}

fn clients(program: &Program, count: usize) -> Vec<Client> {
    let connect = |number| Connect::new(format!("drains-{number}"));
    (0..count)
        .map(|number| Client::accepted(program.address, &connect(number)))
        .collect()
}

#[track_caller]
fn is_draining(program: &Program) {
    wait::until("it says that it drains", || {
        admin_client::get(program.admin(), "/readyz").status == 503
    });
    assert_eq!(admin_client::get(program.admin(), "/readyz").body, "draining\n");
    assert_eq!(admin_client::get(program.admin(), "/livez").status, 200);
    assert_eq!(Metrics::of(program.admin()).value("remora_draining"), 1.0);
}

/// Waits until the port is closed.
#[track_caller]
fn is_closed(program: &Program) {
    wait::until("nobody listens", || TcpStream::connect(program.address).is_err());
}

#[test]
fn a_thousand_connections_are_closed_evenly_over_five_seconds_by_fin() {
    raise_descriptor_limit();
    const CLIENTS: usize = 1_000;
    const RATE: usize = 200;
    let cluster = Cluster::of(3);
    let mut program = Program::start(&cluster, &drain(&format!("rate = {RATE}")));
    let clients = clients(&program, CLIENTS);
    let ends = Watched::<Vec<(Instant, End)>>::default();
    program.signal(Signal::TERM);
    is_draining(&program);
    std::thread::scope(|scope| {
        for mut client in clients {
            let ends = &ends;
            let waiting = move || {
                let end = client.end();
                ends.change(|ends| ends.push((Instant::now(), end)));
            };
            let small = std::thread::Builder::new().stack_size(64 * 1024);
            small.spawn_scoped(scope, waiting).expect("a thread");
        }
    });
    let ends = ends.lock();
    assert!(ends.iter().all(|(_, end)| *end == End::Fin));
    let first = ends.iter().map(|(at, _)| *at).min().expect("ends");
    let mut seconds = [0; 7];
    for (at, _) in &*ends {
        seconds[(at.duration_since(first).as_secs() as usize).min(6)] += 1;
    }
    println!("closed in each second: {seconds:?}");
    for second in &seconds[..4] {
        assert!((RATE * 8 / 10..=RATE * 12 / 10).contains(second), "{seconds:?}");
    }
    assert!(
        seconds[4] + seconds[5] >= RATE * 8 / 10 && seconds[6] == 0,
        "{seconds:?}"
    );
    assert_eq!(program.exit_code(), Some(0));
    assert_eq!(program.ended_with("shutdown"), CLIENTS);
    assert_eq!(program.lines(|line| line["message"] == "drained").len(), 1);
}

#[test]
fn new_clients_come_in_during_the_delay_and_none_is_refused_before_the_listeners_close() {
    let cluster = Cluster::of(2);
    let mut program = Program::start(&cluster, &drain("delay = \"1s\""));
    let refused = AtomicBool::new(false);
    let began = Instant::now();
    let (served, longest) = std::thread::scope(|scope| {
        let come = |thread: usize| {
            let (refused, address) = (&refused, program.address);
            move || {
                let mut served = 0;
                // A refused connection is what a closed listener is, and the only way in which this may end.
                while let Ok(stream) = TcpStream::connect(address) {
                    let mut client = Client::of(stream);
                    client.send(&Connect::new(format!("{thread}-{served}")).bytes());
                    client.expect(&packets::connack(4, 0));
                    client.reset();
                    served += 1;
                }
                refused.store(true, Ordering::Relaxed);
                (served, Instant::now())
            }
        };
        let coming: Vec<_> = (0..4).map(|thread| scope.spawn(come(thread))).collect();
        program.signal(Signal::TERM);
        is_draining(&program);
        assert!(!refused.load(Ordering::Relaxed), "it drains, and still accepts");
        let came = coming.into_iter().map(|thread| thread.join().expect("none is cut"));
        came.fold((0, began), |(all, last), (served, at)| (all + served, last.max(at)))
    });
    let open = longest - began;
    println!("{served} clients were served in {open:?}");
    assert!(open >= Duration::from_secs(1), "closed after {open:?}");
    assert_eq!(program.exit_code(), Some(0));
    assert_eq!(program.ended_with("shutdown"), 0);
}

#[test]
fn a_client_in_the_accept_queue_is_served_before_the_listener_closes() {
    let cluster = Cluster::of(1);
    let mut program = Program::start(&cluster, &drain("rate = 1\ngrace = \"20s\""));
    // Connected, and still in the kernel's hands, since it has not said anything.
    let mut silent = Client::to(program.address);
    program.signal(Signal::TERM);
    is_closed(&program);
    silent.send(&Connect::new("late").bytes());
    silent.expect(&packets::connack(4, 0));
    assert_eq!(silent.end(), End::Fin);
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn what_is_in_flight_arrives_before_the_fin() {
    // As much as the balancer's sockets and a pipe hold.
    const BYTES: usize = 512 << 10;
    for splice in [true, false] {
        let cluster = Cluster::of(1);
        let keys = format!("rate = 100\n[relay]\nsplice = {splice}\n[timeouts]\nlinger = \"20s\"");
        let mut program = Program::start(&cluster, &drain(&keys));
        let connect = Connect::new("reads later");
        let mut client = Client::accepted(program.address, &connect);
        let (_, node) = cluster.holder(&connect.bytes());
        let mut bytes = vec![0; BYTES];
        fastrand::Rng::with_seed(7).fill(&mut bytes);
        // All of it has left the node, and the client has not read: what its kernel has no room for is in the balancer's
        // hands.
        node.send(&bytes);
        node.sent_all();
        program.signal(Signal::TERM);
        is_closed(&program);
        let (read, end) = client.rest();
        assert!(read == bytes, "{} of {BYTES} bytes", read.len());
        assert_eq!(end, End::Fin, "splice = {splice}");
        assert_eq!(node.end(), End::Fin);
        assert_eq!(program.exit_code(), Some(0));
    }
}

#[test]
fn those_at_rest_go_first() {
    let cluster = Cluster::of(1);
    let mut program = Program::start(&cluster, &drain("rate = 4\ngrace = \"20s\""));
    let connect = Connect::new("busy");
    let mut busy = Client::accepted(program.address, &connect);
    let (_, node) = cluster.holder(&connect.bytes());
    std::thread::scope(|scope| {
        scope.spawn(|| node.send(&vec![7; 16 << 20]));
        let mut resting = clients(&program, 8);
        wait::until("the busy one has bytes that wait", || {
            crate::kernel::queues(busy.address(), program.address).is_some_and(|queues| queues.unread > 100_000)
        });
        program.signal(Signal::TERM);
        for client in &mut resting {
            assert_eq!(client.end(), End::Fin);
        }
        assert!(!program.has_ended(busy.address()));
        busy.rest();
    });
    assert_eq!(program.exit_code(), Some(0));
}

#[test]
fn grace_ends_what_is_left() {
    let cluster = Cluster::of(1);
    let mut program = Program::start(&cluster, &drain("rate = 1\ngrace = \"1s\""));
    let mut clients = clients(&program, 50);
    let began = Instant::now();
    program.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.end(), End::Fin);
    }
    assert_eq!(program.exit_code(), Some(0));
    let took = began.elapsed();
    assert!((1.0..5.0).contains(&took.as_secs_f64()), "{took:?}");
    // What it wrote last may still be in the pipe.
    program.until_ended_with("shutdown", 50);
}

#[test]
fn a_second_signal_ends_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let cluster = Cluster::of(1);
        let mut program = Program::start(&cluster, &drain("rate = 1\ngrace = \"10m\""));
        let mut clients = clients(&program, 50);
        program.signal(Signal::TERM);
        program.until_said("draining");
        is_closed(&program);
        assert!(!program.has_exited());
        let began = Instant::now();
        program.signal(second);
        assert_eq!(program.exit_code(), Some(0));
        let took = began.elapsed();
        assert!(took < Duration::from_secs(3), "{second:?} took {took:?}");
        for client in &mut clients {
            assert_eq!(client.end(), End::Fin);
        }
    }
}

#[test]
fn sigquit_drains_and_sigint_does_not() {
    let cluster = Cluster::of(1);
    for (signal, said) in [(Signal::QUIT, "drained"), (Signal::INT, "stopping")] {
        let mut program = Program::start(&cluster, &drain("rate = 1000"));
        let mut clients = clients(&program, 20);
        program.signal(signal);
        for client in &mut clients {
            assert_eq!(client.end(), End::Fin);
        }
        assert_eq!(program.exit_code(), Some(0));
        assert_eq!(program.lines(|line| line["message"] == said).len(), 1);
    }
}

#[test]
fn a_client_that_is_being_set_up_is_not_cut() {
    let cluster = Cluster::of(1);
    cluster.answer(&Answer::Stall);
    let mut program = Program::start(&cluster, &drain("rate = 1000\ngrace = \"20s\""));
    let connect = Connect::new("being greeted");
    let mut client = Client::to(program.address);
    client.send(&connect.bytes());
    let (_, node) = cluster.holder(&connect.bytes());
    program.signal(Signal::TERM);
    is_closed(&program);
    node.send(&packets::connack(4, 0));
    client.expect(&packets::connack(4, 0));
    assert_eq!(client.end(), End::Fin);
    assert_eq!(program.exit_code(), Some(0));
}
