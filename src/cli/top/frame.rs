//! A view as cells of a terminal, or as text. Draws into whatever size there is, and asks nothing.

use std::borrow::Cow;

use remora::admin::api::answers::{Connection, Node, TopClient};
use remora::base::log::EscapedText;

use super::cells::{Cells, Color, Style, width_of};
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

/// Where a frame is drawn, line by line.
struct Canvas<'a> {
    cells: &'a mut Cells,
    /// The next line.
    line: u16,
    no_color: bool,
}

/// A cell of a table: text, alignment and style.
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

/// Draws a frame into blank cells.
pub(super) fn draw(view: &View, cells: &mut Cells) {
    let body = cells.height().saturating_sub(1);
    let mut canvas = Canvas {
        cells,
        line: 0,
        no_color: view.no_color,
    };
    title(view, &mut canvas);
    if view.is_help {
        help(&mut canvas);
    } else {
        head(view, &mut canvas);
        // The nodes may have half of what is left; where there are fewer, the clients have it.
        let left = body.saturating_sub(canvas.line);
        nodes(view, &mut canvas, left / 2);
        clients(view, &mut canvas, body);
    }
    keys(view, &mut canvas);
}

/// A frame as lines of text, with every node.
pub(super) fn text(view: &View, width: u16) -> String {
    let nodes = u16::try_from(view.nodes().len()).unwrap_or(u16::MAX / 2);
    let mut cells = Cells::new(width, nodes.saturating_add(CLIENTS_IN_TEXT * 2));
    let mut canvas = Canvas {
        cells: &mut cells,
        line: 0,
        no_color: true,
    };
    title(view, &mut canvas);
    head(view, &mut canvas);
    self::nodes(view, &mut canvas, nodes.saturating_add(3));
    let until = canvas.line.saturating_add(CLIENTS_IN_TEXT + 3);
    clients(view, &mut canvas, until);
    let lines: Vec<String> = (0..canvas.line).map(|y| cells.text(y)).collect();
    lines.join("\n")
}

fn title(view: &View, canvas: &mut Canvas<'_>) {
    let style = Style::REVERSED;
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
    let width = canvas.cells.width();
    canvas.row(style);
    let room = width.saturating_sub(word.len() as u16 + 2);
    canvas.put(0, room, &name, style);
    canvas.put(
        room + 1,
        width.saturating_sub(room + 1),
        word,
        canvas.color(color).and(style),
    );
    canvas.next();
}

fn head(view: &View, canvas: &mut Canvas<'_>) {
    let width = canvas.cells.width();
    if let Some(why) = &view.lost {
        let line = format!("{why}; trying again, the figures are old");
        canvas.put(0, width, &line, canvas.color(Color::Red));
        canvas.next();
    }
    let Some(figures) = &view.figures else {
        return;
    };
    let status = &figures.now.status;
    if let Some(why) = &status.why_not_ready {
        canvas.put(0, width, &format!("not ready: {why}"), canvas.color(Color::Red));
        canvas.next();
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
    canvas.put(0, width, &line, Style::PLAIN);
    canvas.next();
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
    canvas.put(0, width, &line, Style::PLAIN);
    canvas.next();
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
    canvas.put(0, width, &format!("ends/s: {ends}"), Style::PLAIN);
    canvas.next();
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
    canvas.heading(&columns, Some(sorted));
    let room = usize::from(room);
    let chosen = all.iter().position(|node| Some(&node.node) == view.selected.as_ref());
    // The selected node is among those that are shown.
    let first = chosen.map_or(0, |place| (place + 1).saturating_sub(room));
    let clients: usize = all.iter().map(|node| node.connections).sum();
    for node in all.iter().skip(first).take(room) {
        let is_selected = Some(&node.node) == view.selected.as_ref();
        canvas.table_row(
            &columns,
            &node_cells(figures, node, clients, canvas.no_color),
            is_selected,
        );
    }
    let width = canvas.cells.width();
    let bold = Style::BOLD;
    let selected = chosen.and_then(|place| all.get(place));
    let reason = selected.map(|node| why(node)).filter(|why| !why.is_empty());
    if let (Some(node), Some(reason)) = (selected, reason) {
        canvas.put(0, width, &format!("{}: {reason}", node.node), bold);
        canvas.next();
    } else if all.len() > room {
        let line = format!("{room} of {} nodes: up and down", all.len());
        canvas.put(0, width, &line, bold);
        canvas.next();
    }
}

fn node_cells<'a>(figures: &Figures, node: &'a Node, clients: usize, no_color: bool) -> Vec<Cell<'a>> {
    let plain = Style::PLAIN;
    let colored = |color| if no_color { Style::PLAIN } else { Style::of(color) };
    let state = state(node);
    let state_style = match (is_up(node), &*state) {
        (true, _) => colored(Color::Green),
        (false, "draining" | "removed") => colored(Color::Yellow),
        (false, _) => colored(Color::Red).and(Style::BOLD),
    };
    let rate = |number| figures.rate_of(&node.node, number);
    let failures = rate(figures::failures as fn(&_) -> u64);
    let bad = |rate: Option<f64>| match rate {
        Some(rate) if rate > 0.0 => colored(Color::Red),
        _ => plain,
    };
    let refused = rate(figures::refused);
    let share = figures.counters_of(&node.node).and_then(|counters| counters.ring_share);
    let has = (clients > 0).then(|| node.connections as f64 / clients as f64);
    vec![
        Cell(Cow::from(&*node.node), plain),
        Cell(state.into(), state_style),
        Cell(node.connections.to_string().into(), plain),
        Cell(percent(share).into(), plain),
        Cell(percent(has).into(), plain),
        Cell(per_second(rate(figures::accepted)).into(), plain),
        Cell(per_second(refused).into(), bad(refused)),
        Cell(per_second(failures).into(), bad(failures)),
        Cell(why(node).into(), plain),
    ]
}

/// Draws the list of clients down to the line `until`.
fn clients(view: &View, canvas: &mut Canvas<'_>, until: u16) {
    if canvas.line + 2 >= until {
        return;
    }
    let width = canvas.cells.width();
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
    canvas.put(0, width, &line, Style::BOLD);
    canvas.next();
    let (from, to) = match view.wanted.by {
        By::Rate => ("FROM/S", "TO/S"),
        _ => ("FROM", "TO"),
    };
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
    canvas.heading(&columns, None);
    let Some(top) = &view.top else {
        let why = view.no_top.as_deref().unwrap_or("asking");
        canvas.put(0, width, why, Style::PLAIN);
        canvas.next();
        return;
    };
    if top.clients.is_empty() {
        canvas.put(0, width, "none", Style::PLAIN);
        canvas.next();
    }
    let room = usize::from(until.saturating_sub(canvas.line));
    for client in top.clients.iter().skip(view.scrolled).take(room) {
        canvas.table_row(&columns, &client_cells(client, top.over_seconds), false);
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
    cells.into_iter().map(|text| Cell(text, Style::PLAIN)).collect()
}

fn help(canvas: &mut Canvas<'_>) {
    canvas.next();
    let width = canvas.cells.width();
    for (keys, what) in HELP {
        canvas.put(1, 19, keys, Style::BOLD);
        canvas.put(21, width.saturating_sub(21), what, Style::PLAIN);
        canvas.next();
    }
}

/// The last line: what is being typed, or what keys there are.
fn keys(view: &View, canvas: &mut Canvas<'_>) {
    let Some(last) = canvas.cells.height().checked_sub(1).filter(|last| *last > 0) else {
        return;
    };
    canvas.line = last;
    canvas.row(Style::PLAIN);
    let width = canvas.cells.width();
    match &view.typed {
        Some(typed) => {
            let prompt = "id begins with: ";
            let shown = format!("{prompt}{}_", EscapedText(typed));
            // The end of what is typed is what matters.
            let too_wide = width_of(&shown).saturating_sub(usize::from(width));
            let skipped = match too_wide {
                0 => 0,
                wide => shown.char_indices().nth(wide).map_or(0, |(at, _)| at),
            };
            canvas.put(0, width, &shown[skipped..], Style::BOLD);
        }
        None => {
            let style = Style::REVERSED;
            canvas.row(style);
            let line = "q end  ? help  / find  c other clients  s sort nodes  Enter one node  p pause";
            canvas.put(0, width, line, style);
        }
    }
}

impl Canvas<'_> {
    fn color(&self, color: Color) -> Style {
        match self.no_color {
            true => Style::BOLD,
            false => Style::of(color),
        }
    }

    /// Goes to the next line.
    fn next(&mut self) {
        self.line = self.line.saturating_add(1);
    }

    /// Makes the line blank, in this style.
    fn row(&mut self, style: Style) {
        self.cells.blank(self.line, style);
    }

    /// Writes text into so many columns of the line; what does not fit is cut, which its last character shows. Whatever the text is, it
    /// does nothing to the terminal.
    fn put(&mut self, x: u16, width: u16, text: &str, style: Style) {
        self.cells
            .write(x, self.line, &EscapedText(text).to_string(), width, style);
    }

    fn heading(&mut self, columns: &[Column], sorted: Option<usize>) {
        let style = Style {
            is_underlined: true,
            ..Style::BOLD
        };
        let cells = columns.iter().enumerate().map(|(place, column)| {
            let mark = if sorted == Some(place) { "v" } else { "" };
            Cell(format!("{}{mark}", column.head).into(), style)
        });
        let cells: Vec<Cell<'_>> = cells.collect();
        self.table(columns, &cells, Style::PLAIN);
    }

    fn table_row(&mut self, columns: &[Column], cells: &[Cell<'_>], is_selected: bool) {
        let style = match is_selected {
            true => Style::REVERSED,
            false => Style::PLAIN,
        };
        self.table(columns, cells, style);
    }

    fn table(&mut self, columns: &[Column], cells: &[Cell<'_>], style: Style) {
        self.row(style);
        let fixed: u16 = columns.iter().map(|column| column.width + 1).sum();
        // The one column without a width has what is left.
        let rest = (self.cells.width() + 1).saturating_sub(fixed);
        let mut x = 0;
        for (column, Cell(text, own)) in columns.iter().zip(cells) {
            let width = if column.width == 0 { rest } else { column.width };
            let used = u16::try_from(width_of(text)).unwrap_or(u16::MAX);
            let at = match column.is_number {
                true => x + width.saturating_sub(used),
                false => x,
            };
            self.put(at, width.min(x + width - at), text, own.and(style));
            x += width + 1;
        }
        self.next();
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
