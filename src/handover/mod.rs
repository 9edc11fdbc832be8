//! The conversation between a process and the next one, which takes over its listeners and its connections.

pub mod messages;
pub mod settings;

pub use settings::Settings;
