//! The metrics of the last examination by the doctor; there are none before the first.

use std::fmt;

use prometheus_client::metrics::MetricType;

use super::page::{Page, timestamp};
use crate::doctor::examination::Examination;
use crate::doctor::finding::Code;
use crate::doctor::report::Route;

/// Writes what the last examination found. Its routes are those of at most 16 nodes.
pub(super) fn encode(page: &mut Page<'_>, examination: Option<&Examination>) -> fmt::Result {
    let report = examination.map(|examination| &examination.report);
    let codes = report.into_iter().flat_map(|report| {
        Code::ALL.iter().map(|code| {
            let found = report.findings.iter().filter(|finding| finding.code == code.id());
            ([("code", code.id())], found.count() as u64)
        })
    });
    page.gauges("findings", "Findings of the last examination by the doctor", codes)?;
    let times = examination.map(|examination| ([], timestamp(examination.at)));
    page.gauges(
        "examination_timestamp_seconds",
        "When the last examination by the doctor ended",
        times.into_iter(),
    )?;
    let routes = report.and_then(|report| report.routes.as_ref());
    let routes = routes.map_or(&[][..], |routes| &routes.routes);
    let pairs = || routes.chunk_by(|one, other| (&one.from, &one.to) == (&other.from, &other.to));
    let ratios = pairs().map(|pair| {
        let sum = |count: fn(&Route) -> u32| pair.iter().map(count).sum::<u32>();
        let sent = f64::from(sum(|route| route.sent).max(1));
        (labels(pair), f64::from(sum(|route| route.delivered)) / sent)
    });
    shares(
        page,
        "route_check_delivered_ratio",
        "Share of the doctor's messages that arrived in time",
        ratios,
    )?;
    let medians = pairs().filter_map(|pair| {
        let slowest = pair.iter().filter_map(|route| route.p50_ms).reduce(f64::max)?;
        Some((labels(pair), slowest / 1_000.0))
    });
    shares(
        page,
        "route_check_seconds",
        "Time within which half of the doctor's messages arrived, with the slower QoS",
        medians,
    )
}

type Labels<'a> = [(&'a str, &'a str); 2];

fn labels(pair: &[Route]) -> Labels<'_> {
    pair.first().map_or([("from", ""), ("to", "")], |route| {
        [("from", &*route.from), ("to", &*route.to)]
    })
}

fn shares<'l>(
    page: &mut Page<'_>,
    name: &str,
    help: &str,
    series: impl Iterator<Item = (Labels<'l>, f64)>,
) -> fmt::Result {
    let mut family = page.family(name, help, MetricType::Gauge)?;
    for (labels, value) in series {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}
