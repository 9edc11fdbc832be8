//! The metrics of the last examination by the doctor; there are none before the first.

use std::fmt;

use prometheus_client::metrics::MetricType;

use super::page::{Page, timestamp};
use crate::doctor::examination::Examination;
use crate::doctor::finding::Code;
use crate::doctor::report::{Pair, Routes};

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
    let pairs = routes.map(Routes::pairs).unwrap_or_default();
    let ratios = pairs.iter().map(|pair| (labels(pair), pair.delivered_ratio()));
    shares(
        page,
        "route_check_delivered_ratio",
        "Share of the doctor's messages that arrived in time",
        ratios,
    )?;
    let medians = pairs
        .iter()
        .filter_map(|pair| Some((labels(pair), pair.p50_ms? / 1_000.0)));
    shares(
        page,
        "route_check_seconds",
        "Time within which half of the doctor's messages arrived, with the slower QoS",
        medians,
    )
}

type Labels<'a> = [(&'a str, &'a str); 2];

fn labels(pair: &Pair) -> Labels<'_> {
    [("from", &*pair.from), ("to", &*pair.to)]
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
