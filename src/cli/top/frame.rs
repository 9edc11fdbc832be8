//! A view as cells of a terminal, or as text. Draws into whatever size there is, and asks nothing.

use std::borrow::Cow;

use ratatui_core::buffer::{Buffer, CellWidth};
use ratatui_core::layout::{Constraint, Layout, Rect};
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::text::{Line, Span};
use ratatui_core::widgets::Widget;
use remora::admin::api::answers::{Connection, Node, TopClient};
use remora::base::log::EscapedText;

use super::figures::{self, Figures, bytes, per_second, percent};
use super::view::{By, NodesBy, View, is_up};
use crate::cli::ctl::clients::{named, time};
use crate::cli::ctl::nodes::{state, why};

/// The lines of clients in a frame of text.
const CLIENTS_IN_TEXT: u16 = 20;

/// The width from which on addresses and listeners are shown.
const WIDE: u16 = 110;

const HELP: &[(&str, &str)] = &[
    ("q, Esc, Ctrl-C", "end"),
    ("p, space", "pause, and go on"),
    ("?, h", "this help; any key leaves it"),
    ("up, down, k, j", "select a node"),
    ("Enter", "only the clients of the selected node; again: of all nodes"),
    ("s, S", "sort nodes by the next or the previous column marked with v"),
    ("r", "sort nodes the other way round"),
    ("c, right; C, left", "the next or the previous list of clients:"),
    ("", "  rate    the most bytes per second"),
    ("", "  bytes   the most bytes since they connected"),
    ("", "  quiet   for the longest, nodes sent only answers to pings"),
    ("", "  silent  for the longest, nothing from the clients"),
    ("", "  oldest, newest  by the time at which they connected"),
    ("/", "only clients whose id begins with what is typed; Enter, Esc"),
    ("o", "only clients that are not on their home node"),
    ("PgDn, PgUp, Home", "further clients"),
    ("Ctrl-L, Ctrl-Z", "draw again; stop, as any program"),
    ("RING, HAS", "percent: a node's share of the ring, and of the clients"),
];

const PLAIN: Style = Style::new();
const BOLD: Style = PLAIN.add_modifier(Modifier::BOLD);
const REVERSED: Style = PLAIN.add_modifier(Modifier::REVERSED);

/// Where a frame is drawn, line by line.
struct Canvas<'a> {
    buffer: &'a mut Buffer,
    /// Nothing is drawn outside of it.
    area: Rect,
    /// The next line.
    line: u16,
    no_color: bool,
}

/// A cell of a table: text and style.
struct Cell<'a>(Cow<'a, str>, Style);

/// A column: heading, width, and whether it is aligned to the right. A width of 0 is what the others leave.
struct Column {
    head: &'static str,
    width: u16,
    is_number: bool,
}

const fn column(head: &'static str, width: u16) -> Column {
    Column {
        head,
        width,
        is_number: false,
    }
}

const fn number(head: &'static str, width: u16) -> Column {
    Column {
        head,
        width,
        is_number: true,
    }
}

/// Columns, and where they are in each line.
struct Table<'a> {
    columns: &'a [Column],
    areas: Vec<Rect>,
}

/// Draws a frame into blank cells.
pub(super) fn draw(view: &View, buffer: &mut Buffer) {
    // Where there is one line alone, it is the title.
    let [body, last] = Layout::vertical([Constraint::Min(1), Constraint::Length(1)]).areas(buffer.area);
    let mut canvas = Canvas::new(buffer, body, view.no_color);
    title(view, &mut canvas);
    if view.is_help {
        help(&mut canvas);
    } else {
        head(view, &mut canvas);
        // The nodes may have half of what is left; where there are fewer, the clients have it.
        let left = body.height.saturating_sub(canvas.line);
        nodes(view, &mut canvas, left / 2);
        clients(view, &mut canvas, body.height);
    }
    keys(view, &mut Canvas::new(buffer, last, view.no_color));
}

/// A frame as lines of text, with every node.
pub(super) fn text(view: &View, width: u16) -> String {
    let nodes = u16::try_from(view.nodes().len()).unwrap_or(u16::MAX / 2);
    let area = Rect::new(0, 0, width, nodes.saturating_add(CLIENTS_IN_TEXT * 2));
    let mut buffer = Buffer::empty(area);
    let mut canvas = Canvas::new(&mut buffer, area, true);
    title(view, &mut canvas);
    head(view, &mut canvas);
    self::nodes(view, &mut canvas, nodes.saturating_add(3));
    let until = canvas.line.saturating_add(CLIENTS_IN_TEXT + 3);
    clients(view, &mut canvas, until);
    let lines: Vec<String> = (0..canvas.line).map(|y| text_of(&buffer, y)).collect();
    lines.join("\n")
}

/// The text of a line, without what is blank at its end.
fn text_of(buffer: &Buffer, y: u16) -> String {
    let mut text = String::new();
    let mut x = 0;
    while let Some(cell) = buffer.cell((x, y)) {
        text += cell.symbol();
        // A wide character hides the cell behind it.
        x += cell.cell_width().max(1);
    }
    text.truncate(text.trim_end().len());
    text
}

fn title(view: &View, canvas: &mut Canvas<'_>) {
    let process = view.figures.as_ref().map(|figures| &figures.now.status);
    let mut name = "remora top".to_owned();
    if let Some(status) = process {
        name = format!("remora {}  pid {}", status.version, status.pid);
        if let Some(file) = &status.configuration {
            name += &format!("  {file}");
        }
    }
    let (word, color) = match (&view.lost, process) {
        (Some(_), _) => ("NO ANSWER", Color::Red),
        (None, None) => ("asking", Color::Yellow),
        (None, Some(_)) if view.wanted.is_paused => ("paused", Color::Yellow),
        (None, Some(status)) if status.is_ready => ("ready", Color::Green),
        (None, Some(_)) => ("NOT READY", Color::Red),
    };
    canvas.row(REVERSED);
    let columns = [column("", 0), column("", word.len() as u16 + 1)];
    let cells = [Cell(name.into(), PLAIN), Cell(word.into(), canvas.color(color))];
    let table = Table::new(&columns, canvas.area.width);
    canvas.table_row(&table, &cells, false);
}

fn head(view: &View, canvas: &mut Canvas<'_>) {
    if let Some(why) = &view.lost {
        let line = format!("{why}; trying again, the figures are old");
        canvas.put_line(&line, canvas.color(Color::Red));
    }
    let Some(figures) = &view.figures else {
        return;
    };
    let status = &figures.now.status;
    if let Some(why) = &status.why_not_ready {
        canvas.put_line(&format!("not ready: {why}"), canvas.color(Color::Red));
    }
    let connect =
        |result: &str| per_second(figures.rate(|counters| counters.connects.get(result).copied().unwrap_or(0)));
    let line = format!(
        "connections {}  accepted {}/s  ended {}/s  refused {}/s  failed {}/s",
        status.connections,
        per_second(figures.rate(|counters| counters.accepted)),
        per_second(figures.rate(|counters| counters.ends.values().sum())),
        connect("refused"),
        connect("failed"),
    );
    canvas.put_line(&line, PLAIN);
    let all_nodes = |number: fn(&remora::admin::api::answers::NodeCounters) -> u64| {
        bytes(figures.rate(|counters| counters.nodes.iter().map(number).sum()))
    };
    let waiting: usize = figures.now.counters.nodes.iter().map(|node| node.waiting).sum();
    let line = format!(
        "from clients {}/s  to them {}/s  held {}  waiting {waiting}  placements {}",
        all_nodes(|node| node.bytes_from_clients),
        all_nodes(|node| node.bytes_to_clients),
        bytes(Some(status.held_bytes as f64)),
        status.placements,
    );
    canvas.put_line(&line, PLAIN);
    let ends = match figures.ends() {
        None => "-".to_owned(),
        Some(ends) if ends.is_empty() => "none".to_owned(),
        Some(ends) => {
            let each = ends
                .iter()
                .map(|(cause, rate)| format!("{cause} {}", per_second(Some(*rate))));
            each.collect::<Vec<_>>().join("  ")
        }
    };
    canvas.put_line(&format!("ends/s: {ends}"), PLAIN);
}

/// Draws the nodes in so many lines at most, with their heading.
fn nodes(view: &View, canvas: &mut Canvas<'_>, lines: u16) {
    let columns = [
        column("NODE", 12),
        column("STATE", 8),
        number("CLIENTS", 8),
        number("RING", 5),
        number("HAS", 5),
        number("CONN/S", 7),
        number("REF/S", 6),
        number("FAIL/S", 7),
        column("WHY", 0),
    ];
    let sorted = match view.nodes_by {
        NodesBy::Name => 0,
        NodesBy::State => 1,
        NodesBy::Clients => 2,
        NodesBy::Connects => 5,
        NodesBy::Refused => 6,
        NodesBy::Failures => 7,
    };
    let all = view.nodes();
    // One line for the heading, one for what is said below.
    let (Some(figures), Some(room @ 1..)) = (&view.figures, lines.checked_sub(2)) else {
        return;
    };
    let table = Table::new(&columns, canvas.area.width);
    canvas.heading(&table, Some(sorted));
    let room = usize::from(room);
    let chosen = all.iter().position(|node| Some(&node.node) == view.selected.as_ref());
    // The selected node is among those that are shown.
    let first = chosen.map_or(0, |place| (place + 1).saturating_sub(room));
    let clients: usize = all.iter().map(|node| node.connections).sum();
    for node in all.iter().skip(first).take(room) {
        let is_selected = Some(&node.node) == view.selected.as_ref();
        let cells = node_cells(figures, node, clients, canvas.no_color);
        canvas.table_row(&table, &cells, is_selected);
    }
    let selected = chosen.and_then(|place| all.get(place));
    let reason = selected.map(|node| why(node)).filter(|why| !why.is_empty());
    if let (Some(node), Some(reason)) = (selected, reason) {
        canvas.put_line(&format!("{}: {reason}", node.node), BOLD);
    } else if all.len() > room {
        let line = format!("{room} of {} nodes: up and down", all.len());
        canvas.put_line(&line, BOLD);
    }
}

fn node_cells<'a>(figures: &Figures, node: &'a Node, clients: usize, no_color: bool) -> Vec<Cell<'a>> {
    let colored = |color| if no_color { PLAIN } else { PLAIN.fg(color) };
    let state = state(node);
    let state_style = match (is_up(node), &*state) {
        (true, _) => colored(Color::Green),
        (false, "draining" | "removed") => colored(Color::Yellow),
        (false, _) => colored(Color::Red).patch(BOLD),
    };
    let rate = |number| figures.rate_of(&node.node, number);
    let failures = rate(figures::failures as fn(&_) -> u64);
    let bad = |rate: Option<f64>| match rate {
        Some(rate) if rate > 0.0 => colored(Color::Red),
        _ => PLAIN,
    };
    let refused = rate(figures::refused);
    let share = figures.counters_of(&node.node).and_then(|counters| counters.ring_share);
    let has = (clients > 0).then(|| node.connections as f64 / clients as f64);
    vec![
        Cell(Cow::from(&*node.node), PLAIN),
        Cell(state.into(), state_style),
        Cell(node.connections.to_string().into(), PLAIN),
        Cell(percent(share).into(), PLAIN),
        Cell(percent(has).into(), PLAIN),
        Cell(per_second(rate(figures::accepted)).into(), PLAIN),
        Cell(per_second(refused).into(), bad(refused)),
        Cell(per_second(failures).into(), bad(failures)),
        Cell(why(node).into(), PLAIN),
    ]
}

/// Draws the list of clients down to the line `until`.
fn clients(view: &View, canvas: &mut Canvas<'_>, until: u16) {
    if canvas.line + 2 >= until {
        return;
    }
    canvas.next();
    let what = match view.wanted.by {
        By::Rate => "busiest clients, in bytes per second",
        By::Bytes => "clients with the most bytes since they connected",
        By::Quiet => "quietest clients: for the longest, only answers to pings",
        By::Silent => "silent clients: have sent nothing for the longest",
        By::Oldest => "clients that have been connected for the longest",
        By::Newest => "newest clients",
    };
    let mut line = what.to_owned();
    if let Some(node) = &view.wanted.node {
        line += &format!(", on {node}");
    }
    if view.wanted.off_home {
        line += ", not at home";
    }
    if !view.wanted.prefix.is_empty() {
        line += &format!(", id begins with {}", view.wanted.prefix);
    }
    canvas.put_line(&line, BOLD);
    let (from, to) = match view.wanted.by {
        By::Rate => ("FROM/S", "TO/S"),
        _ => ("FROM", "TO"),
    };
    let width = canvas.area.width;
    let mut columns = vec![
        column("CLIENT", 0),
        column("NODE", 12),
        column("WHY", 9),
        number(from, 8),
        number(to, 8),
        number("UP", 6),
        number("SILENT", 6),
        number("QUIET", 6),
    ];
    if width >= WIDE {
        columns.extend([column("LISTENER", 12), column("ADDRESS", 22)]);
    }
    let table = Table::new(&columns, width);
    canvas.heading(&table, None);
    let Some(top) = &view.top else {
        let why = view.no_top.as_deref().unwrap_or("asking");
        canvas.put_line(why, PLAIN);
        return;
    };
    if top.clients.is_empty() {
        canvas.put_line("none", PLAIN);
    }
    let room = usize::from(until.saturating_sub(canvas.line));
    for client in top.clients.iter().skip(view.scrolled).take(room) {
        canvas.table_row(&table, &client_cells(client, top.over_seconds), false);
    }
}

fn client_cells(client: &TopClient, over: Option<u64>) -> Vec<Cell<'_>> {
    let TopClient {
        moved_from_client,
        moved_from_node,
        connection,
    } = client;
    let Connection {
        client_id,
        node,
        route,
        listener,
        client: address,
        seconds,
        client_silence_seconds,
        message_silence_seconds,
        ..
    } = connection;
    let moved = |count: u64| bytes(Some(count as f64 / over.unwrap_or(1).max(1) as f64));
    let cells = [
        Cow::from(named(client_id)),
        Cow::from(&**node),
        Cow::from(route.as_deref().unwrap_or("-")),
        moved(*moved_from_client).into(),
        moved(*moved_from_node).into(),
        time(*seconds).into(),
        time(*client_silence_seconds).into(),
        time(*message_silence_seconds).into(),
        Cow::from(&**listener),
        Cow::from(&**address),
    ];
    cells.into_iter().map(|text| Cell(text, PLAIN)).collect()
}

fn help(canvas: &mut Canvas<'_>) {
    canvas.next();
    let columns = [column("", 20), column("", 0)];
    let table = Table::new(&columns, canvas.area.width);
    for (keys, what) in HELP {
        let cells = [Cell(format!(" {keys}").into(), BOLD), Cell((*what).into(), PLAIN)];
        canvas.table_row(&table, &cells, false);
    }
}

/// The last line: what is being typed, or what keys there are.
fn keys(view: &View, canvas: &mut Canvas<'_>) {
    let area = canvas.line_area();
    match &view.typed {
        Some(typed) => {
            let line = Line::styled(format!("id begins with: {}_", EscapedText(typed)), BOLD);
            // Where not all of it fits, its end is what matters.
            let line = match line.width() > usize::from(area.width) {
                true => line.right_aligned(),
                false => line,
            };
            line.render(area, canvas.buffer);
        }
        None => {
            canvas.row(REVERSED);
            let line = "q end  ? help  / find  c other clients  s sort nodes  Enter one node  p pause";
            canvas.put(area, line, PLAIN);
        }
    }
}

impl<'a> Canvas<'a> {
    fn new(buffer: &'a mut Buffer, area: Rect, no_color: bool) -> Self {
        Self {
            buffer,
            area,
            line: 0,
            no_color,
        }
    }

    fn color(&self, color: Color) -> Style {
        match self.no_color {
            true => BOLD,
            false => PLAIN.fg(color),
        }
    }

    /// The line; empty where there is no room for it.
    fn line_area(&self) -> Rect {
        let line = Rect {
            y: self.area.y.saturating_add(self.line),
            height: 1,
            ..self.area
        };
        line.intersection(self.area)
    }

    /// Goes to the next line.
    fn next(&mut self) {
        self.line = self.line.saturating_add(1);
    }

    /// Gives the whole line this style.
    fn row(&mut self, style: Style) {
        self.buffer.set_style(self.line_area(), style);
    }

    /// Writes text into a part of the line, over its style; what does not fit is cut, which "…" shows. Whatever the text is, it does
    /// nothing to the terminal.
    fn put(&mut self, area: Rect, text: &str, style: Style) {
        let area = area.intersection(self.line_area());
        if area.is_empty() {
            return;
        }
        let Rect { x, y, width, .. } = area;
        let room = usize::from(width);
        let text = EscapedText(text).to_string();
        if Span::raw(&text).width() <= room {
            self.buffer.set_stringn(x, y, text, room, style);
            return;
        }
        let (end, _) = self.buffer.set_stringn(x, y, text, room - 1, style);
        self.buffer.set_stringn(end, y, "…", 1, style);
    }

    /// Writes a line of text, and goes to the next one.
    fn put_line(&mut self, text: &str, style: Style) {
        self.put(self.line_area(), text, style);
        self.next();
    }

    fn heading(&mut self, table: &Table<'_>, sorted: Option<usize>) {
        let style = BOLD.add_modifier(Modifier::UNDERLINED);
        let cells = table.columns.iter().enumerate().map(|(place, column)| {
            let mark = if sorted == Some(place) { "v" } else { "" };
            Cell(format!("{}{mark}", column.head).into(), style)
        });
        let cells: Vec<Cell<'_>> = cells.collect();
        self.table_row(table, &cells, false);
    }

    fn table_row(&mut self, table: &Table<'_>, cells: &[Cell<'_>], is_selected: bool) {
        if is_selected {
            self.row(REVERSED);
        }
        let line = self.line_area();
        for ((column, area), Cell(text, style)) in table.columns.iter().zip(&table.areas).zip(cells) {
            let used = match column.is_number {
                true => u16::try_from(Span::raw(&**text).width()).unwrap_or(u16::MAX),
                false => area.width,
            };
            let used = used.min(area.width);
            let area = Rect {
                x: area.right() - used,
                y: line.y,
                width: used,
                height: 1,
            };
            self.put(area, text, *style);
        }
        self.next();
    }
}

impl<'a> Table<'a> {
    /// Finds the place of each column in this width. Where it is too small, the columns keep their widths, and the last ones are not shown.
    /// A `Layout` would make all of them narrower, and its solver takes longer than the rest of a frame.
    fn new(columns: &'a [Column], width: u16) -> Self {
        let fixed: u16 = columns.iter().map(|column| column.width + 1).sum();
        let rest = width.saturating_add(1).saturating_sub(fixed);
        let mut x = 0;
        let place = |column: &Column| {
            let width = if column.width == 0 { rest } else { column.width };
            let area = Rect::new(x, 0, width, 1);
            x = area.right().saturating_add(1);
            area
        };
        Self {
            columns,
            areas: columns.iter().map(place).collect(),
        }
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
