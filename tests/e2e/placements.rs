//! The remembered exceptions: who was accepted off its home comes back there, for as long as that means something.

use std::sync::Arc;

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Program};
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, Connection, FakeNode};
use crate::packets::{Connect, assigned_client_id, connack_5};
use crate::wait;

/// A client, and its connection at the node that accepted it.
struct Placed {
    client: Client,
    node: usize,
    connection: Arc<Connection>,
}

impl Placed {
    #[track_caller]
    fn accepted(cluster: &Cluster, program: &Program, connect: &Connect) -> Self {
        let client = Client::accepted(program.address, connect);
        let (node, connection) = cluster.holder(&connect.bytes());
        Self {
            client,
            node,
            connection,
        }
    }

    /// Leaves, and waits until the balancer has closed its account.
    #[track_caller]
    fn leave(self, program: &Program) {
        self.client.fin();
        self.connection.end();
        self.connection.fin();
        program.ended(self.client.address());
    }
}

/// The client's home refuses it once; then it leaves and returns. Where it is after each.
fn refused_then_back(connect: &Connect) -> [&'static str; 2] {
    let cluster = Cluster::of(3);
    let program = Program::start(&cluster, "");
    let choices = cluster.choices(&connect.client_id);
    let name = |node: usize| match choices.iter().position(|choice| *choice == node) {
        Some(0) => "home",
        Some(1) => "second",
        _ => "third",
    };
    let code = if connect.level == 5 { 0x9C } else { 3 };
    cluster.nodes[choices[0]].answer(Answer::Code(code));
    let first = Placed::accepted(&cluster, &program, connect);
    cluster.answer(&Answer::Accept);
    let before = name(first.node);
    first.leave(&program);
    let back = Placed::accepted(&cluster, &program, connect);
    let after = name(back.node);
    back.leave(&program);
    [before, after]
}

#[test]
fn a_refused_client_returns_to_where_it_was_accepted_only_if_its_session_is_there() {
    let cases = [
        (Connect::new("clean"), "home"),
        (Connect::new("persistent").persistent(), "second"),
        (Connect::v31("persistent").persistent(), "second"),
        (Connect::v5("ends with it"), "home"),
        (Connect::v5("ends with it, too").persistent(), "home"),
        (Connect::v5("an hour").session_expiry(3_600), "second"),
        (Connect::v5("for ever").session_expiry(u32::MAX), "second"),
        (Connect::v5("no second").session_expiry(0), "home"),
    ];
    for (connect, after) in cases {
        let went = refused_then_back(&connect);
        assert_eq!(
            went,
            ["second", after],
            "{:?}",
            connect.client_id.escape_ascii().to_string()
        );
    }
}

#[test]
fn the_connacks_session_expiry_wins() {
    for (asked, granted, after) in [(3_600, 0, 0), (0, 3_600, 1)] {
        let cluster = Cluster::of(3);
        let program = Program::start(&cluster, "");
        let connect = Connect::v5("negotiated").session_expiry(asked);
        let choices = cluster.choices("negotiated");
        let expiry = [&[0x11][..], &u32::to_be_bytes(granted)].concat();
        cluster.answer(&Answer::Bytes(crate::packets::connack_5(0, &expiry)));
        cluster.nodes[choices[0]].answer(Answer::Code(0x9C));
        let mut client = Client::to(program.address);
        client.send(&connect.bytes());
        client.expect(&crate::packets::connack_5(0, &expiry));
        let (node, connection) = cluster.holder(&connect.bytes());
        assert_eq!(node, choices[1]);
        cluster.answer(&Answer::Accept);
        Placed {
            client,
            node,
            connection,
        }
        .leave(&program);
        let back = Placed::accepted(&cluster, &program, &connect);
        assert_eq!(back.node, choices[after], "granted {granted}");
    }
}

#[test]
fn while_it_is_connected_a_refused_client_is_followed_by_its_next_connection() {
    let cluster = Cluster::of(3);
    let program = Program::start(&cluster, "");
    let connect = Connect::new("takes over");
    let choices = cluster.choices("takes over");
    cluster.nodes[choices[0]].answer(Answer::Code(3));
    let older = Placed::accepted(&cluster, &program, &connect);
    cluster.answer(&Answer::Accept);
    let _newer = Client::accepted(program.address, &connect);
    let second = &cluster.nodes[choices[1]];
    assert_eq!(second.dials(), 2, "the newer connection comes to the same node");
    // The older one ends; the newer one's entry stays.
    older.leave(&program);
    let _newest = Client::accepted(program.address, &connect);
    assert_eq!(second.dials(), 3);
}

#[test]
fn a_remembered_node_that_is_down_is_not_asked() {
    let mut cluster = Cluster::of(3);
    let program = Program::start(
        &cluster,
        "[health]\nfailures_max = 1\ndown_min = \"10m\"\ndown_max = \"10m\"",
    );
    let connect = Connect::v5("moved").session_expiry(3_600);
    let choices = cluster.choices("moved");
    cluster.nodes[choices[0]].answer(Answer::Code(0x9C));
    Placed::accepted(&cluster, &program, &connect).leave(&program);
    cluster.answer(&Answer::Accept);
    cluster.nodes[choices[1]].die();
    // The first one finds out; where it lands, its session is now.
    let found_out = Placed::accepted(&cluster, &program, &connect);
    assert_eq!(found_out.node, choices[0]);
    found_out.leave(&program);
    cluster.nodes[choices[1]].come_back();
    let back = Placed::accepted(&cluster, &program, &connect);
    assert_eq!(back.node, choices[0], "the entry went with the session");
}

#[test]
fn a_client_that_was_busy_is_not_remembered() {
    let cluster = Cluster::of(3);
    let program = Program::start(&cluster, "");
    let connect = Connect::v5("busy").session_expiry(3_600);
    let home = cluster.home("busy");
    cluster.nodes[home].answer(Answer::Stall);
    let mut client = Client::to(program.address);
    client.send(&connect.bytes());
    let locked = cluster.nodes[home].connection(0);
    locked.expect(&connect.bytes());
    cluster.nodes[home].answer(Answer::Accept);
    locked.send(&crate::packets::connack(5, 0x89));
    client.expect(&crate::packets::connack(5, 0));
    wait::until("its second connection", || cluster.nodes[home].dials() == 2);
    let others = cluster.nodes.iter().map(FakeNode::dials).sum::<usize>();
    assert_eq!(others, 2);
}

#[test]
fn clients_without_an_id_cannot_displace_those_that_have_one() {
    let cluster = Cluster::of(3);
    let limit = "[affinity]\nplacements_max = 40\n";
    let program = Program::start(&cluster, &format!("{ADMIN}{limit}"));
    let placements = || Metrics::of(program.admin()).value("remora_placements");
    for number in 0..60 {
        let assigned = assigned_client_id(format!("assigned-{number}").as_bytes());
        let connack = connack_5(0, &assigned);
        cluster.answer(&Answer::Bytes(connack.clone()));
        let mut client = Client::to(program.address);
        client.send(&Connect::v5("").session_expiry(3_600).bytes());
        client.expect(&connack);
        client.reset();
        program.ended(client.address());
    }
    assert_eq!(placements(), 4.0, "a tenth of the map");

    let connect = Connect::v5("of its own").session_expiry(3_600);
    let choices = cluster.choices("of its own");
    cluster.answer(&Answer::Accept);
    cluster.nodes[choices[0]].answer(Answer::Code(0x9C));
    let placed = Placed::accepted(&cluster, &program, &connect);
    assert_eq!(placed.node, choices[1]);
    placed.leave(&program);
    assert_eq!(placements(), 5.0);
    cluster.answer(&Answer::Accept);
    assert_eq!(Placed::accepted(&cluster, &program, &connect).node, choices[1]);
}
