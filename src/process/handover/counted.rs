//! What the other process knows already of what was counted here.

use std::collections::HashMap;

use crate::handover::messages::Counter;

/// What the other process was told.
#[derive(Debug, Default)]
pub(super) struct Counted(HashMap<(String, String, String), u64>);

impl Counted {
    /// What was counted since the last call, of all that was counted since this process started.
    pub(super) fn news(&mut self, counters: impl IntoIterator<Item = Counter>) -> Vec<Counter> {
        let mut news = Vec::new();
        for mut counter in counters {
            let key = (counter.name.clone(), counter.of.clone(), counter.label.clone());
            let told = self.0.insert(key, counter.count).unwrap_or(0);
            counter.count = counter.count.saturating_sub(told);
            if counter.count > 0 {
                news.push(counter);
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_is_told_once() {
        let counter = |label: &str, count| Counter {
            name: "ends".to_owned(),
            of: String::new(),
            label: label.to_owned(),
            count,
        };
        let mut counted = Counted::default();
        let first = counted.news([counter("a", 3), counter("b", 0)]);
        assert_eq!(first, [counter("a", 3)]);
        assert_eq!(counted.news([counter("a", 3), counter("b", 2)]), [counter("b", 2)]);
        assert_eq!(counted.news([counter("a", 4), counter("b", 2)]), [counter("a", 1)]);
    }
}
