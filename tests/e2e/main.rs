//! The balancer between raw clients and fake nodes, byte for byte.
//!
//! Four nouns: [`node::FakeNode`] (with WebSocket, [`ws_node::WsNode`]), [`cluster::Cluster`], [`balancer::Balancer`] (and, where its log or its memory is
//! looked at, [`balancer::Program`]), [`client::Client`] (with WebSocket,
//! [`ws_client::WsClient`]; with TLS, [`tls_client::TlsClient`]).

mod admin_client;
mod balancer;
mod certificates;
mod client;
mod cluster;
mod header;
mod kernel;
mod node;
mod packets;
mod pair;
mod process;
mod routing_nodes;
mod terminal;
mod tls_client;
mod tls_front;
mod wait;
mod ws_client;
mod ws_frames;
mod ws_node;

mod admin;
mod affinity;
mod away;
mod clients;
mod control;
mod doctor;
mod doctor_clients;
mod drain;
mod emqx;
mod events;
mod first_configuration;
mod found_by_dns;
mod found_by_file;
mod greeting;
mod handle;
mod includes;
mod introductions;
mod limits;
mod log_file;
mod logs;
mod metrics;
mod node_limits;
mod pacing;
mod placements;
mod probing;
mod relaying;
mod reload;
mod room;
mod service;
mod signals;
mod slow;
mod status_page;
mod strangers;
mod tls;
mod tls_nodes;
mod tls_pass;
mod tls_relay;
mod tls_reload;
mod top;
mod upgrade;
mod upgrade_admin;
mod upgrade_failures;
mod upgrade_field;
mod upgrade_orders;
mod upgrade_sockets;
mod vanished;
mod websocket;
mod why;
mod ws_closing;
mod ws_requests;
mod ws_sections;
mod ws_set_up;
mod ws_streaming;

/// Takes as many descriptors as the system allows: a test may hold two thousand.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the hard limit");
}
