//! Nodes that are found by DNS, from a name server of the test's own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;

use simple_dns::rdata::{A, RData, SRV};
use simple_dns::{CLASS, Name, Packet, PacketFlag, RCODE, ResourceRecord, TYPE};

use crate::admin_client::Metrics;
use crate::balancer::{ADMIN, Balancer};
use crate::client::Client;
use crate::node::{FakeNode, own_address};
use crate::packets::Connect;
use crate::wait::{self, Watched};

pub(crate) const SERVICE: &str = "_mqtt._tcp.emqx.example";

/// What the name server answers.
#[derive(Clone, Debug)]
pub(crate) enum Zone {
    /// SRV records with these targets, or A records.
    Hosts(Vec<Ipv4Addr>),
    /// The same, over TCP alone.
    HostsByTcp(Vec<Ipv4Addr>),
    Code(RCODE),
    Junk,
    Nothing,
}

pub(crate) struct NameServer {
    address: SocketAddr,
    zone: Arc<Watched<Zone>>,
}

impl NameServer {
    pub(crate) fn start(hosts: Vec<Ipv4Addr>) -> Self {
        let udp = UdpSocket::bind((own_address(), 0)).expect("a free port");
        let address = udp.local_addr().expect("an address");
        let tcp = TcpListener::bind(address).expect("the same port");
        let zone = Arc::new(Watched::new(Zone::Hosts(hosts)));
        let of_udp = Arc::clone(&zone);
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((read, client)) = udp.recv_from(&mut question) {
                let zone = of_udp.lock().clone();
                if let Some(answer) = answer(&question[..read], &zone, false) {
                    // The balancer may be gone.
                    let _ = udp.send_to(&answer, client);
                }
            }
        });
        let of_tcp = Arc::clone(&zone);
        std::thread::spawn(move || {
            for mut stream in tcp.incoming().map_while(Result::ok) {
                let mut length = [0; 2];
                if stream.read_exact(&mut length).is_err() {
                    continue;
                }
                let mut question = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut question).expect("a question");
                let zone = of_tcp.lock().clone();
                let answer = answer(&question, &zone, true).expect("an answer");
                let length = u16::try_from(answer.len()).expect("short").to_be_bytes();
                // The balancer may be gone.
                let _ = stream.write_all(&[&length[..], &answer].concat());
            }
        });
        Self { address, zone }
    }

    pub(crate) fn set(&self, zone: Zone) {
        self.zone.change(|now| *now = zone);
    }
}

fn answer(question: &[u8], zone: &Zone, is_tcp: bool) -> Option<Vec<u8>> {
    let asked = Packet::parse(question).expect("a question");
    let mut reply = Packet::new_reply(asked.id());
    reply.set_flags(PacketFlag::RESPONSE);
    let of_question = asked.questions[0].clone();
    let (name, kind) = (of_question.qname.clone(), of_question.qtype);
    reply.questions.push(of_question);
    let hosts = match zone {
        Zone::Hosts(hosts) => hosts.as_slice(),
        Zone::HostsByTcp(hosts) if is_tcp => hosts,
        Zone::HostsByTcp(_) => {
            reply.set_flags(PacketFlag::TRUNCATION);
            &[]
        }
        Zone::Code(code) => {
            *reply.rcode_mut() = *code;
            &[]
        }
        Zone::Junk => return Some(question[..7].to_vec()),
        Zone::Nothing => return None,
    };
    let targets: Vec<String> = hosts.iter().map(Ipv4Addr::to_string).collect();
    for (host, target) in hosts.iter().zip(&targets) {
        let data = if kind == TYPE::A.into() {
            RData::A(A {
                address: u32::from(*host),
            })
        } else if kind == TYPE::SRV.into() {
            RData::SRV(SRV {
                priority: 0,
                weight: 0,
                port: 9,
                target: Name::new(target).expect("a name"),
            })
        } else {
            continue;
        };
        // So that it is asked often.
        reply
            .answers
            .push(ResourceRecord::new(name.clone(), CLASS::IN, 0, data));
    }
    Some(reply.build_bytes_vec().expect("a packet"))
}

/// Nodes on one port, each with an address of its own, and their addresses.
pub(crate) fn nodes(count: usize) -> (Vec<FakeNode>, Vec<Ipv4Addr>) {
    let mut port = 0;
    let nodes = (0..count).map(|_| {
        let node = FakeNode::start_at("", (own_address(), port).into());
        port = node.address.port();
        node
    });
    let nodes: Vec<FakeNode> = nodes.collect();
    let hosts = nodes.iter().map(|node| match node.address.ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => panic!("{ip}"),
    });
    let hosts = hosts.collect();
    (nodes, hosts)
}

fn balancer(nodes: &[FakeNode], server: &NameServer, name: &str, tables: &str) -> Balancer {
    Balancer::of(&toml(nodes, server, name, tables))
}

pub(crate) fn toml(nodes: &[FakeNode], server: &NameServer, name: &str, tables: &str) -> String {
    format!(
        "workers = 1\n[[listeners]]\naddress = \"127.0.0.1:0\"\n\
         [[nodes]]\naddress = \"{{host}}:{}\"\n{ADMIN}\
         [discovery]\nsource = \"dns\"\ninterval = \"20ms\"\nname = \"{name}\"\nname_servers = [\"{}\"]\n{tables}",
        nodes[0].address.port(),
        server.address
    )
}

#[track_caller]
fn until_found(balancer: &Balancer, hosts: &[Ipv4Addr]) {
    let mut expected: Vec<String> = hosts.iter().map(Ipv4Addr::to_string).collect();
    expected.sort();
    wait::until("the nodes are found", || {
        let nodes = balancer.running.nodes();
        nodes
            .iter()
            .map(|node| &*node.name)
            .eq(expected.iter().map(String::as_str))
    });
}

#[test]
fn the_targets_of_a_service_and_the_addresses_of_a_name_are_nodes_that_serve() {
    for name in [SERVICE, "emqx.example"] {
        let (nodes, hosts) = nodes(3);
        let server = NameServer::start(hosts[..2].to_vec());
        let balancer = balancer(&nodes, &server, name, "");
        until_found(&balancer, &hosts[..2]);
        for number in 0..10 {
            let connect = Connect::new(format!("id-{number}"));
            let _client = Client::accepted(balancer.address, &connect);
            let asked: usize = nodes[..2].iter().map(|node| node.asked(&connect.bytes())).sum();
            assert_eq!(asked, 1, "{number}");
        }
        // One more, in an answer that does not fit into a datagram.
        server.set(Zone::HostsByTcp(hosts.clone()));
        until_found(&balancer, &hosts);
    }
}

#[test]
fn a_name_server_that_fails_changes_nothing() {
    let (nodes, hosts) = nodes(2);
    let server = NameServer::start(hosts.clone());
    let balancer = balancer(&nodes, &server, SERVICE, "");
    until_found(&balancer, &hosts);
    let admin = balancer.running.admin().expect("an admin listener");
    let failed = || Metrics::of(admin).value("remora_discovery_answers_total{result=\"failed\"}");
    for zone in [
        Zone::Code(RCODE::NameError),
        Zone::Code(RCODE::ServerFailure),
        Zone::Hosts(Vec::new()),
        Zone::Junk,
        Zone::Nothing,
    ] {
        let before = failed();
        server.set(zone.clone());
        wait::until("it fails", || failed() > before);
        until_found(&balancer, &hosts);
        let _client = Client::accepted(balancer.address, &Connect::new("goes on"));
    }
}
