//! What became of the directives that are not in the result, each with its place, the reason and what to do.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::text::{Place, Sources, Spot, printable};

/// What a directive that is not in the result means for the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    /// It changed behaviour, and Remora does not do the same.
    Lost,
    /// Remora does the same in another way, or does more; an operator should know.
    Differs,
    /// It means nothing for a balancer of MQTT, or Remora does it anyway.
    Unneeded,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Item {
    kind: Kind,
    place: Option<Place>,
    message: String,
    advice: String,
}

/// The line of a place, with the place marked.
fn snippet<'a>(spot: &Spot<'a>) -> Snippet<'a, Annotation<'a>> {
    Snippet::source(spot.text)
        .line_start(spot.line)
        .path(spot.file)
        .annotation(AnnotationKind::Primary.span(spot.start..spot.end))
}

/// The report of an import.
#[derive(Clone, Debug, Default)]
pub struct Report {
    items: Vec<Item>,
    /// A directive of an outer block holds for every server in it, and is reported once.
    seen: HashSet<Item>,
    sources: Sources,
}

/// A file that cannot be read or parsed.
#[derive(Clone, Debug)]
pub struct Failure {
    place: Option<Place>,
    file: String,
    message: String,
    advice: String,
    sources: Box<Sources>,
}

/// What is wrong, and where, before it is known in which files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) advice: String,
}

impl Fault {
    pub(super) fn new(place: Place, message: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            place,
            message: message.into(),
            advice: advice.into(),
        }
    }

    pub(super) fn of(self, sources: Sources) -> Failure {
        Failure {
            place: Some(self.place),
            file: String::new(),
            message: self.message,
            advice: self.advice,
            sources: Box::new(sources),
        }
    }
}

impl Failure {
    pub(super) fn of_file(file: &str, message: String, advice: &str) -> Self {
        Self {
            place: None,
            file: printable(file),
            message,
            advice: advice.to_owned(),
            sources: Box::default(),
        }
    }

    /// The text with colours for a terminal.
    pub fn coloured(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let title = Level::ERROR.primary_title(&*self.message);
        let advice = Level::HELP.message(&*self.advice);
        let spot = self.place.and_then(|place| self.sources.spot(place));
        let group = match &spot {
            Some(spot) => title.element(snippet(spot)).element(advice),
            None => title.element(Origin::path(&*self.file)).element(advice),
        };
        renderer.render(&[group])
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl std::error::Error for Failure {}

impl Report {
    fn push(&mut self, kind: Kind, place: Option<Place>, message: String, advice: String) {
        let item = Item {
            kind,
            place,
            message,
            advice,
        };
        if self.seen.insert(item.clone()) {
            self.items.push(item);
        }
    }

    /// Something that changed behaviour and is not in the result.
    pub(super) fn lost(&mut self, place: Place, message: impl Into<String>, advice: impl Into<String>) {
        self.push(Kind::Lost, Some(place), message.into(), advice.into());
    }

    /// The same for the whole of it.
    pub(super) fn lost_at_all(&mut self, message: &str, advice: &str) {
        self.push(Kind::Lost, None, message.to_owned(), advice.to_owned());
    }

    /// Something that Remora does in another way.
    pub(super) fn differs(&mut self, place: Place, message: impl Into<String>, advice: impl Into<String>) {
        self.push(Kind::Differs, Some(place), message.into(), advice.into());
    }

    /// Something that is not needed; `what` is the directive.
    pub(super) fn unneeded(&mut self, place: Place, what: &str, why: impl Into<String>) {
        self.push(Kind::Unneeded, Some(place), printable(what), why.into());
    }

    /// Keys with variables of the environment.
    pub(super) fn variables(&mut self, places: &[Place]) {
        for place in places {
            self.differs(
                *place,
                "a variable of the environment is read where Remora starts, which does not start without it",
                "set it there, such as by EnvironmentFile= of systemd; of a listener's address, it must be the IP address or the port, and no name and no *",
            );
        }
    }

    /// A path that begins with a variable, in a place where another folder would precede it.
    pub(super) fn path_of_variable(&mut self, place: Place) {
        self.differs(
            place,
            "a path that begins with a variable is taken for an absolute one",
            "write the folder before it if the variable is the rest of a path",
        );
    }

    /// With the files that places refer to, and in their order.
    pub(super) fn finish(&mut self, sources: Sources) {
        self.items.sort_by_key(|item| (item.kind, item.place));
        self.sources = sources;
    }

    /// `nginx.conf:12:5`
    fn position(&self, place: Place) -> Option<String> {
        let spot = self.sources.spot(place)?;
        Some(format!("{}:{}:{}", spot.file, spot.line, spot.column))
    }

    /// Whether something is lost that changes behaviour.
    pub fn has_losses(&self) -> bool {
        self.items.iter().any(|item| item.kind == Kind::Lost)
    }

    /// The text with colours for a terminal.
    pub fn coloured(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut shown = String::new();
        // The same of several directives is said once, with all places.
        let mut places: BTreeMap<(Kind, &str, &str), Vec<Option<Place>>> = BTreeMap::new();
        let told = || self.items.iter().filter(|item| item.kind != Kind::Unneeded);
        for item in told() {
            let same = places.entry((item.kind, &*item.message, &*item.advice)).or_default();
            same.push(item.place);
        }
        for item in told() {
            let Some(places) = places.remove(&(item.kind, &*item.message, &*item.advice)) else {
                continue;
            };
            let (level, what) = match item.kind {
                Kind::Lost => (Level::WARNING, "not carried over"),
                Kind::Differs | Kind::Unneeded => (Level::NOTE, "works differently"),
            };
            let title = format!("{what}: {}", item.message);
            let title = level.primary_title(&*title);
            let advice = (!item.advice.is_empty()).then(|| Level::HELP.message(&*item.advice));
            let others: Vec<String> = places[1..]
                .iter()
                .filter_map(|place| self.position((*place)?))
                .collect();
            let others =
                (!others.is_empty()).then(|| Level::NOTE.message(format!("the same at {}", others.join(", "))));
            let spot = item.place.and_then(|place| self.sources.spot(place));
            let group = match &spot {
                Some(spot) => title.element(snippet(spot)).elements(others).elements(advice),
                None => Group::with_title(title).elements(advice),
            };
            shown += &renderer.render(&[group]);
            shown += "\n\n";
        }
        let unneeded: Vec<String> = self
            .items
            .iter()
            .filter(|item| item.kind == Kind::Unneeded)
            .map(|item| {
                let at = item.place.and_then(|place| self.position(place)).unwrap_or_default();
                format!("  {at}: {}: {}\n", item.message, item.advice)
            })
            .collect();
        if !unneeded.is_empty() {
            shown += &format!("not needed:\n{}\n", unneeded.concat());
        }
        let count = |kind| self.items.iter().filter(|item| item.kind == kind).count();
        shown
            + &format!(
                "{} not carried over, {} different, {} not needed",
                count(Kind::Lost),
                count(Kind::Differs),
                count(Kind::Unneeded)
            )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}
