//! A rectangle of characters with styles, and what is written to a terminal to make it show them. Knows nothing of what they mean.

use std::io::{self, Write};

use crossterm::cursor::MoveTo;
use crossterm::queue;
use crossterm::style::{self, Attribute, Print, SetAttribute, SetForegroundColor};
use crossterm::terminal::{Clear, ClearType};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A color of characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Color {
    Red,
    Green,
    Yellow,
}

/// How characters look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Style {
    pub(super) color: Option<Color>,
    pub(super) is_bold: bool,
    pub(super) is_reversed: bool,
    pub(super) is_underlined: bool,
}

/// A character that takes one cell or two, with what combines with it; empty in the second cell of a wide one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cell {
    symbol: String,
    style: Style,
}

/// A rectangle of cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cells {
    width: u16,
    height: u16,
    cells: Vec<Cell>,
}

impl Style {
    pub(super) const PLAIN: Self = Self {
        color: None,
        is_bold: false,
        is_reversed: false,
        is_underlined: false,
    };
    pub(super) const BOLD: Self = Self {
        is_bold: true,
        ..Self::PLAIN
    };
    pub(super) const REVERSED: Self = Self {
        is_reversed: true,
        ..Self::PLAIN
    };

    pub(super) const fn of(color: Color) -> Self {
        Self {
            color: Some(color),
            ..Self::PLAIN
        }
    }

    /// Both styles at once; the color of `self` rules.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            color: self.color.or(other.color),
            is_bold: self.is_bold || other.is_bold,
            is_reversed: self.is_reversed || other.is_reversed,
            is_underlined: self.is_underlined || other.is_underlined,
        }
    }
}

/// The cells that a text takes.
pub(super) fn width_of(text: &str) -> usize {
    text.width()
}

impl Cells {
    /// Blank ones.
    pub(super) fn new(width: u16, height: u16) -> Self {
        let blank = Cell {
            symbol: " ".to_owned(),
            style: Style::PLAIN,
        };
        Self {
            width,
            height,
            cells: vec![blank; usize::from(width) * usize::from(height)],
        }
    }

    pub(super) fn width(&self) -> u16 {
        self.width
    }

    pub(super) fn height(&self) -> u16 {
        self.height
    }

    /// The cells of a line; none where there is no such line.
    fn line(&self, y: u16) -> &[Cell] {
        let width = usize::from(self.width);
        let start = usize::from(y) * width;
        self.cells.get(start..start + width).unwrap_or_default()
    }

    fn line_mut(&mut self, y: u16) -> &mut [Cell] {
        let width = usize::from(self.width);
        let start = usize::from(y) * width;
        self.cells.get_mut(start..start + width).unwrap_or_default()
    }

    /// Makes a whole line blank, in this style.
    pub(super) fn blank(&mut self, y: u16, style: Style) {
        for cell in self.line_mut(y) {
            " ".clone_into(&mut cell.symbol);
            cell.style = style;
        }
    }

    /// Writes a text from this cell on, into so many cells at most. A text that is wider is cut, and ends with "…".
    pub(super) fn write(&mut self, x: u16, y: u16, text: &str, room: u16, style: Style) {
        let line = self.line_mut(y).get_mut(usize::from(x)..).unwrap_or_default();
        let room = usize::from(room).min(line.len());
        let line = &mut line[..room];
        let is_cut = width_of(text) > room;
        let end = if is_cut { room.saturating_sub(1) } else { room };
        let mut at = 0;
        for character in text.chars() {
            let width = character.width().unwrap_or_default();
            if at + width > end {
                break;
            }
            if width == 0 {
                // It combines with the character before it, if there is one here.
                if let Some(before) = line[..at].iter_mut().rfind(|cell| !cell.symbol.is_empty()) {
                    before.symbol.push(character);
                }
                continue;
            }
            for cell in &mut line[at..at + width] {
                cell.symbol.clear();
                cell.style = style;
            }
            line[at].symbol.push(character);
            at += width;
        }
        // The room that a wide character did not fit into stays as it is.
        if is_cut && let Some(last) = line.get_mut(end) {
            "…".clone_into(&mut last.symbol);
            last.style = style;
        }
    }

    /// The text of a line, without what is blank at its end.
    pub(super) fn text(&self, y: u16) -> String {
        let text: String = self.line(y).iter().map(|cell| &*cell.symbol).collect();
        text.trim_end().to_owned()
    }

    /// Whether any cell has a color.
    #[cfg(test)]
    pub(super) fn has_color(&self) -> bool {
        self.cells.iter().any(|cell| cell.style.color.is_some())
    }

    /// Writes what makes a terminal that shows `before` show these cells: the lines that differ.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn draw(&self, before: Option<&Self>, to: &mut impl Write) -> io::Result<()> {
        let before = before.filter(|before| (before.width, before.height) == (self.width, self.height));
        if before.is_none() {
            queue!(to, Clear(ClearType::All))?;
        }
        for y in 0..self.height {
            let line = self.line(y);
            if before.is_some_and(|before| before.line(y) == line) {
                continue;
            }
            queue!(
                to,
                MoveTo(0, y),
                SetAttribute(Attribute::Reset),
                Clear(ClearType::CurrentLine)
            )?;
            for run in line.chunk_by(|one, other| one.style == other.style) {
                let text: String = run.iter().map(|cell| &*cell.symbol).collect();
                apply(run.first().map_or(Style::PLAIN, |cell| cell.style), to)?;
                queue!(to, Print(text))?;
            }
            queue!(to, SetAttribute(Attribute::Reset))?;
        }
        to.flush()
    }
}

/// From here on, characters have this style.
fn apply(style: Style, to: &mut impl Write) -> io::Result<()> {
    queue!(to, SetAttribute(Attribute::Reset))?;
    let attributes = [
        (style.is_bold, Attribute::Bold),
        (style.is_reversed, Attribute::Reverse),
        (style.is_underlined, Attribute::Underlined),
    ];
    for (_, attribute) in attributes.into_iter().filter(|(is_on, _)| *is_on) {
        queue!(to, SetAttribute(attribute))?;
    }
    let color = style.color.map(|color| match color {
        Color::Red => style::Color::DarkRed,
        Color::Green => style::Color::DarkGreen,
        Color::Yellow => style::Color::DarkYellow,
    });
    match color {
        Some(color) => queue!(to, SetForegroundColor(color)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a terminal shows of these bytes.
    fn shown(parser: &mut vt100::Parser, cells: &Cells, before: Option<&Cells>) -> Vec<String> {
        let mut bytes = Vec::new();
        cells.draw(before, &mut bytes).expect("a vector");
        parser.process(&bytes);
        let rows = parser.screen().rows(0, cells.width);
        rows.map(|row| row.trim_end().to_owned()).collect()
    }

    #[test]
    fn a_text_is_cut_where_its_room_ends() {
        let cases = [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("a水b", 4, "a水b"),
            ("a水bc", 4, "a水…"),
            ("a水bc", 3, "a …"),
            ("e\u{301}e\u{301}", 2, "e\u{301}e\u{301}"),
            ("\u{301}a", 2, "a"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ];
        for (text, room, expected) in cases {
            let mut cells = Cells::new(6, 1);
            cells.write(0, 0, text, room, Style::PLAIN);
            assert_eq!(cells.text(0), expected, "{text} in {room}");
        }
        let mut cells = Cells::new(3, 1);
        cells.write(1, 0, "abcdef", 100, Style::PLAIN);
        assert_eq!(cells.text(0), " a…");
        for (x, y) in [(3, 0), (0, 1), (u16::MAX, u16::MAX)] {
            cells.write(x, y, "outside", 10, Style::PLAIN);
            cells.blank(y + u16::from(y == 0), Style::PLAIN);
        }
        assert_eq!(cells.text(0), " a…");
    }

    #[test]
    fn a_terminal_shows_the_cells_whatever_it_showed_before() {
        let mut parser = vt100::Parser::new(4, 10, 0);
        let mut before = None;
        let frames = [
            ["one", "two", "水水水水水", ""],
            ["", "two and more", "three", "x"],
            ["1", "2", "", "3"],
        ];
        for (number, frame) in frames.into_iter().enumerate() {
            let mut cells = Cells::new(10, 4);
            for (y, text) in (0..).zip(frame) {
                cells.write(0, y, text, 10, Style::of(Color::Red).and(Style::BOLD));
            }
            let lines = shown(&mut parser, &cells, before.as_ref());
            assert_eq!(lines, [0, 1, 2, 3].map(|y| cells.text(y)), "{number}");
            before = Some(cells);
        }
        // The same again writes nothing for any line.
        let cells = before.expect("the last one");
        let mut bytes = Vec::new();
        cells.draw(Some(&cells), &mut bytes).expect("a vector");
        assert!(bytes.is_empty(), "{bytes:?}");
        // Another size is drawn whole.
        let smaller = Cells::new(5, 4);
        assert_eq!(shown(&mut parser, &smaller, Some(&cells)), ["", "", "", ""]);
    }
}
