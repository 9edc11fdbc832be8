//! The doctor: its last examination, and a new one.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;

use super::answers::Examined;
use super::call::{Call, Refusal, Reply};
use crate::base::log;
use crate::doctor::examination::Examination;

/// How long a caller waits for an examination: less than a client of the API waits for an answer.
const EXAMINATION_MAX: Duration = Duration::from_secs(25);

pub(super) async fn show(call: Call) -> Result<Reply, Refusal> {
    Reply::json(&examined(call.handle.examined()))
}

pub(super) async fn examine(call: Call) -> Result<Reply, Refusal> {
    call.log_change("doctor", None);
    let handle = call.handle.clone();
    // It goes on for the next who asks, whether or not this caller waits.
    match tokio::time::timeout(EXAMINATION_MAX, handle.examine()).await {
        Ok(examination) => Reply::json(&examined(Some(examination?))),
        Err(_) => {
            let error =
                "the examination takes longer, since a node does not answer: GET /api/v1/doctor shows its result soon";
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error))
        }
    }
}

fn examined(examination: Option<Arc<Examination>>) -> Examined {
    match examination {
        None => Examined::default(),
        Some(examination) => Examined {
            at: Some(log::timestamp(examination.at)),
            report: Some(examination.report.clone()),
        },
    }
}
