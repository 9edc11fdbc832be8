//! The terminal: taken when `remora top` begins, and given back however it ends, by a panic as well.

use std::io::{self, Write};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, Show};
use crossterm::event::{self, Event};
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size};
use crossterm::{execute, queue};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::mpsc;

use super::cells::Cells;

/// Keys that wait to be read.
const KEYS_MAX: usize = 64;

/// Whether the terminal is in the state that [`take`] brings about.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal, until it is dropped; with what it shows, if that is known.
#[derive(Debug)]
pub(super) struct Screen(Option<Cells>);

impl Screen {
    /// Takes the terminal: keys are passed on as they are pressed, and what was on it returns when this is dropped. Also returns the keys
    /// and changes of size, which end when the terminal does.
    pub(super) fn take() -> io::Result<(Self, mpsc::Receiver<Event>)> {
        static GIVEN_BACK_BEFORE_A_PANIC_IS_TOLD: Once = Once::new();
        GIVEN_BACK_BEFORE_A_PANIC_IS_TOLD.call_once(|| {
            let tell = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                give_back();
                tell(info);
            }));
        });
        take()?;
        // From here on, an error gives the terminal back.
        let screen = Self(None);
        let (sender, events) = mpsc::channel(KEYS_MAX);
        std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
            // Ends with the process, unless the terminal ends before.
            while let Ok(event) = event::read() {
                if sender.blocking_send(event).is_err() {
                    break;
                }
            }
        })?;
        Ok((screen, events))
    }

    /// Width and height.
    pub(super) fn size(&self) -> io::Result<(u16, u16)> {
        size()
    }

    /// Draws a frame: only lines that differ from the frame before are written, all at once. Where none does, the terminal is written to
    /// as well, so that one that is gone is noticed.
    pub(super) fn draw(&mut self, frame: impl FnOnce(&mut Cells)) -> io::Result<()> {
        let (width, height) = size()?;
        let mut cells = Cells::new(width, height);
        frame(&mut cells);
        let mut bytes = Vec::new();
        cells.draw(self.0.as_ref(), &mut bytes)?;
        queue!(bytes, Hide)?;
        self.0 = Some(cells);
        let mut terminal = io::stdout();
        terminal.write_all(&bytes)?;
        terminal.flush()
    }

    /// Forgets what is on the terminal, so that the next frame is drawn whole.
    pub(super) fn clear(&mut self) {
        self.0 = None;
    }

    /// Stops the process as Ctrl-Z does elsewhere, and takes the terminal again when it goes on.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        give_back();
        kill_process(getpid(), Signal::TSTP)?;
        take()?;
        self.clear();
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    IS_TAKEN.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, Hide).inspect_err(|_| give_back())
}

/// Makes the terminal what it was, once for each time that it was taken.
fn give_back() {
    if IS_TAKEN.swap(false, Ordering::SeqCst) {
        // Where the terminal is gone, nothing can be done.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}
