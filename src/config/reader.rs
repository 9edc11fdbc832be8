//! Reads a TOML tree into tables of known keys and finds every problem on the way. Which keys there are is `file`'s,
//! what their values look like is `units`' and `address`'.

use std::marker::PhantomData;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem};

/// What a value may hold, for suggestions and for the list of all keys.
#[derive(Debug)]
pub(super) enum Shape {
    Leaf,
    Table(&'static [(&'static str, &'static Shape)]),
    List(&'static Shape),
}

/// A kind of value in the file: how it is read, and what it means.
pub(super) trait Value {
    type Meaning;
    const SHAPE: Shape;

    /// Reads what stands at `place`; none when there was a problem, which is noted then.
    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self::Meaning>;
}

/// A kind of value without parts.
pub(super) trait Leaf {
    type Meaning;

    fn parse(value: &DeValue<'_>) -> Result<Self::Meaning, Mismatch>;
}

/// Why a value is not what its key takes.
#[derive(Debug)]
pub(super) struct Mismatch {
    pub(super) message: String,
    pub(super) hint: String,
}

/// What the file says about a key.
#[derive(Debug, Default)]
pub(super) enum Written<T> {
    #[default]
    Absent,
    /// Said, but not usable; the problem is noted already, so nothing may be concluded from it.
    Wrong,
    Given(Given<T>),
}

/// A value and where it stands.
#[derive(Debug)]
pub(super) struct Given<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A list, or an array of tables.
pub(super) struct List<T>(PhantomData<T>);

/// The problems found so far, and the shape of the whole file.
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    root: Shape,
}

/// A table while its keys are read.
pub(super) struct Entries<'a, 't> {
    table: &'a DeTable<'t>,
    place: &'a Place,
    reader: &'a mut Reader,
    /// Known keys that unknown ones were probably meant to be: reporting them missing as well would be noise.
    misspelt: Vec<&'static str>,
}

/// Declares a table of the file as written: one line for each key, with the kind of its value.
macro_rules! table {
    ($(#[$doc:meta])+ $Name:ident { $($key:ident: $Kind:ty,)+ }) => {
        $(#[$doc])+
        #[derive(Debug, Default)]
        pub(super) struct $Name {
            $(pub(super) $key: Written<<$Kind as Value>::Meaning>,)+
        }

        impl Value for $Name {
            type Meaning = Self;
            const SHAPE: Shape = Shape::Table(&[$((stringify!($key), &<$Kind as Value>::SHAPE),)+]);

            fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
                let mut entries = Entries::open::<Self>(value, place, reader)?;
                Some(Self { $($key: entries.read::<$Kind>(stringify!($key)),)+ })
            }
        }
    };
}
pub(super) use table;

impl<T> Written<T> {
    pub(super) fn as_given(&self) -> Option<&Given<T>> {
        match self {
            Self::Given(given) => Some(given),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Given(given) => Some(given.value),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(super) fn or(self, default: T) -> T {
        self.value().unwrap_or(default)
    }
}

impl<T: Default> Written<T> {
    pub(super) fn or_default(self) -> T {
        self.value().unwrap_or_default()
    }
}

impl<T: Leaf> Value for T {
    type Meaning = T::Meaning;
    const SHAPE: Shape = Shape::Leaf;

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<T::Meaning> {
        T::parse(value)
            .map_err(|mismatch| reader.note(place, mismatch))
            .ok()
    }
}

impl<T: Value> Value for List<T> {
    type Meaning = Vec<Given<T::Meaning>>;
    const SHAPE: Shape = Shape::List(&T::SHAPE);

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self::Meaning> {
        let DeValue::Array(items) = value else {
            let (expected, hint) = match (&T::SHAPE, value) {
                (Shape::Table(_), DeValue::Table(_)) => (
                    "an array of tables",
                    format!("write [[{}]], with two brackets", place.path),
                ),
                (Shape::Table(_), _) => (
                    "an array of tables",
                    format!(
                        "write [[{}]], with a line for each key below it",
                        place.path
                    ),
                ),
                (Shape::Leaf | Shape::List(_), _) => {
                    ("a list", "write a list, even of one: [\"...\"]".to_owned())
                }
            };
            let mismatch = Mismatch::new(format!("{}, not {expected}", found(value)), hint);
            reader.note(place, mismatch);
            return None;
        };
        let read_item = |(index, item): (usize, &Spanned<DeValue<'_>>)| {
            let place = Place {
                path: format!("{}[{index}]", place.path),
                span: item.span(),
            };
            let value = T::read(item.get_ref(), &place, reader)?;
            Some(Given { value, place })
        };
        // Every item is read, so that every problem is found, before a wrong one spoils the list.
        let items: Vec<_> = items.iter().enumerate().map(read_item).collect();
        items.into_iter().collect()
    }
}

impl Mismatch {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// A value of another type than the key takes.
    pub(super) fn of_type(value: &DeValue<'_>, expected: &str, example: &str) -> Self {
        Self::new(
            format!("{}, not {expected}", found(value)),
            format!("write {example}"),
        )
    }
}

impl Reader {
    /// A reader of files that look like `T`.
    pub(super) fn new<T: Value>() -> Self {
        Self {
            problems: Vec::new(),
            root: T::SHAPE,
        }
    }

    fn note(&mut self, place: &Place, Mismatch { message, hint }: Mismatch) {
        self.problems.push(place.problem(message).hint(hint));
    }

    /// Notes an unknown key, and returns the one that it was probably meant to be.
    fn note_unknown(
        &mut self,
        place: &Place,
        key: &str,
        known: &[&'static str],
    ) -> Option<&'static str> {
        let mut homes = Vec::new();
        self.root.homes(key, "", &mut homes);
        let mut near = None;
        let hint = if let [home] = &homes[..] {
            // The right key in the wrong table: in TOML, often a key that was meant for the top of the file.
            format!("`{key}` belongs {home}")
        } else if let Some(nearest) = nearest(key, known) {
            near = Some(nearest);
            format!("did you mean `{nearest}`?")
        } else {
            format!("known here: {}", known.join(", "))
        };
        self.problems.push(place.problem("unknown key").hint(hint));
        near
    }
}

impl Shape {
    /// Notes every table that has `key`, in words, with the table at `path` being this one.
    fn homes(&self, key: &str, path: &str, homes: &mut Vec<String>) {
        let (keys, home) = match self {
            Self::Leaf => return,
            Self::Table(keys) if path.is_empty() => (
                keys,
                "at the top of the file, before the first [table]".to_owned(),
            ),
            Self::Table(keys) => (keys, format!("in [{path}]")),
            Self::List(Self::Table(keys)) => (keys, format!("in [[{path}]]")),
            Self::List(_) => return,
        };
        if keys.iter().any(|(known, _)| *known == key) {
            homes.push(home);
        }
        for (known, shape) in *keys {
            let path = if path.is_empty() {
                (*known).to_owned()
            } else {
                format!("{path}.{known}")
            };
            shape.homes(key, &path, homes);
        }
    }
}

impl<'a, 't> Entries<'a, 't> {
    /// The keys of `T` in the table `value`; notes every other key that is there.
    pub(super) fn open<T: Value>(
        value: &'a DeValue<'t>,
        place: &'a Place,
        reader: &'a mut Reader,
    ) -> Option<Self> {
        let DeValue::Table(table) = value else {
            let (table, brackets) = match place
                .path
                .strip_suffix(']')
                .and_then(|p| p.rsplit_once('['))
            {
                Some((list, _)) => (list, ("[[", "]]")),
                None => (&*place.path, ("[", "]")),
            };
            let hint = format!(
                "write {}{table}{}, with a line for each key below it",
                brackets.0, brackets.1
            );
            reader.note(
                place,
                Mismatch::new(format!("{}, not a table", found(value)), hint),
            );
            return None;
        };
        let Shape::Table(keys) = T::SHAPE else {
            unreachable!("only tables are opened");
        };
        let known: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
        let mut misspelt = Vec::new();
        for (key, _) in table.iter() {
            if !known.contains(&key.get_ref().as_ref()) {
                let place = place.below(&shown_key(key.get_ref()), key.span());
                misspelt.extend(reader.note_unknown(&place, key.get_ref(), &known));
            }
        }
        Some(Self {
            table,
            place,
            reader,
            misspelt,
        })
    }

    /// What the table says about `key`.
    pub(super) fn read<T: Value>(&mut self, key: &str) -> Written<T::Meaning> {
        let Some(value) = self.table.get(key) else {
            return if self.misspelt.contains(&key) {
                Written::Wrong
            } else {
                Written::Absent
            };
        };
        let place = self.place.below(key, value.span());
        match T::read(value.get_ref(), &place, self.reader) {
            Some(value) => Written::Given(Given { value, place }),
            None => Written::Wrong,
        }
    }
}

/// The string that a key takes.
pub(super) fn string<'v>(
    value: &'v DeValue<'_>,
    expected: &str,
    example: &str,
) -> Result<&'v str, Mismatch> {
    value
        .as_str()
        .ok_or_else(|| Mismatch::of_type(value, expected, example))
}

/// One of a few words.
pub(super) fn word<T: Copy>(value: &DeValue<'_>, words: &[(&str, T)]) -> Result<T, Mismatch> {
    let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
    let all = || {
        let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        quoted.join(" or ")
    };
    let written = string(value, "a word", &all())?;
    if let Some((_, meaning)) = words.iter().find(|(name, _)| *name == written) {
        return Ok(*meaning);
    }
    let hint = match nearest(written, &names) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None => format!("write {}", all()),
    };
    Err(Mismatch::new(
        format!("{} is not known here", quoted(written)),
        hint,
    ))
}

/// What stands there, as the start of a sentence.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{} is a string", quoted(text)),
        DeValue::Integer(number) => format!("{number} is an integer"),
        DeValue::Float(number) => format!("{number} is a float"),
        DeValue::Boolean(truth) => format!("{truth} is a boolean"),
        DeValue::Datetime(date) => format!("{date} is a date"),
        DeValue::Array(_) => "this is a list".to_owned(),
        DeValue::Table(_) => "this is a table".to_owned(),
    }
}

/// A string as it is shown: in quotes, escaped, and cut where it is long.
pub(super) fn quoted(text: &str) -> String {
    /// Enough to recognise a name or an address.
    const SHOWN_CHARS_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A key as it is shown in a path: bare where TOML allows it, else quoted.
fn shown_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) && key.len() < 60 {
        key.to_owned()
    } else {
        quoted(key)
    }
}

/// The candidate that `word` was probably meant to be.
fn nearest<'k>(word: &str, candidates: &[&'k str]) -> Option<&'k str> {
    /// High enough that a word nobody thought of gets the list of keys instead of a wrong guess.
    const LIKENESS_MIN: f64 = 0.8;
    let word = word.to_lowercase();
    // Qualifiers come last here (`connections_max`); elsewhere they often come first.
    let sorted = |name: &str| {
        let mut words: Vec<&str> = name.split(['_', '-']).collect();
        words.sort_unstable();
        words.join("_")
    };
    let likeness = |candidate: &str| {
        strsim::jaro(&word, candidate).max(strsim::jaro(&sorted(&word), &sorted(candidate)))
    };
    candidates
        .iter()
        .map(|candidate| (likeness(candidate), *candidate))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_key_and_a_stranger_none() {
        let keys = ["name", "address", "weight", "connections_max", "keepalive"];
        let check = |word, expected| assert_eq!(nearest(word, &keys), expected, "{word}");
        check("adress", Some("address"));
        check("wieght", Some("weight"));
        check("names", Some("name"));
        check("max_connections", Some("connections_max"));
        check("keep-alive", Some("keepalive"));
        check("Weight", Some("weight"));
        check("tls_certificate", None);
        check("", None);
    }

    #[test]
    fn long_and_strange_strings_are_shown_cut_and_escaped() {
        assert_eq!(quoted("a\"\n"), r#""a\"\n""#);
        assert_eq!(
            quoted(&"é".repeat(61)),
            format!("\"{}\"...", "é".repeat(60))
        );
    }
}
