//! Each client comes back to its node, however its CONNECT is made and cut, and every byte with it.

use std::collections::BTreeMap;

use crate::balancer::Balancer;
use crate::client::Client;
use crate::cluster::Cluster;
use crate::node::Answer;
use crate::packets::{self, Connect};

/// How a CONNECT is cut into segments.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    /// In two, at a place that moves from client to client.
    Twice,
    /// Behind its second byte, where a remaining length of two bytes is not known yet.
    BehindByte2,
    EachByte,
}

impl Cut {
    fn places(self, number: usize, length: usize) -> Vec<usize> {
        match self {
            Self::Whole => vec![],
            Self::Twice => vec![1 + number % (length - 1)],
            Self::BehindByte2 => vec![2],
            Self::EachByte => (1..length).collect(),
        }
    }
}

const IDS: usize = 150;

/// Takes 150 clients through the balancer, twice: each comes to its home both times, with every byte once and in order.
fn come_back(name: &str, cut: Cut, connect: impl Fn(usize) -> Vec<u8>) {
    let cluster = Cluster::of(3);
    let balancer = Balancer::start(&cluster);
    let mut clients = BTreeMap::<usize, usize>::new();
    for number in 0..IDS {
        let bytes = connect(number);
        let level = packets::level(&bytes);
        let cuts = cut.places(number, bytes.len());
        for _ in 0..2 {
            let mut client = Client::to(balancer.address);
            client.send_cut(&bytes, &cuts);
            client.expect(&packets::connack(level, 0));
        }
        let holders = cluster.holders(&bytes);
        assert_eq!(holders.len(), 2, "{name}: {number} at {holders:?}");
        assert_eq!(holders[0], holders[1], "{name}: {number} went elsewhere");
        *clients.entry(holders[0]).or_default() += 1;
    }
    assert_eq!(cluster.dials(), 2 * IDS, "{name}: no dial for nothing");
    let fewest = clients.values().min().copied().unwrap_or(0);
    assert!(clients.len() == 3 && fewest >= IDS / 6, "{name}: {clients:?}");
}

fn id(number: usize) -> String {
    format!("client-{number}")
}

#[test]
fn clients_come_back_in_one_segment() {
    come_back("whole", Cut::Whole, |n| Connect::new(id(n)).bytes());
}

#[test]
fn clients_come_back_in_two_segments() {
    come_back("twice", Cut::Twice, |n| Connect::new(id(n)).bytes());
}

#[test]
fn clients_come_back_byte_by_byte() {
    come_back("each byte", Cut::EachByte, |n| Connect::new(id(n)).bytes());
}

#[test]
fn clients_come_back_with_their_remaining_length_cut() {
    for remaining in [128, 256, 384] {
        come_back(&remaining.to_string(), Cut::BehindByte2, |n| {
            Connect::new(id(n)).with_remaining_length(remaining)
        });
    }
}

#[test]
fn clients_come_back_with_a_will_of_20_kb() {
    come_back("will", Cut::Whole, |n| {
        Connect::new(id(n)).will(b"gone", &[b'w'; 20_000]).bytes()
    });
}

#[test]
fn clients_whose_ids_begin_alike_are_spread_and_come_back() {
    let prefix = "p".repeat(90);
    come_back("prefix", Cut::Whole, |n| Connect::new(format!("{prefix}{n}")).bytes());
}

#[test]
fn clients_of_mqtt_3_1_come_back() {
    come_back("3.1", Cut::Twice, |n| Connect::v31(id(n)).bytes());
}

#[test]
fn bridges_come_back() {
    come_back("bridge", Cut::Twice, |n| Connect::new(id(n)).bridge().bytes());
    come_back("bridge of 3.1", Cut::Whole, |n| Connect::v31(id(n)).bridge().bytes());
}

#[test]
fn clients_of_mqtt_5_with_2_kb_of_properties_come_back() {
    come_back("properties", Cut::Twice, |n| {
        let connect = Connect::v5(id(n)).session_expiry(0);
        let connect = connect.user_property(b"a", &[b'1'; 1_000]);
        connect.user_property(b"b", &[b'2'; 1_000]).bytes()
    });
}

#[test]
fn the_version_does_not_move_a_client() {
    let cluster = Cluster::of(3);
    let balancer = Balancer::start(&cluster);
    for number in 0..20 {
        let id = id(number);
        let home = cluster.home(&id);
        for connect in [Connect::new(&id), Connect::v31(&id), Connect::v5(&id)] {
            Client::accepted(balancer.address, &connect);
            assert_eq!(cluster.holders(&connect.bytes()), [home]);
        }
    }
}

#[test]
fn clients_without_an_id_are_spread_by_weight() {
    let cluster = Cluster::weighted(&[100, 300]);
    let balancer = Balancer::start(&cluster);
    let clients: Vec<Client> = (0..200)
        .map(|_| Client::accepted(balancer.address, &Connect::new("")))
        .collect();
    let at: Vec<usize> = cluster.nodes.iter().map(|node| node.dials()).collect();
    assert_eq!(at.iter().sum::<usize>(), clients.len());
    // The less loaded of two drawn by weight: far closer to 50 and 150 than chance would be.
    assert!((35..=65).contains(&at[0]), "{at:?}");
}

#[test]
fn a_client_that_was_given_an_id_comes_home_with_it() {
    let cluster = Cluster::of(3);
    let balancer = Balancer::start(&cluster);
    let mut away = 0;
    for number in 0..30 {
        let assigned = format!("assigned-{number}");
        let properties = packets::assigned_client_id(assigned.as_bytes());
        let connack = packets::connack_5(0, &properties);
        cluster.answer(&Answer::Bytes(connack.clone()));
        let anonymous = Connect::v5("").session_expiry(600);
        let anonymous = anonymous.user_property(b"n", assigned.as_bytes()).bytes();
        let mut client = Client::to(balancer.address);
        client.send(&anonymous);
        client.expect(&connack);
        let (first, connection) = cluster.holder(&anonymous);
        client.fin();
        connection.end();
        drop(client);

        cluster.answer(&Answer::Accept);
        let named = Connect::v5(&assigned);
        Client::accepted(balancer.address, &named);
        assert_eq!(cluster.holders(&named.bytes()), [first], "{assigned}");
        away += usize::from(cluster.home(&assigned) != first);
    }
    assert!(away > 5, "only {away} were not at home by chance");
}

#[test]
fn clients_are_tied_by_user_name_where_the_file_says_so() {
    let cluster = Cluster::of(3);
    let balancer = Balancer::with(&cluster, "[affinity]\nkey = \"username\"");
    for number in 0..40 {
        let user = format!("user-{number}");
        // In two parts: the client id alone must not decide.
        let connect = Connect::new(format!("id-{number}")).will(b"t", b"w").username(&user);
        let bytes = connect.clone().password("p").bytes();
        let mut client = Client::to(balancer.address);
        client.send_cut(&bytes, &[bytes.len() - 5]);
        client.expect(&packets::connack(4, 0));
        assert_eq!(cluster.holders(&bytes), [cluster.home(&user)], "{user}");

        let nameless = Connect::new(format!("nameless-{number}"));
        Client::accepted(balancer.address, &nameless);
        let home = cluster.home(&nameless.client_id);
        assert_eq!(cluster.holders(&nameless.bytes()), [home], "the client id will do");
    }
}

#[test]
fn clients_are_tied_by_address_where_the_file_says_so() {
    let cluster = Cluster::of(3);
    let balancer = Balancer::with(&cluster, "[affinity]\nkey = \"client_address\"");
    for number in 1..40u8 {
        let address = [127, 9, 0, number];
        for id in ["", "one", "two"] {
            let id = format!(
                "{id}{}",
                if id.is_empty() {
                    String::new()
                } else {
                    number.to_string()
                }
            );
            let connect = Connect::new(&id).keep_alive(number.into());
            let mut client = Client::from(address.into(), balancer.address);
            client.send(&connect.bytes());
            client.expect(&packets::connack(4, 0));
            assert_eq!(cluster.holders(&connect.bytes()), [cluster.home(address)]);
        }
    }
}

#[test]
fn an_unknown_level_is_the_nodes_affair() {
    let cluster = Cluster::of(2);
    cluster.answer(&Answer::Bytes(packets::connack(4, 1)));
    let balancer = Balancer::start(&cluster);
    let mut connect = Connect::new("from-the-future");
    connect.level = 9;
    let mut client = Client::to(balancer.address);
    client.send(&connect.bytes());
    client.expect(&packets::connack(4, 1));
    assert_eq!(cluster.holders(&connect.bytes()).len(), 1);
}

#[test]
fn clients_of_a_group_share_a_node_and_the_placement_of_its_members() {
    let cluster = Cluster::of(3);
    let balancer = Balancer::with(&cluster, "[affinity]\ngroup = '^([^/]+)/'");
    for tenant in (0..12).map(|number| format!("tenant{number}")) {
        for member in ["dev3", "app", "größe"] {
            let connect = Connect::new(format!("{tenant}/{member}"));
            let _client = Client::accepted(balancer.address, &connect);
            assert_eq!(
                cluster.holders(&connect.bytes()),
                [cluster.home(&tenant)],
                "{member} of {tenant}"
            );
        }
        let alone = Connect::new(&tenant);
        let _client = Client::accepted(balancer.address, &alone);
        assert_eq!(cluster.holders(&alone.bytes()), [cluster.home(&tenant)]);
    }
    // Where one of them is placed, the others follow.
    let [home, next, _] = cluster.choices("moved")[..] else {
        panic!("three nodes");
    };
    cluster.nodes[home].answer(Answer::Code(3));
    let first = Connect::new("moved/first").persistent();
    let _first = Client::accepted(balancer.address, &first);
    cluster.nodes[home].answer(Answer::Accept);
    let second = Connect::new("moved/second");
    let _second = Client::accepted(balancer.address, &second);
    assert_eq!(cluster.holders(&second.bytes()), [next]);
}

#[test]
fn clean_sessions_go_by_load_and_kept_ones_go_home_where_that_is_configured() {
    let cluster = Cluster::of(2);
    let balancer = Balancer::with(&cluster, "[affinity]\nclean_sessions = \"least\"");
    let ids = cluster.ids_at_home(0, "client", 20);
    let kept: Vec<_> = ids[..10].iter().map(|id| Connect::new(id).persistent()).collect();
    let _kept: Vec<_> = kept
        .iter()
        .map(|connect| Client::accepted(balancer.address, connect))
        .collect();
    for connect in &kept {
        assert_eq!(cluster.holders(&connect.bytes()), [0]);
    }
    // Ten are on the one node, so ten others go to the other one.
    let mut others = Vec::new();
    for id in &ids[10..] {
        let connect = Connect::new(id);
        others.push(Client::accepted(balancer.address, &connect));
        assert_eq!(cluster.holders(&connect.bytes()), [1], "{id}");
    }
}

#[test]
fn clients_without_an_id_go_by_their_address_where_that_is_configured() {
    let cluster = Cluster::of(3);
    let balancer = Balancer::with(&cluster, "[affinity]\nanonymous = \"ring\"");
    for number in 1..20 {
        let address = [127, 0, 9, number];
        for keep_alive in [u16::from(number), 100 + u16::from(number)] {
            let connect = Connect::new("").keep_alive(keep_alive);
            let mut client = Client::from(address.into(), balancer.address);
            client.send(&connect.bytes());
            client.expect(&packets::connack(4, 0));
            assert_eq!(cluster.holders(&connect.bytes()), [cluster.home(address)]);
        }
    }
}
