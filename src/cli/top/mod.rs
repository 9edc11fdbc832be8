//! `remora top`: shows a balancer in a terminal, by way of the control API.
//!
//! `source` asks, `view` has what is known and what the operator chose, `frame` draws it into cells, and `screen` owns the terminal.

mod figures;
mod frame;
mod screen;
mod source;
mod view;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use ratatui_core::layout::Size;
use ratatui_crossterm::crossterm::event::Event;
use ratatui_crossterm::crossterm::terminal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::ctl::connection::{At, Failed, Place};
use super::print;
use remora::base::failpoint;
use screen::Screen;
use source::{Source, Update};
use view::{Effect, View};

/// Width and height of a frame that no terminal shows.
const SIZE_DEFAULT: (u16, u16) = (80, 24);

/// Which balancer is watched, and how.
#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    at: At,
    /// Seconds between two looks, in which rates are measured: 1 to 10.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=10))]
    interval: u64,
    /// Print one frame as text, with rates of one interval, and end.
    #[arg(long)]
    once: bool,
}

/// Runs the command.
pub(super) fn command(arguments: Arguments) -> ExitCode {
    let Arguments { at, interval, once } = arguments;
    let is_terminal = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !once && !is_terminal {
        return Failed::bad_usage("top fills a terminal, and this is none; --once prints one frame as text").report();
    }
    let interval = Duration::from_secs(interval);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(Failed::from).and_then(|runtime| {
        runtime.block_on(async {
            let place = at.place()?;
            match once {
                true => Ok(print(&text(place, interval).await?)),
                false => watch(place, interval).await.map(|()| ExitCode::SUCCESS),
            }
        })
    });
    done.unwrap_or_else(Failed::report)
}

/// One frame, with the rates of one interval.
async fn text(place: Place, interval: Duration) -> Result<String, Failed> {
    let mut view = View::new(true);
    let mut lists = Source::new(&place);
    let mut source = Source::new(&place);
    view.update(Update::Sample(Box::new(source.sample().await?)));
    let begun = Instant::now();
    let wanted = view.wanted();
    view.update(Update::Top(Box::new(lists.top(&wanted, interval).await?)));
    tokio::time::sleep_until(begun + interval).await;
    view.update(Update::Sample(Box::new(source.sample().await?)));
    Ok(frame::text(&view, width()))
}

/// The width of text that is printed: the terminal's, or what COLUMNS says.
fn width() -> u16 {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = io::stdout().is_terminal().then(terminal::size);
    let terminal = terminal.and_then(Result::ok).map(|(width, _)| width);
    terminal.or(columns).unwrap_or(SIZE_DEFAULT.0).clamp(40, 1_000)
}

/// Fills the terminal until the operator has seen enough.
async fn watch(place: Place, look: Duration) -> Result<(), Failed> {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let mut view = View::new(no_color);
    // A balancer that is not there is told before the terminal is taken.
    let first = Source::new(&place).sample().await?;
    view.update(Update::Sample(Box::new(first)));
    let mut signals = Signals::new()?;
    let (mut screen, mut events) = Screen::take()?;
    view.resize(screen.size()?);
    let (wanted, wanted_by) = watch::channel(view.wanted());
    let (updates, mut news) = mpsc::channel(16);
    let place = Arc::new(place);
    let mut asking = JoinSet::new();
    asking.spawn(source::samples(
        Arc::clone(&place),
        look,
        wanted_by.clone(),
        updates.clone(),
    ));
    asking.spawn(source::lists(place, look, wanted_by, updates));
    // Also when nothing is new: a terminal that is gone is noticed when it is written to.
    let mut tick = interval(look);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        failpoint::pass(failpoint::Place::Top);
        screen.draw(|cells| frame::draw(&view, cells))?;
        let effect = tokio::select! {
            Some(update) = news.recv() => {
                view.update(update);
                Effect::None
            }
            event = events.recv() => match event {
                Some(Event::Key(key)) => view.key(key),
                Some(Event::Resize(width, height)) => {
                    view.resize(Size::new(width, height));
                    Effect::None
                }
                Some(_) => Effect::None,
                None => return Err(Failed::refused("the terminal sends no keys any more")),
            },
            // A panic of theirs has given the terminal back already.
            Some(_) = asking.join_next() => return Err(Failed::refused("a task of top ended")),
            () = signals.any() => Effect::Quit,
            _ = tick.tick() => Effect::None,
        };
        match effect {
            Effect::None => {}
            Effect::Quit => return Ok(()),
            Effect::Redraw => screen.clear()?,
            Effect::Suspend => screen.suspend()?,
        }
        let now = view.wanted();
        wanted.send_if_modified(|wanted| {
            let is_new = *wanted != now;
            *wanted = now;
            is_new
        });
    }
}

/// The signals that end the program; Ctrl-C is a key.
struct Signals(Vec<Signal>);

impl Signals {
    fn new() -> io::Result<Self> {
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        kinds.into_iter().map(signal).collect::<io::Result<_>>().map(Self)
    }

    async fn any(&mut self) {
        let received = std::future::poll_fn(|cx| {
            let mut signals = self.0.iter_mut();
            match signals.any(|signal| signal.poll_recv(cx).is_ready()) {
                true => std::task::Poll::Ready(()),
                false => std::task::Poll::Pending,
            }
        });
        received.await;
    }
}
