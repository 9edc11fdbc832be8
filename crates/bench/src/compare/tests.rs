use serde_json::json;

use super::*;

fn run(per_s: f64, p99: f64, refused: u64) -> Value {
    json!({
        "name": "echo",
        "parameters": {"clients": "100"},
        "messages": {"per_s": per_s, "latency_us": {"p99": p99}},
        "errors": {"refused": refused},
    })
}

fn compared(a: &[Value], b: &[Value]) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (a.iter().collect(), b.iter().collect());
    table("echo", &a, &b)
}

fn line<'a>(text: &'a str, title: &str) -> &'a str {
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with(title)).unwrap()
}

#[test]
fn differences_beyond_noise_have_a_direction() {
    let a = [100.0, 101.0, 102.0, 103.0].map(|per_s| run(per_s, 50.0 + per_s, 0));
    let b = [200.0, 201.0, 202.0, 203.0].map(|per_s| run(per_s, 52.0 + per_s - 100.0, 3));
    let text = compared(&a, &b);
    assert!(line(&text, "messages a second").ends_with("better"), "{text}");
    assert!(
        line(&text, "latency p99").ends_with("no difference beyond noise"),
        "{text}"
    );
    assert!(line(&text, "errors").ends_with("worse"), "{text}");
    assert!(!text.contains("connects a second"), "{text}");
    // As seen from the other side.
    let text = compared(&b, &a);
    assert!(line(&text, "messages a second").ends_with("worse"), "{text}");
}

#[test]
fn one_run_of_each_is_no_verdict() {
    let text = compared(&[run(100.0, 50.0, 0)], &[run(90.0, 60.0, 0)]);
    assert!(line(&text, "messages a second").ends_with("-10.0 %"), "{text}");
    assert!(!text.contains("worse") && !text.contains("better"), "{text}");
}

#[test]
fn different_parameters_are_told() {
    let mut other = run(1.0, 1.0, 0);
    other["parameters"]["clients"] = "200".into();
    let text = compared(&[run(1.0, 1.0, 0)], &[other]);
    assert!(text.contains("not the same: clients is 100 in A, 200 in B"), "{text}");
}

#[test]
fn a_figure_that_one_run_lacks_is_left_out() {
    let mut other = run(1.0, 1.0, 0);
    other["messages"].as_object_mut().unwrap().remove("per_s");
    let text = compared(&[run(1.0, 1.0, 0)], &[run(1.0, 1.0, 0), other]);
    assert!(!text.contains("messages a second"), "{text}");
    assert!(text.contains("latency p99"), "{text}");
}
