//! Files that are broken, or that no balancer of MQTT could serve: an error or a report with a place, and never a panic.

use std::fs;

use super::{cases, compare, import, root};

/// Runs all broken files of a program.
fn all(program: &str, extension: &str, at_least: usize) {
    let folder = root().join(format!("bad-{program}"));
    let mut wrong = Vec::new();
    let cases = cases(&folder, extension, "-");
    for (name, file) in &cases {
        let outcome = import(&folder, program, file);
        compare(&folder.join(format!("{name}.report")), &outcome.report, &mut wrong);
        if ![0, 1, 2].contains(&outcome.code) || outcome.report.contains("panicked") {
            wrong.push(format!("{name}: exit code {}", outcome.code));
        }
        if outcome.code == 1 && !outcome.toml.is_empty() {
            wrong.push(format!("{name}: a result of a file that was refused"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(cases.len() >= at_least, "only {} files", cases.len());
}

#[test]
fn broken_configurations_of_nginx_are_explained() {
    all("nginx", "conf", 35);
}

#[test]
fn broken_configurations_of_haproxy_are_explained() {
    all("haproxy", "cfg", 24);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    for (program, file) in [("nginx", "gone.conf"), ("haproxy", "gone.cfg")] {
        let outcome = import(folder.path(), program, file);
        assert_eq!(outcome.code, 1, "{}", outcome.report);
        assert!(outcome.report.contains(file), "{}", outcome.report);
        assert!(
            outcome.report.contains("cannot be read: No such file"),
            "{}",
            outcome.report
        );
    }
}

#[test]
fn bad_usage_exits_with_64() {
    for arguments in [&["import"][..], &["import", "nginx"], &["import", "apache", "x"]] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_remora"))
            .args(arguments)
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
}

#[test]
fn a_file_of_many_megabytes_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let line = "# a line that says nothing\n";
    fs::write(folder.path().join("large"), line.repeat((17 << 20) / line.len())).expect("written");
    for program in ["nginx", "haproxy"] {
        let outcome = import(folder.path(), program, "large");
        assert_eq!(outcome.code, 1, "{}", outcome.report);
        assert!(outcome.report.contains("16 MiB"), "{}", outcome.report);
    }
}

#[test]
fn twenty_thousand_timeouts_do_not_take_the_square_of_their_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut text = "listen mqtt\n mode tcp\n bind :1883\n server a 10.0.0.1:1883\n".to_owned();
    for number in 0..20_000 {
        text += &format!(" timeout a{number} 5s\n timeout connect 5s\n");
    }
    fs::write(folder.path().join("a.cfg"), text).expect("written");
    let start = tokio::time::Instant::now();
    let outcome = import(folder.path(), "haproxy", "a.cfg");
    assert_eq!(outcome.code, 2, "{}", outcome.toml);
    let took = start.elapsed();
    assert!(took.as_secs() < 15, "{took:?}");
}
