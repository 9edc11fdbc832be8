//! Pipes for splice: leased while bulk is in flight, kept in a small pool in between, never held by an idle connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::PipeFlags;

use crate::descriptors;

/// What a pipe holds by default; a smaller one means that the kernel's limit for this user is reached (`pipe(7)`,
/// `pipe-user-pages-soft`), and is not worth keeping.
pub const BYTES: usize = 64 * 1024;

/// Idle pipes kept per worker; each costs two descriptors.
const KEPT_MAX: usize = 8;

/// An empty or full pipe, always in the kernel's hands.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let flags = PipeFlags::NONBLOCK | PipeFlags::CLOEXEC;
        let (read, write) = descriptors::keep(rustix::pipe::pipe_with(flags)?)?;
        if rustix::pipe::fcntl_getpipe_size(&write)? < BYTES {
            return Err(io::Error::other("the kernel hands out only tiny pipes"));
        }
        Ok(Self { read, write })
    }

    /// The end that bytes come out of.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// The end that bytes go into.
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    /// Takes `filled` bytes, all that is in the pipe, out of it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn into_bytes(self, filled: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; filled];
        let mut read = 0;
        while read < filled {
            match rustix::io::read(&self.read, &mut bytes[read..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => read += n,
            }
        }
        Ok(bytes)
    }
}

/// The pipes of one worker.
#[derive(Debug, Default)]
pub struct Pipes {
    idle: Vec<Pipe>,
}

impl Pipes {
    /// An empty pipe, or none when the system has none to give: then bytes are copied.
    pub fn lease(&mut self) -> Option<Pipe> {
        self.idle.pop().or_else(|| Pipe::new().ok())
    }

    /// Takes back an empty pipe.
    pub fn give_back(&mut self, pipe: Pipe) {
        if self.idle.len() < KEPT_MAX {
            self.idle.push(pipe);
        }
    }

    /// Closes the pipes that nobody has leased.
    pub fn close_idle(&mut self) {
        self.idle = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_came_back_is_leased_again() {
        let mut pipes = Pipes::default();
        let pipe = pipes.lease().expect("a pipe");
        let number = format!("{:?}", pipe.read_end());
        pipes.give_back(pipe);
        let again = pipes.lease().expect("a pipe");
        assert_eq!(format!("{:?}", again.read_end()), number);
    }

    #[test]
    fn bytes_in_a_pipe_come_out_whole() {
        let pipe = Pipes::default().lease().expect("a pipe");
        let bytes: Vec<u8> = (0..BYTES).map(|i| i as u8).collect();
        assert_eq!(
            rustix::io::write(pipe.write_end(), &bytes).expect("room"),
            BYTES
        );
        assert_eq!(pipe.into_bytes(BYTES).expect("all of them"), bytes);
    }
}
