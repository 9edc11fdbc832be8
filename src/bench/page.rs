//! The result as a page: one file with its charts inside, which opens without a network.

use std::fmt::Write as _;

use super::result::{Report, Summary};

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 220.0;
/// Room for the numbers at the axes.
const LEFT: f64 = 56.0;
const RIGHT: f64 = 20.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 10.0;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222;\
    background:#fff}pre{background:#f4f4f4;padding:1em;font-size:13px;white-space:pre-wrap}.run{display:grid;gap:0 2em;\
    grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr))}h2{margin:2em 0 0}h3{margin:1em 0 .3em;\
    font-size:1em;font-weight:600}svg{width:100%;height:auto}text{font:11px system-ui,sans-serif;fill:#555}.grid{\
    stroke:#ddd}.a{stroke:#0a6;fill:none;stroke-width:1.5}.b{stroke:#c40;fill:none;stroke-width:1.5}.bar{fill:#0a6}";

/// Longest name of a node that has room beside its bar.
const NAME_CHARS: usize = 26;

/// Writes it.
pub(super) fn page(report: &Report) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>remora bench</title><style>{STYLE}</style></head><body>\n\
         <h1>remora bench</h1>\n<pre>{}</pre>\n",
        escaped(&report.to_string())
    );
    for run in &report.runs {
        // Writing to a string cannot fail, here and below.
        let charts = latency(run) + &over_time(run) + &nodes(run);
        let name = escaped(run.name);
        let _ = writeln!(page, "<h2>{name}</h2>\n<div class=\"run\">{charts}</div>");
    }
    page + "</body></html>\n"
}

/// Latency over percentiles, with as much room for each further nine.
fn latency(run: &Summary) -> String {
    let points: Vec<(f64, f64)> = run
        .curve
        .iter()
        .map(|&(quantile, us)| (-(1.0 - quantile).log10(), us))
        .collect();
    let Some(&(last, _)) = points.last() else {
        return String::new();
    };
    let ticks = [
        (0.0, "0"),
        (0.301, "50"),
        (1.0, "90"),
        (2.0, "99"),
        (3.0, "99.9"),
        (4.0, "99.99"),
        (5.0, "99.999"),
    ];
    let chart = Chart::new(last.max(1.0), highest(points.iter().map(|&(_, us)| us)));
    chart.drawn(
        "Latency in µs at percentiles",
        &ticks.map(|(at, text)| (at, text.to_owned())),
        &[("a", points)],
    )
}

/// What was done in each slice of time, and the p99 of it.
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
        counts
            .map(|(index, &count)| count as f64 / lasts(index))
            .collect()
    };
    let is_connecting = series.messages.iter().all(|&count| count == 0);
    let (title, rates) = if is_connecting {
        ("Connects per second", per_s(&series.connects))
    } else {
        ("Messages per second", per_s(&series.messages))
    };
    let errors = per_s(&series.errors);
    let seconds = series.every_s * last as f64 + series.last_s;
    // Each slice is a step: what happened within it, nobody knows.
    let at = |values: &[f64]| -> Vec<(f64, f64)> {
        let steps = values.iter().enumerate().map(|(index, &value)| {
            let begins = index as f64 * series.every_s;
            [(begins, value), (begins + lasts(index), value)]
        });
        steps.flatten().collect()
    };
    let tick = |time: f64| match seconds < 2.0 {
        true => format!("{:.0} ms", time * 1e3),
        false => format!("{time:.1} s"),
    };
    let ticks: Vec<_> = (0..=4)
        .map(|quarter| seconds * f64::from(quarter) / 4.0)
        .map(|time| (time, tick(time)))
        .collect();
    let mut lines = vec![("a", at(&rates))];
    let mut title = title.to_owned();
    if errors.iter().any(|&rate| rate > 0.0) {
        title += ", and errors (red)";
        lines.push(("b", at(&errors)));
    }
    let highest_rate = highest(rates.iter().chain(&errors).copied());
    let rates = Chart::new(seconds, highest_rate).drawn(&title, &ticks, &lines);
    let p99 = Chart::new(seconds, highest(series.p99_us.iter().copied()));
    rates + &p99.drawn("p99 in µs", &ticks, &[("a", at(&series.p99_us))])
}

fn nodes(run: &Summary) -> String {
    let most = run.nodes.values().copied().max().unwrap_or(0).max(1);
    let mut bars = String::new();
    for (row, (name, count)) in run.nodes.iter().take(100).enumerate() {
        let y = row as f64 * 24.0;
        let width = *count as f64 / most as f64 * (WIDTH - 230.0);
        let name: String = name.chars().take(NAME_CHARS).collect();
        let _ = write!(
            bars,
            "<text x=\"0\" y=\"{:.0}\">{}</text><rect class=\"bar\" x=\"160\" y=\"{y:.0}\" width=\"{width:.1}\" \
             height=\"18\"/><text x=\"{:.1}\" y=\"{:.0}\">{count}</text>",
            y + 14.0,
            escaped(&name),
            166.0 + width,
            y + 14.0,
        );
    }
    if bars.is_empty() {
        return String::new();
    }
    let height = run.nodes.len().min(100) as f64 * 24.0;
    format!(
        "<div><h3>Connections per node</h3><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">{bars}</svg></div>\n"
    )
}

struct Chart {
    x_max: f64,
    y_max: f64,
}

impl Chart {
    fn new(x_max: f64, y_max: f64) -> Self {
        Self { x_max, y_max }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.y_max * (HEIGHT - BOTTOM - TOP)
    }

    fn drawn(
        &self,
        title: &str,
        x_ticks: &[(f64, String)],
        lines: &[(&str, Vec<(f64, f64)>)],
    ) -> String {
        let mut svg = format!(
            "<div><h3>{}</h3><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">",
            escaped(title)
        );
        for quarter in 0..=4 {
            let value = self.y_max * f64::from(quarter) / 4.0;
            let y = self.y(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                shown(value)
            );
        }
        for (at, text) in x_ticks.iter().filter(|(at, _)| *at <= self.x_max) {
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{text}</text>",
                self.x(*at),
                HEIGHT - 10.0
            );
        }
        for (class, points) in lines {
            let points: Vec<_> = points
                .iter()
                .map(|&(x, y)| format!("{:.1},{:.1}", self.x(x), self.y(y)))
                .collect();
            let _ = write!(
                svg,
                "<polyline class=\"{class}\" points=\"{}\"/>",
                points.join(" ")
            );
        }
        svg + "</svg></div>\n"
    }
}

/// The top of an axis: a number whose quarters are round, too. Never zero, which nothing could be drawn to.
fn highest(values: impl Iterator<Item = f64>) -> f64 {
    let most = values.fold(1.0, f64::max);
    let power = 10_f64.powf(most.log10().floor());
    let tops = [1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 6.0, 8.0, 10.0];
    let top = tops.into_iter().find(|top| top * power >= most);
    top.unwrap_or(10.0) * power
}

fn shown(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 1e6 => (value / 1e6, " M"),
        value if value >= 1e4 => (value / 1e3, " k"),
        value => (value, ""),
    };
    // As many digits as it takes, three at most.
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (most, ticks) in [
            (0.0, ["0", "0.25", "0.5", "0.75", "1"]),
            (6246.0, ["0", "2000", "4000", "6000", "8000"]),
            (10_300.0, ["0", "3000", "6000", "9000", "12 k"]),
            (2_350_000.0, ["0", "600 k", "1.2 M", "1.8 M", "2.4 M"]),
            (9.9e9, ["0", "2500 M", "5000 M", "7500 M", "10000 M"]),
        ] {
            let top = highest([most].into_iter());
            let quarters = [0.0, 0.25, 0.5, 0.75, 1.0].map(|part| shown(top * part));
            assert_eq!(quarters, ticks, "{most}");
        }
    }
}
