//! Pipes for splice: leased while bulk is in flight, kept in a small pool in between, never held by an idle connection, and
//! never more than descriptors are reserved for.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::pipe::PipeFlags;

use crate::net::descriptors;

/// What a pipe holds by default; a smaller one means that the kernel's limit for this user is reached (`pipe(7)`,
/// `pipe-user-pages-soft`), and is not worth keeping.
pub(crate) const BYTES: usize = 64 * 1024;

/// Idle pipes kept per worker; each costs two descriptors.
pub(crate) const KEPT_MAX: usize = 8;

/// A pipe. Its bytes are in the kernel, never in this process.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Dropped with the pipe wherever that happens: a relay that ends with bytes in a pipe drops the pipe as well.
    _counted: Counted,
}

/// One of the pipes of a worker, for as long as it lives.
#[derive(Debug)]
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn among(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl Pipe {
    fn new(counted: Counted) -> io::Result<Self> {
        let flags = PipeFlags::NONBLOCK | PipeFlags::CLOEXEC;
        let (read, write) = descriptors::keep(rustix::pipe::pipe_with(flags)?)?;
        if rustix::pipe::fcntl_getpipe_size(&write)? < BYTES {
            return Err(io::Error::other("pipe too small: pipe-user-pages-soft is reached"));
        }
        Ok(Self {
            read,
            write,
            _counted: counted,
        })
    }

    /// The end that bytes come out of.
    pub(crate) fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// The end that bytes go into.
    pub(crate) fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    /// Takes `filled` bytes, all that is in the pipe, out of it.
    ///
    /// # Errors
    /// The pipe could not be read.
    pub(crate) fn into_bytes(self, filled: usize) -> io::Result<Vec<u8>> {
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
///
/// Invariant: `idle.len() <= open`, and no pipe is made while `open >= most`.
#[derive(Debug)]
pub(crate) struct Pipes {
    idle: Vec<Pipe>,
    /// Pipes that exist, idle or leased.
    open: Rc<Cell<usize>>,
    most: usize,
}

impl Pipes {
    /// At most `most` pipes at once.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            idle: Vec::new(),
            open: Rc::default(),
            most,
        }
    }

    /// At most `most` pipes at once from now on; leased pipes above that are closed when they come back.
    pub(crate) fn set_most(&mut self, most: usize) {
        self.most = most;
        self.close_idle();
    }

    /// An empty pipe. `None` when all are leased or the system has no more: then bytes are copied.
    pub(crate) fn lease(&mut self) -> Option<Pipe> {
        self.idle.pop().or_else(|| {
            let has_room = self.open.get() < self.most;
            has_room.then(|| Pipe::new(Counted::among(&self.open)).ok())?
        })
    }

    /// Takes back an empty pipe.
    pub(crate) fn give_back(&mut self, pipe: Pipe) {
        if self.idle.len() < KEPT_MAX && self.open.get() <= self.most {
            self.idle.push(pipe);
        }
    }

    /// Closes the pipes that are not leased.
    pub(crate) fn close_idle(&mut self) {
        self.idle = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_came_back_is_leased_again() {
        let mut pipes = Pipes::new(1);
        let pipe = pipes.lease().expect("a pipe");
        let number = format!("{:?}", pipe.read_end());
        pipes.give_back(pipe);
        let again = pipes.lease().expect("a pipe");
        assert_eq!(format!("{:?}", again.read_end()), number);
    }

    #[test]
    fn pipes_never_exceed_their_limit_whatever_becomes_of_them() {
        let mut pipes = Pipes::new(3);
        let mut leased: Vec<Pipe> = (0..3).map_while(|_| pipes.lease()).collect();
        assert_eq!(leased.len(), 3);
        assert!(pipes.lease().is_none(), "all are leased");
        // One comes back, one goes with its relay, one has its bytes taken out.
        pipes.give_back(leased.remove(0));
        drop(leased.remove(0));
        rustix::io::write(leased[0].write_end(), b"bytes").expect("room");
        assert_eq!(leased.remove(0).into_bytes(5).expect("all"), b"bytes");
        assert_eq!((pipes.idle.len(), pipes.open.get()), (1, 1));
        leased.extend((0..3).map_while(|_| pipes.lease()));
        assert_eq!(leased.len(), 3, "each was counted back");
        assert!(pipes.lease().is_none());
        leased.drain(..).for_each(|pipe| pipes.give_back(pipe));
        pipes.close_idle();
        assert_eq!(pipes.open.get(), 0);
    }

    #[test]
    fn a_lower_limit_closes_pipes_as_they_come_back() {
        let mut pipes = Pipes::new(3);
        let mut leased: Vec<Pipe> = (0..3).map_while(|_| pipes.lease()).collect();
        pipes.set_most(1);
        pipes.give_back(leased.remove(0));
        pipes.give_back(leased.remove(0));
        assert_eq!((pipes.idle.len(), pipes.open.get()), (0, 1));
        pipes.give_back(leased.remove(0));
        assert_eq!((pipes.idle.len(), pipes.open.get()), (1, 1));
    }

    #[test]
    fn bytes_in_a_pipe_come_out_whole() {
        let pipe = Pipes::new(1).lease().expect("a pipe");
        let bytes: Vec<u8> = (0..BYTES).map(|i| i as u8).collect();
        assert_eq!(rustix::io::write(pipe.write_end(), &bytes).expect("room"), BYTES);
        assert_eq!(pipe.into_bytes(BYTES).expect("all of them"), bytes);
    }
}
