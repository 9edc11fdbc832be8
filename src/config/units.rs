//! Durations, sizes and counts: as they are written in the file, and as they are shown to people.

use std::fmt::Display;
use std::marker::PhantomData;
use std::time::Duration;

use toml::de::DeValue;

use super::reader::{Leaf, Mismatch, found, quoted, string};

/// A duration between two bounds in milliseconds, both included: `"500ms"`, `"5s"`.
pub(super) struct Time<const MS_MIN: u64, const MS_MAX: u64>;

/// A duration of whole seconds between two bounds, both included; the kernel counts keepalive that way.
pub(super) struct Seconds<const MIN: u64, const MAX: u64>;

/// A size between two bounds in bytes, both included: `"64KiB"`.
pub(super) struct Size<const MIN: u64, const MAX: u64>;

/// A whole number between two bounds, both included, kept as an `N`.
pub(super) struct Whole<N, const MIN: u64, const MAX: u64>(PhantomData<N>);

/// What is counted, and how it is written.
struct Quantity {
    noun: &'static str,
    example: &'static str,
    units: &'static [Unit],
    /// Gives a bare number the unit that was probably meant.
    suggest: fn(u64) -> String,
}

/// A unit's name, and how many of the smallest unit it holds.
type Unit = (&'static str, u64);

pub(super) const SECOND: u64 = 1000;
pub(super) const HOUR: u64 = 60 * 60 * SECOND;
const DURATION: Quantity = Quantity {
    noun: "a duration",
    example: "5s",
    units: &[("ms", 1), ("s", SECOND), ("m", 60 * SECOND), ("h", HOUR)],
    suggest: |number| format!("{number}s"),
};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
const SIZE: Quantity = Quantity {
    noun: "a size",
    example: "64KiB",
    units: &[("B", 1), ("KiB", 1 << 10), ("MiB", MIB), ("GiB", GIB)],
    suggest: |number| text(number, SIZE.units),
};

/// A duration as the file would say it, to the millisecond: `90s`, `24h`.
pub fn duration_text(duration: Duration) -> String {
    // A duration of more milliseconds than a u64 holds was never in a file.
    text(
        u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        DURATION.units,
    )
}

/// A size as the file would say it: `64KiB`.
pub fn size_text(bytes: usize) -> String {
    text(bytes as u64, SIZE.units)
}

impl<const MS_MIN: u64, const MS_MAX: u64> Leaf for Time<MS_MIN, MS_MAX> {
    type Meaning = Duration;

    fn parse(value: &DeValue<'_>) -> Result<Duration, Mismatch> {
        let ms = amount(value, &DURATION)?;
        within(value, ms, MS_MIN, MS_MAX, |ms| text(ms, DURATION.units))?;
        Ok(Duration::from_millis(ms))
    }
}

impl<const MIN: u64, const MAX: u64> Leaf for Seconds<MIN, MAX> {
    type Meaning = Duration;

    fn parse(value: &DeValue<'_>) -> Result<Duration, Mismatch> {
        let ms = amount(value, &DURATION)?;
        if !ms.is_multiple_of(SECOND) {
            let message = format!("{} is not a number of whole seconds", shown(value));
            let hint = format!(
                "the kernel counts seconds here: write \"{}s\"",
                ms.div_ceil(SECOND)
            );
            return Err(Mismatch::new(message, hint));
        }
        within(value, ms / SECOND, MIN, MAX, |seconds| {
            format!("{seconds}s")
        })?;
        Ok(Duration::from_millis(ms))
    }
}

impl<const MIN: u64, const MAX: u64> Leaf for Size<MIN, MAX> {
    type Meaning = usize;

    fn parse(value: &DeValue<'_>) -> Result<usize, Mismatch> {
        let bytes = amount(value, &SIZE)?;
        within(value, bytes, MIN, MAX, |bytes| text(bytes, SIZE.units))?;
        usize::try_from(bytes)
            .map_err(|_| Mismatch::new("more than this machine can address", "write less"))
    }
}

impl<N: TryFrom<u64>, const MIN: u64, const MAX: u64> Leaf for Whole<N, MIN, MAX> {
    type Meaning = N;

    fn parse(value: &DeValue<'_>) -> Result<N, Mismatch> {
        let range = || format!("write a whole number from {MIN} to {MAX}");
        let DeValue::Integer(written) = value else {
            let hint = match value.as_str().map(str::parse::<u64>) {
                Some(Ok(number)) => format!("write {number}, without quotes"),
                Some(Err(_)) | None => range(),
            };
            let message = format!("{}, not a whole number", found(value));
            return Err(Mismatch::new(message, hint));
        };
        let out_of_range =
            || Mismatch::new(format!("{written} is not between {MIN} and {MAX}"), range());
        u64::from_str_radix(written.as_str(), written.radix())
            .ok()
            .filter(|number| (MIN..=MAX).contains(number))
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(out_of_range)
    }
}

impl Leaf for bool {
    type Meaning = Self;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        value
            .as_bool()
            .ok_or_else(|| Mismatch::of_type(value, "a boolean", "true or false"))
    }
}

/// A whole number with a unit, counted in the quantity's smallest unit.
fn amount(value: &DeValue<'_>, quantity: &Quantity) -> Result<u64, Mismatch> {
    let Quantity {
        noun,
        example,
        units,
        suggest,
    } = quantity;
    let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    let usage =
        || format!("write a whole number and a unit, such as \"{example}\"; the units are {names}");
    let without_unit = |digits: &str| {
        let hint = match digits.parse::<u64>() {
            Ok(number) => format!("write \"{}\"; the units are {names}", suggest(number)),
            Err(_) => usage(),
        };
        Err(Mismatch::new(format!("{} has no unit", shown(value)), hint))
    };
    if let DeValue::Integer(number) = value {
        return without_unit(&number.to_string());
    }
    let written = string(value, noun, &format!("a string such as \"{example}\""))?;
    let digits_end = written
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(written.len());
    let (digits, unit) = written.split_at(digits_end);
    let refuse =
        |why: &str, hint: String| Err(Mismatch::new(format!("{} {why}", quoted(written)), hint));
    if digits.is_empty() {
        return refuse(&format!("is not {noun}"), usage());
    }
    if unit.is_empty() {
        return without_unit(digits);
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return refuse(
            &format!("is not {noun}: {} is no unit", quoted(unit)),
            usage(),
        );
    };
    let amount = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor));
    amount.map_or_else(|| refuse("is too much", "write less".to_owned()), Ok)
}

fn within<T: Display>(
    value: &DeValue<'_>,
    amount: u64,
    min: u64,
    max: u64,
    text: impl Fn(u64) -> T,
) -> Result<(), Mismatch> {
    if (min..=max).contains(&amount) {
        return Ok(());
    }
    let direction = if amount < min { "less" } else { "more" };
    let bound = text(if amount < min { min } else { max });
    Err(Mismatch::new(
        format!("{} is {direction} than {bound}", shown(value)),
        format!(
            "write something from \"{}\" to \"{}\"",
            text(min),
            text(max)
        ),
    ))
}

/// With the largest unit that needs no fraction.
fn text(amount: u64, units: &[Unit]) -> String {
    let fits = |(_, size): &&Unit| amount >= *size && amount.is_multiple_of(*size);
    let (name, size) = units.iter().rfind(fits).unwrap_or(&units[0]);
    format!("{}{name}", amount / size)
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => number.to_string(),
        other => quoted(other.as_str().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Leaf>(written: &str) -> Result<T::Meaning, String> {
        let value = DeValue::parse(written).expect("TOML");
        T::parse(value.get_ref()).map_err(|m| format!("{}; {}", m.message, m.hint))
    }

    #[test]
    fn durations_need_a_whole_number_and_a_unit() {
        let ok = |written, ms| {
            let expected = Ok(Duration::from_millis(ms));
            assert_eq!(read::<Time<0, HOUR>>(written), expected, "{written}");
        };
        ok("'0s'", 0);
        ok("'500ms'", 500);
        ok("'5s'", 5_000);
        ok("'2m'", 120_000);
        ok("'1h'", HOUR);

        let refused = |written, part: &str| {
            let said = read::<Time<0, HOUR>>(written).expect_err(written);
            assert!(said.contains(part), "{written}: {said}");
        };
        refused("5", "5 has no unit; write \"5s\"");
        refused("'5'", "\"5\" has no unit; write \"5s\"");
        refused("-5", "-5 has no unit");
        refused("1.5", "1.5 is a float");
        refused("''", "\"\" is not a duration");
        refused("'s'", "\"s\" is not a duration");
        refused("'-5s'", "\"-5s\" is not a duration");
        refused("'1.5s'", "\".5s\" is no unit; write a whole number");
        refused("'5 s'", "\" s\" is no unit");
        refused("'5S'", "\"S\" is no unit");
        refused("'2h'", "\"2h\" is more than 1h");
        refused("'99999999999999999999s'", "too much");
        refused("'18446744073709551615h'", "too much");
    }

    #[test]
    fn seconds_are_whole() {
        assert_eq!(read::<Seconds<1, 60>>("'1m'"), Ok(Duration::from_secs(60)));
        assert_eq!(
            read::<Seconds<1, 60>>("'1000ms'"),
            Ok(Duration::from_secs(1))
        );
        let said = read::<Seconds<1, 60>>("'1500ms'").expect_err("a fraction");
        assert!(said.contains("write \"2s\""), "{said}");
        assert!(read::<Seconds<1, 60>>("'61s'").is_err());
    }

    #[test]
    fn sizes_need_a_unit_of_powers_of_two() {
        assert_eq!(read::<Size<0, GIB>>("'17B'"), Ok(17));
        assert_eq!(read::<Size<0, GIB>>("'64KiB'"), Ok(65_536));
        assert_eq!(read::<Size<0, GIB>>("'1GiB'"), Ok(1 << 30));
        let said = read::<Size<0, GIB>>("'64KB'").expect_err("a unit of ten");
        assert!(said.contains("the units are B, KiB, MiB, GiB"), "{said}");
        let said = read::<Size<0, GIB>>("65536").expect_err("no unit");
        assert!(
            said.contains("65536 has no unit; write \"64KiB\""),
            "{said}"
        );
        assert!(read::<Size<MIB, GIB>>("'1KiB'").is_err());
    }

    #[test]
    fn whole_numbers_keep_to_their_bounds() {
        assert_eq!(read::<Whole<u16, 1, 1000>>("1_000"), Ok(1000));
        assert_eq!(
            read::<Whole<u64, 0, { u64::MAX }>>("0xffff_ffff_ffff_ffff"),
            Ok(u64::MAX)
        );
        for written in [
            "0",
            "-1",
            "1001",
            "99999999999999999999999",
            "'5'",
            "5.0",
            "true",
        ] {
            assert!(read::<Whole<u16, 1, 1000>>(written).is_err(), "{written}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for ms in [1, 500, 1_000, 1_500, 90_000, 120_000, HOUR, 24 * HOUR] {
            let shown = duration_text(Duration::from_millis(ms));
            let read = read::<Time<0, { u64::MAX }>>(&format!("'{shown}'"));
            assert_eq!(read, Ok(Duration::from_millis(ms)), "{shown}");
        }
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(size_text(64 << 20), "64MiB");
        assert_eq!(size_text(1025), "1025B");
        assert_eq!(size_text(0), "0B");
    }
}
