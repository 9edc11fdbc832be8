//! When, where and how a result was measured.

use std::env;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::args::Args;

/// What a result does not say by itself.
#[derive(Clone, Debug, Serialize)]
pub(super) struct About {
    /// When the bench was started, in UTC.
    pub(super) date: String,
    pub(super) host: String,
    /// Its kernel and processors.
    pub(super) machine: String,
    /// What the program says of its version.
    pub(super) program: String,
    /// The command line, without the password.
    pub(super) command: String,
}

impl About {
    /// Of a run that begins now.
    pub(super) fn new(args: &Args, program: &str) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let processor = read("/proc/cpuinfo");
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name"));
        let processor = processor.map(|rest| rest.trim_start_matches([' ', '\t', ':']));
        let processors = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = read("/proc/sys/kernel/osrelease");
        let arguments: Vec<_> = env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
        Self {
            date: date(SystemTime::now()),
            host: read("/proc/sys/kernel/hostname"),
            machine: match processor {
                Some(processor) => format!("Linux {kernel}, {processors} × {processor}"),
                None => format!("Linux {kernel}, {processors} processors"),
            },
            program: program.to_owned(),
            command: command(&arguments, args.password()),
        }
    }
}

/// The date of a moment, in UTC, to the minute.
fn date(at: SystemTime) -> String {
    let text = humantime::format_rfc3339_seconds(at.max(UNIX_EPOCH)).to_string();
    format!("{} UTC", text[.."2026-11-30T00:21".len()].replace('T', " "))
}

/// The command line as it can be typed, with the password left out wherever it stands.
fn command(arguments: &[String], password: Option<&str>) -> String {
    let password = password.filter(|password| !password.is_empty());
    let words = arguments.iter().map(|word| {
        let word = match password {
            Some(password) => word.replace(password, "***"),
            None => word.clone(),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:=@%,[]".contains(c);
        match !word.is_empty() && word.chars().all(is_plain) {
            true => word,
            false => format!("'{}'", word.replace('\'', r"'\''")),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_795_998_060, "2026-11-30 00:21 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_command_can_be_typed_again_and_has_no_password() {
        let words = [
            "remora",
            "bench",
            "--id",
            "a b",
            "-Psecret",
            "-P",
            "secret",
            "--password=secret",
        ];
        let words = words.map(str::to_owned);
        let shown = command(&words, Some("secret"));
        assert_eq!(shown, "remora bench --id 'a b' '-P***' -P '***' '--password=***'");
        assert_eq!(command(&words[..2], None), "remora bench");
    }
}
