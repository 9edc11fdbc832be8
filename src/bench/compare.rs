//! Two results side by side: the figures of the same runs, and by how much they differ.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::Value;

/// What is compared: its name, where it is in a run, and whether more of it is better.
const FIGURES: [(&str, &str, bool); 14] = [
    ("connects/s", "/connections/per_s", true),
    ("CONNACK p50 µs", "/connections/connack_us/p50", false),
    ("CONNACK p99 µs", "/connections/connack_us/p99", false),
    ("CONNACK p99.9 µs", "/connections/connack_us/p999", false),
    ("TLS p50 µs", "/tls/handshake_us/p50", false),
    ("TLS p99 µs", "/tls/handshake_us/p99", false),
    ("messages/s", "/messages/per_s", true),
    ("latency p50 µs", "/messages/latency_us/p50", false),
    ("latency p99 µs", "/messages/latency_us/p99", false),
    ("latency p99.9 µs", "/messages/latency_us/p999", false),
    (
        "from send p99 µs",
        "/messages/latency_from_send_us/p99",
        false,
    ),
    ("return p99 µs", "/returns/latency_us/p99", false),
    ("same node %", "/returns/same_node_percent", true),
    ("box CPU ms", "/box_cpu_ms", false),
];

/// Compares two files that `--json` wrote.
pub(super) fn files(paths: &[impl AsRef<Path>]) -> Result<String, String> {
    let [a, b] = paths else {
        return Err("--compare takes two files".into());
    };
    let (a, b) = (runs(a.as_ref())?, runs(b.as_ref())?);
    let mut text = String::new();
    for of_a in &a {
        let name = name(of_a);
        if let Some(of_b) = b.iter().find(|run| self::name(run) == name) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}", table(name, of_a, of_b));
        }
    }
    if text.is_empty() {
        return Err("--compare: the two have no workload in common".into());
    }
    Ok(text)
}

fn runs(path: &Path) -> Result<Vec<Value>, String> {
    let wrong = |what: String| format!("{}: {what}", path.display());
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let value: Value = serde_json::from_str(&text)
        .map_err(|error| wrong(format!("no result of `remora bench --json`: {error}")))?;
    let runs = value.get("runs").and_then(Value::as_array);
    runs.cloned()
        .ok_or_else(|| wrong("no result of `remora bench --json`: it has no runs".into()))
}

fn name(run: &Value) -> &str {
    run.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn table(name: &str, a: &Value, b: &Value) -> String {
    let mut text = format!("{:<18} {:>12} {:>12} {:>9}\n", name, "A", "B", "B to A");
    let mut row = |title: &str, a: f64, b: f64, verdict: &str| {
        let ratio = if a > 0.0 {
            format!("{:.3}", b / a)
        } else {
            "-".into()
        };
        let _ = writeln!(
            text,
            "{}",
            format!("{title:<18} {a:>12.1} {b:>12.1} {ratio:>9} {verdict}").trim_end()
        );
    };
    for (title, pointer, more_is_better) in FIGURES {
        let figure = |run: &Value| run.pointer(pointer).and_then(Value::as_f64);
        let (Some(of_a), Some(of_b)) = (figure(a), figure(b)) else {
            continue;
        };
        if of_a == 0.0 && of_b == 0.0 {
            continue;
        }
        row(title, of_a, of_b, verdict(of_a, of_b, more_is_better));
    }
    let errors = |run: &Value| -> f64 {
        let errors = run.get("errors").and_then(Value::as_object);
        errors
            .into_iter()
            .flatten()
            .filter_map(|(_, count)| count.as_f64())
            .sum()
    };
    row(
        "errors",
        errors(a),
        errors(b),
        verdict(errors(a), errors(b), false),
    );
    text
}

/// A word for differences that are more than a tenth; less is noise on most machines.
fn verdict(a: f64, b: f64, more_is_better: bool) -> &'static str {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if high <= low * 1.1 {
        ""
    } else if (b > a) == more_is_better {
        "better"
    } else {
        "worse"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_are_told_with_their_direction() {
        let run = |per_s: f64, p99: f64, refused: u64| {
            json!({
                "name": "echo",
                "messages": {"per_s": per_s, "latency_us": {"p99": p99}},
                "errors": {"refused": refused},
            })
        };
        let text = table("echo", &run(100.0, 50.0, 0), &run(200.0, 52.0, 3));
        let line = |title: &str| text.lines().find(|line| line.starts_with(title)).unwrap();
        assert!(line("messages/s").ends_with("2.000 better"), "{text}");
        assert!(line("latency p99").ends_with("1.040"), "{text}");
        assert!(line("errors").ends_with("- worse"), "{text}");
        assert!(!text.contains("connects/s"), "{text}");
    }
}
