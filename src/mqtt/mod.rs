//! What MQTT packets say, as far as routing and greeting need it: pure readers over bytes, no IO, no allocation from a
//! length that was only claimed. Packets are written elsewhere (mqttbytes), except the refusals.

mod connack;
mod connect;
pub(crate) mod fields;
mod refusal;

pub use connack::{Connack, ConnackVerdict, read_connack};
pub use connect::{Connect, Need, Stranger, Verdict, Version, read_connect};
pub use refusal::refusal;
