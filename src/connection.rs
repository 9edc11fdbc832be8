//! One connection, said in order: accepted, opened, peeked, routed, dialed, greeted, relayed, ended.
