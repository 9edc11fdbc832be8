//! A line chart as SVG, with axes whose numbers are round.

use std::fmt::Write as _;

use super::escaped;

pub(super) const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 220.0;
/// Space for the numbers at the axes.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 30.0;
const TOP: f64 = 10.0;

/// About as wide as a character is.
const CHAR: f64 = 6.2;

/// A number at an axis.
pub(super) struct Tick {
    pub(super) at: f64,
    pub(super) text: String,
}

/// A chart from zero to the ends of both axes.
pub(super) struct Chart {
    x_max: f64,
    y_max: f64,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
}

impl Chart {
    /// With these ticks; the vertical axis ends at its last one.
    pub(super) fn new(x_max: f64, x_ticks: Vec<Tick>, y_ticks: Vec<Tick>) -> Self {
        Self {
            x_max,
            y_max: y_ticks.last().map_or(1.0, |tick| tick.at),
            x_ticks,
            y_ticks,
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + value / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.y_max * (HEIGHT - BOTTOM - TOP)
    }

    /// Draws lines, each in the style of its class.
    pub(super) fn drawn(&self, title: &str, lines: &[(&str, Vec<(f64, f64)>)]) -> String {
        let title = escaped(title);
        let mut svg = format!(
            "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">"
        );
        for tick in &self.y_ticks {
            let y = self.y(tick.at);
            // Writing to a string cannot fail, here and below.
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                tick.text
            );
        }
        // A label that would touch the one before, or the edge, is left out.
        let mut taken = 0.0;
        for tick in self.x_ticks.iter().filter(|tick| tick.at <= self.x_max) {
            let (x, half) = (self.x(tick.at), tick.text.chars().count() as f64 * CHAR / 2.0);
            if x - half < taken || x + half > WIDTH {
                continue;
            }
            taken = x + half + CHAR;
            let _ = write!(
                svg,
                "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - 10.0,
                tick.text
            );
        }
        for (class, points) in lines {
            let points: Vec<_> = points
                .iter()
                .map(|&(x, y)| format!("{:.1},{:.1}", self.x(x), self.y(y)))
                .collect();
            let _ = write!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
        }
        svg + "</svg></figure>\n"
    }
}

/// Multiples of a round step (1, 2 or 5 times a power of ten) from zero to just above `most`, some five of them.
fn steps(most: f64) -> Vec<f64> {
    let most = if most > 0.0 { most } else { 1.0 };
    let rough = most / 5.0;
    let power = 10_f64.powf(rough.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| round * power >= rough);
    let step = round.unwrap_or(10.0) * power;
    // Rounding must not add a step beyond a highest value that is itself a multiple.
    let count = (most / step - 1e-9).ceil().max(1.0) as u32;
    (0..=count).map(|number| f64::from(number) * step).collect()
}

/// Ticks for values up to `most`, all in one unit: the one of the highest. Units are names with their sizes, ascending.
pub(super) fn ticks(most: f64, units: &[(&str, f64)]) -> Vec<Tick> {
    let steps = steps(most);
    let top = steps.last().copied().unwrap_or(1.0);
    let suits = units.iter().rev().find(|(_, size)| *size <= top);
    let (unit, size) = suits.or(units.first()).copied().unwrap_or(("", 1.0));
    let text = |value: f64| {
        let text = format!("{:.3}", value / size);
        let text = text.trim_end_matches('0').trim_end_matches('.');
        format!("{text}{unit}")
    };
    let tick = |at: f64| Tick {
        text: if at == 0.0 { "0".to_owned() } else { text(at) },
        at,
    };
    steps.into_iter().map(tick).collect()
}

/// Units of a latency in µs.
pub(super) const MICROSECONDS: [(&str, f64); 3] = [(" µs", 1.0), (" ms", 1e3), (" s", 1e6)];
/// Units of a time in seconds.
pub(super) const SECONDS: [(&str, f64); 2] = [(" ms", 1e-3), (" s", 1.0)];
/// Units of a number.
pub(super) const NUMBERS: [(&str, f64); 3] = [("", 1.0), (" k", 1e3), (" M", 1e6)];

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(most: f64, units: &[(&str, f64)]) -> Vec<String> {
        ticks(most, units).into_iter().map(|tick| tick.text).collect()
    }

    #[test]
    fn ticks_are_round_and_reach_the_highest_value() {
        for (most, units, expected) in [
            (0.0, &NUMBERS[..], &["0", "0.2", "0.4", "0.6", "0.8", "1"][..]),
            (1.0, &NUMBERS, &["0", "0.2", "0.4", "0.6", "0.8", "1"]),
            (6_246.0, &NUMBERS, &["0", "2 k", "4 k", "6 k", "8 k"]),
            (
                850.0,
                &MICROSECONDS,
                &["0", "0.2 ms", "0.4 ms", "0.6 ms", "0.8 ms", "1 ms"],
            ),
            (180_748.0, &MICROSECONDS, &["0", "50 ms", "100 ms", "150 ms", "200 ms"]),
            (0.31, &SECONDS, &["0", "100 ms", "200 ms", "300 ms", "400 ms"]),
            (10.2, &SECONDS, &["0", "5 s", "10 s", "15 s"]),
        ] {
            let texts = texts(most, units);
            assert_eq!(texts, expected, "{most}");
        }
        for most in [0.0, 1e-9, 0.3, 7.0, 99.9, 12_345.0, 9.9e9] {
            let steps = steps(most);
            assert!(steps.last().unwrap() >= &most, "{most}");
            assert!((2..=7).contains(&steps.len()), "{most}: {steps:?}");
        }
    }

    #[test]
    fn labels_neither_touch_nor_leave_the_chart() {
        let tick = |at: f64, text: &str| Tick {
            at,
            text: text.to_owned(),
        };
        let x_ticks = vec![
            tick(0.0, "0"),
            tick(0.1, "close by"),
            tick(9.9, "a very long label"),
            tick(5.0, "five"),
        ];
        let svg = Chart::new(10.0, x_ticks, ticks(1.0, &NUMBERS)).drawn("title", &[]);
        assert!(!svg.contains("close by") && !svg.contains("a very long label"), "{svg}");
    }
}
