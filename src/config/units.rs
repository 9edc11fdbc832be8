//! Parses durations, sizes and counts in the file, and formats them for messages.

use std::fmt::Display;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::reader::{Form, Leaf, Mismatch, found, quoted};
use super::words;

/// A duration between two bounds in milliseconds, inclusive: `"500ms"`, `"5s"`.
pub(super) struct Time<const MS_MIN: u64, const MS_MAX: u64>;

/// A duration in whole seconds, in which the kernel counts keepalive, between two bounds, inclusive.
pub(super) struct Seconds<const MIN: u64, const MAX: u64>;

/// A size between two bounds in bytes, inclusive: `"64KiB"`.
pub(super) struct Size<const MIN: u64, const MAX: u64>;

/// A whole number between two bounds, inclusive, converted to `N`.
pub(super) struct Whole<N, const MIN: u64, const MAX: u64>(PhantomData<N>);

/// The weight of a node.
pub(super) struct Weight;

/// A kind of quantity and its notation.
struct Quantity {
    noun: &'static str,
    example: &'static str,
    units: &'static [Unit],
    /// What a bare number of other programs may be in, in the smallest unit; the first is the likelier one.
    bare: &'static [u64],
    /// Units that are not taken, in small letters, and their size in the smallest one.
    others: &'static [Unit],
}

/// A unit's name, and its size in the smallest unit.
type Unit = (&'static str, u64);

pub(super) const SECOND: u64 = 1000;
pub(super) const HOUR: u64 = 60 * 60 * SECOND;
const DURATION: Quantity = Quantity {
    noun: "a duration",
    example: "5s",
    units: &[("ms", 1), ("s", SECOND), ("m", 60 * SECOND), ("h", HOUR)],
    bare: &[SECOND, 1],
    others: &[
        ("msec", 1),
        ("msecs", 1),
        ("millis", 1),
        ("millisecond", 1),
        ("milliseconds", 1),
        ("sec", SECOND),
        ("secs", SECOND),
        ("second", SECOND),
        ("seconds", SECOND),
        ("min", 60 * SECOND),
        ("mins", 60 * SECOND),
        ("minute", 60 * SECOND),
        ("minutes", 60 * SECOND),
        ("hr", HOUR),
        ("hrs", HOUR),
        ("hour", HOUR),
        ("hours", HOUR),
        ("d", 24 * HOUR),
        ("day", 24 * HOUR),
        ("days", 24 * HOUR),
        ("w", 7 * 24 * HOUR),
    ],
};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
const SIZE: Quantity = Quantity {
    noun: "a size",
    example: "64KiB",
    units: &[("B", 1), ("KiB", 1 << 10), ("MiB", MIB), ("GiB", GIB)],
    bare: &[1],
    // nginx, HAProxy and EMQX count them in powers of two as well.
    others: &[
        ("byte", 1),
        ("bytes", 1),
        ("k", KIB),
        ("kb", KIB),
        ("m", MIB),
        ("mb", MIB),
        ("g", GIB),
        ("gb", GIB),
        ("t", 1024 * GIB),
        ("tb", 1024 * GIB),
    ],
};

/// A duration in the notation of the file, to the millisecond: `90s`, `24h`.
pub fn duration_text(duration: Duration) -> String {
    // A duration of more milliseconds than a u64 holds cannot come from a file.
    text(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), DURATION.units)
}

/// A size in the notation of the file: `64KiB`.
pub fn size_text(bytes: usize) -> String {
    text(bytes as u64, SIZE.units)
}

impl<const MS_MIN: u64, const MS_MAX: u64> Leaf for Time<MS_MIN, MS_MAX> {
    type Output = Duration;
    const FORM: Form = Form::Amount(DURATION.units);

    fn parse(value: &DeValue<'_>) -> Result<Duration, Mismatch> {
        let ms = amount(value, &DURATION, MS_MIN..=MS_MAX)?;
        within(value, ms, MS_MIN, MS_MAX, |ms| text(ms, DURATION.units))?;
        Ok(Duration::from_millis(ms))
    }
}

impl<const MIN: u64, const MAX: u64> Leaf for Seconds<MIN, MAX> {
    type Output = Duration;
    const FORM: Form = Form::Amount(DURATION.units);

    fn parse(value: &DeValue<'_>) -> Result<Duration, Mismatch> {
        let ms = amount(value, &DURATION, MIN * SECOND..=MAX * SECOND)?;
        if !ms.is_multiple_of(SECOND) {
            let message = format!("{} is not a number of whole seconds", shown(value));
            let hint = format!("write \"{}s\": the kernel counts seconds here", ms.div_ceil(SECOND));
            return Err(Mismatch::new(message, hint));
        }
        within(value, ms / SECOND, MIN, MAX, |seconds| format!("{seconds}s"))?;
        Ok(Duration::from_millis(ms))
    }
}

impl<const MIN: u64, const MAX: u64> Leaf for Size<MIN, MAX> {
    type Output = usize;
    const FORM: Form = Form::Amount(SIZE.units);

    fn parse(value: &DeValue<'_>) -> Result<usize, Mismatch> {
        let bytes = amount(value, &SIZE, MIN..=MAX)?;
        within(value, bytes, MIN, MAX, |bytes| text(bytes, SIZE.units))?;
        // As much as this machine can address.
        Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
    }
}

impl<N: TryFrom<u64>, const MIN: u64, const MAX: u64> Leaf for Whole<N, MIN, MAX> {
    type Output = N;
    const FORM: Form = Form::Whole(MIN, MAX);

    fn parse(value: &DeValue<'_>) -> Result<N, Mismatch> {
        let range = || format!("write a whole number from {MIN} to {MAX}");
        // In other programs, 0 often means no limit.
        let hint = |text: &str| match is_nothing(text) {
            true => format!("leave the key out for the default, or {}", range()),
            false => range(),
        };
        let DeValue::Integer(written) = value else {
            let text = words::text(value).unwrap_or_default();
            let meant = whole(&text).filter(|number| (MIN..=MAX).contains(number));
            let hint = match (value.as_str(), meant) {
                (Some(_), Some(number)) => format!("write {number}, without quotes"),
                (None, Some(number)) => format!("write {number}"),
                (_, None) => hint(&text),
            };
            let message = format!("{}, not a whole number", found(value));
            return Err(Mismatch::new(message, hint));
        };
        let out_of_range = || {
            let message = format!("{written} is not between {MIN} and {MAX}");
            Mismatch::new(message, hint(&written.to_string()))
        };
        u64::from_str_radix(written.as_str(), written.radix())
            .ok()
            .filter(|number| (MIN..=MAX).contains(number))
            .and_then(|number| N::try_from(number).ok())
            .ok_or_else(out_of_range)
    }
}

impl Leaf for Weight {
    type Output = u16;
    const FORM: Form = Whole::<u16, 1, 1000>::FORM;

    fn parse(value: &DeValue<'_>) -> Result<u16, Mismatch> {
        let number = words::text(value).and_then(|text| text.parse::<f64>().ok());
        let hint = match number {
            Some(0.0) => {
                "leave the [[nodes]] out and reload: the node's connections go on, and its clients go to other nodes when they \
                 reconnect; that is how a node is drained"
            }
            Some(weight) if weight > 1000.0 || weight.fract() != 0.0 && weight > 0.0 => {
                "write whole numbers from 1 to 1000 for all nodes: only their proportions count"
            }
            Some(weight) if weight < 0.0 => "write a whole number from 1 to 1000",
            _ => return Whole::<u16, 1, 1000>::parse(value),
        };
        let message = format!("{} is not between 1 and 1000", shown(value));
        Err(Mismatch::new(message, hint))
    }
}

impl Leaf for bool {
    type Output = Self;
    const FORM: Form = Form::Truth;

    fn parse(value: &DeValue<'_>) -> Result<Self, Mismatch> {
        value.as_bool().ok_or_else(|| {
            let text = words::text(value).unwrap_or_default();
            let meant = match &*text.to_ascii_lowercase() {
                "yes" | "on" | "true" | "1" | "enabled" => "true",
                "no" | "off" | "false" | "0" | "disabled" => "false",
                _ => "true or false",
            };
            Mismatch::of_type(value, "a boolean", meant)
        })
    }
}

/// Whether other programs have this for no limit, or for what they choose themselves.
fn is_nothing(text: &str) -> bool {
    matches!(
        &*text.to_ascii_lowercase(),
        "0" | "-1"
            | "none"
            | "off"
            | "never"
            | "no"
            | "auto"
            | "default"
            | "unlimited"
            | "infinite"
            | "infinity"
            | "disabled"
    )
}

/// A whole number in the notation of other programs.
fn whole(text: &str) -> Option<u64> {
    let digits = text.trim().replace(['_', ','], "");
    if let Ok(number) = digits.parse::<u64>() {
        return Some(number);
    }
    let number = digits.parse::<f64>().ok()?;
    // Above, not every whole number has a value of its own.
    (number.fract() == 0.0 && (0.0..9e15).contains(&number)).then_some(number as u64)
}

/// Parses a whole number with a unit. Returns it in the quantity's smallest unit; suggestions are within `bounds`.
fn amount(value: &DeValue<'_>, quantity: &Quantity, bounds: RangeInclusive<u64>) -> Result<u64, Mismatch> {
    let Quantity {
        noun, example, units, ..
    } = quantity;
    let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    let example = match meant(example, quantity).filter(|amount| bounds.contains(amount)) {
        Some(amount) => text(amount, units),
        None => text(*bounds.start(), units),
    };
    let usage = || format!("write a whole number and a unit, such as \"{example}\"; the units are {names}");
    let suggest = |amount: u64| format!("write \"{}\"", text(amount, units));
    let without_unit = |digits: &str| {
        let hint = match digits.parse::<u64>() {
            Ok(number) => bare(number, quantity, &bounds).unwrap_or_else(usage),
            Err(_) => usage(),
        };
        Err(Mismatch::new(format!("{} has no unit", shown(value)), hint))
    };
    if let DeValue::Integer(number) = value {
        return without_unit(&number.to_string());
    }
    let Some(written) = value.as_str() else {
        let text = words::text(value).unwrap_or_default();
        let meant = meant(&text, quantity).filter(|amount| bounds.contains(amount));
        let message = format!("{}, not {noun}", found(value));
        return Err(Mismatch::new(message, meant.map_or_else(usage, suggest)));
    };
    let digits_end = written.find(|c: char| !c.is_ascii_digit()).unwrap_or(written.len());
    let (digits, unit) = written.split_at(digits_end);
    let refuse = |why: &str| {
        let meant = meant(written, quantity).filter(|amount| bounds.contains(amount));
        let hint = match meant {
            Some(amount) => suggest(amount),
            None if is_nothing(written) => format!("leave the key out for the default, or {}", usage()),
            None => usage(),
        };
        Err(Mismatch::new(format!("{} {why}", quoted(written)), hint))
    };
    if digits.is_empty() {
        return refuse(&format!("is not {noun}"));
    }
    if unit.is_empty() {
        return without_unit(digits);
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        return refuse(&format!("is not {noun}: {} is not a unit", quoted(unit)));
    };
    let amount = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(*factor));
    amount.ok_or_else(|| {
        let message = format!("{} is too large", quoted(written));
        Mismatch::new(message, format!("write {:?} at most", text(*bounds.end(), units)))
    })
}

/// What to write for a number without a unit, if it means anything within the bounds.
fn bare(number: u64, quantity: &Quantity, bounds: &RangeInclusive<u64>) -> Option<String> {
    /// From here on, HAProxy's milliseconds are as likely as seconds.
    const MAY_BE_SMALL_UNIT: u64 = 100;
    let names: Vec<&str> = quantity.units.iter().map(|(name, _)| *name).collect();
    let mut all = quantity.bare.iter().enumerate().filter_map(|(index, factor)| {
        let amount = number.checked_mul(*factor)?;
        let is_likely = index == 0 || number >= MAY_BE_SMALL_UNIT;
        (is_likely && bounds.contains(&amount)).then(|| format!("\"{}\"", text(amount, quantity.units)))
    });
    let first = all.next()?;
    let second = all.next().map_or(String::new(), |second| {
        format!(", or {second} if it is in milliseconds")
    });
    Some(format!("write {first}{second}; the units are {}", names.join(", ")))
}

/// What an amount in the notation of another program means: `1m30s`, `1.5 s`, `64kb`, or a fraction of the usual unit.
fn meant(written: &str, quantity: &Quantity) -> Option<u64> {
    let mut rest = written.trim();
    let mut amount = 0.0;
    while !rest.is_empty() {
        let digits_end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number = rest[..digits_end].parse::<f64>().ok()?;
        rest = rest[digits_end..].trim_start();
        let unit_end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let unit = rest[..unit_end].to_ascii_lowercase();
        rest = rest[unit_end..].trim_start();
        let same = |(name, _): &&Unit| name.eq_ignore_ascii_case(&unit);
        let factor = match &*unit {
            "" => quantity.bare.first().copied(),
            _ => quantity
                .units
                .iter()
                .chain(quantity.others)
                .find(same)
                .map(|(_, factor)| *factor),
        };
        amount += number * factor? as f64;
    }
    (amount > 0.0 && amount < 9e15 && amount.fract() == 0.0).then_some(amount as u64)
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
        format!("write something from \"{}\" to \"{}\"", text(min), text(max)),
    ))
}

/// Formats `amount` with the largest unit that needs no fraction.
fn text(amount: u64, units: &[Unit]) -> String {
    let fits = |(_, size): &&Unit| amount >= *size && amount.is_multiple_of(*size);
    let (name, size) = units.iter().rfind(fits).unwrap_or(&units[0]);
    format!("{}{name}", amount / size)
}

fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        other => quoted(other.as_str().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: Leaf>(written: &str) -> Result<T::Output, String> {
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
        refused("'1.5s'", "\".5s\" is not a unit; write \"1500ms\"");
        refused("'5 s'", "\" s\" is not a unit");
        refused("'5S'", "\"S\" is not a unit");
        refused("'2h'", "\"2h\" is more than 1h");
        refused("'99999999999999999999s'", "too large");
        refused("'18446744073709551615h'", "too large");
    }

    #[test]
    fn seconds_are_whole() {
        assert_eq!(read::<Seconds<1, 60>>("'1m'"), Ok(Duration::from_secs(60)));
        assert_eq!(read::<Seconds<1, 60>>("'1000ms'"), Ok(Duration::from_secs(1)));
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
        assert!(said.contains("\"KB\" is not a unit; write \"64KiB\""), "{said}");
        let said = read::<Size<0, GIB>>("65536").expect_err("no unit");
        assert!(said.contains("65536 has no unit; write \"64KiB\""), "{said}");
        assert!(read::<Size<MIB, GIB>>("'1KiB'").is_err());
    }

    #[test]
    fn whole_numbers_keep_to_their_bounds() {
        assert_eq!(read::<Whole<u16, 1, 1000>>("1_000"), Ok(1000));
        assert_eq!(
            read::<Whole<u64, 0, { u64::MAX }>>("0xffff_ffff_ffff_ffff"),
            Ok(u64::MAX)
        );
        for written in ["0", "-1", "1001", "99999999999999999999999", "'5'", "5.0", "true"] {
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
