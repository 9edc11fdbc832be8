//! TLS where it ends here and where it begins here: certificates, handshakes, and what they say of a client. What is relayed
//! is `socket`'s.

mod door;
mod hello;
mod material;
mod newcomer;
pub mod throwaway;
mod to_node;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use door::{Clients, Door, Offer, Refused, Turnstile, Version};
pub use hello::{Hello, HelloReader};
pub use material::{Certificate, Revocations, Trust, read as read_file};
pub use to_node::{Nodes, NodesOffer, ToNode};

#[cfg(feature = "aws-lc-rs")]
use rustls::crypto::aws_lc_rs as library;
#[cfg(all(feature = "ring", not(feature = "aws-lc-rs")))]
use rustls::crypto::ring as library;
#[cfg(not(any(feature = "ring", feature = "aws-lc-rs")))]
compile_error!(
    "TLS needs a library for its cryptography: enable the feature `ring` or `aws-lc-rs`"
);

fn provider() -> Arc<CryptoProvider> {
    Arc::new(library::default_provider())
}
