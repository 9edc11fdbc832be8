//! TLS towards clients and towards nodes: certificates, handshakes, and what they tell about a client. Records that are
//! relayed are `socket`'s.

mod acceptor;
mod chain;
mod client_hello;
mod distrust;
mod flight;
mod form;
mod handshake_io;
mod hello;
mod hidden_name;
mod material;
mod queue;
mod refused;
mod revoked;
pub mod throwaway;
mod ticket_nonce;
mod to_node;
mod trusted;
mod verifiers;
mod words;

use std::sync::Arc;

pub use rustls::HandshakeKind;
use rustls::crypto::CryptoProvider;
pub use rustls::pki_types::ServerName;

pub use acceptor::{Acceptor, Clients, HandshakeError, HandshakeFailure, Offer, Secured, Version};
pub use hello::{Hello, HelloReader, NotTls};
pub(crate) use material::read as read_file;
pub use material::{Certificate, Revocations, Trust};
pub use queue::HandshakeQueue;
pub(crate) use to_node::try_handshake;
pub use to_node::{Nodes, NodesOffer, NodesTls};
pub use words::{CertificateFault, TimeLimit, certificate_fault};

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as library;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use rustls::crypto::ring as library;
#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!("TLS needs a library for its cryptography: enable the feature `ring` or `aws-lc-rs`");

fn provider() -> Arc<CryptoProvider> {
    Arc::new(library::default_provider())
}
