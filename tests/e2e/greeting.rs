//! What a node answers to a CONNECT, and what its client hears of it.

use std::net::TcpStream;

use crate::balancer::Balancer;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::{Answer, End, FakeNode};
use crate::packets::{self, Connect};
use crate::wait;

const REFUSALS_5: [u8; 4] = [0x88, 0x97, 0x9C, 0x9F];

/// The client is accepted by its second choice and never hears of what its home answered.
fn cured(answer: &Answer, connect: &Connect, tables: &str) {
    let cluster = Cluster::of(3);
    let balancer = Balancer::with(&cluster, tables);
    let choices = cluster.choices(&connect.client_id);
    cluster.nodes[choices[0]].answer(answer.clone());
    let behind = packets::subscribe();
    let mut client = Client::to(balancer.address);
    client.send(&[connect.bytes(), behind.clone()].concat());
    client.expect(&packets::connack(connect.level, 0));
    client.send(&packets::publish(b"and on"));
    let all = [connect.bytes(), behind, packets::publish(b"and on")].concat();
    cluster.nodes[choices[1]].connection(0).expect(&all);
    // One that resets before it reads anything does not know who has asked.
    let knows = !matches!(answer, Answer::CloseAtOnce);
    let asked = cluster.nodes[choices[0]].asked(&connect.bytes());
    assert_eq!(asked, usize::from(knows), "{answer:?}");
    assert_eq!(cluster.nodes[choices[2]].dials(), 0, "{answer:?}");
    cluster.nodes[choices[1]].connection(0).fin();
    assert_eq!(client.end(), End::Fin, "{answer:?}");
}

#[test]
fn a_refusal_that_another_node_cures_is_never_heard_of() {
    cured(&Answer::Code(3), &Connect::new("one"), "");
    cured(&Answer::Code(3), &Connect::v31("one"), "");
    for code in REFUSALS_5 {
        cured(&Answer::Code(code), &Connect::v5("one"), "");
    }
}

#[test]
fn a_node_that_closes_at_once_is_never_heard_of() {
    for answer in [Answer::Close, Answer::CloseAtOnce, Answer::Reset] {
        cured(&answer, &Connect::new("two"), "");
    }
}

#[test]
fn an_answer_that_is_no_mqtt_is_never_heard_of() {
    let answers: [&[u8]; 4] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        // An alert of TLS, and AUTH to a client that cannot know it.
        b"\x15\x03\x01\0\x02\x02\x46",
        b"\xF0\0",
    ];
    for answer in answers {
        cured(&Answer::Bytes(answer.to_vec()), &Connect::new("four"), "");
    }
}

#[test]
fn a_node_that_does_not_answer_in_time_is_left_for_the_next() {
    cured(&Answer::Stall, &Connect::new("three"), "[timeouts]\ngreet = \"500ms\"");
}

#[test]
fn a_refusal_that_comes_byte_by_byte_is_never_heard_of() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let connect = Connect::v5("slow");
    let choices = cluster.choices("slow");
    cluster.nodes[choices[0]].answer(Answer::Stall);
    let mut client = Client::to(balancer.address);
    client.send(&connect.bytes());
    let refusing = cluster.nodes[choices[0]].connection(0);
    refusing.expect(&connect.bytes());
    let refusal = packets::connack(5, 0x9C);
    let (last, first) = refusal.split_last().expect("bytes");
    for byte in first {
        refusing.send_alone(&[*byte]);
    }
    refusing.send(&[*last]);
    assert_eq!(refusing.end(), End::Reset, "nothing matters any more");
    client.expect(&packets::connack(5, 0));
    assert_eq!(cluster.holder(&connect.bytes()).0, choices[1]);
}

#[test]
fn what_no_other_node_would_cure_passes_byte_for_byte() {
    let odd = packets::connack_5(0x87, &[0x1F, 0, 2, b'n', b'o']);
    let cases = [
        (Connect::new("a"), packets::connack(4, 1)),
        (Connect::new("a"), packets::connack(4, 2)),
        (Connect::new("a"), packets::connack(4, 5)),
        (Connect::v31("a"), packets::connack(4, 4)),
        (Connect::v5("a"), packets::connack(5, 0x85)),
        (Connect::v5("a"), packets::connack(5, 0x9D)),
        (Connect::v5("a"), odd),
        // A node that speaks no MQTT 5 answers so.
        (Connect::v5("a"), vec![0x20, 2, 0, 1]),
        // A CONNACK that cannot be read.
        (Connect::v5("a"), vec![0x20, 0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3]),
    ];
    for (connect, answer) in cases {
        let cluster = Cluster::of(2);
        cluster.answer(&Answer::Bytes(answer.clone()));
        let balancer = Balancer::start(&cluster);
        let mut client = Client::to(balancer.address);
        client.send(&connect.bytes());
        client.expect(&answer);
        let (_, connection) = cluster.holder(&connect.bytes());
        connection.send(b"more");
        connection.fin();
        client.expect(b"more");
        assert_eq!(client.end(), End::Fin);
        assert_eq!(cluster.dials(), 1, "{answer:02x?}");
    }
}

#[test]
fn a_connack_that_comes_byte_by_byte_passes() {
    let cluster = Cluster::of(2);
    cluster.answer(&Answer::Stall);
    let balancer = Balancer::start(&cluster);
    let connect = Connect::v5("bytewise");
    let connack = packets::connack_5(0, &[0x13, 0, 60, 0x21, 0, 10]);
    let mut client = Client::to(balancer.address);
    client.send(&connect.bytes());
    let node = cluster.holder(&connect.bytes()).1;
    node.expect(&connect.bytes());
    for byte in &connack {
        node.send_alone(&[*byte]);
    }
    node.send(b"next");
    client.expect(&[&connack[..], b"next"].concat());
}

#[test]
fn a_connack_too_large_to_be_read_passes() {
    let cluster = Cluster::of(2);
    // A refusal that would be cured, were it read.
    let property = [&[0x1F, 0xEA, 0x60][..], &[b'r'; 60_000]].concat();
    let connack = packets::connack_5(0x88, &property);
    cluster.answer(&Answer::Bytes(connack.clone()));
    let balancer = Balancer::start(&cluster);
    let mut client = Client::to(balancer.address);
    client.send(&Connect::v5("large").bytes());
    client.expect(&connack);
    assert_eq!(cluster.dials(), 1);
}

#[test]
fn enhanced_authentication_passes_both_ways_before_the_connack() {
    let cluster = Cluster::of(2);
    cluster.answer(&Answer::Stall);
    let balancer = Balancer::start(&cluster);
    let connect = Connect::v5("proves itself").authentication(b"SCRAM").bytes();
    let auth = |data: u8| vec![0xF0, 12, 0x18, 10, 0x15, 0, 3, b'S', b'C', b'R', 0x16, 0, 1, data];
    let mut client = Client::to(balancer.address);
    client.send(&connect);
    let node = cluster.holder(&connect).1;
    let mut said = connect;
    for round in 0..3 {
        node.send(&auth(round));
        client.expect(&auth(round));
        client.send(&auth(100 + round));
        said.extend(auth(100 + round));
        node.expect(&said);
    }
    // A client that has begun to authenticate stays where it is.
    node.send(&packets::connack(5, 0x88));
    client.expect(&packets::connack(5, 0x88));
    assert_eq!(cluster.dials(), 1);
}

#[test]
fn what_comes_behind_the_connect_in_one_segment_arrives() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::start(&cluster);
    let all = [
        Connect::new("hasty").bytes(),
        packets::subscribe(),
        packets::publish(b"first words"),
    ]
    .concat();
    let mut client = Client::to(balancer.address);
    client.send(&all);
    client.expect(&packets::connack(4, 0));
    cluster.holder(&all).1.expect(&all);
}

#[test]
fn what_comes_before_the_connack_reaches_the_node_before_it() {
    let cluster = Cluster::of(2);
    cluster.answer(&Answer::Stall);
    let balancer = Balancer::start(&cluster);
    let connect = Connect::new("hasty").bytes();
    let mut client = Client::to(balancer.address);
    client.send(&connect);
    let node = cluster.holder(&connect).1;
    node.expect(&connect);
    let more = packets::publish(&[7; 20_000]);
    client.send(&more);
    node.expect(&[connect, more].concat());
    node.send(&packets::connack(4, 0));
    client.expect(&packets::connack(4, 0));
}

#[test]
fn large_fields_pass_whole() {
    let long_id = "i".repeat(65_535);
    let cases = [
        Connect::new(&long_id),
        Connect::v5(&long_id).user_property(b"n", &[b'v'; 30_000]),
        Connect::new("password").username("u").password([0xFF; 60_000]),
        Connect::new("will").will(b"t", &[0; 20_000]),
        Connect::new(&long_id)
            .will(&[b't'; 65_535], &[1; 65_535])
            .username([b'u'; 65_535])
            .password([0; 65_535]),
    ];
    for key in ["client_id", "username"] {
        let cluster = Cluster::of(3);
        let balancer = Balancer::with(&cluster, &format!("[affinity]\nkey = \"{key}\""));
        for connect in &cases {
            let mut client = Client::to(balancer.address);
            client.send(&connect.bytes());
            client.send(&packets::publish(b"behind"));
            client.expect(&packets::connack(connect.level, 0));
            let all = [connect.bytes(), packets::publish(b"behind")].concat();
            let (node, connection) = cluster.holder(&connect.bytes());
            connection.expect(&all);
            let name = connect.username.as_ref().filter(|_| key == "username");
            assert_eq!(node, cluster.home(name.unwrap_or(&connect.client_id)), "{key}");
        }
    }
}

#[test]
fn a_busy_client_asks_the_same_node_again_after_a_while_and_only_once() {
    let cluster = Cluster::of(3);
    let balancer = Balancer::start(&cluster);
    let connect = Connect::v5("locked").session_expiry(600);
    let home = &cluster.nodes[cluster.home("locked")];
    home.answer(Answer::Stall);
    let mut client = Client::to(balancer.address);
    client.send(&connect.bytes());
    let first = home.connection(0);
    first.expect(&connect.bytes());
    home.answer(Answer::Accept);
    let refused = tokio::time::Instant::now();
    first.send(&packets::connack(5, 0x89));
    client.expect(&packets::connack(5, 0));
    let waited = refused.elapsed();
    assert!(waited.as_millis() >= 200, "asked again after {waited:?}");
    assert_eq!((home.dials(), cluster.dials()), (2, 2));
    home.connection(1).expect(&connect.bytes());

    home.answer(Answer::Code(0x89));
    let mut client = Client::to(balancer.address);
    client.send(&connect.bytes());
    assert_eq!(client.end(), End::Fin, "still locked: the client comes back by itself");
    assert_eq!((home.dials(), cluster.dials()), (4, 4), "no other node was asked");
}

#[test]
fn a_client_refused_by_three_nodes_is_closed() {
    for (answer, connect) in [
        (Answer::Code(3), Connect::new("unlucky")),
        (Answer::Code(0x9C), Connect::v5("unlucky")),
    ] {
        let cluster = Cluster::of(5);
        cluster.answer(&answer);
        let balancer = Balancer::start(&cluster);
        let mut client = Client::to(balancer.address);
        client.send(&connect.bytes());
        assert_eq!(client.end(), End::Fin);
        let asked: Vec<usize> = cluster.choices("unlucky")[..3].to_vec();
        let mut holders = asked.clone();
        holders.sort_unstable();
        assert_eq!(cluster.holders(&connect.bytes()), holders);
        assert_eq!(cluster.dials(), 3);
    }
}

#[test]
fn nodes_that_close_without_a_word_are_asked_once_more_only() {
    let cluster = Cluster::of(4);
    cluster.answer(&Answer::Close);
    let balancer = Balancer::start(&cluster);
    let mut client = Client::to(balancer.address);
    let connect = Connect::new("unlucky").bytes();
    client.send(&connect);
    assert_eq!(client.end(), End::Fin);
    assert_eq!(cluster.asked(&connect), 2);
}

#[test]
fn the_last_nodes_own_connack_is_passed_where_the_file_says_so() {
    let tables = "[greet]\nrefuse = \"connack\"\n[timeouts]\ngreet = \"500ms\"";
    let reason = packets::connack_5(0x9C, &[0x1C, 0, 1, b'x']);
    let cases = [
        (Answer::Code(3), Connect::new("c"), packets::connack(4, 3)),
        (Answer::Bytes(reason.clone()), Connect::v5("c"), reason),
        // They may have found the CONNECT malformed (MQTT-3.1.4-1).
        (Answer::Close, Connect::new("c"), Vec::new()),
        (Answer::Close, Connect::v5("c"), Vec::new()),
        (Answer::Stall, Connect::v31("c"), packets::connack(4, 3)),
        (Answer::Stall, Connect::v5("c"), packets::connack(5, 0x88)),
    ];
    for (answer, connect, heard) in cases {
        let cluster = Cluster::of(3);
        cluster.answer(&answer);
        let balancer = Balancer::with(&cluster, tables);
        let mut client = Client::to(balancer.address);
        client.send(&connect.bytes());
        client.expect(&heard);
        assert_eq!(client.end(), End::Fin, "{answer:?}");
    }
}

#[test]
fn one_deadline_runs_from_accept_over_all_nodes() {
    let tables = "[timeouts]\nconnect = \"1s\"\ndial = \"1s\"\ngreet = \"400ms\"\ngreet_total = \"1200ms\"";
    let cluster = Cluster::of(3);
    cluster.answer(&Answer::Stall);
    let balancer = Balancer::with(&cluster, tables);
    let started = tokio::time::Instant::now();
    let mut client = Client::to(balancer.address);
    let connect = Connect::new("patient").bytes();
    client.send(&connect);
    assert_eq!(client.end(), End::Fin);
    let took = started.elapsed().as_millis();
    assert!((1_200..2_300).contains(&took), "closed after {took} ms");
    // Each has twice its time, as far as nothing faster is known. The second had not all of it: no third is asked.
    assert_eq!(cluster.asked(&connect), 2);
}

#[test]
fn a_node_has_more_time_while_no_other_is_known_to_be_faster() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::with(&cluster, "[timeouts]\ngreet = \"2s\"");
    let [patient, quick, moved] = [(0, "patient"), (1, "quick"), (0, "moved")]
        .map(|(home, id)| Connect::new(cluster.id_at_home(home, id)).bytes());
    cluster.nodes[0].answer(Answer::StallAt("patient"));
    let mut client = Client::to(balancer.address);
    client.send(&patient);
    let node = cluster.nodes[0].connection(0);
    // The end of its time is a reason to probe the node.
    wait::until("its time is over", || {
        cluster.nodes[0]
            .connections()
            .iter()
            .any(|connection| connection.is_probe())
    });
    node.send(&packets::connack(4, 0));
    client.expect(&packets::connack(4, 0));
    assert_eq!(cluster.asked(&patient), 1);
    // Now the other is known to be faster.
    let mut client = Client::to(balancer.address);
    client.send(&quick);
    client.expect(&packets::connack(4, 0));
    cluster.nodes[0].answer(Answer::StallAt("moved"));
    let began = tokio::time::Instant::now();
    let mut client = Client::to(balancer.address);
    client.send(&moved);
    client.expect(&packets::connack(4, 0));
    let took = began.elapsed().as_millis();
    assert!((2_000..4_000).contains(&took), "accepted elsewhere after {took} ms");
    assert_eq!(cluster.holder(&moved).0, 1);
}

#[test]
fn a_client_that_leaves_while_it_is_greeted_leaves_its_node() {
    let cluster = Cluster::of(2);
    cluster.answer(&Answer::Stall);
    let balancer = Balancer::start(&cluster);
    let connect = Connect::new("leaves").bytes();
    let mut client = Client::to(balancer.address);
    client.send(&connect);
    let node = cluster.holder(&connect).1;
    client.reset();
    node.end();
    let mut client = Client::to(balancer.address);
    client.send(&connect);
    client.fin();
    let node = cluster.nodes[cluster.home("leaves")].connection(1);
    node.expect(&connect);
    // What the node still sends reaches a client that has only ended its own side, and the node learns of that behind its answer.
    assert!(!node.has_ended());
    node.send(&packets::connack(4, 0));
    client.expect(&packets::connack(4, 0));
    assert_eq!(node.end(), End::Fin);
    node.send(b"rest");
    node.fin();
    client.expect(b"rest");
    assert_eq!(client.end(), End::Fin);
}

#[test]
fn a_zone_is_part_of_an_address() {
    let node = FakeNode::start_at("node0", "[::1]:0".parse().expect("an address"));
    let port = node.address.port();
    // "::1" needs no zone, and may have one.
    let balancer = Balancer::of(&format!(
        "[admin]\nenabled = false\n[[listeners]]\naddress = \"[::1%lo]:0\"\n\
         [[nodes]]\nname = \"node0\"\naddress = \"[::1%lo]:{port}\"\n"
    ));
    let mut client = Client::of(TcpStream::connect(balancer.address).expect("a balancer"));
    let connect = Connect::new("zone");
    client.send(&connect.bytes());
    client.expect(&packets::connack(connect.level, 0));
    assert_eq!(node.asked(&connect.bytes()), 1);
}
