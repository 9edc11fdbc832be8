//! The result as an HTML page: one file that contains its charts, and needs no network.

mod chart;

use std::fmt::Write as _;

use super::result::{Quantiles, Report, Summary};
use super::units::{bytes_text, count_text, rate_text, time_text};

use chart::{Chart, MICROSECONDS, NUMBERS, SECONDS, Tick, WIDTH, ticks};

const STYLE: &str = ":root{color-scheme:light dark;--text:#222;--soft:#5a5a5a;--line:#ddd;--back:#fff;--head:#f4f4f4;\
    --good:#087f5b;--bad:#c92a2a}@media(prefers-color-scheme:dark){:root{--text:#e6e6e6;--soft:#a8a8a8;--line:#3a3a3a;\
    --back:#161616;--head:#222;--good:#3bc9a0;--bad:#ff8787}}body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;\
    margin:2em auto;padding:0 1em;color:var(--text);background:var(--back)}h1{margin:0}h2{margin:2em 0 .5em}\
    .scroll{overflow-x:auto}table{border-collapse:collapse;margin:.5em 0 1em;font-variant-numeric:tabular-nums}\
    th,td{padding:.25em .8em .25em 0;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line)}\
    th{font-weight:600}th:first-child,td.words{text-align:left}td.words{white-space:normal;overflow-wrap:anywhere}\
    .about th{vertical-align:top;color:var(--soft);font-weight:400}.bad{color:var(--bad)}.charts{display:grid;gap:0 2em;\
    grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr))}figure{margin:0}figcaption{margin:1em 0 .3em;\
    font-weight:600}svg{width:100%;height:auto}text{font:11px system-ui,sans-serif;fill:var(--soft)}.grid{\
    stroke:var(--line)}.a{stroke:var(--good);fill:none;stroke-width:1.5}.b{stroke:var(--bad);fill:none;stroke-width:1.5}\
    .bar{fill:var(--good)}code{font:13px ui-monospace,monospace}\
    @media(max-width:600px){table{font-size:13px}th,td{padding-right:.6em}.scroll th:first-child{white-space:normal}\
    text{font-size:15px}}";

/// Longest name of a node that fits beside its bar.
const NAME_CHARS: usize = 24;

/// Most nodes with a bar.
const BARS_MAX: usize = 100;

/// Writes the page.
pub(super) fn page(report: &Report) -> String {
    let about = &report.about;
    let facts = [
        ("date", &about.date),
        ("host", &about.host),
        ("machine", &about.machine),
        ("program", &about.program),
    ];
    let facts: String = facts.map(|(name, value)| fact(name, &escaped(value))).concat();
    let command = fact("command", &format!("<code>{}</code>", escaped(&about.command)));
    let missed = report
        .missed
        .iter()
        .map(|missed| format!("<p class=\"bad\">failed: {}</p>\n", escaped(missed)));
    let missed: String = missed.collect();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width,initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\
         <title>remora bench, {date}</title><style>{STYLE}</style></head><body>\n<h1>remora bench</h1>\n\
         <table class=\"about\">{facts}{command}</table>\n{missed}",
        date = escaped(&about.date),
    );
    for run in &report.runs {
        let mut name = escaped(run.name);
        if report.repetitions > 1 {
            name += &format!(", run {} of {}", run.repetition, report.repetitions);
        }
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(
            page,
            "<section><h2>{name}</h2>\n{}{}{}<div class=\"charts\">{}{}{}</div></section>",
            parameters(run),
            figures(run),
            latencies(run),
            latency(run),
            over_time(run),
            nodes(run),
        );
    }
    page + "</body></html>\n"
}

/// A row of words; the value is HTML.
fn fact(name: &str, value: &str) -> String {
    format!(
        "<tr><th scope=\"row\">{}</th><td class=\"words\">{value}</td></tr>",
        escaped(name)
    )
}

fn parameters(run: &Summary) -> String {
    let shown = run.parameters.iter().map(|(name, value)| format!("{name}: {value}"));
    let shown: Vec<_> = std::iter::once(format!("target: {}", run.target))
        .chain(shown)
        .collect();
    format!("<p>{}</p>\n", escaped(&shown.join("; ")))
}

/// What was counted.
fn figures(run: &Summary) -> String {
    let mut rows = String::new();
    let mut row = |name: &str, value: &str| rows.push_str(&fact(name, &escaped(value)));
    let early = if run.interrupted { ", ended early" } else { "" };
    row("measured", &format!("{}{early}", time_text(run.measured_s * 1e6)));
    let connections = &run.connections;
    row(
        "connections",
        &format!(
            "{} accepted, {} a second",
            count_text(connections.accepted),
            rate_text(connections.per_s)
        ),
    );
    if let Some(tls) = &run.tls {
        let agreed: Vec<_> = tls.agreed.keys().map(String::as_str).collect();
        row(
            "TLS handshakes",
            &format!(
                "{} full, {} resumed; {}",
                count_text(tls.full),
                count_text(tls.resumed),
                agreed.join("; ")
            ),
        );
        if let Some(problem) = &tls.problem {
            row("first TLS failure", problem);
        }
    }
    let messages = &run.messages;
    if messages.sent > 0 {
        let arrived = match (messages.confirmed, messages.received) {
            (0, 0) => String::new(),
            (0, received) => format!(", {} received", count_text(received)),
            (confirmed, _) => format!(", {} confirmed", count_text(confirmed)),
        };
        let mut text = format!(
            "{} sent{arrived}, {} a second",
            count_text(messages.sent),
            rate_text(messages.per_s)
        );
        if messages.received_bytes > 0 && run.measured_s > 0.0 {
            text += &format!(", {}/s", bytes_text(messages.received_bytes as f64 / run.measured_s));
        }
        row("messages", &text);
    }
    if let Some(returns) = &run.returns {
        let rounds: Vec<_> = returns.all_back_ms.iter().map(|ms| time_text(ms * 1e3)).collect();
        row(
            "returns",
            &format!("{}; all back after {}", count_text(returns.count), rounds.join(", ")),
        );
        let same_node = returns.same_node_percent.map(|percent| format!("{percent:.2} %"));
        let same_node = same_node.unwrap_or_else(|| "unknown: the nodes do not report their names".into());
        row(
            "same node",
            &format!("{same_node}; session present {:.2} %", returns.session_present_percent),
        );
    }
    if let Some(balance) = run.balance_max_to_mean.filter(|_| run.nodes.len() > 1) {
        row("busiest node", &format!("{balance:.2} times the mean"));
    }
    if let Some(problem) = &run.nodes_problem {
        row("nodes", problem);
    }
    if run.cut_off + run.cut_off_connects > 0 {
        row(
            "under way at the end",
            &format!(
                "{} messages, {} connects",
                count_text(run.cut_off),
                count_text(run.cut_off_connects)
            ),
        );
    }
    let errors: u64 = run.failures.iter().map(|failure| failure.count).sum();
    if errors == 0 {
        row("errors", "none");
    }
    for failure in &run.failures {
        let text = format!("{}: {} ({})", failure.kind, count_text(failure.count), failure.what);
        rows.push_str(&fact(
            "error",
            &format!("<span class=\"bad\">{}</span>", escaped(&text)),
        ));
    }
    format!("<table class=\"about\">{rows}</table>\n")
}

/// The quantiles of everything that was timed.
fn latencies(run: &Summary) -> String {
    let timed = [
        ("TLS handshake", run.tls.as_ref().map(|tls| &tls.handshake_us)),
        ("CONNACK", Some(&run.connections.connack_us)),
        ("messages, from due", Some(&run.messages.latency_us)),
        ("messages, from sent", run.latency_from_send()),
        ("returns", run.returns.as_ref().map(|returns| &returns.latency_us)),
    ];
    let timed = timed
        .into_iter()
        .filter_map(|(name, quantiles)| Some((name, quantiles?)));
    let timed: Vec<_> = timed.filter(|(_, quantiles)| quantiles.count > 0).collect();
    let Some((_, first)) = timed.first() else {
        return String::new();
    };
    let titles = first
        .named()
        .map(|(name, _)| format!("<th scope=\"col\">{name}</th>"))
        .concat();
    let row = |(name, quantiles): &(&str, &Quantiles)| {
        let cells = quantiles
            .named()
            .map(|(_, us)| format!("<td>{}</td>", time_text(us)))
            .concat();
        let count = count_text(quantiles.count);
        format!("<tr><th scope=\"row\">{name}</th><td>{count}</td>{cells}</tr>")
    };
    let rows: String = timed.iter().map(row).collect();
    format!(
        "<div class=\"scroll\"><table><tr><th scope=\"col\">latency</th><th scope=\"col\">count</th>{titles}</tr>{rows}\
         </table></div>\n"
    )
}

/// Latency over percentiles, with equal space for each further nine.
fn latency(run: &Summary) -> String {
    let points: Vec<(f64, f64)> = run
        .curve
        .iter()
        .map(|&(quantile, us)| (-(1.0 - quantile).log10(), us))
        .collect();
    let Some(&(last, _)) = points.last() else {
        return String::new();
    };
    let nines = [
        (0.0, "0"),
        (0.301, "50 %"),
        (1.0, "90 %"),
        (2.0, "99 %"),
        (3.0, "99.9 %"),
        (4.0, "99.99 %"),
        (5.0, "99.999 %"),
    ];
    let x_ticks = nines.map(|(at, text)| Tick {
        at,
        text: text.to_owned(),
    });
    let y_ticks = ticks(highest(points.iter().map(|&(_, us)| us)), &MICROSECONDS);
    let chart = Chart::new(last.max(1.0), x_ticks.into(), y_ticks);
    chart.drawn("Latency at percentiles", &[("a", points)])
}

/// The rate and the p99 in each slice of time.
fn over_time(run: &Summary) -> String {
    let series = &run.series;
    let last = series.messages.len().saturating_sub(1);
    // The end of the run cuts the last slice short.
    let lasts = |index: usize| match index == last {
        true => series.last_s,
        false => series.every_s,
    };
    let per_s = |counts: &[u64]| -> Vec<f64> {
        let counts = counts.iter().enumerate();
        // A slice without length has no rate.
        let rate = |index: usize, count: u64| match lasts(index) > 0.0 {
            true => count as f64 / lasts(index),
            false => 0.0,
        };
        counts.map(|(index, &count)| rate(index, count)).collect()
    };
    let is_connecting = series.messages.iter().all(|&count| count == 0);
    let (title, rates) = if is_connecting {
        ("Connects per second", per_s(&series.connects))
    } else {
        ("Messages per second", per_s(&series.messages))
    };
    let errors = per_s(&series.errors);
    let seconds = (series.every_s * last as f64 + series.last_s).max(1e-3);
    // Each slice is a step, since the course within it is unknown.
    let at = |values: &[f64]| -> Vec<(f64, f64)> {
        let steps = values.iter().enumerate().map(|(index, &value)| {
            let begins = index as f64 * series.every_s;
            [(begins, value), (begins + lasts(index), value)]
        });
        steps.flatten().collect()
    };
    let mut lines = vec![("a", at(&rates))];
    let mut title = title.to_owned();
    if errors.iter().any(|&rate| rate > 0.0) {
        title += ", and errors (red)";
        lines.push(("b", at(&errors)));
    }
    let chart = |most: f64, units: &[(&str, f64)]| Chart::new(seconds, ticks(seconds, &SECONDS), ticks(most, units));
    let highest_rate = highest(rates.iter().chain(&errors).copied());
    let rates = chart(highest_rate, &NUMBERS).drawn(&title, &lines);
    let p99 = chart(highest(series.p99_us.iter().copied()), &MICROSECONDS);
    rates + &p99.drawn("p99 over time", &[("a", at(&series.p99_us))])
}

fn nodes(run: &Summary) -> String {
    let most = run.nodes.values().copied().max().unwrap_or(0).max(1);
    let mut bars = String::new();
    for (row, (name, count)) in run.nodes.iter().take(BARS_MAX).enumerate() {
        let y = row as f64 * 24.0;
        let width = *count as f64 / most as f64 * (WIDTH - 260.0);
        let mut shown: String = name.chars().take(NAME_CHARS).collect();
        if shown.len() < name.len() {
            shown.push('…');
        }
        let _ = write!(
            bars,
            "<text x=\"0\" y=\"{:.0}\">{}</text><rect class=\"bar\" x=\"170\" y=\"{y:.0}\" width=\"{width:.1}\" \
             height=\"18\"/><text x=\"{:.1}\" y=\"{:.0}\">{}</text>",
            y + 14.0,
            escaped(&shown),
            176.0 + width,
            y + 14.0,
            count_text(*count),
        );
    }
    if bars.is_empty() {
        return String::new();
    }
    let more = match run.nodes.len().saturating_sub(BARS_MAX) {
        0 => String::new(),
        more => format!(" ({more} more)"),
    };
    let height = run.nodes.len().min(BARS_MAX) as f64 * 24.0;
    format!(
        "<figure><figcaption>Connections per node{more}</figcaption><svg viewBox=\"0 0 {WIDTH} {height}\" \
         role=\"img\">{bars}</svg></figure>\n"
    )
}

fn highest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, f64::max)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}
