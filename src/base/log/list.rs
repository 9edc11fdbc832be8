//! Several values in one field of a line: a list in JSON, separated by commas in text.

use std::error::Error;
use std::fmt;

use super::Escaped;

/// Several values of one field.
///
/// `tracing` has no lists. The only type that it passes on as what it is, and not as text, is an error: so a list is one, and the
/// formats of this log find it by its type. Other subscribers show the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(Vec<String>);

impl List {
    /// A list of these values, as they are shown.
    pub fn of<T: ToString>(values: impl IntoIterator<Item = T>) -> Self {
        Self(values.into_iter().map(|value| value.to_string()).collect())
    }

    /// The list as the value of a field.
    pub fn value(&self) -> &(dyn Error + 'static) {
        self
    }

    /// The values, of which a client may have chosen some: neither escaped nor cut.
    pub(super) fn values(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, value) in self.0.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { "," })?;
            Escaped(value.as_bytes()).fmt(f)?;
        }
        Ok(())
    }
}

impl Error for List {}
