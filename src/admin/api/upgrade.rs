//! The upgrade: another process takes over, and says how far it is.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Frame};
use tokio::sync::mpsc;

use super::answers::{Upgradable, Upgrade, UpgradeStep};
use super::call::{Call, Refusal, Reply};
use crate::admin::peer::By;
use crate::base::build;

pub(super) async fn show(call: Call) -> Result<Reply, Refusal> {
    let program = call.handle.program();
    Reply::json(&Upgradable {
        binary: program.as_ref().map(|program| program.path().display().to_string()),
        is_another: program.is_some_and(|program| program.is_another()),
        version: build::VERSION.to_owned(),
    })
}

pub(super) async fn upgrade(call: Call) -> Result<Reply, Refusal> {
    let Upgrade { binary } = call.body_or_default()?;
    if binary.is_some() && !may_name_a_program(&call.by) {
        let error = "only the user of this process and root may name a program, on the admin socket";
        return Err(Refusal::new(StatusCode::FORBIDDEN, error));
    }
    let steps = call.handle.request_upgrade(binary.map(Into::into)).await?;
    call.log_change("upgrade", None);
    Ok(Reply::Steps(Steps(steps).boxed_unsync()))
}

/// A program that is named is run as the user of this process, which is more than a token or a group may do.
fn may_name_a_program(by: &By) -> bool {
    let own = rustix::process::geteuid().as_raw();
    matches!(by, By::Process { uid: Some(uid), .. } if *uid == own || *uid == 0)
}

/// The steps, as server-sent events.
struct Steps(mpsc::Receiver<UpgradeStep>);

impl Body for Steps {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|step| {
            // Strings and numbers always serialize.
            let data = serde_json::to_string(&step?).unwrap_or_default();
            Some(Ok(Frame::data(format!("data: {data}\n\n").into())))
        })
    }
}
