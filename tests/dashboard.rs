//! The Grafana dashboard and the alert rules of Prometheus under `config/`: both are written from the tables of this file and of
//! `docs/metrics.md`, which `tests/readme.rs` holds against what is served.
//!
//! After a change of the tables, `REMORA_WRITE_DASHBOARD=1 cargo test --test dashboard` writes the files anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

mod dashboard {
    pub(crate) mod alerts;
    pub(crate) mod panels;
}

use dashboard::alerts::{ALERTS, Alert};
use dashboard::panels::{Kind, Panel, ROWS, Row};

const METRICS: &str = include_str!("../docs/metrics.md");
const ALERTS_PAGE: &str = include_str!("../docs/alerts.md");

const DASHBOARD: &str = "config/grafana/remora.json";
const RULES: &str = "config/prometheus/remora.rules.yml";
const RULE_TESTS: &str = "config/prometheus/remora.test.yml";

/// Set to write the files instead of comparing them.
const WRITE: &str = "REMORA_WRITE_DASHBOARD";

/// Metrics that no panel and no alert shows, and why.
const NOT_SHOWN: &[(&str, &str)] = &[
    (
        "remora_examination_timestamp_seconds",
        "the doctor's series are those of that moment; the events say when something changed",
    ),
    (
        "remora_routes_total",
        "shown as the part of clients that are off home, by remora_placements",
    ),
    (
        "remora_probe_duration_seconds",
        "of one endpoint at one moment, for a question that the API answers",
    ),
    (
        "remora_pace_wait_seconds_total",
        "its mean says less than how many wait",
    ),
    ("remora_config_reloads_total", "the events count them"),
    ("remora_handovers_total", "the events count them"),
    (
        "remora_handover_connections_total",
        "`remora ctl upgrade` and the log say it",
    ),
    (
        "remora_handover_pause_seconds",
        "`remora ctl upgrade` and the log say it",
    ),
    (
        "remora_handovers_total",
        "who orders one is told, and the events say it",
    ),
    (
        "remora_handover_connections_total",
        "the event of a handover has its numbers",
    ),
    (
        "remora_handover_pause_seconds",
        "of one moment; the log line has it too",
    ),
    (
        "remora_config_last_reload_success_timestamp_seconds",
        "the events say when",
    ),
    ("remora_node_checks_total", "their result is the node's state"),
    (
        "remora_tls_handshakes_pending",
        "their number is bounded, and what is refused is an end cause",
    ),
];

/// A metric of the documentation's table.
struct Metric {
    kind: String,
    labels: BTreeSet<String>,
    meaning: String,
}

fn metrics() -> BTreeMap<String, Metric> {
    let (_, list) = METRICS.split_once("## List\n").expect("a list");
    let rows = list.lines().filter(|line| line.starts_with("| `"));
    let mut metrics: BTreeMap<String, Metric> = rows
        .map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let [name, kind, labels, meaning] = cells[..] else {
                panic!("{row} has not four cells");
            };
            let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            let metric = Metric {
                kind: kind.to_owned(),
                labels,
                meaning: without_links(meaning),
            };
            (name.trim_matches('`').to_owned(), metric)
        })
        .collect();
    // Its row names the others.
    for name in [
        "process_open_fds",
        "process_max_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        let metric = Metric {
            kind: "gauge".to_owned(),
            labels: BTreeSet::new(),
            meaning: "As other programs have it.".to_owned(),
        };
        metrics.insert(name.to_owned(), metric);
    }
    metrics
}

/// `[text](target)` as text.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('[') {
        let Some((words, behind)) = behind.split_once("](") else {
            break;
        };
        let (_, behind) = behind.split_once(')').expect("an end of the link");
        plain += before;
        plain += words;
        rest = behind;
    }
    plain + rest
}

/// The names in an expression that look like ours, without the suffixes of a histogram.
fn names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("remora_") || word.starts_with("process_"));
    ours.map(|name| {
        let histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        histogram.unwrap_or(name).to_owned()
    })
    .collect()
}

/// The labels that an expression names in selectors and in `by`.
fn labels(expression: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    let selectors = expression.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    for selector in selectors {
        let matchers = selector
            .split(',')
            .filter_map(|matcher| matcher.split(['=', '!']).next());
        labels.extend(matchers.map(|label| label.trim().to_owned()));
    }
    for word in ["by (", "on ("] {
        let lists = expression.split(word).skip(1).filter_map(|rest| rest.split(')').next());
        labels.extend(
            lists
                .flat_map(|list| list.split(','))
                .map(|label| label.trim().to_owned()),
        );
    }
    labels.retain(|label| !label.is_empty());
    labels
}

fn all_expressions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let panels = ROWS.iter().flat_map(|row| row.panels);
    let queries = panels.flat_map(|panel| panel.queries.iter().map(|(query, _)| (panel.title, *query)));
    queries.chain(ALERTS.iter().map(|alert| (alert.name, alert.expression)))
}

#[test]
fn every_expression_names_metrics_and_labels_that_there_are() {
    let metrics = metrics();
    let of_scrape = ["job", "instance", "le", "__name__"].map(str::to_owned);
    for (title, expression) in all_expressions() {
        let named = names(expression);
        let mut known: BTreeSet<String> = of_scrape.iter().cloned().collect();
        for name in &named {
            let metric = metrics
                .get(name)
                .unwrap_or_else(|| panic!("{title}: there is no {name}"));
            known.extend(metric.labels.iter().cloned());
            let is_counted = metric.kind != "gauge";
            let is_rate = expression.contains("rate(") || expression.contains("increase(");
            assert!(!is_counted || is_rate, "{title}: {name} only ever rises");
        }
        for label in labels(expression) {
            assert!(known.contains(&label), "{title}: no metric of {expression} has {label}");
        }
    }
}

#[test]
fn every_metric_is_shown_or_said_not_to_be() {
    let shown: BTreeSet<String> = all_expressions()
        .flat_map(|(_, expression)| names(expression))
        .collect();
    let not_shown: BTreeSet<&str> = NOT_SHOWN.iter().map(|(name, _)| *name).collect();
    for name in metrics().keys() {
        assert_ne!(
            shown.contains(name),
            not_shown.contains(name.as_str()),
            "{name} must be in a panel or an alert, or in NOT_SHOWN, and not in both"
        );
    }
}

#[test]
fn every_alert_has_a_section_that_says_what_to_do() {
    let sections: BTreeSet<&str> = ALERTS_PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let alerts: BTreeSet<&str> = ALERTS.iter().map(|alert| alert.name).collect();
    assert_eq!(sections, alerts);
    let tests = read(RULE_TESTS);
    for alert in alerts {
        assert!(
            tests.contains(&format!("alertname: {alert}\n")),
            "{RULE_TESTS} has no test of {alert}"
        );
    }
}

#[test]
fn the_dashboard_is_that_of_the_tables() {
    let text = serde_json::to_string_pretty(&dashboard(&metrics())).expect("JSON") + "\n";
    compare(DASHBOARD, &text);
}

#[test]
fn the_rules_are_those_of_the_tables() {
    compare(RULES, &rules());
}

fn path_of(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(path_of(file)).unwrap_or_default()
}

#[track_caller]
fn compare(file: &str, text: &str) {
    if std::env::var_os(WRITE).is_some() {
        fs::write(path_of(file), text).expect("it can be written");
    }
    assert!(
        read(file) == text,
        "{file} is not what its tables say: write it anew with {WRITE}=1 cargo test --test dashboard"
    );
}

fn dashboard(metrics: &BTreeMap<String, Metric>) -> Value {
    const WIDTH: u64 = 24;
    const HEIGHT: u64 = 7;
    let mut panels = Vec::new();
    let (mut id, mut y) = (1, 0);
    for Row { title, panels: shown } in ROWS {
        panels.push(json!({
            "id": id, "type": "row", "title": title, "collapsed": false, "panels": [],
            "gridPos": { "h": 1, "w": WIDTH, "x": 0, "y": y },
        }));
        (id, y) = (id + 1, y + 1);
        let mut x = 0;
        let mut height = 0;
        for panel in *shown {
            let (w, h) = match panel.kind {
                Kind::Stat => (4, 4),
                Kind::Lines | Kind::Table => (8, HEIGHT),
            };
            if x + w > WIDTH {
                (x, y) = (0, y + height);
            }
            panels.push(shown_panel(panel, id, (x, y, w, h), metrics));
            (id, x, height) = (id + 1, x + w, h);
        }
        y += height;
    }
    let choice = |name: &str, label: &str, query: &str| {
        json!({
            "name": name, "label": label, "type": "query", "datasource": source(), "query": query, "definition": query,
            "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*",
            "current": { "selected": true, "text": ["All"], "value": ["$__all"] },
        })
    };
    json!({
        "uid": "remora", "title": "Remora", "tags": ["mqtt", "load-balancer"], "schemaVersion": 38, "editable": true,
        "timezone": "browser", "refresh": "10s", "time": { "from": "now-1h", "to": "now" }, "graphTooltip": 1,
        "templating": { "list": [
            { "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus" },
            choice("job", "Job", "label_values(remora_build_info, job)"),
            choice("instance", "Balancer", "label_values(remora_build_info{job=~\"$job\"}, instance)"),
        ] },
        "annotations": { "list": [{
            "name": "Events", "datasource": source(), "enable": true, "iconColor": "orange", "titleFormat": "{{event}}",
            "expr": "sum by (instance, event) (increase(remora_events_total{job=~\"$job\", instance=~\"$instance\"}[1m])) > 0",
        }] },
        "panels": panels,
    })
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn shown_panel(
    panel: &Panel,
    id: u64,
    (x, y, w, h): (u64, u64, u64, u64),
    metrics: &BTreeMap<String, Metric>,
) -> Value {
    let named: BTreeSet<String> = panel.queries.iter().flat_map(|(query, _)| names(query)).collect();
    let meanings = named.iter().map(|name| format!("{name}: {}", metrics[name].meaning));
    let targets = panel.queries.iter().zip('A'..).map(|((query, legend), letter)| {
        json!({
            "refId": letter.to_string(), "datasource": source(), "expr": query, "legendFormat": legend,
            "instant": panel.kind != Kind::Lines, "range": panel.kind == Kind::Lines,
            "format": if panel.kind == Kind::Table { "table" } else { "time_series" },
        })
    });
    let kind = match panel.kind {
        Kind::Stat => "stat",
        Kind::Lines => "timeseries",
        Kind::Table => "table",
    };
    let mut defaults = json!({ "unit": panel.unit });
    if let Some(bad_from) = panel.bad_from {
        defaults["thresholds"] = json!({ "mode": "absolute", "steps": [
            { "color": "green", "value": null }, { "color": "red", "value": bad_from },
        ] });
    }
    let options = match panel.kind {
        Kind::Stat => {
            json!({ "reduceOptions": { "calcs": ["lastNotNull"] }, "colorMode": "value", "graphMode": "none" })
        }
        Kind::Lines => {
            defaults["min"] = json!(0);
            defaults["custom"] = json!({ "lineWidth": 1, "fillOpacity": 10, "showPoints": "never" });
            json!({
                "tooltip": { "mode": "multi", "sort": "desc" },
                "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
            })
        }
        Kind::Table => json!({ "showHeader": true }),
    };
    json!({
        "id": id, "type": kind, "title": panel.title, "description": meanings.collect::<Vec<_>>().join("\n\n"),
        "datasource": source(), "gridPos": { "x": x, "y": y, "w": w, "h": h },
        "fieldConfig": { "defaults": defaults, "overrides": [] }, "options": options, "targets": targets.collect::<Vec<_>>(),
    })
}

fn rules() -> String {
    let mut text =
        "# Alerts on Remora for Prometheus. Written from tests/dashboard/alerts.rs: change that, not this.\n\
                    # What to do about each is in docs/alerts.md.\n\
                    groups:\n  - name: remora\n    rules:\n"
            .to_owned();
    for alert in ALERTS {
        let Alert {
            name,
            expression,
            lasts,
            severity,
            summary,
        } = alert;
        // A string in YAML's double quotes is one of JSON.
        let quoted = |text: &str| serde_json::to_string(text).expect("a string");
        text += &format!(
            "      - alert: {name}\n        expr: {}\n        for: {lasts}\n        labels:\n          severity: {severity}\n        \
             annotations:\n          summary: {}\n          runbook_url: {}\n",
            quoted(expression),
            quoted(summary),
            quoted(&format!("docs/alerts.md#{}", name.to_lowercase())),
        );
    }
    text
}
