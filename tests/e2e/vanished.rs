//! Clients that answer nothing: a device whose radio sleeps, and one that is gone.

use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::time::Instant;

use crate::balancer::Program;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::kernel::{self, Probing};
use crate::packets::{self, Connect};
use crate::wait;

/// The kernel drops whatever comes for this client.
fn deafen(client: &Client) {
    /// `BPF_RET | BPF_K`: ends with the number of bytes to keep.
    const RETURN: u16 = 0x06;
    let drop = SockFilter::new(RETURN, 0, 0, 0);
    SockRef::from(&client.stream).attach_filter(&[drop]).expect("a filter");
}

/// How the balancer probes a client.
fn probing(program: &Program, client: &Client) -> Option<Probing> {
    kernel::probing(program.address, client.address())
}

#[test]
fn as_many_probes_may_be_lost_as_the_file_says() {
    let cluster = Cluster::of(1);
    let program = Program::start(
        &cluster,
        "[keepalive]\nidle = \"1s\"\ninterval = \"1s\"\ncount = 6\n[timeouts]\nuser_timeout = \"2s\"",
    );
    let lasting = Connect::new("asleep");
    let mut asleep = Client::accepted(program.address, &lasting);
    let gone = Client::accepted(program.address, &Connect::new("gone"));
    let since = Instant::now();
    deafen(&asleep);
    deafen(&gone);
    wait::until("four probes or more are lost", || {
        probing(&program, &asleep).is_some_and(|probing| probing.unanswered >= 4)
    });
    SockRef::from(&asleep.stream).detach_filter().expect("a filter");
    wait::until("a probe is answered", || {
        probing(&program, &asleep).is_some_and(|probing| probing.unanswered == 0)
    });
    asleep.send(&packets::publish(b"awake"));
    let all = [lasting.bytes(), packets::publish(b"awake")].concat();
    cluster.holder(&all).1.expect(&all);
    // Six lost ones are too many.
    assert_eq!(program.ended(gone.address())["cause"], "client_vanished");
    let took = since.elapsed();
    assert!(took >= Duration::from_millis(6_500), "after {took:?}");
}

#[test]
fn a_device_may_sleep_for_as_long_as_its_keep_alive_allows() {
    let cluster = Cluster::of(1);
    let next = |tables: &str, keep_alive: u16, least: u64, most: u64| {
        let program = Program::start(&cluster, tables);
        let client = Client::accepted(program.address, &Connect::new("asleep").keep_alive(keep_alive));
        let range = Duration::from_secs(least)..Duration::from_secs(most);
        wait::until(&format!("a probe within {range:?}"), || {
            probing(&program, &client).is_some_and(|probing| range.contains(&probing.next))
        });
    };
    // One and a half times its Keep Alive and 35 s, less the minute that the probes take.
    next("", 300, 415, 426);
    // What the kernel can count.
    next("", 65_535, 32_700, 32_768);
    // Without a Keep Alive, the kernel alone finds out.
    next("", 0, 50, 61);
    next("[keepalive]\nidle = \"30s\"", 300, 20, 31);
}
