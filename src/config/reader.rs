//! Reads a TOML tree into tables of known keys and collects all problems. The keys are defined in `file`, the formats of their
//! values in `units` and `address`.

use std::marker::PhantomData;
use std::path::{self, Path, PathBuf};

use toml::Spanned as TomlSpanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Place, Problem, path_below};
use super::texts::Texts;
use super::words::{self, suggested};

/// The shape of a value, for suggestions and for the list of all keys.
#[derive(Debug)]
pub(super) enum Shape {
    Leaf(Form),
    Table(&'static [(&'static str, &'static Shape)]),
    List(&'static Shape),
}

/// The form of a value without parts, as editors know it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Text,
    Truth,
    /// A whole number between two bounds.
    Whole(u64, u64),
    /// A whole number with one of these units, in a string.
    Amount(&'static [(&'static str, u64)]),
    /// One of a few words.
    Words(fn() -> Vec<&'static str>),
    /// A string or a list of them.
    OneOrMore,
}

/// A type of value in the file: how it is read, and its Rust type.
pub(super) trait Value {
    type Output;
    const SHAPE: Shape;

    /// Reads the value at `place`. If there is a problem, notes it and returns `None`.
    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self::Output>;
}

/// A type of value without parts.
pub(super) trait Leaf {
    type Output;
    const FORM: Form = Form::Text;

    fn parse(value: &DeValue<'_>) -> Result<Self::Output, Mismatch>;
}

/// A type of value that is one of a few words.
pub(super) trait Choice {
    type Meaning: Copy + 'static;
    const WORDS: &'static [(&'static str, Self::Meaning)];

    /// What to write instead of another program's word, given in small letters.
    fn meant(_word: &str) -> Option<String> {
        None
    }
}

/// Why a value does not fit its key.
#[derive(Debug)]
pub(super) struct Mismatch {
    pub(super) message: String,
    pub(super) hint: String,
}

/// A key in the file.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    /// Present but invalid. The problem is noted already, so no further problem may be derived from it.
    Invalid,
    Set(Spanned<T>),
}

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Spanned<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// A list, or an array of tables.
pub(super) struct List<T>(PhantomData<T>);

/// The path of a file, of the form `T`. A relative one starts in the directory of the configuration file that has it.
pub(super) struct Named<T>(PhantomData<T>);

/// A file that a key names.
#[derive(Clone, Debug)]
pub(super) struct NamedFile {
    /// As it is written, for messages.
    pub(super) written: String,
    /// Where it is, as an absolute path.
    pub(super) path: PathBuf,
    /// Whether the key names the folder that it is in.
    pub(super) is_of_folder: bool,
}

/// What was probably meant by an unknown key.
#[derive(Debug)]
pub(super) struct Meant {
    /// What to write instead.
    pub(super) hint: String,
    /// The key of the same table that is meant, which then is not missing.
    pub(super) key: Option<&'static str>,
}

/// Says what was probably meant by a key in the table at a path, with its value and that table.
pub(super) type Foreign = fn(&str, &str, &DeValue<'_>, &DeTable<'_>) -> Option<Meant>;

/// The problems found so far, and the shape of the whole file.
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    /// Where relative paths start in each file, by the positions of the files.
    folders: Vec<(usize, PathBuf)>,
    root: Shape,
    /// What unknown keys mean to other programs.
    foreign: Foreign,
}

/// A table while its keys are read.
pub(super) struct Entries<'a, 't> {
    table: &'a DeTable<'t>,
    place: &'a Place,
    reader: &'a mut Reader,
    /// Known keys that were probably misspelt: they are not reported as missing as well.
    misspelt: Vec<&'static str>,
}

/// Declares a table of the file as written: one line for each key, with the type of its value.
macro_rules! table {
    ($(#[$doc:meta])+ $Name:ident { $($key:ident: $Kind:ty,)+ }) => {
        $(#[$doc])+
        #[derive(Debug, Default)]
        pub(super) struct $Name {
            $(pub(super) $key: Field<<$Kind as Value>::Output>,)+
        }

        impl Value for $Name {
            type Output = Self;
            const SHAPE: Shape = Shape::Table(&[$((stringify!($key), &<$Kind as Value>::SHAPE),)+]);

            fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self> {
                let mut entries = Entries::open::<Self>(value, place, reader)?;
                Some(Self { $($key: entries.read::<$Kind>(stringify!($key)),)+ })
            }
        }
    };
}
pub(super) use table;

impl<T> Field<T> {
    pub(super) fn as_set(&self) -> Option<&Spanned<T>> {
        match self {
            Self::Set(given) => Some(given),
            Self::Absent | Self::Invalid => None,
        }
    }

    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Set(given) => Some(given.value),
            Self::Absent | Self::Invalid => None,
        }
    }

    pub(super) fn or(self, default: T) -> T {
        self.value().unwrap_or(default)
    }
}

impl<T: Default> Field<T> {
    pub(super) fn or_default(self) -> T {
        self.value().unwrap_or_default()
    }
}

impl<T: Leaf> Value for T {
    type Output = T::Output;
    const SHAPE: Shape = Shape::Leaf(T::FORM);

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<T::Output> {
        T::parse(value).map_err(|mismatch| reader.note(place, mismatch)).ok()
    }
}

impl<T: Leaf<Output = String>> Value for Named<T> {
    type Output = NamedFile;
    const SHAPE: Shape = Shape::Leaf(T::FORM);

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<NamedFile> {
        let written = T::read(value, place, reader)?;
        let path = reader.folder(place).join(&written);
        // The process may have another working directory than the one that checks the file.
        let path = path::absolute(&path).unwrap_or(path);
        Some(NamedFile {
            written,
            path,
            is_of_folder: false,
        })
    }
}

impl<T: Value> Value for List<T> {
    type Output = Vec<Spanned<T::Output>>;
    const SHAPE: Shape = Shape::List(&T::SHAPE);

    fn read(value: &DeValue<'_>, place: &Place, reader: &mut Reader) -> Option<Self::Output> {
        let DeValue::Array(items) = value else {
            let is_nested = place.path.contains('.');
            let (expected, hint) = match (&T::SHAPE, value) {
                (Shape::Table(_), DeValue::Table(_)) if !is_nested => (
                    "an array of tables",
                    format!("write [[{}]], with two brackets", place.path),
                ),
                (Shape::Table(_), _) if !is_nested => (
                    "an array of tables",
                    format!("write [[{}]], with a line for each key below it", place.path),
                ),
                (Shape::Table(_), _) => ("a list", format!("write [{}]", pair(value))),
                (Shape::Leaf(_) | Shape::List(_), _) => (
                    "a list",
                    match words::list_of(value) {
                        Some(list) => format!("write {list}"),
                        None => "write a list, even of one: [\"...\"]".to_owned(),
                    },
                ),
            };
            let mismatch = Mismatch::new(format!("{}, not {expected}", found(value)), hint);
            reader.note(place, mismatch);
            return None;
        };
        let read_item = |(index, item): (usize, &TomlSpanned<DeValue<'_>>)| {
            let place = Place {
                path: format!("{}[{index}]", place.path),
                span: item.span(),
            };
            let value = T::read(item.get_ref(), &place, reader)?;
            Some(Spanned { value, place })
        };
        // All items are read, so that all problems are found, even though one invalid item makes the list invalid.
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

    /// A value whose type does not fit the key.
    pub(super) fn of_type(value: &DeValue<'_>, expected: &str, example: &str) -> Self {
        Self::new(format!("{}, not {expected}", found(value)), format!("write {example}"))
    }
}

impl Reader {
    /// A reader for files of type `T`, with these texts.
    pub(super) fn new<T: Value>(texts: &Texts, foreign: Foreign) -> Self {
        Self {
            problems: Vec::new(),
            folders: texts.iter().map(|file| (file.start, file.folder.clone())).collect(),
            root: T::SHAPE,
            foreign,
        }
    }

    /// A reader for values alone, not for tables nor files that they name.
    pub(super) fn of_values() -> Self {
        Self {
            problems: Vec::new(),
            folders: Vec::new(),
            root: Shape::Leaf(Form::Text),
            foreign: |_, _, _, _| None,
        }
    }

    /// Where relative paths at this place start.
    fn folder(&self, place: &Place) -> &Path {
        let behind = self.folders.partition_point(|(start, _)| *start <= place.span.start);
        let file = behind.checked_sub(1).and_then(|index| self.folders.get(index));
        file.map_or(Path::new(""), |(_, folder)| folder)
    }

    fn note(&mut self, place: &Place, Mismatch { message, hint }: Mismatch) {
        self.problems.push(place.problem(message).hint(hint));
    }

    /// Notes an unknown key, and returns the known key that was probably meant; `foreign` is what it means elsewhere.
    fn note_unknown(
        &mut self,
        place: &Place,
        key: &str,
        value: &DeValue<'_>,
        known: &[&'static str],
        foreign: Option<Meant>,
    ) -> Option<&'static str> {
        /// A key of more tables than this is too common to say where it belongs.
        const HOMES_MAX: usize = 3;
        let problem = place.problem("unknown key");
        if let Some(Meant { hint, key }) = foreign {
            self.problems.push(problem.hint(hint));
            return key;
        }
        let mut homes = Vec::new();
        self.root.homes(key, value, "", &mut homes);
        let near = nearest(key, known);
        let hint = match (&homes[..], near) {
            // A known key in the wrong table: in TOML, often a key that belongs at the top of the file. A like one may be meant as well.
            ([..], near) if (1..=HOMES_MAX).contains(&homes.len()) => {
                let near = near.map_or(String::new(), |near| format!("; or did you mean `{near}`?"));
                format!("`{key}` belongs {}{near}", homes.join(" or "))
            }
            (_, Some(near)) => format!("did you mean `{near}`?"),
            (_, None) => format!("known keys: {}", known.join(", ")),
        };
        self.problems.push(problem.hint(hint));
        near
    }
}

/// A certificate and its key in place of an invalid value.
fn pair(value: &DeValue<'_>) -> String {
    let chain = match value {
        DeValue::Array(items) => items.iter().find_map(|item| item.get_ref().as_str()),
        other => other.as_str(),
    };
    match chain {
        Some(chain) => format!("{{ chain = {}, key = \"tls.key\" }}", suggested(chain)),
        None => words::PAIR.to_owned(),
    }
}

impl Shape {
    /// Adds a description of every table that has `key`, for such a value, to `homes`; this table is at `path`.
    fn homes(&self, key: &str, value: &DeValue<'_>, path: &str, homes: &mut Vec<String>) {
        let (keys, home) = match self {
            Self::Leaf(_) => return,
            Self::Table(keys) if path.is_empty() => {
                (keys, "at the top of the file, before the first [table]".to_owned())
            }
            Self::Table(keys) => (keys, format!("in [{path}]")),
            Self::List(Self::Table(keys)) => (keys, format!("in [[{path}]]")),
            Self::List(_) => return,
        };
        if keys.iter().any(|(known, shape)| *known == key && shape.is_like(value)) {
            homes.push(home);
        }
        for (known, shape) in *keys {
            shape.homes(key, value, &path_below(path, known), homes);
        }
    }

    /// Whether the value may be of this shape: not one line for a whole table, or the other way round.
    fn is_like(&self, value: &DeValue<'_>) -> bool {
        let has_tables = |value: &DeValue<'_>| match value {
            DeValue::Table(_) => true,
            DeValue::Array(items) => items.iter().any(|item| item.get_ref().is_table()),
            _ => false,
        };
        matches!(self, Self::Table(_) | Self::List(Self::Table(_))) == has_tables(value)
    }
}

impl<'a, 't> Entries<'a, 't> {
    /// Opens the table `value` with the keys of `T`; notes every other key in it.
    pub(super) fn open<T: Value>(value: &'a DeValue<'t>, place: &'a Place, reader: &'a mut Reader) -> Option<Self> {
        let DeValue::Table(table) = value else {
            let hint = match place.path.strip_suffix(']').and_then(|p| p.rsplit_once('[')) {
                _ if place.path.contains('.') => format!("write {}", pair(value)),
                Some((list, _)) => format!("write [[{list}]], with a line for each key below it"),
                None => format!("write [{}], with a line for each key below it", place.path),
            };
            reader.note(place, Mismatch::new(format!("{}, not a table", found(value)), hint));
            return None;
        };
        let Shape::Table(keys) = T::SHAPE else {
            unreachable!("only tables are opened");
        };
        let known: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
        let mut misspelt = Vec::new();
        for (key, value) in table.iter() {
            if !known.contains(&key.get_ref().as_ref()) {
                let below = place.below(&shown_key(key.get_ref()), key.span());
                let meant = (reader.foreign)(&place.path, key.get_ref(), value.get_ref(), table);
                misspelt.extend(reader.note_unknown(&below, key.get_ref(), value.get_ref(), &known, meant));
            }
        }
        Some(Self {
            table,
            place,
            reader,
            misspelt,
        })
    }

    /// Reads `key`.
    pub(super) fn read<T: Value>(&mut self, key: &str) -> Field<T::Output> {
        let Some(value) = self.table.get(key) else {
            return if self.misspelt.contains(&key) {
                Field::Invalid
            } else {
                Field::Absent
            };
        };
        let place = self.place.below(key, value.span());
        match T::read(value.get_ref(), &place, self.reader) {
            Some(value) => Field::Set(Spanned { value, place }),
            None => Field::Invalid,
        }
    }
}

/// Reads a string.
pub(super) fn string<'v>(value: &'v DeValue<'_>, expected: &str, example: &str) -> Result<&'v str, Mismatch> {
    value
        .as_str()
        .ok_or_else(|| Mismatch::of_type(value, expected, example))
}

impl<T: Choice> Leaf for T {
    type Output = T::Meaning;
    const FORM: Form = Form::Words(|| T::WORDS.iter().map(|(word, _)| *word).collect());

    fn parse(value: &DeValue<'_>) -> Result<T::Meaning, Mismatch> {
        let written = value.as_str();
        if let Some((_, meaning)) = T::WORDS.iter().find(|(name, _)| Some(*name) == written) {
            return Ok(*meaning);
        }
        let names: Vec<&str> = T::WORDS.iter().map(|(name, _)| *name).collect();
        let text = words::text(value).unwrap_or_default();
        let meant = T::meant(&text.to_ascii_lowercase());
        let near = written.and_then(|written| nearest(written, &names));
        let hint = match (meant, near) {
            (Some(meant), _) => format!("write {meant}"),
            (None, Some(near)) => format!("did you mean \"{near}\"?"),
            (None, None) => {
                let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
                format!("write {}", quoted.join(" or "))
            }
        };
        let message = match written {
            Some(written) => format!("{} is not an allowed value", quoted(written)),
            None => format!("{}, not a word", found(value)),
        };
        Err(Mismatch::new(message, hint))
    }
}

/// Describes the value, as the start of a sentence.
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

/// A string for messages: in quotes, escaped, and cut if it is long.
pub(super) fn quoted(text: &str) -> String {
    /// Enough to recognise a name or an address.
    const SHOWN_CHARS_MAX: usize = 60;
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A key for a path in messages: bare if TOML allows it, otherwise quoted.
pub(super) fn shown_key(key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(bare) && key.len() < 60 {
        key.to_owned()
    } else {
        quoted(key)
    }
}

/// The candidate that was probably meant by `word`.
fn nearest<'k>(word: &str, candidates: &[&'k str]) -> Option<&'k str> {
    /// High enough that an unrelated word gets the list of keys instead of a wrong guess.
    const LIKENESS_MIN: f64 = 0.8;
    let word = word.to_lowercase();
    // Qualifiers come last here (`connections_max`); elsewhere they often come first.
    let sorted = |name: &str| {
        let mut words: Vec<&str> = name.split(['_', '-']).collect();
        words.sort_unstable();
        words.join("_")
    };
    let likeness =
        |candidate: &str| strsim::jaro(&word, candidate).max(strsim::jaro(&sorted(&word), &sorted(candidate)));
    // `down_max` is not a slip for `down_min`.
    let ends = ["_min", "_max"];
    let is_opposite = |candidate: &str| {
        let end_of = |text: &str| ends.iter().position(|end| text.ends_with(end));
        matches!((end_of(&word), end_of(candidate)), (Some(one), Some(other)) if one != other)
    };
    candidates
        .iter()
        .filter(|candidate| !is_opposite(candidate))
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
        check("connections_min", None);
        check("", None);
    }

    #[test]
    fn long_and_strange_strings_are_shown_cut_and_escaped() {
        assert_eq!(quoted("a\"\n"), r#""a\"\n""#);
        assert_eq!(quoted(&"é".repeat(61)), format!("\"{}\"...", "é".repeat(60)));
    }
}
