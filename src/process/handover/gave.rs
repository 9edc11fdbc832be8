//! How much of this process another one has.

/// What this process has given away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::process) enum Gave {
    /// Nothing: it accepts clients.
    #[default]
    Nothing,
    /// Its listeners, and the connections that could move; those that are being set up follow.
    Listeners,
    /// All that can move.
    All,
}
