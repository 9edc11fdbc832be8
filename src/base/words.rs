//! Words of messages that depend on a number.

use std::fmt::Display;

/// `1 node`, `2 nodes`: a count with its noun, whose plural ends in s.
pub fn counted<T: Display + PartialEq + From<u8>>(count: T, noun: &str) -> String {
    let end = if count == T::from(1) { "" } else { "s" };
    format!("{count} {noun}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_any_other_number_is_plural() {
        let shown = [0_usize, 1, 2, 11].map(|count| counted(count, "node"));
        assert_eq!(shown, ["0 nodes", "1 node", "2 nodes", "11 nodes"]);
    }
}
