//! Quantities of the command line, as people write them: durations with their unit.

use std::time::Duration;

const UNITS: [(&str, f64); 8] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ms", 1e-3),
    // After the others that end with it.
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("", 1.0),
];

/// Longest duration that makes sense for a load test.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Reads `500us`, `5ms`, `1.5s`, `2m`; a number alone is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; one is 500us, 5ms, 1.5s or 2m");
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

/// Reads how often something happens in a second: above zero.
pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1e9 => Ok(rate),
        _ => Err(format!("{text:?} is no rate above 0 a second")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
