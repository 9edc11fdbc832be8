//! What the peers have answered lately.

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::answers::Overview;

/// The last answers of the peers. One request asks them, and all others wait for it.
#[derive(Debug, Default)]
pub(super) struct Asked(pub(super) Mutex<Option<(Instant, Vec<Answer>)>>);

/// A peer, and its overview, or why there is none.
pub(super) type Answer = (String, Result<Overview, String>);
