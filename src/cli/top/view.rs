//! What is known of the balancer, and what the operator chose to see. Keys change it; nothing here asks or draws.

use std::cmp::Ordering;

use ratatui_core::layout::Size;
use ratatui_crossterm::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use remora::admin::api::answers::{Node, TopClients};

use super::figures::{self, Figures};
use super::source::Update;

/// The most clients that the API lists by order.
const CLIENTS_MAX: usize = 100;

/// Bytes of a client id that count when it is looked for by its beginning.
const PREFIX_MAX: usize = 256;

/// The order of the list of clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum By {
    #[default]
    Rate,
    Bytes,
    Quiet,
    Silent,
    Oldest,
    Newest,
}

impl By {
    const ALL: [Self; 6] = [
        Self::Rate,
        Self::Bytes,
        Self::Quiet,
        Self::Silent,
        Self::Oldest,
        Self::Newest,
    ];

    /// The word of the API.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Bytes => "bytes",
            Self::Quiet => "quiet",
            Self::Silent => "silent",
            Self::Oldest => "oldest",
            Self::Newest => "newest",
        }
    }

    /// Whether the answer takes as long as is measured.
    pub(super) fn is_measured(self) -> bool {
        self == Self::Rate
    }
}

/// What nodes are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NodesBy {
    #[default]
    Name,
    State,
    Clients,
    Connects,
    Refused,
    Failures,
}

impl NodesBy {
    const ALL: [Self; 6] = [
        Self::Name,
        Self::State,
        Self::Clients,
        Self::Connects,
        Self::Refused,
        Self::Failures,
    ];
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) by: By,
    /// The beginning of ids.
    pub(super) prefix: String,
    pub(super) node: Option<String>,
    pub(super) off_home: bool,
    pub(super) limit: usize,
    pub(super) is_paused: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            by: By::default(),
            prefix: String::new(),
            node: None,
            off_home: false,
            limit: 20,
            is_paused: false,
        }
    }
}

/// What a key is to do beyond another view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Quit,
    /// Draw every cell again.
    Redraw,
    /// Give the terminal back to the shell until it wants the program again.
    Suspend,
}

/// What is on the screen.
#[derive(Debug)]
pub(super) struct View {
    pub(super) figures: Option<Figures>,
    pub(super) top: Option<TopClients>,
    /// Why there is no list of clients.
    pub(super) no_top: Option<String>,
    /// Why the balancer does not answer.
    pub(super) lost: Option<String>,
    pub(super) wanted: Wanted,
    pub(super) nodes_by: NodesBy,
    pub(super) is_reversed: bool,
    /// The name of the node that keys apply to.
    pub(super) selected: Option<String>,
    /// The clients above the first that is shown.
    pub(super) scrolled: usize,
    /// The beginning of ids as it is being typed.
    pub(super) typed: Option<String>,
    pub(super) is_help: bool,
    pub(super) no_color: bool,
    height: usize,
}

impl View {
    pub(super) fn new(no_color: bool) -> Self {
        Self {
            figures: None,
            top: None,
            no_top: None,
            lost: None,
            wanted: Wanted::default(),
            nodes_by: NodesBy::default(),
            is_reversed: false,
            selected: None,
            scrolled: 0,
            typed: None,
            is_help: false,
            no_color,
            height: 0,
        }
    }

    /// What is asked for now: no more clients than the terminal has room for.
    pub(super) fn wanted(&self) -> Wanted {
        let limit = (self.scrolled + self.height).next_multiple_of(20);
        Wanted {
            limit: limit.clamp(20, CLIENTS_MAX),
            ..self.wanted.clone()
        }
    }

    pub(super) fn resize(&mut self, size: Size) {
        self.height = usize::from(size.height);
    }

    pub(super) fn update(&mut self, update: Update) {
        match update {
            Update::Sample(sample) => {
                self.figures = Some(Figures::next(self.figures.take(), *sample));
                self.lost = None;
            }
            // One that was asked for before the last key is of another order.
            Update::Top(top) if top.by == self.wanted.by.name() => {
                self.scrolled = self.scrolled.min(top.clients.len().saturating_sub(1));
                self.top = Some(*top);
                self.no_top = None;
            }
            Update::Top(_) => {}
            Update::NoTop(why) => {
                self.top = None;
                self.no_top = Some(why);
            }
            Update::Lost(why) => self.lost = Some(why),
        }
    }

    /// The nodes in the order that was chosen.
    pub(super) fn nodes(&self) -> Vec<&Node> {
        let Some(figures) = &self.figures else {
            return Vec::new();
        };
        let mut nodes: Vec<&Node> = figures.now.nodes.nodes.iter().collect();
        let rate = |node: &Node, number: fn(&remora::admin::api::answers::NodeCounters) -> u64| {
            figures.rate_of(&node.node, number).unwrap_or_default()
        };
        // The most first, except for names. Sorting keeps the order of names among equals.
        let order = |one: &Node, other: &Node| match self.nodes_by {
            NodesBy::Name => one.node.cmp(&other.node),
            NodesBy::State => is_up(one).cmp(&is_up(other)),
            NodesBy::Clients => other.connections.cmp(&one.connections),
            NodesBy::Connects => rate(other, figures::accepted).total_cmp(&rate(one, figures::accepted)),
            NodesBy::Refused => rate(other, figures::refused).total_cmp(&rate(one, figures::refused)),
            NodesBy::Failures => rate(other, figures::failures).total_cmp(&rate(one, figures::failures)),
        };
        nodes.sort_by(|one, other| match self.is_reversed {
            false => order(one, other),
            true => Ordering::reverse(order(one, other)),
        });
        nodes
    }

    /// Does what a key is for.
    pub(super) fn key(&mut self, key: KeyEvent) -> Effect {
        if key.kind == KeyEventKind::Release {
            return Effect::None;
        }
        let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | '\\') if with_control => return Effect::Quit,
            KeyCode::Char('z') if with_control => return Effect::Suspend,
            KeyCode::Char('l') if with_control => return Effect::Redraw,
            _ => {}
        }
        if let Some(typed) = self.typed.take() {
            self.typing(typed, key.code, with_control);
            return Effect::None;
        }
        if self.is_help {
            self.is_help = false;
            return Effect::None;
        }
        if with_control {
            return Effect::None;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Effect::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.is_help = true,
            KeyCode::Char('p' | ' ') => self.wanted.is_paused = !self.wanted.is_paused,
            KeyCode::Char('/') => self.typed = Some(self.wanted.prefix.clone()),
            KeyCode::Char('c') | KeyCode::Right => self.list(next(&By::ALL, self.wanted.by, 1)),
            KeyCode::Char('C') | KeyCode::Left => self.list(next(&By::ALL, self.wanted.by, By::ALL.len() - 1)),
            KeyCode::Char('o') => {
                self.wanted.off_home = !self.wanted.off_home;
                self.forget_list();
            }
            KeyCode::Char('s') => self.nodes_by = next(&NodesBy::ALL, self.nodes_by, 1),
            KeyCode::Char('S') => self.nodes_by = next(&NodesBy::ALL, self.nodes_by, NodesBy::ALL.len() - 1),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Down | KeyCode::Char('j') => {
                self.select(|place, last| place.map_or(0, |place| last.min(place + 1)))
            }
            KeyCode::Up | KeyCode::Char('k') => {
                self.select(|place, last| place.map_or(last, |place| place.saturating_sub(1)));
            }
            KeyCode::Enter => {
                let chosen = self.selected.clone().filter(|_| self.wanted.node != self.selected);
                if self.wanted.node != chosen {
                    self.wanted.node = chosen;
                    self.forget_list();
                }
            }
            KeyCode::PageDown => {
                let most = self.top.as_ref().map_or(0, |top| top.clients.len().saturating_sub(1));
                self.scrolled = (self.scrolled + 10).min(most);
            }
            KeyCode::PageUp => self.scrolled = self.scrolled.saturating_sub(10),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        Effect::None
    }

    /// A key while the beginning of ids is typed.
    fn typing(&mut self, mut typed: String, code: KeyCode, with_control: bool) {
        match code {
            KeyCode::Esc => return,
            KeyCode::Enter => {
                if self.wanted.prefix != typed {
                    self.wanted.prefix = typed;
                    self.forget_list();
                }
                return;
            }
            KeyCode::Backspace => {
                typed.pop();
            }
            KeyCode::Char('u') if with_control => typed.clear(),
            KeyCode::Char(character) if !with_control && typed.len() + character.len_utf8() <= PREFIX_MAX => {
                typed.push(character);
            }
            _ => {}
        }
        self.typed = Some(typed);
    }

    fn list(&mut self, by: By) {
        self.wanted.by = by;
        self.forget_list();
    }

    /// The list that is there is not the one that is wanted any more.
    fn forget_list(&mut self) {
        self.top = None;
        self.no_top = None;
        self.scrolled = 0;
    }

    /// Selects another node: `other` says its place, from that of the one that is selected and the last one.
    fn select(&mut self, other: impl FnOnce(Option<usize>, usize) -> usize) {
        let nodes = self.nodes();
        let place = nodes
            .iter()
            .position(|node| Some(&*node.node) == self.selected.as_deref());
        let Some(last) = nodes.len().checked_sub(1) else {
            return;
        };
        self.selected = nodes.get(other(place, last)).map(|node| node.node.clone());
    }
}

/// The value that is so many places behind `now`, going round.
fn next<T: Copy + PartialEq>(all: &[T], now: T, places: usize) -> T {
    let place = all.iter().position(|other| *other == now).unwrap_or_default();
    all.get((place + places) % all.len()).copied().unwrap_or(now)
}

/// Whether all endpoints of a node are up.
pub(super) fn is_up(node: &Node) -> bool {
    !node.is_removed && node.endpoints.iter().all(|endpoint| endpoint.state == "up")
}
