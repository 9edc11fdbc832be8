//! The terminal: taken when `remora top` begins, and given back however it ends, by a panic as well.

use std::io::{self, BufWriter, Stdout};
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use ratatui_core::buffer::Buffer;
use ratatui_core::layout::{Position, Rect, Size};
use ratatui_core::terminal::Terminal;
use ratatui_crossterm::CrosstermBackend;
use ratatui_crossterm::crossterm::cursor::{Hide, Show};
use ratatui_crossterm::crossterm::event::{self, Event};
use ratatui_crossterm::crossterm::execute;
use ratatui_crossterm::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use rustix::process::{Signal, getpid, kill_process};
use tokio::sync::mpsc;

/// Bytes of a frame that are written at once: more than most frames have.
const BYTES: usize = 64 * 1_024;

/// Keys that wait to be read.
const KEYS_MAX: usize = 64;

/// Whether the terminal is in the state that [`take`] brings about.
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The terminal, until it is dropped; with what it shows.
#[derive(Debug)]
pub(super) struct Screen(Terminal<CrosstermBackend<BufWriter<Stdout>>>);

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
        let output = BufWriter::with_capacity(BYTES, io::stdout());
        let terminal = Terminal::new(CrosstermBackend::new(output))?;
        take()?;
        // From here on, an error gives the terminal back.
        let mut screen = Self(terminal);
        // What a terminal without an alternate screen shows would stay where a frame is blank.
        screen.clear()?;
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
    pub(super) fn size(&self) -> io::Result<Size> {
        self.0.size()
    }

    /// Draws a frame into blank cells: only cells that differ from the frame before are written, all at once. Where none does, the
    /// terminal is written to as well, so that one that is gone is noticed.
    pub(super) fn draw(&mut self, frame: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        self.0.draw(|cells| frame(cells.buffer_mut()))?;
        Ok(())
    }

    /// Clears the terminal, so that the next frame is drawn whole.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        // `Terminal::clear` would ask the terminal where its cursor is, and the answer would go to the thread that reads keys.
        let size = self.size()?;
        self.0.resize(Rect::from((Position::ORIGIN, size)))
    }

    /// Stops the process as Ctrl-Z does elsewhere, and takes the terminal again when it goes on.
    pub(super) fn suspend(&mut self) -> io::Result<()> {
        give_back();
        kill_process(getpid(), Signal::TSTP)?;
        take()?;
        self.clear()
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
