//! The problems of a configuration: all of them at once, each shown with its line, a caret and a hint.

use std::error;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::texts::{Position, Text, Texts};
use crate::base::words::counted;

/// Why a configuration was refused: one or more problems, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    texts: Texts,
    problems: Vec<Problem>,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as in `nodes[2].address`; empty if the problem is not about a key.
    pub path: String,
    /// What was found, in one clause.
    pub message: String,
    /// How to fix it.
    pub hint: Option<String>,
    /// The bytes that are wrong, counted over all files of the configuration; `None` if something is missing.
    pub span: Option<Range<usize>>,
    /// Another part of the configuration that is involved, with a label.
    pub other: Option<(Range<usize>, String)>,
    /// Whether the configuration can be used all the same.
    pub severity: Severity,
}

/// What a problem means for the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is used, and something in it does not work: a certificate that has expired. Where the process runs already,
    /// or starts again, the rest of it must go on.
    Fault,
    /// The configuration is used, and an operator should look at it.
    Warning,
}

/// The position of a value: its key and its bytes in the file.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: String,
    pub(super) span: Range<usize>,
}

impl Place {
    /// A problem with the value at this place.
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem {
            path: self.path.clone(),
            message: message.into(),
            hint: None,
            span: Some(self.span.clone()),
            other: None,
            severity: Severity::Error,
        }
    }

    /// The place of `key` in the table at this place.
    pub(super) fn below(&self, key: &str, span: Range<usize>) -> Self {
        let path = path_below(&self.path, key);
        Self { path, span }
    }
}

/// The path of `key` in the table at `path`.
pub(super) fn path_below(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path => format!("{path}.{key}"),
    }
}

impl Problem {
    /// A problem with the file as a whole.
    pub fn of_file(message: impl Into<String>) -> Self {
        Self {
            path: String::new(),
            message: message.into(),
            hint: None,
            span: None,
            other: None,
            severity: Severity::Error,
        }
    }

    /// Whether the configuration is refused for it.
    pub fn refuses(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Makes this a warning: the configuration can be used all the same.
    pub fn warning(self) -> Self {
        Self {
            severity: Severity::Warning,
            ..self
        }
    }

    /// Makes this a fault: the configuration can be used all the same, and something in it does not work.
    pub(super) fn fault(self) -> Self {
        Self {
            severity: Severity::Fault,
            ..self
        }
    }

    /// Adds how to fix it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds another place that is involved.
    pub(super) fn other(mut self, place: &Place, label: impl Into<String>) -> Self {
        self.other = Some((place.span.clone(), label.into()));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.path {
            "" => f.write_str(&self.message),
            path => write!(f, "{path}: {}", self.message),
        }
    }
}

impl Problems {
    pub(super) fn new(texts: Texts, mut problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty(), "a refusal without a reason");
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        Self { texts, problems }
    }

    /// The problems, in the order of the files.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// The position of one of these problems; `None` if something is missing.
    pub fn position(&self, problem: &Problem) -> Option<Position<'_>> {
        self.texts.position(problem.span.as_ref()?.start)
    }

    /// The place of one of these problems in a line: `nodes.toml:6:11`, or just the file if something is missing.
    pub fn place(&self, problem: &Problem) -> String {
        match &problem.span {
            Some(span) => self.texts.place_of(span.start),
            None => self.texts.main().name.clone(),
        }
    }

    /// The first problem and its hint in one line: `nodes.toml:6:11: nodes[0].address: …`, and how many more there are.
    pub fn first(&self) -> String {
        let Some(problem) = self.problems.first() else {
            return self.texts.main().name.clone();
        };
        let hint = problem.hint.as_ref().map_or(String::new(), |hint| format!(" ({hint})"));
        let more = match self.problems.len() - 1 {
            0 => String::new(),
            more => format!(", and {}", counted(more, "more problem")),
        };
        format!("{}: {problem}{hint}{more}", self.place(problem))
    }

    /// All problems as text with colours for a terminal.
    pub fn coloured(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let mut shown = String::new();
        for problem in &self.problems {
            shown += &renderer.render(&[self.group(problem)]);
            shown += "\n\n";
        }
        let are_warnings = |problem: &&Problem| problem.severity == Severity::Warning;
        let warnings = self.problems.iter().filter(are_warnings).count();
        let counts = [(self.problems.len() - warnings, "problem"), (warnings, "warning")];
        let counts = counts.iter().filter(|(count, _)| *count > 0);
        let counts: Vec<String> = counts
            .map(|(count, noun)| format!("{count} {noun}{}", if *count == 1 { "" } else { "s" }))
            .collect();
        shown + &format!("{}: {}", self.texts.main().name, counts.join(" and "))
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let level = match problem.severity {
            Severity::Error | Severity::Fault => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(problem.to_string());
        let hint = problem.hint.as_deref().map(|hint| Level::HELP.message(hint));
        let Some(span) = &problem.span else {
            let group = title.element(Origin::path(&*self.texts.main().name));
            return group.elements(hint);
        };
        let file = self.texts.of(span.start);
        let snippet_of = |file: &'a Text| Snippet::source(&*file.text).path(&*file.name);
        let mut snippet = snippet_of(file).annotation(AnnotationKind::Primary.span(file.within(span)));
        let mut elsewhere = None;
        if let Some((span, label)) = &problem.other {
            let other = self.texts.of(span.start);
            let annotation = AnnotationKind::Context.span(other.within(span)).label(&**label);
            match other.start == file.start {
                true => snippet = snippet.annotation(annotation),
                false => elsewhere = Some(snippet_of(other).annotation(annotation)),
            }
        }
        title.element(snippet).elements(elsewhere).elements(hint)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl error::Error for Problems {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn problems(text: &str, span: Range<usize>) -> Problems {
        let place = Place {
            path: "a.b".to_owned(),
            span,
        };
        let problem = place.problem("is wrong").hint("write it right");
        shown_with(text, problem)
    }

    fn shown_with(text: &str, problem: Problem) -> Problems {
        Problems::new(Texts::new("remora.toml", text, Path::new("")), vec![problem])
    }

    #[test]
    fn columns_count_characters_and_lines_from_one() {
        let check = |text: &str, start: usize, line: usize, column: usize| {
            let problems = problems(text, start..start);
            assert_eq!(
                problems.position(&problems.problems[0]),
                Some(Position {
                    file: "remora.toml",
                    line,
                    column
                }),
                "{text:?} at {start}"
            );
        };
        check("", 0, 1, 1);
        check("ab", 1, 1, 2);
        check("ab\n", 3, 2, 1);
        check("ab\r\ncd", 5, 2, 2);
        check("é=1", 2, 1, 2);
    }

    #[test]
    fn a_problem_is_shown_with_line_caret_and_hint() {
        let shown = problems("x = 1\nb = 22\n", 10..12).to_string();
        let expected = "\
error: a.b: is wrong
 --> remora.toml:2:5
  |
2 | b = 22
  |     ^^
  |
  = help: write it right

remora.toml: 1 problem";
        assert_eq!(shown, expected);
    }

    #[test]
    fn another_place_is_shown_with_its_part() {
        let place = |span| Place {
            path: "b".to_owned(),
            span,
        };
        let problem = place(10..11).problem("is there twice");
        let problem = problem.other(&place(4..5), "first used here");
        let shown = shown_with("a = 1\nb = 1\n", problem).to_string();
        assert!(shown.contains("1 | a = 1\n  |     - first used here\n"), "{shown}");
        assert!(shown.contains("2 | b = 1\n  |     ^\n"), "{shown}");
    }

    #[test]
    fn places_in_two_files_have_a_snippet_each() {
        let mut texts = Texts::new("remora.toml", "a = 1\n", Path::new(""));
        let start = texts.add("conf.d/more.toml", "b = 2\na = 3\n", Path::new("conf.d"));
        let place = |span| Place {
            path: "a".to_owned(),
            span,
        };
        let problem = place(start + 6..start + 7).problem("is there already");
        let problem = problem.other(&place(0..1), "first written here");
        let problems = Problems::new(texts, vec![problem]);
        assert_eq!(problems.first(), "conf.d/more.toml:2:1: a: is there already");
        let shown = problems.to_string();
        let expected = "\
error: a: is there already
 --> conf.d/more.toml:2:1
  |
2 | a = 3
  | ^
  |
 ::: remora.toml:1:1
  |
1 | a = 1
  | - first written here

remora.toml: 1 problem";
        assert_eq!(shown, expected);
    }

    #[test]
    fn only_the_coloured_form_has_escapes() {
        let problems = problems("b = 1", 4..5);
        assert!(problems.coloured().contains('\x1b'));
        assert!(!problems.to_string().contains('\x1b'));
    }

    #[test]
    fn a_problem_without_a_place_names_the_file() {
        let problem = Problem::of_file("no node").hint("add one");
        let shown = shown_with("x = 1", problem).to_string();
        assert!(shown.contains("error: no node"), "{shown}");
        assert!(shown.contains("--> remora.toml\n"), "{shown}");
        assert!(shown.contains("help: add one"), "{shown}");
    }
}
