//! What addresses, networks and names are taken, and what is said of the others.

use std::net::SocketAddrV6;

use toml::Value;

use super::super::node_address::{NodePass, NodeWs};
use super::*;
use crate::cluster;

fn read<T: Leaf>(written: &str) -> Result<T::Output, String> {
    let quoted = Value::from(written).to_string();
    let value = DeValue::parse(&quoted).expect("TOML");
    T::parse(value.get_ref()).map_err(|m| format!("{}; {}", m.message, m.hint))
}

fn refused<T: Leaf>(written: &str, part: &str) {
    match read::<T>(written) {
        Ok(_) => panic!("{written:?} was taken"),
        Err(said) => assert!(said.contains(part), "{written:?}: {said}"),
    }
}

#[test]
fn listeners_take_ip_addresses() {
    for written in ["0.0.0.0:1883", "[::]:1883", "127.0.0.1:0", "[fe80::1%2]:1883"] {
        let address = written.parse::<SocketAddr>().expect("an address");
        assert_eq!(read::<ListenerAddress>(written), Ok(address));
    }
    let refused = refused::<ListenerAddress>;
    refused("0.0.0.0", "has no port; write \"0.0.0.0:1883\"");
    refused("::1", "has no port; write \"[::1]:1883\"");
    refused("[::1]", "has no port; write \"[::1]:1883\"");
    refused("1883", "has no IP address; write \"0.0.0.0:1883\"");
    refused(":1883", "has no IP address; write \"0.0.0.0:1883\"");
    refused("*:1883", "has no IP address");
    refused("localhost:1883", "is not an IP address");
    refused("0.0.0.0:66000", "has \"66000\" for a port");
    refused("0.0.0.0:+1", "has \"+1\" for a port");
    refused("tcp://0.0.0.0:1883", "is a URL, not an address; write \"0.0.0.0:1883\"");
    refused("", "has no port");
}

#[test]
fn nodes_take_ip_addresses_and_host_names() {
    let socket = |text: &str| Ok(cluster::NodeAddress::Socket(text.parse().expect("an address")));
    assert_eq!(read::<NodePass>("10.0.0.1:1883"), socket("10.0.0.1:1883"));
    assert_eq!(read::<NodePass>("[2001:db8::1]:1883"), socket("[2001:db8::1]:1883"));
    for host in ["emqx1", "emqx-1.example.com", "emqx_1", "example.com.", "1a.b2"] {
        let expected = Ok(cluster::NodeAddress::Host(host.to_owned(), 1883));
        assert_eq!(read::<NodePass>(&format!("{host}:1883")), expected);
    }
    let refused = refused::<NodePass>;
    refused("10.0.0.4", "has no port; write \"10.0.0.4:8883\"");
    refused("emqx1", "has no port");
    refused("10.0.0.256:1883", "is neither an IP address nor a host name");
    refused("emqx 1:1883", "is neither");
    refused("-a:1883", "is neither");
    refused("a..b:1883", "is neither");
    refused(&format!("{}:1883", "a".repeat(64)), "is neither");
    refused(":1883", "has no host");
    refused("emqx1:", "has \"\" for a port");
    refused("emqx1:mqtt", "has \"mqtt\" for a port");
    refused("emqx1:0", "has port 0");
    refused("10.0.0.1:0", "has port 0");
    refused("0.0.0.0:1883", "is an address to listen on");
    refused("mqtt://emqx1:1883", "is a URL, not an address; write \"emqx1:1883\"");
}

#[test]
fn a_bare_ip_is_a_network_of_one() {
    let network = |text: &str| Ok(text.parse::<IpNet>().expect("a network"));
    assert_eq!(read::<Network>("10.0.0.7"), network("10.0.0.7/32"));
    assert_eq!(read::<Network>("::1"), network("::1/128"));
    assert_eq!(read::<Network>("10.1.2.3/8"), network("10.0.0.0/8"));
    for written in ["10.0.0.0/33", "10.0.0/8", "everyone", "10.0.0.7:80", ""] {
        refused::<Network>(written, "is not a network");
    }
}

#[test]
fn an_ipv4_address_in_ipv6_is_that_address_wherever_it_is_written() {
    for (written, means) in [
        ("::ffff:10.0.0.7", "10.0.0.7/32"),
        ("::ffff:a00:7/128", "10.0.0.7/32"),
        ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
    ] {
        assert_eq!(
            read::<Network>(written),
            Ok(means.parse().expect("a network")),
            "{written}"
        );
    }
    refused::<Network>("::ffff:10.0.0.0/95", "is larger than all of IPv4");
    assert_eq!(read::<SourceAddress>("::ffff:10.0.0.2"), Ok([10, 0, 0, 2].into()));
    refused::<SourceAddress>("::ffff:0.0.0.0", "is not a specific address");
    let written = "[::ffff:10.0.0.1]:1883";
    assert_eq!(read::<ListenerAddress>(written), Ok(([10, 0, 0, 1], 1883).into()));
    let node = cluster::NodeAddress::Socket(([10, 0, 0, 1], 1883).into());
    assert_eq!(read::<NodePass>(written), Ok(node));
}

#[test]
fn a_link_local_address_has_the_interface_that_it_is_on() {
    let index = interface_index("lo").expect("a loopback interface");
    let address = SocketAddrV6::new("fe80::1".parse().expect("an address"), 1883, 0, index).into();
    let written = "[fe80::1%lo]:1883";
    assert_eq!(read::<ListenerAddress>(written), Ok(address));
    assert_eq!(read::<NodePass>(written), Ok(cluster::NodeAddress::Socket(address)));
    assert_eq!(read::<ListenerAddress>(&format!("[fe80::1%{index}]:1883")), Ok(address));
    refused::<ListenerAddress>(
        "[fe80::1]:1883",
        "lacks its interface; write it like \"[fe80::1%eth0]:1883\"",
    );
    refused::<NodePass>("[fe80::1]:1883", "lacks its interface");
    refused::<ListenerAddress>("[fe80::1%nowhere]:1883", "has \"nowhere\" for an interface");
    refused::<ListenerAddress>("[fe80::1%]:1883", "is not an IP address");
    refused::<ListenerAddress>("[fe80::1%lo]:+1", "has \"+1\" for a port");
    let ws = read::<NodeWs>("ws://[fe80::1%lo]:1883/mqtt").map(|ws| ws.address);
    assert_eq!(ws, Ok(cluster::NodeAddress::Socket(address)));
}

#[test]
fn sources_are_addresses_of_their_own() {
    assert!(read::<SourceAddress>("10.0.0.2").is_ok());
    refused::<SourceAddress>("0.0.0.0", "is not a specific address");
    refused::<SourceAddress>("10.0.0.2:0", "has a port");
    refused::<SourceAddress>("eth0", "is not an IP address");
}

#[test]
fn names_are_short_and_printable() {
    for written in ["emqx1", "emqx@10.0.0.1", "знак", "a b", &"x".repeat(255)] {
        assert_eq!(read::<Name>(written), Ok(written.to_owned()));
    }
    refused::<Name>("", "cannot be empty");
    refused::<Name>(&"x".repeat(256), "is 256 bytes long");
    refused::<Name>("a\u{7}b", "has a control character");
    refused::<Name>("emqx1 ", "begins or ends with a space; write \"emqx1\"");
}
