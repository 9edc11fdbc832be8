//! Topic names and topic filters (MQTT 5, section 4.7), and which subscriptions a topic reaches.
//!
//! mqttbytes is not used for this: none of its filters matches a topic that begins with `$`, even if the filter begins
//! with `$`.

use std::collections::{BTreeMap, HashMap};

/// Whether this is a valid topic name (4.7.1, 4.7.3).
pub(super) fn is_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.contains(['+', '#', '\0'])
}

/// Whether this is a valid topic filter (4.7.1, 4.7.3).
pub(super) fn is_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_level = match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            _ => !level.contains(['+', '#', '\0']),
        };
        if !is_level {
            return false;
        }
    }
    !filter.is_empty()
}

/// Whether a valid filter matches a valid topic.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    // A leading wildcard does not match topics that begin with `$` (4.7.2).
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut levels, mut names) = (filter.split('/'), topic.split('/'));
    loop {
        match (levels.next(), names.next()) {
            // "a/#" matches "a", too (4.7.1.2).
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(level), Some(name)) if level == name => {}
            _ => return false,
        }
    }
}

/// All subscriptions: from a filter to its subscribers `K`, each with the options `V` of the subscription.
#[derive(Debug)]
pub(super) struct Subscriptions<K, V> {
    /// Filters without wildcards, looked up by topic.
    plain: HashMap<Box<str>, BTreeMap<K, V>>,
    /// Filters with wildcards, tried one after another.
    wild: HashMap<Box<str>, BTreeMap<K, V>>,
}

impl<K: Ord, V> Subscriptions<K, V> {
    pub(super) fn new() -> Self {
        Self {
            plain: HashMap::new(),
            wild: HashMap::new(),
        }
    }

    fn part(&mut self, filter: &str) -> &mut HashMap<Box<str>, BTreeMap<K, V>> {
        match filter.contains(['+', '#']) {
            true => &mut self.wild,
            false => &mut self.plain,
        }
    }

    /// Adds a subscription, or replaces its options.
    pub(super) fn insert(&mut self, filter: &str, subscriber: K, options: V) {
        let part = self.part(filter);
        if !part.contains_key(filter) {
            part.insert(filter.into(), BTreeMap::new());
        }
        if let Some(subscribers) = part.get_mut(filter) {
            subscribers.insert(subscriber, options);
        }
    }

    pub(super) fn remove(&mut self, filter: &str, subscriber: &K) {
        let part = self.part(filter);
        if let Some(subscribers) = part.get_mut(filter) {
            subscribers.remove(subscriber);
            if subscribers.is_empty() {
                part.remove(filter);
            }
        }
    }

    /// The subscriptions that match this topic; a subscriber appears once for each of its filters.
    pub(super) fn of<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = (&'a K, &'a V)> {
        let wild = self
            .wild
            .iter()
            .filter(move |(filter, _)| matches(filter, topic))
            .flat_map(|(_, subscribers)| subscribers);
        self.plain.get(topic).into_iter().flatten().chain(wild)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_by_level() {
        let cases = [
            ("a/b", "a/b", true),
            ("a/b", "a/c", false),
            ("a/b", "a", false),
            ("a", "a/b", false),
            ("a", "A", false),
            ("a/+", "a/b", true),
            ("a/+", "a/", true),
            ("a/+", "a", false),
            ("a/+", "a/b/c", false),
            ("+", "a", true),
            ("+", "/a", false),
            ("+/+", "/a", true),
            ("/+", "/a", true),
            ("a/+/c", "a/b/c", true),
            ("a/+/c", "a/b/d", false),
            ("#", "a/b/c", true),
            ("#", "/", true),
            ("a/#", "a", true),
            ("a/#", "a/", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("a/+/#", "a/b", true),
            ("a/+/#", "a", false),
            ("a//b", "a//b", true),
            ("a//b", "a/b", false),
            ("#", "$SYS/uptime", false),
            ("+/uptime", "$SYS/uptime", false),
            ("$SYS/#", "$SYS/uptime", true),
            ("$SYS/+", "$SYS/uptime", true),
            ("a/#", "a/$b", true),
            ("+/$b", "a/$b", true),
        ];
        for (filter, topic, expected) in cases {
            assert_eq!(matches(filter, topic), expected, "{filter} and {topic}");
        }
    }

    #[test]
    fn wildcards_have_a_level_of_their_own() {
        for filter in ["a", "/", "a/+/b", "+", "#", "a/#", "+/#", "a b", "$SYS/#"] {
            assert!(is_filter(filter), "{filter}");
        }
        for filter in ["", "a#", "a/b#", "#/a", "a/#/b", "a+", "+a/b", "a\0"] {
            assert!(!is_filter(filter), "{filter:?}");
        }
    }

    #[test]
    fn topics_have_no_wildcards() {
        for topic in ["a", "/", "a/b", "$a"] {
            assert!(is_topic(topic), "{topic}");
        }
        for topic in ["", "+", "a/#", "a+", "a\0b"] {
            assert!(!is_topic(topic), "{topic:?}");
        }
    }

    #[test]
    fn a_subscription_is_found_until_it_is_removed() {
        let mut subscriptions = Subscriptions::new();
        let filters = ["a/b", "a/+", "#", "c"];
        for (number, filter) in filters.iter().enumerate() {
            subscriptions.insert(filter, number, "first");
        }
        subscriptions.insert("a/b", 0, "second");
        let found = |subscriptions: &Subscriptions<usize, &'static str>| {
            let mut found: Vec<_> = subscriptions.of("a/b").map(|(k, v)| (*k, *v)).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(found(&subscriptions), [(0, "second"), (1, "first"), (2, "first")]);
        subscriptions.remove("a/b", &0);
        subscriptions.remove("#", &2);
        subscriptions.remove("a/+", &7);
        assert_eq!(found(&subscriptions), [(1, "first")]);
    }
}
