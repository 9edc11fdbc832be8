//! How importers see the disk. They decide which files to read; their caller reads them.

use std::io;
use std::path::{Path, PathBuf};

/// Reads files for an importer.
pub trait Files {
    /// The bytes of a file.
    ///
    /// # Errors
    /// As the system says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The files that a pattern with `*`, `?` and `[…]` matches, sorted. A relative one starts in `folder`.
    ///
    /// # Errors
    /// An invalid pattern, or a folder that cannot be read.
    fn matching(&self, folder: &Path, pattern: &str) -> io::Result<Vec<PathBuf>>;

    /// The files in a folder, sorted; `None` if `path` is no folder.
    ///
    /// # Errors
    /// A folder that cannot be read.
    fn folder(&self, path: &Path) -> io::Result<Option<Vec<PathBuf>>>;
}

/// Most bytes of all files together: enough for many thousands of servers, and it keeps a wrong path from filling the memory.
pub(super) const BYTES_MAX: usize = 16 << 20;
