//! Where log lines go: a bounded queue and one writer thread, text or JSON; no worker ever waits for the output.

/// What is written, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The least severe level that is written.
    pub level: Level,
    /// Text for people, JSON for machines.
    pub format: Format,
    /// Which lines a connection writes.
    pub connections: Connections,
}

/// The least severe level that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Someone must act.
    Error,
    /// An operator should look.
    Warn,
    /// Changes and connections.
    #[default]
    Info,
    /// Weather.
    Debug,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Which lines a connection writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Connections {
    /// One line, at its end.
    #[default]
    End,
    /// One when it is relayed and one at its end.
    Both,
    /// None.
    None,
}
