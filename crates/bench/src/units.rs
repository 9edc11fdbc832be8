//! Quantities: durations and rates as the command line takes them; times, counts and rates as people read them.

use std::time::Duration;

const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    // Behind the other units that end with it.
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("", 1.0),
];

/// Longest duration of a load test.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Reads `500us`, `5ms`, `1.5s`, `2m`; a number alone is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 500us, 5ms, 1.5s or 2m");
    let (number, unit) = UNITS
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))
        .ok_or_else(wrong)?;
    let number: f64 = number.trim().parse().map_err(|_| wrong())?;
    let duration = Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())?;
    if duration > LONGEST {
        return Err(format!("{text:?} is longer than thirty days"));
    }
    Ok(duration)
}

/// Reads a number of events a second, above zero.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err(format!("{text:?} is not a rate above 0 a second")),
    }
}

/// A time that is given in µs, in the unit that suits it: `850 µs`, `1.36 ms`, `180.7 ms`, `2.50 s`.
pub(super) fn time_text(us: f64) -> String {
    let (value, unit) = match us {
        0.0 => return "0".to_owned(),
        us if us < 999.5 => (us, "µs"),
        us if us < 999_950.0 => (us / 1e3, "ms"),
        us if us < 600e6 => (us / 1e6, "s"),
        us => (us / 60e6, "min"),
    };
    // As many digits as the histograms keep, and a decimal at least where the unit is coarse.
    let decimals = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 || unit != "µs" => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// A number with its thousands apart: `12,345`.
pub(super) fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of events per second, with a decimal where it is small.
pub(super) fn rate_text(per_s: f64) -> String {
    match per_s {
        0.0 => "0".to_owned(),
        per_s if per_s < 99.95 => format!("{per_s:.1}"),
        per_s => count_text(per_s.round() as u64),
    }
}

/// A number of bytes in the unit that suits it: `512 B`, `1.2 kB`, `34.5 MB`.
pub(super) fn bytes_text(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 1e3 => format!("{bytes:.0} B"),
        bytes if bytes < 1e6 => format!("{:.1} kB", bytes / 1e3),
        bytes if bytes < 1e9 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.2} GB", bytes / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_in_the_unit_that_suits_them() {
        for (us, text) in [
            (0.0, "0"),
            (8.25, "8.25 µs"),
            (45.67, "45.7 µs"),
            (850.2, "850 µs"),
            (999.6, "1.00 ms"),
            (1_364.0, "1.36 ms"),
            (180_748.0, "180.7 ms"),
            (999_960.0, "1.00 s"),
            (2_500_000.0, "2.50 s"),
            (90e6, "90.0 s"),
            (900e6, "15.0 min"),
        ] {
            assert_eq!(time_text(us), text, "{us}");
        }
        for (count, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count_text(count), text);
        }
        assert_eq!(rate_text(0.25), "0.2");
        assert_eq!(rate_text(12_345.6), "12,346");
        assert_eq!(bytes_text(999.0), "999 B");
        assert_eq!(bytes_text(1_234_000.0), "1.2 MB");
        assert_eq!(bytes_text(2.5e9), "2.50 GB");
    }

    #[test]
    fn durations_have_units() {
        for (text, expected) in [
            ("500us", Duration::from_micros(500)),
            ("500µs", Duration::from_micros(500)),
            ("5ms", Duration::from_millis(5)),
            ("0.5", Duration::from_millis(500)),
            ("1.5s", Duration::from_millis(1_500)),
            ("2m", Duration::from_secs(120)),
            ("1h", Duration::from_secs(3_600)),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for text in ["", "ms", "-1s", "1 parsec", "nan", "inf", "1e300s", "9999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_above_zero() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "nan", "inf", "fast", ""] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
