//! The key that joins the nodes of a demo: Enter.

use std::io::{self, BufRead};

use rustix::process::getpgrp;
use rustix::termios::{isatty, tcgetpgrp};
use tokio::sync::mpsc;

/// Lines that were entered from now on; none where standard input has ended, or where this process may not read the terminal.
pub(super) fn entered() -> mpsc::Receiver<()> {
    let (sender, entered) = mpsc::channel(1);
    // It ends with the process: nothing can wake it.
    std::thread::spawn(move || {
        let mut line = String::new();
        while may_read() && io::stdin().lock().read_line(&mut line).is_ok_and(|read| read > 0) {
            line.clear();
            if sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    entered
}

/// Whether a read would not stop this process, as it does in the background of a terminal.
fn may_read() -> bool {
    let stdin = io::stdin();
    !isatty(&stdin) || tcgetpgrp(&stdin).is_ok_and(|foreground| foreground == getpgrp())
}
