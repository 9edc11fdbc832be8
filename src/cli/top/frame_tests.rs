//! Frames of all sizes, of a balancer that is made up.

use std::time::Duration;

use ratatui_core::backend::Backend;
use ratatui_core::layout::Size;
use ratatui_crossterm::CrosstermBackend;
use ratatui_crossterm::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use remora::admin::api::answers::TopClients;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::source::{Sample, Update};
use super::super::view::Effect;
use super::*;

/// A sample at a second, with so many nodes of which the last one is down.
fn sample(begun: Instant, second: u64, nodes: usize) -> Update {
    let name = |number: usize| format!("node{number}");
    let status = json!({
        "version": "0.1.0", "pid": 42, "configuration": "/etc/remora/remora.toml", "is_ready": true, "why_not_ready": null,
        "connections": 9_000, "awaiting_connect": 1, "handshakes": 0, "held_bytes": 4_096, "placements": 31,
        "nodes_up": [], "nodes_not_up": [],
    });
    let node = |number: usize| {
        let is_last = number + 1 == nodes;
        let finding = json!({
            "source": "probe", "endpoint": "mqtt", "verdict": if is_last { "failing" } else { "up" },
            "why": if is_last { json!("TCP connect: Connection refused") } else { Value::Null },
        });
        json!({
            "node": name(number), "weight": 100, "configured_weight": 100, "is_draining": false, "closing_rate": null,
            "is_removed": false, "connections": 1_000 * (number + 1),
            "endpoints": [{ "endpoint": "mqtt", "state": if is_last { "down" } else { "up" } }], "findings": [finding],
        })
    };
    let counters = |number: usize| {
        json!({
            "node": name(number), "ring_share": 1.0 / nodes as f64, "waiting": 2,
            "connacks": { "0": 100 * second * (number as u64 + 1), "0x97": 3 * second },
            "failures": { "dial": second }, "retries": {}, "bytes_from_clients": 2_048 * second, "bytes_to_clients": 0,
        })
    };
    let counters = json!({
        "accepted": 120 * second, "connects": { "refused": 2 * second, "failed": 0 },
        "ends": { "client_closed": 110 * second, "idle": 5 * second, "refused": 0 },
        "nodes": (0..nodes).map(counters).collect::<Vec<_>>(),
    });
    let read = "a value of this form";
    Update::Sample(Box::new(Sample {
        at: begun + Duration::from_secs(second),
        status: serde_json::from_value(status).expect(read),
        nodes: serde_json::from_value(json!({ "nodes": (0..nodes).map(node).collect::<Vec<_>>() })).expect(read),
        counters: serde_json::from_value(counters).expect(read),
    }))
}

fn list(ids: &[&str]) -> Update {
    let client = |id: &&str| {
        json!({
            "moved_from_client": 4_096, "moved_from_node": 1_024,
            "connection": {
                "connection": "1", "client_id": id, "node": "node0", "route": "home", "home": "node0", "listener": "mqtt",
                "transport": "mqtt", "client": "192.0.2.7:50123", "version": "5", "seconds": 90_061,
                "client_silence_seconds": 5, "node_silence_seconds": 6, "message_silence_seconds": 65, "from_client": 0,
                "from_node": 0, "keep_alive": 60, "clean_start": true, "session_expiry_seconds": null, "server_name": null,
                "certificate_cn": null,
            },
        })
    };
    let clients: Vec<Value> = ids.iter().map(client).collect();
    let top = json!({ "by": "rate", "over_seconds": 2, "clients": clients });
    let top: TopClients = serde_json::from_value(top).expect("a list of this form");
    Update::Top(Box::new(top))
}

/// Two samples two seconds apart, and a list.
fn view(nodes: usize, ids: &[&str]) -> View {
    let mut view = View::new(false);
    let begun = Instant::now();
    view.update(sample(begun, 10, nodes));
    view.update(sample(begun, 12, nodes));
    view.update(list(ids));
    view
}

fn drawn(view: &View, (width, height): (u16, u16)) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    draw(view, &mut buffer);
    buffer
}

fn lines(view: &View, size: (u16, u16)) -> Vec<String> {
    let buffer = drawn(view, size);
    (0..size.1).map(|y| text_of(&buffer, y)).collect()
}

fn press(view: &mut View, code: KeyCode) -> Effect {
    view.key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn type_in(view: &mut View, text: &str) {
    for character in text.chars() {
        assert_eq!(press(view, KeyCode::Char(character)), Effect::None);
    }
}

#[test]
fn a_frame_shows_nodes_rates_ends_and_clients() {
    let mut view = view(3, &["sensor-1", "sensor-2"]);
    let shown = lines(&view, (80, 24));
    let expected = [
        "remora 0.1.0  pid 42  /etc/remora/remora.toml                             ready",
        "connections 9000  accepted 120/s  ended 115/s  refused 2.0/s  failed 0/s",
        "from clients 6.0 KiB/s  to them 0 B/s  held 4.0 KiB  waiting 6  placements 31",
        "ends/s: client_closed 110  idle 5.0",
        "NODEv        STATE     CLIENTS  RING   HAS  CONN/S  REF/S  FAIL/S WHY",
        "node0        up           1000  33.3  16.7     100    3.0     1.0",
        "node1        up           2000  33.3  33.3     200    3.0     1.0",
        "node2        down         3000  33.3  50.0     300    3.0     1.0 probe of mqtt…",
        "",
        "busiest clients, in bytes per second",
        "CLIENT             NODE         WHY         FROM/S     TO/S     UP SILENT  QUIET",
        "sensor-1           node0        home       2.0 KiB    512 B   1d1h     5s   1m5s",
        "sensor-2           node0        home       2.0 KiB    512 B   1d1h     5s   1m5s",
    ];
    assert_eq!(shown[..expected.len()], expected);
    assert!(shown[23].starts_with("q end"), "{}", shown[23]);
    // The reason of a node, in full.
    press(&mut view, KeyCode::Up);
    let shown = lines(&view, (80, 24));
    assert_eq!(
        shown[8],
        "node2: probe of mqtt: failing (TCP connect: Connection refused)"
    );
    // The same as text, without what is for a terminal.
    view.selected = None;
    let text = text(&view, 80);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_frame_fits_into_every_size() {
    let ids: Vec<String> = (0..100).map(|number| format!("sensor-{number}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    for nodes in [0, 1, 3, 200] {
        let mut view = view(nodes, &ids);
        view.lost = Some("no answer".to_owned());
        for _ in 0..=nodes {
            press(&mut view, KeyCode::Down);
        }
        for step in 0..3 {
            for width in [1, 2, 20, 79, 80, 110, 300] {
                for height in [1, 2, 3, 5, 10, 24, 80] {
                    let shown = lines(&view, (width, height));
                    assert_eq!(shown.len(), usize::from(height));
                }
            }
            view.is_help = step == 0;
            view.typed = (step == 1).then(|| "é".repeat(100));
        }
    }
    let wide = lines(&view(1, &["sensor-1"]), (130, 24));
    assert!(wide[9].ends_with("mqtt         192.0.2.7:50123"), "{}", wide[9]);
}

#[test]
fn a_text_is_cut_where_its_room_ends() {
    let cases = [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("a水b", 4, "a水b"),
        ("a水bc", 4, "a水…"),
        ("a水bc", 3, "a…"),
        ("e\u{301}e\u{301}", 2, "e\u{301}e\u{301}"),
        ("\u{301}a", 2, "a"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
    ];
    for (text, room, expected) in cases {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 6, 2));
        let mut canvas = Canvas::new(&mut buffer, Rect::new(0, 0, 6, 2), false);
        canvas.put(Rect::new(0, 0, room, 1), text, PLAIN);
        assert_eq!(text_of(&buffer, 0), expected, "{text} in {room}");
    }
    let mut buffer = Buffer::empty(Rect::new(0, 0, 3, 2));
    let mut canvas = Canvas::new(&mut buffer, Rect::new(0, 0, 3, 1), false);
    canvas.put(Rect::new(1, 0, 100, 1), "abcdef", PLAIN);
    for (x, y) in [(3, 0), (0, 1), (u16::MAX, u16::MAX)] {
        canvas.put(Rect::new(x, y, 10, 1), "outside", PLAIN);
    }
    canvas.line = u16::MAX;
    canvas.put_line("below", PLAIN);
    canvas.row(REVERSED);
    assert_eq!([0, 1].map(|y| text_of(&buffer, y)), [" a…", ""]);
}

#[test]
fn the_end_of_what_is_typed_is_shown() {
    let cases = [
        ("abc", 20, "id begins with: abc_"),
        ("0123456789", 20, "ns with: 0123456789_"),
        ("水水水水", 20, "gins with: 水水水水_"),
    ];
    let mut view = view(1, &[]);
    for (typed, width, expected) in cases {
        view.typed = Some(typed.to_owned());
        assert_eq!(lines(&view, (width, 5))[4], expected);
    }
}

#[test]
fn a_terminal_shows_each_frame_whatever_it_showed_before() {
    let size = (100, 24);
    let mut terminal = vt100::Parser::new(size.1, size.0, 0);
    let mut before = Buffer::empty(Rect::new(0, 0, size.0, size.1));
    let mut view = view(3, &["sensor-1", "水水水水水", "a水"]);
    let changes: [fn(&mut View); 6] = [
        |_| {},
        |view| {
            view.update(list(&[
                "水水",
                "sensor-2 with a longer name",
                "水水水水水水水水水水水水水水",
            ]))
        },
        |view| view.is_help = true,
        |view| view.is_help = false,
        |view| view.update(list(&["e\u{301}水", "x"])),
        |view| view.typed = Some("水".to_owned()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        change(&mut view);
        let now = drawn(&view, size);
        let mut bytes = Vec::new();
        let mut backend = CrosstermBackend::new(&mut bytes);
        backend.draw(before.diff_iter(&now)).expect("a vector");
        terminal.process(&bytes);
        let shown: Vec<String> = terminal
            .screen()
            .rows(0, size.0)
            .map(|row| row.trim_end().to_owned())
            .collect();
        assert_eq!(shown, lines(&view, size), "{number}");
        before = now;
    }
}

#[test]
fn the_selected_node_is_among_those_that_are_shown() {
    let mut view = view(50, &[]);
    for _ in 0..40 {
        press(&mut view, KeyCode::Char('j'));
    }
    let shown = lines(&view, (80, 24));
    let selected = view.selected.clone().expect("a node");
    assert!(
        shown.iter().any(|line| line.starts_with(&selected)),
        "{selected}: {shown:#?}"
    );
    assert!(shown.iter().any(|line| line.contains("of 50 nodes")), "{shown:#?}");
    assert!(
        shown.iter().any(|line| line.starts_with("busiest clients")),
        "clients have their half"
    );
}

#[test]
fn nothing_that_a_client_or_a_file_says_reaches_the_terminal_as_it_is() {
    let ids = [
        "a\u{1b}[2Jb",
        "a\u{202e}b\u{2066}c",
        "a\nb",
        "Gerät",
        "水".repeat(40).leak(),
        "\\u{1b}",
    ];
    let mut view = view(1, &ids);
    view.lost = Some("an\u{1b}]0;error\u{7}".to_owned());
    view.typed = Some("\u{202e}x".to_owned());
    let shown = lines(&view, (80, 24)).join("\n");
    for character in ['\u{1b}', '\u{7}', '\u{202e}', '\u{2066}'] {
        assert!(!shown.contains(character), "{character:?}");
    }
    assert!(
        shown.contains("a\\u{1b}[2Jb") && shown.contains("a\\u{202e}b") && shown.contains("Gerät"),
        "{shown}"
    );
    assert!(shown.contains("id begins with: \\u{202e}x_"));
}

#[test]
fn without_colors_there_are_none() {
    let colors = |no_color: bool| {
        let mut view = view(3, &["sensor-1"]);
        view.no_color = no_color;
        let buffer = drawn(&view, (80, 24));
        buffer.content().iter().any(|cell| cell.fg != Color::Reset)
    };
    assert!(!colors(true));
    assert!(colors(false));
}

#[test]
fn a_lost_balancer_is_said_with_the_last_figures() {
    let mut view = view(3, &["sensor-1"]);
    view.update(Update::Lost("no process at /run/remora/admin.sock".to_owned()));
    let shown = lines(&view, (100, 24));
    assert!(shown[0].ends_with("NO ANSWER"), "{}", shown[0]);
    assert!(
        shown[1].starts_with("no process at /run/remora/admin.sock; trying again"),
        "{}",
        shown[1]
    );
    assert!(shown.iter().any(|line| line.starts_with("node1")), "{shown:#?}");
    view.update(sample(Instant::now(), 20, 3));
    assert!(lines(&view, (100, 24))[0].ends_with("ready"));
}

#[test]
fn a_balancer_that_was_restarted_has_no_rates_before_its_second_sample() {
    let mut view = view(2, &[]);
    let begun = Instant::now() + Duration::from_secs(60);
    let Update::Sample(mut restarted) = sample(begun, 1, 2) else {
        unreachable!("a sample");
    };
    restarted.status.pid = 43;
    view.update(Update::Sample(restarted));
    let shown = lines(&view, (80, 24));
    assert!(shown[1].starts_with("connections 9000  accepted -/s"), "{}", shown[1]);
    assert_eq!(shown[3], "ends/s: -");
}

#[test]
fn keys_choose_what_is_asked_for() {
    let mut view = view(3, &["sensor-1"]);
    let first = view.wanted();
    type_in(&mut view, "/sensq?p");
    assert_eq!(
        view.wanted(),
        first,
        "not before Enter, and no other key counts meanwhile"
    );
    press(&mut view, KeyCode::Backspace);
    press(&mut view, KeyCode::Enter);
    assert_eq!(view.wanted().prefix, "sensq?");
    type_in(&mut view, "/x");
    press(&mut view, KeyCode::Esc);
    assert_eq!(view.wanted().prefix, "sensq?");
    press(&mut view, KeyCode::Down);
    press(&mut view, KeyCode::Down);
    press(&mut view, KeyCode::Enter);
    assert_eq!(view.wanted().node.as_deref(), Some("node1"));
    press(&mut view, KeyCode::Enter);
    assert_eq!(view.wanted().node, None);
    type_in(&mut view, "o");
    assert!(view.wanted().off_home);
    let orders: Vec<&str> = (0..6)
        .map(|_| {
            type_in(&mut view, "c");
            view.wanted().by.name()
        })
        .collect();
    assert_eq!(orders, ["bytes", "quiet", "silent", "oldest", "newest", "rate"]);
    assert!(view.top.is_none(), "the list of before is not that of this order");
    type_in(&mut view, "p");
    assert!(view.wanted().is_paused);
    assert!(lines(&view, (80, 24))[0].ends_with("paused"));
    type_in(&mut view, "?");
    assert!(lines(&view, (80, 24)).iter().any(|line| line.contains("select a node")));
    assert_eq!(press(&mut view, KeyCode::Char('q')), Effect::None, "it leaves the help");
    assert_eq!(press(&mut view, KeyCode::Char('q')), Effect::Quit);
    let control = |view: &mut View, letter| view.key(KeyEvent::new(KeyCode::Char(letter), KeyModifiers::CONTROL));
    assert_eq!(control(&mut view, 'c'), Effect::Quit);
    type_in(&mut view, "/");
    assert_eq!(control(&mut view, 'c'), Effect::Quit, "while typing as well");
    assert_eq!(control(&mut view, 'z'), Effect::Suspend);
    view.resize(Size::new(200, 500));
    assert_eq!(view.wanted().limit, 100, "as many as the API gives");
}

#[test]
fn nodes_are_sorted_by_what_is_chosen() {
    let mut view = view(12, &[]);
    let first = |view: &View| view.nodes()[0].node.clone();
    assert_eq!(first(&view), "node0");
    let firsts: Vec<String> = (0..5)
        .map(|_| {
            type_in(&mut view, "s");
            first(&view)
        })
        .collect();
    // State, clients, CONNECTs; all have as many refusals and failures.
    assert_eq!(firsts, ["node11", "node11", "node11", "node0", "node0"]);
    type_in(&mut view, "SSr");
    assert_eq!(first(&view), "node0", "the fewest CONNECTs first");
}
