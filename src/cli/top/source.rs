//! Asks the balancer, again and again, and tells what it answers, or that it does not.

use std::sync::Arc;
use std::time::Duration;

use remora::admin::api::answers::{Counters, Nodes, Status, TopClients};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::view::Wanted;
use crate::cli::ctl::connection::{Connection, Failed, Place, encoded};

/// From a question that failed to the next one.
const AGAIN: Duration = Duration::from_secs(1);

/// How long an answer may take, beyond the time in which rates are measured.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The time of the first measurement, so that the first figures are there soon.
const FIRST: Duration = Duration::from_secs(1);

/// What is new.
#[derive(Debug)]
pub(super) enum Update {
    /// The balancer as it is now.
    Sample(Box<Sample>),
    /// The clients that come first.
    Top(Box<TopClients>),
    /// The list was refused, for this reason.
    NoTop(String),
    /// The balancer does not answer, for this reason.
    Lost(String),
}

/// What a balancer said at one moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) nodes: Nodes,
    pub(super) counters: Counters,
}

/// Asks over a connection that is opened when it is needed. The balancer closes each after a while.
pub(super) struct Source<'a> {
    place: &'a Place,
    connection: Option<Connection>,
}

impl<'a> Source<'a> {
    pub(super) fn new(place: &'a Place) -> Self {
        Self {
            place,
            connection: None,
        }
    }

    pub(super) async fn sample(&mut self) -> Result<Sample, Failed> {
        within(ANSWER_MAX, self.whole_sample()).await
    }

    async fn whole_sample(&mut self) -> Result<Sample, Failed> {
        let status = self.ask("/api/v1/status").await?;
        let nodes = self.ask("/api/v1/nodes").await?;
        Ok(Sample {
            status,
            nodes,
            counters: self.ask("/api/v1/counters").await?,
            at: Instant::now(),
        })
    }

    /// The clients that come first; by rate, measured for `over`.
    pub(super) async fn top(&mut self, wanted: &Wanted, over: Duration) -> Result<TopClients, Failed> {
        within(over + ANSWER_MAX, self.ask(&target(wanted, over))).await
    }

    async fn ask<T: DeserializeOwned>(&mut self, target: &str) -> Result<T, Failed> {
        if let Some(mut connection) = self.connection.take()
            && let Ok(answer) = connection.ask(false, target, None).await
        {
            self.connection = Some(connection);
            return Ok(answer);
        }
        let mut connection = self.place.connect().await?;
        let answer = connection.ask(false, target, None).await?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

/// The answer, if it arrives in time. A connection whose answer is late is not used again.
async fn within<T>(time: Duration, asked: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let answer = tokio::time::timeout(time, asked).await;
    answer.unwrap_or_else(|_| Err(Failed::refused(format!("no answer within {} s", time.as_secs()))))
}

fn target(wanted: &Wanted, over: Duration) -> String {
    let Wanted {
        by,
        prefix,
        node,
        off_home,
        limit,
        is_paused: _,
    } = wanted;
    let mut target = format!("/api/v1/top-clients?by={}&limit={limit}", by.name());
    if by.is_measured() {
        target += &format!("&over={}", over.as_secs().max(1));
    }
    if !prefix.is_empty() {
        target += &format!("&prefix={}", encoded(prefix.as_bytes()));
    }
    if let Some(node) = node {
        target += &format!("&node={}", encoded(node.as_bytes()));
    }
    if *off_home {
        target += "&off_home=true";
    }
    target
}

/// Takes a sample every `look`, except while paused; ends when nobody reads the updates.
pub(super) async fn samples(
    place: Arc<Place>,
    look: Duration,
    mut wanted: watch::Receiver<Wanted>,
    updates: mpsc::Sender<Update>,
) {
    let mut source = Source::new(&place);
    let mut pause = FIRST.min(look);
    loop {
        tokio::time::sleep(pause).await;
        if wanted.wait_for(|wanted| !wanted.is_paused).await.is_err() {
            return;
        }
        let (update, next) = match source.sample().await {
            Ok(sample) => (Update::Sample(Box::new(sample)), look),
            Err(failed) => (Update::Lost(failed.line()), AGAIN),
        };
        pause = next;
        if updates.send(update).await.is_err() {
            return;
        }
    }
}

/// Asks for the list of clients every `look`, and at once when another one is wanted.
pub(super) async fn lists(
    place: Arc<Place>,
    look: Duration,
    mut wanted: watch::Receiver<Wanted>,
    updates: mpsc::Sender<Update>,
) {
    let mut over = FIRST.min(look);
    let mut source = Source::new(&place);
    loop {
        let now = match wanted.wait_for(|wanted| !wanted.is_paused).await {
            Ok(now) => now.clone(),
            Err(_) => return,
        };
        wanted.mark_unchanged();
        let begun = Instant::now();
        let answer = tokio::select! {
            answer = source.top(&now, over) => answer,
            // An answer that is not wanted any more is left unread, and so is its connection.
            changed = wanted.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let update = match answer {
            Ok(top) => Update::Top(Box::new(top)),
            Err(failed) => Update::NoTop(failed.line()),
        };
        if updates.send(update).await.is_err() {
            return;
        }
        over = look;
        // What was measured has taken as long already.
        let due = match now.by.is_measured() {
            true => begun + FIRST,
            false => begun + look,
        };
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            changed = wanted.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::By;
    use super::*;

    #[test]
    fn whatever_is_typed_is_one_value_of_the_query() {
        let wanted = Wanted {
            by: By::Rate,
            prefix: "a b&node=x/é".to_owned(),
            node: Some("n#1".to_owned()),
            off_home: true,
            limit: 20,
            is_paused: false,
        };
        assert_eq!(
            target(&wanted, Duration::from_secs(2)),
            "/api/v1/top-clients?by=rate&limit=20&over=2&prefix=a%20b%26node=x%2F%C3%A9&node=n%231&off_home=true"
        );
        let quiet = Wanted {
            by: By::Quiet,
            ..Wanted::default()
        };
        assert_eq!(
            target(&quiet, Duration::from_secs(2)),
            "/api/v1/top-clients?by=quiet&limit=20"
        );
    }
}
