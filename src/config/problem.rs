//! The problems of a configuration: all of them at once, each shown with its line, a caret and a hint.

use std::error;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Why a configuration was refused: one or more problems, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: String,
    text: String,
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
    /// The bytes of the file that are wrong; `None` if something is missing.
    pub span: Option<Range<usize>>,
    /// Another part of the file that is involved, with a label.
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

/// A position, as editors count: lines and columns from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
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
        let path = match &*self.path {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        Self { path, span }
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
    pub(super) fn new(file: &str, text: &str, mut problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty(), "a refusal without a reason");
        problems.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
            problems,
        }
    }

    /// The problems, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter()
    }

    /// The position of one of these problems; `None` if something is missing.
    pub fn position(&self, problem: &Problem) -> Option<Position> {
        let before = self.text.get(..problem.span.as_ref()?.start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Some(Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        })
    }

    /// The first problem and its hint in one line: `nodes.toml:6:11: nodes[0].address: …`, and how many more there are.
    pub fn first(&self) -> String {
        let Some(problem) = self.problems.first() else {
            return self.file.clone();
        };
        let place = self.position(problem).map_or(String::new(), |at| {
            let Position { line, column } = at;
            format!(":{line}:{column}")
        });
        let hint = problem.hint.as_ref().map_or(String::new(), |hint| format!(" ({hint})"));
        let more = match self.problems.len() - 1 {
            0 => String::new(),
            1 => ", and 1 more problem".to_owned(),
            more => format!(", and {more} more problems"),
        };
        format!("{}{place}: {problem}{hint}{more}", self.file)
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
        shown + &format!("{}: {}", self.file, counts.join(" and "))
    }

    fn group<'a>(&'a self, problem: &'a Problem) -> Group<'a> {
        let level = match problem.severity {
            Severity::Error | Severity::Fault => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(problem.to_string());
        let hint = problem.hint.as_deref().map(|hint| Level::HELP.message(hint));
        let Some(span) = problem.span.clone() else {
            let group = title.element(Origin::path(&*self.file));
            return group.elements(hint);
        };
        let other = problem
            .other
            .as_ref()
            .map(|(span, label)| AnnotationKind::Context.span(span.clone()).label(&**label));
        let snippet = Snippet::source(&*self.text)
            .path(&*self.file)
            .annotation(AnnotationKind::Primary.span(span))
            .annotations(other);
        title.element(snippet).elements(hint)
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
    use super::*;

    fn problems(text: &str, span: Range<usize>) -> Problems {
        let place = Place {
            path: "a.b".to_owned(),
            span,
        };
        let problem = place.problem("is wrong").hint("write it right");
        Problems::new("remora.toml", text, vec![problem])
    }

    #[test]
    fn columns_count_characters_and_lines_from_one() {
        let check = |text: &str, start: usize, line: usize, column: usize| {
            let problems = problems(text, start..start);
            assert_eq!(
                problems.position(&problems.problems[0]),
                Some(Position { line, column }),
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
        let shown = Problems::new("remora.toml", "a = 1\nb = 1\n", vec![problem]).to_string();
        assert!(shown.contains("1 | a = 1\n  |     - first used here\n"), "{shown}");
        assert!(shown.contains("2 | b = 1\n  |     ^\n"), "{shown}");
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
        let shown = Problems::new("remora.toml", "x = 1", vec![problem]).to_string();
        assert!(shown.contains("error: no node"), "{shown}");
        assert!(shown.contains("--> remora.toml\n"), "{shown}");
        assert!(shown.contains("help: add one"), "{shown}");
    }
}
