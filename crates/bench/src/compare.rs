//! Compares results: the figures of the same workloads side by side, over all runs of each side, and whether they differ by
//! more than the runs of one side differ among themselves.

mod sample;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::result::Report;
use super::units::{count_text, rate_text, time_text};

use sample::{RUNS_MIN, Sample, Verdict};

/// What a figure is, and so how it is written.
#[derive(Clone, Copy)]
enum Unit {
    Us,
    Ms,
    PerSecond,
    Percent,
    Count,
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Self::Us => time_text(value),
            Self::Ms => time_text(value * 1e3),
            Self::PerSecond => rate_text(value),
            Self::Percent => format!("{value:.2} %"),
            Self::Count => count_text(value.round() as u64),
        }
    }
}

/// The figures: name, place in the JSON of a run, unit, and whether more is better.
const FIGURES: [(&str, &str, Unit, bool); 14] = [
    ("connects a second", "/connections/per_s", Unit::PerSecond, true),
    ("CONNACK p50", "/connections/connack_us/p50", Unit::Us, false),
    ("CONNACK p99", "/connections/connack_us/p99", Unit::Us, false),
    ("CONNACK p99.9", "/connections/connack_us/p999", Unit::Us, false),
    ("TLS p50", "/tls/handshake_us/p50", Unit::Us, false),
    ("TLS p99", "/tls/handshake_us/p99", Unit::Us, false),
    ("messages a second", "/messages/per_s", Unit::PerSecond, true),
    ("latency p50", "/messages/latency_us/p50", Unit::Us, false),
    ("latency p99", LATENCY, Unit::Us, false),
    ("latency p99.9", "/messages/latency_us/p999", Unit::Us, false),
    (FROM_SEND, LATENCY_FROM_SEND, Unit::Us, false),
    ("return p99", "/returns/latency_us/p99", Unit::Us, false),
    ("same node", "/returns/same_node_percent", Unit::Percent, true),
    ("CPU of the machine", "/box_cpu_ms", Unit::Ms, false),
];

const LATENCY: &str = "/messages/latency_us/p99";
const LATENCY_FROM_SEND: &str = "/messages/latency_from_send_us/p99";
const FROM_SEND: &str = "from send p99";
const ERRORS: &str = "errors";
/// The change of a median that does not change.
const SAME: &str = "same";

/// One side of a comparison: files that `--json` wrote.
struct Side {
    files: Vec<PathBuf>,
    runs: Vec<Value>,
    /// What the first file says of itself.
    about: Value,
}

/// Compares two files that `--json` wrote, or two lists of such files with commas between them.
pub(super) fn files(sides: &[impl AsRef<Path>]) -> Result<String, String> {
    let [a, b] = sides else {
        return Err("--compare takes two files, or two lists of files with commas between them".into());
    };
    let (a, b) = (Side::read(a.as_ref())?, Side::read(b.as_ref())?);
    let mut tables = String::new();
    let mut has_few_runs = false;
    for name in a.names() {
        let (of_a, of_b) = (a.of(name), b.of(name));
        if of_b.is_empty() {
            continue;
        }
        has_few_runs |= of_a.len().min(of_b.len()) < RUNS_MIN;
        tables += &table(name, &of_a, &of_b);
    }
    if tables.is_empty() {
        return Err("--compare: the results have no workload in common".into());
    }
    let mut text = format!("A  {}\nB  {}\n{tables}", a.title(), b.title());
    // Writing to a string cannot fail.
    let _ = match has_few_runs {
        true => writeln!(
            text,
            "\nNo verdict with fewer than {RUNS_MIN} runs on a side: one run cannot tell a difference from noise. Measure each \
             side with --runs 5,\nand best in turns."
        ),
        false => writeln!(
            text,
            "\nIn brackets: where the median is (95 % confidence), with fewer than six runs the lowest and the highest. \
             Better and worse:\nthese ranges do not overlap."
        ),
    };
    Ok(text)
}

/// The figures of a report whose workloads ran several times.
pub(super) fn spread(report: &Report) -> String {
    let Ok(Value::Object(value)) = serde_json::to_value(report) else {
        return String::new();
    };
    let runs = value.get("runs").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut text = String::new();
    for name in names(&runs) {
        let of_name: Vec<&Value> = runs.iter().filter(|run| self::name(run) == name).collect();
        let target = of_name
            .first()
            .and_then(|run| run.get("target"))
            .and_then(Value::as_str);
        let target = target.unwrap_or_default();
        let mut rows = vec![["", "median", "range"].map(str::to_owned).to_vec()];
        for (title, sample, unit, _) in figures(&of_name) {
            rows.push(vec![title.to_owned(), unit.text(sample.median()), range(&sample, unit)]);
        }
        let _ = writeln!(
            text,
            "{name}: {} runs against {target}\n{}\n",
            of_name.len(),
            columns(&rows)
        );
        for summary in report.runs.iter().filter(|run| run.name == name) {
            let mut failures = String::new();
            let _ = summary.write_failures(&mut failures);
            for line in failures.lines() {
                let _ = writeln!(
                    text,
                    "run {}: {}",
                    summary.repetition,
                    line.trim_start_matches("error").trim_start()
                );
            }
        }
    }
    text
}

impl Side {
    fn read(given: &Path) -> Result<Self, String> {
        let files: Vec<PathBuf> = match given.to_str() {
            // A name may contain a comma.
            Some(list) if !given.exists() => list.split(',').map(PathBuf::from).collect(),
            _ => vec![given.to_owned()],
        };
        let mut side = Self {
            files,
            runs: Vec::new(),
            about: Value::Null,
        };
        for file in &side.files {
            let wrong = |what: String| format!("--compare: {}: {what}", file.display());
            let text = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
            let value: Value = serde_json::from_str(&text)
                .map_err(|error| wrong(format!("not a result of `remora bench --json`: {error}")))?;
            let runs = value.get("runs").and_then(Value::as_array);
            let runs = runs.ok_or_else(|| wrong("not a result of `remora bench --json`: it has no runs".into()))?;
            // A run that an interrupt cut short says something else than a whole one.
            let is_whole = |run: &&Value| run.get("interrupted").and_then(Value::as_bool) != Some(true);
            side.runs.extend(runs.iter().filter(is_whole).cloned());
            if side.about.is_null() {
                side.about = value.get("about").cloned().unwrap_or_default();
            }
        }
        Ok(side)
    }

    /// The names of its workloads, in the order in which they ran.
    fn names(&self) -> Vec<&str> {
        names(&self.runs)
    }

    fn of(&self, name: &str) -> Vec<&Value> {
        self.runs.iter().filter(|run| self::name(run) == name).collect()
    }

    /// Its files, and when, where and by what they were measured.
    fn title(&self) -> String {
        let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        let about = ["date", "host", "program"].iter().filter_map(|key| {
            let value = self.about.get(key).and_then(Value::as_str)?;
            (!value.is_empty()).then(|| value.to_owned())
        });
        std::iter::once(files.join(", "))
            .chain(about)
            .collect::<Vec<_>>()
            .join("; ")
    }
}

fn names(runs: &[Value]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for name in runs.iter().map(name) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn name(run: &Value) -> &str {
    run.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// The figures that all of these runs have, and that are not zero in all of them.
fn figures(runs: &[&Value]) -> Vec<(&'static str, Sample, Unit, bool)> {
    let figures = FIGURES
        .into_iter()
        .filter_map(|(title, pointer, unit, more_is_better)| {
            let values: Option<Vec<f64>> = runs.iter().map(|run| run.pointer(pointer)?.as_f64()).collect();
            let sample = Sample::new(values?)?;
            Some((title, sample, unit, more_is_better))
        });
    let errors = runs.iter().map(|run| errors(run)).collect();
    let errors = Sample::new(errors).map(|sample| (ERRORS, sample, Unit::Count, false));
    figures.chain(errors).collect()
}

fn errors(run: &Value) -> f64 {
    let errors = run.get("errors").and_then(Value::as_object);
    let counts = errors.into_iter().flatten();
    counts.filter_map(|(_, count)| count.as_f64()).sum()
}

fn table(name: &str, a: &[&Value], b: &[&Value]) -> String {
    let runs = |count: usize| {
        if count == 1 {
            "1 run".to_owned()
        } else {
            format!("{count} runs")
        }
    };
    let has_ranges = a.len().max(b.len()) > 1;
    let mut header = vec![String::new(), format!("A: {}", runs(a.len()))];
    let mut with_range = |title: String| {
        if has_ranges {
            header.push(String::new());
        }
        header.push(title);
    };
    with_range(format!("B: {}", runs(b.len())));
    with_range("B to A".to_owned());
    let mut rows = vec![header];
    let of_b = figures(b);
    for (title, in_a, unit, more_is_better) in figures(a) {
        let Some((_, in_b, ..)) = of_b.iter().find(|(other, ..)| *other == title) else {
            continue;
        };
        if title != ERRORS && in_a.is_zero() && in_b.is_zero() {
            continue;
        }
        // In a closed loop, messages are sent when they are due.
        if title == FROM_SEND
            && a.iter()
                .chain(b)
                .all(|run| run.pointer(LATENCY) == run.pointer(LATENCY_FROM_SEND))
        {
            continue;
        }
        let mut row = vec![title.to_owned(), unit.text(in_a.median())];
        if has_ranges {
            row.push(range(&in_a, unit));
        }
        row.push(unit.text(in_b.median()));
        if has_ranges {
            row.push(range(in_b, unit));
        }
        let change = change(in_a.median(), in_b.median());
        let verdict = match in_a.compared_with(in_b) {
            Verdict::TooFewRuns | Verdict::Same => String::new(),
            Verdict::Noise if change == SAME => String::new(),
            Verdict::Noise => "no difference beyond noise".to_owned(),
            Verdict::Higher if more_is_better => "better".to_owned(),
            Verdict::Lower if !more_is_better => "better".to_owned(),
            Verdict::Higher | Verdict::Lower => "worse".to_owned(),
        };
        row.extend([change, verdict]);
        rows.push(row);
    }
    let mut text = format!("\n{name}\n");
    for (what, of_a, of_b) in differences(a, b) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  not the same: {what} is {of_a} in A, {of_b} in B");
    }
    text + &columns(&rows) + "\n"
}

/// The parameters that are not the same on both sides.
fn differences(a: &[&Value], b: &[&Value]) -> Vec<(String, String, String)> {
    let of = |runs: &[&Value]| {
        let parameters = runs.first().and_then(|run| run.get("parameters"));
        parameters.and_then(Value::as_object).cloned().unwrap_or_default()
    };
    let (a, b) = (of(a), of(b));
    let differing = a.iter().filter_map(|(name, of_a)| {
        let of_b = b.get(name).filter(|of_b| *of_b != of_a)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Some((name.clone(), text(of_a), text(of_b)))
    });
    differing.collect()
}

fn range(sample: &Sample, unit: Unit) -> String {
    let (low, high) = sample.interval();
    let (low, high) = (unit.text(low), unit.text(high));
    match low == high {
        true => format!("({low})"),
        false => format!("({low} – {high})"),
    }
}

fn change(a: f64, b: f64) -> String {
    if a == b {
        SAME.to_owned()
    } else if a > 0.0 {
        format!("{:+.1} %", (b / a - 1.0) * 100.0)
    } else {
        "-".to_owned()
    }
}

/// Rows with aligned columns: names to the left, figures to the right, verdicts to the left.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| Some(row.get(column)?.chars().count()))
            .max()
    };
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let is_words = |column: usize, cell: &str| {
        let is_figure = cell.starts_with(|c: char| c.is_ascii_digit() || "+-(".contains(c));
        column == 0 || (column + 1 == count && !is_figure)
    };
    let lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).enumerate();
            let cells: Vec<_> = cells
                .map(|(column, (cell, width))| match is_words(column, cell) {
                    true => format!("{cell:<width$}"),
                    false => format!("{cell:>width$}"),
                })
                .collect();
            format!("  {}", cells.join("  ")).trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests;
