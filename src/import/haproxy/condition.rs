//! Conditions of `.if` and `.elif` (section 2.4 of HAProxy's manual), as far as the file alone decides them.

use crate::import::environment;
use crate::import::haproxy::variables::Variables;

/// How deep a condition may be nested in parentheses.
const DEPTH_MAX: usize = 16;

/// Something is written in a way that is not understood, so nothing is known of the whole.
struct NotUnderstood;

/// `None`: it depends on the machine, or on HAProxy's version.
type Known = Option<bool>;

/// Whether a condition holds.
pub(super) fn holds(text: &str, variables: &Variables) -> Known {
    if text.trim().is_empty() {
        return Some(false);
    }
    let mut reader = Reader { rest: text, variables };
    let known = reader.any(0).ok()?;
    known.filter(|_| reader.rest.trim().is_empty())
}

/// Reads a condition from left to right.
struct Reader<'a> {
    rest: &'a str,
    variables: &'a Variables,
}

impl<'a> Reader<'a> {
    fn take(&mut self, token: &str) -> bool {
        let found = self.rest.trim_start().strip_prefix(token);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// `A || B`
    fn any(&mut self, depth: usize) -> Result<Known, NotUnderstood> {
        let mut found = self.all(depth)?;
        while self.take("||") {
            found = joined(found, self.all(depth)?, true);
        }
        Ok(found)
    }

    /// `A && B`
    fn all(&mut self, depth: usize) -> Result<Known, NotUnderstood> {
        let mut found = self.one(depth)?;
        while self.take("&&") {
            found = joined(found, self.one(depth)?, false);
        }
        Ok(found)
    }

    /// `!A`, `(A)`, a number, a function.
    fn one(&mut self, depth: usize) -> Result<Known, NotUnderstood> {
        let mut is_negated = false;
        while self.take("!") {
            is_negated = !is_negated;
        }
        let known = match self.take("(") {
            true if depth == DEPTH_MAX => return Err(NotUnderstood),
            true => {
                let known = self.any(depth + 1)?;
                if !self.take(")") {
                    return Err(NotUnderstood);
                }
                known
            }
            false => self.predicate()?,
        };
        Ok(known.map(|holds| holds != is_negated))
    }

    fn predicate(&mut self) -> Result<Known, NotUnderstood> {
        let text = self.rest.trim_start();
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let end = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        let Some(rest) = rest.strip_prefix('(') else {
            self.rest = rest;
            return match (name, name.parse::<i64>()) {
                ("true" | "false", _) => Ok(Some(name == "true")),
                (_, Ok(number)) => Ok(Some(number != 0)),
                _ => Err(NotUnderstood),
            };
        };
        let (arguments, rest) = rest.split_once(')').ok_or(NotUnderstood)?;
        self.rest = rest;
        if name.is_empty() || arguments.contains('(') {
            return Err(NotUnderstood);
        }
        Ok(self.function(name, arguments))
    }

    fn function(&self, name: &str, arguments: &str) -> Known {
        let is_known = !arguments.contains("${") && !environment::is_in(arguments);
        let parts: Vec<&str> = arguments.split(',').map(|part| part.trim().trim_matches('"')).collect();
        match (name, &parts[..]) {
            ("defined", [name]) => self.variables.is_set(name).then_some(true),
            ("streq", [a, b]) if is_known => Some(a == b),
            ("strneq", [a, b]) if is_known => Some(a != b),
            ("strstr", [a, b]) if is_known => Some(a.contains(b)),
            _ => None,
        }
    }
}

/// Two conditions, of which one that is `by` decides for both; otherwise both must be known.
fn joined(a: Known, b: Known, by: bool) -> Known {
    match (a, b) {
        (Some(one), _) | (_, Some(one)) if one == by => Some(by),
        (Some(_), Some(_)) => Some(!by),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_fully_understood_depends_on_the_machine() {
        let mut variables = Variables::default();
        variables.set("setenv", "B", "1");
        for (text, expected) in [
            ("", Some(false)),
            ("0", Some(false)),
            ("-1", Some(true)),
            ("! !true", Some(true)),
            ("!true || 0", Some(false)),
            ("defined(B)", Some(true)),
            ("defined(A)", None),
            ("!(defined(A) || defined(B))", Some(false)),
            ("!(defined(A) && defined(B))", None),
            ("!(streq(a,b) && streq(c,d))", Some(true)),
            ("!(streq(a,b) && streq(c,d)) && 0", Some(false)),
            ("!((1 && 0) || (1 && !0))", Some(false)),
            ("1 || 1 && 0", Some(true)),
            ("(1 || 1) && 0", Some(false)),
            ("streq(a && b,a && b)", Some(true)),
            ("strneq(a,b) && strstr(abc,b)", Some(true)),
            ("version_atleast(2.9) && 0", Some(false)),
            ("version_atleast(2.9) || 0", None),
            ("version_atleast(2.9) || 1", Some(true)),
            ("streq(a,b))", None),
            ("(streq(a,b)", None),
            ("streq(a,b) x", None),
            ("streq(a,b) 1 || 1", None),
            ("streq(a,b", None),
            ("streq(a", None),
            ("streq(a,b,a)", None),
            ("streq(a)", None),
            ("streq (a,a)", None),
            ("(1", None),
            ("1)", None),
            ("()", None),
            ("!", None),
            ("1 ||", None),
            ("1 & 1", None),
            ("1 1", None),
            ("something", None),
        ] {
            assert_eq!(holds(text, &variables), expected, "{text}");
        }
        let deep = "(".repeat(100_000) + "1";
        assert_eq!(holds(&deep, &variables), None);
    }
}
