//! `remora run --state FILE`: keeps the operator's wishes for nodes over a restart.

use std::fs::{self, File};
use std::future;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use remora::serve::{Handle, NodeWish};
use serde::{Deserialize, Serialize};

/// What is in the file.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    /// The nodes for which an operator wishes something else than the configuration says.
    wishes: Vec<NodeWish>,
}

/// Carries out the wishes in the file. One that cannot be read is a warning, and so is a wish that cannot be carried out. If nodes are
/// looked for (`may_come`), one that is not there may be found later: returns the wishes for such nodes.
pub(super) async fn restore(path: &Path, running: &Handle, may_come: bool) -> Vec<NodeWish> {
    let state = match read(path) {
        Ok(state) => state,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "the state file is ignored");
            return Vec::new();
        }
    };
    let mut waiting = Vec::new();
    for wish in state.wishes {
        if may_come && running.node_id(&wish.node).is_none() {
            tracing::info!(node = wish.node, "wishes for the node wait until it is found");
            waiting.push(wish);
        } else {
            carry_out(&wish, running).await;
        }
    }
    waiting
}

/// The wishes in the file for nodes that may be found later: what a process that takes over does not learn from the one before.
pub(super) fn waiting(path: &Path, running: &Handle, may_come: bool) -> Vec<NodeWish> {
    let wishes = read(path).map(|state| state.wishes).unwrap_or_default();
    let may_be_found = |wish: &NodeWish| may_come && running.node_id(&wish.node).is_none();
    wishes.into_iter().filter(may_be_found).collect()
}

async fn carry_out(wish: &NodeWish, running: &Handle) {
    match running.restore(wish).await {
        Ok(()) => tracing::info!(node = wish.node, "wishes for the node restored"),
        Err(error) => tracing::warn!(node = wish.node, %error, "wishes for the node cannot be restored"),
    }
}

/// Writes the wishes into the file whenever they change, for ever. Those that are `waiting` are carried out once their nodes are found.
pub(super) async fn keep(path: &Path, running: &Handle, mut waiting: Vec<NodeWish>) -> std::convert::Infallible {
    let mut written = None;
    let mut seen = 0;
    loop {
        let is_there = |wish: &mut NodeWish| running.node_id(&wish.node).is_some();
        let found: Vec<NodeWish> = waiting.extract_if(.., is_there).collect();
        for wish in &found {
            carry_out(wish, running).await;
        }
        if running.has_handed_over() {
            // The file is the next process's.
            return future::pending().await;
        }
        let mut wishes = running.wishes();
        wishes.extend_from_slice(&waiting);
        let state = State { wishes };
        if written.as_ref() != Some(&state) {
            if let Err(error) = write(path, &state) {
                tracing::warn!(file = %path.display(), %error, "the state file cannot be written");
            }
            // Not tried again before the next change.
            written = Some(state);
        }
        seen = running.next_change(seen).await;
    }
}

fn read(path: &Path) -> io::Result<State> {
    /// Enough for every node that there may be.
    const BYTES_MAX: u64 = 1 << 20;
    let mut text = String::new();
    File::open(path)?.take(BYTES_MAX).read_to_string(&mut text)?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

/// Replaces the file as a whole, so that a reader finds the old one or the new one.
fn write(path: &Path, state: &State) -> io::Result<()> {
    let text = serde_json::to_string_pretty(state).map_err(io::Error::other)?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_broken_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.json");
        assert_eq!(read(&path).expect_err("none").kind(), io::ErrorKind::NotFound);
        let state = State {
            wishes: vec![NodeWish {
                node: "emqx1".to_owned(),
                weight: Some(7),
                is_draining: true,
            }],
        };
        write(&path, &state).expect("written");
        assert_eq!(read(&path).expect("a state"), state);
        assert_eq!(
            fs::read_dir(folder.path()).expect("a folder").count(),
            1,
            "nothing else is left"
        );
        let whole = fs::read(&path).expect("a file");
        for length in 0..whole.len() - 2 {
            fs::write(&path, &whole[..length]).expect("written");
            assert!(read(&path).is_err(), "{length}");
        }
    }
}
