//! Whether one direction copies or splices: decided from the sizes of what came, without I/O.
//!
//! A copy goes through the thread's buffer, a splice through a pipe in the kernel. Both take two system calls, but a pipe
//! costs two descriptors, and below some 32 KiB a copy is cheaper. So a direction splices only while it moves in bulk, and it
//! takes larger reads to start splicing than to keep it (hysteresis), or a stream of middle-sized reads would change the mode
//! at each of them:
//!
//! 1. A direction starts by copying, and counts reads of 32 KiB and more in a row. A smaller read, and a turn that finds the
//!    socket empty, set the count to zero. At the third such read it splices from the next one on.
//! 2. While it splices, it counts fills of the pipe below 8 KiB in a row. A larger fill sets the count to zero. At the second
//!    such fill it copies again.
//! 3. A direction that has moved nothing in bulk for more than a second copies again, so that a message that comes after
//!    a pause leases no pipe.
//!
//! For example, one PUBLISH of some 330 KiB, and then small messages:
//!
//! | read   | moved by | next                                                   |
//! | ------ | -------- | ------------------------------------------------------ |
//! | 64 KiB | copy     | copy, one large read                                   |
//! | 64 KiB | copy     | copy, two large reads                                  |
//! | 64 KiB | copy     | splice                                                 |
//! | 64 KiB | splice   | splice                                                 |
//! | 64 KiB | splice   | splice                                                 |
//! | 10 KiB | splice   | splice: too small to start it, large enough to keep it |
//! | 200 B  | splice   | splice, one small fill                                 |
//! | 200 B  | splice   | copy                                                   |
//! | 200 B  | copy     | copy                                                   |

use crate::base::clock::Seconds;

/// A read of this size counts as bulk; after [`BULK_READS`] of them in a row, splice is cheaper than a copy.
const BULK_READ_BYTES: usize = 32 * 1024;
const BULK_READS: u8 = 3;

/// A fill below this size is not bulk; after [`SMALL_FILLS`] of them in a row, splicing stops.
const SMALL_FILL_BYTES: usize = 8 * 1024;
const SMALL_FILLS: u8 = 2;

/// How long a direction goes on splicing after it last moved in bulk.
const BULK_PAUSE_MAX: Seconds = Seconds(1);

/// How one direction moves its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Through the thread's buffer; so many reads in a row were large.
    Copy { large: u8 },
    /// Through a pipe; so many fills in a row were small.
    Splice { small: u8 },
}

impl Default for Mode {
    fn default() -> Self {
        Self::Copy { large: 0 }
    }
}

impl Mode {
    /// Whether bytes go through a pipe, if one can be leased.
    pub(crate) fn is_splice(self) -> bool {
        matches!(self, Self::Splice { .. })
    }

    /// The mode after a read through the thread's buffer.
    pub(crate) fn after_read(self, bytes: usize, may_splice: impl FnOnce() -> bool) -> Self {
        match self {
            Self::Copy { large } if bytes >= BULK_READ_BYTES => {
                // If nothing may be spliced, the count goes on.
                let large = large.saturating_add(1);
                match large >= BULK_READS && may_splice() {
                    true => Self::Splice { small: 0 },
                    false => Self::Copy { large },
                }
            }
            Self::Copy { .. } => Self::Copy { large: 0 },
            // No pipe could be leased for this read.
            Self::Splice { .. } => self,
        }
    }

    /// The mode after a fill of a pipe.
    pub(crate) fn after_fill(self, bytes: usize) -> Self {
        match self {
            Self::Splice { .. } if bytes >= SMALL_FILL_BYTES => Self::Splice { small: 0 },
            Self::Splice { small } if small + 1 < SMALL_FILLS => Self::Splice { small: small + 1 },
            Self::Splice { .. } | Self::Copy { .. } => Self::default(),
        }
    }

    /// The mode once the sender's socket is empty: large reads count only within one burst.
    pub(crate) fn after_burst(self) -> Self {
        match self {
            Self::Copy { .. } => Self::default(),
            Self::Splice { .. } => self,
        }
    }

    /// The mode at `now`, if the direction last moved in bulk at `bulk_at`.
    pub(crate) fn at(self, now: Seconds, bulk_at: Seconds) -> Self {
        match now > bulk_at.after(BULK_PAUSE_MAX) {
            true => Self::default(),
            false => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: usize = BULK_READ_BYTES;
    const MIDDLE: usize = SMALL_FILL_BYTES;
    const SMALL: usize = SMALL_FILL_BYTES - 1;

    /// How each of these is moved, from the first on.
    fn moved(sizes: &[usize]) -> String {
        let mut mode = Mode::default();
        let step = |bytes: &usize| match mode.is_splice() {
            true => {
                mode = mode.after_fill(*bytes);
                's'
            }
            false => {
                mode = mode.after_read(*bytes, || true);
                'c'
            }
        };
        sizes.iter().map(step).collect()
    }

    #[test]
    fn three_large_reads_in_a_row_begin_the_splicing_and_two_small_fills_end_it() {
        assert_eq!(moved(&[LARGE, LARGE, LARGE, LARGE, SMALL, SMALL, SMALL]), "cccsssc");
        assert_eq!(moved(&[LARGE, LARGE, SMALL, LARGE, LARGE, LARGE, LARGE]), "ccccccs");
        assert_eq!(
            moved(&[LARGE, LARGE, LARGE, SMALL, MIDDLE, SMALL, SMALL, SMALL]),
            "cccssssc"
        );
    }

    #[test]
    fn what_is_neither_large_nor_small_leaves_the_mode_as_it_is() {
        assert_eq!(moved(&[MIDDLE; 6]), "cccccc");
        assert_eq!(moved(&[LARGE, LARGE, LARGE, MIDDLE, MIDDLE, MIDDLE]), "cccsss");
    }

    #[test]
    fn large_reads_of_two_bursts_do_not_add_up() {
        let mode = Mode::default().after_read(LARGE, || true).after_read(LARGE, || true);
        assert!(mode.after_read(LARGE, || true).is_splice());
        assert!(!mode.after_burst().after_read(LARGE, || true).is_splice());
    }

    #[test]
    fn what_may_not_be_spliced_is_copied_until_it_may() {
        let mut mode = Mode::default();
        for _ in 0..1_000 {
            mode = mode.after_read(LARGE, || false);
            assert!(!mode.is_splice());
        }
        assert!(mode.after_read(LARGE, || true).is_splice());
    }

    #[test]
    fn a_pause_ends_the_splicing() {
        let splice = Mode::Splice { small: 0 };
        assert!(splice.at(Seconds(8), Seconds(7)).is_splice());
        assert!(!splice.at(Seconds(9), Seconds(7)).is_splice());
        assert!(splice.after_burst().is_splice());
    }
}
