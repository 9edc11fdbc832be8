//! `remora ctl events`.

use std::io::Write;

use remora::base::events::Event;
use remora::base::log::Escaped;
use serde_json::Value;

use super::connection::{Connection, Failed};

/// Prints events as they come: those that are kept, or with `follow` also those that will be.
pub(super) async fn print(connection: &mut Connection, follow: bool, since: Option<u64>) -> Result<String, Failed> {
    let since = match (since, follow) {
        (Some(since), _) => format!("&since={since}"),
        // Those that will come.
        (None, true) => String::new(),
        (None, false) => "&since=0".to_owned(),
    };
    let mut target = format!("/api/v1/events?follow={follow}{since}");
    let json = connection.json;
    let mut out = std::io::stdout();
    loop {
        let mut is_handed_over = false;
        let take = |data: &str| {
            is_handed_over = serde_json::from_str(data).is_ok_and(|event: Event| event.change.is_handed_over());
            let line = match json {
                true => data.to_owned(),
                false => text(data),
            };
            // Where nobody reads any more, there is nothing more to say.
            writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
        };
        connection.events(&target, take).await?;
        if !(follow && is_handed_over) {
            break;
        }
        // Nothing was read yet of what the process has to tell that goes on.
        connection.reopen().await?;
        "/api/v1/events?follow=true&since=0".clone_into(&mut target);
    }
    Ok(String::new())
}

/// An event as a line: when, what, and its fields.
fn text(data: &str) -> String {
    let event: Value = serde_json::from_str(data).unwrap_or_default();
    let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    let fields = event.as_object().into_iter().flatten();
    let fields = fields.filter(|(key, value)| !["id", "timestamp", "kind"].contains(&key.as_str()) && !value.is_null());
    let fields = fields.map(|(key, value)| match value {
        Value::String(text) if !text.contains(' ') => format!(" {key}={}", Escaped(text.as_bytes())),
        other => format!(" {key}={other}"),
    });
    format!(
        "{} {} {}{}",
        word("timestamp"),
        event["id"],
        word("kind"),
        fields.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let data = r#"{"id":7,"timestamp":"2026-01-02T03:04:05.000006Z","kind":"node_state","node":"emqx1","state":"down",
                       "why":"TCP connect: Connection refused","endpoint":null}"#;
        assert_eq!(
            text(data),
            "2026-01-02T03:04:05.000006Z 7 node_state node=emqx1 state=down why=\"TCP connect: Connection refused\""
        );
    }
}
