//! What a run was asked for, in words, so that a result can be understood without its command.

use crate::clock::Nanos;
use crate::packet::Version;
use crate::plan::{Arrival, Audience, Plan, Then, Traffic};
use crate::units::{count_text, rate_text, time_text};

/// What a plan asks for, in words.
pub(super) fn parameters(plan: &Plan) -> Vec<(&'static str, String)> {
    // Without the decimals of a measurement.
    let seconds = |nanos: Nanos| time_text(nanos as f64 / 1e3).replace(".00 ", " ").replace(".0 ", " ");
    let mut all = vec![("clients", count_text(plan.clients.into()))];
    if plan.audience == Audience::Others {
        all.push(("publishers", count_text(plan.publishers.into())));
    }
    all.push((
        "connecting",
        match plan.arrival {
            Arrival::AtOnce(most) => format!("at most {} at the same time", count_text(most.into())),
            Arrival::PerSecond(per_s) => format!("{} a second", rate_text(per_s)),
        },
    ));
    let window = |window: u32| format!("{} in flight per client", count_text(window.into()));
    let traffic = match plan.traffic {
        Traffic::None => None,
        Traffic::Window(most) => Some(format!("closed loop, {}", window(most))),
        Traffic::PerSecond { rate, window: u32::MAX } => Some(format!("open loop, {} a second", rate_text(rate))),
        Traffic::PerSecond { rate, window: most } => Some(format!(
            "open loop, {} a second, at most {}",
            rate_text(rate),
            window(most)
        )),
    };
    if let Some(traffic) = traffic {
        all.push(("messages", traffic));
        all.push(("payload", format!("{} B", count_text(plan.size as u64))));
        all.push(("QoS", plan.qos.to_string()));
    }
    let protocol = match plan.version {
        Version::V4 => "MQTT 3.1.1",
        Version::V5 => "MQTT 5",
    };
    let carried = match (&plan.websocket, &plan.tls) {
        (None, None) => "TCP",
        (None, Some(_)) => "TLS",
        (Some(_), None) => "WebSocket",
        (Some(_), Some(_)) => "WebSocket over TLS",
    };
    all.push(("protocol", format!("{protocol} over {carried}")));
    all.push(("keep alive", format!("{} s", plan.keep_alive_s)));
    match plan.then {
        Then::Leave => all.push(("duration", format!("{} at most", seconds(plan.duration)))),
        Then::Return(cuts) => all.push(("cuts", cuts.to_string())),
        Then::Ping | Then::Stay => {
            all.push(("warm-up", seconds(plan.warm_up)));
            all.push(("duration", seconds(plan.duration)));
        }
    }
    all
}
