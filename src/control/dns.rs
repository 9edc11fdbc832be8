//! Asks name servers which nodes are behind a name. A name of a service (`_mqtt._tcp.…`) has SRV records, whose targets are the nodes; any
//! other name has addresses, each of which is a node.
//!
//! The system's resolver knows no SRV records and tells no TTL, and complete resolvers are large: this sends one question to one
//! server after another, over UDP, and over TCP where an answer is truncated.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, Question, RCODE, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::Instant;

use super::discovery::Found;

/// How long one server may take before the next one is asked.
const SERVER_MAX: Duration = Duration::from_secs(2);

/// The most bytes of an answer over UDP: as many as there can be.
const DATAGRAM_MAX: usize = 65_535;

/// The port of name servers.
const PORT: u16 = 53;

/// The nodes behind `name`, and for how long they may be believed.
pub(super) async fn find(name: &str, servers: &[SocketAddr], due: Instant) -> Result<(Vec<Found>, Duration), String> {
    let of_system;
    let servers = match servers {
        [] => {
            of_system = system_servers().map_err(|error| format!("/etc/resolv.conf: {error}"))?;
            &of_system[..]
        }
        servers => servers,
    };
    if name.starts_with('_') {
        return ask(name, TYPE::SRV, servers, due).await;
    }
    let of_v4 = ask(name, TYPE::A, servers, due).await;
    match of_v4 {
        // Nodes with addresses of both families are not to be found twice.
        Ok((found, ttl)) if !found.is_empty() => Ok((found, ttl)),
        Ok(_) => ask(name, TYPE::AAAA, servers, due).await,
        Err(why) => Err(why),
    }
}

/// The servers that the system asks.
fn system_servers() -> io::Result<Vec<SocketAddr>> {
    let text = std::fs::read_to_string("/etc/resolv.conf")?;
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let server = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        Some(SocketAddr::new(server.parse::<IpAddr>().ok()?, PORT))
    });
    Ok(servers.collect())
}

/// The answer of the first of `servers` that has one, even if that is that there is no such name.
async fn ask(name: &str, kind: TYPE, servers: &[SocketAddr], due: Instant) -> Result<(Vec<Found>, Duration), String> {
    let id = fastrand::u16(..);
    let question = question(name, kind, id)?;
    let mut failed = "no name server is known".to_owned();
    for server in servers {
        let due = due.min(Instant::now() + SERVER_MAX);
        let asked = tokio::time::timeout_at(due, ask_server(*server, &question, id)).await;
        match asked {
            Ok(Ok(answer)) => match read(&answer, id, name, kind) {
                Ok(found) => return Ok(found),
                Err(why) => failed = format!("{server}: {why}"),
            },
            Ok(Err(error)) => failed = format!("{server}: {error}"),
            Err(_) => failed = format!("{server}: no answer in time"),
        }
    }
    Err(failed)
}

fn question(name: &str, kind: TYPE, id: u16) -> Result<Vec<u8>, String> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(|error| error.to_string())?;
    packet
        .questions
        .push(Question::new(name, kind.into(), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().map_err(|error| error.to_string())
}

async fn ask_server(server: SocketAddr, question: &[u8], id: u16) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From now on, the kernel takes datagrams of this server alone.
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM_MAX];
    let read = loop {
        let read = socket.recv(&mut answer).await?;
        // Another one is an answer to an earlier question, or forged.
        if answer[..read].starts_with(&id.to_be_bytes()) {
            break read;
        }
    };
    answer.truncate(read);
    let is_truncated = simple_dns::header_buffer::has_flags(&answer, PacketFlag::TRUNCATION).unwrap_or(false);
    if !is_truncated {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), question].concat()).await?;
    let length = stream.read_u16().await?;
    answer.resize(length.into(), 0);
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The nodes in an answer, and the shortest of their TTLs.
fn read(answer: &[u8], id: u16, name: &str, kind: TYPE) -> Result<(Vec<Found>, Duration), String> {
    let packet = Packet::parse(answer).map_err(|error| format!("an answer that cannot be read: {error}"))?;
    let asked = |question: &Question<'_>| {
        let is_name = same(&question.qname.to_string(), name);
        is_name && question.qtype == kind.into()
    };
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) || !packet.questions.first().is_some_and(asked) {
        return Err("an answer to another question".to_owned());
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Err("there is no such name".to_owned()),
        code => return Err(format!("refused with code {}", code as u8)),
    }
    let mut ttl = u32::MAX;
    let mut found = Vec::new();
    // Aliases (CNAME) come before what they lead to.
    for record in packet.answers.iter().filter(|record| record.class == CLASS::IN) {
        let host = match (&record.rdata, kind) {
            (RData::A(a), TYPE::A) => IpAddr::from(Ipv4Addr::from(a.address)).to_string(),
            (RData::AAAA(aaaa), TYPE::AAAA) => IpAddr::from(Ipv6Addr::from(aaaa.address)).to_string(),
            (RData::SRV(srv), TYPE::SRV) => srv.target.to_string().trim_end_matches('.').to_ascii_lowercase(),
            _ => continue,
        };
        // A target of "." says that there is no such service (RFC 2782).
        if host.is_empty() {
            continue;
        }
        if !super::discovery::is_host(&host) {
            return Err("a target that is no host name is in the answer".to_owned());
        }
        ttl = ttl.min(record.ttl);
        found.push(Found::at_host(host.clone(), host));
    }
    Ok((found, Duration::from_secs(ttl.into())))
}

/// Whether two names are the same: in any case, with or without the dot at the end.
fn same(one: &str, other: &str) -> bool {
    one.trim_end_matches('.')
        .eq_ignore_ascii_case(other.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, SRV};

    use super::*;

    const SERVICE: &str = "_mqtt._tcp.emqx.example";

    fn answer(id: u16, name: &str, kind: TYPE, records: Vec<(u32, RData<'_>)>) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        packet.set_flags(PacketFlag::RESPONSE);
        let name = Name::new(name).expect("a name");
        packet.questions.push(Question::new(
            name.clone(),
            kind.into(),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        for (ttl, data) in records {
            packet
                .answers
                .push(ResourceRecord::new(name.clone(), CLASS::IN, ttl, data));
        }
        packet.build_bytes_vec().expect("a packet")
    }

    fn target(name: &str) -> RData<'_> {
        RData::SRV(SRV {
            priority: 0,
            weight: 0,
            port: 1883,
            target: Name::new_unchecked(name),
        })
    }

    #[test]
    fn targets_of_a_service_are_nodes_and_the_shortest_ttl_holds() {
        let records = vec![(30, target("EMQX-0.emqx.example")), (7, target("emqx-1.emqx.example"))];
        let (found, ttl) = read(&answer(9, SERVICE, TYPE::SRV, records), 9, SERVICE, TYPE::SRV).expect("nodes");
        let names: Vec<&str> = found.iter().map(|found| &*found.name).collect();
        assert_eq!(names, ["emqx-0.emqx.example", "emqx-1.emqx.example"]);
        assert_eq!(ttl, Duration::from_secs(7));
    }

    #[test]
    fn an_answer_to_another_question_is_refused() {
        let a = || vec![(30, RData::A(A { address: 0x7F00_0001 }))];
        let read = |bytes: &[u8]| read(bytes, 9, "emqx.example", TYPE::A);
        assert!(read(&answer(9, "emqx.example", TYPE::A, a())).is_ok());
        assert!(read(&answer(9, "EMQX.example", TYPE::A, a())).is_ok(), "in any case");
        for bytes in [
            answer(8, "emqx.example", TYPE::A, a()),
            answer(9, "other.example", TYPE::A, a()),
            answer(9, "emqx.example", TYPE::AAAA, a()),
            question("emqx.example", TYPE::A, 9).expect("a question"),
        ] {
            assert!(read(&bytes).is_err());
        }
    }

    #[test]
    fn every_prefix_and_every_changed_byte_of_an_answer_is_read_or_refused() {
        let records = vec![(30, target("emqx-0.emqx.example")), (7, target("emqx-1.emqx.example"))];
        let whole = answer(9, SERVICE, TYPE::SRV, records);
        for end in 0..whole.len() {
            assert!(read(&whole[..end], 9, SERVICE, TYPE::SRV).is_err(), "{end}");
        }
        for at in 0..whole.len() {
            for byte in [0, 1, 0x3F, 0x40, 0xC0, 0xFF] {
                let mut changed = whole.clone();
                changed[at] = byte;
                // It does not panic.
                let _ = read(&changed, 9, SERVICE, TYPE::SRV);
            }
        }
    }
}
