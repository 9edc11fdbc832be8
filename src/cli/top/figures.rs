//! Rates between two samples, and how numbers are written in few columns.

use remora::admin::api::answers::{Counters, NodeCounters};

use super::source::Sample;

/// The newest sample, and the one before it.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) now: Sample,
    before: Option<Sample>,
}

impl Figures {
    /// A new sample follows the older ones, unless it is that of another process.
    pub(super) fn next(older: Option<Self>, now: Sample) -> Self {
        let before = older.map(|older| older.now);
        let before = before.filter(|before| before.status.pid == now.status.pid && before.at < now.at);
        Self { now, before }
    }

    /// How much a number grows per second; `None` before there are two samples.
    pub(super) fn rate(&self, number: impl Fn(&Counters) -> u64) -> Option<f64> {
        let before = self.before.as_ref()?;
        let more = number(&self.now.counters).checked_sub(number(&before.counters))?;
        Some(more as f64 / (self.now.at - before.at).as_secs_f64())
    }

    /// The same for a number of a node. A node that was not there before had none of it.
    pub(super) fn rate_of(&self, node: &str, number: impl Fn(&NodeCounters) -> u64) -> Option<f64> {
        let of = |counters: &Counters| {
            let node = counters.nodes.iter().find(|counters| counters.node == node);
            node.map_or(0, &number)
        };
        self.rate(of)
    }

    /// End causes with their rates, the most frequent first, without those that do not occur now; `None` before there are two samples.
    pub(super) fn ends(&self) -> Option<Vec<(&str, f64)>> {
        self.before.as_ref()?;
        let causes = self.now.counters.ends.keys();
        let rates = causes.filter_map(|cause| {
            let rate = self.rate(|counters| counters.ends.get(cause).copied().unwrap_or_default())?;
            (rate > 0.0).then_some((&**cause, rate))
        });
        let mut rates: Vec<(&str, f64)> = rates.collect();
        rates.sort_by(|(_, one), (_, other)| other.total_cmp(one));
        Some(rates)
    }

    /// What the newest sample counts of a node.
    pub(super) fn counters_of(&self, node: &str) -> Option<&NodeCounters> {
        let mut nodes = self.now.counters.nodes.iter();
        nodes.find(|counters| counters.node == node)
    }
}

/// CONNACKs that accept.
pub(super) fn accepted(counters: &NodeCounters) -> u64 {
    counters.connacks.get("0").copied().unwrap_or_default()
}

/// CONNACKs that refuse.
pub(super) fn refused(counters: &NodeCounters) -> u64 {
    counters.connacks.values().sum::<u64>() - accepted(counters)
}

/// Clients that met a failure.
pub(super) fn failures(counters: &NodeCounters) -> u64 {
    counters.failures.values().sum()
}

/// A rate in at most five columns, as long as it is below a million.
pub(super) fn per_second(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(rate) if rate < 0.05 => "<0.1".to_owned(),
        Some(rate) if rate < 99.95 => format!("{rate:.1}"),
        Some(rate) if rate < 99_999.5 => format!("{rate:.0}"),
        Some(rate) => format!("{:.0}k", rate / 1e3),
    }
}

/// Bytes in at most eight columns.
pub(super) fn bytes(bytes: Option<f64>) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let Some(mut bytes) = bytes else {
        return "-".to_owned();
    };
    let mut units = UNITS.iter();
    let mut unit = units.next();
    // What rounds to 1024 is one of the next unit.
    while bytes >= 1_023.5
        && let Some(next) = units.next()
    {
        bytes /= 1_024.0;
        unit = Some(next);
    }
    let unit = unit.unwrap_or(&"B");
    match bytes {
        bytes if *unit == "B" || bytes >= 99.95 => format!("{bytes:.0} {unit}"),
        bytes => format!("{bytes:.1} {unit}"),
    }
}

/// A part of all, in percent.
pub(super) fn percent(part: Option<f64>) -> String {
    part.map_or("-".to_owned(), |part| format!("{:.1}", part * 100.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_into_their_columns() {
        let rates = [0.0, 0.01, 0.4, 9.96, 99.96, 1_234.5, 99_999.0, 123_456.0];
        assert_eq!(
            rates.map(|rate| per_second(Some(rate))),
            ["0", "<0.1", "0.4", "10.0", "100", "1234", "99999", "123k"]
        );
        let all = [
            0.0,
            999.0,
            1_023.6,
            1_024.0,
            1_536.0,
            102_400.0,
            1_048_575.0,
            5e9,
            1e300,
        ];
        assert_eq!(
            all.map(|count| bytes(Some(count)))[..8],
            [
                "0 B", "999 B", "1.0 KiB", "1.0 KiB", "1.5 KiB", "100 KiB", "1.0 MiB", "4.7 GiB"
            ]
        );
        assert_eq!(
            [percent(Some(1.0 / 3.0)), percent(None), per_second(None), bytes(None)],
            ["33.3", "-", "-", "-"]
        );
    }
}
