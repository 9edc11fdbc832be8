//! What a handle does to a balancer that runs: closes some of its connections, drains a node, shows what there is.

use std::time::Duration;

use remora::serve::{Handle, Selector};
use tokio::time::Instant;

use crate::balancer::{Balancer, block_on, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::End;
use crate::packets::Connect;

fn accepted(balancer: &Balancer, id: &str) -> Client {
    Client::accepted(balancer.address, &Connect::new(id))
}

/// So many clients at home on each node.
fn at_home(balancer: &Balancer, cluster: &Cluster, prefix: &str, count: usize) -> Vec<Vec<Client>> {
    let on = |node: usize| {
        let ids = cluster.ids_at_home(node, prefix, count);
        ids.iter().map(|id| accepted(balancer, id)).collect()
    };
    (0..cluster.nodes.len()).map(on).collect()
}

fn close(handle: &Handle, selector: Selector) -> usize {
    block_on(handle.close(selector)).expect("all workers run")
}

/// The node's bytes still reach the client.
#[track_caller]
fn is_alive(cluster: &Cluster, id: &str, client: &mut Client) {
    let (_, connection) = cluster.holder(&Connect::new(id).bytes());
    connection.send(b"still here");
    client.expect(b"still here");
}

#[test]
fn closing_a_node_closes_its_connections_and_no_other() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let mut clients = at_home(&balancer, &cluster, "on", 10);
    let node = balancer.running.node_id("node0").expect("a node");
    assert_eq!(close(&balancer.running, Selector::Node(node)), 10);
    for client in &mut clients[0] {
        assert_eq!(client.end(), End::Fin);
    }
    for (id, client) in cluster.ids_at_home(1, "on", 10).iter().zip(&mut clients[1]) {
        is_alive(&cluster, id, client);
    }
    assert_eq!(close(&balancer.running, Selector::Node(node)), 0, "they are closed");
}

#[test]
fn closing_at_a_rate_takes_its_time_and_closes_all() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let mut clients = at_home(&balancer, &cluster, "paced", 20);
    let node = balancer.running.node_id("node1").expect("a node");
    let began = Instant::now();
    let closed = block_on(balancer.running.close_at(Selector::Node(node), 40));
    assert_eq!(closed.expect("all workers run"), 20);
    assert!(began.elapsed() >= Duration::from_millis(450), "{:?}", began.elapsed());
    for client in &mut clients[1] {
        assert_eq!(client.end(), End::Fin);
    }
    for (id, client) in cluster.ids_at_home(0, "paced", 20).iter().zip(&mut clients[0]) {
        is_alive(&cluster, id, client);
    }
}

#[test]
fn a_client_is_closed_by_its_whole_id_and_no_other() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let long = |last: char| format!("{}{last}", "x".repeat(1_000));
    let ids = ["device-1".to_owned(), "device-10".to_owned(), long('a'), long('b')];
    let mut clients: Vec<Client> = ids.iter().map(|id| accepted(&balancer, id)).collect();
    for id in ["device", "device-1\0", "", &"x".repeat(1_000)] {
        assert_eq!(close(&balancer.running, Selector::client_id(id.as_bytes())), 0, "{id}");
    }
    for closed in [0, 2] {
        let selector = Selector::client_id(ids[closed].as_bytes());
        assert_eq!(close(&balancer.running, selector), 1);
        assert_eq!(clients[closed].end(), End::Fin);
    }
    for left in [1, 3] {
        is_alive(&cluster, &ids[left], &mut clients[left]);
    }
}

#[test]
fn a_draining_node_keeps_its_clients_and_gets_no_new_ones() {
    let cluster = Cluster::of(2);
    let text = toml(&cluster, "", "");
    let balancer = Balancer::of(&text);
    let handle = balancer.running.handle();
    let mut clients = at_home(&balancer, &cluster, "before", 5);
    block_on(handle.drain_node("node0")).expect("a node");
    let there = |id: &str| cluster.holder(&Connect::new(id).bytes()).0;
    let came = |prefix: &str, node: usize| {
        for id in cluster.ids_at_home(0, prefix, 5) {
            let _client = accepted(&balancer, &id);
            assert_eq!(there(&id), node, "{id}");
        }
    };
    came("drained", 1);
    // The wish outlives a reload.
    let config = remora::config::parse("test.toml", &text).expect("no problem");
    block_on(handle.reload(config)).expect("the same configuration");
    came("reloaded", 1);
    let node = &handle.nodes()[0];
    assert!(node.is_draining && node.connections == 5, "{node:?}");
    block_on(handle.undrain_node("node0")).expect("a node");
    came("back", 0);
    for (id, client) in cluster.ids_at_home(0, "before", 5).iter().zip(&mut clients[0]) {
        is_alive(&cluster, id, client);
    }
    assert!(block_on(handle.drain_node("nobody")).is_err());
}

#[test]
fn a_weight_override_moves_the_homes_of_new_clients() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let weighted = Cluster::weighted(&[1, 100]);
    block_on(balancer.running.set_weight("node0", Some(1))).expect("a node");
    // At home on the first node before, and on the second since.
    let ids = cluster.ids_at_home(0, "moved", 10);
    let moved: Vec<_> = ids.iter().filter(|id| weighted.home(id) == 1).collect();
    assert!(moved.len() >= 5, "{moved:?}");
    for id in moved {
        let _client = accepted(&balancer, id);
        assert_eq!(cluster.holder(&Connect::new(&**id).bytes()).0, 1);
    }
    block_on(balancer.running.set_weight("node0", None)).expect("a node");
    let id = cluster.id_at_home(0, "home again");
    let _client = accepted(&balancer, &id);
    assert_eq!(cluster.holder(&Connect::new(id).bytes()).0, 0);
    assert!(block_on(balancer.running.set_weight("node0", Some(0))).is_err());
}

#[test]
fn a_handle_shows_nodes_listeners_and_totals() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let _clients = at_home(&balancer, &cluster, "shown", 3);
    let handle = balancer.running.handle();
    let names: Vec<_> = handle
        .nodes()
        .iter()
        .map(|n| (n.name.to_string(), n.connections))
        .collect();
    assert_eq!(names, [("node0".to_owned(), 3), ("node1".to_owned(), 3)]);
    let listeners = handle.listeners();
    assert_eq!(listeners.len(), 1);
    assert_eq!(listeners[0].address, balancer.address);
    assert_eq!((listeners[0].connections, listeners[0].accepted), (6, 6));
    let totals = handle.totals();
    assert_eq!((totals.connections, totals.awaiting_connect), (6, 0));
}

#[test]
fn reloads_from_several_threads_take_turns() {
    let cluster = Cluster::of(2);
    let text = toml(&cluster, "", "");
    let balancer = Balancer::of(&text);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (handle, text) = (balancer.running.handle(), &text);
            scope.spawn(move || {
                for turn in 0..5 {
                    // Each time another listener instead of the last one, on a port of its own.
                    let name = format!("of-{thread}-{turn}");
                    let listener = format!("\n[[listeners]]\nname = \"{name}\"\naddress = \"127.0.0.1:0\"\n");
                    let config = remora::config::parse("test.toml", &(text.clone() + &listener));
                    block_on(handle.reload(config.expect("no problem"))).expect("a free port");
                }
            });
        }
    });
    // Whatever the order was, one of the listeners is left beside the first.
    let addresses = balancer.running.addresses();
    assert_eq!((addresses.len(), addresses[0]), (2, balancer.address));
    for address in addresses {
        Client::accepted(address, &Connect::new(format!("by {address}")));
    }
}

#[test]
fn a_handle_stops_a_balancer_and_outlives_it() {
    let cluster = Cluster::of(1);
    let balancer = Balancer::start(&cluster);
    let mut client = accepted(&balancer, "stopped");
    let handle = balancer.running.handle();
    handle.stop();
    assert_eq!(client.end(), End::Fin);
    let address = balancer.address;
    assert_eq!(balancer.running.stop(), None);
    assert!(std::net::TcpStream::connect(address).is_err());
    assert!(block_on(handle.close(Selector::All)).is_err());
    assert!(block_on(handle.drain_node("node0")).is_err());
    let config = remora::config::parse("test.toml", &toml(&cluster, "", "")).expect("no problem");
    assert!(block_on(handle.reload(config)).is_err());
    assert_eq!(handle.connections(), 0);
}

#[test]
fn a_balancer_that_drains_takes_no_reload() {
    let cluster = Cluster::of(1);
    let text = toml(&cluster, "", "[drain]\nrate = 1000\n");
    let balancer = Balancer::of(&text);
    let mut client = accepted(&balancer, "drained");
    client.sent_all();
    let handle = balancer.running.handle();
    block_on(handle.drain()).expect("all workers run");
    assert_eq!(client.end(), End::Fin);
    assert!(handle.addresses().is_empty() && handle.connections() == 0);
    let config = remora::config::parse("test.toml", &text).expect("no problem");
    assert!(block_on(handle.reload(config)).is_err());
}
