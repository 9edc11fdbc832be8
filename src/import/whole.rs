//! Variables that are a whole address, host and port together: none of them can be a part of another address.

use std::collections::BTreeSet;

use super::address::{Host, Port};
use super::environment;
use super::model::{Server, Service};
use super::report::Report;
use super::text::{Place, printable};

/// Reports variables that are a whole address in one place and a part of one in another.
pub(super) fn check(services: &[Service], report: &mut Report) {
    let addresses: Vec<(&str, &Port, Place)> = services.iter().flat_map(addresses).collect();
    let is_whole = |(_, port, _): &&(&str, &Port, Place)| **port == Port::InHost;
    let wholes: BTreeSet<&str> = addresses.iter().filter(is_whole).map(|(host, ..)| *host).collect();
    for (host, port, place) in addresses.iter().filter(|address| !is_whole(address)) {
        if let Some(variable) = parts(host, port).find(|variable| wholes.contains(variable)) {
            let variable = printable(variable);
            report.lost(
                *place,
                format!(
                    "{variable} is a part of this address and a whole address elsewhere: no value is right for both"
                ),
                "give the host, or the port, a variable of its own",
            );
        }
    }
}

/// Whether two servers can be the same node: not if a variable is the whole address of one and a part of the other.
pub(super) fn go_together(a: &Server, b: &Server) -> bool {
    let clash = |whole: &Server, other: &Server| {
        let is_whole = whole.port == Port::InHost && other.port != Port::InHost;
        is_whole && parts(&other.host, &other.port).any(|variable| variable == whole.host)
    };
    !clash(a, b) && !clash(b, a)
}

/// The addresses of listeners and servers that may have variables.
fn addresses(service: &Service) -> impl Iterator<Item = (&str, &Port, Place)> {
    let listeners = service.listeners.iter().map(|listener| {
        let host = match &listener.address.host {
            Host::Ip(_) => "",
            Host::Named(host) => host,
        };
        (host, &listener.address.port, listener.place)
    });
    let servers = service.servers.iter();
    listeners.chain(servers.map(|server| (&*server.host, &server.port, server.place)))
}

/// The variables in an address.
fn parts<'a>(host: &'a str, port: &'a Port) -> impl Iterator<Item = &'a str> {
    let port = match port {
        Port::Named(port) => port,
        Port::Number(_) | Port::InHost => "",
    };
    environment::variables(host).chain(environment::variables(port))
}
