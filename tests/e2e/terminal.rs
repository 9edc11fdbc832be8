//! A terminal with the program in it: what it shows, its keys, its size, and the state in which it is left.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::wait::{self, Watched};

/// What was written to a terminal.
struct Shown {
    bytes: Vec<u8>,
    parser: vt100::Parser,
    /// Nothing more is read.
    is_gone: bool,
}

/// The program in it, which ends with a test that failed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Where it has ended, there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A terminal of 80 columns and 24 lines.
pub(crate) struct Terminal {
    keys: File,
    /// The program's end, held open so that its state can be read when the program has ended.
    inner: OwnedFd,
    program: Running,
    /// The bytes so far, and what they show.
    shown: Arc<Watched<Shown>>,
    before: Termios,
}

impl Terminal {
    /// Runs `command` in it.
    pub(crate) fn run(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).expect("ours");
        unlockpt(&master).expect("ours");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let inner = open(&name, flags, Mode::empty()).expect("a terminal");
        let keys = File::from(master);
        tcsetwinsize(&keys, size(80, 24)).expect("a size");
        let before = tcgetattr(&inner).expect("a terminal");
        let stdio = || Stdio::from(inner.try_clone().expect("a descriptor"));
        let child = command
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .expect("the program");
        let shown = Arc::new(Watched::new(Shown {
            bytes: Vec::new(),
            parser: vt100::Parser::new(24, 80, 0),
            is_gone: false,
        }));
        let written = Arc::clone(&shown);
        let mut output = keys.try_clone().expect("a descriptor");
        // Ends with an error once no descriptor of the other side is left.
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let is_gone = written.change(|shown| {
                    shown.bytes.extend_from_slice(&bytes[..count]);
                    shown.parser.process(&bytes[..count]);
                    shown.is_gone
                });
                if is_gone {
                    break;
                }
            }
        });
        Self {
            keys,
            inner,
            program: Running(child),
            shown,
            before,
        }
    }

    pub(crate) fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).expect("a terminal");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.program.0), signal).expect("a process that runs");
    }

    /// Gives it another size, and tells the program as the kernel would if this were its controlling terminal.
    pub(crate) fn resize(&self, columns: u16, lines: u16) {
        self.shown
            .change(|shown| shown.parser.screen_mut().set_size(lines, columns));
        tcsetwinsize(&self.keys, size(columns, lines)).expect("a size");
        self.signal(Signal::WINCH);
    }

    /// Waits until it shows this text.
    #[track_caller]
    pub(crate) fn until(&self, text: &str) {
        self.shown
            .until(text, |shown| shown.parser.screen().contents().contains(text));
    }

    /// Waits for another screen than that of the shell, or for that of the shell.
    #[track_caller]
    pub(crate) fn until_alternate(&self, is_alternate: bool) {
        let what = format!("alternate screen: {is_alternate}");
        self.shown
            .until(&what, |shown| shown.parser.screen().alternate_screen() == is_alternate);
    }

    pub(crate) fn contents(&self) -> String {
        self.shown.lock().parser.screen().contents()
    }

    /// How often these bytes were written.
    pub(crate) fn times(&self, bytes: &[u8]) -> usize {
        let shown = self.shown.lock();
        shown.bytes.windows(bytes.len()).filter(|part| part == &bytes).count()
    }

    /// Closes the terminal, as when a connection of ssh is lost, and waits until the program has ended.
    #[track_caller]
    pub(crate) fn hang_up(mut self) -> ExitStatus {
        drop(self.inner);
        drop(self.keys);
        self.shown.change(|shown| shown.is_gone = true);
        let child = RefCell::new(&mut self.program.0);
        wait::until_some("the program's end", || child.borrow_mut().try_wait().expect("a child"))
    }

    /// Waits until the program has ended; the terminal must be as it was before. Returns the exit status and what is on the screen.
    #[track_caller]
    pub(crate) fn restored(mut self) -> (ExitStatus, String) {
        let child = RefCell::new(&mut self.program.0);
        let status = wait::until_some("the program's end", || child.borrow_mut().try_wait().expect("a child"));
        let after = tcgetattr(&self.inner).expect("a terminal");
        assert!(
            after
                .local_modes
                .contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
        );
        let modes = |state: &Termios| {
            (
                state.input_modes,
                state.output_modes,
                state.control_modes,
                state.local_modes,
            )
        };
        assert_eq!(modes(&after), modes(&self.before));
        // All that was written has arrived once this has.
        let end = "the end of what was written";
        File::from(self.inner).write_all(end.as_bytes()).expect("a terminal");
        self.shown
            .until(end, |shown| shown.parser.screen().contents().contains(end));
        let shown = self.shown.lock();
        let screen = shown.parser.screen();
        assert!(!screen.alternate_screen(), "the shell's screen is back");
        assert!(!screen.hide_cursor(), "the cursor is back");
        (status, screen.contents())
    }
}

fn size(columns: u16, lines: u16) -> Winsize {
    Winsize {
        ws_row: lines,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
