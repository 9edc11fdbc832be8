//! Why a relay cannot go on in another process.

/// Why a relay stays with the process that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stays {
    /// One of its sockets has TLS, whose state is in memory that is not its own.
    Tls,
    /// It is ending: its sides may be gone before it would have moved.
    Ending,
    /// Its node or its listener came after the list of them was sent.
    Unnamed,
    /// No descriptor was left to send its sockets with.
    Descriptors,
}

impl Stays {
    /// Every reason.
    pub const ALL: &'static [Self] = &[Self::Tls, Self::Ending, Self::Unnamed, Self::Descriptors];

    /// The name in log lines and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Ending => "ending",
            Self::Unnamed => "unnamed",
            Self::Descriptors => "descriptors",
        }
    }
}
