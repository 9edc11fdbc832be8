//! Text in HTML, and values in the places of a document.

use std::fmt::{self, Write};

/// Shows text so that it is text in HTML, also inside of an attribute.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            other => f.write_char(other),
        })
    }
}

pub(super) fn escaped(text: &str) -> String {
    Text(text).to_string()
}

/// The document with the value of each name in doubled braces. What is in a value is not looked at, so that no value can ask for
/// another one.
pub(super) fn fill<'v>(document: &str, value: impl Fn(&str) -> &'v str) -> String {
    let mut filled = String::with_capacity(96 * 1024);
    let mut rest = document;
    while let Some((before, behind)) = rest.split_once("{{") {
        filled.push_str(before);
        let (name, behind) = behind.split_once("}}").unwrap_or((behind, ""));
        filled.push_str(value(name));
        rest = behind;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(
            escaped("<script>alert('\"&\")</script>"),
            "&lt;script&gt;alert(&#39;&quot;&amp;&quot;)&lt;/script&gt;"
        );
        assert_eq!(escaped("Gerät-7 🚀"), "Gerät-7 🚀");
    }

    #[test]
    fn a_value_that_names_another_one_does_not_get_it() {
        let value = |name: &str| match name {
            "a" => "{{b}}",
            "b" => "secret",
            _ => "",
        };
        assert_eq!(fill("x{{a}}y{{c}}z{{b}}", value), "x{{b}}yzsecret");
    }
}
