//! How many connections a node may have, and where clients go that it has no room for.

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program, toml};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::End;
use crate::packets::Connect;
use crate::wait;

/// A cluster in which the first node may have so many connections.
fn limited(cluster: &Cluster, connections: usize, tables: &str) -> String {
    let first = "name = \"node0\"";
    let limit = format!("{first}\nconnections_max = {connections}");
    toml(cluster, "", tables).replace(first, &limit)
}

#[test]
fn a_full_node_gets_no_client_more_and_those_who_go_elsewhere_stay_there() {
    let cluster = Cluster::of(2);
    let program = Program::of(&limited(&cluster, 2, ADMIN));
    let ids = cluster.ids_at_home(0, "client", 4);
    let connect = |number: usize, keep_alive| Connect::new(&ids[number]).persistent().keep_alive(keep_alive);
    let accepted = |connect: &Connect| {
        let client = Client::accepted(program.address, connect);
        (client, cluster.holder(&connect.bytes()).0)
    };
    let (first, at) = accepted(&connect(0, 1));
    assert_eq!(at, 0);
    let (_second, at) = accepted(&connect(1, 1));
    assert_eq!(at, 0);
    let (third, at) = accepted(&connect(2, 1));
    assert_eq!(at, 1, "there is no room at home");
    let metrics = Metrics::of(program.admin());
    assert_eq!(metrics.value("remora_routes_total{decision=\"full\"}"), 1.0);
    assert_eq!(metrics.value("remora_placements"), 1.0);
    drop((first, third));
    let connections = || Metrics::of(program.admin()).sum("remora_node_connections");
    wait::until("two have left", || connections() == 1.0);
    let (_third, at) = accepted(&connect(2, 2));
    assert_eq!(at, 1, "its session is there");
    let (_fourth, at) = accepted(&connect(3, 2));
    assert_eq!(at, 0, "there is room again");
}

#[test]
fn where_every_node_is_full_a_client_is_closed() {
    let cluster = Cluster::of(1);
    let program = Program::of(&limited(&cluster, 1, ""));
    let _first = Client::accepted(program.address, &Connect::new("first"));
    let mut second = Client::to(program.address);
    second.send(&Connect::new("second").bytes());
    assert_eq!(second.end(), End::Fin);
    assert_eq!(program.ended(second.address())["cause"], "limit_node");
    assert_eq!(cluster.dials(), 1);
}

#[test]
fn with_a_bound_on_the_load_clients_of_one_home_are_spread() {
    let cluster = Cluster::of(3);
    let program = Program::start(&cluster, &format!("[affinity]\nload_max = 120\n{ADMIN}"));
    let ids = cluster.ids_at_home(0, "client", 60);
    let accepted = |id| Client::accepted(program.address, &Connect::new(id));
    let clients: Vec<Client> = ids.iter().map(accepted).collect();
    let metrics = Metrics::of(program.admin());
    for node in 0..3 {
        let connections = metrics.value(&format!("remora_node_connections{{node=\"node{node}\"}}"));
        // One after another, so that the bound is exact.
        assert!(connections <= 24.0, "{connections} of node{node}");
    }
    assert!(metrics.value("remora_routes_total{decision=\"home\"}") >= 20.0);
    assert!(metrics.value("remora_placements") >= 36.0);
    drop(clients);
}
